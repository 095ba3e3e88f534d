// Connecting, changing and disconnecting a number, as an administrator's app does it.

import { randomUUID } from 'node:crypto'
import { beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { runningStack } from '../support/running-stack.ts'
import {
  anExternalId,
  type Answer,
  aPerson,
  aPhoneNumber,
  asAttendantOf,
  aSecret,
  asOwnerOf,
  asPlatform,
  aTenant,
  connectNumber,
  type ConnectedNumber,
  manageInstance,
  memberOf,
  type Person,
  type Tenant,
  valueOf,
} from '../support/tenants.ts'

const backend = runningStack()
const platform = asPlatform(backend)
let clinic: Tenant
let neighbour: Tenant
let stranger: Person

beforeAll(async () => {
  clinic = await aTenant(backend, 'Clínica Aurora', ['viewer', 'attendant', 'admin'])
  neighbour = await aTenant(backend, 'Clínica Vizinha')
  stranger = await aPerson(backend)
})

const secrets = () => ({ access_token: aSecret('access-token'), app_secret: aSecret('app-secret'), verify_token: aSecret('verify-token') })

function aRequest(changes: Record<string, unknown> = {}) {
  const { access_token, ...meta_app } = secrets()
  return {
    organization_id: clinic.organizationId,
    provider: 'meta_cloud',
    name: 'Recepção',
    phone_number: aPhoneNumber(),
    external_id: anExternalId(),
    access_token,
    meta_app,
    ...changes,
  }
}

const as = (person: Person) => ({
  posts: (body: unknown) => manageInstance(backend, 'POST', person.accessToken, body),
  patches: (body: unknown) => manageInstance(backend, 'PATCH', person.accessToken, body),
  deletes: (body: unknown) => manageInstance(backend, 'DELETE', person.accessToken, body),
})
const admin = () => as(memberOf(clinic, 'admin'))

const refusal = z.object({ error: z.object({ code: z.string(), message: z.string() }) })
function refused({ status, body }: Answer): [number, string] {
  return [status, refusal.parse(body).error.code]
}

async function instances() {
  return valueOf(
    await platform.from('whatsapp_instances').select('*').eq('organization_id', clinic.organizationId).order('id'),
  )
}

test('an administrator connects a number; members see it and where Meta delivers, nobody a secret', async () => {
  const request = aRequest({ phone_number: '(11) 94000-1234' })
  const { status, body, text } = await admin().posts(request)
  expect(status).toBe(201)
  const { app_key } = z.object({ app_key: z.string() }).parse(body)
  const webhook_url = `${backend.urls.functions}/whatsapp-webhook/meta/${app_key}`
  const number = {
    organization_id: clinic.organizationId,
    provider: 'meta_cloud',
    name: 'Recepção',
    phone_number: '+5511940001234',
    external_id: request.external_id,
    status: 'connecting',
    webhook_url,
  }
  expect(body).toMatchObject({ instance: number, webhook_url, app_key })
  for (const secret of [request.access_token, ...Object.values(request.meta_app)]) expect(text).not.toContain(secret)

  const seen = await asAttendantOf(clinic).from('whatsapp_instances').select('*').eq('external_id', request.external_id)
  expect(valueOf(seen)).toMatchObject([number])
})

describe('whoever may not is refused, and nothing changes', () => {
  let number: ConnectedNumber
  beforeAll(async () => {
    number = await connectNumber(clinic)
  })

  test.each<[string, () => string | null, number, string]>([
    ['nobody', () => null, 401, 'not_authenticated'],
    ['a token that is none', () => 'eyJhbGciOiJIUzI1NiJ9.e30.x', 401, 'not_authenticated'],
    ['the publishable key', () => backend.keys.publishable, 401, 'not_authenticated'],
    ['a viewer', () => memberOf(clinic, 'viewer').accessToken, 403, 'not_allowed'],
    ['an attendant', () => memberOf(clinic, 'attendant').accessToken, 403, 'not_allowed'],
    ['a stranger', () => stranger.accessToken, 403, 'not_allowed'],
    ["another tenant's owner", () => memberOf(neighbour, 'owner').accessToken, 403, 'not_allowed'],
  ])('%s', async (_name, bearer, status, code) => {
    const before = await instances()
    const target = { organization_id: clinic.organizationId, instance_id: number.instanceId }
    for (
      const [method, body] of [
        ['POST', aRequest()],
        ['PATCH', { ...target, name: 'Minha' }],
        ['PATCH', { ...target, meta_app: { app_secret: aSecret('app-secret') } }],
        ['DELETE', target],
      ] as const
    ) {
      expect(refused(await manageInstance(backend, method, bearer(), body))).toEqual([status, code])
    }
    expect(await instances()).toEqual(before)
  })
})

test('what is wrong is refused by its field: 400', async () => {
  const before = await instances()
  expect(refused(await admin().posts(aRequest({ phone_number: '123' })))).toEqual([400, 'invalid_phone_number'])
  expect(refused(await admin().posts(aRequest({ access_token: '' })))).toEqual([400, 'invalid_request'])
  expect(refused(await admin().posts('{'))).toEqual([400, 'invalid_json'])
  expect(refused(await admin().posts(aRequest({ provider: 'evolution' })))).toEqual([400, 'provider_not_supported'])
  expect(await instances()).toEqual(before)
})

test('what is not there is not found: 404', async () => {
  const nowhere = { organization_id: clinic.organizationId, instance_id: randomUUID() }
  expect(refused(await admin().patches({ ...nowhere, name: 'x' }))).toEqual([404, 'instance_not_found'])
  expect(refused(await admin().deletes(nowhere))).toEqual([404, 'instance_not_found'])
  const neighbours = await connectNumber(neighbour)
  const theirs = { organization_id: clinic.organizationId, instance_id: neighbours.instanceId }
  expect(refused(await admin().patches({ ...theirs, name: 'x' }))).toEqual([404, 'instance_not_found'])
  const onTheirApp = aRequest({ meta_app: undefined, app_key: neighbours.appKey })
  expect(refused(await admin().posts(onTheirApp))).toEqual([404, 'app_not_found'])
  expect(refused(await manageInstance(backend, 'POST', memberOf(clinic, 'owner').accessToken, aRequest(), '/elsewhere')))
    .toEqual([404, 'not_found'])
})

test('a number is connected once, changed, disconnected, and comes back as the same row', async () => {
  const number = await connectNumber(clinic)
  const target = { organization_id: clinic.organizationId, instance_id: number.instanceId }
  const again = aRequest({ external_id: number.externalId })
  expect(refused(await admin().posts(again))).toEqual([409, 'instance_exists'])

  const changed = await admin().patches({ ...target, name: 'Agenda', access_token: aSecret('access-token') })
  expect(changed).toMatchObject({ status: 200, body: { instance: { id: number.instanceId, name: 'Agenda' }, app_key: number.appKey } })

  for (const _twice of [1, 2]) {
    expect(await admin().deletes(target)).toMatchObject({ status: 200, body: { instance: { status: 'disconnected' } } })
  }
  expect(refused(await admin().patches({ ...target, name: 'x' }))).toEqual([409, 'instance_disconnected'])
  const back = await admin().posts({ ...again, name: 'De volta' })
  expect(back).toMatchObject({ status: 201, body: { instance: { id: number.instanceId, name: 'De volta' } } })
})

test('of ten who connect the same number at once, one does', async () => {
  const request = aRequest()
  const answers = await Promise.all(Array.from({ length: 10 }, () => admin().posts(request)))
  expect(answers.map(({ status }) => status).sort()).toEqual([201, ...Array.from({ length: 9 }, () => 409)])
})

test('two tenants may have the same number under apps of their own', async () => {
  const { externalId } = await connectNumber(clinic)
  const theirs = await connectNumber(neighbour, { externalId })
  const seen = valueOf(await asOwnerOf(neighbour).from('whatsapp_instances').select('id').eq('external_id', externalId))
  expect(seen).toEqual([{ id: theirs.instanceId }])
})

test("the platform's own app takes the secret key, and its numbers are not for tenants to claim", async () => {
  const { app_secret, verify_token } = secrets()
  const body = { app_secret, verify_token }
  const register = (bearer: string) => manageInstance(backend, 'POST', bearer, body, '/platform-app')
  expect(refused(await register(memberOf(clinic, 'owner').accessToken))).toEqual([403, 'not_allowed'])
  const made = await register(backend.keys.secret)
  expect(made.status).toBe(201)
  const { app_key } = z.object({ app_key: z.string() }).parse(made.body)
  expect(made.text).not.toContain(app_secret)
  expect(refused(await admin().posts(aRequest({ meta_app: undefined, app_key })))).toEqual([404, 'app_not_found'])
  const byPlatform = await manageInstance(backend, 'POST', backend.keys.secret, aRequest({ meta_app: undefined, app_key }))
  expect(byPlatform).toMatchObject({ status: 201, body: { app_key } })
})
