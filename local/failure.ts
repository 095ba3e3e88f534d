/** A condition that the user can act on: `npm start` prints its message as one line, without a stack. */
export class Failure extends Error {
  override name = 'Failure'
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

export function hasCode(error: unknown, ...codes: string[]): boolean {
  return error instanceof Error && 'code' in error && codes.includes(String(error.code))
}
