// Organizations that nobody would plan: hours, absences and bookings that meet, overlap and end where clocks change.

import { type OperatingHours, weekdays } from '../../types/index.ts'
import {
  type Agenda,
  type Booking,
  dayAfter,
  instantOf,
  isoOf,
  localDate,
  type Location,
  type Minute,
  minuteOf,
  type Professional,
  type Question,
  type Service,
  type TimeOff,
  type WorkingHours,
} from './availability-reference.ts'

export type Random = (below: number) => number

/** A zone and a day there around which everything happens. */
export interface Scene {
  timezone: string
  day: string
}

export const scenes: Scene[] = [
  { timezone: 'America/New_York', day: '2026-03-08' },
  { timezone: 'America/New_York', day: '2026-11-01' },
  { timezone: 'Europe/Lisbon', day: '2026-03-29' },
  { timezone: 'Europe/Lisbon', day: '2026-10-25' },
  // At midnight, which did not exist, and of which there were nearly two.
  { timezone: 'America/Sao_Paulo', day: '2018-11-04' },
  { timezone: 'America/Sao_Paulo', day: '2018-02-18' },
  // No more daylight saving.
  { timezone: 'America/Sao_Paulo', day: '2026-11-01' },
  { timezone: 'America/Sao_Paulo', day: '2028-02-29' },
  // By half an hour.
  { timezone: 'Australia/Lord_Howe', day: '2026-04-05' },
  { timezone: 'Australia/Lord_Howe', day: '2026-10-04' },
  { timezone: 'Asia/Kolkata', day: '2028-02-29' },
  { timezone: 'UTC', day: '2027-12-31' },
  // A day that never was.
  { timezone: 'Pacific/Apia', day: '2011-12-30' },
]

/** Today, some of which is over; and in each of their zones the next change of clocks, or any day if there is none. */
export function upcomingScenes(now: Minute): Scene[] {
  const changes = [...new Set(scenes.map(({ timezone }) => timezone))].map((timezone) => {
    const first = localDate(timezone, now + 7 * DAY)
    const days = Array.from({ length: 366 }, (_, index) => dayAfter(first, index))
    const isChange = (day: string) =>
      instantOf(timezone, `${dayAfter(day)} 00:00`) - instantOf(timezone, `${day} 00:00`) !== DAY
    return { timezone, day: days.find(isChange) ?? first }
  })
  return [{ timezone: 'America/Sao_Paulo', day: localDate('America/Sao_Paulo', now) }, ...changes]
}

const DAY = 24 * 60

export interface RandomAgenda {
  agenda: Agenda
  questions: Question[]
}

/** `now` is the database's where nothing can be booked for the past; else the questions say what time it is. */
export function randomAgenda(
  random: Random,
  scene: Scene,
  questionCount: number,
  now: Minute | null = null,
): RandomAgenda {
  const pick = <Value>(values: readonly [Value, ...Value[]]): Value => values[random(values.length)] ?? values[0]
  const oneOf = <Value>(values: readonly Value[]): Value | null => values[random(values.length)] ?? null
  const chance = (percent: number) => random(100) < percent
  const times = <Value>(count: number, make: (index: number) => Value) =>
    Array.from({ length: count }, (_, index) => make(index))
  const id = () =>
    times(30, () => random(16).toString(16)).join('').replace(/(.{8})(.{4})(.{3})(.{3})(.{12})/, '$1-$2-4$3-8$4-$5')

  const middle = instantOf(scene.timezone, `${scene.day} 00:00`)
  /** Mostly on the half-hour, as people plan; near the scene's midnight more often than far from it. */
  const aMinute = (): Minute => {
    const grain = pick([30, 30, 30, 15, 5, 1])
    const reach = pick([6 * 60, DAY, 2 * DAY, 4 * DAY])
    return middle + Math.floor((random(2 * reach) - reach) / grain) * grain
  }
  const clockAt = (minute: number) =>
    `${Math.floor(minute / 60)}`.padStart(2, '0') + ':' + `${minute % 60}`.padStart(2, '0')
  const aClock = (): string => {
    const grain = pick([60, 30, 30, 15, 5, 1])
    const most = chance(30) ? 5 * 60 : DAY
    return clockAt(Math.floor(random(most) / grain) * grain)
  }
  /** Starts and ends within a day of each other; often over midnight, which is often the end. */
  const hours = (): { starts_at: string; ends_at: string } => {
    if (chance(25)) {
      return pick([
        { starts_at: '08:00', ends_at: '12:00' },
        { starts_at: '13:00', ends_at: '18:00' },
        { starts_at: '22:00', ends_at: '00:00' },
        { starts_at: '22:00', ends_at: '24:00' },
        { starts_at: '00:00', ends_at: '24:00' },
        { starts_at: '00:00', ends_at: '02:00' },
        { starts_at: '22:00', ends_at: '06:00' },
        { starts_at: '00:00', ends_at: '23:59' },
        // Where clocks are changed.
        { starts_at: '02:00', ends_at: '02:30' },
        { starts_at: '01:30', ends_at: '05:00' },
        { starts_at: '20:00', ends_at: '01:30' },
        { starts_at: '23:30', ends_at: '03:00' },
      ])
    }
    const [starts_at, ends_at] = [aClock(), aClock()]
    return starts_at === ends_at ? hours() : { starts_at, ends_at }
  }
  const someOperatingHours = (): OperatingHours =>
    Object.fromEntries(weekdays.filter(() => chance(90)).map((weekday) => [weekday, times(1 + random(3), hours)]))

  const timezones = [...new Set(scenes.map(({ timezone }) => timezone))]
  const locations: Location[] = times(random(4), () => ({
    id: id(),
    timezone: chance(50) ? null : oneOf(timezones),
    operating_hours: chance(30) ? null : someOperatingHours(),
    is_active: chance(80),
  }))
  const aLocation = () => oneOf(locations)?.id ?? null

  const services: Service[] = times(3, () => ({
    id: id(),
    duration_minutes: pick([5, 10, 15, 20, 30, 30, 45, 50, 60, 60, 90, 120, 240, chance(20) ? DAY : 30]),
    buffer_minutes: pick([0, 0, 0, 5, 10, 15, 30, 60, chance(20) ? DAY : 0]),
    slot_interval_minutes: pick([null, null, 5, 15, 30, 50]),
    capacity: pick([1, 1, 2, 2, 3, 4]),
    is_active: chance(95),
  }))
  const professionals: Professional[] = times(1 + random(4), (index) => ({
    id: id(),
    name: `Profissional ${index + 1}`,
    location_id: chance(50) ? null : aLocation(),
    is_active: chance(90),
  }))
  // Nobody gives the last one: its places are bounded by capacity alone.
  const given = services.slice(0, chance(60) ? 2 : 1)
  const professional_services = given.flatMap((service) => {
    const giving = professionals.filter(() => chance(75))
    return giving.map((professional) => ({ professional_id: professional.id, service_id: service.id }))
  })

  const aDate = () => dayAfter(scene.day, random(9) - 4)
  const someHours = (professional: Professional): WorkingHours[] =>
    times(2 + random(12), () => {
      const [valid_from, valid_until] = [aDate(), aDate()].sort()
      return {
        professional_id: professional.id,
        location_id: chance(60) ? null : aLocation(),
        // Where clocks are changed nobody has the day off.
        weekday: chance(60) ? new Date(`${dayAfter(scene.day, random(3) - 1)}T00:00Z`).getUTCDay() : random(7),
        ...hours(),
        valid_from: chance(80) ? null : valid_from ?? null,
        valid_until: chance(80) ? null : valid_until ?? null,
      }
    })
  const working_hours = professionals.flatMap(someHours)

  const time_off: TimeOff[] = times(random(5), () => {
    const from = aMinute()
    return {
      professional_id: chance(50) ? null : oneOf(professionals)?.id ?? null,
      location_id: chance(60) ? null : aLocation(),
      starts_at: isoOf(from),
      ends_at: isoOf(from + pick([15, 30, 45, 60, 60, 120, 240, DAY])),
    }
  })

  const bookings: Booking[] = []
  for (const service of services) {
    for (let count = random(10); count > 0; count--) {
      const gives = professional_services.filter(({ service_id }) => service_id === service.id)
      // A few from before: for a service that somebody else gives now, or nobody.
      const professional_id = (gives.length === 0 && chance(80)) || chance(5)
        ? null
        : (chance(90) ? oneOf(gives) : null)?.professional_id ?? oneOf(professionals)?.id ?? null
      // Seats are only used up where several are taken at once.
      const before = bookings.at(-1)
      const start = professional_id === null && before !== undefined && chance(70)
        ? minuteOf(before.start_time) + pick([-30, -15, 0, 0, 15, 30])
        : aMinute()
      const end = start + (chance(80) ? service.duration_minutes : pick([15, 30, 60]))
      const status = pick(
        ['scheduled', 'scheduled', 'confirmed', 'hold', 'hold', 'cancelled', 'completed', 'no_show'] as const,
      )
      const booking: Booking = {
        professional_id,
        service_id: service.id,
        location_id: chance(20) ? null : oneOf(locations.filter(({ is_active }) => is_active))?.id ?? aLocation(),
        start_time: isoOf(start),
        end_time: isoOf(end),
        // The buffer that the service had then.
        blocked_until: isoOf(end + (chance(70) ? service.buffer_minutes : pick([0, 5, 30]))),
        status,
        hold_expires_at: status !== 'hold'
          ? null
          : isoOf(now === null ? start - pick([-15, 30, 60, 6 * 60, DAY]) : Math.floor(now) + pick([-30, -1, 5, 30])),
        is_offer: status === 'hold' && chance(40),
      }
      // The table's own constraint allows no two of one professional, not even holds that are over.
      if (bookings.every((other) => !excludes(booking, other))) bookings.push(booking)
    }
  }

  // Often the very one at which a hold ends or a slot begins, or a second from it.
  const aMoment = (): Minute => {
    const holdEnds = oneOf(bookings)?.hold_expires_at ?? null
    return (holdEnds !== null && chance(50) ? minuteOf(holdEnds) : aMinute()) + pick([0, 0, 1 / 60, -1 / 60])
  }
  const questions = times(questionCount, () => {
    const from = chance(50) ? middle - pick([DAY, 6 * 60, 0]) : aMinute()
    const until = from + pick([1, 60, 6 * 60, DAY, DAY, 2 * DAY, 2 * DAY, 4 * DAY])
    return {
      service_id: oneOf(services)?.id ?? id(),
      from_time: isoOf(from),
      to_time: isoOf(until),
      professional_id: chance(85) ? null : chance(95) ? oneOf(professionals)?.id ?? null : id(),
      location_id: chance(85) ? null : chance(95) ? aLocation() : id(),
      at: isoOf(now ?? (chance(60) ? middle - 5 * DAY : aMoment())),
    }
  })

  return {
    agenda: {
      timezone: scene.timezone,
      operating_hours: someOperatingHours(),
      locations,
      services,
      professionals,
      professional_services,
      working_hours,
      time_off,
      bookings,
    },
    questions,
  }
}

function excludes(one: Booking, other: Booking): boolean {
  const isLive = ({ status }: Booking) => status === 'hold' || status === 'scheduled' || status === 'confirmed'
  return one.professional_id !== null && one.professional_id === other.professional_id && isLive(one) &&
    isLive(other) &&
    minuteOf(one.start_time) < minuteOf(other.blocked_until) && minuteOf(other.start_time) < minuteOf(one.blocked_until)
}
