// One call of step() while it runs: what the steps do to it.
import type { FlowDefinition, FlowStep, StepOf } from '../../../types/flow-definition.ts'
import type {
  Agenda,
  Choice,
  FlowAction,
  FlowContext,
  FlowSession,
  FlowState,
  FlowStatus,
  Need,
  StepResult,
  Substep,
} from './conversation.ts'
import { phrases } from './phrases.ts'
import { cut, fillIn, renderChoices, renderText } from './render.ts'

export interface Run {
  definition: FlowDefinition
  context: FlowContext
  current: string | null
  state: FlowState
  status: FlowStatus
  result: Pick<StepResult, 'outputs' | 'actions' | 'checkpoints'>
  need: Need | null
}

export type ActionStep = StepOf<'acao'>

/** The step to go to; null: this call is over, because something is asked, needed or at its end. */
export type Move = { to: string } | null

const MAX_STATE = 16_384

export function emptyState(): FlowState {
  return { respostas: {}, pergunta: null, tentativas: 0, midias: 0, perguntas: 0, agenda: {}, subetapa: null }
}

export function beginRun(definition: FlowDefinition, context: FlowContext, session: FlowSession): Run {
  return {
    definition,
    context,
    current: session.current_step,
    state: structuredClone(session.state),
    status: session.status,
    result: { outputs: [], actions: [], checkpoints: [] },
    need: null,
  }
}

export function endRun(run: Run): StepResult {
  const session: FlowSession = { current_step: run.current, state: fitting(run.state), status: run.status }
  return { session, ...run.result, ...(run.need === null ? {} : { need: run.need }) }
}

/** A state stays within 16 KiB (the database takes 64): what only makes answers easier to recognise goes first. */
function fitting(state: FlowState): FlowState {
  if (bytes(state) <= MAX_STATE || state.pergunta === null) return state
  const escolhas = state.pergunta.escolhas.map(({ valor, rotulo }) => ({ valor, rotulo }))
  const bare = { ...state, pergunta: { ...state.pergunta, escolhas } }
  if (bytes(bare) <= MAX_STATE) return bare
  return { ...bare, pergunta: { ...bare.pergunta, texto: cut(bare.pergunta.texto, 200) } }
}

export function bytes(value: unknown): number {
  return new TextEncoder().encode(JSON.stringify(value)).length
}

export function stepNamed(run: Run, id: string | null): FlowStep | undefined {
  return run.definition.etapas.find((step) => step.id === id)
}

export function firstStep({ definition }: Run): string | null {
  return definition.inicio ?? definition.etapas[0]?.id ?? null
}

// Saying and asking -----------------------------------------------------------------------------------------------------

export function say(run: Run, text: string): void {
  run.result.outputs.push(renderText(fillIn(text, run.definition, run.state, run.context)))
}

/** Something new is asked: ids of its own, no wrong answers yet. Without choices a text is expected. */
export function ask(
  run: Run,
  text: string,
  choices: readonly Choice[] = [],
  button: string = phrases.openList,
): void {
  const { state } = run
  state.perguntas++
  state.tentativas = 0
  state.midias = 0
  state.pergunta = {
    texto: fillIn(text, run.definition, state, run.context),
    escolhas: [...choices],
    numerada: false,
    botao: button,
  }
  repeat(run)
}

/** The open question once more, after what there is to say first. */
export function repeat(run: Run, before?: string): void {
  const { state, result } = run
  const question = state.pergunta
  const together = [before, question?.texto].filter((part) => part !== undefined).join('\n\n')
  if (question === null || [...together].length > 1024) {
    if (before !== undefined) result.outputs.push(renderText(before))
    if (question === null) return
  }
  const text = [...together].length > 1024 ? question.texto : together
  if (question.escolhas.length === 0) {
    result.outputs.push(renderText(text))
    return
  }
  const { output, numbered } = renderChoices(
    { text, choices: question.escolhas, button: question.botao },
    run.context.channel,
    (index) => `${idPrefix(run)}${index}`,
  )
  question.numerada = numbered
  result.outputs.push(output)
}

/** <step>:<nonce>.<question>:<option>, the same for one question however often it is repeated. */
export function idPrefix({ current, context, state }: Run): string {
  return `${current ?? ''}:${context.nonce.slice(0, 100)}.${state.perguntas.toString(36)}:`
}

// Acting --------------------------------------------------------------------------------------------------------------

/** What can be refused gets a checkpoint: the session as it is now, at the step that acts. */
export function act(run: Run, action: FlowAction): void {
  const { actions, outputs, checkpoints } = run.result
  if (action.tipo !== 'transferir' && action.tipo !== 'encerrar' && action.tipo !== 'aguardar') {
    const session = structuredClone({ current_step: run.current, state: run.state, status: run.status })
    checkpoints.push({ action_index: actions.length, outputs: outputs.length, session })
  }
  actions.push(action)
}

export function need(run: Run, substep: Substep | null, what: Need): Move {
  run.state.subetapa = substep
  run.state.pergunta = null
  run.need = what
  return null
}

export function handOver(run: Run, reason: string, text: string): Move {
  say(run, text)
  act(run, { tipo: 'transferir', motivo: reason })
  return finish(run, 'handed_over')
}

export function finish(run: Run, status: 'completed' | 'handed_over' = 'completed'): Move {
  run.status = status
  run.state.pergunta = null
  run.state.subetapa = null
  return null
}

/** Where a step goes on; one that has no such step, which findProblems() refuses, is a human's matter. */
export function goTo(run: Run, step: string | undefined): Move {
  return step === undefined ? handOver(run, 'fluxo_incompleto', phrases.handOverAfterError) : { to: step }
}

/** An action that cannot be done: the step's own way out, or a human. */
export function failed(
  run: Run,
  step: FlowStep,
  reason: string,
  text: string = phrases.handOverAfterError,
): Move {
  if (step.tipo === 'acao' && step.em_erro !== undefined) return { to: step.em_erro }
  return handOver(run, reason, text)
}

export function keepAgenda(run: Run, changes: Partial<Agenda>): void {
  run.state.agenda = { ...run.state.agenda, ...changes }
}

export function forget(run: Run, ...keys: (keyof Agenda)[]): void {
  for (const key of keys) delete run.state.agenda[key]
}
