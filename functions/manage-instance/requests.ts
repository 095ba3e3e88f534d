// What a caller may ask for: read, checked and named by field before anything else happens.
import { z } from 'zod'
import { fromHumanInput } from '../_shared/phone.ts'
import { HttpError } from '../_shared/http.ts'

// As Postgres writes it: a secret is sealed for its organization, and only the same spelling opens it.
const id = z.guid().toLowerCase()
// What Postgres cannot store is refused here, by field.
const text = z.string().trim().min(1).refine((value) => value.isWellFormed() && !value.includes('\u0000'), {
  message: 'has characters that cannot be stored',
})
const name = text.max(120)
const secret = z.string().trim().min(1).max(4096)

// Kept apart from the other rules for its own error code.
const INVALID_PHONE_NUMBER = 'is not a phone number with area code'
const phoneNumber = z.string().transform((input, context) => {
  const canonical = fromHumanInput(input)
  if (canonical !== null) return canonical
  context.addIssue({ code: 'custom', message: INVALID_PHONE_NUMBER })
  return z.NEVER
})

export const connectSchema = z.object({
  organization_id: id,
  provider: z.enum(['meta_cloud', 'evolution', 'zapi']),
  name,
  phone_number: phoneNumber,
  external_id: text.max(128),
  access_token: secret,
  app_key: z.string().regex(/^[A-Za-z0-9_-]{16,64}$/).optional(),
  meta_app: z.object({ app_secret: secret, verify_token: secret }).optional(),
}).refine(({ app_key, meta_app }) => app_key === undefined || meta_app === undefined, {
  path: ['app_key'],
  message: 'cannot be given together with meta_app',
})

const target = { organization_id: id, instance_id: id }

export const updateSchema = z.object({
  ...target,
  name: name.optional(),
  phone_number: phoneNumber.optional(),
  access_token: secret.optional(),
  meta_app: z.object({ app_secret: secret.optional(), verify_token: secret.optional() }).optional(),
}).refine(
  ({ name, phone_number, access_token, meta_app }) =>
    [name, phone_number, access_token, meta_app?.app_secret, meta_app?.verify_token].some((value) =>
      value !== undefined
    ),
  {
    message: 'names nothing to change',
  },
)

export const disconnectSchema = z.object(target)

export const testSchema = z.object(target)

export const platformAppSchema = z.object({ app_secret: secret, verify_token: secret })

export function checked<Schema extends z.ZodType>(schema: Schema, body: unknown): z.output<Schema> {
  const read = schema.safeParse(body)
  if (read.success) return read.data
  const [issue] = read.error.issues
  const field = issue?.path.join('.') || 'The body'
  const message = issue?.message ?? 'is not valid'
  const code = message === INVALID_PHONE_NUMBER ? 'invalid_phone_number' : 'invalid_request'
  throw new HttpError(400, code, `${field}: ${message}`)
}
