import assert from 'node:assert/strict'
import { networkOf } from '../../functions/_shared/address.ts'
import { HttpError } from '../../functions/_shared/http.ts'
import { createRateLimit } from '../../functions/_shared/rate-limit.ts'

function granted(take: () => void, times: number): number {
  let count = 0
  for (let index = 0; index < times; index++) {
    try {
      take()
      count += 1
    } catch (error) {
      assert.ok(error instanceof HttpError)
      assert.deepEqual([error.status, error.code], [429, 'rate_limited'])
    }
  }
  return count
}

Deno.test('as many as the bucket holds pass, then as many as flow in', () => {
  const clock = { now: 5_000 }
  const limit = createRateLimit({ capacity: 7, perSecond: 3 }, () => clock.now)
  assert.equal(granted(() => limit.take('a'), 100), 7)
  assert.equal(granted(() => limit.take('b'), 3), 3)
  for (let second = 0; second < 100; second++) {
    clock.now += 1_000
    assert.equal(granted(() => limit.take('a'), 100), 3)
  }
  clock.now += 3_600_000
  assert.equal(granted(() => limit.take('a'), 100), 7)
})

Deno.test('who is refused is told when to come again, and not before', () => {
  const clock = { now: 0 }
  const limit = createRateLimit({ capacity: 1, perSecond: 0.1 }, () => clock.now)
  limit.take('a')
  assert.throws(() => limit.take('a'), { headers: { 'retry-after': '10' } })
  clock.now += 9_999
  assert.throws(() => limit.take('a'), { headers: { 'retry-after': '1' } })
  clock.now += 1
  limit.take('a')
})

Deno.test('looking takes nothing', () => {
  const limit = createRateLimit({ capacity: 2, perSecond: 1 }, () => 0)
  assert.equal(granted(() => limit.check('a'), 100), 100)
  assert.equal(granted(() => limit.take('a'), 100), 2)
  assert.equal(granted(() => limit.check('a'), 100), 0)
})

Deno.test('a hundred thousand strangers do not fill the memory, nor do they free one who asks on', () => {
  const clock = { now: 0 }
  const limit = createRateLimit({ capacity: 2, perSecond: 1 }, () => clock.now)
  let passed = 0
  for (let stranger = 0; stranger < 100_000; stranger++) {
    limit.take(`stranger ${stranger}`)
    if (stranger % 5_000 === 0) passed += granted(() => limit.take('a'), 3)
  }
  assert.equal(passed, 2)
})

Deno.test('a clock that goes back locks nobody out', () => {
  const clock = { now: 1_000_000 }
  const limit = createRateLimit({ capacity: 5, perSecond: 1 }, () => clock.now)
  granted(() => limit.take('a'), 5)
  clock.now -= 500_000
  assert.throws(() => limit.take('a'), { headers: { 'retry-after': '1' } })
  clock.now += 5_000
  assert.equal(granted(() => limit.take('a'), 100), 5)
})

Deno.test('callers are counted by the address that a proxy tells, IPv6 by its network', () => {
  const from = (headers: HeadersInit) => networkOf(new Request('http://localhost', { headers }))
  assert.equal(from({ 'x-forwarded-for': '203.0.113.7, 10.0.0.1' }), '203.0.113.7')
  assert.equal(from({ 'x-forwarded-for': '198.51.100.1', 'x-real-ip': '203.0.113.7' }), '203.0.113.7')
  assert.equal(
    from({ 'x-forwarded-for': '198.51.100.1', 'x-real-ip': '10.0.0.1', 'cf-connecting-ip': '203.0.113.7' }),
    '203.0.113.7',
  )
  assert.equal(from({ 'x-real-ip': '::ffff:203.0.113.7' }), '203.0.113.7')
  assert.equal(
    from({ 'x-real-ip': '2001:db8:1:2:3:4:5:6' }),
    from({ 'x-real-ip': '2001:0db8:0001:0002::9' }),
  )
  assert.notEqual(from({ 'x-real-ip': '2001:db8:1:2::1' }), from({ 'x-real-ip': '2001:db8:1:3::1' }))
  for (const nothing of ['', 'x', 'unknown', '203.0.113.7; drop']) {
    assert.equal(from({ 'x-real-ip': nothing }), 'unknown')
  }
  assert.equal(from({}), 'unknown')
})
