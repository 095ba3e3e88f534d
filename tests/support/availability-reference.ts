// Which slots are free, found the slow and obvious way: local days one by one, blocks minute by minute, and what a
// clock on the wall shows by asking Intl. Written from the definition, never from the SQL that it judges.

import { type OperatingHours, weekdays } from '../../types/index.ts'

/** Minutes since 1970 began in Greenwich. All that happens in an agenda happens at a whole one. */
export type Minute = number

// What the tables say -------------------------------------------------------------------------------------------------

export interface Location {
  id: string
  timezone: string | null
  operating_hours: OperatingHours | null
  is_active: boolean
}

export interface Service {
  id: string
  duration_minutes: number
  buffer_minutes: number
  slot_interval_minutes: number | null
  capacity: number
  is_active: boolean
}

export interface Professional {
  id: string
  name: string
  location_id: string | null
  is_active: boolean
}

export interface WorkingHours {
  professional_id: string
  location_id: string | null
  /** 0 = Sunday. */
  weekday: number
  starts_at: string
  ends_at: string
  valid_from: string | null
  valid_until: string | null
}

export interface TimeOff {
  professional_id: string | null
  location_id: string | null
  starts_at: string
  ends_at: string
}

export interface Booking {
  professional_id: string | null
  service_id: string
  location_id: string | null
  start_time: string
  end_time: string
  blocked_until: string
  status: 'hold' | 'scheduled' | 'confirmed' | 'completed' | 'cancelled' | 'no_show'
  hold_expires_at: string | null
  is_offer: boolean
}

/** All of an organization that decides what is free. */
export interface Agenda {
  timezone: string
  operating_hours: OperatingHours
  locations: Location[]
  services: Service[]
  professionals: Professional[]
  professional_services: { professional_id: string; service_id: string }[]
  working_hours: WorkingHours[]
  time_off: TimeOff[]
  bookings: Booking[]
}

/** The arguments of private.free_slots(), less the organization. */
export interface Question {
  service_id: string
  from_time: string
  to_time: string
  professional_id: string | null
  location_id: string | null
  at: string
}

export interface Slot {
  start_time: string
  end_time: string
  professional_id: string | null
  professional_name: string | null
  location_id: string | null
  timezone: string
  seats_left: number
}

// Clocks --------------------------------------------------------------------------------------------------------------

export function minuteOf(instant: string): Minute {
  const milliseconds = Date.parse(instant)
  if (Number.isNaN(milliseconds)) throw new Error(`${instant} is no instant.`)
  return milliseconds / 60_000
}

export function isoOf(minute: Minute): string {
  return new Date(minute * 60_000).toISOString()
}

const clocks = new Map<string, Intl.DateTimeFormat>()

function clockOf(timezone: string): Intl.DateTimeFormat {
  const known = clocks.get(timezone)
  if (known !== undefined) return known
  const clock = new Intl.DateTimeFormat('en-CA', {
    timeZone: timezone,
    hourCycle: 'h23',
    year: 'numeric',
    month: '2-digit',
    day: '2-digit',
    hour: '2-digit',
    minute: '2-digit',
  })
  clocks.set(timezone, clock)
  return clock
}

/** What a clock on a wall shows: 2026-03-08 01:59. */
export function wallTime(timezone: string, instant: Minute): string {
  return clockOf(timezone).format(instant * 60_000).replace(',', '')
}

export function localDate(timezone: string, instant: Minute): string {
  return wallTime(timezone, instant).slice(0, 10)
}

const found = new Map<string, Minute[]>()

/** The instants at which clocks show this: none where it is skipped, two where an hour comes twice, the later last. */
export function instantsOf(timezone: string, wall: string): Minute[] {
  const key = `${timezone} ${wall}`
  const known = found.get(key)
  if (known !== undefined) return known
  const asInGreenwich = minuteOf(`${wall.replace(' ', 'T')}Z`)
  const instants: Minute[] = []
  // Nobody is further from Greenwich, and all differ from it by whole quarters of an hour.
  for (let difference = -16 * 60; difference <= 16 * 60; difference += 15) {
    if (wallTime(timezone, asInGreenwich + difference) === wall) instants.push(asInGreenwich + difference)
  }
  found.set(key, instants)
  return instants
}

/** What comes twice is the later one; what is skipped is when a clock that nobody changed would show it. */
export function instantOf(timezone: string, wall: string): Minute {
  for (let minutes = 0; minutes <= 2 * 24 * 60; minutes++) {
    const last = instantsOf(timezone, wallBefore(wall, minutes)).at(-1)
    if (last !== undefined) return last + minutes
  }
  throw new Error(`${timezone} has no ${wall}, nor two days before.`)
}

function wallBefore(wall: string, minutes: number): string {
  return isoOf(minuteOf(`${wall.replace(' ', 'T')}Z`) - minutes).slice(0, 16).replace('T', ' ')
}

export function dayAfter(date: string, days = 1): string {
  return isoOf(minuteOf(`${date}T00:00Z`) + days * 24 * 60).slice(0, 10)
}

/** 0 = Sunday. */
function weekdayOf(date: string): number {
  return new Date(`${date}T00:00Z`).getUTCDay()
}

// Hours ---------------------------------------------------------------------------------------------------------------

/** From its first minute to before `until`. */
export interface Block {
  from: Minute
  until: Minute
}

/** The block that begins on a local date. One of no minutes is none. */
export function blocksOn(timezone: string, date: string, startsAt: string, endsAt: string): Block[] {
  const from = instantOf(timezone, `${date} ${startsAt}`)
  const until = endsAt === '24:00' || endsAt < startsAt
    ? instantOf(timezone, `${dayAfter(date)} ${endsAt === '24:00' ? '00:00' : endsAt}`)
    : instantOf(timezone, `${date} ${endsAt}`)
  return until > from ? [{ from, until }] : []
}

/** Every local date on which a block may begin that matters between the two. */
function datesAround(timezone: string, from: Minute, until: Minute): string[] {
  const dates: string[] = []
  const last = dayAfter(localDate(timezone, until), 3)
  for (let date = dayAfter(localDate(timezone, from), -3); date <= last; date = dayAfter(date)) dates.push(date)
  return dates
}

// Who could give a service, where -------------------------------------------------------------------------------------

/** Somebody at a place, or a place without anybody. */
interface Desk {
  professional: Professional | null
  location: Location | null
  timezone: string
  blocks: Block[]
  timeOff: TimeOff[]
  /** What takes a seat. */
  bookings: Booking[]
  seats: number
}

function isLive({ status, hold_expires_at, is_offer }: Booking, at: Minute): boolean {
  if (status === 'hold') return is_offer || (hold_expires_at !== null && minuteOf(hold_expires_at) > at)
  return status === 'scheduled' || status === 'confirmed'
}

function zoneOf(agenda: Agenda, location: Location | null): string {
  return location?.timezone ?? agenda.timezone
}

function locationOf(agenda: Agenda, id: string | null): Location | null {
  return agenda.locations.find((location) => location.id === id) ?? null
}

function desksOf(agenda: Agenda, service: Service, question: Question): Desk[] {
  const givenBy = agenda.professional_services.filter(({ service_id }) => service_id === service.id)
  const desks = givenBy.length > 0
    ? givenBy.flatMap(({ professional_id }) => desksOfProfessional(agenda, professional_id, question))
    : desksOfPlaces(agenda, service, question)
  return desks.filter(({ professional, location }) =>
    (question.professional_id === null || professional?.id === question.professional_id) &&
    (question.location_id === null || location?.id === question.location_id)
  )
}

function desksOfProfessional(agenda: Agenda, id: string, question: Question): Desk[] {
  const professional = agenda.professionals.find((one) => one.id === id)
  if (professional === undefined || !professional.is_active) return []
  const places = [null, ...agenda.locations.filter(({ is_active }) => is_active)]
  return places.map((location) => {
    const timezone = zoneOf(agenda, location)
    const hours = agenda.working_hours.filter(({ professional_id, location_id }) =>
      professional_id === id && (location_id ?? professional.location_id) === (location?.id ?? null)
    )
    const blocks = datesAround(timezone, minuteOf(question.from_time), minuteOf(question.to_time)).flatMap((date) =>
      hours
        .filter(({ weekday }) => weekday === weekdayOf(date))
        .filter(({ valid_from }) => valid_from === null || valid_from <= date)
        .filter(({ valid_until }) => valid_until === null || date <= valid_until)
        .flatMap(({ starts_at, ends_at }) => blocksOn(timezone, date, starts_at, ends_at))
    )
    return {
      professional,
      location,
      timezone,
      blocks,
      timeOff: agenda.time_off
        .filter(({ professional_id }) => professional_id === null || professional_id === id)
        .filter(({ location_id }) => location_id === null || location_id === location?.id),
      bookings: agenda.bookings
        .filter(({ professional_id }) => professional_id === id)
        .filter((booking) => isLive(booking, minuteOf(question.at))),
      seats: 1,
    }
  })
}

function desksOfPlaces(agenda: Agenda, service: Service, question: Question): Desk[] {
  const active = agenda.locations.filter(({ is_active }) => is_active)
  const places = active.length > 0 ? active : [null]
  return places.map((location) => {
    const timezone = zoneOf(agenda, location)
    const hours = location?.operating_hours ?? agenda.operating_hours
    const blocks = datesAround(timezone, minuteOf(question.from_time), minuteOf(question.to_time)).flatMap((date) => {
      // In types/ the week begins on Monday.
      const weekday = weekdays[(weekdayOf(date) + 6) % 7]
      const ofDay = weekday === undefined ? [] : hours[weekday] ?? []
      return ofDay.flatMap(({ starts_at, ends_at }) => blocksOn(timezone, date, starts_at, ends_at))
    })
    return {
      professional: null,
      location,
      timezone,
      blocks,
      timeOff: agenda.time_off
        .filter(({ professional_id }) => professional_id === null)
        .filter(({ location_id }) => location_id === null || location_id === location?.id),
      bookings: agenda.bookings
        .filter(({ professional_id, service_id }) => professional_id === null && service_id === service.id)
        .filter(({ location_id }) => location_id === null || location_id === (location?.id ?? null))
        .filter((booking) => isLive(booking, minuteOf(question.at))),
      seats: service.capacity,
    }
  })
}

// Slots ---------------------------------------------------------------------------------------------------------------

function startsOf({ blocks }: Desk, { slot_interval_minutes, duration_minutes }: Service): Minute[] {
  const starts = new Set<Minute>()
  for (const { from, until } of blocks) {
    for (let start = from; start < until; start += slot_interval_minutes ?? duration_minutes) starts.add(start)
  }
  return [...starts]
}

function openMinutes({ blocks, timeOff }: Desk): Set<Minute> {
  const open = new Set<Minute>()
  const closed = timeOff.map(({ starts_at, ends_at }) => ({ from: minuteOf(starts_at), until: minuteOf(ends_at) }))
  for (const { from, until } of blocks) {
    for (let minute = from; minute < until; minute++) {
      if (!closed.some((off) => off.from <= minute && minute < off.until)) open.add(minute)
    }
  }
  return open
}

/** How many seats are taken in each minute in which any is. */
function seatsTaken({ bookings }: Desk): Map<Minute, number> {
  const taken = new Map<Minute, number>()
  for (const { start_time, blocked_until } of bookings) {
    for (let minute = minuteOf(start_time); minute < minuteOf(blocked_until); minute++) {
      taken.set(minute, (taken.get(minute) ?? 0) + 1)
    }
  }
  return taken
}

function minutesFrom(start: Minute, count: number): Minute[] {
  return Array.from({ length: count }, (_, index) => start + index)
}

interface FreeDesk {
  desk: Desk
  start: Minute
  seatsLeft: number
}

function freeAt(desk: Desk, service: Service, question: Question, starts: Minute[]): FreeDesk[] {
  const open = openMinutes(desk)
  const taken = seatsTaken(desk)
  return starts
    .filter((start) => start > minuteOf(question.at))
    .filter((start) => minutesFrom(start, service.duration_minutes).every((minute) => open.has(minute)))
    .map((start) => {
      const blocked = minutesFrom(start, service.duration_minutes + service.buffer_minutes)
      return { desk, start, seatsLeft: Math.min(...blocked.map((minute) => desk.seats - (taken.get(minute) ?? 0))) }
    })
    .filter(({ seatsLeft }) => seatsLeft > 0)
}

/** Of one professional, in bookings that begin on a local date of the place of each. */
function bookedMinutes(agenda: Agenda, { bookings }: Desk, date: string): number {
  return bookings
    .filter(({ location_id, start_time }) =>
      localDate(zoneOf(agenda, locationOf(agenda, location_id)), minuteOf(start_time)) === date
    )
    .reduce((sum, { start_time, end_time }) => sum + minuteOf(end_time) - minuteOf(start_time), 0)
}

/** Ids in their order, nobody last. */
function compareIds(one: string | null, other: string | null): number {
  if (one === other) return 0
  if (one === null) return 1
  if (other === null) return -1
  return one < other ? -1 : 1
}

/** By start; then the one who is to get it first. */
function inOrder(agenda: Agenda, free: FreeDesk[]): FreeDesk[] {
  return free
    .map((one) => ({ ...one, busy: bookedMinutes(agenda, one.desk, localDate(one.desk.timezone, one.start)) }))
    .sort((one, other) =>
      one.start - other.start ||
      // Places are all offered, of professionals only the least busy.
      (one.desk.professional === null ? 0 : one.busy - other.busy) ||
      compareIds(one.desk.professional?.id ?? null, other.desk.professional?.id ?? null) ||
      compareIds(one.desk.location?.id ?? null, other.desk.location?.id ?? null)
    )
}

function slotOf({ desk: { professional, location, timezone }, start, seatsLeft }: FreeDesk, service: Service): Slot {
  return {
    start_time: isoOf(start),
    end_time: isoOf(start + service.duration_minutes),
    professional_id: professional?.id ?? null,
    professional_name: professional?.name ?? null,
    location_id: location?.id ?? null,
    timezone,
    seats_left: seatsLeft,
  }
}

function activeService(agenda: Agenda, { service_id }: Question): Service | null {
  return agenda.services.find(({ id, is_active }) => id === service_id && is_active) ?? null
}

function isAskedFor({ from_time, to_time }: Question, start: Minute): boolean {
  return minuteOf(from_time) <= start && start < minuteOf(to_time)
}

/** What is offered. */
export function freeSlots(agenda: Agenda, question: Question): Slot[] {
  const service = activeService(agenda, question)
  if (service === null) return []
  const free = desksOf(agenda, service, question).flatMap((desk) =>
    freeAt(desk, service, question, startsOf(desk, service).filter((start) => isAskedFor(question, start)))
  )
  return inOrder(agenda, free)
    .filter(({ desk, start }, index, all) => desk.professional === null || all[index - 1]?.start !== start)
    .map((one) => slotOf(one, service))
}

/** What somebody gets who wants to begin at one moment, be that offered or not. */
export function slotAt(agenda: Agenda, question: Question, start: string): Slot | null {
  const service = activeService(agenda, question)
  if (service === null) return null
  const free = desksOf(agenda, service, question).flatMap((desk) => freeAt(desk, service, question, [minuteOf(start)]))
  const [first] = inOrder(agenda, free)
  return first === undefined ? null : slotOf(first, service)
}

/** Where slots could begin if nothing were taken, closed or over. */
export function candidateStarts(agenda: Agenda, question: Question): string[] {
  const service = activeService(agenda, question)
  if (service === null) return []
  const starts = new Set(desksOf(agenda, service, question).flatMap((desk) => startsOf(desk, service)))
  return [...starts].filter((start) => isAskedFor(question, start)).sort((one, other) => one - other).map(isoOf)
}
