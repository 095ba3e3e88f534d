// A stored delivery goes through the adapter once more, and comes out as the parts that came out of it the first time.
import assert from 'node:assert/strict'
import { parse } from '../../functions/_shared/providers/meta/parse.ts'
import type { Job } from '../../functions/queue-worker/job.ts'
import { replayWebhookEvent } from '../../functions/queue-worker/replay-webhook-event.ts'
import { metaAt, NOW } from './graph-server.ts'
import { asJson, CLINIC, recordedLog, recordedRpc, sample, sampleNames } from './support.ts'

const JOB: Job<{ event_id: string; created_at: string }> = {
  organization_id: CLINIC,
  id: '0193f2b4-0000-7000-8000-00000000f001',
  job_type: 'replay_webhook_event',
  fencing_token: 3,
  attempts: 1,
  max_attempts: 8,
  created_at: '2026-11-20T13:00:00Z',
  payload: { event_id: '0193f2b4-0000-7000-8000-00000000e001', created_at: '2026-11-20T13:00:00Z' },
}
const CLAIM = { organization_id: CLINIC, id: JOB.id, fencing_token: 3 }

async function replayed(begun: unknown) {
  const { rpc, calls, callsOf } = recordedRpc({
    begin_replay: () => begun,
    finish_replay: () => ({ events: 1 }),
  })
  const meta = await metaAt('http://127.0.0.1:9')
  const type = replayWebhookEvent({ rpc, providers: new Map([[meta.name, meta]]) })
  const { log } = recordedLog()
  const signal = new AbortController().signal
  const outcome = await type.handle(JOB, { signal, now: () => NOW, log }).catch((error) => error)
  return { outcome, calls, finished: callsOf('finish_replay').map(({ args }) => args) }
}

function event(payload: unknown, changes: Record<string, unknown> = {}) {
  return {
    action: 'replay',
    provider: 'meta_cloud',
    app_key: 'Zm9vYmFyYmF6cXV4MTIzNA',
    external_id: '109876543210987',
    event_type: 'messages',
    payload,
    headers: {},
    signature: 'sha256=00',
    received_at: '2026-11-20T13:00:00+00:00',
    ...changes,
  }
}

Deno.test('each part of each sample comes back as the same part', async () => {
  for (const name of sampleNames) {
    for (const part of parse(sample(name), NOW)) {
      const { outcome, calls, finished } = await replayed(event(part.payload))
      assert.deepEqual(outcome, { kind: 'ended', result: 'replayed' })
      assert.deepEqual(calls[0], { name: 'begin_replay', args: { job: CLAIM } })
      assert.deepEqual(asJson(finished), [{ job: CLAIM, parts: asJson([part]) }], name)
    }
  }
})

Deno.test('what begin_replay has ended itself is left alone', async () => {
  const { outcome, finished } = await replayed({ action: 'done', reason: 'event_gone' })
  assert.deepEqual(outcome, { kind: 'ended', result: 'event_gone' })
  assert.deepEqual(finished, [])
})

Deno.test('a provider that we no longer know is given up; an event without time is not read', async () => {
  const unknown = await replayed(event(sample('text'), { provider: 'zapi' }))
  assert.deepEqual(unknown.outcome, {
    kind: 'failed',
    error: 'provider_not_supported: zapi',
    permanent: true,
  })
  const timeless = await replayed(event(sample('text'), { received_at: 'yesterday' }))
  assert.ok(timeless.outcome instanceof Error)
  assert.deepEqual([unknown.finished, timeless.finished], [[], []])
})
