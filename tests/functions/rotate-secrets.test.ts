// Replacing an encryption key, with real sealing and a database in memory; crashed, doubled, and interrupted by others.
import assert from 'node:assert/strict'
import type { Rpc } from '../../functions/_shared/rpc.ts'
import { createSecretBox, type Purpose } from '../../functions/_shared/secrets.ts'
import { createHandler } from '../../functions/rotate-secrets/handler.ts'
import { CLINIC, recordedLog } from './support.ts'

const A = `a:${btoa('a'.repeat(32))}`
const B = `b:${btoa('b'.repeat(32))}`
const SECRET_KEY = 'sb_secret_platform'

interface Row {
  table_name: string
  organization_id: string | null
  row_key: string
  column_name: string
  purpose: Purpose
  sealed: string
}

const PURPOSES: Purpose[] = [
  'meta_app.app_secret',
  'instance.access_token',
  'webhook_endpoint.secret',
  'api_key.password',
]
const text = (index: number) => `segredo ${index} ✨`

async function stored(count: number): Promise<Row[]> {
  const before = await createSecretBox(A)
  return await Promise.all(Array.from({ length: count }, async (_, index) => {
    const purpose = PURPOSES[index % PURPOSES.length] ?? 'meta_app.app_secret'
    const organization_id = index % 7 === 0 ? null : CLINIC
    return {
      table_name: purpose.split('.')[0] ?? '',
      organization_id,
      row_key: String(index).padStart(6, '0'),
      column_name: purpose.split('.')[1] ?? '',
      purpose,
      sealed: await before.seal(text(index), { organizationId: organization_id, purpose }),
    }
  }))
}

const position = (row: Row) =>
  [row.table_name, row.organization_id ?? '', row.row_key, row.column_name].join('\0')
const keyOf = (row: Row) => row.sealed.split('.')[1] ?? ''

function database(rows: Row[], { crashAfter = Infinity, onReseal = () => {} }: {
  crashAfter?: number
  onReseal?: (row: Row) => void
} = {}): Rpc {
  let resealed = 0
  return (name, args) => {
    switch (name) {
      case 'secrets_to_reseal': {
        const after = args['after'] === null ? '' : position(args['after'] as Row)
        const page = rows.filter((row) => keyOf(row) !== args['key_id'] && position(row) > after)
          .sort((one, other) => position(one) < position(other) ? -1 : 1)
        return Promise.resolve(structuredClone(page.slice(0, Number(args['page_size']))))
      }
      case 'reseal_secret': {
        if (resealed >= crashAfter) return Promise.reject(new Error('connection lost'))
        const row = rows.find((one) =>
          one.table_name === args['table_name'] && one.row_key === args['row_key']
        )
        assert.ok(row)
        onReseal(row)
        if (row.sealed !== args['sealed']) return Promise.resolve(false)
        row.sealed = String(args['resealed'])
        resealed += 1
        return Promise.resolve(true)
      }
      default: {
        assert.equal(name, 'encryption_keys_in_use')
        const ids = [...new Set(rows.map(keyOf))]
        return Promise.resolve(ids.map((key_id) => ({
          key_id,
          secrets: rows.filter((row) => keyOf(row) === key_id).length,
          backups: 0,
          backups_until: null,
        })))
      }
    }
  }
}

async function rotate(
  rpc: Rpc,
  keys: string,
  { method = 'POST', apikey = SECRET_KEY, budgetMs = 60_000 } = {},
) {
  const { log, lines } = recordedLog()
  let at = 0
  const handler = createHandler({
    rpc,
    secretKeys: [SECRET_KEY],
    secrets: await createSecretBox(keys),
    budgetMs,
    now: () => at++,
    log,
  })
  const response = await handler(
    new Request('http://localhost/rotate-secrets', { method, headers: { apikey } }),
  )
  const body = await response.json()
  assert.ok(!JSON.stringify([body, lines]).includes('segredo'))
  return { status: response.status, body }
}

async function allOpen(rows: Row[], keys: string): Promise<void> {
  const secrets = await createSecretBox(keys)
  for (const { row_key, organization_id, purpose, sealed } of rows) {
    assert.equal(
      await secrets.open(sealed, { organizationId: organization_id, purpose }),
      text(Number(row_key)),
    )
  }
}

Deno.test('everything opens under the new key alone, and the old one is not needed any more', async () => {
  const rows = await stored(523)
  const rpc = database(rows)
  const before = await rotate(rpc, `${B},${A}`, { method: 'GET' })
  assert.deepEqual(before.body.keys, [
    { key_id: 'b', is_listed: true, is_needed: true, secrets: 0, backups: 0, backups_until: null },
    { key_id: 'a', is_listed: true, is_needed: true, secrets: 523, backups: 0, backups_until: null },
  ])
  const { status, body } = await rotate(rpc, `${B},${A}`)
  assert.equal(status, 200)
  assert.deepEqual(body, {
    sealing_key: 'b',
    finished: true,
    resealed: 523,
    unreadable: [],
    keys: [
      { key_id: 'b', is_listed: true, is_needed: true, secrets: 523, backups: 0, backups_until: null },
      { key_id: 'a', is_listed: true, is_needed: false, secrets: 0, backups: 0, backups_until: null },
    ],
  })
  await allOpen(rows, B)
  const sealed = rows.map((row) => row.sealed)
  assert.equal((await rotate(rpc, `${B},${A}`)).body.resealed, 0)
  assert.deepEqual(rows.map((row) => row.sealed), sealed)
})

Deno.test('two runs at once do it once', async () => {
  const rows = await stored(300)
  const rpc = database(rows)
  const runs = await Promise.all([rotate(rpc, `${B},${A}`), rotate(rpc, `${B},${A}`)])
  assert.equal(runs[0].body.resealed + runs[1].body.resealed, 300)
  await allOpen(rows, B)
})

Deno.test('after a crash in the middle everything opens under both, and the next run ends it', async () => {
  const rows = await stored(300)
  const crashed = await rotate(database(rows, { crashAfter: 137 }), `${B},${A}`)
  assert.deepEqual([crashed.status, crashed.body.error.code], [500, 'internal_error'])
  assert.equal(rows.filter((row) => keyOf(row) === 'b').length, 137)
  await allOpen(rows, `${B},${A}`)
  assert.equal((await rotate(database(rows), `${B},${A}`)).body.resealed, 163)
  await allOpen(rows, B)
})

Deno.test('a run that has no more time says that it has not finished', async () => {
  const rows = await stored(300)
  // The clock of these tests ticks once at each look.
  const { body } = await rotate(database(rows), `${B},${A}`, { budgetMs: 3 })
  assert.deepEqual([body.finished, body.resealed], [false, 200])
  assert.equal((await rotate(database(rows), `${B},${A}`)).body.finished, true)
  await allOpen(rows, B)
})

Deno.test('a secret that somebody replaces meanwhile stays as he wrote it', async () => {
  const rows = await stored(20)
  const now = await createSecretBox(A)
  const newer = await now.seal('segredo mais novo', {
    organizationId: CLINIC,
    purpose: 'instance.access_token',
  })
  const rpc = database(rows, {
    onReseal: (row) => {
      if (row.row_key === '000005') row.sealed = newer
    },
  })
  const { body } = await rotate(rpc, `${B},${A}`)
  assert.equal(body.resealed, 19)
  assert.equal(rows.find(({ row_key }) => row_key === '000005')?.sealed, newer)
  assert.equal(body.keys.find(({ key_id }: { key_id: string }) => key_id === 'a').is_needed, true)
})

Deno.test('what no key opens is named, stays, and holds up nothing', async () => {
  const rows = await stored(250)
  const lost = rows[3]
  assert.ok(lost)
  const other = await createSecretBox(`gone:${btoa('g'.repeat(32))}`)
  lost.sealed = await other.seal('segredo', { organizationId: lost.organization_id, purpose: lost.purpose })
  const { body } = await rotate(database(rows), `${B},${A}`)
  assert.deepEqual([body.finished, body.resealed], [true, 249])
  assert.deepEqual(body.unreadable, [{
    table_name: lost.table_name,
    organization_id: lost.organization_id,
    row_key: lost.row_key,
    column_name: lost.column_name,
    purpose: lost.purpose,
    reason: `BALCAO_ENCRYPTION_KEYS lacks the key "gone" of a sealed ${lost.purpose}`,
  }])
  assert.deepEqual(
    body.keys.find(({ key_id }: { key_id: string }) => key_id === 'gone'),
    { key_id: 'gone', is_listed: false, is_needed: true, secrets: 1, backups: 0, backups_until: null },
  )
})

Deno.test('only the platform may', async () => {
  const rpc = database(await stored(1))
  const refused = await rotate(rpc, `${B},${A}`, { apikey: 'sb_publishable_x' })
  assert.deepEqual([refused.status, refused.body.error.code], [401, 'not_authenticated'])
  assert.equal((await rotate(rpc, `${B},${A}`, { method: 'DELETE' })).status, 405)
})
