import assert from 'node:assert/strict'
import { createSecretBox, type Place, sameSecret } from '../../functions/_shared/secrets.ts'
import { CLINIC, ENCRYPTION_KEYS, secretBox } from './support.ts'

const place: Place = { organizationId: CLINIC, purpose: 'meta_app.app_secret' }

Deno.test('a sealed secret opens for its organization and purpose only', async () => {
  const secrets = await secretBox()
  const sealed = await secrets.seal('segredo ✨', place)
  assert.equal(await secrets.open(sealed, place), 'segredo ✨')
  await assert.rejects(
    secrets.open(sealed, { ...place, purpose: 'meta_app.verify_token' }),
    /does not open/,
  )
  await assert.rejects(
    secrets.open(sealed, { ...place, organizationId: null }),
    /does not open/,
  )
  await assert.rejects(
    secrets.open(sealed, {
      ...place,
      organizationId: CLINIC.replace('c111', 'c222'),
    }),
    /does not open/,
  )
})

Deno.test('a sealed secret has the format that the database checks, and never looks the same twice', async () => {
  const secrets = await secretBox()
  const sealed = [
    await secrets.seal('x', place),
    await secrets.seal('x', place),
  ]
  assert.notEqual(sealed[0], sealed[1])
  for (const text of sealed) {
    assert.match(text, /^v1\.now\.[A-Za-z0-9_-]{16}\.[A-Za-z0-9_-]{22,}$/)
  }
})

Deno.test('a changed ciphertext does not open', async () => {
  const secrets = await secretBox()
  const sealed = await secrets.seal('segredo', place)
  const [version, id, iv, ciphertext = ''] = sealed.split('.')
  const flipped = (ciphertext.startsWith('A') ? 'B' : 'A') +
    ciphertext.slice(1)
  await assert.rejects(
    secrets.open([version, id, iv, flipped].join('.'), place),
    /does not open/,
  )
  await assert.rejects(
    secrets.open(sealed.replace('v1.', 'v2.'), place),
    /unknown format/,
  )
  await assert.rejects(secrets.open(`${sealed}.x`, place), /unknown format/)
})

Deno.test('after a change of keys the new one seals and the old one still opens', async () => {
  const old = await createSecretBox(`before:${btoa('b'.repeat(32))}`)
  const sealed = await old.seal('segredo', place)
  const secrets = await secretBox()
  assert.equal(await secrets.open(sealed, place), 'segredo')
  assert.match(await secrets.seal('segredo', place), /^v1\.now\./)
  await assert.rejects(
    old.open(await secrets.seal('segredo', place), place),
    /BALCAO_ENCRYPTION_KEYS lacks the key "now"/,
  )
})

Deno.test("a key ring that is not one fails at boot with the variable's name", async () => {
  const tooShort = `now:${btoa('a'.repeat(16))}`
  const twice = `${ENCRYPTION_KEYS},now:${btoa('c'.repeat(32))}`
  for (
    const keys of [
      '',
      'now',
      `:${btoa('a'.repeat(32))}`,
      'now:***',
      tooShort,
      twice,
      `${ENCRYPTION_KEYS},`,
    ]
  ) {
    await assert.rejects(createSecretBox(keys), /BALCAO_ENCRYPTION_KEYS/, keys)
  }
})

Deno.test('equal secrets are the same, whatever their length', async () => {
  assert.equal(await sameSecret('sb_secret_x', 'sb_secret_x'), true)
  assert.equal(await sameSecret('sb_secret_x', 'sb_secret_y'), false)
  assert.equal(await sameSecret('', 'sb_secret_y'), false)
  assert.equal(await sameSecret('sb_secret_xx', 'sb_secret_x'), false)
})
