// What an error of the Graph API means for a message. Meta's advice is to decide on the code; the HTTP status of a code
// is not what its documentation says, and the titles change.
import { z } from 'zod'
import { safeText } from '../../redact.ts'
import type { SendResult } from '../outbound-message.ts'

export type Reaction =
  /** Temporary, on Meta's side: again, ever later. */
  | 'retry'
  | 'retry_once'
  /** For good: this message cannot be sent as it is, or not to this person. */
  | 'failed'
  /** Token, permission, registration or payment: nothing goes out until somebody acts. */
  | 'stopped'
  /** The same, because Meta has blocked the account. */
  | 'banned'
  /** Too many messages a second from this number. */
  | 'throughput'
  /** Too many calls an hour, of the app or the whole account. */
  | 'call_limit'
  /** Too many messages to this one person. */
  | 'pair_rate'
  /** People have blocked or reported this number. */
  | 'spam_limit'

const CODES: readonly [Reaction, readonly number[]][] = [
  ['retry', [1, 2, 131000, 131016, 131057, 133004]],
  ['retry_once', [131052, 131053]],
  ['failed', [
    33, // The object does not exist, or the token may not see it.
    100,
    130472, // The person is in an experiment of Meta's.
    // The business may not write to people of this country: a foreign customer must not silence the number for all.
    130497,
    131008,
    131009,
    131026, // No WhatsApp, or one that is too old.
    131030, // The test number does not know this recipient.
    131047, // More than 24 hours since the customer's last message: only a template can be sent.
    131049, // This person gets no more marketing for now; again after a day at the earliest.
    131050, // This person wants no marketing.
    131051,
    131062, // This message needs a phone number, and we have the BSUID only.
    132000,
    132001,
    132005,
    132007,
    132012,
    132015,
    132016,
  ]],
  ['stopped', [
    0, // The token, as 190.
    190,
    3,
    10,
    131005,
    ...Array.from({ length: 100 }, (_code, index) => 200 + index), // Permissions.
    131042, // Payment.
    131045, // The number is not registered, as 133010.
    133010,
  ]],
  ['banned', [368, 131031]],
  ['throughput', [130429]],
  ['call_limit', [4, 80007]],
  ['pair_rate', [131056]],
  ['spam_limit', [131048]],
]

const REACTIONS = new Map(CODES.flatMap(([reaction, codes]) => codes.map((code) => [code, reaction])))

export interface GraphError {
  /** Null: the answer names none. */
  code: number | null
  subcode: number | null
  isTransient: boolean
  explanation: string
  status: number
  retryAfterMs: number | null
}

const optional = <Schema extends z.ZodType>(schema: Schema) => schema.optional().catch(undefined)
// Not coerced: nothing at all would become 0, which is a token that has expired.
const number = z.union([z.int(), z.string().regex(/^\d{1,9}$/).transform(Number)])

const errorAnswer = z.looseObject({
  error: z.looseObject({
    code: optional(number),
    error_subcode: optional(number),
    is_transient: optional(z.boolean()),
    message: optional(z.string()),
    error_user_msg: optional(z.string()),
    error_data: optional(z.looseObject({ details: optional(z.string()) })),
  }),
})

/** Null: this is no error of the Graph API. */
export function graphError(
  { body, status, retryAfterMs }: {
    body: Record<string, unknown>
    status: number
    retryAfterMs: number | null
  },
  accessToken: string,
): GraphError | null {
  const read = errorAnswer.safeParse(body)
  if (!read.success) return null
  const { code, error_subcode, is_transient, message, error_user_msg, error_data } = read.data.error
  return {
    code: code ?? null,
    subcode: error_subcode ?? null,
    isTransient: is_transient ?? false,
    explanation: safeText(error_data?.details ?? error_user_msg ?? message ?? 'no explanation', [
      accessToken,
    ]),
    status,
    retryAfterMs,
  }
}

export function reactionTo({ code, isTransient, status }: GraphError): Reaction {
  const known = code === null ? undefined : REACTIONS.get(code)
  if (known !== undefined) return known
  if (status === 429) return 'call_limit'
  return isTransient || status >= 500 ? 'retry' : 'failed'
}

const SECOND = 1000
const MINUTE = 60 * SECOND
const THROUGHPUT_PAUSE = 5 * SECOND
const CALL_LIMIT_PAUSE = 5 * MINUTE
const SPAM_PAUSE = 60 * MINUTE
const MAX_PAIR_EXPONENT = 6

/** How long nothing more should be asked of Meta on behalf of this number; null: it did not ask us to wait. */
export function pauseAfter(error: GraphError): number | null {
  const pause = { throughput: THROUGHPUT_PAUSE, call_limit: CALL_LIMIT_PAUSE }
  const reaction = reactionTo(error)
  return reaction === 'throughput' || reaction === 'call_limit'
    ? Math.max(pause[reaction], error.retryAfterMs ?? 0)
    : null
}

export function resultOf(
  error: GraphError,
  { message_type, attempt }: { message_type: string; attempt: number },
  now: Date,
): SendResult {
  const code = error.code === null ? `http_${error.status}` : String(error.code)
  const message = error.explanation
  const failed: SendResult = { result: 'failed', code, message }
  const after = (milliseconds: number) =>
    new Date(now.getTime() + Math.max(milliseconds, error.retryAfterMs ?? 0)).toISOString()
  const retry: SendResult = {
    result: 'retry',
    code,
    message,
    retry_at: error.retryAfterMs === null ? null : after(0),
    pause_number_until: null,
    counts: true,
  }
  const reaction = reactionTo(error)

  switch (reaction) {
    case 'failed':
      return failed
    case 'stopped':
    case 'banned':
      return { result: 'stopped', code, message, banned: reaction === 'banned' }
    case 'retry':
      return retry
    case 'retry_once':
      return attempt > 1 ? failed : retry
    case 'throughput':
    case 'call_limit': {
      // The number's limit, not the message's fault.
      const until = after(pauseAfter(error) ?? 0)
      return { ...retry, retry_at: until, pause_number_until: until, counts: false }
    }
    case 'pair_rate':
      // Meta's own advice: after 4^X seconds. Other people are not affected. Each try counts, because X does; the usual
      // number of attempts takes an hour and a half.
      return { ...retry, retry_at: after(4 ** Math.min(attempt - 1, MAX_PAIR_EXPONENT) * SECOND) }
    case 'spam_limit':
      // Meta lets this number send less, because people blocked or reported it. A template can wait, each for itself: a
      // customer who has written may still get his answer, and that must not wait with it. An answer that Meta does
      // refuse is no good an hour later; it fails now, where an attendant sees it.
      return message_type === 'template' ? { ...retry, retry_at: after(SPAM_PAUSE) } : failed
    default:
      return reaction satisfies never
  }
}
