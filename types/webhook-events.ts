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
  is_bot_controlled: z.boolean(),
  assigned_user_id: id.nullable(),
  escalated_at: time.nullable(),
  escalation_reason: z.string().nullable(),
  satisfaction_score: z.int().nullable(),
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

const booking = z.object({
  id,
  contact_id: id,
  pet_id: id.nullable(),
  service_id: id,
  professional_id: id.nullable(),
  location_id: id.nullable(),
  status: z.enum(['hold', 'scheduled', 'confirmed', 'completed', 'cancelled', 'no_show']),
  start_time: time,
  end_time: time,
  /** The local day, in `timezone`. */
  booking_date: z.string(),
  timezone: z.string(),
  hold_expires_at: time.nullable(),
  is_offer: z.boolean(),
  created_by: z.enum(['ai', 'flow', 'human', 'customer', 'system']),
  price_cents: z.int().nullable(),
  confirmed_at: time.nullable(),
  confirmed_by: z.enum(['patient', 'agent', 'system']).nullable(),
  cancelled_at: time.nullable(),
  cancellation_reason: z.string().nullable(),
  completed_at: time.nullable(),
  rescheduled_count: z.int(),
  original_start_time: time.nullable(),
  created_at: time,
})

const waitingListEntry = z.object({
  id,
  contact_id: id,
  service_id: id,
  professional_id: id.nullable(),
  location_id: id.nullable(),
  pet_id: id.nullable(),
  priority: z.int(),
  status: z.enum(['waiting', 'offered', 'booked', 'expired', 'cancelled']),
  offered_booking_id: id.nullable(),
  offer_expires_at: time.nullable(),
  created_at: time,
})

const leadStatus = z.enum(['novo', 'em_contato', 'agendado', 'fechado', 'perdido'])

const lead = z.object({
  id,
  contact_id: id,
  professional_id: id.nullable(),
  status: leadStatus,
  previous_status: leadStatus.nullable(),
  source: z.string().nullable(),
  respostas: z.record(z.string(), z.json()),
  closed_at: time.nullable(),
  lost_reason: z.string().nullable(),
  created_at: time,
})

const alert = {
  id,
  /** What is wrong: endpoint_failing, instance_disconnected, sending_stopped, instance_silent; more may come. */
  kind: z.string(),
  /** Which endpoint or number: its id. */
  subject: z.string(),
  severity: z.enum(['warning', 'critical']),
  message: z.string(),
  opened_at: time,
  resolved_at: time.nullable(),
  /**
   * Why it is resolved. fixed: it works again; removed: somebody took the endpoint or number away, or switched it off; changed:
   * another alert tells what is wrong now, somebody is connecting it again, or it is no longer looked at.
   */
  resolution: z.enum(['fixed', 'removed', 'changed']).nullable(),
}

const merge = { merge_id: id, kept_contact_id: id, merged_contact_id: id }

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
  /** The bot asks for a person. */
  event('conversation.escalated', { conversation }),
  /** A person answers from now on; by an app, or on the business's own phone. */
  event('conversation.taken_over', { conversation }),
  /** The bot answers again. */
  event('conversation.released', { conversation }),
  /** A member gave it to another. */
  event('conversation.transferred', { conversation }),
  event('conversation.closed', { conversation }),
  event('conversation.reopened', { conversation }),
  event('contact.created', { contact: contact.extend({ source: z.string().nullable(), created_at: time }) }),
  /** Two contacts are one person: what refers to the merged one is the kept one's now; and the way back. */
  event('contact.merged', merge),
  event('contact.unmerged', merge),
  event('lead.created', { lead, contact }),
  event('lead.status_changed', { lead, contact }),
  /** The plan's month is full: this one is kept, and released by an upgrade. */
  event('lead.over_limit', { lead_id: id }),
  event('lead.released', { lead, contact }),
  /** A slot is kept for somebody; then comes booking.created, or booking.released when nothing came of it. */
  event('booking.held', { booking, contact }),
  event('booking.released', { booking, contact }),
  event('booking.created', { booking, contact }),
  /** Another price, note, animal …, not another time. */
  event('booking.updated', { booking, contact }),
  event('booking.rescheduled', { booking, contact }),
  event('booking.confirmed', { booking, contact }),
  event('booking.completed', { booking, contact }),
  event('booking.cancelled', { booking, contact }),
  event('booking.no_show', { booking, contact }),
  event('waiting_list.joined', { entry: waitingListEntry, contact }),
  /** A slot became free and is held for this customer until offer_expires_at: ask him. */
  event('waiting_list.offered', { entry: waitingListEntry, contact }),
  event('waiting_list.booked', { entry: waitingListEntry, contact }),
  event('waiting_list.expired', { entry: waitingListEntry, contact }),
  event('waiting_list.left', { entry: waitingListEntry, contact }),
  event('instance.connected', { instance }),
  event('instance.disconnected', { instance }),
  /** The provider refuses the number: nothing is sent until an administrator acts. */
  event('instance.sending_stopped', { instance }),
  /** Something of this organization is not well; again when it becomes critical, or comes back after an hour. */
  event('alert.opened', alert),
  event('alert.resolved', alert),
  /** test_webhook_endpoint() was called. */
  event('webhook.test', { endpoint_id: id }),
])
export type WebhookEvent = z.infer<typeof webhookEvent>
export type WebhookEventType = WebhookEvent['type']

export const webhookEventTypes: readonly WebhookEventType[] = webhookEvent.options.map(({ shape }) => shape.type.value)
