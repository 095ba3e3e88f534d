// The page: who is chosen, what is on its way, and a question to the stack every half second while somebody looks.

import { get, post, Refused } from './api.js'
import { showAttendant, showBookings, startAttendant } from './attendant.js'
import { canonical, customerLabel, fill, openNewCustomer, startCustomers } from './customers.js'
import { byId } from './elements.js'
import { labelPhone, showPhone, startPhone } from './phone.js'
import { ROLES, troubleOf } from './words.js'

/**
 * @typedef {import('../view.ts').View & { version: string }} View
 * @typedef {import('./phone.js').Pending} Pending
 * @typedef {import('./phone.js').Says} Says
 * @typedef {import('./customers.js').Customer} Customer
 * @typedef {import('./attendant.js').Member} Member
 * @typedef {import('./attendant.js').Bot} Bot
 * @typedef {{ id: string, name: string, timezone: string }} Organization
 */

const EVERY_MS = 500
const LONGEST_PAUSE_MS = 5000

const stage = byId('stage', HTMLElement)
const organizationField = byId('organization', HTMLSelectElement)
const customerField = byId('customer', HTMLSelectElement)
const memberField = byId('member', HTMLSelectElement)

/** @type {Organization[]} */
let organizations = []
/** @type {Organization | null} */
let organization = null
/** @type {Member[]} */
let members = []
/** @type {Bot} */
let bot = { flow: null, template: null }
/** @type {Customer[]} */
let customers = []
/** @type {Customer | null} */
let customer = null
/** @type {View | null} */
let view = null
/** Whatever comes back for an earlier choice is not for this one. */
let choice = 0
/** By organization and number, so that nothing is lost when one looks at another phone. @type {Map<string, Pending[]>} */
const underWay = new Map()
/** The customer's messages go out in the order in which they were written. */
let lastSent = Promise.resolve()

// Choosing ------------------------------------------------------------------------------------------------------------

async function begin() {
  startPhone({ send })
  startAttendant({ control, reply, startBot })
  startCustomers((chosen) => {
    customers = [chosen, ...customers.filter(({ phone_number }) => phone_number !== chosen.phone_number)]
    useCustomer(chosen)
    byId('phone-text', HTMLTextAreaElement).focus()
  })
  organizationField.addEventListener('change', () => void useOrganization(organizationField.value))
  customerField.addEventListener('change', () => {
    const chosen = customers.find(({ phone_number }) => phone_number === customerField.value)
    if (chosen !== undefined) useCustomer(chosen)
  })
  memberField.addEventListener('change', () => again())
  for (const dialog of document.querySelectorAll('dialog')) {
    for (const closer of dialog.querySelectorAll('[data-close]')) closer.addEventListener('click', () => dialog.close())
    // A click beside it.
    dialog.addEventListener('click', (event) => event.target === dialog && dialog.close())
  }
  const panes = [...document.querySelectorAll('.panes button')]
  for (const pane of panes) {
    pane.addEventListener('click', () => {
      stage.dataset.pane = pane.getAttribute('data-pane') ?? 'phone'
      for (const other of panes) other.toggleAttribute('aria-current', false)
      pane.setAttribute('aria-current', 'true')
      render(true)
      if (stage.dataset.pane === 'attendant' && (view?.conversation?.unread_count ?? 0) > 0) void control('read')
    })
  }
  document.addEventListener('visibilitychange', () => document.hidden || wake())
  addEventListener('online', () => wake())

  await findOrganizations()
  void keepLooking()
}

async function findOrganizations() {
  for (;;) {
    try {
      organizations = (await get('organizations')).organizations
      notice('')
    } catch (error) {
      if (error instanceof Refused && error.code === 'wrong_token') return location.reload()
      notice(troubleOf(error))
    }
    byId('welcome', HTMLElement).hidden = organizations.length > 0
    if (organizations.length > 0) break
    await pause(2000)
  }
  fill(organizationField, organizations.map(({ id, name }) => ({ value: id, label: name })), '')
  const asked = new URLSearchParams(location.hash.slice(1))
  const first = organizations.find(({ id }) => id === asked.get('empresa')) ?? organizations[0]
  const number = asked.get('telefone')
  if (first !== undefined) {
    await useOrganization(
      first.id,
      number === null ? null : { name: asked.get('nome') ?? number, phone_number: number },
    )
  }
}

/** @param {string} id @param {Customer | null} [wanted] */
async function useOrganization(id, wanted = null) {
  const mine = ++choice
  const chosen = organizations.find((item) => item.id === id)
  if (chosen === undefined) return
  organizationField.value = id
  trouble('')
  /** @type {{ number: { phone_number: string }, bot: Bot, members: Member[], customers: Customer[] }} */
  let opened
  try {
    opened = await post('open', { organization_id: id })
  } catch (error) {
    if (mine === choice) trouble(troubleOf(error))
    return
  }
  if (mine !== choice) return
  organization = chosen
  members = opened.members
  bot = opened.bot
  customers = opened.customers
  customer = null
  fill(
    memberField,
    members.map(({ user_id, name, role }) => ({ value: user_id, label: `${name} (${ROLES[role] ?? role})` })),
    members[0]?.user_id ?? '',
  )
  labelPhone(chosen.name, opened.number.phone_number)
  stage.hidden = members.length === 0
  if (members.length === 0) return trouble('Ninguém atende esta empresa ainda: convide alguém, ou rode npm run seed.')
  const valid = wanted === null ? null : canonical(wanted.phone_number)
  const known = customers.find(({ phone_number }) => phone_number === valid)
  const first = known ?? (wanted === null || valid === null ? customers[0] : { ...wanted, phone_number: valid })
  if (first === undefined) return openNewCustomer()
  if (!customers.includes(first)) customers = [first, ...customers]
  useCustomer(first)
}

/** @param {Customer} chosen */
function useCustomer(chosen) {
  if (organization === null) return
  choice++
  customer = chosen
  view = null
  fill(
    customerField,
    customers.map((item) => ({ value: item.phone_number, label: customerLabel(item) })),
    chosen.phone_number,
  )
  const remembered = new URLSearchParams({ empresa: organization.id, telefone: chosen.phone_number, nome: chosen.name })
  history.replaceState(null, '', `#${remembered}`)
  render(true)
  wake()
}

// Looking -------------------------------------------------------------------------------------------------------------

let wake = () => {}

/** @param {number} milliseconds @returns {Promise<void>} */
function pause(milliseconds) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds)
    wake = () => {
      clearTimeout(timer)
      resolve()
    }
  })
}

/** Never gives up: a laptop sleeps, a stack is started again. */
async function keepLooking() {
  let failures = 0
  for (;;) {
    if (document.hidden || customer === null) {
      await pause(60_000)
      continue
    }
    try {
      await look()
      if (failures > 0) notice('')
      failures = 0
    } catch (error) {
      failures++
      if (error instanceof Refused && error.code === 'wrong_token' && !hasDraft()) return location.reload()
      // One question that got lost is no news.
      if (failures > 1) notice(`${troubleOf(error)} Tentando de novo…`)
    }
    await pause(Math.min(EVERY_MS * 2 ** Math.min(failures, 5), LONGEST_PAUSE_MS))
  }
}

async function look() {
  if (organization === null || customer === null) return
  const mine = choice
  /** @type {View | null} */
  const answer = await get('view', {
    organization_id: organization.id,
    phone_number: customer.phone_number,
    user_id: memberField.value,
    ...(view === null ? {} : { since: view.version }),
  })
  if (answer === null || mine !== choice) return
  const isFirst = view === null
  view = answer
  const stored = new Set(answer.messages.map(({ whatsapp_message_id }) => whatsapp_message_id))
  underWay.set(
    place(),
    pendingHere().filter(({ whatsapp_message_id }) => whatsapp_message_id === null || !stored.has(whatsapp_message_id)),
  )
  render(isFirst)
}

function again() {
  choice++
  view = null
  wake()
}

/** @param {boolean} [toTheEnd] */
function render(toTheEnd = false) {
  if (organization === null || customer === null) return
  const { name, timezone } = organization
  showPhone(view?.messages ?? [], pendingHere(), {
    organization: name,
    timezone,
    now: new Date(),
    send,
    retry,
    toTheEnd,
  })
  showAttendant(view, { members, timezone, bot, customer, member: memberField.value }, toTheEnd)
  showBookings(view?.bookings ?? [], timezone)
}

// Doing ---------------------------------------------------------------------------------------------------------------

function place() {
  return `${organization?.id} ${customer?.phone_number}`
}

/** @returns {Pending[]} */
function pendingHere() {
  return underWay.get(place()) ?? []
}

/** @param {string} text @param {Says} says */
function send(text, says) {
  if (customer === null) return openNewCustomer()
  /** @type {Pending} */
  const pending = {
    id: crypto.randomUUID(),
    text,
    says,
    at: new Date().toISOString(),
    whatsapp_message_id: null,
    failed: false,
  }
  underWay.set(place(), [...pendingHere(), pending])
  deliver(pending)
}

/** With the same id: if the first try did arrive, this one is known already. @param {Pending} pending */
function retry(pending) {
  pending.failed = false
  deliver(pending)
}

/** @param {Pending} pending */
function deliver(pending) {
  if (organization === null || customer === null) return
  const message = { organization_id: organization.id, ...customer, id: pending.id, says: pending.says }
  render(true)
  lastSent = lastSent.then(async () => {
    try {
      const answer = await post('messages', message)
      pending.whatsapp_message_id = answer.whatsapp_message_id
      trouble('')
    } catch (error) {
      pending.failed = true
      trouble(troubleOf(error))
    }
    render(true)
    wake()
  })
}

/** @param {string} action @param {object} [more] */
async function control(action, more = {}) {
  if (organization === null || view?.conversation == null) return
  const { id: conversation_id, control_epoch } = view.conversation
  const seen = {
    ...(action === 'take_over' || action === 'release' ? { control_epoch } : {}),
    ...(action === 'read' ? { last_message_id: view.messages.at(-1)?.id } : {}),
  }
  const target = { organization_id: organization.id, user_id: memberField.value, conversation_id, ...seen }
  const controls = byId('controls', HTMLElement)
  if (action !== 'read') controls.setAttribute('aria-busy', 'true')
  try {
    await post('control', { ...target, action, ...more })
    trouble('')
  } catch (error) {
    // That something was read is no news, and neither is that it was not.
    if (action !== 'read') trouble(troubleOf(error))
  } finally {
    controls.removeAttribute('aria-busy')
    wake()
  }
}

async function startBot() {
  if (organization === null) return
  const mine = organization
  try {
    const started = await post('bot', { organization_id: mine.id })
    if (mine === organization) bot = started.bot
    trouble('')
  } catch (error) {
    trouble(troubleOf(error))
  }
  render()
}

/** @param {string} text */
async function reply(text) {
  if (organization === null || view?.conversation == null) return
  const field = byId('reply-text', HTMLTextAreaElement)
  try {
    await post('reply', {
      organization_id: organization.id,
      user_id: memberField.value,
      conversation_id: view.conversation.id,
      content: text,
      client_message_id: crypto.randomUUID(),
    })
    trouble('')
  } catch (error) {
    trouble(troubleOf(error))
    if (field.value === '') field.value = text
  }
  wake()
}

function hasDraft() {
  return [...document.querySelectorAll('textarea')].some(({ value }) => value.trim() !== '')
}

/** @param {string} text */
function notice(text) {
  tell('notice', text)
}

/** @param {string} text */
function trouble(text) {
  tell('trouble', text)
}

/** @param {string} id @param {string} text */
function tell(id, text) {
  const line = byId(id, HTMLElement)
  if (line.textContent !== text) line.textContent = text
  line.hidden = text === ''
}

await begin()
