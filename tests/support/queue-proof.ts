// What a test of the queue and its worker processes share: the assignment, the log, the connection.
//
// Every claim, heartbeat and end is logged in the transaction that it is in, so that the log tells what happened even
// where the process, the connection or Postgres died before anybody heard of it.

import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'

export interface Assignment {
  databaseUrl: string
  name: string
  seed: number
  batchSize: number
  /** Counted jobs are completed one by one, or all those of a batch in one statement. */
  completes: 'one by one' | 'batches'
  leaseMs: number
  /** Of so many batches one is slept over until long after its lease, without a heartbeat, and then acknowledged. */
  oversleepsOneIn: number
}

export interface NewJob {
  organization_id: string
  job_type: 'counted' | 'noted'
  payload: { fails: number }
  priority: number
  ordering_key: string | null
  idempotency_key: string
  max_attempts: number
}

export interface Order {
  databaseUrl: string
  seed: number
  jobs: NewJob[]
}

/** What the test hears of: an error that is none of the connection's. */
export interface Complaint {
  who: string
  code: string
  message: string
}

/** The tables of the proof, made once. `seq` is common to both: it tells the order of what happened. */
export const PROOF_SCHEMA = `
  create schema proof;
  create sequence proof.seq;
  create table proof.log (
    seq bigint not null default nextval('proof.seq'),
    kind text not null check (kind in ('claimed', 'extended', 'completed', 'failed', 'refused')),
    organization_id uuid not null,
    job_id uuid not null,
    fencing_token bigint not null,
    -- When it happened, not when its transaction began: a claim that had to wait takes what became free meanwhile.
    at timestamptz not null default clock_timestamp(),
    lease_expires_at timestamptz,
    is_late boolean not null default false,
    worker text not null
  );
  create table proof.notes (job_id uuid primary key, seq bigint not null default nextval('proof.seq'));
  grant usage on schema proof to service_role;
  grant select, insert on all tables in schema proof to service_role;
  grant usage on sequence proof.seq to service_role;
`

/** Whether this error only says that the connection, or the server, is gone for a moment. */
export function isConnectionLost(error: unknown): boolean {
  const code = codeOf(error)
  return code.startsWith('CONNECTION') || code === 'CONNECT_TIMEOUT' || /^(08|57P0)/.test(code) ||
    ['ECONNREFUSED', 'ECONNRESET', 'EPIPE'].includes(code)
}

export function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : ''
}

/** The whole life of a process, with a new client after each loss of the connection. */
export async function surviving(
  databaseUrl: string,
  options: { max: number; role: string },
  live: (sql: postgres.Sql) => Promise<void>,
): Promise<void> {
  for (;;) {
    // A client of postgres.js that lost its server while it wrote may never write again (porsager/postgres#1208).
    const sql = postgres(databaseUrl, {
      max: options.max,
      connection: { role: options.role },
      connect_timeout: 5,
      onnotice: () => undefined,
    })
    try {
      return await live(sql)
    } catch (error) {
      if (!isConnectionLost(error)) throw error
      await sleep(50)
    } finally {
      sql.end({ timeout: 0 }).catch(() => undefined)
    }
  }
}
