// Which request is which: the paths below /storage/v1, as hosted.

import type { IncomingMessage, ServerResponse } from 'node:http'
import { z } from 'zod'
import * as buckets from './buckets.ts'
import { parse } from './body.ts'
import type { Caller, StorageDatabase } from './database.ts'
import { send } from './downloads.ts'
import type { ObjectFiles } from './files.ts'
import { partsOf } from './names.ts'
import * as objects from './objects.ts'
import { refusals } from './refusal.ts'
import type { UrlSigner } from './signed-urls.ts'
import { assertMayWrite, metadataOfHeader, upload } from './uploads.ts'

const SIGNED_UPLOAD_SECONDS = 2 * 3600

/** A role that bypasses policies, for what a signed URL has allowed before. */
const asTrusted = (owner: string | null): Caller => ({
  role: 'service_role',
  claims: { role: 'service_role' },
  owner,
})

export interface Exchange {
  request: IncomingMessage
  response: ServerResponse
  query: URLSearchParams
  bucket: string
  /** Of the object; empty where there is none. */
  name: string
  caller: Caller
  /** The body as JSON. */
  body<Shape extends z.ZodType>(shape: Shape): Promise<z.output<Shape>>
}

export interface Route {
  method: string
  /** ":bucket" stands for one part of the path, "*" for all that follow. */
  pattern: string
  open?: true
  /** Answers with what to send as JSON; undefined when it has sent its answer itself. */
  answer: (exchange: Exchange) => Promise<unknown>
}

export function routesOf(
  context: { database: StorageDatabase; files: ObjectFiles; now: () => Date; signer: UrlSigner },
): Route[] {
  const { files, signer } = context
  const read = (method: string, pattern: string, operation: string): Route => ({
    method,
    pattern,
    answer: ({ request, response, query, bucket, name, caller }) =>
      send(files, request, response, () => objects.readableObject(context, caller, operation, bucket, name), {
        download: query.get('download'),
        expires: null,
      }),
  })
  const write = (method: string, operation: string): Route => ({
    method,
    pattern: 'object/:bucket/*',
    answer: async ({ request, bucket, name, caller }) => {
      const upsert = method === 'PUT' || request.headers['x-upsert'] === 'true'
      const { id } = await upload(context, request, { bucket, name, caller, operation, upsert })
      return { Id: id, Key: `${bucket}/${name}` }
    },
  })
  const readPublic = (method: string): Route => ({
    method,
    pattern: 'object/public/:bucket/*',
    open: true,
    answer: ({ request, response, query, bucket, name }) =>
      send(files, request, response, () => objects.publicObject(context, bucket, name), {
        download: query.get('download'),
        expires: null,
      }),
  })
  const readSigned = (method: string): Route => ({
    method,
    pattern: 'object/sign/:bucket/*',
    open: true,
    answer: ({ request, response, query, bucket, name }) => {
      const { exp } = signer.checkDownload(query.get('token'), bucket, name)
      return send(files, request, response, () => objects.anyObject(context, bucket, name), {
        download: query.get('download'),
        expires: exp,
      })
    },
  })
  const info = (pattern: string): Route => ({
    method: 'GET',
    pattern,
    answer: async ({ bucket, name, caller }) =>
      objects.infoOf(
        await objects.readableObject(context, caller, 'object.get_authenticated_info', bucket, name),
      ),
  })
  const missing = (pattern: string, what: string): Route[] =>
    ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'].map((method) => ({
      method,
      pattern,
      answer: () => Promise.reject(refusals.notImplemented(what)),
    }))

  // The first that fits answers.
  return [
    {
      method: 'POST',
      pattern: 'bucket',
      answer: async ({ caller, body }) =>
        buckets.createBucket(context, caller, await body(buckets.newBucket)),
    },
    {
      method: 'GET',
      pattern: 'bucket',
      answer: ({ caller, query }) =>
        buckets.listBuckets(context, caller, parse(buckets.bucketQuery, Object.fromEntries(query))),
    },
    {
      method: 'GET',
      pattern: 'bucket/:bucket',
      answer: ({ caller, bucket }) => buckets.getBucket(context, caller, bucket),
    },
    {
      method: 'PUT',
      pattern: 'bucket/:bucket',
      answer: async ({ caller, bucket, body }) =>
        buckets.updateBucket(context, caller, bucket, await body(buckets.bucketChanges)),
    },
    {
      method: 'DELETE',
      pattern: 'bucket/:bucket',
      answer: ({ caller, bucket }) => buckets.deleteBucket(context, caller, bucket),
    },
    {
      method: 'POST',
      pattern: 'bucket/:bucket/empty',
      answer: ({ caller, bucket }) => buckets.emptyBucket(context, caller, bucket),
    },
    {
      method: 'POST',
      pattern: 'object/list/:bucket',
      answer: async ({ caller, bucket, body }) =>
        objects.listObjects(context, caller, bucket, await body(objects.listing)),
    },
    {
      method: 'POST',
      pattern: 'object/list-v2/:bucket',
      answer: async ({ caller, bucket, body }) =>
        objects.listObjectsByPage(context, caller, bucket, await body(objects.pagedListing)),
    },
    {
      method: 'POST',
      pattern: 'object/move',
      answer: async ({ caller, body }) => objects.moveObject(context, caller, await body(objects.transfer)),
    },
    {
      method: 'POST',
      pattern: 'object/copy',
      answer: async ({ caller, request, body }) =>
        objects.copyObject(context, caller, await body(objects.copyRequest), {
          upsert: request.headers['x-upsert'] === 'true',
          userMetadata: metadataOfHeader(request.headers['x-metadata']),
        }),
    },
    {
      method: 'POST',
      pattern: 'object/sign/:bucket',
      answer: async ({ caller, bucket, body }) => {
        const { paths, expiresIn } = await body(
          signing.extend({ paths: z.array(z.string()).min(1).max(1000) }),
        )
        const visible = await objects.visibleNames(context, caller, bucket, paths)
        return paths.map((path) =>
          visible.has(path)
            ? {
              error: null,
              path,
              signedURL: signedUrl(bucket, path, signer.forDownload(bucket, path, expiresIn)),
            }
            : {
              error: 'Either the object does not exist or you do not have access to it',
              path,
              signedURL: null,
            }
        )
      },
    },
    {
      method: 'POST',
      pattern: 'object/sign/:bucket/*',
      answer: async ({ caller, bucket, name, body }) => {
        const { expiresIn, transform } = await body(signing)
        if (transform !== undefined) throw refusals.notImplemented('image transformation')
        const visible = await objects.visibleNames(context, caller, bucket, [name])
        if (!visible.has(name)) throw refusals.noSuchObject()
        return { signedURL: signedUrl(bucket, name, signer.forDownload(bucket, name, expiresIn)) }
      },
    },
    readSigned('GET'),
    readSigned('HEAD'),
    {
      method: 'POST',
      pattern: 'object/upload/sign/:bucket/*',
      answer: async ({ caller, request, bucket, name }) => {
        const upsert = request.headers['x-upsert'] === 'true'
        const userMetadata = metadataOfHeader(request.headers['x-metadata'])
        const operation = 'storage.object.sign_upload_url'
        await assertMayWrite(context.database, { bucket, name, caller, operation, upsert }, {
          metadata: {},
          userMetadata,
        })
        const token = signer.forUpload(bucket, name, {
          owner: caller.owner,
          upsert,
          seconds: SIGNED_UPLOAD_SECONDS,
        })
        return { url: `/object/upload/sign/${bucket}/${encodeURI(name)}?token=${token}`, token }
      },
    },
    {
      method: 'PUT',
      pattern: 'object/upload/sign/:bucket/*',
      open: true,
      answer: async ({ request, query, bucket, name }) => {
        const { owner, upsert } = signer.checkUpload(query.get('token'), bucket, name)
        const operation = 'storage.object.upload_signed'
        await upload(context, request, { bucket, name, caller: asTrusted(owner), operation, upsert })
        return { Key: `${bucket}/${name}` }
      },
    },
    readPublic('GET'),
    readPublic('HEAD'),
    {
      method: 'GET',
      pattern: 'object/info/public/:bucket/*',
      open: true,
      answer: async ({ bucket, name }) => objects.infoOf(await objects.publicObject(context, bucket, name)),
    },
    info('object/info/authenticated/:bucket/*'),
    info('object/info/:bucket/*'),
    read('GET', 'object/authenticated/:bucket/*', 'storage.object.get_authenticated'),
    read('HEAD', 'object/authenticated/:bucket/*', 'object.head_authenticated_info'),
    {
      method: 'DELETE',
      pattern: 'object/:bucket',
      answer: async ({ caller, bucket, body }) => {
        const { prefixes } = await body(objects.removal)
        return await objects.removeObjects(context, caller, bucket, prefixes)
      },
    },
    {
      method: 'DELETE',
      pattern: 'object/:bucket/*',
      answer: ({ caller, bucket, name }) => objects.removeObject(context, caller, bucket, name),
    },
    write('POST', 'storage.object.upload'),
    write('PUT', 'storage.object.upload_update'),
    read('GET', 'object/:bucket/*', 'storage.object.get_authenticated'),
    read('HEAD', 'object/:bucket/*', 'object.head_authenticated_info'),
    ...missing('render/*', 'image transformation'),
    ...missing('upload/resumable', 'resumable uploads'),
    ...missing('upload/resumable/*', 'resumable uploads'),
    ...missing('s3/*', 'S3 protocol'),
    ...missing('cdn/*', 'cache to purge'),
    ...missing('iceberg/*', 'analytics buckets'),
    ...missing('vector/*', 'vector buckets'),
  ]
}

const signing = z.object({ expiresIn: z.int().positive(), transform: z.unknown().optional() })

/** Not encoded: the client does that. */
function signedUrl(bucket: string, name: string, token: string): string {
  return `/object/sign/${bucket}/${name}?token=${token}`
}

export function find(
  routes: Route[],
  method: string,
  path: string,
): { route: Route; bucket: string; name: string } {
  const parts = partsOf(path)
  for (const route of routes) {
    if (route.method !== method) continue
    const match = fit(route.pattern.split('/'), parts)
    if (match !== null) return { route, ...match }
  }
  throw refusals.noSuchRoute(`${method}:${path}`)
}

function fit(pattern: string[], parts: string[]): { bucket: string; name: string } | null {
  const takesRest = pattern.at(-1) === '*'
  const fixed = takesRest ? pattern.slice(0, -1) : pattern
  if (takesRest ? parts.length <= fixed.length : parts.length !== fixed.length) return null
  let bucket = ''
  for (const [index, expected] of fixed.entries()) {
    const part = parts[index] ?? ''
    if (expected.startsWith(':')) {
      if (part === '') return null
      bucket = part
    } else if (part !== expected) {
      return null
    }
  }
  const name = parts.slice(fixed.length).join('/')
  return takesRest && name === '' ? null : { bucket, name }
}
