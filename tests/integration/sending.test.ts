// A message on its way out, through every door that it passes: an attendant's app, the queue, a worker that wakes by
// itself, Meta (imitated, and strict) and the webhook that brings what became of it. What would take minutes is moved in
// the database.

import { randomBytes, randomUUID } from 'node:crypto'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { businessError, type OutboundPayload, type Tables } from '../../types/index.ts'
import {
  aConversation,
  aWaId,
  type Conversation,
  hurry,
  jobOf,
  messageNow,
  seen,
  whenIt,
  write,
} from '../support/conversations.ts'
import { metaOf, type Status } from '../support/graph.ts'
import { runningStack } from '../support/running-stack.ts'
import {
  asAdminOf,
  asAttendantOf,
  asNobody,
  asOwnerOf,
  asPlatform,
  asViewerOf,
  aTenant,
  type ConnectedNumber,
  connectNumber,
  manageInstance,
  memberOf,
  type Tenant,
  valueOf,
} from '../support/tenants.ts'

const backend = runningStack()
const meta = metaOf(backend)
const platform = asPlatform(backend)

/** Stands in everything that anybody writes here; the log of calls must not know it. */
const MARK = `mk${randomBytes(4).toString('hex')}`
const LINK = `https://arquivos.exemplo.com.br/${MARK}`

let sql: postgres.Sql
let clinic: Tenant
let neighbour: Tenant
/** For the tests that order nothing. */
let number: ConnectedNumber
const numbers: ConnectedNumber[] = []
const customers: string[] = []

beforeAll(async () => {
  sql = postgres(backend.urls.admin, { max: 1, onnotice: () => undefined })
  clinic = await aTenant(backend, 'Clínica que Responde', ['attendant', 'viewer', 'admin'])
  neighbour = await aTenant(backend, 'Clínica do Lado', ['attendant'])
  number = await aNumber()
})

afterAll(() => sql.end())

/** For a test that orders something of Meta, or counts what Meta was asked. */
async function aNumber(): Promise<ConnectedNumber> {
  const [first] = numbers
  const connected = await connectNumber(clinic, first === undefined ? {} : { sameAppAs: first })
  numbers.push(connected)
  return connected
}

async function aChat(through: ConnectedNumber = number, from = aWaId()): Promise<Conversation> {
  customers.push(from)
  return await aConversation(clinic, through, from)
}

async function ofItsOwn(): Promise<{ through: ConnectedNumber; chat: Conversation }> {
  const through = await aNumber()
  return { through, chat: await aChat(through) }
}

let said = 0
/** Words that were never said before. */
const words = (text = 'Temos horário às 15h.') => `${text} ${MARK} ${++said}`
const say = (chat: Conversation, text = words()) => write(clinic, chat, text)

const whenRead = (message: { id: string }) => whenIt('read', clinic, message)
const whenFailed = (message: { id: string }) => whenIt('failed', clinic, message)

async function instanceOf({ instanceId }: ConnectedNumber): Promise<Tables<'whatsapp_instances'>> {
  return valueOf(await platform.from('whatsapp_instances').select('*').eq('id', instanceId).single())
}

/** The calls for a message, as the log has them: the newest last. */
async function logged(message: { id: string }): Promise<Tables<'api_call_logs'>[]> {
  const { id } = await jobOf(clinic, message)
  return valueOf(await platform.from('api_call_logs').select('*').eq('job_id', id).order('created_at'))
}

async function sendsOf(through: ConnectedNumber, message: { id: string }) {
  return (await meta.sends(through)).filter(({ body }) => opaqueIn(body) === `outbox:${message.id}`)
}

function opaqueIn(body: unknown): string | undefined {
  return z.looseObject({ biz_opaque_callback_data: z.string() }).parse(body).biz_opaque_callback_data
}

/** The number sends nothing until `released`: what is written waits in the queue. */
async function paused({ instanceId }: ConnectedNumber): Promise<void> {
  await sql`update public.whatsapp_instances set sending_paused_until = now() + interval '1 hour' where id = ${instanceId}`
}

async function released({ instanceId }: ConnectedNumber): Promise<void> {
  await sql`update public.whatsapp_instances set sending_paused_until = null where id = ${instanceId}`
  await hurry(sql, clinic)
}

/** A message that is sent as if so many attempts had failed before. */
async function triedBefore(
  through: ConnectedNumber,
  chat: Conversation,
  attempts: number,
): Promise<Tables<'messages'>> {
  await paused(through)
  const message = await say(chat)
  await seen(() => jobOf(clinic, message), ({ last_error }) => last_error === 'number_is_paused')
  await sql`
    update public.message_queue set attempts = ${attempts}
    where organization_id = ${clinic.organizationId} and payload ->> 'message_id' = ${message.id}`
  await released(through)
  return message
}

const milliseconds = (text: string | null | undefined) => Date.parse(text ?? '')

/** So much later than Meta was asked and no later than we wrote its answer down. */
async function expectWait(until: string | null, seconds: number, through: ConnectedNumber, message: { id: string }) {
  const [call] = (await sendsOf(through, message)).slice(-1)
  const [log] = (await logged(message)).slice(-1)
  expect(milliseconds(until)).toBeGreaterThanOrEqual(milliseconds(call?.at) + seconds * 1000)
  expect(milliseconds(until)).toBeLessThanOrEqual(milliseconds(log?.created_at) + seconds * 1000 + 1)
}

// Once -----------------------------------------------------------------------------------------------------------------

describe('an app that sends with an id of its own', () => {
  test('twice, has sent once', async () => {
    const { through, chat } = await ofItsOwn()
    const order = { content: words(), client_message_id: randomUUID() }
    const first = await write(clinic, chat, order)
    const second = await write(clinic, chat, order)
    expect(second.id).toBe(first.id)
    await whenRead(first)
    // Also after the message has been read.
    expect(await write(clinic, chat, order)).toMatchObject({ id: first.id, status: 'read' })
    expect(await meta.sends(through)).toHaveLength(1)
  })

  test('twenty times at once, has sent once', async () => {
    const { through, chat } = await ofItsOwn()
    const order = { content: words(), client_message_id: randomUUID() }
    const answers = await Promise.all(Array.from({ length: 20 }, () => write(clinic, chat, order)))
    const [id = ''] = new Set(answers.map((answer) => answer.id))
    expect(answers.filter((answer) => answer.id !== id)).toEqual([])
    await whenRead({ id })
    expect(await meta.sends(through)).toHaveLength(1)
    const rows = valueOf(
      await platform.from('messages').select('id').eq('conversation_id', chat.id).eq('direction', 'outbound'),
    )
    expect(rows).toEqual([{ id }])
    expect((await jobOf(clinic, { id })).attempts).toBe(1)
  })

  test('in another conversation, is refused', async () => {
    const order = { content: words(), client_message_id: randomUUID() }
    const [chat, other] = [await aChat(), await aChat()]
    await whenRead(await write(clinic, chat, order))
    const { error } = await asAttendantOf(clinic).rpc('send_message', { conversation_id: other.id, ...order })
    expect(businessError(error)?.name).toBe('client_message_id_taken')
  })
})

// Everything that can be sent ------------------------------------------------------------------------------------------

interface Sendable {
  message_type: Tables<'messages'>['message_type']
  content?: string
  payload?: OutboundPayload
  /** As Meta documents it. */
  asked: unknown
}

const templateParts = [
  { type: 'header', parameters: [{ type: 'image', image: { link: LINK } }] },
  { type: 'body', parameters: [{ type: 'text', text: `Ana ${MARK}` }, { type: 'text', text: '15h' }] },
  { type: 'button', sub_type: 'quick_reply', index: '0', parameters: [{ type: 'payload', payload: `sim-${MARK}` }] },
]
const card = {
  name: { formatted_name: `Dra. Bia ${MARK}`, first_name: 'Bia' },
  phones: [{ phone: '+55 11 98765-0000', type: 'WORK' }],
}

const sendables: Record<string, Sendable> = {
  'a text': { message_type: 'text', content: `Olá! ${MARK}`, asked: { body: `Olá! ${MARK}` } },
  'a text with the picture of its link': {
    message_type: 'text',
    content: LINK,
    payload: { preview_url: true },
    asked: { body: LINK, preview_url: true },
  },
  'accents, emoji, quotes and line ends': {
    message_type: 'text',
    content: `Ação às 15h? 👩🏽‍⚕️🇧🇷 “não” 'é' "só" <b>\\n</b>\n\n\t${MARK} ¿ñ?  {{1}}`,
    asked: { body: `Ação às 15h? 👩🏽‍⚕️🇧🇷 “não” 'é' "só" <b>\\n</b>\n\n\t${MARK} ¿ñ?  {{1}}` },
  },
  '4096 characters': {
    message_type: 'text',
    content: MARK + 'ã'.repeat(4096 - MARK.length),
    asked: { body: MARK + 'ã'.repeat(4096 - MARK.length) },
  },
  'reply buttons': {
    message_type: 'interactive',
    content: `Confirma a consulta? ${MARK}`,
    payload: {
      type: 'button',
      header: `Consulta ${MARK}`,
      footer: `Clínica ${MARK}`,
      buttons: [{ id: `sim-${MARK}`, title: `Sim ${MARK}` }, { id: 'nao', title: 'Não' }, {
        id: 'outro',
        title: 'Outro dia',
      }],
    },
    asked: {
      type: 'button',
      header: { type: 'text', text: `Consulta ${MARK}` },
      body: { text: `Confirma a consulta? ${MARK}` },
      footer: { text: `Clínica ${MARK}` },
      action: {
        buttons: [
          { type: 'reply', reply: { id: `sim-${MARK}`, title: `Sim ${MARK}` } },
          { type: 'reply', reply: { id: 'nao', title: 'Não' } },
          { type: 'reply', reply: { id: 'outro', title: 'Outro dia' } },
        ],
      },
    },
  },
  'a list': {
    message_type: 'interactive',
    content: `Qual horário? ${MARK}`,
    payload: {
      type: 'list',
      button: 'Ver horários',
      sections: [
        { title: `Manhã ${MARK}`, rows: [{ id: 'm9', title: '9h', description: `Dra. Bia ${MARK}` }] },
        { title: 'Tarde', rows: [{ id: 't14', title: '14h' }, { id: 't15', title: '15h' }] },
      ],
    },
    asked: {
      type: 'list',
      body: { text: `Qual horário? ${MARK}` },
      action: {
        button: 'Ver horários',
        sections: [
          { title: `Manhã ${MARK}`, rows: [{ id: 'm9', title: '9h', description: `Dra. Bia ${MARK}` }] },
          { title: 'Tarde', rows: [{ id: 't14', title: '14h' }, { id: 't15', title: '15h' }] },
        ],
      },
    },
  },
  'a template': {
    message_type: 'template',
    payload: { name: 'lembrete_consulta', language: 'pt_BR', components: templateParts },
    asked: { name: 'lembrete_consulta', language: { code: 'pt_BR' }, components: templateParts },
  },
  'a picture': {
    message_type: 'image',
    content: `Antes e depois ${MARK}`,
    payload: { link: LINK },
    asked: { link: LINK, caption: `Antes e depois ${MARK}` },
  },
  'a voice note': { message_type: 'audio', payload: { link: LINK }, asked: { link: LINK } },
  'a video': { message_type: 'video', payload: { link: LINK }, asked: { link: LINK } },
  'a document': {
    message_type: 'document',
    content: `Segue o orçamento ${MARK}`,
    payload: { link: LINK, filename: `orçamento ${MARK}.pdf` },
    asked: { link: LINK, filename: `orçamento ${MARK}.pdf`, caption: `Segue o orçamento ${MARK}` },
  },
  'a sticker': { message_type: 'sticker', payload: { link: LINK }, asked: { link: LINK } },
  'a place': {
    message_type: 'location',
    payload: { latitude: -19.9245, longitude: -43.9352, name: `Clínica ${MARK}`, address: `Rua ${MARK}, 10` },
    asked: { latitude: -19.9245, longitude: -43.9352, name: `Clínica ${MARK}`, address: `Rua ${MARK}, 10` },
  },
  'contact cards': { message_type: 'contacts', payload: { contacts: [card] }, asked: [card] },
  'a reaction': {
    message_type: 'reaction',
    payload: { message_id: `wamid.${MARK}`, emoji: '❤️' },
    asked: { message_id: `wamid.${MARK}`, emoji: '❤️' },
  },
}

describe('Meta gets in its documented format, and the customer reads,', () => {
  let through: ConnectedNumber
  let chat: Conversation

  beforeAll(async () => {
    ;({ through, chat } = await ofItsOwn())
    // Reactions too, of which WhatsApp tells less.
    await meta.statuses(through, ['sent', 'delivered', 'read'])
  })

  test.each(Object.entries(sendables))('%s', async (_name, { asked, ...order }) => {
    const message = await write(clinic, chat, { ...order, client_message_id: randomUUID() })
    expect(message).toMatchObject({ status: 'queued', direction: 'outbound', sender: 'human' })
    const read = await whenRead(message)
    const [call, ...more] = await sendsOf(through, message)
    expect(more).toEqual([])
    expect(call).toMatchObject({ status: 200, code: null, message_id: read.whatsapp_message_id })
    expect(call?.body).toEqual({
      messaging_product: 'whatsapp',
      recipient_type: 'individual',
      to: `+${chat.waId}`,
      type: order.message_type,
      [order.message_type]: asked,
      biz_opaque_callback_data: `outbox:${message.id}`,
    })
    expect(read).toMatchObject({ content: order.content ?? null, payload: order.payload ?? null, error_code: null })
  })

  test('an answer to a message of the customer', async () => {
    const { id: question } = await meta.inbound(through, {
      from: chat.waId,
      message: { type: 'text', text: { body: 'E no domingo?' } },
    })
    const message = await write(clinic, chat, { content: words(), reply_to_whatsapp_message_id: question })
    await whenRead(message)
    expect((await sendsOf(through, message))[0]?.body).toMatchObject({ context: { message_id: question } })
  })

  test('what is written to somebody who hides his phone number', async () => {
    const bsuid = `BR.${randomUUID().replaceAll('-', '')}`
    const hidden = await aChat(through, bsuid)
    const message = await say(hidden)
    await whenRead(message)
    const [call] = await sendsOf(through, message)
    expect(call?.body).toMatchObject({ recipient: bsuid })
    expect(call?.body).not.toHaveProperty('to')
  })
})

describe('what cannot be sent is refused at once', () => {
  test.each<
    [string, { message_type: Tables<'messages'>['message_type']; content?: string; payload?: OutboundPayload }]
  >([
    ['a blank text', { message_type: 'text', content: ' \n ' }],
    ['4097 characters', { message_type: 'text', content: 'x'.repeat(4097) }],
    ['a link without TLS', { message_type: 'image', payload: { link: 'http://exemplo.com.br/a.png' } }],
    ['two buttons with one id', {
      message_type: 'interactive',
      content: 'Confirma?',
      payload: { type: 'button', buttons: [{ id: 'a', title: 'Sim' }, { id: 'a', title: 'Não' }] },
    }],
    ['a type that nobody can send', { message_type: 'unsupported', content: 'x' }],
  ])('%s', async (_name, order) => {
    const chat = await aChat()
    const { error } = await asAttendantOf(clinic).rpc('send_message', { conversation_id: chat.id, ...order })
    expect(businessError(error)?.name).toBe('invalid_message')
  })

  test('anything in a closed conversation', async () => {
    const chat = await aChat()
    await sql`update public.conversations set status = 'closed', closed_at = now() where id = ${chat.id}`
    const { error } = await asAttendantOf(clinic).rpc('send_message', { conversation_id: chat.id, content: words() })
    expect(businessError(error)?.name).toBe('conversation_closed')
  })
})

// What becomes of it ---------------------------------------------------------------------------------------------------

const RANKS = ['queued', 'sent', 'failed', 'delivered', 'read', 'played']
const tellings = z.array(z.object({
  id: z.string(),
  status: z.enum(['sent', 'delivered', 'read', 'played', 'failed']),
  timestamp: z.string(),
}))

describe('the timeline is right', () => {
  test.each<[string, Status[], Parameters<typeof meta.statuses>[2]]>([
    ['as usual', ['sent', 'delivered', 'read'], {}],
    ['each told twice', ['sent', 'delivered', 'read'], { duplicate: true }],
    ['in any order', ['sent', 'delivered', 'read', 'played'], { shuffle: true }],
    ['in any order, each twice', ['sent', 'delivered', 'read'], { shuffle: true, duplicate: true }],
    ['backwards', ['read', 'delivered', 'sent'], {}],
    ['all at once', ['sent', 'delivered', 'read'], { delay_ms: 0, duplicate: true }],
    ['read, and never delivered', ['sent', 'read'], {}],
    ['read, and nothing else', ['read'], {}],
    ['before the answer', ['sent', 'delivered', 'read'], { before_answer: true }],
    ['before the answer, in any order, each twice', ['sent', 'delivered', 'read'], {
      before_answer: true,
      shuffle: true,
      duplicate: true,
    }],
    ['a voice note that is played', ['sent', 'delivered', 'read', 'played'], {}],
    ['it fails on its way', ['sent', { status: 'failed', code: 131026 }], {}],
    ['it fails on its way, told first', [{ status: 'failed', code: 131026 }, 'sent'], {}],
    ['it fails before the answer', [{ status: 'failed', code: 131049 }], { before_answer: true }],
  ])('%s', async (_name, statuses, options) => {
    const { through, chat } = await ofItsOwn()
    await meta.statuses(through, statuses, options)
    const message = await say(chat)
    // Everything that is to be told has been heard.
    const told = await seen(
      async () => (await meta.deliveries(through)).filter(({ value }) => value.statuses !== undefined),
      (list) =>
        list.length === statuses.length * (options?.duplicate ? 2 : 1) && list.every(({ status }) => status === 200),
    )
    const heard = told.flatMap(({ value }) => tellings.parse(value.statuses))
    const [call, ...more] = await meta.sends(through)
    expect(more).toEqual([])
    await seen(() => jobOf(clinic, message), ({ status }) => status === 'completed')

    const at = (status: string) => {
      const times = heard.filter((item) => item.status === status).map(({ timestamp }) => Number(timestamp) * 1000)
      return times.length === 0 ? null : Math.min(...times)
    }
    const { whatsapp_message_id, status, sent_at, delivered_at, read_at, played_at, failed_at } = await messageNow(
      clinic,
      message,
    )
    const time = (text: string | null) => text === null ? null : Date.parse(text)
    expect({
      whatsapp_message_id,
      status,
      times: [sent_at, delivered_at, read_at, played_at, failed_at].map(time),
    }).toEqual({
      whatsapp_message_id: call?.message_id,
      status: RANKS.findLast((rank) => heard.some((item) => item.status === rank)),
      times: ['sent', 'delivered', 'read', 'played', 'failed'].map(at),
    })
    const rows = valueOf(
      await platform.from('messages').select('id').eq('conversation_id', chat.id).eq('direction', 'outbound'),
    )
    expect(rows).toEqual([{ id: message.id }])
  })

  test('a failure on the way says why', async () => {
    const { through, chat } = await ofItsOwn()
    await meta.statuses(through, ['sent', { status: 'failed', code: 131026 }])
    expect(await whenFailed(await say(chat))).toMatchObject({
      error_code: '131026',
      error_message: 'Message Undeliverable.',
    })
  })
})

// One conversation is in order -----------------------------------------------------------------------------------------

describe('messages of one conversation', () => {
  test('go out in order while Meta holds up another one', async () => {
    const { through, chat: blocked } = await ofItsOwn()
    const open = await aChat(through)
    await meta.failing(through, { code: 131056 }, { times: 1_000_000, to: blocked.waId })
    const held = [await say(blocked), await say(blocked), await say(blocked)]
    const [head = { id: '' }, ...behind] = held
    await seen(() => sendsOf(through, head), (calls) => calls.length > 0)

    const free = [await say(open), await say(open), await say(open)]
    for (const message of free) await whenRead(message)
    const idsOf = (calls: { body: unknown }[]) => calls.map(({ body }) => opaqueIn(body)?.slice('outbox:'.length))
    const accepted = (await meta.sends(through)).filter(({ status }) => status === 200)
    expect(idsOf(accepted)).toEqual(free.map(({ id }) => id))
    // Who is behind one that waits has not been tried, and the number is not paused for the others.
    for (const message of behind) {
      expect(await jobOf(clinic, message)).toMatchObject({ status: 'waiting', attempts: 0 })
      expect(await sendsOf(through, message)).toEqual([])
    }
    expect((await instanceOf(through)).sending_paused_until).toBeNull()

    await meta.forget(through)
    for (const message of held) {
      await seen(async () => {
        await hurry(sql, clinic)
        return await messageNow(clinic, message)
      }, ({ status }) => status === 'read')
    }
    expect(idsOf(await meta.sends(through))).toEqual(held.map(({ id }) => id))
  })

  test('go out in the order in which they were written, however fast', async () => {
    const { through, chat } = await ofItsOwn()
    const other = await aChat(through)
    const messages = []
    for (let n = 0; n < 12; n++) messages.push(await say(n % 3 === 0 ? other : chat))
    for (const message of messages) await whenRead(message)
    const order = (await meta.sends(through)).map(({ body }) => opaqueIn(body)?.slice('outbox:'.length))
    for (const { id } of [chat, other]) {
      const own = messages.filter(({ conversation_id }) => conversation_id === id).map((message) => message.id)
      expect(order.filter((sent) => own.includes(sent ?? ''))).toEqual(own)
    }
  })
})

// What Meta answers, and what becomes of message, job and number -------------------------------------------------------

const FOR_GOOD = [
  ...[33, 100, 130472, 130497, 131008, 131009, 131021, 131026, 131030, 131047, 131049, 131050, 131051, 131062],
  ...[132000, 132001, 132005, 132007, 132012, 132015, 132016],
]
const TEMPORARY = [1, 2, 131000, 131016, 131057, 133004]
const STOPPED = [0, 190, 3, 10, 200, 299, 131005, 131042, 131045, 133010]
const BANNED = [368, 131031]

describe('an error for good fails the message, and nothing else', () => {
  test.each(FOR_GOOD)('%d', async (code) => {
    const { through, chat } = await ofItsOwn()
    await meta.failing(through, { code, details: `Porque sim (${code}).` })
    const [refused, next] = [await say(chat), await say(chat)]
    expect(await whenFailed(refused)).toMatchObject({
      error_code: String(code),
      error_message: `Porque sim (${code}).`,
      whatsapp_message_id: null,
      sent_at: null,
    })
    await whenRead(next)
    expect(await sendsOf(through, refused)).toHaveLength(1)
    expect(await jobOf(clinic, refused)).toMatchObject({ status: 'completed', attempts: 1 })
    expect(await instanceOf(through)).toMatchObject({
      status: 'connected',
      sending_stopped_at: null,
      sending_paused_until: null,
    })
    expect(await logged(refused)).toMatchObject([{ success: false, response_data: { error: { code } } }])
  })
})

describe('a temporary error is tried again, ever later', () => {
  test.each(TEMPORARY)('%d', async (code) => {
    const { through, chat } = await ofItsOwn()
    await meta.failing(through, { code })
    const message = await triedBefore(through, chat, 3)
    const job = await seen(() => jobOf(clinic, message), ({ status }) => status === 'failed')
    expect(job).toMatchObject({ attempts: 4, last_error: expect.stringMatching(new RegExp(`^${code}: `)) })
    const [log] = await logged(message)
    const wait = (milliseconds(job.run_at) - milliseconds(log?.created_at)) / 1000
    // 5 s, doubled three times, a fifth more or less.
    expect(wait).toBeGreaterThanOrEqual(32)
    expect(wait).toBeLessThanOrEqual(48)
    expect(await messageNow(clinic, message)).toMatchObject({ status: 'queued', error_code: null })

    await hurry(sql, clinic)
    await whenRead(message)
    expect(await sendsOf(through, message)).toMatchObject([{ code }, { code: null, status: 200 }])
    expect(await instanceOf(through)).toMatchObject({ sending_stopped_at: null, sending_paused_until: null })
  })

  test('a Retry-After is kept', async () => {
    const { through, chat } = await ofItsOwn()
    await meta.failing(through, { code: 131016, retry_after: 900 })
    const message = await say(chat)
    const job = await seen(() => jobOf(clinic, message), ({ status }) => status === 'failed')
    await expectWait(job.run_at, 900, through, message)
  })

  test('the eighth time is the last: the message fails, and the next one goes', async () => {
    const { through, chat } = await ofItsOwn()
    await meta.failing(through, { code: 131000 })
    const message = await triedBefore(through, chat, 7)
    expect(await whenFailed(message)).toMatchObject({
      error_code: 'attempts_exhausted',
      error_message: expect.stringMatching(/^131000: /),
    })
    expect(await jobOf(clinic, message)).toMatchObject({ status: 'dead', attempts: 8 })
    await whenRead(await say(chat))

    const again = valueOf(await asAttendantOf(clinic).rpc('retry_message', { message_id: message.id }))
    expect(await whenRead(again)).toMatchObject({ content: message.content })
  })
})

describe('trouble with a file is tried once more', () => {
  test.each([131052, 131053])('%d', async (code) => {
    const { through, chat } = await ofItsOwn()
    await meta.failing(through, { code })
    const image = { message_type: 'image' as const, payload: { link: LINK } }
    const message = await write(clinic, chat, image)
    await seen(async () => {
      await hurry(sql, clinic)
      return await messageNow(clinic, message)
    }, ({ status }) => status === 'read')
    expect(await sendsOf(through, message)).toMatchObject([{ code }, { code: null }])

    await meta.failing(through, { code }, { times: 2 })
    const hopeless = await write(clinic, chat, image)
    const failed = await seen(async () => {
      await hurry(sql, clinic)
      return await messageNow(clinic, hopeless)
    }, ({ status }) => status === 'failed')
    expect(failed.error_code).toBe(String(code))
    expect(await sendsOf(through, hopeless)).toMatchObject([{ code }, { code }])
    expect(await jobOf(clinic, hopeless)).toMatchObject({ status: 'completed' })
  })
})

describe('too many messages', () => {
  test.each([[130429, 5], [4, 300], [80007, 300]])(
    '%d holds the whole number for %d seconds',
    async (code, seconds) => {
      const { through, chat } = await ofItsOwn()
      await meta.failing(through, { code })
      const message = await say(chat)
      await seen(() => logged(message), (list) => list.length === 1)
      await expectWait((await instanceOf(through)).sending_paused_until, seconds, through, message)
      await released(through)
      await whenRead(message)
      // The first was not counted: it was not the message's fault.
      expect(await jobOf(clinic, message)).toMatchObject({ attempts: 1 })
      expect(await sendsOf(through, message)).toMatchObject([{ code }, { code: null }])
    },
  )

  test('what a paused number has to send waits; another number sends', async () => {
    const { through, chat } = await ofItsOwn()
    const other = await aChat(through)
    await meta.failing(through, { code: 130429, http_status: 429, retry_after: 600 })
    const throttled = await say(chat)
    const job = await seen(
      () => jobOf(clinic, throttled),
      ({ last_error }) => last_error?.startsWith('130429') ?? false,
    )
    expect(job).toMatchObject({ status: 'pending', attempts: 0 })
    await expectWait((await instanceOf(through)).sending_paused_until, 600, through, throttled)

    const behind = await say(other)
    await seen(() => jobOf(clinic, behind), ({ last_error }) => last_error === 'number_is_paused')
    await whenRead(await say(await aChat()))
    expect(await meta.sends(through)).toHaveLength(1)
    expect(await messageNow(clinic, behind)).toMatchObject({ status: 'queued' })
    await released(through)
    await whenRead(throttled)
    await whenRead(behind)
  })

  test.each([[2, 16], [4, 256]])(
    'to one person: after %d tries again in %d seconds, and others meanwhile',
    async (tries, seconds) => {
      const { through, chat } = await ofItsOwn()
      await meta.failing(through, { code: 131056 })
      const message = await triedBefore(through, chat, tries)
      const job = await seen(() => jobOf(clinic, message), ({ status }) => status === 'failed')
      expect(job.attempts).toBe(tries + 1)
      await expectWait(job.run_at, seconds, through, message)
      expect((await instanceOf(through)).sending_paused_until).toBeNull()
      await whenRead(await say(await aChat(through)))
      await hurry(sql, clinic)
      await whenRead(message)
    },
  )

  test('of the kind that people report: words fail at once, a template waits an hour, alone', async () => {
    const { through, chat } = await ofItsOwn()
    await meta.failing(through, { code: 131048 })
    expect(await whenFailed(await say(chat))).toMatchObject({ error_code: '131048' })
    expect((await instanceOf(through)).sending_paused_until).toBeNull()

    await meta.failing(through, { code: 131048 })
    const template = { message_type: 'template' as const, payload: { name: 'promocao', language: 'pt_BR' } }
    const message = await write(clinic, chat, template)
    const job = await seen(() => jobOf(clinic, message), ({ status }) => status === 'failed')
    await expectWait(job.run_at, 3600, through, message)
    expect((await instanceOf(through)).sending_paused_until).toBeNull()
    await whenRead(await say(await aChat(through)))
    await hurry(sql, clinic)
    await whenRead(message)
  })
})

describe('an error that only people can mend stops the number', () => {
  test.each([...STOPPED.map((code) => [code, 'connected']), ...BANNED.map((code) => [code, 'banned'])])(
    '%d: %s',
    async (code, status) => {
      const { through, chat } = await ofItsOwn()
      await meta.failing(through, { code: Number(code) })
      const failed = await whenFailed(await say(chat))
      expect(failed.error_code).toBe(String(code))
      expect(await instanceOf(through)).toMatchObject({
        status,
        sending_stopped_code: String(code),
        sending_stopped_at: expect.any(String),
        sending_stopped_reason: failed.error_message,
      })
    },
  )

  test('what waits fails with it, new messages are refused, and a new token starts it again', async () => {
    const { through, chat } = await ofItsOwn()
    const other = await aChat(through)
    await paused(through)
    const [first, second] = [await say(chat), await say(other)]
    for (const message of [first, second]) {
      await seen(() => jobOf(clinic, message), ({ last_error }) => last_error === 'number_is_paused')
    }
    await sql`update public.whatsapp_instances set sending_paused_until = null where id = ${through.instanceId}`
    await meta.failing(through, { code: 190, details: 'O token expirou.' })
    await sql`
      update public.message_queue set run_at = now(), is_due = true
      where organization_id = ${clinic.organizationId} and payload ->> 'message_id' = ${first.id}`
    await sql`select pg_notify('balcao_wake', '')`
    await whenFailed(first)
    await hurry(sql, clinic)
    expect(await whenFailed(second)).toMatchObject({ error_code: '190', error_message: 'O token expirou.' })
    expect(await sendsOf(through, second)).toEqual([])

    const { error } = await asAttendantOf(clinic).rpc('send_message', { conversation_id: chat.id, content: words() })
    expect(businessError(error)).toMatchObject({
      name: 'sending_stopped',
      detail: { code: '190', reason: 'O token expirou.' },
    })
    const again = await asAttendantOf(clinic).rpc('retry_message', { message_id: first.id })
    expect(businessError(again.error)?.name).toBe('sending_stopped')
    expect(await meta.sends(through)).toHaveLength(1)

    const { status, body } = await manageInstance(backend, 'PATCH', memberOf(clinic, 'admin').accessToken, {
      organization_id: clinic.organizationId,
      instance_id: through.instanceId,
      access_token: `novo-${through.accessToken}`,
    })
    expect({ status, body }).toMatchObject({ status: 200, body: { connection: { ok: true } } })
    expect(await instanceOf(through)).toMatchObject({
      status: 'connected',
      sending_stopped_at: null,
      sending_stopped_code: null,
    })
    await whenRead(await say(chat))
  })

  test('a blocked account stays blocked until a new token', async () => {
    const { through, chat } = await ofItsOwn()
    await meta.failing(through, { code: 368 })
    await whenFailed(await say(chat))
    // Customers write on: that does not make it whole.
    await aConversation(clinic, through, chat.waId)
    expect((await instanceOf(through)).status).toBe('banned')
    const { status } = await manageInstance(backend, 'PATCH', memberOf(clinic, 'admin').accessToken, {
      organization_id: clinic.organizationId,
      instance_id: through.instanceId,
      access_token: `novo-${through.accessToken}`,
    })
    expect(status).toBe(200)
    await whenRead(await say(chat))
    expect((await instanceOf(through)).status).toBe('connected')
  })
})

// No answer ------------------------------------------------------------------------------------------------------------

describe('when nobody knows whether Meta sent it', () => {
  /** As if the call had been so long ago; and, if told, as if a webhook of the number had come right after it. */
  async function later(message: { id: string }, called: string, webhooks: 'silent' | 'went on'): Promise<void> {
    await sql`update private.unanswered_sends set called_at = now() - ${called}::interval where message_id = ${message.id}`
    if (webhooks === 'went on') {
      await sql`
        insert into public.webhook_events (organization_id, instance_id, provider, event_type, payload, created_at)
        select m.organization_id, m.instance_id, 'meta_cloud', 'messages', '{}', now() - ${called}::interval + interval '1 minute'
        from public.messages m
        where m.id = ${message.id}`
    }
    await hurry(sql, clinic)
  }

  const whenWaiting = async (message: { id: string }) => {
    await seen(() => jobOf(clinic, message), ({ last_error }) => last_error?.startsWith('unknown') ?? false)
    await hurry(sql, clinic)
    await seen(() => jobOf(clinic, message), ({ last_error }) => last_error === 'waits_for_a_status')
  }

  test('its status says so, and it is not sent again', async () => {
    const { through, chat } = await ofItsOwn()
    await meta.failing(through, 'accept_then_break')
    const [message, next] = [await say(chat), await say(chat)]
    await whenRead(message)
    await hurry(sql, clinic)
    await whenRead(next)
    const [call, ...more] = await sendsOf(through, message)
    expect(more).toEqual([])
    expect((await messageNow(clinic, message)).whatsapp_message_id).toBe(call?.message_id)
    expect(await logged(message)).toMatchObject([{ success: false, status_code: null }])
  })

  test.each(['html_502', 'break'] as const)(
    '%s: it is sent again only when the webhooks went on without it',
    async (fail) => {
      const { through, chat } = await ofItsOwn()
      await meta.failing(through, fail)
      const message = await say(chat)
      await whenWaiting(message)
      // Long ago, but the number's webhooks were silent then.
      await later(message, '20 minutes', 'silent')
      await seen(() => jobOf(clinic, message), ({ is_due, status }) => status === 'pending' && !is_due)
      expect(await sendsOf(through, message)).toHaveLength(1)
      await later(message, '20 minutes', 'went on')
      await whenRead(message)
      expect(await sendsOf(through, message)).toHaveLength(2)
    },
  )

  test('and nothing is heard for an hour, it fails as unconfirmed', async () => {
    const { through, chat } = await ofItsOwn()
    await meta.failing(through, 'break')
    const message = await say(chat)
    await whenWaiting(message)
    await later(message, '61 minutes', 'silent')
    expect(await whenFailed(message)).toMatchObject({ error_code: 'unconfirmed' })
    expect(await sendsOf(through, message)).toHaveLength(1)
    await whenRead(await say(chat))
  })
})

// The 24 hours ---------------------------------------------------------------------------------------------------------

describe('a day after the customer wrote', () => {
  test('words fail, a template goes; when she writes again the words can be sent again', async () => {
    const { through, chat } = await ofItsOwn()
    await sql`update public.conversations set last_inbound_at = now() - interval '24 hours 1 second' where id = ${chat.id}`
    const late = await say(chat)
    expect(await whenFailed(late)).toMatchObject({ error_code: '131047' })
    expect(await meta.sends(through)).toEqual([])
    await whenRead(
      await write(clinic, chat, { message_type: 'template', payload: { name: 'voltamos', language: 'pt_BR' } }),
    )

    await aConversation(clinic, through, chat.waId)
    const [again, twice] = await Promise.all(
      [1, 2].map(async () => valueOf(await asAttendantOf(clinic).rpc('retry_message', { message_id: late.id }))),
    )
    expect(again?.id).toBe(twice?.id)
    expect(again?.id).not.toBe(late.id)
    expect(await whenRead({ id: again?.id ?? '' })).toMatchObject({ content: late.content })
    expect(await messageNow(clinic, late)).toMatchObject({ status: 'failed' })
    expect(await meta.sends(through)).toHaveLength(2)

    const { error } = await asAttendantOf(clinic).rpc('retry_message', { message_id: again?.id ?? '' })
    expect(businessError(error)?.name).toBe('message_not_failed')
  })
})

// Who she is -----------------------------------------------------------------------------------------------------------

describe('the customer of an answer', () => {
  test("is known by the id of Meta's answer from then on", async () => {
    // From Minas Gerais on WhatsApp leaves the ninth digit out.
    const local = `8${aWaId().slice(-7)}`
    const [written, known] = [`55319${local}`, `5531${local}`]
    const through = await aNumber()
    const chat = await aChat(through, written)
    customers.push(known)
    const idsOf = async () => {
      const rows = valueOf(await platform.from('contact_identities').select('value').eq('contact_id', chat.contactId))
      return rows.map(({ value }) => value).sort()
    }
    expect(await idsOf()).toEqual([written])
    const message = await say(chat)
    await seen(() => jobOf(clinic, message), ({ status }) => status === 'completed')
    expect(await idsOf()).toEqual([known, written].sort())

    // She changes her number in the meantime, as far as anybody knows: only the id tells that it is she.
    await sql`update public.contacts set phone_number = null where id = ${chat.contactId}`
    const answer = await aConversation(clinic, through, known)
    expect(answer).toMatchObject({ id: chat.id, contactId: chat.contactId })
    await whenRead(await say(chat))
  })
})

// Two tenants ----------------------------------------------------------------------------------------------------------

describe('another tenant', () => {
  let through: ConnectedNumber
  let chat: Conversation
  let message: Tables<'messages'>

  beforeAll(async () => {
    ;({ through, chat } = await ofItsOwn())
    message = await say(chat)
    await whenRead(message)
  })

  test('writes in no conversation that is not theirs', async () => {
    for (const client of [asAttendantOf(neighbour), asOwnerOf(neighbour)]) {
      const own = await client.rpc('send_message', { conversation_id: chat.id, content: words() })
      expect(businessError(own.error)?.name).toBe('conversation_not_found')
      const theirs = await client.rpc('send_message', {
        conversation_id: chat.id,
        organization_id: clinic.organizationId,
        content: words(),
      })
      expect(businessError(theirs.error)?.name).toBe('not_allowed')
      const again = await client.rpc('retry_message', { message_id: message.id })
      expect(businessError(again.error)?.name).toBe('message_not_found')
    }
    expect(await meta.sends(through)).toHaveLength(1)
    const rows = valueOf(
      await platform.from('messages').select('id').eq('conversation_id', chat.id).eq('direction', 'outbound'),
    )
    expect(rows).toEqual([{ id: message.id }])
  })

  test('reads neither messages nor jobs nor calls', async () => {
    for (const table of ['messages', 'message_queue', 'api_call_logs'] as const) {
      const theirs = asOwnerOf(neighbour).from(table).select('id').eq('organization_id', clinic.organizationId)
      expect({ table, rows: valueOf(await theirs) }).toEqual({ table, rows: [] })
      const own = asAdminOf(clinic).from(table).select('id').eq('organization_id', clinic.organizationId).limit(1)
      expect({ table, rows: valueOf(await own).length }).toEqual({ table, rows: 1 })
    }
  })

  test('gets no file of theirs sent', async () => {
    const own = await connectNumber(neighbour)
    const mine = await aConversation(neighbour, own)
    const file = `${clinic.organizationId}/2026/11/laudo.pdf`
    for (
      const path of [
        `media/${file}`,
        `media/${neighbour.organizationId}/../${file}`,
        `media/${neighbour.organizationId}/%2e%2e/${file}`,
        `media/${neighbour.organizationId}\\..\\${file}`,
        `media//${file}`,
      ]
    ) {
      const order = { conversation_id: mine.id, message_type: 'document' as const, payload: { path } }
      const { error } = await asAttendantOf(neighbour).rpc('send_message', order)
      expect({ path, error: businessError(error)?.name }).toEqual({ path, error: 'invalid_message' })
    }
    expect(await meta.sends(own)).toEqual([])
  })

  test('and a viewer and a stranger write nothing at all', async () => {
    const order = { conversation_id: chat.id, content: words() }
    expect(businessError((await asViewerOf(clinic).rpc('send_message', order)).error)?.name).toBe('not_allowed')
    const { error, status } = await asNobody(backend).rpc('send_message', {
      ...order,
      organization_id: clinic.organizationId,
    })
    expect({ code: error?.code, status }).toEqual({ code: '42501', status: 401 })
  })
})

// The log of calls -----------------------------------------------------------------------------------------------------

describe('the log of calls', () => {
  test('has each call, with its job', async () => {
    const { through, chat } = await ofItsOwn()
    const messages = [await say(chat), await say(chat), await say(chat)]
    for (const message of messages) await whenRead(message)
    for (const message of messages) {
      expect(await logged(message)).toMatchObject([{
        organization_id: clinic.organizationId,
        service: 'meta_graph',
        method: 'POST',
        endpoint: `/v24.0/${through.externalId}/messages`,
        status_code: 200,
        success: true,
        request_data: { type: 'text', biz_opaque_callback_data: `outbox:${message.id}` },
      }])
    }
  })

  test('has as many as Meta counted', async () => {
    const [{ count } = { count: 0 }] = await sql<{ count: number }[]>`
      select count(*)::int as count from public.api_call_logs
      where organization_id = ${clinic.organizationId} and endpoint like '%/messages'`
    const asked = await Promise.all(numbers.map((through) => meta.sends(through)))
    expect(asked.flat().length).toBeGreaterThan(100)
    // One test had Meta forget what it was asked.
    expect(count).toBeGreaterThanOrEqual(asked.flat().length)
  })

  test('knows no word, no token, no number and no id in which a number stands', async () => {
    const rows = await sql<{ text: string }[]>`select l::text as text from public.api_call_logs l`
    const text = rows.map((row) => row.text).join('\n')
    expect(text.length).toBeGreaterThan(10_000)
    const sends = (await Promise.all(numbers.map((through) => meta.sends(through)))).flat()
    const secrets = [
      MARK,
      ...numbers.flatMap(({ accessToken, appSecret, verifyToken }) => [accessToken, appSecret, verifyToken]),
      ...customers.map((waId) => waId.slice(2)),
      ...sends.flatMap(({ message_id }) => message_id === null ? [] : [message_id]),
    ]
    expect(secrets.length).toBeGreaterThan(200)
    expect(secrets.filter((secret) => text.includes(secret))).toEqual([])
  })
})
