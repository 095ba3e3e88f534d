// Old messages on their way into a file, and an erased person on her way out of one: the database hears of a file only when it
// lies in Storage as it should.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { gunzipSync, gzipSync } from 'node:zlib'
import { DamagedFile } from '../../functions/queue-worker/archive-file.ts'
import { archiveMessages } from '../../functions/queue-worker/archive-messages.ts'
import { eraseArchived } from '../../functions/queue-worker/erase-archived.ts'
import type { Job, Outcome } from '../../functions/queue-worker/job.ts'
import { purgeOrganization } from '../../functions/queue-worker/purge-organization.ts'
import type { ReadableStorage } from '../../functions/queue-worker/storage.ts'
import { StorageFailure } from '../../functions/queue-worker/storage.ts'
import { CLINIC, recordedLog, recordedRpc } from './support.ts'

const NOW = new Date('2026-11-20T13:00:00Z')
const ARCHIVE = '0193f2b4-0000-7000-8000-0000000000a1'
const MARIA = '0193f2b4-0000-7000-8000-0000000000c1'
const JOANA = '0193f2b4-0000-7000-8000-0000000000c2'
const PATH = `${CLINIC}/2024/10/${ARCHIVE}.ndjson.gz`
const CLAIM = { organization_id: CLINIC, id: '0193f2b4-0000-7000-8000-00000000f001', fencing_token: 3 }
const DONE = { action: 'done', reason: 'archived' }

function jobOf<Payload>(payload: Payload): Job<Payload> {
  return {
    ...CLAIM,
    job_type: 'x',
    attempts: 1,
    max_attempts: 20,
    created_at: '2026-11-20T13:00:00Z',
    payload,
  }
}
const context = (signal = new AbortController().signal) => ({
  signal,
  now: () => NOW,
  log: recordedLog().log,
})
const pause = () => Promise.resolve()
const sha256 = (bytes: Uint8Array | string) => createHash('sha256').update(bytes).digest('hex')

/** Storage in memory; `spoil` is what becomes of a file between its upload and its being read. */
function aStorage(
  files: Record<string, Uint8Array> = {},
  spoil = (_path: string, bytes: Uint8Array) => bytes,
) {
  const removed: string[] = []
  const storage: ReadableStorage = {
    async upload(bucket, path, file) {
      files[`${bucket}/${path}`] = new Uint8Array(await new Response(file).arrayBuffer())
    },
    download(bucket, path) {
      const bytes = files[`${bucket}/${path}`]
      return Promise.resolve(
        bytes === undefined ? null : ReadableStream.from([spoil(path, bytes)]) as ReadableStream<Uint8Array>,
      )
    },
    remove(bucket, path) {
      removed.push(`${bucket}/${path}`)
      delete files[`${bucket}/${path}`]
      return Promise.resolve()
    },
    signedUrl: () => Promise.reject(new Error('was called')),
  }
  return { storage, files, removed }
}

const line = (conversation_id: string, content: string, more = {}) =>
  JSON.stringify({ conversation_id, direction: 'inbound', content, ...more }) + '\n'
// Where a chunk ends, a letter need not.
const LINES = [
  line(MARIA, 'Olá, é da clínica? ✂️', { media_url: `media/${CLINIC}/2024/10/foto.jpg` }),
  line(JOANA, 'Sou a Joana'),
  line(MARIA, 'ação '.repeat(30_000)),
]
const MANIFEST = { format: 'balcao.messages/1', row_count: 3, content_sha256: 'of-the-database' }

async function outcomeOf(work: Promise<Outcome>): Promise<unknown> {
  return await work.catch((error) => error)
}

// Into a file -----------------------------------------------------------------------------------------------------------

async function archived(
  { pages = [LINES.slice(0, 2), LINES.slice(2)], spoil, told = [{ action: 'write' }, DONE] }: {
    pages?: string[][]
    spoil?: (path: string, bytes: Uint8Array) => Uint8Array
    told?: { action: string; reason?: string }[]
  } = {},
) {
  const left = [...told]
  const { rpc, calls } = recordedRpc({
    continue_archive: () => {
      const answer = left.length > 1 ? left.shift() : left[0]
      return answer?.action === 'write'
        ? { ...answer, archive_id: ARCHIVE, path: PATH, manifest: MANIFEST }
        : answer
    },
    read_archive_lines: ({ after }: { after?: unknown }) => {
      const number = after === null ? 0 : Number(String(after).slice(-1))
      const content = pages[number]?.join('') ?? ''
      return { content, last: content === '' ? null : ARCHIVE.slice(0, -1) + (number + 1) }
    },
    finish_archive_file: () => ({ action: 'again' }),
  })
  const { storage, files } = aStorage({}, spoil)
  const type = archiveMessages({ rpc, storage, pause })
  const outcome = await outcomeOf(type.handle(jobOf({ before: '2024-11-01T00:00:00Z' }), context()))
  return { outcome, files, reports: calls.filter(({ name }) => name === 'finish_archive_file'), calls }
}

Deno.test('the lines lie in Storage, compressed, with a manifest; the database hears what was read back', async () => {
  const { outcome, files, reports } = await archived()
  const file = files[`archive/${PATH}`] ?? new Uint8Array()
  assert.equal(gunzipSync(file).toString(), LINES.join(''))
  const report = {
    row_count: 3,
    content_bytes: new TextEncoder().encode(LINES.join('')).length,
    content_sha256: sha256(LINES.join('')),
    file_bytes: file.length,
    file_sha256: sha256(file),
  }
  assert.deepEqual(reports.map(({ args }) => args), [{ job: CLAIM, archive_id: ARCHIVE, report }])
  const manifest = JSON.parse(new TextDecoder().decode(files[`archive/${PATH}.manifest.json`]))
  assert.deepEqual(manifest, { format: 'balcao.messages/1', ...report, path: PATH })
  assert.deepEqual(outcome, { kind: 'ended', result: 'archived' })
})

for (
  const [name, spoil] of Object.entries({
    'a changed byte': (bytes: Uint8Array) => bytes.map((byte, n) => n === 40 ? byte ^ 1 : byte),
    'a file that was cut off': (bytes: Uint8Array) => bytes.slice(0, bytes.length - 9),
    'another file of the same lines': () => new Uint8Array(gzipSync(LINES.join(''), { level: 1 })),
    'no gzip at all': () => new TextEncoder().encode(LINES.join('')),
    'an empty file': () => new Uint8Array(),
    'half a line at its end': () => new Uint8Array(gzipSync(LINES.join('') + '{"conv')),
  })
) {
  Deno.test(`${name} is told to nobody: the messages stay`, async () => {
    const { outcome, reports } = await archived({ spoil: (_path, bytes) => spoil(bytes) })
    assert.ok(outcome instanceof Error, String(outcome))
    assert.deepEqual(reports, [])
  })
}

Deno.test('a file of no lines is one, too', async () => {
  const { reports } = await archived({ pages: [] })
  assert.deepEqual(reports.map(({ args }) => (args as { report: { row_count: number } }).report.row_count), [
    0,
  ])
})

Deno.test('after some steps other jobs have a turn', async () => {
  const { outcome, calls } = await archived({ told: [{ action: 'again' }] })
  assert.deepEqual(outcome, { kind: 'postponed', runAt: NOW, reason: 'goes_on' })
  assert.equal(calls.length, 30)
})

// Out of one ------------------------------------------------------------------------------------------------------------

async function erased({ spoil, old = LINES.join('') }: {
  spoil?: (path: string, bytes: Uint8Array) => Uint8Array
  old?: string
} = {}) {
  const newPath = `${CLINIC}/2024/10/${ARCHIVE}.2.ndjson.gz`
  const { storage, files, removed } = aStorage({
    [`archive/${PATH}`]: new Uint8Array(gzipSync(old)),
    [`archive/${PATH}.manifest.json`]: new Uint8Array(),
    [`media/${CLINIC}/2024/10/foto.jpg`]: new Uint8Array([1]),
  }, spoil)
  const left: unknown[] = [
    {
      action: 'rewrite',
      archive_id: ARCHIVE,
      path: PATH,
      file_sha256: 'x',
      new_path: newPath,
      conversation_ids: [MARIA],
      manifest: { ...MANIFEST, version: 2 },
    },
    { action: 'remove', archive_id: ARCHIVE, bucket: 'archive', paths: [PATH, `${PATH}.manifest.json`] },
    { action: 'done', reason: 'erased' },
  ]
  const { rpc, calls } = recordedRpc({
    continue_archive_erasure: () => left.shift(),
    finish_archive_erasure: () => ({ action: 'again' }),
    note_archive_file_removed: () => null,
  })
  const type = eraseArchived({ rpc, storage, pause })
  const outcome = await outcomeOf(
    type.handle(jobOf({ archive_id: ARCHIVE, erasure_id: ARCHIVE }), context()),
  )
  return { outcome, files, removed, calls, newPath }
}

Deno.test('the file is written anew without her, then the old one goes, with the files of her messages', async () => {
  const { outcome, files, removed, calls, newPath } = await erased()
  assert.deepEqual(outcome, { kind: 'ended', result: 'erased' })
  assert.equal(gunzipSync(files[`archive/${newPath}`] ?? new Uint8Array()).toString(), LINES[1])
  assert.deepEqual(Object.keys(files).sort(), [`archive/${newPath}`, `archive/${newPath}.manifest.json`])
  assert.deepEqual(removed, [
    `media/${CLINIC}/2024/10/foto.jpg`,
    `archive/${PATH}.manifest.json`,
    `archive/${PATH}`,
  ])
  const [finished] = calls.filter(({ name }) => name === 'finish_archive_erasure')
  assert.deepEqual(finished?.args, {
    job: CLAIM,
    archive_id: ARCHIVE,
    report: {
      new_path: newPath,
      conversation_ids: [MARIA],
      row_count: 1,
      content_bytes: LINES[1]?.length,
      content_sha256: sha256(LINES[1] ?? ''),
      file_bytes: files[`archive/${newPath}`]?.length,
      file_sha256: sha256(files[`archive/${newPath}`] ?? ''),
    },
  })
  assert.deepEqual(calls.at(-2), {
    name: 'note_archive_file_removed',
    args: { job: CLAIM, archive_id: ARCHIVE, path: PATH },
  })
})

Deno.test('an old file that cannot be read, or a new one that is not what was written, changes nothing', async () => {
  const unreadable = await erased({ spoil: (path, bytes) => path === PATH ? bytes.slice(0, 60) : bytes })
  const noJson = await erased({ old: 'Olá\n' })
  const changed = await erased({
    spoil: (path, bytes) => path === PATH ? bytes : new Uint8Array(gzipSync('{}\n')),
  })
  for (const { outcome, removed, calls, files } of [unreadable, noJson, changed]) {
    assert.ok(outcome instanceof Error, String(outcome))
    assert.deepEqual([removed, calls.map(({ name }) => name)], [[], ['continue_archive_erasure']])
    assert.ok(files[`archive/${PATH}`] !== undefined)
  }
  assert.ok(changed.outcome instanceof DamagedFile)
})

// A whole organization ----------------------------------------------------------------------------------------------------

Deno.test('a purge deletes what it is told to, until it is over', async () => {
  const { storage, removed } = aStorage()
  const left: unknown[] = [
    { action: 'again' },
    { action: 'remove', bucket: 'backups', paths: [`${CLINIC}/1.backup`, `${CLINIC}/2.backup`] },
    { action: 'again' },
    { action: 'done', reason: 'purged' },
  ]
  const { rpc, calls } = recordedRpc({ continue_purge: () => left.shift() })
  const type = purgeOrganization({ rpc, storage, pause })
  const outcome = await outcomeOf(type.handle(jobOf({ closed_at: '2026-08-01T00:00:00Z' }), context()))
  assert.deepEqual(outcome, { kind: 'ended', result: 'purged' })
  assert.deepEqual(removed, [`backups/${CLINIC}/1.backup`, `backups/${CLINIC}/2.backup`])
  assert.deepEqual(calls.map(({ args }) => args), Array.from({ length: 4 }, () => ({ job: CLAIM })))
})

Deno.test('a file that Storage does not delete, or a run that ends, leaves the purge to be gone on with', async () => {
  const { storage } = aStorage()
  const { rpc, calls } = recordedRpc({
    continue_purge: () => ({ action: 'remove', bucket: 'media', paths: [`${CLINIC}/1.jpg`] }),
  })
  const failing = { ...storage, remove: () => Promise.reject(new StorageFailure(500, 'is away')) }
  const job = jobOf({ closed_at: '2026-08-01T00:00:00Z' })
  assert.ok(
    await outcomeOf(purgeOrganization({ rpc, storage: failing, pause }).handle(job, context())) instanceof
      StorageFailure,
  )
  const over = new Error('time is up')
  assert.equal(
    await outcomeOf(purgeOrganization({ rpc, storage, pause }).handle(job, context(AbortSignal.abort(over)))),
    over,
  )
  assert.equal(calls.length, 1)
})
