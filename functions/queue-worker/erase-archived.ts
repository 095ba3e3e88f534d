// What an erased person said, out of a file of the archive: the file is written anew without it, under another name; once the
// new one was read back it is the one, and the old one goes, with the files that his messages had.
import { z } from 'zod'
import type { Rpc } from '../_shared/rpc.ts'
import { linesOf, manifestSchema, storeLines, storeManifest } from './archive-file.ts'
import { type Claim, claimOf, type JobType } from './job.ts'
import { patientRpc, type Pause, pause as realPause } from './patient-rpc.ts'
import type { ReadableStorage } from './storage.ts'

export interface Dependencies {
  rpc: Rpc
  storage: ReadableStorage
  pause?: Pause
}

const STEPS_A_TURN = 10
const PAUSES = [300, 1000, 3000]
const MEDIA = 'media'

const payloadSchema = z.object({ archive_id: z.guid(), erasure_id: z.guid() })

type Rewrite = z.infer<typeof rewriteSchema>
const rewriteSchema = z.object({
  action: z.literal('rewrite'),
  archive_id: z.guid(),
  path: z.string().min(1),
  new_path: z.string().min(1),
  conversation_ids: z.array(z.guid()).min(1),
  manifest: manifestSchema,
})

const told = z.discriminatedUnion('action', [
  z.object({ action: z.literal('done'), reason: z.string().nullish() }),
  rewriteSchema,
  z.object({
    action: z.literal('remove'),
    archive_id: z.guid(),
    bucket: z.string().min(1),
    paths: z.array(z.string().min(1)).min(1),
  }),
])

const archivedMessage = z.looseObject({
  conversation_id: z.string(),
  direction: z.string(),
  media_url: z.string().optional(),
})

export function eraseArchived(
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
        const answer = told.parse(await patient('continue_archive_erasure', { job: claim }, { signal }))
        switch (answer.action) {
          case 'done':
            return { kind: 'ended', result: answer.reason ?? 'nothing to erase' }
          case 'rewrite':
            await rewrite(claim, answer, signal)
            break
          case 'remove': {
            const { bucket, paths: [stale = '', ...beside], archive_id } = answer
            for (const path of [...beside, stale]) await storage.remove(bucket, path)
            await patient('note_archive_file_removed', { job: claim, archive_id, path: stale }, { signal })
            break
          }
          default:
            answer satisfies never
        }
      }
      return { kind: 'postponed', runAt: now(), reason: 'goes_on' }
    },
  }

  async function rewrite(job: Claim, file: Rewrite, signal: AbortSignal): Promise<void> {
    const { archive_id, path, new_path, conversation_ids, manifest } = file
    const erased = new Set(conversation_ids)
    const hisFiles: string[] = []
    const measured = await storeLines(storage, new_path, othersLines(), signal)
    await storeManifest(storage, new_path, manifest, measured)
    // Before the old file goes: nothing else knows of them.
    for (const name of hisFiles) {
      signal.throwIfAborted()
      await storage.remove(MEDIA, name)
    }
    await patient(
      'finish_archive_erasure',
      { job, archive_id, report: { ...measured, new_path, conversation_ids } },
      { signal },
    )

    async function* othersLines(): AsyncGenerator<string> {
      for await (const line of linesOf(storage, path, signal)) {
        const message = archivedMessage.parse(JSON.parse(line))
        if (!erased.has(message.conversation_id)) {
          yield line + '\n'
        } else if (message.media_url?.startsWith(`${MEDIA}/`)) {
          hisFiles.push(message.media_url.slice(MEDIA.length + 1))
        }
      }
    }
  }
}
