// What several handler tests need: Meta as a sender, a Data API in memory, and a log that can be read.
import { createLog, type Log } from '../../functions/_shared/log.ts'
import type { Rpc } from '../../functions/_shared/rpc.ts'
import { createSecretBox, type SecretBox } from '../../functions/_shared/secrets.ts'

export const CLINIC = '0193f2b4-0000-7000-8000-00000000c111'
export const ENCRYPTION_KEYS = `now:${btoa('a'.repeat(32))},before:${btoa('b'.repeat(32))}`

export function secretBox(): Promise<SecretBox> {
  return createSecretBox(ENCRYPTION_KEYS)
}

/** A sample of Meta's deliveries, as text. */
export function sampleText(name: string): string {
  return Deno.readTextFileSync(
    new URL(`../fixtures/meta/meta-${name}.json`, import.meta.url),
  )
}

export function sample(name: string): Record<string, unknown> {
  return JSON.parse(sampleText(name))
}

export const sampleNames = [
  ...Deno.readDirSync(new URL('../fixtures/meta/', import.meta.url)),
]
  .map(({ name }) => name.replace(/^meta-|\.json$/g, ''))
  .sort()

/** What JSON makes of a value: what is undefined is absent. */
export function asJson(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value))
}

export async function signatureOf(
  body: string | Uint8Array<ArrayBuffer>,
  appSecret: string,
): Promise<string> {
  const bytes = typeof body === 'string' ? new TextEncoder().encode(body) : body
  const algorithm = { name: 'HMAC', hash: 'SHA-256' }
  const key = await crypto.subtle.importKey(
    'raw',
    new TextEncoder().encode(appSecret),
    algorithm,
    false,
    [
      'sign',
    ],
  )
  const signature = new Uint8Array(
    await crypto.subtle.sign('HMAC', key, bytes),
  )
  return `sha256=${[...signature].map((byte) => byte.toString(16).padStart(2, '0')).join('')}`
}

export interface Call {
  name: string
  args: Record<string, unknown>
}

/** Answers each function by name, and remembers who asked what. */
export function recordedRpc(
  answers: Record<string, (args: Record<string, unknown>) => unknown>,
) {
  const calls: Call[] = []
  const rpc: Rpc = (name, args) => {
    calls.push({ name, args })
    const answer = answers[name]
    if (answer === undefined) {
      return Promise.reject(new Error(`Nothing answers ${name}`))
    }
    // Like the Data API: what arrives is JSON.
    return Promise.resolve().then(() => asJson(answer(args) ?? null))
  }
  return {
    rpc,
    calls,
    callsOf: (name: string) => calls.filter((call) => call.name === name),
  }
}

export function recordedLog(): { log: Log; lines: string[] } {
  const lines: string[] = []
  return { log: createLog('test', (line) => lines.push(line)), lines }
}

export async function errorCode(response: Response): Promise<string> {
  const { error } = await response.json()
  return error.code
}
