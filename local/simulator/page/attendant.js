// The other side of the desk: the conversation as an attendant's app sees it, and the bookings that came out of it.

import { byId, composer, element, keepingTheEnd, show, tick } from './elements.js'
import { contentOf, meta, optionsOf } from './phone.js'
import { BOOKING, calendarDay, CONVERSATION, fateOf, PRIORITY, readable } from './words.js'

/**
 * @typedef {import('../view.ts').View} View
 * @typedef {{ user_id: string, name: string, role: string }} Member
 * @typedef {{ flow: string | null, template: { key: string, name: string } | null }} Bot
 * @typedef {{ members: Member[], timezone: string, bot: Bot, customer: { name: string, phone_number: string }, member: string }} Desk
 */

const log = byId('inbox-log', HTMLElement)
const facts = byId('facts', HTMLElement)
const closing = byId('close-dialog', HTMLDialogElement)

/** @param {{ control: (action: string, more?: object) => Promise<void>, reply: (text: string) => void, startBot: () => void }} actions */
export function startAttendant({ control, reply, startBot }) {
  composer(byId('reply-form', HTMLFormElement), byId('reply-text', HTMLTextAreaElement), reply)
  for (const name of ['take_over', 'release', 'reopen']) {
    controlButton(name).addEventListener('click', () => void control(name))
  }
  controlButton('bot').addEventListener('click', startBot)
  controlButton('close').addEventListener('click', () => closing.showModal())
  const form = byId('close-form', HTMLFormElement)
  form.addEventListener('submit', (event) => {
    event.preventDefault()
    closing.close()
    const score = new FormData(form).get('score')
    void control('close', { satisfaction_score: score ? Number(score) : null })
  })
  // Whoever touches the inbox has seen what is in it.
  for (const event of ['focusin', 'pointerdown']) {
    byId('attendant', HTMLElement).addEventListener(event, () => {
      if (!byId('unread', HTMLElement).hidden) void control('read')
    })
  }
}

/** @param {View | null} view @param {Desk} desk @param {boolean} toTheEnd */
export function showAttendant(view, { members, timezone, bot, customer, member }, toTheEnd) {
  const conversation = view?.conversation ?? null
  const nameOf = (/** @type {string | null} */ userId) =>
    members.find(({ user_id }) => user_id === userId)?.name ?? 'uma pessoa da equipe'
  byId('contact-name', HTMLElement).textContent = view?.contact?.name ?? view?.contact?.profile_name ?? customer.name
  byId('contact-number', HTMLElement).textContent = readable(customer.phone_number)

  show(facts, factsOf(conversation, bot, nameOf), {
    key: ({ name }) => name,
    make: ({ name, value, mood }) =>
      element('div', mood === undefined ? {} : { class: mood }, element('dt', {}, name), element('dd', {}, value)),
  })
  const isOpen = conversation?.is_open === true
  const isTheirs = isOpen && !conversation.is_bot_controlled && conversation.status !== 'waiting_human' &&
    conversation.assigned_user_id === member
  controlButton('take_over').hidden = !isOpen || isTheirs
  controlButton('release').hidden = !isOpen || conversation.is_bot_controlled
  controlButton('close').hidden = !isOpen
  controlButton('reopen').hidden = conversation === null || isOpen
  controlButton('bot').hidden = bot.template === null
  controlButton('bot').title = bot.template?.name ?? ''

  const field = byId('reply-text', HTMLTextAreaElement)
  field.disabled = !isOpen
  field.placeholder = isOpen ? 'Responder' : conversation === null ? 'Ainda não há conversa' : 'Conversa encerrada'
  byId('reply-hint', HTMLElement).textContent = isOpen && conversation.is_bot_controlled
    ? 'Quem responde assume a conversa: o robô se cala.'
    : ''

  keepingTheEnd(log, () =>
    show(log, view?.messages ?? [], {
      key: ({ id }) => id,
      state: (message) => ({ ...message, created_at: null }),
      make: (message) => entry(message, nameOf, timezone),
    }), toTheEnd)
  count('unread', conversation?.unread_count ?? 0, 'não lida', 'não lidas')
}

/**
 * @param {View['conversation']} conversation
 * @param {Bot} bot
 * @param {(userId: string | null) => string} nameOf
 * @returns {{ name: string, value: string, mood?: string }[]}
 */
function factsOf(conversation, bot, nameOf) {
  const flow = { name: 'Fluxo do robô', value: bot.flow ?? 'Nenhum: o robô não responde' }
  if (conversation === null) return [{ name: 'Conversa', value: 'Ainda não começou' }, flow]
  const {
    status,
    is_open,
    is_bot_controlled,
    assigned_user_id,
    control_epoch,
    priority,
    escalation_reason,
    satisfaction_score,
  } = conversation
  /** @type {{ name: string, value: string, mood?: string }[]} */
  const list = [{ name: 'Conversa', value: CONVERSATION[status] ?? status, mood: status }]
  if (is_open) {
    const human = status === 'waiting_human' && assigned_user_id === null ? 'Ninguém ainda' : nameOf(assigned_user_id)
    list.push({
      name: 'No controle',
      value: is_bot_controlled ? 'Robô' : human,
      mood: is_bot_controlled ? 'bot' : 'human',
    })
  }
  list.push({ name: 'Trocas de controle', value: String(control_epoch) })
  if (is_open && is_bot_controlled) list.push(flow)
  if (priority !== 'normal') list.push({ name: 'Prioridade', value: PRIORITY[priority] ?? priority })
  if (is_open && escalation_reason !== null) list.push({ name: 'Motivo', value: escalation_reason })
  if (satisfaction_score !== null) list.push({ name: 'Nota', value: `${satisfaction_score} de 5` })
  return list
}

/** @param {View['messages'][number]} message @param {(userId: string | null) => string} nameOf @param {string} timezone */
function entry(message, nameOf, timezone) {
  const isOurs = message.direction === 'outbound'
  const who = {
    contact: 'Cliente',
    bot: 'Robô',
    ai: 'IA',
    system: 'Sistema',
    human: nameOf(message.sender_user_id),
  }[message.sender]
  const place = meta(message.created_at, timezone)
  if (isOurs) {
    const { shape, label, isRead } = fateOf(message.status)
    place.append(tick(shape, label, isRead))
  }
  const bubble = element(
    'div',
    { class: 'bubble' },
    element('span', { class: `sender ${message.sender}` }, who),
    ...(message.revoked_at === null ? contentOf(message) : [element('em', {}, 'Mensagem apagada')]),
    place,
  )
  const choice = optionsOf(message)
  if (choice !== null) {
    const titles = (choice.type === 'button' ? choice.options : choice.sections.flatMap(({ rows }) => rows)).map((
      { title },
    ) => title)
    place.before(element('span', { class: 'footer' }, `Opções: ${titles.join(' · ')}`))
  }
  if (message.status === 'failed') {
    place.before(
      element(
        'span',
        { class: 'problem' },
        message.error_code === 'superseded'
          ? 'Não saiu: a conversa trocou de mãos'
          : `Não saiu: ${message.error_message ?? message.error_code ?? 'sem motivo'}`,
      ),
    )
  }
  return element('div', { class: `row ${isOurs ? 'own' : 'other'}` }, bubble)
}

/** @param {View['bookings']} bookings @param {string} timezone Of the organization. */
export function showBookings(bookings, timezone) {
  show(byId('bookings-list', HTMLElement), bookings, {
    key: ({ id }) => id,
    make: ({ status, start_time, service, professional, pet, location }) => {
      const { day, month, weekday, time, whole } = calendarDay(start_time, location?.timezone ?? timezone)
      const details = [professional?.name, pet?.name, location?.name].filter((part) => part)
      return element(
        'li',
        { class: `booking ${status}` },
        element('span', { class: 'date', 'aria-hidden': 'true' }, element('b', {}, day), month),
        element(
          'div',
          {},
          element('h3', {}, service?.name ?? 'Serviço'),
          element('p', {}, element('time', { datetime: start_time, 'aria-label': whole }, `${weekday}, ${time}`)),
          ...(details.length > 0 ? [element('p', { class: 'details' }, details.join(' · '))] : []),
          element('span', { class: 'status' }, BOOKING[status] ?? status),
        ),
      )
    },
  })
  byId('bookings-none', HTMLElement).hidden = bookings.length > 0
  count('booked', bookings.filter(({ is_live }) => is_live).length, 'marcado', 'marcados')
}

/** @param {string} id @param {number} number @param {string} one @param {string} several */
function count(id, number, one, several) {
  const badge = byId(id, HTMLElement)
  badge.hidden = number === 0
  badge.textContent = String(number)
  badge.setAttribute('aria-label', `${number} ${number === 1 ? one : several}`)
}

/** @param {string} action */
function controlButton(action) {
  const found = document.querySelector(`[data-action="${action}"]`)
  if (!(found instanceof HTMLButtonElement)) throw new Error(`The page has no button for ${action}`)
  return found
}
