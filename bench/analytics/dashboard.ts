// The dashboard of an owner: what the page asks, one after the other as Postgres counts it, and all at once as somebody
// waits for it.

import type { Stack } from '../../local/stack.ts'
import { type Api, type Call, member, type Times } from '../booking/api.ts'
import { type Waits, waitsOf } from '../figures.ts'
import type { House } from './data.ts'

export interface Page {
  queries: Times[]
  load: Waits
}

type Query = { name: string; path: (house: House) => string; body?: (house: House) => object }

const view = (name: string, more = ''): Query => ({
  name: `the page: ${name}`,
  path: ({ organizationId }) => `${name}?select=*&organization_id=eq.${organizationId}${more}`,
})

const queries: Query[] = [view('dashboard_metrics')]

export async function measurePage(
  _stack: Stack,
  api: Api,
  some: (n: number) => House,
  { rounds, calls, pages }: { rounds: number; calls: number; pages: number },
): Promise<Page> {
  const call = ({ path, body }: Query, house: House): Call => ({
    as: member(house),
    path: path(house),
    ...(body === undefined ? {} : { body: body(house) }),
  })
  const times = await api.compare(
    queries.map((query) => ({ name: query.name, ask: (n: number) => call(query, some(n)) })),
    rounds,
    calls,
  )
  const waits: number[] = []
  for (let n = 0; n < pages; n++) {
    const started = performance.now()
    await Promise.all(queries.map((query) => api.call(call(query, some(n)))))
    waits.push(performance.now() - started)
  }
  return { queries: times, load: waitsOf(waits) }
}
