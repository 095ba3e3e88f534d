import assert from 'node:assert/strict'
import { RpcError } from '../../functions/_shared/rpc.ts'
import { createHandler } from '../../functions/health/handler.ts'
import { errorCode, recordedLog, recordedRpc } from './support.ts'

const SECRET_KEY = 'sb_secret_platform'
const HEALTHY = { status: 'healthy', reasons: [], database: 'connected', queue: { due: 0 } }

interface Question {
  method?: string
  headers?: Record<string, string>
}

/** Asks how the platform is, of which the database says this. */
async function ask(says: () => unknown, { method = 'GET', headers = {} }: Question = {}) {
  const { rpc, calls } = recordedRpc({ system_health: says })
  const { log, lines } = recordedLog()
  const health = createHandler({ rpc, secretKeys: ['sb_secret_other', SECRET_KEY], log })
  return { response: await health(new Request('http://localhost/health', { method, headers })), calls, lines }
}

const withKey = { headers: { apikey: SECRET_KEY } }
const fails = (error: Error) => () => {
  throw error
}

Deno.test('a living function says so, and no more, to whoever has no secret key', async () => {
  const callers = [
    {},
    { apikey: 'sb_publishable_app' },
    { apikey: 'sb_secret_platforn' },
    { authorization: 'Bearer ey.ey.ey' },
    { authorization: SECRET_KEY },
    { 'x-cron-secret': SECRET_KEY },
  ]
  for (const headers of callers) {
    const { response, calls } = await ask(() => HEALTHY, { headers })
    assert.equal(response.status, 200)
    assert.deepEqual(await response.json(), { status: 'alive' })
    assert.deepEqual(calls, [])
  }
})

Deno.test('with the secret key, as apikey or as bearer, it tells what the database says', async () => {
  for (const headers of [{ apikey: SECRET_KEY }, { authorization: `Bearer ${SECRET_KEY}` }]) {
    const { response, calls } = await ask(() => HEALTHY, { headers })
    assert.equal(response.status, 200)
    assert.equal(response.headers.get('cache-control'), 'no-store')
    assert.deepEqual(await response.json(), HEALTHY)
    assert.deepEqual(calls, [{ name: 'system_health', args: {} }])
  }
})

Deno.test('a warning is no outage, something critical is', async () => {
  const reason = {
    kind: 'queue_stalled',
    severity: 'warning',
    message: 'The oldest due job has waited for 90 s',
  }
  const degraded = await ask(() => ({ ...HEALTHY, status: 'degraded', reasons: [reason] }), withKey)
  assert.equal(degraded.response.status, 200)
  assert.deepEqual((await degraded.response.json()).reasons, [reason])
  const critical = { ...HEALTHY, status: 'unhealthy', reasons: [{ ...reason, severity: 'critical' }] }
  const unhealthy = await ask(() => critical, withKey)
  assert.equal(unhealthy.response.status, 503)
  assert.deepEqual(await unhealthy.response.json(), critical)
  assert.match(unhealthy.lines.at(-1) ?? '', /"health":"unhealthy","reasons":\["queue_stalled"\]/)
})

Deno.test('a database that does not answer is unreachable, one that cannot say how it is has failed', async () => {
  const outcomes: [Error, string][] = [
    [new RpcError(0, '', 'fetch failed', null), 'unreachable'],
    [new RpcError(503, 'PGRST002', 'Could not query the database', null), 'unreachable'],
    [new RpcError(503, '57P03', 'the database system is starting up', null), 'unreachable'],
    [new RpcError(503, '53300', 'too many connections', null), 'unreachable'],
    [new RpcError(500, '08006', 'connection failure', null), 'unreachable'],
    [new RpcError(502, '', '<html>', null), 'unreachable'],
    [new RpcError(500, '57014', 'canceling statement due to statement timeout', null), 'connected'],
    [new RpcError(404, 'PGRST202', 'Could not find the function', null), 'connected'],
    [new RpcError(400, '22012', 'division by zero', null), 'connected'],
    [new Error('something else'), 'connected'],
  ]
  for (const [error, database] of outcomes) {
    const { response, lines } = await ask(fails(error), withKey)
    assert.equal(response.status, 503)
    const body = await response.json()
    assert.deepEqual(
      [body.status, body.database, body.reasons.length],
      ['unhealthy', database, 1],
      error.message,
    )
    assert.equal(body.reasons[0].severity, 'critical')
    // Why is for the log.
    assert.doesNotMatch(JSON.stringify(body), /division|html/)
    assert.match(lines[0] ?? '', /"event":"health unknown"/)
  }
})

Deno.test('what is no health is not passed on as one', async () => {
  const { response } = await ask(() => ({ status: 'splendid' }), withKey)
  assert.equal(response.status, 503)
  assert.equal((await response.json()).status, 'unhealthy')
})

Deno.test('HEAD answers without a body, with the same status', async () => {
  const alive = await ask(() => HEALTHY, { method: 'HEAD' })
  assert.equal(alive.response.status, 200)
  assert.equal(await alive.response.text(), '')
  const unhealthy = await ask(() => ({ ...HEALTHY, status: 'unhealthy' }), { ...withKey, method: 'HEAD' })
  assert.equal(unhealthy.response.status, 503)
  assert.equal(await unhealthy.response.text(), '')
})

Deno.test('nothing can be sent to it', async () => {
  for (const method of ['POST', 'PUT', 'DELETE']) {
    const { response } = await ask(() => HEALTHY, { ...withKey, method })
    assert.equal(response.status, 405)
    assert.equal(response.headers.get('allow'), 'GET, HEAD')
    assert.equal(await errorCode(response), 'method_not_allowed')
  }
})
