// What the benchmark sends: text messages of known customers, as Meta delivers and signs them, each message once.

import { createHmac, randomBytes } from 'node:crypto'

/** A connected number, and the app whose secret signs its deliveries. */
export interface Channel {
  organizationId: string
  instanceId: string
  externalId: string
  appKey: string
  appSecret: string
}

export interface Customer {
  channel: Channel
  waId: string
}

export interface SignedDelivery {
  path: string
  body: string
  signature: string
}

export function customersOf(channels: Channel[], each: number): Customer[] {
  // Turn by turn, so that any run of deliveries is spread over the tenants.
  return Array.from({ length: each }, (_, index) =>
    channels.map((channel, tenant) => ({
      channel,
      waId: `55119${String(80_000_000 + tenant * 100_000 + index)}`,
    }))).flat()
}

const TEXT = { type: 'text', text: { body: 'Olá! Gostaria de marcar uma consulta para sexta às 15h. Vocês têm horário?' } }

/** One delivery with one new message of each of these customers, who all wrote to the same number. */
export function deliveryOf(
  channel: Channel,
  customers: Customer[],
  content: Record<string, unknown> = TEXT,
): Record<string, unknown> {
  const timestamp = String(Math.floor(Date.now() / 1000))
  return {
    object: 'whatsapp_business_account',
    entry: [
      {
        id: '102938475610293',
        changes: [
          {
            value: {
              messaging_product: 'whatsapp',
              metadata: { display_phone_number: '5511940001234', phone_number_id: channel.externalId },
              contacts: [...new Set(customers.map(({ waId }) => waId))].map((waId) => ({
                profile: { name: `Cliente ${waId.slice(-5)}` },
                wa_id: waId,
              })),
              messages: customers.map(({ waId }) => ({
                from: waId,
                id: `wamid.${randomBytes(40).toString('base64')}`,
                timestamp,
                ...content,
              })),
            },
            field: 'messages',
          },
        ],
      },
    ],
  }
}

export function signed(channel: Channel, delivery: Record<string, unknown>): SignedDelivery {
  const body = JSON.stringify(delivery)
  return {
    path: `/functions/v1/whatsapp-webhook/meta/${channel.appKey}`,
    body,
    signature: `sha256=${createHmac('sha256', channel.appSecret).update(body).digest('hex')}`,
  }
}
