// Wakes the worker when there is something to do, without keeping anybody waiting. A wake that is lost costs some
// seconds only: the schedule wakes the worker too.
import type { Background } from './background.ts'
import type { Log } from './log.ts'
import { reasonOf } from './redact.ts'

const TIMEOUT_MS = 10_000

export type Wake = () => void

/** However often it is called, at most one request is under way, and one more follows it. */
export function createWake(
  { url, secretKey, background, log, fetch = globalThis.fetch }: {
    url: string
    secretKey: string
    background: Background
    log: Log
    fetch?: typeof globalThis.fetch
  },
): Wake {
  let isUnderWay = false
  let isAskedAgain = false

  async function wakeUntilNobodyAsks(): Promise<void> {
    do {
      isAskedAgain = false
      await wakeOnce()
    } while (isAskedAgain)
    isUnderWay = false
  }

  async function wakeOnce(): Promise<void> {
    try {
      // Answered at once: the run is not waited for.
      const response = await fetch(`${url}/functions/v1/queue-worker?wait=false`, {
        method: 'POST',
        headers: { apikey: secretKey, 'content-type': 'application/json' },
        body: '{}',
        signal: AbortSignal.timeout(TIMEOUT_MS),
      })
      await response.body?.cancel()
      if (!response.ok) log('warn', 'worker not woken', { status: response.status })
    } catch (error) {
      log('warn', 'worker not woken', { error: reasonOf(error, [secretKey]) })
    }
  }

  return () => {
    if (isUnderWay) {
      isAskedAgain = true
      return
    }
    isUnderWay = true
    background(wakeUntilNobodyAsks())
  }
}
