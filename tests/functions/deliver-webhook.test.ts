// One delivery against real receivers on loopback, which check signatures with the reference library of Standard
// Webhooks; the database is one in memory.
import assert from 'node:assert/strict'
import { Webhook } from 'standardwebhooks'
import type { Resolve } from '../../functions/_shared/public-address.ts'
import { RpcError } from '../../functions/_shared/rpc.ts'
import { createSecretBox } from '../../functions/_shared/secrets.ts'
import { deliverWebhook } from '../../functions/queue-worker/deliver-webhook.ts'
import { isLeaseLost, type Job } from '../../functions/queue-worker/job.ts'
import { CLINIC, recordedLog, recordedRpc, secretBox } from './support.ts'

const DELIVERY = '0193f2b4-0000-7000-8000-00000000de11'
const EVENT = '0193f2b4-0000-7000-8000-0000000000e1'
const NEW_SECRET = `whsec_${btoa('n'.repeat(32))}`
const OLD_SECRET = `whsec_${btoa('o'.repeat(32))}`
const OTHER_SECRET = `whsec_${btoa('x'.repeat(32))}`
const PAYLOAD = {
  type: 'message.received',
  timestamp: '2026-11-20T12:00:00.000Z',
  data: { message_id: '0193f2b4-0000-7000-8000-0000000000a1', note: 'São João, 5511987650001' },
}
const JOB: Job<{ delivery_id: string }> = {
  organization_id: CLINIC,
  id: '0193f2b4-0000-7000-8000-0000000000b1',
  job_type: 'deliver_webhook',
  fencing_token: 7,
  attempts: 1,
  max_attempts: 10,
  created_at: '2026-11-20T12:00:00Z',
  payload: { delivery_id: DELIVERY },
}
const CLAIM = { organization_id: CLINIC, id: JOB.id, fencing_token: 7 }

interface Received {
  method: string
  path: string
  headers: Record<string, string>
  body: string
}

interface Receiver {
  url: string
  received: Received[]
}

type Answer = (request: Request, received: Received) => Response | Promise<Response>

async function withReceiver(answer: Answer, story: (receiver: Receiver) => Promise<void>) {
  const received: Received[] = []
  const stop = new AbortController()
  const server = Deno.serve(
    { port: 0, hostname: '127.0.0.1', signal: stop.signal, onListen: () => {} },
    async (request) => {
      const one = {
        method: request.method,
        path: new URL(request.url).pathname,
        headers: Object.fromEntries(request.headers),
        body: await request.text(),
      }
      received.push(one)
      return await answer(request, one)
    },
  )
  try {
    await story({ url: `http://127.0.0.1:${server.addr.port}`, received })
  } finally {
    stop.abort()
    await server.finished
  }
}

interface Options {
  secrets?: string[]
  attempts?: number
  payload?: unknown
  eventId?: string
  now?: Date
  resolve?: Resolve
  allowLoopback?: boolean
  timeoutMs?: number
  signal?: AbortSignal
  onFinish?: () => unknown
  /** How often the end is told, all the same. */
  finishes?: number
  fetch?: (url: URL, init: RequestInit) => Promise<Response>
}

const unasked: Resolve = (hostname) => Promise.reject(new Error(`${hostname} was looked up`))

/** Delivers once; what the database was told, and what became of the job. */
async function deliver(url: string, options: Options = {}) {
  const {
    secrets = [NEW_SECRET],
    attempts = 1,
    payload = PAYLOAD,
    eventId = EVENT,
    now = new Date(),
    resolve = unasked,
    allowLoopback = true,
    timeoutMs = 10_000,
    signal = new AbortController().signal,
    onFinish = () => ({}),
    finishes = 1,
  } = options
  const box = await secretBox()
  const place = { organizationId: CLINIC, purpose: 'webhook_endpoint.secret' } as const
  const sealed = await Promise.all(secrets.map((secret) => box.seal(secret, place)))
  const { rpc, calls } = recordedRpc({
    begin_delivery: () => ({
      action: 'deliver',
      delivery: {
        id: DELIVERY,
        event_id: eventId,
        event_type: 'message.received',
        attempts,
        created_at: '2026-11-20T12:00:00Z',
      },
      url,
      payload,
      secrets: sealed,
    }),
    finish_delivery: onFinish,
  })
  const { log, lines } = recordedLog()
  const jobType = deliverWebhook({
    rpc,
    secrets: box,
    resolve,
    fetch: options.fetch ?? fetch,
    random: () => 0.5,
    allowLoopback,
    timeoutMs,
    pause: () => Promise.resolve(),
  })
  const ended = await jobType.handle(JOB, { signal, now: () => now, log })
  const [begin, finish, ...others] = calls
  assert.deepEqual(begin, { name: 'begin_delivery', args: { job: CLAIM } })
  assert.equal(finish?.name, 'finish_delivery')
  assert.deepEqual(finish.args['job'], CLAIM)
  assert.deepEqual(others, Array(finishes - 1).fill(finish))
  const outcome = finish.args['outcome']
  assert.ok(typeof outcome === 'object' && outcome !== null)
  const { response_ms, api_call, ...rest } = { response_ms: null, api_call: undefined, ...outcome }
  assert.ok(Number.isInteger(response_ms), 'response_ms is a whole number')
  assert.doesNotMatch(JSON.stringify(finish) + lines.join(), /whsec_|v1\.now/)
  return { ended, outcome: rest, api_call }
}

function verify(secret: string, { body, headers }: Received): unknown {
  return new Webhook(secret).verify(body, headers)
}

Deno.test('the job is one of a delivery, and of nothing else', async () => {
  const { schema } = deliverWebhook({
    rpc: () => Promise.reject(new Error('was called')),
    secrets: await secretBox(),
    resolve: unasked,
    fetch,
    random: Math.random,
    allowLoopback: false,
  })
  assert.deepEqual(schema.parse({ delivery_id: DELIVERY }), { delivery_id: DELIVERY })
  for (const payload of [{}, { delivery_id: 'x' }, { delivery_id: 7 }, []]) {
    assert.equal(schema.safeParse(payload).success, false)
  }
})

Deno.test('a receiver gets the event as JSON, signed so that the reference library believes it', async () => {
  await withReceiver(() => new Response('thanks'), async ({ url, received }) => {
    const { ended, outcome, api_call } = await deliver(`${url}/ganchos/balcao?chave=segredo-na-url`)
    const [request, ...others] = received
    assert.ok(request)
    assert.deepEqual(others, [])
    assert.equal(request.method, 'POST')
    assert.equal(request.path, '/ganchos/balcao')
    assert.equal(request.body, JSON.stringify(PAYLOAD))
    assert.equal(request.headers['content-type'], 'application/json')
    assert.equal(request.headers['user-agent'], 'Balcao-Webhooks/1')
    assert.equal(request.headers['webhook-id'], EVENT)
    assert.deepEqual(verify(NEW_SECRET, request), PAYLOAD)

    assert.deepEqual(ended, { kind: 'ended', result: 'delivered' })
    assert.deepEqual(outcome, { result: 'delivered', status: 200 })
    assert.ok(api_call)
    const { response_time_ms: _time, ...call } = Object(api_call)
    assert.deepEqual(call, {
      service: 'webhook',
      endpoint: url,
      method: 'POST',
      request_data: {
        event_id: EVENT,
        event_type: 'message.received',
        body: `[${JSON.stringify(PAYLOAD).length} characters]`,
      },
      response_data: null,
      status_code: 200,
      success: true,
    })
  })
})

Deno.test('the signature is the one of the standard’s own test vector', async () => {
  await withReceiver(() => new Response(null, { status: 204 }), async ({ url, received }) => {
    const vector = {
      secrets: ['whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'],
      eventId: 'msg_p5jXN8AQM9LWM0D4loKWxJek',
      now: new Date(1614265330_000),
    }
    // The vector's body has a space that JSON.stringify does not write.
    const signed = new Webhook('whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw').sign(
      vector.eventId,
      vector.now,
      '{"test": 2432232314}',
    )
    assert.equal(signed, 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=')

    await deliver(url, { ...vector, payload: { test: 2432232314 } })
    const [request] = received
    assert.ok(request)
    const { headers, body } = request
    assert.equal(headers['webhook-id'], vector.eventId)
    assert.equal(headers['webhook-timestamp'], '1614265330')
    // By the standard's text, without the library: HMAC-SHA256 over id, timestamp and body.
    const key = await crypto.subtle.importKey(
      'raw',
      Uint8Array.from(atob('MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'), (character) => character.charCodeAt(0)),
      { name: 'HMAC', hash: 'SHA-256' },
      false,
      ['sign'],
    )
    const content = new TextEncoder().encode(`${vector.eventId}.1614265330.${body}`)
    const digest = new Uint8Array(await crypto.subtle.sign('HMAC', key, content))
    assert.equal(headers['webhook-signature'], `v1,${btoa(String.fromCharCode(...digest))}`)
  })
})

Deno.test('during a rotation the old secret and the new one both verify, another does not', async () => {
  await withReceiver(() => new Response(), async ({ url, received }) => {
    await deliver(url, { secrets: [NEW_SECRET, OLD_SECRET] })
    const [request] = received
    assert.ok(request)
    assert.equal(request.headers['webhook-signature']?.split(' ').length, 2)
    assert.deepEqual(verify(NEW_SECRET, request), PAYLOAD)
    assert.deepEqual(verify(OLD_SECRET, request), PAYLOAD)
    assert.throws(() => verify(OTHER_SECRET, request), /No matching signature/)
  })
})

Deno.test('what was changed on the way, or is old, does not verify', async () => {
  await withReceiver(() => new Response(), async ({ url, received }) => {
    await deliver(url)
    await deliver(url, { now: new Date(Date.now() - 6 * 60_000) })
    const [request, old] = received
    assert.ok(request && old)
    assert.throws(
      () => verify(NEW_SECRET, { ...request, body: request.body.replace('received', 'failed') }),
      /No match/,
    )
    for (const header of ['webhook-id', 'webhook-timestamp']) {
      const headers = { ...request.headers, [header]: String(Math.floor(Date.now() / 1000) - 7) }
      assert.throws(() => verify(NEW_SECRET, { ...request, headers }), /No match/)
    }
    assert.throws(() => verify(NEW_SECRET, old), /too old/)
  })
})

Deno.test('the id stays the same in every attempt, the timestamp is the attempt’s own', async () => {
  await withReceiver(() => new Response(null, { status: 500 }), async ({ url, received }) => {
    await deliver(url, { attempts: 1, now: new Date('2026-11-20T12:00:00.900Z') })
    await deliver(url, { attempts: 2, now: new Date('2026-11-20T12:00:06Z') })
    assert.deepEqual(received.map(({ headers }) => [headers['webhook-id'], headers['webhook-timestamp']]), [
      [EVENT, String(Date.parse('2026-11-20T12:00:00Z') / 1000)],
      [EVENT, String(Date.parse('2026-11-20T12:00:06Z') / 1000)],
    ])
  })
})

Deno.test('every 2xx is a success, and its body is not waited for', async () => {
  for (const status of [200, 201, 202, 204, 299]) {
    const endless = status === 204 ? null : new ReadableStream({
      pull: (controller) => controller.enqueue(new Uint8Array(65536)),
    })
    await withReceiver(() => new Response(endless, { status }), async ({ url }) => {
      assert.deepEqual((await deliver(url)).outcome, { result: 'delivered', status })
    })
  }
})

Deno.test('a failure is tried again at the schedule’s time, and says why', async (test) => {
  const now = new Date('2026-11-20T12:00:00Z')
  const failures: [number, string, string][] = [
    [400, 'bad signature', 'http_400'],
    [401, '', 'http_401'],
    [404, '<h1>Not found</h1>', 'http_404'],
    [503, 'a'.repeat(2000), 'http_503'],
    // As some frameworks do it: what was wrong with which value. The value is what a customer wrote.
    [422, '{"detail": [{"loc": ["content"], "input": "Estou com HIV"}]}', 'http_422'],
  ]
  for (const [status, body, error] of failures) {
    await test.step(`${status} ${body.slice(0, 20)}`, async () => {
      await withReceiver(() => new Response(body, { status }), async ({ url }) => {
        const { ended, outcome, api_call } = await deliver(url, { attempts: 2, now })
        assert.deepEqual(ended, { kind: 'ended', result: 'retry' })
        // Five minutes, and half of the jitter of a tenth.
        assert.deepEqual(outcome, {
          result: 'retry',
          status,
          error,
          next_attempt_at: '2026-11-20T12:05:15.000Z',
        })
        const { status_code, success } = Object(api_call)
        assert.deepEqual([status_code, success], [status, false])
        assert.deepEqual(Object(api_call).response_data, { error: { message: error } })
      })
    })
  }
})

Deno.test('the tenth failure is the last', async () => {
  await withReceiver(() => new Response(null, { status: 500 }), async ({ url }) => {
    assert.equal(Object(await deliver(url, { attempts: 9 })).outcome.result, 'retry')
    const { ended, outcome } = await deliver(url, { attempts: 10 })
    assert.deepEqual(ended, { kind: 'ended', result: 'exhausted' })
    assert.deepEqual(outcome, { result: 'exhausted', status: 500, error: 'http_500' })
  })
})

Deno.test('410 is an end, also in the last attempt', async () => {
  await withReceiver(() => new Response('closed', { status: 410 }), async ({ url }) => {
    for (const attempts of [1, 10]) {
      const { ended, outcome } = await deliver(url, { attempts })
      assert.deepEqual(ended, { kind: 'ended', result: 'gone' })
      assert.deepEqual(outcome, { result: 'gone', status: 410, error: 'http_410' })
    }
  })
})

Deno.test('Retry-After is honoured, in seconds and as a date', async () => {
  const now = new Date('2026-11-20T12:00:00Z')
  for (const retryAfter of ['90', 'Fri, 20 Nov 2026 12:01:30 GMT']) {
    const busy = () => new Response('slow down', { status: 429, headers: { 'retry-after': retryAfter } })
    await withReceiver(busy, async ({ url }) => {
      assert.deepEqual((await deliver(url, { now })).outcome, {
        result: 'retry',
        status: 429,
        error: 'http_429',
        next_attempt_at: '2026-11-20T12:01:30.000Z',
      })
    })
  }
})

Deno.test('a redirect is a failure: nobody else gets what was meant for this receiver', async (test) => {
  await withReceiver(() => new Response(), async (elsewhere) => {
    for (const status of [301, 302, 303, 307, 308]) {
      await test.step(String(status), async () => {
        const away = () => new Response(null, { status, headers: { location: `${elsewhere.url}/x` } })
        await withReceiver(away, async ({ url, received }) => {
          const { outcome } = await deliver(url)
          assert.equal(received.length, 1)
          assert.deepEqual({ ...outcome, next_attempt_at: '' }, {
            result: 'retry',
            status,
            error: 'redirect',
            next_attempt_at: '',
          })
        })
      })
    }
    assert.deepEqual(elsewhere.received, [])
  })
})

Deno.test('a receiver that does not answer in time has failed, and what is under way is broken off', async () => {
  const { promise: abandoned, resolve: abandon } = Promise.withResolvers<void>()
  const silent: Answer = (request) => {
    request.signal.addEventListener('abort', () => abandon())
    return abandoned.then(() => new Response())
  }
  await withReceiver(silent, async ({ url, received }) => {
    const { outcome, api_call } = await deliver(url, { timeoutMs: 1500 })
    assert.equal(received.length, 1)
    assert.deepEqual({ ...outcome, next_attempt_at: '' }, {
      result: 'retry',
      status: null,
      error: 'timeout',
      next_attempt_at: '',
    })
    assert.deepEqual([Object(api_call).status_code, Object(api_call).success], [null, false])
    await abandoned
  })
})

Deno.test('a name server that never answers is in the time, and the end of a body is not waited for', async () => {
  const silent: Resolve = () => new Promise(() => undefined)
  const { outcome, api_call } = await deliver('https://exemplo.com.br/', { resolve: silent, timeoutMs: 50 })
  assert.equal(Object(outcome).error, 'timeout')
  assert.equal(api_call, null)

  const trickle = () =>
    new Response(
      new ReadableStream({ start: (controller) => controller.enqueue(new TextEncoder().encode('sor')) }),
      { status: 503 },
    )
  await withReceiver(trickle, async ({ url }) => {
    const { status, error } = Object((await deliver(url, { timeoutMs: 1500 })).outcome)
    assert.deepEqual([status, error], [503, 'http_503'])
  })
})

Deno.test('of an answer that refuses nothing is read, however much there is', async () => {
  const chunk = new TextEncoder().encode('não '.repeat(256))
  const { promise: cancelled, resolve: cancel } = Promise.withResolvers<void>()
  let sent = 0
  const endless = () =>
    new Response(
      new ReadableStream({
        pull: (controller) => {
          sent += chunk.byteLength
          controller.enqueue(chunk)
        },
        cancel: () => cancel(),
      }),
      { status: 500 },
    )
  await withReceiver(endless, async ({ url }) => {
    const { error } = Object((await deliver(url)).outcome)
    assert.equal(error, 'http_500')
    await cancelled
    assert.ok(sent < 64 * 1024 * 1024, `${sent} bytes were sent`)
  })
})

Deno.test('a closed port, a broken connection and a server without TLS are the same to the customer', async () => {
  const closed = Deno.listen({ hostname: '127.0.0.1', port: 0 })
  const { port } = closed.addr
  closed.close()

  const rude = Deno.listen({ hostname: '127.0.0.1', port: 0 })
  const hangingUp = (async () => {
    for await (const connection of rude) connection.close()
  })()
  try {
    for (
      const url of [
        `http://127.0.0.1:${port}/`,
        `http://127.0.0.1:${rude.addr.port}/`,
        `https://127.0.0.1:${rude.addr.port}/`,
      ]
    ) {
      const { outcome } = await deliver(url)
      assert.deepEqual({ ...outcome, next_attempt_at: '' }, {
        result: 'retry',
        status: null,
        error: 'connection_failed',
        next_attempt_at: '',
      })
    }
  } finally {
    rude.close()
    await hangingUp
  }
})

Deno.test('an address that is refused never gets a connection, and is tried again: a name may move', async (test) => {
  await withReceiver(() => new Response(), async ({ url, received }) => {
    const { port } = new URL(url)
    const neverCalled = () => Promise.reject(new Error('was called'))
    const refused: [string, string[], boolean][] = [
      [url, [], false],
      [`https://127.0.0.1:${port}/`, [], false],
      [`https://2130706433:${port}/`, [], false],
      [`https://[::ffff:127.0.0.1]:${port}/`, [], true],
      [`https://localhost:${port}/`, ['127.0.0.1'], false],
      [`https://exemplo.com.br:${port}/`, ['127.0.0.1'], false],
      [`https://exemplo.com.br:${port}/`, ['8.8.8.8', '169.254.169.254'], true],
      [`http://exemplo.com.br:${port}/`, ['8.8.8.8'], true],
      ['https://user:senha@exemplo.com.br/', ['8.8.8.8'], false],
      ['not an address', [], false],
    ]
    for (const [address, addresses, allowLoopback] of refused) {
      await test.step(`${address} ${addresses}`, async () => {
        const { outcome, api_call } = await deliver(address, {
          resolve: () => Promise.resolve(addresses),
          allowLoopback,
          fetch: neverCalled,
        })
        const { result, status, error } = Object(outcome)
        assert.deepEqual([result, status], ['retry', null])
        assert.match(error, /^refused_address: /)
        assert.equal(api_call, null)
      })
    }
    assert.deepEqual(received, [])
  })
})

Deno.test('every attempt looks the name up again', async () => {
  await withReceiver(() => new Response(), async ({ url, received }) => {
    const answers = [['127.0.0.1'], ['127.0.0.1', '10.0.0.1']]
    const asked: string[] = []
    const resolve: Resolve = (hostname) => {
      asked.push(hostname)
      return Promise.resolve(answers.shift() ?? [])
    }
    // The name is not in any name server; the connection goes to the receiver.
    const toReceiver = (_url: URL, init: RequestInit) => fetch(url, init)
    const results = []
    for (let attempt = 0; attempt < 3; attempt++) {
      const { outcome } = await deliver('http://exemplo.com.br:4000/', { resolve, fetch: toReceiver })
      results.push(Object(outcome).error ?? Object(outcome).result)
    }
    assert.deepEqual(results, [
      'delivered',
      'refused_address: the host is not on the public internet',
      'unresolved_host',
    ])
    assert.deepEqual(asked, Array(3).fill('exemplo.com.br'))
    assert.equal(received.length, 1)
  })
})

Deno.test('what begin_delivery has ended needs nothing more', async () => {
  const { rpc, calls } = recordedRpc({
    begin_delivery: () => ({ action: 'done', reason: 'endpoint_disabled' }),
  })
  const jobType = deliverWebhook({
    rpc,
    secrets: await secretBox(),
    resolve: unasked,
    fetch: () => Promise.reject(new Error('was called')),
    random: Math.random,
    allowLoopback: false,
  })
  const { log } = recordedLog()
  const ended = await jobType.handle(JOB, {
    signal: new AbortController().signal,
    now: () => new Date(),
    log,
  })
  assert.deepEqual(ended, { kind: 'ended', result: 'endpoint_disabled' })
  assert.deepEqual(calls.map(({ name }) => name), ['begin_delivery'])
})

Deno.test('a secret that does not open sends nothing, and says so without it', async () => {
  await withReceiver(() => new Response(), async ({ url, received }) => {
    const place = { organizationId: CLINIC, purpose: 'webhook_endpoint.secret' } as const
    const sealed = await (await secretBox()).seal(NEW_SECRET, place)
    const { rpc, calls } = recordedRpc({
      begin_delivery: () => ({
        action: 'deliver',
        delivery: { id: DELIVERY, event_id: EVENT, event_type: 'message.received', attempts: 1 },
        url,
        payload: PAYLOAD,
        secrets: [sealed],
      }),
    })
    const jobType = deliverWebhook({
      rpc,
      secrets: await createSecretBox(`other:${btoa('c'.repeat(32))}`),
      resolve: unasked,
      fetch,
      random: Math.random,
      allowLoopback: true,
    })
    const { log } = recordedLog()
    await assert.rejects(
      jobType.handle(JOB, { signal: new AbortController().signal, now: () => new Date(), log }),
      (error) =>
        error instanceof Error && /lacks the key "now"/.test(error.message) &&
        !error.message.includes(sealed),
    )
    assert.deepEqual(calls.map(({ name }) => name), ['begin_delivery'])
    assert.deepEqual(received, [])
  })
})

Deno.test('whose lease is lost breaks off and tells nothing', async () => {
  const lost = new AbortController()
  const { promise: abandoned, resolve: abandon } = Promise.withResolvers<void>()
  const slow: Answer = (request) => {
    request.signal.addEventListener('abort', () => abandon())
    lost.abort(new Error('lease lost'))
    return abandoned.then(() => new Response())
  }
  await withReceiver(slow, async ({ url, received }) => {
    let wasTold = false
    const told = () => {
      wasTold = true
      return {}
    }
    await assert.rejects(deliver(url, { signal: lost.signal, onFinish: told }), /lease lost/)
    assert.equal(received.length, 1)
    assert.equal(wasTold, false)
  })
})

Deno.test('while the database is away its end is told again; the receiver is not called again', async () => {
  await withReceiver(() => new Response(), async ({ url, received }) => {
    const answers = [
      new RpcError(0, '', 'fetch failed', null),
      new RpcError(503, 'PGRST001', 'away', null),
      null,
    ]
    const { ended } = await deliver(url, {
      onFinish: () => {
        const error = answers.shift()
        if (error) throw error
        return {}
      },
      finishes: 3,
    })
    assert.deepEqual(ended, { kind: 'ended', result: 'delivered' })
    assert.equal(received.length, 1)
  })
})

Deno.test('when the end cannot be told the job fails, and comes back; a lost lease is told at once', async () => {
  await withReceiver(() => new Response(), async ({ url }) => {
    let tries = 0
    const failing = (error: Error) => () => {
      tries += 1
      throw error
    }
    const away = failing(new RpcError(503, 'PGRST001', 'away', null))
    await assert.rejects(deliver(url, { onFinish: away }), /away/)
    assert.equal(tries, 4)
    const lost = failing(new RpcError(400, 'BL301', 'not held', 'lease_lost'))
    await assert.rejects(deliver(url, { onFinish: lost }), isLeaseLost)
    assert.equal(tries, 5)
  })
})
