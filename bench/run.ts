// npm run bench: all benchmarks, one after the other, or those that it names: `npm run bench -- queue --quick`.

const benchmarks: Record<string, () => Promise<unknown>> = {
  webhook: () => import('./webhook.ts'),
  queue: () => import('./queue.ts'),
  latency: () => import('./latency.ts'),
  booking: () => import('./booking.ts'),
  reply: () => import('./reply.ts'),
  analytics: () => import('./analytics.ts'),
  audit: () => import('./audit.ts'),
}

const named = process.argv.slice(2).filter((word) => !word.startsWith('--'))
const unknown = named.filter((name) => !Object.hasOwn(benchmarks, name))
if (unknown.length > 0) {
  console.error(`There is no benchmark ${unknown.join(', ')}; there are ${Object.keys(benchmarks).join(', ')}.`)
  process.exitCode = 2
} else {
  for (const [name, measure] of Object.entries(benchmarks)) {
    if (named.length > 0 && !named.includes(name)) continue
    await measure()
    // Interrupted: then nobody waits for the next.
    if (process.exitCode) break
  }
}
