// Refreshing the views: how long it takes, and for how long others wait for it to be over. Nobody waits for a lock: what
// waits is whoever must not pass by a transaction that is still open.

import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import { z } from 'zod'
import type { Stack } from '../../local/stack.ts'
import { median } from '../figures.ts'

export const VIEWS = [
  'dashboard_metrics',
  'conversation_analytics',
  'consultant_metrics',
  'service_analytics',
  'clinic_metrics_daily',
  'daily_lead_stats',
]
const SAMPLE_MS = 20

export interface Refresh {
  view: string
  rows: number
  /** Milliseconds: the one that writes all rows, and the median of those that find hardly anything changed. */
  first: number
  again: number
  /** How far behind those fall that read up to the oldest open transaction, and vacuum; at most, in milliseconds. */
  eventsWait: number
  vacuumWaits: number
}

const answer = z.object({ refreshed: z.literal(true), row_count: z.coerce.number(), error: z.null().optional() })

/** As the schedules do it: as postgres, one after the other. */
export async function refreshTimes(stack: Stack, times: number, interrupted: AbortSignal): Promise<Refresh[]> {
  const sql = postgres(stack.urls.database, { max: 1, onnotice: () => undefined })
  try {
    const refresh = async (view: string) => {
      interrupted.throwIfAborted()
      const started = performance.now()
      const [row] = await sql<{ answer: unknown }[]>`select private.refresh_analytics_view(${view}) as answer`
      const { row_count } = answer.parse(row?.answer)
      return { rows: row_count, milliseconds: performance.now() - started }
    }
    const refreshes: Refresh[] = []
    for (const view of VIEWS) {
      const { milliseconds: first } = await refresh(view)
      // What autovacuum brings within a minute.
      await sql.unsafe(`analyze analytics.${view}`)
      const horizon = await watchHorizon(stack)
      const again: Awaited<ReturnType<typeof refresh>>[] = []
      try {
        for (let n = 0; n < times; n++) again.push(await refresh(view))
      } finally {
        await horizon.stop()
      }
      refreshes.push({
        view,
        rows: again[0]?.rows ?? NaN,
        first,
        again: median(again.map(({ milliseconds }) => milliseconds)),
        ...horizon.lags,
      })
    }
    return refreshes
  } finally {
    await sql.end({ timeout: 1 })
  }
}

/** All views, over and over, while something else is done; broken off when that is over. */
export async function refreshing<T>(stack: Stack, work: () => Promise<T>): Promise<T> {
  const sql = postgres(stack.urls.database, { max: 1, onnotice: () => undefined })
  const admin = postgres(stack.urls.admin, { max: 1, onnotice: () => undefined })
  let isOver = false
  try {
    const [{ pid } = { pid: 0 }] = await sql<{ pid: number }[]>`select pg_backend_pid() as pid`
    const loop = (async () => {
      for (let n = 0; !isOver; n++) {
        await sql`select private.refresh_analytics_view(${VIEWS[n % VIEWS.length] ?? ''})`
      }
    })()
    // Until it is under way.
    await sleep(50)
    try {
      return await work()
    } finally {
      isOver = true
      await admin`select pg_cancel_backend(${pid})`
      // A cancelled refresh answers with its error, or is none any more.
      await loop.catch(() => undefined)
    }
  } finally {
    await Promise.all([sql.end({ timeout: 1 }), admin.end({ timeout: 1 })])
  }
}

/**
 * Takes a transaction id every 20 ms, and asks which one is the oldest that is still open: the lag is the time since that
 * one was the newest.
 */
async function watchHorizon(stack: Stack) {
  const sql = postgres(stack.urls.admin, { max: 1, onnotice: () => undefined })
  const ids: { id: number; at: number }[] = []
  const lags = { eventsWait: 0, vacuumWaits: 0 }
  let isOver = false
  const sample = async () => {
    const [row] = await sql<{ id: string; oldest: string; vacuum: string | null }[]>`
      select pg_current_xact_id()::text as id, pg_snapshot_xmin(pg_current_snapshot())::text as oldest,
        (select min(a.backend_xmin::text::bigint)::text from pg_stat_activity a where a.pid <> pg_backend_pid()) as vacuum`
    if (row === undefined) throw new Error('Postgres took no transaction id.')
    const at = performance.now()
    ids.push({ id: Number(row.id), at })
    const since = (oldest: number) => at - (ids.findLast(({ id }) => id <= oldest)?.at ?? ids[0]?.at ?? at)
    lags.eventsWait = Math.max(lags.eventsWait, since(Number(row.oldest)))
    if (row.vacuum !== null) lags.vacuumWaits = Math.max(lags.vacuumWaits, since(Number(row.vacuum)))
  }
  await sample()
  const loop = (async () => {
    while (!isOver) {
      await sample()
      await sleep(SAMPLE_MS)
    }
  })()
  return {
    lags,
    stop: async () => {
      isOver = true
      await loop.finally(() => sql.end({ timeout: 1 }))
    },
  }
}
