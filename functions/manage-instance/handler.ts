// Connecting a WhatsApp number, rotating its secrets, testing it, disconnecting it. Secrets come in, are sealed here and
// go out to the number's provider only.
import { encodeBase64Url } from 'deno-std/encoding/base64url.js'
import { z } from 'zod'
import { answering, type Notes } from '../_shared/answer.ts'
import { call, type Caller, callerOf, type Callers, jsonOf, withCors } from '../_shared/app-request.ts'
import { HttpError, methodNotAllowed, pathBelow } from '../_shared/http.ts'
import type { Log } from '../_shared/log.ts'
import type { Connection } from '../_shared/providers/outbound-message.ts'
import type { Provider } from '../_shared/providers/provider.ts'
import type { Purpose, SecretBox } from '../_shared/secrets.ts'
import {
  checked,
  connectSchema,
  disconnectSchema,
  platformAppSchema,
  testSchema,
  updateSchema,
} from './requests.ts'

export interface Dependencies extends Callers {
  secrets: SecretBox
  /** By their name in the database. */
  providers: ReadonlyMap<string, Pick<Provider, 'testConnection'>>
  /** Where Meta reaches the functions. */
  publicUrl: string
  log: Log
}

const instanceAnswer = z.object({
  instance: z.looseObject({ id: z.guid(), provider: z.string(), external_id: z.string() }),
  app_key: z.string(),
})
const appAnswer = z.object({ app_key: z.string() })
const credentialsAnswer = z.object({
  provider: z.string(),
  external_id: z.string(),
  access_token: z.string(),
})

export function createHandler(
  { secrets, providers, publicUrl, log, ...callers }: Dependencies,
): (request: Request) => Promise<Response> {
  const webhookBaseUrl = `${publicUrl}/functions/v1/whatsapp-webhook/meta`

  return withCors(answering(async (request, notes) => {
    const url = new URL(request.url)
    const path = pathBelow('manage-instance', url).join('/')
    if (!['', 'platform-app', 'test'].includes(path)) {
      throw new HttpError(404, 'not_found', 'There is nothing here')
    }
    if (request.method === 'OPTIONS') return new Response(null, { status: 204 })

    const caller = await callerOf(request, callers)
    notes['caller'] = caller.isPlatform ? 'platform' : 'user'
    if (path === 'platform-app') {
      if (request.method !== 'POST') throw methodNotAllowed('POST, OPTIONS')
      if (!caller.isPlatform) throw new HttpError(403, 'not_allowed', 'This needs the secret key')
      return await registerPlatformApp(await jsonOf(request))
    }
    if (path === 'test') {
      if (request.method !== 'POST') throw methodNotAllowed('POST, OPTIONS')
      return await testStored(caller, await jsonOf(request), notes)
    }
    switch (request.method) {
      case 'POST':
        return await connect(caller, await jsonOf(request), notes)
      case 'PATCH':
        return await update(caller, await jsonOf(request), notes)
      case 'DELETE': {
        const query = Object.fromEntries(url.searchParams)
        return await disconnect(caller, url.search === '' ? await jsonOf(request) : query, notes)
      }
      default:
        throw methodNotAllowed('POST, PATCH, DELETE, OPTIONS')
    }
  }, log))

  async function connect(caller: Caller, body: unknown, notes: Notes): Promise<Response> {
    const { organization_id, access_token, app_key = null, meta_app, ...number } = checked(
      connectSchema,
      body,
    )
    notes['organization_id'] = organization_id
    const answer = await call(caller, 'connect_instance', {
      organization_id,
      instance_id: crypto.randomUUID(),
      ...number,
      access_token: await sealed(access_token, organization_id, 'instance.access_token'),
      app_key,
      meta_app: meta_app === undefined ? null : await newApp(meta_app, organization_id),
      webhook_base_url: webhookBaseUrl,
    })
    return await describe(answer, notes, 201, access_token)
  }

  async function update(caller: Caller, body: unknown, notes: Notes): Promise<Response> {
    const { organization_id, instance_id, name = null, phone_number = null, access_token, meta_app } =
      checked(
        updateSchema,
        body,
      )
    notes['organization_id'] = organization_id
    const answer = await call(caller, 'update_instance', {
      organization_id,
      instance_id,
      name,
      phone_number,
      access_token: await sealed(access_token, organization_id, 'instance.access_token'),
      app_secret: await sealed(meta_app?.app_secret, organization_id, 'meta_app.app_secret'),
      verify_token: await sealed(meta_app?.verify_token, organization_id, 'meta_app.verify_token'),
    })
    return await describe(answer, notes, 200, access_token)
  }

  async function disconnect(caller: Caller, body: unknown, notes: Notes): Promise<Response> {
    const instance = checked(disconnectSchema, body)
    notes['organization_id'] = instance.organization_id
    return await describe(await call(caller, 'disconnect_instance', instance), notes, 200)
  }

  /** The stored token leaves this function towards the provider only. */
  async function testStored(caller: Caller, body: unknown, notes: Notes): Promise<Response> {
    const instance = checked(testSchema, body)
    notes['organization_id'] = instance.organization_id
    notes['instance_id'] = instance.instance_id
    if (!caller.isPlatform) await call(caller, 'require_instance_admin', instance)
    const platform = { isPlatform: true, rpc: callers.platformRpc }
    const { provider, external_id, access_token } = credentialsAnswer.parse(
      await call(platform, 'get_instance_credentials', instance),
    )
    const token = await secrets.open(access_token, {
      organizationId: instance.organization_id,
      purpose: 'instance.access_token',
    })
    return Response.json({ connection: await connectionOf(provider, external_id, token, notes) })
  }

  async function connectionOf(
    provider: string,
    externalId: string,
    accessToken: string,
    notes: Notes,
  ): Promise<Connection> {
    const adapter = providers.get(provider)
    const connection = adapter === undefined
      ? { ok: false as const, code: 'provider_not_supported', message: `Nothing is known of ${provider}` }
      : await adapter.testConnection({ externalId, accessToken })
    notes['connection'] = connection.ok ? 'ok' : connection.code
    return connection
  }

  async function registerPlatformApp(body: unknown): Promise<Response> {
    const app = await newApp(checked(platformAppSchema, body), null)
    const { app_key } = appAnswer.parse(await callers.platformRpc('register_platform_meta_app', app))
    return Response.json({ app_key, webhook_url: webhookUrl(app_key) }, { status: 201 })
  }

  /** With a new token, also whether it works. What is stored stays stored: the provider may be away for a moment. */
  async function describe(
    answer: unknown,
    notes: Notes,
    status: number,
    accessToken?: string,
  ): Promise<Response> {
    const { instance, app_key } = instanceAnswer.parse(answer)
    notes['instance_id'] = instance.id
    const described = { instance, webhook_url: webhookUrl(app_key), app_key }
    if (accessToken === undefined) return Response.json(described, { status })
    const connection = await connectionOf(instance.provider, instance.external_id, accessToken, notes)
    return Response.json({ ...described, connection }, { status })
  }

  function webhookUrl(appKey: string): string {
    return `${webhookBaseUrl}/${appKey}`
  }

  /** The key in an app's address cannot be guessed: 128 random bits. */
  async function newApp(app: { app_secret: string; verify_token: string }, organizationId: string | null) {
    return {
      app_key: encodeBase64Url(crypto.getRandomValues(new Uint8Array(16))),
      app_secret: await sealed(app.app_secret, organizationId, 'meta_app.app_secret'),
      verify_token: await sealed(app.verify_token, organizationId, 'meta_app.verify_token'),
    }
  }

  /** Null stays "unchanged". */
  async function sealed(secret: string | undefined, organizationId: string | null, purpose: Purpose) {
    return secret === undefined ? null : await secrets.seal(secret, { organizationId, purpose })
  }
}
