// pg-boss by fetch() and complete(), whose batches are any size. Its maintenance is off; keys are those of a queue of
// the policy "singleton": of each key one job is active at a time.

import PgBoss from 'pg-boss'
import postgres from 'postgres'
import { type Contender, KEYS, MOST_AT_ONCE } from './contender.ts'

const [PLAIN, KEYED] = ['nothing', 'nothing_keyed']
/** A batch of the same moment has no order of its own: one job of each key. */
const CHUNK = KEYS

export async function pgBoss(databaseUrl: string): Promise<Contender> {
  const boss = new PgBoss({ connectionString: databaseUrl, max: MOST_AT_ONCE, schedule: false, supervise: false })
  boss.on('error', () => undefined)
  await boss.start()
  await boss.createQueue(PLAIN)
  await boss.createQueue(KEYED, { name: KEYED, policy: 'singleton' })
  const sql = postgres(databaseUrl, { max: 1, onnotice: () => undefined })
  return {
    name: 'pg-boss',
    databaseUrl,
    fill: async (count, isKeyed) => {
      for (let from = 0; from < count; from += CHUNK) {
        await boss.insert(Array.from({ length: Math.min(CHUNK, count - from) }, (_, index) => ({
          name: isKeyed ? KEYED : PLAIN,
          data: {},
          ...(isKeyed ? { singletonKey: `key-${index % KEYS}` } : {}),
        })))
      }
    },
    clear: () => boss.clearStorage(),
    vacuum: async () => void (await sql`vacuum (analyze)`),
    consume: async ({ batch, isKeyed, atOnce }, stop, completed) => {
      const queue = isKeyed ? KEYED : PLAIN
      await Promise.all(Array.from({ length: atOnce }, async () => {
        while (!stop.aborted) {
          const jobs = await boss.fetch(queue, { batchSize: batch })
          if (jobs.length === 0) continue
          await boss.complete(queue, jobs.map(({ id }) => id))
          completed(jobs.length)
        }
      }))
    },
    close: async () => {
      await sql.end({ timeout: 1 })
      await boss.stop({ graceful: false, wait: true })
    },
  }
}
