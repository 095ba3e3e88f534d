// A whole turn: every message that waits, one after the other, with what the engine has to know in between. The worker
// hands the result to finish_flow_turn, which does all of it or nothing.
import type { FlowDefinition } from '../../../types/flow-definition.ts'
import type {
  Checkpoint,
  FlowAction,
  FlowContext,
  FlowInput,
  FlowOutput,
  FlowSession,
  Need,
  NeedAnswer,
  TurnInput,
} from './conversation.ts'
import { phrases } from './phrases.ts'
import { renderText } from './render.ts'
import { newSession, step } from './step.ts'

export interface Turn {
  definition: FlowDefinition
  /** Null: it begins with this turn. */
  session: FlowSession | null
  inputs: readonly TurnInput[]
  context: FlowContext
}

export interface PlayedTurn {
  session: FlowSession
  outputs: FlowOutput[]
  actions: FlowAction[]
  /** The last message that the session has taken in; null: none of this turn. */
  last_message_id: string | null
  /** Each with the last message that had been taken in by then. */
  checkpoints: (Checkpoint & Pick<PlayedTurn, 'last_message_id'>)[]
}

export interface Refusal {
  action_index: number
  /** The SQLSTATE of the business error, or its name. */
  error: string
  detail: Record<string, unknown>
}

/** How often the engine may ask for something on the way from one input to the next question. */
const MAX_ROUNDS = 20

export async function playTurn(turn: Turn, tell: (need: Need) => Promise<NeedAnswer>): Promise<PlayedTurn> {
  const played: PlayedTurn = {
    session: structuredClone(turn.session ?? newSession),
    outputs: [],
    actions: [],
    last_message_id: null,
    checkpoints: [],
  }
  const asked = played.session.state.perguntas
  for (const input of turn.inputs) {
    // What comes after the end has not been heard.
    if (played.session.status !== 'running') break
    if (input.kind === 'message') played.last_message_id = input.message_id
    // Whoever wrote it had not read what this very turn asks.
    const early = played.session.state.perguntas > asked || played.actions.length > 0
    await hear(turn, played, early && input.kind === 'message' ? { ...input, early } : input, tell)
  }
  return played
}

async function hear(
  turn: Turn,
  played: PlayedTurn,
  input: TurnInput,
  tell: (need: Need) => Promise<NeedAnswer>,
): Promise<void> {
  const before = { ...played, outputs: [...played.outputs], actions: [...played.actions] }
  before.checkpoints = [...played.checkpoints]
  await play(turn, played, input, tell)
  // What was written before a question may tell which service is meant, but books, moves and cancels nothing. A tap
  // shows that it was read.
  const read = input.kind !== 'message' || input.early !== true || (input.reply_id ?? '') !== ''
  if (!read && played.actions.slice(before.actions.length).some(changesBooking)) Object.assign(played, before)
}

function changesBooking({ tipo }: FlowAction): boolean {
  return ['agendar', 'remarcar', 'cancelar_agendamento', 'confirmar_agendamento', 'entrar_lista_espera']
    .includes(tipo)
}

/** The same turn again, after the database refused one of its actions and so did none of it. */
export async function replayTurn(
  turn: Turn,
  refused: PlayedTurn,
  { action_index, error, detail }: Refusal,
  tell: (need: Need) => Promise<NeedAnswer>,
): Promise<PlayedTurn> {
  const action = refused.actions[action_index]
  const checkpoint = refused.checkpoints.find((each) => each.action_index === action_index)
  const played: PlayedTurn = {
    session: structuredClone(checkpoint?.session ?? turn.session ?? newSession),
    outputs: refused.outputs.slice(0, checkpoint?.outputs ?? 0),
    actions: checkpoint === undefined ? [] : refused.actions.slice(0, action_index),
    // What came after it was heard by a turn that did not happen: it is heard in the next one.
    last_message_id: checkpoint === undefined ? refused.last_message_id : checkpoint.last_message_id,
    checkpoints: refused.checkpoints.filter((each) => each.action_index < action_index),
  }
  if (action === undefined || checkpoint === undefined) callForHelp(played)
  else await play(turn, played, { kind: 'refused', action, error, detail }, tell)
  return played
}

/** What is left to do when a turn comes to no end: a human is asked, and all that it wanted to do is dropped. */
export function giveUp(turn: Turn, played: PlayedTurn): PlayedTurn {
  const given: PlayedTurn = {
    session: structuredClone(turn.session ?? newSession),
    outputs: [],
    actions: [],
    last_message_id: played.last_message_id,
    checkpoints: [],
  }
  callForHelp(given)
  return given
}

async function play(
  { definition, context }: Turn,
  played: PlayedTurn,
  first: FlowInput,
  tell: (need: Need) => Promise<NeedAnswer>,
): Promise<void> {
  let input = first
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const result = step({ definition, session: played.session, input, context })
    for (const checkpoint of result.checkpoints) {
      played.checkpoints.push({
        ...checkpoint,
        last_message_id: played.last_message_id,
        action_index: checkpoint.action_index + played.actions.length,
        outputs: checkpoint.outputs + played.outputs.length,
      })
    }
    played.session = result.session
    played.outputs.push(...result.outputs)
    played.actions.push(...result.actions)
    if (result.need === undefined) return
    input = await tell(result.need)
  }
  callForHelp(played)
}

function callForHelp(played: PlayedTurn): void {
  played.session = {
    ...played.session,
    state: { ...played.session.state, pergunta: null, subetapa: null },
    status: 'handed_over',
  }
  played.outputs.push(renderText(phrases.handOverAfterError))
  played.actions.push({ tipo: 'transferir', motivo: 'fluxo_sem_saida' })
}
