// The part of GoTrue's admin API that our functions call, which the auth server has not got: logins made, changed and looked
// up with the secret key. POST /auth/v1/admin/users, GET and PUT /auth/v1/admin/users/<id>; its shapes and its errors.

import { randomUUID } from 'node:crypto'
import postgres from 'postgres'
import { z } from 'zod'
import { claimsOf } from './api-keys.ts'
import type { Secrets } from './data-directory.ts'
import type { DatabaseUrls } from './database.ts'

export interface AuthAdmin {
  /** Null: the request is none of the admin API's. */
  answer(request: Request): Promise<Response | null>
  close(): Promise<void>
}

const PATH = /^\/auth\/v1\/admin\/users(?:\/([^/]+))?$/

const attributes = {
  email: z.email().transform((email) => email.toLowerCase()).optional(),
  // bcrypt reads no further.
  password: z.string().min(6).max(72).optional(),
  email_confirm: z.boolean().default(false),
  app_metadata: z.record(z.string(), z.unknown()).default({}),
  user_metadata: z.record(z.string(), z.unknown()).default({}),
}
const newUser = z.object({ id: z.guid().optional(), ...attributes })
const changes = z.object(attributes)

export function authAdmin(urls: DatabaseUrls, secrets: Secrets): AuthAdmin {
  // As superuser: passwords are hashed by pgcrypto, which the auth server's own role may not use.
  const sql = postgres(urls.admin, { max: 2, idle_timeout: 5, onnotice: () => undefined })

  async function create(body: unknown): Promise<Response> {
    const user = newUser.parse(body)
    if (user.email === undefined) {
      return refusal(422, 'validation_failed', 'Cannot create a user without either an email or phone')
    }
    const { email, password = randomUUID() } = user
    const id = user.id ?? randomUUID()
    const taken = () =>
      refusal(422, 'email_exists', 'A user with this email address has already been registered')
    if ((await sql`select from auth.users u where u.email = ${email}`).length > 0) return taken()
    try {
      await sql.begin(async (transaction) => {
        await transaction`
          insert into auth.users (id, email, encrypted_password, email_confirmed_at, raw_app_meta_data, raw_user_meta_data)
          values (
            ${id}, ${email}, extensions.crypt(${password}, extensions.gen_salt('bf', 10)),
            ${user.email_confirm ? new Date() : null},
            ${sql.json(asJson({ provider: 'email', providers: ['email'], ...user.app_metadata }))},
            ${sql.json(asJson(user.user_metadata))})`
        await transaction`
          insert into auth.identities (id, provider, provider_id, user_id, identity_data)
          values (${randomUUID()}, 'email', ${id}, ${id}, ${
          sql.json({ email, sub: id, email_verified: user.email_confirm })
        })`
      })
    } catch (error) {
      // By somebody who did the same at the same time.
      if (error instanceof postgres.PostgresError && error.code === '23505') return taken()
      throw error
    }
    return await read(id)
  }

  async function update(id: string, body: unknown): Promise<Response> {
    const { email = null, password = null, email_confirm, app_metadata, user_metadata } = changes.parse(body)
    await sql`
      update auth.users u
      set email = coalesce(${email}, u.email),
          encrypted_password = coalesce(extensions.crypt(${password}::text, extensions.gen_salt('bf', 10)), u.encrypted_password),
          email_confirmed_at = case when ${email_confirm} then coalesce(u.email_confirmed_at, now()) else u.email_confirmed_at end,
          raw_app_meta_data = u.raw_app_meta_data || ${sql.json(asJson(app_metadata))},
          raw_user_meta_data = u.raw_user_meta_data || ${sql.json(asJson(user_metadata))},
          updated_at = now()
      where u.id = ${id}`
    return await read(id)
  }

  async function read(id: string): Promise<Response> {
    const [user] = await sql`
      select u.id, u.aud, u.role, u.email, u.email_confirmed_at, u.confirmed_at, u.last_sign_in_at, u.created_at, u.updated_at,
        u.raw_app_meta_data as app_metadata, u.raw_user_meta_data as user_metadata
      from auth.users u
      where u.id = ${id}`
    return user === undefined ? refusal(404, 'user_not_found', 'User not found') : Response.json(user)
  }

  function isAdmin(request: Request): boolean {
    const bearer = /^Bearer\s+(\S+)$/i.exec(request.headers.get('authorization') ?? '')?.[1] ?? ''
    // The gateway has checked the key and put it there, unless somebody's own token goes before it.
    return bearer === secrets.secretKey ||
      claimsOf(bearer, secrets.jwtSecret, Date.now() / 1000)?.role === 'service_role'
  }

  return {
    async answer(request) {
      const match = PATH.exec(new URL(request.url).pathname)
      if (match === null) return null
      if (!isAdmin(request)) return refusal(403, 'not_admin', 'User not allowed')
      const id = match[1]
      if (id !== undefined && !z.guid().safeParse(id).success) {
        return refusal(404, 'validation_failed', 'user_id must be an UUID')
      }
      try {
        if (id === undefined && request.method === 'POST') return await create(await request.json())
        if (id !== undefined && request.method === 'PUT') return await update(id, await request.json())
        if (id !== undefined && request.method === 'GET') return await read(id)
      } catch (error) {
        if (error instanceof z.ZodError || error instanceof SyntaxError) {
          return refusal(400, 'validation_failed', 'The body is not what this endpoint takes')
        }
        throw error
      }
      return refusal(405, 'not_imitated', `${request.method} is not imitated here`)
    },
    close: () => sql.end({ timeout: 1 }),
  }
}

function refusal(code: number, error_code: string, msg: string): Response {
  return Response.json({ code, error_code, msg }, { status: code })
}

/** What came as JSON is JSON. */
function asJson(value: Record<string, unknown>): postgres.JSONValue {
  return value as postgres.JSONValue
}
