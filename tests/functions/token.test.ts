// Exchanging an API key, with a database and an Auth in memory: what happens at every step, and after a crash at each.
import assert from 'node:assert/strict'
import { createRateLimit } from '../../functions/_shared/rate-limit.ts'
import { RpcError } from '../../functions/_shared/rpc.ts'
import { createSecretBox } from '../../functions/_shared/secrets.ts'
import { createAuthApi } from '../../functions/token/auth.ts'
import { createHandler } from '../../functions/token/handler.ts'
import { CLINIC, ENCRYPTION_KEYS, errorCode, recordedLog, recordedRpc } from './support.ts'

const KEY = 'blk_abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG'
const KEY_HASH = await sha256(KEY)
const API_KEY = '0193f2b4-0000-7000-8000-00000000a001'
const PROGRAM = '0193f2b4-0000-7000-8000-00000000b001'
const EMAIL = `key-${API_KEY}@api-keys.balcao.invalid`
const SECRET_KEY = 'sb_secret_of_the_platform'
const PLACE = { organizationId: CLINIC, purpose: 'api_key.password' } as const

async function sha256(text: string): Promise<string> {
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text))
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, '0')).join('')
}

interface World {
  /** The key's row; null: revoked. */
  key: { password: string | null; is_member: boolean; expires_at: string | null } | null
  outcome: Record<string, unknown> | null
  logins: Map<string, { email: string; password: string }>
  /** Answers in place of Auth's own, by "METHOD path". */
  authInstead: Map<string, () => Response | Promise<Response>>
  authCalls: string[]
  admitFails: boolean
}

function refusal(): RpcError {
  return new RpcError(400, 'BL941', 'This organization has no such API key', 'api_key_not_found')
}

async function aWorld({ encryptionKeys = ENCRYPTION_KEYS, capacity = 1_000 } = {}) {
  const world: World = {
    key: { password: null, is_member: false, expires_at: null },
    outcome: null,
    logins: new Map(),
    authInstead: new Map(),
    authCalls: [],
    admitFails: false,
  }
  const { rpc, callsOf, calls } = recordedRpc({
    exchange_api_key: ({ key_hash }) => {
      if (world.outcome !== null) return world.outcome
      if (key_hash !== KEY_HASH || world.key === null) return { outcome: 'unknown' }
      const ids = { organization_id: CLINIC, api_key_id: API_KEY, user_id: PROGRAM, email: EMAIL }
      return { outcome: 'granted', role: 'viewer', ...ids, ...world.key }
    },
    keep_api_key_password: ({ password, replaces }) => {
      if (world.key === null) throw refusal()
      if (world.key.password === replaces) world.key.password = String(password)
      return world.key.password
    },
    admit_api_key: () => {
      if (world.admitFails) throw new RpcError(0, '', 'connection lost', null)
      if (world.key === null) throw refusal()
      assert.ok(world.logins.has(PROGRAM), 'nobody is a member without a login')
      world.key.is_member = true
      return null
    },
  })
  const clock = { now: Date.parse('2026-11-20T12:00:00Z') }
  let sessions = 0
  const auth = createAuthApi({
    url: 'https://project.example',
    secretKey: SECRET_KEY,
    fetch: async (input, init) => {
      const request = new Request(input, init)
      const what = `${request.method} ${new URL(request.url).pathname.replace('/auth/v1/', '')}`
      world.authCalls.push(what)
      assert.equal(request.headers.get('apikey'), SECRET_KEY)
      const instead = world.authInstead.get(what)
      if (instead !== undefined) return instead()
      const body = await request.json()
      if (what === 'POST admin/users') {
        if (world.logins.has(body.id)) return Response.json({ error_code: 'email_exists' }, { status: 422 })
        assert.equal(body.email_confirm, true)
        assert.deepEqual(body.app_metadata, { balcao_api_key_id: API_KEY, balcao_organization_id: CLINIC })
        world.logins.set(body.id, { email: body.email, password: body.password })
        return Response.json({ id: body.id })
      }
      if (what === `PUT admin/users/${PROGRAM}`) {
        world.logins.set(PROGRAM, { email: EMAIL, password: body.password })
        return Response.json({ id: PROGRAM })
      }
      assert.equal(what, 'POST token')
      const login = [...world.logins.values()].find(({ email }) => email === body.email)
      if (login?.password !== body.password) {
        return Response.json({ error_code: 'invalid_credentials' }, { status: 400 })
      }
      sessions += 1
      return Response.json({
        access_token: `ey.session.${sessions}`,
        expires_in: 3600,
        refresh_token: 'not-for-you',
      })
    },
  })
  const { log, lines } = recordedLog()
  const newHandler = async (keys = encryptionKeys) =>
    createHandler({
      rpc,
      secrets: await createSecretBox(keys),
      auth,
      randomBytes: (length) => crypto.getRandomValues(new Uint8Array(length)),
      limit: createRateLimit({ capacity, perSecond: 1 }, () => clock.now),
      now: () => clock.now,
      log,
    })
  let handler = await newHandler()
  const exchange = (
    key: string | null = KEY,
    { method = 'POST', path = '/token', address = '203.0.113.1' } = {},
  ) =>
    handler(
      new Request(`http://localhost${path}`, {
        method,
        headers: {
          ...(key === null ? {} : { authorization: key.includes(' ') ? key : `Bearer ${key}` }),
          'cf-connecting-ip': address,
        },
      }),
    )
  return {
    world,
    clock,
    lines,
    calls,
    callsOf,
    exchange,
    signIns: () => world.authCalls.filter((call) => call === 'POST token').length,
    /** As after a deployment: nothing is remembered. */
    restart: async (keys?: string) => void (handler = await newHandler(keys)),
  }
}

async function tokenOf(response: Response): Promise<string> {
  assert.equal(response.status, 200)
  return (await response.json()).access_token
}

Deno.test('the first exchange makes the login, lets it in, and gives a token', async () => {
  const { world, exchange, lines, calls } = await aWorld()
  const response = await exchange()
  assert.equal(response.status, 200)
  assert.equal(response.headers.get('cache-control'), 'no-store')
  assert.deepEqual(await response.json(), {
    access_token: 'ey.session.1',
    token_type: 'bearer',
    expires_in: 3600,
    organization_id: CLINIC,
    role: 'viewer',
  })
  assert.deepEqual(world.authCalls, ['POST admin/users', 'POST token'])
  assert.equal(world.logins.get(PROGRAM)?.email, EMAIL)

  const password = world.logins.get(PROGRAM)?.password ?? ''
  assert.match(password, /^[A-Za-z0-9_-]{43}aA1!$/)
  const written = JSON.stringify([lines, calls])
  for (const secret of [KEY, password, 'ey.session', SECRET_KEY]) assert.ok(!written.includes(secret), secret)
  assert.ok(lines.join().includes(API_KEY))
})

Deno.test('who asks again soon gets the same token; after half its life a new one', async () => {
  const { exchange, clock, signIns } = await aWorld()
  const first = await tokenOf(await exchange())
  clock.now += 29 * 60_000
  const again = await exchange()
  const body = await again.json()
  assert.deepEqual([body.access_token, body.expires_in], [first, 31 * 60])
  clock.now += 60_000
  assert.notEqual(await tokenOf(await exchange()), first)
  assert.equal(signIns(), 2)
})

Deno.test('a key that is revoked gets nothing, although a token of it is remembered', async () => {
  const { world, exchange } = await aWorld()
  await tokenOf(await exchange())
  world.key = null
  const response = await exchange()
  assert.deepEqual([response.status, await errorCode(response)], [401, 'invalid_api_key'])
})

Deno.test('a key that expires before its token says so', async () => {
  const { world, exchange, clock } = await aWorld()
  world.key = { password: null, is_member: false, expires_at: new Date(clock.now + 90_500).toISOString() }
  assert.equal((await (await exchange()).json()).expires_in, 90)
})

Deno.test('wrong and malformed keys get one answer, and look alike to the database', async () => {
  const { exchange, callsOf } = await aWorld()
  const wrong = [
    KEY.replace('G', 'H'),
    KEY.slice(0, -1),
    `${KEY}x`,
    KEY.toUpperCase(),
    'blk_',
    'x',
    SECRET_KEY,
    'a'.repeat(8_000),
    "blk_';--",
  ]
  const answers = new Set<string>()
  for (const key of wrong) {
    const response = await exchange(key)
    assert.equal(response.status, 401)
    answers.add(await response.text())
  }
  assert.equal(answers.size, 1)
  assert.equal(JSON.parse([...answers][0] ?? '').error.code, 'invalid_api_key')
  // Each took the same way: its hash was looked up.
  const hashes = callsOf('exchange_api_key').map(({ args }) => args['key_hash'])
  assert.equal(hashes.length, wrong.length)
  for (const hash of hashes) assert.match(String(hash), /^[0-9a-f]{64}$/)
})

Deno.test('no key at all is a question of its own', async () => {
  const { exchange, callsOf } = await aWorld()
  for (const none of [null, 'Basic YTpi', 'Bearer a b']) {
    const response = await exchange(none)
    assert.deepEqual([response.status, await errorCode(response)], [401, 'not_authenticated'])
  }
  assert.equal((await exchange(KEY, { method: 'GET' })).status, 405)
  assert.equal((await exchange(KEY, { path: '/token/x' })).status, 404)
  assert.deepEqual(callsOf('exchange_api_key'), [])
})

Deno.test('what the database says of a key is told with a stable code', async () => {
  const { world, exchange } = await aWorld()
  for (
    const [outcome, status, code] of [
      [{ outcome: 'expired' }, 401, 'api_key_expired'],
      [{ outcome: 'organization_inactive' }, 403, 'organization_inactive'],
      [{ outcome: 'rate_limited', retry_after: 2.1 }, 429, 'rate_limited'],
    ] as const
  ) {
    world.outcome = outcome
    const response = await exchange()
    assert.equal(response.headers.get('retry-after'), status === 429 ? '3' : null)
    assert.deepEqual([response.status, await errorCode(response)], [status, code])
  }
})

Deno.test('a flood from one address does not reach the database, and hinders nobody else', async () => {
  const { exchange, callsOf } = await aWorld({ capacity: 10 })
  const statuses = await Promise.all(Array.from({ length: 100 }, async () => (await exchange('x')).status))
  assert.equal(statuses.filter((status) => status === 401).length, 10)
  assert.equal(statuses.filter((status) => status === 429).length, 90)
  assert.equal(callsOf('exchange_api_key').length, 10)
  await tokenOf(await exchange(KEY, { address: '203.0.113.2' }))
})

Deno.test('twenty first exchanges at once agree on one password', async () => {
  const { world, exchange, restart } = await aWorld()
  const answers = await Promise.all(Array.from({ length: 20 }, () => exchange()))
  for (const answer of answers) assert.equal(answer.status, 200)
  await restart()
  world.authCalls.length = 0
  await tokenOf(await exchange())
  assert.deepEqual(world.authCalls, ['POST token'])
})

Deno.test('whatever a crash leaves, the next exchange goes on from there', async () => {
  for (const crash of ['POST admin/users', 'admit', 'POST token']) {
    const { world, exchange, restart } = await aWorld()
    if (crash === 'admit') world.admitFails = true
    else world.authInstead.set(crash, () => Promise.reject(new TypeError('connection lost')))
    const failed = await exchange()
    assert.equal(failed.status >= 500, true)
    await failed.body?.cancel()
    const password = world.key?.password
    world.admitFails = false
    world.authInstead.clear()
    await restart()
    await tokenOf(await exchange())
    assert.equal(world.key?.password, password)
  }
})

Deno.test('a login made a moment ago, of which nobody heard, is taken over', async () => {
  const { world, exchange } = await aWorld()
  world.logins.set(PROGRAM, { email: EMAIL, password: 'of an exchange that never ended' })
  await tokenOf(await exchange())
  assert.deepEqual(world.authCalls, ['POST admin/users', `PUT admin/users/${PROGRAM}`, 'POST token'])
})

Deno.test('in a project into which a tenant was restored, the login is made again', async () => {
  const { world, exchange } = await aWorld()
  const secrets = await createSecretBox(ENCRYPTION_KEYS)
  const sealed = await secrets.seal('from the other project', PLACE)
  for (const is_member of [true, false]) {
    world.logins.clear()
    world.key = { password: sealed, is_member, expires_at: null }
    await tokenOf(await exchange())
    assert.equal(world.logins.get(PROGRAM)?.password, 'from the other project')
  }
})

Deno.test('a password whose encryption key is gone is replaced', async () => {
  const { world, exchange, restart } = await aWorld()
  await tokenOf(await exchange())
  const before = world.key?.password
  await restart(`new:${btoa('c'.repeat(32))}`)
  await tokenOf(await exchange())
  assert.match(world.key?.password ?? '', /^v1\.new\./)
  assert.notEqual(world.key?.password, before)
  await restart(`new:${btoa('c'.repeat(32))}`)
  await tokenOf(await exchange())
})

Deno.test('a key that is revoked in the middle of its first exchange gets nothing', async () => {
  const { world, exchange } = await aWorld()
  world.authInstead.set('POST admin/users', () => {
    world.key = null
    world.logins.set(PROGRAM, { email: EMAIL, password: 'x' })
    return Response.json({ id: PROGRAM })
  })
  const response = await exchange()
  assert.deepEqual([response.status, await errorCode(response)], [401, 'invalid_api_key'])
})

Deno.test('when Auth refuses or is away, the caller is asked to come again, and the log has the reason', async () => {
  const cases: [string, () => Response, string][] = [
    ['POST token', () => new Response('upstream', { status: 502 }), '5'],
    ['POST token', () => new Response('{}', { status: 429, headers: { 'retry-after': '17' } }), '17'],
    ['POST token', () => Response.json({ error_code: 'user_banned' }, { status: 400 }), '5'],
    ['POST token', () => Response.json({ hello: 'world' }), '5'],
    ['POST admin/users', () => Response.json({ error_code: 'not_admin' }, { status: 403 }), '5'],
    ['POST admin/users', () => Response.json({ id: '0193f2b4-0000-7000-8000-00000000ffff' }), '5'],
  ]
  for (const [what, answer, retryAfter] of cases) {
    const { world, exchange, lines } = await aWorld()
    world.authInstead.set(what, answer)
    const response = await exchange()
    assert.equal(response.headers.get('retry-after'), retryAfter)
    assert.deepEqual([response.status, await errorCode(response)], [503, 'auth_unavailable'])
    assert.ok(lines.some((line) => line.includes('machine user not signed in')))
  }
})
