// The number through which a tenant is simulated: its own, connected at the first look, so that nothing that the
// simulator does can leave through a number that exists.

import { createHash, randomBytes } from 'node:crypto'
import { z } from 'zod'
import { Refusal } from './admission.ts'
import type { Rest } from './rest.ts'

export interface SimulatedNumber {
  instance_id: string
  /** Meta's phone_number_id. */
  external_id: string
  phone_number: string
}

export interface Numbers {
  of(organizationId: string): Promise<SimulatedNumber>
}

export interface StackAccess {
  platform: Rest
  /** With the stack's secret key: manage-instance, and the control interface of Meta's imitation. */
  post: (path: string, body: object) => Promise<{ status: number; answer: unknown }>
}

interface NumberOptions extends StackAccess {
  /** Throws a Refusal where a message would leave this machine. */
  requireOwnGraph: () => void
}

/** So that one sees the ticks change. */
const STATUS_DELAY_MS = 700

const instanceRow = z.object({ id: z.string(), status: z.string(), external_id: z.string(), phone_number: z.string() })
const appAnswer = z.object({ app_key: z.string() })
const errorAnswer = z.object({ error: z.object({ code: z.string(), message: z.string() }) })

export function simulatedNumbers({ platform, post, requireOwnGraph }: NumberOptions): Numbers {
  /** Those under way: two looks at once connect one number. */
  const preparing = new Map<string, Promise<SimulatedNumber>>()
  /** Whose messages are answered with ticks. */
  const ticking = new Set<string>()
  /** One app of the platform's own: no tenant finds an app among its own that it has not made. */
  let app: Promise<string> | null = null

  return {
    of: (organizationId) => {
      const known = preparing.get(organizationId)
      if (known !== undefined) return known
      // Asked for anew each time: somebody may have disconnected it.
      const number = prepare(organizationId).finally(() => preparing.delete(organizationId))
      preparing.set(organizationId, number)
      return number
    },
  }

  async function prepare(organizationId: string): Promise<SimulatedNumber> {
    requireOwnGraph()
    const { external_id, phone_number } = inventedNumber(organizationId)
    const number = await connected(organizationId, external_id) ??
      await connect(organizationId, external_id, phone_number)
    if (ticking.has(external_id)) return number
    expectDone(
      await post('/graph/_control/statuses', {
        phone_number_id: external_id,
        statuses: ['sent', 'delivered', 'read'],
        delay_ms: STATUS_DELAY_MS,
      }),
    )
    ticking.add(external_id)
    return number
  }

  async function connected(organizationId: string, externalId: string): Promise<SimulatedNumber | null> {
    const [row] = await platform.select('whatsapp_instances', {
      select: 'id,status,external_id,phone_number',
      organization_id: `eq.${organizationId}`,
      provider: 'eq.meta_cloud',
      external_id: `eq.${externalId}`,
      status: 'neq.disconnected',
    }, instanceRow)
    return row === undefined ? null : { ...row, instance_id: row.id }
  }

  async function connect(organizationId: string, externalId: string, phoneNumber: string): Promise<SimulatedNumber> {
    const { status, answer } = await post('/functions/v1/manage-instance', {
      organization_id: organizationId,
      provider: 'meta_cloud',
      name: 'Simulador',
      phone_number: phoneNumber,
      external_id: externalId,
      access_token: randomBytes(24).toString('hex'),
      app_key: await appKey(),
    })
    // Somebody else may have been quicker: what counts is that it is there.
    const number = await connected(organizationId, externalId)
    if (number !== null) return number
    throw refusalOf(status, answer)
  }

  function appKey(): Promise<string> {
    app ??= post('/functions/v1/manage-instance/platform-app', {
      app_secret: randomBytes(16).toString('hex'),
      verify_token: randomBytes(16).toString('hex'),
    }).then((registered) => appAnswer.parse(expectDone(registered)).app_key)
    app.catch(() => (app = null))
    return app
  }
}

export function expectDone({ status, answer }: { status: number; answer: unknown }): unknown {
  if (status < 300) return answer
  throw refusalOf(status, answer)
}

function refusalOf(status: number, answer: unknown): Refusal {
  const read = errorAnswer.safeParse(answer)
  return read.success
    ? new Refusal(status, read.data.error.code, read.data.error.message)
    : new Refusal(503, 'not_running', `The stack answered ${status}: ${JSON.stringify(answer)}`)
}

/** The same one at every start: the tenant keeps its conversations. A mobile number that begins with 90000 is nobody's. */
function inventedNumber(organizationId: string): { external_id: string; phone_number: string } {
  const digits = BigInt(`0x${createHash('sha256').update(`simulator ${organizationId}`).digest('hex')}`).toString()
  return { external_id: `9${digits.slice(0, 14)}`, phone_number: `+5511900000${digits.slice(14, 17)}` }
}
