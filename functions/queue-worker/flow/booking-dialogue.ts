// The actions that talk: which service, which animal, which day and hour; the waiting list; a booking to cancel, move or
// confirm. A step asks for whatever it still misses, in that order, so that a flow may leave any of it out.
import { decide, offerBookings } from './coming-bookings.ts'
import type { Choice, NeedAnswer } from './conversation.ts'
import { localTime, spokenDate, spokenHour } from './local-time.ts'
import { MORE, NONE, OTHER } from './pages.ts'
import { moved, phrases } from './phrases.ts'
import {
  act,
  type ActionStep,
  finish,
  forget,
  goTo,
  handOver,
  keepAgenda,
  type Move,
  need,
  type Run,
  say,
} from './run.ts'
import { askPetName, keepService, needServices, offerPets, offerServices } from './what-to-book.ts'
import { forgetSlot, needDays, needHours, offerDays, offerHours, withoutSlot } from './when-to-book.ts'

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
export function pursue(run: Run, step: ActionStep): Move {
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

export function learn(run: Run, step: ActionStep, answer: Exclude<NeedAnswer, { kind: 'facts' }>): Move {
  switch (answer.kind) {
    case 'services': {
      const move = offerServices(run, step, answer.services)
      return move === 'chosen' ? pursue(run, step) : move
    }
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
        say(run, phrases.goodbye)
        return finish(run)
      }
      join(run)
      say(run, phrases.joined)
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

// Doing it ------------------------------------------------------------------------------------------------------------

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
  say(run, moved(spokenDate(local.date), spokenHour(local)))
  keepAgenda(run, { agendado: true })
  forget(run, 'agendamento_id')
  return goTo(run, step.proxima)
}
