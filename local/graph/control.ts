// /graph/_control: what tests order of Meta. From this machine only, and with the stack's secret key.

import type { IncomingMessage, ServerResponse } from 'node:http'
import { z } from 'zod'
import { messageOf } from '../failure.ts'
import type { Delivery, Postman } from './deliveries.ts'
import { GraphError } from './errors.ts'
import type { MediaStore } from './media.ts'
import { type BusinessNumber, isBsuid, type Recipient } from './numbers.ts'
import { type Call, failureOrder, inboundOrder, type Journal, mediaOrder, type Orders, statusOrder } from './orders.ts'
import { bodyOf, isSame } from './requests.ts'
import { inboundValue, newMessageId, secondsOf } from './webhooks.ts'

export interface ControlOptions {
  secretKey: string
  media: MediaStore
  orders: Orders
  calls: Journal<Call>
  deliveries: Journal<Delivery>
  postman: Postman
  numbersOf: (phoneNumberId: string) => Promise<BusinessNumber[]>
  now: () => Date
}

/** Media may come with it, in base64. */
const BODY_LIMIT = 160 * 1024 * 1024

class Refusal extends Error {
  constructor(readonly status: number, readonly code: string, message: string) {
    super(message)
  }
}

export class Control {
  readonly #options: ControlOptions

  constructor(options: ControlOptions) {
    this.#options = options
  }

  async handle(
    request: IncomingMessage,
    response: ServerResponse,
    path: string[],
    query: URLSearchParams,
  ): Promise<void> {
    try {
      this.#admit(request)
      answer(response, 200, await this.#obey(request, path, query.get('phone_number_id')))
    } catch (error) {
      if (request.socket.destroyed) return
      const refusal = error instanceof Refusal
        ? error
        : error instanceof GraphError
        ? new Refusal(error.status, 'invalid_request', error.message)
        : new Refusal(500, 'internal_error', messageOf(error))
      answer(response, refusal.status, { error: { code: refusal.code, message: refusal.message } })
    }
  }

  #admit({ socket, headers }: IncomingMessage): void {
    if (!/^(?:::ffff:)?127\.|^::1$/.test(socket.remoteAddress ?? '')) {
      throw new Refusal(403, 'not_allowed', 'Only from this machine')
    }
    const bearer = /^Bearer +(\S+) *$/i.exec(headers.authorization ?? '')?.[1]
    const apikey = typeof headers.apikey === 'string' ? headers.apikey : undefined
    const isKnown = [apikey, bearer].some((key) => key !== undefined && isSame(key, this.#options.secretKey))
    if (!isKnown) throw new Refusal(401, 'not_authenticated', "Send the stack's secret key as apikey or bearer")
  }

  async #obey(request: IncomingMessage, path: string[], phoneNumberId: string | null): Promise<object> {
    const { orders, calls, deliveries } = this.#options
    const method = request.method ?? 'GET'
    switch (`${method} ${path.join('/')}`) {
      case 'POST failures':
        orders.order(await read(request, failureOrder))
        return { ordered: true }
      case 'POST statuses': {
        const { phone_number_id, ...plan } = await read(request, statusOrder)
        orders.plan(phone_number_id, plan)
        return { ordered: true }
      }
      case 'POST media':
        return this.#hold(await read(request, mediaOrder))
      case 'POST inbound':
        return await this.#write(await read(request, inboundOrder))
      case 'GET calls':
        return { calls: calls.of(phoneNumberId) }
      case 'GET deliveries':
        return { deliveries: deliveries.of(phoneNumberId) }
      case 'DELETE ':
        this.#forget(phoneNumberId)
        return { forgotten: true }
      default:
        throw new Refusal(404, 'not_found', `There is no ${method} ${path.join('/')} here`)
    }
  }

  #hold({ phone_number_id, bytes, size, mime_type }: z.output<typeof mediaOrder>): object {
    const content = bytes === undefined ? { size: size ?? 0 } : { bytes: Buffer.from(bytes, 'base64') }
    const file = this.#options.media.add(phone_number_id, mime_type, content)
    // As a webhook writes it, and as the Graph API does.
    return { id: file.id, sha256: Buffer.from(file.sha256, 'hex').toString('base64'), sha256_hex: file.sha256 }
  }

  /** The customer's message reaches every organization that has connected the number. */
  async #write({ phone_number_id, from, name, message }: z.output<typeof inboundOrder>): Promise<object> {
    const { numbersOf, postman, now } = this.#options
    const numbers = await numbersOf(phone_number_id)
    if (numbers.length === 0) {
      throw new Refusal(404, 'number_not_found', `phone_number_id: ${phone_number_id} is not connected`)
    }
    const digits = from.replace('+', '')
    const customer: Recipient = isBsuid(from)
      ? { input: from, waId: null, bsuid: from }
      : { input: from, waId: digits, bsuid: null }
    const written = { id: newMessageId(customer.waId, 'inbound'), timestamp: secondsOf(now()), ...message }
    const posted = await Promise.all(
      numbers.map((number) => postman.post(number, inboundValue(number, customer, name, written))),
    )
    return { id: written.id, deliveries: posted }
  }

  #forget(phoneNumberId: string | null): void {
    const { orders, calls, deliveries, media, postman } = this.#options
    for (const memory of [orders, calls, deliveries, media, postman]) memory.forget(phoneNumberId)
  }
}

async function read<Schema extends z.ZodType>(request: IncomingMessage, schema: Schema): Promise<z.output<Schema>> {
  const body = await bodyOf(request, BODY_LIMIT)
  let json: unknown
  try {
    json = JSON.parse(body.toString('utf8'))
  } catch {
    throw new Refusal(400, 'invalid_json', 'The body is not JSON')
  }
  const parsed = schema.safeParse(json)
  if (parsed.success) return parsed.data
  const [issue] = parsed.error.issues
  const field = issue?.code === 'unrecognized_keys' ? issue.keys.join() : issue?.path.join('.')
  throw new Refusal(400, 'invalid_request', `${field || 'The body'}: ${issue?.message ?? 'is not valid'}`)
}

function answer(response: ServerResponse, status: number, body: object): void {
  const json = JSON.stringify(body)
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(json) })
  response.end(json)
}
