// Receivers of an organization's webhooks: a server on this machine that keeps what comes, and its registration through
// manage-webhook.

import { createServer, type IncomingMessage } from 'node:http'
import { createServer as createTcpServer, type Server } from 'node:net'
import { z } from 'zod'
import type { WebhookEventType } from '../../types/index.ts'
import { type Answer, type Backend, memberOf, type Tenant } from './tenants.ts'

/** One request, as it came. */
export interface Attempt {
  at: Date
  path: string
  /** Lower-case names. */
  headers: Record<string, string>
  body: string
}

export type Reply = number | { status: number; headers?: Record<string, string>; body?: string }

export interface Receiver {
  url: string
  attempts: Attempt[]
  /** Opened to it, whatever came of them. */
  connections: () => number
  /** What it says from now on; an attempt waits for it as long as it takes. */
  reply: (attempt: Attempt) => Reply | Promise<Reply>
  close: () => Promise<void>
}

export async function aReceiver(reply: Receiver['reply'] = () => 204): Promise<Receiver> {
  let connections = 0
  const server = createServer((request, response) => {
    void attemptOf(request).then(async (attempt) => {
      receiver.attempts.push(attempt)
      const answer = await receiver.reply(attempt)
      const { status, headers = {}, body = '' } = typeof answer === 'number' ? { status: answer } : answer
      response.writeHead(status, headers).end(body)
      // Who sent it may have given up long ago.
    }).catch(() => response.destroy())
  })
  server.on('connection', () => (connections += 1))
  const port = await listening(server, '127.0.0.1', 0)
  const receiver: Receiver = {
    url: `http://127.0.0.1:${port}/ganchos`,
    attempts: [],
    connections: () => connections,
    reply,
    close: async () => {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
  return receiver
}

/** Counts who connects to a port of each loopback address of this machine, and says nothing. */
export async function aSilentPort(): Promise<{ port: number; connections: () => number; close: () => Promise<void> }> {
  let connections = 0
  const servers: Server[] = []
  const listenTo = async (host: string, port: number) => {
    const server = createTcpServer((socket) => {
      connections += 1
      socket.destroy()
    })
    servers.push(server)
    return await listening(server, host, port)
  }
  const port = await listenTo('127.0.0.1', 0)
  // A machine without IPv6 has nothing to connect to either.
  await listenTo('::1', port).catch(() => servers.pop())
  return {
    port,
    connections: () => connections,
    close: async () => {
      await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))))
    },
  }
}

async function listening(server: Server, host: string, port: number): Promise<number> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, resolve)
  })
  const address = server.address()
  if (typeof address !== 'object' || address === null) throw new Error('It does not listen on a port.')
  return address.port
}

async function attemptOf(request: IncomingMessage): Promise<Attempt> {
  const at = new Date()
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(Buffer.from(chunk))
  const headers = Object.entries(request.headers).map(([name, value]) => [name, String(value)])
  return {
    at,
    path: request.url ?? '',
    headers: Object.fromEntries(headers),
    body: Buffer.concat(chunks).toString('utf8'),
  }
}

// Registration --------------------------------------------------------------------------------------------------------

const endpointRow = z.looseObject({
  id: z.guid(),
  url: z.string(),
  is_active: z.boolean(),
  consecutive_failures: z.int(),
  disabled_reason: z.string().nullable(),
})

const registered = z.object({ endpoint: endpointRow, secret: z.string() })
export type Registered = z.infer<typeof registered>

export async function manageWebhook(
  { urls }: Backend,
  method: 'POST' | 'PATCH' | 'DELETE',
  bearer: string | null,
  body: unknown,
): Promise<Answer> {
  const response = await fetch(`${urls.functions}/manage-webhook`, {
    method,
    headers: { 'content-type': 'application/json', ...(bearer === null ? {} : { authorization: `Bearer ${bearer}` }) },
    body: JSON.stringify(body),
  })
  const text = await response.text()
  return { status: response.status, text, body: text === '' ? null : JSON.parse(text) }
}

/** As an administrator's app registers it. */
export async function registerEndpoint(
  tenant: Tenant,
  url: string,
  event_types: readonly WebhookEventType[],
): Promise<Registered> {
  const { status, text, body } = await manageWebhook(tenant.backend, 'POST', memberOf(tenant, 'admin').accessToken, {
    organization_id: tenant.organizationId,
    url,
    event_types,
  })
  if (status !== 201) throw new Error(`manage-webhook answered ${status}: ${text}`)
  return registered.parse(body)
}
