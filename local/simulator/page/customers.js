// Whose phone it is: one of the tenant's customers, or somebody new.

import { byId, element } from './elements.js'
import { readable } from './words.js'

/** @typedef {{ name: string, phone_number: string }} Customer */

const dialog = byId('customer-dialog', HTMLDialogElement)
const form = byId('customer-form', HTMLFormElement)
const nameField = byId('customer-name', HTMLInputElement)
const numberField = byId('customer-number', HTMLInputElement)
const problem = byId('customer-problem', HTMLElement)

const NAMES = [
  'Maria Aparecida',
  'João Pedro',
  'Luciana Reis',
  'Seu Antônio',
  'Patrícia Gomes',
  'Rafael Nunes',
  'Dona Célia',
  'Bia Torres',
]

/** @param {(customer: Customer) => void} choose */
export function startCustomers(choose) {
  byId('new-customer', HTMLButtonElement).addEventListener('click', openNewCustomer)
  form.addEventListener('submit', (event) => {
    event.preventDefault()
    const name = nameField.value.trim()
    const phone_number = canonical(numberField.value)
    problem.textContent = name === ''
      ? 'Como se chama o cliente?'
      : phone_number === null
      ? 'Um celular com DDD, como (11) 98765-4321.'
      : ''
    if (name === '') return nameField.focus()
    if (phone_number === null) return numberField.focus()
    dialog.close()
    choose({ name, phone_number })
  })
}

export function openNewCustomer() {
  const random = crypto.getRandomValues(new Uint32Array(2))
  nameField.value = NAMES[(random[0] ?? 0) % NAMES.length] ?? ''
  // A mobile number that begins with 90000 is nobody's; the seed's and the simulator's own are below 5000.
  numberField.value = `(11) 90000-${5000 + (random[1] ?? 0) % 5000}`
  problem.textContent = ''
  dialog.showModal()
  nameField.select()
}

/** What the stack will check again. @param {string} input @returns {string | null} */
export function canonical(input) {
  const digits = input.replaceAll(/\D/g, '')
  if (input.trim().startsWith('+')) return /^[1-9]\d{7,14}$/.test(digits) ? `+${digits}` : null
  const national = digits.length > 11 && digits.startsWith('55') ? digits.slice(2) : digits.replace(/^0/, '')
  return /^[1-9][1-9]9\d{8}$/.test(national) ? `+55${national}` : null
}

/** @param {HTMLSelectElement} select @param {{ value: string, label: string }[]} choices @param {string} chosen */
export function fill(select, choices, chosen) {
  select.replaceChildren(...choices.map(({ value, label }) => element('option', { value }, label)))
  select.value = chosen
}

/** @param {Customer} customer */
export function customerLabel({ name, phone_number }) {
  return name === phone_number ? readable(phone_number) : `${name} · ${readable(phone_number)}`
}
