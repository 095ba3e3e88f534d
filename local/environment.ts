// The BALCAO_… variables that move the local stack.

import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Failure } from './failure.ts'
import type { StackOptions } from './stack.ts'

export const PROJECT_DIR = dirname(dirname(fileURLToPath(import.meta.url)))

/** Handed on to the edge functions as they are. */
const FOR_FUNCTIONS = [
  'BALCAO_PUBLIC_URL',
  'BALCAO_META_GRAPH_URL',
  'BALCAO_META_GRAPH_VERSION',
  'BALCAO_CRON_SECRET',
  'BALCAO_ALLOW_LOOPBACK_WEBHOOKS',
  'BALCAO_WORKER_BUDGET_MS',
  'BALCAO_WORKER_BATCH',
]

export function stackOptions(env: NodeJS.ProcessEnv = process.env): StackOptions {
  return {
    dataDir: dataDir(env),
    apiPort: port(env, 'BALCAO_API_PORT', 54321),
    dbPort: port(env, 'BALCAO_DB_PORT', 54322),
    databaseUrl: env.BALCAO_DB_URL || undefined,
    functionsEnvironment: Object.fromEntries(
      FOR_FUNCTIONS.flatMap((name) => env[name] ? [[name, env[name]]] : []),
    ),
  }
}

export function dataDir(env: NodeJS.ProcessEnv = process.env): string {
  return env.BALCAO_DATA_DIR || join(PROJECT_DIR, '.balcao')
}

function port(env: NodeJS.ProcessEnv, name: string, otherwise: number): number {
  const text = env[name]
  if (!text) return otherwise
  const value = Number(text)
  if (!Number.isInteger(value) || value < 0 || value > 65535) {
    throw new Failure(`${name}=${text} is not a port.`)
  }
  return value
}
