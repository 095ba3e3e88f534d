// Waking the worker: at once, without keeping anybody waiting, and never more than needed.
import assert from 'node:assert/strict'
import { createWake } from '../../functions/_shared/wake.ts'
import { recordedLog } from './support.ts'

const SECRET_KEY = 'sb_secret_platform'

function waking(answer: () => Promise<Response>) {
  const requests: { url: string; headers: Headers; method: string | undefined }[] = []
  const background: Promise<unknown>[] = []
  const { log, lines } = recordedLog()
  const wake = createWake({
    url: 'https://exemplo.supabase.co',
    secretKey: SECRET_KEY,
    background: (work) => background.push(work),
    log,
    fetch: (input, init) => {
      requests.push({ url: String(input), headers: new Headers(init?.headers), method: init?.method })
      return answer()
    },
  })
  return { wake, requests, background, lines }
}

const accepted = () => Promise.resolve(Response.json({ accepted: true }, { status: 202 }))

Deno.test('the worker is asked with the secret key, and not waited for', async () => {
  const { wake, requests, background, lines } = waking(accepted)
  wake()
  await Promise.all(background)
  assert.deepEqual(requests.map(({ url, method, headers }) => [url, method, headers.get('apikey')]), [
    ['https://exemplo.supabase.co/functions/v1/queue-worker?wait=false', 'POST', SECRET_KEY],
  ])
  assert.deepEqual(lines, [])
})

Deno.test('however many deliveries come, one request is under way and one follows', async () => {
  const { promise: released, resolve: release } = Promise.withResolvers<void>()
  const { wake, requests, background } = waking(async () => (await released, await accepted()))
  for (let time = 0; time < 100; time++) wake()
  assert.equal(requests.length, 1)
  release()
  await Promise.all(background)
  assert.equal(requests.length, 2)
  assert.equal(background.length, 1)

  wake()
  await Promise.all(background)
  assert.equal(requests.length, 3)
})

Deno.test('a wake that fails is a warning, tells no secret, and does not keep the next one from trying', async () => {
  const answers = [
    () => Promise.reject(new TypeError(`connect to ${SECRET_KEY} failed`)),
    () => Promise.resolve(new Response('no', { status: 503 })),
    accepted,
  ]
  const { wake, requests, background, lines } = waking(() => (answers.shift() ?? accepted)())
  for (let time = 0; time < 3; time++) {
    wake()
    await Promise.all(background)
  }
  assert.equal(requests.length, 3)
  assert.deepEqual(
    lines.map((line) => JSON.parse(line)).map(({ level, event, status }) => [level, event, status]),
    [
      ['warn', 'worker not woken', undefined],
      ['warn', 'worker not woken', 503],
    ],
  )
  assert.doesNotMatch(lines.join(), /sb_secret/)
})
