// How a question reaches the phone: within WhatsApp's limits, whatever the labels are.
import assert from 'node:assert/strict'
import type { Choice } from '../../functions/queue-worker/flow/conversation.ts'
import { cut, fillIn, renderChoices } from '../../functions/queue-worker/flow/render.ts'
import { emptyState } from '../../functions/queue-worker/flow/run.ts'
import { interactivePayload } from '../../types/outbound.ts'
import { Phone } from './flow-phone.ts'

const both = { buttons: true, lists: true }
const labels = (...names: string[]): Choice[] =>
  names.map((rotulo, index) => ({ valor: String(index), rotulo }))
const show = (choices: Choice[], channel = both, text = 'Qual?') =>
  renderChoices({ text, choices, button: 'Ver opções' }, channel, (index) => `s:n.1:${index}`)

function kindOf(choices: Choice[], channel = both): string {
  const { output, numbered } = show(choices, channel)
  if (output.message_type === 'text') {
    assert.equal(numbered, true)
    return 'text'
  }
  assert.equal(numbered, false)
  return interactivePayload.parse(output.payload).type
}

const many = (count: number) => labels(...Array.from({ length: count }, (_, index) => `Opção ${index + 1}`))

Deno.test('up to three short options are buttons, up to ten a list, more a numbered text', () => {
  assert.equal(kindOf(many(1)), 'button')
  assert.equal(kindOf(many(3)), 'button')
  assert.equal(kindOf(many(4)), 'list')
  assert.equal(kindOf(many(10)), 'list')
  assert.equal(kindOf(many(11)), 'text')
})

Deno.test('a label that no button holds makes a list, which says it whole', () => {
  const long = 'Consulta de acompanhamento nutricional'
  assert.equal(kindOf(labels('a'.repeat(20))), 'button')
  assert.equal(kindOf(labels('a'.repeat(21))), 'list')
  const { output } = show(labels(long, 'Retorno'))
  const payload = interactivePayload.parse(output.payload)
  assert.deepEqual(payload.type === 'list' && payload.sections[0]?.rows, [
    { id: 's:n.1:0', title: 'Consulta de acompanhame…', description: long },
    { id: 's:n.1:1', title: 'Retorno' },
  ])
})

Deno.test('two options of one name are never two buttons, which WhatsApp refuses', () => {
  assert.equal(kindOf(labels('Rex', 'Rex')), 'list')
})

Deno.test('a channel without buttons or lists gets what it can show', () => {
  assert.equal(kindOf(many(2), { buttons: false, lists: true }), 'list')
  assert.equal(kindOf(many(2), { buttons: false, lists: false }), 'text')
  assert.equal(kindOf(many(4), { buttons: true, lists: false }), 'text')
  const { output } = show([{ valor: 'a', rotulo: '9h', descricao: 'Dra. Helena' }, {
    valor: 'b',
    rotulo: '10h',
  }], {
    buttons: false,
    lists: false,
  })
  assert.deepEqual(output, {
    message_type: 'text',
    content: 'Qual?\n\n*1.* 9h (Dra. Helena)\n*2.* 10h',
    payload: null,
  })
})

Deno.test('a text is cut with an ellipsis, and an emoji is whole or not there', () => {
  const cases: [string, number, string][] = [
    ['Banho', 5, 'Banho'],
    ['Banho e tosa', 6, 'Banho…'],
    ['Banho e tosa', 7, 'Banho…'],
    ['ab👩‍👩‍👧c', 6, 'ab…'],
    ['ab👩‍👩‍👧', 7, 'ab👩‍👩‍👧'],
    ['ab👍🏽cd', 4, 'ab…'],
    ['ab👍🏽cd', 5, 'ab👍🏽…'],
    ['a🇧🇷🇵🇹b', 4, 'a🇧🇷…'],
    ['a🇧🇷🇵🇹b', 5, 'a🇧🇷…'],
    ['cafe\u0301s!', 5, 'caf…'],
    ['❤️❤️❤️', 4, '❤️…'],
    ['👩‍👩‍👧‍👦!', 3, '…'],
  ]
  for (const [text, longest, expected] of cases) {
    assert.equal(cut(text, longest), expected, text)
    assert.ok([...cut(text, longest)].length <= longest)
  }
})

Deno.test('a variable that has no value takes what leads to it along', () => {
  const { definition, context } = new Phone({ etapas: [{ id: 'fim', tipo: 'fim' }] })
  const nobody = { ...context, contact: { ...context.contact, first_name: null } }
  const fill = (text: string, who = context) => fillIn(text, definition, emptyState(), who)
  assert.equal(fill('Oi, {{nome}}! É da {{ organizacao }}.'), 'Oi, Ana! É da Vida Plena.')
  assert.equal(fill('Oi, {{nome}}!', nobody), 'Oi!')
  assert.equal(fill('Oi {{nome}}, tudo bem?', nobody), 'Oi, tudo bem?')
  assert.equal(fill('Consulta com {{profissional}} marcada'), 'Consulta marcada')
  assert.equal(fill('{{servico}}'), '…', 'a message is never empty')
})

Deno.test('what a customer is called is not read as a variable', () => {
  const { definition, context } = new Phone({ etapas: [{ id: 'fim', tipo: 'fim' }] })
  const odd = { ...context, contact: { ...context.contact, first_name: '{{organizacao}}' } }
  assert.equal(fillIn('Oi, {{nome}}!', definition, emptyState(), odd), 'Oi, {{organizacao}}!')
})

Deno.test('answers are said as they were read: the label, the Brazilian date and number', () => {
  const { definition, context } = new Phone({
    etapas: [
      {
        id: 'perfil',
        tipo: 'escolha',
        pergunta: 'Para?',
        opcoes: [{ rotulo: 'Família', valor: 'familia' }],
        proxima: 'fim',
      },
      { id: 'fim', tipo: 'fim' },
    ],
  })
  const state = { ...emptyState(), respostas: { perfil: 'familia', nascimento: '1990-03-05', peso: 4.5 } }
  const text = '{{respostas.perfil}}, {{respostas.nascimento}}, {{respostas.peso}} kg'
  assert.equal(fillIn(text, definition, state, context), 'Família, 05/03/1990, 4,5 kg')
})
