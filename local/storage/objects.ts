// Objects: found, listed, moved, copied and removed, as far as the caller's policies let.

import { z } from 'zod'
import type { Caller, StorageDatabase, Transaction } from './database.ts'
import type { Found } from './downloads.ts'
import type { ObjectFiles } from './files.ts'
import { assertObjectName } from './names.ts'
import { refusals } from './refusal.ts'
import {
  assertMayWrite,
  findBucket,
  keep,
  lockName,
  type ObjectMetadata,
  type UserMetadata,
} from './uploads.ts'

interface Context {
  database: StorageDatabase
  files: ObjectFiles
}

export interface ObjectRow extends Found {
  id: string
  bucket_id: string
  name: string
  owner: string | null
  owner_id: string | null
  user_metadata: UserMetadata | null
  created_at: Date
  updated_at: Date
  last_accessed_at: Date
  metadata: Partial<ObjectMetadata> | null
}

const COLUMNS = [
  'id',
  'bucket_id',
  'name',
  'owner',
  'owner_id',
  'version',
  'metadata',
  'user_metadata',
  'created_at',
  'updated_at',
  'last_accessed_at',
] as const

const prefixes = z.array(z.string().max(1024)).min(1).max(1000)
export const removal = z.object({ prefixes })
export const transfer = z.object({
  bucketId: z.string(),
  sourceKey: z.string(),
  destinationBucket: z.string().nullish(),
  destinationKey: z.string(),
})
export const copyRequest = transfer.extend({
  copyMetadata: z.boolean().default(true),
  metadata: z.object({ cacheControl: z.string(), mimetype: z.string() }).partial().nullish(),
})
export const listing = z.object({
  prefix: z.string().default(''),
  limit: z.int().positive().default(100),
  offset: z.int().nonnegative().default(0),
  search: z.string().nullish(),
  sortBy: z.object({
    column: z.enum(['name', 'updated_at', 'created_at', 'last_accessed_at']).default('name'),
    order: z.enum(['asc', 'desc']).default('asc'),
  }).prefault({}),
})
export const pagedListing = z.object({
  prefix: z.string().default(''),
  limit: z.int().positive().max(1000).default(1000),
  cursor: z.string().optional(),
  with_delimiter: z.boolean().default(false),
  sortBy: z.object({
    column: z.enum(['name', 'updated_at', 'created_at']).default('name'),
    order: z.enum(['asc', 'desc']).default('asc'),
  }).prefault({}),
})
const cursor = z.object({ after: z.string(), instant: z.string().nullable() })

async function select(sql: Transaction, bucket: string, name: string): Promise<ObjectRow> {
  const [row] = await sql<ObjectRow[]>`
    select ${sql(COLUMNS)} from storage.objects where bucket_id = ${bucket} and name = ${name}`
  if (row === undefined) throw refusals.noSuchObject()
  return row
}

/** As the caller sees it; in a public bucket everybody may read. */
export async function readableObject(
  { database }: Context,
  caller: Caller,
  operation: string,
  bucket: string,
  name: string,
): Promise<ObjectRow> {
  const { public: isPublic } = await findBucket(database, bucket)
  return isPublic
    ? await database.asOwner((sql) => select(sql, bucket, name))
    : await database.asCaller(caller, operation, (sql) => select(sql, bucket, name))
}

export async function publicObject({ database }: Context, bucket: string, name: string): Promise<ObjectRow> {
  if (!(await findBucket(database, bucket)).public) throw refusals.noSuchBucket()
  return await database.asOwner((sql) => select(sql, bucket, name))
}

/** Of whom a signed URL has spoken already. */
export async function anyObject({ database }: Context, bucket: string, name: string): Promise<ObjectRow> {
  return await database.asOwner((sql) => select(sql, bucket, name))
}

export function infoOf(row: ObjectRow): object {
  const { size, mimetype, cacheControl, eTag } = row.metadata ?? {}
  return {
    id: row.id,
    name: row.name,
    version: row.version,
    bucket_id: row.bucket_id,
    size: size ?? null,
    content_type: mimetype ?? null,
    cache_control: cacheControl ?? null,
    etag: eTag ?? null,
    metadata: row.user_metadata,
    last_modified: row.updated_at,
    created_at: row.created_at,
  }
}

/** Which of these names the caller sees. */
export async function visibleNames({ database }: Context, caller: Caller, bucket: string, names: string[]) {
  const rows = await database.asCaller(caller, 'storage.object.sign_many', (sql) =>
    sql<{ name: string }[]>`
      select name from storage.objects where bucket_id = ${bucket} and name = any(${names}::text[])`)
  return new Set(rows.map(({ name }) => name))
}

export async function listObjects(
  { database }: Context,
  caller: Caller,
  bucket: string,
  { prefix, limit, offset, search, sortBy }: z.infer<typeof listing>,
) {
  const folder = prefix === '' || prefix.endsWith('/') ? prefix : `${prefix}/`
  return await database.asCaller(caller, 'storage.object.list', (sql) =>
    sql`
      select * from storage.search(
        ${folder}, ${bucket}, ${limit}, 1, ${offset}, ${search ?? ''}, ${sortBy.column}, ${sortBy.order})`)
}

export async function listObjectsByPage(
  { database }: Context,
  caller: Caller,
  bucket: string,
  request: z.infer<typeof pagedListing>,
) {
  const { prefix, limit, with_delimiter: withDelimiter, sortBy } = request
  const from = request.cursor === undefined ? null : cursorOf(request.cursor)
  const rows = await database.asCaller(caller, 'storage.object.list_v2', (sql) =>
    // The time of the cursor is text: a Date has no microseconds.
    sql<{ key: string; id: string | null; instant: string | null }[]>`
      select p.*, case ${sortBy.column} when 'updated_at' then p.updated_at when 'created_at' then p.created_at end::text
        as instant
      from storage.search_v2(
        ${prefix}, ${bucket}, ${limit + 1}, ${withDelimiter}, ${
      from?.after ?? ''
    }, ${sortBy.order}, ${sortBy.column},
        ${from?.instant ?? null}::text::timestamptz) p`)
  const page = rows.slice(0, limit)
  const last = page.at(-1)
  const hasNext = rows.length > limit
  return {
    hasNext,
    ...(hasNext && last !== undefined
      ? { nextCursor: cursorFor({ after: last.key, instant: last.instant }) }
      : {}),
    folders: page.filter(({ id }) => id === null).map(({ key }) => ({ key, name: key })),
    objects: page.filter(({ id }) => id !== null).map(({ instant: _, ...row }) => ({
      ...row,
      name: row.key,
    })),
  }
}

function cursorFor(value: z.infer<typeof cursor>): string {
  return Buffer.from(JSON.stringify(value)).toString('base64url')
}

function cursorOf(written: string): z.infer<typeof cursor> {
  try {
    return cursor.parse(JSON.parse(Buffer.from(written, 'base64url').toString('utf8')))
  } catch {
    throw refusals.invalidRequest('The cursor is none that we gave.')
  }
}

/** Only the row changes: no file is named after its object. */
export async function moveObject({ database }: Context, caller: Caller, request: z.infer<typeof transfer>) {
  const { bucketId, sourceKey, destinationKey, destinationBucket } = request
  assertObjectName(destinationKey)
  const bucket = destinationBucket ?? bucketId
  await findBucket(database, bucket)
  const { id } = await database.asCaller(caller, 'storage.object.move', async (sql) => {
    await lockName(sql, bucket, destinationKey)
    const source = await select(sql, bucketId, sourceKey)
    const moved = await sql`
      update storage.objects set bucket_id = ${bucket}, name = ${destinationKey} where id = ${source.id}`
    // Seen, but not the caller's to change.
    if (moved.count === 0) throw refusals.noSuchObject()
    return source
  })
  return { message: 'Successfully moved', Id: id, Key: destinationKey }
}

export async function copyObject(
  context: Context,
  caller: Caller,
  request: z.infer<typeof copyRequest>,
  { upsert, userMetadata }: { upsert: boolean; userMetadata: UserMetadata },
) {
  const { database, files } = context
  const { bucketId, sourceKey, destinationKey } = request
  const bucket = request.destinationBucket ?? bucketId
  await findBucket(database, bucket)
  const operation = 'storage.object.copy'
  const target = { bucket, name: destinationKey, caller, operation, upsert }
  const { cacheControl, mimetype } = request.metadata ?? {}
  const given = {
    ...(cacheControl === undefined ? {} : { cacheControl }),
    ...(mimetype === undefined ? {} : { mimetype }),
  }
  // Once more when the source was replaced between the look at its row and the copy of its file.
  for (let attempt = 1; attempt <= 5; attempt++) {
    const source = await database.asCaller(caller, operation, (sql) => select(sql, bucketId, sourceKey))
    const copy = {
      metadata: { ...source.metadata, ...(request.copyMetadata ? {} : given) },
      userMetadata: request.copyMetadata ? source.user_metadata ?? {} : userMetadata,
    }
    await assertMayWrite(database, target, copy)
    const version = source.version === null ? null : await files.copy(source.version)
    if (version === null) continue
    const id = await keep(context, target, { ...copy, version })
    return {
      Id: id,
      Key: `${bucket}/${destinationKey}`,
      id,
      bucket_id: bucket,
      name: destinationKey,
      version,
    }
  }
  throw refusals.noSuchObject()
}

/** Answers with the objects that were removed; what the caller does not see or may not delete is passed over. */
export async function removeObjects(
  { database, files }: Context,
  caller: Caller,
  bucket: string,
  names: string[],
) {
  const removed = await database.asCaller(caller, 'storage.object.delete_many', (sql) =>
    sql<ObjectRow[]>`
      delete from storage.objects where bucket_id = ${bucket} and name = any(${names}::text[])
      returning ${sql(COLUMNS)}`)
  for (const { version } of removed) await files.discard(version)
  return removed
}

export async function removeObject(context: Context, caller: Caller, bucket: string, name: string) {
  const [removed] = await removeObjects(context, caller, bucket, [name])
  if (removed === undefined) throw refusals.noSuchObject()
  return { message: 'Successfully deleted' }
}
