// The handler through Request → Response, with supabase-js talking real HTTP to a Data API of our own: in whose name
// it is asked is part of what is tested.
import assert from 'node:assert/strict'
import { Webhook } from 'standardwebhooks'
import type { Resolve } from '../../functions/_shared/public-address.ts'
import { createRpc } from '../../functions/_shared/rpc.ts'
import { createHandler } from '../../functions/manage-webhook/handler.ts'
import { CLINIC, errorCode, recordedLog, secretBox } from './support.ts'

const SECRET_KEY = 'sb_secret_platform'
const PUBLISHABLE_KEY = 'sb_publishable_app'
const ADMIN = 'ey.admin.jwt'
const ENDPOINT = '0193f2b4-0000-7000-8000-0000000000f1'
const URL_OF_CLINIC = 'https://clinica.exemplo.com.br/ganchos'
const CREATE = {
  organization_id: CLINIC,
  url: URL_OF_CLINIC,
  event_types: ['message.received', 'message.failed'],
  description: ' CRM da clínica ',
}
const TARGET = { organization_id: CLINIC, endpoint_id: ENDPOINT }

interface DataApiCall {
  name: string
  args: Record<string, unknown>
  apikey: string | null
  authorization: string | null
}

type Answer = (call: DataApiCall) => { status?: number; body: unknown }

const kept: Answer = ({ args }) => ({
  body: {
    id: args['endpoint_id'],
    organization_id: CLINIC,
    url: args['url'] ?? URL_OF_CLINIC,
    is_active: true,
  },
})

interface Tools {
  call: (method: string, body?: unknown, headers?: HeadersInit, path?: string) => Promise<Response>
  calls: DataApiCall[]
  lines: string[]
}

interface Options {
  resolve?: Resolve
  allowLoopback?: boolean
  randomBytes?: (length: number) => Uint8Array<ArrayBuffer>
}

async function withFunction(answer: Answer, story: (tools: Tools) => Promise<void>, options: Options = {}) {
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
  const url = `http://127.0.0.1:${server.addr.port}`
  const { log, lines } = recordedLog()
  const handler = createHandler({
    platformRpc: createRpc(url, SECRET_KEY),
    userRpc: (bearer) => createRpc(url, PUBLISHABLE_KEY, { bearer }),
    secretKeys: [SECRET_KEY],
    secrets: await secretBox(),
    resolve: options.resolve ?? (() => Promise.resolve(['8.8.8.8'])),
    randomBytes: options.randomBytes ?? ((length) => crypto.getRandomValues(new Uint8Array(length))),
    allowLoopback: options.allowLoopback ?? false,
    log,
  })
  try {
    await story({
      calls,
      lines,
      call: (method, body, headers = { authorization: `Bearer ${ADMIN}` }, path = '/manage-webhook') =>
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
    await server.shutdown()
  }
}

async function opened(sealed: unknown): Promise<string> {
  assert.ok(typeof sealed === 'string')
  return await (await secretBox()).open(sealed, {
    organizationId: CLINIC,
    purpose: 'webhook_endpoint.secret',
  })
}

Deno.test('an admin registers a receiver: the secret is shown once and kept sealed', async () => {
  await withFunction(kept, async ({ call, calls, lines }) => {
    const response = await call('POST', CREATE)
    assert.equal(response.status, 201)
    assert.equal(response.headers.get('cache-control'), 'no-store')
    const { endpoint, secret, ...others } = await response.json()
    assert.deepEqual(others, {})
    assert.match(secret, /^whsec_[A-Za-z0-9+/]{43}=$/)
    // The reference library takes it for what it is.
    assert.match(new Webhook(secret).sign('id', new Date(0), '{}'), /^v1,/)

    const [rpc, ...more] = calls
    assert.ok(rpc)
    assert.deepEqual(more, [])
    assert.deepEqual([rpc.name, rpc.apikey, rpc.authorization], [
      'create_webhook_endpoint',
      PUBLISHABLE_KEY,
      `Bearer ${ADMIN}`,
    ])
    const { secret: sealed, endpoint_id, ...plain } = rpc.args
    assert.deepEqual(plain, { ...CREATE, description: 'CRM da clínica' })
    assert.match(String(endpoint_id), /^[0-9a-f-]{36}$/)
    assert.equal(endpoint.id, endpoint_id)
    assert.equal(await opened(sealed), secret)

    const line = JSON.parse(lines[0] ?? '')
    assert.deepEqual([line.organization_id, line.endpoint_id, line.status], [CLINIC, endpoint_id, 201])
    assert.doesNotMatch(lines.join(), /whsec_|v1\.now|ey\.admin/)
    assert.doesNotMatch(JSON.stringify(rpc), /whsec_/)
  })
})

Deno.test('every secret is 32 bytes of its own', async () => {
  let count = 0
  const randomBytes = (length: number) => new Uint8Array(length).fill(++count)
  await withFunction(kept, async ({ call }) => {
    for (const byte of [1, 2]) {
      const { secret } = await (await call('POST', CREATE)).json()
      assert.equal(atob(secret.replace('whsec_', '')), String.fromCharCode(byte).repeat(32))
    }
  }, { randomBytes })
})

Deno.test('a description is not needed', async () => {
  const { description: _description, ...without } = CREATE
  await withFunction(kept, async ({ call, calls }) => {
    assert.equal((await call('POST', without)).status, 201)
    assert.equal(calls[0]?.args['description'], null)
  })
})

Deno.test('a secret is sealed for the organization as Postgres spells it', async () => {
  await withFunction(kept, async ({ call, calls }) => {
    const response = await call('POST', { ...CREATE, organization_id: CLINIC.toUpperCase() })
    assert.equal(calls[0]?.args['organization_id'], CLINIC)
    assert.equal(await opened(calls[0]?.args['secret']), (await response.json()).secret)
  })
})

Deno.test('a change names what it changes, and the rest stays', async () => {
  await withFunction(kept, async ({ call, calls }) => {
    const changes = [
      { url: 'https://nova.exemplo.com.br/' },
      { event_types: ['message.sent'] },
      { description: 'ERP' },
      { description: '' },
      { is_active: false },
      { is_active: true, event_types: ['contact.created'] },
    ]
    for (const change of changes) {
      const response = await call('PATCH', { ...TARGET, ...change })
      assert.equal(response.status, 200)
      assert.deepEqual(Object.keys(await response.json()), ['endpoint'])
    }
    assert.deepEqual(
      calls.map(({ name, args }) => [name, args]),
      changes.map((change) => ['update_webhook_endpoint', { ...TARGET, ...change }]),
    )
  })
})

Deno.test('a rotation answers the new secret, the database gets it sealed', async () => {
  await withFunction(kept, async ({ call, calls, lines }) => {
    const response = await call('PATCH', { ...TARGET, rotate_secret: true })
    assert.equal(response.status, 200)
    assert.equal(response.headers.get('cache-control'), 'no-store')
    const { secret } = await response.json()
    const { new_secret, ...rest } = calls[0]?.args ?? {}
    assert.equal(await opened(new_secret), secret)
    assert.deepEqual(rest, TARGET)
    assert.doesNotMatch(lines.join() + JSON.stringify(calls), /whsec_/)
  })
})

Deno.test('a receiver is removed by body or by query', async () => {
  await withFunction(kept, async ({ call, calls }) => {
    assert.equal((await call('DELETE', TARGET)).status, 200)
    const query = `/functions/v1/manage-webhook?${new URLSearchParams(TARGET)}`
    const response = await call('DELETE', undefined, undefined, query)
    assert.deepEqual(Object.keys(await response.json()), ['endpoint'])
    assert.deepEqual(calls.map(({ name, args }) => ({ name, args })), [
      { name: 'delete_webhook_endpoint', args: TARGET },
      { name: 'delete_webhook_endpoint', args: TARGET },
    ])
  })
})

Deno.test('an address that deliveries would refuse is refused at once, in POST and in PATCH', async (test) => {
  const refused: [string, string[], RegExp][] = [
    ['http://clinica.exemplo.com.br/', ['8.8.8.8'], /https/],
    ['clinica.exemplo.com.br', ['8.8.8.8'], /not an address/],
    ['https://user:senha@clinica.exemplo.com.br/', ['8.8.8.8'], /password/],
    ['https://clinica.exemplo.com.br/#x', ['8.8.8.8'], /fragment/],
    ['https://clinica.exemplo.com.br:25/', ['8.8.8.8'], /port/],
    ['https://localhost:8443/', ['127.0.0.1'], /public name/],
    ['https://127.1/', [], /public internet/],
    ['https://[::ffff:10.0.0.1]/', [], /public internet/],
    ['https://clinica.exemplo.com.br/', ['8.8.8.8', '10.1.2.3'], /public internet/],
    ['https://clinica.exemplo.com.br/', ['169.254.169.254'], /public internet/],
    ['https://clinica.exemplo.com.br/', [], /public internet/],
  ]
  for (const [url, addresses, reason] of refused) {
    await test.step(`${url} ${addresses}`, async () => {
      await withFunction(kept, async ({ call, calls }) => {
        for (const [method, body] of [['POST', { ...CREATE, url }], ['PATCH', { ...TARGET, url }]] as const) {
          const response = await call(method, body)
          assert.equal(response.status, 400)
          const { error } = await response.json()
          assert.equal(error.code, 'invalid_url')
          assert.match(error.message, reason)
          assert.doesNotMatch(error.message, /10\.1|169\.254|senha/)
        }
        assert.deepEqual(calls, [])
      }, { resolve: () => Promise.resolve(addresses) })
    })
  }
})

Deno.test('nobody learns which names only our network knows', async () => {
  const answers = await Promise.all([['10.0.0.1'], []].map(async (addresses) => {
    let answer = ''
    await withFunction(kept, async ({ call }) => {
      answer = await (await call('POST', CREATE)).text()
    }, { resolve: () => Promise.resolve(addresses) })
    return answer
  }))
  assert.equal(answers[0], answers[1])
})

Deno.test('an address is kept in the spelling that was checked', async () => {
  await withFunction(kept, async ({ call, calls }) => {
    await call('POST', { ...CREATE, url: ' HTTPS://Clínica.Exemplo.com.br:443/a/../b?c=1 ' })
    assert.equal(calls[0]?.args['url'], 'https://xn--clnica-4va.exemplo.com.br/b?c=1')
  })
})

Deno.test('where tests allow loopback a receiver may be there', async () => {
  await withFunction(kept, async ({ call }) => {
    assert.equal((await call('POST', { ...CREATE, url: 'http://127.0.0.1:4000/' })).status, 201)
    assert.equal((await call('POST', { ...CREATE, url: 'http://10.0.0.1:4000/' })).status, 400)
  }, { allowLoopback: true })
})

Deno.test('what is not valid is refused by the name of its field, before anybody is asked', async () => {
  const invalid: [string, unknown, RegExp][] = [
    ['POST', { ...CREATE, organization_id: 'x' }, /^organization_id: /],
    ['POST', { ...CREATE, url: undefined }, /^url: /],
    ['POST', { ...CREATE, url: `https://exemplo.com.br/${'x'.repeat(2000)}` }, /^url: /],
    ['POST', { ...CREATE, event_types: [] }, /^event_types: /],
    ['POST', { ...CREATE, event_types: 'message.sent' }, /^event_types: /],
    ['POST', { ...CREATE, event_types: [''] }, /^event_types\.0: /],
    ['POST', { ...CREATE, event_types: ['a\u0000'] }, /^event_types\.0: /],
    ['POST', { ...CREATE, description: 'x'.repeat(201) }, /^description: /],
    ['POST', [], /^The body: /],
    ['PATCH', TARGET, /^The body: names nothing to change/],
    ['PATCH', { organization_id: CLINIC, is_active: true }, /^endpoint_id: /],
    ['PATCH', { ...TARGET, is_active: 'yes' }, /^is_active: /],
    ['PATCH', { ...TARGET, rotate_secret: false }, /^rotate_secret: /],
    ['DELETE', { organization_id: CLINIC }, /^endpoint_id: /],
  ]
  await withFunction(kept, async ({ call, calls }) => {
    for (const [method, body, message] of invalid) {
      const response = await call(method, body)
      assert.equal(response.status, 400, JSON.stringify(body))
      const { error } = await response.json()
      assert.equal(error.code, 'invalid_request')
      assert.match(error.message, message)
    }
    assert.deepEqual(calls, [])
  })
})

Deno.test('who says nothing, or only what everybody may know, is not let in', async () => {
  const unasked: Resolve = () => Promise.reject(new Error('was asked'))
  await withFunction(kept, async ({ call, calls }) => {
    for (const headers of [{}, { apikey: PUBLISHABLE_KEY }, { authorization: 'Basic x' }]) {
      const response = await call('POST', CREATE, headers)
      assert.equal(response.status, 401)
      assert.equal(await errorCode(response), 'not_authenticated')
    }
    assert.deepEqual(calls, [])
  }, { resolve: unasked })
})

Deno.test('the secret key is the platform, as apikey or as bearer', async () => {
  await withFunction(kept, async ({ call, calls }) => {
    for (
      const headers of [
        { apikey: SECRET_KEY },
        { authorization: `Bearer ${SECRET_KEY}` },
        { apikey: SECRET_KEY, authorization: `Bearer ${ADMIN}` },
      ]
    ) assert.equal((await call('POST', CREATE, headers)).status, 201)
    assert.deepEqual(calls.map(({ apikey }) => apikey), Array(3).fill(SECRET_KEY))
  })
})

Deno.test('what the database refuses, the caller is told', async (test) => {
  const refusals: [number, string, string, number, string][] = [
    [400, 'BL001', 'not_authenticated', 401, 'not_authenticated'],
    [400, 'BL002', 'not_allowed', 403, 'not_allowed'],
    [400, 'BL310', 'webhook_endpoint_not_found', 404, 'webhook_endpoint_not_found'],
    [400, 'BL311', 'invalid_url', 400, 'invalid_url'],
    [400, 'BL312', 'invalid_event_type', 400, 'invalid_event_type'],
    [400, 'BL313', 'too_many_endpoints', 409, 'too_many_endpoints'],
    [401, 'PGRST301', '', 401, 'not_authenticated'],
    [401, '42501', '', 401, 'not_authenticated'],
    [403, '42501', '', 403, 'not_allowed'],
  ]
  for (const [apiStatus, sqlState, error, status, code] of refusals) {
    await test.step(`${sqlState} ${error}`, async () => {
      const refusing = () => ({
        status: apiStatus,
        body: { code: sqlState, message: 'Because', details: JSON.stringify({ error }), hint: null },
      })
      await withFunction(refusing, async ({ call, lines }) => {
        const response = await call('POST', CREATE)
        assert.equal(response.status, status)
        const text = await response.text()
        assert.equal(JSON.parse(text).error.code, code)
        assert.doesNotMatch(text + lines.join(), /whsec_/)
      })
    })
  }
})

Deno.test('a failure of ours is 500 without a reason', async () => {
  const broken = () => ({ status: 503, body: { code: 'PGRST002', message: 'no schema cache' } })
  await withFunction(broken, async ({ call, lines }) => {
    const response = await call('POST', CREATE)
    assert.equal(response.status, 500)
    assert.doesNotMatch(await response.text(), /schema cache|whsec_/)
    assert.match(lines[0] ?? '', /no schema cache/)
  })
})

Deno.test('a browser may ask first; other paths and methods have nothing', async () => {
  await withFunction(kept, async ({ call, calls }) => {
    const preflight = await call('OPTIONS', undefined, {})
    assert.equal(preflight.status, 204)
    assert.equal(preflight.headers.get('access-control-allow-origin'), '*')
    assert.match(preflight.headers.get('access-control-allow-methods') ?? '', /PATCH/)
    const refused = await call('GET')
    assert.equal(refused.status, 405)
    assert.equal(refused.headers.get('access-control-allow-origin'), '*')
    assert.equal((await call('POST', CREATE, undefined, '/manage-webhook/x')).status, 404)
    assert.deepEqual(calls, [])
  })
})
