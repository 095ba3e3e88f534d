import { Parser, type Result } from 'tap-parser'
import { indent, type Outcome } from './report.ts'

/** Counts the assertions of a TAP stream. What was skipped or left for later did not pass. */
export function outcomeOfTap(source: string, tap: string): Outcome {
  const failures: string[] = []
  let passed = 0
  const parser = new Parser((results) => {
    if (results.bailout !== false) failures.push(`${source}: bailed out (${results.bailout})`)
    for (const failure of results.failures) {
      if ('tapError' in failure && typeof failure.tapError === 'string' && !('ok' in failure)) {
        failures.push(`${source}: ${failure.tapError}`)
      }
    }
    if (results.count === 0 && failures.length === 0) failures.push(`${source}: not one assertion`)
  })
  const comments: string[] = []
  const report = ({ ok, skip, todo, fullname, name, diag }: Result) => {
    if (ok && !skip && !todo) {
      passed++
      return
    }
    const reason = skip ? ' (skipped)' : todo ? ' (left for later)' : ''
    const details = diag === null
      ? ''
      : `\n${indent(typeof diag === 'string' ? diag : JSON.stringify(diag, null, 2))}`
    failures.push(`${source}: ${name || fullname}${reason}${details}`)
  }
  let latest = -1
  parser.on('assert', (result: Result) => {
    report(result)
    latest = result.ok ? -1 : failures.length - 1
  })
  parser.on('comment', (comment: string) => {
    comments.push(comment)
    // pgTAP explains a failure in the comments that follow it.
    if (latest >= 0 && !/^# Looks like you/.test(comment)) failures[latest] += `\n${indent(comment)}`
  })
  parser.end(tap)
  return { passed, failures }
}
