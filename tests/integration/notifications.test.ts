// Reminders, on the real stack: they reach the customer once, whoever dies in between; not after the booking was cancelled;
// and a tap or a word in answer to one changes the booking.

import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import type { Tables } from '../../types/index.ts'
import { aProfessional, aService, at, bookingNow, cancel, dayAhead } from '../support/agendas.ts'
import { aConversation, aWaId, type Conversation, seen } from '../support/conversations.ts'
import { metaOf } from '../support/graph.ts'
import { runningStack } from '../support/running-stack.ts'
import { asAdminOf, asAttendantOf, aTenant, type ConnectedNumber, connectNumber, type Tenant, valueOf } from '../support/tenants.ts'

const backend = runningStack()
const meta = metaOf(backend)

/** Past every door: to move time. */
const sql = postgres(backend.urls.admin, { max: 8, onnotice: () => undefined })

let clinic: Tenant
let number: ConnectedNumber
let service: Tables<'services'>

beforeAll(async () => {
  clinic = await aTenant(backend, 'Clínica que Lembra', ['admin', 'attendant'])
  number = await connectNumber(clinic)
  service = await aService(clinic, { duration_minutes: 30 })
  await aProfessional(clinic, 'Dra. Lúcia', [service], { starts_at: '08:00', ends_at: '18:00' })
  // At whatever hour this is told, it is not at night; and what a booking says at once is another story.
  valueOf(
    await asAdminOf(clinic).from('organization_settings')
      .update({ quiet_hours: {}, sends_confirmations: false, notification_daily_cap: 100 })
      .eq('organization_id', clinic.organizationId).select().single(),
  )
})

afterAll(() => sql.end({ timeout: 1 }))

let booked = 0

/** At a time that nobody else has. */
async function visit({ contactId }: Conversation): Promise<Tables<'bookings'>> {
  const index = booked++
  const start_time = at(dayAhead(3 + Math.floor(index / 18)), `${String(8 + Math.floor((index % 18) / 2)).padStart(2, '0')}:${index % 2 ? '30' : '00'}`)
  return valueOf(
    await asAttendantOf(clinic).rpc('create_booking', { contact_id: contactId, service_id: service.id, start_time }),
  )
}

type Notification = Tables<'notifications'>

async function remindersOf({ id }: { id: string }): Promise<Notification[]> {
  return valueOf(
    await asAttendantOf(clinic).from('notifications').select('*').eq('booking_id', id).eq('type', 'reminder').order('scheduled_for'),
  )
}

/** One of a booking's reminders is due now; the clock of the stack does the rest, or need not be waited for. */
async function isDue(booking: { id: string }, index = 0, clock: 'strikes' | 'is waited for' = 'strikes'): Promise<Notification> {
  const reminder = (await remindersOf(booking))[index]
  if (reminder === undefined) throw new Error('The booking has no such reminder.')
  await sql`update public.notifications set scheduled_for = now() where id = ${reminder.id}`
  if (clock === 'strikes') await sql`select private.enqueue_due_notifications()`
  return reminder
}

async function notificationNow({ id }: { id: string }): Promise<Notification> {
  return valueOf(await asAttendantOf(clinic).from('notifications').select('*').eq('id', id).single())
}

const sentToMeta = z.object({
  biz_opaque_callback_data: z.string().optional(),
  text: z.object({ body: z.string() }).optional(),
  interactive: z.object({
    body: z.object({ text: z.string() }),
    action: z.object({ buttons: z.array(z.object({ reply: z.object({ id: z.string(), title: z.string() }) })).optional() }),
  }).optional(),
})

/** What Meta was asked to send to a customer, in that order. */
async function received({ waId }: Conversation) {
  return (await meta.sends(number)).filter(({ to }) => to === `+${waId}`).map(({ body }) => sentToMeta.parse(body))
}

/** So many messages have reached the customer, and WhatsApp's answers to us have, too: he can answer them in words. */
async function hasRead(customer: Conversation, count: number): Promise<string[]> {
  await seen(
    async () => valueOf(
      await asAttendantOf(clinic).from('messages').select('whatsapp_message_id').eq('contact_id', customer.contactId).eq('direction', 'outbound'),
    ),
    (messages) => messages.length === count && messages.every(({ whatsapp_message_id }) => whatsapp_message_id !== null),
  )
  return textsOf(await received(customer))
}

const textsOf = (messages: z.infer<typeof sentToMeta>[]) =>
  messages.map(({ text, interactive }) => text?.body ?? interactive?.body.text ?? '')

describe('a reminder', () => {
  test('reaches the customer with buttons, and a tap confirms the visit', async () => {
    const customer = await aConversation(clinic, number, aWaId())
    const booking = await visit(customer)
    expect((await remindersOf(booking)).map(({ offset_minutes, status }) => [offset_minutes, status])).toEqual([
      [1440, 'pending'],
      [120, 'pending'],
    ])

    const reminder = await isDue(booking, 0, 'is waited for')
    const [message] = await seen(() => received(customer), ({ length }) => length === 1)
    expect(message?.interactive?.body.text).toMatch(/^Olá, Ana! 😊 Passando para lembrar do seu horário na Clínica que Lembra: .* com Dra. Lúcia, .*às 8h\./)
    const [confirm] = message?.interactive?.action.buttons ?? []
    expect(confirm?.reply).toEqual({ id: `notification:${reminder.id}:confirm`, title: 'Confirmar' })
    expect(await notificationNow(reminder)).toMatchObject({ status: 'sent', attempts: 1, reason: null })

    await aConversation(clinic, number, customer.waId, {
      type: 'interactive',
      interactive: { type: 'button_reply', button_reply: confirm?.reply ?? {} },
    })
    const confirmed = await seen(() => bookingNow(clinic, booking), ({ status }) => status === 'confirmed')
    expect(confirmed).toMatchObject({ confirmed_by: 'patient', confirmation_method: 'whatsapp' })
    const texts = await seen(async () => textsOf(await received(customer)), ({ length }) => length === 2)
    expect(texts[1]).toMatch(/^Presença confirmada! ✅/)
    expect(await notificationNow(reminder)).toMatchObject({ answer: 'confirm' })
  })

  test('is answered in words, of which those that cancel are asked back; the flow hears nothing of it, but of everything else', async () => {
    const customer = await aConversation(clinic, number, aWaId())
    const booking = await visit(customer)
    await isDue(booking)
    await hasRead(customer, 1)
    const flow = valueOf(
      await asAdminOf(clinic).from('flows').insert({
        name: 'Recepção',
        is_default: true,
        definition: {
          etapas: [{ id: 'oi', tipo: 'pergunta', pergunta: 'Em que posso ajudar?', proxima: 'fim' }, { id: 'fim', tipo: 'fim', pergunta: 'Anotado!' }],
        },
      }).select().single(),
    )
    try {
      await aConversation(clinic, number, customer.waId, { type: 'text', text: { body: 'Cancelar, por favor' } })
      expect((await hasRead(customer, 2))[1]).toMatch(/^Você quer cancelar este horário\? .* com Dra. Lúcia, .*\.$/)
      expect(await bookingNow(clinic, booking)).toMatchObject({ status: 'scheduled' })
      await aConversation(clinic, number, customer.waId, { type: 'text', text: { body: 'Sim' } })
      await seen(() => bookingNow(clinic, booking), ({ status }) => status === 'cancelled')
      expect((await hasRead(customer, 3))[2]).toMatch(/^Pronto, seu horário foi cancelado\./)

      await aConversation(clinic, number, customer.waId, { type: 'text', text: { body: 'Qual é o endereço?' } })
      await seen(async () => textsOf(await received(customer)), (all) => all[3] === 'Em que posso ajudar?')
    } finally {
      valueOf(await asAdminOf(clinic).from('flows').update({ is_default: false }).eq('id', flow.id).select().single())
    }
  })

  test('is not sent to who has opted out, and follows who comes back', async () => {
    const customer = await aConversation(clinic, number, aWaId())
    const booking = await visit(customer)
    await aConversation(clinic, number, customer.waId, { type: 'text', text: { body: 'Sair da lista.' } })
    const texts = await seen(async () => textsOf(await received(customer)), ({ length }) => length === 1)
    expect(texts[0]).toMatch(/responda VOLTAR\.$/)
    const reminder = await isDue(booking)
    expect(await seen(() => notificationNow(reminder), ({ status }) => status !== 'pending')).toMatchObject({
      status: 'skipped',
      reason: 'opted_out',
    })
    await aConversation(clinic, number, customer.waId, { type: 'text', text: { body: 'voltar' } })
    await seen(() => received(customer), ({ length }) => length === 2)
    await isDue(booking, 1)
    const all = await seen(async () => textsOf(await received(customer)), ({ length }) => length === 3)
    expect(all[2]).toMatch(/Podemos contar com a sua presença\?$/)
  })
})

interface Claimed {
  organization_id: string
  id: string
  fencing_token: string
}

/** The job of a reminder that is due, held by this test before a worker can see it. */
async function claimed(booking: { id: string }): Promise<{ reminder: Notification; job: Claimed }> {
  const [reminder] = await remindersOf(booking)
  if (reminder === undefined) throw new Error('The booking has no reminder.')
  const job = await sql.begin(async (transaction) => {
    const [due] = await transaction<Claimed[]>`
      with enqueued as (
        select q.*
        from public.notifications n
        cross join lateral private.enqueue_job(
          n.organization_id, 'send_notification', jsonb_build_object('notification_id', n.id), 0, now(), null,
          'notification:' || n.id || ':' || n.version, 8) q
        where n.id = ${reminder.id}
      )
      select organization_id, id, 1::bigint as fencing_token from enqueued`
    if (due === undefined) throw new Error('There is no job.')
    await transaction`update public.notifications set scheduled_for = now() where id = ${reminder.id}`
    await transaction`
      update public.message_queue
      set status = 'processing', fencing_token = 1, attempts = 1, locked_by = 'test', lease_expires_at = now() + interval '10 minutes'
      where organization_id = ${due.organization_id} and id = ${due.id}`
    return due
  })
  return { reminder, job }
}

test('a worker that dies before its commit has sent nothing, and the next one sends once', async () => {
  const customer = await aConversation(clinic, number, aWaId())
  const { reminder, job } = await claimed(await visit(customer))
  const doomed = postgres(backend.urls.admin, { max: 1, onnotice: () => undefined })
  await expect(doomed.begin(async (transaction) => {
    const [answer] = await transaction`select private.send_notification(${sql.json({ ...job })}) as answer`
    expect(answer?.answer).toEqual({ action: 'done', reason: 'sent' })
    const [backendOf] = await transaction`select pg_backend_pid() as pid`
    await sql`select pg_terminate_backend(${backendOf?.pid})`
    await transaction`select 1`
  })).rejects.toThrow()
  await doomed.end({ timeout: 1 })
  expect(await notificationNow(reminder)).toMatchObject({ status: 'pending', attempts: 0 })
  expect(await received(customer)).toEqual([])

  // Its lease ends: the worker of the stack takes the job over.
  await sql`update public.message_queue set lease_expires_at = now() where id = ${job.id}`
  await seen(() => notificationNow(reminder), ({ status }) => status === 'sent')
  await seen(() => received(customer), ({ length }) => length === 1)
  await expect(sql`select private.send_notification(${sql.json({ ...job })})`).rejects.toMatchObject({ code: 'BL301' })
  expect(await received(customer)).toHaveLength(1)
})

test('20 workers with a job each for the same reminder send it once', async () => {
  const customer = await aConversation(clinic, number, aWaId())
  const booking = await visit(customer)
  const [reminder] = await remindersOf(booking)
  if (reminder === undefined) throw new Error('The booking has no reminder.')
  await sql`update public.notifications set scheduled_for = now() where id = ${reminder.id}`
  await sql`
    select from generate_series(1, 20) n
    cross join lateral public.enqueue_job(
      ${clinic.organizationId}, 'send_notification', jsonb_build_object('notification_id', ${reminder.id}::uuid))`
  await sql`select pg_notify('balcao_wake', '')`
  const left = async () =>
    (await sql`
      select from public.message_queue
      where payload ->> 'notification_id' = ${reminder.id} and status <> 'completed'`).length
  await seen(left, (count) => count === 0)
  await seen(() => received(customer), ({ length }) => length === 1)
  expect(await received(customer)).toHaveLength(1)
})

test('a booking that is cancelled at a random instant, 60 times: what had not begun by then is not sent', async () => {
  const LANES = 6
  const ROUNDS = 10
  const chats: Conversation[] = []
  for (let lane = 0; lane < LANES; lane++) chats.push(await aConversation(clinic, number, aWaId()))
  let withdrawn = 0
  let tooLate = 0
  await Promise.all(chats.map(async (chat) => {
    for (let round = 0; round < ROUNDS; round++) {
      const booking = await visit(chat)
      const reminder = await isDue(booking)
      await sleep(Math.random() * 120)
      await cancel(clinic, booking)
      const [begun] = await sql<{ begun: boolean }[]>`
        select m.whatsapp_message_id is not null or u.message_id is not null or m.status > 'queued' and m.status <> 'failed' as begun
        from public.notifications n
        left join public.messages m on m.id = n.message_id
        left join private.unanswered_sends u on u.message_id = m.id
        where n.id = ${reminder.id}`
      const after = await notificationNow(reminder)
      if (begun?.begun) {
        tooLate++
        expect(after.status).toBe('sent')
      } else {
        withdrawn++
        expect(after).toMatchObject({ status: 'cancelled', reason: 'booking_cancelled' })
      }
    }
  }))
  expect(withdrawn + tooLate).toBe(LANES * ROUNDS)
  console.info(`cancelled in time ${withdrawn}, after the call had begun ${tooLate}`)
  const waiting = async () =>
    (await sql`
      select from public.message_queue
      where organization_id = ${clinic.organizationId} and status not in ('completed', 'dead')`).length
  await seen(waiting, (count) => count === 0)
  const reached = (await Promise.all(chats.map(received))).flat().filter(({ interactive }) => interactive !== undefined)
  expect(reached).toHaveLength(tooLate)
})

test('an opt-out at a random instant, 36 times: what had not begun by then is not sent', async () => {
  const LANES = 6
  const ROUNDS = 6
  const customers: Conversation[] = []
  let withdrawn = 0
  let tooLate = 0
  await Promise.all(Array.from({ length: LANES }, async () => {
    for (let round = 0; round < ROUNDS; round++) {
      const customer = await aConversation(clinic, number, aWaId())
      customers.push(customer)
      const booking = await visit(customer)
      const reminder = await isDue(booking)
      await sleep(Math.random() * 120)
      // It is stored when this returns: from here on nothing begins for him.
      await aConversation(clinic, number, customer.waId, { type: 'text', text: { body: 'Parar' } })
      const [begun] = await sql<{ begun: boolean }[]>`
        select m.whatsapp_message_id is not null or u.message_id is not null or m.status > 'queued' and m.status <> 'failed' as begun
        from public.notifications n
        left join public.messages m on m.id = n.message_id
        left join private.unanswered_sends u on u.message_id = m.id
        where n.id = ${reminder.id}`
      if (begun?.begun) {
        tooLate++
        continue
      }
      withdrawn++
      expect(await seen(() => notificationNow(reminder), ({ status }) => status !== 'pending')).toMatchObject({
        status: expect.stringMatching(/^(cancelled|skipped)$/),
        reason: 'opted_out',
      })
    }
  }))
  expect(withdrawn + tooLate).toBe(LANES * ROUNDS)
  console.info(`opted out in time ${withdrawn}, after the call had begun ${tooLate}`)
  const waiting = async () =>
    (await sql`
      select from public.message_queue
      where organization_id = ${clinic.organizationId} and status not in ('completed', 'dead')`).length
  await seen(waiting, (count) => count === 0)
  const reached = (await Promise.all(customers.map(received))).flat().filter(({ interactive }) => interactive !== undefined)
  expect(reached).toHaveLength(tooLate)
})
