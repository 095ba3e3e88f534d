// A delivery that was stored before, read once more: by an adapter that has learnt something since, or for a number that
// was not connected then. Ingestion keeps what is there already, so that replaying twice is once.
import { z } from 'zod'
import { storable } from '../_shared/json.ts'
import type { Provider } from '../_shared/providers/provider.ts'
import type { Rpc } from '../_shared/rpc.ts'
import { claimOf, type JobType } from './job.ts'

export interface Dependencies {
  rpc: Rpc
  /** By their name in the database. */
  providers: ReadonlyMap<string, Provider>
}

const payloadSchema = z.object({ event_id: z.guid(), created_at: z.string().min(1) })

const begun = z.discriminatedUnion('action', [
  z.object({ action: z.literal('done'), reason: z.string().nullish() }),
  z.object({
    action: z.literal('replay'),
    provider: z.string(),
    payload: z.record(z.string(), z.unknown()),
    received_at: z.string(),
  }),
])

export function replayWebhookEvent({ rpc, providers }: Dependencies): JobType<typeof payloadSchema> {
  return {
    schema: payloadSchema,
    timeoutMs: 45_000,

    async handle(job) {
      const event = begun.parse(await rpc('begin_replay', { job: claimOf(job) }))
      if (event.action === 'done') return { kind: 'ended', result: event.reason ?? 'nothing to replay' }

      const provider = providers.get(event.provider)
      if (provider === undefined) {
        return { kind: 'failed', error: `provider_not_supported: ${event.provider}`, permanent: true }
      }
      const receivedAt = new Date(event.received_at)
      if (Number.isNaN(receivedAt.getTime())) throw new Error('The event does not say when it was received')
      const parts = provider.parse(event.payload, receivedAt)
      await rpc('finish_replay', { job: claimOf(job), parts: storable(parts) })
      return { kind: 'ended', result: 'replayed' }
    },
  }
}
