// The clock's hand: runs the schedules that are due, or one by name. Which are due, and that no run happens twice, is
// for the database to say; calling this too often, or twice at once, does no harm. With ?wait=false the answer comes at
// once and the work goes on behind it: whoever calls every second shall not wait for a function that takes a minute.
import { z } from 'zod'
import { answering } from '../_shared/answer.ts'
import type { Background } from '../_shared/background.ts'
import { requirePlatform } from '../_shared/caller.ts'
import {
  HttpError,
  methodNotAllowed,
  parseJson,
  pathBelow,
  readBytes,
  requireJsonType,
} from '../_shared/http.ts'
import type { Log } from '../_shared/log.ts'
import { reasonOf } from '../_shared/redact.ts'
import type { Rpc } from '../_shared/rpc.ts'
import { createScheduleRunner, type FunctionsApi, type Outcome } from './schedules.ts'

const BODY_LIMIT = 1024 * 1024
const AT_ONCE = 4

export interface Dependencies {
  /** With the secret key. */
  rpc: Rpc
  secretKeys: readonly string[]
  /** For cron services that shall not have the secret key. */
  cronSecret: string | undefined
  functions: FunctionsApi
  inBackground: Background
  log: Log
}

const requestSchema = z.object({ name: z.string().min(1).max(200).optional() })
const dueAnswer = z.array(z.object({ name: z.string(), kind: z.enum(['sql', 'function']) }))

export function createHandler(
  { rpc, secretKeys, cronSecret, functions, inBackground, log }: Dependencies,
): (request: Request) => Promise<Response> {
  const run = createScheduleRunner({ rpc, functions, log })

  return answering(
    async (request, notes) => {
      const url = new URL(request.url)
      if (pathBelow('cron-refresh', url).length > 0) {
        throw new HttpError(404, 'not_found', 'There is nothing here')
      }
      if (request.method !== 'POST') throw methodNotAllowed('POST')
      await requirePlatform(request, { secretKeys, cronSecret })
      const { name } = await requested(request)
      const isAwaited = url.searchParams.get('wait') !== 'false'
      Object.assign(notes, { wait: isAwaited, name })

      const work = name === undefined ? runDue() : runNamed(name)
      // Who waits may still hang up long before a slow schedule ends.
      inBackground(work.catch((error) => {
        if (!isAwaited) log('error', 'schedules did not run', { error: reasonOf(error) })
      }))
      if (!isAwaited) return Response.json({ accepted: true }, { status: 202 })

      const outcomes = await work
      const ran = outcomes.filter((outcome) => outcome.ran).map(({ ran: _ran, ...outcome }) => outcome)
      const skipped = outcomes.filter((outcome) => !outcome.ran).map(({ ran: _ran, ...outcome }) => outcome)
      notes['ran'] = ran.length
      notes['failed'] = ran.filter((outcome) => 'error' in outcome).map(({ name }) => name)
      return Response.json({ ran, skipped })
      // Whatever runs has a line of its own.
    },
    log,
    ({ name, ran }) => name !== undefined || Number(ran ?? 0) > 0,
  )

  async function runDue(): Promise<Outcome[]> {
    const due = dueAnswer.parse(await rpc('due_schedules', {}))
    // SQL first: it takes moments, while a function may take minutes.
    const inOrder = [
      ...due.filter(({ kind }) => kind === 'sql'),
      ...due.filter(({ kind }) => kind === 'function'),
    ]
    return await sideBySide(inOrder, AT_ONCE, ({ name }) => run(name))
  }

  async function runNamed(name: string): Promise<Outcome[]> {
    return [await run(name, { force: true })]
  }
}

async function requested(request: Request): Promise<z.infer<typeof requestSchema>> {
  const bytes = await readBytes(request, BODY_LIMIT)
  // Not every cron service can send a body, or say what it is.
  if (bytes.byteLength === 0) return {}
  requireJsonType(request)
  const read = requestSchema.safeParse(parseJson(bytes))
  if (!read.success) throw new HttpError(400, 'invalid_request', 'name: is not the name of a schedule')
  return read.data
}

/** One that fails does not stop the others: each outcome is its own. */
async function sideBySide<Item>(
  items: Item[],
  atOnce: number,
  run: (item: Item) => Promise<Outcome>,
): Promise<Outcome[]> {
  const waiting = items.values()
  const outcomes: Outcome[] = []
  const lane = async () => {
    for (const item of waiting) outcomes.push(await run(item))
  }
  await Promise.all(Array.from({ length: atOnce }, lane))
  return outcomes
}
