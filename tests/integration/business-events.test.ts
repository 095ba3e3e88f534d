// Whatever becomes of a booking, a lead, a place in the line or a contact is told to an organization's endpoints: once, as
// types/ says, and only when it came to be.

import { Webhook } from 'standardwebhooks'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type WebhookEvent, webhookEvent, type WebhookEventType, webhookEventTypes } from '../../types/index.ts'
import {
  aContact,
  anAppOf,
  aProfessional,
  aService,
  at,
  book,
  cancel,
  dayAhead,
  expireHolds,
  hold,
  minutesAfter,
  nameOf,
  same,
  someContacts,
} from '../support/agendas.ts'
import { seen } from '../support/conversations.ts'
import { aReceiver, type Receiver, registerEndpoint } from '../support/receiver.ts'
import { runningStack } from '../support/running-stack.ts'
import { asAdminOf, asAttendantOf, asPlatform, aTenant, type Tenant, valueOf } from '../support/tenants.ts'

const TOLD = webhookEventTypes.filter((type) =>
  /^(booking|waiting_list|lead)\./.test(type) || type === 'contact.merged' || type === 'contact.unmerged'
)

const backend = runningStack()
const platform = asPlatform(backend)
/** To move time, and to break off a transaction. */
const sql = postgres(backend.urls.admin, { max: 1, onnotice: () => undefined })

let clinic: Tenant
let neighbour: Tenant
let receivers: { receiver: Receiver; id: string; secret: string; tenant: Tenant }[]
let slot: { service_id: string; professional_id: string }
const day = dayAhead(2)

beforeAll(async () => {
  clinic = await aTenant(backend, 'Clínica que Conta', ['admin', 'attendant'])
  neighbour = await aTenant(backend, 'Clínica que Ouve', ['admin'])
  const service = await aService(clinic, { price_cents: 9000 })
  const professional = await aProfessional(clinic, 'Dr. Noé', [service])
  slot = { service_id: service.id, professional_id: professional.id }
  receivers = await Promise.all([clinic, neighbour].map(async (tenant) => {
    const receiver = await aReceiver()
    const { endpoint: { id }, secret } = await registerEndpoint(tenant, receiver.url, TOLD)
    return { receiver, id, secret, tenant }
  }))
})
afterAll(async () => {
  await Promise.all(receivers.map(({ receiver }) => receiver.close()))
  await sql.end({ timeout: 1 })
})

async function deliveriesTo(tenant: Tenant): Promise<{ event_id: string; payload: unknown }[]> {
  const id = receivers.find((one) => one.tenant === tenant)?.id ?? ''
  return valueOf(await asAdminOf(tenant).from('webhook_deliveries').select('event_id, payload').eq('endpoint_id', id).order('created_at'))
}

/** An event as its schema has it, and nothing besides. */
function asTyped(payload: unknown): WebhookEvent {
  const event = webhookEvent.parse(payload)
  expect(payload).toEqual(event)
  return event
}

const everTold = new Set<WebhookEventType>()

/** What was told because of a change, by name. */
async function toldBy(change: () => Promise<unknown>): Promise<WebhookEvent[]> {
  const before = new Set((await deliveriesTo(clinic)).map(({ event_id }) => event_id))
  await change()
  const after = await deliveriesTo(clinic)
  const events = after.filter(({ event_id }) => !before.has(event_id)).map(({ payload }) => asTyped(payload))
  for (const { type } of events) everTold.add(type)
  return events.sort((one, other) => one.type.localeCompare(other.type))
}

const typesOf = (events: WebhookEvent[]) => events.map(({ type }) => type)

const attendant = () => asAttendantOf(clinic)

test('a booking is made, confirmed, moved, changed and cancelled: each is told once', async () => {
  const contact = valueOf(
    await attendant().from('contacts').insert({ name: 'Lúcia', phone_number: '+5511912345678' }).select().single(),
  )
  const wish = { ...slot, contact_id: contact.id, start_time: at(day, '09:00') }
  let id = ''
  const [created, ...more] = await toldBy(async () => ({ id } = await book(clinic, { ...wish, notes: 'Alergia a dipirona.' })))
  expect(more).toEqual([])
  expect(created).toMatchObject({
    type: 'booking.created',
    data: {
      organization_id: clinic.organizationId,
      booking: { id, contact_id: contact.id, ...slot, status: 'scheduled', booking_date: day, price_cents: 9000, created_by: 'human', rescheduled_count: 0 },
      contact: { id: contact.id, name: 'Lúcia', phone_number: '+5511912345678' },
    },
  })
  if (created?.type !== 'booking.created') throw new Error('unreachable')
  expect([created.data.booking.start_time, created.data.booking.end_time].map(same)).toEqual([at(day, '09:00'), at(day, '09:30')])
  // Nobody outside reads what may be medical.
  expect(JSON.stringify(created)).not.toContain('dipirona')

  const confirm = async () => valueOf(await attendant().rpc('confirm_booking', { id, confirmed_by: 'patient', confirmation_method: 'whatsapp' }))
  expect(await toldBy(confirm)).toMatchObject([{ type: 'booking.confirmed', data: { booking: { id, status: 'confirmed', confirmed_by: 'patient' } } }])
  expect(await toldBy(confirm)).toEqual([])

  const move = async () => valueOf(await attendant().rpc('reschedule_booking', { id, start_time: at(day, '10:00') }))
  expect(await toldBy(move)).toMatchObject([
    { type: 'booking.rescheduled', data: { booking: { id, status: 'scheduled', rescheduled_count: 1, confirmed_at: null } } },
  ])
  expect(await toldBy(move)).toEqual([])

  const change = async () => valueOf(await attendant().from('bookings').update({ price_cents: 7500 }).eq('id', id).select())
  expect(await toldBy(change)).toMatchObject([{ type: 'booking.updated', data: { booking: { id, price_cents: 7500 } } }])
  expect(await toldBy(change)).toEqual([])

  const tenTimes = async () => {
    const answers = await Promise.all(Array.from({ length: 10 }, () => anAppOf(clinic, 'attendant').rpc('cancel_booking', { id, reason: 'Viajou' })))
    expect(answers.map(({ error }) => nameOf(error))).toEqual(answers.map(() => null))
  }
  expect(await toldBy(tenTimes)).toMatchObject([
    { type: 'booking.cancelled', data: { booking: { id, status: 'cancelled', cancellation_reason: 'Viajou' } } },
  ])
})

test('that it took place, or did not, is told', async () => {
  const contact = await aContact(clinic)
  // Noted down afterwards.
  const start_time = minutesAfter(new Date().toISOString().slice(0, 16) + ':00Z', -45)
  let id = ''
  const noted = () => book(clinic, { ...slot, contact_id: contact.id, start_time, off_schedule: true })
  expect(typesOf(await toldBy(async () => ({ id } = await noted())))).toEqual(['booking.created'])
  expect(await toldBy(async () => valueOf(await attendant().rpc('complete_booking', { id })))).toMatchObject([
    { type: 'booking.completed', data: { booking: { id, completed_at: expect.any(String) } } },
  ])
  expect(await toldBy(async () => valueOf(await attendant().rpc('mark_no_show', { id })))).toMatchObject([
    { type: 'booking.no_show', data: { booking: { id, status: 'no_show', completed_at: null } } },
  ])
})

/** Its time is over, and the clock has seen it. */
async function expire({ id }: { id: string }): Promise<void> {
  await sql`
    with moved as (
      update public.bookings b set hold_expires_at = now() - interval '1 second' where b.id = ${id} and b.status = 'hold' returning b.*
    )
    update public.waiting_list w set offer_expires_at = m.hold_expires_at
    from moved m
    where w.offered_booking_id = m.id and w.status = 'offered'`
  await expireHolds(clinic)
}

test('a hold is told, and whether it was booked, ran out or was given up', async () => {
  const contact = await aContact(clinic)
  const wish = { ...slot, contact_id: contact.id, start_time: at(day, '11:00') }
  let id = ''
  const keep = async () => ({ id } = await hold(clinic, wish))
  expect(await toldBy(keep)).toMatchObject([
    { type: 'booking.held', data: { booking: { status: 'hold', is_offer: false, hold_expires_at: expect.any(String) } } },
  ])
  expect(await toldBy(() => expire({ id }))).toMatchObject([
    { type: 'booking.released', data: { booking: { id, status: 'cancelled', cancellation_reason: 'hold_expired' } } },
  ])
  expect(typesOf(await toldBy(keep))).toEqual(['booking.held'])
  expect(typesOf(await toldBy(() => cancel(clinic, { id })))).toEqual(['booking.released'])
  expect(typesOf(await toldBy(keep))).toEqual(['booking.held'])
  expect(await toldBy(() => book(clinic, { hold_id: id }))).toMatchObject([
    { type: 'booking.created', data: { booking: { id, status: 'scheduled', hold_expires_at: null } } },
  ])
})

test('who waits, is offered a slot, takes it, misses it or leaves is told', async () => {
  const made = await book(clinic, { ...slot, contact_id: (await aContact(clinic)).id, start_time: at(day, '14:00') })
  const contacts = await someContacts(clinic, 4)
  const entries: string[] = []
  for (const { id: contact_id } of contacts) {
    const joined = await toldBy(async () => {
      const { id } = valueOf(await attendant().rpc('join_waiting_list', { ...slot, contact_id }))
      entries.push(id)
    })
    expect(joined).toMatchObject([{ type: 'waiting_list.joined', data: { entry: { id: entries.at(-1), status: 'waiting' }, contact: { id: contact_id } } }])
  }
  const [first, second, third, last] = entries
  const leave = async (id = '') => valueOf(await attendant().rpc('leave_waiting_list', { id }))

  expect(await toldBy(() => leave(last))).toMatchObject([{ type: 'waiting_list.left', data: { entry: { id: last, status: 'cancelled' } } }])
  const freed = await toldBy(() => cancel(clinic, made))
  expect(freed).toMatchObject([
    { type: 'booking.cancelled', data: { booking: { id: made.id } } },
    { type: 'booking.held', data: { booking: { is_offer: true }, contact: { id: contacts[0]?.id } } },
    { type: 'waiting_list.offered', data: { entry: { id: first, status: 'offered', offer_expires_at: expect.any(String) } } },
  ])
  const offered = freed.flatMap((event) => event.type === 'booking.held' ? [event.data.booking] : [])
  const missed = await toldBy(() => expire({ id: offered[0]?.id ?? '' }))
  expect(typesOf(missed)).toEqual(['booking.held', 'booking.released', 'waiting_list.expired', 'waiting_list.offered'])
  expect(missed).toMatchObject([{}, {}, { data: { entry: { id: first } } }, { data: { entry: { id: second } } }])

  const declined = await toldBy(() => leave(second))
  expect(typesOf(declined)).toEqual(['booking.held', 'booking.released', 'waiting_list.left', 'waiting_list.offered'])
  expect(declined).toMatchObject([{}, {}, { data: { entry: { id: second } } }, { data: { entry: { id: third } } }])

  const accept = async () => valueOf(await attendant().rpc('accept_waiting_list_offer', { id: third ?? '' }))
  expect(await toldBy(accept)).toMatchObject([
    { type: 'booking.created', data: { booking: { status: 'scheduled', is_offer: false }, contact: { id: contacts[2]?.id } } },
    { type: 'waiting_list.booked', data: { entry: { id: third, status: 'booked' } } },
  ])
  expect(await toldBy(accept)).toEqual([])
})

test('leads are told; of what the plan hides, only that it is there', async () => {
  const contacts = await someContacts(clinic, 21)
  const [contact, ...others] = contacts
  const contact_id = contact?.id ?? ''
  let id = ''
  expect(await toldBy(async () => ({ id } = valueOf(await attendant().rpc('create_lead', { contact_id, source: 'site', respostas: { prazo: 30 } }))))).toMatchObject([
    { type: 'lead.created', data: { lead: { status: 'novo', previous_status: null, source: 'site', respostas: { prazo: 30 } }, contact: { id: contact_id } } },
  ])
  const contacted = async () => valueOf(await attendant().from('leads').update({ status: 'em_contato' }).eq('id', id).select().single())
  expect(await toldBy(contacted)).toMatchObject([
    { type: 'lead.status_changed', data: { lead: { id, status: 'em_contato', previous_status: 'novo' } } },
  ])
  // The same lead once more is none.
  expect(await toldBy(async () => valueOf(await attendant().rpc('create_lead', { contact_id })))).toEqual([])

  const organization_id = clinic.organizationId
  const many = others.map((other) => ({ organization_id, contact_id: other.id }))
  const events = await toldBy(async () => valueOf(await platform.from('leads').insert(many).select()))
  expect(typesOf(events)).toEqual([...many.slice(1).map(() => 'lead.created'), 'lead.over_limit'])
  const hidden = valueOf(await platform.from('leads').select('id, contact_id').match({ organization_id, over_limit: true }).single())
  expect(events.at(-1)?.data).toEqual({ organization_id, lead_id: hidden.id })
  expect(JSON.stringify(events.at(-1))).not.toContain(hidden.contact_id)
  const upgrade = async () => valueOf(await platform.rpc('set_plan', { organization_id, plan_type: 'pro' }))
  expect(await toldBy(upgrade)).toMatchObject([{ type: 'lead.released', data: { lead: { id: hidden.id }, contact: { id: hidden.contact_id } } }])
})

test('contacts that are merged and taken apart are told, and the bookings that go with them', async () => {
  const [kept, merged] = await someContacts(clinic, 2)
  const made = await book(clinic, { ...slot, contact_id: merged?.id ?? '', start_time: at(day, '16:00') })
  const merge = { keep_contact_id: kept?.id ?? '', merge_contact_id: merged?.id ?? '' }
  const both = { kept_contact_id: kept?.id, merged_contact_id: merged?.id }
  let merge_id = ''
  expect(await toldBy(async () => ({ id: merge_id } = valueOf(await asAdminOf(clinic).rpc('merge_contacts', merge))))).toMatchObject([
    { type: 'booking.updated', data: { booking: { id: made.id, contact_id: kept?.id } } },
    { type: 'contact.merged', data: both },
  ])
  expect(await toldBy(async () => valueOf(await asAdminOf(clinic).rpc('undo_merge', { merge_id })))).toMatchObject([
    { type: 'booking.updated', data: { booking: { id: made.id, contact_id: merged?.id } } },
    { type: 'contact.unmerged', data: { ...both, merge_id } },
  ])
})

test('what did not come to be is told to nobody', async () => {
  const contact = await aContact(clinic)
  const made = await book(clinic, { ...slot, contact_id: contact.id, start_time: at(day, '17:00') })
  const refused = async () => {
    const answers = [
      await attendant().rpc('create_booking', { ...slot, contact_id: contact.id, start_time: at(day, '17:00') }),
      await attendant().rpc('hold_slot', { ...slot, contact_id: contact.id, start_time: at(day, '22:00') }),
      await attendant().rpc('mark_no_show', { id: made.id }),
      await attendant().rpc('reschedule_booking', { id: made.id, start_time: at(day, '21:00') }),
      await asAdminOf(clinic).rpc('merge_contacts', { keep_contact_id: contact.id, merge_contact_id: contact.id }),
    ]
    expect(answers.map(({ error }) => nameOf(error))).toEqual(
      ['slot_unavailable', 'slot_unavailable', 'booking_not_started', 'slot_unavailable', 'cannot_merge'],
    )
  }
  expect(await toldBy(refused)).toEqual([])
  const brokenOff = async () => {
    const halfway = sql.begin(async (sql) => {
      await sql`update public.bookings set status = 'cancelled' where id = ${made.id}`
      await sql`select 1 / 0`
    })
    await expect(halfway).rejects.toThrow('division by zero')
  }
  expect(await toldBy(brokenOff)).toEqual([])
})

test('all of it arrives, signed, at the one endpoint and at nobody else', async () => {
  // Every kind of event that this chapter knows was told.
  expect([...everTold].sort()).toEqual([...TOLD].sort())
  const [own, other] = receivers
  if (own === undefined || other === undefined) throw new Error('unreachable')
  const deliveries = await deliveriesTo(clinic)
  const byId = new Map(deliveries.map(({ event_id, payload }) => [event_id, payload]))
  await seen(
    () => Promise.resolve(new Set(own.receiver.attempts.map(({ headers }) => headers['webhook-id']))),
    ({ size }) => size >= byId.size,
  )
  for (const { headers, body } of own.receiver.attempts) {
    const event = asTyped(new Webhook(own.secret).verify(body, headers))
    expect(event).toEqual(byId.get(headers['webhook-id'] ?? ''))
  }
  expect(other.receiver.attempts).toEqual([])
  expect(await deliveriesTo(neighbour)).toEqual([])
})
