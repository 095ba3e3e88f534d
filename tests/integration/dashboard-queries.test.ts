// What a dashboard shows, asked as a dashboard asks it: by supabase-js, rows with what they name embedded, and the types
// that types/ gives for it without a cast. And what somebody sees who has not signed in.

import { beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import type { Tables } from '../../types/index.ts'
import { aContact, aProfessional, aService, at, book, cancel, dayAhead, hold, same } from '../support/agendas.ts'
import { aConversation } from '../support/conversations.ts'
import { runningStack } from '../support/running-stack.ts'
import {
  asAdminOf,
  asAttendantOf,
  asNobody,
  asOwnerOf,
  asPlatform,
  asViewerOf,
  aTenant,
  type Client,
  connectNumber,
  type Tenant,
  valueOf,
} from '../support/tenants.ts'

const backend = runningStack()

let clinic: Tenant
let neighbour: Tenant
let consultation: Tables<'services'>
let vaccination: Tables<'services'>
let vet: Tables<'professionals'>
let tutor: Tables<'contacts'>
let pet: Tables<'pets'>
const day = dayAhead(3)

beforeAll(async () => {
  clinic = await aTenant(backend, 'Clínica do Painel', ['viewer', 'attendant', 'admin'])
  neighbour = await aTenant(backend, 'Clínica sem Painel', ['admin'])
  consultation = await aService(clinic, { name: 'Consulta', price_cents: 18_000, category: 'Clínica' })
  vaccination = await aService(clinic, { name: 'Vacinação', requires_pet: true })
  const abandoned = await aService(clinic, { name: 'Cromoterapia', is_active: false })
  vet = await aProfessional(clinic, 'Dra. Sônia', [consultation, vaccination, abandoned], {
    kind: 'veterinarian',
    bio: 'Cães e gatos.',
    crm_number: 'CRMV-SP 12345',
  })
  tutor = valueOf(
    await asAttendantOf(clinic).from('contacts').insert({ name: 'Marta', phone_number: '+5511987654321' }).select().single(),
  )
  pet = valueOf(await asAttendantOf(clinic).from('pets').insert({ contact_id: tutor.id, name: 'Bidu', species: 'cão' }).select().single())
})

const calendarOf = (client: Client, booking_date: string) =>
  client.from('bookings')
    .select('*, contact:contacts(name, phone_number), pet:pets(name), service:services(name), professional:professionals(name), location:locations(name)')
    .eq('booking_date', booking_date)
    .in('status', ['hold', 'scheduled', 'confirmed', 'completed', 'no_show'])
    .order('start_time')

describe('the bookings', () => {
  beforeAll(async () => {
    const professional_id = vet.id
    await book(clinic, { contact_id: tutor.id, service_id: consultation.id, professional_id, start_time: at(day, '10:00') })
    await book(clinic, { contact_id: tutor.id, service_id: vaccination.id, pet_id: pet.id, start_time: at(day, '09:00') })
    const held = { contact_id: tutor.id, service_id: consultation.id, start_time: at(day, '11:00') }
    await hold(clinic, held)
    const other = await aContact(clinic)
    await cancel(clinic, await book(clinic, { ...held, contact_id: other.id, start_time: at(day, '12:00') }))
    for (let hour = 0; hour < 60; hour++) {
      const start_time = at(dayAhead(4 + Math.floor(hour / 10)), `${String(8 + hour % 10).padStart(2, '0')}:00`)
      await book(clinic, { contact_id: other.id, service_id: consultation.id, start_time })
    }
  })

  test('of a day, with who comes, to whom and what for', async () => {
    const rows = valueOf(await calendarOf(asViewerOf(clinic), day))
    const lines = rows.map(({ start_time, status, contact, pet, service, professional, location }) => ({
      start_time: same(start_time),
      status,
      who: contact.name,
      phone: contact.phone_number,
      pet: pet?.name ?? null,
      what: service.name,
      whom: professional?.name ?? null,
      where: location?.name ?? null,
    }))
    const marta = { who: 'Marta', phone: '+5511987654321', whom: 'Dra. Sônia', where: null }
    expect(lines).toEqual([
      { ...marta, start_time: at(day, '09:00'), status: 'scheduled', pet: 'Bidu', what: 'Vacinação' },
      { ...marta, start_time: at(day, '10:00'), status: 'scheduled', pet: null, what: 'Consulta' },
      { ...marta, start_time: at(day, '11:00'), status: 'hold', pet: null, what: 'Consulta' },
    ])
  })

  test('the next fifty of them', async () => {
    const query = asViewerOf(clinic).from('bookings')
      .select('id, start_time, contact:contacts(name), service:services(name, duration_minutes), professional:professionals(name)')
      .eq('is_live', true)
      .gte('start_time', new Date().toISOString())
      .order('start_time')
      .limit(50)
    const rows = valueOf(await query)
    expect(rows).toHaveLength(50)
    const starts = rows.map(({ start_time }) => same(start_time))
    expect(starts).toEqual([...starts].sort())
    expect(starts.slice(0, 4)).toEqual([at(day, '09:00'), at(day, '10:00'), at(day, '11:00'), at(dayAhead(4), '08:00')])
    expect(new Set(rows.map(({ professional, service }) => `${professional?.name}: ${service.duration_minutes}`))).toEqual(
      new Set(['Dra. Sônia: 30']),
    )
  })

  test('of a contact, from her page, and her animals', async () => {
    const card = valueOf(
      await asViewerOf(clinic).from('contacts')
        .select('name, pets(name, species), bookings(start_time, status, service:services(name)), leads(status), waiting_list(status)')
        .eq('id', tutor.id)
        .order('start_time', { referencedTable: 'bookings' })
        .single(),
    )
    expect(card.pets).toEqual([{ name: 'Bidu', species: 'cão' }])
    expect(card.bookings.map(({ status, service }) => [status, service.name])).toEqual([
      ['scheduled', 'Vacinação'],
      ['scheduled', 'Consulta'],
      ['hold', 'Consulta'],
    ])
  })

  test('the professionals with their services and hours', async () => {
    const [row] = valueOf(
      await asViewerOf(clinic).from('professionals')
        .select('name, services(name, is_active), working_hours(weekday, starts_at, ends_at)')
        .eq('is_active', true)
        .order('weekday', { referencedTable: 'working_hours' }),
    )
    expect(row?.services.map(({ name }) => name).sort()).toEqual(['Consulta', 'Cromoterapia', 'Vacinação'])
    expect(row?.working_hours[0]).toEqual({ weekday: 0, starts_at: '08:00:00', ends_at: '18:00:00' })
  })

  test("are nobody else's: another tenant sees nothing of all this, and names nothing of it", async () => {
    expect(valueOf(await calendarOf(asOwnerOf(neighbour), day))).toEqual([])
    const tables = ['bookings', 'leads', 'waiting_list', 'services', 'professionals', 'professional_services', 'working_hours', 'time_off', 'pets'] as const
    for (const table of tables) {
      const theirs = asOwnerOf(neighbour).from(table).select('organization_id').eq('organization_id', clinic.organizationId)
      expect({ table, rows: valueOf(await theirs) }).toEqual({ table, rows: [] })
    }
    const stranger = await aContact(clinic)
    const wish = { contact_id: stranger.id, service_id: consultation.id, start_time: at(day, '15:00') }
    const { error: notTheirs } = await asOwnerOf(neighbour).rpc('create_booking', { ...wish, organization_id: clinic.organizationId })
    expect(notTheirs?.code).toBe('BL002')
    const { error: notThere } = await asOwnerOf(neighbour).rpc('create_booking', wish)
    expect(notThere?.code).toBe('BL500')
  })

  test('are read by a viewer, and written by an attendant through RPCs only', async () => {
    const [row] = valueOf(await calendarOf(asViewerOf(clinic), day))
    const id = row?.id ?? ''
    for (const [name, client, code] of [['viewer', asViewerOf(clinic), 'BL002'], ['attendant', asAttendantOf(clinic), undefined]] as const) {
      expect({ name, code: (await client.rpc('confirm_booking', { id })).error?.code }).toEqual({ name, code })
    }
    for (const client of [asViewerOf(clinic), asAttendantOf(clinic), asAdminOf(clinic), asOwnerOf(clinic)]) {
      const forbidden = [
        await client.from('bookings').update({ start_time: at(day, '17:00') }).eq('id', id),
        await client.from('bookings').update({ status: 'cancelled' }).eq('id', id),
        await client.from('bookings').delete().eq('id', id),
        await client.from('bookings').insert({
          contact_id: tutor.id,
          service_id: consultation.id,
          start_time: at(day, '17:00'),
          end_time: at(day, '17:30'),
        }),
      ]
      expect(forbidden.map(({ error }) => error?.code)).toEqual(forbidden.map(() => '42501'))
    }
    const noted = valueOf(await asAttendantOf(clinic).from('bookings').update({ notes: 'Prefere o fundo.' }).eq('id', id).select('notes, status'))
    expect(noted).toEqual([{ notes: 'Prefere o fundo.', status: 'confirmed' }])
    const { error, data } = await asViewerOf(clinic).from('bookings').update({ notes: 'Não.' }).eq('id', id).select('notes')
    expect({ error, data }).toEqual({ error: null, data: [] })
  })
})

describe('the leads', () => {
  test('by status, with the contact and whose they are', async () => {
    const attendant = asAttendantOf(clinic)
    const lead = valueOf(await attendant.rpc('create_lead', { contact_id: tutor.id, professional_id: vet.id, source: 'instagram' }))
    const { id } = await aContact(clinic, 'Nino')
    valueOf(await attendant.rpc('create_lead', { contact_id: id }))
    valueOf(await attendant.from('leads').update({ status: 'em_contato' }).eq('id', lead.id).select().single())
    const pipeline = async (status: Tables<'leads'>['status']) =>
      valueOf(
        await asViewerOf(clinic).from('leads')
          .select('source, contact:contacts(name, phone_number), professional:professionals(name)')
          .eq('status', status)
          .order('created_at', { ascending: false }),
      )
    expect(await pipeline('novo')).toEqual([{ source: null, contact: { name: 'Nino', phone_number: null }, professional: null }])
    expect(await pipeline('em_contato')).toEqual([
      { source: 'instagram', contact: { name: 'Marta', phone_number: '+5511987654321' }, professional: { name: 'Dra. Sônia' } },
    ])
    const back = await attendant.from('leads').update({ status: 'novo' }).eq('id', lead.id)
    expect(back.error?.code).toBe('BL401')
  })

  test('with how many messages were exchanged with each', async () => {
    const number = await connectNumber(clinic)
    const { contactId, waId } = await aConversation(clinic, number)
    await aConversation(clinic, number, waId)
    const lead = valueOf(await asAttendantOf(clinic).rpc('create_lead', { contact_id: contactId }))
    const rows = valueOf(
      await asViewerOf(clinic).from('leads').select('id, contact:contacts(name, messages(count))').eq('id', lead.id),
    )
    expect(rows).toEqual([{ id: lead.id, contact: { name: 'Ana', messages: [{ count: 2 }] } }])
  })
})

describe('the waiting list', () => {
  test('with what is offered to whom', async () => {
    const made = await book(clinic, { contact_id: (await aContact(clinic)).id, service_id: consultation.id, start_time: at(day, '16:00') })
    const contact = await aContact(clinic, 'Zilda')
    valueOf(await asAttendantOf(clinic).rpc('join_waiting_list', { contact_id: contact.id, service_id: consultation.id }))
    await cancel(clinic, made)
    const [row] = valueOf(
      await asViewerOf(clinic).from('waiting_list')
        .select('status, contact:contacts(name), service:services(name), professional:professionals(name), offer:bookings(start_time, hold_expires_at)')
        .eq('is_open', true)
        .order('priority', { ascending: false })
        .order('created_at'),
    )
    expect(row).toMatchObject({ status: 'offered', contact: { name: 'Zilda' }, service: { name: 'Consulta' }, professional: null })
    expect(same(row?.offer?.start_time ?? '')).toBe(at(day, '16:00'))
  })
})

// The public page ---------------------------------------------------------------------------------------------------------

const profile = z.strictObject({
  slug: z.string(),
  name: z.string(),
  kind: z.string(),
  vertical: z.string(),
  bio: z.string().nullable(),
  crm_number: z.string().nullable(),
  whatsapp_number: z.string().nullable(),
  profile_image_url: z.string().nullable(),
  organization: z.strictObject({ name: z.string(), slug: z.string() }),
  location: z.strictObject({ name: z.string(), address: z.unknown(), phone_number: z.string().nullable() }).nullable(),
  services: z.array(z.strictObject({
    name: z.string(),
    category: z.string().nullable(),
    description: z.string().nullable(),
    price_cents: z.int().nullable(),
    duration_minutes: z.int(),
  })),
})

describe('somebody who has not signed in', () => {
  test('sees the page of a professional, without an id, a service that is no longer given, or anybody who left', async () => {
    const page = valueOf(await asNobody(backend).rpc('get_public_profile', { slug: vet.slug }))
    const shown = profile.parse(page)
    expect(shown).toMatchObject({ name: 'Dra. Sônia', bio: 'Cães e gatos.', organization: { name: 'Clínica do Painel' } })
    expect(shown.services).toEqual([
      { name: 'Consulta', category: 'Clínica', description: null, price_cents: 18_000, duration_minutes: 30 },
      { name: 'Vacinação', category: null, description: null, price_cents: null, duration_minutes: 30 },
    ])
    expect(JSON.stringify(page)).not.toMatch(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-/)

    const gone = await aProfessional(clinic, 'Dr. Foi Embora', [consultation], { is_active: false })
    for (const slug of [gone.slug, 'ninguem-com-este-nome', '']) {
      expect(await asNobody(backend).rpc('get_public_profile', { slug })).toMatchObject({ data: null, error: null })
    }
  })

  test('and nothing else: no table and no function', async () => {
    const anon = asNobody(backend)
    const tables = [
      'services',
      'professionals',
      'professional_services',
      'working_hours',
      'time_off',
      'pets',
      'contacts',
      'bookings',
      'waiting_list',
      'leads',
      'contact_merges',
    ] as const
    for (const table of tables) {
      const { error, status } = await anon.from(table).select('*').limit(1)
      expect({ table, code: error?.code, status }).toEqual({ table, code: '42501', status: 401 })
    }
    const { id } = (valueOf(await asViewerOf(clinic).from('bookings').select('id').limit(1)))[0] ?? { id: '' }
    const organization_id = clinic.organizationId
    const contact = { contact_id: tutor.id, organization_id }
    const slot = { ...contact, service_id: consultation.id, start_time: at(day, '14:00') }
    const range = { service_id: consultation.id, from_time: at(day, '00:00'), to_time: at(day, '23:00'), organization_id }
    const refused = {
      get_available_slots: await anon.rpc('get_available_slots', range),
      hold_slot: await anon.rpc('hold_slot', slot),
      create_booking: await anon.rpc('create_booking', slot),
      confirm_booking: await anon.rpc('confirm_booking', { id, organization_id }),
      reschedule_booking: await anon.rpc('reschedule_booking', { id, start_time: at(day, '14:00'), organization_id }),
      cancel_booking: await anon.rpc('cancel_booking', { id, organization_id }),
      complete_booking: await anon.rpc('complete_booking', { id, organization_id }),
      mark_no_show: await anon.rpc('mark_no_show', { id, organization_id }),
      join_waiting_list: await anon.rpc('join_waiting_list', { ...contact, service_id: consultation.id }),
      accept_waiting_list_offer: await anon.rpc('accept_waiting_list_offer', { id, organization_id }),
      leave_waiting_list: await anon.rpc('leave_waiting_list', { id, organization_id }),
      create_lead: await anon.rpc('create_lead', contact),
      get_lead_usage: await anon.rpc('get_lead_usage', { organization_id }),
      set_plan: await anon.rpc('set_plan', { organization_id, plan_type: 'agency' }),
      merge_contacts: await anon.rpc('merge_contacts', { keep_contact_id: tutor.id, merge_contact_id: tutor.id, organization_id }),
      undo_merge: await anon.rpc('undo_merge', { merge_id: id, organization_id }),
    }
    const answers = Object.entries(refused).map(([name, { error, status }]) => ({ name, code: error?.code, status }))
    expect(answers).toEqual(Object.keys(refused).map((name) => ({ name, code: '42501', status: 401 })))
    // Nor does a member set his own plan.
    const { error } = await asOwnerOf(clinic).rpc('set_plan', { organization_id, plan_type: 'agency' })
    expect(error?.code).toBe('42501')
    expect(valueOf(await asPlatform(backend).from('organizations').select('plan_type').eq('id', organization_id).single())).toEqual({ plan_type: 'free' })
  })
})
