// A customer wrote to a bot. begin_flow_turn tells what they wrote and where they stand, the engine decides (flow/), and
// finish_flow_turn does what it decided in one transaction. Nothing is kept here: a worker that dies in between has said
// and booked nothing, and the next one computes the same again.
import { z } from 'zod'
import { flowDefinitionShape } from '../../types/flow-definition.ts'
import type { Rpc } from '../_shared/rpc.ts'
import type { FlowState, Need, NeedAnswer } from './flow/conversation.ts'
import { giveUp, type PlayedTurn, playTurn, replayTurn, type Turn } from './flow/turn.ts'
import { type Claim, claimOf, type JobType } from './job.ts'
import { patientRpc, type Pause, pause as realPause } from './patient-rpc.ts'

export interface Dependencies {
  rpc: Rpc
  pause?: Pause
}

// All three may be asked again: a turn that was finished is not finished twice.
const PAUSES = [200, 1000]
// Who writes on and on is heard in the next job.
const MAX_TURNS = 10
// A slot may be taken, and then the next one too; whom that happens to so often wants a human.
const MAX_REFUSALS = 5

const payloadSchema = z.object({ conversation_id: z.guid() })

// The engine wrote it and reads it; to everybody else it is an object.
const stateSchema = z.custom<FlowState>((value) =>
  z.looseObject({ respostas: z.looseObject({}), perguntas: z.int(), agenda: z.looseObject({}) }).safeParse(
    value,
  )
    .success
)

const inputSchema = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('start') }),
  z.object({ kind: z.literal('timer') }),
  z.object({
    kind: z.literal('message'),
    message_id: z.guid(),
    message_type: z.string(),
    text: z.string().nullable(),
    reply_id: z.string().nullable(),
    quoted_id: z.string().nullable(),
    early: z.boolean(),
  }),
])

const contextSchema = z.object({
  organization: z.object({ id: z.guid(), name: z.string(), vertical: z.string(), timezone: z.string() }),
  contact: z.object({
    id: z.guid(),
    name: z.string().nullable(),
    first_name: z.string().nullable(),
    tags: z.array(z.string()),
    phone_number: z.string().nullable(),
  }),
  conversation_id: z.guid(),
  control_epoch: z.int(),
  now: z.string(),
  nonce: z.string(),
  channel: z.object({ buttons: z.boolean(), lists: z.boolean() }),
  expired: z.boolean(),
})

const sessionSchema = z.object({
  id: z.guid(),
  version: z.int(),
  /** Null: it begins with this turn, and has no state yet. */
  current_step: z.string().nullable(),
  state: z.unknown(),
})

type BegunTurn = Extract<z.output<typeof begun>, { action: 'turn' }>
const begun = z.discriminatedUnion('action', [
  z.object({ action: z.literal('done'), reason: z.string().nullish() }),
  z.object({
    action: z.literal('turn'),
    session: sessionSchema,
    definition: flowDefinitionShape,
    inputs: z.array(inputSchema).min(1),
    context: contextSchema,
  }),
])

const finished = z.discriminatedUnion('action', [
  z.object({ action: z.literal('done'), reason: z.string().nullish() }),
  z.object({ action: z.literal('again'), reason: z.string().nullish() }),
  z.object({
    action: z.literal('refused'),
    action_index: z.int(),
    error: z.string(),
    detail: z.record(z.string(), z.unknown()),
  }),
])

const instant = z.string()
const place = { professional_id: z.guid().nullable(), location_id: z.guid().nullable() }
const facts = z.discriminatedUnion('kind', [
  z.object({
    kind: z.literal('services'),
    services: z.array(z.object({
      id: z.guid(),
      name: z.string(),
      description: z.string().nullable(),
      price_cents: z.int().nullable(),
      duration_minutes: z.int(),
      requires_pet: z.boolean(),
    })),
  }),
  z.object({ kind: z.literal('pets'), pets: z.array(z.object({ id: z.guid(), name: z.string() })) }),
  z.object({
    kind: z.literal('facts'),
    pets: z.int().nullable(),
    variants: z.record(z.string(), z.enum(['a', 'b']).nullable()),
  }),
  z.object({
    kind: z.literal('bookings'),
    bookings: z.array(z.object({
      id: z.guid(),
      service_id: z.guid(),
      service_name: z.string(),
      ...place,
      professional_name: z.string().nullable(),
      start_time: instant,
      timezone: z.string(),
      status: z.enum(['scheduled', 'confirmed']),
      pet_name: z.string().nullable(),
    })),
  }),
  z.object({
    kind: z.literal('slots'),
    slots: z.array(z.object({
      start_time: instant,
      end_time: instant,
      ...place,
      professional_name: z.string().nullable(),
      timezone: z.string(),
    })),
  }),
]) satisfies z.ZodType<NeedAnswer>

export function runFlow({ rpc, pause = realPause }: Dependencies): JobType<typeof payloadSchema> {
  const database = patientRpc(rpc, { pauses: PAUSES, pause })
  return {
    schema: payloadSchema,
    timeoutMs: 30_000,

    async handle(job, { now }) {
      const claim = claimOf(job)
      for (let turns = 0; turns < MAX_TURNS; turns++) {
        const answer = begun.parse(await database('begin_flow_turn', { job: claim }))
        if (answer.action === 'done') return { kind: 'ended', result: answer.reason ?? 'nothing to do' }
        const ended = await takeTurn(claim, answer)
        if (ended !== null) return { kind: 'ended', result: ended }
      }
      return { kind: 'postponed', runAt: now(), reason: 'many_messages' }
    },
  }

  /** Why the job has ended; null: it goes on. */
  async function takeTurn(
    job: Claim,
    { session, definition, inputs, context }: BegunTurn,
  ): Promise<string | null> {
    const { current_step } = session
    const turn: Turn = {
      definition,
      session: current_step === null
        ? null
        : { current_step, state: stateSchema.parse(session.state), status: 'running' },
      inputs,
      context,
    }
    const tell = async (need: Need): Promise<NeedAnswer> =>
      facts.parse(await database('get_flow_facts', { job, need }))
    const finish = async (played: PlayedTurn) => {
      const { last_message_id, outputs, actions } = played
      return finished.parse(
        await database('finish_flow_turn', {
          job,
          result: {
            session_id: session.id,
            session_version: session.version,
            control_epoch: context.control_epoch,
            last_message_id,
            session: played.session,
            outputs,
            actions,
          },
        }),
      )
    }

    let played = await playTurn(turn, tell)
    for (let refusals = 0;; refusals++) {
      const answer = await finish(played)
      switch (answer.action) {
        case 'done':
          return answer.reason ?? 'done'
        case 'again':
          return null
        case 'refused':
          // What a human is called with cannot be refused.
          if (refusals > MAX_REFUSALS) throw new Error(`refused: ${answer.error}`)
          played = refusals === MAX_REFUSALS
            ? giveUp(turn, played)
            : await replayTurn(turn, played, answer, tell)
          break
        default:
          return answer satisfies never
      }
    }
  }
}
