// The worker's part in a turn: it asks, lets the engine decide, hands all of it over, and goes on until nothing is left to
// hear. The engine has tests of its own; here it is real, and the database is imitated.
import assert from 'node:assert/strict'
import { RpcError } from '../../functions/_shared/rpc.ts'
import type { Job } from '../../functions/queue-worker/job.ts'
import { runFlow } from '../../functions/queue-worker/run-flow.ts'
import { CLINIC, recordedLog, recordedRpc } from './support.ts'

const id = (n: number) => `0193f2b4-0000-7000-8000-00000000${String(n).padStart(4, '0')}`
const NOW = '2026-11-20T13:00:00+00:00'
const SLOT = '2026-11-23T12:00:00+00:00'

const JOB: Job<{ conversation_id: string }> = {
  organization_id: CLINIC,
  id: id(1),
  job_type: 'run_flow',
  fencing_token: 3,
  attempts: 1,
  max_attempts: 5,
  created_at: NOW,
  payload: { conversation_id: id(2) },
}
const CLAIM = { organization_id: CLINIC, id: JOB.id, fencing_token: 3 }

const ASKS = {
  etapas: [
    {
      id: 'menu',
      tipo: 'escolha',
      pergunta: 'Olá, {{nome}}! O que deseja?',
      opcoes: [{ rotulo: 'Marcar', valor: 'marcar' }],
      proxima: 'servico',
    },
    { id: 'servico', tipo: 'acao', acao: { tipo: 'escolher_servico' }, proxima: 'horario' },
    { id: 'horario', tipo: 'acao', acao: { tipo: 'escolher_horario' }, proxima: 'marca' },
    { id: 'marca', tipo: 'acao', acao: { tipo: 'agendar' }, proxima: 'fim' },
    { id: 'fim', tipo: 'fim', pergunta: 'Marcado!' },
  ],
}
const BOOKS_AT_ONCE = {
  etapas: [
    { id: 'tag', tipo: 'acao', acao: { tipo: 'etiquetar', etiqueta: 'novo' }, proxima: 'lead' },
    { id: 'lead', tipo: 'acao', acao: { tipo: 'criar_lead' }, proxima: 'fim', em_erro: 'fim' },
    { id: 'fim', tipo: 'fim', pergunta: 'Tchau!' },
  ],
}

const message = (n: number, text: string, early = false) => ({
  kind: 'message',
  message_id: id(100 + n),
  message_type: 'text',
  text,
  reply_id: null,
  quoted_id: null,
  early,
})

function turn(changes: Record<string, unknown> = {}, session: Record<string, unknown> = {}) {
  return {
    action: 'turn',
    session: { id: id(5), version: 0, current_step: null, state: {}, status: 'running', ...session },
    definition: ASKS,
    inputs: [message(1, 'Oi')],
    context: {
      organization: { id: CLINIC, name: 'Clínica Sol', vertical: 'clinic', timezone: 'America/Sao_Paulo' },
      contact: { id: id(6), name: 'Ana Lima', first_name: 'Ana', tags: [], phone_number: '+5511987654321' },
      conversation_id: id(2),
      control_epoch: 4,
      now: NOW,
      nonce: 'abcd1234',
      channel: { buttons: true, lists: true },
      expired: false,
    },
    ...changes,
  }
}

interface Result {
  session_id: string
  session_version: number
  control_epoch: number
  last_message_id: string | null
  session: { current_step: string | null; state: { agenda: Record<string, unknown> }; status: string }
  outputs: { message_type: string; content: string }[]
  actions: { tipo: string }[]
}

/** Each answer in its turn, the last one again and again; an error is thrown. */
function inTurn(answers: unknown[]) {
  const left = [...answers]
  return () => {
    const answer = left.length > 1 ? left.shift() : left[0]
    if (answer instanceof Error) throw answer
    return answer
  }
}

const facts = ({ need }: Record<string, unknown>) => {
  const kind = (need as { kind: string }).kind
  const service = {
    id: id(7),
    name: 'Consulta',
    description: null,
    price_cents: 20_000,
    duration_minutes: 30,
    requires_pet: false,
  }
  const slot = {
    start_time: SLOT,
    end_time: '2026-11-23T12:30:00+00:00',
    professional_id: id(8),
    professional_name: 'Dra. Bia',
    location_id: null,
    timezone: 'America/Sao_Paulo',
  }
  return { kind, services: [service], slots: [slot], pets: [], bookings: [] }
}

async function run(begun: unknown[], finished: unknown[] = [{ action: 'done', reason: 'running' }]) {
  const pauses: number[] = []
  const { rpc, calls, callsOf } = recordedRpc({
    begin_flow_turn: inTurn(begun),
    finish_flow_turn: inTurn(finished),
    get_flow_facts: facts,
  })
  const type = runFlow({ rpc, pause: (ms) => Promise.resolve(void pauses.push(ms)) })
  const { log } = recordedLog()
  const context = { signal: new AbortController().signal, now: () => new Date(NOW), log }
  const outcome = await type.handle(JOB, context).catch((error: unknown) => error)
  const results = callsOf('finish_flow_turn').map(({ args }) => args.result as Result)
  return { outcome, calls, results, pauses, needs: callsOf('get_flow_facts').map(({ args }) => args) }
}

Deno.test('what begin_flow_turn has ended itself is left alone', async () => {
  const { outcome, calls } = await run([{ action: 'done', reason: 'human_controls' }])
  assert.deepEqual(outcome, { kind: 'ended', result: 'human_controls' })
  assert.deepEqual(calls, [{ name: 'begin_flow_turn', args: { job: CLAIM } }])
})

Deno.test('the engine decides, and all of it is handed over at once', async () => {
  const { outcome, results, needs } = await run([turn()])
  assert.deepEqual(outcome, { kind: 'ended', result: 'running' })
  assert.deepEqual(needs, [])
  const [result] = results
  assert.deepEqual(
    [result?.session_id, result?.session_version, result?.control_epoch, result?.last_message_id],
    [id(5), 0, 4, id(101)],
  )
  assert.equal(result?.session.current_step, 'menu')
  assert.match(result?.outputs[0]?.content ?? '', /^Olá, Ana! O que deseja\?/)
  assert.deepEqual(result?.actions, [])
})

Deno.test('what the engine has to know is asked under the claim of the job', async () => {
  const begun = await run([turn()])
  const { results, needs } = await run([
    turn({ inputs: [message(2, 'marcar')] }, { version: 1, ...begun.results[0]?.session }),
  ])
  assert.deepEqual(needs.map(({ job, need }) => [job, (need as { kind: string }).kind]), [
    [CLAIM, 'services'],
    [CLAIM, 'slots'],
  ])
  assert.equal(results[0]?.session.current_step, 'horario')
  assert.equal(results[0]?.session.state.agenda.servico, 'Consulta')
})

Deno.test('while there is more to hear, the job goes on; and gives way when there is no end to it', async () => {
  const again = { action: 'again', reason: 'new_messages' }
  const twice = await run([turn(), { action: 'done', reason: 'nothing_to_do' }], [again])
  assert.deepEqual(twice.outcome, { kind: 'ended', result: 'nothing_to_do' })
  assert.equal(twice.results.length, 1)

  const endless = await run([turn()], [again])
  assert.deepEqual(endless.outcome, { kind: 'postponed', runAt: new Date(NOW), reason: 'many_messages' })
  assert.equal(endless.results.length, 10)
})

Deno.test('an action that is refused takes another way, and what came before it stays', async () => {
  const refused = { action: 'refused', action_index: 1, error: 'professional_not_available', detail: {} }
  const { outcome, results } = await run([turn({ definition: BOOKS_AT_ONCE })], [
    refused,
    { action: 'done', reason: 'completed' },
  ])
  assert.deepEqual(outcome, { kind: 'ended', result: 'completed' })
  assert.deepEqual(results.map(({ actions }) => actions.map(({ tipo }) => tipo)), [
    ['etiquetar', 'criar_lead'],
    ['etiquetar'],
  ])
  assert.deepEqual(results.map(({ session }) => session.status), ['completed', 'completed'])
  assert.deepEqual(results.map(({ session_version }) => session_version), [0, 0])
})

Deno.test('who is refused again and again is handed to a human; when even that is refused, the job fails', async () => {
  const refused = { action: 'refused', action_index: 0, error: 'x', detail: {} }
  const { outcome, results } = await run([turn({ definition: BOOKS_AT_ONCE })], [refused])
  assert.ok(outcome instanceof Error)
  assert.equal(results.length, 7)
  assert.deepEqual(results.at(-1)?.actions.map(({ tipo }) => tipo), ['transferir'])
  assert.equal(results.at(-1)?.session.status, 'handed_over')
})

Deno.test('a database that is away for a moment costs nothing; what it says no to is not asked again', async () => {
  const away = new RpcError(503, 'PGRST001', 'no connection', null)
  const patient = await run([away, turn()], [away, { action: 'done', reason: 'running' }])
  assert.deepEqual(patient.outcome, { kind: 'ended', result: 'running' })
  assert.deepEqual(patient.pauses, [200, 200])
  assert.deepEqual(patient.results[0], patient.results[1])

  const lost = new RpcError(409, 'BL301', 'The job is not held', 'lease_lost')
  const late = await run([turn()], [lost])
  assert.equal(late.outcome, lost)
  assert.equal(late.results.length, 1)
})

Deno.test('a turn that cannot be read is not guessed at', async () => {
  for (
    const unreadable of [
      { action: 'dance' },
      turn({ inputs: [] }),
      turn({ definition: {} }),
      turn({}, { current_step: 'menu', state: [] }),
    ]
  ) {
    const { outcome, results } = await run([unreadable])
    assert.ok(outcome instanceof Error)
    assert.deepEqual(results, [])
  }
})
