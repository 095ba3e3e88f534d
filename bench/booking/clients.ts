// Apps that want the same few slots, in a process of their own. Each tries one after the other; what it got it gives back
// after its next try, so that there is always something to be had, and always something taken.

import { Agent, request } from 'node:http'
import { z } from 'zod'

export interface Wishes {
  rest: string
  headers: Record<string, string>
  clients: number
  seconds: number
  /** Arguments of create_booking(); each try takes one of them. */
  wishes: Record<string, unknown>[]
}

export interface Outcome {
  seconds: number
  booked: number
  refused: number
  /** Milliseconds that each try took. */
  latencies: number[]
  /** Whatever was neither booked nor refused as slot_unavailable, by its status and code. */
  errors: Record<string, number>
}

const answer = z.object({ id: z.string() })
const refusal = z.object({ code: z.string() })

const agent = new Agent({ keepAlive: true })

function post(url: string, headers: Record<string, string>, body: object): Promise<{ status: number; text: string }> {
  return new Promise((resolve) => {
    const content = JSON.stringify(body)
    const sending = request(url, {
      method: 'POST',
      agent,
      headers: { ...headers, 'content-type': 'application/json', 'content-length': Buffer.byteLength(content) },
    }, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.once('end', () => resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString() }))
      response.once('error', () => resolve({ status: 0, text: '' }))
    })
    sending.once('error', () => resolve({ status: 0, text: '' }))
    sending.end(content)
  })
}

function codeOf(text: string): string {
  try {
    return refusal.parse(JSON.parse(text)).code
  } catch {
    return ''
  }
}

async function want({ rest, headers, clients, seconds, wishes }: Wishes): Promise<Outcome> {
  const outcome: Outcome = { seconds: 0, booked: 0, refused: 0, latencies: [], errors: {} }
  const failed = (status: number, text: string): void => {
    const key = `${status} ${codeOf(text)}`.trim()
    outcome.errors[key] = (outcome.errors[key] ?? 0) + 1
  }
  const started = performance.now()
  const ends = started + seconds * 1000
  await Promise.all(Array.from({ length: clients }, async () => {
    let [mine, before]: [string | null, string | null] = [null, null]
    while (performance.now() < ends || mine !== null || before !== null) {
      if (before !== null) {
        const { status, text } = await post(`${rest}/rpc/cancel_booking`, headers, { id: before })
        if (status !== 200) failed(status, text)
      }
      before = mine
      mine = null
      if (performance.now() >= ends) continue
      const wish = wishes[Math.floor(Math.random() * wishes.length)]
      const sent = performance.now()
      const { status, text } = await post(`${rest}/rpc/create_booking`, headers, { ...wish })
      outcome.latencies.push(performance.now() - sent)
      if (status === 200) {
        outcome.booked++
        mine = answer.parse(JSON.parse(text)).id
      } else if (codeOf(text) === 'BL501') {
        outcome.refused++
      } else {
        failed(status, text)
      }
    }
  }))
  outcome.seconds = (performance.now() - started) / 1000
  return outcome
}

process.on('message', (wishes: Wishes) => {
  void want(wishes).then((outcome) => process.send?.(outcome))
})
