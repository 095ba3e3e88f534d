// Child processes: how they are started, recognised after a crash, supervised and stopped.
//
// Children run in sessions of their own, so that Ctrl-C in a terminal reaches only us and we stop them in order,
// and write straight into log files, so that they never depend on a pipe to a parent that may be dead.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { closeSync, mkdirSync, openSync, readFileSync, renameSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Failure } from './failure.ts'

export interface ProcessRecord {
  name: string
  pid: number
  /** Tells a process from a later one that was given the same pid. */
  identity: string
}

/** What distinguishes the living process `pid` from any other that ever had this pid; null when there is none. */
export function identityOf(pid: number): string | null {
  if (process.platform === 'linux') {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
      // The command, in parentheses, may itself contain spaces and parentheses.
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      const [state, startTime] = [fields[0], fields[19]]
      if (state === 'Z' || state === 'X' || startTime === undefined) return null
      return `${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()}:${startTime}`
    } catch {
      return null
    }
  }
  try {
    return execFileSync('ps', ['-o', 'lstart=', '-p', String(pid)], { encoding: 'utf8' }).trim() || null
  } catch {
    return null
  }
}

export function isAlive(record: { pid: number; identity: string }): boolean {
  return identityOf(record.pid) === record.identity
}

export function commandLineOf(pid: number): string {
  try {
    if (process.platform === 'linux') {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ')
    }
    return execFileSync('ps', ['-o', 'args=', '-p', String(pid)], { encoding: 'utf8' })
  } catch {
    return ''
  }
}

export function signalProcess(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch {
    // Already gone.
  }
}

/** Stops a process that is not our child (an orphan of an earlier start): politely, then firmly. */
export async function stopOrphan(record: ProcessRecord): Promise<void> {
  for (const signal of stopSignals(record.name)) {
    if (!isAlive(record)) return
    signalProcess(record.pid, signal)
    for (let waited = 0; waited < 5000 && isAlive(record); waited += 25) await sleep(25)
  }
}

/** Postgres ends sessions at SIGINT ("fast") and itself at SIGQUIT ("immediate"); SIGTERM would wait for its clients. */
function stopSignals(name: string): NodeJS.Signals[] {
  return name === 'postgres' ? ['SIGINT', 'SIGQUIT', 'SIGKILL'] : ['SIGTERM', 'SIGKILL']
}

export interface Command {
  name: string
  file: string
  args: string[]
  env?: NodeJS.ProcessEnv
  cwd?: string
  uid?: number | undefined
  gid?: number | undefined
}

export interface Finished {
  code: number | null
  stdout: string
  stderr: string
}

/** Every process of one owner; `changed` hears of each start and end, to record them on disk. */
export class ProcessTable {
  readonly records = new Map<number, ProcessRecord>()

  /** `mark` goes into the environment of each process, so that an administrator can tell whose it is. */
  constructor(
    private readonly mark: Record<string, string>,
    private readonly changed: () => void,
  ) {}

  spawn(command: Command, stdio: Parameters<typeof spawn>[2]['stdio']): ChildProcess {
    const child = spawn(command.file, command.args, {
      env: { ...(command.env ?? process.env), ...this.mark },
      cwd: command.cwd,
      detached: true,
      stdio,
      ...(command.uid === undefined ? {} : { uid: command.uid }),
      ...(command.gid === undefined ? {} : { gid: command.gid }),
    })
    const { pid } = child
    if (pid !== undefined) {
      this.records.set(pid, { name: command.name, pid, identity: identityOf(pid) ?? '' })
      this.changed()
      child.once('exit', () => {
        this.records.delete(pid)
        this.changed()
      })
    }
    return child
  }

  /** The last thing a dying owner can do. */
  signalAll(): void {
    for (const { name, pid } of this.records.values()) signalProcess(pid, stopSignals(name)[0] ?? 'SIGKILL')
  }

  /** Runs a command to its end; an abort kills it and whatever it started. */
  async run(command: Command, signal: AbortSignal): Promise<Finished> {
    signal.throwIfAborted()
    const child = this.spawn(command, ['ignore', 'pipe', 'pipe'])
    const killGroup = () => child.pid !== undefined && signalProcess(-child.pid, 'SIGKILL')
    signal.addEventListener('abort', killGroup)
    try {
      const [stdout, stderr] = [text(child.stdout), text(child.stderr)]
      const code = await new Promise<number | null>((resolve, reject) => {
        child.once('error', reject)
        child.once('close', resolve)
      })
      signal.throwIfAborted()
      return { code, stdout: await stdout, stderr: await stderr }
    } finally {
      signal.removeEventListener('abort', killGroup)
    }
  }
}

async function text(stream: AsyncIterable<Buffer> | null): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of stream ?? []) chunks.push(chunk)
  return Buffer.concat(chunks).toString('utf8')
}

const LOG_LIMIT = 10 * 1024 * 1024

/** Opens a log file for appending; one that has grown large is set aside first. */
export function openLog(path: string): number {
  mkdirSync(dirname(path), { recursive: true })
  try {
    if (statSync(path).size > LOG_LIMIT) renameSync(path, `${path}.1`)
  } catch {
    // There is none yet.
  }
  return openSync(path, 'a', 0o600)
}

export interface ServiceOptions {
  table: ProcessTable
  logFile: string
  command: () => Command
  /** Resolves when the service answers; rejects, or hears the abort, when it never will. */
  ready: (signal: AbortSignal) => Promise<void>
  /** Called once when the service has died so often that we no longer try. */
  gaveUp: (failure: Failure) => void
}

const QUICK_DEATH_MS = 5000
const QUICK_DEATHS = 5

/** One long-running child: started, watched, restarted with back-off when it dies, stopped when asked. */
export class Service {
  private child: ChildProcess | null = null
  private ended: Promise<void> = Promise.resolve()
  private readonly stopping = new AbortController()
  private stopped: Promise<void> | null = null
  private quickDeaths = 0

  constructor(readonly name: string, private readonly options: ServiceOptions) {}

  get pid(): number | null {
    return this.child?.pid ?? null
  }

  /** Resolves when the service is ready; a first start that dies is the caller's to handle. */
  async start(): Promise<void> {
    this.stopping.signal.throwIfAborted()
    const died = this.spawn()
    await this.untilReady(died)
    void died.then(() => this.revive())
  }

  /** Ends it; being watched, it starts again at once. As after a change of its code. */
  async restart(): Promise<void> {
    this.quickDeaths = 0
    await this.end(new AbortController().signal)
  }

  /** Ends it for good. */
  stop(hurry: AbortSignal): Promise<void> {
    this.stopping.abort(new Failure(`${this.name} was stopped.`))
    this.stopped ??= this.end(hurry)
    return this.stopped
  }

  private async end(hurry: AbortSignal): Promise<void> {
    const [pid, ended] = [this.child?.pid, this.ended]
    if (pid === undefined) return
    for (const signal of stopSignals(this.name)) {
      signalProcess(pid, signal)
      const patience = AbortSignal.any([hurry, AbortSignal.timeout(5000)])
      if (await Promise.race([ended.then(() => true), aborted(patience).then(() => false)])) break
    }
    await ended
  }

  kill(): void {
    if (this.child?.pid !== undefined) signalProcess(this.child.pid, 'SIGKILL')
  }

  private spawn(): Promise<number> {
    const started = Date.now()
    const log = openLog(this.options.logFile)
    // A pipe for stdin that we hold open: a child may take its end for ours.
    const child = this.options.table.spawn(this.options.command(), ['pipe', log, log])
    closeSync(log)
    child.stdin?.on('error', () => undefined)
    this.child = child
    const died = new Promise<number>((resolve) => {
      child.once('exit', () => resolve(Date.now() - started))
      child.once('error', () => resolve(Date.now() - started))
    }).finally(() => (this.child = null))
    this.ended = died.then(() => undefined)
    return died
  }

  private async untilReady(died: Promise<unknown>): Promise<void> {
    const gone = new AbortController()
    void died.then(() =>
      gone.abort(new Failure(`${this.name} ended before it was ready; see ${this.options.logFile}`))
    )
    await this.options.ready(AbortSignal.any([gone.signal, this.stopping.signal]))
  }

  private async revive(): Promise<void> {
    const { signal } = this.stopping
    while (!signal.aborted) {
      try {
        await sleep(this.quickDeaths === 0 ? 20 : 100 * 2 ** this.quickDeaths, undefined, { signal })
        const died = this.spawn()
        const counted = died.then((lived) => {
          this.quickDeaths = lived < QUICK_DEATH_MS ? this.quickDeaths + 1 : 0
        })
        await this.untilReady(died).catch(() => undefined)
        await counted
      } catch {
        return
      }
      if (this.quickDeaths >= QUICK_DEATHS && !signal.aborted) {
        this.options.gaveUp(
          new Failure(
            `${this.name} died ${QUICK_DEATHS} times within seconds of its start; see ${this.options.logFile}`,
          ),
        )
        return
      }
    }
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })
}

/** Asks `answers` every few milliseconds until it says yes. */
export async function until(
  answers: () => boolean | Promise<boolean>,
  { signal, timeout, what }: { signal: AbortSignal; timeout: number; what: string },
): Promise<void> {
  const deadline = Date.now() + timeout
  for (;;) {
    signal.throwIfAborted()
    if (await Promise.resolve().then(answers).catch(() => false)) return
    if (Date.now() > deadline) throw new Failure(`${what} was not ready within ${timeout / 1000} s.`)
    await sleep(20, undefined, { signal }).catch(() => signal.throwIfAborted())
  }
}
