// The customer's phone: what reached it, what was written on it and is still under way, and the options to tap.

import { button, byId, composer, element, formatted, keepingTheEnd, show, tick, unseen } from './elements.js'
import { clock, dayName, fateOf, initials, mediaWord, readable } from './words.js'

/**
 * @typedef {import('../view.ts').View['messages'][number]} Message
 * @typedef {{ type: 'text', text: string } | { type: 'option', message_id: string, option_id: string } | { type: 'image' }} Says
 * @typedef {{ id: string, text: string, says: Says, at: string, whatsapp_message_id: string | null, failed: boolean }} Pending
 * @typedef {{ id: string, title: string, description?: string }} Option
 */

const log = byId('phone-log', HTMLElement)
const options = byId('options', HTMLDialogElement)
/** By the WhatsApp id, what the page called a message that it wrote. @type {Map<string, string>} */
const written = new Map()

/** @param {{ send: (text: string, says: Says) => void }} actions */
export function startPhone({ send }) {
  const field = byId('phone-text', HTMLTextAreaElement)
  composer(byId('phone-form', HTMLFormElement), field, (text) => send(text, { type: 'text', text }))
  byId('phone-photo', HTMLButtonElement).addEventListener('click', () => send('', { type: 'image' }))
}

/** @param {string} organization @param {string} number */
export function labelPhone(organization, number) {
  byId('phone-title', HTMLElement).textContent = organization
  byId('phone-number', HTMLElement).textContent = readable(number)
  byId('phone-avatar', HTMLElement).textContent = initials(organization)
}

/**
 * @param {Message[]} messages
 * @param {Pending[]} pending
 * @param {{ organization: string, timezone: string, now: Date, send: (text: string, says: Says) => void, retry: (pending: Pending) => void, toTheEnd: boolean }} context
 */
export function showPhone(messages, pending, { organization, timezone, now, send, retry, toTheEnd }) {
  // What is queued has not reached the phone; what failed never will.
  const arrived = messages.filter(({ direction, whatsapp_message_id, status, revoked_at }) =>
    revoked_at === null && (direction === 'inbound' || (whatsapp_message_id !== null && status !== 'failed'))
  )
  /** @type {Item[]} */
  const items = []
  let day = ''
  for (const message of arrived) {
    const name = dayName(message.created_at, timezone, now)
    if (name !== day) items.push({ kind: 'day', key: `day ${name}`, name })
    day = name
    const id = message.whatsapp_message_id ?? message.id
    items.push({ kind: 'message', key: written.get(id) ?? id, message })
  }
  for (const item of pending) {
    if (item.whatsapp_message_id !== null) written.set(item.whatsapp_message_id, item.id)
    items.push({ kind: 'pending', key: item.id, pending: item })
  }
  keepingTheEnd(log, () =>
    show(log, items, {
      key: ({ key }) => key,
      state: stateOf,
      make: (item) => {
        switch (item.kind) {
          case 'day':
            return element('div', { class: 'day' }, item.name)
          case 'pending':
            return pendingBubble(item.pending, { timezone, retry })
          default:
            return messageBubble(item.message, { organization, timezone, send })
        }
      },
      patch: (node, item) => {
        if (item.kind !== 'day') showFate(node, fateOf(statusOf(item)))
      },
    }), toTheEnd)
}

/** @typedef {{ kind: 'day', key: string, name: string } | { kind: 'message', key: string, message: Message } | { kind: 'pending', key: string, pending: Pending }} Item */

/** @param {Message} message @param {{ organization: string, timezone: string, send: (text: string, says: Says) => void }} context */
function messageBubble(message, { organization, timezone, send }) {
  const isOwn = message.direction === 'inbound'
  const choice = isOwn ? null : optionsOf(message)
  const bubble = element(
    'div',
    { class: 'bubble' },
    unseen(isOwn ? 'Você: ' : `${organization}: `),
    ...contentOf(message),
  )
  bubble.append(meta(message.created_at, timezone))
  const row = element('div', { class: `row ${isOwn ? 'own' : 'other'}` }, bubble)
  if (choice === null) return row
  const tap = (/** @type {Option} */ option) =>
    send(option.title, { type: 'option', message_id: message.id, option_id: option.id })
  row.append(
    choice.type === 'button'
      ? element(
        'div',
        { class: 'options', role: 'group', 'aria-label': 'Opções' },
        ...choice.options.map((option) => button(option.title, () => tap(option))),
      )
      : element(
        'div',
        { class: 'options' },
        button(choice.label, () => openList(choice, tap), { class: 'opens-list', 'aria-haspopup': 'dialog' }),
      ),
  )
  return row
}

/** What is seen of an item beside its ticks: of a message on its way the same as when it is stored. @param {Item} item */
function stateOf(item) {
  switch (item.kind) {
    case 'day':
      return item.name
    case 'pending':
      return ['inbound', item.pending.text || null, item.pending.failed]
    default:
      return item.message.direction === 'inbound'
        ? ['inbound', item.message.content, false]
        : [item.message.content, item.message.payload]
  }
}

/** @param {Exclude<Item, { kind: 'day' }>} item */
function statusOf(item) {
  if (item.kind === 'pending') {
    return item.pending.failed ? 'failed' : item.pending.whatsapp_message_id === null ? 'queued' : 'sent'
  }
  // What the customer wrote is stored, or we would not see it.
  return item.message.direction === 'inbound' ? 'delivered' : item.message.status
}

/** The ticks change in place, so that nothing is read out again. @param {Element} node @param {ReturnType<typeof fateOf>} fate */
function showFate(node, { shape, label, isRead }) {
  const place = node.querySelector('.meta')
  const known = place?.querySelector('.tick')
  if (place == null || known?.getAttribute('aria-label') === label) return
  known?.remove()
  place.append(tick(shape, label, isRead))
}

/** @param {Pending} pending @param {{ timezone: string, retry: (pending: Pending) => void }} context */
function pendingBubble(pending, { timezone, retry }) {
  const content = pending.says.type === 'image'
    ? mediaBox('image')
    : element('span', { class: 'text' }, ...formatted(pending.text))
  const bubble = element('div', { class: 'bubble' }, unseen('Você: '), content, meta(pending.at, timezone))
  const row = element('div', { class: 'row own' }, bubble)
  if (pending.failed) row.append(element('div', { class: 'options' }, button('Tentar de novo', () => retry(pending))))
  return row
}

/** What a message says, on the phone and in the inbox. @param {Message} message @returns {(Node | string)[]} */
export function contentOf(message) {
  const { message_type, content, payload } = message
  const part = (/** @type {string} */ key) => typeof payload?.[key] === 'string' ? payload[key] : null
  if (message_type === 'reaction') {
    return [`Reagiu com ${content ?? part('emoji') ?? '…'}`]
  }
  /** @type {(Node | string)[]} */
  const parts = []
  const header = part('header')
  const footer = part('footer')
  const word = mediaWord(message_type)
  if (word !== null) parts.push(mediaBox(message_type, part('filename') ?? part('name')))
  if (header !== null) parts.push(element('strong', { class: 'header' }, header))
  if (content !== null) parts.push(element('span', { class: 'text' }, ...formatted(content)))
  if (footer !== null) parts.push(element('span', { class: 'footer' }, footer))
  return parts
}

/** @param {string} type @param {string | null} [name] */
function mediaBox(type, name = null) {
  return element('span', { class: 'media' }, [mediaWord(type), name].filter((part) => part !== null).join(': '))
}

/** @param {string} at @param {string} timezone */
export function meta(at, timezone) {
  return element('span', { class: 'meta' }, element('time', { datetime: at }, clock(at, timezone)))
}

/**
 * @typedef {{ type: 'button', options: Option[] }} Buttons
 * @typedef {{ type: 'list', label: string, sections: { title?: string, rows: Option[] }[] }} List
 */

/** @param {Message} message @returns {Buttons | List | null} */
export function optionsOf({ message_type, payload }) {
  if (message_type !== 'interactive' || payload === null) return null
  // The database has checked the shape: outboundPayload in types/.
  const { type, buttons, button: label, sections } = /** @type {any} */ (payload)
  if (type === 'button') return { type, options: buttons }
  return type === 'list' ? { type, label, sections } : null
}

/** @param {List} list @param {(option: Option) => void} tap */
function openList({ label, sections }, tap) {
  byId('options-title', HTMLElement).textContent = label
  byId('options-list', HTMLElement).replaceChildren(...sections.map(({ title, rows }) =>
    element(
      'div',
      { role: 'group', ...(title ? { 'aria-label': title } : {}) },
      ...(title ? [element('h3', {}, title)] : []),
      ...rows.map((option) => {
        const row = button('', () => {
          options.close()
          tap(option)
        }, { class: 'choice-row' })
        row.append(element('span', {}, option.title))
        if (option.description) row.append(element('small', {}, option.description))
        return row
      }),
    )
  ))
  options.showModal()
}
