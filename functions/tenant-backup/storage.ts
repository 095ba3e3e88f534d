// The bucket with the backups: files of any size, streamed in and out, with the secret key.
import { createClient } from '@supabase/supabase-js'

const BUCKET = 'backups'

export interface BackupFiles {
  /** Replaces what is there. When the stream breaks, nothing is stored. */
  upload(path: string, file: ReadableStream<Uint8Array>): Promise<void>
  /** Null: there is no such file. */
  download(path: string): Promise<ReadableStream<Uint8Array> | null>
  /** Fine with a file that is not there. */
  remove(path: string): Promise<void>
}

export class StorageFailure extends Error {
  override readonly name = 'StorageFailure'

  constructor(
    /** HTTP status; 0 when Storage did not answer. */
    readonly status: number,
    message: string,
  ) {
    super(`Storage: ${message}`)
  }
}

export function createBackupFiles({ url, secretKey }: { url: string; secretKey: string }): BackupFiles {
  const { storage } = createClient(url, secretKey, {
    auth: { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false },
  })
  return {
    async upload(path, file) {
      // Without duplex a stream would be read into memory first.
      const options = { contentType: 'application/octet-stream', upsert: true, duplex: 'half' }
      const { error } = await storage.from(BUCKET).upload(path, file, options)
      if (error) throw failure(error)
    },
    async download(path) {
      const { data, error } = await storage.from(BUCKET).download(path).asStream()
      if (error === null) return data
      const refusal = failure(error)
      // Hosted, a missing file is 400 by its HTTP status, and 404 in the body.
      if (refusal.status === 404 || refusal.status === 400) return null
      throw refusal
    },
    async remove(path) {
      const { error } = await storage.from(BUCKET).remove([path])
      if (error) throw failure(error)
    },
  }
}

function failure(
  error: { message: string; status?: number | undefined; statusCode?: string | undefined },
): StorageFailure {
  const status = Number(error.statusCode)
  return new StorageFailure(
    Number.isInteger(status) && status >= 100 ? status : error.status ?? 0,
    error.message,
  )
}
