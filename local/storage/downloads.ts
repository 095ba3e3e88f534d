// What goes out: an object's bytes, or a part of them, or only what there is to say of them.

import type { IncomingMessage, ServerResponse } from 'node:http'
import { pipeline } from 'node:stream/promises'
import type { ObjectFiles } from './files.ts'
import { refusals } from './refusal.ts'
import type { ObjectMetadata } from './uploads.ts'

export interface Found {
  version: string | null
  metadata: Partial<ObjectMetadata> | null
  updated_at: Date | null
}

export interface Presentation {
  /** Offered under this name; "" keeps that of the URL. */
  download: string | null
  /** In seconds, of a signed URL. */
  expires: number | null
}

/** `find` is asked again when the object was replaced between the look at its row and the look at its file. */
export async function send(
  files: ObjectFiles,
  request: IncomingMessage,
  response: ServerResponse,
  find: () => Promise<Found>,
  { download, expires }: Presentation,
): Promise<void> {
  const { found, file } = await openFound(files, find)
  try {
    const { size, mtime } = await file.stat()
    const { eTag, mimetype, cacheControl } = found.metadata ?? {}
    const modified = found.updated_at ?? mtime
    const headers: Record<string, string | number> = {
      'accept-ranges': 'bytes',
      'content-type': shownType(mimetype),
      'last-modified': modified.toUTCString(),
      'x-robots-tag': 'none',
      ...(eTag === undefined ? {} : { etag: eTag }),
      ...(expires === null
        ? { 'cache-control': cacheControl ?? 'no-cache' }
        : { expires: new Date(expires * 1000).toUTCString() }),
      ...(download === null ? {} : { 'content-disposition': attachment(download) }),
    }
    if (isKnown(request, eTag, modified)) {
      response.writeHead(304, headers).end()
      return
    }
    const range = rangeOf(request, size, eTag)
    const { start, end } = range ?? { start: 0, end: size - 1 }
    response.writeHead(range === null ? 200 : 206, {
      ...headers,
      'content-length': end - start + 1,
      ...(range === null ? {} : { 'content-range': `bytes ${start}-${end}/${size}` }),
    })
    if (request.method === 'HEAD' || end < start) {
      response.end()
      return
    }
    await pipeline(file.createReadStream({ start, end, autoClose: false }), response)
  } finally {
    await file.close()
  }
}

async function openFound(files: ObjectFiles, find: () => Promise<Found>) {
  for (let attempt = 1; attempt <= 5; attempt++) {
    const found = await find()
    const file = found.version === null ? null : await files.open(found.version)
    if (file !== null) return { found, file }
  }
  throw refusals.noSuchObject()
}

/** As hosted: a page that somebody uploaded must not run under the project's address. */
function shownType(mimetype = 'application/octet-stream'): string {
  return mimetype.includes('text/html') ? 'text/plain' : mimetype
}

function attachment(name: string): string {
  if (name === '') return 'attachment;'
  const encoded = encodeURIComponent(name).replaceAll(
    /['()*]/g,
    (sign) => `%${sign.charCodeAt(0).toString(16).toUpperCase()}`,
  )
  return `attachment; filename=${encoded}; filename*=UTF-8''${encoded}`
}

function isKnown(request: IncomingMessage, eTag: string | undefined, modified: Date): boolean {
  const { 'if-none-match': tags, 'if-modified-since': since } = request.headers
  if (tags !== undefined) {
    return tags.split(',').map((tag) => tag.trim().replace(/^W\//, '')).some((tag) =>
      tag === '*' || tag === eTag
    )
  }
  // Without fractions of a second, as the header is.
  return since !== undefined && Math.floor(modified.getTime() / 1000) * 1000 <= Date.parse(since)
}

/** Null for the whole; several ranges at once are answered with the whole, as the standard allows. */
function rangeOf(
  request: IncomingMessage,
  size: number,
  eTag?: string,
): { start: number; end: number } | null {
  const { range, 'if-range': onlyIf } = request.headers
  const [, first, last] = /^bytes=(\d*)-(\d*)$/.exec(range?.trim() ?? '') ?? []
  if (first === undefined || last === undefined || (first === '' && last === '')) return null
  if (onlyIf !== undefined && onlyIf !== eTag) return null
  if (first === '') {
    if (Number(last) === 0 || size === 0) throw refusals.invalidRange(size)
    return { start: Math.max(0, size - Number(last)), end: size - 1 }
  }
  const start = Number(first)
  if (last !== '' && Number(last) < start) return null
  if (start >= size) throw refusals.invalidRange(size)
  return { start, end: last === '' ? size - 1 : Math.min(Number(last), size - 1) }
}
