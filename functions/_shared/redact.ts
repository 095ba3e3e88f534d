// The one place that makes what api_call_logs keeps of a call: enough to see what went wrong, but no token, nothing
// that somebody wrote, no full phone number. What is not known to be harmless is kept as its length.
import { isObject } from './json.ts'
import { maskPhoneNumbers } from './log.ts'

export interface ApiCall {
  service: 'meta_graph' | 'webhook'
  endpoint: string
  method: string
  request_data: Record<string, unknown>
  response_data: Record<string, unknown> | null
  status_code: number | null
  response_time_ms: number
  success: boolean
}

export interface Exchange {
  service: ApiCall['service']
  /** A path, or an address whose query is left out. */
  endpoint: string
  method: string
  request: unknown
  /** Null: there was no answer, or none that we keep. */
  response: unknown
  status: number | null
  responseTimeMs: number
  success: boolean
  /** What must not come back in an explanation of the other side, such as the token of the call. */
  secrets?: readonly string[]
}

// By key, or by the key above and the key; a list's entries count as standing under the list's key.
const KEPT = new Set([
  'messaging_product',
  'recipient_type',
  'type',
  'sub_type',
  'index',
  'biz_opaque_callback_data',
  'message_status',
  'template.name',
  'language.code',
  'error.code',
  'error_subcode',
  'fbtrace_id',
  'mime_type',
  'file_size',
  'event_type',
  'event_id',
])
const PERSONS = new Set([
  'to',
  'recipient',
  'input',
  'wa_id',
  'user_id',
  'parent_user_id',
  'phone',
  'display_phone_number',
])
// A wamid is base64 in which the customer's number stands; its end is enough to find it again.
const MESSAGE_IDS = new Set(['message_id', 'messages.id'])
const EXPLANATIONS = new Set([
  'error.message',
  'error.details',
  'error_data.details',
  'error_user_title',
  'error_user_msg',
])

const MAX_DEPTH = 12
const MAX_ENTRIES = 30
const MAX_EXPLANATION = 500

export function apiCall(exchange: Exchange): ApiCall {
  // What is left out of the request must not come back in the words of the answer.
  const hidden = new Set(exchange.secrets)
  const request = redacted(exchange.request, hidden)
  const response = redacted(exchange.response, hidden)
  return {
    service: exchange.service,
    endpoint: withoutQuery(exchange.endpoint),
    method: exchange.method,
    request_data: isObject(request) ? request : {},
    response_data: isObject(response) ? response : null,
    status_code: exchange.status,
    response_time_ms: Math.max(0, Math.round(exchange.responseTimeMs)),
    success: exchange.success,
  }
}

/** An explanation as it may be kept, logged and shown: no secret, no full phone number, no control characters. */
export function safeText(text: string, hidden: Iterable<string> = []): string {
  let safe = text
  for (const secret of [...hidden].sort((one, other) => other.length - one.length)) {
    // Shorter ones are everywhere: to replace them would tell more than it hides.
    if (secret.length >= 4) safe = safe.replaceAll(secret, '[…]')
  }
  safe = safe
    .replace(/\b(bearer|apikey)[ :]+\S+/gi, '$1 […]')
    .replace(/\b(EAA[\w-]{8,}|sb_secret_\S+|whsec_\S+|ey[\w-]{8,}\.[\w-]+\.[\w-]*)/g, '[…]')
    .replace(/(https?:\/\/[^\s?#"'<>]+)[?#][^\s"'<>)]*/g, '$1')
    .replace(/\bwamid\.\S+/g, shortenedMessageId)
    .replace(/(?<![\w-])\+?\d[\d ()-]{8,}\d(?![\w-])/g, maskedNumber)
    // deno-lint-ignore no-control-regex -- they are what has to go.
    .replace(/[\u0000-\u001f\u007f-\u009f]+/g, ' ')
  return maskPhoneNumbers(safe).trim().slice(0, MAX_EXPLANATION).toWellFormed()
}

/** What an error says, as it may be kept. */
export function reasonOf(error: unknown, hidden: Iterable<string> = []): string {
  return safeText(error instanceof Error ? error.message || error.name : String(error), hidden)
}

function redacted(value: unknown, hidden: Set<string>, parent = '', key = '', depth = 0): unknown {
  if (depth > MAX_DEPTH) return '[too deep]'
  if (Array.isArray(value)) {
    return value.slice(0, MAX_ENTRIES).map((item) => redacted(item, hidden, parent, key, depth + 1))
  }
  if (isObject(value)) {
    return Object.fromEntries(
      Object.entries(value).slice(0, MAX_ENTRIES).map(([name, item]) => [
        /^[A-Za-z_]{1,40}\d{0,3}$/.test(name) ? name : '[a key]',
        redacted(item, hidden, key, name, depth + 1),
      ]),
    )
  }
  if (value === null || value === undefined || typeof value === 'boolean') return value ?? null

  const text = String(value)
  const isListed = (list: ReadonlySet<string>) => list.has(key) || list.has(`${parent}.${key}`)
  if (isListed(EXPLANATIONS)) return safeText(text, hidden)
  if (isListed(PERSONS)) {
    hidden.add(text)
    return masked(text)
  }
  if (isListed(MESSAGE_IDS)) {
    hidden.add(text)
    return shortenedMessageId(text)
  }
  // A keyword or an id has no spaces; whatever has some was written by somebody.
  if (isListed(KEPT) && /^[\w.:;=/+-]{1,120}$/.test(text)) {
    return typeof value === 'number' ? value : maskPhoneNumbers(text)
  }
  hidden.add(text)
  return typeof value === 'number' ? '[a number]' : `[${text.length} characters]`
}

/** `+5531987650003` → `+553********03`; a BSUID likewise. */
function masked(id: string): string {
  if (id.length < 8) return '*'.repeat(id.length)
  return id.slice(0, 4) + '*'.repeat(id.length - 6) + id.slice(-2)
}

function maskedNumber(found: string): string {
  const digits = found.replace(/\D/g, '').length
  return digits < 10 || /^\d{4}-\d\d-\d\d/.test(found) ? found : masked(found)
}

/** Of a message's id at WhatsApp, its end: the number stands in the first half. */
export function shortenedMessageId(id: string): string {
  return id.length < 40 ? '…' : `…${id.slice(-12)}`
}

function withoutQuery(endpoint: string): string {
  const path = endpoint.split(/[?#]/, 1)[0] ?? ''
  return path.replace(/^(https?:\/\/)[^/@]*@/, '$1').slice(0, 300)
}
