// When a file that could not be had is asked for again.
import assert from 'node:assert/strict'
import { nextFetch } from '../../functions/queue-worker/fetch-schedule.ts'

const CREATED = '2026-11-20T13:00:00+00:00'
const MINUTE = 60_000
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR
const afterCreation = (milliseconds: number) => new Date(Date.parse(CREATED) + milliseconds)

Deno.test('soon at first, then four times a day', () => {
  const waits: [attempts: number, wait: number][] = [
    [1, 30_000],
    [2, 2 * MINUTE],
    [3, 10 * MINUTE],
    [4, HOUR],
    [5, 6 * HOUR],
    [6, 6 * HOUR],
    [39, 6 * HOUR],
  ]
  for (const [attempts, wait] of waits) {
    const failedAt = afterCreation(HOUR)
    assert.deepEqual(nextFetch({ attempts, created_at: CREATED }, failedAt), afterCreation(HOUR + wait))
  }
})

Deno.test('for six days, and no longer', () => {
  const cases: [attempts: number, age: number, next: number | null][] = [
    [20, 6 * DAY - 6 * HOUR, 6 * DAY],
    [20, 6 * DAY - 6 * HOUR + 1, null],
    [1, 6 * DAY - 30_000, 6 * DAY],
    [1, 6 * DAY, null],
    [1, 30 * DAY, null],
  ]
  for (const [attempts, age, next] of cases) {
    assert.deepEqual(
      nextFetch({ attempts, created_at: CREATED }, afterCreation(age)),
      next === null ? null : afterCreation(next),
    )
  }
})

Deno.test('that takes fewer attempts than the forty that the queue allows such a job', () => {
  let attempts = 0
  let at: Date | null = afterCreation(0)
  while (at !== null) at = nextFetch({ attempts: ++attempts, created_at: CREATED }, at)
  assert.equal(attempts, 28)
})
