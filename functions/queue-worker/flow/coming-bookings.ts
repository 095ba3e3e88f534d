// A booking that there is, to be cancelled, moved or confirmed: which one, and whether the customer is sure.
import type { Choice, ComingBooking } from './conversation.ts'
import { localTime, slotLabel, spokenDate, spokenHour, wordsForDay } from './local-time.ts'
import { paged } from './pages.ts'
import { phrases, sureToCancel, sureToConfirm } from './phrases.ts'
import { act, type ActionStep, ask, forget, goTo, keepAgenda, type Move, type Run, say } from './run.ts'
import { needDays } from './when-to-book.ts'

const CANCELLATION_REASON = 'Cancelado pelo cliente na conversa'

export function offerBookings(run: Run, step: ActionStep, bookings: readonly ComingBooking[]): Move {
  const { tipo } = step.acao
  const open = bookings.filter(({ status }) => tipo !== 'confirmar_agendamento' || status === 'scheduled')
  const wanted = run.state.agenda.agendamento_id
  const [first] = open
  if (first === undefined) {
    say(
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
    say(run, phrases.bookingGone)
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
  if (step.acao.tipo === 'remarcar') return needDays(run, step)

  keepAgenda(run, { horario: booking.start_time, agendado: true })
  const local = localTime(booking.start_time, booking.timezone)
  const facts = [booking.service_name, booking.pet_name, booking.professional_name].filter((fact) =>
    fact !== null
  )
  const described = `*${facts.join(' · ')}*\n${spokenDate(local.date)}, às ${spokenHour(local)}`
  run.state.subetapa = 'certeza'
  const confirms = step.acao.tipo === 'confirmar_agendamento'
  ask(run, confirms ? sureToConfirm(described) : sureToCancel(described), [
    confirms
      ? { valor: 'sim', rotulo: phrases.yesConfirm, sinonimos: ['confirmo', 'confirmar', 'confirmado'] }
      : { valor: 'sim', rotulo: phrases.yesCancel, sinonimos: ['sim quero cancelar', 'sim pode cancelar'] },
    confirms
      ? { valor: 'nao', rotulo: phrases.notNow, sinonimos: ['nao'] }
      : { valor: 'nao', rotulo: phrases.noKeep, sinonimos: ['nao', 'manter', 'nao cancelar'] },
  ])
  return null
}

export function decide(run: Run, step: ActionStep, yes: boolean): Move {
  const { agendamento_id = '' } = run.state.agenda
  const confirms = step.acao.tipo === 'confirmar_agendamento'
  if (!yes) say(run, confirms ? phrases.notConfirmed : phrases.kept)
  else {
    act(
      run,
      confirms
        ? { tipo: 'confirmar_agendamento', agendamento_id }
        : { tipo: 'cancelar_agendamento', agendamento_id, motivo: CANCELLATION_REASON },
    )
    say(run, confirms ? phrases.confirmed : phrases.cancelled)
  }
  forget(run, 'agendamento_id')
  return goTo(run, step.proxima)
}
