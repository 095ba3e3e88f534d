// What a WhatsApp provider has to offer to be one: a new provider is one folder with this interface.
import type { Part } from './inbound-event.ts'
import type {
  Connection,
  Credentials,
  MediaAnswer,
  MediaReference,
  OutboundMessage,
  SendOutcome,
} from './outbound-message.ts'

export interface Provider {
  /** Its name in the database. */
  name: 'meta_cloud'

  /** Whether the database has to be asked before anything can be said of this key. */
  needsLookUp(key: string): boolean

  /** Begins to ask; whoever needs the answer waits for it, and nobody asks twice. */
  lookUp(key: string): void

  /** Answers the provider's own check of the address; throws HttpError when it does not know the token. */
  handshake(key: string, query: URLSearchParams): Promise<string>

  /** Returns the signature under which the delivery was accepted; throws HttpError when it was not. */
  verify(key: string, headers: Headers, body: Uint8Array<ArrayBuffer>): Promise<string>

  /** Pure: a delivery's JSON to what ingest_webhook takes. Never throws, loses nothing. */
  parse(payload: Record<string, unknown>, receivedAt: Date): Part[]

  /** One call, and what became of it. Never throws: whether a message was sent must not be lost. */
  send(message: OutboundMessage, credentials: Credentials, signal: AbortSignal): Promise<SendOutcome>

  /** Opens a file that somebody sent; throws when another try may help. */
  fetchMedia(
    media: MediaReference,
    limit: number,
    credentials: Credentials,
    signal: AbortSignal,
  ): Promise<MediaAnswer>

  /** Whether the number can be reached with its token. Never throws. */
  testConnection(credentials: Credentials): Promise<Connection>
}
