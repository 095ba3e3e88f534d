// What a test has ordered of Meta (failures, statuses), and what Meta has been told.

import { z } from 'zod'
import { documentedCodes } from './errors.ts'
import { isBsuid, type Recipient, waIdOf } from './numbers.ts'
import type { Status } from './webhooks.ts'

const phoneNumberId = z.string().regex(/^\d{1,128}$/)
const milliseconds = z.int().min(0).max(600_000)
const documentedCode = z.int().refine((code) => documentedCodes.includes(code), {
  message: 'is no code that Meta documents',
})

export const operations = ['messages', 'upload', 'media', 'download', 'delete', 'number'] as const
export type Operation = typeof operations[number]

export const failureOrder = z.strictObject({
  phone_number_id: phoneNumberId,
  /** Only what goes to this person; with any operation but "messages" it says nothing. */
  to: z.string().min(1).optional(),
  operation: z.enum(operations).default('messages'),
  times: z.int().min(1).max(1_000_000),
  fail: z.union([
    z.enum(['break', 'accept_then_break', 'html_502']),
    z.strictObject({
      code: documentedCode,
      http_status: z.int().min(400).max(599).optional(),
      retry_after: z.int().min(0).max(86_400).optional(),
      details: z.string().optional(),
    }),
    z.strictObject({ delay_ms: milliseconds }),
  ]),
})
type FailureOrder = z.output<typeof failureOrder>
export type Failing = FailureOrder['fail']

export const statusOrder = z.strictObject({
  phone_number_id: phoneNumberId,
  statuses: z.array(z.union([
    z.enum(['sent', 'delivered', 'read', 'played']),
    z.strictObject({ status: z.literal('failed'), code: documentedCode }),
  ])).max(20),
  /** Between the answer and the first, and from each to the next. */
  delay_ms: milliseconds.default(20),
  before_answer: z.boolean().default(false),
  duplicate: z.boolean().default(false),
  shuffle: z.boolean().default(false),
})

export interface StatusPlan {
  statuses: readonly Status[]
  delay_ms: number
  before_answer: boolean
  duplicate: boolean
  shuffle: boolean
}

export const mediaOrder = z.strictObject({
  phone_number_id: phoneNumberId,
  bytes: z.base64().optional(),
  size: z.int().min(0).max(512 * 1024 * 1024).optional(),
  mime_type: z.string().min(1),
}).refine(({ bytes, size }) => (bytes === undefined) !== (size === undefined), {
  path: ['bytes'],
  message: 'or size must be given, not both',
})

export const inboundOrder = z.strictObject({
  phone_number_id: phoneNumberId,
  from: z.string().refine((from) => isBsuid(from) || /^\+?\d{7,15}$/.test(from), {
    message: 'is neither a number with country code nor a business-scoped user id',
  }),
  name: z.string().min(1).default('Cliente'),
  message: z.looseObject({ type: z.string().min(1) }),
})

/** One request to the Graph API. */
export interface Call {
  at: string
  method: string
  path: string
  operation: Operation | null
  phone_number_id: string | null
  to: string | null
  body: unknown
  /** Of the answer; null when none was given. */
  status: number | null
  code: number | null
  message_id: string | null
}

const DEFAULT_PLAN: StatusPlan = {
  statuses: ['sent', 'delivered', 'read'],
  delay_ms: 20,
  before_answer: false,
  duplicate: false,
  shuffle: false,
}
/** WhatsApp tells of a reaction only that it was sent. */
const REACTION_PLAN: StatusPlan = { ...DEFAULT_PLAN, statuses: ['sent'] }

/** How much is remembered of what happened: a stack that runs for weeks must not grow for weeks. */
const KEPT = 20_000

export class Journal<Entry extends { phone_number_id: string | null }> {
  #entries: Entry[] = []

  add(entry: Entry): void {
    this.#entries.push(entry)
    if (this.#entries.length > KEPT * 2) this.#entries = this.#entries.slice(-KEPT)
  }

  of(phoneNumberId: string | null): Entry[] {
    return this.#entries.filter((entry) => phoneNumberId === null || entry.phone_number_id === phoneNumberId)
  }

  forget(phoneNumberId: string | null): void {
    this.#entries = this.#entries.filter((entry) => phoneNumberId !== null && entry.phone_number_id !== phoneNumberId)
  }
}

export class Orders {
  #failures: FailureOrder[] = []
  readonly #plans = new Map<string, StatusPlan>()

  order(failure: FailureOrder): void {
    this.#failures.push({ ...failure })
  }

  plan(phoneNumberId: string, plan: StatusPlan): void {
    this.#plans.set(phoneNumberId, plan)
  }

  planFor(phoneNumberId: string, messageType: string): StatusPlan {
    return this.#plans.get(phoneNumberId) ?? (messageType === 'reaction' ? REACTION_PLAN : DEFAULT_PLAN)
  }

  /** The oldest order that fits, which is then one time less. */
  failureFor(phoneNumberId: string, operation: Operation, recipient: Recipient | null = null): Failing | null {
    const order = this.#failures.find((failure) =>
      failure.times > 0 && failure.phone_number_id === phoneNumberId && failure.operation === operation &&
      (failure.to === undefined || operation !== 'messages' || isMeant(failure.to, recipient))
    )
    if (order === undefined) return null
    order.times -= 1
    if (order.times === 0) this.#failures = this.#failures.filter((failure) => failure !== order)
    return order.fail
  }

  forget(phoneNumberId: string | null): void {
    this.#failures = this.#failures.filter((failure) =>
      phoneNumberId !== null && failure.phone_number_id !== phoneNumberId
    )
    for (const id of this.#plans.keys()) {
      if (phoneNumberId === null || phoneNumberId === id) this.#plans.delete(id)
    }
  }
}

/** With and without "+", with and without the ninth digit. */
function isMeant(to: string, recipient: Recipient | null): boolean {
  return recipient?.bsuid === to || recipient?.waId === waIdOf(to.replaceAll(/\D/g, ''))
}
