// npm run bench -- reply: how long a customer waits for the bot, from the webhook that brings the first word until the stack's
// imitation of Meta has accepted the menu; alone, and among twenty others a second. On a fresh stack of its own.
//
// Nothing is asserted about time; a run fails when a delivery was refused or somebody got no answer, or two.

import type { ChildProcess } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { cpus, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import postgres from 'postgres'
import { type Stack, startStack } from '../local/stack.ts'
import '../tests/support/websocket.ts'
import { asAdminOf, aTenant, connectNumber, valueOf } from '../tests/support/tenants.ts'
import { assign, startSenders } from './assign.ts'
import { type Channel, type Customer, customersOf, deliveryOf, signed } from './deliveries.ts'
import { short, table, type Waits, waitsOf } from './figures.ts'

const TENANTS = 5
const RESULTS = fileURLToPath(new URL('results/', import.meta.url))
/** Longer than anything here waits. */
const PATIENCE_MS = 120_000

const isQuick = process.argv.includes('--quick')
const size = isQuick ? { warm: 20, idle: 30, paced: 300 } : { warm: 50, idle: 150, paced: 2_000 }

interface Figures extends Waits {
  customers: number
}

const interrupted = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => interrupted.abort())

async function main(): Promise<void> {
  const dataDir = await mkdtemp(join(tmpdir(), 'balcao-bench-'))
  const undo: (() => unknown)[] = [() => rm(dataDir, { recursive: true, force: true })]
  try {
    const stack = await startStack({ dataDir, apiPort: 0, dbPort: 0, signal: interrupted.signal })
    undo.push(() => stack.stop())
    const admin = postgres(stack.urls.admin, { max: 1, onnotice: () => undefined })
    undo.push(() => admin.end({ timeout: 1 }))
    const senders = startSenders()
    undo.push(() => senders.kill())
    await measure(stack, admin, senders)
  } finally {
    for (const step of undo.toReversed()) await step()
  }
}

async function measure(stack: Stack, admin: postgres.Sql, senders: ChildProcess): Promise<void> {
  // When the imitation accepted a message: its id is written right after the call.
  await admin.unsafe(`
    create schema bench;
    create table bench.accepted (message_id uuid not null, at timestamptz not null default clock_timestamp());
    create function bench.note() returns trigger language plpgsql security definer as $$
      begin insert into bench.accepted (message_id) values (new.id); return null; end $$;
    create trigger messages_999_note after update of whatsapp_message_id on public.messages
      for each row when (old.whatsapp_message_id is null and new.whatsapp_message_id is not null) execute function bench.note();`)
  const channels: Channel[] = []
  for (let n = 1; n <= TENANTS; n++) {
    const tenant = await aTenant(stack, `Clínica ${n}`, ['admin'])
    channels.push({ organizationId: tenant.organizationId, ...await connectNumber(tenant) })
    valueOf(await asAdminOf(tenant).rpc('create_flow_from_template', { template_key: 'agendamento_clinica' }))
  }
  const customers = customersOf(channels, Math.ceil((size.warm + size.idle + size.paced) / TENANTS))
  const take = (count: number) => customers.splice(0, count)
  const machine = { cpu: cpus()[0]?.model ?? 'unknown', cores: cpus().length, load: loadavg()[0] ?? NaN, node: process.version }
  console.log(`${machine.cores} × ${machine.cpu}, load ${short(machine.load)}, Node ${machine.node}\n`)

  await replies(stack, admin, senders, take(size.warm), 10)
  await admin`vacuum (analyze)`
  const idle = await replies(stack, admin, senders, take(size.idle), 2)
  const paced = await replies(stack, admin, senders, take(size.paced), 20)
  const row = (name: string, { customers, p50, p95, p99, max }: Figures) => [name, String(customers), ...[p50, p95, p99, max].map(short)]
  console.log(table([
    ['From the webhook to the bot’s answer at Meta, ms', 'customers', 'p50', 'p95', 'p99', 'max'],
    row('two customers a second', idle),
    row('twenty customers a second', paced),
  ]))
  const result = { measuredAt: new Date().toISOString(), quick: isQuick, machine, idle, paced }
  await mkdir(RESULTS, { recursive: true })
  const file = join(RESULTS, `reply-${result.measuredAt.replaceAll(':', '-')}.json`)
  await writeFile(file, `${JSON.stringify(result, null, 2)}\n`)
  console.log(`\nWritten to ${file}`)
}

/** Each of them writes for the first time, and is shown the menu. */
async function replies(
  stack: Stack,
  admin: postgres.Sql,
  senders: ChildProcess,
  customers: Customer[],
  perSecond: number,
): Promise<Figures> {
  const deliveries = customers.map((customer) => signed(customer.channel, deliveryOf(customer.channel, [customer])))
  const { sentAt, errors } = await assign(
    senders,
    { api: stack.urls.api, senders: 20, perSecond, deliveries },
    interrupted.signal,
  )
  if (Object.keys(errors).length > 0) throw new Error(`Deliveries were refused: ${JSON.stringify(errors)}`)
  const begun = new Map(customers.map(({ waId }, index) => [waId, sentAt[index] ?? NaN]))
  const deadline = Date.now() + PATIENCE_MS
  for (;;) {
    interrupted.signal.throwIfAborted()
    const answered = await admin<{ wa_id: string; answers: number; at: Date | null }[]>`
      select v.whatsapp_chat_id as wa_id, count(*)::int as answers, min(a.at) as at
      from public.messages m
      join public.conversations v on v.organization_id = m.organization_id and v.id = m.conversation_id
      left join bench.accepted a on a.message_id = m.id
      where m.sender = 'bot' and v.whatsapp_chat_id = any (${[...begun.keys()]})
      group by 1`
    if (answered.length === customers.length && answered.every(({ at }) => at !== null)) {
      const twice = answered.filter(({ answers }) => answers !== 1)
      if (twice.length > 0) throw new Error(`${twice.length} customers were answered more than once.`)
      return figures(answered.map(({ wa_id, at }) => (at?.getTime() ?? NaN) - (begun.get(wa_id) ?? NaN)))
    }
    if (Date.now() > deadline) throw new Error(`${answered.length} of ${customers.length} customers were answered.`)
    await sleep(200)
  }
}

function figures(waits: number[]): Figures {
  return { customers: waits.length, ...waitsOf(waits) }
}

await main().catch((error: unknown) => {
  if (!interrupted.signal.aborted) throw error
  console.log('Interrupted.')
  process.exitCode = 130
})
