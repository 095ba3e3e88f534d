// Computing the analytics anew disturbs nobody, ends, and is known to have failed when it did: on a stack where nothing
// refreshes unless a test says so. BALCAO_TEST_SEED repeats the random business.

import { randomUUID } from 'node:crypto'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import type { Stack } from '../../local/stack.ts'
import type { AnalyticsRefresh, Tables } from '../../types/index.ts'
import { startOwnStack } from '../support/own-stack.ts'
import { type Business, type Row } from '../support/analytics-reference.ts'
import { seen } from '../support/conversations.ts'
import { microseconds, randomBusiness, store } from '../support/random-business.ts'
import { seeded, testSeed } from '../support/seeded.ts'
import { aPerson, asPlatform, type Client, type Person, valueOf } from '../support/tenants.ts'

const VIEWS = [
  'clinic_metrics_daily',
  'consultant_metrics',
  'conversation_analytics',
  'daily_lead_stats',
  'dashboard_metrics',
  'service_analytics',
] as const
type View = typeof VIEWS[number]
/** All that they read. */
const TABLES = [
  'organizations',
  'organization_settings',
  'contacts',
  'pets',
  'professionals',
  'services',
  'bookings',
  'conversations',
  'messages',
  'leads',
  'ai_interactions',
] as const

const seed = testSeed()
let stack: Stack
let sql: postgres.Sql
let platform: Client
let owner: Person
let business: Business

beforeAll(async () => {
  stack = await startOwnStack({ ticker: false })
  sql = postgres(stack.urls.admin, { max: 2, onnotice: () => undefined })
  platform = asPlatform(stack)
  owner = await aPerson(stack)
  const random = seeded(seed)
  do business = randomBusiness(random, 'America/Sao_Paulo', microseconds(new Date()))
  while (business.leads.length < 10 || business.pets.length === 0 || business.ai_interactions.length === 0)
  await store(sql, business, [{ userId: owner.userId, role: 'owner' }])
  for (const name of VIEWS) expect(await refresh(name)).toMatchObject({ refreshed: true })
})
afterAll(async () => {
  await sql?.end({ timeout: 1 })
  await stack?.stop()
})

async function refresh(name: View): Promise<AnalyticsRefresh> {
  return valueOf(await platform.rpc('refresh_analytics_view', { name }))
}

async function rowsOf(view: View): Promise<Row[]> {
  return valueOf(await owner.client.from(view).select('*').eq('organization_id', business.id))
}

async function refreshesOf(view_name: View): Promise<Tables<'analytics_refreshes'>[]> {
  return valueOf(await platform.from('analytics_refreshes').select('*').match({ view_name }).order('id'))
}

/** A session of its own, whose transaction a test leaves open; closed with the test. */
async function aSession(): Promise<{ sql: postgres.ReservedSql; pid: number }> {
  const session = postgres(stack.urls.admin, { max: 1, onnotice: () => undefined })
  const reserved = await session.reserve()
  onTestFinished(async () => {
    await reserved`rollback`.catch(() => undefined)
    reserved.release()
    await session.end({ timeout: 1 })
  })
  const [{ pid } = { pid: 0 }] = await reserved<{ pid: number }[]>`select pg_backend_pid() as pid`
  return { sql: reserved, pid }
}

/** Nobody can even read these until the test ends, or says so. */
async function inTheWay(...tables: string[]): Promise<{ out: () => Promise<void> }> {
  const session = await aSession()
  await session.sql`begin`
  for (const table of tables) await session.sql.unsafe(`lock table public.${table} in access exclusive mode`)
  return { out: async () => void (await session.sql`rollback`) }
}

async function activity(pid: number): Promise<{ state: string | null; holds_xmin: boolean; waits: boolean }> {
  const [row] = await sql<{ state: string | null; holds_xmin: boolean; waits: boolean }[]>`
    select a.state, a.backend_xmin is not null as holds_xmin, a.wait_event_type is not distinct from 'Lock' as waits
    from pg_catalog.pg_stat_activity a
    where a.pid = ${pid}`
  if (row === undefined) throw new Error(`There is no backend ${pid}.`)
  return row
}

// Others --------------------------------------------------------------------------------------------------------------

describe('while a refresh is not yet committed', () => {
  test('everybody reads the old rows, and writes on; whoever waits a second has waited too long', async () => {
    const before = await Promise.all(VIEWS.map(rowsOf))
    await sql`
      insert into public.services (organization_id, name, duration_minutes) values (${business.id}, 'Novidade', 30)`
    const open = await aSession()
    await open.sql`begin`
    for (const view of VIEWS) {
      const [{ answer } = { answer: {} }] = await open.sql<{ answer: object }[]>`
        select private.refresh_analytics_view(${view}) as answer`
      expect(answer).toMatchObject({ refreshed: true, error: null })
    }

    const other = await aSession()
    await other.sql`set lock_timeout = '1s'`
    for (const table of TABLES) {
      const touched = await other.sql.unsafe(
        `select from public.${table} where ${
          table === 'organizations' ? 'id' : 'organization_id'
        } = '${business.id}' for update`,
      )
      expect({ table, rows: touched.length }).toEqual({ table, rows: expect.toSatisfy((count) => count > 0) })
      await other.sql.unsafe(`begin; lock table public.${table} in row exclusive mode; rollback`)
    }
    await other.sql`begin`
    const [{ id } = { id: '' }] = await other.sql<{ id: string }[]>`
      insert into public.contacts (organization_id, name) values (${business.id}, 'Durante') returning id`
    await other.sql`update public.contacts set name = 'Durante isso' where id = ${id}`
    await other.sql`
      insert into public.ai_interactions (organization_id, action_type, prompt, model) values (${business.id}, 'reply', 'Oi', 'x')`
    await other.sql`delete from public.ai_interactions where organization_id = ${business.id} and model = 'x'`
    await other.sql`delete from public.contacts where id = ${id}`
    await other.sql`commit`
    for (const view of VIEWS) await other.sql.unsafe(`select * from analytics.${view}`)

    expect(await Promise.all(VIEWS.map(rowsOf))).toEqual(before)
    await open.sql`commit`
    expect(await rowsOf('service_analytics')).toContainEqual(expect.objectContaining({ service_name: 'Novidade' }))
  })

  test('a second one says so at once, of the same view only', async () => {
    const open = await aSession()
    await open.sql`begin`
    await open.sql`select private.refresh_analytics_view('service_analytics')`
    const count = (await refreshesOf('service_analytics')).length
    expect(await refresh('service_analytics')).toEqual({
      view_name: 'service_analytics',
      refreshed: false,
      reason: 'already_running',
    })
    expect(await refresh('clinic_metrics_daily')).toMatchObject({ view_name: 'clinic_metrics_daily', refreshed: true })
    const all = valueOf(await platform.rpc('refresh_analytics_views'))
    expect(all.map(({ view_name, refreshed }) => [view_name, refreshed]).sort()).toEqual(
      VIEWS.map((view) => [view, view !== 'service_analytics']),
    )
    // It is no refresh, and not written down as one.
    expect(await refreshesOf('service_analytics')).toHaveLength(count)
    await open.sql`rollback`
    expect(await refresh('service_analytics')).toMatchObject({ refreshed: true })
  })

  test('of many at once each view is refreshed by one, and nobody fails', async () => {
    for (let round = 0; round < 3; round++) {
      const answers = await Promise.all(Array.from({ length: 4 }, () => VIEWS.map(refresh)).flat())
      for (const view of VIEWS) {
        const ofView = answers.filter(({ view_name }) => view_name === view)
        expect(ofView.some(({ refreshed }) => refreshed)).toBe(true)
        for (const answer of ofView.filter(({ refreshed }) => !refreshed)) {
          expect(answer).toMatchObject({ reason: 'already_running' })
        }
      }
    }
  })
})

// Failures ------------------------------------------------------------------------------------------------------------

describe('a refresh that fails', () => {
  test('is written down with its reason, and leaves the old rows; the next one succeeds', async () => {
    const before = await rowsOf('dashboard_metrics')
    const setTimezone = async (timezone: string) => {
      await sql.begin(async (tx) => {
        // No app could: a row that is broken.
        await tx`select set_config('session_replication_role', 'replica', true)`
        await tx`update public.organizations set timezone = ${timezone} where id = ${business.id}`
      })
    }
    await setTimezone('Mars/Olympus_Mons')
    try {
      const answer = await refresh('dashboard_metrics')
      const failed = {
        view_name: 'dashboard_metrics',
        duration_ms: expect.any(Number),
        row_count: null,
        error: expect.stringMatching(/Mars\/Olympus_Mons.*\(22023\)/),
      }
      expect(answer).toEqual({ ...failed, refreshed: false })
      const noted = (await refreshesOf('dashboard_metrics')).at(-1)
      expect(noted).toMatchObject(failed)
      expect(Date.parse(noted?.finished_at ?? '')).toBeGreaterThanOrEqual(Date.parse(noted?.started_at ?? ''))
      expect(await rowsOf('dashboard_metrics')).toEqual(before)
      // One that fails does not stop the others.
      const all = valueOf(await platform.rpc('refresh_analytics_views'))
      expect(all.map(({ view_name }) => view_name)).toEqual(VIEWS)
      expect(all.find(({ view_name }) => view_name === 'consultant_metrics')).toMatchObject({ refreshed: true })
      expect(all.find(({ view_name }) => view_name === 'service_analytics')).toMatchObject({
        refreshed: false,
        error: expect.any(String),
      })
    } finally {
      await setTimezone(business.timezone)
    }
    const again = await refresh('dashboard_metrics')
    expect(again).toMatchObject({ refreshed: true, error: null })
    const rows = await rowsOf('dashboard_metrics')
    const calculated = ([row]: Row[]) => Date.parse(String(row?.calculated_at))
    expect(calculated(rows)).toBeGreaterThan(calculated(before))
    const [counted] = await sql<{ rows: number }[]>`select count(*)::int as rows from analytics.dashboard_metrics`
    expect((await refreshesOf('dashboard_metrics')).at(-1)).toMatchObject({ error: null, row_count: counted?.rows })
  })

  test('because it waited for a lock, likewise', async () => {
    const before = await rowsOf('clinic_metrics_daily')
    const blocker = await inTheWay('bookings')
    const session = await aSession()
    await session.sql`set lock_timeout = '100ms'`
    const [row] = await session.sql<
      { answer: AnalyticsRefresh }[]
    >`select private.refresh_analytics_view('clinic_metrics_daily') as answer`
    expect(row?.answer).toMatchObject({ refreshed: false, error: expect.stringContaining('(55P03)') })
    expect((await refreshesOf('clinic_metrics_daily')).at(-1)).toMatchObject({
      error: expect.stringContaining('(55P03)'),
      row_count: null,
    })
    // What is computed is read without what it was computed from.
    expect(await rowsOf('clinic_metrics_daily')).toEqual(before)
    await blocker.out()
    expect(await refresh('clinic_metrics_daily')).toMatchObject({ refreshed: true })
  })

  test('whose session dies leaves no lock behind, and nothing that the next one minds', async () => {
    const before = await rowsOf('service_analytics')
    const blocker = await inTheWay('bookings')
    const session = postgres(stack.urls.admin, { max: 1, onnotice: () => undefined })
    onTestFinished(() => session.end({ timeout: 1 }))
    const [{ pid } = { pid: 0 }] = await session<{ pid: number }[]>`select pg_backend_pid() as pid`
    const dying = session`select private.refresh_analytics_view('service_analytics')`.then(() => 'ended', () => 'died')
    await seen(() => activity(pid), ({ waits }) => waits)
    expect(await refresh('service_analytics')).toMatchObject({ reason: 'already_running' })
    await sql`select pg_terminate_backend(${pid})`
    expect(await dying).toBe('died')
    await blocker.out()
    expect(await rowsOf('service_analytics')).toEqual(before)
    expect(await seen(() => refresh('service_analytics'), ({ refreshed }) => refreshed)).toMatchObject({ error: null })
  })
})

// Its end -------------------------------------------------------------------------------------------------------------

describe('what a refresh holds back', () => {
  test('is held back only while it runs', async () => {
    const blocker = await inTheWay('bookings')
    const session = await aSession()
    expect(await activity(session.pid)).toMatchObject({ holds_xmin: false })
    const running = session.sql<{ answer: AnalyticsRefresh }[]>`
      select private.refresh_analytics_view('clinic_metrics_daily') as answer`.execute()
    expect(await seen(() => activity(session.pid), ({ waits }) => waits)).toMatchObject({
      state: 'active',
      holds_xmin: true,
    })
    await blocker.out()
    const [row] = await running
    expect(row?.answer).toMatchObject({ refreshed: true })
    expect(await activity(session.pid)).toMatchObject({ state: 'idle', holds_xmin: false })
  })

  test('and no longer than its statement may take, though what it waits for goes on', async () => {
    await inTheWay('bookings')
    const session = await aSession()
    await session.sql`set statement_timeout = '300ms'`
    const [row] = await session.sql<{ answer: AnalyticsRefresh }[]>`
      select private.refresh_analytics_view('clinic_metrics_daily') as answer`
    expect(row?.answer).toMatchObject({ refreshed: false, error: expect.stringContaining('(57014)') })
    expect(await activity(session.pid)).toMatchObject({ state: 'idle', holds_xmin: false })
    expect((await refreshesOf('clinic_metrics_daily')).at(-1)).toMatchObject({
      error: expect.stringContaining('(57014)'),
    })
  })

  /** The function's own limit, made short. */
  async function withLimit(signature: string, short: string, within: () => Promise<void>): Promise<void> {
    const [{ limit } = { limit: null }] = await sql<{ limit: string | null }[]>`
      select (select s from unnest(p.proconfig) s where s like 'statement_timeout=%') as limit
      from pg_catalog.pg_proc p where p.oid = ${signature}::regprocedure`
    expect(limit).toMatch(/^statement_timeout=\d+min$/)
    // PostgREST reads limits with its schema; it has done so again when it knows of what was not there before.
    const setTo = async (value: string) => {
      const name = `known_${randomUUID().replaceAll('-', '')}`
      await sql.begin(async (tx) => {
        await tx.unsafe(`alter function ${signature} set statement_timeout = '${value}'`)
        await tx.unsafe(`create function public.${name}() returns int language sql as 'select 1'`)
        await tx`notify pgrst, 'reload schema'`
      })
      const headers = { apikey: stack.keys.secret }
      await seen(
        async () => {
          const response = await fetch(`${stack.urls.api}/rest/v1/rpc/${name}`, { method: 'POST', headers })
          await response.body?.cancel()
          return response.status
        },
        (status) => status < 404,
      )
    }
    await setTo(short)
    try {
      await within()
    } finally {
      await setTo(limit?.split('=')[1] ?? '5min')
    }
  }

  test("called by the API it has the function's limit", async () => {
    await withLimit('public.refresh_analytics_view(text)', '300ms', async () => {
      const blocker = await inTheWay('bookings')
      const answer = await refresh('clinic_metrics_daily')
      await blocker.out()
      expect(answer).toMatchObject({ refreshed: false, error: expect.stringContaining('(57014)') })
    })
  })

  test('so has the call that refreshes all', async () => {
    await withLimit('public.refresh_analytics_views()', '300ms', async () => {
      const blocker = await inTheWay('organizations')
      const answers = valueOf(await platform.rpc('refresh_analytics_views'))
      await blocker.out()
      expect(answers.length).toBeGreaterThan(0)
      // Postgres counts a statement's time once: what comes after its end would have no limit at all.
      for (const answer of answers) {
        expect(answer).toMatchObject({ refreshed: false, error: expect.stringContaining('(57014)') })
      }
    })
  })

  test("called by the clock it has the clock's, and the clock says what went wrong", async () => {
    await withLimit('public.run_schedule(text,boolean)', '300ms', async () => {
      const blocker = await inTheWay('bookings')
      const args = { name: 'refresh_clinic_metrics_daily', force: true }
      const run = valueOf(await platform.rpc('run_schedule', args))
      await blocker.out()
      expect(JSON.stringify(run)).toContain('57014')
      expect(run).toMatchObject({ ran: true })
      expect(valueOf(await platform.rpc('run_schedule', args))).toMatchObject({
        ran: true,
        error: null,
        result: [{ refresh: expect.objectContaining({ refreshed: true }) }],
      })
    })
  })
})

// Consistency ---------------------------------------------------------------------------------------------------------

test('what four clients write together is counted together, however often it is counted meanwhile', async () => {
  const WRITERS = 4
  const EACH = 60
  const [contact] = business.contacts.filter(({ merged_into_id }) => merged_into_id === null)
  const [conversation] = business.conversations
  const service = await sql<{ id: string }[]>`
    insert into public.services (organization_id, name, duration_minutes) values (${business.id}, 'Consistência', 30) returning id`
  const serviceId = service[0]?.id ?? ''
  if (contact === undefined || conversation === undefined) throw new Error('Nobody is there.')
  const [{ day } = { day: '' }] = await sql<{ day: string }[]>`
    select (now() at time zone 'America/Sao_Paulo')::date::text as day`
  const talked = async () => {
    const [row] = await sql<{ inbound: number; outbound: number }[]>`
      select count(*) filter (where m.direction = 'inbound')::int as inbound, count(*) filter (where m.direction = 'outbound')::int as outbound
      from public.messages m
      where m.organization_id = ${business.id} and (m.created_at at time zone 'America/Sao_Paulo')::date = ${day}::date`
    return row ?? { inbound: 0, outbound: 0 }
  }
  const before = await talked()

  let isWriting = true
  const writers = Array.from({ length: WRITERS }, async () => {
    const client = postgres(stack.urls.admin, { max: 1, onnotice: () => undefined })
    try {
      for (let count = 0; count < EACH; count++) {
        await client.begin(async (tx) => {
          await tx`select set_config('session_replication_role', 'replica', true)`
          for (const [status, price] of [['completed', 100], ['cancelled', 7]] as const) {
            await tx`
              insert into public.bookings (
                organization_id, contact_id, service_id, start_time, end_time, blocked_until, booking_date, status, price_cents,
                completed_at, cancelled_at
              )
              values (
                ${business.id}, ${contact.id}, ${serviceId}, now(), now() + interval '30 minutes', now() + interval '30 minutes',
                ${day}, ${status}, ${price}, ${status === 'completed' ? new Date() : null}, ${
              status === 'cancelled' ? new Date() : null
            }
              )`
          }
          for (
            const [direction, sender, state] of [['inbound', 'contact', 'received'], [
              'outbound',
              'ai',
              'sent',
            ]] as const
          ) {
            await tx`
              insert into public.messages (organization_id, conversation_id, contact_id, instance_id, direction, sender, status)
              values (
                ${business.id}, ${conversation.id}, ${conversation.contact_id}, ${conversation.instance_id}, ${direction}, ${sender}, ${state}
              )`
          }
        })
      }
    } finally {
      await client.end({ timeout: 1 })
    }
  })
  const seenTotals = new Set<unknown>()
  const expectTogether = async () => {
    const [stats] = valueOf(await owner.client.from('service_analytics').select('*').eq('service_id', serviceId))
    const [talk] = valueOf(
      await owner.client.from('conversation_analytics').select('*').match({ organization_id: business.id, date: day }),
    )
    const completed = Number(stats?.completed_bookings_90d ?? 0)
    seenTotals.add(completed)
    if (stats !== undefined) {
      expect(stats).toMatchObject({
        total_bookings_90d: 2 * completed,
        cancelled_bookings_90d: completed,
        revenue_90d_cents: 100 * completed,
        avg_booking_value_cents: completed === 0 ? null : 100,
        unique_customers_90d: completed === 0 ? 0 : 1,
      })
    }
    if (talk !== undefined) {
      expect(Number(talk.inbound_messages) - before.inbound).toBe(Number(talk.outbound_messages) - before.outbound)
    }
    return completed
  }
  const refreshers = [1, 2].map(async () => {
    let last = 0
    while (isWriting) {
      for (const view of ['service_analytics', 'conversation_analytics'] as const) {
        const answer = await refresh(view)
        if (!answer.refreshed) expect(answer).toMatchObject({ reason: 'already_running' })
      }
      const completed = await expectTogether()
      expect(completed).toBeGreaterThanOrEqual(last)
      last = completed
    }
  })
  await Promise.all(writers).finally(() => (isWriting = false))
  await Promise.all(refreshers)
  for (const view of VIEWS) expect(await refresh(view)).toMatchObject({ refreshed: true })
  expect(await expectTogether()).toBe(WRITERS * EACH)
  // It was looked at in between.
  expect(seenTotals.size).toBeGreaterThan(2)
})
