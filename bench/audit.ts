// npm run bench -- audit: what it costs to write down who changed what, and whether sealing holds up who writes. On a fresh
// stack of its own, over direct connections that carry a member's claims and headers as PostgREST does; `--quick` takes a
// minute or so.
//
// Each figure stands beside its like, measured in turn in the same run. Read the ratios. Nothing is asserted about time.

import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { cpus, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import postgres from 'postgres'
import { startStack } from '../local/stack.ts'
import { addHouses, type House } from './booking/data.ts'
import { median, percentile, short, table } from './figures.ts'

const RESULTS = fileURLToPath(new URL('results/', import.meta.url))
const WRITERS = 16

const isQuick = process.argv.includes('--quick')
// Short rounds and many of them: what else the machine does changes within seconds.
const size = isQuick ? { rounds: 6, seconds: 2, updates: 100 } : { rounds: 24, seconds: 2, updates: 100 }

const interrupted = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => interrupted.abort())

interface Bench {
  admin: postgres.Sql
  sealer: postgres.Sql
  writers: postgres.Sql[]
  house: House
  /** Of the house; each writer has one to himself. */
  bookings: string[]
  conversation: string
}

interface Rate {
  perSecond: number
  p50: number
  p95: number
}

/** How the log is kept while it is measured. */
type Mode = 'not audited' | 'audited' | 'audited, sealed every second' | 'audited, chained by the writers'

async function main(): Promise<void> {
  const dataDir = await mkdtemp(join(tmpdir(), 'balcao-bench-'))
  const undo: (() => unknown)[] = [() => rm(dataDir, { recursive: true, force: true })]
  try {
    // Without the clock: nothing is sealed but when it is told to.
    const stack = await startStack({ dataDir, apiPort: 0, dbPort: 0, ticker: false, signal: interrupted.signal })
    undo.push(() => stack.stop())
    const connect = () => {
      const sql = postgres(stack.urls.admin, { max: 1, onnotice: () => undefined })
      undo.push(() => sql.end({ timeout: 1 }))
      return sql
    }
    const admin = connect()
    await measure(await prepared(admin, connect))
  } finally {
    for (const step of undo.toReversed()) await step()
  }
}

async function prepared(admin: postgres.Sql, connect: () => postgres.Sql): Promise<Bench> {
  const [house] = await addHouses(admin, 1)
  if (house === undefined) throw new Error('No organization was made.')
  const bookings = await admin<{ id: string }[]>`
    select b.id from public.bookings b where b.organization_id = ${house.organizationId} order by b.id limit ${WRITERS}`
  const [instance] = await admin<{ id: string }[]>`
    insert into public.whatsapp_instances (organization_id, provider, name, external_id)
    values (${house.organizationId}, 'evolution', 'Recepção', 'bench') returning id`
  const [conversation] = await admin<{ id: string }[]>`
    insert into public.conversations (organization_id, contact_id, instance_id, whatsapp_chat_id)
    select c.organization_id, c.id, ${instance?.id ?? null}, 'bench'
    from public.contacts c where c.organization_id = ${house.organizationId} limit 1
    returning id`
  // What a chain in the writers' own transactions would be: each takes the one before it, and keeps it until it commits.
  await admin.unsafe(`
    create schema bench;
    create table bench.chains (organization_id uuid primary key, hash bytea not null default '');
    insert into bench.chains (organization_id) values ('${house.organizationId}');
    create function bench.tg_chain() returns trigger language plpgsql security definer set search_path = '' as $$
    begin
      update bench.chains c set hash = sha256(c.hash || private.audit_row_hash(new)) where c.organization_id = new.organization_id;
      return null;
    end;
    $$;
    create trigger audit_logs_950_chain after insert on public.audit_logs for each row execute function bench.tg_chain();
    alter table public.audit_logs disable trigger audit_logs_950_chain;`)
  await admin`vacuum (analyze)`
  const writers = Array.from({ length: WRITERS }, connect)
  for (const writer of writers) {
    const claims = JSON.stringify({ sub: house.userId, role: 'authenticated' })
    const headers = JSON.stringify({
      'cf-connecting-ip': '203.0.113.7',
      'user-agent': 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36',
      'x-request-id': '5f0f7a0e-8f3c-4f7e-9d26-6f8b8f0f3f57',
      accept: '*/*',
      apikey: 'sb_publishable_0123456789abcdef0123456789abcdef',
    })
    await writer`select set_config('request.jwt.claims', ${claims}, false), set_config('request.headers', ${headers}, false)`
  }
  if (conversation === undefined) throw new Error('No conversation was made.')
  return { admin, sealer: connect(), writers, house, bookings: bookings.map(({ id }) => id), conversation: conversation.id }
}

async function enter({ admin }: Bench, mode: Mode): Promise<void> {
  await admin.unsafe(`
    alter table public.bookings ${mode === 'not audited' ? 'disable' : 'enable'} trigger bookings_950_audit;
    alter table public.conversations ${mode === 'not audited' ? 'disable' : 'enable'} trigger conversations_950_audit;
    alter table public.audit_logs ${mode === 'audited, chained by the writers' ? 'enable' : 'disable'} trigger audit_logs_950_chain;`)
}

// -------------------------------------------------------------------------------------------------------------------------

let changes = 0
const change = async ({ house, bookings }: Bench, sql: postgres.Sql, n: number): Promise<void> => {
  await sql`
    update public.bookings set notes = ${`Jejum de ${changes++} horas`}
    where organization_id = ${house.organizationId} and id = ${bookings[n] ?? null}`
}

/** Sixteen people of one tenant, each at a booking of his own, as fast as they are answered. */
async function rate(bench: Bench, mode: Mode): Promise<Rate & { sealed: number }> {
  await enter(bench, mode)
  const { admin, sealer, writers } = bench
  const over = new AbortController()
  let sealed = 0
  const sealing = mode !== 'audited, sealed every second' ? Promise.resolve() : (async () => {
    while (!over.signal.aborted) {
      const [row] = await sealer<{ sealed: string }[]>`select private.seal_audit_logs() as sealed`
      sealed += Number(row?.sealed)
      await sleep(1_000, undefined, { signal: over.signal }).catch(() => undefined)
    }
  })()
  const latencies: number[] = []
  const started = performance.now()
  await Promise.all(writers.map(async (writer, n) => {
    while (performance.now() < started + size.seconds * 1_000) {
      interrupted.signal.throwIfAborted()
      const sent = performance.now()
      await change(bench, writer, n)
      latencies.push(performance.now() - sent)
    }
  }))
  const seconds = (performance.now() - started) / 1_000
  over.abort()
  await sealing
  // The next round does not pay for this one.
  await admin`select private.seal_audit_logs()`
  await admin`vacuum public.bookings`
  return { perSecond: latencies.length / seconds, p50: percentile(latencies, 50), p95: percentile(latencies, 95), sealed }
}

/** Milliseconds of one statement with its commit, over one connection. */
async function times(bench: Bench, mode: Mode, statement: (sql: postgres.Sql) => Promise<unknown>): Promise<number[]> {
  await enter(bench, mode)
  const [writer] = bench.writers
  if (writer === undefined) throw new Error('Nobody writes.')
  const took: number[] = []
  for (let n = 0; n < size.updates; n++) {
    interrupted.signal.throwIfAborted()
    const sent = performance.now()
    await statement(writer)
    took.push(performance.now() - sent)
  }
  return took
}

async function measure(bench: Bench): Promise<void> {
  const { admin, house, conversation } = bench
  const [version] = await admin<{ server_version: string }[]>`show server_version`
  const machine = {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    load: loadavg()[0] ?? NaN,
    node: process.version,
    postgres: version?.server_version ?? 'unknown',
  }
  console.log(
    `${machine.cores} × ${machine.cpu}, load ${short(machine.load)}, Node ${machine.node}, Postgres ${machine.postgres}`,
  )
  if (machine.load > machine.cores / 2) console.log('The machine is busy: read the ratios, not the milliseconds.')
  console.log()

  const modes: Mode[] = ['not audited', 'audited', 'audited, sealed every second', 'audited, chained by the writers']
  const rates = new Map<Mode, Awaited<ReturnType<typeof rate>>[]>(modes.map((mode) => [mode, []]))
  for (let round = -1; round < size.rounds; round++) {
    // Whoever is first is another one each time: what else the machine does meets all of them.
    for (let n = 0; n < modes.length; n++) {
      const mode = modes[(n + round + 1) % modes.length]
      if (mode === undefined) continue
      const measured = await rate(bench, mode)
      if (round >= 0) rates.get(mode)?.push(measured)
    }
  }
  const of = (mode: Mode) => rates.get(mode) ?? []
  const middle = (mode: Mode, key: keyof Rate) => median(of(mode).map((round) => round[key]))
  const ratio = (mode: Mode, other: Mode) =>
    median(of(mode).map(({ perSecond }, round) => perSecond / (of(other)[round]?.perSecond ?? NaN)))
  console.log(table([
    [`${WRITERS} writers of one tenant, a booking each`, 'updates/s', 'p50 ms', 'p95 ms', 'of audited'],
    ...modes.map((mode) => [
      mode,
      ...(['perSecond', 'p50', 'p95'] as const).map((key) => short(middle(mode, key))),
      short(ratio(mode, 'audited')),
    ]),
  ]))
  console.log(`${of('audited, sealed every second').reduce((sum, { sealed }) => sum + sealed, 0).toLocaleString('en')} rows were sealed meanwhile.\n`)

  const statements = {
    'a booking\'s note': (sql: postgres.Sql) => change(bench, sql, 0),
    'a conversation, as a message does: nothing to tell': (sql: postgres.Sql) => sql`
      update public.conversations set last_message_at = now(), unread_count = unread_count + 1
      where organization_id = ${house.organizationId} and id = ${conversation}`,
  }
  const single: { name: string; notAudited: number; audited: number; difference: number }[] = []
  for (const [name, statement] of Object.entries(statements)) {
    const rounds: { notAudited: number; audited: number }[] = []
    for (let round = -1; round < size.rounds; round++) {
      const notAudited = median(await times(bench, 'not audited', statement))
      const audited = median(await times(bench, 'audited', statement))
      if (round >= 0) rounds.push({ notAudited, audited })
    }
    single.push({
      name,
      notAudited: median(rounds.map((round) => round.notAudited)),
      audited: median(rounds.map((round) => round.audited)),
      difference: median(rounds.map((round) => round.audited - round.notAudited)),
    })
  }
  console.log(table([
    ['One client, an UPDATE with its commit, p50 ms', 'not audited', 'audited', 'more', 'ratio'],
    ...single.map(({ name, notAudited, audited, difference }) => [
      name, ...[notAudited, audited, difference].map(short), short(audited / notAudited),
    ]),
  ]))
  console.log()

  await admin`select private.seal_audit_logs()`
  const verifying: number[] = []
  let verdict: unknown
  for (let n = 0; n < 3; n++) {
    const asked = performance.now()
    ;[verdict] = (await admin`select private.verify_audit_chain(${house.organizationId}) as verdict`).map((row) => row['verdict'])
    verifying.push(performance.now() - asked)
  }
  const sizes = await admin<{ name: string; bytes: number }[]>`
    select x.name, round(sum(pg_total_relation_size(i.inhrelid)) / (select count(*) from public.audit_logs))::float8 as bytes
    from (values ('audit_logs'), ('audit_log_values')) x (name)
    join pg_inherits i on i.inhparent = ('public.' || x.name)::regclass
    group by x.name order by x.name`
  const [rows] = await admin<{ count: number }[]>`select count(*)::int as count from public.audit_logs`
  console.log(
    `verify_audit_chain of ${(rows?.count ?? 0).toLocaleString('en')} rows: ${short(median(verifying))} ms. ` +
      `A change takes up ${sizes.map(({ name, bytes }) => `${Math.round(bytes)} bytes in ${name}`).join(', ')}, indexes included.`,
  )
  if (JSON.stringify(verdict).includes('"is_intact":false')) throw new Error(`The chain is broken: ${JSON.stringify(verdict)}`)

  const measuredAt = new Date().toISOString()
  const result = { measuredAt, quick: isQuick, machine, rates: Object.fromEntries(rates), single, verifying, rows, sizes }
  await mkdir(RESULTS, { recursive: true })
  const file = join(RESULTS, `audit-${measuredAt.replaceAll(':', '-')}.json`)
  await writeFile(file, `${JSON.stringify(result, null, 2)}\n`)
  console.log(`Load at the end ${short(loadavg()[0] ?? NaN)}. Written to ${file}`)
}

await main().catch((error: unknown) => {
  if (!interrupted.signal.aborted) throw error
  console.log('Interrupted.')
  process.exitCode = 130
})
