// What the local stack claims about itself, with real processes.

import { createHash } from 'node:crypto'
import {
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { createClient } from '@supabase/supabase-js'
import postgres from 'postgres'
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { z } from 'zod'
import { signJwt } from '../../local/api-keys.ts'
import { DataDirectory } from '../../local/data-directory.ts'
import { Failure } from '../../local/failure.ts'
import { cliEnvironment, supabaseCli } from '../../local/migrations.ts'
import { ProcessTable } from '../../local/processes.ts'
import { PROJECT_DIR } from '../../local/environment.ts'
import { type Stack, startStack } from '../../local/stack.ts'
import { preparedDataDir } from '../support/own-stack.ts'
import {
  command,
  eventually,
  kill,
  PATIENCE_MS,
  processesOf,
  run,
  startCommand,
  temporaryDataDir,
} from '../support/processes.ts'
import { runningStack } from '../support/running-stack.ts'

const VARIABLES = [
  'API_URL',
  'DB_URL',
  'PUBLISHABLE_KEY',
  'SECRET_KEY',
  'ANON_KEY',
  'SERVICE_ROLE_KEY',
  'JWT_SECRET',
  'FUNCTIONS_URL',
  'STORAGE_URL',
]

let dataDir = ''
let removals: (() => Promise<void>)[] = []

function ownDataDir(): string {
  const { path, remove } = temporaryDataDir()
  removals.push(remove)
  return path
}

/** For what is no matter of a first start. */
async function startedBefore(): Promise<string> {
  const { path, remove } = await preparedDataDir()
  removals.push(remove)
  return path
}

afterEach(async () => {
  for (const remove of removals) await remove()
  removals = []
})

/** What a status line of the stack answers, for a check from outside. */
async function answers(api: string, path: string, headers: Record<string, string> = {}): Promise<number> {
  return await fetch(api + path, { headers }).then((response) => response.status, () => 0)
}

async function statusOf(path: string): Promise<Record<string, string>> {
  const { code, stdout, stderr } = await command('status', path, { args: ['-o', 'json'] }).ended
  expect(stderr).toBe('')
  expect(code).toBe(0)
  return z.record(z.string(), z.string()).parse(JSON.parse(stdout))
}

function stateOf(path: string) {
  return DataDirectory.at(path).readState()
}

function pidOf(path: string, name: string): number {
  const found = stateOf(path)?.processes.find((record) => record.name === name)
  if (found === undefined) throw new Error(`${name} does not run`)
  return found.pid
}

describe('npm start', () => {
  test('prints what is where, a second start says so in one line, and Ctrl-C leaves nothing', async () => {
    dataDir = ownDataDir()
    const first = await startCommand(dataDir)
    const status = await statusOf(dataDir)

    const second = await command('start', dataDir).ended
    expect(second).toEqual({
      code: 0,
      stderr: '',
      stdout: `Balcão is already running on ${status.API_URL} (process ${first.pid}).\n`,
    })
    const { runtimeDir } = stateOf(dataDir) ?? {}
    expect(processesOf(dataDir).length).toBeGreaterThanOrEqual(4)

    kill(first.pid, 'SIGINT')
    const { code, stdout, stderr } = await first.ended
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    for (
      const shown of [
        status.API_URL,
        status.DB_URL,
        status.FUNCTIONS_URL,
        status.PUBLISHABLE_KEY,
        status.SECRET_KEY,
      ]
    ) {
      expect(stdout).toContain(shown)
    }
    expect(processesOf(dataDir)).toEqual([])
    expect(existsSync(join(dataDir, 'stack.json'))).toBe(false)
    expect(existsSync(runtimeDir ?? '')).toBe(false)
  })

  test('of two starts at the same moment one wins', async () => {
    dataDir = ownDataDir()
    const [one, other] = [command('start', dataDir), command('start', dataDir)]
    const loser = await Promise.race([one.ended, other.ended])
    expect(loser.code).toBe(0)
    expect(loser.stdout).toMatch(/^Balcão is already (?:starting|running).*\n$/)
    await eventually(() => stateOf(dataDir)?.status === 'ready')
    const winner = stateOf(dataDir)?.pid === one.pid ? one : other
    kill(winner.pid, 'SIGTERM')
    expect((await winner.ended).code).toBe(0)
    expect(processesOf(dataDir)).toEqual([])
  })

  test('SIGTERM, and SIGTERM again, leave nothing', async () => {
    dataDir = await startedBefore()
    const running = await startCommand(dataDir)
    kill(running.pid, 'SIGTERM')
    await sleep(30)
    kill(running.pid, 'SIGTERM')
    expect((await running.ended).code).toBe(0)
    await eventually(() => processesOf(dataDir).length === 0)
    expect(existsSync(join(dataDir, 'stack.json'))).toBe(false)
  })

  test.each([400, 700, 1000])(
    'broken off after %i ms leaves nothing, and the next start works',
    async (delay) => {
      dataDir = ownDataDir()
      const broken = command('start', dataDir)
      await sleep(delay)
      kill(broken.pid, 'SIGINT')
      const { stderr } = await broken.ended
      expect(stderr).toBe('')
      expect(processesOf(dataDir)).toEqual([])
      expect(existsSync(join(dataDir, 'stack.json'))).toBe(false)
      const next = await startCommand(dataDir)
      kill(next.pid, 'SIGTERM')
      expect((await next.ended).code).toBe(0)
    },
  )

  test.each([400, 600, 900])(
    'killed with -9 after %i ms, the next start recovers',
    async (delay) => {
      dataDir = ownDataDir()
      const killed = command('start', dataDir)
      await sleep(delay)
      kill(killed.pid, 'SIGKILL')
      await killed.ended
      const next = await startCommand(dataDir)
      expect(await answers((await statusOf(dataDir)).API_URL ?? '', '/')).toBe(200)
      kill(next.pid, 'SIGTERM')
      expect((await next.ended).code).toBe(0)
      expect(processesOf(dataDir)).toEqual([])
    },
  )

  test.each(['the whole tree', 'the supervisor alone'])(
    'after kill -9 of %s the next start has the data',
    async (what) => {
      dataDir = await startedBefore()
      const first = await startCommand(dataDir)
      const before = await statusOf(dataDir)
      await writeRow(before.DB_URL ?? '', 'kept')
      const all = processesOf(dataDir)
      for (const pid of what === 'the whole tree' ? all : [first.pid]) kill(pid, 'SIGKILL')
      await first.ended
      if (what !== 'the whole tree') expect(processesOf(dataDir)).toContain(pidOf(dataDir, 'postgres'))

      const down = await command('status', dataDir).ended
      expect(down).toEqual({ code: 1, stdout: '', stderr: 'Nothing runs here: npm start.\n' })

      const next = await startCommand(dataDir)
      const after = await statusOf(dataDir)
      expect(after.SECRET_KEY).toBe(before.SECRET_KEY)
      expect(await rows(after.DB_URL ?? '')).toEqual(['kept'])
      // None of the first start's processes is left.
      expect(processesOf(dataDir).filter((pid) => all.includes(pid))).toEqual([])
      kill(next.pid, 'SIGINT')
      await next.ended
      expect(processesOf(dataDir)).toEqual([])
    },
  )

  test('a program that ends without stopping its stack takes the services with it', async () => {
    dataDir = await startedBefore()
    const program = `
      const { startStack } = await import('./local/stack.ts')
      await startStack({ dataDir: process.env.BALCAO_DATA_DIR, apiPort: 0, dbPort: 0 })
      throw new Error('a mistake')`
    const ended = run(['--import', 'tsx', '--input-type=module', '--eval', program], dataDir).ended
    expect((await ended).stderr).toContain('a mistake')
    await eventually(() => processesOf(dataDir).length === 0)
  })

  test('a service that is killed comes back', async () => {
    dataDir = await startedBefore()
    const running = await startCommand(dataDir)
    const { API_URL: api = '', SECRET_KEY: apikey = '' } = await statusOf(dataDir)
    const works = async () =>
      await answers(api, '/rest/v1/organizations?select=id', { apikey }) === 200 &&
      await answers(api, '/functions/v1/health') === 200
    await eventually(works)
    for (const name of ['postgres', 'postgrest', 'functions']) {
      const before = pidOf(dataDir, name)
      kill(before, 'SIGKILL')
      await eventually(() =>
        stateOf(dataDir)?.processes.some((record) => record.name === name && record.pid !== before) === true
      )
      await eventually(works)
    }
    kill(running.pid, 'SIGTERM')
    expect((await running.ended).code).toBe(0)
  })

  test('a service that dies at every start ends the stack with one line', async () => {
    dataDir = await startedBefore()
    const running = await startCommand(dataDir)
    const deaths = (async () => {
      for (;;) {
        const pid = stateOf(dataDir)?.processes.find(({ name }) => name === 'functions')?.pid
        if (pid !== undefined) kill(pid, 'SIGKILL')
        await sleep(10)
        if (running.child.exitCode !== null) return
      }
    })()
    const { code, stderr } = await running.ended
    await deaths
    expect(code).toBe(1)
    expect(stderr).toMatch(/^Balcão: functions died 5 times .*functions\.log\n$/)
    expect(processesOf(dataDir)).toEqual([])
  })

  test.each([['BALCAO_API_PORT', 'API'], ['BALCAO_DB_PORT', 'database']])(
    'a port in use gives one line (%s)',
    async (variable, what) => {
      dataDir = await startedBefore()
      const server = createServer().listen(0, '127.0.0.1')
      onTestFinished(() => void server.close())
      await new Promise((resolve) => server.once('listening', resolve))
      const { port } = server.address() as AddressInfo
      const { code, stdout, stderr } = await command('start', dataDir, { env: { [variable]: String(port) } })
        .ended
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
      expect(stderr).toBe(
        `Balcão: Port ${port} (${what}) is in use by another program: free it, or set ${variable}.\n`,
      )
      expect(processesOf(dataDir)).toEqual([])
    },
  )

  test.each([
    [
      'BALCAO_POSTGRES_BIN_DIR',
      '/nowhere',
      /^Balcão: BALCAO_POSTGRES_BIN_DIR=\/nowhere has no executable "initdb"\.\n$/,
    ],
    ['BALCAO_POSTGREST_BIN', '/nowhere', /^Balcão: BALCAO_POSTGREST_BIN=\/nowhere does not exist\.\n$/],
    ['BALCAO_API_PORT', 'eighty', /^Balcão: BALCAO_API_PORT=eighty is not a port\.\n$/],
    ['BALCAO_DATA_DIR', '/dev/null/x', /^Balcão: The data directory \/dev\/null\/x cannot be used: .*\n$/],
    [
      'BALCAO_DB_URL',
      'postgresql://postgres:x@db.abcdefghijklmnopqrst.supabase.co:5432/postgres',
      /^Balcão: BALCAO_DB_URL names a hosted Supabase project.*\n$/,
    ],
  ])('%s=%s gives one line', async (variable, value, line) => {
    dataDir = ownDataDir()
    const { code, stdout, stderr } = await command('start', dataDir, { env: { [variable]: value } }).ended
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toMatch(line)
    expect(processesOf(dataDir)).toEqual([])
  })

  test('a cluster of another Postgres gives one line', async () => {
    dataDir = ownDataDir()
    mkdirSync(join(dataDir, 'postgres'))
    writeFileSync(join(dataDir, 'postgres', 'PG_VERSION'), '9\n')
    const { code, stderr } = await command('start', dataDir).ended
    expect(code).toBe(1)
    expect(stderr).toMatch(
      /^Balcão: .* was made by Postgres 9, this is \d+: "npm run reset" starts over\.\n$/,
    )
  })
})

describe('npm run status and reset', () => {
  test('a data directory below a closed folder works, and reset finds all of it', async () => {
    // mkdtemp makes folders that only their owner may enter; as root, Postgres runs as somebody else.
    const closed = join(ownDataDir(), 'inner')
    for (const _time of ['made', 'kept']) {
      const running = await startCommand(closed)
      kill(running.pid, 'SIGTERM')
      await running.ended
    }
    const cluster = realpathSync(join(closed, 'postgres'))
    expect(existsSync(join(cluster, 'PG_VERSION'))).toBe(true)
    expect((await command('reset', closed).ended).code).toBe(0)
    expect(existsSync(cluster)).toBe(false)
    expect(existsSync(closed)).toBe(false)
  })

  test('status prints the variables in the format of the Supabase CLI', async () => {
    dataDir = await startedBefore()
    const running = await startCommand(dataDir)
    const { code, stdout } = await command('status', dataDir, { args: ['-o', 'env'] }).ended
    expect(code).toBe(0)
    const lines = stdout.trimEnd().split('\n')
    for (const line of lines) expect(line).toMatch(/^[A-Z_]+="[^"]+"$/)
    expect(lines.map((line) => line.split('=', 1)[0])).toEqual(expect.arrayContaining(VARIABLES))
    expect(await statusOf(dataDir)).toEqual(
      Object.fromEntries(lines.map((line) => /^([A-Z_]+)="(.*)"$/.exec(line)?.slice(1) ?? [])),
    )
    expect(statSync(join(dataDir, 'secrets.json')).mode & 0o777).toBe(0o600)
    expect(statSync(join(dataDir, 'stack.json')).mode & 0o777).toBe(0o600)

    const refused = await command('reset', dataDir).ended
    expect(refused.code).toBe(1)
    expect(refused.stderr).toBe(
      `Balcão is running (process ${running.pid}): stop it first, nothing was removed.\n`,
    )
    expect(existsSync(join(dataDir, 'secrets.json'))).toBe(true)
    kill(running.pid, 'SIGTERM')
    await running.ended

    expect(await command('reset', dataDir).ended).toEqual({
      code: 0,
      stdout: `Removed ${dataDir}.\n`,
      stderr: '',
    })
    expect(existsSync(dataDir)).toBe(false)
  })

  test('reset removes no folder that is not a data directory', async () => {
    dataDir = ownDataDir()
    writeFileSync(join(dataDir, 'letter.txt'), 'dear')
    const { code, stderr } = await command('reset', dataDir).ended
    expect(code).toBe(1)
    expect(stderr).toContain('nothing was removed')
    expect(readFileSync(join(dataDir, 'letter.txt'), 'utf8')).toBe('dear')
  })

  test('reset stops what a killed supervisor left', async () => {
    dataDir = await startedBefore()
    const running = await startCommand(dataDir)
    kill(running.pid, 'SIGKILL')
    await running.ended
    expect((await command('reset', dataDir).ended).code).toBe(0)
    expect(processesOf(dataDir)).toEqual([])
    expect(existsSync(dataDir)).toBe(false)
  })
})

describe('a project of its own', () => {
  const home = temporaryDataDir()
  const data = temporaryDataDir()
  const project = join(home.path, 'project')
  let stack: Stack
  let api = ''

  beforeAll(async () => {
    writeProject(project, { '20260101000000_things.sql': 'create table public.things (id int primary key);' })
    stack = await startStack({ dataDir: data.path, apiPort: 0, dbPort: 0, projectDir: project })
    api = stack.urls.api
  })
  afterAll(async () => {
    await stack?.stop()
    await data.remove()
    await home.remove()
  })

  test('a function sees the path that it sees when hosted, and the raw bytes of the body', async () => {
    const body = new Uint8Array(300_000).map((_byte, index) => index % 251)
    const response = await fetch(`${api}/functions/v1/echo/meta/key?x=%20y&x=2`, {
      method: 'POST',
      body,
      headers: { 'content-type': 'application/json', 'x-hub-signature-256': 'sha256=ff' },
    })
    expect(response.status).toBe(201)
    expect(response.headers.get('x-from-function')).toBe('yes')
    expect(await response.json()).toEqual({
      method: 'POST',
      path: '/echo/meta/key',
      search: '?x=%20y&x=2',
      sha256: createHash('sha256').update(body).digest('hex'),
      signature: 'sha256=ff',
      forwardedHost: new URL(api).host,
      forwardedProto: 'http',
    })
  })

  test('a function answers its own preflight, because the platform does not', async () => {
    const response = await fetch(`${api}/functions/v1/echo`, { method: 'OPTIONS' })
    expect(await response.json()).toMatchObject({ method: 'OPTIONS', path: '/echo' })
  })

  test('a broken function answers BOOT_ERROR and hurts no other', async () => {
    const broken = await fetch(`${api}/functions/v1/broken`)
    expect(broken.status).toBe(503)
    expect(await broken.json()).toMatchObject({ code: 'BOOT_ERROR' })
    expect(await answers(api, '/functions/v1/echo')).toBe(201)
    expect(await answers(api, '/functions/v1/throws')).toBe(500)
    expect(await answers(api, '/functions/v1/unknown')).toBe(404)
    expect(await answers(api, '/functions/v1/')).toBe(404)
    const log = readFileSync(join(stack.dataDir, 'logs', 'functions.log'), 'utf8')
    expect(log).toContain('THE_VARIABLE is missing')
  })

  test('work after the response is finished before the functions stop, and its failure is only logged', async () => {
    expect(await answers(api, '/functions/v1/later')).toBe(200)
    await stack.restartFunctions()
    const log = readFileSync(join(stack.dataDir, 'logs', 'functions.log'), 'utf8')
    expect(log).toContain('the slow work is done')
    expect(log).toContain('the failing work failed')
    await eventually(async () => await answers(api, '/functions/v1/echo') === 201)
  })

  test('verify_jwt takes valid tokens of this project only', async () => {
    const now = Math.floor(Date.now() / 1000)
    const token = (claims: object, secret = stack.keys.jwtSecret) =>
      `Bearer ${signJwt({ role: 'authenticated', ...claims }, secret)}`
    const [, payload = ''] = token({ exp: now + 60 }).split('.')
    const unsigned = `Bearer ${Buffer.from('{"alg":"none"}').toString('base64url')}.${payload}.`
    const asks = (authorization?: string) =>
      answers(api, '/functions/v1/guarded', authorization ? { authorization } : {})
    expect(await asks()).toBe(401)
    expect(await asks(token({ exp: now + 60 }))).toBe(200)
    expect(await asks(`Bearer ${stack.keys.anon}`)).toBe(200)
    expect(await asks(token({ exp: now - 1 }))).toBe(401)
    expect(await asks(token({ exp: now + 60 }, 'another secret'))).toBe(401)
    expect(await asks(unsigned)).toBe(401)
    expect(await asks(`Bearer ${stack.keys.secret}`)).toBe(401)
  })

  test('the Supabase CLI works on it without flags: push, list, query', async () => {
    const table = new ProcessTable({}, () => undefined)
    // As for a user on the default ports: the CLI takes the port from config.toml and the password "postgres".
    const dbPort = new URL(stack.urls.database).port
    writeFileSync(
      join(project, 'supabase', 'config.toml'),
      CONFIG.replace('port = 54322', `port = ${dbPort}`),
    )
    const cli = async (...args: string[]) => {
      const finished = await table.run(
        {
          name: 'supabase',
          file: supabaseCli(),
          args,
          cwd: project,
          env: cliEnvironment(join(home.path, 'cli')),
        },
        AbortSignal.timeout(PATIENCE_MS),
      )
      expect(finished, `supabase ${args.join(' ')}`).toMatchObject({ code: 0 })
      return finished.stdout + finished.stderr
    }
    expect(await cli('db', 'push')).toMatch(/up to date/)
    expect(await cli('migration', 'list')).toContain('20260101000000')
    expect(await cli('db', 'query', 'select 41 + 1 as answer')).toContain('42')

    writeFileSync(
      join(project, 'supabase', 'migrations', '20260102000000_more.sql'),
      'create table public.more (id int primary key);',
    )
    await cli('db', 'push', '--yes')
    // PostgREST hears of it.
    await eventually(async () => await answers(api, '/rest/v1/more', { apikey: stack.keys.secret }) === 200)
  })

  test('a broken migration gives one line with its file, and leaves nothing', async () => {
    const broken = join(home.path, 'broken')
    writeProject(broken, {
      '20260101000000_good.sql': 'create table public.good (id int primary key);',
      '20260102000000_bad.sql': 'create table public.bad (id int primary key);\nselect no_such_function();',
    })
    const failing = ownDataDir()
    const start = startStack({ dataDir: failing, apiPort: 0, dbPort: 0, projectDir: broken })
    await expect(start).rejects.toThrow(Failure)
    await expect(start).rejects.toThrow(
      /^Migration 20260102000000_bad\.sql failed: [^\n]*no_such_function\(\)[^\n]*$/,
    )
    expect(processesOf(failing)).toEqual([])
    expect(existsSync(join(failing, 'stack.json'))).toBe(false)
  })

  test('another Postgres is bootstrapped and migrated, and is not ours to stop', async () => {
    const admin = postgres(stack.urls.admin, { max: 1, onnotice: () => undefined })
    onTestFinished(() => admin.end())
    await admin`create database elsewhere`
    const databaseUrl = stack.urls.admin.replace(/\/postgres$/, '/elsewhere')
    const options = { dataDir: ownDataDir(), apiPort: 0, dbPort: 0, projectDir: project, databaseUrl }
    // Roles belong to the whole server: from here on their passwords are the other stack's, so this test is the last.
    for (const _time of ['first', 'again']) {
      const other = await startStack(options)
      expect(other.pids().postgres).toBeNull()
      expect(await answers(other.urls.api, '/rest/v1/things', { apikey: other.keys.secret })).toBe(200)
      await other.stop()
    }
    expect(await admin`select 1 as alive`).toEqual([{ alive: 1 }])

    await expect(startStack({ ...options, databaseUrl: stack.urls.database })).rejects.toThrow(
      /superuser other than "postgres"/,
    )
  })
})

describe('the gateway', () => {
  const { urls, keys } = runningStack()
  const rest = '/rest/v1/organizations?select=id'
  const browser = 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36'
  const now = Math.floor(Date.now() / 1000)
  const userToken = signJwt({
    sub: '01890000-0000-7000-8000-000000000001',
    role: 'authenticated',
    // The tests before this may take long.
    exp: now + 86_400,
  }, keys.jwtSecret)

  // anon has no grant on the table, so PostgREST's 401 with code 42501 proves that the key became the role anon.
  test.each<[string, Record<string, string>, { status: number; body: object }]>([
    ['no key', {}, { status: 401, body: { message: 'No API key found in request' } }],
    ['an unknown key', { apikey: 'sb_secret_unknown' }, {
      status: 401,
      body: { message: 'Invalid API key' },
    }],
    ['a bearer without a key', { authorization: `Bearer ${keys.serviceRole}` }, {
      status: 401,
      body: { message: 'No API key found in request' },
    }],
    ['the publishable key', { apikey: keys.publishable }, { status: 401, body: { code: '42501' } }],
    ['the anon key', { apikey: keys.anon }, { status: 401, body: { code: '42501' } }],
    ['the publishable key, repeated', {
      apikey: keys.publishable,
      authorization: `Bearer ${keys.publishable}`,
    }, { status: 401, body: { code: '42501' } }],
    ['the secret key', { apikey: keys.secret }, { status: 200, body: [] }],
    ['the secret key, repeated', { apikey: keys.secret, authorization: `Bearer ${keys.secret}` }, {
      status: 200,
      body: [],
    }],
    ['the service_role key', { apikey: keys.serviceRole }, { status: 200, body: [] }],
    ['the service_role key, repeated', {
      apikey: keys.serviceRole,
      authorization: `Bearer ${keys.serviceRole}`,
    }, { status: 200, body: [] }],
    ['the anon key with the service_role as bearer', {
      apikey: keys.anon,
      authorization: `Bearer ${keys.serviceRole}`,
    }, { status: 200, body: [] }],
    ['a user on the publishable key', { apikey: keys.publishable, authorization: `Bearer ${userToken}` }, {
      status: 200,
      body: [],
    }],
    ['a user on the secret key', { apikey: keys.secret, authorization: `Bearer ${userToken}` }, {
      status: 200,
      body: [],
    }],
    ['another opaque key as bearer', { apikey: keys.publishable, authorization: `Bearer ${keys.secret}` }, {
      status: 401,
      body: { message: 'Invalid API key' },
    }],
    ['the secret key from a browser', { apikey: keys.secret, 'user-agent': browser }, {
      status: 401,
      body: { message: 'Forbidden use of secret API key in browser' },
    }],
    ['the publishable key from a browser', { apikey: keys.publishable, 'user-agent': browser }, {
      status: 401,
      body: { code: '42501' },
    }],
    ['a token of another project', {
      apikey: keys.publishable,
      authorization: `Bearer ${signJwt({ role: 'service_role' }, 'x'.repeat(40))}`,
    }, { status: 401, body: { code: 'PGRST301' } }],
  ])('takes %s as hosted Supabase does', async (_what, headers, { status, body }) => {
    const response = await fetch(urls.api + rest, { headers: { ...headers, range: '0-0' } })
    const answer: unknown = await response.json()
    expect(response.status, JSON.stringify(answer)).toBe(status)
    if (Array.isArray(body)) expect(answer).toBeInstanceOf(Array)
    else expect(answer).toMatchObject(body)
    expect(response.headers.get('access-control-allow-origin')).toBe('*')
  })

  test("a user gets his own rows and not the key's", async () => {
    const email = `stranger-${crypto.randomUUID()}@example.com`
    const client = createClient(urls.api, keys.publishable, { auth: { persistSession: false } })
    expect((await client.auth.signUp({ email, password: 'a good password' })).error).toBeNull()
    const { data, error } = await client.from('organizations').select('id')
    expect({ data, error }).toEqual({ data: [], error: null })
  })

  test.each(['/rest/v1/organizations', '/auth/v1/token?grant_type=password'])(
    "answers a browser's preflight on %s",
    async (path) => {
      const response = await fetch(urls.api + path, {
        method: 'OPTIONS',
        headers: {
          origin: 'https://app.example',
          'access-control-request-method': 'POST',
          'access-control-request-headers': 'apikey,authorization,x-client-info,content-type,prefer',
        },
      })
      expect(response.status).toBe(200)
      expect(response.headers.get('access-control-allow-origin')).toBe('*')
      expect(response.headers.get('access-control-allow-headers')).toBe(
        'apikey,authorization,x-client-info,content-type,prefer',
      )
      expect(response.headers.get('access-control-allow-methods')).toContain('PATCH')
    },
  )

  test('lets a browser read the total of a page', async () => {
    const response = await fetch(urls.api + rest, {
      headers: {
        apikey: keys.serviceRole,
        origin: 'https://app.example',
        prefer: 'count=exact',
        range: '0-0',
      },
    })
    expect(response.headers.get('content-range')).toMatch(/\/\d+$/)
    expect(response.headers.get('access-control-expose-headers')).toContain('Content-Range')
    expect(response.headers.get('access-control-allow-origin')).toBe('*')
  })

  test.each(['publishable', 'anon'] as const)(
    'auth works with the %s key: sign-up, sign-in, refresh, user, sign-out',
    async (key) => {
      const client = createClient(urls.api, keys[key], { auth: { persistSession: false } })
      const credentials = { email: `${key}-${crypto.randomUUID()}@example.com`, password: 'a good password' }
      const signedUp = await client.auth.signUp(credentials)
      expect(signedUp.error).toBeNull()
      expect(
        (await client.auth.signInWithPassword({ ...credentials, password: 'a wrong password' })).error?.code,
      ).toBe('invalid_credentials')
      const signedIn = await client.auth.signInWithPassword(credentials)
      expect(signedIn.error).toBeNull()
      const refreshed = await client.auth.refreshSession()
      expect(refreshed.error).toBeNull()
      expect(refreshed.data.session?.refresh_token).not.toBe(signedIn.data.session?.refresh_token)
      expect((await client.auth.getUser()).data.user?.id).toBe(signedUp.data.user?.id)
      expect((await client.auth.signOut()).error).toBeNull()
    },
  )

  test('auth needs a key, except for links', async () => {
    expect(await answers(urls.api, '/auth/v1/settings')).toBe(401)
    expect(await answers(urls.api, '/auth/v1/settings', { apikey: keys.publishable })).toBe(200)
    expect(await answers(urls.api, '/auth/v1/.well-known/jwks.json')).toBe(200)
  })

  test('only /rest/v1, /auth/v1, /storage/v1, /functions/v1, /graph and the index are there', async () => {
    expect(await answers(urls.api, '/')).toBe(200)
    for (
      const path of [
        '/nope',
        '/storage/v2/bucket',
        '/_system',
        '/rest',
        '/auth/v2/x',
        '/rest/v1x',
      ]
    ) {
      expect(await answers(urls.api, path, { apikey: keys.secret }), path).toBe(404)
    }
    const response = await fetch(`${urls.api}/nope`)
    expect(response.status).toBe(404)
    expect(await response.json()).toHaveProperty('message')
  })
})

describe('the database', () => {
  const { urls } = runningStack()
  let sql: postgres.Sql
  beforeAll(() => {
    sql = postgres(urls.admin, { max: 1, onnotice: () => undefined })
  })
  afterAll(() => sql.end())

  test('has the roles of a hosted project', async () => {
    const roles = await sql<{ rolname: string }[]>`
      select rolname, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls, rolcanlogin, rolinherit
      from pg_roles where rolname in ('supabase_admin', 'postgres', 'anon', 'authenticated', 'service_role', 'authenticator', 'supabase_auth_admin')`
    const traits = Object.fromEntries(
      roles.map(({ rolname, ...flags }) => [
        rolname,
        Object.entries(flags).filter(([, on]) => on).map(([name]) => name.slice(3)).join(' '),
      ]),
    )
    expect(traits).toEqual({
      supabase_admin: 'super createrole createdb replication bypassrls canlogin inherit',
      postgres: 'createrole createdb replication bypassrls canlogin inherit',
      anon: '',
      authenticated: '',
      service_role: 'bypassrls',
      authenticator: 'canlogin',
      supabase_auth_admin: 'createrole canlogin',
    })
  })

  test("keeps auth to itself: the functions are hosted Supabase's, and API roles have no table of it", async () => {
    const [claims] = await sql.begin(async (transaction) => {
      await transaction`select set_config('request.jwt.claims', '{"sub":"01890000-0000-7000-8000-000000000001","role":"authenticated","email":"a@b.example"}', true)`
      return await transaction`select auth.uid(), auth.role(), auth.email(), auth.jwt() ->> 'sub' as sub`
    })
    const id = '01890000-0000-7000-8000-000000000001'
    expect(claims).toEqual({ uid: id, role: 'authenticated', email: 'a@b.example', sub: id })
    const open = await sql`
      select c.relname, r.rolname from pg_class c cross join pg_roles r
      where c.relnamespace = 'auth'::regnamespace and c.relkind in ('r', 'p', 'v') and r.rolname in ('anon', 'authenticated')
        and has_table_privilege(r.oid, c.oid, 'select, insert, update, delete')`
    expect(open).toEqual([])
    const owners = await sql`
      select distinct pg_get_userbyid(c.relowner) as owner from pg_class c
      where c.relnamespace = 'auth'::regnamespace and c.relkind = 'r'`
    expect(owners).toEqual([{ owner: 'supabase_auth_admin' }])
  })

  test('knows no stand-ins for what it lacks', async () => {
    const schemas =
      await sql`select nspname from pg_namespace where nspname in ('vault', 'net', 'realtime')`
    expect(schemas).toEqual([])
  })
})

// The small project ---------------------------------------------------------------------------------------------------

const CONFIG = `project_id = "small"
[db]
port = 54322
major_version = 17
${
  ['echo', 'broken', 'throws', 'later'].map((name) =>
    `[functions.${name}]\nverify_jwt = false\nentrypoint = "../functions/${name}/index.ts"`
  ).join('\n')
}
[functions.guarded]
entrypoint = "../functions/guarded/index.ts"
`

const FUNCTIONS: Record<string, string> = {
  echo: `Deno.serve(async (request) => {
    const url = new URL(request.url)
    const digest = await crypto.subtle.digest('SHA-256', await request.arrayBuffer())
    return Response.json({
      method: request.method, path: url.pathname, search: url.search,
      sha256: Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join(''),
      signature: request.headers.get('x-hub-signature-256'),
      forwardedHost: request.headers.get('x-forwarded-host'), forwardedProto: request.headers.get('x-forwarded-proto'),
    }, { status: 201, headers: { 'x-from-function': 'yes' } })
  })`,
  broken: `throw new Error('THE_VARIABLE is missing')`,
  throws: `Deno.serve({ handler: () => { throw new Error('oops') } })`,
  later: `Deno.serve(() => {
    EdgeRuntime.waitUntil(new Promise((done) => setTimeout(() => { console.log('the slow work is done'); done() }, 300)))
    EdgeRuntime.waitUntil(Promise.reject(new Error('the failing work failed')))
    return new Response('ok')
  })`,
  guarded: `Deno.serve({}, () => new Response('ok'))`,
}

function writeProject(path: string, migrations: Record<string, string>): void {
  mkdirSync(join(path, 'supabase', 'migrations'), { recursive: true })
  writeFileSync(join(path, 'supabase', 'config.toml'), CONFIG)
  for (const [name, text] of Object.entries(migrations)) {
    writeFileSync(join(path, 'supabase', 'migrations', name), text)
  }
  for (const [name, text] of Object.entries(FUNCTIONS)) {
    mkdirSync(join(path, 'functions', name), { recursive: true })
    writeFileSync(join(path, 'functions', name, 'index.ts'), text)
  }
  cpSync(join(PROJECT_DIR, 'functions', 'deno.json'), join(path, 'functions', 'deno.json'))
  rmSync(join(path, 'node_modules'), { force: true })
  symlinkSync(join(PROJECT_DIR, 'node_modules'), join(path, 'node_modules'))
}

async function writeRow(url: string, text: string): Promise<void> {
  const sql = postgres(url, { max: 1, onnotice: () => undefined })
  await sql`create table public.notes (text text)`
  await sql`insert into public.notes values (${text})`
  await sql.end()
}

async function rows(url: string): Promise<string[]> {
  const sql = postgres(url, { max: 1 })
  const found = await sql<{ text: string }[]>`select text from public.notes`
  await sql.end()
  return found.map(({ text }) => text)
}
