// The operator's path: `supabase functions deploy --use-api` with the real CLI. What a function imports and the CLI does
// not upload would only be missed on the hosted project, at its first request.

import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { configuredFunctions, denoBinary } from '../../local/functions.ts'
import { cliEnvironment, supabaseCli } from '../../local/migrations.ts'
import { PROJECT_DIR } from '../../local/environment.ts'
import { type ManagementApi, startManagementApi } from '../support/management-api.ts'

const run = promisify(execFile)
const functions = await configuredFunctions(PROJECT_DIR)

const graphSchema = z.object({
  modules: z.array(z.object({ specifier: z.string(), error: z.string().optional() })),
})

/** The files of this project that a function imports, however far away, by their path from the root. */
async function filesNeededBy(entrypoint: string): Promise<string[]> {
  const args = ['info', '--json', '--config', join(PROJECT_DIR, 'functions', 'deno.json'), entrypoint]
  const { stdout } = await run(denoBinary(), args, { cwd: PROJECT_DIR, maxBuffer: 64 * 1024 * 1024 })
  const { modules } = graphSchema.parse(JSON.parse(stdout))
  expect(modules.filter(({ error }) => error !== undefined)).toEqual([])
  return modules
    .filter(({ specifier }) => specifier.startsWith('file://'))
    .map(({ specifier }) => relative(PROJECT_DIR, fileURLToPath(specifier)))
    .filter((path) => !path.startsWith('node_modules'))
}

describe('supabase functions deploy --use-api', () => {
  let folder = ''
  let api: ManagementApi

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'balcao-deploy-'))
    api = await startManagementApi(folder)
    await run(supabaseCli(), ['functions', 'deploy', '--use-api', ...api.cliArguments], {
      cwd: PROJECT_DIR,
      env: { ...cliEnvironment(join(folder, 'cli')), ...api.cliEnvironment },
    })
  })

  afterAll(async () => {
    await api.close()
    await rm(folder, { recursive: true, force: true })
  })

  test('deploys exactly the functions of config.toml', () => {
    expect(functions.length).toBeGreaterThan(0)
    expect([...api.uploads.keys()].sort()).toEqual(functions.map(({ name }) => name).sort())
  })

  test.each(functions)('uploads every file that $name needs, as it is', async ({ name, entrypoint }) => {
    const needed = await filesNeededBy(entrypoint)
    expect(needed).toContain(`functions/${name}/index.ts`)
    expect(needed.some((path) => path.startsWith('functions/_shared/'))).toBe(true)

    const uploaded = api.uploads.get(name)
    for (const path of [...needed, 'functions/deno.json']) {
      const content = uploaded?.files.get(path)
      expect(content === undefined ? `${path} is missing` : Buffer.from(content).toString(), path)
        .toBe(await readFile(join(PROJECT_DIR, path), 'utf8'))
    }
  })

  test.each(functions)('$name keeps its entry, its import map and its own check of callers', ({ name }) => {
    expect(api.uploads.get(name)?.metadata).toMatchObject({
      name,
      entrypoint_path: `functions/${name}/index.ts`,
      import_map_path: 'functions/deno.json',
      verify_jwt: false,
    })
  })

  test('every package in the import map has an exact version, the same as in package.json', async () => {
    const { imports } = z.object({ imports: z.record(z.string(), z.string()) })
      .parse(JSON.parse(await readFile(join(PROJECT_DIR, 'functions', 'deno.json'), 'utf8')))
    const { dependencies, devDependencies } = z.object({
      dependencies: z.record(z.string(), z.string()),
      devDependencies: z.record(z.string(), z.string()),
    }).parse(JSON.parse(await readFile(join(PROJECT_DIR, 'package.json'), 'utf8')))
    const installed = { ...dependencies, ...devDependencies }

    for (const [alias, target] of Object.entries(imports)) {
      const name = alias.replace(/\/$/, '')
      expect(target.replace(/^npm:\/?|\/$/g, '')).toBe(`${name}@${installed[name]}`)
    }
  })
})
