import { inBackground } from '../_shared/background.ts'
import { supabaseEnv } from '../_shared/env.ts'
import { createLog } from '../_shared/log.ts'
import { createRpc } from '../_shared/rpc.ts'
import { createHandler } from './handler.ts'

const { url, secretKey, secretKeys } = supabaseEnv(Deno.env)

Deno.serve(createHandler({
  rpc: createRpc(url, secretKey),
  secretKeys,
  cronSecret: Deno.env.get('BALCAO_CRON_SECRET'),
  functions: { url: `${url}/functions/v1`, secretKey, fetch },
  inBackground,
  log: createLog('cron-refresh'),
}))
