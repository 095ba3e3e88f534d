// A worker of the queue as a process of its own, which a test can kill at any moment.
//
// It knows two types of job. A "counted" job has its effect in the transaction that completes it: the effect is the
// line "completed" in proof.log, which nothing but the queue keeps from being written twice. A "noted" job has its
// effect first, in a transaction of its own and so perhaps more than once, and is completed later: its effect, a row
// of proof.notes, allows that.

import { setTimeout as sleep } from 'node:timers/promises'
import type postgres from 'postgres'
import { type Assignment, codeOf, type Complaint, isConnectionLost, surviving } from './queue-proof.ts'
import { seeded } from './seeded.ts'

interface Job {
  organization_id: string
  id: string
  job_type: string
  fails: number
  attempts: number
  fencing_token: string
}

async function work(sql: postgres.Sql, assignment: Assignment): Promise<void> {
  const { name, batchSize, leaseMs } = assignment
  const lease = `${leaseMs} milliseconds`
  while (!stopped.signal.aborted) {
    try {
      const jobs = await claim()
      const last = jobs.at(-1)
      if (last === undefined) {
        await sleep(20 + random(60))
        continue
      }
      after = last.organization_id
      await perform(jobs)
    } catch (error) {
      // What it had claimed is free again when the lease expires.
      if (isConnectionLost(error)) throw error
      process.send?.({ who: name, code: codeOf(error), message: String(error) } satisfies Complaint)
    }
  }

  async function claim(): Promise<Job[]> {
    return await sql<Job[]>`
      with claimed as (
        select * from public.claim_jobs(${name}, ${batchSize}, null, ${lease}::interval, ${after})
      ), logged as (
        insert into proof.log (kind, organization_id, job_id, fencing_token, lease_expires_at, worker)
        select 'claimed', c.organization_id, c.id, c.fencing_token, c.lease_expires_at, ${name} from claimed c
      )
      select c.organization_id, c.id, c.job_type, (c.payload ->> 'fails')::int as fails, c.attempts, c.fencing_token
      from claimed c`
  }

  async function perform(jobs: Job[]): Promise<void> {
    const isLate = random(assignment.oversleepsOneIn) === 0
    if (isLate) await sleep(leaseMs + 300 + random(1200))
    const beat = setInterval(() => void heartbeat(jobs).catch(() => undefined), leaseMs / 3)
    try {
      const failing = jobs.filter(({ attempts, fails }) => attempts <= fails)
      const good = jobs.filter(({ attempts, fails }) => attempts > fails)
      const counted = good.filter(({ job_type }) => job_type === 'counted')
      if (assignment.completes === 'batches') await completeAll(counted, isLate)
      else for (const job of counted) await completeOne(job, isLate)
      await complete(good.filter(({ job_type }) => job_type === 'noted'), isLate)
      await fail(failing, isLate)
    } finally {
      clearInterval(beat)
    }
  }

  async function heartbeat(jobs: Job[]): Promise<void> {
    await sql`
      with held as (select * from public.extend_leases(${proofOf(jobs)}::text::jsonb, ${lease}::interval))
      insert into proof.log (kind, organization_id, job_id, fencing_token, lease_expires_at, worker)
      select 'extended', h.organization_id, h.id, j.fencing_token, now() + ${lease}::interval, ${name}
      from held h
      join jsonb_to_recordset(${proofOf(jobs)}::text::jsonb) as j (id uuid, fencing_token bigint) using (id)`
  }

  /** The effect, then the end of the job; together or not at all. */
  async function completeOne(job: Job, isLate: boolean): Promise<void> {
    try {
      await sql.begin(async (sql) => {
        await sql`
          insert into proof.log (kind, organization_id, job_id, fencing_token, is_late, worker)
          values ('completed', ${job.organization_id}, ${job.id}, ${job.fencing_token}, ${isLate}, ${name})`
        await sql`select from public.complete_job(${job.organization_id}, ${job.id}, ${job.fencing_token})`
      })
    } catch (error) {
      if (codeOf(error) !== 'BL301') throw error
      await sql`
        insert into proof.log (kind, organization_id, job_id, fencing_token, is_late, worker)
        values ('refused', ${job.organization_id}, ${job.id}, ${job.fencing_token}, ${isLate}, ${name})`
    }
  }

  /** The effects of those that are still ours, in the statement that ends them. */
  async function completeAll(jobs: Job[], isLate: boolean): Promise<void> {
    if (jobs.length === 0) return
    await sql`
      with ended as (select * from public.complete_jobs(${proofOf(jobs)}::text::jsonb))
      insert into proof.log (kind, organization_id, job_id, fencing_token, is_late, worker)
      select case when e.id is null then 'refused' else 'completed' end, j.organization_id, j.id, j.fencing_token,
        ${isLate}, ${name}
      from jsonb_to_recordset(${proofOf(jobs)}::text::jsonb) as j (organization_id uuid, id uuid, fencing_token bigint)
      left join ended e on e.id = j.id`
  }

  async function complete(jobs: Job[], isLate: boolean): Promise<void> {
    if (jobs.length === 0) return
    await sql`
      insert into proof.notes (job_id)
      select j.id from jsonb_to_recordset(${proofOf(jobs)}::text::jsonb) as j (id uuid) order by j.id
      on conflict do nothing`
    await completeAll(jobs, isLate)
  }

  async function fail(jobs: Job[], isLate: boolean): Promise<void> {
    if (jobs.length === 0) return
    const failures = JSON.stringify(jobs.map((job) => ({
      ...held(job),
      error: 'not_yet: fails at first',
      retry_at: new Date(Date.now() + random(300)),
    })))
    await sql`
      with ended as (select * from public.fail_jobs(${failures}::text::jsonb))
      insert into proof.log (kind, organization_id, job_id, fencing_token, is_late, worker)
      select case when e.id is null then 'refused' else 'failed' end, j.organization_id, j.id, j.fencing_token,
        ${isLate}, ${name}
      from jsonb_to_recordset(${failures}::text::jsonb) as j (organization_id uuid, id uuid, fencing_token bigint)
      left join ended e on e.id = j.id`
  }
}

function held({ organization_id, id, fencing_token }: Job) {
  return { organization_id, id, fencing_token }
}

function proofOf(jobs: Job[]): string {
  return JSON.stringify(jobs.map(held))
}

const stopped = new AbortController()
let random = seeded(0)
let after: string | null = null

// Without the test there is nothing to work for.
process.on('disconnect', () => stopped.abort())
process.once('message', (assignment: Assignment) => {
  random = seeded(assignment.seed)
  // One connection for the work, one for the heartbeats.
  const options = { max: 2, role: 'service_role' }
  void surviving(assignment.databaseUrl, options, (sql) => work(sql, assignment))
})
