// What is wrong with a flow definition, found before a customer finds it. private.flow_problems() finds the same, by the
// same names; tests compare both.

export const flowProblemNames = [
  'not_an_object',
  'no_steps',
  'too_many_steps',
  'invalid_setting',
  'invalid_id',
  'duplicate_id',
  'unknown_type',
  'missing_text',
  'text_too_long',
  'missing_options',
  'too_many_options',
  'duplicate_option',
  'invalid_validation',
  'invalid_condition',
  'invalid_action',
  'unsupported_action',
  'unknown_variable',
  'missing_next',
  'unknown_next',
  'unreachable',
  'no_end',
  'silent_loop',
] as const
export type FlowProblemName = (typeof flowProblemNames)[number]

export interface FlowProblem {
  /** The step's id; "#2" (from 0) where it has none that can be used; null: the definition as a whole. */
  step: string | null
  problem: FlowProblemName
  /** The field, such as "opcoes[0].proxima"; for unknown_variable the variable's name; null: the step as a whole. */
  detail: string | null
}

type JsonObject = Record<string, unknown>

interface Step {
  /** How problems name it. */
  name: string
  fields: JsonObject
}

/** From one step to another; a silent one is taken without the customer having written anything in between. */
interface Edge {
  field: string
  to: unknown
  silent: boolean
}

export const ID = /^[a-z0-9_]{1,50}$/
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i
const VARIABLE = /\{\{([^{}]*)\}\}/g
const VARIABLES = new Set(['nome', 'servico', 'profissional', 'data', 'hora', 'pet', 'organizacao'])
const FACTS = new Set(['contato.nome', 'contato.etiquetas', 'pets.quantidade', 'organizacao.vertical'])
/** What a condition calls an A/B test's variant: this, and the test's name. */
export const TEST = 'teste.'
const OPERATORS = new Set(['igual', 'diferente', 'contem', 'maior', 'menor', 'existe', 'vazio'])
const CHECKS = new Set(['texto', 'numero', 'inteiro', 'email', 'telefone', 'cpf', 'data', 'sim_nao'])
const LEAD_STATUSES = new Set(['novo', 'em_contato', 'agendado', 'fechado', 'perdido'])

export function findProblems(definition: unknown): FlowProblem[] {
  if (!isObject(definition)) return [{ step: null, problem: 'not_an_object', detail: null }]
  const { etapas } = definition
  if (!Array.isArray(etapas) || etapas.length === 0) {
    return [{ step: null, problem: 'no_steps', detail: 'etapas' }]
  }
  if (etapas.length > 200) return [{ step: null, problem: 'too_many_steps', detail: 'etapas' }]

  const problems: FlowProblem[] = []
  const settings = reporter(problems, null)
  settings.wholeNumber(definition, 'expira_em_minutos', 5, 43_200)
  settings.wholeNumber(definition, 'max_tentativas', 1, 10)

  const steps: Step[] = []
  for (const [index, etapa] of etapas.entries()) {
    const id = isObject(etapa) ? etapa.id : undefined
    const usable = typeof id === 'string' && ID.test(id)
    const name = usable ? id : `#${index}`
    const report = reporter(problems, name)
    if (!isObject(etapa)) {
      report('not_an_object', null)
      continue
    }
    if (!usable) report('invalid_id', 'id')
    else if (steps.some((step) => step.name === name)) report('duplicate_id', 'id')
    steps.push({ name, fields: etapa })
  }
  const keys = new Set(steps.flatMap(({ name, fields }) => keyOf(fields, name)))
  for (const { name, fields } of steps) checkStep(fields, keys, reporter(problems, name))
  checkWay(definition, steps, problems)
  return problems
}

// One step ------------------------------------------------------------------------------------------------------------

/** Where the step keeps an answer. */
function keyOf({ tipo, chave }: JsonObject, name: string): string[] {
  if (tipo !== 'escolha' && tipo !== 'pergunta') return []
  return [typeof chave === 'string' ? chave : name]
}

function checkStep(step: JsonObject, keys: ReadonlySet<string>, report: Reporter): void {
  const text = (holder: JsonObject, field: string, path = field) => {
    report.text(holder, field, 1024, path)
    report.variables(holder[field], keys)
  }
  const patience = () => {
    report.wholeNumber(step, 'max_tentativas', 1, 10)
  }
  const key = () => {
    if (step.chave !== undefined && !(typeof step.chave === 'string' && ID.test(step.chave))) report('invalid_id', 'chave')
  }

  switch (step.tipo) {
    case 'mensagem':
      text(step, 'pergunta')
      break
    case 'escolha':
      text(step, 'pergunta')
      key()
      patience()
      checkOptions(step, report)
      break
    case 'pergunta':
      text(step, 'pergunta')
      key()
      patience()
      if (step.validacao !== undefined) {
        if (!isObject(step.validacao)) report('invalid_validation', 'validacao')
        else {
          checkValidation(step.validacao, report)
          if (step.validacao.mensagem !== undefined) text(step.validacao, 'mensagem', 'validacao.mensagem')
        }
      }
      break
    case 'condicao':
      checkConditions(step, keys, report)
      break
    case 'acao':
      if (step.pergunta !== undefined) text(step, 'pergunta')
      patience()
      checkAction(step, report)
      break
    case 'fim':
      if (step.pergunta !== undefined) text(step, 'pergunta')
      if (step.encerrar !== undefined && typeof step.encerrar !== 'boolean') report('invalid_setting', 'encerrar')
      break
    default:
      report('unknown_type', 'tipo')
  }
}

function checkOptions({ opcoes }: JsonObject, report: Reporter): void {
  if (!Array.isArray(opcoes) || opcoes.length === 0) return report('missing_options', 'opcoes')
  if (opcoes.length > 20) return report('too_many_options', 'opcoes')
  const seen = new Set<string>()
  for (const [index, option] of opcoes.entries()) {
    const path = `opcoes[${index}]`
    if (!isObject(option)) {
      report('missing_options', path)
      continue
    }
    report.text(option, 'rotulo', 60, `${path}.rotulo`)
    report.text(option, 'valor', 200, `${path}.valor`)
    for (const field of ['rotulo', 'valor'] as const) {
      const text = option[field]
      if (typeof text !== 'string') continue
      if (seen.has(`${field} ${text}`)) report('duplicate_option', `${path}.${field}`)
      seen.add(`${field} ${text}`)
    }
  }
}

function checkValidation({ tipo, min, max, padrao }: JsonObject, report: Reporter): void {
  if (!(typeof tipo === 'string' && CHECKS.has(tipo))) report('invalid_validation', 'validacao.tipo')
  const bounded = tipo === 'texto' || tipo === 'numero' || tipo === 'inteiro' || tipo === 'data'
  const whole = tipo === 'texto' || tipo === 'data'
  for (const [field, bound] of Object.entries({ min, max })) {
    if (bound === undefined) continue
    const valid = bounded && typeof bound === 'number' && Math.abs(bound) <= 1e12 && (!whole || Number.isInteger(bound))
    if (!valid) report('invalid_validation', `validacao.${field}`)
  }
  if (typeof min === 'number' && typeof max === 'number' && min > max) report('invalid_validation', 'validacao.max')
  if (padrao !== undefined && !(tipo === 'texto' && typeof padrao === 'string' && isSafePattern(padrao))) {
    report('invalid_validation', 'validacao.padrao')
  }
}

/**
 * Whether a pattern is one that every answer is decided on in a moment: no repeated group, no look-around, no
 * back-reference, and few places where the matcher has a choice. Answers are cut to 100 letters before.
 */
export function isSafePattern(pattern: string): boolean {
  const count = (what: RegExp) => [...pattern.matchAll(what)].length
  if (pattern.length === 0 || [...pattern].length > 200) return false
  if (/\)[*+{?]/.test(pattern) || /\(\?(?!:)/.test(pattern)) return false
  if (/\\(?![dDwWsS.\-/\\()[\]{}*+?|^$])/.test(pattern) || /\{[0-9]{3,}|\{[0-9]*,[0-9]{3,}/.test(pattern)) return false
  if (count(/[*+]|\{[0-9]*,/g) > 3 || count(/[?|]/g) > 6) return false
  return answerPattern(pattern) !== null
}

/** For a whole answer, whatever its case; null: it is no pattern. */
export function answerPattern(pattern: string): RegExp | null {
  try {
    // On its own too: what closes our group is no pattern.
    new RegExp(pattern, 'iu')
    return new RegExp(`^(?:${pattern})$`, 'iu')
  } catch {
    return null
  }
}

function checkConditions({ condicoes }: JsonObject, keys: ReadonlySet<string>, report: Reporter): void {
  if (!Array.isArray(condicoes) || condicoes.length === 0 || condicoes.length > 20) {
    return report('invalid_condition', 'condicoes')
  }
  for (const [index, condition] of condicoes.entries()) {
    const path = `condicoes[${index}]`
    if (!isObject(condition)) {
      report('invalid_condition', path)
      continue
    }
    const { chave, operador, valor } = condition
    if (!(typeof chave === 'string' && (keys.has(chave) || FACTS.has(chave) || isTest(chave)))) {
      report('invalid_condition', `${path}.chave`)
    }
    if (!(typeof operador === 'string' && OPERATORS.has(operador))) {
      report('invalid_condition', `${path}.operador`)
      continue
    }
    const needless = (operador === 'existe' || operador === 'vazio') && valor === undefined
    if (!needless && !['string', 'number', 'boolean'].includes(typeof valor)) report('invalid_condition', `${path}.valor`)
  }
}

/** Whether there is such a test the definition cannot know: one that does not run has no variant. */
function isTest(key: string): boolean {
  return key.startsWith(TEST) && isText(key.slice(TEST.length), 120)
}

function checkAction({ acao }: JsonObject, report: Reporter): void {
  if (!isObject(acao)) return report('invalid_action', 'acao')
  const optionalText = (field: string, longest: number) => {
    if (acao[field] !== undefined && !isText(acao[field], longest)) report('invalid_action', `acao.${field}`)
  }
  const optionalWhole = (field: string, least: number, most: number) => {
    if (acao[field] !== undefined && !isWhole(acao[field], least, most)) report('invalid_action', `acao.${field}`)
  }
  switch (acao.tipo) {
    case 'criar_lead':
      if (acao.profissional !== undefined && !(typeof acao.profissional === 'string' && UUID.test(acao.profissional))) {
        report('invalid_action', 'acao.profissional')
      }
      break
    case 'atualizar_lead':
      if (acao.status !== undefined && !(typeof acao.status === 'string' && LEAD_STATUSES.has(acao.status))) {
        report('invalid_action', 'acao.status')
      }
      break
    case 'etiquetar':
      if (!isText(acao.etiqueta, 60)) report('invalid_action', 'acao.etiqueta')
      break
    case 'transferir':
      optionalText('motivo', 500)
      break
    case 'aguardar':
      if (!isWhole(acao.minutos, 1, 43_200)) report('invalid_action', 'acao.minutos')
      break
    case 'escolher_servico':
      optionalText('categoria', 80)
      break
    case 'escolher_horario':
      optionalWhole('dias', 1, 60)
      optionalWhole('quantos', 1, 10)
      break
    case 'escolher_pet':
    case 'agendar':
    case 'entrar_lista_espera':
    case 'cancelar_agendamento':
    case 'remarcar':
    case 'confirmar_agendamento':
      break
    case 'definir_etapa_jornada':
      report('unsupported_action', 'acao.tipo')
      break
    default:
      report('invalid_action', 'acao.tipo')
  }
}

// The way through all of them -------------------------------------------------------------------------------------------

function checkWay(definition: JsonObject, steps: readonly Step[], problems: FlowProblem[]): void {
  // Of two steps with one id the first is meant.
  const known = new Map<string, Step>()
  for (const step of steps) if (!known.has(step.name)) known.set(step.name, step)

  const ways = new Map<string, { to: string; silent: boolean }[]>()
  for (const step of steps) {
    const report = reporter(problems, step.name)
    const ahead: { to: string; silent: boolean }[] = []
    for (const { field, to, silent } of edgesOf(step.fields)) {
      if (to === undefined) report('missing_next', field)
      else if (typeof to === 'string' && ID.test(to) && known.has(to)) ahead.push({ to, silent })
      else report('unknown_next', field)
    }
    if (known.get(step.name) === step) ways.set(step.name, ahead)
  }

  const { inicio } = definition
  if (inicio !== undefined && !(typeof inicio === 'string' && ID.test(inicio) && known.has(inicio))) {
    reporter(problems, null)('unknown_next', 'inicio')
    return
  }
  const first = typeof inicio === 'string' ? inicio : steps[0]?.name
  if (first === undefined) return

  const names = [...ways.keys()]
  const reached = reach(names, ways, () => true)
  const silently = reach(names, ways, ({ silent }) => silent)
  const endings = bitsOf(names, (name) => isEnding(known.get(name)?.fields))
  const reachable = (reached.get(first) ?? 0n) | bitsOf(names, (name) => name === first)
  for (const [index, name] of names.entries()) {
    const report = reporter(problems, name)
    const own = 1n << BigInt(index)
    if ((reachable & own) === 0n) {
      report('unreachable', null)
      continue
    }
    if ((((reached.get(name) ?? 0n) | own) & endings) === 0n) report('no_end', null)
    if (((silently.get(name) ?? 0n) & own) !== 0n) report('silent_loop', null)
  }
}

function isEnding(step: JsonObject | undefined): boolean {
  return step?.tipo === 'fim' || (step?.tipo === 'acao' && isObject(step.acao) && step.acao.tipo === 'transferir')
}

function edgesOf(step: JsonObject): Edge[] {
  const { tipo, proxima } = step
  const optional = (silent: boolean, ...fields: string[]): Edge[] =>
    fields.filter((field) => step[field] !== undefined).map((field) => ({ field, to: step[field], silent }))

  switch (tipo) {
    case 'mensagem':
      return [{ field: 'proxima', to: proxima, silent: true }]
    case 'escolha': {
      const options = Array.isArray(step.opcoes) && step.opcoes.length <= 20 ? step.opcoes.filter(isObject) : []
      const own = options.map((option) => option.proxima)
      return [
        ...own.flatMap((to, index): Edge[] =>
          to === undefined && proxima !== undefined ? [] : [{ field: `opcoes[${index}].proxima`, to, silent: false }]
        ),
        ...optional(false, 'proxima', 'em_falha'),
      ]
    }
    case 'pergunta':
      return [{ field: 'proxima', to: proxima, silent: false }, ...optional(false, 'em_falha')]
    case 'condicao': {
      const conditions = Array.isArray(step.condicoes) && step.condicoes.length <= 20
        ? step.condicoes.filter(isObject)
        : []
      return [
        ...conditions.map((condition, index): Edge => (
          { field: `condicoes[${index}].proxima`, to: condition.proxima, silent: true }
        )),
        { field: 'proxima', to: proxima, silent: true },
      ]
    }
    case 'acao': {
      if (isEnding(step)) return []
      const action = isObject(step.acao) ? step.acao.tipo : undefined
      // The others can go on without a question: with one service, without a booking to cancel.
      const asks = action === 'escolher_pet' || action === 'escolher_horario'
      return [
        { field: 'proxima', to: proxima, silent: !asks },
        ...optional(true, 'proxima_sem_horario', 'em_erro'),
        ...optional(false, 'em_falha'),
      ]
    }
    default:
      return []
  }
}

/**
 * For each step all those that one comes to from there, as bits in the order of the names. Each step is gone through once
 * (Warshall): a definition that leads from everywhere to everywhere takes no longer than any other.
 */
function reach(
  names: readonly string[],
  ways: ReadonlyMap<string, readonly { to: string; silent: boolean }[]>,
  mayTake: (way: { silent: boolean }) => boolean,
): Map<string, bigint> {
  const reached = new Map(names.map((name) => {
    const next = new Set((ways.get(name) ?? []).filter(mayTake).map(({ to }) => to))
    return [name, bitsOf(names, (other) => next.has(other))]
  }))
  for (const [index, via] of names.entries()) {
    const beyond = reached.get(via) ?? 0n
    const bit = 1n << BigInt(index)
    for (const [name, bits] of reached) if ((bits & bit) !== 0n) reached.set(name, bits | beyond)
  }
  return reached
}

function bitsOf(names: readonly string[], isOne: (name: string) => boolean): bigint {
  return names.reduce((bits, name, index) => isOne(name) ? bits | (1n << BigInt(index)) : bits, 0n)
}

// How problems are reported ---------------------------------------------------------------------------------------------

type Reporter = ReturnType<typeof reporter>

function reporter(problems: FlowProblem[], step: string | null) {
  const report = (problem: FlowProblemName, detail: string | null): void => {
    problems.push({ step, problem, detail })
  }
  return Object.assign(report, {
    text(holder: JsonObject, field: string, longest: number, path: string): void {
      const text = holder[field]
      if (!(typeof text === 'string' && /\S/.test(text))) report('missing_text', path)
      else if ([...text].length > longest) report('text_too_long', path)
    },
    wholeNumber(holder: JsonObject, field: string, least: number, most: number): void {
      if (holder[field] !== undefined && !isWhole(holder[field], least, most)) report('invalid_setting', field)
    },
    variables(text: unknown, keys: ReadonlySet<string>): void {
      if (typeof text !== 'string') return
      for (const name of new Set([...text.matchAll(VARIABLE)].map(([, name = '']) => name.trim()))) {
        const known = name.startsWith('respostas.') ? keys.has(name.slice('respostas.'.length)) : VARIABLES.has(name)
        if (!known) report('unknown_variable', name)
      }
    },
  })
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isText(value: unknown, longest: number): boolean {
  return typeof value === 'string' && /\S/.test(value) && [...value].length <= longest
}

function isWhole(value: unknown, least: number, most: number): boolean {
  return typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most
}
