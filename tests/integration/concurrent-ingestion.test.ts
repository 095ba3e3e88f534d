// Sixteen connections deliver random batches about the same forty customers: every spelling of their ids, messages
// repeated, statuses and reactions before and after what they name, conversations closed meanwhile. Whatever the
// order, the outcome is one. BALCAO_SEED repeats a run.

import { randomUUID } from 'node:crypto'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Constants } from '../../types/index.ts'
import { runningStack } from '../support/running-stack.ts'

const RANK = Constants.public.Enums.message_status
const CONNECTIONS = 16
const DELIVERIES = 2500
const SEALED = 'v1.k1.AAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAAAAAA'

const sql = postgres(runningStack().urls.admin, { max: CONNECTIONS, onnotice: () => undefined })
const organization = randomUUID()
const appKey = `concurrent-${randomUUID()}`
const seed = Number(process.env.BALCAO_SEED ?? Math.floor(Math.random() * 1e6))

let state = seed
const random = (below: number) => {
  state = (state * 1_103_515_245 + 12_345) % 2_147_483_648
  return Math.floor(state / 2_147_483_648 * below)
}

const customers = Array.from({ length: 40 }, (_, index) => ({
  withNinth: `5531987${650_000 + index}`,
  withoutNinth: `553187${650_000 + index}`,
  bsuid: `BR.P${index}`,
  phone: `+5531987${650_000 + index}`,
}))
/** They show a BSUID, sometimes their number beside it: whoever hides the number may be two contacts for a while. */
const hidden = Array.from(
  { length: 10 },
  (_, index) => ({ bsuid: `BR.H${index}`, waId: `5531986${650_000 + index}` }),
)
const messages = new Set<string>()
const revoked = new Set<string>()
/** What was ever told of each message that the owner sent. */
const told = new Map<string, Set<string>>()

function tell(id: string, status: string): void {
  told.set(id, (told.get(id) ?? new Set()).add(status))
}

function randomEvent(): Record<string, unknown> {
  if (random(10) === 0) return eventOfHidden()
  const index = random(customers.length)
  const customer = customers[index]
  if (customer === undefined) throw new Error('unreachable')
  const waId = { kind: 'wa_id', value: random(2) === 0 ? customer.withNinth : customer.withoutNinth }
  const bsuid = { kind: 'bsuid', value: customer.bsuid }
  const form = random(4)
  const who = {
    identities: form === 0 ? [bsuid, waId] : form === 1 ? [waId, bsuid] : [waId],
    phone_number: customer.phone,
    whatsapp_chat_id: waId.value,
    profile_name: `P${index}`,
  }
  const at = new Date(1_795_176_000_000 + random(100_000) * 1000).toISOString()
  const said = `m${index}-${random(60)}`
  const sent = `e${index}-${random(20)}`
  const choice = random(10)
  if (random(20) === 0) {
    revoked.add(said)
    return { kind: 'revoke', whatsapp_message_id: said, occurred_at: at, ...who }
  }
  if (choice < 5) {
    messages.add(said)
    return {
      kind: 'message',
      whatsapp_message_id: said,
      sent_at: at,
      message_type: 'text',
      content: said,
      ...who,
    }
  }
  if (choice < 6) {
    tell(sent, 'sent')
    return {
      kind: 'echo',
      whatsapp_message_id: sent,
      sent_at: at,
      message_type: 'text',
      content: sent,
      ...who,
    }
  }
  if (choice < 9) {
    const status = RANK[2 + random(RANK.length - 2)] ?? 'sent'
    tell(sent, status)
    return { kind: 'status', whatsapp_message_id: sent, status, occurred_at: at, ...who }
  }
  const reaction = `r${index}-${random(20)}`
  messages.add(reaction)
  return {
    kind: 'message',
    whatsapp_message_id: reaction,
    sent_at: at,
    message_type: 'reaction',
    content: '👍',
    reply_to_whatsapp_message_id: said,
    ...who,
  }
}

function eventOfHidden(): Record<string, unknown> {
  const person = hidden[random(hidden.length)]
  if (person === undefined) throw new Error('unreachable')
  const bsuid = { kind: 'bsuid', value: person.bsuid }
  const waId = { kind: 'wa_id', value: person.waId }
  const form = random(3)
  const id = `h-${person.bsuid}-${random(40)}`
  messages.add(id)
  return {
    kind: 'message',
    whatsapp_message_id: id,
    sent_at: '2026-11-20T12:00:00Z',
    message_type: 'text',
    content: 'Oi',
    identities: form === 0 ? [bsuid] : form === 1 ? [bsuid, waId] : [waId],
    phone_number: form === 0 ? null : `+${person.waId}`,
    whatsapp_chat_id: form === 2 ? person.waId : person.bsuid,
  }
}

beforeAll(async () => {
  await sql.begin(async (sql) => {
    await sql`insert into public.organizations (id, name, slug, vertical) values (${organization}, 'Concorrida', ${`c-${organization}`}, 'clinic')`
    await sql`insert into private.meta_apps (app_key, organization_id, app_secret, verify_token) values (${appKey}, ${organization}, ${SEALED}, ${SEALED})`
    await sql`insert into public.whatsapp_instances (organization_id, provider, name, external_id, meta_app_key) values (${organization}, 'meta_cloud', 'Recepção', 'concurrent', ${appKey})`
  })
})
afterAll(() => sql.end())

test(`random batches from ${CONNECTIONS} connections come out as one story (seed ${seed})`, async () => {
  let delivered = 0
  await Promise.all(Array.from({ length: CONNECTIONS }, async () => {
    while (delivered++ < DELIVERIES) {
      const events = Array.from({ length: random(2) === 0 ? 1 : 1 + random(30) }, randomEvent)
      const part = { external_id: 'concurrent', event_type: 'messages', payload: {}, unknown: 0, events }
      // No retry: a deadlock would be a failure of this test.
      await sql`select private.ingest_webhook('meta_cloud', ${appKey}, '{}', '', ${
        JSON.stringify([part])
      }::text::jsonb)`
      if (random(50) === 0) {
        await sql`
          update public.conversations set status = 'closed', closed_at = now()
          where organization_id = ${organization} and id = (
            select id from public.conversations
            where organization_id = ${organization} and is_open
            offset ${random(10)} limit 1)`
      }
    }
  }))

  const contacts = await sql`select phone_number from public.contacts
    where organization_id = ${organization} and phone_number like '+5531987%'`
  expect(contacts.map(({ phone_number }) => phone_number).sort()).toEqual(
    customers.map(({ phone }) => phone).sort(),
  )

  const stored = await sql<{ id: string; times: number }[]>`
    select whatsapp_message_id as id, count(*)::int as times from public.messages
    where organization_id = ${organization} and sender = 'contact' group by 1`
  expect(stored.filter(({ times }) => times !== 1)).toEqual([])
  expect(stored.map(({ id }) => id).sort()).toEqual([...messages].sort())

  const deleted = await sql<{ id: string }[]>`
    select whatsapp_message_id as id from public.messages where organization_id = ${organization} and revoked_at is not null`
  expect(deleted.map(({ id }) => id).sort()).toEqual([...revoked].filter((id) => messages.has(id)).sort())

  const echoes = await sql<{ id: string; status: string }[]>`
    select whatsapp_message_id as id, status::text from public.messages
    where organization_id = ${organization} and sender = 'human'`
  const highest = (statuses: Set<string>) => RANK.findLast((status) => statuses.has(status))
  expect(echoes.filter(({ id, status }) => status !== highest(told.get(id) ?? new Set()))).toEqual([])
  expect(echoes.length).toBeGreaterThan(100)

  const [leftover] = await sql`
    select
      (select count(*)::int from private.parked_message_updates p where organization_id = ${organization} and exists (
        select from public.messages m
        where m.organization_id = p.organization_id and m.whatsapp_message_id = p.whatsapp_message_id)) as stuck,
      (select count(*)::int from public.conversations v where organization_id = ${organization} and unread_count <> (
        select count(*) from public.messages m
        where m.organization_id = v.organization_id and m.conversation_id = v.id
          and m.sender = 'contact' and m.message_type <> 'reaction')) as miscounted`
  expect(leftover).toEqual({ stuck: 0, miscounted: 0 })
})
