// A backup that is due. The function tenant-backup makes it, in an isolate of its own: a large tenant takes minutes, and goes on
// there when this run is over. Asking again then finds it done.
import { z } from 'zod'
import { safeText } from '../_shared/redact.ts'
import type { JobType } from './job.ts'

export interface Dependencies {
  /** Where functions are called, and with which key. */
  functions: { url: string; secretKey: string }
  fetch: (url: URL, init: RequestInit) => Promise<Response>
}

const payloadSchema = z.object({ backup_id: z.guid() })
const refusalSchema = z.object({ error: z.object({ code: z.string(), message: z.string() }) })
const SHOWN_CHARACTERS = 300

export function backUpTenant({ functions, fetch }: Dependencies): JobType<typeof payloadSchema> {
  return {
    schema: payloadSchema,
    timeoutMs: 85_000,
    slow: true,

    async handle({ organization_id, payload }, { signal, now }) {
      const response = await fetch(new URL(`${functions.url}/functions/v1/tenant-backup`), {
        method: 'POST',
        headers: { apikey: functions.secretKey, 'content-type': 'application/json' },
        body: JSON.stringify({ action: 'run', organization_id, backup_id: payload.backup_id }),
        signal,
      })
      const text = await response.text()
      if (response.ok) return { kind: 'completed' }
      const { code, message } = refusalIn(text)
      if (code === 'backup_running') {
        // Ours, whose answer was lost, or one that somebody asked for.
        return { kind: 'postponed', runAt: new Date(now().getTime() + 60_000), reason: code }
      }
      return {
        kind: 'failed',
        error: `${code ?? `http_${response.status}`}: ${
          safeText(message, [functions.secretKey]).slice(0, SHOWN_CHARACTERS)
        }`,
        permanent: code === 'backup_not_found',
      }
    },
  }
}

function refusalIn(text: string): { code: string | null; message: string } {
  try {
    const read = refusalSchema.safeParse(JSON.parse(text))
    return read.success ? read.data.error : { code: null, message: text }
  } catch {
    return { code: null, message: text }
  }
}
