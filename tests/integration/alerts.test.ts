// What is not well on a real stack: an alert opens when its cause is made and resolves when it is gone, the organization is
// told of its own, over WhatsApp and at its endpoints, and nobody else.
//
// On a stack of its own without a clock: the worker and the checks run when a test says so, so that a cause is there for as
// long as it is looked at. Hours are skipped in the database; everything else is real.

import postgres from 'postgres'
import { Webhook } from 'standardwebhooks'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { z } from 'zod'
import type { Stack } from '../../local/stack.ts'
import { webhookEvent } from '../../types/index.ts'
import { startOwnStack } from '../support/own-stack.ts'
import { aConversation, aWaId, hurry, seen, write } from '../support/conversations.ts'
import { metaOf } from '../support/graph.ts'
import { aReceiver, type Receiver, registerEndpoint } from '../support/receiver.ts'
import { runningStack } from '../support/running-stack.ts'
import {
  asAdminOf,
  asAttendantOf,
  asNobody,
  asOwnerOf,
  asPlatform,
  asViewerOf,
  aTenant,
  type ConnectedNumber,
  connectNumber,
  type Tenant,
  valueOf,
} from '../support/tenants.ts'

let stack: Stack
/** Past every door: to make causes, to move time. */
let sql: postgres.Sql
let clinic: Tenant
let neighbour: Tenant
/** The owner writes to it. */
let reception: ConnectedNumber
let grooming: ConnectedNumber
const owner = aWaId()

beforeAll(async () => {
  stack = await startOwnStack({
    ticker: false,
    functionsEnvironment: { BALCAO_ALLOW_LOOPBACK_WEBHOOKS: 'true' },
  })
  sql = postgres(stack.urls.admin, { max: 4, onnotice: () => undefined })
  // Nothing runs by the clock here, which would be an alert: a test switches on what it is about.
  await sql`update private.schedules set is_active = false`
  clinic = await aTenant(stack, 'Clínica Atenta', ['viewer', 'attendant', 'admin'])
  neighbour = await aTenant(stack, 'Clínica Vizinha', ['admin'])
  reception = await connectNumber(clinic)
  grooming = await connectNumber(clinic, { sameAppAs: reception })
  valueOf(
    await asAdminOf(clinic).from('authorized_owner_numbers').insert({ phone_number: `+${owner}`, label: 'Dona Lúcia' }).select().single(),
  )
  await aConversation(clinic, reception, owner)
  await aConversation(clinic, grooming, owner)
  await work()
})
afterAll(async () => {
  await sql?.end({ timeout: 1 })
  await stack?.stop()
})

/** The worker's turn, until nothing is due: a delivery wakes a run of its own, which may be at something still. */
async function work(): Promise<void> {
  const left = async () => {
    const response = await fetch(`${stack.urls.functions}/queue-worker`, { method: 'POST', headers: { apikey: stack.keys.secret } })
    expect(response.status).toBe(200)
    await response.text()
    return await sql`
      select job_type, status from public.message_queue
      where status = 'processing' or status in ('pending', 'failed') and run_at <= now()`
  }
  await seen(left, ({ length }) => length === 0)
}

const changes = z.object({ opened: z.int(), resolved: z.int(), open: z.int() })

/** The clock's turn; again when a delivery had an owner in hand at that moment. */
async function check(): Promise<void> {
  await seen(async () => {
    changes.parse(valueOf(await asPlatform(stack).rpc('check_alerts')))
    return await untold()
  }, ({ length }) => length === 0)
}

async function untold() {
  return await sql`
    select a.kind
    from public.system_alerts a
    where private.to_be_told(a, now()) is not null
      or a.organization_id is not null and exists (select from private.owners_to_be_told(a, now()))`
}

/** What is resolved has been for five minutes: then the owner hears of it. */
async function fiveMinutesLater(): Promise<void> {
  await sql`update public.system_alerts set resolved_at = resolved_at - interval '5 minutes' where resolved_at is not null`
  await check()
  await work()
}

interface Alert {
  id: string
  kind: string
  severity: string
  message: string
  subject: string
  resolved_at: Date | null
  tellings: { as: string; result: string }[]
}

async function alertsOf(kind: string, subject?: string): Promise<Alert[]> {
  return await sql<Alert[]>`
    select id, kind, severity::text, message, subject, resolved_at, tellings
    from public.system_alerts
    where kind = ${kind} and ${subject === undefined ? sql`true` : sql`subject = ${subject}`}
    order by id`
}

async function openAlert(kind: string, subject?: string): Promise<Alert | undefined> {
  return (await alertsOf(kind, subject)).find(({ resolved_at }) => resolved_at === null)
}

const health = z.looseObject({
  status: z.string(),
  reasons: z.array(z.object({ kind: z.string(), severity: z.string(), message: z.string() })),
})

async function askHealth(headers: Record<string, string> = { apikey: stack.keys.secret }) {
  const response = await fetch(`${stack.urls.functions}/health`, { headers })
  return { status: response.status, body: await response.json() as unknown }
}

/** Whether health gives this as a reason, and answers as it should to that. */
async function isReason(kind: string): Promise<boolean> {
  const { status, body } = await askHealth()
  const { status: is, reasons } = health.parse(body)
  expect(status).toBe(is === 'unhealthy' ? 503 : 200)
  expect(is).toBe(
    reasons.some(({ severity }) => severity === 'critical') ? 'unhealthy' : reasons.length > 0 ? 'degraded' : 'healthy',
  )
  return reasons.some((reason) => reason.kind === kind)
}

const text = z.object({ text: z.object({ body: z.string() }) })

/** What the owner reads on his phone: from one number, or from both. */
async function read(...numbers: ConnectedNumber[]): Promise<string[]> {
  const sends = await Promise.all((numbers.length > 0 ? numbers : [reception, grooming]).map((number) => metaOf(stack).sends(number)))
  return sends.flat()
    .filter(({ to }) => to === `+${owner}`)
    .sort((one, other) => one.at.localeCompare(other.at))
    .map(({ body }) => text.parse(body).text.body)
}

/** A receiver of the clinic that hears of alerts. */
async function aListener(): Promise<{ receiver: Receiver; heard: () => string[]; endpointId: string }> {
  const receiver = await aReceiver()
  onTestFinished(() => receiver.close())
  const { endpoint, secret } = await registerEndpoint(clinic, receiver.url, ['alert.opened', 'alert.resolved'])
  onTestFinished(async () => void await sql`delete from public.webhook_endpoints where id = ${endpoint.id}`)
  return {
    receiver,
    endpointId: endpoint.id,
    heard: () =>
      receiver.attempts.map(({ body, headers }) => {
        const { type, data } = webhookEvent.parse(new Webhook(secret).verify(body, headers))
        if (type !== 'alert.opened' && type !== 'alert.resolved') throw new Error(`It heard ${type}.`)
        expect(data.organization_id).toBe(clinic.organizationId)
        expect(data.resolved_at === null).toBe(type === 'alert.opened')
        return [type, data.kind, data.severity, ...(data.resolution === null ? [] : [data.resolution])].join(' ')
      }),
  }
}

test('a worker that has stopped, until it runs again', async () => {
  expect(await isReason('queue_stalled')).toBe(false)
  const conversation = await aConversation(clinic, reception)
  await work()
  // Whoever runs gets nothing to do.
  await sql`revoke execute on function public.claim_jobs from service_role`
  onTestFinished(async () => void await sql`grant execute on function public.claim_jobs to service_role`)
  await write(clinic, conversation, 'Abrimos, sim!')
  await check()
  expect(await openAlert('queue_stalled')).toBeUndefined()

  await sql`update public.message_queue set run_at = now() - interval '150 seconds' where organization_id = ${clinic.organizationId} and is_due`
  expect(await isReason('queue_stalled')).toBe(true)
  await check()
  expect(await openAlert('queue_stalled')).toMatchObject({ severity: 'warning', subject: '' })
  await sql`update public.message_queue set run_at = now() - interval '6 minutes' where organization_id = ${clinic.organizationId} and is_due`
  await check()
  expect(await openAlert('queue_stalled')).toMatchObject({ severity: 'critical' })
  expect((await askHealth()).status).toBe(503)

  await sql`grant execute on function public.claim_jobs to service_role`
  await work()
  await check()
  expect(await openAlert('queue_stalled')).toBeUndefined()
  expect(await alertsOf('queue_stalled')).toHaveLength(1)
  expect(await isReason('queue_stalled')).toBe(false)
})

test('an endpoint that fails: the owner and the other endpoints are told once, and that it answers again; nobody else is', async () => {
  const failing = await aReceiver(() => 500)
  onTestFinished(() => failing.close())
  const { endpoint } = await registerEndpoint(clinic, failing.url, ['message.received'])
  onTestFinished(async () => void await sql`delete from public.webhook_endpoints where id = ${endpoint.id}`)
  const { heard } = await aListener()
  const before = (await read()).length

  await aConversation(clinic, reception)
  await work()
  for (const attempts of [2, 3]) {
    await check()
    expect(await openAlert('endpoint_failing')).toBeUndefined()
    await hurry(sql, clinic)
    await work()
    expect(failing.attempts).toHaveLength(attempts)
  }
  await check()
  expect(await openAlert('endpoint_failing')).toMatchObject({ severity: 'warning', subject: endpoint.id })
  await check()
  await work()
  expect(heard()).toEqual(['alert.opened endpoint_failing warning'])
  expect(await read()).toHaveLength(before)

  // It says that it is gone, and is disabled.
  failing.reply = () => 410
  await hurry(sql, clinic)
  await work()
  await check()
  await check()
  await work()
  expect(await openAlert('endpoint_failing')).toMatchObject({ severity: 'critical', subject: endpoint.id })
  expect(heard()).toEqual(['alert.opened endpoint_failing warning', 'alert.opened endpoint_failing critical'])
  const host = new URL(failing.url).host
  expect((await read()).slice(before)).toEqual([
    `Aviso do sistema para Clínica Atenta: 🚨 o sistema que recebe os eventos em ${host} foi desativado, porque não aceita mais as entregas. Corrija-o e ative-o de novo.`,
  ])

  // Who sees it.
  for (const client of [asAdminOf(clinic), asOwnerOf(clinic)]) {
    const alerts = valueOf(await client.from('system_alerts').select('kind, subject').is('resolved_at', null))
    expect(alerts).toEqual([{ kind: 'endpoint_failing', subject: endpoint.id }])
  }
  for (const client of [asViewerOf(clinic), asAttendantOf(clinic), asAdminOf(neighbour)]) {
    expect(valueOf(await client.from('system_alerts').select('id'))).toEqual([])
    expect((await client.from('system_alerts').select('*', { count: 'exact', head: true })).count).toBe(0)
  }
  expect((await asNobody(stack).from('system_alerts').select('id')).error?.code).toBe('42501')
  for (const client of [asNobody(stack), asOwnerOf(clinic)]) {
    expect((await client.rpc('check_alerts')).error?.code).toBe('42501')
    expect((await client.rpc('system_health')).error?.code).toBe('42501')
  }

  failing.reply = () => 204
  await sql`
    update public.webhook_endpoints
    set is_active = true, disabled_at = null, disabled_reason = null, consecutive_failures = 0, failing_since = null
    where id = ${endpoint.id}`
  await check()
  expect(await openAlert('endpoint_failing')).toBeUndefined()
  await check()
  await work()
  expect(heard().at(-1)).toBe('alert.resolved endpoint_failing critical fixed')
  expect(await read()).toHaveLength(before + 1)
  await fiveMinutesLater()
  expect((await read()).slice(before + 1)).toEqual([
    `Aviso do sistema para Clínica Atenta: ✅ Resolvido: o sistema que recebe os eventos em ${host} foi ativado de novo.`,
  ])
})

test('a number that falls silent, until it is heard: told through another number', async () => {
  const { heard } = await aListener()
  await sql`
    insert into private.heard_hours (organization_id, instance_id, hour)
    select ${clinic.organizationId}, ${reception.instanceId}, date_trunc('hour', now(), 'UTC') - n * interval '1 hour'
    from generate_series(1, 800) n`
  await check()
  expect(await openAlert('instance_silent')).toBeUndefined()
  const [through, other] = [await read(reception), await read(grooming)]
  await sql`update public.whatsapp_instances set last_seen_at = now() - interval '12 hours' where id = ${reception.instanceId}`
  await check()
  expect(await openAlert('instance_silent')).toMatchObject({ severity: 'critical', subject: reception.instanceId })
  expect(z.object({ instances: z.object({ silent: z.int() }) }).parse((await askHealth()).body).instances.silent).toBe(1)
  await work()
  expect(await read(reception)).toEqual(through)
  expect((await read(grooming)).slice(other.length)).toEqual([
    expect.stringMatching(/🚨 nenhuma mensagem chega ao número de WhatsApp Recepção .* desde \d\d\/\d\d às \d\d:\d\d\./),
  ])

  await aConversation(clinic, reception)
  await check()
  expect(await openAlert('instance_silent')).toBeUndefined()
  await fiveMinutesLater()
  expect(heard()).toEqual(['alert.opened instance_silent critical', 'alert.resolved instance_silent critical fixed'])
  expect((await read()).at(-1)).toMatch(/voltou a receber mensagens\.$/)
})

test('a number that the provider refuses, until it has a new token', async () => {
  const conversation = await aConversation(clinic, reception)
  await metaOf(stack).failing(reception, { code: 190 })
  await write(clinic, conversation, 'Bom dia!')
  await work()
  const other = await read(grooming)
  await check()
  expect(await openAlert('sending_stopped', reception.instanceId)).toMatchObject({ severity: 'critical' })
  await work()
  expect((await read(grooming)).slice(other.length)).toEqual([
    expect.stringMatching(/a autorização do número .* não vale mais: .* novo token de acesso\.$/),
  ])

  await sql`
    update public.whatsapp_instances
    set sending_stopped_at = null, sending_stopped_code = null, sending_stopped_reason = null
    where id = ${reception.instanceId}`
  await check()
  expect(await openAlert('sending_stopped', reception.instanceId)).toBeUndefined()
  await fiveMinutesLater()
  expect((await read()).at(-1)).toMatch(/pode enviar mensagens de novo\.$/)
})

test('a refresh that fails, until one goes well', async () => {
  await sql`update private.schedules set is_active = true, last_scheduled_for = now() where name = 'refresh_dashboard_metrics'`
  onTestFinished(async () => void await sql`update private.schedules set is_active = false`)
  const refresh = async () => valueOf(await asPlatform(stack).rpc('run_schedule', { name: 'refresh_dashboard_metrics', force: true }))
  await refresh()
  await check()
  expect(await openAlert('refresh_failing')).toBeUndefined()

  // Without its unique index it cannot be refreshed while it is read.
  const [index] = await sql<{ name: string; definition: string }[]>`
    select i.indexrelid::regclass::text as name, pg_get_indexdef(i.indexrelid) as definition
    from pg_index i where i.indrelid = 'analytics.dashboard_metrics'::regclass and i.indisunique`
  if (index === undefined) throw new Error('It has no unique index.')
  await sql.unsafe(`drop index ${index.name}`)
  await refresh()
  expect(await isReason('refresh_failing')).toBe(true)
  await check()
  expect(await openAlert('refresh_failing')).toMatchObject({
    severity: 'warning',
    subject: 'dashboard_metrics',
    message: expect.stringMatching(/^dashboard_metrics was not refreshed: cannot refresh materialized view/),
  })

  await sql.unsafe(index.definition)
  await refresh()
  await check()
  expect(await openAlert('refresh_failing')).toBeUndefined()
  expect(await isReason('refresh_failing')).toBe(false)
})

test('a statement of the API that takes too long, while it does', async () => {
  // It waits for what this test holds. What the clock calls may take as long as it likes.
  await sql`create function public.waits() returns void language sql set statement_timeout = '5min' as 'select pg_advisory_xact_lock(4711)'`
  onTestFinished(async () => void await sql`drop function public.waits()`)
  await sql`grant execute on function public.waits() to authenticated`
  const waits = async () =>
    await fetch(`${stack.urls.rest}/rpc/waits`, {
      method: 'POST',
      headers: { apikey: stack.keys.publishable, authorization: `Bearer ${clinic.people.viewer?.accessToken}` },
    })
  // The Data API has heard of it.
  await seen(async () => (await waits()).ok, (ok) => ok)
  await check()
  expect(await openAlert('slow_statements')).toBeUndefined()

  let answer: Promise<Response> | undefined
  await sql.begin(async (holder) => {
    await holder`select pg_advisory_xact_lock(4711)`
    answer = waits()
    const longest = async () => {
      const [row] = await sql<{ seconds: number | null }[]>`select max(s.seconds)::float8 as seconds from private.slowest_statement(clock_timestamp()) s`
      return row?.seconds ?? 0
    }
    await seen(longest, (seconds) => seconds > 1)
    expect(await isReason('slow_statements')).toBe(true)
    await check()
    const alert = await openAlert('slow_statements')
    expect(alert?.message).toMatch(/^A statement of the API runs for [0-9.]+ s$/)
  })
  expect((await answer)?.ok).toBe(true)
  await check()
  expect(await openAlert('slow_statements')).toBeUndefined()
  expect(await isReason('slow_statements')).toBe(false)
})

test('a table that somebody has locked keeps nothing else from being told', async () => {
  await sql.begin(async (holder) => {
    await holder`lock table public.leads in access exclusive mode`
    const { body } = await askHealth()
    expect(body).toMatchObject({ database: 'connected', table_sizes: null, providers: { meta_cloud: { connected: 2 } } })
  })
  const sizes = expect.arrayContaining([expect.objectContaining({ bytes: expect.any(Number) })])
  expect((await askHealth()).body).toMatchObject({ table_sizes: sizes })
})

test('a transaction that is open for long, unless it is a backup', async () => {
  const open = async (application_name: string) => {
    const client = postgres(stack.urls.admin, { max: 1, onnotice: () => undefined, connection: { application_name } })
    const transaction = await client.reserve()
    await transaction`begin`
    onTestFinished(async () => {
      await transaction`rollback`
      transaction.release()
      await client.end({ timeout: 1 })
    })
  }
  const longest = async () =>
    (await sql<{ application_name: string }[]>`select application_name from private.oldest_transaction(clock_timestamp(), false)`)
      .map(({ application_name }) => application_name)
  await open('pg_dump')
  expect(await longest()).not.toContain('pg_dump')
  await open('psql')
  // What the API is still at ends by itself.
  expect(await seen(longest, (names) => names.join() === 'psql')).toEqual(['psql'])
})

test('two checks at once are one', async () => {
  await sql`update public.whatsapp_instances set status = 'banned' where id = ${grooming.instanceId}`
  const { heard } = await aListener()
  await sql.begin(async (first) => {
    const [answer] = await first`select private.check_alerts() as changes`
    expect(answer?.changes).toMatchObject({ opened: 1 })
    expect(valueOf(await asPlatform(stack).rpc('check_alerts'))).toEqual({ skipped: 'already_running' })
  })
  await Promise.all(Array.from({ length: 8 }, async () => valueOf(await asPlatform(stack).rpc('check_alerts'))))
  await check()
  expect(await alertsOf('instance_disconnected')).toHaveLength(1)
  await work()
  expect(heard()).toEqual(['alert.opened instance_disconnected critical'])
  await sql`update public.whatsapp_instances set status = 'connected' where id = ${grooming.instanceId}`
  await check()
  expect(await openAlert('instance_disconnected')).toBeUndefined()
  await work()
})

test('an owner whom somebody has in hand keeps nobody waiting, and is told a minute later', async () => {
  const before = (await read(reception)).length
  // What was told of it before is long ago.
  await sql`delete from public.system_alerts where kind = 'instance_disconnected'`
  await sql`update public.whatsapp_instances set status = 'banned' where id = ${grooming.instanceId}`
  await sql.begin(async (busy) => {
    await busy`select from public.contacts where organization_id = ${clinic.organizationId} and phone_number = ${`+${owner}`} for update`
    changes.parse(valueOf(await asPlatform(stack).rpc('check_alerts')))
    expect(await openAlert('instance_disconnected')).toMatchObject({ tellings: [] })
    expect(await untold()).toEqual([{ kind: 'instance_disconnected' }])
  })
  await check()
  await work()
  expect((await read(reception)).slice(before)).toEqual([expect.stringMatching(/foi bloqueado pelo WhatsApp\.$/)])
  await sql`update public.whatsapp_instances set status = 'connected' where id = ${grooming.instanceId}`
  await check()
  await work()
})

test('health: alive to everybody, the rest with the secret key; a database that does not answer is an outage', async () => {
  for (const headers of [{}, { apikey: stack.keys.publishable }, { apikey: stack.keys.anon }]) {
    expect(await askHealth(headers)).toEqual({ status: 200, body: { status: 'alive' } })
  }
  const asOwner = { apikey: stack.keys.publishable, authorization: `Bearer ${clinic.people.owner?.accessToken}` }
  expect(await askHealth(asOwner)).toEqual({ status: 200, body: { status: 'alive' } })
  expect((await askHealth({ authorization: `Bearer ${stack.keys.secret}` })).body).toMatchObject({
    database: 'connected',
    providers: { meta_cloud: { connected: 2 } },
  })

  const { postgrest } = stack.pids()
  if (postgrest === null) throw new Error('The Data API does not run.')
  process.kill(postgrest, 'SIGSTOP')
  try {
    expect(await askHealth()).toMatchObject({ status: 503, body: { status: 'unhealthy', database: 'unreachable' } })
    expect(await askHealth({})).toEqual({ status: 200, body: { status: 'alive' } })
  } finally {
    process.kill(postgrest, 'SIGCONT')
  }
})

test('on a stack with a clock the checks run by themselves', async () => {
  const running = postgres(runningStack().urls.admin, { max: 1, onnotice: () => undefined })
  onTestFinished(() => running.end({ timeout: 1 }))
  const runs = async () => await running`select error from private.schedule_runs where name = 'check_alerts' and finished_at is not null`
  const [run] = await seen(runs, ({ length }) => length > 0)
  expect(run?.error).toBeNull()
})
