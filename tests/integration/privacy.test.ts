// A customer asks for all that is known of her, and then to be forgotten: through the doors by which she came in, with the
// worker, the providers' retries and everybody else going on meanwhile.

import { randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { PROJECT_DIR } from '../../local/environment.ts'
import { businessError, type Json, type Tables, webhookEvent } from '../../types/index.ts'
import { aProfessional, aService, at, book, bookingNow, dayAhead } from '../support/agendas.ts'
import { aConversation, aWaId, hurry, messageNow, seen, whenIt, write } from '../support/conversations.ts'
import { metaOf } from '../support/graph.ts'
import { aTextMessage, metaWebhook, signatureOf } from '../support/meta.ts'
import { aReceiver, type Receiver, registerEndpoint } from '../support/receiver.ts'
import { runningStack } from '../support/running-stack.ts'
import { seeded, testSeed } from '../support/seeded.ts'
import {
  asAdminOf,
  asAttendantOf,
  asOwnerOf,
  asPlatform,
  asViewerOf,
  aTenant,
  type Client,
  type ConnectedNumber,
  connectNumber,
  type Tenant,
  valueOf,
} from '../support/tenants.ts'

const CUSTOMERS = 12

const backend = runningStack()
const meta = metaOf(backend)
const platform = asPlatform(backend)
const sql = postgres(backend.urls.admin, { max: 4, onnotice: () => undefined })

let clinic: Tenant
let neighbour: Tenant
let number: ConnectedNumber
let receiver: Receiver
let service: Tables<'services'>
let professional: Tables<'professionals'>

beforeAll(async () => {
  clinic = await aTenant(backend, 'Clínica que Esquece', ['admin', 'attendant', 'viewer'])
  neighbour = await aTenant(backend, 'Clínica que Lembra', ['admin'])
  number = await connectNumber(clinic)
  receiver = await aReceiver()
  await registerEndpoint(clinic, receiver.url, [
    'message.received', 'message.sent', 'booking.created', 'booking.cancelled', 'contact.created', 'contact.erased',
  ])
  service = await aService(clinic, { duration_minutes: 15 })
  professional = await aProfessional(clinic, 'Dra. Inês', [service], { starts_at: '00:00', ends_at: '24:00' })
})
afterAll(async () => {
  await receiver.close()
  await sql.end({ timeout: 1 })
})

// Asking --------------------------------------------------------------------------------------------------------------------

const erasure = z.object({
  erasure_id: z.guid(),
  contact_id: z.guid(),
  contact_ids: z.array(z.guid()).min(1),
  completed_at: z.string().nullable(),
  rows: z.record(z.string(), z.number()),
})
type Erasure = z.infer<typeof erasure>

const exported = z.object({
  contact_ids: z.array(z.guid()),
  tables: z.record(z.string(), z.array(z.record(z.string(), z.unknown()))),
  files: z.array(z.object({ bucket: z.literal('media'), path: z.string() }).loose()),
})

async function exportOf(contactId: string, client = asAdminOf(clinic)) {
  return exported.parse(valueOf(await client.rpc('export_contact_data', { contact_id: contactId })))
}

async function erase(contactId: string, client = asAdminOf(clinic)): Promise<Erasure> {
  return erasure.parse(valueOf(await client.rpc('erase_contact', { contact_id: contactId, reason: 'Pedido do titular' })))
}

/** The logs and the files have been searched, too. */
async function whenErased({ erasure_id }: Pick<Erasure, 'erasure_id'>): Promise<Erasure> {
  const list = async () => z.array(erasure).parse(valueOf(await asOwnerOf(clinic).rpc('list_erasures')))
  const all = await seen(list, (erasures) => erasures.some((e) => e.erasure_id === erasure_id && e.completed_at !== null))
  return erasure.parse(all.find((e) => e.erasure_id === erasure_id))
}

const nameOf = async (asked: PromiseLike<{ error: Parameters<typeof businessError>[0] }>) =>
  businessError((await asked).error)?.name

/** Where any of these words stands: in every table, partition and view of ours, and in Storage's. */
async function placesOf(words: string[]): Promise<string[]> {
  const relations = await sql<{ name: string }[]>`
    select c.oid::regclass::text as name
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname in ('public', 'private', 'partitions', 'analytics', 'storage') and c.relkind in ('r', 'p', 'm')`
  const places: string[] = []
  for (const { name } of relations) {
    const found = await sql<{ word: string }[]>`
      select distinct w as word
      from ${sql.unsafe(name)} t
      join unnest(${words}::text[]) w on position(w in t::text) > 0`
    places.push(...found.map(({ word }) => `${name}: ${word}`))
  }
  return places
}

async function deadlocks(): Promise<number> {
  const [row] = await sql<{ deadlocks: number }[]>`
    select d.deadlocks::int from pg_catalog.pg_stat_database d where d.datname = current_database()`
  return row?.deadlocks ?? NaN
}

/** Found again wherever it leaks. */
const aMarker = (what: string) => `${what}-${randomUUID().slice(0, 13)}`

// One customer, through every door ----------------------------------------------------------------------------------------------

describe('a customer of whom something is everywhere', () => {
  const waId = aWaId()
  const markers = {
    profile: aMarker('Paula'),
    said: aMarker('dor de dente'),
    caption: aMarker('radiografia'),
    told: aMarker('tome dois'),
    file: aMarker('receita'),
    note: aMarker('alergica'),
    answer: aMarker('sorriso'),
    followup: aMarker('voltamos'),
    pet: aMarker('Totó'),
    event: aMarker('campanha'),
    prompt: aMarker('responda a ela'),
    requester: aMarker('ligou'),
    tag: aMarker('vip'),
    street: aMarker('Rua'),
    job: aMarker('planilha'),
  }
  const words = [...Object.values(markers), waId, `paula-${waId}@exemplo.com.br`]
  let contactId: string
  let conversationId: string
  let photo: Tables<'messages'>
  let outgoing: string
  let booking: Tables<'bookings'>
  let past: { body: Buffer; status: number }

  beforeAll(async () => {
    // By hand, so that the very same bytes can come again.
    const payload = aTextMessage({ to: number.externalId, from: waId, id: `wamid.${randomUUID()}`, text: markers.said })
    Object.assign(payload.entry[0]?.changes[0]?.value.contacts[0]?.profile ?? {}, { name: markers.profile })
    past = { body: Buffer.from(JSON.stringify(payload)), status: 0 }
    const { status } = await metaWebhook(past.body).signedWith(number.appSecret).postedTo(number.webhookUrl)
    expect(status).toBe(200)
    const image = await meta.media(number, 'image/jpeg', { bytes: Buffer.from('uma radiografia') })
    const sent = await meta.inbound(number, {
      from: waId,
      name: markers.profile,
      message: { type: 'image', image: { id: image.id, mime_type: 'image/jpeg', sha256: image.sha256, caption: markers.caption } },
    })
    photo = valueOf(await asAttendantOf(clinic).from('messages').select('*').match({ whatsapp_message_id: sent.id }).single())
    contactId = photo.contact_id
    conversationId = photo.conversation_id
    photo = await seen(() => messageNow(clinic, photo), ({ media_url }) => media_url !== null)

    await whenIt('read', clinic, await write(clinic, { id: conversationId }, markers.told))
    outgoing = `${clinic.organizationId}/outgoing/${markers.file}.pdf`
    valueOf(
      await asAttendantOf(clinic).storage.from('media').upload(outgoing, Buffer.from('%PDF receita'), { contentType: 'application/pdf' }),
    )
    await whenIt('read', clinic, await write(clinic, { id: conversationId }, {
      message_type: 'document',
      payload: { path: `media/${outgoing}`, filename: `${markers.file}.pdf` },
    }))

    const app = asAttendantOf(clinic)
    valueOf(
      await app.from('contacts').update({
        email: `paula-${waId}@exemplo.com.br`,
        tags: [markers.tag],
        address: { street: markers.street },
      }).eq('id', contactId).select(),
    )
    valueOf(await app.from('pets').insert({ contact_id: contactId, name: markers.pet }).select())
    booking = await book(clinic, {
      contact_id: contactId,
      service_id: service.id,
      professional_id: professional.id,
      start_time: at(dayAhead(3), '10:00'),
      notes: markers.note,
    })
    valueOf(await app.rpc('create_lead', { contact_id: contactId, respostas: { plano: markers.answer } }))
    valueOf(
      await app.rpc('schedule_followup', {
        contact_id: contactId,
        scheduled_for: new Date(Date.now() + 86_400_000).toISOString(),
        message: markers.followup,
      }),
    )
    valueOf(await app.rpc('track_event', { event_name: 'page.viewed', contact_id: contactId, properties: { de: markers.event } }))
    valueOf(await app.rpc('open_data_subject_request', { kind: 'erasure', contact_id: contactId, requester: markers.requester }))
    valueOf(
      await platform.from('ai_interactions').insert({
        organization_id: clinic.organizationId,
        conversation_id: conversationId,
        action_type: 'reply',
        prompt: markers.prompt,
        model: 'a-model',
      }).select(),
    )
    // A job of an app's own, whose worker is elsewhere.
    valueOf(
      await platform.rpc('enqueue_job', {
        organization_id: clinic.organizationId,
        job_type: 'an_apps_own',
        payload: { para: `+${waId}`, texto: markers.job },
        run_at: new Date(Date.now() + 86_400_000).toISOString(),
      }),
    )
    // Told to the endpoint, and logged.
    await seen(() => Promise.resolve(receiver.attempts.map(({ body }) => body).join()), (told) =>
      [markers.said, markers.told, booking.id].every((word) => told.includes(word)))
    await hurry(sql, clinic)
  }, 120_000)

  test('gets all of it: every value, whatever table it is in, and her files', async () => {
    for (const client of [asAttendantOf(clinic), asViewerOf(clinic)]) {
      expect(await nameOf(client.rpc('export_contact_data', { contact_id: contactId }))).toBe('not_allowed')
    }
    expect(await nameOf(asAdminOf(neighbour).rpc('export_contact_data', { contact_id: contactId }))).toBe('contact_not_found')
    const hers = await exportOf(contactId)
    const text = JSON.stringify(hers)
    expect(words.filter((word) => !text.includes(word))).toEqual([])
    expect(Object.entries(hers.tables).filter(([, rows]) => rows.length > 0).map(([name]) => name)).toEqual(expect.arrayContaining([
      'contacts', 'contact_identities', 'pets', 'leads', 'bookings', 'conversations', 'messages', 'notifications',
      'scheduled_followups', 'ai_interactions', 'analytics_events', 'data_subject_requests', 'audit_log_values', 'webhook_deliveries',
      'webhook_events', 'message_queue', 'api_call_logs',
    ]))
    for (const { bucket, path } of hers.files) {
      const { signedUrl } = valueOf(await asAdminOf(clinic).storage.from(bucket).createSignedUrl(path, 60))
      expect((await fetch(signedUrl)).status).toBe(200)
    }
    expect(hers.files.map(({ path }) => path).sort()).toEqual([outgoing, (photo.media_url ?? '').replace('media/', '')].sort())
    const [logged] = await sql<{ actor_role: string; values: string | null }[]>`
      select t.actor_role, concat(t.old_values, t.new_values, t.details)::text as values
      from public.audit_trail t
      where t.organization_id = ${clinic.organizationId} and t.action = 'contact.exported' and t.record_id = ${contactId}`
    expect(logged?.actor_role).toBe('admin')
    expect(words.some((word) => logged?.values?.includes(word))).toBe(false)
  })

  test('and is gone from all of it, files too, when she asks for that; whoever was told is told', async () => {
    expect(await nameOf(asAttendantOf(clinic).rpc('erase_contact', { contact_id: contactId, reason: 'Pedido' }))).toBe('not_allowed')
    expect(await nameOf(asAdminOf(neighbour).rpc('erase_contact', { contact_id: contactId, reason: 'Pedido' }))).toBe('contact_not_found')
    expect(await nameOf(asAdminOf(clinic).rpc('erase_contact', { contact_id: contactId, reason: `${markers.profile} pediu` })))
      .toBe('reason_names_person')
    // Two administrators at once, and once more.
    const [one, other] = await Promise.all([erase(contactId), erase(contactId, asOwnerOf(clinic))])
    expect(other.erasure_id).toBe(one.erasure_id)
    await whenErased(one)
    expect((await erase(contactId)).erasure_id).toBe(one.erasure_id)

    expect(await placesOf(words)).toEqual([])
    for (const path of [outgoing, (photo.media_url ?? '').replace('media/', '')]) {
      expect((await asAdminOf(clinic).storage.from('media').download(path)).error).not.toBeNull()
    }
    expect(await bookingNow(clinic, booking)).toMatchObject({ status: 'cancelled', cancellation_reason: 'contact_erased', notes: null })
    const events = await seen(
      () => Promise.resolve(receiver.attempts.map(({ body }) => webhookEvent.parse(JSON.parse(body)))),
      (told) => told.some(({ type }) => type === 'contact.erased') && told.some(({ type }) => type === 'booking.cancelled'),
    )
    expect(events.filter(({ type }) => type === 'contact.erased')).toMatchObject([{ data: { contact_id: contactId } }])
    expect(events.find(({ type }) => type === 'booking.cancelled')?.data)
      .toMatchObject({ contact: { id: contactId, name: null, phone_number: null } })
    expect(valueOf(await asAdminOf(clinic).from('data_subject_requests').select('status, requester').eq('contact_id', contactId)))
      .toEqual([{ status: 'done', requester: null }])
    expect(valueOf(await asAdminOf(clinic).rpc('verify_audit_chain'))).toMatchObject({ is_intact: true })
  })

  test('what Meta delivers again, and a replay, bring nobody back', async () => {
    const before = await inventory()
    const { status } = await metaWebhook(past.body).signedWith(number.appSecret).postedTo(number.webhookUrl)
    expect(status).toBe(200)
    const events = valueOf(
      await platform.from('webhook_events').select('id').eq('signature', signatureOf(past.body, number.appSecret)),
    )
    expect(events).toHaveLength(2)
    for (const { id } of events) {
      valueOf(await asAdminOf(clinic).rpc('replay_webhook_event', { id }))
      await seen(
        async () => valueOf(await platform.from('webhook_events').select('retry_count').eq('id', id).single()),
        ({ retry_count }) => retry_count === 1,
      )
    }
    expect(await inventory()).toEqual(before)
    expect(await placesOf(words)).toEqual([])
  })

  test('and when she writes again she is new', async () => {
    const again = await aConversation(clinic, number, waId)
    expect(again.contactId).not.toBe(contactId)
    const text = JSON.stringify(await exportOf(again.contactId))
    expect(text).toContain(waId)
    expect(Object.values(markers).filter((marker) => text.includes(marker))).toEqual([])
    expect(await nameOf(asAttendantOf(clinic).rpc('create_booking', {
      contact_id: contactId,
      service_id: service.id,
      professional_id: professional.id,
      start_time: at(dayAhead(3), '11:00'),
    }))).toBe('contact_erased')
    expect(await nameOf(asAttendantOf(clinic).from('contacts').update({ name: 'Paula' }).eq('id', contactId).select())).toBe('contact_erased')
    expect(await nameOf(asAttendantOf(clinic).rpc('reopen_conversation', { conversation_id: conversationId }))).toBe('contact_erased')
  })
})

async function inventory(): Promise<Record<string, unknown>> {
  const [row] = await sql`
    select
      (select count(*)::int from public.contacts where organization_id = ${clinic.organizationId}) as contacts,
      (select count(*)::int from public.contact_identities where organization_id = ${clinic.organizationId}) as identities,
      (select count(*)::int from public.conversations where organization_id = ${clinic.organizationId}) as conversations,
      (select count(*)::int from public.messages where organization_id = ${clinic.organizationId}) as messages,
      (select count(*)::int from private.parked_message_updates where organization_id = ${clinic.organizationId}) as parked`
  return row ?? {}
}

// While everything goes on --------------------------------------------------------------------------------------------------------

const seed = testSeed()

describe(`customers who are erased while they write and are written to, seed ${seed}`, () => {
  test('nothing of before stays, nothing of after is lost, and nobody waits for another for ever', async () => {
    const random = seeded(seed)
    const deadlocksBefore = await deadlocks()
    const busy = await connectNumber(clinic, { sameAppAs: number })
    // A provider that answers late: calls are under way when the customer is erased.
    await meta.failing(busy, { delay_ms: 400 }, { times: CUSTOMERS * 2 })
    const customers = await Promise.all(Array.from({ length: CUSTOMERS }, async () => {
      const conversation = await aConversation(clinic, busy, aWaId(), { type: 'text', text: { body: aMarker('antes') } })
      return { ...conversation, before: [] as string[] }
    }))

    const refusals: string[] = []
    const erasures = await Promise.all(customers.map(async (customer) => {
      const wait = () => new Promise((resolve) => setTimeout(resolve, random(900)))
      const said = async () => {
        await wait()
        const marker = aMarker('durante')
        await metaOf(backend).inbound(busy, { from: customer.waId, name: 'Cliente', message: { type: 'text', text: { body: marker } } })
      }
      const file = async () => {
        const image = await meta.media(busy, 'image/jpeg', { bytes: Buffer.from(`foto de ${customer.waId}`) })
        await wait()
        await metaOf(backend).inbound(busy, {
          from: customer.waId,
          message: { type: 'image', image: { id: image.id, mime_type: 'image/jpeg', sha256: image.sha256 } },
        })
      }
      const asked = async (work: (client: Client) => PromiseLike<{ error: Parameters<typeof businessError>[0] }>) => {
        await wait()
        const { error } = await work(asAttendantOf(clinic))
        if (error !== null) refusals.push(businessError(error)?.name ?? JSON.stringify(error))
      }
      const [result] = await Promise.all([
        wait().then(() => erase(customer.contactId)),
        said(),
        said(),
        said(),
        file(),
        ...Array.from({ length: 3 }, () =>
          asked((client) => client.rpc('send_message', { conversation_id: customer.id, content: aMarker('resposta') }))),
        asked((client) => client.rpc('create_booking', {
          contact_id: customer.contactId,
          service_id: service.id,
          professional_id: professional.id,
          start_time: at(dayAhead(5), `${String(8 + customers.indexOf(customer)).padStart(2, '0')}:00`),
          notes: aMarker('nota'),
        })),
        asked((client) => client.from('contacts').update({ address: { street: aMarker('Rua') } }).eq('id', customer.contactId).select()),
        asked((client) => client.from('pets').insert({ contact_id: customer.contactId, name: aMarker('bicho').slice(0, 40) }).select()),
        asked((client) => client.rpc('create_lead', { contact_id: customer.contactId, respostas: { a: aMarker('resposta') } as Json })),
      ])
      return result
    }))
    for (const one of erasures) await whenErased(one)

    // Whatever came too late was refused by name.
    expect([...new Set(refusals)].filter((name) => name !== 'contact_erased' && name !== 'conversation_closed')).toEqual([])
    const ids = customers.map(({ contactId }) => contactId)
    const left = await sql`
      select 'message' as what, m.id from public.messages m
      where m.contact_id = any (${ids}) and (m.content is not null or m.media is not null or m.media_url is not null or m.payload is not null
        or m.status = 'queued' or m.whatsapp_message_id not like 'erased:%')
      union all
      select 'identity', i.id from public.contact_identities i where i.contact_id = any (${ids})
      union all
      select 'booking', b.id from public.bookings b where b.contact_id = any (${ids}) and (b.notes is not null or b.is_live)
      union all
      select 'pet', p.id from public.pets p where p.contact_id = any (${ids}) and p.name <> '—'
      union all
      select 'lead', l.id from public.leads l where l.contact_id = any (${ids}) and l.respostas <> '{}'
      union all
      select 'conversation', v.id from public.conversations v where v.contact_id = any (${ids}) and v.is_open
      union all
      select 'contact', p.id from public.contacts p where p.id = any (${ids}) and (p.erased_at is null or p.address <> '{}' or p.phone_number is not null)
      union all
      select 'values', v.audit_log_id from public.audit_log_values v where v.contact_id = any (${ids})
      union all
      select 'file', o.id from storage.objects o join public.messages m on o.name like '%' || m.id || '%' where m.contact_id = any (${ids})`
    expect(left).toEqual([])
    // What they wrote is with nobody, or with somebody new: each id once, and every delivery was answered.
    const said = (await Promise.all(customers.map(async ({ waId }) => (await sql<{ inbound: number; contacts: number }[]>`
      select count(m.id)::int as inbound, count(distinct p.id)::int as contacts
      from public.contacts p
      left join public.messages m on m.organization_id = p.organization_id and m.contact_id = p.id and m.direction = 'inbound'
      where p.organization_id = ${clinic.organizationId} and p.phone_number = ${`+${waId}`}`)[0])))
    const [erased] = await sql<{ inbound: number }[]>`
      select count(*)::int as inbound from public.messages m where m.contact_id = any (${ids}) and m.direction = 'inbound'`
    expect((erased?.inbound ?? NaN) + said.reduce((sum, each) => sum + (each?.inbound ?? 0), 0)).toBe(CUSTOMERS * 5)
    expect(said.every((each) => (each?.contacts ?? 0) <= 1)).toBe(true)
    expect(await deadlocks()).toBe(deadlocksBefore)
  }, 120_000)
})

test('what was on its way in when she was erased is hers no more: the old is gone, the new is of somebody new', async () => {
  const waId = aWaId()
  const old = aMarker('antes')
  const fresh = aMarker('depois')
  const payload = (text: string) =>
    Buffer.from(JSON.stringify(aTextMessage({ to: number.externalId, from: waId, id: `wamid.${randomUUID()}`, text })))
  const first = payload(old)
  const deliver = (body: Buffer) => metaWebhook(body).signedWith(number.appSecret).postedTo(number.webhookUrl)
  expect((await deliver(first)).status).toBe(200)
  const { contact_id } = valueOf(await asAttendantOf(clinic).from('messages').select('contact_id').eq('content', old).single())

  // Both wait for her while she is being erased: Meta's retry of what she wrote, and what she writes now.
  const deliveries = await sql.begin(async (query) => {
    const [answer] = await query<{ erasure: unknown }[]>`
      select private.erase_contact(${contact_id}, 'Pedido do titular', ${clinic.organizationId}) as erasure`
    const waiting = [deliver(first), deliver(payload(fresh))]
    await seen(
      async () => (await sql<{ n: number }[]>`
        select count(*)::int as n from pg_catalog.pg_stat_activity a
        where a.datname = current_database() and a.wait_event_type = 'Lock' and a.query ~ 'ingest_webhook'`)[0]?.n,
      (n) => n === 2,
    )
    // An array of promises would be waited for before the commit that they wait for.
    return { erased: erasure.parse(answer?.erasure), waiting: () => Promise.all(waiting) }
  })
  expect((await deliveries.waiting()).map(({ status }) => status)).toEqual([200, 200])
  await whenErased(deliveries.erased)

  expect(await placesOf([old])).toEqual([])
  const rows = await sql<{ content: string | null; is_new: boolean; phone_number: string | null }[]>`
    select m.content, m.contact_id <> ${contact_id} as is_new, p.phone_number
    from public.messages m
    join public.contacts p on p.organization_id = m.organization_id and p.id = m.contact_id
    where m.contact_id = ${contact_id} or p.phone_number = ${`+${waId}`}
    order by m.id`
  expect(rows).toEqual([
    { content: null, is_new: false, phone_number: null },
    { content: fresh, is_new: true, phone_number: `+${waId}` },
  ])
})

test('what a transaction writes down that began before is found too: the search waits for it', async () => {
  const customer = await aConversation(clinic, number)
  const late = aMarker('atrasado')
  const erased = await sql.begin(async (query) => {
    await query`
      insert into public.webhook_events (organization_id, provider, event_type, payload)
      values (${clinic.organizationId}, 'meta_cloud', 'messages',
        ${query.json({ list: [{ from: customer.waId, text: late }, { from: '5511900000000', text: 'de outra pessoa' }] })})`
    const answer = await erase(customer.contactId)
    await seen(
      async () => valueOf(
        await platform.from('message_queue').select('last_error').eq('payload->>erasure_id', answer.erasure_id).single(),
      ).last_error,
      (reason) => reason === 'waits_for_transactions',
    )
    return answer
  })
  await hurry(sql, clinic)
  await whenErased(erased)
  expect(await placesOf([late, customer.waId])).toEqual([])
})

// A customer of the seed ------------------------------------------------------------------------------------------------------------

test('of a customer of the seed everything is exported, then erased, and every figure stays', async () => {
  const seedSql = await readFile(join(PROJECT_DIR, 'supabase', 'seed.sql'), 'utf8')
  const undone = new Error('rolled back')
  const story = sql.begin(async (query) => {
    await query.unsafe(seedSql)
    // Whose visits are over, and of whom there is most.
    const [customer] = await query<{ organization_id: string; id: string; name: string; phone_number: string }[]>`
      select p.organization_id, p.id, p.name, p.phone_number
      from public.contacts p
      where p.organization_id::text like '5eed0000-%'
        and p.phone_number is not null
        and not exists (
          select from public.bookings b
          where b.organization_id = p.organization_id and b.contact_id = p.id and b.is_live and b.end_time > now()
        )
        and not exists (
          select from public.conversations v where v.organization_id = p.organization_id and v.contact_id = p.id and v.is_open
        )
      order by
        (select count(*) from public.messages m where m.organization_id = p.organization_id and m.contact_id = p.id) desc,
        (select count(*) from public.bookings b where b.organization_id = p.organization_id and b.contact_id = p.id) desc
      limit 1`
    if (customer === undefined) throw new Error('The seed has nobody whose story is over.')
    const said = await query<{ content: string }[]>`
      select distinct m.content from public.messages m
      where m.organization_id = ${customer.organization_id} and m.contact_id = ${customer.id} and m.content is not null`
    const before = await figures(query)
    const [{ data } = { data: null }] = await query<{ data: unknown }[]>`
      select public.export_contact_data(${customer.id}, ${customer.organization_id}) as data`
    const hers = exported.parse(data)
    const contents = hers.tables['messages']?.map(({ content }) => content) ?? []
    expect(said.length).toBeGreaterThan(0)
    expect(said.filter(({ content }) => !contents.includes(content))).toEqual([])
    expect(JSON.stringify(hers)).toContain(customer.phone_number)
    await query`select public.erase_contact(${customer.id}, 'Pedido do titular', ${customer.organization_id})`
    expect(await figures(query)).toEqual(before)
    const left = await query`
      select from public.messages m where m.contact_id = ${customer.id} and m.content is not null
      union all
      select from public.contacts p where p.id = ${customer.id} and coalesce(p.name, p.phone_number) is not null`
    expect(left).toHaveLength(0)
    throw undone
  })
  await story.catch((error: unknown) => {
    if (error !== undone) throw error
  })
})

async function figures(query: postgres.TransactionSql): Promise<Record<string, unknown>> {
  const views = await query<{ name: string }[]>`
    select c.oid::regclass::text as name from pg_catalog.pg_class c
    where c.relnamespace = 'analytics'::regnamespace and c.relkind = 'm' order by 1`
  expect(views).toHaveLength(6)
  const all: Record<string, unknown> = {}
  for (const { name } of views) {
    await query.unsafe(`refresh materialized view ${name}`)
    all[name] = await query.unsafe(`select to_jsonb(v) as row from ${name} v order by to_jsonb(v)::text`)
  }
  return all
}
