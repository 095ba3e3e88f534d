// An organization's program shows its API key and gets a token for an hour or so, with which it uses the same API under the
// same policies as everybody else. The key is looked up by its SHA-256: how long that takes says nothing about any key.
import { encodeHex } from 'deno-std/encoding/hex.js'
import { z } from 'zod'
import { networkOf } from '../_shared/address.ts'
import { answering } from '../_shared/answer.ts'
import { bearerOf } from '../_shared/caller.ts'
import { HttpError, methodNotAllowed, pathBelow } from '../_shared/http.ts'
import type { Log } from '../_shared/log.ts'
import { type RateLimit, tooManyRequests } from '../_shared/rate-limit.ts'
import { RpcError } from '../_shared/rpc.ts'
import { AuthFailure, type Session } from './auth.ts'
import { type Dependencies as MachineDependencies, type MachineUser, signIn } from './machine-user.ts'

export interface Dependencies extends MachineDependencies {
  /** Of one address, before the database is asked. */
  limit: RateLimit
  now: () => number
  log: Log
}

const found = z.discriminatedUnion('outcome', [
  z.object({
    outcome: z.literal('granted'),
    organization_id: z.guid(),
    api_key_id: z.guid(),
    role: z.string(),
    expires_at: z.string().nullable(),
    user_id: z.guid(),
    email: z.string(),
    password: z.string().nullable(),
    is_member: z.boolean(),
  }),
  z.object({ outcome: z.literal('rate_limited'), retry_after: z.number() }),
  z.object({ outcome: z.literal('unknown') }),
  z.object({ outcome: z.literal('expired') }),
  z.object({ outcome: z.literal('organization_inactive') }),
])

type Granted = Extract<z.infer<typeof found>, { outcome: 'granted' }>

interface Given {
  accessToken: string
  expiresAt: number
}

// Auth counts sign-ins and keeps a session for each: who asks again soon gets the same token.
const TOKENS = 1_000

export function createHandler(
  { limit, now, log, ...dependencies }: Dependencies,
): (request: Request) => Promise<Response> {
  const given = new Map<string, Given & { usefulUntil: number }>()

  return answering(async (request, notes) => {
    if (pathBelow('token', new URL(request.url)).length > 0) {
      throw new HttpError(404, 'not_found', 'There is nothing here')
    }
    if (request.method !== 'POST') throw methodNotAllowed('POST')
    const network = networkOf(request)
    limit.take(network)
    const key = bearerOf(request)
    if (key === undefined) throw new HttpError(401, 'not_authenticated', 'Send an API key as bearer')

    const answer = found.parse(
      await dependencies.rpc('exchange_api_key', { key_hash: await sha256(key), address: network }),
    )
    notes['outcome'] = answer.outcome
    switch (answer.outcome) {
      case 'granted':
        notes['organization_id'] = answer.organization_id
        notes['api_key_id'] = answer.api_key_id
        return described(answer, await tokenOf(answer))
      case 'rate_limited':
        throw tooManyRequests(answer.retry_after)
      case 'unknown':
        throw invalidKey()
      case 'expired':
        throw new HttpError(401, 'api_key_expired', 'This API key has expired')
      case 'organization_inactive':
        throw new HttpError(403, 'organization_inactive', 'The organization of this API key is not active')
      default:
        return answer satisfies never
    }
  }, log)

  function described({ organization_id, role, expires_at }: Granted, token: Given): Response {
    const endsAt = Math.min(token.expiresAt, expires_at === null ? Infinity : Date.parse(expires_at))
    return Response.json({
      access_token: token.accessToken,
      token_type: 'bearer',
      expires_in: Math.max(0, Math.floor((endsAt - now()) / 1000)),
      organization_id,
      role,
    })
  }

  async function tokenOf(user: MachineUser): Promise<Given> {
    const known = given.get(user.api_key_id)
    if (user.is_member && known !== undefined && now() < known.usefulUntil) return known
    const askedAt = now()
    const { accessToken, lifetimeMs } = await signedIn(user)
    const token = { accessToken, expiresAt: askedAt + lifetimeMs, usefulUntil: askedAt + lifetimeMs / 2 }
    given.delete(user.api_key_id)
    given.set(user.api_key_id, token)
    const [oldest] = given.keys()
    if (given.size > TOKENS && oldest !== undefined) given.delete(oldest)
    return token
  }

  async function signedIn(user: MachineUser): Promise<Session> {
    try {
      return await signIn(user, dependencies)
    } catch (error) {
      // Revoked a moment ago.
      if (error instanceof RpcError && error.error === 'api_key_not_found') throw invalidKey()
      if (!(error instanceof AuthFailure)) throw error
      log('error', 'machine user not signed in', { api_key_id: user.api_key_id, error: error.message })
      throw new HttpError(503, 'auth_unavailable', 'Signing in is not possible at the moment; try again', {
        'retry-after': error.retryAfter ?? '5',
      })
    }
  }
}

function invalidKey(): HttpError {
  return new HttpError(401, 'invalid_api_key', 'There is no such API key, or it was revoked')
}

async function sha256(text: string): Promise<string> {
  return encodeHex(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text)))
}
