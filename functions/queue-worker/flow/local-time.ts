// Days and hours as people in Brazil say them. Names come from tables: runtimes differ in theirs.

export interface LocalTime {
  /** 2026-11-25 */
  date: string
  hour: number
  minute: number
}

const WEEKDAYS = [
  'domingo',
  'segunda-feira',
  'terça-feira',
  'quarta-feira',
  'quinta-feira',
  'sexta-feira',
  'sábado',
] as const

export const MONTHS = [
  'janeiro',
  'fevereiro',
  'março',
  'abril',
  'maio',
  'junho',
  'julho',
  'agosto',
  'setembro',
  'outubro',
  'novembro',
  'dezembro',
] as const

/** One for each zone: they take long to make. */
const formats = new Map<string, Intl.DateTimeFormat>()

function formatOf(timezone: string): Intl.DateTimeFormat {
  const known = formats.get(timezone)
  if (known !== undefined) return known
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone: timezone,
    calendar: 'gregory',
    numberingSystem: 'latn',
    hourCycle: 'h23',
    year: 'numeric',
    month: '2-digit',
    day: '2-digit',
    hour: '2-digit',
    minute: '2-digit',
  })
  formats.set(timezone, format)
  return format
}

export function localTime(moment: string, timezone: string): LocalTime {
  const parts = formatOf(timezone).formatToParts(new Date(moment))
  const part = (type: string) => parts.find((each) => each.type === type)?.value ?? '0'
  return {
    date: `${part('year').padStart(4, '0')}-${part('month')}-${part('day')}`,
    hour: Number(part('hour')),
    minute: Number(part('minute')),
  }
}

export function addDays(date: string, days: number): string {
  const moved = new Date(`${date}T00:00:00Z`)
  moved.setUTCDate(moved.getUTCDate() + days)
  return moved.toISOString().slice(0, 10)
}

export function addMinutes(moment: string, minutes: number): string {
  return new Date(Date.parse(moment) + minutes * 60_000).toISOString()
}

/** 2026-11-25 of a day, month and year; null: there is no such day. */
export function dateOf(year: number, month: number, day: number): string | null {
  const date = new Date(Date.UTC(year, month - 1, day))
  if (year < 1000 || year > 9999 || date.getUTCMonth() !== month - 1 || date.getUTCDate() !== day) return null
  return date.toISOString().slice(0, 10)
}

function partsOf(date: string): { month: number; day: number; weekday: string } {
  const [, month = '1', day = '1'] = date.split('-')
  const weekday = WEEKDAYS[new Date(`${date}T00:00:00Z`).getUTCDay()] ?? ''
  return { month: Number(month), day: Number(day), weekday }
}

const two = (value: number) => String(value).padStart(2, '0')

/** quarta-feira, 25 de novembro */
export function spokenDate(date: string): string {
  const { month, day, weekday } = partsOf(date)
  return `${weekday}, ${day === 1 ? '1º' : day} de ${MONTHS[month - 1] ?? ''}`
}

/** 14h, 14h30 */
export function spokenHour({ hour, minute }: LocalTime): string {
  return minute === 0 ? `${hour}h` : `${hour}h${two(minute)}`
}

/** At most 20 letters, so that it fits a button. */
export function dayLabel(date: string, today: string): string {
  const { month, day, weekday } = partsOf(date)
  const name = date === today ? 'hoje' : date === addDays(today, 1) ? 'amanhã' : weekday
  return `${name.charAt(0).toUpperCase()}${name.slice(1)}, ${two(day)}/${two(month)}`
}

/** qua, 25/11 às 14h30: at most 20 letters. */
export function slotLabel(local: LocalTime): string {
  const { month, day, weekday } = partsOf(local.date)
  return `${weekday.slice(0, 3)}, ${two(day)}/${two(month)} às ${spokenHour(local)}`
}

/** How a customer may type a day; the weekday only where no earlier day has it. */
export function wordsForDay(date: string, today: string, isFirstOfItsWeekday: boolean): string[] {
  const { month, day, weekday } = partsOf(date)
  const words = [`${day}`, `dia ${day}`, `${day}/${month}`, `${two(day)}/${two(month)}`]
  words.push(`${day} de ${MONTHS[month - 1] ?? ''}`)
  if (isFirstOfItsWeekday) words.push(weekday, weekday.replace('-feira', ''), weekday.slice(0, 3))
  if (date === today) words.push('hoje')
  if (date === addDays(today, 1)) words.push('amanhã')
  return words
}

/** How a customer may type an hour. */
export function wordsForHour({ hour, minute }: LocalTime): string[] {
  const afternoon = hour > 12 && hour < 18 ? 'da tarde' : hour >= 18 ? 'da noite' : null
  if (minute !== 0) {
    const half = minute === 30 ? [`${hour} e meia`] : []
    return [`${hour}:${two(minute)}`, `${two(hour)}:${two(minute)}`, `${hour}h${two(minute)}`, ...half]
  }
  const words = [`${hour}`, `${two(hour)}`, `${hour}h`, `${hour}:00`, `${two(hour)}:00`, `${hour}h00`]
  words.push(`${hour} horas`, `${hour} hs`)
  if (afternoon !== null) words.push(`${hour - 12} ${afternoon}`, `${hour - 12}h ${afternoon}`)
  if (hour === 12) words.push('meio dia')
  return words
}
