// npm test: everything, on a fresh stack of its own. `npm test -- types lint` runs only the sections that it names.
//
// The last line is "N passed, N failed" over all assertions; the exit code says the same.

import { existsSync } from 'node:fs'
import { chmod, mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { DataDirectory, type StackState } from '../local/data-directory.ts'
import { Failure, messageOf } from '../local/failure.ts'
import { denoBinary } from '../local/functions.ts'
import { outliveLostConnections } from '../local/lost-connection.ts'
import { cliEnvironment, supabaseCli } from '../local/migrations.ts'
import { type Finished, isAlive, ProcessTable, stopOrphan } from '../local/processes.ts'
import { PROJECT_DIR } from '../local/environment.ts'
import { clearAfterCrash, type Stack, type StackOptions, startStack } from '../local/stack.ts'
import { copyDataDirectory, prepareDataDirectory, PREPARED } from './support/own-stack.ts'
import { watchPgCron } from './support/pg-cron.ts'
import { checkFunctions, runDatabaseTests } from './support/pgtap.ts'
import { indent, type Outcome, sum } from './support/report.ts'
import { RUNNING_STACK } from './support/running-stack.ts'
import { outcomeOfTap } from './support/tap.ts'

interface Section {
  /** False for what only some servers can do; it runs when it is named. */
  byDefault: boolean
  /** How many it uses at most. */
  stacks: number
  run: (stacks: () => Promise<[Stack, ...Stack[]]>) => Promise<Outcome>
}

const TEMPORARY = 'balcao-test-'
/** In which integration tests run side by side: half of the time a test waits, and two cores are everywhere. */
const LANES = 2
const interrupted = new AbortController()
const hurry = new AbortController()
const processes = new ProcessTable({}, () => undefined)

const sections: Record<string, Section> = {
  types: { byDefault: true, stacks: 0, run: checkTypes },
  lint: { byDefault: true, stacks: 0, run: lint },
  functions: { byDefault: true, stacks: 0, run: testFunctions },
  advisors: { byDefault: true, stacks: 1, run: async (stacks) => await askAdvisors((await stacks())[0]) },
  drift: { byDefault: true, stacks: 1, run: async (stacks) => await checkDrift((await stacks())[0]) },
  database: {
    byDefault: true,
    stacks: 1,
    run: async (stacks) => await runDatabaseTests(PROJECT_DIR, (await stacks())[0].urls),
  },
  'plpgsql-check': {
    byDefault: false,
    stacks: 1,
    run: async (stacks) => await checkFunctions((await stacks())[0].urls),
  },
  'pg-cron': {
    byDefault: false,
    stacks: 1,
    run: async (stacks) => await watchPgCron((await stacks())[0], interrupted.signal),
  },
  integration: {
    byDefault: true,
    stacks: LANES,
    run: async (stacks) => await runVitest(await stacks(), 'tests/integration/', 'types/'),
  },
  /** Pages, looked at by Chromium. */
  browser: {
    byDefault: false,
    stacks: 1,
    run: async (stacks) => await runVitest([(await stacks())[0]], 'tests/browser/'),
  },
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    if (interrupted.signal.aborted) hurry.abort()
    interrupted.abort(new Failure('Interrupted.'))
  })
}
outliveLostConnections()

async function main(names: string[]): Promise<number> {
  const unknown = names.filter((name) => !Object.hasOwn(sections, name))
  if (unknown.length > 0) {
    console.error(`There is no section ${unknown.join(', ')}; there are ${Object.keys(sections).join(', ')}.`)
    return 2
  }
  const chosen = Object.entries(sections).filter(([name, { byDefault }]) =>
    names.length > 0 ? names.includes(name) : byDefault
  )
  await sweep()
  const outcomes: Outcome[] = []
  const needed = Math.max(0, ...chosen.map(([, { stacks }]) => stacks))
  const stacks = needed > 0 ? startTestStacks(needed) : null
  // Whoever needs them will hear of their failure; until then it is nobody's.
  stacks?.ready.catch(() => undefined)
  // What needs no stack runs beside what needs one; each of the two is done in its order, and told in the order of all.
  const lines = new Map<boolean, Promise<unknown>>()
  const reports = chosen.map(([name, { stacks: count, run }]) => {
    const report = Promise.resolve(lines.get(count > 0)).then(() =>
      reportOf(() => run(() => stacks?.ready ?? Promise.reject(new Failure('No stack.'))))
    )
    report.catch(() => undefined)
    lines.set(count > 0, report)
    return { name, report }
  })
  try {
    for (const { name, report } of reports) outcomes.push(tell(name, await report))
  } catch (error) {
    console.error(messageOf(error))
    if (!interrupted.signal.aborted) outcomes.push({ passed: 0, failures: [messageOf(error)] })
  } finally {
    await Promise.allSettled(reports.map(({ report }) => report))
    await stacks?.remove()
  }
  const { passed, failures } = sum(outcomes)
  if (interrupted.signal.aborted) return 130
  console.log(`\n${passed} passed, ${failures.length} failed`)
  return failures.length === 0 ? 0 : 1
}

interface Report extends Outcome {
  seconds: number
}

/** Rejects only when the run is interrupted. */
async function reportOf(run: () => Promise<Outcome>): Promise<Report> {
  interrupted.signal.throwIfAborted()
  const started = performance.now()
  const outcome = await run().catch((error): Outcome => {
    interrupted.signal.throwIfAborted()
    return { passed: 0, failures: [error instanceof Failure ? error.message : String(error?.stack ?? error)] }
  })
  return { ...outcome, seconds: (performance.now() - started) / 1000 }
}

function tell(name: string, { passed, failures, seconds }: Report): Outcome {
  console.log(
    `${failures.length === 0 ? 'ok  ' : 'FAIL'} ${
      name.padEnd(14)
    } ${passed} passed, ${failures.length} failed  (${seconds.toFixed(1)} s)`,
  )
  for (const failure of failures) console.log(indent(failure))
  return { passed, failures }
}

// The stacks under test -----------------------------------------------------------------------------------------------

/** All that a run makes lies in one folder: its stacks, and those that its tests start. */
function startTestStacks(count: number): { ready: Promise<[Stack, ...Stack[]]>; remove: () => Promise<void> } {
  const folder = mkdtemp(join(tmpdir(), TEMPORARY))
  const databaseUrl = process.env.BALCAO_DB_URL || undefined
  const started: Stack[] = []
  const options = (dataDir: string): StackOptions => ({
    dataDir,
    apiPort: 0,
    dbPort: 0,
    databaseUrl,
    // The receivers of outgoing webhooks in the tests are on this machine.
    functionsEnvironment: { BALCAO_ALLOW_LOOPBACK_WEBHOOKS: 'true' },
    signal: interrupted.signal,
    hurry: hurry.signal,
  })
  const start = async (dataDir: string): Promise<Stack> => {
    const stack = await startStack(options(dataDir))
    started.push(stack)
    return stack
  }
  const startAll = async (): Promise<[Stack, ...Stack[]]> => {
    const path = await folder
    // Postgres runs as another user when we are root, and must pass through.
    await chmod(path, 0o711)
    // Of a server that is not ours there is one.
    if (count === 1 || databaseUrl !== undefined) return [await start(join(path, 'stack'))]
    const prepared = join(path, PREPARED)
    await prepareDataDirectory(options(prepared))
    const startCopy = async (name: string): Promise<Stack> => {
      await copyDataDirectory(prepared, join(path, name))
      return await start(join(path, name))
    }
    const first = startCopy('stack')
    const others = Array.from({ length: count - 1 }, (_, index) => startCopy(`stack-${index + 2}`))
    // One that fails leaves none behind that is still starting.
    await Promise.allSettled([first, ...others])
    return [await first, ...await Promise.all(others)]
  }
  const ready = startAll()
  return {
    ready,
    remove: async () => {
      await ready.catch(() => undefined)
      await Promise.all(started.map((stack) => stack.stop()))
      await clear(await folder)
    },
  }
}

async function statesIn(folder: string): Promise<StackState[]> {
  const names = await readdir(folder).catch(() => [])
  return names.map((name) => DataDirectory.at(join(folder, name)).readState()).filter((state) =>
    state !== null
  )
}

/** Ends what tests that were killed left running, then removes the folder. */
async function clear(folder: string): Promise<void> {
  for (const state of await statesIn(folder)) {
    await stopOrphan({ name: 'stack', pid: state.pid, identity: state.identity })
    await clearAfterCrash(state)
  }
  await rm(folder, { recursive: true, force: true })
}

/** Removes what earlier runs left that were killed; what still lives, or was made just now, is left alone. */
async function sweep(): Promise<void> {
  for (const name of (await readdir(tmpdir())).filter((entry) => entry.startsWith(TEMPORARY))) {
    const folder = join(tmpdir(), name)
    const states = await statesIn(folder)
    if (states.some(isAlive)) continue
    const age = Date.now() - await stat(folder).then(({ mtimeMs }) => mtimeMs, () => Date.now())
    if (states.length === 0 && age < 10 * 60_000) continue
    await clear(folder).catch(() => undefined)
  }
}

// The sections --------------------------------------------------------------------------------------------------------

async function checkTypes(): Promise<Outcome> {
  return sum([
    await tool('tsc', node('typescript/bin/tsc', '--noEmit', '--pretty', 'false')),
    await tool(
      'deno check',
      deno('check', '--quiet', ...CONFIG, 'functions', 'tests/functions', 'local/functions-host.ts'),
    ),
  ])
}

async function lint(): Promise<Outcome> {
  const migrations = (await readdir(join(PROJECT_DIR, 'supabase', 'migrations')))
    .filter((name) => name.endsWith('.sql'))
    .map((name) => join('supabase', 'migrations', name))
  return sum([
    await tool('deno lint', deno('lint', '--quiet', ...CONFIG, 'functions', 'tests/functions')),
    await tool(
      'deno lint',
      deno(
        'lint',
        '--quiet',
        '--no-config',
        '--rules-exclude=no-process-global,no-node-globals',
        'local',
        'types',
        'bench',
        'tests/support',
        'tests/integration',
        'tests/run.ts',
      ),
    ),
    await tool(
      'squawk',
      node('squawk-cli/js/bin/squawk', '--config', 'tests/squawk.toml', '--reporter', 'gcc', ...migrations),
    ),
  ])
}

async function testFunctions(): Promise<Outcome> {
  const args = [
    'test',
    '--quiet',
    '--no-check',
    '--reporter=tap',
    '--allow-env',
    '--allow-read',
    '--allow-net=127.0.0.1',
    // A test starts a function without its environment.
    `--allow-run=${denoBinary()}`,
  ]
  const finished = await run(deno(...args, ...CONFIG, 'functions', 'tests/functions'))
  const outcome = outcomeOfTap('deno test', finished.stdout)
  if (finished.code !== 0 && outcome.failures.length === 0) {
    outcome.failures.push(output('deno test', finished))
  }
  return outcome
}

async function askAdvisors({ urls, dataDir }: Stack): Promise<Outcome> {
  return await tool('supabase db advisors', {
    file: supabaseCli(),
    args: ['db', 'advisors', '--level', 'warn', '--fail-on', 'warn', `--remote=${urls.database}`],
    env: cliEnvironment(join(dataDir, 'cli')),
  })
}

/** types/database.types.ts is what the migrations say. */
async function checkDrift(stack: Stack): Promise<Outcome> {
  return await tool('tests/types.ts', {
    ...node('', '--import', 'tsx', 'tests/types.ts'),
    env: { ...process.env, ...describe(stack) },
  })
}

const vitestReport = z.object({
  numPassedTests: z.int(),
  testResults: z.array(z.object({
    name: z.string(),
    status: z.string(),
    message: z.string().default(''),
    assertionResults: z.array(z.object({
      fullName: z.string(),
      status: z.string(),
      failureMessages: z.array(z.string()).nullish(),
    })),
  })),
})

async function runVitest(stacks: [Stack, ...Stack[]], ...folders: string[]): Promise<Outcome> {
  const report = join(stacks[0].dataDir, 'vitest.json')
  const finished = await run({
    ...node(
      'vitest/vitest.mjs',
      'run',
      ...folders,
      '--config',
      'tests/vitest.config.ts',
      '--reporter=json',
      `--outputFile=${report}`,
    ),
    env: { ...process.env, ...describe(...stacks) },
  })
  if (!existsSync(report)) return { passed: 0, failures: [output('vitest', finished)] }
  const { numPassedTests, testResults } = vitestReport.parse(JSON.parse(await readFile(report, 'utf8')))
  const failures = testResults.flatMap(({ name, status, message, assertionResults }) => {
    const file = name.replace(`${PROJECT_DIR}/`, '')
    const failed = assertionResults
      .filter((assertion) => assertion.status !== 'passed')
      .map(({ fullName, status, failureMessages }) =>
        [
          `${file}: ${fullName}${status === 'failed' ? '' : ` (${status})`}`,
          ...(failureMessages ?? []).map((text) => indent(text)),
        ].join('\n')
      )
    // A file that does not load has no test that could fail.
    return failed.length === 0 && status !== 'passed' ? [`${file}: ${message || status}`] : failed
  })
  if (finished.code !== 0 && failures.length === 0) failures.push(output('vitest', finished))
  return { passed: numPassedTests, failures }
}

function describe(...stacks: Stack[]): Record<string, string> {
  return { [RUNNING_STACK]: JSON.stringify(stacks.map(({ urls, keys, dataDir }) => ({ urls, keys, dataDir }))) }
}

// Tools ---------------------------------------------------------------------------------------------------------------

interface Tool {
  file: string
  args: string[]
  env?: NodeJS.ProcessEnv
}

const CONFIG = ['--config', 'functions/deno.json']

function node(script: string, ...args: string[]): Tool {
  return { file: process.execPath, args: script === '' ? args : [join('node_modules', script), ...args] }
}

function deno(...args: string[]): Tool {
  return { file: denoBinary(), args, env: { ...process.env, DENO_NO_UPDATE_CHECK: '1', NO_COLOR: '1' } }
}

async function run({ file, args, env }: Tool): Promise<Finished> {
  return await processes.run(
    { name: args[0] ?? file, file, args, cwd: PROJECT_DIR, ...(env ? { env } : {}) },
    interrupted.signal,
  )
}

/** A tool that is content or is not: one assertion. */
async function tool(name: string, command: Tool): Promise<Outcome> {
  const finished = await run(command)
  return finished.code === 0 ? { passed: 1, failures: [] } : { passed: 0, failures: [output(name, finished)] }
}

function output(name: string, { code, stdout, stderr }: Finished): string {
  return [`${name} ended with code ${code}`, indent(`${stdout}\n${stderr}`.trim())].join('\n')
}

process.exitCode = await main(process.argv.slice(2))
