// Files of the project's Storage, as the worker needs them: streamed in, taken away, lent out by an address that ends.
import { createClient } from '@supabase/supabase-js'

export interface Storage {
  /** Replaces what is there. When the stream breaks, nothing is stored. */
  upload(bucket: string, path: string, file: ReadableStream<Uint8Array>, contentType: string): Promise<void>
  remove(bucket: string, path: string): Promise<void>
  signedUrl(bucket: string, path: string, seconds: number): Promise<string>
}

export interface ReadableStorage extends Storage {
  /** Null: there is no such file. */
  download(bucket: string, path: string): Promise<ReadableStream<Uint8Array> | null>
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

// What a URL parser, a decoder or a file system would read as something else than a letter of the name.
// deno-lint-ignore no-control-regex -- a tab or a line end is dropped from a URL without a word.
const MISREAD = /[%\\?#\u0000-\u001f\u007f]/

/** Whether a path names one file and cannot be led out of its folder. */
export function isFilePath(path: string): boolean {
  return path.isWellFormed() && !MISREAD.test(path) &&
    path.split('/').every((segment) => segment !== '' && segment !== '.' && segment !== '..')
}

/** `publicUrl` is where the world reaches Storage, if that is elsewhere. */
export function createStorage(
  { url, secretKey, publicUrl = url }: { url: string; secretKey: string; publicUrl?: string },
): ReadableStorage {
  const { storage } = createClient(url, secretKey, {
    auth: { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false },
  })
  return {
    async upload(bucket, path, file, contentType) {
      // Without duplex a stream would be read into memory first.
      const { error } = await storage.from(bucket).upload(encoded(path), file, {
        contentType,
        upsert: true,
        duplex: 'half',
      })
      if (error) throw failure(error)
    },
    async remove(bucket, path) {
      // This one goes in the body.
      if (!isFilePath(path)) throw notAFile()
      const { error } = await storage.from(bucket).remove([path])
      if (error) throw failure(error)
    },
    async download(bucket, path) {
      const { data, error } = await storage.from(bucket).download(encoded(path)).asStream()
      if (error === null) return data
      const refusal = failure(error)
      // Hosted, a missing file is 400 by its HTTP status, and 404 in the body.
      if (refusal.status === 404 || refusal.status === 400) return null
      throw refusal
    },
    async signedUrl(bucket, path, seconds) {
      const { data, error } = await storage.from(bucket).createSignedUrl(encoded(path), seconds)
      if (error) throw failure(error)
      return data.signedUrl.startsWith(url) ? publicUrl + data.signedUrl.slice(url.length) : data.signedUrl
    },
  }
}

/** The client puts a path into its URL as it is; Storage decodes once what it finds there, and the client its answer. */
function encoded(path: string): string {
  if (!isFilePath(path)) throw notAFile()
  return encodeURI(path)
}

function notAFile(): StorageFailure {
  return new StorageFailure(400, 'this is not the path of a file')
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
