// createTenantClient: supabase-js that stays in one organization, also for a person who belongs to several.

import { randomUUID } from 'node:crypto'
import { beforeAll, expect, test } from 'vitest'
import { createTenantClient, type TenantClient, tenantClient } from '../../types/index.ts'
import { runningStack } from '../support/running-stack.ts'
import { aPerson, aPhoneNumber, asOwnerOf, aTenant, join, memberOf, type Person, type Tenant, valueOf } from '../support/tenants.ts'

const backend = runningStack()
let clinic: Tenant
let petshop: Tenant
/** An administrator of both. */
let ana: Person
let inClinic: TenantClient
let inPetshop: TenantClient

beforeAll(async () => {
  clinic = await aTenant(backend, 'Clínica Boa Vista')
  petshop = await aTenant(backend, 'Pet Shop Boa Vista')
  ana = await aPerson(backend)
  await join(clinic, ana, 'admin')
  await join(petshop, ana, 'admin')
  inClinic = tenantClient(ana.client, clinic.organizationId)
  inPetshop = tenantClient(ana.client, petshop.organizationId)
  for (const client of [inClinic, inPetshop]) {
    valueOf(await client.from('contacts').insert({ phone_number: aPhoneNumber(), name: 'Cliente' }).select())
  }
})

test('inserts fill in the organization, one row or many', async () => {
  const rows = [{ phone_number: aPhoneNumber() }, { phone_number: aPhoneNumber() }]
  const made = [
    ...valueOf(await inPetshop.from('contacts').insert({ phone_number: aPhoneNumber() }).select('organization_id')),
    ...valueOf(await inPetshop.from('contacts').insert(rows).select('organization_id')),
    ...valueOf(
      await inPetshop.from('contacts').upsert(rows, { onConflict: 'organization_id,phone_number' }).select('organization_id'),
    ),
  ]
  expect(made).toEqual(Array.from({ length: 5 }, () => ({ organization_id: petshop.organizationId })))
})

test('reads see one organization, of which the person has two', async () => {
  const seen = valueOf(await ana.client.from('contacts').select('organization_id'))
  expect(new Set(seen.map(({ organization_id }) => organization_id)).size).toBe(2)
  for (const [client, tenant] of [[inClinic, clinic], [inPetshop, petshop]] as const) {
    const contacts = valueOf(await client.from('contacts').select('organization_id, name').eq('name', 'Cliente'))
    expect(contacts).toEqual([{ organization_id: tenant.organizationId, name: 'Cliente' }])
    expect(valueOf(await client.from('organizations').select('id'))).toEqual([{ id: tenant.organizationId }])
    const { count } = await client.from('contacts').select('*', { count: 'exact', head: true }).eq('name', 'Cliente')
    expect(count).toBe(1)
  }
})

test('updates and deletes stop at the organization, even without a filter', async () => {
  valueOf(await inClinic.from('contacts').update({ name: 'Paciente' }).neq('id', randomUUID()).select())
  valueOf(await inClinic.from('contacts').delete().neq('id', randomUUID()).select())
  expect(valueOf(await inClinic.from('contacts').select('id'))).toEqual([])
  const others = valueOf(await asOwnerOf(petshop).from('contacts').select('name'))
  expect(others.length).toBeGreaterThan(0)
  expect(others.map(({ name }) => name)).not.toContain('Paciente')
})

test("another organization's row throws, before anything is sent", async () => {
  const row = { phone_number: aPhoneNumber(), organization_id: petshop.organizationId }
  expect(() => inClinic.from('contacts').insert(row)).toThrow(/A row of organization .* in a client of organization/)
  expect(() => inClinic.from('contacts').insert([{ phone_number: aPhoneNumber() }, row])).toThrow(/A row of organization/)
  expect(() => inClinic.from('contacts').upsert(row)).toThrow(/A row of organization/)
  expect(() => inClinic.from('contacts').update({ organization_id: petshop.organizationId })).toThrow(/A row of organization/)
  const written = valueOf(await ana.client.from('contacts').select('id').eq('phone_number', row.phone_number))
  expect(written).toEqual([])
})

test('RPCs of an organization get it filled in; others are left alone', async () => {
  const invited = valueOf(await inPetshop.rpc('invite_member', { email: `${randomUUID()}@exemplo.com.br`, role: 'viewer' }))
  expect(invited.organization_id).toBe(petshop.organizationId)
  expect(valueOf(await inPetshop.rpc('generate_slug', { input_name: 'Clínica São José' }))).toMatch(/^clinica-sao-jose/)
  const isOwner = async (client: TenantClient, user_id: string) => (await client.rpc('has_role', { user_id, role: 'owner' })).data
  const { userId } = memberOf(clinic, 'owner')
  expect([await isOwner(inClinic, userId), await isOwner(inPetshop, userId)]).toEqual([true, false])
})

test('made from url and key, it signs in and works like supabase-js', async () => {
  const client = createTenantClient(backend.urls.api, backend.keys.publishable, clinic.organizationId, {
    auth: { persistSession: false, autoRefreshToken: false },
    global: { headers: { authorization: `Bearer ${ana.accessToken}` } },
  })
  expect(client.organizationId).toBe(clinic.organizationId)
  expect(valueOf(await client.from('organizations').select('name').single())).toEqual({ name: 'Clínica Boa Vista' })
  expect((await inClinic.auth.getUser()).data.user?.id).toBe(ana.userId)
})
