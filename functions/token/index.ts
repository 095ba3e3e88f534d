import { required, supabaseEnv } from '../_shared/env.ts'
import { createLog } from '../_shared/log.ts'
import { createRateLimit } from '../_shared/rate-limit.ts'
import { createRpc } from '../_shared/rpc.ts'
import { createSecretBox } from '../_shared/secrets.ts'
import { createAuthApi } from './auth.ts'
import { createHandler } from './handler.ts'

const { url, secretKey } = supabaseEnv(Deno.env)

Deno.serve(createHandler({
  rpc: createRpc(url, secretKey),
  secrets: await createSecretBox(required(Deno.env, 'BALCAO_ENCRYPTION_KEYS')),
  auth: createAuthApi({ url, secretKey }),
  randomBytes: (length) => crypto.getRandomValues(new Uint8Array(length)),
  // The database has the exact and lower one; this one keeps a flood away from it.
  limit: createRateLimit({ capacity: 120, perSecond: 4 }),
  now: Date.now,
  log: createLog('token'),
}))
