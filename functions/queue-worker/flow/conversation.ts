// The vocabulary of the flow engine: where a session stands, what comes in, what goes out. All of it is JSON.
import type { OutboundPayload } from '../../../types/outbound.ts'

/** What begin_flow_turn tells about the conversation. */
export interface FlowContext {
  organization: { id: string; name: string; vertical: string; timezone: string }
  contact: {
    id: string
    name: string | null
    first_name: string | null
    tags: readonly string[]
    phone_number: string | null
  }
  conversation_id: string
  control_epoch: number
  /** ISO; the only clock that the engine knows. */
  now: string
  /** Of the session: part of the ids of its options, so that an answer to another session's question is known as such. */
  nonce: string
  channel: { buttons: boolean; lists: boolean }
  /** An earlier session was not finished in time. */
  expired?: boolean
}

// The session ---------------------------------------------------------------------------------------------------------

export type FlowStatus = 'running' | 'completed' | 'handed_over' | 'expired'

/** flow_sessions: current_step, state, status. */
export interface FlowSession {
  /** Null: not begun. */
  current_step: string | null
  state: FlowState
  status: FlowStatus
}

export type Answer = string | number | boolean

/** flow_sessions.state, kept within 16 KiB as JSON; the database takes 64. */
export interface FlowState {
  respostas: Record<string, Answer>
  /** What is being asked; null: nothing. */
  pergunta: Question | null
  /** Wrong answers to it so far. */
  tentativas: number
  /** Pictures and the like in a row: two are one wrong answer. */
  midias: number
  /** How many questions were asked: part of the ids of their options. */
  perguntas: number
  agenda: Agenda
  /** Where inside a step that asks several things. */
  subetapa: Substep | null
}

export interface Question {
  texto: string
  /** None: a text is expected. */
  escolhas: Choice[]
  /** Shown as a numbered text: a number is an option's, never an hour. */
  numerada: boolean
  /** What opens it, if it becomes a list. */
  botao: string
}

export interface Choice {
  valor: string
  rotulo: string
  descricao?: string
  /** Other words for it, as a customer would type them. */
  sinonimos?: string[]
}

export type Substep =
  | 'aguardando'
  | 'servico'
  | 'pet'
  | 'pet_nome'
  | 'dia'
  | 'hora'
  | 'sem_horario'
  | 'agendamento'
  | 'certeza'

/** The booking that is being talked about. */
export interface Agenda {
  servico_id?: string
  servico?: string
  requer_pet?: boolean
  /** Null: the one of this name that criar_pet makes. */
  pet_id?: string | null
  pet?: string
  /** The start, ISO. */
  horario?: string
  fuso?: string
  profissional_id?: string | null
  profissional?: string | null
  local_id?: string | null
  /** The local day whose hours are on the screen, and a moment before the first of them. */
  dia?: string
  dia_desde?: string
  /** There is no other day to go to. */
  dia_unico?: boolean
  /** Of the list that is on the screen. */
  pagina?: number
  /** The one to cancel, move or confirm. */
  agendamento_id?: string
  /** The kept choice is booked: a second booking chooses anew. */
  agendado?: boolean
  /** What the hours on the screen stand for. */
  vagas?: KeptSlot[]
}

export interface KeptSlot {
  horario: string
  profissional_id: string | null
  profissional: string | null
  local_id: string | null
  fuso: string
}

// What comes in -------------------------------------------------------------------------------------------------------

/** What begin_flow_turn hands out, in order. */
export type TurnInput =
  /** From start_flow: nobody wrote. */
  | { kind: 'start' }
  | {
    kind: 'message'
    message_id: string
    message_type: string
    text: string | null
    /** The id of a tapped button or row. */
    reply_id: string | null
    quoted_id: string | null
    /** Written before the question that is open now was asked: only naming an option is an answer to it. */
    early?: boolean
  }
  /** The wait of an aguardar is over. */
  | { kind: 'timer' }

export type FlowInput =
  | TurnInput
  | NeedAnswer
  /** An action of the step that the session stands at was refused. */
  | { kind: 'refused'; action: FlowAction; error: string; detail: Record<string, unknown> }

/** What the engine wants to know before it goes on. */
export type Need =
  /** The services that can be booked, by name; of one category (whatever its case), if given. */
  | { kind: 'services'; category: string | null }
  /** The contact's active animals, by name. */
  | { kind: 'pets' }
  /** How many animals the contact has, and which text of each of these A/B tests he is shown from now on. */
  | { kind: 'facts'; pets: boolean; tests: readonly string[] }
  /** The contact's coming bookings, scheduled and confirmed, by their start. */
  | { kind: 'bookings' }
  /** get_available_slots(). */
  | {
    kind: 'slots'
    service_id: string
    professional_id: string | null
    location_id: string | null
    from_time: string
    to_time: string
  }

export type NeedAnswer =
  | { kind: 'services'; services: readonly Service[] }
  | { kind: 'pets'; pets: readonly Pet[] }
  | ({ kind: 'facts' } & AskedFacts)
  | { kind: 'bookings'; bookings: readonly ComingBooking[] }
  | { kind: 'slots'; slots: readonly Slot[] }

/** What conditions ask of the database. */
export interface AskedFacts {
  /** Null: not asked. */
  pets: number | null
  /** By the test's name; null: it does not run. */
  variants: Readonly<Record<string, 'a' | 'b' | null>>
}

export interface Service {
  id: string
  name: string
  description: string | null
  price_cents: number | null
  duration_minutes: number
  requires_pet: boolean
}

export interface Pet {
  id: string
  name: string
}

export interface ComingBooking {
  id: string
  service_id: string
  service_name: string
  professional_id: string | null
  professional_name: string | null
  location_id: string | null
  start_time: string
  timezone: string
  status: 'scheduled' | 'confirmed'
  pet_name: string | null
}

/** public.available_slot. */
export interface Slot {
  start_time: string
  end_time: string
  professional_id: string | null
  professional_name: string | null
  location_id: string | null
  timezone: string
}

// What goes out -------------------------------------------------------------------------------------------------------

export interface FlowOutput {
  message_type: 'text' | 'interactive'
  content: string
  payload: OutboundPayload | null
}

/** What finish_flow_turn does, in order, in the transaction that keeps the session. */
export type FlowAction =
  | { tipo: 'criar_lead'; profissional_id: string | null; respostas: Record<string, Answer> }
  | { tipo: 'atualizar_lead'; status: string | null; respostas: Record<string, Answer> }
  | { tipo: 'etiquetar'; etiqueta: string }
  /** A pet of this name (whatever its case) that the contact has already is not made again. */
  | { tipo: 'criar_pet'; nome: string }
  /** With pet_nome and no pet_id: the contact's pet of that name. */
  | {
    tipo: 'agendar'
    servico_id: string
    horario: string
    profissional_id: string | null
    local_id: string | null
    pet_id: string | null
    pet_nome: string | null
  }
  | {
    tipo: 'entrar_lista_espera'
    servico_id: string
    profissional_id: string | null
    local_id: string | null
    pet_id: string | null
    pet_nome: string | null
  }
  | { tipo: 'cancelar_agendamento'; agendamento_id: string; motivo: string }
  | {
    tipo: 'remarcar'
    agendamento_id: string
    horario: string
    profissional_id: string | null
    local_id: string | null
  }
  | { tipo: 'confirmar_agendamento'; agendamento_id: string }
  /** wakes_at = now + minutos; a message ends the wait too. Without it a turn leaves wakes_at null. */
  | { tipo: 'aguardar'; minutos: number }
  /**
   * hand_over. It is the last of a turn. The turn's own outputs ("I call somebody") are sent all the same: they carry the
   * epoch that comes out of it.
   */
  | { tipo: 'transferir'; motivo: string }
  /** close_conversation; the outputs are sent all the same. */
  | { tipo: 'encerrar' }

export interface StepResult {
  session: FlowSession
  outputs: FlowOutput[]
  actions: FlowAction[]
  /** Call again with the session, and the answer to this. */
  need?: Need
  /** One for each action that can be refused. */
  checkpoints: Checkpoint[]
}

/** From where a turn goes on when the database refuses one of its actions. */
export interface Checkpoint {
  action_index: number
  /** How many outputs came before it. */
  outputs: number
  session: FlowSession
}
