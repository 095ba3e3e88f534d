// The edge functions: one Deno process serves every function that supabase/config.toml names.

import { existsSync, readFileSync, rmSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parse } from 'smol-toml'
import { z } from 'zod'
import type { ApiKeys } from './api-keys.ts'
import type { DataDirectory, Secrets } from './data-directory.ts'
import { Failure, messageOf } from './failure.ts'
import { type ProcessTable, Service, until } from './processes.ts'

const config = z.object({
  functions: z
    .record(
      z.string(),
      z.object({
        enabled: z.boolean().default(true),
        verify_jwt: z.boolean().default(true),
        entrypoint: z.string().optional(),
      }),
    )
    .default({}),
})

export interface EdgeFunction {
  name: string
  entrypoint: string
  verifyJwt: boolean
}

/** The functions of config.toml that are enabled and whose code is there. */
export async function configuredFunctions(projectDir: string): Promise<EdgeFunction[]> {
  const path = join(projectDir, 'supabase', 'config.toml')
  let parsed: z.infer<typeof config>
  try {
    parsed = config.parse(parse(await readFile(path, 'utf8')))
  } catch (error) {
    throw new Failure(`${path} cannot be read: ${messageOf(error)}`)
  }
  return Object.entries(parsed.functions)
    .filter(([, { enabled }]) => enabled)
    .map(([name, { verify_jwt, entrypoint }]) => ({
      name,
      entrypoint: resolve(dirname(path), entrypoint ?? join('functions', name, 'index.ts')),
      verifyJwt: verify_jwt,
    }))
}

export function functionsService(
  { data, table, projectDir, functions, keys, secrets, apiUrl, databaseUrl, environment, portFile, gaveUp }: {
    data: DataDirectory
    table: ProcessTable
    projectDir: string
    functions: EdgeFunction[]
    keys: ApiKeys
    secrets: Secrets
    apiUrl: string
    databaseUrl: string
    environment: Record<string, string>
    /** Deno takes a free port and writes it here. */
    portFile: string
    gaveUp: (failure: Failure) => void
  },
): { service: Service; port: () => number | null } {
  let port: number | null = null
  const host = fileURLToPath(new URL('functions-host.ts', import.meta.url))
  const root = dirname(dirname(host))
  const file = denoBinary()
  const listed = functions.map(({ name, entrypoint }) => ({ name, entrypoint }))
  const service = new Service('functions', {
    table,
    logFile: data.log('functions'),
    command: () => {
      port = null
      rmSync(portFile, { force: true })
      return {
        name: 'functions',
        file,
        args: [
          ...['run', '--quiet', '--no-prompt', '--no-check', '--no-remote', '--cached-only'],
          ...['--config', join(projectDir, 'functions', 'deno.json'), '--no-lock'],
          // They may use the network, and read their own code and environment. Nothing else.
          ...[
            '--allow-net',
            '--allow-env',
            `--allow-read=${projectDir},${root}`,
            `--allow-write=${portFile}`,
          ],
          ...[host, portFile, JSON.stringify(listed)],
        ],
        cwd: projectDir,
        env: {
          DENO_DIR: join(data.path, 'deno'),
          DENO_NO_UPDATE_CHECK: '1',
          NO_COLOR: '1',
          TZ: 'UTC',
          SUPABASE_URL: apiUrl,
          SUPABASE_DB_URL: databaseUrl,
          SUPABASE_PUBLISHABLE_KEYS: JSON.stringify({ default: keys.publishable }),
          SUPABASE_SECRET_KEYS: JSON.stringify({ default: keys.secret }),
          SUPABASE_ANON_KEY: keys.anon,
          SUPABASE_SERVICE_ROLE_KEY: keys.serviceRole,
          BALCAO_ENCRYPTION_KEYS: secrets.encryptionKeys,
          ...environment,
        },
      }
    },
    ready: (signal) =>
      until(() => (port = portIn(portFile)) !== null, {
        signal,
        timeout: 60_000,
        what: 'The edge functions',
      }),
    gaveUp,
  })
  return { service, port: () => port }
}

/** The port that Deno listens on; null until it does. */
function portIn(portFile: string): number | null {
  try {
    return Number(readFileSync(portFile, 'utf8')) || null
  } catch {
    return null
  }
}

export function denoBinary(): string {
  const require = createRequire(import.meta.url)
  const binary = join(
    dirname(require.resolve('deno/package.json')),
    process.platform === 'win32' ? 'deno.exe' : 'deno',
  )
  if (!existsSync(binary)) {
    throw new Failure('Deno is not unpacked: npm did not run its install script; run "npm rebuild deno".')
  }
  return binary
}
