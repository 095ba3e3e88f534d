// What the dashboards should show, found the slow and obvious way: every figure is a loop over all rows of a business, and
// which day it is somewhere is asked of Intl. Written from the definition, never from the SQL that it judges.

import type { Enums } from '../../types/index.ts'

/** Microseconds since 1970 began in Greenwich, as exact as the database's own. */
export type Instant = number
/** As in 2026-11-21. */
export type Day = string

export const SECOND = 1_000_000
export const MINUTE = 60 * SECOND
export const HOUR = 60 * MINUTE

// What the tables say -------------------------------------------------------------------------------------------------

export interface Location {
  id: string
  timezone: string | null
}

export interface Contact {
  id: string
  merged_into_id: string | null
  created_at: Instant
}

export interface Pet {
  id: string
  contact_id: string
  is_active: boolean
}

export interface Named {
  id: string
  name: string
  is_active: boolean
}

export interface Booking {
  id: string
  contact_id: string
  pet_id: string | null
  service_id: string
  location_id: string | null
  start_time: Instant
  booking_date: Day
  status: Enums<'booking_status'>
  created_by: Enums<'booking_creator'>
  price_cents: number | null
  completed_at: Instant | null
}

export interface Conversation {
  id: string
  contact_id: string
  instance_id: string
  status: Enums<'conversation_status'>
  unread_count: number
  last_inbound_at: Instant | null
  last_human_message_at: Instant | null
  escalated_at: Instant | null
  closed_at: Instant | null
  satisfaction_score: number | null
  created_at: Instant
}

export interface Message {
  id: string
  conversation_id: string
  contact_id: string
  instance_id: string
  direction: Enums<'message_direction'>
  sender: Enums<'message_sender'>
  message_type: Enums<'message_type'>
  created_at: Instant
}

export interface Lead {
  id: string
  contact_id: string
  professional_id: string | null
  status: Enums<'lead_status'>
  over_limit: boolean
  merged_into_id: string | null
  created_at: Instant
}

export interface AiInteraction {
  id: string
  lead_id: string | null
  tokens_used: number | null
  latency_ms: number | null
  /** Thousandths, of which the database keeps no more than three digits. */
  confidence_thousandths: number | null
  success: boolean
  created_at: Instant
}

/** All of an organization that a dashboard speaks of. */
export interface Business {
  id: string
  timezone: string
  vertical: Enums<'business_vertical'>
  locations: Location[]
  contacts: Contact[]
  pets: Pet[]
  professionals: Named[]
  services: Named[]
  bookings: Booking[]
  conversations: Conversation[]
  /** In the order of their ids, conversation by conversation. */
  messages: Message[]
  leads: Lead[]
  ai_interactions: AiInteraction[]
}

export type Row = Record<string, string | number | null>

// Days ----------------------------------------------------------------------------------------------------------------

const calendars = new Map<string, Intl.DateTimeFormat>()

/** What a calendar on the wall shows there. */
export function localDay(timezone: string, instant: Instant): Day {
  let calendar = calendars.get(timezone)
  if (calendar === undefined) {
    calendar = new Intl.DateTimeFormat('en-CA', {
      timeZone: timezone,
      year: 'numeric',
      month: '2-digit',
      day: '2-digit',
    })
    calendars.set(timezone, calendar)
  }
  return calendar.format(new Date(Math.floor(instant / 1000)))
}

export function daysAfter(day: Day, days: number): Day {
  const noon = new Date(`${day}T12:00:00Z`)
  noon.setUTCDate(noon.getUTCDate() + days)
  return noon.toISOString().slice(0, 10)
}

/** The last so many days, today being one of them. */
function isWithin(day: Day, today: Day, days: number): boolean {
  return day > daysAfter(today, -days) && day <= today
}

function mondayOf(day: Day): Day {
  const weekday = new Date(`${day}T12:00:00Z`).getUTCDay()
  return daysAfter(day, weekday === 0 ? -6 : 1 - weekday)
}

// Figures -------------------------------------------------------------------------------------------------------------

/** numerator / denominator with so many decimals, exactly; halves go away from zero, as numeric rounds. */
export function quotient(numerator: number, denominator: number, decimals: number): number | null {
  if (denominator === 0) return null
  const scaled = 2n * BigInt(Math.abs(numerator)) * 10n ** BigInt(decimals)
  const rounded = (scaled + BigInt(denominator)) / (2n * BigInt(denominator))
  // Numeric knows no zero below zero.
  return rounded === 0n ? 0 : Math.sign(numerator) * Number(rounded) / 10 ** decimals
}

function percent(part: number, whole: number): number | null {
  return quotient(100 * part, whole, 2)
}

function total(numbers: number[]): number {
  let sum = 0
  for (const number of numbers) sum += number
  return sum
}

/** Of numbers that are each so many times as large as what is meant. */
function average(numbers: number[], decimals: number, scale = 1): number | null {
  return quotient(total(numbers), numbers.length * scale, decimals)
}

/** Between the two nearest, as percentile_cont() does; in seconds. */
function percentileSeconds(waits: Instant[], share: number): number | null {
  const sorted = waits.toSorted((one, other) => one - other)
  const position = share * (sorted.length - 1)
  const below = sorted[Math.floor(position)]
  const above = sorted[Math.ceil(position)]
  if (below === undefined || above === undefined) return null
  return (below + (above - below) * (position - Math.floor(position))) / SECOND
}

function known(values: (number | null)[]): number[] {
  return values.filter((value) => value !== null)
}

/** A booking that is no hold. */
function appointments({ bookings }: Business): Booking[] {
  return bookings.filter(({ status }) => status !== 'hold')
}

function revenue(bookings: Booking[]): number {
  return total(known(bookings.filter(({ status }) => status === 'completed').map(({ price_cents }) => price_cents)))
}

function countOf<Status>(rows: { status: Status }[], status: Status): number {
  return rows.filter((row) => row.status === status).length
}

function distinct(values: (string | null)[]): number {
  return new Set(values.filter((value) => value !== null)).size
}

/** Conversations that count: in which the other side wrote. Reminders to somebody who never did lie in one too. */
function held({ conversations }: Business): Conversation[] {
  return conversations.filter(({ last_inbound_at }) => last_inbound_at !== null)
}

/** Leads that count: within the plan, and not merged into another. */
function shownLeads({ leads }: Business): Lead[] {
  return leads.filter(({ over_limit, merged_into_id }) => !over_limit && merged_into_id === null)
}

// The views -----------------------------------------------------------------------------------------------------------

/** Without calculated_at, which is the instant at which it is asked. */
export function dashboardMetrics(business: Business, at: Instant): Row {
  const { id, timezone, conversations, contacts, messages, ai_interactions } = business
  const today = localDay(timezone, at)
  const monday = mondayOf(today)
  const all = appointments(business)
  const ofToday = all.filter(({ booking_date }) => booking_date === today)
  const ofThisWeek = all.filter(({ booking_date }) => mondayOf(booking_date) === monday)
  const ofThisMonth = all.filter(({ booking_date }) => booking_date.slice(0, 7) === today.slice(0, 7))
  const notCancelled = (bookings: Booking[]) => bookings.filter(({ status }) => status !== 'cancelled').length
  const completed = countOf(ofThisMonth, 'completed')
  const noShows = countOf(ofThisMonth, 'no_show')
  const open = conversations.filter(({ status }) => status !== 'closed')
  const recent = ai_interactions.filter(({ created_at }) => created_at >= at - 7 * 24 * HOUR && created_at <= at)
  return {
    organization_id: id,
    local_date: today,
    bookings_today: notCancelled(ofToday),
    bookings_this_week: notCancelled(ofThisWeek),
    bookings_this_month: notCancelled(ofThisMonth),
    revenue_today_cents: revenue(ofToday),
    revenue_this_week_cents: revenue(ofThisWeek),
    revenue_this_month_cents: revenue(ofThisMonth),
    completed_this_month: completed,
    no_shows_this_month: noShows,
    no_show_rate_this_month: percent(noShows, completed + noShows),
    active_conversations: open.length,
    conversations_waiting_human: countOf(conversations, 'waiting_human'),
    unread_conversations: open.filter(({ unread_count }) => unread_count > 0).length,
    new_contacts_today:
      contacts.filter(({ created_at, merged_into_id }) =>
        merged_into_id === null && localDay(timezone, created_at) === today
      ).length,
    messages_today: messages.filter(({ created_at }) => localDay(timezone, created_at) === today).length,
    avg_ai_confidence_7d: average(known(recent.map((one) => one.confidence_thousandths)), 3, 1000),
    ai_actions_7d: recent.length,
  }
}

/** How long the customer waited for each answer; answers within answers, reactions and system messages are none. */
function answers({ conversations, messages }: Business): { answer: Message; waited: Instant }[] {
  const found: { answer: Message; waited: Instant }[] = []
  for (const { id } of conversations) {
    let previous: Message | null = null
    for (const message of messages) {
      if (message.conversation_id !== id) continue
      if (message.message_type === 'reaction' || message.sender === 'system') continue
      if (message.direction === 'outbound' && previous?.direction === 'inbound' && previous.sender === 'contact') {
        found.push({ answer: message, waited: message.created_at - previous.created_at })
      }
      previous = message
    }
  }
  return found
}

export function conversationAnalytics(business: Business, at: Instant): Row[] {
  const { id, timezone, messages, ai_interactions } = business
  const conversations = held(business)
  const today = localDay(timezone, at)
  const dayOf = ({ created_at }: { created_at: Instant }) => localDay(timezone, created_at)
  const days = new Set([...conversations, ...messages, ...ai_interactions].map(dayOf))
  const answered = answers(business)
  return [...days].filter((day) => isWithin(day, today, 400)).sort().map((day) => {
    const begun = conversations.filter((one) => dayOf(one) === day)
    const closed = begun.filter(({ status }) => status === 'closed')
    const resolved = closed.filter(({ escalated_at, last_human_message_at }) => escalated_at === null && last_human_message_at === null)
    const told = messages.filter((one) => dayOf(one) === day)
    const out = told.filter(({ direction }) => direction === 'outbound')
    const by = (who: Message['sender']) => out.filter(({ sender }) => sender === who).length
    const answeredThen = answered.filter(({ answer }) => dayOf(answer) === day)
    const waits = answeredThen.map(({ waited }) => waited)
    const waitsForAi = answeredThen.filter(({ answer }) => answer.sender === 'ai').map(({ waited }) => waited)
    const calls = ai_interactions.filter((one) => dayOf(one) === day)
    return {
      organization_id: id,
      date: day,
      total_conversations: begun.length,
      resolved_conversations: resolved.length,
      escalated_conversations: begun.filter(({ escalated_at }) => escalated_at !== null).length,
      closed_conversations: closed.length,
      bot_resolution_rate: percent(resolved.length, closed.length),
      avg_satisfaction_score: average(known(begun.map(({ satisfaction_score }) => satisfaction_score)), 2),
      inbound_messages: told.length - out.length,
      outbound_messages: out.length,
      ai_messages: by('ai'),
      bot_messages: by('bot'),
      human_messages: by('human'),
      median_ai_response_time_seconds: percentileSeconds(waitsForAi, 0.5),
      p95_ai_response_time_seconds: percentileSeconds(waitsForAi, 0.95),
      median_response_time_seconds: percentileSeconds(waits, 0.5),
      p95_response_time_seconds: percentileSeconds(waits, 0.95),
      ai_interactions: calls.length,
      avg_ai_confidence: average(known(calls.map((one) => one.confidence_thousandths)), 3, 1000),
      ai_success_rate: percent(calls.filter(({ success }) => success).length, calls.length),
    }
  })
}

export function consultantMetrics(business: Business): Row[] {
  const { id, vertical, professionals, ai_interactions } = business
  const conversations = held(business)
  const rowOf = (professional_id: string | null, name: string | null): Row => {
    const leads = shownLeads(business).filter((lead) => lead.professional_id === professional_id)
    const theirs = conversations.filter(({ contact_id }) => leads.some((lead) => lead.contact_id === contact_id))
    const closed = theirs.filter(({ status }) => status === 'closed')
    const calls = ai_interactions.filter(({ lead_id }) => leads.some((lead) => lead.id === lead_id))
    return {
      organization_id: id,
      professional_id,
      name,
      vertical,
      total_leads: leads.length,
      leads_novo: countOf(leads, 'novo'),
      leads_em_contato: countOf(leads, 'em_contato'),
      leads_agendado: countOf(leads, 'agendado'),
      leads_fechado: countOf(leads, 'fechado'),
      leads_perdido: countOf(leads, 'perdido'),
      conversion_rate: percent(countOf(leads, 'fechado'), leads.length),
      total_conversations: theirs.length,
      completed_conversations: closed.length,
      avg_conversation_duration_minutes: average(
        closed.map(({ created_at, closed_at }) => (closed_at ?? created_at) - created_at),
        2,
        MINUTE,
      ),
      total_tokens_used: total(known(calls.map(({ tokens_used }) => tokens_used))),
      avg_ai_latency_ms: average(known(calls.map(({ latency_ms }) => latency_ms)), 2),
    }
  }
  const rows = professionals.filter(({ is_active }) => is_active).map((one) => rowOf(one.id, one.name))
  const nobodys = shownLeads(business).some(({ professional_id }) => professional_id === null)
  return nobodys ? [...rows, rowOf(null, null)] : rows
}

export function serviceAnalytics(business: Business, at: Instant): Row[] {
  const { id, timezone, services } = business
  const today = localDay(timezone, at)
  return services.map((service) => {
    const bookings = appointments(business).filter(({ service_id, booking_date }) =>
      service_id === service.id && isWithin(booking_date, today, 90)
    )
    const kept = bookings.filter(({ status }) => status !== 'cancelled')
    const completed = bookings.filter(({ status }) => status === 'completed')
    const byAi = bookings.filter(({ created_by }) => created_by === 'ai')
    return {
      organization_id: id,
      service_id: service.id,
      service_name: service.name,
      total_bookings_90d: bookings.length,
      completed_bookings_90d: completed.length,
      cancelled_bookings_90d: countOf(bookings, 'cancelled'),
      no_show_bookings_90d: countOf(bookings, 'no_show'),
      revenue_90d_cents: revenue(bookings),
      avg_booking_value_cents: average(known(completed.map(({ price_cents }) => price_cents)), 0),
      unique_customers_90d: distinct(kept.map(({ contact_id }) => contact_id)),
      unique_pets_90d: distinct(kept.map(({ pet_id }) => pet_id)),
      ai_created_bookings_90d: byAi.length,
      ai_booking_completion_rate: percent(countOf(byAi, 'completed'), byAi.length),
    }
  })
}

export function clinicMetricsDaily(business: Business, at: Instant): Row[] {
  const { id, timezone } = business
  const today = localDay(timezone, at)
  const all = appointments(business)
  const days = new Set(all.map(({ booking_date }) => booking_date))
  return [...days].filter((day) => isWithin(day, today, 400)).sort().map((day) => {
    const bookings = all.filter(({ booking_date }) => booking_date === day)
    const completed = countOf(bookings, 'completed')
    const noShows = countOf(bookings, 'no_show')
    const delays = bookings
      .filter(({ status }) => status === 'completed')
      .map(({ start_time, completed_at }) => (completed_at ?? start_time) - start_time)
    return {
      organization_id: id,
      date: day,
      total_appointments: bookings.length,
      completed,
      no_shows: noShows,
      cancelled: countOf(bookings, 'cancelled'),
      no_show_rate: percent(noShows, completed + noShows),
      revenue_cents: revenue(bookings),
      avg_delay_minutes: average(delays, 2, MINUTE),
    }
  })
}

export function dailyLeadStats(business: Business, at: Instant): Row[] {
  const { id, timezone, professionals } = business
  const today = localDay(timezone, at)
  const rows: Row[] = []
  for (const professional_id of [...professionals.map((one) => one.id), null]) {
    const leads = shownLeads(business).filter((lead) => lead.professional_id === professional_id)
    const dayOf = ({ created_at }: Lead) => localDay(timezone, created_at)
    for (const day of new Set(leads.map(dayOf))) {
      if (!isWithin(day, today, 400)) continue
      const created = leads.filter((lead) => dayOf(lead) === day)
      rows.push({
        organization_id: id,
        professional_id,
        date: day,
        leads_created: created.length,
        leads_closed: countOf(created, 'fechado'),
        conversion_rate: percent(countOf(created, 'fechado'), created.length),
      })
    }
  }
  return rows
}

/** What get_organization_stats() answers. */
export function organizationStats(business: Business, at: Instant): Row {
  const today = dashboardMetrics(business, at)
  const figure = (name: string) => today[name] ?? null
  return {
    total_contacts: business.contacts.filter(({ merged_into_id }) => merged_into_id === null).length,
    total_pets: business.pets.filter(({ is_active }) => is_active).length,
    total_bookings: appointments(business).length,
    active_conversations: figure('active_conversations'),
    messages_today: figure('messages_today'),
    bookings_today: figure('bookings_today'),
    revenue_this_month_cents: figure('revenue_this_month_cents'),
  }
}
