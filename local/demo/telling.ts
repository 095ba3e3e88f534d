// How the demo tells its story, and insists on it: what is not as it should be ends it with one line.

import { setTimeout as sleep } from 'node:timers/promises'
import { Failure } from '../failure.ts'

/** How long the demo waits for what the stack does by itself. */
const PATIENCE_MS = 20_000

const PAGE_WIDTH = 110

export function step(sentence: string): void {
  const isColourful = process.stdout.isTTY && !process.env.NO_COLOR
  console.log(isColourful ? `\n\x1b[1m${sentence}\x1b[0m` : `\n${sentence}`)
}

/** What is wider than a page goes on under an indent. */
export function told(line: string, indent = '  '): void {
  let rest = line
  while (rest.length > PAGE_WIDTH && rest.lastIndexOf(' ', PAGE_WIDTH) > indent.length) {
    const end = rest.lastIndexOf(' ', PAGE_WIDTH)
    console.log(`    ${rest.slice(0, end)}`)
    rest = `${indent}${rest.slice(end + 1)}`
  }
  console.log(`    ${rest}`)
}

export function expect(holds: boolean, otherwise: string): asserts holds {
  if (!holds) throw new Failure(`The demo failed: ${otherwise}.`)
}

export function valueOf<Data>({ data, error }: { data: Data; error: { message: string } | null }): NonNullable<Data> {
  expect(error === null && data !== null && data !== undefined, error?.message ?? 'an answer is empty')
  return data
}

/** Looks until there is something; `otherwise` says what is missing when patience is over. */
export async function until<Found>(
  look: () => Found | null | Promise<Found | null>,
  otherwise: () => string,
): Promise<Found> {
  for (const patience = AbortSignal.timeout(PATIENCE_MS);; await sleep(25)) {
    const found = await look()
    if (found !== null) return found
    expect(!patience.aborted, otherwise())
  }
}
