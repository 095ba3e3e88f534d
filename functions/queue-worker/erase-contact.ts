// What an erased person left in the logs and in Storage. The database searches batch by batch and says which files to
// delete; what it finds again is gone only when it is. Doing any of it twice is doing it once.
import { z } from 'zod'
import type { Rpc } from '../_shared/rpc.ts'
import { claimOf, type JobType } from './job.ts'
import { patientRpc, type Pause, pause as realPause } from './patient-rpc.ts'
import type { Storage } from './storage.ts'

export interface Dependencies {
  rpc: Rpc
  storage: Storage
  pause?: Pause
}

// A search through a year of logs is taken up again where it was; another job may have a turn in between.
const BATCHES_A_TURN = 200
const PAUSES = [300, 1000, 3000]

const payloadSchema = z.object({ erasure_id: z.guid() })

const told = z.discriminatedUnion('action', [
  z.object({ action: z.literal('done'), reason: z.string().nullish() }),
  z.object({ action: z.literal('again') }),
  z.object({
    action: z.literal('remove'),
    bucket: z.string().min(1),
    paths: z.array(z.string().min(1)).min(1),
  }),
])

export function eraseContact(
  { rpc, storage, pause = realPause }: Dependencies,
): JobType<typeof payloadSchema> {
  const patient = patientRpc(rpc, { pauses: PAUSES, pause })
  return {
    schema: payloadSchema,
    timeoutMs: 60_000,
    slow: true,

    async handle(job, { signal, now }) {
      for (let batch = 0; batch < BATCHES_A_TURN; batch += 1) {
        signal.throwIfAborted()
        const answer = told.parse(await patient('continue_erasure', { job: claimOf(job) }, { signal }))
        switch (answer.action) {
          case 'done':
            return { kind: 'ended', result: answer.reason ?? 'nothing to erase' }
          case 'again':
            break
          case 'remove':
            for (const path of answer.paths) {
              signal.throwIfAborted()
              await storage.remove(answer.bucket, path)
            }
            break
          default:
            answer satisfies never
        }
      }
      return { kind: 'postponed', runAt: now(), reason: 'goes_on' }
    },
  }
}
