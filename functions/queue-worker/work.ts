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
  /** How long what has begun may go on once the run is stopped. */
  stopMs: number
}

export interface Dependencies {
  rpc: Rpc
  jobTypes: ReadonlyMap<string, JobType>
  settings: Settings
  log: Log
  /** All slots that some jobs may have are held by such as take their time, and more may be due: another run is wanted. */
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
  /** Looks into the queue again, if it has room; answers whether it will, for jobs of every kind. */
  nudge(): boolean
  /** Claims no more, breaks off what can be repeated, and the rest after a moment. */
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
  isSlow: boolean
  /** Its outcome is being told to the database: what the heartbeat hears of it from now on says nothing. */
  isEnding: boolean
}

const RETRY_PAUSES = [200, 1000, 3000]
// While something runs, new work shall not wait for its end.
const POLL_MS = 500
// A job that lasts longer than this waits for somebody else, a receiver that does not answer for instance.
const FULL_MS = 300
// Of a stopped run: for a job to end that was broken off, and then once more for the database to hear of it.
const STOP_GRACE_MS = 500
// Parts of the budget: until when jobs are claimed, and when those are broken off that still run. At its end nobody waits
// for the database any more.
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
  const { slots, budgetMs, maxJobs, leaseMs, stopMs } = settings
  const worker = `queue-worker/${crypto.randomUUID()}`
  const startedAt = performance.now()
  const elapsed = () => performance.now() - startedAt
  const claimUntil = budgetMs * CLAIMING_PART
  const graceMs = budgetMs * (1 - RUNNING_PART) / 2
  const database = patientRpc(rpc, { pauses: RETRY_PAUSES, pause })

  // Half of the slots are kept for jobs that wait for nobody, if there are any.
  const kinds = chosenTypes ?? [...jobTypes.keys()]
  const quickKinds = kinds.filter((name) => jobTypes.get(name)?.slow !== true)
  const slowSlots = quickKinds.length === kinds.length || quickKinds.length === 0
    ? slots
    : Math.max(1, Math.floor(slots / 2))

  const running = new Set<RunningJob>()
  const counts = { claimed: 0, completed: 0, failed: 0, postponed: 0, lost: 0 }
  const bell = createBell()
  const claiming = new AbortController()
  const over = new AbortController()
  const timers: ReturnType<typeof setTimeout>[] = []
  let isClaiming = true
  let isStopping = false
  let lastOrganization: string | null = null
  // Since when there is no slot, or none for slow jobs; Infinity: there is one of each.
  let heldSince = Infinity
  let hasAsked = false

  at(budgetMs * RUNNING_PART, breakOff)
  at(budgetMs, () => over.abort())
  const finished = run()
  // Whoever waits for it hears of a failure; it is not an unhandled one if nobody does.
  finished.catch(() => undefined)

  return {
    isClaiming: () => isClaiming && mayBegin(),
    nudge() {
      if (!isClaiming || !mayBegin() || running.size >= slots) return false
      bell.ring()
      return !isHeld()
    },
    stop() {
      if (isStopping || over.signal.aborted) return
      isStopping = true
      for (const { isSlow, controller } of running) if (isSlow) controller.abort(runOver())
      at(stopMs, breakOff)
      at(stopMs + 2 * STOP_GRACE_MS, () => over.abort())
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
    // Each of them ends by itself, or is broken off.
    while (running.size > 0) await bell.heard(POLL_MS)
    clearInterval(heartbeat)
    over.abort()
    for (const timer of timers) clearTimeout(timer)

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
    while (mayBegin() && counts.claimed < maxJobs) {
      askForAnotherRun()
      const share = claimable()
      if (share === null) {
        await heard(Infinity)
        continue
      }
      // What rings from here on may have made more work than the claim sees.
      bell.reset()
      const jobs = await claim(share)
      if (!mayBegin()) {
        await Promise.all(jobs.map(giveBack))
        return false
      }
      for (const job of jobs) start(job)
      if (jobs.length > 0 || bell.hasRung()) continue
      if (running.size === 0) return true
      await heard(POLL_MS)
    }
    return false
  }

  function mayBegin(): boolean {
    return !isStopping && elapsed() < claimUntil
  }

  /** How many jobs there is room for now, and of which kinds; null: for none. */
  function claimable(): { room: number; types: readonly string[] | null } | null {
    const room = Math.min(slots - running.size, maxJobs - counts.claimed)
    if (room <= 0) return null
    const slowRoom = slowSlots - slowJobs()
    // To leave kinds out costs the database more than to take what comes.
    return slowRoom > 0 ? { room: Math.min(room, slowRoom), types: chosenTypes } : { room, types: quickKinds }
  }

  function slowJobs(): number {
    return [...running].filter(({ isSlow }) => isSlow).length
  }

  function isHeld(): boolean {
    return running.size >= slots || slowJobs() >= slowSlots
  }

  /** Once while they are held: whoever enqueues after that wakes another run himself. */
  function askForAnotherRun(): void {
    if (hasAsked || elapsed() < heldSince + FULL_MS) return
    hasAsked = true
    onFull?.()
  }

  /** Waits for a ring, but not beyond the moment at which there is something to do. */
  async function heard(longest: number): Promise<void> {
    const untilAsking = hasAsked ? Infinity : heldSince + FULL_MS - elapsed()
    await bell.heard(Math.min(longest, claimUntil - elapsed(), untilAsking))
  }

  async function claim({ room, types }: { room: number; types: readonly string[] | null }): Promise<Job[]> {
    const answer = await database('claim_jobs', {
      worker,
      batch_size: room,
      job_types: types,
      lease: asInterval(leaseMs),
      after: lastOrganization,
    }, { signal: claiming.signal })
    const jobs = jobRows.parse(answer ?? [])
    lastOrganization = jobs.at(-1)?.organization_id ?? lastOrganization
    counts.claimed += jobs.length
    return jobs
  }

  function start(job: Job): void {
    const entry: RunningJob = {
      claim: claimOf(job),
      controller: new AbortController(),
      isSlow: jobTypes.get(job.job_type)?.slow ?? false,
      isEnding: false,
    }
    running.add(entry)
    if (isHeld()) heldSince = Math.min(heldSince, elapsed())
    void runAndEnd(job, entry).then((ending) => {
      counts[ending] += 1
      running.delete(entry)
      if (!isHeld()) {
        heldSince = Infinity
        hasAsked = false
      }
      bell.ring()
    })
  }

  /** Of a job that came too late to begin: this was no attempt. */
  async function giveBack(job: Job): Promise<void> {
    const outcome: Outcome = { kind: 'postponed', runAt: now(), reason: 'run_over' }
    counts[await endAndLog(job, outcome, performance.now())] += 1
  }

  function at(milliseconds: number, action: () => void): void {
    timers.push(setTimeout(action, milliseconds))
  }

  function breakOff(): void {
    claiming.abort()
    for (const { controller } of running) controller.abort(runOver())
  }

  /** Never throws. */
  async function runAndEnd(job: Job, entry: RunningJob): Promise<Ending> {
    const startedAt = performance.now()
    const outcome = await runOne(job, entry)
    entry.isEnding = true
    return await endAndLog(job, outcome, startedAt)
  }

  async function endAndLog(job: Job, outcome: Outcome | null, startedAt: number): Promise<Ending> {
    const { ending, ...told } = await end(claimOf(job), outcome)
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
      return interruption === null ? failed(job, type, reasonOf(error)) : brokenOff(job, type, interruption)
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
      const patience = isStopping ? Math.min(STOP_GRACE_MS, graceMs) : graceMs
      grace = setTimeout(() => reject(controller.signal.reason), patience)
    }, { once: true })
    return {
      gone,
      over: () => {
        clearTimeout(timeout)
        clearTimeout(grace)
      },
    }
  }

  function failed(job: Job, { nextTry }: JobType, error: string): Outcome {
    if (nextTry === undefined) return { kind: 'failed', error }
    const retryAt = nextTry(job, now())
    return retryAt === null ? { kind: 'failed', error, permanent: true } : { kind: 'failed', error, retryAt }
  }

  function brokenOff(job: Job, type: JobType, { why, message }: Interruption): Outcome | null {
    switch (why) {
      case 'timeout':
        return failed(job, type, message)
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
    const { signal } = over
    try {
      switch (outcome.kind) {
        case 'ended': {
          const { as: ending = 'completed', result } = outcome
          return { ending, ...(result === undefined ? {} : { result }) }
        }
        case 'completed':
          await database('complete_job', { ...claim }, { signal })
          return { ending: 'completed' }
        case 'failed': {
          const error = maskPhoneNumbers(outcome.error)
          await database('fail_job', {
            ...claim,
            error,
            retry_at: outcome.retryAt?.toISOString() ?? null,
            is_permanent: outcome.permanent ?? false,
          }, { signal })
          return { ending: 'failed', error }
        }
        case 'postponed':
          await database('postpone_job', {
            ...claim,
            run_at: outcome.runAt.toISOString(),
            reason: maskPhoneNumbers(outcome.reason),
          }, { signal })
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
      }, { signal: over.signal })
      const held = new Set(
        stillHeld.parse(answer ?? []).map(({ organization_id, id }) => `${organization_id}/${id}`),
      )
      for (const { claim, controller, isEnding } of entries) {
        if (!isEnding && !held.has(`${claim.organization_id}/${claim.id}`)) {
          controller.abort(new Interruption('lease_lost', 'lease_lost: somebody else has this job'))
        }
      }
    } catch (error) {
      if (over.signal.aborted) return
      // The next beat comes before the lease ends.
      log('warn', 'leases not extended', { worker, error: reasonOf(error) })
    }
  }
}

function runOver(): Interruption {
  return new Interruption('run_over', 'run_over: the run ended before the job did')
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
