// The stack's imitation of Meta's Graph API against what Meta documents: tests of sending are worth what it is worth.

import { createHash, randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { z } from 'zod'
import { stackOptions } from '../../local/environment.ts'
import { Postman } from '../../local/graph/deliveries.ts'
import { MediaStore } from '../../local/graph/media.ts'
import { tenantClient } from '../../types/index.ts'
import { metaOf } from '../support/graph.ts'
import { asMetaWritesIt, signatureOf } from '../support/meta.ts'
import { eventually } from '../support/processes.ts'
import { runningStack } from '../support/running-stack.ts'
import { asPlatform, aTenant, type ConnectedNumber, connectNumber, type Tenant, valueOf } from '../support/tenants.ts'

const backend = runningStack()
const meta = metaOf(backend)
const platform = asPlatform(backend)

const CUSTOMER = '+5531987650003'
const WA_ID = '553187650003'
const BSUID = 'BR.8841205577310094'

let clinic: Tenant
let number: ConnectedNumber

beforeAll(async () => {
  clinic = await aTenant(backend, 'Clínica da Meta')
  number = await connectNumber(clinic)
  // Both have written: the service window is open.
  await meta.inbound(number, { from: WA_ID, name: 'Ana', message: { type: 'text', text: { body: 'Oi' } } })
  await meta.inbound(number, { from: BSUID, name: 'Carol', message: { type: 'text', text: { body: 'Oi' } } })
})

interface Answered {
  status: number
  headers: Headers
  body: unknown
}

async function graph(
  method: string,
  path: string,
  { token = number.accessToken, body, type = 'application/json' }: {
    token?: string | null
    body?: BodyInit
    type?: string | null
  } = {},
): Promise<Answered> {
  const response = await fetch(`${backend.urls.graph}/v24.0/${path}`, {
    method,
    headers: {
      ...(token === null ? {} : { authorization: `Bearer ${token}` }),
      ...(type === null || body === undefined ? {} : { 'content-type': type }),
    },
    ...(body === undefined ? {} : { body }),
  })
  return { status: response.status, headers: response.headers, body: await response.json() }
}

/** What stands in every message besides its content. */
const addressed = { messaging_product: 'whatsapp', recipient_type: 'individual', to: CUSTOMER }

async function send(message: object, by = number): Promise<Answered> {
  return await graph('POST', `${by.externalId}/messages`, { token: by.accessToken, body: JSON.stringify(message) })
}

const sendText = (by = number) => send({ ...addressed, type: 'text', text: { body: 'Olá, Ana!' } }, by)

const accepted = z.object({ messages: z.array(z.object({ id: z.string() })).length(1) })

/** WhatsApp's id of a message that must have been accepted. */
function idOf({ body }: Answered): string {
  const [message] = accepted.parse(body).messages
  return message?.id ?? ''
}

const refused = z.object({
  error: z.object({
    message: z.string(),
    code: z.int(),
    error_subcode: z.int().optional(),
    error_data: z.object({ details: z.string() }).optional(),
    fbtrace_id: z.string().min(10),
  }),
})

function errorIn({ body }: Answered) {
  return refused.parse(body).error
}

function sample(name: string): Record<string, unknown> {
  return z.record(z.string(), z.unknown()).parse(
    JSON.parse(readFileSync(new URL(`../fixtures/graph/${name}.json`, import.meta.url), 'utf8')),
  )
}

/** A number of its own, for a test that orders or counts. The customer has written to it. */
async function anotherNumber(): Promise<ConnectedNumber> {
  const other = await connectNumber(clinic, { sameAppAs: number })
  await meta.inbound(other, { from: WA_ID, name: 'Ana', message: { type: 'text', text: { body: 'Oi' } } })
  return other
}

/** The statuses that were posted for a message, as whatsapp-webhook heard them. */
async function told(by: ConnectedNumber, messageId: string): Promise<string[]> {
  return (await meta.deliveries(by)).flatMap(({ value, status }) =>
    (value.statuses ?? []).filter(({ id }) => id === messageId && status === 200).map((item) => item.status)
  )
}

// The documented samples -------------------------------------------------------------------------------------------

describe('an accepted message is answered as in the sample', () => {
  test.each([
    ['send-ok', { to: CUSTOMER, type: 'text', text: { body: 'Oi' } }],
    [
      'send-template-ok',
      { to: '+5511987650001', type: 'template', template: { name: 'lembrete', language: { code: 'pt_BR' } } },
    ],
    ['send-bsuid-ok', { recipient: BSUID, type: 'text', text: { body: 'Oi' } }],
  ])('%s', async (name, message) => {
    const answer = await send({ messaging_product: 'whatsapp', ...message })
    expect(answer.status).toBe(200)
    const expected = sample(name)
    const [documented] = accepted.parse(expected).messages
    expect(answer.body).toEqual({
      ...expected,
      messages: [{ ...z.array(z.looseObject({})).parse(expected.messages)[0], id: idOf(answer) }],
    })
    expect(idOf(answer)).toMatch(/^wamid\.HBg[A-Za-z0-9+/]+=*$/)
    expect(idOf(answer)).toHaveLength(documented?.id.length ?? 0)
  })
})

describe('an error is answered as in the sample', () => {
  test.each([
    ['error-130429-throughput', 130429, 400],
    ['error-131047-window', 131047, 400],
    ['error-131056-pair-rate', 131056, 400],
    ['error-132001-template', 132001, 404],
    ['error-100-invalid-param', 100, 400],
    ['error-190-token', 190, 401],
    ['error-2-temporary', 2, 503],
  ])('%s', async (name, code, status) => {
    const { error } = z.object({
      error: z.looseObject({ error_data: z.looseObject({ details: z.string() }).optional() }),
    })
      .parse(sample(name))
    const details = error.error_data?.details
    await meta.failing(number, { code, ...(details === undefined ? {} : { details }) })
    const answer = await sendText()
    expect(answer.status).toBe(status)
    expect(answer.body).toEqual({ error: { ...error, fbtrace_id: errorIn(answer).fbtrace_id } })
  })
})

describe('every documented code can be ordered', () => {
  test.each<[number, number[]]>([
    [401, [0, 190]],
    [403, [10, 200, 299, 131005, 368, 130497, 131031]],
    [404, [132001]],
    [500, [3, 131000, 131016, 131057, 131045]],
    [503, [2, 133004]],
    [400, [1, 4, 80007, 130429, 131056, 131048, 131047, 131026, 131049, 131050, 131051, 131052, 131053, 130472]],
    [400, [131042, 131030, 132000, 132005, 132007, 132012, 132015, 132016, 100, 131008, 131009, 33, 133010, 131062]],
  ])('%d: %j', async (status, codes) => {
    for (const code of codes) {
      await meta.failing(number, { code })
      const answer = await sendText()
      expect({ code: errorIn(answer).code, status: answer.status }).toEqual({ code, status })
      if (![0, 1, 2, 190].includes(code)) expect(errorIn(answer).message).toMatch(new RegExp(`^\\(#${code}\\) \\S`))
    }
  })

  test('another HTTP status and a Retry-After, as live systems have them', async () => {
    await meta.failing(number, { code: 130429, http_status: 429, retry_after: 7 })
    const { status, headers } = await sendText()
    expect({ status, retryAfter: headers.get('retry-after') }).toEqual({ status: 429, retryAfter: '7' })
  })
})

// What may be sent -------------------------------------------------------------------------------------------------

const button = (id: string, title = id) => ({ type: 'reply', reply: { id, title } })
const buttons = (...list: object[]) => ({ type: 'button', body: { text: 'Confirma?' }, action: { buttons: list } })
const list = (...sections: object[]) => ({ type: 'list', body: { text: 'Qual?' }, action: { button: 'Ver', sections } })
const rows = (count: number, from = 0) =>
  Array.from({ length: count }, (_, index) => ({ id: `r${from + index}`, title: `Linha ${from + index}` }))
const template = (components?: object[]) => ({
  name: 'lembrete_consulta',
  language: { code: 'pt_BR' },
  ...(components ? { components } : {}),
})
const LINK = 'https://arquivos.exemplo.com.br/a'

describe('a message in the documented format is accepted', () => {
  test.each<[string, object]>([
    ['text', { type: 'text', text: { body: 'x'.repeat(4096), preview_url: true } }],
    ['text without type', { text: { body: 'Oi' } }],
    ['answer', { type: 'text', text: { body: 'Oi' }, context: { message_id: 'wamid.abc' } }],
    ['own id', { type: 'text', text: { body: 'Oi' }, biz_opaque_callback_data: 'x'.repeat(512) }],
    ['number with separators', { to: '+55 (31) 98765-0003', type: 'text', text: { body: 'Oi' } }],
    ['number without country code', { to: '31987650003', type: 'text', text: { body: 'Oi' } }],
    ['"to" wins', { recipient: 'nobody', type: 'text', text: { body: 'Oi' } }],
    ['image', { type: 'image', image: { link: LINK, caption: 'Antes e depois' } }],
    ['video', { type: 'video', video: { link: LINK } }],
    ['audio', { type: 'audio', audio: { link: LINK } }],
    ['document', { type: 'document', document: { link: LINK, filename: 'orçamento.pdf', caption: 'Segue' } }],
    ['sticker', { type: 'sticker', sticker: { link: LINK } }],
    ['location', { type: 'location', location: { latitude: -19.92, longitude: '-43.94', name: 'Clínica' } }],
    ['contacts', {
      type: 'contacts',
      contacts: [{
        name: { formatted_name: 'Ana S.', first_name: 'Ana' },
        phones: [{ phone: CUSTOMER, type: 'CELL' }],
      }],
    }],
    ['three buttons', { type: 'interactive', interactive: buttons(button('a'), button('b'), button('c')) }],
    ['buttons under an image', {
      type: 'interactive',
      interactive: {
        ...buttons(button('a')),
        header: { type: 'image', image: { link: LINK } },
        footer: { text: 'x'.repeat(60) },
      },
    }],
    ['list of ten', {
      type: 'interactive',
      interactive: list({ title: 'Manhã', rows: rows(5) }, { title: 'Tarde', rows: rows(5, 5) }),
    }],
    ['template', { type: 'template', template: template() }],
    ['template with variables', {
      type: 'template',
      template: template([
        { type: 'header', parameters: [{ type: 'image', image: { link: LINK } }] },
        { type: 'body', parameters: [{ type: 'text', text: 'Ana', parameter_name: 'nome' }] },
        { type: 'button', sub_type: 'quick_reply', index: '0', parameters: [{ type: 'payload', payload: 'sim' }] },
      ]),
    }],
    ['reaction', { type: 'reaction', reaction: { message_id: 'wamid.abc', emoji: '👍🏽' } }],
    ['reaction removed', { type: 'reaction', reaction: { message_id: 'wamid.abc', emoji: '' } }],
  ])('%s', async (_name, message) => {
    const { status, body } = await send({ ...addressed, ...message })
    expect({ status, body }).toMatchObject({ status: 200, body: { contacts: [{ wa_id: WA_ID }] } })
  })

  test('what was read is marked as read, also with a typing indicator', async () => {
    const receipt = { messaging_product: 'whatsapp', status: 'read', message_id: 'wamid.abc' }
    expect((await send(receipt)).body).toEqual({ success: true })
    expect((await send({ ...receipt, typing_indicator: { type: 'text' } })).body).toEqual({ success: true })
    expect(errorIn(await send({ ...receipt, typing_indicator: { type: 'audio' } })).code).toBe(131009)
    expect(errorIn(await send({ ...receipt, to: CUSTOMER })).code).toBe(100)
  })
})

describe('one mutation of a good message is refused', () => {
  const text = { type: 'text', text: { body: 'Oi' } }
  const withInteractive = (interactive: object) => ({ type: 'interactive', interactive })
  test.each<[string, number, RegExp, object]>([
    ['no product', 100, /messaging_product is required/, { ...text, messaging_product: undefined }],
    ['another product', 131009, /messaging_product/, { ...text, messaging_product: 'messenger' }],
    ['nobody', 131008, /"to" is missing/, { ...text, to: undefined }],
    ['a name', 131009, /"to"/, { ...text, to: 'Ana' }],
    ['BSUID as "to"', 131009, /"to"/, { ...text, to: BSUID }],
    ['number as "recipient"', 131009, /"recipient"/, { ...text, to: undefined, recipient: CUSTOMER }],
    // Without "+" the business's country code is put before it.
    ['wa_id without "+"', 131026, /read as \+55553187650003/, { ...text, to: WA_ID }],
    ['group', 131009, /recipient_type/, { ...text, recipient_type: 'group' }],
    ['unknown key', 100, /Unexpected key "ttl"/, { ...text, ttl: 60 }],
    ['unknown key inside', 100, /Unexpected key "markdown" on param "text"/, {
      type: 'text',
      text: { body: 'Oi', markdown: true },
    }],
    ["another type's object", 100, /Unexpected key "image"/, { ...text, image: { link: LINK } }],
    ['unknown type', 131051, /poll/, { type: 'poll', poll: {} }],
    ['no content', 131008, /"text" is missing/, { type: 'text' }],
    ['no text', 131008, /"text.body" is missing/, { type: 'text', text: {} }],
    ['empty text', 131009, /text.body/, { type: 'text', text: { body: '' } }],
    ['long text', 131009, /text.body/, { type: 'text', text: { body: 'x'.repeat(4097) } }],
    ['own id too long', 131009, /biz_opaque_callback_data/, { ...text, biz_opaque_callback_data: 'x'.repeat(513) }],
    ['empty answer', 131008, /context.message_id/, { ...text, context: {} }],
    ['no file', 131008, /"image.id" is missing/, { type: 'image', image: {} }],
    ['two files', 131009, /image.link/, { type: 'image', image: { id: '1', link: LINK } }],
    ['unknown file', 131009, /Media id 12345/, { type: 'image', image: { id: '12345' } }],
    ['local file', 131009, /image.link/, { type: 'image', image: { link: 'file:///etc/passwd' } }],
    ['long caption', 131009, /caption/, { type: 'image', image: { link: LINK, caption: 'x'.repeat(1025) } }],
    ['caption of audio', 100, /caption/, { type: 'audio', audio: { link: LINK, caption: 'Oi' } }],
    ['off the globe', 131009, /latitude/, { type: 'location', location: { latitude: 91, longitude: 0 } }],
    ["nobody's card", 131008, /formatted_name/, { type: 'contacts', contacts: [{ name: { first_name: 'Ana' } }] }],
    ['card with one name', 131009, /contacts.0.name/, {
      type: 'contacts',
      contacts: [{ name: { formatted_name: 'A' } }],
    }],
    ['no button', 131009, /buttons/, withInteractive(buttons())],
    ['four buttons', 131009, /buttons/, withInteractive(buttons(...['a', 'b', 'c', 'd'].map((id) => button(id))))],
    ['button twice', 131009, /twice/, withInteractive(buttons(button('a', 'Sim'), button('a', 'Não')))],
    ['same label', 131009, /twice/, withInteractive(buttons(button('a', 'Sim'), button('b', 'Sim')))],
    ['long label', 131009, /title/, withInteractive(buttons(button('a', 'x'.repeat(21))))],
    ['long button id', 131009, /reply.id/, withInteractive(buttons(button('x'.repeat(257), 'Sim')))],
    ['long body', 131009, /body.text/, withInteractive({ ...buttons(button('a')), body: { text: 'x'.repeat(1025) } })],
    ['no body', 131008, /interactive.body/, withInteractive({ ...buttons(button('a')), body: undefined })],
    ['long footer', 131009, /footer/, withInteractive({ ...buttons(button('a')), footer: { text: 'x'.repeat(61) } })],
    [
      'eleven rows',
      131009,
      /11 rows/,
      withInteractive(list({ title: 'A', rows: rows(6) }, { title: 'B', rows: rows(5, 6) })),
    ],
    [
      'row twice',
      131009,
      /same id/,
      withInteractive(list({ title: 'A', rows: rows(2) }, { title: 'B', rows: rows(2) })),
    ],
    [
      'untitled section',
      131008,
      /sections.1.title/,
      withInteractive(list({ title: 'A', rows: rows(1) }, { rows: rows(1, 1) })),
    ],
    ['long row title', 131009, /rows.0.title/, withInteractive(list({ rows: [{ id: 'a', title: 'x'.repeat(25) }] }))],
    [
      'long description',
      131009,
      /description/,
      withInteractive(list({
        rows: [{ id: 'a', title: 'A', description: 'x'.repeat(73) }],
      })),
    ],
    [
      'image over a list',
      131009,
      /header/,
      withInteractive({
        ...list({ rows: rows(1) }),
        header: { type: 'image', image: { link: LINK } },
      }),
    ],
    ['other interactive', 131009, /interactive.type/, withInteractive({ type: 'carousel' })],
    ['template name', 131009, /template.name/, { type: 'template', template: { ...template(), name: 'Olá' } }],
    ['no language', 131008, /template.language/, { type: 'template', template: { name: 'a' } }],
    ['template language', 131009, /language.code/, {
      type: 'template',
      template: { name: 'a', language: { code: 'pt-BR' } },
    }],
    ['unknown component', 131009, /components.0.type/, { type: 'template', template: template([{ type: 'BODY' }]) }],
    ['no parameters', 131009, /parameters/, {
      type: 'template',
      template: template([{ type: 'body', parameters: [] }]),
    }],
    ['reaction to nothing', 131008, /message_id/, { type: 'reaction', reaction: { emoji: '👍' } }],
    ['reaction in words', 131009, /emoji/, { type: 'reaction', reaction: { message_id: 'wamid.a', emoji: 'ok' } }],
    ['two emojis', 131009, /emoji/, { type: 'reaction', reaction: { message_id: 'wamid.a', emoji: '👍👍' } }],
  ])('%s', async (_name, code, details, message) => {
    const answer = await send({ ...addressed, ...message })
    const error = errorIn(answer)
    expect({ status: answer.status, code: error.code }).toEqual({ status: 400, code })
    expect(error.error_data?.details ?? error.message).toMatch(details)
  })

  test('what is no JSON', async () => {
    const path = `${number.externalId}/messages`
    const noJson = await graph('POST', path, { body: '{"messaging_product":' })
    const form = await graph('POST', path, { body: 'to=1', type: 'application/x-www-form-urlencoded' })
    expect([noJson, form].map((answer) => errorIn(answer).code)).toEqual([100, 100])
  })
})

describe('who may send', () => {
  const text = JSON.stringify({ ...addressed, type: 'text', text: { body: 'Oi' } })

  test("the number's own token, and no other", async () => {
    const other = await connectNumber(clinic, { sameAppAs: number })
    for (const token of [other.accessToken, 'a-guess', backend.keys.secret]) {
      const answer = await graph('POST', `${number.externalId}/messages`, { token, body: text })
      expect({ status: answer.status, code: errorIn(answer).code }).toEqual({ status: 401, code: 190 })
    }
    const anonymous = await graph('POST', `${number.externalId}/messages`, { token: null, body: text })
    expect({ status: anonymous.status, code: errorIn(anonymous).code }).toEqual({ status: 401, code: 0 })
  })

  test('a number that nobody has connected, or that was disconnected, does not exist', async () => {
    const gone = await connectNumber(clinic, { sameAppAs: number })
    const { organizationId: organization_id } = clinic
    valueOf(await platform.rpc('disconnect_instance', { organization_id, instance_id: gone.instanceId }))
    for (const [id, token] of [['100000000000001', number.accessToken], [gone.externalId, gone.accessToken]] as const) {
      const answer = await graph('POST', `${id}/messages`, { token, body: text })
      expect({ status: answer.status, error: errorIn(answer) }).toMatchObject({
        status: 400,
        error: {
          code: 100,
          error_subcode: 33,
          message: expect.stringContaining(`Object with ID '${id}' does not exist`),
        },
      })
    }
  })

  test('one number under two apps answers to both tokens', async () => {
    const petshop = await aTenant(backend, 'Pet Shop da Meta')
    const theirs = await connectNumber(petshop, { externalId: number.externalId })
    await meta.inbound(theirs, { from: WA_ID, message: { type: 'text', text: { body: 'Oi' } } })
    expect((await sendText(number)).status).toBe(200)
    expect((await sendText(theirs)).status).toBe(200)
    const { organizationId: organization_id } = petshop
    valueOf(await platform.rpc('disconnect_instance', { organization_id, instance_id: theirs.instanceId }))
  })

  test('a path without version leads nowhere', async () => {
    const response = await fetch(`${backend.urls.graph}/${number.externalId}/messages`, { method: 'POST', body: text })
    expect(response.status).toBe(400)
    expect(refused.parse(await response.json()).error.code).toBe(2500)
  })
})

test("outside the 24 hours after the customer's last message only templates pass", async () => {
  const quiet = await connectNumber(clinic, { sameAppAs: number })
  const sendsTemplate = () => send({ ...addressed, type: 'template', template: template() }, quiet)
  const hoursAgo = (hours: number) => String(Math.floor(Date.now() / 1000) - hours * 3600)
  const write = (timestamp: string) =>
    meta.inbound(quiet, { from: WA_ID, message: { type: 'text', text: { body: 'Oi' }, timestamp } })

  expect(errorIn(await sendText(quiet)).code).toBe(131047)
  await write(hoursAgo(25))
  expect(errorIn(await sendText(quiet)).code).toBe(131047)
  expect((await sendsTemplate()).status).toBe(200)
  await write(hoursAgo(23))
  expect((await sendText(quiet)).status).toBe(200)
})

// What WhatsApp tells ----------------------------------------------------------------------------------------------

describe('webhooks', () => {
  test("a customer's message is signed as Meta signs, over bytes as Meta writes them", async () => {
    const text = 'Olá! Amanhã às 9h/10h? 😊 "ok"'
    const { id, deliveries } = await meta.inbound(number, {
      from: '5511987650001',
      name: 'Conceição',
      message: { type: 'text', text: { body: text } },
    })
    expect(deliveries).toMatchObject([{ status: 200, attempts: 1, answer: { received: true, messages: 1 } }])
    const rows = tenantClient(platform, clinic.organizationId)
    const message = valueOf(await rows.from('messages').select('content').eq('whatsapp_message_id', id).single())
    expect(message.content).toBe(text)

    const events = valueOf(
      await rows.from('webhook_events').select('signature, payload').eq('external_id', number.externalId),
    )
    const event = events.find(({ payload }) => JSON.stringify(payload).includes(id))
    // As it was posted: our own client sorts keys when it reads.
    const response = await fetch(`${backend.urls.graph}/_control/deliveries?phone_number_id=${number.externalId}`, {
      headers: { authorization: `Bearer ${backend.keys.secret}` },
    })
    const posted = z.object({ deliveries: z.array(z.object({ value: z.unknown() })) }).parse(await response.json())
    const { value } = posted.deliveries.find((delivery) => JSON.stringify(delivery).includes(id)) ?? {}
    const bytes = asMetaWritesIt(Buffer.from(JSON.stringify({
      object: 'whatsapp_business_account',
      entry: [{ id: '102938475610293', changes: [{ value, field: 'messages' }] }],
    })))
    expect(event?.signature).toBe(signatureOf(bytes, number.appSecret))
  })

  test('a customer without number is known by his BSUID only', async () => {
    const { deliveries } = await meta.inbound(number, {
      from: 'BR.5550001112223334',
      message: { type: 'text', text: { body: 'Oi' } },
    })
    const [delivery] = deliveries
    expect(delivery?.value.messages).toMatchObject([{ from_user_id: 'BR.5550001112223334' }])
    expect(delivery?.value.messages?.[0]).not.toHaveProperty('from')
    expect(delivery?.answer).toMatchObject({ messages: 1 })
  })

  test('sent, delivered and read follow a send; of a message that nobody knows they are parked', async () => {
    const own = await anotherNumber()
    const opaque = `outbox:${randomUUID()}`
    const answer = await send(
      { ...addressed, type: 'text', text: { body: 'Oi' }, biz_opaque_callback_data: opaque },
      own,
    )
    const id = idOf(answer)
    await eventually(async () => (await told(own, id)).length === 3)

    const deliveries = (await meta.deliveries(own)).filter(({ value }) => value.statuses !== undefined)
    expect(deliveries.map(({ answer }) => answer)).toEqual(
      Array.from({ length: 3 }, () => expect.objectContaining({ received: true, parked: 1, unknown: 0 })),
    )
    const price = { billable: false, pricing_model: 'PMP', type: 'free_customer_service', category: 'service' }
    const common = {
      id,
      recipient_id: WA_ID,
      biz_opaque_callback_data: opaque,
      timestamp: expect.stringMatching(/^\d{10}$/),
    }
    expect(deliveries.map(({ value }) => value)).toEqual([
      { status: 'sent', pricing: price },
      { status: 'delivered', pricing: price },
      { status: 'read' },
    ].map((status) => ({
      messaging_product: 'whatsapp',
      metadata: { display_phone_number: expect.stringMatching(/^55119\d{8}$/), phone_number_id: own.externalId },
      contacts: [{ profile: { name: 'Ana' }, wa_id: WA_ID }],
      statuses: [{ ...common, ...status }],
    })))
  })

  test('they reach the message that is stored', async () => {
    const own = await anotherNumber()
    const rows = tenantClient(platform, clinic.organizationId)
    const conversation = valueOf(
      await rows.from('conversations').select('id, contact_id').eq('instance_id', own.instanceId).single(),
    )
    const message = valueOf(
      await platform.from('messages').insert({
        organization_id: clinic.organizationId,
        instance_id: own.instanceId,
        conversation_id: conversation.id,
        contact_id: conversation.contact_id,
        direction: 'outbound',
        sender: 'human',
        status: 'queued',
      }).select('id').single(),
    )
    const body = { ...addressed, type: 'text', text: { body: 'Oi' }, biz_opaque_callback_data: message.id }
    const id = idOf(await send(body, own))
    const stored = async () =>
      valueOf(await rows.from('messages').select('status, whatsapp_message_id').eq('id', message.id).single())
    await eventually(async () => (await stored()).status === 'read')
    expect((await stored()).whatsapp_message_id).toBe(id)
  })

  test('a reaction is only said to be sent', async () => {
    const own = await anotherNumber()
    await meta.statuses(own, ['sent', 'delivered'], { delay_ms: 0 })
    await meta.forget(own)
    const id = idOf(
      await send({ ...addressed, type: 'reaction', reaction: { message_id: 'wamid.abc', emoji: '👍' } }, own),
    )
    await eventually(async () => (await told(own, id)).length > 0)
    // A later message is told of completely: by then the reaction's would have come too.
    const later = idOf(await sendText(own))
    await eventually(async () => (await told(own, later)).length === 3)
    expect(await told(own, id)).toEqual(['sent'])
  })

  test('a template is billed, and a BSUID is named as such', async () => {
    const own = await anotherNumber()
    const id = idOf(
      await send({
        messaging_product: 'whatsapp',
        recipient: BSUID,
        type: 'template',
        template: template(),
      }, own),
    )
    await eventually(async () => (await told(own, id)).length === 3)
    const [first] = (await meta.deliveries(own)).flatMap(({ value }) => value.statuses ?? [])
    expect(first).toMatchObject({ recipient_user_id: BSUID, pricing: { billable: true, category: 'utility' } })
    expect(first).not.toHaveProperty('recipient_id')
  })

  test('order, omission, repetition and failure can be commanded', async () => {
    const own = await anotherNumber()
    await meta.statuses(own, ['read', 'sent'], { delay_ms: 60 })
    const backwards = idOf(await sendText(own))
    await eventually(async () => (await told(own, backwards)).length === 2)
    expect(await told(own, backwards)).toEqual(['read', 'sent'])

    await meta.statuses(own, ['sent', 'played'], { delay_ms: 0, duplicate: true, shuffle: true })
    const twice = idOf(await sendText(own))
    await eventually(async () => (await told(own, twice)).length === 4)
    expect((await told(own, twice)).sort()).toEqual(['played', 'played', 'sent', 'sent'])

    await meta.statuses(own, [{ status: 'failed', code: 131026 }])
    const failed = idOf(await sendText(own))
    await eventually(async () => (await told(own, failed)).length === 1)
    const statuses = (await meta.deliveries(own)).flatMap(({ value }) => value.statuses ?? [])
    expect(statuses.find(({ id }) => id === failed)).toMatchObject({
      status: 'failed',
      errors: [{
        code: 131026,
        title: 'Message undeliverable',
        message: 'Message undeliverable',
        error_data: { details: 'Message Undeliverable.' },
        href: '/documentation/business-messaging/whatsapp/support/error-codes',
      }],
    })

    await meta.statuses(own, [])
    const silent = idOf(await sendText(own))
    await meta.statuses(own, ['sent'])
    const spoken = idOf(await sendText(own))
    await eventually(async () => (await told(own, spoken)).length === 1)
    expect(await told(own, silent)).toEqual([])
  })

  test('they can come before the answer', async () => {
    const own = await anotherNumber()
    await meta.statuses(own, ['sent', 'delivered'], { delay_ms: 0, before_answer: true })
    const id = idOf(await sendText(own))
    expect(await told(own, id)).toEqual(['sent', 'delivered'])
  })

  test('a file behind our own address that cannot be fetched ends as a failure', async () => {
    const own = await anotherNumber()
    await meta.statuses(own, ['sent'], { before_answer: true })
    const link = `${backend.urls.api}/nothing/is/here.jpg`
    const id = idOf(await send({ ...addressed, type: 'image', image: { link } }, own))
    expect(await told(own, id)).toEqual(['failed'])
  })

  test('they are posted again while we answer 5xx, and not after another refusal', async () => {
    const answers = [500, 503, 200]
    const heard: string[] = []
    const api = await listening((request) => {
      heard.push(`${request.method} ${request.url}`)
      return answers.shift() ?? 401
    })
    const postman = new Postman(api, () => new Date(), () => undefined)
    const to = {
      organizationId: randomUUID(),
      instanceId: randomUUID(),
      id: '1',
      name: 'Recepção',
      phoneNumber: null,
      appKey: 'chave',
      appSecret: 'segredo',
      accessToken: null,
    }
    expect(await postman.post(to, {})).toMatchObject({ attempts: 3, status: 200 })
    expect(await postman.post(to, {})).toMatchObject({ attempts: 1, status: 401 })
    expect(new Set(heard)).toEqual(new Set(['POST /functions/v1/whatsapp-webhook/meta/chave']))
    await postman.close()
  })
})

/** A server that answers with what it is told to; closed after the test. */
async function listening(answer: (request: IncomingMessage) => number): Promise<string> {
  const server = createServer((request, response) => {
    request.resume()
    request.once('end', () => response.writeHead(answer(request), { 'content-type': 'application/json' }).end('{}'))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

// When it goes wrong -----------------------------------------------------------------------------------------------

describe('ordered failures', () => {
  test('as many as ordered, in their order, then all is well', async () => {
    const own = await anotherNumber()
    await meta.failing(own, { code: 131016 }, { times: 2 })
    await meta.failing(own, { code: 130429 })
    const answers = [await sendText(own), await sendText(own), await sendText(own), await sendText(own)]
    expect(answers.map(({ status }) => status)).toEqual([500, 500, 400, 200])
    expect((await meta.sends(own)).map(({ code, status }) => ({ code, status }))).toEqual([
      { code: 131016, status: 500 },
      { code: 131016, status: 500 },
      { code: 130429, status: 400 },
      { code: null, status: 200 },
    ])
  })

  test('only for one recipient, however it is written', async () => {
    const own = await anotherNumber()
    await meta.inbound(own, { from: '5511987650001', message: { type: 'text', text: { body: 'Oi' } } })
    await meta.failing(own, { code: 131056 }, { to: WA_ID })
    const other = await send({ ...addressed, to: '+5511987650001', type: 'text', text: { body: 'Oi' } }, own)
    expect(other.status).toBe(200)
    expect(errorIn(await sendText(own)).code).toBe(131056)
  })

  test('a bad message is refused all the same, and uses up nothing', async () => {
    const own = await anotherNumber()
    await meta.failing(own, { code: 131016 })
    expect(errorIn(await send({ ...addressed, type: 'text', text: {} }, own)).code).toBe(131008)
    expect(errorIn(await sendText(own)).code).toBe(131016)
  })

  test('accepted, but the connection breaks: the statuses come', async () => {
    const own = await anotherNumber()
    await meta.failing(own, 'accept_then_break')
    await expect(sendText(own)).rejects.toThrow()
    const [call] = await meta.sends(own)
    expect(call).toMatchObject({ status: null, message_id: expect.stringMatching(/^wamid\./) })
    await eventually(async () => (await told(own, call?.message_id ?? '')).length === 3)
  })

  test('broken without being accepted: nothing comes', async () => {
    const own = await anotherNumber()
    await meta.failing(own, 'break')
    await expect(sendText(own)).rejects.toThrow()
    const later = idOf(await sendText(own))
    await eventually(async () => (await told(own, later)).length === 3)
    expect((await meta.sends(own)).map(({ message_id, status }) => ({ message_id, status }))).toEqual([
      { message_id: null, status: null },
      { message_id: later, status: 200 },
    ])
    const ids = (await meta.deliveries(own)).flatMap(({ value }) => (value.statuses ?? []).map(({ id }) => id))
    expect([...new Set(ids)]).toEqual([later])
  })

  test('a page of a proxy instead of an answer', async () => {
    await meta.failing(number, 'html_502')
    const response = await fetch(`${backend.urls.graph}/v24.0/${number.externalId}/messages`, {
      method: 'POST',
      headers: { authorization: `Bearer ${number.accessToken}`, 'content-type': 'application/json' },
      body: JSON.stringify({ ...addressed, type: 'text', text: { body: 'Oi' } }),
    })
    expect(response.status).toBe(502)
    expect(response.headers.get('content-type')).toMatch(/^text\/html/)
    expect(await response.text()).toMatch(/^<html>/)
  })

  test('an answer that comes too late: the message was sent', async () => {
    const own = await anotherNumber()
    await meta.failing(own, { delay_ms: 600_000 })
    const impatient = new AbortController()
    const request = fetch(`${backend.urls.graph}/v24.0/${own.externalId}/messages`, {
      method: 'POST',
      headers: { authorization: `Bearer ${own.accessToken}`, 'content-type': 'application/json' },
      body: JSON.stringify({ ...addressed, type: 'text', text: { body: 'Oi' } }),
      signal: impatient.signal,
    })
    const givenUp = expect(request).rejects.toThrow()
    const sent = async () => (await meta.sends(own))[0]?.message_id ?? null
    await eventually(async () => await sent() !== null)
    const id = await sent() ?? ''
    await eventually(async () => (await told(own, id)).length === 3)
    impatient.abort()
    await givenUp
  })
})

// Media ------------------------------------------------------------------------------------------------------------

describe('media', () => {
  const bytes = Buffer.from('/9j/4AAQSkZJRgABAQ', 'base64')
  const described = z.strictObject({
    url: z.url(),
    mime_type: z.string(),
    sha256: z.string(),
    file_size: z.int(),
    id: z.string(),
    messaging_product: z.literal('whatsapp'),
  })
  const download = (url: string, token: string | null) =>
    fetch(url, token === null ? {} : { headers: { authorization: `Bearer ${token}` } })

  test("is described, and fetched with the number's token only", async () => {
    const { id, sha256, sha256_hex } = await meta.media(number, 'image/jpeg', { bytes })
    const { url, ...description } = described.parse((await graph('GET', id)).body)
    expect(description).toEqual({
      mime_type: 'image/jpeg',
      sha256: createHash('sha256').update(bytes).digest('hex'),
      file_size: bytes.length,
      id,
      messaging_product: 'whatsapp',
    })
    expect([sha256, sha256_hex]).toEqual([createHash('sha256').update(bytes).digest('base64'), description.sha256])
    expect(url).toMatch(new RegExp(`^${backend.urls.graph}/media/`))

    const file = await download(url, number.accessToken)
    expect({ status: file.status, type: file.headers.get('content-type') }).toEqual({ status: 200, type: 'image/jpeg' })
    expect(Buffer.from(await file.arrayBuffer())).toEqual(bytes)
    expect((await download(url, null)).status).toBe(401)
    expect((await download(url, 'a-guess')).status).toBe(401)
    expect(errorIn(await graph('GET', id, { token: 'a-guess' })).code).toBe(190)
    expect((await download(`${backend.urls.graph}/media/a-guess`, number.accessToken)).status).toBe(404)
  })

  test('of any size, without anybody holding it', async () => {
    const size = 20 * 1024 * 1024 + 5
    const { id, sha256_hex } = await meta.media(number, 'video/mp4', { size })
    const { url, file_size } = described.parse((await graph('GET', id)).body)
    const file = Buffer.from(await (await download(url, number.accessToken)).arrayBuffer())
    expect([file_size, file.length]).toEqual([size, size])
    expect(createHash('sha256').update(file).digest('hex')).toBe(sha256_hex)
  })

  test('a URL lives for five minutes', () => {
    const store = new MediaStore()
    const file = store.add('1', 'image/jpeg', { bytes })
    const ticket = store.ticketFor(file, new Date(0))
    expect(store.behind(ticket, new Date(5 * 60_000 - 1))).toBe(file)
    expect(store.behind(ticket, new Date(5 * 60_000))).toBeUndefined()
    expect(store.behind(store.ticketFor(file, new Date(5 * 60_000)), new Date(5 * 60_000))).toBe(file)
  })

  test('is uploaded, sent by its id, asked for by its number, and deleted', async () => {
    const form = new FormData()
    form.set('messaging_product', 'whatsapp')
    form.set('type', 'image/jpeg')
    form.set('file', new File([bytes], 'antes.jpg', { type: 'image/jpeg' }))
    const { body } = await graph('POST', `${number.externalId}/media`, { body: form, type: null })
    const { id } = z.strictObject({ id: z.string().regex(/^\d+$/) }).parse(body)
    expect((await send({ ...addressed, type: 'image', image: { id } })).status).toBe(200)

    const other = await anotherNumber()
    expect(errorIn(await send({ ...addressed, type: 'image', image: { id } }, other)).code).toBe(131009)
    expect((await graph('GET', `${id}?phone_number_id=${number.externalId}`)).status).toBe(200)
    expect(errorIn(await graph('GET', `${id}?phone_number_id=${other.externalId}`))).toMatchObject({
      error_subcode: 33,
    })

    expect((await graph('DELETE', id)).body).toEqual({ success: true })
    expect(errorIn(await graph('GET', id))).toMatchObject({ code: 100, error_subcode: 33 })
  })

  test.each<[string, number, Record<string, string | File>]>([
    ['no product', 100, { file: new File(['x'], 'a.jpg', { type: 'image/jpeg' }) }],
    ['no file', 131008, { messaging_product: 'whatsapp' }],
    ['a type that WhatsApp does not take', 100, {
      messaging_product: 'whatsapp',
      file: new File(['x'], 'a.svg', { type: 'image/svg+xml' }),
    }],
    ['too large for an image', 100, {
      messaging_product: 'whatsapp',
      file: new File([new Uint8Array(5 * 1024 * 1024 + 1)], 'a.png', { type: 'image/png' }),
    }],
    ['unknown key', 100, {
      messaging_product: 'whatsapp',
      file: new File(['x'], 'a.jpg', { type: 'image/jpeg' }),
      caption: 'Oi',
    }],
  ])('an upload is refused: %s', async (_name, code, fields) => {
    const form = new FormData()
    for (const [name, value] of Object.entries(fields)) form.set(name, value)
    const answer = await graph('POST', `${number.externalId}/media`, { body: form, type: null })
    expect({ status: answer.status, code: errorIn(answer).code }).toEqual({ status: 400, code })
  })

  test('each of its calls can fail', async () => {
    const { id } = await meta.media(number, 'image/jpeg', { bytes })
    await meta.failing(number, { code: 131000 }, { operation: 'media' })
    expect((await graph('GET', id)).status).toBe(500)
    const { url } = described.parse((await graph('GET', id)).body)
    await meta.failing(number, 'break', { operation: 'download' })
    await expect(download(url, number.accessToken)).rejects.toThrow()
    expect((await download(url, number.accessToken)).status).toBe(200)
  })
})

test('a number describes itself, with the fields that are asked for', async () => {
  const plain = z.record(z.string(), z.unknown()).parse((await graph('GET', number.externalId)).body)
  expect(Object.keys(plain)).toEqual([
    'verified_name',
    'code_verification_status',
    'display_phone_number',
    'quality_rating',
    'platform_type',
    'throughput',
    'id',
  ])
  expect(plain.display_phone_number).toMatch(/^\+55 11 9\d{4}-\d{4}$/)
  const asked = await graph('GET', `${number.externalId}?fields=status,quality_rating`)
  expect(asked.body).toEqual({ status: 'CONNECTED', quality_rating: 'GREEN', id: number.externalId })
  const unknown = await graph('GET', `${number.externalId}?fields=secrets`)
  expect(errorIn(unknown)).toMatchObject({ code: 100, message: expect.stringContaining('nonexisting field (secrets)') })
})

// The control interface --------------------------------------------------------------------------------------------

describe('the control interface', () => {
  const control = async (method: string, path: string, body: string | undefined, key: string | null) => {
    const response = await fetch(`${backend.urls.graph}/_control${path}`, {
      method,
      headers: key === null ? {} : { apikey: key },
      ...(body === undefined ? {} : { body }),
    })
    const { error } = z.object({ error: z.object({ code: z.string(), message: z.string() }) })
      .parse(await response.json())
    return { status: response.status, ...error }
  }

  test('takes orders from whoever has the secret key', async () => {
    for (const key of [null, backend.keys.publishable, number.accessToken]) {
      expect(await control('GET', '/calls', undefined, key)).toMatchObject({ status: 401, code: 'not_authenticated' })
    }
  })

  test.each<[string, string, RegExp, unknown]>([
    ['no number', '/failures', /^phone_number_id: /, { times: 1, fail: 'break' }],
    ['a code that does not exist', '/failures', /^fail/, { phone_number_id: '1', times: 1, fail: { code: 42 } }],
    ['never', '/failures', /^times: /, { phone_number_id: '1', times: 0, fail: 'break' }],
    ['a misspelt key', '/statuses', /^dealy_ms: /, { phone_number_id: '1', statuses: [], dealy_ms: 5 }],
    ['a status that does not exist', '/statuses', /^statuses\.0/, { phone_number_id: '1', statuses: ['seen'] }],
    ['a file without content', '/media', /^bytes: /, { phone_number_id: '1', mime_type: 'image/png' }],
    ['a customer without number', '/inbound', /^from: /, {
      phone_number_id: '1',
      from: 'Ana',
      message: { type: 'text' },
    }],
    ['a message without type', '/inbound', /^message\.type: /, { phone_number_id: '1', from: WA_ID, message: {} }],
  ])('names the field that is wrong: %s', async (_name, path, message, body) => {
    expect(await control('POST', path, JSON.stringify(body), backend.keys.secret)).toMatchObject({
      status: 400,
      code: 'invalid_request',
      message: expect.stringMatching(message),
    })
  })

  test('says what is not there', async () => {
    const { secret } = backend.keys
    expect(await control('POST', '/failures', 'oops', secret)).toMatchObject({ status: 400, code: 'invalid_json' })
    expect(await control('POST', '/surprise', '{}', secret)).toMatchObject({ status: 404, code: 'not_found' })
    const inbound = JSON.stringify({
      phone_number_id: '1',
      from: WA_ID,
      message: { type: 'text', text: { body: 'Oi' } },
    })
    expect(await control('POST', '/inbound', inbound, secret)).toMatchObject({ status: 404, code: 'number_not_found' })
  })

  test("forgets one number's orders, calls, files and statuses to come, and no other's", async () => {
    const [one, other] = [await anotherNumber(), await anotherNumber()]
    for (const each of [one, other]) {
      await meta.statuses(each, ['sent'], { delay_ms: 300_000 })
      await sendText(each)
      await meta.failing(each, { code: 131016 })
    }
    const { id } = await meta.media(one, 'image/png', { size: 3 })
    await meta.forget(one)
    expect(await meta.calls(one)).toEqual([])
    expect(await meta.deliveries(one)).toEqual([])
    expect(errorIn(await graph('GET', id, { token: one.accessToken }))).toMatchObject({ error_subcode: 33 })
    expect((await sendText(one)).status).toBe(200)
    expect(await meta.sends(other)).toHaveLength(1)
    expect((await sendText(other)).status).toBe(500)
    await meta.forget(other)
  })

  test('remembers no token', async () => {
    await sendText()
    expect(JSON.stringify(await meta.calls(number))).not.toContain(number.accessToken)
  })
})

test('what the operator sets for the functions reaches them', () => {
  const names = ['BALCAO_META_GRAPH_URL', 'BALCAO_META_GRAPH_VERSION', 'BALCAO_CRON_SECRET', 'BALCAO_WORKER_BATCH']
  const env = Object.fromEntries(names.map((name) => [name, `value of ${name}`]))
  expect(stackOptions({ ...env, BALCAO_WORKER_BUDGET_MS: '', SECRET: 'no' }).functionsEnvironment).toEqual(env)
})
