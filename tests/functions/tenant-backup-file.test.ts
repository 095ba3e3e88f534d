// The file of a backup gives back what was put in, or says why it does not. Nothing that happens to a file on its way makes it
// give anything else.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { createSecretBox, type SecretBox } from '../../functions/_shared/secrets.ts'
import {
  backupFile,
  BackupFileError,
  type Chunk,
  type FileProblem,
  newDataKey,
  openBackupFile,
} from '../../functions/tenant-backup/file.ts'
import { type Manifest, rowCounts, tallyOf } from '../../functions/tenant-backup/manifest.ts'
import { CLINIC, ENCRYPTION_KEYS, secretBox } from './support.ts'

const OTHER = '0193f2b4-0000-7000-8000-00000000c222'
const BACKUP = '0193f2b4-0000-7000-8000-00000000b001'

const CHUNKS: Chunk[] = [
  { table_name: 'public.contacts', number: 0, row_count: 2, content: '["a","Ana\\nClara"]\n["b",null]' },
  { table_name: 'public.contacts', number: 3, row_count: 1, content: '["c","Zoë 🐕"]' },
  { table_name: 'public.messages', number: 0, row_count: 1, content: `["d","${'oi '.repeat(2000)}"]` },
]

function digestOf(table: string): string {
  const hash = createHash('sha256')
  for (const { table_name, content } of CHUNKS) {
    if (table_name === table) hash.update(createHash('sha256').update(content).digest())
  }
  return hash.digest('hex')
}

const MANIFEST: Manifest = {
  organization_id: CLINIC,
  backup_id: BACKUP,
  backup_type: 'manual',
  taken_at: '2026-11-20T05:00:00+00:00',
  name: 'Clínica',
  tables: [
    { table_name: 'auth.users', row_count: 0, digest: digestOf('auth.users') },
    {
      table_name: 'public.contacts',
      columns: ['id', 'name'],
      row_count: 3,
      digest: digestOf('public.contacts'),
    },
    {
      table_name: 'public.messages',
      columns: ['id', 'content'],
      row_count: 1,
      digest: digestOf('public.messages'),
    },
  ],
}

async function* each<Item>(items: Item[]): AsyncGenerator<Item> {
  yield* items
}

async function written(
  { organization = CLINIC, version = 1, secrets }: {
    organization?: string
    version?: number
    secrets?: SecretBox
  } = {},
): Promise<Uint8Array<ArrayBuffer>> {
  const { key, sealed, keyId } = await newDataKey(
    secrets ?? await secretBox(),
    organization,
    (length) => crypto.getRandomValues(new Uint8Array(length)),
  )
  assert.equal(keyId, 'now')
  const header = {
    format: 'balcao-backup' as const,
    version,
    organization_id: organization,
    backup_id: BACKUP,
    taken_at: MANIFEST.taken_at,
    data_key: sealed,
  }
  const manifest = { ...MANIFEST, organization_id: organization }
  const pieces = await Array.fromAsync(backupFile(header, key, manifest, each(CHUNKS)))
  return new Uint8Array(await new Blob(pieces).arrayBuffer())
}

async function read(
  bytes: Uint8Array<ArrayBuffer>,
  organization = CLINIC,
  secrets?: SecretBox,
  pieceSize = 1000,
) {
  const pieces = Array.from(
    { length: Math.ceil(bytes.length / pieceSize) },
    (_, n) => bytes.slice(n * pieceSize, (n + 1) * pieceSize),
  )
  const opened = await openBackupFile(ReadableStream.from(pieces), organization, secrets ?? await secretBox())
  return { ...opened, chunks: await Array.fromAsync(opened.chunks) }
}

async function problemOf(work: Promise<unknown>): Promise<FileProblem> {
  const error = await work.then(() => null, (error: unknown) => error)
  if (!(error instanceof BackupFileError)) assert.fail(`This is no problem of the file: ${error}`)
  return error.code
}

Deno.test('a file gives back what was put in, however it arrives in pieces', async () => {
  const bytes = await written()
  for (const pieceSize of [1, 7, 1000, 1_000_000]) {
    const { header, manifest, chunks } = await read(bytes, CLINIC, undefined, pieceSize)
    assert.equal(header.backup_id, BACKUP)
    assert.deepEqual(manifest, MANIFEST)
    assert.deepEqual(chunks, CHUNKS)
  }
})

Deno.test('nothing of a customer can be read in it', async () => {
  const text = new TextDecoder('latin1').decode(await written())
  for (const word of ['Ana', 'contacts', 'Clínica', 'oi oi']) assert.ok(!text.includes(word), word)
})

Deno.test('every changed byte is found', async () => {
  const bytes = await written()
  const problems = new Map<FileProblem, number>()
  for (let position = 0; position < bytes.length; position += 1) {
    const changed = bytes.slice()
    changed[position] = (changed[position] ?? 0) ^ (1 << (position % 8))
    const problem = await problemOf(read(changed))
    problems.set(problem, (problems.get(problem) ?? 0) + 1)
  }
  // A changed length of a frame may ask for more than there is; a changed format name is no backup at all.
  assert.deepEqual([...problems.keys()].sort(), ['backup_damaged', 'backup_truncated', 'not_a_backup'])
  assert.ok((problems.get('backup_damaged') ?? 0) > bytes.length * 0.9)
})

Deno.test('a file that was cut off anywhere is found, at the end of a frame too', async () => {
  const bytes = await written()
  for (let length = 0; length < bytes.length; length += 1) {
    assert.equal(await problemOf(read(bytes.slice(0, length))), 'backup_truncated', `after ${length} bytes`)
  }
})

Deno.test('nothing can be added, left out or moved', async () => {
  const bytes = await written()
  const longer = new Uint8Array([...bytes, 0])
  assert.equal(await problemOf(read(longer)), 'backup_damaged')

  const frames = framesOf(bytes)
  assert.equal(frames.list.length, CHUNKS.length + 2)
  const [manifest, first, second, third, end] = frames.list
  for (
    const order of [[manifest, second, first, third, end], [manifest, first, third, end], [
      manifest,
      first,
      second,
      end,
    ]]
  ) {
    const parts = order.flatMap((frame) => frame === undefined ? [] : [frame])
    assert.equal(await problemOf(read(joined([frames.head, ...parts]))), 'backup_damaged')
  }
  const another = framesOf(await written())
  const foreign = [...frames.list.slice(0, -1), ...another.list.slice(-1)]
  assert.equal(await problemOf(read(joined([frames.head, ...foreign]))), 'backup_damaged')
})

Deno.test("another organization's file is refused, whatever its name says", async () => {
  assert.equal(await problemOf(read(await written({ organization: OTHER }))), 'wrong_organization')
})

Deno.test('a file whose key is gone, or is another one of that name, says so', async () => {
  const bytes = await written()
  const another = btoa('c'.repeat(32))
  for (const keys of [`later:${another}`, `now:${another}`]) {
    assert.equal(await problemOf(read(bytes, CLINIC, await createSecretBox(keys))), 'backup_key_wrong')
  }
  const rotated = await createSecretBox(`later:${another},${ENCRYPTION_KEYS}`)
  assert.deepEqual((await read(bytes, CLINIC, rotated)).chunks, CHUNKS)
})

Deno.test('something else, and a version that is not known yet, are told apart from damage', async () => {
  const text = (value: string) => new TextEncoder().encode(value)
  assert.equal(await problemOf(read(text('%PDF-1.7\nabc\n'))), 'not_a_backup')
  assert.equal(await problemOf(read(text('x'.repeat(20_000)))), 'not_a_backup')
  assert.equal(await problemOf(read(await written({ version: 2 }))), 'unsupported_backup')
})

Deno.test('a table that lacks a row, or has another one, is named', () => {
  const tally = tallyOf(MANIFEST)
  for (const chunk of CHUNKS) tally.add(chunk)
  assert.deepEqual(tally.differing(), [])

  const lacking = tallyOf(MANIFEST)
  for (const chunk of CHUNKS.slice(1)) lacking.add(chunk)
  assert.deepEqual(lacking.differing(), ['public.contacts'])

  const changed = tallyOf(MANIFEST)
  for (const chunk of CHUNKS) changed.add({ ...chunk, content: chunk.content.replace('oi', 'ai') })
  assert.deepEqual(changed.differing(), ['public.messages'])
  assert.deepEqual(rowCounts(MANIFEST), { 'public.contacts': 3, 'public.messages': 1 })
})

/** The two lines before the frames, and each frame with its length. */
function framesOf(bytes: Uint8Array<ArrayBuffer>) {
  const start = bytes.indexOf(10, bytes.indexOf(10) + 1) + 1
  const list: Uint8Array<ArrayBuffer>[] = []
  for (let at = start; at < bytes.length;) {
    const length = 4 + new DataView(bytes.buffer).getUint32(at)
    list.push(bytes.slice(at, at + length))
    at += length
  }
  return { head: bytes.slice(0, start), list }
}

function joined(parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  return new Uint8Array(parts.flatMap((part) => [...part]))
}
