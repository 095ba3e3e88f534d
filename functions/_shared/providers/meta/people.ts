// Who a delivery is about. Since 2026 a person has two ids, wa_id (the number, which may be hidden) and BSUID (valid
// within one business portfolio), and either may stand where the other is expected.
import { fromProviderId } from '../../phone.ts'
import type { Identity } from '../inbound-event.ts'
import { type Contact, contactSchema } from './schema.ts'

export const BSUID = /^[A-Z]{2}\.(ENT\.)?[A-Za-z0-9]{1,128}$/

export interface Person {
  identities: Identity[]
  phone_number: string | null
  profile_name: string | null
  username: string | null
}

/** The identities behind the ids, in their order, each once. */
export function identitiesOf(ids: readonly (string | undefined)[]): Identity[] {
  return [...new Set(ids)].flatMap((value) =>
    value === undefined ? [] : [{ kind: BSUID.test(value) ? 'bsuid' : 'wa_id', value }]
  )
}

export function phoneNumberOf(identities: readonly Identity[]): string | null {
  for (const { kind, value } of identities) {
    const phoneNumber = kind === 'bsuid' ? null : fromProviderId(value)
    if (phoneNumber !== null) return phoneNumber
  }
  return null
}

/** The id that a reply is addressed to: the number where we have it. */
export function chatIdOf(identities: readonly Identity[]): string | undefined {
  return (identities.find(({ kind }) => kind === 'wa_id') ?? identities[0])?.value
}

/** The words of a text that are BSUIDs: some notices name one nowhere else. */
export function bsuidsIn(text: string | undefined): string[] {
  return (text ?? '').split(/\s+/).map((word) => word.replace(/[.,;]+$/, '')).filter((word) =>
    BSUID.test(word)
  )
}

/** A value's `contacts`, found by any of their ids: their order is not the order of the messages. */
export class AddressBook {
  readonly #byId = new Map<string, Contact>()

  constructor(contacts: unknown) {
    if (!Array.isArray(contacts)) return
    for (const item of contacts) {
      const read = contactSchema.safeParse(item)
      if (!read.success) continue
      for (const key of keysOf([read.data.wa_id, read.data.user_id])) {
        if (!this.#byId.has(key)) this.#byId.set(key, read.data)
      }
    }
  }

  personOf(...ids: (string | undefined)[]): Person {
    const contact = keysOf(ids).map((key) => this.#byId.get(key)).find((found) => found !== undefined)
    const identities = identitiesOf([...ids, contact?.wa_id, contact?.user_id])
    return {
      identities,
      phone_number: phoneNumberOf(identities),
      profile_name: contact?.profile?.name ?? null,
      username: contact?.profile?.username ?? null,
    }
  }
}

/** An id as it stands, and the number in it: the same person may come with and without the ninth digit. */
function keysOf(ids: readonly (string | undefined)[]): string[] {
  return ids.flatMap((id) => {
    if (id === undefined) return []
    const phoneNumber = fromProviderId(id)
    return phoneNumber === null ? [id] : [id, phoneNumber]
  })
}
