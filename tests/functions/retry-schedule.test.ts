import assert from 'node:assert/strict'
import { nextAttempt } from '../../functions/queue-worker/retry-schedule.ts'

const NOW = new Date('2026-11-20T12:00:00Z')
const HOUR = 3600

function secondsUntilNext(attempts: number, random = 0, retryAfter: string | null = null): number | null {
  const next = nextAttempt({ attempts, now: NOW, random: () => random, retryAfter })
  return next === null ? null : (next.getTime() - NOW.getTime()) / 1000
}

Deno.test('ten attempts: each failure waits longer than the one before, and the tenth is the last', () => {
  const waits = [5, 300, 1800, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR, null]
  assert.deepEqual(waits.map((_wait, index) => secondsUntilNext(index + 1)), waits)
  // The schedule that Standard Webhooks gives as an example.
  assert.equal(waits.reduce<number>((sum, wait) => sum + (wait ?? 0), 0), 75 * HOUR + 35 * 60 + 5)
})

Deno.test('what goes on failing after the tenth attempt is not tried again', () => {
  for (const attempts of [10, 11, 1000]) assert.equal(secondsUntilNext(attempts, 0, '5'), null)
})

Deno.test('jitter adds up to a tenth and never shortens a wait', () => {
  for (const [attempts, wait] of [[1, 5], [3, 1800], [9, 24 * HOUR]] as const) {
    assert.equal(secondsUntilNext(attempts, 0), wait)
    assert.equal(secondsUntilNext(attempts, 0.5), wait * 1.05)
    const most = secondsUntilNext(attempts, 1 - 2 ** -53)
    assert.ok(most !== null && most > wait && most <= wait * 1.1, String(most))
  }
})

Deno.test('a receiver may ask for more time, in seconds or until a date, and for no more than a day', async (test) => {
  const cases: [string, string | null, number, number][] = [
    ['seconds', '120', 1, 120],
    ['seconds with spaces', ' 120 ', 1, 120],
    ['less than the schedule says', '60', 2, 300],
    ['nothing at all', '0', 1, 5],
    ['exactly a day', '86400', 1, 24 * HOUR],
    ['longer than a day', '86401', 1, 24 * HOUR],
    ['longer than numbers go', '9'.repeat(400), 1, 24 * HOUR],
    ['a date', 'Fri, 20 Nov 2026 13:30:00 GMT', 1, 1.5 * HOUR],
    ['a date in the form of RFC 850', 'Friday, 20-Nov-26 13:30:00 GMT', 1, 1.5 * HOUR],
    ['a date in the form of asctime', 'Fri Nov 20 13:30:00 2026', 1, 1.5 * HOUR],
    ['a date before the next attempt', 'Fri, 20 Nov 2026 12:00:01 GMT', 1, 5],
    ['a date that is over', 'Fri, 20 Nov 2026 11:00:00 GMT', 1, 5],
    ['a date in years', 'Mon, 20 Nov 2028 12:00:00 GMT', 1, 24 * HOUR],
    ['no header', null, 1, 5],
    ['an empty header', '', 1, 5],
    ['a negative number', '-120', 1, 5],
    ['a broken number', '12.5', 1, 5],
    ['hexadecimal', '0xffff', 1, 5],
    ['a year', '2027-01-01', 1, 5],
    ['words', 'Monday, maybe', 1, 5],
    ['a date that does not exist', 'Fri, 99 Nov 2026 13:30:00 GMT', 1, 5],
  ]
  for (const [what, retryAfter, attempts, seconds] of cases) {
    await test.step(what, () => assert.equal(secondsUntilNext(attempts, 0, retryAfter), seconds))
  }
})

Deno.test('the time that was asked for is not shortened by the jitter of the schedule', () => {
  assert.equal(secondsUntilNext(1, 0.9, '5'), 5 * 1.09)
  assert.equal(secondsUntilNext(1, 0.9, '6'), 6)
})
