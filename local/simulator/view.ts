// What the page shows of one customer: the messages, the conversation and the bookings, as whoever asks may see them.

import { z } from 'zod'
import type { SimulatedNumber } from './number.ts'
import type { Rest } from './rest.ts'

const contactRow = z.object({
  id: z.string(),
  name: z.string().nullable(),
  profile_name: z.string().nullable(),
  phone_number: z.string().nullable(),
  merged_into_id: z.string().nullable(),
})
const CONTACT = 'id,name,profile_name,phone_number,merged_into_id'

const conversationRow = z.object({
  id: z.string(),
  status: z.enum(['active', 'waiting_human', 'transferred', 'closed']),
  is_open: z.boolean(),
  is_bot_controlled: z.boolean(),
  control_epoch: z.int(),
  priority: z.enum(['low', 'normal', 'high', 'urgent']),
  assigned_user_id: z.string().nullable(),
  unread_count: z.int(),
  escalation_reason: z.string().nullable(),
  satisfaction_score: z.int().nullable(),
})
const CONVERSATION = Object.keys(conversationRow.shape).join()

const messageRow = z.object({
  id: z.string(),
  conversation_id: z.string(),
  direction: z.enum(['inbound', 'outbound']),
  sender: z.enum(['contact', 'bot', 'ai', 'human', 'system']),
  sender_user_id: z.string().nullable(),
  message_type: z.string(),
  content: z.string().nullable(),
  payload: z.record(z.string(), z.unknown()).nullable(),
  whatsapp_message_id: z.string().nullable(),
  reply_to_whatsapp_message_id: z.string().nullable(),
  client_message_id: z.string().nullable(),
  status: z.string(),
  error_code: z.string().nullable(),
  error_message: z.string().nullable(),
  revoked_at: z.string().nullable(),
  created_at: z.string(),
})
const MESSAGE = Object.keys(messageRow.shape).join()

const named = z.object({ name: z.string() }).nullable()
const bookingRow = z.object({
  id: z.string(),
  status: z.enum(['hold', 'scheduled', 'confirmed', 'completed', 'cancelled', 'no_show']),
  is_live: z.boolean(),
  start_time: z.string(),
  service: named,
  professional: named,
  pet: named,
  location: z.object({ name: z.string(), timezone: z.string().nullable() }).nullable(),
})
const BOOKING = 'id,status,is_live,start_time,service:services(name),professional:professionals(name),pet:pets(name),' +
  'location:locations(name,timezone)'

const MESSAGES_SHOWN = 100
const BOOKINGS_SHOWN = 8

export interface View {
  contact: z.output<typeof contactRow> | null
  conversation: z.output<typeof conversationRow> | null
  messages: z.output<typeof messageRow>[]
  bookings: z.output<typeof bookingRow>[]
}

export async function viewOf(
  rest: Rest,
  organizationId: string,
  { instance_id }: SimulatedNumber,
  phoneNumber: string,
): Promise<View> {
  const contact = await contactWith(rest, organizationId, phoneNumber)
  if (contact === null) return { contact: null, conversation: null, messages: [], bookings: [] }
  const theirs = { organization_id: `eq.${organizationId}`, contact_id: `eq.${contact.id}` }
  const [[conversation], messages, bookings] = await Promise.all([
    rest.select('conversations', {
      ...theirs,
      instance_id: `eq.${instance_id}`,
      select: CONVERSATION,
      // The open one, or the last.
      order: 'is_open.desc,id.desc',
      limit: '1',
    }, conversationRow),
    rest.select('messages', {
      ...theirs,
      instance_id: `eq.${instance_id}`,
      select: MESSAGE,
      order: 'id.desc',
      limit: String(MESSAGES_SHOWN),
    }, messageRow),
    rest.select('bookings', {
      ...theirs,
      select: BOOKING,
      // What is still to come first.
      order: 'is_live.desc,created_at.desc,id.desc',
      limit: String(BOOKINGS_SHOWN),
    }, bookingRow),
  ])
  return { contact, conversation: conversation ?? null, messages: messages.reverse(), bookings }
}

/** Of two merged contacts the one that is left. */
async function contactWith(rest: Rest, organizationId: string, phoneNumber: string): Promise<View['contact']> {
  const ours = { organization_id: `eq.${organizationId}`, select: CONTACT }
  const [contact] = await rest.select('contacts', { ...ours, phone_number: `eq.${phoneNumber}` }, contactRow)
  if (contact === undefined || contact.merged_into_id === null) return contact ?? null
  const [kept] = await rest.select('contacts', { ...ours, id: `eq.${contact.merged_into_id}` }, contactRow)
  return kept ?? null
}
