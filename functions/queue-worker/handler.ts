// Starts runs of the worker. Whoever calls proves to be the platform; with ?wait=false the answer comes at once and the
// run goes on behind it.
import { z } from 'zod'
import { answering } from '../_shared/answer.ts'
import type { Background } from '../_shared/background.ts'
import { type PlatformSecrets, requirePlatform } from '../_shared/caller.ts'
import {
  HttpError,
  methodNotAllowed,
  parseJson,
  pathBelow,
  readBytes,
  requireJsonType,
} from '../_shared/http.ts'
import type { Log } from '../_shared/log.ts'
import type { Wake } from '../_shared/wake.ts'
import type { Run } from './work.ts'

const BODY_LIMIT = 64 * 1024
// Of those that nobody waits for, in one isolate. Each of them claims on as long as there is something to do.
const MAX_UNAWAITED_RUNS = 4

export interface Dependencies {
  secrets: PlatformSecrets
  startRun: (jobTypes: string[] | null) => Run
  background: Background
  /** Called after a run that left work behind. */
  wake: Wake
  log: Log
}

export interface Handler {
  (request: Request): Promise<Response>
  /** The isolate is about to end: every run gives what it has a moment, and breaks it off. */
  stop(): void
}

const requestBody = z.object({
  job_types: z.array(z.string().regex(/^[a-z][a-z0-9_]{0,62}$/)).min(1).max(50).optional(),
})

export function createHandler({ secrets, startRun, background, wake, log }: Dependencies): Handler {
  const runs = new Set<Run>()
  // Those that may claim anything: another wake adds nothing to them if they have room.
  const unawaited = new Set<Run>()
  let isStopping = false

  const handle = answering(async (request, notes) => {
    const url = new URL(request.url)
    if (pathBelow('queue-worker', url).length > 0) {
      throw new HttpError(404, 'not_found', 'There is nothing here')
    }
    if (request.method !== 'POST') throw methodNotAllowed('POST')
    await requirePlatform(request, secrets)
    const { job_types = null } = await bodyOf(request)
    const isAwaited = url.searchParams.get('wait') !== 'false'
    notes['wait'] = isAwaited

    if (isAwaited) {
      const run = started(job_types)
      return Response.json(await run.finished.catch(unavailable))
    }
    if (job_types !== null) {
      started(job_types)
    } else {
      const claiming = [...unawaited].filter((run) => run.isClaiming())
      const isNudged = claiming.some((run) => run.nudge())
      if (!isNudged && claiming.length < MAX_UNAWAITED_RUNS) {
        const run = started(null)
        unawaited.add(run)
        run.finished.finally(() => unawaited.delete(run)).catch(() => undefined)
      }
      notes['nudged'] = isNudged
    }
    return Response.json({ accepted: true }, { status: 202 })
  }, log)

  /** Its end does not depend on whoever asked for it. */
  function started(jobTypes: string[] | null): Run {
    if (isStopping) throw new HttpError(503, 'stopping', 'This isolate is about to end; try again')
    const run = startRun(jobTypes)
    runs.add(run)
    const ended = run.finished.then(
      ({ drained }) => {
        if (!drained && !isStopping) wake()
      },
      // The run has logged it.
      () => undefined,
    )
    background(ended.finally(() => runs.delete(run)))
    return run
  }

  return Object.assign(handle, {
    stop() {
      isStopping = true
      for (const run of runs) run.stop()
    },
  })
}

function unavailable(): never {
  throw new HttpError(503, 'database_unavailable', 'The queue cannot be reached; try again')
}

async function bodyOf(request: Request): Promise<z.output<typeof requestBody>> {
  const bytes = await readBytes(request, BODY_LIMIT)
  if (bytes.byteLength === 0) return {}
  requireJsonType(request)
  const read = requestBody.safeParse(parseJson(bytes))
  if (read.success) return read.data
  const [issue] = read.error.issues
  throw new HttpError(
    400,
    'invalid_request',
    `${issue?.path.join('.') || 'The body'}: ${issue?.message ?? 'is not valid'}`,
  )
}
