// A send_message job from begin_send to finish_send, against a Graph API and a Storage on the loopback.
import assert from 'node:assert/strict'
import { RpcError } from '../../functions/_shared/rpc.ts'
import type { Job, Outcome } from '../../functions/queue-worker/job.ts'
import { sendMessage } from '../../functions/queue-worker/send-message.ts'
import { createStorage } from '../../functions/queue-worker/storage.ts'
import {
  type GraphAnswer,
  type GraphCall,
  graphFixture,
  NOW,
  NUMBER_ID,
  TOKEN,
  withGraph,
} from './graph-server.ts'
import { type Call, CLINIC, recordedLog, recordedRpc, secretBox } from './support.ts'

const MESSAGE = '0193f2b4-0000-7000-8000-00000000a001'
const INSTANCE = '0193f2b4-0000-7000-8000-000000000001'
const SECRET_KEY = 'sb_secret_platform'
const WAMID = 'wamid.HBgMNTUzMTg3NjUwMDAzFQIAERgSODJGM0U5QzY5NURDNkI4RDFCAA=='
// Its first half is the customer's number.
const SHORT_WAMID = '…NkI4RDFCAA=='

const JOB: Job<{ message_id: string }> = {
  organization_id: CLINIC,
  id: '0193f2b4-0000-7000-8000-00000000f001',
  job_type: 'send_message',
  fencing_token: 3,
  attempts: 1,
  max_attempts: 8,
  created_at: '2026-11-20T13:00:00Z',
  payload: { message_id: MESSAGE },
}
const CLAIM = { organization_id: CLINIC, id: JOB.id, fencing_token: 3 }

async function order(changes: Record<string, unknown> = {}, message: Record<string, unknown> = {}) {
  const access_token = await (await secretBox()).seal(TOKEN, {
    organizationId: CLINIC,
    purpose: 'instance.access_token',
  })
  return {
    action: 'send',
    attempt: 1,
    message: {
      id: MESSAGE,
      message_type: 'text',
      content: 'Oi, Maria',
      payload: null,
      reply_to_whatsapp_message_id: null,
      ...message,
    },
    recipient: { kind: 'wa_id', value: '553187650003' },
    instance: { id: INSTANCE, external_id: NUMBER_ID, provider: 'meta_cloud' },
    access_token,
    ...changes,
  }
}

const accepted = () => Response.json(graphFixture('send-ok'))

interface Told {
  outcome: Outcome | Error
  graphCalls: GraphCall[]
  storageCalls: string[]
  calls: Call[]
  finished: Record<string, unknown>[]
  lines: string[]
  pauses: number[]
}

/** Runs the job once, and tells all that happened. */
async function sent(
  begun: unknown,
  {
    graph = accepted,
    finish = () => ({ action: 'done', reason: 'accepted' }),
    signedUrl = (path) => Response.json({ signedURL: `/object/sign/${path}?token=abc` }),
    clock = [NOW],
    beginMs = 0,
    signal = new AbortController().signal,
  }: {
    graph?: GraphAnswer
    finish?: () => unknown
    signedUrl?: (path: string) => Response
    clock?: Date[]
    /** How long begin_send takes. */
    beginMs?: number
    signal?: AbortSignal
  } = {},
): Promise<Told> {
  let last = NOW
  const { rpc, calls, callsOf } = recordedRpc({
    begin_send: () => {
      last = new Date(last.getTime() + beginMs)
      return begun
    },
    finish_send: () => finish(),
  })
  const { log, lines } = recordedLog()
  const storageCalls: string[] = []
  const pauses: number[] = []
  const server = Deno.serve({ port: 0, hostname: '127.0.0.1', onListen: () => {} }, async (request) => {
    const path = new URL(request.url).pathname
    storageCalls.push(`${request.method} ${path} ${request.headers.get('apikey')} ${await request.text()}`)
    return signedUrl(path.replace('/storage/v1/object/sign/', ''))
  })
  const url = `http://127.0.0.1:${server.addr.port}`
  const times = [...clock]
  try {
    let told: Told | null = null
    await withGraph(graph, async ({ meta, calls: graphCalls }) => {
      const type = sendMessage({
        rpc,
        secrets: await secretBox(),
        storage: createStorage({ url, secretKey: SECRET_KEY, publicUrl: 'https://exemplo.supabase.co' }),
        providers: new Map([[meta.name, meta]]),
        pause: (milliseconds) => (pauses.push(milliseconds), Promise.resolve()),
      })
      const now = () => (last = times.shift() ?? last)
      const outcome = await type.handle(JOB, { signal, now, log }).catch((error) => error)
      const finished = callsOf('finish_send').map(({ args }) => args)
      told = { outcome, graphCalls, storageCalls, calls, finished, lines, pauses }
    })
    assert.ok(told)
    return told
  } finally {
    await server.shutdown()
  }
}

function outcomeTold({ finished }: Told): Record<string, unknown> {
  assert.deepEqual(finished.map(({ job }) => job), finished.map(() => CLAIM))
  return Object(finished.at(-1)?.['outcome'])
}

Deno.test('a message goes out with its token opened, and its end is told once', async () => {
  const told = await sent(await order())
  assert.deepEqual(told.outcome, { kind: 'ended', as: 'completed', result: 'accepted' })
  assert.deepEqual(told.calls.map(({ name }) => name), ['begin_send', 'finish_send'])
  assert.deepEqual(told.calls[0]?.args, { job: CLAIM })
  assert.deepEqual(told.graphCalls.map(({ authorization }) => authorization), [`Bearer ${TOKEN}`])
  const { result, whatsapp_message_id, identities, api_call } = outcomeTold(told)
  assert.deepEqual({ result, whatsapp_message_id, identities }, {
    result: 'accepted',
    whatsapp_message_id: WAMID,
    identities: [{ kind: 'wa_id', value: '553187650003' }],
  })
  assert.equal(Object(api_call).success, true)
  assert.doesNotMatch(JSON.stringify(api_call) + told.lines.join(), /EAAG|Maria|553187650003/)
})

Deno.test('what begin_send has ended itself is left alone', async () => {
  const told = await sent({ action: 'done', reason: 'waits_for_a_status' })
  assert.deepEqual(told.outcome, { kind: 'ended', result: 'waits_for_a_status' })
  assert.deepEqual([told.graphCalls, told.finished], [[], []])
})

Deno.test('each result of the provider has its name in the log', async () => {
  const refused = (code: number) => () => Response.json({ error: { code, message: 'no' } }, { status: 400 })
  const results: [GraphAnswer, string, string][] = [
    [refused(131047), 'failed', 'failed'],
    [refused(190), 'stopped', 'failed'],
    [refused(2), 'retry', 'failed'],
    [refused(130429), 'retry', 'postponed'],
    [() => new Response('<html>', { status: 502 }), 'unknown', 'postponed'],
  ]
  for (const [graph, result, as] of results) {
    const told = await sent(await order(), { graph })
    assert.deepEqual(told.outcome, { kind: 'ended', as, result })
    assert.equal(outcomeTold(told)['result'], result)
  }
})

Deno.test('a file of ours is lent out for ten minutes', async () => {
  const path = `media/${CLINIC}/outgoing/exame.pdf`
  const told = await sent(
    await order({}, { message_type: 'document', payload: { path, filename: 'exame.pdf' } }),
  )
  assert.equal(outcomeTold(told)['result'], 'accepted')
  assert.deepEqual(told.storageCalls, [
    `POST /storage/v1/object/sign/${path} ${SECRET_KEY} {"expiresIn":600}`,
  ])
  const { document } = Object(told.graphCalls[0]?.body)
  assert.deepEqual(document, {
    link: `https://exemplo.supabase.co/storage/v1/object/sign/${path}?token=abc`,
    filename: 'exame.pdf',
    caption: 'Oi, Maria',
  })
  assert.doesNotMatch(JSON.stringify(outcomeTold(told)), /token=abc|exame/)
})

Deno.test("nobody else's file is lent out", async () => {
  const paths = [
    'media/0193f2b4-0000-7000-8000-00000000c222/outgoing/x.pdf',
    `backups/${CLINIC}/x`,
    `media/${CLINIC}`,
    `media/${CLINIC}/../0193f2b4-0000-7000-8000-00000000c222/x.pdf`,
    `media/${CLINIC}//x.pdf`,
    '',
    // What a URL parser makes of these leads out of the organization's folder.
    `media/${CLINIC}/%2e%2e/0193f2b4-0000-7000-8000-00000000c222/x.pdf`,
    `media/${CLINIC}/x\\..\\..\\0193f2b4-0000-7000-8000-00000000c222\\x.pdf`,
    `media/${CLINIC}/.\t./0193f2b4-0000-7000-8000-00000000c222/x.pdf`,
    `media/${CLINIC}/x.pdf?download`,
    `media/${CLINIC}/x#y.pdf`,
    `media/${CLINIC}/\ud800.pdf`,
  ]
  for (const path of paths) {
    const told = await sent(await order({}, { message_type: 'image', payload: { path } }))
    const { result, code } = outcomeTold(told)
    assert.deepEqual([result, code], ['failed', 'invalid_payload'], path)
    assert.deepEqual([told.graphCalls, told.storageCalls], [[], []])
  }
})

Deno.test('a file that is gone fails for good; a Storage that is away is tried again', async () => {
  const withFile = await order({}, {
    message_type: 'image',
    payload: { path: `media/${CLINIC}/outgoing/x.jpg` },
  })
  const missing = await sent(withFile, {
    signedUrl: () =>
      Response.json({ statusCode: '404', error: 'not_found', message: 'Object not found' }, { status: 400 }),
  })
  assert.deepEqual([outcomeTold(missing)['result'], outcomeTold(missing)['code']], [
    'failed',
    'file_not_found',
  ])
  const away = await sent(withFile, { signedUrl: () => new Response('no', { status: 503 }) })
  assert.deepEqual([outcomeTold(away)['result'], outcomeTold(away)['code']], ['retry', 'not_prepared'])
  assert.deepEqual([missing.graphCalls, away.graphCalls], [[], []])
})

Deno.test('whatever is wrong before the call, finish_send hears that none was made', async (test) => {
  const elsewhere = await (await secretBox()).seal(TOKEN, {
    organizationId: null,
    purpose: 'instance.access_token',
  })
  const cases: [string, unknown, Parameters<typeof sent>[1], string, string][] = [
    ['a token that does not open', await order({ access_token: elsewhere }), {}, 'retry', 'not_prepared'],
    [
      'a provider that we do not know',
      await order({ instance: { id: INSTANCE, external_id: '1', provider: 'zapi' } }),
      {},
      'failed',
      'provider_not_supported',
    ],
    [
      'a process that stood still',
      await order(),
      { clock: [NOW, new Date(NOW.getTime() + 31_000)] },
      'retry',
      'not_prepared',
    ],
    [
      'a process that stood still while the database announced the call',
      await order(),
      { beginMs: 31_000 },
      'retry',
      'not_prepared',
    ],
    [
      'a run that is over',
      await order(),
      { signal: AbortSignal.abort(new Error('run_over')) },
      'retry',
      'not_connected',
    ],
  ]
  for (const [name, begun, options, result, code] of cases) {
    await test.step(name, async () => {
      const told = await sent(begun, options)
      const outcome = outcomeTold(told)
      assert.deepEqual([outcome['result'], outcome['code']], [result, code])
      assert.deepEqual(told.graphCalls, [])
      assert.doesNotMatch(JSON.stringify(outcome) + told.lines.join(), /EAAG/)
    })
  }
})

Deno.test('a database that is away after the call is asked again; the id is in the log from the first failure on', async () => {
  let failures = 3
  const told = await sent(await order(), {
    finish: () => {
      if (failures-- > 0) throw new RpcError(0, '', 'connection refused', null)
      return { action: 'done' }
    },
  })
  assert.deepEqual(told.outcome, { kind: 'ended', as: 'completed', result: 'accepted' })
  assert.equal(told.finished.length, 4)
  assert.deepEqual(
    told.finished.map(({ outcome }) => JSON.stringify(outcome)),
    Array(4).fill(JSON.stringify(outcomeTold(told))),
  )
  assert.equal(told.graphCalls.length, 1)
  const [line] = told.lines.map((text) => JSON.parse(text))
  assert.deepEqual(
    [line.level, line.event, line.whatsapp_message_id, line.message_id, line.result],
    ['warn', 'send not stored yet', SHORT_WAMID, MESSAGE, 'accepted'],
  )
  assert.doesNotMatch(told.lines.join(), /Maria|EAAG/)
})

Deno.test('a database that stays away costs the job, never the id, and nothing is sent twice', async () => {
  const told = await sent(await order(), {
    finish: () => {
      throw new RpcError(503, 'PGRST001', 'no connection', null)
    },
  })
  assert.ok(told.outcome instanceof RpcError)
  assert.equal(told.graphCalls.length, 1)
  assert.equal(told.pauses.reduce((sum, pause) => sum + pause, 0), 20_000)
  const last = JSON.parse(told.lines.at(-1) ?? '')
  assert.deepEqual([last.level, last.event, last.whatsapp_message_id], [
    'error',
    'send not stored',
    SHORT_WAMID,
  ])
})

Deno.test('who lost the job after the call says so, with the id, and does not insist', async () => {
  const told = await sent(await order(), {
    finish: () => {
      throw new RpcError(400, 'BL301', 'The job is not held any more', 'lease_lost')
    },
  })
  assert.ok(told.outcome instanceof RpcError)
  assert.equal(told.finished.length, 1)
  const [line] = told.lines.map((text) => JSON.parse(text))
  assert.deepEqual([line.level, line.whatsapp_message_id], ['warn', SHORT_WAMID])
})

Deno.test('an answer of the database that we do not understand sends nothing', async () => {
  for (
    const begun of [null, {}, { action: 'send' }, {
      ...await order(),
      recipient: { kind: 'fax', value: '1' },
    }]
  ) {
    const told = await sent(begun)
    assert.ok(told.outcome instanceof Error)
    assert.deepEqual([told.graphCalls, told.finished], [[], []])
  }
})
