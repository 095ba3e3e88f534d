// Files that WhatsApp holds for a number: those that customers sent, and those that we uploaded.

import { createHash, randomBytes, randomInt } from 'node:crypto'
import { GraphError } from './errors.ts'

export interface MediaFile {
  id: string
  phoneNumberId: string
  mimeType: string
  size: number
  /** In hexadecimal, as the Graph API tells it; webhooks have base64. */
  sha256: string
  chunks: () => Iterable<Buffer>
}

export type Content = { bytes: Buffer } | { size: number }

const MB = 1024 * 1024
export const UPLOAD_LIMIT = 100 * MB
const URL_LIFETIME_MS = 5 * 60_000
/** A stack that runs for weeks must not grow for weeks. */
const KEPT_BYTES = 256 * MB
const KEPT_FILES = 10_000

/** What may be uploaded, and how large. */
const LIMITS: Record<string, number> = {
  'audio/aac': 16 * MB,
  'audio/amr': 16 * MB,
  'audio/mpeg': 16 * MB,
  'audio/mp4': 16 * MB,
  'audio/ogg': 16 * MB,
  'image/jpeg': 5 * MB,
  'image/png': 5 * MB,
  'image/webp': 500 * 1024,
  'video/3gpp': 16 * MB,
  'video/mp4': 16 * MB,
  'text/plain': UPLOAD_LIMIT,
  'application/pdf': UPLOAD_LIMIT,
  'application/msword': UPLOAD_LIMIT,
  'application/vnd.ms-excel': UPLOAD_LIMIT,
  'application/vnd.ms-powerpoint': UPLOAD_LIMIT,
  'application/vnd.openxmlformats-officedocument.wordprocessingml.document': UPLOAD_LIMIT,
  'application/vnd.openxmlformats-officedocument.spreadsheetml.sheet': UPLOAD_LIMIT,
  'application/vnd.openxmlformats-officedocument.presentationml.presentation': UPLOAD_LIMIT,
}

export class MediaStore {
  readonly #files = new Map<string, { file: MediaFile; held: number }>()
  readonly #urls = new Map<string, { id: string; until: number }>()
  #held = 0

  add(phoneNumberId: string, mimeType: string, content: Content): MediaFile {
    const chunks = 'bytes' in content ? () => [content.bytes] : () => filler(content.size)
    const hash = createHash('sha256')
    for (const chunk of chunks()) hash.update(chunk)
    const file: MediaFile = {
      id: String(randomInt(10 ** 14, 10 ** 14 + 2 ** 47)),
      phoneNumberId,
      mimeType,
      size: 'bytes' in content ? content.bytes.byteLength : content.size,
      sha256: hash.digest('hex'),
      chunks,
    }
    const held = 'bytes' in content ? content.bytes.byteLength : 0
    this.#files.set(file.id, { file, held })
    this.#held += held
    for (const id of this.#files.keys()) {
      if (this.#held <= KEPT_BYTES && this.#files.size <= KEPT_FILES) break
      this.remove(id)
    }
    return file
  }

  find(id: string): MediaFile | undefined {
    return this.#files.get(id)?.file
  }

  remove(id: string): void {
    this.#held -= this.#files.get(id)?.held ?? 0
    this.#files.delete(id)
  }

  forget(phoneNumberId: string | null): void {
    for (const [id, { file }] of this.#files) {
      if (phoneNumberId === null || file.phoneNumberId === phoneNumberId) this.remove(id)
    }
  }

  /** A secret that stands for the file for five minutes. */
  ticketFor(file: MediaFile, now: Date): string {
    for (const [ticket, { until }] of this.#urls) {
      if (until > now.getTime()) break
      this.#urls.delete(ticket)
    }
    const ticket = randomBytes(24).toString('base64url')
    this.#urls.set(ticket, { id: file.id, until: now.getTime() + URL_LIFETIME_MS })
    return ticket
  }

  behind(ticket: string, now: Date): MediaFile | undefined {
    const url = this.#urls.get(ticket)
    return url === undefined || url.until <= now.getTime() ? undefined : this.find(url.id)
  }
}

/** The file of a multipart upload; throws the GraphError that says what is wrong with it. */
export async function uploadedFile(
  body: Buffer,
  contentType: string | undefined,
): Promise<{ mimeType: string; bytes: Buffer }> {
  const form = await new Response(new Uint8Array(body), { headers: { 'content-type': contentType ?? '' } })
    .formData()
    .catch(() => {
      throw new GraphError(100, { details: 'The body is not multipart/form-data.' })
    })
  for (const name of form.keys()) {
    if (!['messaging_product', 'type', 'file'].includes(name)) {
      throw new GraphError(100, { details: `Unexpected key "${name}".` })
    }
  }
  if (form.get('messaging_product') !== 'whatsapp') {
    throw new GraphError(100, {
      message: '(#100) The parameter messaging_product is required.',
      details: null,
    })
  }
  const file = form.get('file')
  if (file === null || typeof file === 'string') {
    throw new GraphError(131008, { details: 'Parameter "file" is missing.' })
  }
  const given = form.get('type')
  const mimeType = bare(typeof given === 'string' && given !== '' ? given : file.type)
  const limit = LIMITS[mimeType]
  if (limit === undefined) {
    throw new GraphError(100, {
      details: `Param file must be a file with one of the supported types, not "${mimeType}".`,
    })
  }
  if (file.size > limit) {
    throw new GraphError(100, { details: `A file of type ${mimeType} has at most ${limit} bytes.` })
  }
  return { mimeType, bytes: Buffer.from(await file.arrayBuffer()) }
}

function bare(mimeType: string): string {
  return mimeType.split(';', 1)[0]?.trim().toLowerCase() ?? ''
}

/** Bytes of which nobody cares what they are, without holding them. */
function* filler(size: number): Iterable<Buffer> {
  const chunk = Buffer.alloc(64 * 1024, 'balcao')
  for (let left = size; left > 0; left -= chunk.length) yield left >= chunk.length ? chunk : chunk.subarray(0, left)
}
