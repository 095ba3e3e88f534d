// Every sample payload of Meta, three times each, in random order, from eight senders at once: through the gateway, the
// function and Postgres. What must come out is computed here from the samples alone.

import { randomInt } from 'node:crypto'
import { beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { type TenantClient, tenantClient } from '../../types/index.ts'
import {
  asMetaWritesIt,
  aTextMessage,
  bySenders,
  type Delivered,
  metaWebhook,
  sampleBytes,
  sampleNames,
  shuffled,
  signatureOf,
} from '../support/meta.ts'
import { runningStack } from '../support/running-stack.ts'
import { asOwnerOf, asPlatform, aTenant, connectNumber, type ConnectedNumber, type Tenant, valueOf } from '../support/tenants.ts'

const SENDERS = 8
const TIMES = 3
/** Is sent to a number that nobody registered, on purpose. */
const UNKNOWN_NUMBER = '999999999999999'
/** The status of a message of ours that carries our own id. */
const OUR_MESSAGE_ID = '0193f2b4-7c1e-7d60-9b1f-1f2e3d4c5b6a'
/** The order of the deliveries; the names of the tests tell it, and the environment repeats it. */
const seed = Number(process.env.BALCAO_TEST_SEED ?? randomInt(2 ** 31))
const RANKS = ['queued', 'sent', 'failed', 'delivered', 'read', 'played'] as const

// What the samples say, read as loosely as the test needs it --------------------------------------------------------------

const delivery = z.object({
  entry: z.array(z.object({
    changes: z.array(z.object({
      field: z.string(),
      value: z.object({
        metadata: z.object({ phone_number_id: z.string() }).optional(),
        messages: z.array(z.looseObject({
          id: z.string(),
          type: z.string(),
          from: z.string().optional(),
          from_user_id: z.string().optional(),
        })).default([]),
        message_echoes: z.array(z.object({ id: z.string(), to: z.string() })).default([]),
        statuses: z.array(z.object({
          id: z.string(),
          status: z.enum(['sent', 'delivered', 'read', 'played', 'failed']),
          recipient_id: z.string(),
          biz_opaque_callback_data: z.string().optional(),
        })).default([]),
      }),
    })),
  })),
})

interface Said {
  number: string
  id: string
  customer: string
}

interface Expectation {
  /** Of customers; notices of WhatsApp itself are apart. */
  inbound: Said[]
  notices: string[]
  echoes: Said[]
  /** Highest status by message id; none of these messages is brought by a sample. */
  statuses: Map<string, { number: string; status: (typeof RANKS)[number]; recipient: string; ours: boolean }>
}

/** One name for a Brazilian mobile number with and without its ninth digit. */
function customerNamed(waId: string): string {
  return /^55\d{10}$/.test(waId) ? `+${waId.slice(0, 4)}9${waId.slice(4)}` : `+${waId}`
}

function expectationOf(payloads: Buffer[]): Expectation {
  const inbound = new Map<string, Said>()
  const echoes = new Map<string, Said>()
  const notices = new Set<string>()
  const statuses: Expectation['statuses'] = new Map()
  for (const payload of payloads) {
    for (const { value } of delivery.parse(JSON.parse(payload.toString())).entry.flatMap(({ changes }) => changes)) {
      const number = value.metadata?.phone_number_id
      if (number === undefined || number === UNKNOWN_NUMBER) continue
      for (const { id, type, from, from_user_id } of value.messages) {
        if (type === 'revoke') continue
        if (type === 'system') notices.add(id)
        else inbound.set(id, { number, id, customer: from ? customerNamed(from) : String(from_user_id) })
      }
      for (const { id, to } of value.message_echoes) echoes.set(id, { number, id, customer: customerNamed(to) })
      for (const { id, status, recipient_id, biz_opaque_callback_data } of value.statuses) {
        const before = statuses.get(id)?.status ?? 'queued'
        statuses.set(id, {
          number,
          status: RANKS.indexOf(status) > RANKS.indexOf(before) ? status : before,
          recipient: customerNamed(recipient_id),
          ours: biz_opaque_callback_data?.includes(OUR_MESSAGE_ID) ?? false,
        })
      }
    }
  }
  return { inbound: [...inbound.values()], echoes: [...echoes.values()], notices: [...notices], statuses }
}

const samples = sampleNames.map(sampleBytes)
// The same person on the same number, this time with the ninth digit.
const withNinthDigit = Buffer.from(JSON.stringify(aTextMessage({
  to: '118765432109876',
  from: '5531987650003',
  id: 'wamid.with-ninth-digit',
  text: 'Sou eu de novo, a Ana.',
})))
const expected = expectationOf([...samples, withNinthDigit])
const numbers = [...new Set([...expected.inbound, ...expected.echoes].map(({ number }) => number))]

test('the samples say what the other tests need', () => {
  expect(samples.length).toBeGreaterThanOrEqual(46)
  expect(numbers.sort()).toEqual(['109876543210987', '118765432109876'])
  expect(expected.inbound.length).toBeGreaterThan(25)
  expect([...new Set([...expected.statuses.values()].map(({ status }) => status))].sort())
    .toEqual(['delivered', 'failed', 'played', 'read', 'sent'])
  expect([...expected.statuses.values()].filter(({ ours }) => ours)).toHaveLength(1)
})

// The storm ---------------------------------------------------------------------------------------------------------------

describe.each([
  {
    bytes: 'the bytes of the files',
    written: (sample: Buffer) => sample,
    outbound: 'half of our own messages stored before their statuses',
    isStoredBefore: (index: number) => index % 2 === 0,
  },
  {
    bytes: 'bytes as Meta writes them',
    written: asMetaWritesIt,
    outbound: 'none of our own messages stored before its statuses',
    isStoredBefore: () => false,
  },
])(`$bytes, $outbound (BALCAO_TEST_SEED=${seed})`, ({ written, isStoredBefore }) => {
  const backend = runningStack()
  const platform = asPlatform(backend)
  const bodies = [...samples, withNinthDigit].map(written)
  const ownMessages = [...expected.statuses].map(([id, status], index) => ({ id, ...status, index }))

  let clinic: Tenant
  /** The clinic's rows, as the platform sees them. */
  let rows: TenantClient
  let connected: Map<string, ConnectedNumber>
  let answers: Delivered[]

  beforeAll(async () => {
    clinic = await aTenant(backend, 'Clínica São José')
    rows = tenantClient(platform, clinic.organizationId)
    connected = new Map()
    let first: ConnectedNumber | undefined
    for (const externalId of numbers) {
      const number = await connectNumber(clinic, { externalId, ...(first ? { sameAppAs: first } : {}) })
      first ??= number
      connected.set(externalId, number)
    }
    for (const message of ownMessages) if (isStoredBefore(message.index)) await store(message)

    const posts = shuffled(Array.from({ length: TIMES }, () => bodies).flat(), seed)
    answers = await bySenders(SENDERS, posts, (body) => post(body))
    for (const message of ownMessages) if (!isStoredBefore(message.index)) await store(message)
  })

  const anyNumber = (): ConnectedNumber => {
    for (const number of connected.values()) return number
    throw new Error('No number is connected.')
  }
  const post = (body: Buffer) =>
    metaWebhook(body).signedWith(anyNumber().appSecret).postedTo(anyNumber().webhookUrl)

  /** A message of ours, as sending will store it: in the customer's open conversation. */
  async function store({ id, number, recipient, ours }: (typeof ownMessages)[number]): Promise<void> {
    const organization_id = clinic.organizationId
    const instance_id = connected.get(number)?.instanceId ?? ''
    const contact = { organization_id, phone_number: recipient }
    const { id: contact_id } = valueOf(
      await platform.from('contacts').upsert(contact, { onConflict: 'organization_id,phone_number' }).select('id').single(),
    )
    const open = { organization_id, instance_id, contact_id }
    const existing = await platform.from('conversations').select('id').match(open).eq('is_open', true).maybeSingle()
    const { id: conversation_id } = existing.data ?? valueOf(
      await platform.from('conversations').insert({ ...open, whatsapp_chat_id: recipient.slice(1) }).select('id').single(),
    )
    const message = { ...open, conversation_id, direction: 'outbound', sender: 'bot', status: 'queued' } as const
    // The answer to our send was lost: only the status will tell WhatsApp's id.
    const named = ours && isStoredBefore(0) ? { id: OUR_MESSAGE_ID } : { whatsapp_message_id: id }
    valueOf(await platform.from('messages').insert({ ...message, ...named }).select('id').single())
  }

  test('every delivery is answered with 200', () => {
    expect(answers).toHaveLength(bodies.length * TIMES)
    expect(answers.filter(({ status }) => status !== 200)).toEqual([])
  })

  test('each message is stored once', async () => {
    const messages = valueOf(
      await rows.from('messages').select('whatsapp_message_id, sender'),
    )
    const idsOf = (sender: string) =>
      messages.filter((message) => message.sender === sender).map((message) => message.whatsapp_message_id).sort()
    expect(idsOf('contact')).toEqual(expected.inbound.map(({ id }) => id).sort())
    expect(idsOf('human')).toEqual(expected.echoes.map(({ id }) => id).sort())
    expect(idsOf('bot')).toEqual([...expected.statuses.keys()].sort())
    const counted = answers.reduce((total, { body }) => total + (body.messages ?? 0), 0)
    expect(counted).toBe(messages.length - expected.statuses.size)
  })

  test('each status is at its highest rank', async () => {
    const messages = valueOf(
      await rows.from('messages').select('whatsapp_message_id, status').eq('sender', 'bot'),
    )
    expect(Object.fromEntries(messages.map((message) => [message.whatsapp_message_id, message.status])))
      .toEqual(Object.fromEntries([...expected.statuses].map(([id, { status }]) => [id, status])))
  })

  test('a customer is one contact, with and without the ninth digit, and has one open conversation', async () => {
    const [contacts, conversations, identities] = [
      valueOf(await rows.from('contacts').select('*')),
      valueOf(await rows.from('conversations').select('*')),
      valueOf(await rows.from('contact_identities').select('*')),
    ]
    const nameOf = (contactId: string) => {
      const phone = contacts.find(({ id }) => id === contactId)?.phone_number
      const bsuid = identities.find(({ contact_id, kind }) => contact_id === contactId && kind === 'bsuid')?.value
      // Carol has told her number meanwhile; her messages name only her BSUID.
      return expected.inbound.some(({ customer }) => customer === bsuid) ? bsuid : phone
    }
    const chats = [
      ...expected.inbound,
      ...expected.echoes,
      ...ownMessages.map(({ number, recipient }) => ({ number, customer: recipient })),
    ].map(({ number, customer }) => `${connected.get(number)?.instanceId} ${customer}`)

    expect(contacts.map(({ id }) => nameOf(id)).sort())
      .toEqual([...new Set(chats.map((chat) => chat.split(' ')[1]))].sort())
    expect(conversations.map(({ instance_id, contact_id }) => `${instance_id} ${nameOf(contact_id)}`).sort())
      .toEqual([...new Set(chats)].sort())
    expect(conversations.filter(({ is_open }) => !is_open)).toEqual([])

    const ana = contacts.find(({ phone_number }) => phone_number === '+5531987650003')
    const anasIds = identities.filter(({ contact_id }) => contact_id === ana?.id).map(({ value }) => value)
    // An id counts for the number that it wrote to, or was written to from: she knows two.
    expect([...new Set(anasIds)].sort())
      .toEqual(['553187650003', '5531987650003'])
  })

  test('ids without any phone work: the contact gets the number when it is told', async () => {
    const { contacts: carol, ...identity } = valueOf(
      await rows.from('contact_identities').select('value, contacts(phone_number, profile_name)')
        .eq('value', 'BR.8841205577310094').single(),
    )
    expect(identity).toEqual({ value: 'BR.8841205577310094' })
    expect(carol).toEqual({ phone_number: '+5511987650011', profile_name: 'Carol ✨' })
  })

  test('conversations count what is unread, and a message reads as it was written', async () => {
    const [conversations, messages] = [valueOf(await rows.from('conversations').select('*')), valueOf(await rows.from('messages').select('*'))]
    for (const { id, unread_count } of conversations) {
      const unread = messages.filter(({ conversation_id, sender, message_type }) =>
        conversation_id === id && sender === 'contact' && message_type !== 'reaction'
      )
      expect(unread_count).toBe(unread.length)
    }
    const contents = messages.map(({ content }) => content)
    expect(contents).toContain('Olá! Gostaria de marcar uma limpeza de pele para sexta às 15h. Vocês têm horário? 😊')
    expect(contents).toContain(`<b>oi</b> "teste" \\ 'aspas' ; -- {{1}} https://exemplo.com.br/?a=1&b=2`)
  })

  test('a deletion, a change of id and an opt-out have reached what they are about', async () => {
    // Of a customer whom nobody knows yet a change of id says nothing: now everybody is known.
    const [answer] = await Promise.all(
      bodies.filter((body) => expected.notices.some((id) => body.includes(id))).map((body) => post(body)),
    )
    expect(answer?.status).toBe(200)
    const messages = valueOf(await rows.from('messages').select('*'))
    expect(messages.filter(({ sender }) => sender === 'system').map((message) => message.whatsapp_message_id))
      .toEqual(expected.notices)
    expect(messages.filter(({ revoked_at }) => revoked_at !== null).map(({ content }) => content))
      .toEqual(['Olá! Gostaria de marcar uma limpeza de pele para sexta às 15h. Vocês têm horário? 😊'])

    const [contacts, identities] = [valueOf(await rows.from('contacts').select('*')), valueOf(await rows.from('contact_identities').select('*'))]
    expect(contacts.filter(({ opted_out_at }) => opted_out_at !== null).map(({ phone_number }) => phone_number))
      .toEqual(['+5511987650001'])
    const leonardo = contacts.find(({ phone_number }) => phone_number === '+5585987650005')
    const bsuids = identities.filter(({ contact_id, kind }) => contact_id === leonardo?.id && kind === 'bsuid')
    expect(bsuids.map(({ value }) => value)).toContain('BR.7710031188420956')
  })

  test('every delivery is kept raw; what nobody registered has no organization', async () => {
    const signatures = new Set(bodies.map((body) => signatureOf(body, anyNumber().appSecret)))
    const unknown = bodies.findIndex((body) => body.includes(UNKNOWN_NUMBER))
    const unknownSignature = signatureOf(bodies[unknown] ?? Buffer.of(), anyNumber().appSecret)

    const own = valueOf(
      await rows.from('webhook_events').select('signature, payload, processing_error'),
    )
    expect(own.filter(({ processing_error }) => processing_error !== null)).toEqual([])
    // One more for the notice that the test above sent again.
    expect(own).toHaveLength((bodies.length - 1) * TIMES + expected.notices.length)
    expect(new Set([...own.map(({ signature }) => signature), unknownSignature])).toEqual(signatures)
    const kept = own.find(({ signature }) => signature === signatureOf(bodies[0] ?? Buffer.of(), anyNumber().appSecret))
    expect(kept?.payload).toEqual(JSON.parse(bodies[0]?.toString() ?? ''))

    const unrouted = valueOf(
      await platform.from('webhook_events').select('organization_id, instance_id, external_id, processing_error')
        .eq('signature', unknownSignature),
    )
    expect(unrouted).toEqual(Array.from({ length: TIMES }, () => ({
      organization_id: null,
      instance_id: null,
      external_id: UNKNOWN_NUMBER,
      processing_error: 'number_not_registered',
    })))
    expect(answers.reduce((total, { body }) => total + (body.unrouted ?? 0), 0)).toBe(TIMES)
    expect(valueOf(await asOwnerOf(clinic).from('webhook_events').select('external_id').eq('external_id', UNKNOWN_NUMBER)))
      .toEqual([])
  })

  test('what we do not understand is kept and counted', async () => {
    const holograms = valueOf(
      await rows.from('messages').select('message_type, metadata').eq('metadata->>original_type', 'holograma'),
    )
    expect(holograms).toHaveLength(1)
    expect(holograms[0]?.message_type).toBe('unsupported')
    expect(answers.reduce((total, { body }) => total + (body.unknown ?? 0), 0)).toBe(TIMES)
  })
})
