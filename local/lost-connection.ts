// postgres.js writes to a socket that is gone when its server dies at the wrong moment, and throws from a timer, where
// nobody can catch it (porsager/postgres#1208). The query is lost, which its caller notices; the process need not be.

import { sep } from 'node:path'

/** Exactly that error; also as a test runner hands it on from another thread. */
export function isLostConnection(error: unknown): boolean {
  const { name, message, stack } = Object(error) as { name?: unknown; message?: unknown; stack?: unknown }
  return name === 'TypeError' && /reading 'write'/.test(String(message)) &&
    String(stack).includes(`node_modules${sep}postgres${sep}`)
}

/** Whatever else nobody caught ends the process, as without us. */
export function outliveLostConnections(): void {
  const listener = (error: unknown) => {
    if (isLostConnection(error)) return
    process.off('uncaughtException', listener)
    setImmediate(() => {
      throw error
    })
  }
  process.on('uncaughtException', listener)
}
