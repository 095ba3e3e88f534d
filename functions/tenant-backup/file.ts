// The file of a backup: two lines that anybody can read, then frames that nobody can without the key.
//
//   {"format":"balcao-backup","version":1,"organization_id":…,"data_key":"v1.…"}   the header
//   <SHA-256 of the header>
//   <length, 4 bytes><ciphertext>   again and again
//
// Each frame is gzip under AES-256-GCM with the data key, which is this file's own and sealed by BALCAO_ENCRYPTION_KEYS for its
// organization. A frame's nonce is its number and whether it is the last one, and the header is its additional data: frames
// cannot be changed, swapped, left out, cut off or moved to another file. Only one frame is in memory at a time.
import { encodeHex } from 'deno-std/encoding/hex.js'
import { decodeBase64, encodeBase64 } from 'deno-std/encoding/base64.js'
import { z } from 'zod'
import type { SecretBox } from '../_shared/secrets.ts'
import { type Manifest, manifestSchema } from './manifest.ts'

const HEADER_LIMIT = 16 * 1024
// A chunk is about a megabyte, or one row that is larger; what announces more is no frame of ours.
const FRAME_LIMIT = 256 * 1024 * 1024
const TAG_BYTES = 16

const headerSchema = z.object({
  format: z.literal('balcao-backup'),
  version: z.number(),
  organization_id: z.guid(),
  backup_id: z.guid(),
  taken_at: z.string(),
  data_key: z.string().min(1),
})
export type Header = z.output<typeof headerSchema>

const chunkSchema = z.object({
  table_name: z.string().min(1),
  number: z.number().int().nonnegative(),
  row_count: z.number().int().positive(),
})
export type Chunk = z.output<typeof chunkSchema> & { content: string }

const endSchema = z.object({ chunks: z.number().int().nonnegative() })

export type FileProblem =
  | 'not_a_backup'
  | 'unsupported_backup'
  | 'wrong_organization'
  | 'backup_key_wrong'
  | 'backup_damaged'
  | 'backup_truncated'

/** Why a file cannot be read. Its message names no content. */
export class BackupFileError extends Error {
  override readonly name = 'BackupFileError'

  constructor(readonly code: FileProblem, message: string) {
    super(message)
  }
}

/** A key for one file, and as the file carries it. */
export async function newDataKey(
  secrets: SecretBox,
  organizationId: string,
  randomBytes: (length: number) => Uint8Array<ArrayBuffer>,
): Promise<{ key: CryptoKey; sealed: string; keyId: string }> {
  const bytes = randomBytes(32)
  const sealed = await secrets.seal(encodeBase64(bytes), { organizationId, purpose: 'backup.data_key' })
  const keyId = sealed.split('.')[1] ?? ''
  return { key: await imported(bytes), sealed, keyId }
}

export async function* backupFile(
  header: Header,
  key: CryptoKey,
  manifest: Manifest,
  chunks: AsyncIterable<Chunk>,
): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const line = encode(JSON.stringify(header))
  yield line
  yield encode(`\n${await sha256(line)}\n`)
  let number = 0
  let written = 0
  yield await frame(JSON.stringify(manifest), false)
  for await (const { content, ...head } of chunks) {
    yield await frame(`${JSON.stringify(head)}\n${content}`, false)
    written += 1
  }
  yield await frame(JSON.stringify({ chunks: written }), true)

  async function frame(text: string, isLast: boolean): Promise<Uint8Array<ArrayBuffer>> {
    const ciphertext = await crypto.subtle.encrypt(
      { name: 'AES-GCM', iv: nonce(number++, isLast), additionalData: line },
      key,
      await through(encode(text), new CompressionStream('gzip')),
    )
    const bytes = new Uint8Array(4 + ciphertext.byteLength)
    new DataView(bytes.buffer).setUint32(0, ciphertext.byteLength)
    bytes.set(new Uint8Array(ciphertext), 4)
    return bytes
  }
}

export interface OpenedFile {
  header: Header
  manifest: Manifest
  /** In the order of the file; throws at the first that is not as it was written, and at an end that comes too early. */
  chunks: AsyncGenerator<Chunk>
}

/** Reads a file of this organization's, and no other one. */
export async function openBackupFile(
  stream: ReadableStream<Uint8Array>,
  organizationId: string,
  secrets: SecretBox,
): Promise<OpenedFile> {
  const source = byteReader(stream)
  const line = await source.line(HEADER_LIMIT)
  const digest = await source.line(HEADER_LIMIT)
  const header = await parsedHeader(line, digest)
  if (header.organization_id !== organizationId) {
    throw new BackupFileError('wrong_organization', "This is another organization's backup")
  }
  const key = await dataKey(header, secrets)
  const manifest = manifestSchema.safeParse(parsed((await frame(0, false)).text))
  if (!manifest.success || manifest.data.organization_id !== organizationId) throw damaged('its manifest')
  return { header, manifest: manifest.data, chunks: chunks() }

  async function* chunks(): AsyncGenerator<Chunk> {
    for (let number = 1;; number += 1) {
      const { text, isLast } = await frame(number)
      if (isLast) {
        const end = endSchema.safeParse(parsed(text))
        if (!end.success || end.data.chunks !== number - 1 || !await source.isAtEnd()) {
          throw damaged('its end')
        }
        return
      }
      const lineEnd = text.indexOf('\n')
      const head = chunkSchema.safeParse(parsed(text.slice(0, lineEnd)))
      if (!head.success) throw damaged(`frame ${number}`)
      yield { ...head.data, content: text.slice(lineEnd + 1) }
    }
  }

  /** Whether it is the last one only its nonce tells; by default both are tried. */
  async function frame(number: number, onlyAs?: boolean): Promise<{ text: string; isLast: boolean }> {
    const length = new DataView((await source.bytes(4)).buffer).getUint32(0)
    if (length <= TAG_BYTES || length > FRAME_LIMIT) throw damaged(`frame ${number}`)
    const ciphertext = await source.bytes(length)
    for (const isLast of onlyAs === undefined ? [false, true] : [onlyAs]) {
      const plain = await crypto.subtle
        .decrypt({ name: 'AES-GCM', iv: nonce(number, isLast), additionalData: line }, key, ciphertext)
        .catch(() => null)
      if (plain === null) continue
      const text = await through(new Uint8Array(plain), new DecompressionStream('gzip'))
      return { text: new TextDecoder().decode(text), isLast }
    }
    throw damaged(`frame ${number}`)
  }
}

async function parsedHeader(line: Uint8Array<ArrayBuffer>, digest: Uint8Array): Promise<Header> {
  const text = new TextDecoder().decode(line)
  const value = parsed(text)
  const isOurs = typeof value === 'object' && value !== null && 'format' in value &&
    value.format === 'balcao-backup'
  if (!isOurs && !text.includes('balcao-backup')) {
    throw new BackupFileError('not_a_backup', 'This is no file of tenant-backup')
  }
  if (new TextDecoder().decode(digest) !== await sha256(line)) throw damaged('its header')
  const header = headerSchema.safeParse(value)
  if (!header.success) throw damaged('its header')
  if (header.data.version !== 1) {
    throw new BackupFileError(
      'unsupported_backup',
      `Backups of version ${header.data.version} are not known here`,
    )
  }
  return header.data
}

async function dataKey(header: Header, secrets: SecretBox): Promise<CryptoKey> {
  try {
    const place = { organizationId: header.organization_id, purpose: 'backup.data_key' } as const
    return await imported(decodeBase64(await secrets.open(header.data_key, place)))
  } catch (error) {
    // It names the key that is missing or wrong, never what is in it.
    const reason = error instanceof Error ? error.message : String(error)
    throw new BackupFileError('backup_key_wrong', `BALCAO_ENCRYPTION_KEYS do not open this backup: ${reason}`)
  }
}

function damaged(where: string): BackupFileError {
  return new BackupFileError('backup_damaged', `The file is not as it was written: ${where}`)
}

function nonce(number: number, isLast: boolean): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(12)
  bytes[0] = isLast ? 1 : 0
  new DataView(bytes.buffer).setBigUint64(4, BigInt(number))
  return bytes
}

function imported(bytes: Uint8Array<ArrayBuffer>): Promise<CryptoKey> {
  return crypto.subtle.importKey('raw', bytes, 'AES-GCM', false, ['encrypt', 'decrypt'])
}

async function through(
  bytes: Uint8Array<ArrayBuffer>,
  transform: CompressionStream | DecompressionStream,
): Promise<Uint8Array<ArrayBuffer>> {
  const stream = new Blob([bytes]).stream().pipeThrough(transform)
  return new Uint8Array(await new Response(stream).arrayBuffer())
}

function encode(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text)
}

async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  return encodeHex(await crypto.subtle.digest('SHA-256', bytes))
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** Takes a stream apart into pieces of a wanted size; what ends in the middle of one was cut off. */
function byteReader(stream: ReadableStream<Uint8Array>) {
  const pieces = stream[Symbol.asyncIterator]()
  let rest: Uint8Array = new Uint8Array()

  async function more(): Promise<boolean> {
    const { done, value } = await pieces.next()
    if (done) return false
    const joined = new Uint8Array(rest.byteLength + value.byteLength)
    joined.set(rest)
    joined.set(value, rest.byteLength)
    rest = joined
    return true
  }

  function taken(length: number): Uint8Array<ArrayBuffer> {
    const bytes = rest.slice(0, length)
    rest = rest.subarray(length)
    return new Uint8Array(bytes)
  }

  return {
    async line(limit: number): Promise<Uint8Array<ArrayBuffer>> {
      for (;;) {
        const end = rest.indexOf(10)
        if (end >= 0) {
          const line = taken(end)
          taken(1)
          return line
        }
        if (rest.byteLength > limit) {
          throw new BackupFileError('not_a_backup', 'This is no file of tenant-backup')
        }
        if (!await more()) throw truncated()
      }
    },

    async bytes(length: number): Promise<Uint8Array<ArrayBuffer>> {
      if (rest.byteLength < length) {
        const collected = [rest]
        let size = rest.byteLength
        while (size < length) {
          const { done, value } = await pieces.next()
          if (done) throw truncated()
          collected.push(value)
          size += value.byteLength
        }
        const joined = new Uint8Array(size)
        let offset = 0
        for (const piece of collected) {
          joined.set(piece, offset)
          offset += piece.byteLength
        }
        rest = joined
      }
      return taken(length)
    },

    async isAtEnd(): Promise<boolean> {
      while (rest.byteLength === 0) if (!await more()) return true
      return false
    },
  }
}

function truncated(): BackupFileError {
  return new BackupFileError('backup_truncated', 'The file ends too early')
}
