// The storage server: /storage/v1 of a Supabase project inside our own process, as far as supabase-js uses it. Rows lie
// in schema storage, where policies decide (storage.sql); bytes lie in files below the data directory.
//
// It is connected as supabase_storage_admin, which owns the tables and may become any of the API's roles.

import { appendFileSync, mkdirSync } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { claimsOf } from './api-keys.ts'
import type { DataDirectory, Secrets } from './data-directory.ts'
import type { DatabaseUrls } from './database.ts'
import { hasCode } from './failure.ts'
import { received } from './gateway.ts'
import { json, parse } from './storage/body.ts'
import { callerOf, StorageDatabase } from './storage/database.ts'
import { ObjectFiles } from './storage/files.ts'
import { Refusal, refusalOf, refusals } from './storage/refusal.ts'
import { find, routesOf } from './storage/routes.ts'
import { UrlSigner } from './storage/signed-urls.ts'

export interface StorageServer {
  /** Whether a request speaks for itself, by a signed URL or because it is for what is public. */
  needsNoKey(method: string, path: string): boolean
  /** `target` is the path below /storage/v1 with its query; `token` says who calls. */
  listener(
    request: IncomingMessage,
    response: ServerResponse,
    target: string,
    token: string | null,
  ): Promise<void>
  close(): Promise<void>
}

export async function startStorage(
  { urls, secrets, data, now = () => new Date() }: {
    urls: DatabaseUrls
    secrets: Secrets
    data: DataDirectory
    now?: () => Date
  },
): Promise<StorageServer> {
  const database = new StorageDatabase(urls.storageAdmin)
  let files: ObjectFiles
  try {
    files = await ObjectFiles.open(join(data.path, 'storage', await database.identity()), database.versions())
  } catch (error) {
    await database.close()
    throw error
  }
  const seconds = () => now().getTime() / 1000
  const routes = routesOf({ database, files, now, signer: new UrlSigner(secrets.jwtSecret, seconds) })
  let isClosing = false
  const running = new Set<Promise<void>>()

  async function answer(
    request: IncomingMessage,
    response: ServerResponse,
    target: string,
    token: string | null,
  ) {
    if (isClosing) throw refusals.unavailable()
    const { pathname, search } = splitTarget(target)
    const { route, bucket, name } = find(routes, request.method ?? 'GET', pathname)
    const claims = token === null ? { role: 'anon' } : claimsOf(token, secrets.jwtSecret, seconds())
    const caller = claims === null ? null : callerOf(claims)
    // A token that has expired does not keep anybody from what is open to all.
    if (caller === null && route.open !== true) {
      throw refusals.accessDenied('The token is invalid or has expired')
    }
    const result = await route.answer({
      request,
      response,
      query: new URLSearchParams(search),
      bucket,
      name,
      caller: caller ?? { role: 'anon', claims: { role: 'anon' }, owner: null },
      body: async (shape) => parse(shape, await json(request)),
    })
    if (result !== undefined) sendJson(response, 200, result)
  }

  async function listener(
    request: IncomingMessage,
    response: ServerResponse,
    target: string,
    token: string | null,
  ) {
    try {
      await answer(request, response, target, token)
    } catch (error) {
      // The client has gone, or half of an object is on its way: no word of ours reaches anybody.
      if (response.headersSent || response.destroyed) return void response.destroy()
      const refusal = refusalOf(error) ?? unexpected(error)
      for (const [name, value] of Object.entries(refusal.headers)) response.setHeader(name, value)
      sendJson(response, refusal.status, refusal.body)
    }
  }

  function unexpected(error: unknown): Refusal {
    const logFile = data.log('storage')
    mkdirSync(dirname(logFile), { recursive: true })
    appendFileSync(
      logFile,
      `${now().toISOString()} ${error instanceof Error ? error.stack : String(error)}\n`,
    )
    return hasCode(error, 'ENOSPC')
      ? new Refusal(507, 'InsufficientStorage', 'No space is left on the disk.', 507)
      : new Refusal(500, 'Internal', `Internal Server Error; see ${logFile}`, 500)
  }

  return {
    needsNoKey: (method, path) => {
      try {
        return find(routes, method, path).route.open === true
      } catch {
        return false
      }
    },
    listener: (request, response, target, token) => {
      const answered = listener(request, response, target, token).finally(() => running.delete(answered))
      running.add(answered)
      return answered
    },
    close: async () => {
      isClosing = true
      await Promise.race([Promise.allSettled(running), sleep(5000, undefined, { ref: false })])
      await database.close()
    },
  }
}

function splitTarget(target: string): { pathname: string; search: string } {
  const [pathname = '', ...search] = target.split('?')
  return { pathname, search: search.join('?') }
}

function sendJson(response: ServerResponse, status: number, body: unknown): void {
  const { req: request } = response
  const text = JSON.stringify(body)
  // Refused before all of the body came: nobody wants the rest, and the next request must not wait behind it.
  if (!request.complete) response.setHeader('connection', 'close')
  response.writeHead(status, {
    'content-type': 'application/json; charset=utf-8',
    'content-length': Buffer.byteLength(text),
  })
  if (request.method !== 'HEAD') response.write(text)
  void received(request).then(() => response.end())
}
