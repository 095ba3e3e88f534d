// The stack as a user starts it: a process of its own, in a data directory and on ports of its own.

import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { DataDirectory } from '../../local/data-directory.ts'
import { PROJECT_DIR } from '../../local/environment.ts'
import { clearAfterCrash } from '../../local/stack.ts'
import { runningStack } from './running-stack.ts'

export interface Ended {
  code: number | null
  stdout: string
  stderr: string
}

export interface RunningCommand {
  child: ChildProcess
  pid: number
  ended: Promise<Ended>
}

/** A folder for one test, in that of the run; removed with everything that a failed test may have left running in it. */
export function temporaryDataDir(): { path: string; remove: () => Promise<void> } {
  const path = mkdtempSync(join(dirname(runningStack().dataDir), 'own-'))
  return {
    path,
    remove: async () => {
      for (const pid of processesOf(path)) kill(pid, 'SIGKILL')
      await eventually(() => processesOf(path).length === 0)
      await clearAfterCrash(DataDirectory.at(path).readState())
      rmSync(path, { recursive: true, force: true })
    },
  }
}

/** `npm start`, `npm run demo` and so on, without npm. */
export function command(
  name: 'start' | 'status' | 'reset' | 'demo',
  dataDir: string,
  { args = [], env = {} }: { args?: string[]; env?: Record<string, string> } = {},
): RunningCommand {
  return run(['--import', 'tsx', join('local', `${name}.ts`), ...args], dataDir, env)
}

/** Node with these arguments, on this data directory and free ports. */
export function run(args: string[], dataDir: string, env: Record<string, string> = {}): RunningCommand {
  const child = spawn(process.execPath, args, {
    cwd: PROJECT_DIR,
    env: { ...process.env, BALCAO_DATA_DIR: dataDir, BALCAO_API_PORT: '0', BALCAO_DB_PORT: '0', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', (chunk) => (stdout += chunk))
  child.stderr.on('data', (chunk) => (stderr += chunk))
  return {
    child,
    pid: child.pid ?? 0,
    ended: new Promise((resolve, reject) => {
      child.once('error', reject)
      child.once('close', (code) => resolve({ code, stdout, stderr }))
    }),
  }
}

/** Starts and waits until the stack is ready; fails with its output if it ends instead. */
export async function startCommand(
  dataDir: string,
  env: Record<string, string> = {},
): Promise<RunningCommand> {
  const running = command('start', dataDir, { env })
  const failed = running.ended.then(({ code, stdout, stderr }) => {
    throw new Error(`start ended with code ${code}\n${stdout}\n${stderr}`)
  })
  failed.catch(() => undefined)
  const ready = eventually(() => {
    const state = DataDirectory.at(dataDir).readState()
    return state?.pid === running.pid && state.status === 'ready'
  })
  await Promise.race([ready, failed])
  return running
}

/** Every living process that was started for this data directory, the supervisor and its tools included. */
export function processesOf(dataDir: string): number[] {
  const mark = `BALCAO_DATA_DIR=${dataDir}\0`
  return readdirSync('/proc').map(Number).filter((pid) => {
    if (!Number.isInteger(pid) || pid === process.pid) return false
    try {
      // A zombie has no environment any more.
      return readFileSync(`/proc/${pid}/environ`, 'latin1').includes(mark)
    } catch {
      return false
    }
  })
}

export function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch {
    // It ended first.
  }
}

/** For what takes moments, on a machine where others make everything ten times as slow. */
export const PATIENCE_MS = 120_000

export async function eventually(holds: () => boolean | Promise<boolean>, timeout = PATIENCE_MS): Promise<void> {
  const deadline = Date.now() + timeout
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`not within ${timeout / 1000} s: ${holds}`)
    await sleep(25)
  }
}
