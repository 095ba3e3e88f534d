// npm start: the stack in the foreground until Ctrl-C.

import { watch } from 'node:fs'
import { join, relative } from 'node:path'
import { PROJECT_DIR, stackOptions } from './environment.ts'
import { Failure, messageOf } from './failure.ts'
import { outliveLostConnections } from './lost-connection.ts'
import { AlreadyRunning, type Stack, startStack } from './stack.ts'

const interrupted = new AbortController()
const hurry = new AbortController()
let stack: Stack | null = null
let exitCode = 0

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    if (interrupted.signal.aborted) hurry.abort()
    interrupted.abort(new Failure('Stopped.'))
  })
}
outliveLostConnections()
stopWithNpm()

try {
  stack = await startStack({ ...stackOptions(), signal: interrupted.signal, hurry: hurry.signal })
  console.log(summary(stack))
  restartFunctionsOnChange(stack)
  const failure = await Promise.race([stack.failed, aborted(interrupted.signal)])
  if (failure !== null) {
    console.error(`Balcão: ${failure.message}`)
    exitCode = 1
  }
} catch (error) {
  if (error instanceof AlreadyRunning) {
    console.log(error.message)
  } else if (!interrupted.signal.aborted) {
    console.error(error instanceof Failure ? `Balcão: ${error.message}` : error)
    exitCode = 1
  }
} finally {
  await stack?.stop()
}
process.exit(exitCode)

function summary({ urls, keys, dataDir }: Stack): string {
  const lines: [string, string][] = [
    ['API', urls.api],
    ['Functions', urls.functions],
    ['Simulator', `${urls.api}/simulator`],
    ['Dashboard', `${urls.api}/dashboard`],
    ['Database', urls.database],
    ['Publishable key', keys.publishable],
    ['Secret key', keys.secret],
    ['Data and logs', relative(process.cwd(), dataDir) || '.'],
  ]
  const width = Math.max(...lines.map(([name]) => name.length)) + 2
  return [
    `Balcão is ready after ${(performance.now() / 1000).toFixed(1)} s. Ctrl-C stops it.`,
    '',
    ...lines.map(([name, value]) => `  ${name.padEnd(width)}${value}`),
    '',
    'More: npm run status',
  ].join('\n')
}

function aborted(signal: AbortSignal): Promise<null> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve(null)
    else signal.addEventListener('abort', () => resolve(null), { once: true })
  })
}

/** A kill of npm, or of the shell between npm and us, does not reach us: we notice that our parent is another. */
function stopWithNpm(): void {
  if (process.env.npm_lifecycle_event === undefined) return
  const parent = process.ppid
  const timer = setInterval(() => {
    if (process.ppid === parent) return
    clearInterval(timer)
    interrupted.abort(new Failure('npm has gone.'))
  }, 500)
  timer.unref()
}

function restartFunctionsOnChange({ restartFunctions }: Stack): void {
  let pending: NodeJS.Timeout | undefined
  const changed = (_event: string, file: string | null) => {
    if (file === null || !/\.(?:ts|json)$/.test(file)) return
    clearTimeout(pending)
    pending = setTimeout(() => void restartFunctions(), 200)
  }
  try {
    // Without a watcher (the system has only so many) one restarts by hand.
    watch(join(PROJECT_DIR, 'functions'), { recursive: true }, changed).on('error', () => undefined)
  } catch (error) {
    console.error(`Changes of functions are not noticed: ${messageOf(error)}`)
  }
}
