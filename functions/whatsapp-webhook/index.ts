import { required, supabaseEnv } from '../_shared/env.ts'
import { createLog } from '../_shared/log.ts'
import { createRpc } from '../_shared/rpc.ts'
import { createSecretBox } from '../_shared/secrets.ts'
import { createHandler } from './handler.ts'
import { createMetaApps } from '../_shared/providers/meta/apps.ts'
import { createMetaProvider } from '../_shared/providers/meta/provider.ts'

const { url, secretKey } = supabaseEnv(Deno.env)
const secrets = await createSecretBox(required(Deno.env, 'BALCAO_ENCRYPTION_KEYS'))
const rpc = createRpc(url, secretKey)

Deno.serve(createHandler({
  providers: new Map([['meta', createMetaProvider(createMetaApps({ rpc, secrets }))]]),
  rpc,
  log: createLog('whatsapp-webhook'),
}))
