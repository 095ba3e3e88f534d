// What a function tells the database of its caller.
import assert from 'node:assert/strict'
import { createOrigins } from '../../functions/_shared/origin.ts'

const KEY = '0123456789abcdef0123456789abcdef'
const request = (headers: Record<string, string>) =>
  new Request('http://localhost/manage-instance', { headers })

Deno.test("the caller's address, user agent and request id go on, with the key that is asked for once", async () => {
  const asked: string[] = []
  const originOf = createOrigins((name) => {
    asked.push(name)
    return Promise.resolve(KEY)
  })
  assert.deepEqual(
    await originOf(
      request({
        'x-forwarded-for': ' 203.0.113.7 , 10.0.0.1',
        'user-agent': 'App/1',
        'x-request-id': 'request-1',
      }),
    ),
    {
      'x-balcao-function-key': KEY,
      'x-balcao-request-id': 'request-1',
      'x-balcao-address': '203.0.113.7',
      'x-balcao-user-agent': 'App/1',
    },
  )
  const edge = await originOf(
    request({ 'cf-connecting-ip': '2001:db8::1', 'x-real-ip': '10.0.0.1', 'x-forwarded-for': '1.1.1.1' }),
  )
  assert.equal(edge['x-balcao-address'], '2001:db8::1')
  const unknown = await originOf(request({}))
  assert.equal('x-balcao-address' in unknown, false)
  assert.match(unknown['x-balcao-request-id'] ?? '', /^[0-9a-f-]{36}$/)
  assert.deepEqual(asked, ['get_function_key'])
})

Deno.test('a caller cannot say the key himself, nor whence he comes', async () => {
  const originOf = createOrigins(() => Promise.resolve(KEY))
  const headers = await originOf(request({ 'x-balcao-function-key': 'mine', 'x-balcao-address': '1.1.1.1' }))
  assert.equal(headers['x-balcao-function-key'], KEY)
  assert.equal('x-balcao-address' in headers, false)
})

Deno.test('without the key nothing is told, and the next request asks again', async () => {
  const answers: (() => Promise<unknown>)[] = [
    () => Promise.reject(new Error('away')),
    () => Promise.resolve(null),
    () => Promise.resolve(KEY),
  ]
  const originOf = createOrigins(() => answers.shift()?.() ?? Promise.reject(new Error('asked too often')))
  assert.deepEqual(await originOf(request({})), {})
  assert.deepEqual(await originOf(request({})), {})
  assert.equal((await originOf(request({})))['x-balcao-function-key'], KEY)
  assert.equal((await originOf(request({})))['x-balcao-function-key'], KEY)
})
