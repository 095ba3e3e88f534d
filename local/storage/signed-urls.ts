// Signed URLs: a token for one object and one purpose, which needs no key and asks no policy again.

import { createHmac } from 'node:crypto'
import { z } from 'zod'
import { claimsOf, signJwt } from '../api-keys.ts'
import { refusals } from './refusal.ts'

const downloadToken = z.object({ scope: z.literal('download'), url: z.string(), exp: z.number() })
const uploadToken = z.object({
  scope: z.literal('upload'),
  url: z.string(),
  exp: z.number(),
  owner: z.string().nullable(),
  upsert: z.boolean(),
})

export class UrlSigner {
  private readonly secret: string

  /** `now` in seconds. */
  constructor(jwtSecret: string, private readonly now: () => number) {
    // Not the secret itself: such a token goes to strangers, and must be no user's to the other services.
    this.secret = createHmac('sha256', jwtSecret).update('signed URLs of storage').digest('base64url')
  }

  forDownload(bucket: string, name: string, seconds: number): string {
    return this.sign({ scope: 'download', url: `${bucket}/${name}` }, seconds)
  }

  forUpload(
    bucket: string,
    name: string,
    { owner, upsert, seconds }: { owner: string | null; upsert: boolean; seconds: number },
  ): string {
    return this.sign({ scope: 'upload', url: `${bucket}/${name}`, owner, upsert }, seconds)
  }

  /** When the token ends, in seconds. */
  checkDownload(token: string | null, bucket: string, name: string): { exp: number } {
    return this.check(downloadToken, token, bucket, name)
  }

  checkUpload(token: string | null, bucket: string, name: string): { owner: string | null; upsert: boolean } {
    return this.check(uploadToken, token, bucket, name)
  }

  private sign(claims: Record<string, unknown>, seconds: number): string {
    const now = Math.floor(this.now())
    return signJwt({ ...claims, iat: now, exp: now + seconds }, this.secret)
  }

  private check<Claims extends { url: string }>(
    schema: z.ZodType<Claims>,
    token: string | null,
    bucket: string,
    name: string,
  ): Claims {
    const claims = schema.safeParse(claimsOf(token ?? '', this.secret, this.now()))
    if (!claims.success) throw refusals.invalidToken()
    if (claims.data.url !== `${bucket}/${name}`) throw refusals.invalidSignature()
    return claims.data
  }
}
