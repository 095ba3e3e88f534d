// The shapes of Meta's deliveries, as tolerant as they can be: each item is read by itself, an optional field that is
// odd counts as absent, and what we do not name is kept. Only what an event cannot do without is required.
import { z } from 'zod'

function optional<Schema extends z.ZodType>(schema: Schema) {
  return schema.optional().catch(undefined)
}

const someObject = z.looseObject({})
const text = z.string()
// They end up in unique indexes, whose rows are bounded.
const messageId = z.string().min(1).max(255)
const providerId = z.union([z.string(), z.number().transform(String)]).pipe(z.string().min(1).max(255))
const oneOrMore = <Schema extends z.ZodType>(schema: Schema) => z.array(schema).min(1)

/** Unix seconds, as text or number. */
const timestamp = z.coerce.number().positive().max(253_402_300_799).transform((seconds) =>
  new Date(Math.trunc(seconds * 1000)).toISOString()
)

export const metadataSchema = z.looseObject({ phone_number_id: providerId.pipe(z.string().max(128)) })

export const contactSchema = z.looseObject({
  wa_id: optional(providerId),
  user_id: optional(providerId),
  profile: optional(z.looseObject({ name: optional(text), username: optional(text) })),
})
export type Contact = z.infer<typeof contactSchema>

export const errorSchema = z.looseObject({
  code: optional(z.union([z.number(), z.string()])),
  title: optional(text),
  message: optional(text),
  error_data: optional(z.looseObject({ details: optional(text) })),
})
export type ProviderError = z.infer<typeof errorSchema>

export const messageSchema = z.looseObject({
  id: messageId,
  type: text.catch('unknown'),
  timestamp: optional(timestamp),
  from: optional(providerId),
  from_user_id: optional(providerId),
  from_parent_user_id: optional(providerId),
  to: optional(providerId),
  to_user_id: optional(providerId),
  group_id: optional(providerId),
  context: optional(z.looseObject({
    id: optional(messageId),
    forwarded: optional(z.boolean()),
    frequently_forwarded: optional(z.boolean()),
    referred_product: optional(someObject),
  })),
  referral: optional(someObject),
  errors: optional(oneOrMore(someObject)),
})
export type Message = z.infer<typeof messageSchema>

export const statusSchema = z.looseObject({
  id: messageId,
  status: z.enum(['sent', 'delivered', 'read', 'played', 'failed']),
  timestamp: optional(timestamp),
  recipient_type: optional(text),
  recipient_id: optional(providerId),
  recipient_user_id: optional(providerId),
  recipient_participant_id: optional(providerId),
  biz_opaque_callback_data: optional(text),
  conversation: optional(someObject),
  pricing: optional(someObject),
  errors: optional(oneOrMore(errorSchema)),
})

export const preferenceSchema = z.looseObject({
  wa_id: optional(providerId),
  user_id: optional(providerId),
  category: z.literal('marketing_messages'),
  value: z.enum(['stop', 'resume']),
  timestamp: optional(timestamp),
})

// The object under a message's type ------------------------------------------------------------------------------

export const textSchema = z.looseObject({ body: text })

export const mediaSchema = z.looseObject({
  id: z.union([z.string(), z.number().transform(String)]),
  mime_type: optional(text),
  sha256: optional(text),
  caption: optional(text),
  filename: optional(text),
  voice: optional(z.boolean()),
  animated: optional(z.boolean()),
  url: optional(text),
})

export const locationSchema = z.looseObject({
  latitude: z.number(),
  longitude: z.number(),
  name: optional(text),
  address: optional(text),
})

export const contactCardsSchema = oneOrMore(z.looseObject({
  origin: optional(text),
  name: optional(z.looseObject({ formatted_name: optional(text) })),
  phones: optional(z.array(z.looseObject({ phone: optional(providerId), wa_id: optional(providerId) }))),
}))

export const interactiveSchema = z.discriminatedUnion('type', [
  z.looseObject({
    type: z.literal('button_reply'),
    button_reply: z.looseObject({ id: text, title: text }),
  }),
  z.looseObject({
    type: z.literal('list_reply'),
    list_reply: z.looseObject({ id: text, title: text, description: optional(text) }),
  }),
  z.looseObject({
    type: z.literal('nfm_reply'),
    nfm_reply: z.looseObject({ name: optional(text), body: optional(text), response_json: optional(text) }),
  }),
])

export const buttonSchema = z.looseObject({ text, payload: optional(text) })

export const reactionSchema = z.looseObject({ message_id: messageId, emoji: optional(text) })

export const orderSchema = z.looseObject({ text: optional(text) })

export const unsupportedSchema = z.looseObject({ type: optional(text) })

export const systemSchema = z.looseObject({
  type: z.enum(['user_changed_number', 'user_changed_user_id']),
  body: optional(text),
  wa_id: optional(providerId),
  new_wa_id: optional(providerId),
  user_id: optional(providerId),
})

export const editSchema = z.looseObject({
  original_message_id: messageId,
  message: z.looseObject({ type: text }),
})

export const revokeSchema = z.looseObject({ original_message_id: messageId })
