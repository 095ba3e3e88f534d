// Meta's Graph API as far as Balcão uses it, inside the stack: strict about what it is sent, and with webhooks that
// follow. Its control interface (control.ts) makes it fail on demand.

import { randomInt } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import { messageOf } from '../failure.ts'
import { Control } from './control.ts'
import { type Delivery, Postman } from './deliveries.ts'
import { GraphError } from './errors.ts'
import { MediaStore, UPLOAD_LIMIT, uploadedFile } from './media.ts'
import { mediaIn, type Outgoing, readOutgoing, recipientOf } from './messages.ts'
import { acquaintance, type BusinessNumber, numbersOf, waIdOf } from './numbers.ts'
import { type Call, type Failing, Journal, type Operation, Orders, type StatusPlan } from './orders.ts'
import { bodyOf, isSame } from './requests.ts'
import { secretOpener } from './secrets.ts'
import { newMessageId, type Sent, type Status, statusValue } from './webhooks.ts'

export interface GraphOptions {
  apiUrl: string
  /** Superuser: the fake reads what only Meta and the tenant know. */
  databaseUrl: string
  encryptionKeys: string
  secretKey: string
  now?: () => Date
}

export interface GraphServer {
  listener: (request: IncomingMessage, response: ServerResponse) => void
  close(): Promise<void>
}

const JSON_LIMIT = 1024 * 1024
const VERSION = /^v\d{1,3}\.\d$/

/** The connection ends without an answer. */
class Broken extends Error {}

/** What a proxy in front of Meta says: no JSON. */
class BadGateway extends Error {}

interface Exchange {
  request: IncomingMessage
  response: ServerResponse
  call: Call
}

export function startGraph(
  { apiUrl, databaseUrl, encryptionKeys, secretKey, now = () => new Date() }: GraphOptions,
): GraphServer {
  const sql = postgres(databaseUrl, {
    max: 4,
    connect_timeout: 10,
    connection: { application_name: 'balcao graph' },
    onnotice: () => undefined,
  })
  const secrets = secretOpener(encryptionKeys)
  const media = new MediaStore()
  const orders = new Orders()
  const calls = new Journal<Call>()
  const deliveries = new Journal<Delivery>()
  const postman = new Postman(apiUrl, now, (delivery) => deliveries.add(delivery))
  const closing = new AbortController()
  const control = new Control({
    secretKey,
    media,
    orders,
    calls,
    deliveries,
    postman,
    numbersOf: (phoneNumberId) => numbersOf(sql, secrets, phoneNumberId),
    now,
  })

  return {
    listener: (request, response) => void handle(request, response),
    close: async () => {
      closing.abort()
      await postman.close()
      await sql.end({ timeout: 1 })
    },
  }

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', apiUrl)
    const segments = url.pathname.split('/').filter((segment) => segment !== '').slice(1)
    if (segments[0] === '_control') {
      return await control.handle(request, response, segments.slice(1), url.searchParams)
    }
    const call: Call = {
      at: now().toISOString(),
      method: request.method ?? 'GET',
      path: url.pathname,
      operation: null,
      phone_number_id: null,
      to: null,
      body: null,
      status: null,
      code: null,
      message_id: null,
    }
    calls.add(call)
    const exchange: Exchange = { request, response, call }
    try {
      await route(exchange, segments, url.searchParams)
    } catch (error) {
      if (error instanceof Broken || request.socket.destroyed) return void request.socket.destroy()
      if (error instanceof BadGateway) return answerHtml(exchange)
      const refusal = error instanceof GraphError ? error : new GraphError(131000, { details: messageOf(error) })
      const { retryAfter } = refusal.options
      call.code = refusal.code
      reply(
        exchange,
        refusal.status,
        refusal.body(),
        retryAfter === undefined ? {} : { 'retry-after': String(retryAfter) },
      )
    }
  }

  async function route(exchange: Exchange, segments: string[], query: URLSearchParams): Promise<void> {
    const { call } = exchange
    if (segments[0] === 'media' && segments.length === 2) return await download(exchange, segments[1] ?? '')
    const [version, id, edge, ...rest] = segments
    if (version === undefined || !VERSION.test(version) || id === undefined || rest.length > 0) {
      throw new GraphError(2500, { status: 400, message: 'Unknown path components: /' + segments.join('/') })
    }
    if (!/^\d{1,128}$/.test(id)) throw noSuchObject(id, call.method)
    if (call.method === 'POST' && edge === 'messages') return await send(exchange, id)
    if (call.method === 'POST' && edge === 'media') return await upload(exchange, id)
    if (edge === undefined && (call.method === 'GET' || call.method === 'DELETE')) {
      const file = media.find(id)
      if (file !== undefined) return await (call.method === 'GET' ? describeMedia : deleteMedia)(exchange, id, query)
      if (call.method === 'GET') return await describeNumber(exchange, id, query)
    }
    await authorized(exchange, id)
    throw noSuchObject(id, call.method)
  }

  // Messages -------------------------------------------------------------------------------------------------------

  async function send(exchange: Exchange, phoneNumberId: string): Promise<void> {
    const { call } = exchange
    call.operation = 'messages'
    call.phone_number_id = phoneNumberId
    call.body = parsedJson(await bodyOf(exchange.request, JSON_LIMIT), exchange.request)
    const number = await authorized(exchange, phoneNumberId)
    const message = readOutgoing(call.body)
    if ('status' in message) return reply(exchange, 200, { success: true })

    const recipient = recipientOf(message)
    call.to = recipient.input
    if (recipient.waId !== null && recipient.waId === waIdOf((number.phoneNumber ?? '').replace('+', ''))) {
      throw new GraphError(131021)
    }
    const { ids, links } = mediaIn(message)
    for (const id of ids) {
      if (media.find(id)?.phoneNumberId !== phoneNumberId) {
        throw new GraphError(131009, { details: `Media id ${id} does not exist for this phone number.` })
      }
    }

    const failing = orders.failureFor(phoneNumberId, 'messages', recipient)
    fail(failing)
    const { wroteLately, name } = await acquaintance(sql, number, recipient, now())
    if (!wroteLately && message.type !== 'template') throw new GraphError(131047)

    const sent: Sent = {
      id: newMessageId(recipient.waId, 'outbound'),
      recipient,
      name,
      isTemplate: message.type === 'template',
      opaque: message.biz_opaque_callback_data,
    }
    call.message_id = sent.id
    const plan = orders.planFor(phoneNumberId, message.type)
    const following = follow(number, sent, plan, links)
    if (plan.before_answer) await following
    if (failing === 'accept_then_break') throw new Broken()
    if (typeof failing === 'object' && failing !== null && 'delay_ms' in failing) {
      await sleep(failing.delay_ms, undefined, { signal: closing.signal })
    }
    reply(exchange, 200, acceptance(sent, message))
  }

  function acceptance({ id, recipient: { input, waId, bsuid } }: Sent, message: Outgoing): Record<string, unknown> {
    return {
      messaging_product: 'whatsapp',
      contacts: [{ input, ...(waId === null ? {} : { wa_id: waId }), ...(bsuid === null ? {} : { user_id: bsuid }) }],
      messages: [{ id, ...(message.type === 'template' ? { message_status: 'accepted' } : {}) }],
    }
  }

  /** Tells what becomes of a message. Resolves when everything is told, or with a plan for later, at once. */
  async function follow(number: BusinessNumber, sent: Sent, plan: StatusPlan, links: string[]): Promise<void> {
    const statuses = async (): Promise<readonly Status[]> =>
      await areReadable(links) ? plan.statuses : [{ status: 'failed', code: 131053 }]
    const post = (status: Status) => postman.post(number, statusValue(number, sent, status, plan.statuses, now()))
    if (plan.before_answer) {
      for (const status of inOrder(await statuses(), plan)) {
        await sleep(plan.delay_ms, undefined, { signal: closing.signal })
        await post(status)
      }
      return
    }
    postman.later(number.id, 0, async () => {
      for (const [index, status] of inOrder(await statuses(), plan).entries()) {
        postman.later(number.id, plan.delay_ms * (index + 1), () => post(status))
      }
    })
  }

  /** Meta fetches what a link names; here only from the stack's own Storage, since no test goes out into the world. */
  async function areReadable(links: string[]): Promise<boolean> {
    const own = links.filter((link) => new URL(link).origin === new URL(apiUrl).origin)
    return !(await Promise.all(own.map(isReadable))).includes(false)
  }

  async function isReadable(link: string): Promise<boolean> {
    try {
      const response = await fetch(link, { signal: AbortSignal.any([closing.signal, AbortSignal.timeout(30_000)]) })
      await response.body?.cancel()
      return response.ok
    } catch {
      return false
    }
  }

  // Media ----------------------------------------------------------------------------------------------------------

  async function upload(exchange: Exchange, phoneNumberId: string): Promise<void> {
    exchange.call.operation = 'upload'
    exchange.call.phone_number_id = phoneNumberId
    const body = await bodyOf(exchange.request, UPLOAD_LIMIT + JSON_LIMIT)
    await authorized(exchange, phoneNumberId)
    await failOrWait(phoneNumberId, 'upload')
    const { mimeType, bytes } = await uploadedFile(body, exchange.request.headers['content-type'])
    reply(exchange, 200, { id: media.add(phoneNumberId, mimeType, { bytes }).id })
  }

  async function describeMedia(exchange: Exchange, id: string, query: URLSearchParams): Promise<void> {
    const file = await ownMedia(exchange, id, 'media', query)
    reply(exchange, 200, {
      url: `${apiUrl}/graph/media/${media.ticketFor(file, now())}`,
      mime_type: file.mimeType,
      sha256: file.sha256,
      file_size: file.size,
      id: file.id,
      messaging_product: 'whatsapp',
    })
  }

  async function deleteMedia(exchange: Exchange, id: string, query: URLSearchParams): Promise<void> {
    media.remove((await ownMedia(exchange, id, 'delete', query)).id)
    reply(exchange, 200, { success: true })
  }

  async function ownMedia(exchange: Exchange, id: string, operation: Operation, query: URLSearchParams) {
    const file = media.find(id)
    if (file === undefined) throw noSuchObject(id, exchange.call.method)
    exchange.call.operation = operation
    exchange.call.phone_number_id = file.phoneNumberId
    await authorized(exchange, file.phoneNumberId)
    await failOrWait(file.phoneNumberId, operation)
    // Asked whether it belongs to a certain number.
    const asked = query.get('phone_number_id')
    if (asked !== null && asked !== file.phoneNumberId) throw noSuchObject(id, exchange.call.method)
    return file
  }

  async function download(exchange: Exchange, ticket: string): Promise<void> {
    const { call, response } = exchange
    call.path = '/graph/media/…'
    call.operation = 'download'
    const file = media.behind(ticket, now())
    if (file === undefined) throw new GraphError(100, { status: 404, subcode: 33, message: 'The URL has expired.' })
    call.phone_number_id = file.phoneNumberId
    await authorized(exchange, file.phoneNumberId)
    await failOrWait(file.phoneNumberId, 'download')
    call.status = 200
    response.writeHead(200, { 'content-type': file.mimeType, 'content-length': file.size })
    for (const chunk of file.chunks()) {
      if (response.destroyed) return
      if (!response.write(chunk)) await drained(response)
    }
    response.end()
  }

  // The number -----------------------------------------------------------------------------------------------------

  async function describeNumber(exchange: Exchange, id: string, query: URLSearchParams): Promise<void> {
    exchange.call.operation = 'number'
    exchange.call.phone_number_id = id
    const number = await authorized(exchange, id)
    await failOrWait(id, 'number')
    const known: Record<string, unknown> = {
      verified_name: number.name,
      code_verification_status: 'VERIFIED',
      display_phone_number: displayed(number.phoneNumber ?? ''),
      quality_rating: 'GREEN',
      platform_type: 'CLOUD_API',
      throughput: { level: 'STANDARD' },
      id,
    }
    const more: Record<string, unknown> = { status: 'CONNECTED', name_status: 'APPROVED', account_mode: 'LIVE' }
    const fields = query.get('fields')?.split(',').map((field) => field.trim())
    const wanted = fields === undefined ? Object.keys(known) : [...new Set([...fields, 'id'])]
    const all = { ...known, ...more }
    const unknown = wanted.find((field) => !Object.hasOwn(all, field))
    if (unknown !== undefined) {
      throw new GraphError(100, {
        message: `(#100) Tried accessing nonexisting field (${unknown}) on node type (WhatsAppBusinessPhoneNumber)`,
      })
    }
    reply(exchange, 200, Object.fromEntries(wanted.map((field) => [field, all[field]])))
  }

  // Who calls, and what was ordered --------------------------------------------------------------------------------

  async function authorized({ request, call }: Exchange, phoneNumberId: string): Promise<BusinessNumber> {
    const token = /^Bearer +(\S+) *$/i.exec(request.headers.authorization ?? '')?.[1]
    if (token === undefined) throw new GraphError(0)
    const numbers = await numbersOf(sql, secrets, phoneNumberId)
    if (numbers.length === 0) throw noSuchObject(phoneNumberId, call.method)
    const number = numbers.find(({ accessToken }) => accessToken !== null && isSame(accessToken, token))
    if (number === undefined) throw new GraphError(190)
    return number
  }

  async function failOrWait(phoneNumberId: string, operation: Operation): Promise<void> {
    const failing = orders.failureFor(phoneNumberId, operation)
    fail(failing)
    if (failing === 'accept_then_break') throw new Broken()
    if (typeof failing === 'object' && failing !== null && 'delay_ms' in failing) {
      await sleep(failing.delay_ms, undefined, { signal: closing.signal })
    }
  }

  /** What was ordered happens here, unless it only happens after the call has done its work. */
  function fail(failing: Failing | null): void {
    if (failing === null || failing === 'accept_then_break') return
    if (failing === 'break') throw new Broken()
    if (failing === 'html_502') throw new BadGateway()
    if ('delay_ms' in failing) return
    throw new GraphError(failing.code, {
      ...(failing.http_status === undefined ? {} : { status: failing.http_status }),
      ...(failing.retry_after === undefined ? {} : { retryAfter: failing.retry_after }),
      ...(failing.details === undefined ? {} : { details: failing.details }),
    })
  }
}

function reply({ response, call }: Exchange, status: number, body: object, headers: Record<string, string> = {}): void {
  call.status = status
  const json = JSON.stringify(body)
  response.writeHead(status, {
    'content-type': 'application/json; charset=UTF-8',
    'content-length': Buffer.byteLength(json),
    'facebook-api-version': VERSION.exec(call.path.split('/')[2] ?? '')?.[0] ?? 'v24.0',
    ...headers,
  })
  response.end(json)
}

function answerHtml({ response, call }: Exchange): void {
  call.status = 502
  const html = '<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>'
  response.writeHead(502, { 'content-type': 'text/html; charset=utf-8', 'content-length': Buffer.byteLength(html) })
  response.end(html)
}

function noSuchObject(id: string, method: string): GraphError {
  return new GraphError(100, {
    subcode: 33,
    type: 'GraphMethodException',
    message:
      `Unsupported ${method.toLowerCase()} request. Object with ID '${id}' does not exist, cannot be loaded due to ` +
      'missing permissions, or does not support this operation. Please read the Graph API documentation at ' +
      'https://developers.facebook.com/docs/graph-api',
    details: null,
  })
}

function parsedJson(body: Buffer, { headers }: IncomingMessage): unknown {
  const type = headers['content-type']?.split(';', 1)[0]?.trim().toLowerCase()
  if (type !== 'application/json') throw new GraphError(100, { details: 'The content type is not application/json.' })
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body))
  } catch {
    throw new GraphError(100, { details: 'The body is not JSON.' })
  }
}

function inOrder(statuses: readonly Status[], { duplicate, shuffle }: StatusPlan): Status[] {
  const order = duplicate ? statuses.flatMap((status) => [status, status]) : [...statuses]
  if (shuffle) {
    for (let last = order.length - 1; last > 0; last--) {
      order.push(...order.splice(randomInt(last + 1), 1))
    }
  }
  return order
}

/** "+55 11 94000-1234" */
function displayed(phoneNumber: string): string {
  return phoneNumber.replace(/^\+55(\d\d)(\d{4,5})(\d{4})$/, '+55 $1 $2-$3')
}

function drained(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      response.off('drain', done).off('close', done)
      resolve()
    }
    response.once('drain', done).once('close', done)
  })
}
