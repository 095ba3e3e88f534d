// The dashboard of an owner, by the page's own code: what it asks, one after the other as Postgres counts it, and all at
// once as somebody waits for it.

import { createClient } from '@supabase/supabase-js'
import type { Stack } from '../../local/stack.ts'
import { readDashboard } from '../../local/dashboard/page/data.js'
import type { Database } from '../../types/index.ts'
import { type Api, headersOf, member, type Times } from '../booking/api.ts'
import { type Waits, waitsOf } from '../figures.ts'
import type { House } from './data.ts'

const DAYS = 28

export interface Page {
  queries: Times[]
  load: Waits
}

export async function measurePage(
  stack: Stack,
  api: Api,
  some: (n: number) => House,
  { rounds, calls, pages }: { rounds: number; calls: number; pages: number },
): Promise<Page> {
  const asked = await questionsOf(stack, some(0))
  const queries = await api.compare(
    asked.map((path) => ({
      name: `the page: ${path.split('?')[0]}`,
      // The same questions of each house: its id is all that differs, and the day, by its time zone.
      ask: (n) => ({ as: member(some(n)), path: path.replaceAll(some(0).organizationId, some(n).organizationId) }),
    })),
    rounds,
    calls,
  )
  const waits: number[] = []
  for (let n = -5; n < pages; n++) {
    api.interrupted.throwIfAborted()
    const house = some(n + 5)
    const started = performance.now()
    const { metrics } = await readDashboard(clientOf(stack, house), { id: house.organizationId, timezone: house.timezone }, DAYS, new Date())
    if (metrics === null) throw new Error('An organization has no figures.')
    if (n >= 0) waits.push(performance.now() - started)
  }
  return { queries, load: waitsOf(waits) }
}

function clientOf(stack: Stack, house: House, send: typeof fetch = fetch) {
  return createClient<Database>(stack.urls.api, stack.keys.publishable, {
    auth: { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false },
    global: { headers: headersOf(stack, member(house)), fetch: send },
  })
}

/** The paths, under /rest/v1, of what the page asks. */
async function questionsOf(stack: Stack, house: House): Promise<string[]> {
  const paths: string[] = []
  const client = clientOf(stack, house, (input, init) => {
    const { pathname, search } = new URL(input instanceof Request ? input.url : input)
    paths.push(`${pathname.replace('/rest/v1/', '')}${search}`)
    return fetch(input, init)
  })
  await readDashboard(client, { id: house.organizationId, timezone: house.timezone }, DAYS, new Date())
  return paths
}
