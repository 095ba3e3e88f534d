// Houses that can be booked: services, professionals and their hours, and customers; entered and asked for as apps do it,
// by supabase-js. Times are those of São Paulo, which has had one offset since 2019.

import { randomUUID } from 'node:crypto'
import { createClient } from '@supabase/supabase-js'
import { expect } from 'vitest'
import { z } from 'zod'
import { businessError, type Database, type FunctionArgs, type Tables, type TablesInsert } from '../../types/index.ts'
import { seen } from './conversations.ts'
import { asAdminOf, asAttendantOf, asPlatform, type Client, memberOf, type Role, type Tenant, valueOf } from './tenants.ts'

type Booking = Tables<'bookings'>
type Service = Tables<'services'>

const OFFSET_HOURS = 3
const HOUR = 3_600_000

// Times -----------------------------------------------------------------------------------------------------------------

/** The local date so many days from now. */
export function dayAhead(days: number): string {
  return new Date(Date.now() + (days * 24 - OFFSET_HOURS) * HOUR).toISOString().slice(0, 10)
}

/** An instant, as `same` writes it. */
export function at(day: string, time: string): string {
  return new Date(`${day}T${time}:00-0${OFFSET_HOURS}:00`).toISOString()
}

export function minutesAfter(instant: string, minutes: number): string {
  return new Date(Date.parse(instant) + minutes * 60_000).toISOString()
}

/** However an instant is written. */
export function same(instant: string): string {
  return new Date(instant).toISOString()
}

// Apps ------------------------------------------------------------------------------------------------------------------

/** One more device of a member. */
export function anAppOf(tenant: Tenant, role: Role): Client {
  const { urls, keys } = tenant.backend
  const { accessToken } = memberOf(tenant, role)
  return createClient<Database>(urls.api, keys.publishable, { accessToken: () => Promise.resolve(accessToken) })
}

// The catalog -----------------------------------------------------------------------------------------------------------

export async function aService(tenant: Tenant, service: Partial<TablesInsert<'services'>> = {}): Promise<Service> {
  const row = { name: 'Consulta', duration_minutes: 30, ...service }
  return valueOf(await asAdminOf(tenant).from('services').insert(row).select().single())
}

/** Somebody who gives these services, on every day of the week. */
export async function aProfessional(
  tenant: Tenant,
  name: string,
  services: Pick<Service, 'id'>[],
  { starts_at = '08:00', ends_at = '18:00', ...columns }: Partial<TablesInsert<'professionals'>> & {
    starts_at?: string
    ends_at?: string
  } = {},
): Promise<Tables<'professionals'>> {
  const admin = asAdminOf(tenant)
  const professional = valueOf(await admin.from('professionals').insert({ name, ...columns }).select().single())
  const professional_id = professional.id
  const given = services.map(({ id }) => ({ professional_id, service_id: id }))
  if (given.length > 0) valueOf(await admin.from('professional_services').insert(given).select())
  const hours = [0, 1, 2, 3, 4, 5, 6].map((weekday) => ({ professional_id, weekday, starts_at, ends_at }))
  valueOf(await admin.from('working_hours').insert(hours).select())
  return professional
}

/** Customers who have nothing but a name. */
export async function someContacts(tenant: Tenant, count: number, name = 'Cliente'): Promise<Tables<'contacts'>[]> {
  const rows = Array.from({ length: count }, (_, index) => ({ name: `${name} ${index + 1}` }))
  return valueOf(await asAttendantOf(tenant).from('contacts').insert(rows).select())
}

export async function aContact(tenant: Tenant, name = `Cliente ${randomUUID().slice(0, 8)}`): Promise<Tables<'contacts'>> {
  return valueOf(await asAttendantOf(tenant).from('contacts').insert({ name }).select().single())
}

// Slots and bookings ------------------------------------------------------------------------------------------------------

export interface Slot {
  start_time: string
  professional_id: string | null
  location_id: string | null
}

/** What is free on a local day, as far as an app asks. */
export async function slotsOn(
  tenant: Tenant,
  service: Pick<Service, 'id'>,
  day: string,
  only: Partial<FunctionArgs<'get_available_slots'>> = {},
): Promise<(Slot & { seats_left: number })[]> {
  const rows = valueOf(
    await asAttendantOf(tenant).rpc('get_available_slots', {
      service_id: service.id,
      from_time: at(day, '00:00'),
      to_time: minutesAfter(at(day, '00:00'), 24 * 60),
      ...only,
    }),
  )
  return z.array(availableSlot).parse(rows)
}

const availableSlot = z.object({
  start_time: z.string().transform(same),
  professional_id: z.guid().nullable(),
  location_id: z.guid().nullable(),
  seats_left: z.int(),
})

/** When something is free on a local day. */
export async function startsOn(...question: Parameters<typeof slotsOn>): Promise<string[]> {
  return (await slotsOn(...question)).map(({ start_time }) => start_time)
}

export async function book(
  tenant: Tenant,
  booking: FunctionArgs<'create_booking'>,
  client: Client = asAttendantOf(tenant),
): Promise<Booking> {
  return valueOf(await client.rpc('create_booking', booking))
}

export async function hold(
  tenant: Tenant,
  slot: FunctionArgs<'hold_slot'>,
  client: Client = asAttendantOf(tenant),
): Promise<Booking> {
  return valueOf(await client.rpc('hold_slot', slot))
}

export async function cancel(tenant: Tenant, { id }: Pick<Booking, 'id'>): Promise<Booking> {
  return valueOf(await asAttendantOf(tenant).rpc('cancel_booking', { id }))
}

export async function bookingNow(tenant: Tenant, { id }: { id: string }): Promise<Booking> {
  return valueOf(await asAttendantOf(tenant).from('bookings').select('*').eq('id', id).single())
}

// Refusals --------------------------------------------------------------------------------------------------------------

type Refusal = Parameters<typeof businessError>[0]

/** Null where nothing was refused; what is no business error is none that an app could tell anybody. */
export function nameOf(error: Refusal): string | null {
  return error === null ? null : businessError(error)?.name ?? `${error.code}: ${error.message}`
}

const slotUnavailable = z.object({
  reason: z.enum(['taken', 'closed', 'past']),
  service_id: z.guid(),
  start_time: z.string().transform(same),
  alternatives: z.array(z.object({
    start_time: z.string().transform(same),
    end_time: z.string().transform(same),
    professional_id: z.guid().nullable(),
    location_id: z.guid().nullable(),
  })).max(5),
})
export type SlotUnavailable = z.infer<typeof slotUnavailable>

/** The error slot_unavailable, with all that it tells. */
export function slotUnavailableOf(error: Refusal): SlotUnavailable {
  expect(nameOf(error)).toBe('slot_unavailable')
  return slotUnavailable.parse(businessError(error)?.detail)
}

// The clock -------------------------------------------------------------------------------------------------------------

/** What the clock does every ten seconds, at once; after it, where it does so itself just now. */
export async function expireHolds({ backend }: Pick<Tenant, 'backend'>): Promise<void> {
  const run = await seen(
    async () => valueOf(await asPlatform(backend).rpc('run_schedule', { name: 'expire_holds', force: true })),
    ({ ran }) => ran,
  )
  expect(run).toMatchObject({ ran: true, error: null })
}
