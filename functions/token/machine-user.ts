// The machine user behind a key. His login is made at the key's first exchange, and again where it is missing: in a project
// into which a tenant was restored, or after somebody deleted it. Every step may be the last one before a crash, and may run
// beside itself: whoever begins first chooses the password, and from there on all do the same.
import { encodeBase64Url } from 'deno-std/encoding/base64url.js'
import { z } from 'zod'
import type { Rpc } from '../_shared/rpc.ts'
import type { SecretBox } from '../_shared/secrets.ts'
import { type AuthApi, AuthFailure, type Session } from './auth.ts'

export interface MachineUser {
  organization_id: string
  api_key_id: string
  user_id: string
  email: string
  /** Sealed; null before the first exchange. */
  password: string | null
  is_member: boolean
}

export interface Dependencies {
  rpc: Rpc
  secrets: SecretBox
  auth: AuthApi
  randomBytes: (length: number) => Uint8Array<ArrayBuffer>
}

export async function signIn(
  user: MachineUser,
  { rpc, secrets, auth, randomBytes }: Dependencies,
): Promise<Session> {
  const place = { organizationId: user.organization_id, purpose: 'api_key.password' } as const
  const key = { organization_id: user.organization_id, api_key_id: user.api_key_id }

  const password = await knownPassword()
  const session = user.is_member ? await auth.signIn(user.email, password) : null
  if (session !== null) return session

  await auth.ensureLogin({
    id: user.user_id,
    email: user.email,
    password,
    metadata: { balcao_api_key_id: user.api_key_id, balcao_organization_id: user.organization_id },
  })
  await rpc('admit_api_key', key)
  const first = await auth.signIn(user.email, password)
  if (first === null) {
    throw new AuthFailure('A machine user cannot sign in: is the e-mail provider off, or is he banned?')
  }
  return first

  async function knownPassword(): Promise<string> {
    const kept = user.password ?? await keepNew(null)
    const opened = await secrets.open(kept, place).catch(() => null)
    if (opened !== null) return opened
    // Its encryption key is gone: there is nothing to lose but the password.
    return await secrets.open(await keepNew(kept), place)
  }

  /** The one that counts, which may be another's. */
  async function keepNew(replaces: string | null): Promise<string> {
    const sealed = await secrets.seal(newPassword(randomBytes), place)
    return z.string().parse(await rpc('keep_api_key_password', { ...key, password: sealed, replaces }))
  }
}

/** 256 random bits, and one character of each kind that a project's rules may ask for. */
function newPassword(randomBytes: Dependencies['randomBytes']): string {
  return `${encodeBase64Url(randomBytes(32))}aA1!`
}
