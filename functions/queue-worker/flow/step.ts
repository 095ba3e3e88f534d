// The flow engine: where a session stands and what comes in decide what goes out and where it stands then. Nothing else
// does: no clock, no chance, no network.
import type { FlowDefinition, FlowStep, StepOf } from '../../../types/flow-definition.ts'
import { choose, enterDialogue, learn, namePet } from './booking-dialogue.ts'
import { conditionHolds, missingFact, nothingAsked } from './condition.ts'
import type {
  Answer,
  AskedFacts,
  Choice,
  FlowContext,
  FlowInput,
  FlowSession,
  StepResult,
} from './conversation.ts'
import { globalWord } from './global-words.ts'
import { localTime } from './local-time.ts'
import { fold, type Match, matchAnswer, matchSureAnswer } from './match-answer.ts'
import { phrases } from './phrases.ts'
import { recover } from './refusals.ts'
import {
  act,
  ask,
  beginRun,
  bytes,
  emptyState,
  endRun,
  finish,
  firstStep,
  goTo,
  handOver,
  idPrefix,
  type Move,
  need,
  repeat,
  type Run,
  say,
  stepNamed,
} from './run.ts'
import { validateAnswer } from './validate-answer.ts'

export interface StepArguments {
  definition: FlowDefinition
  session: FlowSession
  input: FlowInput
  context: FlowContext
}

type Message = Extract<FlowInput, { kind: 'message' }>

/** What the answers of one session may take, so that its state stays within 16 KiB. */
const MAX_ANSWERS = 6_000
const DEFAULT_ATTEMPTS = 3
/** More steps than a definition has mean that it goes round in circles, which findProblems() refuses. */
const MAX_STEPS = 200

export const newSession: FlowSession = { current_step: null, state: emptyState(), status: 'running' }

export function step({ definition, session, input, context }: StepArguments): StepResult {
  const run = beginRun(definition, context, session)
  if (session.status !== 'running') return endRun(run)
  let move = receive(run, input)
  for (let steps = 0; move !== null; steps++) {
    move = steps > MAX_STEPS
      ? handOver(run, 'fluxo_em_circulo', phrases.handOverAfterError)
      : enter(run, move.to)
  }
  return endRun(run)
}

// What comes in -------------------------------------------------------------------------------------------------------

function receive(run: Run, input: FlowInput): Move {
  if (input.kind === 'start') return start(run)
  if (run.current === null) return input.kind === 'message' ? startWith(run, input) : null

  const current = stepNamed(run, run.current)
  // A definition is never changed under a session; should it be, its beginning is the one place to go on from.
  if (current === undefined) return start(run)
  switch (input.kind) {
    case 'message':
      return hear(run, current, input)
    case 'timer':
      return run.state.subetapa === 'aguardando' ? goOn(run, current) : null
    case 'refused':
      return current.tipo === 'acao' ? recover(run, current, input.action, input.error, input.detail) : null
    case 'services':
    case 'pets':
    case 'bookings':
    case 'slots':
      return current.tipo === 'acao' ? learn(run, current, input) : null
    case 'facts':
      return current.tipo === 'condicao' ? branch(run, current, input) : null
    default:
      return input satisfies never
  }
}

function start(run: Run): Move {
  const { perguntas } = run.state
  // Questions are counted on, so that a tap on an option of before is known as such.
  run.state = { ...emptyState(), perguntas }
  if (run.current === null && run.context.expired === true) say(run, phrases.expired)
  return goTo(run, firstStep(run) ?? undefined)
}

/** The message that begins a session answers nothing yet. */
function startWith(run: Run, { text }: Message): Move {
  switch (globalWord(text ?? '')) {
    case 'human':
      return handOver(run, 'pedido_do_cliente', phrases.handOver)
    case 'end':
      return end(run)
    case 'thanks':
      say(run, phrases.thanks)
      return finish(run)
    default:
      return start(run)
  }
}

function end(run: Run): Move {
  say(run, phrases.goodbye)
  return finish(run)
}

function hear(run: Run, current: FlowStep, message: Message): Move {
  const { state } = run
  const choices = state.pergunta?.escolhas ?? []
  if (message.reply_id !== null && message.reply_id !== '') {
    const tapped = choices.find((_, index) => message.reply_id === `${idPrefix(run)}${index}`)
    if (tapped !== undefined) return take(run, current, tapped)
    // What was tapped belongs to a question that is no longer open, whatever its words are.
    if (message.early !== true) repeat(run, phrases.oldQuestion)
    return null
  }
  if (!isReadable(message)) return message.early === true ? null : refuseMedia(run, current)

  state.midias = 0
  const text = message.text ?? ''
  const matches = state.subetapa === 'certeza' ? matchSureAnswer : matchAnswer
  // Nobody is sure of what they have not been asked.
  const unasked = message.early === true && state.subetapa === 'certeza'
  const match = unasked ? null : matches(text, choices, state.pergunta?.numerada ?? false)
  // An option of the flow's own that is called like a global word wins over it.
  if (match?.by === 'words' && fold(text) === fold(match.choice.rotulo)) {
    return take(run, current, match.choice)
  }
  switch (globalWord(text)) {
    case 'human':
      return handOver(run, 'pedido_do_cliente', phrases.handOver)
    case 'end':
      return end(run)
    case 'restart':
      return start(run)
  }
  if (message.early === true) {
    // Who wrote it had not read the question: only naming an option is an answer.
    return match?.by === 'words' ? take(run, current, match.choice) : null
  }
  return state.subetapa === 'aguardando' ? goOn(run, current) : answer(run, current, text, match)
}

function isReadable({ message_type, text }: Message): boolean {
  return ['text', 'button', 'list', 'interactive'].includes(message_type) && /\S/.test(text ?? '')
}

/** Two in a row are one wrong answer. */
function refuseMedia(run: Run, current: FlowStep): Move {
  const { state } = run
  if (state.subetapa === 'aguardando') return goOn(run, current)
  state.midias++
  if (state.midias >= 2) {
    state.midias = 0
    return wrong(run, current, phrases.onlyText)
  }
  repeat(run, phrases.onlyText)
  return null
}

// Answers -------------------------------------------------------------------------------------------------------------

function answer(run: Run, current: FlowStep, text: string, match: Match | null): Move {
  if (match !== null) return take(run, current, match.choice)
  const question = run.state.pergunta
  if (question !== null && question.escolhas.length > 0) {
    const how = question.numerada ? phrases.chooseNumber : phrases.chooseOne
    return wrong(run, current, `${phrases.notUnderstood} ${how}`)
  }
  if (current.tipo === 'pergunta') {
    const today = localTime(run.context.now, run.context.organization.timezone).date
    const validated = validateAnswer(text, current.validacao, today)
    if (!validated.valid) return wrong(run, current, validated.message)
    remember(run, current.chave ?? current.id, validated.value)
    return goOn(run, current)
  }
  if (current.tipo === 'acao' && run.state.subetapa === 'pet_nome') {
    const move = namePet(run, current, text)
    return move === 'invalid' ? wrong(run, current, phrases.petNameAgain) : move
  }
  // Nothing is being asked: this step is entered again.
  return { to: current.id }
}

function take(run: Run, current: FlowStep, choice: Choice): Move {
  switch (current.tipo) {
    case 'escolha': {
      const option = current.opcoes[Number(choice.valor)]
      if (option === undefined) return { to: current.id }
      remember(run, current.chave ?? current.id, option.valor)
      return goTo(run, option.proxima ?? current.proxima)
    }
    case 'pergunta':
      remember(run, current.chave ?? current.id, choice.valor)
      return goOn(run, current)
    case 'acao':
      return choose(run, current, choice)
    case 'mensagem':
    case 'condicao':
    case 'fim':
      return { to: current.id }
    default:
      return current satisfies never
  }
}

/** The last wrong answer leads out of the question: to the step's em_falha, or to a human. */
function wrong(run: Run, current: FlowStep, why: string): Move {
  const { state, definition } = run
  const own = 'max_tentativas' in current ? current.max_tentativas : undefined
  state.tentativas++
  if (state.tentativas < (own ?? definition.max_tentativas ?? DEFAULT_ATTEMPTS)) {
    repeat(run, why)
    return null
  }
  if ('em_falha' in current && current.em_falha !== undefined) return { to: current.em_falha }
  return handOver(run, 'respostas_nao_entendidas', phrases.handOverAfterAttempts)
}

function remember(run: Run, key: string, value: Answer): void {
  const { respostas } = run.state
  respostas[key] = value
  if (typeof value !== 'string') return
  // Long stories are in the messages themselves; what is kept of them here has its bounds.
  let letters = [...value]
  while (letters.length > 0 && bytes(respostas) > MAX_ANSWERS) {
    letters = letters.slice(0, Math.floor(letters.length / 2))
    respostas[key] = letters.join('')
  }
}

function goOn(run: Run, current: FlowStep): Move {
  return goTo(run, 'proxima' in current ? current.proxima : undefined)
}

// Steps ---------------------------------------------------------------------------------------------------------------

function enter(run: Run, id: string): Move {
  const entered = stepNamed(run, id)
  if (entered === undefined) return goTo(run, undefined)
  run.current = id
  run.state.pergunta = null
  run.state.subetapa = null
  run.state.tentativas = 0
  run.state.midias = 0
  switch (entered.tipo) {
    case 'mensagem':
      say(run, entered.pergunta)
      return { to: entered.proxima }
    case 'escolha':
      ask(
        run,
        entered.pergunta,
        entered.opcoes.map(({ rotulo, valor }, index): Choice => ({
          valor: String(index),
          rotulo,
          ...(valor.length <= 30 && fold(valor) !== fold(rotulo)
            ? { sinonimos: [valor.replaceAll('_', ' ')] }
            : {}),
        })),
      )
      return null
    case 'pergunta':
      ask(run, entered.pergunta, entered.validacao?.tipo === 'sim_nao' ? yesAndNo : [])
      return null
    case 'condicao':
      return branch(run, entered, nothingAsked)
    case 'acao':
      return enterAction(run, entered)
    case 'fim':
      if (entered.pergunta !== undefined) say(run, entered.pergunta)
      if (entered.encerrar === true) act(run, { tipo: 'encerrar' })
      return finish(run)
    default:
      return entered satisfies never
  }
}

const yesAndNo: Choice[] = [{ valor: 'sim', rotulo: phrases.yes }, { valor: 'nao', rotulo: phrases.no }]

/** Asked is only what decides: whom an earlier condition leads elsewhere takes no part in a test. */
function branch(run: Run, current: StepOf<'condicao'>, asked: AskedFacts): Move {
  const facts = { state: run.state, context: run.context, asked }
  for (const condition of current.condicoes) {
    const missing = missingFact(condition, asked)
    if (missing !== null) return need(run, null, missing)
    if (conditionHolds(condition, facts)) return { to: condition.proxima }
  }
  return { to: current.proxima }
}

function enterAction(run: Run, current: StepOf<'acao'>): Move {
  const { acao } = current
  const { respostas } = run.state
  switch (acao.tipo) {
    case 'criar_lead':
      act(run, {
        tipo: 'criar_lead',
        profissional_id: acao.profissional ?? null,
        respostas: { ...respostas },
      })
      return goOn(run, current)
    case 'atualizar_lead':
      act(run, { tipo: 'atualizar_lead', status: acao.status ?? null, respostas: { ...respostas } })
      return goOn(run, current)
    case 'etiquetar':
      act(run, { tipo: 'etiquetar', etiqueta: acao.etiqueta.trim() })
      return goOn(run, current)
    case 'transferir':
      return handOver(run, acao.motivo ?? 'fluxo', current.pergunta ?? phrases.handOver)
    case 'aguardar':
      if (current.pergunta !== undefined) say(run, current.pergunta)
      act(run, { tipo: 'aguardar', minutos: acao.minutos })
      run.state.subetapa = 'aguardando'
      return null
    case 'escolher_servico':
    case 'escolher_pet':
    case 'escolher_horario':
    case 'agendar':
    case 'entrar_lista_espera':
    case 'cancelar_agendamento':
    case 'remarcar':
    case 'confirmar_agendamento':
      return enterDialogue(run, current)
    default:
      return acao satisfies never
  }
}
