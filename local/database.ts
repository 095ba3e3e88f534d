// Makes a plain Postgres database look like the one of a hosted Supabase project, as far as migrations can tell.

import { createHmac } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import postgres from 'postgres'
import type { Secrets } from './data-directory.ts'
import { Failure, messageOf } from './failure.ts'

export interface DatabaseUrls {
  /** A superuser: bootstrap only. */
  admin: string
  /** The role that owns and migrates the schema, as on a hosted project. */
  postgres: string
  authAdmin: string
  storageAdmin: string
  authenticator: string
}

/** The same database seen by each of its roles. */
export function urlsFor(admin: string, secrets: Secrets, socketDir?: string): DatabaseUrls {
  const as = (user: string, password: string, throughSocket = false) => {
    const url = new URL(admin)
    url.username = user
    url.password = password
    if (throughSocket && socketDir !== undefined) {
      const port = url.port
      return `postgresql://${user}:${password}@/${url.pathname.slice(1)}?host=${
        encodeURIComponent(socketDir)
      }&port=${port}`
    }
    return url.href
  }
  return {
    admin,
    postgres: as('postgres', 'postgres'),
    authAdmin: as('supabase_auth_admin', secrets.authAdminPassword),
    storageAdmin: as('supabase_storage_admin', storageAdminPassword(secrets)),
    authenticator: as('authenticator', secrets.authenticatorPassword, true),
  }
}

/** Follows from another secret, so that data directories of before there was storage need no new one. */
function storageAdminPassword(secrets: Secrets): string {
  return createHmac('sha256', secrets.authAdminPassword).update('supabase_storage_admin').digest('base64url')
}

/** Refuses what must not be bootstrapped: a hosted project, or a database that we cannot own. */
export async function assertDisposable(url: string): Promise<void> {
  let parsed: URL
  try {
    parsed = new URL(url)
  } catch {
    throw new Failure('BALCAO_DB_URL is not a URL (postgresql://user:password@host:port/database).')
  }
  if (/\.supabase\.(co|com|net|red)$/.test(parsed.hostname)) {
    throw new Failure(
      'BALCAO_DB_URL names a hosted Supabase project; the local stack takes a disposable Postgres only.',
    )
  }
  await withSql(url, async (sql) => {
    const [user] = await sql<{ rolname: string; rolsuper: boolean }[]>`
      select rolname, rolsuper from pg_roles where rolname = current_user`
    if (user === undefined || !user.rolsuper || user.rolname === 'postgres') {
      throw new Failure(
        'BALCAO_DB_URL must log in as a superuser other than "postgres", which becomes the role without superuser rights.',
      )
    }
    const [managed] = await sql`
      select from pg_roles where rolname in ('supabase_realtime_admin', 'dashboard_user', 'cli_login_postgres')`
    if (managed !== undefined) {
      throw new Failure(
        'BALCAO_DB_URL names a database of the Supabase platform; the local stack takes a disposable one.',
      )
    }
  })
}

export async function bootstrap(urls: DatabaseUrls, secrets: Secrets): Promise<void> {
  const script = (await readFile(new URL('bootstrap.sql', import.meta.url), 'utf8'))
    .replace(':authenticator_password', `'${secrets.authenticatorPassword}'`)
    .replace(':auth_admin_password', `'${secrets.authAdminPassword}'`)
    .replace(':storage_admin_password', `'${storageAdminPassword(secrets)}'`)
  const storage = await readFile(new URL('storage.sql', import.meta.url), 'utf8')
  await withSql(urls.admin, async (sql) => {
    await sql.unsafe(script)
    await sql.unsafe(storage)
  })
}

export async function installAuthFunctions(urls: DatabaseUrls): Promise<void> {
  const script = await readFile(new URL('auth-functions.sql', import.meta.url), 'utf8')
  await withSql(urls.admin, (sql) => sql.unsafe(script))
}

async function withSql<T>(url: string, use: (sql: postgres.Sql) => Promise<T>): Promise<T> {
  const sql = postgres(url, { max: 1, connect_timeout: 10, onnotice: () => undefined })
  try {
    return await use(sql)
  } catch (error) {
    if (error instanceof Failure) throw error
    throw new Failure(`The database cannot be prepared: ${messageOf(error)}`)
  } finally {
    await sql.end({ timeout: 1 })
  }
}
