// A flow as its customers meet it: real webhooks, the real worker, Meta imitated. What is told once is answered once,
// whoever dies, takes over or is faster in between. The stack is its own: the functions are killed in it.

import { randomUUID } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import type { Stack } from '../../local/stack.ts'
import {
  businessError,
  buttonsPayload,
  findProblems,
  type FlowDefinition,
  type FlowProblem,
  type Json,
  listPayload,
  type Tables,
} from '../../types/index.ts'
import { aProfessional, aService, at, book, dayAhead, same } from '../support/agendas.ts'
import { aWaId, hurry, seen } from '../support/conversations.ts'
import { metaOf } from '../support/graph.ts'
import { aTextMessage, metaWebhook } from '../support/meta.ts'
import { startOwnStack } from '../support/own-stack.ts'
import { eventually } from '../support/processes.ts'
import { seeded, testSeed } from '../support/seeded.ts'
import { asAdminOf, asAttendantOf, aTenant, type ConnectedNumber, connectNumber, type Tenant, valueOf } from '../support/tenants.ts'

/** Of a job that is claimed. */
const LEASE_MS = 60_000

/** As the bot writes it: 9h, 9h30; with the day before it where several days are offered. */
const HOUR = /\b(\d{1,2})h(\d{2})?$/

const seed = testSeed()

let stack: Stack
let clinic: Tenant
let number: ConnectedNumber
let service: Tables<'services'>
let professional: Tables<'professionals'>
let flow: Tables<'flows'>

const RECEPTION: FlowDefinition = {
  max_tentativas: 3,
  etapas: [
    { id: 'ola', tipo: 'mensagem', pergunta: 'Olá, {{nome}}!', proxima: 'menu' },
    {
      id: 'menu',
      tipo: 'escolha',
      pergunta: 'O que deseja?',
      opcoes: [
        { rotulo: 'Marcar', valor: 'marcar', proxima: 'servico' },
        { rotulo: 'Orçamento', valor: 'orcamento', proxima: 'email' },
      ],
    },
    {
      id: 'email',
      tipo: 'pergunta',
      pergunta: 'Qual é o seu e-mail?',
      validacao: { tipo: 'email' },
      proxima: 'lead',
    },
    { id: 'lead', tipo: 'acao', acao: { tipo: 'criar_lead' }, proxima: 'tchau' },
    { id: 'tchau', tipo: 'fim', pergunta: 'Obrigado! Escrevo para {{respostas.email}}.' },
    { id: 'servico', tipo: 'acao', acao: { tipo: 'escolher_servico' }, proxima: 'horario' },
    { id: 'horario', tipo: 'acao', acao: { tipo: 'escolher_horario', dias: 5 }, proxima: 'marca' },
    { id: 'marca', tipo: 'acao', acao: { tipo: 'agendar' }, proxima: 'marcado' },
    { id: 'marcado', tipo: 'fim', pergunta: 'Marcado: {{servico}}, {{data}} às {{hora}}.' },
  ],
}

beforeAll(async () => {
  stack = await startOwnStack()
  clinic = await aTenant(stack, 'Clínica Automática', ['attendant', 'admin'])
  number = await connectNumber(clinic)
  service = await aService(clinic)
  professional = await aProfessional(clinic, 'Ana', [service], { starts_at: '08:00', ends_at: '18:00' })
  flow = await aFlow(RECEPTION)
})

afterAll(() => stack?.stop())

const meta = () => metaOf(stack)

async function inDatabase<T>(use: (sql: postgres.Sql) => Promise<T>): Promise<T> {
  const sql = postgres(stack.urls.admin, { max: 1, connect_timeout: 5, onnotice: () => undefined })
  try {
    return await use(sql)
  } finally {
    await sql.end({ timeout: 1 })
  }
}

/** Drawn by an administrator; the default from now on. */
async function aFlow(definition: FlowDefinition): Promise<Tables<'flows'>> {
  const row = { name: `Recepção ${randomUUID()}`, definition, is_default: true }
  return valueOf(await asAdminOf(clinic).from('flows').insert(row).select().single())
}

// A customer with a phone -------------------------------------------------------------------------------------------------

type Message = Tables<'messages'>

function aCustomer() {
  const from = aWaId()
  const send = async (message: { type: string; [field: string]: Json }) => {
    const { deliveries } = await meta().inbound(number, { from, name: 'Rita Souza', message })
    expect(deliveries.at(-1)?.status).toBe(200)
  }
  const say = (body: string, more: { [field: string]: Json } = {}) => send({ type: 'text', text: { body }, ...more })

  const conversation = async (): Promise<Tables<'conversations'>> =>
    valueOf(await asAttendantOf(clinic).from('conversations').select('*').eq('whatsapp_chat_id', from).single())
  /** What the bot has said to them so far. */
  const heard = async (): Promise<Message[]> =>
    valueOf(
      await asAttendantOf(clinic).from('messages').select('*, conversations!inner(whatsapp_chat_id)')
        .eq('conversations.whatsapp_chat_id', from).eq('sender', 'bot').order('id'),
    )
  const texts = async () => (await heard()).map(({ content }) => content ?? '')
  /** Waits until the bot has said so much. */
  const hears = async (count: number): Promise<string[]> => (await seen(texts, (said) => said.length >= count))
  /** What can be tapped under a message: the last one, or an earlier one. */
  const options = async (message?: Message) => {
    const { payload } = message ?? (await heard()).at(-1) ?? { payload: null }
    const buttons = buttonsPayload.safeParse(payload)
    if (buttons.success) return buttons.data.buttons
    const list = listPayload.safeParse(payload)
    return list.success ? list.data.sections.flatMap(({ rows }) => rows) : []
  }
  const tap = async ({ id, title }: { id: string; title: string }) =>
    await send({ type: 'interactive', interactive: { type: 'button_reply', button_reply: { id, title } } })
  const session = async (): Promise<Tables<'flow_sessions'>> => {
    const { id } = await conversation()
    const { data } = await asAttendantOf(clinic).from('flow_sessions').select('*').eq('conversation_id', id)
      .order('id', { ascending: false }).limit(1).single()
    return valueOf({ data, error: null })
  }
  /** Nothing is left for the bot to do. */
  const isQuiet = async () => {
    const { id } = await conversation()
    return await inDatabase(async (sql) => {
      const [row] = await sql<{ count: number }[]>`
        select count(*)::int from public.message_queue q
        where q.job_type = 'run_flow' and q.payload ->> 'conversation_id' = ${id} and q.status <> 'completed'`
      return row?.count === 0
    })
  }
  const settles = () => eventually(isQuiet)

  return { from, say, send, tap, options, conversation, heard, texts, hears, session, settles }
}
type Customer = ReturnType<typeof aCustomer>

/** Greeted, and asked what they want. */
async function aGreetedCustomer(): Promise<Customer> {
  const customer = aCustomer()
  await customer.say('Oi')
  await customer.hears(2)
  await customer.settles()
  return customer
}

/** The first option whose title fits. */
async function option(customer: Customer, title: RegExp = /./) {
  const found = (await customer.options()).find((each) => title.test(each.title))
  if (found === undefined) throw new Error(`Nothing like ${title} among ${JSON.stringify(await customer.options())}`)
  return found
}

/** Asked for an hour of tomorrow: today may be over soon. */
async function aCustomerChoosing(): Promise<Customer> {
  const customer = await aGreetedCustomer()
  await customer.say('Marcar')
  await customer.hears(3)
  await customer.tap(await option(customer, /amanhã/i))
  await customer.hears(4)
  await customer.settles()
  return customer
}

async function bookingsOf(customer: Customer): Promise<Tables<'bookings'>[]> {
  const { contact_id } = await customer.conversation()
  return valueOf(await asAttendantOf(clinic).from('bookings').select('*').eq('contact_id', contact_id))
}

// What is said once --------------------------------------------------------------------------------------------------------

test('a customer goes through a flow: greeted, asked, booked', async () => {
  const customer = await aCustomerChoosing()
  const hour = await option(customer, HOUR)
  await customer.tap(hour)
  const said = await customer.hears(5)
  expect(said.slice(0, 2)).toEqual(['Olá, Rita!', 'O que deseja?'])
  expect(said.at(-1)).toMatch(/^Marcado: Consulta, .+ às \d{1,2}h(\d{2})?\.$/)

  const [booking, ...others] = await bookingsOf(customer)
  expect(others).toEqual([])
  expect(booking).toMatchObject({ created_by: 'flow', status: 'scheduled', service_id: service.id, professional_id: professional.id })
  expect(await customer.session()).toMatchObject({ status: 'completed', flow_id: flow.id, flow_version: 1 })
  // And it is what Meta was given, in that order.
  const sends = await seen(
    async () => (await meta().sends(number)).filter(({ to }) => to === `+${customer.from}`),
    (calls) => calls.length === said.length,
  )
  expect(sends.map(({ body }) => textIn(body))).toEqual(said)
})

function textIn(body: unknown): string | undefined {
  const read = z.looseObject({
    text: z.looseObject({ body: z.string() }).optional(),
    interactive: z.looseObject({ body: z.looseObject({ text: z.string() }) }).optional(),
  }).parse(body)
  return read.text?.body ?? read.interactive?.body.text
}

test('two messages in the same instant are greeted once, and answered once', async () => {
  const customer = aCustomer()
  await Promise.all([customer.say('Oi'), customer.say('Bom dia')])
  await customer.hears(2)
  await customer.settles()
  expect(await customer.texts()).toEqual(['Olá, Rita!', 'O que deseja?'])

  await Promise.all([customer.say('Orçamento'), customer.say('Orçamento')])
  await customer.hears(3)
  await customer.settles()
  expect((await customer.texts()).slice(2)).toEqual(['Qual é o seu e-mail?'])
})

test('the same webhook twice is one message, and one answer', async () => {
  const customer = aCustomer()
  const id = `wamid.${randomUUID()}`
  const webhook = metaWebhook(aTextMessage({ to: number.externalId, from: customer.from, id })).signedWith(number.appSecret)
  const answers = await Promise.all([1, 2, 3].map(() => webhook.postedTo(number.webhookUrl)))
  expect(answers.map(({ status }) => status)).toEqual([200, 200, 200])
  await customer.hears(2)
  await customer.settles()
  expect(await customer.texts()).toHaveLength(2)
})

test('an answer to an old question is told so, and costs no attempt', async () => {
  const customer = await aGreetedCustomer()
  const menu = await customer.options()
  await customer.say('Orçamento')
  await customer.hears(3)
  await customer.settles()
  const [old] = menu
  if (old === undefined) throw new Error('The menu has no options.')
  for (let times = 0; times < 4; times++) {
    await customer.tap(old)
    await customer.settles()
  }
  const said = await customer.texts()
  expect(said).toHaveLength(7)
  for (const text of said.slice(3)) expect(text).toMatch(/pergunta anterior[\s\S]+Qual é o seu e-mail\?$/)
  expect(await customer.session()).toMatchObject({ status: 'running', current_step: 'email' })
  expect((await customer.conversation()).is_bot_controlled).toBe(true)

  await customer.say('rita@exemplo.com.br')
  expect((await customer.hears(8)).at(-1)).toBe('Obrigado! Escrevo para rita@exemplo.com.br.')
  const { lead_id } = await customer.session()
  const lead = valueOf(await asAdminOf(clinic).from('leads').select('*').eq('id', lead_id ?? '').single())
  expect(lead).toMatchObject({ source: 'flow', respostas: { menu: 'orcamento', email: 'rita@exemplo.com.br' } })
})

test('three answers that nobody understands bring a human', async () => {
  const customer = await aGreetedCustomer()
  for (const words of ['abacaxi', 'jabuticaba', 'pitanga']) {
    await customer.say(words)
    await customer.settles()
  }
  expect(await customer.conversation()).toMatchObject({ status: 'waiting_human', is_bot_controlled: false })
  expect(await customer.session()).toMatchObject({ status: 'handed_over' })
  const said = await customer.heard()
  expect(said).toHaveLength(5)
  // The last words are sent although the bot has no control any more.
  await seen(customer.heard, (messages) => messages.every(({ whatsapp_message_id }) => whatsapp_message_id !== null))

  await customer.say('alô?')
  await sleep(300)
  expect(await customer.texts()).toHaveLength(5)
})

// Time, and change -----------------------------------------------------------------------------------------------------------

test('who comes back too late begins anew, and is told why', async () => {
  const customer = await aGreetedCustomer()
  const before = await customer.session()
  await inDatabase((sql) => sql`update public.flow_sessions set expires_at = now() where id = ${before.id}`)
  await customer.say('Marcar')
  const said = await customer.hears(5)
  expect(said[2]).toMatch(/vamos recomeçar/)
  expect(said.slice(3)).toEqual(['Olá, Rita!', 'O que deseja?'])
  const after = await customer.session()
  expect(after.id).not.toBe(before.id)
  const rows = valueOf(await asAttendantOf(clinic).from('flow_sessions').select('status').eq('id', before.id))
  expect(rows).toEqual([{ status: 'expired' }])
})

test('a flow that changes in the middle of a conversation changes for those who come after', async () => {
  const customer = await aGreetedCustomer()
  const changed: FlowDefinition = {
    etapas: RECEPTION.etapas.map((step) => step.id === 'email' ? { ...step, id: 'email', pergunta: 'Seu e-mail, por favor?' } : step),
  }
  const update = (definition: FlowDefinition) =>
    asAdminOf(clinic).from('flows').update({ definition }).eq('id', flow.id).select('version').single()
  expect(valueOf(await update(changed)).version).toBe(2)

  await customer.say('Orçamento')
  expect((await customer.hears(3))[2]).toBe('Qual é o seu e-mail?')
  const newcomer = await aGreetedCustomer()
  await newcomer.say('Orçamento')
  expect((await newcomer.hears(3))[2]).toBe('Seu e-mail, por favor?')
  expect((await newcomer.session()).flow_version).toBe(2)
  expect(valueOf(await update(RECEPTION)).version).toBe(3)
})

test('a flow in which a customer would get stuck is refused, with what is wrong where', async () => {
  const problemsOf = async (etapas: Json[]) => {
    const row = { name: 'Presa', definition: { etapas } as FlowDefinition }
    const { error } = await asAdminOf(clinic).from('flows').insert(row)
    const refusal = businessError(error)
    expect(refusal?.name).toBe('invalid_flow')
    return refusal?.detail.problems
  }
  expect(await problemsOf([{ id: 'a', tipo: 'mensagem', pergunta: 'Oi' }])).toContainEqual(
    { step: 'a', problem: 'missing_next', detail: 'proxima' },
  )
  expect(await problemsOf([
    { id: 'a', tipo: 'mensagem', pergunta: 'Oi', proxima: 'b' },
    { id: 'b', tipo: 'mensagem', pergunta: 'Oi', proxima: 'a' },
  ])).toContainEqual({ step: 'a', problem: 'silent_loop', detail: null })
})

// Others who are faster --------------------------------------------------------------------------------------------------------

/** While somebody else holds the professional's agenda, turns that book stand still in the middle of their end. */
async function whileTheAgendaIsHeld(use: () => Promise<void>): Promise<void> {
  await inDatabase(async (sql) => {
    await sql.begin(async (transaction) => {
      await transaction`select from public.professionals where id = ${professional.id} for update`
      await use()
    })
  })
}

async function pauseSending(until: Date | null): Promise<void> {
  await inDatabase(async (sql) => {
    await sql`update public.whatsapp_instances set sending_paused_until = ${until} where organization_id = ${clinic.organizationId}`
  })
}

async function isStandingStill(): Promise<boolean> {
  return await inDatabase(async (sql) => {
    const rows = await sql`
      select from pg_catalog.pg_stat_activity where wait_event_type = 'Lock' and query like '%finish_flow_turn%'`
    return rows.length > 0
  })
}

test('an attendant who takes over in the midst of a turn is not talked over, and nothing is booked', async () => {
  const customer = await aCustomerChoosing()
  const hour = await option(customer, HOUR)
  const { id } = await customer.conversation()
  await whileTheAgendaIsHeld(async () => {
    await customer.tap(hour)
    await eventually(isStandingStill)
    valueOf(await asAttendantOf(clinic).rpc('take_over_conversation', { conversation_id: id }))
  })
  await customer.settles()
  expect(await customer.texts()).toHaveLength(4)
  expect(await bookingsOf(customer)).toEqual([])
  expect(await customer.session()).toMatchObject({ status: 'running', current_step: 'horario' })

  // Given back, the bot goes on where it was, and only when it is spoken to.
  valueOf(await asAttendantOf(clinic).rpc('release_to_bot', { conversation_id: id }))
  await customer.tap(hour)
  expect((await customer.hears(5)).at(-1)).toMatch(/^Marcado/)
})

test('who wants a slot that was taken meanwhile is offered others', async () => {
  const customer = await aCustomerChoosing()
  const hour = await option(customer, HOUR)
  const { contact_id } = await customer.conversation()
  const [, hours = '', minutes = '00'] = HOUR.exec(hour.title) ?? []
  const start_time = at(dayAhead(1), `${hours.padStart(2, '0')}:${minutes}`)
  await book(clinic, { contact_id, service_id: service.id, start_time, professional_id: professional.id })

  await customer.tap(hour)
  const said = await customer.hears(5)
  expect(said.at(-1)).toMatch(/acabou de ser preenchido/)
  await customer.settles()
  await customer.tap(await option(customer, HOUR))
  expect((await customer.hears(6)).at(-1)).toMatch(/^Marcado/)
  const starts = (await bookingsOf(customer)).map(({ start_time }) => same(start_time))
  expect(new Set(starts).size).toBe(2)
})

test('of two customers who tap the same slot one gets it, and the other gets to choose again', async () => {
  const [one, other] = await Promise.all([aCustomerChoosing(), aCustomerChoosing()])
  const hour = await option(one, HOUR)
  const sameHour = (await other.options()).find(({ title }) => title === hour.title) ?? hour
  await whileTheAgendaIsHeld(async () => {
    await Promise.all([one.tap(hour), other.tap(sameHour)])
    await eventually(isStandingStill)
  })
  const last = await Promise.all([one, other].map(async (customer) => (await customer.hears(5)).at(-1) ?? ''))
  expect(last.filter((text) => text.startsWith('Marcado'))).toHaveLength(1)
  expect(last.filter((text) => /acabou de ser preenchido/.test(text))).toHaveLength(1)
  expect([...await bookingsOf(one), ...await bookingsOf(other)]).toHaveLength(1)
})

// Tests ------------------------------------------------------------------------------------------------------------------

test('an A/B test leads each customer the same way every time, and who books has been won by it', async () => {
  const name = `Saudação ${randomUUID()}`
  const { id: ab_test_id } = valueOf(
    await asAdminOf(clinic).from('ab_tests').insert({ name, variant_a: 'Bom dia!', variant_b: 'E aí?' }).select().single(),
  )
  await aFlow({
    etapas: [
      {
        id: 'qual',
        tipo: 'condicao',
        condicoes: [
          { chave: `teste.${name}`, operador: 'igual', valor: 'a', proxima: 'a' },
          { chave: `teste.${name}`, operador: 'igual', valor: 'b', proxima: 'b' },
        ],
        proxima: 'nenhum',
      },
      { id: 'a', tipo: 'fim', pergunta: 'Bom dia!' },
      { id: 'b', tipo: 'fim', pergunta: 'E aí?' },
      { id: 'nenhum', tipo: 'fim', pergunta: 'Olá.' },
    ],
  })
  try {
    // Until both were met: chance decides who gets which.
    const met: { customer: Customer; text: string }[] = []
    while (met.length < 40 && new Set(met.map(({ text }) => text)).size < 2) {
      const customer = aCustomer()
      await customer.say('Oi')
      met.push({ customer, text: (await customer.hears(1))[0] ?? '' })
    }
    expect(new Set(met.map(({ text }) => text))).toEqual(new Set(['Bom dia!', 'E aí?']))
    for (const { customer, text } of met) {
      await customer.settles()
      await customer.say('Oi de novo')
      expect(await customer.hears(2)).toEqual([text, text])
    }
    const [first] = met
    if (first === undefined) throw new Error('nobody was met')
    const { customer, text } = first
    const { contact_id } = await customer.conversation()
    const start_time = at(dayAhead(3), '09:00')
    await book(clinic, { contact_id, service_id: service.id, start_time, professional_id: professional.id })
    const results = valueOf(await asAdminOf(clinic).rpc('get_ab_test_results', { ab_test_id }))
    const counted = (variant: string) => met.filter((each) => each.text === variant).length
    expect(results).toMatchObject({
      a: { assigned: counted('Bom dia!'), converted: text === 'Bom dia!' ? 1 : 0 },
      b: { assigned: counted('E aí?'), converted: text === 'E aí?' ? 1 : 0 },
    })

    // Over, it meets nobody new.
    valueOf(await asAdminOf(clinic).from('ab_tests').update({ active: false }).eq('id', ab_test_id).select())
    const newcomer = aCustomer()
    await newcomer.say('Oi')
    expect(await newcomer.hears(1)).toEqual(['Olá.'])
  } finally {
    valueOf(await asAdminOf(clinic).from('flows').update({ is_default: true }).eq('id', flow.id).select())
  }
})

// Workers that die -------------------------------------------------------------------------------------------------------------

test('a worker that dies between the step and its end leaves nothing, and nothing happens twice', async () => {
  const customers = await Promise.all(Array.from({ length: 6 }, () => aCustomerChoosing()))
  const pids = new Set<number>()
  let died = 0
  // In the midst of the turns that book, and of those that greet.
  const newcomers = Array.from({ length: 6 }, () => aCustomer())
  await whileTheAgendaIsHeld(async () => {
    for (const [index, customer] of customers.entries()) {
      const hours = (await customer.options()).filter(({ title }) => HOUR.test(title))
      const hour = hours[index % hours.length]
      if (hour !== undefined) await customer.tap(hour)
    }
    await eventually(isStandingStill)
    // Whoever dies in the midst of a call to Meta makes its message wait for minutes: that is another story (sending-crash).
    await pauseSending(new Date(Date.now() + 3_600_000))
    await Promise.all(newcomers.map((customer) => customer.say('Oi')))
    const pid = stack.pids().functions
    if (pid !== null) pids.add(pid)
    stack.kill('functions')
    died = Date.now()
  })
  await eventually(() => {
    const pid = stack.pids().functions
    return pid !== null && !pids.has(pid)
  })
  expect(pids.size).toBe(1)
  await pauseSending(null)
  // What the dead held is free when its lease is over, a reply that was to wait for the pause's end too.
  const everybody = [...customers, ...newcomers]
  await eventually(async () => {
    await inDatabase(async (sql) => {
      await sql`
        update public.message_queue set lease_expires_at = now()
        where status = 'processing' and lease_expires_at < ${new Date(died + LEASE_MS)}`
      await hurry(sql, clinic)
    })
    const said = await Promise.all(everybody.map((customer) => customer.texts()))
    return said.every((texts, index) => texts.length >= (index < customers.length ? 5 : 2))
  })
  for (const customer of everybody) await customer.settles()

  for (const customer of newcomers) expect(await customer.texts()).toEqual(['Olá, Rita!', 'O que deseja?'])
  const last = await Promise.all(customers.map((customer) => customer.texts()))
  expect(last.map((texts) => texts.length)).toEqual(customers.map(() => 5))
  const booked = await Promise.all(customers.map(bookingsOf))
  for (const [index, texts] of last.entries()) {
    expect(booked[index]).toHaveLength(texts.at(-1)?.startsWith('Marcado') === true ? 1 : 0)
  }
  const starts = booked.flat().map(({ start_time }) => same(start_time))
  expect(new Set(starts).size).toBe(starts.length)
  expect(starts.length).toBeGreaterThan(0)
})

// Two checks, one opinion ------------------------------------------------------------------------------------------------------

describe('the database\'s check of a definition', () => {
  const random = seeded(seed)
  const pick = <Item>(items: readonly Item[]): Item | undefined => items[random(items.length)]
  const ODD: readonly Json[] = [
    null, true, 0, -1, 2.5, 11, 99_999, '', ' ', '\u00a0', 'x', 'ola', 'fim', '{{nome}}', '{{x}}', '{{ respostas.email }}',
    'é'.repeat(1025), '(a+)+', '[a-z]{2}', '[z-a]', 'a{2,1}', [], {}, [1], 'sim_nao', 'texto', 'acao', 'voar', 'definir_etapa_jornada',
  ]

  /** One thing of it is another, is gone, or is there twice. */
  function mutated(value: Json): Json {
    if (Array.isArray(value) && value.length > 0) {
      const at = random(value.length)
      switch (random(6)) {
        case 0:
          return value.toSpliced(at, 1)
        case 1:
          return [...value, structuredClone(value[at] ?? null)]
        case 2:
          return value.toSpliced(at, 1, pick(ODD) ?? null)
        default:
          return value.map((item, index) => index === at ? mutated(item) : item)
      }
    }
    if (typeof value === 'object' && value !== null && !Array.isArray(value) && Object.keys(value).length > 0) {
      const key = pick(Object.keys(value)) ?? ''
      const { [key]: old = null, ...rest } = value
      switch (random(6)) {
        case 0:
          return rest
        case 1:
          return { ...value, [pick(['proxima', 'em_falha', 'em_erro', 'chave', 'validacao', 'inicio', 'pergunta', 'acao']) ?? key]: pick(ODD) ?? null }
        default:
          return { ...value, [key]: mutated(old) }
      }
    }
    return pick(ODD) ?? null
  }

  function corpus(): Json[] {
    const folder = new URL('../../supabase/flow-templates/', import.meta.url)
    const templates = readdirSync(folder).filter((name) => name.endsWith('.json')).map((name) =>
      z.looseObject({ definition: z.json() }).parse(JSON.parse(readFileSync(new URL(name, folder), 'utf8'))).definition
    )
    const good: Json[] = [...templates, JSON.parse(JSON.stringify(RECEPTION))]
    const broken = Array.from({ length: 200 }, (): Json => {
      let definition: Json = structuredClone(pick(good) ?? null)
      for (let times = random(4); times >= 0; times--) definition = mutated(definition)
      return definition
    })
    const tested = ['teste.Saudação 🎉', 'teste.', 'teste. ', `teste.${'é'.repeat(120)}`, `teste.${'é'.repeat(121)}`, 'Teste.x']
      .map((chave): Json => ({
        etapas: [
          { id: 'c', tipo: 'condicao', condicoes: [{ chave, operador: 'existe', proxima: 'fim' }], proxima: 'fim' },
          { id: 'fim', tipo: 'fim' },
        ],
      }))
    const shapes: Json[] = [null, [], 'x', {}, { etapas: {} }, { etapas: Array(201).fill({}) }]
    return [...shapes, ...tested, ...good, ...tangles(), ...broken]
  }

  /** As many steps and ways as there may be: in one circle, in many, in a line, and where some are out of reach. */
  function tangles(): Json[] {
    const leading: ((step: number, way: number) => number)[] = [
      (step, way) => (step * 31 + way * 17) % 199,
      (step, way) => Math.max(step - way, 0),
      (step, way) => Math.min(way === 0 ? step ^ 1 : step + 1, 198),
      (step) => Math.min(step + 1, 198),
      (step, way) => Math.min(step + 2 * way + 2, 198),
    ]
    return leading.map((to) => ({
      etapas: [
        ...Array.from({ length: 199 }, (_, step): Json => ({
          id: `s${step}`,
          tipo: 'condicao',
          condicoes: Array.from(
            { length: 20 },
            (_, way) => ({ chave: 'contato.nome', operador: 'existe', proxima: `s${to(step, way)}` }),
          ),
          proxima: step % 7 === 0 || step === 198 ? 'fim' : `s${to(step, 1)}`,
        })),
        { id: 'fim', tipo: 'fim' },
      ],
    }))
  }

  test(`finds what the editor's finds, by the same names (seed ${seed})`, async () => {
    const definitions = corpus()
    const found = await inDatabase((sql) =>
      sql<{ problems: FlowProblem[] }[]>`
        select (select coalesce(jsonb_agg(p), '[]') from private.flow_problems(d.value) p) as problems
        from jsonb_array_elements(${sql.json(definitions)}) with ordinality d (value, n)
        order by d.n`
    )
    const told = (problems: readonly FlowProblem[]) =>
      [...new Set(problems.map(({ step, problem, detail }) => [step, problem, detail].join(' | ')))].sort()
    const differing = definitions.map((definition, index) => ({
      definition,
      editor: told(findProblems(definition)),
      database: told(found[index]?.problems ?? []),
    })).filter(({ editor, database }) => editor.join() !== database.join())
    expect(differing).toEqual([])
    expect(definitions.filter((definition) => findProblems(definition).length === 0).length).toBeGreaterThan(3)
  })
})
