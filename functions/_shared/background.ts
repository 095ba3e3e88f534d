// Work that outlives its answer. On a hosted project an isolate ends with its last answer unless it is told to wait.

interface EdgeRuntime {
  waitUntil(work: Promise<unknown>): void
}

export type Background = (work: Promise<unknown>) => void

/** The platform keeps the isolate for it where there is a platform; elsewhere the process lives on by itself. */
export const inBackground: Background = (work) => {
  const runtime = Reflect.get(globalThis, 'EdgeRuntime')
  if (isEdgeRuntime(runtime)) runtime.waitUntil(work)
}

function isEdgeRuntime(value: unknown): value is EdgeRuntime {
  return typeof value === 'object' && value !== null && 'waitUntil' in value &&
    typeof value.waitUntil === 'function'
}
