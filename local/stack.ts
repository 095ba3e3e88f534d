// The local stack as one object: `npm start`, the demo and the tests all start it here.

import { randomBytes } from 'node:crypto'
import { mkdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { type ApiKeys, apiKeys } from './api-keys.ts'
import { startAuth } from './auth.ts'
import { DataDirectory, type StackState } from './data-directory.ts'
import { assertDisposable, bootstrap, urlsFor } from './database.ts'
import { PROJECT_DIR } from './environment.ts'
import { Failure } from './failure.ts'
import { configuredFunctions, functionsService } from './functions.ts'
import { startGateway } from './gateway.ts'
import { startGraph } from './graph/server.ts'
import { pushMigrations } from './migrations.ts'
import { PostgresServer } from './postgres.ts'
import { postgrestService } from './postgrest.ts'
import { ProcessTable, type Service, stopOrphan } from './processes.ts'
import { startSimulator } from './simulator/server.ts'
import { startStorage } from './storage.ts'
import { startTicker } from './ticker.ts'

export interface StackOptions {
  /** Where the cluster, the secrets and the logs live. */
  dataDir: string
  /** 0 takes a free port. */
  apiPort: number
  dbPort: number
  /** Another Postgres (a disposable one, as superuser) instead of starting one. */
  databaseUrl?: string | undefined
  /** The folder that holds supabase/ and functions/; this project by default. */
  projectDir?: string
  /** More environment for the edge functions. */
  functionsEnvironment?: Record<string, string>
  /** How often cron-refresh is called where the database has no pg_cron, every second by default; false: no ticker. */
  ticker?: { everyMs: number } | false
  /** Breaks off a start. */
  signal?: AbortSignal
  /** Makes a stop kill what it would otherwise ask to end. */
  hurry?: AbortSignal
}

export interface StackUrls {
  api: string
  rest: string
  auth: string
  storage: string
  functions: string
  /** The stack's own imitation of Meta's Graph API. */
  graph: string
  /** As the role `postgres`. */
  database: string
  /** As a superuser. */
  admin: string
}

export interface Stack {
  readonly urls: StackUrls
  readonly keys: ApiKeys & { jwtSecret: string }
  readonly dataDir: string
  readonly readyAfterMs: number
  /** Ids of the child processes; null for one that does not run. */
  pids(): Record<'postgres' | 'postgrest' | 'functions', number | null>
  /** kill -9; the supervisor starts it again. */
  kill(service: 'postgres' | 'postgrest' | 'functions'): void
  /** Loads the edge functions again, as after a change of their code. */
  restartFunctions(): Promise<void>
  /** Resolves with the reason when a service is beyond rescue. */
  readonly failed: Promise<Failure>
  stop(): Promise<void>
}

/** Thrown when the data directory has a living owner. */
export class AlreadyRunning extends Failure {
  constructor(readonly state: StackState) {
    super(
      state.status === 'ready'
        ? `Balcão is already running on http://127.0.0.1:${state.apiPort} (process ${state.pid}).`
        : `Balcão is already starting (process ${state.pid}).`,
    )
  }
}

export async function startStack(options: StackOptions): Promise<Stack> {
  const started = performance.now()
  const projectDir = options.projectDir ?? PROJECT_DIR
  const data = await DataDirectory.open(resolve(options.dataDir))
  const acquired = data.acquire()
  if ('owner' in acquired) throw new AlreadyRunning(acquired.owner)

  const breakOff = new AbortController()
  const hurry = options.hurry ?? new AbortController().signal
  const signal = options.signal ? AbortSignal.any([options.signal, breakOff.signal]) : breakOff.signal
  /** What to undo, in the order in which it was done. */
  const undo: (() => void | Promise<void>)[] = [() => data.release()]
  const stop = once(async () => {
    breakOff.abort(new Failure('The stack was stopped.'))
    const failures: unknown[] = []
    for (const step of undo.toReversed()) {
      try {
        await step()
      } catch (error) {
        // What comes after must be undone all the same.
        failures.push(error)
      }
    }
    if (failures.length > 0) throw failures[0]
  })

  try {
    return await start()
  } catch (error) {
    await stop()
    throw error
  }

  async function start(): Promise<Stack> {
    const secrets = await data.secrets()
    const keys = apiKeys(secrets)
    const functions = await configuredFunctions(projectDir)
    const [failed, gaveUp] = promiseOfFailure()

    await clearAfterCrash('left' in acquired ? acquired.left : null)
    const runtimeDir = newRuntimeDir()
    undo.push(() => rm(runtimeDir, { recursive: true, force: true }))
    const restSocket = join(runtimeDir, 'postgrest.sock')
    const portFile = join(runtimeDir, 'functions.port')

    const state: StackState = { ...ownState(data), runtimeDir }
    const table = new ProcessTable({ BALCAO_DATA_DIR: data.path }, () => {
      state.processes = [...table.records.values()]
      data.writeState(state)
    })
    // A caller that ends without stop(), by an exception for instance, takes its children with it.
    const takeAlong = () => table.signalAll()
    process.once('exit', takeAlong)
    undo.push(() => void process.off('exit', takeAlong))
    data.writeState(state)
    // Only now: whoever clears up after us must know of it.
    await mkdir(runtimeDir, { mode: 0o700 })

    let edge: ReturnType<typeof functionsService> | null = null
    const gateway = await startGateway(options.apiPort, {
      keys,
      jwtSecret: secrets.jwtSecret,
      restSocket,
      functionsPort: () => edge?.port() ?? null,
      functions,
      index: () => indexPage(apiUrl, functions.map(({ name }) => name)),
    })
    undo.push(() => gateway.close())
    const apiUrl = `http://127.0.0.1:${gateway.port}`
    state.apiPort = gateway.port

    const services: Partial<Record<'postgres' | 'postgrest' | 'functions', Service>> = {}
    /** Starts a service; stop() ends it in its turn, an abort of the start at once. */
    const supervise = async (service: Service, begin = () => service.start()) => {
      const end = () => void service.stop(hurry)
      signal.addEventListener('abort', end)
      await begin().finally(() => signal.removeEventListener('abort', end))
    }

    const admin = await startDatabase()
    const urls = urlsFor(admin, secrets, options.databaseUrl === undefined ? runtimeDir : undefined)
    state.dbPort = Number(new URL(admin).port || 5432)
    state.databaseUrl = urls.postgres
    await bootstrap(urls, secrets)
    signal.throwIfAborted()
    // Stopped after the functions, which keep files in it.
    const storage = await startStorage({ urls, secrets, data })
    undo.push(() => storage.close())
    gateway.useStorage(storage)
    // Stopped after the functions, whose last calls it answers.
    const graph = startGraph({
      apiUrl,
      databaseUrl: urls.admin,
      encryptionKeys: secrets.encryptionKeys,
      secretKey: keys.secret,
    })
    undo.push(() => graph.close())
    gateway.useGraph(graph)

    const functionsEnvironment = { BALCAO_META_GRAPH_URL: `${apiUrl}/graph`, ...options.functionsEnvironment }
    const simulator = startSimulator({
      apiUrl,
      keys,
      jwtSecret: secrets.jwtSecret,
      graphUrl: functionsEnvironment.BALCAO_META_GRAPH_URL,
    })
    undo.push(() => simulator.close())
    gateway.useSimulator(simulator)

    const postgrest = await postgrestService({ data, table, urls, secrets, socketPath: restSocket, gaveUp })
    edge = functionsService({
      data,
      table,
      projectDir,
      functions,
      keys,
      secrets,
      portFile,
      gaveUp,
      apiUrl,
      databaseUrl: urls.postgres,
      environment: functionsEnvironment,
    })
    Object.assign(services, { postgrest, functions: edge.service })
    // The functions finish their work first, and need the Data API for it.
    undo.push(() => postgrest.stop(hurry), () => services.functions?.stop(hurry))
    await allOrFirstFailure([
      prepareSchema(),
      functions.length > 0 ? supervise(edge.service) : Promise.resolve(),
    ])
    signal.throwIfAborted()
    await supervise(postgrest)
    signal.throwIfAborted()
    if (options.ticker !== false) {
      const ticker = startTicker({
        databaseUrl: urls.admin,
        functionsUrl: `${apiUrl}/functions/v1`,
        secretKey: keys.secret,
        logFile: data.log('ticker'),
        everyMs: options.ticker?.everyMs ?? 1000,
        hurry,
      })
      undo.push(() => ticker.stop())
    }
    state.status = 'ready'
    data.writeState(state)

    return {
      urls: {
        api: apiUrl,
        rest: `${apiUrl}/rest/v1`,
        auth: `${apiUrl}/auth/v1`,
        storage: `${apiUrl}/storage/v1`,
        functions: `${apiUrl}/functions/v1`,
        graph: `${apiUrl}/graph`,
        database: urls.postgres,
        admin: urls.admin,
      },
      keys: { ...keys, jwtSecret: secrets.jwtSecret },
      dataDir: data.path,
      readyAfterMs: Math.round(performance.now() - started),
      pids: () => ({
        postgres: services.postgres?.pid ?? null,
        postgrest: services.postgrest?.pid ?? null,
        functions: services.functions?.pid ?? null,
      }),
      kill: (name) => services[name]?.kill(),
      restartFunctions: async () => await services.functions?.restart(),
      failed,
      stop,
    }

    async function startDatabase(): Promise<string> {
      if (options.databaseUrl !== undefined) {
        await assertDisposable(options.databaseUrl)
        return options.databaseUrl
      }
      const server = await PostgresServer.prepare({
        data,
        table,
        runtimeDir,
        password: secrets.adminPassword,
        signal,
        gaveUp,
      })
      services.postgres = server.service
      undo.push(() => server.service.stop(hurry))
      let port = 0
      await supervise(server.service, async () => void (port = await server.start(options.dbPort)))
      return `postgresql://supabase_admin:${secrets.adminPassword}@127.0.0.1:${port}/postgres`
    }

    /** auth.users first, because our tables refer to it. */
    async function prepareSchema(): Promise<void> {
      const auth = await startAuth(urls, secrets)
      undo.push(() => auth.close())
      gateway.useAuth(auth)
      await pushMigrations({
        table,
        projectDir,
        databaseUrl: urls.postgres,
        home: join(data.path, 'cli'),
        signal,
      })
    }
  }
}

function ownState(data: DataDirectory): StackState {
  const state = data.readState()
  if (state === null || state.pid !== process.pid) {
    throw new Failure(`${data.statePath} was taken away from us.`)
  }
  return state
}

/** Sockets live in a folder with a short path: theirs are limited to about a hundred bytes. */
function newRuntimeDir(): string {
  return join(tmpdir().length > 60 ? '/tmp' : tmpdir(), `balcao-${randomBytes(6).toString('hex')}`)
}

/** After a kill -9 of the supervisor its children live on: they are found by pid and start time, and stopped. */
export async function clearAfterCrash(left: StackState | null): Promise<void> {
  if (left === null) return
  await Promise.all(left.processes.map(stopOrphan))
  if (left.runtimeDir !== null) await rm(left.runtimeDir, { recursive: true, force: true })
}

/** Waits for all even when one has failed, so that nothing starts behind the back of the clean-up. */
async function allOrFirstFailure(work: Promise<void>[]): Promise<void> {
  const rejected = (await Promise.allSettled(work)).find((result) => result.status === 'rejected')
  if (rejected !== undefined) throw rejected.reason
}

function promiseOfFailure(): [Promise<Failure>, (failure: Failure) => void] {
  let report: (failure: Failure) => void = () => undefined
  return [new Promise((resolve) => (report = resolve)), (failure) => report(failure)]
}

function once(action: () => Promise<void>): () => Promise<void> {
  let running: Promise<void> | null = null
  return () => (running ??= action())
}

function indexPage(api: string, functions: string[]): string {
  return [
    'Balcão, local stack',
    '',
    `${api}/rest/v1       the Data API (PostgREST)`,
    `${api}/auth/v1       sign-up, sign-in, users`,
    `${api}/storage/v1    files`,
    ...functions.map((name) => `${api}/functions/v1/${name}`),
    `${api}/graph         WhatsApp as Meta's Graph API, imitated`,
    `${api}/simulator     a phone to try it with`,
    `${api}/dashboard     the figures of a business, for its owner`,
    '',
    'Keys: npm run status',
    '',
  ].join('\n')
}
