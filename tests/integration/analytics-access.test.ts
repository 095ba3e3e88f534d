// Who reads what of the analytics: nobody another tenant's, by whatever path; a colleague's leads only those who may see
// leads; what the platform keeps only the platform. Materialized views know no row security: this is what stands before them.

import { randomUUID } from 'node:crypto'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { businessError } from '../../types/index.ts'
import { type Business, conversationAnalytics, dailyLeadStats, type Row } from '../support/analytics-reference.ts'
import { seen } from '../support/conversations.ts'
import { forget, microseconds, randomBusiness, store } from '../support/random-business.ts'
import { runningStack } from '../support/running-stack.ts'
import { seeded, testSeed } from '../support/seeded.ts'
import { aPerson, asNobody, asPlatform, type Person, valueOf } from '../support/tenants.ts'

const VIEWS = [
  'dashboard_metrics',
  'conversation_analytics',
  'consultant_metrics',
  'service_analytics',
  'clinic_metrics_daily',
  'daily_lead_stats',
] as const
/** Those that follow lead_visibility. */
const OF_LEADS: readonly View[] = ['consultant_metrics', 'daily_lead_stats']
type View = typeof VIEWS[number]

const backend = runningStack()
const platform = asPlatform(backend)
const sql = postgres(backend.urls.admin, { max: 1, onnotice: () => undefined })
const seed = testSeed()

let clinic: Business
let neighbour: Business
/** Members of the clinic by role; she who was put out is a professional there, as the attendant is. */
let owner: Person
let admin: Person
let attendant: Person
let viewer: Person
let inactive: Person
let stranger: Person
let neighbours: Person[]

beforeAll(async () => {
  const people = await Promise.all(
    ['owner', 'admin', 'attendant', 'viewer', 'inactive', 'stranger', 'neighbour', 'neighbour'].map((name) =>
      aPerson(backend, name)
    ),
  )
  ;[owner, admin, attendant, viewer, inactive, stranger] = people as [Person, Person, Person, Person, Person, Person]
  neighbours = people.slice(6)
  const random = seeded(seed)
  clinic = aBusyBusiness(random)
  neighbour = aBusyBusiness(random)
  await store(sql, clinic, [
    { userId: owner.userId, role: 'owner' },
    { userId: admin.userId, role: 'admin' },
    { userId: attendant.userId, role: 'attendant' },
    { userId: viewer.userId, role: 'viewer' },
    { userId: inactive.userId, role: 'attendant' },
  ])
  await store(
    sql,
    neighbour,
    neighbours.map(({ userId }, index) => ({ userId, role: index === 0 ? 'owner' : 'attendant' })),
  )
  const [first, second] = clinic.professionals
  for (const [professional, person] of [[first, attendant], [second, inactive]] as const) {
    await sql`
      update public.professionals set user_id = ${person.userId}, is_active = true
      where organization_id = ${clinic.id} and id = ${professional?.id ?? ''}`
  }
  await sql`update public.user_roles set is_active = false where user_id = ${inactive.userId}`
  for (const name of VIEWS) {
    const refresh = await seen(
      async () => valueOf(await platform.rpc('refresh_analytics_view', { name })),
      (one) => one.refreshed || !('reason' in one),
    )
    expect(refresh).toMatchObject({ refreshed: true })
  }
  for (const { id } of [clinic, neighbour]) {
    for (const view of VIEWS) {
      expect({ view, rows: (await allOf(view, id)).length }).toEqual({
        view,
        rows: expect.toSatisfy((count) => count > 0),
      })
    }
  }
})

afterAll(async () => {
  await forget(sql, [clinic, neighbour])
  await sql.end({ timeout: 1 })
})

/** One with rows in every view, and leads of its first two professionals and of nobody. */
function aBusyBusiness(random: (below: number) => number): Business {
  for (;;) {
    const now = microseconds(new Date())
    const business = randomBusiness(random, 'America/Sao_Paulo', now)
    const ofWhom = new Set(dailyLeadStats(business, now).map(({ professional_id }) => professional_id))
    const [first, second] = business.professionals
    const isBusy = business.bookings.length > 50 && business.ai_interactions.length > 20 &&
      conversationAnalytics(business, now).length > 5 && first !== undefined && second !== undefined &&
      ofWhom.has(first.id) && ofWhom.has(second.id) && ofWhom.has(null)
    if (isBusy) return business
  }
}

interface Answer {
  status: number
  range: string | null
  body: unknown
  text: string
}

/** As any program may ask, whatever supabase-js would say. */
async function ask(
  path: string,
  person: Person | null,
  { headers, ...init }: RequestInit & { headers?: Record<string, string> } = {},
): Promise<Answer> {
  const response = await fetch(`${backend.urls.api}/rest/v1/${path}`, {
    ...init,
    headers: {
      apikey: backend.keys.publishable,
      'content-type': 'application/json',
      ...(person === null ? {} : { authorization: `Bearer ${person.accessToken}` }),
      ...headers,
    },
  })
  const text = await response.text()
  return {
    status: response.status,
    range: response.headers.get('content-range'),
    text,
    body: text === '' ? null : JSON.parse(text),
  }
}

async function rowsOf(view: View, { client }: Person, filter: { organization_id?: string } = {}): Promise<Row[]> {
  return valueOf(await client.from(view).select('*').match(filter))
}

/** What the platform reads of an organization. */
async function allOf(view: View, organization_id: string): Promise<Row[]> {
  return valueOf(await platform.from(view).select('*').match({ organization_id }))
}

const inOrder = (rows: Row[]) => rows.map((row) => JSON.stringify(row)).sort()
const outsiders = () => ({
  stranger,
  inactive,
  'a neighbour': neighbours[0] ?? stranger,
  "a neighbour's attendant": neighbours[1] ?? stranger,
})

// The views -----------------------------------------------------------------------------------------------------------

describe(`the views (BALCAO_TEST_SEED=${seed})`, () => {
  test.each(VIEWS)('%s: members read their own organization, and no other', async (view) => {
    const own = await allOf(view, clinic.id)
    for (const member of [owner, admin, attendant, viewer]) {
      expect(inOrder(await rowsOf(view, member))).toEqual(inOrder(own))
      expect(await rowsOf(view, member, { organization_id: neighbour.id })).toEqual([])
    }
    const theirs = await allOf(view, neighbour.id)
    for (const member of neighbours) expect(inOrder(await rowsOf(view, member))).toEqual(inOrder(theirs))
    for (const person of [stranger, inactive]) expect(await rowsOf(view, person)).toEqual([])
    const { data, error } = await asNobody(backend).from(view).select('*')
    expect({ data, code: error?.code }).toEqual({ data: null, code: '42501' })
  })

  test('who is a member of two reads both, until he is put out of one', async () => {
    const person = await aPerson(backend, 'both')
    for (const { id } of [clinic, neighbour]) {
      await sql`insert into public.user_roles (organization_id, user_id, role) values (${id}, ${person.userId}, 'viewer')`
    }
    const organizations = async () =>
      new Set((await rowsOf('dashboard_metrics', person)).map(({ organization_id }) => organization_id))
    expect(await organizations()).toEqual(new Set([clinic.id, neighbour.id]))
    await sql`update public.user_roles set is_active = false where user_id = ${person.userId} and organization_id = ${clinic.id}`
    expect(await organizations()).toEqual(new Set([neighbour.id]))
    await sql`delete from public.user_roles where user_id = ${person.userId}`
    expect(await organizations()).toEqual(new Set())
  })

  test.each(OF_LEADS)(
    '%s: where each sees his own leads, a member reads those of the professional that he is',
    async (view) => {
      await sql`update public.organization_settings set lead_visibility = 'own' where organization_id = ${clinic.id}`
      try {
        const all = await allOf(view, clinic.id)
        const [his] = clinic.professionals
        const own = all.filter(({ professional_id }) => professional_id === his?.id)
        expect(own.length).toBeGreaterThan(0)
        expect(all.some(({ professional_id }) => professional_id === null)).toBe(true)
        for (const person of [owner, admin]) expect(inOrder(await rowsOf(view, person))).toEqual(inOrder(all))
        expect(inOrder(await rowsOf(view, attendant))).toEqual(inOrder(own))
        expect(await rowsOf(view, viewer)).toEqual([])
        // She is a professional still, but no member.
        expect(await rowsOf(view, inactive)).toEqual([])
        for (const person of neighbours) expect(await rowsOf(view, person, { organization_id: clinic.id })).toEqual([])
        // What is no lead is seen by all.
        for (const other of VIEWS.filter((one) => !OF_LEADS.includes(one))) {
          for (const person of [attendant, viewer]) {
            expect(inOrder(await rowsOf(other, person))).toEqual(inOrder(await allOf(other, clinic.id)))
          }
        }
      } finally {
        await sql`update public.organization_settings set lead_visibility = 'all' where organization_id = ${clinic.id}`
      }
    },
  )

  test('nobody writes into them', async () => {
    for (const view of VIEWS) {
      for (
        const [method, path, body] of [
          ['POST', view, JSON.stringify({ organization_id: clinic.id })],
          ['PATCH', `${view}?organization_id=eq.${clinic.id}`, JSON.stringify({ organization_id: neighbour.id })],
          ['DELETE', `${view}?organization_id=eq.${clinic.id}`, null],
        ] as const
      ) {
        const { body: answer } = await ask(path, owner, { method, body })
        // Not allowed, or not a view into which anything could be written.
        const refused = expect.stringMatching(/^(42501|55000)$/)
        expect({ view, method, answer }).toMatchObject({ view, method, answer: { code: refused } })
      }
    }
  })
})

// Side doors ----------------------------------------------------------------------------------------------------------

describe('past the views', () => {
  test('what they lie on is in no schema of the API', async () => {
    for (const person of [null, stranger, owner]) {
      for (const view of VIEWS) {
        for (const schema of ['analytics', 'private']) {
          const answer = await ask(view, person, { headers: { 'accept-profile': schema } })
          expect({ view, schema, status: answer.status }).toEqual({ view, schema, status: 406 })
          const called = await ask(`rpc/${view}_rows`, person, {
            method: 'POST',
            body: '{}',
            headers: { 'content-profile': schema },
          })
          expect({ view, schema, status: called.status }).toEqual({ view, schema, status: 406 })
        }
        for (const method of ['GET', 'POST']) {
          const { status } = await ask(`rpc/${view}_rows`, person, {
            method,
            ...(method === 'POST' ? { body: '{}' } : {}),
          })
          expect({ view, method, status }).toEqual({ view, method, status: 404 })
        }
      }
    }
    // With the platform's key neither.
    const headers = { apikey: backend.keys.secret, 'accept-profile': 'analytics' }
    expect((await ask('dashboard_metrics', null, { headers })).status).toBe(406)
  })

  test('no client role may touch them in the database either', async () => {
    for (const role of ['anon', 'authenticated', 'service_role']) {
      for (const view of VIEWS) {
        const tried = sql.begin(async (tx) => {
          await tx`select set_config('role', ${role}, true)`
          await tx`select from ${tx(`analytics.${view}`)}`
        })
        await expect(tried).rejects.toMatchObject({ code: '42501' })
      }
    }
  })

  test('nothing is embedded that may not be read', async () => {
    const rows = [`organization_id=eq.${clinic.id}`, `id=eq.${clinic.id}`]
    for (const view of VIEWS) {
      for (
        const path of [
          `organizations?select=id,${view}(*)&${rows[1]}`,
          `organizations?select=id,rows:${view}!inner(*)&${rows[1]}`,
          `${view}?select=*,organizations(*)&${rows[0]}`,
          `${view}?select=*,services(*),professionals(*)&${rows[0]}`,
        ]
      ) {
        for (const person of Object.values(outsiders())) {
          const { status, body } = await ask(path, person)
          // Such a relation is unknown, or empty.
          expect({ path, status, body }).toEqual({
            path,
            status: expect.toSatisfy((one) => one === 200 || one === 400),
            body: status === 200 ? [] : expect.objectContaining({ code: expect.stringMatching(/^PGRST/) }),
          })
        }
      }
    }
  })

  test('neither counts nor filters, orders and sums tell of rows that may not be read', async () => {
    for (const view of VIEWS) {
      for (const [who, person] of Object.entries(outsiders())) {
        const own = (await rowsOf(view, person)).length
        for (const method of ['HEAD', 'GET']) {
          const exact = await ask(`${view}?select=organization_id`, person, {
            method,
            headers: { prefer: 'count=exact' },
          })
          expect({ view, who, method, range: exact.range }).toEqual({
            view,
            who,
            method,
            range: own === 0 ? '*/0' : `0-${own - 1}/${own}`,
          })
          const filtered = await ask(`${view}?organization_id=eq.${clinic.id}`, person, {
            method,
            headers: { prefer: 'count=exact' },
          })
          expect({ view, who, method, range: filtered.range }).toEqual({ view, who, method, range: '*/0' })
        }
        // What the planner guesses must not depend on what is there.
        for (const count of ['planned', 'estimated']) {
          const ranges = await Promise.all(
            [clinic.id, randomUUID()].map(async (id) =>
              (await ask(`${view}?organization_id=eq.${id}`, person, { headers: { prefer: `count=${count}` } })).range
            ),
          )
          expect({ view, who, count, other: ranges[1] }).toEqual({ view, who, count, other: ranges[0] })
        }
        for (
          const filter of [
            `organization_id=in.(${clinic.id})`,
            `or=(organization_id.eq.${clinic.id},organization_id.is.null)`,
            `organization_id=eq.${clinic.id}&order=organization_id.desc`,
            `organization_id=eq.${clinic.id}&limit=1&offset=0`,
            `and=(organization_id.gte.${clinic.id},organization_id.lte.${clinic.id})`,
          ]
        ) expect({ filter, body: (await ask(`${view}?${filter}`, person)).body }).toEqual({ filter, body: [] })
        // An operator that fails on a value would tell of the value, if it saw it.
        const { status, body } = await ask(`${view}?organization_id=eq.${clinic.id}&organization_id=fts.x`, person)
        expect({ status, leaks: JSON.stringify(body).includes(clinic.id) }).toEqual({
          status: expect.any(Number),
          leaks: false,
        })
        for (const sum of ['organization_id.count()', 'count()']) {
          const summed = await ask(`${view}?select=${sum}&organization_id=eq.${clinic.id}`, person)
          if (summed.status === 200) expect(summed.body).toEqual([{ count: 0 }])
          else expect(summed.body).toMatchObject({ code: expect.stringMatching(/^PGRST/) })
        }
        const plan = await ask(`${view}?organization_id=eq.${clinic.id}`, person, {
          headers: { accept: 'application/vnd.pgrst.plan+json' },
        })
        expect({ view, who, status: plan.status }).toEqual({
          view,
          who,
          status: expect.toSatisfy((one) => one === 406 || one === 415),
        })
      }
    }
  })

  test('the description of the API names the views to who is signed in, and nothing behind them', async () => {
    const pathsFor = async (person: Person | null) =>
      Object.keys((await ask('', person).then(({ body }) => body as { paths: object })).paths)
    expect(
      (await pathsFor(null)).filter((path) => /analytics|metrics|stats|refresh|track|ai_interactions|_rows/.test(path)),
    ).toEqual([])
    for (const person of [owner, stranger]) {
      const paths = await pathsFor(person)
      for (
        const path of [...VIEWS, 'ai_interactions', 'analytics_events', 'rpc/get_organization_stats', 'rpc/track_event']
      ) {
        expect(paths).toContain(`/${path}`)
      }
      expect(paths.filter((path) => /refresh|_rows$/.test(path))).toEqual([])
    }
  })
})

// Functions -----------------------------------------------------------------------------------------------------------

describe('the functions', () => {
  test('get_organization_stats answers members, and nobody else', async () => {
    const of = { organization_id: clinic.id }
    const stats = valueOf(await viewer.client.rpc('get_organization_stats', of))
    expect(stats.total_bookings).toBeGreaterThan(0)
    for (const { client } of [owner, admin, attendant]) {
      expect(valueOf(await client.rpc('get_organization_stats', of))).toEqual(stats)
    }
    expect(valueOf(await platform.rpc('get_organization_stats', of))).toEqual(stats)
    for (const [who, { client }] of Object.entries(outsiders())) {
      const { data, error } = await client.rpc('get_organization_stats', of)
      expect({ who, data, error: businessError(error) }).toMatchObject({
        who,
        data: null,
        error: { code: 'BL002', name: 'not_allowed' },
      })
    }
    // It does not tell whether there is such an organization.
    const { error: unknown } = await stranger.client.rpc('get_organization_stats', { organization_id: randomUUID() })
    expect(businessError(unknown)).toMatchObject({ code: 'BL002' })
    expect((await asNobody(backend).rpc('get_organization_stats', of)).error?.code).toBe('42501')
  })

  test("refreshing, and how that went, is the platform's", async () => {
    for (const { client } of [owner, stranger]) {
      expect((await client.rpc('refresh_analytics_view', { name: 'dashboard_metrics' })).error?.code).toBe('42501')
      expect((await client.rpc('refresh_analytics_views')).error?.code).toBe('42501')
      expect((await client.from('analytics_refreshes').select('*')).error?.code).toBe('42501')
    }
    expect((await asNobody(backend).rpc('refresh_analytics_views')).error?.code).toBe('42501')
    const refreshes = valueOf(await platform.from('analytics_refreshes').select('view_name').order('id', { ascending: false }))
    expect(refreshes.map(({ view_name }) => view_name)).toEqual(expect.arrayContaining([...VIEWS]))
    const { error } = await platform.rpc('refresh_analytics_view', { name: 'bookings' })
    expect(businessError(error)).toMatchObject({
      code: 'BL802',
      name: 'analytics_view_not_found',
      detail: { name: 'bookings' },
    })
    const refused = platform.from('analytics_refreshes').insert({
      view_name: 'x',
      started_at: new Date().toISOString(),
      duration_ms: 1,
      error: 'x',
    })
    expect((await refused).error?.code).toBe('42501')
  })
})

// What is counted -----------------------------------------------------------------------------------------------------

describe('AI interactions', () => {
  test('are read by attendants and up of the same organization, and written by the platform', async () => {
    const expected = clinic.ai_interactions.length
    const countFor = async ({ client }: Person) =>
      valueOf(await client.from('ai_interactions').select('id, prompt')).length
    for (const person of [owner, admin, attendant]) expect(await countFor(person)).toBe(expected)
    for (const person of [viewer, stranger, inactive]) expect(await countFor(person)).toBe(0)
    const theirs = neighbours.map(async ({ client }) =>
      valueOf(await client.from('ai_interactions').select('id').eq('organization_id', clinic.id)).length
    )
    expect(await Promise.all(theirs)).toEqual([0, 0])
    expect((await asNobody(backend).from('ai_interactions').select('id')).error?.code).toBe('42501')
    // Not by way of a conversation, either.
    const embedded = await ask(
      `conversations?select=id,ai_interactions(id,prompt)&organization_id=eq.${clinic.id}`,
      viewer,
    )
    if (embedded.status === 200) {
      for (const row of embedded.body as { ai_interactions: unknown[] }[]) expect(row.ai_interactions).toEqual([])
    } else expect(embedded.status).toBe(400)

    const row = { organization_id: clinic.id, action_type: 'reply', prompt: 'Oi', model: 'um-modelo' }
    for (const { client } of [owner, stranger]) {
      for (
        const { error } of [
          await client.from('ai_interactions').insert(row),
          await client.from('ai_interactions').update({ prompt: 'x' }).eq('organization_id', clinic.id),
          await client.from('ai_interactions').delete().eq('organization_id', clinic.id),
        ]
      ) expect(error?.code).toBe('42501')
    }
    const { id } = valueOf(await platform.from('ai_interactions').insert(row).select().single())
    valueOf(await platform.from('ai_interactions').delete().eq('id', id).select().single())
    // Of another organization's conversation not even by the platform.
    const foreign = { ...row, lead_id: neighbour.leads[0]?.id ?? '' }
    expect((await platform.from('ai_interactions').insert(foreign)).error?.code).toBe('23503')
  })
})

describe('analytics events', () => {
  const organization = () => ({ organization_id: clinic.id })
  const refusal = async (person: Person, args: Record<string, unknown>) => {
    const { body } = await ask('rpc/track_event', person, {
      method: 'POST',
      body: JSON.stringify({ ...organization(), ...args }),
    })
    return businessError(body as Parameters<typeof businessError>[0])
  }

  test('are told by every member in his own name, and read by administrators', async () => {
    const event_name = `page.viewed_${randomUUID().slice(0, 8)}`
    const contact_id = clinic.contacts.find(({ merged_into_id }) => merged_into_id === null)?.id ?? ''
    for (const person of [owner, admin, attendant, viewer]) {
      const tracked = valueOf(
        await person.client.rpc('track_event', {
          ...organization(),
          event_name,
          contact_id,
          properties: { page: 'agenda' },
        }),
      )
      expect(tracked).toMatchObject({
        ...organization(),
        event_name,
        contact_id,
        properties: { page: 'agenda' },
        user_id: person.userId,
      })
    }
    expect(valueOf(await platform.rpc('track_event', { ...organization(), event_name }))).toMatchObject({
      user_id: null,
      properties: {},
    })
    const seenBy = async ({ client }: Person) =>
      valueOf(await client.from('analytics_events').select('id').match({ event_name })).length
    expect(await Promise.all([owner, admin].map(seenBy))).toEqual([5, 5])
    expect(await Promise.all([attendant, viewer, stranger, inactive, ...neighbours].map(seenBy))).toEqual([
      0,
      0,
      0,
      0,
      0,
      0,
    ])
    expect((await asNobody(backend).from('analytics_events').select('id')).error?.code).toBe('42501')
    expect((await asNobody(backend).rpc('track_event', { ...organization(), event_name })).error?.code).toBe('42501')
    for (const { client } of [owner, viewer]) {
      for (
        const { error } of [
          await client.from('analytics_events').insert({ ...organization(), event_name }),
          await client.from('analytics_events').update({ event_name: 'x' }).match({ event_name }),
          await client.from('analytics_events').delete().match({ event_name }),
        ]
      ) expect(error?.code).toBe('42501')
    }
    // Nor through a month's part of the log.
    for (const schema of ['partitions', 'private']) {
      const { status } = await ask('analytics_events_default', owner, { headers: { 'accept-profile': schema } })
      expect(status).toBe(406)
    }
    await sql`delete from public.analytics_events where organization_id = ${clinic.id}`
  })

  test('are refused by name', async () => {
    for (const person of Object.values(outsiders())) {
      expect(await refusal(person, { event_name: 'page.viewed' })).toMatchObject({ code: 'BL002', name: 'not_allowed' })
    }
    const DAY = 86_400_000
    const at = (ms: number) => new Date(Date.now() + ms).toISOString()
    for (
      const [problem, args] of [
        ['event_name', { event_name: '' }],
        ['event_name', { event_name: null }],
        ['event_name', { event_name: 'Page' }],
        ['event_name', { event_name: '1page' }],
        ['event_name', { event_name: 'page viewed' }],
        ['event_name', { event_name: 'page\n' }],
        ['event_name', { event_name: 'a'.repeat(64) }],
        ['properties', { event_name: 'page', properties: [] }],
        ['properties', { event_name: 'page', properties: 'x' }],
        ['properties', { event_name: 'page', properties: null }],
        ['properties', { event_name: 'page', properties: { text: 'x'.repeat(8192) } }],
        // Kept as they are: eight thousand bytes are fewer letters than that.
        ['properties', { event_name: 'page', properties: { text: 'ã'.repeat(5000) } }],
        ['occurred_at', { event_name: 'page', occurred_at: at(DAY + 60_000) }],
        ['occurred_at', { event_name: 'page', occurred_at: at(-400 * DAY - 60_000) }],
        ['occurred_at', { event_name: 'page', occurred_at: 'infinity' }],
        ['occurred_at', { event_name: 'page', occurred_at: null }],
      ] as const
    ) {
      const { text, ...told } = { text: JSON.stringify(args).slice(0, 80), error: await refusal(viewer, args) }
      expect({ text, ...told }).toMatchObject({
        text,
        error: { code: 'BL801', name: 'invalid_event', detail: { problem } },
      })
    }
    for (const contact_id of [neighbour.contacts[0]?.id, randomUUID()]) {
      expect(await refusal(viewer, { event_name: 'page', contact_id })).toMatchObject({
        code: 'BL402',
        name: 'contact_not_found',
      })
    }
    expect(valueOf(await platform.from('analytics_events').select('id').match(organization()))).toEqual([])
    // Right on the edge all is well.
    for (
      const args of [
        { event_name: 'a'.repeat(63), properties: {} },
        { event_name: 'a.b_1', occurred_at: at(DAY - 60_000) },
        { event_name: 'a', occurred_at: at(-400 * DAY + 60_000), properties: { text: 'x'.repeat(8100) } },
      ]
    ) valueOf(await viewer.client.rpc('track_event', { ...organization(), ...args }))
    await sql`delete from public.analytics_events where organization_id = ${clinic.id}`
  })

  test('of who turned out to be another are told of that one', async () => {
    const merged = await sql<{ id: string; merged_into_id: string }[]>`
      insert into public.contacts (organization_id, name, merged_into_id)
      select c.organization_id, 'Antes', c.id from public.contacts c
      where c.organization_id = ${clinic.id} and c.merged_into_id is null limit 1
      returning id, merged_into_id`
    const [{ id, merged_into_id } = { id: '', merged_into_id: '' }] = merged
    expect(valueOf(await viewer.client.rpc('track_event', { ...organization(), event_name: 'page', contact_id: id })))
      .toMatchObject({ contact_id: merged_into_id })
    await sql`delete from public.analytics_events where organization_id = ${clinic.id}`
  })
})
