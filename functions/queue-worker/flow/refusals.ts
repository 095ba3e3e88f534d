// What the conversation makes of an action that the database refused: another slot, another animal, another way.
import { businessErrors } from '../../../types/errors.ts'
import { pursue } from './booking-dialogue.ts'
import type { FlowAction } from './conversation.ts'
import { phrases } from './phrases.ts'
import {
  type ActionStep,
  failed,
  finish,
  forget,
  goTo,
  handOver,
  keepAgenda,
  type Move,
  type Run,
  say,
} from './run.ts'
import { forgetSlot, needDays, offerAlternatives } from './when-to-book.ts'

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
        say(run, phrases.bookingGone)
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
    say(run, phrases.bookingGone)
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
      say(run, phrases.placeChanged)
      forgetSlot(run)
      return needDays(run, step)
    default:
      return failed(run, step, 'agendamento_recusado')
  }
}

function recoverWaiting(run: Run, step: ActionStep, error: string): Move {
  switch (error) {
    case 'already_waiting':
      say(run, phrases.alreadyWaiting)
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
