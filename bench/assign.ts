// The senders' process, from the other side.

import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'
import type { Assignment, Sent } from './senders.ts'

export function startSenders(): ChildProcess {
  return fork(fileURLToPath(new URL('senders.ts', import.meta.url)), { serialization: 'advanced' })
}

export async function assign(senders: ChildProcess, assignment: Assignment, interrupted: AbortSignal): Promise<Sent> {
  const ended = new AbortController()
  try {
    const answer = once(senders, 'message', { signal: ended.signal })
    const death = once(senders, 'exit', { signal: ended.signal }).then(() => {
      throw new Error('The senders died.')
    })
    const stop = once(interrupted, 'abort', { signal: ended.signal }).then(() => {
      throw new Error('Interrupted.')
    })
    senders.send(assignment)
    const [sent] = await Promise.race([answer, death, stop])
    return sentSchema.parse(sent)
  } finally {
    ended.abort()
  }
}

const sentSchema = z.object({
  seconds: z.number(),
  latencies: z.array(z.number()),
  sentAt: z.array(z.number()),
  answeredAt: z.array(z.number()),
  errors: z.record(z.coerce.number(), z.number()),
})
