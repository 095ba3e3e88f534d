// A thousand customers through each flow template, with all that people do and all that a business can refuse. Every one
// gets to the end or to a human; the same chance gives the same conversation. FLOW_SEED repeats a run.
import assert from 'node:assert/strict'
import type { FlowAction, FlowOutput, TurnInput } from '../../functions/queue-worker/flow/conversation.ts'
import { interactivePayload } from '../../types/outbound.ts'
import { booking, pet, Phone, type PhoneOptions, service, slot, template, uuid } from './flow-phone.ts'
import { mulberry } from './flow-random.ts'

type Random = (below: number) => number

const WALKS = 1000
/** Chance turns to what ends after half of them. */
const MOST_TURNS = 120
const SEED = Number(Deno.env.get('FLOW_SEED') ?? 20261121)

const ZONES = ['America/Sao_Paulo', 'America/Manaus', 'America/New_York', 'Asia/Tokyo']
const REFUSALS = [
  'BL501',
  'BL505',
  'BL507',
  'BL508',
  'BL404',
  'BL500',
  'BL502',
  'BL503',
  'BL515',
  'BL401',
  'BL002',
  '40001',
  '',
]
const WORDS = [
  'oi',
  'bom dia',
  'sim',
  'não',
  '👍',
  'quarta',
  'amanhã',
  '14h',
  '9',
  'dia 25',
  'Rex',
  'quatro',
  'São Paulo',
  'mais',
  'outro dia',
  'banho',
  'consulta',
  '25/11',
  '',
  '   ',
  '🐶🐶🐶',
  '{{nome}}',
  '\u0000\ud800',
  'x'.repeat(3000),
  '1',
  '2',
  '3',
  'menu',
  'obrigada',
]

/** To questions that offer nothing. */
const ANSWERS = ['4', 'doze', 'Recife', 'Rex', 'Mia']

const pick = <T>(random: Random, from: readonly T[]): T | undefined => from[random(from.length)]

function world(random: Random): PhoneOptions {
  const timezone = pick(random, ZONES) ?? 'UTC'
  const emoji = random(4) === 0 ? '👩‍👩‍👧‍👦' : ''
  const services = Array.from(
    { length: random(14) },
    (_, index) =>
      service(index + 1, `${emoji}Serviço ${'longo '.repeat(random(12))}${index}`, {
        requires_pet: random(3) === 0,
        price_cents: random(3) === 0 ? null : random(5_000_000),
      }),
  )
  const pets = Array.from(
    { length: random(3) * random(7) },
    (_, index) => pet(index, pick(random, ['Rex', 'Mia', 'Thor']) ?? ''),
  )
  const bookings = Array.from(
    { length: random(3) * random(6) },
    (_, index) =>
      booking(index, new Date(Date.UTC(2026, 10, 24 + random(20), random(24))).toISOString(), {
        timezone,
        status: random(2) === 0 ? 'confirmed' : 'scheduled',
        pet_name: random(2) === 0 ? null : 'Rex',
      }),
  )
  const slots = Array.from(
    { length: random(4) * random(50) },
    () =>
      slot(new Date(Date.UTC(2026, 10, 23, 13 + random(13 * 24), random(2) * 30)).toISOString(), {
        timezone,
        professional_id: random(4) === 0 ? null : uuid(3, 1 + random(2)),
        professional_name: random(4) === 0 ? null : 'Dra. Helena',
      }),
  ).sort((one, other) => one.start_time < other.start_time ? -1 : 1)
  const clumsiness = random(4)
  const refuse = ({ tipo }: FlowAction) => {
    if (tipo === 'transferir' || tipo === 'encerrar' || tipo === 'aguardar' || random(8) >= clumsiness) {
      return null
    }
    const alternatives = Array.from({ length: random(6) }, () => ({
      start_time: pick(random, slots)?.start_time ?? 'amanhã',
      professional_id: random(2) === 0 ? null : uuid(3, 1),
    }))
    return { error: pick(random, REFUSALS) ?? '', detail: random(3) === 0 ? {} : { alternatives } }
  }
  const channel = pick(random, [{ buttons: true, lists: true }, { buttons: true, lists: false }, {
    buttons: false,
    lists: false,
  }])
  return {
    business: { services, pets, bookings, slots, refuse },
    context: {
      ...(channel === undefined ? {} : { channel }),
      expired: random(5) === 0,
      contact: {
        id: uuid(9, 2),
        name: null,
        first_name: random(3) === 0 ? null : `Ana ${emoji}`,
        tags: random(2) === 0 ? [] : ['vip'],
        phone_number: null,
      },
    },
  }
}

/** One thing that a customer does; a careful one mostly answers what he is asked. */
function does(
  random: Random,
  phone: Phone,
  seen: { id: string; title: string }[],
  careful: boolean,
): TurnInput {
  const [options, old] = [phone.options, pick(random, seen)]
  const said = (text: string) => phone.message({ text })
  const option = pick(random, options)
  if (careful && random(12) > 0) {
    if (option) return phone.message({ message_type: 'list', text: option.title, reply_id: option.id })
    return said(phone.read.includes('*1.*') ? String(1 + random(5)) : pick(random, ANSWERS) ?? 'sim')
  }
  const chance = random(100)
  if (chance < 45 && option) {
    return phone.message({ message_type: 'list', text: option.title, reply_id: option.id })
  }
  if (chance < 60 && option) return said(withSlip(random, option.title))
  if (chance < 66) return said(String(random(12)))
  if (chance < 70 && old) return phone.message({ message_type: 'button', text: old.title, reply_id: old.id })
  if (chance < 73) {
    return phone.message({
      message_type: pick(random, ['audio', 'image', 'unsupported']) ?? 'audio',
      text: null,
    })
  }
  if (chance < 74) return { kind: 'timer' }
  if (chance < 75) {
    return phone.message({ message_type: 'interactive', text: null, reply_id: 'de outro lugar' })
  }
  return said(pick(random, WORDS) ?? 'oi')
}

/** Letters swapped, capitals, no accents. */
function withSlip(random: Random, text: string): string {
  const letters = [...text]
  const at = random(letters.length)
  if (random(2) === 0) letters.splice(at, 2, letters[at + 1] ?? '', letters[at] ?? '')
  return random(2) === 0 ? letters.join('').toUpperCase() : letters.join('')
}

async function walk(definition: unknown, seed: number, look: (phone: Phone) => void): Promise<Phone> {
  const random = mulberry(seed)
  const careful = random(2) === 0
  const phone = new Phone(definition, world(random))
  const seen: { id: string; title: string }[] = []
  await phone.write('oi')
  for (let turn = 0; phone.status === 'running' && turn < MOST_TURNS; turn++) {
    seen.push(...phone.options)
    const inputs = Array.from(
      { length: random(10) === 0 ? 1 + random(3) : 1 },
      () => does(random, phone, seen, careful),
    )
    if (turn > MOST_TURNS / 2) inputs.push(phone.message({ text: turn % 2 === 0 ? 'sair' : 'atendente' }))
    await phone.send(...inputs)
    look(phone)
  }
  return phone
}

function check(phone: Phone): void {
  for (const output of phone.received) checkSendable(output)
  checkSession(phone)
}

function checkSendable({ message_type, content, payload }: FlowOutput): void {
  assert.match(content, /\S/)
  if (message_type === 'text') {
    assert.equal(payload, null)
    assert.ok([...content].length <= 4096)
    return
  }
  assert.ok([...content].length <= 1024)
  const options = interactivePayload.parse(payload)
  const ids = options.type === 'button'
    ? options.buttons.map(({ id }) => id)
    : options.sections.flatMap(({ rows }) => rows.map(({ id }) => id))
  assert.equal(new Set(ids).size, ids.length)
  assert.ok(ids.length <= 10)
  if (options.type === 'button') {
    assert.equal(new Set(options.buttons.map(({ title }) => title)).size, ids.length)
  }
}

function checkSession({ session, turn }: Phone): void {
  assert.ok(session && turn)
  assert.ok(new TextEncoder().encode(JSON.stringify(session.state)).length <= 16_384)
  assert.deepEqual(JSON.parse(JSON.stringify(session)), session, 'it is JSON')
  const handsOver = turn.actions.filter(({ tipo }) => tipo === 'transferir').length
  assert.equal(handsOver, session.status === 'handed_over' ? 1 : 0)
  if (handsOver > 0) assert.equal(turn.actions.at(-1)?.tipo, 'transferir')
  if (session.status === 'running') assert.ok(session.state.pergunta, 'something is asked')
}

const templates = {
  triagem_planos_de_saude: ['criar_lead', 'etiquetar', 'criar_pet', 'agendar', 'transferir'],
  agendamento_clinica: [
    'agendar',
    'remarcar',
    'cancelar_agendamento',
    'confirmar_agendamento',
    'entrar_lista_espera',
    'criar_pet',
    'transferir',
  ],
  agendamento_petshop: [
    'criar_pet',
    'agendar',
    'remarcar',
    'cancelar_agendamento',
    'entrar_lista_espera',
    'transferir',
  ],
} satisfies Record<string, FlowAction['tipo'][]>

for (const [key, actions] of Object.entries(templates)) {
  Deno.test(`${WALKS} random walks through ${key} end in its end or with a human (FLOW_SEED=${SEED})`, async () => {
    const { definition } = template(key)
    let completed = 0
    const did = new Set<string>()
    for (let number = 0; number < WALKS; number++) {
      const seed = SEED + number
      try {
        const phone = await walk(definition, seed, check)
        const again = await walk(definition, seed, () => undefined)
        assert.deepEqual(again.transcript, phone.transcript)
        assert.deepEqual(again.session, phone.session)
        assert.ok(phone.status === 'completed' || phone.status === 'handed_over', `it is ${phone.status}`)
        if (phone.status === 'completed') completed++
        for (const { tipo } of phone.done) did.add(tipo)
      } catch (error) {
        throw new Error(`FLOW_SEED=${seed} is where it fails`, { cause: error })
      }
    }
    // Walks that all went the same way would show little.
    assert.ok(completed > WALKS / 5 && completed < WALKS * 4 / 5, `${completed} of ${WALKS} came to the end`)
    assert.deepEqual([...did].sort(), [...actions].sort(), 'all that the flow can do was done')
  })
}
