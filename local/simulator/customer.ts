// What the customer does with the phone, in Meta's words: a webhook's message for a text, a tapped option, a photo.

import { createHash } from 'node:crypto'
import { z } from 'zod'
import { fromHumanInput } from '../../functions/_shared/phone.ts'
import { interactivePayload } from '../../types/outbound.ts'
import { waIdOf } from '../graph/numbers.ts'
import { Refusal } from './admission.ts'
import { expectDone, type SimulatedNumber, type StackAccess } from './number.ts'
import type { Rest } from './rest.ts'

const uuid = z.guid().toLowerCase()

export const customerMessage = z.strictObject({
  organization_id: uuid,
  phone_number: z.string().max(40),
  name: z.string().trim().min(1).max(120),
  /** The page's own: a second try is the same message. */
  id: uuid,
  says: z.discriminatedUnion('type', [
    z.strictObject({ type: z.literal('text'), text: z.string().min(1).max(4096) }),
    z.strictObject({ type: z.literal('option'), message_id: uuid, option_id: z.string().min(1).max(256) }),
    z.strictObject({ type: z.literal('image'), caption: z.string().max(1024).optional() }),
  ]),
})
type CustomerMessage = z.output<typeof customerMessage>

/** A grey pixel: the photo of the simulator. */
const PHOTO = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mOcN2/efwAHLgLp9yFJFQAAAABJRU5ErkJggg=='

const held = z.object({ id: z.string(), sha256: z.string() })
const written = z.object({
  id: z.string(),
  deliveries: z.array(z.object({ status: z.int().nullable(), attempts: z.int() })).min(1),
})
const offered = z.object({ whatsapp_message_id: z.string(), payload: interactivePayload })

/** E.164; throws a Refusal. */
export function canonicalNumber(input: string): string {
  const canonical = fromHumanInput(input)
  if (canonical === null) {
    throw new Refusal(400, 'invalid_phone_number', 'phone_number: is not a phone number with area code')
  }
  return canonical
}

export async function writeAsCustomer(
  { organization_id, phone_number, name, id, says }: CustomerMessage,
  number: SimulatedNumber,
  { platform, post }: StackAccess,
): Promise<{ whatsapp_message_id: string }> {
  const from = waIdOf(canonicalNumber(phone_number).slice(1))
  const answer = written.parse(expectDone(
    await post('/graph/_control/inbound', {
      phone_number_id: number.external_id,
      from,
      name,
      message: { id: messageId(organization_id, id), ...await inMetasWords(says) },
    }),
  ))
  const refused = answer.deliveries.find(({ status }) => status !== 200)
  if (refused !== undefined) {
    throw new Refusal(502, 'webhook_refused', `whatsapp-webhook answered ${refused.status ?? 'nothing'}`)
  }
  return { whatsapp_message_id: answer.id }

  async function inMetasWords(says: CustomerMessage['says']): Promise<{ type: string; [key: string]: unknown }> {
    switch (says.type) {
      case 'text':
        return { type: 'text', text: { body: says.text } }
      case 'option':
        return await tapped(platform, organization_id, number, says.message_id, says.option_id)
      case 'image': {
        const photo = { phone_number_id: number.external_id, bytes: PHOTO, mime_type: 'image/png' }
        const { id, sha256 } = held.parse(expectDone(await post('/graph/_control/media', photo)))
        const caption = says.caption ? { caption: says.caption } : {}
        return { type: 'image', image: { id, sha256, mime_type: 'image/png', ...caption } }
      }
      default:
        return says satisfies never
    }
  }
}

/** The title and the id of an option are those that were sent, not those that a page names. */
async function tapped(
  platform: Rest,
  organizationId: string,
  { instance_id, phone_number }: SimulatedNumber,
  messageId: string,
  optionId: string,
): Promise<{ type: string; [key: string]: unknown }> {
  const [message] = await platform.select('messages', {
    select: 'whatsapp_message_id,payload',
    organization_id: `eq.${organizationId}`,
    instance_id: `eq.${instance_id}`,
    id: `eq.${messageId}`,
    message_type: 'eq.interactive',
    whatsapp_message_id: 'not.is.null',
  }, offered)
  if (message === undefined) throw new Refusal(404, 'message_not_found', 'There is no such message with options')
  const { payload } = message
  const context = { from: phone_number.slice(1), id: message.whatsapp_message_id }
  if (payload.type === 'button') {
    const button = payload.buttons.find(({ id }) => id === optionId)
    if (button !== undefined) {
      return { type: 'interactive', context, interactive: { type: 'button_reply', button_reply: button } }
    }
  } else {
    const row = payload.sections.flatMap(({ rows }) => rows).find(({ id }) => id === optionId)
    if (row !== undefined) {
      return { type: 'interactive', context, interactive: { type: 'list_reply', list_reply: row } }
    }
  }
  throw new Refusal(404, 'option_not_found', 'That message does not have this option')
}

function messageId(organizationId: string, id: string): string {
  return `wamid.${createHash('sha256').update(`${organizationId} ${id}`).digest('base64')}`
}
