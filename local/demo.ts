// npm run demo: the story that must always work, played through the doors that real apps and Meta use.
//
// On the stack of the data directory if one runs there, else on one of its own that leaves nothing. It prints what
// happened; whatever is not as it should be ends it with one line and exit code 1.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import WebSocket from 'ws'
import { apiKeys } from './api-keys.ts'
import { DataDirectory } from './data-directory.ts'
import type { Stage } from './demo/stage.ts'
import { play } from './demo/story.ts'
import { dataDir, stackOptions } from './environment.ts'
import { Failure, messageOf } from './failure.ts'
import { outliveLostConnections } from './lost-connection.ts'
import { isAlive } from './processes.ts'
import { startStack } from './stack.ts'

type Theatre = Stage & { leave: () => Promise<void> }

// Before version 22 Node has none, and supabase-js wants one even where nothing listens.
if (!('WebSocket' in globalThis)) Object.assign(globalThis, { WebSocket })

const interrupted = new AbortController()
const hurry = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    if (interrupted.signal.aborted) hurry.abort()
    interrupted.abort(new Failure('Interrupted.'))
  })
}

outliveLostConnections()
const brokenOffForGood = new Promise<never>(() => undefined)

let theatre: Theatre | null = null
let exitCode = 0
try {
  theatre = await runningStage() ?? await ownStage()
  await Promise.race([play(theatre), brokenOff()])
} catch (error) {
  exitCode = interrupted.signal.aborted ? 130 : 1
  if (exitCode === 1) console.error(`Balcão: ${messageOf(error)}`)
} finally {
  await theatre?.leave()
}
process.exit(exitCode)

// The stage -----------------------------------------------------------------------------------------------------------

async function runningStage(): Promise<Theatre | null> {
  const data = DataDirectory.at(dataDir())
  const state = data.readState()
  if (state === null || !isAlive(state) || state.status !== 'ready' || state.apiPort === null) return null
  const keys = apiKeys(await data.existingSecrets())
  return {
    api: `http://127.0.0.1:${state.apiPort}`,
    publishableKey: keys.publishable,
    secretKey: keys.secret,
    remark: 'the stack that is running',
    request: fetchUntilBrokenOff,
    leave: () => Promise.resolve(),
  }
}

async function ownStage(): Promise<Theatre> {
  const folder = await mkdtemp(join(tmpdir(), 'balcao-demo-'))
  const remove = () => rm(folder, { recursive: true, force: true })
  try {
    const { functionsEnvironment = {}, ...options } = stackOptions()
    // The customers' phones are the imitation's: there is nobody to tell at another Graph API.
    const { BALCAO_META_GRAPH_URL: _another, ...environment } = functionsEnvironment
    const stack = await startStack({
      ...options,
      functionsEnvironment: { ...environment, BALCAO_ALLOW_LOOPBACK_WEBHOOKS: 'true' },
      dataDir: folder,
      apiPort: 0,
      dbPort: 0,
      signal: interrupted.signal,
      hurry: hurry.signal,
    })
    return {
      api: stack.urls.api,
      publishableKey: stack.keys.publishable,
      secretKey: stack.keys.secret,
      remark: 'a stack of its own, gone afterwards',
      request: fetchUntilBrokenOff,
      leave: () => stack.stop().finally(remove),
    }
  } catch (error) {
    await remove()
    throw error
  }
}

/** A request that the end of the demo breaks off has nobody left to complain to. */
async function fetchUntilBrokenOff(...request: Parameters<typeof fetch>): Promise<Response> {
  return await fetch(...request).catch((error) => interrupted.signal.aborted ? brokenOffForGood : Promise.reject(error))
}

function brokenOff(): Promise<never> {
  return new Promise((_resolve, reject) => {
    const { signal } = interrupted
    const breakOff = () => reject(signal.reason)
    if (signal.aborted) breakOff()
    else signal.addEventListener('abort', breakOff, { once: true })
  })
}
