// A file that somebody sent: its id gives an address for five minutes, and the address gives the file.
import { z } from 'zod'
import type { Credentials, MediaAnswer, MediaReference } from '../outbound-message.ts'
import type { Graph } from './graph.ts'
import { type GraphError, graphError, pauseAfter, reactionTo } from './graph-errors.ts'

const LOOK_UP_TIMEOUT_MS = 15_000

const mediaAnswer = z.looseObject({
  url: z.string(),
  mime_type: z.string().nullish().catch(null),
  sha256: z.string().nullish().catch(null),
  file_size: z.coerce.number().int().nonnegative().nullish().catch(null),
})

export async function fetchMedia(
  graph: Graph,
  media: MediaReference,
  limit: number,
  { accessToken }: Credentials,
  signal: AbortSignal,
  now: () => Date,
): Promise<MediaAnswer> {
  const answer = await graph.request({
    method: 'GET',
    path: [media.id],
    accessToken,
    timeoutMs: LOOK_UP_TIMEOUT_MS,
    signal,
  })
  const api_calls = [answer.call]
  if (answer.kind !== 'json') throw new Error(`Meta did not tell where the file is: ${answer.message}`)

  const error = graphError(answer, accessToken)
  if (error !== null) {
    const detail = `${error.code ?? `HTTP ${error.status}`}: ${error.explanation}`
    if (isForgotten(error)) return { result: 'gone', detail, api_calls }
    const pause = pauseAfter(error)
    if (pause !== null) {
      return { result: 'later', until: new Date(now().getTime() + pause), detail, api_calls }
    }
    throw new Error(`Meta refuses the file: ${detail}`)
  }
  const found = mediaAnswer.safeParse(answer.body)
  if (!found.success) throw new Error('Meta did not tell where the file is: its answer names no address')
  const { url, mime_type = null, sha256 = null, file_size } = found.data
  if (typeof file_size === 'number' && file_size > limit) {
    return { result: 'too_large', detail: `${file_size} bytes, at most ${limit} are fetched`, api_calls }
  }

  const { response, call } = await graph.download(url, accessToken, signal)
  api_calls.push(call)
  if (response.ok && response.body !== null) {
    return {
      result: 'open',
      stream: response.body,
      mime_type: media.mime_type ?? mime_type,
      sha256: media.sha256 ?? sha256,
      api_calls,
    }
  }
  await response.body?.cancel()
  if (response.status === 404 || response.status === 410) {
    return { result: 'gone', detail: `HTTP ${response.status} at its address`, api_calls }
  }
  throw new Error(`The file cannot be fetched: HTTP ${response.status} at its address`)
}

// What else may have expired, and why else an object may not be seen. A new token or permission brings the file then.
const OF_ACCESS = /token|session|permission/i

/** Meta forgets a file after seven days; then its id is an object that does not exist. */
function isForgotten(error: GraphError): boolean {
  const { code, subcode, status, explanation } = error
  const reaction = reactionTo(error)
  if (reaction !== 'failed' && reaction !== 'retry_once') return false
  if (status === 401 || status === 403 || OF_ACCESS.test(explanation)) return false
  return code === 33 || subcode === 33 || status === 404 ||
    (code === 100 || code === null) && /expired/i.test(explanation)
}
