// The auth server: a GoTrue-compatible /auth/v1 inside our own process, on the same Postgres.
//
// It is connected as supabase_auth_admin, which owns schema auth and nothing else, and only its /auth/v1 is ever mounted.

import type { IncomingMessage, ServerResponse } from 'node:http'
import { getRequestListener } from '@hono/node-server'
import { App } from '@supabase/lite'
import { createPostgresConnection } from '@supabase/lite/postgres'
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
  const listener = getRequestListener((request) => app.fetch(request), { overrideGlobalObjects: false })
  return {
    listener: (request, response) => void listener(request, response),
    close: () => connection.close(),
  }
}
