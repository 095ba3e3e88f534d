// One JSON object per line: what happened to which request, for which organization; never what somebody wrote.

export type Level = 'info' | 'warn' | 'error'
export type Log = (level: Level, event: string, fields?: Record<string, unknown>) => void

export function createLog(functionName: string, write: (line: string) => void = console.log): Log {
  return (level, event, fields = {}) => {
    write(JSON.stringify(
      { time: new Date().toISOString(), level, function: functionName, event, ...fields },
      (_key, value) => typeof value === 'string' ? maskPhoneNumbers(value) : value,
    ))
  }
}

/** `5511987650001` → `5511*******01`. The parts of a UUID are no numbers. */
export function maskPhoneNumbers(text: string): string {
  return text.replace(
    /(?<![\w-])(\+?\d{4})(\d{4,9})(\d{2})(?![\w-])/g,
    (_match, start: string, middle: string, end: string) => start + '*'.repeat(middle.length) + end,
  )
}

/** The platform's own id of a request, so that its logs and ours meet, or a new one. */
export function requestId(request: Request): string {
  const given = request.headers.get('sb-request-id') ?? request.headers.get('x-request-id')
  return given && /^[\w-]{8,64}$/.test(given) ? given : crypto.randomUUID()
}
