// A run of the worker against a queue in memory that keeps the database's promises: leases, fencing tokens, one job of a
// key at a time, tenants in turn.
import assert from 'node:assert/strict'
import { z } from 'zod'
import { type Rpc, RpcError } from '../../functions/_shared/rpc.ts'
import {
  claimOf,
  type Context,
  type Job,
  type JobType,
  type Outcome,
} from '../../functions/queue-worker/job.ts'
import { type Settings, startRun } from '../../functions/queue-worker/work.ts'
import { recordedLog, recordedRpc } from './support.ts'

const CLINIC = '0193f2b4-0000-7000-8000-00000000c111'
const PET_SHOP = '0193f2b4-0000-7000-8000-00000000c222'

interface QueuedJob {
  organization_id: string
  id: string
  job_type: string
  payload: unknown
  fencing_token: number
  attempts: number
  max_attempts: number
  created_at: string
  ordering_key: string | null
  status: 'pending' | 'processing' | 'completed' | 'failed' | 'dead' | 'postponed'
  last: Record<string, unknown>
}

function aJob(number: number, changes: Partial<QueuedJob> = {}): QueuedJob {
  return {
    organization_id: CLINIC,
    id: `0193f2b4-0000-7000-8000-${String(number).padStart(12, '0')}`,
    job_type: 'greet',
    payload: { name: `n${number}` },
    fencing_token: 0,
    attempts: 0,
    max_attempts: 8,
    created_at: '2026-11-20T13:00:00Z',
    ordering_key: null,
    status: 'pending',
    last: {},
    ...changes,
  }
}

const leaseLost = () => new RpcError(400, 'BL301', 'The job is not held any more', 'lease_lost')
const away = () => new RpcError(0, '', 'connection refused', null)

/** The queue, and who asked it for what. `failing` decides before each call. */
function queueOf(jobs: QueuedJob[], failing: (name: string) => RpcError | null = () => null) {
  const stolen = new Set<string>()
  const find = (id: unknown) => {
    const job = jobs.find((candidate) => candidate.id === id)
    assert.ok(job)
    return job
  }
  const held = (args: Record<string, unknown>) => {
    const job = find(args['id'])
    if (job.status !== 'processing' || job.fencing_token !== args['fencing_token'] || stolen.has(job.id)) {
      throw leaseLost()
    }
    return job
  }
  const answering = (name: string, answer: (args: Record<string, unknown>) => unknown) =>
    [name, (args: Record<string, unknown>) => {
      const failure = failing(name)
      if (failure !== null) throw failure
      return answer(args)
    }] as const
  const recorded = recordedRpc(Object.fromEntries([
    answering('claim_jobs', ({ batch_size, job_types }) => {
      const claimed: QueuedJob[] = []
      for (const job of jobs) {
        if (claimed.length === batch_size) break
        const isBusy = job.ordering_key !== null &&
          jobs.some((other) => other.ordering_key === job.ordering_key && other.status === 'processing')
        const isWanted = !Array.isArray(job_types) || job_types.includes(job.job_type)
        if (job.status !== 'pending' || isBusy || !isWanted) continue
        Object.assign(job, {
          status: 'processing',
          attempts: job.attempts + 1,
          fencing_token: job.fencing_token + 1,
        })
        claimed.push(job)
      }
      return claimed
    }),
    answering('complete_job', (args) => Object.assign(held(args), { status: 'completed' })),
    answering(
      'fail_job',
      (args) => Object.assign(held(args), { status: args['is_permanent'] ? 'dead' : 'failed', last: args }),
    ),
    answering('postpone_job', (args) => Object.assign(held(args), { status: 'postponed', last: args })),
    answering('extend_leases', (args) => {
      const asked = z.array(z.object({ id: z.string() })).parse(args['jobs'])
      return asked.filter(({ id }) => !stolen.has(id)).map(({ id }) => ({
        organization_id: find(id).organization_id,
        id,
      }))
    }),
  ]))
  return {
    ...recorded,
    jobs,
    statuses: () => jobs.map(({ status }) => status),
    /** Somebody else has it from now on. */
    steal: (id: string) => stolen.add(id),
  }
}

type Handle = (job: Job<{ name: string }>, context: Context) => Promise<Outcome>

function greet(
  handle: Handle,
  timeoutMs = 10_000,
  more: Partial<JobType<typeof schema>> = {},
): ReadonlyMap<string, JobType> {
  const type: JobType<typeof schema> = { schema, timeoutMs, handle, ...more }
  return new Map<string, JobType>([['greet', type]])
}
/** A kind of job that waits for strangers. */
function waiting(handle: Handle): ReadonlyMap<string, JobType> {
  const type: JobType<typeof schema> = { schema, timeoutMs: 10_000, slow: true, handle }
  return new Map<string, JobType>([['wait', type]])
}
/** Ends when the job is broken off, with the reason. */
function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
}
const schema = z.object({ name: z.string() })
const completed: Handle = () => Promise.resolve({ kind: 'completed' })

const DEFAULTS: Settings = { slots: 4, budgetMs: 20_000, maxJobs: 1000, leaseMs: 60_000, stopMs: 50 }

function runOn(
  queue: { rpc: Rpc },
  jobTypes: ReadonlyMap<string, JobType>,
  settings: Partial<Settings> = {},
  chosen: string[] | null = null,
) {
  const { log, lines } = recordedLog()
  const pauses: number[] = []
  const pause = (milliseconds: number) => (pauses.push(milliseconds), Promise.resolve())
  const run = startRun(
    { rpc: queue.rpc, jobTypes, settings: { ...DEFAULTS, ...settings }, log, pause },
    chosen,
  )
  const logged = (event: string) =>
    lines.map((line) => JSON.parse(line)).filter((line) => line.event === event)
  return { run, lines, pauses, logged }
}

function counts({ duration_ms: _duration, ...summary }: Awaited<ReturnType<typeof startRun>['finished']>) {
  return summary
}

/** Waits until it is so; the run goes on meanwhile. */
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 1))
}

Deno.test('a run goes on until nothing is due, and says what it did', async () => {
  const queue = queueOf(Array.from({ length: 10 }, (_job, index) => aJob(index)))
  const greeted: string[] = []
  const { run, logged } = runOn(
    queue,
    greet(({ payload }) => {
      greeted.push(payload.name)
      return Promise.resolve({ kind: 'completed' })
    }),
  )
  assert.deepEqual(counts(await run.finished), {
    claimed: 10,
    completed: 10,
    failed: 0,
    postponed: 0,
    lost: 0,
    drained: true,
  })
  assert.deepEqual(queue.statuses(), Array(10).fill('completed'))
  assert.deepEqual(greeted.toSorted(), Array.from({ length: 10 }, (_name, index) => `n${index}`))
  const lines = logged('job')
  assert.equal(lines.length, 10)
  assert.deepEqual(
    { ...lines[0], time: '', duration_ms: 0, job_id: '' },
    {
      time: '',
      level: 'info',
      function: 'test',
      event: 'job',
      job_type: 'greet',
      job_id: '',
      organization_id: CLINIC,
      attempts: 1,
      outcome: 'completed',
      duration_ms: 0,
    },
  )
  assert.equal(logged('run').length, 1)
})

Deno.test('an empty queue is asked once', async () => {
  const queue = queueOf([])
  const { run } = runOn(queue, greet(completed))
  assert.equal((await run.finished).drained, true)
  const [claim, ...others] = queue.calls
  assert.deepEqual(others, [])
  const { worker, ...args } = claim?.args ?? {}
  assert.match(String(worker), /^queue-worker\/[0-9a-f-]{36}$/)
  assert.deepEqual(args, { batch_size: 4, job_types: null, lease: '60000 milliseconds', after: null })
})

Deno.test('the next claim begins behind the tenant of the last job, and asks for the kinds that were chosen', async () => {
  const queue = queueOf([aJob(1), aJob(2, { organization_id: PET_SHOP }), aJob(3, { job_type: 'other' })])
  const { run } = runOn(queue, greet(completed), {}, ['greet'])
  assert.equal((await run.finished).completed, 2)
  assert.deepEqual(
    queue.callsOf('claim_jobs').map(({ args }) => [args['after'], args['job_types']]).slice(0, 2),
    [
      [null, ['greet']],
      [PET_SHOP, ['greet']],
    ],
  )
  assert.deepEqual(queue.statuses(), ['completed', 'completed', 'pending'])
})

Deno.test('a slow job holds up its own slot only', async () => {
  const queue = queueOf(Array.from({ length: 30 }, (_job, index) => aJob(index)))
  const { promise: released, resolve: release } = Promise.withResolvers<void>()
  const { run } = runOn(
    queue,
    greet(async ({ payload }) => {
      if (payload.name === 'n0') await released
      return { kind: 'completed' }
    }),
  )
  await until(() => queue.jobs.filter(({ status }) => status === 'completed').length === 29)
  assert.equal(queue.jobs[0]?.status, 'processing')
  release()
  assert.deepEqual(counts(await run.finished).completed, 30)
})

Deno.test('never more jobs at once than there are slots', async () => {
  const queue = queueOf(Array.from({ length: 25 }, (_job, index) => aJob(index)))
  let running = 0
  let most = 0
  const { run } = runOn(
    queue,
    greet(async () => {
      running += 1
      most = Math.max(most, running)
      await new Promise((resolve) => setTimeout(resolve, 2))
      running -= 1
      return { kind: 'completed' }
    }),
    { slots: 3 },
  )
  assert.equal((await run.finished).completed, 25)
  assert.equal(most, 3)
})

Deno.test('the next job of a key is claimed when the first has ended', async () => {
  const queue = queueOf([1, 2, 3].map((number) => aJob(number, { ordering_key: 'conversation:1' })))
  const order: string[] = []
  const { run } = runOn(
    queue,
    greet(({ payload }) => {
      order.push(payload.name)
      return Promise.resolve({ kind: 'completed' })
    }),
  )
  assert.equal((await run.finished).completed, 3)
  assert.deepEqual(order, ['n1', 'n2', 'n3'])
})

Deno.test('what comes while a slow job runs is not kept waiting, nudged or not', async () => {
  const queue = queueOf([aJob(0)])
  const { promise: released, resolve: release } = Promise.withResolvers<void>()
  const { run } = runOn(
    queue,
    greet(async ({ payload }) => {
      if (payload.name === 'n0') await released
      return { kind: 'completed' }
    }),
  )
  await until(() => queue.callsOf('claim_jobs').length === 2)
  queue.jobs.push(aJob(1))
  assert.equal(run.nudge(), true)
  await until(() => queue.jobs[1]?.status === 'completed')
  queue.jobs.push(aJob(2))
  await until(() => queue.jobs[2]?.status === 'completed')
  release()
  await run.finished
  assert.equal(run.nudge(), false)
  assert.equal(run.isClaiming(), false)
})

Deno.test('each outcome is told to the database as it is', async () => {
  const runAt = new Date('2026-11-20T14:00:00Z')
  const outcomes: Record<string, Outcome> = {
    n0: { kind: 'completed' },
    n1: { kind: 'failed', error: 'away' },
    n2: { kind: 'failed', error: 'at 5511987650001', retryAt: runAt },
    n3: { kind: 'failed', error: 'never', permanent: true },
    n4: { kind: 'postponed', runAt, reason: 'a pause' },
    n5: { kind: 'ended', as: 'failed', result: 'refused' },
  }
  const queue = queueOf(Object.keys(outcomes).map((_name, index) => aJob(index)))
  const { run, logged } = runOn(
    queue,
    greet(({ payload }) => Promise.resolve(outcomes[payload.name] ?? { kind: 'completed' })),
  )
  assert.deepEqual(counts(await run.finished), {
    claimed: 6,
    completed: 1,
    failed: 4,
    postponed: 1,
    lost: 0,
    drained: true,
  })
  // What has ended in its own transaction is not ended again.
  assert.deepEqual(queue.statuses(), ['completed', 'failed', 'failed', 'dead', 'postponed', 'processing'])
  const claim = (number: number) => ({ organization_id: CLINIC, id: aJob(number).id, fencing_token: 1 })
  assert.deepEqual(queue.jobs.slice(1, 5).map(({ last }) => last), [
    { ...claim(1), error: 'away', retry_at: null, is_permanent: false },
    { ...claim(2), error: 'at 5511*******01', retry_at: runAt.toISOString(), is_permanent: false },
    { ...claim(3), error: 'never', retry_at: null, is_permanent: true },
    { ...claim(4), run_at: runAt.toISOString(), reason: 'a pause' },
  ])
  assert.deepEqual(logged('job').map(({ outcome }) => outcome).toSorted(), [
    'completed',
    'failed',
    'failed',
    'failed',
    'failed',
    'postponed',
  ])
})

Deno.test('a kind that nobody knows, and a payload that does not fit, are given up with the reason', async () => {
  const queue = queueOf([
    aJob(1, { job_type: 'dance' }),
    aJob(2, { payload: { name: 7 } }),
    aJob(3, { payload: null }),
  ])
  const { run } = runOn(queue, greet(() => Promise.reject(new Error('was called'))))
  assert.equal((await run.finished).failed, 3)
  assert.deepEqual(queue.statuses(), ['dead', 'dead', 'dead'])
  assert.match(String(queue.jobs[0]?.last['error']), /^unknown_job_type: .*dance/)
  assert.match(String(queue.jobs[1]?.last['error']), /^invalid_payload: name: /)
  assert.match(String(queue.jobs[2]?.last['error']), /^invalid_payload: payload: /)
})

Deno.test('what a handler throws is tried again, and tells no secret', async () => {
  const queue = queueOf([aJob(1), aJob(2)])
  const { run, lines } = runOn(
    queue,
    greet(({ payload }) => {
      if (payload.name === 'n1') throw new Error('Bearer EAAGsecretsecret to 5511987650001 failed')
      return Promise.resolve({ kind: 'completed' })
    }),
  )
  assert.deepEqual(counts(await run.finished).completed, 1)
  assert.deepEqual(queue.statuses(), ['failed', 'completed'])
  assert.equal(queue.jobs[0]?.last['error'], 'Bearer […] to 5511*******01 failed')
  assert.equal(queue.jobs[0]?.last['is_permanent'], false)
  assert.doesNotMatch(lines.join(), /EAAG|87650001/)
})

Deno.test('a job whose time is up is broken off and tried again', async () => {
  const queue = queueOf([aJob(1)])
  const reasons: unknown[] = []
  const { run } = runOn(
    queue,
    greet((_job, { signal }) =>
      new Promise((_resolve, reject) => {
        signal.addEventListener('abort', () => (reasons.push(signal.reason.why), reject(signal.reason)))
      }), 20),
  )
  assert.equal((await run.finished).failed, 1)
  assert.deepEqual(reasons, ['timeout'])
  assert.equal(queue.jobs[0]?.last['error'], 'timeout: longer than 0.02 s')
})

Deno.test('a job that does not listen is left behind; what it says later is not heard', async () => {
  const queue = queueOf([aJob(1)])
  const { promise: released, resolve: release } = Promise.withResolvers<void>()
  let said: Promise<Outcome> | null = null
  const { run } = runOn(
    queue,
    greet(() => {
      said = released.then((): Outcome => ({ kind: 'completed' }))
      return said
    }, 10),
    { budgetMs: 1000 },
  )
  assert.deepEqual(counts(await run.finished), {
    claimed: 1,
    completed: 0,
    failed: 1,
    postponed: 0,
    lost: 0,
    drained: true,
  })
  release()
  await said
  assert.equal(queue.jobs[0]?.status, 'failed')
})

Deno.test('a job that ends well just after its time was up has ended well', async () => {
  const queue = queueOf([aJob(1)])
  const { run } = runOn(
    queue,
    greet(
      (_job, { signal }) =>
        new Promise((resolve) => signal.addEventListener('abort', () => resolve({ kind: 'completed' }))),
      10,
    ),
  )
  assert.equal((await run.finished).completed, 1)
  assert.deepEqual(queue.statuses(), ['completed'])
})

Deno.test('the leases of what runs are extended, and of nothing else', async () => {
  const queue = queueOf([aJob(0), aJob(1)])
  const { promise: released, resolve: release } = Promise.withResolvers<void>()
  const { run } = runOn(
    queue,
    greet(async ({ payload }) => {
      if (payload.name === 'n0') await released
      return { kind: 'completed' }
    }),
    { leaseMs: 30 },
  )
  await until(() => queue.callsOf('extend_leases').length >= 3)
  release()
  await run.finished
  const beats = queue.callsOf('extend_leases').map(({ args }) => args)
  for (const { lease } of beats) assert.equal(lease, '30 milliseconds')
  assert.deepEqual(beats.at(1)?.['jobs'], [{ organization_id: CLINIC, id: aJob(0).id, fencing_token: 1 }])
})

Deno.test('a job that somebody else has by now is broken off, and its result is dropped', async () => {
  for (const kind of ['completed', 'failed', 'postponed', 'thrown'] as const) {
    const queue = queueOf([aJob(1)])
    const reasons: unknown[] = []
    const { run, logged } = runOn(
      queue,
      greet((job, { signal }) => {
        queue.steal(job.id)
        return new Promise((resolve, reject) =>
          signal.addEventListener('abort', () => {
            reasons.push(signal.reason.why)
            if (kind === 'completed') resolve({ kind })
            else if (kind === 'failed') resolve({ kind, error: 'x' })
            else if (kind === 'postponed') resolve({ kind, runAt: new Date(), reason: 'x' })
            else reject(signal.reason)
          })
        )
      }),
      { leaseMs: 30 },
    )
    assert.deepEqual(counts(await run.finished).lost, 1)
    assert.deepEqual(reasons, ['lease_lost'])
    assert.deepEqual(queue.callsOf('complete_job').length + queue.callsOf('fail_job').length, 0)
    assert.deepEqual(logged('job').map(({ outcome, level }) => [outcome, level]), [['lost', 'warn']])
  }
})

Deno.test('a job that has ended in its own transaction was not lost, although the heartbeat no longer finds it', async () => {
  const queue = queueOf([aJob(1)])
  const { run } = runOn(
    queue,
    greet((job, { signal }) => {
      queue.steal(job.id)
      return new Promise((resolve) =>
        signal.addEventListener('abort', () => resolve({ kind: 'ended', result: 'accepted' }))
      )
    }),
    { leaseMs: 30 },
  )
  assert.deepEqual(counts(await run.finished).completed, 1)
})

Deno.test('whoever hears from the database that the job is lost has lost it', async () => {
  const queue = queueOf([aJob(1), aJob(2)])
  const { run } = runOn(
    queue,
    greet((job) => {
      if (job.payload.name === 'n1') return Promise.reject(leaseLost())
      queue.steal(job.id)
      return Promise.resolve({ kind: 'completed' })
    }),
  )
  assert.equal((await run.finished).lost, 2)
  assert.equal(queue.callsOf('fail_job').length, 0)
})

Deno.test('a heartbeat that fails breaks nothing off', async () => {
  let beats = 0
  const queue = queueOf([aJob(1)], (name) => name === 'extend_leases' && ++beats <= 2 ? away() : null)
  const { run, logged } = runOn(
    queue,
    greet(async () => {
      await until(() => beats > 3)
      return { kind: 'completed' }
    }),
    { leaseMs: 30 },
  )
  assert.equal((await run.finished).completed, 1)
  assert.equal(logged('leases not extended').length, 2)
})

Deno.test('a database that is briefly away costs nothing', async (test) => {
  for (const name of ['claim_jobs', 'complete_job']) {
    await test.step(name, async () => {
      let failures = 2
      const queue = queueOf([aJob(1)], (called) => called === name && failures-- > 0 ? away() : null)
      const { run, pauses } = runOn(queue, greet(completed))
      assert.deepEqual(counts(await run.finished), {
        claimed: 1,
        completed: 1,
        failed: 0,
        postponed: 0,
        lost: 0,
        drained: true,
      })
      assert.deepEqual(pauses, [200, 1000])
    })
  }
})

Deno.test('a database that stays away ends the run, after what runs', async () => {
  const { promise: released, resolve: release } = Promise.withResolvers<void>()
  let claims = 0
  const queue = queueOf([aJob(1)], (name) => name === 'claim_jobs' && ++claims > 1 ? away() : null)
  const { run, logged, pauses } = runOn(
    queue,
    greet(async () => (await released, { kind: 'completed' as const })),
  )
  await until(() => pauses.length === 3)
  release()
  await assert.rejects(run.finished, /connection refused/)
  assert.deepEqual(queue.statuses(), ['completed'])
  assert.deepEqual(logged('run').map(({ level, completed }) => [level, completed]), [['error', 1]])
})

Deno.test('an end that cannot be told is left to the lease, and said so', async () => {
  const queue = queueOf([aJob(1)], (name) => name === 'complete_job' ? away() : null)
  const { run, logged } = runOn(queue, greet(completed))
  assert.equal((await run.finished).lost, 1)
  assert.match(logged('job')[0]?.error, /completed could not be told: connection refused/)
})

Deno.test('near its end a run claims no more, and what cannot finish is given back at once', async () => {
  const queue = queueOf([aJob(1)])
  const { run } = runOn(
    queue,
    greet((_job, { signal }) =>
      new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
    ),
    { budgetMs: 200, slots: 2 },
  )
  await until(() => !run.isClaiming())
  queue.jobs.push(aJob(2))
  const summary = await run.finished
  assert.deepEqual(counts(summary), {
    claimed: 1,
    completed: 0,
    failed: 1,
    postponed: 0,
    lost: 0,
    drained: false,
  })
  assert.deepEqual(queue.statuses(), ['failed', 'pending'])
  const { error, retry_at } = queue.jobs[0]?.last ?? {}
  assert.match(String(error), /^run_over: /)
  assert.ok(Date.parse(String(retry_at)) <= Date.now())
})

Deno.test('a run that is stopped claims no more; what has begun has a moment to end', async () => {
  const queue = queueOf([aJob(1), aJob(2), aJob(3)])
  const { promise: released, resolve: release } = Promise.withResolvers<void>()
  const { run } = runOn(
    queue,
    greet(async ({ payload }, { signal }) => {
      if (payload.name === 'n1') await released
      else await aborted(signal)
      return { kind: 'completed' }
    }),
    { slots: 2 },
  )
  await until(() => queue.callsOf('claim_jobs').length === 1 && queue.jobs[1]?.status === 'processing')
  run.stop()
  release()
  assert.deepEqual(counts(await run.finished), {
    claimed: 2,
    completed: 1,
    failed: 1,
    postponed: 0,
    lost: 0,
    drained: false,
  })
  assert.deepEqual(queue.statuses(), ['completed', 'failed', 'pending'])
})

Deno.test('a run that is stopped breaks off at once what can be repeated, and lets the rest go on', async () => {
  const queue = queueOf([aJob(1), aJob(2, { job_type: 'wait' })])
  const { promise: released, resolve: release } = Promise.withResolvers<void>()
  const reasons: unknown[] = []
  const { run } = runOn(
    queue,
    new Map([
      ...greet(async (_job, { signal }) => {
        await released
        return signal.aborted ? { kind: 'failed', error: 'was broken off' } : { kind: 'completed' }
      }),
      ...waiting((_job, { signal }) =>
        aborted(signal).catch((error) => (reasons.push(error.why), Promise.reject(error)))
      ),
    ]),
    { stopMs: 10_000 },
  )
  await until(() => queue.jobs[1]?.status === 'processing')
  run.stop()
  await until(() => queue.jobs[1]?.status === 'failed')
  assert.deepEqual(reasons, ['run_over'])
  assert.equal(queue.jobs[0]?.status, 'processing')
  release()
  await run.finished
  assert.equal(queue.jobs[0]?.status, 'completed')
})

Deno.test('what a claim brings when nothing may begin any more is given back, and no attempt is counted', async (test) => {
  const cases: [string, Partial<Settings>, (run: ReturnType<typeof startRun>) => void][] = [
    ['stopped', {}, (run) => run.stop()],
    ['near the end', { budgetMs: 40 }, () => undefined],
  ]
  for (const [name, settings, end] of cases) {
    await test.step(name, async () => {
      const queue = queueOf([aJob(1), aJob(2)])
      const { promise: released, resolve: release } = Promise.withResolvers<void>()
      const slowly: Rpc = async (called, args) => {
        const answer = await queue.rpc(called, args)
        if (called === 'claim_jobs') await released
        return answer
      }
      const { run, logged } = runOn(
        { ...queue, rpc: slowly },
        greet(() => Promise.reject(new Error('was begun'))),
        settings,
      )
      await until(() => queue.jobs[1]?.status === 'processing')
      end(run)
      if (settings.budgetMs !== undefined) {
        await new Promise((resolve) => setTimeout(resolve, settings.budgetMs))
      }
      release()
      assert.deepEqual(counts(await run.finished), {
        claimed: 2,
        completed: 0,
        failed: 0,
        postponed: 2,
        lost: 0,
        drained: false,
      })
      assert.deepEqual(queue.statuses(), ['postponed', 'postponed'])
      for (const { last } of queue.jobs) {
        assert.equal(last['reason'], 'run_over')
        assert.ok(Date.parse(String(last['run_at'])) <= Date.now())
      }
      assert.deepEqual(logged('job').map(({ outcome }) => outcome), ['postponed', 'postponed'])
    })
  }
})

Deno.test('jobs that wait for strangers hold half of the slots; what comes later runs beside them', async () => {
  const slow = (number: number) => aJob(number, { job_type: 'wait' })
  const queue = queueOf([slow(1), slow(2), slow(3), slow(4)])
  const { promise: released, resolve: release } = Promise.withResolvers<void>()
  let running = 0
  let most = 0
  let asked = 0
  const { promise: full, resolve: isFull } = Promise.withResolvers<void>()
  const { log } = recordedLog()
  const run = startRun({
    rpc: queue.rpc,
    jobTypes: new Map([
      ...greet(completed),
      ...waiting(async () => {
        most = Math.max(most, ++running)
        await released
        running -= 1
        return { kind: 'completed' }
      }),
    ]),
    settings: DEFAULTS,
    log,
    onFull: () => {
      asked += 1
      isFull()
    },
  })
  await until(() => running === 2)
  for (const number of [5, 6, 7]) queue.jobs.push(aJob(number))
  // It looks itself, and says that another run might do more.
  assert.equal(run.nudge(), false)
  await until(() => queue.statuses().filter((status) => status === 'completed').length === 3)
  assert.deepEqual(queue.statuses().slice(0, 4), ['processing', 'processing', 'pending', 'pending'])
  await full
  assert.equal(asked, 1)
  // Only then is the claim's filter worth what it costs.
  const kinds = queue.callsOf('claim_jobs').map(({ args }) => JSON.stringify(args['job_types']))
  assert.equal(kinds[0], 'null')
  assert.ok(kinds.slice(1).every((kind) => kind === '["greet"]'), kinds.join())
  release()
  assert.equal((await run.finished).completed, 7)
  assert.equal(most, 2)
})

Deno.test('a run for nothing but such jobs gives them all its slots', async () => {
  const queue = queueOf([1, 2, 3, 4, 5].map((number) => aJob(number, { job_type: 'wait' })))
  const { promise: released, resolve: release } = Promise.withResolvers<void>()
  let running = 0
  const { run } = runOn(
    queue,
    new Map([
      ...greet(completed),
      ...waiting(async () => {
        running += 1
        await released
        return { kind: 'completed' }
      }),
    ]),
    {},
    ['wait'],
  )
  await until(() => running === 4)
  release()
  assert.equal((await run.finished).completed, 5)
})

Deno.test('a kind of job with a schedule of its own is tried again by it, or given up', async () => {
  const retryAt = new Date('2026-11-20T19:00:00Z')
  const seen: unknown[] = []
  const nextTry: JobType['nextTry'] = ({ attempts, created_at }) => {
    seen.push([attempts, created_at])
    return attempts < 3 ? retryAt : null
  }
  const queue = queueOf([aJob(1), aJob(2, { attempts: 2 }), aJob(3)])
  const { run } = runOn(
    queue,
    greet(
      ({ payload }, { signal }) => {
        if (payload.name === 'n3') return aborted(signal)
        return Promise.reject(new Error('away'))
      },
      20,
      { nextTry },
    ),
  )
  assert.equal((await run.finished).failed, 3)
  assert.deepEqual(queue.statuses(), ['failed', 'dead', 'failed'])
  assert.deepEqual(queue.jobs.map(({ last }) => [last['error'], last['retry_at']]), [
    ['away', retryAt.toISOString()],
    ['away', null],
    ['timeout: longer than 0.02 s', retryAt.toISOString()],
  ])
  assert.deepEqual(seen, [[1, aJob(1).created_at], [3, aJob(2).created_at], [1, aJob(3).created_at]])
})

Deno.test('a database that hangs does not make a run outlive its budget', async (test) => {
  /** Answers nothing until the caller has had enough, like a Data API that hangs. */
  const hanging = (signal: AbortSignal | undefined) =>
    new Promise<never>((_resolve, reject) => {
      signal?.addEventListener('abort', () => reject(away()))
      if (signal?.aborted) reject(away())
    })
  for (const name of ['claim_jobs', 'complete_job', 'fail_job', 'postpone_job', 'extend_leases']) {
    await test.step(name, async () => {
      const queue = queueOf([aJob(1), aJob(2), aJob(3)])
      const rpc: Rpc = async (called, args, { signal } = {}) =>
        called === name ? await hanging(signal) : await queue.rpc(called, args)
      const { run, pauses } = runOn(
        { ...queue, rpc },
        greet(({ payload }) => {
          if (payload.name === 'n1') return Promise.resolve({ kind: 'completed' })
          if (payload.name === 'n2') return Promise.resolve({ kind: 'failed', error: 'x' })
          return Promise.resolve({ kind: 'postponed', runAt: new Date(), reason: 'x' })
        }),
        { budgetMs: 100, leaseMs: 30 },
      )
      const ended = run.finished.then(({ lost }) => lost, () => 'not claimed')
      assert.equal(await ended, name === 'claim_jobs' ? 'not claimed' : name === 'extend_leases' ? 0 : 1)
      // And nobody tries once more after it.
      assert.deepEqual(pauses, [])
    })
  }
  await test.step('claim_jobs, and the run is stopped', async () => {
    const { run } = runOn(
      { ...queueOf([]), rpc: (_name, _args, { signal } = {}) => hanging(signal) },
      greet(completed),
    )
    run.stop()
    await assert.rejects(run.finished, RpcError)
  })
})

Deno.test('a run ends after so many jobs', async () => {
  const queue = queueOf(Array.from({ length: 10 }, (_job, index) => aJob(index)))
  const { run } = runOn(queue, greet(completed), { maxJobs: 6 })
  assert.deepEqual(counts(await run.finished), {
    claimed: 6,
    completed: 6,
    failed: 0,
    postponed: 0,
    lost: 0,
    drained: false,
  })
})

Deno.test('a handler is told who holds the job', async () => {
  const queue = queueOf([aJob(5, { attempts: 2, fencing_token: 6 })])
  const seen: Job<{ name: string }>[] = []
  const { run } = runOn(
    queue,
    greet((job) => {
      seen.push(job)
      return Promise.resolve({ kind: 'completed' })
    }),
  )
  await run.finished
  assert.deepEqual(seen.map((job) => [claimOf(job), job.attempts, job.max_attempts, job.payload]), [
    [{ organization_id: CLINIC, id: aJob(5).id, fencing_token: 7 }, 3, 8, { name: 'n5' }],
  ])
})

Deno.test('a run whose slots are all held by slow jobs asks for another one, once, and a busy one does not', async () => {
  const { promise: released, resolve: release } = Promise.withResolvers<void>()
  const isSlow = ({ payload }: { payload: { name: string } }) => payload.name === 'slow'
  const types = greet(async (job) => {
    if (isSlow(job)) await released
    return { kind: 'completed' }
  })
  const slow = (number: number) => aJob(number, { payload: { name: 'slow' } })
  const queue = queueOf([slow(1), slow(2), slow(3), slow(4), aJob(5), aJob(6)])
  const { log } = recordedLog()
  const { promise: full, resolve: isFull } = Promise.withResolvers<void>()
  let times = 0
  const onFull = () => {
    times += 1
    isFull()
  }
  const first = startRun({ rpc: queue.rpc, jobTypes: types, settings: DEFAULTS, log, onFull })
  await full
  // It has room, and what the first one could not take.
  const second = await startRun({ rpc: queue.rpc, jobTypes: types, settings: DEFAULTS, log, onFull }).finished
  assert.deepEqual([second.completed, second.drained], [2, true])
  release()
  assert.equal((await first.finished).completed, 4)
  assert.equal(times, 1)

  const busy = queueOf(Array.from({ length: 40 }, (_job, index) => aJob(index + 1)))
  await startRun({ rpc: busy.rpc, jobTypes: types, settings: DEFAULTS, log, onFull }).finished
  assert.equal(times, 1)
})
