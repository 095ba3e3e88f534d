// Who may use the simulator: a browser on this machine that has opened its page, and nobody through it.
//
// The page acts with the stack's secret key. So a page from elsewhere must not reach it under a name of its own that
// resolves to this machine (Host), nor from its own origin (Origin, Sec-Fetch-Site, a token that only our page holds);
// and a tunnel to the gateway must not carry it out into the world.

import type { IncomingMessage } from 'node:http'
import { isSame } from '../graph/requests.ts'

export class Refusal extends Error {
  constructor(readonly status: number, readonly code: string, message: string) {
    super(message)
  }
}

export const TOKEN_HEADER = 'x-simulator-token'

const LOOPBACK = /^(?:::ffff:)?127\.|^::1$/
const FORWARDED = ['forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-real-ip', 'via', 'cf-connecting-ip']

/** Throws a Refusal. */
export function admit({ headers, socket }: IncomingMessage, port: number): void {
  if (!LOOPBACK.test(socket.remoteAddress ?? '')) {
    throw new Refusal(403, 'not_allowed', 'The simulator is for this machine only')
  }
  if (FORWARDED.some((name) => headers[name] !== undefined)) {
    throw new Refusal(403, 'not_allowed', 'The simulator does not answer through a proxy or a tunnel')
  }
  const host = headers.host ?? ''
  if (!['127.0.0.1', 'localhost', '[::1]'].some((name) => host.toLowerCase() === `${name}:${port}`)) {
    throw new Refusal(403, 'wrong_host', `Open http://127.0.0.1:${port}/simulator`)
  }
  if (headers.origin !== undefined && headers.origin.toLowerCase() !== `http://${host.toLowerCase()}`) {
    throw new Refusal(403, 'wrong_origin', "Only the simulator's own page may ask")
  }
}

/** The page is for whoever opens it: a script of the same origin that reads it would have the token. */
export function admitDocument({ headers }: IncomingMessage): void {
  if ((headers['sec-fetch-dest'] ?? 'document') !== 'document') {
    throw new Refusal(403, 'not_allowed', 'The page can be opened only, not read by a script')
  }
}

/** Throws a Refusal. */
export function admitScript({ headers }: IncomingMessage, token: string): void {
  if ((headers['sec-fetch-site'] ?? 'same-origin') !== 'same-origin') {
    throw new Refusal(403, 'wrong_origin', "Only the simulator's own page may ask")
  }
  const given = headers[TOKEN_HEADER]
  if (typeof given !== 'string' || !isSame(given, token)) {
    throw new Refusal(401, 'wrong_token', 'The stack has started anew: load the page again')
  }
}
