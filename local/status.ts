// npm run status [-- -o env|json|pretty]: what runs, where, and its keys. Exit code 1 when nothing does.

import { parseArgs } from 'node:util'
import { apiKeys } from './api-keys.ts'
import { DataDirectory, type Secrets } from './data-directory.ts'
import { dataDir } from './environment.ts'
import { Failure } from './failure.ts'
import { isAlive } from './processes.ts'

const formats = {
  env: (variables: Record<string, string>) =>
    Object.entries(variables).map(([name, value]) => `${name}="${value}"`).join('\n'),
  json: (variables: Record<string, string>) => JSON.stringify(variables, null, 2),
  pretty: (variables: Record<string, string>) =>
    Object.entries(variables).map(([name, value]) => `${name.padEnd(18)}${value}`).join('\n'),
}

try {
  const { values } = parseArgs({ options: { output: { type: 'string', short: 'o', default: 'pretty' } } })
  if (!isFormat(values.output)) {
    throw new Failure(`-o takes ${Object.keys(formats).join(', ')}, not "${values.output}".`)
  }
  const data = DataDirectory.at(dataDir())
  const state = data.readState()
  if (state === null || !isAlive(state)) throw new Failure('Nothing runs here: npm start.')
  if (state.status !== 'ready' || state.apiPort === null || state.databaseUrl === null) {
    throw new Failure(`Balcão is still starting (process ${state.pid}).`)
  }
  const variables = variablesOf({
    apiPort: state.apiPort,
    databaseUrl: state.databaseUrl,
    secrets: await data.existingSecrets(),
  })
  console.log(formats[values.output](variables))
} catch (error) {
  console.error(error instanceof Error ? error.message : error)
  process.exitCode = 1
}

function isFormat(name: string): name is keyof typeof formats {
  return Object.hasOwn(formats, name)
}

/** Named as the Supabase CLI names them. */
function variablesOf(
  { apiPort, databaseUrl, secrets }: { apiPort: number; databaseUrl: string; secrets: Secrets },
): Record<string, string> {
  const keys = apiKeys(secrets)
  const api = `http://127.0.0.1:${apiPort}`
  return {
    API_URL: api,
    REST_URL: `${api}/rest/v1`,
    FUNCTIONS_URL: `${api}/functions/v1`,
    STORAGE_URL: `${api}/storage/v1`,
    GRAPH_URL: `${api}/graph`,
    DB_URL: databaseUrl,
    PUBLISHABLE_KEY: keys.publishable,
    SECRET_KEY: keys.secret,
    JWT_SECRET: secrets.jwtSecret,
    ANON_KEY: keys.anon,
    SERVICE_ROLE_KEY: keys.serviceRole,
  }
}
