// When a webhook that was not taken is sent again: ten attempts over three days, so that a receiver may be down for a
// weekend and still miss nothing.

const SECOND = 1000
const MINUTE = 60 * SECOND
const HOUR = 60 * MINUTE

const WAITS = [
  5 * SECOND,
  5 * MINUTE,
  30 * MINUTE,
  2 * HOUR,
  5 * HOUR,
  10 * HOUR,
  14 * HOUR,
  20 * HOUR,
  24 * HOUR,
]
// Up to a tenth on top: what failed together does not come back together.
const JITTER = 0.1
const LONGEST_RETRY_AFTER = 24 * HOUR

export interface FailedAttempt {
  /** Including the one that has just failed. */
  attempts: number
  now: Date
  /** From 0 up to 1. */
  random: () => number
  /** The header as the receiver sent it. */
  retryAfter: string | null
}

/** Null: that was the last attempt. */
export function nextAttempt({ attempts, now, random, retryAfter }: FailedAttempt): Date | null {
  const wait = WAITS[attempts - 1]
  if (wait === undefined) return null
  const jittered = Math.round(wait * (1 + JITTER * random()))
  // A receiver may ask for more time, never for less.
  return new Date(
    now.getTime() + Math.max(jittered, Math.min(askedWait(retryAfter, now), LONGEST_RETRY_AFTER)),
  )
}

// The three forms of a date in HTTP all begin with the day of the week. Date.parse takes nearly anything for a date.
const HTTP_DATE = /^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? [\w: -]+$/

/** Milliseconds; 0 when nothing sensible was asked for. */
function askedWait(retryAfter: string | null, now: Date): number {
  const value = retryAfter?.trim() ?? ''
  if (/^\d+$/.test(value)) return Number(value) * SECOND
  if (!HTTP_DATE.test(value)) return 0
  // One of the old forms does not say what all of them mean.
  const time = Date.parse(value.endsWith('GMT') ? value : `${value} GMT`)
  return Number.isNaN(time) ? 0 : time - now.getTime()
}
