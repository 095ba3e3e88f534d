// What pg_cron and pg_net do on a hosted project: calls cron-refresh as time passes, and queue-worker when work comes.
//
// Nothing here decides what is due, and a call that fails is not repeated: the next second or the next job calls again.

import { closeSync, writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import { messageOf } from './failure.ts'
import { openLog } from './processes.ts'

export interface TickerOptions {
  /** Superuser. */
  databaseUrl: string
  functionsUrl: string
  secretKey: string
  logFile: string
  everyMs: number
  /** Of a stop that must not wait. */
  hurry: AbortSignal
}

export interface Ticker {
  /** Waits for what it has started, at most a second. */
  stop(): Promise<void>
}

const CHANNEL = 'balcao_wake'
/** Longer than a worker works. */
const CALL_TIMEOUT_MS = 150_000
const GRACE_MS = 1000
const RECONNECT_SECONDS = 0.25

export function startTicker(options: TickerOptions): Ticker {
  const { databaseUrl, functionsUrl, secretKey, everyMs, hurry } = options
  const stopping = new AbortController()
  const givingUp = new AbortController()
  const states = new Map<string, string>()

  const worker = coalesced(() => call('queue-worker'))
  const sql = postgres(databaseUrl, {
    max: 1,
    connect_timeout: 10,
    backoff: () => RECONNECT_SECONDS,
    connection: { application_name: 'balcao ticker' },
    onnotice: () => undefined,
  })
  const work = [keepListening(), schedulesAreElsewhere().then((elsewhere) => elsewhere ? undefined : tick())]

  return {
    stop: async () => {
      stopping.abort()
      await Promise.race([
        Promise.all([...work, worker.idle()]),
        sleep(GRACE_MS, undefined, { ref: false, signal: hurry }).catch(() => undefined),
      ])
      givingUp.abort()
      await Promise.all([...work, worker.idle(), sql.end({ timeout: 1 })])
    },
  }

  /** A database with pg_cron calls cron-refresh itself. */
  async function schedulesAreElsewhere(): Promise<boolean> {
    for (;;) {
      if (stopping.signal.aborted) return true
      try {
        return (await sql`select from pg_extension where extname = 'pg_cron'`).length > 0
      } catch (error) {
        note('database', messageOf(error))
        await pause(1000)
      }
    }
  }

  async function tick(): Promise<void> {
    while (!stopping.signal.aborted) {
      const started = performance.now()
      // Not waited for: a function that takes a minute must not stop the clock.
      await call('cron-refresh', '?wait=false')
      await pause(Math.max(0, everyMs - (performance.now() - started)))
    }
  }

  /** The client listens again by itself after a crash of Postgres; only the first time is ours. */
  async function keepListening(): Promise<void> {
    while (!stopping.signal.aborted) {
      try {
        // What was said while nobody listened is lost: whenever we listen anew, we ask.
        await sql.listen(CHANNEL, worker.request, () => {
          note('database', 'listening')
          worker.request()
        })
        return
      } catch (error) {
        note('database', messageOf(error))
        await pause(1000)
      }
    }
  }

  async function call(name: string, query = ''): Promise<void> {
    if (stopping.signal.aborted) return
    const signal = AbortSignal.any([givingUp.signal, AbortSignal.timeout(CALL_TIMEOUT_MS)])
    try {
      const response = await fetch(`${functionsUrl}/${name}${query}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', apikey: secretKey },
        body: '{}',
        signal,
      })
      await response.body?.cancel()
      note(name, response.ok ? 'answers' : `answers ${response.status}`)
    } catch (error) {
      if (!givingUp.signal.aborted) note(name, `cannot be called: ${messageOf(error)}`)
    }
  }

  /** One line per change: a function that is missing for an hour is one line, not 3600. */
  function note(what: string, state: string): void {
    if (states.get(what) === state || stopping.signal.aborted) return
    states.set(what, state)
    try {
      const log = openLog(options.logFile)
      writeSync(log, `${JSON.stringify({ time: new Date().toISOString(), what, state })}\n`)
      closeSync(log)
    } catch {
      // A full disk is no reason to stop calling.
    }
  }

  async function pause(milliseconds: number): Promise<void> {
    await sleep(milliseconds, undefined, { signal: stopping.signal }).catch(() => undefined)
  }
}

/** However often it is requested, one run is under way and at most one follows. */
export function coalesced(run: () => Promise<void>): { request: () => void; idle: () => Promise<void> } {
  let running: Promise<void> | null = null
  let isWanted = false
  const loop = async () => {
    while (isWanted) {
      isWanted = false
      await run()
    }
    running = null
  }
  return {
    request: () => {
      isWanted = true
      running ??= loop()
    },
    idle: async () => void (await running),
  }
}
