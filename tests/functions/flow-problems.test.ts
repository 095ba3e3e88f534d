// What is wrong with a definition is found when it is saved, by name and place.
import assert from 'node:assert/strict'
import { isObject } from '../../functions/_shared/json.ts'
import { flowDefinition } from '../../types/flow-definition.ts'
import { findProblems, flowProblemNames, isSafePattern } from '../../types/flow-problems.ts'
import { template } from './flow-phone.ts'
import { mulberry } from './flow-random.ts'

type Json = Record<string, unknown>

const end = { id: 'fim', tipo: 'fim' }
const flow = (...etapas: unknown[]): Json => ({ etapas })
/** One step under test, which leads to the end. */
const leading = (step: Json): Json => flow({ id: 'a', proxima: 'fim', ...step }, end)
const message = { tipo: 'mensagem', pergunta: 'Oi' }
const choice = (opcoes: unknown): Json => leading({ tipo: 'escolha', pergunta: 'Qual?', opcoes })
const question = (validacao: unknown): Json => leading({ tipo: 'pergunta', pergunta: 'Qual?', validacao })
const action = (acao: unknown, more: Json = {}): Json => leading({ tipo: 'acao', acao, ...more })
const condition = (condicao: unknown): Json =>
  flow(
    { id: 'idade', tipo: 'pergunta', pergunta: 'Idade?', proxima: 'c' },
    { id: 'c', tipo: 'condicao', condicoes: [condicao], proxima: 'fim' },
    end,
  )
const option = { rotulo: 'Sim', valor: 'sim' }

/** The definition, and what is wrong with it: "<step> <problem> <detail>". */
const wrong: [string, unknown, string[]][] = [
  ['no object', null, ['- not_an_object -']],
  ['a list', [], ['- not_an_object -']],
  ['no steps', {}, ['- no_steps etapas']],
  ['an empty list of steps', flow(), ['- no_steps etapas']],
  [
    'too many steps',
    flow(...Array.from({ length: 201 }, (_, index) => ({ ...end, id: `f${index}` }))),
    ['- too_many_steps etapas'],
  ],
  ['a session of a minute', { ...leading(message), expira_em_minutos: 4 }, [
    '- invalid_setting expira_em_minutos',
  ]],
  ['half an attempt', { ...leading(message), max_tentativas: 1.5 }, ['- invalid_setting max_tentativas']],
  [
    'no attempt at a step',
    leading({ ...choice([option]), tipo: 'escolha', pergunta: 'x', opcoes: [option], max_tentativas: 0 }),
    ['a invalid_setting max_tentativas'],
  ],
  ['a step that is no object', flow(end, 'x'), ['#1 not_an_object -']],
  ['a step without id', flow(end, { tipo: 'fim' }), ['#1 invalid_id id', '#1 unreachable -']],
  ['an id with capitals', flow({ ...end, id: 'Fim' }), ['#0 invalid_id id']],
  ['one id twice', flow(end, end), ['fim duplicate_id id']],
  ['a step of an unknown kind', leading({ tipo: 'pular' }), [
    'a unknown_type tipo',
    'a no_end -',
    'fim unreachable -',
  ]],
  ['a message without text', leading({ tipo: 'mensagem' }), ['a missing_text pergunta']],
  ['a message of spaces', leading({ ...message, pergunta: '  \n' }), ['a missing_text pergunta']],
  ['a text too long', leading({ ...message, pergunta: 'x'.repeat(1025) }), ['a text_too_long pergunta']],
  ['a choice of nothing', choice([]), ['a missing_options opcoes']],
  ['a choice without options', choice(undefined), ['a missing_options opcoes']],
  ['an option that is no object', choice(['Sim']), ['a missing_options opcoes[0]']],
  [
    'too many options',
    choice(Array.from({ length: 21 }, (_, index) => ({ rotulo: `${index}`, valor: `${index}` }))),
    ['a too_many_options opcoes'],
  ],
  ['an option without label', choice([{ valor: 'sim' }]), ['a missing_text opcoes[0].rotulo']],
  ['an option without value', choice([{ rotulo: 'Sim' }]), ['a missing_text opcoes[0].valor']],
  ['a label too long', choice([{ rotulo: 'x'.repeat(61), valor: 'x' }]), [
    'a text_too_long opcoes[0].rotulo',
  ]],
  ['a value twice', choice([option, { ...option, rotulo: 'Claro' }]), ['a duplicate_option opcoes[1].valor']],
  ['a label twice', choice([option, { ...option, valor: 's' }]), ['a duplicate_option opcoes[1].rotulo']],
  ['a key with spaces', leading({ tipo: 'pergunta', pergunta: '?', chave: 'a b' }), ['a invalid_id chave']],
  ['a validation of an unknown kind', question({ tipo: 'cor' }), ['a invalid_validation validacao.tipo']],
  ['a validation that is no object', question('numero'), ['a invalid_validation validacao']],
  ['bounds the wrong way round', question({ tipo: 'numero', min: 2, max: 1 }), [
    'a invalid_validation validacao.max',
  ]],
  ['bounds where there are none', question({ tipo: 'email', min: 1 }), [
    'a invalid_validation validacao.min',
  ]],
  ['half a letter', question({ tipo: 'texto', min: 1.5 }), ['a invalid_validation validacao.min']],
  ['a pattern that takes for ever', question({ tipo: 'texto', padrao: '(a+)+' }), [
    'a invalid_validation validacao.padrao',
  ]],
  ['a hint that is empty', question({ tipo: 'cpf', mensagem: '' }), ['a missing_text validacao.mensagem']],
  ['a condition on nothing', leading({ tipo: 'condicao', condicoes: [] }), ['a invalid_condition condicoes']],
  ['a condition that is no object', condition('x'), ['c invalid_condition condicoes[0]']],
  [
    'a condition on a test without a name',
    condition({ chave: 'teste. ', operador: 'existe', proxima: 'fim' }),
    ['c invalid_condition condicoes[0].chave'],
  ],
  [
    'a condition on an answer that nobody gives',
    condition({ chave: 'peso', operador: 'existe', proxima: 'fim' }),
    ['c invalid_condition condicoes[0].chave'],
  ],
  [
    'an operator that does not exist',
    condition({ chave: 'idade', operador: '>', valor: 3, proxima: 'fim' }),
    ['c invalid_condition condicoes[0].operador'],
  ],
  [
    'a comparison with nothing',
    condition({ chave: 'idade', operador: 'igual', proxima: 'fim' }),
    ['c invalid_condition condicoes[0].valor'],
  ],
  ['an action that does not exist', action({ tipo: 'voar' }), ['a invalid_action acao.tipo']],
  ['an action that comes later', action({ tipo: 'definir_etapa_jornada' }), [
    'a unsupported_action acao.tipo',
  ]],
  ['an action that is no object', action('agendar'), ['a invalid_action acao']],
  ['an empty tag', action({ tipo: 'etiquetar', etiqueta: '' }), ['a invalid_action acao.etiqueta']],
  ['a wait of no time', action({ tipo: 'aguardar', minutos: 0 }), ['a invalid_action acao.minutos']],
  ['a status that leads do not have', action({ tipo: 'atualizar_lead', status: 'rico' }), [
    'a invalid_action acao.status',
  ]],
  ['a professional without id', action({ tipo: 'criar_lead', profissional: 'Ana' }), [
    'a invalid_action acao.profissional',
  ]],
  ['slots of a year', action({ tipo: 'escolher_horario', dias: 365 }), ['a invalid_action acao.dias']],
  ['a variable that there is not', leading({ ...message, pergunta: '{{ sobrenome }}' }), [
    'a unknown_variable sobrenome',
  ]],
  ['an answer that nobody gives', leading({ ...message, pergunta: '{{respostas.cor}}' }), [
    'a unknown_variable respostas.cor',
  ]],
  ['a message that leads nowhere', flow({ id: 'a', ...message }), ['a missing_next proxima', 'a no_end -']],
  ['a next step that does not exist', leading({ ...message, proxima: 'x' }), [
    'a unknown_next proxima',
    'a no_end -',
    'fim unreachable -',
  ]],
  [
    'an option that leads nowhere',
    flow({
      id: 'a',
      tipo: 'escolha',
      pergunta: '?',
      opcoes: [{ ...option, proxima: 'fim' }, { rotulo: 'N', valor: 'n' }],
    }, end),
    ['a missing_next opcoes[1].proxima'],
  ],
  [
    'an action that leads nowhere',
    flow({ id: 'a', tipo: 'acao', acao: { tipo: 'agendar' }, em_falha: 'fim' }, end),
    [
      'a missing_next proxima',
    ],
  ],
  ['a way out that does not exist', action({ tipo: 'agendar' }, { em_erro: 'x' }), [
    'a unknown_next em_erro',
  ]],
  ['a beginning that does not exist', { ...flow(end), inicio: 'x' }, ['- unknown_next inicio']],
  ['a step that nobody gets to', flow(end, { ...end, id: 'outro' }), ['outro unreachable -']],
  [
    'questions without end',
    flow(
      { id: 'a', tipo: 'pergunta', pergunta: '?', proxima: 'b' },
      { id: 'b', tipo: 'pergunta', pergunta: '?', proxima: 'a' },
    ),
    ['a no_end -', 'b no_end -'],
  ],
  [
    'messages without end',
    flow(
      {
        id: 'a',
        tipo: 'condicao',
        condicoes: [{ chave: 'contato.nome', operador: 'existe', proxima: 'b' }],
        proxima: 'fim',
      },
      { id: 'b', ...message, proxima: 'a' },
      end,
    ),
    ['a silent_loop -', 'b silent_loop -'],
  ],
  [
    'a wait without end',
    flow(
      { id: 'a', tipo: 'acao', acao: { tipo: 'aguardar', minutos: 1 }, proxima: 'a', em_erro: 'fim' },
      end,
    ),
    ['a silent_loop -'],
  ],
]

for (const [name, definition, expected] of wrong) {
  Deno.test(`${name} is a problem`, () => {
    const found = findProblems(definition).map(({ step, problem, detail }) =>
      `${step ?? '-'} ${problem} ${detail ?? '-'}`
    )
    assert.deepEqual(found.sort(), [...expected].sort())
    assert.equal(flowDefinition.safeParse(definition).success, false)
  })
}

Deno.test('every problem has an example here', () => {
  const found = new Set(
    wrong.flatMap(([, definition]) => findProblems(definition).map(({ problem }) => problem)),
  )
  assert.deepEqual(flowProblemNames.filter((name) => !found.has(name)), [])
})

Deno.test('nothing is wrong with what is not', () => {
  const right: unknown[] = [
    flow(end),
    { ...flow(end), expira_em_minutos: 5, max_tentativas: 10, inicio: 'fim' },
    leading(message),
    leading({ ...message, pergunta: `{{nome}} {{ servico }} ${'🐶'.repeat(900)}` }),
    choice([option]),
    choice(
      Array.from({ length: 20 }, (_, index) => ({ rotulo: `${index}`.padStart(60, 'x'), valor: `${index}` })),
    ),
    question({ tipo: 'data', min: -10, max: 0, mensagem: 'Qual data?' }),
    question({ tipo: 'texto', padrao: '[A-Z]{3}-?\\d[A-Z0-9]\\d{2}' }),
    condition({ chave: 'contato.etiquetas', operador: 'contem', valor: 'vip', proxima: 'fim' }),
    condition({ chave: 'teste.Saudação nova 🎉', operador: 'igual', valor: 'b', proxima: 'fim' }),
    condition({ chave: 'idade', operador: 'maior', valor: 17, proxima: 'fim' }),
    flow({ id: 'a', tipo: 'acao', acao: { tipo: 'transferir' } }),
    action({ tipo: 'escolher_horario', dias: 60, quantos: 10 }, {
      proxima_sem_horario: 'fim',
      pergunta: 'Quando?',
    }),
    // A loop with a question in it is a menu.
    flow({
      id: 'a',
      tipo: 'escolha',
      pergunta: '?',
      opcoes: [{ ...option, proxima: 'b' }, { rotulo: 'N', valor: 'n', proxima: 'fim' }],
    }, {
      id: 'b',
      ...message,
      proxima: 'a',
    }, end),
  ]
  for (const definition of right) {
    assert.deepEqual(findProblems(definition), [], JSON.stringify(definition).slice(0, 200))
  }
})

Deno.test('a pattern is refused that a short answer could keep busy', () => {
  const safe = ['\\d+', '[a-z]*', 'a{2,5}', '(?:sp|rj)-\\d{4}', '\\d{3}\\.\\d{3}\\.\\d{3}-\\d{2}', 'é+']
  const unsafe = [
    '',
    '(a+)+',
    '(a|a)*',
    '(a*)*b',
    '(?=a)a',
    '(?<x>a)',
    '(a)\\1',
    'a*a*a*a*',
    'a?a?a?a?a?a?a?',
    'a{1000}',
    '[',
    'x'.repeat(201),
    '\\u0041',
    '(a',
  ]
  for (const pattern of safe) assert.equal(isSafePattern(pattern), true, pattern)
  for (const pattern of unsafe) assert.equal(isSafePattern(pattern), false, pattern)
})

Deno.test('the check and the type agree on 3,000 definitions with something changed', () => {
  const seed = Number(Deno.env.get('FLOW_SEED') ?? 20261123)
  const random = mulberry(seed)
  const templates = ['triagem_planos_de_saude', 'agendamento_clinica', 'agendamento_petshop'].map(template)
  let broken = 0
  for (let round = 0; round < 3000; round++) {
    const definition = structuredClone(templates[round % 3]?.definition)
    for (let change = 0; change <= random(3); change++) mutate(definition, random)
    const problems = findProblems(definition)
    if (problems.length > 0) broken++
    assert.equal(
      flowDefinition.safeParse(definition).success,
      problems.length === 0,
      `seed ${seed}, round ${round}: ${JSON.stringify(problems)}`,
    )
  }
  assert.ok(broken > 1000 && broken < 3000, `${broken} were broken`)
})

/** Takes something away, puts something else in its place, or swaps texts. */
function mutate(definition: unknown, random: (below: number) => number): void {
  const places: { holder: Json | unknown[]; key: string | number }[] = []
  const walk = (value: unknown): void => {
    if (Array.isArray(value)) {
      for (const [key, item] of value.entries()) {
        places.push({ holder: value, key })
        walk(item)
      }
    } else if (isObject(value)) {
      for (const [key, item] of Object.entries(value)) {
        places.push({ holder: value, key })
        walk(item)
      }
    }
  }
  walk(definition)
  const chosen = places[random(places.length)]
  if (chosen === undefined) return
  const { holder, key } = chosen
  const values = [
    null,
    0,
    -1,
    3,
    1.5,
    '',
    ' ',
    'menu',
    'fim',
    'x'.repeat(70),
    '{{nome}}',
    '{{x}}',
    true,
    [],
    {},
    ['a'],
  ]
  if (Array.isArray(holder) && typeof key === 'number') {
    if (random(2) === 0) holder.splice(key, 1)
    else holder[key] = values[random(values.length)]
  } else if (!Array.isArray(holder) && typeof key === 'string') {
    if (random(2) === 0) delete holder[key]
    else holder[key] = values[random(values.length)]
  }
}
