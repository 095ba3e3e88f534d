// What the local Storage claims: supabase-js works on it as on a hosted project, policies decide, and no file and no row
// is ever without the other.

import { createHash, randomBytes, randomUUID } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { request as send } from 'node:http'
import { join } from 'node:path'
import { createClient } from '@supabase/supabase-js'
import postgres from 'postgres'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { DataDirectory } from '../../local/data-directory.ts'
import { apiKeys } from '../../local/api-keys.ts'
import { preparedDataDir } from '../support/own-stack.ts'
import { eventually, kill, startCommand } from '../support/processes.ts'
import { runningStack } from '../support/running-stack.ts'
import {
  asAttendantOf,
  asNobody,
  asOwnerOf,
  asPlatform,
  asViewerOf,
  aTenant,
  type Client,
  memberOf,
  type Tenant,
  valueOf,
} from '../support/tenants.ts'

const backend = runningStack()
const storageUrl = `${backend.urls.api}/storage/v1`
const mark = randomUUID().slice(0, 8)
const CABINET = `cabinet-${mark}`
const TRAY = `tray-${mark}`
const WINDOW = `window-${mark}`
const MEGABYTE = 1024 * 1024

let sql: postgres.Sql
let admin: postgres.Sql
let clinic: Tenant
let petshop: Tenant
const platform = asPlatform(backend)

beforeAll(async () => {
  // As a migration would, not as a superuser.
  sql = postgres(backend.urls.database, { max: 1, onnotice: () => undefined })
  admin = postgres(backend.urls.admin, { max: 1, onnotice: () => undefined })
  await sql`
    insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types)
    values
      (${CABINET}, ${CABINET}, false, null, null),
      (${TRAY}, ${TRAY}, false, 1000, '{text/plain,image/*}'),
      (${WINDOW}, ${WINDOW}, true, null, null)`
  await sql.unsafe(policies())
  clinic = await aTenant(backend, 'Clínica do Arquivo', ['attendant', 'viewer'])
  petshop = await aTenant(backend, 'Petshop ao Lado')
})

afterAll(async () => {
  for (const bucket of [CABINET, TRAY, WINDOW]) {
    await platform.storage.emptyBucket(bucket)
    await platform.storage.deleteBucket(bucket)
  }
  for (const name of ['read', 'add', 'change', 'remove']) {
    await sql.unsafe(`drop policy "${mark} ${name}" on storage.objects`)
  }
  await sql.end()
  await admin.end()
})

/** Viewers read what lies in their organization's folder, attendants do all else. */
function policies(): string {
  const inFolderOf = (role: string) =>
    `bucket_id in ('${CABINET}', '${TRAY}')
      and (storage.foldername(name))[1] = any ((select private.member_organizations('${role}'))::text[])`
  return `
    create policy "${mark} read" on storage.objects for select to authenticated using (${inFolderOf('viewer')});
    create policy "${mark} add" on storage.objects for insert to authenticated with check (${inFolderOf('attendant')});
    create policy "${mark} change" on storage.objects for update to authenticated
      using (${inFolderOf('attendant')}) with check (${inFolderOf('attendant')});
    create policy "${mark} remove" on storage.objects for delete to authenticated using (${inFolderOf('attendant')});`
}

const of = (client: Client, bucket = CABINET) => client.storage.from(bucket)
const folderOf = ({ organizationId }: Tenant) => `${organizationId}/${randomUUID()}`

async function contentOf(client: Client, path: string, bucket = CABINET): Promise<string> {
  return await valueOf(await of(client, bucket).download(path)).text()
}

/** What Storage says of a refusal in its body; the HTTP status is 400 for most. */
async function refusal(answer: PromiseLike<{ error: { statusCode?: string | undefined } | null }>): Promise<string> {
  const { error } = await answer
  return error?.statusCode ?? 'none'
}

async function aFile(path: string, content = 'laudo', bucket = CABINET): Promise<string> {
  valueOf(await of(platform, bucket).upload(path, content, { contentType: 'text/plain' }))
  return path
}

/** A path as it is, which fetch would tidy up first. */
async function rawRequest(
  path: string,
  { method = 'GET', body = '', headers = {} }: { method?: string; body?: string; headers?: Record<string, string> } =
    {},
): Promise<{ status: number; body: string }> {
  return await new Promise((resolve, reject) => {
    const { hostname, port } = new URL(backend.urls.api)
    const all = { apikey: backend.keys.secret, 'content-length': Buffer.byteLength(body), ...headers }
    const outgoing = send({ hostname, port, path: `/storage/v1${path}`, method, headers: all }, (response) => {
      let text = ''
      response.setEncoding('utf8').on('data', (chunk) => (text += chunk))
      response.once('end', () => resolve({ status: response.statusCode ?? 0, body: text }))
    })
    outgoing.once('error', reject).end(body)
  })
}

/** Every file that lies there, and every file that a row refers to. */
async function filesAndRows(dataDir: string, database: postgres.Sql): Promise<{ files: string[]; rows: string[] }> {
  const rows = await database<{ version: string }[]>`select version from storage.objects where version is not null`
  return { files: filesIn(dataDir).sort(), rows: rows.map(({ version }) => version).sort() }
}

function filesIn(dataDir: string): string[] {
  return readdirSync(join(dataDir, 'storage'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ name }) => name)
}

afterEach(async () => {
  const isTidy = async () => {
    const { files, rows } = await filesAndRows(backend.dataDir, admin)
    return files.join() === rows.join()
  }
  // What the stack's own worker stores at this moment is allowed to be half done.
  await eventually(isTidy)
})

// -----------------------------------------------------------------------------------------------------------------------

describe('files come and go', () => {
  const content = randomBytes(200_000)
  test.each<[string, () => Parameters<ReturnType<typeof of>['upload']>[1]]>([
    ['Buffer', () => content],
    ['ArrayBuffer', () => new Uint8Array(content).buffer],
    ['Blob', () => new Blob([new Uint8Array(content)], { type: 'image/png' })],
    ['File in a form', () => {
      const form = new FormData()
      form.append('', new File([new Uint8Array(content)], 'raio "x".png', { type: 'image/png' }))
      return form
    }],
    ['ReadableStream', () => new Blob([new Uint8Array(content)]).stream()],
  ])('a %s', async (kind, body) => {
    const attendant = asAttendantOf(clinic)
    const path = `${folderOf(clinic)}/exame (1) & outros.png`
    const uploaded = valueOf(
      await of(attendant).upload(path, body(), {
        contentType: 'image/png',
        cacheControl: '60',
        metadata: { paciente: 'João', kind },
      }),
    )
    expect(uploaded).toMatchObject({ path, fullPath: `${CABINET}/${path}` })
    const blob = valueOf(await of(attendant).download(path))
    expect(blob.type).toBe('image/png')
    expect(Buffer.from(await blob.arrayBuffer()).equals(content)).toBe(true)
    const eTag = `"${createHash('md5').update(content).digest('hex')}"`
    expect(valueOf(await of(attendant).info(path))).toMatchObject({
      id: uploaded.id,
      name: path,
      bucketId: CABINET,
      size: content.length,
      contentType: 'image/png',
      cacheControl: 'max-age=60',
      etag: eTag,
      // A form that somebody made himself has its metadata after the file.
      metadata: { paciente: 'João', kind },
    })
    const [row] = await admin`select owner, owner_id, metadata from storage.objects where id = ${uploaded.id}`
    const { userId } = memberOf(clinic, 'attendant')
    expect(row).toMatchObject({
      owner: userId,
      owner_id: userId,
      metadata: { eTag, size: content.length, mimetype: 'image/png', contentLength: content.length },
    })
  })

  test('an empty file, and one whose content looks like a form', async () => {
    const path = folderOf(clinic)
    const attendant = asAttendantOf(clinic)
    valueOf(await of(attendant).upload(`${path}/empty`, new Blob([])))
    expect(await contentOf(attendant, `${path}/empty`)).toBe('')
    const tricky = `\r\n--\r\n------formdata-undici-0\r\n\r\n--${'x'.repeat(70_000)}\r\n-`
    valueOf(await of(attendant).upload(`${path}/tricky`, new Blob([tricky])))
    expect(await contentOf(attendant, `${path}/tricky`)).toBe(tricky)
  })

  test('what is there is replaced only on request', async () => {
    const attendant = of(asAttendantOf(clinic))
    const path = `${folderOf(clinic)}/ficha.txt`
    const first = valueOf(await attendant.upload(path, 'um'))
    expect(await attendant.upload(path, 'dois')).toMatchObject({
      error: { status: 400, statusCode: '409', message: 'The resource already exists' },
    })
    expect(await contentOf(asOwnerOf(clinic), path)).toBe('um')
    const second = valueOf(await attendant.upload(path, 'dois', { upsert: true }))
    expect(await contentOf(asOwnerOf(clinic), path)).toBe('dois')
    valueOf(await attendant.update(path, 'três'))
    expect(await contentOf(asOwnerOf(clinic), path)).toBe('três')
    expect(second.id).toBe(first.id)
  })

  test('move, copy, remove', async () => {
    const attendant = asAttendantOf(clinic)
    const folder = folderOf(clinic)
    const path = await aFile(`${folder}/a.txt`)
    valueOf(await of(attendant).move(path, `${folder}/b.txt`))
    expect(valueOf(await of(attendant).copy(`${folder}/b.txt`, `${folder}/c.txt`)).path).toBe(
      `${CABINET}/${folder}/c.txt`,
    )
    expect(await of(attendant).exists(path)).toMatchObject({ data: false })
    expect(await of(attendant).exists(`${folder}/b.txt`)).toMatchObject({ data: true })
    expect(await contentOf(attendant, `${folder}/c.txt`)).toBe('laudo')
    // Neither moves nor copies over what is there.
    expect(await refusal(of(attendant).move(`${folder}/b.txt`, `${folder}/c.txt`))).toBe('409')
    expect(await refusal(of(attendant).copy(`${folder}/b.txt`, `${folder}/c.txt`))).toBe('409')
    expect(await refusal(of(attendant).move(`${folder}/none`, `${folder}/d.txt`))).toBe('404')

    valueOf(await of(attendant).copy(`${folder}/b.txt`, `${folder}/b.txt`, { destinationBucket: TRAY }))
    expect(await contentOf(attendant, `${folder}/b.txt`, TRAY)).toBe('laudo')
    valueOf(await of(attendant).move(`${folder}/c.txt`, `${folder}/c.txt`, { destinationBucket: TRAY }))
    expect(await contentOf(attendant, `${folder}/c.txt`, TRAY)).toBe('laudo')

    const removed = valueOf(await of(attendant).remove([`${folder}/b.txt`, `${folder}/none`]))
    expect(removed.map(({ name }) => name)).toEqual([`${folder}/b.txt`])
    expect(await refusal(of(attendant).download(`${folder}/b.txt`))).toBe('404')
    expect(await rawRequest(`/object/${TRAY}/${folder}/b.txt`, { method: 'DELETE' })).toMatchObject({ status: 200 })
    expect(await refusal(of(attendant, TRAY).info(`${folder}/b.txt`))).toBe('404')
  })

  test('60 MB pass through, both ways', async () => {
    const block = randomBytes(MEGABYTE)
    const hash = createHash('sha256')
    let sent = 0
    const stream = new ReadableStream<Uint8Array>({
      pull(controller) {
        if (sent++ === 60) return controller.close()
        hash.update(block)
        controller.enqueue(new Uint8Array(block))
      },
    })
    const attendant = of(asAttendantOf(clinic))
    const path = `${folderOf(clinic)}/video.mp4`
    valueOf(await attendant.upload(path, stream, { contentType: 'video/mp4', duplex: 'half' }))
    const received = createHash('sha256')
    let size = 0
    for await (const chunk of valueOf(await attendant.download(path).asStream())) {
      received.update(chunk)
      size += chunk.length
    }
    expect(size).toBe(60 * MEGABYTE)
    expect(received.digest('hex')).toBe(hash.digest('hex'))
  })
})

describe('listing', () => {
  const folder = () => `${clinic.organizationId}/lista`
  beforeAll(async () => {
    for (const name of ['b.txt', 'A.txt', 'c/1.txt', 'c/2.txt', 'd/e/3.txt', '100__sure.txt', '100xxsure.txt']) {
      await aFile(`${folder()}/${name}`, name)
    }
  })

  test('shows one level: files, and folders without an id', async () => {
    const entries = valueOf(await of(asViewerOf(clinic)).list(folder()))
    expect(entries.map(({ name, id }) => [name, id === null])).toEqual([
      ['100__sure.txt', false],
      ['100xxsure.txt', false],
      ['A.txt', false],
      ['b.txt', false],
      ['c', true],
      ['d', true],
    ])
    expect(entries.find(({ name }) => name === 'b.txt')?.metadata).toMatchObject({ size: 5, mimetype: 'text/plain' })
    expect(valueOf(await of(asViewerOf(clinic)).list(`${folder()}/c/`)).map(({ name }) => name)).toEqual([
      '1.txt',
      '2.txt',
    ])
  })

  test.each([
    [{ limit: 2, offset: 1 }, ['100xxsure.txt', 'A.txt']],
    [{ sortBy: { column: 'name', order: 'desc' }, limit: 3 }, ['d', 'c', 'b.txt']],
    [{ sortBy: { column: 'created_at', order: 'desc' }, limit: 2 }, ['100xxsure.txt', '100__sure.txt']],
    [{ search: 'a' }, ['A.txt']],
    [{ search: '100__' }, ['100__sure.txt']],
    [{ search: 'c/2' }, ['c/2.txt']],
    [{ search: 'z' }, []],
  ])('%j', async (options, expected) => {
    expect(valueOf(await of(asViewerOf(clinic)).list(folder(), options)).map(({ name }) => name)).toEqual(expected)
  })

  test.each(
    [
      ['name', ['100__sure.txt', '100xxsure.txt', 'A.txt', 'b.txt', 'c/', 'd/']],
      // In the order in which they were made; folders have no time.
      ['created_at', ['c/', 'd/', 'b.txt', 'A.txt', '100__sure.txt', '100xxsure.txt']],
    ] as const,
  )('page by page, by %s', async (column, names) => {
    for (const order of ['asc', 'desc'] as const) {
      const seen: string[] = []
      let cursor: string | undefined
      do {
        const { folders, objects, nextCursor }: Awaited<ReturnType<typeof pageOf>> = await pageOf({
          sortBy: { column, order },
          ...(cursor === undefined ? {} : { cursor }),
        })
        seen.push(...[...folders, ...objects].map(({ name }) => name.slice(folder().length + 1)))
        cursor = nextCursor
      } while (cursor !== undefined)
      expect(seen).toEqual(order === 'asc' ? names : names.toReversed())
    }
    expect((await pageOf({ limit: 100 })).hasNext).toBe(false)
    expect(await refusal(of(asViewerOf(clinic)).listV2({ cursor: 'guess' }))).toBe('400')
  })

  async function pageOf(options: { limit?: number; cursor?: string; sortBy?: SortBy }) {
    const all = { prefix: `${folder()}/`, with_delimiter: true, limit: 1, ...options }
    return valueOf(await of(asViewerOf(clinic)).listV2(all))
  }
})

interface SortBy {
  column: 'name' | 'created_at'
  order: 'asc' | 'desc'
}

describe('policies decide', () => {
  test('another tenant and nobody see nothing, get nothing and change nothing', async () => {
    const path = await aFile(`${folderOf(clinic)}/segredo.txt`)
    for (const client of [asOwnerOf(petshop), asNobody(backend)]) {
      const stranger = of(client)
      expect(await refusal(stranger.download(path))).toBe('404')
      expect(await refusal(stranger.info(path))).toBe('404')
      expect(await stranger.exists(path)).toMatchObject({ data: false })
      expect(valueOf(await stranger.list(clinic.organizationId))).toEqual([])
      expect(valueOf(await stranger.listV2({ prefix: clinic.organizationId })).objects).toEqual([])
      expect(await refusal(stranger.createSignedUrl(path, 60))).toBe('404')
      expect(valueOf(await stranger.createSignedUrls([path], 60))).toMatchObject([{ path, signedUrl: null }])
      expect(await refusal(stranger.createSignedUploadUrl(`${path}.new`))).toBe('403')
      expect(await refusal(stranger.upload(`${path}.new`, 'x'))).toBe('403')
      expect(await refusal(stranger.upload(path, 'x'))).toBe('403')
      expect(await refusal(stranger.upload(path, 'x', { upsert: true }))).toBe('403')
      expect(await refusal(stranger.update(path, 'x'))).toBe('403')
      expect(await refusal(stranger.move(path, `${petshop.organizationId}/mine.txt`))).toBe('404')
      expect(await refusal(stranger.copy(path, `${petshop.organizationId}/mine.txt`))).toBe('404')
      expect(valueOf(await stranger.remove([path]))).toEqual([])
    }
    const own = await aFile(`${folderOf(petshop)}/own.txt`)
    expect(await refusal(of(asOwnerOf(petshop)).move(own, `${clinic.organizationId}/planted.txt`))).toBe('403')
    expect(await refusal(of(asOwnerOf(petshop)).copy(own, `${clinic.organizationId}/planted.txt`))).toBe('403')
    expect(await contentOf(asOwnerOf(clinic), path)).toBe('laudo')
  })

  test('who may only read only reads', async () => {
    const path = await aFile(`${folderOf(clinic)}/a.txt`)
    const viewer = of(asViewerOf(clinic))
    expect(await contentOf(asViewerOf(clinic), path)).toBe('laudo')
    expect(await refusal(viewer.upload(`${path}.new`, 'x'))).toBe('403')
    expect(await refusal(viewer.update(path, 'x'))).toBe('403')
    expect(await refusal(viewer.move(path, `${path}.new`))).toBe('404')
    expect(valueOf(await viewer.remove([path]))).toEqual([])
    expect(await contentOf(asViewerOf(clinic), path)).toBe('laudo')
  })

  test('buckets are made and changed by the platform only', async () => {
    const name = `own-${randomUUID()}`
    const member = asOwnerOf(clinic).storage
    expect(await refusal(member.createBucket(name))).toBe('403')
    expect(valueOf(await member.listBuckets())).toEqual([])
    expect(await refusal(member.getBucket(CABINET))).toBe('404')
    expect(await refusal(member.updateBucket(CABINET, { public: true }))).toBe('404')
    expect(await refusal(member.emptyBucket(CABINET))).toBe('404')

    const { storage } = platform
    valueOf(await storage.createBucket(name, { public: false, fileSizeLimit: '1MB', allowedMimeTypes: ['image/*'] }))
    expect(await refusal(storage.createBucket(name))).toBe('409')
    expect(valueOf(await storage.getBucket(name))).toMatchObject({
      id: name,
      name,
      public: false,
      file_size_limit: 1e6,
      allowed_mime_types: ['image/*'],
    })
    valueOf(await storage.updateBucket(name, { public: true, allowedMimeTypes: null, fileSizeLimit: null }))
    expect(valueOf(await storage.listBuckets({ search: name, limit: 5, sortColumn: 'created_at', sortOrder: 'desc' })))
      .toMatchObject([{ id: name, public: true, file_size_limit: null, allowed_mime_types: null }])
    await aFile('a.txt', 'x', name)
    expect(await refusal(storage.deleteBucket(name))).toBe('409')
    expect(await refusal(member.deleteBucket(name))).toBe('409')
    valueOf(await storage.emptyBucket(name))
    expect(await refusal(member.deleteBucket(name))).toBe('404')
    valueOf(await storage.deleteBucket(name))
    expect(await refusal(storage.getBucket(name))).toBe('404')
    expect(await refusal(storage.from(name).upload('a.txt', 'x'))).toBe('404')
    expect(await refusal(storage.createBucket('../other'))).toBe('400')
    expect(await refusal(storage.createBucket('..'))).toBe('400')
  })

  test('a public bucket is read by everybody, without a key, and written by nobody else', async () => {
    const path = await aFile(`${randomUUID()}/vitrine.html`, '<b>oi</b>', WINDOW)
    const { publicUrl } = of(asNobody(backend), WINDOW).getPublicUrl(path, { download: 'Promoção.html' }).data
    const response = await fetch(publicUrl)
    expect(response.status).toBe(200)
    expect(await response.text()).toBe('<b>oi</b>')
    expect((await fetch(publicUrl, { method: 'HEAD' })).status).toBe(200)
    expect(await contentOf(asOwnerOf(petshop), path, WINDOW)).toBe('<b>oi</b>')
    expect(await refusal(of(asOwnerOf(petshop), WINDOW).upload(`${path}.new`, 'x'))).toBe('403')
    expect(valueOf(await of(asOwnerOf(petshop), WINDOW).list())).toEqual([])

    const closed = await aFile(`${folderOf(clinic)}/a.txt`)
    const refused = await fetch(of(platform).getPublicUrl(closed).data.publicUrl)
    expect(refused.status).toBe(400)
    expect(await refused.json()).toEqual({ statusCode: '404', error: 'Bucket not found', message: 'Bucket not found' })
  })

  test('no request without a key, no token that is not ours', async () => {
    const path = await aFile(`${folderOf(clinic)}/a.txt`)
    expect((await fetch(`${storageUrl}/object/${CABINET}/${path}`)).status).toBe(401)
    expect((await fetch(`${storageUrl}/bucket`, { headers: { apikey: 'sb_secret_guess' } })).status).toBe(401)
    const { accessToken } = memberOf(clinic, 'owner')
    for (const token of ['nonsense', `${accessToken.slice(0, -3)}abc`]) {
      const headers = { apikey: backend.keys.publishable, authorization: `Bearer ${token}` }
      const answer = await fetch(`${storageUrl}/object/${CABINET}/${path}`, { headers })
      expect(await answer.json()).toMatchObject({ statusCode: '403' })
    }
    const headers = { apikey: backend.keys.publishable, authorization: `Bearer ${accessToken}` }
    const answer = await fetch(`${storageUrl}/object/authenticated/${CABINET}/${path}`, { headers })
    expect(await answer.text()).toBe('laudo')
    expect(answer.headers.get('access-control-allow-origin')).toBe('*')
    const preflight = await fetch(`${storageUrl}/object/${CABINET}/${path}`, { method: 'OPTIONS' })
    expect(preflight.headers.get('access-control-allow-methods')).toContain('PUT')
  })
})

describe('signed URLs', () => {
  test('open one object for a while, to whoever has them', async () => {
    const path = await aFile(`${folderOf(clinic)}/raio x.txt`)
    const viewer = of(asViewerOf(clinic))
    const { signedUrl } = valueOf(await viewer.createSignedUrl(path, 600))
    const response = await fetch(signedUrl)
    expect([response.status, await response.text()]).toEqual([200, 'laudo'])
    const named = await fetch(`${signedUrl}&download=${encodeURIComponent('Laudo São José.txt')}`)
    expect(named.headers.get('content-disposition')).toContain("filename*=UTF-8''Laudo%20S%C3%A3o%20Jos%C3%A9.txt")
    await named.arrayBuffer()

    const [one, none] = valueOf(await viewer.createSignedUrls([path, `${path}.none`], 600))
    expect(await fetch(one?.signedUrl ?? '').then((answer) => answer.text())).toBe('laudo')
    expect(none).toMatchObject({ signedUrl: null, error: expect.stringContaining('does not exist') })
  })

  test('open nothing else', async () => {
    const path = await aFile(`${folderOf(clinic)}/a.txt`)
    const other = await aFile(`${folderOf(clinic)}/b.txt`)
    const attendant = of(asAttendantOf(clinic))
    const { signedUrl } = valueOf(await attendant.createSignedUrl(path, 600))
    const token = new URL(signedUrl).searchParams.get('token') ?? ''
    const [header, payload = '', signature] = token.split('.')
    const claims = JSON.parse(Buffer.from(payload, 'base64url').toString())
    const forged = Buffer.from(JSON.stringify({ ...claims, url: `${CABINET}/${other}` })).toString('base64url')
    const unsigned = Buffer.from('{"alg":"none"}').toString('base64url')
    const upload = valueOf(await attendant.createSignedUploadUrl(other, { upsert: true })).token
    const asks = async (name: string, given: string | null) => {
      const query = given === null ? '' : `?token=${given}`
      const response = await fetch(`${storageUrl}/object/sign/${CABINET}/${name}${query}`)
      await response.arrayBuffer()
      return response.status
    }
    expect(await asks(path, token)).toBe(200)
    expect(await asks(other, token)).toBe(400)
    expect(await asks(other, `${header}.${forged}.${signature}`)).toBe(400)
    expect(await asks(other, `${unsigned}.${forged}.`)).toBe(400)
    expect(await asks(other, upload)).toBe(400)
    expect(await asks(other, memberOf(clinic, 'owner').accessToken)).toBe(400)
    expect(await asks(other, null)).toBe(400)
    // What a stranger was given is no key to anything else.
    const headers = { apikey: backend.keys.publishable, authorization: `Bearer ${token}` }
    expect((await fetch(`${backend.urls.rest}/contacts`, { headers })).status).toBe(401)
    expect((await fetch(`${storageUrl}/object/${CABINET}/${path}`, { headers })).status).toBe(400)
    const put = await fetch(`${storageUrl}/object/upload/sign/${CABINET}/${path}?token=${token}`, {
      method: 'PUT',
      body: 'x',
    })
    expect(put.status).toBe(400)
    expect(await contentOf(asOwnerOf(clinic), path)).toBe('laudo')
  })

  test('end', async () => {
    const path = await aFile(`${folderOf(clinic)}/a.txt`)
    const { signedUrl } = valueOf(await of(platform).createSignedUrl(path, 1))
    await eventually(async () =>
      await fetch(signedUrl).then(async (answer) => (await answer.text(), answer.status)) === 400
    )
    for (const expiresIn of [0, -1, 1.5]) {
      expect(await refusal(of(platform).createSignedUrl(path, expiresIn))).toBe('400')
    }
  })

  test('take one upload, in the name of who asked for them', async () => {
    const path = `${folderOf(clinic)}/do paciente.txt`
    const { token } = valueOf(await of(asAttendantOf(clinic)).createSignedUploadUrl(path))
    valueOf(await of(asNobody(backend)).uploadToSignedUrl(path, token, new Blob(['anexo'])))
    expect(await contentOf(asViewerOf(clinic), path)).toBe('anexo')
    const [row] = await admin`select owner_id from storage.objects where bucket_id = ${CABINET} and name = ${path}`
    expect(row?.owner_id).toBe(memberOf(clinic, 'attendant').userId)
    expect(await refusal(of(asNobody(backend)).uploadToSignedUrl(path, token, 'outro'))).toBe('409')
    expect(await refusal(of(asNobody(backend)).uploadToSignedUrl(`${path}.x`, token, 'outro'))).toBe('400')
    const again = valueOf(await of(asAttendantOf(clinic)).createSignedUploadUrl(path, { upsert: true }))
    valueOf(await of(asNobody(backend)).uploadToSignedUrl(path, again.token, Buffer.from('novo')))
    expect(await contentOf(asViewerOf(clinic), path)).toBe('novo')
  })
})

describe('what is refused', () => {
  test.each<[string, number, () => Parameters<ReturnType<typeof of>['upload']>[1]]>([
    ['a Buffer that is too large', 413, () => Buffer.alloc(1001)],
    ['a form that is too large', 413, () => new Blob([new Uint8Array(1001)], { type: 'text/plain' })],
    ['a stream that turns out too large', 413, () => new Blob([new Uint8Array(5 * MEGABYTE)]).stream()],
    ['a much too large Buffer', 413, () => Buffer.alloc(5 * MEGABYTE)],
    ['a much too large form', 413, () => new Blob([new Uint8Array(5 * MEGABYTE)], { type: 'text/plain' })],
    ['a form of another type', 415, () => new Blob(['%PDF'], { type: 'application/pdf' })],
    ['a form without a file', 400, () => new FormData()],
  ])('%s', async (_what, status, body) => {
    const path = `${folderOf(clinic)}/a`
    const attendant = of(asAttendantOf(clinic), TRAY)
    const { error } = await attendant.upload(path, body(), { contentType: 'text/plain' })
    expect(error).toMatchObject({ status: 400, statusCode: String(status) })
    expect(await attendant.exists(path)).toMatchObject({ data: false })
  })

  test('a type that the bucket does not take, to the letter', async () => {
    const attendant = of(asAttendantOf(clinic), TRAY)
    for (
      const [contentType, status] of [
        ['text/plain', 'none'],
        ['image/webp', 'none'],
        ['text/plain; charset=utf-8', '415'],
        ['text/html', '415'],
        ['image', '415'],
      ] as const
    ) {
      expect(await refusal(attendant.upload(folderOf(clinic), 'x', { contentType })), contentType).toBe(status)
    }
  })

  test.each([
    ['with letters beyond ASCII', 'ação.txt'],
    ['with an emoji', 'dente 🦷'],
    ['with a hash', 'a#b'],
    ['with a per cent', 'a%b'],
    ['with a tab', 'a\tb'],
    ['with a NUL', 'a\0b'],
    ['with a backslash', 'a\\b'],
    ['too long', 'x'.repeat(1025)],
  ])('a name %s, as hosted', async (_what, name) => {
    const path = `${clinic.organizationId}/${name}`.split('/').map(encodeURIComponent).join('/')
    const { status, body } = await rawRequest(`/object/${CABINET}/${path}`, { method: 'POST', body: 'x' })
    expect(status).toBe(400)
    expect(JSON.parse(body)).toMatchObject({ statusCode: '400', error: 'InvalidKey' })
  })

  test.each([
    '../stack.json',
    '..%2f..%2fsecrets.json',
    '%2e%2e/%2e%2e/secrets.json',
    './a',
    'a/../../b',
    'a/..',
    '..',
  ])('the path %s', async (path) => {
    const { body } = await rawRequest(`/object/${CABINET}/${path}`, { method: 'POST', body: 'x' })
    expect(JSON.parse(body)).toMatchObject({ statusCode: '400', error: 'InvalidKey' })
    expect(JSON.parse((await rawRequest(`/object/${CABINET}/${path}`)).body)).toMatchObject({ statusCode: '404' })
    const key = decodeURIComponent(path)
    const from = await aFile(`${folderOf(clinic)}/a.txt`)
    expect(await refusal(of(platform).move(from, key))).toBe('400')
    expect(await refusal(of(platform).copy(from, key))).toBe('400')
  })

  const json = { 'content-type': 'application/json' }
  const form = { 'content-type': 'multipart/form-data; boundary=x' }
  const file = '--x\r\ncontent-disposition: form-data; name=""; filename="a"\r\n\r\n'
  const metadata = '\r\n--x\r\ncontent-disposition: form-data; name="metadata"\r\n\r\n[]\r\n--x--\r\n'
  test.each<[string, number, string, Parameters<typeof rawRequest>[1]]>([
    ['a path that is none', 404, '/nothing', {}],
    ['a method that is none', 404, '/object', { method: 'POST' }],
    ['a path that is not encoded', 400, `/object/${CABINET}/%E0%A4%A`, {}],
    ['half of some JSON', 400, `/object/list/${CABINET}`, { method: 'POST', headers: json, body: '{' }],
    ['a limit of nothing', 400, `/object/list/${CABINET}`, { method: 'POST', headers: json, body: '{"limit":0}' }],
    ['a NUL', 400, `/object/list/${CABINET}`, { method: 'POST', headers: json, body: '{"prefix":"\\u0000"}' }],
    ['no names', 400, `/object/${CABINET}`, { method: 'DELETE', headers: json, body: '{"prefixes":[]}' }],
    ['metadata that is a list', 400, `/object/${CABINET}/a`, {
      method: 'POST',
      headers: { 'x-metadata': 'W10=' },
      body: 'x',
    }],
    ['an empty form', 400, `/object/${CABINET}/a`, { method: 'POST', headers: form }],
    ['the beginning of a form', 400, `/object/${CABINET}/a`, { method: 'POST', headers: form, body: '--x' }],
    ['half of a file', 400, `/object/${CABINET}/a`, { method: 'POST', headers: form, body: `${file}half a fi` }],
    ['a form without an end', 400, `/object/${CABINET}/a`, {
      method: 'POST',
      headers: form,
      body: `${file}all\r\n--x`,
    }],
    ['bad metadata after a file', 400, `/object/${CABINET}/a`, {
      method: 'POST',
      headers: form,
      body: `${file}all${metadata}`,
    }],
  ])('%s', async (_what, status, path, options) => {
    const answer = await rawRequest(path, options)
    expect([answer.status, JSON.parse(answer.body).statusCode]).toEqual([status, String(status)])
    expect(await of(platform).exists('a')).toMatchObject({ data: false })
  })

  test.each(['/render/image/authenticated/x/y', '/upload/resumable', '/s3/x', '/vector/x', '/cdn/x'])(
    'what is not there: %s',
    async (path) => {
      const { status, body } = await rawRequest(path)
      expect(status).toBe(501)
      expect(JSON.parse(body).message).toMatch(/^The local stack has no .*; a hosted project has\.$/)
    },
  )

  test('SQL that a hosted project refuses', async () => {
    await expect(sql`delete from storage.objects where bucket_id = ${CABINET}`).rejects.toThrow(/Use the Storage API/)
    await expect(sql`alter table storage.objects add column more text`).rejects.toThrow(/belongs to the platform/)
    await expect(sql`create table storage.more (id int)`).rejects.toThrow(/permission denied|belongs to the platform/)
  })
})

describe('reading', () => {
  let url = ''
  beforeAll(async () => {
    const path = await aFile(`${randomUUID()}/digits.txt`, '0123456789', WINDOW)
    url = of(platform, WINDOW).getPublicUrl(path).data.publicUrl
  })

  test.each([
    ['bytes=2-4', 206, '234', 'bytes 2-4/10'],
    ['bytes=7-', 206, '789', 'bytes 7-9/10'],
    ['bytes=-2', 206, '89', 'bytes 8-9/10'],
    ['bytes=-99', 206, '0123456789', 'bytes 0-9/10'],
    ['bytes=5-99', 206, '56789', 'bytes 5-9/10'],
    ['bytes=10-', 416, null, 'bytes */10'],
    ['bytes=-0', 416, null, 'bytes */10'],
    ['bytes=4-2', 200, '0123456789', null],
    ['bytes=0-1,3-4', 200, '0123456789', null],
    ['lines=1-2', 200, '0123456789', null],
  ])('%s', async (range, status, content, contentRange) => {
    const response = await fetch(url, { headers: { range } })
    const text = await response.text()
    expect([response.status, response.headers.get('content-range')]).toEqual([status, contentRange])
    if (content !== null) expect(text).toBe(content)
  })

  test('what a client has already is not sent again', async () => {
    const { headers } = await fetch(url, { method: 'HEAD' })
    const etag = headers.get('etag') ?? ''
    const modified = headers.get('last-modified') ?? ''
    expect(headers.get('content-length')).toBe('10')
    const statusWith = async (given: Record<string, string>) => {
      const response = await fetch(url, { headers: given })
      return [response.status, await response.text()]
    }
    expect(await statusWith({ 'if-none-match': etag })).toEqual([304, ''])
    expect(await statusWith({ 'if-none-match': `"other", W/${etag}` })).toEqual([304, ''])
    expect(await statusWith({ 'if-none-match': '"other"' })).toEqual([200, '0123456789'])
    expect(await statusWith({ 'if-modified-since': modified })).toEqual([304, ''])
    expect(await statusWith({ range: 'bytes=0-0', 'if-range': etag })).toEqual([206, '0'])
    expect(await statusWith({ range: 'bytes=0-0', 'if-range': '"other"' })).toEqual([200, '0123456789'])
  })

  test('a page is not run', async () => {
    const path = `${randomUUID()}.html`
    valueOf(await of(platform, WINDOW).upload(path, '<script>', { contentType: 'text/html' }))
    const response = await fetch(of(platform, WINDOW).getPublicUrl(path).data.publicUrl)
    expect(response.headers.get('content-type')).toBe('text/plain')
    await response.arrayBuffer()
  })
})

describe('at the same moment', () => {
  const contents = Array.from({ length: 20 }, (_, index) => String(index).padStart(3, '0').repeat(50_000))

  test('of uploads of one name one wins', async () => {
    const path = `${folderOf(clinic)}/a.txt`
    const outcomes = await Promise.all(
      contents.map((content) => refusal(of(asAttendantOf(clinic)).upload(path, content))),
    )
    expect(outcomes.filter((outcome) => outcome === 'none')).toHaveLength(1)
    expect(outcomes.filter((outcome) => outcome === '409')).toHaveLength(contents.length - 1)
    expect(await contentOf(asOwnerOf(clinic), path)).toBe(contents[outcomes.indexOf('none')])
  })

  test('replacing, reading and removing one object leaves a whole one or none', async () => {
    const path = `${folderOf(clinic)}/a.txt`
    const attendant = of(asAttendantOf(clinic))
    const work = contents.flatMap((content, index) => [
      attendant.upload(path, content, { upsert: true }).then(valueOf),
      attendant.download(path).then(async ({ data }) => {
        if (data !== null) expect(contents).toContain(await data.text())
      }),
      ...(index % 5 === 0 ? [attendant.remove([path]).then(valueOf)] : []),
      ...(index % 7 === 0 ? [attendant.copy(path, `${path}.${index}`)] : []),
    ])
    await Promise.all(work)
    const last = valueOf(await attendant.upload(path, 'fim', { upsert: true }))
    expect(await contentOf(asOwnerOf(clinic), path)).toBe('fim')
    const rows = await admin`select id from storage.objects where bucket_id = ${CABINET} and name = ${path}`
    expect(rows).toEqual([{ id: last.id }])
  })
})

test('an upload that breaks off leaves what was there', async () => {
  const path = await aFile(`${folderOf(clinic)}/a.txt`)
  const { hostname, port } = new URL(backend.urls.api)
  const headers = { apikey: backend.keys.secret, 'content-length': '1000000', 'content-type': 'text/plain' }
  const outgoing = send({ hostname, port, path: `/storage/v1/object/${CABINET}/${path}`, method: 'PUT', headers })
  const broken = new Promise((resolve) => outgoing.once('error', resolve))
  outgoing.write('half')
  // Its file has been begun.
  await eventually(async () => {
    const { files, rows } = await filesAndRows(backend.dataDir, admin)
    return files.length === rows.length + 1
  })
  outgoing.destroy()
  await broken
  await eventually(async () => {
    const { files, rows } = await filesAndRows(backend.dataDir, admin)
    return files.length === rows.length
  })
  expect(await contentOf(asOwnerOf(clinic), path)).toBe('laudo')
})

describe('a stack of its own', () => {
  test('after kill -9 in the middle of uploads each row has its file, and each file its row', async () => {
    const { path: dataDir, remove } = await preparedDataDir()
    try {
      const first = await startCommand(dataDir)
      const storage = await storageOf(dataDir)
      valueOf(await storage.createBucket('kept'))
      valueOf(await storage.from('kept').upload('letter.txt', 'dear'))
      const stored: string[] = []
      const uploads = Array.from({ length: 40 }, async (_, index) => {
        const { data } = await storage.from('kept').upload(`many/${index}`, randomBytes(100_000))
        if (data !== null) stored.push(data.path)
        if (stored.length === 10) kill(first.pid, 'SIGKILL')
      })
      await Promise.allSettled(uploads)
      await first.ended
      // As of a crash between a file and its row.
      const [file = ''] = filesIn(dataDir)
      const [folder = ''] = readdirSync(join(dataDir, 'storage'))
      const stray = randomUUID()
      mkdirSync(join(dataDir, 'storage', folder, stray.slice(0, 2)), { recursive: true })
      writeFileSync(join(dataDir, 'storage', folder, stray.slice(0, 2), stray), file)

      const second = await startCommand(dataDir)
      const again = await storageOf(dataDir)
      expect(await valueOf(await again.from('kept').download('letter.txt')).text()).toBe('dear')
      for (const path of stored) expect(valueOf(await again.from('kept').download(path)).size).toBe(100_000)
      const database = postgres(DataDirectory.at(dataDir).readState()?.databaseUrl ?? '', { max: 1 })
      const { files, rows } = await filesAndRows(dataDir, database)
      await database.end()
      expect(files).toEqual(rows)
      expect(files).not.toContain(stray)

      // And Postgres alone: refused while it is away, well afterwards.
      const before = postgresOf(dataDir)
      kill(before, 'SIGKILL')
      const outcomes = await Promise.all(
        Array.from({ length: 10 }, (_, index) => refusal(again.from('kept').upload(`late/${index}`, 'x'))),
      )
      for (const outcome of outcomes) expect(['none', '503']).toContain(outcome)
      await eventually(async () =>
        await refusal(again.from('kept').upload('late/last', 'x', { upsert: true })) === 'none'
      )
      expect(postgresOf(dataDir)).not.toBe(before)

      const memory = residentBytes(second.pid)
      const block = new Uint8Array(MEGABYTE)
      let sent = 0
      const stream = new ReadableStream<Uint8Array>({
        pull: (controller) => sent++ === 400 ? controller.close() : controller.enqueue(block),
      })
      valueOf(await again.from('kept').upload('large', stream, { duplex: 'half' }))
      expect(residentBytes(second.pid) - memory).toBeLessThan(200 * MEGABYTE)
      kill(second.pid, 'SIGTERM')
      expect((await second.ended).code).toBe(0)
    } finally {
      await remove()
    }
  })
})

async function storageOf(dataDir: string) {
  const data = DataDirectory.at(dataDir)
  const { secret } = apiKeys(await data.existingSecrets())
  const url = `http://127.0.0.1:${data.readState()?.apiPort}`
  return createClient(url, secret, { auth: { persistSession: false, autoRefreshToken: false } }).storage
}

function postgresOf(dataDir: string): number {
  return DataDirectory.at(dataDir).readState()?.processes.find(({ name }) => name === 'postgres')?.pid ?? 0
}

function residentBytes(pid: number): number {
  return Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024
}
