// Bodies that are JSON.

import type { IncomingMessage } from 'node:http'
import type { z } from 'zod'
import { refusals } from './refusal.ts'

const MAX_JSON_BYTES = 4 * 1024 * 1024

export async function json(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of request.iterator({ destroyOnReturn: false })) {
    size += chunk.length
    if (size > MAX_JSON_BYTES) throw refusals.tooLarge('body')
    chunks.push(chunk)
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8'))
  } catch {
    throw refusals.invalidRequest('The body is no JSON.')
  }
}

export function parse<Shape extends z.ZodType>(shape: Shape, value: unknown): z.output<Shape> {
  const parsed = shape.safeParse(value)
  if (parsed.success) return parsed.data
  const [issue] = parsed.error.issues
  throw refusals.invalidRequest(`${issue?.path.join('.') || 'body'}: ${issue?.message ?? 'invalid'}`)
}
