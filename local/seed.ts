// npm run seed: supabase/seed.sql into the stack that runs, and people who can sign in to look at it.
//
// Again it changes nothing. The passwords follow from the data directory's secrets, so that no two machines share them.

import { createHmac } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { createClient, type SupabaseClient } from '@supabase/supabase-js'
import postgres from 'postgres'
import WebSocket from 'ws'
import { createTenantClient, type Database, type Enums } from '../types/index.ts'
import { apiKeys } from './api-keys.ts'
import { DataDirectory, type Secrets } from './data-directory.ts'
import { dataDir, PROJECT_DIR } from './environment.ts'
import { Failure, messageOf } from './failure.ts'
import { outliveLostConnections } from './lost-connection.ts'
import { isAlive } from './processes.ts'

interface Person {
  email: string
  firstName: string
  lastName: string
  role: Enums<'member_role'>
  organization: string
  /** The professional of the seed that this person is. */
  professional?: string
}

const CLINIC = '5eed0000-0000-4000-8000-000000001000'
const PET_SHOP = '5eed0000-0000-4000-8000-000000002000'
const CONSULTANCY = '5eed0000-0000-4000-8000-000000003000'

const PEOPLE: Person[] = [
  {
    email: 'helena@clinica.example',
    firstName: 'Helena',
    lastName: 'Prado Azevedo',
    role: 'owner',
    organization: CLINIC,
    professional: '5eed0002-0000-4000-8000-000000001001',
  },
  { email: 'joana@clinica.example', firstName: 'Joana', lastName: 'Siqueira', role: 'attendant', organization: CLINIC },
  { email: 'bruna@petshop.example', firstName: 'Bruna', lastName: 'Sartori', role: 'owner', organization: PET_SHOP },
  {
    email: 'renata@planos.example',
    firstName: 'Renata',
    lastName: 'Cavalcanti',
    role: 'owner',
    organization: CONSULTANCY,
    professional: '5eed0002-0000-4000-8000-000000003001',
  },
]

// Before version 22 Node has none, and supabase-js wants one even where nothing listens.
if (!('WebSocket' in globalThis)) Object.assign(globalThis, { WebSocket })

const inMemory = { auth: { persistSession: false, autoRefreshToken: false } }

outliveLostConnections()
try {
  const { api, databaseUrl, secrets } = await runningStack()
  const keys = apiKeys(secrets)
  const wasThere = await load(databaseUrl)
  const platform = createClient<Database>(api, keys.secret, inMemory)
  const password = createHmac('sha256', secrets.jwtSecret).update('npm run seed').digest('base64url').slice(0, 16)
  const lines: string[][] = []
  for (const person of PEOPLE) {
    await admit(platform, await userId(api, keys.publishable, person, password), person)
    lines.push([person.email, person.role, await view(api, keys.publishable, person, password)])
  }
  await refreshAnalytics(platform)
  const width = (column: number) => Math.max(...lines.map((line) => line[column]?.length ?? 0)) + 2
  const widths = [width(0), width(1)]
  console.log([
    wasThere ? `The seed is on ${api} already; nothing was changed.` : `Three businesses are on ${api}.`,
    '',
    ...lines.map((line) => `  ${line.map((text, column) => text.padEnd(widths[column] ?? 0)).join('')}`),
    '',
    `  Password  ${password}  (everybody's, on this machine only)`,
  ].join('\n'))
} catch (error) {
  console.error(`Balcão: ${messageOf(error)}`)
  process.exitCode = 1
}

async function runningStack(): Promise<{ api: string; databaseUrl: string; secrets: Secrets }> {
  const data = DataDirectory.at(dataDir())
  const state = data.readState()
  if (state === null || !isAlive(state)) throw new Failure('Nothing runs here: npm start.')
  if (state.status !== 'ready' || state.apiPort === null || state.databaseUrl === null) {
    throw new Failure(`Balcão is still starting (process ${state.pid}).`)
  }
  // BALCAO_DB_URL may have named a database elsewhere; people with a password that is printed do not belong there.
  if (!['127.0.0.1', 'localhost', '[::1]'].includes(new URL(state.databaseUrl).hostname)) {
    throw new Failure("The stack's database is not on this machine: nothing was written.")
  }
  return {
    api: `http://127.0.0.1:${state.apiPort}`,
    databaseUrl: state.databaseUrl,
    secrets: await data.existingSecrets(),
  }
}

/** Whether it had been loaded before. */
async function load(databaseUrl: string): Promise<boolean> {
  const seed = await readFile(join(PROJECT_DIR, 'supabase', 'seed.sql'), 'utf8')
  const sql = postgres(databaseUrl, { max: 1, connect_timeout: 10, onnotice: () => undefined })
  try {
    const before = await sql`select from public.organizations where id = ${CLINIC}`
    await sql.unsafe(seed)
    return before.length > 0
  } catch (error) {
    throw new Failure(`supabase/seed.sql was not loaded: ${messageOf(error)}`)
  } finally {
    await sql.end({ timeout: 1 })
  }
}

/** Signs up as anybody does; whoever has signed up before signs in. */
async function userId(api: string, publishableKey: string, { email }: Person, password: string): Promise<string> {
  const { auth } = createClient<Database>(api, publishableKey, inMemory)
  const signIn = () => auth.signInWithPassword({ email, password })
  // The third: another "npm run seed" signed up in between.
  for (const enter of [signIn, () => auth.signUp({ email, password }), signIn]) {
    const { data: { user, session } } = await enter()
    if (user !== null && session !== null) return user.id
  }
  throw new Failure(`${email} has another password here than this command gives: "npm run reset" starts over.`)
}

async function admit(platform: SupabaseClient<Database>, user_id: string, person: Person): Promise<void> {
  const { organization: organization_id, role, professional, firstName: first_name, lastName: last_name } = person
  // Whoever has been made something else since stays that.
  const onlyNew = { ignoreDuplicates: true }
  done(await platform.from('user_roles').upsert({ organization_id, user_id, role }, onlyNew))
  done(await platform.from('profiles').upsert({ user_id, first_name, last_name }, onlyNew))
  if (professional === undefined) return
  done(
    await platform.from('professionals').update({ user_id })
      .eq('organization_id', organization_id).eq('id', professional).is('user_id', null),
  )
}

/** What a person sees after signing in, under row level security. */
async function view(api: string, publishableKey: string, person: Person, password: string): Promise<string> {
  const client = createTenantClient(api, publishableKey, person.organization, inMemory)
  const { error } = await client.auth.signInWithPassword({ email: person.email, password })
  if (error !== null) throw new Failure(`${person.email} cannot sign in: ${error.message}`)
  const { data: organization } = await client.from('organizations').select('name, timezone').maybeSingle()
  // The role may have been taken away since.
  if (organization === null) return 'is no member any more'
  const today = new Intl.DateTimeFormat('en-CA', { timeZone: organization.timezone }).format(new Date())
  const all = { count: 'exact', head: true } as const
  const [bookings, conversations, leads] = await Promise.all([
    // As the dashboard counts them.
    client.from('bookings').select('id', all).eq('booking_date', today).not('status', 'in', '(hold,cancelled)'),
    client.from('conversations').select('id', all).eq('is_open', true),
    client.from('leads').select('id', all).eq('is_open', true),
  ])
  for (const answer of [bookings, conversations, leads]) done(answer)
  const sight = [`${bookings.count} bookings today`, `${conversations.count} open conversations`, `${leads.count} open leads`]
  return `${organization.name}: ${sight.join(', ')}`
}

/** Most of the figures that the dashboard shows are computed nightly. */
async function refreshAnalytics(platform: SupabaseClient<Database>): Promise<void> {
  for (let tries = 0; tries < 40; tries++) {
    const { data, error } = await platform.rpc('refresh_analytics_views')
    done({ error })
    const failed = data?.find((refresh) => 'error' in refresh && refresh.error !== null)
    if (failed !== undefined) throw new Failure(`${failed.view_name} was not computed: ${String(failed.error)}`)
    // What the clock's own refresh had begun to read may be from before the seed.
    if (data?.every(({ refreshed }) => refreshed)) return
    await sleep(250)
  }
  throw new Failure('The analytics are being computed by somebody else, for longer than they should: try again.')
}

function done({ error }: { error: { message: string } | null }): void {
  if (error !== null) throw new Failure(error.message)
}
