// Who attends: the members of a tenant, in whose name the attendant's side asks.

import { z } from 'zod'
import { signJwt } from '../api-keys.ts'
import type { Rest } from './rest.ts'

export interface Member {
  user_id: string
  name: string
  role: 'attendant' | 'admin' | 'owner'
}

const TOKEN_LIVES_SECONDS = 60

const memberRow = z.object({ user_id: z.string(), role: z.enum(['attendant', 'admin', 'owner']) })
const profileRow = z.object({
  user_id: z.string(),
  first_name: z.string().nullable(),
  last_name: z.string().nullable(),
})
const ORDER: Member['role'][] = ['attendant', 'admin', 'owner']

/** Whoever may answer customers, attendants first. */
export async function membersOf(platform: Rest, organizationId: string): Promise<Member[]> {
  const members = await platform.select('user_roles', {
    select: 'user_id,role',
    organization_id: `eq.${organizationId}`,
    is_active: 'is.true',
    role: 'in.(attendant,admin,owner)',
    order: 'created_at',
    limit: '50',
  }, memberRow)
  if (members.length === 0) return []
  const profiles = await platform.select('profiles', {
    select: 'user_id,first_name,last_name',
    user_id: `in.(${members.map(({ user_id }) => user_id).join()})`,
  }, profileRow)
  return members
    .map((member) => ({ ...member, name: nameOf(profiles.find(({ user_id }) => user_id === member.user_id)) }))
    .sort((one, other) => ORDER.indexOf(one.role) - ORDER.indexOf(other.role))
}

/** An access token as the auth server gives one to who signs in; on this machine we hold its secret. */
export function tokenOf(userId: string, jwtSecret: string, now: Date): string {
  const seconds = Math.floor(now.getTime() / 1000)
  return signJwt({
    sub: userId,
    role: 'authenticated',
    aud: 'authenticated',
    iat: seconds,
    exp: seconds + TOKEN_LIVES_SECONDS,
  }, jwtSecret)
}

function nameOf(profile: z.output<typeof profileRow> | undefined): string {
  return [profile?.first_name, profile?.last_name].filter((part) => part).join(' ') || 'Sem nome'
}
