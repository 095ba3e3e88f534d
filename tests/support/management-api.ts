// A stand-in of Supabase's management API on loopback: what `supabase functions deploy --use-api` uploads is kept, so
// that a test can look at it. The CLI finds it through a profile file.

import { writeFile } from 'node:fs/promises'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { join } from 'node:path'

/** A function as it arrived. */
export interface UploadedFunction {
  metadata: unknown
  /** Contents by path from the project's root. */
  files: Map<string, Uint8Array>
}

export interface ManagementApi {
  projectRef: string
  /** What the CLI needs to talk to this API instead of the real one. */
  cliArguments: string[]
  cliEnvironment: Record<string, string>
  /** By slug. */
  uploads: Map<string, UploadedFunction>
  close(): Promise<void>
}

const PROJECT_REF = 'abcdefghijklmnopqrst'
const ACCESS_TOKEN = `sbp_${'0123456789abcdef'.repeat(3).slice(0, 40)}`

export async function startManagementApi(folder: string): Promise<ManagementApi> {
  const uploads = new Map<string, UploadedFunction>()
  const server = createServer((request, response) => {
    answer(request, uploads)
      .then(({ status, body }) => send(response, status, body))
      .catch((error: unknown) => send(response, 500, { message: String(error) }))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('The stand-in has no port')

  const url = `http://127.0.0.1:${address.port}`
  const profile = join(folder, 'profile.yaml')
  const lines = {
    name: 'loopback',
    api_url: url,
    dashboard_url: url,
    docs_url: url,
    project_host: 'loopback.test',
  }
  await writeFile(profile, Object.entries(lines).map(([key, value]) => `${key}: ${value}\n`).join(''))

  return {
    projectRef: PROJECT_REF,
    cliArguments: ['--profile', profile, `--remote=${PROJECT_REF}`, '--yes'],
    cliEnvironment: { SUPABASE_ACCESS_TOKEN: ACCESS_TOKEN },
    uploads,
    close: () => new Promise((resolve, reject) => server.close((error) => error ? reject(error) : resolve())),
  }
}

interface Answer {
  status: number
  body: unknown
}

async function answer(message: IncomingMessage, uploads: Map<string, UploadedFunction>): Promise<Answer> {
  const request = await requestOf(message)
  const { pathname, searchParams } = new URL(request.url)
  const slug = searchParams.get('slug')
  if (request.headers.get('authorization') !== `Bearer ${ACCESS_TOKEN}`) {
    return { status: 401, body: { message: 'Unauthorized' } }
  }

  switch (`${request.method} ${pathname}`) {
    case `GET /v1/projects/${PROJECT_REF}`:
      return {
        status: 200,
        body: { id: PROJECT_REF, ref: PROJECT_REF, name: 'loopback', status: 'ACTIVE_HEALTHY' },
      }
    case `POST /v1/projects/${PROJECT_REF}/functions/deploy`: {
      if (slug === null) return { status: 400, body: { message: 'slug is missing' } }
      uploads.set(slug, await uploadedFunction(await request.formData()))
      return {
        status: 201,
        body: { id: slug, slug, name: slug, status: 'ACTIVE', version: 1, verify_jwt: false },
      }
    }
    case `PUT /v1/projects/${PROJECT_REF}/functions`:
      return { status: 200, body: { functions: [] } }
    default:
      return { status: 404, body: { message: `Not found: ${request.method} ${pathname}` } }
  }
}

async function uploadedFunction(form: FormData): Promise<UploadedFunction> {
  const metadata = form.get('metadata')
  const files = new Map<string, Uint8Array>()
  for (const file of form.getAll('file')) {
    if (typeof file !== 'string') files.set(file.name, new Uint8Array(await file.arrayBuffer()))
  }
  return { metadata: typeof metadata === 'string' ? JSON.parse(metadata) : null, files }
}

async function requestOf(message: IncomingMessage): Promise<Request> {
  const chunks: Buffer[] = []
  for await (const chunk of message) chunks.push(chunk)
  const headers = new Headers()
  for (const [name, value] of Object.entries(message.headers)) {
    if (typeof value === 'string') headers.set(name, value)
  }
  const method = message.method ?? 'GET'
  const body = method === 'GET' ? null : Buffer.concat(chunks)
  return new Request(`http://127.0.0.1${message.url ?? '/'}`, { method, headers, body })
}

function send(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
}
