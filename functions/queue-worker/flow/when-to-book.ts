// Which day and hour, and what to do when there is none.
import { z } from 'zod'
import type { Choice, KeptSlot, Slot } from './conversation.ts'
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
import { MORE, NONE, OTHER, pageOf, PER_PAGE } from './pages.ts'
import { free, phrases, timesOf } from './phrases.ts'
import { type ActionStep, ask, forget, handOver, keepAgenda, type Move, need, type Run, say } from './run.ts'

function horizon(step: ActionStep): number {
  return step.acao.tipo === 'escolher_horario' ? step.acao.dias ?? 14 : 14
}

export function needDays(run: Run, step: ActionStep, page = 0): Move {
  forget(run, 'dia', 'dia_desde', 'dia_unico', 'vagas')
  keepAgenda(run, { pagina: page })
  const { now } = run.context
  return needSlots(run, 'dia', now, addMinutes(now, horizon(step) * 24 * 60))
}

/** From the day's first free hour on: a local day has up to 25 hours, and what is of the next one is left out later. */
export function needHours(run: Run, step: ActionStep): Move {
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

export function offerDays(run: Run, step: ActionStep, slots: readonly Slot[]): Move {
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
      descricao: free(new Set(ofDay.map(({ start_time }) => start_time)).size),
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

export function offerHours(run: Run, step: ActionStep, slots: readonly Slot[]): Move {
  const { agenda } = run.state
  const ofDay = new Map<string, KeptSlot>()
  for (const slot of slots) {
    const local = localTime(slot.start_time, slot.timezone)
    const start = new Date(slot.start_time).toISOString()
    if (local.date === agenda.dia && !ofDay.has(start)) ofDay.set(start, keptSlot(slot))
  }
  const kept = [...ofDay.values()].sort((one, other) => one.horario < other.horario ? -1 : 1)
  if (kept.length === 0) {
    say(run, phrases.dayIsFull)
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
    timesOf(spokenDate(agenda.dia ?? '')),
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

export function forgetSlot(run: Run): void {
  forget(run, 'horario', 'fuso', 'profissional_id', 'profissional', 'local_id', 'agendado')
}

export function withoutSlot(run: Run, step: ActionStep): Move {
  const { agenda } = run.state
  const chosenNone = run.state.pergunta !== null
  if (step.acao.tipo === 'remarcar') {
    if (agenda.profissional_id != null || agenda.local_id != null) {
      forget(run, 'profissional_id', 'profissional', 'local_id')
      return needDays(run, step)
    }
    say(run, phrases.noOtherSlots)
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

// A slot that went ----------------------------------------------------------------------------------------------------

const alternativesSchema = z.object({
  alternatives: z.array(z.object({
    start_time: z.string(),
    professional_id: z.string().nullish(),
    location_id: z.string().nullish(),
  })),
})

/** What the database found nearest to a slot that is taken. */
export function offerAlternatives(run: Run, step: ActionStep, detail: Record<string, unknown>): Move {
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
    say(run, phrases.slotTakenNoOther)
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
