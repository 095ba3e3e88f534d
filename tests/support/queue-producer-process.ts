// A producer as a process of its own: enqueues its jobs in batches, each in one transaction as ingestion does, and some
// of them again. It can be killed at any moment and started over with the same jobs.

import type postgres from 'postgres'
import { codeOf, type Complaint, type NewJob, type Order, surviving } from './queue-proof.ts'
import { seeded } from './seeded.ts'

async function enqueue(sql: postgres.Sql, batch: NewJob[]): Promise<void> {
  await sql`
    select from private.enqueue_jobs(array(
      select j from jsonb_populate_recordset(null::private.new_job, ${JSON.stringify(batch)}::text::jsonb) j
    ))`
}

async function produce({ databaseUrl, seed, jobs }: Order): Promise<void> {
  const random = seeded(seed)
  let enqueued = 0
  await surviving(databaseUrl, { max: 1, role: 'postgres' }, async (sql) => {
    while (enqueued < jobs.length) {
      const batch = jobs.slice(enqueued, enqueued + 1 + random(40))
      await enqueue(sql, batch)
      enqueued += batch.length
      // What was just enqueued, and may be running, once more.
      if (random(4) === 0) await enqueue(sql, batch.slice(random(batch.length)))
    }
  })
}

process.once('disconnect', () => process.exit())
process.once('message', (order: Order) =>
  void produce(order).then(
    () => process.exit(0),
    (error: unknown) => {
      process.send?.({ who: 'producer', code: codeOf(error), message: String(error) } satisfies Complaint)
      process.disconnect()
    },
  ))
