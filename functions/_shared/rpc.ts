// Calls of Postgres functions through the Data API. One call is one transaction.
import { createClient } from '@supabase/supabase-js'

/** Calls a function by name; throws RpcError when it raised, or could not be reached. */
export type Rpc = (name: string, args: Record<string, unknown>, options?: CallOptions) => Promise<unknown>

export interface CallOptions {
  /** Whoever asks waits no longer than this; what the database makes of the call is not known then. */
  signal?: AbortSignal
}

export class RpcError extends Error {
  override readonly name = 'RpcError'

  constructor(
    /** HTTP status of the Data API; 0 when it did not answer. */
    readonly status: number,
    /** SQLSTATE, or PostgREST's own PGRSTxxx. */
    readonly code: string,
    message: string,
    /** Name of a business error, such as `not_allowed`. */
    readonly error: string | null,
  ) {
    super(message)
  }
}

export interface RpcOptions {
  /** A user's token, on top of the publishable key: the call is his. */
  bearer?: string
  /** Sent with every call. */
  headers?: Record<string, string>
  /** By default longer than a request's statements may take: only a Data API that hangs gets there. */
  timeoutMs?: number
}

export function createRpc(
  url: string,
  apiKey: string,
  { bearer, headers, timeoutMs = 30_000 }: RpcOptions = {},
): Rpc {
  const client = createClient(url, apiKey, {
    auth: { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false },
    global: {
      headers: { ...headers, ...(bearer === undefined ? {} : { authorization: `Bearer ${bearer}` }) },
    },
  })
  return async (name, args, { signal } = {}) => {
    const timeUp = AbortSignal.timeout(timeoutMs)
    const { data, error, status } = await client.rpc(name, args)
      .abortSignal(signal === undefined ? timeUp : AbortSignal.any([signal, timeUp]))
    // What something in between answers has no code, whatever its type says.
    if (error) throw new RpcError(status, error.code ?? '', error.message, businessError(error.details))
    return data
  }
}

function businessError(details: string | null): string | null {
  try {
    const detail: unknown = JSON.parse(details ?? '')
    const name = typeof detail === 'object' && detail !== null && 'error' in detail ? detail.error : null
    return typeof name === 'string' ? name : null
  } catch {
    return null
  }
}
