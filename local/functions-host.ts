// Runs in Deno: loads every edge function and routes to it by the first segment of the path, as the platform does. A
// handler sees the path "/<function>/<rest>", which is what it sees on a hosted project.
//
// A function that fails to load answers 503 BOOT_ERROR and hurts no other.

type Handler = (request: Request, info: Deno.ServeHandlerInfo<Deno.NetAddr>) => Response | Promise<Response>

const [portFile = '', listed = '[]'] = Deno.args
const functions: { name: string; entrypoint: string }[] = JSON.parse(listed)
const background = new Set<Promise<unknown>>()
const handlers = new Map<string, Handler | null>()

function log(level: 'info' | 'error', message: string, fields: Record<string, unknown>): void {
  console.log(JSON.stringify({ time: new Date().toISOString(), level, message, ...fields }))
}

function describe(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error)
}

Object.assign(globalThis, {
  EdgeRuntime: {
    /** Lets work outlive its response; what fails in it is logged, nobody else would hear of it. */
    waitUntil(work: Promise<unknown>): void {
      const kept = Promise.resolve(work).catch((error) =>
        log('error', 'background work failed', { error: describe(error) })
      )
      background.add(kept)
      void kept.then(() => background.delete(kept))
    },
  },
})

// Each function calls Deno.serve when it is imported: we keep its handler instead of opening a port.
const serve = Deno.serve
let captured: Handler | null = null
const finished = new Promise<void>(() => undefined)
Object.defineProperty(Deno, 'serve', {
  value: (...args: unknown[]) => {
    for (const arg of args) {
      if (isHandler(arg)) captured = arg
      else if (typeof arg === 'object' && arg !== null && 'handler' in arg && isHandler(arg.handler)) {
        captured = arg.handler
      }
    }
    return {
      finished,
      addr: { transport: 'tcp', hostname: '127.0.0.1', port: 0 },
      ref() {},
      unref() {},
      shutdown: () => Promise.resolve(),
    }
  },
})

function isHandler(value: unknown): value is Handler {
  return typeof value === 'function'
}

for (const { name, entrypoint } of functions) {
  captured = null
  try {
    await import(new URL(`file://${entrypoint}`).href)
    if (captured === null) throw new Error('the function does not call Deno.serve')
    handlers.set(name, captured)
  } catch (error) {
    handlers.set(name, null)
    log('error', 'function failed to start', { function: name, error: describe(error) })
  }
}

function refuse(status: number, code: string, message: string): Response {
  return Response.json({ code, message }, { status })
}

async function route(request: Request, info: Deno.ServeHandlerInfo<Deno.NetAddr>): Promise<Response> {
  const name = new URL(request.url).pathname.split('/')[1] ?? ''
  const handler = handlers.get(name)
  if (handler === undefined) return refuse(404, 'NOT_FOUND', 'Requested function was not found')
  if (handler === null) return refuse(503, 'BOOT_ERROR', 'Function failed to start (please check logs)')
  try {
    return await handler(request, info)
  } catch (error) {
    log('error', 'function failed', { function: name, error: describe(error) })
    return refuse(500, 'WORKER_ERROR', 'Function exited due to an error (please check logs)')
  }
}

globalThis.addEventListener('unhandledrejection', (event) => {
  event.preventDefault()
  log('error', 'unhandled rejection', { error: describe(event.reason) })
})

const server = serve({
  hostname: '127.0.0.1',
  port: 0,
  onListen: ({ port }) => {
    log('info', 'functions ready', { functions: [...handlers.keys()] })
    Deno.writeTextFileSync(portFile, String(port))
  },
  handler: route,
})

let closing = false
async function close(): Promise<void> {
  if (closing) return
  closing = true
  // As the platform does it: whoever has work under way gives it up.
  globalThis.dispatchEvent(new Event('beforeunload'))
  await server.shutdown()
  while (background.size > 0) await Promise.all(background)
  Deno.exit(0)
}
Deno.addSignalListener('SIGTERM', () => void close())

// Our parent holds the other end: when it dies, even by kill -9, so do we.
for await (const _ of Deno.stdin.readable) { /* nothing is ever sent */ }
await close()
