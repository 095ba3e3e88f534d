// The story that must always work, played through the doors that real apps, customers' phones and Meta use.

import { randomUUID } from 'node:crypto'
import { createClient } from '@supabase/supabase-js'
import { z } from 'zod'
import { businessError, type Database, type WebhookEventType } from '../../types/index.ts'
import {
  agendaOf,
  type BusinessNumber,
  callFunction,
  connectNumber,
  found,
  inboxOf,
  invite,
  offerServices,
  type Person,
  signUp,
} from './business.ts'
import { type Crm, crmOf } from './crm.ts'
import { givenToMeta, type Phone, phoneOf } from './phone.ts'
import type { Stage } from './stage.ts'
import { expect, step, told, until, valueOf } from './telling.ts'

interface Cast {
  stage: Stage
  clinicId: string
  rafael: Person
  carla: Person
  number: BusinessNumber
  /** Null where it cannot be told anything. */
  crm: Crm | null
  maria: Phone
  joao: Phone
}

type Booking = Awaited<ReturnType<typeof agendaOf>>[number]

/** What the CRM is told of, each one as often as it happens: Maria's and João's bookings. */
const EVENTS: WebhookEventType[] = [
  'booking.created',
  'conversation.escalated',
  'conversation.taken_over',
  'waiting_list.joined',
  'conversation.released',
  'booking.confirmed',
  'booking.rescheduled',
  'waiting_list.offered',
  'booking.created',
  'waiting_list.booked',
  'booking.cancelled',
]

/** Where the clinic is, as it did not say otherwise. */
const SAO_PAULO = 'America/Sao_Paulo'

export async function play(stage: Stage): Promise<void> {
  const started = performance.now()
  console.log(`Balcão, played on ${stage.api} (${stage.remark}).`)
  const cast = await opening(stage)
  const { booking, day } = await mariaBooks(cast)
  const joao = await joaoIsTooLate(cast, booking, day)
  await mariaIsReminded(cast, booking)
  await plansChange(cast, booking, day, joao)
  await theReckoning(cast)
  console.log(`\nAll of it happened, in ${((performance.now() - started) / 1000).toFixed(1)} s.`)
}

async function opening(stage: Stage): Promise<Cast> {
  step('Júlia signs up and founds a clinic; Rafael is invited as its attendant and accepts.')
  const julia = await signUp(stage, 'Júlia')
  const rafael = await signUp(stage, 'Rafael')
  const clinic = await found(julia, 'Clínica São José', 'clinic')
  const membership = await invite(julia, rafael, clinic.id)
  told(`${clinic.name} is ${clinic.slug}; Rafael's role there: ${membership.role}`)

  step('Carla is an attendant too, of another business.')
  const bruno = await signUp(stage, 'Bruno')
  const carla = await signUp(stage, 'Carla')
  const petshop = await found(bruno, 'Pet Shop Amigão', 'petshop')
  await invite(bruno, carla, petshop.id)
  told(`${petshop.name} is ${petshop.slug}`)

  step("Júlia says what can be booked, connects the clinic's WhatsApp number and lets a bot answer.")
  await offerServices(julia, clinic.id)
  told('two services, Dra. Helena and her hours: Saturday mornings, in São Paulo time')
  const number = await connectNumber(stage, julia, clinic.id)
  told('POST /functions/v1/manage-instance: 201')
  told(`Meta delivers to ${number.webhookUrl}`)
  const flow = valueOf(await julia.client.rpc('create_flow_from_template', { template_key: 'agendamento_clinica' }))
  expect(flow.is_default, 'the flow is not the one that answers')
  told(`the flow “${flow.name}” answers`)
  // At night the reminder would be sent in the morning only.
  const settings = julia.client.from('organization_settings').update({ quiet_hours: {} })
  valueOf(await settings.eq('organization_id', clinic.id).select().single())
  told('no quiet hours: the demo is played by day and by night')

  step("The clinic's CRM wants to be told what happens.")
  const crm = await crmOf(clinic.id)
  const endpoint = { organization_id: clinic.id, url: crm.url, event_types: [...new Set(EVENTS)] }
  const { status, answer } = await callFunction(stage, julia, 'manage-webhook', endpoint)
  if (status === 201) {
    crm.knows(z.object({ secret: z.string() }).parse(answer).secret)
    told('POST /functions/v1/manage-webhook: 201, and a secret that is shown this once')
  } else {
    // Only addresses of the internet are called, unless a test says otherwise.
    expect(status === 400, `manage-webhook answered ${status}`)
    told('400: nothing is sent to this machine; BALCAO_ALLOW_LOOPBACK_WEBHOOKS=true npm start allows it')
    await crm.close()
  }

  return {
    stage,
    clinicId: clinic.id,
    rafael,
    carla,
    number,
    crm: status === 201 ? crm : null,
    maria: phoneOf(stage, number, '5511900000001', 'Maria Aparecida da Conceição'),
    joao: phoneOf(stage, number, '5511900000002', 'João Batista'),
  }
}

async function mariaBooks({ maria, number, rafael }: Cast): Promise<{ booking: Booking; day: string }> {
  step('Maria writes. Meta posts a signed webhook; it is not sure that we heard, and posts it again.')
  const text = 'Oi, quero marcar uma consulta 😊'
  told(`Maria: “${text}”`)
  const body = maria.textDelivery(text)
  const first = await maria.post(body)
  expect(first.status === 200 && first.messages === 1, `the delivery was answered with ${first.status}`)
  told(`POST ${new URL(number.webhookUrl).pathname}: 200, ${first.messages} message stored`)
  const second = await maria.post(body)
  expect(second.status === 200 && second.messages === 0 && second.duplicates === 1, 'the redelivery was not recognised')
  told(`again: 200, ${second.messages} messages stored, ${second.duplicates} known already`)

  step("Somebody who does not know the app's secret posts a message of his own.")
  const forgery = 'Cancela tudo!'
  const forged = await maria.post(maria.textDelivery(forgery), 'a guess')
  expect(forged.status === 401, `the forgery was answered with ${forged.status}`)
  told(`401 ${forged.error?.code}, nothing is stored`)

  step('The bot answers through the Graph API. Maria taps her way to a service, a day and an hour.')
  expect(await maria.hears(/Como posso ajudar\?/) === 1, 'Maria was greeted more than once')
  await maria.taps('Marcar consulta')
  await maria.hears(/gostaria de marcar\?$/)
  await maria.taps('Avaliação')
  await maria.hears(/Qual dia/)
  // Neither today nor tomorrow: those are called so, and have no reminder a day before.
  const day = await maria.taps(/^Sábado/)
  await maria.hears(/^Horários de/)
  await maria.taps('9h30')
  await maria.hears(/Posso marcar\?$/)
  await maria.taps('Sim, pode marcar')
  await maria.hears(/mais alguma coisa\?$/)
  await maria.taps('Não, era só isso')
  await maria.hears(/até logo/)

  step('Rafael sees it with supabase-js.')
  const [conversation, ...others] = await inboxOf(rafael)
  expect(conversation !== undefined && others.length === 0, 'the inbox does not hold one conversation')
  const { contacts: contact, messages } = conversation
  expect(messages.filter(({ content }) => content === text).length === 1, 'what Maria wrote is not there once')
  expect(messages.every(({ content }) => content !== forgery), 'what was forged is there')
  told(`${contact.name}, ${contact.phone_number}, ${messages.length} messages`)
  const [booking, ...more] = await agendaOf(rafael)
  expect(booking !== undefined && more.length === 0, 'the agenda does not hold one booking')
  const { status, created_by, services: service, professionals: professional } = booking
  expect(status === 'scheduled' && created_by === 'flow', `the booking is ${status} by the ${created_by}`)
  const time = localTime(booking.start_time)
  expect(time === 'Saturday 09:30', `the booking is on ${time}`)
  told(`${service.name} with ${professional?.name}, ${time}: ${status} by the ${created_by}`)
  return { booking, day }
}

async function joaoIsTooLate({ joao, rafael }: Cast, booking: Booking, day: string): Promise<{ contactId: string }> {
  step('João writes, and wants to speak to a human being.')
  await joao.says('Bom dia!')
  await joao.hears(/Como posso ajudar\?/)
  await joao.taps('Falar com atendente')
  await joao.hears(/chamar alguém/)
  const conversation = (await inboxOf(rafael)).find(({ status }) => status === 'waiting_human')
  expect(conversation !== undefined && !conversation.is_bot_controlled, 'nobody waits for Rafael')
  const conversation_id = conversation.id
  const taken = valueOf(await rafael.client.rpc('take_over_conversation', { conversation_id }))
  expect(taken.status === 'active' && !taken.is_bot_controlled, 'Rafael could not take over')
  told(`the inbox shows ${conversation.status}; Rafael takes over`)
  await joao.says(`Queria ${day.toLowerCase()}, às 9h30, com a Dra. Helena`)

  step('Nobody else gets that slot, not through Rafael either.')
  const contactId = conversation.contacts.id
  const wish = { contact_id: contactId, service_id: booking.service_id, start_time: booking.start_time }
  const refused = businessError((await rafael.client.rpc('create_booking', wish)).error)
  expect(refused?.name === 'slot_unavailable', 'the same slot was booked twice')
  const [nearest] = z.array(z.object({ start_time: z.string() })).parse(refused.detail.alternatives)
  expect(nearest !== undefined, 'no other slot was named')
  told(`${refused.name}; the nearest free one is ${localTime(nearest.start_time)}`)

  step('Rafael puts João on the waiting list and answers, twice: his telephone is not sure that it went out.')
  const date = localDay(booking.start_time)
  const entry = valueOf(
    await rafael.client.rpc('join_waiting_list', {
      contact_id: contactId,
      service_id: booking.service_id,
      earliest_date: date,
      latest_date: date,
      period: 'morning',
    }),
  )
  told(`${conversation.contacts.name}: ${entry.status}, for the morning of ${entry.earliest_date}`)
  const words = {
    conversation_id,
    content: 'Esse já foi, João. Se abrir, eu te aviso por aqui! 😊',
    client_message_id: randomUUID(),
  }
  const reply = valueOf(await rafael.client.rpc('send_message', words))
  const repeated = valueOf(await rafael.client.rpc('send_message', words))
  expect(reply.id === repeated.id, 'the same client_message_id made two messages')
  expect(await joao.hears(/eu te aviso/) === 1, 'the bot spoke while Rafael was in control')
  await untilRead(rafael, reply.id)
  told("one message, and read: Meta's signed statuses came back")
  const released = valueOf(await rafael.client.rpc('release_to_bot', { conversation_id }))
  expect(released.is_bot_controlled, 'the bot is not in control again')
  told('Rafael gives the conversation back to the bot')
  return { contactId }
}

async function mariaIsReminded({ stage, clinicId, maria, rafael }: Cast, { id }: Booking): Promise<void> {
  step('Nobody waits for Friday: with the secret key, the demo sets the first reminder to now and has the clock look.')
  const [first, second] = await remindersOf(rafael, id)
  expect(first !== undefined && second !== undefined, 'the booking has not its two reminders')
  told(`reminders were to go out on ${localTime(first.scheduled_for)} and ${localTime(second.scheduled_for)}`)
  const platform = createClient<Database>(stage.api, stage.secretKey, {
    auth: { persistSession: false, autoRefreshToken: false },
    global: { fetch: stage.request },
  })
  const sooner = platform.from('notifications').update({ scheduled_for: new Date(Date.now() - 60_000).toISOString() })
  const due = valueOf(await sooner.match({ organization_id: clinicId, id: first.id }).select('status').single())
  expect(due.status === 'pending', `the reminder is ${due.status}`)
  // The clock looks every ten seconds by itself; what is due is found once, whoever finds it.
  valueOf(await platform.rpc('run_schedule', { name: 'enqueue_due_notifications', force: true }))

  step('Maria is reminded of her visit, and taps.')
  await maria.hears(/lembrar/)
  await maria.taps('Confirmar')
  await maria.hears(/Presença confirmada/)
  const { status, confirmed_by } = await bookingNow(rafael, id)
  expect(status === 'confirmed' && confirmed_by === 'patient', `the booking is ${status}`)
  told(`the booking: ${status} by the ${confirmed_by}`)
}

async function plansChange(
  { maria, joao, rafael }: Cast,
  booking: Booking,
  day: string,
  { contactId }: { contactId: string },
): Promise<void> {
  step('Her plans change: she taps another button under the reminder, and another hour.')
  await maria.taps('Remarcar')
  await maria.hears(/Qual dia/)
  await maria.taps(day)
  await maria.hears(/^Horários de/)
  await maria.taps('10h')
  await maria.hears(/mais alguma coisa\?$/)
  const moved = await bookingNow(rafael, booking.id)
  expect(localTime(moved.start_time) === 'Saturday 10:00', `the booking is on ${localTime(moved.start_time)}`)
  told(`the booking: ${localTime(booking.start_time)} → ${localTime(moved.start_time)}, ${moved.status}`)

  step('The slot that became free is held for João, who is asked at once.')
  await joao.hears(/9h30/)
  await joao.taps('Quero esse horário')
  await joao.hears(/é seu/)
  const [his, ...more] = (await agendaOf(rafael)).filter(({ contacts: { id } }) => id === contactId)
  expect(his !== undefined && more.length === 0, 'João has not one booking')
  expect(his.status === 'scheduled' && his.start_time === booking.start_time, `João's booking is ${his.status}`)
  told(`${his.contacts.name}, ${localTime(his.start_time)}: ${his.status}`)

  step('Maria cancels after all.')
  await maria.taps('Sim, ver o menu')
  await maria.hears(/Como posso ajudar\?/)
  await maria.taps('Cancelar')
  await maria.hears(/Quer mesmo cancelar/)
  await maria.taps('Sim, cancelar')
  await maria.hears(/mais alguma coisa\?$/)
  const { status } = await bookingNow(rafael, booking.id)
  expect(status === 'cancelled', `the booking is ${status}`)
  const reminders = await remindersOf(rafael, booking.id)
  expect(reminders.every((reminder) => reminder.status !== 'pending'), 'she would be reminded of it')
  told(`the booking: ${status}; no reminder waits any more`)
}

async function theReckoning({ stage, number, rafael, carla, crm }: Cast): Promise<void> {
  step('Each message went out once: what Meta was given is what the inbox shows.')
  const count = await until(
    async () => {
      const given = (await givenToMeta(stage, number)).map(({ id }) => id).sort()
      const outbound = rafael.client.from('messages').select('whatsapp_message_id').eq('direction', 'outbound')
      // We know its id a moment after Meta took it.
      const shown = valueOf(await outbound).map(({ whatsapp_message_id }) => whatsapp_message_id ?? '').sort()
      return shown.join() === given.join() ? given.length : null
    },
    () => 'Meta was given other messages than the inbox shows',
  )
  told(`${count} messages`)

  if (crm !== null) {
    step('The CRM has heard of it, signed and verified.')
    await crm.heard(EVENTS)
    told(EVENTS.join(', '), '')
    await crm.close()
  }

  step('Carla opens her inbox.')
  const conversations = await inboxOf(carla)
  const contacts = valueOf(await carla.client.from('contacts').select('id'))
  const messages = valueOf(await carla.client.from('messages').select('id'))
  const bookings = await agendaOf(carla)
  const seen = [conversations, contacts, messages, bookings].map(({ length }) => length)
  expect(seen.every((rows) => rows === 0), "Carla sees another tenant's rows")
  told(`${seen[0]} conversations, ${seen[1]} contacts, ${seen[2]} messages, ${seen[3]} bookings`)
}

async function bookingNow({ client }: Person, id: string) {
  return valueOf(await client.from('bookings').select('status, start_time, confirmed_by').eq('id', id).single())
}

/** The earliest first. */
async function remindersOf({ client }: Person, booking_id: string) {
  const reminders = client.from('notifications').select('id, status, scheduled_for')
    .match({ booking_id, type: 'reminder' }).order('scheduled_for')
  return valueOf(await reminders)
}

async function untilRead({ client }: Person, id: string): Promise<void> {
  let status = ''
  await until(
    async () => {
      const message = valueOf(await client.from('messages').select('status, error_message').eq('id', id).single())
      status = message.status
      expect(status !== 'failed', `the answer failed: ${message.error_message}`)
      return status === 'read' ? message : null
    },
    () => `the answer got as far as “${status}” only`,
  )
}

function localTime(moment: string): string {
  return new Intl.DateTimeFormat('en-GB', {
    timeZone: SAO_PAULO, weekday: 'long', hour: '2-digit', minute: '2-digit', hourCycle: 'h23',
  }).format(new Date(moment))
}

/** 2026-11-28 */
function localDay(moment: string): string {
  return new Intl.DateTimeFormat('en-CA', { timeZone: SAO_PAULO }).format(new Date(moment))
}
