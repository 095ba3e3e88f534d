import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'
import { isLostConnection } from '../local/lost-connection.ts'

export default defineConfig({
  test: {
    root: fileURLToPath(new URL('..', import.meta.url)),
    setupFiles: ['tests/support/websocket.ts'],
    include: ['tests/{integration,browser}/**/*.test.ts', 'types/**/*.test.ts'],
    // Real processes and a real database on two cores.
    testTimeout: 60_000,
    hookTimeout: 60_000,
    fileParallelism: false,
    allowOnly: false,
    // A failure says what was wrong, however long that is.
    chaiConfig: { truncateThreshold: 0 },
    // Some tests kill Postgres while a stack of theirs runs in this process.
    onUnhandledError: (error) => isLostConnection(error) ? false : undefined,
  },
})
