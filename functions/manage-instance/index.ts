import { publishableKey, required, requiredUrl, supabaseEnv } from '../_shared/env.ts'
import { createLog } from '../_shared/log.ts'
import { createRpc } from '../_shared/rpc.ts'
import { createSecretBox } from '../_shared/secrets.ts'
import { createHandler } from './handler.ts'

const { url, secretKey, secretKeys } = supabaseEnv(Deno.env)
const apiKey = publishableKey(Deno.env)

Deno.serve(createHandler({
  platformRpc: createRpc(url, secretKey),
  userRpc: (bearer) => createRpc(url, apiKey, bearer),
  secretKeys,
  secrets: await createSecretBox(required(Deno.env, 'BALCAO_ENCRYPTION_KEYS')),
  publicUrl: Deno.env.get('BALCAO_PUBLIC_URL') ? requiredUrl(Deno.env, 'BALCAO_PUBLIC_URL') : url,
  log: createLog('manage-instance'),
}))
