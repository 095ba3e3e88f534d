// What of a path reaches Storage: the file that is meant, or nothing.
import assert from 'node:assert/strict'
import {
  createStorage,
  isFilePath,
  type Storage,
  StorageFailure,
} from '../../functions/queue-worker/storage.ts'
import { CLINIC } from './support.ts'

const OTHER = '0193f2b4-0000-7000-8000-00000000c222'

/** Runs a story against a Storage that answers like the hosted one: with the path, once decoded. */
async function withStorage(story: (storage: Storage, paths: string[]) => Promise<void>): Promise<void> {
  const paths: string[] = []
  const server = Deno.serve({ port: 0, hostname: '127.0.0.1', onListen: () => {} }, async (request) => {
    await request.arrayBuffer()
    const path = decodeURI(new URL(request.url).pathname).replace('/storage/v1', '')
    paths.push(path)
    return Response.json({ signedURL: `${path}?token=abc`, Id: 'x', Key: path })
  })
  const url = `http://127.0.0.1:${server.addr.port}`
  try {
    await story(
      createStorage({ url, secretKey: 'sb_secret_platform', publicUrl: 'https://exemplo.supabase.co' }),
      paths,
    )
  } finally {
    await server.shutdown()
  }
}

Deno.test('a name arrives as it is, whatever a URL would make of it', async () => {
  const names = [
    "Maria's exame (1).pdf",
    'a b&c$d@e=f;g:h+i,j.jpg',
    'ends with a space ',
    'ação [1].pdf',
    '...',
  ]
  await withStorage(async (storage, paths) => {
    for (const name of names) {
      const path = `${CLINIC}/outgoing/${name}`
      await storage.upload('media', path, new Blob(['x']).stream(), 'text/plain')
      const lent = await storage.signedUrl('media', path, 60)
      assert.deepEqual(paths.splice(0), [`/object/media/${path}`, `/object/sign/media/${path}`])
      assert.equal(
        decodeURI(lent),
        `https://exemplo.supabase.co/storage/v1/object/sign/media/${path}?token=abc`,
      )
    }
  })
})

Deno.test('a path that leads elsewhere is refused before Storage is asked', async () => {
  const bad = [
    `${CLINIC}/../${OTHER}/x.pdf`,
    `${CLINIC}/%2e%2e/${OTHER}/x.pdf`,
    `${CLINIC}/.%2E/${OTHER}/x.pdf`,
    `${CLINIC}/x\\..\\..\\${OTHER}\\x.pdf`,
    `${CLINIC}/.\t./${OTHER}/x.pdf`,
    `${CLINIC}/x\u007f.pdf`,
    `${CLINIC}/./x.pdf`,
    `${CLINIC}//x.pdf`,
    `/${CLINIC}/x.pdf`,
    `${CLINIC}/`,
    `${CLINIC}/x?y`,
    `${CLINIC}/x#y`,
    `${CLINIC}/\ud800`,
    '',
  ]
  await withStorage(async (storage, paths) => {
    for (const path of bad) {
      assert.equal(isFilePath(path), false, path)
      const refused = (error: unknown) => error instanceof StorageFailure && error.status === 400
      const stream = new Blob(['x']).stream()
      await assert.rejects(storage.upload('media', path, stream, 'text/plain'), refused, path)
      await assert.rejects(storage.signedUrl('media', path, 60), refused, path)
      await assert.rejects(storage.remove('media', path), refused, path)
      assert.deepEqual(paths, [], path)
    }
  })
})
