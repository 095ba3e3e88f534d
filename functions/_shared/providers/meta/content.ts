// What a message says: the object under its type, one function for messages, echoes and edits.
import { fromHumanInput, fromProviderId } from '../../phone.ts'
import type { Media, MessageContent, Metadata } from '../inbound-event.ts'
import {
  buttonSchema,
  contactCardsSchema,
  interactiveSchema,
  locationSchema,
  mediaSchema,
  orderSchema,
  reactionSchema,
  textSchema,
  unsupportedSchema,
} from './schema.ts'

export interface Content extends MessageContent {
  metadata: Metadata
  /** The message that a reaction is about. */
  reactsTo?: string
  /** The number that the sender gave when asked for his, in its canonical form. */
  sharedNumber?: string
}

/** Null: we do not understand this type, or not this message of it. */
export function contentOf(message: { type: string; [key: string]: unknown }): Content | null {
  const body = message[message.type]
  switch (message.type) {
    case 'text': {
      const read = textSchema.safeParse(body)
      return read.success
        ? { message_type: 'text', content: read.data.body, media: null, metadata: {} }
        : null
    }

    case 'image':
    case 'video':
    case 'audio':
    case 'document':
    case 'sticker': {
      const read = mediaSchema.safeParse(body)
      if (!read.success) return null
      const { caption, id, mime_type = null, sha256 = null, filename, voice, animated, url } = read.data
      const media: Media = { id, mime_type, sha256, filename, voice, animated, url }
      return { message_type: message.type, content: caption ?? null, media, metadata: {} }
    }

    case 'location': {
      const read = locationSchema.safeParse(body)
      if (!read.success) return null
      const { name, address } = read.data
      return {
        message_type: 'location',
        content: [name, address].filter((line) => line).join('\n') || null,
        media: null,
        metadata: { location: read.data },
      }
    }

    case 'contacts':
      return contactCards(body)

    case 'interactive':
      return interactive(body)

    case 'button': {
      const read = buttonSchema.safeParse(body)
      if (!read.success) return null
      const { text, payload } = read.data
      const chosen = { type: 'template_button', id: payload ?? null, title: text }
      return { message_type: 'button', content: text, media: null, metadata: { interactive: chosen } }
    }

    case 'reaction': {
      const read = reactionSchema.safeParse(body)
      if (!read.success) return null
      // Without emoji the reaction was taken back.
      const { emoji, message_id } = read.data
      return {
        message_type: 'reaction',
        content: emoji || null,
        media: null,
        metadata: {},
        reactsTo: message_id,
      }
    }

    case 'order': {
      const read = orderSchema.safeParse(body)
      if (!read.success) return null
      return {
        message_type: 'interactive',
        content: read.data.text ?? null,
        media: null,
        metadata: { original_type: 'order', order: read.data },
      }
    }

    case 'unsupported': {
      // Meta's own word for what it cannot pass on: polls, edits, gifs …
      const read = unsupportedSchema.safeParse(body)
      const type = read.success ? read.data.type : undefined
      return {
        message_type: 'unsupported',
        content: null,
        media: null,
        metadata: type ? { original_type: type } : {},
      }
    }

    default:
      return null
  }
}

function interactive(body: unknown): Content | null {
  const read = interactiveSchema.safeParse(body)
  if (!read.success) return null
  switch (read.data.type) {
    case 'button_reply': {
      const chosen = { ...read.data.button_reply, type: read.data.type }
      return { message_type: 'button', content: chosen.title, media: null, metadata: { interactive: chosen } }
    }
    case 'list_reply': {
      const chosen = { ...read.data.list_reply, type: read.data.type }
      return { message_type: 'list', content: chosen.title, media: null, metadata: { interactive: chosen } }
    }
    case 'nfm_reply': {
      const answered = { ...read.data.nfm_reply, type: read.data.type }
      return {
        message_type: 'interactive',
        content: answered.body ?? null,
        media: null,
        metadata: { interactive: answered },
      }
    }
    default:
      return read.data satisfies never
  }
}

function contactCards(body: unknown): Content | null {
  const read = contactCardsSchema.safeParse(body)
  if (!read.success) return null
  const content: Content = {
    message_type: 'contacts',
    content: read.data.flatMap((card) => card.name?.formatted_name ?? []).join(', ') || null,
    media: null,
    metadata: { contacts: read.data },
  }
  const number = read.data.find((card) => card.origin === 'contact_request')?.phones?.[0]
  const canonical = number?.wa_id !== undefined
    ? fromProviderId(number.wa_id)
    : fromHumanInput(number?.phone ?? '')
  return canonical === null ? content : { ...content, sharedNumber: canonical }
}
