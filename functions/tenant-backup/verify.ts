// Whether a backup can be relied on: the file is the one that was written, it opens with our keys, and every table in it is
// what the database laid down.
import { createHash } from 'node:crypto'
import { z } from 'zod'
import { HttpError } from '../_shared/http.ts'
import type { SecretBox } from '../_shared/secrets.ts'
import { openBackupFile } from './file.ts'
import { rowCounts, tallyOf } from './manifest.ts'
import type { BackupFiles } from './storage.ts'

export const backupRow = z.looseObject({
  organization_id: z.guid(),
  id: z.guid(),
  status: z.string(),
  storage_path: z.string().nullable(),
  checksum: z.string().nullable(),
  size_bytes: z.number().nullable(),
})
export type BackupRow = z.output<typeof backupRow>

export async function verifyBackup(
  backup: BackupRow,
  { secrets, files }: { secrets: SecretBox; files: BackupFiles },
): Promise<Record<string, unknown>> {
  if (backup.status !== 'completed' || backup.storage_path === null) {
    throw new HttpError(
      409,
      'backup_not_completed',
      `This backup is ${backup.status}: there is nothing to verify`,
    )
  }
  const stream = await files.download(backup.storage_path)
  if (stream === null) throw new HttpError(404, 'backup_file_not_found', 'The file of this backup is gone')
  const hash = createHash('sha256')
  const counted = stream.pipeThrough(
    new TransformStream<Uint8Array, Uint8Array>({
      transform(piece, controller) {
        hash.update(piece)
        controller.enqueue(piece)
      },
    }),
  )
  const { manifest, chunks } = await openBackupFile(counted, backup.organization_id, secrets)
  const tally = tallyOf(manifest)
  for await (const chunk of chunks) tally.add(chunk)
  const differing = tally.differing()
  if (differing.length > 0 || manifest.backup_id !== backup.id || hash.digest('hex') !== backup.checksum) {
    throw new HttpError(422, 'backup_damaged', 'The file is not the one that was written')
  }
  return {
    is_intact: true,
    taken_at: manifest.taken_at,
    checksum: backup.checksum,
    row_counts: rowCounts(manifest),
  }
}
