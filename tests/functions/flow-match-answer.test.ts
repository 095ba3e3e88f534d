// What customers type, and which option they mean by it.
import assert from 'node:assert/strict'
import type { Choice } from '../../functions/queue-worker/flow/conversation.ts'
import {
  distance,
  fold,
  matchAnswer,
  matchSureAnswer,
  yesOrNo,
} from '../../functions/queue-worker/flow/match-answer.ts'

const named = (...names: string[]): Choice[] => names.map((rotulo, index) => ({ valor: `v${index}`, rotulo }))
const chosen = (text: string, choices: readonly Choice[], numbered = false) =>
  matchAnswer(text, choices, numbered)?.choice.rotulo ?? null

const services = named(
  'Banho',
  'Banho e tosa completa',
  'Tosa higiênica',
  'Consulta veterinária',
  'Vacinação',
)

const meant: [string, string | null][] = [
  ['1', 'Banho'],
  ['2.', 'Banho e tosa completa'],
  ['opção 3', 'Tosa higiênica'],
  ['a 4, por favor', 'Consulta veterinária'],
  ['cinco', 'Vacinação'],
  ['2️⃣', 'Banho e tosa completa'],
  ['6', null],
  ['0', null],
  ['BANHO', 'Banho'],
  ['vacinacao', 'Vacinação'],
  ['  Tosa   higienica!! ', 'Tosa higiênica'],
  ['vac', 'Vacinação'],
  ['va', null],
  ['vacinacão', 'Vacinação'],
  ['vacinaçao do rex', 'Vacinação'],
  ['bnaho', 'Banho'],
  ['tosa higenica', 'Tosa higiênica'],
  ['tosa', 'Tosa higiênica'],
  ['consulta', 'Consulta veterinária'],
  ['veterinária', 'Consulta veterinária'],
  ['quero um banho', 'Banho'],
  ['queria marcar banho e tosa completa amanhã', 'Banho e tosa completa'],
  ['não quero banho', null],
  ['banho ou vacinação', null],
  ['bom dia', null],
  ['', null],
  ['🐶', null],
  ['???', null],
]

for (const [text, expected] of meant) {
  Deno.test(`"${text}" means ${expected ?? 'none of the services'}`, () => {
    assert.equal(chosen(text, services), expected)
  })
}

Deno.test('yes and no are said in many ways', () => {
  const choices = named('Sim, cancelar', 'Não, manter')
  for (
    const text of ['sim', 'S', 'ss', 'claro', 'pode ser', 'ok!', '👍', '👍🏽', 'isso mesmo', 'Sim por favor']
  ) {
    assert.equal(chosen(text, choices), 'Sim, cancelar', text)
    assert.equal(yesOrNo(text), 'sim', text)
  }
  for (const text of ['não', 'nao', 'N', '👎', 'não, obrigada', 'negativo']) {
    assert.equal(chosen(text, choices), 'Não, manter', text)
    assert.equal(yesOrNo(text), 'nao', text)
  }
  assert.equal(chosen('sim', named('Sim, hoje', 'Sim, amanhã')), null, 'two of them could be meant')
  assert.equal(yesOrNo('talvez'), null)
})

Deno.test('whoever says no in any way has named no option', () => {
  const choices = named('Sim, pode marcar', 'Outro horário', 'Desistir')
  for (
    const text of [
      'não pode marcar',
      'n pode marcar',
      'nn, pode marcar',
      'nem sim, pode marcar',
      'sem marcar',
      'jamais marcar',
      'nunca marcar',
      'desisti de marcar',
      'desisti, sim, pode marcar',
    ]
  ) {
    assert.equal(chosen(text, choices), null, text)
  }
  const plans = named('Com coparticipação', 'Sem coparticipação', 'Ainda não sei')
  assert.equal(chosen('sem coparticipação mesmo, viu', plans), 'Sem coparticipação')
  assert.equal(chosen('sem copar', plans), 'Sem coparticipação')
  assert.equal(chosen('não sei', plans), 'Ainda não sei')
  assert.equal(chosen('sen coparticipacao', plans), null)
})

Deno.test('to be sure, a whole answer is wanted: what only mentions an option is none', () => {
  const choices: Choice[] = [
    { valor: 'sim', rotulo: 'Sim, cancelar', sinonimos: ['sim quero cancelar'] },
    { valor: 'nao', rotulo: 'Não, manter', sinonimos: ['nao', 'manter', 'nao cancelar'] },
  ]
  const sure = (text: string) => matchSureAnswer(text, choices, false)?.choice.valor ?? null
  for (
    const text of ['sim', 'Sim, cancelar!', 'sim quero cancelar', '1', 'um', 'ok', '👍', 'sim, por favor']
  ) {
    assert.equal(sure(text), 'sim', text)
  }
  for (const text of ['não', 'n', '2', 'manter', 'não, manter', 'Não cancelar', 'não, obrigada', '👎']) {
    assert.equal(sure(text), 'nao', text)
  }
  for (
    const text of [
      '',
      'cancelar',
      'desisti de cancelar',
      'nem quero mais cancelar',
      'sem cancelar',
      'cancelar? jamais',
      'posso cancelar depois?',
      'quanto custa cancelar?',
      'n cancelar',
      'nn cancela',
      'mudei de ideia sobre cancelar',
      'sim cancela',
      'sim, cancelar só se for de graça',
      'sin cancelar',
      'no quero',
    ]
  ) {
    assert.equal(sure(text), null, text)
  }
})

Deno.test('an hour is meant where hours are shown, an option where numbers are', () => {
  const hours: Choice[] = [
    { valor: 'a', rotulo: '8h', sinonimos: ['8', '8:00'] },
    { valor: 'b', rotulo: '2h', sinonimos: ['2', '2:00'] },
  ]
  assert.equal(chosen('2', hours), '2h')
  assert.equal(chosen('às 8:00', hours), '8h')
  assert.equal(chosen('2', [...hours].reverse(), true), '8h')
  assert.equal(chosen('1', hours), '8h', 'it is no hour, so it is the first')
})

Deno.test('a wrong digit is another day, not a slip of the thumb', () => {
  const days = named('Quarta-feira, 25/11', 'Quinta-feira, 26/11')
  assert.equal(chosen('quarta-feira, 24/11', days), null)
  assert.equal(chosen('quarta feria 25/11', days), 'Quarta-feira, 25/11')
})

Deno.test('a slip that fits two options is none', () => {
  assert.equal(chosen('carla', named('Carlo', 'Carli')), null)
  assert.equal(chosen('gata', named('Gato', 'Gate')), null)
})

Deno.test('an option can be called like a number', () => {
  const people = named('1', '2', '3 ou mais')
  assert.equal(chosen('2', people), '2')
  assert.equal(chosen('3', people), '3 ou mais')
})

Deno.test('what is compared has no accents, case or punctuation', () => {
  assert.equal(fold('  Às 14:30, pode?  '), 'as 14 30 pode')
  assert.equal(fold('Coração — É!'), 'coracao e')
  assert.equal(fold('1º'), '1o')
})

Deno.test('typing errors are counted: one more, one less, another, two swapped', () => {
  const counts: [string, string, number][] = [
    ['banho', 'banho', 0],
    ['banho', 'bnho', 1],
    ['banho', 'banhoo', 1],
    ['banho', 'banio', 1],
    ['banho', 'bnaho', 1],
    ['ca', 'abc', 3],
    ['', 'abc', 3],
  ]
  for (const [one, other, count] of counts) {
    assert.equal(distance(one, other), count, `${one} ${other}`)
    assert.equal(distance(other, one), count, `${other} ${one}`)
  }
  assert.equal(distance('aaaaaaaaaa', 'bbbbbbbbbb', 2), Infinity)
})

Deno.test('a very long text is decided on in a moment', () => {
  assert.equal(chosen('a '.repeat(100_000), services), null)
})
