// Due schedules through Request → Response, with functions that really are called over loopback.
import assert from 'node:assert/strict'
import { RpcError } from '../../functions/_shared/rpc.ts'
import { createHandler } from '../../functions/cron-refresh/handler.ts'
import { createScheduleRunner } from '../../functions/cron-refresh/schedules.ts'
import { type Call, errorCode, recordedLog, recordedRpc } from './support.ts'

const SECRET_KEY = 'sb_secret_platform'
const CRON_SECRET = 'segredo-do-cron'

type Answers = Record<string, (args: Record<string, unknown>) => unknown>

interface Tools {
  call: (
    body?: unknown,
    headers?: Record<string, string>,
    method?: string,
    query?: string,
  ) => Promise<Response>
  calls: Call[]
  callsOf: (name: string) => Call[]
  lines: string[]
  kept: Promise<unknown>[]
}

interface Options {
  functions?: (request: Request) => Response | Promise<Response>
  timeoutMs?: number
  cronSecret?: string
}

async function withCron(answers: Answers, story: (tools: Tools) => Promise<void>, options: Options = {}) {
  const stop = new AbortController()
  const server = Deno.serve(
    { port: 0, hostname: '127.0.0.1', signal: stop.signal, onListen: () => {} },
    options.functions ?? (() => new Response('not expected', { status: 500 })),
  )
  const { rpc, calls, callsOf } = recordedRpc(answers)
  const { log, lines } = recordedLog()
  const kept: Promise<unknown>[] = []
  const handler = createHandler({
    rpc,
    secretKeys: [SECRET_KEY],
    cronSecret: options.cronSecret,
    functions: {
      url: `http://127.0.0.1:${server.addr.port}/functions/v1`,
      secretKey: SECRET_KEY,
      fetch,
      timeoutMs: options.timeoutMs ?? 10_000,
    },
    inBackground: (work) => kept.push(work),
    log,
  })
  try {
    await story({
      calls,
      callsOf,
      lines,
      kept,
      call: (body, headers = { apikey: SECRET_KEY }, method = 'POST', query = '') =>
        handler(
          new Request(`http://localhost/functions/v1/cron-refresh${query}`, {
            method,
            headers: body === undefined ? headers : { 'content-type': 'application/json', ...headers },
            body: body === undefined ? null : JSON.stringify(body),
          }),
        ),
    })
  } finally {
    stop.abort()
    await server.finished
  }
}

const sql = (name: string) => ({
  name,
  kind: 'sql',
  function_name: null,
  scheduled_for: '2026-11-20T12:00:00Z',
})
const fn = (name: string) => ({ ...sql(name), kind: 'function', function_name: `${name}-function` })

/** Runs SQL on the spot and opens runs of functions, as the database does. */
function started(args: Record<string, unknown>): unknown {
  const name = String(args['name'])
  const isFunction = name.startsWith('f')
  return {
    ran: true,
    run_id: `run-of-${name}`,
    kind: isFunction ? 'function' : 'sql',
    function_name: isFunction ? `${name}-function` : null,
    result: isFunction ? null : { rows: 3 },
    error: null,
    duration_ms: isFunction ? null : 5,
    reason: null,
  }
}

async function ranIn(response: Response) {
  assert.equal(response.status, 200)
  const { ran, skipped } = await response.json()
  for (const { duration_ms } of ran) assert.ok(Number.isInteger(duration_ms))
  return {
    ran: ran.map(({ duration_ms: _duration, ...rest }: Record<string, unknown>) => rest),
    skipped,
  }
}

Deno.test('only the platform and its cron may call', async () => {
  await withCron({ due_schedules: () => [] }, async ({ call, calls }) => {
    const strangers: Record<string, string>[] = [
      {},
      { apikey: 'sb_publishable_app' },
      { authorization: 'Bearer ey.user.jwt' },
      { 'x-cron-secret': '' },
      { 'x-cron-secret': 'guessed' },
      { 'x-cron-secret': SECRET_KEY },
      { apikey: CRON_SECRET },
    ]
    for (const headers of strangers) {
      const response = await call({}, headers)
      assert.equal(response.status, 401)
      assert.equal(await errorCode(response), 'not_authenticated')
    }
    assert.deepEqual(calls, [])

    for (
      const headers of [
        { apikey: SECRET_KEY },
        { authorization: `Bearer ${SECRET_KEY}` },
        { 'x-cron-secret': CRON_SECRET },
      ]
    ) assert.deepEqual(await ranIn(await call({}, headers)), { ran: [], skipped: [] })
  }, { cronSecret: CRON_SECRET })

  await withCron({ due_schedules: () => [] }, async ({ call }) => {
    for (const given of ['', 'undefined', CRON_SECRET]) {
      assert.equal((await call({}, { 'x-cron-secret': given })).status, 401, 'no cron secret is set')
    }
  })
})

Deno.test('what a caller may not send', async () => {
  await withCron({}, async ({ call, calls }) => {
    assert.equal((await call(undefined, { apikey: SECRET_KEY }, 'GET')).status, 405)
    for (const body of [[], 'x', { name: '' }, { name: 7 }, { name: 'x'.repeat(201) }]) {
      const response = await call(body)
      assert.equal(response.status, 400)
      assert.equal(await errorCode(response), 'invalid_request')
    }
    const type = { apikey: SECRET_KEY, 'content-type': 'text/plain' }
    assert.equal((await call({}, type)).status, 415)
    assert.deepEqual(calls, [])
  })
})

Deno.test('each due schedule is a call of its own, and a body is not needed', async () => {
  const due = () => [sql('partitions'), sql('retention')]
  await withCron({ due_schedules: due, run_schedule: started }, async ({ call, callsOf, kept }) => {
    const bodiless = { apikey: SECRET_KEY, 'content-type': 'text/plain' }
    assert.deepEqual(await ranIn(await call(undefined, bodiless)), {
      ran: [{ name: 'partitions', result: { rows: 3 } }, { name: 'retention', result: { rows: 3 } }],
      skipped: [],
    })
    assert.deepEqual(callsOf('run_schedule').map(({ args }) => args), [
      { name: 'partitions', force: false },
      { name: 'retention', force: false },
    ])
    assert.equal(kept.length, 1, 'the platform was asked to keep the isolate until the work has ended')
  })
})

Deno.test('one that fails does not stop the others, however it fails', async () => {
  const run = (args: Record<string, unknown>) => {
    switch (args['name']) {
      case 'raises':
        return {
          ran: true,
          run_id: 1,
          kind: 'sql',
          function_name: null,
          result: null,
          error: 'division by zero',
        }
      case 'unreachable':
        throw new RpcError(503, 'PGRST001', 'no connection', null)
      case 'nonsense':
        return 'what?'
      default:
        return started(args)
    }
  }
  const due = () => ['raises', 'unreachable', 'nonsense', 'good', 'better'].map(sql)
  await withCron({ due_schedules: due, run_schedule: run }, async ({ call, lines }) => {
    const { ran } = await ranIn(await call({}))
    const outcomes = Object.fromEntries(
      ran.map(({ name, ...outcome }: { name: string }) => [name, outcome]),
    )
    assert.deepEqual(Object.keys(outcomes).sort(), ['better', 'good', 'nonsense', 'raises', 'unreachable'])
    assert.deepEqual(outcomes['raises'], { error: 'division by zero' })
    assert.deepEqual(outcomes['unreachable'], { error: 'no connection' })
    assert.match(String(outcomes['nonsense'].error), /expected object/)
    assert.deepEqual([outcomes['good'], outcomes['better']], Array(2).fill({ result: { rows: 3 } }))
    const request = lines.map((line) => JSON.parse(line)).find(({ event }) => event === 'request')
    assert.deepEqual([request.ran, request.failed.sort()], [5, ['nonsense', 'raises', 'unreachable']])
  })
})

Deno.test('what somebody else is running already is skipped', async () => {
  const run = () => ({ ran: false, reason: 'running', kind: 'sql', run_id: null, function_name: null })
  await withCron({ due_schedules: () => [sql('partitions')], run_schedule: run }, async ({ call }) => {
    assert.deepEqual(await ranIn(await call({})), {
      ran: [],
      skipped: [{ name: 'partitions', reason: 'running' }],
    })
  })
})

Deno.test('a named one runs now, and nothing else; one that nobody knows is 404', async () => {
  const run = (args: Record<string, unknown>) => {
    if (args['name'] !== 'partitions') {
      throw new RpcError(400, 'BL320', 'There is no such schedule', 'schedule_not_found')
    }
    return started(args)
  }
  await withCron({ run_schedule: run }, async ({ call, calls }) => {
    assert.deepEqual((await ranIn(await call({ name: 'partitions' }))).ran, [
      { name: 'partitions', result: { rows: 3 } },
    ])
    assert.deepEqual(calls, [{ name: 'run_schedule', args: { name: 'partitions', force: true } }])

    const response = await call({ name: 'unknown' })
    assert.equal(response.status, 404)
    assert.equal(await errorCode(response), 'schedule_not_found')
  })
})

Deno.test('a function is called with the secret key, and the database is told what it answered', async () => {
  const requests: unknown[] = []
  const functions = ({ method, url, headers }: Request) => {
    requests.push([method, new URL(url).pathname, headers.get('apikey')])
    return Response.json({ claimed: 2, note: 'a\u0000b' })
  }
  const answers = { due_schedules: () => [fn('f')], run_schedule: started, finish_schedule_run: () => null }
  await withCron(answers, async ({ call, callsOf, lines }) => {
    const { ran } = await ranIn(await call({}))
    // What Postgres cannot store is replaced.
    const result = { claimed: 2, note: 'a\uFFFDb' }
    assert.deepEqual(ran, [{ name: 'f', result }])
    assert.deepEqual(requests, [['POST', '/functions/v1/f-function', SECRET_KEY]])
    assert.deepEqual(callsOf('finish_schedule_run').map(({ args }) => args), [
      { run_id: 'run-of-f', result, error: null },
    ])
    assert.doesNotMatch(lines.join(), /sb_secret/)
  }, { functions })
})

Deno.test('a function that fails is a run that failed, and the run is closed', async (test) => {
  const elsewhere: string[] = []
  const other = Deno.serve({ port: 0, hostname: '127.0.0.1', onListen: () => {} }, ({ url }) => {
    elsewhere.push(url)
    return Response.json({})
  })
  const failures: [string, () => Response | Promise<Response>, string | RegExp][] = [
    [
      'it says that it failed',
      () =>
        Response.json({ error: { code: 'internal_error', message: `with ${SECRET_KEY}` } }, { status: 500 }),
      /^http_500: .*internal_error/,
    ],
    ['it is not there', () => new Response(null, { status: 404 }), 'http_404'],
    [
      'it sends us elsewhere',
      () =>
        new Response(null, { status: 307, headers: { location: `http://127.0.0.1:${other.addr.port}/` } }),
      'http_307',
    ],
    [
      'it breaks off',
      () => new Response(new ReadableStream({ pull: (controller) => controller.error(new Error('gone')) })),
      'connection_failed',
    ],
  ]
  try {
    for (const [what, functions, expected] of failures) {
      await test.step(what, async () => {
        const answers = {
          due_schedules: () => [fn('f')],
          run_schedule: started,
          finish_schedule_run: () => null,
        }
        await withCron(answers, async ({ call, callsOf, lines }) => {
          const { ran: [{ error }] } = await ranIn(await call({}))
          if (typeof expected === 'string') assert.equal(error, expected)
          else assert.match(error, expected)
          assert.deepEqual(callsOf('finish_schedule_run').map(({ args }) => args), [
            { run_id: 'run-of-f', result: null, error },
          ])
          assert.doesNotMatch(lines.join() + error, /sb_secret/)
        }, { functions })
      })
    }
    assert.deepEqual(elsewhere, [], 'the secret key went nowhere else')
  } finally {
    await other.shutdown()
  }
})

Deno.test('a function that does not answer in time has failed', async () => {
  const { promise: released, resolve: release } = Promise.withResolvers<void>()
  const answers = { due_schedules: () => [fn('f')], run_schedule: started, finish_schedule_run: () => null }
  const functions = () => released.then(() => new Response())
  await withCron(answers, async ({ call, callsOf }) => {
    assert.deepEqual((await ranIn(await call({}))).ran, [{ name: 'f', error: 'timeout' }])
    assert.equal(callsOf('finish_schedule_run')[0]?.args['error'], 'timeout')
    release()
  }, { functions, timeoutMs: 100 })
})

Deno.test('a function whose name could lead elsewhere is not called', async () => {
  for (const functionName of ['../rest/v1/rpc/x', 'a/b', 'x?y', '', '@evil.example', '..']) {
    let wasCalled = false
    const functions = () => {
      wasCalled = true
      return new Response()
    }
    const run = () => ({ ran: true, run_id: 'r', kind: 'function', function_name: functionName })
    const answers = { due_schedules: () => [fn('f')], run_schedule: run, finish_schedule_run: () => null }
    await withCron(answers, async ({ call, callsOf }) => {
      assert.deepEqual((await ranIn(await call({}))).ran, [{ name: 'f', error: 'invalid_function_name' }])
      assert.equal(callsOf('finish_schedule_run')[0]?.args['error'], 'invalid_function_name')
    }, { functions })
    assert.equal(wasCalled, false, functionName)
  }
})

Deno.test('slow functions delay no SQL, and at most four things run at once', async () => {
  const { promise: released, resolve: release } = Promise.withResolvers<void>()
  const { promise: allBusy, resolve: busy } = Promise.withResolvers<void>()
  let underWay = 0
  let most = 0
  const functions = async () => {
    underWay += 1
    most = Math.max(most, underWay)
    if (underWay === 4) busy()
    await released
    underWay -= 1
    return Response.json({})
  }
  // The functions were due first.
  const due = () => [...['f1', 'f2', 'f3', 'f4', 'f5', 'f6'].map(fn), sql('partitions'), sql('retention')]
  const answers = { due_schedules: due, run_schedule: started, finish_schedule_run: () => null }
  await withCron(answers, async ({ call, callsOf }) => {
    const answer = call({})
    // The answer comes first only if too few ever run at once.
    await Promise.race([allBusy, answer])
    const names = callsOf('run_schedule').map(({ args }) => args['name'])
    assert.deepEqual(names.slice(0, 2), ['partitions', 'retention'])
    assert.equal(names.length, 6, 'two functions still wait for their turn')
    release()
    assert.equal((await ranIn(await answer)).ran.length, 8)
    assert.equal(most, 4)
  }, { functions })
})

Deno.test('two calls at once: each schedule runs in one of them', async () => {
  const running = new Set<unknown>()
  const run = (args: Record<string, unknown>) => {
    if (running.has(args['name'])) return { ran: false, reason: 'running' }
    running.add(args['name'])
    return started(args)
  }
  const due = () => [sql('partitions'), sql('retention')]
  await withCron({ due_schedules: due, run_schedule: run }, async ({ call }) => {
    const answers = await Promise.all([call({}), call({})].map(async (response) => ranIn(await response)))
    assert.deepEqual(answers.flatMap(({ ran }) => ran).map(({ name }) => name).sort(), [
      'partitions',
      'retention',
    ])
    assert.equal(answers.flatMap(({ skipped }) => skipped).length, 2)
  })
})

Deno.test('the end of a run is told again while the database is away, and not when it was refused', async () => {
  const cases: { errors: (RpcError | null)[]; tries: number; isLogged: boolean }[] = [
    { errors: [null], tries: 1, isLogged: false },
    {
      errors: [
        new RpcError(0, '', 'fetch failed', null),
        new RpcError(503, 'PGRST001', 'no connection', null),
        null,
      ],
      tries: 3,
      isLogged: false,
    },
    { errors: Array(4).fill(new RpcError(503, 'PGRST001', 'no connection', null)), tries: 4, isLogged: true },
    {
      errors: [new RpcError(400, 'BL302', 'The run has ended', 'run_not_found')],
      tries: 1,
      isLogged: true,
    },
  ]
  for (const { errors, tries, isLogged } of cases) {
    const remaining = [...errors]
    const { rpc, callsOf } = recordedRpc({
      run_schedule: started,
      finish_schedule_run: () => {
        const error = remaining.shift()
        if (error) throw error
      },
    })
    const { log, lines } = recordedLog()
    const pauses: number[] = []
    const run = createScheduleRunner({
      rpc,
      log,
      functions: {
        url: 'http://functions',
        secretKey: SECRET_KEY,
        fetch: () => Promise.resolve(Response.json({ ok: true })),
      },
      pause: (milliseconds) => {
        pauses.push(milliseconds)
        return Promise.resolve()
      },
    })
    const outcome = await run('f')
    assert.ok(outcome.ran && 'result' in outcome)
    assert.deepEqual(outcome.result, { ok: true })
    assert.equal(callsOf('finish_schedule_run').length, tries)
    assert.equal(pauses.length, tries - 1)
    assert.equal(lines.some((line) => line.includes('schedule end not recorded')), isLogged)
  }
})

Deno.test('when nobody can say what is due the caller hears that it failed', async () => {
  const away = () => {
    throw new RpcError(503, 'PGRST001', 'no connection', null)
  }
  await withCron({ due_schedules: away }, async ({ call, lines, kept }) => {
    const response = await call({})
    assert.equal(response.status, 500)
    assert.equal(await errorCode(response), 'internal_error')
    assert.match(lines[0] ?? '', /no connection/)
    // Kept alive or not, its failure is told once: in the answer.
    await Promise.all(kept)
  })
})

Deno.test('who does not wait is answered at once, and the work goes on', async () => {
  const { promise: released, resolve: release } = Promise.withResolvers<void>()
  const answers = { due_schedules: () => [fn('f')], run_schedule: started, finish_schedule_run: () => null }
  const functions = () => released.then(() => Response.json({ claimed: 1 }))
  await withCron(answers, async ({ call, callsOf, kept }) => {
    const response = await call({}, undefined, undefined, '?wait=false')
    assert.equal(response.status, 202)
    assert.deepEqual(await response.json(), { accepted: true })
    assert.deepEqual(callsOf('finish_schedule_run'), [])
    release()
    await Promise.all(kept)
    assert.deepEqual(callsOf('finish_schedule_run').map(({ args }) => args), [
      { run_id: 'run-of-f', result: { claimed: 1 }, error: null },
    ])
  }, { functions })
})

Deno.test('when nobody waits, what went wrong is in the log', async () => {
  const away = () => {
    throw new RpcError(503, 'PGRST001', 'no connection', null)
  }
  await withCron({ due_schedules: away }, async ({ call, lines, kept }) => {
    assert.equal((await call({}, undefined, undefined, '?wait=false')).status, 202)
    await Promise.all(kept)
    assert.ok(lines.some((line) => line.includes('schedules did not run') && line.includes('no connection')))
  })
})

Deno.test('a call for nothing leaves no line, however it was made', async () => {
  const running = () => ({ ran: false, reason: 'already_running', kind: 'sql' })
  await withCron(
    { due_schedules: () => [sql('slow')], run_schedule: running },
    async ({ call, lines, kept }) => {
      await ranIn(await call({}))
      assert.equal((await call({}, undefined, undefined, '?wait=false')).status, 202)
      await Promise.all(kept)
      assert.deepEqual(lines, [])
      // Somebody wanted this one.
      await ranIn(await call({ name: 'slow' }))
      assert.equal(lines.length, 1)
      assert.equal((await call({}, {})).status, 401)
      assert.equal(lines.length, 2)
    },
  )
  await withCron(
    { due_schedules: () => [sql('partitions')], run_schedule: started },
    async ({ call, lines, kept }) => {
      assert.equal((await call({}, undefined, undefined, '?wait=false')).status, 202)
      await Promise.all(kept)
      assert.deepEqual(lines.map((line) => JSON.parse(line).event), ['schedule'])
    },
  )
})
