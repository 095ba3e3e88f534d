// Reminders and what customers answer to them. Whether, when and what is said, and what an answer changes, is decided and
// done in the database, in the one transaction that ends the job: a worker that dies in between has done nothing.
import { z } from 'zod'
import type { Rpc } from '../_shared/rpc.ts'
import { claimOf, type JobType } from './job.ts'
import { patientRpc, type Pause, pause as realPause } from './patient-rpc.ts'

export interface Dependencies {
  rpc: Rpc
  pause?: Pause
}

// Both may be asked again: a job that has ended is not held any more.
const PAUSES = [200, 1000]

const answerSchema = z.object({ action: z.literal('done'), reason: z.string().nullish() })

const notificationSchema = z.object({ notification_id: z.guid() })
const messageSchema = z.object({ message_id: z.guid() })

export const sendNotification = (dependencies: Dependencies) =>
  doneInTheDatabase('send_notification', notificationSchema, dependencies)

export const answerNotification = (dependencies: Dependencies) =>
  doneInTheDatabase('answer_notification', messageSchema, dependencies)

function doneInTheDatabase<Schema extends z.ZodType>(
  name: string,
  schema: Schema,
  { rpc, pause = realPause }: Dependencies,
): JobType<Schema> {
  const database = patientRpc(rpc, { pauses: PAUSES, pause })
  return {
    schema,
    timeoutMs: 15_000,

    async handle(job) {
      const answer = answerSchema.parse(await database(name, { job: claimOf(job) }))
      return { kind: 'ended', result: answer.reason ?? 'done' }
    },
  }
}
