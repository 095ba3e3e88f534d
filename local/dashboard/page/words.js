// What the page says in Portuguese: numbers, days, and what the database says in names.

const money = new Intl.NumberFormat('pt-BR', { style: 'currency', currency: 'BRL' })
const wholeMoney = new Intl.NumberFormat('pt-BR', { style: 'currency', currency: 'BRL', maximumFractionDigits: 0 })
const counts = new Intl.NumberFormat('pt-BR')
const oneDecimal = new Intl.NumberFormat('pt-BR', { minimumFractionDigits: 1, maximumFractionDigits: 1 })
const percents = new Intl.NumberFormat('pt-BR', { style: 'percent', maximumFractionDigits: 1 })

export const NOTHING = '–'

/** @param {number | null} cents */
export function reais(cents) {
  return cents === null ? NOTHING : money.format(cents / 100)
}

/** For an axis. @param {number} cents */
export function roundReais(cents) {
  return wholeMoney.format(cents / 100)
}

/** @param {number} count */
export function number(count) {
  return counts.format(count)
}

/** @param {number | null} value */
export function decimal(value) {
  return value === null ? NOTHING : oneDecimal.format(value)
}

/** @param {number | null} value from 0 to 100 */
export function percent(value) {
  return value === null ? NOTHING : percents.format(value / 100)
}

/** @param {number} count @param {string} one @param {string} many */
export function counted(count, one, many) {
  return `${number(count)} ${count === 1 ? one : many}`
}

/** "6 s", "2 min", "1 h 20 min" @param {number | null} seconds */
export function duration(seconds) {
  if (seconds === null) return NOTHING
  if (seconds < 9.95) return `${new Intl.NumberFormat('pt-BR', { maximumFractionDigits: 1 }).format(seconds)} s`
  if (seconds < 60) return `${Math.round(seconds)} s`
  const minutes = Math.round(seconds / 60)
  if (minutes < 60) return `${minutes} min`
  const hours = Math.floor(minutes / 60)
  if (hours < 48) return minutes % 60 === 0 ? `${hours} h` : `${hours} h ${minutes % 60} min`
  return counted(Math.floor(hours / 24), 'dia', 'dias')
}

// Days ----------------------------------------------------------------------------------------------------------------

/** A calendar day has no time zone. @param {string} date @param {Intl.DateTimeFormatOptions} options */
function day(date, options) {
  return new Intl.DateTimeFormat('pt-BR', { timeZone: 'UTC', ...options }).format(new Date(`${date}T12:00:00Z`))
}

/** "sábado, 21 de novembro" @param {string} date */
export function longDay(date) {
  return day(date, { weekday: 'long', day: 'numeric', month: 'long' })
}

/** "21/11" @param {string} date */
export function shortDay(date) {
  return day(date, { day: '2-digit', month: '2-digit' })
}

/** @param {number} days */
export function lastDays(days) {
  return days < 14 ? `Últimos ${days} dias` : `Últimas ${days / 7} semanas`
}

/** "sáb., 21/11" @param {string} date */
export function weekDay(date) {
  return day(date, { weekday: 'short', day: '2-digit', month: '2-digit' })
}

/** @param {string} at @param {string} timeZone */
export function clock(at, timeZone) {
  return new Intl.DateTimeFormat('pt-BR', { timeZone, hour: '2-digit', minute: '2-digit' }).format(new Date(at))
}

// Names ---------------------------------------------------------------------------------------------------------------

/** @type {Record<string, string>} */
export const BOOKING = {
  scheduled: 'Marcado',
  confirmed: 'Confirmado',
  completed: 'Realizado',
  cancelled: 'Cancelado',
  no_show: 'Faltou',
}

/** @type {Record<string, string>} */
export const PRIORITY = { low: 'Baixa', normal: '', high: 'Alta', urgent: 'Urgente' }

/** @param {{ name: string | null, profile_name: string | null, phone_number: string | null } | null} contact */
export function nameOf(contact) {
  return contact?.name ?? contact?.profile_name ?? contact?.phone_number ?? 'Sem nome'
}

// What goes wrong -----------------------------------------------------------------------------------------------------

/** @type {Record<string, string>} */
const TROUBLES = {
  invalid_credentials: 'E-mail ou senha não conferem. Confira os dois e tente de novo.',
  email_not_confirmed: 'Este e-mail ainda não foi confirmado: abra o link que enviamos e entre de novo.',
  over_request_rate_limit: 'Foram muitas tentativas seguidas. Espere um minuto e tente de novo.',
  validation_failed: 'Escreva um e-mail completo e a senha.',
  PGRST301: 'Sua sessão terminou: entre de novo.',
  PGRST303: 'Sua sessão terminou: entre de novo.',
  PGRST205: 'Este banco de dados ainda não tem os painéis: aplique as migrações e atualize.',
  '42P01': 'Este banco de dados ainda não tem os painéis: aplique as migrações e atualize.',
  '42501': 'Seu acesso não permite ver estes números. Peça a quem administra a empresa.',
  '57014': 'A consulta demorou demais. Escolha um período menor, ou tente de novo em um minuto.',
}

/**
 * What happened, and what to do about it.
 * @param {unknown} error
 * @param {{ isTriedAgain: boolean }} next whether that happens by itself
 */
export function troubleOf(error, { isTriedAgain }) {
  const { code, name, message } = /** @type {{ code?: unknown, name?: unknown, message?: unknown }} */ (error ?? {})
  const known = TROUBLES[String(code)]
  if (known !== undefined) return known
  // PGRST000 to 3: the Data API is there, its database is not.
  if (/^PGRST00[0-3]$/.test(String(code)) || /fetch|network|timeout|timed out|abort/i.test(`${String(name)} ${String(message)}`)) {
    return isTriedAgain
      ? 'O servidor não responde. Verifique a conexão: tentaremos de novo em um minuto.'
      : 'O servidor não responde. Verifique a conexão e tente de novo.'
  }
  return `Não deu certo (${String(message ?? error)}). Tente de novo; se continuar, recarregue a página.`
}

/** Whether only a new sign-in helps. @param {unknown} error */
export function isSessionOver(error) {
  return error instanceof Object && 'code' in error && ['PGRST301', 'PGRST303'].includes(String(error.code))
}
