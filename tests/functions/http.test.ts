import assert from 'node:assert/strict'
import { answering } from '../../functions/_shared/answer.ts'
import { HttpError, pathBelow, readBytes, requireJsonType } from '../../functions/_shared/http.ts'
import { maskPhoneNumbers } from '../../functions/_shared/log.ts'
import { errorCode, recordedLog } from './support.ts'

const post = (body: BodyInit | null, headers: HeadersInit = {}) =>
  new Request('http://localhost/x', { method: 'POST', body, headers })

Deno.test('a body at the limit is read, one byte more is refused', async () => {
  assert.equal((await readBytes(post('12345'), 5)).byteLength, 5)
  await assert.rejects(readBytes(post('123456'), 5), {
    status: 413,
    code: 'body_too_large',
  })
})

Deno.test('a body without announced length is read no further than the limit', async () => {
  let sent = 0
  let cancelled = false
  const endless = new ReadableStream<Uint8Array<ArrayBuffer>>({
    pull(controller) {
      sent += 1000
      controller.enqueue(new Uint8Array(1000))
    },
    cancel() {
      cancelled = true
    },
  })
  await assert.rejects(readBytes(post(endless), 10_000), { status: 413 })
  assert.ok(cancelled)
  assert.ok(sent < 20_000)
})

Deno.test('an announced length over the limit is refused without reading', async () => {
  const body = new ReadableStream({
    pull() {
      throw new Error('was read')
    },
  }, { highWaterMark: 0 })
  await assert.rejects(readBytes(post(body, { 'content-length': '11' }), 10), {
    status: 413,
  })
})

Deno.test('what says that it is not JSON is refused', () => {
  for (
    const type of [
      'application/json',
      'Application/JSON; charset=utf-8',
      'application/vnd.api+json',
    ]
  ) {
    requireJsonType(post('{}', { 'content-type': type }))
  }
  requireJsonType(new Request('http://localhost', { method: 'POST' }))
  for (
    const type of [
      'text/plain',
      'application/x-www-form-urlencoded',
      'application/jsonp',
    ]
  ) {
    assert.throws(() => requireJsonType(post('{}', { 'content-type': type })), {
      status: 415,
    }, type)
  }
})

Deno.test('the path below a function is the same on every host', () => {
  const below = (path: string) => pathBelow('health', new URL(`http://localhost${path}`))
  for (
    const path of ['/health/a/b', '/functions/v1/health/a/b', '/health//a/b/']
  ) {
    assert.deepEqual(below(path), ['a', 'b'], path)
  }
  assert.deepEqual(below('/health'), [])
})

Deno.test('phone numbers are masked, ids are not', () => {
  assert.equal(
    maskPhoneNumbers('Key (phone_number)=(+5511987650001) exists'),
    'Key (phone_number)=(+5511*******01) exists',
  )
  assert.equal(
    maskPhoneNumbers('553187650003@s.whatsapp.net'),
    '5531******03@s.whatsapp.net',
  )
  for (
    const text of [
      '0193f2b4-7c1e-7d60-9b1f-123456789012',
      'BL002',
      '2026-11-20T12:00:00Z',
    ]
  ) {
    assert.equal(maskPhoneNumbers(text), text)
  }
})

Deno.test('a failure of ours answers 500 without saying why; the log says it, masked', async () => {
  const { log, lines } = recordedLog()
  const handler = answering(() => {
    throw new TypeError('no route to 5511987650001')
  }, log)
  const response = await handler(
    new Request('http://localhost/x', {
      headers: { 'x-request-id': 'req-12345678' },
    }),
  )
  assert.equal(response.status, 500)
  assert.deepEqual(await response.json(), {
    error: {
      code: 'internal_error',
      message: 'Something went wrong on our side; try again',
    },
  })
  assert.equal(lines.length, 1)
  const line = JSON.parse(lines[0] ?? '')
  assert.equal(line.level, 'error')
  assert.equal(line.request_id, 'req-12345678')
  assert.equal(line.error, 'TypeError: no route to 5511*******01')
})

Deno.test('a body that the handler does not want is let go', async () => {
  let cancelled = false
  const body = new ReadableStream({
    cancel() {
      cancelled = true
    },
  })
  const response = await answering(() => {
    throw new HttpError(405, 'method_not_allowed', 'No')
  }, recordedLog().log)(post(body))
  assert.equal(response.status, 405)
  assert.ok(cancelled)
})

Deno.test('an expected refusal keeps its status, code and headers', async () => {
  const handler = answering(() => {
    throw new HttpError(405, 'method_not_allowed', 'No', { allow: 'GET' })
  }, recordedLog().log)
  const response = await handler(new Request('http://localhost/x'))
  assert.equal(response.status, 405)
  assert.equal(response.headers.get('allow'), 'GET')
  assert.match(response.headers.get('x-request-id') ?? '', /^[0-9a-f-]{36}$/)
  assert.equal(await errorCode(response), 'method_not_allowed')
})
