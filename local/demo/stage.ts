// Where the story is played: the doors of a stack, and its keys.

export interface Stage {
  api: string
  publishableKey: string
  /** For what is no app's to do: to look at what Meta was given, and to let time pass. */
  secretKey: string
  remark: string
  /** fetch, which nobody hears of any more once the demo is broken off. */
  request: typeof fetch
}
