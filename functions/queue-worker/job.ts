// What a job is, and what a handler of one kind of job has to offer. The registry of all kinds is jobs.ts.
import type { z } from 'zod'
import type { Log } from '../_shared/log.ts'
import { RpcError } from '../_shared/rpc.ts'

/** A row of the queue, as far as a worker needs it. */
export interface Job<Payload = unknown> {
  organization_id: string
  id: string
  job_type: string
  fencing_token: number
  /** This one included. */
  attempts: number
  max_attempts: number
  created_at: string
  payload: Payload
}

export type Attempted = Pick<Job, 'attempts' | 'created_at'>

/** What proves to the database that one still holds a job. */
export interface Claim {
  organization_id: string
  id: string
  fencing_token: number
}

export function claimOf({ organization_id, id, fencing_token }: Job): Claim {
  return { organization_id, id, fencing_token }
}

export type Outcome =
  /** A begin_… or finish_… function has ended the job in its own transaction; `as` and `result` are for the log. */
  | { kind: 'ended'; as?: 'completed' | 'failed' | 'postponed'; result?: string }
  | { kind: 'completed' }
  /** Without `retryAt` the database's own backoff decides. */
  | { kind: 'failed'; error: string; retryAt?: Date; permanent?: boolean }
  /** Later, and this attempt does not count. */
  | { kind: 'postponed'; runAt: Date; reason: string }

export interface Context {
  /** Aborted when the time of the job is up, its lease is lost or the run ends. Who goes on after that is not heard. */
  signal: AbortSignal
  now: () => Date
  log: Log
}

/** What a handler throws becomes a failure that is tried again. */
export interface JobType<Schema extends z.ZodType = z.ZodType> {
  schema: Schema
  timeoutMs: number
  /**
   * It waits for strangers, and does no harm when it is repeated. Such jobs get half of a run's slots, so that what
   * customers wait for finds one, and a run that is stopped breaks them off at once.
   */
  slow?: boolean
  /**
   * When a job is tried again whose handler threw or took too long; null: it is given up. By default the database
   * decides, with a backoff of its own.
   */
  nextTry?: (job: Attempted, failedAt: Date) => Date | null
  handle(job: Job<z.output<Schema>>, context: Context): Promise<Outcome>
}

/** Somebody else has the job by now, or has ended it. */
export function isLeaseLost(error: unknown): boolean {
  return error instanceof RpcError && error.code === 'BL301'
}
