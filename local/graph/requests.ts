// What a request brings: its body, and a secret that is compared.

import { createHash, timingSafeEqual } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { GraphError } from './errors.ts'

export async function bodyOf(request: IncomingMessage, limit: number): Promise<Buffer> {
  const chunks: Buffer[] = []
  let length = 0
  // Read to its end even when it is too large: a connection closed on unread bytes loses the answer with it.
  for await (const chunk of request) {
    const bytes = Buffer.from(chunk)
    length += bytes.byteLength
    if (length <= limit) chunks.push(bytes)
  }
  if (length > limit) throw new GraphError(100, { status: 413, details: `The body has more than ${limit} bytes.` })
  return Buffer.concat(chunks)
}

/** In constant time. */
export function isSame(one: string, other: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(one), digest(other))
}
