// The Graph API as a loopback server whose next answers a test decides.
import { createMetaApps } from '../../functions/_shared/providers/meta/apps.ts'
import { createGraph } from '../../functions/_shared/providers/meta/graph.ts'
import { createMetaProvider } from '../../functions/_shared/providers/meta/provider.ts'
import type { Provider } from '../../functions/_shared/providers/provider.ts'
import { recordedRpc, secretBox } from './support.ts'

export const NUMBER_ID = '109876543210987'
export const TOKEN = 'EAAG-token-da-clinica'
export const NOW = new Date('2026-11-20T13:00:00Z')

export interface GraphCall {
  method: string
  path: string
  authorization: string | null
  body: unknown
}

export type GraphAnswer = (request: Request) => Response | Promise<Response>

/** What Meta answers, as its documentation shows it. */
export function graphFixture(name: string): Record<string, unknown> {
  return JSON.parse(
    Deno.readTextFileSync(new URL(`../fixtures/graph/${name}.json`, import.meta.url)),
  )
}

/** Runs a story against Meta's adapter. Whoever is told to answer answers every call. */
export async function withGraph(
  answer: GraphAnswer,
  story: (tools: { meta: Provider; calls: GraphCall[]; url: string }) => Promise<void>,
): Promise<void> {
  const calls: GraphCall[] = []
  const server = Deno.serve({ port: 0, hostname: '127.0.0.1', onListen: () => {} }, async (request) => {
    const { pathname, search } = new URL(request.url)
    const text = await request.text()
    calls.push({
      method: request.method,
      path: pathname + search,
      authorization: request.headers.get('authorization'),
      body: text === '' ? null : JSON.parse(text),
    })
    return await answer(request)
  })
  const url = `http://127.0.0.1:${server.addr.port}`
  try {
    await story({ meta: await metaAt(url), calls, url })
  } finally {
    await server.shutdown()
  }
}

export async function metaAt(url: string): Promise<Provider> {
  const { rpc } = recordedRpc({})
  return createMetaProvider({
    apps: createMetaApps({ rpc, secrets: await secretBox() }),
    graph: createGraph({ url, version: 'v24.0', now: () => NOW.getTime() }),
    now: () => NOW,
  })
}

/** A port on which each connection is treated as told, below HTTP. */
export async function withRawServer(
  treat: (connection: Deno.TcpConn) => Promise<void>,
  story: (url: string) => Promise<void>,
): Promise<void> {
  const listener = Deno.listen({ port: 0, hostname: '127.0.0.1' })
  const accepting = (async () => {
    for await (const connection of listener) await treat(connection).catch(() => undefined)
  })()
  try {
    await story(`http://127.0.0.1:${listener.addr.port}`)
  } finally {
    listener.close()
    await accepting.catch(() => undefined)
  }
}

/** Reads a request's beginning and hangs up, having said so much. */
export async function hangUp(connection: Deno.TcpConn, said = ''): Promise<void> {
  await connection.read(new Uint8Array(64 * 1024))
  if (said !== '') await connection.write(new TextEncoder().encode(said))
  connection.close()
}
