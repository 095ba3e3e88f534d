// The page: who is signed in, which organization and period are chosen, and a look every minute while somebody watches.

import { connect, onSessionEnd, organizationsOf, readDashboard, signIn, signOut } from './data.js'
import { byId, element, fill, say } from './elements.js'
import { show } from './panels.js'
import { isSessionOver, troubleOf } from './words.js'

/** @typedef {import('./data.js').Organization} Organization */

const EVERY_MS = 60_000

const key = document.querySelector('meta[name="publishable-key"]')?.getAttribute('content') ?? ''
const client = connect(location.origin, key)

const form = byId('sign-in-form', HTMLFormElement)
const emailField = byId('email', HTMLInputElement)
const passwordField = byId('password', HTMLInputElement)
const organizationField = byId('organization', HTMLSelectElement)
const periodField = byId('period', HTMLSelectElement)
const refreshButton = byId('refresh', HTMLButtonElement)

/** Null: nobody has come in, or they could not be read yet. @type {Organization[] | null} */
let organizations = null
/** Whatever comes back for an earlier choice is not for this one. */
let choice = 0
/** When the server was last asked; null: it was not. @type {number | null} */
let shownAt = null

// Coming and going ----------------------------------------------------------------------------------------------------

form.addEventListener('submit', async (event) => {
  event.preventDefault()
  say('sign-in-problem', '')
  if (!emailField.validity.valid || !passwordField.validity.valid) {
    const wrong = emailField.validity.valid ? passwordField : emailField
    say('sign-in-problem', wrong === emailField ? 'Escreva um e-mail completo.' : 'Escreva a senha.')
    return wrong.focus()
  }
  form.setAttribute('aria-busy', 'true')
  try {
    await signIn(client, emailField.value.trim(), passwordField.value)
    passwordField.value = ''
    await enter()
  } catch (error) {
    say('sign-in-problem', troubleOf(error, { isTriedAgain: false }))
    passwordField.select()
  } finally {
    form.removeAttribute('aria-busy')
  }
})

byId('sign-out', HTMLButtonElement).addEventListener('click', async () => {
  await signOut(client)
  leave('')
})

onSessionEnd(client, () => {
  if (!byId('app', HTMLElement).hidden) leave('Sua sessão terminou: entre de novo.')
})

async function enter() {
  const mine = ++choice
  shownAt = performance.now()
  try {
    const found = await organizationsOf(client)
    if (mine !== choice) return
    organizations = found
  } catch (error) {
    if (mine !== choice) return
    if (isSessionOver(error)) return await end(error)
    // There is a session: the door would say that there is none.
    say('trouble', troubleOf(error, { isTriedAgain: true }))
  }
  byId('sign-in', HTMLElement).hidden = true
  byId('app', HTMLElement).hidden = false
  byId('nobody', HTMLElement).hidden = organizations?.length !== 0
  byId('choices', HTMLElement).hidden = organizations?.length === 0
  byId('organization-choice', HTMLElement).hidden = organizations === null || organizations.length < 2
  if (organizations === null) return focusTitle()
  say('trouble', '')
  const asked = new URLSearchParams(location.hash.slice(1))
  const first = organizations.find(({ id }) => id === asked.get('empresa')) ?? organizations[0]
  if (first === undefined) return focusTitle()
  fill('organization', ...organizations.map(({ id, name }) => element('option', { value: id }, name)))
  organizationField.value = first.id
  const period = [...periodField.options].find(({ value }) => value === asked.get('dias'))
  if (period !== undefined) periodField.value = period.value
  const chosen = choose()
  focusTitle()
  await chosen
}

/** The form is gone, and the focus with it: who hears the page, hears now whose it is. */
function focusTitle() {
  if (!byId('app', HTMLElement).contains(document.activeElement)) byId('organization-name', HTMLElement).focus()
}

/** @param {unknown} error */
async function end(error) {
  await signOut(client)
  leave(troubleOf(error, { isTriedAgain: false }))
}

/** @param {string} why */
function leave(why) {
  choice++
  refreshButton.removeAttribute('aria-busy')
  shownAt = null
  organizations = null
  document.title = 'Painel · Balcão'
  fill('organization-name', 'Painel')
  byId('app', HTMLElement).hidden = true
  byId('dashboard', HTMLElement).hidden = true
  fill('bookings-list')
  byId('sign-in', HTMLElement).hidden = false
  say('sign-in-problem', why)
  for (const line of ['trouble', 'updated', 'unready']) say(line, '')
  emailField.focus()
}

// Looking -------------------------------------------------------------------------------------------------------------

organizationField.addEventListener('change', () => void choose())
periodField.addEventListener('change', () => {
  remember()
  void look()
})
// A look under way is waited for: whoever starts another one never hears what became of it.
refreshButton.addEventListener('click', () => {
  if (!isLooking()) void look()
})
document.addEventListener('visibilitychange', lookIfOld)
addEventListener('online', () => void look())
setInterval(lookIfOld, 1000)

function lookIfOld() {
  if (document.hidden || byId('app', HTMLElement).hidden || organizations?.length === 0 || isLooking()) return
  if (performance.now() - (shownAt ?? 0) >= EVERY_MS) void look()
}

/** What is not as it comes by itself, for the next reload and for bookmarks. */
function remember() {
  const chosen = new URLSearchParams()
  if (organizations !== null && organizations.length > 1) chosen.set('empresa', organizationField.value)
  if (!periodField.selectedOptions[0]?.defaultSelected) chosen.set('dias', periodField.value)
  history.replaceState(null, '', `${location.pathname}${chosen.size > 0 ? `#${chosen}` : ''}`)
}

function isLooking() {
  return refreshButton.getAttribute('aria-busy') === 'true'
}

async function choose() {
  const organization = chosen()
  if (organization === undefined) return
  // Nobody takes the figures of one business for those of another.
  byId('dashboard', HTMLElement).hidden = true
  fill('bookings-list')
  say('updated', '')
  say('unready', '')
  say('trouble', '')
  fill('organization-name', organization.name)
  document.title = `${organization.name} · Painel · Balcão`
  remember()
  await look()
}

function chosen() {
  return organizations?.find(({ id }) => id === organizationField.value)
}

async function look() {
  if (byId('app', HTMLElement).hidden) return
  if (organizations === null) {
    refreshButton.setAttribute('aria-busy', 'true')
    await enter()
    return refreshButton.removeAttribute('aria-busy')
  }
  const organization = chosen()
  if (organization === undefined) return
  const mine = ++choice
  shownAt = performance.now()
  refreshButton.setAttribute('aria-busy', 'true')
  try {
    const dashboard = await readDashboard(client, organization, Number(periodField.value), new Date())
    if (mine !== choice) return
    byId('dashboard', HTMLElement).hidden = false
    show(dashboard, organization, new Date())
    say('trouble', '')
  } catch (error) {
    if (mine !== choice) return
    if (isSessionOver(error)) return await end(error)
    // What is shown stays, with the time at which it was true.
    say('trouble', troubleOf(error, { isTriedAgain: true }))
  } finally {
    if (mine === choice) refreshButton.removeAttribute('aria-busy')
  }
}

const { data: { session } } = await client.auth.getSession()
if (session === null) {
  leave('')
} else {
  await enter()
}
