// Tenants as they come to be: a person signs up, founds an organization, invites colleagues and connects a number; all
// through the doors that a client app has. Every name and number is new, so that tests share a stack.

import { randomBytes, randomInt, randomUUID } from 'node:crypto'
import { createClient, type SupabaseClient } from '@supabase/supabase-js'
import type { Database, Enums, InstanceAnswer } from '../../types/index.ts'

/** A stack, as far as its clients see it. */
export interface Backend {
  urls: { api: string; functions: string }
  keys: { publishable: string; secret: string }
}

export type Client = SupabaseClient<Database>
export type Role = Enums<'member_role'>

export interface Person {
  userId: string
  email: string
  accessToken: string
  client: Client
}

export interface Tenant {
  backend: Backend
  name: string
  organizationId: string
  people: Partial<Record<Role, Person>>
}

/** A WhatsApp number of a tenant, with what only Meta and the tenant know. */
export interface ConnectedNumber {
  instanceId: string
  externalId: string
  appKey: string
  webhookUrl: string
  appSecret: string
  verifyToken: string
  accessToken: string
}

// People --------------------------------------------------------------------------------------------------------------

/** With the publishable key and nobody signed in. */
export function asNobody({ urls, keys }: Backend): Client {
  return createClient<Database>(urls.api, keys.publishable, { auth: sessionInMemory })
}

/** With the secret key: whoever runs the platform. */
export function asPlatform({ urls, keys }: Backend): Client {
  return createClient<Database>(urls.api, keys.secret, { auth: sessionInMemory })
}

export const asOwnerOf = (tenant: Tenant): Client => memberOf(tenant, 'owner').client
export const asAdminOf = (tenant: Tenant): Client => memberOf(tenant, 'admin').client
export const asAttendantOf = (tenant: Tenant): Client => memberOf(tenant, 'attendant').client
export const asViewerOf = (tenant: Tenant): Client => memberOf(tenant, 'viewer').client

export function memberOf(tenant: Tenant, role: Role): Person {
  const person = tenant.people[role]
  if (person === undefined) throw new Error(`${tenant.name} has no ${role}: name the role when you make the tenant.`)
  return person
}

export async function aPerson(backend: Backend, name = 'pessoa'): Promise<Person> {
  const client = asNobody(backend)
  const email = `${name}-${randomUUID()}@exemplo.com.br`
  const { user, session } = valueOf(await client.auth.signUp({ email, password: randomUUID() }))
  if (user === null || session === null) throw new Error(`${email} was not signed in at once.`)
  return { userId: user.id, email, accessToken: session.access_token, client }
}

// Organizations ---------------------------------------------------------------------------------------------------------

/** An organization with its owner, and one member of each role that is named. */
export async function aTenant(backend: Backend, name: string, roles: Exclude<Role, 'owner'>[] = []): Promise<Tenant> {
  const owner = await aPerson(backend, 'owner')
  const { id } = valueOf(await owner.client.rpc('create_organization', { name, vertical: 'clinic' }))
  const tenant: Tenant = { backend, name, organizationId: id, people: { owner } }
  for (const role of roles) {
    const person = await aPerson(backend, role)
    await join(tenant, person, role)
    tenant.people[role] = person
  }
  return tenant
}

/** The owner invites, the person accepts. */
export async function join({ people: { owner }, organizationId }: Tenant, person: Person, role: Role): Promise<void> {
  if (owner === undefined) throw new Error('Nobody is there who could invite.')
  const invitation = { email: person.email, role, organization_id: organizationId }
  const { token } = valueOf(await owner.client.rpc('invite_member', invitation))
  valueOf(await person.client.rpc('accept_invitation', { token }))
}

// Numbers ---------------------------------------------------------------------------------------------------------------

/** Connects a number through manage-instance; under a new Meta app, or under the one of a number that is there. */
export async function connectNumber(
  tenant: Tenant,
  { externalId = anExternalId(), sameAppAs }: { externalId?: string; sameAppAs?: ConnectedNumber } = {},
): Promise<ConnectedNumber> {
  const accessToken = aSecret('access-token')
  const { appSecret, verifyToken } = sameAppAs ??
    { appSecret: aSecret('app-secret'), verifyToken: aSecret('verify-token') }
  const { status, body } = await manageInstance(tenant.backend, 'POST', memberOf(tenant, 'owner').accessToken, {
    organization_id: tenant.organizationId,
    provider: 'meta_cloud',
    name: `Recepção ${externalId}`,
    phone_number: aPhoneNumber(),
    external_id: externalId,
    access_token: accessToken,
    ...(sameAppAs ? { app_key: sameAppAs.appKey } : { meta_app: { app_secret: appSecret, verify_token: verifyToken } }),
  })
  if (status !== 201) throw new Error(`manage-instance answered ${status}: ${JSON.stringify(body)}`)
  const { instance, app_key: appKey, webhook_url: webhookUrl } = body as InstanceAnswer & {
    app_key: string
    webhook_url: string
  }
  return { instanceId: instance.id, externalId, appKey, webhookUrl, appSecret, verifyToken, accessToken }
}

export interface Answer {
  status: number
  body: unknown
  text: string
}

export async function manageInstance(
  { urls }: Backend,
  method: string,
  bearer: string | null,
  body: unknown,
  path = '',
): Promise<Answer> {
  const response = await fetch(`${urls.functions}/manage-instance${path}`, {
    method,
    headers: { 'content-type': 'application/json', ...(bearer === null ? {} : { authorization: `Bearer ${bearer}` }) },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  })
  const text = await response.text()
  return { status: response.status, text, body: text === '' ? null : JSON.parse(text) }
}

// New values ------------------------------------------------------------------------------------------------------------

/** A phone_number_id that nobody else has. */
export function anExternalId(): string {
  return String(randomInt(10 ** 14, 10 ** 14 + 2 ** 47))
}

/** A mobile number of São Paulo in canonical form. */
export function aPhoneNumber(): string {
  return `+55119${randomInt(10 ** 7, 10 ** 8)}`
}

/** Found again by its text wherever it leaks. */
export function aSecret(purpose: string): string {
  return `${purpose}-${randomBytes(16).toString('hex')}`
}

/** The data of an answer that must not be an error. */
export function valueOf<Data>({ data, error }: { data: Data; error: unknown }): NonNullable<Data> {
  if (error !== null || data === null || data === undefined) {
    throw new Error(`Refused: ${JSON.stringify(error)}`, { cause: error })
  }
  return data
}

const sessionInMemory = { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false }
