// What goes out, whichever provider carries it, and what became of it: the vocabulary of begin_send, finish_send and
// finish_media_fetch.
import type { ApiCall } from '../redact.ts'
import type { Identity } from './inbound-event.ts'

export interface OutboundMessage {
  /** Our own id. Providers give it back with every status. */
  id: string
  message_type: string
  content: string | null
  payload: Record<string, unknown> | null
  reply_to_whatsapp_message_id: string | null
  recipient: Identity
  /** The first time it is handed out is 1. */
  attempt: number
}

/** The number that sends, and what it proves itself with. */
export interface Credentials {
  externalId: string
  accessToken: string
}

export type SendResult =
  | { result: 'accepted'; whatsapp_message_id: string; identities: Identity[] }
  /** Certainly not sent. A null `retry_at` leaves the time to the database; the pause holds all that the number sends. */
  | {
    result: 'retry'
    code: string
    message: string
    retry_at: string | null
    pause_number_until: string | null
    /** False: the attempt does not count. */
    counts: boolean
  }
  /** For good; the next message may go through. */
  | { result: 'failed'; code: string; message: string }
  /** The number sends nothing until somebody acts. */
  | { result: 'stopped'; code: string; message: string; banned: boolean }
  /** It was handed over, and nobody knows whether it arrived. */
  | { result: 'unknown'; message: string }

/** The call is null where none was made. */
export type SendOutcome = SendResult & { api_call: ApiCall | null }

export interface MediaReference {
  id: string
  mime_type: string | null
  sha256: string | null
}

export type MediaAnswer =
  & (
    | { result: 'open'; stream: ReadableStream<Uint8Array>; mime_type: string | null; sha256: string | null }
    /** The provider no longer has it. */
    | { result: 'gone'; detail: string }
    | { result: 'too_large'; detail: string }
    /** The provider asks us to wait. */
    | { result: 'later'; until: Date; detail: string }
  )
  & { api_calls: ApiCall[] }

export type Connection =
  | { ok: true; verified_name: string | null; display_phone_number: string | null }
  | { ok: false; code: string; message: string }
