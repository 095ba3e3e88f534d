// One run of the worker: claims jobs as long as there is room and time, runs them side by side, keeps their leases
// alive, and ends each of them. A slow job holds up its own slot only.
import { z } from 'zod'
import type { Log } from '../_shared/log.ts'
import { maskPhoneNumbers } from '../_shared/log.ts'
import { reasonOf } from '../_shared/redact.ts'
import type { Rpc } from '../_shared/rpc.ts'
import { type Claim, claimOf, isLeaseLost, type Job, type JobType, type Outcome } from './job.ts'
import { patientRpc, type Pause, pause as realPause } from './patient-rpc.ts'

export interface Settings {
  /** How many jobs run side by side. */
  slots: number
  /** How long a run may last, all in all. */
  budgetMs: number
  /** A run ends after so many jobs, because the platform also counts processor time. */
  maxJobs: number
  leaseMs: number
}

export interface Dependencies {
  rpc: Rpc
  jobTypes: ReadonlyMap<string, JobType>
  settings: Settings
  log: Log
  /** All slots are held by jobs that take their time, and more may be due: another run is wanted. */
  onFull?: () => void
  now?: () => Date
  pause?: Pause
}

export interface Summary {
  claimed: number
  completed: number
  failed: number
  postponed: number
  lost: number
  /** Nothing was due any more. */
  drained: boolean
  duration_ms: number
}

export interface Run {
  /** False once it claims nothing more. */
  isClaiming(): boolean
  /** Looks into the queue again, if it has room; answers whether it will. */
  nudge(): boolean
  /** Claims no more, gives what runs a moment, and breaks it off. */
  stop(): void
  /** Rejects only when the queue could not be asked. */
  finished: Promise<Summary>
}

/** Why a job was broken off; it is the reason of its signal. */
export class Interruption extends Error {
  override readonly name = 'Interruption'

  constructor(readonly why: 'timeout' | 'run_over' | 'lease_lost', message: string) {
    super(message)
  }
}

type Ending = 'completed' | 'failed' | 'postponed' | 'lost'

interface RunningJob {
  claim: Claim
  controller: AbortController
  /** Its outcome is being told to the database: what the heartbeat hears of it from now on says nothing. */
  isEnding: boolean
}

const RETRY_PAUSES = [200, 1000, 3000]
// While something runs, new work shall not wait for its end.
const POLL_MS = 500
// A job that lasts longer than this waits for somebody else, a receiver that does not answer for instance.
const FULL_MS = 300
// Whoever ends the isolate does not wait long.
const STOP_GRACE_MS = 1500
// Parts of the budget: until when jobs are claimed, and when those are broken off that still run.
const CLAIMING_PART = 0.7
const RUNNING_PART = 0.9

const jobRows = z.array(z.looseObject({
  organization_id: z.string(),
  id: z.string(),
  job_type: z.string(),
  fencing_token: z.coerce.number().int(),
  attempts: z.int(),
  max_attempts: z.int(),
  created_at: z.string(),
  payload: z.unknown(),
}))

const stillHeld = z.array(z.looseObject({ organization_id: z.string(), id: z.string() }))

export function startRun(
  { rpc, jobTypes, settings, log, onFull, now = () => new Date(), pause = realPause }: Dependencies,
  chosenTypes: readonly string[] | null = null,
): Run {
  const { slots, budgetMs, maxJobs, leaseMs } = settings
  const worker = `queue-worker/${crypto.randomUUID()}`
  const startedAt = performance.now()
  const elapsed = () => performance.now() - startedAt
  const graceMs = budgetMs * (1 - RUNNING_PART) / 2
  const database = patientRpc(rpc, { pauses: RETRY_PAUSES, pause })

  const running = new Set<RunningJob>()
  const counts = { claimed: 0, completed: 0, failed: 0, postponed: 0, lost: 0 }
  const bell = createBell()
  let stopAt = Infinity
  let isClaiming = true
  let lastOrganization: string | null = null

  const finished = run()
  // Whoever waits for it hears of a failure; it is not an unhandled one if nobody does.
  finished.catch(() => undefined)

  return {
    isClaiming: () => isClaiming,
    nudge() {
      if (!isClaiming || running.size >= slots) return false
      bell.ring()
      return true
    },
    stop() {
      stopAt = Math.min(stopAt, elapsed() + Math.min(STOP_GRACE_MS, graceMs))
      bell.ring()
    },
    finished,
  }

  async function run(): Promise<Summary> {
    const heartbeat = setInterval(() => void extendLeases(), leaseMs / 3)
    let drained = false
    let failure: unknown = null
    try {
      drained = await claimAndRun()
    } catch (error) {
      failure = error
    }
    isClaiming = false
    await endOfRunning()
    clearInterval(heartbeat)

    const summary = { ...counts, drained, duration_ms: Math.round(elapsed()) }
    if (failure !== null) {
      log('error', 'run', { worker, ...summary, error: reasonOf(failure) })
      throw failure
    }
    log('info', 'run', { worker, ...summary })
    return summary
  }

  /** Answers whether nothing was due any more. */
  async function claimAndRun(): Promise<boolean> {
    const claimUntil = budgetMs * CLAIMING_PART
    while (stopAt === Infinity && elapsed() < claimUntil && counts.claimed < maxJobs) {
      const room = Math.min(slots - running.size, maxJobs - counts.claimed)
      if (room === 0) {
        await bell.heard(Math.min(FULL_MS, claimUntil - elapsed()))
        if (running.size < slots || stopAt !== Infinity) continue
        // Once: whoever enqueues from now on wakes another run himself.
        onFull?.()
        await bell.heard(claimUntil - elapsed())
        continue
      }
      // What rings from here on may have made more work than the claim sees.
      bell.reset()
      const jobs = await claim(room)
      for (const job of jobs) start(job)
      if (jobs.length > 0 || bell.hasRung()) continue
      if (running.size === 0) return true
      await bell.heard(Math.min(POLL_MS, claimUntil - elapsed()))
    }
    return false
  }

  async function claim(room: number): Promise<Job[]> {
    const answer = await database('claim_jobs', {
      worker,
      batch_size: room,
      job_types: chosenTypes,
      lease: asInterval(leaseMs),
      after: lastOrganization,
    })
    const jobs = jobRows.parse(answer ?? [])
    lastOrganization = jobs.at(-1)?.organization_id ?? lastOrganization
    counts.claimed += jobs.length
    return jobs
  }

  function start(job: Job): void {
    const entry: RunningJob = { claim: claimOf(job), controller: new AbortController(), isEnding: false }
    running.add(entry)
    void runAndEnd(job, entry).then((ending) => {
      counts[ending] += 1
      running.delete(entry)
      bell.ring()
    })
  }

  /** Never throws. */
  async function runAndEnd(job: Job, entry: RunningJob): Promise<Ending> {
    const startedAt = performance.now()
    const outcome = await runOne(job, entry)
    entry.isEnding = true
    const { ending, ...told } = await end(entry.claim, outcome)
    log(ending === 'completed' || ending === 'postponed' ? 'info' : 'warn', 'job', {
      job_type: job.job_type,
      job_id: job.id,
      organization_id: job.organization_id,
      attempts: job.attempts,
      outcome: ending,
      ...told,
      duration_ms: Math.round(performance.now() - startedAt),
    })
    return ending
  }

  /** Null: somebody else has the job by now. */
  async function runOne(job: Job, entry: RunningJob): Promise<Outcome | null> {
    const type = jobTypes.get(job.job_type)
    if (type === undefined) {
      const error = `unknown_job_type: no handler knows jobs of type ${job.job_type}`
      return { kind: 'failed', error, permanent: true }
    }
    const payload = type.schema.safeParse(job.payload)
    if (!payload.success) {
      const [issue] = payload.error.issues
      const error = `invalid_payload: ${issue?.path.join('.') || 'payload'}: ${
        issue?.message ?? 'is not valid'
      }`
      return { kind: 'failed', error, permanent: true }
    }

    const { signal } = entry.controller
    const patience = interruptible(entry.controller, type.timeoutMs)
    try {
      const work = type.handle({ ...job, payload: payload.data }, { signal, now, log })
      const outcome = await Promise.race([work, patience.gone])
      // It has ended the job while we were told that it is lost: that was why.
      return interruptionOf(signal)?.why === 'lease_lost' && outcome.kind !== 'ended' ? null : outcome
    } catch (error) {
      if (isLeaseLost(error)) return null
      const interruption = interruptionOf(signal)
      return interruption === null ? { kind: 'failed', error: reasonOf(error) } : brokenOff(interruption)
    } finally {
      patience.over()
    }
  }

  /** Breaks a job off when its time is up; `gone` rejects when it does not end for all that. */
  function interruptible(controller: AbortController, timeoutMs: number) {
    const { promise: gone, reject } = Promise.withResolvers<never>()
    gone.catch(() => undefined)
    let grace: ReturnType<typeof setTimeout> | undefined
    const timeout = setTimeout(() => {
      controller.abort(new Interruption('timeout', `timeout: longer than ${timeoutMs / 1000} s`))
    }, timeoutMs)
    controller.signal.addEventListener('abort', () => {
      grace = setTimeout(() => reject(controller.signal.reason), graceMs)
    }, { once: true })
    return {
      gone,
      over: () => {
        clearTimeout(timeout)
        clearTimeout(grace)
      },
    }
  }

  function brokenOff({ why, message }: Interruption): Outcome | null {
    switch (why) {
      case 'timeout':
        return { kind: 'failed', error: message }
      case 'run_over':
        return { kind: 'failed', error: message, retryAt: now() }
      case 'lease_lost':
        return null
      default:
        return why satisfies never
    }
  }

  async function end(
    claim: Claim,
    outcome: Outcome | null,
  ): Promise<{ ending: Ending; result?: string; error?: string }> {
    if (outcome === null) return { ending: 'lost' }
    try {
      switch (outcome.kind) {
        case 'ended': {
          const { as: ending = 'completed', result } = outcome
          return { ending, ...(result === undefined ? {} : { result }) }
        }
        case 'completed':
          await database('complete_job', { ...claim })
          return { ending: 'completed' }
        case 'failed': {
          const error = maskPhoneNumbers(outcome.error)
          await database('fail_job', {
            ...claim,
            error,
            retry_at: outcome.retryAt?.toISOString() ?? null,
            is_permanent: outcome.permanent ?? false,
          })
          return { ending: 'failed', error }
        }
        case 'postponed':
          await database('postpone_job', {
            ...claim,
            run_at: outcome.runAt.toISOString(),
            reason: maskPhoneNumbers(outcome.reason),
          })
          return { ending: 'postponed', result: outcome.reason }
        default:
          return outcome satisfies never
      }
    } catch (error) {
      if (isLeaseLost(error)) return { ending: 'lost' }
      // Its lease ends by itself, and then somebody takes it over.
      return { ending: 'lost', error: `${outcome.kind} could not be told: ${reasonOf(error)}` }
    }
  }

  async function extendLeases(): Promise<void> {
    const entries = [...running].filter(({ isEnding }) => !isEnding)
    if (entries.length === 0) return
    try {
      const answer = await rpc('extend_leases', {
        jobs: entries.map(({ claim }) => claim),
        lease: asInterval(leaseMs),
      })
      const held = new Set(
        stillHeld.parse(answer ?? []).map(({ organization_id, id }) => `${organization_id}/${id}`),
      )
      for (const { claim, controller, isEnding } of entries) {
        if (!isEnding && !held.has(`${claim.organization_id}/${claim.id}`)) {
          controller.abort(new Interruption('lease_lost', 'lease_lost: somebody else has this job'))
        }
      }
    } catch (error) {
      // The next beat comes before the lease ends.
      log('warn', 'leases not extended', { worker, error: reasonOf(error) })
    }
  }

  /** Waits for what runs; breaks it off when the run has to end. */
  async function endOfRunning(): Promise<void> {
    const left = () => Math.min(budgetMs * RUNNING_PART, stopAt) - elapsed()
    while (running.size > 0 && left() > 0) await bell.heard(left())
    for (const { controller } of running) {
      controller.abort(new Interruption('run_over', 'run_over: the run ended before the job did'))
    }
    // Each of them has its grace, and then the time that the database takes.
    while (running.size > 0) await bell.heard(graceMs)
  }
}

function interruptionOf(signal: AbortSignal): Interruption | null {
  return signal.reason instanceof Interruption ? signal.reason : null
}

function asInterval(milliseconds: number): string {
  return `${milliseconds} milliseconds`
}

/** Rung at any time, heard once: a ring that nobody waits for is not lost. */
function createBell() {
  let rung = false
  let wake: (() => void) | null = null
  return {
    ring(): void {
      rung = true
      wake?.()
    },
    reset(): void {
      rung = false
    },
    hasRung: () => rung,
    /** Returns at a ring, or after so many milliseconds. */
    async heard(milliseconds: number): Promise<void> {
      if (!rung && milliseconds > 0) {
        const { promise, resolve } = Promise.withResolvers<void>()
        const timer = setTimeout(resolve, milliseconds)
        wake = resolve
        await promise
        wake = null
        clearTimeout(timer)
      }
      rung = false
    },
  }
}
