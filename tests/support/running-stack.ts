// The stack that `npm test` started, for the tests that use it. A test that breaks things starts one of its own.

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

export function runningStack(): RunningStack {
  const text = process.env[RUNNING_STACK]
  if (text === undefined) throw new Error('There is no stack to test: run "npm test -- integration".')
  return schema.parse(JSON.parse(text))
}
