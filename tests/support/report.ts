/** What a section of `npm test` found: how many assertions held, and a text for each that did not. */
export interface Outcome {
  passed: number
  failures: string[]
}

export function sum(outcomes: Outcome[]): Outcome {
  return {
    passed: outcomes.reduce((total, outcome) => total + outcome.passed, 0),
    failures: outcomes.flatMap((outcome) => outcome.failures),
  }
}

export function indent(text: string, by = '    '): string {
  return text.trimEnd().replaceAll(/^/gm, by)
}
