// The stacks that `npm test` started, for the tests that use them. A test that breaks things starts one of its own.
//
// Test files run in lanes, several at a time. Each lane has a stack, so that while a file runs nobody else is at its
// stack: it may count what there is, move time and look at the queue.

import { z } from 'zod'

const schema = z.object({
  urls: z.object({
    api: z.string(),
    rest: z.string(),
    auth: z.string(),
    functions: z.string(),
    graph: z.string(),
    database: z.string(),
    admin: z.string(),
  }),
  keys: z.object({
    publishable: z.string(),
    secret: z.string(),
    anon: z.string(),
    serviceRole: z.string(),
    jwtSecret: z.string(),
  }),
  dataDir: z.string(),
})
export type RunningStack = z.infer<typeof schema>

export const RUNNING_STACK = 'BALCAO_RUNNING_STACK'

/** Of each lane one. */
export function runningStacks(): RunningStack[] {
  const text = process.env[RUNNING_STACK]
  if (text === undefined) throw new Error('There is no stack to test: run "npm test -- integration".')
  return schema.transform((only) => [only]).or(z.array(schema)).parse(JSON.parse(text))
}

export function runningStack(): RunningStack {
  // Vitest counts from 1.
  const lane = process.env.VITEST_POOL_ID ?? '1'
  const stack = runningStacks()[Number(lane) - 1]
  if (stack === undefined) throw new Error(`Lane ${lane} has no stack.`)
  return stack
}
