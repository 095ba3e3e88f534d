// The audit log on a running stack: who is written down for what came through which door, and what happens to those who change
// what was written.

import { randomUUID } from 'node:crypto'
import { createClient } from '@supabase/supabase-js'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import type { Database } from '../../types/index.ts'
import { aContact } from '../support/agendas.ts'
import { aWaId, seen } from '../support/conversations.ts'
import { metaOf } from '../support/graph.ts'
import { runningStack } from '../support/running-stack.ts'
import {
  aPhoneNumber,
  asAdminOf,
  asAttendantOf,
  aTenant,
  connectNumber,
  memberOf,
  type Tenant,
  valueOf,
} from '../support/tenants.ts'

const backend = runningStack()
const sql = postgres(backend.urls.admin, { max: 12, onnotice: () => undefined })
afterAll(() => sql.end({ timeout: 1 }))

let clinic: Tenant
let neighbour: Tenant
beforeAll(async () => {
  clinic = await aTenant(backend, 'Clínica Registrada', ['admin', 'attendant'])
  neighbour = await aTenant(backend, 'Clínica ao Lado', ['attendant'])
})

type Db = postgres.Sql | postgres.TransactionSql

const verdict = z.object({
  is_intact: z.boolean(),
  first_broken: z.object({ number: z.number(), reason: z.string(), sealed_at: z.string().nullable() }).optional(),
  seals: z.number(),
  rows: z.number(),
  unsealed: z.number().optional(),
  head: z.object({ number: z.number().nullable(), hash: z.string().nullable() }).optional(),
})
type Verdict = z.infer<typeof verdict>

async function verified({ organizationId }: Pick<Tenant, 'organizationId'>, db: Db = sql): Promise<Verdict> {
  const [row] = await db`select private.verify_audit_chain(${organizationId}) as verdict`
  return verdict.parse(row?.['verdict'])
}

const seal = async (db: Db = sql) => await db`select private.seal_audit_logs()`

/** Whatever was written before is sealed; who writes elsewhere on this stack may hold it up for a moment. */
const whenSealed = (tenant: Tenant): Promise<Verdict> =>
  seen(async () => {
    await seal()
    return await verified(tenant)
  }, ({ is_intact, unsealed }) => !is_intact || unsealed === 0)

const rename = async (tenant: Tenant, id: string, name: string) => {
  valueOf(await asAttendantOf(tenant).from('contacts').update({ name }).eq('id', id).select('id').single())
}

interface Entry {
  action: string
  user_id: string | null
  actor_role: string
  request_id: string | null
  ip_address: string | null
  user_agent: string | null
  new_values: Record<string, unknown> | null
}
const told = async ({ organizationId }: Tenant, action: string): Promise<Entry[]> =>
  await sql<Entry[]>`
    select t.action, t.user_id, t.actor_role, t.request_id, host(t.ip_address) as ip_address, t.user_agent, t.new_values
    from public.audit_trail t
    where t.organization_id = ${organizationId} and t.action = ${action}
    order by t.id desc`

describe('who is written down', () => {
  test('a member who changes something with supabase-js: she, her role, her request', async () => {
    const contact = await aContact(clinic)
    const { accessToken, userId } = memberOf(clinic, 'attendant')
    const requestId = randomUUID()
    const app = createClient<Database>(backend.urls.api, backend.keys.publishable, {
      auth: { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false },
      global: { headers: { authorization: `Bearer ${accessToken}`, 'x-request-id': requestId, 'user-agent': 'Recepcao/3.1' } },
    })
    valueOf(await app.from('contacts').update({ name: 'Rosa' }).eq('id', contact.id).select('id').single())
    const [entry] = await told(clinic, 'contacts.update')
    expect(entry).toEqual({
      action: 'contacts.update',
      user_id: userId,
      actor_role: 'attendant',
      request_id: requestId,
      ip_address: expect.stringMatching(/^(127\.0\.0\.1|::1|::ffff:127\.0\.0\.1)$/),
      user_agent: 'Recepcao/3.1',
      new_values: { name: 'Rosa' },
    })
    // Her administrator reads it, a neighbour's nothing of it.
    const history = valueOf(
      await asAdminOf(clinic).from('audit_trail').select('action, old_values').eq('record_id', contact.id)
        .order('created_at', { ascending: false }),
    )
    expect(history).toEqual([
      { action: 'contacts.update', old_values: { name: contact.name } },
      { action: 'contacts.insert', old_values: null },
    ])
    expect(valueOf(await memberOf(neighbour, 'owner').client.from('audit_trail').select('id').eq('record_id', contact.id))).toEqual([])
  })

  test('who changes something through a function: she, her address and her request, not the function\'s', async () => {
    const { instanceId } = await connectNumber(clinic)
    const { accessToken, userId } = memberOf(clinic, 'admin')
    const requestId = randomUUID()
    const rename = (name: string, headers: Record<string, string>) =>
      fetch(`${backend.urls.functions}/manage-instance`, {
        method: 'PATCH',
        headers: { 'content-type': 'application/json', authorization: `Bearer ${accessToken}`, ...headers },
        body: JSON.stringify({ organization_id: clinic.organizationId, instance_id: instanceId, name, phone_number: aPhoneNumber() }),
      })
    // What Cloudflare says in front of a hosted project.
    const answer = await rename('Central', { 'cf-connecting-ip': '203.0.113.7', 'user-agent': 'Painel/2', 'x-request-id': requestId })
    expect(answer.status).toBe(200)
    expect((await told(clinic, 'whatsapp_instances.update'))[0]).toMatchObject({
      user_id: userId,
      actor_role: 'admin',
      request_id: requestId,
      ip_address: '203.0.113.7',
      user_agent: 'Painel/2',
    })
    expect(answer.headers.get('x-request-id')).toBe(requestId)

    // What only functions may say is not believed of anybody else.
    const contact = await aContact(clinic)
    const response = await fetch(`${backend.urls.rest}/contacts?id=eq.${contact.id}`, {
      method: 'PATCH',
      headers: {
        apikey: backend.keys.publishable,
        authorization: `Bearer ${accessToken}`,
        'content-type': 'application/json',
        'x-balcao-function-key': 'a-guess',
        'x-balcao-address': '198.51.100.1',
      },
      body: JSON.stringify({ name: 'Nair' }),
    })
    expect(response.status).toBe(204)
    const [entry] = await told(clinic, 'contacts.update')
    expect(entry?.new_values).toEqual({ name: 'Nair' })
    expect(entry?.ip_address).not.toBe('198.51.100.1')
  })

  test('the webhook and the worker: the platform', async () => {
    const number = await connectNumber(clinic)
    valueOf(
      await asAdminOf(clinic).from('flows').insert({
        organization_id: clinic.organizationId,
        name: 'Interesse',
        is_default: true,
        definition: {
          etapas: [{ id: 'lead', tipo: 'acao', acao: { tipo: 'criar_lead' }, proxima: 'fim' }, { id: 'fim', tipo: 'fim', pergunta: 'Obrigado!' }],
        },
      }).select('id').single(),
    )
    await metaOf(backend).inbound(number, { from: aWaId(), name: 'Célia', message: { type: 'text', text: { body: 'Oi' } } })
    const leads = await seen(() => told(clinic, 'leads.insert'), (entries) => entries.length > 0)
    expect(leads).toMatchObject([{ user_id: null, actor_role: 'service_role' }])
    const [contact] = await told(clinic, 'contacts.insert')
    expect(contact).toMatchObject({ user_id: null, actor_role: 'service_role', new_values: { profile_name: 'Célia' } })
    const [flow] = await told(clinic, 'flows.insert')
    expect(flow).toMatchObject({ user_id: memberOf(clinic, 'admin').userId, actor_role: 'admin' })
  })

  test('signing in, inviting and removing a colleague', async () => {
    const { client, userId } = memberOf(clinic, 'attendant')
    valueOf(await client.rpc('ensure_profile', { first_name: 'Ana' }))
    expect(await told(clinic, 'login')).toMatchObject([{ user_id: userId, actor_role: 'attendant' }])
    const joined = await told(clinic, 'user_roles.insert')
    expect(joined.map(({ new_values }) => new_values?.['role']).toSorted()).toEqual(['admin', 'attendant', 'owner'])
  })
})

// Behind the triggers' back ---------------------------------------------------------------------------------------------------

class Undone extends Error {}

/** What verify_audit_chain() finds after a superuser has done this with the triggers off; nothing of it stays. */
async function after(tenant: Tenant, tamper: (db: postgres.TransactionSql) => Promise<unknown>): Promise<Verdict> {
  let found: Verdict | undefined
  await sql.begin(async (db) => {
    await db`set local session_replication_role = replica`
    await tamper(db)
    found = await verified(tenant, db)
    throw new Undone()
  }).catch((error: unknown) => {
    if (!(error instanceof Undone)) throw error
  })
  if (found === undefined) throw new Error('It was not looked at.')
  return found
}

const broken = ({ is_intact, first_broken }: Verdict) => is_intact ? 'intact' : `${first_broken?.number} ${first_broken?.reason}`

describe('what was sealed and is changed afterwards', () => {
  let shop: Tenant
  let contactId: string
  const SEALS = 5
  /** Rows of the n-th seal, by id. */
  const rowsOf = async (number: number) =>
    await sql<{ id: string; created_at: Date; transaction_id: string }[]>`
      select l.id, l.created_at, l.transaction_id::text
      from public.audit_logs l
      join public.audit_seals s
        on s.organization_id = l.organization_id and s.epoch = l.epoch
        and l.transaction_id >= s.from_transaction_id and l.transaction_id < s.to_transaction_id
      where s.organization_id = ${shop.organizationId} and s.number = ${number}
      order by l.transaction_id, l.id`
  const rowOf = async (number: number) => {
    const [row] = await rowsOf(number)
    if (row === undefined) throw new Error(`The seal ${number} has no rows.`)
    return row
  }

  beforeAll(async () => {
    shop = await aTenant(backend, 'Loja Vigiada', ['admin', 'attendant'])
    contactId = (await aContact(shop)).id
    await whenSealed(shop)
    for (let n = (await verified(shop)).seals; n < SEALS; n++) {
      await rename(shop, contactId, `Nome ${n}`)
      await rename(shop, contactId, `Outro nome ${n}`)
      await whenSealed(shop)
    }
    // The neighbours' seals are of other numbers, and nobody's business.
    await aContact(neighbour)
  })

  test('as it is, it is intact, and its head is what an administrator keeps', async () => {
    const found = verdict.parse(valueOf(await asAdminOf(shop).rpc('verify_audit_chain')))
    expect(found).toMatchObject({ is_intact: true, seals: SEALS, unsealed: 0, head: { number: SEALS } })
    const [rows] = await sql<{ count: number }[]>`
      select count(*)::int as count from public.audit_logs l where l.organization_id = ${shop.organizationId}`
    expect(found.rows).toBe(rows?.count)
    const [head] = await sql<{ hash: string }[]>`
      select encode(s.hash, 'hex') as hash from public.audit_seals s
      where s.organization_id = ${shop.organizationId} and s.number = ${SEALS}`
    expect(found.head?.hash).toBe(head?.hash)
    expect(await sql`
      select f.* from generate_series(0, 23) h cross join lateral private.verify_audit_chains(h) f
      where f.organization_id = ${shop.organizationId}`).toEqual([])
  })

  test('every column of a row: the first seal that is broken is named, whatever else is', async () => {
    const columns = await sql<{ name: string; type: string }[]>`
      select a.attname as name, format_type(a.atttypid, null) as type
      from pg_catalog.pg_attribute a
      where a.attrelid = 'public.audit_logs'::regclass and a.attnum > 0 and not a.attisdropped
        and a.attname not in ('organization_id', 'epoch', 'transaction_id')`
    const changed: Record<string, string> = {
      uuid: 'gen_random_uuid()',
      text: `'another'`,
      bytea: `'\\x00'`,
      jsonb: `'{"another": true}'`,
      'audit_operation': `'EVENT'`,
      'timestamp with time zone': `created_at + interval '1 microsecond'`,
    }
    const { id } = await rowOf(3)
    for (const { name, type } of columns) {
      const value = changed[type]
      if (value === undefined) throw new Error(`How is a ${type} changed?`)
      const found = await after(shop, async (db) => {
        await db.unsafe(`update public.audit_logs set ${name} = ${value} where id = '${id}'`)
        const { id: later } = await rowOf(4)
        await db`update public.audit_logs set action = 'another' where id = ${later}`
      })
      expect(broken(found), name).toBe('3 rows_changed')
      expect(found.seals).toBe(2)
    }
    expect(columns).toHaveLength(12)
  })

  test('a row goes to another tenant, another transaction, another epoch', async () => {
    const { id, transaction_id } = await rowOf(2)
    const { transaction_id: later } = await rowOf(4)
    expect(broken(await after(shop, (db) =>
      db`update public.audit_logs set organization_id = ${neighbour.organizationId} where id = ${id}`))).toBe('2 rows_deleted')
    expect(broken(await after(shop, (db) => db`update public.audit_logs set epoch = epoch + 1000 where id = ${id}`))).toBe('2 rows_deleted')
    expect(broken(await after(shop, (db) => db`update public.audit_logs set epoch = 0 where id = ${id}`))).toBe('2 rows_deleted')
    expect(broken(await after(shop, (db) =>
      db`update public.audit_logs set transaction_id = ${later}::text::xid8 where id = ${id}`))).toBe('2 rows_deleted')
    const swap = async (db: postgres.TransactionSql) => {
      const { id: other } = await rowOf(3)
      await db`update public.audit_logs set transaction_id = ${(await rowOf(3)).transaction_id}::text::xid8 where id = ${id}`
      await db`update public.audit_logs set transaction_id = ${transaction_id}::text::xid8 where id = ${other}`
    }
    expect(broken(await after(shop, swap))).toBe('2 rows_changed')
  })

  test('a row is deleted, or one is slipped in: into a seal, between seals, behind the last', async () => {
    const { id, transaction_id } = await rowOf(3)
    const forge = (db: postgres.TransactionSql, transaction: string) => db`
      insert into public.audit_logs (organization_id, transaction_id, actor_role, operation, action, values_digest, origin_digest)
      values (${shop.organizationId}, ${transaction}::text::xid8, 'owner', 'EVENT', 'forged', '\\x', '\\x')`
    expect(broken(await after(shop, (db) => db`delete from public.audit_logs where id = ${id}`))).toBe('3 rows_deleted')
    expect(broken(await after(shop, async (db) => {
      await db`delete from public.audit_logs where id in ${sql((await rowsOf(3)).map((row) => row.id))}`
    }))).toBe('3 rows_deleted')
    expect(broken(await after(shop, (db) => forge(db, transaction_id)))).toBe('3 rows_inserted')
    const [bounds] = await sql<{ first: string; before_last: string; after_last: string }[]>`
      select min(s.from_transaction_id)::text as first,
        (max(s.to_transaction_id)::text::numeric - 1)::text as before_last, max(s.to_transaction_id)::text as after_last
      from public.audit_seals s where s.organization_id = ${shop.organizationId}`
    if (bounds === undefined) throw new Error('There are no seals.')
    expect(broken(await after(shop, (db) => forge(db, bounds.first)))).toBe('1 rows_inserted')
    expect(broken(await after(shop, (db) => forge(db, bounds.before_last)))).toBe(`${SEALS} rows_inserted`)
    // Sealed is further than this tenant's last seal, for others have written since.
    await seen(async () => {
      await aContact(neighbour)
      await seal()
      const [row] = await sql<{ is_past: boolean }[]>`
        select p.transaction_id > ${bounds.after_last}::text::xid8 as is_past from private.audit_sealing p`
      return row?.is_past
    }, (isPast) => isPast === true)
    expect(broken(await after(shop, (db) => forge(db, bounds.after_last)))).toBe(`${SEALS + 1} seal_missing`)
  })

  test('a row is replaced by another one, with digests that fit it', async () => {
    const { id } = await rowOf(4)
    const found = await after(shop, async (db) => {
      await db`update public.audit_log_values set new_values = '{"name": "Forjado"}' where audit_log_id = ${id}`
      await db`
        update public.audit_logs l set values_digest = private.audit_values_digest(v)
        from public.audit_log_values v where v.audit_log_id = l.id and l.id = ${id}`
    })
    expect(broken(found)).toBe('4 rows_changed')
  })

  test('values are changed, moved or slipped in; deleting them breaks nothing', async () => {
    const { id } = await rowOf(3)
    const { id: other } = await rowOf(4)
    for (const change of [
      `new_values = '{"name": "Forjado"}'`, `old_values = null`, `contact_id = null`, `user_agent = 'another'`, `ip_address = '192.0.2.1'`,
      `ip_address = null`, 'salt = gen_random_uuid()',
    ]) {
      const found = await after(shop, (db) => db.unsafe(`update public.audit_log_values set ${change} where audit_log_id = '${id}'`))
      expect(broken(found), change).toBe('3 values_changed')
    }
    expect(broken(await after(shop, async (db) => {
      await db`delete from public.audit_log_values where audit_log_id = ${id}`
      await db`
        update public.audit_log_values v set audit_log_id = l.id, created_at = l.created_at
        from public.audit_logs l where v.audit_log_id = ${other} and l.id = ${id}`
    }))).toBe('3 values_changed')
    expect(broken(await after(shop, (db) => db`
      insert into public.audit_log_values (organization_id, audit_log_id, new_values, created_at)
      select l.organization_id, gen_random_uuid(), '{"name": "Forjado"}', l.created_at from public.audit_logs l where l.id = ${id}`)))
      .toMatch(/^\d values_inserted$/)

    expect(broken(await after(shop, (db) => db`delete from public.audit_log_values where audit_log_id = ${id}`))).toBe('intact')
    expect(broken(await after(shop, (db) =>
      db`delete from public.audit_log_values where organization_id = ${shop.organizationId}`))).toBe('intact')
    expect(broken(await after(shop, (db) => db`
      update public.audit_log_values v
      set ip_address = network(set_masklen(v.ip_address, case family(v.ip_address) when 4 then 24 else 48 end))
      where v.organization_id = ${shop.organizationId}`))).toBe('intact')
  })

  test('a seal is changed in any column, deleted, slipped in, or made anew', async () => {
    const seals = (number: number) => sql`organization_id = ${shop.organizationId} and number = ${number}`
    for (const [change, reason] of [
      [`row_count = row_count + 1`, 'seal_changed'],
      [`last_created_at = now() - interval '10 years'`, 'seal_changed'],
      [`rows_hash = '\\x00'`, 'seal_changed'],
      [`hash = '\\x00'`, 'seal_changed'],
      [`previous_hash = '\\x00'`, 'chain_broken'],
      [`from_transaction_id = '1'`, 'gap'],
      [`to_transaction_id = (to_transaction_id::text::numeric + 1)::text::xid8`, 'seal_changed'],
      [`epoch = epoch - 1`, 'gap'],
      [`number = 1000`, null],
    ] as const) {
      const found = await after(shop, (db) =>
        db.unsafe(`update public.audit_seals set ${change} where organization_id = '${shop.organizationId}' and number = 3`))
      expect(broken(found), change).toBe(reason === null ? '4 seal_missing' : `3 ${reason}`)
    }
    for (const number of [1, 3]) {
      expect(broken(await after(shop, (db) => db`delete from public.audit_seals where ${seals(number)}`))).toBe(`${number + 1} seal_missing`)
    }
    // Cut at its end, it shows as long as the rows are there.
    expect(broken(await after(shop, (db) => db`delete from public.audit_seals where ${seals(SEALS)}`))).toBe(`${SEALS} seal_missing`)
    expect(broken(await after(shop, (db) =>
      db`delete from public.audit_seals where organization_id = ${shop.organizationId}`))).toBe('1 seal_missing')
    expect(broken(await after(shop, (db) => db`
      insert into public.audit_seals
      select s.organization_id, s.number + 1, s.epoch, s.to_transaction_id, s.to_transaction_id, 0, s.last_created_at, '', s.hash, ''
      from public.audit_seals s where ${seals(SEALS)}`))).toBe(`${SEALS + 1} seal_changed`)

    // Who makes a seal anew, with all that he knows, has the next one against him.
    const anew = async (db: postgres.TransactionSql, number: number) => {
      const { id } = await rowOf(number)
      await db`update public.audit_logs set action = 'another' where id = ${id}`
      await db`
        update public.audit_seals s set rows_hash = (
          select sha256(string_agg(private.audit_row_hash(l), ''::bytea order by l.transaction_id, l.id))
          from public.audit_logs l
          where l.organization_id = s.organization_id and l.epoch = s.epoch
            and l.transaction_id >= s.from_transaction_id and l.transaction_id < s.to_transaction_id)
        where ${seals(number)}`
      await db`update public.audit_seals s set hash = private.audit_seal_hash(s) where ${seals(number)}`
    }
    expect(broken(await after(shop, (db) => anew(db, 3)))).toBe('4 chain_broken')
    // And of the last one only the head that was kept elsewhere tells.
    const before = await verified(shop)
    const last = await after(shop, (db) => anew(db, SEALS))
    expect(broken(last)).toBe('intact')
    expect(last.head?.hash).not.toBe(before.head?.hash)
  })

  test('what retention has taken is no break, and what it has not taken yet is none either', async () => {
    const old = async (db: postgres.TransactionSql, years: number, rows: 'all' | 'half' | 'none') => {
      // As if all of the first two seals had been written then.
      const ids = [...await rowsOf(1), ...await rowsOf(2)].map(({ id }) => id)
      await db`update public.audit_logs set created_at = created_at - make_interval(years => ${years}) where id in ${sql(ids)}`
      await db`delete from public.audit_log_values where audit_log_id in ${sql(ids)}`
      for (let number = 1; number <= SEALS; number++) {
        await db`
          update public.audit_seals s set
            rows_hash = x.rows_hash, last_created_at = x.last_created_at,
            previous_hash = coalesce((select p.hash from public.audit_seals p where p.organization_id = s.organization_id and p.number = s.number - 1), '\\x')
          from (
            select sha256(string_agg(private.audit_row_hash(l), ''::bytea order by l.transaction_id, l.id)) as rows_hash, max(l.created_at) as last_created_at
            from public.audit_logs l
            join public.audit_seals t
              on t.organization_id = l.organization_id and t.epoch = l.epoch
              and l.transaction_id >= t.from_transaction_id and l.transaction_id < t.to_transaction_id
            where t.organization_id = ${shop.organizationId} and t.number = ${number}
          ) x
          where s.organization_id = ${shop.organizationId} and s.number = ${number}`
        await db`update public.audit_seals s set hash = private.audit_seal_hash(s) where organization_id = ${shop.organizationId} and number = ${number}`
      }
      const gone = rows === 'all' ? ids : rows === 'half' ? ids.slice(0, 1) : []
      if (gone.length > 0) await db`delete from public.audit_logs where id in ${sql(gone)}`
    }
    const longer = (db: postgres.TransactionSql) => db`
      insert into public.organization_settings (organization_id, retention_overrides) values (${shop.organizationId}, '{"audit_logs": 3650}')
      on conflict (organization_id) do update set retention_overrides = excluded.retention_overrides`
    for (const rows of ['all', 'half', 'none'] as const) {
      expect(broken(await after(shop, (db) => old(db, 6, rows))), rows).toBe('intact')
    }
    expect(broken(await after(shop, (db) => old(db, 4, 'half')))).toBe('1 rows_deleted')
    // Whoever wishes to keep it for ten years has no use for what had gone before.
    expect(broken(await after(shop, async (db) => {
      await longer(db)
      await old(db, 6, 'all')
    }))).toBe('intact')
    expect(broken(await after(shop, async (db) => {
      await longer(db)
      await old(db, 6, 'half')
    }))).toBe('1 rows_deleted')
  })

  test('an organization that is gone leaves its log', async () => {
    const before = await verified(shop)
    const found = await after(shop, (db) => db`delete from public.organizations where id = ${shop.organizationId}`)
    expect(found).toEqual(before)
  })
})

// Sealing ---------------------------------------------------------------------------------------------------------------------

describe('sealing', () => {
  test('waits for who commits late, and misses nothing of him', async () => {
    const shop = await aTenant(backend, 'Loja Vagarosa', ['attendant'])
    const { id } = await aContact(shop)
    await whenSealed(shop)
    const late = await sql.reserve()
    try {
      await late`begin`
      await late`update public.contacts set name = 'Tarde' where organization_id = ${shop.organizationId} and id = ${id}`
      // He has written, and has not committed; others have, after him.
      const { id: second } = await aContact(shop)
      await rename(shop, second, 'Cedo')
      await seal()
      expect(await verified(shop)).toMatchObject({ is_intact: true, unsealed: 2 })
      await late`commit`
    } finally {
      late.release()
    }
    expect(await verified(shop)).toMatchObject({ is_intact: true, unsealed: 3 })
    const whole = await whenSealed(shop)
    expect(whole).toMatchObject({ is_intact: true, unsealed: 0 })
    const [rows] = await sql<{ rows: number; sealed: number }[]>`
      select (select count(*)::int from public.audit_logs l where l.organization_id = ${shop.organizationId}) as rows,
        (select sum(s.row_count)::int from public.audit_seals s where s.organization_id = ${shop.organizationId}) as sealed`
    expect(rows).toEqual({ rows: whole.rows, sealed: whole.rows })
  })

  test('by several at once, while others write: every row once, in one chain', async () => {
    const shop = await aTenant(backend, 'Loja Cheia', ['attendant'])
    const contacts = await Promise.all(Array.from({ length: 4 }, () => aContact(shop)))
    let isWriting = true
    const sealers = Array.from({ length: 4 }, async () => {
      while (isWriting) await seal()
    })
    try {
      await Promise.all(contacts.map(async ({ id }) => {
        for (let n = 0; n < 40; n++) {
          await sql`update public.contacts set name = ${`Nome ${n}`} where organization_id = ${shop.organizationId} and id = ${id}`
        }
      }))
    } finally {
      isWriting = false
      await Promise.all(sealers)
    }
    const whole = await whenSealed(shop)
    expect(whole).toMatchObject({ is_intact: true, unsealed: 0 })
    expect(whole.seals).toBeGreaterThan(3)
    const [count] = await sql<{ updates: number; sealed: number }[]>`
      select (select count(*)::int from public.audit_logs l where l.organization_id = ${shop.organizationId} and l.action = 'contacts.update') as updates,
        (select sum(s.row_count)::int from public.audit_seals s where s.organization_id = ${shop.organizationId}) as sealed`
    expect(count).toEqual({ updates: 160, sealed: whole.rows })
  })

  test('by one who had looked before another one ended: he goes on where that one ended', async () => {
    const shop = await aTenant(backend, 'Loja em Fila', ['attendant'])
    const { id } = await aContact(shop)
    await whenSealed(shop)
    const first = await sql.reserve()
    try {
      // He holds the position; whoever comes meanwhile leaves it to him.
      await first`begin`
      await first`select private.seal_audit_logs()`
      await rename(shop, id, 'Meio')
      const [other] = await sql<{ sealed: string }[]>`select private.seal_audit_logs() as sealed`
      expect(Number(other?.sealed)).toBe(0)
      await first`commit`
    } finally {
      first.release()
    }
    const [before] = await sql<{ at: string }[]>`select s.transaction_id::text as at from private.audit_sealing s`
    await seal()
    const [later] = await sql<{ at: string }[]>`select s.transaction_id::text as at from private.audit_sealing s`
    expect(BigInt(later?.at ?? 0)).toBeGreaterThanOrEqual(BigInt(before?.at ?? 0))
    expect(await whenSealed(shop)).toMatchObject({ is_intact: true, unsealed: 0 })
  })

  test('in a database that counts anew: an epoch begins by itself, once, and the chains go on', async () => {
    const shop = await aTenant(backend, 'Loja Restaurada', ['attendant'])
    const { id } = await aContact(shop)
    const before = await whenSealed(shop)
    const [old] = await sql<{ epoch: number }[]>`select private.epoch() as epoch`
    // As restored from a dump: all is sealed, up to a transaction that this database will not see for long.
    await sql.begin(async (db) => {
      await db`lock table public.audit_logs in share row exclusive mode`
      const [sealing] = await db<{ epoch: number; transaction_id: string }[]>`
        select s.epoch, s.transaction_id::text from private.audit_sealing s for no key update`
      await db`
        select private.seal_audit_epoch(${sealing?.epoch ?? 0}, ${sealing?.transaction_id ?? '0'}::text::xid8, '18446744073709551615')`
      await db`update private.audit_sealing s set transaction_id = '1000000000000'`
    })
    await Promise.all(Array.from({ length: 6 }, (_, n) =>
      sql`update public.contacts set name = ${`Novo ${n}`} where organization_id = ${shop.organizationId} and id = ${id}`))
    const epochs = await sql<{ epoch: number }[]>`
      select distinct l.epoch from public.audit_logs l
      where l.organization_id = ${shop.organizationId} and l.epoch > ${old?.epoch ?? 0}`
    expect(epochs).toHaveLength(1)
    const after = await whenSealed(shop)
    expect(after).toMatchObject({ is_intact: true, unsealed: 0, rows: before.rows + 6 })

    // Said by hand, while others write.
    let isWriting = true
    const writers = Array.from({ length: 3 }, async (_, n) => {
      const contact = await aContact(shop)
      for (let k = 0; isWriting || k < 5; k++) {
        await sql`update public.contacts set name = ${`${n} ${k}`} where organization_id = ${shop.organizationId} and id = ${contact.id}`
      }
    })
    for (let n = 0; n < 5; n++) {
      await sql`select private.begin_epoch('for the sake of a test')`
      await seal()
    }
    isWriting = false
    await Promise.all(writers)
    expect(await whenSealed(shop)).toMatchObject({ is_intact: true, unsealed: 0 })
    expect(await whenSealed(clinic)).toMatchObject({ is_intact: true })
  })
})
