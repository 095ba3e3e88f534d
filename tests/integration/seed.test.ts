// supabase/seed.sql: three businesses that make sense whenever they are loaded, and people who see each their own.

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createClient } from '@supabase/supabase-js'
import postgres from 'postgres'
import { afterAll, describe, expect, test } from 'vitest'
import { apiKeys } from '../../local/api-keys.ts'
import { DataDirectory, type StackState } from '../../local/data-directory.ts'
import { PROJECT_DIR } from '../../local/environment.ts'
import { cliEnvironment, supabaseCli } from '../../local/migrations.ts'
import { identityOf, ProcessTable } from '../../local/processes.ts'
import { address, type Database, operatingHours } from '../../types/index.ts'
import { preparedDataDir } from '../support/own-stack.ts'
import { run, startCommand, temporaryDataDir } from '../support/processes.ts'
import { runningStack } from '../support/running-stack.ts'
import { seeded, testSeed } from '../support/seeded.ts'
import { type Client, valueOf } from '../support/tenants.ts'

const SEED = await readFile(join(PROJECT_DIR, 'supabase', 'seed.sql'), 'utf8')
const NAMES = ['Clínica Vida Plena', 'Focinho Feliz Pet Shop e Veterinária', 'Horizonte Planos de Saúde']

const sql = postgres(runningStack().urls.database, { max: 2, onnotice: () => undefined })
afterAll(() => sql.end({ timeout: 1 }))

/** What a test loads is gone afterwards: other tests share the stack. */
const undone = new Error('rolled back')
type Query = postgres.TransactionSql

async function loadedAt(moment: string | null, look: (query: Query) => Promise<void>): Promise<void> {
  const loading = sql.begin(async (query) => {
    if (moment !== null) await query`select set_config('balcao.seed_now', ${moment}, true)`
    await query.unsafe(SEED)
    await look(query)
    throw undone
  })
  await loading.catch((error) => {
    if (error !== undone) throw error
  })
}

// Claims ----------------------------------------------------------------------------------------------------------------

/** The moment of the seed, as its statements read it. */
const MOMENT = "coalesce(nullif(current_setting('balcao.seed_now', true), '')::timestamptz, now())"

const SEEDED = `
  seeded as (
    select b.*, o.name as organization, s.name as service, s.duration_minutes, s.buffer_minutes, s.capacity,
      coalesce(l.timezone, o.timezone) as timezone, coalesce(l.operating_hours, t.operating_hours) as operating_hours
    from public.bookings b
    join public.organizations o on o.id = b.organization_id
    join public.organization_settings t on t.organization_id = o.id
    join public.services s on s.organization_id = b.organization_id and s.id = b.service_id
    left join public.locations l on l.organization_id = b.organization_id and l.id = b.location_id
    where o.id::text like '5eed0000-%'
  )`

/** Each lists what breaks it. */
const CLAIMS: Record<string, string> = {
  'no two bookings of a professional overlap, buffers included': `
    with ${SEEDED}
    select a.id, b.id as other
    from seeded a
    join seeded b on b.organization_id = a.organization_id and b.professional_id = a.professional_id and b.id > a.id
      and tstzrange(a.start_time, a.blocked_until) && tstzrange(b.start_time, b.blocked_until)`,
  'no service that nobody is named for has more bookings at a time than seats': `
    with ${SEEDED}
    select a.service, a.start_time, count(*)
    from seeded a
    join seeded b on b.organization_id = a.organization_id and b.service_id = a.service_id
      and b.location_id is not distinct from a.location_id
      and b.start_time <= a.start_time and b.blocked_until > a.start_time
    where a.professional_id is null and b.professional_id is null
    group by a.id, a.service, a.start_time, a.capacity
    having count(*) > a.capacity`,
  'nobody is at two places at a time': `
    with ${SEEDED}
    select a.id, b.id as other
    from seeded a
    join seeded b on b.organization_id = a.organization_id and b.contact_id = a.contact_id and b.id > a.id
      and tstzrange(a.start_time, a.end_time) && tstzrange(b.start_time, b.end_time)`,
  'every booking lasts as long as its service, inside the local hours of who gives it': `
    with ${SEEDED}
    select s.id, s.start_time at time zone s.timezone as local, s.service
    from seeded s
    where s.end_time <> s.start_time + make_interval(mins => s.duration_minutes)
      or not exists (
        select
        from (
          select h.weekday::int as weekday, h.starts_at, h.ends_at
          from public.working_hours h
          where h.organization_id = s.organization_id and h.professional_id = s.professional_id
          union all
          select d.weekday::int - 1, (h.value ->> 'starts_at')::time, (h.value ->> 'ends_at')::time
          from unnest('{sunday,monday,tuesday,wednesday,thursday,friday,saturday}'::text[]) with ordinality d (name, weekday)
          cross join jsonb_array_elements(s.operating_hours -> d.name) h (value)
          where s.professional_id is null
        ) hours
        where hours.weekday = extract(dow from s.start_time at time zone s.timezone)
          and hours.starts_at <= (s.start_time at time zone s.timezone)::time
          and hours.ends_at >= (s.end_time at time zone s.timezone)::time
          and (s.start_time at time zone s.timezone)::date = (s.end_time at time zone s.timezone)::date
      )`,
  'nobody works on a day off': `
    with ${SEEDED}
    select s.id, t.reason
    from seeded s
    join public.time_off t on t.organization_id = s.organization_id
      and (t.professional_id is null or t.professional_id = s.professional_id)
      and (t.location_id is null or t.location_id = s.location_id)
      and tstzrange(t.starts_at, t.ends_at) && tstzrange(s.start_time, s.end_time)`,
  'who gives a service is named for it': `
    with ${SEEDED}
    select s.id, s.service
    from seeded s
    where exists (
      select from public.professional_services g where g.organization_id = s.organization_id and g.service_id = s.service_id
    ) and not exists (
      select
      from public.professional_services g
      where g.organization_id = s.organization_id and g.service_id = s.service_id and g.professional_id = s.professional_id
    )`,
  'what is over has an outcome, and what is to come has none': `
    with ${SEEDED}
    select s.id, s.status, s.start_time
    from seeded s
    where case
      when s.end_time <= ${MOMENT} then s.is_live
      when s.start_time <= ${MOMENT} then s.status <> 'confirmed'
      else s.status in ('completed', 'no_show')
    end
    or s.status = 'cancelled' and s.cancellation_reason is null
    or s.created_at > ${MOMENT} or s.confirmed_at > ${MOMENT} or s.cancelled_at > ${MOMENT} or s.completed_at > ${MOMENT}`,
  'what happened, happened before now': `
    select 'message' as what, m.id
    from public.messages m
    where m.organization_id::text like '5eed0000-%' and m.created_at > ${MOMENT}
    union all
    select 'lead', l.id
    from public.leads l
    where l.organization_id::text like '5eed0000-%'
      and greatest(l.created_at, l.closed_at, l.last_interaction_at) > ${MOMENT}
    union all
    select 'lead closed before it came', l.id
    from public.leads l
    where l.organization_id::text like '5eed0000-%' and l.closed_at < l.created_at
    union all
    select 'contact', c.id from public.contacts c where c.organization_id::text like '5eed0000-%' and c.created_at > ${MOMENT}`,
  'every business has a calendar of today, an inbox, a waiting list': `
    select o.name, b.count as bookings, v.count as conversations, w.count as waiting
    from public.organizations o
    cross join lateral (
      select count(*)
      from public.bookings b
      where b.organization_id = o.id and b.booking_date = (${MOMENT} at time zone o.timezone)::date
        and b.status not in ('hold', 'cancelled')
    ) b
    cross join lateral (
      select count(*) from public.conversations v where v.organization_id = o.id and v.is_open and v.unread_count > 0
    ) v
    cross join lateral (select count(*) from public.waiting_list w where w.organization_id = o.id and w.status = 'waiting') w
    where o.id::text like '5eed0000-%' and 0 in (b.count, v.count, w.count)`,
  'every business has bookings and leads in every status': `
    select o.name, wanted.status
    from public.organizations o
    cross join (
      select 'booking', unnest(enum_range(null::public.booking_status))::text
      union all
      select 'lead', unnest(enum_range(null::public.lead_status))::text
    ) wanted (kind, status)
    where o.id::text like '5eed0000-%'
      and not exists (
        select from public.bookings b where wanted.kind = 'booking' and b.organization_id = o.id and b.status::text = wanted.status
        union all
        select
        from public.leads l
        where wanted.kind = 'lead' and l.organization_id = o.id and l.status::text = wanted.status and not l.over_limit
      )`,
  'every service can be booked this week and next': `
    select s.name, week.number
    from public.services s
    cross join (values (0), (1)) week (number)
    where s.organization_id::text like '5eed0000-%'
      and not exists (
        select
        from private.free_slots(
          s.organization_id, s.id, ${MOMENT} + make_interval(weeks => week.number),
          ${MOMENT} + make_interval(weeks => week.number + 1), at => ${MOMENT})
      )`,
  'no slot is offered where somebody is booked': `
    with ${SEEDED}
    select f.start_time, b.id
    from public.services s
    cross join private.free_slots(s.organization_id, s.id, ${MOMENT}, ${MOMENT} + interval '14 days', at => ${MOMENT}) f
    join seeded b on b.organization_id = s.organization_id and b.is_live and b.professional_id = f.professional_id
      and tstzrange(b.start_time, b.blocked_until) && tstzrange(f.start_time, f.end_time)
    where s.organization_id::text like '5eed0000-%'`,
  'nobody is told, and nothing can leave': `
    select 'job' as what, q.id from public.message_queue q where q.organization_id::text like '5eed0000-%'
    union all
    select 'delivery', d.id from public.webhook_deliveries d where d.organization_id::text like '5eed0000-%'
    union all
    select 'endpoint', e.id from public.webhook_endpoints e where e.organization_id::text like '5eed0000-%'
    union all
    select 'number', i.id
    from public.whatsapp_instances i
    where i.organization_id::text like '5eed0000-%' and i.status not in ('disconnected', 'connecting')
    union all
    select 'secret', s.instance_id from private.instance_secrets s where s.organization_id::text like '5eed0000-%'
    union all
    select 'queued message', m.id
    from public.messages m
    where m.organization_id::text like '5eed0000-%' and m.status = 'queued'`,
  'every business is answered by the flow of its kind': `
    select o.name
    from public.organizations o
    where o.id::text like '5eed0000-%'
      and not exists (
        select
        from public.flows f
        where f.organization_id = o.id and f.is_default and f.is_active and f.vertical = o.vertical
      )`,
  "timelines are in the order of their messages' ids": `
    select m.id
    from (
      select m.id, m.created_at, lag(m.created_at) over (partition by m.conversation_id order by m.id) as before
      from public.messages m
      where m.organization_id::text like '5eed0000-%'
    ) m
    where m.before > m.created_at`,
}

const AWKWARD = [
  ['now', null],
  ['one minute before midnight', '2027-06-16T23:59:00-03:00'],
  ['one minute after midnight', '2027-06-17T00:01:00-03:00'],
  ['midnight in São Paulo, the day before in Manaus', '2027-06-17T00:00:00-03:00'],
  ['a Sunday at noon, with people in the chair', '2027-06-20T12:10:00-03:00'],
  ['a Saturday night', '2027-06-19T22:00:00-03:00'],
  ['29 February', '2028-02-29T10:15:00-03:00'],
  ['the last second of a leap day', '2028-02-29T23:59:59-03:00'],
  ["New Year's Eve", '2027-12-31T23:59:59.999-03:00'],
  ['the first of a month, before anybody works', '2027-03-01T03:00:00-03:00'],
] as const

const seed = testSeed()
const random = seeded(seed)
const SOME = Array.from({ length: 6 }, () => {
  const moment = new Date(Date.UTC(2025, 0, 1) + random(5 * 365 * 24 * 60) * 60_000).toISOString()
  return [`${moment} (BALCAO_TEST_SEED=${seed})`, moment] as const
})

describe.each([...AWKWARD, ...SOME])('loaded at %s', (_name, moment) => {
  test('it makes sense', async () => {
    await loadedAt(moment, async (query) => {
      const broken: Record<string, unknown> = {}
      for (const [claim, statement] of Object.entries(CLAIMS)) {
        const rows = await query.unsafe(statement)
        if (rows.length > 0) broken[claim] = rows.slice(0, 5)
      }
      expect(broken).toEqual({})
    })
  })
})

test('loaded again it changes no row of any table', async () => {
  await loadedAt(null, async (query) => {
    const tables = await query<{ name: string }[]>`
      select format('%I.%I', n.nspname, c.relname) as name
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
      where n.nspname in ('public', 'private') and c.relkind in ('r', 'p') and not c.relispartition
        -- But what the clock moves meanwhile.
        and c.relname not in (
          'schedules', 'schedule_runs', 'audit_sealing', 'audit_seals', 'analytics_refreshes', 'system_alerts', 'heard_hours', 'rate_limits')`
    const rows = async () => {
      const found: Record<string, string | undefined> = {}
      for (const { name } of tables) {
        const [row] = await query.unsafe<{ rows: string }[]>(
          `select count(*) || ' ' || coalesce(md5(string_agg(t::text, ';' order by t::text)), '') as rows from ${name} t`,
        )
        found[name] = row?.rows
      }
      return found
    }
    const before = await rows()
    expect(before['public.bookings']).not.toMatch(/^0 /)
    await query.unsafe(SEED)
    expect(await rows()).toEqual(before)
  })
})

test('its JSON is what the types say', async () => {
  await loadedAt(null, async (query) => {
    const hours = await query<{ value: unknown }[]>`
      select operating_hours as value from public.organization_settings where organization_id::text like '5eed0000-%'
      union all
      select operating_hours from public.locations where organization_id::text like '5eed0000-%' and operating_hours is not null`
    expect(hours.length).toBeGreaterThan(3)
    for (const { value } of hours) operatingHours.parse(value)
    const addresses = await query<{ value: unknown }[]>`
      select address as value from public.locations where organization_id::text like '5eed0000-%'
      union all
      select address from public.contacts where organization_id::text like '5eed0000-%'`
    expect(addresses.length).toBeGreaterThan(70)
    for (const { value } of addresses) address.parse(value)
  })
})

test('the names may be taken already', async () => {
  await sql.begin(async (query) => {
    await query`
      insert into public.organizations (name, slug, vertical) values (${NAMES[0] ?? ''}, 'clinica-vida-plena', 'clinic')
      on conflict do nothing`
    await query.unsafe(SEED)
    const found = await query`
      select slug from public.organizations where name = ${NAMES[0] ?? ''} and id::text like '5eed0000-%'`
    expect(found).toEqual([{ slug: 'clinica-vida-plena-2' }])
    throw undone
  }).catch((error) => {
    if (error !== undone) throw error
  })
})

// npm run seed ----------------------------------------------------------------------------------------------------------

const seedCommand = (dataDir: string) =>
  run(['--import', 'tsx', join('local', 'seed.ts')], dataDir, { BALCAO_DB_URL: '' }).ended

describe('on a stack of its own', () => {
  test('half a seed is none; the CLI and npm load it once; each sees the own business', async () => {
    const { path, remove } = await preparedDataDir()
    try {
      await startCommand(path, { BALCAO_DB_URL: '' })
      const data = DataDirectory.at(path)
      const state = data.readState()
      if (state === null || state.databaseUrl === null || state.apiPort === null) throw new Error('It is not ready.')
      const database = postgres(state.databaseUrl, { max: 1, onnotice: () => undefined })
      const names = async () => {
        const found = await database<{ name: string }[]>`select name from public.organizations order by name`
        return found.map(({ name }) => name)
      }
      const broken = SEED.replace('  drop function pg_temp', "  raise exception 'broken off'; drop function pg_temp")
      await expect(database.unsafe(broken)).rejects.toThrow('broken off')
      expect(await names()).toEqual([])

      // As to a hosted project. The CLI remembers that it has loaded a seed; the file knows by itself.
      const pushed = await new ProcessTable({}, () => undefined).run({
        name: 'supabase-db-push',
        file: supabaseCli(),
        args: ['db', 'push', '--yes', '--include-seed', '--workdir', PROJECT_DIR, `--remote=${state.databaseUrl}`],
        env: cliEnvironment(join(path, 'cli')),
        cwd: PROJECT_DIR,
      }, new AbortController().signal)
      expect({ code: pushed.code, stderr: pushed.stderr }).toMatchObject({ code: 0 })
      expect(await names()).toEqual(NAMES)

      const first = await seedCommand(path)
      expect({ code: first.code, stderr: first.stderr }).toEqual({ code: 0, stderr: '' })
      const second = await seedCommand(path)
      expect(second).toEqual(first)
      expect(await names()).toEqual(NAMES)
      const [members] = await database`select count(*)::int as count from public.user_roles`
      expect(members).toEqual({ count: 4 })
      await database.end({ timeout: 1 })

      const password = /Password +(\S+)/.exec(first.stdout)?.[1] ?? ''
      const api = `http://127.0.0.1:${state.apiPort}`
      const { publishable } = apiKeys(await data.existingSecrets())
      for (
        const [email, name, role] of [
          ['helena@clinica.example', NAMES[0], 'owner'],
          ['joana@clinica.example', NAMES[0], 'attendant'],
          ['bruna@petshop.example', NAMES[1], 'owner'],
          ['renata@planos.example', NAMES[2], 'owner'],
        ] as const
      ) {
        const some = '[1-9]\\d*'
        const seen = `${some} bookings today, ${some} open conversations, ${some} open leads`
        expect(first.stdout).toMatch(new RegExp(`${email} +${role} +${name}: ${seen}`))
        const client: Client = createClient<Database>(api, publishable, {
          auth: { persistSession: false, autoRefreshToken: false },
        })
        expect((await client.auth.signInWithPassword({ email, password })).error).toBeNull()
        const metrics = valueOf(await client.from('dashboard_metrics').select('bookings_today').single())
        expect(first.stdout).toContain(`${name}: ${metrics.bookings_today} bookings today`)
        await seesTheOwnBusiness(client, name ?? '', role)
      }
    } finally {
      await remove()
    }
  })
})

/** The queries of a dashboard. */
async function seesTheOwnBusiness(client: Client, name: string, role: string): Promise<void> {
  const [organization, ...others] = valueOf(await client.from('organizations').select('id, name, timezone'))
  expect({ name: organization?.name, others }).toEqual({ name, others: [] })
  const today = new Intl.DateTimeFormat('en-CA', { timeZone: organization?.timezone ?? '' }).format(new Date())
  const bookings = valueOf(
    await client.from('bookings')
      .select('start_time, status, contacts(name, phone_number), pets(name), services(name), professionals(name)')
      .eq('booking_date', today).order('start_time'),
  )
  expect(bookings.length).toBeGreaterThan(0)
  for (const { contacts, pets, services } of bookings) {
    expect(contacts.name).toBeTruthy()
    expect(services.name).toBeTruthy()
    expect(pets === null).toBe(name !== NAMES[1])
  }
  expect(bookings.some(({ professionals }) => professionals !== null)).toBe(true)
  const leads = valueOf(await client.from('leads').select('status, contacts(name)').eq('is_open', true))
  expect(new Set(leads.map(({ status }) => status))).toEqual(new Set(['novo', 'em_contato', 'agendado']))
  const { data: { user } } = await client.auth.getUser()
  const [mine] = valueOf(await client.from('user_roles').select('role').eq('user_id', user?.id ?? ''))
  expect(mine).toEqual({ role })
}

test.each([
  ['nothing runs', null, 'Nothing runs here: npm start.'],
  [
    'the database is elsewhere',
    'postgresql://postgres:postgres@db.example.com:5432/postgres',
    "The stack's database is not on this machine: nothing was written.",
  ],
])('it refuses when %s', async (_when, databaseUrl, message) => {
  const { path, remove } = temporaryDataDir()
  try {
    if (databaseUrl !== null) {
      const data = await DataDirectory.open(path)
      const state: StackState = {
        pid: process.pid,
        identity: identityOf(process.pid) ?? '',
        status: 'ready',
        apiPort: 1,
        dbPort: 1,
        databaseUrl,
        cluster: null,
        runtimeDir: null,
        processes: [],
      }
      data.writeState(state)
      // The data directory of a stack has them.
      await data.secrets()
    }
    expect(await seedCommand(path)).toEqual({ code: 1, stdout: '', stderr: `Balcão: ${message}\n` })
  } finally {
    DataDirectory.at(path).release()
    await remove()
  }
})
