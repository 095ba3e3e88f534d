// What came before anybody was there to take it in: kept as it was, and understood later, once.

import { randomUUID } from 'node:crypto'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { businessError, type Tables } from '../../types/index.ts'
import { aWaId, seen } from '../support/conversations.ts'
import { metaOf } from '../support/graph.ts'
import { aTextMessage, metaWebhook, signatureOf } from '../support/meta.ts'
import { runningStack } from '../support/running-stack.ts'
import {
  anExternalId,
  asAdminOf,
  asAttendantOf,
  asNobody,
  asOwnerOf,
  asPlatform,
  aTenant,
  type ConnectedNumber,
  connectNumber,
  type Tenant,
  valueOf,
} from '../support/tenants.ts'

const backend = runningStack()
const meta = metaOf(backend)
const platform = asPlatform(backend)

let sql: postgres.Sql
let clinic: Tenant
let neighbour: Tenant
let number: ConnectedNumber

beforeAll(async () => {
  sql = postgres(backend.urls.admin, { max: 1, onnotice: () => undefined })
  clinic = await aTenant(backend, 'Clínica que Chegou Depois', ['admin', 'attendant'])
  neighbour = await aTenant(backend, 'Clínica de Outro Bairro', ['admin'])
  number = await connectNumber(clinic)
})

afterAll(() => sql.end())

type Event = Tables<'webhook_events'>

/** A delivery to a number, under the app of the clinic's first one; what was kept of it. */
async function deliver(payload: object): Promise<Event> {
  const body = Buffer.from(JSON.stringify(payload))
  const { status } = await metaWebhook(body).signedWith(number.appSecret).postedTo(number.webhookUrl)
  expect(status).toBe(200)
  return valueOf(
    await platform.from('webhook_events').select('*').eq('signature', signatureOf(body, number.appSecret)).single(),
  )
}

const eventNow = async ({ id }: Event): Promise<Event> =>
  valueOf(await platform.from('webhook_events').select('*').eq('id', id).single())
const whenReplayed = (event: Event, times = 1) =>
  seen(() => eventNow(event), ({ retry_count }) => retry_count === times)

async function replay(client: ReturnType<typeof asPlatform>, { id }: Event, organization_id?: string) {
  return await client.rpc('replay_webhook_event', { id, ...(organization_id ? { organization_id } : {}) })
}

/** Everything that the clinic has, counted by table. */
async function inventory(): Promise<Record<string, unknown>> {
  const [row] = await sql`
    select
      (select count(*)::int from public.messages where organization_id = ${clinic.organizationId}) as messages,
      (select count(*)::int from public.conversations where organization_id = ${clinic.organizationId}) as conversations,
      (select sum(unread_count)::int from public.conversations where organization_id = ${clinic.organizationId}) as unread,
      (select count(*)::int from public.contacts where organization_id = ${clinic.organizationId}) as contacts,
      (select count(*)::int from public.contact_identities where organization_id = ${clinic.organizationId}) as identities,
      (select count(*)::int from public.webhook_events where organization_id = ${clinic.organizationId}) as events,
      (
        select count(*)::int from public.message_queue
        where organization_id = ${clinic.organizationId} and job_type <> 'replay_webhook_event'
      ) as jobs`
  return row ?? {}
}

describe('what came for a number that nobody had registered', () => {
  const externalId = anExternalId()
  const wamid = `wamid.${randomUUID()}`
  let event: Event

  beforeAll(async () => {
    event = await deliver(aTextMessage({ to: externalId, from: aWaId(), id: wamid, text: 'Alguém aí? 🙋' }))
  })

  test('is kept, and belongs to nobody', async () => {
    expect(event).toMatchObject({
      organization_id: null,
      instance_id: null,
      external_id: externalId,
      processed: false,
      processing_error: 'number_not_registered',
      retry_count: 0,
    })
    for (const client of [asOwnerOf(clinic), asOwnerOf(neighbour)]) {
      expect(valueOf(await client.from('webhook_events').select('id').eq('id', event.id))).toEqual([])
      expect(businessError((await replay(client, event)).error)?.name).toBe('webhook_event_not_found')
    }
  })

  test('cannot be replayed while nobody has it', async () => {
    expect(businessError((await replay(platform, event)).error)?.name).toBe('number_not_registered')
    expect(await eventNow(event)).toMatchObject({ retry_count: 0, processed: false })
  })

  test('appears once the number is there and the platform says so, and only once', async () => {
    const late = await connectNumber(clinic, { externalId, sameAppAs: number })
    valueOf(await replay(platform, event))
    expect(await whenReplayed(event)).toMatchObject({
      organization_id: clinic.organizationId,
      instance_id: late.instanceId,
      processed: true,
      processing_error: null,
    })
    const rows = async () =>
      valueOf(
        await asAttendantOf(clinic).from('messages').select('content, status, instance_id').eq(
          'whatsapp_message_id',
          wamid,
        ),
      )
    const message = { content: 'Alguém aí? 🙋', status: 'received', instance_id: late.instanceId }
    expect(await rows()).toEqual([message])

    const before = await inventory()
    valueOf(await replay(platform, event))
    valueOf(await replay(asOwnerOf(clinic), event))
    expect(await whenReplayed(event, 3)).toMatchObject({ processed: true, processing_error: null })
    expect(await rows()).toEqual([message])
    expect(await inventory()).toEqual(before)
  })
})

test('a photo that came too early is fetched after its replay', async () => {
  const externalId = anExternalId()
  const { id, sha256 } = await meta.media({ externalId }, 'image/jpeg', { bytes: Buffer.from('uma foto') })
  const delivery = aTextMessage({ to: externalId, from: aWaId(), id: `wamid.${randomUUID()}` })
  const [message] = delivery.entry.flatMap(({ changes }) => changes.flatMap(({ value }) => value.messages))
  Object.assign(message ?? {}, { type: 'image', image: { id, sha256, mime_type: 'image/jpeg' }, text: undefined })
  const event = await deliver(delivery)
  await connectNumber(clinic, { externalId, sameAppAs: number })
  valueOf(await replay(platform, event))
  const { media_url } = await seen(
    async () =>
      (await asAttendantOf(clinic).from('messages').select('media_url').eq('whatsapp_message_id', message?.id ?? '')
        .maybeSingle())
        .data ?? { media_url: null },
    (row) => row.media_url !== null,
  )
  const file = valueOf(
    await asAttendantOf(clinic).storage.from('media').download((media_url ?? '').replace('media/', '')),
  )
  expect(await file.text()).toBe('uma foto')
})

describe("a tenant's own delivery", () => {
  let event: Event

  beforeAll(async () => {
    event = await deliver(aTextMessage({ to: number.externalId, from: aWaId(), id: `wamid.${randomUUID()}` }))
  })

  test('replayed by an administrator changes nothing', async () => {
    const before = await inventory()
    valueOf(await replay(asAdminOf(clinic), event))
    await whenReplayed(event)
    expect(await inventory()).toEqual(before)
    expect(await eventNow(event)).toMatchObject({
      organization_id: clinic.organizationId,
      instance_id: number.instanceId,
      processed: true,
      payload: event.payload,
      signature: event.signature,
      received_at: event.received_at,
    })
  })

  test('ten times at once neither', async () => {
    const before = await inventory()
    const { retry_count } = await eventNow(event)
    await Promise.all(Array.from({ length: 10 }, async () => valueOf(await replay(asAdminOf(clinic), event))))
    await whenReplayed(event, retry_count + 10)
    expect(await inventory()).toEqual(before)
  })

  test('whose statuses are replayed after later ones does not go back', async () => {
    const conversation = valueOf(
      await platform.from('messages').select('conversation_id, contact_id').eq('organization_id', clinic.organizationId)
        .eq('instance_id', number.instanceId).limit(1).single(),
    )
    const { id } = valueOf(
      await asAttendantOf(clinic).rpc('send_message', {
        conversation_id: conversation.conversation_id,
        content: 'Oi!',
      }),
    )
    const status = async () =>
      valueOf(await platform.from('messages').select('status, sent_at, delivered_at, read_at').eq('id', id).single())
    const read = await seen(status, (message) => message.status === 'read')
    const ids = await sql<{ id: string }[]>`
      select e.id from public.webhook_events e
      where e.organization_id = ${clinic.organizationId} and e.payload::text like ${`%outbox:${id}%`}`
    const own = valueOf(await platform.from('webhook_events').select('*').in('id', ids.map((row) => row.id)))
    expect(own).toHaveLength(3)
    for (const told of own) valueOf(await replay(asAdminOf(clinic), told))
    for (const told of own) await whenReplayed(told)
    expect(await status()).toEqual(read)
  })

  test('is not for an attendant, another tenant or nobody to replay', async () => {
    const before = await eventNow(event)
    expect(businessError((await replay(asAttendantOf(clinic), event)).error)?.name).toBe('not_allowed')
    expect(businessError((await replay(asAdminOf(neighbour), event)).error)?.name).toBe('webhook_event_not_found')
    expect(businessError((await replay(asAdminOf(neighbour), event, clinic.organizationId)).error)?.name).toBe(
      'not_allowed',
    )
    expect((await replay(asNobody(backend), event, clinic.organizationId)).error?.code).toBe('42501')
    expect(valueOf(await asAdminOf(neighbour).from('webhook_events').select('id').eq('id', event.id))).toEqual([])
    expect(await eventNow(event)).toEqual(before)
  })
})
