// npm run reset: removes the local data. It refuses while the stack runs, because somebody may be working with it.

import { existsSync } from 'node:fs'
import { readlink, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { DataDirectory } from './data-directory.ts'
import { dataDir } from './environment.ts'
import { Failure } from './failure.ts'
import { SHARED_HOME, stopLeftover } from './postgres.ts'
import { clearAfterCrash } from './stack.ts'

try {
  if (!existsSync(dataDir())) {
    console.log('There is nothing to remove.')
  } else {
    const data = await DataDirectory.open(dataDir())
    if (!existsSync(data.statePath) && !existsSync(data.secretsPath) && !existsSync(data.cluster)) {
      throw new Failure(`${data.path} does not look like a data directory of Balcão; nothing was removed.`)
    }
    const acquired = data.acquire()
    if ('owner' in acquired) {
      throw new Failure(
        `Balcão is running (process ${acquired.owner.pid}): stop it first, nothing was removed.`,
      )
    }
    await clearAfterCrash(acquired.left)
    // As root below a closed folder the cluster lies elsewhere, behind a link.
    const elsewhere = await readlink(data.cluster).catch(() => null)
    await stopLeftover(elsewhere ?? data.cluster)
    if (elsewhere?.startsWith(`${SHARED_HOME}/`)) {
      await rm(dirname(elsewhere), { recursive: true, force: true })
    }
    await rm(data.path, { recursive: true, force: true })
    console.log(`Removed ${data.path}.`)
  }
} catch (error) {
  console.error(error instanceof Error ? error.message : error)
  process.exitCode = 1
}
