// Backups of one tenant: made, listed and verified for its owner or the platform; restored by the platform alone.
import { z } from 'zod'
import { answering } from '../_shared/answer.ts'
import { call, type Caller, callerOf, type Callers, jsonOf, withCors } from '../_shared/app-request.ts'
import type { Background } from '../_shared/background.ts'
import { requirePlatform as requirePlatformOrClock } from '../_shared/caller.ts'
import { HttpError, methodNotAllowed, pathBelow } from '../_shared/http.ts'
import type { Log } from '../_shared/log.ts'
import { type BackupId, type Dependencies as MakerDependencies, makeBackup } from './create.ts'
import { BackupFileError } from './file.ts'
import { checked } from './requests.ts'
import { restoreBackup } from './restore.ts'
import { type BackupRow, backupRow, verifyBackup } from './verify.ts'

export interface Dependencies extends Callers, Omit<MakerDependencies, 'rpc'> {
  background: Background
  /** With it the clock may have files removed, and nothing else. */
  cronSecret: string | undefined
  /** Where Meta delivers: `…/whatsapp-webhook/meta`. */
  webhookBaseUrl: string
  wake: () => void
  log: Log
}

const expiredFiles = z.array(z.object({ organization_id: z.guid(), id: z.guid(), storage_path: z.string() }))

export function createHandler(
  { secrets, files, randomBytes, background, cronSecret, webhookBaseUrl, wake, log, ...callers }:
    Dependencies,
): (request: Request) => Promise<Response> {
  const platform: Caller = { isPlatform: true, rpc: callers.platformRpc }
  // What the database refuses is told as it is, whoever asked.
  const rpc = (name: string, args: Record<string, unknown>) => call(platform, name, args)
  const maker = { rpc: callers.platformRpc, secrets, files, randomBytes, log }

  return withCors(answering(async (request, notes) => {
    if (pathBelow('tenant-backup', new URL(request.url)).length > 0) {
      throw new HttpError(404, 'not_found', 'There is nothing here')
    }
    if (request.method === 'OPTIONS') return new Response(null, { status: 204 })
    if (request.method !== 'POST') throw methodNotAllowed('POST, OPTIONS')
    const isClock = request.headers.has('x-cron-secret')
    if (isClock) await requirePlatformOrClock(request, { secretKeys: callers.secretKeys, cronSecret })
    const caller = isClock ? platform : await callerOf(request, callers)
    const asked = checked(await jsonOf(request))
    if (isClock && asked.action !== 'cleanup') {
      throw new HttpError(403, 'not_allowed', "This needs a user's access token, or the secret key")
    }
    notes['caller'] = caller.isPlatform ? 'platform' : 'user'
    notes['action'] = asked.action
    if ('organization_id' in asked) notes['organization_id'] = asked.organization_id

    switch (asked.action) {
      case 'create':
        return await create(caller, asked.organization_id, asked.wait)
      case 'list':
        return answer({ backups: await list(caller, asked) })
      case 'verify': {
        const [backup] = await list(caller, asked)
        if (backup === undefined) {
          throw new HttpError(404, 'backup_not_found', 'This organization has no such backup')
        }
        return answer(await told(verifyBackup(backup, { secrets, files })))
      }
      case 'run':
        requirePlatform(caller)
        return answer({ backup: await make(asked) })
      case 'restore': {
        requirePlatform(caller)
        return answer({ restored: await finished(restoreBackup(asked, { rpc, secrets, files, log })) })
      }
      case 'release':
        requirePlatform(caller)
        return answer(
          await rpc('release_restored_organization', {
            organization_id: asked.organization_id,
            webhook_base_url: webhookBaseUrl,
          }),
        )
      case 'cleanup':
        requirePlatform(caller)
        return answer(await removeFiles())
      default:
        return asked satisfies never
    }
  }, log))

  async function create(caller: Caller, organization_id: string, isAwaited: boolean): Promise<Response> {
    const asked = backupRow.parse(
      await call(caller, 'create_backup', { organization_id, runs_at_once: isAwaited }),
    )
    if (!isAwaited) {
      wake()
      return answer({ backup: asked }, 202)
    }
    await make({ organization_id, backup_id: asked.id })
    const [backup] = await list(caller, { organization_id, backup_id: asked.id })
    return answer({ backup }, 201)
  }

  async function make({ organization_id, backup_id }: BackupId): Promise<unknown> {
    return await finished(makeBackup({ organization_id, backup_id }, { ...maker, rpc }))
  }

  async function list(
    caller: Caller,
    { organization_id, backup_id }: { organization_id: string; backup_id?: string },
  ): Promise<BackupRow[]> {
    const rows = await call(caller, 'list_backups', { organization_id, ...(backup_id ? { backup_id } : {}) })
    return z.array(backupRow).parse(rows)
  }

  async function removeFiles(): Promise<Record<string, unknown>> {
    let removed = 0
    for (
      const { organization_id, id, storage_path } of expiredFiles.parse(
        await rpc('backup_files_to_remove', {}),
      )
    ) {
      await files.remove(storage_path)
      await rpc('note_backup_file_removed', { organization_id, backup_id: id })
      removed += 1
    }
    return { removed }
  }

  /** Whoever hangs up does not leave it half-done. */
  async function finished<Result>(work: Promise<Result>): Promise<Result> {
    background(work.catch(() => undefined))
    return await told(work)
  }
}

/** A file that cannot be read is the answer, not our failure. */
async function told<Result>(work: Promise<Result>): Promise<Result> {
  try {
    return await work
  } catch (error) {
    throw error instanceof BackupFileError ? new HttpError(422, error.code, error.message) : error
  }
}

function requirePlatform(caller: Caller): void {
  if (!caller.isPlatform) throw new HttpError(403, 'not_allowed', 'Only the platform may do this')
}

function answer(body: unknown, status = 200): Response {
  return Response.json(body, { status, headers: { 'cache-control': 'no-store' } })
}
