// Making a backup: the database lays the tenant down as it is at one instant; from there it goes chunk by chunk into the file,
// which is read back before anybody is told that there is one.
import { createHash } from 'node:crypto'
import { z } from 'zod'
import { HttpError } from '../_shared/http.ts'
import type { Log } from '../_shared/log.ts'
import { reasonOf } from '../_shared/redact.ts'
import { type Rpc, RpcError } from '../_shared/rpc.ts'
import type { SecretBox } from '../_shared/secrets.ts'
import { backupFile, type Chunk, newDataKey } from './file.ts'
import { type Manifest, manifestSchema, rowCounts, tallyOf } from './manifest.ts'
import type { BackupFiles } from './storage.ts'

export interface Dependencies {
  /** With the secret key. */
  rpc: Rpc
  secrets: SecretBox
  files: BackupFiles
  randomBytes: (length: number) => Uint8Array<ArrayBuffer>
  log: Log
}

export interface BackupId {
  organization_id: string
  backup_id: string
}

const LEASE_LOST = 'backup_lease_lost'
const HEARTBEAT_MS = 30_000
// No table's name comes after it.
const AFTER_ALL = '~'

const backupRows = z.array(z.looseObject({ storage_path: z.string().nullable() }))

const begun = z.discriminatedUnion('action', [
  z.object({ action: z.literal('done') }),
  z.object({
    action: z.literal('read'),
    token: z.guid(),
    storage_path: z.string().min(1),
    stale_path: z.string().nullable(),
    manifest: manifestSchema,
  }),
])

const nextChunk = z.object({
  table_name: z.string(),
  number: z.number().int(),
  row_count: z.number().int(),
  content: z.string(),
}).nullable()

/** Returns the backup's row; null: it had been made before. */
export async function makeBackup(id: BackupId, dependencies: Dependencies): Promise<unknown> {
  const { rpc, secrets, files, randomBytes, log } = dependencies
  const start = begun.parse(await rpc('begin_backup', { ...id }))
  if (start.action === 'done') return null
  const { token, storage_path, stale_path, manifest } = start
  const held = { ...id, token }
  // Reading a large file back takes longer than our hold on the backup lasts.
  const heartbeat = setInterval(() => {
    rpc('read_backup_chunk', { ...held, after_table: AFTER_ALL }).catch(() => undefined)
  }, HEARTBEAT_MS)
  try {
    const { key, sealed, keyId } = await newDataKey(secrets, id.organization_id, randomBytes)
    const header = {
      format: 'balcao-backup' as const,
      version: 1,
      ...id,
      taken_at: manifest.taken_at,
      data_key: sealed,
    }
    const sent = measured(backupFile(header, key, manifest, laidDown(manifest)))
    await files.upload(storage_path, ReadableStream.from(sent.bytes))
    const kept = await files.download(storage_path)
    const there = kept === null ? null : await measure(kept)
    const { size, sha256 } = sent.result()
    if (there === null || there.sha256 !== sha256) {
      throw new HttpError(502, 'backup_not_kept', 'Storage has not got the file that was sent to it')
    }
    const made = await rpc('finish_backup', {
      ...held,
      checksum: sha256,
      size_bytes: size,
      key_id: keyId,
      row_counts: rowCounts(manifest),
    })
    if (stale_path !== null) await files.remove(stale_path).catch(notCleanedUp)
    return made
  } catch (error) {
    await giveUp(error)
    throw error
  } finally {
    clearInterval(heartbeat)
  }

  async function* laidDown(manifest: Manifest): AsyncGenerator<Chunk> {
    const tally = tallyOf(manifest)
    let after = {}
    for (;;) {
      const chunk = nextChunk.parse(await rpc('read_backup_chunk', { ...held, ...after }))
      if (chunk === null) break
      after = { after_table: chunk.table_name, after_number: chunk.number }
      tally.add(chunk)
      yield chunk
    }
    const differing = tally.differing()
    if (differing.length > 0) {
      throw new HttpError(500, 'backup_incomplete', `Not all rows arrived: ${differing.join(', ')}`)
    }
  }

  /** Nothing half-done stays, as far as we still can. What cannot be told now the clean-up finds. */
  async function giveUp(error: unknown): Promise<void> {
    try {
      if (nameOf(error) !== LEASE_LOST && await hasFailed(error)) {
        await files.remove(storage_path)
        await rpc('note_backup_file_removed', { ...id })
        return
      }
      // Somebody else has it, with a file of his own; or it was finished, and only the answer was lost.
      const [row] = backupRows.parse(await rpc('list_backups', { ...id }))
      if (row?.storage_path !== storage_path) await files.remove(storage_path)
    } catch (failure) {
      notCleanedUp(failure)
    }
  }

  /** Whether it was still ours to fail. */
  async function hasFailed(error: unknown): Promise<boolean> {
    try {
      await rpc('fail_backup', { ...held, error: nameOf(error) ?? reasonOf(error) })
      return true
    } catch (failure) {
      if (nameOf(failure) === LEASE_LOST) return false
      throw failure
    }
  }

  function notCleanedUp(failure: unknown): void {
    log('warn', 'backup not cleaned up', { ...id, error: reasonOf(failure) })
  }
}

/** Of a refusal by the database, or one of our own. */
function nameOf(error: unknown): string | null {
  if (error instanceof HttpError) return error.code
  return error instanceof RpcError ? error.error : null
}

/** The same bytes, counted and hashed on their way. */
function measured(bytes: AsyncIterable<Uint8Array<ArrayBuffer>>) {
  const hash = createHash('sha256')
  let size = 0
  async function* passing() {
    for await (const piece of bytes) {
      size += piece.byteLength
      hash.update(piece)
      yield piece
    }
  }
  return { bytes: passing(), result: () => ({ size, sha256: hash.digest('hex') }) }
}

export async function measure(stream: ReadableStream<Uint8Array>): Promise<{ size: number; sha256: string }> {
  const hash = createHash('sha256')
  let size = 0
  for await (const piece of stream) {
    size += piece.byteLength
    hash.update(piece)
  }
  return { size, sha256: hash.digest('hex') }
}
