// The Meta apps that sign deliveries. Each isolate remembers for some seconds what it looked up, so that a delivery
// costs no second round trip.
import { z } from 'zod'
import type { Rpc } from '../../rpc.ts'
import type { SecretBox } from '../../secrets.ts'
import { signatureKey } from './signature.ts'

export interface MetaApp {
  signatureKey: CryptoKey
  verifyToken: string
}

export interface MetaApps {
  /** Whether find() would ask the database. */
  needsLookUp(appKey: string): boolean
  /** Null: no such app. */
  find(appKey: string): Promise<MetaApp | null>
  /** Looks again, but at most once per second and app. */
  findAgain(appKey: string): Promise<MetaApp | null>
}

const KNOWN_FOR_MS = 30_000
const UNKNOWN_FOR_MS = 2_000
const LOOK_AGAIN_AFTER_MS = 1_000
// Strangers can ask for any key; they shall not fill the memory.
const CACHE_SIZE = 1_000

const storedApp = z.object({
  organization_id: z.guid().nullable(),
  app_secret: z.string(),
  verify_token: z.string(),
})

interface Entry {
  app: Promise<MetaApp | null>
  lookedUpAt: number
  freshUntil: number
}

export function createMetaApps(
  { rpc, secrets, now = Date.now }: { rpc: Rpc; secrets: SecretBox; now?: () => number },
): MetaApps {
  const cache = new Map<string, Entry>()

  function lookUp(appKey: string): Promise<MetaApp | null> {
    const lookedUpAt = now()
    const entry: Entry = { app: fetchApp(appKey), lookedUpAt, freshUntil: lookedUpAt + KNOWN_FOR_MS }
    cache.delete(appKey)
    cache.set(appKey, entry)
    const [oldest] = cache.keys()
    if (cache.size > CACHE_SIZE && oldest !== undefined) cache.delete(oldest)

    entry.app.then(
      (app) => {
        if (app === null) entry.freshUntil = lookedUpAt + UNKNOWN_FOR_MS
      },
      // A failure is no answer: the next delivery asks again.
      () => {
        if (cache.get(appKey) === entry) cache.delete(appKey)
      },
    )
    return entry.app
  }

  async function fetchApp(appKey: string): Promise<MetaApp | null> {
    const row = storedApp.nullable().parse(await rpc('get_meta_app', { app_key: appKey }))
    if (row === null) return null
    const organizationId = row.organization_id
    const [appSecret, verifyToken] = await Promise.all([
      secrets.open(row.app_secret, { organizationId, purpose: 'meta_app.app_secret' }),
      secrets.open(row.verify_token, { organizationId, purpose: 'meta_app.verify_token' }),
    ])
    return { signatureKey: await signatureKey(appSecret), verifyToken }
  }

  function fresh(appKey: string): Entry | undefined {
    const entry = cache.get(appKey)
    return entry !== undefined && now() < entry.freshUntil ? entry : undefined
  }

  return {
    needsLookUp: (appKey) => fresh(appKey) === undefined,

    find: (appKey) => fresh(appKey)?.app ?? lookUp(appKey),

    findAgain(appKey) {
      const entry = cache.get(appKey)
      return entry !== undefined && now() < entry.lookedUpAt + LOOK_AGAIN_AFTER_MS
        ? entry.app
        : lookUp(appKey)
    },
  }
}
