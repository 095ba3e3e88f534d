// Whether a number can be reached with its token: what Meta calls it, or why not.
import { z } from 'zod'
import type { Connection, Credentials } from '../outbound-message.ts'
import type { Graph } from './graph.ts'
import { graphError } from './graph-errors.ts'

const TIMEOUT_MS = 5_000

const numberAnswer = z.looseObject({
  id: z.string(),
  display_phone_number: z.string().nullish().catch(null),
  verified_name: z.string().nullish().catch(null),
})

export async function testConnection(
  graph: Graph,
  { externalId, accessToken }: Credentials,
  timeoutMs = TIMEOUT_MS,
): Promise<Connection> {
  const answer = await graph.request({
    method: 'GET',
    path: [externalId],
    query: { fields: 'id,display_phone_number,verified_name' },
    accessToken,
    timeoutMs,
  })
  if (answer.kind !== 'json') {
    return {
      ok: false,
      code: answer.kind === 'other' ? 'unexpected_answer' : 'unreachable',
      message: answer.message,
    }
  }
  const error = graphError(answer, accessToken)
  if (error !== null) {
    return { ok: false, code: error.code?.toString() ?? `http_${error.status}`, message: error.explanation }
  }
  const number = numberAnswer.safeParse(answer.body)
  if (!number.success || answer.status >= 300) {
    return {
      ok: false,
      code: 'unexpected_answer',
      message: `HTTP ${answer.status} without the number's data`,
    }
  }
  const { verified_name = null, display_phone_number = null } = number.data
  return { ok: true, verified_name, display_phone_number }
}
