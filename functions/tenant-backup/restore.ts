// Bringing a tenant back, into a project that has not got it: every chunk of the file is laid down, and the database makes a
// tenant of them in one transaction, or nothing.
import { z } from 'zod'
import { HttpError } from '../_shared/http.ts'
import type { Log } from '../_shared/log.ts'
import { reasonOf } from '../_shared/redact.ts'
import { type Rpc, RpcError } from '../_shared/rpc.ts'
import type { SecretBox } from '../_shared/secrets.ts'
import { openBackupFile } from './file.ts'
import type { BackupFiles } from './storage.ts'

export interface RestoreRequest {
  organization_id: string
  path: string
  skip_missing_members: boolean
  erased_contacts: string[]
}

const begun = z.object({ restore_id: z.guid(), token: z.guid() })

export async function restoreBackup(
  { organization_id, path, skip_missing_members, erased_contacts }: RestoreRequest,
  { rpc, secrets, files, log }: { rpc: Rpc; secrets: SecretBox; files: BackupFiles; log: Log },
): Promise<unknown> {
  const stream = await files.download(path)
  if (stream === null) {
    throw new HttpError(404, 'backup_file_not_found', 'The bucket "backups" has no such file')
  }
  const { manifest, chunks } = await openBackupFile(stream, organization_id, secrets)
  const { restore_id, token } = begun.parse(await rpc('begin_restore', { organization_id, manifest }))
  const held = { organization_id, restore_id, token }
  try {
    for await (const { table_name, number, content } of chunks) {
      await rpc('stage_restore_chunk', { ...held, table_name, number, content })
    }
    return await rpc('finish_restore', { ...held, skip_missing_members, erased_contacts })
  } catch (error) {
    await abandon(error)
    throw error
  }

  async function abandon(error: unknown): Promise<void> {
    if (error instanceof RpcError && error.error === 'backup_lease_lost') return
    try {
      await rpc('abandon_restore', { ...held, error: reasonOf(error) })
    } catch (failure) {
      log('warn', 'restore not cleaned up', { organization_id, restore_id, error: reasonOf(failure) })
    }
  }
}
