// Graphile Worker through its runner, with a task that does nothing. Version 0.16 claims and completes one job at a
// time, in a statement each; how many at once is its `concurrency`.

import { EventEmitter } from 'node:events'
import { Logger, run, runMigrations, type WorkerEvents } from 'graphile-worker'
import postgres from 'postgres'
import { type Contender, KEYS } from './contender.ts'

export async function graphileWorker(databaseUrl: string): Promise<Contender> {
  const logger = new Logger(() => () => undefined)
  await runMigrations({ connectionString: databaseUrl, logger })
  const sql = postgres(databaseUrl, { max: 1, onnotice: () => undefined })
  return {
    name: 'Graphile Worker',
    databaseUrl,
    fill: async (count, isKeyed) => {
      await sql`
        select count(*)
        from graphile_worker.add_jobs(array(
          select row(
            'nothing', '{}'::json, case when ${isKeyed}::boolean then 'key-' || n % ${KEYS}::int end,
            null, null, null, null, null)::graphile_worker.job_spec
          from generate_series(1, ${count}::int) n
        ))`
    },
    clear: async () => {
      await sql`truncate graphile_worker._private_jobs, graphile_worker._private_job_queues`
    },
    vacuum: async () => {
      await sql`vacuum (analyze) graphile_worker._private_jobs`
      await sql`vacuum (analyze) graphile_worker._private_job_queues`
    },
    consume: async ({ atOnce }, stop, completed) => {
      const events: WorkerEvents = new EventEmitter()
      events.on('job:complete', () => completed(1))
      const runner = await run({
        connectionString: databaseUrl,
        maxPoolSize: atOnce + 2,
        concurrency: atOnce,
        // How soon a worker looks again that found every key taken.
        pollInterval: 20,
        noHandleSignals: true,
        taskList: { nothing: () => undefined },
        logger,
        events,
      })
      if (!stop.aborted) await new Promise((resolve) => stop.addEventListener('abort', resolve))
      await runner.stop()
    },
    close: () => sql.end({ timeout: 1 }),
  }
}
