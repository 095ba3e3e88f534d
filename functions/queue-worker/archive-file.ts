// A file of the archive: lines of NDJSON, compressed. It is measured on its way into Storage, and once more on its way back,
// from what lies there: only the second measure counts.
import { createHash } from 'node:crypto'
import { z } from 'zod'
import type { ReadableStorage } from './storage.ts'

export const BUCKET = 'archive'

/** As the database knows a file; what else it says of it is only passed on. */
export const manifestSchema = z.looseObject({ row_count: z.int(), content_sha256: z.string() })
export type Manifest = z.infer<typeof manifestSchema>

/** What was found in Storage. */
export interface Measured {
  row_count: number
  content_sha256: string
  content_bytes: number
  file_sha256: string
  file_bytes: number
}

export class DamagedFile extends Error {
  override readonly name = 'DamagedFile'
}

/** Writes the lines into Storage and reads them back; or throws. A file of that name is replaced. */
export async function storeLines(
  storage: ReadableStorage,
  path: string,
  content: AsyncIterable<string>,
  signal: AbortSignal,
): Promise<Measured> {
  const sent = measuring()
  const file = bytesOf(content).pipeThrough(sent.content).pipeThrough(gzip()).pipeThrough(sent.file)
  // Whoever breaks off leaves nothing: a stream that ends in an error is no file.
  const stop = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      signal.throwIfAborted()
      controller.enqueue(chunk)
    },
  })
  await storage.upload(BUCKET, path, file.pipeThrough(stop), 'application/gzip')
  const lying = await measure(storage, path, signal)
  if (lying.file_sha256 !== sent.measured().file_sha256) {
    throw new DamagedFile(`${path} is not what was uploaded`)
  }
  return lying
}

/** A file as it lies there. */
export async function measure(
  storage: ReadableStorage,
  path: string,
  signal: AbortSignal,
): Promise<Measured> {
  const meter = measuring()
  for await (const _line of linesOf(storage, path, signal, meter)) continue
  return meter.measured()
}

/** The lines of a file, without their ends. */
export async function* linesOf(
  storage: ReadableStorage,
  path: string,
  signal: AbortSignal,
  meter: Meter = measuring(),
): AsyncGenerator<string> {
  const file = await storage.download(BUCKET, path)
  if (file === null) throw new DamagedFile(`${path} is not there`)
  const content = file.pipeThrough(meter.file).pipeThrough(gunzip()).pipeThrough(meter.content)
  const decoder = new TextDecoder('utf-8', { fatal: true })
  let rest = ''
  try {
    for await (const chunk of content) {
      signal.throwIfAborted()
      const lines = (rest + decoder.decode(chunk, { stream: true })).split('\n')
      rest = lines.pop() ?? ''
      yield* lines
    }
    rest += decoder.decode()
  } catch (error) {
    // Not gzip, or cut off, or no text: what the platform says of it differs.
    if (error instanceof TypeError) throw new DamagedFile(`${path} cannot be read: ${error.message}`)
    throw error
  }
  if (rest !== '') throw new DamagedFile(`${path} ends in the middle of a line`)
}

/** What was measured is said last, and counts. It lies beside its file, so that the archive explains itself without the database. */
export async function storeManifest(
  storage: ReadableStorage,
  path: string,
  manifest: Manifest,
  measured: Measured,
): Promise<void> {
  const text = JSON.stringify({ ...manifest, ...measured, path }, null, 2) + '\n'
  await storage.upload(BUCKET, `${path}.manifest.json`, bytesOf([text]), 'application/json')
}

interface Meter {
  content: TransformStream<Uint8Array, Uint8Array>
  file: TransformStream<Uint8Array, Uint8Array>
  /** Of what has gone through so far. */
  measured(): Measured
}

function measuring(): Meter {
  const contentHash = createHash('sha256')
  const fileHash = createHash('sha256')
  const found = { row_count: 0, content_bytes: 0, file_bytes: 0 }
  return {
    content: new TransformStream({
      transform(chunk, controller) {
        contentHash.update(chunk)
        found.content_bytes += chunk.byteLength
        for (const byte of chunk) if (byte === LINE_END) found.row_count += 1
        controller.enqueue(chunk)
      },
    }),
    file: new TransformStream({
      transform(chunk, controller) {
        fileHash.update(chunk)
        found.file_bytes += chunk.byteLength
        controller.enqueue(chunk)
      },
    }),
    measured: () => ({
      ...found,
      content_sha256: contentHash.copy().digest('hex'),
      file_sha256: fileHash.copy().digest('hex'),
    }),
  }
}

const LINE_END = 10

function bytesOf(content: AsyncIterable<string> | Iterable<string>): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder()
  return ReadableStream.from(
    (async function* () {
      for await (const text of content) yield encoder.encode(text)
    })(),
  )
}

// As the platform types them they take any kind of buffer.
function gzip(): ReadableWritablePair<Uint8Array, Uint8Array> {
  return new CompressionStream('gzip') as ReadableWritablePair<Uint8Array, Uint8Array>
}

function gunzip(): ReadableWritablePair<Uint8Array, Uint8Array> {
  return new DecompressionStream('gzip') as ReadableWritablePair<Uint8Array, Uint8Array>
}
