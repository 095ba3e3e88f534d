// The data directory: who owns it right now (stack.json, which is also the lock), and its secrets.

import { randomBytes } from 'node:crypto'
import { linkSync, readFileSync, renameSync, rmSync, unlinkSync, writeFileSync } from 'node:fs'
import { chmod, mkdir, open, readFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { z } from 'zod'
import { Failure, hasCode, messageOf } from './failure.ts'
import { identityOf, isAlive, type ProcessRecord } from './processes.ts'

const processRecord = z.object({ name: z.string(), pid: z.int().positive(), identity: z.string() })

const stackState = z.object({
  pid: z.int().positive(),
  identity: z.string(),
  status: z.enum(['starting', 'ready']),
  apiPort: z.int().nullable(),
  dbPort: z.int().nullable(),
  databaseUrl: z.string().nullable(),
  cluster: z.string().nullable(),
  runtimeDir: z.string().nullable(),
  processes: z.array(processRecord),
})
export type StackState = z.infer<typeof stackState>

const secrets = z.object({
  jwtSecret: z.string(),
  publishableKey: z.string().startsWith('sb_publishable_'),
  secretKey: z.string().startsWith('sb_secret_'),
  encryptionKeys: z.string(),
  adminPassword: z.string(),
  authAdminPassword: z.string(),
  authenticatorPassword: z.string(),
})
export type Secrets = z.infer<typeof secrets>

export class DataDirectory {
  private released = false

  private constructor(readonly path: string) {}

  static at(path: string): DataDirectory {
    return new DataDirectory(resolve(path))
  }

  static async open(path: string): Promise<DataDirectory> {
    try {
      await mkdir(path, { recursive: true })
      // Postgres runs as another user when we are root and must pass through; what is secret is 0600 by itself.
      await chmod(path, 0o711)
    } catch (error) {
      throw new Failure(`The data directory ${path} cannot be used: ${messageOf(error)}`)
    }
    return DataDirectory.at(path)
  }

  get statePath(): string {
    return join(this.path, 'stack.json')
  }

  get secretsPath(): string {
    return join(this.path, 'secrets.json')
  }

  get cluster(): string {
    return join(this.path, 'postgres')
  }

  log(name: string): string {
    return join(this.path, 'logs', `${name}.log`)
  }

  /** Who runs on this directory, or ran and did not clean up. */
  readState(): StackState | null {
    return readStateFile(this.statePath)
  }

  /**
   * Makes us the owner. Answers with what a dead owner left behind (null if nothing), or with the living owner.
   * link() is atomic, so of two starts at the same moment one wins.
   */
  acquire(): { owner: StackState } | { left: StackState | null } {
    const candidate = `${this.statePath}.${process.pid}`
    const own: StackState = {
      pid: process.pid,
      identity: identityOf(process.pid) ?? '',
      status: 'starting',
      apiPort: null,
      dbPort: null,
      databaseUrl: null,
      cluster: null,
      runtimeDir: null,
      processes: [],
    }
    let left: StackState | null = null
    for (;;) {
      // What the dead owner left is in our lock from its first moment, should we die before we have dealt with it.
      writeFileSync(candidate, JSON.stringify({ ...own, ...leftovers(left) }), { mode: 0o600 })
      try {
        linkSync(candidate, this.statePath)
        unlinkSync(candidate)
        return { left }
      } catch (error) {
        if (!hasCode(error, 'EEXIST')) {
          throw new Failure(`${this.statePath} cannot be written: ${messageOf(error)}`)
        }
      }
      const owner = this.readState()
      if (owner !== null && isAlive(owner)) {
        rmSync(candidate, { force: true })
        return { owner }
      }
      left = this.takeAway() ?? owner ?? left
    }
  }

  /** Removes a dead owner's lock, unless another start has just replaced it by its own. */
  private takeAway(): StackState | null {
    const aside = `${this.statePath}.dead.${process.pid}`
    try {
      renameSync(this.statePath, aside)
    } catch {
      return null
    }
    const taken = readStateFile(aside)
    try {
      if (taken !== null && isAlive(taken)) linkSync(aside, this.statePath)
    } catch {
      // A third start was quicker still; it will find what the second one owns.
    }
    rmSync(aside, { force: true })
    return taken !== null && isAlive(taken) ? null : taken
  }

  writeState(state: StackState): void {
    if (this.released) return
    const temporary = `${this.statePath}.new`
    writeFileSync(temporary, `${JSON.stringify(state, null, 2)}\n`, { mode: 0o600 })
    renameSync(temporary, this.statePath)
  }

  release(): void {
    this.released = true
    if (this.readState()?.pid === process.pid) rmSync(this.statePath, { force: true })
  }

  async secrets(): Promise<Secrets> {
    const path = this.secretsPath
    try {
      return secrets.parse(JSON.parse(await readFile(path, 'utf8')))
    } catch (error) {
      if (!hasCode(error, 'ENOENT')) throw new Failure(`${path} cannot be read; "npm run reset" starts over.`)
    }
    const made = newSecrets()
    const file = await open(`${path}.new`, 'w', 0o600)
    await file.writeFile(`${JSON.stringify(made, null, 2)}\n`)
    await file.sync()
    await file.close()
    renameSync(`${path}.new`, path)
    return made
  }

  /** The secrets of a directory that has been started before, without making any. */
  async existingSecrets(): Promise<Secrets> {
    return secrets.parse(JSON.parse(await readFile(this.secretsPath, 'utf8')))
  }
}

function readStateFile(path: string): StackState | null {
  try {
    return stackState.parse(JSON.parse(readFileSync(path, 'utf8')))
  } catch {
    return null
  }
}

function leftovers(left: StackState | null): { processes?: ProcessRecord[]; runtimeDir?: string | null } {
  return left === null ? {} : { processes: left.processes, runtimeDir: left.runtimeDir }
}

function newSecrets(): Secrets {
  const token = (bytes: number) => randomBytes(bytes).toString('base64url')
  return {
    jwtSecret: token(48),
    publishableKey: `sb_publishable_${token(24)}`,
    secretKey: `sb_secret_${token(24)}`,
    encryptionKeys: `local:${randomBytes(32).toString('base64')}`,
    adminPassword: token(24),
    authAdminPassword: token(24),
    authenticatorPassword: token(24),
  }
}
