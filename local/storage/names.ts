// Names of buckets and objects, and the paths of requests that hold them.

import { refusals } from './refusal.ts'

// What S3 takes without ado, and therefore all that hosted Supabase takes: no letter beyond ASCII.
const OBJECT_NAME = /^[A-Za-z0-9_/!.*'() &$=@;:+,?-]+$/
const BUCKET_NAME =
  /^[A-Za-z0-9_!.*'()&$=@;:+,?-](?:[A-Za-z0-9_!.*'() &$=@;:+,?-]{0,98}[A-Za-z0-9_!.*'()&$=@;:+,?-])?$/
const LONGEST_OBJECT_NAME = 1024

export function assertObjectName(name: string): void {
  if (!OBJECT_NAME.test(name) || name.length > LONGEST_OBJECT_NAME) throw refusals.invalidKey(name)
  // Files do not lie under these names; but a client, a proxy or a copy on a disk resolves such a path to another one.
  if (name.split('/').some((part) => part === '.' || part === '..')) throw refusals.invalidKey(name)
}

export function assertBucketName(name: string): void {
  if (!BUCKET_NAME.test(name) || name === '.' || name === '..') throw refusals.invalidBucketName()
}

/** The parts of a request's path, each decoded by itself, so that an encoded slash cannot move a boundary. */
export function partsOf(path: string): string[] {
  try {
    return path.split('/').slice(1).map(decodeURIComponent)
  } catch {
    throw refusals.invalidRequest('The path is not properly encoded.')
  }
}
