// Files of the project's Storage, as the worker needs them: streamed in, taken away, lent out by an address that ends.
import { createClient } from '@supabase/supabase-js'

export interface Storage {
  /** Replaces what is there. When the stream breaks, nothing is stored. */
  upload(bucket: string, path: string, file: ReadableStream<Uint8Array>, contentType: string): Promise<void>
  remove(bucket: string, path: string): Promise<void>
  signedUrl(bucket: string, path: string, seconds: number): Promise<string>
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

/** `publicUrl` is where the world reaches Storage, if that is elsewhere. */
export function createStorage(
  { url, secretKey, publicUrl = url }: { url: string; secretKey: string; publicUrl?: string },
): Storage {
  const { storage } = createClient(url, secretKey, {
    auth: { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false },
  })
  return {
    async upload(bucket, path, file, contentType) {
      // Without duplex a stream would be read into memory first.
      const { error } = await storage.from(bucket).upload(path, file, {
        contentType,
        upsert: true,
        duplex: 'half',
      })
      if (error) throw failure(error)
    },
    async remove(bucket, path) {
      const { error } = await storage.from(bucket).remove([path])
      if (error) throw failure(error)
    },
    async signedUrl(bucket, path, seconds) {
      const { data, error } = await storage.from(bucket).createSignedUrl(path, seconds)
      if (error) throw failure(error)
      return data.signedUrl.startsWith(url) ? publicUrl + data.signedUrl.slice(url.length) : data.signedUrl
    },
  }
}

/** Storage tells its own status in the body: the HTTP status of a missing file is 400. */
function failure(
  error: { message: string; status?: number | undefined; statusCode?: string | undefined },
): StorageFailure {
  const status = Number(error.statusCode)
  return new StorageFailure(
    Number.isInteger(status) && status >= 100 ? status : error.status ?? 0,
    error.message,
  )
}
