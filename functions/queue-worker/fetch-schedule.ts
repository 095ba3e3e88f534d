// When a file is asked for again that could not be had, through no fault of the file: a token that was refused, a
// provider, Storage or database that is away. The provider keeps it for seven days, and so long somebody may mend that.
import type { Attempted } from './job.ts'

const SECOND = 1000
const MINUTE = 60 * SECOND
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR

const WAITS = [30 * SECOND, 2 * MINUTE, 10 * MINUTE, HOUR]
const EVERY = 6 * HOUR
// Less than the provider keeps it: nobody asks for what is forgotten.
const GIVEN_UP_AFTER = 6 * DAY

/** Null: no more. */
export function nextFetch({ attempts, created_at }: Attempted, failedAt: Date): Date | null {
  const next = failedAt.getTime() + (WAITS[attempts - 1] ?? EVERY)
  return next <= Date.parse(created_at) + GIVEN_UP_AFTER ? new Date(next) : null
}
