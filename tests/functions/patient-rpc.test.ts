// Calls that are repeated, over a real Data API that is not well: what is worth another try, and what is not.
import assert from 'node:assert/strict'
import { createRpc, type Rpc, RpcError } from '../../functions/_shared/rpc.ts'
import { patientRpc } from '../../functions/queue-worker/patient-rpc.ts'

const postgrestError = (status: number, code: string, details: string | null = null) => () =>
  Response.json({ code, message: 'Because', details, hint: null }, { status })

/** Calls once through a Data API that answers so; how often it was asked, and what came of it. */
async function called(answer: (time: number) => Response) {
  let times = 0
  const pauses: number[] = []
  const server = Deno.serve(
    { port: 0, hostname: '127.0.0.1', onListen: () => {} },
    () => answer(times++),
  )
  try {
    const rpc = patientRpc(createRpc(`http://127.0.0.1:${server.addr.port}`, 'sb_secret_x'), {
      pauses: [10, 20],
      pause: (milliseconds) => (pauses.push(milliseconds), Promise.resolve()),
    })
    const result = await rpc('claim_jobs', {}).catch((error) => error)
    return { result, times, pauses }
  } finally {
    await server.shutdown()
  }
}

Deno.test('what the database could not do is asked again, as long as there is patience', async (test) => {
  const failures: [string, () => Response][] = [
    ['HTML of a gateway', () => new Response('<html>Bad Gateway</html>', { status: 502 })],
    ['JSON of a gateway', () => Response.json({ message: 'no upstream' }, { status: 503 })],
    ['no connection', postgrestError(503, 'PGRST001')],
    ['no schema cache', postgrestError(503, 'PGRST002')],
    ['no connection in time', postgrestError(504, 'PGRST003')],
    ['shutting down', postgrestError(503, '57P01')],
    ['too many connections', postgrestError(503, '53300')],
    ['a deadlock', postgrestError(500, '40P01')],
    ['a serialization failure', postgrestError(400, '40001')],
    ['a statement that took too long', postgrestError(500, '57014')],
    ['too many requests', () => new Response('slow down', { status: 429 })],
  ]
  for (const [name, failure] of failures) {
    await test.step(name, async () => {
      const recovered = await called((time) => time < 2 ? failure() : Response.json([{ id: 1 }]))
      assert.deepEqual([recovered.result, recovered.times, recovered.pauses], [[{ id: 1 }], 3, [10, 20]])
      const given = await called(failure)
      assert.ok(given.result instanceof RpcError)
      assert.equal(given.times, 3)
    })
  }
})

Deno.test('what it refuses is refused', async (test) => {
  const refusals: [string, () => Response][] = [
    ['a lost lease', postgrestError(400, 'BL301', '{"error":"lease_lost"}')],
    ['a wrong argument', postgrestError(400, '22023')],
    ['a missing function', postgrestError(404, 'PGRST202')],
    ['no right', postgrestError(403, '42501')],
    ['a wrong key', () => Response.json({ message: 'Invalid API key' }, { status: 401 })],
  ]
  for (const [name, refusal] of refusals) {
    await test.step(name, async () => {
      const { result, times, pauses } = await called(refusal)
      assert.ok(result instanceof RpcError)
      assert.deepEqual([times, pauses], [1, []])
    })
  }
})

Deno.test('nobody there is worth another try', async () => {
  const listener = Deno.listen({ port: 0, hostname: '127.0.0.1' })
  const url = `http://127.0.0.1:${listener.addr.port}`
  listener.close()
  const heard: unknown[] = []
  const rpc = patientRpc(createRpc(url, 'sb_secret_x'), {
    pauses: [1, 2],
    pause: () => Promise.resolve(),
    failed: (error) => heard.push(error),
  })
  await assert.rejects(rpc('claim_jobs', {}), (error) => error instanceof RpcError && error.status === 0)
  assert.equal(heard.length, 2)
})

Deno.test('what is no failure of the database is not repeated', async () => {
  let times = 0
  const rpc = patientRpc(() => {
    times += 1
    return Promise.reject(new TypeError('a bug'))
  }, { pauses: [1], pause: () => Promise.resolve() })
  await assert.rejects(rpc('x', {}), TypeError)
  assert.equal(times, 1)
})

Deno.test('whoever has had enough is not kept waiting, neither by a try nor by a pause', async () => {
  const failure = new RpcError(503, 'PGRST001', 'no connection', null)
  const enough = new AbortController()
  const { signal } = enough
  let times = 0
  const signals: unknown[] = []
  const away: Rpc = (_name, _args, options) => {
    times += 1
    signals.push(options?.signal)
    return Promise.reject(failure)
  }
  const endless = patientRpc(away, {
    pauses: [1, 1],
    pause: () => {
      enough.abort()
      return new Promise(() => undefined)
    },
  })
  await assert.rejects(endless('x', {}, { signal }), failure)
  assert.deepEqual([times, signals], [1, [signal]])
  await assert.rejects(endless('x', {}, { signal }), failure)
  assert.equal(times, 2)
})
