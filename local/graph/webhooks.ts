// What WhatsApp tells of a number: what became of our messages, and what customers write.

import { randomBytes } from 'node:crypto'
import { statusError } from './errors.ts'
import type { BusinessNumber, Recipient } from './numbers.ts'

export type StatusName = 'sent' | 'delivered' | 'read' | 'played'
export type Status = StatusName | { status: 'failed'; code: number }

export interface Sent {
  id: string
  recipient: Recipient
  /** What the recipient calls himself. */
  name: string | null
  isTemplate: boolean
  opaque: string | undefined
}

/** The value of a status webhook. Which of the others it stands among decides whether it names the price. */
export function statusValue(
  number: BusinessNumber,
  sent: Sent,
  status: Status,
  among: readonly Status[],
  now: Date,
): Record<string, unknown> {
  const { waId, bsuid } = sent.recipient
  const isFailure = typeof status !== 'string'
  const isPriced = status === 'sent' || status === (among.includes('delivered') ? 'delivered' : 'read')
  return {
    ...envelope(number),
    // Not with a failure: who does not get it is not told of.
    ...(isFailure ? {} : { contacts: [contactOf(sent.recipient, sent.name)] }),
    statuses: [{
      id: sent.id,
      status: isFailure ? status.status : status,
      timestamp: secondsOf(now),
      ...(waId === null ? {} : { recipient_id: waId }),
      ...(bsuid === null ? {} : { recipient_user_id: bsuid }),
      ...(sent.opaque === undefined ? {} : { biz_opaque_callback_data: sent.opaque }),
      ...(isPriced ? { pricing: priceOf(sent) } : {}),
      ...(isFailure ? { errors: [statusError(status.code)] } : {}),
    }],
  }
}

/** The value of the webhook of a customer's message. */
export function inboundValue(
  number: BusinessNumber,
  customer: Recipient,
  name: string,
  message: Record<string, unknown>,
): Record<string, unknown> {
  return {
    ...envelope(number),
    contacts: [contactOf(customer, name)],
    messages: [{
      ...(customer.waId === null ? {} : { from: customer.waId }),
      ...(customer.bsuid === null ? {} : { from_user_id: customer.bsuid }),
      ...message,
    }],
  }
}

export function secondsOf(date: Date): string {
  return String(Math.floor(date.getTime() / 1000))
}

/** As real ones are built: the other side's number (zeros when it is hidden), a direction, a random number. */
export function newMessageId(waId: string | null, direction: 'inbound' | 'outbound'): string {
  const name = Buffer.from(waId ?? '000', 'ascii')
  const [mark, digits] = direction === 'outbound' ? [0x11, 18] : [0x12, 20]
  const random = randomBytes(digits / 2).toString('hex').toUpperCase()
  const bytes = Buffer.concat([
    Buffer.of(0x1c, 0x18, name.length),
    name,
    Buffer.of(0x15, 0x02, 0x00, mark, 0x18, digits),
    Buffer.from(random, 'ascii'),
    Buffer.of(0x00),
  ])
  return `wamid.${bytes.toString('base64')}`
}

function envelope({ id, phoneNumber }: BusinessNumber): Record<string, unknown> {
  return {
    messaging_product: 'whatsapp',
    metadata: { display_phone_number: (phoneNumber ?? '').replace('+', ''), phone_number_id: id },
  }
}

function contactOf({ waId, bsuid }: Recipient, name: string | null): Record<string, unknown> {
  return {
    profile: { name: name ?? 'Cliente' },
    ...(waId === null ? {} : { wa_id: waId }),
    ...(bsuid === null ? {} : { user_id: bsuid }),
  }
}

function priceOf({ isTemplate }: Sent): Record<string, unknown> {
  return isTemplate
    ? { billable: true, pricing_model: 'PMP', type: 'regular', category: 'utility' }
    : { billable: false, pricing_model: 'PMP', type: 'free_customer_service', category: 'service' }
}
