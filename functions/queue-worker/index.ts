import { inBackground } from '../_shared/background.ts'
import { required, requiredUrl, supabaseEnv } from '../_shared/env.ts'
import { createLog } from '../_shared/log.ts'
import { createMetaApps } from '../_shared/providers/meta/apps.ts'
import { createGraph, graphSettings } from '../_shared/providers/meta/graph.ts'
import { createMetaProvider } from '../_shared/providers/meta/provider.ts'
import { systemResolve } from '../_shared/public-address.ts'
import { createRpc } from '../_shared/rpc.ts'
import { createSecretBox } from '../_shared/secrets.ts'
import { createWake } from '../_shared/wake.ts'
import { createHandler } from './handler.ts'
import { jobTypes } from './jobs.ts'
import { workerSettings } from './settings.ts'
import { createStorage } from './storage.ts'
import { startRun } from './work.ts'

const { url, secretKey, secretKeys } = supabaseEnv(Deno.env)
const publicUrl = Deno.env.get('BALCAO_PUBLIC_URL') ? requiredUrl(Deno.env, 'BALCAO_PUBLIC_URL') : url
const settings = workerSettings(Deno.env)
const secrets = await createSecretBox(required(Deno.env, 'BALCAO_ENCRYPTION_KEYS'))
const rpc = createRpc(url, secretKey)
const log = createLog('queue-worker')
const meta = createMetaProvider({
  apps: createMetaApps({ rpc, secrets }),
  graph: createGraph(graphSettings(Deno.env)),
})

const types = jobTypes({
  rpc,
  secrets,
  storage: createStorage({ url, secretKey, publicUrl }),
  functions: { url, secretKey },
  providers: new Map([[meta.name, meta]]),
  resolve: systemResolve,
  fetch,
  random: Math.random,
  allowLoopback: Deno.env.get('BALCAO_ALLOW_LOOPBACK_WEBHOOKS') === 'true',
})

const wake = createWake({ url, secretKey, background: inBackground, log })
const handler = createHandler({
  secrets: { secretKeys, cronSecret: Deno.env.get('BALCAO_CRON_SECRET') },
  startRun: (chosenTypes) => startRun({ rpc, jobTypes: types, settings, log, onFull: wake }, chosenTypes),
  background: inBackground,
  wake,
  log,
})

// The platform says so before it ends an isolate.
addEventListener('beforeunload', () => handler.stop())

Deno.serve(handler)
