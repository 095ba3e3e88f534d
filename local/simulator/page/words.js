// What the page says in Portuguese of what the database says in names.

/** @type {Record<string, string>} */
const TROUBLES = {
  no_answer: 'A stack não responde. Ela está rodando?',
  not_running: 'Um dos serviços da stack não responde; tente de novo.',
  wrong_token: 'A stack recomeçou: carregue a página de novo.',
  another_graph: 'BALCAO_META_GRAPH_URL aponta para outra Graph API; o simulador precisa da imitação da própria stack.',
  invalid_phone_number: 'Este não é um celular com DDD.',
  webhook_refused: 'O webhook não aceitou a mensagem.',
  message_not_found: 'Esta mensagem não tem opções.',
  option_not_found: 'Esta opção não existe mais.',
  not_allowed: 'Quem atende não tem permissão para isto.',
  conversation_closed: 'A conversa está encerrada.',
  conversation_open: 'Já há outra conversa aberta com este cliente.',
  stale_control: 'A conversa acaba de trocar de mãos.',
  flow_not_found: 'Não há modelo de fluxo para esta empresa.',
  conversation_not_found: 'Esta conversa não existe mais.',
  sending_stopped: 'O envio por este número está parado.',
  instance_disconnected: 'O número está desconectado.',
  invalid_message: 'Esta mensagem não pode ser enviada.',
  PGRST202: 'Esta ação ainda não existe neste banco de dados.',
}

/** @param {unknown} error */
export function troubleOf(error) {
  const code = error instanceof Error && 'code' in error ? String(error.code) : ''
  return TROUBLES[code] ?? `Não deu certo: ${error instanceof Error ? error.message : String(error)}`
}

/** @type {Record<string, string>} */
export const ROLES = { attendant: 'atendente', admin: 'administra', owner: 'dona ou dono' }

/** @type {Record<string, string>} */
export const CONVERSATION = {
  active: 'Em andamento',
  waiting_human: 'Esperando uma pessoa',
  transferred: 'Transferida',
  closed: 'Encerrada',
}

/** @type {Record<string, string>} */
export const PRIORITY = { low: 'baixa', normal: 'normal', high: 'alta', urgent: 'urgente' }

/** @type {Record<string, string>} */
export const BOOKING = {
  hold: 'Reservado',
  scheduled: 'Marcado',
  confirmed: 'Confirmado',
  completed: 'Realizado',
  cancelled: 'Cancelado',
  no_show: 'Faltou',
}

/** @type {Record<string, string>} */
const MEDIA = {
  image: '📷 Foto',
  audio: '🎤 Áudio',
  video: '🎬 Vídeo',
  document: '📄 Documento',
  sticker: 'Figurinha',
  location: '📍 Localização',
  contacts: '👤 Contato',
  template: 'Mensagem modelo',
  unsupported: 'Mensagem que o WhatsApp não repassa',
}

/** What stands for a message that is not text. @param {string} type */
export function mediaWord(type) {
  return MEDIA[type] ?? null
}

/** @param {string} status @returns {{ shape: 'waiting' | 'one' | 'two' | 'failed', label: string, isRead: boolean }} */
export function fateOf(status) {
  switch (status) {
    case 'failed':
      return { shape: 'failed', label: 'não enviada', isRead: false }
    case 'sent':
      return { shape: 'one', label: 'enviada', isRead: false }
    case 'delivered':
      return { shape: 'two', label: 'entregue', isRead: false }
    case 'read':
    case 'played':
      return { shape: 'two', label: 'lida', isRead: true }
    default:
      return { shape: 'waiting', label: 'na fila', isRead: false }
  }
}

/** "+5511987650001" → "+55 11 98765-0001" @param {string} number */
export function readable(number) {
  return number.replace(/^\+55(\d\d)(\d{4,5})(\d{4})$/, '+55 $1 $2-$3')
}

/** @param {string} at @param {string} timeZone */
export function clock(at, timeZone) {
  return new Intl.DateTimeFormat('pt-BR', { timeZone, hour: '2-digit', minute: '2-digit' }).format(new Date(at))
}

/** "Hoje", "Ontem", "12 de novembro" @param {string} at @param {string} timeZone @param {Date} now */
export function dayName(at, timeZone, now) {
  const day = (/** @type {Date} */ date) => new Intl.DateTimeFormat('en-CA', { timeZone }).format(date)
  const that = day(new Date(at))
  if (that === day(now)) return 'Hoje'
  if (that === day(new Date(now.getTime() - 24 * 3_600_000))) return 'Ontem'
  return new Intl.DateTimeFormat('pt-BR', { timeZone, day: 'numeric', month: 'long' }).format(new Date(at))
}

/** @param {string} at @param {string} timeZone */
export function calendarDay(at, timeZone) {
  const part = (/** @type {Intl.DateTimeFormatOptions} */ options) =>
    new Intl.DateTimeFormat('pt-BR', { timeZone, ...options }).format(new Date(at))
  return {
    day: part({ day: '2-digit' }),
    month: part({ month: 'short' }).replace('.', ''),
    weekday: part({ weekday: 'long' }),
    time: part({ hour: '2-digit', minute: '2-digit' }),
    whole: part({ weekday: 'long', day: 'numeric', month: 'long', hour: '2-digit', minute: '2-digit' }),
  }
}

/** @param {string} name */
export function initials(name) {
  const words = name.split(/\s+/).filter((word) => /^\p{L}/u.test(word) && word.length > 2)
  return words.slice(0, 2).map((word) => word.charAt(0).toUpperCase()).join('')
}
