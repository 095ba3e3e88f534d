// The events that an organization's webhook endpoints are told, in the form of Standard Webhooks: the body is
// { type, timestamp, data }. Verify it with the reference library (npm: standardwebhooks) before you parse it:
//
//   const body = webhookEvent.parse(new Webhook(secret).verify(rawBody, headers))
//
// An event may come more than once, under the same webhook-id, and events come in any order.

import { z } from 'zod'

const id = z.guid()
const time = z.string()

const message = z.object({
  id,
  conversation_id: id,
  contact_id: id,
  instance_id: id,
  direction: z.enum(['inbound', 'outbound']),
  sender: z.enum(['contact', 'bot', 'ai', 'human', 'system']),
  message_type: z.string(),
  content: z.string().nullable(),
  whatsapp_message_id: z.string().nullable(),
  client_message_id: z.string().nullable(),
  status: z.enum(['received', 'queued', 'sent', 'failed', 'delivered', 'read', 'played']),
  error_code: z.string().nullable(),
  error_message: z.string().nullable(),
  sent_at: time.nullable(),
  created_at: time,
})

const contact = z.object({ id, name: z.string().nullable(), phone_number: z.string().nullable() })

const conversation = z.object({
  id,
  contact_id: id,
  instance_id: id,
  status: z.enum(['active', 'waiting_human', 'transferred', 'closed']),
  assigned_user_id: id.nullable(),
  created_at: time,
  closed_at: time.nullable(),
})

const instance = z.object({
  id,
  name: z.string(),
  phone_number: z.string().nullable(),
  provider: z.enum(['meta_cloud', 'evolution', 'zapi']),
  status: z.enum(['connecting', 'connected', 'disconnected', 'banned']),
  sending_stopped_at: time.nullable(),
  sending_stopped_code: z.string().nullable(),
  sending_stopped_reason: z.string().nullable(),
})

function event<Type extends string, Facts extends z.ZodRawShape>(type: Type, facts: Facts) {
  return z.object({ type: z.literal(type), timestamp: time, data: z.object({ organization_id: id, ...facts }) })
}

export const webhookEvent = z.discriminatedUnion('type', [
  /** A customer wrote. */
  event('message.received', { message, contact }),
  /** How far a message of ours got; a later one may come without an earlier one. */
  event('message.sent', { message, contact }),
  event('message.delivered', { message, contact }),
  event('message.read', { message, contact }),
  event('message.played', { message, contact }),
  event('message.failed', { message, contact }),
  event('conversation.opened', { conversation }),
  event('conversation.closed', { conversation }),
  event('contact.created', { contact: contact.extend({ source: z.string().nullable(), created_at: time }) }),
  event('instance.connected', { instance }),
  event('instance.disconnected', { instance }),
  /** The provider refuses the number: nothing is sent until an administrator acts. */
  event('instance.sending_stopped', { instance }),
  /** test_webhook_endpoint() was called. */
  event('webhook.test', { endpoint_id: id }),
])
export type WebhookEvent = z.infer<typeof webhookEvent>
export type WebhookEventType = WebhookEvent['type']

export const webhookEventTypes: readonly WebhookEventType[] = webhookEvent.options.map(({ shape }) => shape.type.value)
