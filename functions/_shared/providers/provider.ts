// What a WhatsApp provider has to offer to be one: a new provider is one folder with this interface.
import type { Part } from './inbound-event.ts'

export interface Provider {
  /** Its name in the database. */
  name: 'meta_cloud'

  /** Answers the provider's own check of the address; throws HttpError when it does not know the token. */
  handshake(key: string, query: URLSearchParams): Promise<string>

  /** Returns the signature under which the delivery was accepted; throws HttpError when it was not. */
  verify(key: string, headers: Headers, body: Uint8Array<ArrayBuffer>): Promise<string>

  /** Pure: a delivery's JSON to what ingest_webhook takes. Never throws, loses nothing. */
  parse(payload: Record<string, unknown>, receivedAt: Date): Part[]
}
