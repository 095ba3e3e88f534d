// Buckets, made and changed by those whom the policies of storage.buckets let; mostly the platform itself.

import { z } from 'zod'
import { become, type Caller, type StorageDatabase } from './database.ts'
import type { ObjectFiles } from './files.ts'
import { assertBucketName } from './names.ts'
import { refusals } from './refusal.ts'

interface Context {
  database: StorageDatabase
  files: ObjectFiles
}

const UNITS = new Map([['b', 1], ['kb', 1e3], ['mb', 1e6], ['gb', 1e9]])

const size = z.union([
  z.int().nonnegative(),
  z.string().regex(/^\d+(?:\.\d+)?[kmg]?b$/i, 'use 20GB / 20MB / 30KB / 3B').transform((written) => {
    const [, amount = '', unit = ''] = /^([\d.]+)(.*)$/.exec(written.toLowerCase()) ?? []
    return Math.floor(Number(amount) * (UNITS.get(unit) ?? 1))
  }),
])
const mimeTypes = z.array(
  z.string().max(1000).regex(/^(?:[\w+.-]+\/(?:[\w+.-]+|\*)|\*(?:\/\*)?)(?:\s*;.*)?$/),
)
const settings = {
  public: z.boolean().optional(),
  file_size_limit: size.nullish(),
  allowed_mime_types: mimeTypes.nullish(),
}
export const newBucket = z.object({
  id: z.string().optional(),
  name: z.string(),
  type: z.literal('STANDARD').optional(),
  ...settings,
})
export const bucketChanges = z.object(settings)

const column = z.enum(['id', 'name', 'created_at', 'updated_at'])
export const bucketQuery = z.object({
  limit: z.coerce.number().int().positive().default(1000),
  offset: z.coerce.number().int().nonnegative().default(0),
  search: z.string().default(''),
  sortColumn: column.default('name'),
  sortOrder: z.enum(['asc', 'desc']).default('asc'),
})

const COLUMNS = [
  'id',
  'name',
  'owner',
  'public',
  'type',
  'file_size_limit',
  'allowed_mime_types',
  'created_at',
  'updated_at',
] as const

interface BucketRow {
  id: string
  file_size_limit: string | null
}

/** Sizes are numbers to clients, bigint to the database. */
function shown(row: BucketRow): object {
  return { ...row, file_size_limit: row.file_size_limit === null ? null : Number(row.file_size_limit) }
}

export async function createBucket({ database }: Context, caller: Caller, bucket: z.infer<typeof newBucket>) {
  const { name, id = name, public: isPublic = false, file_size_limit, allowed_mime_types } = bucket
  assertBucketName(name)
  assertBucketName(id)
  await database.asCaller(caller, 'storage.bucket.create', (sql) =>
    sql`
      insert into storage.buckets (id, name, owner_id, public, file_size_limit, allowed_mime_types)
      values (${id}, ${name}, ${caller.owner}, ${isPublic}, ${file_size_limit ?? null}, ${
      allowed_mime_types ?? null
    })`)
  return { name }
}

export async function getBucket({ database }: Context, caller: Caller, id: string): Promise<object> {
  const [bucket] = await database.asCaller(
    caller,
    'storage.bucket.get',
    (sql) => sql<BucketRow[]>`select ${sql(COLUMNS)} from storage.buckets where id = ${id}`,
  )
  if (bucket === undefined) throw refusals.noSuchBucket()
  return shown(bucket)
}

export async function listBuckets({ database }: Context, caller: Caller, query: z.infer<typeof bucketQuery>) {
  const { limit, offset, search, sortColumn, sortOrder } = query
  const rows = await database.asCaller(caller, 'storage.bucket.list', (sql) =>
    sql<BucketRow[]>`
      select ${sql(COLUMNS)} from storage.buckets
      where position(lower(${search}) in lower(name)) > 0
      order by ${sql(sortColumn)} ${sortOrder === 'asc' ? sql`asc` : sql`desc`}
      limit ${limit} offset ${offset}`)
  return rows.map(shown)
}

export async function updateBucket(
  { database }: Context,
  caller: Caller,
  id: string,
  changes: z.infer<typeof bucketChanges>,
) {
  const given = Object.fromEntries(Object.entries(changes).filter(([, value]) => value !== undefined))
  if (Object.keys(given).length === 0) throw refusals.invalidRequest('No content provided')
  const updated = await database.asCaller(
    caller,
    'storage.bucket.update',
    (sql) => sql`update storage.buckets set ${sql({ ...given, updated_at: new Date() })} where id = ${id}`,
  )
  if (updated.count === 0) throw refusals.noSuchBucket()
  return { message: 'Successfully updated' }
}

export async function deleteBucket({ database }: Context, caller: Caller, id: string) {
  await database.asOwner(async (sql) => {
    // Held until the end, so that no object comes in between.
    const [bucket] = await sql`select id from storage.buckets where id = ${id} for update`
    if (bucket === undefined) throw refusals.noSuchBucket()
    const [object] = await sql`select id from storage.objects where bucket_id = ${id} limit 1`
    if (object !== undefined) throw refusals.bucketNotEmpty()
    await become(sql, caller, 'storage.bucket.delete')
    const deleted = await sql`delete from storage.buckets where id = ${id}`
    if (deleted.count === 0) throw refusals.noSuchBucket()
  })
  return { message: 'Successfully deleted' }
}

/** Deletes what the caller may delete. */
export async function emptyBucket(context: Context, caller: Caller, id: string) {
  const { database, files } = context
  await getBucket(context, caller, id)
  for (;;) {
    const deleted = await database.asCaller(
      caller,
      'storage.bucket.empty',
      (sql) =>
        sql<{ version: string | null }[]>`
        delete from storage.objects where id in (select id from storage.objects where bucket_id = ${id} limit 1000)
        returning version`,
    )
    for (const { version } of deleted) await files.discard(version)
    // Of a batch that yields nothing the rest is not the caller's.
    if (deleted.length === 0) {
      return { message: 'Empty bucket has been queued. Completion may take up to an hour.' }
    }
  }
}
