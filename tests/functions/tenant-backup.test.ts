// Making, verifying and restoring a backup where the database, Storage or the function fails: what is told, and what stays.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { HttpError } from '../../functions/_shared/http.ts'
import { type Rpc, RpcError } from '../../functions/_shared/rpc.ts'
import { createHandler } from '../../functions/tenant-backup/handler.ts'
import type { BackupFiles } from '../../functions/tenant-backup/storage.ts'
import { backUpTenant } from '../../functions/queue-worker/back-up-tenant.ts'
import { CLINIC, recordedLog, recordedRpc, secretBox } from './support.ts'

const SECRET_KEY = 'sb_secret_platform'
const CRON_SECRET = 'tick-tock'
const OTHER = '0193f2b4-0000-7000-8000-00000000c222'
const BACKUP = '0193f2b4-0000-7000-8000-00000000b001'
const TOKEN = '0193f2b4-0000-4000-8000-00000000d001'
const PATH = `${CLINIC}/${BACKUP}-0193f2b4.backup`

const CONTENT = '["a","Ana"]\n["b",null]'
const CHUNK = { table_name: 'public.contacts', number: 0, row_count: 2, content: CONTENT }

function digest(...contents: string[]): string {
  const hash = createHash('sha256')
  for (const content of contents) hash.update(createHash('sha256').update(content).digest())
  return hash.digest('hex')
}

const MANIFEST = {
  organization_id: CLINIC,
  backup_id: BACKUP,
  backup_type: 'manual',
  taken_at: '2026-11-20T05:00:00+00:00',
  name: 'Clínica',
  tables: [{ table_name: 'public.contacts', columns: ['id', 'name'], row_count: 2, digest: digest(CONTENT) }],
}

function refused(error: string): () => never {
  return () => {
    throw new RpcError(400, 'BL934', 'refused', error)
  }
}

/** Storage in memory. */
function memory(
  spoil: (bytes: Uint8Array<ArrayBuffer>) => Uint8Array<ArrayBuffer> | null = (bytes) => bytes,
) {
  const kept = new Map<string, Uint8Array<ArrayBuffer>>()
  const files: BackupFiles = {
    async upload(path, file) {
      const bytes = spoil(new Uint8Array(await new Response(file).arrayBuffer()))
      if (bytes !== null) kept.set(path, bytes)
    },
    download(path) {
      const bytes = kept.get(path)
      return Promise.resolve(bytes === undefined ? null : ReadableStream.from([bytes]))
    },
    remove(path) {
      kept.delete(path)
      return Promise.resolve()
    },
  }
  return { files, kept }
}

type Answers = Parameters<typeof recordedRpc>[0]

/** A database that has laid one tenant down, unless the story says otherwise. */
function database(otherwise: Answers = {}) {
  return recordedRpc({
    begin_backup: () => ({
      action: 'read',
      token: TOKEN,
      storage_path: PATH,
      stale_path: null,
      manifest: MANIFEST,
    }),
    read_backup_chunk: ({ after_table }) => after_table === undefined ? CHUNK : null,
    finish_backup: (args) => ({ status: 'completed', checksum: args['checksum'] }),
    fail_backup: () => null,
    note_backup_file_removed: () => null,
    list_backups: () => [],
    begin_restore: () => ({ restore_id: BACKUP, token: TOKEN }),
    stage_restore_chunk: () => null,
    finish_restore: (args) => ({ organization_id: args['organization_id'] }),
    abandon_restore: () => null,
    backup_files_to_remove: () => [],
    ...otherwise,
  })
}

async function handlerOf({ rpc, files }: { rpc: Rpc; files: BackupFiles }) {
  const { log, lines } = recordedLog()
  const handle = createHandler({
    platformRpc: rpc,
    userRpc: () => () => Promise.reject(new RpcError(403, '42501', 'permission denied', null)),
    secretKeys: [SECRET_KEY],
    secrets: await secretBox(),
    files,
    randomBytes: (length) => crypto.getRandomValues(new Uint8Array(length)),
    background: (work) => void work.catch(() => undefined),
    cronSecret: CRON_SECRET,
    webhookBaseUrl: 'https://exemplo.supabase.co/functions/v1/whatsapp-webhook/meta',
    wake: () => undefined,
    log,
  })
  const ask = async (body: unknown, headers: Record<string, string> = { apikey: SECRET_KEY }) => {
    const response = await handle(
      new Request('https://exemplo.supabase.co/functions/v1/tenant-backup', {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: JSON.stringify(body),
      }),
    )
    const text = await response.text()
    const answer = JSON.parse(text)
    return { status: response.status, code: answer.error?.code ?? null, answer }
  }
  return { ask, lines }
}

const run = { action: 'run', organization_id: CLINIC, backup_id: BACKUP }
const restore = { action: 'restore', organization_id: CLINIC, path: PATH }

Deno.test('a backup is told as made when its file was read back', async () => {
  const { rpc, callsOf } = database()
  const { files, kept } = memory()
  const { ask } = await handlerOf({ rpc, files })
  assert.equal((await ask(run)).status, 200)
  const [finished] = callsOf('finish_backup')
  const file = kept.get(PATH) ?? new Uint8Array()
  assert.deepEqual(finished?.args, {
    organization_id: CLINIC,
    backup_id: BACKUP,
    token: TOKEN,
    checksum: createHash('sha256').update(file).digest('hex'),
    size_bytes: file.length,
    key_id: 'now',
    row_counts: { 'public.contacts': 2 },
  })
})

Deno.test('one that was made before is not made again', async () => {
  const { rpc, calls } = database({ begin_backup: () => ({ action: 'done' }) })
  const { files, kept } = memory()
  const { ask } = await handlerOf({ rpc, files })
  assert.deepEqual((await ask(run)).answer, { backup: null })
  assert.deepEqual(calls.map(({ name }) => name), ['begin_backup'])
  assert.equal(kept.size, 0)
})

Deno.test('what a try before left is removed once there is a good file, not earlier', async () => {
  const stale_path = `${CLINIC}/${BACKUP}-dead.backup`
  const begin_backup = () => ({
    action: 'read',
    token: TOKEN,
    storage_path: PATH,
    stale_path,
    manifest: MANIFEST,
  })
  const good = memory()
  good.kept.set(stale_path, new Uint8Array(3))
  await (await handlerOf({ rpc: database({ begin_backup }).rpc, files: good.files })).ask(run)
  assert.deepEqual([...good.kept.keys()], [PATH])

  const bad = memory()
  bad.kept.set(stale_path, new Uint8Array(3))
  const failing = database({ begin_backup, finish_backup: refused('internal') })
  await (await handlerOf({ rpc: failing.rpc, files: bad.files })).ask(run)
  assert.deepEqual([...bad.kept.keys()], [stale_path])
})

Deno.test('Storage that loses, cuts or changes a file makes no backup, and nothing stays', async () => {
  const spoilt = [
    () => null,
    (bytes: Uint8Array<ArrayBuffer>) => bytes.slice(0, -1),
    (bytes: Uint8Array<ArrayBuffer>) => bytes.with(bytes.length >> 1, 0),
  ]
  for (const spoil of spoilt) {
    const { rpc, callsOf } = database()
    const { files, kept } = memory(spoil)
    const { ask } = await handlerOf({ rpc, files })
    const { status, code } = await ask(run)
    assert.deepEqual([status, code], [502, 'backup_not_kept'])
    assert.equal(callsOf('finish_backup').length, 0)
    assert.equal(callsOf('fail_backup')[0]?.args['error'], 'backup_not_kept')
    assert.equal(callsOf('note_backup_file_removed').length, 1)
    assert.equal(kept.size, 0)
  }
})

Deno.test('a chunk that is missing, or another than was laid down, makes no backup', async () => {
  for (
    const first of [null, { ...CHUNK, content: CONTENT.replace('Ana', 'Eva') }, { ...CHUNK, row_count: 1 }]
  ) {
    const { rpc, callsOf } = database({
      read_backup_chunk: ({ after_table }) => after_table === undefined ? first : null,
    })
    const { files, kept } = memory()
    const { ask } = await handlerOf({ rpc, files })
    assert.equal((await ask(run)).code, 'backup_incomplete')
    assert.equal(callsOf('finish_backup').length, 0)
    assert.equal(callsOf('fail_backup').length, 1)
    assert.equal(kept.size, 0)
  }
})

Deno.test('whoever lost the backup to another takes away his own file, and says nothing about the other one', async () => {
  const { rpc, callsOf } = database({
    finish_backup: refused('backup_lease_lost'),
    list_backups: () => [{ storage_path: `${CLINIC}/${BACKUP}-another.backup` }],
  })
  const { files, kept } = memory()
  const { ask } = await handlerOf({ rpc, files })
  const { status, code } = await ask(run)
  assert.deepEqual([status, code], [409, 'backup_lease_lost'])
  assert.equal(callsOf('fail_backup').length, 0)
  assert.equal(callsOf('note_backup_file_removed').length, 0)
  assert.equal(kept.size, 0)
})

Deno.test('a backup that was finished while the answer got lost keeps its file', async () => {
  const { rpc, callsOf } = database({
    finish_backup: () => {
      throw new RpcError(0, '', 'connection reset', null)
    },
    fail_backup: refused('backup_lease_lost'),
    list_backups: () => [{ storage_path: PATH }],
  })
  const { files, kept } = memory()
  const { ask } = await handlerOf({ rpc, files })
  assert.equal((await ask(run)).status, 500)
  assert.equal(callsOf('fail_backup').length, 1)
  assert.deepEqual([...kept.keys()], [PATH])
})

Deno.test('a file goes chunk by chunk to the database, and what was erased since goes along', async () => {
  const { files } = memory()
  const made = database()
  await (await handlerOf({ rpc: made.rpc, files })).ask(run)
  const merged = ['0193f2b4-0000-7000-8000-00000000e001', '0193f2b4-0000-7000-8000-00000000e002']
  const erasures = JSON.stringify(['x', null, `{${merged.join(',')}}`])
  const newer = `${CLINIC}/newer.backup`
  const later = database({
    begin_backup: () => ({
      action: 'read',
      token: TOKEN,
      storage_path: newer,
      stale_path: null,
      manifest: {
        ...MANIFEST,
        tables: [{
          table_name: 'private.erasures',
          columns: ['id', 'requested_by', 'contact_ids'],
          row_count: 1,
          digest: digest(erasures),
        }],
      },
    }),
    read_backup_chunk: ({ after_table }) =>
      after_table === undefined
        ? { table_name: 'private.erasures', number: 0, row_count: 1, content: erasures }
        : null,
  })
  await (await handlerOf({ rpc: later.rpc, files })).ask(run)

  const { rpc, callsOf } = database()
  const { ask } = await handlerOf({ rpc, files })
  const answer = await ask({ ...restore, newer_path: newer, erased_contacts: [BACKUP] })
  assert.deepEqual(answer.answer, { restored: { organization_id: CLINIC } })
  assert.deepEqual(callsOf('begin_restore')[0]?.args['manifest'], MANIFEST)
  assert.deepEqual(callsOf('stage_restore_chunk').map(({ args }) => args['content']), [CONTENT])
  assert.deepEqual(callsOf('finish_restore')[0]?.args, {
    organization_id: CLINIC,
    restore_id: BACKUP,
    token: TOKEN,
    skip_missing_members: false,
    erased_contacts: [BACKUP, ...merged],
  })
})

Deno.test('a file that breaks off in the middle is given up in the database too; one that cannot be read never gets there', async () => {
  const { files, kept } = memory()
  await (await handlerOf({ rpc: database().rpc, files })).ask(run)
  const whole = kept.get(PATH) ?? new Uint8Array()

  kept.set(PATH, whole.slice(0, -3))
  const broken = database()
  const cut = await (await handlerOf({ rpc: broken.rpc, files })).ask(restore)
  assert.deepEqual([cut.status, cut.code], [422, 'backup_truncated'])
  assert.equal(broken.callsOf('finish_restore').length, 0)
  assert.equal(broken.callsOf('abandon_restore')[0]?.args['error'], 'backup_truncated')

  kept.set(PATH, whole)
  const never = database()
  const foreign = await (await handlerOf({ rpc: never.rpc, files })).ask({
    ...restore,
    organization_id: OTHER,
  })
  assert.deepEqual([foreign.status, foreign.code], [422, 'wrong_organization'])
  const missing = await (await handlerOf({ rpc: never.rpc, files })).ask({ ...restore, path: 'gone' })
  assert.deepEqual([missing.status, missing.code], [404, 'backup_file_not_found'])
  assert.deepEqual(never.calls, [])

  const refusing = database({ finish_restore: refused('members_missing') })
  const refusal = await (await handlerOf({ rpc: refusing.rpc, files })).ask(restore)
  assert.deepEqual([refusal.status, refusal.code], [409, 'members_missing'])
  assert.equal(refusing.callsOf('abandon_restore').length, 1)
})

Deno.test('the clock may have files removed with its secret, and nothing else', async () => {
  const { files, kept } = memory()
  kept.set(PATH, new Uint8Array(3))
  const { rpc, callsOf } = database({
    backup_files_to_remove: () => [{ organization_id: CLINIC, id: BACKUP, storage_path: PATH }],
  })
  const { ask } = await handlerOf({ rpc, files })
  const clock = { 'x-cron-secret': CRON_SECRET }
  for (
    const body of [run, restore, { action: 'release', organization_id: CLINIC }, {
      action: 'create',
      organization_id: CLINIC,
    }]
  ) {
    const { status, code } = await ask(body, clock)
    assert.deepEqual([body.action, status, code], [body.action, 403, 'not_allowed'])
  }
  assert.equal((await ask({}, { 'x-cron-secret': 'guess' })).status, 401)
  assert.equal((await ask({}, {})).status, 401)
  assert.equal((await ask({}, { authorization: 'Bearer user.token' })).status, 403)
  assert.equal(kept.size, 1)

  assert.deepEqual(await ask({}, clock), { status: 200, code: null, answer: { removed: 1 } })
  assert.equal(kept.size, 0)
  assert.deepEqual(callsOf('note_backup_file_removed').map(({ args }) => args), [{
    organization_id: CLINIC,
    backup_id: BACKUP,
  }])
})

Deno.test('what is asked is checked by field', async () => {
  const { ask } = await handlerOf({ rpc: database().rpc, files: memory().files })
  const bad: [unknown, RegExp][] = [
    [{ action: 'drop' }, /action/],
    [{ action: 'create', organization_id: 'x' }, /organization_id/],
    [{ ...restore, path: '../other/x' }, /path/],
    [{ ...restore, path: 'a//b' }, /path/],
    [{ ...restore, path: 'a%2fb' }, /path/],
    [{ ...restore, erased_contacts: ['x'] }, /erased_contacts/],
    [[], /action|body|Invalid/i],
  ]
  for (const [body, message] of bad) {
    const { status, code, answer } = await ask(body)
    assert.deepEqual([status, code], [400, 'invalid_request'], JSON.stringify(body))
    assert.match(answer.error.message, message)
  }
})

Deno.test('the worker asks for a backup that is due, and knows what an answer means', async () => {
  const now = new Date('2026-11-20T05:00:00Z')
  const job = { organization_id: CLINIC, payload: { backup_id: BACKUP } }
  const outcomeOf = async (answer: Response) => {
    const asked: { url: string; body: unknown; apikey: string | null }[] = []
    const type = backUpTenant({
      functions: { url: 'https://exemplo.supabase.co', secretKey: SECRET_KEY },
      fetch: (url, init) => {
        const { body, headers } = init
        asked.push({
          url: url.href,
          body: JSON.parse(String(body)),
          apikey: new Headers(headers).get('apikey'),
        })
        return Promise.resolve(answer)
      },
    })
    const whole = {
      ...job,
      id: 'j',
      job_type: 'back_up_tenant',
      fencing_token: 1,
      attempts: 1,
      max_attempts: 6,
      created_at: '',
    }
    const context = { signal: new AbortController().signal, now: () => now, log: recordedLog().log }
    const outcome = await type.handle(whole, context)
    assert.deepEqual(asked, [{
      url: 'https://exemplo.supabase.co/functions/v1/tenant-backup',
      body: run,
      apikey: SECRET_KEY,
    }])
    return outcome
  }
  const refusal = (status: number, code: string) =>
    Response.json({
      error: { code, message: new HttpError(status, code, `because of ${SECRET_KEY}`).message },
    }, { status })

  assert.deepEqual(await outcomeOf(Response.json({ backup: null })), { kind: 'completed' })
  assert.deepEqual(await outcomeOf(refusal(409, 'backup_running')), {
    kind: 'postponed',
    runAt: new Date('2026-11-20T05:01:00Z'),
    reason: 'backup_running',
  })
  const gone = await outcomeOf(refusal(404, 'backup_not_found'))
  assert.equal(gone.kind === 'failed' && gone.permanent, true)
  for (
    const answer of [
      refusal(500, 'internal_error'),
      new Response('<html>bad gateway</html>', { status: 502 }),
    ]
  ) {
    const failed = await outcomeOf(answer)
    assert.ok(failed.kind === 'failed' && !failed.permanent)
    assert.match(failed.error, /^(internal_error|http_502): /)
    assert.ok(!failed.error.includes(SECRET_KEY))
  }
})
