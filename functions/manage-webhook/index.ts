import { publishableKey, required, supabaseEnv } from '../_shared/env.ts'
import { createLog } from '../_shared/log.ts'
import { createOrigins } from '../_shared/origin.ts'
import { systemResolve } from '../_shared/public-address.ts'
import { createRpc } from '../_shared/rpc.ts'
import { createSecretBox } from '../_shared/secrets.ts'
import { createHandler } from './handler.ts'

const { url, secretKey, secretKeys } = supabaseEnv(Deno.env)
const apiKey = publishableKey(Deno.env)
const platformRpc = createRpc(url, secretKey)
const originOf = createOrigins(platformRpc)

Deno.serve(createHandler({
  platformRpc,
  userRpc: async (bearer, request) => createRpc(url, apiKey, { bearer, headers: await originOf(request) }),
  secretKeys,
  secrets: await createSecretBox(required(Deno.env, 'BALCAO_ENCRYPTION_KEYS')),
  resolve: systemResolve,
  randomBytes: (length) => crypto.getRandomValues(new Uint8Array(length)),
  allowLoopback: Deno.env.get('BALCAO_ALLOW_LOOPBACK_WEBHOOKS') === 'true',
  log: createLog('manage-webhook'),
}))
