// What was said more than two years ago moves into Storage, can be read there by whom it concerns, and is forgotten there, too.

import { createHash, randomUUID } from 'node:crypto'
import { gunzipSync, gzipSync } from 'node:zlib'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { businessError } from '../../types/index.ts'
import { hurry, seen } from '../support/conversations.ts'
import { runningStack } from '../support/running-stack.ts'
import {
  asAdminOf,
  asAttendantOf,
  asOwnerOf,
  asPlatform,
  aTenant,
  type Client,
  type ConnectedNumber,
  connectNumber,
  type Tenant,
  valueOf,
} from '../support/tenants.ts'

const backend = runningStack()
const platform = asPlatform(backend)
const sql = postgres(backend.urls.admin, { max: 4, onnotice: () => undefined })

let neighbour: Tenant
beforeAll(async () => {
  neighbour = await aTenant(backend, 'Clínica sem Passado')
})
afterAll(() => sql.end({ timeout: 1 }))

interface Past {
  clinic: Tenant
  number: ConnectedNumber
  customers: { contactId: string; conversationId: string }[]
  /** By their ids, as the API shows them. */
  messages: Map<string, Record<string, unknown>>
}

/** A clinic of years ago: two customers who wrote every other hour of two weeks of two months, and have long said goodbye. */
async function aPast(name: string): Promise<Past> {
  const clinic = await aTenant(backend, name, ['admin', 'attendant'])
  const number = await connectNumber(clinic)
  const customers = [1, 2].map(() => ({ contactId: randomUUID(), conversationId: randomUUID() }))
  for (const { contactId, conversationId } of customers) {
    await sql`
      insert into public.contacts (organization_id, id, name) values (${clinic.organizationId}, ${contactId}, 'Cliente de antes')`
    await sql`
      insert into public.conversations (organization_id, id, contact_id, instance_id, whatsapp_chat_id, status, closed_at, created_at)
      values (${clinic.organizationId}, ${conversationId}, ${contactId}, ${number.instanceId}, 'x', 'closed', '2023-06-01', '2023-01-01')`
    await sql`
      insert into public.messages (
        organization_id, id, conversation_id, contact_id, instance_id, direction, sender, status, content, sent_at, created_at)
      select ${clinic.organizationId}, private.uuid_v7(at), ${conversationId}, ${contactId}, ${number.instanceId}, 'inbound', 'contact',
        'received', E'Olá!\nDra. Inês está? ✂️ ' || at, at, at
      from generate_series('2023-03-25T00:30:00Z'::timestamptz, '2023-04-08T00:00:00Z', interval '2 hours') at`
  }
  return { clinic, number, customers, messages: await messagesOf(clinic) }
}

async function messagesOf({ organizationId }: Tenant): Promise<Map<string, Record<string, unknown>>> {
  const rows: Record<string, unknown>[] = []
  for (let from = 0; ; from += 500) {
    const page = valueOf(
      await platform.from('messages').select('*').eq('organization_id', organizationId).order('id').range(from, from + 499),
    )
    rows.push(...page)
    if (page.length < 500) return new Map(rows.map((row) => [String(row['id']), row]))
  }
}

/** As the database's clock would do it on a day: more than once, if it is told to. */
async function archiveOf({ organizationId }: Tenant, days = 1): Promise<void> {
  for (let day = 0; day < days; day += 1) {
    await sql`
      select private.enqueue_jobs(array[row(${organizationId}, 'archive_messages', '{"before": "2023-05-01T00:00:00Z"}', 0, null, null,
        ${`archive:test:${day}`}, 20)::private.new_job])`
  }
}

const jobsOf = ({ organizationId }: Tenant, type: string) =>
  sql<{ status: string; last_error: string | null }[]>`
    select status, last_error from public.message_queue where organization_id = ${organizationId} and job_type = ${type}`

async function whenDone(tenant: Tenant, type: string): Promise<void> {
  await seen(
    async () => {
      await hurry(sql, tenant)
      return await jobsOf(tenant, type)
    },
    (jobs) => jobs.length > 0 && jobs.every(({ status }) => status === 'completed'),
  )
}

const entry = z.object({
  archive_id: z.guid(),
  month: z.string(),
  conversation_ids: z.array(z.guid()),
  message_count: z.number(),
  storage_path: z.string(),
  file_sha256: z.string(),
  file_bytes: z.number(),
})
type Entry = z.infer<typeof entry>

async function filesOf(client: Client, tenant: Tenant, asked: { conversation_id?: string; contact_id?: string }) {
  const answer = await client.rpc('list_archived_messages', { ...asked, organization_id: tenant.organizationId })
  return z.array(entry).parse(valueOf(answer))
}

/** As an app does it. */
async function linesOf(client: Client, { storage_path, file_sha256, file_bytes }: Entry): Promise<Record<string, unknown>[]> {
  const file = Buffer.from(await valueOf(await client.storage.from('archive').download(storage_path)).arrayBuffer())
  expect({ bytes: file.length, sha256: createHash('sha256').update(file).digest('hex') })
    .toEqual({ bytes: file_bytes, sha256: file_sha256 })
  const text = gunzipSync(file).toString()
  return text.split('\n').slice(0, -1).map((line) => z.record(z.string(), z.unknown()).parse(JSON.parse(line)))
}

/** Whatever is in the archive of a clinic, from all of its files. */
async function archiveOfAll({ clinic, customers }: Past): Promise<Record<string, unknown>[]> {
  const files = new Map<string, Entry>()
  for (const { conversationId } of customers) {
    for (const file of await filesOf(asAdminOf(clinic), clinic, { conversation_id: conversationId })) files.set(file.archive_id, file)
  }
  return (await Promise.all([...files.values()].map((file) => linesOf(asAdminOf(clinic), file)))).flat()
}

const instants = ['sent_at', 'created_at', 'updated_at']
/** Whatever is null is left out of a line, and times are written in one of their ways. */
function comparable(message: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(message)
      .filter(([, value]) => value !== null)
      .map(([key, value]) => [key, instants.includes(key) ? Date.parse(String(value)) : value]),
  )
}

describe('what is old', () => {
  let past: Past
  beforeAll(async () => {
    past = await aPast('Clínica Antiga')
    await archiveOf(past.clinic)
    await whenDone(past.clinic, 'archive_messages')
  })

  test('lies in the archive, every word of it, and nowhere else', async () => {
    expect(await messagesOf(past.clinic)).toEqual(new Map())
    const archived = await archiveOfAll(past)
    expect(archived).toHaveLength(past.messages.size)
    expect(new Map(archived.map((message) => [message['id'], comparable(message)])))
      .toEqual(new Map([...past.messages].map(([id, message]) => [id, comparable(message)])))
  })

  test('is read by the conversation, or by the contact, month by month', async () => {
    const [customer] = past.customers
    const { contactId = '', conversationId = '' } = customer ?? {}
    const byConversation = await filesOf(asAdminOf(past.clinic), past.clinic, { conversation_id: conversationId })
    expect(byConversation.map(({ month }) => month)).toEqual(['2023-03-01', '2023-04-01'])
    expect(await filesOf(asOwnerOf(past.clinic), past.clinic, { contact_id: contactId })).toEqual(byConversation)
    for (const file of byConversation) {
      const lines = (await linesOf(asAdminOf(past.clinic), file)).filter(({ conversation_id }) => conversation_id === conversationId)
      expect(lines).toHaveLength(file.message_count)
    }
  })

  test('has a manifest beside it that says the same', async () => {
    const [file] = await filesOf(asAdminOf(past.clinic), past.clinic, { conversation_id: past.customers[0]?.conversationId ?? '' })
    const manifest = valueOf(await asAdminOf(past.clinic).storage.from('archive').download(`${file?.storage_path}.manifest.json`))
    expect(JSON.parse(await manifest.text())).toMatchObject({
      format: 'balcao.messages/1',
      organization_id: past.clinic.organizationId,
      archive_id: file?.archive_id,
      month: '2023-03',
      file_sha256: file?.file_sha256,
      file_bytes: file?.file_bytes,
    })
  })

  test('is for administrators of the clinic, and nobody else', async () => {
    const [{ conversationId, contactId } = { conversationId: '', contactId: '' }] = past.customers
    const [file] = await filesOf(asAdminOf(past.clinic), past.clinic, { conversation_id: conversationId })
    for (const client of [asAttendantOf(past.clinic), asOwnerOf(neighbour)]) {
      const { error } = await client.rpc('list_archived_messages', { contact_id: contactId, organization_id: past.clinic.organizationId })
      expect(businessError(error)?.name).toBe('not_allowed')
      expect((await client.storage.from('archive').download(file?.storage_path ?? '')).error).not.toBeNull()
      expect(valueOf(await client.from('message_archives').select('id').eq('organization_id', past.clinic.organizationId))).toEqual([])
    }
    const { error } = await asAdminOf(past.clinic).storage.from('archive').upload(`${past.clinic.organizationId}/x`, 'x')
    expect(error).not.toBeNull()
    expect(valueOf(await asAdminOf(past.clinic).from('message_archives').select('status'))).toEqual([
      { status: 'completed' }, { status: 'completed' },
    ])
  })
})

/** A worker who has the job and dies after so many steps of it. */
async function dieAfter(steps: number, { clinic }: Past): Promise<void> {
  // Taken before the stack's own workers see it.
  const [job] = await sql<{ organization_id: string; id: string; fencing_token: number }[]>`
    insert into public.message_queue (
      organization_id, job_type, payload, status, attempts, max_attempts, locked_by, fencing_token, lease_expires_at)
    values (${clinic.organizationId}, 'archive_messages', '{"before": "2023-05-01T00:00:00Z"}', 'processing', 1, 20, 'who dies', 1,
      now() + interval '1 hour')
    returning organization_id, id, fencing_token::int`
  const told = valueOf(await platform.rpc('continue_archive', { job: { ...job } }))
  const { archive_id, path } = z.object({ archive_id: z.guid(), path: z.string() }).parse(told)
  if (steps > 1) {
    // Half a file.
    valueOf(await platform.storage.from('archive').upload(path, Buffer.from('half'), { upsert: true }))
  }
  if (steps > 2) {
    const [lines] = await sql<{ content: string }[]>`
      select string_agg(line || E'\n', '' order by message_id) as content from private.archive_lines where archive_id = ${archive_id}`
    const file = gzipSync(lines?.content ?? '')
    valueOf(await platform.storage.from('archive').upload(path, file, { upsert: true }))
    const sha256 = (bytes: string | Buffer) => createHash('sha256').update(bytes).digest('hex')
    valueOf(
      await platform.rpc('finish_archive_file', {
        job: { ...job },
        archive_id,
        report: {
          row_count: (lines?.content ?? '').split('\n').length - 1,
          content_bytes: Buffer.byteLength(lines?.content ?? ''),
          content_sha256: sha256(lines?.content ?? ''),
          file_bytes: file.length,
          file_sha256: sha256(file),
        },
      }),
    )
  }
  if (steps > 3) valueOf(await platform.rpc('continue_archive', { job: { ...job } }))
  await sql`
    update public.message_queue set lease_expires_at = now() where organization_id = ${clinic.organizationId} and status = 'processing'`
}

describe('every message is in the archive once, and gone, when a worker died', () => {
  test.each([
    ['before he wrote anything', 1],
    ['in the middle of the file', 2],
    ['between the upload and the deletion', 3],
    ['in the middle of the deletion', 4],
  ])('%s', async (_name, steps) => {
    const past = await aPast(`Clínica Caída ${steps}`)
    await dieAfter(steps, past)
    await whenDone(past.clinic, 'archive_messages')
    expect(await messagesOf(past.clinic)).toEqual(new Map())
    const archived = await archiveOfAll(past)
    expect(archived.map(({ id }) => id).sort()).toEqual([...past.messages.keys()].sort())
  })
})

test('two jobs of one clinic at once put nothing into two files', async () => {
  const past = await aPast('Clínica Dupla')
  await archiveOf(past.clinic, 4)
  await whenDone(past.clinic, 'archive_messages')
  expect(await messagesOf(past.clinic)).toEqual(new Map())
  expect((await archiveOfAll(past)).map(({ id }) => id).sort()).toEqual([...past.messages.keys()].sort())
})

test('an erased person leaves the files, and the photo that she sent; whoever else is in them stays', async () => {
  const past = await aPast('Clínica que Esquece o Antigo')
  const [maria, joana] = past.customers
  const photo = `${past.clinic.organizationId}/2023/03/${randomUUID()}.jpg`
  valueOf(await platform.storage.from('media').upload(photo, Buffer.from('foto'), { contentType: 'image/jpeg' }))
  await sql`
    update public.messages set media_url = ${`media/${photo}`}, message_type = 'image'
    where id = (select min(id::text)::uuid from public.messages where conversation_id = ${maria?.conversationId ?? ''})`
  await archiveOf(past.clinic)
  await whenDone(past.clinic, 'archive_messages')
  const before = await filesOf(asAdminOf(past.clinic), past.clinic, { contact_id: maria?.contactId ?? '' })
  expect(before).toHaveLength(2)

  valueOf(await asAdminOf(past.clinic).rpc('erase_contact', { contact_id: maria?.contactId ?? '', reason: 'Pedido do titular' }))
  await whenDone(past.clinic, 'erase_archived')
  await whenDone(past.clinic, 'erase_contact')
  const [erasure] = z.array(z.object({ completed_at: z.string().nullable() }).loose())
    .parse(valueOf(await asOwnerOf(past.clinic).rpc('list_erasures')))
  expect(erasure?.completed_at).not.toBeNull()

  const archived = await archiveOfAll(past)
  expect(archived.map(({ id }) => id).sort())
    .toEqual([...past.messages.values()].filter(({ contact_id }) => contact_id === joana?.contactId).map(({ id }) => id).sort())
  expect(await filesOf(asAdminOf(past.clinic), past.clinic, { contact_id: maria?.contactId ?? '' })).toEqual([])
  const left = await sql<{ bucket_id: string; name: string }[]>`
    select bucket_id, name from storage.objects where name like ${`${past.clinic.organizationId}/%`} order by bucket_id, name`
  expect(left.filter(({ bucket_id }) => bucket_id === 'media')).toEqual([])
  expect(left.filter(({ name }) => before.some(({ storage_path }) => name.startsWith(storage_path)))).toEqual([])
})

test('whoever is erased while her words are being laid down is not in the file in the end', async () => {
  const past = await aPast('Clínica Simultânea')
  const [maria, joana] = past.customers
  let erased: PromiseLike<unknown> = Promise.resolve()
  await sql.begin(async (transaction) => {
    const [job] = await transaction<{ organization_id: string; id: string; fencing_token: number }[]>`
      insert into public.message_queue (
        organization_id, job_type, payload, status, attempts, max_attempts, locked_by, fencing_token, lease_expires_at)
      values (${past.clinic.organizationId}, 'archive_messages', '{"before": "2023-05-01T00:00:00Z"}', 'processing', 1, 20, 'who is slow', 1,
        now())
      returning organization_id, id, fencing_token::int`
    await transaction`select public.continue_archive(${transaction.json({ ...job })})`
    erased = asAdminOf(past.clinic)
      .rpc('erase_contact', { contact_id: maria?.contactId ?? '', reason: 'Pedido do titular' })
      .then(valueOf)
    // She waits for what is laid down, and for nothing else.
    await seen(
      () => sql`select from pg_catalog.pg_locks l where l.locktype = 'advisory' and not l.granted`,
      (waiting) => waiting.length > 0,
    )
  })
  await erased
  await whenDone(past.clinic, 'archive_messages')
  await whenDone(past.clinic, 'erase_archived')
  const archived = await archiveOfAll(past)
  const words = archived.filter(({ conversation_id }) => conversation_id === maria?.conversationId).map(({ content }) => content)
  expect(words.filter((content) => content !== undefined)).toEqual([])
  expect(archived.filter(({ contact_id }) => contact_id === joana?.contactId))
    .toHaveLength([...past.messages.values()].filter(({ contact_id }) => contact_id === joana?.contactId).length)
})
