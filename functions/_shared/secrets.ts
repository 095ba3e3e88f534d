// Secrets at rest: `v1.<key id>.<nonce>.<ciphertext and tag>`, AES-256-GCM. The database keeps them without being able
// to read them, and the additional data binds each to its organization and purpose: a ciphertext copied to another
// row does not open.
import { decodeBase64 } from 'deno-std/encoding/base64.js'
import { decodeBase64Url, encodeBase64Url } from 'deno-std/encoding/base64url.js'
import { timingSafeEqual } from 'deno-std/crypto/timing_safe_equal.js'

const PURPOSES = [
  'meta_app.app_secret',
  'meta_app.verify_token',
  'instance.access_token',
  'instance.webhook_secret',
  'instance.client_token',
  'webhook_endpoint.secret',
  'backup.data_key',
  'api_key.password',
] as const
export type Purpose = typeof PURPOSES[number]

export function isPurpose(text: string): text is Purpose {
  return PURPOSES.some((purpose) => purpose === text)
}

export interface Place {
  /** Null: the platform's own. */
  organizationId: string | null
  purpose: Purpose
}

export interface SecretBox {
  /** The ids of its keys; the first one seals. */
  keyIds: readonly [string, ...string[]]
  seal(secret: string, place: Place): Promise<string>
  /** Throws when the secret was not sealed for this place, or its key is gone. */
  open(sealed: string, place: Place): Promise<string>
}

/** `keys` is `id:base64 of 32 bytes[,id2:…]`: the first one seals, all of them open, so that a key can be replaced. */
export async function createSecretBox(keys: string): Promise<SecretBox> {
  const ring = new Map<string, CryptoKey>()
  for (const entry of keys.split(',')) {
    const [, id, base64] = /^\s*([A-Za-z0-9_-]{1,32}):(\S+)\s*$/.exec(entry) ?? []
    const bytes = base64 === undefined ? undefined : decodedKey(base64)
    if (id === undefined || bytes === undefined || ring.has(id)) {
      throw new Error('BALCAO_ENCRYPTION_KEYS is not a list of <id>:<base64 of 32 bytes>, each id once')
    }
    ring.set(id, await crypto.subtle.importKey('raw', bytes, 'AES-GCM', false, ['encrypt', 'decrypt']))
  }
  const [sealing] = ring
  if (sealing === undefined) throw new Error('BALCAO_ENCRYPTION_KEYS names no key')
  const [sealingId, sealingKey] = sealing

  return {
    keyIds: [sealingId, ...[...ring.keys()].slice(1)],

    async seal(secret, place) {
      const iv = crypto.getRandomValues(new Uint8Array(12))
      const ciphertext = await crypto.subtle.encrypt(
        { name: 'AES-GCM', iv, additionalData: additionalData(place) },
        sealingKey,
        new TextEncoder().encode(secret),
      )
      return `v1.${sealingId}.${encodeBase64Url(iv)}.${encodeBase64Url(ciphertext)}`
    },

    async open(sealed, place) {
      const [version, id, iv, ciphertext, ...rest] = sealed.split('.')
      if (
        version !== 'v1' || id === undefined || iv === undefined || ciphertext === undefined ||
        rest.length > 0
      ) {
        throw new Error(`The sealed ${place.purpose} has an unknown format`)
      }
      const key = ring.get(id)
      if (key === undefined) {
        throw new Error(`BALCAO_ENCRYPTION_KEYS lacks the key "${id}" of a sealed ${place.purpose}`)
      }
      try {
        const secret = await crypto.subtle.decrypt(
          { name: 'AES-GCM', iv: decodeBase64Url(iv), additionalData: additionalData(place) },
          key,
          decodeBase64Url(ciphertext),
        )
        return new TextDecoder().decode(secret)
      } catch {
        throw new Error(`The sealed ${place.purpose} does not open with the key "${id}"`)
      }
    },
  }
}

/** Equality that takes as long for a near miss as for a far one, and tells nothing about the length. */
export async function sameSecret(given: string, expected: string): Promise<boolean> {
  const digest = (text: string) => crypto.subtle.digest('SHA-256', new TextEncoder().encode(text))
  return timingSafeEqual(await digest(given), await digest(expected))
}

function additionalData(place: Place): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(`balcao:${place.organizationId ?? 'platform'}:${place.purpose}`)
}

function decodedKey(base64: string): Uint8Array<ArrayBuffer> | undefined {
  try {
    const bytes = decodeBase64(base64)
    return bytes.byteLength === 32 ? bytes : undefined
  } catch {
    return undefined
  }
}
