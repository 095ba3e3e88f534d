// One message of ours on its way out. begin_send has announced the call before it is made and finish_send keeps what
// came of it, so that whoever dies in between leaves a trace: nobody sends a second time on a guess. From begin_send on
// there is no way out but finish_send.
import { z } from 'zod'
import type { Log } from '../_shared/log.ts'
import type { OutboundMessage, SendOutcome } from '../_shared/providers/outbound-message.ts'
import type { Provider } from '../_shared/providers/provider.ts'
import { reasonOf, shortenedMessageId } from '../_shared/redact.ts'
import type { Rpc } from '../_shared/rpc.ts'
import type { SecretBox } from '../_shared/secrets.ts'
import { claimOf, isLeaseLost, type Job, type JobType, type Outcome } from './job.ts'
import { patientRpc, type Pause, pause as realPause } from './patient-rpc.ts'
import { isFilePath, type Storage, StorageFailure } from './storage.ts'

export interface Dependencies {
  rpc: Rpc
  secrets: SecretBox
  storage: Storage
  /** By their name in the database. */
  providers: ReadonlyMap<string, Provider>
  pause?: Pause
}

// About twenty seconds: the id that the provider gave the message is worth it.
const FINISH_PAUSES = [300, 700, 2000, 4000, 6000, 7000]
// An order whose answer got lost is given again to the same claim.
const BEGIN_PAUSES = [300, 1000]
// A process that stood still for so long may have lost the job without knowing it.
const STALE_AFTER_MS = 30_000
const LINK_SECONDS = 600

const payloadSchema = z.object({ message_id: z.guid() })

type SendOrder = Extract<z.infer<typeof begun>, { action: 'send' }>
const begun = z.discriminatedUnion('action', [
  z.object({ action: z.literal('done'), reason: z.string().nullish() }),
  z.object({
    action: z.literal('send'),
    attempt: z.int().min(1),
    message: z.object({
      id: z.guid(),
      message_type: z.string(),
      content: z.string().nullable(),
      payload: z.record(z.string(), z.unknown()).nullable(),
      reply_to_whatsapp_message_id: z.string().nullable(),
    }),
    recipient: z.object({ kind: z.enum(['wa_id', 'bsuid', 'jid', 'lid', 'phone']), value: z.string() }),
    instance: z.object({ id: z.guid(), external_id: z.string(), provider: z.string() }),
    access_token: z.string(),
  }),
])

export function sendMessage(
  { rpc, secrets, storage, providers, pause = realPause }: Dependencies,
): JobType<typeof payloadSchema> {
  return {
    schema: payloadSchema,
    // The call, and the patience that its answer deserves.
    timeoutMs: 50_000,

    async handle(job, { signal, now, log }) {
      // Before the database announces the call: a process may stand still between that and its answer, too.
      let askedAt = 0
      const ask: Rpc = (name, args) => {
        askedAt = now().getTime()
        return rpc(name, args)
      }
      const patient = patientRpc(ask, { pauses: BEGIN_PAUSES, pause })
      const answer = begun.parse(await patient('begin_send', { job: claimOf(job) }))
      if (answer.action === 'done') return { kind: 'ended', result: answer.reason ?? 'nothing to send' }
      const isStale = () => now().getTime() - askedAt > STALE_AFTER_MS
      const outcome = await attempt(job, answer, signal, isStale)
      return await finish(job, outcome, log)
    },
  }

  /** Never throws. */
  async function attempt(
    job: Job,
    order: SendOrder,
    signal: AbortSignal,
    isStale: () => boolean,
  ): Promise<SendOutcome> {
    try {
      const provider = providers.get(order.instance.provider)
      if (provider === undefined) {
        const message = `Nothing can be sent through ${order.instance.provider}`
        return { result: 'failed', code: 'provider_not_supported', message, api_call: null }
      }
      const [message, accessToken] = await Promise.all([
        outboundMessage(job.organization_id, order),
        secrets.open(order.access_token, {
          organizationId: job.organization_id,
          purpose: 'instance.access_token',
        }),
      ])
      if ('result' in message) return message
      if (isStale()) throw new Error('The worker stood still for too long')
      return await provider.send(message, { externalId: order.instance.external_id, accessToken }, signal)
    } catch (error) {
      // A provider does not throw: we did not get as far as the call.
      return {
        result: 'retry',
        code: 'not_prepared',
        message: reasonOf(error),
        retry_at: null,
        pause_number_until: null,
        counts: true,
        api_call: null,
      }
    }
  }

  /** With an address of some minutes for a file that lies in our Storage. */
  async function outboundMessage(
    organizationId: string,
    { message, recipient, attempt }: SendOrder,
  ): Promise<OutboundMessage | SendOutcome> {
    const { path, ...payload } = message.payload ?? {}
    if (typeof path !== 'string') return { ...message, recipient, attempt }

    const [bucket, folder, ...rest] = path.split('/')
    const isOurs = bucket === 'media' && folder === organizationId && rest.length > 0 && isFilePath(path)
    if (!isOurs) {
      const problem = "payload.path is not a file of this organization's"
      return { result: 'failed', code: 'invalid_payload', message: problem, api_call: null }
    }
    try {
      const link = await storage.signedUrl(bucket, [folder, ...rest].join('/'), LINK_SECONDS)
      return { ...message, payload: { ...payload, link }, recipient, attempt }
    } catch (error) {
      if (!(error instanceof StorageFailure) || error.status !== 404) throw error
      const problem = 'The file to be sent is not in our Storage'
      return { result: 'failed', code: 'file_not_found', message: problem, api_call: null }
    }
  }

  async function finish(job: Job, outcome: SendOutcome, log: Log): Promise<Outcome> {
    // If nobody keeps it, the log has it: what was accepted under which id.
    const told = {
      job_id: job.id,
      organization_id: job.organization_id,
      message_id: messageIdOf(job),
      result: outcome.result,
      ...(outcome.result === 'accepted'
        ? { whatsapp_message_id: shortenedMessageId(outcome.whatsapp_message_id) }
        : {}),
    }
    const patient = patientRpc(rpc, {
      pauses: FINISH_PAUSES,
      pause,
      failed: (error) => log('warn', 'send not stored yet', { ...told, error: reasonOf(error) }),
    })
    try {
      await patient('finish_send', { job: claimOf(job), outcome })
    } catch (error) {
      // The next begin_send waits for the message's status before anything is sent again.
      log(isLeaseLost(error) ? 'warn' : 'error', 'send not stored', { ...told, error: reasonOf(error) })
      throw error
    }
    return { kind: 'ended', as: endingOf(outcome), result: outcome.result }
  }
}

function messageIdOf({ payload }: Job): string | null {
  const read = payloadSchema.safeParse(payload)
  return read.success ? read.data.message_id : null
}

function endingOf(outcome: SendOutcome): 'completed' | 'failed' | 'postponed' {
  switch (outcome.result) {
    case 'accepted':
      return 'completed'
    case 'failed':
    case 'stopped':
      return 'failed'
    case 'retry':
      return outcome.counts ? 'failed' : 'postponed'
    case 'unknown':
      return 'postponed'
    default:
      return outcome satisfies never
  }
}
