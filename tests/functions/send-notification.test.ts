// The worker holds the job and asks; what becomes of a notification, or of an answer to one, is the database's.
import assert from 'node:assert/strict'
import { RpcError } from '../../functions/_shared/rpc.ts'
import type { Job } from '../../functions/queue-worker/job.ts'
import { answerNotification, sendNotification } from '../../functions/queue-worker/send-notification.ts'
import { CLINIC, recordedLog, recordedRpc } from './support.ts'

const ID = '0193f2b4-0000-7000-8000-00000000f001'
const SUBJECT = '0193f2b4-0000-7000-8000-00000000a001'
const CLAIM = { organization_id: CLINIC, id: ID, fencing_token: 3 }

const KINDS = [
  { name: 'send_notification', make: sendNotification, payload: { notification_id: SUBJECT } },
  { name: 'answer_notification', make: answerNotification, payload: { message_id: SUBJECT } },
] as const

async function handled({ name, make, payload }: (typeof KINDS)[number], answer: () => unknown) {
  const { rpc, calls } = recordedRpc({ [name]: answer })
  const pauses: number[] = []
  const type = make({
    rpc,
    pause: (milliseconds) => {
      pauses.push(milliseconds)
      return Promise.resolve()
    },
  })
  const job: Job<{ notification_id: string } & { message_id: string }> = {
    ...CLAIM,
    job_type: name,
    attempts: 1,
    max_attempts: 8,
    created_at: '2026-11-20T13:00:00Z',
    payload: { notification_id: SUBJECT, message_id: SUBJECT, ...payload },
  }
  const { log } = recordedLog()
  const context = { signal: new AbortController().signal, now: () => new Date('2026-11-20T13:00:00Z'), log }
  const outcome = await type.handle(job, context).catch((error: unknown) => error)
  return { outcome, calls, pauses }
}

for (const kind of KINDS) {
  Deno.test(`${kind.name}: one call ends the job, and its reason goes to the log`, async () => {
    const { outcome, calls } = await handled(kind, () => ({ action: 'done', reason: 'opted_out' }))
    assert.deepEqual(outcome, { kind: 'ended', result: 'opted_out' })
    assert.deepEqual(calls, [{ name: kind.name, args: { job: CLAIM } }])
  })

  Deno.test(`${kind.name}: a database that is away for a moment is asked again, and then the queue tries later`, async () => {
    const away = () => {
      throw new RpcError(503, 'PGRST001', 'no connection', null)
    }
    let tries = 0
    const back = await handled(kind, () => ++tries < 3 ? away() : { action: 'done', reason: 'sent' })
    assert.deepEqual(back.outcome, { kind: 'ended', result: 'sent' })
    assert.deepEqual(back.pauses, [200, 1000])
    const gone = await handled(kind, away)
    assert.ok(gone.outcome instanceof RpcError)
    assert.equal(gone.calls.length, 3)
  })

  Deno.test(`${kind.name}: a job that somebody else has by now is not repeated; an answer that is none fails`, async () => {
    const lost = await handled(kind, () => {
      throw new RpcError(400, 'BL301', 'The job is not held', 'lease_lost')
    })
    assert.equal(lost.calls.length, 1)
    const strange = await handled(kind, () => ({ action: 'send' }))
    assert.ok(strange.outcome instanceof Error)
  })

  Deno.test(`${kind.name}: a payload without its id is no job of this kind`, () => {
    const { rpc } = recordedRpc({})
    const { schema } = kind.make({ rpc })
    assert.ok(schema.safeParse(kind.payload).success)
    assert.ok(!schema.safeParse({}).success)
    assert.ok(!schema.safeParse({ notification_id: 'x', message_id: 'x' }).success)
  })
}
