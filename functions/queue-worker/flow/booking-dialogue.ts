// The actions that talk: which service, which animal, which day and hour; the waiting list; a booking to cancel, move or
// confirm. A step asks for whatever it still misses, in that order, so that a flow may leave any of it out.
import { z } from 'zod'
import { businessErrors } from '../../../types/errors.ts'
import type {
  Choice,
  ComingBooking,
  FlowAction,
  KeptSlot,
  NeedAnswer,
  Pet,
  Service,
  Slot,
} from './conversation.ts'
import {
  addDays,
  addMinutes,
  dayLabel,
  localTime,
  slotLabel,
  spokenDate,
  spokenHour,
  wordsForDay,
  wordsForHour,
} from './local-time.ts'
import * as say from './phrases.ts'
import { phrases } from './phrases.ts'
import {
  act,
  type ActionStep,
  ask,
  failed,
  finish,
  forget,
  goTo,
  handOver,
  keepAgenda,
  type Move,
  need,
  type Run,
  say as sayTo,
} from './run.ts'

/** Rows of a list that are not navigation. */
const PER_PAGE = 8
const CONTACTS_REASON = 'Cancelado pelo cliente na conversa'

/** What is navigation among the choices; no id and no date begins like that. */
const MORE = '+mais'
const OTHER = '+outro'
const NONE = '+nenhum'

export function enterDialogue(run: Run, step: ActionStep): Move {
  forget(run, 'pagina', 'dia', 'dia_desde', 'dia_unico', 'vagas', 'agendamento_id')
  const { agenda } = run.state
  switch (step.acao.tipo) {
    case 'escolher_servico':
      forget(run, 'servico_id', 'servico', 'requer_pet')
      forgetSlot(run)
      break
    case 'escolher_pet':
      forget(run, 'pet_id', 'pet')
      break
    case 'escolher_horario':
      forgetSlot(run)
      break
    case 'agendar':
      if (agenda.agendado === true) forgetSlot(run)
      break
    case 'remarcar':
      forgetSlot(run)
      break
  }
  return pursue(run, step)
}

/** Asks for what the action misses; does it when nothing is. */
function pursue(run: Run, step: ActionStep): Move {
  const { agenda } = run.state
  const { tipo } = step.acao
  switch (tipo) {
    case 'escolher_servico':
      return agenda.servico_id === undefined ? needServices(run, step) : goTo(run, step.proxima)
    case 'escolher_pet':
      return agenda.pet === undefined ? need(run, 'pet', { kind: 'pets' }) : goTo(run, step.proxima)
    case 'cancelar_agendamento':
    case 'confirmar_agendamento':
      return need(run, 'agendamento', { kind: 'bookings' })
    case 'remarcar':
      if (agenda.agendamento_id === undefined) return need(run, 'agendamento', { kind: 'bookings' })
      return agenda.horario === undefined ? needDays(run, step) : move(run, step)
    case 'escolher_horario':
    case 'agendar':
    case 'entrar_lista_espera':
      if (agenda.servico_id === undefined) return needServices(run, step)
      if (agenda.requer_pet === true && agenda.pet === undefined) return need(run, 'pet', { kind: 'pets' })
      if (tipo === 'entrar_lista_espera') {
        join(run)
        return goTo(run, step.proxima)
      }
      if (agenda.horario === undefined) return needDays(run, step)
      return tipo === 'agendar' ? book(run, step) : goTo(run, step.proxima)
    default:
      return goTo(run, step.proxima)
  }
}

// What was needed comes ---------------------------------------------------------------------------------------------------

export function learn(run: Run, step: ActionStep, answer: NeedAnswer): Move {
  switch (answer.kind) {
    case 'services':
      return offerServices(run, step, answer.services)
    case 'pets':
      return offerPets(run, step, answer.pets)
    case 'bookings':
      return offerBookings(run, step, answer.bookings)
    case 'slots':
      return run.state.subetapa === 'hora'
        ? offerHours(run, step, answer.slots)
        : offerDays(run, step, answer.slots)
    default:
      return answer satisfies never
  }
}

// What the customer chose -------------------------------------------------------------------------------------------------

export function choose(run: Run, step: ActionStep, choice: Choice): Move {
  const { agenda } = run.state
  switch (run.state.subetapa) {
    case 'servico':
      if (choice.valor === MORE) return needServices(run, step, (agenda.pagina ?? 0) + 1)
      keepService(run, choice.valor, choice.rotulo)
      return pursue(run, step)

    case 'pet':
      if (choice.valor === MORE) {
        keepAgenda(run, { pagina: (agenda.pagina ?? 0) + 1 })
        return need(run, 'pet', { kind: 'pets' })
      }
      if (choice.valor === OTHER) return askPetName(run)
      keepAgenda(run, { pet_id: choice.valor, pet: choice.rotulo })
      forget(run, 'pagina')
      return pursue(run, step)

    case 'dia': {
      if (choice.valor === MORE) return needDays(run, step, (agenda.pagina ?? 0) + 1)
      if (choice.valor === NONE) return withoutSlot(run, step)
      const [dia = '', dia_desde = ''] = choice.valor.split('|')
      keepAgenda(run, { dia, dia_desde, pagina: 0 })
      return needHours(run, step)
    }

    case 'hora': {
      if (choice.valor === MORE) {
        keepAgenda(run, { pagina: (agenda.pagina ?? 0) + 1 })
        return needHours(run, step)
      }
      if (choice.valor === NONE) return withoutSlot(run, step)
      const slot = agenda.vagas?.find(({ horario }) => horario === choice.valor)
      if (choice.valor === OTHER || slot === undefined) return needDays(run, step)
      keepAgenda(run, slot)
      forget(run, 'pagina', 'dia', 'dia_desde', 'dia_unico', 'vagas')
      return pursue(run, step)
    }

    case 'sem_horario':
      if (choice.valor === OTHER) return handOver(run, 'sem_horario', phrases.handOver)
      if (choice.valor === NONE) {
        sayTo(run, phrases.goodbye)
        return finish(run)
      }
      join(run)
      sayTo(run, phrases.joined)
      return finish(run)

    case 'agendamento':
      if (choice.valor === MORE) keepAgenda(run, { pagina: (agenda.pagina ?? 0) + 1 })
      else keepAgenda(run, { agendamento_id: choice.valor })
      return need(run, 'agendamento', { kind: 'bookings' })

    case 'certeza':
      return decide(run, step, choice.valor === 'sim')

    case 'aguardando':
    case 'pet_nome':
    case null:
      return pursue(run, step)
    default:
      return run.state.subetapa satisfies never
  }
}

/** The animal's name: null when it is none. */
export function namePet(run: Run, step: ActionStep, text: string): Move | 'invalid' {
  const name = text.replace(/\s+/g, ' ').trim()
  if (!/\p{L}/u.test(name) || [...name].length > 80) return 'invalid'
  act(run, { tipo: 'criar_pet', nome: name })
  keepAgenda(run, { pet_id: null, pet: name })
  forget(run, 'pagina')
  return pursue(run, step)
}

// The service -------------------------------------------------------------------------------------------------------------

function needServices(run: Run, step: ActionStep, page = 0): Move {
  keepAgenda(run, { pagina: page })
  const category = step.acao.tipo === 'escolher_servico' ? step.acao.categoria ?? null : null
  return need(run, 'servico', { kind: 'services', category })
}

function offerServices(run: Run, step: ActionStep, services: readonly Service[]): Move {
  const [first] = services
  if (first === undefined) return failed(run, step, 'sem_servico', `${phrases.noService} ${phrases.handOver}`)
  if (services.length === 1) {
    keepService(run, serviceValue(first), first.name)
    return pursue(run, step)
  }
  const choices = services.map((service): Choice => {
    const price = service.price_cents === null || service.price_cents === 0
      ? []
      : [reais(service.price_cents)]
    const descricao = [...price, `${service.duration_minutes} min`].join(' · ')
    return { valor: serviceValue(service), rotulo: service.name, descricao }
  })
  const text = step.acao.tipo === 'escolher_servico' ? step.pergunta : undefined
  ask(run, text ?? phrases.whichService, paged(run, choices), phrases.services)
  return null
}

/** The id, and whether an animal has to be named. */
function serviceValue({ id, requires_pet }: Service): string {
  return requires_pet ? `${id}|pet` : id
}

function keepService(run: Run, value: string, name: string): void {
  const [servico_id = '', pet] = value.split('|')
  forgetSlot(run)
  forget(run, 'pagina')
  keepAgenda(run, { servico_id, servico: name, requer_pet: pet !== undefined })
}

function reais(cents: number): string {
  const whole = String(Math.floor(cents / 100)).replace(/\B(?=(?:[0-9]{3})+$)/g, '.')
  return `R$ ${whole},${String(cents % 100).padStart(2, '0')}`
}

// The animal --------------------------------------------------------------------------------------------------------------

function offerPets(run: Run, step: ActionStep, pets: readonly Pet[]): Move {
  if (pets.length === 0) return askPetName(run)
  const choices = pets.map(({ id, name }): Choice => ({ valor: id, rotulo: name }))
  const other = { valor: OTHER, rotulo: phrases.otherPet, sinonimos: ['outro', 'novo pet', 'nenhum'] }
  const text = step.acao.tipo === 'escolher_pet' ? step.pergunta : undefined
  ask(run, text ?? phrases.whichPet, [...paged(run, choices), other], phrases.pets)
  return null
}

function askPetName(run: Run): Move {
  run.state.subetapa = 'pet_nome'
  ask(run, phrases.petName)
  return null
}

// The day and the hour ------------------------------------------------------------------------------------------------------

function horizon(step: ActionStep): number {
  return step.acao.tipo === 'escolher_horario' ? step.acao.dias ?? 14 : 14
}

function needDays(run: Run, step: ActionStep, page = 0): Move {
  forget(run, 'dia', 'dia_desde', 'dia_unico', 'vagas')
  keepAgenda(run, { pagina: page })
  const { now } = run.context
  return needSlots(run, 'dia', now, addMinutes(now, horizon(step) * 24 * 60))
}

/** From the day's first free hour on: a local day has up to 25 hours, and what is of the next one is left out later. */
function needHours(run: Run, step: ActionStep): Move {
  const { dia_desde } = run.state.agenda
  if (dia_desde === undefined) return needDays(run, step)
  const now = new Date(run.context.now).toISOString()
  const from = dia_desde > now ? dia_desde : now
  return needSlots(run, 'hora', from, addMinutes(from, 25 * 60))
}

function needSlots(run: Run, substep: 'dia' | 'hora', from_time: string, to_time: string): Move {
  const { servico_id = '', agendamento_id, profissional_id, local_id } = run.state.agenda
  // Who moves a booking stays with the professional, as long as there is a choice.
  const same = agendamento_id !== undefined
  return need(run, substep, {
    kind: 'slots',
    service_id: servico_id,
    professional_id: same ? profissional_id ?? null : null,
    location_id: same ? local_id ?? null : null,
    from_time,
    to_time,
  })
}

function offerDays(run: Run, step: ActionStep, slots: readonly Slot[]): Move {
  const { agenda } = run.state
  const days = new Map<string, Slot[]>()
  for (const slot of slots) {
    const { date } = localTime(slot.start_time, slot.timezone)
    days.set(date, [...days.get(date) ?? [], slot])
  }
  const dates = [...days.keys()].sort()
  const [first] = dates
  if (first === undefined) return withoutSlot(run, step)
  if (dates.length === 1) {
    keepAgenda(run, { dia: first, dia_desde: earliest(days.get(first) ?? []), dia_unico: true, pagina: 0 })
    run.state.subetapa = 'hora'
    return offerHours(run, step, slots)
  }

  const today = localTime(run.context.now, slots[0]?.timezone ?? run.context.organization.timezone).date
  const pages = pageOf(dates, agenda.pagina ?? 0)
  const choices = pages.items.map((date): Choice => {
    const ofDay = days.get(date) ?? []
    const firstOfItsWeekday = !pages.items.includes(addDays(date, -7))
    return {
      valor: `${date}|${earliest(ofDay)}`,
      rotulo: dayLabel(date, today),
      descricao: say.free(new Set(ofDay.map(({ start_time }) => start_time)).size),
      sinonimos: wordsForDay(date, today, firstOfItsWeekday),
    }
  })
  const more = pages.more
    ? [{ valor: MORE, rotulo: phrases.moreDays, sinonimos: ['mais', 'outros dias'] }]
    : []
  const none = step.acao.tipo === 'remarcar'
    ? []
    : [{ valor: NONE, rotulo: phrases.noneOfTheseDays, sinonimos: ['nenhum', 'nenhum dia'] }]
  const text = step.acao.tipo === 'escolher_servico' ? undefined : step.pergunta
  ask(run, text ?? phrases.whichDay, [...choices, ...more, ...none], phrases.days)
  return null
}

function earliest(slots: readonly Slot[]): string {
  return slots.map(({ start_time }) => new Date(start_time).toISOString()).sort()[0] ?? ''
}

function offerHours(run: Run, step: ActionStep, slots: readonly Slot[]): Move {
  const { agenda } = run.state
  const ofDay = new Map<string, KeptSlot>()
  for (const slot of slots) {
    const local = localTime(slot.start_time, slot.timezone)
    const start = new Date(slot.start_time).toISOString()
    if (local.date === agenda.dia && !ofDay.has(start)) ofDay.set(start, keptSlot(slot))
  }
  const kept = [...ofDay.values()].sort((one, other) => one.horario < other.horario ? -1 : 1)
  if (kept.length === 0) {
    sayTo(run, phrases.dayIsFull)
    return needDays(run, step)
  }
  const size = step.acao.tipo === 'escolher_horario' ? step.acao.quantos ?? PER_PAGE : PER_PAGE
  const pages = pageOf(kept, agenda.pagina ?? 0, size)
  const more = pages.more
    ? [{ valor: MORE, rotulo: phrases.moreTimes, sinonimos: ['mais', 'mais horas'] }]
    : []
  keepAgenda(run, { vagas: pages.items })
  ask(
    run,
    say.timesOf(spokenDate(agenda.dia ?? '')),
    [...pages.items.map(hourChoice), ...more, agenda.dia_unico === true ? noneOfTheseTimes() : otherDay()],
    phrases.times,
  )
  return null
}

function keptSlot(slot: Slot): KeptSlot {
  return {
    horario: new Date(slot.start_time).toISOString(),
    profissional_id: slot.professional_id,
    profissional: slot.professional_name,
    local_id: slot.location_id,
    fuso: slot.timezone,
  }
}

function hourChoice({ horario, fuso, profissional }: KeptSlot): Choice {
  const local = localTime(horario, fuso)
  return {
    valor: horario,
    rotulo: spokenHour(local),
    ...(profissional === null ? {} : { descricao: profissional }),
    sinonimos: wordsForHour(local),
  }
}

function otherDay(): Choice {
  return { valor: OTHER, rotulo: phrases.otherDay, sinonimos: ['outra data', 'voltar', 'nenhum'] }
}

function noneOfTheseTimes(): Choice {
  return { valor: NONE, rotulo: phrases.noneOfTheseTimes, sinonimos: ['nenhum', 'outro dia', 'outra data'] }
}

function forgetSlot(run: Run): void {
  forget(run, 'horario', 'fuso', 'profissional_id', 'profissional', 'local_id', 'agendado')
}

function withoutSlot(run: Run, step: ActionStep): Move {
  const { agenda } = run.state
  const chosenNone = run.state.pergunta !== null
  if (step.acao.tipo === 'remarcar') {
    if (agenda.profissional_id != null || agenda.local_id != null) {
      forget(run, 'profissional_id', 'profissional', 'local_id')
      return needDays(run, step)
    }
    sayTo(run, phrases.noOtherSlots)
    return step.em_erro === undefined ? handOver(run, 'sem_horario', phrases.handOver) : { to: step.em_erro }
  }
  if (step.proxima_sem_horario !== undefined) return { to: step.proxima_sem_horario }
  run.state.subetapa = 'sem_horario'
  ask(run, chosenNone ? phrases.joinInstead : phrases.noSlots, [
    { valor: 'sim', rotulo: phrases.joinWaitingList, sinonimos: ['sim', 'lista de espera', 'lista'] },
    { valor: OTHER, rotulo: phrases.talkToSomebody },
    { valor: NONE, rotulo: phrases.notNow, sinonimos: ['nao', 'nao obrigado', 'nao obrigada'] },
  ])
  return null
}

// Doing it ------------------------------------------------------------------------------------------------------------------

function book(run: Run, step: ActionStep): Move {
  const { agenda } = run.state
  act(run, {
    tipo: 'agendar',
    servico_id: agenda.servico_id ?? '',
    horario: agenda.horario ?? '',
    profissional_id: agenda.profissional_id ?? null,
    local_id: agenda.local_id ?? null,
    pet_id: agenda.pet_id ?? null,
    pet_nome: agenda.pet ?? null,
  })
  keepAgenda(run, { agendado: true })
  return goTo(run, step.proxima)
}

function join(run: Run): void {
  const { agenda } = run.state
  act(run, {
    tipo: 'entrar_lista_espera',
    servico_id: agenda.servico_id ?? '',
    profissional_id: null,
    local_id: null,
    pet_id: agenda.pet_id ?? null,
    pet_nome: agenda.pet ?? null,
  })
}

function move(run: Run, step: ActionStep): Move {
  const { agenda } = run.state
  const { agendamento_id = '', horario = '' } = agenda
  act(run, {
    tipo: 'remarcar',
    agendamento_id,
    horario,
    profissional_id: agenda.profissional_id ?? null,
    local_id: agenda.local_id ?? null,
  })
  const local = localTime(horario, agenda.fuso ?? run.context.organization.timezone)
  sayTo(run, say.moved(spokenDate(local.date), spokenHour(local)))
  keepAgenda(run, { agendado: true })
  forget(run, 'agendamento_id')
  return goTo(run, step.proxima)
}

// A booking that there is -----------------------------------------------------------------------------------------------------

function offerBookings(run: Run, step: ActionStep, bookings: readonly ComingBooking[]): Move {
  const { tipo } = step.acao
  const open = bookings.filter(({ status }) => tipo !== 'confirmar_agendamento' || status === 'scheduled')
  const wanted = run.state.agenda.agendamento_id
  const [first] = open
  if (first === undefined) {
    sayTo(
      run,
      tipo === 'confirmar_agendamento' && bookings.length > 0
        ? phrases.noBookingToConfirm
        : phrases.noBookings,
    )
    return goTo(run, step.em_erro ?? step.proxima)
  }
  const chosen = open.length === 1 && wanted === undefined ? first : open.find(({ id }) => id === wanted)
  if (chosen !== undefined) return considerBooking(run, step, chosen)

  if (wanted !== undefined) {
    forget(run, 'agendamento_id', 'pagina')
    sayTo(run, phrases.bookingGone)
  }
  const choices = open.map((booking): Choice => {
    const local = localTime(booking.start_time, booking.timezone)
    return {
      valor: booking.id,
      rotulo: slotLabel(local),
      descricao: [booking.service_name, booking.pet_name].filter((part) => part !== null).join(' · '),
      sinonimos: [
        booking.service_name,
        ...wordsForDay(local.date, localTime(run.context.now, booking.timezone).date, true),
      ],
    }
  })
  const question = tipo === 'remarcar'
    ? phrases.whichBookingToMove
    : tipo === 'confirmar_agendamento'
    ? phrases.whichBookingToConfirm
    : phrases.whichBookingToCancel
  ask(run, tipo === 'remarcar' ? question : step.pergunta ?? question, paged(run, choices), phrases.bookings)
  return null
}

function considerBooking(run: Run, step: ActionStep, booking: ComingBooking): Move {
  keepAgenda(run, {
    agendamento_id: booking.id,
    servico_id: booking.service_id,
    servico: booking.service_name,
    profissional_id: booking.professional_id,
    profissional: booking.professional_name,
    local_id: booking.location_id,
    fuso: booking.timezone,
  })
  forget(run, 'pagina')
  if (step.acao.tipo === 'remarcar') return pursue(run, step)

  keepAgenda(run, { horario: booking.start_time, agendado: true })
  const local = localTime(booking.start_time, booking.timezone)
  const facts = [booking.service_name, booking.pet_name, booking.professional_name].filter((fact) =>
    fact !== null
  )
  const described = `*${facts.join(' · ')}*\n${spokenDate(local.date)}, às ${spokenHour(local)}`
  run.state.subetapa = 'certeza'
  const confirms = step.acao.tipo === 'confirmar_agendamento'
  ask(run, confirms ? say.sureToConfirm(described) : say.sureToCancel(described), [
    confirms
      ? { valor: 'sim', rotulo: phrases.yesConfirm, sinonimos: ['confirmo', 'confirmar', 'confirmado'] }
      : { valor: 'sim', rotulo: phrases.yesCancel, sinonimos: ['cancelar', 'cancela'] },
    confirms
      ? { valor: 'nao', rotulo: phrases.notNow, sinonimos: ['nao'] }
      : { valor: 'nao', rotulo: phrases.noKeep, sinonimos: ['nao', 'manter', 'nao cancelar'] },
  ])
  return null
}

function decide(run: Run, step: ActionStep, yes: boolean): Move {
  const { agendamento_id = '' } = run.state.agenda
  const confirms = step.acao.tipo === 'confirmar_agendamento'
  if (!yes) sayTo(run, confirms ? phrases.notConfirmed : phrases.kept)
  else {
    act(
      run,
      confirms
        ? { tipo: 'confirmar_agendamento', agendamento_id }
        : { tipo: 'cancelar_agendamento', agendamento_id, motivo: CONTACTS_REASON },
    )
    sayTo(run, confirms ? phrases.confirmed : phrases.cancelled)
  }
  forget(run, 'agendamento_id')
  return goTo(run, step.proxima)
}

// Refusals ----------------------------------------------------------------------------------------------------------------

const alternativesSchema = z.object({
  alternatives: z.array(z.object({
    start_time: z.string(),
    professional_id: z.string().nullish(),
    location_id: z.string().nullish(),
  })),
})

/** The database refused an action of this step: a slot that went, a booking that is over. */
export function recover(
  run: Run,
  step: ActionStep,
  action: FlowAction,
  error: string,
  detail: Record<string, unknown>,
): Move {
  const name = Object.entries(businessErrors).find(([code]) => code === error)?.[1] ?? error
  switch (action.tipo) {
    case 'agendar':
      return recoverBooking(run, step, name, detail)
    case 'remarcar':
      return recoverMove(run, step, name, detail)
    case 'entrar_lista_espera':
      return recoverWaiting(run, step, name)
    case 'cancelar_agendamento':
    case 'confirmar_agendamento':
      if (name === 'booking_not_found' || name === 'invalid_booking_transition') {
        sayTo(run, phrases.bookingGone)
      }
      return failed(run, step, 'agendamento_indisponivel')
    case 'criar_pet':
      return failed(run, step, 'pet_recusado')
    // What the business notes for itself is no reason to let a customer stand there.
    case 'criar_lead':
    case 'atualizar_lead':
    case 'etiquetar':
      return goTo(run, step.em_erro ?? step.proxima)
    case 'aguardar':
    case 'transferir':
    case 'encerrar':
      return handOver(run, 'acao_recusada', phrases.handOverAfterError)
    default:
      return action satisfies never
  }
}

function recoverBooking(run: Run, step: ActionStep, error: string, detail: Record<string, unknown>): Move {
  switch (error) {
    case 'pet_required':
    case 'pet_not_found':
      return nameAnotherPet(run, step)
    case 'service_not_found':
      forget(run, 'servico_id', 'servico', 'requer_pet')
      forgetSlot(run)
      return pursue(run, step)
    default:
      return recoverSlot(run, step, error, detail)
  }
}

function recoverMove(run: Run, step: ActionStep, error: string, detail: Record<string, unknown>): Move {
  if (error === 'booking_not_found' || error === 'invalid_booking_transition') {
    sayTo(run, phrases.bookingGone)
    return failed(run, step, 'agendamento_indisponivel')
  }
  return recoverSlot(run, step, error, detail)
}

function recoverSlot(run: Run, step: ActionStep, error: string, detail: Record<string, unknown>): Move {
  switch (error) {
    case 'slot_unavailable':
    case 'hold_expired':
      return offerAlternatives(run, step, detail)
    case 'professional_not_available':
    case 'location_not_found':
    case 'invalid_range':
      sayTo(run, phrases.placeChanged)
      forgetSlot(run)
      return needDays(run, step)
    default:
      return failed(run, step, 'agendamento_recusado')
  }
}

function recoverWaiting(run: Run, step: ActionStep, error: string): Move {
  switch (error) {
    case 'already_waiting':
      sayTo(run, phrases.alreadyWaiting)
      return step.acao.tipo === 'entrar_lista_espera' ? goTo(run, step.proxima) : finish(run)
    case 'pet_required':
    case 'pet_not_found':
      return nameAnotherPet(run, step)
    default:
      return failed(run, step, 'lista_de_espera_recusada')
  }
}

function nameAnotherPet(run: Run, step: ActionStep): Move {
  forget(run, 'pet_id', 'pet')
  keepAgenda(run, { requer_pet: true })
  return pursue(run, step)
}

function offerAlternatives(run: Run, step: ActionStep, detail: Record<string, unknown>): Move {
  const { agenda } = run.state
  const { fuso = run.context.organization.timezone, profissional_id, profissional } = agenda
  const parsed = alternativesSchema.safeParse(detail)
  const slots = new Map<string, KeptSlot>()
  for (
    const { start_time, professional_id = null, location_id = null }
      of parsed.data?.alternatives.slice(0, 5) ?? []
  ) {
    if (Number.isNaN(Date.parse(start_time))) continue
    const horario = new Date(start_time).toISOString()
    const sameProfessional = professional_id !== null && professional_id === profissional_id
    if (slots.has(horario)) continue
    slots.set(horario, {
      horario,
      profissional_id: professional_id,
      profissional: sameProfessional ? profissional ?? null : null,
      local_id: location_id,
      fuso,
    })
  }
  forgetSlot(run)
  if (slots.size === 0) {
    sayTo(run, phrases.slotTakenNoOther)
    return needDays(run, step)
  }
  const vagas = [...slots.values()].sort((one, other) => one.horario < other.horario ? -1 : 1)
  const sameDay = new Set(vagas.map(({ horario }) => localTime(horario, fuso).date)).size === 1
  keepAgenda(run, { vagas })
  run.state.subetapa = 'hora'
  const choices = vagas.map((slot): Choice => {
    const local = localTime(slot.horario, fuso)
    const words = sameDay ? wordsForHour(local) : []
    return { ...hourChoice(slot), rotulo: slotLabel(local), sinonimos: [spokenHour(local), ...words] }
  })
  ask(run, phrases.slotTaken, [...choices, otherDay()], phrases.times)
  return null
}

// Pages -------------------------------------------------------------------------------------------------------------------

function pageOf<T>(items: readonly T[], page: number, size = PER_PAGE): { items: T[]; more: boolean } {
  const from = page * size < items.length ? page * size : 0
  return { items: items.slice(from, from + size), more: from + size < items.length }
}

/** All of them if they fit a list, else a page and how to get to the next one. */
function paged(run: Run, choices: readonly Choice[]): Choice[] {
  if (choices.length <= PER_PAGE + 1) return [...choices]
  const { items, more } = pageOf(choices, run.state.agenda.pagina ?? 0)
  const rest = more ? phrases.moreOptions : phrases.firstOptions
  return [...items, { valor: MORE, rotulo: rest, sinonimos: ['mais', 'outros', 'outras'] }]
}
