// Meta's delivery → the parts that ingest_webhook takes, one per number. Pure, and it never throws: what we do not
// understand stays in the part's payload and is counted.
import type { InboundEvent, MessageEvent, Metadata, Part } from '../inbound-event.ts'
import { isObject } from '../../json.ts'
import { type Content, contentOf } from './content.ts'
import { AddressBook, bsuidsIn, chatIdOf, identitiesOf, type Person, phoneNumberOf } from './people.ts'
import {
  editSchema,
  errorSchema,
  type Message,
  messageSchema,
  metadataSchema,
  preferenceSchema,
  type ProviderError,
  revokeSchema,
  statusSchema,
  systemSchema,
} from './schema.ts'

// About the account, not about a conversation: kept, and read by whoever needs them.
const ACCOUNT_FIELDS = new Set([
  'account_alerts',
  'account_review_update',
  'account_settings_update',
  'account_update',
  'business_capability_update',
  'business_status_update',
  'business_username_update',
  'flows',
  'history',
  'message_template_components_update',
  'message_template_quality_update',
  'message_template_status_update',
  'payment_configuration_update',
  'phone_number_name_update',
  'phone_number_quality_update',
  'security',
  'smb_app_state_sync',
  'template_category_update',
])

const UUID_AT_END = /(?:^|:)([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$/i

/** What one change says. */
interface Reading {
  externalId: string | null
  eventTypes: string[]
  unknown: number
  errors: string[]
  events: InboundEvent[]
}

/** What one item says; a message of an unknown type is an event all the same. */
interface Item {
  event: InboundEvent | null
  understood: boolean
}

const notUnderstood: Item = { event: null, understood: false }

export function parse(payload: Record<string, unknown>, receivedAt: Date): Part[] {
  const { object, entry } = payload
  if (object !== 'whatsapp_business_account' || !Array.isArray(entry) || entry.length === 0) {
    return [{ external_id: null, event_type: 'unknown', payload, unknown: 1, error: null, events: [] }]
  }

  const drafts = new Map<string, Draft>()
  for (const item of entry) {
    const changes: unknown = isObject(item) ? item['changes'] : undefined
    const isReadable = Array.isArray(changes) && changes.length > 0
    // An entry without changes is kept like a change that we do not understand.
    for (const change of isReadable ? changes : [undefined]) {
      const reading = readChange(change, receivedAt)
      const key = reading.externalId === null
        ? `field ${reading.eventTypes.join()}`
        : `number ${reading.externalId}`
      const draft = drafts.get(key) ?? new Draft(reading.externalId)
      drafts.set(key, draft)
      draft.add(item, change, reading)
    }
  }
  const told = new Set<unknown>()
  return [...drafts.values()].map((draft) => draft.toPart(payload, told))
}

/** A part in the making: a delivery may come back to the same number in several changes. */
class Draft {
  readonly #externalId: string | null
  readonly #eventTypes = new Set<string>()
  readonly #errors: string[] = []
  readonly #events: InboundEvent[] = []
  readonly #entries = new Map<unknown, unknown[]>()
  #unknown = 0

  constructor(externalId: string | null) {
    this.#externalId = externalId
  }

  add(entry: unknown, change: unknown, reading: Reading): void {
    const changes = this.#entries.get(entry) ?? []
    changes.push(change)
    this.#entries.set(entry, changes)
    for (const type of reading.eventTypes) this.#eventTypes.add(type)
    for (const event of reading.events) this.#events.push(event)
    this.#errors.push(...reading.errors)
    this.#unknown += reading.unknown
  }

  toPart(payload: Record<string, unknown>, told: Set<unknown>): Part {
    const entries = [...this.#entries].map(([entry, changes]) =>
      isObject(entry) && changes[0] !== undefined ? { ...besides(entry, told), changes } : entry
    )
    return {
      external_id: this.#externalId,
      event_type: [...this.#eventTypes].join(),
      payload: { ...besides(payload, told), entry: entries },
      unknown: this.#unknown,
      error: this.#errors.join('; ').slice(0, 500).toWellFormed() || null,
      events: this.#events,
    }
  }
}

/** What an envelope says besides its contents: all of it the first time, later only what everyone needs. */
function besides(envelope: Record<string, unknown>, told: Set<unknown>): Record<string, unknown> {
  if (!told.has(envelope)) {
    told.add(envelope)
    return envelope
  }
  const { object, id, time } = envelope
  return present({ object, id, time })
}

function readChange(change: unknown, receivedAt: Date): Reading {
  const field = isObject(change) && typeof change['field'] === 'string' ? change['field'] : 'unknown'
  const value = isObject(change) && isObject(change['value']) ? change['value'] : {}
  const metadata = metadataSchema.safeParse(value['metadata'])
  const reading: Reading = {
    externalId: metadata.success ? metadata.data.phone_number_id : null,
    eventTypes: [],
    unknown: 0,
    errors: errorsOf(value['errors']),
    events: [],
  }
  const people = new AddressBook(value['contacts'])

  function readItems(name: string, read: (item: unknown) => Item): void {
    const items = value[name]
    if (items === undefined) return
    reading.eventTypes.push(name)
    for (const item of Array.isArray(items) ? items : [items]) {
      const { event, understood } = read(item)
      // Without a number nobody is meant.
      const isRoutable = event !== null && reading.externalId !== null
      if (isRoutable) reading.events.push(event)
      if (!isRoutable || !understood) reading.unknown += 1
    }
  }

  switch (field) {
    case 'messages':
      readItems('messages', (item) => readMessage(item, 'message', people, receivedAt))
      readItems('statuses', (item) => readStatus(item, people, receivedAt))
      break
    case 'smb_message_echoes':
      readItems('message_echoes', (item) => readMessage(item, 'echo', people, receivedAt))
      break
    case 'user_preferences':
      readItems('user_preferences', (item) => readPreference(item, people, receivedAt))
      break
  }

  const isEmpty = reading.eventTypes.length === 0
  if (isEmpty && reading.errors.length === 0 && !ACCOUNT_FIELDS.has(field)) reading.unknown = 1
  if (isEmpty || field !== 'messages') reading.eventTypes = [field.slice(0, 100)]
  return reading
}

function readMessage(item: unknown, kind: 'message' | 'echo', people: AddressBook, receivedAt: Date): Item {
  const read = messageSchema.safeParse(item)
  // What is said in a group is not said to the business: it belongs to no customer's conversation.
  if (!read.success || read.data.group_id !== undefined) return notUnderstood

  const message = read.data
  const at = message.timestamp ?? receivedAt.toISOString()
  switch (message.type) {
    case 'system':
      return readSystemNotice(message, people, at)
    case 'edit':
      return readEdit(message, customerOf(message, kind, people), at)
    case 'revoke': {
      const revoke = revokeSchema.safeParse(message['revoke'])
      if (!revoke.success) return notUnderstood
      const { original_message_id } = revoke.data
      const { identities, phone_number } = customerOf(message, kind, people)
      return understood({
        kind: 'revoke',
        whatsapp_message_id: original_message_id,
        occurred_at: at,
        identities,
        phone_number,
      })
    }
  }

  const person = customerOf(message, kind, people)
  const chatId = chatIdOf(person.identities)
  if (chatId === undefined) return notUnderstood

  const content = contentOf(message)
  const { message_type, content: text, media, metadata, reactsTo, sharedNumber }: Content = content ?? {
    message_type: 'unsupported',
    content: null,
    media: null,
    metadata: { original_type: message.type, raw: item },
  }
  const event: MessageEvent = {
    kind,
    whatsapp_message_id: message.id,
    sent_at: at,
    identities: person.identities,
    phone_number: person.phone_number,
    profile_name: person.profile_name,
    whatsapp_chat_id: chatId,
    message_type,
    content: text,
    media,
    reply_to_whatsapp_message_id: reactsTo ?? message.context?.id ?? null,
    metadata: present({
      ...metadata,
      forwarded: message.context?.forwarded,
      frequently_forwarded: message.context?.frequently_forwarded,
      referred_product: message.context?.referred_product,
      referral: message.referral,
      errors: message.errors,
      username: person.username,
    }),
  }
  // The customer's answer to our question for the number that WhatsApp hides.
  if (sharedNumber !== undefined && kind === 'message' && event.phone_number === null) {
    event.shared_phone_number = sharedNumber
  }
  return { event, understood: content !== null }
}

/** What the business wrote itself (an echo) went to the customer. */
function customerOf(message: Message, kind: 'message' | 'echo', people: AddressBook): Person {
  return kind === 'message'
    ? people.personOf(message.from, message.from_user_id, message.from_parent_user_id)
    : people.personOf(message.to, message.to_user_id)
}

function readSystemNotice(message: Message, people: AddressBook, at: string): Item {
  const read = systemSchema.safeParse(message['system'])
  if (!read.success) return notUnderstood

  const { body, wa_id, new_wa_id, user_id } = read.data
  const newIdentities = identitiesOf([wa_id ?? new_wa_id, user_id])
  const isNew = (id: string) => newIdentities.some(({ value }) => value === id)
  // The old BSUID stands in the sentence only: the last one before the new one, since a name may look like one.
  const oldBsuid = bsuidsIn(body).findLast((id) => !isNew(id))
  const { identities } = people.personOf(message.from, message.from_user_id, oldBsuid)
  const oldIdentities = identities.filter(({ value }) => !isNew(value))
  if (oldIdentities.length === 0 || newIdentities.length === 0) return notUnderstood

  return understood({
    kind: 'identity_change',
    whatsapp_message_id: message.id,
    sent_at: at,
    identities: oldIdentities,
    phone_number: phoneNumberOf(oldIdentities),
    new_identities: newIdentities,
    new_phone_number: phoneNumberOf(newIdentities),
    content: body ?? null,
  })
}

function readEdit(message: Message, { identities, phone_number }: Person, at: string): Item {
  const read = editSchema.safeParse(message['edit'])
  const edited = read.success ? contentOf(read.data.message) : null
  if (!read.success || edited === null) return notUnderstood
  return understood({
    kind: 'edit',
    whatsapp_message_id: read.data.original_message_id,
    occurred_at: at,
    identities,
    phone_number,
    message_type: edited.message_type,
    content: edited.content,
    media: edited.media,
  })
}

function readStatus(item: unknown, people: AddressBook, receivedAt: Date): Item {
  const read = statusSchema.safeParse(item)
  if (!read.success) return notUnderstood
  const { id, status, timestamp, biz_opaque_callback_data, pricing, conversation, errors } = read.data
  const [error] = errors ?? []
  const { recipient_type, recipient_id, recipient_user_id } = read.data
  // A group is nobody's conversation.
  const { identities, phone_number } = recipient_type === 'group'
    ? people.personOf()
    : people.personOf(recipient_id, recipient_user_id)
  return understood({
    kind: 'status',
    whatsapp_message_id: id,
    status,
    occurred_at: timestamp ?? receivedAt.toISOString(),
    identities,
    phone_number,
    message_id: UUID_AT_END.exec(biz_opaque_callback_data ?? '')?.[1]?.toLowerCase() ?? null,
    error_code: error?.code?.toString() ?? null,
    error_message: error === undefined ? null : explanationOf(error),
    metadata: present({
      pricing,
      conversation,
      errors,
      recipient_participant_id: read.data.recipient_participant_id,
    }),
  })
}

function readPreference(item: unknown, people: AddressBook, receivedAt: Date): Item {
  const read = preferenceSchema.safeParse(item)
  if (!read.success) return notUnderstood
  const { wa_id, user_id, category, value, timestamp } = read.data
  const { identities, phone_number, profile_name } = people.personOf(wa_id, user_id)
  if (identities.length === 0) return notUnderstood
  const occurred_at = timestamp ?? receivedAt.toISOString()
  return understood({
    kind: 'preference',
    identities,
    phone_number,
    profile_name,
    category,
    value,
    occurred_at,
  })
}

function understood(event: InboundEvent): Item {
  return { event, understood: true }
}

function errorsOf(errors: unknown): string[] {
  if (!Array.isArray(errors)) return []
  return errors.map((item) => {
    const read = errorSchema.safeParse(item)
    return read.success
      ? [read.data.code, explanationOf(read.data)].filter((word) => word).join(': ')
      : 'unknown error'
  })
}

function explanationOf(error: ProviderError): string | null {
  return error.error_data?.details ?? error.message ?? error.title ?? null
}

function present(fields: Metadata): Metadata {
  return Object.fromEntries(
    Object.entries(fields).filter(([, value]) => value !== undefined && value !== null),
  )
}
