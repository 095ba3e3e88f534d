// npm run bench -- booking: what a free slot, a booking and a day's calendar cost, on a fresh stack of its own. `--quick`
// takes a minute and a half, with a tenth of the tenants.
//
// Times are the server's own, of the statements that PostgREST sends; each figure stands beside what it is a part of or
// competes with, in turn in the same run: read the ratios. Nothing is asserted about time.

import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { cpus, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import postgres from 'postgres'
import { z } from 'zod'
import { type Stack, startStack } from '../local/stack.ts'
import { Api, type Call, type Caller, differenceOf, member, type Question, ratioOf, type Times } from './booking/api.ts'
import {
  hour,
  measureContention,
  measureHttpContention,
  measureUncontended,
  type Rates,
  type Uncontended,
} from './booking/contention.ts'
import {
  addBareCopy,
  addClinic,
  addHouses,
  BOOKINGS_OF_EACH,
  BOOKINGS_OF_MONTH,
  type Clinic,
  type House,
  withoutIndexes,
} from './booking/data.ts'
import { short, table } from './figures.ts'

const RESULTS = fileURLToPath(new URL('results/', import.meta.url))
const HOUSES_AT_ONCE = 50

const isQuick = process.argv.includes('--quick')
const size = isQuick
  ? { houses: { few: 10, many: 100 }, rounds: 3, calls: 20, seconds: 2, bookings: 40 }
  : { houses: { few: 100, many: 1_000 }, rounds: 7, calls: 60, seconds: 6, bookings: 120 }

interface Bench {
  stack: Stack
  admin: postgres.Sql
  api: Api
}

const interrupted = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => interrupted.abort())

async function main(): Promise<void> {
  const dataDir = await mkdtemp(join(tmpdir(), 'balcao-bench-'))
  const undo: (() => unknown)[] = [() => rm(dataDir, { recursive: true, force: true })]
  try {
    // Without the clock: no hold expires, and nothing is swept, while it is measured.
    const stack = await startStack({ dataDir, apiPort: 0, dbPort: 0, ticker: false, signal: interrupted.signal })
    undo.push(() => stack.stop())
    const admin = postgres(stack.urls.admin, { max: 1, onnotice: () => undefined })
    undo.push(() => admin.end({ timeout: 1 }))
    await measure(stack, admin)
  } finally {
    for (const step of undo.toReversed()) await step()
  }
}

async function measure(stack: Stack, admin: postgres.Sql): Promise<void> {
  const [version] = await admin<{ server_version: string }[]>`show server_version`
  const machine = {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    load: loadavg()[0] ?? NaN,
    node: process.version,
    postgres: version?.server_version ?? 'unknown',
  }
  console.log(
    `${machine.cores} × ${machine.cpu}, load ${short(machine.load)}, Node ${machine.node}, Postgres ${machine.postgres}\n`,
  )
  const houses = await withHouses(admin, [], size.houses.few)
  await addBareCopy(admin)
  await nameForBench(admin)
  const bench: Bench = { stack, admin, api: new Api(stack, interrupted.signal) }
  const uncontended = await measureAgendasOfTheirOwn(bench)
  const contention = await measureTheSameSlots(bench)
  await bench.api.watch(admin)
  const slots = await measureSlots(bench)
  const writes = await measureWrites(bench)
  const few = await measureCalendar(bench, houses)
  const many = await measureCalendar(bench, await withHouses(admin, houses, size.houses.many))
  printGrowth(few, many)

  const measuredAt = new Date().toISOString()
  const result = {
    measuredAt,
    quick: isQuick,
    machine,
    slots,
    writes,
    calendar: { few, many },
    uncontended,
    contention,
  }
  await mkdir(RESULTS, { recursive: true })
  const file = join(RESULTS, `booking-${measuredAt.replaceAll(':', '-')}.json`)
  await writeFile(file, `${JSON.stringify(result, null, 2)}\n`)
  console.log(`Load at the end ${short(loadavg()[0] ?? NaN)}. Written to ${file}`)
}

/** As many as are asked for, with what autovacuum brings within a minute. */
async function withHouses(admin: postgres.Sql, houses: House[], count: number): Promise<House[]> {
  const all = [...houses]
  await withoutIndexes(admin, async () => {
    while (all.length < count) {
      interrupted.signal.throwIfAborted()
      all.push(...await addHouses(admin, Math.min(HOUSES_AT_ONCE, count - all.length)))
    }
  })
  await admin`vacuum (analyze)`
  return all
}

async function newClinic(admin: postgres.Sql, bookings: 0 | typeof BOOKINGS_OF_MONTH): Promise<Clinic> {
  const clinic = await addClinic(admin, bookings)
  await admin`vacuum (analyze)`
  return clinic
}

/** What ends in an error has no time in the log: a refusal is caught here, and what finds the alternatives gets a name. */
async function nameForBench(admin: postgres.Sql): Promise<void> {
  await admin.unsafe(`
    create function public.bench_refused(
      contact_id uuid, service_id uuid, start_time timestamptz, professional_id uuid, organization_id uuid)
    returns jsonb language plpgsql set search_path = '' as $$
    declare detail text;
    begin
      perform public.create_booking(
        contact_id => contact_id, service_id => service_id, start_time => start_time, professional_id => professional_id,
        organization_id => organization_id);
      return null;
    exception when sqlstate 'BL501' then
      get stacked diagnostics detail = pg_exception_detail;
      return detail;
    end $$;
    create function public.bench_nearest(
      service_id uuid, start_time timestamptz, professional_id uuid, organization_id uuid)
    returns jsonb language plpgsql stable security definer set search_path = '' as $$
    begin return private.nearest_slots(organization_id, service_id, start_time, professional_id, null); end $$;
    grant execute on function public.bench_refused, public.bench_nearest to service_role;
    notify pgrst, 'reload schema';`)
}

// Free slots ----------------------------------------------------------------------------------------------------------

async function measureSlots({ admin, api }: Bench): Promise<Times[]> {
  const full = await newClinic(admin, BOOKINGS_OF_MONTH)
  const empty = await newClinic(admin, 0)
  const taken = await admin<{ professional_id: string; start_time: Date }[]>`
    select professional_id, start_time from public.bookings
    where organization_id = ${full.organizationId} and extract(minute from start_time) in (0, 30)
    order by md5(id::text) limit 500`
  const slots = (clinic: Clinic, only: object): Call =>
    ({
      as: member(clinic),
      path: 'rpc/get_available_slots',
      body: {
        service_id: clinic.consultation,
        from_time: clinic.from,
        to_time: clinic.to,
        organization_id: clinic.organizationId,
        ...only,
      },
    })
  const professional = (n: number) => full.professionals[n % full.professionals.length]
  const refusal = (path: string, n: number, more: object): Call => {
    const { professional_id, start_time } = taken[n % taken.length] ?? {}
    const { organizationId: organization_id, consultation: service_id } = full
    return { as: 'platform', path, body: { service_id, start_time, professional_id, organization_id, ...more } }
  }
  const day = (n: number) => {
    const from = hour(full, n % 23 * 9).getTime() - 8 * 3_600_000
    return { from_time: new Date(from), to_time: new Date(from + 24 * 3_600_000) }
  }
  const rows = z.array(z.unknown())
  const [offered, offeredByOne, offeredWhenEmpty] = [
    rows.parse(await api.call(slots(full, {}))).length,
    rows.parse(await api.call(slots(full, { professional_id: professional(0) }))).length,
    rows.parse(await api.call(slots(empty, {}))).length,
  ]
  const alternatives = z.object({ reason: z.literal('taken'), alternatives: z.array(z.unknown()).min(1) })
  alternatives.parse(await api.call(refusal('rpc/bench_refused', 0, { contact_id: full.contacts[0] })))

  const times = await api.compare([
    { name: `a month, anybody: ${offered} slots`, ask: () => slots(full, {}) },
    {
      name: `a month, one professional: ${offeredByOne} slots`,
      ask: (n) => slots(full, { professional_id: professional(n) }),
    },
    { name: 'a day, anybody', ask: (n) => slots(full, day(n)) },
    { name: `a month without bookings, anybody: ${offeredWhenEmpty} slots`, ask: () => slots(empty, {}) },
    {
      name: 'a booking that is refused, with up to five alternatives',
      ask: (n) => refusal('rpc/bench_refused', n, { contact_id: full.contacts[n % full.contacts.length] }),
    },
    { name: 'of it the alternatives, one professional', ask: (n) => refusal('rpc/bench_nearest', n, {}) },
    { name: 'alternatives, anybody', ask: (n) => refusal('rpc/bench_nearest', n, { professional_id: null }) },
  ], size.rounds, size.calls)
  print('Free slots: 10 professionals, 10,000 bookings in the month', times)
  return times
}

// Writing one booking ---------------------------------------------------------------------------------------------------

const bookingId = z.object({ id: z.guid() })

async function measureWrites({ admin, api }: Bench): Promise<Times[]> {
  const clinic = await newClinic(admin, 0)
  const organization_id = clinic.organizationId
  let [booked, cancelled] = [0, 0]
  const wish = () => {
    const n = booked++
    return {
      contact_id: clinic.contacts[n % clinic.contacts.length],
      service_id: clinic.consultation,
      professional_id: clinic.professionals[n % clinic.professionals.length],
      start_time: hour(clinic, Math.floor(n / clinic.professionals.length)),
      organization_id,
    }
  }
  const insert = (): Call => {
    const { start_time, ...row } = wish()
    const after = (minutes: number) => new Date(start_time.getTime() + minutes * 60_000)
    const booking = {
      ...row,
      start_time,
      end_time: after(30),
      blocked_until: after(35),
      booking_date: start_time.toISOString().slice(0, 10),
      price_cents: 20_000,
    }
    return { as: 'platform', path: 'bench_bookings', body: booking }
  }
  const create = (as: Caller): Call => ({ as, path: 'rpc/create_booking', body: wish() })
  // What is there to be cancelled, and who waits for it.
  const bookings: string[] = []
  const again = (size.rounds + 1) * size.calls
  for (let n = 0; n < 2 * again; n++) bookings.push(bookingId.parse(await api.call(create('platform'))).id)
  const cancel = (): Call => ({
    as: member(clinic),
    path: 'rpc/cancel_booking',
    body: { id: bookings[cancelled++], organization_id },
  })
  const waiting = async <T>(work: () => Promise<T>): Promise<T> => {
    await admin`
      insert into public.waiting_list (organization_id, contact_id, service_id)
      select ${organization_id}, id, ${clinic.consultation}
      from public.contacts where organization_id = ${organization_id}
      on conflict do nothing`
    const answer = await work()
    const offers = await admin`
      delete from public.waiting_list where organization_id = ${organization_id} and status = 'offered' returning id`
    if (offers.length !== size.calls) throw new Error(`${offers.length} of ${size.calls} slots were offered.`)
    await admin`delete from public.waiting_list where organization_id = ${organization_id}`
    return answer
  }
  const times = await api.compare([
    { name: 'create_booking, as a member', ask: () => create(member(clinic)) },
    { name: 'create_booking, with the secret key', ask: () => create('platform') },
    { name: 'the same row by INSERT alone', ask: insert },
    { name: 'cancel_booking', ask: cancel },
    { name: 'cancel_booking, offered to the first of 500 who wait', ask: cancel, during: waiting },
  ], size.rounds, size.calls)
  print('One booking', times)
  const [, create_, insert_] = times
  if (create_ !== undefined && insert_ !== undefined) {
    console.log(`create_booking takes ${short(ratioOf(create_, insert_))} × as long as the INSERT.\n`)
  }
  return times
}

// A day's calendar ------------------------------------------------------------------------------------------------------

interface Calendar {
  bookings: number
  times: Times[]
  /** What row level security adds to a statement, milliseconds; in relation to the platform's. */
  security: Record<'plain' | 'embedded', { added: number; ratio: number }>
}

const EMBEDDED = '*,contact:contacts(name,phone_number),pet:pets(name),service:services(name),professional:professionals(name)'

async function measureCalendar({ admin, api }: Bench, houses: House[]): Promise<Calendar> {
  await api.reconnect(admin)
  const day = (n: number) => new Date(Date.now() + (n % 15 - 7) * 24 * 3_600_000).toISOString().slice(0, 10)
  const calendar = (select: string, isMember: boolean, hasFilter: boolean) => (n: number): Call => {
    // Any of them, the same for each question.
    const house = houses[n * 7_919 % houses.length]
    if (house === undefined) throw new Error('There are no tenants.')
    const filter = hasFilter ? `&organization_id=eq.${house.organizationId}` : ''
    return {
      as: isMember ? member(house) : 'platform',
      path: `bookings?select=${select}&booking_date=eq.${day(n)}${filter}&order=start_time.asc`,
    }
  }
  const ask = (n: number) => api.call(calendar(EMBEDDED, true, true)(n))
  z.array(z.object({ contact: z.object({ name: z.string() }) })).length(20).parse(await ask(0))
  const questions: Question[] = [
    { name: 'a member, the tenant named', ask: calendar('*', true, true) },
    { name: 'a member, row level security alone', ask: calendar('*', true, false) },
    { name: 'service_role, the tenant named', ask: calendar('*', false, true) },
    { name: 'embedded: a member, the tenant named', ask: calendar(EMBEDDED, true, true) },
    { name: 'embedded: a member, row level security alone', ask: calendar(EMBEDDED, true, false) },
    { name: 'embedded: service_role, the tenant named', ask: calendar(EMBEDDED, false, true) },
  ]
  const times = await api.compare(questions, size.rounds, size.calls)
  const bookings = houses.length * BOOKINGS_OF_EACH
  print(`A day of 20 bookings, of ${bookings.toLocaleString('en')} of ${houses.length} tenants`, times)
  const [plain, , plainService, embedded, , embeddedService] = times
  const cost = (asMember: Times | undefined, asService: Times | undefined) => {
    if (asMember === undefined || asService === undefined) throw new Error('A question was not asked.')
    return { added: differenceOf(asMember, asService), ratio: ratioOf(asMember, asService) }
  }
  const security = { plain: cost(plain, plainService), embedded: cost(embedded, embeddedService) }
  console.log(
    `Row level security adds ${short(security.plain.added)} ms, with what is embedded ${
      short(security.embedded.added)
    } ms (${short(security.embedded.ratio)} ×).\n`,
  )
  return { bookings, times, security }
}

function printGrowth(few: Calendar, many: Calendar): void {
  console.log(table([
    ['With ten times the rows', 'p50', 'p95'],
    ...many.times.map(({ name, p50, p95 }, index) => [
      name,
      ...[p50 / (few.times[index]?.p50 ?? NaN), p95 / (few.times[index]?.p95 ?? NaN)].map((ratio) => `${short(ratio)} ×`),
    ]),
  ]))
  console.log()
}

// Throughput --------------------------------------------------------------------------------------------------------------

async function measureAgendasOfTheirOwn({ stack, admin }: Bench): Promise<Uncontended[]> {
  const results: Uncontended[] = []
  for (const connections of [1, 8]) {
    const { bookings } = size
    results.push(
      await measureUncontended(stack, await newClinic(admin, 0), {
        connections,
        bookings,
        rounds: Math.min(size.rounds, 5),
        stop: interrupted.signal,
      }),
    )
  }
  console.log(table([
    ['Bookings/s, each its own professional', 'create_booking', 'INSERT alone', 'ratio'],
    ...results.map(({ connections, createBooking, insert, ratio }) => [
      `${connections} at a time`,
      ...[createBooking, insert, ratio].map(short),
    ]),
  ]))
  console.log()
  return results
}

async function measureTheSameSlots({ stack, admin }: Bench): Promise<Rates[]> {
  const options = { seconds: size.seconds, rounds: Math.min(size.rounds, 3), stop: interrupted.signal }
  const inSql = await measureContention(stack, admin, await newClinic(admin, 0), { clients: 32, ...options })
  const overHttp = await measureHttpContention(stack, admin, await newClinic(admin, 0), { clients: [32, 200], ...options })
  const all = [...inSql, ...overHttp]
  console.log(table([
    ['60 slots of 3 professionals', 'attempts/s', 'booked/s', 'refused/s', 'deadlocks', 'failed', 'p50 ms', 'p95 ms'],
    ...all.map(({ name, attempts, booked, refused, deadlocks, failed, p50, p95 }, index) => [
      index < inSql.length ? `32 clients, SQL: ${name}` : name,
      ...[attempts, booked, refused].map(short),
      String(deadlocks),
      String(failed),
      ...[p50, p95].map(short),
    ]),
  ]))
  for (const { name, errors } of overHttp) {
    if (Object.keys(errors).length > 0) console.log(`${name}: ${JSON.stringify(errors)}`)
  }
  const [ours, bare] = inSql
  console.log(
    `create_booking books ${short((ours?.booked ?? NaN) / (bare?.booked ?? NaN))} × as many as EXCLUDE alone.\n`,
  )
  return all
}

// -------------------------------------------------------------------------------------------------------------------------

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
