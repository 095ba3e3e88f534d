// Liveness only: that this function was deployed, booted and answers. It asks nothing of the database.
import { answering } from '../_shared/answer.ts'
import { methodNotAllowed } from '../_shared/http.ts'
import type { Log } from '../_shared/log.ts'

export function createHandler(log: Log): (request: Request) => Promise<Response> {
  return answering((request) => {
    if (request.method !== 'GET' && request.method !== 'HEAD') throw methodNotAllowed('GET, HEAD')
    const headers = { 'content-type': 'application/json' }
    const body = JSON.stringify({ status: 'alive' })
    return new Response(request.method === 'HEAD' ? null : body, { headers })
  }, log)
}
