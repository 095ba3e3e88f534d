// A webhook as Meta writes and signs it: the signature is over these very bytes.

import { createHmac } from 'node:crypto'

/** One line; slashes are escaped, and so is all that is not ASCII, in four lower-case hexadecimal digits a unit. */
export function asMetaWrites(payload: unknown): Buffer {
  const text = JSON.stringify(payload)
    .replaceAll('/', '\\/')
    .replaceAll(/[^\x20-\x7e]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
  return Buffer.from(text, 'ascii')
}

/** The header X-Hub-Signature-256. */
export function signatureOf(body: Buffer | string, appSecret: string): string {
  return `sha256=${createHmac('sha256', appSecret).update(body).digest('hex')}`
}
