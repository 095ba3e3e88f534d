// Meta as a sender of webhooks: its sample payloads, its signature, its way of writing JSON, and many at once.

import { readdirSync, readFileSync } from 'node:fs'
import { asMetaWrites, signatureOf } from '../../local/meta-webhook.ts'
import type { IngestSummary } from '../../types/index.ts'

export { signatureOf }

export interface Delivered {
  status: number
  /** What ingest_webhook counted, or the error. */
  body: Partial<IngestSummary> & { received?: boolean; error?: { code: string; message: string } }
}

const FIXTURES = new URL('../fixtures/meta/', import.meta.url)

export const sampleNames = readdirSync(FIXTURES).filter((name) => name.endsWith('.json')).sort()

/** The bytes of a sample payload, as they are in the file. */
export function sampleBytes(name: string): Buffer {
  return readFileSync(new URL(name, FIXTURES))
}

/** `metaWebhook(payload).signedWith(appSecret).postedTo(url)` */
export function metaWebhook(payload: unknown) {
  const body = Buffer.isBuffer(payload) ? payload : Buffer.from(JSON.stringify(payload))
  const posting = (headers: Record<string, string>) => ({
    postedTo: async (url: string): Promise<Delivered> => {
      const response = await fetch(url, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: new Uint8Array(body),
      })
      return { status: response.status, body: await response.json() as Delivered['body'] }
    },
  })
  return {
    signedWith: (appSecret: string) => posting({ 'x-hub-signature-256': signatureOf(body, appSecret) }),
    withSignature: (signature: string) => posting({ 'x-hub-signature-256': signature }),
    unsigned: () => posting({}),
  }
}

/** The same JSON as Meta writes it. */
export function asMetaWritesIt(json: Buffer): Buffer {
  return asMetaWrites(JSON.parse(json.toString('utf8')))
}

/** A text message of a customer to a number. */
export function aTextMessage(
  { to, from, id, text = 'Oi, quero marcar uma consulta', at = Math.floor(Date.now() / 1000) }: {
    to: string
    from: string
    id: string
    text?: string
    at?: number
  },
) {
  return {
    object: 'whatsapp_business_account',
    entry: [{
      id: '102938475610293',
      changes: [{
        field: 'messages',
        value: {
          messaging_product: 'whatsapp',
          metadata: { display_phone_number: '5511940001234', phone_number_id: to },
          contacts: [{ profile: { name: `Cliente ${from.slice(-4)}` }, wa_id: from }],
          messages: [{ from, id, timestamp: String(at), type: 'text', text: { body: text } }],
        },
      }],
    }],
  }
}

/** `count` senders work off the list, each one after the other. Answers in the order of the list. */
export async function bySenders<Item, Result>(
  count: number,
  items: Item[],
  send: (item: Item) => Promise<Result>,
): Promise<Result[]> {
  const results: Result[] = []
  const waiting = items.entries()
  await Promise.all(
    Array.from({ length: count }, async () => {
      for (const [index, item] of waiting) results[index] = await send(item)
    }),
  )
  return results
}

/** The same order for the same seed (xorshift32, Fisher-Yates). */
export function shuffled<Item>(items: Item[], seed: number): Item[] {
  let state = seed >>> 0 || 1
  const random = (below: number) => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % below
  }
  const order = items.map((item) => item)
  for (let last = order.length - 1; last > 0; last--) {
    const [moved] = order.splice(random(last + 1), 1)
    if (moved !== undefined) order.push(moved)
  }
  return order
}
