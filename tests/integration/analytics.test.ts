// What the dashboards show: the views, read as an owner reads them, and a slow reference in TypeScript agree on every
// figure of businesses in seven zones, whose rows lie on both sides of every edge.
//
// The reference is held against a business that was counted by hand first. BALCAO_TEST_SEED repeats the random ones, though
// around the time at which this runs.

import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  type Business,
  clinicMetricsDaily,
  consultantMetrics,
  conversationAnalytics,
  dailyLeadStats,
  dashboardMetrics,
  type Instant,
  localDay,
  MINUTE,
  organizationStats,
  quotient,
  type Row,
  SECOND,
  serviceAnalytics,
} from '../support/analytics-reference.ts'
import { instantOf as minuteAt } from '../support/availability-reference.ts'
import { seen } from '../support/conversations.ts'
import { forget, isoOf, midnightOf, randomBusiness, store, TIMEZONES } from '../support/random-business.ts'
import { runningStack } from '../support/running-stack.ts'
import { seeded, testSeed } from '../support/seeded.ts'
import { aPerson, asPlatform, type Client, type Person, valueOf } from '../support/tenants.ts'

const OF_EACH_ZONE = 3

const backend = runningStack()
const platform = asPlatform(backend)
const sql = postgres(backend.urls.admin, { max: 1, onnotice: () => undefined })
const seed = testSeed()
const stored: Business[] = []

afterAll(async () => {
  await forget(sql, stored)
  await sql.end({ timeout: 1 })
})

// By hand -------------------------------------------------------------------------------------------------------------

/** A Wednesday, 00:30 in Rio Branco and 02:30 in São Paulo. */
const EARLY: Instant = instantOf('2026-07-15T05:30:00.000000Z')

function instantOf(text: string): Instant {
  const [, seconds, fraction = ''] = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(?:Z|\+00:00)$/.exec(text) ?? []
  if (seconds === undefined) throw new Error(`${text} is no instant of Greenwich.`)
  return Date.parse(`${seconds}Z`) * 1000 + Number(fraction.padEnd(6, '0'))
}

function aBusiness(change: Partial<Business> = {}): Business {
  return {
    id: 'org',
    timezone: 'America/Sao_Paulo',
    vertical: 'clinic',
    locations: [],
    contacts: [],
    pets: [],
    professionals: [{ id: 'ana', name: 'Ana', is_active: true }, { id: 'ines', name: 'Inês', is_active: false }],
    services: [{ id: 'visit', name: 'Consulta', is_active: true }],
    bookings: [],
    conversations: [],
    messages: [],
    leads: [],
    ai_interactions: [],
    ...change,
  }
}

function aBooking(
  booking_date: string,
  change: Partial<Business['bookings'][number]> = {},
): Business['bookings'][number] {
  const start_time = instantOf(`${booking_date}T12:00:00Z`)
  return {
    id: 'booking',
    contact_id: 'maria',
    pet_id: null,
    service_id: 'visit',
    location_id: null,
    start_time,
    booking_date,
    status: 'completed',
    created_by: 'human',
    price_cents: 100,
    completed_at: start_time + 30 * MINUTE,
    ...change,
  }
}

function aTalk(
  ...told: [
    text: string,
    direction: 'inbound' | 'outbound',
    sender: 'contact' | 'bot' | 'ai' | 'human' | 'system',
    isReaction?: boolean,
  ][]
) {
  const conversation = {
    id: 'talk',
    contact_id: 'maria',
    instance_id: 'number',
    status: 'closed' as const,
    unread_count: 0,
    last_inbound_at: EARLY as Instant | null,
    last_human_message_at: null,
    escalated_at: null,
    closed_at: EARLY,
    satisfaction_score: 4,
    created_at: EARLY - 90 * MINUTE,
  }
  const messages = told.map(([text, direction, sender, isReaction = false], index) => ({
    id: `${index}`,
    conversation_id: 'talk',
    contact_id: 'maria',
    instance_id: 'number',
    direction,
    sender,
    message_type: isReaction ? 'reaction' as const : 'text' as const,
    created_at: instantOf(text),
  }))
  return { conversations: [conversation], messages }
}

describe('the reference, by hand', () => {
  test('days begin where a calendar there says so', () => {
    const midnight = midnightOf('America/Sao_Paulo', '2026-07-15')
    expect(isoOf(midnight)).toBe('2026-07-15T03:00:00.000000Z')
    expect(isoOf(midnight - 1)).toBe('2026-07-15T02:59:59.999999Z')
    expect(localDay('America/Sao_Paulo', midnight - 1)).toBe('2026-07-14')
    expect(localDay('America/Sao_Paulo', midnight)).toBe('2026-07-15')
    expect(localDay('America/Rio_Branco', EARLY)).toBe('2026-07-15')
    expect(localDay('America/Rio_Branco', EARLY - 31 * MINUTE)).toBe('2026-07-14')
    expect(localDay('Pacific/Auckland', EARLY)).toBe('2026-07-15')
    // Clocks were put back from one to midnight.
    expect(isoOf(midnightOf('Atlantic/Azores', '2026-10-25'))).toBe('2026-10-25T00:00:00.000000Z')
    // The day on which clocks were put forward had 23 hours.
    expect(midnightOf('Europe/Lisbon', '2026-03-30') - midnightOf('Europe/Lisbon', '2026-03-29')).toBe(23 * 60 * MINUTE)
  })

  test('quotients are rounded as the database rounds them', () => {
    expect([
      quotient(1, 3, 2),
      quotient(200, 3, 2),
      quotient(1, 800, 4),
      quotient(5, 2, 0),
      quotient(-5, 2, 0),
      quotient(0, 0, 2),
    ])
      .toEqual([0.33, 66.67, 0.0013, 3, -3, null])
  })

  test('today, its week from Monday to Sunday, its month', () => {
    const bookings = [
      aBooking('2026-07-15'),
      aBooking('2026-07-15', { status: 'cancelled', completed_at: null }),
      aBooking('2026-07-15', { status: 'hold', completed_at: null }),
      aBooking('2026-07-13', { price_cents: null }),
      aBooking('2026-07-19', { status: 'scheduled', completed_at: null }),
      aBooking('2026-07-12'),
      aBooking('2026-07-31', { status: 'no_show', completed_at: null }),
      aBooking('2026-07-01'),
      aBooking('2026-06-30'),
      aBooking('2026-08-01'),
    ]
    expect(dashboardMetrics(aBusiness({ bookings }), EARLY)).toMatchObject({
      local_date: '2026-07-15',
      bookings_today: 1,
      bookings_this_week: 3,
      bookings_this_month: 6,
      revenue_today_cents: 100,
      revenue_this_week_cents: 100,
      revenue_this_month_cents: 300,
      completed_this_month: 4,
      no_shows_this_month: 1,
      no_show_rate_this_month: 20,
    })
    const sunday = instantOf('2026-07-20T02:59:59.999999Z')
    expect(dashboardMetrics(aBusiness({ bookings }), sunday)).toMatchObject({
      local_date: '2026-07-19',
      bookings_this_week: 3,
    })
    expect(dashboardMetrics(aBusiness({ bookings }), sunday + 1)).toMatchObject({
      local_date: '2026-07-20',
      bookings_this_week: 0,
    })
  })

  test('an answer is what follows a customer, whatever stands between that is no answer', () => {
    const talk = aTalk(
      ['2026-07-15T02:59:50Z', 'inbound', 'contact'],
      ['2026-07-15T02:59:55Z', 'inbound', 'contact'],
      ['2026-07-15T03:00:00Z', 'outbound', 'system'],
      ['2026-07-15T03:00:01Z', 'outbound', 'human', true],
      // Ten seconds; the next one answers nobody.
      ['2026-07-15T03:00:05Z', 'outbound', 'ai'],
      ['2026-07-15T03:00:06Z', 'outbound', 'ai'],
      ['2026-07-15T03:01:00Z', 'inbound', 'contact', true],
      ['2026-07-15T03:01:01Z', 'outbound', 'human'],
      ['2026-07-15T03:02:00Z', 'inbound', 'contact'],
      // Twenty.
      ['2026-07-15T03:02:20Z', 'outbound', 'human'],
    )
    expect(conversationAnalytics(aBusiness(talk), EARLY)).toEqual([
      expect.objectContaining({
        date: '2026-07-14',
        inbound_messages: 2,
        outbound_messages: 0,
        median_response_time_seconds: null,
      }),
      expect.objectContaining({
        date: '2026-07-15',
        total_conversations: 1,
        resolved_conversations: 1,
        bot_resolution_rate: 100,
        avg_satisfaction_score: 4,
        inbound_messages: 2,
        outbound_messages: 6,
        ai_messages: 2,
        bot_messages: 0,
        human_messages: 3,
        median_ai_response_time_seconds: 10,
        p95_ai_response_time_seconds: 10,
        median_response_time_seconds: 15,
        p95_response_time_seconds: 19.5,
      }),
    ])
  })

  test('a reminder to somebody who never wrote is a message, and no conversation', () => {
    const { conversations, messages } = aTalk(['2026-07-15T03:00:00Z', 'outbound', 'system'])
    const reminded = aBusiness({ messages, conversations: conversations.map((one) => ({ ...one, last_inbound_at: null })) })
    expect(conversationAnalytics(reminded, EARLY)).toEqual([
      expect.objectContaining({
        date: '2026-07-15',
        total_conversations: 0,
        resolved_conversations: 0,
        closed_conversations: 0,
        bot_resolution_rate: null,
        avg_satisfaction_score: null,
        outbound_messages: 1,
      }),
    ])
    const lead = {
      id: 'lead',
      contact_id: 'maria',
      professional_id: 'ana',
      status: 'novo' as const,
      over_limit: false,
      merged_into_id: null,
      created_at: EARLY,
    }
    expect(consultantMetrics({ ...reminded, leads: [lead] })).toMatchObject([{
      total_leads: 1,
      total_conversations: 0,
      completed_conversations: 0,
      avg_conversation_duration_minutes: null,
    }])
  })

  test('a contact with two leads of one professional counts once, whoever has left not at all', () => {
    const lead = {
      id: 'lead',
      contact_id: 'maria',
      professional_id: 'ana' as string | null,
      status: 'fechado' as const,
      over_limit: false,
      merged_into_id: null,
      created_at: EARLY,
    }
    const leads = [
      lead,
      { ...lead, id: 'other', status: 'novo' as const },
      { ...lead, id: 'hidden', over_limit: true },
      {
        ...lead,
        id: 'of ines',
        professional_id: 'ines',
      },
    ]
    const call = {
      id: 'call',
      lead_id: 'lead',
      tokens_used: 10,
      latency_ms: 5,
      confidence_thousandths: 500,
      success: true,
      created_at: EARLY,
    }
    const business = aBusiness({
      ...aTalk(['2026-07-15T03:00:00Z', 'inbound', 'contact']),
      leads,
      ai_interactions: [call, { ...call, latency_ms: 6 }, { ...call, lead_id: 'hidden' }],
    })
    expect(consultantMetrics(business)).toEqual([
      {
        organization_id: 'org',
        professional_id: 'ana',
        name: 'Ana',
        vertical: 'clinic',
        total_leads: 2,
        leads_novo: 1,
        leads_em_contato: 0,
        leads_agendado: 0,
        leads_fechado: 1,
        leads_perdido: 0,
        conversion_rate: 50,
        total_conversations: 1,
        completed_conversations: 1,
        avg_conversation_duration_minutes: 90,
        total_tokens_used: 20,
        avg_ai_latency_ms: 5.5,
      },
    ])
    expect(dailyLeadStats(business, EARLY)).toMatchObject([
      { professional_id: 'ana', date: '2026-07-15', leads_created: 2, leads_closed: 1, conversion_rate: 50 },
      { professional_id: 'ines', leads_created: 1 },
    ])
  })

  test('ninety days and four hundred, today among them', () => {
    const bookings = ['2026-07-15', '2026-07-16', '2026-04-17', '2026-04-16', '2025-06-11', '2025-06-10'].map((day) =>
      aBooking(day)
    )
    expect(serviceAnalytics(aBusiness({ bookings }), EARLY)).toMatchObject([{
      total_bookings_90d: 2,
      unique_customers_90d: 1,
    }])
    expect(
      clinicMetricsDaily(aBusiness({ bookings }), EARLY).map((
        { date, avg_delay_minutes },
      ) => [date, avg_delay_minutes]),
    )
      .toEqual([['2025-06-11', 30], ['2026-04-16', 30], ['2026-04-17', 30], ['2026-07-15', 30]])
  })
})

// The database --------------------------------------------------------------------------------------------------------

const VIEWS = [
  'dashboard_metrics',
  'conversation_analytics',
  'consultant_metrics',
  'service_analytics',
  'clinic_metrics_daily',
  'daily_lead_stats',
] as const
type View = typeof VIEWS[number]

async function now(): Promise<Instant> {
  const [row] = await sql<{ now: string }[]>`
    select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as now`
  return instantOf(row?.now ?? '')
}

/** All at once, though the clock may be at one of them just now; an instant of the same days everywhere. */
async function refreshAll(): Promise<Instant> {
  const before = await now()
  for (const name of VIEWS) {
    const answer = await seen(
      async () => valueOf(await platform.rpc('refresh_analytics_view', { name })),
      (one) => one.refreshed || !('reason' in one),
    )
    expect(answer).toMatchObject({ refreshed: true, error: null })
  }
  const after = await now()
  const isSameDay = TIMEZONES.every((timezone) => localDay(timezone, before) === localDay(timezone, after))
  return isSameDay ? before : await refreshAll()
}

async function rowsOf(client: Client, view: View, { id }: Business): Promise<Row[]> {
  const rows: Row[] = valueOf(await client.from(view).select('*').eq('organization_id', id))
  expect(rows.length).toBeLessThan(1000)
  return rows
}

/** In one order, and with waits as exact as they are told. */
function comparable(rows: Row[]): Row[] {
  const key = ({ date, professional_id, service_id }: Row) =>
    `${date ?? ''} ${professional_id ?? ''} ${service_id ?? ''}`
  return rows
    .map((row) => Object.fromEntries(Object.entries(row).sort(([one], [other]) => one < other ? -1 : 1)))
    .sort((one, other) => key(one) < key(other) ? -1 : 1)
}

/** The reference's waits are not rounded: what lies between two thousandths may be told as either. */
function expectRows(told: string, found: Row[], expected: Row[]): void {
  const [actual, wanted] = [comparable(found), comparable(expected)]
  const rounded = wanted.map((row, index) =>
    Object.fromEntries(
      Object.entries(row).map(([column, value]) => {
        const other = actual[index]?.[column]
        const isWait = column.endsWith('_time_seconds') && typeof value === 'number' && typeof other === 'number'
        const isNear = isWait && Math.abs(value - other) < 0.000501 && Number(other.toFixed(3)) === other
        return [column, isNear ? other : value]
      }),
    )
  )
  expect(actual, told).toEqual(rounded)
}

const MOMENTS = [
  ['America/Sao_Paulo', '2026-11-01 00:00', 'a Sunday, the first of a month'],
  ['America/Sao_Paulo', '2026-11-02 00:00', 'a Monday, whose week began a month'],
  ['America/Sao_Paulo', '2026-08-31 00:00', 'a Monday, the last of a month'],
  ['America/Noronha', '2026-12-31 23:00', 'an evening that is next year in Greenwich'],
  ['America/Rio_Branco', '2028-02-29 12:00', 'a leap day'],
  ['Europe/Lisbon', '2026-03-29 23:00', 'a day of 23 hours'],
  ['Europe/Lisbon', '2026-10-25 12:00', 'a day of 25'],
  ['Pacific/Auckland', '2027-01-01 00:00', 'still last year in Greenwich'],
  ['Pacific/Auckland', '2026-09-27 23:59', 'a day of 23 hours, half a day ahead'],
  ['America/Santiago', '2026-09-06 01:00', 'a day without a midnight'],
  ['America/Santiago', '2027-04-03 23:30', 'an evening that comes twice'],
  ['Atlantic/Azores', '2026-10-25 00:00', 'a day with two midnights'],
  ['Atlantic/Azores', '2027-11-28 12:00', 'such a day 399 days ago'],
] as const

describe(`the views and the reference agree (BALCAO_TEST_SEED=${seed})`, () => {
  let owner: Person
  let at: Instant

  beforeAll(async () => {
    owner = await aPerson(backend)
    const random = seeded(seed)
    const instant = await now()
    for (const timezone of TIMEZONES) {
      for (let count = 0; count < OF_EACH_ZONE; count++) {
        const business = randomBusiness(random, timezone, instant)
        await store(sql, business, [{ userId: owner.userId, role: 'owner' }])
        stored.push(business)
      }
    }
    const business = { ...randomBusiness(random, 'Europe/Lisbon', instant), ...nothing }
    await store(sql, business, [{ userId: owner.userId, role: 'owner' }])
    stored.push(business)
    at = await refreshAll()
  })

  const nothing = {
    locations: [],
    contacts: [],
    pets: [],
    professionals: [],
    services: [],
    bookings: [],
    conversations: [],
    messages: [],
    leads: [],
    ai_interactions: [],
  } satisfies Partial<Business>

  test('dashboard_metrics', async () => {
    for (const business of stored) {
      const [{ calculated_at = null, ...row } = {}, ...more] = await rowsOf(owner.client, 'dashboard_metrics', business)
      expect(more).toEqual([])
      const then = instantOf(String(calculated_at))
      // Or after: the clock does it every five minutes.
      expect(then).toBeGreaterThanOrEqual(at)
      expectRows(toldOf(business), [row], [dashboardMetrics(business, then)])
    }
  })

  test.each(
    [
      ['conversation_analytics', conversationAnalytics],
      ['consultant_metrics', consultantMetrics],
      ['service_analytics', serviceAnalytics],
      ['clinic_metrics_daily', clinicMetricsDaily],
      ['daily_lead_stats', dailyLeadStats],
    ] as const,
  )('%s', async (view, reference) => {
    let count = 0
    for (const business of stored) {
      const expected = reference(business, at)
      count += expected.length
      expectRows(`${view}, ${toldOf(business)}`, await rowsOf(owner.client, view, business), expected)
    }
    // Some have one professional, who has left.
    expect(count).toBeGreaterThan(stored.length)
  })

  test('get_organization_stats', async () => {
    for (const business of stored) {
      const before = await now()
      const stats = valueOf(await owner.client.rpc('get_organization_stats', { organization_id: business.id }))
      const after = await now()
      const possible = [before, after].map((then) => organizationStats(business, then))
      expect(possible, toldOf(business)).toContainEqual(stats)
    }
  })

  test('a business in which nothing has happened has zeros, and no averages', async () => {
    const business = stored.find(({ contacts }) => contacts.length === 0)
    if (business === undefined) throw new Error('There is none.')
    const [{ organization_id, local_date, calculated_at, ...figures } = {}] = await rowsOf(
      owner.client,
      'dashboard_metrics',
      business,
    )
    expect(organization_id).toBe(business.id)
    expect(local_date).toBe(localDay(business.timezone, instantOf(String(calculated_at))))
    const { no_show_rate_this_month, avg_ai_confidence_7d, ...counts } = figures
    expect([no_show_rate_this_month, avg_ai_confidence_7d]).toEqual([null, null])
    expect(Object.values(counts)).toEqual(Object.values(counts).map(() => 0))
    for (const view of VIEWS.slice(1)) expect(await rowsOf(owner.client, view, business)).toEqual([])
  })

  test('what is random lies on both sides of what is counted', () => {
    const seenOf = (rows: Row[], column: string) => new Set(rows.map((row) => row[column]))
    const dashboards = stored.map((business) => dashboardMetrics(business, at))
    for (
      const column of [
        'bookings_today',
        'revenue_today_cents',
        'new_contacts_today',
        'messages_today',
        'ai_actions_7d',
        'no_show_rate_this_month',
      ]
    ) {
      expect({ column, values: seenOf(dashboards, column).size }).toEqual({
        column,
        values: expect.toSatisfy((size: number) => size > 2),
      })
    }
    const talks = stored.flatMap((business) => conversationAnalytics(business, at))
    for (const column of Object.keys(talks[0] ?? {}).filter((name) => name !== 'organization_id')) {
      expect({ column, values: seenOf(talks, column).size }).toEqual({
        column,
        values: expect.toSatisfy((size: number) => size > 2),
      })
    }
    const waits = talks.map(({ median_response_time_seconds }) => Number(median_response_time_seconds))
    expect(waits.some((wait) => wait > 0 && wait < SECOND)).toBe(true)
    expect(Math.max(...waits)).toBeGreaterThan(3600)
    const days = stored.flatMap((business) => business.bookings.map(({ booking_date }) => booking_date))
    expect(days.some((day) => day > localDay('UTC', at))).toBe(true)
  })

  // Not only today: what the views ask, as if it were then.
  test.each(MOMENTS.map((moment, index) => [...moment, index] as const))(
    'as it would be: %s, %s, %s',
    async (timezone, wall, _name, index) => {
      const random = seeded(seed + 1 + index)
      for (const microsecond of [0, -1]) {
        const then = minuteAt(timezone, wall) * MINUTE + microsecond
        const business = randomBusiness(random, timezone, then)
        const told = `${timezone} at ${isoOf(then)}, BALCAO_TEST_SEED=${seed}`
        await store(sql, business, [])
        stored.push(business)
        for (
          const [view, reference] of [
            ['dashboard_metrics', (one: Business) => [dashboardMetrics(one, then)]],
            ['conversation_analytics', conversationAnalytics],
            ['service_analytics', serviceAnalytics],
            ['clinic_metrics_daily', clinicMetricsDaily],
            ['daily_lead_stats', dailyLeadStats],
          ] as const
        ) expectRows(`${view}, ${told}`, await rowsAsIf(then, view, business), reference(business, then))
      }
    },
  )

  async function rowsAsIf(then: Instant, view: View, { id }: Business): Promise<Row[]> {
    const [{ definition } = { definition: '' }] = await sql<{ definition: string }[]>`
      select pg_get_viewdef(${`analytics.${view}`}::regclass) as definition`
    const parts = definition.replace(/;$/, '').split('now()')
    expect(parts.length).toBeGreaterThan(1)
    const rows = await sql.unsafe<{ row: Row }[]>(
      `select to_jsonb(v) - 'calculated_at' as row
      from (${parts.join(`'${isoOf(then)}'::timestamptz`)}) v
      where v.organization_id = '${id}'`,
    )
    return rows.map(({ row }) => row)
  }

  const toldOf = ({ id, timezone }: Business) => `${timezone} ${id} of BALCAO_TEST_SEED=${seed}, at ${isoOf(at)}`
})
