// A file that a customer sent, from the provider into our Storage before the provider forgets it. It is counted and
// hashed on its way; one that is too large or another than announced breaks the upload off, so that it is never there.
import { Buffer } from 'node:buffer'
import { createHash } from 'node:crypto'
import { z } from 'zod'
import type { Provider } from '../_shared/providers/provider.ts'
import type { ApiCall } from '../_shared/redact.ts'
import type { Rpc } from '../_shared/rpc.ts'
import type { SecretBox } from '../_shared/secrets.ts'
import { nextFetch } from './fetch-schedule.ts'
import { claimOf, type Job, type JobType, type Outcome } from './job.ts'
import { fileTypeOf, LARGEST_FILE } from './media-types.ts'
import { patientRpc, type Pause, pause as realPause } from './patient-rpc.ts'
import { type Storage, StorageFailure } from './storage.ts'

export interface Dependencies {
  rpc: Rpc
  secrets: SecretBox
  storage: Storage
  /** By their name in the database. */
  providers: ReadonlyMap<string, Provider>
  pause?: Pause
}

const BUCKET = 'media'
// Rather than to fetch a large file again because the database was away for a moment.
const FINISH_PAUSES = [300, 1000, 3000]

const payloadSchema = z.object({ message_id: z.guid() })

const begun = z.discriminatedUnion('action', [
  z.object({ action: z.literal('done'), reason: z.string().nullish() }),
  z.object({
    action: z.literal('fetch'),
    message_type: z.string(),
    media: z.looseObject({
      id: z.string().min(1),
      mime_type: z.string().nullish(),
      sha256: z.string().nullish(),
    }),
    path_prefix: z.string().min(1),
    instance: z.object({ id: z.guid(), external_id: z.string(), provider: z.string() }),
    access_token: z.string(),
  }),
])

/** Why a file is not kept, for good. */
class Refusal extends Error {
  override readonly name = 'Refusal'

  constructor(readonly reason: 'too_large' | 'type_not_allowed' | 'gone' | 'hash_mismatch', detail: string) {
    super(detail)
  }
}

export function fetchMedia(
  { rpc, secrets, storage, providers, pause = realPause }: Dependencies,
): JobType<typeof payloadSchema> {
  const patient = patientRpc(rpc, { pauses: FINISH_PAUSES, pause })
  return {
    schema: payloadSchema,
    timeoutMs: 90_000,
    slow: true,
    // What is thrown below is no fault of the file's.
    nextTry: nextFetch,

    async handle(job, { signal }) {
      const answer = begun.parse(await rpc('begin_media_fetch', { job: claimOf(job) }))
      if (answer.action === 'done') return { kind: 'ended', result: answer.reason ?? 'nothing to fetch' }

      const { message_type, media, path_prefix, instance } = answer
      const provider = providers.get(instance.provider)
      if (provider === undefined) {
        return { kind: 'failed', error: `provider_not_supported: ${instance.provider}`, permanent: true }
      }
      const accessToken = await secrets.open(answer.access_token, {
        organizationId: job.organization_id,
        purpose: 'instance.access_token',
      })
      const limit = LARGEST_FILE[message_type] ?? LARGEST_FILE.document
      const file = await provider.fetchMedia(
        { id: media.id, mime_type: media.mime_type ?? null, sha256: media.sha256 ?? null },
        limit,
        { externalId: instance.external_id, accessToken },
        signal,
      )
      const { api_calls } = file
      switch (file.result) {
        case 'later':
          return { kind: 'postponed', runAt: file.until, reason: file.detail }
        case 'gone':
        case 'too_large':
          return await refuse(job, new Refusal(file.result, file.detail), api_calls)
        case 'open': {
          const { mimeType, extension } = fileTypeOf(message_type, file.mime_type)
          const path = `${path_prefix}.${extension}`
          try {
            const { size, sha256 } = await store(file.stream, path, mimeType, limit, file.sha256)
            const outcome = { result: 'stored', path, mime_type: mimeType, size, sha256 }
            await patient('finish_media_fetch', { job: claimOf(job), outcome, api_calls })
            return { kind: 'ended', result: 'stored' }
          } catch (error) {
            if (!(error instanceof Refusal)) throw error
            // An earlier attempt may have stored something under this name.
            await storage.remove(BUCKET, path)
            return await refuse(job, error, api_calls)
          }
        }
        default:
          return file satisfies never
      }
    },
  }

  async function store(
    stream: ReadableStream<Uint8Array>,
    path: string,
    mimeType: string,
    limit: number,
    expectedHash: string | null,
  ): Promise<{ size: number; sha256: string }> {
    const checks = fileChecks(limit, expectedHash)
    try {
      await storage.upload(BUCKET, path, stream.pipeThrough(checks.stream), mimeType)
    } catch (error) {
      // Why we broke the upload off says more than that it broke.
      const refusal = checks.refusal()
      if (refusal !== null) throw refusal
      if (error instanceof StorageFailure && error.status === 413) {
        throw new Refusal('too_large', error.message)
      }
      if (error instanceof StorageFailure && error.status === 415) {
        throw new Refusal('type_not_allowed', error.message)
      }
      throw error
    }
    const refusal = checks.refusal()
    if (refusal !== null) throw refusal
    return checks.result()
  }

  async function refuse(job: Job, { reason, message }: Refusal, api_calls: ApiCall[]): Promise<Outcome> {
    const outcome = { result: 'refused', reason, detail: message }
    await patient('finish_media_fetch', { job: claimOf(job), outcome, api_calls })
    return { kind: 'ended', as: 'failed', result: reason }
  }
}

/** A stream that counts and hashes what passes, and breaks when there is too much of it or it is something else. */
function fileChecks(limit: number, expectedHash: string | null) {
  const hash = createHash('sha256')
  const expected = expectedHash === null ? null : hashBytes(expectedHash)
  let size = 0
  let sha256 = ''
  let refusal: Refusal | null = null
  const stream = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      size += chunk.byteLength
      if (size > limit) {
        refusal = new Refusal('too_large', `more than ${limit} bytes`)
        controller.error(refusal)
        return
      }
      hash.update(chunk)
      controller.enqueue(chunk)
    },
    flush(controller) {
      const digest = hash.digest()
      sha256 = digest.toString('base64')
      if (expected !== null && !digest.equals(expected)) {
        refusal = new Refusal('hash_mismatch', 'The file is not the one that was announced')
        controller.error(refusal)
      }
    },
  })
  return { stream, refusal: () => refusal, result: () => ({ size, sha256 }) }
}

/** Base64 in a delivery, hexadecimal in some answers; null when it is neither. */
function hashBytes(text: string): Uint8Array | null {
  if (/^[0-9a-f]{64}$/i.test(text)) return Buffer.from(text, 'hex')
  return /^[A-Za-z0-9+/]{43}=?$/.test(text) ? Buffer.from(text, 'base64') : null
}
