// The Data API as the simulator asks it: with the secret key, or in the name of a member, whose rights are checked as
// those of any app's user.

import { z } from 'zod'
import { messageOf } from '../failure.ts'
import { Refusal } from './admission.ts'

export interface Rest {
  /** Rows of a table; `query` is PostgREST's. */
  select<Row extends z.ZodType>(table: string, query: Record<string, string>, row: Row): Promise<z.output<Row>[]>
  call(name: string, args: Record<string, unknown>): Promise<unknown>
}

export interface RestKeys {
  apikey: string
  bearer?: string
}

const TIMEOUT_MS = 20_000

const failure = z.object({
  code: z.string().default('unexpected_answer'),
  message: z.string().default('The Data API failed'),
  details: z.string().nullish(),
})
const businessDetail = z.object({ error: z.string() })

export function restOf(url: string, { apikey, bearer }: RestKeys, closing: AbortSignal): Rest {
  const headers = { apikey, ...(bearer === undefined ? {} : { authorization: `Bearer ${bearer}` }) }

  return {
    select: async (table, query, row) => {
      const answer = await ask(`${url}/${table}?${new URLSearchParams(query)}`, { headers })
      return z.array(row).parse(answer)
    },
    call: async (name, args) =>
      await ask(`${url}/rpc/${name}`, {
        method: 'POST',
        headers: { ...headers, 'content-type': 'application/json' },
        body: JSON.stringify(args),
      }),
  }

  async function ask(address: string, request: RequestInit): Promise<unknown> {
    const signal = AbortSignal.any([closing, AbortSignal.timeout(TIMEOUT_MS)])
    const response = await fetch(address, { ...request, signal }).catch((error) => {
      throw new Refusal(503, 'not_running', `The Data API does not answer: ${messageOf(error)}`)
    })
    const text = await response.text()
    if (response.ok) return text === '' ? null : JSON.parse(text)
    throw refusalOf(response.status, text)
  }
}

/** A business error keeps its name; anything else keeps the Data API's code. */
function refusalOf(status: number, text: string): Refusal {
  const { code, message, details } = failure.parse(parsed(text) ?? {})
  const named = businessDetail.safeParse(parsed(details ?? ''))
  return new Refusal(status >= 500 ? 503 : status, named.success ? named.data.error : code, message)
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}
