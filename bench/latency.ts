// npm run bench -- latency: how long a job waits from the answer to the webhook that brought it until a worker has it,
// on a fresh stack of its own; beside jobs that nobody announced. `--quick` takes a minute and a half.
//
// The jobs are those of photos: each is fetched from the stack's imitation of Meta, and stored. Nothing is asserted about
// time; a run fails when a delivery was refused or a photo is missing.

import type { ChildProcess } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { cpus, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import postgres from 'postgres'
import { type Stack, startStack } from '../local/stack.ts'
import '../tests/support/websocket.ts'
import { metaOf } from '../tests/support/graph.ts'
import { asOwnerOf, asPlatform, aTenant, connectNumber, type Tenant, valueOf } from '../tests/support/tenants.ts'
import { assign, startSenders } from './assign.ts'
import { type Channel, type Customer, customersOf, deliveryOf, signed, type SignedDelivery } from './deliveries.ts'
import { short, table, type Waits, waitsOf } from './figures.ts'

const TENANTS = 5
const CUSTOMERS_EACH = 40
const PHOTO_BYTES = 60_000
const RESULTS = fileURLToPath(new URL('results/', import.meta.url))
/** Longer than anything here waits. */
const PATIENCE_MS = 120_000

const isQuick = process.argv.includes('--quick')
const size = isQuick
  ? { idle: 30, sent: 30, paced: 1_500, flood: 3_000, unannounced: 6 }
  : { idle: 200, sent: 200, paced: 9_000, flood: 20_000, unannounced: 25 }

interface Figures extends Waits {
  jobs: number
}

interface Bench {
  stack: Stack
  admin: postgres.Sql
  senders: ChildProcess
  tenants: Tenant[]
  customers: Customer[]
  /** What WhatsApp holds, by number. */
  photos: Map<string, { id: string; sha256: string }>
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
    await measure(await prepared(stack, admin, senders))
  } finally {
    for (const step of undo.toReversed()) await step()
  }
}

async function prepared(stack: Stack, admin: postgres.Sql, senders: ChildProcess): Promise<Bench> {
  // When a job is claimed nobody keeps: it is gone with the job's end.
  await admin.unsafe(`
    create schema bench;
    create table bench.claims (job_id uuid not null, at timestamptz not null default clock_timestamp());
    create function bench.note() returns trigger language plpgsql security definer as $$
      begin insert into bench.claims (job_id) values (new.id); return null; end $$;
    create trigger message_queue_999_note after update of status on public.message_queue
      for each row when (new.status = 'processing' and old.status <> 'processing') execute function bench.note();`)
  const tenants: Tenant[] = []
  const channels: Channel[] = []
  const photos: Bench['photos'] = new Map()
  for (let n = 1; n <= TENANTS; n++) {
    const tenant = await aTenant(stack, `Clínica ${n}`)
    const number = await connectNumber(tenant)
    tenants.push(tenant)
    channels.push({ organizationId: tenant.organizationId, ...number })
    const bytes = Buffer.alloc(PHOTO_BYTES, `foto ${n}`)
    photos.set(number.externalId, await metaOf(stack).media(number, 'image/jpeg', { bytes }))
  }
  return { stack, admin, senders, tenants, customers: customersOf(channels, CUSTOMERS_EACH), photos }
}

async function measure(bench: Bench): Promise<void> {
  const [version] = await bench.admin<{ server_version: string }[]>`show server_version`
  const machine = {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    load: loadavg()[0] ?? NaN,
    node: process.version,
    postgres: version?.server_version ?? 'unknown',
  }
  console.log(
    `${machine.cores} × ${machine.cpu}, load ${
      short(machine.load)
    }, Node ${machine.node}, Postgres ${machine.postgres}\n`,
  )
  // Everybody writes once, and the processes warm up.
  await webhooks(bench, { count: bench.customers.length, senders: 8, photoEvery: 4 })
  await bench.admin`vacuum (analyze)`

  const idle = await webhooks(bench, { count: size.idle, senders: 1, photoEvery: 1, perSecond: 3 })
  const paced = await webhooks(bench, { count: size.paced, senders: 50, photoEvery: 10, perSecond: 100 })
  const flood = await webhooks(bench, { count: size.flood, senders: 50, photoEvery: 10 })
  const sent = await sends(bench)
  const unannounced = await unannouncedJobs(bench)

  const row = (
    name: string,
    { jobs, p50, p95, p99, max }: Figures,
  ) => [name, String(jobs), ...[p50, p95, p99, max].map(short)]
  console.log(table([
    ['From the answer to the claim, ms', 'jobs', 'p50', 'p95', 'p99', 'max'],
    row('photos, three a second, nothing else', idle),
    row(`photos among ${short(paced.perSecond)} messages/s`, paced),
    row(`photos in a flood, ${short(flood.perSecond)} messages/s`, flood),
    row('messages that an app sends, one at a time', sent),
    row('jobs that nobody announced, on the schedule', unannounced),
  ]))
  const result = {
    measuredAt: new Date().toISOString(),
    quick: isQuick,
    machine,
    idle,
    paced,
    flood,
    sent,
    unannounced,
  }
  await mkdir(RESULTS, { recursive: true })
  const file = join(RESULTS, `latency-${result.measuredAt.replaceAll(':', '-')}.json`)
  await writeFile(file, `${JSON.stringify(result, null, 2)}\n`)
  console.log(`\nWritten to ${file}`)
}

// Webhooks that bring jobs ----------------------------------------------------------------------------------------

let next = 0

async function webhooks(
  bench: Bench,
  { count, photoEvery, ...pace }: { count: number; photoEvery: number; senders: number; perSecond?: number },
): Promise<Figures & { perSecond: number }> {
  const wamids: (string | null)[] = []
  const deliveries = Array.from({ length: count }, (_, index): SignedDelivery => {
    const customer = bench.customers[next++ % bench.customers.length]
    if (customer === undefined) throw new Error('There are no customers.')
    const photo = bench.photos.get(customer.channel.externalId)
    const id = `wamid.${randomUUID()}`
    const isPhoto = index % photoEvery === 0 && photo !== undefined
    wamids.push(isPhoto ? id : null)
    const content = isPhoto ? { id, type: 'image', image: { ...photo, mime_type: 'image/jpeg' } } : undefined
    return signed(customer.channel, deliveryOf(customer.channel, [customer], content))
  })
  const { seconds, answeredAt, errors } = await assign(
    bench.senders,
    { api: bench.stack.urls.api, ...pace, deliveries },
    interrupted.signal,
  )
  if (Object.keys(errors).length > 0) throw new Error(`Deliveries were refused: ${JSON.stringify(errors)}`)

  const answered = new Map(wamids.flatMap((wamid, index) => wamid === null ? [] : [[wamid, answeredAt[index] ?? NaN]]))
  await untilDone(bench.admin)
  const claimed = await bench.admin<{ wamid: string; at: Date; is_stored: boolean }[]>`
    select m.whatsapp_message_id as wamid, min(c.at) as at, m.media_url is not null as is_stored
    from public.messages m
    join public.message_queue q on q.organization_id = m.organization_id and q.idempotency_key = 'media:' || m.id
    join bench.claims c on c.job_id = q.id
    where m.whatsapp_message_id = any (${[...answered.keys()]})
    group by m.organization_id, m.id`
  const stored = claimed.filter(({ is_stored }) => is_stored).length
  if (stored !== answered.size) throw new Error(`${stored} of ${answered.size} photos are there.`)
  return {
    ...figures(claimed.map(({ wamid, at }) => at.getTime() - (answered.get(wamid) ?? NaN))),
    perSecond: count / seconds,
  }
}

// What an app sends ------------------------------------------------------------------------------------------------

async function sends({ admin, tenants }: Bench): Promise<Figures> {
  const answered = new Map<string, number>()
  for (let n = 0; n < size.sent; n++) {
    interrupted.signal.throwIfAborted()
    const tenant = tenants[n % tenants.length]
    if (tenant === undefined) throw new Error('There are no tenants.')
    const app = asOwnerOf(tenant)
    const { id: conversation_id } = valueOf(await app.from('conversations').select('id').limit(1).single())
    const { id } = valueOf(await app.rpc('send_message', { conversation_id, content: 'Temos horário às 15h.' }))
    answered.set(id, Date.now())
    await untilDone(admin)
    await sleep(100)
  }
  const claimed = await admin<{ id: string; at: Date }[]>`
    select q.payload ->> 'message_id' as id, min(c.at) as at
    from public.message_queue q
    join bench.claims c on c.job_id = q.id
    where q.payload ->> 'message_id' = any (${[...answered.keys()]})
    group by 1`
  return figures(claimed.map(({ id, at }) => at.getTime() - (answered.get(id) ?? NaN)))
}

// What waits for the schedule --------------------------------------------------------------------------------------

/** enqueue_job wakes nobody: this is what a lost wake costs. */
async function unannouncedJobs({ stack, admin, tenants }: Bench): Promise<Figures> {
  const platform = asPlatform(stack)
  const answered = new Map<string, number>()
  for (let n = 0; n < size.unannounced; n++) {
    interrupted.signal.throwIfAborted()
    // At any moment between two runs of the schedule.
    await sleep(Math.random() * 10_000)
    const organization_id = tenants[n % tenants.length]?.organizationId ?? ''
    const { id } = valueOf(
      await platform.rpc('enqueue_job', {
        organization_id,
        job_type: 'fetch_media',
        payload: { message_id: randomUUID() },
      }),
    )
    answered.set(id, Date.now())
    await untilDone(admin)
  }
  const claimed = await admin<{ job_id: string; at: Date }[]>`
    select c.job_id, min(c.at) as at from bench.claims c where c.job_id = any (${[...answered.keys()]}) group by 1`
  return figures(claimed.map(({ job_id, at }) => at.getTime() - (answered.get(job_id) ?? NaN)))
}

// ------------------------------------------------------------------------------------------------------------------

async function untilDone(admin: postgres.Sql): Promise<void> {
  const deadline = Date.now() + PATIENCE_MS
  for (;;) {
    interrupted.signal.throwIfAborted()
    const [row] = await admin<{ open: number; dead: number }[]>`
      select
        count(*) filter (where status <> 'dead')::int as open,
        count(*) filter (where status = 'dead')::int as dead
      from public.message_queue where status <> 'completed'`
    if (row?.open === 0 && row.dead === 0) return
    if ((row?.dead ?? 0) > 0 || Date.now() > deadline) throw new Error(`Jobs are left: ${JSON.stringify(row)}`)
    await sleep(50)
  }
}

function figures(waits: number[]): Figures {
  return { jobs: waits.length, ...waitsOf(waits) }
}

await main().catch((error: unknown) => {
  if (!interrupted.signal.aborted) throw error
  console.log('Interrupted.')
  process.exitCode = 130
})
