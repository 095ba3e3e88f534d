import { inBackground } from '../_shared/background.ts'
import { publishableKey, required, requiredUrl, supabaseEnv } from '../_shared/env.ts'
import { createLog } from '../_shared/log.ts'
import { createRpc } from '../_shared/rpc.ts'
import { createSecretBox } from '../_shared/secrets.ts'
import { createWake } from '../_shared/wake.ts'
import { createHandler } from './handler.ts'
import { createBackupFiles } from './storage.ts'

// As long as the database may take for a large tenant.
const TIMEOUT_MS = 15 * 60_000

const { url, secretKey, secretKeys } = supabaseEnv(Deno.env)
const apiKey = publishableKey(Deno.env)
const publicUrl = Deno.env.get('BALCAO_PUBLIC_URL') ? requiredUrl(Deno.env, 'BALCAO_PUBLIC_URL') : url
const log = createLog('tenant-backup')

Deno.serve(createHandler({
  platformRpc: createRpc(url, secretKey, { timeoutMs: TIMEOUT_MS }),
  userRpc: (bearer) => createRpc(url, apiKey, { bearer }),
  secretKeys,
  secrets: await createSecretBox(required(Deno.env, 'BALCAO_ENCRYPTION_KEYS')),
  files: createBackupFiles({ url, secretKey }),
  randomBytes: (length) => crypto.getRandomValues(new Uint8Array(length)),
  background: inBackground,
  cronSecret: Deno.env.get('BALCAO_CRON_SECRET'),
  webhookBaseUrl: `${publicUrl}/functions/v1/whatsapp-webhook/meta`,
  wake: createWake({ url, secretKey, background: inBackground, log }),
  log,
}))
