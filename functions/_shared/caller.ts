// Who calls: the platform proves itself by a secret key, an external cron service by a secret of its own, and
// everyone else is a user with a bearer token. All secrets are compared in constant time.
import { HttpError } from './http.ts'
import { sameSecret } from './secrets.ts'

export interface PlatformSecrets {
  /** Keys that prove a caller to be the platform. */
  secretKeys: readonly string[]
  /** Accepted as `x-cron-secret`, where it is set. */
  cronSecret?: string | undefined
}

export function bearerOf(request: Request): string | undefined {
  return /^Bearer +(\S+)$/i.exec(request.headers.get('authorization') ?? '')?.[1]
}

/** Whether a secret key came along, in `apikey` or as bearer. */
export async function hasSecretKey(request: Request, secretKeys: readonly string[]): Promise<boolean> {
  const given = [request.headers.get('apikey'), bearerOf(request)].filter((key) => typeof key === 'string')
  const matches = await Promise.all(
    given.flatMap((key) => secretKeys.map((secretKey) => sameSecret(key, secretKey))),
  )
  return matches.includes(true)
}

/** For functions that only the platform and its cron may call. */
export async function requirePlatform(request: Request, secrets: PlatformSecrets): Promise<void> {
  const cronSecret = request.headers.get('x-cron-secret')
  const isCron = cronSecret !== null && secrets.cronSecret !== undefined && secrets.cronSecret !== '' &&
    await sameSecret(cronSecret, secrets.cronSecret)
  if (isCron || await hasSecretKey(request, secrets.secretKeys)) return
  throw new HttpError(401, 'not_authenticated', 'This needs the secret key')
}
