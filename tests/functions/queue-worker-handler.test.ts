// Who may start a run, how it is answered, and how many runs there are.
import assert from 'node:assert/strict'
import { createHandler } from '../../functions/queue-worker/handler.ts'
import type { Run, Summary } from '../../functions/queue-worker/work.ts'
import { workerSettings } from '../../functions/queue-worker/settings.ts'
import { errorCode, recordedLog } from './support.ts'

const SECRET_KEY = 'sb_secret_platform'
const CRON_SECRET = 'segredo-do-cron'
const PLATFORM = { apikey: SECRET_KEY }

const SUMMARY: Summary = {
  claimed: 3,
  completed: 2,
  failed: 1,
  postponed: 0,
  lost: 0,
  drained: true,
  duration_ms: 12,
}

/** A run that goes as the test says. */
function heldRun() {
  const { promise, resolve, reject } = Promise.withResolvers<Summary>()
  promise.catch(() => undefined)
  const state = { isClaiming: true, hasRoom: true, nudges: 0, stops: 0 }
  const run: Run = {
    isClaiming: () => state.isClaiming,
    nudge() {
      if (!state.isClaiming || !state.hasRoom) return false
      state.nudges += 1
      return true
    },
    stop: () => void (state.stops += 1),
    finished: promise,
  }
  return { run, state, resolve, reject }
}

function worker({ cronSecret = CRON_SECRET }: { cronSecret?: string } = {}) {
  const runs: ReturnType<typeof heldRun>[] = []
  const chosen: (string[] | null)[] = []
  const background: Promise<unknown>[] = []
  const wakes = { count: 0 }
  const { log, lines } = recordedLog()
  const handler = createHandler({
    secrets: { secretKeys: [SECRET_KEY, 'sb_secret_other'], cronSecret },
    startRun: (jobTypes) => {
      const held = heldRun()
      runs.push(held)
      chosen.push(jobTypes)
      return held.run
    },
    background: (work) => background.push(work),
    wake: () => wakes.count += 1,
    log,
  })
  const post = (headers: HeadersInit = PLATFORM, body: BodyInit | null = '{}', query = '') =>
    handler(
      new Request(`http://localhost/functions/v1/queue-worker${query}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...Object.fromEntries(new Headers(headers)) },
        body,
      }),
    )
  return {
    handler,
    post,
    wakeUp: () => post(PLATFORM, '{}', '?wait=false'),
    runs,
    chosen,
    background,
    wakes,
    lines,
    run: (index: number) => {
      const held = runs[index]
      assert.ok(held)
      return held
    },
  }
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 1))
}

Deno.test('only the platform and its cron start a run', async (test) => {
  const strangers: [string, HeadersInit][] = [
    ['nobody', {}],
    ['the publishable key', { apikey: 'sb_publishable_app' }],
    ["a user's token", { authorization: 'Bearer ey.user.jwt' }],
    ['a near miss', { apikey: SECRET_KEY.slice(0, -1) }],
    ['an empty key', { apikey: '' }],
    ['a wrong cron secret', { 'x-cron-secret': 'x' }],
    ['the cron secret as key', { apikey: CRON_SECRET }],
    ['the secret key as cron secret', { 'x-cron-secret': SECRET_KEY }],
  ]
  for (const [name, headers] of strangers) {
    await test.step(name, async () => {
      const { post, runs, lines } = worker()
      const response = await post(headers)
      assert.equal(response.status, 401)
      assert.equal(await errorCode(response), 'not_authenticated')
      assert.equal(runs.length, 0)
      assert.doesNotMatch(lines.join(), /segredo|sb_secret/)
    })
  }
  const friends: [string, HeadersInit][] = [
    ['the secret key', PLATFORM],
    ['another secret key', { apikey: 'sb_secret_other' }],
    ['as bearer', { authorization: `Bearer ${SECRET_KEY}` }],
    ['the cron secret', { 'x-cron-secret': CRON_SECRET }],
  ]
  for (const [name, headers] of friends) {
    await test.step(name, async () => {
      const { post, run, runs } = worker()
      const answer = post(headers)
      await until(() => runs.length === 1)
      run(0).resolve(SUMMARY)
      assert.equal((await answer).status, 200)
    })
  }
})

Deno.test('where no cron secret is set, none is right', async () => {
  for (const cronSecret of ['', undefined]) {
    const { post } = worker(cronSecret === undefined ? {} : { cronSecret })
    assert.equal((await post({ 'x-cron-secret': '' })).status, 401)
  }
})

Deno.test('whoever waits hears what the run did', async () => {
  const { post, run, runs, chosen, background, wakes } = worker()
  const answer = post()
  await until(() => runs.length === 1)
  run(0).resolve(SUMMARY)
  const response = await answer
  assert.equal(response.status, 200)
  assert.deepEqual(await response.json(), SUMMARY)
  assert.deepEqual(chosen, [null])
  // The run does not depend on whoever asked for it.
  assert.equal(background.length, 1)
  await Promise.all(background)
  assert.equal(wakes.count, 0)
})

Deno.test('a run may be asked for some kinds of job only', async () => {
  const { post, run, runs, chosen } = worker()
  const answer = post(PLATFORM, JSON.stringify({ job_types: ['send_message'] }))
  await until(() => runs.length === 1)
  run(0).resolve(SUMMARY)
  assert.equal((await answer).status, 200)
  assert.deepEqual(chosen, [['send_message']])
})

Deno.test('what is asked wrongly is refused before anything starts', async () => {
  const { post, handler, runs } = worker()
  const bad: [BodyInit, number, string][] = [
    ['{', 400, 'invalid_json'],
    ['[]', 400, 'invalid_request'],
    ['{"job_types":"send_message"}', 400, 'invalid_request'],
    ['{"job_types":[]}', 400, 'invalid_request'],
    ['{"job_types":["x\'; drop"]}', 400, 'invalid_request'],
    [' '.repeat(70_000), 413, 'body_too_large'],
  ]
  for (const [body, status, code] of bad) {
    const response = await post(PLATFORM, body)
    assert.equal(response.status, status)
    assert.equal(await errorCode(response), code)
  }
  assert.equal((await post({ ...PLATFORM, 'content-type': 'text/plain' })).status, 415)
  const get = await handler(new Request('http://localhost/queue-worker', { headers: PLATFORM }))
  assert.equal(get.status, 405)
  const below = await handler(
    new Request('http://localhost/queue-worker/x', { method: 'POST', headers: PLATFORM }),
  )
  assert.equal(below.status, 404)
  assert.equal(runs.length, 0)
})

Deno.test('an empty body asks for everything', async () => {
  const { post, run, runs, chosen } = worker()
  const answer = post({ ...PLATFORM, 'content-type': 'application/x-www-form-urlencoded' }, null)
  await until(() => runs.length === 1)
  run(0).resolve(SUMMARY)
  assert.equal((await answer).status, 200)
  assert.deepEqual(chosen, [null])
})

Deno.test('whoever does not wait is answered at once; more of the same joins the run that has room', async () => {
  const { wakeUp, run, runs, background } = worker()
  const response = await wakeUp()
  assert.equal(response.status, 202)
  assert.deepEqual(await response.json(), { accepted: true })
  for (let time = 0; time < 10; time++) assert.equal((await wakeUp()).status, 202)
  assert.equal(runs.length, 1)
  assert.equal(run(0).state.nudges, 10)

  // Once it has ended there is a new one.
  run(0).state.isClaiming = false
  run(0).resolve(SUMMARY)
  await Promise.all(background)
  assert.equal((await wakeUp()).status, 202)
  assert.equal(runs.length, 2)
})

Deno.test('beside runs that have no room there are more, but not without end', async () => {
  const { wakeUp, runs } = worker()
  for (let time = 0; time < 10; time++) {
    await wakeUp()
    for (const { state } of runs) state.hasRoom = false
  }
  assert.equal(runs.length, 4)
})

Deno.test('a run that was asked for by somebody who waits is his own', async () => {
  const { wakeUp, post, runs, run } = worker()
  await wakeUp()
  const answer = post()
  await until(() => runs.length === 2)
  run(1).resolve(SUMMARY)
  assert.equal((await answer).status, 200)
  assert.equal(run(0).state.nudges, 0)
})

Deno.test('a run that leaves work behind wakes the next one', async () => {
  const { post, wakes, run, runs, background } = worker()
  const answer = post()
  await until(() => runs.length === 1)
  run(0).resolve({ ...SUMMARY, drained: false })
  assert.equal((await (await answer).json()).drained, false)
  await Promise.all(background)
  assert.equal(wakes.count, 1)
})

Deno.test('a queue that cannot be reached is 503 for whoever waits, and wakes nobody', async () => {
  const { post, wakes, run, runs, background } = worker()
  const answer = post()
  await until(() => runs.length === 1)
  run(0).reject(new Error('secret host away'))
  const response = await answer
  assert.equal(response.status, 503)
  assert.equal(await errorCode(response.clone()), 'database_unavailable')
  assert.doesNotMatch(await response.text(), /secret host/)
  await Promise.all(background)
  assert.equal(wakes.count, 0)
})

Deno.test('an isolate that ends stops its runs, starts no other and wakes nobody', async () => {
  const { handler, wakeUp, wakes, run, background } = worker()
  await wakeUp()
  handler.stop()
  assert.equal(run(0).state.stops, 1)
  run(0).state.isClaiming = false
  assert.equal((await wakeUp()).status, 503)
  run(0).resolve({ ...SUMMARY, drained: false })
  await Promise.all(background)
  assert.equal(wakes.count, 0)
})

Deno.test('the environment says how much a run may do', () => {
  const settings = (variables: Record<string, string>) => workerSettings({ get: (name) => variables[name] })
  assert.deepEqual(settings({}), {
    slots: 10,
    budgetMs: 100_000,
    maxJobs: 300,
    leaseMs: 60_000,
    stopMs: 3_500,
  })
  const { slots, budgetMs } = settings({ BALCAO_WORKER_BATCH: '25', BALCAO_WORKER_BUDGET_MS: '5000' })
  assert.deepEqual([slots, budgetMs], [25, 5000])
  for (
    const [name, value] of [
      ['BALCAO_WORKER_BATCH', '0'],
      ['BALCAO_WORKER_BATCH', '101'],
      ['BALCAO_WORKER_BATCH', 'ten'],
      ['BALCAO_WORKER_BUDGET_MS', '10'],
      ['BALCAO_WORKER_BUDGET_MS', '1e5'],
    ] as const
  ) {
    assert.throws(() => settings({ [name]: value }), new RegExp(name))
  }
})
