// X-Hub-Signature-256: HMAC-SHA256 with the app secret over the bytes as they came. Meta escapes what JSON need not
// escape, so that the same JSON serialised again has another signature.

export function signatureKey(appSecret: string): Promise<CryptoKey> {
  const algorithm = { name: 'HMAC', hash: 'SHA-256' }
  return crypto.subtle.importKey('raw', new TextEncoder().encode(appSecret), algorithm, false, ['verify'])
}

/** The 32 bytes of `sha256=<hex>`; null when the header is not one. */
export function signatureBytes(header: string | null): Uint8Array<ArrayBuffer> | null {
  const hex = /^sha256=([0-9a-f]{64})$/i.exec(header ?? '')?.[1]
  if (hex === undefined) return null
  return Uint8Array.from({ length: 32 }, (_byte, index) => parseInt(hex.slice(index * 2, index * 2 + 2), 16))
}

/** In constant time. */
export function isSignedBy(
  key: CryptoKey,
  signature: Uint8Array<ArrayBuffer>,
  body: Uint8Array<ArrayBuffer>,
): Promise<boolean> {
  return crypto.subtle.verify('HMAC', key, signature, body)
}
