// What callers send and what they are told. They get `{ error: { code, message } }` and never a stack.

/** An answer other than success, thrown from anywhere below a handler. */
export class HttpError extends Error {
  override readonly name = 'HttpError'

  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly headers: Record<string, string> = {},
  ) {
    super(message)
  }
}

export function errorAnswer(error: HttpError): Response {
  return Response.json(
    { error: { code: error.code, message: error.message } },
    { status: error.status, headers: error.headers },
  )
}

export function methodNotAllowed(allowed: string): HttpError {
  return new HttpError(405, 'method_not_allowed', `Allowed here: ${allowed}`, { allow: allowed })
}

/** The path below the function's own name: `/functions/v1/health/x` and `/health/x` are both `['x']`. */
export function pathBelow(functionName: string, url: URL): string[] {
  const segments = url.pathname.split('/').filter((segment) => segment !== '')
  if (segments[0] === 'functions' && segments[1] === 'v1') segments.splice(0, 2)
  if (segments[0] === functionName) segments.shift()
  return segments
}

/** The raw bytes of a body; reading stops beyond the limit. */
export async function readBytes(request: Request, limit: number): Promise<Uint8Array<ArrayBuffer>> {
  const tooLarge = () => new HttpError(413, 'body_too_large', `A body here has at most ${limit} bytes`)
  if (request.body === null) return new Uint8Array()

  const announced = Number(request.headers.get('content-length') ?? NaN)
  if (announced > limit) throw tooLarge()

  const chunks: Uint8Array[] = []
  let length = 0
  for await (const chunk of request.body) {
    length += chunk.byteLength
    // Leaving the loop cancels the stream.
    if (length > limit) throw tooLarge()
    chunks.push(chunk)
  }
  const bytes = new Uint8Array(length)
  let offset = 0
  for (const chunk of chunks) {
    bytes.set(chunk, offset)
    offset += chunk.byteLength
  }
  return bytes
}

/** Refuses what says that it is something else than JSON; a body without content type may still be JSON. */
export function requireJsonType(request: Request): void {
  const type = request.headers.get('content-type')?.split(';')[0]?.trim().toLowerCase()
  if (type && type !== 'application/json' && !type.endsWith('+json')) {
    throw new HttpError(415, 'unsupported_media_type', 'Send application/json')
  }
}

export function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes))
  } catch {
    throw new HttpError(400, 'invalid_json', 'The body is not JSON')
  }
}
