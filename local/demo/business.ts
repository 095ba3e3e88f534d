// A business and its people: what they do by their apps, through the doors that every app has.

import { randomBytes, randomInt, randomUUID } from 'node:crypto'
import { createClient, type SupabaseClient } from '@supabase/supabase-js'
import { z } from 'zod'
import type { Database } from '../../types/index.ts'
import type { Stage } from './stage.ts'
import { expect, valueOf } from './telling.ts'

export interface Person {
  name: string
  email: string
  accessToken: string
  client: SupabaseClient<Database>
}

/** As Meta knows it, and its app's secret. */
export interface BusinessNumber {
  phoneNumberId: string
  appSecret: string
  webhookUrl: string
}

export async function signUp({ api, publishableKey, request }: Stage, name: string): Promise<Person> {
  const client = createClient<Database>(api, publishableKey, {
    auth: { persistSession: false, autoRefreshToken: false },
    global: { fetch: request },
  })
  const email = `${name.normalize('NFD').replaceAll(/\W/g, '').toLowerCase()}.${randomUUID()}@exemplo.com.br`
  const { session } = valueOf(await client.auth.signUp({ email, password: randomUUID() }))
  expect(session !== null, `${name} was not signed in`)
  return { name, email, accessToken: session.access_token, client }
}

export async function found(owner: Person, name: string, vertical: 'clinic' | 'petshop') {
  return valueOf(await owner.client.rpc('create_organization', { name, vertical }))
}

export async function invite(owner: Person, person: Person, organization_id: string) {
  const invitation = { email: person.email, role: 'attendant', organization_id } as const
  const { token } = valueOf(await owner.client.rpc('invite_member', invitation))
  return valueOf(await person.client.rpc('accept_invitation', { token }))
}

export async function callFunction(
  { api, request }: Stage,
  person: Person,
  name: string,
  body: object,
): Promise<{ status: number; answer: unknown }> {
  const response = await request(`${api}/functions/v1/${name}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${person.accessToken}` },
    body: JSON.stringify(body),
  })
  return { status: response.status, answer: await response.json() }
}

export async function connectNumber(stage: Stage, owner: Person, organization_id: string): Promise<BusinessNumber> {
  const phoneNumberId = String(randomInt(10 ** 14, 10 ** 14 + 2 ** 47))
  const appSecret = randomBytes(16).toString('hex')
  const { status, answer } = await callFunction(stage, owner, 'manage-instance', {
    organization_id,
    provider: 'meta_cloud',
    name: 'Recepção',
    phone_number: '(11) 94000-1234',
    external_id: phoneNumberId,
    access_token: randomBytes(24).toString('hex'),
    meta_app: { app_secret: appSecret, verify_token: randomBytes(16).toString('hex') },
  })
  expect(status === 201, `manage-instance answered ${status}: ${JSON.stringify(answer)}`)
  return { phoneNumberId, appSecret, webhookUrl: z.object({ webhook_url: z.url() }).parse(answer).webhook_url }
}

/** Two services, and a professional who gives them on Saturday mornings. */
export async function offerServices({ client }: Person, organization_id: string): Promise<void> {
  const services = valueOf(
    await client.from('services').insert([
      { organization_id, name: 'Avaliação', duration_minutes: 30, price_cents: 15_000 },
      { organization_id, name: 'Retorno', duration_minutes: 30, price_cents: 0 },
    ]).select('id'),
  )
  const helena = valueOf(
    await client.from('professionals').insert({ organization_id, name: 'Dra. Helena', kind: 'doctor' })
      .select('id').single(),
  )
  const hers = { organization_id, professional_id: helena.id }
  valueOf(
    await client.from('professional_services').insert(services.map(({ id }) => ({ ...hers, service_id: id }))).select(),
  )
  valueOf(
    await client.from('working_hours').insert({ ...hers, weekday: 6, starts_at: '08:00', ends_at: '12:00' }).select(),
  )
}

/** Conversations as the inbox of an app shows them, the newest first. */
export async function inboxOf({ client }: Person) {
  const inbox = client.from('conversations')
    .select('id, status, is_bot_controlled, contacts(id, name, phone_number), messages(content, sender)')
    .order('last_message_at', { ascending: false })
  return valueOf(await inbox)
}

/** What is booked, the earliest first; what was cancelled too. */
export async function agendaOf({ client }: Person) {
  const agenda = client.from('bookings')
    .select('id, status, start_time, created_by, service_id, contacts(id, name), services(name), professionals(name)')
    .order('start_time')
  return valueOf(await agenda)
}
