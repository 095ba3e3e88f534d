// What happens is told to an organization's own receivers: signed, again until it is taken, to public addresses only.
// Receivers, registrations and events are real ones; only the hours between attempts are skipped, in the database.

import { randomUUID } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { Webhook } from 'standardwebhooks'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { z } from 'zod'
import {
  businessError,
  type Tables,
  type WebhookEvent,
  webhookEvent,
  type WebhookEventType,
  webhookEventTypes,
} from '../../types/index.ts'
import { aConversation, aWaId, messageNow, seen, write } from '../support/conversations.ts'
import { metaOf } from '../support/graph.ts'
import { aTextMessage, bySenders, metaWebhook } from '../support/meta.ts'
import { startOwnStack } from '../support/own-stack.ts'
import {
  aReceiver,
  aSilentPort,
  type Attempt,
  manageWebhook,
  type Receiver,
  registerEndpoint,
} from '../support/receiver.ts'
import { runningStack } from '../support/running-stack.ts'
import {
  type Answer,
  asAdminOf,
  asAttendantOf,
  asOwnerOf,
  asPlatform,
  asViewerOf,
  aTenant,
  type Client,
  connectNumber,
  manageInstance,
  memberOf,
  type Tenant,
  valueOf,
} from '../support/tenants.ts'

const SECOND = 1000
const MINUTE = 60 * SECOND
const HOUR = 60 * MINUTE
/** As documented, after the first attempt. */
const WAITS = [5 * SECOND, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR]

const backend = runningStack()
const platform = asPlatform(backend)
const meta = metaOf(backend)
/** Past every door: to move time, and to look where nobody may. */
const sql = postgres(backend.urls.admin, { max: 2, onnotice: () => undefined })

let clinic: Tenant
let neighbour: Tenant
beforeAll(async () => {
  clinic = await aTenant(backend, 'Clínica Girassol', ['viewer', 'attendant', 'admin'])
  neighbour = await aTenant(backend, 'Clínica Vizinha', ['admin'])
})
afterAll(() => sql.end({ timeout: 1 }))

// Endpoints, events and attempts ----------------------------------------------------------------------------------------

interface Endpoint {
  id: string
  secret: string
  receiver: Receiver
  events: () => WebhookEvent[]
}

/** Registered for a test: what it has not heard by its end, nobody will. */
async function anEndpoint(
  eventTypes: readonly WebhookEventType[] = ['webhook.test'],
  reply?: Receiver['reply'],
  tenant = clinic,
): Promise<Endpoint> {
  const receiver = await aReceiver(reply)
  const { endpoint: { id }, secret } = await registerEndpoint(tenant, receiver.url, eventTypes)
  onTestFinished(async () => {
    await manageWebhook(backend, 'DELETE', memberOf(tenant, 'admin').accessToken, targetOf(id, tenant))
    await receiver.close()
  })
  return { id, secret, receiver, events: () => receiver.attempts.map((attempt) => eventIn(attempt, secret)) }
}

const targetOf = (id: string, tenant = clinic) => ({ organization_id: tenant.organizationId, endpoint_id: id })

async function change(endpoint: { id: string }, changes: Record<string, unknown>): Promise<Answer> {
  const body = { ...targetOf(endpoint.id), ...changes }
  return await manageWebhook(backend, 'PATCH', memberOf(clinic, 'admin').accessToken, body)
}

/** What the reference implementation makes of it. */
function verified({ body, headers }: Pick<Attempt, 'body' | 'headers'>, secret: string): unknown {
  return new Webhook(secret).verify(body, headers)
}

function eventIn(attempt: Attempt, secret: string): WebhookEvent {
  return webhookEvent.parse(verified(attempt, secret))
}

/** An event for one endpoint, whenever a test needs one. */
async function sendTest(endpoint: { id: string }, tenant = clinic): Promise<Tables<'webhook_deliveries'>> {
  const args = { endpoint_id: endpoint.id, organization_id: tenant.organizationId }
  return valueOf(await asAdminOf(tenant).rpc('test_webhook_endpoint', args)) as Tables<'webhook_deliveries'>
}

type Delivery = Tables<'webhook_deliveries'>

async function deliveryNow({ id }: { id: string }): Promise<Delivery> {
  return valueOf(await platform.from('webhook_deliveries').select('*').eq('id', id).single())
}

async function whenDelivery(delivery: { id: string }, holds: (now: Delivery) => boolean): Promise<Delivery> {
  return await seen(() => deliveryNow(delivery), holds)
}

async function endpointNow({ id }: { id: string }): Promise<Tables<'webhook_endpoints'>> {
  return valueOf(await platform.from('webhook_endpoints').select('*').eq('id', id).single())
}

const attemptsOf = ({ receiver }: Endpoint, count: number): Promise<Attempt[]> =>
  seen(() => Promise.resolve(receiver.attempts), ({ length }) => length >= count)

/** The next attempt is due. */
async function hurry({ id }: { id: string }): Promise<void> {
  await sql.begin(async (sql) => {
    await sql`update public.webhook_deliveries set next_attempt_at = now() where id = ${id} and status = 'failed'`
    await sql`
      update public.message_queue
      set run_at = now(), is_due = true
      where organization_id = ${clinic.organizationId} and payload ->> 'delivery_id' = ${id} and status = 'failed'`
    await sql`select private.wake_worker()`
  })
}

async function jobOf({ id }: { id: string }): Promise<Tables<'message_queue'>> {
  return valueOf(await platform.from('message_queue').select('*').eq('payload->>delivery_id', id).single())
}

/** When the end of each attempt was written down, in their order. */
async function endsOf(delivery: { id: string }): Promise<Date[]> {
  const { id } = await jobOf(delivery)
  const calls = await sql<{ created_at: Date }[]>`
    select c.created_at from public.api_call_logs c where c.job_id = ${id} order by c.created_at`
  return calls.map(({ created_at }) => created_at)
}

const refusal = z.object({ error: z.object({ code: z.string() }) })
function refused({ status, body }: Answer): [number, string] {
  return [status, refusal.parse(body).error.code]
}

// Signatures --------------------------------------------------------------------------------------------------------------

test('a delivery is what Standard Webhooks says, and what types/ says', async () => {
  const endpoint = await anEndpoint()
  const { id, event_id } = await sendTest(endpoint)
  const [attempt] = await attemptsOf(endpoint, 1)
  expect(attempt?.headers).toMatchObject({
    'webhook-id': event_id,
    'content-type': 'application/json',
    'user-agent': expect.stringMatching(/^Balcao-Webhooks\//),
  })
  expect(endpoint.events()).toEqual([{
    type: 'webhook.test',
    timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
    data: { organization_id: clinic.organizationId, endpoint_id: endpoint.id },
  }])
  const delivered = await whenDelivery({ id }, ({ status }) => status === 'delivered')
  expect(delivered).toMatchObject({
    attempts: 1,
    last_response_status: 204,
    last_error: null,
    next_attempt_at: null,
    webhook_url: endpoint.receiver.url,
    payload: JSON.parse(attempt?.body ?? ''),
  })
  expect(delivered.delivered_at).not.toBeNull()
  expect((await jobOf({ id })).status).toBe('completed')
})

test('whatever is changed on the way, the signature does not fit', async () => {
  const endpoint = await anEndpoint()
  const other = await anEndpoint()
  await sendTest(endpoint)
  const [attempt] = await attemptsOf(endpoint, 1)
  if (attempt === undefined) throw new Error('Nothing came.')
  const { body, headers } = attempt
  const withHeader = (name: string, value: string) => ({ body, headers: { ...headers, [name]: value } })
  const earlier = String(Number(headers['webhook-timestamp']) - 1)
  expect(() => verified(attempt, endpoint.secret)).not.toThrow()
  expect(() => verified({ headers, body: body.replace(endpoint.id, other.id) }, endpoint.secret)).toThrow()
  expect(() => verified({ headers, body: `${body} ` }, endpoint.secret)).toThrow()
  expect(() => verified(withHeader('webhook-id', randomUUID()), endpoint.secret)).toThrow()
  expect(() => verified(withHeader('webhook-timestamp', earlier), endpoint.secret)).toThrow()
  expect(() => verified(withHeader('webhook-signature', 'v1,AAAA'), endpoint.secret)).toThrow()
  expect(() => verified(attempt, other.secret)).toThrow()
})

test('during a rotation either secret fits, after it only the new one', async () => {
  const endpoint = await anEndpoint()
  const rotated = await change(endpoint, { rotate_secret: true })
  expect(rotated.status).toBe(200)
  const { secret } = z.object({ secret: z.string() }).parse(rotated.body)
  expect(secret).not.toBe(endpoint.secret)

  await sendTest(endpoint)
  const [during] = await attemptsOf(endpoint, 1)
  if (during === undefined) throw new Error('Nothing came.')
  for (const either of [endpoint.secret, secret]) expect(eventIn(during, either).type).toBe('webhook.test')
  const [newest] = during.headers['webhook-signature']?.split(' ') ?? []
  expect(() => verified({ ...during, headers: { ...during.headers, 'webhook-signature': newest ?? '' } }, secret)).not.toThrow()

  const [{ hours } = { hours: 0 }] = await sql<{ hours: number }[]>`
    select extract(epoch from s.expires_at - now()) / 3600 as hours
    from private.webhook_endpoint_secrets s
    where s.endpoint_id = ${endpoint.id} and s.expires_at is not null`
  expect(Number(hours)).toBeGreaterThan(23)
  expect(Number(hours)).toBeLessThanOrEqual(24)
  await sql`
    update private.webhook_endpoint_secrets set expires_at = now()
    where endpoint_id = ${endpoint.id} and expires_at is not null`
  await sendTest(endpoint)
  const [, after] = await attemptsOf(endpoint, 2)
  if (after === undefined) throw new Error('Nothing came.')
  expect(eventIn(after, secret).type).toBe('webhook.test')
  expect(() => verified(after, endpoint.secret)).toThrow()
})

// Events ------------------------------------------------------------------------------------------------------------------

test('types/ knows the event types that the database knows', async () => {
  const [row] = await sql<{ types: WebhookEventType[] }[]>`select private.webhook_event_types() as types`
  expect(webhookEventTypes).toEqual(row?.types)
})

test('each event is told when it happens, once, and says what happened', async () => {
  // Alerts open by the clock: alerts.test.ts.
  const endpoint = await anEndpoint(webhookEventTypes.filter((type) => !type.startsWith('alert.')))
  const number = await connectNumber(clinic)
  await meta.statuses(number, [])
  const told: WebhookEvent[] = []
  /** What was told since the last time this was asked, by type. */
  const tells = async (...types: WebhookEventType[]): Promise<{ [Type in WebhookEventType]?: WebhookEvent['data'] }> => {
    await seen(() => Promise.resolve(endpoint.receiver.attempts.length), (count) => count >= told.length + types.length)
    const news = endpoint.events().slice(told.length)
    told.push(...news)
    expect(news.map(({ type }) => type).sort()).toEqual(types.sort())
    return Object.fromEntries(news.map(({ type, data }) => [type, data]))
  }
  const whoseStatusIs = async (status: string, id: string) => {
    const { status: answered } = await metaWebhook({
      object: 'whatsapp_business_account',
      entry: [{
        id: '1',
        changes: [{
          field: 'messages',
          value: {
            messaging_product: 'whatsapp',
            metadata: { display_phone_number: '5511940001234', phone_number_id: number.externalId },
            statuses: [{ id, status, timestamp: String(Math.floor(Date.now() / 1000)), recipient_id: waId }],
          },
        }],
      }],
    }).signedWith(number.appSecret).postedTo(number.webhookUrl)
    expect(answered).toBe(200)
  }

  const { id: conversation_id, contactId: contact_id, waId } = await aConversation(clinic, number)
  const first = await tells('contact.created', 'conversation.opened', 'message.received', 'instance.connected')
  const contact = { id: contact_id, name: 'Ana', phone_number: `+${waId}` }
  expect(first).toMatchObject({
    'contact.created': { organization_id: clinic.organizationId, contact },
    'conversation.opened': { conversation: { id: conversation_id, contact_id, status: 'active', closed_at: null } },
    'message.received': {
      message: { conversation_id, contact_id, direction: 'inbound', content: 'Oi, vocês abrem sábado?', status: 'received' },
      contact,
    },
    'instance.connected': { instance: { id: number.instanceId, status: 'connected', sending_stopped_at: null } },
  })

  const { id: sent } = await write(clinic, { id: conversation_id }, 'Abrimos às 8 🙂')
  const outbound = { id: sent, conversation_id, direction: 'outbound', content: 'Abrimos às 8 🙂' }
  const answers = { id: conversation_id, is_bot_controlled: false, assigned_user_id: memberOf(clinic, 'attendant').userId }
  expect(await tells('conversation.taken_over')).toMatchObject({ 'conversation.taken_over': { conversation: answers } })
  const { whatsapp_message_id } = await seen(() => messageNow(clinic, { id: sent }), ({ whatsapp_message_id: id }) => id !== null)
  for (const status of ['sent', 'delivered', 'read', 'played'] as const) {
    // Meta may tell it twice.
    for (const _twice of [1, 2]) await whoseStatusIs(status, whatsapp_message_id ?? '')
    const { [`message.${status}` as const]: data } = await tells(`message.${status}`)
    expect(data).toMatchObject({ message: { ...outbound, status }, contact })
  }

  await meta.failing(number, { code: 131026 })
  const { id: failed } = await write(clinic, { id: conversation_id }, 'Está aí?')
  expect(await tells('message.failed')).toMatchObject({
    'message.failed': { message: { id: failed, status: 'failed', error_code: '131026' } },
  })

  await meta.failing(number, { code: 190 })
  const { id: stopped } = await write(clinic, { id: conversation_id }, 'Alô?')
  expect(await tells('message.failed', 'instance.sending_stopped')).toMatchObject({
    'message.failed': { message: { id: stopped, status: 'failed', error_code: '190' } },
    'instance.sending_stopped': { instance: { id: number.instanceId, sending_stopped_code: '190' } },
  })

  const attendant = asAttendantOf(clinic)
  valueOf(await attendant.rpc('release_to_bot', { conversation_id }))
  expect(await tells('conversation.released')).toMatchObject({
    'conversation.released': { conversation: { id: conversation_id, is_bot_controlled: true } },
  })
  await sql`select private.hand_over(private.lock_conversation(${clinic.organizationId}, ${conversation_id}), 'pediu atendente')`
  expect(await tells('conversation.escalated')).toMatchObject({
    'conversation.escalated': { conversation: { status: 'waiting_human', escalation_reason: 'pediu atendente' } },
  })
  const { userId: user_id } = memberOf(clinic, 'admin')
  valueOf(await attendant.rpc('transfer_conversation', { conversation_id, user_id }))
  expect(await tells('conversation.transferred')).toMatchObject({
    'conversation.transferred': { conversation: { status: 'transferred', assigned_user_id: user_id } },
  })
  valueOf(await attendant.rpc('close_conversation', { conversation_id, satisfaction_score: 4 }))
  const closed = { id: conversation_id, status: 'closed', closed_at: expect.any(String), satisfaction_score: 4 }
  expect(await tells('conversation.closed')).toMatchObject({ 'conversation.closed': { conversation: closed } })
  valueOf(await attendant.rpc('reopen_conversation', { conversation_id }))
  expect(await tells('conversation.reopened')).toMatchObject({
    'conversation.reopened': { conversation: { status: 'active', closed_at: null } },
  })

  const instance = { organization_id: clinic.organizationId, instance_id: number.instanceId }
  expect(await manageInstance(backend, 'DELETE', memberOf(clinic, 'admin').accessToken, instance)).toMatchObject({ status: 200 })
  expect(await tells('instance.disconnected')).toMatchObject({
    'instance.disconnected': { instance: { id: number.instanceId, status: 'disconnected' } },
  })

  await sendTest(endpoint)
  expect(await tells('webhook.test')).toMatchObject({ 'webhook.test': { endpoint_id: endpoint.id } })
  // What bookings, leads and merges tell: business-events.test.ts; alerts: alerts.test.ts; erasing: privacy.test.ts.
  const expected = webhookEventTypes.filter((type) => !/^(booking|waiting_list|lead|alert)\.|^contact\.(merged|unmerged|erased)$/.test(type))
  expect([...new Set(told.map(({ type }) => type))].sort()).toEqual(expected.sort())
  const ids = endpoint.receiver.attempts.map(({ headers }) => headers['webhook-id'])
  expect(new Set(ids).size).toBe(ids.length)
})

test('an endpoint hears what it listens to, of its own organization, while it is active', async () => {
  const [mine, others, theirs] = [
    await anEndpoint(['message.received']),
    await anEndpoint(['contact.created', 'message.read']),
    await anEndpoint(webhookEventTypes, undefined, neighbour),
  ]
  const asleep = await anEndpoint(['message.received'])
  expect((await change(asleep, { is_active: false })).status).toBe(200)
  await aConversation(clinic, await connectNumber(clinic))
  // Behind them, in the same queue: what had been told of the message would have come before.
  await sendTest(mine)
  await sendTest(others)
  await sendTest(theirs, neighbour)
  for (const endpoint of [mine, others, theirs]) {
    await seen(() => Promise.resolve(endpoint.events()), (events) => events.some(({ type }) => type === 'webhook.test'))
  }
  const pending = () => sql`
    select d.id from public.webhook_deliveries d
    where d.endpoint_id in ${sql([mine.id, others.id, theirs.id, asleep.id])} and d.status <> 'delivered'`
  await seen(pending, ({ length }) => length === 0)
  const typesOf = ({ events }: Endpoint) => events().map(({ type }) => type).sort()
  expect(typesOf(mine)).toEqual(['message.received', 'webhook.test'])
  expect(typesOf(others)).toEqual(['contact.created', 'webhook.test'])
  expect(typesOf(theirs)).toEqual(['webhook.test'])
  expect(asleep.receiver.connections()).toBe(0)
})

test('what was rolled back never happened', async () => {
  const endpoint = await anEndpoint(['contact.created', 'webhook.test'])
  const written = () => sql`select d.id from public.webhook_deliveries d where d.endpoint_id = ${endpoint.id}`
  const contact = (sql: postgres.ISql) => sql`
    insert into public.contacts (organization_id, name) values (${clinic.organizationId}, 'Ninguém') returning id`
  const changedHisMind = new Error('I have changed my mind')
  await expect(sql.begin(async (sql) => {
    await contact(sql)
    // Inside it was there.
    expect(await sql`select d.id from public.webhook_deliveries d where d.endpoint_id = ${endpoint.id}`).toHaveLength(1)
    throw changedHisMind
  })).rejects.toBe(changedHisMind)
  expect(await written()).toHaveLength(0)
  await contact(sql)
  await sendTest(endpoint)
  await attemptsOf(endpoint, 2)
  expect(endpoint.events().map(({ type }) => type).sort()).toEqual(['contact.created', 'webhook.test'])
  expect(await written()).toHaveLength(2)
})

test('an event wakes the worker when it is committed; one that a webhook brings leaves that to the function', async () => {
  await anEndpoint(['contact.created'])
  const number = await connectNumber(clinic)
  const heard: string[] = []
  const { unlisten } = await sql.listen('balcao_wake', (what) => heard.push(what))
  onTestFinished(unlisten)
  /** Notifications come in the order of the commits: what was not heard before this one, nobody said. */
  const heardUntilNow = async () => {
    const mark = randomUUID()
    await sql`select pg_notify('balcao_wake', ${mark})`
    await seen(() => Promise.resolve(heard), (all) => all.includes(mark))
    return heard.splice(0).filter((what) => what !== mark)
  }
  await heardUntilNow()
  const message = aTextMessage({ to: number.externalId, from: aWaId(), id: `wamid.${randomUUID()}` })
  const { body } = await metaWebhook(message).signedWith(number.appSecret).postedTo(number.webhookUrl)
  expect(body.jobs).toBeGreaterThan(0)
  expect(await heardUntilNow()).toEqual([])
  await sql`insert into public.contacts (organization_id, name) values (${clinic.organizationId}, 'Caio')`
  expect(await heardUntilNow()).toEqual(['queue-worker'])
})

// Attempts ----------------------------------------------------------------------------------------------------------------

test('a receiver that is down gets the event ten times in three days, then it is given up; and again when somebody asks', async () => {
  const endpoint = await anEndpoint(['webhook.test'], () => ({ status: 503, body: 'manutenção' }))
  const { receiver } = endpoint
  const { id, event_id } = await sendTest(endpoint)
  const due: Date[] = []
  receiver.reply = async () => {
    // The second attempt comes by itself, and what it was due at is still written in its job.
    if (receiver.attempts.length === 2) due.push(new Date((await jobOf({ id })).run_at))
    return { status: 503, body: 'manutenção' }
  }
  for (const [index] of WAITS.entries()) {
    await attemptsOf(endpoint, index + 1)
    if (index === 0) continue
    const attempts = index + 1
    const { next_attempt_at, ...delivery } = await whenDelivery({ id }, (now) => now.status === 'failed' && now.attempts === attempts)
    expect(delivery).toMatchObject({ last_response_status: 503, last_error: 'http_503' })
    expect(new Date((await jobOf({ id })).run_at)).toEqual(new Date(next_attempt_at ?? ''))
    due.push(new Date(next_attempt_at ?? ''))
    await hurry({ id })
  }
  const dead = await whenDelivery({ id }, ({ status }) => status === 'dead')
  expect(dead).toMatchObject({ attempts: 10, next_attempt_at: null, last_error: 'http_503' })
  expect(await endpointNow(endpoint)).toMatchObject({ is_active: true, consecutive_failures: 10 })
  expect((await jobOf({ id })).status).toBe('completed')

  const ends = await endsOf({ id })
  expect(ends).toHaveLength(10)
  for (const [index, wait] of WAITS.entries()) {
    const [dueAt, heardAt, endedAt] = [due[index], receiver.attempts[index]?.at, ends[index]].map((date) => date?.getTime() ?? NaN)
    // The attempt failed between the moment that the receiver heard of it and the one when its end was written.
    expect(Number(dueAt) - Number(heardAt), `after attempt ${index + 1}`).toBeGreaterThanOrEqual(wait)
    expect(Number(dueAt) - Number(endedAt), `after attempt ${index + 1}`).toBeLessThanOrEqual(wait * 1.1 + 1)
  }
  expect(receiver.attempts).toHaveLength(10)
  expect(new Set(receiver.attempts.map(({ headers }) => headers['webhook-id']))).toEqual(new Set([event_id]))
  expect(new Set(receiver.attempts.map(({ body }) => body)).size).toBe(1)
  // Each is signed anew, so that a receiver that looks at the time takes it after a day too.
  const timestamps = receiver.attempts.map(({ headers }) => Number(headers['webhook-timestamp']))
  for (const [index, { at }] of receiver.attempts.entries()) {
    expect(timestamps[index]).toBeLessThanOrEqual(at.getTime() / 1000)
    const previousEnd = index === 0 ? Date.parse(dead.created_at) : ends[index - 1]?.getTime() ?? NaN
    expect(timestamps[index]).toBeGreaterThanOrEqual(Math.floor(previousEnd / 1000))
  }
  expect(endpoint.events()).toHaveLength(10)

  receiver.reply = () => 200
  const again = valueOf(await asAdminOf(clinic).rpc('redeliver', { id, organization_id: clinic.organizationId }))
  expect(again).toMatchObject({ id, status: 'pending', attempts: 0 })
  const delivered = await whenDelivery({ id }, ({ status }) => status === 'delivered')
  expect(delivered).toMatchObject({ attempts: 1, last_response_status: 200, last_error: null })
  expect(receiver.attempts[10]?.headers['webhook-id']).toBe(event_id)
  expect(eventIn(receiver.attempts[10] ?? failNow(), endpoint.secret)).toEqual(endpoint.events()[0])
  expect(await endpointNow(endpoint)).toMatchObject({ consecutive_failures: 0, failing_since: null })
})

function failNow(): never {
  throw new Error('Nothing came.')
}

test('a receiver that asks for more time gets it, up to a day; for less it does not', async () => {
  const asks = new Map<string, (next: number, heard: number, ended: number) => void>()
  const inTenMinutes = new Date(Math.ceil(Date.now() / SECOND) * SECOND + 10 * MINUTE)
  const waits = (from: number, to: number) => (next: number, heard: number, ended: number) => {
    expect(next - heard).toBeGreaterThanOrEqual(from)
    expect(next - ended).toBeLessThanOrEqual(to + 1)
  }
  asks.set('120', waits(2 * MINUTE, 2 * MINUTE))
  asks.set(inTenMinutes.toUTCString(), (next) => expect(new Date(next)).toEqual(inTenMinutes))
  asks.set('999999', waits(24 * HOUR, 24 * HOUR))
  for (const [retryAfter, check] of asks) {
    const endpoint = await anEndpoint(['webhook.test'], () => ({ status: 429, headers: { 'retry-after': retryAfter } }))
    const { id } = await sendTest(endpoint)
    const { next_attempt_at, last_error } = await whenDelivery({ id }, ({ status }) => status === 'failed')
    expect(last_error).toBe('http_429')
    const [ended] = await endsOf({ id })
    check(Date.parse(next_attempt_at ?? ''), endpoint.receiver.attempts[0]?.at.getTime() ?? NaN, ended?.getTime() ?? NaN)
  }

  // The second wait is five minutes: long enough to look at it.
  const hasty = await anEndpoint(['webhook.test'], () => ({ status: 503, headers: { 'retry-after': '1' } }))
  const { id } = await sendTest(hasty)
  const { next_attempt_at } = await whenDelivery({ id }, ({ status, attempts }) => status === 'failed' && attempts === 2)
  const [, ended] = await endsOf({ id })
  waits(5 * MINUTE, 5.5 * MINUTE)(Date.parse(next_attempt_at ?? ''), hasty.receiver.attempts[1]?.at.getTime() ?? NaN, ended?.getTime() ?? NaN)
})

test('a receiver that says it is gone is told nothing more, until an administrator switches it on', async () => {
  const endpoint = await anEndpoint(['webhook.test', 'contact.created'], () => 410)
  const { id } = await sendTest(endpoint)
  expect(await whenDelivery({ id }, ({ status }) => status === 'dead')).toMatchObject({ attempts: 1, last_response_status: 410 })
  const disabled = await endpointNow(endpoint)
  expect(disabled).toMatchObject({ is_active: false, disabled_reason: 'gone', disabled_at: expect.any(String) })
  const args = { organization_id: clinic.organizationId }
  for (
    const { error } of [
      await asAdminOf(clinic).rpc('test_webhook_endpoint', { ...args, endpoint_id: endpoint.id }),
      await asAdminOf(clinic).rpc('redeliver', { ...args, id }),
    ]
  ) expect(businessError(error)?.name).toBe('webhook_endpoint_disabled')
  await sql`insert into public.contacts (organization_id, name) values (${clinic.organizationId}, 'Bia')`
  expect(await sql`select from public.webhook_deliveries where endpoint_id = ${endpoint.id}`).toHaveLength(1)

  endpoint.receiver.reply = () => 204
  expect(await change(endpoint, { is_active: true })).toMatchObject({
    status: 200,
    body: { endpoint: { is_active: true, disabled_at: null, disabled_reason: null, consecutive_failures: 0 } },
  })
  await whenDelivery(await sendTest(endpoint), ({ status }) => status === 'delivered')
})

test('a redirect is a failure, and nobody goes where it leads', async () => {
  const elsewhere = await aReceiver()
  onTestFinished(elsewhere.close)
  for (const status of [301, 302, 303, 307, 308]) {
    const endpoint = await anEndpoint(['webhook.test'], () => ({ status, headers: { location: elsewhere.url } }))
    const failed = await whenDelivery(await sendTest(endpoint), (now) => now.status === 'failed')
    expect(failed).toMatchObject({ last_response_status: status, last_error: 'redirect' })
  }
  expect(elsewhere.connections()).toBe(0)
})

test('five days of nothing but failures switch an endpoint off, a success in between does not', async () => {
  const endpoint = await anEndpoint(['webhook.test'], () => 500)
  const fails = async () => {
    const { id } = await sendTest(endpoint)
    await whenDelivery({ id }, ({ status, attempts }) => status === 'failed' && attempts > 0)
    return await endpointNow(endpoint)
  }
  const failingFor = (days: string) =>
    sql`update public.webhook_endpoints set failing_since = now() - ${days}::interval where id = ${endpoint.id}`
  expect(await fails()).toMatchObject({ is_active: true, failing_since: expect.any(String) })
  await failingFor('4 days 23 hours')
  expect(await fails()).toMatchObject({ is_active: true })
  endpoint.receiver.reply = () => 200
  await whenDelivery(await sendTest(endpoint), ({ status }) => status === 'delivered')
  endpoint.receiver.reply = () => 500
  expect(await fails()).toMatchObject({ is_active: true, failing_since: expect.any(String) })
  await failingFor('5 days 1 second')
  expect(await fails()).toMatchObject({ is_active: false, disabled_reason: 'failing', disabled_at: expect.any(String) })
})

test('a receiver that answers nothing holds up no other', async () => {
  const EVENTS = 20
  let release = () => {}
  const released = new Promise<void>((resolve) => (release = resolve))
  const slow = await anEndpoint(['message.received'], async () => {
    await released
    return 200
  })
  onTestFinished(release)
  const quick = await anEndpoint(['message.received'])
  const number = await connectNumber(clinic)
  const messages = Array.from({ length: EVENTS }, () => aTextMessage({ to: number.externalId, from: aWaId(), id: `wamid.${randomUUID()}` }))
  const answers = await bySenders(5, messages, (message) => metaWebhook(message).signedWith(number.appSecret).postedTo(number.webhookUrl))
  expect(answers.map(({ status }) => status)).toEqual(messages.map(() => 200))
  await attemptsOf(quick, EVENTS)
  // All of the one are there, and of the other not even one has ended.
  expect(quick.events().map(({ type }) => type)).toEqual(messages.map(() => 'message.received'))
  const ended = await sql`
    select d.id, d.status from public.webhook_deliveries d
    where d.endpoint_id = ${slow.id} and d.status not in ('pending', 'delivering')`
  expect(ended).toEqual([])
  release()
  const waiting = () => sql`select from public.webhook_deliveries where endpoint_id = ${slow.id} and status <> 'delivered'`
  await seen(waiting, ({ length }) => length === 0)
  expect(new Set(slow.receiver.attempts.map(({ headers }) => headers['webhook-id'])).size).toBe(EVENTS)
})

// Who may, and what stays secret ------------------------------------------------------------------------------------------

describe('receivers are for administrators', () => {
  const everybodyElse: [string, () => Client, () => string][] = [
    ['a viewer', () => asViewerOf(clinic), () => memberOf(clinic, 'viewer').accessToken],
    ['an attendant', () => asAttendantOf(clinic), () => memberOf(clinic, 'attendant').accessToken],
    ["another tenant's owner", () => asOwnerOf(neighbour), () => memberOf(neighbour, 'owner').accessToken],
    ["another tenant's admin", () => asAdminOf(neighbour), () => memberOf(neighbour, 'admin').accessToken],
  ]
  test.each(everybodyElse)('%s sees none, registers none and sends nothing', async (_who, client, bearer) => {
    const endpoint = await anEndpoint()
    const { id } = await sendTest(endpoint)
    await whenDelivery({ id }, ({ status }) => status === 'delivered')
    const before = await endpointNow(endpoint)
    for (const table of ['webhook_endpoints', 'webhook_deliveries', 'api_call_logs', 'message_queue'] as const) {
      expect(valueOf(await client().from(table).select('*').eq('organization_id', clinic.organizationId))).toEqual([])
      expect(valueOf(await asAdminOf(clinic).from(table).select('*').limit(1))).toHaveLength(1)
    }
    const organization_id = clinic.organizationId
    const forbidden: Answer[] = [
      await manageWebhook(backend, 'POST', bearer(), { organization_id, url: endpoint.receiver.url, event_types: ['webhook.test'] }),
      await manageWebhook(backend, 'PATCH', bearer(), { ...targetOf(endpoint.id), rotate_secret: true }),
      await manageWebhook(backend, 'PATCH', bearer(), { ...targetOf(endpoint.id), url: 'https://93.184.215.14/' }),
      await manageWebhook(backend, 'DELETE', bearer(), targetOf(endpoint.id)),
    ]
    for (const answer of forbidden) expect(refused(answer)).toEqual([403, 'not_allowed'])
    for (
      const { error } of [
        await client().rpc('redeliver', { id, organization_id }),
        await client().rpc('test_webhook_endpoint', { endpoint_id: endpoint.id, organization_id }),
      ]
    ) expect(businessError(error)?.name).toBe('not_allowed')
    expect(await endpointNow(endpoint)).toEqual(before)
    expect(endpoint.receiver.attempts).toHaveLength(1)
  })

  test('nobody at all: 401', async () => {
    for (const bearer of [null, backend.keys.publishable]) {
      const answer = await manageWebhook(backend, 'POST', bearer, {
        organization_id: clinic.organizationId,
        url: 'https://93.184.215.14/',
        event_types: ['webhook.test'],
      })
      expect(refused(answer)).toEqual([401, 'not_authenticated'])
    }
  })
})

test('a secret is in the one answer that shows it: in no table, no log and no other answer', async () => {
  const endpoint = await anEndpoint(['webhook.test'], (attempt) => ({ status: 500, body: `${attempt.headers['webhook-signature']} whsec_${'A'.repeat(43)}=` }))
  const rotated = await change(endpoint, { rotate_secret: true })
  const { secret } = z.object({ secret: z.string() }).parse(rotated.body)
  const failed = await whenDelivery(await sendTest(endpoint), ({ status }) => status === 'failed')
  expect(failed.last_error).toBe('http_500')

  const others: string[] = []
  for (const changes of [{ description: 'CRM' }, { is_active: false }, { is_active: true }]) {
    others.push((await change(endpoint, changes)).text)
  }
  for (const table of ['webhook_endpoints', 'webhook_deliveries', 'api_call_logs', 'message_queue'] as const) {
    others.push(JSON.stringify(valueOf(await asAdminOf(clinic).from(table).select('*'))))
  }
  const logs = join(backend.dataDir, 'logs')
  for (const name of readdirSync(logs)) others.push(readFileSync(join(logs, name), 'utf8'))
  expect(others.join('\n')).toContain(endpoint.id)
  const bodies = [endpoint.secret, secret].map((shown) => shown.replace('whsec_', ''))
  for (const text of others) {
    // Not by toContain(), whose complaint would be the whole log.
    expect([...bodies, 'whsec_'].filter((needle) => text.includes(needle))).toEqual([])
  }

  const tables = await sql<{ name: string }[]>`
    select c.oid::regclass::text as name
    from pg_catalog.pg_class c
    where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace) and c.relkind in ('r', 'p', 'm')`
  const places = { secret: [] as string[], endpoint: [] as string[] }
  for (const { name } of tables) {
    const rows = sql`from ${sql.unsafe(name)} as t where strpos(t::text, ${'whsec_'}) > 0 ${
      sql.unsafe(bodies.map((body) => `or strpos(t::text, '${body}') > 0`).join(' '))
    }`
    if ((await sql`select ${rows} limit 1`).length > 0) places.secret.push(name)
    if ((await sql`select from ${sql.unsafe(name)} as t where strpos(t::text, ${endpoint.id}) > 0 limit 1`).length > 0) {
      places.endpoint.push(name)
    }
  }
  expect(places.endpoint).toEqual(expect.arrayContaining(['webhook_endpoints', 'webhook_deliveries', 'private.webhook_endpoint_secrets']))
  expect(places.secret).toEqual([])
})

// Addresses ---------------------------------------------------------------------------------------------------------------

test('without the allowance of the tests nothing goes to this machine or into its network, however it got there', async () => {
  const stack = await startOwnStack()
  onTestFinished(() => stack.stop())
  const admin = postgres(stack.urls.admin, { max: 1, onnotice: () => undefined })
  onTestFinished(() => admin.end({ timeout: 1 }))
  const target = await aSilentPort()
  onTestFinished(target.close)
  const { port } = target
  const inside = [
    `http://127.0.0.1:${port}/`,
    `https://127.0.0.1:${port}/`,
    `https://2130706433:${port}/`,
    `https://[::1]:${port}/`,
    `https://[::ffff:127.0.0.1]:${port}/`,
    'https://10.0.0.1/',
    'https://169.254.169.254/latest/meta-data/',
    `https://localhost:${port}/`,
    `https://localhost.localdomain:${port}/`,
    `https://${hostname()}:${port}/`,
  ]
  const office = await aTenant(stack, 'Clínica na nuvem', ['admin'])
  const organization_id = office.organizationId
  const bearer = memberOf(office, 'admin').accessToken
  for (const url of inside) {
    const answer = await manageWebhook(stack, 'POST', bearer, { organization_id, url, event_types: ['contact.created'] })
    expect({ url, refused: refused(answer) }).toEqual({ url, refused: [400, 'invalid_url'] })
  }
  // A public address, to which nothing will be sent: each is moved inside past the check.
  const { endpoint } = await registerEndpoint(office, 'https://93.184.215.14/', ['webhook.test'])
  for (const url of inside) {
    const changed = await manageWebhook(stack, 'PATCH', bearer, { organization_id, endpoint_id: endpoint.id, url })
    expect({ url, refused: refused(changed) }).toEqual({ url, refused: [400, 'invalid_url'] })
  }
  for (const url of inside) {
    await admin`update public.webhook_endpoints set url = ${url} where id = ${endpoint.id}`
    const { id } = await sendTest(endpoint, office)
    const [row] = await seen(
      () => admin<{ status: string; last_error: string; webhook_url: string }[]>`
        select d.status, d.last_error, d.webhook_url from public.webhook_deliveries d where d.id = ${id} and d.status = 'failed'`,
      ({ length }) => length === 1,
    )
    expect(row).toMatchObject({ webhook_url: url, last_error: expect.stringMatching(/^refused_address/) })
  }
  expect(target.connections()).toBe(0)
  expect(await admin`select from public.api_call_logs where service = 'webhook'`).toHaveLength(0)
})
