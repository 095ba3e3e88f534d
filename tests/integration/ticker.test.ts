// What calls cron-refresh and queue-worker where the database cannot.

import { randomUUID } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer, type ServerResponse } from 'node:http'
import { type AddressInfo, createServer as createTcpServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { z } from 'zod'
import type { Stack } from '../../local/stack.ts'
import { coalesced, startTicker, type TickerOptions } from '../../local/ticker.ts'
import { startOwnStack } from '../support/own-stack.ts'
import { eventually } from '../support/processes.ts'
import { runningStack } from '../support/running-stack.ts'

/** A database of our own: notifications of other tests do not reach it. */
let databaseUrl = ''
beforeAll(async () => {
  databaseUrl = await aDatabase()
})
afterAll(async () => await dropDatabase(databaseUrl))

async function aDatabase(): Promise<string> {
  const name = `ticker_${randomUUID().replaceAll('-', '')}`
  await asAdmin((sql) => sql.unsafe(`create database ${name}`))
  const url = new URL(runningStack().urls.admin)
  url.pathname = `/${name}`
  return url.href
}

async function dropDatabase(url: string): Promise<void> {
  await asAdmin((sql) => sql.unsafe(`drop database if exists ${new URL(url).pathname.slice(1)} with (force)`))
}

async function asAdmin(use: (sql: postgres.Sql) => Promise<unknown>, url = runningStack().urls.admin): Promise<void> {
  const sql = postgres(url, { max: 1, onnotice: () => undefined })
  try {
    await use(sql)
  } finally {
    await sql.end()
  }
}

interface Functions {
  url: string
  /** Calls that came, by function. */
  called: Record<string, number>
  /** Calls that wait for an answer; null answers at once. */
  held: ServerResponse[] | null
  keys: Set<string | undefined>
  /** How each was called, by function and query. */
  queries: Set<string>
  status: number
}

/** Edge functions that only count. */
async function functionsThat(holds: 'answer' | 'keep waiting'): Promise<Functions> {
  const functions: Functions = {
    url: '',
    called: { 'cron-refresh': 0, 'queue-worker': 0 },
    held: holds === 'answer' ? null : [],
    keys: new Set(),
    queries: new Set(),
    status: 200,
  }
  const server = createServer((request, response) => {
    const { pathname, search } = new URL(request.url ?? '', 'http://functions')
    const name = pathname.slice(1)
    functions.queries.add(`${name}${search}`)
    functions.called[name] = (functions.called[name] ?? 0) + 1
    functions.keys.add(request.headers.apikey?.toString())
    response.statusCode = functions.status
    request.resume()
    if (functions.held === null) response.end('{}')
    else functions.held.push(response)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  functions.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return functions
}

const noted = z.strictObject({ time: z.iso.datetime(), what: z.string(), state: z.string() })

function tickerOn(functions: Functions, options: Partial<TickerOptions> = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'balcao-ticker-'))
  const logFile = join(folder, 'ticker.log')
  const ticker = startTicker({
    databaseUrl,
    functionsUrl: functions.url,
    secretKey: 'sb_secret_test',
    logFile,
    everyMs: 20,
    hurry: new AbortController().signal,
    ...options,
  })
  onTestFinished(async () => {
    await ticker.stop()
    rmSync(folder, { recursive: true, force: true })
  })
  const statesOf = (what: string): string[] => {
    if (!existsSync(logFile)) return []
    const lines = readFileSync(logFile, 'utf8').trim().split('\n').map((line) => noted.parse(JSON.parse(line)))
    return lines.filter((line) => line.what === what).map(({ state }) => state)
  }
  return { ticker, statesOf }
}

async function wake(url = databaseUrl, times = 1): Promise<void> {
  await asAdmin(async (sql) => {
    // One transaction would make one of equal notifications.
    for (let time = 0; time < times; time++) await sql`select pg_notify('balcao_wake', '')`
  }, url)
}

test('cron-refresh is called again and again, with the secret key, and what it runs is not waited for', async () => {
  const functions = await functionsThat('answer')
  tickerOn(functions)
  await eventually(() => (functions.called['cron-refresh'] ?? 0) >= 5)
  expect(functions.keys).toEqual(new Set(['sb_secret_test']))
  expect([...functions.queries].filter((call) => call.startsWith('cron-refresh'))).toEqual(['cron-refresh?wait=false'])
})

test('not while an earlier call is under way', async () => {
  const functions = await functionsThat('keep waiting')
  const { ticker } = tickerOn(functions, { everyMs: 1 })
  await eventually(() => functions.called['cron-refresh'] === 1)
  // As long as it takes for a hundred more to come, if they came.
  await wake(databaseUrl, 100)
  expect(functions.called['cron-refresh']).toBe(1)
  for (const response of functions.held ?? []) response.end('{}')
  functions.held = null
  await eventually(() => (functions.called['cron-refresh'] ?? 0) > 1)
  await ticker.stop()
})

test('who begins to listen asks once, and then whenever work is announced', async () => {
  const functions = await functionsThat('answer')
  const { ticker } = tickerOn(functions, { everyMs: 600_000 })
  await eventually(() => functions.called['queue-worker'] === 1)
  await wake()
  await eventually(() => functions.called['queue-worker'] === 2)
  await ticker.stop()
  await wake()
  expect(functions.called['queue-worker']).toBe(2)
})

test('however much work is announced, one call is under way and one follows', async () => {
  let calls = 0
  const answers: (() => void)[] = []
  const worker = coalesced(() => {
    calls += 1
    return new Promise((resolve) => answers.push(resolve))
  })
  for (let time = 0; time < 50; time++) worker.request()
  expect(calls).toBe(1)
  answers.shift()?.()
  await eventually(() => calls === 2)
  answers.shift()?.()
  await worker.idle()
  expect(calls).toBe(2)
  worker.request()
  expect(calls).toBe(3)
  answers.shift()?.()
  await worker.idle()
})

test('a function that is missing is one line in the log, and so is its return', async () => {
  const functions = await functionsThat('answer')
  functions.status = 404
  const { statesOf } = tickerOn(functions, { everyMs: 5 })
  await eventually(() => (functions.called['cron-refresh'] ?? 0) >= 10)
  expect(statesOf('cron-refresh')).toEqual(['answers 404'])
  functions.status = 200
  const before = functions.called['cron-refresh'] ?? 0
  await eventually(() => (functions.called['cron-refresh'] ?? 0) >= before + 10)
  expect(statesOf('cron-refresh')).toEqual(['answers 404', 'answers'])
})

test('functions that are down are tried again', async () => {
  const functions = await functionsThat('answer')
  const { statesOf, ticker } = tickerOn({ ...functions, url: 'http://127.0.0.1:1' }, { everyMs: 5 })
  await eventually(() => statesOf('cron-refresh').length > 0)
  expect(statesOf('cron-refresh')).toEqual([expect.stringMatching(/^cannot be called: /)])
  await ticker.stop()
})

test('a stop waits for what was started, and not for ever', async () => {
  const functions = await functionsThat('keep waiting')
  const { ticker } = tickerOn(functions)
  await eventually(() => functions.called['cron-refresh'] === 1 && functions.called['queue-worker'] === 1)
  const order: string[] = []
  const stopped = ticker.stop().then(() => order.push('stopped'))
  for (const response of functions.held ?? []) {
    response.once('finish', () => order.push('answered'))
    response.end('{}')
  }
  await stopped
  expect(order).toEqual(['answered', 'answered', 'stopped'])
  await wake()
  expect(functions.called).toEqual({ 'cron-refresh': 1, 'queue-worker': 1 })

  const silent = await functionsThat('keep waiting')
  const { ticker: other } = tickerOn(silent)
  await eventually(() => silent.called['cron-refresh'] === 1)
  await other.stop()
  await eventually(() => silent.held?.every((response) => response.destroyed) ?? false)
})

test('a hurried stop does not wait', async () => {
  const functions = await functionsThat('keep waiting')
  const hurry = new AbortController()
  const { ticker } = tickerOn(functions, { hurry: hurry.signal })
  await eventually(() => functions.called['cron-refresh'] === 1)
  hurry.abort()
  await ticker.stop()
  await eventually(() => functions.held?.every((response) => response.destroyed) ?? false)
})

test.each([
  ['refuses', () => 'postgresql://supabase_admin@127.0.0.1:1/postgres'],
  ['says nothing', async () => {
    const server = createTcpServer()
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => void server.close())
    return `postgresql://supabase_admin@127.0.0.1:${(server.address() as AddressInfo).port}/postgres`
  }],
])('a database that %s holds up neither a stop nor anything else', async (_how, address) => {
  const functions = await functionsThat('answer')
  const { ticker } = tickerOn(functions, { databaseUrl: await address() })
  await ticker.stop()
  expect(functions.called).toEqual({ 'cron-refresh': 0, 'queue-worker': 0 })
})

test('on a stack: it listens again after Postgres was killed, and can be switched off', async () => {
  let stack: Stack | null = null
  try {
    stack = await startOwnStack({ ticker: false })
    const functions = await functionsThat('answer')
    const { statesOf } = tickerOn(functions, { databaseUrl: stack.urls.admin, everyMs: 600_000 })
    await eventually(() => functions.called['queue-worker'] === 1)

    const { postgres: killed } = stack.pids()
    stack.kill('postgres')
    const current = stack
    await eventually(() => current.pids().postgres !== null && current.pids().postgres !== killed)
    // It asks, since it cannot know what it has missed; then it hears again.
    await eventually(() => (functions.called['queue-worker'] ?? 0) > 1)
    const before = functions.called['queue-worker'] ?? 0
    await wake(stack.urls.admin)
    await eventually(() => (functions.called['queue-worker'] ?? 0) > before)
    expect(statesOf('queue-worker')).toEqual(['answers'])
    expect(existsSync(join(stack.dataDir, 'logs', 'ticker.log'))).toBe(false)
  } finally {
    await stack?.stop()
  }
})

test('a database with pg_cron calls cron-refresh itself: here is only listened', async () => {
  const own = await aDatabase()
  try {
    // The extension is not installed here; what is asked for is its entry.
    await asAdmin((sql) =>
      sql.unsafe(`
        set allow_system_table_mods = on;
        insert into pg_catalog.pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
        values (99999, 'pg_cron', 10, 2200, false, '1.6');
      `), own)
    const functions = await functionsThat('answer')
    const { ticker } = tickerOn(functions, { databaseUrl: own, everyMs: 1 })
    await eventually(() => functions.called['queue-worker'] === 1)
    await wake(own, 20)
    await eventually(() => (functions.called['queue-worker'] ?? 0) > 1)
    await ticker.stop()
    expect(functions.called['cron-refresh']).toBe(0)
  } finally {
    await dropDatabase(own)
  }
})
