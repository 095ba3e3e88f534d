// The simulator: a phone in the browser, and beside it what the attendant sees. Mounted by the gateway at /simulator.
//
// The page's files are served as they lie in page/. The page asks /simulator/api, which holds the secret key: the
// customer's side goes through Meta's imitation and its signed webhooks, the attendant's through the Data API in the
// name of a member.

import { createHash, randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { z } from 'zod'
import type { ApiKeys } from '../api-keys.ts'
import { messageOf } from '../failure.ts'
import { bodyOf } from '../graph/requests.ts'
import { admit, admitDocument, admitScript, Refusal } from './admission.ts'
import { botOf, startBot } from './bot.ts'
import { canonicalNumber, customerMessage, writeAsCustomer } from './customer.ts'
import { membersOf, tokenOf } from './members.ts'
import { simulatedNumbers } from './number.ts'
import { type Rest, restOf } from './rest.ts'
import { viewOf } from './view.ts'

export interface SimulatorOptions {
  apiUrl: string
  keys: Pick<ApiKeys, 'publishable' | 'secret'>
  jwtSecret: string
  /** Where the functions send: with any other Graph API than ours, nothing would come back to the phone. */
  graphUrl: string
  now?: () => Date
}

export interface SimulatorServer {
  listener: (request: IncomingMessage, response: ServerResponse) => void
  close(): void
}

const BODY_LIMIT = 64 * 1024
const TIMEOUT_MS = 60_000

const FILES: Record<string, { file: string; type: string }> = {
  '/simulator/simulator.css': { file: 'simulator.css', type: 'text/css; charset=utf-8' },
  ...Object.fromEntries(
    ['main', 'api', 'elements', 'words', 'phone', 'attendant', 'customers'].map((name) => [
      `/simulator/${name}.js`,
      { file: `${name}.js`, type: 'text/javascript; charset=utf-8' },
    ]),
  ),
}

const uuid = z.guid().toLowerCase()
const openRequest = z.strictObject({ organization_id: uuid })
const viewRequest = z.strictObject({
  organization_id: uuid,
  phone_number: z.string().max(40),
  user_id: uuid,
  /** The version that the page shows already. */
  since: z.string().max(64).optional(),
})
const asMember = { organization_id: uuid, user_id: uuid, conversation_id: uuid }
const replyRequest = z.strictObject({ ...asMember, content: z.string(), client_message_id: uuid })
/** With what the page shows: nobody acts on what somebody else has changed meanwhile. */
const controlRequest = z.discriminatedUnion('action', [
  z.strictObject({ ...asMember, action: z.enum(['take_over', 'release']), control_epoch: z.int() }),
  z.strictObject({ ...asMember, action: z.literal('read'), last_message_id: uuid }),
  z.strictObject({ ...asMember, action: z.literal('reopen') }),
  z.strictObject({
    ...asMember,
    action: z.literal('close'),
    satisfaction_score: z.int().min(1).max(5).nullable(),
  }),
])

const FUNCTION_OF_ACTION = {
  take_over: 'take_over_conversation',
  release: 'release_to_bot',
  close: 'close_conversation',
  reopen: 'reopen_conversation',
  read: 'mark_conversation_read',
} as const

const organizationRow = z.object({ id: z.string(), name: z.string(), vertical: z.string(), timezone: z.string() })
const customerRow = z.object({
  name: z.string().nullable(),
  profile_name: z.string().nullable(),
  phone_number: z.string(),
})

export function startSimulator(options: SimulatorOptions): SimulatorServer {
  const { apiUrl, keys, jwtSecret, graphUrl, now = () => new Date() } = options
  const port = Number(new URL(apiUrl).port)
  const token = randomBytes(24).toString('base64url')
  const closing = new AbortController()
  const restUrl = `${apiUrl}/rest/v1`
  const platform = restOf(restUrl, { apikey: keys.secret }, closing.signal)
  const stack = { platform, post }
  const numbers = simulatedNumbers({ ...stack, requireOwnGraph })

  return {
    listener: (request, response) => void handle(request, response),
    close: () => closing.abort(),
  }

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', apiUrl)
    try {
      admit(request, port)
      if (url.pathname.startsWith('/simulator/api/')) {
        admitScript(request, token)
        return respondJson(response, await answer(request, url))
      }
      if (request.method !== 'GET' && request.method !== 'HEAD') {
        throw new Refusal(405, 'method_not_allowed', 'GET, HEAD')
      }
      if (url.pathname === '/simulator' || url.pathname === '/simulator/') {
        admitDocument(request)
        const page = (await fileOf('index.html')).replace('{{token}}', token)
        return respond(response, 200, page, 'text/html; charset=utf-8', documentHeaders(request.headers.host ?? ''))
      }
      const known = Object.hasOwn(FILES, url.pathname) ? FILES[url.pathname] : undefined
      if (known === undefined) throw new Refusal(404, 'not_found', 'There is nothing here')
      respond(response, 200, await fileOf(known.file), known.type)
    } catch (error) {
      if (response.headersSent || request.socket.destroyed) return void response.destroy()
      const refusal = error instanceof Refusal ? error : new Refusal(500, 'internal_error', messageOf(error))
      const { status, code, message } = refusal
      respond(response, status, JSON.stringify({ error: { code, message } }), 'application/json; charset=utf-8')
    }
  }

  async function answer(request: IncomingMessage, url: URL): Promise<object | null> {
    const name = url.pathname.slice('/simulator/api/'.length)
    if (request.method === 'POST') requireOwnGraph()
    switch (`${request.method} ${name}`) {
      case 'GET organizations':
        return { organizations: await organizations() }
      case 'POST open':
        return await open(await read(request, openRequest))
      case 'GET view':
        return await view(checked(viewRequest, Object.fromEntries(url.searchParams)))
      case 'POST messages': {
        const message = await read(request, customerMessage)
        return await writeAsCustomer(message, await numbers.of(message.organization_id), stack)
      }
      case 'POST bot':
        return { bot: await startBot(platform, (await read(request, openRequest)).organization_id) }
      case 'POST reply': {
        const { user_id, ...reply } = await read(request, replyRequest)
        await as(user_id).call('send_message', reply)
        return { sent: true }
      }
      case 'POST control': {
        const { user_id, action, ...args } = await read(request, controlRequest)
        await as(user_id).call(FUNCTION_OF_ACTION[action], args)
        return { done: true }
      }
      default:
        throw new Refusal(404, 'not_found', 'There is nothing here')
    }
  }

  /** Whoever sends elsewhere sends to real people. */
  function requireOwnGraph(): void {
    if (graphUrl !== `${apiUrl}/graph`) {
      throw new Refusal(503, 'another_graph', "BALCAO_META_GRAPH_URL names another Graph API than the stack's own")
    }
  }

  async function organizations() {
    return await platform.select('organizations', {
      select: 'id,name,vertical,timezone',
      is_active: 'is.true',
      order: 'created_at.desc,name',
      limit: '200',
    }, organizationRow)
  }

  async function open({ organization_id }: z.output<typeof openRequest>): Promise<object> {
    const [number, bot, members, customers] = await Promise.all([
      numbers.of(organization_id),
      botOf(platform, organization_id),
      membersOf(platform, organization_id),
      platform.select('contacts', {
        select: 'name,profile_name,phone_number',
        organization_id: `eq.${organization_id}`,
        phone_number: 'not.is.null',
        merged_into_id: 'is.null',
        order: 'last_interaction_at.desc.nullslast,id.desc',
        limit: '100',
      }, customerRow),
    ])
    return {
      number: { phone_number: number.phone_number },
      bot,
      members,
      customers: customers.map(({ name, profile_name, phone_number }) => ({
        name: name ?? profile_name ?? phone_number,
        phone_number,
      })),
    }
  }

  /** Null when the page shows it already. */
  async function view(
    { organization_id, phone_number, user_id, since }: z.output<typeof viewRequest>,
  ): Promise<object | null> {
    const number = await numbers.of(organization_id)
    const shown = await viewOf(as(user_id), organization_id, number, canonicalNumber(phone_number))
    const version = createHash('sha256').update(JSON.stringify(shown)).digest('base64url')
    return version === since ? null : { version, ...shown }
  }

  function as(userId: string): Rest {
    const bearer = tokenOf(userId, jwtSecret, now())
    return restOf(restUrl, { apikey: keys.publishable, bearer }, closing.signal)
  }

  async function post(path: string, body: object): Promise<{ status: number; answer: unknown }> {
    const response = await fetch(`${apiUrl}${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', apikey: keys.secret },
      body: JSON.stringify(body),
      signal: AbortSignal.any([closing.signal, AbortSignal.timeout(TIMEOUT_MS)]),
    }).catch((error) => {
      throw new Refusal(503, 'not_running', `${path} does not answer: ${messageOf(error)}`)
    })
    return { status: response.status, answer: await response.json().catch(() => null) }
  }
}

async function fileOf(name: string): Promise<string> {
  return await readFile(new URL(`page/${name}`, import.meta.url), 'utf8')
}

async function read<Schema extends z.ZodType>(request: IncomingMessage, schema: Schema): Promise<z.output<Schema>> {
  if (request.headers['content-type']?.split(';', 1)[0]?.trim().toLowerCase() !== 'application/json') {
    throw new Refusal(415, 'unsupported_media_type', 'The content type is not application/json')
  }
  const body = await bodyOf(request, BODY_LIMIT).catch(() => {
    throw new Refusal(413, 'too_large', `The body has more than ${BODY_LIMIT} bytes`)
  })
  let json: unknown
  try {
    json = JSON.parse(body.toString('utf8'))
  } catch {
    throw new Refusal(400, 'invalid_json', 'The body is not JSON')
  }
  return checked(schema, json)
}

function checked<Schema extends z.ZodType>(schema: Schema, value: unknown): z.output<Schema> {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  const [issue] = parsed.error.issues
  throw new Refusal(
    400,
    'invalid_request',
    `${issue?.path.join('.') || 'The request'}: ${issue?.message ?? 'is not valid'}`,
  )
}

/** Nothing from elsewhere, and from this origin only the simulator's own: the gateway serves files of Storage too. */
function documentHeaders(host: string): Record<string, string> {
  const own = `http://${host}/simulator/`
  return {
    'content-security-policy': [
      "default-src 'none'",
      `script-src ${own}`,
      `style-src ${own}`,
      'img-src data:',
      `connect-src ${own}api/`,
      "base-uri 'none'",
      "form-action 'none'",
      "frame-ancestors 'none'",
      "require-trusted-types-for 'script'",
      "trusted-types 'none'",
    ].join('; '),
    'cross-origin-opener-policy': 'same-origin',
    'permissions-policy': 'camera=(), microphone=(), geolocation=()',
  }
}

function respondJson(response: ServerResponse, body: object | null): void {
  if (body === null) return respond(response, 204, '', 'application/json; charset=utf-8')
  respond(response, 200, JSON.stringify(body), 'application/json; charset=utf-8')
}

function respond(
  response: ServerResponse,
  status: number,
  body: string,
  type: string,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, {
    'content-type': type,
    ...(status === 204 ? {} : { 'content-length': Buffer.byteLength(body) }),
    'cache-control': 'no-store',
    'cross-origin-resource-policy': 'same-origin',
    'referrer-policy': 'no-referrer',
    'x-content-type-options': 'nosniff',
    ...headers,
  })
  response.end(body)
}
