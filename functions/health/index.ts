import { supabaseEnv } from '../_shared/env.ts'
import { createLog } from '../_shared/log.ts'
import { createRpc } from '../_shared/rpc.ts'
import { createHandler } from './handler.ts'

// A monitor does not wait long either.
const DATABASE_TIMEOUT_MS = 5_000

const { url, secretKey, secretKeys } = supabaseEnv(Deno.env)

Deno.serve(createHandler({
  rpc: createRpc(url, secretKey, { timeoutMs: DATABASE_TIMEOUT_MS }),
  secretKeys,
  log: createLog('health'),
}))
