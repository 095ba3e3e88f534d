// A provider's delivery: raw bytes, signature, one call of ingest_webhook, exactly 200. Nothing is stored before the
// signature is right; a failure of ours answers 5xx, so that the provider delivers again. What follows from a delivery
// is the worker's, who is woken but not waited for.
import { networkOf } from '../_shared/address.ts'
import { answering } from '../_shared/answer.ts'
import {
  HttpError,
  methodNotAllowed,
  parseJson,
  pathBelow,
  readBytes,
  requireJsonType,
} from '../_shared/http.ts'
import type { Log } from '../_shared/log.ts'
import type { RateLimit } from '../_shared/rate-limit.ts'
import type { Rpc } from '../_shared/rpc.ts'
import type { Wake } from '../_shared/wake.ts'
import { isObject, storable } from '../_shared/json.ts'
import type { Provider } from '../_shared/providers/provider.ts'

// Meta sends up to 3 MB.
const BODY_LIMIT = 4 * 1024 * 1024

// What helps to understand a stored delivery later; never a credential.
const KEPT_HEADERS = ['content-type', 'content-length', 'user-agent']

/** A delivery that a limit refuses is not lost: providers deliver again what was not answered with 200. */
export interface Limits {
  /** Of an address: keys that the database has to be asked about. */
  lookUps: RateLimit
  /** Of a key, whoever asks: wrong verify tokens, which people choose. */
  wrongTokens: RateLimit
  /** Of a key: signed deliveries. Nobody else's count. */
  deliveries: RateLimit
}

export interface Dependencies {
  /** By their name in the address: /whatsapp-webhook/<name>/<key>. */
  providers: ReadonlyMap<string, Provider>
  rpc: Rpc
  limits: Limits
  /** Called when a delivery has left something to do. */
  wake: Wake
  log: Log
  now?: () => Date
}

export function createHandler(
  { providers, rpc, limits, wake, log, now = () => new Date() }: Dependencies,
): (request: Request) => Promise<Response> {
  return answering(async (request, notes) => {
    const url = new URL(request.url)
    const [name, key, ...rest] = pathBelow('whatsapp-webhook', url)
    const provider = providers.get(name ?? '')
    if (provider === undefined || key === undefined || rest.length > 0) {
      throw new HttpError(404, 'not_found', 'There is nothing here')
    }
    notes['provider'] = provider.name
    notes['key'] = key

    if (provider.needsLookUp(key)) {
      limits.lookUps.take(networkOf(request))
      provider.lookUp(key)
    }

    if (request.method === 'GET') {
      const challenge = await handshake(provider, key, url.searchParams)
      return new Response(challenge, {
        headers: { 'content-type': 'text/plain; charset=utf-8' },
      })
    }
    if (request.method !== 'POST') throw methodNotAllowed('GET, POST')

    requireJsonType(request)
    const body = await readBytes(request, BODY_LIMIT)
    notes['bytes'] = body.byteLength
    const signature = await provider.verify(key, request.headers, body)
    limits.deliveries.take(key)
    const payload = storable(parseJson(body))
    if (!isObject(payload)) throw new HttpError(400, 'invalid_json', 'The body is not a JSON object')

    const summary = await rpc('ingest_webhook', {
      provider: provider.name,
      app_key: key,
      headers: Object.fromEntries(KEPT_HEADERS.flatMap((header) => {
        const value = request.headers.get(header)
        return value === null ? [] : [[header, value]]
      })),
      signature,
      parts: provider.parse(payload, now()),
    })
    const counts = isObject(summary) ? summary : {}
    Object.assign(notes, counts)
    if (typeof counts['jobs'] === 'number' && counts['jobs'] > 0) wake()
    return Response.json({ ...counts, received: true })
  }, log)

  async function handshake(provider: Provider, key: string, query: URLSearchParams): Promise<string> {
    limits.wrongTokens.check(key)
    try {
      return await provider.handshake(key, query)
    } catch (error) {
      if (error instanceof HttpError && error.status === 403) limits.wrongTokens.take(key)
      throw error
    }
  }
}
