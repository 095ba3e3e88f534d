// A message of ours → the body of POST /<number>/messages, as Meta documents it. Pure.
import { z } from 'zod'
import { BSUID } from './people.ts'
import type { OutboundMessage } from '../outbound-message.ts'

export type BodyAnswer =
  | { body: Record<string, unknown> }
  /** Cannot be sent, and why. */
  | { code: string; problem: string }

const text = z.string().min(1)
const someObject = z.looseObject({})

const button = z.object({ id: text, title: text })
const row = z.object({ id: text, title: text, description: text.nullish() })
const interactive = z.discriminatedUnion('type', [
  z.object({
    type: z.literal('button'),
    header: text.nullish(),
    footer: text.nullish(),
    buttons: z.array(button).min(1).max(3),
  }),
  z.object({
    type: z.literal('list'),
    header: text.nullish(),
    footer: text.nullish(),
    button: text,
    sections: z.array(z.object({ title: text.nullish(), rows: z.array(row).min(1) })).min(1).max(10),
  }),
])

const media = z.object({ link: z.url({ protocol: /^https?$/ }), filename: text.nullish() })

const payloads = {
  text: z.object({ preview_url: z.boolean().nullish() }).nullable(),
  interactive,
  template: z.object({ name: text, language: text, components: z.array(someObject).nullish() }),
  image: media,
  audio: media,
  video: media,
  document: media,
  sticker: media,
  location: z.object({
    latitude: z.number(),
    longitude: z.number(),
    name: text.nullish(),
    address: text.nullish(),
  }),
  contacts: z.object({ contacts: z.array(someObject).min(1) }),
  reaction: z.object({ message_id: text, emoji: z.string() }),
} satisfies Record<string, z.ZodType>

type SendableType = keyof typeof payloads

export function messageBody(message: OutboundMessage): BodyAnswer {
  const { message_type: type } = message
  if (!isSendable(type)) {
    return { code: 'unsupported_message_type', problem: `A message of type ${type} cannot be sent` }
  }
  const recipient = addressOf(message.recipient)
  if (recipient === null) {
    const problem = `Meta's Cloud API cannot write to a ${message.recipient.kind}`
    return { code: 'recipient_not_supported', problem }
  }
  try {
    return {
      body: {
        messaging_product: 'whatsapp',
        recipient_type: 'individual',
        ...recipient,
        type,
        [type]: contentOf(type, message),
        // A reaction names its message itself.
        ...(message.reply_to_whatsapp_message_id === null || type === 'reaction'
          ? {}
          : { context: { message_id: message.reply_to_whatsapp_message_id } }),
        biz_opaque_callback_data: `outbox:${message.id}`,
      },
    }
  } catch (error) {
    if (!(error instanceof z.ZodError)) throw error
    const [issue] = error.issues
    const field = issue?.path.join('.') || 'payload'
    return { code: 'invalid_payload', problem: `${field}: ${issue?.message ?? 'is not valid'}` }
  }
}

function isSendable(type: string): type is SendableType {
  return Object.hasOwn(payloads, type)
}

/** A wa_id stands for a number where it is digits, as Meta gave it: the ninth digit is theirs to add or leave out. */
function addressOf({ kind, value }: OutboundMessage['recipient']): Record<string, string> | null {
  if (kind === 'bsuid' || BSUID.test(value)) return { recipient: value }
  const digits = /^\+?(\d{6,20})(?::\d+)?(?:@(?:s\.whatsapp\.net|c\.us))?$/.exec(value)?.[1]
  return kind === 'lid' || digits === undefined ? null : { to: `+${digits}` }
}

function contentOf(
  type: SendableType,
  { content, payload }: OutboundMessage,
): Record<string, unknown> | unknown[] {
  switch (type) {
    case 'text': {
      const { preview_url } = payloads.text.parse(payload) ?? {}
      return present({ body: required(content), preview_url })
    }
    case 'interactive':
      return interactiveContent(payloads.interactive.parse(payload), required(content))
    case 'template': {
      const { name, language, components } = payloads.template.parse(payload)
      return present({ name, language: { code: language }, components })
    }
    case 'image':
    case 'video':
      return present({ link: payloads[type].parse(payload).link, caption: content || null })
    case 'audio':
    case 'sticker':
      return { link: payloads[type].parse(payload).link }
    case 'document': {
      const { link, filename } = payloads.document.parse(payload)
      return present({ link, filename, caption: content || null })
    }
    case 'location':
      return present(payloads.location.parse(payload))
    case 'contacts':
      return payloads.contacts.parse(payload).contacts
    case 'reaction':
      return payloads.reaction.parse(payload)
    default:
      return type satisfies never
  }
}

function interactiveContent(payload: z.infer<typeof interactive>, body: string): Record<string, unknown> {
  const { type, header, footer } = payload
  const action = payload.type === 'button'
    ? { buttons: payload.buttons.map((reply) => ({ type: 'reply', reply })) }
    : {
      button: payload.button,
      sections: payload.sections.map(({ title, rows }) => present({ title, rows: rows.map(present) })),
    }
  return present({
    type,
    header: header ? { type: 'text', text: header } : null,
    body: { text: body },
    footer: footer ? { text: footer } : null,
    action,
  })
}

function required(content: string | null): string {
  return z.object({ content: text }).parse({ content }).content
}

function present(fields: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(fields).filter(([, value]) => value !== undefined && value !== null),
  )
}
