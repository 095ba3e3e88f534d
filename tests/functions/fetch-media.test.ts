// A fetch_media job over real HTTP: Meta's two steps, and a Storage that keeps what arrives whole.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { createGraph, requireMetaHost } from '../../functions/_shared/providers/meta/graph.ts'
import { RpcError } from '../../functions/_shared/rpc.ts'
import { fetchMedia } from '../../functions/queue-worker/fetch-media.ts'
import { fileTypeOf } from '../../functions/queue-worker/media-types.ts'
import type { Job, Outcome } from '../../functions/queue-worker/job.ts'
import { createStorage } from '../../functions/queue-worker/storage.ts'
import { type GraphCall, NOW, NUMBER_ID, TOKEN, withGraph } from './graph-server.ts'
import { type Call, CLINIC, recordedLog, recordedRpc, secretBox } from './support.ts'

const MESSAGE = '0193f2b4-0000-7000-8000-00000000a001'
const PREFIX = `${CLINIC}/2026/11/${MESSAGE}`
const MEDIA_ID = '1234567890123456'
const PHOTO = new Uint8Array(300_000).map((_byte, index) => index % 251)

const JOB: Job<{ message_id: string }> = {
  organization_id: CLINIC,
  id: '0193f2b4-0000-7000-8000-00000000f001',
  job_type: 'fetch_media',
  fencing_token: 3,
  attempts: 1,
  max_attempts: 8,
  created_at: '2026-11-20T13:00:00Z',
  payload: { message_id: MESSAGE },
}

function hashOf(bytes: Uint8Array, encoding: 'base64' | 'hex' = 'base64'): string {
  return createHash('sha256').update(bytes).digest(encoding)
}

interface Stored {
  bytes: Uint8Array
  contentType: string | null
  upsert: string | null
}

interface Told {
  outcome: Outcome | Error
  /** finish_media_fetch's own arguments. */
  finished: Record<string, unknown>[]
  calls: Call[]
  graphCalls: GraphCall[]
  files: Map<string, Stored>
  removed: unknown[]
  lines: string[]
}

interface Setup {
  message_type?: string
  media?: Record<string, unknown>
  /** What Meta knows of the id; `url` is where its server is. */
  found?: (url: string) => Response
  file?: (request: Request) => Response
  /** What Storage says instead of keeping the file. */
  refusal?: () => Response
  begun?: unknown
  /** What the database says to the end. */
  finish?: () => unknown
}

async function fetched({
  message_type = 'image',
  media = { mime_type: 'image/jpeg', sha256: hashOf(PHOTO) },
  found = (url) =>
    Response.json({
      messaging_product: 'whatsapp',
      url: `${url}/file?token=abc`,
      mime_type: 'image/jpeg',
      file_size: PHOTO.byteLength,
      id: MEDIA_ID,
    }),
  file = () => new Response(PHOTO),
  refusal,
  begun,
  finish = () => ({ action: 'done' }),
}: Setup = {}): Promise<Told> {
  const access_token = await (await secretBox()).seal(TOKEN, {
    organizationId: CLINIC,
    purpose: 'instance.access_token',
  })
  const order = {
    action: 'fetch',
    message_id: MESSAGE,
    message_type,
    media: { id: MEDIA_ID, ...media },
    path_prefix: PREFIX,
    instance: { id: MESSAGE, external_id: NUMBER_ID, provider: 'meta_cloud' },
    access_token,
  }
  const { rpc, calls, callsOf } = recordedRpc({
    begin_media_fetch: () => begun ?? order,
    finish_media_fetch: finish,
  })
  const { log, lines } = recordedLog()
  const files = new Map<string, Stored>()
  const removed: unknown[] = []
  const storage = Deno.serve({ port: 0, hostname: '127.0.0.1', onListen: () => {} }, async (request) => {
    const path = new URL(request.url).pathname.replace('/storage/v1/object/', '')
    if (request.method === 'DELETE') {
      removed.push([path, await request.json()])
      return Response.json([])
    }
    // Whole, or not at all.
    const bytes = await request.bytes().catch(() => null)
    if (bytes === null) return new Response('broken off', { status: 400 })
    if (refusal) return refusal()
    files.set(path, {
      bytes,
      contentType: request.headers.get('content-type'),
      upsert: request.headers.get('x-upsert'),
    })
    return Response.json({ Id: 'x', Key: path })
  })
  let url = ''
  let outcome: Outcome | Error | null = null
  const graphCalls: GraphCall[] = []
  try {
    await withGraph(
      (request) => new URL(request.url).pathname === '/file' ? file(request) : found(url),
      async (graph) => {
        url = graph.url
        const type = fetchMedia({
          rpc,
          secrets: await secretBox(),
          storage: createStorage({
            url: `http://127.0.0.1:${storage.addr.port}`,
            secretKey: 'sb_secret_platform',
          }),
          providers: new Map([[graph.meta.name, graph.meta]]),
          pause: () => Promise.resolve(),
        })
        const signal = AbortSignal.timeout(30_000)
        outcome = await type.handle(JOB, { signal, now: () => NOW, log }).catch((error) => error)
        graphCalls.push(...graph.calls)
      },
    )
  } finally {
    await storage.shutdown()
  }
  assert.ok(outcome !== null)
  const finished = callsOf('finish_media_fetch').map(({ args }) => args)
  return { outcome, finished, calls, graphCalls, files, removed, lines }
}

function refusalTold({ finished }: Told): unknown[] {
  assert.equal(finished.length, 1)
  const { result, reason } = Object(finished[0]?.['outcome'])
  return [result, reason]
}

Deno.test('a photo comes into Storage, under its message and with its type', async () => {
  const told = await fetched()
  assert.deepEqual(told.outcome, { kind: 'ended', result: 'stored' })
  assert.deepEqual([...told.files.keys()], [`media/${PREFIX}.jpg`])
  const photo = told.files.get(`media/${PREFIX}.jpg`)
  assert.deepEqual(photo?.bytes, PHOTO)
  assert.deepEqual([photo?.contentType, photo?.upsert], ['image/jpeg', 'true'])
  const { job, outcome, api_calls } = told.finished[0] ?? {}
  assert.deepEqual(job, { organization_id: CLINIC, id: JOB.id, fencing_token: 3 })
  assert.deepEqual(outcome, {
    result: 'stored',
    path: `${PREFIX}.jpg`,
    mime_type: 'image/jpeg',
    size: PHOTO.byteLength,
    sha256: hashOf(PHOTO),
  })
  assert.deepEqual(told.graphCalls.map(({ method, path, authorization }) => [method, path, authorization]), [
    ['GET', `/v24.0/${MEDIA_ID}`, `Bearer ${TOKEN}`],
    ['GET', '/file?token=abc', `Bearer ${TOKEN}`],
  ])
  assert.ok(Array.isArray(api_calls) && api_calls.length === 2)
  assert.deepEqual(api_calls.map(({ service, status_code, success }) => [service, status_code, success]), [
    ['meta_graph', 200, true],
    ['meta_graph', 200, true],
  ])
  assert.doesNotMatch(JSON.stringify(api_calls) + told.lines.join(), /EAAG|token=abc/)
})

Deno.test('what begin_media_fetch has ended itself is left alone', async () => {
  const told = await fetched({ begun: { action: 'done', reason: 'fetched_already' } })
  assert.deepEqual(told.outcome, { kind: 'ended', result: 'fetched_already' })
  assert.deepEqual([told.graphCalls, told.finished], [[], []])
})

Deno.test('a database that is away for a moment does not make us fetch the file again', async () => {
  let failures = 2
  const told = await fetched({
    finish: () => {
      if (failures-- > 0) throw new RpcError(503, 'PGRST001', 'no connection', null)
      return { action: 'done' }
    },
  })
  assert.deepEqual(told.outcome, { kind: 'ended', result: 'stored' })
  assert.deepEqual([told.finished.length, told.graphCalls.length], [3, 2])
})

Deno.test('a hash counts in base64, in hexadecimal, or not at all when it is none', async () => {
  for (
    const sha256 of [hashOf(PHOTO), hashOf(PHOTO, 'hex'), hashOf(PHOTO, 'hex').toUpperCase(), null, '', 'x']
  ) {
    const told = await fetched({ media: { mime_type: 'image/jpeg', sha256 } })
    assert.deepEqual(told.outcome, { kind: 'ended', result: 'stored' }, String(sha256))
  }
})

Deno.test('another file than the announced one is never there', async () => {
  const told = await fetched({ media: { mime_type: 'image/jpeg', sha256: hashOf(new Uint8Array(3)) } })
  assert.deepEqual(told.outcome, { kind: 'ended', as: 'failed', result: 'hash_mismatch' })
  assert.deepEqual(refusalTold(told), ['refused', 'hash_mismatch'])
  assert.equal(told.files.size, 0)
  // Nor what an earlier attempt may have left.
  assert.deepEqual(told.removed, [['media', { prefixes: [`${PREFIX}.jpg`] }]])
})

Deno.test('what is too large is not fetched, and not kept when it lied', async (test) => {
  const large = 500 * 1024 + 1
  const sticker = { message_type: 'sticker', media: { mime_type: 'image/webp' } }
  await test.step('announced', async () => {
    const told = await fetched({
      ...sticker,
      found: (url) => Response.json({ url: `${url}/file`, file_size: large, id: MEDIA_ID }),
    })
    assert.deepEqual(refusalTold(told), ['refused', 'too_large'])
    assert.equal(told.graphCalls.length, 1)
  })
  await test.step('not announced', async () => {
    const told = await fetched({
      ...sticker,
      found: (url) => Response.json({ url: `${url}/file`, id: MEDIA_ID }),
      file: () => new Response(new Uint8Array(large)),
    })
    assert.deepEqual(refusalTold(told), ['refused', 'too_large'])
    assert.equal(told.files.size, 0)
  })
  await test.step('without end', async () => {
    let cancelled = false
    const told = await fetched({
      ...sticker,
      found: (url) => Response.json({ url: `${url}/file`, id: MEDIA_ID }),
      file: () =>
        new Response(
          new ReadableStream({
            pull: (controller) => controller.enqueue(new Uint8Array(64 * 1024)),
            cancel: () => void (cancelled = true),
          }),
        ),
    })
    assert.deepEqual(refusalTold(told), ['refused', 'too_large'])
    assert.equal(cancelled, true)
  })
  await test.step('for Storage', async () => {
    const told = await fetched({
      refusal: () =>
        Response.json({ statusCode: '413', error: 'Payload too large', message: 'too large' }, {
          status: 400,
        }),
    })
    assert.deepEqual(refusalTold(told), ['refused', 'too_large'])
  })
  await test.step('just not', async () => {
    const told = await fetched({ ...sticker, file: () => new Response(new Uint8Array(large - 1)) })
    assert.deepEqual(told.outcome, { kind: 'ended', result: 'stored' })
  })
})

Deno.test('a type that Storage does not take is refused for good', async () => {
  const told = await fetched({
    refusal: () =>
      Response.json({ statusCode: '415', error: 'invalid_mime_type', message: 'not supported' }, {
        status: 400,
      }),
  })
  assert.deepEqual(refusalTold(told), ['refused', 'type_not_allowed'])
})

Deno.test('what Meta has forgotten is gone', async (test) => {
  const unknown = {
    error: {
      message: `Unsupported get request. Object with ID '${MEDIA_ID}' does not exist`,
      type: 'GraphMethodException',
      code: 100,
      error_subcode: 33,
    },
  }
  const cases: [string, Setup][] = [
    ['an unknown id', { found: () => Response.json(unknown, { status: 400 }) }],
    ['404 for the id', { found: () => Response.json({ error: { code: 131052 } }, { status: 404 }) }],
    [
      'an expired file',
      { found: () => Response.json({ error: { code: 100, message: 'Media has expired' } }, { status: 400 }) },
    ],
    [
      'an expired file, without a code',
      { found: () => Response.json({ error: { message: 'Media has expired' } }, { status: 400 }) },
    ],
    ['404 at its address', { file: () => new Response('no', { status: 404 }) }],
    ['410 at its address', { file: () => new Response('no', { status: 410 }) }],
  ]
  for (const [name, setup] of cases) {
    await test.step(name, async () => {
      const told = await fetched(setup)
      assert.deepEqual(refusalTold(told), ['refused', 'gone'])
      assert.deepEqual(told.outcome, { kind: 'ended', as: 'failed', result: 'gone' })
    })
  }
})

Deno.test('what may be better later is tried again, and nothing is told to be final', async (test) => {
  const refused = (code: number | undefined, status = 400, message = 'no', more = {}) => () =>
    Response.json({ error: { code, message, ...more } }, { status })
  const broken = () =>
    new ReadableStream({
      start(controller) {
        controller.enqueue(PHOTO.slice(0, 1000))
        setTimeout(() => controller.error(new Error('broken')), 5)
      },
    })
  const cases: [string, Setup, RegExp][] = [
    ['the token has expired', { found: refused(190, 401) }, /Meta refuses the file: 190/],
    [
      'the session has expired',
      {
        found: refused(190, 401, 'Error validating access token: Session has expired', {
          error_subcode: 463,
        }),
      },
      /190: .*expired/,
    ],
    ['it has expired, without a code', { found: refused(undefined, 401, 'Session has expired') }, /HTTP 401/],
    ['a permission is missing, with 404', { found: refused(200, 404) }, /200: no/],
    ['the account is blocked', { found: refused(131031, 404, 'Has expired') }, /131031/],
    ['Meta cannot tell just now', { found: refused(2, 404) }, /2: no/],
    [
      'the file, or a permission, is missing',
      {
        found: refused(100, 400, 'Object does not exist, cannot be loaded due to missing permissions', {
          error_subcode: 33,
        }),
      },
      /missing permissions/,
    ],
    ['another code of theirs says expired', { found: refused(131052, 400, 'It expired') }, /131052/],
    ['too many messages were reported', { found: refused(131048) }, /131048/],
    ['Meta is away', { found: () => new Response('<html>', { status: 502 }) }, /HTTP 502/],
    ['an answer without address', { found: () => Response.json({ id: MEDIA_ID }) }, /names no address/],
    ['a failure at its address', { file: () => new Response('no', { status: 500 }) }, /HTTP 500/],
    ['a broken download', { file: () => new Response(broken()) }, /Storage/],
    ['Storage is away', { refusal: () => new Response('no', { status: 503 }) }, /Storage/],
  ]
  for (const [name, setup, reason] of cases) {
    await test.step(name, async () => {
      const told = await fetched(setup)
      assert.ok(told.outcome instanceof Error)
      assert.match(told.outcome.message, reason)
      assert.doesNotMatch(told.outcome.message, /EAAG/)
      assert.deepEqual([told.finished, told.files.size], [[], 0])
    })
  }
  await test.step('Meta asks us to wait', async () => {
    const told = await fetched({ found: refused(80007) })
    assert.deepEqual(told.outcome, {
      kind: 'postponed',
      runAt: new Date(NOW.getTime() + 300_000),
      reason: '80007: no',
    })
  })
})

Deno.test('the token goes to Meta only: not to another host, not after a redirect', async () => {
  const thief: string[] = []
  const server = Deno.serve({ port: 0, hostname: '127.0.0.1', onListen: () => {} }, (request) => {
    thief.push(request.headers.get('authorization') ?? 'nothing')
    return new Response(PHOTO)
  })
  const elsewhere = `http://127.0.0.1:${server.addr.port}/file`
  try {
    const other = await fetched({ found: () => Response.json({ url: elsewhere, id: MEDIA_ID }) })
    assert.ok(other.outcome instanceof Error)
    assert.match(other.outcome.message, /which is not Meta's/)
    const redirected = await fetched({ file: () => Response.redirect(elsewhere, 302) })
    assert.ok(redirected.outcome instanceof Error)
    assert.match(redirected.outcome.message, /HTTP 302/)
    const looked = await fetched({ found: () => Response.redirect(elsewhere, 307) })
    assert.ok(looked.outcome instanceof Error)
    assert.deepEqual(thief, [])
  } finally {
    await server.shutdown()
  }
})

Deno.test("which hosts are Meta's", () => {
  const graph = 'https://graph.facebook.com'
  const good = [
    'https://lookaside.fbsbx.com/whatsapp_business/attachments/?mid=1',
    'https://scontent.xx.fbcdn.net/v/x',
    'https://mmg.whatsapp.net/d/f/x',
    'https://graph.facebook.com/v24.0/1',
  ]
  const bad = [
    'http://lookaside.fbsbx.com/x',
    'https://lookaside.fbsbx.com.evil.example/x',
    'https://evil-fbcdn.net/x',
    'https://fbcdn.net.evil.example/x',
    'https://evil.example/lookaside.fbsbx.com',
    'https://lookaside.fbsbx.com@evil.example/x',
    'https://user:pass@lookaside.fbsbx.com/x',
    'https://lookaside.fbsbx.com:8443/x',
    'https://127.0.0.1/x',
    'file:///etc/passwd',
    'data:text/plain,x',
    'not an address',
    '',
  ]
  for (const url of good) assert.doesNotThrow(() => requireMetaHost(url, graph), url)
  for (const url of bad) assert.throws(() => requireMetaHost(url, graph), url)
  // The operator's own Graph is trusted as it is, on its own port only.
  assert.doesNotThrow(() =>
    requireMetaHost('http://127.0.0.1:54321/graph/media/x', 'http://127.0.0.1:54321/graph')
  )
  assert.throws(() => requireMetaHost('http://127.0.0.1:54322/x', 'http://127.0.0.1:54321/graph'))
})

Deno.test('a download is refused before anybody is called', async () => {
  let called = false
  const graph = createGraph({
    url: 'https://graph.facebook.com',
    version: 'v24.0',
    fetch: () => {
      called = true
      return Promise.resolve(new Response())
    },
  })
  await assert.rejects(
    graph.download('https://evil.example/x', TOKEN, new AbortController().signal),
    /not Meta's/,
  )
  assert.equal(called, false)
})

Deno.test('a file keeps its type only if WhatsApp knows it for this kind of message', () => {
  const types: [string, string | null, string, string][] = [
    ['image', 'image/jpeg', 'image/jpeg', 'jpg'],
    ['audio', 'audio/ogg; codecs=opus', 'audio/ogg', 'ogg'],
    ['document', 'Application/PDF', 'application/pdf', 'pdf'],
    ['sticker', 'image/webp', 'image/webp', 'webp'],
    ['video', 'video/3gpp', 'video/3gpp', '3gp'],
    ['image', 'image/svg+xml', 'application/octet-stream', 'bin'],
    ['document', 'text/html', 'application/octet-stream', 'bin'],
    ['document', 'image/jpeg', 'application/octet-stream', 'bin'],
    ['image', 'application/pdf', 'application/octet-stream', 'bin'],
    ['image', null, 'application/octet-stream', 'bin'],
    ['image', 'constructor', 'application/octet-stream', 'bin'],
    ['poll', 'image/jpeg', 'application/octet-stream', 'bin'],
  ]
  for (const [messageType, given, mimeType, extension] of types) {
    assert.deepEqual(fileTypeOf(messageType, given), { mimeType, extension })
  }
})

Deno.test('a page that calls itself a photo is stored as something that no browser runs', async () => {
  const page = new TextEncoder().encode('<script>alert(1)</script>')
  const told = await fetched({
    message_type: 'document',
    media: { mime_type: 'text/html', sha256: hashOf(page), filename: 'exame.html' },
    file: () => new Response(page, { headers: { 'content-type': 'text/html' } }),
  })
  assert.deepEqual(told.outcome, { kind: 'ended', result: 'stored' })
  assert.equal(told.files.get(`media/${PREFIX}.bin`)?.contentType, 'application/octet-stream')
})
