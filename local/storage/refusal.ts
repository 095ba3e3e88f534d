// What Storage refuses, in the words of hosted Supabase: clients read `statusCode` and `message` of the body. Its HTTP
// status is 400 for almost everything; that, too, is as hosted.

import postgres from 'postgres'
import { hasCode } from '../failure.ts'

export class Refusal extends Error {
  override name = 'Refusal'

  constructor(
    /** In the body. */
    readonly statusCode: number,
    readonly error: string,
    message: string,
    /** Of HTTP. */
    readonly status = 400,
    readonly headers: Record<string, string> = {},
  ) {
    super(message)
  }

  get body(): { statusCode: string; error: string; message: string } {
    return { statusCode: String(this.statusCode), error: this.error, message: this.message }
  }
}

export const refusals = {
  noSuchBucket: () => new Refusal(404, 'Bucket not found', 'Bucket not found'),
  noSuchObject: () => new Refusal(404, 'not_found', 'Object not found'),
  noSuchRoute: (path: string) => new Refusal(404, 'not_found', `Route ${path} not found`, 404),
  alreadyExists: () => new Refusal(409, 'Duplicate', 'The resource already exists'),
  bucketNotEmpty: () => new Refusal(409, 'ResourceNotEmpty', 'The bucket you tried to delete is not empty'),
  accessDenied: (message: string) => new Refusal(403, 'Unauthorized', message),
  invalidKey: (key: string) => new Refusal(400, 'InvalidKey', `Invalid key: ${key}`),
  invalidBucketName: () => new Refusal(400, 'Invalid Input', 'Bucket name invalid'),
  invalidRequest: (message: string) => new Refusal(400, 'InvalidRequest', message),
  invalidToken: () => new Refusal(400, 'InvalidJWT', 'The token is invalid or has expired'),
  invalidSignature: () => new Refusal(400, 'InvalidSignature', 'Invalid signature'),
  tooLarge: (what = 'object') =>
    new Refusal(413, 'Payload too large', `The ${what} exceeded the maximum allowed size`),
  invalidMimeType: (type: string) =>
    new Refusal(415, 'invalid_mime_type', `mime type ${type} is not supported`),
  invalidRange: (size: number) =>
    new Refusal(416, 'InvalidRange', 'The requested range is not satisfiable', 416, {
      'content-range': `bytes */${size}`,
    }),
  unavailable: () =>
    new Refusal(503, 'Unavailable', 'The service is not available at the moment; try again.', 503),
  notImplemented: (what: string) =>
    new Refusal(501, 'NotImplemented', `The local stack has no ${what}; a hosted project has.`, 501),
}

const BROKEN_CONNECTION = [
  'CONNECTION_CLOSED',
  'CONNECTION_DESTROYED',
  'CONNECTION_ENDED',
  'CONNECT_TIMEOUT',
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
]

/** What a failure of the database means to the caller; null when it means nothing to him. */
export function refusalOf(error: unknown): Refusal | null {
  if (error instanceof Refusal) return error
  if (hasCode(error, ...BROKEN_CONNECTION)) return refusals.unavailable()
  if (!(error instanceof postgres.PostgresError)) return null
  // Values that the database cannot take: a time that is none, a character that no text may hold.
  if (error.code.startsWith('22')) return refusals.invalidRequest(error.message)
  switch (error.code) {
    case '42501':
      return refusals.accessDenied(
        error.message.includes('row-level security')
          ? 'new row violates row-level security policy'
          : error.message,
      )
    case '23505':
      return refusals.alreadyExists()
    case '23503':
      return new Refusal(404, 'InvalidRequest', 'The related resource does not exist')
    case '40001':
    case '40P01':
    case '55P03':
      return new Refusal(423, 'ResourceLocked', 'The resource is locked')
    case '57014':
      return new Refusal(544, 'DatabaseTimeout', 'The connection to the database timed out', 544)
    case '57P01':
    case '57P02':
    case '57P03':
      return refusals.unavailable()
    default:
      // A policy that breaks, most likely: who develops it wants to read of it.
      return new Refusal(500, 'DatabaseError', `${error.message} (${error.code})`, 500)
  }
}
