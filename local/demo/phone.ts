// A customer's phone. What is written or tapped on it reaches the business as Meta's signed webhook; what it shows is
// what Meta's Graph API was given for it.

import { randomBytes } from 'node:crypto'
import { z } from 'zod'
import { asMetaWrites, signatureOf } from '../meta-webhook.ts'
import type { BusinessNumber } from './business.ts'
import type { Stage } from './stage.ts'
import { expect, told, until } from './telling.ts'

const webhookAnswer = z.object({
  messages: z.int().optional(),
  duplicates: z.int().optional(),
  error: z.object({ code: z.string() }).optional(),
})
export type Answered = z.infer<typeof webhookAnswer> & { status: number }

const option = z.looseObject({ id: z.string(), title: z.string() })
const sentMessage = z.looseObject({
  text: z.looseObject({ body: z.string() }).optional(),
  interactive: z.looseObject({
    type: z.enum(['button', 'list']),
    body: z.looseObject({ text: z.string() }),
    action: z.looseObject({
      buttons: z.array(z.looseObject({ reply: option })).default([]),
      sections: z.array(z.looseObject({ rows: z.array(option) })).default([]),
    }),
  }).optional(),
})
const callsAnswer = z.object({
  calls: z.array(z.object({
    operation: z.string().nullable(),
    to: z.string().nullable(),
    message_id: z.string().nullable(),
    body: z.unknown(),
  })),
})

/** The clinic's, as Meta writes it. */
const DISPLAYED_NUMBER = '5511940001234'

interface Shown {
  id: string
  text: string
  kind: 'button' | 'list' | null
  options: z.infer<typeof option>[]
}

/** The messages that Meta took for a customer of a number, or for all of them. */
export async function givenToMeta(stage: Stage, number: BusinessNumber, waId?: string): Promise<Shown[]> {
  const { api, secretKey, request } = stage
  const response = await request(`${api}/graph/_control/calls?phone_number_id=${number.phoneNumberId}`, {
    headers: { apikey: secretKey },
  })
  expect(response.ok, `Meta's imitation answered ${response.status}`)
  const { calls } = callsAnswer.parse(await response.json())
  return calls.flatMap(({ operation, to, message_id, body }) => {
    if (operation !== 'messages' || message_id === null || (waId !== undefined && to !== `+${waId}`)) return []
    const { text, interactive } = sentMessage.parse(body)
    const { buttons, sections } = interactive?.action ?? { buttons: [], sections: [] }
    return [{
      id: message_id,
      text: text?.body ?? interactive?.body.text ?? '',
      kind: interactive?.type ?? null,
      options: [...buttons.map(({ reply }) => reply), ...sections.flatMap(({ rows }) => rows)],
    }]
  })
}

export type Phone = ReturnType<typeof phoneOf>

export function phoneOf(stage: Stage, number: BusinessNumber, waId: string, profileName: string) {
  const [firstName] = profileName.split(' ')
  /** What was shown and told already. */
  const screen: Shown[] = []

  /** The bytes of a webhook: the same ones may be posted again. */
  function delivery(message: { type: string; [field: string]: unknown }): Buffer {
    return asMetaWrites({
      object: 'whatsapp_business_account',
      entry: [{
        id: '102938475610293',
        changes: [{
          value: {
            messaging_product: 'whatsapp',
            metadata: { display_phone_number: DISPLAYED_NUMBER, phone_number_id: number.phoneNumberId },
            contacts: [{ profile: { name: profileName }, wa_id: waId }],
            messages: [{
              from: waId,
              id: `wamid.${randomBytes(40).toString('base64')}`,
              timestamp: String(Math.floor(Date.now() / 1000)),
              ...message,
            }],
          },
          field: 'messages',
        }],
      }],
    })
  }

  async function post(body: Buffer, appSecret = number.appSecret): Promise<Answered> {
    const response = await stage.request(number.webhookUrl, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'x-hub-signature-256': signatureOf(body, appSecret) },
      body: new Uint8Array(body),
    })
    return { status: response.status, ...webhookAnswer.parse(await response.json()) }
  }

  async function send(message: { type: string; [field: string]: unknown }): Promise<void> {
    const { status, messages } = await post(delivery(message))
    expect(status === 200 && messages === 1, `a message of ${firstName} was answered with ${status}`)
  }

  return {
    post,
    textDelivery: (body: string) => delivery({ type: 'text', text: { body } }),

    says: async (body: string): Promise<void> => {
      told(`${firstName}: “${body}”`)
      await send({ type: 'text', text: { body } })
    },

    /** An option of the last message that offers it: an older one may be scrolled back to. */
    taps: async (title: string | RegExp): Promise<string> => {
      const fits = (each: { title: string }) => title instanceof RegExp ? title.test(each.title) : title === each.title
      const message = screen.findLast(({ options }) => options.some(fits))
      const tapped = message?.options.find(fits)
      expect(message !== undefined && tapped !== undefined, `${firstName} was not offered ${title}`)
      told(`${firstName}: [${tapped.title}]`)
      const type = message.kind === 'list' ? 'list_reply' : 'button_reply'
      const context = { from: DISPLAYED_NUMBER, id: message.id }
      await send({ type: 'interactive', context, interactive: { type, [type]: tapped } })
      return tapped.title
    },

    /** Waits for a message that says this, and tells what came until then; returns how many. */
    hears: async (words: RegExp): Promise<number> => {
      let shown: Shown[] = []
      const fresh = await until(
        async () => {
          shown = (await givenToMeta(stage, number, waId)).slice(screen.length)
          return words.test(shown.at(-1)?.text ?? '') ? shown : null
        },
        () => `${firstName} heard “${shown.map(({ text }) => text).join('”, “')}” instead of ${words}`,
      )
      screen.push(...fresh)
      for (const { text, options } of fresh) {
        told(`Clínica: “${text.replaceAll(/\n+/g, ' / ')}”`, '         ')
        if (options.length > 0) told(`         ${options.map(({ title }) => `[${title}]`).join(' ')}`)
      }
      return fresh.length
    },
  }
}
