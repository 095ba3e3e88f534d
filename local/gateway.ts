// The gateway: one address for the Data API, auth, storage and the edge functions, with Supabase's API keys and CORS.
//
// It is node:http on both sides and copies bytes as they come: a webhook's signature is over the raw body.

import {
  Agent,
  createServer,
  type IncomingMessage,
  type OutgoingHttpHeaders,
  request as send,
  type ServerResponse,
} from 'node:http'
import { type ApiKeys, holdsValidJwt, keyChecker } from './api-keys.ts'
import type { AuthServer } from './auth.ts'
import { dashboard } from './dashboard/server.ts'
import { Failure, hasCode, messageOf } from './failure.ts'
import type { EdgeFunction } from './functions.ts'
import type { GraphServer } from './graph/server.ts'
import type { SimulatorServer } from './simulator/server.ts'
import type { StorageServer } from './storage.ts'

export interface GatewayOptions {
  keys: ApiKeys
  jwtSecret: string
  restSocket: string
  /** Null while the functions are not running. */
  functionsPort: () => number | null
  functions: EdgeFunction[]
  /** The page at "/". */
  index: () => string
}

export interface Gateway {
  port: number
  /** Auth becomes available when its schema is there. */
  useAuth(auth: AuthServer): void
  useStorage(storage: StorageServer): void
  /** Meta's Graph API, imitated; it looks into the database. */
  useGraph(graph: GraphServer): void
  /** The phone in the browser. */
  useSimulator(simulator: SimulatorServer): void
  close(): Promise<void>
}

/** What kong's and the platform's CORS answer names. */
const EXPOSED =
  'Content-Encoding, Content-Location, Content-Range, Content-Type, Date, Location, Preference-Applied, Server, Transfer-Encoding, Range-Unit, sb-gateway-version, x-total-count, x-supabase-api-version'
const METHODS = 'GET,HEAD,PUT,PATCH,POST,DELETE,OPTIONS,TRACE,CONNECT'
const DEFAULT_REQUEST_HEADERS =
  'authorization, x-client-info, apikey, content-type, content-profile, accept-profile, prefer, range, x-supabase-api-version'

const LINGER_MS = 3000

const NOT_RUNNING = 'The service is not running at the moment; try again.'

/** Links of e-mails and of other identity providers, which cannot carry a key. */
const OPEN_AUTH_PATHS = /^\/auth\/v1\/(?:verify|callback|authorize|\.well-known\/.*)$/

/** They belong to one connection, not to the message. */
const HOP_BY_HOP = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
])

export async function startGateway(port: number, options: GatewayOptions): Promise<Gateway> {
  const { keys } = options
  const checkKey = keyChecker(keys)
  const showDashboard = dashboard(keys.publishable)
  // Idle connections are dropped before the upstream drops them, so that none is used at the moment of its death.
  const agent = new Agent({
    keepAlive: true,
    maxSockets: 256,
    maxFreeSockets: 256,
    timeout: 10_000,
    scheduling: 'lifo',
  })
  const verifyJwt = new Map(options.functions.map((item) => [item.name, item.verifyJwt]))
  let auth: AuthServer | null = null
  let storage: StorageServer | null = null
  let graph: GraphServer | null = null
  let simulator: SimulatorServer | null = null

  const server = createServer({ keepAliveTimeout: 65_000, requestTimeout: 0 }, (request, response) => {
    const url = request.url ?? '/'
    const path = url.split('?', 1)[0] ?? '/'
    if (path === '/') return respond(response, 200, options.index(), 'text/plain; charset=utf-8')
    if (path === '/rest/v1' || path.startsWith('/rest/v1/')) {
      return rest(request, response, url.slice('/rest/v1'.length) || '/')
    }
    if (path.startsWith('/auth/v1/')) return authenticate(request, response, path)
    if (path.startsWith('/storage/v1/')) return store(request, response, url.slice('/storage/v1'.length))
    if (path.startsWith('/functions/v1/')) return invoke(request, response, url.slice('/functions/v1'.length))
    if (path.startsWith('/graph/')) {
      if (graph === null) return respondJson(response, 503, { message: 'The Graph API is starting.' })
      return graph.listener(request, response)
    }
    if (path === '/simulator' || path.startsWith('/simulator/')) {
      if (simulator === null) return respondJson(response, 503, { message: 'The simulator is starting.' })
      return simulator.listener(request, response)
    }
    if (path === '/dashboard' || path.startsWith('/dashboard/')) return showDashboard(request, response)
    respondJson(response, 404, { message: `No route matches ${path}; "/" lists what is where.` })
  })

  function rest(request: IncomingMessage, response: ServerResponse, target: string): void {
    if (preflight(request, response)) return
    const caller = authorize(request, response)
    if (caller === null) return
    forward(request, response, {
      upstream: { socketPath: options.restSocket },
      target: target.startsWith('/') ? target : `/${target}`,
      authorization: `Bearer ${caller.bearer ?? (caller.role === 'anon' ? keys.anon : keys.serviceRole)}`,
      prefix: '/rest/v1',
      cors: true,
    })
  }

  function authenticate(request: IncomingMessage, response: ServerResponse, path: string): void {
    if (preflight(request, response)) return
    if (!OPEN_AUTH_PATHS.test(path)) {
      const caller = authorize(request, response)
      if (caller === null) return
      // The auth server knows the opaque keys only.
      const apikey = caller.role === 'anon' ? keys.publishable : keys.secret
      replaceHeaders(request, { apikey, authorization: `Bearer ${caller.bearer ?? apikey}` })
    }
    if (auth === null) return respondJson(response, 503, { message: 'The auth server is starting.' })
    allowOrigin(response)
    auth.listener(request, response)
  }

  function store(request: IncomingMessage, response: ServerResponse, target: string): void {
    if (preflight(request, response)) return
    if (storage === null) return respondJson(response, 503, { message: 'The storage server is starting.' })
    let token: string | null = null
    if (!storage.needsNoKey(request.method ?? 'GET', target.split('?', 1)[0] ?? '')) {
      const caller = authorize(request, response)
      if (caller === null) return
      token = caller.bearer ?? (caller.role === 'anon' ? keys.anon : keys.serviceRole)
    }
    allowOrigin(response)
    void storage.listener(request, response, target, token)
  }

  function invoke(request: IncomingMessage, response: ServerResponse, target: string): void {
    const name = /^\/([^/?]*)/.exec(target)?.[1] ?? ''
    if (verifyJwt.get(name) === true && request.method !== 'OPTIONS') {
      const { authorization } = request.headers
      if (authorization === undefined) {
        return respondJson(response, 401, { code: 401, message: 'Missing authorization header' })
      }
      if (!holdsValidJwt(authorization, options.jwtSecret, Date.now() / 1000)) {
        return respondJson(response, 401, { code: 401, message: 'Invalid JWT' })
      }
    }
    const port = options.functionsPort()
    if (port === null) return respondJson(response, 503, { message: NOT_RUNNING })
    forward(request, response, {
      upstream: { host: '127.0.0.1', port },
      target,
      prefix: '/functions/v1',
      cors: false,
    })
  }

  /** Who calls; null when the request has been refused. */
  function authorize(request: IncomingMessage, response: ServerResponse) {
    const { apikey, authorization, 'user-agent': userAgent } = request.headers
    const caller = checkKey({ apikey: Array.isArray(apikey) ? apikey[0] : apikey, authorization, userAgent })
    if ('role' in caller) return caller
    allowOrigin(response)
    respondJson(response, 401, caller.refused)
    return null
  }

  function forward(
    request: IncomingMessage,
    response: ServerResponse,
    { upstream: address, target, authorization, prefix, cors }: {
      upstream: { socketPath: string } | { host: string; port: number }
      target: string
      authorization?: string
      prefix: string
      cors: boolean
    },
  ): void {
    const headers = onward(request, prefix)
    if (authorization !== undefined) headers.authorization = authorization
    let answered: IncomingMessage | null = null
    const upstream = send({
      ...address,
      agent,
      method: request.method,
      path: target,
      headers,
      setHost: false,
    }, (answer) => {
      answered = answer
      if (!request.complete) {
        // Refused before all of the body came: nobody wants the rest, and the next request must not wait behind it.
        request.unpipe(upstream)
        response.setHeader('connection', 'close')
      }
      response.writeHead(answer.statusCode ?? 502, answer.statusMessage, backward(answer, cors))
      answer.pipe(response, { end: false })
      answer.once('end', () => void received(request).then(() => response.end()))
      // The upstream died in the middle of its answer: the client must not take half for the whole.
      answer.once('error', () => response.destroy())
    })
    upstream.once('error', (error) => {
      // It may close on a body that it did not want, right after its answer.
      if (response.headersSent) return void (answered?.complete || response.destroy())
      if (cors) allowOrigin(response)
      const down = hasCode(error, 'ECONNREFUSED', 'ENOENT')
      respondJson(response, down ? 503 : 502, {
        message: down ? NOT_RUNNING : `The service broke off: ${messageOf(error)}`,
      })
    })
    response.once('close', () => response.writableFinished || upstream.destroy())
    request.once('error', () => upstream.destroy())
    request.pipe(upstream)
  }

  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) =>
      reject(
        new Failure(
          hasCode(error, 'EADDRINUSE')
            ? `Port ${port} (API) is in use by another program: free it, or set BALCAO_API_PORT.`
            : `Port ${port} (API) cannot be used: ${messageOf(error)}`,
        ),
      ))
    server.listen(port, '127.0.0.1', 1024, resolve)
  })
  const address = server.address()
  return {
    port: typeof address === 'object' && address !== null ? address.port : port,
    useAuth: (server) => void (auth = server),
    useStorage: (server) => void (storage = server),
    useGraph: (server) => void (graph = server),
    useSimulator: (server) => void (simulator = server),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
        agent.destroy()
      }),
  }
}

/**
 * Resolves when all of a request has come, which is dropped: a connection that is closed on bytes unread is reset, and
 * the client loses the answer with it. Not for ever: who keeps sending is cut off.
 */
export function received(request: IncomingMessage): Promise<void> {
  return new Promise((resolve) => {
    if (request.complete || request.destroyed) return resolve()
    const timer = setTimeout(resolve, LINGER_MS)
    request.once('close', () => {
      clearTimeout(timer)
      resolve()
    })
    request.resume()
  })
}

/** The auth server reads parsed and raw headers. */
function replaceHeaders(request: IncomingMessage, replacement: Record<string, string>): void {
  const kept: string[] = []
  for (let index = 0; index < request.rawHeaders.length; index += 2) {
    const [name = '', value = ''] = request.rawHeaders.slice(index, index + 2)
    if (!(name.toLowerCase() in replacement)) kept.push(name, value)
  }
  Object.assign(request.headers, replacement)
  request.rawHeaders = [...kept, ...Object.entries(replacement).flat()]
}

function onward(request: IncomingMessage, prefix: string): OutgoingHttpHeaders {
  const headers: OutgoingHttpHeaders = {}
  for (const name in request.headers) if (!HOP_BY_HOP.has(name)) headers[name] = request.headers[name]
  // A body of unknown length stays chunked.
  if (request.headers['transfer-encoding'] !== undefined) headers['transfer-encoding'] = 'chunked'
  const client = request.socket.remoteAddress ?? ''
  const host = request.headers.host ?? '127.0.0.1'
  headers['x-real-ip'] = client
  headers['x-forwarded-for'] = request.headers['x-forwarded-for'] === undefined
    ? client
    : `${String(request.headers['x-forwarded-for'])}, ${client}`
  headers['x-forwarded-proto'] ??= 'http'
  headers['x-forwarded-host'] ??= host
  headers['x-forwarded-port'] ??= String(request.socket.localPort ?? '')
  headers['x-forwarded-prefix'] = prefix
  return headers
}

function backward(answer: IncomingMessage, cors: boolean): OutgoingHttpHeaders {
  const headers: OutgoingHttpHeaders = {}
  for (const name in answer.headers) {
    if (HOP_BY_HOP.has(name) || (cors && name.startsWith('access-control-'))) continue
    headers[name] = answer.headers[name]
  }
  return cors ? Object.assign(headers, corsHeaders) : headers
}

const corsHeaders = { 'access-control-allow-origin': '*', 'access-control-expose-headers': EXPOSED }

function allowOrigin(response: ServerResponse): void {
  for (const [name, value] of Object.entries(corsHeaders)) response.setHeader(name, value)
}

/** Answers a browser's question before the request itself. The functions answer theirs themselves, as when hosted. */
function preflight(request: IncomingMessage, response: ServerResponse): boolean {
  if (request.method !== 'OPTIONS') return false
  response.writeHead(200, {
    ...corsHeaders,
    'access-control-allow-methods': METHODS,
    'access-control-allow-headers': request.headers['access-control-request-headers'] ??
      DEFAULT_REQUEST_HEADERS,
    'access-control-max-age': '3600',
    'content-length': '0',
  })
  response.end()
  return true
}

function respond(response: ServerResponse, status: number, body: string, type: string): void {
  response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(body) })
  response.end(body)
}

function respondJson(response: ServerResponse, status: number, body: object): void {
  respond(response, status, JSON.stringify(body), 'application/json; charset=utf-8')
}
