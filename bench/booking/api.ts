// The Data API as apps call it, and the server's own account of what each call took: Postgres logs how long it needed to
// bind and to execute the statement that PostgREST sent, with its role and claims set in the transaction as ever.

import { open, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type postgres from 'postgres'
import { signJwt } from '../../local/api-keys.ts'
import type { Stack } from '../../local/stack.ts'
import { median, percentile } from '../figures.ts'
import type { House } from './data.ts'

/** As a person of the house, or with the secret key. */
export type Caller = { userId: string } | 'platform'

export interface Call {
  as: Caller
  /** Under /rest/v1. */
  path: string
  /** POSTed; without it the call is a GET. */
  body?: object
}

export interface Question {
  name: string
  /** The n-th time that it is asked. */
  ask: (n: number) => Call
  /** What must hold for the database while it is asked. */
  during?: <T>(work: () => Promise<T>) => Promise<T>
}

export interface Times {
  name: string
  calls: number
  p50: number
  p95: number
  /** Of each round. */
  medians: number[]
}

export function headersOf({ keys }: Stack, caller: Caller): Record<string, string> {
  if (caller === 'platform') return { apikey: keys.secret }
  const now = Math.floor(Date.now() / 1000)
  const claims = { sub: caller.userId, role: 'authenticated', aud: 'authenticated', iat: now, exp: now + 36_000 }
  return { apikey: keys.publishable, authorization: `Bearer ${signJwt(claims, keys.jwtSecret)}` }
}

export class Api {
  readonly #headers = new Map<string, Record<string, string>>()

  readonly log: string

  constructor(readonly stack: Stack, readonly interrupted: AbortSignal) {
    this.log = join(stack.dataDir, 'logs', 'postgres.log')
  }

  /** From now on Postgres logs each statement of the Data API. */
  async watch(admin: postgres.Sql): Promise<void> {
    await admin`alter role authenticator set log_min_duration_statement = 0`
    await admin`alter role authenticator set log_parameter_max_length = 0`
    await this.reconnect(admin)
  }

  /**
   * New connections, with what is set for the role now. A plan is weighed against those made when the table was smaller,
   * so that after it has grown an old connection plans anew at every call; PostgREST ends them after half an hour.
   */
  async reconnect(admin: postgres.Sql): Promise<void> {
    await admin`select pg_terminate_backend(pid) from pg_stat_activity where usename = 'authenticator'`
    await sleep(1_000)
    for (let tries = 0; tries < 50; tries++) {
      const { status } = await this.#send({ as: 'platform', path: 'organizations?select=id&limit=1' })
      if (status === 200) return
      await sleep(200)
    }
    throw new Error('PostgREST did not come back.')
  }

  async #send({ as, path, body }: Call): Promise<Response> {
    // Not as the call's own signal: some thousand calls under one signal are more than fetch can bear.
    this.interrupted.throwIfAborted()
    const key = as === 'platform' ? as : as.userId
    const headers = this.#headers.get(key) ?? headersOf(this.stack, as)
    this.#headers.set(key, headers)
    return await fetch(`${this.stack.urls.rest}/${path}`, {
      ...(body === undefined ? { headers } : {
        method: 'POST',
        body: JSON.stringify(body),
        headers: { ...headers, 'content-type': 'application/json', prefer: 'return=representation' },
      }),
    })
  }

  async call(call: Call): Promise<unknown> {
    const response = await this.#send(call)
    const text = await response.text()
    if (!response.ok) throw new Error(`${call.path} answered ${response.status}: ${text}`)
    return JSON.parse(text)
  }

  /** Milliseconds in Postgres, in the order of the calls, which are made one after the other. */
  async times(calls: Call[]): Promise<number[]> {
    const { size } = await stat(this.log)
    for (const call of calls) await this.call(call)
    const times = statementTimes(await tail(this.log, size))
    if (times.length !== calls.length) throw new Error(`Postgres logged ${times.length} of ${calls.length} calls.`)
    return times
  }

  /** In turn, so that what else the machine does meets all of them; once more before, to warm up. */
  async compare(questions: Question[], rounds: number, callsPerRound: number): Promise<Times[]> {
    const asked = questions.map((question) => ({ question, n: 0, times: [] as number[][] }))
    for (let round = -1; round < rounds; round++) {
      for (const one of asked) {
        const { ask, during = (work) => work() } = one.question
        const calls = Array.from({ length: callsPerRound }, () => ask(one.n++))
        const times = await during(() => this.times(calls))
        if (round >= 0) one.times.push(times)
      }
    }
    return asked.map(({ question: { name }, times }) => ({
      name,
      calls: times.flat().length,
      p50: percentile(times.flat(), 50),
      p95: percentile(times.flat(), 95),
      medians: times.map(median),
    }))
  }
}

export const ratioOf = (times: Times, other: Times): number =>
  median(times.medians.map((middle, round) => middle / (other.medians[round] ?? NaN)))

export const differenceOf = (times: Times, other: Times): number =>
  median(times.medians.map((middle, round) => middle - (other.medians[round] ?? NaN)))

export const member = ({ userId }: House): Caller => ({ userId })

async function tail(file: string, from: number): Promise<string> {
  const handle = await open(file)
  try {
    const { size } = await handle.stat()
    const { buffer } = await handle.read(Buffer.alloc(size - from), 0, size - from, from)
    return buffer.toString('utf8')
  } finally {
    await handle.close()
  }
}

/** PostgREST's statement of a call is the one that begins with its common table expression. */
function statementTimes(log: string): number[] {
  const bound = new Map<string, number>()
  const times: number[] = []
  for (const line of log.matchAll(/\[(\d+)\] authenticator@\S+ LOG: {2}duration: ([\d.]+) ms {2}(bind|execute) [^:]+: WITH pgrst_source/g)) {
    const [, pid = '', milliseconds = '', step] = line
    if (step === 'bind') bound.set(pid, Number(milliseconds))
    else times.push((bound.get(pid) ?? 0) + Number(milliseconds))
  }
  return times
}
