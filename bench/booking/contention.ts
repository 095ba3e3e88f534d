// Many want the same few slots: through create_booking() and, in turn, by INSERT alone into the bare copy of the table. And what create_booking() gives when everybody wants something else.

import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import postgres from 'postgres'
import { z } from 'zod'
import type { Stack } from '../../local/stack.ts'
import { median, percentile } from '../figures.ts'
import { headersOf } from './api.ts'
import type { Outcome, Wishes } from './clients.ts'
import type { Clinic } from './data.ts'

const PROFESSIONALS = 3
const SLOTS = 20
/** Hours in which a booking of half an hour and its buffer can begin and none is in the way of the next. */
const HOURS = [8, 9, 10, 11, 13, 14, 15, 16, 17]
const HOUR_MS = 3_600_000

interface Wish {
  organizationId: string
  contact: string
  service: string
  professional: string
  start: Date
}

/** The n-th hour in which the clinic works. */
export function hour({ from }: Clinic, n: number): Date {
  const day = Math.floor(n / HOURS.length)
  const days = Math.floor(day / 5) * 7 + day % 5
  return new Date(from.getTime() + (days * 24 + (HOURS[n % HOURS.length] ?? 0)) * HOUR_MS)
}

function wishesOf(clinic: Clinic): Wish[] {
  return clinic.professionals.slice(0, PROFESSIONALS).flatMap((professional, place) =>
    Array.from({ length: SLOTS }, (_, n) => ({
      organizationId: clinic.organizationId,
      contact: clinic.contacts[place * SLOTS + n] ?? '',
      service: clinic.consultation,
      professional,
      start: hour(clinic, n),
    }))
  )
}

export interface Rates {
  name: string
  attempts: number
  booked: number
  refused: number
  deadlocks: number
  /** 5xx or no answer; over a direct connection, whatever else went wrong. */
  failed: number
  p50: number
  p95: number
}

interface Round {
  seconds: number
  booked: number
  refused: number
  deadlocks: number
  failed: number
  latencies: number[]
}

function rates(name: string, rounds: Round[]): Rates {
  const perSecond = (count: (round: Round) => number) => median(rounds.map((round) => count(round) / round.seconds))
  const total = (count: (round: Round) => number) => rounds.reduce((sum, round) => sum + count(round), 0)
  const latencies = rounds.flatMap((round) => round.latencies)
  return {
    name,
    attempts: perSecond(({ latencies }) => latencies.length),
    booked: perSecond(({ booked }) => booked),
    refused: perSecond(({ refused }) => refused),
    deadlocks: total(({ deadlocks }) => deadlocks),
    failed: total(({ failed }) => failed),
    p50: percentile(latencies, 50),
    p95: percentile(latencies, 95),
  }
}

// In SQL ------------------------------------------------------------------------------------------------------------

interface Way {
  name: string
  book: (sql: postgres.Sql, wish: Wish) => Promise<string>
  cancel: (sql: postgres.Sql, organizationId: string, id: string) => Promise<unknown>
}

const insert = (sql: postgres.ISql, table: string, { organizationId, contact, service, professional, start }: Wish) =>
  sql<{ id: string }[]>`
    insert into ${sql(table)} (
      organization_id, contact_id, service_id, professional_id, start_time, end_time, blocked_until, booking_date,
      status, created_by, price_cents)
    values (
      ${organizationId}, ${contact}, ${service}, ${professional}, ${start}, ${start}::timestamptz + interval '30 minutes',
      ${start}::timestamptz + interval '35 minutes', (${start}::timestamptz at time zone 'America/Sao_Paulo')::date,
      'scheduled', 'system', 20000)
    returning id`

const createBooking = (sql: postgres.Sql, { organizationId, contact, service, professional, start }: Wish) =>
  sql<{ id: string }[]>`
    select id
    from public.create_booking(
      contact_id => ${contact}, service_id => ${service}, start_time => ${start}, professional_id => ${professional},
      organization_id => ${organizationId})`

const inCopy = (sql: postgres.Sql, organizationId: string, id: string) =>
  sql`
    update public.bench_bookings set status = 'cancelled', cancelled_at = now()
    where organization_id = ${organizationId} and id = ${id}`

const idOf = ([row]: { id: string }[]): string => row?.id ?? ''

const WAYS: Way[] = [
  {
    name: 'create_booking, cancel_booking',
    book: async (sql, wish) => idOf(await createBooking(sql, wish)),
    cancel: (sql, organizationId, id) =>
      sql`select from public.cancel_booking(id => ${id}, organization_id => ${organizationId})`,
  },
  {
    name: 'INSERT, EXCLUDE alone',
    book: async (sql, wish) => idOf(await insert(sql, 'public.bench_bookings', wish)),
    cancel: inCopy,
  },
  {
    name: 'the same after a lock on the professional',
    book: (sql, wish) =>
      sql.begin(async (sql) => {
        await sql`
          select from public.professionals
          where organization_id = ${wish.organizationId} and id = ${wish.professional} for no key update`
        return idOf(await insert(sql, 'public.bench_bookings', wish))
      }),
    cancel: inCopy,
  },
]

/** Each client tries again and again, and gives back what it got after its next try. */
async function contend(connections: postgres.Sql[], way: Way, wishes: Wish[], seconds: number, stop: AbortSignal): Promise<Round> {
  const round: Round = { seconds: 0, booked: 0, refused: 0, deadlocks: 0, failed: 0, latencies: [] }
  const started = performance.now()
  const ends = started + seconds * 1000
  await Promise.all(connections.map(async (sql) => {
    let [mine, before]: [string | null, string | null] = [null, null]
    const giveBack = async (id: string): Promise<void> => {
      await way.cancel(sql, wishes[0]?.organizationId ?? '', id)
    }
    while (performance.now() < ends) {
      stop.throwIfAborted()
      if (before !== null) await giveBack(before)
      before = mine
      mine = null
      const wish = wishes[Math.floor(Math.random() * wishes.length)]
      if (wish === undefined) throw new Error('There are no slots.')
      const tried = performance.now()
      try {
        mine = await way.book(sql, wish)
        round.booked++
      } catch (error) {
        if (!(error instanceof postgres.PostgresError)) throw error
        if (error.code === 'BL501' || error.code === '23P01') round.refused++
        else if (error.code === '40P01') round.deadlocks++
        else round.failed++
      }
      round.latencies.push(performance.now() - tried)
    }
    for (const id of [before, mine]) if (id !== null) await giveBack(id)
  }))
  round.seconds = (performance.now() - started) / 1000
  return round
}

export async function measureContention(
  stack: Stack,
  admin: postgres.Sql,
  clinic: Clinic,
  { clients, seconds, rounds, stop }: { clients: number; seconds: number; rounds: number; stop: AbortSignal },
): Promise<Rates[]> {
  const wishes = wishesOf(clinic)
  const connections = Array.from({ length: clients }, () =>
    postgres(stack.urls.database, { max: 1, connection: { role: 'service_role' }, onnotice: () => undefined }))
  try {
    const measured = WAYS.map((way) => ({ way, rounds: [] as Round[] }))
    for (let round = -1; round < rounds; round++) {
      for (const { way, rounds } of measured) {
        const result = await contend(connections, way, wishes, round < 0 ? seconds / 4 : seconds, stop)
        await admin`vacuum (analyze) public.bookings, public.bench_bookings`
        if (round >= 0) rounds.push(result)
      }
    }
    return measured.map(({ way, rounds }) => rates(way.name, rounds))
  } finally {
    await Promise.all(connections.map((sql) => sql.end({ timeout: 1 })))
  }
}

// Over HTTP ---------------------------------------------------------------------------------------------------------

const outcomeSchema = z.object({
  seconds: z.number(),
  booked: z.number(),
  refused: z.number(),
  latencies: z.array(z.number()),
  errors: z.record(z.string(), z.number()),
}) satisfies z.ZodType<Outcome>

async function assign(child: ChildProcess, wishes: Wishes, stop: AbortSignal): Promise<Outcome> {
  const ended = new AbortController()
  const signal = AbortSignal.any([ended.signal, stop])
  try {
    const answer = once(child, 'message', { signal })
    const death = once(child, 'exit', { signal }).then(() => {
      throw new Error('The clients died.')
    })
    child.send(wishes)
    const [outcome] = await Promise.race([answer, death])
    return outcomeSchema.parse(outcome)
  } finally {
    ended.abort()
  }
}

export async function measureHttpContention(
  stack: Stack,
  admin: postgres.Sql,
  clinic: Clinic,
  { clients, seconds, rounds, stop }: { clients: number[]; seconds: number; rounds: number; stop: AbortSignal },
): Promise<(Rates & { errors: Record<string, number> })[]> {
  const child = fork(fileURLToPath(new URL('clients.ts', import.meta.url)), { serialization: 'advanced' })
  try {
    const deadlocks = async (): Promise<number> => {
      const [row] = await admin<{ deadlocks: number }[]>`
        select deadlocks::int from pg_stat_database where datname = current_database()`
      return row?.deadlocks ?? NaN
    }
    const wishes = wishesOf(clinic).map(({ contact, service, professional, start }) => ({
      contact_id: contact,
      service_id: service,
      professional_id: professional,
      start_time: start.toISOString(),
    }))
    const results = []
    for (const number of clients) {
      const measured: Round[] = []
      const errors: Record<string, number> = {}
      for (let round = -1; round < rounds; round++) {
        stop.throwIfAborted()
        const before = await deadlocks()
        const outcome = await assign(child, {
          rest: stack.urls.rest,
          headers: headersOf(stack, { userId: clinic.userId }),
          clients: number,
          seconds: round < 0 ? seconds / 4 : seconds,
          wishes,
        }, stop)
        await admin`vacuum (analyze) public.bookings`
        for (const [key, count] of Object.entries(outcome.errors)) errors[key] = (errors[key] ?? 0) + count
        const failed = Object.entries(outcome.errors).reduce(
          (sum, [key, count]) => sum + (/^(5|0)/.test(key) ? count : 0), 0)
        if (round >= 0) measured.push({ ...outcome, failed, deadlocks: (await deadlocks()) - before })
      }
      results.push({ ...rates(`${number} clients, PostgREST`, measured), errors })
    }
    return results
  } finally {
    child.kill()
  }
}

// Everybody something else --------------------------------------------------------------------------------------------

export interface Uncontended {
  connections: number
  createBooking: number
  insert: number
  /** create_booking's in relation to the bare INSERT's, round by round. */
  ratio: number
}

/** Each connection fills the agenda of a professional of its own. */
export async function measureUncontended(
  stack: Stack,
  clinic: Clinic,
  { connections: number, bookings, rounds, stop }: { connections: number; bookings: number; rounds: number; stop: AbortSignal },
): Promise<Uncontended> {
  const pool = Array.from({ length: number }, () =>
    postgres(stack.urls.database, { max: 1, connection: { role: 'service_role' }, onnotice: () => undefined }))
  let next = 0
  const fill = async (book: (sql: postgres.Sql, wish: Wish) => Promise<unknown>, count: number): Promise<number> => {
    const first = next
    next += count
    const started = performance.now()
    await Promise.all(pool.map(async (sql, place) => {
      for (let n = first; n < first + count; n++) {
        stop.throwIfAborted()
        await book(sql, {
          organizationId: clinic.organizationId,
          contact: clinic.contacts[n % clinic.contacts.length] ?? '',
          service: clinic.consultation,
          professional: clinic.professionals[place] ?? '',
          start: hour(clinic, n),
        })
      }
    }))
    return count * number / ((performance.now() - started) / 1000)
  }
  // The first calls of a connection make plans; that is not measured.
  const warm = async (book: (sql: postgres.Sql, wish: Wish) => Promise<unknown>): Promise<number> => {
    await fill(book, 12)
    return await fill(book, bookings)
  }
  try {
    const [created, inserted]: [number[], number[]] = [[], []]
    for (let round = 0; round < rounds; round++) {
      created.push(await warm((sql, wish) => createBooking(sql, wish)))
      inserted.push(await warm((sql, wish) => insert(sql, 'public.bench_bookings', wish)))
    }
    return {
      connections: number,
      createBooking: median(created),
      insert: median(inserted),
      ratio: median(created.map((perSecond, round) => perSecond / (inserted[round] ?? NaN))),
    }
  } finally {
    await Promise.all(pool.map((sql) => sql.end({ timeout: 1 })))
  }
}
