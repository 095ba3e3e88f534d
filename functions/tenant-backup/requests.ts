// What a caller may ask for: read, checked and named by field before anything else happens.
import { z } from 'zod'
import { HttpError } from '../_shared/http.ts'
import { isObject } from '../_shared/json.ts'

// As Postgres writes it: a key is sealed for its organization, and only the same spelling opens it.
const id = z.guid().toLowerCase()
// A file of the bucket, and nothing that a URL would read as something else.
const path = z.string().max(500).regex(/^[A-Za-z0-9_.-]+(\/[A-Za-z0-9_.-]+)*$/)
  .refine((value) => value.split('/').every((part) => part !== '.' && part !== '..'))

export const requestSchema = z.discriminatedUnion('action', [
  z.object({ action: z.literal('create'), organization_id: id, wait: z.boolean().default(true) }),
  z.object({ action: z.literal('list'), organization_id: id }),
  z.object({ action: z.literal('verify'), organization_id: id, backup_id: id }),
  z.object({ action: z.literal('run'), organization_id: id, backup_id: id }),
  z.object({
    action: z.literal('restore'),
    organization_id: id,
    path,
    skip_missing_members: z.boolean().default(false),
    /** Erased after the backup was taken: they are erased again. */
    erased_contacts: z.array(id).max(100_000).default([]),
    /** A newer backup of the same organization, which knows of those. */
    newer_path: path.optional(),
  }),
  z.object({ action: z.literal('release'), organization_id: id }),
  z.object({ action: z.literal('cleanup') }),
])
export type BackupRequest = z.output<typeof requestSchema>

export function checked(body: unknown): BackupRequest {
  // The clock calls with nothing to say.
  const isEmpty = isObject(body) && Object.keys(body).length === 0
  const read = requestSchema.safeParse(isEmpty ? { action: 'cleanup' } : body)
  if (read.success) return read.data
  const [issue] = read.error.issues
  const field = issue?.path.join('.') || 'The body'
  throw new HttpError(400, 'invalid_request', `${field}: ${issue?.message ?? 'is not valid'}`)
}
