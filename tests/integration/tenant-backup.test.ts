// A tenant of the seed goes into a file, and out of it into another project: the same table by table, and its apps work there.
// Whatever goes wrong on the way leaves nothing half-done. Both stacks are this test's own.

import { randomUUID } from 'node:crypto'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { DataDirectory } from '../../local/data-directory.ts'
import { PROJECT_DIR } from '../../local/environment.ts'
import { type Stack, startStack } from '../../local/stack.ts'
import { seen, write } from '../support/conversations.ts'
import { metaOf } from '../support/graph.ts'
import {
  aPerson,
  asNobody,
  asPlatform,
  aTenant,
  type Client,
  type ConnectedNumber,
  connectNumber,
  type Person,
  type Tenant,
  valueOf,
} from '../support/tenants.ts'

const CLINIC = '5eed0000-0000-4000-8000-000000001000'
/** With what a line of a file could stumble over. */
const GREETING = 'Oi! "Aspas", vírgulas,\ne linhas \\n 🐾'
const PET_SHOP = '5eed0000-0000-4000-8000-000000002000'

let folder = ''
/** Its clock stands still, so that nothing changes but what a test changes. */
let source: Stack
/** Empty but for its migrations; its clock runs. */
let target: Stack
let there: postgres.Sql
let here: postgres.Sql
let clinic: Tenant
let number: ConnectedNumber
const customer = '5511987651234'
const otherCustomer = '5511987654321'

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'balcao-backup-'))
  source = await startStack({ dataDir: join(folder, 'source'), apiPort: 0, dbPort: 0, ticker: false })
  // Another project of the same operator's: other keys everywhere, but for those that open what was sealed.
  const data = await DataDirectory.open(join(folder, 'target'))
  const { encryptionKeys } = await DataDirectory.at(source.dataDir).existingSecrets()
  await writeFile(data.secretsPath, JSON.stringify({ ...await data.secrets(), encryptionKeys }), { mode: 0o600 })
  target = await startStack({ dataDir: data.path, apiPort: 0, dbPort: 0 })
  there = postgres(source.urls.admin, { max: 6, onnotice: () => undefined })
  here = postgres(target.urls.admin, { max: 4, onnotice: () => undefined })

  await there.unsafe(await readFile(join(PROJECT_DIR, 'supabase', 'seed.sql'), 'utf8'))
  const [owner, attendant] = [await someone('helena'), await someone('joana')]
  await there`
    insert into public.user_roles (organization_id, user_id, role)
    values (${CLINIC}, ${owner.userId}, 'owner'), (${CLINIC}, ${attendant.userId}, 'attendant')`
  for (const { client } of [owner, attendant]) valueOf(await client.rpc('ensure_profile', { first_name: 'Nome' }))
  clinic = { backend: source, name: 'Clínica Vida Plena', organizationId: CLINIC, people: { owner, attendant } }
  number = await connectNumber(clinic)
  for (const [from, name] of [[customer, 'Ana'], [otherCustomer, 'Bia']] as const) {
    await metaOf(source).inbound(number, { from, name, message: { type: 'text', text: { body: GREETING } } })
  }
  // The bot greets them, and is read.
  await seen(
    async () => await there`select from public.messages where instance_id = ${number.instanceId} and status = 'read'`,
    (read) => read.length === 2,
  )
  await idle()
  valueOf(await asPlatform(source).rpc('run_schedule', { name: 'seal_audit_logs', force: true }))
}, 120_000)

afterAll(async () => {
  await Promise.all([there?.end({ timeout: 1 }), here?.end({ timeout: 1 })])
  await Promise.all([source?.stop(), target?.stop()])
  await rm(folder, { recursive: true, force: true })
})

/** Nothing is under way: the clock stands still, and what an app woke has ended. */
async function idle(): Promise<void> {
  await seen(
    async () => await there`select from public.message_queue where is_due and status in ('pending', 'failed') or status = 'processing'`,
    (jobs) => jobs.length === 0,
  )
}

/** A person whose password this test knows. */
async function someone(name: string): Promise<Person> {
  const client = asNobody(source)
  const email = `${name}-${randomUUID()}@exemplo.com.br`
  const { user, session } = valueOf(await client.auth.signUp({ email, password: passwordOf(email) }))
  if (user === null || session === null) throw new Error(`${email} was not signed in at once.`)
  return { userId: user.id, email, accessToken: session.access_token, client }
}

function passwordOf(email: string): string {
  return `senha de ${email}`
}

// What a caller does ----------------------------------------------------------------------------------------------------

const refusal = z.object({ error: z.object({ code: z.string(), message: z.string() }) })
const backupRow = z.looseObject({
  id: z.string(),
  status: z.string(),
  storage_path: z.string(),
  checksum: z.string(),
  size_bytes: z.number(),
  row_counts: z.record(z.string(), z.number()),
})
type Backup = z.output<typeof backupRow>

async function ask(stack: Stack, body: unknown, bearer: string | null = null) {
  const response = await fetch(`${stack.urls.functions}/tenant-backup`, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      ...(bearer === null ? { apikey: stack.keys.secret } : { authorization: `Bearer ${bearer}` }),
    },
    body: JSON.stringify(body),
  })
  const text = await response.text()
  return { status: response.status, body: JSON.parse(text) as Record<string, unknown> }
}

async function refusalOf(stack: Stack, body: unknown, bearer: string | null = null): Promise<[number, string]> {
  const answer = await ask(stack, body, bearer)
  return [answer.status, refusal.parse(answer.body).error.code]
}

async function backedUp(organization_id: string): Promise<Backup> {
  const answer = await ask(source, { action: 'create', organization_id })
  expect(answer).toMatchObject({ status: 201, body: { backup: { status: 'completed' } } })
  return backupRow.parse(answer.body.backup)
}

/** As an operator does, with curl: docs/backups.md. */
async function fileOf({ storage_path }: Pick<Backup, 'storage_path'>): Promise<Uint8Array<ArrayBuffer>> {
  const response = await fetch(`${source.urls.storage}/object/backups/${storage_path}`, { headers: { apikey: source.keys.secret } })
  expect(response.status).toBe(200)
  return new Uint8Array(await response.arrayBuffer())
}

async function put(path: string, bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const response = await fetch(`${target.urls.storage}/object/backups/${path}`, {
    method: 'POST',
    headers: { apikey: target.keys.secret, 'content-type': 'application/octet-stream' },
    body: bytes,
  })
  expect(response.status).toBe(200)
  return path
}

/** Logins are Supabase's: they move by a copy of its own tables. */
async function copyLogins(organization_id: string): Promise<void> {
  for (const [table, key] of [['users', 'id'], ['identities', 'user_id']] as const) {
    const columns = await there<{ name: string }[]>`
      select a.attname as name from pg_catalog.pg_attribute a
      where a.attrelid = ${`auth.${table}`}::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''`
    const rows = await there.unsafe<{ row: string }[]>(
      `select to_jsonb(t)::text as row from auth.${table} t
       where t.${key} in (select m.user_id from public.user_roles m where m.organization_id = $1)`,
      [organization_id],
    )
    const list = columns.map(({ name }) => `"${name}"`).join(', ')
    for (const { row } of rows) {
      await here.unsafe(
        `insert into auth.${table} (${list}) select ${list} from jsonb_populate_record(null::auth.${table}, $1::text::jsonb)
         on conflict do nothing`,
        [row],
      )
    }
  }
}

/** Nothing of a tenant, nothing laid down, nothing switched off. */
async function isUntouched(organization_id: string): Promise<void> {
  const tables = await here<{ name: string }[]>`
    select c.oid::regclass::text as name
    from pg_catalog.pg_class c
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = 'organization_id'
    where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace) and c.relkind in ('r', 'p')
      -- What says that it was tried.
      and c.oid <> 'private.restores'::regclass`
  expect(tables.length).toBeGreaterThan(40)
  for (const { name } of tables) {
    const [row] = await here.unsafe<{ count: number }[]>(
      `select count(*)::int as count from ${name} where organization_id = $1`,
      [organization_id],
    )
    expect({ name, count: row?.count }).toEqual({ name, count: 0 })
  }
  expect(await here`select from public.organizations where id = ${organization_id}`).toEqual([])
  expect(await here`select from private.restores where status = 'running'`).toEqual([])
  const disabled = await here`select from pg_catalog.pg_trigger where not tgisinternal and tgenabled <> 'O'`
  expect(disabled).toEqual([])
}

// Comparing -------------------------------------------------------------------------------------------------------------

/** What must differ in another project, and nothing else does. */
const DIFFERENT: Record<string, { columns?: string[]; where?: string }> = {
  'public.whatsapp_instances': { columns: ['sending_paused_until'] },
  'public.webhook_endpoints': { columns: ['is_active'] },
  'public.message_queue': { columns: ['position', 'run_at', 'is_due'] },
  'public.audit_logs': { where: "action not like 'backup.%'" },
  'public.audit_log_values': {
    where: `(organization_id, audit_log_id) in (
      select l.organization_id, l.id from public.audit_logs l where l.action not like 'backup.%')`,
  },
}

/** Each table of the catalog that has the tenant's rows, with their number and a checksum: none of it is the product's own code. */
async function checksums(sql: postgres.Sql, organization_id: string, seals: number): Promise<Record<string, string>> {
  const tables = await sql<{ name: string; columns: string[]; key: string }[]>`
    select n.nspname || '.' || c.relname as name, array_agg(a.attname::text order by a.attname) as columns,
      case c.relname when 'organizations' then 'id' else 'organization_id' end as key
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where n.nspname in ('public', 'private') and c.relkind in ('r', 'p') and not c.relispartition
    group by n.nspname, c.relname
    having bool_or(a.attname = 'organization_id') or c.relname = 'organizations'
    order by 1`
  const ofThisProject = [
    'public.backup_metadata',
    'private.backup_leases',
    'private.backup_chunks',
    'private.restores',
    'private.restore_chunks',
    'private.contact_partings',
  ]
  const sums: Record<string, string> = {}
  for (const { name, columns, key } of tables) {
    if (ofThisProject.includes(name)) continue
    const { columns: left = [], where = 'true' } = DIFFERENT[name] ?? {}
    const compared = columns.filter((column) => !left.includes(column)).map((column) => `t."${column}"`).join(', ')
    const [row] = await sql.unsafe<{ sum: string }[]>(
      `select count(*) || ' ' || coalesce(md5(string_agg(row(${compared})::text, '|' order by row(${compared})::text collate "C")), '')
         as sum
       from ${name} t
       where t.${key} = $1 and ${name === 'public.audit_seals' ? `number <= ${seals}` : where}`,
      [organization_id],
    )
    sums[name] = row?.sum ?? ''
  }
  return sums
}

// ----------------------------------------------------------------------------------------------------------------------

describe('a tenant of the seed', () => {
  let backup: Backup
  let bytes: Uint8Array<ArrayBuffer>
  let before: Record<string, string>
  let seals = 0
  let waiting: string
  /** Conversations by who writes. */
  const chats = new Map<string, string>()
  let media: string

  beforeAll(async () => {
    // Something that waits to be sent, something that is sealed and something that is not, and a file.
    const conversations = await there<{ id: string; wa_id: string }[]>`
      select c.id, i.value as wa_id
      from public.conversations c
      join public.contact_identities i on i.organization_id = c.organization_id and i.contact_id = c.contact_id
      where c.organization_id = ${CLINIC} and c.instance_id = ${number.instanceId} and i.value in (${customer}, ${otherCustomer})`
    for (const { id, wa_id } of conversations) chats.set(wa_id, id)
    waiting = (await write(clinic, { id: chats.get(customer) ?? '' }, 'Até amanhã!')).id
    media = `${CLINIC}/outgoing/${randomUUID()}.txt`
    valueOf(await (clinic.people.owner as Person).client.storage.from('media').upload(media, new Blob(['exame'])))
    const [row] = await there<{ count: number }[]>`
      select count(*)::int as count from public.audit_seals where organization_id = ${CLINIC}`
    seals = row?.count ?? 0
    expect(seals).toBeGreaterThan(0)

    const answer = await ask(source, { action: 'create', organization_id: CLINIC }, clinic.people.owner?.accessToken)
    expect(answer).toMatchObject({ status: 201, body: { backup: { status: 'completed' } } })
    backup = backupRow.parse(answer.body.backup)
    bytes = await fileOf(backup)
    before = await checksums(there, CLINIC, seals)
  })

  test('is backed up by its owner, listed and verified by her; by nobody else', async () => {
    const [owner, attendant] = [clinic.people.owner?.accessToken ?? '', clinic.people.attendant?.accessToken ?? '']
    expect(backup.size_bytes).toBe(bytes.byteLength)
    expect(backup.row_counts).toMatchObject({ 'public.messages': Number(before['public.messages']?.split(' ')[0]) })
    const listed = await ask(source, { action: 'list', organization_id: CLINIC }, owner)
    expect(listed).toMatchObject({ status: 200, body: { backups: [{ id: backup.id, checksum: backup.checksum }] } })
    expect(await ask(source, { action: 'verify', organization_id: CLINIC, backup_id: backup.id }, owner))
      .toMatchObject({ status: 200, body: { is_intact: true, row_counts: backup.row_counts } })

    const stranger = await aPerson(source, 'stranger')
    for (const action of ['create', 'list', 'verify']) {
      const body = { action, organization_id: CLINIC, backup_id: backup.id }
      for (const bearer of [attendant, stranger.accessToken]) {
        expect([action, await refusalOf(source, body, bearer)]).toEqual([action, [403, 'not_allowed']])
      }
    }
    for (const action of ['run', 'restore', 'release', 'cleanup']) {
      const body = { action, organization_id: CLINIC, backup_id: backup.id, path: 'x' }
      expect([action, await refusalOf(source, body, owner)]).toEqual([action, [403, 'not_allowed']])
    }
    expect(await refusalOf(source, { action: 'list', organization_id: CLINIC }, 'kein.token.da')).toEqual([401, 'not_authenticated'])
    // Not even she reads the file.
    const read = await (clinic.people.owner as Person).client.storage.from('backups').download(backup.storage_path)
    expect(read.error).not.toBeNull()
    expect(await there`select from private.backup_chunks`).toEqual([])
  })

  test('is refused by a project that has it', async () => {
    const body = { action: 'restore', organization_id: CLINIC, path: backup.storage_path }
    expect(await refusalOf(source, body)).toEqual([409, 'organization_exists'])
    expect(await checksums(there, CLINIC, seals)).toEqual(before)
  })

  test('changed, cut off, of another tenant or not there: its file is refused, and nothing stays behind', async () => {
    const tries: [string, Uint8Array<ArrayBuffer>, string[]][] = []
    for (const position of [30, Math.floor(bytes.length / 3), Math.floor(bytes.length / 2), bytes.length - 5]) {
      const changed = bytes.slice()
      changed[position] = (changed[position] ?? 0) ^ 1
      tries.push([`changed at ${position}`, changed, ['backup_damaged']])
    }
    for (const length of [0, 100, Math.floor(bytes.length / 2), bytes.length - 1]) {
      tries.push([`cut off after ${length}`, bytes.slice(0, length), ['backup_truncated']])
    }
    tries.push(['something else', new TextEncoder().encode('%PDF\n\n'), ['not_a_backup']])
    tries.push(['of another tenant', await fileOf(await backedUp(PET_SHOP)), ['wrong_organization']])
    for (const [what, file, codes] of tries) {
      const path = await put(`try/${randomUUID()}`, file)
      const [status, code] = await refusalOf(target, { action: 'restore', organization_id: CLINIC, path })
      expect({ what, status, code }).toEqual({ what, status: 422, code: codes[0] })
    }
    const missing = { action: 'restore', organization_id: CLINIC, path: 'no/such.backup' }
    expect(await refusalOf(target, missing)).toEqual([404, 'backup_file_not_found'])
    expect(await refusalOf(target, { ...missing, path: '../x' })).toEqual([400, 'invalid_request'])
    await isUntouched(CLINIC)
  })

  test('waits for the logins of its members', async () => {
    const path = await put(backup.storage_path, bytes)
    const answer = await ask(target, { action: 'restore', organization_id: CLINIC, path })
    expect([answer.status, refusal.parse(answer.body).error.code]).toEqual([409, 'members_missing'])
    for (const person of [clinic.people.owner, clinic.people.attendant]) {
      expect(refusal.parse(answer.body).error.message).toContain(person?.email)
    }
    await isUntouched(CLINIC)
  })

  test('is not half there after a crash in the middle, and the next try is told to wait only as long as the dead one is held', async () => {
    const body = { action: 'restore', organization_id: CLINIC, path: backup.storage_path }
    await copyLogins(CLINIC)
    // The restore waits for a table, and its function dies meanwhile.
    const blocker = postgres(target.urls.admin, { max: 1, onnotice: () => undefined })
    await blocker`begin`
    await blocker`lock table public.waiting_list in access exclusive mode`
    const dying = ask(target, body).then(({ status }) => status, () => 0)
    await seen(
      async () => await here`select from pg_catalog.pg_stat_activity where wait_event_type = 'Lock' and query like '%finish_restore%'`,
      (waiting) => waiting.length === 1,
    )
    expect(await refusalOf(target, body)).toEqual([409, 'restore_running'])
    target.kill('functions')
    expect([0, 502, 503]).toContain(await dying)
    // Whoever goes on in the database is told, too.
    await here`select pg_terminate_backend(pid) from pg_catalog.pg_stat_activity where query like '%finish_restore%' and pid <> pg_backend_pid()`
    await blocker`rollback`
    await blocker.end({ timeout: 1 })
    await seen(
      async () => await fetch(`${target.urls.functions}/health`).then(({ status }) => status, () => 0),
      (status) => status === 200,
    )
    expect(await here`select from public.organizations where id = ${CLINIC}`).toEqual([])
    expect(await here`select from private.restore_chunks limit 1`).toHaveLength(1)

    await here`update private.restores set lease_expires_at = now() - interval '1 hour' where status = 'running'`
    const [cleaned] = await here<{ cleaned: unknown }[]>`select private.cleanup_expired_backups() as cleaned`
    expect(cleaned).toMatchObject({ cleaned: { abandoned_restores: 1 } })
    await isUntouched(CLINIC)
  })

  test('is the same in another project, table by table', async () => {
    const answer = await ask(target, { action: 'restore', organization_id: CLINIC, path: backup.storage_path })
    expect(answer).toMatchObject({
      status: 200,
      body: { restored: { organization_id: CLINIC, row_counts: backup.row_counts, members: 2, skipped_members: 0, missing_files: 1 } },
    })
    const after = await checksums(here, CLINIC, seals)
    expect(after).toEqual(before)
    expect(Object.values(after).filter((sum) => !sum.startsWith('0 ')).length).toBeGreaterThan(25)
    expect(await here`select from private.restore_chunks`).toEqual([])
    expect(await here`select from pg_catalog.pg_trigger where not tgisinternal and tgenabled <> 'O'`).toEqual([])
    expect(await refusalOf(target, { action: 'restore', organization_id: CLINIC, path: backup.storage_path }))
      .toEqual([409, 'organization_exists'])
  })

  test('has an audit log there whose chain holds, to the last row and on', async () => {
    await here`update public.services set description = 'Depois da volta' where organization_id = ${CLINIC}`
    valueOf(await asPlatform(target).rpc('run_schedule', { name: 'seal_audit_logs', force: true }))
    const chain = await seen(
      async () => (await here`select private.verify_audit_chain(${CLINIC}) as chain`)[0]?.chain as Record<string, unknown>,
      ({ unsealed }) => Number(unsealed) === 0,
    )
    expect(chain).toMatchObject({ is_intact: true })
    expect(Number(chain.seals)).toBeGreaterThan(seals + 1)
    const default_rows = await here`select from partitions.audit_logs_default`
    expect(default_rows).toEqual([])
  })

  test('has apps that work there: sign in, read the inbox, book; and nothing goes out before it is released', async () => {
    const app = await signedIn(clinic.people.attendant as Person)
    const inbox = valueOf(
      await app.from('messages').select('id, content, status, conversation_id').eq('organization_id', CLINIC)
        .eq('conversation_id', chats.get(customer) ?? '').order('id'),
    )
    expect(inbox).toHaveLength(3)
    expect(inbox[0]).toMatchObject({ content: GREETING })
    expect(inbox[1]).toMatchObject({ status: 'read' })
    expect(inbox[2]).toMatchObject({ id: waiting, content: 'Até amanhã!', status: 'queued' })
    const booked = await bookAnything(app)
    expect(booked).toMatchObject({ organization_id: CLINIC, created_by_user_id: clinic.people.attendant?.userId })

    const sent = await write({ ...clinic, backend: target }, { id: chats.get(otherCustomer) ?? '' }, 'Voltamos!', app)
    // The clock of this project runs: it has had its chance.
    await seen(
      async () => valueOf(await asPlatform(target).from('message_queue').select('run_at').eq('payload->>message_id', sent.id)),
      (jobs) => jobs.length === 1 && String(jobs[0]?.run_at).startsWith('9999'),
    )
    expect(await metaOf(target).sends(number)).toEqual([])

    expect(await ask(target, { action: 'release', organization_id: CLINIC })).toMatchObject({ status: 200, body: { released: true } })
    expect(await ask(target, { action: 'release', organization_id: CLINIC })).toMatchObject({ status: 200, body: { released: false } })
    for (const id of [waiting, sent.id]) {
      await seen(
        async () => valueOf(await app.from('messages').select('status').eq('organization_id', CLINIC).eq('id', id).single()),
        ({ status }) => status === 'read',
      )
    }
    expect((await metaOf(target).sends(number)).map(({ body }) => z.object({ text: z.object({ body: z.string() }) }).parse(body).text.body))
      .toEqual(expect.arrayContaining(['Até amanhã!', 'Voltamos!']))
    await metaOf(target).inbound(number, { from: customer, message: { type: 'text', text: { body: 'Que bom!' } } })
    const answered = valueOf(await app.from('messages').select('content').eq('conversation_id', chats.get(customer) ?? ''))
    expect(answered).toContainEqual({ content: 'Que bom!' })
  })

  test("keeps its tenants apart there: another one's owner sees nothing of it", async () => {
    const other = await aTenant(target, 'Outra Clínica')
    const seenBy = valueOf(await (other.people.owner as Person).client.from('contacts').select('id').eq('organization_id', CLINIC))
    expect(seenBy).toEqual([])
  })

  async function signedIn({ email }: Person): Promise<Client> {
    const client = asNobody(target)
    expect((await client.auth.signInWithPassword({ email, password: passwordOf(email) })).error).toBeNull()
    return client
  }

  async function bookAnything(app: Client) {
    const [service] = valueOf(
      await app.from('services').select('id').eq('organization_id', CLINIC).eq('is_active', true).order('name').limit(1),
    )
    const from = new Date(Date.now() + 3 * 24 * 3600_000)
    const slots = z.array(z.looseObject({ start_time: z.string(), professional_id: z.guid().nullable(), location_id: z.guid().nullable() }))
      .parse(valueOf(
        await app.rpc('get_available_slots', {
          service_id: service?.id ?? '',
          from_time: from.toISOString(),
          to_time: new Date(from.getTime() + 10 * 24 * 3600_000).toISOString(),
        }),
      ))
    const [slot] = slots
    const contact = valueOf(await app.from('contacts').insert({ organization_id: CLINIC, name: 'Depois da volta' }).select().single())
    return valueOf(
      await app.rpc('create_booking', {
        contact_id: contact.id,
        service_id: service?.id ?? '',
        start_time: slot?.start_time ?? '',
        ...(slot?.professional_id ? { professional_id: slot.professional_id } : {}),
        ...(slot?.location_id ? { location_id: slot.location_id } : {}),
      }),
    )
  }
})

describe('backups that meet others', () => {
  test('two of one tenant at once: the second is told, and made when the first is done', async () => {
    const tenant = await aTenant(source, 'Clínica Dupla')
    const id = tenant.organizationId
    const answers = await Promise.all([1, 2, 3].map(() => ask(source, { action: 'create', organization_id: id })))
    for (const { status, body } of answers) {
      if (status !== 201) expect([status, refusal.parse(body).error.code]).toEqual([409, 'backup_running'])
    }
    expect(answers.some(({ status }) => status === 201)).toBe(true)
    // What was refused is a job by now.
    const rows = await there<{ id: string }[]>`select id from public.backup_metadata where organization_id = ${id}`
    expect(rows).toHaveLength(3)
    for (const { id: backup_id } of rows) {
      expect(await ask(source, { action: 'run', organization_id: id, backup_id })).toMatchObject({ status: 200 })
      expect(await ask(source, { action: 'verify', organization_id: id, backup_id })).toMatchObject({ body: { is_intact: true } })
    }
    // While somebody lays the tenant down there is nothing to wait for.
    await there.begin(async (held) => {
      await held`select pg_advisory_xact_lock(hashtextextended(${'backup:' + id}, 0))`
      expect(await refusalOf(source, { action: 'create', organization_id: id })).toEqual([409, 'backup_running'])
    })
  })

  test('a function that dies in the middle leaves a backup that somebody else makes, and no second file', async () => {
    const tenant = await aTenant(source, 'Clínica Interrompida')
    const id = tenant.organizationId
    const blocker = postgres(source.urls.admin, { max: 1, onnotice: () => undefined })
    // It has laid everything down, and waits to read it.
    await blocker`begin`
    await blocker`lock table private.backup_leases in share row exclusive mode`
    await blocker`rollback`
    await there`create function public.stop_here() returns trigger language plpgsql as $$ begin perform pg_sleep(30); return new; end $$`
    await there`create trigger stop_here before update on private.backup_leases for each row execute function public.stop_here()`
    const dying = ask(source, { action: 'create', organization_id: id }).then(({ status }) => status, () => 0)
    await seen(
      async () => await there`select from public.backup_metadata where organization_id = ${id} and status = 'running'`,
      (rows) => rows.length === 1,
    )
    source.kill('functions')
    expect([0, 502, 503]).toContain(await dying)
    await there`select pg_terminate_backend(pid) from pg_catalog.pg_stat_activity where query like '%read_backup_chunk%' and pid <> pg_backend_pid()`
    await there`drop function public.stop_here() cascade`
    await blocker.end({ timeout: 1 })
    await seen(
      async () => await fetch(`${source.urls.functions}/health`).then(({ status }) => status, () => 0),
      (status) => status === 200,
    )
    const [row] = await there<{ id: string }[]>`select id from public.backup_metadata where organization_id = ${id}`
    const run = { action: 'run', organization_id: id, backup_id: row?.id }
    expect(await refusalOf(source, run)).toEqual([409, 'backup_running'])
    await there`update private.backup_leases set expires_at = now() where organization_id = ${id}`
    expect(await ask(source, run)).toMatchObject({ status: 200, body: { backup: { status: 'completed' } } })
    expect(await ask(source, { ...run, action: 'verify' })).toMatchObject({ body: { is_intact: true } })
    expect(await there`select from private.backup_chunks where organization_id = ${id}`).toEqual([])
    const files = valueOf(await asPlatform(source).storage.from('backups').list(id))
    expect(files).toHaveLength(1)
    expect(`${id}/${files[0]?.name}`).toBe((await there`select storage_path from public.backup_metadata where id = ${row?.id ?? ''}`)[0]?.storage_path)
  })

  test('while four clients write, it shows one instant: no booking whose contact is missing, and it can be restored', async () => {
    const tenant = await aTenant(source, 'Clínica Cheia', ['attendant'])
    const organization_id = tenant.organizationId
    const platform = asPlatform(source)
    const service = valueOf(
      await platform.from('services').insert({ organization_id, name: 'Consulta', duration_minutes: 30 }).select().single(),
    )
    let isOver = false
    let written = 0
    const client = async (name: string, index: number): Promise<void> => {
      for (let n = 0; !isOver; n += 1) {
        // In one transaction each: whoever sees one of them without the other saw two instants.
        await there.begin(async (one) => {
          const [contact] = await one<{ id: string }[]>`
            insert into public.contacts (organization_id, name) values (${organization_id}, ${`${name} ${n}`}) returning id`
          const at = new Date(Date.UTC(2027, 0, 1) + (4 * n + index) * 3600_000)
          await one`
            insert into public.bookings (organization_id, contact_id, service_id, start_time, end_time, status, off_schedule)
            values (${organization_id}, ${contact?.id ?? ''}, ${service.id}, ${at}, ${new Date(at.getTime() + 1800_000)}, 'scheduled', true)`
          if (n % 3 === 0) await one`delete from public.bookings where organization_id = ${organization_id} and contact_id = ${contact?.id ?? ''}`
          if (n % 3 === 0) await one`delete from public.contacts where organization_id = ${organization_id} and id = ${contact?.id ?? ''}`
        })
        written += 1
      }
    }
    const clients = Promise.all(['A', 'B', 'C', 'D'].map(client))
    // Awaited at the end; until then a failure is not an unhandled one.
    clients.catch(() => undefined)
    const backups: Backup[] = []
    try {
      await seen(() => Promise.resolve(written), (count) => count > 20)
      for (let n = 0; n < 4; n += 1) backups.push(await backedUp(organization_id))
    } finally {
      isOver = true
      await clients
    }
    const counts = backups.map(({ row_counts }) => [row_counts['public.contacts'], row_counts['public.bookings']])
    for (const [contacts, bookings] of counts) expect(bookings).toBe(contacts)
    expect(new Set(counts.map(([contacts]) => contacts)).size).toBeGreaterThan(1)

    const last = backups.at(-1) as Backup
    const path = await put(last.storage_path, await fileOf(last))
    // By the same address, under another id.
    for (const person of Object.values(tenant.people)) {
      valueOf(await asNobody(target).auth.signUp({ email: person.email, password: passwordOf(person.email) }))
    }
    expect(await ask(target, { action: 'restore', organization_id, path })).toMatchObject({ status: 200, body: { restored: { members: 2 } } })
    const owner = asNobody(target)
    const email = tenant.people.owner?.email ?? ''
    expect((await owner.auth.signInWithPassword({ email, password: passwordOf(email) })).error).toBeNull()
    const orphans = await here`
      select from public.bookings b
      left join public.contacts c on c.organization_id = b.organization_id and c.id = b.contact_id
      where b.organization_id = ${organization_id} and c.id is null`
    expect(orphans).toEqual([])
    expect(valueOf(await owner.from('services').select('name').eq('organization_id', organization_id))).toEqual([{ name: 'Consulta' }])
  })

  test('without the logins of members who left, the rest comes back, and nothing mentions them', async () => {
    const tenant = await aTenant(source, 'Clínica de Quem Saiu', ['attendant'])
    const organization_id = tenant.organizationId
    await there`
      insert into public.professionals (organization_id, name, user_id)
      values (${organization_id}, 'Dra. Que Saiu', ${tenant.people.attendant?.userId ?? ''})`
    const backup = await backedUp(organization_id)
    const path = await put(backup.storage_path, await fileOf(backup))
    const ownerEmail = tenant.people.owner?.email ?? ''
    valueOf(await asNobody(target).auth.signUp({ email: ownerEmail, password: passwordOf(ownerEmail) }))
    // Somebody has taken the other one's address, and has not confirmed it.
    const taken = tenant.people.attendant?.email ?? ''
    valueOf(await asNobody(target).auth.signUp({ email: taken, password: passwordOf(taken) }))
    await here`update auth.users set email_confirmed_at = null where email = ${taken}`
    const answer = await ask(target, { action: 'restore', organization_id, path })
    expect(answer).toMatchObject({ status: 409, body: { error: { code: 'members_missing' } } })
    expect(refusal.parse(answer.body).error.message).toContain(taken)
    expect(refusal.parse(answer.body).error.message).not.toContain(ownerEmail)
    await isUntouched(organization_id)
    expect(await ask(target, { action: 'restore', organization_id, path, skip_missing_members: true }))
      .toMatchObject({ status: 200, body: { restored: { members: 1, skipped_members: 1 } } })
    expect(await here`select name, user_id from public.professionals where organization_id = ${organization_id}`)
      .toEqual([{ name: 'Dra. Que Saiu', user_id: null }])
  })

  test('who was erased after a backup does not come back with it: a newer backup knows, or the operator does', async () => {
    const tenant = await aTenant(source, 'Clínica que Esquece', ['admin'])
    const organization_id = tenant.organizationId
    const names = ['Fulana de Tal', 'Beltrana da Silva', 'Quem Fica']
    const contacts = valueOf(
      await asPlatform(source).from('contacts').insert(names.map((name) => ({ organization_id, name }))).select('id, name'),
    )
    const idOf = (name: string) => contacts.find((contact) => contact.name === name)?.id ?? ''
    const old = await backedUp(organization_id)
    await there`select private.erase_contact(${idOf('Fulana de Tal')}, 'Pediu por e-mail', ${organization_id})`
    const newer = await backedUp(organization_id)
    await copyLogins(organization_id)
    for (const backup of [old, newer]) await put(backup.storage_path, await fileOf(backup))
    const answer = await ask(target, {
      action: 'restore',
      organization_id,
      path: old.storage_path,
      newer_path: newer.storage_path,
      erased_contacts: [idOf('Beltrana da Silva'), randomUUID()],
    })
    expect(answer).toMatchObject({ status: 200, body: { restored: { erased_again: 2 } } })
    const back = await here<{ id: string; name: string | null; is_erased: boolean }[]>`
      select id, name, erased_at is not null as is_erased from public.contacts where organization_id = ${organization_id}`
    expect(back).toHaveLength(3)
    for (const { id, name, is_erased } of back) {
      expect({ id, is_erased }).toEqual({ id, is_erased: id !== idOf('Quem Fica') })
      if (is_erased) expect(names).not.toContain(name)
      else expect(name).toBe('Quem Fica')
    }
    const remembered = await here`
      select from public.audit_log_values
      where organization_id = ${organization_id} and new_values ->> 'name' in ${here(names.slice(0, 2))}`
    expect(remembered).toEqual([])
  })

  test("an API key works on in the other project, where its machine user had no login", async () => {
    const tenant = await aTenant(source, 'Clínica com Programa')
    const organization_id = tenant.organizationId
    const made = await (tenant.people.owner as Person).client.rpc('create_api_key', { name: 'CRM', role: 'viewer', organization_id })
    const { key } = z.looseObject({ key: z.string() }).parse(valueOf(made))
    const exchange = async ({ urls }: Stack) =>
      (await fetch(`${urls.functions}/token`, { method: 'POST', headers: { authorization: `Bearer ${key}` } })).status
    expect(await exchange(source)).toBe(200)
    const backup = await backedUp(organization_id)
    const path = await put(backup.storage_path, await fileOf(backup))
    const email = tenant.people.owner?.email ?? ''
    valueOf(await asNobody(target).auth.signUp({ email, password: passwordOf(email) }))
    // Nobody is missed: a machine has no login until it comes.
    expect(await ask(target, { action: 'restore', organization_id, path }))
      .toMatchObject({ status: 200, body: { restored: { members: 1, skipped_members: 1 } } })
    expect(await exchange(target)).toBe(200)
    const roles = await here`select role from public.user_roles where organization_id = ${organization_id} order by role`
    expect(roles).toEqual([{ role: 'viewer' }, { role: 'owner' }])
  })

  test('what is there once only in a project is refused by name, and nothing stays', async () => {
    const tenant = await aTenant(source, 'Clínica do Mesmo Nome')
    const backup = await backedUp(tenant.organizationId)
    await copyLogins(tenant.organizationId)
    const path = await put(backup.storage_path, await fileOf(backup))
    const namesake = await aTenant(target, 'Clínica do Mesmo Nome')
    const [slugs] = await there`select slug from public.organizations where id = ${tenant.organizationId}`
    await here`update public.organizations set slug = ${slugs?.slug} where id = ${namesake.organizationId}`
    const answer = await ask(target, { action: 'restore', organization_id: tenant.organizationId, path })
    expect(answer).toMatchObject({ status: 409, body: { error: { code: 'restore_refused' } } })
    await isUntouched(tenant.organizationId)
  })
})

describe('the clock', () => {
  test('brings a job for each organization, whose worker makes the backup; again it brings none', async () => {
    const tenant = await aTenant(source, 'Clínica Pontual')
    const organization_id = tenant.organizationId
    // All others have had theirs.
    await there`
      insert into public.backup_metadata (organization_id, backup_type, scheduled_on)
      select o.id, 'daily', '2026-11-25' from public.organizations o where o.id <> ${organization_id}`
    // Two o'clock in São Paulo is five in UTC; a Wednesday.
    const due = async (at: string) => (await there<{ count: string }[]>`select private.enqueue_due_backups(${at}) as count`)[0]?.count
    expect(await due('2026-11-25 04:59:59Z')).toBe('0')
    expect(await due('2026-11-25 05:00:00Z')).toBe('1')
    expect(await due('2026-11-25 23:00:00Z')).toBe('0')
    await there`
      insert into public.backup_metadata (organization_id, backup_type, scheduled_on)
      select o.id, 'weekly', '2026-11-29' from public.organizations o where o.id <> ${organization_id}`
    expect(await due('2026-11-29 05:00:00Z')).toBe('1')
    const worked = await fetch(`${source.urls.functions}/queue-worker`, {
      method: 'POST',
      headers: { apikey: source.keys.secret, 'content-type': 'application/json' },
      body: JSON.stringify({ job_types: ['back_up_tenant'] }),
    })
    expect(worked.status).toBe(200)
    const rows = await seen(
      async () => {
        await there`update public.message_queue set run_at = now(), is_due = true where job_type = 'back_up_tenant' and status in ('pending', 'failed')`
        await fetch(`${source.urls.functions}/queue-worker`, {
          method: 'POST',
          headers: { apikey: source.keys.secret, 'content-type': 'application/json' },
          body: JSON.stringify({ job_types: ['back_up_tenant'] }),
        }).then((response) => response.text())
        return await there<{ backup_type: string; status: string; days: number }[]>`
          select backup_type, status, (expires_at::date - completed_at::date) as days
          from public.backup_metadata where organization_id = ${organization_id} order by scheduled_on`
      },
      (found) => found.every(({ status }) => status === 'completed'),
    )
    expect(rows).toEqual([
      { backup_type: 'daily', status: 'completed', days: 30 },
      { backup_type: 'weekly', status: 'completed', days: 365 },
    ])
  })

  test('expires backups, and their files go; the only good one of a tenant is kept', async () => {
    const tenant = await aTenant(source, 'Clínica Antiga')
    const organization_id = tenant.organizationId
    const [old, kept] = [await backedUp(organization_id), await backedUp(organization_id)]
    const alone = await backedUp((await aTenant(source, 'Clínica Só')).organizationId)
    await there`update public.backup_metadata set expires_at = now() where id in (${old.id}, ${alone.id})`
    valueOf(await asPlatform(source).rpc('run_schedule', { name: 'cleanup_expired_backups', force: true }))
    const statuses = await there`
      select id, status from public.backup_metadata where id in (${old.id}, ${kept.id}, ${alone.id}) order by id`
    expect(statuses).toEqual([
      { id: old.id, status: 'expired' },
      { id: kept.id, status: 'completed' },
      { id: alone.id, status: 'completed' },
    ])
    const answer = await ask(source, {})
    expect(answer.status).toBe(200)
    expect(Number(answer.body.removed)).toBeGreaterThan(0)
    const files = valueOf(await asPlatform(source).storage.from('backups').list(organization_id))
    expect(files.map(({ name }) => `${organization_id}/${name}`)).toEqual([kept.storage_path])
    expect(await refusalOf(source, { action: 'verify', organization_id, backup_id: old.id })).toEqual([409, 'backup_not_completed'])
    expect(await ask(source, {})).toEqual({ status: 200, body: { removed: 0 } })
  })

  test('knows every table that has tenants\' rows: it is in a backup, or there is a reason', async () => {
    const left = await there`
      select n.nspname || '.' || c.relname as name
      from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p') and not c.relispartition
        and n.nspname not in ('pg_catalog', 'information_schema', 'auth', 'storage', 'supabase_migrations', 'partitions')
        and n.nspname !~ '^pg_'
        and exists (
          select from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attname = 'organization_id' and not a.attisdropped
        )
        and n.nspname || '.' || c.relname not in (
          select t.table_name from private.backup_tables() t union all select x.table_name from private.tables_not_backed_up() x
        )`
    expect(left).toEqual([])
    const [order] = await there<{ count: number }[]>`
      select cardinality(private.tables_by_reference(array(select t.table_name::regclass from private.backup_tables() t))) as count`
    expect(order?.count).toBeGreaterThan(40)
  })
})
