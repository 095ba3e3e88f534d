// Which kinds of job there are, and what the worker knows of each.
import assert from 'node:assert/strict'
import { nextFetch } from '../../functions/queue-worker/fetch-schedule.ts'
import { jobTypes } from '../../functions/queue-worker/jobs.ts'
import { createStorage } from '../../functions/queue-worker/storage.ts'
import { recordedRpc, secretBox } from './support.ts'

Deno.test('receivers, downloads, erasures, backups, the archive and purges are slow; messages and replays are not', async () => {
  const types = jobTypes({
    rpc: recordedRpc({}).rpc,
    secrets: await secretBox(),
    storage: createStorage({ url: 'http://127.0.0.1:1', secretKey: 'sb_secret_platform' }),
    functions: { url: 'http://127.0.0.1:1', secretKey: 'sb_secret_platform' },
    providers: new Map(),
    resolve: () => Promise.resolve([]),
    fetch: () => Promise.reject(new Error('was called')),
    random: () => 0,
    allowLoopback: false,
  })
  assert.deepEqual([...types].map(([name, { slow = false, nextTry }]) => [name, slow, nextTry]), [
    ['send_message', false, undefined],
    ['run_flow', false, undefined],
    ['send_notification', false, undefined],
    ['answer_notification', false, undefined],
    ['fetch_media', true, nextFetch],
    ['deliver_webhook', true, undefined],
    ['replay_webhook_event', false, undefined],
    ['erase_contact', true, undefined],
    ['back_up_tenant', true, undefined],
    ['archive_messages', true, undefined],
    ['erase_archived', true, undefined],
    ['purge_organization', true, undefined],
  ])
})
