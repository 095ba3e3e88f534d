// Whoever dies in the middle, each message reaches Meta once, and a conversation's messages in their order: while 160 of
// them go out, the functions and Postgres are killed with -9, and Meta hangs up on us after it has accepted.
//
// BALCAO_TEST_SEED repeats the plan of a run: who dies after how many messages, and when Meta hangs up.

import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { z } from 'zod'
import type { Stack } from '../../local/stack.ts'
import { aConversation, type Conversation } from '../support/conversations.ts'
import { type Call, metaOf } from '../support/graph.ts'
import { startOwnStack } from '../support/own-stack.ts'
import { eventually } from '../support/processes.ts'
import { seeded, testSeed } from '../support/seeded.ts'
import { asAttendantOf, aTenant, type ConnectedNumber, connectNumber, type Tenant } from '../support/tenants.ts'

const CONVERSATIONS = 20
const MESSAGES_EACH = 8
const ALL = CONVERSATIONS * MESSAGES_EACH
const DEATHS = { functions: 5, postgres: 2 }
const PATIENCE_MS = 200_000
/** Of a job that is claimed. */
const LEASE = '60 seconds'

const seed = testSeed()
const random = seeded(seed)

let stack: Stack
let clinic: Tenant
let number: ConnectedNumber
let conversations: Conversation[]

beforeAll(async () => {
  stack = await startOwnStack()
  clinic = await aTenant(stack, 'Clínica Teimosa', ['attendant'])
  number = await connectNumber(clinic)
  conversations = []
  for (let n = 0; n < CONVERSATIONS; n++) {
    conversations.push(await aConversation(clinic, number, `5511${String(970_000_000 + n)}`))
  }
})

afterAll(() => stack?.stop())

/** A connection of its own each time: Postgres dies. */
async function inDatabase<T>(use: (sql: postgres.Sql) => Promise<T>): Promise<T> {
  const sql = postgres(stack.urls.admin, { max: 1, connect_timeout: 5, onnotice: () => undefined })
  try {
    return await use(sql)
  } finally {
    await sql.end({ timeout: 1 })
  }
}

interface Written {
  id: string
  conversation: string
}

/** As an app does that must not lose it, and does not know whether it was heard: again, with its own id. */
async function write({ id: conversation_id }: Conversation, index: number): Promise<Written> {
  const order = { conversation_id, content: `mensagem ${index}`, client_message_id: randomUUID() }
  const deadline = Date.now() + PATIENCE_MS
  for (;;) {
    const { data, error } = await asAttendantOf(clinic).rpc('send_message', order)
    if (data !== null) return { id: data.id, conversation: conversation_id }
    if (Date.now() > deadline) throw new Error(`Still refused: ${JSON.stringify(error)}`)
    await sleep(50)
  }
}

/** Each conversation's messages one after the other, all conversations at once. */
async function writeAll(): Promise<Written[]> {
  const written = await Promise.all(conversations.map(async (conversation) => {
    const own: Written[] = []
    for (let n = 0; n < MESSAGES_EACH; n++) own.push(await write(conversation, n))
    return own
  }))
  return written.flat()
}

function planDeaths(): { at: number; victim: 'functions' | 'postgres' }[] {
  return (['functions', 'postgres'] as const).flatMap((victim) =>
    Array.from({ length: DEATHS[victim] }, (_, part) => ({
      at: Math.floor(ALL * (0.05 + 0.8 * (part + random(1000) / 1000) / DEATHS[victim])),
      victim,
    }))
  ).sort((a, b) => a.at - b.at)
}

/** Most answers are late, so that who dies mostly dies between a call and its answer; some never come. */
async function planTrouble(): Promise<number> {
  let hangUps = 0
  for (let planned = 0; planned < ALL * 2;) {
    const times = 3 + random(20)
    await meta().failing(number, { delay_ms: 100 + random(200) }, { times })
    await meta().failing(number, 'accept_then_break')
    planned += times + 1
    hangUps += 1
  }
  return hangUps
}

const meta = () => metaOf(stack)
const messageIdIn = (body: unknown) =>
  z.looseObject({ biz_opaque_callback_data: z.string().startsWith('outbox:') })
    .parse(body).biz_opaque_callback_data.slice('outbox:'.length)

/** What Meta accepted, in its order, answered or not. */
async function accepted(): Promise<(Call & { message: string })[]> {
  return (await meta().sends(number))
    .filter(({ message_id }) => message_id !== null)
    .map((call) => ({ ...call, message: messageIdIn(call.body) }))
}

/** Whether everything that Meta has to tell so far has been heard. */
async function isAllToldOf(calls: Call[]): Promise<boolean> {
  const heard = new Map<string, number>()
  for (const { value, status } of await meta().deliveries(number)) {
    for (const { id } of status === 200 ? value.statuses ?? [] : []) heard.set(id, (heard.get(id) ?? 0) + 1)
  }
  return calls.every(({ message_id }) => heard.get(message_id ?? '') === 3)
}

/** Lets the hours pass that nobody has: what the dead hold is free, and who waits for its time has waited. */
async function timePasses(lastDeath: Date | null): Promise<void> {
  const isQuiet = await isAllToldOf(await accepted())
  await inDatabase(async (sql) => {
    if (lastDeath !== null) {
      await sql`
        update public.message_queue
        set lease_expires_at = now()
        -- A claim may have been under way: its answer reached nobody.
        where status = 'processing' and lease_expires_at - ${LEASE}::interval < ${lastDeath}::timestamptz + interval '1 second'`
    }
    if (isQuiet) {
      // Meta has told all, the number's webhooks reached us in the minutes after the call, and of these it said nothing.
      await sql`
        insert into public.webhook_events (organization_id, instance_id, provider, event_type, payload, created_at)
        select i.organization_id, i.id, i.provider, 'messages', '{}', now() - interval '9 minutes'
        from public.whatsapp_instances i`
      await sql`
        update private.unanswered_sends u
        set called_at = now() - interval '10 minutes'
        from public.message_queue q
        where q.organization_id = u.organization_id
          and q.payload ->> 'message_id' = u.message_id::text
          and q.status = 'pending'
          and q.last_error = 'waits_for_a_status'
          and u.called_at < now() - interval '3 seconds'`
    }
    await sql`
      update public.message_queue set run_at = now(), is_due = true
      where status in ('pending', 'failed') and not is_due`
    await sql`select pg_notify('balcao_wake', '')`
  })
}

test(`${ALL} messages reach Meta once and in order, though the functions and Postgres die (seed ${seed})`, {
  timeout: PATIENCE_MS + 30_000,
}, async () => {
  const hangUps = await planTrouble()
  expect(hangUps).toBeGreaterThan(5)
  const deaths = planDeaths()
  const pids = new Set<number>()
  let lastDeath: Date | null = null
  const writing = writeAll()
  writing.catch(() => undefined)

  const deadline = Date.now() + PATIENCE_MS
  for (;;) {
    const sent = (await accepted()).length
    if (sent >= (deaths[0]?.at ?? Infinity)) {
      const { victim } = deaths.shift() ?? { victim: 'functions' as const }
      await eventually(() => {
        const pid = stack.pids()[victim]
        return pid !== null && !pids.has(pid)
      })
      pids.add(stack.pids()[victim] ?? 0)
      stack.kill(victim)
      lastDeath = new Date()
      continue
    }
    // Postgres may be away.
    const open = await unfinished().catch(() => Infinity)
    if (open === 0 && deaths.length === 0 && sent >= ALL) break
    if (Date.now() > deadline) {
      throw new Error(`${sent} of ${ALL} sent, ${open} unfinished, ${deaths.length} still to die`)
    }
    await timePasses(lastDeath).catch(() => undefined)
    await sleep(200)
  }
  const written = await writing
  const calls = await accepted()

  // Once.
  expect(calls.map(({ message }) => message).sort()).toEqual(written.map(({ id }) => id).sort())
  // In order.
  const conversationOf = new Map(written.map(({ id, conversation }) => [id, conversation]))
  for (const { id } of conversations) {
    const order = calls.map(({ message }) => message).filter((message) => conversationOf.get(message) === id)
    expect(order).toEqual(written.filter(({ conversation }) => conversation === id).map((message) => message.id))
  }
  // And each message knows what became of it.
  const rows = await inDatabase((sql) =>
    sql<{ id: string; status: string; wamid: string; job: string; was_lost: boolean }[]>`
      select m.id, m.status::text, m.whatsapp_message_id as wamid, q.status::text as job,
        q.last_error like 'lease_expired%' is true as was_lost
      from public.messages m
      left join public.message_queue q on q.payload ->> 'message_id' = m.id::text and q.job_type = 'send_message'
      where m.direction = 'outbound'`
  )
  const wamids = new Map(calls.map(({ message, message_id }) => [message, message_id]))
  expect(rows).toHaveLength(ALL)
  expect(
    rows.filter(({ id, status, wamid, job }) => status !== 'read' || job !== 'completed' || wamid !== wamids.get(id)),
  )
    .toEqual([])
  expect(await inDatabase((sql) => sql`select from private.unanswered_sends`)).toHaveLength(0)

  // Or the test has not tried what it is for.
  expect(pids.size).toBe(DEATHS.functions + DEATHS.postgres)
  expect(calls.filter(({ status }) => status === null).length).toBeGreaterThan(3)
  expect(rows.filter(({ was_lost }) => was_lost).length).toBeGreaterThan(0)
})

/** Messages without an end, and jobs without one. */
async function unfinished(): Promise<number> {
  return await inDatabase(async (sql) => {
    const [row] = await sql<{ count: number }[]>`
      select
        (select count(*) from public.messages where direction = 'outbound' and status <> 'read')::int
        + (select count(*) from public.message_queue where job_type = 'send_message' and status <> 'completed')::int as count`
    return row?.count ?? Infinity
  })
}
