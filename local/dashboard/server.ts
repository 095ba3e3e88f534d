// The dashboard: what an owner looks at every day, and the reference for whoever writes a client. Mounted by the gateway
// at /dashboard.
//
// Nothing here knows anything that the page's reader may not: the files are served as they lie in page/, with the
// publishable key written in. The page signs in and asks the Data API itself, under row level security.

import { readFile } from 'node:fs/promises'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { messageOf } from '../failure.ts'

export type DashboardListener = (request: IncomingMessage, response: ServerResponse) => void

const SCRIPT = 'text/javascript; charset=utf-8'
const PAGE = fileURLToPath(new URL('page/', import.meta.url))
const packages = createRequire(import.meta.url)

const FILES: Record<string, { file: string; type: string }> = {
  '/dashboard/dashboard.css': { file: join(PAGE, 'dashboard.css'), type: 'text/css; charset=utf-8' },
  // Their builds for browsers lie beside those for Node.
  '/dashboard/supabase.js': beside('@supabase/supabase-js', 'umd/supabase.js'),
  '/dashboard/chart.js': beside('chart.js', 'chart.umd.min.js'),
  ...Object.fromEntries(
    ['main', 'data', 'sums', 'charts', 'elements', 'panels', 'words'].map((name) => [
      `/dashboard/${name}.js`,
      { file: join(PAGE, `${name}.js`), type: SCRIPT },
    ]),
  ),
}

export function dashboard(publishableKey: string): DashboardListener {
  return (request, response) => void answer(request, response)

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      const { host = '' } = request.headers
      const port = request.socket.localPort
      // A page from elsewhere must not become ours under a name of its own that resolves to this machine.
      if (host !== `127.0.0.1:${port}` && host !== `localhost:${port}`) {
        return refuse(response, 403, 'wrong_host', `Open http://127.0.0.1:${port}/dashboard`)
      }
      if (request.method !== 'GET' && request.method !== 'HEAD') {
        return refuse(response, 405, 'method_not_allowed', 'GET, HEAD')
      }
      const [path = ''] = (request.url ?? '').split('?', 1)
      if (path === '/dashboard' || path === '/dashboard/') {
        const page = (await readFile(join(PAGE, 'index.html'), 'utf8')).replace('{{publishable_key}}', publishableKey)
        return respond(response, 200, page, 'text/html; charset=utf-8', documentHeaders(host))
      }
      const known = Object.hasOwn(FILES, path) ? FILES[path] : undefined
      if (known === undefined) return refuse(response, 404, 'not_found', 'There is nothing here')
      respond(response, 200, await readFile(known.file), known.type)
    } catch (error) {
      if (response.headersSent || request.socket.destroyed) return void response.destroy()
      refuse(response, 500, 'internal_error', messageOf(error))
    }
  }
}

function beside(name: string, file: string): { file: string; type: string } {
  return { file: join(dirname(packages.resolve(name)), file), type: SCRIPT }
}

/** Nothing from elsewhere, and from this origin only what the page needs: the gateway serves files of Storage too. */
function documentHeaders(host: string): Record<string, string> {
  return {
    'content-security-policy': [
      "default-src 'none'",
      `script-src http://${host}/dashboard/`,
      `style-src http://${host}/dashboard/`,
      'img-src data:',
      `connect-src http://${host}/auth/v1/ http://${host}/rest/v1/`,
      "base-uri 'none'",
      "form-action 'none'",
      "frame-ancestors 'none'",
      "require-trusted-types-for 'script'",
      "trusted-types 'none'",
    ].join('; '),
    'cross-origin-opener-policy': 'same-origin',
    'permissions-policy': 'camera=(), microphone=(), geolocation=()',
  }
}

function refuse(response: ServerResponse, status: number, code: string, message: string): void {
  respond(response, status, JSON.stringify({ error: { code, message } }), 'application/json; charset=utf-8')
}

function respond(
  response: ServerResponse,
  status: number,
  body: string | Buffer,
  type: string,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, {
    'content-type': type,
    'content-length': Buffer.byteLength(body),
    'cache-control': 'no-store',
    'cross-origin-resource-policy': 'same-origin',
    'referrer-policy': 'no-referrer',
    'x-content-type-options': 'nosniff',
    ...headers,
  })
  response.end(body)
}
