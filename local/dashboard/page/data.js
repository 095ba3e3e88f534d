// What the dashboard asks, and how: the file to copy into an app. It needs supabase-js and nothing else of this folder.
//
// The publishable key says which project; the session says who asks; row level security decides what there is. The filter
// by organization is for those who belong to several, and for Postgres' indexes: without it nobody would see more.

/**
 * @typedef {import('../../../types/index.ts').Database} Database
 * @typedef {import('@supabase/supabase-js').SupabaseClient<Database>} Client
 * @typedef {Awaited<ReturnType<typeof organizationsOf>>[number]} Organization
 * @typedef {Awaited<ReturnType<typeof readDashboard>>} Dashboard
 * @typedef {{ first: string, last: string, before: string }} Period
 */

/** Where a tab keeps the name of its session. */
const TAB = 'balcao-dashboard-tab'
const TIMEOUT_MS = 30_000
/** What the Data API gives at most in one answer. */
const PAGE = 1000
/** A list for the eye: whoever has more looks into the agenda, or the inbox. */
const LISTED = 200

/**
 * The session ends with the tab, and renews itself until then. supabase-js tells its news to every tab that uses the same
 * name, and other tabs may be other people's: so each has a name of its own. A copy of a tab has its session, and its name.
 */
function sessionKey() {
  const key = sessionStorage.getItem(TAB) ?? `balcao-dashboard-${crypto.randomUUID()}`
  sessionStorage.setItem(TAB, key)
  return key
}

/**
 * @param {string} url
 * @param {string} publishableKey
 * @returns {Client}
 */
export function connect(url, publishableKey) {
  return supabase.createClient(url, publishableKey, {
    auth: { storage: sessionStorage, storageKey: sessionKey(), detectSessionInUrl: false },
    // A computer that slept wakes up with requests that nobody will answer.
    global: {
      fetch: (input, init = {}) => {
        const timeout = AbortSignal.timeout(TIMEOUT_MS)
        return fetch(input, { ...init, signal: init.signal ? AbortSignal.any([init.signal, timeout]) : timeout })
      },
    },
  })
}

/** @param {Client} client @param {string} email @param {string} password */
export async function signIn(client, email, password) {
  const { error } = await client.auth.signInWithPassword({ email, password })
  if (error !== null) throw error
}

/**
 * Forgets the session, whether or not the server could be told: supabase-js alone keeps it when nobody answers.
 * @param {Client} client
 */
export async function signOut(client) {
  await client.auth.signOut({ scope: 'local' })
  sessionStorage.removeItem(sessionKey())
}

/**
 * When the session could not be renewed, or was ended here or in a copy of this tab, which leaves it in this one's storage.
 * @param {Client} client
 * @param {() => void} tell
 */
export function onSessionEnd(client, tell) {
  client.auth.onAuthStateChange((event) => {
    if (event !== 'SIGNED_OUT') return
    sessionStorage.removeItem(sessionKey())
    tell()
  })
}

/** Those to which whoever is signed in belongs. @param {Client} client */
export async function organizationsOf(client) {
  return dataOf(await client.from('organizations').select('id, name, timezone').eq('is_active', true).order('name'))
}

/**
 * Everything of one organization, asked for at once.
 * @param {Client} client
 * @param {{ id: string, timezone: string }} organization
 * @param {number} days of the period, whole ones: it ends yesterday
 * @param {Date} now
 */
export async function readDashboard(client, organization, days, now) {
  const today = localDate(now, organization.timezone)
  const period = { first: daysLater(today, -days), last: daysLater(today, -1), before: daysLater(today, -2 * days) }
  const [metrics, conversations, appointments, leads, professionals, services, bookings, waiting] = await Promise.all([
    client
      .from('dashboard_metrics')
      .select('*')
      .eq('organization_id', organization.id)
      .maybeSingle(),
    client
      .from('conversation_analytics')
      .select(`
        date, total_conversations, resolved_conversations, closed_conversations, avg_satisfaction_score,
median_ai_response_time_seconds,
        median_response_time_seconds, p95_response_time_seconds
      `)
      .eq('organization_id', organization.id)
      .gte('date', period.before)
      .lte('date', period.last)
      .order('date'),
    client
      .from('clinic_metrics_daily')
      .select('date, total_appointments, completed, no_shows, cancelled, revenue_cents')
      .eq('organization_id', organization.id)
      .gte('date', period.before)
      .lte('date', period.last)
      .order('date'),
    // A row for each day and professional.
    allPages((from, to) =>
      client
        .from('daily_lead_stats')
        .select('date, professional_id, leads_created, leads_closed')
        .eq('organization_id', organization.id)
        .gte('date', period.before)
        .lte('date', period.last)
        .order('date')
        .order('professional_id')
        .range(from, to)
    ),
    client
      .from('consultant_metrics')
      .select(`
        professional_id, name, total_leads, leads_novo, leads_em_contato, leads_agendado,
        leads_fechado, leads_perdido, total_conversations
      `)
      .eq('organization_id', organization.id)
      .order('total_leads', { ascending: false })
      .limit(LISTED),
    client
      .from('service_analytics')
      .select(`
        service_id, service_name, total_bookings_90d, completed_bookings_90d, cancelled_bookings_90d,
        no_show_bookings_90d, revenue_90d_cents, avg_booking_value_cents, unique_customers_90d
      `)
      .eq('organization_id', organization.id)
      .gt('total_bookings_90d', 0)
      .order('revenue_90d_cents', { ascending: false })
      .order('total_bookings_90d', { ascending: false })
      .limit(LISTED),
    client
      .from('bookings')
      .select(`
        id, start_time, status, contact:contacts(name, profile_name, phone_number), pet:pets(name),
        service:services(name), professional:professionals(name), location:locations(name, timezone)
      `)
      .eq('organization_id', organization.id)
      .eq('booking_date', today)
      .neq('status', 'hold')
      .order('start_time')
      .order('id')
      .limit(LISTED),
    client
      .from('conversations')
      .select(`
        id, escalated_at, escalation_reason, priority, last_message_preview,
        contact:contacts(name, profile_name, phone_number)
      `)
      .eq('organization_id', organization.id)
      .eq('is_open', true)
      .eq('status', 'waiting_human')
      .order('escalated_at')
      .limit(LISTED),
  ])
  return {
    today,
    period,
    metrics: dataOf(metrics, null),
    conversations: dataOf(conversations),
    appointments: dataOf(appointments),
    leads,
    professionals: dataOf(professionals),
    services: dataOf(services),
    bookings: dataOf(bookings),
    waiting: dataOf(waiting),
  }
}

/**
 * @template Row
 * @param {(from: number, to: number) => PromiseLike<{ data: Row[] | null, error: unknown }>} ask
 * @returns {Promise<Row[]>}
 */
async function allPages(ask) {
  /** @type {Row[]} */
  const rows = []
  for (;;) {
    const page = dataOf(await ask(rows.length, rows.length + PAGE - 1))
    rows.push(...page)
    if (page.length < PAGE) return rows
  }
}

/**
 * supabase-js returns its errors: here they are thrown, so that nothing goes on without its data.
 * @template Data
 * @template [Absent=never]
 * @param {{ data: Data, error: unknown }} answer
 * @param {Absent} [absent]
 * @returns {NonNullable<Data> | Absent}
 */
function dataOf({ data, error }, absent) {
  if (error !== null) throw error
  return /** @type {NonNullable<Data> | Absent} */ (data ?? absent)
}

// Days ----------------------------------------------------------------------------------------------------------------
// They are days of the organization, wherever the browser is, as "2026-11-21".

/** @param {Date} moment @param {string} timeZone */
export function localDate(moment, timeZone) {
  return new Intl.DateTimeFormat('en-CA', { timeZone }).format(moment)
}

/** @param {string} date @param {number} days */
export function daysLater(date, days) {
  return new Date(Date.parse(`${date}T12:00:00Z`) + days * 86_400_000).toISOString().slice(0, 10)
}
