// The list of business errors is true: what the database can raise, the types name and the documentation explains.

import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { PROJECT_DIR } from '../../local/environment.ts'
import { businessErrors } from '../../types/index.ts'
import { runningStack } from '../support/running-stack.ts'

const listed = Object.entries(businessErrors).map(([code, name]) => `${code} ${name}`).sort()
const sql = postgres(runningStack().urls.admin, { max: 1 })
let sources: { name: string; source: string }[] = []

beforeAll(async () => {
  sources = await sql`
    select p.oid::regprocedure::text as name, p.prosrc as source
    from pg_catalog.pg_proc p
    where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)`
})

afterAll(() => sql.end())

test('types/errors.ts lists exactly the errors that functions raise, by the same names', () => {
  const raised = sources.flatMap(({ source }) =>
    [...source.matchAll(/raise_error\(\s*'(\w+)',\s*'(\w+)'/g)].map(([, code, name]) => `${code} ${name}`)
  )
  expect([...new Set(raised)].sort()).toEqual(listed)
})

test('no function raises a business error in a way that this test does not see', () => {
  const seen = /raise_error\(\s*'BL\d{3}',\s*'[a-z_]+',/g
  for (const { name, source } of sources) {
    if (name.startsWith('private.raise_error(')) continue
    expect({ name, calls: source.match(/raise_error/g)?.length ?? 0 })
      .toEqual({ name, calls: source.match(seen)?.length ?? 0 })
    expect({ name, code: source.replaceAll(seen, '').replaceAll(/sqlstate 'BL\d{3}'/g, '').match(/BL\d{3}/)?.[0] }).toEqual({ name, code: undefined })
  }
})

test('docs/errors.md explains exactly these', async () => {
  const text = await readFile(join(PROJECT_DIR, 'docs', 'errors.md'), 'utf8')
  const explained = [...text.matchAll(/^\| (BL\d{3}) \| `(\w+)` \|/gm)].map(([, code, name]) => `${code} ${name}`)
  expect(explained.sort()).toEqual(listed)
})

test('docs/errors.md explains what the edge functions answer, and what they note on a message', async () => {
  const text = await readFile(join(PROJECT_DIR, 'docs', 'errors.md'), 'utf8')
  const folder = join(PROJECT_DIR, 'functions')
  const files = (await readdir(folder, { recursive: true })).filter((name) => name.endsWith('.ts'))
  const codes = new Set<string>()
  for (const file of files) {
    const source = await readFile(join(folder, file), 'utf8')
    for (const [, code = ''] of source.matchAll(/new HttpError\(\s*\d+,\s*'([a-z_]+)'/g)) codes.add(code)
    for (const [, code = ''] of source.matchAll(/result: 'failed', code: '([a-z_]+)'/g)) codes.add(code)
  }
  expect(codes.size).toBeGreaterThan(15)
  const unexplained = [...codes].filter((code) => !text.includes(`\`${code}\``) && !code.endsWith('_not_found'))
  expect(unexplained).toEqual([])
})

test('the errors that a function announces in its comment are errors that there are', async () => {
  const comments = await sql<{ name: string; comment: string }[]>`
    select p.oid::regprocedure::text as name, d.description as comment
    from pg_catalog.pg_proc p
    join pg_catalog.pg_description d on d.objoid = p.oid and d.classoid = 'pg_catalog.pg_proc'::regclass
    where p.pronamespace = 'public'::regnamespace and d.description ~ 'Errors: '`
  expect(comments.length).toBeGreaterThan(5)
  const names = new Set<string>(Object.values(businessErrors))
  for (const { name, comment } of comments) {
    const announced = comment.match(/Errors: (.*)\.$/)?.[1]?.replaceAll(/ \([^)]*\)/g, '').split(', ') ?? []
    expect({ name, unknown: announced.filter((error) => !names.has(error)) }).toEqual({ name, unknown: [] })
  }
})
