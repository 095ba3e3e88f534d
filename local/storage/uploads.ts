// What comes in: the body of an upload, raw or as a form, and the two transactions around its bytes. The first only tries
// whether the caller may write, before a byte is taken; the second writes the row when the file is safe.

import { randomUUID } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { become, type Caller, type StorageDatabase, type Transaction } from './database.ts'
import type { ObjectFiles, StoredFile } from './files.ts'
import { boundaryOf, partsOf, text } from './multipart.ts'
import { assertObjectName } from './names.ts'
import { refusalOf, refusals } from './refusal.ts'

/** As much as S3 takes in one request. */
const MAX_FILE_BYTES = 5 * 1024 ** 3
const MAX_FIELD_BYTES = 1024 * 1024

export interface Bucket {
  id: string
  public: boolean
  file_size_limit: string | null
  allowed_mime_types: string[] | null
}

export interface ObjectMetadata {
  eTag: string
  size: number
  mimetype: string
  cacheControl: string
  lastModified: string
  contentLength: number
  httpStatusCode: number
}

export interface Target {
  bucket: string
  name: string
  caller: Caller
  operation: string
  /** Replaces what is there. */
  upsert: boolean
}

export type UserMetadata = Record<string, unknown>

export interface NewObject {
  metadata: Partial<ObjectMetadata>
  userMetadata: UserMetadata
  version: string
}

/** What an upload says of itself before its bytes. */
interface Announcement {
  mimetype: string
  cacheControl: string
  userMetadata: UserMetadata
  contentLength: number | null
}

export async function findBucket(database: StorageDatabase, id: string): Promise<Bucket> {
  const [bucket] = await database.asOwner((sql) =>
    sql<Bucket[]>`
      select id, coalesce(public, false) as public, file_size_limit, allowed_mime_types
      from storage.buckets where id = ${id}`
  )
  if (bucket === undefined) throw refusals.noSuchBucket()
  return bucket
}

/** Takes a request's body in as the object that the target names. */
export async function upload(
  { database, files, now }: { database: StorageDatabase; files: ObjectFiles; now: () => Date },
  request: IncomingMessage,
  target: Target,
): Promise<{ id: string }> {
  const bucket = await findBucket(database, target.bucket)
  assertObjectName(target.name)
  const limit = Math.min(
    MAX_FILE_BYTES,
    bucket.file_size_limit === null ? Infinity : Number(bucket.file_size_limit),
  )
  let taken: StoredFile | null = null
  /** Everything that can be refused is, before a byte is taken. */
  const take = async (announced: Announcement, content: AsyncIterable<Uint8Array>): Promise<StoredFile> => {
    assertMimeType(announced.mimetype, bucket.allowed_mime_types)
    if (announced.contentLength !== null && announced.contentLength > limit) throw refusals.tooLarge()
    await assertMayWrite(database, target, {
      metadata: {
        mimetype: announced.mimetype,
        ...(announced.contentLength === null ? {} : { contentLength: announced.contentLength }),
      },
      userMetadata: announced.userMetadata,
    })
    return (taken = await files.receive(content, limit))
  }
  const { file, announced } = await takeBody(request, take).catch(async (error) => {
    // A form may turn out to be wrong after its file.
    await files.discard(taken?.version ?? null)
    throw error
  })
  const { mimetype, cacheControl, userMetadata } = announced
  const id = await keep({ database, files }, target, {
    version: file.version,
    metadata: {
      eTag: file.eTag,
      size: file.size,
      mimetype,
      cacheControl,
      lastModified: now().toISOString(),
      contentLength: file.size,
      httpStatusCode: 200,
    },
    userMetadata,
  })
  return { id }
}

/** Refuses who may not write the object; nothing is written. */
export async function assertMayWrite(
  database: StorageDatabase,
  target: Target,
  { metadata, userMetadata }: Omit<NewObject, 'version'>,
): Promise<void> {
  assertObjectName(target.name)
  await database.tryAs(
    target.caller,
    target.operation,
    (sql) => write(sql, target, { metadata, userMetadata, version: randomUUID() }),
  )
}

/** Writes the row of a file that is there, and discards the file that it replaces; answers with the object's id. */
export async function keep(
  { database, files }: { database: StorageDatabase; files: ObjectFiles },
  target: Target,
  object: NewObject,
): Promise<string> {
  const kept = database.asOwner(async (sql) => {
    await lockName(sql, target.bucket, target.name)
    const [replaced] = await sql<{ version: string | null }[]>`
      select version from storage.objects where bucket_id = ${target.bucket} and name = ${target.name} for update`
    await become(sql, target.caller, target.operation)
    return { id: await write(sql, target, object), replaced: replaced?.version ?? null }
  })
  const { id, replaced } = await kept.catch(async (error) => {
    // When the connection breaks off nobody knows whether it had committed: the next start tells, and clears up.
    const refusal = refusalOf(error)
    if (refusal !== null && refusal.status !== 503) await files.discard(object.version)
    throw error
  })
  await files.discard(replaced)
  return id
}

/** One writer at a time per name, so that of concurrent ones each knows whose file it replaces. */
export async function lockName(sql: Transaction, bucket: string, name: string): Promise<void> {
  await sql`select pg_advisory_xact_lock(hashtextextended(${`storage:${bucket}/${name}`}, 0))`
}

async function write(
  sql: Transaction,
  { bucket, name, caller, upsert }: Target,
  { metadata, userMetadata, version }: NewObject,
): Promise<string> {
  const id = randomUUID()
  const owner = caller.owner !== null && UUID.test(caller.owner) ? caller.owner : null
  const insert = sql`
    insert into storage.objects (id, bucket_id, name, owner, owner_id, metadata, user_metadata, version)
    values (
      ${id}, ${bucket}, ${name}, ${owner}, ${caller.owner},
      ${JSON.stringify(metadata)}::text::jsonb, ${JSON.stringify(userMetadata)}::text::jsonb, ${version}
    )`
  if (!upsert) {
    // Without "returning", which would ask for the right to read as well.
    await insert
    return id
  }
  const [written] = await sql<{ id: string }[]>`
    ${insert}
    on conflict (bucket_id, name) do update set
      metadata = excluded.metadata,
      user_metadata = excluded.user_metadata,
      version = excluded.version,
      owner = excluded.owner,
      owner_id = excluded.owner_id
    returning id`
  return written?.id ?? id
}

const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

// Bodies -------------------------------------------------------------------------------------------------------------

type Take = (announced: Announcement, content: AsyncIterable<Uint8Array>) => Promise<StoredFile>

async function takeBody(
  request: IncomingMessage,
  take: Take,
): Promise<{ file: StoredFile; announced: Announcement }> {
  // An iterator that is left early must not destroy the connection: the refusal goes out on it.
  const body: AsyncIterable<Uint8Array> = request.iterator({ destroyOnReturn: false })
  const boundary = boundaryOf(request.headers['content-type'])
  if (boundary !== null) return await takeForm(body, boundary, take)
  const length = request.headers['content-length']
  const announced = {
    mimetype: request.headers['content-type'] ?? 'application/octet-stream',
    cacheControl: request.headers['cache-control'] ?? 'no-cache',
    userMetadata: metadataOfHeader(request.headers['x-metadata']),
    contentLength: length === undefined ? null : Number(length),
  }
  return { file: await take(announced, body), announced }
}

/** The form of supabase-js: fields, and one file, which may stand before or after them. */
async function takeForm(
  body: AsyncIterable<Uint8Array>,
  boundary: string,
  take: Take,
): Promise<{ file: StoredFile; announced: Announcement }> {
  const fields = new Map<string, string>()
  let taken: { file: StoredFile; mimetype: string } | null = null
  const announce = (mimetype: string): Announcement => {
    const maxAge = fields.get('cacheControl')
    return {
      mimetype,
      cacheControl: maxAge === undefined ? 'no-cache' : `max-age=${maxAge}`,
      userMetadata: metadataOf(fields.get('metadata')),
      contentLength: null,
    }
  }
  for await (const part of partsOf(body, boundary)) {
    if (!part.isFile) {
      fields.set(part.name, await text(part.content, MAX_FIELD_BYTES))
    } else if (taken === null) {
      const mimetype = fields.get('contentType') ?? part.contentType ?? 'application/octet-stream'
      taken = { file: await take(announce(mimetype), part.content), mimetype }
    }
  }
  if (taken === null) throw refusals.invalidRequest('No content provided')
  return { file: taken.file, announced: announce(taken.mimetype) }
}

export function metadataOfHeader(header: string | string[] | undefined): UserMetadata {
  if (typeof header !== 'string') return {}
  return metadataOf(Buffer.from(header, 'base64').toString('utf8'))
}

function metadataOf(json: string | undefined): UserMetadata {
  if (json === undefined) return {}
  try {
    const value: unknown = JSON.parse(json)
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return { ...value }
  } catch {
    // Said below.
  }
  throw refusals.invalidRequest('The metadata must be a JSON object.')
}

/** As hosted, to the letter: a parameter ("audio/ogg; codecs=opus") is part of the type, and "audio/ogg" another one. */
function assertMimeType(mimetype: string, allowed: string[] | null): void {
  if (allowed === null || allowed.length === 0) return
  const [type, subtype] = mimetype.split('/')
  const fits = allowed.map((entry) => entry.split('/')).some(([allowedType, allowedSubtype]) =>
    subtype !== undefined && allowedType === type && (allowedSubtype === '*' || allowedSubtype === subtype)
  )
  if (!fits) throw refusals.invalidMimeType(mimetype)
}
