// /simulator by HTTP: who gets in, what never gets out, and that what is done there is done as a customer and as an
// attendant do it. tests/browser/simulator.test.ts looks at the page itself.

import { randomUUID } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { createServer, request as send } from 'node:http'
import { beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { DataDirectory } from '../../local/data-directory.ts'
import { startSimulator } from '../../local/simulator/server.ts'
import type { View } from '../../local/simulator/view.ts'
import { aProfessional, aService, at, book, dayAhead } from '../support/agendas.ts'
import { eventually } from '../support/processes.ts'
import { runningStack } from '../support/running-stack.ts'
import {
  aPerson,
  asAttendantOf,
  asPlatform,
  aTenant,
  memberOf,
  type Person,
  type Tenant,
  valueOf,
} from '../support/tenants.ts'

const backend = runningStack()
const { api } = backend.urls
const page = `${api}/simulator`

interface Answer {
  status: number
  headers: Record<string, string | string[] | undefined>
  text: string
}

let token = ''
let clinic: Tenant
let attendant: Person
/** All that the simulator has answered in this file. */
const answers: string[] = []

/** node:http, because fetch does not let one lie about Host. */
function ask(
  path: string,
  { method = 'GET', headers = {}, body }: { method?: string; headers?: Record<string, string>; body?: unknown } = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const type: Record<string, string> = body === undefined ? {} : { 'content-type': 'application/json' }
    const request = send(`${page}${path}`, { method, headers: { ...type, ...headers } }, async (response) => {
      let text = ''
      for await (const chunk of response.setEncoding('utf8')) text += chunk
      answers.push(JSON.stringify(response.headers) + text)
      resolve({ status: response.statusCode ?? 0, headers: response.headers, text })
    })
    request.once('error', reject)
    request.end(body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body))
  })
}

function asPage(path: string, body?: unknown): Promise<Answer> {
  const headers = { 'x-simulator-token': token }
  return ask(`/api/${path}`, body === undefined ? { headers } : { method: 'POST', headers, body })
}

async function done(path: string, body?: unknown): Promise<unknown> {
  const { status, text } = await asPage(path, body)
  if (status >= 300) throw new Error(`${path} was answered ${status}: ${text}`)
  return text === '' ? null : JSON.parse(text)
}

async function refused(path: string, body?: unknown): Promise<[number, string]> {
  const { status, text } = await asPage(path, body)
  return [
    status,
    z.object({ error: z.object({ code: z.string(), message: z.string() }) }).parse(JSON.parse(text)).error.code,
  ]
}

beforeAll(async () => {
  clinic = await aTenant(backend, 'Clínica do Simulador', ['attendant', 'viewer', 'admin'])
  attendant = memberOf(clinic, 'attendant')
  token = /name="simulator-token" content="([^"]+)"/.exec((await ask('')).text)?.[1] ?? ''
})

// A customer of the clinic ----------------------------------------------------------------------------------------------

interface Customer {
  name: string
  phone_number: string
}

let customers = 0

function aCustomer(name = 'Ana Beatriz'): Customer {
  customers += 1
  const digits = String(
    10_000_000 + (Number.parseInt(clinic.organizationId.slice(-5), 16) * 50 + customers) % 10_000_000,
  )
  return { name, phone_number: `+55119${digits}` }
}

async function write({ name, phone_number }: Customer, says: object, id = randomUUID()): Promise<string> {
  const organization_id = clinic.organizationId
  const answer = await done('messages', { organization_id, name, phone_number, id, says })
  return z.object({ whatsapp_message_id: z.string() }).parse(answer).whatsapp_message_id
}

const text = (text: string) => ({ type: 'text', text })

async function look(
  { phone_number }: Customer,
  { userId } = attendant,
  since?: string,
): Promise<View & { version: string }> {
  const query = new URLSearchParams({
    organization_id: clinic.organizationId,
    phone_number,
    user_id: userId,
    ...(since === undefined ? {} : { since }),
  })
  return await done(`view?${query}`) as View & { version: string }
}

async function conversationOf(customer: Customer) {
  const { conversation } = await look(customer)
  if (conversation === null) throw new Error(`${customer.name} has no conversation`)
  return conversation
}

async function control(customer: Customer, action: string, more: object = {}): Promise<void> {
  await done('control', { ...await asked(customer), action, ...more })
}

async function asked(customer: Customer, { userId } = attendant) {
  const { id } = await conversationOf(customer)
  return { organization_id: clinic.organizationId, user_id: userId, conversation_id: id }
}

// Who gets in -----------------------------------------------------------------------------------------------------------

describe('the page', () => {
  test('comes with a policy that lets nothing in but its own files, and is not kept', async () => {
    for (const path of ['', '/']) {
      const { status, headers, text } = await ask(path)
      expect([status, headers['content-type'], headers['cache-control']]).toEqual([
        200,
        'text/html; charset=utf-8',
        'no-store',
      ])
      const policy = String(headers['content-security-policy']).split('; ')
      expect(policy).toEqual(expect.arrayContaining([
        "default-src 'none'",
        `script-src ${page}/`,
        `connect-src ${page}/api/`,
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
      ]))
      expect(policy.join()).not.toContain('unsafe')
      expect(text).toContain('<html lang="pt-BR">')
    }
    expect(token).toMatch(/^[\w-]{32}$/)
  })

  test('names no file that is not served, and nothing elsewhere', async () => {
    const files = await readdir(new URL('../../local/simulator/page', import.meta.url))
    for (const file of files.filter((name) => name !== 'index.html')) {
      const { status, headers } = await ask(`/${file}`)
      expect([file, status, headers['x-content-type-options']]).toEqual([file, 200, 'nosniff'])
    }
    for (const file of files) {
      const source = await readFile(new URL(`../../local/simulator/page/${file}`, import.meta.url), 'utf8')
      const addresses = (source.match(/\b(?:https?:)?\/\/[\w-]+\.[\w.-]+/g) ?? []).filter((address) =>
        !address.includes('www.w3.org')
      )
      expect([file, addresses]).toEqual([file, []])
      expect(source).not.toMatch(/innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function/)
    }
  })

  test.each(['/../server.ts', '/..%2fserver.ts', '/index.html', '/toString', '/page/main.js', '//main.js'])(
    'does not serve %s',
    async (path) => {
      expect((await ask(path)).status).toBe(404)
    },
  )

  test('is opened, not read by a script of a file that the stack serves', async () => {
    expect((await ask('', { headers: { 'sec-fetch-dest': 'document' } })).status).toBe(200)
    expect((await ask('', { headers: { 'sec-fetch-dest': 'empty' } })).status).toBe(403)
    expect((await ask('', { headers: { 'sec-fetch-dest': 'iframe' } })).status).toBe(403)
  })
})

describe('whoever is not the page', () => {
  const own = () => ({ 'x-simulator-token': token })
  const port = new URL(api).port

  test.each<[string, () => Record<string, string>, number]>([
    ['has no token', () => ({}), 401],
    ['guesses the token', () => ({ 'x-simulator-token': 'x'.repeat(32) }), 401],
    ['comes under a name that leads here', () => ({ ...own(), host: `evil.example:${port}` }), 403],
    ['comes to another port', () => ({ ...own(), host: '127.0.0.1:1' }), 403],
    ['comes from another origin', () => ({ ...own(), origin: 'https://evil.example' }), 403],
    ['comes from another port of this machine', () => ({ ...own(), origin: 'http://127.0.0.1:1' }), 403],
    ['comes from nowhere', () => ({ ...own(), origin: 'null' }), 403],
    ['is another site by its own browser', () => ({ ...own(), 'sec-fetch-site': 'cross-site' }), 403],
    ['is another port by its own browser', () => ({ ...own(), 'sec-fetch-site': 'same-site' }), 403],
    ['comes through a tunnel', () => ({ ...own(), 'x-forwarded-for': '203.0.113.7' }), 403],
  ])('is refused: %s', async (_who, headers, status) => {
    for (const method of ['GET', 'POST']) {
      const answer = await ask(`/api/${method === 'GET' ? 'organizations' : 'open'}`, {
        method,
        headers: headers(),
        ...(method === 'GET' ? {} : { body: { organization_id: clinic.organizationId } }),
      })
      expect(answer.status).toBe(status)
      expect(Object.keys(answer.headers).filter((name) => name.startsWith('access-control'))).toEqual([])
    }
  })

  test('is told in a preflight that it may not', async () => {
    const { status, headers } = await ask('/api/organizations', {
      method: 'OPTIONS',
      headers: { origin: 'https://evil.example', 'access-control-request-headers': 'x-simulator-token' },
    })
    expect(status).toBe(403)
    expect(headers['access-control-allow-origin']).toBeUndefined()
  })

  test('reaches the page by the other name of this machine as well', async () => {
    const host = `localhost:${port}`
    expect((await ask('/api/organizations', { headers: { ...own(), host, origin: `http://${host}` } })).status).toBe(
      200,
    )
  })
})

test('what is asked for wrongly is refused by name', async () => {
  const { organizationId: organization_id } = clinic
  const message = { organization_id, ...aCustomer(), id: randomUUID(), says: text('Oi') }
  const seen = { organization_id, user_id: attendant.userId }
  expect(await refused('nowhere')).toEqual([404, 'not_found'])
  expect(await refused('open', {})).toEqual([400, 'invalid_request'])
  expect(await refused('open', '{')).toEqual([400, 'invalid_json'])
  expect(await refused('open', `"${'x'.repeat(70_000)}"`)).toEqual([413, 'too_large'])
  expect(await refused('open', { organization_id: randomUUID() })).toEqual([404, 'organization_not_found'])
  expect(await refused('messages', { ...message, phone_number: '12345' })).toEqual([400, 'invalid_phone_number'])
  expect(await refused('messages', { ...message, says: text('') })).toEqual([400, 'invalid_request'])
  expect(await refused('messages', { ...message, says: text('x'.repeat(4097)) })).toEqual([400, 'invalid_request'])
  expect(await refused('messages', { ...message, says: { type: 'option', message_id: randomUUID(), option_id: 'a' } }))
    .toEqual([404, 'message_not_found'])
  expect(await refused('control', { ...seen, conversation_id: randomUUID(), action: 'explode' })).toEqual([
    400,
    'invalid_request',
  ])
  expect(await refused('control', { ...seen, conversation_id: randomUUID(), action: 'take_over', control_epoch: 0 }))
    .toEqual([400, 'conversation_not_found'])
  const { status } = await ask('/api/open', {
    method: 'POST',
    headers: { 'x-simulator-token': token, 'content-type': 'text/plain' },
    body: '{}',
  })
  expect(status).toBe(415)
})

// What one does there -----------------------------------------------------------------------------------------------------

test('a tenant gets one number of its own, however many look at once', async () => {
  const shop = await aTenant(backend, 'Pet Shop do Simulador')
  const opened = await Promise.all(
    Array.from({ length: 5 }, () => done('open', { organization_id: shop.organizationId })),
  )
  expect(new Set(opened.map((answer) => JSON.stringify(answer))).size).toBe(1)
  const instances = valueOf(
    await asPlatform(backend).from('whatsapp_instances').select('name, provider').eq(
      'organization_id',
      shop.organizationId,
    ),
  )
  expect(instances).toEqual([{ name: 'Simulador', provider: 'meta_cloud' }])
  expect(opened[0]).toMatchObject({ members: [{ role: 'owner' }], customers: [] })
})

test('what a customer writes is stored once, in the order in which it was written, and seen by the attendant', async () => {
  const ana = aCustomer()
  expect(await look(ana)).toMatchObject({ contact: null, conversation: null, messages: [], bookings: [] })
  const id = randomUUID()
  const first = await write(ana, text('Oi! <img src=x onerror=alert(1)>'), id)
  expect(await write(ana, text('Oi! <img src=x onerror=alert(1)>'), id)).toBe(first)
  await write(ana, { type: 'image', caption: 'Meu pedido' })
  const { version, contact, conversation, messages } = await look(ana)
  expect(contact).toMatchObject({ profile_name: 'Ana Beatriz', phone_number: ana.phone_number })
  expect(conversation).toMatchObject({ is_bot_controlled: true, unread_count: 2 })
  expect(messages.map(({ message_type, content }) => [message_type, content])).toEqual([
    ['text', 'Oi! <img src=x onerror=alert(1)>'],
    ['image', 'Meu pedido'],
  ])
  expect(messages[0]?.whatsapp_message_id).toBe(first)
  // Nothing new is nothing.
  await eventually(async () => await look(ana, attendant, (await look(ana)).version) === null)
  expect(await look(ana, attendant, `${version}x`)).not.toBeNull()
})

test('an attendant takes over, answers in the own name, gives back, closes and opens again', async () => {
  const ana = aCustomer()
  await write(ana, text('Bom dia'))
  const { control_epoch } = await conversationOf(ana)
  await control(ana, 'take_over', { control_epoch })
  expect(await conversationOf(ana)).toMatchObject({ is_bot_controlled: false, assigned_user_id: attendant.userId })
  // Somebody who still looks at what was before.
  expect(
    await refused('control', { ...await asked(ana, memberOf(clinic, 'admin')), action: 'take_over', control_epoch }),
  )
    .toEqual([400, 'stale_control'])

  const reply = { ...await asked(ana), content: 'Bom dia, Ana! 😊', client_message_id: randomUUID() }
  await done('reply', reply)
  await done('reply', reply)
  await eventually(async () => {
    const { messages } = await look(ana)
    const replies = messages.filter(({ direction }) => direction === 'outbound')
    expect(replies).toHaveLength(1)
    expect(replies[0]).toMatchObject({ sender: 'human', sender_user_id: attendant.userId, content: reply.content })
    return replies[0]?.status === 'read'
  })

  await control(ana, 'read', { last_message_id: (await look(ana)).messages.at(-1)?.id })
  expect(await conversationOf(ana)).toMatchObject({ unread_count: 0 })
  await control(ana, 'release', { control_epoch: (await conversationOf(ana)).control_epoch })
  expect(await conversationOf(ana)).toMatchObject({ is_bot_controlled: true, control_epoch: control_epoch + 2 })
  await control(ana, 'close', { satisfaction_score: 5 })
  expect(await conversationOf(ana)).toMatchObject({ status: 'closed', satisfaction_score: 5 })
  expect(await refused('reply', { ...reply, client_message_id: randomUUID() })).toEqual([400, 'conversation_closed'])
  await control(ana, 'reopen')
  expect(await conversationOf(ana)).toMatchObject({ status: 'active' })
})

test('a tapped option says what was offered, and answers the message that offered it', async () => {
  const ana = aCustomer()
  await write(ana, text('Quero marcar'))
  const { id: conversation_id } = await conversationOf(ana)
  const client = asAttendantOf(clinic)
  const { organizationId: organization_id } = clinic
  const offer = async (payload: object) => {
    const message = valueOf(
      await client.rpc('send_message', {
        organization_id,
        conversation_id,
        content: 'Escolha:',
        message_type: 'interactive',
        payload: JSON.parse(JSON.stringify(payload)),
      }),
    )
    let whatsappId: string | null = null
    await eventually(async () => {
      whatsappId = (await look(ana)).messages.find(({ id }) => id === message.id)?.whatsapp_message_id ?? null
      return whatsappId !== null
    })
    return { id: message.id, whatsappId }
  }
  const buttons = await offer({ type: 'button', buttons: [{ id: 'sim', title: 'Sim' }, { id: 'nao', title: 'Não' }] })
  const list = await offer({
    type: 'list',
    button: 'Horários',
    sections: [{ rows: [{ id: 'h9', title: '9h', description: 'com a Dra. Helena' }, { id: 'h10', title: '10h' }] }],
  })
  await write(ana, { type: 'option', message_id: buttons.id, option_id: 'nao' })
  await write(ana, { type: 'option', message_id: list.id, option_id: 'h9' })
  const option = { type: 'option', message_id: list.id, option_id: 'h11' }
  expect(await refused('messages', { organization_id, ...ana, id: randomUUID(), says: option })).toEqual([
    404,
    'option_not_found',
  ])

  const { messages } = await look(ana)
  const tapped = messages.filter(({ message_type }) => ['button', 'list'].includes(message_type))
  expect(
    tapped.map((
      { message_type, content, reply_to_whatsapp_message_id },
    ) => [message_type, content, reply_to_whatsapp_message_id]),
  )
    .toEqual([['button', 'Não', buttons.whatsappId], ['list', '9h', list.whatsappId]])
  const stored = valueOf(
    await client.from('messages').select('metadata').in('id', tapped.map(({ id }) => id)).order('id'),
  )
  expect(stored).toMatchObject([
    { metadata: { interactive: { type: 'button_reply', id: 'nao' } } },
    { metadata: { interactive: { type: 'list_reply', id: 'h9', description: 'com a Dra. Helena' } } },
  ])
})

test('the bookings of a customer who exists are seen', async () => {
  const service = await aService(clinic, { name: 'Avaliação' })
  await aProfessional(clinic, 'Dra. Helena', [service])
  const celia = aCustomer('Dona Célia')
  const contact = valueOf(
    await asAttendantOf(clinic).from('contacts').insert({ organization_id: clinic.organizationId, ...celia }).select()
      .single(),
  )
  const booking = await book(clinic, {
    contact_id: contact.id,
    service_id: service.id,
    start_time: at(dayAhead(2), '09:00'),
  })
  expect(booking.status).toBe('scheduled')
  expect((await look(celia)).bookings).toMatchObject([
    { status: 'scheduled', is_live: true, service: { name: 'Avaliação' }, professional: { name: 'Dra. Helena' } },
  ])
  const { customers } = z.object({ customers: z.array(z.looseObject({ phone_number: z.string() })) })
    .parse(await done('open', { organization_id: clinic.organizationId }))
  expect(customers.map(({ phone_number }) => phone_number)).toContain(celia.phone_number)
})

test("the attendant's side can do what the member can, and no more", async () => {
  const ana = aCustomer()
  await write(ana, text('Segredo'))
  const stranger = await aPerson(backend, 'estranho')
  expect(await look(ana, stranger)).toMatchObject({ contact: null, messages: [], bookings: [] })
  const viewer = memberOf(clinic, 'viewer')
  expect((await look(ana, viewer)).messages).toHaveLength(1)
  for (const who of [stranger, viewer]) {
    const target = await asked(ana, who)
    expect(await refused('reply', { ...target, content: 'Oi', client_message_id: randomUUID() })).toEqual([
      400,
      'not_allowed',
    ])
    expect(await refused('control', { ...target, action: 'close', satisfaction_score: null })).toEqual([
      400,
      'not_allowed',
    ])
  }
})

test('a number that somebody disconnected is connected again', async () => {
  const ana = aCustomer()
  await write(ana, text('Oi'))
  const [number] = valueOf(
    await asPlatform(backend).from('whatsapp_instances').select('id')
      .eq('organization_id', clinic.organizationId).eq('name', 'Simulador'),
  )
  const disconnected = await fetch(`${api}/functions/v1/manage-instance`, {
    method: 'DELETE',
    headers: { 'content-type': 'application/json', apikey: backend.keys.secret },
    body: JSON.stringify({ organization_id: clinic.organizationId, instance_id: number?.id }),
  })
  expect(disconnected.status).toBe(200)
  await write(ana, text('Ainda aí?'))
  await eventually(async () => (await look(ana)).messages.length === 2)
})

test('with another Graph API than ours, nothing is connected and nothing goes out', async () => {
  const server = createServer((request, response) => simulator.listener(request, response))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  const apiUrl = `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}`
  const simulator = startSimulator({
    apiUrl,
    keys: backend.keys,
    jwtSecret: backend.keys.jwtSecret,
    graphUrl: 'https://graph.facebook.com',
  })
  try {
    const shown = await (await fetch(`${apiUrl}/simulator`)).text()
    const own = /name="simulator-token" content="([^"]+)"/.exec(shown)?.[1] ?? ''
    // Another start, another token.
    expect(own).not.toBe(token)
    const headers = { 'x-simulator-token': own, 'content-type': 'application/json' }
    const { organizationId: organization_id } = clinic
    const requests = {
      open: { organization_id },
      messages: { organization_id, ...aCustomer(), id: randomUUID(), says: text('Oi') },
      reply: {
        organization_id,
        user_id: attendant.userId,
        conversation_id: randomUUID(),
        content: 'Oi',
        client_message_id: randomUUID(),
      },
    }
    for (const [name, body] of Object.entries(requests)) {
      const response = await fetch(`${apiUrl}/simulator/api/${name}`, {
        method: 'POST',
        headers,
        body: JSON.stringify(body),
      })
      expect([response.status, await response.json()]).toMatchObject([503, { error: { code: 'another_graph' } }])
    }
    // Nor by looking.
    const fresh = await aTenant(backend, 'Clínica sem número', ['attendant'])
    const query = new URLSearchParams({
      organization_id: fresh.organizationId,
      phone_number: aCustomer().phone_number,
      user_id: memberOf(fresh, 'attendant').userId,
    })
    const looked = await fetch(`${apiUrl}/simulator/api/view?${query}`, { headers })
    expect([looked.status, await looked.json()]).toMatchObject([503, { error: { code: 'another_graph' } }])
    const numbers = await asPlatform(backend).from('whatsapp_instances').select('id')
      .eq('organization_id', fresh.organizationId).eq('name', 'Simulador')
    expect(valueOf(numbers)).toEqual([])
  } finally {
    simulator.close()
    server.close()
  }
})

test('no secret ever went out', async () => {
  const secrets = await DataDirectory.at(backend.dataDir).existingSecrets()
  const { publishable: _public, ...keys } = backend.keys
  const { publishableKey: _alsoPublic, ...ours } = secrets
  const all = [...Object.values(keys), ...Object.values(ours)]
  expect(all.length).toBeGreaterThan(8)
  expect(answers.length).toBeGreaterThan(60)
  for (const answer of answers) {
    for (const secret of all) expect(answer.includes(secret)).toBe(false)
    // No access token of a member either.
    expect(answer).not.toMatch(/eyJ[\w-]+\.eyJ/)
  }
})
