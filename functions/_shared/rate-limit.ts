// A limit within this isolate: what it refuses never reaches the database. There may be several isolates, each with its
// own count: what has to be exact is counted in Postgres, by private.take_from_rate_limit().
import { HttpError } from './http.ts'

export interface Rule {
  /** So many at once … */
  capacity: number
  /** … and so many in the long run. */
  perSecond: number
}

export interface RateLimit {
  /** Takes a token out of the bucket of this key; throws HttpError 429 when there is none, and takes nothing. */
  take(key: string): void
  /** Throws likewise when there is none, and takes nothing otherwise. */
  check(key: string): void
}

// Strangers can come from anywhere; they shall not fill the memory.
const BUCKETS = 10_000

export function createRateLimit({ capacity, perSecond }: Rule, now: () => number = Date.now): RateLimit {
  const stepMs = 1000 / perSecond
  /** When each bucket will be full again; of a bucket that is not here, that has passed. Oldest first. */
  const fullAt = new Map<string, number>()

  function take(key: string, tokens: 0 | 1): void {
    const at = now()
    const allFullAt = at + capacity * stepMs
    // Not beyond an empty bucket, should the clock have been set back.
    const before = Math.min(Math.max(fullAt.get(key) ?? 0, at), allFullAt)
    const waitMs = before + stepMs - allFullAt
    // Sums of fractions of a millisecond are not exact.
    const isGranted = waitMs < 0.001
    // Refused or not: who asked last is remembered longest.
    if (fullAt.delete(key) || tokens > 0) fullAt.set(key, isGranted ? before + tokens * stepMs : before)
    const [oldest] = fullAt.keys()
    if (fullAt.size > BUCKETS && oldest !== undefined) fullAt.delete(oldest)
    if (!isGranted) throw tooManyRequests(waitMs / 1000)
  }

  return {
    take: (key) => take(key, 1),
    check: (key) => take(key, 0),
  }
}

export function tooManyRequests(waitSeconds: number): HttpError {
  return new HttpError(429, 'rate_limited', 'Too many requests; try again later', {
    'retry-after': String(Math.max(1, Math.ceil(waitSeconds))),
  })
}
