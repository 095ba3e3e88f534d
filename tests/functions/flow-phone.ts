// A customer's phone and a business behind it, for tests of the flow engine: what is written goes through playTurn() as
// in the worker, what is done is done to a business in memory.
import assert from 'node:assert/strict'
import type {
  ComingBooking,
  FlowAction,
  FlowContext,
  FlowOutput,
  FlowSession,
  Need,
  NeedAnswer,
  Pet,
  Service,
  Slot,
  TurnInput,
} from '../../functions/queue-worker/flow/conversation.ts'
import {
  giveUp,
  type PlayedTurn,
  playTurn,
  type Refusal,
  replayTurn,
} from '../../functions/queue-worker/flow/turn.ts'
import { type FlowDefinition, flowDefinition } from '../../types/flow-definition.ts'
import { interactivePayload } from '../../types/outbound.ts'

export const NOW = '2026-11-23T12:00:00.000Z' // Monday, 9:00 in São Paulo

export const service = (number: number, name: string, more: Partial<Service> = {}): Service => ({
  id: uuid(1, number),
  name,
  description: null,
  price_cents: 20_000,
  duration_minutes: 30,
  requires_pet: false,
  ...more,
})

export const pet = (number: number, name: string): Pet => ({ id: uuid(2, number), name })

export const slot = (start_time: string, more: Partial<Slot> = {}): Slot => ({
  start_time,
  end_time: new Date(Date.parse(start_time) + 30 * 60_000).toISOString(),
  professional_id: uuid(3, 1),
  professional_name: 'Dra. Helena',
  location_id: null,
  timezone: 'America/Sao_Paulo',
  ...more,
})

export const booking = (
  number: number,
  start_time: string,
  more: Partial<ComingBooking> = {},
): ComingBooking => ({
  id: uuid(4, number),
  service_id: uuid(1, 1),
  service_name: 'Consulta',
  professional_id: uuid(3, 1),
  professional_name: 'Dra. Helena',
  location_id: null,
  start_time,
  timezone: 'America/Sao_Paulo',
  status: 'scheduled',
  pet_name: null,
  ...more,
})

export function uuid(kind: number, number: number): string {
  return `0193f2b4-0000-7000-800${kind}-${String(number).padStart(12, '0')}`
}

export interface Business {
  services: Service[]
  pets: Pet[]
  bookings: ComingBooking[]
  /** Those of a question about slots; by default each that begins in its time. */
  slots: readonly Slot[]
  /** Of the tests that run, by their names. */
  variants: Record<string, 'a' | 'b'>
  /** Asked before an action is done; null: nothing speaks against it. */
  refuse: (action: FlowAction) => Pick<Refusal, 'error' | 'detail'> | null
}

export interface PhoneOptions {
  context?: Partial<FlowContext>
  business?: Partial<Business>
}

export class Phone {
  readonly definition: FlowDefinition
  readonly business: Business
  readonly context: FlowContext
  readonly transcript: string[] = []
  readonly done: FlowAction[] = []
  /** The tests that the customer takes part in. */
  readonly shown = new Set<string>()
  session: FlowSession | null = null
  /** What came last, all of one turn. */
  received: FlowOutput[] = []
  turn: PlayedTurn | null = null
  #messages = 0

  constructor(definition: unknown, { context = {}, business = {} }: PhoneOptions = {}) {
    this.definition = flowDefinition.parse(definition)
    this.business = {
      services: [],
      pets: [],
      bookings: [],
      slots: [],
      variants: {},
      refuse: () => null,
      ...business,
    }
    this.context = {
      organization: { id: uuid(9, 1), name: 'Vida Plena', vertical: 'clinic', timezone: 'America/Sao_Paulo' },
      contact: {
        id: uuid(9, 2),
        name: 'Ana Souza',
        first_name: 'Ana',
        tags: [],
        phone_number: '+5511912345678',
      },
      conversation_id: uuid(9, 3),
      control_epoch: 1,
      now: NOW,
      nonce: 'n1',
      channel: { buttons: true, lists: true },
      ...context,
    }
  }

  get status() {
    return this.session?.status ?? null
  }

  get answers() {
    return this.session?.state.respostas ?? {}
  }

  /** The text of all that came last. */
  get read(): string {
    return this.received.map(({ content }) => content).join('\n---\n')
  }

  /** What was done last of this kind. */
  did<Kind extends FlowAction['tipo']>(tipo: Kind): Extract<FlowAction, { tipo: Kind }> | undefined {
    const isOne = (action: FlowAction): action is Extract<FlowAction, { tipo: Kind }> => action.tipo === tipo
    return this.done.filter(isOne).at(-1)
  }

  /** What the last question offers, by title. */
  get options(): { id: string; title: string }[] {
    const last = this.received.at(-1)
    return last === undefined ? [] : optionsOf(last)
  }

  write(...texts: string[]) {
    return this.send(...texts.map((text) => this.message({ text })))
  }

  tap(title: string) {
    const option = this.options.find((each) => each.title === title)
    assert.ok(option, `"${title}" is not among ${this.options.map((each) => each.title).join(', ')}`)
    return this.send(this.message({ message_type: 'button', text: title, reply_id: option.id }))
  }

  picture() {
    return this.send(this.message({ message_type: 'image', text: null }))
  }

  timer() {
    return this.send({ kind: 'timer' })
  }

  message(more: Partial<Extract<TurnInput, { kind: 'message' }>>): Extract<TurnInput, { kind: 'message' }> {
    return {
      kind: 'message',
      message_id: uuid(8, ++this.#messages),
      message_type: 'text',
      text: '',
      reply_id: null,
      quoted_id: null,
      ...more,
    }
  }

  /** One turn, as the worker takes it: played, finished or refused, and then played again. */
  async send(...inputs: TurnInput[]): Promise<this> {
    const turn = { definition: this.definition, session: this.session, inputs, context: this.context }
    const tell = (need: Need) => Promise.resolve(this.tell(need))
    let played = await playTurn(turn, tell)
    for (let attempt = 0;; attempt++) {
      const refusal = this.#refusalOf(played.actions)
      if (refusal === null) break
      played = attempt < 5 ? await replayTurn(turn, played, refusal, tell) : giveUp(turn, played)
    }
    for (const action of played.actions) this.#do(action)
    this.turn = played
    this.session = played.session
    this.received = played.outputs
    for (const input of inputs) {
      if (input.kind === 'message') this.transcript.push(`> ${input.text ?? `[${input.message_type}]`}`)
    }
    for (const output of played.outputs) this.transcript.push(asRead(output))
    for (const action of played.actions) this.transcript.push(`  * ${action.tipo}`)
    return this
  }

  tell(need: Need): NeedAnswer {
    const { services, pets, bookings, slots, variants } = this.business
    switch (need.kind) {
      case 'services':
        return { kind: 'services', services }
      case 'pets':
        return { kind: 'pets', pets }
      case 'facts':
        need.tests.forEach((test) => this.shown.add(test))
        return {
          kind: 'facts',
          pets: need.pets ? pets.length : null,
          variants: Object.fromEntries(
            need.tests.map((test) => [test, Object.hasOwn(variants, test) ? variants[test] ?? null : null]),
          ),
        }
      case 'bookings':
        return { kind: 'bookings', bookings }
      case 'slots':
        return {
          kind: 'slots',
          slots: slots.filter(({ start_time, professional_id }) =>
            Date.parse(start_time) >= Date.parse(need.from_time) &&
            Date.parse(start_time) < Date.parse(need.to_time) &&
            (need.professional_id === null || professional_id === need.professional_id)
          ),
        }
      default:
        return need satisfies never
    }
  }

  #refusalOf(actions: readonly FlowAction[]): Refusal | null {
    for (const [action_index, action] of actions.entries()) {
      const refusal = this.business.refuse(action)
      if (refusal !== null) return { action_index, ...refusal }
    }
    return null
  }

  #do(action: FlowAction): void {
    this.done.push(action)
    if (action.tipo === 'criar_pet') {
      this.business.pets = [...this.business.pets, pet(900 + this.business.pets.length, action.nome)]
    } else if (action.tipo === 'cancelar_agendamento') {
      this.business.bookings = this.business.bookings.filter(({ id }) => id !== action.agendamento_id)
    }
  }
}

export function optionsOf({ payload }: FlowOutput): { id: string; title: string }[] {
  const interactive = interactivePayload.safeParse(payload)
  if (!interactive.success) return []
  return interactive.data.type === 'button'
    ? interactive.data.buttons
    : interactive.data.sections.flatMap(({ rows }) => rows)
}

function asRead(output: FlowOutput): string {
  const interactive = interactivePayload.safeParse(output.payload)
  const options = optionsOf(output).map(({ title }) => title)
  if (!interactive.success) return output.content
  return `${output.content}\n${
    interactive.data.type === 'button' ? `[${options.join('] [')}]` : `(${options.join(' | ')})`
  }`
}

/** Every half hour of the working day, in São Paulo, on the given days of November 2026. */
export function openDays(...days: number[]): Slot[] {
  return days.flatMap((day) =>
    Array.from({ length: 10 }, (_, index) => {
      const minutes = 12 * 60 + index * 30 // 9:00 in São Paulo is 12:00 UTC
      return slot(new Date(Date.UTC(2026, 10, day, 0, minutes)).toISOString())
    })
  )
}

export function template(key: string): { definition: unknown } {
  return JSON.parse(
    Deno.readTextFileSync(new URL(`../../supabase/flow-templates/${key}.json`, import.meta.url)),
  )
}
