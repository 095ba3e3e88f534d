// An encryption key is replaced while everything is in use: sealed under a, run with "b,a", killed in the middle of sealing
// anew, then a is gone, and every secret still does its work. Before that, an app's burst of five thousand messages.

import { randomBytes } from 'node:crypto'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createClient } from '@supabase/supabase-js'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { z } from 'zod'
import { DataDirectory } from '../../local/data-directory.ts'
import { type Stack, startStack } from '../../local/stack.ts'
import type { ApiKey, Database } from '../../types/index.ts'
import { aTextMessage, bySenders, metaWebhook } from '../support/meta.ts'
import { eventually } from '../support/processes.ts'
import { aReceiver, type Receiver, registerEndpoint } from '../support/receiver.ts'
import {
  asAdminOf,
  asOwnerOf,
  aTenant,
  type ConnectedNumber,
  connectNumber,
  manageInstance,
  memberOf,
  type Tenant,
  valueOf,
} from '../support/tenants.ts'

const COPIES = 1_500
const BURST = { deliveries: 1_000, messagesEach: 5 }
const PATIENCE_MS = 180_000

/** As BALCAO_ENCRYPTION_KEYS names them; a is the one that the stack made. */
const keys = { a: '', b: `b:${randomBytes(32).toString('base64')}` }
const A = 'local'

let dataDir = ''
let stack: Stack
/** The same one after each start: clients know it. */
let port = 0
let clinic: Tenant
let number: ConnectedNumber
let receiver: Receiver
let endpoint: string
let key: ApiKey

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'balcao-rotation-'))
  await start()
  keys.a = (await DataDirectory.at(dataDir).existingSecrets()).encryptionKeys
  clinic = await aTenant(stack, 'Clínica do Cofre', ['admin'])
  number = await connectNumber(clinic)
  receiver = await aReceiver()
  endpoint = (await registerEndpoint(clinic, receiver.url, ['webhook.test'])).endpoint.id
  key = valueOf(await asAdminOf(clinic).rpc('create_api_key', { name: 'Planilha', role: 'viewer' }))
  await exchanged()
})

afterAll(async () => {
  await stack?.stop()
  await receiver?.close()
  await rm(dataDir, { recursive: true, force: true })
})

async function start(): Promise<void> {
  stack = await startStack({
    dataDir,
    apiPort: port,
    dbPort: 0,
    functionsEnvironment: { BALCAO_ALLOW_LOOPBACK_WEBHOOKS: 'true' },
  })
  port = Number(new URL(stack.urls.api).port)
}

/** As an operator does it: new secrets, then a deployment. */
async function useKeys(encryptionKeys: string): Promise<void> {
  await stack.stop()
  const path = DataDirectory.at(dataDir).secretsPath
  const secrets = z.record(z.string(), z.string()).parse(JSON.parse(await readFile(path, 'utf8')))
  await writeFile(path, JSON.stringify({ ...secrets, encryptionKeys }))
  await start()
}

async function inDatabase<T>(use: (sql: postgres.Sql) => Promise<T>): Promise<T> {
  const sql = postgres(stack.urls.admin, { max: 2, onnotice: () => undefined })
  try {
    return await use(sql)
  } finally {
    await sql.end({ timeout: 5 })
  }
}

const report = z.object({
  sealing_key: z.string(),
  finished: z.boolean(),
  resealed: z.number(),
  unreadable: z.array(z.unknown()),
  keys: z.array(z.object({ key_id: z.string(), is_needed: z.boolean(), secrets: z.number() })),
})

async function rotate() {
  const response = await fetch(`${stack.urls.functions}/rotate-secrets`, {
    method: 'POST',
    headers: { apikey: stack.keys.secret },
  })
  const text = await response.text()
  if (response.status !== 200) throw new Error(`${response.status} ${text}`)
  return report.parse(JSON.parse(text))
}

async function exchanged(): Promise<void> {
  const response = await fetch(`${stack.urls.functions}/token`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key.key}` },
  })
  const { access_token } = z.object({ access_token: z.string() }).parse(await response.json())
  const program = createClient<Database>(stack.urls.api, stack.keys.publishable, {
    accessToken: () => Promise.resolve(access_token),
  })
  expect(valueOf(await program.from('organizations').select('id'))).toEqual([{ id: clinic.organizationId }])
}

const webhookUrl = () => `${stack.urls.functions}/whatsapp-webhook/meta/${number.appKey}`

/** Each stored secret does its work. */
async function everythingWorks(): Promise<void> {
  // The app's two.
  const delivery = aTextMessage({
    to: number.externalId,
    from: '5511987650001',
    id: `wamid.${randomBytes(12).toString('hex')}`,
  })
  expect((await metaWebhook(delivery).signedWith(number.appSecret).postedTo(webhookUrl())).body)
    .toMatchObject({ messages: 1 })
  const query = new URLSearchParams({
    'hub.mode': 'subscribe',
    'hub.challenge': '42',
    'hub.verify_token': number.verifyToken,
  })
  expect(await (await fetch(`${webhookUrl()}?${query}`)).text()).toBe('42')
  // The number's.
  const tested = await manageInstance(
    stack,
    'POST',
    memberOf(clinic, 'owner').accessToken,
    { organization_id: clinic.organizationId, instance_id: number.instanceId },
    '/test',
  )
  expect(tested.body).toMatchObject({ connection: { ok: true } })
  // The endpoint's.
  const before = receiver.attempts.length
  valueOf(await asOwnerOf(clinic).rpc('test_webhook_endpoint', { endpoint_id: endpoint }))
  await eventually(() => receiver.attempts.length > before)
  // The key's.
  await exchanged()
}

const sealedBy = (keyId: string) =>
  inDatabase(async (sql) => {
    const [row] =
      await sql`select coalesce(sum(u.secrets), 0)::int as count from public.encryption_keys_in_use() u where u.key_id = ${keyId}`
    return Number(row?.count)
  })

test('a burst of five thousand messages of one app loses nothing', { timeout: PATIENCE_MS }, async () => {
  const burst = Array.from(
    { length: BURST.deliveries },
    (_, n) =>
      Array.from(
        { length: BURST.messagesEach },
        (_, m) => ({ id: `wamid.burst-${n}-${m}`, from: `55119800000${n % 90 + 10}` }),
      ),
  )
  const statuses = await bySenders(64, burst, async (messages) => {
    const [first, ...others] = messages.map((message) => aTextMessage({ to: number.externalId, ...message }))
    if (first === undefined) throw new Error('A delivery has messages.')
    first.entry.push(...others.flatMap(({ entry }) => entry))
    const delivery = metaWebhook(first).signedWith(number.appSecret)
    // Meta comes again.
    for (;;) {
      const { status } = await delivery.postedTo(webhookUrl())
      if (status !== 429) return status
    }
  })
  expect(new Set(statuses)).toEqual(new Set([200]))
  const [stored] = await inDatabase((sql) =>
    sql`select count(*)::int as count from public.messages m where m.whatsapp_message_id like 'wamid.burst-%'`
  )
  expect(stored?.count).toBe(BURST.deliveries * BURST.messagesEach)
})

test('under "b,a" everything opens, sealing anew survives a kill, and without a everything opens still', {
  timeout: PATIENCE_MS,
}, async () => {
  await everythingWorks()
  await inDatabase((sql) =>
    // The same secret many times over: expired, so that nothing is signed with it.
    sql`
      insert into private.webhook_endpoint_secrets (organization_id, endpoint_id, secret, expires_at)
      select s.organization_id, s.endpoint_id, s.secret, now() - interval '1 day'
      from private.webhook_endpoint_secrets s
      cross join generate_series(1, ${COPIES}) copies
      where s.endpoint_id = ${endpoint}`
  )
  const all = await sealedBy(A)
  expect(all).toBe(COPIES + 5)

  await useKeys(`${keys.b},${keys.a}`)
  await everythingWorks()
  expect(await sealedBy(A)).toBe(all)

  const broken = rotate().then(() => 'ended', () => 'broken')
  await eventually(async () => await sealedBy('b') > 20)
  stack.kill('functions')
  expect(await broken).toBe('broken')
  const done = await sealedBy('b')
  expect(done).toBeLessThan(all)
  expect(await sealedBy(A)).toBe(all - done)

  // They come back by themselves; and two at once do no harm.
  await eventually(() => rotate().then(() => true, () => false))
  await Promise.all([rotate(), rotate()])
  const last = await rotate()
  expect(last).toMatchObject({ sealing_key: 'b', finished: true, resealed: 0, unreadable: [] })
  expect(last.keys).toEqual([
    expect.objectContaining({ key_id: 'b', is_needed: true, secrets: all }),
    expect.objectContaining({ key_id: A, is_needed: false, secrets: 0 }),
  ])
  await everythingWorks()

  await useKeys(keys.b)
  await everythingWorks()
  expect(await rotate()).toMatchObject({ finished: true, resealed: 0, unreadable: [] })
})
