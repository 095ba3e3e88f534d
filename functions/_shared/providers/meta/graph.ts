// Meta's Graph API over HTTP. What matters about a call is whether Meta may have acted on it: a connection that was
// never made says no, an answer in JSON says what it says, and everything else is "nobody knows".
import { isObject } from '../../json.ts'
import { type ApiCall, apiCall, reasonOf } from '../../redact.ts'
import { requiredUrl, type Variables } from '../../env.ts'

export interface GraphSettings {
  url: string
  version: string
}

export interface Graph {
  request(call: GraphCall): Promise<GraphAnswer>
  /** GET of a file; the answer's body is not read. Throws unless it comes from Meta. */
  download(url: string, accessToken: string, signal: AbortSignal): Promise<Download>
}

export interface GraphCall {
  method: 'GET' | 'POST'
  /** Below the version, without slash in front; its parts are encoded. */
  path: readonly string[]
  query?: Record<string, string>
  body?: Record<string, unknown>
  accessToken: string
  timeoutMs: number
  signal?: AbortSignal
}

export type GraphAnswer =
  & (
    | { kind: 'json'; status: number; body: Record<string, unknown>; retryAfterMs: number | null }
    /** An answer that is no JSON object: of something between Meta and us. */
    | { kind: 'other'; status: number; retryAfterMs: number | null; message: string }
    | { kind: 'not_sent'; message: string }
    | { kind: 'unknown'; message: string }
  )
  & { call: ApiCall }

export interface Download {
  response: Response
  call: ApiCall
}

const MAX_RETRY_AFTER_MS = 24 * 60 * 60_000

export function graphSettings(variables: Variables): GraphSettings {
  const version = variables.get('BALCAO_META_GRAPH_VERSION') || 'v24.0'
  if (!/^v\d{1,3}\.\d$/.test(version)) {
    throw new Error('The environment variable BALCAO_META_GRAPH_VERSION is not a version such as v24.0')
  }
  const url = variables.get('BALCAO_META_GRAPH_URL')
    ? requiredUrl(variables, 'BALCAO_META_GRAPH_URL')
    : 'https://graph.facebook.com'
  return { url, version }
}

export function createGraph(
  { url, version, fetch = globalThis.fetch, now = Date.now }: GraphSettings & {
    fetch?: typeof globalThis.fetch
    now?: () => number
  },
): Graph {
  return {
    async request({ method, path, query = {}, body, accessToken, timeoutMs, signal }) {
      const endpoint = `/${[version, ...path].map(encodeURIComponent).join('/')}`
      const search = new URLSearchParams(query).toString()
      const startedAt = performance.now()
      const ended = (response: unknown, status: number | null, success: boolean) =>
        apiCall({
          service: 'meta_graph',
          endpoint,
          method,
          request: body ?? query,
          response,
          status,
          responseTimeMs: performance.now() - startedAt,
          success,
          secrets: [accessToken],
        })
      const failed = (error: unknown, status: number | null) => {
        const message = reasonOf(error, [accessToken])
        return { message, call: ended({ error: { message } }, status, false) }
      }
      if (signal?.aborted) return { kind: 'not_sent', ...failed(signal.reason, null) }

      const timeout = AbortSignal.timeout(timeoutMs)
      let response: Response
      let text: string
      try {
        response = await fetch(`${url}${endpoint}${search && `?${search}`}`, {
          method,
          headers: {
            authorization: `Bearer ${accessToken}`,
            ...(body === undefined ? {} : { 'content-type': 'application/json' }),
          },
          ...(body === undefined ? {} : { body: sentOnce(JSON.stringify(body)) }),
          // The token goes where we send it, and nowhere else.
          redirect: 'manual',
          signal: signal === undefined ? timeout : AbortSignal.any([signal, timeout]),
        })
        text = await response.text()
      } catch (error) {
        const said = explanationOf(error)
        return wasNeverConnected(error)
          ? { kind: 'not_sent', ...failed(said, null) }
          : { kind: 'unknown', ...failed(said, null) }
      }

      const { status } = response
      const retryAfterMs = retryAfter(response.headers, now())
      const json = parsedObject(text)
      if (json === null) {
        const type = response.headers.get('content-type')?.split(';', 1)[0] ?? 'no content type'
        return {
          kind: 'other',
          status,
          retryAfterMs,
          ...failed(`HTTP ${status} with ${type} instead of JSON`, status),
        }
      }
      return { kind: 'json', status, body: json, retryAfterMs, call: ended(json, status, response.ok) }
    },

    async download(address, accessToken, signal) {
      requireMetaHost(address, url)
      const startedAt = performance.now()
      const response = await fetch(address, {
        headers: { authorization: `Bearer ${accessToken}` },
        redirect: 'manual',
        signal,
      }).catch((error) => {
        throw new Error(`The file cannot be fetched: ${reasonOf(explanationOf(error), [accessToken])}`)
      })
      const call = apiCall({
        service: 'meta_graph',
        endpoint: address,
        method: 'GET',
        request: {},
        response: null,
        status: response.status,
        responseTimeMs: performance.now() - startedAt,
        success: response.ok,
      })
      return { response, call }
    },
  }
}

/**
 * The address of a file comes in an answer of Meta's, and the token goes with the request: only Meta's own hosts get
 * it, or the one that the operator named.
 */
export function requireMetaHost(address: string, graphUrl: string): void {
  const url = URL.canParse(address) ? new URL(address) : null
  const graph = new URL(graphUrl)
  const isGraph = url !== null && url.origin === graph.origin
  const isMeta = url !== null && url.protocol === 'https:' && url.port === '' &&
    /^(lookaside\.fbsbx\.com|graph\.facebook\.com|([a-z0-9-]+\.)+(fbcdn|whatsapp)\.net)$/.test(url.hostname)
  if (url === null || url.username !== '' || url.password !== '' || !(isGraph || isMeta)) {
    throw new Error(`The file is said to be at ${url?.host ?? 'no address'}, which is not Meta's`)
  }
}

/**
 * A body as a stream, because Deno's fetch sends a text a second time, without telling, when a kept connection breaks
 * after the first (denoland/deno#35610, and #36415 for kept connections): a message would go out twice.
 */
function sentOnce(text: string): ReadableStream<Uint8Array> {
  return new Blob([text]).stream()
}

/** Refused, unknown host, no TLS: nothing of the request has left. After that, nobody can tell. */
function wasNeverConnected(error: unknown): boolean {
  return /client error \(Connect\)|dns error|connection refused/i.test(explanationOf(error))
}

/** Deno tells in the cause what happened, between which addresses: that is nobody's business. */
function explanationOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const said = error.cause instanceof Error ? `${error.message}: ${error.cause.message}` : error.message
  return said.replace(/error sending request .*?: (?=client error|error )/, '')
}

function parsedObject(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text)
    return isObject(value) ? value : null
  } catch {
    return null
  }
}

/** Seconds, or a date. */
function retryAfter(headers: Headers, now: number): number | null {
  const value = headers.get('retry-after')?.trim()
  if (!value) return null
  const wait = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - now
  return Number.isNaN(wait) ? null : Math.min(Math.max(wait, 0), MAX_RETRY_AFTER_MS)
}
