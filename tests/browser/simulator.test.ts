// The simulator as a new user tries it, in Chromium. With BALCAO_SCREENSHOTS=<folder> it leaves pictures there.

import { randomInt } from 'node:crypto'
import { join } from 'node:path'
import type { Browser, BrowserContext, Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { aProfessional, aService, at, book, cancel, dayAhead } from '../support/agendas.ts'
import { aBrowser, faintTexts } from '../support/browser.ts'
import { runningStack } from '../support/running-stack.ts'
import { asAttendantOf, asPlatform, aTenant, memberOf, type Tenant, valueOf } from '../support/tenants.ts'

const backend = runningStack()
const { api } = backend.urls
const PATIENCE = { timeout: 20_000 }

let browser: Browser
let context: BrowserContext
let page: Page
let clinic: Tenant
/** What a browser complains of, and what it was asked to load from elsewhere. */
let complaints: string[]

beforeAll(async () => {
  browser = await aBrowser()
  clinic = await aTenant(backend, 'Clínica São José', ['admin', 'attendant', 'viewer'])
  const names: [keyof Tenant['people'], string, string][] = [['owner', 'Júlia', 'São José'], [
    'attendant',
    'Rafael',
    'Moura',
  ]]
  for (const [role, first_name, last_name] of names) {
    const { userId: user_id } = memberOf(clinic, role)
    valueOf(await asPlatform(backend).from('profiles').upsert({ user_id, first_name, last_name }).select())
  }
})
afterAll(async () => await browser?.close())

beforeEach(async () => {
  complaints = []
  context = await browser.newContext({ viewport: { width: 1280, height: 860 }, locale: 'pt-BR', colorScheme: 'light' })
  page = await context.newPage()
  page.setDefaultTimeout(PATIENCE.timeout)
  page.on('pageerror', ({ message }) => complaints.push(message))
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()))
  page.on(
    'request',
    (request) =>
      request.url().startsWith(`${api}/simulator`) || request.url().startsWith('data:') ||
      complaints.push(request.url()),
  )
})
afterEach(async ({ task }) => {
  if (task.result?.state === 'fail') await picture('failed')
  await context?.close()
})

// What a person does ----------------------------------------------------------------------------------------------------

async function open({ organizationId } = clinic): Promise<void> {
  await page.goto(`${api}/simulator#empresa=${organizationId}`)
  await page.locator('#customer option, dialog[open]').first().waitFor({ state: 'attached' })
}

/** Gets a phone with a number that nobody has. */
async function pickUpThePhone(name: string): Promise<string> {
  const number = `+55119${randomInt(10 ** 7, 10 ** 8)}`
  const dialog = page.getByRole('dialog', { name: 'Novo cliente' })
  // It opens by itself where there is no customer yet.
  if (!await dialog.isVisible()) await page.getByRole('button', { name: 'Novo cliente' }).click()
  await dialog.getByLabel('Nome').fill(name)
  await dialog.getByLabel('Celular com DDD').fill(number.replace('+55', ''))
  await page.keyboard.press('Enter')
  await dialog.waitFor({ state: 'hidden' })
  return number
}

const phone = () => page.getByRole('log', { name: 'Mensagens no telefone do cliente' })
const inbox = () => page.getByRole('log', { name: 'Mensagens como o atendente as vê' })
const fact = (name: string) =>
  page.locator('#facts > div', { has: page.getByText(name, { exact: true }) }).locator('dd')

async function writeAsCustomer(text: string): Promise<void> {
  await page.getByLabel('Mensagem do cliente').fill(text)
  await page.keyboard.press('Enter')
}

async function reply(text: string): Promise<void> {
  await page.getByLabel('Resposta do atendente').fill(text)
  await page.keyboard.press('Enter')
}

/** A message of the log, once it has come so far. */
async function seen(log: ReturnType<typeof phone>, text: string, tick?: string): Promise<void> {
  const row = log.locator('.row', { hasText: text }).last()
  await (tick === undefined ? row : row.getByRole('img', { name: tick, exact: true })).waitFor()
}

async function says(name: string, value: string): Promise<void> {
  await fact(name).filter({ hasText: value }).waitFor()
}

async function picture(name: string): Promise<void> {
  const folder = process.env.BALCAO_SCREENSHOTS
  if (folder !== undefined) await page.screenshot({ path: join(folder, `${name}.png`), animations: 'disabled' })
}

/** The attendant's app sends what the simulator's reply field cannot. */
async function offer(
  number: string,
  content: string,
  payload: { type: string; [key: string]: unknown },
): Promise<void> {
  const { organizationId: organization_id } = clinic
  const client = asAttendantOf(clinic)
  const { id: contact_id } = valueOf(await client.from('contacts').select('id').eq('phone_number', number).single())
  const { id: conversation_id } = valueOf(
    await client.from('conversations').select('id').eq('contact_id', contact_id).single(),
  )
  valueOf(
    await client.rpc('send_message', {
      organization_id,
      conversation_id,
      content,
      message_type: 'interactive',
      payload: JSON.parse(JSON.stringify(payload)),
    }),
  )
}

// The story -------------------------------------------------------------------------------------------------------------

async function tap(name: string): Promise<void> {
  await phone().getByRole('button', { name, exact: true }).last().click()
}

/** The newest message on the phone: its options are those that still count. */
async function asked(text: string): Promise<void> {
  await phone().locator('.row').last().filter({ hasText: text }).waitFor()
}

/** Opens the newest list and takes the first row with that text. */
async function pick(list: string, row: string | RegExp): Promise<void> {
  await tap(list)
  await page.getByRole('dialog', { name: list }).getByRole('button', { name: row }).first().click()
}

test('a customer books with the bot; a person takes over, answers and gives back; the customer cancels', async () => {
  const house = await aTenant(backend, 'Clínica Boa Vista', ['admin', 'attendant'])
  const { userId: user_id } = memberOf(house, 'attendant')
  valueOf(
    await asPlatform(backend).from('profiles').upsert({ user_id, first_name: 'Rafael', last_name: 'Moura' }).select(),
  )
  await aProfessional(house, 'Dra. Helena', [
    await aService(house, { name: 'Avaliação', price_cents: 15_000 }),
    await aService(house, { name: 'Limpeza de pele', price_cents: 22_000 }),
  ])
  await open(house)
  await pickUpThePhone('Maria Aparecida')
  await says('Fluxo do robô', 'Nenhum')
  await page.getByRole('button', { name: 'Ligar o robô' }).click()
  await says('Fluxo do robô', 'Agendamento')

  await writeAsCustomer('Oi! Quero marcar uma consulta 😊')
  await asked('Como posso ajudar?')
  await seen(inbox(), 'Robô')
  await pick('Ver opções', 'Marcar consulta')
  await asked('O que você gostaria de marcar?')
  await tap('Avaliação')
  await asked('Qual dia fica melhor')
  // Not today, of which little may be left.
  await pick('Ver dias', /-feira/)
  await asked('Horários de')
  await pick('Ver horários', 'Dra. Helena')
  await asked('Posso marcar?')
  await tap('Sim, pode marcar')
  await seen(phone(), 'está marcado')
  const agenda = page.getByRole('region', { name: 'Agenda' })
  await agenda.getByText('Marcado', { exact: true }).waitFor()
  await agenda.getByText('Avaliação').waitFor()

  await writeAsCustomer('Posso levar minha filha?')
  await page.getByRole('button', { name: 'Assumir' }).click()
  await says('No controle', 'Rafael Moura')
  await reply('Claro, Maria! Temos um cantinho para ela. 💚')
  await seen(phone(), 'Claro, Maria!', 'lida')
  await writeAsCustomer('Que bom, obrigada!')
  await seen(inbox(), 'Que bom, obrigada!')
  await page.getByRole('heading', { name: 'Maria Aparecida' }).click()
  await picture('simulator')
  await page.emulateMedia({ colorScheme: 'dark' })
  await picture('simulator-dark-1280')
  await page.emulateMedia({ colorScheme: 'light' })

  await page.getByRole('button', { name: 'Devolver ao robô' }).click()
  await says('No controle', 'Robô')
  await writeAsCustomer('menu')
  await asked('Como posso ajudar?')
  await pick('Ver opções', 'Cancelar')
  await asked('Quer mesmo cancelar')
  await tap('Sim, cancelar')
  await agenda.getByText('Cancelado', { exact: true }).waitFor()
  expect(complaints).toEqual([])
})

test('a customer writes and taps, an attendant takes over, answers, gives back and closes', async () => {
  await open()
  const number = await pickUpThePhone('Maria Aparecida')
  await says('Conversa', 'Ainda não começou')
  await writeAsCustomer('Oi! 😊 Quero *marcar* uma avaliação para sábado de manhã')
  await seen(phone(), 'Quero marcar uma avaliação', 'entregue')
  await seen(inbox(), 'Quero marcar uma avaliação')
  await says('No controle', 'Robô')

  await page.getByRole('button', { name: 'Assumir' }).click()
  await says('No controle', 'Rafael Moura')
  await reply('Bom dia, Maria! Temos, sim.')
  await seen(phone(), 'Bom dia, Maria!', 'lida')
  await seen(inbox(), 'Rafael Moura', 'lida')

  await offer(number, 'Com quem você prefere?', {
    type: 'button',
    buttons: [{ id: 'helena', title: 'Dra. Helena' }, { id: 'andre', title: 'Dr. André' }, {
      id: 'todos',
      title: 'Tanto faz',
    }],
  })
  await phone().getByRole('button', { name: 'Dra. Helena' }).click()
  await seen(phone(), 'Dra. Helena', 'entregue')
  await offer(number, 'Estes são os horários livres de sábado:', {
    type: 'list',
    button: 'Ver horários',
    footer: 'Responda em até 30 minutos',
    sections: [
      {
        title: 'Cedo',
        rows: [{ id: '0800', title: '8h00' }, { id: '0930', title: '9h30', description: 'com a Dra. Helena' }],
      },
      { title: 'Antes do almoço', rows: [{ id: '1100', title: '11h00' }] },
    ],
  })
  await phone().getByRole('button', { name: 'Ver horários' }).click()
  const sheet = page.getByRole('dialog', { name: 'Ver horários' })
  await picture('simulator-list-1280')
  await sheet.getByRole('button', { name: '9h30' }).click()
  await sheet.waitFor({ state: 'hidden' })
  await seen(phone(), '9h30', 'entregue')

  const client = asAttendantOf(clinic)
  const service = await aService(clinic, { name: 'Avaliação' })
  await aProfessional(clinic, 'Dra. Helena', [service])
  const contact = valueOf(await client.from('contacts').select('id').eq('phone_number', number).single())
  const booking = await book(clinic, {
    contact_id: contact.id,
    service_id: service.id,
    start_time: at(dayAhead(3), '09:30'),
  })
  const agenda = page.getByRole('region', { name: 'Agenda' })
  await agenda.getByText('Marcado', { exact: true }).waitFor()
  await agenda.getByText('Dra. Helena').waitFor()

  await reply('Pronto, está marcado. Até lá! 💚')
  await seen(phone(), 'Pronto, está marcado', 'lida')

  await page.getByRole('button', { name: 'Devolver ao robô' }).click()
  await says('No controle', 'Robô')
  await cancel(clinic, booking)
  await agenda.getByText('Cancelado', { exact: true }).waitFor()
  await page.getByRole('button', { name: 'Encerrar' }).click()
  await page.getByRole('dialog').getByLabel('5').check()
  await page.getByRole('dialog').getByRole('button', { name: 'Encerrar' }).click()
  await says('Conversa', 'Encerrada')
  await says('Nota', '5 de 5')
  expect(await page.getByLabel('Resposta do atendente').isDisabled()).toBe(true)

  // The next message begins a new conversation, on the same phone.
  await writeAsCustomer('Obrigada!')
  await seen(phone(), 'Obrigada!', 'entregue')
  await says('Conversa', 'Em andamento')
  await seen(phone(), 'Bom dia, Maria!')
  expect(complaints).toEqual([])
})

test('what anybody writes is text', async () => {
  await open()
  const attack = `<img src=x onerror="document.title='cracked'"><script>document.title='cracked'</script>`
  await pickUpThePhone(`<b>${attack.slice(0, 60)}`)
  await writeAsCustomer(attack)
  await seen(phone(), '<img src=x', 'entregue')
  await seen(inbox(), '<img src=x')
  await reply(attack)
  await seen(phone(), '<script>', 'lida')
  expect(await page.locator('main img, main script, main b:not(.date b)').count()).toBe(0)
  expect(await page.title()).toBe('Simulador · Balcão')
  expect(complaints).toEqual([])
})

test('a phone is enough to use it, and a keyboard', async () => {
  await page.setViewportSize({ width: 390, height: 844 })
  await open()
  const number = await pickUpThePhone('Seu Antônio')
  await page.keyboard.type('Tem vaga hoje?')
  await page.keyboard.press('Enter')
  await seen(phone(), 'Tem vaga hoje?', 'entregue')
  await offer(number, 'Temos às 15h. Pode ser?', {
    type: 'button',
    buttons: [{ id: 's', title: 'Pode' }, { id: 'n', title: 'Não dá' }],
  })
  await phone().getByRole('button', { name: 'Pode', exact: true }).focus()
  await page.keyboard.press('Enter')
  await seen(phone(), 'Pode', 'entregue')
  await picture('simulator-390')
  await page.emulateMedia({ colorScheme: 'dark' })
  await picture('simulator-dark-390')

  const parts = page.getByRole('navigation', { name: 'Partes do simulador' })
  // The reply between the two had read the first one.
  await parts.getByLabel('1 não lida').waitFor()
  await parts.getByRole('button', { name: 'Atendimento' }).focus()
  await page.keyboard.press('Enter')
  await page.getByLabel('1 não lida').waitFor({ state: 'hidden' })
  await page.getByRole('button', { name: 'Encerrar' }).focus()
  await page.keyboard.press('Enter')
  await page.getByRole('dialog', { name: 'Encerrar a conversa' }).waitFor()
  await page.keyboard.press('Escape')
  await page.getByRole('dialog').waitFor({ state: 'hidden' })
  await says('Conversa', 'Em andamento')
  await picture('simulator-attendant-dark-390')
  await page.emulateMedia({ colorScheme: 'light' })
  await picture('simulator-attendant-390')
  // Nothing sticks out to the side.
  expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(390)
  expect(complaints).toEqual([])
})

test('everything has a name, and stands out enough, in the light and in the dark', async () => {
  await open()
  const number = await pickUpThePhone('Luciana Reis')
  await writeAsCustomer('Quero remarcar')
  await seen(phone(), 'Quero remarcar', 'entregue')
  await offer(number, 'Para quando?', { type: 'button', footer: 'Até amanhã', buttons: [{ id: 'a', title: 'Amanhã' }] })
  await seen(phone(), 'Para quando?', 'lida')
  for (const colorScheme of ['light', 'dark'] as const) {
    await page.emulateMedia({ colorScheme })
    expect(await page.evaluate(faintTexts)).toEqual([])
    await page.getByRole('button', { name: 'Encerrar' }).click()
    expect(await page.evaluate(faintTexts)).toEqual([])
    await page.keyboard.press('Escape')
  }
  const unnamed = await page.locator('button, input, select, textarea, [role="log"]').evaluateAll((nodes) =>
    nodes.filter((node) => {
      const labels =
        node instanceof HTMLInputElement || node instanceof HTMLSelectElement || node instanceof HTMLTextAreaElement
          ? [...node.labels ?? []]
          : []
      return !node.getAttribute('aria-label') && !node.textContent?.trim() &&
        !labels.some((label) => label.textContent?.trim())
    }).map((node) => node.outerHTML)
  )
  expect(unnamed).toEqual([])
  // Who listens hears what is new, once: nothing that is there is made again when its ticks change.
  expect(await phone().getAttribute('aria-live')).toBeNull()
  await phone().evaluate((log) => {
    const watched: Node[] = []
    Object.assign(globalThis, { watched })
    new MutationObserver((changes) => watched.push(...changes.flatMap(({ addedNodes }) => [...addedNodes]))).observe(
      log,
      { childList: true },
    )
  })
  await reply('Amanhã às 10h, então.')
  await seen(phone(), 'Amanhã às 10h', 'lida')
  await writeAsCustomer('Combinado')
  await seen(phone(), 'Combinado', 'entregue')
  const added = await page.evaluate(() =>
    (Reflect.get(globalThis, 'watched') as Node[]).map(({ textContent }) => textContent?.replace(/\d\d:\d\d$/, ''))
  )
  expect(added).toEqual(['Clínica São José: Amanhã às 10h, então.', 'Você: Combinado'])
})

test('outlives a network that goes away, and loses nothing of what was written meanwhile', async () => {
  await open()
  await pickUpThePhone('Bia Torres')
  await writeAsCustomer('Primeira')
  await seen(phone(), 'Primeira', 'entregue')
  await context.setOffline(true)
  await writeAsCustomer('Segunda')
  await phone().getByRole('button', { name: 'Tentar de novo' }).waitFor()
  await page.getByRole('alert').filter({ hasText: 'não responde' }).waitFor()
  await page.getByRole('status').filter({ hasText: 'Tentando de novo' }).waitFor()
  await context.setOffline(false)
  await page.getByRole('status').waitFor({ state: 'hidden' })
  await phone().getByRole('button', { name: 'Tentar de novo' }).click()
  await seen(phone(), 'Segunda', 'entregue')
  await seen(inbox(), 'Segunda')
  // The same phone after the page was loaded again.
  await page.reload()
  await seen(phone(), 'Segunda', 'entregue')
  expect(await phone().locator('.row').count()).toBe(2)
})

test('another stack under the same address: the page loads itself again', async () => {
  await open()
  await pickUpThePhone('Dona Célia')
  await page.evaluate(() => Object.assign(globalThis, { isOld: true }))
  const refusal = { status: 401, json: { error: { code: 'wrong_token', message: 'The stack has started anew' } } }
  await page.route('**/simulator/api/view*', (route) => route.fulfill(refusal), { times: 1 })
  await page.waitForFunction(() => Reflect.get(globalThis, 'isOld') === undefined)
  await writeAsCustomer('Ainda estou aqui')
  await seen(phone(), 'Ainda estou aqui', 'entregue')
})
