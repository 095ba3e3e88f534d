import assert from 'node:assert/strict'
import { publishableKey, required, requiredUrl, supabaseEnv } from '../../functions/_shared/env.ts'

function variables(values: Record<string, string>) {
  return { get: (name: string) => values[name] }
}

const modern = {
  SUPABASE_URL: 'http://127.0.0.1:54321/',
  SUPABASE_SECRET_KEYS: '{"worker":"sb_secret_w","default":"sb_secret_d"}',
  SUPABASE_PUBLISHABLE_KEYS: '{"default":"sb_publishable_d"}',
}
const legacy = {
  SUPABASE_SERVICE_ROLE_KEY: 'ey.service',
  SUPABASE_ANON_KEY: 'ey.anon',
}

Deno.test('named keys come first, and every secret key proves the platform', () => {
  const env = supabaseEnv(variables({ ...modern, ...legacy }))
  assert.deepEqual(env, {
    url: 'http://127.0.0.1:54321',
    secretKey: 'sb_secret_d',
    secretKeys: ['sb_secret_w', 'sb_secret_d', 'ey.service'],
  })
  assert.equal(
    publishableKey(variables({ ...modern, ...legacy })),
    'sb_publishable_d',
  )
})

Deno.test('without a default the first named key is used', () => {
  assert.equal(
    supabaseEnv(
      variables({ ...modern, SUPABASE_SECRET_KEYS: '{"a":"1","b":"2"}' }),
    ).secretKey,
    '1',
  )
})

Deno.test('an older project has the legacy keys only', () => {
  const old = variables({ SUPABASE_URL: modern.SUPABASE_URL, ...legacy })
  assert.deepEqual(supabaseEnv(old).secretKeys, ['ey.service'])
  assert.equal(publishableKey(old), 'ey.anon')
})

Deno.test('a missing or unreadable variable fails with its name', () => {
  assert.throws(
    () => supabaseEnv(variables({ ...modern, SUPABASE_URL: '' })),
    /SUPABASE_URL is missing/,
  )
  assert.throws(
    () => supabaseEnv(variables({ ...modern, SUPABASE_URL: 'localhost' })),
    /SUPABASE_URL is not/,
  )
  assert.throws(
    () => supabaseEnv(variables({ SUPABASE_URL: modern.SUPABASE_URL })),
    /SUPABASE_SECRET_KEYS.*missing/,
  )
  assert.throws(
    () => publishableKey(variables({})),
    /SUPABASE_PUBLISHABLE_KEYS.*missing/,
  )
  for (
    const keys of ['{}', '[]', 'sb_secret_d', '{"default":""}', '{"default":1}']
  ) {
    assert.throws(
      () => supabaseEnv(variables({ ...modern, SUPABASE_SECRET_KEYS: keys })),
      /SUPABASE_SECRET_KEYS is not/,
      keys,
    )
  }
  assert.throws(
    () => required(variables({}), 'BALCAO_ENCRYPTION_KEYS'),
    /BALCAO_ENCRYPTION_KEYS is missing/,
  )
  assert.throws(
    () => requiredUrl(variables({ X: 'ftp://x' }), 'X'),
    /X is not an http/,
  )
})

Deno.test('no function boots without its environment', async (test) => {
  const boots: [string, string][] = [
    ['whatsapp-webhook', 'SUPABASE_SECRET_KEYS'],
    ['manage-instance', 'SUPABASE_SECRET_KEYS'],
  ]
  for (const [name, variable] of boots) {
    await test.step(name, async () => {
      const { code, stderr } = await new Deno.Command(Deno.execPath(), {
        args: [
          'run',
          '--quiet',
          '--no-prompt',
          '--allow-all',
          '--config',
          'functions/deno.json',
          `functions/${name}/index.ts`,
        ],
        cwd: new URL('../..', import.meta.url),
        clearEnv: true,
        env: {
          SUPABASE_URL: 'http://127.0.0.1:1',
          NO_COLOR: '1',
          HOME: Deno.env.get('HOME') ?? '/',
        },
        stdout: 'null',
        stderr: 'piped',
      }).output()
      assert.notEqual(code, 0)
      assert.match(
        new TextDecoder().decode(stderr),
        new RegExp(`${variable}.* is missing`),
      )
    })
  }
})
