// Supabase Auth, as far as a machine user needs it: its login is made with the secret key, and it signs in like anyone.
import { z } from 'zod'

const TIMEOUT_MS = 10_000

export interface Login {
  id: string
  email: string
  password: string
  /** Stands in every token of his. */
  metadata: Record<string, string>
}

export interface Session {
  accessToken: string
  /** Milliseconds. */
  lifetimeMs: number
}

export interface AuthApi {
  /** Null: there is no such login, or not with this password. */
  signIn(email: string, password: string): Promise<Session | null>
  /** Makes the login, or gives the one that is there this password. Doing it twice does no harm. */
  ensureLogin(login: Login): Promise<void>
}

/** Auth refused what it should not, or did not answer. Its words are for the log. */
export class AuthFailure extends Error {
  override readonly name = 'AuthFailure'

  constructor(message: string, readonly retryAfter: string | null = null) {
    super(message)
  }
}

const sessionAnswer = z.object({ access_token: z.string().min(1), expires_in: z.number().positive() })
const userAnswer = z.object({ id: z.string() })
const refusal = z.object({ error_code: z.string().optional(), error: z.string().optional() })

export function createAuthApi(
  { url, secretKey, fetch = globalThis.fetch }: {
    url: string
    secretKey: string
    fetch?: typeof globalThis.fetch
  },
): AuthApi {
  async function call(
    method: string,
    path: string,
    body: unknown,
  ): Promise<{ status: number; answer: unknown }> {
    let response: Response
    let text: string
    try {
      response = await fetch(`${url}/auth/v1/${path}`, {
        method,
        // The secret key also where the publishable one would do: a project that asks people for a captcha does not ask us.
        headers: {
          apikey: secretKey,
          authorization: `Bearer ${secretKey}`,
          'content-type': 'application/json',
        },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(TIMEOUT_MS),
      })
      text = await response.text()
    } catch (error) {
      throw new AuthFailure(`${method} ${path}: ${error instanceof Error ? error.name : 'no answer'}`)
    }
    if (response.status === 429 || response.status >= 500) {
      throw new AuthFailure(`${method} ${path}: ${response.status}`, response.headers.get('retry-after'))
    }
    return { status: response.status, answer: parsed(text) }
  }

  return {
    async signIn(email, password) {
      const { status, answer } = await call('POST', 'token?grant_type=password', { email, password })
      if (status !== 200) return null
      const session = sessionAnswer.safeParse(answer)
      if (!session.success) throw new AuthFailure('The answer to a sign-in is no session')
      return { accessToken: session.data.access_token, lifetimeMs: session.data.expires_in * 1000 }
    },

    async ensureLogin({ id, email, password, metadata }) {
      const attributes = { password, email_confirm: true, app_metadata: metadata }
      const made = await call('POST', 'admin/users', { id, email, ...attributes })
      if (made.status === 200 || made.status === 201) return requireId(made.answer, id)
      if (![409, 422].includes(made.status)) throw refused('POST admin/users', made)
      // It is there already: made by an exchange that broke off, or that runs beside this one.
      const changed = await call('PUT', `admin/users/${id}`, { email, ...attributes })
      if (changed.status !== 200) throw refused(`PUT admin/users/${id}`, changed)
      requireId(changed.answer, id)
    },
  }
}

/** An Auth that chooses ids by itself would give us a login that no key knows. */
function requireId(answer: unknown, id: string): void {
  const user = userAnswer.safeParse(answer)
  if (!user.success || user.data.id !== id) {
    throw new AuthFailure('Auth did not keep the id of a login; it is too old')
  }
}

function refused(what: string, { status, answer }: { status: number; answer: unknown }): AuthFailure {
  const reason = refusal.safeParse(answer)
  const code = reason.success ? reason.data.error_code ?? reason.data.error ?? '' : ''
  return new AuthFailure(`${what}: ${status} ${code}`.trim())
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}
