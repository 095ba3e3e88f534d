// Requests of an administrator's app, from a browser as well: a user's bearer token goes on to the Data API, where one
// function decides what its owner may do; the secret key acts as the platform. What the database refuses, the caller is
// told.
import { bearerOf, hasSecretKey } from './caller.ts'
import { HttpError, parseJson, readBytes, requireJsonType } from './http.ts'
import { type Rpc, RpcError } from './rpc.ts'

const BODY_LIMIT = 1024 * 1024

// supabase-js in a browser asks first.
const CORS_HEADERS = {
  'access-control-allow-origin': '*',
  'access-control-allow-headers': 'authorization, apikey, content-type, x-client-info',
  'access-control-allow-methods': 'POST, PATCH, DELETE, OPTIONS',
  'access-control-max-age': '86400',
}

// The others that the database raises are 400, or 404 by their name.
const STATUS_OF_ERROR: Readonly<Record<string, number>> = {
  not_authenticated: 401,
  not_allowed: 403,
  instance_exists: 409,
  instance_disconnected: 409,
  too_many_endpoints: 409,
  too_many_backups: 409,
  backup_running: 409,
  backup_lease_lost: 409,
  organization_exists: 409,
  restore_running: 409,
  schema_mismatch: 409,
  members_missing: 409,
  restore_refused: 409,
}

export interface Callers {
  /** With the secret key. */
  platformRpc: Rpc
  /** In the name of a user, whose request this is. */
  userRpc: (bearer: string, request: Request) => Rpc | Promise<Rpc>
  /** Keys that prove a caller to be the platform. */
  secretKeys: readonly string[]
}

export interface Caller {
  isPlatform: boolean
  rpc: Rpc
}

export async function callerOf(
  request: Request,
  { platformRpc, userRpc, secretKeys }: Callers,
): Promise<Caller> {
  if (await hasSecretKey(request, secretKeys)) return { isPlatform: true, rpc: platformRpc }
  const bearer = bearerOf(request)
  if (bearer === undefined) {
    throw new HttpError(401, 'not_authenticated', "Send a user's access token as bearer, or the secret key")
  }
  return { isPlatform: false, rpc: await userRpc(bearer, request) }
}

/** Calls in the caller's name. */
export async function call(caller: Caller, name: string, args: Record<string, unknown>): Promise<unknown> {
  try {
    return await caller.rpc(name, args)
  } catch (error) {
    throw error instanceof RpcError ? refusal(error, caller) ?? error : error
  }
}

export async function jsonOf(request: Request): Promise<unknown> {
  requireJsonType(request)
  return parseJson(await readBytes(request, BODY_LIMIT))
}

/** The same handler, for browsers too: whatever it answers, their scripts may read it. */
export function withCors(
  handle: (request: Request) => Promise<Response>,
): (request: Request) => Promise<Response> {
  return async (request) => {
    const response = await handle(request)
    for (const [name, value] of Object.entries(CORS_HEADERS)) response.headers.set(name, value)
    return response
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
  return STATUS_OF_ERROR[error] ?? (error.endsWith('_not_found') ? 404 : 400)
}
