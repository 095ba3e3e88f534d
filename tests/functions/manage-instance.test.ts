// The handler through Request → Response, with supabase-js talking real HTTP to a Data API of our own, and the adapter to
// a Graph API of our own: what goes over the wire in whose name is half of what this function is about.
import assert from 'node:assert/strict'
import { createMetaApps } from '../../functions/_shared/providers/meta/apps.ts'
import { createGraph } from '../../functions/_shared/providers/meta/graph.ts'
import { createMetaProvider } from '../../functions/_shared/providers/meta/provider.ts'
import { createRpc } from '../../functions/_shared/rpc.ts'
import { createHandler } from '../../functions/manage-instance/handler.ts'
import { CLINIC, errorCode, recordedLog, secretBox } from './support.ts'

const SECRET_KEY = 'sb_secret_platform'
const OTHER_SECRET_KEY = 'sb_secret_other'
const PUBLISHABLE_KEY = 'sb_publishable_app'
const ADMIN = 'ey.admin.jwt'
const INSTANCE = '0193f2b4-0000-7000-8000-000000000001'
const APP_KEY = 'Zm9vYmFyYmF6cXV4MTIzNA'

const CONNECT = {
  organization_id: CLINIC,
  provider: 'meta_cloud',
  name: 'Recepção',
  phone_number: '(11) 94000-1234',
  external_id: '109876543210987',
  access_token: 'EAAG-token-da-clinica',
  meta_app: { app_secret: 'segredo-do-app', verify_token: 'token-de-verificacao' },
}

interface DataApiCall {
  name: string
  args: Record<string, unknown>
  apikey: string | null
  authorization: string | null
}

type Answer = (call: DataApiCall) => { status?: number; body: unknown }

function instanceNamed(name: unknown) {
  const { provider, external_id } = CONNECT
  return { id: INSTANCE, organization_id: CLINIC, name, provider, external_id }
}

const CONNECTION = { ok: true, verified_name: 'Clínica Aurora', display_phone_number: '+55 11 94000-1234' }

/** What the Graph API is asked, and what it answers. */
interface GraphCall {
  method: string
  path: string
  authorization: string | null
}

const numberFound = () =>
  Response.json({
    id: CONNECT.external_id,
    verified_name: CONNECTION.verified_name,
    display_phone_number: CONNECTION.display_phone_number,
  })

const connected: Answer = ({ args }) => {
  const app = args['meta_app']
  const appKey = typeof app === 'object' && app !== null && 'app_key' in app
    ? app.app_key
    : args['app_key'] ?? APP_KEY
  return {
    body: {
      instance: instanceNamed(args['name'] ?? 'Recepção'),
      app_key: appKey,
    },
  }
}

/** Runs a story against the function; its Data API answers as told. */
async function withFunction(
  answer: Answer,
  story: (tools: {
    call: (method: string, body?: unknown, headers?: HeadersInit, path?: string) => Promise<Response>
    calls: DataApiCall[]
    graphCalls: GraphCall[]
    lines: string[]
  }) => Promise<void>,
  graphAnswer: () => Response = numberFound,
) {
  const calls: DataApiCall[] = []
  const server = Deno.serve({ port: 0, hostname: '127.0.0.1', onListen: () => {} }, async (request) => {
    const call = {
      name: new URL(request.url).pathname.replace('/rest/v1/rpc/', ''),
      args: await request.json(),
      apikey: request.headers.get('apikey'),
      authorization: request.headers.get('authorization'),
    }
    calls.push(call)
    const { status = 200, body } = answer(call)
    return Response.json(body, { status })
  })
  const graphCalls: GraphCall[] = []
  const graph = Deno.serve({ port: 0, hostname: '127.0.0.1', onListen: () => {} }, (request) => {
    const { pathname, search } = new URL(request.url)
    const authorization = request.headers.get('authorization')
    graphCalls.push({ method: request.method, path: pathname + search, authorization })
    return graphAnswer()
  })
  const url = `http://127.0.0.1:${server.addr.port}`
  const secrets = await secretBox()
  const platformRpc = createRpc(url, SECRET_KEY)
  const meta = createMetaProvider({
    apps: createMetaApps({ rpc: platformRpc, secrets }),
    graph: createGraph({ url: `http://127.0.0.1:${graph.addr.port}`, version: 'v24.0' }),
  })
  const { log, lines } = recordedLog()
  const handler = createHandler({
    platformRpc,
    userRpc: (bearer) => createRpc(url, PUBLISHABLE_KEY, { bearer }),
    secretKeys: [SECRET_KEY, OTHER_SECRET_KEY],
    secrets,
    providers: new Map([[meta.name, meta]]),
    publicUrl: 'https://exemplo.supabase.co',
    log,
  })
  try {
    await story({
      calls,
      graphCalls,
      lines,
      call: (method, body, headers = { authorization: `Bearer ${ADMIN}` }, path = '/manage-instance') =>
        handler(
          new Request(`http://localhost${path}`, {
            method,
            headers: body === undefined
              ? headers
              : { 'content-type': 'application/json', ...Object.fromEntries(new Headers(headers)) },
            body: body === undefined ? null : JSON.stringify(body),
          }),
        ),
    })
  } finally {
    await Promise.all([server.shutdown(), graph.shutdown()])
  }
}

async function opened(
  sealed: unknown,
  purpose: 'meta_app.app_secret' | 'meta_app.verify_token' | 'instance.access_token',
) {
  assert.ok(typeof sealed === 'string')
  return await (await secretBox()).open(sealed, { organizationId: CLINIC, purpose })
}

function refused(status: number, code: string, error: string): Answer {
  return () => ({
    status,
    body: { code, message: 'Because', details: JSON.stringify({ error }), hint: null },
  })
}

Deno.test('an admin connects a number: secrets go in sealed and never come out', async () => {
  await withFunction(connected, async ({ call, calls, lines }) => {
    const response = await call('POST', CONNECT)
    assert.equal(response.status, 201)
    const answer = await response.json()
    const [rpc, ...others] = calls
    assert.ok(rpc)
    assert.deepEqual(others, [])
    assert.equal(rpc.name, 'connect_instance')
    assert.equal(rpc.apikey, PUBLISHABLE_KEY)
    assert.equal(rpc.authorization, `Bearer ${ADMIN}`)

    const { instance_id, access_token, meta_app, ...plain } = rpc.args
    assert.deepEqual(plain, {
      organization_id: CLINIC,
      provider: 'meta_cloud',
      name: 'Recepção',
      phone_number: '+5511940001234',
      external_id: '109876543210987',
      app_key: null,
      webhook_base_url: 'https://exemplo.supabase.co/functions/v1/whatsapp-webhook/meta',
    })
    assert.match(String(instance_id), /^[0-9a-f-]{36}$/)
    assert.equal(await opened(access_token, 'instance.access_token'), CONNECT.access_token)
    assert.ok(typeof meta_app === 'object' && meta_app !== null)
    const { app_key, app_secret, verify_token } = {
      app_key: '',
      app_secret: '',
      verify_token: '',
      ...meta_app,
    }
    assert.match(app_key, /^[A-Za-z0-9_-]{22}$/)
    assert.equal(await opened(app_secret, 'meta_app.app_secret'), CONNECT.meta_app.app_secret)
    assert.equal(await opened(verify_token, 'meta_app.verify_token'), CONNECT.meta_app.verify_token)

    assert.deepEqual(answer, {
      instance: instanceNamed('Recepção'),
      webhook_url: `https://exemplo.supabase.co/functions/v1/whatsapp-webhook/meta/${app_key}`,
      app_key,
      connection: CONNECTION,
    })
    const line = JSON.parse(lines[0] ?? '')
    assert.deepEqual([line.organization_id, line.instance_id, line.status], [CLINIC, INSTANCE, 201])
    assert.doesNotMatch(lines.join() + JSON.stringify(rpc), /EAAG|segredo-do-app|token-de-verificacao/)
    assert.doesNotMatch(lines.join(), /v1\.now|94000|ey\.admin/)
  })
})

Deno.test("without meta_app the organization's own app is used, the named one or its only one", async () => {
  const { meta_app: _app, ...withoutApp } = CONNECT
  await withFunction(connected, async ({ call, calls }) => {
    assert.equal((await call('POST', { ...withoutApp, app_key: APP_KEY })).status, 201)
    const response = await call('POST', withoutApp)
    assert.equal(response.status, 201)
    assert.equal((await response.json()).app_key, APP_KEY)
    assert.deepEqual(calls.map(({ args }) => [args['app_key'], args['meta_app']]), [[APP_KEY, null], [
      null,
      null,
    ]])
  })
})

Deno.test('every app key is new', async () => {
  await withFunction(connected, async ({ call }) => {
    const keys = new Set<string>()
    for (let attempt = 0; attempt < 10; attempt++) {
      keys.add((await (await call('POST', CONNECT)).json()).app_key)
    }
    assert.equal(keys.size, 10)
  })
})

Deno.test('a secret is sealed for the organization as Postgres spells it', async () => {
  await withFunction(connected, async ({ call, calls }) => {
    assert.equal((await call('POST', { ...CONNECT, organization_id: CLINIC.toUpperCase() })).status, 201)
    assert.equal(calls[0]?.args['organization_id'], CLINIC)
    assert.equal(await opened(calls[0]?.args['access_token'], 'instance.access_token'), CONNECT.access_token)
  })
})

Deno.test('an update changes what it names and leaves the rest', async () => {
  const target = { organization_id: CLINIC, instance_id: INSTANCE }
  const unchanged = {
    name: null,
    phone_number: null,
    access_token: null,
    app_secret: null,
    verify_token: null,
  }
  await withFunction(connected, async ({ call, calls }) => {
    const response = await call('PATCH', { ...target, name: ' Balcão ', phone_number: '31 8765-0003' })
    assert.equal(response.status, 200)
    assert.deepEqual(Object.keys(await response.json()), ['instance', 'webhook_url', 'app_key'])
    assert.deepEqual([calls[0]?.name, calls[0]?.args], [
      'update_instance',
      { ...target, ...unchanged, name: 'Balcão', phone_number: '+5531987650003' },
    ])

    assert.equal((await call('PATCH', { ...target, meta_app: { app_secret: 'novo' } })).status, 200)
    const { app_secret, ...rest } = calls[1]?.args ?? {}
    assert.equal(await opened(app_secret, 'meta_app.app_secret'), 'novo')
    assert.deepEqual({ ...rest, app_secret: null }, { ...target, ...unchanged })

    assert.equal(
      (await call('PATCH', { ...target, access_token: 'EAAG2', meta_app: { verify_token: 'v2' } })).status,
      200,
    )
    assert.equal(await opened(calls[2]?.args['access_token'], 'instance.access_token'), 'EAAG2')
    assert.equal(await opened(calls[2]?.args['verify_token'], 'meta_app.verify_token'), 'v2')
  })
})

Deno.test('a number is disconnected by body or by query', async () => {
  const target = { organization_id: CLINIC, instance_id: INSTANCE }
  await withFunction(connected, async ({ call, calls }) => {
    assert.equal((await call('DELETE', target)).status, 200)
    const query = `/functions/v1/manage-instance?${new URLSearchParams(target)}`
    assert.equal((await call('DELETE', undefined, undefined, query)).status, 200)
    assert.deepEqual(calls.map(({ name, args }) => ({ name, args })), [
      { name: 'disconnect_instance', args: target },
      { name: 'disconnect_instance', args: target },
    ])
  })
})

Deno.test('what is not valid is refused by the name of its field, before anybody is asked', async () => {
  const target = { organization_id: CLINIC, instance_id: INSTANCE }
  const invalid: [string, unknown, RegExp, string?][] = [
    [
      'POST',
      { ...CONNECT, phone_number: '4004-1234' },
      /^phone_number: is not a phone number/,
      'invalid_phone_number',
    ],
    ['POST', { ...CONNECT, phone_number: undefined }, /^phone_number: /],
    ['POST', { ...CONNECT, organization_id: 'x' }, /^organization_id: /],
    ['POST', { ...CONNECT, provider: 'telegram' }, /^provider: /],
    ['POST', { ...CONNECT, name: '  ' }, /^name: /],
    ['POST', { ...CONNECT, external_id: 109876543210987 }, /^external_id: /],
    ['POST', { ...CONNECT, access_token: '' }, /^access_token: /],
    ['POST', { ...CONNECT, meta_app: { app_secret: 'x' } }, /^meta_app\.verify_token: /],
    ['POST', { ...CONNECT, app_key: APP_KEY }, /^app_key: cannot be given together/],
    ['POST', [], /^The body: /],
    ['PATCH', target, /^The body: names nothing to change/],
    ['PATCH', { ...target, meta_app: {} }, /^The body: names nothing to change/],
    ['PATCH', { ...target, phone_number: '123' }, /^phone_number: /, 'invalid_phone_number'],
    ['PATCH', { organization_id: CLINIC, name: 'x' }, /^instance_id: /],
    ['DELETE', { organization_id: CLINIC }, /^instance_id: /],
  ]
  await withFunction(connected, async ({ call, calls }) => {
    for (const [method, body, message, code = 'invalid_request'] of invalid) {
      const response = await call(method, body)
      assert.equal(response.status, 400, JSON.stringify(body))
      const { error } = await response.json()
      assert.equal(error.code, code)
      assert.match(error.message, message)
    }
    assert.deepEqual(calls, [])
  })
})

Deno.test('a refusal never repeats the secret that was sent', async () => {
  await withFunction(connected, async ({ call, lines }) => {
    const response = await call('POST', {
      ...CONNECT,
      access_token: ['EAAG-token'],
      meta_app: 'segredo-do-app',
    })
    assert.equal(response.status, 400)
    assert.doesNotMatch(await response.text() + lines.join(), /EAAG|segredo/)
  })
})

Deno.test('bad JSON, a wrong content type and a body over the limit', async () => {
  const { log } = recordedLog()
  const unreachable = () => Promise.reject(new Error('was called'))
  const handler = createHandler({
    platformRpc: unreachable,
    userRpc: () => unreachable,
    secretKeys: [SECRET_KEY],
    secrets: await secretBox(),
    providers: new Map(),
    publicUrl: '',
    log,
  })
  const post = (body: string, type: string) =>
    handler(
      new Request('http://localhost/manage-instance', {
        method: 'POST',
        body,
        headers: { authorization: `Bearer ${ADMIN}`, 'content-type': type },
      }),
    )
  assert.equal((await post('{', 'application/json')).status, 400)
  assert.equal((await post('a=b', 'application/x-www-form-urlencoded')).status, 415)
  assert.equal((await post(' '.repeat(1024 * 1024 + 1), 'application/json')).status, 413)
})

Deno.test('who says nothing, or only what everybody may know, is not let in', async () => {
  await withFunction(connected, async ({ call, calls }) => {
    for (
      const headers of [{}, { apikey: PUBLISHABLE_KEY }, { authorization: 'Basic x' }, {
        authorization: 'Bearer',
      }]
    ) {
      const response = await call('POST', CONNECT, headers)
      assert.equal(response.status, 401)
      assert.equal(await errorCode(response), 'not_authenticated')
    }
    assert.deepEqual(calls, [])
  })
})

Deno.test('what the database refuses, the caller is told', async (test) => {
  const refusals: [number, string, string, number, string][] = [
    [400, 'BL002', 'not_allowed', 403, 'not_allowed'],
    [400, 'BL001', 'not_authenticated', 401, 'not_authenticated'],
    [400, 'BL100', 'organization_not_found', 404, 'organization_not_found'],
    [400, 'BL105', 'instance_not_found', 404, 'instance_not_found'],
    [400, 'BL104', 'instance_exists', 409, 'instance_exists'],
    [400, 'BL106', 'instance_disconnected', 409, 'instance_disconnected'],
    [400, 'BL103', 'app_required', 400, 'app_required'],
    [401, 'PGRST301', '', 401, 'not_authenticated'],
    [401, '42501', '', 401, 'not_authenticated'],
    [403, '42501', '', 403, 'not_allowed'],
  ]
  for (const [apiStatus, sqlState, error, status, code] of refusals) {
    await test.step(`${sqlState} ${error}`, async () => {
      await withFunction(refused(apiStatus, sqlState, error), async ({ call }) => {
        const response = await call('POST', CONNECT)
        assert.equal(response.status, status)
        assert.equal(await errorCode(response), code)
      })
    })
  }
})

Deno.test('a failure of ours is 500 without a reason', async () => {
  const broken = () => ({
    status: 503,
    body: { code: 'PGRST002', message: 'no schema cache', details: 'secret host', hint: null },
  })
  await withFunction(broken, async ({ call, lines }) => {
    const response = await call('POST', CONNECT)
    assert.equal(response.status, 500)
    assert.doesNotMatch(await response.text(), /schema cache|secret host/)
    assert.match(lines[0] ?? '', /no schema cache/)
  })
})

Deno.test("the secret key is the platform, as apikey or as bearer; a user's bearer beside it changes nothing", async () => {
  await withFunction(connected, async ({ call, calls }) => {
    for (
      const headers of [
        { apikey: SECRET_KEY },
        { apikey: OTHER_SECRET_KEY },
        { authorization: `Bearer ${SECRET_KEY}` },
        { apikey: SECRET_KEY, authorization: `Bearer ${ADMIN}` },
      ]
    ) {
      assert.equal((await call('POST', CONNECT, headers)).status, 201)
    }
    assert.deepEqual(calls.map(({ apikey }) => apikey), Array(4).fill(SECRET_KEY))
  })
})

Deno.test('the platform registers its own Meta app, sealed for the platform', async () => {
  const registered: Answer = ({ args }) => ({ body: { app_key: args['app_key'] } })
  await withFunction(registered, async ({ call, calls }) => {
    const path = '/manage-instance/platform-app'
    const response = await call('POST', { app_secret: 'a', verify_token: 'b' }, { apikey: SECRET_KEY }, path)
    assert.equal(response.status, 201)
    const { app_key, app_secret, verify_token } = calls[0]?.args ?? {}
    assert.equal(calls[0]?.name, 'register_platform_meta_app')
    assert.deepEqual(await response.json(), {
      app_key,
      webhook_url: `https://exemplo.supabase.co/functions/v1/whatsapp-webhook/meta/${app_key}`,
    })
    const secrets = await secretBox()
    assert.equal(
      await secrets.open(String(app_secret), { organizationId: null, purpose: 'meta_app.app_secret' }),
      'a',
    )
    assert.equal(
      await secrets.open(String(verify_token), { organizationId: null, purpose: 'meta_app.verify_token' }),
      'b',
    )
  })
})

Deno.test('nobody else registers an app for the platform', async () => {
  await withFunction(connected, async ({ call, calls }) => {
    const path = '/manage-instance/platform-app'
    assert.equal((await call('POST', { app_secret: 'a', verify_token: 'b' }, undefined, path)).status, 403)
    assert.equal((await call('POST', { app_secret: 'a', verify_token: 'b' }, {}, path)).status, 401)
    assert.equal((await call('GET', undefined, { apikey: SECRET_KEY }, path)).status, 405)
    assert.equal((await call('POST', CONNECT, undefined, '/manage-instance/other')).status, 404)
    assert.deepEqual(calls, [])
  })
})

Deno.test('a browser is answered before it asks, and can read every answer', async () => {
  await withFunction(connected, async ({ call }) => {
    const preflight = await call('OPTIONS', undefined, { origin: 'https://app.exemplo.com.br' })
    assert.equal(preflight.status, 204)
    assert.match(preflight.headers.get('access-control-allow-methods') ?? '', /POST, PATCH, DELETE/)
    assert.match(
      preflight.headers.get('access-control-allow-headers') ?? '',
      /authorization, apikey, content-type, x-client-info/,
    )
    for (
      const response of [
        preflight,
        await call('POST', CONNECT),
        await call('POST', CONNECT, {}),
        await call('PUT', CONNECT),
      ]
    ) {
      assert.equal(response.headers.get('access-control-allow-origin'), '*')
    }
    assert.equal((await call('PUT', CONNECT)).status, 405)
  })
})

Deno.test('a new token is tried out at once: what Meta calls the number, or why not', async () => {
  const asked = {
    method: 'GET',
    path: '/v24.0/109876543210987?fields=id%2Cdisplay_phone_number%2Cverified_name',
    authorization: `Bearer ${CONNECT.access_token}`,
  }
  const target = { organization_id: CLINIC, instance_id: INSTANCE }
  await withFunction(connected, async ({ call, graphCalls }) => {
    assert.deepEqual((await (await call('POST', CONNECT)).json()).connection, CONNECTION)
    const rotated = await (await call('PATCH', { ...target, access_token: 'EAAG-novo' })).json()
    assert.deepEqual(rotated.connection, CONNECTION)
    assert.deepEqual(graphCalls, [asked, { ...asked, authorization: 'Bearer EAAG-novo' }])
    // Without a new token there is nothing to try.
    assert.equal('connection' in await (await call('PATCH', { ...target, name: 'x' })).json(), false)
    assert.equal('connection' in await (await call('DELETE', target)).json(), false)
    assert.equal(graphCalls.length, 2)
  })
})

Deno.test('a number that cannot be reached is connected all the same, and says why it cannot', async (test) => {
  const tokenExpired = {
    error: { message: 'Session has expired on EAAG-token-da-clinica', type: 'OAuthException', code: 190 },
  }
  const answers: [string, () => Response, string, RegExp][] = [
    [
      'its token has expired',
      () => Response.json(tokenExpired, { status: 401 }),
      '190',
      /Session has expired/,
    ],
    ['no JSON', () => new Response('<html>', { status: 502 }), 'unexpected_answer', /HTTP 502/],
    ['JSON of somebody else', () => Response.json({ hello: 1 }), 'unexpected_answer', /HTTP 200/],
  ]
  for (const [name, answer, code, message] of answers) {
    await test.step(name, async () => {
      await withFunction(connected, async ({ call, lines }) => {
        const response = await call('POST', CONNECT)
        assert.equal(response.status, 201)
        const { connection } = await response.json()
        assert.deepEqual([connection.ok, connection.code], [false, code])
        assert.match(connection.message, message)
        assert.doesNotMatch(JSON.stringify(connection) + lines.join(), /EAAG/)
        assert.equal(JSON.parse(lines[0] ?? '').connection, code)
      }, answer)
    })
  }
})

/** As the database answers who may test a number, and with which token. */
async function storedToken(): Promise<Answer> {
  const access_token = await (await secretBox()).seal('EAAG-guardado', {
    organizationId: CLINIC,
    purpose: 'instance.access_token',
  })
  const { provider, external_id } = CONNECT
  return ({ name }) => ({
    body: name === 'get_instance_credentials' ? { provider, external_id, access_token } : null,
  })
}

const TEST_PATH = '/functions/v1/manage-instance/test'

Deno.test('an admin tests a number with its stored token, which stays with us', async () => {
  const target = { organization_id: CLINIC, instance_id: INSTANCE }
  await withFunction(await storedToken(), async ({ call, calls, graphCalls, lines }) => {
    const response = await call('POST', target, undefined, TEST_PATH)
    assert.equal(response.status, 200)
    assert.deepEqual(await response.json(), { connection: CONNECTION })
    assert.deepEqual(calls, [
      {
        name: 'require_instance_admin',
        args: target,
        apikey: PUBLISHABLE_KEY,
        authorization: `Bearer ${ADMIN}`,
      },
      {
        name: 'get_instance_credentials',
        args: target,
        apikey: SECRET_KEY,
        authorization: calls[1]?.authorization ?? null,
      },
    ])
    assert.notEqual(calls[1]?.authorization, `Bearer ${ADMIN}`)
    assert.deepEqual(graphCalls.map(({ authorization }) => authorization), ['Bearer EAAG-guardado'])
    assert.doesNotMatch(lines.join(), /EAAG|v1\.now/)

    assert.equal((await call('POST', target, { apikey: SECRET_KEY }, TEST_PATH)).status, 200)
    assert.deepEqual(calls.slice(2).map(({ name }) => name), ['get_instance_credentials'])
  })
})

Deno.test("nobody else's token is opened: who may not test a number is refused before it is read", async () => {
  const target = { organization_id: CLINIC, instance_id: INSTANCE }
  for (const [error, status] of [['not_allowed', 403], ['instance_not_found', 404]] as const) {
    await withFunction(refused(400, 'BL002', error), async ({ call, calls, graphCalls }) => {
      const response = await call('POST', target, undefined, TEST_PATH)
      assert.equal(response.status, status)
      assert.equal(await errorCode(response), error)
      assert.deepEqual(calls.map(({ name }) => name), ['require_instance_admin'])
      assert.deepEqual(graphCalls, [])
    })
  }
  await withFunction(await storedToken(), async ({ call, calls }) => {
    assert.equal((await call('POST', target, {}, TEST_PATH)).status, 401)
    assert.equal((await call('POST', { organization_id: CLINIC }, undefined, TEST_PATH)).status, 400)
    assert.equal((await call('DELETE', target, undefined, TEST_PATH)).status, 405)
    assert.deepEqual(calls, [])
  })
})
