// npm run demo: the story that must always work, played through the doors that real apps and Meta use.
//
// On the stack of the data directory if one runs there, else on one of its own that leaves nothing. It prints what
// happened; whatever is not as it should be ends it with one line and exit code 1.

import { randomBytes, randomInt, randomUUID } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text as textOf } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { createClient, type SupabaseClient } from '@supabase/supabase-js'
import { Webhook } from 'standardwebhooks'
import WebSocket from 'ws'
import { z } from 'zod'
import { type AvailableSlot, businessError, type Database, webhookEvent, type WebhookEventType } from '../types/index.ts'
import { apiKeys } from './api-keys.ts'
import { DataDirectory } from './data-directory.ts'
import { dataDir, stackOptions } from './environment.ts'
import { Failure, messageOf } from './failure.ts'
import { outliveLostConnections } from './lost-connection.ts'
import { asMetaWrites, signatureOf } from './meta-webhook.ts'
import { isAlive } from './processes.ts'
import { startStack } from './stack.ts'

interface Stage {
  api: string
  publishableKey: string
  remark: string
  leave: () => Promise<void>
}

interface Person {
  name: string
  email: string
  accessToken: string
  client: SupabaseClient<Database>
}

const webhookAnswer = z.object({
  messages: z.int().optional(),
  duplicates: z.int().optional(),
  error: z.object({ code: z.string() }).optional(),
})

// Before version 22 Node has none, and supabase-js wants one even where nothing listens.
if (!('WebSocket' in globalThis)) Object.assign(globalThis, { WebSocket })

/** How long the demo waits for what the stack does by itself. */
const PATIENCE_MS = 20_000

const interrupted = new AbortController()
const hurry = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    if (interrupted.signal.aborted) hurry.abort()
    interrupted.abort(new Failure('Interrupted.'))
  })
}

outliveLostConnections()
const brokenOffForGood = new Promise<never>(() => undefined)

let stage: Stage | null = null
let exitCode = 0
try {
  stage = await runningStage() ?? await ownStage()
  await Promise.race([play(stage), brokenOff()])
} catch (error) {
  exitCode = interrupted.signal.aborted ? 130 : 1
  if (exitCode === 1) console.error(`Balcão: ${messageOf(error)}`)
} finally {
  await stage?.leave()
}
process.exit(exitCode)

// The story -----------------------------------------------------------------------------------------------------------

async function play({ api, publishableKey, remark }: Stage): Promise<void> {
  const started = performance.now()
  console.log(`Balcão, played on ${api} (${remark}).`)

  step('Júlia signs up and founds a clinic; Rafael is invited as its attendant and accepts.')
  const julia = await signUp('Júlia')
  const rafael = await signUp('Rafael')
  const clinic = await found(julia, 'Clínica São José', 'clinic')
  const membership = await invite(julia, rafael, clinic.id)
  told(`${clinic.name} is ${clinic.slug}; Rafael's role there: ${membership.role}`)

  step('Carla is an attendant too, of another business.')
  const bruno = await signUp('Bruno')
  const carla = await signUp('Carla')
  const petshop = await found(bruno, 'Pet Shop Amigão', 'petshop')
  await invite(bruno, carla, petshop.id)
  told(`${petshop.name} is ${petshop.slug}`)

  step('Júlia says what can be booked: an evaluation with Dr. Helena, on Saturday mornings.')
  const evaluation = await offerEvaluation(julia, clinic.id)
  told('a service, a professional and her hours, in São Paulo time')

  step("Júlia connects the clinic's WhatsApp number.")
  const appSecret = randomBytes(16).toString('hex')
  const phoneNumberId = String(randomInt(10 ** 14, 10 ** 14 + 2 ** 47))
  const number = await connectNumber(julia, clinic.id, phoneNumberId, appSecret)
  told('POST /functions/v1/manage-instance: 201')
  told(`Meta delivers to ${number.webhook_url}`)

  step("The clinic's CRM wants to know what customers write, and what becomes of the answers.")
  const crm = await receiver()
  const endpoint = await callFunction(julia, 'manage-webhook', {
    organization_id: clinic.id,
    url: crm.url,
    event_types: ['message.received', 'booking.created', 'message.read'],
  })
  if (endpoint.status === 201) {
    crm.knows(z.object({ secret: z.string() }).parse(endpoint.answer).secret)
    told('POST /functions/v1/manage-webhook: 201, and a secret that is shown this once')
  } else {
    // Only addresses of the internet are called, unless a test says otherwise.
    expect(endpoint.status === 400, `manage-webhook answered ${endpoint.status}`)
    told('400: nothing is sent to this machine; BALCAO_ALLOW_LOOPBACK_WEBHOOKS=true npm start allows it')
  }

  step('Maria writes. Meta posts a signed webhook.')
  const text = 'Oi! 😊 Quero marcar uma avaliação para sábado de manhã, às 9h30. Vocês têm horário?'
  const body = metaDelivery(phoneNumberId, text)
  const first = await post(number.webhook_url, body, appSecret)
  expect(first.status === 200 && first.messages === 1, `the delivery was answered with ${first.status}`)
  told(`“${text}”`)
  told(`${pathOf(number.webhook_url)}: 200, ${first.messages} message stored`)

  step('Meta is not sure that we heard, and posts it again.')
  const second = await post(number.webhook_url, body, appSecret)
  expect(second.status === 200 && second.messages === 0 && second.duplicates === 1, 'the redelivery was not recognised')
  told(`200, ${second.messages} messages stored, ${second.duplicates} known already`)

  step("Somebody who does not know the app's secret posts a message of his own.")
  const forged = await post(number.webhook_url, metaDelivery(phoneNumberId, 'Cancela tudo!'), 'a guess')
  expect(forged.status === 401, `the forgery was answered with ${forged.status}`)
  told(`401 ${forged.error?.code}, nothing is stored`)

  step('Rafael opens the inbox with supabase-js.')
  const [conversation, ...others] = await inboxOf(rafael)
  const [message, ...more] = conversation?.messages ?? []
  expect(conversation !== undefined && others.length === 0, 'the inbox does not hold one conversation')
  expect(message?.content === text && more.length === 0, 'the conversation does not hold what Maria wrote, once')
  const { contacts: contact, unread_count } = conversation
  told(`${contact.name}, ${contact.phone_number}, ${unread_count} unread`)
  told(`“${message.content}”`)

  step('Rafael looks for the slot and books it.')
  const slot = await saturdayAtHalfPastNine(rafael, evaluation)
  const wish = { contact_id: contact.id, service_id: evaluation, start_time: slot.start_time }
  const booking = valueOf(await rafael.client.rpc('create_booking', { ...wish, id: randomUUID() }))
  told(`${localTime(slot)} with ${slot.professional_name}: ${booking.status}`)

  step('Somebody else wants the same slot.')
  const refused = businessError((await julia.client.rpc('create_booking', wish)).error)
  expect(refused?.name === 'slot_unavailable', 'the same slot was booked twice')
  const [nearest] = z.array(z.object({ start_time: z.string() })).parse(refused.detail.alternatives)
  expect(nearest !== undefined, 'no other slot was named')
  told(`${refused.name}; the nearest free one is ${localTime({ ...slot, ...nearest })}`)

  step('Rafael answers; his telephone is not sure that it went out, and sends it again.')
  const reply = { conversation_id: conversation.id, content: 'Temos, sim! 😊 Até sábado, Maria.', client_message_id: randomUUID() }
  const answer = valueOf(await rafael.client.rpc('send_message', reply))
  const repeated = valueOf(await rafael.client.rpc('send_message', reply))
  expect(answer.id === repeated.id, 'the same client_message_id made two messages')
  told(`“${answer.content}”`)
  told(`${answer.status}, one message`)
  const statuses = await untilRead(rafael, answer.id)
  told(`${statuses.join(', ')}: the worker handed it to Meta, whose signed statuses came back`)

  if (endpoint.status === 201) {
    step('The CRM has heard of it, signed and verified.')
    const events = await crm.heard('message.received', 'booking.created', 'message.read')
    for (const event of events) told(event)
  }
  await crm.close()

  step('Carla opens hers.')
  const carlas = await inboxOf(carla)
  const contacts = valueOf(await carla.client.from('contacts').select('id'))
  const messages = valueOf(await carla.client.from('messages').select('id'))
  const bookings = valueOf(await carla.client.from('bookings').select('id'))
  const seen = carlas.length + contacts.length + messages.length + bookings.length
  expect(seen === 0, "Carla sees another tenant's rows")
  told(`${carlas.length} conversations, ${contacts.length} contacts, ${messages.length} messages, ${bookings.length} bookings`)

  console.log(`\nAll of it happened, in ${((performance.now() - started) / 1000).toFixed(1)} s.`)

  async function signUp(name: string): Promise<Person> {
    const client = createClient<Database>(api, publishableKey, {
      auth: { persistSession: false, autoRefreshToken: false },
      global: { fetch: fetchUntilBrokenOff },
    })
    const email = `${name.normalize('NFD').replaceAll(/\W/g, '').toLowerCase()}.${randomUUID()}@exemplo.com.br`
    const { session } = valueOf(await client.auth.signUp({ email, password: randomUUID() }))
    expect(session !== null, `${name} was not signed in`)
    return { name, email, accessToken: session.access_token, client }
  }

  async function connectNumber(
    owner: Person,
    organization_id: string,
    external_id: string,
    app_secret: string,
  ): Promise<{ webhook_url: string }> {
    const { status, answer } = await callFunction(owner, 'manage-instance', {
      organization_id,
      provider: 'meta_cloud',
      name: 'Recepção',
      phone_number: '(11) 94000-1234',
      external_id,
      access_token: randomBytes(24).toString('hex'),
      meta_app: { app_secret, verify_token: randomBytes(16).toString('hex') },
    })
    expect(status === 201, `manage-instance answered ${status}: ${JSON.stringify(answer)}`)
    return z.object({ webhook_url: z.url() }).parse(answer)
  }

  async function callFunction(person: Person, name: string, body: object): Promise<{ status: number; answer: unknown }> {
    const response = await fetchUntilBrokenOff(`${api}/functions/v1/${name}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${person.accessToken}` },
      body: JSON.stringify(body),
    })
    return { status: response.status, answer: await response.json() }
  }
}

/** A service with a professional who works on Saturday mornings. */
async function offerEvaluation({ client }: Person, organization_id: string): Promise<string> {
  const service = valueOf(
    await client.from('services').insert({ organization_id, name: 'Avaliação', duration_minutes: 30, price_cents: 15_000 })
      .select().single(),
  )
  const helena = valueOf(
    await client.from('professionals').insert({ organization_id, name: 'Dra. Helena', kind: 'doctor' }).select().single(),
  )
  valueOf(
    await client.from('professional_services')
      .insert({ organization_id, professional_id: helena.id, service_id: service.id }).select(),
  )
  valueOf(
    await client.from('working_hours')
      .insert({ organization_id, professional_id: helena.id, weekday: 6, starts_at: '08:00', ends_at: '12:00' }).select(),
  )
  return service.id
}

async function saturdayAtHalfPastNine({ client }: Person, service_id: string): Promise<AvailableSlot> {
  const now = Date.now()
  const slots = valueOf(
    await client.rpc('get_available_slots', {
      service_id,
      from_time: new Date(now).toISOString(),
      to_time: new Date(now + 15 * 24 * 3_600_000).toISOString(),
    }),
  )
  const slot = slots.find((free) => localTime(free).endsWith('09:30'))
  expect(slot !== undefined, 'there is no free slot on a Saturday at half past nine')
  return slot
}

function localTime({ start_time, timezone }: Pick<AvailableSlot, 'start_time' | 'timezone'>): string {
  return new Intl.DateTimeFormat('en-GB', {
    timeZone: timezone, weekday: 'long', hour: '2-digit', minute: '2-digit', hourCycle: 'h23',
  }).format(new Date(start_time))
}

/** The statuses that a message was seen in, until the customer has read it. */
async function untilRead({ client }: Person, id: string): Promise<string[]> {
  const seen: string[] = []
  for (const patience = AbortSignal.timeout(PATIENCE_MS); seen.at(-1) !== 'read'; await sleep(20)) {
    const message = valueOf(await client.from('messages').select('status, error_message').eq('id', id).single())
    expect(message.status !== 'failed', `the answer failed: ${message.error_message}`)
    if (message.status !== seen.at(-1)) seen.push(message.status)
    expect(!patience.aborted, `the answer got as far as “${message.status}” only`)
  }
  return seen
}

/** A system of the clinic's own, which verifies what it is told. */
async function receiver() {
  const events = new Map<WebhookEventType, string>()
  let webhook: Webhook | null = null
  const server = createServer((request, response) => {
    textOf(request).then((body) => {
      const headers = Object.fromEntries(Object.entries(request.headers).map(([name, value]) => [name, String(value)]))
      const { type, timestamp } = webhookEvent.parse(webhook?.verify(body, headers))
      events.set(type, `${type}, ${timestamp}`)
      response.writeHead(204).end()
    }).catch(() => response.writeHead(400).end())
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  server.unref()
  const address = server.address()
  expect(typeof address === 'object' && address !== null, 'the receiver has no port')
  return {
    url: `http://127.0.0.1:${address.port}/balcao`,
    knows: (secret: string) => void (webhook = new Webhook(secret)),
    heard: async (...types: WebhookEventType[]): Promise<string[]> => {
      for (const patience = AbortSignal.timeout(PATIENCE_MS); !types.every((type) => events.has(type)); await sleep(20)) {
        expect(!patience.aborted, `the CRM heard of ${[...events.keys()].join(', ') || 'nothing'} only`)
      }
      return types.map((type) => events.get(type) ?? '')
    },
    close: async () => {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

async function found(owner: Person, name: string, vertical: 'clinic' | 'petshop') {
  return valueOf(await owner.client.rpc('create_organization', { name, vertical }))
}

async function invite(owner: Person, person: Person, organization_id: string) {
  const invitation = { email: person.email, role: 'attendant', organization_id } as const
  const { token } = valueOf(await owner.client.rpc('invite_member', invitation))
  return valueOf(await person.client.rpc('accept_invitation', { token }))
}

async function inboxOf({ client }: Person) {
  const inbox = client.from('conversations')
    .select('id, unread_count, contacts(id, name, phone_number), messages(content, sent_at)')
    .order('last_message_at', { ascending: false })
  return valueOf(await inbox)
}

// Meta ----------------------------------------------------------------------------------------------------------------

function metaDelivery(phoneNumberId: string, text: string): Buffer {
  const from = '5511987650001'
  const delivery = {
    object: 'whatsapp_business_account',
    entry: [{
      id: '102938475610293',
      changes: [{
        value: {
          messaging_product: 'whatsapp',
          metadata: { display_phone_number: '5511940001234', phone_number_id: phoneNumberId },
          contacts: [{ profile: { name: 'Maria Aparecida da Conceição' }, wa_id: from }],
          messages: [{
            from,
            id: `wamid.${randomBytes(40).toString('base64')}`,
            timestamp: String(Math.floor(Date.now() / 1000)),
            type: 'text',
            text: { body: text },
          }],
        },
        field: 'messages',
      }],
    }],
  }
  return asMetaWrites(delivery)
}

async function post(url: string, body: Buffer, appSecret: string) {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'x-hub-signature-256': signatureOf(body, appSecret) },
    body: new Uint8Array(body),
  })
  return { status: response.status, ...webhookAnswer.parse(await response.json()) }
}

// The stage -----------------------------------------------------------------------------------------------------------

async function runningStage(): Promise<Stage | null> {
  const data = DataDirectory.at(dataDir())
  const state = data.readState()
  if (state === null || !isAlive(state) || state.status !== 'ready' || state.apiPort === null) return null
  return {
    api: `http://127.0.0.1:${state.apiPort}`,
    publishableKey: apiKeys(await data.existingSecrets()).publishable,
    remark: 'the stack that is running',
    leave: () => Promise.resolve(),
  }
}

async function ownStage(): Promise<Stage> {
  const folder = await mkdtemp(join(tmpdir(), 'balcao-demo-'))
  const remove = () => rm(folder, { recursive: true, force: true })
  try {
    const stack = await startStack({
      ...stackOptions(),
      functionsEnvironment: {
        ...stackOptions().functionsEnvironment,
        BALCAO_ALLOW_LOOPBACK_WEBHOOKS: 'true',
      },
      dataDir: folder,
      apiPort: 0,
      dbPort: 0,
      signal: interrupted.signal,
      hurry: hurry.signal,
    })
    return {
      api: stack.urls.api,
      publishableKey: stack.keys.publishable,
      remark: 'a stack of its own, gone afterwards',
      leave: () => stack.stop().finally(remove),
    }
  } catch (error) {
    await remove()
    throw error
  }
}

/** A request that the end of the demo breaks off has nobody left to complain to. */
async function fetchUntilBrokenOff(...request: Parameters<typeof fetch>): Promise<Response> {
  return await fetch(...request).catch((error) => interrupted.signal.aborted ? brokenOffForGood : Promise.reject(error))
}

function brokenOff(): Promise<never> {
  return new Promise((_resolve, reject) => {
    const { signal } = interrupted
    const breakOff = () => reject(signal.reason)
    if (signal.aborted) breakOff()
    else signal.addEventListener('abort', breakOff, { once: true })
  })
}

// Telling -------------------------------------------------------------------------------------------------------------

function step(sentence: string): void {
  const isColourful = process.stdout.isTTY && !process.env.NO_COLOR
  console.log(isColourful ? `\n\x1b[1m${sentence}\x1b[0m` : `\n${sentence}`)
}

function told(line: string): void {
  console.log(`    ${line}`)
}

function pathOf(url: string): string {
  return `POST ${new URL(url).pathname}`
}

function expect(holds: boolean, otherwise: string): asserts holds {
  if (!holds) throw new Failure(`The demo failed: ${otherwise}.`)
}

function valueOf<Data>({ data, error }: { data: Data; error: { message: string } | null }): NonNullable<Data> {
  expect(error === null && data !== null && data !== undefined, error?.message ?? 'an answer is empty')
  return data
}
