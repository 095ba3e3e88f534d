// What send_message takes beside the content: messages.payload, by message_type. The limits are WhatsApp's; the database
// checks them too (private.check_outbound).

import { z } from 'zod'

/** Letters are counted as Postgres counts them; a text is sent as it is, so that spaces at its ends count. */
const upTo = (longest: number) =>
  z.string().refine((text) => [...text].length <= longest, `At most ${longest} characters`)
const title = (longest: number) => upTo(longest).regex(/\S/, 'There must be something to read')

export const textPayload = z.strictObject({ preview_url: z.boolean().optional() })

export const buttonsPayload = z.strictObject({
  type: z.literal('button'),
  header: title(60).optional(),
  footer: title(60).optional(),
  buttons: z.array(z.strictObject({ id: title(256), title: title(20) })).min(1).max(3),
})

export const listPayload = z.strictObject({
  type: z.literal('list'),
  header: title(60).optional(),
  footer: title(60).optional(),
  /** What opens the list. */
  button: title(20),
  /** At most ten rows in all; a title for each section if there are several. */
  sections: z.array(z.strictObject({
    title: title(24).optional(),
    rows: z.array(z.strictObject({ id: title(200), title: title(24), description: upTo(72).optional() })).min(1),
  })).min(1).max(10),
})

/** message_type interactive; the body is the message's content. */
export const interactivePayload = z.discriminatedUnion('type', [buttonsPayload, listPayload])

/** message_type template; components as Meta documents them. */
export const templatePayload = z.strictObject({
  name: z.string().regex(/^[a-z0-9_]{1,512}$/),
  language: z.string().regex(/^[a-z]{2,3}(_[A-Z]{2,3})?$/),
  components: z.array(z.record(z.string(), z.json())).optional(),
})

const filename = title(240).optional()

// media/<organization>/…: no segment that leads elsewhere, no letter that a URL would read as something else.
// deno-lint-ignore no-control-regex -- a tab or a line end is dropped from a URL without a word.
const PATH = /^media(?:\/(?!\.{1,2}(?:\/|$))[^/%\\?#\u0000-\u001f\u007f]+){2,}$/

/** message_type image, audio, video, document or sticker: a public link, or a file in our Storage; content is the caption. */
export const mediaPayload = z.union([
  z.strictObject({ link: z.string().max(2000).regex(/^https:\/\/[^/?#\s]\S*$/).pipe(z.url()), filename }),
  z.strictObject({ path: z.string().max(1024).regex(PATH), filename }),
])

export const locationPayload = z.strictObject({
  latitude: z.number().min(-90).max(90),
  longitude: z.number().min(-180).max(180),
  name: z.string().optional(),
  address: z.string().optional(),
})

/** Contact cards as Meta documents them. */
export const contactsPayload = z.strictObject({ contacts: z.array(z.record(z.string(), z.json())).min(1).max(100) })

/** message_id is the WhatsApp id of the message reacted to; an empty emoji takes the reaction back. */
export const reactionPayload = z.strictObject({ message_id: title(256), emoji: upTo(20) })

export const outboundPayload = z.union([
  interactivePayload,
  templatePayload,
  mediaPayload,
  locationPayload,
  contactsPayload,
  reactionPayload,
  textPayload,
])
export type OutboundPayload = z.infer<typeof outboundPayload>
