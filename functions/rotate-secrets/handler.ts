// Replacing an encryption key: every secret that another key than the first one seals is opened and sealed again, one by one.
// Running it twice, or beside itself, does no harm; what a crash leaves, the next run does. The answer says which keys are
// still needed.
import { z } from 'zod'
import { answering } from '../_shared/answer.ts'
import { requirePlatform } from '../_shared/caller.ts'
import { HttpError, methodNotAllowed, pathBelow } from '../_shared/http.ts'
import type { Log } from '../_shared/log.ts'
import type { Rpc } from '../_shared/rpc.ts'
import { isPurpose, type SecretBox } from '../_shared/secrets.ts'

const PAGE_SIZE = 100
const AT_ONCE = 8
const UNREADABLE_SHOWN = 100

export interface Dependencies {
  /** With the secret key. */
  rpc: Rpc
  secretKeys: readonly string[]
  secrets: SecretBox
  /** A run begins no further page after this. */
  budgetMs: number
  now: () => number
  log: Log
}

const sealedSecret = z.object({
  table_name: z.string(),
  organization_id: z.guid().nullable(),
  row_key: z.string(),
  column_name: z.string(),
  purpose: z.string(),
  sealed: z.string(),
})
type SealedSecret = z.infer<typeof sealedSecret>
type Outcome = 'resealed' | 'changed' | { unreadable: string }

const keyInUse = z.object({
  key_id: z.string(),
  secrets: z.number(),
  backups: z.number(),
  backups_until: z.string().nullable(),
})

export function createHandler(
  { rpc, secretKeys, secrets, budgetMs, now, log }: Dependencies,
): (request: Request) => Promise<Response> {
  const [sealingKey] = secrets.keyIds

  return answering(async (request, notes) => {
    if (pathBelow('rotate-secrets', new URL(request.url)).length > 0) {
      throw new HttpError(404, 'not_found', 'There is nothing here')
    }
    if (request.method !== 'GET' && request.method !== 'POST') throw methodNotAllowed('GET, POST')
    await requirePlatform(request, { secretKeys })
    if (request.method === 'GET') return Response.json({ sealing_key: sealingKey, keys: await keys() })

    const run = await resealAll()
    Object.assign(notes, {
      resealed: run.resealed,
      unreadable: run.unreadable.length,
      finished: run.finished,
    })
    return Response.json({
      sealing_key: sealingKey,
      ...run,
      unreadable: run.unreadable.slice(0, UNREADABLE_SHOWN),
      keys: await keys(),
    })
  }, log)

  async function resealAll() {
    const until = now() + budgetMs
    let resealed = 0
    const unreadable: (Omit<SealedSecret, 'sealed'> & { reason: string })[] = []
    let after: SealedSecret | undefined
    while (now() < until) {
      const page: SealedSecret[] = z.array(sealedSecret).parse(
        await rpc('secrets_to_reseal', { key_id: sealingKey, after: after ?? null, page_size: PAGE_SIZE }),
      )
      for (let start = 0; start < page.length; start += AT_ONCE) {
        const some = page.slice(start, start + AT_ONCE)
        for (const [index, outcome] of (await Promise.all(some.map(reseal))).entries()) {
          const secret = some[index]
          if (outcome === 'resealed') resealed += 1
          if (typeof outcome === 'object' && secret !== undefined) {
            const { sealed: _sealed, ...where } = secret
            unreadable.push({ ...where, reason: outcome.unreadable })
          }
        }
      }
      after = page.at(-1)
      if (page.length < PAGE_SIZE) return { finished: true, resealed, unreadable }
    }
    return { finished: false, resealed, unreadable }
  }

  async function reseal(
    { table_name, organization_id, row_key, column_name, purpose, sealed }: SealedSecret,
  ): Promise<Outcome> {
    if (!isPurpose(purpose)) return { unreadable: `Nothing is known of ${purpose}` }
    const place = { organizationId: organization_id, purpose }
    let secret: string
    try {
      secret = await secrets.open(sealed, place)
    } catch (error) {
      // One that is lost is not the end of the others.
      return { unreadable: error instanceof Error ? error.message : String(error) }
    }
    const resealed = await secrets.seal(secret, place)
    const isReplaced = await rpc('reseal_secret', { table_name, row_key, column_name, sealed, resealed })
    // Otherwise somebody wrote another one meanwhile, with a key of his; the next run looks at it.
    return isReplaced === true ? 'resealed' : 'changed'
  }

  async function keys() {
    const inUse = z.array(keyInUse).parse(await rpc('encryption_keys_in_use', {}))
    const ids = [...new Set([...secrets.keyIds, ...inUse.map(({ key_id }) => key_id)])]
    return ids.map((key_id) => {
      const use = inUse.find((one) => one.key_id === key_id)
      const is_needed = key_id === sealingKey || use !== undefined
      return {
        key_id,
        is_listed: secrets.keyIds.includes(key_id),
        is_needed,
        secrets: use?.secrets ?? 0,
        backups: use?.backups ?? 0,
        backups_until: use?.backups_until ?? null,
      }
    })
  }
}
