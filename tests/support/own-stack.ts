// A stack of a test's own, for what would disturb others: deaths, empty queues, a clock that stands still.
//
// `npm test` starts one data directory and stops it again. A stack on a copy of it is there in half the time, since it
// has its cluster, its migrations and its compiled functions.

import { execFile } from 'node:child_process'
import { existsSync, lstatSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import postgres from 'postgres'
import { DataDirectory } from '../../local/data-directory.ts'
import { type Stack, type StackOptions, startStack } from '../../local/stack.ts'
import { temporaryDataDir } from './processes.ts'
import { runningStack } from './running-stack.ts'

/** Its folder, beside those of the running stacks. */
export const PREPARED = 'prepared'

/** Nothing has happened in it: it has no ticker. */
export async function prepareDataDirectory(options: StackOptions): Promise<void> {
  const stack = await startStack({ ...options, ticker: false })
  try {
    const sql = postgres(stack.urls.admin, { max: 1 })
    // Processes die in tests, the machine does not: what Postgres wrote is there, whether or not the disk has it yet.
    await sql`alter system set fsync = off`
    await sql.end()
  } finally {
    await stack.stop()
  }
}

/** Owners included: as root Postgres's files are another user's. */
export async function copyDataDirectory(from: string, to: string): Promise<void> {
  // Where Postgres cannot reach the folder its cluster lies elsewhere, behind a link, and has no room for two servers.
  const { cluster } = DataDirectory.at(from)
  if (!existsSync(cluster) || lstatSync(cluster).isSymbolicLink()) return
  await promisify(execFile)('cp', ['-a', join(from, '.'), to])
}

/** As after a first start; for tests to which a first start is no matter. */
export async function preparedDataDir(): Promise<{ path: string; remove: () => Promise<void> }> {
  const own = temporaryDataDir()
  await copyDataDirectory(join(dirname(runningStack().dataDir), PREPARED), own.path)
  return own
}

/** Its stop() also removes its folder, and what a test that failed left running in it. */
export async function startOwnStack(options: Omit<Partial<StackOptions>, 'dataDir'> = {}): Promise<Stack> {
  const { path, remove } = await preparedDataDir()
  const stack = await startStack({ dataDir: path, apiPort: 0, dbPort: 0, ...options })
  return {
    ...stack,
    stop: async () => {
      await stack.stop()
      await remove()
    },
  }
}
