// Migrations are applied by the real Supabase CLI, so that what works here works against a hosted project.

import { existsSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { Failure } from './failure.ts'
import type { ProcessTable } from './processes.ts'

/** The CLI's native binary: its JavaScript wrapper costs a second Node start. */
export function supabaseCli(): string {
  const system = process.platform === 'win32' ? 'windows' : process.platform
  const suffix = process.platform === 'win32' ? '.exe' : ''
  const require = createRequire(import.meta.url)
  for (
    const name of [`@supabase/cli-${system}-${process.arch}`, `@supabase/cli-${system}-${process.arch}-musl`]
  ) {
    try {
      const binary = join(dirname(require.resolve(`${name}/package.json`)), 'bin', `supabase${suffix}`)
      if (existsSync(binary)) return binary
    } catch {
      // Not this one.
    }
  }
  throw new Failure('The Supabase CLI has no binary for this machine in node_modules: run npm install again.')
}

/** No telemetry, no look for updates, and no trace in the user's own CLI settings. */
export function cliEnvironment(home: string): NodeJS.ProcessEnv {
  return {
    PATH: process.env.PATH,
    HOME: process.env.HOME,
    SUPABASE_HOME: home,
    DO_NOT_TRACK: '1',
    SUPABASE_TELEMETRY_DISABLED: '1',
    SUPABASE_NO_UPDATE_NOTIFIER: '1',
    NO_COLOR: '1',
  }
}

export async function pushMigrations(
  { table, projectDir, databaseUrl, home, signal }: {
    table: ProcessTable
    projectDir: string
    databaseUrl: string
    home: string
    signal: AbortSignal
  },
): Promise<void> {
  const migrations = join(projectDir, 'supabase', 'migrations')
  if (!existsSync(migrations) || (await readdir(migrations)).length === 0) return
  const { code, stdout, stderr } = await table.run(
    {
      name: 'supabase-db-push',
      file: supabaseCli(),
      args: [
        'db',
        'push',
        '--yes',
        '--output-format',
        'json',
        '--workdir',
        projectDir,
        `--remote=${databaseUrl}`,
      ],
      env: cliEnvironment(home),
      cwd: projectDir,
    },
    signal,
  )
  if (code === 0) return
  const file = [...`${stdout}\n${stderr}`.matchAll(/Applying migration (\S+?\.sql)/g)].at(-1)?.[1]
  const reason = failureIn(stdout) ?? failureIn(stderr) ?? stderr.trim() ??
    `supabase db push ended with code ${code}`
  throw new Failure(
    file === undefined ? `The migrations failed: ${reason}` : `Migration ${file} failed: ${reason}`,
  )
}

/** The message of the CLI's JSON answer, without the statement that it repeats in full. */
function failureIn(output: string): string | undefined {
  for (const line of output.split('\n')) {
    try {
      const answer: unknown = JSON.parse(line)
      if (typeof answer !== 'object' || answer === null || !('error' in answer)) continue
      const { error } = answer
      if (
        typeof error === 'object' && error !== null && 'message' in error && typeof error.message === 'string'
      ) {
        const [message, statement] = error.message.split('\n')
        return /^At statement/.test(statement ?? '') ? `${message} (${statement?.toLowerCase()})` : message
      }
    } catch {
      // Not JSON: progress for humans.
    }
  }
  return undefined
}
