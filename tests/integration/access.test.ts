// Who sees and may do what, asked as a client app asks: with supabase-js and each person's own key. The matrix of every
// table and command is in tests/database; here it is the doors that count.

import { randomUUID } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join as pathOf } from 'node:path'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { businessError, type TableName, tenantClient } from '../../types/index.ts'
import { aTextMessage, metaWebhook } from '../support/meta.ts'
import { runningStack } from '../support/running-stack.ts'
import {
  aPerson,
  aPhoneNumber,
  asAdminOf,
  asAttendantOf,
  asNobody,
  asOwnerOf,
  asPlatform,
  asViewerOf,
  aTenant,
  type Client,
  connectNumber,
  type ConnectedNumber,
  manageInstance,
  memberOf,
  type Person,
  type Tenant,
  valueOf,
} from '../support/tenants.ts'

interface Column {
  table_name: TableName
  columns: string[]
}

const backend = runningStack()
const platform = asPlatform(backend)
const sql = postgres(backend.urls.admin, { max: 1 })
const everybody = ['viewer', 'attendant', 'admin'] as const

let clinic: Tenant
let neighbour: Tenant
let stranger: Person
let number: ConnectedNumber
let tables: TableName[]
let writableTables: TableName[]

beforeAll(async () => {
  clinic = await aTenant(backend, 'Clínica Central', [...everybody])
  neighbour = await aTenant(backend, 'Clínica Vizinha', ['attendant'])
  stranger = await aPerson(backend)
  number = await connectNumber(clinic)
  for (const [tenant, connected] of [[clinic, number], [neighbour, await connectNumber(neighbour)]] as const) {
    const message = aTextMessage({ to: connected.externalId, from: '5511987650001', id: `wamid.${randomUUID()}` })
    const { status } = await metaWebhook(message).signedWith(connected.appSecret).postedTo(connected.webhookUrl)
    expect(status).toBe(200)
    const rows = tenantClient(asOwnerOf(tenant), tenant.organizationId)
    valueOf(await rows.from('locations').insert({ name: 'Centro', slug: 'centro' }).select())
    valueOf(await rows.from('authorized_owner_numbers').insert({ phone_number: aPhoneNumber() }).select())
    valueOf(await asOwnerOf(tenant).rpc('ensure_profile', { first_name: 'Dona' }))
  }
  const found = await sql<{ table_name: TableName; is_view: boolean }[]>`
    select c.relname as table_name, c.relkind in ('v', 'm') as is_view
    from pg_catalog.pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm') and not c.relispartition
    order by c.relname`
  tables = found.map(({ table_name }) => table_name)
  // Into a view nobody at all can write.
  writableTables = found.filter(({ is_view }) => !is_view).map(({ table_name }) => table_name)
  expect(tables.length).toBeGreaterThan(10)
})

afterAll(() => sql.end())

/** The columns that a role may read, by table. */
async function readableBy(role: 'authenticated' | 'service_role'): Promise<Column[]> {
  return await sql<Column[]>`
    select c.relname as table_name, array_agg(a.attname::text order by a.attnum) as columns
    from pg_catalog.pg_class c
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.oid::regclass::text = any (${tables.map((name) => name)})
      and has_column_privilege(${role}, c.oid, a.attnum, 'select')
    group by c.relname
    order by c.relname`
}

/** Everything that a client can read, as one text. */
async function allThatIsSeenBy(client: Client, role: 'authenticated' | 'service_role'): Promise<string> {
  const texts: string[] = []
  for (const { table_name, columns } of await readableBy(role)) {
    for (let from = 0;; from += 1000) {
      const rows: unknown[] = valueOf(await client.from(table_name).select(columns.join(',')).range(from, from + 999))
      texts.push(JSON.stringify(rows))
      if (rows.length < 1000) break
    }
  }
  return texts.join('\n')
}

/** What anyone may call: a professional's public page. */
const PUBLIC_FUNCTIONS = ['get_public_profile']

describe('nobody', () => {
  test('reads no table', async () => {
    for (const table of tables) {
      const { data, error } = await asNobody(backend).from(table).select('*').limit(1)
      expect({ table, data, code: error?.code }).toEqual({ table, data: null, code: '42501' })
    }
  })

  test('calls no function but the one that is public', async () => {
    const functions = await sql<{ name: string; args: string[] }[]>`
      select p.proname as name, coalesce(p.proargnames[1:p.pronargs], '{}') as args
      from pg_catalog.pg_proc p
      where p.pronamespace = 'public'::regnamespace and p.prorettype <> 'trigger'::regtype
      order by p.proname`
    expect(functions.length).toBeGreaterThan(10)
    for (const { name, args } of functions.filter(({ name }) => !PUBLIC_FUNCTIONS.includes(name))) {
      const response = await fetch(`${backend.urls.api}/rest/v1/rpc/${name}`, {
        method: 'POST',
        headers: { apikey: backend.keys.publishable, 'content-type': 'application/json' },
        body: JSON.stringify(Object.fromEntries(args.map((arg) => [arg, null]))),
      })
      expect({ name, status: response.status, answer: await response.json() })
        .toMatchObject({ name, status: 401, answer: { code: '42501' } })
    }
  })

  test('learns of nothing else from the description of the API, and without a key not even that', async () => {
    const described = await fetch(`${backend.urls.api}/rest/v1/`, { headers: { apikey: backend.keys.publishable } })
    const { paths } = await described.json() as { paths: Record<string, unknown> }
    expect(Object.keys(paths)).toEqual(['/', ...PUBLIC_FUNCTIONS.map((name) => `/rpc/${name}`)])
    for (const path of ['/rest/v1/', '/rest/v1/messages', '/rest/v1/rpc/create_organization']) {
      const response = await fetch(backend.urls.api + path)
      expect({ path, status: response.status }).toEqual({ path, status: 401 })
      await response.body?.cancel()
    }
  })
})

describe('a viewer', () => {
  const READABLE: TableName[] = [
    'organizations',
    'organization_settings',
    'user_roles',
    'profiles',
    'locations',
    'whatsapp_instances',
    'contacts',
    'contact_identities',
    'conversations',
    'messages',
  ]

  test('reads what the organization does, and nothing that administrators keep', async () => {
    for (const table of READABLE) {
      expect({ table, rows: valueOf(await asViewerOf(clinic).from(table).select('*')).length > 0 }).toEqual({ table, rows: true })
    }
    for (const table of ['webhook_events', 'authorized_owner_numbers'] as const) {
      expect(valueOf(await asViewerOf(clinic).from(table).select('*'))).toEqual([])
      expect(valueOf(await asAdminOf(clinic).from(table).select('*')).length).toBeGreaterThan(0)
    }
  })

  test('writes nothing', async () => {
    const before = await snapshot()
    expect(before.messages).toMatch(/^0-\d+\/\d+$/)
    const { organizationId } = clinic
    for (const table of writableTables.filter((name) => name !== 'profiles')) {
      const column = { organizations: 'id', flow_templates: 'key', analytics_refreshes: 'id' }[table as string] ?? 'organization_id'
      const path = `${backend.urls.api}/rest/v1/${table}`
      const headers = {
        apikey: backend.keys.publishable,
        authorization: `Bearer ${memberOf(clinic, 'viewer').accessToken}`,
        'content-type': 'application/json',
        prefer: 'return=representation',
      }
      const own = `${path}?${column}=eq.${organizationId}`
      const body = JSON.stringify({ [column]: organizationId })
      const inserted = await fetch(path, { method: 'POST', headers, body })
      // What such a row says may be refused before it is asked who says it; the access matrix tries rows that are well.
      const refused = expect.stringMatching(/^(42501|BL601|BL701)$/)
      expect({ table, inserted: await inserted.json() }).toMatchObject({ table, inserted: { code: refused } })
      for (const method of ['PATCH', 'DELETE']) {
        // Either the command is refused, or there is no row that it may touch.
        const answer: unknown = await (await fetch(own, { method, headers, ...(method === 'PATCH' ? { body } : {}) })).json()
        if (Array.isArray(answer)) expect({ table, method, answer }).toEqual({ table, method, answer: [] })
        else expect({ table, method, answer }).toMatchObject({ table, method, answer: { code: '42501' } })
      }
    }
    const colleague = memberOf(clinic, 'owner').userId
    expect(valueOf(await asViewerOf(clinic).from('profiles').update({ first_name: 'Zé' }).eq('user_id', colleague).select()))
      .toEqual([])
    expect(await snapshot()).toEqual(before)
  })

  async function snapshot() {
    const found = await Promise.all(
      tables.filter((name) => name !== 'profiles').map(async (table) => {
        const column = table === 'organizations' ? 'id' : 'organization_id'
        const url = `${backend.urls.api}/rest/v1/${table}?select=${column}&${column}=eq.${clinic.organizationId}`
        const response = await fetch(url, { headers: { apikey: backend.keys.secret, prefer: 'count=exact' } })
        await response.body?.cancel()
        return [table, response.headers.get('content-range')]
      }),
    )
    return Object.fromEntries(found)
  }
})

describe('an attendant', () => {
  test('works with contacts', async () => {
    const contacts = tenantClient(asAttendantOf(clinic), clinic.organizationId).from('contacts')
    const made = valueOf(await contacts.insert({ phone_number: '(11) 98765-4321', name: 'Novo' }).select().single())
    expect(made.phone_number).toBe('+5511987654321')
    expect(valueOf(await contacts.update({ name: 'Nova' }).eq('id', made.id).select('name'))).toEqual([{ name: 'Nova' }])
  })

  test('cannot touch the configuration', async () => {
    const client = tenantClient(asAttendantOf(clinic), clinic.organizationId)
    expect(valueOf(await client.from('organizations').update({ name: 'Minha' }).neq('name', '').select())).toEqual([])
    expect(valueOf(await client.from('organization_settings').update({ ai_config: { on: true } }).neq('lead_visibility', 'own').select()))
      .toEqual([])
    expect(valueOf(await client.from('locations').update({ name: 'Minha' }).neq('name', '').select())).toEqual([])
    for (
      const { error } of [
        await client.from('locations').insert({ name: 'Minha', slug: 'minha' }),
        await client.from('authorized_owner_numbers').insert({ phone_number: aPhoneNumber() }),
        await client.from('whatsapp_instances').update({ status: 'banned' }).eq('id', number.instanceId),
        await client.from('whatsapp_instances').delete().eq('id', number.instanceId),
        await client.from('user_roles').update({ role: 'owner' }).eq('user_id', memberOf(clinic, 'attendant').userId),
        await client.from('organizations').update({ plan_type: 'agency' }).neq('name', ''),
      ]
    ) expect(error?.code).toBe('42501')

    const userOf = (role: 'owner' | 'attendant') => memberOf(clinic, role).userId
    for (
      const { error } of [
        await client.rpc('invite_member', { email: 'x@exemplo.com.br', role: 'viewer' }),
        await client.rpc('change_member_role', { user_id: userOf('attendant'), role: 'owner' }),
        await client.rpc('remove_member', { user_id: userOf('owner') }),
        await client.rpc('disconnect_instance', { instance_id: number.instanceId, organization_id: clinic.organizationId }),
      ]
    ) expect(businessError(error)).toMatchObject({ code: 'BL002', name: 'not_allowed', detail: { minimum_role: 'admin' } })
  })
})

describe('another tenant', () => {
  test('is not there: not for a member, not for a stranger, not through embedding', async () => {
    const [own, theirs] = [clinic.organizationId, neighbour.organizationId]
    expect(await allThatIsSeenBy(asOwnerOf(clinic), 'authenticated')).toContain(own)
    for (const client of [asOwnerOf(neighbour), asAttendantOf(neighbour)]) {
      const seen = await allThatIsSeenBy(client, 'authenticated')
      expect(seen).toContain(theirs)
      expect(seen).not.toContain(own)
    }
    const nothing = await allThatIsSeenBy(stranger.client, 'authenticated')
    expect(nothing).not.toMatch(new RegExp(`${own}|${theirs}`))

    const inbox = valueOf(
      await asAttendantOf(neighbour).from('conversations')
        .select('organization_id, contacts(organization_id), messages(organization_id), whatsapp_instances(organization_id)'),
    )
    const row = { organization_id: theirs }
    expect(inbox).toEqual([{ ...row, contacts: row, messages: [row], whatsapp_instances: row }])
  })

  test('cannot be written into by a member of this one', async () => {
    const row = { organization_id: neighbour.organizationId, phone_number: aPhoneNumber() }
    expect((await asOwnerOf(clinic).from('contacts').insert(row)).error?.code).toBe('42501')
    const [contact] = valueOf(await asOwnerOf(clinic).from('contacts').select('id').limit(1))
    const moved = asOwnerOf(clinic).from('contacts').update({ organization_id: neighbour.organizationId })
    expect((await moved.eq('id', contact?.id ?? '')).error?.code).toBe('42501')
  })

  test('not even with the secret key can a message point at its conversation', async () => {
    const conversationOf = async ({ organizationId }: Tenant) =>
      valueOf(
        await platform.from('conversations').select('id, contact_id, instance_id')
          .eq('organization_id', organizationId).limit(1).single(),
      )
    const [own, theirs] = [await conversationOf(clinic), await conversationOf(neighbour)]
    const message = {
      organization_id: clinic.organizationId,
      conversation_id: own.id,
      contact_id: own.contact_id,
      instance_id: own.instance_id,
      direction: 'outbound',
      sender: 'bot',
      status: 'queued',
    } as const
    for (
      const foreign of [
        { conversation_id: theirs.id },
        { contact_id: theirs.contact_id },
        { instance_id: theirs.instance_id },
        { organization_id: neighbour.organizationId },
      ]
    ) {
      expect((await platform.from('messages').insert({ ...message, ...foreign })).error?.code).toBe('23503')
    }
    // Without the foreign part there is nothing wrong with it.
    expect((await platform.from('messages').insert(message)).error).toBeNull()
  })
})

describe('a secret', () => {
  test('is seen by no role, in no column, no answer and no log', async () => {
    const owner = memberOf(clinic, 'owner').accessToken
    const invitation = valueOf(
      await asOwnerOf(clinic).rpc('invite_member', {
        email: `${randomUUID()}@exemplo.com.br`,
        role: 'viewer',
        organization_id: clinic.organizationId,
      }),
    )
    const target = { organization_id: clinic.organizationId, instance_id: number.instanceId }
    const renamed = await manageInstance(backend, 'PATCH', owner, { ...target, name: 'Recepção nova' })
    const refused = await manageInstance(backend, 'POST', owner, { ...target, access_token: number.accessToken })
    expect([renamed.status, refused.status]).toEqual([200, 400])
    const app = valueOf(await platform.rpc('get_meta_app', { app_key: number.appKey }))
    expect(app.app_secret).toMatch(/^v1\./)

    const seen: Record<string, string> = {
      ...Object.fromEntries(
        await Promise.all(
          (['owner', ...everybody] as const).map(async (role) => [
            role,
            await allThatIsSeenBy(memberOf(clinic, role).client, 'authenticated'),
          ]),
        ),
      ),
      stranger: await allThatIsSeenBy(stranger.client, 'authenticated'),
      platform: await allThatIsSeenBy(platform, 'service_role'),
      answers: [renamed.text, refused.text, JSON.stringify(app)].join('\n'),
      logs: logs(),
    }
    // What is searched is really there.
    expect(seen.platform).toContain(number.externalId)
    expect(seen.logs).toContain('manage-instance')
    for (const [where, text] of Object.entries(seen)) {
      for (const [what, secret] of Object.entries({ ...secretsOf(number), invitation: invitation.token })) {
        expect({ where, what, leaks: text.includes(secret) }).toEqual({ where, what, leaks: false })
      }
    }
  })

  test('cannot be asked for: what holds it has no door for members', async () => {
    for (const { client } of [...everybody.map((role) => memberOf(clinic, role)), memberOf(clinic, 'owner')]) {
      expect((await client.rpc('get_meta_app', { app_key: number.appKey })).error?.code).toBe('42501')
      for (const table of ['meta_apps', 'instance_secrets']) {
        const response = await fetch(`${backend.urls.api}/rest/v1/${table}`, {
          headers: { apikey: backend.keys.secret, 'accept-profile': 'private' },
        })
        expect(response.status).toBe(406)
        await response.body?.cancel()
      }
    }
  })

  const secretsOf = ({ appSecret, verifyToken, accessToken }: ConnectedNumber) => ({ appSecret, verifyToken, accessToken })

  function logs(): string {
    const folder = pathOf(backend.dataDir, 'logs')
    return readdirSync(folder).map((name) => readFileSync(pathOf(folder, name), 'utf8')).join('\n')
  }
})

describe('people come and go', () => {
  test('an invited person becomes a member with the role of the invitation, once, and nobody else can use it', async () => {
    const person = await aPerson(backend)
    const invitation = { email: person.email.toUpperCase(), role: 'attendant', organization_id: clinic.organizationId } as const
    const { token } = valueOf(await asAdminOf(clinic).rpc('invite_member', invitation))
    expect(valueOf(await person.client.from('conversations').select('id'))).toEqual([])

    const thief = await stranger.client.rpc('accept_invitation', { token })
    expect(businessError(thief.error)).toMatchObject({ code: 'BL010', name: 'invitation_not_yours' })
    for (const _twice of [1, 2]) {
      const membership = valueOf(await person.client.rpc('accept_invitation', { token }))
      expect(membership).toMatchObject({ user_id: person.userId, role: 'attendant', organization_id: clinic.organizationId })
    }
    expect(valueOf(await person.client.from('conversations').select('id'))).toHaveLength(1)

    const gone = { user_id: person.userId, organization_id: clinic.organizationId }
    valueOf(await person.client.rpc('remove_member', gone))
    expect(valueOf(await person.client.from('conversations').select('id'))).toEqual([])
  })

  test('an unknown token, a bad address and too high a role are refused by name', async () => {
    const organization_id = clinic.organizationId
    const { error: unknown } = await stranger.client.rpc('accept_invitation', { token: 'x' })
    expect(businessError(unknown)).toMatchObject({ code: 'BL009', name: 'invitation_not_found' })
    const { error: bad } = await asAdminOf(clinic).rpc('invite_member', { email: 'x', role: 'viewer', organization_id })
    expect(businessError(bad)).toMatchObject({ code: 'BL008', name: 'invalid_email' })
    const { error: high } = await asAdminOf(clinic)
      .rpc('invite_member', { email: 'x@exemplo.com.br', role: 'owner', organization_id })
    expect(businessError(high)).toMatchObject({ code: 'BL002', detail: { minimum_role: 'owner' } })
    const { error: taken } = await stranger.client
      .rpc('create_organization', { name: 'x', vertical: 'clinic', slug: await slugOf(clinic) })
    expect(businessError(taken)).toMatchObject({ code: 'BL007', name: 'slug_taken', detail: { slug: await slugOf(clinic) } })
    const { error: phone } = await asAttendantOf(clinic).from('contacts').insert({ organization_id, phone_number: '123' })
    expect(businessError(phone)).toMatchObject({ code: 'BL003', detail: { column: 'phone_number' } })
    const { error: foreign } = await stranger.client.from('contacts').insert({ organization_id })
    expect(foreign).not.toBeNull()
    expect(businessError(foreign)).toBeNull()
  })

  test('the last owner cannot leave or step down; of two who leave at once one stays', async () => {
    const tenant = await aTenant(backend, 'Clínica dos Donos')
    const organization_id = tenant.organizationId
    const owner = memberOf(tenant, 'owner')
    const leave = (person: Person) => person.client.rpc('remove_member', { user_id: person.userId, organization_id })
    expect(businessError((await leave(owner)).error)).toMatchObject({ code: 'BL011', name: 'last_owner' })
    const stepDown = await owner.client.rpc('change_member_role', { user_id: owner.userId, role: 'admin', organization_id })
    expect(businessError(stepDown.error)).toMatchObject({ name: 'last_owner' })

    const second = await aPerson(backend)
    const { token } = valueOf(
      await owner.client.rpc('invite_member', { email: second.email, role: 'owner', organization_id }),
    )
    valueOf(await second.client.rpc('accept_invitation', { token }))
    const both = await Promise.all([leave(owner), leave(second)])
    expect(both.map(({ error }) => businessError(error)?.name ?? 'left').sort()).toEqual(['last_owner', 'left'])
  })

  async function slugOf({ organizationId }: Tenant): Promise<string> {
    return valueOf(await platform.from('organizations').select('slug').eq('id', organizationId).single()).slug
  }
})
