// A closed organization goes with all it has, whoever dies on the way; and nobody who deletes makes anybody wait.

import { randomUUID } from 'node:crypto'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { businessError } from '../../types/index.ts'
import { aConversation, hurry, seen, whenIt, write } from '../support/conversations.ts'
import { runningStack } from '../support/running-stack.ts'
import { asOwnerOf, asPlatform, aTenant, connectNumber, memberOf, type Tenant, valueOf } from '../support/tenants.ts'

const backend = runningStack()
const platform = asPlatform(backend)
const sql = postgres(backend.urls.admin, { max: 6, onnotice: () => undefined })
afterAll(() => sql.end({ timeout: 1 }))

/** How many rows an organization has, in each table that knows organizations. */
async function rowsOf({ organizationId }: Pick<Tenant, 'organizationId'>): Promise<Record<string, number>> {
  const tables = await sql<{ name: string; tenant: string }[]>`
    select c.oid::regclass::text as name, a.attname as tenant
    from pg_catalog.pg_class c
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and not a.attisdropped
    where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace) and c.relkind in ('r', 'p') and not c.relispartition
      and (a.attname = 'organization_id' or c.oid = 'public.organizations'::regclass and a.attname = 'id')
    order by 1`
  const found: Record<string, number> = {}
  for (const { name, tenant } of tables) {
    const [row] = await sql<{ count: number }[]>`
      select count(*)::int as count from ${sql.unsafe(name)} where ${sql(tenant)} = ${organizationId}`
    if (row !== undefined && row.count > 0) found[name] = row.count
  }
  return found
}

async function namesOfFiles({ organizationId }: Tenant): Promise<string[]> {
  const rows = await sql<{ name: string }[]>`
    select bucket_id || '/' || name as name from storage.objects where name like ${`${organizationId}/%`} order by 1`
  return rows.map(({ name }) => name)
}

/** A clinic with a day of work, and files in every bucket of ours. */
async function aClinic(name: string): Promise<Tenant> {
  const clinic = await aTenant(backend, name, ['admin', 'attendant', 'viewer'])
  const number = await connectNumber(clinic)
  for (let customer = 0; customer < 3; customer += 1) {
    const conversation = await aConversation(clinic, number)
    await whenIt('read', clinic, await write(clinic, conversation, 'Bom dia!'))
  }
  for (const bucket of ['media', 'archive', 'backups']) {
    for (const file of ['1', '2']) {
      valueOf(await platform.storage.from(bucket).upload(`${clinic.organizationId}/2026/${file}.bin`, Buffer.from(file)))
    }
  }
  return clinic
}

const closing = z.object({ closed_at: z.string().nullable(), purged_after: z.string().nullable() })

async function whenPurged(tenant: Tenant): Promise<void> {
  await seen(
    async () => {
      await hurry(sql, tenant)
      return await sql`select from public.organizations where id = ${tenant.organizationId}`
    },
    (organizations) => organizations.length === 0,
  )
}

describe('a clinic closes', () => {
  let clinic: Tenant
  let neighbour: Tenant
  let neighboursRows: Record<string, number>
  beforeAll(async () => {
    clinic = await aClinic('Clínica que Fecha')
    neighbour = await aClinic('Clínica que Fica')
    // Somebody works for both.
    const shared = memberOf(clinic, 'attendant')
    const { token } = valueOf(
      await asOwnerOf(neighbour).rpc('invite_member', {
        email: shared.email, role: 'viewer', organization_id: neighbour.organizationId,
      }),
    )
    valueOf(await shared.client.rpc('accept_invitation', { token }))
    await seen(
      () => sql`select from public.message_queue where organization_id = ${neighbour.organizationId} and status <> 'completed'`,
      (jobs) => jobs.length === 0,
    )
    neighboursRows = await rowsOf(neighbour)
  })

  test('then its numbers say nothing more, and its owner may change his mind', async () => {
    const owner = asOwnerOf(clinic)
    const closed = closing.parse(valueOf(await owner.rpc('close_organization', { organization_id: clinic.organizationId })))
    expect(Date.parse(closed.purged_after ?? '') - Date.parse(closed.closed_at ?? '')).toBe(90 * 24 * 3600 * 1000)
    const instances = valueOf(await owner.from('whatsapp_instances').select('status'))
    expect(instances).toEqual([{ status: 'disconnected' }])
    await expect(connectNumber(clinic)).rejects.toThrow('organization_closed')
    const opened = valueOf(await owner.rpc('reopen_organization', { organization_id: clinic.organizationId }))
    expect(closing.parse(opened)).toEqual({ closed_at: null, purged_after: null })
    await connectNumber(clinic)
  })

  test('and ninety days later it is gone, though a worker died of it in between', async () => {
    valueOf(await asOwnerOf(clinic).rpc('close_organization', { organization_id: clinic.organizationId, reason: 'Mudança' }))
    expect(Object.keys(await rowsOf(clinic)).length).toBeGreaterThanOrEqual(12)
    expect(await namesOfFiles(clinic)).toHaveLength(6)
    await sql`update public.organizations set closed_at = now() - interval '91 days' where id = ${clinic.organizationId}`
    // A worker that takes a few steps, and is never heard of again.
    const [job] = await sql<{ organization_id: string; id: string; fencing_token: number }[]>`
      insert into public.message_queue (
        organization_id, job_type, payload, status, attempts, max_attempts, locked_by, fencing_token, lease_expires_at)
      select o.id, 'purge_organization', jsonb_build_object('closed_at', o.closed_at), 'processing', 1, 100, 'who dies', 1,
        now() + interval '1 hour'
      from public.organizations o
      where o.id = ${clinic.organizationId}
      returning organization_id, id, fencing_token::int`
    for (let step = 0; step < 4; step += 1) {
      expect(valueOf(await platform.rpc('continue_purge', { job: { ...job }, batch_size: 2 }))).toMatchObject({
        action: expect.stringMatching(/^(again|remove)$/),
      })
    }
    const { error } = await asOwnerOf(clinic).rpc('reopen_organization', { organization_id: clinic.organizationId })
    expect(businessError(error)?.name).toBe('organization_purged')
    await sql`update public.message_queue set lease_expires_at = now() where id = ${job?.id ?? ''}`

    await whenPurged(clinic)
    const left = await rowsOf(clinic)
    expect(Object.keys(left).filter((table) => !['audit_logs', 'audit_seals', 'private.purges'].includes(table))).toEqual([])
    expect(await namesOfFiles(clinic)).toEqual([])
    const [purge] = await sql<{ counts: Record<string, number>; completed_at: Date | null }[]>`
      select counts, completed_at from private.purges where organization_id = ${clinic.organizationId}`
    expect(purge?.completed_at).not.toBeNull()
    expect(purge?.counts).toMatchObject({ 'files.media': 2, 'files.archive': 2, 'public.messages': 6 })
  })

  test('its people have their logins still, and their other work', async () => {
    const attendant = memberOf(clinic, 'attendant')
    const organizations = valueOf(await attendant.client.from('organizations').select('id'))
    expect(organizations).toEqual([{ id: neighbour.organizationId }])
    expect(valueOf(await asOwnerOf(clinic).from('organizations').select('id'))).toEqual([])
    const [{ count } = { count: 0 }] = await sql<{ count: number }[]>`
      select count(*)::int as count from auth.users where id = any (${Object.values(clinic.people).map(({ userId }) => userId)})`
    expect(count).toBe(4)
  })

  test('its log can be verified, and its neighbour has what it had', async () => {
    await sql`select private.seal_audit_logs()`
    const verdict = valueOf(await platform.rpc('verify_audit_chain', { organization_id: clinic.organizationId }))
    expect(verdict).toMatchObject({ is_intact: true })
    const rows = await rowsOf(neighbour)
    // The clock seals its log meanwhile, and may have deleted finished jobs.
    for (const table of ['audit_seals', 'message_queue']) {
      delete rows[table]
      delete neighboursRows[table]
    }
    expect(rows).toEqual(neighboursRows)
    expect(await namesOfFiles(neighbour)).toHaveLength(6)
  })
})

test('an organization that opened again meanwhile is not purged', async () => {
  const clinic = await aTenant(backend, 'Clínica Indecisa')
  valueOf(await asOwnerOf(clinic).rpc('close_organization', { organization_id: clinic.organizationId }))
  await sql`update public.organizations set closed_at = now() - interval '91 days' where id = ${clinic.organizationId}`
  await sql`
    select private.enqueue_jobs(array_agg(row(
      o.id, 'purge_organization', jsonb_build_object('closed_at', o.closed_at), 0, now() + interval '1 hour', null, 'purge:test', 5)::private.new_job))
    from public.organizations o where o.id = ${clinic.organizationId}`
  valueOf(await asOwnerOf(clinic).rpc('reopen_organization', { organization_id: clinic.organizationId }))
  await seen(
    async () => {
      await hurry(sql, clinic)
      return await sql<{ status: string }[]>`
        select status from public.message_queue where organization_id = ${clinic.organizationId} and job_type = 'purge_organization'`
    },
    (jobs) => jobs.every(({ status }) => status === 'completed'),
  )
  expect(valueOf(await asOwnerOf(clinic).from('organizations').select('closed_at'))).toEqual([{ closed_at: null }])
})

// Nobody waits ----------------------------------------------------------------------------------------------------------

describe('whoever reads or writes an old row is not waited for:', () => {
  const old = '2020-03-15T12:00:00Z'
  let clinic: Tenant
  beforeAll(async () => {
    clinic = await aTenant(backend, 'Clínica com Registros')
    await sql`select private.maintain_partitions(0, ${old})`
  })

  const anOldRow = async () => {
    const [row] = await sql<{ id: string }[]>`
      insert into public.api_call_logs (organization_id, service, endpoint, method, response_time_ms, success, created_at)
      values (${clinic.organizationId}, 'x', 'x', 'GET', 1, true, ${old})
      returning id`
    return row?.id ?? ''
  }
  const isThere = async (id: string) => (await sql`select from public.api_call_logs where id = ${id}`).length === 1

  test('a row that somebody holds stays until the next time', async () => {
    const [held, free] = [await anOldRow(), await anOldRow()]
    await sql.begin(async (transaction) => {
      await transaction`select from public.api_call_logs where id = ${held} for update`
      await sql`select private.delete_past_rows('api_call_logs')`
      expect([await isThere(held), await isThere(free)]).toEqual([true, false])
    })
    await sql`select private.delete_past_rows('api_call_logs')`
    expect(await isThere(held)).toBe(false)
  })

  test('two who delete at once share the work', async () => {
    const ids = new Set<string>()
    for (let row = 0; row < 40; row += 1) ids.add(await anOldRow())
    const counts = await Promise.all([1, 2, 3, 4].map(async () => {
      const [row] = await sql<{ deleted: number }[]>`select private.delete_past_rows('api_call_logs', now(), 25)::int as deleted`
      return row?.deleted ?? 0
    }))
    const [rest] = await sql<{ deleted: number }[]>`select private.delete_past_rows('api_call_logs')::int as deleted`
    expect(counts.reduce((sum, count) => sum + count, 0) + (rest?.deleted ?? 0)).toBeGreaterThanOrEqual(ids.size)
    for (const id of ids) expect(await isThere(id)).toBe(false)
  })

  test('a month that somebody reads is dropped when he has finished, and others write to the log meanwhile', async () => {
    const partition = 'api_call_logs_2020_03'
    const isKept = async () => {
      // The clock may do it, too.
      await sql`select private.drop_past_partition()`
      const [row] = await sql<{ is_there: boolean }[]>`select to_regclass(${`partitions.${partition}`}) is not null as is_there`
      return row?.is_there ?? false
    }
    await sql.begin(async (transaction) => {
      await transaction`select count(*) from ${transaction.unsafe(`partitions.${partition}`)}`
      for (let attempt = 0; attempt < 3; attempt += 1) expect(await isKept()).toBe(true)
      const [written] = await sql<{ id: string }[]>`
        insert into public.api_call_logs (organization_id, service, endpoint, method, response_time_ms, success)
        values (${clinic.organizationId}, ${randomUUID()}, 'x', 'GET', 1, true)
        returning id`
      expect(await isThere(written?.id ?? '')).toBe(true)
    })
    await seen(isKept, (isThere) => !isThere)
  })
})
