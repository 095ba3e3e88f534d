// What may be sent: Meta's documented format and limits, and not a key more, so that a mistake of ours shows here.

import { z } from 'zod'
import { GraphError } from './errors.ts'
import { canExist, internationalDigits, isBsuid, type Recipient, waIdOf } from './numbers.ts'

const text = (longest: number) => z.string().min(1).max(longest)
const id = text(256)
const webAddress = z.url({ protocol: /^https?$/ })
const coordinate = (limit: number) =>
  z.union([z.number(), z.string().regex(/^-?\d{1,3}(?:\.\d+)?$/).transform(Number)]).pipe(
    z.number().min(-limit).max(limit),
  )

const MISSING = 'is missing'

/** By id or by link, never by both. */
const file = { id: text(64).optional(), link: webAddress.optional() }
function oneSource(value: { id?: string | undefined; link?: string | undefined }, context: z.RefinementCtx): void {
  if (value.id === undefined && value.link === undefined) {
    context.addIssue({ code: 'custom', path: ['id'], message: MISSING })
  } else if (value.id !== undefined && value.link !== undefined) {
    context.addIssue({ code: 'custom', path: ['link'], message: 'cannot be given together with id' })
  }
}

const caption = text(1024).optional()
const filename = text(240).optional()

const image = z.strictObject({ ...file, caption }).superRefine(oneSource)
const video = image
const audio = z.strictObject({ ...file, voice: z.boolean().optional() }).superRefine(oneSource)
const document = z.strictObject({ ...file, caption, filename }).superRefine(oneSource)
const sticker = z.strictObject(file).superRefine(oneSource)
/** In headers. */
const picture = sticker
const paper = z.strictObject({ ...file, filename }).superRefine(oneSource)

const location = z.strictObject({
  latitude: coordinate(90),
  longitude: coordinate(180),
  name: text(1000).optional(),
  address: text(1000).optional(),
})

const somewhere = z.string().optional()
const contactCard = z.strictObject({
  name: z.strictObject({
    formatted_name: text(1000),
    first_name: somewhere,
    last_name: somewhere,
    middle_name: somewhere,
    prefix: somewhere,
    suffix: somewhere,
  }).refine((name) => Object.values(name).filter((part) => part !== undefined).length > 1, {
    message: 'needs another part besides formatted_name',
  }),
  addresses: z.array(z.strictObject({
    street: somewhere,
    city: somewhere,
    state: somewhere,
    zip: somewhere,
    country: somewhere,
    country_code: somewhere,
    type: somewhere,
  })).optional(),
  birthday: z.string().regex(/^\d{4}-\d{2}-\d{2}$/).optional(),
  emails: z.array(z.strictObject({ email: somewhere, type: somewhere })).optional(),
  org: z.strictObject({ company: somewhere, department: somewhere, title: somewhere }).optional(),
  phones: z.array(z.strictObject({ phone: somewhere, wa_id: somewhere, type: somewhere })).optional(),
  urls: z.array(z.strictObject({ url: somewhere, type: somewhere })).optional(),
})

// Interactive ------------------------------------------------------------------------------------------------------

const textHeader = z.strictObject({ type: z.literal('text'), text: text(60) })
const header = z.discriminatedUnion('type', [
  textHeader,
  z.strictObject({ type: z.literal('image'), image: picture }),
  z.strictObject({ type: z.literal('video'), video: picture }),
  z.strictObject({ type: z.literal('document'), document: paper }),
])
const footer = z.strictObject({ text: text(60) }).optional()

function eachOnce<Item>(key: string, of: (item: Item) => unknown) {
  return (items: Item[], context: z.RefinementCtx) => {
    const seen = new Set<unknown>()
    for (const [index, item] of items.entries()) {
      if (seen.has(of(item))) {
        context.addIssue({ code: 'custom', path: [index, ...key.split('.')], message: 'is there twice' })
      }
      seen.add(of(item))
    }
  }
}

const replyButton = z.strictObject({
  type: z.literal('reply'),
  reply: z.strictObject({ id, title: text(20) }),
})
type ReplyButton = z.infer<typeof replyButton>

const row = z.strictObject({ id: text(200), title: text(24), description: text(72).optional() })
const sections = z.array(z.strictObject({ title: text(24).optional(), rows: z.array(row).min(1) })).min(1).max(10)
  .superRefine((list, context) => {
    const rows = list.flatMap((section) => section.rows)
    if (rows.length > 10) {
      context.addIssue({
        code: 'custom',
        path: [],
        message: `have ${rows.length} rows in total, at most 10 are allowed`,
      })
    }
    if (new Set(rows.map((item) => item.id)).size < rows.length) {
      context.addIssue({ code: 'custom', path: [], message: 'have two rows with the same id' })
    }
    if (list.length > 1) {
      for (const [index, { title }] of list.entries()) {
        if (title === undefined) context.addIssue({ code: 'custom', path: [index, 'title'], message: MISSING })
      }
    }
  })

const interactive = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('button'),
    header: header.optional(),
    body: z.strictObject({ text: text(1024) }),
    footer,
    action: z.strictObject({
      buttons: z.array(replyButton).min(1).max(3)
        .superRefine(eachOnce('reply.id', ({ reply }: ReplyButton) => reply.id))
        .superRefine(eachOnce('reply.title', ({ reply }: ReplyButton) => reply.title)),
    }),
  }),
  z.strictObject({
    type: z.literal('list'),
    header: textHeader.optional(),
    body: z.strictObject({ text: text(4096) }),
    footer,
    action: z.strictObject({ button: text(20), sections }),
  }),
])

// Templates --------------------------------------------------------------------------------------------------------

const named = { parameter_name: text(256).optional() }
const textParameter = z.strictObject({ type: z.literal('text'), text: text(32_768), ...named })
const bodyParameter = z.discriminatedUnion('type', [
  textParameter,
  z.strictObject({
    type: z.literal('currency'),
    currency: z.strictObject({ fallback_value: text(256), code: z.string().length(3), amount_1000: z.int() }),
    ...named,
  }),
  z.strictObject({ type: z.literal('date_time'), date_time: z.strictObject({ fallback_value: text(256) }), ...named }),
])
const headerParameter = z.discriminatedUnion('type', [
  textParameter,
  z.strictObject({ type: z.literal('image'), image: picture }),
  z.strictObject({ type: z.literal('video'), video: picture }),
  z.strictObject({ type: z.literal('document'), document: paper }),
  z.strictObject({ type: z.literal('location'), location }),
])
const buttonParameter = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('payload'), payload: text(256) }),
  z.strictObject({ type: z.literal('text'), text: text(2000) }),
  z.strictObject({ type: z.literal('coupon_code'), coupon_code: text(15) }),
])
const component = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('header'), parameters: z.array(headerParameter).min(1).max(1) }),
  z.strictObject({ type: z.literal('body'), parameters: z.array(bodyParameter).min(1) }),
  z.strictObject({
    type: z.literal('button'),
    sub_type: z.enum(['quick_reply', 'url', 'copy_code']),
    index: z.union([z.string().regex(/^\d$/), z.int().min(0).max(9)]),
    parameters: z.array(buttonParameter).min(1).max(1),
  }),
])
const template = z.strictObject({
  name: z.string().regex(/^[a-z0-9_]{1,512}$/),
  language: z.strictObject({
    code: z.string().regex(/^[a-z]{2,3}(?:_[A-Z]{2,3})?$/),
    policy: z.literal('deterministic').optional(),
  }),
  components: z.array(component).optional(),
})

// Reactions --------------------------------------------------------------------------------------------------------

const reaction = z.strictObject({
  message_id: text(255),
  emoji: z.string().refine((emoji) => emoji === '' || isOneEmoji(emoji), { message: 'is not one emoji' }),
})

function isOneEmoji(value: string): boolean {
  const characters = [...new Intl.Segmenter('en', { granularity: 'grapheme' }).segment(value)]
  return characters.length === 1 && /\p{Extended_Pictographic}|\p{Regional_Indicator}|\u20e3/u.test(value)
}

// The whole --------------------------------------------------------------------------------------------------------

const common = {
  messaging_product: z.literal('whatsapp'),
  recipient_type: z.literal('individual').optional(),
  to: z.string().optional(),
  recipient: z.string().optional(),
  context: z.strictObject({ message_id: text(255) }).optional(),
  biz_opaque_callback_data: z.string().max(512).optional(),
}

const outgoing = z.discriminatedUnion('type', [
  z.strictObject({
    ...common,
    type: z.literal('text'),
    text: z.strictObject({ body: text(4096), preview_url: z.boolean().optional() }),
  }),
  z.strictObject({ ...common, type: z.literal('image'), image }),
  z.strictObject({ ...common, type: z.literal('video'), video }),
  z.strictObject({ ...common, type: z.literal('audio'), audio }),
  z.strictObject({ ...common, type: z.literal('document'), document }),
  z.strictObject({ ...common, type: z.literal('sticker'), sticker }),
  z.strictObject({ ...common, type: z.literal('location'), location }),
  z.strictObject({ ...common, type: z.literal('contacts'), contacts: z.array(contactCard).min(1).max(257) }),
  z.strictObject({ ...common, type: z.literal('interactive'), interactive }),
  z.strictObject({ ...common, type: z.literal('template'), template }),
  z.strictObject({ ...common, type: z.literal('reaction'), reaction }),
])
export type Outgoing = z.output<typeof outgoing>

const readReceipt = z.strictObject({
  messaging_product: z.literal('whatsapp'),
  status: z.literal('read'),
  message_id: text(255),
  typing_indicator: z.strictObject({ type: z.literal('text') }).optional(),
})
export type ReadReceipt = z.output<typeof readReceipt>

const TYPES = new Set(outgoing.options.map(({ shape }) => shape.type.value))

/** Throws the GraphError that says what is wrong. */
export function readOutgoing(body: unknown): Outgoing | ReadReceipt {
  if (!isObject(body)) throw new GraphError(100)
  if (body.messaging_product === undefined) {
    throw new GraphError(100, {
      message: '(#100) The parameter messaging_product is required.',
      details: null,
    })
  }
  if ('status' in body) return checked(readReceipt, body)
  // Meta takes a message without type for a text.
  const typed = { type: 'text', ...body }
  if (typeof typed.type === 'string' && !TYPES.has(typed.type as Outgoing['type'])) {
    throw new GraphError(131051, { details: `Message type "${typed.type}" is not currently supported.` })
  }
  return checked(outgoing, typed)
}

/** "to" wins where both are given. */
export function recipientOf({ to, recipient }: Outgoing): Recipient {
  if (to === undefined && recipient === undefined) {
    throw new GraphError(131008, { details: 'Parameter "to" is missing.' })
  }
  if (to !== undefined) {
    const digits = internationalDigits(to)
    if (digits === null) throw new GraphError(131009, { details: 'Parameter "to" is not a phone number.' })
    if (!canExist(digits)) {
      throw new GraphError(131026, { details: `Message Undeliverable. "to" was read as +${digits}.` })
    }
    return { input: to, waId: waIdOf(digits), bsuid: null }
  }
  const input = recipient ?? ''
  if (!isBsuid(input)) {
    throw new GraphError(131009, { details: 'Parameter "recipient" is not a business-scoped user id.' })
  }
  return { input, waId: null, bsuid: input }
}

/** The media ids and links that a message names, wherever they stand. */
export function mediaIn(message: Outgoing): { ids: string[]; links: string[] } {
  const ids: string[] = []
  const links: string[] = []
  const look = (value: unknown, key: string): void => {
    if (Array.isArray(value)) return value.forEach((item) => look(item, key))
    if (!isObject(value)) return
    if (MEDIA.has(key)) {
      if (typeof value.id === 'string') ids.push(value.id)
      if (typeof value.link === 'string') links.push(value.link)
    }
    for (const [name, item] of Object.entries(value)) look(item, name)
  }
  look(message, '')
  return { ids, links }
}

const MEDIA = new Set(['image', 'video', 'audio', 'document', 'sticker'])

function checked<Schema extends z.ZodType>(schema: Schema, body: unknown): z.output<Schema> {
  const read = schema.safeParse(body, { reportInput: true })
  if (read.success) return read.data
  const [issue] = read.error.issues
  throw issue === undefined ? new GraphError(100) : refusal(issue)
}

function refusal(issue: z.core.$ZodIssue): GraphError {
  const parameter = issue.path.join('.')
  if (issue.code === 'unrecognized_keys') {
    const where = parameter === '' ? '' : ` on param "${parameter}"`
    return new GraphError(100, { details: `Unexpected key "${issue.keys.join('", "')}"${where}.` })
  }
  const isMissing = issue.message === MISSING ||
    (issue.code !== 'custom' && 'input' in issue && issue.input === undefined)
  return isMissing
    ? new GraphError(131008, { details: `Parameter "${parameter}" is missing.` })
    : new GraphError(131009, { details: `Parameter "${parameter}": ${issue.message}` })
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
