// Ours: claim_jobs() and complete_jobs(), as the secret key may call them; over a direct connection.

import { randomUUID } from 'node:crypto'
import postgres from 'postgres'
import { type Contender, KEYS, MOST_AT_ONCE } from './contender.ts'

interface Claimed {
  organization_id: string
  id: string
  fencing_token: string
}

const CHUNK = 20_000

export async function balcao(admin: postgres.Sql, databaseUrl: string, tenants: number): Promise<Contender> {
  const organizations = Array.from({ length: tenants }, () => randomUUID())
  await admin`
    insert into public.organizations (id, name, slug, vertical)
    select id, 'Clínica', 'c-' || id, 'clinic' from unnest(${organizations}::uuid[]) id`
  const sql = postgres(databaseUrl, {
    max: MOST_AT_ONCE,
    connection: { role: 'service_role' },
    onnotice: () => undefined,
  })
  return {
    name: 'Balcão',
    databaseUrl,
    // Tenants and keys in turn.
    fill: async (count, isKeyed) => {
      for (let from = 0; from < count; from += CHUNK) {
        await admin`
          select count(*)
          from private.enqueue_jobs(array(
            select row(
              (${organizations}::uuid[])[1 + n % ${tenants}::int], 'nothing', '{}', 0, null,
              case when ${isKeyed}::boolean then 'key-' || n % ${KEYS}::int end, null, 8)::private.new_job
            from generate_series(${from}::int, ${Math.min(from + CHUNK, count) - 1}::int) n
          ))`
      }
    },
    clear: async () => void (await admin`truncate public.message_queue cascade`),
    vacuum: async () => void (await admin`vacuum (analyze) public.message_queue`),
    consume: async ({ batch, atOnce }, stop, completed) => {
      await Promise.all(Array.from({ length: atOnce }, async (_, worker) => {
        let after: string | null = null
        while (!stop.aborted) {
          const jobs: Claimed[] = await sql<Claimed[]>`
            select organization_id, id, fencing_token
            from public.claim_jobs(${`bench-${worker}`}, ${batch}, null, '60 seconds', ${after})`
          after = jobs.at(-1)?.organization_id ?? null
          if (jobs.length === 0) continue
          completed((await sql`select id from public.complete_jobs(${JSON.stringify(jobs)}::text::jsonb)`).length)
        }
      }))
    },
    close: () => sql.end({ timeout: 1 }),
  }
}
