// Whether the platform lives, to anybody: that this function was deployed, booted and answers. How it is, to whoever has
// the secret key: what the database says of itself, with a status that an uptime monitor understands. Nothing else is told
// apart: a wrong key hears what no key hears.
import { z } from 'zod'
import { answering } from '../_shared/answer.ts'
import { hasSecretKey } from '../_shared/caller.ts'
import { methodNotAllowed } from '../_shared/http.ts'
import type { Log } from '../_shared/log.ts'
import { reasonOf } from '../_shared/redact.ts'
import { type Rpc, RpcError } from '../_shared/rpc.ts'

export interface Dependencies {
  /** With the secret key. */
  rpc: Rpc
  secretKeys: readonly string[]
  log: Log
}

const health = z.looseObject({
  status: z.enum(['healthy', 'degraded', 'unhealthy']),
  reasons: z.array(z.looseObject({ kind: z.string(), severity: z.string() })),
})
type Health = z.infer<typeof health>

export function createHandler(
  { rpc, secretKeys, log }: Dependencies,
): (request: Request) => Promise<Response> {
  return answering(async (request, notes) => {
    if (request.method !== 'GET' && request.method !== 'HEAD') throw methodNotAllowed('GET, HEAD')
    if (!await hasSecretKey(request, secretKeys)) return answerTo(request, 200, { status: 'alive' })

    const detail = await asked()
    notes['health'] = detail.status
    notes['reasons'] = detail.reasons.map(({ kind }) => kind)
    return answerTo(request, detail.status === 'unhealthy' ? 503 : 200, detail)
  }, log)

  async function asked(): Promise<Health> {
    try {
      return health.parse(await rpc('system_health', {}))
    } catch (error) {
      log('error', 'health unknown', { error: reasonOf(error) })
      return unknown(error)
    }
  }
}

/** Who cannot be asked is not well. */
function unknown(error: unknown): Health & { database: string } {
  const isUnreachable = error instanceof RpcError && !isAnswerOfPostgres(error)
  return {
    status: 'unhealthy',
    reasons: [{
      kind: isUnreachable ? 'database_unreachable' : 'health_failing',
      severity: 'critical',
      message: isUnreachable ? 'The database does not answer' : 'The database cannot say how it is',
    }],
    database: isUnreachable ? 'unreachable' : 'connected',
  }
}

/**
 * A SQLSTATE that is neither a lost connection (08), too few resources (53) nor a shutdown (57P); or an error of PostgREST's
 * own (PGRST0xx: it has no database).
 */
function isAnswerOfPostgres({ status, code }: RpcError): boolean {
  return status > 0 && /^(?:(?!08|53|57P)[0-9A-Z]{5}|PGRST[1-9][0-9]{2})$/.test(code)
}

function answerTo({ method }: Request, status: number, body: Record<string, unknown>): Response {
  const headers = { 'cache-control': 'no-store', 'content-type': 'application/json' }
  return new Response(method === 'HEAD' ? null : JSON.stringify(body), { status, headers })
}
