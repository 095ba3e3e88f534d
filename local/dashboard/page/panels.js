// What the page shows of what was read.

import { draw } from './charts.js'
import { byId, element, fill, say, table, unseen } from './elements.js'
import { byDay, daysOf, funnelOf, leadsByDate, overSevenDays, percent as share, periodFigures, sum } from './sums.js'
import {
  BOOKING,
  clock,
  counted,
  decimal,
  duration,
  lastDays,
  longDay,
  nameOf,
  NOTHING,
  number,
  percent,
  PRIORITY,
  reais,
  roundReais,
  shortDay,
  weekDay,
} from './words.js'

/**
 * @typedef {import('./data.js').Dashboard} Dashboard
 * @typedef {import('./data.js').Organization} Organization
 */

/** @param {Dashboard} dashboard @param {Organization} organization @param {Date} now */
export function show(dashboard, organization, now) {
  showToday(dashboard, organization)
  showWaiting(dashboard, organization, now)
  showBookings(dashboard, organization, now)
  showPeriod(dashboard)
  showCharts(dashboard)
  showFunnel(dashboard)
  showProfessionals(dashboard)
  showServices(dashboard)
}

// Today ---------------------------------------------------------------------------------------------------------------

/** @param {Dashboard} dashboard @param {Organization} organization */
function showToday({ metrics, today }, { timezone }) {
  fill('today-title', 'Hoje, ', longDay(metrics?.local_date ?? today))
  say(
    'unready',
    metrics === null
      ? 'Os números desta empresa ainda estão sendo preparados: os de hoje ficam prontos em até cinco minutos, os outros até amanhã.'
      : '',
  )
  say('updated', metrics === null ? '' : `números de hoje atualizados às ${clock(metrics.calculated_at, timezone)}`)
  if (metrics === null) return fill('today-figures')
  fill(
    'today-figures',
    figure('bookings-today', 'Agendamentos', number(metrics.bookings_today), [
      `${number(metrics.bookings_this_week)} na semana`,
      `${number(metrics.bookings_this_month)} no mês`,
    ]),
    figure('revenue-today', 'Faturamento', reais(metrics.revenue_today_cents), [
      `${reais(metrics.revenue_this_week_cents)} na semana`,
      `${reais(metrics.revenue_this_month_cents)} no mês`,
    ]),
    figure('waiting-now', 'Esperando uma pessoa', number(metrics.conversations_waiting_human), [
      counted(metrics.active_conversations, 'conversa aberta', 'conversas abertas'),
      counted(metrics.unread_conversations, 'não lida', 'não lidas'),
    ], metrics.conversations_waiting_human > 0 ? 'alert' : ''),
    figure(
      'no-show-month',
      'Faltas no mês',
      percent(share(metrics.no_shows_this_month, metrics.completed_this_month + metrics.no_shows_this_month)),
      [
        counted(metrics.no_shows_this_month, 'falta', 'faltas'),
        counted(metrics.completed_this_month, 'atendimento', 'atendimentos'),
      ],
    ),
    figure('new-contacts', 'Novos contatos', number(metrics.new_contacts_today), [
      counted(metrics.messages_today, 'mensagem hoje', 'mensagens hoje'),
    ]),
    figure(
      'ai-confidence',
      'Confiança da IA',
      metrics.avg_ai_confidence_7d === null ? NOTHING : percent(metrics.avg_ai_confidence_7d * 100),
      [
        `${counted(metrics.ai_actions_7d, 'resposta', 'respostas')} em 7 dias`,
      ],
    ),
  )
}

/**
 * @param {string} id
 * @param {string} label
 * @param {string} value
 * @param {(Node | string)[]} notes
 * @param {string} [tone]
 */
function figure(id, label, value, notes, tone = '') {
  return element(
    'div',
    { class: `figure ${tone}`, id },
    element('dt', {}, label),
    element('dd', { class: value.length > 9 ? 'value long' : 'value' }, value),
    ...notes.map((note) => element('dd', { class: 'note' }, note)),
  )
}

/** @param {Dashboard} dashboard @param {Organization} organization @param {Date} now */
function showWaiting({ waiting }, { timezone }, now) {
  say('waiting-count', waiting.length === 0 ? '' : number(waiting.length))
  say('waiting-none', waiting.length === 0 ? 'Ninguém está esperando. 🎉' : '')
  fill(
    'waiting-list',
    ...waiting.map(({ contact, escalated_at, escalation_reason, priority, last_message_preview }) => {
      const urgency = PRIORITY[priority] ?? ''
      return element(
        'li',
        {},
        element(
          'p',
          { class: 'who' },
          element('b', {}, nameOf(contact)),
          ...(urgency === '' ? [] : [chip(urgency, priority)]),
        ),
        element('p', {}, escalation_reason ?? 'Pediu para falar com uma pessoa'),
        element('p', { class: 'quote' }, last_message_preview === null ? '' : `“${last_message_preview}”`),
        ...(escalated_at === null ? [] : [element(
          'p',
          { class: 'since' },
          'há ',
          element(
            'time',
            { datetime: escalated_at },
            duration(Math.max(60, (now.getTime() - Date.parse(escalated_at)) / 1000)),
          ),
          ` · desde ${clock(escalated_at, timezone)}`,
        )]),
      )
    }),
  )
}

/** @param {Dashboard} dashboard @param {Organization} organization @param {Date} now */
function showBookings({ bookings }, { timezone }, now) {
  const list = byId('bookings-list', HTMLElement)
  // A place may keep another time than its organization: then it is named, so that 11:00 after 11:30 is no riddle.
  const isElsewhere = (/** @type {{ timezone: string | null } | null} */ location) =>
    (location?.timezone ?? timezone) !== timezone
  const isNew = list.childElementCount === 0
  const live = bookings.filter(({ status }) => status !== 'cancelled')
  say('bookings-count', live.length === 0 ? '' : number(live.length))
  say('bookings-none', bookings.length === 0 ? 'Nada marcado para hoje. O que for marcado aparece aqui.' : '')
  fill(
    'bookings-list',
    ...bookings.map(({ start_time, status, contact, pet, service, professional, location }) =>
      element(
        'li',
        { class: status },
        element('time', { datetime: start_time }, clock(start_time, location?.timezone ?? timezone)),
        element(
          'div',
          {},
          element(
            'p',
            { class: 'who' },
            element('b', {}, nameOf(contact)),
            ...(pet === null ? [] : [` · ${pet.name}`]),
          ),
          element(
            'p',
            {},
            [service.name, professional?.name, isElsewhere(location) ? location?.name : null].filter(Boolean).join(
              ' · ',
            ),
          ),
        ),
        chip(BOOKING[status] ?? status, status),
      )
    ),
  )
  // Where the day has got to, with the one before it; whoever has scrolled since stays where he is.
  const next = bookings.findIndex(({ start_time }) => Date.parse(start_time) > now.getTime())
  const first = list.children[Math.max(0, (next === -1 ? bookings.length : next) - 1)]
  if (isNew && first instanceof HTMLElement) list.scrollTop = first.offsetTop - list.offsetTop
}

/** @param {string} text @param {string} kind */
function chip(text, kind) {
  return element('span', { class: `chip ${kind}` }, text)
}

// The period ----------------------------------------------------------------------------------------------------------

/** @param {Dashboard} dashboard */
function showPeriod(dashboard) {
  const { now, before } = periodFigures(dashboard)
  const { first, last } = dashboard.period
  fill('period-title', `${lastDays(daysOf(dashboard.period).length)}, de ${shortDay(first)} a ${shortDay(last)}`)
  fill(
    'period-figures',
    figure('period-revenue', 'Faturamento', reais(now.revenue), [
      before.hasVisits ? growth(now.revenue, before.revenue, reais, 'good') : UNCOMPARED,
      ` ${counted(now.completed, 'atendimento', 'atendimentos')}`,
    ]),
    figure('period-no-shows', 'Faltas', percent(now.noShowRate), [
      before.hasVisits ? points(now.noShowRate, before.noShowRate, 'down') : UNCOMPARED,
      ` ${counted(now.noShows, 'falta', 'faltas')}`,
    ]),
    figure('period-conversations', 'Conversas', number(now.conversations), [
      before.hasTalks ? growth(now.conversations, before.conversations, number, '') : UNCOMPARED,
    ]),
    figure('period-resolution', 'Resolvidas pelo robô', percent(now.botResolution), [
      before.hasTalks ? points(now.botResolution, before.botResolution, 'up') : UNCOMPARED,
      ` ${number(now.resolved)} de ${number(now.closed)} encerradas`,
    ]),
    figure('period-response', 'Tempo de resposta', duration(now.response), [
      'num dia típico',
      `IA ${duration(now.aiResponse)}`,
      `5% mais lentas ${duration(now.slowResponse)}`,
    ]),
    figure(
      'period-satisfaction',
      'Satisfação',
      now.satisfaction === null ? NOTHING : `${decimal(now.satisfaction)} de 5`,
      ['média dos dias com nota'],
    ),
  )
}

const UNCOMPARED = 'sem período anterior'

/**
 * Money and counts: in per cent of what they were, if they were anything.
 * @param {number} value
 * @param {number} before
 * @param {(value: number) => string} spoken
 * @param {'good' | ''} more what it means when there is more
 */
function growth(value, before, spoken, more) {
  if (before === 0 && value > 0) {
    return element(
      'span',
      { class: `change ${more}` },
      element('span', { 'aria-hidden': 'true' }, arrow(value)),
      `antes ${spoken(0)}`,
    )
  }
  const difference = before === 0 ? 0 : 100 * (value - before) / before
  if (Math.abs(difference) < .05) return change('= ', 'o mesmo', '')
  return change(
    arrow(difference),
    `${percent(Math.abs(difference))} ${difference < 0 ? 'a menos' : 'a mais'}`,
    more !== '' && difference < 0 ? 'bad' : more,
  )
}

/** Rates: in points. @param {number | null} value @param {number | null} before @param {'up' | 'down'} better */
function points(value, before, better) {
  if (value === null || before === null) return 'sem comparação'
  const difference = value - before
  if (Math.abs(difference) < .05) return change('= ', 'o mesmo', '')
  return change(
    arrow(difference),
    `${decimal(Math.abs(difference))} p.p. ${difference < 0 ? 'a menos' : 'a mais'}`,
    difference > 0 === (better === 'up') ? 'good' : 'bad',
  )
}

/** @param {number} difference */
function arrow(difference) {
  return difference < 0 ? '▼ ' : '▲ '
}

/** @param {string} sign @param {string} text @param {string} tone */
function change(sign, text, tone) {
  const made = element('span', { class: `change ${tone}` }, element('span', { 'aria-hidden': 'true' }, sign), text)
  made.append(unseen(' que no período anterior;'))
  return made
}

/** @param {Dashboard} dashboard */
function showCharts({ period, conversations, appointments, leads }) {
  const days = daysOf(period)
  const axis = { labels: days.map(shortDay), rows: days.map(weekDay) }
  const visits = (/** @type {(row: Dashboard['appointments'][number]) => number} */ value) =>
    byDay(days, appointments, value, 0)
  const talks = (/** @type {(row: Dashboard['conversations'][number]) => number} */ value) =>
    byDay(days, conversations, value, 0)
  const speed = (/** @type {(row: Dashboard['conversations'][number]) => number | null} */ value) =>
    byDay(days, conversations, value, null)
  const asked = leadsByDate(leads)
  const count = (/** @type {number | null} */ value) => value === null ? NOTHING : number(value)
  const total = (/** @type {(number | null)[]} */ values) =>
    values.reduce((/** @type {number} */ sum, value) => sum + (value ?? 0), 0)

  const [completed, noShows, cancelled] = [
    visits((row) => row.completed),
    visits((row) => row.no_shows),
    visits((row) => row.cancelled),
  ]
  draw('appointments', {
    ...axis,
    caption: 'Agenda por dia',
    summary: `No período, ${counted(total(completed), 'realizado', 'realizados')}, ${
      counted(total(noShows), 'falta', 'faltas')
    }, ${counted(total(cancelled), 'cancelado', 'cancelados')}.`,
    isStacked: true,
    say: count,
    series: [
      { label: 'Realizados', colour: 'series-good', values: completed },
      { label: 'Faltas', colour: 'series-bad', values: noShows },
      { label: 'Cancelados', colour: 'series-calm', values: cancelled },
    ],
  })

  const revenue = visits((row) => row.revenue_cents)
  draw('revenue', {
    ...axis,
    caption: 'Faturamento por dia',
    summary: `No período, ${reais(total(revenue))}.`,
    say: reais,
    sayOnAxis: roundReais,
    series: [
      { label: 'Faturamento', colour: 'series-good', values: revenue },
      {
        label: 'Média de 7 dias',
        colour: 'series-warm',
        kind: 'line',
        values: overSevenDays(days, (from, to) => sum(between(appointments, from, to), (row) => row.revenue_cents) / 7),
      },
    ],
  })

  draw('rates', {
    ...axis,
    caption: 'Robô e faltas, em 7 dias',
    summary: 'De cada dia, o que dão os sete dias até ele: conversas encerradas sem precisar de ninguém, e faltas.',
    say: percent,
    series: [
      {
        label: 'Resolvidas pelo robô',
        colour: 'series-good',
        kind: 'line',
        values: overSevenDays(days, (from, to) => {
          const rows = between(conversations, from, to)
          return share(sum(rows, (row) => row.resolved_conversations), sum(rows, (row) => row.closed_conversations))
        }),
      },
      {
        label: 'Faltas',
        colour: 'series-bad',
        kind: 'line',
        values: overSevenDays(days, (from, to) => {
          const rows = between(appointments, from, to)
          return share(sum(rows, (row) => row.no_shows), sum(rows, (row) => row.completed + row.no_shows))
        }),
      },
    ],
  })

  const [resolved, closed, all] = [
    talks((row) => row.resolved_conversations),
    talks((row) => row.closed_conversations),
    talks((row) => row.total_conversations),
  ]
  draw('conversations', {
    ...axis,
    caption: 'Conversas por dia',
    summary: `No período, ${counted(total(all), 'conversa', 'conversas')}: ${
      number(total(resolved))
    } sem precisar de ninguém, ${number(total(closed) - total(resolved))} encerradas com uma pessoa, ${
      number(total(all) - total(closed))
    } em aberto.`,
    isStacked: true,
    say: count,
    series: [
      { label: 'Resolvidas pelo robô', colour: 'series-good', values: resolved },
      {
        label: 'Encerradas com uma pessoa',
        colour: 'series-warm',
        values: closed.map((value, index) => value - (resolved[index] ?? 0)),
      },
      {
        label: 'Em aberto',
        colour: 'series-calm',
        values: all.map((value, index) => value - (closed[index] ?? 0)),
      },
    ],
  })

  draw('responses', {
    ...axis,
    caption: 'Tempo até a resposta',
    summary: 'Mediana da IA, mediana de todos e as 5% mais lentas, em escala logarítmica.',
    say: duration,
    isLogarithmic: true,
    series: [
      { label: 'IA', colour: 'series-good', kind: 'line', values: speed((row) => row.median_ai_response_time_seconds) },
      { label: 'Todos', colour: 'series-cool', kind: 'line', values: speed((row) => row.median_response_time_seconds) },
      {
        label: '5% mais lentas',
        colour: 'series-warm',
        kind: 'points',
        values: speed((row) => row.p95_response_time_seconds),
      },
    ],
  })

  const [created, won] = [byDay(days, asked, (row) => row.created, 0), byDay(days, asked, (row) => row.closed, 0)]
  draw('leads', {
    ...axis,
    caption: 'Leads por dia de chegada',
    summary: `No período, ${counted(total(created), 'lead', 'leads')}, ${counted(total(won), 'fechado', 'fechados')}.`,
    isStacked: true,
    say: count,
    series: [
      { label: 'Fechados', colour: 'series-good', values: won },
      { label: 'Outros', colour: 'series-cool', values: created.map((value, index) => value - (won[index] ?? 0)) },
    ],
  })
}

/** @template {{ date: string }} Row @param {Row[]} rows @param {string} from @param {string} to */
function between(rows, from, to) {
  return rows.filter(({ date }) => date >= from && date <= to)
}

// Leads, people, services ---------------------------------------------------------------------------------------------

/** @type {[label: string, key: 'novo' | 'em_contato' | 'agendado' | 'fechado' | 'perdido'][]} */
const STAGES = [
  ['Novos', 'novo'],
  ['Em contato', 'em_contato'],
  ['Agendados', 'agendado'],
  ['Fechados', 'fechado'],
  ['Perdidos', 'perdido'],
]

/** @param {Dashboard} dashboard */
function showFunnel({ professionals }) {
  const funnel = funnelOf(professionals)
  const most = Math.max(1, ...STAGES.map(([, key]) => funnel[key]))
  say(
    'funnel-total',
    funnel.total === 0 ? '' : `${counted(funnel.total, 'lead', 'leads')} · ${percent(funnel.conversion)} fechados`,
  )
  say(
    'funnel-none',
    funnel.total === 0 ? 'Ainda não há leads aqui. Quem responder a um formulário ou ao robô aparece em até uma hora.' : '',
  )
  fill(
    'funnel-list',
    ...(funnel.total === 0 ? [] : STAGES.map(([label, key]) => {
      const bar = element('span', { class: `bar ${key}`, 'aria-hidden': 'true' })
      bar.style.width = `${100 * funnel[key] / most}%`
      return element(
        'li',
        { id: `funnel-${key}` },
        element('span', { class: 'stage' }, label),
        element('span', { class: 'track' }, bar),
        element('b', {}, number(funnel[key])),
      )
    })),
  )
}

/** @param {Dashboard} dashboard */
function showProfessionals({ professionals }) {
  const shown = professionals.filter(({ total_leads, professional_id }) => total_leads > 0 || professional_id !== null)
  say('professionals-none', shown.length === 0 ? 'Ainda não há números de profissionais: são calculados de hora em hora.' : '')
  fill(
    'professionals-table',
    ...(shown.length === 0 ? [] : [table(
      'Leads por profissional',
      [
        { title: 'Profissional', isNumber: false },
        { title: 'Leads' },
        { title: 'Fechados' },
        { title: 'Conversão' },
        // Not what the professional handled: a contact with leads of two counts for both.
        { title: 'Conversas desses leads' },
      ],
      shown.map((row) => [
        row.name ?? 'Sem profissional',
        number(row.total_leads),
        number(row.leads_fechado),
        percent(share(row.leads_fechado, row.total_leads)),
        number(row.total_conversations),
      ]),
    )]),
  )
}

/** @param {Dashboard} dashboard */
function showServices({ services }) {
  say('services-none', services.length === 0 ? 'Ainda não há números de serviços: são calculados toda noite, de 90 dias.' : '')
  fill(
    'services-table',
    ...(services.length === 0 ? [] : [table(
      'Serviços nos últimos 90 dias',
      [
        { title: 'Serviço', isNumber: false },
        { title: 'Faturamento' },
        { title: 'Agendados' },
        { title: 'Realizados' },
        { title: 'Faltas' },
        { title: 'Cancelados' },
        { title: 'Clientes' },
        { title: 'Ticket médio' },
      ],
      services.map((row) => [
        row.service_name,
        reais(row.revenue_90d_cents),
        number(row.total_bookings_90d),
        number(row.completed_bookings_90d),
        number(row.no_show_bookings_90d),
        number(row.cancelled_bookings_90d),
        number(row.unique_customers_90d),
        reais(row.avg_booking_value_cents),
      ]),
    )]),
  )
}
