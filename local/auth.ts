// The auth server: a GoTrue-compatible /auth/v1 inside our own process, on the same Postgres.
//
// It is connected as supabase_auth_admin, which owns schema auth and nothing else, and only its /auth/v1 is ever mounted.
// The admin API, which it lacks, is auth-admin.ts.

import type { IncomingMessage, ServerResponse } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { getRequestListener } from '@hono/node-server'
import { App } from '@supabase/lite'
import { createPostgresConnection } from '@supabase/lite/postgres'
import { authAdmin } from './auth-admin.ts'
import type { Secrets } from './data-directory.ts'
import { type DatabaseUrls, installAuthFunctions } from './database.ts'

export interface AuthServer {
  listener: (request: IncomingMessage, response: ServerResponse) => void
  close(): Promise<void>
}

export async function startAuth(urls: DatabaseUrls, secrets: Secrets): Promise<AuthServer> {
  const connection = createPostgresConnection({
    url: urls.authAdmin,
    postgresOptions: { max: 8, onnotice: () => undefined },
  })
  const app = new App({
    connection,
    auth: {
      enabled: true,
      jwt_secret: secrets.jwtSecret,
      publishable_key: secrets.publishableKey,
      secret_key: secrets.secretKey,
      email: { enable_confirmations: false },
    },
    // The history of migrations is the Supabase CLI's.
    db: { migrations: { enabled: false } },
  })
  try {
    await app.ensureSystemSchema()
    await installAuthFunctions(urls)
  } catch (error) {
    await connection.close()
    throw error
  }
  let isClosing = false
  const running = new Set<Promise<Response>>()
  const admin = authAdmin(urls, secrets)
  const answer = async (request: Request) => await admin.answer(request) ?? await app.fetch(request)
  const listener = getRequestListener((request) => {
    if (isClosing) return Response.json({ message: 'The auth server is stopping.' }, { status: 503 })
    const answered = answer(request).finally(() => running.delete(answered))
    running.add(answered)
    return answered
  }, { overrideGlobalObjects: false })
  return {
    listener: (request, response) => void listener(request, response),
    close: async () => {
      // A closing connection refuses queries: a transaction that has one to come would stay open, and hold up the close.
      isClosing = true
      await Promise.race([Promise.allSettled(running), sleep(5000, undefined, { ref: false })])
      await Promise.all([connection.close(), admin.close()])
    },
  }
}
