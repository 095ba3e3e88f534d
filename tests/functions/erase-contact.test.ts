// The search for what an erased person left: as long as the database has something to do, and no longer.
import assert from 'node:assert/strict'
import { eraseContact } from '../../functions/queue-worker/erase-contact.ts'
import type { Job } from '../../functions/queue-worker/job.ts'
import type { Storage } from '../../functions/queue-worker/storage.ts'
import { StorageFailure } from '../../functions/queue-worker/storage.ts'
import { RpcError } from '../../functions/_shared/rpc.ts'
import { CLINIC, recordedLog, recordedRpc } from './support.ts'

const NOW = new Date('2026-11-20T13:00:00Z')
const JOB: Job<{ erasure_id: string }> = {
  organization_id: CLINIC,
  id: '0193f2b4-0000-7000-8000-00000000f001',
  job_type: 'erase_contact',
  fencing_token: 3,
  attempts: 1,
  max_attempts: 100,
  created_at: '2026-11-20T13:00:00Z',
  payload: { erasure_id: '0193f2b4-0000-7000-8000-00000000e001' },
}
const CLAIM = { organization_id: CLINIC, id: JOB.id, fencing_token: 3 }

/** Answers in turn; the last one again and again. */
async function erased(answers: unknown[], { failing = [] as string[], aborted = false } = {}) {
  const left = [...answers]
  const removed: string[] = []
  const { rpc, calls } = recordedRpc({
    continue_erasure: () => {
      const answer = left.length > 1 ? left.shift() : left[0]
      if (answer instanceof Error) throw answer
      return answer
    },
  })
  const storage: Storage = {
    upload: () => Promise.reject(new Error('was called')),
    signedUrl: () => Promise.reject(new Error('was called')),
    remove: (bucket, path) => {
      if (failing.includes(path)) return Promise.reject(new StorageFailure(500, 'is away'))
      removed.push(`${bucket}/${path}`)
      return Promise.resolve()
    },
  }
  const type = eraseContact({ rpc, storage, pause: () => Promise.resolve() })
  const signal = aborted ? AbortSignal.abort(new Error('time is up')) : new AbortController().signal
  const outcome = await type.handle(JOB, { signal, now: () => NOW, log: recordedLog().log }).catch((error) =>
    error
  )
  return { outcome, calls, removed }
}

const files = (...paths: string[]) => ({ action: 'remove', bucket: 'media', paths })
const DONE = { action: 'done', reason: 'completed' }

Deno.test('it goes on until the database says that it is done, and deletes what it is told to', async () => {
  const { outcome, calls, removed } = await erased([
    { action: 'again' },
    { action: 'again' },
    files('a/1.jpg', 'a/2.pdf'),
    files('a/3.ogg'),
    DONE,
  ])
  assert.deepEqual(outcome, { kind: 'ended', result: 'completed' })
  assert.deepEqual(removed, ['media/a/1.jpg', 'media/a/2.pdf', 'media/a/3.ogg'])
  assert.deepEqual(
    calls,
    Array.from({ length: 5 }, () => ({ name: 'continue_erasure', args: { job: CLAIM } })),
  )
})

Deno.test('a file that Storage does not delete leaves the job to be tried again', async () => {
  const { outcome, calls, removed } = await erased([files('a/1.jpg', 'a/2.jpg'), DONE], {
    failing: ['a/2.jpg'],
  })
  assert.ok(outcome instanceof StorageFailure)
  assert.deepEqual([removed, calls.length], [['media/a/1.jpg'], 1])
})

Deno.test('a database that is away for a moment costs nothing; a lost lease ends it', async () => {
  const away = new RpcError(503, '57P01', 'terminating connection', null)
  assert.deepEqual((await erased([away, { action: 'again' }, away, DONE])).outcome, {
    kind: 'ended',
    result: 'completed',
  })
  const lost = new RpcError(400, 'BL301', 'The job is not held', 'lease_lost')
  assert.equal((await erased([lost])).outcome, lost)
})

Deno.test('a long search lets others have a turn', async () => {
  const { outcome, calls } = await erased([{ action: 'again' }])
  assert.deepEqual(outcome, { kind: 'postponed', runAt: NOW, reason: 'goes_on' })
  assert.equal(calls.length, 200)
})

Deno.test('an answer of another shape is a failure, and one whose time is up does nothing', async () => {
  assert.ok((await erased([files()])).outcome instanceof Error)
  assert.ok((await erased([{ action: 'burn' }])).outcome instanceof Error)
  const late = await erased([files('a/1.jpg')], { aborted: true })
  assert.deepEqual([late.outcome.message, late.calls, late.removed], ['time is up', [], []])
})
