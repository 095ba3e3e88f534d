// Registering a receiver of an organization's events, changing it, removing it. Its signing secret is made here, shown
// in this one answer and kept sealed.
import { encodeBase64 } from 'deno-std/encoding/base64.js'
import { z } from 'zod'
import { answering, type Notes } from '../_shared/answer.ts'
import { call, type Caller, callerOf, type Callers, jsonOf, withCors } from '../_shared/app-request.ts'
import { HttpError, methodNotAllowed, pathBelow } from '../_shared/http.ts'
import type { Log } from '../_shared/log.ts'
import {
  parseReceiverUrl,
  RefusedAddress,
  requirePublicHost,
  type Resolve,
} from '../_shared/public-address.ts'
import type { SecretBox } from '../_shared/secrets.ts'
import { checked, createSchema, deleteSchema, updateSchema } from './requests.ts'

const RESOLVE_TIMEOUT_MS = 5_000
// Standard Webhooks asks for 24 to 64.
const SECRET_BYTES = 32

export interface Dependencies extends Callers {
  secrets: SecretBox
  resolve: Resolve
  randomBytes: (length: number) => Uint8Array<ArrayBuffer>
  allowLoopback: boolean
  log: Log
}

const endpointAnswer = z.looseObject({ id: z.guid() })

export function createHandler(
  { secrets, resolve, randomBytes, allowLoopback, log, ...callers }: Dependencies,
): (request: Request) => Promise<Response> {
  return withCors(answering(async (request, notes) => {
    const url = new URL(request.url)
    if (pathBelow('manage-webhook', url).length > 0) {
      throw new HttpError(404, 'not_found', 'There is nothing here')
    }
    if (request.method === 'OPTIONS') return new Response(null, { status: 204 })

    const caller = await callerOf(request, callers)
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
  }, log))

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
}
