// Customers who write, attendants who answer, and what becomes of an answer; as apps see it, by supabase-js.

import { randomInt } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type postgres from 'postgres'
import type { FunctionArgs, Json, Tables } from '../../types/index.ts'
import { type MetaBackend, metaOf } from './graph.ts'
import { PATIENCE_MS } from './processes.ts'
import {
  asAttendantOf,
  asPlatform,
  type Backend,
  type Client,
  type ConnectedNumber,
  type Tenant,
  valueOf,
} from './tenants.ts'

export interface Conversation {
  id: string
  contactId: string
  /** By which WhatsApp knows the customer. */
  waId: string
}

/** A mobile number of São Paulo as WhatsApp writes it; new, so that nobody else has it. */
export function aWaId(): string {
  return `55119${randomInt(10 ** 7, 10 ** 8)}`
}

/** A customer writes to a number; the conversation that this opens, or goes on in. */
export async function aConversation(
  { organizationId, backend }: Tenant,
  number: ConnectedNumber,
  from = aWaId(),
  message: { type: string; [field: string]: Json } = { type: 'text', text: { body: 'Oi, vocês abrem sábado?' } },
): Promise<Conversation> {
  const { id } = await metaOf(metaBackend(backend)).inbound(number, { from, name: 'Ana', message })
  const { conversation_id, contact_id } = valueOf(
    await asPlatform(backend).from('messages').select('conversation_id, contact_id')
      .match({ organization_id: organizationId, whatsapp_message_id: id }).single(),
  )
  return { id: conversation_id, contactId: contact_id, waId: from }
}

type Words = Omit<FunctionArgs<'send_message'>, 'conversation_id'>

/** What an attendant's app does. */
export async function write(
  tenant: Tenant,
  { id }: Pick<Conversation, 'id'>,
  words: string | Words,
  client: Client = asAttendantOf(tenant),
): Promise<Tables<'messages'>> {
  const args = typeof words === 'string' ? { content: words } : words
  return valueOf(await client.rpc('send_message', { conversation_id: id, ...args }))
}

/** A message as it is now. */
export async function messageNow(tenant: Tenant, { id }: { id: string }): Promise<Tables<'messages'>> {
  return valueOf(await asAttendantOf(tenant).from('messages').select('*').eq('id', id).single())
}

/** The job that sends a message, or fetches its file. */
export async function jobOf({ backend }: Tenant, { id }: { id: string }): Promise<Tables<'message_queue'>> {
  return valueOf(
    await asPlatform(backend).from('message_queue').select('*').eq('payload->>message_id', id).single(),
  )
}

/** Looks until it holds, and answers what was seen then. */
export async function seen<Value>(
  look: () => Promise<Value>,
  holds: (value: Value) => boolean,
): Promise<Value> {
  const began = Date.now()
  for (;;) {
    const value = await look()
    if (holds(value)) return value
    const waited = Date.now() - began
    if (waited > PATIENCE_MS) throw new Error(`Not within ${PATIENCE_MS / 1000} s: ${holds}\n${JSON.stringify(value)}`)
    // What takes long is looked at less often: a look is work for the server that is waited for.
    await sleep(Math.min(10 + waited / 10, 250))
  }
}

/** The message, when its status is this one, or a later one that ends it. */
export async function whenIt(
  is: Tables<'messages'>['status'],
  tenant: Tenant,
  message: { id: string },
): Promise<Tables<'messages'>> {
  return await seen(() => messageNow(tenant, message), ({ status }) => status === is)
}

/** What waits for its time is due now. */
export async function hurry(sql: postgres.Sql, { organizationId }: Tenant): Promise<void> {
  await sql`
    update public.message_queue
    set run_at = now(), is_due = true
    where organization_id = ${organizationId} and status in ('pending', 'failed')`
  await sql`select pg_notify('balcao_wake', '')`
}

function metaBackend(backend: Backend): MetaBackend {
  return { urls: { graph: `${backend.urls.api}/graph` }, keys: backend.keys }
}
