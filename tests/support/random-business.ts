// Businesses whose figures nobody would like to count by hand: days on both sides of every edge, answers at midnight, leads
// of two professionals, people who are two contacts; and their way into the tables, histories that no app could write too.

import type postgres from 'postgres'
import {
  type AiInteraction,
  type Booking,
  type Business,
  type Conversation,
  type Day,
  daysAfter,
  HOUR,
  type Instant,
  type Lead,
  localDay,
  type Message,
  MINUTE,
  SECOND,
} from './analytics-reference.ts'
import { instantOf, instantsOf } from './availability-reference.ts'

export type Random = (below: number) => number

/** Behind Greenwich and ahead of it, with clocks that change within every 400 days and such that do not. */
export const TIMEZONES = [
  'America/Sao_Paulo',
  'America/Rio_Branco',
  'America/Noronha',
  'Europe/Lisbon',
  'Pacific/Auckland',
  // Clocks change at midnight, which is not there then, and to midnight, which comes twice.
  'America/Santiago',
  'Atlantic/Azores',
] as const

const DAY = 24 * HOUR

export function microseconds(date: Date): Instant {
  return date.getTime() * 1000
}

/** With all six digits, which a Date has not. */
export function isoOf(instant: Instant): string {
  const milliseconds = Math.floor(instant / 1000)
  const rest = instant - milliseconds * 1000
  return new Date(milliseconds).toISOString().replace('Z', `${rest}`.padStart(3, '0') + 'Z')
}

/** Where a day begins: with the first midnight if there are two, or what comes instead if there is none. */
export function midnightOf(timezone: string, day: Day): Instant {
  const [first = instantOf(timezone, `${day} 00:00`)] = instantsOf(timezone, `${day} 00:00`)
  return first * MINUTE
}

export function randomBusiness(random: Random, timezone: string, now: Instant): Business {
  const pick = <Value>(values: readonly [Value, ...Value[]]): Value => values[random(values.length)] ?? values[0]
  const oneOf = <Value>(values: readonly Value[]): Value | null => values[random(values.length)] ?? null
  const chance = (percent: number) => random(100) < percent
  const times = <Value>(count: number, make: (index: number) => Value): Value[] =>
    Array.from({ length: count }, (_, index) => make(index))
  const hex = (digits: number) => times(digits, () => random(16).toString(16)).join('')
  const id = () => `${hex(8)}-${hex(4)}-4${hex(3)}-8${hex(3)}-${hex(12)}`

  const today = localDay(timezone, now)
  const dayAgo = (days: number): Day => daysAfter(today, -days)
  /** Around now, around where what is counted ends, and anywhere; sometimes in a time to come. */
  const aDay = (): Day => {
    if (chance(45)) return dayAgo(random(9) - 1)
    if (chance(30)) return dayAgo(pick([6, 7, 8, 29, 30, 31, 88, 89, 90, 91]))
    if (chance(30)) return dayAgo(398 + random(4))
    if (chance(40)) return onAnEdge()
    return dayAgo(random(430) - 20)
  }
  /** The first and the last days of the week and of the month, and their neighbours. */
  const onAnEdge = (): Day => {
    const weekday = new Date(`${today}T12:00:00Z`).getUTCDay()
    const month = `${today.slice(0, 7)}-01`
    const next = `${daysAfter(month, 31).slice(0, 7)}-01`
    return daysAfter(pick([daysAfter(today, -weekday), daysAfter(today, 7 - weekday), month, next]), random(3) - 1)
  }
  const instantOn = (day: Day): Instant => {
    const [begins, ends] = [midnightOf(timezone, day), midnightOf(timezone, daysAfter(day, 1))]
    if (chance(15)) return begins
    if (chance(15)) return ends - 1
    return begins + random(Math.floor((ends - begins) / 1000)) * 1000 + random(1000)
  }
  const anInstant = (): Instant => instantOn(aDay())

  // People and what is sold -------------------------------------------------------------------------------------------

  const contacts: Business['contacts'] = times(4 + random(14), () => ({
    id: id(),
    merged_into_id: null,
    created_at: chance(50) ? instantOn(dayAgo(random(3) - 1)) : anInstant(),
  }))
  for (const contact of contacts.slice(3)) {
    if (chance(15)) contact.merged_into_id = contacts[random(3)]?.id ?? null
  }
  const aContact = (): string => oneOf(contacts)?.id ?? ''
  const pets: Business['pets'] = times(random(10), () => ({ id: id(), contact_id: aContact(), is_active: chance(80) }))
  const named = (name: string, count: number) =>
    times(count, (index) => ({ id: id(), name: `${name} ${index + 1}`, is_active: chance(75) }))
  const professionals = named('Profissional', 1 + random(4))
  const services = named('Serviço', 1 + random(4))
  const locations: Business['locations'] = times(random(3), () => ({
    id: id(),
    timezone: chance(30) ? null : pick([...TIMEZONES]),
  }))

  // Of several the last is one that nobody wants.
  const booked = services.length === 1 ? services : services.slice(0, -1)
  const bookings: Booking[] = times(random(140), () => {
    const location = chance(60) ? null : oneOf(locations)
    const start_time = anInstant()
    const status = pick(
      ['hold', 'scheduled', 'confirmed', 'completed', 'completed', 'completed', 'cancelled', 'no_show'] as const,
    )
    return {
      id: id(),
      contact_id: aContact(),
      pet_id: chance(50) ? null : oneOf(pets)?.id ?? null,
      service_id: oneOf(booked)?.id ?? '',
      location_id: location?.id ?? null,
      start_time,
      booking_date: localDay(location?.timezone ?? timezone, start_time),
      status,
      created_by: pick(['ai', 'ai', 'flow', 'human', 'customer', 'system'] as const),
      price_cents: chance(20) ? null : chance(10) ? 0 : random(50_000),
      // Sometimes noted down before it began.
      completed_at: status === 'completed' ? start_time + (random(180) - 30) * MINUTE + random(60_000_000) : null,
    }
  })

  // Conversations -----------------------------------------------------------------------------------------------------

  const instances = [id(), id()]
  const conversations: Conversation[] = []
  const messages: Message[] = []
  const converse = (begun: Instant, status: Conversation['status']): Conversation => {
    const conversation: Conversation = {
      id: id(),
      contact_id: aContact(),
      instance_id: oneOf(instances) ?? '',
      status,
      unread_count: chance(50) ? 0 : random(4),
      last_inbound_at: null,
      // People also write without being asked for.
      last_human_message_at: chance(20) ? begun + random(3600) * SECOND : null,
      escalated_at: chance(30) ? begun + random(3600) * SECOND : null,
      closed_at: status === 'closed' ? begun + random(5 * 24 * 3600) * SECOND + random(SECOND) : null,
      satisfaction_score: chance(60) ? null : 1 + random(5),
      created_at: begun,
    }
    conversations.push(conversation)
    return conversation
  }
  const say = (
    { id: conversation_id, contact_id, instance_id }: Conversation,
    created_at: Instant,
    direction: Message['direction'],
    sender: Message['sender'],
    message_type: Message['message_type'] = 'text',
  ) => {
    messages.push({ id: '', conversation_id, contact_id, instance_id, direction, sender, message_type, created_at })
  }
  for (let count = random(40); count > 0; count--) {
    const open = pick(['active', 'waiting_human', 'transferred'] as const)
    const conversation = converse(anInstant(), chance(55) ? 'closed' : open)
    // At an instance a contact has one that is open.
    const isSecond = conversations.some((other) =>
      other !== conversation && other.status !== 'closed' && conversation.status !== 'closed' &&
      other.contact_id === conversation.contact_id && other.instance_id === conversation.instance_id
    )
    if (isSecond) {
      conversations.pop()
      continue
    }
    let at = conversation.created_at
    const wait = () => (at += pick([0, random(SECOND), random(90 * SECOND), random(8 * HOUR), random(2 * DAY)]))
    // Some have none: an attendant who opened one, and thought better of it.
    for (let length = chance(20) ? 0 : random(16); length > 0; length--) {
      wait()
      if (chance(45)) say(conversation, at, 'inbound', 'contact', pick(['text', 'text', 'image', 'audio', 'button']))
      else if (chance(60)) say(conversation, at, 'outbound', pick(['ai', 'ai', 'bot', 'human']))
      else if (chance(50)) {
        const direction = pick(['inbound', 'outbound'] as const)
        say(conversation, at, direction, direction === 'inbound' ? 'contact' : pick(['human', 'ai']), 'reaction')
      } else say(conversation, at, pick(['inbound', 'outbound'] as const), 'system')
      // Of two that come at once the one that began later may be written first.
      const [before, last] = messages.slice(-2)
      if (before === undefined || last === undefined || before.conversation_id !== conversation.id) continue
      const areInbound = before.direction === 'inbound' && last.direction === 'inbound'
      const isOneDay = localDay(timezone, before.created_at) === localDay(timezone, last.created_at)
      if (areInbound && isOneDay && chance(40)) {
        ;[before.created_at, last.created_at] = [last.created_at, before.created_at]
      }
    }
  }
  // Questions of a day that are answered on the next, where that day is, and is not, one that is counted.
  for (const days of [-1, 0, 1, 399, 400]) {
    const midnight = midnightOf(timezone, dayAgo(days))
    const conversation = converse(midnight - 10 * SECOND, 'closed')
    say(conversation, midnight - 5 * SECOND, 'inbound', 'contact')
    say(conversation, midnight - 1, 'inbound', 'contact')
    const later = chance(50) ? 0 : random(60) * SECOND
    say(conversation, midnight + later, 'outbound', 'system')
    say(conversation, midnight + later, 'outbound', pick(['ai', 'bot', 'human']))
  }

  // An id is made when its row is written: after created_at, where a history was imported long after.
  for (const { id: conversation_id } of conversations) {
    let written = chance(10) ? now : 0
    for (const [index, message] of messages.filter((one) => one.conversation_id === conversation_id).entries()) {
      written = Math.max(written, message.created_at)
      const time = Math.floor(written / 1000).toString(16).padStart(12, '0')
      const order = index.toString(16).padStart(3, '0')
      message.id = `${time.slice(0, 8)}-${time.slice(8)}-7${order}-8${hex(3)}-${hex(12)}`
    }
  }

  // Somebody wrote in it, perhaps in a message that is not here any more; or nobody did: a reminder.
  for (const conversation of conversations) {
    const inbound = messages.filter((one) => one.conversation_id === conversation.id && one.direction === 'inbound')
    if (inbound.length > 0 || chance(40)) {
      conversation.last_inbound_at = Math.max(conversation.created_at, ...inbound.map(({ created_at }) => created_at))
    }
  }

  // Leads and models --------------------------------------------------------------------------------------------------

  const leads: Lead[] = []
  for (let count = random(50); count > 0; count--) {
    const lead: Lead = {
      id: id(),
      contact_id: aContact(),
      professional_id: chance(20) ? null : oneOf(professionals)?.id ?? null,
      status: pick(['novo', 'em_contato', 'agendado', 'fechado', 'fechado', 'perdido'] as const),
      over_limit: chance(12),
      merged_into_id: chance(12) ? oneOf(leads)?.id ?? null : null,
      created_at: anInstant(),
    }
    // A contact has one with each professional, and one with nobody.
    const isSecond = leads.some((other) =>
      other.merged_into_id === null && lead.merged_into_id === null &&
      other.contact_id === lead.contact_id && other.professional_id === lead.professional_id
    )
    if (!isSecond) leads.push(lead)
  }
  const ai_interactions: AiInteraction[] = times(random(90), () => ({
    id: id(),
    // Several calls for one lead, some for none.
    lead_id: chance(30) ? null : oneOf(leads.slice(0, 8))?.id ?? null,
    tokens_used: chance(15) ? null : random(4000),
    latency_ms: chance(15) ? null : random(20_000),
    confidence_thousandths: chance(25) ? null : random(1001),
    success: chance(80),
    // A week ends at an instant, not at a midnight.
    created_at: chance(30) ? now - 7 * DAY + (random(4 * 3600) - 2 * 3600) * SECOND : anInstant(),
  }))

  return {
    id: id(),
    timezone,
    vertical: pick(['clinic', 'petshop', 'health_plans', 'real_estate', 'automotive', 'insurance', 'other'] as const),
    locations,
    contacts,
    pets,
    professionals,
    services,
    bookings,
    conversations,
    messages,
    leads,
    ai_interactions,
  }
}

/** As if it had always been there: the tables' triggers do not run, its indexes and checks do. */
export async function store(
  sql: postgres.Sql,
  business: Business,
  members: { userId: string; role: string }[],
): Promise<void> {
  const { id, timezone, vertical } = business
  const firstOfMonth = (instant: Instant) => `${isoOf(instant).slice(0, 7)}-01`
  const instances = new Set(business.conversations.map(({ instance_id }) => instance_id))
  const rows: Record<string, object[]> = {
    organization_settings: [{ lead_visibility: 'all' }],
    user_roles: members.map(({ userId, role }) => ({ user_id: userId, role })),
    locations: business.locations.map((location) => ({ ...location, name: 'Unidade', slug: location.id })),
    contacts: business.contacts.map((contact) => ({ ...contact, name: 'Cliente' })),
    pets: business.pets.map((pet) => ({ ...pet, name: 'Bicho' })),
    professionals: business.professionals.map((professional) => ({ ...professional, slug: professional.id })),
    services: business.services.map((service) => ({ ...service, duration_minutes: 30 })),
    bookings: business.bookings.map((booking) => ({
      ...booking,
      end_time: booking.start_time + 30 * MINUTE,
      blocked_until: booking.start_time + 30 * MINUTE,
      // Beyond the reach of the clock that ends them.
      hold_expires_at: booking.status === 'hold' ? booking.start_time + 1000 * DAY : null,
      cancelled_at: booking.status === 'cancelled' ? booking.start_time : null,
    })),
    whatsapp_instances: [...instances].map((instance) => ({
      id: instance,
      provider: 'evolution',
      name: 'Recepção',
      external_id: instance,
      status: 'disconnected',
    })),
    conversations: business.conversations.map((conversation) => ({
      ...conversation,
      whatsapp_chat_id: conversation.id,
    })),
    messages: business.messages.map((message) => ({
      ...message,
      content: 'Oi',
      status: message.direction === 'inbound' ? 'received' : 'sent',
    })),
    leads: business.leads.map((lead) => ({
      ...lead,
      month: firstOfMonth(lead.created_at),
      closed_at: lead.status === 'fechado' || lead.status === 'perdido' ? lead.created_at : null,
    })),
    ai_interactions: business.ai_interactions.map(({ confidence_thousandths, ...interaction }) => ({
      ...interaction,
      action_type: 'reply',
      prompt: 'Oi',
      model: 'um-modelo',
      confidence_score: confidence_thousandths === null ? null : confidence_thousandths / 1000,
    })),
  }
  await sql.begin(async (tx) => {
    await tx`select set_config('session_replication_role', 'replica', true)`
    await tx`
      insert into public.organizations (id, name, slug, vertical, timezone)
      values (${id}, 'Ao acaso', ${id}, ${vertical}, ${timezone})`
    for (const [table, entries] of Object.entries(rows)) {
      const [first] = entries
      if (first === undefined) continue
      const columns = Object.keys(first).join(', ')
      await tx.unsafe(
        `insert into public.${table} (organization_id, ${columns})
        select $1::uuid, ${columns} from jsonb_populate_recordset(null::public.${table}, $2::text::jsonb)`,
        [id, JSON.stringify(entries, (name, value) => isInstant(name, value) ? isoOf(value) : value)],
      )
    }
  })
}

function isInstant(column: string, value: unknown): value is Instant {
  return typeof value === 'number' && /(_at|_time|_until)$/.test(column)
}

/** For whoever shares the stack. */
export async function forget(sql: postgres.Sql, businesses: Business[]): Promise<void> {
  const organizations = businesses.map(({ id }) => id)
  await sql.begin(async (tx) => {
    await tx`select set_config('session_replication_role', 'replica', true)`
    for (
      const table of [
        'ai_interactions',
        'leads',
        'messages',
        'conversations',
        'whatsapp_instances',
        'bookings',
        'services',
        'professionals',
        'pets',
        'contacts',
        'locations',
        'user_roles',
        'organization_settings',
      ]
    ) await tx`delete from ${tx(`public.${table}`)} where organization_id = any (${organizations}::uuid[])`
    await tx`delete from public.organizations where id = any (${organizations}::uuid[])`
  })
}
