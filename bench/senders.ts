// The webhook's senders, in a process of their own: each sends over a connection of its own, one delivery after the
// other. Bodies and signatures are made before the clock runs.

import { Agent, request } from 'node:http'
import type { SignedDelivery } from './deliveries.ts'

export interface Assignment {
  api: string
  senders: number
  deliveries: SignedDelivery[]
}

export interface Sent {
  seconds: number
  /** Milliseconds, as each was answered. */
  latencies: number[]
  /** How many were answered with anything but 200, by status; 0 is no answer. */
  errors: Record<number, number>
}

const agent = new Agent({ keepAlive: true })

function post(api: string, { path, body, signature }: SignedDelivery): Promise<number> {
  return new Promise((resolve) => {
    const headers = {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(body),
      'x-hub-signature-256': signature,
    }
    const sending = request(api + path, { method: 'POST', agent, headers }, (response) => {
      response.resume()
      response.once('end', () => resolve(response.statusCode ?? 0))
      response.once('error', () => resolve(0))
    })
    sending.once('error', () => resolve(0))
    sending.end(body)
  })
}

async function send({ api, senders, deliveries }: Assignment): Promise<Sent> {
  const latencies: number[] = []
  const errors: Record<number, number> = {}
  const waiting = deliveries.values()
  const started = performance.now()
  await Promise.all(
    Array.from({ length: senders }, async () => {
      for (const delivery of waiting) {
        const sent = performance.now()
        const status = await post(api, delivery)
        latencies.push(performance.now() - sent)
        if (status !== 200) errors[status] = (errors[status] ?? 0) + 1
      }
    }),
  )
  return { seconds: (performance.now() - started) / 1000, latencies, errors }
}

process.on('message', (assignment: Assignment) => {
  void send(assignment).then((sent) => process.send?.(sent))
})
