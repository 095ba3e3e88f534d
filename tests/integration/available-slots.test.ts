// What is free: the database and a slow reference in TypeScript agree, whatever the hours, absences, bookings and
// zones; what is offered can be booked, and what is not is refused.
//
// The reference is held against days that people worked out by hand first. BALCAO_TEST_SEED repeats the random agendas.

import { randomUUID } from 'node:crypto'
import postgres from 'postgres'
import { afterAll, describe, expect, test } from 'vitest'
import type { OperatingHours } from '../../types/index.ts'
import {
  type Agenda,
  blocksOn,
  type Booking,
  candidateStarts,
  freeSlots,
  instantOf,
  instantsOf,
  isoOf,
  localDate,
  minuteOf,
  type Question,
  type Service,
  type Slot,
  slotAt,
  wallTime,
  type WorkingHours,
} from '../support/availability-reference.ts'
import { randomAgenda, type Scene, scenes, upcomingScenes } from '../support/random-agendas.ts'
import { runningStack } from '../support/running-stack.ts'
import { seeded, testSeed } from '../support/seeded.ts'

const AGENDAS = 260
const QUESTIONS = 8
const BOOKED_AGENDAS = 90
const SERVICE = '10000000-0000-4000-8000-000000000000'
const ANA = '20000000-0000-4000-8000-000000000000'
const BIA = '20000000-0000-4000-8000-000000000001'
const LISBON = '30000000-0000-4000-8000-000000000000'

const sql = postgres(runningStack().urls.admin, { max: 1, onnotice: () => undefined })
const seed = testSeed()

afterAll(() => sql.end({ timeout: 1 }))

// By hand -------------------------------------------------------------------------------------------------------------

/** Ana gives visits of an hour. */
function anAgenda(
  timezone: string,
  hours: [weekday: number, starts_at: string, ends_at: string][],
  change: Partial<Agenda> = {},
): Agenda {
  return {
    timezone,
    operating_hours: {},
    locations: [],
    services: [{
      id: SERVICE,
      duration_minutes: 60,
      buffer_minutes: 0,
      slot_interval_minutes: null,
      capacity: 1,
      is_active: true,
    }],
    professionals: [{ id: ANA, name: 'Ana', location_id: null, is_active: true }],
    professional_services: [{ professional_id: ANA, service_id: SERVICE }],
    working_hours: hours.map((block) => someHours(ANA, ...block)),
    time_off: [],
    bookings: [],
    ...change,
  }
}

function someHours(professional_id: string, weekday: number, starts_at: string, ends_at: string): WorkingHours {
  return { professional_id, location_id: null, weekday, starts_at, ends_at, valid_from: null, valid_until: null }
}

/** What a clock there shows at the start of each slot from the one day's midnight to the other's. */
function startsBetween(agenda: Agenda, from: string, until: string, change: Partial<Question> = {}): string[] {
  return slotsBetween(agenda, from, until, change).map(({ start_time }) =>
    wallTime(agenda.timezone, minuteOf(start_time))
  )
}

function slotsBetween(agenda: Agenda, from: string, until: string, change: Partial<Question> = {}): Slot[] {
  return freeSlots(agenda, {
    service_id: SERVICE,
    from_time: isoOf(instantOf(agenda.timezone, `${from} 00:00`)),
    to_time: isoOf(instantOf(agenda.timezone, `${until} 00:00`)),
    professional_id: null,
    location_id: null,
    at: '2000-01-01T00:00:00Z',
    ...change,
  })
}

function aBooking(start_time: string, end_time: string, change: Partial<Booking> = {}): Booking {
  return {
    professional_id: ANA,
    service_id: SERVICE,
    location_id: null,
    start_time,
    end_time,
    blocked_until: end_time,
    status: 'scheduled',
    hold_expires_at: null,
    is_offer: false,
    ...change,
  }
}

const everyDay = (starts_at: string, ends_at: string) =>
  [0, 1, 2, 3, 4, 5, 6].map((weekday): [number, string, string] => [weekday, starts_at, ends_at])

describe('the reference, by hand', () => {
  test.each([
    // Clocks were put forward: 02:30 is what a clock that nobody changed calls 03:30.
    ['America/New_York', '2026-03-08 01:59', '2026-03-08T06:59:00.000Z'],
    ['America/New_York', '2026-03-08 02:30', '2026-03-08T07:30:00.000Z'],
    ['America/New_York', '2026-03-08 03:30', '2026-03-08T07:30:00.000Z'],
    ['Europe/Lisbon', '2026-03-29 01:00', '2026-03-29T01:00:00.000Z'],
    ['America/Sao_Paulo', '2018-11-04 00:00', '2018-11-04T03:00:00.000Z'],
    ['America/Sao_Paulo', '2018-11-04 00:30', '2018-11-04T03:30:00.000Z'],
    ['Australia/Lord_Howe', '2026-10-04 02:15', '2026-10-03T15:45:00.000Z'],
    ['Pacific/Apia', '2011-12-30 08:00', '2011-12-30T18:00:00.000Z'],
    // Put back: the later of the two.
    ['America/New_York', '2026-11-01 01:30', '2026-11-01T06:30:00.000Z'],
    ['Europe/Lisbon', '2026-10-25 01:30', '2026-10-25T01:30:00.000Z'],
    ['America/Sao_Paulo', '2018-02-17 23:30', '2018-02-18T02:30:00.000Z'],
    ['America/Sao_Paulo', '2018-02-18 00:00', '2018-02-18T03:00:00.000Z'],
    ['Australia/Lord_Howe', '2026-04-05 01:45', '2026-04-04T15:15:00.000Z'],
    // Left alone.
    ['America/Sao_Paulo', '2026-11-01 00:30', '2026-11-01T03:30:00.000Z'],
    ['Asia/Kolkata', '2028-02-29 00:00', '2028-02-28T18:30:00.000Z'],
  ])('%s: %s is %s', (timezone, wall, instant) => {
    expect(isoOf(instantOf(timezone, wall))).toBe(instant)
  })

  test('an hour that is skipped has no instant, one that comes twice has two', () => {
    expect(instantsOf('America/New_York', '2026-03-08 02:30')).toEqual([])
    expect(instantsOf('America/Sao_Paulo', '2018-11-04 00:00')).toEqual([])
    expect(instantsOf('America/New_York', '2026-11-01 01:30').map(isoOf)).toEqual([
      '2026-11-01T05:30:00.000Z',
      '2026-11-01T06:30:00.000Z',
    ])
    expect(instantsOf('America/Sao_Paulo', '2018-02-17 23:30')).toHaveLength(2)
  })

  test('the whole day is 23 hours long when clocks are put forward, 25 when they are put back', () => {
    const lengthOf = (timezone: string, date: string) =>
      blocksOn(timezone, date, '00:00', '24:00').map(({ from, until }) => (until - from) / 60)
    expect(lengthOf('America/New_York', '2026-03-08')).toEqual([23])
    expect(lengthOf('America/New_York', '2026-11-01')).toEqual([25])
    expect(lengthOf('Europe/Lisbon', '2026-03-29')).toEqual([23])
    expect(lengthOf('Europe/Lisbon', '2026-10-25')).toEqual([25])
    expect(lengthOf('America/Sao_Paulo', '2018-11-04')).toEqual([23])
    expect(lengthOf('America/Sao_Paulo', '2018-02-17')).toEqual([25])
    expect(lengthOf('America/Sao_Paulo', '2026-11-01')).toEqual([24])
    expect(lengthOf('Australia/Lord_Howe', '2026-10-04')).toEqual([23.5])
    expect(lengthOf('America/Sao_Paulo', '2028-02-29')).toEqual([24])
  })

  test('hours that are skipped move, or are none', () => {
    const within = (startsAt: string, endsAt: string) =>
      blocksOn('America/New_York', '2026-03-08', startsAt, endsAt).map(({ from, until }) => [isoOf(from), isoOf(until)])
    expect(within('02:00', '02:30')).toEqual([['2026-03-08T07:00:00.000Z', '2026-03-08T07:30:00.000Z']])
    expect(within('02:30', '03:00')).toEqual([])
  })

  test('a morning with a break, in the usual steps', () => {
    const agenda = anAgenda('America/Sao_Paulo', [[1, '08:00', '10:30'], [1, '11:00', '12:00']])
    expect(startsBetween(agenda, '2026-06-15', '2026-06-16')).toEqual([
      '2026-06-15 08:00',
      '2026-06-15 09:00',
      '2026-06-15 11:00',
    ])
    expect(startsBetween(agenda, '2026-06-16', '2026-06-22')).toEqual([])
  })

  test('steps are of absolute minutes where clocks are put forward', () => {
    const agenda = anAgenda('America/New_York', [[0, '00:30', '05:00']])
    expect(startsBetween(agenda, '2026-03-08', '2026-03-09')).toEqual([
      '2026-03-08 00:30',
      '2026-03-08 01:30',
      '2026-03-08 03:30',
    ])
  })

  test('an hour that comes twice can be booked twice', () => {
    const agenda = anAgenda('America/New_York', [[0, '00:00', '03:00']])
    expect(startsBetween(agenda, '2026-11-01', '2026-11-02')).toEqual([
      '2026-11-01 00:00',
      '2026-11-01 01:00',
      '2026-11-01 01:00',
      '2026-11-01 02:00',
    ])
  })

  test('at a midnight that does not exist a night goes on at one', () => {
    const agenda = anAgenda('America/Sao_Paulo', [[6, '22:00', '02:00']])
    expect(startsBetween(agenda, '2018-11-03', '2018-11-05')).toEqual([
      '2018-11-03 22:00',
      '2018-11-03 23:00',
      '2018-11-04 01:00',
    ])
  })

  test('an hour before a midnight that comes late is there twice', () => {
    const agenda = anAgenda('America/Sao_Paulo', [[6, '22:00', '24:00']])
    expect(startsBetween(agenda, '2018-02-17', '2018-02-19')).toEqual([
      '2018-02-17 22:00',
      '2018-02-17 23:00',
      '2018-02-17 23:00',
    ])
  })

  test('hours over midnight belong to the day on which they begin, the leap day too', () => {
    const agenda = anAgenda('America/Sao_Paulo', [[2, '22:00', '02:00']])
    expect(startsBetween(agenda, '2028-02-29', '2028-03-02')).toEqual([
      '2028-02-29 22:00',
      '2028-02-29 23:00',
      '2028-03-01 00:00',
      '2028-03-01 01:00',
    ])
    const [hours] = agenda.working_hours
    const onlyThen = {
      ...agenda,
      working_hours: hours === undefined ? [] : [{ ...hours, valid_from: '2028-02-29', valid_until: '2028-02-29' }],
    }
    expect(startsBetween(onlyThen, '2028-02-01', '2028-04-01')).toHaveLength(4)
  })

  test('blocks that touch or overlap count as one, each with its own steps', () => {
    const touching = anAgenda('America/Sao_Paulo', [[0, '21:30', '24:00'], [1, '00:00', '02:00']])
    expect(startsBetween(touching, '2026-06-14', '2026-06-16')).toEqual([
      '2026-06-14 21:30',
      '2026-06-14 22:30',
      // It ends at 00:30.
      '2026-06-14 23:30',
      '2026-06-15 00:00',
      '2026-06-15 01:00',
    ])
    const overlapping = anAgenda('America/Sao_Paulo', [[1, '08:00', '10:00'], [1, '09:30', '11:00']])
    expect(startsBetween(overlapping, '2026-06-15', '2026-06-16').map((start) => start.slice(11))).toEqual([
      '08:00',
      '09:00',
      '09:30',
    ])
  })

  test('a day of 24 hours, every day, never ends', () => {
    expect(startsBetween(anAgenda('UTC', everyDay('00:00', '24:00')), '2028-02-28', '2028-03-02')).toHaveLength(72)
  })

  test('time off takes away what it touches; the steps stay', () => {
    const agenda = anAgenda('UTC', [[1, '08:00', '12:00']], {
      time_off: [{
        professional_id: null,
        location_id: null,
        starts_at: '2026-06-15T08:59:00Z',
        ends_at: '2026-06-15T10:00:00Z',
      }],
    })
    expect(startsBetween(agenda, '2026-06-15', '2026-06-16').map((start) => start.slice(11))).toEqual([
      '10:00',
      '11:00',
    ])
    const elsewhere = { ...agenda, time_off: agenda.time_off.map((off) => ({ ...off, location_id: LISBON })) }
    expect(startsBetween(elsewhere, '2026-06-15', '2026-06-16')).toHaveLength(4)
    const ofAnother = { ...agenda, time_off: agenda.time_off.map((off) => ({ ...off, professional_id: BIA })) }
    expect(startsBetween(ofAnother, '2026-06-15', '2026-06-16')).toHaveLength(4)
  })

  test('a booking blocks until its buffer ends; the new one needs room for its own, also past the hours', () => {
    const agenda = anAgenda('UTC', [[1, '08:00', '12:00']])
    const [service] = agenda.services
    const buffered = {
      ...agenda,
      services: service === undefined ? [] : [{ ...service, buffer_minutes: 15, slot_interval_minutes: 15 }],
      bookings: [aBooking('2026-06-15T09:30:00Z', '2026-06-15T10:00:00Z', { blocked_until: '2026-06-15T10:15:00Z' })],
    }
    expect(startsBetween(buffered, '2026-06-15', '2026-06-16').map((start) => start.slice(11)))
      .toEqual(['08:00', '08:15', '10:15', '10:30', '10:45', '11:00'])
  })

  test('cancelled bookings and expired holds block nobody; offers do until they are passed on', () => {
    const held = { hold_expires_at: '2026-06-15T07:00:00Z', status: 'hold' as const }
    const nine = (change: Partial<Booking>) =>
      anAgenda('UTC', [[1, '09:00', '10:00']], {
        bookings: [aBooking('2026-06-15T09:00:00Z', '2026-06-15T10:00:00Z', change)],
      })
    const isFree = (change: Partial<Booking>, at: string) =>
      startsBetween(nine(change), '2026-06-15', '2026-06-16', { at }).length === 1
    expect(isFree({ status: 'confirmed' }, '2026-06-15T06:00:00Z')).toBe(false)
    for (const status of ['cancelled', 'completed', 'no_show'] as const) {
      expect(isFree({ status }, '2026-06-15T06:00:00Z')).toBe(true)
    }
    expect(isFree(held, '2026-06-15T06:59:59Z')).toBe(false)
    expect(isFree(held, '2026-06-15T07:00:00Z')).toBe(true)
    expect(isFree({ ...held, is_offer: true }, '2026-06-15T08:00:00Z')).toBe(false)
  })

  test('what begins now is over', () => {
    const agenda = anAgenda('UTC', [[1, '08:00', '10:00']])
    expect(startsBetween(agenda, '2026-06-15', '2026-06-16', { at: '2026-06-15T08:00:00Z' })).toEqual([
      '2026-06-15 09:00',
    ])
    expect(startsBetween(agenda, '2026-06-15', '2026-06-16', { at: '2026-06-15T07:59:59Z' })).toHaveLength(2)
  })

  test('of two who are free the one with less to do that day is offered', () => {
    const agenda = anAgenda('UTC', [], {
      professionals: [{ id: ANA, name: 'Ana', location_id: null, is_active: true }, {
        id: BIA,
        name: 'Bia',
        location_id: null,
        is_active: true,
      }],
      professional_services: [{ professional_id: ANA, service_id: SERVICE }, {
        professional_id: BIA,
        service_id: SERVICE,
      }],
      working_hours: [1, 2].flatMap((
        weekday,
      ) => [someHours(ANA, weekday, '08:00', '10:00'), someHours(BIA, weekday, '08:00', '10:00')]),
      bookings: [aBooking('2026-06-15T08:00:00Z', '2026-06-15T09:00:00Z')],
    })
    const offered = (change: Partial<Question> = {}) =>
      slotsBetween(agenda, '2026-06-15', '2026-06-17', change).map(({ start_time, professional_name }) =>
        `${start_time.slice(8, 16)} ${professional_name}`
      )
    expect(offered()).toEqual(['15T08:00 Bia', '15T09:00 Bia', '16T08:00 Ana', '16T09:00 Ana'])
    expect(offered({ professional_id: ANA })).toEqual(['15T09:00 Ana', '16T08:00 Ana', '16T09:00 Ana'])
  })

  test('hours are read at the clock of their place', () => {
    const location = { id: LISBON, timezone: 'Europe/Lisbon', operating_hours: null, is_active: true }
    const agenda = anAgenda('America/Sao_Paulo', [[1, '08:00', '09:00']], { locations: [location] })
    const there = { ...agenda, working_hours: agenda.working_hours.map((block) => ({ ...block, location_id: LISBON })) }
    expect(slotsBetween(there, '2026-06-15', '2026-06-16')).toMatchObject([
      { start_time: '2026-06-15T07:00:00.000Z', location_id: LISBON, timezone: 'Europe/Lisbon' },
    ])
    const closed = { ...there, locations: [{ ...location, is_active: false }] }
    expect(slotsBetween(closed, '2026-06-15', '2026-06-16')).toEqual([])
  })

  test('what nobody gives has seats, at each place', () => {
    const location = { id: LISBON, timezone: null, operating_hours: null, is_active: true }
    const agenda = anAgenda('UTC', [], {
      professional_services: [],
      operating_hours: { monday: [{ starts_at: '08:00', ends_at: '10:00' }] },
    })
    const [service] = agenda.services
    const bath = { ...agenda, services: service === undefined ? [] : [{ ...service, capacity: 2 }] }
    const seats = (change: Partial<Agenda>) =>
      slotsBetween({ ...bath, ...change }, '2026-06-15', '2026-06-16').map(({ seats_left }) => seats_left)
    const taken = aBooking('2026-06-15T08:30:00Z', '2026-06-15T09:00:00Z', { professional_id: null })
    expect(seats({})).toEqual([2, 2])
    expect(seats({ bookings: [taken] })).toEqual([1, 2])
    expect(seats({ bookings: [taken, taken] })).toEqual([2])
    // One that was made before there were places may be at any of them.
    expect(seats({ bookings: [taken, taken], locations: [location] })).toEqual([2])
    expect(seats({ bookings: [taken, taken].map((one) => ({ ...one, location_id: LISBON })), locations: [location] }))
      .toEqual([2])
    expect(seats({ locations: [{ ...location, operating_hours: {} }] })).toEqual([])
  })
})

// The database --------------------------------------------------------------------------------------------------------

/** As if it had always been there: what is over cannot be booked any more, so the tables' triggers do not run. */
async function store(
  tx: postgres.TransactionSql,
  organization: string,
  contact: string,
  agenda: Agenda,
): Promise<void> {
  const {
    timezone,
    operating_hours,
    locations,
    services,
    professionals,
    professional_services,
    working_hours,
    time_off,
  } = agenda
  await tx`select set_config('session_replication_role', 'replica', true)`
  await tx`
    insert into public.organizations (id, name, slug, vertical, timezone)
    values (${organization}, 'Ao acaso', ${organization}, 'clinic', ${timezone})`
  const zoneAt = (id: string | null) => locations.find((location) => location.id === id)?.timezone ?? timezone
  const rows: Record<string, object[]> = {
    organization_settings: [{ operating_hours }],
    contacts: [{ id: contact, name: 'Cliente', phone_number: '+5511987654321' }],
    locations: locations.map((location) => ({ ...location, name: 'Unidade', slug: location.id })),
    services: services.map((service) => ({ ...service, name: 'Serviço' })),
    professionals: professionals.map((professional) => ({ ...professional, slug: professional.id })),
    professional_services,
    working_hours,
    time_off,
    bookings: agenda.bookings.map((booking) => ({
      ...booking,
      contact_id: contact,
      booking_date: localDate(zoneAt(booking.location_id), minuteOf(booking.start_time)),
      cancelled_at: booking.status === 'cancelled' ? booking.start_time : null,
      completed_at: booking.status === 'completed' ? booking.end_time : null,
    })),
  }
  for (const [table, [row, ...more]] of Object.entries(rows)) {
    if (row === undefined) continue
    const columns = Object.keys(row).join(', ')
    await tx.unsafe(
      `insert into public.${table} (organization_id, ${columns})
      select $1::uuid, ${columns} from jsonb_populate_recordset(null::public.${table}, $2::text::jsonb)`,
      [organization, JSON.stringify([row, ...more])],
    )
  }
  await tx`select set_config('session_replication_role', 'origin', true)`
}

interface SlotRow extends Omit<Slot, 'start_time' | 'end_time'> {
  start_time: Date
  end_time: Date
}

function asSlot(
  { start_time, end_time, professional_id, professional_name, location_id, timezone, seats_left }: SlotRow,
): Slot {
  return {
    start_time: start_time.toISOString(),
    end_time: end_time.toISOString(),
    professional_id,
    professional_name,
    location_id,
    timezone,
    seats_left,
  }
}

/** Within a transaction whose end is that nothing happened. */
async function undone<Value>(within: (tx: postgres.TransactionSql) => Promise<Value>): Promise<Value> {
  return await takenBack(within, (tried) => sql.begin(tried))
}

/** The same for a part of a transaction. */
async function undoneWithin<Value>(
  tx: postgres.TransactionSql,
  within: (tx: postgres.TransactionSql) => Promise<Value>,
): Promise<Value> {
  return await takenBack(within, (tried) => tx.savepoint(tried))
}

async function takenBack<Value>(
  within: (tx: postgres.TransactionSql) => Promise<Value>,
  begin: (tried: (tx: postgres.TransactionSql) => Promise<never>) => Promise<unknown>,
): Promise<Value> {
  const rollback = new Error('Nothing happened.')
  let value: { is: Value } | undefined
  await begin(async (tx) => {
    value = { is: await within(tx) }
    throw rollback
  }).catch((error: unknown) => {
    if (error !== rollback) throw error
  })
  if (value === undefined) throw rollback
  return value.is
}

/** What the database says, question by question; names as get_available_slots() adds them. */
async function answersTo(agenda: Agenda, questions: Question[]): Promise<Slot[][]> {
  const organization = randomUUID()
  const rows = await undone(async (tx) => {
    await store(tx, organization, randomUUID(), agenda)
    return await tx<(SlotRow & { n: number })[]>`
      select q.n, f.start_time, f.end_time, f.professional_id, p.name as professional_name, f.location_id, f.timezone,
        f.seats_left
      from jsonb_to_recordset(${
      JSON.stringify(questions.map((question, n) => ({ n, ...question })))
    }::text::jsonb) as q (
        n int, service_id uuid, from_time timestamptz, to_time timestamptz, professional_id uuid, location_id uuid,
        at timestamptz
      )
      cross join lateral private.free_slots(
        ${organization}, q.service_id, q.from_time, q.to_time, q.professional_id, q.location_id, q.at
      ) with ordinality as f (start_time, end_time, professional_id, location_id, timezone, seats_left, position)
      left join public.professionals p on p.organization_id = ${organization} and p.id = f.professional_id
      order by q.n, f.position`
  })
  return questions.map((_, index) => rows.filter(({ n }) => n === index).map(asSlot))
}

// Where they differ ---------------------------------------------------------------------------------------------------

async function differs(agenda: Agenda, question: Question): Promise<boolean> {
  const [answer] = await answersTo(agenda, [question])
  return JSON.stringify(answer) !== JSON.stringify(freeSlots(agenda, question))
}

/** Less and less of an agenda, as long as they differ. */
async function smallest(agenda: Agenda, question: Question): Promise<Agenda> {
  for (const less of oneLess(agenda)) {
    if (await differs(less, question)) return await smallest(less, question)
  }
  return agenda
}

/** The agenda without one of its rows, or one day of opening hours. */
function oneLess(agenda: Agenda): Agenda[] {
  const lists = [
    'bookings',
    'time_off',
    'working_hours',
    'professional_services',
    'professionals',
    'locations',
    'services',
  ] as const
  const oneDayLess = (hours: OperatingHours | null) =>
    Object.keys(hours ?? {}).map((day) =>
      Object.fromEntries(Object.entries(hours ?? {}).filter(([other]) => other !== day))
    )
  return [
    ...lists.flatMap((list) =>
      agenda[list].map((row) => ({ ...agenda, [list]: agenda[list].filter((one: object) => one !== row) }))
    ),
    ...oneDayLess(agenda.operating_hours).map((operating_hours) => ({ ...agenda, operating_hours })),
    ...agenda.locations.flatMap((location, index) =>
      oneDayLess(location.operating_hours).map((operating_hours) => ({
        ...agenda,
        locations: agenda.locations.with(index, { ...location, operating_hours }),
      }))
    ),
  ]
}

function described(agenda: Agenda, question: Question): string {
  const rows = ([name, value]: [string, unknown]) =>
    Array.isArray(value)
      ? [`${name}:`, ...value.map((row) => `  ${JSON.stringify(row)}`)]
      : [`${name}: ${JSON.stringify(value)}`]
  return [...Object.entries(agenda).flatMap(rows), `question: ${JSON.stringify(question)}`].join('\n')
}

/** For whoever has to find out who is right. */
function differences(answer: Slot[], expected: Slot[]): string {
  const line = (slot: Slot) =>
    [
      `  ${wallTime(slot.timezone, minuteOf(slot.start_time))} ${slot.timezone} (${slot.start_time})`,
      slot.professional_name ?? 'nobody',
      `at ${slot.location_id ?? 'no place'}`,
      `${slot.seats_left} left`,
    ].join(', ')
  const [answered, wanted] = [answer.map(line), expected.map(line)]
  const onlyAnswered = answered.filter((slot) => !wanted.includes(slot))
  const onlyWanted = wanted.filter((slot) => !answered.includes(slot))
  return [
    'only the database offers:',
    ...onlyAnswered,
    'only the reference offers:',
    ...onlyWanted,
    ...(onlyAnswered.length + onlyWanted.length === 0 ? ['in another order:', ...answered] : []),
  ].join('\n')
}

test(`${AGENDAS * QUESTIONS} questions are answered as the reference does (BALCAO_TEST_SEED=${seed})`, async () => {
  const random = seeded(seed)
  const count = { some: 0, none: 0, slots: 0 }
  for (let index = 0; index < AGENDAS; index++) {
    const { agenda, questions } = randomAgenda(random, sceneOf(scenes, index), QUESTIONS)
    const answers = await answersTo(agenda, questions)
    for (const [n, question] of questions.entries()) {
      const expected = freeSlots(agenda, question)
      if (JSON.stringify(answers[n]) !== JSON.stringify(expected)) {
        const small = await smallest(agenda, question)
        const [answer = []] = await answersTo(small, [question])
        const where = `Agenda ${index}, question ${n} of BALCAO_TEST_SEED=${seed}, and less of it`
        expect.fail([where, described(small, question), differences(answer, freeSlots(small, question))].join('\n'))
      }
      if (expected.length > 0) count.some++
      else count.none++
      count.slots += expected.length
    }
  }
  // A generator whose agendas are all closed, or never full, would prove nothing.
  expect(count.some).toBeGreaterThan(AGENDAS * QUESTIONS / 4)
  expect(count.none).toBeGreaterThan(AGENDAS * QUESTIONS / 20)
  expect(count.slots).toBeGreaterThan(AGENDAS * QUESTIONS)
})

function sceneOf(all: Scene[], index: number): Scene {
  const scene = all[index % all.length]
  if (scene === undefined) throw new Error('There are no scenes.')
  return scene
}

// Booking -------------------------------------------------------------------------------------------------------------

/** Why what is asked for can never be had. */
function refusal(
  { services, professionals, professional_services, locations }: Agenda,
  { service_id, professional_id, location_id }: Question,
): string | null {
  if (!services.some(({ id, is_active }) => id === service_id && is_active)) return 'BL500'
  const isGiven = professional_services.some((one) =>
    one.service_id === service_id && one.professional_id === professional_id
  )
  const isThere = professionals.some(({ id, is_active }) => id === professional_id && is_active)
  if (professional_id !== null && !(isGiven && isThere)) return 'BL507'
  const isOpen = locations.some(({ id, is_active }) => id === location_id && is_active)
  return location_id === null || isOpen ? null : 'BL512'
}

type Outcome<Row> = { rows: Row[] } | { refused: string }

/** What it answers, or the code when it refuses; then nothing has happened. */
async function outcome<Row>(
  tx: postgres.TransactionSql,
  call: (within: postgres.TransactionSql) => PromiseLike<Row[]>,
): Promise<Outcome<Row>> {
  try {
    let rows: Row[] = []
    await tx.savepoint(async (within) => void (rows = [...await call(within)]))
    return { rows }
  } catch (error) {
    if (error instanceof postgres.PostgresError && error.code.startsWith('BL')) return { refused: error.code }
    throw error
  }
}

interface BookingRow extends Omit<Booking, 'start_time' | 'end_time' | 'blocked_until' | 'hold_expires_at'> {
  id: string
  start_time: Date
  end_time: Date
  blocked_until: Date
  hold_expires_at: Date | null
  booking_date: string
}

function asBooking(row: BookingRow): Booking {
  return {
    ...row,
    start_time: row.start_time.toISOString(),
    end_time: row.end_time.toISOString(),
    blocked_until: row.blocked_until.toISOString(),
    hold_expires_at: row.hold_expires_at?.toISOString() ?? null,
  }
}

/** With whom and where; null: anybody, anywhere. */
type Whom = Pick<Slot, 'professional_id' | 'location_id'>

/** What a caller with the secret key may ask for at an organization. */
class Counter {
  constructor(readonly tx: postgres.TransactionSql, readonly organization: string, readonly contact: string) {}

  /** Whose outcome need not last as long as the rest. */
  within(tx: postgres.TransactionSql): Counter {
    return new Counter(tx, this.organization, this.contact)
  }

  async slots({ service_id, from_time, to_time, professional_id, location_id }: Question): Promise<Outcome<Slot>> {
    const answer = await outcome(this.tx, (tx) =>
      tx<SlotRow[]>`
        select *
        from public.get_available_slots(
          ${service_id}, ${from_time}, ${to_time}, ${professional_id}, ${location_id}, ${this.organization})`)
    return 'rows' in answer ? { rows: answer.rows.map(asSlot) } : answer
  }

  async book(serviceId: string, start: string, { professional_id, location_id }: Whom): Promise<Outcome<BookingRow>> {
    return await outcome(this.tx, (tx) =>
      tx<BookingRow[]>`
        select b.*, b.booking_date::text as booking_date
        from public.create_booking(
          contact_id => ${this.contact}, service_id => ${serviceId}, start_time => ${start},
          professional_id => ${professional_id}, location_id => ${location_id},
          organization_id => ${this.organization}) b`)
  }

  /** Held first, as the bot does while it asks whether that suits. */
  async holdAndBook(
    serviceId: string,
    start: string,
    { professional_id, location_id }: Whom,
  ): Promise<Outcome<BookingRow>> {
    const held = await outcome(this.tx, (tx) =>
      tx<BookingRow[]>`
        select id
        from public.hold_slot(
          contact_id => ${this.contact}, service_id => ${serviceId}, start_time => ${start},
          professional_id => ${professional_id}, location_id => ${location_id},
          organization_id => ${this.organization})`)
    const [hold] = 'rows' in held ? held.rows : []
    if (hold === undefined) return held
    return await outcome(this.tx, (tx) =>
      tx<BookingRow[]>`
        select b.*, b.booking_date::text as booking_date
        from public.create_booking(hold_id => ${hold.id}, organization_id => ${this.organization}) b`)
  }

  async move({ id }: BookingRow, start: string, { professional_id, location_id }: Whom): Promise<Outcome<BookingRow>> {
    return await outcome(this.tx, (tx) =>
      tx<BookingRow[]>`
        select b.*, b.booking_date::text as booking_date
        from public.reschedule_booking(
          id => ${id}, start_time => ${start}, professional_id => ${professional_id}, location_id => ${location_id},
          organization_id => ${this.organization}) b`)
  }
}

/** Booked where the reference says, and answered; or refused. */
function expectBooked(
  result: Outcome<BookingRow>,
  slot: Slot | null,
  service: Service,
  told: string,
): BookingRow | null {
  const [row = null] = 'rows' in result ? result.rows : []
  if (row === null || slot === null) {
    expect(result, told).toEqual({ refused: 'BL501' })
    expect(slot, told).toBeNull()
    return null
  }
  expect({ ...asBooking(row), booking_date: row.booking_date }, told).toMatchObject({
    start_time: slot.start_time,
    end_time: slot.end_time,
    blocked_until: isoOf(minuteOf(slot.end_time) + service.buffer_minutes),
    booking_date: localDate(slot.timezone, minuteOf(slot.start_time)),
    professional_id: slot.professional_id,
    location_id: slot.location_id,
    status: 'scheduled',
  })
  return row
}

interface Case {
  agenda: Agenda
  question: Question
  /** Printed where the two differ. */
  told: string
}

/** What is offered, and then this booking too is in the way. */
async function expectLeft(counter: Counter, { agenda, question, told }: Case, booking: BookingRow): Promise<void> {
  const bookings = [...agenda.bookings, asBooking(booking)]
  expect(await counter.slots(question), told).toEqual({ rows: freeSlots({ ...agenda, bookings }, question) })
}

// They are around the time at which this runs: a seed repeats all but that.
test(`what is offered can be booked, and what cannot be is not (BALCAO_TEST_SEED=${seed})`, async () => {
  const random = seeded(seed)
  const some = (values: string[], most: number): string[] =>
    Array.from({ length: Math.min(most, values.length) }, () => values[random(values.length)] ?? '')
  const count = { booked: 0, moved: 0, refused: 0, neverHad: 0 }

  async function ask(counter: Counter, { agenda, question, told }: Case): Promise<void> {
    const { service_id } = question
    const never = refusal(agenda, question)
    if (never !== null) {
      expect(await counter.slots(question), told).toEqual({ refused: never })
      expect(await counter.book(service_id, question.from_time, question), told).toEqual({ refused: never })
      count.neverHad++
      return
    }
    const offered = freeSlots(agenda, question)
    expect(await counter.slots(question), told).toEqual({ rows: offered })

    const service = agenda.services.find(({ id }) => id === service_id)
    if (service === undefined) throw new Error(`There is no service ${service_id}.`)
    const isOffered = new Set(offered.map(({ start_time }) => start_time))
    const candidates = candidateStarts(agenda, question)
    const isContested = ({ start_time, end_time }: Slot) =>
      agenda.bookings.some((other) =>
        minuteOf(other.start_time) < minuteOf(end_time) + 60 && minuteOf(start_time) < minuteOf(other.blocked_until)
      )
    const starts = [
      ...some([...isOffered], 1),
      // Where somebody else is taken, or will be soon.
      ...some(offered.filter(isContested).map(({ start_time }) => start_time), 3),
      ...some(candidates.filter((start) => !isOffered.has(start)), 3),
      // Between those that are offered: nobody is held to the steps.
      ...some(candidates.map((start) => isoOf(minuteOf(start) + 1 + random(20))), 1),
    ]
    for (const start of starts) {
      const slot = slotAt(agenda, question, start)
      const [other = start] = some(candidates, 1)
      const how = `At ${start}, then ${other}\n${told}`
      if (isOffered.has(start)) expect(slot, how).not.toBeNull()
      // By the name of the slot, or by whatever was asked for.
      const whom = slot !== null && random(2) === 0 ? slot : question
      const isHeld = random(3) === 0
      await undoneWithin(counter.tx, async (tx) => {
        const there = counter.within(tx)
        const result = isHeld
          ? await there.holdAndBook(service_id, start, whom)
          : await there.book(service_id, start, whom)
        const booking = expectBooked(result, slot, service, how)
        if (booking === null || slot === null) return void count.refused++
        count.booked++
        await expectLeft(there, { agenda, question, told: how }, booking)
        if (other === start) return

        // It is not in its own way when it moves, though it may overlap where it was.
        const { professional_id, location_id } = slot
        const target = slotAt(agenda, { ...question, professional_id, location_id }, other)
        const moved = expectBooked(await there.move(booking, other, slot), target, service, how)
        if (moved === null) return
        count.moved++
        await expectLeft(there, { agenda, question, told: how }, moved)
      })
    }
  }

  const [clock = { now: new Date() }] = await sql<{ now: Date }[]>`select now()`
  const upcoming = upcomingScenes(minuteOf(clock.now.toISOString()))
  for (let index = 0; index < BOOKED_AGENDAS; index++) {
    await undone(async (tx) => {
      const [{ now } = clock] = await tx<{ now: Date }[]>`select now()`
      const { agenda, questions } = randomAgenda(random, sceneOf(upcoming, index), 2, minuteOf(now.toISOString()))
      const counter = new Counter(tx, randomUUID(), randomUUID())
      await store(tx, counter.organization, counter.contact, agenda)
      await tx`
        select
          set_config('request.jwt.claims', '{"role": "service_role"}', true),
          set_config('role', 'service_role', true)`
      for (const question of questions) {
        const told = `Agenda ${index} of BALCAO_TEST_SEED=${seed}\n${described(agenda, question)}`
        await ask(counter, { agenda, question, told })
      }
    })
  }
  expect(count.booked).toBeGreaterThan(BOOKED_AGENDAS)
  expect(count.moved).toBeGreaterThan(BOOKED_AGENDAS / 4)
  expect(count.refused).toBeGreaterThan(BOOKED_AGENDAS / 2)
  expect(count.neverHad).toBeGreaterThan(0)
})
