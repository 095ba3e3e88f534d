// What Meta was told is stored is stored: Postgres is killed in the middle of 2,000 messages.

import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Stack } from '../../local/stack.ts'
import { aTextMessage, bySenders, metaWebhook } from '../support/meta.ts'
import { startOwnStack } from '../support/own-stack.ts'
import { aTenant, connectNumber } from '../support/tenants.ts'

const MESSAGES = 2000
const CUSTOMERS = 150
const SENDERS = 12
/** Postgres dies when so many messages are acknowledged. */
const DEATHS = [500, 1200]
const PATIENCE_MS = 120_000

let stack: Stack

beforeAll(async () => {
  stack = await startOwnStack()
})

afterAll(() => stack?.stop())

test('2,000 messages survive two kill -9 of Postgres, each once', async () => {
  const clinic = await aTenant(stack, 'Clínica Que Não Cai')
  const number = await connectNumber(clinic)
  const deaths = [...DEATHS]
  let acknowledged = 0
  let refused = 0

  /** As Meta does: again until 200. */
  async function deliver(index: number): Promise<void> {
    const message = aTextMessage({
      to: number.externalId,
      from: `55119${String(70_000_000 + index % CUSTOMERS)}`,
      id: `wamid.crash-${index}`,
      text: `mensagem ${index}`,
    })
    const webhook = metaWebhook(message).signedWith(number.appSecret)
    const deadline = Date.now() + PATIENCE_MS
    for (;;) {
      const status = await webhook.postedTo(number.webhookUrl).then((answer) => answer.status, () => 0)
      if (status === 200) break
      refused += 1
      if (Date.now() > deadline) throw new Error(`Message ${index} is still answered with ${status}.`)
      await sleep(50)
    }
    acknowledged += 1
    if (acknowledged === deaths[0]) {
      deaths.shift()
      stack.kill('postgres')
    }
  }

  const indexes = Array.from({ length: MESSAGES }, (_, index) => index)
  await bySenders(SENDERS, indexes, deliver)
  expect(deaths).toEqual([])
  // Each death met deliveries on their way.
  expect(refused).toBeGreaterThanOrEqual(DEATHS.length)

  const sql = postgres(stack.urls.admin, { max: 1 })
  try {
    const stored = await sql<{ id: string; content: string }[]>`
      select m.whatsapp_message_id as id, m.content from public.messages m where m.organization_id = ${clinic.organizationId}`
    expect(stored.map(({ id, content }) => `${id} ${content}`).sort())
      .toEqual(indexes.map((index) => `wamid.crash-${index} mensagem ${index}`).sort())

    const customers = await sql<{ conversations: number; unread: number; messages: number }[]>`
      select
        count(*)::int as conversations,
        sum(v.unread_count)::int as unread,
        sum((select count(*) from public.messages m where m.conversation_id = v.id))::int as messages
      from public.conversations v
      where v.organization_id = ${clinic.organizationId} and v.is_open
      group by v.contact_id`
    expect(customers).toHaveLength(CUSTOMERS)
    for (const { conversations, unread, messages } of customers) {
      expect({ conversations, unread }).toEqual({ conversations: 1, unread: messages })
    }
    const [raw] = await sql`
      select count(distinct e.signature)::int as deliveries
      from public.webhook_events e where e.organization_id = ${clinic.organizationId}`
    expect(raw?.deliveries).toBe(MESSAGES)
  } finally {
    await sql.end()
  }
})
