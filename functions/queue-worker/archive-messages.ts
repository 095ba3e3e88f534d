// Old messages on their way out of the tables. The database says what belongs into the next file; it deletes only what was
// read back from Storage. To write a file a second time is to write the same one.
import { z } from 'zod'
import type { Rpc } from '../_shared/rpc.ts'
import { type Manifest, manifestSchema, storeLines, storeManifest } from './archive-file.ts'
import { type Claim, claimOf, type JobType } from './job.ts'
import { patientRpc, type Pause, pause as realPause } from './patient-rpc.ts'
import type { ReadableStorage } from './storage.ts'

export interface Dependencies {
  rpc: Rpc
  storage: ReadableStorage
  pause?: Pause
}

// A file, and the batches in which its messages go; other jobs have a turn in between.
const STEPS_A_TURN = 30
const PAUSES = [300, 1000, 3000]

// Only the database reads it.
const payloadSchema = z.looseObject({ before: z.string() })

const told = z.discriminatedUnion('action', [
  z.object({ action: z.literal('done'), reason: z.string().nullish() }),
  z.object({ action: z.literal('again') }),
  z.object({
    action: z.literal('write'),
    archive_id: z.guid(),
    path: z.string().min(1),
    manifest: manifestSchema,
  }),
])

const page = z.object({ last: z.guid().nullable(), content: z.string() })

export function archiveMessages(
  { rpc, storage, pause = realPause }: Dependencies,
): JobType<typeof payloadSchema> {
  const patient = patientRpc(rpc, { pauses: PAUSES, pause })
  return {
    schema: payloadSchema,
    timeoutMs: 90_000,
    slow: true,

    async handle(job, { signal, now }) {
      const claim = claimOf(job)
      for (let step = 0; step < STEPS_A_TURN; step += 1) {
        signal.throwIfAborted()
        const answer = told.parse(await patient('continue_archive', { job: claim }, { signal }))
        switch (answer.action) {
          case 'done':
            return { kind: 'ended', result: answer.reason ?? 'nothing to archive' }
          case 'again':
            break
          case 'write':
            await write(claim, answer, signal)
            break
          default:
            answer satisfies never
        }
      }
      return { kind: 'postponed', runAt: now(), reason: 'goes_on' }
    },
  }

  async function write(
    job: Claim,
    { archive_id, path, manifest }: { archive_id: string; path: string; manifest: Manifest },
    signal: AbortSignal,
  ): Promise<void> {
    const measured = await storeLines(storage, path, linesLaidDown(job, archive_id, signal), signal)
    await storeManifest(storage, path, manifest, measured)
    await patient('finish_archive_file', { job, archive_id, report: measured }, { signal })
  }

  async function* linesLaidDown(job: Claim, archive_id: string, signal: AbortSignal): AsyncGenerator<string> {
    let after: string | null = null
    do {
      const read: z.infer<typeof page> = page.parse(
        await patient('read_archive_lines', { job, archive_id, after }, { signal }),
      )
      if (read.content !== '') yield read.content
      after = read.last
    } while (after !== null)
  }
}
