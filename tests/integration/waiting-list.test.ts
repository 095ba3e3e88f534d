// Slots that somebody keeps for a while: holds end by themselves, and what is given up is offered down the waiting list,
// one after the other. The clock stands still here, but for its last test: minutes pass in the database.

import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import type { FunctionArgs, Tables } from '../../types/index.ts'
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
  expireHolds,
  hold,
  nameOf,
  slotsOn,
  slotUnavailableOf,
  startsOn,
} from '../support/agendas.ts'
import { seen } from '../support/conversations.ts'
import { runningStack } from '../support/running-stack.ts'
import { asAttendantOf, asOwnerOf, asPlatform, asViewerOf, aTenant, type Tenant, valueOf } from '../support/tenants.ts'

type Booking = Tables<'bookings'>
type Entry = Tables<'waiting_list'>
type Contact = Tables<'contacts'>

const ROUNDS = 24

const backend = runningStack()
const platform = asPlatform(backend)
/** Past every door: to move time. */
const sql = postgres(backend.urls.admin, { max: 4, onnotice: () => undefined })

let clinic: Tenant
let neighbour: Tenant
beforeAll(async () => {
  clinic = await aTenant(backend, 'Clínica com Fila', ['admin', 'attendant', 'viewer'])
  neighbour = await aTenant(backend, 'Clínica sem Fila')
  await letTheClockRun(false)
})
afterAll(async () => {
  await letTheClockRun(true)
  await sql.end({ timeout: 1 })
})

async function letTheClockRun(is_active: boolean): Promise<void> {
  await sql`update private.schedules set is_active = ${is_active} where name = 'expire_holds'`
}

// Agendas and lines -----------------------------------------------------------------------------------------------------

interface Agenda {
  service: Tables<'services'>
  professional: Tables<'professionals'>
  day: string
}

/** Somebody whom no other test books; hourly from nine to twelve. */
async function anAgenda(service: Parameters<typeof aService>[1] = {}): Promise<Agenda> {
  const made = await aService(clinic, { name: 'Limpeza', duration_minutes: 60, ...service })
  const professional = await aProfessional(clinic, 'Dr. Davi', [made], { starts_at: '09:00', ends_at: '12:00' })
  return { service: made, professional, day: dayAhead(2) }
}

const slot = ({ service, day }: Agenda, contact: Contact, time = '09:00') => ({
  contact_id: contact.id,
  service_id: service.id,
  start_time: at(day, time),
})

async function booked(agenda: Agenda, time = '09:00'): Promise<Booking> {
  return await book(clinic, slot(agenda, await aContact(clinic), time))
}

async function waits(
  { service }: Agenda,
  contact: Contact,
  wish: Partial<FunctionArgs<'join_waiting_list'>> = {},
): Promise<Entry> {
  const entry = { contact_id: contact.id, service_id: service.id, ...wish }
  return valueOf(await asAttendantOf(clinic).rpc('join_waiting_list', entry))
}

/** Somebody new at the end of the line. */
async function oneMore(agenda: Agenda, wish: Partial<FunctionArgs<'join_waiting_list'>> = {}): Promise<Entry> {
  return await waits(agenda, await aContact(clinic), wish)
}

async function entryNow({ id }: Pick<Entry, 'id'>): Promise<Entry> {
  return valueOf(await asAttendantOf(clinic).from('waiting_list').select('*').eq('id', id).single())
}

/** What an entry is offered: a hold of its contact, as long as the offer stands. */
async function offerTo(entry: Pick<Entry, 'id'>): Promise<Booking> {
  const { status, offered_booking_id, offer_expires_at, contact_id } = await entryNow(entry)
  expect(status).toBe('offered')
  const offer = await bookingNow(clinic, { id: offered_booking_id ?? '' })
  expect(offer).toMatchObject({ status: 'hold', is_offer: true, contact_id, hold_expires_at: offer_expires_at })
  return offer
}

const accept = ({ id }: Pick<Entry, 'id'>) => asAttendantOf(clinic).rpc('accept_waiting_list_offer', { id })
const leave = ({ id }: Pick<Entry, 'id'>) => asAttendantOf(clinic).rpc('leave_waiting_list', { id })

/** So much of its time is left. */
async function timeLeft({ id }: Pick<Booking, 'id'>, left: string): Promise<void> {
  await sql`
    with moved as (
      update public.bookings b set hold_expires_at = clock_timestamp() + ${left}::interval where b.id = ${id} returning b.*
    )
    update public.waiting_list w
    set offer_expires_at = m.hold_expires_at
    from moved m
    where w.offered_booking_id = m.id and w.status = 'offered'`
}

const isOver = (booking: Pick<Booking, 'id'>) => timeLeft(booking, '-1 second')

/** Nobody gets the slot, and nobody is told that he could. */
async function expectOutOfReach(agenda: Agenda, time = '09:00'): Promise<void> {
  const { error } = await asAttendantOf(clinic).rpc('create_booking', slot(agenda, await aContact(clinic), time))
  const { reason, alternatives } = slotUnavailableOf(error)
  expect(reason).toBe('taken')
  const taken = at(agenda.day, time)
  expect(alternatives.map(({ start_time }) => start_time)).not.toContain(taken)
  expect(await startsOn(clinic, agenda.service, agenda.day)).not.toContain(taken)
  const offSchedule = { ...slot(agenda, await aContact(clinic), time), off_schedule: true }
  expect(nameOf((await asAttendantOf(clinic).rpc('create_booking', offSchedule)).error)).toBe('slot_unavailable')
}

// Holds -------------------------------------------------------------------------------------------------------------------

describe('a hold', () => {
  test('keeps its slot until it expires, and not a moment longer, though nothing has swept it', async () => {
    const agenda = await anAgenda()
    const start = at(agenda.day, '09:00')
    const first = await hold(clinic, { ...slot(agenda, await aContact(clinic)), minutes: 1 })
    await expectOutOfReach(agenda)
    await isOver(first)
    expect(await bookingNow(clinic, first)).toMatchObject({ status: 'hold' })
    expect(await startsOn(clinic, agenda.service, agenda.day)).toContain(start)
    const second = await booked(agenda)
    expect(second).toMatchObject({ status: 'scheduled' })
    expect(await bookingNow(clinic, first)).toMatchObject({ status: 'cancelled', cancellation_reason: 'hold_expired' })
    const { error } = await asAttendantOf(clinic).rpc('create_booking', { hold_id: first.id })
    expect(nameOf(error)).toBe('hold_expired')
    expect(await bookingNow(clinic, second)).toMatchObject({ status: 'scheduled' })
  })

  test('that nobody swept cannot be booked late; its slot is the first alternative', async () => {
    const agenda = await anAgenda()
    const late = await hold(clinic, slot(agenda, await aContact(clinic)))
    await isOver(late)
    const { error } = await asAttendantOf(clinic).rpc('create_booking', { hold_id: late.id })
    expect(nameOf(error)).toBe('hold_expired')
    const [first] = await slotsOn(clinic, agenda.service, agenda.day)
    expect(first).toMatchObject({ start_time: at(agenda.day, '09:00') })
  })

  test('of a seat frees its seat likewise', async () => {
    const bath = await aService(clinic, { name: 'Banho', capacity: 1, duration_minutes: 60 })
    const hours = { starts_at: '00:00', ends_at: '24:00' }
    const always = { monday: [hours], tuesday: [hours], wednesday: [hours], thursday: [hours], friday: [hours], saturday: [hours], sunday: [hours] }
    valueOf(
      await asOwnerOf(clinic).from('organization_settings').update({ operating_hours: always })
        .eq('organization_id', clinic.organizationId).select(),
    )
    const wish = { service_id: bath.id, start_time: at(dayAhead(2), '10:00') }
    const first = await hold(clinic, { ...wish, contact_id: (await aContact(clinic)).id })
    const next = { ...wish, contact_id: (await aContact(clinic)).id }
    expect(slotUnavailableOf((await asAttendantOf(clinic).rpc('hold_slot', next)).error).reason).toBe('taken')
    await isOver(first)
    expect(await hold(clinic, next)).toMatchObject({ status: 'hold' })
    // Its seat is gone: only now it is too late for it.
    expect(nameOf((await asAttendantOf(clinic).rpc('create_booking', { hold_id: first.id })).error)).toBe('hold_expired')
  })

  test('that expired is cancelled by the schedule; one that runs, and a booking, are not', async () => {
    const agenda = await anAgenda()
    const [over, runs] = [await hold(clinic, slot(agenda, await aContact(clinic))), await hold(clinic, slot(agenda, await aContact(clinic), '10:00'))]
    const made = await booked(agenda, '11:00')
    await isOver(over)
    await expireHolds(clinic)
    const now = await Promise.all([over, runs, made].map((booking) => bookingNow(clinic, booking)))
    expect(now.map(({ status, cancellation_reason }) => [status, cancellation_reason])).toEqual([
      ['cancelled', 'hold_expired'],
      ['hold', null],
      ['scheduled', null],
    ])
  })
})

// Offers ------------------------------------------------------------------------------------------------------------------

describe('a slot that is given up', () => {
  test('is offered by priority, then by age; each has his time, and then it is free again', async () => {
    const agenda = await anAgenda()
    const made = await booked(agenda)
    const [early, late] = [await oneMore(agenda), await oneMore(agenda)]
    const urgent = await oneMore(agenda, { priority: 5 })
    const tomorrow = await oneMore(agenda, { priority: 9, earliest_date: dayAhead(20) })
    await cancel(clinic, made)

    // One lets it pass.
    const first = await offerTo(urgent)
    await expectOutOfReach(agenda)
    await isOver(first)
    await expectOutOfReach(agenda)
    await expireHolds(clinic)
    expect(await entryNow(urgent)).toMatchObject({ status: 'expired', offer_expires_at: null })
    expect(await bookingNow(clinic, first)).toMatchObject({ status: 'cancelled', cancellation_reason: 'hold_expired' })

    // The next one says no.
    const second = await offerTo(early)
    await expectOutOfReach(agenda)
    expect(valueOf(await leave(early))).toMatchObject({ status: 'cancelled' })
    expect(await bookingNow(clinic, second)).toMatchObject({ status: 'cancelled' })

    // The last one says yes; twice, because he did not hear the answer.
    const third = await offerTo(late)
    for (const _time of [1, 2]) {
      expect(valueOf(await accept(late))).toMatchObject({ id: third.id, status: 'scheduled', is_offer: false, contact_id: late.contact_id })
    }
    expect(await entryNow(late)).toMatchObject({ status: 'booked', offered_booking_id: third.id })
    await expectOutOfReach(agenda)

    // Nobody is left whom it suits.
    await cancel(clinic, third)
    expect(await startsOn(clinic, agenda.service, agenda.day)).toContain(at(agenda.day, '09:00'))
    expect(await entryNow(tomorrow)).toMatchObject({ status: 'waiting', offered_booking_id: null })
    expect(nameOf((await accept(urgent)).error)).toBe('offer_expired')
    expect(nameOf((await accept(tomorrow)).error)).toBe('offer_expired')
    expect(await booked(agenda)).toMatchObject({ status: 'scheduled' })
  })

  test('is out of reach for somebody who would move there, and for whoever would hold it', async () => {
    const agenda = await anAgenda()
    const [made, elsewhere] = [await booked(agenda), await booked(agenda, '11:00')]
    const entry = await oneMore(agenda)
    await cancel(clinic, made)
    await isOver(await offerTo(entry))
    const moved = await asAttendantOf(clinic).rpc('reschedule_booking', { id: elsewhere.id, start_time: made.start_time })
    expect(slotUnavailableOf(moved.error).reason).toBe('taken')
    const held = await asAttendantOf(clinic).rpc('hold_slot', slot(agenda, await aContact(clinic)))
    expect(slotUnavailableOf(held.error).reason).toBe('taken')
    expect(await offerTo(entry)).toMatchObject({ start_time: made.start_time })
  })

  test('may be offered because its booking moved away', async () => {
    const agenda = await anAgenda()
    const made = await booked(agenda)
    const [entry, next] = [await oneMore(agenda), await oneMore(agenda)]
    const moved = valueOf(await asAttendantOf(clinic).rpc('reschedule_booking', { id: made.id, start_time: at(agenda.day, '11:00') }))
    expect(moved).toMatchObject({ status: 'scheduled', rescheduled_count: 1, original_start_time: made.start_time })
    expect(await offerTo(entry)).toMatchObject({ start_time: made.start_time, professional_id: agenda.professional.id })
    expect(await entryNow(next)).toMatchObject({ status: 'waiting' })
    await expectOutOfReach(agenda)
    await expectOutOfReach(agenda, '11:00')
  })

  test('is not offered in new time off, and who waits goes on waiting', async () => {
    const agenda = await anAgenda()
    const made = await booked(agenda)
    const entry = await oneMore(agenda)
    valueOf(
      await asAttendantOf(clinic).from('time_off').insert({
        professional_id: agenda.professional.id,
        starts_at: at(agenda.day, '08:00'),
        ends_at: at(agenda.day, '09:30'),
      }).select(),
    )
    await cancel(clinic, made)
    expect(await entryNow(entry)).toMatchObject({ status: 'waiting', offered_booking_id: null })
    const { error } = await asAttendantOf(clinic).rpc('create_booking', slot(agenda, await aContact(clinic)))
    expect(slotUnavailableOf(error).reason).toBe('closed')
  })

  test("that was only held is everybody's again: it came out of free slots", async () => {
    const agenda = await anAgenda()
    const held = await hold(clinic, slot(agenda, await aContact(clinic)))
    const entry = await oneMore(agenda)
    await cancel(clinic, held)
    expect(await entryNow(entry)).toMatchObject({ status: 'waiting' })
    expect(await startsOn(clinic, agenda.service, agenda.day)).toContain(at(agenda.day, '09:00'))
  })
})

// At once -----------------------------------------------------------------------------------------------------------------

describe('at the same moment', () => {
  test('two slots are given up: who waits alone is offered one, and the other one is free', async () => {
    const agenda = await anAgenda()
    for (let round = 1; round <= 5; round++) {
      const made = [await booked(agenda), await booked(agenda, '10:00')]
      const entry = await oneMore(agenda)
      const answers = await Promise.all(made.map(({ id }) => anAppOf(clinic, 'attendant').rpc('cancel_booking', { id })))
      expect(answers.map(({ error }) => nameOf(error))).toEqual([null, null])
      const offer = await offerTo(entry)
      const holds = valueOf(
        await asAttendantOf(clinic).from('bookings').select('id').match({ service_id: agenda.service.id, status: 'hold' }),
      )
      expect(holds).toEqual([{ id: offer.id }])
      const free = await startsOn(clinic, agenda.service, agenda.day)
      expect(free).toEqual(['09:00', '10:00', '11:00'].map((time) => at(agenda.day, time)).filter((start) => start !== new Date(offer.start_time).toISOString()))
      valueOf(await leave(entry))
    }
  })

  test('many slots of two professionals are given up and taken: everybody is offered one, and nobody two', async () => {
    const agenda = await anAgenda()
    await aProfessional(clinic, 'Dra. Eva', [agenda.service], { starts_at: '09:00', ends_at: '12:00' })
    const made = await Promise.all(['09:00', '09:00', '10:00', '10:00', '11:00', '11:00'].map((time) => booked(agenda, time)))
    const entries = await Promise.all(made.map(() => oneMore(agenda)))
    const answers = await Promise.all(made.map(({ id }) => anAppOf(clinic, 'attendant').rpc('cancel_booking', { id })))
    expect(answers.map(({ error }) => nameOf(error))).toEqual(made.map(() => null))
    const offers = await Promise.all(entries.map(offerTo))
    expect(new Set(offers.map(({ start_time, professional_id }) => `${start_time} ${professional_id}`)).size).toBe(made.length)
    const taken = await Promise.all(entries.map(accept))
    expect(taken.map(({ error }) => nameOf(error))).toEqual(entries.map(() => null))
    expect(await startsOn(clinic, agenda.service, agenda.day)).toEqual([])
  })

  test('an offer is accepted and expires: it is booked or passed on, never both', async () => {
    const outcomes = { booked: 0, expired: 0 }
    const agendas = await Promise.all(Array.from({ length: ROUNDS }, () => anAgenda()))
    const lines = await Promise.all(agendas.map(async (agenda) => {
      const made = await booked(agenda)
      const [first, second] = [await oneMore(agenda), await oneMore(agenda)]
      await cancel(clinic, made)
      return { agenda, first, second, offer: await offerTo(first) }
    }))
    let sweeping = true
    onTestFinished(() => {
      sweeping = false
    })
    const sweeps = Promise.all([1, 2].map(async () => {
      while (sweeping) await sql`select private.expire_holds()`
    }))
    // A third has time enough, a third has none, and for the others it ends while the answer is on its way.
    const answers = await Promise.all(lines.map(async ({ first, offer }, index) => {
      await timeLeft(offer, ['1 minute', '-1 second', `${5 * index} milliseconds`][index % 3] ?? '')
      return await accept(first)
    }))
    await seen(
      () => sql`select from public.bookings b where b.organization_id = ${clinic.organizationId} and b.id = any (${lines.map(({ offer }) => offer.id)}) and b.status = 'hold'`,
      ({ length }) => length === 0,
    )
    sweeping = false
    await sweeps
    for (const [index, { agenda, first, second, offer }] of lines.entries()) {
      const [answer, before, after, booking] = [answers[index], await entryNow(first), await entryNow(second), await bookingNow(clinic, offer)]
      const live = valueOf(
        await asAttendantOf(clinic).from('bookings').select('contact_id').match({ service_id: agenda.service.id, is_live: true }),
      )
      if (answer?.error === null) {
        outcomes.booked += 1
        expect([before.status, after.status, booking.status]).toEqual(['booked', 'waiting', 'scheduled'])
        expect(live).toEqual([{ contact_id: first.contact_id }])
      } else {
        outcomes.expired += 1
        expect(nameOf(answer?.error ?? null)).toBe('offer_expired')
        expect([before.status, after.status, booking.status]).toEqual(['expired', 'offered', 'cancelled'])
        expect(live).toEqual([{ contact_id: second.contact_id }])
      }
    }
    expect(outcomes.booked).toBeGreaterThanOrEqual(ROUNDS / 3)
    expect(outcomes.expired).toBeGreaterThanOrEqual(ROUNDS / 3)
  })

  test('somebody leaves, is offered a slot and accepts it: one thing happens after the other', async () => {
    const agendas = await Promise.all(Array.from({ length: ROUNDS / 2 }, () => anAgenda()))
    const lines = await Promise.all(agendas.map(async (agenda) => ({ agenda, made: await booked(agenda), entry: await oneMore(agenda) })))
    const answers = await Promise.all(lines.map(({ made, entry }) =>
      Promise.all([
        anAppOf(clinic, 'attendant').rpc('cancel_booking', { id: made.id }),
        anAppOf(clinic, 'attendant').rpc('leave_waiting_list', { id: entry.id }),
        anAppOf(clinic, 'attendant').rpc('accept_waiting_list_offer', { id: entry.id }),
      ])
    ))
    for (const [index, { agenda, entry }] of lines.entries()) {
      const [cancelled, left, accepted] = answers[index] ?? []
      expect([nameOf(cancelled?.error ?? null), nameOf(left?.error ?? null)]).toEqual([null, null])
      const { status } = await entryNow(entry)
      const free = await startsOn(clinic, agenda.service, agenda.day)
      if (accepted?.error === null) {
        expect({ status, free }).toMatchObject({ status: 'booked', free: [at(agenda.day, '10:00'), at(agenda.day, '11:00')] })
      } else {
        expect(nameOf(accepted?.error ?? null)).toBe('offer_expired')
        expect({ status, first: free[0] }).toEqual({ status: 'cancelled', first: at(agenda.day, '09:00') })
      }
    }
  })

  test("who leaves while he is being offered a slot is in nobody's way who answers for him", async () => {
    const agenda = await anAgenda()
    const [made, neighbouring] = [await booked(agenda), await booked(agenda, '10:00')]
    const entry = await oneMore(agenda)
    const here = clinic.organizationId
    const [first, second] = [await sql.reserve(), await sql.reserve()]
    onTestFinished(async () => {
      for (const session of [first, second]) {
        await session`rollback`
        session.release()
      }
    })
    for (const session of [first, second]) {
      await session`begin`
      await session`select set_config('request.jwt.claims', '{"role": "service_role"}', true)`
    }
    // The offer is made, but nobody sees it yet. Somebody waits for the same agenda, and he who leaves for his own row.
    await first`select public.cancel_booking(${made.id}, null, ${here})`
    const next = second`select private.locked_booking(${here}, ${neighbouring.id})`.execute()
    await whenWaiting(1)
    const leaving = leave(entry).then((answer) => answer)
    await whenWaiting(2)
    await first`commit`
    await next
    // Accepted for him: before he has left, or after it.
    const accepted = await second`select public.accept_waiting_list_offer(${entry.id}, ${here})`
      .then(() => null, (error: postgres.PostgresError) => error.code)
    await second`commit`
    expect([null, 'BL514']).toContain(accepted)
    expect(valueOf(await leaving)).toMatchObject({ status: accepted === null ? 'booked' : 'cancelled' })
  })
})

/** So many wait for somebody's lock. */
async function whenWaiting(count: number): Promise<void> {
  await seen(
    () => sql`select from pg_catalog.pg_stat_activity a where a.datname = current_database() and a.wait_event_type = 'Lock'`,
    ({ length }) => length === count,
  )
}

// Who may -----------------------------------------------------------------------------------------------------------------

test('a viewer looks at the line, and another tenant sees none', async () => {
  const agenda = await anAgenda()
  const made = await booked(agenda)
  const entry = await oneMore(agenda)
  await cancel(clinic, made)
  await offerTo(entry)
  expect(valueOf(await asViewerOf(clinic).from('waiting_list').select('id').eq('id', entry.id))).toEqual([{ id: entry.id }])
  expect(valueOf(await asOwnerOf(neighbour).from('waiting_list').select('id').eq('id', entry.id))).toEqual([])
  const { id, contact_id, service_id } = entry
  for (const client of [asViewerOf(clinic), asOwnerOf(neighbour)]) {
    const theirs = { organization_id: clinic.organizationId }
    for (
      const { error } of [
        await client.rpc('join_waiting_list', { contact_id, service_id, ...theirs }),
        await client.rpc('accept_waiting_list_offer', { id, ...theirs }),
        await client.rpc('leave_waiting_list', { id, ...theirs }),
      ]
    ) expect(nameOf(error)).toBe('not_allowed')
  }
  const { error } = await asOwnerOf(neighbour).rpc('accept_waiting_list_offer', { id })
  expect(nameOf(error)).toBe('waiting_list_entry_not_found')
  expect(nameOf((await platform.rpc('accept_waiting_list_offer', { id, organization_id: neighbour.organizationId })).error))
    .toBe('waiting_list_entry_not_found')
  await offerTo(entry)
})

test('nobody calls it: the clock of the stack itself passes an offer on', async () => {
  const agenda = await anAgenda()
  const made = await booked(agenda)
  const [first, second] = [await oneMore(agenda), await oneMore(agenda)]
  await cancel(clinic, made)
  await isOver(await offerTo(first))
  await letTheClockRun(true)
  onTestFinished(() => letTheClockRun(false))
  await seen(() => entryNow(second), ({ status }) => status === 'offered')
  expect(await entryNow(first)).toMatchObject({ status: 'expired' })
})
