// What docs/operations.md tells an operator to do, done: its SQL as the role that a hosted project gives, its commands' flags
// against the CLI, its tables against the database. Whatever changes there must change in the document too.

import { execFile } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { PROJECT_DIR } from '../../local/environment.ts'
import { cliEnvironment, supabaseCli } from '../../local/migrations.ts'
import type { Stack } from '../../local/stack.ts'
import { startOwnStack } from '../support/own-stack.ts'
import { seen } from '../support/conversations.ts'

const document = await readFile(join(PROJECT_DIR, 'docs', 'operations.md'), 'utf8')

interface Block {
  language: string
  /** What the test does with it: run it, or nothing because only the platform can. */
  mark: string
  text: string
}

const blocks = [...document.matchAll(/^( *)(?:\d\. )?```(\w+)(?: (\w+))?\n([\s\S]*?)^ *```$/gm)].map(
  ([, indent = '', language = '', mark = '', text = '']): Block => ({
    language,
    mark,
    text: text.replaceAll(new RegExp(`^${indent}`, 'gm'), '').trim(),
  }),
)
const statements = blocks.filter(({ language, mark }) => language === 'sql' && mark === 'run').map(({ text }) => text)
/** In tables and sentences; what has a placeholder is for the reader to fill in. */
const inline = [...document.matchAll(/`((?:select|update|delete|alter) [^`]*)`/g)]
  .map(([, statement = '']) => statement)
  .filter((statement) => !/[<…]|\bnet\./.test(statement))

/** The statement of the document that contains this. */
function statementWith(part: string): string {
  const found = statements.filter((statement) => statement.includes(part))
  if (found[0] === undefined || found.length > 1) throw new Error(`${found.length} statements have ${part}.`)
  return found[0]
}

/** The first table under a heading, by its rows. */
function tableUnder(heading: string): string[][] {
  const section = document.split(new RegExp(`^#+ ${heading}$`, 'm'))[1] ?? ''
  const table = /(?:^\|.*\n)+/m.exec(section)?.[0] ?? ''
  return table.trim().split('\n').slice(2).map((row) => row.split('|').slice(1, -1).map((cell) => cell.trim()))
}

const unquoted = (cell: string | undefined): string => cell?.replaceAll('`', '') ?? ''

let stack: Stack
/** As the role postgres, which is no superuser. */
let operator: postgres.Sql
let admin: postgres.Sql
const notices: string[] = []

beforeAll(async () => {
  // Of its own, because a restore begins by emptying every table; without the clock, which would be in its way.
  stack = await startOwnStack({ ticker: false })
  operator = postgres(stack.urls.database, { max: 2, onnotice: ({ message = '' }) => void notices.push(message) })
  admin = postgres(stack.urls.admin, { max: 2, onnotice: ({ message = '' }) => void notices.push(message) })
})
afterAll(async () => {
  await operator?.end({ timeout: 1 })
  await admin?.end({ timeout: 1 })
  await stack?.stop()
})

class Undone extends Error {}

/** In a transaction that leaves nothing. */
async function undone<T>(sql: postgres.Sql, work: (transaction: postgres.TransactionSql) => Promise<T>): Promise<T> {
  let answer: { value: T } | null = null
  await sql.begin(async (transaction) => {
    answer = { value: await work(transaction) }
    throw new Undone()
  }).catch((error: unknown) => {
    if (!(error instanceof Undone)) throw error
  })
  if (answer === null) throw new Error('The transaction did not begin.')
  return (answer as { value: T }).value
}

describe('the SQL', () => {
  test('is run by somebody who is no superuser', async () => {
    expect(await operator`select rolname, rolsuper from pg_roles where rolname = current_user`)
      .toEqual([{ rolname: 'postgres', rolsuper: false }])
  })

  test('has no block that nobody tries without saying so', () => {
    expect(statements.length).toBeGreaterThan(15)
    const marks = blocks.filter(({ language }) => language === 'sql').map(({ mark }) => mark)
    expect(new Set(marks)).toEqual(new Set(['run', 'platform', 'statements']))
    // Two secrets of the vault, and a view of an extension that must be loaded when the server starts.
    expect(marks.filter((mark) => mark !== 'run')).toHaveLength(2)
  })

  test.each([...statements, ...inline].map((statement) => ({ begins: statement.split('\n', 1)[0], statement })))('runs: $begins', async ({ statement }) => {
    await undone(operator, (sql) => sql.unsafe(statement))
  })
})

describe('monitoring', () => {
  /** Somebody who holds a lock in an open transaction, and somebody who waits for it. */
  async function twoWhoMeet(): Promise<void> {
    const sql = postgres(stack.urls.database, { max: 2, onnotice: () => undefined })
    const [holder, waiter] = [await sql.reserve(), await sql.reserve()]
    await holder`begin`
    await holder`lock table private.schedules`
    const waits = waiter`select count(*) from private.schedules`.catch(() => undefined)
    onTestFinished(async () => {
      await holder`rollback`
      await waits
      holder.release()
      waiter.release()
      await sql.end({ timeout: 1 })
    })
  }

  test('tells who waits for whom, and whose transaction is open', async () => {
    await twoWhoMeet()
    const waiting = await seen(() => operator.unsafe(statementWith('pg_blocking_pids')), (rows) => rows.length > 0)
    expect(waiting).toEqual([expect.objectContaining({
      statement: expect.stringContaining('select count(*) from private.schedules'),
      its_statement: expect.stringContaining('lock table private.schedules'),
      state: 'idle in transaction',
    })])
    const open = await operator.unsafe(statementWith('as open_for'))
    expect(open.map(({ statement }) => statement)).toContain('lock table private.schedules')
  })

  test('names each large table, index and connection', async () => {
    const sizes = await operator.unsafe(statementWith('n_dead_tup'))
    expect(sizes.length).toBeGreaterThan(10)
    const indexes = await operator.unsafe(statementWith('idx_scan = 0'))
    expect(indexes.length).toBeGreaterThan(10)
    const connections = await operator.unsafe(statementWith('max_connections'))
    expect(connections.map(({ usename }) => usename)).toContain('authenticator')
  })

  test('estimates bloat: a table of which most rows are gone is mostly unused', async () => {
    // As postgres, like every table of ours: nobody sees the statistics of what he may not read.
    await operator.unsafe(`
      create table public.bloated (id int, note text) with (autovacuum_enabled = false);
      insert into public.bloated select n, repeat('x', 100) from generate_series(1, 100000) n;
      create table public.filled (id int, note text) with (autovacuum_enabled = false);
      insert into public.filled select n, repeat('x', 100) from generate_series(1, 100000) n;
      delete from public.bloated where id % 5 > 0;`)
    onTestFinished(async () => void (await operator`drop table public.bloated, public.filled`))
    await operator`vacuum (analyze) public.bloated`
    await operator`vacuum (analyze) public.filled`
    const bloat = new Map((await operator.unsafe(statementWith('as bloat')))
      .map((row) => [String(row.table), Number(row.bloat)]))
    expect(bloat.get('bloated')).toBeGreaterThan(70)
    expect(bloat.get('filled') ?? 0).toBeLessThan(10)
  })
})

describe('alerts', () => {
  test('stand in the document with their thresholds', async () => {
    const rules = await operator<{ kind: string; unit: string; warning: string | null; critical: string | null; whose: string }[]>`
      select kind, unit, warning::text, critical::text,
        case when is_for_organizations then 'organization' else 'platform' end as whose
      from private.alert_rules`
    const listed = tableUnder('Alerts').map(([kind, unit = '', warning, critical, whose = '']) => ({
      kind: unquoted(kind),
      unit,
      warning: warning || null,
      critical: critical || null,
      whose,
    }))
    const byKind = (a: { kind: string }, b: { kind: string }) => a.kind.localeCompare(b.kind)
    expect(listed.toSorted(byKind)).toEqual([...rules].toSorted(byKind))
  })
})

describe('a restore', () => {
  const ORGANIZATION = '0ec0de00-0000-7000-8000-000000000001'

  /** A business with a message that has not gone out, and a reminder that is overdue. */
  async function aBusiness(sql: postgres.TransactionSql): Promise<void> {
    await sql.unsafe(`
      set local session_replication_role = replica;
      insert into public.organizations (id, name, slug, vertical) values ('${ORGANIZATION}', 'Clínica', 'clinica-restaurada', 'clinic');
      insert into public.contacts (organization_id, id, name) values ('${ORGANIZATION}', '${ORGANIZATION}', 'Maria');
      insert into public.whatsapp_instances (organization_id, id, provider, name, external_id)
      values ('${ORGANIZATION}', '${ORGANIZATION}', 'evolution', 'Recepção', '1');
      insert into public.conversations (organization_id, id, contact_id, instance_id, whatsapp_chat_id)
      values ('${ORGANIZATION}', '${ORGANIZATION}', '${ORGANIZATION}', '${ORGANIZATION}', '5511900000001');
      insert into public.messages (organization_id, conversation_id, contact_id, instance_id, direction, sender, content, status)
      values ('${ORGANIZATION}', '${ORGANIZATION}', '${ORGANIZATION}', '${ORGANIZATION}', 'outbound', 'human', 'Até amanhã!', 'queued');
      insert into public.notifications (organization_id, contact_id, type, scheduled_for)
      values ('${ORGANIZATION}', '${ORGANIZATION}', 'other', now() - interval '1 hour'),
        ('${ORGANIZATION}', '${ORGANIZATION}', 'other', now() + interval '1 hour');
      set local session_replication_role = origin;
      set local role postgres;`)
  }

  test('begins with tables that are all empty, those of the migrations too', async () => {
    const left = await undone(admin, async (sql) => {
      await aBusiness(sql)
      await sql.unsafe(statementWith('truncate'))
      return (await sql.unsafe(statementWith('query_to_xml'))).filter(({ rows }) => Number(rows) > 0)
    })
    expect(left).toEqual([])
  })

  test('is checked by counts of every table', async () => {
    const counts = await undone(admin, async (sql) => {
      await aBusiness(sql)
      const rows = await sql.unsafe(statementWith('query_to_xml'))
      return new Map(rows.map(({ name, rows }) => [String(name), Number(rows)]))
    })
    expect(counts.get('messages')).toBe(1)
    expect(counts.get('notifications')).toBe(2)
    expect(counts.get('private.schedules')).toBeGreaterThan(10)
    expect(counts.get('auth.users')).toBe(0)
    const [{ tables } = { tables: 0 }] = await operator<{ tables: number }[]>`
      select count(*)::int as tables
      from pg_class
      where relkind in ('r', 'p') and not relispartition
        and relnamespace in ('public'::regnamespace, 'private'::regnamespace)`
    expect(counts.size).toBe(tables + 2)
  })

  test('is checked for rows that name what is not there', async () => {
    const warnings = await undone(admin, async (sql) => {
      await aBusiness(sql)
      notices.length = 0
      await sql.unsafe(statementWith('orphans'))
      const before = [...notices]
      await sql.unsafe('set local role supabase_admin; set local session_replication_role = replica')
      await sql`delete from public.contacts where organization_id = ${ORGANIZATION}`
      await sql.unsafe('set local session_replication_role = origin; set local role postgres')
      await sql.unsafe(statementWith('orphans'))
      return { before, after: notices.slice(before.length).toSorted() }
    })
    expect(warnings).toEqual({
      before: [],
      after: [
        '1 rows of conversations violate conversations_contact_id_fkey',
        '1 rows of messages violate messages_contact_id_fkey',
        '2 rows of notifications violate notifications_contact_id_fkey',
      ],
    })
  })

  test('lets what was queued and overdue rest, and what is still to come go out', async () => {
    const rows = await undone(admin, async (sql) => {
      await aBusiness(sql)
      await sql.unsafe(statementWith("error_code = 'restored'"))
      return {
        messages: await sql`select status, error_code from public.messages where organization_id = ${ORGANIZATION}`,
        notifications: await sql`
          select status, reason from public.notifications where organization_id = ${ORGANIZATION} order by scheduled_for`,
      }
    })
    expect(rows).toEqual({
      messages: [{ status: 'failed', error_code: 'restored' }],
      notifications: [{ status: 'cancelled', reason: 'restored' }, { status: 'pending', reason: null }],
    })
  })
})

test('vacuum: what has settings of its own is what the document says', async () => {
  const settings = await operator.unsafe(statementWith("option_name, option_value\nfrom"))
  expect(settings.map((row) => [String(row.table), row.option_name, row.option_value])).toEqual([
    ['message_queue', 'autovacuum_analyze_scale_factor', '0.05'],
    ['message_queue', 'autovacuum_vacuum_cost_delay', '0'],
    ['message_queue', 'autovacuum_vacuum_scale_factor', '0.02'],
    ['message_queue', 'fillfactor', '70'],
  ])
})

test('nothing of ours needs a session: a pooler may give each transaction another connection', async () => {
  const found = await operator<{ name: string }[]>`
    select p.oid::regprocedure::text as name
    from pg_proc p
    where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)
      and p.prosrc ~* '\\m(pg_(try_)?advisory_lock(_shared)?\\s*\\(|create\\s+(local\\s+)?temp|listen\\s+\\w|prepare\\s+\\w|with\\s+hold|set_config\\([^)]*,\\s*false\\s*\\))'`
  expect(found).toEqual([])
})

test('each variable that the functions read stands in the document, and no other', async () => {
  const read = new Set<string>()
  const functions = join(PROJECT_DIR, 'functions')
  for (const file of await readdir(functions, { recursive: true })) {
    if (!file.endsWith('.ts')) continue
    const text = await readFile(join(functions, file), 'utf8')
    for (const [, name = ''] of text.matchAll(/'((?:BALCAO|SUPABASE)_[A-Z_]+)'/g)) read.add(name)
  }
  const listed = tableUnder('Variables of the functions').flatMap((row) => [...row.join(' ').matchAll(/`((?:BALCAO|SUPABASE)_[A-Z_]+)`/g)])
  expect(new Set(listed.map(([, name]) => name))).toEqual(read)
})

test('each vertical that an organization may have is named', async () => {
  const verticals = await operator<{ label: string }[]>`
    select enumlabel as label from pg_enum where enumtypid = 'public.business_vertical'::regtype order by enumsortorder`
  const sentence = /Found it\. (.*)/.exec(document)?.[1] ?? ''
  expect([...sentence.matchAll(/`(\w+)`/g)].map(([, word]) => word)).toEqual(['vertical', ...verticals.map(({ label }) => label)])
})

test('each of its links within leads somewhere', () => {
  const headings = [...document.matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) => heading.toLowerCase().replaceAll(/[^\p{L}\d -]/gu, '').replaceAll(' ', '-'))
  const links = [...document.matchAll(/\]\(#([^)]*)\)/g)].map(([, anchor]) => anchor)
  expect(links.length).toBeGreaterThan(10)
  expect(headings).toEqual(expect.arrayContaining(links))
})

describe('the CLI', () => {
  const run = promisify(execFile)
  /** Each command, with all the flags that the document gives it anywhere. */
  const commands = new Map<string, Set<string>>()
  for (const [, words = ''] of document.matchAll(/npx supabase ([^`\n]*)/g)) {
    const parts = words.replace(/\s+#.*/, '').split(/\s+/)
    const other = parts.findIndex((part) => !/^[a-z][a-z-]*$/.test(part))
    // A third word is an argument.
    const name = parts.slice(0, Math.min(2, other < 0 ? parts.length : other)).join(' ')
    const flags = parts.flatMap((part) => /^--[a-z-]+/.exec(part)?.[0] ?? [])
    commands.set(name, new Set([...commands.get(name) ?? [], ...flags]))
  }
  let home = ''
  beforeAll(async () => {
    home = await mkdtemp(join(tmpdir(), 'balcao-cli-'))
  })
  afterAll(() => rm(home, { recursive: true, force: true }))

  test.each([...commands])('knows %s', async (name, flags) => {
    const { stdout } = await run(supabaseCli(), [...name.split(' '), '--help'], { env: cliEnvironment(home) })
    // It answers an unknown command with the help of the one above.
    expect(stdout).toMatch(new RegExp(`USAGE\\s+supabase ${name}( |$)`, 'm'))
    for (const flag of flags) expect(stdout).toContain(flag)
  })

  test('is asked about every command', () => {
    expect([...commands.keys()]).toEqual(expect.arrayContaining(['link', 'db push', 'secrets set', 'functions deploy']))
    expect(commands.get('functions deploy')).toEqual(new Set(['--use-api']))
  })
})
