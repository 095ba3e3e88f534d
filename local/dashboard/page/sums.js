// From rows of days to the figures of a period. A day without anything has no row.

import { daysLater } from './data.js'

/** @typedef {import('./data.js').Dashboard} Dashboard */

/** Every day of the period, in order. @param {{ first: string, last: string }} period */
export function daysOf({ first, last }) {
  const days = []
  for (let day = first; day <= last; day = daysLater(day, 1)) days.push(day)
  return days
}

/**
 * A value for each day, `none` where there is no row.
 * @template {{ date: string }} Row
 * @template Value
 * @template None
 * @param {string[]} days
 * @param {Row[]} rows
 * @param {(row: Row) => Value} value
 * @param {None} none
 */
export function byDay(days, rows, value, none) {
  const found = new Map(rows.map((row) => [row.date, value(row)]))
  return days.map((day) => found.get(day) ?? none)
}

/**
 * What a sum over seven days comes to, on each day: weekdays are not alike.
 * @param {string[]} days
 * @param {(from: string, to: string) => number | null} value
 */
export function overSevenDays(days, value) {
  return days.map((day) => value(daysLater(day, -6), day))
}

/** Leads of all professionals, day by day. @param {Dashboard['leads']} rows */
export function leadsByDate(rows) {
  /** @type {Map<string, { date: string, created: number, closed: number }>} */
  const dates = new Map()
  for (const { date, leads_created, leads_closed } of rows) {
    const sum = dates.get(date) ?? { date, created: 0, closed: 0 }
    dates.set(date, { date, created: sum.created + leads_created, closed: sum.closed + leads_closed })
  }
  return [...dates.values()]
}

/**
 * The period's figures, and those of as many days before it.
 * @param {Dashboard} dashboard
 */
export function periodFigures({ period, conversations, appointments, leads }) {
  /** @param {(date: string) => boolean} within */
  const figures = (within) => {
    const talks = conversations.filter(({ date }) => within(date))
    const visits = appointments.filter(({ date }) => within(date))
    const asked = leads.filter(({ date }) => within(date))
    const [closed, completed, noShows] = [
      sum(talks, (row) => row.closed_conversations),
      sum(visits, (row) => row.completed),
      sum(visits, (row) => row.no_shows),
    ]
    const [created, won] = [sum(asked, (row) => row.leads_created), sum(asked, (row) => row.leads_closed)]
    return {
      hasTalks: talks.length > 0,
      hasVisits: visits.length > 0,
      conversations: sum(talks, (row) => row.total_conversations),
      closed,
      resolved: sum(talks, (row) => row.resolved_conversations),
      botResolution: percent(sum(talks, (row) => row.resolved_conversations), closed),
      // Medians of days cannot be added up: what a usual day is like can be said.
      aiResponse: median(talks.map((row) => row.median_ai_response_time_seconds)),
      response: median(talks.map((row) => row.median_response_time_seconds)),
      slowResponse: median(talks.map((row) => row.p95_response_time_seconds)),
      satisfaction: mean(talks.map((row) => row.avg_satisfaction_score)),
      revenue: sum(visits, (row) => row.revenue_cents),
      appointments: sum(visits, (row) => row.total_appointments),
      completed,
      noShows,
      noShowRate: percent(noShows, completed + noShows),
      leads: created,
      leadsWon: won,
      conversion: percent(won, created),
    }
  }
  return { now: figures((date) => date >= period.first), before: figures((date) => date < period.first) }
}

/** All leads, by how far they have come. @param {Dashboard['professionals']} rows */
export function funnelOf(rows) {
  const funnel = {
    novo: sum(rows, (row) => row.leads_novo),
    em_contato: sum(rows, (row) => row.leads_em_contato),
    agendado: sum(rows, (row) => row.leads_agendado),
    fechado: sum(rows, (row) => row.leads_fechado),
    perdido: sum(rows, (row) => row.leads_perdido),
  }
  const total = sum(rows, (row) => row.total_leads)
  return { ...funnel, total, conversion: percent(funnel.fechado, total) }
}

/**
 * @template Row
 * @param {Row[]} rows
 * @param {(row: Row) => number} value
 */
export function sum(rows, value) {
  return rows.reduce((total, row) => total + value(row), 0)
}

/** Null of nothing. @param {number} part @param {number} whole */
export function percent(part, whole) {
  return whole === 0 ? null : 100 * part / whole
}

/** @param {(number | null)[]} values */
function median(values) {
  const known = values.filter((value) => value !== null).sort((a, b) => a - b)
  const [low, high] = [known[Math.floor((known.length - 1) / 2)], known[Math.floor(known.length / 2)]]
  return low === undefined || high === undefined ? null : (low + high) / 2
}

/** @param {(number | null)[]} values */
function mean(values) {
  const known = values.filter((value) => value !== null)
  return known.length === 0 ? null : sum(known, (value) => value) / known.length
}
