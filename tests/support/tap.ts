import { stripVTControlCharacters } from 'node:util'
import { Parser, type Result } from 'tap-parser'
import { indent, type Outcome } from './report.ts'

/** Counts the assertions of a TAP stream. What was skipped or left for later did not pass. */
export function outcomeOfTap(source: string, tap: string): Outcome {
  const failures: string[] = []
  let passed = 0
  let count = 0
  /** Steps that failed inside the test whose own result comes next. */
  let steps: string[] = []
  let explained = -1

  const parser = new Parser((results) => {
    if (results.bailout !== false) failures.push(`${source}: bailed out (${results.bailout})`)
    for (const failure of results.failures) {
      // A broken plan, and whatever else is no assertion.
      if (!('ok' in failure) && typeof failure.tapError === 'string') {
        failures.push(`${source}: ${failure.tapError}`)
      }
    }
    if (count === 0 && failures.length === 0) failures.push(`${source}: not one assertion`)
  })
  parser.on('child', (child: Parser) => {
    child.on('assert', (step: Result) => {
      if (!step.ok) steps.push(describe(step))
    })
  })
  parser.on('assert', (result: Result) => {
    count++
    if (result.ok && !result.skip && !result.todo) passed++
    else failures.push([`${source}: ${describe(result)}`, ...steps.map((step) => indent(step))].join('\n'))
    explained = result.ok ? -1 : failures.length - 1
    steps = []
  })
  parser.on('comment', (comment: string) => {
    // pgTAP explains a failure in the comments that follow it.
    if (explained >= 0 && !comment.startsWith('# Looks like you')) {
      failures[explained] += `\n${indent(comment)}`
    }
  })
  parser.end(tap)
  return { passed, failures }
}

function describe({ name, skip, todo, diag }: Result): string {
  const reason = skip ? ' (skipped)' : todo ? ' (left for later)' : ''
  if (diag === null) return name + reason
  const message = typeof diag.message === 'string' ? diag.message : JSON.stringify(diag, null, 2)
  return `${name}${reason}\n${indent(stripVTControlCharacters(message))}`
}
