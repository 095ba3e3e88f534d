// How many leads a plan brings in a month, when fifty come at once; what waits beyond it until somebody upgrades, even in
// the same moment; and whose leads an attendant sees.

import { randomUUID } from 'node:crypto'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { z } from 'zod'
import type { Enums, Tables } from '../../types/index.ts'
import { aContact, anAppOf, aProfessional, aService, nameOf, someContacts } from '../support/agendas.ts'
import { aConversation, aWaId, seen } from '../support/conversations.ts'
import { aTextMessage, bySenders, metaWebhook } from '../support/meta.ts'
import { runningStack } from '../support/running-stack.ts'
import {
  asAdminOf,
  asAttendantOf,
  asOwnerOf,
  asPlatform,
  asViewerOf,
  aTenant,
  type Client,
  connectNumber,
  memberOf,
  type Role,
  type Tenant,
  valueOf,
} from '../support/tenants.ts'

const PLACES: Record<Enums<'plan_type'>, number> = { free: 20, pro: 200, agency: 1000 }
const ROLES: Role[] = ['viewer', 'attendant', 'admin', 'owner']

const backend = runningStack()
const platform = asPlatform(backend)
const sql = postgres(backend.urls.admin, { max: 1, onnotice: () => undefined })
afterAll(() => sql.end({ timeout: 1 }))

let neighbour: Tenant
beforeAll(async () => {
  neighbour = await aTenant(backend, 'Consultoria ao Lado')
})

const anAgency = (name: string): Promise<Tenant> => aTenant(backend, name, ['viewer', 'attendant', 'admin'])

async function setPlan({ organizationId }: Tenant, plan_type: Enums<'plan_type'>): Promise<void> {
  valueOf(await platform.rpc('set_plan', { organization_id: organizationId, plan_type }))
}

/** What the platform sees: everything. */
async function allLeads({ organizationId }: Tenant): Promise<Tables<'leads'>[]> {
  return valueOf(await platform.from('leads').select('*').eq('organization_id', organizationId).order('created_at'))
}

async function visibleTo(client: Client, { organizationId }: Tenant): Promise<string[]> {
  const rows = valueOf(await client.from('leads').select('id').eq('organization_id', organizationId).order('id'))
  return rows.map(({ id }) => id)
}

const usage = z.object({ plan_type: z.string(), leads_per_month: z.int(), used: z.int(), over_limit: z.int() })

async function usageOf(tenant: Tenant): Promise<z.infer<typeof usage>> {
  return usage.parse(valueOf(await asAdminOf(tenant).rpc('get_lead_usage')))
}

/** One lead of each contact, all at once, from several devices. */
async function leadsOfAll(tenant: Tenant, contacts: { id: string }[]) {
  const answers = await Promise.all(contacts.map(({ id }, index) => {
    const role = ROLES[1 + index % 3] ?? 'owner'
    return anAppOf(tenant, role).rpc('create_lead', { contact_id: id, source: 'site', respostas: { orçamento: index } })
  }))
  expect(answers.map(({ error }) => nameOf(error))).toEqual(contacts.map(() => null))
  return answers.map((answer) => valueOf<Tables<'leads'> | null>(answer))
}

test('of fifty leads at once the free plan shows twenty; the other thirty come forward with an upgrade', async () => {
  const agency = await anAgency('Consultoria de Sucesso')
  const made = await leadsOfAll(agency, await someContacts(agency, 50))
  const shown = made.filter(({ over_limit }) => !over_limit).map(({ id }) => id).sort()
  const hidden = made.filter(({ over_limit }) => over_limit)
  expect([shown.length, hidden.length]).toEqual([PLACES.free, 30])
  expect(await usageOf(agency)).toEqual({ plan_type: 'free', leads_per_month: PLACES.free, used: PLACES.free, over_limit: 30 })
  for (const role of ROLES) expect(await visibleTo(memberOf(agency, role).client, agency)).toEqual(shown)
  expect(await visibleTo(asOwnerOf(neighbour), agency)).toEqual([])

  // What is hidden can be named, but not touched.
  const [first] = hidden
  for (const role of ROLES) {
    const client = memberOf(agency, role).client
    expect(valueOf(await client.from('leads').select('*').eq('contact_id', first?.contact_id ?? ''))).toEqual([])
    const { error } = await client.from('leads').update({ status: 'em_contato' }).eq('id', first?.id ?? '').select().single()
    expect(error?.code).toBe('PGRST116')
  }
  valueOf(await asAdminOf(agency).from('leads').delete().eq('id', first?.id ?? '').select())
  expect(await allLeads(agency)).toHaveLength(50)
  // The same person once more is no other lead, keeps her place in the line, and does not tell what waits there.
  const again = valueOf(await asAttendantOf(agency).rpc('create_lead', { contact_id: first?.contact_id ?? '', respostas: { prazo: 'já' } }))
  expect(again).toMatchObject({ id: first?.id, over_limit: true, respostas: {} })

  await setPlan(agency, 'pro')
  expect(valueOf(await asAttendantOf(agency).from('leads').select('respostas').eq('id', first?.id ?? '').single())).toEqual({
    respostas: { orçamento: expect.any(Number), prazo: 'já' },
  })
  const everybody = made.map(({ id }) => id).sort()
  for (const role of ROLES) expect(await visibleTo(memberOf(agency, role).client, agency)).toEqual(everybody)
  expect(await usageOf(agency)).toEqual({ plan_type: 'pro', leads_per_month: PLACES.pro, used: 50, over_limit: 0 })

  // A smaller plan hides nothing, and has no place left.
  await setPlan(agency, 'free')
  expect(await visibleTo(asViewerOf(agency), agency)).toEqual(everybody)
  const { id } = await aContact(agency)
  expect(valueOf(await asAttendantOf(agency).rpc('create_lead', { contact_id: id }))).toMatchObject({ over_limit: true })
})

test('an upgrade in the midst of them leaves none behind', async () => {
  const agency = await anAgency('Consultoria que Cresce')
  for (let round = 1; round <= 4; round++) {
    await setPlan(agency, 'free')
    const contacts = await someContacts(agency, 40)
    const before = (await allLeads(agency)).length
    const leads = leadsOfAll(agency, contacts)
    // When some of them are there, and others on their way.
    await Promise.race([leads, seen(() => allLeads(agency), ({ length }) => length >= before + 8 * round)])
    await setPlan(agency, 'pro')
    await leads
    const all = await allLeads(agency)
    expect(all).toHaveLength(40 * round)
    expect(all.filter(({ over_limit }) => over_limit)).toEqual([])
    expect(await usageOf(agency)).toMatchObject({ used: 40 * round, over_limit: 0 })
  }
})

test('a contact who answers ten times at once is one lead, with all her answers', async () => {
  const agency = await anAgency('Consultoria com Formulário')
  const { id } = await aContact(agency)
  const answers = await Promise.all(Array.from({ length: 10 }, (_, index) =>
    anAppOf(agency, 'attendant').rpc('create_lead', { contact_id: id, respostas: { [`pergunta ${index}`]: index } })
  ))
  expect(answers.map(({ error }) => nameOf(error))).toEqual(answers.map(() => null))
  const [lead, ...more] = await allLeads(agency)
  expect(more).toEqual([])
  expect(lead?.respostas).toEqual(Object.fromEntries(Array.from({ length: 10 }, (_, index) => [`pergunta ${index}`, index])))
  expect(await usageOf(agency)).toMatchObject({ used: 1 })
})

test('contacts who send a form and write at the same moment are leads, and heard', async () => {
  const agency = await anAgency('Consultoria com WhatsApp')
  const number = await connectNumber(agency)
  const people = await bySenders(10, Array.from({ length: 20 }, () => aWaId()), (waId) => aConversation(agency, number, waId))
  for (let round = 1; round <= 4; round++) {
    const answers = await Promise.all(people.flatMap(({ contactId, waId }) => [
      ...[1, 2, 3].map(async (question) => {
        const args = { contact_id: contactId, respostas: { [`pergunta ${round} ${question}`]: question } }
        const { error, status } = await anAppOf(agency, 'attendant').rpc('create_lead', args)
        return { status, error: nameOf(error) }
      }),
      ...[1, 2].map(async () => {
        const id = `wamid.${randomUUID()}`
        const message = aTextMessage({ to: number.externalId, from: waId, id, text: `Olá ${round}` })
        // A new name each time, so that there is something to note down about the contact itself.
        for (const { changes: [change] } of message.entry) {
          for (const { profile } of change?.value.contacts ?? []) profile.name = id
        }
        const { status } = await metaWebhook(message).signedWith(number.appSecret).postedTo(number.webhookUrl)
        return { status, error: null }
      }),
    ]))
    expect(answers.filter(({ status, error }) => status !== 200 || error !== null)).toEqual([])
  }
  const leads = await allLeads(agency)
  expect(leads.map(({ contact_id }) => contact_id).sort()).toEqual(people.map(({ contactId }) => contactId).sort())
  expect(leads.map(({ respostas }) => Object.keys(respostas).length)).toEqual(leads.map(() => 12))
  const heard = valueOf(await asAttendantOf(agency).from('messages').select('content').like('content', 'Olá%'))
  expect(heard).toHaveLength(people.length * 8)
})

test("a month is the organization's own: what came half an hour before it began took a place of the last one", async () => {
  const agency = await anAgency('Consultoria do Fuso')
  const organization_id = agency.organizationId
  const timezone = 'America/Sao_Paulo'
  valueOf(await asOwnerOf(agency).from('organizations').update({ timezone }).eq('id', organization_id).select())
  const [month] = await sql<{ before: Date; after: Date }[]>`
    select m.starts - interval '30 minutes' as before, m.starts + interval '1 second' as after
    from (select date_trunc('month', now() at time zone ${timezone}) at time zone ${timezone} as starts) m`
  // In Greenwich it is the first of the month already.
  expect([month?.before.getUTCDate(), month?.after.getUTCDate()]).toEqual([1, 1])
  const contacts = await someContacts(agency, 3 * PLACES.free)
  const imported = (from: number, created_at: Date | undefined) =>
    contacts.slice(from, from + PLACES.free).map(({ id }) => ({ organization_id, contact_id: id, created_at: created_at?.toISOString() ?? '' }))
  const last = valueOf(await platform.from('leads').insert(imported(0, month?.before)).select('over_limit'))
  expect(last.filter(({ over_limit }) => over_limit)).toEqual([])
  expect(await usageOf(agency)).toMatchObject({ used: 0 })
  const this_month = valueOf(await platform.from('leads').insert(imported(PLACES.free, month?.after)).select('over_limit'))
  expect(this_month.filter(({ over_limit }) => over_limit)).toEqual([])
  expect(await usageOf(agency)).toMatchObject({ used: PLACES.free, over_limit: 0 })
  const now = await leadsOfAll(agency, contacts.slice(2 * PLACES.free))
  expect(now.filter(({ over_limit }) => !over_limit)).toEqual([])
  const late = valueOf(
    await platform.from('leads').insert({
      organization_id,
      contact_id: (await aContact(agency)).id,
      created_at: month?.before.toISOString() ?? '',
    }).select('over_limit').single(),
  )
  expect(late).toEqual({ over_limit: true })
})

test('with lead_visibility own an attendant sees the leads of the professional that he is', async () => {
  const agency = await anAgency('Consultoria Discreta')
  const service = await aService(agency)
  const mine = await aProfessional(agency, 'Consultora Íris', [service], { user_id: memberOf(agency, 'attendant').userId })
  const other = await aProfessional(agency, 'Consultor Otávio', [service])
  const contacts = await someContacts(agency, 3)
  const owners = [mine.id, other.id, undefined]
  const [own, foreign, nobodys] = await Promise.all(contacts.map(async ({ id }, index) => {
    const professional_id = owners[index]
    return valueOf(await asAdminOf(agency).rpc('create_lead', { contact_id: id, ...(professional_id === undefined ? {} : { professional_id }) }))
  }))
  const all = [own?.id, foreign?.id, nobodys?.id].sort()
  for (const role of ROLES) expect(await visibleTo(memberOf(agency, role).client, agency)).toEqual(all)

  valueOf(
    await asAdminOf(agency).from('organization_settings').update({ lead_visibility: 'own' })
      .eq('organization_id', agency.organizationId).select(),
  )
  const seenBy = Object.fromEntries(await Promise.all(ROLES.map(async (role) => [role, await visibleTo(memberOf(agency, role).client, agency)])))
  expect(seenBy).toEqual({ viewer: [], attendant: [own?.id], admin: all, owner: all })

  const attendant = asAttendantOf(agency)
  for (const id of [foreign?.id ?? '', nobodys?.id ?? '']) {
    const moved = await attendant.from('leads').update({ status: 'em_contato' }).eq('id', id).select().single()
    expect(moved.error?.code).toBe('PGRST116')
  }
  // Neither taken nor given away.
  const taken = await attendant.from('leads').update({ professional_id: other.id }).eq('id', own?.id ?? '').select().single()
  expect(taken.error?.code).toBe('42501')
  const { id } = await aContact(agency)
  expect(nameOf((await attendant.rpc('create_lead', { contact_id: id, professional_id: other.id })).error)).toBe('not_allowed')
  expect(valueOf(await attendant.rpc('create_lead', { contact_id: id }))).toMatchObject({ professional_id: mine.id })
  expect((await allLeads(agency)).map((lead) => lead.professional_id).sort()).toEqual([mine.id, mine.id, other.id, null].sort())
})
