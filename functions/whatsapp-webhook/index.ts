import { inBackground } from '../_shared/background.ts'
import { required, supabaseEnv } from '../_shared/env.ts'
import { createLog } from '../_shared/log.ts'
import { createMetaApps } from '../_shared/providers/meta/apps.ts'
import { createGraph, graphSettings } from '../_shared/providers/meta/graph.ts'
import { createMetaProvider } from '../_shared/providers/meta/provider.ts'
import { createRateLimit } from '../_shared/rate-limit.ts'
import { createRpc } from '../_shared/rpc.ts'
import { createSecretBox } from '../_shared/secrets.ts'
import { createWake } from '../_shared/wake.ts'
import { createHandler } from './handler.ts'

const { url, secretKey } = supabaseEnv(Deno.env)
const secrets = await createSecretBox(required(Deno.env, 'BALCAO_ENCRYPTION_KEYS'))
const rpc = createRpc(url, secretKey)
const log = createLog('whatsapp-webhook')
const meta = createMetaProvider({
  apps: createMetaApps({ rpc, secrets }),
  graph: createGraph(graphSettings(Deno.env)),
})

Deno.serve(createHandler({
  providers: new Map([['meta', meta]]),
  rpc,
  limits: {
    lookUps: createRateLimit({ capacity: 300, perSecond: 50 }),
    wrongTokens: createRateLimit({ capacity: 20, perSecond: 0.2 }),
    // Twice what an isolate can store.
    deliveries: createRateLimit({ capacity: 20_000, perSecond: 5_000 }),
  },
  wake: createWake({ url, secretKey, background: inBackground, log }),
  log,
}))
