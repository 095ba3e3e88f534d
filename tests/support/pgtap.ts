// The database tests: each file is run as the role that owns the schema, and its TAP is read.

import { readdir, readFile } from 'node:fs/promises'
import { basename, join, relative } from 'node:path'
import { pipeline } from 'node:stream/promises'
import postgres from 'postgres'
import { messageOf } from '../../local/failure.ts'
import { type Outcome, sum } from './report.ts'
import { outcomeOfTap } from './tap.ts'

export interface DatabaseUnderTest {
  /** As the role `postgres`. */
  database: string
  admin: string
}

export async function runDatabaseTests(root: string, urls: DatabaseUnderTest): Promise<Outcome> {
  const folder = join(root, 'tests', 'database')
  const files = (await readdir(folder)).filter((name) => name.endsWith('.test.sql')).sort()
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
  return `:${
    [...script].slice(0, Number(error.position) - 1).filter((character) => character === '\n').length + 1
  }`
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
    const functions = await sql<{ oid: number; signature: string; relation: number | null }[]>`
      select p.oid::int8::int as oid, p.oid::regprocedure::text as signature, min(t.tgrelid::int8)::int as relation
      from pg_catalog.pg_proc p
      join pg_catalog.pg_namespace n on n.oid = p.pronamespace
      join pg_catalog.pg_language l on l.oid = p.prolang
      left join pg_catalog.pg_trigger t on t.tgfoid = p.oid
      where n.nspname in ('public', 'private', 'analytics') and l.lanname = 'plpgsql'
        and p.prorettype <> 'event_trigger'::regtype
        and not exists (select from pg_catalog.pg_depend d where d.objid = p.oid and d.deptype = 'e')
      group by p.oid
      order by signature`
    const failures: string[] = []
    for (const { oid, signature, relation } of functions) {
      const found = await sql<{ message: string }[]>`
        select concat_ws(' ', level, sqlstate, 'at line', lineno, message, detail, hint) as message
        from extensions.plpgsql_check_function_tb(
          ${oid}::oid, ${relation ?? 0}::oid, extra_warnings => false, performance_warnings => false)`
      if (found.length > 0) {
        failures.push([signature, ...found.map(({ message }) => `  ${message}`)].join('\n'))
      }
    }
    if (functions.length === 0) failures.push('plpgsql_check: there is no function to check')
    return { passed: functions.length - failures.length, failures }
  } finally {
    await sql.unsafe('drop extension if exists plpgsql_check')
    await sql.end({ timeout: 1 })
  }
}
