// Everything at once in one organization: customers write and statuses come while its receivers are registered and
// deleted, conversations are closed, messages are sent, and the stack's worker delivers. Nobody waits for nobody in a
// circle, and no delivery of Meta is refused because of what an administrator does at that moment.

import { randomUUID } from 'node:crypto'
import postgres from 'postgres'
import { afterAll, expect, test } from 'vitest'
import { runningStack } from '../support/running-stack.ts'
import { seeded, testSeed } from '../support/seeded.ts'

const ROUNDS = 100
const CUSTOMERS = 12
const SEALED = 'v1.k1.AAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAAAAAA'
const EVENTS = ['message.received', 'message.sent', 'message.read', 'message.failed', 'conversation.opened', 'conversation.closed']

const seed = testSeed()
const random = seeded(seed)
const sql = postgres(runningStack().urls.admin, { max: 12, onnotice: () => undefined })
const organization = randomUUID()
const appKey = `changes-${randomUUID()}`

afterAll(() => sql.end())

async function prepare(): Promise<void> {
  await sql`insert into public.organizations (id, name, slug, vertical) values (${organization}, 'Tudo ao mesmo tempo', ${organization}, 'clinic')`
  await sql`insert into private.meta_apps (app_key, organization_id, app_secret, verify_token) values (${appKey}, ${organization}, ${SEALED}, ${SEALED})`
  await sql`
    insert into public.whatsapp_instances (organization_id, provider, name, external_id, meta_app_key)
    values (${organization}, 'meta_cloud', 'Recepção', ${appKey}, ${appKey})`
}

const customer = (index: number) => `5511987${650_000 + index}`
const identities = (index: number) => ({
  identities: [{ kind: 'wa_id', value: customer(index) }],
  phone_number: `+${customer(index)}`,
})

async function deliver(events: object[]): Promise<void> {
  await sql`select public.ingest_webhook('meta_cloud', ${appKey}, '{}', 'sha256=00', ${
    sql.json([{ external_id: appKey, event_type: 'messages', payload: {}, unknown: 0, events }] as never)
  })`
}

function aMessage(index: number): object {
  return {
    kind: 'message',
    whatsapp_message_id: randomUUID(),
    sent_at: new Date().toISOString(),
    ...identities(index),
    whatsapp_chat_id: customer(index),
    message_type: 'text',
    content: 'Oi',
  }
}

function someCustomers(): number[] {
  return [...new Set(Array.from({ length: 1 + random(4) }, () => random(CUSTOMERS)))]
}

const asPlatform = (use: (tx: postgres.TransactionSql) => Promise<unknown>) =>
  sql.begin(async (tx) => {
    await tx`select set_config('request.jwt.claims', '{"role": "service_role"}', true), set_config('role', 'service_role', true)`
    await use(tx)
  })

const changes: Record<string, () => Promise<unknown>> = {
  'customers write': () => deliver(someCustomers().map(aMessage)),

  'statuses come': async () => {
    const known = await sql<{ id: string; phone: string }[]>`
      select m.id, p.phone_number as phone
      from public.messages m join public.contacts p on p.organization_id = m.organization_id and p.id = m.contact_id
      where m.organization_id = ${organization} and m.direction = 'outbound' order by random() limit 4`
    await deliver(known.map(({ id, phone }) => ({
      kind: 'status',
      whatsapp_message_id: `wamid.${id}`,
      message_id: id,
      status: ['sent', 'delivered', 'read', 'failed'][random(4)],
      occurred_at: new Date().toISOString(),
      identities: [{ kind: 'wa_id', value: phone.slice(1) }],
      phone_number: phone,
    })))
  },

  'a message is sent': () =>
    asPlatform((tx) =>
      tx`
        select public.send_message(v.id, 'Olá', ${randomUUID()}, organization_id => v.organization_id)
        from public.conversations v where v.organization_id = ${organization} and v.is_open order by random() limit 1`
    ),

  'a conversation is closed': () =>
    sql`
      update public.conversations set status = 'closed', closed_at = now()
      where organization_id = ${organization} and is_open and contact_id = (
        select c.id from public.contacts c where c.organization_id = ${organization} order by random() limit 1)`,

  'a receiver is registered': () =>
    asPlatform((tx) =>
      tx`
        select public.create_webhook_endpoint(${organization}, ${randomUUID()}, 'https://nobody.invalid/hook', ${EVENTS}, ${SEALED})
        where (select count(*) from public.webhook_endpoints where organization_id = ${organization}) < 8`
    ),

  'a receiver is deleted': () =>
    asPlatform((tx) =>
      tx`
        select public.delete_webhook_endpoint(e.organization_id, e.id)
        from public.webhook_endpoints e where e.organization_id = ${organization} order by random() limit 1`
    ),
}

/** Somebody else closed the conversation, stopped the number or deleted the same receiver at this moment. */
const ORDINARY = ['BL203', 'BL107', 'BL310']

test(`customers, administrators and the worker do not get in each other's way (seed ${seed})`, async () => {
  await prepare()
  const deadlocks = async () =>
    Number((await sql`select deadlocks from pg_stat_database where datname = current_database()`)[0]?.['deadlocks'])
  const before = await deadlocks()

  const failures: string[] = []
  await Promise.all(
    Object.entries(changes).flatMap(([name, change]) => [name, name].map(() => async () => {
      for (let round = 0; round < ROUNDS; round++) {
        await change().catch((error: Error & { code?: string }) => {
          if (!ORDINARY.includes(error.code ?? '')) failures.push(`${name}: ${error.code} ${error.message}`)
        })
      }
    })).map((work) => work()),
  )

  expect(failures).toEqual([])
  expect(await deadlocks()).toBe(before)
  const [told] = await sql`
    select count(*)::int as deliveries from public.message_queue
    where organization_id = ${organization} and job_type = 'deliver_webhook'`
  expect(told?.['deliveries']).toBeGreaterThan(0)
  const [left] = await sql`
    select count(*)::int as orphans from public.message_queue q
    where q.organization_id = ${organization} and q.status = 'waiting' and not exists (
      select from public.message_queue h
      where h.organization_id = q.organization_id and h.ordering_key = q.ordering_key and h.status in ('pending', 'failed', 'processing'))`
  expect(left?.['orphans']).toBe(0)
})
