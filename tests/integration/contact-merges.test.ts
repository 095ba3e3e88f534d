// Two contacts turn out to be one person while she writes, books and is written to. Wherever what comes meanwhile is on
// its way, it arrives at the contact that stands; and the way back gives everything back.

import { randomUUID } from 'node:crypto'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Tables } from '../../types/index.ts'
import { anAppOf, aProfessional, aService, at, book, dayAhead, minutesAfter, nameOf } from '../support/agendas.ts'
import { aConversation, aWaId, type Conversation, seen, write } from '../support/conversations.ts'
import { aTextMessage, metaWebhook } from '../support/meta.ts'
import { runningStack } from '../support/running-stack.ts'
import { seeded, testSeed } from '../support/seeded.ts'
import {
  asAdminOf,
  asAttendantOf,
  asOwnerOf,
  aTenant,
  type ConnectedNumber,
  connectNumber,
  type Tenant,
  valueOf,
} from '../support/tenants.ts'

const PAIRS = 12

const backend = runningStack()
/** To look into every table at once, and to stop half-way. */
const sql = postgres(backend.urls.admin, { max: 6, onnotice: () => undefined })

let clinic: Tenant
let neighbour: Tenant
let number: ConnectedNumber
let service: Tables<'services'>
let professional: Tables<'professionals'>
let deadlocksBefore: number
let references: { table: string; column: string }[]

beforeAll(async () => {
  deadlocksBefore = await deadlocks()
  clinic = await aTenant(backend, 'Clínica dos Repetidos', ['admin', 'attendant', 'viewer'])
  neighbour = await aTenant(backend, 'Clínica dos Únicos', ['admin'])
  number = await connectNumber(clinic)
  // What is said of a booking comes when it comes; what is told here is what merges do.
  valueOf(
    await asAdminOf(clinic).from('organization_settings').update({ sends_confirmations: false })
      .eq('organization_id', clinic.organizationId).select().single(),
  )
  service = await aService(clinic, { duration_minutes: 15 })
  professional = await aProfessional(clinic, 'Dra. Olga', [service], { starts_at: '00:00', ends_at: '24:00' })
  references = await sql<{ table: string; column: string }[]>`
    select k.conrelid::regclass::text as table, a.attname as column
    from pg_catalog.pg_constraint k
    join pg_catalog.pg_class c on c.oid = k.conrelid and not c.relispartition
    join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = any (k.conkey) and a.attname <> 'organization_id'
    where k.contype = 'f' and k.confrelid = 'public.contacts'::regclass
    order by 1, 2`
})
afterAll(() => sql.end({ timeout: 1 }))

async function deadlocks(): Promise<number> {
  const [row] = await sql<{ deadlocks: number }[]>`
    select d.deadlocks::int from pg_catalog.pg_stat_database d where d.datname = current_database()`
  return row?.deadlocks ?? NaN
}

// What names whom ---------------------------------------------------------------------------------------------------------

interface Named {
  table: string
  column: string
  contact: string
  row: Record<string, unknown>
}

/** Every row of the clinic that names a contact, and each contact itself. */
async function everything(): Promise<Map<string, Named>> {
  const all = new Map<string, Named>()
  const columns = [...references, { table: 'contacts', column: 'id' }]
  for (const { table, column } of columns) {
    const rows = await sql<{ id: string; contact: string; row: Record<string, unknown> }[]>`
      select t.id, t.${sql(column)} as contact, to_jsonb(t) - 'updated_at' as row
      from ${sql.unsafe(table)} t
      where t.organization_id = ${clinic.organizationId} and t.${sql(column)} is not null`
    for (const { id, contact, row } of rows) all.set(`${table}.${column} ${id}`, { table, column, contact, row })
  }
  return all
}

async function tombstones(): Promise<Map<string, string>> {
  const rows = await sql<{ id: string; merged_into_id: string }[]>`
    select p.id, p.merged_into_id from public.contacts p
    where p.organization_id = ${clinic.organizationId} and p.merged_into_id is not null`
  return new Map(rows.map(({ id, merged_into_id }) => [id, merged_into_id]))
}

/** Rows that name somebody who is not there any more; what was merged into what stays told. */
async function strays(): Promise<string[]> {
  const merged = await tombstones()
  return [...await everything()]
    .filter(([, { table, column, contact }]) => merged.has(contact) && table !== 'contact_merges' && `${table}.${column}` !== 'contacts.id')
    .map(([key]) => key)
}

/** Rows that name one contact and, through another row, a different one. */
async function contradictions(): Promise<Record<string, unknown>[]> {
  return await sql<Record<string, unknown>[]>`
    select 'message' as what, m.id
    from public.messages m
    join public.conversations v on v.organization_id = m.organization_id and v.id = m.conversation_id
    where m.organization_id = ${clinic.organizationId} and m.contact_id <> v.contact_id
    union all
    select 'booking', b.id
    from public.bookings b
    join public.pets p on p.organization_id = b.organization_id and p.id = b.pet_id
    where b.organization_id = ${clinic.organizationId} and b.contact_id <> p.contact_id
    union all
    select 'offer', w.id
    from public.waiting_list w
    join public.bookings b on b.organization_id = w.organization_id and b.id = w.offered_booking_id
    where w.organization_id = ${clinic.organizationId} and b.contact_id <> w.contact_id
    union all
    select 'lead', l.id
    from public.leads l
    join public.leads other on other.organization_id = l.organization_id and other.id = l.merged_into_id
    where l.organization_id = ${clinic.organizationId} and other.contact_id <> l.contact_id`
}

// Pairs -------------------------------------------------------------------------------------------------------------------

interface Pair {
  kept: Conversation
  merged: Conversation
  pet: Tables<'pets'>
  booking: Tables<'bookings'>
  entry: Tables<'waiting_list'>
}

let minutes = 0
/** A time at which nobody else is booked. */
function nextStart(): string {
  return minutesAfter(at(dayAhead(2), '00:00'), 15 * minutes++)
}

const slot = (contact_id: string) => ({ contact_id, service_id: service.id, professional_id: professional.id, start_time: nextStart() })

/** Both have written, and have more than one thing of each kind between them that stands in the way. */
async function aPair(): Promise<Pair> {
  const attendant = asAttendantOf(clinic)
  const [kept, merged] = [await aConversation(clinic, number), await aConversation(clinic, number)]
  const pet = valueOf(await attendant.from('pets').insert({ contact_id: merged.contactId, name: 'Pipoca' }).select().single())
  await book(clinic, { ...slot(merged.contactId), pet_id: pet.id })
  for (const { contactId } of [kept, merged]) {
    valueOf(await attendant.rpc('create_lead', { contact_id: contactId, respostas: { quem: contactId } }))
  }
  await book(clinic, slot(kept.contactId))
  // In a line of its own, so that what one pair gives up is offered to itself.
  const own = await aService(clinic, { name: `Fila ${randomUUID().slice(0, 8)}`, duration_minutes: 15 })
  valueOf(await asAdminOf(clinic).from('professional_services').insert({ professional_id: professional.id, service_id: own.id }).select())
  const booking = await book(clinic, { ...slot(kept.contactId), service_id: own.id })
  const entries = await Promise.all([kept, merged].map(async ({ contactId }) =>
    valueOf(await attendant.rpc('join_waiting_list', { contact_id: contactId, service_id: own.id, professional_id: professional.id }))
  ))
  const [, entry] = entries
  if (entry === undefined) throw new Error('unreachable')
  return { kept, merged, pet, booking, entry }
}

const mergeOf = ({ kept, merged }: Pair) =>
  anAppOf(clinic, 'admin').rpc('merge_contacts', { keep_contact_id: kept.contactId, merge_contact_id: merged.contactId })

interface Answered {
  what: string
  status: number
  error: string | null
}

/** Everything that may come for one person, from all sides at once. */
function traffic({ kept, merged, pet, booking, entry }: Pair): (() => Promise<Answered>)[] {
  const app = anAppOf(clinic, 'attendant')
  const contact_id = merged.contactId
  const rpc = (what: string, call: () => PromiseLike<{ status: number; error: Parameters<typeof nameOf>[0] }>) => async () => {
    const { status, error } = await call()
    return { what, status, error: nameOf(error) }
  }
  const inbound = ({ waId }: Conversation) => async () => {
    const id = `wamid.${randomUUID()}`
    const message = aTextMessage({ to: number.externalId, from: waId, id })
    const { status } = await metaWebhook(message).signedWith(number.appSecret).postedTo(number.webhookUrl)
    expected.add(id)
    return { what: 'inbound', status, error: null }
  }
  return [
    inbound(merged),
    inbound(kept),
    inbound(merged),
    rpc('send_message', () => app.rpc('send_message', { conversation_id: merged.id, content: 'Temos sim.' })),
    rpc('send_message', () => app.rpc('send_message', { conversation_id: kept.id, content: 'Até já.' })),
    rpc('create_booking', () => app.rpc('create_booking', slot(contact_id))),
    rpc('create_booking', () => app.rpc('create_booking', { ...slot(contact_id), pet_id: pet.id })),
    rpc('hold_slot', () => app.rpc('hold_slot', slot(contact_id))),
    rpc('create_lead', () => app.rpc('create_lead', { contact_id, respostas: { prazo: 'já' } })),
    rpc('create_lead', () => app.rpc('create_lead', { contact_id, professional_id: professional.id })),
    rpc('join_waiting_list', () => app.rpc('join_waiting_list', { contact_id, service_id: service.id })),
    rpc('cancel_booking', () => app.rpc('cancel_booking', { id: booking.id })),
    rpc('leave_waiting_list', () => app.rpc('leave_waiting_list', { id: entry.id })),
    rpc('pets', () => app.from('pets').insert({ contact_id, name: 'Farofa' })),
  ]
}

/** Messages that were delivered meanwhile. */
const expected = new Set<string>()

/** The conversation of the one who is merged may be closed by then; the animal may have gone with her; and so on. */
const EXPLAINED: Record<string, string[]> = {
  send_message: ['conversation_closed'],
  create_booking: ['pet_not_found'],
  join_waiting_list: ['already_waiting'],
}

function unexplained(answers: Answered[]): Answered[] {
  return answers.filter(({ what, status, error }) =>
    status >= 500 || error !== null && !(EXPLAINED[what] ?? []).includes(error)
  )
}

const seed = testSeed()
const random = seeded(seed)

/** Begun in any order, all at once. */
async function allAtOnce<Result>(calls: (() => Promise<Result>)[]): Promise<Result[]> {
  const order = calls.map((call) => ({ call, rank: random(1e6) })).sort((one, other) => one.rank - other.rank)
  return await Promise.all(order.map(({ call }) => call()))
}

// Merging -----------------------------------------------------------------------------------------------------------------

test(`what comes while contacts are merged and taken apart goes to whom it should (BALCAO_TEST_SEED=${seed})`, async () => {
  const pairs: Pair[] = []
  while (pairs.length < PAIRS) pairs.push(await aPair())
  const before = await everything()
  const contacts = [...before.keys()].filter((key) => key.startsWith('contacts.id'))
  const merged: string[] = []

  const answers = await allAtOnce(pairs.flatMap((pair) => [
    ...traffic(pair),
    async () => {
      const { data, error, status } = await mergeOf(pair)
      if (data !== null) merged.push(data.id)
      return { what: 'merge_contacts', status, error: nameOf(error) }
    },
  ]))
  expect(unexplained(answers)).toEqual([])
  expect(merged).toHaveLength(PAIRS)
  expect(await strays()).toEqual([])
  expect(await contradictions()).toEqual([])
  expect(await tombstones()).toEqual(new Map(pairs.map((pair) => [pair.merged.contactId, pair.kept.contactId])))
  // The numbers of the merged ones find the contacts that stand: nobody new has come.
  const meanwhile = await everything()
  expect([...meanwhile.keys()].filter((key) => key.startsWith('contacts.id')).sort()).toEqual(contacts.sort())

  // Nobody sees a tombstone, whatever his role.
  const seen = valueOf(await asOwnerOf(clinic).from('contacts').select('id').in('id', pairs.map((pair) => pair.merged.contactId)))
  expect(seen).toEqual([])

  const undone = await allAtOnce(merged.map((merge_id) => async () => {
    const { error, status } = await anAppOf(clinic, 'admin').rpc('undo_merge', { merge_id })
    return { what: 'undo_merge', status, error: nameOf(error) }
  }).concat(pairs.flatMap(traffic)))
  expect(unexplained(undone)).toEqual([])
  expect(await tombstones()).toEqual(new Map())
  expect(await strays()).toEqual([])
  expect(await contradictions()).toEqual([])
  const after = await everything()
  const lost = [...before].filter(([key, { contact }]) => after.get(key)?.contact !== contact).map(([key]) => key)
  expect(lost).toEqual([])

  const stored = await sql<{ id: string }[]>`
    select m.whatsapp_message_id as id from public.messages m
    where m.organization_id = ${clinic.organizationId} and m.whatsapp_message_id = any (${[...expected]})`
  expect(stored.map(({ id }) => id).sort()).toEqual([...expected].sort())
})

describe('when nothing else happens', () => {
  test('undoing leaves every row as it was', async () => {
    const pair = await aPair()
    const before = await everything()
    const merge = valueOf(await mergeOf(pair))
    const moved = [...await everything()].filter(([key, { contact }]) => before.has(key) && before.get(key)?.contact !== contact)
    // There was something to give back, of every kind that she has.
    expect(new Set(moved.map(([, { table }]) => table))).toEqual(
      new Set(['bookings', 'contact_identities', 'conversations', 'leads', 'messages', 'notifications', 'pets', 'waiting_list']),
    )
    // Somebody did not hear that it was done.
    expect(valueOf(await mergeOf(pair)).id).toBe(merge.id)
    valueOf(await asAdminOf(clinic).rpc('undo_merge', { merge_id: merge.id }))
    const after = await everything()
    const changed = [...before].filter(([key, { row }]) => JSON.stringify(after.get(key)?.row) !== JSON.stringify(row))
    expect(changed).toEqual([])
  })

  test('messages from both numbers are of one contact, and answers go to her', async () => {
    const pair = await aPair()
    valueOf(await mergeOf(pair))
    const there = await aConversation(clinic, number, pair.merged.waId)
    expect(there.contactId).toBe(pair.kept.contactId)
    expect((await aConversation(clinic, number, pair.kept.waId)).contactId).toBe(pair.kept.contactId)
    expect(await write(clinic, there, 'Olá de novo.')).toMatchObject({ contact_id: pair.kept.contactId })
    const made = await book(clinic, slot(pair.merged.contactId))
    expect(made.contact_id).toBe(pair.kept.contactId)
    expect(valueOf(await asAttendantOf(clinic).rpc('create_lead', { contact_id: pair.merged.contactId }))).toMatchObject({
      contact_id: pair.kept.contactId,
    })
  })

  test('the same two by ten administrators at once are merged once; either way round, one way wins', async () => {
    const pair = await aPair()
    const same = await Promise.all(Array.from({ length: 10 }, () => mergeOf(pair)))
    expect(same.map(({ error }) => nameOf(error))).toEqual(same.map(() => null))
    expect(new Set(same.map(({ data }) => data?.id)).size).toBe(1)

    const other = await aPair()
    const ways = await Promise.all([mergeOf(other), mergeOf({ ...other, kept: other.merged, merged: other.kept })])
    expect(ways.map(({ error }) => nameOf(error)).sort()).toEqual(['cannot_merge', null])
  })

  test('only administrators merge, and only their own', async () => {
    const pair = await aPair()
    const two = { keep_contact_id: pair.kept.contactId, merge_contact_id: pair.merged.contactId }
    expect(nameOf((await asAttendantOf(clinic).rpc('merge_contacts', two)).error)).toBe('not_allowed')
    expect(nameOf((await asAdminOf(neighbour).rpc('merge_contacts', two)).error)).toBe('contact_not_found')
    const theirs = { ...two, organization_id: clinic.organizationId }
    expect(nameOf((await asAdminOf(neighbour).rpc('merge_contacts', theirs)).error)).toBe('not_allowed')
    const { id } = valueOf(await mergeOf(pair))
    expect(nameOf((await asAdminOf(neighbour).rpc('undo_merge', { merge_id: id })).error)).toBe('merge_not_found')
    expect(nameOf((await asAttendantOf(clinic).rpc('undo_merge', { merge_id: id })).error)).toBe('not_allowed')
    expect(valueOf(await asOwnerOf(neighbour).from('contact_merges').select('id'))).toEqual([])
    expect(await strays()).toEqual([])
  })
})

describe('half-way', () => {
  const contactOf = async (message: string): Promise<unknown> => {
    const rows = await sql<{ contact_id: string; of_conversation: string }[]>`
      select m.contact_id, v.contact_id as of_conversation
      from public.messages m
      join public.conversations v on v.organization_id = m.organization_id and v.id = m.conversation_id
      where m.organization_id = ${clinic.organizationId} and m.whatsapp_message_id = ${message}`
    return rows[0]
  }

  /** A delivery with one message of each. */
  async function deliver(...senders: string[]): Promise<string[]> {
    const events = senders.map((sender) => ({
      kind: 'message',
      whatsapp_message_id: `wamid.${randomUUID()}`,
      sent_at: new Date().toISOString(),
      identities: [{ kind: 'wa_id', value: sender }],
      phone_number: `+${sender}`,
      whatsapp_chat_id: sender,
      message_type: 'text',
      content: 'Oi',
    }))
    const parts = [{ external_id: number.externalId, event_type: 'messages', payload: {}, unknown: 0, events }]
    await sql`
      select public.ingest_webhook('meta_cloud', a.app_key, '{}', 'sha256=00', ${sql.json(parts)})
      from public.whatsapp_instances i
      join private.meta_apps a on a.app_key = i.meta_app_key
      where i.organization_id = ${clinic.organizationId} and i.external_id = ${number.externalId}`
    return events.map(({ whatsapp_message_id }) => whatsapp_message_id)
  }

  /** Until so many wait for somebody else's lock in a statement that names this. */
  const waiting = (what: string, count = 1) =>
    seen(async () => {
      const [row] = await sql<{ count: number }[]>`
        select count(*)::int from pg_catalog.pg_stat_activity a
        where a.datname = current_database() and a.wait_event_type = 'Lock' and a.query like ${`%${what}%`}`
      return row?.count ?? 0
    }, (blocked) => blocked >= count)

  test('a message that waits for contacts while they are taken apart arrives at the one who wrote it', async () => {
    const pair = await aPair()
    const { id } = valueOf(await mergeOf(pair))
    let delivery: Promise<string[]> | undefined
    await sql.begin(async (undoing) => {
      await undoing`select public.undo_merge(${id}, ${clinic.organizationId})`
      delivery = deliver(pair.merged.waId)
      await waiting('ingest_webhook')
    })
    const [message] = await delivery ?? []
    const { contactId } = pair.merged
    expect(await contactOf(message ?? '')).toEqual({ contact_id: contactId, of_conversation: contactId })
  })

  test('a delivery waits for nobody who edits leads', async () => {
    const pair = await aPair()
    await sql.begin(async (editing) => {
      await editing`update public.leads set source = 'feira' where organization_id = ${clinic.organizationId} and contact_id = ${pair.kept.contactId}`
      await deliver(pair.kept.waId)
      const moved = await editing`
        update public.leads set source = 'feira' where organization_id = ${clinic.organizationId} and contact_id = ${pair.merged.contactId} returning id`
      expect(moved).toHaveLength(1)
    })
  })

  test('who merges holds no contact while he waits for a row', async () => {
    const pair = await aPair()
    let merging: Promise<unknown> | undefined
    await sql.begin(async (editing) => {
      await editing`update public.leads set respostas = respostas || '{"bairro": "Centro"}' where organization_id = ${clinic.organizationId} and contact_id = ${pair.merged.contactId}`
      merging = sql`select public.merge_contacts(${pair.kept.contactId}, ${pair.merged.contactId}, ${clinic.organizationId})`.execute()
      await waiting('merge_contacts')
      await editing`update public.contacts set name = 'Ana Maria' where organization_id = ${clinic.organizationId} and id = ${pair.merged.contactId}`
    })
    await merging
    // What was answered until then is in the lead that stands.
    const leads = await sql<{ respostas: unknown }[]>`
      select l.respostas from public.leads l
      where l.organization_id = ${clinic.organizationId} and l.contact_id = ${pair.kept.contactId} and l.merged_into_id is null`
    expect(leads).toEqual([{ respostas: { quem: pair.kept.contactId, bairro: 'Centro' } }])
    expect(await strays()).toEqual([])
  })

  test('deliveries that find a contact merged begin anew, one after the other', async () => {
    const people = Array.from({ length: 3 }, () => ({ id: randomUUID(), waId: aWaId() })).sort((one, other) => one.id < other.id ? -1 : 1)
    const [a, x, b] = people
    if (a === undefined || x === undefined || b === undefined) throw new Error('unreachable')
    for (const { id, waId } of people) {
      await sql`insert into public.contacts (organization_id, id, phone_number) values (${clinic.organizationId}, ${id}, ${`+${waId}`})`
    }
    await deliver(a.waId, x.waId, b.waId)
    const deliveries: Promise<string[]>[] = []
    await sql.begin(async (merging) => {
      await merging`select public.merge_contacts(${a.id}, ${b.id}, ${clinic.organizationId})`
      deliveries.push(deliver(x.waId, b.waId))
      await waiting('ingest_webhook', 1)
      deliveries.push(deliver(a.waId, x.waId))
      await waiting('ingest_webhook', 2)
    })
    const messages = (await Promise.all(deliveries)).flat()
    const of = await Promise.all(messages.map(contactOf))
    expect(of).toEqual([x, a, a, x].map(({ id }) => ({ contact_id: id, of_conversation: id })))
  })
})

test('nothing of all this ran into a deadlock', async () => {
  expect(await deadlocks()).toBe(deadlocksBefore)
})
