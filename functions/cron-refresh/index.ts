import { inBackground } from '../_shared/background.ts'
import { supabaseEnv } from '../_shared/env.ts'
import { createLog } from '../_shared/log.ts'
import { createRpc } from '../_shared/rpc.ts'
import { createHandler } from './handler.ts'

// A schedule's SQL may take minutes; an isolate lives for 150 seconds at least.
const RUN_TIMEOUT_MS = 140_000

const { url, secretKey, secretKeys } = supabaseEnv(Deno.env)

Deno.serve(createHandler({
  rpc: createRpc(url, secretKey, { timeoutMs: RUN_TIMEOUT_MS }),
  secretKeys,
  cronSecret: Deno.env.get('BALCAO_CRON_SECRET'),
  functions: { url: `${url}/functions/v1`, secretKey, fetch },
  inBackground,
  log: createLog('cron-refresh'),
}))
