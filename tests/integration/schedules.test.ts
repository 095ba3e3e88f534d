// What happens by the clock: when it is due, once, not over itself, and for everybody to see afterwards.
//
// What a ticker does by itself is shown on the running stack; everything else on a stack without one, where nothing runs
// unless a test calls. BALCAO_TEST_SEED repeats the random expressions.

import { randomUUID } from 'node:crypto'
import { Cron } from 'croner'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { z } from 'zod'
import type { Stack } from '../../local/stack.ts'
import { seen } from '../support/conversations.ts'
import { startOwnStack } from '../support/own-stack.ts'
import { runningStack } from '../support/running-stack.ts'
import { seeded, testSeed } from '../support/seeded.ts'

const CRON_SECRET = `cron-${randomUUID()}`
/** Due once, and not again while a test runs. */
const YEARLY = '0 0 1 1 *'

const running = postgres(runningStack().urls.admin, { max: 1, onnotice: () => undefined })
let stack: Stack
let sql: postgres.Sql
beforeAll(async () => {
  stack = await startOwnStack({ ticker: false, functionsEnvironment: { BALCAO_CRON_SECRET: CRON_SECRET } })
  sql = postgres(stack.urls.admin, { max: 3, onnotice: () => undefined })
  // What comes with the migrations has never run here: none of that is of interest to a test.
  await sql`update private.schedules set is_active = false`
})
afterAll(async () => {
  await running.end({ timeout: 1 })
  await sql?.end({ timeout: 1 })
  await stack?.stop()
})

type Action = { command: string } | { function_name: string }

/** A schedule for one test. */
async function aSchedule(
  name: string,
  expression: string,
  action: Action,
  { at = sql, createdAgo = '2 years' }: { at?: postgres.Sql; createdAgo?: string } = {},
): Promise<string> {
  const unique = `${name}_${randomUUID().slice(0, 8)}`
  const row = { name: unique, description: 'A test', expression, ...action }
  await at`
    insert into private.schedules ${at(row)}`
  await at`update private.schedules set created_at = now() - ${createdAgo}::interval where name = ${unique}`
  onTestFinished(async () => void (await at`delete from private.schedules where name = ${unique}`))
  return unique
}

interface Run {
  driver: string
  scheduled_for: Date
  started_at: Date
  finished_at: Date | null
  duration_ms: number | null
  result: unknown
  error: string | null
}

async function runsOf(name: string, at = sql): Promise<Run[]> {
  return await at<Run[]>`
    select r.driver, r.scheduled_for, r.started_at, r.finished_at, r.duration_ms, r.result, r.error
    from private.schedule_runs r
    where r.name = ${name}
    order by r.started_at`
}

const outcome = z.object({ name: z.string(), duration_ms: z.int(), result: z.unknown().optional(), error: z.string().optional() })
const answer = z.object({
  ran: z.array(outcome),
  skipped: z.array(z.object({ name: z.string(), reason: z.string().nullable() })),
})

async function post(body: unknown = {}, headers: Record<string, string> = { apikey: stack.keys.secret }): Promise<Response> {
  return await fetch(`${stack.urls.functions}/cron-refresh`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body),
  })
}

async function cronRefresh(body: unknown = {}): Promise<z.infer<typeof answer>> {
  const response = await post(body)
  expect(response.status).toBe(200)
  return answer.parse(await response.json())
}

// By itself -----------------------------------------------------------------------------------------------------------

describe('on the running stack, with nobody calling', () => {
  test('the schedules of the migrations run when they are due', async () => {
    const before = new Date()
    const [run] = await seen(
      () => runsOf('delete_finished_jobs', running).then((runs) => runs.filter(({ started_at }) => started_at > before)),
      // It runs every minute.
      ({ length }) => length > 0,
    )
    expect(run).toMatchObject({ driver: 'cron-refresh', result: [{ deleted: expect.any(Number) }], error: null })
    expect(run?.scheduled_for.getTime()).toBeLessThanOrEqual(run?.started_at.getTime() ?? NaN)
    expect(Number(run?.scheduled_for) % 60_000).toBe(0)
  })

  test('a slow one neither runs over itself nor stops the others', async () => {
    const slow = await aSchedule('slow', '1 second', { command: 'select pg_sleep(3)' }, { at: running })
    const quick = await aSchedule('quick', '1 second', { command: 'select 1 as one' }, { at: running })
    const between = async () => {
      const slowRuns = await runsOf(slow, running)
      const quickRuns = await runsOf(quick, running)
      const meanwhile = quickRuns.filter((quick) => slowRuns.some((slow) => isWithin(quick, slow)))
      return { slowRuns, quickRuns, meanwhile }
    }
    // On a slow machine the first ones may just miss each other.
    const { slowRuns, quickRuns } = await seen(between, ({ slowRuns, meanwhile }) => slowRuns.length >= 3 && meanwhile.length > 0)
    for (const runs of [slowRuns, quickRuns]) expect(overlapping(runs)).toEqual([])
  })
})

function isWithin(inner: Run, outer: Run): boolean {
  return inner.finished_at !== null && outer.finished_at !== null &&
    inner.started_at > outer.started_at && inner.finished_at < outer.finished_at
}

function overlapping(runs: Run[]): Run[] {
  return runs.filter(({ started_at }, index) => {
    const previous = runs[index - 1]
    return previous !== undefined && (previous.finished_at === null || started_at < previous.finished_at)
  })
}

// One occurrence, one run ---------------------------------------------------------------------------------------------

test('of twenty who call at once, one runs what is due', async () => {
  const names = [
    await aSchedule('once', YEARLY, { command: 'select 1 as one' }),
    await aSchedule('once', YEARLY, { command: 'select pg_sleep(0.2)' }),
    await aSchedule('once', '59 seconds', { command: 'select 2 as two' }),
    await aSchedule('once', YEARLY, { function_name: 'queue-worker' }),
  ]
  const answers = await Promise.all(Array.from({ length: 20 }, () => cronRefresh()))
  const ran = answers.flatMap(({ ran }) => ran.map(({ name }) => name))
  expect(ran.sort()).toEqual(names.sort())
  for (const name of names) expect(await runsOf(name)).toHaveLength(1)
})

test('while one runs, another call skips it and runs the rest', async () => {
  const lock = Math.floor(Math.random() * 2 ** 40)
  const held = await sql.reserve()
  onTestFinished(() => held.release())
  await held`select pg_advisory_lock(${lock})`
  const slow = await aSchedule('slow', '1 second', { command: `select pg_advisory_xact_lock(${lock})` })
  const first = cronRefresh()
  await seen(
    () => sql`select from pg_catalog.pg_locks where locktype = 'advisory' and not granted and database = (select oid from pg_database where datname = current_database())`,
    ({ length }) => length > 0,
  )
  const other = await aSchedule('other', YEARLY, { command: 'select 1 as one' })
  for (const body of [{}, { name: slow }]) {
    const { ran, skipped } = await cronRefresh(body)
    expect(skipped).toEqual([{ name: slow, reason: 'already_running' }])
    expect(ran.map(({ name }) => name)).toEqual('name' in body ? [] : [other])
  }
  await held`select pg_advisory_unlock(${lock})`
  expect((await first).ran.map(({ name }) => name)).toEqual([slow])
  expect(await runsOf(slow)).toHaveLength(1)
})

test('one that fails says why, and the others run', async () => {
  const fails = await aSchedule('a_fails', YEARLY, { command: 'select 1 / 0 as nothing' })
  const cancelled = await aSchedule('b_cancelled', YEARLY, { command: 'select pg_sleep(600)' })
  const works = await aSchedule('c_works', YEARLY, { command: 'select 42 as answer' })
  const called = cronRefresh()
  // As an operator does who finds it in the way.
  await seen(
    () => sql`
      select pg_cancel_backend(asleep.pid)
      from (select a.pid from pg_catalog.pg_stat_activity a where a.wait_event = 'PgSleep' offset 0) asleep`,
    ({ length }) => length > 0,
  )
  const byName = Object.fromEntries((await called).ran.map(({ name, result, error }) => [name, error ?? result]))
  expect(byName).toEqual({
    [fails]: 'division by zero (22012)',
    [cancelled]: 'canceling statement due to user request (57014)',
    [works]: [{ answer: 42 }],
  })
  expect(await runsOf(fails)).toMatchObject([{ result: null, error: 'division by zero (22012)', finished_at: expect.any(Date) }])
  expect(await runsOf(cancelled)).toMatchObject([{ error: expect.stringContaining('57014'), finished_at: expect.any(Date) }])
  expect(await runsOf(works)).toMatchObject([{ driver: 'cron-refresh', result: [{ answer: 42 }], error: null }])
  // Its next time is its next time.
  expect(await cronRefresh()).toEqual({ ran: [], skipped: [] })
})

test('what was missed while nobody called is caught up, once', async () => {
  const hourly = await aSchedule('hourly', '0 * * * *', { command: 'select 1 as one' })
  const neverYet = await aSchedule('never_yet', '0 * * * *', { command: 'select 1 as one' }, { createdAgo: '5 hours' })
  await sql`
    update private.schedules
    set last_scheduled_for = date_trunc('hour', now()) - interval '5 hours', last_started_at = now() - interval '5 hours'
    where name = ${hourly}`
  const { ran } = await cronRefresh()
  expect(ran.map(({ name }) => name).sort()).toEqual([hourly, neverYet].sort())
  const thisHour = new Date(Math.floor(Date.now() / 3_600_000) * 3_600_000)
  for (const name of [hourly, neverYet]) {
    const [run, ...more] = await runsOf(name)
    expect(more).toEqual([])
    // Unless the clock has just struck.
    expect([thisHour, new Date(thisHour.getTime() - 3_600_000)]).toContainEqual(run?.scheduled_for)
  }
})

test('a new one waits for its time', async () => {
  const yearly = await aSchedule('yearly', YEARLY, { command: 'select 1' }, { createdAgo: '0 seconds' })
  expect(await cronRefresh()).toEqual({ ran: [], skipped: [] })
  expect(await runsOf(yearly)).toEqual([])
})

test('by name one runs at once, due or not', async () => {
  const yearly = await aSchedule('yearly', YEARLY, { command: 'select 7 as seven' }, { createdAgo: '0 seconds' })
  for (const _twice of [1, 2]) {
    expect(await cronRefresh({ name: yearly })).toMatchObject({ ran: [{ name: yearly, result: [{ seven: 7 }] }], skipped: [] })
  }
  expect(await runsOf(yearly)).toHaveLength(2)
  expect((await post({ name: 'nothing' })).status).toBe(404)
})

// Functions -----------------------------------------------------------------------------------------------------------

test('a function is called, and its answer or its failure is the run', async () => {
  const works = await aSchedule('works', YEARLY, { function_name: 'queue-worker' })
  const isMissing = await aSchedule('is_missing', YEARLY, { function_name: 'nothing-of-that-name' })
  const { ran } = await cronRefresh()
  expect(ran.map(({ name }) => name).sort()).toEqual([works, isMissing].sort())
  const summary = { claimed: 0, completed: 0, failed: 0, postponed: 0, lost: 0, drained: true, duration_ms: expect.any(Number) }
  expect(await runsOf(works)).toMatchObject([{ driver: 'cron-refresh', result: summary, error: null, finished_at: expect.any(Date) }])
  expect(await runsOf(isMissing)).toMatchObject([{ result: null, error: expect.stringMatching(/^http_404/), finished_at: expect.any(Date) }])
})

test('a function whose end nobody heard of holds up its next run for ten minutes', async () => {
  const lost = await aSchedule('lost', '1 second', { function_name: 'queue-worker' })
  await sql`insert into private.schedule_runs (name, driver, scheduled_for) values (${lost}, 'cron-refresh', now())`
  expect(await cronRefresh()).toEqual({ ran: [], skipped: [{ name: lost, reason: 'already_running' }] })
  await sql`update private.schedule_runs set started_at = now() - interval '10 minutes 1 second' where name = ${lost}`
  expect(await cronRefresh()).toMatchObject({ ran: [{ name: lost, result: { drained: true } }], skipped: [] })
})

// Callers -------------------------------------------------------------------------------------------------------------

test('only the platform and its cron may call', async () => {
  const schedule = await aSchedule('guarded', YEARLY, { command: 'select 1' })
  const strangers: Record<string, string>[] = [
    {},
    { apikey: stack.keys.publishable },
    { apikey: CRON_SECRET },
    { authorization: `Bearer ${stack.keys.anon}` },
    { 'x-cron-secret': '' },
    { 'x-cron-secret': `${CRON_SECRET}x` },
    { 'x-cron-secret': stack.keys.secret },
  ]
  for (const headers of strangers) {
    for (const body of [{}, { name: schedule }]) {
      const response = await post(body, headers)
      expect({ headers, status: response.status, body: await response.json() }).toMatchObject({
        status: 401,
        body: { error: { code: 'not_authenticated' } },
      })
    }
  }
  expect(await runsOf(schedule)).toEqual([])
  const welcome: Record<string, string>[] = [
    { 'x-cron-secret': CRON_SECRET },
    { apikey: stack.keys.secret },
    { authorization: `Bearer ${stack.keys.secret}` },
  ]
  for (const headers of welcome) expect((await post({ name: schedule }, headers)).status).toBe(200)
  expect(await runsOf(schedule)).toHaveLength(welcome.length)
})

// Expressions ---------------------------------------------------------------------------------------------------------

const seed = testSeed()

test(`a cron expression was last due when croner says so (BALCAO_TEST_SEED=${seed})`, async () => {
  const random = seeded(seed)
  const between = (from: number, to: number) => from + random(to - from + 1)
  const item = (from: number, to: number): string => {
    const [a, b] = [between(from, to), between(from, to)].sort((one, other) => one - other)
    switch (random(4)) {
      case 0:
        return `${a}-${b}`
      case 1:
        return `${a}-${b}/${between(1, Math.min(to, 9))}`
      default:
        return `${a}`
    }
  }
  const field = (from: number, to: number): string => {
    switch (random(5)) {
      case 0:
      case 1:
        return '*'
      case 2:
        return `*/${between(1, Math.min(to, 30))}`
      default:
        return Array.from({ length: between(1, 3) }, () => item(from, to)).join(',')
    }
  }
  const cases = Array.from({ length: 400 }, () => ({
    expression: [field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 7)].join(' '),
    // Any second of ten years, leap days and turns of the year included.
    at: new Date(Date.UTC(2022, 0, 1) + random(315_360_000) * 1000),
  }))
  const found = await sql<{ n: number; due: Date | null }[]>`
    select c.n::int, private.previous_occurrence(c.expression, c.at) as due
    from jsonb_to_recordset(${JSON.stringify(cases.map((one, n) => ({ n, ...one })))}::text::jsonb) as c (n int, expression text, at timestamptz)
    order by c.n`
  expect(found).toHaveLength(cases.length)
  const differences = cases.flatMap(({ expression, at }, n) => {
    const [, , day = '', , weekday = ''] = expression.split(' ')
    // Either kind of day is enough when both are restricted. As Vixie's cron and pg_cron see it, "*/2" is not.
    const domAndDow = day.startsWith('*') || weekday.startsWith('*')
    const croner = new Cron(expression, { timezone: 'UTC', domAndDow })
    const due = found[n]?.due ?? null
    // It finds the next one: that before `due` is `due`, and the one after it has not come yet.
    const expected = croner.nextRun(due === null ? new Date(at.getTime() - 8 * 366 * 86_400_000) : new Date(due.getTime() - 1000))
    const following = due === null ? null : croner.nextRun(due)
    const isRight = due === null
      ? expected === null || expected > at
      : due <= at && expected?.getTime() === due.getTime() && (following === null || following > at)
    return isRight ? [] : [{ expression, at, due, expected, following }]
  })
  expect(differences).toEqual([])
  // A generator whose expressions never come would prove nothing.
  expect(found.filter(({ due }) => due !== null).length).toBeGreaterThan(350)
})
