// Registering a receiver of an organization's events, changing it, removing it. Its signing secret is made here, shown
// in this one answer and kept sealed. A user's bearer token goes on to the Data API, where one function decides what
// its owner may do.
import { encodeBase64 } from 'deno-std/encoding/base64.js'
import { z } from 'zod'
import { answering, type Notes } from '../_shared/answer.ts'
import { bearerOf, hasSecretKey } from '../_shared/caller.ts'
import {
  HttpError,
  methodNotAllowed,
  parseJson,
  pathBelow,
  readBytes,
  requireJsonType,
} from '../_shared/http.ts'
import type { Log } from '../_shared/log.ts'
import {
  parseReceiverUrl,
  RefusedAddress,
  requirePublicHost,
  type Resolve,
} from '../_shared/public-address.ts'
import { type Rpc, RpcError } from '../_shared/rpc.ts'
import type { SecretBox } from '../_shared/secrets.ts'
import { checked, createSchema, deleteSchema, updateSchema } from './requests.ts'

const BODY_LIMIT = 1024 * 1024
const RESOLVE_TIMEOUT_MS = 5_000
// Standard Webhooks asks for 24 to 64.
const SECRET_BYTES = 32

// supabase-js in a browser asks first.
const CORS_HEADERS = {
  'access-control-allow-origin': '*',
  'access-control-allow-headers': 'authorization, apikey, content-type, x-client-info',
  'access-control-allow-methods': 'POST, PATCH, DELETE, OPTIONS',
  'access-control-max-age': '86400',
}

export interface Dependencies {
  /** With the secret key. */
  platformRpc: Rpc
  /** In the name of a user. */
  userRpc: (bearer: string) => Rpc
  /** Keys that prove a caller to be the platform. */
  secretKeys: readonly string[]
  secrets: SecretBox
  resolve: Resolve
  randomBytes: (length: number) => Uint8Array<ArrayBuffer>
  allowLoopback: boolean
  log: Log
}

interface Caller {
  isPlatform: boolean
  rpc: Rpc
}

const endpointAnswer = z.looseObject({ id: z.guid() })

export function createHandler(
  { platformRpc, userRpc, secretKeys, secrets, resolve, randomBytes, allowLoopback, log }: Dependencies,
): (request: Request) => Promise<Response> {
  const handle = answering(async (request, notes) => {
    const url = new URL(request.url)
    if (pathBelow('manage-webhook', url).length > 0) {
      throw new HttpError(404, 'not_found', 'There is nothing here')
    }
    if (request.method === 'OPTIONS') return new Response(null, { status: 204 })

    const caller = await callerOf(request)
    notes['caller'] = caller.isPlatform ? 'platform' : 'user'
    switch (request.method) {
      case 'POST':
        return await create(caller, await jsonOf(request), notes)
      case 'PATCH':
        return await update(caller, await jsonOf(request), notes)
      case 'DELETE': {
        const query = Object.fromEntries(url.searchParams)
        return await remove(caller, url.search === '' ? await jsonOf(request) : query, notes)
      }
      default:
        throw methodNotAllowed('POST, PATCH, DELETE, OPTIONS')
    }
  }, log)

  return async (request) => {
    const response = await handle(request)
    for (const [name, value] of Object.entries(CORS_HEADERS)) response.headers.set(name, value)
    return response
  }

  async function create(caller: Caller, body: unknown, notes: Notes): Promise<Response> {
    const { organization_id, url, event_types, description = null } = checked(createSchema, body)
    notes['organization_id'] = organization_id
    const secret = newSecret()
    const endpoint = await call(caller, 'create_webhook_endpoint', {
      organization_id,
      endpoint_id: crypto.randomUUID(),
      url: await allowedUrl(url),
      event_types,
      description,
      secret: await sealed(secret, organization_id),
    })
    return describe(endpoint, notes, 201, { secret })
  }

  async function update(caller: Caller, body: unknown, notes: Notes): Promise<Response> {
    const { url, rotate_secret, ...changes } = checked(updateSchema, body)
    notes['organization_id'] = changes.organization_id
    const secret = rotate_secret ? newSecret() : undefined
    const endpoint = await call(caller, 'update_webhook_endpoint', {
      ...changes,
      ...(url === undefined ? {} : { url: await allowedUrl(url) }),
      ...(secret === undefined ? {} : { new_secret: await sealed(secret, changes.organization_id) }),
    })
    return describe(endpoint, notes, 200, secret === undefined ? {} : { secret })
  }

  async function remove(caller: Caller, body: unknown, notes: Notes): Promise<Response> {
    const target = checked(deleteSchema, body)
    notes['organization_id'] = target.organization_id
    return describe(await call(caller, 'delete_webhook_endpoint', target), notes, 200)
  }

  function describe(
    answer: unknown,
    notes: Notes,
    status: number,
    shown: { secret?: string } = {},
  ): Response {
    const endpoint = endpointAnswer.parse(answer)
    notes['endpoint_id'] = endpoint.id
    return Response.json({ endpoint, ...shown }, { status, headers: { 'cache-control': 'no-store' } })
  }

  /** As it will be called: the spelling that was checked is the one that is kept. */
  async function allowedUrl(text: string): Promise<string> {
    const refuse = (reason: string) => new HttpError(400, 'invalid_url', `url: ${reason}`)
    try {
      const url = parseReceiverUrl(text, { allowLoopback })
      await requirePublicHost(url, resolve, { allowLoopback }, AbortSignal.timeout(RESOLVE_TIMEOUT_MS))
        // A host that nobody knows gets the same answer as one that only our network knows.
        .catch(() => Promise.reject(refuse('the host has no address on the public internet')))
      return url.href
    } catch (error) {
      throw error instanceof RefusedAddress ? refuse(error.message) : error
    }
  }

  function newSecret(): string {
    return `whsec_${encodeBase64(randomBytes(SECRET_BYTES))}`
  }

  function sealed(secret: string, organizationId: string): Promise<string> {
    return secrets.seal(secret, { organizationId, purpose: 'webhook_endpoint.secret' })
  }

  async function callerOf(request: Request): Promise<Caller> {
    if (await hasSecretKey(request, secretKeys)) return { isPlatform: true, rpc: platformRpc }
    const bearer = bearerOf(request)
    if (bearer === undefined) {
      throw new HttpError(401, 'not_authenticated', "Send a user's access token as bearer, or the secret key")
    }
    return { isPlatform: false, rpc: userRpc(bearer) }
  }
}

async function jsonOf(request: Request): Promise<unknown> {
  requireJsonType(request)
  return parseJson(await readBytes(request, BODY_LIMIT))
}

/** Calls in the caller's name: what the database refuses, the caller is told. */
async function call(caller: Caller, name: string, args: Record<string, unknown>): Promise<unknown> {
  try {
    return await caller.rpc(name, args)
  } catch (error) {
    throw error instanceof RpcError ? refusal(error, caller) ?? error : error
  }
}

/** Null: it is not the caller's fault. */
function refusal({ status, code, message, error }: RpcError, { isPlatform }: Caller): HttpError | null {
  if (error !== null && code.startsWith('BL')) return new HttpError(statusOf(error), error, message)
  if (isPlatform) return null
  // Without execute right PostgREST answers 401 to anon and 403 to a user.
  if (status === 401) {
    return new HttpError(401, 'not_authenticated', 'The bearer token is not valid, or has expired')
  }
  if (status === 403) return new HttpError(403, 'not_allowed', 'Your role does not allow this')
  return null
}

function statusOf(error: string): number {
  if (error === 'not_authenticated') return 401
  if (error === 'not_allowed') return 403
  if (error.endsWith('_not_found')) return 404
  if (error === 'too_many_endpoints') return 409
  return 400
}
