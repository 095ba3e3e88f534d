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

const begun = z.discriminatedUnion('action', [
  z.object({ action: z.literal('done') }),
  z.object({
    action: z.literal('read'),
    token: z.guid(),
    storage_path: z.string().min(1),
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
  const { token, storage_path, manifest } = start
  const held = { ...id, token }
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
    return await rpc('finish_backup', {
      ...held,
      checksum: sha256,
      size_bytes: size,
      key_id: keyId,
      row_counts: rowCounts(manifest),
    })
  } catch (error) {
    await giveUp(error)
    throw error
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
    if (error instanceof RpcError && error.error === 'backup_lease_lost') return
    try {
      await rpc('fail_backup', { ...held, error: error instanceof HttpError ? error.code : reasonOf(error) })
      await files.remove(storage_path)
      await rpc('note_backup_file_removed', { ...id })
    } catch (failure) {
      log('warn', 'backup not cleaned up', { ...id, error: reasonOf(failure) })
    }
  }
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
