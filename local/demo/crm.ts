// A system of the clinic's own, which verifies what it is told.

import { createServer } from 'node:http'
import { text as textOf } from 'node:stream/consumers'
import { Webhook } from 'standardwebhooks'
import { webhookEvent, type WebhookEventType } from '../../types/index.ts'
import { expect, until } from './telling.ts'

export type Crm = Awaited<ReturnType<typeof crmOf>>

export async function crmOf(organizationId: string) {
  /** By webhook-id: an event may come more than once. */
  const events = new Map<string, WebhookEventType>()
  let webhook: Webhook | null = null
  const server = createServer((request, response) => {
    textOf(request).then((body) => {
      const headers = Object.fromEntries(Object.entries(request.headers).map(([name, value]) => [name, String(value)]))
      const { type, data } = webhookEvent.parse(webhook?.verify(body, headers))
      expect(data.organization_id === organizationId, 'the CRM was told of another tenant')
      events.set(headers['webhook-id'] ?? '', type)
      response.writeHead(204).end()
    }).catch(() => response.writeHead(400).end())
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  server.unref()
  const address = server.address()
  expect(typeof address === 'object' && address !== null, 'the CRM has no port')

  return {
    url: `http://127.0.0.1:${address.port}/balcao`,
    knows: (secret: string) => void (webhook = new Webhook(secret)),
    /** Waits until it has been told of these, each one as often as it is here. */
    heard: async (wanted: WebhookEventType[]): Promise<void> => {
      const expected = [...wanted].sort().join(', ')
      const heard = () => [...events.values()].sort().join(', ')
      await until(() => heard() === expected ? true : null, () => `the CRM heard ${heard() || 'nothing'}`)
    },
    close: async () => {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
