// npm run bench -- queue: what claiming and completing a job costs, beside Graphile Worker and pg-boss, each in a
// database of its own on the same server, in turn in the same run. `--quick` takes half a minute. Read the ratios.
//
// All jobs do nothing. Each queue is driven through its public interface from this one process: ours and pg-boss by
// loops that claim a batch and complete it, Graphile Worker by its runner; each with as many at once as suit it best.
// Nothing is asserted about time.

import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { cpus, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import postgres from 'postgres'
import { startStack } from '../local/stack.ts'
import { median, percentile, short, table } from './figures.ts'
import { balcao } from './queue/balcao.ts'
import { type Contender, KEYS, type Load } from './queue/contender.ts'
import { graphileWorker } from './queue/graphile-worker.ts'
import { pgBoss } from './queue/pg-boss.ts'

const TENANTS = 50
const RESULTS = fileURLToPath(new URL('results/', import.meta.url))

const isQuick = process.argv.includes('--quick')
const rounds = isQuick ? 2 : 5
const jobsPerRound = isQuick ? { 1: 600, 10: 3_000, 100: 10_000 } : { 1: 6_000, 10: 20_000, 100: 50_000 }
const keyedPerRound = isQuick ? 2_000 : 10_000
const candidates = isQuick ? [8, 24] : [4, 8, 16, 24, 32]
const churnMs = isQuick ? 1_500 : 30_000
const crowd = { jobs: isQuick ? 50_000 : 1_000_000, tenants: 1_000, batches: isQuick ? 150 : 2_000, atOnce: 8 }

const interrupted = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => interrupted.abort())

async function main(): Promise<void> {
  const dataDir = await mkdtemp(join(tmpdir(), 'balcao-bench-'))
  const undo: (() => Promise<unknown>)[] = [() => rm(dataDir, { recursive: true, force: true })]
  try {
    const stack = await startStack({ dataDir, apiPort: 0, dbPort: 0, ticker: false, signal: interrupted.signal })
    undo.push(() => stack.stop())
    const admin = postgres(stack.urls.admin, { max: 2, onnotice: () => undefined })
    undo.push(() => admin.end({ timeout: 1 }))
    const opened = <T extends Contender>(contender: T): T => {
      undo.push(() => contender.close())
      return contender
    }
    const ours = opened(await balcao(admin, stack.urls.database, TENANTS))
    const boss = opened(await pgBoss(await databaseOf(admin, stack.urls.admin, 'pg_boss')))
    const graphile = opened(await graphileWorker(await databaseOf(admin, stack.urls.admin, 'graphile_worker')))

    const [version] = await admin<{ server_version: string; fsync: string }[]>`
      select current_setting('server_version') as server_version, current_setting('fsync') as fsync`
    const machine = {
      cpu: cpus()[0]?.model ?? 'unknown',
      cores: cpus().length,
      load: loadavg()[0] ?? NaN,
      node: process.version,
      postgres: version?.server_version ?? 'unknown',
      fsync: version?.fsync ?? 'unknown',
    }
    console.log(
      `${machine.cores} × ${machine.cpu}, load ${machine.load.toFixed(1)}, Node ${machine.node}, ` +
        `Postgres ${machine.postgres} with fsync ${machine.fsync}\n`,
    )

    const claims = await compareClaims(ours, boss, graphile)
    const keyed = await compareKeyed(ours, boss, graphile)
    const snapshot = await compareUnderSnapshot([ours, boss, graphile], claims[10] ?? [])
    const crowded = await measureCrowd(admin, stack.urls.database)

    const measuredAt = new Date().toISOString()
    const result = { measuredAt, quick: isQuick, machine, claims, keyed, snapshot, crowded }
    await mkdir(RESULTS, { recursive: true })
    const file = join(RESULTS, `queue-${measuredAt.replaceAll(':', '-')}.json`)
    await writeFile(file, `${JSON.stringify(result, null, 2)}\n`)
    console.log(`Written to ${file}`)
  } finally {
    for (const step of undo.toReversed()) await step()
  }
}

async function databaseOf(admin: postgres.Sql, url: string, name: string): Promise<string> {
  await admin.unsafe(`create database ${name}`)
  const its = new URL(url)
  its.pathname = `/${name}`
  return its.href
}

// Jobs per second -----------------------------------------------------------------------------------------------------

/** Fills the queue and works it off. The clock runs from the first job that is done to the last. */
async function measure(contender: Contender, load: Load, jobs: number): Promise<number> {
  interrupted.signal.throwIfAborted()
  await contender.clear()
  await contender.fill(jobs, load.isKeyed)
  await contender.vacuum()
  const enough = new AbortController()
  const stop = AbortSignal.any([enough.signal, interrupted.signal])
  let [done, first, started, ended] = [0, 0, 0, 0]
  await contender.consume(load, stop, (count) => {
    done += count
    if (started === 0) [first, started] = [done, performance.now()]
    if (done >= jobs && ended === 0) {
      ended = performance.now()
      enough.abort()
    }
  }).catch((error: unknown) => {
    // One of several at once failed: the others stop as well.
    enough.abort()
    throw error
  })
  interrupted.signal.throwIfAborted()
  if (done !== jobs) throw new Error(`${contender.name} completed ${done} of ${jobs} jobs.`)
  return (jobs - first) / ((ended - started) / 1000)
}

/** The number at once with which it is fastest; this warms it up as well. */
async function atItsBest({ contender, load, jobs, atOnce: chosen }: Run): Promise<Load> {
  let best = { perSecond: 0, load: { ...load, atOnce: 0 } }
  for (const atOnce of chosen === undefined ? candidates : [chosen]) {
    const tried = { ...load, atOnce }
    const perSecond = await measure(contender, tried, jobs / 2)
    if (perSecond > best.perSecond) best = { perSecond, load: tried }
  }
  return best.load
}

interface Compared {
  name: string
  atOnce: number
  perSecond: number
  /** Ours in relation to it, round by round. */
  ratio: number
  rounds: number[]
}

interface Run {
  contender: Contender
  load: Omit<Load, 'atOnce'>
  jobs: number
  name: string
  /** Where only one number will do. */
  atOnce?: number
}

/** Each with as many at once as suit it; then in turn, so that what else the machine does meets all of them. */
async function compare(title: string, runs: Run[]): Promise<Compared[]> {
  const chosen: { run: Run; load: Load; perSecond: number[] }[] = []
  for (const run of runs) {
    chosen.push({ run, load: await atItsBest(run), perSecond: [] })
  }
  for (let round = 0; round < rounds; round++) {
    for (const { run, load, perSecond } of chosen) perSecond.push(await measure(run.contender, load, run.jobs))
  }
  const ours = chosen[0]?.perSecond ?? []
  const compared = chosen.map(({ run, load, perSecond }): Compared => ({
    name: run.name,
    atOnce: load.atOnce,
    perSecond: median(perSecond),
    ratio: median(perSecond.map((figure, round) => (ours[round] ?? NaN) / figure)),
    rounds: perSecond,
  }))
  console.log(table([
    [title, 'at once', 'jobs/s', 'ours / this'],
    ...compared.map(({ name, atOnce, perSecond, ratio }, index) => [
      name,
      String(atOnce),
      short(perSecond),
      index === 0 ? '' : short(ratio),
    ]),
  ]))
  console.log()
  return compared
}

async function compareClaims(ours: Contender, boss: Contender, graphile: Contender) {
  const results: Record<string, Compared[]> = {}
  for (const batch of [1, 10, 100] as const) {
    results[batch] = await compare(`Claim and complete, batches of ${batch}`, [
      ...[ours, boss].map((contender) => ({
        contender,
        name: contender.name,
        load: { batch, isKeyed: false },
        jobs: jobsPerRound[batch],
      })),
      // It has no batches: its one figure stands beside all of them.
      { contender: graphile, name: graphile.name, load: { batch: 1, isKeyed: false }, jobs: jobsPerRound[1] },
    ])
  }
  return results
}

async function compareKeyed(ours: Contender, boss: Contender, graphile: Contender) {
  const keyed = { batch: 100, isKeyed: true } as const
  return await compare(`One after the other within ${KEYS} keys`, [
    { contender: ours, name: `${ours.name}, batches of 100`, load: keyed, jobs: keyedPerRound },
    // Two that fetch at once meet at the same keys and get nothing, and two that complete at once may be a deadlock.
    { contender: boss, name: `${boss.name}, batches of 100`, load: keyed, jobs: keyedPerRound, atOnce: 1 },
    { contender: graphile, name: graphile.name, load: { ...keyed, batch: 1 }, jobs: keyedPerRound / 5 },
    { contender: ours, name: `${ours.name}, without keys`, load: { ...keyed, isKeyed: false }, jobs: keyedPerRound },
  ])
}

// With a snapshot held ------------------------------------------------------------------------------------------------

/** Jobs come and go, some thousand at a time; answers how many a second, in all and in the last quarter. */
async function churn(contender: Contender, atOnce: number): Promise<{ perSecond: number; atTheEnd: number }> {
  await contender.clear()
  await contender.fill(2_000, false)
  await contender.vacuum()
  const over = new AbortController()
  const stop = AbortSignal.any([over.signal, interrupted.signal])
  let [filled, done] = [2_000, 0]
  const consuming = contender.consume({ batch: 10, isKeyed: false, atOnce }, stop, (count) => (done += count))
  // A failure is thrown where it is awaited; until then nothing waits for it.
  consuming.catch(() => over.abort())
  const started = performance.now()
  let late: { at: number; done: number } | null = null
  for (let passed = 0; passed < churnMs && !stop.aborted; passed = performance.now() - started) {
    if (late === null && passed > churnMs * 0.75) late = { at: performance.now(), done }
    if (filled - done < 1_500) {
      await contender.fill(1_000, false)
      filled += 1_000
    } else {
      await sleep(5)
    }
  }
  const ended = performance.now()
  const total = done
  over.abort()
  await consuming
  interrupted.signal.throwIfAborted()
  return {
    perSecond: total / ((ended - started) / 1000),
    atTheEnd: late === null ? NaN : (total - late.done) / ((ended - late.at) / 1000),
  }
}

async function underSnapshot<T>(databaseUrl: string, work: () => Promise<T>): Promise<T> {
  const sql = postgres(databaseUrl, { max: 1, onnotice: () => undefined })
  try {
    await sql`begin isolation level repeatable read`
    await sql`select pg_current_xact_id(), (select count(*) from pg_class)`
    return await work()
  } finally {
    await sql.end({ timeout: 1 })
  }
}

async function compareUnderSnapshot(contenders: Contender[], compared: Compared[]) {
  const results = []
  for (const contender of contenders) {
    const atOnce = compared.find(({ name }) => name === contender.name)?.atOnce ?? 8
    const free = await churn(contender, atOnce)
    const held = await underSnapshot(contender.databaseUrl, () => churn(contender, atOnce))
    results.push({ name: contender.name, free, held, kept: held.atTheEnd / free.atTheEnd })
  }
  console.log(table([
    [`Enqueue, claim, complete for ${churnMs / 1000} s`, 'jobs/s', 'with a snapshot held', 'its last quarter', 'kept'],
    ...results.map(({ name, free, held, kept }) => [
      name,
      ...[free.perSecond, held.perSecond, held.atTheEnd, kept].map(short),
    ]),
  ]))
  console.log()
  return results
}

// A crowd -------------------------------------------------------------------------------------------------------------

async function measureCrowd(admin: postgres.Sql, databaseUrl: string) {
  const contender = await balcao(admin, databaseUrl, crowd.tenants)
  try {
    await contender.clear()
    const started = performance.now()
    await contender.fill(crowd.jobs, false)
    const enqueuedPerSecond = crowd.jobs / ((performance.now() - started) / 1000)
    await contender.vacuum()
    const figures = []
    const sql = postgres(databaseUrl, { max: crowd.atOnce, connection: { role: 'service_role' } })
    for (const batch of [1, 10, 100] as const) {
      let [claims, ends]: [number[], number[]] = [[], []]
      const run = async (batches: number): Promise<number> => {
        claims = []
        ends = []
        let [jobs, begun] = [0, 0]
        const started = performance.now()
        await Promise.all(Array.from({ length: crowd.atOnce }, async (_, worker) => {
          let after: string | null = null
          while (begun++ < batches) {
            interrupted.signal.throwIfAborted()
            const claimed = performance.now()
            const rows: { organization_id: string; id: string; fencing_token: string }[] = await sql`
              select organization_id, id, fencing_token
              from public.claim_jobs(${`crowd-${worker}`}, ${batch}, null, '60 seconds', ${after})`
            const ended = performance.now()
            after = rows.at(-1)?.organization_id ?? null
            const done = await sql`select id from public.complete_jobs(${JSON.stringify(rows)}::text::jsonb)`
            jobs += done.length
            claims.push(ended - claimed)
            ends.push(performance.now() - ended)
          }
        }))
        return jobs / ((performance.now() - started) / 1000)
      }
      // Connections and plans.
      await run(crowd.atOnce * 8)
      const perSecond = await run(crowd.batches)
      figures.push({
        batch,
        perSecond,
        claimP50: percentile(claims, 50),
        claimP95: percentile(claims, 95),
        endP50: percentile(ends, 50),
        endP95: percentile(ends, 95),
      })
    }
    await sql.end({ timeout: 1 })
    console.log(table([
      [
        `${crowd.jobs.toLocaleString('en')} pending of ${crowd.tenants.toLocaleString('en')} tenants`,
        'jobs/s',
        'claim p50 ms',
        'p95 ms',
        'complete p50 ms',
        'p95 ms',
      ],
      ...figures.map(({ batch, perSecond, claimP50, claimP95, endP50, endP95 }) => [
        `batches of ${batch}`,
        ...[perSecond, claimP50, claimP95, endP50, endP95].map(short),
      ]),
    ]))
    console.log(`Enqueued at ${short(enqueuedPerSecond)} a second.\n`)
    return { ...crowd, enqueuedPerSecond, figures }
  } finally {
    await contender.close()
  }
}

await main().catch((error: unknown) => {
  if (!interrupted.signal.aborted) throw error
  console.log('Interrupted.')
  process.exitCode = 130
})
