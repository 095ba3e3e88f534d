// Orders for the stack's imitation of Meta's Graph API (local/graph): what shall fail, which statuses follow a send,
// what a customer writes; and what Meta was told. A test orders for its own numbers only, so that tests share a stack.

import { z } from 'zod'
import type { Json } from '../../types/index.ts'

/** A stack, as far as Meta's imitation is concerned. */
export interface MetaBackend {
  urls: { graph: string }
  keys: { secret: string }
}

/** A number of a tenant; `ConnectedNumber` is one. */
export interface MetaNumber {
  externalId: string
}

export type Status = 'sent' | 'delivered' | 'read' | 'played' | { status: 'failed'; code: number }

export type Failure =
  /** An error as Meta documents it; for the codes see local/graph/errors.ts. */
  | { code: number; http_status?: number; retry_after?: number; details?: string }
  /** The message is sent and its statuses come, but the connection breaks without an answer. */
  | 'accept_then_break'
  /** The connection breaks, and nothing is sent. */
  | 'break'
  | 'html_502'
  /** The message is sent at once, the answer comes late. */
  | { delay_ms: number }

export type Operation = 'messages' | 'upload' | 'media' | 'download' | 'delete' | 'number'

const call = z.object({
  at: z.string(),
  method: z.string(),
  path: z.string(),
  operation: z.enum(['messages', 'upload', 'media', 'download', 'delete', 'number']).nullable(),
  phone_number_id: z.string().nullable(),
  to: z.string().nullable(),
  body: z.unknown(),
  status: z.int().nullable(),
  code: z.int().nullable(),
  message_id: z.string().nullable(),
})
/** One request that Meta received: status is null when it was not answered, message_id when nothing was sent. */
export type Call = z.infer<typeof call>

const delivery = z.object({
  at: z.string(),
  phone_number_id: z.string(),
  value: z.looseObject({
    statuses: z.array(z.looseObject({ id: z.string(), status: z.string() })).optional(),
    messages: z.array(z.looseObject({ id: z.string(), type: z.string() })).optional(),
  }),
  attempts: z.int(),
  status: z.int().nullable(),
  answer: z.unknown(),
})
/** One webhook that Meta posted, and what whatsapp-webhook answered to its last attempt. */
export type Delivery = z.infer<typeof delivery>

const heldMedia = z.object({ id: z.string(), sha256: z.string(), sha256_hex: z.string() })

/** `metaOf(backend).failing(number, { code: 130429 }, { times: 2 })` */
export function metaOf({ urls, keys }: MetaBackend) {
  async function order<Schema extends z.ZodType>(
    method: string,
    path: string,
    body: unknown,
    answer: Schema,
  ): Promise<z.output<Schema>> {
    const response = await fetch(`${urls.graph}/_control${path}`, {
      method,
      headers: { apikey: keys.secret, 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    const text = await response.text()
    if (!response.ok) throw new Error(`The control interface answered ${response.status}: ${text}`)
    return answer.parse(JSON.parse(text))
  }
  const ordered = z.object({ ordered: z.literal(true) })

  async function callsOf({ externalId }: MetaNumber): Promise<Call[]> {
    const answer = z.object({ calls: z.array(call) })
    return (await order('GET', `/calls?phone_number_id=${externalId}`, undefined, answer)).calls
  }

  return {
    /** The next calls of a number fail (sends, unless another operation is named): once, unless `times` says more. */
    failing: async (
      { externalId }: MetaNumber,
      fail: Failure,
      options: { times?: number; to?: string; operation?: Operation } = {},
    ): Promise<void> => {
      await order('POST', '/failures', { phone_number_id: externalId, times: 1, ...options, fail }, ordered)
    },

    /** What follows each send of a number from now on; without any order: sent, delivered, read. */
    statuses: async (
      { externalId }: MetaNumber,
      statuses: Status[],
      options: { delay_ms?: number; before_answer?: boolean; duplicate?: boolean; shuffle?: boolean } = {},
    ): Promise<void> => {
      await order('POST', '/statuses', { phone_number_id: externalId, statuses, ...options }, ordered)
    },

    /** A file that WhatsApp holds for a number; with a size instead of bytes it is of no interest what is in it. */
    media: async (
      { externalId }: MetaNumber,
      mimeType: string,
      content: { bytes: Uint8Array } | { size: number },
    ): Promise<z.infer<typeof heldMedia>> =>
      await order('POST', '/media', {
        phone_number_id: externalId,
        mime_type: mimeType,
        ...('bytes' in content ? { bytes: Buffer.from(content.bytes).toString('base64') } : content),
      }, heldMedia),

    /** A customer writes; resolves when the webhook was answered. An id or timestamp may stand in the message. */
    inbound: async (
      { externalId }: MetaNumber,
      { from, name, message }: { from: string; name?: string; message: { type: string; [field: string]: Json } },
    ): Promise<{ id: string; deliveries: Delivery[] }> =>
      await order('POST', '/inbound', {
        phone_number_id: externalId,
        from,
        ...(name === undefined ? {} : { name }),
        message,
      }, z.object({ id: z.string(), deliveries: z.array(delivery) })),

    /** What Meta was asked for a number, in the order in which it came. */
    calls: callsOf,

    /** The sends among them. */
    sends: async (number: MetaNumber): Promise<Call[]> =>
      (await callsOf(number)).filter(({ operation }) => operation === 'messages'),

    /** The webhooks that Meta posted for a number. */
    deliveries: async ({ externalId }: MetaNumber): Promise<Delivery[]> =>
      (await order(
        'GET',
        `/deliveries?phone_number_id=${externalId}`,
        undefined,
        z.object({ deliveries: z.array(delivery) }),
      )).deliveries,

    /** Orders, files, calls and what was still to come. */
    forget: async ({ externalId }: MetaNumber): Promise<void> => {
      await order('DELETE', `?phone_number_id=${externalId}`, undefined, z.object({ forgotten: z.literal(true) }))
    },
  }
}
