// The database tests: each file is run as the role that owns the schema, and its TAP is read.

import { readdir, readFile } from 'node:fs/promises'
import { basename, join, relative } from 'node:path'
import { pipeline } from 'node:stream/promises'
import postgres from 'postgres'
import { messageOf } from '../../local/failure.ts'
import { indent, type Outcome, sum } from './report.ts'
import { outcomeOfTap } from './tap.ts'

export interface DatabaseUnderTest {
  /** As the role `postgres`. */
  database: string
  admin: string
}

/** All of them, or those that are named. */
export async function runDatabaseTests(
  root: string,
  urls: DatabaseUnderTest,
  only?: readonly string[],
): Promise<Outcome> {
  const folder = join(root, 'tests', 'database')
  const files = only ?? (await readdir(folder)).filter((name) => name.endsWith('.test.sql')).sort()
  if (files.length === 0) return { passed: 0, failures: [`${folder} has no test`] }
  const admin = postgres(urls.admin, { max: 1, onnotice: () => undefined })
  try {
    await admin.unsafe('create extension if not exists pgtap with schema extensions')
    await admin.unsafe(await readFile(join(folder, 'setup.sql'), 'utf8')).simple()
    for (const table of [...(await tablesIn(join(root, 'tests'))), ...(await tablesIn(folder))]) {
      await loadTable(admin, table)
    }
    const outcomes: Outcome[] = []
    for (const name of files) {
      outcomes.push(await runFile(join(folder, name), relative(root, join(folder, name)), urls.database))
    }
    return sum(outcomes)
  } finally {
    await admin.unsafe('drop schema if exists tests cascade; drop extension if exists pgtap').simple()
    await admin.end({ timeout: 1 })
  }
}

async function tablesIn(folder: string): Promise<string[]> {
  return (await readdir(folder)).filter((name) => name.endsWith('.csv')).map((name) => join(folder, name))
}

/** A table of test data, `<name>.csv`, becomes the table `tests.<name>` with text columns. */
async function loadTable(sql: postgres.Sql, path: string): Promise<void> {
  const text = await readFile(path, 'utf8')
  const columns = (text.split('\n', 1)[0] ?? '').trim().split(',')
  const table = sql(`tests.${basename(path, '.csv')}`)
  const definition = columns.map((column) => `"${column.replaceAll('"', '""')}" text`).join(', ')
  await sql`create table ${table} (${sql.unsafe(definition)})`
  await sql`grant select on ${table} to public`
  await pipeline([text], await sql`copy ${table} from stdin with (format csv, header true)`.writable())
}

async function runFile(path: string, source: string, databaseUrl: string): Promise<Outcome> {
  const script = await readFile(path, 'utf8')
  const sql = postgres(databaseUrl, { max: 1, onnotice: () => undefined })
  try {
    const results: unknown = await sql.unsafe(script).simple()
    return outcomeOfTap(source, linesOf(results).join('\n'))
  } catch (error) {
    return { passed: 0, failures: [`${source}${lineOf(error, script)}: ${describe(error)}`] }
  } finally {
    await sql.end({ timeout: 1 })
  }
}

/** Every text that the statements of a script returned, in order. */
function linesOf(results: unknown): string[] {
  if (!Array.isArray(results)) return []
  return results.flatMap((result: unknown) =>
    Array.isArray(result)
      ? linesOf(result)
      : typeof result === 'object' && result !== null
      ? Object.values(result).filter((value) => typeof value === 'string')
      : []
  )
}

function lineOf(error: unknown, script: string): string {
  if (!(error instanceof postgres.PostgresError) || !error.position) return ''
  // Positions count characters, not UTF-16 units.
  return `:${[...script].slice(0, Number(error.position) - 1).filter((character) => character === '\n').length + 1}`
}

function describe(error: unknown): string {
  if (!(error instanceof postgres.PostgresError)) return messageOf(error)
  return [`${error.message} (${error.code})`, error.detail, error.hint, error.where].filter(Boolean).join(
    '\n',
  )
}

/** plpgsql_check over every function of ours: what would fail only when a rare branch is reached. */
export async function checkFunctions({ admin }: DatabaseUnderTest): Promise<Outcome> {
  const sql = postgres(admin, { max: 1, onnotice: () => undefined })
  try {
    await sql`create extension if not exists plpgsql_check with schema extensions`
    // A trigger function is checked as each of its triggers calls it.
    const checked = await sql<{ signature: string; found: string[] }[]>`
      select
        concat(p.oid::regprocedure, ' on ' || t.tgrelid::regclass) as signature,
        array(
          select concat_ws(' ', c.level, c.sqlstate, 'at line', c.lineno, c.message, c.detail, c.hint)
          from extensions.plpgsql_check_function_tb(
            p.oid, coalesce(t.tgrelid, 0),
            -- One function may serve several triggers, and look only at the tables of the one that called it.
            oldtable => (select max(o.tgoldtable::text) from pg_catalog.pg_trigger o where o.tgfoid = p.oid),
            newtable => (select max(o.tgnewtable::text) from pg_catalog.pg_trigger o where o.tgfoid = p.oid),
            extra_warnings => false, performance_warnings => false) c
        ) as found
      from pg_catalog.pg_proc p
      join pg_catalog.pg_namespace n on n.oid = p.pronamespace
      join pg_catalog.pg_language l on l.oid = p.prolang
      left join pg_catalog.pg_trigger t on t.tgfoid = p.oid and t.tgparentid = 0
      where n.nspname in ('public', 'private', 'analytics')
        and l.lanname = 'plpgsql'
        and p.prorettype <> 'event_trigger'::regtype
        and (p.prorettype <> 'trigger'::regtype or t.oid is not null)
        and not exists (select from pg_catalog.pg_depend d where d.objid = p.oid and d.deptype = 'e')
      order by signature`
    const failures = checked
      .filter(({ found }) => found.length > 0)
      .map(({ signature, found }) => [signature, ...found.map((line) => indent(line))].join('\n'))
    if (checked.length === 0) failures.push('plpgsql_check: there is no function to check')
    return { passed: checked.filter(({ found }) => found.length === 0).length, failures }
  } finally {
    await sql.unsafe('drop extension if exists plpgsql_check')
    await sql.end({ timeout: 1 })
  }
}
