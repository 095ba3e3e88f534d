import { publishableKey, required, requiredUrl, supabaseEnv } from '../_shared/env.ts'
import { createLog } from '../_shared/log.ts'
import { createOrigins } from '../_shared/origin.ts'
import { createMetaApps } from '../_shared/providers/meta/apps.ts'
import { createGraph, graphSettings } from '../_shared/providers/meta/graph.ts'
import { createMetaProvider } from '../_shared/providers/meta/provider.ts'
import { createRpc } from '../_shared/rpc.ts'
import { createSecretBox } from '../_shared/secrets.ts'
import { createHandler } from './handler.ts'

const { url, secretKey, secretKeys } = supabaseEnv(Deno.env)
const apiKey = publishableKey(Deno.env)
const secrets = await createSecretBox(required(Deno.env, 'BALCAO_ENCRYPTION_KEYS'))
const platformRpc = createRpc(url, secretKey)
const originOf = createOrigins(platformRpc)
const meta = createMetaProvider({
  apps: createMetaApps({ rpc: platformRpc, secrets }),
  graph: createGraph(graphSettings(Deno.env)),
})

Deno.serve(createHandler({
  platformRpc,
  userRpc: async (bearer, request) => createRpc(url, apiKey, { bearer, headers: await originOf(request) }),
  secretKeys,
  secrets,
  providers: new Map([[meta.name, meta]]),
  publicUrl: Deno.env.get('BALCAO_PUBLIC_URL') ? requiredUrl(Deno.env, 'BALCAO_PUBLIC_URL') : url,
  log: createLog('manage-instance'),
}))
