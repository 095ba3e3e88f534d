// How much a run may do. A hosted isolate lives 150 seconds on the free plan, and has two seconds of processor time for
// a request; a message that is sent takes some milliseconds of them. What a run leaves, the next one does.
import type { Variables } from '../_shared/env.ts'
import type { Settings } from './work.ts'

export function workerSettings(variables: Variables): Settings {
  return {
    slots: wholeNumber(variables, 'BALCAO_WORKER_BATCH', 10, 1, 100),
    budgetMs: wholeNumber(variables, 'BALCAO_WORKER_BUDGET_MS', 100_000, 1_000, 390_000),
    maxJobs: 300,
    leaseMs: 60_000,
    // The local stack kills what has not ended five seconds after it was told to.
    stopMs: 3_500,
  }
}

function wholeNumber(
  variables: Variables,
  name: string,
  otherwise: number,
  lowest: number,
  highest: number,
): number {
  const text = variables.get(name)
  if (!text) return otherwise
  const value = /^\d{1,9}$/.test(text) ? Number(text) : NaN
  if (!(value >= lowest && value <= highest)) {
    throw new Error(`The environment variable ${name} is not a whole number from ${lowest} to ${highest}`)
  }
  return value
}
