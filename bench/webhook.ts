// npm run bench: what taking in webhooks costs, on a fresh stack of its own. `-- --quick` takes a minute.
//
// Every figure stands beside what it is a part of, measured in turn in the same run: read the ratios. It says what is,
// and asserts nothing about time; it fails when a message got lost or a delivery was refused.

import type { ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import postgres from 'postgres'
import { z } from 'zod'
import { parse } from '../functions/_shared/providers/meta/parse.ts'
import { type Stack, startStack } from '../local/stack.ts'
import { assign, startSenders } from './assign.ts'
import { type Channel, type Customer, customersOf, deliveryOf, signed } from './deliveries.ts'
import { median, percentile, short, table } from './figures.ts'

const TENANTS = 5
const CUSTOMERS_EACH = 100
const SENDERS = 50
const CONNECTIONS = 8
const RESULTS = fileURLToPath(new URL('results/', import.meta.url))

const isQuick = process.argv.includes('--quick')
const rounds = isQuick ? 3 : 5
const requestsPerRound = isQuick ? 1_000 : 4_000
const messagesPerRound = isQuick ? { 1: 1_000, 100: 5_000 } : { 1: 4_000, 100: 20_000 }

interface HttpFigures {
  perSecond: number
  p50: number
  p95: number
  p99: number
}

interface HttpRound extends HttpFigures {
  errors: number
}

const interrupted = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => interrupted.abort())

async function main(): Promise<void> {
  const dataDir = await mkdtemp(join(tmpdir(), 'balcao-bench-'))
  let stack: Stack | null = null
  let senders: ChildProcess | null = null
  let admin: postgres.Sql | null = null
  try {
    stack = await startStack({ dataDir, apiPort: 0, dbPort: 0, signal: interrupted.signal })
    admin = postgres(stack.urls.admin, { max: 1, onnotice: () => undefined })
    senders = startSenders()
    await measure(stack, admin, senders)
  } finally {
    senders?.kill()
    await admin?.end({ timeout: 1 })
    await stack?.stop()
    await rm(dataDir, { recursive: true, force: true })
  }
}

async function measure(stack: Stack, admin: postgres.Sql, senders: ChildProcess): Promise<void> {
  const [version] = await admin<{ server_version: string }[]>`show server_version`
  const machine = {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    node: process.version,
    postgres: version?.server_version ?? 'unknown',
  }
  console.log(`${machine.cores} × ${machine.cpu}, Node ${machine.node}, Postgres ${machine.postgres}`)
  console.log(`Ready after ${short(stack.readyAfterMs / 1000)} s, from an empty data directory.\n`)

  const customers = customersOf(await connectTenants(stack), CUSTOMERS_EACH)
  const webhooks = await measureWebhooks(stack, admin, senders, customers)
  const single = await measureSql(stack, admin, customers, 1)
  const batches = await measureSql(stack, admin, customers, 100)

  const result = {
    measuredAt: new Date().toISOString(),
    quick: isQuick,
    machine,
    readyAfterMs: stack.readyAfterMs,
    webhooks,
    sql: { single, batches },
  }
  await mkdir(RESULTS, { recursive: true })
  const file = join(RESULTS, `webhook-${result.measuredAt.replaceAll(':', '-')}.json`)
  await writeFile(file, `${JSON.stringify(result, null, 2)}\n`)
  console.log(`Written to ${file}`)
}

// Webhooks over HTTP ----------------------------------------------------------------------------------------------

/** Gateway, Deno, PostgREST: with ingest_webhook, and in turn with a function in its place that does nothing. */
async function measureWebhooks(
  stack: Stack,
  admin: postgres.Sql,
  senders: ChildProcess,
  customers: Customer[],
) {
  let [sent, next] = [0, 0]
  const run = async (count: number): Promise<HttpRound> => {
    const deliveries = Array.from({ length: count }, () => {
      const customer = customers[next++ % customers.length]
      if (customer === undefined) throw new Error('There are no customers.')
      return signed(customer.channel, deliveryOf(customer.channel, [customer]))
    })
    const assignment = { api: stack.urls.api, senders: SENDERS, deliveries }
    const { seconds, latencies, errors } = await assign(senders, assignment, interrupted.signal)
    return {
      perSecond: count / seconds,
      p50: percentile(latencies, 50),
      p95: percentile(latencies, 95),
      p99: percentile(latencies, 99),
      errors: Object.values(errors).reduce((total, number) => total + number, 0),
    }
  }

  const counted = async (count: number) => {
    sent += count
    return await run(count)
  }
  // Everybody writes once, and the processes warm up.
  await counted(Math.max(customers.length, requestsPerRound / 2))
  await withEmptyIngest(admin, () => run(requestsPerRound / 2))
  await admin`vacuum (analyze)`

  const real: HttpRound[] = []
  const empty: HttpRound[] = []
  for (let round = 0; round < rounds; round++) {
    real.push(await counted(requestsPerRound))
    empty.push(await withEmptyIngest(admin, () => run(requestsPerRound)))
  }

  const errors = [...real, ...empty].reduce((total, round) => total + round.errors, 0)
  const [stored] = await admin<{ messages: number }[]>`select count(*)::int as messages from public.messages`
  if (errors > 0 || stored?.messages !== sent) {
    throw new Error(`${errors} deliveries were refused, ${stored?.messages} of ${sent} messages are there.`)
  }
  const figures = { ingest: medians(real), empty: medians(empty) }
  const ratio = median(real.map((round, index) => round.perSecond / (empty[index]?.perSecond ?? NaN)))
  const row = (name: string, { perSecond, p50, p95, p99 }: HttpFigures) => [
    name,
    ...[perSecond, p50, p95, p99].map(short),
  ]
  console.log(table([
    [`Webhooks, ${SENDERS} senders`, 'acks/s', 'p50 ms', 'p95 ms', 'p99 ms'],
    row('with ingest_webhook', figures.ingest),
    row('with an empty function', figures.empty),
  ]))
  console.log(`Ratio ${short(ratio)}; no error; ${sent} messages sent, each stored.\n`)
  return { ratio, ...figures, rounds: { ingest: real, empty } }
}

function medians(rounds: HttpRound[]): HttpFigures {
  return {
    perSecond: median(rounds.map(({ perSecond }) => perSecond)),
    p50: median(rounds.map(({ p50 }) => p50)),
    p95: median(rounds.map(({ p95 }) => p95)),
    p99: median(rounds.map(({ p99 }) => p99)),
  }
}

/** The same call of the same name, checked and routed alike; it only does nothing. */
async function withEmptyIngest<T>(admin: postgres.Sql, work: () => Promise<T>): Promise<T> {
  const [{ definition = '' } = {}] = await admin<{ definition: string }[]>`
    select pg_get_functiondef('public.ingest_webhook'::regproc) as definition`
  await admin.unsafe(`
    create or replace function public.ingest_webhook(
      provider public.whatsapp_provider, app_key text, headers jsonb, signature text, parts jsonb)
    returns jsonb language plpgsql volatile set search_path = ''
    as $$ begin return '{}'::jsonb; end $$`)
  try {
    return await work()
  } finally {
    await admin.unsafe(definition)
  }
}

// ingest_webhook in SQL -------------------------------------------------------------------------------------------

interface Batch {
  appKey: string
  parts: string
  rows: string
}

/** Deliveries of `size` messages: through ingest_webhook, and in turn the rows that it writes by INSERT alone. */
async function measureSql(stack: Stack, admin: postgres.Sql, customers: Customer[], size: 1 | 100) {
  const messages = messagesPerRound[size]
  const conversations = await openConversations(admin)
  const pool = postgres(stack.urls.database, {
    max: CONNECTIONS,
    connection: { role: 'service_role' },
    onnotice: () => undefined,
  })
  const statements = {
    ingest: (sql: postgres.ReservedSql, { appKey, parts }: Batch) =>
      sql`
      select public.ingest_webhook('meta_cloud', ${appKey}, ${HEADERS}::text::jsonb, ${SIGNATURE}, ${parts}::text::jsonb)`,
    insert: (sql: postgres.ReservedSql, { parts, rows }: Batch) =>
      sql`
      with delivery as (
        insert into public.webhook_events
          (organization_id, instance_id, provider, event_type, external_id, payload, headers, signature, processed, processed_at)
        select (r ->> 'organization_id')::uuid, (r ->> 'instance_id')::uuid, 'meta_cloud', p ->> 'event_type',
          p ->> 'external_id', p -> 'payload', ${HEADERS}::text::jsonb, ${SIGNATURE}, true, now()
        from (select ${parts}::text::jsonb -> 0 as p, ${rows}::text::jsonb -> 0 as r) part
      )
      insert into public.messages
        (organization_id, conversation_id, contact_id, instance_id, direction, sender, message_type, content,
         whatsapp_message_id, status, sent_at)
      select organization_id, conversation_id, contact_id, instance_id, 'inbound', 'contact', 'text', content,
        whatsapp_message_id, 'received', sent_at
      from jsonb_to_recordset(${rows}::text::jsonb) as r (
        organization_id uuid, conversation_id uuid, contact_id uuid, instance_id uuid, content text,
        whatsapp_message_id text, sent_at timestamptz)`,
  }

  let next = 0
  const connections = await Promise.all(Array.from({ length: CONNECTIONS }, () => pool.reserve()))
  const run = async (statement: keyof typeof statements, count: number): Promise<number> => {
    const batches = Array.from({ length: count / size }, () => {
      const tenant = customers[next % TENANTS]?.channel
      const chosen = Array.from({ length: size }, () => customers[(next += TENANTS) % customers.length])
      next += 1
      if (tenant === undefined) throw new Error('There are no customers.')
      return batchOf(tenant, chosen.filter((customer) => customer !== undefined), conversations)
    })
    const waiting = batches.values()
    const started = performance.now()
    await Promise.all(connections.map(async (sql) => {
      for (const batch of waiting) {
        interrupted.signal.throwIfAborted()
        await statements[statement](sql, batch)
      }
    }))
    return count / ((performance.now() - started) / 1000)
  }

  try {
    const before = await messagesIn(admin)
    // What autovacuum does within a minute; until then the planner guesses.
    await admin`vacuum (analyze)`
    // Each round begins with new plans in each connection, since the triggers come and go; that is not measured.
    const warmUp = CONNECTIONS * 8 * size
    const warmRun = async (statement: keyof typeof statements) => {
      await run(statement, warmUp)
      return await run(statement, messages)
    }
    const ingest: number[] = []
    const insert: number[] = []
    for (let round = 0; round < rounds; round++) {
      ingest.push(await warmRun('ingest'))
      insert.push(await withoutTriggers(admin, () => warmRun('insert')))
    }
    const stored = (await messagesIn(admin)) - before
    const expected = 2 * rounds * (warmUp + messages)
    if (stored !== expected) throw new Error(`${stored} of ${expected} messages are there.`)

    const ratio = median(ingest.map((perSecond, round) => perSecond / (insert[round] ?? NaN)))
    console.log(table([
      [`SQL, ${CONNECTIONS} connections, ${size} per delivery`, 'messages/s'],
      ['ingest_webhook', short(median(ingest))],
      ['the same rows by INSERT', short(median(insert))],
    ]))
    console.log(`Ratio ${short(ratio)}.\n`)
    return { ratio, ingest: median(ingest), insert: median(insert), rounds: { ingest, insert } }
  } finally {
    for (const sql of connections) sql.release()
    await pool.end({ timeout: 1 })
  }
}

const HEADERS = JSON.stringify({ 'content-type': 'application/json', 'user-agent': 'facebookexternalua' })
const SIGNATURE = `sha256=${'0'.repeat(64)}`

/** What an INSERT must know beforehand, and ingest_webhook finds out. */
interface OpenConversation {
  organization_id: string
  instance_id: string
  contact_id: string
  conversation_id: string
}

async function openConversations(admin: postgres.Sql): Promise<Map<string, OpenConversation>> {
  const rows = await admin<(OpenConversation & { chat: string })[]>`
    select organization_id, instance_id, contact_id, id as conversation_id, whatsapp_chat_id as chat
    from public.conversations
    where is_open`
  return new Map(
    rows.map(({ chat, ...conversation }) => [`${conversation.instance_id} ${chat}`, conversation]),
  )
}

function batchOf(
  channel: Channel,
  customers: Customer[],
  conversations: ReadonlyMap<string, OpenConversation>,
): Batch {
  const parts = parse(deliveryOf(channel, customers), new Date())
  const rows = parts.flatMap(({ events }) => events).map((event) => {
    if (event.kind !== 'message') throw new Error(`The parser made a ${event.kind} of a message.`)
    const conversation = conversations.get(`${channel.instanceId} ${event.whatsapp_chat_id}`)
    if (conversation === undefined) throw new Error('A customer has no open conversation.')
    const { content, whatsapp_message_id, sent_at } = event
    return { ...conversation, content, whatsapp_message_id, sent_at }
  })
  return { appKey: channel.appKey, parts: JSON.stringify(parts), rows: JSON.stringify(rows) }
}

async function messagesIn(admin: postgres.Sql): Promise<number> {
  const [row] = await admin<{ messages: number }[]>`select count(*)::int as messages from public.messages`
  return row?.messages ?? NaN
}

/** Bare: the tables keep their keys, checks and indexes, and do nothing else. */
async function withoutTriggers<T>(admin: postgres.Sql, work: () => Promise<T>): Promise<T> {
  await admin`alter table public.messages disable trigger user`
  try {
    return await work()
  } finally {
    await admin`alter table public.messages enable trigger user`
  }
}

// Tenants -----------------------------------------------------------------------------------------------------------

/** Signs up an owner who makes the organizations and connects a number with an app of its own in each. */
async function connectTenants({ urls, keys }: Stack): Promise<Channel[]> {
  const call = async <Schema extends z.ZodType>(
    schema: Schema,
    url: string,
    body: object,
    bearer?: string,
  ) => {
    const response = await fetch(url, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        apikey: keys.publishable,
        ...(bearer === undefined ? {} : { authorization: `Bearer ${bearer}` }),
      },
      body: JSON.stringify(body),
    })
    if (!response.ok) throw new Error(`${url} answered ${response.status}: ${await response.text()}`)
    return schema.parse(await response.json())
  }

  const { access_token } = await call(z.object({ access_token: z.string() }), `${urls.auth}/signup`, {
    email: 'bench@example.com',
    password: randomBytes(16).toString('hex'),
  })
  const channels: Channel[] = []
  for (let tenant = 0; tenant < TENANTS; tenant++) {
    const { id: organizationId } = await call(
      z.object({ id: z.guid() }),
      `${urls.rest}/rpc/create_organization`,
      { name: `Clínica ${tenant + 1}`, vertical: 'clinic' },
      access_token,
    )
    const externalId = `10987654321${String(tenant).padStart(4, '0')}`
    const appSecret = randomBytes(16).toString('hex')
    const { instance, app_key } = await call(
      z.object({ instance: z.object({ id: z.guid() }), app_key: z.string() }),
      `${urls.functions}/manage-instance`,
      {
        organization_id: organizationId,
        provider: 'meta_cloud',
        name: 'Recepção',
        phone_number: `+551194000${1000 + tenant}`,
        external_id: externalId,
        access_token: 'an access token',
        meta_app: { app_secret: appSecret, verify_token: 'a verify token' },
      },
      access_token,
    )
    channels.push({ organizationId, instanceId: instance.id, externalId, appKey: app_key, appSecret })
  }
  return channels
}

await main().catch((error: unknown) => {
  if (!interrupted.signal.aborted) throw error
  console.log('Interrupted.')
  process.exitCode = 130
})
