// Whence a user calls. The database sees our own address only when a function calls for him; it believes what the function
// says of him, because the function knows a key that nobody else has.
import { z } from 'zod'
import { requestId } from './log.ts'
import type { Rpc } from './rpc.ts'

const keySchema = z.string().min(32)

/** Headers that tell the database of a request's caller; none while nobody can say the key. */
export function createOrigins(platformRpc: Rpc): (request: Request) => Promise<Record<string, string>> {
  let asked: Promise<string> | undefined
  return async (request) => {
    asked ??= platformRpc('get_function_key', {}).then((key) => keySchema.parse(key))
    try {
      return originHeaders(request, await asked)
    } catch {
      // Not worth refusing a request for, and asked again with the next one: the audit log has our own address then.
      asked = undefined
      return {}
    }
  }
}

function originHeaders(request: Request, key: string): Record<string, string> {
  const { headers } = request
  const address = headers.get('cf-connecting-ip') ?? headers.get('x-real-ip') ??
    headers.get('x-forwarded-for')?.split(',')[0]?.trim()
  const userAgent = headers.get('user-agent')
  return {
    'x-balcao-function-key': key,
    'x-balcao-request-id': requestId(request),
    ...(address === undefined ? {} : { 'x-balcao-address': address }),
    ...(userAgent === null ? {} : { 'x-balcao-user-agent': userAgent }),
  }
}
