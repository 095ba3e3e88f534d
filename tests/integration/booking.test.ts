// Two hundred apps want the same slots at once. Whatever the order, nobody is booked over anybody, and whoever comes too
// late is told what there still is. BALCAO_TEST_SEED repeats what was wanted.

import { randomUUID } from 'node:crypto'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Tables } from '../../types/index.ts'
import {
  aContact,
  anAppOf,
  aProfessional,
  aService,
  at,
  book,
  bookingNow,
  cancel,
  dayAhead,
  minutesAfter,
  nameOf,
  same,
  type Slot,
  slotsOn,
  slotUnavailableOf,
  someContacts,
  startsOn,
} from '../support/agendas.ts'
import { runningStack } from '../support/running-stack.ts'
import { seeded, testSeed } from '../support/seeded.ts'
import { asAdminOf, asAttendantOf, asPlatform, aTenant, type Client, type Tenant, valueOf } from '../support/tenants.ts'

const APPS = 200
const WISHES_OF_EACH = 2

const backend = runningStack()
/** To look at all rows at once; nothing is written through it. */
const sql = postgres(backend.urls.admin, { max: 1, onnotice: () => undefined })

let deadlocksBefore: number
let clinic: Tenant
beforeAll(async () => {
  deadlocksBefore = await deadlocks()
  clinic = await aTenant(backend, 'Clínica Concorrida', ['admin', 'attendant'])
})
afterAll(() => sql.end({ timeout: 1 }))

async function deadlocks(): Promise<number> {
  const [row] = await sql<{ deadlocks: number }[]>`
    select d.deadlocks::int from pg_catalog.pg_stat_database d where d.datname = current_database()`
  return row?.deadlocks ?? NaN
}

/** Pairs of live bookings of one professional that touch each other, over all that there are. */
async function overlaps(): Promise<Record<string, unknown>[]> {
  return await sql<Record<string, unknown>[]>`
    select one.id, other.id, one.professional_id, one.start_time, other.start_time
    from public.bookings one
    join public.bookings other
      on other.organization_id = one.organization_id
      and other.professional_id = one.professional_id
      and other.id > one.id
      and other.start_time < one.blocked_until
      and one.start_time < other.blocked_until
    where one.status in ('hold', 'scheduled', 'confirmed') and other.status in ('hold', 'scheduled', 'confirmed')`
}

/** Books a slot that was named, and gives it back. */
async function tryOut(service: Pick<Tables<'services'>, 'id'>, { start_time, professional_id, location_id }: Slot, contact: { id: string }) {
  const booking = await book(clinic, {
    contact_id: contact.id,
    service_id: service.id,
    start_time,
    ...(professional_id === null ? {} : { professional_id }),
    ...(location_id === null ? {} : { location_id }),
  })
  expect(booking).toMatchObject({ status: 'scheduled', professional_id })
  await cancel(clinic, booking)
}

const seed = testSeed()

test(`${APPS} apps at once never book one professional twice (BALCAO_TEST_SEED=${seed})`, async () => {
  const random = seeded(seed)
  const pick = <Item>(items: readonly Item[]): Item => {
    const item = items[random(items.length)]
    if (item === undefined) throw new Error('There is nothing to choose from.')
    return item
  }
  // Starts twenty minutes apart of what takes forty, so that neighbours exclude each other too.
  const visit = await aService(clinic, { name: 'Retorno', duration_minutes: 30, buffer_minutes: 10, slot_interval_minutes: 20 })
  const long = await aService(clinic, { name: 'Primeira consulta', duration_minutes: 60, slot_interval_minutes: 20 })
  const hours = { starts_at: '08:00', ends_at: '16:00' }
  const people = await Promise.all(
    ['Dra. Lia', 'Dr. Caio', 'Dra. Rute'].map((name) => aProfessional(clinic, name, [visit, long], hours)),
  )
  const day = dayAhead(3)
  const starts = (await startsOn(clinic, visit, day)).slice(0, 20)
  expect(starts).toHaveLength(20)
  const contacts = await someContacts(clinic, APPS)

  const answers: { status: number; error: string | null }[] = []
  const losers: { service: Tables<'services'>; slot: Slot }[] = []
  const alternatives: unknown[] = []
  let won = 0

  /** What one app does: the same for the same seed, though not in the same order among the others. */
  const apps = contacts.map((contact, index) => {
    const client: Client = index % 10 === 0 ? asPlatform(backend) : anAppOf(clinic, pick(['attendant', 'admin', 'owner']))
    const ours = index % 10 === 0 ? { organization_id: clinic.organizationId } : {}
    const wishes = Array.from({ length: WISHES_OF_EACH }, () => ({
      service: random(3) === 0 ? long : visit,
      start_time: pick(starts),
      elsewhere: pick(starts),
      professional_id: random(2) === 0 ? pick(people).id : null,
      way: pick(['book', 'book', 'hold', 'hold and book'] as const),
      then: pick(['keep', 'keep', 'move', 'move', 'cancel', 'confirm'] as const),
      waits: random(4) === 0,
    }))

    return async () => {
      const noted = <Data>({ data, error, status }: { data: Data; error: Parameters<typeof nameOf>[0]; status: number }): Data => {
        answers.push({ status, error: nameOf(error) })
        return data
      }
      for (const { service, start_time, elsewhere, professional_id, way, then, waits } of wishes) {
        const wish = {
          contact_id: contact.id,
          service_id: service.id,
          start_time,
          ...(professional_id === null ? {} : { professional_id }),
          ...ours,
        }
        const asked = way === 'book' ? await client.rpc('create_booking', wish) : await client.rpc('hold_slot', wish)
        noted(asked)
        if (asked.error !== null) {
          const refusal = slotUnavailableOf(asked.error)
          expect(refusal).toMatchObject({ reason: 'taken', service_id: service.id, start_time })
          alternatives.push(...refusal.alternatives)
          losers.push({ service, slot: { start_time, professional_id, location_id: null } })
          // Whoever was too late may wait: what is given up meanwhile is offered to him.
          if (waits) {
            const line = { contact_id: contact.id, service_id: service.id, ...ours }
            const entry = noted(await client.rpc('join_waiting_list', line))
            const now = entry === null ? null : noted(await client.from('waiting_list').select('*').eq('id', entry.id).single())
            if (now?.status === 'offered') {
              const answer = then === 'keep' ? 'accept_waiting_list_offer' : 'leave_waiting_list'
              noted(await client.rpc(answer, { id: now.id, ...ours }))
            }
          }
          continue
        }
        const booking = asked.data
        won += 1
        if (way === 'hold and book') {
          const made = noted(await client.rpc('create_booking', { hold_id: booking.id, ...ours }))
          expect(made).toMatchObject({ id: booking.id, status: 'scheduled', start_time: booking.start_time })
        }
        if (way === 'hold' && then !== 'cancel') continue
        if (then === 'move') {
          const moved = await client.rpc('reschedule_booking', { id: booking.id, start_time: elsewhere, ...ours })
          noted(moved)
          if (moved.error !== null) slotUnavailableOf(moved.error)
        }
        if (then === 'cancel') noted(await client.rpc('cancel_booking', { id: booking.id, ...ours }))
        if (then === 'confirm') noted(await client.rpc('confirm_booking', { id: booking.id, ...ours }))
      }
    }
  })
  await Promise.all(apps.map((app) => app()))

  expect(await overlaps()).toEqual([])
  expect(answers.filter(({ status }) => status >= 500)).toEqual([])
  const refusals = new Set(answers.map(({ error }) => error))
  const expected = [null, 'slot_unavailable', 'already_waiting', 'offer_expired']
  expect([...refusals].filter((name) => !expected.includes(name))).toEqual([])
  // It was crowded, and not in vain.
  expect(won).toBeGreaterThan(people.length * 5)
  expect(losers.length).toBeGreaterThan(APPS / 2)
  expect(alternatives.length).toBeGreaterThan(APPS / 2)

  // What is offered to those who wait is theirs: only without them is it quiet.
  const waiting = async () =>
    valueOf(await asAttendantOf(clinic).from('waiting_list').select('id').eq('is_open', true))
  for (let open = await waiting(); open.length > 0; open = await waiting()) {
    for (const { id } of open) valueOf(await asAttendantOf(clinic).rpc('leave_waiting_list', { id }))
  }
  const somebody = await aContact(clinic)
  let tried = 0
  for (const { service, slot } of losers.slice(0, 8)) {
    const { start_time, professional_id } = slot
    const { error } = await asAttendantOf(clinic).rpc('create_booking', {
      contact_id: somebody.id,
      service_id: service.id,
      start_time,
      ...(professional_id === null ? {} : { professional_id }),
    })
    // It may have been given up since.
    if (error === null) continue
    const refusal = slotUnavailableOf(error)
    const distance = (one: Slot) => Math.abs(Date.parse(one.start_time) - Date.parse(start_time))
    expect(refusal.alternatives).toHaveLength(5)
    expect(refusal.alternatives.map(distance)).toEqual(refusal.alternatives.map(distance).sort((one, other) => one - other))
    for (const alternative of refusal.alternatives) {
      if (professional_id !== null) expect(alternative.professional_id).toBe(professional_id)
      expect(alternative.end_time).toBe(minutesAfter(alternative.start_time, service.duration_minutes))
      await tryOut(service, alternative, somebody)
      tried += 1
    }
  }
  expect(tried).toBeGreaterThan(0)
})

test('of fifty who want the same bath at once, three find a tub', async () => {
  const bath = await aService(clinic, { name: 'Banho', duration_minutes: 60, capacity: 3 })
  valueOf(
    await asAdminOf(clinic).from('organization_settings')
      .update({ operating_hours: Object.fromEntries(WEEK.map((day) => [day, [{ starts_at: '09:00', ends_at: '17:00' }]])) })
      .eq('organization_id', clinic.organizationId).select(),
  )
  const day = dayAhead(3)
  const start_time = at(day, '10:00')
  const contacts = await someContacts(clinic, 50)
  const answers = await Promise.all(contacts.map((contact, index) => {
    const wish = { contact_id: contact.id, service_id: bath.id, start_time }
    const client = anAppOf(clinic, 'attendant')
    return index % 2 === 0 ? client.rpc('create_booking', wish) : client.rpc('hold_slot', wish)
  }))
  expect(answers.filter(({ error }) => error === null)).toHaveLength(3)
  const [first, ...others] = answers.flatMap(({ error }) => error === null ? [] : [slotUnavailableOf(error)])
  expect(others).toHaveLength(46)
  for (const refusal of [first, ...others]) {
    expect(refusal).toMatchObject({ reason: 'taken', start_time })
    expect(refusal?.alternatives).toEqual(first?.alternatives)
  }
  expect(first?.alternatives.map((slot) => slot.start_time)).toEqual(
    [at(day, '09:00'), at(day, '11:00'), at(day, '12:00'), at(day, '13:00'), at(day, '14:00')],
  )
  for (const alternative of first?.alternatives ?? []) await tryOut(bath, alternative, await aContact(clinic))

  const slots = await slotsOn(clinic, bath, day)
  expect(slots.map((slot) => [slot.start_time, slot.seats_left])).toEqual(
    ['09:00', '11:00', '12:00', '13:00', '14:00', '15:00', '16:00'].map((time) => [at(day, time), 3]),
  )
  const live = valueOf(await asAttendantOf(clinic).from('bookings').select('id').eq('service_id', bath.id).eq('is_live', true))
  expect(live).toHaveLength(3)
})

const WEEK = ['monday', 'tuesday', 'wednesday', 'thursday', 'friday', 'saturday', 'sunday']

test('an app that tries again and again under one id books once', async () => {
  const visit = await aService(clinic, { name: 'Avaliação' })
  const [first] = await Promise.all(['Dr. Beto', 'Dra. Nina'].map((name) => aProfessional(clinic, name, [visit])))
  const contact = await aContact(clinic)
  const day = dayAhead(4)
  const starts = (await startsOn(clinic, visit, day)).slice(0, 12)
  for (const [index, start_time] of starts.entries()) {
    const id = randomUUID()
    const wish = {
      id,
      contact_id: contact.id,
      service_id: visit.id,
      start_time,
      ...(index % 2 === 0 && first !== undefined ? { professional_id: first.id } : {}),
    }
    const tries = await Promise.all(Array.from({ length: 8 }, () => {
      const client = anAppOf(clinic, 'attendant')
      return index % 3 === 0 ? client.rpc('hold_slot', wish) : client.rpc('create_booking', wish)
    }))
    expect(tries.map(({ error }) => nameOf(error))).toEqual(tries.map(() => null))
    const rows = tries.map((answer) => valueOf<Tables<'bookings'> | null>(answer))
    expect(new Set(rows.map((row) => row.professional_id)).size).toBe(1)
    expect(rows.map((row) => [row.id, same(row.start_time)])).toEqual(rows.map(() => [id, start_time]))
  }
  const made = valueOf(await asAttendantOf(clinic).from('bookings').select('start_time').eq('service_id', visit.id))
  expect(made.map((row) => same(row.start_time)).sort()).toEqual(starts)

  const [one] = valueOf(await asAttendantOf(clinic).from('bookings').select('*').eq('service_id', visit.id).limit(1))
  const other = await aContact(clinic)
  const { error } = await asAttendantOf(clinic).rpc('create_booking', {
    id: one?.id ?? '',
    contact_id: other.id,
    service_id: visit.id,
    start_time: starts[0] ?? '',
  })
  expect(nameOf(error)).toBe('booking_id_taken')
})

test('a hold that is booked by many at once becomes one booking', async () => {
  const visit = await aService(clinic, { name: 'Vacina' })
  await aProfessional(clinic, 'Enf. Jair', [visit])
  const contact = await aContact(clinic)
  const start_time = at(dayAhead(5), '09:00')
  const held = valueOf(await asAttendantOf(clinic).rpc('hold_slot', { contact_id: contact.id, service_id: visit.id, start_time }))
  const answers = await Promise.all(
    Array.from({ length: 10 }, () => anAppOf(clinic, 'attendant').rpc('create_booking', { hold_id: held.id })),
  )
  expect(answers.map(({ data, error }) => [nameOf(error), data?.id, data?.status])).toEqual(
    answers.map(() => [null, held.id, 'scheduled']),
  )
  expect(await bookingNow(clinic, held)).toMatchObject({ status: 'scheduled', hold_expires_at: null })
})

test('nothing of all this ran into a deadlock, and nobody overlaps anybody', async () => {
  expect(await deadlocks()).toBe(deadlocksBefore)
  expect(await overlaps()).toEqual([])
})
