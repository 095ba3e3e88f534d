// A file on its way in, from WhatsApp to the screen of an attendant, and on its way out; and who cannot see it.

import { createHash, randomBytes, randomUUID } from 'node:crypto'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import type { Json, MessageMedia, Tables } from '../../types/index.ts'
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
import { type Call, type Failure, metaOf, type Operation } from '../support/graph.ts'
import { runningStack } from '../support/running-stack.ts'
import {
  asAdminOf,
  asAttendantOf,
  asNobody,
  asOwnerOf,
  asPlatform,
  asViewerOf,
  aTenant,
  type Client,
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
const MEGABYTE = 1024 * 1024

let sql: postgres.Sql
let clinic: Tenant
let neighbour: Tenant
let number: ConnectedNumber

beforeAll(async () => {
  sql = postgres(backend.urls.admin, { max: 1, onnotice: () => undefined })
  clinic = await aTenant(backend, 'Clínica das Fotos', ['attendant', 'viewer', 'admin'])
  neighbour = await aTenant(backend, 'Clínica Curiosa', ['attendant'])
  number = await connectNumber(clinic)
})

afterAll(() => sql.end())

type Kind = 'image' | 'audio' | 'video' | 'document' | 'sticker'
type Message = Tables<'messages'>

const of = (client: Client) => client.storage.from('media')
/** As Storage names it, which is without the bucket. */
const pathOf = ({ media_url }: Pick<Message, 'media_url'>) => (media_url ?? '').replace(/^media\//, '')

/** A customer sends a file that WhatsApp holds; what is said of it may be a lie. */
async function send(
  kind: Kind,
  mimeType: string,
  content: { bytes: Buffer } | { size: number },
  said: { [field: string]: Json } = {},
  through = number,
): Promise<Message> {
  const { id, sha256 } = await meta.media(through, mimeType, content)
  return await sendAs(kind, { id, mime_type: mimeType, sha256, ...said }, through)
}

async function sendAs(kind: Kind, file: { [field: string]: Json }, through = number): Promise<Message> {
  const { id: whatsapp_message_id } = await meta.inbound(through, {
    from: aWaId(),
    message: { type: kind, [kind]: file },
  })
  return valueOf(await asAttendantOf(clinic).from('messages').select('*').match({ whatsapp_message_id }).single())
}

const whenStored = (message: Message) => seen(() => messageNow(clinic, message), ({ media_url }) => media_url !== null)
const whenGivenUp = (message: Message) =>
  seen(() => messageNow(clinic, message), ({ media }) => media?.error !== undefined)

async function bytesOf(client: Client, path: string): Promise<Buffer> {
  return Buffer.from(await valueOf(await of(client).download(path)).arrayBuffer())
}

/** Everything that lies in Storage for a message. */
async function filesOf({ id }: Message): Promise<string[]> {
  const rows = await sql<{ name: string }[]>`select name from storage.objects where name like ${`%${id}%`}`
  return rows.map(({ name }) => name)
}

async function fetchesOf(through: ConnectedNumber): Promise<Call[]> {
  return (await meta.calls(through)).filter(({ operation }) => operation === 'media' || operation === 'download')
}

/** A number of its own, for a test that orders or counts. */
const aNumber = () => connectNumber(clinic, { sameAppAs: number })

// Coming in ------------------------------------------------------------------------------------------------------------

describe('what a customer sends is there, byte for byte:', () => {
  test.each<[string, Kind, string, number, { stored: string; extension: string; said?: { [field: string]: Json } }]>([
    ['a photo', 'image', 'image/jpeg', 300_000, {
      stored: 'image/jpeg',
      extension: 'jpg',
      said: { caption: 'É este ✂️' },
    }],
    ['a voice note', 'audio', 'audio/ogg; codecs=opus', 80_000, {
      stored: 'audio/ogg',
      extension: 'ogg',
      said: { voice: true },
    }],
    ['a PDF', 'document', 'application/pdf', 2 * MEGABYTE, {
      stored: 'application/pdf',
      extension: 'pdf',
      said: { filename: 'exame João.pdf' },
    }],
    ['a video', 'video', 'video/mp4', 9 * MEGABYTE, { stored: 'video/mp4', extension: 'mp4' }],
    ['a sticker', 'sticker', 'image/webp', 40_000, {
      stored: 'image/webp',
      extension: 'webp',
      said: { animated: true },
    }],
    ['an empty document', 'document', 'text/plain', 0, { stored: 'text/plain', extension: 'txt' }],
  ])('%s', async (_name, kind, mimeType, size, { stored, extension, said = {} }) => {
    const bytes = randomBytes(size)
    const message = await whenStored(await send(kind, mimeType, { bytes }, said))
    const at = new Date(message.created_at).toISOString()
    const path = `${clinic.organizationId}/${at.slice(0, 4)}/${at.slice(5, 7)}/${message.id}.${extension}`
    expect(message).toMatchObject({ message_type: kind, media_url: `media/${path}` })
    expect(message.media).toMatchObject({
      stored_mime_type: stored,
      size,
      sha256: createHash('sha256').update(bytes).digest('base64'),
    })
    for (const client of [asAttendantOf(clinic), asViewerOf(clinic)]) {
      const { signedUrl } = valueOf(await of(client).createSignedUrl(path, 60))
      const response = await fetch(signedUrl)
      expect({ status: response.status, type: response.headers.get('content-type') }).toEqual({
        status: 200,
        type: stored,
      })
      expect(Buffer.from(await response.arrayBuffer()).equals(bytes)).toBe(true)
    }
    expect(await filesOf(message)).toEqual([path])
  })

  test('an album of ten, in one conversation', async () => {
    const from = aWaId()
    const photos = Array.from({ length: 10 }, () => randomBytes(20_000))
    const conversations = await Promise.all(photos.map(async (bytes) => {
      const { id, sha256 } = await meta.media(number, 'image/jpeg', { bytes })
      return await aConversation(clinic, number, from, {
        type: 'image',
        image: { id, sha256, mime_type: 'image/jpeg' },
      })
    }))
    const [{ id } = { id: '' }] = conversations
    expect(new Set(conversations.map((conversation) => conversation.id))).toEqual(new Set([id]))
    const messages = await seen(
      async () => valueOf(await asAttendantOf(clinic).from('messages').select('*').eq('conversation_id', id)),
      (rows) => rows.length === 10 && rows.every(({ media_url }) => media_url !== null),
    )
    const read = await Promise.all(
      messages.map(async (message) => await bytesOf(asAttendantOf(clinic), pathOf(message))),
    )
    expect(read.map((bytes) => bytes.toString('hex')).sort()).toEqual(
      photos.map((bytes) => bytes.toString('hex')).sort(),
    )
  })

  test('once, though it is told of nine times', async () => {
    const through = await aNumber()
    const { id, sha256 } = await meta.media(through, 'image/jpeg', { bytes: randomBytes(50_000) })
    const photo = {
      from: aWaId(),
      message: { id: `wamid.${randomUUID()}`, type: 'image', image: { id, sha256, mime_type: 'image/jpeg' } },
    }
    for (let round = 0; round < 3; round++) {
      await Promise.all(Array.from({ length: 3 }, () => meta.inbound(through, photo)))
    }
    const rows = valueOf(
      await asAttendantOf(clinic).from('messages').select('*').eq('whatsapp_message_id', photo.message.id),
    )
    expect(rows).toHaveLength(1)
    for (const message of rows) {
      await whenStored(message)
      expect(await jobOf(clinic, message)).toMatchObject({ status: 'completed', attempts: 1 })
      expect(await filesOf(message)).toHaveLength(1)
    }
    expect((await fetchesOf(through)).map(({ operation, status }) => [operation, status]))
      .toEqual([['media', 200], ['download', 200]])
  })
})

describe('who sees it', () => {
  const bytes = randomBytes(10_000)
  let path: string

  beforeAll(async () => {
    path = pathOf(await whenStored(await send('image', 'image/png', { bytes })))
  })

  test.each<[string, () => Client]>([
    ['the owner of another clinic', () => asOwnerOf(neighbour)],
    ['its attendant', () => asAttendantOf(neighbour)],
    ['and nobody', () => asNobody(backend)],
  ])('not %s', async (_name, client) => {
    const folder = path.split('/').slice(0, -1).join('/')
    expect((await of(client()).createSignedUrl(path, 60)).data).toBeNull()
    expect((await of(client()).createSignedUrls([path], 60)).data?.filter(({ signedUrl }) => signedUrl) ?? []).toEqual(
      [],
    )
    expect((await of(client()).download(path)).data).toBeNull()
    expect((await of(client()).info(path)).data).toBeNull()
    for (const where of ['', clinic.organizationId, folder]) {
      const entries = (await of(client()).list(where)).data ?? []
      expect(entries.filter(({ name }) => path.includes(name))).toEqual([])
    }
    const response = await fetch(`${backend.urls.api}/storage/v1/object/public/media/${path}`)
    expect(response.status).toBeGreaterThanOrEqual(400)
    await response.body?.cancel()
  })

  test('its own attendants, who change nothing of it', async () => {
    const own = of(asAttendantOf(clinic))
    const entries = valueOf(await own.list(path.split('/').slice(0, -1).join('/')))
    expect(entries.map(({ name }) => name)).toContain(path.split('/').at(-1))
    expect((await own.upload(path, randomBytes(10), { upsert: true })).error).not.toBeNull()
    expect((await own.update(path, randomBytes(10))).error).not.toBeNull()
    expect((await own.move(path, `${clinic.organizationId}/outgoing/${randomUUID()}.png`)).error).not.toBeNull()
    expect((await own.remove([path])).data ?? []).toEqual([])
    expect((await bytesOf(asAttendantOf(clinic), path)).equals(bytes)).toBe(true)
  })

  test('a signed address is for one file', async () => {
    const other = pathOf(await whenStored(await send('image', 'image/png', { bytes: randomBytes(1000) })))
    const { signedUrl } = valueOf(await of(asAttendantOf(clinic)).createSignedUrl(path, 60))
    const moved = await fetch(signedUrl.replace(path, other))
    expect(moved.status).toBe(400)
    await moved.body?.cancel()
  })
})

// What does not come ---------------------------------------------------------------------------------------------------

describe('a file that cannot be had says why', () => {
  async function expectRefused(message: Message, error: string, media: Partial<MessageMedia> = {}): Promise<void> {
    const refused = await whenGivenUp(message)
    expect(refused).toMatchObject({ media_url: null, media: { error, error_detail: expect.any(String), ...media } })
    expect(await jobOf(clinic, message)).toMatchObject({ status: 'completed', attempts: 1 })
    expect(await filesOf(message)).toEqual([])
  }

  test.each<[string, Failure, Operation]>([
    ['by its id', { code: 100, details: 'The media has expired.' }, 'media'],
    ['at its address', { code: 100, http_status: 404 }, 'download'],
  ])('WhatsApp has forgotten it: %s', async (_name, failure, operation) => {
    const through = await aNumber()
    await meta.failing(through, failure, { operation })
    await expectRefused(await send('document', 'application/pdf', { bytes: randomBytes(100) }, {}, through), 'gone')
  })

  test.each<[Kind, string, number]>([
    ['image', 'image/jpeg', 5 * MEGABYTE],
    ['audio', 'audio/mpeg', 16 * MEGABYTE],
    ['video', 'video/mp4', 16 * MEGABYTE],
    ['sticker', 'image/webp', 500 * 1024],
    ['document', 'application/pdf', 100 * MEGABYTE],
  ])('too large: %s', async (kind, mimeType, limit) => {
    const through = await aNumber()
    await expectRefused(await send(kind, mimeType, { size: limit + 1 }, {}, through), 'too_large')
    expect((await fetchesOf(through)).map(({ operation }) => operation)).toEqual(['media'])
  })

  test('the largest that there may be comes', async () => {
    const message = await whenStored(await send('image', 'image/jpeg', { size: 5 * MEGABYTE }))
    expect(message.media).toMatchObject({ size: 5 * MEGABYTE })
  })

  test('it is another than was announced', async () => {
    const sha256 = createHash('sha256').update('outro').digest('base64')
    await expectRefused(
      await send('document', 'application/pdf', { bytes: randomBytes(5000) }, { sha256 }),
      'hash_mismatch',
    )
  })

  test('its number was disconnected before', async () => {
    const through = await aNumber()
    await meta.failing(through, { code: 131016 }, { operation: 'media' })
    const message = await send('image', 'image/jpeg', { bytes: randomBytes(1000) }, {}, through)
    await seen(() => jobOf(clinic, message), ({ status }) => status === 'failed')
    const { status } = await manageInstance(backend, 'DELETE', memberOf(clinic, 'admin').accessToken, {
      organization_id: clinic.organizationId,
      instance_id: through.instanceId,
    })
    expect(status).toBe(200)
    await hurry(sql, clinic)
    expect((await whenGivenUp(message)).media?.error).toBe('instance_disconnected')
  })
})

describe('what a browser would run', () => {
  test.each<[Kind, string, string]>([
    ['document', 'text/html', '<script>alert(document.cookie)</script>'],
    ['document', 'image/svg+xml', '<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'],
    ['image', 'text/html; charset=utf-8', '<script>alert(1)</script>'],
    ['document', 'application/x-msdownload', 'MZ'],
  ])('comes as a heap of bytes: %s %s', async (kind, mimeType, content) => {
    const bytes = Buffer.from(content)
    const message = await whenStored(
      await send(kind, mimeType, { bytes }, kind === 'document' ? { filename: 'a.html' } : {}),
    )
    expect(message.media_url).toMatch(/\.bin$/)
    expect(message.media).toMatchObject({ stored_mime_type: 'application/octet-stream' })
    const { signedUrl } = valueOf(await of(asAttendantOf(clinic)).createSignedUrl(pathOf(message), 60))
    const response = await fetch(signedUrl)
    expect(response.headers.get('content-type')).toBe('application/octet-stream')
    expect(await response.text()).toBe(content)
  })
})

describe('a file that cannot be had now comes later', () => {
  test('whatever Meta says meanwhile', async () => {
    const through = await aNumber()
    await meta.failing(through, { code: 131016 }, { operation: 'media' })
    await meta.failing(through, 'html_502', { operation: 'media' })
    await meta.failing(through, 'break', { operation: 'media' })
    await meta.failing(through, { code: 131000 }, { operation: 'download' })
    await meta.failing(through, 'break', { operation: 'download' })
    const bytes = randomBytes(70_000)
    const message = await send('image', 'image/jpeg', { bytes }, {}, through)
    const stored = await seen(async () => {
      await hurry(sql, clinic)
      return await messageNow(clinic, message)
    }, ({ media_url }) => media_url !== null)
    expect((await bytesOf(asAttendantOf(clinic), pathOf(stored))).equals(bytes)).toBe(true)
    const refused = (await fetchesOf(through)).filter(({ status }) => status !== 200)
    expect(refused.map(({ operation, status }) => [operation, status])).toEqual([
      ['media', 500],
      ['media', 502],
      ['media', null],
      ['download', 500],
      ['download', null],
    ])
    expect(await filesOf(message)).toHaveLength(1)
  })

  test('also one that Meta does not know, or does not let us see: it does not say which', async () => {
    const message = await sendAs('document', { mime_type: 'application/pdf', id: '100200300400500' })
    const job = await seen(() => jobOf(clinic, message), ({ status }) => status === 'failed')
    expect(job.last_error).toContain('missing permissions')
    expect((await messageNow(clinic, message)).media).not.toHaveProperty('error')

    await sql`update public.message_queue set created_at = now() - interval '6 days' where id = ${job.id}`
    await hurry(sql, clinic)
    expect((await whenGivenUp(message)).media?.error).toBe('attempts_exhausted')
  })

  test('a limit on calls is no attempt', async () => {
    const through = await aNumber()
    await meta.failing(through, { code: 80007, retry_after: 900 }, { operation: 'media' })
    const message = await send('image', 'image/jpeg', { bytes: randomBytes(1000) }, {}, through)
    const job = await seen(() => jobOf(clinic, message), ({ last_error }) => last_error !== null)
    expect(job).toMatchObject({ status: 'pending', attempts: 0 })
    const [call] = await fetchesOf(through)
    expect(Date.parse(job.run_at)).toBeGreaterThanOrEqual(Date.parse(call?.at ?? '') + 900_000)
    await hurry(sql, clinic)
    await whenStored(message)
  })

  test('a new token brings what the old one could not', async () => {
    const through = await aNumber()
    await meta.failing(through, { code: 190 }, { operation: 'media' })
    const bytes = randomBytes(1000)
    const message = await send('document', 'application/pdf', { bytes }, {}, through)
    const job = await seen(() => jobOf(clinic, message), ({ status }) => status === 'failed')
    expect(job.last_error).toContain('190')
    const { status } = await manageInstance(backend, 'PATCH', memberOf(clinic, 'admin').accessToken, {
      organization_id: clinic.organizationId,
      instance_id: through.instanceId,
      access_token: `novo-${through.accessToken}`,
    })
    expect(status).toBe(200)
    const stored = await whenStored(message)
    expect((await bytesOf(asAttendantOf(clinic), pathOf(stored))).equals(bytes)).toBe(true)
  })

  test('after six days nobody asks any more, until an administrator says so', async () => {
    const through = await aNumber()
    await meta.failing(through, { code: 80007, retry_after: 900 }, { operation: 'media' })
    await meta.failing(through, { code: 131000 }, { operation: 'media' })
    const bytes = randomBytes(1000)
    const message = await send('document', 'application/pdf', { bytes }, {}, through)
    const job = await seen(() => jobOf(clinic, message), ({ last_error }) => last_error !== null)
    await sql`update public.message_queue set created_at = now() - interval '6 days' where id = ${job.id}`
    await hurry(sql, clinic)
    expect((await whenGivenUp(message)).media).toMatchObject({
      error: 'attempts_exhausted',
      error_detail: expect.stringContaining('131000'),
    })
    valueOf(await asAdminOf(clinic).rpc('redrive_job', { id: job.id }))
    const stored = await whenStored(message)
    expect(stored.media).not.toHaveProperty('error')
    expect(stored.media).not.toHaveProperty('error_detail')
    expect((await bytesOf(asAttendantOf(clinic), pathOf(stored))).equals(bytes)).toBe(true)
  })
})

// Going out ------------------------------------------------------------------------------------------------------------

describe('an attendant sends a file', () => {
  const linked = z.looseObject({ link: z.url(), caption: z.string().optional(), filename: z.string().optional() })
  let through: ConnectedNumber
  let chat: Conversation

  beforeAll(async () => {
    through = await aNumber()
    chat = await aConversation(clinic, through)
  })

  /** The call that sent a message. */
  async function callFor({ id }: Message): Promise<Call | undefined> {
    return (await meta.sends(through)).find(({ body }) => JSON.stringify(body).includes(id))
  }

  test.each<[Kind, string, string, string]>([
    ['image', 'image/png', 'antes & depois (1).png', 'Antes e depois'],
    ['document', 'application/pdf', 'orçamento.pdf', 'Segue o orçamento'],
    ['audio', 'audio/ogg', 'recado.ogg', ''],
    ['video', 'video/mp4', 'tour.mp4', 'Nossa clínica'],
  ])('%s: put into Storage, and Meta fetches it', async (message_type, contentType, filename, content) => {
    const bytes = randomBytes(120_000)
    const path = `${clinic.organizationId}/outgoing/${randomUUID()}/${filename.normalize('NFD').replace(/[^ -~]/g, '')}`
    valueOf(await of(asAttendantOf(clinic)).upload(path, bytes, { contentType }))
    const message = await write(clinic, chat, {
      message_type,
      payload: { path: `media/${path}`, ...(message_type === 'document' ? { filename } : {}) },
      ...(content === '' ? {} : { content }),
    })
    // Meta's imitation reads the link itself, and tells a failure when it cannot.
    await whenIt('read', clinic, message)
    const call = await callFor(message)
    const { [message_type]: file, ...body } = z.record(z.string(), z.unknown()).parse(call?.body)
    expect(body).toMatchObject({ type: message_type, to: `+${chat.waId}` })
    const { link, ...said } = linked.parse(file)
    expect(said).toEqual({
      ...(content === '' ? {} : { caption: content }),
      ...(message_type === 'document' ? { filename } : {}),
    })
    const fetched = await fetch(link)
    expect({ status: fetched.status, type: fetched.headers.get('content-type') }).toEqual({
      status: 200,
      type: contentType,
    })
    expect(Buffer.from(await fetched.arrayBuffer()).equals(bytes)).toBe(true)

    // For ten minutes, and it is nowhere but in Meta's hands.
    const token = new URL(link).searchParams.get('token') ?? ''
    const { iat, exp } = z.object({ iat: z.int(), exp: z.int() }).parse(
      JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString()),
    )
    expect(exp - iat).toBe(600)
    const logs = valueOf(
      await platform.from('api_call_logs').select('*').eq('job_id', (await jobOf(clinic, message)).id),
    )
    expect(logs).toHaveLength(1)
    expect(JSON.stringify(logs)).not.toContain(token.slice(0, 40))
    expect((await messageNow(clinic, message)).payload).toEqual(message.payload)
  })

  test('which is not there: the message fails, and Meta is not asked', async () => {
    const message = await write(clinic, chat, {
      message_type: 'image',
      payload: { path: `media/${clinic.organizationId}/outgoing/${randomUUID()}.png` },
    })
    expect(await whenIt('failed', clinic, message)).toMatchObject({ error_code: 'file_not_found' })
    expect(await callFor(message)).toBeUndefined()
  })

  test('which a customer had sent', async () => {
    const bytes = randomBytes(3000)
    const received = await whenStored(await send('image', 'image/jpeg', { bytes }))
    const message = await write(clinic, chat, { message_type: 'image', payload: { path: received.media_url ?? '' } })
    await whenIt('read', clinic, message)
    expect(await callFor(message)).toMatchObject({ status: 200 })
  })

  test('only into the drawer for what goes out, and only of the own organization', async () => {
    const bytes = randomBytes(10)
    const own = of(asAttendantOf(clinic))
    for (
      const path of [
        `${clinic.organizationId}/2026/11/${randomUUID()}.jpg`,
        `${clinic.organizationId}/${randomUUID()}.jpg`,
        `${neighbour.organizationId}/outgoing/${randomUUID()}.jpg`,
        `outgoing/${clinic.organizationId}/${randomUUID()}.jpg`,
      ]
    ) {
      const { data, error } = await own.upload(path, bytes)
      expect({ path, data, status: error?.statusCode }).toEqual({ path, data: null, status: '403' })
    }
    const path = `${clinic.organizationId}/outgoing/${randomUUID()}.jpg`
    for (const client of [asViewerOf(clinic), asAttendantOf(neighbour), asNobody(backend)]) {
      expect((await of(client).upload(path, bytes)).data).toBeNull()
    }
    valueOf(await own.upload(path, bytes))
  })
})
