// The bytes of objects, as files. A file is named after its version, which is ours and new for each write: no name that a
// caller chose is ever part of a path, and a file once placed never changes.

import { createHash, randomUUID } from 'node:crypto'
import { constants } from 'node:fs'
import { copyFile, type FileHandle, mkdir, open, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { hasCode } from '../failure.ts'
import { refusals } from './refusal.ts'

const VERSION = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/
const INCOMING = 'incoming'

export interface StoredFile {
  version: string
  size: number
  eTag: string
}

export class ObjectFiles {
  private constructor(private readonly folder: string) {}

  /** Opens the folder and removes what no object knows: the rest of uploads that a crash broke off. */
  static async open(folder: string, versions: AsyncIterable<string>): Promise<ObjectFiles> {
    const files = new ObjectFiles(folder)
    await rm(join(folder, INCOMING), { recursive: true, force: true })
    await mkdir(join(folder, INCOMING), { recursive: true, mode: 0o700 })
    const known = new Set<string>()
    for await (const version of versions) known.add(version)
    for (const shard of await readdir(folder)) {
      if (shard === INCOMING) continue
      for (const version of await readdir(join(folder, shard))) {
        if (!known.has(version)) await rm(join(folder, shard, version), { force: true })
      }
    }
    return files
  }

  /** Takes bytes in, up to a limit. When this resolves they survive a crash; who does not keep them discards them. */
  async receive(content: AsyncIterable<Uint8Array>, limit: number): Promise<StoredFile> {
    const version = randomUUID()
    const incoming = join(this.folder, INCOMING, version)
    const hash = createHash('md5')
    let size = 0
    try {
      await write(incoming, async (file) => {
        for await (const chunk of content) {
          size += chunk.byteLength
          if (size > limit) throw refusals.tooLarge()
          hash.update(chunk)
          await file.appendFile(chunk)
        }
      })
      await this.place(incoming, version)
    } catch (error) {
      await rm(incoming, { force: true })
      throw error
    }
    return { version, size, eTag: `"${hash.digest('hex')}"` }
  }

  /** Another version with the same bytes; null when there are none of that version (any more). */
  async copy(version: string): Promise<string | null> {
    if (!VERSION.test(version)) return null
    const copied = randomUUID()
    const incoming = join(this.folder, INCOMING, copied)
    try {
      await copyFile(this.pathOf(version), incoming, constants.COPYFILE_FICLONE)
      await sync(incoming)
      await this.place(incoming, copied)
    } catch (error) {
      await rm(incoming, { force: true })
      if (hasCode(error, 'ENOENT')) return null
      throw error
    }
    return copied
  }

  /** Null when there is no file of that version (any more). */
  async open(version: string): Promise<FileHandle | null> {
    if (!VERSION.test(version)) return null
    try {
      return await open(this.pathOf(version), 'r')
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return null
      throw error
    }
  }

  /** Who is reading the file reads on. */
  async discard(version: string | null): Promise<void> {
    if (version !== null && VERSION.test(version)) await rm(this.pathOf(version), { force: true })
  }

  /** The name must be on the disk before a row refers to it. */
  private async place(incoming: string, version: string): Promise<void> {
    const shard = join(this.folder, version.slice(0, 2))
    const made = await mkdir(shard, { recursive: true, mode: 0o700 })
    await rename(incoming, this.pathOf(version))
    await sync(shard)
    if (made !== undefined) await sync(this.folder)
  }

  private pathOf(version: string): string {
    return join(this.folder, version.slice(0, 2), version)
  }
}

async function write(path: string, fill: (file: FileHandle) => Promise<void>): Promise<void> {
  const file = await open(path, 'wx', 0o600)
  try {
    await fill(file)
    await file.sync()
  } finally {
    await file.close()
  }
}

async function sync(path: string): Promise<void> {
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}
