// API keys as hosted Supabase has them: opaque publishable and secret keys, and the legacy anon and service_role tokens.

import { createHmac, timingSafeEqual } from 'node:crypto'
import type { Secrets } from './data-directory.ts'

export interface ApiKeys {
  publishable: string
  secret: string
  /** Legacy: HS256 tokens that are keys. */
  anon: string
  serviceRole: string
}

/** A key stands for a role; `bearer` is the user's own Authorization, which goes before it. */
export type KeyCheck =
  | { role: 'anon' | 'service_role'; bearer: string | null }
  | { refused: { message: string; hint: string } }

const LEGACY_ISSUED_AT = 1_767_225_600 // 2026-01-01: the same secret gives the same keys at every start.
const LEGACY_EXPIRES_AT = LEGACY_ISSUED_AT + 10 * 365 * 24 * 3600

export function apiKeys(secrets: Secrets): ApiKeys {
  const legacy = (role: string) =>
    signJwt(
      { iss: 'supabase', ref: 'balcao', role, iat: LEGACY_ISSUED_AT, exp: LEGACY_EXPIRES_AT },
      secrets.jwtSecret,
    )
  return {
    publishable: secrets.publishableKey,
    secret: secrets.secretKey,
    anon: legacy('anon'),
    serviceRole: legacy('service_role'),
  }
}

export function keyChecker(keys: ApiKeys) {
  const roleOf = new Map<string, 'anon' | 'service_role'>([
    [keys.publishable, 'anon'],
    [keys.anon, 'anon'],
    [keys.secret, 'service_role'],
    [keys.serviceRole, 'service_role'],
  ])
  return ({ apikey, authorization, userAgent }: {
    apikey: string | undefined
    authorization: string | undefined
    userAgent: string | undefined
  }): KeyCheck => {
    if (!apikey) {
      return refusal('No API key found in request', 'No `apikey` request header or url param was found.')
    }
    const role = roleOf.get(apikey)
    if (role === undefined) {
      return refusal('Invalid API key', 'Double check your Supabase `anon` or `service_role` API key.')
    }
    if (apikey === keys.secret && /^\s*mozilla\/5\.0/i.test(userAgent ?? '')) {
      return refusal(
        'Forbidden use of secret API key in browser',
        'Secret API keys can only be used in a protected environment and should never be used in a browser.',
      )
    }
    const bearer = bearerOf(authorization)
    if (bearer === null || bearer === apikey) return { role, bearer: null }
    if (bearer.startsWith('sb_')) {
      return refusal(
        'Invalid API key',
        'An opaque key in the Authorization header must be the one in `apikey`.',
      )
    }
    return { role, bearer }
  }
}

function refusal(message: string, hint: string): KeyCheck {
  return { refused: { message, hint } }
}

function bearerOf(authorization: string | undefined): string | null {
  return /^Bearer\s+(\S+)\s*$/i.exec(authorization ?? '')?.[1] ?? null
}

/** What `verify_jwt = true` asks of a request to a function. */
export function holdsValidJwt(authorization: string | undefined, secret: string, now: number): boolean {
  return claimsOf(bearerOf(authorization) ?? '', secret, now) !== null
}

/** What a token says that this secret signed and that is valid now (in seconds); null of any other. */
export function claimsOf(token: string, secret: string, now: number): Record<string, unknown> | null {
  const [header, payload, signature] = token.split('.')
  if (header === undefined || payload === undefined || signature === undefined) return null
  try {
    const { alg } = decode(header)
    if (alg !== 'HS256') return null
    const expected = hmac(`${header}.${payload}`, secret)
    const given = Buffer.from(signature, 'base64url')
    if (given.length !== expected.length || !timingSafeEqual(given, expected)) return null
    const claims = decode(payload)
    const { exp, nbf } = claims
    return (typeof exp !== 'number' || exp > now) && (typeof nbf !== 'number' || nbf <= now) ? claims : null
  } catch {
    return null
  }
}

export function signJwt(payload: Record<string, unknown>, secret: string): string {
  const encode = (part: object) => Buffer.from(JSON.stringify(part)).toString('base64url')
  const content = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(payload)}`
  return `${content}.${hmac(content, secret).toString('base64url')}`
}

function hmac(content: string, secret: string): Buffer {
  return createHmac('sha256', secret).update(content).digest()
}

function decode(part: string): Record<string, unknown> {
  const value: unknown = JSON.parse(Buffer.from(part, 'base64url').toString('utf8'))
  return typeof value === 'object' && value !== null ? { ...value } : {}
}
