import assert from 'node:assert/strict'
import { createHandler } from '../../functions/health/handler.ts'
import { errorCode, recordedLog } from './support.ts'

const health = createHandler(recordedLog().log)

Deno.test('a living function says so', async () => {
  const response = await health(new Request('http://localhost/health'))
  assert.equal(response.status, 200)
  assert.deepEqual(await response.json(), { status: 'alive' })
})

Deno.test('HEAD answers without a body', async () => {
  const response = await health(
    new Request('http://localhost/health', { method: 'HEAD' }),
  )
  assert.equal(response.status, 200)
  assert.equal(await response.text(), '')
})

Deno.test('nothing can be sent to it', async () => {
  for (const method of ['POST', 'PUT', 'DELETE']) {
    const response = await health(
      new Request('http://localhost/health', { method }),
    )
    assert.equal(response.status, 405)
    assert.equal(response.headers.get('allow'), 'GET, HEAD')
    assert.equal(await errorCode(response), 'method_not_allowed')
  }
})
