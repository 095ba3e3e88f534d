// Opens what the edge functions sealed; the format is that of functions/_shared/secrets.ts.

export type Purpose = 'meta_app.app_secret' | 'instance.access_token'

export interface SecretOpener {
  /** Throws when the secret was sealed for another place, or with a key that is gone. */
  open(sealed: string, organizationId: string | null, purpose: Purpose): Promise<string>
}

/** `keys` is BALCAO_ENCRYPTION_KEYS: `id:base64 of 32 bytes[,id2:…]`. */
export function secretOpener(keys: string): SecretOpener {
  const ring = new Map<string, Promise<CryptoKey>>()
  for (const entry of keys.split(',')) {
    const [id = '', base64 = ''] = entry.trim().split(':')
    const bytes = Buffer.from(base64, 'base64')
    ring.set(id, crypto.subtle.importKey('raw', bytes, 'AES-GCM', false, ['decrypt']))
  }
  return {
    open: async (sealed, organizationId, purpose) => {
      const [version, id = '', nonce = '', ciphertext = ''] = sealed.split('.')
      const key = await ring.get(id)
      if (version !== 'v1' || key === undefined) throw new Error(`A sealed ${purpose} has a key that is not ours`)
      const algorithm = {
        name: 'AES-GCM',
        iv: Buffer.from(nonce, 'base64url'),
        additionalData: new TextEncoder().encode(`balcao:${organizationId ?? 'platform'}:${purpose}`),
      }
      try {
        const secret = await crypto.subtle.decrypt(algorithm, key, Buffer.from(ciphertext, 'base64url'))
        return new TextDecoder().decode(secret)
      } catch {
        throw new Error(`A sealed ${purpose} does not open with the key "${id}"`)
      }
    },
  }
}
