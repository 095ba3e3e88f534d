// Calls through the Data API, as far as time is concerned.
import assert from 'node:assert/strict'
import { createRpc, RpcError } from '../../functions/_shared/rpc.ts'

Deno.test('a Data API that hangs is given up when the time for it is over, and not before', async () => {
  const { promise: released, resolve: release } = Promise.withResolvers<void>()
  const server = Deno.serve({ port: 0, hostname: '127.0.0.1', onListen: () => {} }, async ({ url }) => {
    if (url.endsWith('hangs')) await released
    return Response.json({ answered: true })
  })
  const url = `http://127.0.0.1:${server.addr.port}`
  try {
    await assert.rejects(
      createRpc(url, 'sb_secret_x', { timeoutMs: 50 })('hangs', {}),
      (error) => error instanceof RpcError && error.status === 0,
    )
    assert.deepEqual(await createRpc(url, 'sb_secret_x')('answers', {}), { answered: true })

    // Or as soon as the caller has had enough.
    const rpc = createRpc(url, 'sb_secret_x')
    const noLonger = (error: unknown) => error instanceof RpcError && error.status === 0
    await assert.rejects(rpc('hangs', {}, { signal: AbortSignal.timeout(50) }), noLonger)
    await assert.rejects(rpc('answers', {}, { signal: AbortSignal.abort() }), noLonger)
    assert.deepEqual(await rpc('answers', {}, { signal: AbortSignal.timeout(30_000) }), { answered: true })
  } finally {
    release()
    await server.shutdown()
  }
})
