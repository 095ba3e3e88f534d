// What every provider's delivery becomes before it goes to ingest_webhook: the one vocabulary of the inbox.
// Times are ISO 8601 in UTC.

export type IdentityKind = 'wa_id' | 'bsuid' | 'phone' | 'jid' | 'lid'

/** An id by which the provider knows a person, verbatim. */
export interface Identity {
  kind: IdentityKind
  value: string
}

export type MessageType =
  | 'text'
  | 'image'
  | 'audio'
  | 'video'
  | 'document'
  | 'sticker'
  | 'location'
  | 'contacts'
  | 'interactive'
  | 'button'
  | 'list'
  | 'reaction'
  | 'template'
  | 'unsupported'

export interface Media {
  /** The provider's id, with which the file is fetched later. */
  id: string
  mime_type: string | null
  sha256: string | null
  filename?: string | undefined
  voice?: boolean | undefined
  animated?: boolean | undefined
  url?: string | undefined
}

export type Metadata = Record<string, unknown>

/** What a message says, whoever sent it. */
export interface MessageContent {
  message_type: MessageType
  content: string | null
  media: Media | null
}

/** From the customer, or (echo) to the customer from the business's own phone; the identities are the customer's. */
export interface MessageEvent extends MessageContent {
  kind: 'message' | 'echo'
  whatsapp_message_id: string
  sent_at: string
  identities: Identity[]
  phone_number: string | null
  /** A number that the person says to have. It proves nothing: another contact with it is another contact. */
  shared_phone_number?: string
  profile_name: string | null
  /** The id that a reply is addressed to. */
  whatsapp_chat_id: string
  reply_to_whatsapp_message_id: string | null
  metadata: Metadata
}

export type DeliveryStatus = 'sent' | 'delivered' | 'read' | 'played' | 'failed'

/** A change of a message. The customer's ids are there so that the change and the message wait for each other. */
interface MessageChange {
  identities: Identity[]
  phone_number: string | null
}

export interface StatusEvent extends MessageChange {
  kind: 'status'
  whatsapp_message_id: string
  status: DeliveryStatus
  occurred_at: string
  /** Our own id of the message, which we gave to the provider when sending. */
  message_id: string | null
  error_code: string | null
  error_message: string | null
  metadata: Metadata
}

export interface EditEvent extends MessageContent, MessageChange {
  kind: 'edit'
  /** The message that was edited. */
  whatsapp_message_id: string
  occurred_at: string
}

export interface RevokeEvent extends MessageChange {
  kind: 'revoke'
  /** The message that was deleted. */
  whatsapp_message_id: string
  occurred_at: string
}

/** The same person has a new number or id. */
export interface IdentityChangeEvent {
  kind: 'identity_change'
  whatsapp_message_id: string
  sent_at: string
  identities: Identity[]
  phone_number: string | null
  new_identities: Identity[]
  new_phone_number: string | null
  content: string | null
}

/** The person no longer wants marketing, or wants it again. */
export interface PreferenceEvent {
  kind: 'preference'
  identities: Identity[]
  phone_number: string | null
  profile_name: string | null
  category: 'marketing_messages'
  value: 'stop' | 'resume'
  occurred_at: string
}

export type InboundEvent =
  | MessageEvent
  | StatusEvent
  | EditEvent
  | RevokeEvent
  | IdentityChangeEvent
  | PreferenceEvent

/** The part of one delivery that is about one number. */
export interface Part {
  /** The provider's id of the number; null when the part is about none. */
  external_id: string | null
  event_type: string
  /** This part as received. */
  payload: Record<string, unknown>
  /** How many items of it we do not understand; they stay in the payload. */
  unknown: number
  /** What the provider complains about, in short. */
  error: string | null
  events: InboundEvent[]
}
