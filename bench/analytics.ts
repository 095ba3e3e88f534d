// npm run bench -- analytics: what the materialized views cost, and whom their refresh disturbs; what an owner waits for
// the dashboard. On a fresh stack of its own; `--quick` takes two minutes or so, with a tenth of the tenants.
//
// Each figure stands beside its like, measured in turn in the same run: with a tenth of the rows, or without a refresh
// going on. Read the ratios. Nothing is asserted about time.

import type { ChildProcess } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { cpus, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import postgres from 'postgres'
import { type Stack, startStack } from '../local/stack.ts'
import '../tests/support/websocket.ts'
import { aTenant, connectNumber } from '../tests/support/tenants.ts'
import { EACH, type House, withHouses } from './analytics/data.ts'
import { measurePage, type Page } from './analytics/dashboard.ts'
import { type Refresh, refreshing, refreshTimes } from './analytics/refresh.ts'
import { assign, startSenders } from './assign.ts'
import { Api, type Call, member, ratioOf, type Times } from './booking/api.ts'
import { hour } from './booking/contention.ts'
import { addClinic } from './booking/data.ts'
import { type Channel, type Customer, customersOf, deliveryOf, signed } from './deliveries.ts'
import { median, percentile, short, table } from './figures.ts'

const RESULTS = fileURLToPath(new URL('results/', import.meta.url))
const SENDERS = 20
/** Who sends webhooks. */
const TENANTS = 5

const isQuick = process.argv.includes('--quick')
const size = isQuick
  ? { houses: { few: 10, many: 100 }, refreshes: 2, rounds: 3, calls: 20, pages: 20, webhooks: 500 }
  : { houses: { few: 100, many: 1_000 }, refreshes: 2, rounds: 3, calls: 40, pages: 100, webhooks: 1_000 }

interface Bench {
  stack: Stack
  admin: postgres.Sql
  api: Api
  senders: ChildProcess
}

interface Figures {
  tenants: number
  bookings: number
  messages: number
  refreshes: Refresh[]
  calls: Times[]
  page: Page
}

const interrupted = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => interrupted.abort())

async function main(): Promise<void> {
  const dataDir = await mkdtemp(join(tmpdir(), 'balcao-bench-'))
  const undo: (() => unknown)[] = [() => rm(dataDir, { recursive: true, force: true })]
  try {
    // Without the clock: nothing is refreshed, and no alert looked for, while it is measured.
    const stack = await startStack({ dataDir, apiPort: 0, dbPort: 0, ticker: false, signal: interrupted.signal })
    undo.push(() => stack.stop())
    const admin = postgres(stack.urls.admin, { max: 1, onnotice: () => undefined })
    undo.push(() => admin.end({ timeout: 1 }))
    const senders = startSenders()
    undo.push(() => senders.kill())
    await measure({ stack, admin, api: new Api(stack, interrupted.signal), senders })
  } finally {
    for (const step of undo.toReversed()) await step()
  }
}

async function measure(bench: Bench): Promise<void> {
  const { admin, api } = bench
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

  const few = await withHouses(admin, [], size.houses.few, interrupted.signal)
  await api.watch(admin)
  const small = await measureHouses(bench, few)
  const many = await withHouses(admin, few, size.houses.many, interrupted.signal)
  const large = await measureHouses(bench, many)
  printRefreshes(small, large)
  printCalls(small, large)
  const sizes = await tableSizes(admin)
  const webhooks = await measureWebhooks(bench)
  const writes = await measureWrites(bench)

  const measuredAt = new Date().toISOString()
  const result = { measuredAt, quick: isQuick, machine, small, large, webhooks, writes, sizes }
  await mkdir(RESULTS, { recursive: true })
  const file = join(RESULTS, `analytics-${measuredAt.replaceAll(':', '-')}.json`)
  await writeFile(file, `${JSON.stringify(result, null, 2)}\n`)
  console.log(`Load at the end ${short(loadavg()[0] ?? NaN)}. Written to ${file}`)
}

async function measureHouses({ stack, admin, api }: Bench, houses: House[]): Promise<Figures> {
  const refreshes = await refreshTimes(stack, size.refreshes, interrupted.signal)
  await admin`vacuum (analyze)`
  await api.reconnect(admin)
  const some = (n: number): House => {
    const house = houses[n * 7_919 % houses.length]
    if (house === undefined) throw new Error('There are no tenants.')
    return house
  }
  const platform = (name: string) => ({
    name,
    ask: (): Call => ({ as: 'platform', path: `rpc/${name}`, body: {} }),
  })
  const calls = await api.compare([
    {
      name: 'get_organization_stats, as the owner',
      ask: (n) => ({
        as: member(some(n)),
        path: 'rpc/get_organization_stats',
        body: { organization_id: some(n).organizationId },
      }),
    },
    platform('system_health'),
    platform('check_alerts'),
  ], size.rounds, size.calls)
  const page = await measurePage(stack, api, some, { rounds: size.rounds, calls: size.calls, pages: size.pages })
  return {
    tenants: houses.length,
    bookings: houses.length * EACH.bookings,
    messages: houses.length * EACH.messages,
    refreshes,
    calls,
    page,
  }
}

// While views are refreshed -----------------------------------------------------------------------------------------------

interface Acks {
  perSecond: number
  p50: number
  p95: number
}

/** Signed deliveries of one message each, as fast as they are answered: alone, and in turn beside refreshes without end. */
async function measureWebhooks({ stack, admin, senders }: Bench) {
  const channels: Channel[] = []
  for (let n = 1; n <= TENANTS; n++) {
    const tenant = await aTenant(stack, `Clínica ${n}`)
    channels.push({ organizationId: tenant.organizationId, ...await connectNumber(tenant) })
  }
  const customers: Customer[] = customersOf(channels, 100)
  let next = 0
  const acks = async (count: number): Promise<Acks> => {
    const deliveries = Array.from({ length: count }, () => {
      const customer = customers[next++ % customers.length]
      if (customer === undefined) throw new Error('There are no customers.')
      return signed(customer.channel, deliveryOf(customer.channel, [customer]))
    })
    const assignment = { api: stack.urls.api, senders: SENDERS, deliveries }
    const { seconds, latencies, errors } = await assign(senders, assignment, interrupted.signal)
    if (Object.keys(errors).length > 0) throw new Error(`Deliveries were refused: ${JSON.stringify(errors)}`)
    return { perSecond: count / seconds, p50: percentile(latencies, 50), p95: percentile(latencies, 95) }
  }
  await acks(Math.max(customers.length, size.webhooks / 2))
  await admin`vacuum (analyze) public.messages`
  const quiet: Acks[] = []
  const beside: Acks[] = []
  for (let round = 0; round < size.rounds; round++) {
    quiet.push(await acks(size.webhooks))
    beside.push(await refreshing(stack, () => acks(size.webhooks)))
  }
  const middle = (rounds: Acks[]): Acks => ({
    perSecond: median(rounds.map(({ perSecond }) => perSecond)),
    p50: median(rounds.map(({ p50 }) => p50)),
    p95: median(rounds.map(({ p95 }) => p95)),
  })
  const figures = { quiet: middle(quiet), beside: middle(beside) }
  const ratio = median(beside.map(({ perSecond }, round) => perSecond / (quiet[round]?.perSecond ?? NaN)))
  const row = (name: string, { perSecond, p50, p95 }: Acks) => [name, ...[perSecond, p50, p95].map(short)]
  console.log(table([
    [`Webhooks, ${SENDERS} senders`, 'acks/s', 'p50 ms', 'p95 ms'],
    row('nothing else', figures.quiet),
    row('beside refreshes without end', figures.beside),
  ]))
  console.log(`Ratio ${short(ratio)}; no error.\n`)
  return { ratio, ...figures, rounds: { quiet, beside } }
}

async function measureWrites({ stack, admin, api }: Bench): Promise<Times[]> {
  const clinic = await addClinic(admin, 0)
  await admin`vacuum (analyze) public.bookings`
  let booked = 0
  const create = (): Call => {
    const n = booked++
    return {
      as: member(clinic),
      path: 'rpc/create_booking',
      body: {
        contact_id: clinic.contacts[n % clinic.contacts.length],
        service_id: clinic.consultation,
        professional_id: clinic.professionals[n % clinic.professionals.length],
        start_time: hour(clinic, Math.floor(n / clinic.professionals.length)),
        organization_id: clinic.organizationId,
      },
    }
  }
  const calendar = (n: number): Call => ({
    as: member(clinic),
    path: `bookings?select=*&organization_id=eq.${clinic.organizationId}&start_time=gte.${hour(clinic, n % 20 * 9).toISOString()}` +
      '&order=start_time.asc&limit=20',
  })
  const during = <T>(work: () => Promise<T>): Promise<T> => refreshing(stack, work)
  const times = await api.compare([
    { name: 'create_booking', ask: create },
    { name: 'create_booking, beside refreshes without end', ask: create, during },
    { name: '20 bookings of a calendar', ask: calendar },
    { name: '20 bookings of a calendar, beside refreshes without end', ask: calendar, during },
  ], size.rounds, size.calls)
  print('While views are refreshed', times)
  const [alone, beside] = times
  if (alone !== undefined && beside !== undefined) {
    console.log(`Beside a refresh create_booking takes ${short(ratioOf(beside, alone))} × as long.\n`)
  }
  return times
}

// -------------------------------------------------------------------------------------------------------------------------

interface TableSize {
  table: string
  rows: number
  bytes_per_row: number
  of_it_indexes: number
}

/** What a row takes up, its indexes included. */
async function tableSizes(admin: postgres.Sql): Promise<TableSize[]> {
  const sizes = await admin<TableSize[]>`
    select c.relname as table, c.reltuples::float8 as rows,
      round(pg_total_relation_size(c.oid) / c.reltuples)::float8 as bytes_per_row,
      round(pg_indexes_size(c.oid) / c.reltuples)::float8 as of_it_indexes
    from pg_class c
    where c.relnamespace in ('public'::regnamespace, 'analytics'::regnamespace) and c.relkind in ('r', 'm')
      and c.reltuples > 10000
    order by pg_total_relation_size(c.oid) desc`
  console.log(table([
    ['Bytes a row', 'rows', 'bytes', 'of it indexes'],
    ...sizes.map(({ table, rows, bytes_per_row, of_it_indexes }) => [
      table,
      ...[rows, bytes_per_row, of_it_indexes].map((number) => Math.round(number).toLocaleString('en')),
    ]),
  ]))
  console.log()
  return [...sizes]
}

function printRefreshes(small: Figures, large: Figures): void {
  const title = ({ bookings, messages, tenants }: Figures) =>
    `${bookings.toLocaleString('en')} bookings, ${messages.toLocaleString('en')} messages, ${tenants} tenants`
  console.log(table([
    [`Refresh, ms: ${title(large)}`, 'rows', 'first', 'again', 'events wait', 'vacuum waits', 'a tenth', 'growth'],
    ...large.refreshes.map(({ view, rows, first, again, eventsWait, vacuumWaits }, index) => {
      const before = small.refreshes[index]?.again ?? NaN
      return [
        view,
        Math.round(rows).toLocaleString('en'),
        ...[first, again, eventsWait, vacuumWaits, before].map(short),
        `${short(again / before)} ×`,
      ]
    }),
  ]))
  console.log()
}

function printCalls(small: Figures, large: Figures): void {
  const all = ({ calls, page }: Figures) => [...calls, ...page.queries]
  console.log(table([
    ['ms in Postgres', 'p50', 'p95', 'a tenth: p50', 'p95', 'growth p50'],
    ...all(large).map(({ name, p50, p95 }, index) => {
      const before = all(small)[index]
      return [name, ...[p50, p95, before?.p50 ?? NaN, before?.p95 ?? NaN].map(short), `${short(p50 / (before?.p50 ?? NaN))} ×`]
    }),
  ]))
  console.log()
  const row = (name: string, { p50, p95, max }: Page['load']) => [name, ...[p50, p95, max].map(short)]
  console.log(table([
    ['The dashboard of an owner, all that it asks at once over HTTP, ms', 'p50', 'p95', 'max'],
    row(`${large.tenants} tenants`, large.page.load),
    row(`${small.tenants} tenants`, small.page.load),
  ]))
  console.log()
}

function print(title: string, times: Times[]): void {
  console.log(table([
    [`${title} (ms in Postgres)`, 'calls', 'p50', 'p95'],
    ...times.map(({ name, calls, p50, p95 }) => [name, String(calls), short(p50), short(p95)]),
  ]))
  console.log()
}

await main().catch((error: unknown) => {
  if (!interrupted.signal.aborted) throw error
  console.log('Interrupted.')
  process.exitCode = 130
})
