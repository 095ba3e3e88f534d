// A closed organization whose time is over. The database deletes its rows, a few at each call, and says which files go; a run
// that breaks off is taken up again where it was.
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

// Other jobs have a turn in between.
const STEPS_A_TURN = 100
const PAUSES = [300, 1000, 3000]

// Which time of closing it is about, only the database reads.
const payloadSchema = z.looseObject({ closed_at: z.string() })

const told = z.discriminatedUnion('action', [
  z.object({ action: z.literal('done'), reason: z.string().nullish() }),
  z.object({ action: z.literal('again') }),
  z.object({
    action: z.literal('remove'),
    bucket: z.string().min(1),
    paths: z.array(z.string().min(1)).min(1),
  }),
])

export function purgeOrganization(
  { rpc, storage, pause = realPause }: Dependencies,
): JobType<typeof payloadSchema> {
  const patient = patientRpc(rpc, { pauses: PAUSES, pause })
  return {
    schema: payloadSchema,
    timeoutMs: 60_000,
    slow: true,

    async handle(job, { signal, now }) {
      for (let step = 0; step < STEPS_A_TURN; step += 1) {
        signal.throwIfAborted()
        const answer = told.parse(await patient('continue_purge', { job: claimOf(job) }, { signal }))
        switch (answer.action) {
          case 'done':
            return { kind: 'ended', result: answer.reason ?? 'nothing to purge' }
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
