// Sending through the Cloud API, over real HTTP: what Meta is asked for each kind of message, and what is made of each
// of its answers, and of none.
import assert from 'node:assert/strict'
import type { OutboundMessage, SendOutcome } from '../../functions/_shared/providers/outbound-message.ts'
import { createGraph } from '../../functions/_shared/providers/meta/graph.ts'
import { send } from '../../functions/_shared/providers/meta/send.ts'
import {
  graphFixture,
  hangUp,
  metaAt,
  NOW,
  NUMBER_ID,
  TOKEN,
  withGraph,
  withRawServer,
} from './graph-server.ts'

const ID = '0193f2b4-0000-7000-8000-00000000a001'
const credentials = { externalId: NUMBER_ID, accessToken: TOKEN }
const never = new AbortController().signal

function message(changes: Partial<OutboundMessage> = {}): OutboundMessage {
  return {
    id: ID,
    message_type: 'text',
    content: 'Oi, Maria',
    payload: null,
    reply_to_whatsapp_message_id: null,
    recipient: { kind: 'wa_id', value: '553187650003' },
    attempt: 1,
    ...changes,
  }
}

function withoutCall({ api_call: _call, ...result }: SendOutcome) {
  return result
}

const accepted = () => Response.json(graphFixture('send-ok'))

Deno.test('a text is one call with our id, and gives the id that Meta gave it', async () => {
  await withGraph(accepted, async ({ meta, calls }) => {
    const outcome = await meta.send(message(), credentials, never)
    assert.deepEqual(calls, [{
      method: 'POST',
      path: `/v24.0/${NUMBER_ID}/messages`,
      authorization: `Bearer ${TOKEN}`,
      body: {
        messaging_product: 'whatsapp',
        recipient_type: 'individual',
        to: '+553187650003',
        type: 'text',
        text: { body: 'Oi, Maria' },
        biz_opaque_callback_data: `outbox:${ID}`,
      },
    }])
    assert.deepEqual(withoutCall(outcome), {
      result: 'accepted',
      whatsapp_message_id: 'wamid.HBgMNTUzMTg3NjUwMDAzFQIAERgSODJGM0U5QzY5NURDNkI4RDFCAA==',
      identities: [{ kind: 'wa_id', value: '553187650003' }],
    })
    const { api_call } = outcome
    assert.deepEqual(
      [api_call?.service, api_call?.endpoint, api_call?.method, api_call?.status_code, api_call?.success],
      ['meta_graph', `/v24.0/${NUMBER_ID}/messages`, 'POST', 200, true],
    )
    assert.doesNotMatch(JSON.stringify(api_call), /Maria|553187650003|EAAG/)
  })
})

Deno.test('each kind of message is written as Meta documents it', async (test) => {
  const link = 'https://exemplo.supabase.co/storage/v1/object/sign/media/x?token=y'
  const contacts = [{ name: { formatted_name: 'Dra. Ana' }, phones: [{ phone: '+5511987650009' }] }]
  const kinds: [string, Partial<OutboundMessage>, Record<string, unknown>][] = [
    ['text with a preview', { payload: { preview_url: true } }, {
      text: { body: 'Oi, Maria', preview_url: true },
    }],
    [
      'text as an answer',
      { reply_to_whatsapp_message_id: 'wamid.A' },
      { text: { body: 'Oi, Maria' }, context: { message_id: 'wamid.A' } },
    ],
    [
      'buttons',
      {
        message_type: 'interactive',
        content: 'Pode ser?',
        payload: {
          type: 'button',
          header: 'Consulta',
          footer: 'Clínica',
          buttons: [{ id: 's', title: 'Sim' }],
        },
      },
      {
        interactive: {
          type: 'button',
          header: { type: 'text', text: 'Consulta' },
          body: { text: 'Pode ser?' },
          footer: { text: 'Clínica' },
          action: { buttons: [{ type: 'reply', reply: { id: 's', title: 'Sim' } }] },
        },
      },
    ],
    [
      'a list',
      {
        message_type: 'interactive',
        content: 'Qual horário?',
        payload: {
          type: 'list',
          header: null,
          button: 'Ver',
          sections: [{
            title: 'Manhã',
            rows: [{ id: '9', title: '9h', description: 'Dra. Ana' }, { id: '10', title: '10h' }],
          }],
        },
      },
      {
        interactive: {
          type: 'list',
          body: { text: 'Qual horário?' },
          action: {
            button: 'Ver',
            sections: [{
              title: 'Manhã',
              rows: [{ id: '9', title: '9h', description: 'Dra. Ana' }, { id: '10', title: '10h' }],
            }],
          },
        },
      },
    ],
    [
      'a template',
      {
        message_type: 'template',
        content: null,
        payload: {
          name: 'lembrete_consulta',
          language: 'pt_BR',
          components: [{ type: 'body', parameters: [{ type: 'text', text: 'Maria' }] }],
        },
      },
      {
        template: {
          name: 'lembrete_consulta',
          language: { code: 'pt_BR' },
          components: [{ type: 'body', parameters: [{ type: 'text', text: 'Maria' }] }],
        },
      },
    ],
    [
      'a template without parameters',
      { message_type: 'template', content: null, payload: { name: 'oi', language: 'pt_BR' } },
      { template: { name: 'oi', language: { code: 'pt_BR' } } },
    ],
    ['an image', { message_type: 'image', payload: { link } }, { image: { link, caption: 'Oi, Maria' } }],
    ['a video', { message_type: 'video', content: null, payload: { link } }, { video: { link } }],
    ['audio has no caption', { message_type: 'audio', payload: { link } }, { audio: { link } }],
    ['a sticker has no caption', { message_type: 'sticker', payload: { link } }, { sticker: { link } }],
    [
      'a document',
      { message_type: 'document', payload: { link, filename: 'exame.pdf' } },
      { document: { link, filename: 'exame.pdf', caption: 'Oi, Maria' } },
    ],
    [
      'a place',
      {
        message_type: 'location',
        payload: { latitude: -23.5, longitude: -46.6, name: 'Clínica', address: null },
      },
      { location: { latitude: -23.5, longitude: -46.6, name: 'Clínica' } },
    ],
    ['contacts', { message_type: 'contacts', payload: { contacts } }, { contacts }],
    [
      'a reaction names its message itself',
      {
        message_type: 'reaction',
        payload: { message_id: 'wamid.A', emoji: '👍' },
        reply_to_whatsapp_message_id: 'wamid.A',
      },
      { reaction: { message_id: 'wamid.A', emoji: '👍' } },
    ],
    [
      'a reaction taken back',
      { message_type: 'reaction', payload: { message_id: 'wamid.A', emoji: '' } },
      { reaction: { message_id: 'wamid.A', emoji: '' } },
    ],
  ]
  await withGraph(accepted, async ({ meta, calls }) => {
    for (const [name, changes, expected] of kinds) {
      await test.step(name, async () => {
        assert.equal((await meta.send(message(changes), credentials, never)).result, 'accepted')
        assert.deepEqual(calls.at(-1)?.body, {
          messaging_product: 'whatsapp',
          recipient_type: 'individual',
          to: '+553187650003',
          type: changes.message_type ?? 'text',
          biz_opaque_callback_data: `outbox:${ID}`,
          ...expected,
        })
      })
    }
  })
})

Deno.test('a person is addressed by the id that we have', async () => {
  const answered = () => Response.json(graphFixture('send-bsuid-ok'))
  const bsuid = 'BR.8841205577310094'
  await withGraph(answered, async ({ meta, calls }) => {
    const addresses: [OutboundMessage['recipient'], Record<string, string>][] = [
      [{ kind: 'bsuid', value: bsuid }, { recipient: bsuid }],
      [{ kind: 'wa_id', value: bsuid }, { recipient: bsuid }],
      [{ kind: 'wa_id', value: '5511987650001' }, { to: '+5511987650001' }],
      [{ kind: 'phone', value: '+5511987650001' }, { to: '+5511987650001' }],
      [{ kind: 'jid', value: '5511987650001:3@s.whatsapp.net' }, { to: '+5511987650001' }],
    ]
    for (const [recipient, expected] of addresses) {
      const outcome = await meta.send(message({ recipient }), credentials, never)
      assert.equal(outcome.result, 'accepted')
      if (outcome.result !== 'accepted') continue
      assert.deepEqual(outcome.identities, [{ kind: 'bsuid', value: bsuid }])
      const { to, recipient: addressed } = Object(calls.at(-1)?.body)
      assert.deepEqual(JSON.parse(JSON.stringify({ to, recipient: addressed })), expected)
    }
  })
})

Deno.test('what cannot be sent at all fails without a call', async () => {
  const impossible: [Partial<OutboundMessage>, string, RegExp][] = [
    [{ message_type: 'button' }, 'unsupported_message_type', /button/],
    [{ message_type: '__proto__' }, 'unsupported_message_type', /proto/],
    [{ recipient: { kind: 'lid', value: '123456789012@lid' } }, 'recipient_not_supported', /lid/],
    [{ recipient: { kind: 'wa_id', value: 'Maria' } }, 'recipient_not_supported', /wa_id/],
    [{ content: null }, 'invalid_payload', /^content/],
    [{ message_type: 'image', payload: null }, 'invalid_payload', /^payload/],
    [{ message_type: 'image', payload: { path: 'media/x' } }, 'invalid_payload', /^link/],
    [{ message_type: 'image', payload: { link: 'file:///etc/passwd' } }, 'invalid_payload', /^link/],
    [
      { message_type: 'interactive', payload: { type: 'button', buttons: [] } },
      'invalid_payload',
      /^buttons/,
    ],
    [{ message_type: 'interactive', payload: { type: 'flow' } }, 'invalid_payload', /^type/],
    [{ message_type: 'template', payload: { name: 'x' } }, 'invalid_payload', /^language/],
    [{ message_type: 'reaction', payload: { emoji: 'x' } }, 'invalid_payload', /^message_id/],
  ]
  await withGraph(accepted, async ({ meta, calls }) => {
    for (const [changes, code, problem] of impossible) {
      const outcome = await meta.send(message(changes), credentials, never)
      assert.equal(outcome.result, 'failed')
      if (outcome.result !== 'failed') continue
      assert.equal(outcome.code, code)
      assert.match(outcome.message, problem)
      assert.equal(outcome.api_call, null)
    }
    assert.deepEqual(calls, [])
  })
})

// The rows of Meta's table of errors, and what becomes of a text at its first try.

const failed = { result: 'failed' }
const stopped = { result: 'stopped', banned: false }
const banned = { result: 'stopped', banned: true }
const backoff = { result: 'retry', retry_at: null, pause_number_until: null, counts: true }
const after = (seconds: number) => new Date(NOW.getTime() + seconds * 1000).toISOString()
const paused = (seconds: number, counts: boolean) => ({
  result: 'retry',
  retry_at: after(seconds),
  pause_number_until: after(seconds),
  counts,
})

const TABLE: [codes: number[], status: number, expected: Record<string, unknown>][] = [
  [[0, 190], 401, stopped],
  [[3, 131005], 403, stopped],
  [[10, 200, 210, 299], 403, stopped],
  [[4, 80007], 400, paused(300, false)],
  [[130429], 400, paused(5, false)],
  [[131056], 400, { ...backoff, retry_at: after(1) }],
  [[131048], 400, failed],
  [[131047, 131026, 131049, 131050, 131051, 130472, 131030, 131062], 400, failed],
  [[131052, 131053], 400, backoff],
  [[131042], 400, stopped],
  [[132000, 132005, 132007, 132012, 132015, 132016], 400, failed],
  [[132001], 404, failed],
  [[100, 131008, 131009, 33], 400, failed],
  [[1, 131000, 131016, 131057], 500, backoff],
  [[2, 133004], 503, backoff],
  [[131045], 500, stopped],
  [[133010], 400, stopped],
  [[368, 131031], 403, banned],
  [[130497], 403, failed],
  // What we have not heard of yet.
  [[139999], 400, failed],
  [[139999], 500, backoff],
  [[139999], 429, paused(300, false)],
  // The code decides, whatever the status.
  [[130429], 429, paused(5, false)],
  [[131047], 500, failed],
  [[2], 400, backoff],
]

function refusal(code: number | string, more: Record<string, unknown> = {}) {
  return {
    error: { message: `(#${code}) Something`, type: 'OAuthException', code, fbtrace_id: 'AbC', ...more },
  }
}

Deno.test('every documented error has its consequence', async (test) => {
  const next: { answer: Response | null } = { answer: null }
  await withGraph(() => next.answer ?? accepted(), async ({ meta }) => {
    for (const [codes, status, expected] of TABLE) {
      for (const code of codes) {
        await test.step(`${code}, HTTP ${status}`, async () => {
          next.answer = Response.json(refusal(code), { status })
          const outcome = await meta.send(message(), credentials, never)
          assert.deepEqual(withoutCall(outcome), {
            ...expected,
            code: String(code),
            message: `(#${code}) Something`,
          })
          assert.deepEqual([outcome.api_call?.status_code, outcome.api_call?.success], [status, false])
        })
      }
    }
  })
})

Deno.test("Meta's own samples of errors", async (test) => {
  const samples: [string, number, Record<string, unknown>][] = [
    ['error-100-invalid-param', 400, { ...failed, code: '100', message: 'Parameter value is not valid' }],
    [
      'error-130429-throughput',
      400,
      { ...paused(5, false), code: '130429', message: 'Cloud API message throughput has been reached.' },
    ],
    [
      'error-131047-window',
      400,
      {
        ...failed,
        code: '131047',
        message:
          'Message failed to send because more than 24 hours have passed since the customer last replied to this number.',
      },
    ],
    [
      'error-131056-pair-rate',
      400,
      {
        ...backoff,
        retry_at: after(1),
        code: '131056',
        message:
          'Message failed to send because there were too many messages sent from this phone number to the same phone number in a short period of time.',
      },
    ],
    [
      'error-132001-template',
      404,
      { ...failed, code: '132001', message: 'template name (lembrete_consulta) does not exist in pt_BR' },
    ],
    [
      'error-190-token',
      401,
      { ...stopped, code: '190', message: 'Error validating access token: Session has expired' },
    ],
    ['error-2-temporary', 503, { ...backoff, code: '2', message: 'Service temporarily unavailable' }],
  ]
  for (const [name, status, expected] of samples) {
    await test.step(name, async () => {
      await withGraph(() => Response.json(graphFixture(name), { status }), async ({ meta }) => {
        assert.deepEqual(withoutCall(await meta.send(message(), credentials, never)), expected)
      })
    })
  }
})

Deno.test('too many messages to one person: after 4^X seconds', async () => {
  await withGraph(() => Response.json(refusal(131056), { status: 400 }), async ({ meta }) => {
    const waits: (string | null)[] = []
    for (let attempt = 1; attempt <= 8; attempt++) {
      const outcome = await meta.send(message({ attempt }), credentials, never)
      waits.push(outcome.result === 'retry' ? outcome.retry_at : null)
    }
    assert.deepEqual(waits, [1, 4, 16, 64, 256, 1024, 4096, 4096].map(after))
  })
})

Deno.test('a file that Meta could not take is tried once more', async () => {
  await withGraph(() => Response.json(refusal(131053), { status: 400 }), async ({ meta }) => {
    assert.equal((await meta.send(message({ attempt: 1 }), credentials, never)).result, 'retry')
    assert.equal((await meta.send(message({ attempt: 2 }), credentials, never)).result, 'failed')
  })
})

Deno.test('under a spam limit a template waits, and no answer waits with it', async () => {
  await withGraph(() => Response.json(refusal(131048), { status: 400 }), async ({ meta }) => {
    const template = message({ message_type: 'template', payload: { name: 'oi', language: 'pt_BR' } })
    const outcome = await meta.send(template, credentials, never)
    assert.deepEqual(withoutCall(outcome), {
      ...backoff,
      retry_at: after(3600),
      code: '131048',
      message: '(#131048) Something',
    })
  })
})

Deno.test('whoever says how long to wait is obeyed, up to a day', async (test) => {
  const waits: [string, number, string, number][] = [
    ['seconds', 4, '600', 600],
    ['fewer seconds than we wait anyway', 4, '10', 300],
    ['a date', 130429, new Date(NOW.getTime() + 60_000).toUTCString(), 60],
    ['a date that has passed', 130429, new Date(0).toUTCString(), 5],
    ['longer than a day', 4, '99999999', 86_400],
    ['nonsense', 4, 'soon', 300],
    ['for a temporary failure', 2, '30', 30],
  ]
  for (const [name, code, header, seconds] of waits) {
    await test.step(name, async () => {
      const answer = () => Response.json(refusal(code), { status: 429, headers: { 'retry-after': header } })
      await withGraph(answer, async ({ meta }) => {
        const outcome = await meta.send(message(), credentials, never)
        assert.equal(outcome.result === 'retry' && outcome.retry_at, after(seconds))
      })
    })
  }
})

Deno.test('an error whose code is no number is none that we know', async () => {
  for (const code of [null, '', 'abc', true, [], {}, 1.5]) {
    await withGraph(
      () => Response.json({ error: { code, message: 'no' } }, { status: 400 }),
      async ({ meta }) => {
        const outcome = await meta.send(message(), credentials, never)
        assert.deepEqual(withoutCall(outcome), { ...failed, code: 'http_400', message: 'no' })
      },
    )
  }
  await withGraph(() => Response.json(refusal('190'), { status: 400 }), async ({ meta }) => {
    assert.equal((await meta.send(message(), credentials, never)).result, 'stopped')
  })
})

Deno.test('a temporary error that nobody documented is tried again', async () => {
  await withGraph(
    () => Response.json(refusal(139998, { is_transient: true }), { status: 400 }),
    async ({ meta }) => {
      assert.equal((await meta.send(message(), credentials, never)).result, 'retry')
    },
  )
})

Deno.test('an answer that says nothing of the message leaves open whether it was sent', async (test) => {
  const html = (status: number) =>
    new Response('<html>Bad Gateway</html>', { status, headers: { 'content-type': 'text/html' } })
  const answers: [string, () => Response][] = [
    ['HTML 502', () => html(502)],
    ['HTML 503', () => html(503)],
    ['HTML 504', () => html(504)],
    ['HTML 200', () => html(200)],
    ['an empty 200', () => new Response(null, { status: 200 })],
    ['JSON without a message', () => Response.json({ messaging_product: 'whatsapp' })],
    ['a list', () => Response.json([])],
    ['an accepted message without id', () => Response.json({ messages: [{}] })],
    ['JSON of something in between', () => Response.json({ fault: 'timeout' }, { status: 504 })],
    ['a redirect', () => new Response(null, { status: 302, headers: { location: 'https://example.com/' } })],
  ]
  for (const [name, answer] of answers) {
    await test.step(name, async () => {
      await withGraph(answer, async ({ meta, calls }) => {
        const outcome = await meta.send(message(), credentials, never)
        assert.equal(outcome.result, 'unknown')
        assert.equal(outcome.api_call?.success, false)
        assert.equal(calls.length, 1)
      })
    })
  }
})

Deno.test('too many requests, whoever says so and however, was not sent', async () => {
  for (
    const answer of [
      () => new Response('slow down', { status: 429 }),
      () => Response.json({}, { status: 429 }),
    ]
  ) {
    await withGraph(answer, async ({ meta }) => {
      const outcome = await meta.send(message(), credentials, never)
      assert.deepEqual([outcome.result, 'code' in outcome && outcome.code], ['retry', 'http_429'])
    })
  }
})

Deno.test('a connection that was never made has sent nothing', async (test) => {
  const closed = Deno.listen({ port: 0, hostname: '127.0.0.1' })
  const refusing = `http://127.0.0.1:${closed.addr.port}`
  closed.close()
  await test.step('refused', async () => {
    const outcome = await (await metaAt(refusing)).send(message(), credentials, never)
    assert.deepEqual([outcome.result, 'code' in outcome && outcome.code], ['retry', 'not_connected'])
    assert.deepEqual([outcome.api_call?.status_code, outcome.api_call?.success], [null, false])
    assert.match('message' in outcome ? outcome.message : '', /^fetch failed: client error \(Connect\)/)
    assert.doesNotMatch(JSON.stringify(outcome), /127\.0\.0\.1/)
  })
  await test.step('no TLS', async () => {
    await withRawServer((connection) => hangUp(connection), async (url) => {
      const outcome = await (await metaAt(url.replace('http:', 'https:'))).send(message(), credentials, never)
      assert.equal(outcome.result, 'retry')
    })
  })
  await test.step('given up before it began', async () => {
    await withGraph(accepted, async ({ meta, calls }) => {
      const outcome = await meta.send(message(), credentials, AbortSignal.abort(new Error('the run is over')))
      assert.deepEqual([outcome.result, 'message' in outcome && outcome.message], [
        'retry',
        'the run is over',
      ])
      assert.deepEqual(calls, [])
    })
  })
})

Deno.test('a connection that broke, or a call that took too long, leaves it open', async (test) => {
  const head = 'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{"messages":'
  for (const [name, said] of [['before the answer', ''], ['in the middle of it', head]] as const) {
    await test.step(name, async () => {
      await withRawServer((connection) => hangUp(connection, said), async (url) => {
        const outcome = await (await metaAt(url)).send(message(), credentials, never)
        assert.equal(outcome.result, 'unknown')
        assert.equal(outcome.api_call?.status_code, null)
      })
    })
  }
  await test.step('no answer in time', async () => {
    const { promise: released, resolve: release } = Promise.withResolvers<void>()
    await withGraph(async () => (await released, accepted()), async ({ url, calls }) => {
      const graph = createGraph({ url, version: 'v24.0' })
      const outcome = await send(graph, message(), credentials, never, () => NOW, 100)
      assert.equal(outcome.result, 'unknown')
      assert.equal(calls.length, 1)
      release()
    })
  })
  await test.step('given up on the way', async () => {
    const { promise: released, resolve: release } = Promise.withResolvers<void>()
    const { promise: arrived, resolve: arrive } = Promise.withResolvers<void>()
    await withGraph(async () => (arrive(), await released, accepted()), async ({ meta }) => {
      const controller = new AbortController()
      const sending = meta.send(message(), credentials, controller.signal)
      await arrived
      controller.abort(new Error('lease lost'))
      assert.equal((await sending).result, 'unknown')
      release()
    })
  })
})

Deno.test('a kept connection that breaks under a message does not make it go out twice', async () => {
  const received: string[] = []
  const answer = JSON.stringify(graphFixture('send-ok'))
  const head = `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ${answer.length}\r\n\r\n`
  const accept = async (connection: Deno.TcpConn) => {
    const buffer = new Uint8Array(64 * 1024)
    let text = ''
    for (;;) {
      const length = await connection.read(buffer).catch(() => null)
      if (length === null) return
      text += new TextDecoder().decode(buffer.subarray(0, length))
      // The end of a body, in pieces or not.
      if (!/"\}(\r\n0\r\n\r\n)?$/.test(text)) continue
      received.push(text)
      text = ''
      // The first of the connection is answered; Meta takes the second, and then the line is dead.
      if (received.length === 2) return connection.close()
      await connection.write(new TextEncoder().encode(head + answer))
    }
  }
  const open: Promise<void>[] = []
  await withRawServer((connection) => (open.push(accept(connection)), Promise.resolve()), async (url) => {
    const meta = await metaAt(url)
    assert.equal((await meta.send(message(), credentials, never)).result, 'accepted')
    assert.equal((await meta.send(message(), credentials, never)).result, 'unknown')
    assert.equal(received.length, 2)
    assert.equal(open.length, 1)
  })
  await Promise.all(open)
})

Deno.test('what Meta complains about never brings the token or the text back', async () => {
  const error = refusal(190, {
    message: `Malformed access token ${TOKEN}`,
    error_data: { details: `${TOKEN}: bad` },
  })
  await withGraph(() => Response.json(error, { status: 401 }), async ({ meta }) => {
    const outcome = await meta.send(message(), credentials, never)
    assert.equal(outcome.result, 'stopped')
    assert.doesNotMatch(JSON.stringify(outcome), /EAAG|Maria/)
  })
})
