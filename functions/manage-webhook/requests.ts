// What a caller may ask for: read, checked and named by field before anything else happens.
import { z } from 'zod'
import { HttpError } from '../_shared/http.ts'

// As Postgres writes it: a secret is sealed for its organization, and only the same spelling opens it.
const id = z.guid().toLowerCase()
// What Postgres cannot store is refused here, by field.
const storableText = z.string().trim().refine((value) => value.isWellFormed() && !value.includes('\u0000'), {
  message: 'has characters that cannot be stored',
})
const text = storableText.min(1)
// Whether the address may be used is for public-address.ts to say, and has an error code of its own.
const url = text.max(2000)
// Which ones there are, the database knows.
const eventTypes = z.array(text.max(100)).min(1).max(100)
// An empty one takes away what was there.
const description = storableText.max(200)

export const createSchema = z.object({
  organization_id: id,
  url,
  event_types: eventTypes,
  description: description.optional(),
})

const target = { organization_id: id, endpoint_id: id }

export const updateSchema = z.object({
  ...target,
  url: url.optional(),
  event_types: eventTypes.optional(),
  description: description.optional(),
  is_active: z.boolean().optional(),
  rotate_secret: z.literal(true).optional(),
}).refine(
  ({ organization_id: _organization, endpoint_id: _endpoint, ...changes }) =>
    Object.values(changes).some((value) => value !== undefined),
  { message: 'names nothing to change' },
)

export const deleteSchema = z.object(target)

export function checked<Schema extends z.ZodType>(schema: Schema, body: unknown): z.output<Schema> {
  const read = schema.safeParse(body)
  if (read.success) return read.data
  const [issue] = read.error.issues
  const field = issue?.path.join('.') || 'The body'
  throw new HttpError(400, 'invalid_request', `${field}: ${issue?.message ?? 'is not valid'}`)
}
