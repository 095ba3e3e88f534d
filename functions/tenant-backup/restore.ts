// Bringing a tenant back, into a project that has not got it: every chunk of the file is laid down, and the database makes a
// tenant of them in one transaction, or nothing.
import { z } from 'zod'
import { HttpError } from '../_shared/http.ts'
import type { Log } from '../_shared/log.ts'
import { reasonOf } from '../_shared/redact.ts'
import type { Rpc } from '../_shared/rpc.ts'
import type { SecretBox } from '../_shared/secrets.ts'
import { BackupFileError, openBackupFile, type OpenedFile } from './file.ts'
import type { BackupFiles } from './storage.ts'

export interface RestoreRequest {
  organization_id: string
  path: string
  skip_missing_members: boolean
  erased_contacts: string[]
  newer_path?: string | undefined
}

export interface Dependencies {
  rpc: Rpc
  secrets: SecretBox
  files: BackupFiles
  log: Log
}

const ERASURES = 'private.erasures'
const UUID = /[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/g

const begun = z.object({ restore_id: z.guid(), token: z.guid() })
const row = z.array(z.string().nullable())

export async function restoreBackup(
  { organization_id, path, skip_missing_members, erased_contacts, newer_path }: RestoreRequest,
  { rpc, secrets, files, log }: Dependencies,
): Promise<unknown> {
  const erased = new Set(erased_contacts)
  if (newer_path !== undefined) {
    for (const contact of await erasuresIn(await opened(newer_path))) erased.add(contact)
  }
  const { manifest, chunks } = await opened(path)
  const { restore_id, token } = begun.parse(await rpc('begin_restore', { organization_id, manifest }))
  const held = { organization_id, restore_id, token }
  try {
    for await (const { table_name, number, content } of chunks) {
      await rpc('stage_restore_chunk', { ...held, table_name, number, content })
    }
    return await rpc('finish_restore', { ...held, skip_missing_members, erased_contacts: [...erased] })
  } catch (error) {
    await abandon(error)
    throw error
  }

  async function opened(filePath: string): Promise<OpenedFile> {
    const stream = await files.download(filePath)
    if (stream === null) {
      throw new HttpError(404, 'backup_file_not_found', `The bucket "backups" has no file ${filePath}`)
    }
    return await openBackupFile(stream, organization_id, secrets)
  }

  /** Nothing half-done stays, as far as we still can. What cannot be told now the clean-up finds. */
  async function abandon(error: unknown): Promise<void> {
    // Somebody else has it by now, or it was finished, and only the answer was lost.
    if (error instanceof HttpError && error.code === 'backup_lease_lost') return
    const reason = error instanceof BackupFileError || error instanceof HttpError
      ? error.code
      : reasonOf(error)
    try {
      await rpc('abandon_restore', { ...held, error: reason })
    } catch (failure) {
      log('warn', 'restore not cleaned up', { organization_id, restore_id, error: reasonOf(failure) })
    }
  }
}

/** Whoever asked to be forgotten between two backups must not come back with the older one. */
async function erasuresIn({ manifest, chunks }: OpenedFile): Promise<string[]> {
  const { columns = [] } = manifest.tables.find(({ table_name }) => table_name === ERASURES) ?? {}
  // Those too who had been merged into the one who was erased: the older backup may have them apart.
  const column = columns.indexOf('contact_ids')
  const contacts: string[] = []
  // To its end: a file that was cut off may lack some.
  for await (const { table_name, content } of chunks) {
    if (table_name !== ERASURES) continue
    for (const line of content.split('\n')) {
      // An array as Postgres writes it.
      contacts.push(...(row.parse(JSON.parse(line))[column] ?? '').matchAll(UUID).map(([contact]) => contact))
    }
  }
  return contacts
}
