// The handler through Request → Response: one mutation of a good delivery each.
import assert from 'node:assert/strict'
import { RpcError } from '../../functions/_shared/rpc.ts'
import { createRateLimit, type Rule } from '../../functions/_shared/rate-limit.ts'
import { createHandler } from '../../functions/whatsapp-webhook/handler.ts'
import { createMetaApps } from '../../functions/_shared/providers/meta/apps.ts'
import { createGraph } from '../../functions/_shared/providers/meta/graph.ts'
import { createMetaProvider } from '../../functions/_shared/providers/meta/provider.ts'
import { CLINIC, errorCode, recordedLog, recordedRpc, sampleText, secretBox, signatureOf } from './support.ts'

const APP_KEY = 'Zm9vYmFyYmF6cXV4MTIzNA'
const APP_SECRET = 'segredo-de-teste'
const VERIFY_TOKEN = 'verificação'

interface Setup {
  appSecret?: string
  ingest?: (args: Record<string, unknown>) => unknown
  limits?: { lookUps?: Rule; wrongTokens?: Rule; deliveries?: Rule }
}

async function webhook(
  { appSecret = APP_SECRET, ingest = () => ({ events: 1, messages: 1 }), limits = {} }: Setup = {},
) {
  const secrets = await secretBox()
  let current = { appSecret, verifyToken: VERIFY_TOKEN }
  let stored = await sealed()
  async function sealed() {
    return {
      app_key: APP_KEY,
      organization_id: CLINIC,
      app_secret: await secrets.seal(current.appSecret, {
        organizationId: CLINIC,
        purpose: 'meta_app.app_secret',
      }),
      verify_token: await secrets.seal(current.verifyToken, {
        organizationId: CLINIC,
        purpose: 'meta_app.verify_token',
      }),
    }
  }

  const { rpc, callsOf } = recordedRpc({
    get_meta_app: ({ app_key }) => app_key === APP_KEY ? stored : null,
    ingest_webhook: (args) => ingest(args),
  })
  const { log, lines } = recordedLog()
  const clock = { now: 1_000_000 }
  const apps = createMetaApps({ rpc, secrets, now: () => clock.now })
  const graph = createGraph({ url: 'http://127.0.0.1:9', version: 'v24.0' })
  const wakes = { count: 0 }
  const handler = createHandler({
    providers: new Map([['meta', createMetaProvider({ apps, graph })]]),
    rpc,
    limits: {
      lookUps: createRateLimit(limits.lookUps ?? { capacity: 300, perSecond: 50 }, () => clock.now),
      wrongTokens: createRateLimit(limits.wrongTokens ?? { capacity: 20, perSecond: 0.2 }, () => clock.now),
      deliveries: createRateLimit(
        limits.deliveries ?? { capacity: 20_000, perSecond: 5_000 },
        () => clock.now,
      ),
    },
    wake: () => wakes.count += 1,
    log,
    now: () => new Date('2026-11-20T13:00:00Z'),
  })
  return {
    lines,
    clock,
    wakes,
    lookUps: () => callsOf('get_meta_app').length,
    ingested: () => callsOf('ingest_webhook').map(({ args }) => args),
    rotate: async (secrets: Partial<typeof current>) => {
      current = { ...current, ...secrets }
      stored = await sealed()
    },
    post: (body: BodyInit, headers: HeadersInit = {}, path = `/whatsapp-webhook/meta/${APP_KEY}`) =>
      handler(
        new Request(`http://localhost${path}`, {
          method: 'POST',
          body,
          headers: { 'content-type': 'application/json', ...headers },
        }),
      ),
    request: (method: string, path: string, headers: HeadersInit = {}) =>
      handler(new Request(`http://localhost${path}`, { method, headers })),
  }
}

async function signed(body: string, appSecret = APP_SECRET) {
  return { 'x-hub-signature-256': await signatureOf(body, appSecret) }
}

const TEXT = sampleText('text')

Deno.test('a signed delivery is one call of ingest_webhook and exactly 200', async () => {
  const { post, ingested, lines } = await webhook()
  const signature = await signatureOf(TEXT, APP_SECRET)
  const response = await post(TEXT, {
    'x-hub-signature-256': signature,
    'user-agent': 'facebookexternalua',
    authorization: 'Bearer x',
    apikey: 'y',
    cookie: 'z',
  })
  assert.equal(response.status, 200)
  assert.deepEqual(await response.json(), { received: true, events: 1, messages: 1 })

  const [call, ...others] = ingested()
  assert.deepEqual(others, [])
  assert.deepEqual(
    {
      provider: call?.['provider'],
      app_key: call?.['app_key'],
      headers: call?.['headers'],
      signature: call?.['signature'],
    },
    {
      provider: 'meta_cloud',
      app_key: APP_KEY,
      headers: { 'content-type': 'application/json', 'user-agent': 'facebookexternalua' },
      signature,
    },
  )
  const parts = call?.['parts']
  assert.ok(Array.isArray(parts))
  assert.deepEqual(parts.map(({ external_id, payload }) => ({ external_id, payload })), [
    { external_id: '109876543210987', payload: JSON.parse(TEXT) },
  ])

  const line = JSON.parse(lines[0] ?? '')
  assert.equal(line.status, 200)
  assert.equal(line.messages, 1)
  assert.equal(line.bytes, new TextEncoder().encode(TEXT).byteLength)
  assert.doesNotMatch(lines.join(), /limpeza|Maria|5511987650001|segredo/)
})

Deno.test("Meta's own way to write JSON is what is signed", async () => {
  const body = '{"object":"whatsapp_business_account","t":"A\\u00e7\\u00e3o"}'
  const signature = 'sha256=63718db837482a69652cac36161c774497f79a417d6f60ade2d2d00347a9f367'
  const { post, ingested } = await webhook()
  assert.equal((await post(body, { 'x-hub-signature-256': signature })).status, 200)
  assert.equal(
    (await post(JSON.stringify(JSON.parse(body)), { 'x-hub-signature-256': signature })).status,
    401,
  )
  assert.equal(ingested().length, 1)
})

Deno.test('a signature over re-serialised JSON fails', async () => {
  const { post, ingested } = await webhook()
  const spaced = JSON.stringify(JSON.parse(TEXT), null, 2)
  assert.notEqual(spaced, TEXT)
  assert.equal((await post(TEXT, await signed(spaced))).status, 401)
  assert.deepEqual(ingested(), [])
})

Deno.test('nothing is stored without the right signature', async (test) => {
  const good = await signatureOf(TEXT, APP_SECRET)
  const wrong: Record<string, HeadersInit> = {
    'none': {},
    'empty': { 'x-hub-signature-256': '' },
    "another app's secret": await signed(TEXT, 'outro-segredo'),
    'one digit changed': { 'x-hub-signature-256': good.replace(/.$/, (digit) => digit === '0' ? '1' : '0') },
    'too short': { 'x-hub-signature-256': good.slice(0, -2) },
    'not hexadecimal': { 'x-hub-signature-256': `sha256=${'z'.repeat(64)}` },
    'without its prefix': { 'x-hub-signature-256': good.slice('sha256='.length) },
    'the old SHA-1 header only': { 'x-hub-signature': good },
  }
  for (const [name, headers] of Object.entries(wrong)) {
    await test.step(name, async () => {
      const { post, ingested } = await webhook()
      const response = await post(TEXT, headers)
      assert.equal(response.status, 401)
      assert.equal(await errorCode(response), 'wrong_signature')
      assert.deepEqual(ingested(), [])
    })
  }
  await test.step('one byte of the body changed', async () => {
    const { post, ingested } = await webhook()
    assert.equal((await post(`${TEXT} `, await signed(TEXT))).status, 401)
    assert.deepEqual(ingested(), [])
  })
})

Deno.test('an unknown app is not found, and a key that cannot be one is not even looked up', async () => {
  const { post, ingested, lookUps } = await webhook()
  for (
    const key of [
      'AAAAAAAAAAAAAAAAAAAAAA',
      'short',
      `${APP_KEY}/x`,
      '',
      'x'.repeat(65),
      'a%20b%20c%20d%20e%20f',
    ]
  ) {
    const response = await post(TEXT, await signed(TEXT), `/whatsapp-webhook/meta/${key}`)
    assert.equal(response.status, 404, key)
  }
  assert.equal(lookUps(), 1)
  assert.deepEqual(ingested(), [])
})

Deno.test('providers that are not there yet are not found', async () => {
  const { post } = await webhook()
  for (
    const path of [
      '/whatsapp-webhook',
      '/whatsapp-webhook/evolution/x',
      '/whatsapp-webhook/zapi/x',
      '/whatsapp-webhook/__proto__/x',
    ]
  ) {
    assert.equal((await post(TEXT, await signed(TEXT), path)).status, 404, path)
  }
})

Deno.test('4 MiB are read, one byte more is refused', async () => {
  const { post, ingested } = await webhook()
  const padded = TEXT.padEnd(4 * 1024 * 1024 - (new TextEncoder().encode(TEXT).byteLength - TEXT.length), ' ')
  assert.equal((await post(padded, await signed(padded))).status, 200)
  const tooLarge = await post(`${padded} `, await signed(`${padded} `))
  assert.equal(tooLarge.status, 413)
  assert.equal(await errorCode(tooLarge), 'body_too_large')
  assert.equal(ingested().length, 1)
})

Deno.test('what is signed but no JSON object is refused', async () => {
  const { post, ingested } = await webhook()
  for (const body of ['', '{', 'null', '[]', '"x"', 'undefined']) {
    const response = await post(body, await signed(body))
    assert.equal(response.status, 400, body)
    assert.equal(await errorCode(response), 'invalid_json')
  }
  assert.deepEqual(ingested(), [])
})

Deno.test('what says that it is not JSON is refused', async () => {
  const { post } = await webhook()
  assert.equal((await post(TEXT, { ...await signed(TEXT), 'content-type': 'text/plain' })).status, 415)
  assert.equal((await post(TEXT, { ...await signed(TEXT), 'content-type': '' })).status, 200)
})

Deno.test('a signed object that we do not understand is stored whole', async () => {
  const { post, ingested } = await webhook()
  const body = '{"object":"page","entry":[{"id":"1"}]}'
  assert.equal((await post(body, await signed(body))).status, 200)
  assert.deepEqual(ingested()[0]?.['parts'], [
    {
      external_id: null,
      event_type: 'unknown',
      payload: JSON.parse(body),
      unknown: 1,
      error: null,
      events: [],
    },
  ])
})

Deno.test('what Postgres cannot store is replaced, in every corner', async () => {
  const { post, ingested } = await webhook()
  const body = '{"object":"whatsapp_business_account","entry":[{"changes":[{"field":"messages","value":{' +
    '"metadata":{"phone_number_id":"1"},"n\\u0000":["\\u0000","\\ud83d","\\ude0a\\ud83d","\\ud83d\\ude0a"],' +
    '"messages":[{"from":"5511987650001","id":"wamid.1","type":"text","text":{"body":"a\\u0000b\\ud83dc"}}]}}]}]}'
  assert.equal((await post(body, await signed(body))).status, 200)
  const stored = JSON.stringify(ingested()[0])
  assert.doesNotMatch(stored, /\\u0000|\\ud83d|\\ude0a/i)
  assert.match(stored, /"n\uFFFD":\["\uFFFD","\uFFFD","\uFFFD\uFFFD","😊"\]/)
  assert.match(stored, /"content":"a\uFFFDb\uFFFDc"/)
})

Deno.test('a payload nested without end is stored as far as it can be', async () => {
  const { post } = await webhook()
  const body = `{"object":"x","deep":${'['.repeat(100_000)}${']'.repeat(100_000)}}`
  assert.equal((await post(body, await signed(body))).status, 200)
})

Deno.test('a failure of ours is 5xx without a reason, so that Meta delivers again', async () => {
  const failure = new RpcError(500, '57P01', 'terminating connection of 5511987650001', null)
  const { post, lines } = await webhook({
    ingest: () => {
      throw failure
    },
  })
  const response = await post(TEXT, await signed(TEXT))
  assert.equal(response.status, 500)
  const answer = await response.text()
  assert.doesNotMatch(answer, /terminating|57P01/)
  assert.match(lines[0] ?? '', /terminating connection of 5511\*+01/)
})

Deno.test('a database that was away is asked again at once', async () => {
  const secrets = await secretBox()
  let isAway = true
  const { rpc } = recordedRpc({
    get_meta_app: () => {
      if (isAway) throw new RpcError(0, '', 'connection refused', null)
      return null
    },
  })
  const apps = createMetaApps({ rpc, secrets, now: () => 0 })
  await assert.rejects(apps.find(APP_KEY), RpcError)
  isAway = false
  assert.equal(await apps.find(APP_KEY), null)
})

Deno.test('an app is looked up once, also by deliveries at the same time, and again after half a minute', async () => {
  const { post, clock, lookUps } = await webhook()
  const headers = await signed(TEXT)
  await Promise.all(Array.from({ length: 20 }, () => post(TEXT, headers)))
  assert.equal(lookUps(), 1)
  clock.now += 29_999
  await post(TEXT, headers)
  assert.equal(lookUps(), 1)
  clock.now += 1
  await post(TEXT, headers)
  assert.equal(lookUps(), 2)
})

Deno.test('a missing app is remembered for two seconds only', async () => {
  const { post, clock, lookUps } = await webhook()
  const ask = async () =>
    (await post(TEXT, await signed(TEXT), '/whatsapp-webhook/meta/AAAAAAAAAAAAAAAAAAAAAA')).status
  assert.equal(await ask(), 404)
  assert.equal(await ask(), 404)
  assert.equal(lookUps(), 1)
  clock.now += 2_000
  assert.equal(await ask(), 404)
  assert.equal(lookUps(), 2)
})

Deno.test('what is remembered has a bound', async () => {
  const { rpc, calls } = recordedRpc({ get_meta_app: () => null })
  const apps = createMetaApps({ rpc, secrets: await secretBox(), now: () => 0 })
  for (let index = 0; index <= 1000; index++) await apps.find(`app-${index}`)
  await apps.find('app-1000')
  assert.equal(calls.length, 1001)
  await apps.find('app-0')
  assert.equal(calls.length, 1002)
})

Deno.test('a rotated app secret works at once, for all deliveries that come together', async () => {
  const { post, clock, rotate } = await webhook()
  assert.equal((await post(TEXT, await signed(TEXT))).status, 200)
  await rotate({ appSecret: 'novo-segredo' })
  clock.now += 1_000
  const headers = await signed(TEXT, 'novo-segredo')
  const answers = await Promise.all(Array.from({ length: 20 }, () => post(TEXT, headers)))
  assert.deepEqual(answers.map(({ status }) => status), Array(20).fill(200))
  assert.equal((await post(TEXT, await signed(TEXT))).status, 401)
})

Deno.test('wrong signatures make us look again at most once per second', async () => {
  const { post, clock, lookUps } = await webhook()
  const headers = await signed(TEXT, 'outro-segredo')
  for (let attempt = 0; attempt < 5; attempt++) assert.equal((await post(TEXT, headers)).status, 401)
  assert.equal(lookUps(), 1)
  clock.now += 1_000
  for (let attempt = 0; attempt < 5; attempt++) assert.equal((await post(TEXT, headers)).status, 401)
  assert.equal(lookUps(), 2)
})

Deno.test('the handshake answers the challenge, and nothing else', async () => {
  const { request } = await webhook()
  const query = new URLSearchParams({
    'hub.mode': 'subscribe',
    'hub.challenge': '1158201444',
    'hub.verify_token': VERIFY_TOKEN,
  })
  for (const prefix of ['', '/functions/v1']) {
    const response = await request('GET', `${prefix}/whatsapp-webhook/meta/${APP_KEY}?${query}`)
    assert.equal(response.status, 200)
    assert.match(response.headers.get('content-type') ?? '', /^text\/plain/)
    assert.equal(await response.text(), '1158201444')
  }
})

Deno.test('a handshake with anything wrong is forbidden', async () => {
  const { request } = await webhook()
  const good = { 'hub.mode': 'subscribe', 'hub.challenge': '1', 'hub.verify_token': VERIFY_TOKEN }
  const { 'hub.challenge': _challenge, ...withoutChallenge } = good
  for (
    const query of [
      { ...good, 'hub.verify_token': 'outro' },
      { ...good, 'hub.verify_token': '' },
      { ...good, 'hub.mode': 'unsubscribe' },
      withoutChallenge,
      {},
    ]
  ) {
    const response = await request('GET', `/whatsapp-webhook/meta/${APP_KEY}?${new URLSearchParams(query)}`)
    assert.equal(response.status, 403)
    assert.equal(await errorCode(response), 'wrong_verify_token')
  }
  const unknown = await request(
    'GET',
    `/whatsapp-webhook/meta/AAAAAAAAAAAAAAAAAAAAAA?${new URLSearchParams(good)}`,
  )
  assert.equal(unknown.status, 404)
})

Deno.test('a rotated verify token works at once', async () => {
  const { request, clock, rotate } = await webhook()
  const ask = async (token: string) => {
    const query = new URLSearchParams({
      'hub.mode': 'subscribe',
      'hub.challenge': '1',
      'hub.verify_token': token,
    })
    return (await request('GET', `/whatsapp-webhook/meta/${APP_KEY}?${query}`)).status
  }
  assert.equal(await ask(VERIFY_TOKEN), 200)
  await rotate({ verifyToken: 'novo' })
  clock.now += 1_000
  assert.equal(await ask('novo'), 200)
  assert.equal(await ask(VERIFY_TOKEN), 403)
})

Deno.test('other methods are not allowed', async () => {
  const { request } = await webhook()
  for (const method of ['PUT', 'DELETE', 'HEAD', 'PATCH', 'OPTIONS']) {
    const response = await request(method, `/whatsapp-webhook/meta/${APP_KEY}`)
    assert.equal(response.status, 405)
    assert.equal(response.headers.get('allow'), 'GET, POST')
  }
})

Deno.test('the worker is woken by a delivery that leaves work, and by no other', async () => {
  const withJobs = await webhook({ ingest: () => ({ events: 1, messages: 1, jobs: 2 }) })
  assert.equal((await withJobs.post(TEXT, await signed(TEXT))).status, 200)
  assert.equal(withJobs.wakes.count, 1)

  for (const summary of [{ events: 1, jobs: 0 }, { events: 1 }, null]) {
    const without = await webhook({ ingest: () => summary })
    assert.equal((await without.post(TEXT, await signed(TEXT))).status, 200)
    assert.equal(without.wakes.count, 0)
  }
  const refused = await webhook({ ingest: () => ({ jobs: 1 }) })
  assert.equal((await refused.post(TEXT, await signed(TEXT, 'outro-segredo'))).status, 401)
  assert.equal(refused.wakes.count, 0)
})

// Limits --------------------------------------------------------------------------------------------------------------

Deno.test('five thousand deliveries of one app at once are all taken', async () => {
  const { post, ingested } = await webhook()
  const headers = await signed(TEXT)
  const answers = await Promise.all(Array.from({ length: 5_000 }, () => post(TEXT, headers)))
  assert.deepEqual(new Set(answers.map(({ status }) => status)), new Set([200]))
  assert.equal(ingested().length, 5_000)
})

Deno.test('an app that sends more than its limit is asked to try again, and loses nothing', async () => {
  const { post, ingested, clock } = await webhook({ limits: { deliveries: { capacity: 10, perSecond: 10 } } })
  const headers = await signed(TEXT)
  let waiting = 35
  let refusals = 0
  for (let round = 0; waiting > 0 && round < 20; round++) {
    const answers = await Promise.all(Array.from({ length: waiting }, () => post(TEXT, headers)))
    const refused = answers.filter(({ status }) => status !== 200)
    for (const answer of refused) {
      assert.equal(answer.status, 429)
      assert.equal(answer.headers.get('retry-after'), '1')
      assert.equal(await errorCode(answer), 'rate_limited')
    }
    refusals += refused.length
    waiting = refused.length
    clock.now += 1000
  }
  assert.equal(ingested().length, 35)
  assert.equal(refusals, 25 + 15 + 5)
})

Deno.test('deliveries that nobody signed use up nothing of an app', async () => {
  const { post, ingested } = await webhook({ limits: { deliveries: { capacity: 1, perSecond: 1 } } })
  for (let forged = 0; forged < 50; forged++) {
    assert.equal((await post(TEXT, { 'x-hub-signature-256': `sha256=${'0'.repeat(64)}` })).status, 401)
  }
  assert.equal((await post(TEXT, await signed(TEXT))).status, 200)
  assert.equal(ingested().length, 1)
})

Deno.test('a stranger who tries keys is refused before the database is asked; known apps are not', async () => {
  const { post, lookUps, clock } = await webhook({ limits: { lookUps: { capacity: 5, perSecond: 1 } } })
  const from = (address: string) => ({ 'cf-connecting-ip': address })
  assert.equal((await post(TEXT, { ...await signed(TEXT), ...from('203.0.113.1') })).status, 200)

  const tries = []
  for (let index = 0; index < 20; index++) {
    const key = `unbekannt-${String(index).padStart(12, '0')}`
    tries.push((await post(TEXT, from('203.0.113.1'), `/whatsapp-webhook/meta/${key}`)).status)
  }
  assert.deepEqual(tries, [...Array(4).fill(404), ...Array(16).fill(429)])
  assert.equal(lookUps(), 5)
  assert.equal((await post(TEXT, { ...await signed(TEXT), ...from('203.0.113.1') })).status, 200)
  const elsewhere = await post(TEXT, from('203.0.113.2'), '/whatsapp-webhook/meta/unbekannt-000000000099')
  assert.equal(elsewhere.status, 404)
  clock.now += 1_000
  const later = await post(TEXT, from('203.0.113.1'), '/whatsapp-webhook/meta/unbekannt-000000000100')
  assert.equal(later.status, 404)
})

Deno.test('a verify token cannot be guessed, from however many addresses', async () => {
  const { request, clock } = await webhook({ limits: { wrongTokens: { capacity: 3, perSecond: 0.1 } } })
  const ask = (token: string, address: string) =>
    request(
      'GET',
      `/whatsapp-webhook/meta/${APP_KEY}?${new URLSearchParams({
        'hub.mode': 'subscribe',
        'hub.challenge': '42',
        'hub.verify_token': token,
      })}`,
      { 'cf-connecting-ip': address },
    )
  assert.equal((await ask(VERIFY_TOKEN, '203.0.113.1')).status, 200)
  const tries = []
  for (let index = 0; index < 6; index++) {
    tries.push((await ask(`palpite-${index}`, `203.0.113.${index}`)).status)
  }
  assert.deepEqual(tries, [403, 403, 403, 429, 429, 429])
  const refused = await ask(VERIFY_TOKEN, '203.0.113.99')
  assert.equal(refused.status, 429)
  assert.equal(refused.headers.get('retry-after'), '10')
  clock.now += 10_000
  assert.equal((await ask(VERIFY_TOKEN, '203.0.113.99')).status, 200)
})
