// A tenant's program, from the key that an admin makes to what it reads with supabase-js; and everything that must end it.

import { randomInt, randomUUID } from 'node:crypto'
import { createClient } from '@supabase/supabase-js'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { configuredFunctions } from '../../local/functions.ts'
import { PROJECT_DIR } from '../../local/environment.ts'
import { type ApiKey, businessError, createTenantClient, type Database } from '../../types/index.ts'
import { runningStack } from '../support/running-stack.ts'
import {
  asAdminOf,
  asAttendantOf,
  asNobody,
  asOwnerOf,
  asPlatform,
  asViewerOf,
  aTenant,
  type Client,
  memberOf,
  type Tenant,
  valueOf,
} from '../support/tenants.ts'

const backend = runningStack()
const sql = postgres(backend.urls.admin, { max: 4, onnotice: () => undefined })
let clinic: Tenant
let neighbour: Tenant

beforeAll(async () => {
  clinic = await aTenant(backend, 'Clínica das Chaves', ['admin', 'attendant', 'viewer'])
  neighbour = await aTenant(backend, 'Clínica Vizinha', ['admin'])
  for (const tenant of [clinic, neighbour]) {
    valueOf(await asOwnerOf(tenant).from('contacts').insert({ name: `Cliente de ${tenant.name}` }).select())
  }
})

afterAll(() => sql.end())

const granted = z.object({
  access_token: z.string(),
  token_type: z.literal('bearer'),
  expires_in: z.number().int().positive(),
  organization_id: z.string(),
  role: z.string(),
})

/** Nobody else's: tests share a stack, and its limits. */
const anAddress = () => `10.${randomInt(256)}.${randomInt(256)}.${randomInt(256)}`

async function exchange(key: string | null, address = anAddress()) {
  const response = await fetch(`${backend.urls.functions}/token`, {
    method: 'POST',
    headers: { 'cf-connecting-ip': address, ...(key === null ? {} : { authorization: `Bearer ${key}` }) },
  })
  const body: unknown = await response.json()
  return { status: response.status, headers: response.headers, body }
}

const refusalOf = ({ status, body }: { status: number; body: unknown }) => ({
  status,
  code: z.object({ error: z.object({ code: z.string() }) }).parse(body).error.code,
})

async function tokenFor({ key }: ApiKey): Promise<string> {
  const answer = await exchange(key)
  expect(answer.status, JSON.stringify(answer.body)).toBe(200)
  return granted.parse(answer.body).access_token
}

function program(accessToken: string): Client {
  return createClient<Database>(backend.urls.api, backend.keys.publishable, {
    accessToken: () => Promise.resolve(accessToken),
  })
}

async function aKey(
  { tenant = clinic, role = 'viewer' as const, name = `Chave ${randomUUID()}`, ...more }: {
    tenant?: Tenant
    role?: 'viewer' | 'attendant' | 'admin'
    name?: string
    expires_at?: string
  } = {},
): Promise<ApiKey> {
  return valueOf(
    await asAdminOf(tenant).rpc('create_api_key', {
      name,
      role,
      organization_id: tenant.organizationId,
      ...more,
    }),
  )
}

describe('from a key to rows', () => {
  test('a program reads its organization under its role, and no other', async () => {
    const key = await aKey()
    const answer = await exchange(key.key)
    expect(granted.parse(answer.body)).toMatchObject({
      organization_id: clinic.organizationId,
      role: 'viewer',
    })
    expect(JSON.stringify(answer.body)).not.toContain('refresh')
    const reader = program(granted.parse(answer.body).access_token)

    const contacts = valueOf(await reader.from('contacts').select('organization_id, name'))
    expect(contacts).toEqual([{
      organization_id: clinic.organizationId,
      name: 'Cliente de Clínica das Chaves',
    }])
    expect(valueOf(await reader.from('organizations').select('id'))).toEqual([{ id: clinic.organizationId }])
    expect((await reader.from('contacts').insert({ name: 'x' })).error?.code).toBe('42501')
    expect(valueOf(await reader.from('api_keys').select())).toEqual([])
    const { error } = await reader.from('contacts').insert({
      name: 'x',
      organization_id: neighbour.organizationId,
    })
    expect(error?.code).toBe('42501')
  })

  test('with another role it may do more, in the organization that it need not name', async () => {
    const writer = program(await tokenFor(await aKey({ role: 'attendant' })))
    const made = valueOf(
      await writer.from('contacts').insert({ name: 'Da planilha' }).select('organization_id, id').single(),
    )
    expect(made.organization_id).toBe(clinic.organizationId)
    expect(valueOf(await writer.rpc('user_organization_id'))).toBe(clinic.organizationId)
    const [log] = await sql`
      select l.user_id, l.actor_role from public.audit_logs l where l.record_id = ${made.id} and l.action = 'contacts.insert'`
    const [key] =
      await sql`select k.user_id from public.api_keys k where k.user_id = ${log?.user_id} and k.role = 'attendant'`
    expect(log).toMatchObject({ user_id: key?.user_id, actor_role: 'attendant' })
    valueOf(await writer.from('contacts').update({ name: 'x' }).eq('id', made.id).select())
    await sql`delete from public.contacts where id = ${made.id}`
  })

  test('colleagues see what the program is called, and what it is called now', async () => {
    const key = await aKey({ name: 'Planilha da recepção' })
    await tokenFor(key)
    const profile = () =>
      asAttendantOf(clinic).from('profiles').select('first_name').eq('user_id', key.user_id).single()
    expect(valueOf(await profile()).first_name).toBe('Planilha da recepção')
    valueOf(await asAdminOf(clinic).from('api_keys').update({ name: 'Planilha' }).eq('id', key.id).select())
    expect(valueOf(await profile()).first_name).toBe('Planilha')
    await tokenFor(key)
  })

  test('the key survives new names of the organization and of its slug', async () => {
    const key = await aKey()
    valueOf(
      await asOwnerOf(clinic).from('organizations')
        .update({ name: 'Clínica das Chaves', slug: `chaves-${randomInt(10 ** 9)}` }).eq(
          'id',
          clinic.organizationId,
        ).select(),
    )
    await tokenFor(key)
  })

  test("the types' tenant client works with a token", async () => {
    const token = await tokenFor(await aKey())
    const client = createTenantClient(backend.urls.api, backend.keys.publishable, clinic.organizationId, {
      accessToken: () => Promise.resolve(token),
    })
    expect(valueOf(await client.from('contacts').select('name'))).toHaveLength(1)
  })

  test('twenty first exchanges at once give twenty tokens that work, and one login', async () => {
    const key = await aKey()
    const answers = await Promise.all(Array.from({ length: 20 }, () => exchange(key.key)))
    for (const { status, body } of answers) {
      expect(status, JSON.stringify(body)).toBe(200)
      expect(valueOf(await program(granted.parse(body).access_token).from('contacts').select('id')))
        .toHaveLength(1)
    }
    expect(await sql`select 1 from auth.users u where u.id = ${key.user_id}`).toHaveLength(1)
  })

  test('a login that was deleted takes its key with it', async () => {
    const key = await aKey()
    await tokenFor(key)
    await sql`delete from auth.users u where u.id = ${key.user_id}`
    expect(refusalOf(await exchange(key.key))).toEqual({ status: 401, code: 'invalid_api_key' })
  })

  test('in a project without the login, as after a restore, the next exchange makes it again', async () => {
    const key = await aKey()
    await tokenFor(key)
    // What a restore leaves: the key and its secrets, and neither membership nor login.
    await sql.begin(async (transaction) => {
      await transaction`set local session_replication_role = replica`
      await transaction`delete from public.user_roles m where m.user_id = ${key.user_id}`
      await transaction`delete from public.profiles p where p.user_id = ${key.user_id}`
      await transaction`delete from auth.sessions s where s.user_id = ${key.user_id}`
      await transaction`delete from auth.identities i where i.user_id = ${key.user_id}`
      await transaction`delete from auth.users u where u.id = ${key.user_id}`
    })
    const again = program(await tokenFor(key))
    expect(valueOf(await again.from('contacts').select('id'))).toHaveLength(1)
  })
})

describe('what ends it', () => {
  test('revoking works at once, for the key and for every token that is out', async () => {
    const key = await aKey({ role: 'admin' })
    const before = program(await tokenFor(key))
    expect(valueOf(await before.from('contacts').select('id'))).toHaveLength(1)
    const revoked = valueOf(await asAdminOf(clinic).rpc('revoke_api_key', { api_key_id: key.id }))
    expect(revoked.revoked_at).not.toBeNull()

    expect(valueOf(await before.from('contacts').select('id'))).toEqual([])
    expect(valueOf(await before.from('organizations').select('id'))).toEqual([])
    expect(
      (await before.from('contacts').insert({ name: 'x', organization_id: clinic.organizationId })).error
        ?.code,
    ).toBe('42501')
    expect(
      businessError((await before.rpc('create_organization', { name: 'Fuga', vertical: 'clinic' })).error)
        ?.name,
    ).toBe('people_only')
    expect(refusalOf(await exchange(key.key))).toEqual({ status: 401, code: 'invalid_api_key' })
  })

  test('a key whose time is over says so, and its tokens open nothing as soon as the clock has come by', async () => {
    const key = await aKey({ expires_at: new Date(Date.now() + 60 * 60_000).toISOString() })
    const before = program(await tokenFor(key))
    await sql`update public.api_keys k set expires_at = now() where k.id = ${key.id}`
    expect(refusalOf(await exchange(key.key))).toEqual({ status: 401, code: 'api_key_expired' })
    valueOf(await asPlatform(backend).rpc('run_schedule', { name: 'expire_api_keys', force: true }))
    expect(valueOf(await before.from('contacts').select('id'))).toEqual([])
    expect(refusalOf(await exchange(key.key))).toEqual({ status: 401, code: 'api_key_expired' })
  })

  test('removing the program as a member revokes the key', async () => {
    const key = await aKey()
    const before = program(await tokenFor(key))
    valueOf(await asAdminOf(clinic).rpc('remove_member', { user_id: key.user_id }))
    expect(valueOf(await before.from('contacts').select('id'))).toEqual([])
    expect(refusalOf(await exchange(key.key))).toEqual({ status: 401, code: 'invalid_api_key' })
  })

  test('all keys die when their organization closes, and stay dead when it opens again', async () => {
    const closing = await aTenant(backend, 'Clínica que Fecha', ['admin'])
    valueOf(await asOwnerOf(closing).from('contacts').insert({ name: 'Cliente' }).select())
    const key = await aKey({ tenant: closing })
    const before = program(await tokenFor(key))
    await sql`update public.organizations o set closed_at = now() where o.id = ${closing.organizationId}`
    expect(valueOf(await before.from('contacts').select('id'))).toEqual([])
    expect(refusalOf(await exchange(key.key))).toEqual({ status: 401, code: 'invalid_api_key' })
    await sql`update public.organizations o set closed_at = null where o.id = ${closing.organizationId}`
    expect(refusalOf(await exchange(key.key))).toEqual({ status: 401, code: 'invalid_api_key' })
    expect(valueOf(await before.from('contacts').select('id'))).toEqual([])
  })

  test('a key that is revoked while it is exchanged for the first time lets nobody in', async () => {
    for (let round = 0; round < 10; round++) {
      const key = await aKey()
      const [answer] = await Promise.all([
        exchange(key.key),
        asAdminOf(clinic).rpc('revoke_api_key', { api_key_id: key.id }).then(valueOf),
      ])
      expect([200, 401]).toContain(answer.status)
      if (answer.status === 200) {
        const late = program(granted.parse(answer.body).access_token)
        expect(valueOf(await late.from('contacts').select('id'))).toEqual([])
      }
      const members =
        await sql`select 1 from public.user_roles m where m.user_id = ${key.user_id} and m.is_active`
      expect(members).toHaveLength(0)
    }
  })
})

describe('who may make one', () => {
  test.each([
    ['an attendant', () => asAttendantOf(clinic), 'not_allowed'],
    ['a viewer', () => asViewerOf(clinic), 'not_allowed'],
    ["another tenant's owner", () => asOwnerOf(neighbour), 'not_allowed'],
  ])('%s may not', async (_who, client, name) => {
    const { error } = await client().rpc('create_api_key', {
      name: 'x',
      role: 'viewer',
      organization_id: clinic.organizationId,
    })
    expect(businessError(error)?.name).toBe(name)
  })

  test('nobody may without signing in, and nobody makes an owner', async () => {
    const request = { name: 'x', role: 'viewer' as const, organization_id: clinic.organizationId }
    expect((await asNobody(backend).rpc('create_api_key', request)).error?.code).toBe('42501')
    const { error } = await asOwnerOf(clinic).rpc('create_api_key', { ...request, role: 'owner' })
    expect(businessError(error)?.name).toBe('invalid_api_key_role')
  })

  test('a program with the role of an admin makes no keys, invites nobody and ends nobody', async () => {
    const admin = program(await tokenFor(await aKey({ role: 'admin' })))
    const organization_id = clinic.organizationId
    for (
      const { error } of [
        await admin.rpc('create_api_key', { name: 'x', role: 'viewer', organization_id }),
        await admin.rpc('invite_member', { email: 'a@exemplo.com.br', role: 'admin', organization_id }),
        await admin.rpc('remove_member', { user_id: memberOf(clinic, 'viewer').userId, organization_id }),
        await admin.rpc('change_member_role', {
          user_id: memberOf(clinic, 'viewer').userId,
          role: 'admin',
          organization_id,
        }),
      ]
    ) expect(businessError(error)?.name).toBe('people_only')
  })

  test('nobody reads what opens a key: not by any name, not by any role', async () => {
    const key = await aKey()
    await tokenFor(key)
    const admin = asAdminOf(clinic)
    const rows = JSON.stringify(valueOf(await admin.from('api_keys').select()))
    expect(rows).not.toContain(key.key)
    expect(rows).not.toMatch(/hash|password|"v1\./)
    for (const bearer of [memberOf(clinic, 'owner').accessToken, backend.keys.serviceRole]) {
      for (
        const [path, profile] of [['api_key_secrets', 'public'], ['api_key_secrets', 'private'], [
          'api_keys?select=key_hash',
          'public',
        ]]
      ) {
        const response = await fetch(`${backend.urls.rest}/${path}`, {
          headers: {
            apikey: backend.keys.secret,
            authorization: `Bearer ${bearer}`,
            'accept-profile': profile ?? '',
          },
        })
        expect(response.ok, `${path} in ${profile}`).toBe(false)
        await response.body?.cancel()
      }
    }
    const [secret] =
      await sql`select s.password from private.api_key_secrets s where s.api_key_id = ${key.id}`
    expect(secret?.password).toMatch(/^v1\./)
  })
})

describe('guessing', () => {
  test('wrong, malformed and revoked keys get the same answer', async () => {
    const { key } = await aKey()
    const answers = new Set<string>()
    for (
      const wrong of [
        key.slice(0, -1) + (key.endsWith('A') ? 'B' : 'A'),
        key.slice(0, 20),
        'blk_',
        'x'.repeat(4000),
        backend.keys.publishable,
      ]
    ) {
      const answer = await exchange(wrong)
      expect(answer.status).toBe(401)
      answers.add(JSON.stringify(answer.body))
    }
    expect([...answers]).toEqual([
      JSON.stringify({
        error: { code: 'invalid_api_key', message: 'There is no such API key, or it was revoked' },
      }),
    ])
    expect(refusalOf(await exchange(null))).toEqual({ status: 401, code: 'not_authenticated' })
  })

  test('of a hundred guesses at once from one address sixty are looked at; nobody else has to wait', async () => {
    const address = anAddress()
    const { key } = await aKey()
    const startedAt = performance.now()
    const answers = await Promise.all(Array.from({ length: 100 }, (_, n) => exchange(`blk_${n}`, address)))
    const limited = answers.filter(({ status }) => status === 429)
    // One more each second that it took.
    const flowedIn = Math.ceil((performance.now() - startedAt) / 1000)
    expect(answers.length - limited.length).toBeGreaterThanOrEqual(60)
    expect(answers.length - limited.length).toBeLessThanOrEqual(60 + flowedIn)
    for (const answer of limited) {
      expect(refusalOf(answer).code).toBe('rate_limited')
      expect(Number(answer.headers.get('retry-after'))).toBeGreaterThanOrEqual(1)
    }
    expect((await exchange(key, anAddress())).status).toBe(200)
  })

  test('one key is limited too, from however many addresses', async () => {
    const { key, id } = await aKey()
    await sql`
      insert into private.rate_limits (name, key, full_at, is_granted)
      values ('token_by_key', ${id}, now() + interval '1 hour', true)`
    const answer = await exchange(key)
    expect(refusalOf(answer)).toEqual({ status: 429, code: 'rate_limited' })
    expect(answer.headers.get('retry-after')).toBe('3')
  })
})

describe('limits', () => {
  test('exactly as many pass as a bucket holds, of two hundred that ask at once over twenty connections', async () => {
    const name = `tried_${randomInt(10 ** 9)}`
    await sql`insert into private.rate_limit_rules (name, capacity, per_minute, description) values (${name}, 37, 1, 'For a test.')`
    const many = postgres(backend.urls.admin, { max: 20, onnotice: () => undefined })
    try {
      const answers = await Promise.all(
        Array.from({ length: 200 }, () => many`select private.take_from_rate_limit(${name}, 'x') as wait`),
      )
      expect(answers.filter(([row]) => row?.wait === null)).toHaveLength(37)
    } finally {
      await many.end()
      await sql`delete from private.rate_limit_rules r where r.name = ${name}`
    }
  })

  test('the clean-up frees nobody who has to wait, however often it runs beside those who ask', async () => {
    const name = `tried_${randomInt(10 ** 9)}`
    await sql`insert into private.rate_limit_rules (name, capacity, per_minute, description) values (${name}, 10, 1, 'For a test.')`
    try {
      const asked = Promise.all(
        Array.from({ length: 100 }, () => sql`select private.take_from_rate_limit(${name}, 'x') as wait`),
      )
      for (let round = 0; round < 20; round++) await sql`select private.delete_full_rate_limits()`
      expect((await asked).filter(([row]) => row?.wait === null)).toHaveLength(10)
      await sql`update private.rate_limits l set full_at = now() - interval '1 second' where l.name = ${name}`
      await asPlatform(backend).rpc('run_schedule', { name: 'delete_full_rate_limits', force: true })
      expect(await sql`select 1 from private.rate_limits l where l.name = ${name}`).toHaveLength(0)
    } finally {
      await sql`delete from private.rate_limit_rules r where r.name = ${name}`
    }
  })

  test('who looks at too many public pages is told 429 and when to come again', async () => {
    const address = anAddress()
    await sql`
      insert into private.rate_limits (name, key, full_at, is_granted)
      values ('public_profile_by_address', ${address}, now() + interval '1 hour', true)`
    const look = () =>
      fetch(`${backend.urls.rest}/rpc/get_public_profile`, {
        method: 'POST',
        headers: {
          apikey: backend.keys.publishable,
          'content-type': 'application/json',
          'cf-connecting-ip': address,
        },
        body: JSON.stringify({ slug: 'ninguem' }),
      })
    const response = await look()
    expect(response.status).toBe(429)
    expect(response.headers.get('retry-after')).toBe('1')
    const error: unknown = await response.json()
    expect(
      businessError(z.object({ code: z.string(), message: z.string(), details: z.string() }).parse(error)),
    ).toMatchObject({
      code: 'BL945',
      name: 'rate_limited',
      detail: { retry_after: 1 },
    })
    expect((await asNobody(backend).rpc('get_public_profile', { slug: 'ninguem' })).status).toBe(200)
  })
})

describe('the admin API of Auth, as far as it is imitated here', () => {
  const admin = asPlatform(backend).auth.admin

  test('makes a login with an id of our choice, changes and finds it; who has it signs in', async () => {
    const id = randomUUID()
    const email = `Programa-${id}@exemplo.com.br`
    const made = await admin.createUser({
      id,
      email,
      password: 'primeira senha',
      email_confirm: true,
      app_metadata: { a: 1 },
    })
    expect(made.data.user).toMatchObject({
      id,
      email: email.toLowerCase(),
      app_metadata: { a: 1, provider: 'email' },
    })
    expect((await admin.updateUserById(id, { password: 'segunda senha', app_metadata: { b: 2 } })).error)
      .toBeNull()
    expect((await admin.getUserById(id)).data.user?.app_metadata).toMatchObject({ a: 1, b: 2 })

    const client = asNobody(backend)
    expect((await client.auth.signInWithPassword({ email, password: 'primeira senha' })).error?.code).toBe(
      'invalid_credentials',
    )
    expect((await client.auth.signInWithPassword({ email, password: 'segunda senha' })).data.user?.id).toBe(
      id,
    )
  })

  test('refuses as GoTrue does', async () => {
    const email = `programa-${randomUUID()}@exemplo.com.br`
    expect((await admin.createUser({ email, password: 'uma senha', email_confirm: true })).error).toBeNull()
    expect((await admin.createUser({ email, password: 'outra senha' })).error).toMatchObject({
      status: 422,
      code: 'email_exists',
    })
    expect((await admin.updateUserById(randomUUID(), { password: 'uma senha' })).error).toMatchObject({
      status: 404,
      code: 'user_not_found',
    })
    for (const client of [asNobody(backend), asOwnerOf(clinic)]) {
      expect((await client.auth.admin.createUser({ email: `x-${email}`, password: 'uma senha' })).error)
        .toMatchObject({ status: 403, code: 'not_admin' })
    }
  })
})

describe("every function's answers", async () => {
  const functions = await configuredFunctions(PROJECT_DIR)

  test.each(functions)('$name sends the headers of something that no page shows', async ({ name }) => {
    for (const method of ['GET', 'POST', 'PUT']) {
      const response = await fetch(`${backend.urls.functions}/${name}`, { method })
      await response.body?.cancel()
      expect(Object.fromEntries(response.headers), `${method} ${response.status}`).toMatchObject({
        'x-content-type-options': 'nosniff',
        'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
        'referrer-policy': 'no-referrer',
        'cache-control': 'no-store',
      })
    }
  })
})
