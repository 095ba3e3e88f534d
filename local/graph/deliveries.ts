// Meta's side of a webhook: JSON as it writes it, signed with the app's secret, posted again while we answer 5xx.

import { setTimeout as sleep } from 'node:timers/promises'
import { messageOf } from '../failure.ts'
import { asMetaWrites, signatureOf } from '../meta-webhook.ts'
import type { BusinessNumber } from './numbers.ts'

export interface Delivery {
  at: string
  phone_number_id: string
  /** The value of the one change that it brought. */
  value: Record<string, unknown>
  attempts: number
  /** Of the last attempt; null when nobody answered. */
  status: number | null
  answer: unknown
}

const FIRST_PAUSE_MS = 50
const LONGEST_PAUSE_MS = 2000
/** Meta goes on for seven days; here nobody waits for that. */
const ATTEMPTS = 40
const TIMEOUT_MS = 30_000
const WABA_ID = '102938475610293'

export class Postman {
  readonly #closing = new AbortController()
  readonly #underWay = new Set<Promise<unknown>>()
  readonly #forgetting = new Map<string, AbortController>()
  readonly #apiUrl: string
  readonly #now: () => Date
  readonly #keep: (delivery: Delivery) => void

  constructor(apiUrl: string, now: () => Date, keep: (delivery: Delivery) => void) {
    this.#apiUrl = apiUrl
    this.#now = now
    this.#keep = keep
  }

  /** Work that outlives its request: it ends with the stack, or when its number is forgotten. */
  later(phoneNumberId: string, delayMs: number, work: () => Promise<unknown>): void {
    const { signal } = this.#forgettingOf(phoneNumberId)
    const done = sleep(delayMs, undefined, { signal: AbortSignal.any([signal, this.#closing.signal]) })
      .then(work)
      // Forgotten, or stopped.
      .catch(() => undefined)
      .finally(() => this.#underWay.delete(done))
    this.#underWay.add(done)
  }

  async post(number: BusinessNumber, value: Record<string, unknown>): Promise<Delivery> {
    const signal = AbortSignal.any([this.#forgettingOf(number.id).signal, this.#closing.signal])
    const body = asMetaWrites({
      object: 'whatsapp_business_account',
      entry: [{ id: WABA_ID, changes: [{ value, field: 'messages' }] }],
    })
    const delivery: Delivery = {
      at: this.#now().toISOString(),
      phone_number_id: number.id,
      value,
      attempts: 0,
      status: null,
      answer: null,
    }
    this.#keep(delivery)
    for (let pause = FIRST_PAUSE_MS;; pause = Math.min(pause * 2, LONGEST_PAUSE_MS)) {
      signal.throwIfAborted()
      delivery.attempts += 1
      try {
        // The gateway's own address: a tunnel that the operator has told Meta's console of is a detour from here.
        const response = await fetch(`${this.#apiUrl}/functions/v1/whatsapp-webhook/meta/${number.appKey}`, {
          method: 'POST',
          headers: {
            'content-type': 'application/json',
            'user-agent': 'facebookexternalua',
            'x-hub-signature-256': signatureOf(body, number.appSecret),
          },
          body: new Uint8Array(body),
          signal: AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]),
        })
        delivery.answer = parsed(await response.text())
        delivery.status = response.status
        if (response.status < 500) return delivery
      } catch (error) {
        delivery.status = null
        delivery.answer = messageOf(error)
      }
      if (delivery.attempts >= ATTEMPTS) return delivery
      await sleep(pause, undefined, { signal })
    }
  }

  forget(phoneNumberId: string | null): void {
    for (const [id, controller] of this.#forgetting) {
      if (phoneNumberId !== null && phoneNumberId !== id) continue
      controller.abort()
      this.#forgetting.delete(id)
    }
  }

  async close(): Promise<void> {
    this.#closing.abort()
    await Promise.all(this.#underWay)
  }

  #forgettingOf(phoneNumberId: string): AbortController {
    const controller = this.#forgetting.get(phoneNumberId) ?? new AbortController()
    this.#forgetting.set(phoneNumberId, controller)
    return controller
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}
