// What the queue promises while nobody dies: turns between tenants, order within a key, one claim per job, one job per
// idempotency key. On a stack of its own, whose queue nobody else works off.
//
// BALCAO_TEST_SEED repeats the random operations at the end.

import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Stack } from '../../local/stack.ts'
import { startOwnStack } from '../support/own-stack.ts'
import { PATIENCE_MS } from '../support/processes.ts'
import { codeOf } from '../support/queue-proof.ts'
import { seeded, testSeed } from '../support/seeded.ts'

const CONNECTIONS = 20

interface Job {
  organization_id: string
  id: string
  position: string
  ordering_key: string | null
  attempts: number
  fencing_token: string
}

interface ClaimOptions {
  size?: number
  after?: string | null
  types?: string[] | null
  lease?: string
}

let stack: Stack
/** As the owner of the tables, who can look into them and move time. */
let admin: postgres.Sql
/** As a worker. */
let sql: postgres.Sql

beforeAll(async () => {
  stack = await startOwnStack({ ticker: false })
  admin = postgres(stack.urls.admin, { max: 2, onnotice: () => undefined })
  sql = postgres(stack.urls.database, {
    max: CONNECTIONS,
    connection: { role: 'service_role' },
    onnotice: () => undefined,
  })
  // All at once, or the first of a test would be alone while the others connect.
  await Promise.all(Array.from({ length: CONNECTIONS }, () => sql`select pg_sleep(0.1)`))
})

afterAll(async () => {
  await sql?.end({ timeout: 1 })
  await admin?.end({ timeout: 1 })
  await stack?.stop()
})

async function aClinic(id: string = randomUUID()): Promise<string> {
  await admin`
    insert into public.organizations (id, name, slug, vertical) values (${id}, 'Clínica', ${`c-${id}`}, 'clinic')`
  return id
}

async function enqueue(
  organization: string,
  { key = null, idempotency = null, runAt = new Date(), attempts = 8, type = 'proof' }: {
    key?: string | null
    idempotency?: string | null
    runAt?: Date
    attempts?: number
    type?: string
  } = {},
): Promise<string> {
  const [row] = await sql<{ id: string }[]>`
    select e.id
    from public.enqueue_job(${organization}, ${type}, '{}', 0, ${runAt}, ${key}, ${idempotency}, ${attempts}) e`
  return row?.id ?? ''
}

/** Many of one tenant, in one transaction, as ingestion does. */
async function enqueueMany(
  organization: string,
  count: number,
  runAt = new Date(Date.now() - 1000),
): Promise<void> {
  await admin`
    select count(*)
    from private.enqueue_jobs(array(
      select row(${organization}, 'proof', '{}', 0, ${runAt}, null, null, 8)::private.new_job
      from generate_series(1, ${count}::int)
    ))`
}

async function claim(options: ClaimOptions = {}): Promise<Job[]> {
  const { size = 10, after = null, types = null, lease = '60 seconds' } = options
  return await sql<Job[]>`
    select c.organization_id, c.id, c.position, c.ordering_key, c.attempts, c.fencing_token
    from public.claim_jobs('test', ${size}, ${types}, ${lease}::interval, ${after}) c`
}

async function ids(options?: ClaimOptions): Promise<string[]> {
  return (await claim(options)).map(({ id }) => id)
}

const complete = ({ organization_id, id, fencing_token }: Job) =>
  sql`select c.status from public.complete_job(${organization_id}, ${id}, ${fencing_token}) c`
const fail = ({ organization_id, id, fencing_token }: Job, { forGood = false, retryAt = new Date() } = {}) =>
  sql`
    select f.status
    from public.fail_job(${organization_id}, ${id}, ${fencing_token}, 'it_failed', ${retryAt}, ${forGood}) f`
const postpone = ({ organization_id, id, fencing_token }: Job, until: Date) =>
  sql`
    select p.attempts
    from public.postpone_job(${organization_id}, ${id}, ${fencing_token}, ${until}, 'rate_limit') p`

/** Pages of tables and indexes that a call of the queue touches; what it does is undone. */
async function blocksReadBy(call: string): Promise<number> {
  return await admin.begin(async (admin) => {
    const [row] = await admin.unsafe<{ 'QUERY PLAN': { Plan: Record<string, number> }[] }[]>(
      `explain (analyze, buffers, format json) select id from ${call}`,
    )
    const plan = row?.['QUERY PLAN'][0]?.Plan
    await admin.unsafe('rollback and chain')
    return (plan?.['Shared Hit Blocks'] ?? NaN) + (plan?.['Shared Read Blocks'] ?? NaN)
  })
}

/** As if the lease of what is being worked on had run out. */
async function letLeasesExpire(): Promise<void> {
  await admin`
    update public.message_queue set lease_expires_at = clock_timestamp() - interval '1 second'
    where status = 'processing'`
}

function only(jobs: Job[]): Job {
  const [job] = jobs
  if (job === undefined || jobs.length > 1) throw new Error(`There are ${jobs.length} jobs.`)
  return job
}

// Tenants -------------------------------------------------------------------------------------------------------------

describe('one tenant has 100,000 jobs', () => {
  const [crowd, newcomer] = [randomUUID(), randomUUID()]

  beforeAll(async () => {
    await admin`delete from public.message_queue`
    await aClinic(crowd)
    await aClinic(newcomer)
    await enqueueMany(crowd, 100_000)
    await admin`analyze public.message_queue`
  })

  test.each([1, 10, 100])('another one’s first job is in the next batch of %i, or in the one after', async (size) => {
    for (const after of [crowd, newcomer, randomUUID()]) {
      const id = await enqueue(newcomer)
      const next = await claim({ size, after })
      const batches = [next, await claim({ size, after: next.at(-1)?.organization_id ?? null })]
      const served = batches.findIndex((batch) => batch.some((job) => job.id === id))
      expect([0, 1]).toContain(served)
      // Its turn was just over: that is the one case for the batch after; unless the batch goes all the way round.
      if (size > 1 || after === crowd) expect(served).toBe(0)
      // The crowd's share does not wait for a newcomer either.
      expect(Math.min(...batches.map(({ length }) => length))).toBeGreaterThanOrEqual(size / 2)
    }
  })

  test.each([10, 100])('in the next batch of %i also of a worker that was nowhere before', async (size) => {
    for (let repetition = 0; repetition < 10; repetition++) {
      const id = await enqueue(newcomer)
      expect(await ids({ size })).toContain(id)
    }
  })

  test('even single claims that begin anywhere find it', async () => {
    // Turns begin at a random place; from half of all places the newcomer comes first.
    const place = async (id: string) => {
      const [row] = await admin<{ place: string }[]>`select uuid_hash_extended(${id}, 0) as place`
      return BigInt(row?.place ?? 0)
    }
    let lucky = randomUUID()
    while (BigInt.asUintN(64, (await place(lucky)) - (await place(crowd))) < 2n ** 63n) lucky = randomUUID()
    const id = await enqueue(await aClinic(lucky))
    const claimed: string[] = []
    while (!claimed.includes(id) && claimed.length < 60) claimed.push(...await ids({ size: 1 }))
    expect(claimed).toContain(id)
  })

  test.each([1, 10, 100])('of four workers with batches of %i none passes it by more than once', async (size) => {
    interface Batch {
      began: number
      ended: number
      ids: string[]
    }
    const isOver = new AbortController()
    const batches: Batch[][] = []
    const working = Promise.all(Array.from({ length: 4 }, async () => {
      const own: Batch[] = []
      batches.push(own)
      let after: string | null = crowd
      while (!isOver.signal.aborted) {
        const began = performance.now()
        const jobs: Job[] = await claim({ size, after })
        after = jobs.at(-1)?.organization_id ?? after
        own.push({ began, ended: performance.now(), ids: jobs.map(({ id }) => id) })
      }
    }))
    const enqueued: { id: string; at: number }[] = []
    for (let newcomers = 0; newcomers < 30; newcomers++) {
      enqueued.push({ id: await enqueue(newcomer), at: performance.now() })
      await sleep(5)
    }
    // Both may be in one batch; then the others go on for a while.
    await sleep(50)
    isOver.abort()
    await working

    const passedBy = enqueued.map(({ id, at }) => {
      const served = batches.flat().find((batch) => batch.ids.includes(id))
      if (served === undefined) return Infinity
      return Math.max(...batches.map((own) =>
        own.filter(({ began, ended }) => began > at && ended < served.began).length
      ))
    })
    expect(passedBy.filter((times) => times > 1)).toEqual([])
  })
})

describe('an empty queue', () => {
  beforeEach(async () => {
    await admin`delete from public.message_queue`
  })

  test('thirty tenants get the same number of turns', async () => {
    const tenants = await Promise.all(Array.from({ length: 30 }, () => aClinic()))
    for (const tenant of tenants) await enqueueMany(tenant, 50)
    const turns = new Map<string, number>()
    let after: string | null = null
    for (let batch = 0; batch < 15; batch++) {
      const jobs: Job[] = await claim({ size: 10, after })
      for (const { organization_id } of jobs) turns.set(organization_id, (turns.get(organization_id) ?? 0) + 1)
      after = jobs.at(-1)?.organization_id ?? null
    }
    expect(tenants.map((tenant) => turns.get(tenant))).toEqual(tenants.map(() => 5))
  })

  test('who claims certain types is not kept off by tenants that have none of them', async () => {
    const tenants = await Promise.all(Array.from({ length: 20 }, () => aClinic()))
    for (const tenant of tenants) await enqueueMany(tenant, 20)
    const wanted = await Promise.all(tenants.slice(0, 2).map((tenant) => enqueue(tenant, { type: 'wanted' })))
    const claimed = [await ids({ size: 1, types: ['wanted'] }), await ids({ size: 1, types: ['wanted'] })].flat()
    expect(claimed.toSorted()).toEqual(wanted.toSorted())
    expect(await ids({ size: 1, types: ['wanted'] })).toEqual([])
  })

  test('thousands that are scheduled for later neither hide what is due nor are read', async () => {
    const tenants = await Promise.all(Array.from({ length: 20 }, () => aClinic()))
    const due = await enqueue(tenants[7] ?? '')
    await admin`vacuum analyze public.message_queue`
    const claiming = `public.claim_jobs('test', 10)`
    await blocksReadBy(claiming)
    const alone = await blocksReadBy(claiming)
    for (const tenant of tenants) await enqueueMany(tenant, 2000, new Date(Date.now() + 3_600_000))
    await admin`vacuum analyze public.message_queue`
    await blocksReadBy(claiming)
    const among = await blocksReadBy(claiming)
    // An index or two that is a level deeper; not forty thousand rows.
    expect(among).toBeLessThan(alone + 200)
    expect(await ids({ size: 100 })).toEqual([due])
  })

  test('a crowd that falls due at one moment does not stand before who is due just after it', async () => {
    const [crowd, single] = [await aClinic(), await aClinic()]
    const moment = Date.now() + 300
    await enqueueMany(crowd, 5000, new Date(moment))
    const id = await enqueue(single, { runAt: new Date(moment + 1) })
    await sleep(moment + 50 - Date.now())
    const claimed: string[] = []
    let after: string | null = null
    for (let batch = 0; batch < 2 && !claimed.includes(id); batch++) {
      const jobs: Job[] = await claim({ size: 10, after })
      claimed.push(...jobs.map((job) => job.id))
      after = jobs.at(-1)?.organization_id ?? null
    }
    expect(claimed).toContain(id)
  })

  test('ending a job costs no more after thousands since the last ANALYZE, even under an old snapshot', async () => {
    const clinic = await aClinic()
    await admin`alter table public.message_queue set (autovacuum_enabled = false)`
    await admin`vacuum analyze public.message_queue`
    const process = async (count: number) => {
      await enqueueMany(clinic, count)
      for (let done = 0; done < count; done += 100) {
        await sql`select from public.complete_jobs(${JSON.stringify(await claim({ size: 100 }))}::text::jsonb)`
      }
    }
    const blocks = async () => {
      await enqueueMany(clinic, 10)
      const jobs = JSON.stringify(await claim()).replaceAll("'", "''")
      const calls = [`complete_jobs('${jobs}')`, `fail_jobs('${jobs}')`, `extend_leases('${jobs}')`]
      const read: number[] = []
      // Twice: the first time a connection reads its catalog and plans.
      for (const call of [...calls, ...calls]) read.push(await blocksReadBy(`public.${call}`))
      return read.slice(calls.length)
    }
    try {
      await process(100)
      await sql.begin('isolation level repeatable read', async (old) => {
        await old`select count(*) from public.message_queue`
        const before = await blocks()
        await process(5000)
        const after = await blocks()
        expect(after.filter((read, index) => read > (before[index] ?? 0) + 200)).toEqual([])
      })
    } finally {
      await admin`alter table public.message_queue reset (autovacuum_enabled)`
    }
  })

  // Claims ------------------------------------------------------------------------------------------------------------

  const name = 'twenty workers that claim %i at once get each job once, and leave none behind'
  test.each([1, 7, 100])(name, async (size) => {
    const tenants = await Promise.all(Array.from({ length: 5 }, () => aClinic()))
    for (const tenant of tenants) await enqueueMany(tenant, size === 1 ? 100 : 600)
    await enqueue(tenants[0] ?? '', { key: 'k' })
    await enqueue(tenants[0] ?? '', { key: 'k' })
    const claimed: string[] = []
    await Promise.all(Array.from({ length: CONNECTIONS }, async () => {
      let batch: string[]
      do {
        batch = await ids({ size })
        claimed.push(...batch)
      } while (batch.length > 0)
    }))
    expect(new Set(claimed).size).toBe(claimed.length)
    // The second of the key waits for the first.
    expect(claimed.length).toBe(5 * (size === 1 ? 100 : 600) + 1)
  })

  test('twenty that enqueue with one idempotency key at once get one job', async () => {
    const clinic = await aClinic()
    for (const key of [null, 'conversation:1']) {
      const answers = await Promise.all(
        Array.from({ length: CONNECTIONS }, () => enqueue(clinic, { key, idempotency: `once-${key}` })),
      )
      expect(new Set(answers).size).toBe(1)
      expect(answers[0]).not.toBe('')
    }
    const jobs = await claim()
    expect(jobs.map(({ ordering_key }) => ordering_key)).toEqual([null, 'conversation:1'])
    await Promise.all(jobs.map(complete))
    // Also when it is done: a webhook that comes again a minute later.
    await enqueue(clinic, { idempotency: 'once-null' })
    expect(await claim()).toEqual([])
    // Another tenant's is another job.
    const other = await aClinic()
    const theirs = await enqueue(other, { idempotency: 'once-null' })
    expect(await ids()).toEqual([theirs])
  })

  test('two that enqueue the same batch in opposite orders get one of each, and do not wait for each other', async () => {
    const clinic = await aClinic()
    const batch = Array.from({ length: 300 }, (_, index) => `batch-${index}`)
    const enqueueAll = (keys: string[]) =>
      admin`
        select count(*) from private.enqueue_jobs(array(
          select row(${clinic}::uuid, 'noted', '{}', 0, null, null, key, 8)::private.new_job
          from unnest(${keys}::text[]) with ordinality as k (key, n) order by n))`
    for (let round = 0; round < 10; round++) {
      const keys = batch.map((key) => `${round}-${key}`)
      await Promise.all([enqueueAll(keys), enqueueAll(keys.toReversed())])
    }
    const [jobs] = await admin`select count(*)::int as jobs from public.message_queue where organization_id = ${clinic}`
    expect(jobs?.['jobs']).toBe(3000)
  })

  // Keys --------------------------------------------------------------------------------------------------------------

  test('the first of a key that dies makes room for the next, however it dies', async () => {
    const clinic = await aClinic()
    const [first, second, third, fourth] = [
      await enqueue(clinic, { key: 'k' }),
      await enqueue(clinic, { key: 'k', attempts: 1 }),
      await enqueue(clinic, { key: 'k', attempts: 2 }),
      await enqueue(clinic, { key: 'k' }),
    ]
    const head = only(await claim())
    expect(head.id).toBe(first)
    await fail(head, { forGood: true })
    expect(await ids()).toEqual([second])
    // Its worker is gone, and there is no other attempt.
    await letLeasesExpire()
    const next = only(await claim())
    expect(next.id).toBe(third)
    // Fails twice; in between nobody passes it by.
    await fail(next)
    const again = only(await claim())
    expect(again.id).toBe(third)
    await fail(again)
    expect(await ids()).toEqual([fourth])
    const dead = await admin<{ id: string }[]>`
      select id from public.message_queue where status = 'dead' order by position`
    expect(dead.map(({ id }) => id)).toEqual([first, second, third])
  })

  test('a dead job that is redriven takes up its place again', async () => {
    const clinic = await aClinic()
    const order: string[] = []
    for (let number = 0; number < 4; number++) order.push(await enqueue(clinic, { key: 'k' }))
    await fail(only(await claim()), { forGood: true })
    const second = only(await claim())
    await sql`select from public.redrive_job(${order[0] ?? ''}, ${clinic})`
    // The second runs: the first waits for it, and goes before the third.
    expect(await claim()).toEqual([])
    const done = [second.id]
    for (let job: Job | undefined = second; job !== undefined; [job] = await claim()) {
      if (job !== second) done.push(job.id)
      await complete(job)
    }
    expect(done).toEqual([order[1], order[0], order[2], order[3]])
  })

  test('a first that is postponed or retried later keeps its key, and the others behind it', async () => {
    const clinic = await aClinic()
    const first = await enqueue(clinic, { key: 'k' })
    const second = await enqueue(clinic, { key: 'k' })
    const other = await enqueue(clinic, { key: 'another' })
    const [head, stranger] = await claim()
    if (head === undefined || stranger === undefined) throw new Error('Two keys have a first job.')
    expect([head.id, stranger.id]).toEqual([first, other])
    const inAnHour = new Date(Date.now() + 3_600_000)
    const anHourPasses = () => admin`update public.message_queue set run_at = now() where id = ${first}`
    expect(await postpone(head, inAnHour)).toEqual([{ attempts: 0 }])
    await complete(stranger)
    expect(await claim()).toEqual([])
    const third = await enqueue(clinic, { key: 'k' })
    expect(await claim()).toEqual([])
    await anHourPasses()
    const again = only(await claim())
    expect(again).toMatchObject({ id: first, attempts: 1 })
    await fail(again, { retryAt: inAnHour })
    expect(await claim()).toEqual([])
    await anHourPasses()
    const last = only(await claim())
    expect(last).toMatchObject({ id: first, attempts: 2 })
    await complete(last)
    const next = only(await claim())
    expect(next.id).toBe(second)
    await complete(next)
    expect(await ids()).toEqual([third])
  })

  test('who lost the lease can neither end the job nor keep it', async () => {
    const clinic = await aClinic()
    await enqueue(clinic)
    const late = only(await claim())
    await letLeasesExpire()
    const holder = only(await claim())
    expect(holder.id).toBe(late.id)
    for (const attempt of [() => complete(late), () => fail(late), () => postpone(late, new Date())]) {
      expect(await attempt().catch(codeOf)).toBe('BL301')
    }
    const proof = JSON.stringify([late])
    expect(await sql`select * from public.complete_jobs(${proof}::text::jsonb)`).toHaveLength(0)
    expect(await sql`select * from public.extend_leases(${proof}::text::jsonb)`).toHaveLength(0)
    await complete(holder)
    expect(await complete(holder).catch(codeOf)).toBe('BL301')
  })

  test('one dead job redriven by its id and with all others, at once, is redriven once', async () => {
    const clinic = await aClinic()
    const id = await enqueue(clinic, { key: 'k' })
    await fail(only(await claim()), { forGood: true })
    const waiting = async (count: number) => {
      for (let seen = -1; seen !== count; await sleep(10)) {
        const [row] = await admin<{ seen: number }[]>`
          select count(*)::int as seen from pg_locks where locktype = 'advisory' and not granted`
        seen = row?.seen ?? 0
      }
    }
    // Somebody holds the key; who waits for it holds what he has locked until then.
    const [one, all] = await admin.begin(async (holder) => {
      await holder`select private.lock_queue_keys(array[row(${clinic}, 'k')::private.queue_key])`
      const one = sql`select from public.redrive_job(${id}, ${clinic})`.then(() => '', codeOf)
      await waiting(1)
      const all = sql<{ redriven: string }[]>`select public.redrive_jobs(null, ${clinic}) as redriven`
        .then(([row]) => row?.redriven, codeOf)
      await Promise.race([waiting(2), all])
      return [one, all]
    }).then((both) => Promise.all(both))
    expect([['', '0'], ['BL302', '1']]).toContainEqual([one, all])
    expect(await ids()).toEqual([id])
  })

  // Anything ----------------------------------------------------------------------------------------------------------

  const seed = testSeed()
  test(`random operations from eight connections leave every key in order (seed ${seed})`, async () => {
    const OPERATIONS = 4000
    const clinics = await Promise.all(Array.from({ length: 3 }, () => aClinic()))
    await admin.unsafe(`
      drop schema if exists fuzz cascade;
      create schema fuzz;
      create table fuzz.done (seq bigint generated always as identity, job_id uuid not null);
      create table fuzz.died (job_id uuid not null);
      grant usage on schema fuzz to service_role;
      grant select, insert on all tables in schema fuzz to service_role;
      create function fuzz.note_death() returns trigger language plpgsql security definer as $note$
      begin
        insert into fuzz.died (job_id) values (new.id);
        return null;
      end
      $note$;
      create trigger note_death after update on public.message_queue
        for each row when (new.status = 'dead') execute function fuzz.note_death();
    `)
    const errors: string[] = []
    let operations = 0

    const operate = async (random: (below: number) => number) => {
      let held: Job[] = []
      const take = () => held.splice(random(held.length), 1)
      const clinic = () => clinics[random(clinics.length)] ?? ''
      const operation: (() => Promise<unknown>)[] = [
        ...Array.from({ length: 4 }, () => () =>
          enqueue(clinic(), {
            key: random(4) === 0 ? null : `key-${random(6)}`,
            idempotency: random(2) === 0 ? null : `idempotency-${random(2000)}`,
            runAt: new Date(Date.now() + (random(10) === 0 ? random(200) : 0)),
            attempts: 1 + random(4),
          })),
        ...Array.from({ length: 3 }, () => async () => {
          held.push(...await claim({ size: 1 + random(12), lease: random(4) === 0 ? '1 second' : '1 minute' }))
        }),
        ...Array.from({ length: 4 }, () => async () => {
          const jobs = held.splice(0, 1 + random(6))
          // In any order: a batch may be anyhow.
          jobs.sort(() => random(3) - 1)
          await sql`
            with ended as (select * from public.complete_jobs(${JSON.stringify(jobs)}::text::jsonb))
            insert into fuzz.done (job_id) select id from ended`
        }),
        () => Promise.all(take().map((job) => fail(job, { retryAt: new Date(Date.now() + random(100)) }))),
        async () => {
          const isPermanent = random(3) === 0
          const failures = held.splice(0, random(4)).map((job) => ({ ...job, error: 'x', is_permanent: isPermanent }))
          await sql`select * from public.fail_jobs(${JSON.stringify(failures)}::text::jsonb)`
        },
        () => Promise.all(take().map((job) => postpone(job, new Date(Date.now() + random(100))))),
        () => sql`select * from public.extend_leases(${JSON.stringify(held)}::text::jsonb, '1 minute')`,
        async () => {
          // Somebody is gone, and whoever it was comes back too late.
          const [lost] = held
          if (lost === undefined) return
          await admin`
            update public.message_queue set lease_expires_at = clock_timestamp() - interval '1 second'
            where id = ${lost.id} and status = 'processing'`
        },
        () => sql`select public.retry_failed_queue_jobs()`,
        ...Array.from({ length: 2 }, () => async () => {
          const [dead] = await sql<{ organization_id: string; id: string }[]>`
            select organization_id, id from public.message_queue where status = 'dead' offset ${random(3)} limit 1`
          if (dead === undefined) return
          await sql`select from public.redrive_job(${dead.id}, ${dead.organization_id})`
        }),
        () => sql`select public.redrive_jobs(null, ${clinic()})`,
      ]
      while (operations++ < OPERATIONS) {
        // What was lost or redriven meanwhile is refused; nothing else may be.
        await operation[random(operation.length)]?.().catch((error: unknown) => {
          if (!['BL301', 'BL302'].includes(codeOf(error))) errors.push(`${codeOf(error)} ${error}`)
        })
      }
      held = []
    }

    /** True in every moment, for whoever looks. */
    const oddities = async () => {
      const [row] = await admin<Record<string, number>[]>`
        select
          (
            select count(*)::int
            from (
              select from public.message_queue q
              where q.ordering_key is not null and q.status in ('pending', 'failed', 'processing')
              group by q.organization_id, q.ordering_key having count(*) > 1
            ) x
          ) as keys_with_two_heads,
          (
            select count(*)::int
            from public.message_queue w
            where w.status = 'waiting' and not exists (
              select from public.message_queue h
              where h.organization_id = w.organization_id and h.ordering_key = w.ordering_key
                and h.status in ('pending', 'failed', 'processing')
            )
          ) as waiting_for_nobody,
          (
            select count(*)::int from public.message_queue q
            where q.attempts > q.max_attempts or q.attempts < 0 or (q.status = 'dead' and q.last_error is null)
          ) as miscounted`
      return row
    }
    const sane = { keys_with_two_heads: 0, waiting_for_nobody: 0, miscounted: 0 }

    const operating = Promise.all(Array.from({ length: 8 }, (_, index) => operate(seeded(seed + index))))
    while (operations < OPERATIONS) {
      expect(await oddities()).toEqual(sane)
      await sleep(20)
    }
    await operating
    expect(errors).toEqual([])
    expect(await oddities()).toEqual(sane)

    // What is left can be worked off, and then nothing is left.
    await admin`update public.message_queue set run_at = now() where status in ('pending', 'failed', 'waiting')`
    await letLeasesExpire()
    const deadline = Date.now() + PATIENCE_MS
    for (;;) {
      const jobs = await claim({ size: 100 })
      if (jobs.length > 0) {
        await sql`
          with ended as (select * from public.complete_jobs(${JSON.stringify(jobs)}::text::jsonb))
          insert into fuzz.done (job_id) select id from ended`
        continue
      }
      const left = await admin`select status from public.message_queue where status not in ('completed', 'dead')`
      if (left.length === 0) break
      if (Date.now() > deadline) throw new Error(`${left.length} jobs are left over.`)
      await sleep(50)
    }
    const [result] = await admin<Record<string, number>[]>`
      with ends as (
        select q.*, d.seq
        from public.message_queue q
        join fuzz.done d on d.job_id = q.id
        -- Who died and came back comes after those that went ahead meanwhile.
        where q.ordering_key is not null and not exists (select from fuzz.died x where x.job_id = q.id)
      )
      select
        (
          select count(*)::int from (
            select
              e.seq < lag(e.seq) over (partition by e.organization_id, e.ordering_key order by e.position) as is_odd
            from ends e
          ) x where x.is_odd
        ) as out_of_order,
        (select count(*)::int from (select from fuzz.done group by job_id having count(*) > 1) x) as done_twice,
        (
          select count(*)::int from public.message_queue q
          where (q.status = 'completed') <> exists (select from fuzz.done d where d.job_id = q.id)
        ) as completed_unseen,
        (select (count(*) > 300)::int from ends) as enough`
    expect(result).toEqual({ out_of_order: 0, done_twice: 0, completed_unseen: 0, enough: 1 })
  })
})
