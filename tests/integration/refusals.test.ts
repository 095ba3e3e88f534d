// What the webhook refuses leaves nothing behind. Each case is one mutation of a delivery that would be accepted.

import { randomUUID } from 'node:crypto'
import { request } from 'node:http'
import { beforeAll, describe, expect, test } from 'vitest'
import { tenantClient } from '../../types/index.ts'
import { aTextMessage, metaWebhook, signatureOf } from '../support/meta.ts'
import { eventually } from '../support/processes.ts'
import { runningStack } from '../support/running-stack.ts'
import {
  aPhoneNumber,
  asPlatform,
  aSecret,
  aTenant,
  connectNumber,
  type ConnectedNumber,
  manageInstance,
  memberOf,
  type Tenant,
  valueOf,
} from '../support/tenants.ts'

const LIMIT = 4 * 1024 * 1024

const backend = runningStack()
const platform = asPlatform(backend)
let clinic: Tenant
let number: ConnectedNumber
let neighbour: Tenant
let neighboursNumber: ConnectedNumber

beforeAll(async () => {
  clinic = await aTenant(backend, 'Clínica Vila Nova')
  number = await connectNumber(clinic)
  neighbour = await aTenant(backend, 'Clínica Vizinha')
  neighboursNumber = await connectNumber(neighbour)
})

/** A new message to the clinic; with slashes, accents and emoji, which serialisers write differently. */
function aDelivery({ text = 'Olá! 😊 https://exemplo.com.br/agenda', to = number.externalId } = {}): Buffer {
  const message = aTextMessage({ to, from: aPhoneNumber().slice(1), id: `wamid.${randomUUID()}`, text })
  return Buffer.from(JSON.stringify(message, null, 2))
}

/** How many rows of every table a delivery can write to belong to the tenant, or speak of its number. */
async function everythingOf({ organizationId }: Tenant, { externalId }: ConnectedNumber) {
  const rows = tenantClient(platform, organizationId)
  const count = { count: 'exact', head: true } as const
  const counted = await Promise.all([
    rows.from('contacts').select('*', count),
    rows.from('contact_identities').select('*', count),
    rows.from('conversations').select('*', count),
    rows.from('messages').select('*', count),
    rows.from('webhook_events').select('*', count),
    platform.from('webhook_events').select('*', count).eq('external_id', externalId),
  ])
  return counted.map((result) => valueOf({ data: result.count, error: result.error }))
}

/** Without Content-Length: the receiver learns the size only as it reads. */
function postedInChunks(url: string, body: Buffer, signature: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json', 'x-hub-signature-256': signature }
    const sending = request(url, { method: 'POST', headers }, (response) => {
      resolve(response.statusCode ?? 0)
      sending.destroy()
    })
    sending.once('error', reject)
    for (let start = 0; start < body.length; start += 64 * 1024) sending.write(body.subarray(start, start + 64 * 1024))
    sending.end()
  })
}

/** A delivery of exactly so many bytes. */
function aDeliveryOf(bytes: number): Buffer {
  const delivery = aDelivery()
  return Buffer.concat([delivery, Buffer.alloc(bytes - delivery.length, ' ')])
}

const signed = (body: Buffer, { appSecret } = number) => signatureOf(body, appSecret)

async function nothingIsStoredBy(send: () => Promise<unknown>): Promise<void> {
  const before = await everythingOf(clinic, number)
  await send()
  expect(await everythingOf(clinic, number)).toEqual(before)
}

test('a delivery that nothing is wrong with is stored', async () => {
  const before = await everythingOf(clinic, number)
  const { status, body } = await metaWebhook(aDelivery()).signedWith(number.appSecret).postedTo(number.webhookUrl)
  expect({ status, body }).toMatchObject({ status: 200, body: { received: true, messages: 1 } })
  expect(await everythingOf(clinic, number)).toEqual(before.map((count) => count + 1))
})

describe('a signature that is not right is answered with 401, and nothing is stored', () => {
  test.each<[string, (body: Buffer) => string | null]>([
    ['none', () => null],
    ['an empty one', () => ''],
    ['without its algorithm', (body) => signed(body).slice('sha256='.length)],
    ['of another algorithm', (body) => signed(body).replace('sha256=', 'sha1=')],
    ['cut short', (body) => signed(body).slice(0, -2)],
    ['too long', (body) => `${signed(body)}00`],
    ['with a letter that is no digit', (body) => `${signed(body).slice(0, -1)}g`],
    ['twice', (body) => `${signed(body)}, ${signed(body)}`],
    ['wrong in one digit', (body) => signed(body).replace(/.$/, (digit) => digit === '0' ? '1' : '0')],
    ['of another body', () => signed(aDelivery())],
    ['over the same JSON serialised again', (body) => signed(Buffer.from(JSON.stringify(JSON.parse(body.toString()))))],
    ["with another tenant's app secret", (body) => signed(body, neighboursNumber)],
    ['with the verify token', (body) => signatureOf(body, number.verifyToken)],
    ['with an empty secret', (body) => signatureOf(body, '')],
  ])('%s', async (_name, signature) => {
    await nothingIsStoredBy(async () => {
      const body = aDelivery()
      const value = signature(body)
      const webhook = value === null ? metaWebhook(body).unsigned() : metaWebhook(body).withSignature(value)
      const answer = await webhook.postedTo(number.webhookUrl)
      expect({ status: answer.status, code: answer.body.error?.code }).toEqual({ status: 401, code: 'wrong_signature' })
    })
  })
})

describe('refused, and nothing is stored', () => {
  test.each([
    ['an app key that nobody has', 'AAAAAAAAAAAAAAAAAAAAAA'],
    ['an app key that none can be', 'x'],
  ])('%s: 404', async (_name, appKey) => {
    await nothingIsStoredBy(async () => {
      const url = number.webhookUrl.replace(number.appKey, appKey)
      const { status, body } = await metaWebhook(aDelivery()).signedWith(number.appSecret).postedTo(url)
      expect({ status, code: body.error?.code }).toEqual({ status: 404, code: 'app_not_found' })
    })
  })

  test.each([['with its length', false], ['in chunks, without a length', true]])(
    'a body over 4 MiB, %s: 413; one of exactly 4 MiB is taken',
    async (_name, inChunks) => {
      const statusOf = async (body: Buffer) =>
        inChunks
          ? await postedInChunks(number.webhookUrl, body, signed(body))
          : (await metaWebhook(body).signedWith(number.appSecret).postedTo(number.webhookUrl)).status
      await nothingIsStoredBy(async () => expect(await statusOf(aDeliveryOf(LIMIT + 1))).toBe(413))
      expect(await statusOf(aDeliveryOf(LIMIT))).toBe(200)
    },
  )

  test.each(['', 'Olá', '{"object":', '[]', 'null', '"text"'])('what is not a JSON object (%j): 400', async (text) => {
    await nothingIsStoredBy(async () => {
      const { status, body } = await metaWebhook(Buffer.from(text)).signedWith(number.appSecret)
        .postedTo(number.webhookUrl)
      expect({ status, code: body.error?.code }).toEqual({ status: 400, code: 'invalid_json' })
    })
  })

  test.each(['PUT', 'PATCH', 'DELETE'])('%s: 405, which says what is allowed', async (method) => {
    await nothingIsStoredBy(async () => {
      const response = await fetch(number.webhookUrl, { method, body: '{}' })
      expect({ status: response.status, allow: response.headers.get('allow') })
        .toEqual({ status: 405, allow: 'GET, POST' })
      await response.body?.cancel()
    })
  })
})

describe("Meta's question whether the address is ours", () => {
  const asked = async (query: Record<string, string>, { webhookUrl } = number) => {
    const response = await fetch(`${webhookUrl}?${new URLSearchParams(query)}`)
    return { status: response.status, text: await response.text() }
  }
  const question = { 'hub.mode': 'subscribe', 'hub.challenge': '1158201444' }

  test('is answered with the challenge, as text', async () => {
    expect(await asked({ ...question, 'hub.verify_token': number.verifyToken })).toEqual({ status: 200, text: '1158201444' })
  })

  test.each<[string, () => Record<string, string>]>([
    ['a wrong token', () => ({ ...question, 'hub.verify_token': 'wrong' })],
    ["another tenant's token", () => ({ ...question, 'hub.verify_token': neighboursNumber.verifyToken })],
    ['no token', () => question],
    ['another mode', () => ({ ...question, 'hub.mode': 'unsubscribe', 'hub.verify_token': number.verifyToken })],
    ['no challenge', () => ({ 'hub.mode': 'subscribe', 'hub.verify_token': number.verifyToken })],
  ])('%s: 403', async (_name, query) => {
    const { status, text } = await asked(query())
    expect(status).toBe(403)
    expect(text).not.toContain(question['hub.challenge'])
  })
})

describe('who may speak for a number', () => {
  test('a number of another app than the signing one is ignored and counted', async () => {
    const before = await everythingOf(neighbour, neighboursNumber)
    const body = aDelivery({ to: neighboursNumber.externalId })
    const answer = await metaWebhook(body).signedWith(number.appSecret).postedTo(number.webhookUrl)
    expect(answer).toMatchObject({ status: 200, body: { unrouted: 1, messages: 0, events: 0 } })
    const after = await everythingOf(neighbour, neighboursNumber)
    // The raw delivery is kept, and is nobody's.
    const unrouted = before.length - 1
    expect(after).toEqual(before.map((count, index) => index === unrouted ? count + 1 : count))
    const kept = valueOf(
      await platform.from('webhook_events').select('organization_id, instance_id, processed, processing_error')
        .eq('signature', signed(body)),
    )
    expect(kept).toEqual([
      { organization_id: null, instance_id: null, processed: false, processing_error: 'number_not_registered' },
    ])
  })

  test('a delivery about two numbers reaches only the one of the signing app', async () => {
    const [own, foreign] = [aDelivery(), aDelivery({ to: neighboursNumber.externalId })].map((body) => JSON.parse(String(body)))
    const both = { ...own, entry: [...own.entry, ...foreign.entry] }
    const before = await everythingOf(neighbour, neighboursNumber)
    const answer = await metaWebhook(both).signedWith(number.appSecret).postedTo(number.webhookUrl)
    expect(answer).toMatchObject({ status: 200, body: { unrouted: 1, messages: 1 } })
    expect((await everythingOf(neighbour, neighboursNumber)).slice(0, -1)).toEqual(before.slice(0, -1))
  })

  test('a rotated app secret and verify token work at once, and the old ones no longer', async () => {
    const owner = memberOf(clinic, 'owner').accessToken
    const rotated = await connectNumber(clinic)
    const [newSecret, newToken] = [aSecret('app-secret'), aSecret('verify-token')]
    const statusWith = async (secret: string) =>
      (await metaWebhook(aDelivery({ to: rotated.externalId })).signedWith(secret).postedTo(rotated.webhookUrl)).status
    const statusOfQuestion = async (token: string) => {
      const query = { 'hub.mode': 'subscribe', 'hub.challenge': '1', 'hub.verify_token': token }
      const response = await fetch(`${rotated.webhookUrl}?${new URLSearchParams(query)}`)
      await response.body?.cancel()
      return response.status
    }
    expect([await statusWith(rotated.appSecret), await statusWith(newSecret)]).toEqual([200, 401])

    const { status } = await manageInstance(backend, 'PATCH', owner, {
      organization_id: clinic.organizationId,
      instance_id: rotated.instanceId,
      meta_app: { app_secret: newSecret, verify_token: newToken },
    })
    expect(status).toBe(200)
    // Against floods of forgeries the function looks a secret up again only once per second; what fits it knows for thirty.
    await eventually(async () => await statusWith(newSecret) === 200, 20_000)
    expect(await statusWith(rotated.appSecret)).toBe(401)
    expect([await statusOfQuestion(newToken), await statusOfQuestion(rotated.verifyToken)]).toEqual([200, 403])
  })

  test('a disconnected number hears nothing more', async () => {
    const gone = await connectNumber(clinic)
    const { status } = await manageInstance(backend, 'DELETE', memberOf(clinic, 'owner').accessToken, {
      organization_id: clinic.organizationId,
      instance_id: gone.instanceId,
    })
    expect(status).toBe(200)
    const answer = await metaWebhook(aDelivery({ to: gone.externalId })).signedWith(gone.appSecret).postedTo(gone.webhookUrl)
    expect(answer).toMatchObject({ status: 200, body: { unrouted: 1, messages: 0 } })
  })
})
