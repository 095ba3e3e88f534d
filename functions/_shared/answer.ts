// The frame around every handler: each request has one answer and one log line, whatever happens inside. A function that
// is called every second, mostly for nothing, may leave out the line for nothing.
import { errorAnswer, HttpError } from './http.ts'
import { type Log, requestId } from './log.ts'

/** What a handler adds to the log line of its request. */
export type Notes = Record<string, unknown>
export type Handle = (request: Request, notes: Notes) => Response | Promise<Response>

// An answer is for the program that asked: no page, not to be guessed at, framed, kept on the way or told where it led.
const SECURITY_HEADERS = {
  'x-content-type-options': 'nosniff',
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
  'referrer-policy': 'no-referrer',
  'cache-control': 'no-store',
}

export function answering(
  handle: Handle,
  log: Log,
  /** Of what succeeded; what did not is always worth one. */
  isWorthALine: (notes: Notes) => boolean = () => true,
): (request: Request) => Promise<Response> {
  return async (request) => {
    const startedAt = performance.now()
    const id = requestId(request)
    const notes: Notes = {}
    const response = await answer(handle, request, notes)
    // Answered without reading the body: who holds the connection shall not wait for us to do so.
    if (request.body !== null && !request.bodyUsed) await request.body.cancel()
    response.headers.set('x-request-id', id)
    for (const [name, value] of Object.entries(SECURITY_HEADERS)) response.headers.set(name, value)
    if (response.status < 400 && !isWorthALine(notes)) return response
    log(response.status >= 500 ? 'error' : response.status >= 400 ? 'warn' : 'info', 'request', {
      request_id: id,
      method: request.method,
      status: response.status,
      duration_ms: Math.round((performance.now() - startedAt) * 10) / 10,
      ...notes,
    })
    return response
  }
}

async function answer(handle: Handle, request: Request, notes: Notes): Promise<Response> {
  try {
    return await handle(request, notes)
  } catch (error) {
    if (error instanceof HttpError) {
      notes['error'] = error.code
      return errorAnswer(error)
    }
    // The caller learns that it was us; the reason is in the log only.
    notes['error'] = error instanceof Error ? `${error.name}: ${error.message}` : String(error)
    return errorAnswer(new HttpError(500, 'internal_error', 'Something went wrong on our side; try again'))
  }
}
