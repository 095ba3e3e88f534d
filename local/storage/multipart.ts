// multipart/form-data, part by part as it arrives: a file of any size passes through a few kilobytes of memory.

import { refusals } from './refusal.ts'

export interface Part {
  name: string
  isFile: boolean
  contentType: string | null
  /** To be read to its end before the next part is asked for. */
  content: AsyncIterable<Uint8Array>
}

const MAX_HEADER_BYTES = 16 * 1024
const LINE_END = Buffer.from('\r\n')
const HEADERS_END = Buffer.from('\r\n\r\n')
const LAST = Buffer.from('--')

/** Null for what is no multipart/form-data. */
export function boundaryOf(contentType: string | undefined): string | null {
  if (contentType === undefined || !/^multipart\/form-data\s*;/i.test(contentType)) return null
  const [, quoted, bare] = /;\s*boundary=(?:"([^"]+)"|([^\s;]+))/i.exec(contentType) ?? []
  const boundary = quoted ?? bare
  if (boundary === undefined || boundary.length > 200) {
    throw refusals.invalidRequest('The multipart boundary is missing.')
  }
  return boundary
}

export async function* partsOf(body: AsyncIterable<Uint8Array>, boundary: string): AsyncGenerator<Part> {
  const reader = new Reader(body)
  const delimiter = Buffer.from(`\r\n--${boundary}`)
  try {
    // The first delimiter has no line before it; what stands before it means nothing.
    reader.putBack(LINE_END)
    await drain(reader.until(delimiter))
    for (;;) {
      const afterDelimiter = await reader.take(2)
      if (afterDelimiter.equals(LAST)) return await reader.skipRest()
      if (!afterDelimiter.equals(LINE_END)) throw malformed()
      reader.putBack(afterDelimiter)
      const headers = headersOf(await text(reader.until(HEADERS_END), MAX_HEADER_BYTES))
      const disposition = headers.get('content-disposition') ?? ''
      const content = reader.until(delimiter)
      yield {
        name: /;\s*name="([^"]*)"/i.exec(disposition)?.[1] ?? '',
        isFile: /;\s*filename\*?=/i.test(disposition),
        contentType: headers.get('content-type') ?? null,
        content,
      }
      await drain(content)
    }
  } finally {
    // Lets go of the body, which somebody else may have to read to its end.
    await reader.release()
  }
}

/** All of a part as text; refused when it is longer than `limit` bytes. */
export async function text(content: AsyncIterable<Uint8Array>, limit: number): Promise<string> {
  const chunks: Uint8Array[] = []
  let size = 0
  for await (const chunk of content) {
    size += chunk.byteLength
    if (size > limit) throw refusals.tooLarge('form field')
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

class Reader {
  private buffer = Buffer.alloc(0)
  private readonly chunks: AsyncIterator<Uint8Array>

  constructor(body: AsyncIterable<Uint8Array>) {
    this.chunks = body[Symbol.asyncIterator]()
  }

  putBack(bytes: Buffer): void {
    this.buffer = Buffer.concat([bytes, this.buffer])
  }

  async take(length: number): Promise<Buffer> {
    while (this.buffer.length < length) await this.more()
    const taken = this.buffer.subarray(0, length)
    this.buffer = this.buffer.subarray(length)
    return taken
  }

  /** What stands before `mark`, which is taken too. */
  async *until(mark: Buffer): AsyncGenerator<Uint8Array> {
    for (;;) {
      const found = this.buffer.indexOf(mark)
      if (found >= 0) {
        const rest = this.buffer.subarray(0, found)
        this.buffer = this.buffer.subarray(found + mark.length)
        if (rest.length > 0) yield rest
        return
      }
      // The mark may have begun in the last bytes.
      const certain = this.buffer.length - mark.length + 1
      if (certain > 0) {
        const part = this.buffer.subarray(0, certain)
        this.buffer = this.buffer.subarray(certain)
        yield part
      }
      await this.more()
    }
  }

  /** What stands after the last delimiter means nothing, but has to be read. */
  async skipRest(): Promise<void> {
    for (let next = await this.chunks.next(); !next.done;) next = await this.chunks.next()
  }

  async release(): Promise<void> {
    await this.chunks.return?.()
  }

  private async more(): Promise<void> {
    const { done, value } = await this.chunks.next()
    if (done) throw malformed()
    this.buffer = Buffer.concat([this.buffer, value])
  }
}

async function drain(content: AsyncIterable<Uint8Array>): Promise<void> {
  for await (const _chunk of content) {
    // Nobody wants it.
  }
}

function headersOf(block: string): Map<string, string> {
  const headers = new Map<string, string>()
  for (const line of block.split('\r\n')) {
    const colon = line.indexOf(':')
    if (colon > 0) headers.set(line.slice(0, colon).trim().toLowerCase(), line.slice(colon + 1).trim())
  }
  return headers
}

function malformed() {
  return refusals.invalidRequest('The multipart body is malformed or breaks off.')
}
