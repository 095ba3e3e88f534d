// The webhook's senders, in a process of their own: each sends over a connection of its own, one delivery after the
// other. Bodies and signatures are made before the clock runs.

import { Agent, request } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import type { SignedDelivery } from './deliveries.ts'

export interface Assignment {
  api: string
  senders: number
  deliveries: SignedDelivery[]
  /** So many in all, evenly; without it as fast as the answers come. */
  perSecond?: number
}

export interface Sent {
  seconds: number
  /** Milliseconds, as each was answered. */
  latencies: number[]
  /** When each was sent, and answered, by the clock of the machine, in the order of the deliveries. */
  sentAt: number[]
  answeredAt: number[]
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

async function send({ api, senders, deliveries, perSecond }: Assignment): Promise<Sent> {
  const latencies: number[] = []
  const sentAt: number[] = []
  const answeredAt: number[] = []
  const errors: Record<number, number> = {}
  const waiting = deliveries.entries()
  const started = performance.now()
  await Promise.all(
    Array.from({ length: senders }, async () => {
      for (const [index, delivery] of waiting) {
        if (perSecond !== undefined) await sleep(started + index * 1000 / perSecond - performance.now())
        const sent = performance.now()
        sentAt[index] = Date.now()
        const status = await post(api, delivery)
        latencies.push(performance.now() - sent)
        answeredAt[index] = Date.now()
        if (status !== 200) errors[status] = (errors[status] ?? 0) + 1
      }
    }),
  )
  return { seconds: (performance.now() - started) / 1000, latencies, sentAt, answeredAt, errors }
}

process.on('message', (assignment: Assignment) => {
  void send(assignment).then((sent) => process.send?.(sent))
})
