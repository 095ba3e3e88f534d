// Storage's rows, seen by those who ask: every statement runs as the caller's role with the caller's claims, in a
// transaction, so that the policies of storage.objects and storage.buckets decide.

import postgres from 'postgres'
import { z } from 'zod'

export type Transaction = postgres.TransactionSql

export interface Caller {
  role: 'anon' | 'authenticated' | 'service_role'
  claims: Record<string, unknown>
  /** Who owns what this caller uploads. */
  owner: string | null
}

const roleOfClaims = z.enum(['anon', 'authenticated', 'service_role'])

/** Null for a role that no client has. */
export function callerOf(claims: Record<string, unknown>): Caller | null {
  const role = roleOfClaims.safeParse(claims.role ?? 'anon')
  if (!role.success) return null
  return { role: role.data, claims, owner: typeof claims.sub === 'string' ? claims.sub : null }
}

/** Thrown to undo what was only tried. */
class Undo extends Error {}

export class StorageDatabase {
  private readonly sql: postgres.Sql

  constructor(url: string) {
    this.sql = postgres(url, { max: 10, connect_timeout: 10, idle_timeout: 60, onnotice: () => undefined })
  }

  /** As the owner of the tables, whom no policy holds up. */
  async asOwner<T>(work: (sql: Transaction) => Promise<T>): Promise<T> {
    const { value } = await this.sql.begin(async (sql) => ({ value: await work(sql) }))
    return value
  }

  async asCaller<T>(caller: Caller, operation: string, work: (sql: Transaction) => Promise<T>): Promise<T> {
    return await this.asOwner(async (sql) => {
      await become(sql, caller, operation)
      return await work(sql)
    })
  }

  /** Resolves if the caller may do it, and does not do it. */
  async tryAs(
    caller: Caller,
    operation: string,
    work: (sql: Transaction) => Promise<unknown>,
  ): Promise<void> {
    try {
      await this.asCaller(caller, operation, async (sql) => {
        await work(sql)
        throw new Undo()
      })
    } catch (error) {
      if (!(error instanceof Undo)) throw error
    }
  }

  /** The versions of all objects. */
  async *versions(): AsyncIterable<string> {
    const rows = this.sql<
      { version: string }[]
    >`select version from storage.objects where version is not null`
    for await (const batch of rows.cursor(1000)) for (const { version } of batch) yield version
  }

  /** Tells this database from any other one that the same data directory is used with. */
  async identity(): Promise<string> {
    const [row] = await this.sql<{ identity: string }[]>`
      select s.system_identifier || '-' || d.oid as identity
      from pg_control_system() s, pg_database d where d.datname = current_database()`
    return row?.identity ?? ''
  }

  async close(): Promise<void> {
    await this.sql.end({ timeout: 1 })
  }
}

export async function become(sql: Transaction, { role, claims }: Caller, operation: string): Promise<void> {
  await sql`
    select
      set_config('role', ${role}, true),
      set_config('request.jwt.claims', ${JSON.stringify(claims)}, true),
      set_config('request.jwt.claim.sub', ${typeof claims.sub === 'string' ? claims.sub : ''}, true),
      set_config('request.jwt.claim.role', ${role}, true),
      set_config('storage.operation', ${operation}, true),
      set_config('storage.allow_delete_query', 'true', true)`
}
