// The answers of others, of which we read no more than we need, however much there is.

export interface Beginning {
  text: string
  /** False: the connection broke, or time was up, before the end or the limit. */
  isComplete: boolean
}

/** The first bytes of an answer as text; the rest is cancelled. */
export async function beginningOf({ body }: Response, limit: number): Promise<Beginning> {
  if (body === null) return { text: '', isComplete: true }
  const decoder = new TextDecoder()
  let text = ''
  let length = 0
  try {
    for await (const chunk of body) {
      const rest = chunk.subarray(0, limit - length)
      text += decoder.decode(rest, { stream: true })
      length += rest.byteLength
      // Leaving the loop cancels the stream.
      if (length === limit) break
    }
    return { text, isComplete: true }
  } catch {
    return { text, isComplete: false }
  }
}
