// What the engine does at each kind of step, and with everything a customer can do there.
import assert from 'node:assert/strict'
import type { FlowAction } from '../../functions/queue-worker/flow/conversation.ts'
import { newSession, step } from '../../functions/queue-worker/flow/step.ts'
import { giveUp, playTurn, replayTurn } from '../../functions/queue-worker/flow/turn.ts'
import { type FlowDefinition, flowDefinitionShape } from '../../types/flow-definition.ts'
import { booking, openDays, pet, Phone, type PhoneOptions, service, slot, uuid } from './flow-phone.ts'

const end = { id: 'fim', tipo: 'fim', pergunta: 'Até logo!' }
const flow = (...etapas: unknown[]) => ({ etapas: [...etapas, end] })
const yesNo = [{ rotulo: 'Sim', valor: 'sim' }, { rotulo: 'Não', valor: 'nao' }]
const choice = (more: Record<string, unknown> = {}) => (
  { id: 'cor', tipo: 'escolha', pergunta: 'Qual cor?', opcoes: colours, proxima: 'fim', ...more }
)
const colours = [{ rotulo: 'Azul', valor: 'a' }, { rotulo: 'Verde', valor: 'v' }, {
  rotulo: 'Vermelho',
  valor: 'r',
}]
const action = (acao: Record<string, unknown>, more: Record<string, unknown> = {}) =>
  flow({ id: 'acao', tipo: 'acao', acao, proxima: 'fim', ...more })

async function phone(definition: unknown, options: PhoneOptions = {}, ...texts: string[]): Promise<Phone> {
  const started = await new Phone(definition, options).write('oi')
  for (const text of texts) await started.write(text)
  return started
}

// mensagem, escolha, pergunta, condicao, fim ---------------------------------------------------------------------------

Deno.test('messages are said one after the other, up to the first question', async () => {
  const { received, session } = await phone(flow(
    { id: 'a', tipo: 'mensagem', pergunta: 'Oi, {{nome}}!', proxima: 'b' },
    { id: 'b', tipo: 'mensagem', pergunta: 'Tudo bem?', proxima: 'cor' },
    choice(),
  ))
  assert.deepEqual(received.map(({ content }) => content), ['Oi, Ana!', 'Tudo bem?', 'Qual cor?'])
  assert.equal(session?.current_step, 'cor')
})

Deno.test('a choice is taken by tap, number, label or value, and its own way is gone', async () => {
  const definition = flow(
    choice({ opcoes: [...colours.slice(0, 2), { rotulo: 'Vermelho', valor: 'rubro', proxima: 'quente' }] }),
    { id: 'quente', tipo: 'fim', pergunta: 'Que quente!' },
  )
  for (const text of ['3', 'vermelho', 'VERMELHO!', 'rubro', 'vermelo', 'quero vermelho']) {
    const answered = await phone(definition, {}, text)
    assert.equal(answered.read, 'Que quente!', text)
    assert.deepEqual(answered.answers, { cor: 'rubro' })
    assert.equal(answered.status, 'completed')
  }
  assert.equal((await (await phone(definition)).tap('Verde')).read, 'Até logo!')
})

Deno.test('an answer is kept under its key, and said again where a text asks for it', async () => {
  const answered = await phone(
    flow(choice({ chave: 'tom', proxima: 'diz' }), {
      id: 'diz',
      tipo: 'mensagem',
      pergunta: 'Você disse {{respostas.tom}}.',
      proxima: 'fim',
    }),
    {},
    'azul',
  )
  assert.deepEqual(answered.answers, { tom: 'a' })
  assert.equal(answered.read, 'Você disse Azul.\n---\nAté logo!')
})

Deno.test('a question keeps what is valid and asks again for what is not', async () => {
  const definition = flow({
    id: 'idade',
    tipo: 'pergunta',
    pergunta: 'Sua idade?',
    validacao: { tipo: 'inteiro', min: 18 },
    proxima: 'fim',
  })
  const asked = await phone(definition, {}, 'dezessete')
  assert.equal(asked.read, 'Responda com um número, por favor.\n\nSua idade?')
  assert.equal((await asked.write('17')).read, 'O número precisa ser pelo menos 18.\n\nSua idade?')
  assert.equal((await asked.write('18')).read, 'Até logo!')
  assert.deepEqual(asked.answers, { idade: 18 })
})

Deno.test('yes or no is asked with buttons', async () => {
  const definition = flow({
    id: 'certo',
    tipo: 'pergunta',
    pergunta: 'Certo?',
    validacao: { tipo: 'sim_nao' },
    proxima: 'fim',
  })
  const asked = await phone(definition)
  assert.deepEqual(asked.options.map(({ title }) => title), ['Sim', 'Não'])
  assert.deepEqual((await asked.write('👍')).answers, { certo: 'sim' })
})

const conditions: {
  name: string
  condition: Record<string, unknown>
  options?: PhoneOptions
  holds: boolean
}[] = [
  {
    name: 'an answer that is the same, whatever its accents',
    condition: { chave: 'x', operador: 'igual', valor: 'SÃO PAULO' },
    holds: true,
  },
  {
    name: 'an answer that is another',
    condition: { chave: 'x', operador: 'diferente', valor: 'recife' },
    holds: true,
  },
  { name: 'a part of an answer', condition: { chave: 'x', operador: 'contem', valor: 'paulo' }, holds: true },
  { name: 'an answer that there is', condition: { chave: 'x', operador: 'existe' }, holds: true },
  { name: 'an answer that is not there', condition: { chave: 'y', operador: 'existe' }, holds: false },
  { name: 'nothing where nothing is', condition: { chave: 'y', operador: 'vazio' }, holds: true },
  { name: 'another than nothing', condition: { chave: 'y', operador: 'diferente', valor: 'x' }, holds: true },
  { name: 'a name', condition: { chave: 'contato.nome', operador: 'contem', valor: 'souza' }, holds: true },
  {
    name: 'a tag',
    condition: { chave: 'contato.etiquetas', operador: 'igual', valor: 'vip' },
    options: {
      context: {
        contact: { id: uuid(9, 2), name: null, first_name: null, tags: ['novo', 'VIP'], phone_number: null },
      },
    },
    holds: true,
  },
  { name: 'no tag', condition: { chave: 'contato.etiquetas', operador: 'vazio' }, holds: true },
  {
    name: 'the vertical',
    condition: { chave: 'organizacao.vertical', operador: 'igual', valor: 'petshop' },
    holds: false,
  },
  {
    name: 'more animals than none',
    condition: { chave: 'pets.quantidade', operador: 'maior', valor: 0 },
    holds: false,
  },
  {
    name: 'animals',
    condition: { chave: 'pets.quantidade', operador: 'igual', valor: '2' },
    options: { business: { pets: [pet(1, 'Rex'), pet(2, 'Mia')] } },
    holds: true,
  },
  {
    name: 'a variant',
    condition: { chave: 'teste.Saudação: 2ª versão', operador: 'igual', valor: 'B' },
    options: { business: { variants: { 'Saudação: 2ª versão': 'b' } } },
    holds: true,
  },
  {
    name: 'the other variant',
    condition: { chave: 'teste.Saudação', operador: 'igual', valor: 'a' },
    options: { business: { variants: { 'Saudação': 'b' } } },
    holds: false,
  },
  {
    name: 'a test that does not run',
    condition: { chave: 'teste.constructor', operador: 'existe' },
    options: { business: { variants: {} } },
    holds: false,
  },
  {
    name: 'less than a number',
    condition: { chave: 'pets.quantidade', operador: 'menor', valor: 1 },
    holds: true,
  },
]
for (const { name, condition, options, holds } of conditions) {
  Deno.test(`a condition asks for ${name}`, async () => {
    const asked = await phone(
      flow(
        { id: 'x', tipo: 'pergunta', pergunta: 'Cidade?', proxima: 'c' },
        { id: 'c', tipo: 'condicao', condicoes: [{ ...condition, proxima: 'sim' }], proxima: 'y' },
        { id: 'y', tipo: 'pergunta', pergunta: 'Não.', proxima: 'fim' },
        { id: 'sim', tipo: 'fim', pergunta: 'Sim.' },
      ),
      options,
      'são paulo',
    )
    assert.equal(asked.read, holds ? 'Sim.' : 'Não.')
  })
}

Deno.test('a customer takes part only in the tests that decide his way', async () => {
  const definition = flow(
    {
      id: 'c',
      tipo: 'condicao',
      condicoes: [
        { chave: 'contato.etiquetas', operador: 'igual', valor: 'vip', proxima: 'vip' },
        { chave: 'teste.Um', operador: 'igual', valor: 'b', proxima: 'b' },
        { chave: 'pets.quantidade', operador: 'igual', valor: 1, proxima: 'pet' },
        { chave: 'teste.Dois', operador: 'existe', proxima: 'b' },
      ],
      proxima: 'fim',
    },
    { id: 'vip', tipo: 'fim', pergunta: 'Olá!' },
    { id: 'pet', tipo: 'fim', pergunta: 'Como vai o seu pet?' },
    { id: 'b', tipo: 'fim', pergunta: 'E aí?' },
  )
  const person = { id: uuid(9, 2), name: 'Ana', first_name: 'Ana', tags: [], phone_number: null }
  for (
    const { tags = [], variants, pets = [], shown, read } of [
      { tags: ['vip'], variants: { Um: 'b' }, shown: [], read: 'Olá!' },
      { variants: { Um: 'b', Dois: 'a' }, shown: ['Um'], read: 'E aí?' },
      { variants: { Um: 'a', Dois: 'a' }, pets: [pet(1, 'Rex')], shown: ['Um'], read: 'Como vai o seu pet?' },
      { variants: { Um: 'a', Dois: 'a' }, shown: ['Um', 'Dois'], read: 'E aí?' },
    ] as const
  ) {
    const asked = await phone(definition, {
      context: { contact: { ...person, tags: [...tags] } },
      business: { variants, pets: [...pets] },
    })
    assert.deepEqual([asked.read, [...asked.shown]], [read, shown])
  }
})

Deno.test('an end can close the conversation, and says nothing if it has nothing to say', async () => {
  const closed = await new Phone({ etapas: [{ id: 'fim', tipo: 'fim', encerrar: true }] }).write('oi')
  assert.deepEqual(closed.received, [])
  assert.deepEqual(closed.done, [{ tipo: 'encerrar' }])
  assert.equal(closed.status, 'completed')
})

// What can go wrong with an answer ---------------------------------------------------------------------------------------

Deno.test('the third wrong answer in a row calls a human', async () => {
  const asked = await phone(flow(choice()), {}, 'roxo')
  assert.equal(asked.read, 'Desculpe, não entendi. Escolha uma das opções, por favor.\n\nQual cor?')
  await asked.write('lilás')
  assert.equal(asked.status, 'running')
  await asked.write('bege')
  assert.equal(asked.status, 'handed_over')
  assert.deepEqual(asked.done, [{ tipo: 'transferir', motivo: 'respostas_nao_entendidas' }])
})

Deno.test('a step or a definition may be more patient, or know another way out', async () => {
  const patient = await phone(flow(choice({ max_tentativas: 1, em_falha: 'fim' })), {}, 'roxo')
  assert.equal(patient.read, 'Até logo!')
  const strict = await phone({ ...flow(choice()), max_tentativas: 1 }, {}, 'roxo')
  assert.equal(strict.status, 'handed_over')
})

Deno.test('a right answer makes the wrong ones before it forgotten', async () => {
  const definition = flow(choice({ proxima: 'outra' }), { ...choice(), id: 'outra' })
  const asked = await phone(definition, {}, 'roxo', 'roxo', 'azul', 'roxo', 'roxo')
  assert.equal(asked.status, 'running')
})

Deno.test('pictures and voice messages are refused politely, two in a row are one wrong answer', async () => {
  const asked = await phone(flow(choice()))
  for (let picture = 1; picture <= 5; picture++) {
    await asked.picture()
    assert.equal(asked.read, 'Por enquanto só entendo texto. Pode me escrever?\n\nQual cor?')
    assert.equal(asked.session?.state.tentativas, Math.floor(picture / 2))
  }
  await asked.picture()
  assert.equal(asked.status, 'handed_over')
})

Deno.test('a tap on an option of an old question is no answer to the new one, and no wrong answer', async () => {
  const definition = flow(choice({ proxima: 'outra' }), { ...choice({ pergunta: 'E agora?' }), id: 'outra' })
  const asked = await phone(definition)
  const [blue] = asked.options
  assert.ok(blue)
  await asked.write('verde')
  await asked.send(asked.message({ message_type: 'button', text: blue.title, reply_id: blue.id }))
  assert.equal(asked.read, 'Essa opção era de uma pergunta anterior. Vamos seguir daqui:\n\nE agora?')
  assert.equal(asked.session?.state.tentativas, 0)
  assert.deepEqual(asked.answers, { cor: 'v' })
})

Deno.test('the options of a question that was repeated are still its options', async () => {
  const asked = await phone(flow(choice()))
  const [, green] = asked.options
  assert.ok(green)
  await asked.write('roxo')
  await asked.send(asked.message({ message_type: 'button', text: green.title, reply_id: green.id }))
  assert.deepEqual(asked.answers, { cor: 'v' })
})

Deno.test('the options of the question asked again from the menu are new ones', async () => {
  const asked = await phone(flow(choice()))
  const [blue] = asked.options
  await asked.write('menu')
  assert.notEqual(asked.options[0]?.id, blue?.id)
})

Deno.test('a question too long for buttons and words of apology is asked on its own', async () => {
  const asked = await phone(flow(choice({ pergunta: 'x'.repeat(1024) })), {}, 'roxo')
  assert.deepEqual(asked.received.map(({ content }) => content.length), [57, 1024])
})

// Words that always work ---------------------------------------------------------------------------------------------------

Deno.test('a human is called whenever the customer asks for one', async () => {
  for (const text of ['atendente', 'Humano!', 'falar com atendente', 'Quero falar com uma pessoa']) {
    const asked = await phone(
      flow({ id: 'nome', tipo: 'pergunta', pergunta: 'Seu nome?', proxima: 'fim' }),
      {},
      text,
    )
    assert.equal(asked.status, 'handed_over', text)
    assert.deepEqual(asked.done, [{ tipo: 'transferir', motivo: 'pedido_do_cliente' }])
  }
  const first = await new Phone(flow(choice())).write('atendente')
  assert.equal(first.status, 'handed_over')
})

Deno.test('a session ends when the customer wants it to', async () => {
  for (const text of ['sair', 'PARAR', 'encerrar']) {
    const asked = await phone(flow(choice()), {}, text)
    assert.equal(asked.status, 'completed', text)
    assert.deepEqual(asked.done, [])
  }
})

Deno.test('menu begins again, without the answers of before', async () => {
  const asked = await phone(
    flow(choice({ proxima: 'outra' }), { ...choice(), id: 'outra' }),
    {},
    'azul',
    'recomeçar',
  )
  assert.equal(asked.session?.current_step, 'cor')
  assert.deepEqual(asked.answers, {})
})

Deno.test('an option that is called like such a word is the option', async () => {
  const definition = flow(
    choice({ opcoes: [{ rotulo: 'Menu', valor: 'cardapio' }, { rotulo: 'Sair', valor: 'sair' }] }),
  )
  assert.deepEqual((await phone(definition, {}, 'menu')).answers, { cor: 'cardapio' })
  assert.deepEqual((await phone(definition, {}, 'sair')).answers, { cor: 'sair' })
})

Deno.test('a word that asks for a human can be part of an answer', async () => {
  const opcoes = [{ rotulo: 'Pessoa física', valor: 'pf' }, { rotulo: 'Empresa', valor: 'pj' }]
  assert.deepEqual((await phone(flow(choice({ opcoes })), {}, 'pessoa')).answers, { cor: 'pf' })
})

Deno.test('thanks do not open the menu again', async () => {
  const thanked = await new Phone(flow(choice())).write('Obrigada!!')
  assert.equal(thanked.read, 'Imagina! Quando precisar, é só mandar uma mensagem. 😊')
  assert.equal(thanked.status, 'completed')
})

Deno.test('a session that came too late is begun anew, and says so', async () => {
  const late = await phone(flow(choice()), { context: { expired: true } })
  assert.match(late.read, /^Como já faz um tempinho .*\n---\nQual cor\?$/)
  await late.write('menu')
  assert.equal(late.read, 'Qual cor?')
})

// Several messages in one turn -------------------------------------------------------------------------------------------

Deno.test('two messages in the same instant are answered once', async () => {
  const asked = await new Phone(flow(choice())).write('oi', 'tudo bem?', 'quero marcar')
  assert.equal(asked.read, 'Qual cor?')
  assert.equal(asked.session?.state.tentativas, 0)
  assert.equal(asked.turn?.last_message_id, uuid(8, 3))
})

Deno.test('who names an option before it was offered has chosen it, but a number is none yet', async () => {
  const named = await new Phone(flow(choice())).write('oi', 'quero azul')
  assert.deepEqual(named.answers, { cor: 'a' })
  const numbered = await new Phone(flow(choice())).write('oi', '2')
  assert.equal(numbered.status, 'running')
  assert.deepEqual(numbered.answers, {})
})

Deno.test('what was written before a question is not taken for its answer', async () => {
  const definition = flow({ id: 'nome', tipo: 'pergunta', pergunta: 'Seu nome?', proxima: 'fim' })
  const asked = await new Phone(definition).write('oi', 'tudo bem?')
  assert.deepEqual([asked.read, asked.answers], ['Seu nome?', {}])
  const human = await new Phone(definition).write('oi', 'atendente')
  assert.equal(human.status, 'handed_over')
})

Deno.test('the database may say so too: a message older than the question', async () => {
  const asked = await phone(flow(choice()))
  await asked.send(asked.message({ text: 'bom dia', early: true }))
  assert.deepEqual([asked.received, asked.session?.state.tentativas], [[], 0])
})

Deno.test('answers that wait for one another are all heard', async () => {
  const definition = flow(choice({ proxima: 'outra' }), { ...choice(), id: 'outra' })
  const asked = await phone(definition)
  await asked.write('azul', 'verde')
  assert.deepEqual(asked.answers, { cor: 'a', outra: 'v' })
})

Deno.test('what comes after the end of a session is not answered by it', async () => {
  const ended = await phone(flow(choice()), {}, 'azul')
  await ended.write('e agora?')
  assert.deepEqual([ended.received, ended.status], [[], 'completed'])
})

// Actions ------------------------------------------------------------------------------------------------------------------

Deno.test('leads and tags get what was answered', async () => {
  const definition = flow(
    choice({ proxima: 'lead' }),
    { id: 'lead', tipo: 'acao', acao: { tipo: 'criar_lead', profissional: uuid(3, 1) }, proxima: 'status' },
    { id: 'status', tipo: 'acao', acao: { tipo: 'atualizar_lead', status: 'em_contato' }, proxima: 'tag' },
    { id: 'tag', tipo: 'acao', acao: { tipo: 'etiquetar', etiqueta: ' vip ' }, proxima: 'fim' },
  )
  const done = await phone(definition, {}, 'azul')
  assert.deepEqual(done.done, [
    { tipo: 'criar_lead', profissional_id: uuid(3, 1), respostas: { cor: 'a' } },
    { tipo: 'atualizar_lead', status: 'em_contato', respostas: { cor: 'a' } },
    { tipo: 'etiquetar', etiqueta: 'vip' },
  ])
})

Deno.test('a lead that cannot be changed does not stop the conversation', async () => {
  const done = await phone(action({ tipo: 'atualizar_lead', status: 'fechado' }), {
    business: { refuse: () => ({ error: 'BL401', detail: {} }) },
  })
  assert.deepEqual([done.read, done.done, done.status], ['Até logo!', [], 'completed'])
})

Deno.test('a step can hand over, with a reason and words of its own', async () => {
  const handed = await phone({
    etapas: [{
      id: 'a',
      tipo: 'acao',
      acao: { tipo: 'transferir', motivo: 'vip' },
      pergunta: 'Um momento, {{nome}}.',
    }],
  })
  assert.deepEqual([handed.read, handed.status], ['Um momento, Ana.', 'handed_over'])
  assert.deepEqual(handed.done, [{ tipo: 'transferir', motivo: 'vip' }])
})

Deno.test('a wait is over when its time has come, or when the customer writes', async () => {
  const waiting = () => phone(action({ tipo: 'aguardar', minutos: 30 }))
  const timed = await waiting()
  assert.deepEqual([timed.received, timed.done], [[], [{ tipo: 'aguardar', minutos: 30 }]])
  assert.equal((await timed.timer()).read, 'Até logo!')
  assert.equal((await (await waiting()).write('oi?')).read, 'Até logo!')
  assert.equal((await (await waiting()).picture()).read, 'Até logo!')
})

Deno.test('a timer that comes too late changes nothing', async () => {
  const asked = await phone(flow(choice()))
  const before = asked.session
  await asked.timer()
  assert.deepEqual([asked.received, asked.session], [[], before])
})

// Choosing what to book --------------------------------------------------------------------------------------------------

const clinic = {
  services: [service(1, 'Consulta'), service(2, 'Exame', { price_cents: 123_450 })],
  slots: openDays(24, 25),
}

Deno.test('one service is taken without a question', async () => {
  const chosen = await phone(action({ tipo: 'escolher_servico' }), {
    business: { services: [service(1, 'Consulta')] },
  })
  assert.equal(chosen.read, 'Até logo!')
  assert.equal(chosen.session?.state.agenda.servico, 'Consulta')
})

Deno.test('services are offered with price and length, nine at most and then by pages', async () => {
  const asked = await phone(action({ tipo: 'escolher_servico' }, { pergunta: 'O que deseja?' }), {
    business: clinic,
  })
  assert.equal(asked.read, 'O que deseja?')
  assert.deepEqual(asked.received[0]?.payload, {
    type: 'button',
    buttons: [{ id: 'acao:n1.1:0', title: 'Consulta' }, { id: 'acao:n1.1:1', title: 'Exame' }],
  })
  const many = Array.from(
    { length: 20 },
    (_, index) => service(index + 1, `Serviço ${index + 1}`, { price_cents: 123_450 }),
  )
  const paging = await phone(action({ tipo: 'escolher_servico' }), { business: { services: many } })
  assert.equal(paging.options.length, 9)
  assert.match(JSON.stringify(paging.received[0]?.payload), /"description":"R\$ 1\.234,50 · 30 min"/)
  await paging.tap('Mais opções')
  assert.equal(paging.options[0]?.title, 'Serviço 9')
  await paging.write('mais')
  assert.deepEqual(paging.options.map(({ title }) => title), [
    'Serviço 17',
    'Serviço 18',
    'Serviço 19',
    'Serviço 20',
    'Primeiras opções',
  ])
  assert.equal((await paging.tap('Serviço 20')).session?.state.agenda.servico_id, uuid(1, 20))
})

Deno.test('without a service there is nothing to book: the way out, or a human', async () => {
  assert.equal((await phone(action({ tipo: 'escolher_servico' }, { em_erro: 'fim' }))).read, 'Até logo!')
  assert.equal((await phone(action({ tipo: 'escolher_servico' }))).status, 'handed_over')
})

Deno.test('an animal is chosen, or named and made', async () => {
  const business = { pets: [pet(1, 'Rex'), pet(2, 'Mia')] }
  const chosen = await phone(action({ tipo: 'escolher_pet' }), { business }, 'mia')
  assert.deepEqual([chosen.session?.state.agenda.pet_id, chosen.done], [uuid(2, 2), []])

  const other = await phone(action({ tipo: 'escolher_pet' }), { business }, 'outro pet')
  assert.equal(other.read, 'Como se chama o seu pet?')
  assert.equal(
    (await other.write('123')).read,
    'Me diga só o nome do pet, por favor.\n\nComo se chama o seu pet?',
  )
  await other.write('  Zé   Bob ')
  assert.deepEqual(other.done, [{ tipo: 'criar_pet', nome: 'Zé Bob' }])

  const first = await phone(action({ tipo: 'escolher_pet' }))
  assert.equal(first.read, 'Como se chama o seu pet?')
})

Deno.test('a booking asks for all that it misses: service, animal, day, hour', async () => {
  const business = {
    ...clinic,
    services: [service(1, 'Banho', { requires_pet: true }), service(2, 'Tosa', { requires_pet: true })],
  }
  const booked = await phone(action({ tipo: 'agendar' }), { business }, 'banho', 'Rex', 'quarta', '14h')
  assert.equal(
    booked.read,
    'Desculpe, não entendi. Escolha uma das opções, por favor.\n\nHorários de quarta-feira, 25 de novembro:',
  )
  await booked.write('10h30')
  assert.deepEqual(booked.done, [
    { tipo: 'criar_pet', nome: 'Rex' },
    {
      tipo: 'agendar',
      servico_id: uuid(1, 1),
      horario: '2026-11-25T13:30:00.000Z',
      profissional_id: uuid(3, 1),
      local_id: null,
      pet_id: null,
      pet_nome: 'Rex',
    },
  ])
})

Deno.test('days and hours are those of the place where the slot is', async () => {
  const manaus = [
    slot('2026-11-25T02:00:00Z', { timezone: 'America/Manaus' }),
    slot('2026-11-25T13:00:00Z', { timezone: 'America/Manaus' }),
  ]
  const asked = await phone(action({ tipo: 'agendar' }), {
    business: { services: [service(1, 'Consulta')], slots: manaus },
  })
  assert.deepEqual(asked.options.map(({ title }) => title), [
    'Amanhã, 24/11',
    'Quarta-feira, 25/11',
    'Nenhum destes dias',
  ])
  await asked.write('amanhã')
  assert.deepEqual(asked.options.map(({ title }) => title), ['22h', 'Outro dia'])
})

Deno.test('the hour that a change of clocks brings twice is offered as two', async () => {
  // In New York 1 November 2026 has 1:30 twice.
  const twice = [
    slot('2026-11-01T05:30:00Z', { timezone: 'America/New_York' }),
    slot('2026-11-01T06:30:00Z', { timezone: 'America/New_York' }),
  ]
  const asked = await phone(action({ tipo: 'agendar' }), {
    context: { now: '2026-10-31T12:00:00Z' },
    business: { services: [service(1, 'Consulta')], slots: twice },
  })
  assert.deepEqual(asked.options.map(({ title }) => title), ['1h30', '1h30', 'Nenhum destes'])
  const second = asked.options[1]
  assert.ok(second)
  await asked.send(asked.message({ message_type: 'list', text: second.title, reply_id: second.id }))
  assert.equal(asked.did('agendar')?.horario, '2026-11-01T06:30:00.000Z')
})

Deno.test('more days and more hours are a page away', async () => {
  const definition = flow(
    { id: 'horario', tipo: 'acao', acao: { tipo: 'escolher_horario', dias: 60, quantos: 4 }, proxima: 'fim' },
  )
  const business = {
    services: [service(1, 'Consulta')],
    slots: openDays(...Array.from({ length: 20 }, (_, index) => 24 + index)),
  }
  const asked = await phone(definition, { business })
  assert.equal(asked.options.length, 10)
  await asked.tap('Mais dias')
  assert.equal(asked.options[0]?.title, 'Quarta-feira, 02/12')
  await asked.write('dia 3')
  assert.deepEqual(asked.options.map(({ title }) => title), [
    '9h',
    '9h30',
    '10h',
    '10h30',
    'Mais horários',
    'Outro dia',
  ])
  await asked.tap('Mais horários')
  assert.equal(asked.options[0]?.title, '11h')
  await asked.tap('Outro dia')
  assert.equal(asked.options[0]?.title, 'Amanhã, 24/11')
})

Deno.test('a day that filled up meanwhile leads back to the others', async () => {
  const asked = await phone(action({ tipo: 'agendar' }), {
    business: { ...clinic, services: [service(1, 'Consulta')] },
  })
  asked.business.slots = openDays(24, 26)
  await asked.write('quarta')
  assert.match(asked.read, /^Os horários desse dia acabaram de ser preenchidos\.\n---\nQual dia/)
})

Deno.test('without a slot the flow says where to go, or the waiting list is offered', async () => {
  const business = { services: [service(1, 'Consulta')] }
  const own = await phone(action({ tipo: 'escolher_horario' }, { proxima_sem_horario: 'fim' }), { business })
  assert.equal(own.read, 'Até logo!')

  const offered = await phone(action({ tipo: 'agendar' }), { business })
  assert.deepEqual(offered.options.map(({ title }) => title), [
    'Entrar na lista',
    'Falar com atendente',
    'Agora não',
  ])
  assert.equal((await phone(action({ tipo: 'agendar' }), { business }, 'agora não')).status, 'completed')
  assert.equal((await phone(action({ tipo: 'agendar' }), { business }, '2')).status, 'handed_over')
  await offered.write('sim')
  assert.deepEqual(offered.done, [
    {
      tipo: 'entrar_lista_espera',
      servico_id: uuid(1, 1),
      profissional_id: null,
      local_id: null,
      pet_id: null,
      pet_nome: null,
    },
  ])
  assert.equal(offered.status, 'completed')
})

Deno.test('who waits already is told so', async () => {
  const business = {
    services: [service(1, 'Consulta')],
    refuse: () => ({ error: 'already_waiting', detail: {} }),
  }
  const offered = await phone(action({ tipo: 'agendar' }), { business }, 'sim')
  assert.match(offered.read, /^Você já está na lista de espera/)
  const step = await phone(action({ tipo: 'entrar_lista_espera' }), { business })
  assert.match(step.read, /^Você já está na lista de espera.*\n---\nAté logo!$/)
})

// A slot that went -----------------------------------------------------------------------------------------------------------

const taken = (...starts: string[]) => ({
  error: 'BL501',
  detail: {
    alternatives: starts.map((start_time) => ({
      start_time,
      professional_id: uuid(3, 2),
      location_id: null,
    })),
  },
})

/** Refuses the first bookings in these ways, and takes the others. */
function refusing(...refusals: { error: string; detail: Record<string, unknown> }[]): PhoneOptions {
  const left = [...refusals]
  return {
    business: {
      ...clinic,
      services: [service(1, 'Consulta')],
      refuse: ({ tipo }) => tipo === 'agendar' || tipo === 'remarcar' ? left.shift() ?? null : null,
    },
  }
}

Deno.test('a slot that somebody else took leads to the nearest ones', async () => {
  const options = refusing(taken('2026-11-25T13:00:00+00:00', '2026-11-25T14:30:00+00:00'))
  const asked = await phone(action({ tipo: 'agendar' }), options, 'quarta', '9h')
  assert.equal(asked.read, 'Esse horário acabou de ser preenchido. Tenho estes outros:')
  assert.deepEqual(asked.options.map(({ title }) => title), [
    'qua, 25/11 às 10h',
    'qua, 25/11 às 11h30',
    'Outro dia',
  ])
  assert.equal(asked.done.length, 0)
  await asked.write('11h30')
  assert.equal(asked.did('agendar')?.horario, '2026-11-25T14:30:00.000Z')
  assert.equal(asked.did('agendar')?.profissional_id, uuid(3, 2))
})

Deno.test('taken without alternatives: the days once more', async () => {
  const asked = await phone(action({ tipo: 'agendar' }), refusing(taken()), 'quarta', '9h')
  assert.match(asked.read, /^Esse horário acabou de ser preenchido\.\n---\nQual dia/)
})

const refusals: { error: string; read: RegExp }[] = [
  { error: 'BL505', read: /^Esse horário acabou/ },
  { error: 'BL507', read: /^Esse horário não está mais disponível\. Vamos escolher outro:\n---\nQual dia/ },
  { error: 'BL512', read: /^Esse horário não está mais disponível/ },
  { error: 'BL508', read: /^Como se chama o seu pet\?$/ },
  { error: 'BL404', read: /^Como se chama o seu pet\?$/ },
  { error: 'BL500', read: /^Qual dia/ },
  { error: 'BL002', read: /^Não consegui concluir por aqui/ },
  { error: '23514', read: /^Não consegui concluir por aqui/ },
]
for (const { error, read } of refusals) {
  Deno.test(`a booking that is refused with ${error} is nobody's end`, async () => {
    const asked = await phone(action({ tipo: 'agendar' }), refusing({ error, detail: {} }), 'quarta', '9h')
    assert.match(asked.read, read)
  })
}

Deno.test('a way out of the flow is taken where a booking cannot be made', async () => {
  const asked = await phone(
    action({ tipo: 'agendar' }, { em_erro: 'fim' }),
    refusing({ error: 'BL002', detail: {} }),
    'quarta',
    '9h',
  )
  assert.equal(asked.read, 'Até logo!')
})

Deno.test('what was done and said before the refused action stays', async () => {
  const definition = flow(
    { id: 'tag', tipo: 'acao', acao: { tipo: 'etiquetar', etiqueta: 'x' }, proxima: 'diz' },
    { id: 'diz', tipo: 'mensagem', pergunta: 'Vamos lá.', proxima: 'agenda' },
    { id: 'agenda', tipo: 'acao', acao: { tipo: 'entrar_lista_espera' }, proxima: 'pronto' },
    { id: 'pronto', tipo: 'mensagem', pergunta: 'Pronto!', proxima: 'fim' },
  )
  const refused = await phone(definition, {
    business: {
      services: [service(1, 'Consulta')],
      refuse: ({ tipo }) => tipo === 'entrar_lista_espera' ? { error: 'BL002', detail: {} } : null,
    },
  })
  assert.deepEqual(refused.done.map(({ tipo }) => tipo), ['etiquetar', 'transferir'])
  assert.match(refused.read, /^Vamos lá\.\n---\nNão consegui concluir/)
})

Deno.test('whoever never gets a slot is asked for another day, as often as he likes', async () => {
  const refused = await phone(
    action({ tipo: 'agendar' }),
    {
      business: {
        ...clinic,
        services: [service(1, 'Consulta')],
        refuse: ({ tipo }) => tipo === 'transferir' ? null : { error: 'BL501', detail: {} },
      },
    },
    'quarta',
    '9h',
  )
  assert.equal(refused.status, 'running')
  assert.match(refused.read, /Qual dia fica melhor/)
})

// A booking that there is ------------------------------------------------------------------------------------------------------

const bookings = [
  booking(1, '2026-11-25T12:00:00Z'),
  booking(2, '2026-11-27T17:30:00Z', { service_name: 'Exame', status: 'confirmed' }),
]

Deno.test('what was written after a refused action is heard in the next turn, not lost', async () => {
  const menu = choice({ opcoes: [{ rotulo: 'Marcar', valor: 'm', proxima: 'marca' }, colours[0]] })
  const definition = flow(
    menu,
    { id: 'marca', tipo: 'acao', acao: { tipo: 'agendar' }, proxima: 'cor' },
  )
  const slots = openDays(25, 26)
  let refusals = 0
  const refuse = ({ tipo }: FlowAction) =>
    tipo === 'agendar' && refusals++ === 0 ? { error: 'BL501', detail: { alternatives: [] } } : null
  const asked = await phone(
    definition,
    { business: { services: [service(1, 'Consulta')], slots, refuse } },
    'marcar',
    'quarta',
  )
  await asked.write('9h', 'azul', 'tudo bem?')
  assert.deepEqual([refusals, asked.session?.state.subetapa], [1, 'dia'])
  assert.equal(asked.turn?.last_message_id, uuid(8, 4), 'only up to the hour that was refused')
})

Deno.test('what comes after the end in one turn has not been heard', async () => {
  const ended = await phone(flow(choice()))
  await ended.write('azul', 'quanto custa?', 'alô?')
  assert.deepEqual([ended.status, ended.turn?.last_message_id], ['completed', uuid(8, 2)])
})

Deno.test('a booking is cancelled after asking whether to be sure', async () => {
  const cancel = action({ tipo: 'cancelar_agendamento' })
  const asked = await phone(cancel, { business: { bookings } }, 'exame')
  assert.equal(
    asked.read,
    'Quer mesmo cancelar este agendamento?\n\n*Exame · Dra. Helena*\nsexta-feira, 27 de novembro, às 14h30',
  )
  await asked.tap('Sim, cancelar')
  assert.deepEqual(asked.done, [
    {
      tipo: 'cancelar_agendamento',
      agendamento_id: uuid(4, 2),
      motivo: 'Cancelado pelo cliente na conversa',
    },
  ])
  assert.match(asked.read, /^Pronto, seu agendamento foi cancelado\./)

  const kept = await phone(cancel, { business: { bookings: bookings.slice(0, 1) } }, 'não')
  assert.deepEqual(kept.done, [])
  assert.match(kept.read, /continua marcado/)
  assert.match((await phone(cancel)).read, /^Não encontrei nenhum agendamento/)
})

Deno.test('no booking is cancelled by whoever has not read whether they are sure', async () => {
  const definition = flow(
    choice({
      opcoes: [{ rotulo: 'Marcar', valor: 'm' }, { rotulo: 'Cancelar', valor: 'c', proxima: 'cancela' }],
    }),
    { id: 'cancela', tipo: 'acao', acao: { tipo: 'cancelar_agendamento' }, proxima: 'fim' },
  )
  const business = { bookings: bookings.slice(0, 1) }
  for (
    const texts of [
      ['cancelar', 'cancelar'],
      ['quero cancelar minha consulta', 'pode cancelar'],
      ['cancelar', 'sim, cancelar'],
      ['cancelar', 'Sim, cancelar', 'sim'],
      ['cancelar', 'não, manter'],
    ]
  ) {
    const asked = await phone(definition, { business })
    await asked.write(...texts)
    assert.deepEqual([asked.done, asked.session?.state.subetapa], [[], 'certeza'], texts.join(' / '))
    assert.match(asked.read, /Quer mesmo cancelar/)
    assert.equal(asked.session?.state.tentativas, 0)
  }
  const old = await phone(definition, { business }, 'cancelar')
  await old.send(old.message({ text: 'Sim, cancelar', early: true }))
  assert.deepEqual([old.done, old.received], [[], []])
  await old.write('desisti de cancelar')
  assert.deepEqual(old.done, [])
  assert.match(old.read, /^Desculpe, não entendi/)
  await old.write('sim')
  assert.equal(old.done.length, 1)
})

Deno.test('no booking is made or moved by what was written before the question', async () => {
  const sure = {
    id: 'certo',
    tipo: 'escolha',
    pergunta: 'Posso marcar?',
    opcoes: [{ rotulo: 'Sim, pode marcar', valor: 'sim', proxima: 'marca' }, {
      rotulo: 'Desistir',
      valor: 'd',
    }],
    proxima: 'fim',
  }
  const definition = flow(
    { id: 'horario', tipo: 'acao', acao: { tipo: 'escolher_horario' }, proxima: 'tem_pet' },
    {
      id: 'tem_pet',
      tipo: 'condicao',
      condicoes: [{ chave: 'pets.quantidade', operador: 'maior', valor: 9, proxima: 'fim' }],
      proxima: 'certo',
    },
    sure,
    { id: 'marca', tipo: 'acao', acao: { tipo: 'agendar' }, proxima: 'fim' },
  )
  const business = { services: [service(1, 'Consulta')], slots: openDays(25, 26) }
  const asked = await phone(definition, { business }, 'quarta')
  await asked.write('9h', 'sim')
  assert.deepEqual([asked.done, asked.session?.current_step], [[], 'certo'])
  assert.equal((await asked.write('sim')).did('agendar')?.horario, '2026-11-25T12:00:00.000Z')

  const moving = await phone(action({ tipo: 'remarcar' }), {
    business: { bookings: bookings.slice(0, 1), slots: openDays(26, 27) },
  })
  await moving.write('quinta', 'às 11:00 horas', '11h da manhã', '11h')
  assert.deepEqual(moving.done, [])
  await moving.write('11h')
  assert.equal(moving.done.length, 1)
})

Deno.test('a booking that is over when it is to be cancelled is said to be', async () => {
  const business = { bookings, refuse: () => ({ error: 'BL503', detail: {} }) }
  const gone = await phone(
    action({ tipo: 'cancelar_agendamento' }, { em_erro: 'fim' }),
    { business },
    '1',
    'sim',
  )
  assert.equal(gone.read, 'Esse agendamento não está mais disponível.\n---\nAté logo!')
})

Deno.test('only what is not confirmed can be', async () => {
  const confirm = action({ tipo: 'confirmar_agendamento' })
  const confirmed = await phone(confirm, { business: { bookings } }, 'confirmo')
  assert.deepEqual(confirmed.done, [{ tipo: 'confirmar_agendamento', agendamento_id: uuid(4, 1) }])
  assert.match(
    (await phone(confirm, { business: { bookings: bookings.slice(1) } })).read,
    /à espera de confirmação/,
  )
})

Deno.test('a booking is moved, with the same professional as long as there is a choice', async () => {
  const business = {
    bookings: bookings.slice(0, 1),
    slots: [...openDays(26, 27), slot('2026-11-28T12:00:00Z', { professional_id: uuid(3, 2) })],
  }
  const moved = await phone(action({ tipo: 'remarcar' }), { business })
  assert.deepEqual(moved.options.map(({ title }) => title), ['Quinta-feira, 26/11', 'Sexta-feira, 27/11'])
  await moved.write('sexta')
  await moved.write('11h')
  assert.deepEqual(moved.done, [
    {
      tipo: 'remarcar',
      agendamento_id: uuid(4, 1),
      horario: '2026-11-27T14:00:00.000Z',
      profissional_id: uuid(3, 1),
      local_id: null,
    },
  ])
  assert.match(moved.read, /^Pronto, remarcado para sexta-feira, 27 de novembro, às 11h\./)

  const other = await phone(action({ tipo: 'remarcar' }), {
    business: { ...business, slots: business.slots.slice(-1) },
  }, '9h')
  assert.equal(other.did('remarcar')?.profissional_id, uuid(3, 2))

  const none = await phone(action({ tipo: 'remarcar' }, { em_erro: 'fim' }), { business: { bookings } }, '1')
  assert.match(none.read, /Seu agendamento continua marcado\.\n---\nAté logo!$/)
})

Deno.test('the slot to move to may be taken as well', async () => {
  const options = refusing(taken('2026-11-26T15:00:00Z'))
  Object.assign(options.business ?? {}, { bookings: bookings.slice(0, 1) })
  const moved = await phone(action({ tipo: 'remarcar' }), options, 'quarta', '10h')
  assert.deepEqual(moved.options.map(({ title }) => title), ['qui, 26/11 às 12h', 'Outro dia'])
  await moved.write('1')
  assert.equal(moved.did('remarcar')?.agendamento_id, uuid(4, 1))
  assert.equal(moved.did('remarcar')?.horario, '2026-11-26T15:00:00.000Z')
})

// Bounds -----------------------------------------------------------------------------------------------------------------------

const CIRCLE: FlowDefinition = flowDefinitionShape.parse({
  etapas: [
    { id: 'a', tipo: 'mensagem', pergunta: 'a', proxima: 'b' },
    { id: 'b', tipo: 'mensagem', pergunta: 'b', proxima: 'a' },
  ],
})

Deno.test('even a definition that goes round in circles, which nobody can save, ends with a human', () => {
  const { context } = new Phone(flow(choice()))
  const result = step({ definition: CIRCLE, session: newSession, input: { kind: 'start' }, context })
  assert.equal(result.session.status, 'handed_over')
})

Deno.test('a turn that has to know more and more ends with a human', async () => {
  const conditions = Array.from({ length: 30 }, (_, index) => ({
    id: `c${index}`,
    tipo: 'condicao',
    condicoes: [{ chave: 'pets.quantidade', operador: 'maior', valor: index, proxima: 'fim' }],
    proxima: index < 29 ? `c${index + 1}` : 'fim',
  }))
  const asked = await phone(flow(...conditions))
  assert.equal(asked.status, 'handed_over')
  assert.deepEqual(asked.done, [{ tipo: 'transferir', motivo: 'fluxo_sem_saida' }])
})

Deno.test('a turn that nobody can finish is given up: a human is asked, and nothing else is done', async () => {
  const asked = new Phone(action({ tipo: 'etiquetar', etiqueta: 'x' }))
  const inputs = [asked.message({ text: 'oi' })]
  const turn = { definition: asked.definition, session: null, inputs, context: asked.context }
  const played = await playTurn(turn, () => assert.fail())
  const given = giveUp(turn, played)
  assert.deepEqual(given.actions, [{ tipo: 'transferir', motivo: 'fluxo_sem_saida' }])
  assert.deepEqual([given.session.status, given.last_message_id], ['handed_over', uuid(8, 1)])
  const unknown = await replayTurn(
    turn,
    played,
    { action_index: 7, error: 'BL501', detail: {} },
    () => assert.fail(),
  )
  assert.deepEqual(unknown.actions, [{ tipo: 'transferir', motivo: 'fluxo_sem_saida' }])
})

Deno.test('long answers are kept within what the database keeps', async () => {
  const questions = Array.from({ length: 60 }, (_, index) => (
    {
      id: `q${index}`,
      tipo: 'pergunta',
      pergunta: 'x'.repeat(1024),
      proxima: index < 59 ? `q${index + 1}` : 'opcoes',
    }
  ))
  const options = Array.from(
    { length: 20 },
    (_, index) => ({ rotulo: `${'🐶'.repeat(57)} ${index}`, valor: `${'é'.repeat(25)} ${index}` }),
  )
  const asked = await phone(
    flow(...questions, choice({ id: 'opcoes', pergunta: '🐶'.repeat(1024), opcoes: options })),
  )
  for (let answer = 0; answer < 60; answer++) {
    await asked.write('é'.repeat(500))
    assert.ok(new TextEncoder().encode(JSON.stringify(asked.session?.state)).length <= 16_384)
  }
  assert.equal(asked.session?.current_step, 'opcoes')
  await asked.write('20')
  assert.equal(asked.status, 'completed')
})

Deno.test('the engine changes nothing that it was given', () => {
  const frozen = <T>(value: T): T => {
    if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
      Object.values(Object.freeze(value)).forEach(frozen)
    }
    return value
  }
  const asked = new Phone(flow(choice({ opcoes: yesNo })))
  const given = { definition: frozen(asked.definition), context: frozen(asked.context) }
  const first = step({ ...given, session: frozen(structuredClone(newSession)), input: { kind: 'start' } })
  const second = step({
    ...given,
    session: frozen(first.session),
    input: frozen(asked.message({ text: 'sim' })),
  })
  assert.equal(second.session.status, 'completed')
})
