import { required, supabaseEnv } from '../_shared/env.ts'
import { createLog } from '../_shared/log.ts'
import { createRpc } from '../_shared/rpc.ts'
import { createSecretBox } from '../_shared/secrets.ts'
import { createHandler } from './handler.ts'

const { url, secretKey, secretKeys } = supabaseEnv(Deno.env)

Deno.serve(createHandler({
  rpc: createRpc(url, secretKey),
  secretKeys,
  secrets: await createSecretBox(required(Deno.env, 'BALCAO_ENCRYPTION_KEYS')),
  // A hosted isolate lives 150 seconds.
  budgetMs: 90_000,
  now: Date.now,
  log: createLog('rotate-secrets'),
}))
