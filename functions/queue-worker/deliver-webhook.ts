// One attempt to hand an event to a receiver of an organization's own, as Standard Webhooks 1.0 describes it. What
// comes of it is for finish_delivery to keep; when the next attempt is due is decided here.
import { Webhook } from 'standardwebhooks'
import { z } from 'zod'
import {
  parseReceiverUrl,
  RefusedAddress,
  requirePublicHost,
  type Resolve,
  UnresolvedHost,
} from '../_shared/public-address.ts'
import { apiCall } from '../_shared/redact.ts'
import type { Rpc } from '../_shared/rpc.ts'
import type { SecretBox } from '../_shared/secrets.ts'
import { claimOf, type JobType } from './job.ts'
import { patientRpc, type Pause, pause as realPause } from './patient-rpc.ts'
import { nextAttempt } from './retry-schedule.ts'

// From the name server's answer to the receiver's.
const TIMEOUT_MS = 15_000
// An outcome that the database never hears of is an event that the receiver gets again.
const FINISH_PAUSES = [200, 1_000, 3_000]

export interface Dependencies {
  rpc: Rpc
  secrets: SecretBox
  resolve: Resolve
  fetch: (url: URL, init: RequestInit) => Promise<Response>
  random: () => number
  allowLoopback: boolean
  timeoutMs?: number
  pause?: Pause
}

const payloadSchema = z.object({ delivery_id: z.guid() })

type Delivery = z.infer<typeof deliverySchema>
const deliverySchema = z.object({
  id: z.guid(),
  // What is signed is joined by full stops.
  event_id: z.string().regex(/^[^.\s]+$/),
  event_type: z.string(),
  /** Including this one. */
  attempts: z.int().min(1),
})

const begun = z.discriminatedUnion('action', [
  z.object({ action: z.literal('done'), reason: z.string().nullish() }),
  z.object({
    action: z.literal('deliver'),
    delivery: deliverySchema,
    url: z.string(),
    payload: z.record(z.string(), z.unknown()),
    secrets: z.array(z.string()).min(1),
  }),
])

/** What an attempt came to, whatever is made of it. */
type Attempt = Delivered | Failure

interface Delivered {
  isDelivered: true
  status: number
}

interface Failure {
  isDelivered: false
  /** Null: nobody answered. */
  status: number | null
  /** A code that stays the same, such as `http_503`; what follows it is ours, never the receiver's. */
  error: string
  retryAfter: string | null
  /** False: nothing left our side. */
  wasSent: boolean
}

export function deliverWebhook(
  { rpc, secrets, resolve, fetch, random, allowLoopback, timeoutMs = TIMEOUT_MS, pause = realPause }:
    Dependencies,
): JobType<typeof payloadSchema> {
  const patient = patientRpc(rpc, { pauses: FINISH_PAUSES, pause })
  return {
    schema: payloadSchema,
    // Beside the exchange itself the database is asked twice.
    timeoutMs: timeoutMs + 30_000,
    slow: true,

    async handle(job, { signal, now }) {
      const claim = claimOf(job)
      const answer = begun.parse(await rpc('begin_delivery', { job: claim }))
      if (answer.action === 'done') return { kind: 'ended', result: answer.reason ?? 'nothing to deliver' }

      const { delivery, url, payload } = answer
      const body = JSON.stringify(payload)
      const opened = await Promise.all(
        answer.secrets.map((sealed) =>
          secrets.open(sealed, { organizationId: job.organization_id, purpose: 'webhook_endpoint.secret' })
        ),
      )
      const headers = signedHeaders(delivery.event_id, body, opened, now())

      const startedAt = performance.now()
      const attempt = await attemptDelivery(url, body, headers, signal)
      const response_ms = Math.round(performance.now() - startedAt)

      const outcome = outcomeOf(attempt, delivery, now())
      await patient('finish_delivery', {
        job: claim,
        outcome: { ...outcome, response_ms, api_call: callOf(attempt, url, delivery, body, response_ms) },
      })
      return { kind: 'ended', result: outcome.result }
    },
  }

  async function attemptDelivery(
    address: string,
    body: string,
    headers: Record<string, string>,
    signal: AbortSignal,
  ): Promise<Attempt> {
    const timeUp = AbortSignal.timeout(timeoutMs)
    const stop = AbortSignal.any([signal, timeUp])
    let wasSent = false
    try {
      const url = parseReceiverUrl(address, { allowLoopback })
      await requirePublicHost(url, resolve, { allowLoopback }, stop)
      wasSent = true
      const response = await fetch(url, { method: 'POST', body, headers, redirect: 'manual', signal: stop })
      return await attemptFrom(response)
    } catch (error) {
      // The job was taken from us: what became of it is no longer ours to tell.
      if (signal.aborted) throw signal.reason
      return { isDelivered: false, status: null, error: codeOf(error, timeUp), retryAfter: null, wasSent }
    }
  }

  function outcomeOf(attempt: Attempt, { attempts }: Delivery, failedAt: Date) {
    if (attempt.isDelivered) return { result: 'delivered' as const, status: attempt.status }
    const { status, error, retryAfter } = attempt
    // So a receiver says that it wants no more of this, ever.
    if (status === 410) return { result: 'gone' as const, status, error }
    const next = nextAttempt({ attempts, now: failedAt, random, retryAfter })
    if (next === null) return { result: 'exhausted' as const, status, error }
    return { result: 'retry' as const, status, error, next_attempt_at: next.toISOString() }
  }
}

/** One signature for each secret, so that during a rotation the receiver may know either. */
function signedHeaders(
  eventId: string,
  body: string,
  secrets: string[],
  now: Date,
): Record<string, string> {
  return {
    'content-type': 'application/json',
    'user-agent': 'Balcao-Webhooks/1',
    'webhook-id': eventId,
    'webhook-timestamp': String(Math.floor(now.getTime() / 1000)),
    'webhook-signature': secrets.map((secret) => new Webhook(secret).sign(eventId, now, body)).join(' '),
  }
}

async function attemptFrom(response: Response): Promise<Attempt> {
  const { status, ok } = response
  // Not read: a receiver's explanation may repeat what it was sent, and that is for nobody's log.
  await response.body?.cancel().catch(() => undefined)
  if (ok) return { isDelivered: true, status }
  return {
    isDelivered: false,
    status,
    error: status >= 300 && status < 400 ? 'redirect' : `http_${status}`,
    retryAfter: response.headers.get('retry-after'),
    wasSent: true,
  }
}

function codeOf(error: unknown, timeUp: AbortSignal): string {
  if (error instanceof RefusedAddress) return `refused_address: ${error.message}`
  if (error instanceof UnresolvedHost) return 'unresolved_host'
  // Which of connecting, encrypting and answering failed is not told: it would map a network that is not the customer's.
  return timeUp.aborted ? 'timeout' : 'connection_failed'
}

/** Null: nobody was called. A path may be a secret as well, so that the host has to do. */
function callOf(attempt: Attempt, url: string, delivery: Delivery, body: string, responseTimeMs: number) {
  if (!attempt.isDelivered && !attempt.wasSent) return null
  const { event_id, event_type } = delivery
  return apiCall({
    service: 'webhook',
    endpoint: new URL(url).origin,
    method: 'POST',
    request: { event_id, event_type, body },
    response: attempt.isDelivered ? null : { error: { message: attempt.error } },
    status: attempt.status,
    responseTimeMs,
    success: attempt.isDelivered,
  })
}
