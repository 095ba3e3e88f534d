import { basename } from 'node:path'
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'
import { isLostConnection } from '../local/lost-connection.ts'
import { RUNNING_STACK, runningStacks } from './support/running-stack.ts'

/** The longest first: lanes end at the same time when what is left for the end is short. */
const LONG = ['rls-fuzz', 'stack', 'demo', 'outgoing-webhooks', 'queue-crash', 'available-slots', 'schedules', 'sending-crash']
  .map((name) => `${name}.test.ts`)

/** The same order everywhere, whatever vitest remembers of earlier runs. */
class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification) => [...LONG, basename(moduleId)].indexOf(basename(moduleId))
    return files.toSorted((a, b) => rank(a) - rank(b) || a.moduleId.localeCompare(b.moduleId))
  }
}

const lanes = process.env[RUNNING_STACK] === undefined ? 1 : runningStacks().length

export default defineConfig({
  test: {
    root: fileURLToPath(new URL('..', import.meta.url)),
    setupFiles: ['tests/support/websocket.ts'],
    include: ['tests/{integration,browser}/**/*.test.ts', 'types/**/*.test.ts'],
    // Real processes and a real database on two cores.
    testTimeout: 240_000,
    hookTimeout: 240_000,
    // One file at a time on each stack.
    fileParallelism: lanes > 1,
    maxWorkers: lanes,
    sequence: { sequencer: LongestFirst },
    allowOnly: false,
    // A failure says what was wrong, however long that is.
    chaiConfig: { truncateThreshold: 0 },
    // Some tests kill Postgres while a stack of theirs runs in this process.
    onUnhandledError: (error) => isLostConnection(error) ? false : undefined,
  },
})
