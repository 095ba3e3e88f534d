// Sending through the Cloud API. It has no idempotency key: whether a call was made, and what came of it, is all that
// keeps a message from being sent twice. Our own id travels along and comes back with every status.
import { z } from 'zod'
import type { Credentials, OutboundMessage, SendOutcome, SendResult } from '../outbound-message.ts'
import type { Graph, GraphAnswer } from './graph.ts'
import { graphError, resultOf } from './graph-errors.ts'
import { messageBody } from './message-body.ts'
import { identitiesOf } from './people.ts'

const TIMEOUT_MS = 20_000

const optionalId = z.string().min(1).max(255).optional().catch(undefined)
const accepted = z.looseObject({
  messages: z.tuple([z.looseObject({ id: z.string().min(1).max(255) })], z.unknown()),
  contacts: z.array(z.looseObject({ wa_id: optionalId, user_id: optionalId }).catch({})).catch([]),
})

export async function send(
  graph: Graph,
  message: OutboundMessage,
  { externalId, accessToken }: Credentials,
  signal: AbortSignal,
  now: () => Date,
  timeoutMs = TIMEOUT_MS,
): Promise<SendOutcome> {
  const read = messageBody(message)
  if ('problem' in read) return { result: 'failed', code: read.code, message: read.problem, api_call: null }
  const answer = await graph.request({
    method: 'POST',
    path: [externalId, 'messages'],
    body: read.body,
    accessToken,
    timeoutMs,
    signal,
  })
  const result = understood(answer, message, accessToken, now())
  return { ...result, api_call: { ...answer.call, success: result.result === 'accepted' } }
}

function understood(
  answer: GraphAnswer,
  message: OutboundMessage,
  accessToken: string,
  now: Date,
): SendResult {
  switch (answer.kind) {
    case 'not_sent':
      return {
        result: 'retry',
        code: 'not_connected',
        message: answer.message,
        retry_at: null,
        pause_number_until: null,
        counts: true,
      }
    case 'unknown':
      return { result: 'unknown', message: answer.message }
    case 'other':
      if (answer.status !== 429) return { result: 'unknown', message: answer.message }
      return resultOf({ ...unnamed, ...answer, explanation: answer.message }, message, now)
    case 'json': {
      const success = accepted.safeParse(answer.body)
      if (success.success && answer.status < 300) {
        const [{ id }] = success.data.messages
        const identities = identitiesOf(
          success.data.contacts.flatMap(({ wa_id, user_id }) => [wa_id, user_id]),
        )
        return { result: 'accepted', whatsapp_message_id: id, identities }
      }
      const error = graphError(answer, accessToken)
      if (error !== null) return resultOf(error, message, now)
      if (answer.status === 429) {
        return resultOf({ ...unnamed, ...answer, explanation: 'HTTP 429' }, message, now)
      }
      return {
        result: 'unknown',
        message: `HTTP ${answer.status} with JSON that says nothing of the message`,
      }
    }
    default:
      return answer satisfies never
  }
}

const unnamed = { code: null, subcode: null, isTransient: false }
