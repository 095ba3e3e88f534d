// One run of one schedule. SQL runs inside the database's own call; a function is called from here, between a run
// that the database has opened and that it is told the end of.
import { z } from 'zod'
import { beginningOf } from './beginning.ts'
import { HttpError } from '../_shared/http.ts'
import { isObject, storable } from '../_shared/json.ts'
import type { Log } from '../_shared/log.ts'
import { reasonOf, safeText } from '../_shared/redact.ts'
import { type Rpc, RpcError } from '../_shared/rpc.ts'

const FUNCTION_TIMEOUT_MS = 120_000
const ANSWER_BYTES = 64 * 1024
// A run whose end the database never hears of holds up the next one.
const PAUSES_BEFORE_TELLING_AGAIN_MS = [500, 2_000, 5_000]

export interface FunctionsApi {
  /** Where functions are called: `…/functions/v1`. */
  url: string
  secretKey: string
  fetch: (url: string, init: RequestInit) => Promise<Response>
  timeoutMs?: number
}

export type Outcome =
  | { ran: true; name: string; result: unknown; duration_ms: number }
  | { ran: true; name: string; error: string; duration_ms: number }
  /** Somebody else is running it, or it is not due any more. */
  | { ran: false; name: string; reason: string | null }

export interface Dependencies {
  rpc: Rpc
  functions: FunctionsApi
  log: Log
  pause?: (milliseconds: number) => Promise<void>
}

const runAnswer = z.object({
  ran: z.boolean(),
  reason: z.string().nullish(),
  run_id: z.union([z.string(), z.int()]).nullish(),
  function_name: z.string().nullish(),
  result: z.unknown().optional(),
  error: z.string().nullish(),
})

type FunctionOutcome =
  | { result: Record<string, unknown> | null; error: null }
  | { result: null; error: string }

export function createScheduleRunner(
  { rpc, functions, log, pause = (milliseconds) => new Promise((wake) => setTimeout(wake, milliseconds)) }:
    Dependencies,
) {
  /** Never throws for a schedule that fails; for a name that the database does not know it does. */
  return async function run(name: string, { force = false } = {}): Promise<Outcome> {
    const startedAt = performance.now()
    try {
      const answer = runAnswer.parse(await rpc('run_schedule', { name, force }))
      if (!answer.ran) return { ran: false, name, reason: answer.reason ?? null }
      const { result, error } = answer.function_name == null || answer.run_id == null
        ? { result: answer.result, error: answer.error ?? null }
        : await runFunction(name, answer.function_name, answer.run_id)
      return ended(error === null ? { result } : { error })
    } catch (error) {
      if (force && error instanceof RpcError && error.error?.endsWith('_not_found')) {
        throw new HttpError(404, error.error, error.message)
      }
      return ended({ error: reasonOf(error) })
    }

    function ended(outcome: { result: unknown } | { error: string }): Outcome {
      const duration_ms = Math.round(performance.now() - startedAt)
      const failure = 'error' in outcome ? { error: outcome.error } : {}
      log('error' in outcome ? 'error' : 'info', 'schedule', { schedule: name, duration_ms, ...failure })
      return { ran: true, name, ...outcome, duration_ms }
    }
  }

  async function runFunction(name: string, functionName: string, runId: string | number) {
    const outcome = await callFunction(functionName)
    await tellEnd(name, { run_id: runId, ...outcome })
    return outcome
  }

  async function callFunction(functionName: string): Promise<FunctionOutcome> {
    // It becomes part of an address that gets the secret key.
    if (!/^[A-Za-z0-9][A-Za-z0-9_-]*$/.test(functionName)) {
      return { result: null, error: 'invalid_function_name' }
    }
    const { url, secretKey, fetch, timeoutMs = FUNCTION_TIMEOUT_MS } = functions
    const timeUp = AbortSignal.timeout(timeoutMs)
    try {
      const response = await fetch(`${url}/${functionName}`, {
        method: 'POST',
        headers: { apikey: secretKey, 'content-type': 'application/json' },
        body: '{}',
        redirect: 'manual',
        signal: timeUp,
      })
      const { text, isComplete } = await beginningOf(response, ANSWER_BYTES)
      if (!isComplete) return { result: null, error: interruption(timeUp) }
      if (response.ok) return { result: resultIn(text), error: null }
      const reason = safeText(text, [secretKey])
      return { result: null, error: `http_${response.status}${reason === '' ? '' : `: ${reason}`}` }
    } catch {
      return { result: null, error: interruption(timeUp) }
    }
  }

  async function tellEnd(name: string, args: Record<string, unknown>): Promise<void> {
    for (const milliseconds of [...PAUSES_BEFORE_TELLING_AGAIN_MS, null]) {
      try {
        await rpc('finish_schedule_run', args)
        return
      } catch (error) {
        const mayPass = error instanceof RpcError && (error.status === 0 || error.status >= 500)
        if (!mayPass || milliseconds === null) {
          log('error', 'schedule end not recorded', { schedule: name, error: reasonOf(error) })
          return
        }
        await pause(milliseconds)
      }
    }
  }
}

function interruption(timeUp: AbortSignal): string {
  return timeUp.aborted ? 'timeout' : 'connection_failed'
}

/** Null: it ran, and said nothing that could be kept. */
function resultIn(text: string): Record<string, unknown> | null {
  try {
    const parsed = storable(JSON.parse(text))
    return isObject(parsed) ? parsed : null
  } catch {
    return null
  }
}
