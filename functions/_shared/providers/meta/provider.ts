// Meta's WhatsApp Cloud API as a provider. The key in the address is the app's: Meta signs with the app's secret.
import { HttpError } from '../../http.ts'
import { sameSecret } from '../../secrets.ts'
import type { Provider } from '../provider.ts'
import type { MetaApp, MetaApps } from './apps.ts'
import { testConnection } from './connection.ts'
import type { Graph } from './graph.ts'
import { fetchMedia } from './media.ts'
import { parse } from './parse.ts'
import { send } from './send.ts'
import { isSignedBy, signatureBytes } from './signature.ts'

const APP_KEY = /^[A-Za-z0-9_-]{16,64}$/

export function createMetaProvider(
  { apps, graph, now = () => new Date() }: { apps: MetaApps; graph: Graph; now?: () => Date },
): Provider {
  return {
    name: 'meta_cloud',

    needsLookUp: (appKey) => APP_KEY.test(appKey) && apps.needsLookUp(appKey),

    // Who waits for it hears of a failure.
    lookUp: (appKey) => void apps.find(appKey).catch(() => undefined),

    async handshake(appKey, query) {
      const app = await knownApp(appKey)
      const challenge = query.get('hub.challenge')
      const token = query.get('hub.verify_token')
      const accepted = query.get('hub.mode') === 'subscribe' && challenge !== null && token !== null &&
        await withApp(app, appKey, ({ verifyToken }) => sameSecret(token, verifyToken))
      if (!accepted) throw new HttpError(403, 'wrong_verify_token', "The verify token is not this app's")
      return challenge
    },

    async verify(appKey, headers, body) {
      const app = await knownApp(appKey)
      const header = headers.get('x-hub-signature-256')
      const signature = signatureBytes(header)
      const accepted = header !== null && signature !== null &&
        await withApp(app, appKey, ({ signatureKey }) => isSignedBy(signatureKey, signature, body))
      if (!accepted) {
        throw new HttpError(401, 'wrong_signature', "X-Hub-Signature-256 is not this app's signature")
      }
      return header
    },

    parse,

    send: (message, credentials, signal) => send(graph, message, credentials, signal, now),

    fetchMedia: (media, limit, credentials, signal) =>
      fetchMedia(graph, media, limit, credentials, signal, now),

    testConnection: (credentials) => testConnection(graph, credentials),
  }

  async function knownApp(appKey: string): Promise<MetaApp> {
    const app = APP_KEY.test(appKey) ? await apps.find(appKey) : null
    if (app === null) throw new HttpError(404, 'app_not_found', 'No such app')
    return app
  }

  /** A secret that was just rotated is accepted at once, although the isolate remembers the old one. */
  async function withApp(
    app: MetaApp,
    appKey: string,
    check: (app: MetaApp) => Promise<boolean>,
  ): Promise<boolean> {
    if (await check(app)) return true
    const current = await apps.findAgain(appKey)
    return current !== null && current !== app && await check(current)
  }
}
