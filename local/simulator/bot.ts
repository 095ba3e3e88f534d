// Whether a bot answers a tenant's customers, and the template of a flow that would make one.

import { z } from 'zod'
import { Refusal } from './admission.ts'
import type { Rest } from './rest.ts'

export interface Bot {
  /** The name of the flow that begins when a customer writes. */
  flow: string | null
  /** What could answer where nothing does. */
  template: { key: string; name: string } | null
}

const flowRow = z.object({ name: z.string() })
const templateRow = z.object({ key: z.string(), name: z.string(), vertical: z.string().nullable() })
const organizationRow = z.object({ vertical: z.string() })

export async function botOf(platform: Rest, organizationId: string): Promise<Bot> {
  const [[flow], [organization], templates] = await Promise.all([
    platform.select('flows', {
      select: 'name',
      organization_id: `eq.${organizationId}`,
      is_default: 'is.true',
      is_active: 'is.true',
    }, flowRow),
    platform.select('organizations', { select: 'vertical', id: `eq.${organizationId}` }, organizationRow),
    platform.select('flow_templates', { select: 'key,name,vertical', order: 'key' }, templateRow),
  ])
  const template = templates.find(({ vertical }) => vertical === organization?.vertical) ??
    templates.find(({ vertical }) => vertical === null)
  return {
    flow: flow?.name ?? null,
    template: flow !== undefined || template === undefined ? null : { key: template.key, name: template.name },
  }
}

/** Twice is once. */
export async function startBot(platform: Rest, organizationId: string): Promise<Bot> {
  const { flow, template } = await botOf(platform, organizationId)
  if (flow === null) {
    if (template === null) throw new Refusal(404, 'flow_not_found', 'There is no flow template for this business')
    await platform.call('create_flow_from_template', { organization_id: organizationId, template_key: template.key })
  }
  return await botOf(platform, organizationId)
}
