// A database that is away for a moment must not cost a job: calls that can be repeated are.
import { type Rpc, RpcError } from '../_shared/rpc.ts'

/** Resolves after so many milliseconds. */
export type Pause = (milliseconds: number) => Promise<void>

export const pause: Pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds))

export interface Patience {
  /** Before each further try; after the last one the failure is the caller's. */
  pauses: readonly number[]
  pause: Pause
  /** Hears of each failure that is followed by another try. */
  failed?: (error: unknown) => void
}

/**
 * Repeats what the database did not do for reasons of its own. A call whose answer was lost may have been done: the
 * functions that end a job refuse it the second time, because the job is no longer held. There is no further try once the
 * signal of the call is aborted.
 */
export function patientRpc(rpc: Rpc, { pauses, pause, failed }: Patience): Rpc {
  return async (name, args, options = {}) => {
    const { signal } = options
    for (const milliseconds of pauses) {
      try {
        return await rpc(name, args, options)
      } catch (error) {
        if (!isTransient(error) || signal?.aborted) throw error
        failed?.(error)
        await untilAborted(pause(milliseconds), signal)
        if (signal?.aborted) throw error
      }
    }
    return await rpc(name, args, options)
  }
}

/** Waits for the work, or for nothing any more. */
async function untilAborted(work: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (signal === undefined) return await work
  const { promise: aborted, resolve: abort } = Promise.withResolvers<void>()
  const heard = () => abort()
  signal.addEventListener('abort', heard)
  if (signal.aborted) abort()
  try {
    await Promise.race([work, aborted])
  } finally {
    signal.removeEventListener('abort', heard)
  }
}

/** Unreachable, restarting, out of connections, or a transaction that lost against another one. */
export function isTransient(error: unknown): boolean {
  if (!(error instanceof RpcError)) return false
  const { status, code } = error
  if (code.startsWith('BL')) return false
  return status === 0 || status >= 500 || status === 429 || /^(08|40|53|55P03|57)/.test(code) ||
    code === 'PGRST000' || code === 'PGRST001' || code === 'PGRST002' || code === 'PGRST003'
}
