// Another tenant's rows are out of reach of every member, whatever is asked: 20,000 requests at random, and after
// them leaks that are planted, each of which the same requests or the walk over the schema's grants must find.
//
// On a stack of its own: the rows are written behind the triggers, markers where no app would write them, and no ticker
// moves them meanwhile, so that every one must be what it was, to the byte.

import { randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { PROJECT_DIR } from '../../local/environment.ts'
import type { Stack } from '../../local/stack.ts'
import {
  type Aim,
  finalRequests,
  forgedCalls,
  fuzz,
  fuzzTenant,
  type Persona,
  plant,
  randomRequest,
  readCatalog,
  rowsOf,
  tokenOf,
  type World,
} from '../support/fuzz.ts'
import { startOwnStack } from '../support/own-stack.ts'
import { runDatabaseTests } from '../support/pgtap.ts'
import { seeded, testSeed } from '../support/seeded.ts'

/** Codes, hours and figures of a form that no marker has; each table of theirs is marked in other columns. */
const HAVE_A_FORM = [
  'public.ai_interactions.error',
  'public.api_keys.prefix',
  'public.backup_metadata.checksum',
  'public.contacts.cpf',
  'public.data_subject_requests.refusal_reason',
  'public.leads.lost_reason',
  'public.locations.operating_hours',
  'public.message_templates.language',
  'public.message_templates.provider_template_name',
  'public.organization_settings.operating_hours',
  'public.organization_settings.quiet_hours',
  'public.system_alerts.resolution',
  'public.system_alerts.told_as',
  'public.organizations.locale',
  'public.organizations.currency',
]

const REQUESTS = 20_000
const seed = testSeed()
const random = seeded(seed)

let stack: Stack
let sql: postgres.Sql
let world: World
let refused: string[]

beforeAll(async () => {
  stack = await startOwnStack({ ticker: false })
  sql = postgres(stack.urls.admin, { max: 1, onnotice: () => undefined })
  await sql.unsafe(await readFile(join(PROJECT_DIR, 'tests', 'database', 'setup.sql'), 'utf8')).simple()
  const [own, other] = [await aPlantedTenant('own'), await aPlantedTenant('other')]
  refused = other.refused
  world = {
    api: stack.urls.api,
    publishableKey: stack.keys.publishable,
    catalog: await readCatalog(sql),
    own: own.tenant,
    other: other.tenant,
    personas: [...own.personas, { name: 'nobody', token: null }],
    written: new Map(),
  }
  await sql`drop schema tests cascade`
})

afterAll(async () => {
  await sql.end()
  await stack.stop()
})

describe(`requests at random (BALCAO_TEST_SEED=${seed})`, () => {
  test('ask where everything of the other tenant is marked, but for what has a form of its own', () => {
    expect(refused).toEqual(HAVE_A_FORM)
  })

  test(`see nothing of another tenant and change nothing, ${REQUESTS} of them`, async () => {
    const before = await rowsOf(sql, world.other.organizationId)
    const outcome = await fuzz(world, requests(REQUESTS))
    const counts = [...outcome.answers].sort().map(([what, count]) => `${what}: ${count}`).join('\n')
    console.log(
      `BALCAO_TEST_SEED=${seed}: ${outcome.asked} requests, ${outcome.reached.size} relations and functions answered\n${counts}`,
    )
    expect(outcome.leaks).toEqual([])
    expect(outcome.asked).toBe(REQUESTS)
    // They were no idle requests: each of them saw what is their own, and most of what there is answered.
    for (const { name, token } of world.personas) {
      expect({ name, sawOwn: (outcome.sawOwn.get(name) ?? 0) > 100 }).toEqual({ name, sawOwn: token !== null })
    }
    expect(outcome.reached.size).toBeGreaterThan(60)
    expect(Object.fromEntries(await rowsOf(sql, world.other.organizationId))).toEqual(Object.fromEntries(before))
  })

  test("nor does a call with one argument that is the other tenant's", async () => {
    const before = await rowsOf(sql, world.other.organizationId)
    const { leaks, asked } = await fuzz(world, forgedCalls(random, world, 12))
    expect(leaks).toEqual([])
    expect(asked).toBeGreaterThan(1000)
    expect(Object.fromEntries(await rowsOf(sql, world.other.organizationId))).toEqual(Object.fromEntries(before))
  })

  test('nor does a change or a removal without any condition', async () => {
    const before = await rowsOf(sql, world.other.organizationId)
    const { leaks } = await fuzz(world, finalRequests(world))
    expect(leaks).toEqual([])
    expect(Object.fromEntries(await rowsOf(sql, world.other.organizationId))).toEqual(Object.fromEntries(before))
  })
})

// Each of them is there for one test.
describe('a leak that is planted', () => {
  test('is none before: the walk over the schema finds nothing here', async () => {
    expect(await walk('structure.test.sql')).toEqual([])
  })

  test('a policy that lets every member read: the requests find it', async () => {
    await withLeak(
      `alter policy "Members can read their organization's services" on public.services using (true)`,
      `alter policy "Members can read their organization's services" on public.services using (${await conditionOf(
        'services',
        'r',
      )})`,
      async () => expect(await leaksOf({ kinds: ['read'], at: 'services' })).toContain('/rest/v1/services'),
    )
  })

  test('the same where there is no text to mark: the requests know the ids', async () => {
    await withLeak(
      `alter policy "Members can read their organization's working hours" on public.working_hours using (true)`,
      `alter policy "Members can read their organization's working hours" on public.working_hours
        using (${await conditionOf('working_hours', 'r')})`,
      async () => expect(await leaksOf({ kinds: ['read'], at: 'working_hours' })).toContain("the other tenant's id"),
    )
  })

  test('a policy that lets every member add rows for anybody: the requests find it', async () => {
    await withLeak(
      `alter policy "Admins can add services to their organization" on public.services with check (true)`,
      `alter policy "Admins can add services to their organization" on public.services
        with check (${await conditionOf('services', 'a', 'polwithcheck')})`,
      async () =>
        expect(await leaksOf({ kinds: ['insert'], at: 'services' })).toContain('a row for the other tenant was taken'),
    )
  })

  test('a policy that was dropped: the access matrix finds it, nobody reads what is his', async () => {
    const condition = await conditionOf('services', 'r')
    await withLeak(
      `drop policy "Members can read their organization's services" on public.services`,
      `create policy "Members can read their organization's services" on public.services for select to authenticated using (${condition})`,
      async () =>
        expect((await walk('access_matrix.test.sql')).join('\n')).toMatch(
          /may select services: own \(observed: none\)/,
        ),
    )
  })

  test('a table without row security: the requests find it, and so does the walk', async () => {
    await withLeak(
      'alter table public.services disable row level security',
      'alter table public.services enable row level security',
      async () => {
        expect(await leaksOf({ kinds: ['read'], at: 'services' })).toContain('/rest/v1/services')
        expect((await walk('structure.test.sql')).join('\n')).toContain('RLS is enabled and forced on every table')
      },
    )
  })

  test('a grant to anon: the walk finds it, even while the policies still hold', async () => {
    await withLeak(
      'grant select on public.services to anon',
      'revoke select on public.services from anon',
      async () => {
        const findings = await walk('structure.test.sql')
        expect(findings).toHaveLength(1)
        expect(findings[0]).toContain('no table is granted to anon or PUBLIC')
      },
    )
  })

  test('a grant and a policy for anon: the requests of nobody find it', async () => {
    await withLeak(
      `grant select on public.services to anon;
       create policy "Everybody can read services" on public.services for select to anon using (true)`,
      `drop policy "Everybody can read services" on public.services; revoke select on public.services from anon`,
      async () => expect(await leaksOf({ kinds: ['read'], at: 'services' })).toContain('as nobody'),
    )
  })

  test('a view that asks as its owner: the requests find it, and so does the walk', async () => {
    await withLeak(
      `create view public.leak as select * from public.services; grant select on public.leak to authenticated`,
      'drop view public.leak',
      async () => {
        expect(await leaksOf({ kinds: ['read'], at: 'leak' })).toContain('/rest/v1/leak')
        expect((await walk('structure.test.sql')).join('\n')).toContain('every view asks as its reader')
      },
    )
  })

  test('a materialized view in sight: the requests find it, and so does the walk', async () => {
    await withLeak(
      `create materialized view public.leak as select * from public.services; grant select on public.leak to authenticated`,
      'drop materialized view public.leak',
      async () => {
        expect(await leaksOf({ kinds: ['read'], at: 'leak' })).toContain('/rest/v1/leak')
        expect((await walk('structure.test.sql')).join('\n')).toContain('every view asks as its reader')
      },
    )
  })

  test('a materialized view of the analytics granted: the walk finds it', async () => {
    await withLeak(
      'grant select on analytics.service_analytics to authenticated',
      'revoke select on analytics.service_analytics from authenticated',
      async () =>
        expect((await walk('structure.test.sql')).join('\n')).toContain(
          'analytics.service_analytics authenticated SELECT',
        ),
    )
  })

  test('a function that runs as its owner and checks nobody: the requests find it, and so does the walk', async () => {
    await withLeak(
      `create function public.leak(organization_id uuid) returns setof public.services language sql stable security definer
         set search_path = '' as 'select * from public.services s where s.organization_id = leak.organization_id';
       revoke all on function public.leak(uuid) from public;
       grant execute on function public.leak(uuid) to authenticated`,
      'drop function public.leak(uuid)',
      async () => {
        expect(await leaksOf({ kinds: ['call'], at: 'leak' })).toContain('/rest/v1/rpc/leak')
        const findings = (await walk('structure.test.sql')).join('\n')
        expect(findings).toContain('no function in the API schema is security definer')
        expect(findings).toContain('function_access.csv')
      },
    )
  })

  test('a function that checks the organization but not whose the id is: the requests find it', async () => {
    await withLeak(
      `create function private.leak(organization_id uuid, contact_id uuid) returns text language plpgsql security definer
         set search_path = '' as $$ begin
           if not public.has_role(auth.uid(), 'viewer', organization_id) then return null; end if;
           return (select c.name from public.contacts c where c.id = contact_id);
         end $$;
       create function public.leak(organization_id uuid, contact_id uuid default null) returns text language sql
         set search_path = '' as 'select private.leak(organization_id, contact_id)';
       grant execute on function private.leak(uuid, uuid), public.leak(uuid, uuid) to authenticated`,
      'drop function public.leak(uuid, uuid), private.leak(uuid, uuid)',
      async () =>
        expect(await leaksOf({ kinds: ['call'], at: 'leak', forged: 'contact_id' })).toContain('/rest/v1/rpc/leak'),
    )
  })

  test('a function of the platform granted to members: the walk finds it', async () => {
    await withLeak(
      'grant execute on function public.get_meta_app(text) to authenticated',
      'revoke execute on function public.get_meta_app(text) from authenticated',
      async () => expect((await walk('structure.test.sql')).join('\n')).toContain('function_access.csv'),
    )
  })

  // The last one: what it overwrites is no longer marked.
  test('a policy that lets every member change what he cannot read: the requests find it', async () => {
    const before = await rowsOf(sql, world.other.organizationId)
    await withLeak(
      `alter policy "Admins can update their organization's services" on public.services using (true) with check (true)`,
      `alter policy "Admins can update their organization's services" on public.services
        using (${await conditionOf('services', 'w')}) with check (${await conditionOf(
        'services',
        'w',
        'polwithcheck',
      )})`,
      async () => {
        await fuzz(world, finalRequests(world, 'services'))
        const after = await rowsOf(sql, world.other.organizationId)
        expect(changedTables(before, after)).toContain('public.services')
      },
    )
  })
})

/** As the role that migrations run as; PostgREST knows of it when the body runs. */
async function withLeak(leak: string, undo: string, body: () => Promise<void>): Promise<void> {
  const owner = postgres(stack.urls.database, { max: 1, onnotice: () => undefined })
  const [catalog, there] = [world.catalog, 'leak']
  try {
    await owner.unsafe(leak).simple()
    world.catalog = await readCatalog(sql)
    const isRelation = world.catalog.relations.some(({ name }) => name === there)
    const isFunction = world.catalog.functions.some(({ name }) => name === there)
    if (isRelation || isFunction) {
      await owner`notify pgrst, 'reload schema'`
      const path = isRelation ? there : `rpc/${there}?organization_id=${world.own.organizationId}`
      await expect.poll(() => statusOf(path), { timeout: 30_000, interval: 50 }).toBe(200)
    }
    await body()
  } finally {
    world.catalog = catalog
    await owner.unsafe(undo).simple()
    await owner.end()
  }
}

async function statusOf(path: string): Promise<number> {
  const owner = world.personas.find(({ name }) => name === 'owner')
  const response = await fetch(`${world.api}/rest/v1/${path}`, {
    headers: { apikey: world.publishableKey, authorization: `Bearer ${owner?.token ?? ''}` },
  })
  await response.body?.cancel()
  return response.status
}

async function leaksOf(aim: Aim): Promise<string> {
  return (await fuzz(world, requests(300, aim))).leaks.join('\n')
}

/** What the database's own tests have against the schema as it is now. */
async function walk(file: string): Promise<string[]> {
  return (await runDatabaseTests(PROJECT_DIR, stack.urls, [file])).failures
}

async function conditionOf(
  table: string,
  command: 'r' | 'a' | 'w',
  part: 'polqual' | 'polwithcheck' = 'polqual',
): Promise<string> {
  const [policy] = await sql<{ condition: string }[]>`
    select pg_get_expr(${sql(part)}, polrelid) as condition from pg_policy
    where polrelid = ${`public.${table}`}::regclass and polcmd = ${command}`
  if (policy === undefined) throw new Error(`There is no such policy on ${table}.`)
  return policy.condition
}

const changedTables = (before: Map<string, string[]>, after: Map<string, string[]>) =>
  [...before.keys()].filter((table) => JSON.stringify(before.get(table)) !== JSON.stringify(after.get(table)))

function* requests(count: number, aim: Aim = {}) {
  for (let made = 0; made < count; made++) yield randomRequest(random, world, aim)
}

async function aPlantedTenant(name: string) {
  const marker = `leak${name}${randomUUID().replaceAll('-', '').slice(0, 12)}`
  const [made] = await sql<{ organizationId: string }[]>`select tests.a_tenant(${marker}) as "organizationId"`
  const organizationId = made?.organizationId ?? ''
  // The machine user of its API key, as the function `token` makes him.
  await sql.begin(async (tx) => {
    await tx`set local session_replication_role = replica`
    await tx`
      insert into auth.users (id, email)
      select k.user_id, ${marker} || '@api-keys.balcao.invalid' from public.api_keys k where k.organization_id = ${organizationId}`
    await tx`
      insert into public.user_roles (organization_id, user_id, role)
      select k.organization_id, k.user_id, k.role from public.api_keys k where k.organization_id = ${organizationId}`
  })
  const refused = await plant(sql, organizationId, marker)
  const members = await sql<{ name: string; userId: string; email: string }[]>`
    select case when u.email like '%@api-keys.balcao.invalid' then 'machine user' else r.role::text end as name,
      r.user_id as "userId", u.email
    from public.user_roles r join auth.users u on u.id = r.user_id where r.organization_id = ${organizationId}`
  const personas = members.map(({ name, userId, email }): Persona => ({
    name,
    token: tokenOf(userId, email, stack.keys.jwtSecret),
  }))
  return { tenant: await fuzzTenant(sql, organizationId, marker), personas, refused }
}
