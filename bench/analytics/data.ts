// Businesses with a year behind them: written set by set past triggers and keys, as a backup is restored; ids as
// private.uuid_v7() makes them at the time of the row, statistics as autovacuum brings them.

import type postgres from 'postgres'

/** Of each business. Messages come ten to a conversation. */
export const EACH = { contacts: 1_000, bookings: 1_000, conversations: 500, messages: 5_000, leads: 200, aiInteractions: 500 }

export interface House {
  organizationId: string
  /** Its only member, an owner. */
  userId: string
  timezone: string
}

/** Tables that are filled without their indexes, which are sooner made at the end than kept up to date. */
const LARGE = ['bookings', 'messages', 'conversations', 'ai_interactions']
const AT_ONCE = 50

/** As many as are asked for, with what autovacuum brings within a minute. */
export async function withHouses(
  admin: postgres.Sql,
  houses: House[],
  count: number,
  interrupted: AbortSignal,
): Promise<House[]> {
  const all = [...houses]
  await withoutIndexes(admin, async () => {
    while (all.length < count) {
      interrupted.throwIfAborted()
      all.push(...await addHouses(admin, Math.min(AT_ONCE, count - all.length)))
    }
  })
  await admin`vacuum (analyze)`
  return all
}

/**
 * Primary keys stay. The index of the search gets a row for each message written from now on, as ever, and none for those
 * of the year before: nothing here searches, and making it takes longer than all the rest.
 */
async function withoutIndexes(admin: postgres.Sql, fill: () => Promise<unknown>): Promise<void> {
  const kept = await admin<{ name: string; drop: string; make: string }[]>`
    select c.conname as name, format('alter table %s drop constraint %I', c.conrelid::regclass, c.conname) as drop,
      format('alter table %s add constraint %I %s', c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid)) as make
    from pg_constraint c
    where c.conrelid = any (${LARGE.map((table) => `public.${table}`)}::regclass[]) and c.contype in ('x', 'u')
    union all
    select i.indexrelid::regclass::text, format('drop index %s', i.indexrelid::regclass), pg_get_indexdef(i.indexrelid)
    from pg_index i
    where i.indrelid = any (${LARGE.map((table) => `public.${table}`)}::regclass[]) and not i.indisprimary
      and not exists (select from pg_constraint c where c.conindid = i.indexrelid and c.contype in ('x', 'u'))`
  const [{ now } = { now: '' }] = await admin<{ now: string }[]>`select private.uuid_v7()::text as now`
  for (const { drop } of kept) await admin.unsafe(drop)
  await fill()
  await admin`set maintenance_work_mem = '256MB'`
  for (const { name, make } of kept) {
    const isSearch = name.endsWith('messages_search_idx') && !make.includes(' AND ')
    await admin.unsafe(isSearch ? `${make} and id > '${now}'` : make)
  }
  await admin`reset maintenance_work_mem`
}

async function addHouses(admin: postgres.Sql, count: number): Promise<House[]> {
  return await admin.begin(async (sql) => {
    // Past triggers and foreign keys; what is written here keeps to what they would say.
    await sql`set local session_replication_role = replica`
    await sql`set local work_mem = '256MB'`
    const rows = await sql<{ organization_id: string; user_id: string; timezone: string }[]>`
      with house as materialized (
        select private.uuid_v7() as id, gen_random_uuid() as user_id,
          (array['America/Sao_Paulo', 'America/Sao_Paulo', 'America/Manaus', 'America/Noronha'])[1 + n % 4] as timezone
        from generate_series(1, ${count}::int) n
      ), organization as (
        insert into public.organizations (id, name, slug, vertical, timezone)
        select h.id, 'Clínica', 'c-' || h.id, 'clinic', h.timezone from house h
      ), settings as (
        insert into public.organization_settings (organization_id) select h.id from house h
      ), account as (
        insert into auth.users (id, email) select h.user_id, h.user_id || '@exemplo.com.br' from house h
      ), profile as (
        insert into public.profiles (user_id, active_organization_id) select h.user_id, h.id from house h
      ), member as (
        insert into public.user_roles (organization_id, user_id, role) select h.id, h.user_id, 'owner' from house h
      ), instance as (
        insert into public.whatsapp_instances (organization_id, provider, name, external_id, status, last_seen_at)
        select h.id, 'evolution', 'Recepção', h.id::text, 'connected', now() from house h
      )
      select h.id as organization_id, h.user_id, h.timezone from house h`
    const ids = rows.map(({ organization_id }) => organization_id)
    await sql`
      insert into public.professionals (organization_id, name, slug)
      select o.id, 'Dra. ' || n, 'p-' || n || '-' || o.id
      from unnest(${ids}::uuid[]) o (id) cross join generate_series(0, 2) n`
    await sql`
      insert into public.services (organization_id, name, duration_minutes, price_cents)
      select o.id, 'Consulta ' || n, 60, 15000 + n * 1000
      from unnest(${ids}::uuid[]) o (id) cross join generate_series(0, 9) n`
    await sql`
      insert into public.contacts (organization_id, id, name, phone_number, created_at, updated_at)
      select o.id, private.uuid_v7(at), 'Maria da Conceição ' || n, '+55119' || (80000000 + n), at, at
      from generate_series(0, ${EACH.contacts - 1}::int) n
      cross join lateral (
        select now() - interval '365 days' * (1 - n / ${EACH.contacts}::float8) as at) t
      cross join unnest(${ids}::uuid[]) o (id)`
    await sql`
      create temporary table house on commit drop as
      select o.id, g.timezone,
        (select i.id from public.whatsapp_instances i where i.organization_id = o.id) as instance_id,
        array(select p.id from public.professionals p where p.organization_id = o.id order by p.id) as professionals,
        array(select s.id from public.services s where s.organization_id = o.id order by s.id) as services,
        array(select c.id from public.contacts c where c.organization_id = o.id order by c.id) as contacts
      from unnest(${ids}::uuid[]) o (id)
      join public.organizations g on g.id = o.id`
    // Three of four past ones took place; a month lies ahead. As they came in: of all houses beside each other.
    await sql`
      insert into public.bookings (
        organization_id, id, contact_id, service_id, professional_id, start_time, end_time, blocked_until, booking_date,
        status, completed_at, cancelled_at, created_by, price_cents, created_at, updated_at)
      select h.id, private.uuid_v7(at - interval '5 days'), h.contacts[1 + n * 7 % ${EACH.contacts}::int],
        h.services[1 + n % 10], h.professionals[1 + n % 3], at, at + interval '1 hour', at + interval '1 hour', day, s.status,
        case when s.status = 'completed' then at + make_interval(mins => 60 + n % 20) end,
        case when s.status = 'cancelled' then at - interval '1 day' end,
        (array['human', 'flow', 'ai', 'human'])[1 + n % 4]::public.booking_creator,
        case when n % 17 > 0 then 15000 + n % 10 * 1000 end, at - interval '5 days', at - interval '5 days'
      from generate_series(0, ${EACH.bookings - 1}::int) n
      cross join house h
      cross join lateral (select (now() at time zone h.timezone)::date - 365 + n * 395 / ${EACH.bookings}::int as day) d
      cross join lateral (select (day + make_interval(hours => 8 + n % 9)) at time zone h.timezone as at) t
      cross join lateral (
        select case
          when n % 8 = 0 then 'cancelled'
          when at > now() then (array['scheduled', 'confirmed'])[1 + n % 2]
          when n % 10 = 1 then 'no_show'
          else 'completed'
        end::public.booking_status as status) s
      order by n`
    await sql`
      insert into public.leads (
        organization_id, id, contact_id, professional_id, status, closed_at, month, created_at, last_interaction_at)
      select h.id, private.uuid_v7(at), h.contacts[1 + n], case when n % 10 > 0 then h.professionals[1 + n % 3] end, s.status,
        case when s.status in ('fechado', 'perdido') then at + interval '3 days' end, date_trunc('month', at)::date, at, at
      from generate_series(0, ${EACH.leads - 1}::int) n
      cross join lateral (
        select now() - interval '365 days' * (1 - n / ${EACH.leads}::float8) as at) t
      cross join lateral (
        select case when n > ${EACH.leads - 20}::int then 'novo'
          else (array['em_contato', 'agendado', 'fechado', 'perdido'])[1 + n % 4] end::public.lead_status as status) s
      cross join house h`
    await sql`
      create temporary table conversation on commit drop as
      select h.id as organization_id, private.uuid_v7(at) as id, h.contacts[1 + n * 7 % 300] as contact_id, h.instance_id, n, at,
        case
          when n < ${EACH.conversations - 10}::int then 'closed' when n % 3 = 0 then 'waiting_human' else 'active'
        end::public.conversation_status as status
      from generate_series(0, ${EACH.conversations - 1}::int) n
      cross join house h
      cross join lateral (
        select now() - interval '365 days' * (1 - n / ${EACH.conversations}::float8) - interval '1 hour' as at) t`
    await sql`
      insert into public.conversations (
        organization_id, id, contact_id, instance_id, whatsapp_chat_id, status, is_bot_controlled, unread_count, last_message_at,
        last_message_preview, last_inbound_at, escalated_at, closed_at, satisfaction_score, created_at, updated_at)
      select v.organization_id, v.id, v.contact_id, v.instance_id, '55119' || (80000000 + n), v.status, n % 5 > 0, n % 2,
        at + interval '15 minutes', 'Obrigada!', at + interval '14 minutes',
        case when n % 5 = 0 or status = 'waiting_human' then at + interval '13 minutes' end,
        case when status = 'closed' then at + interval '40 minutes' end,
        case when status = 'closed' and n % 4 = 0 then 3 + n % 3 end, at, at + interval '40 minutes'
      from conversation v
      order by n`
    await sql`
      create temporary table answer on commit drop as
      select v.organization_id, v.id as conversation_id, v.contact_id, v.instance_id, v.n, i,
        private.uuid_v7(t.at) as id, t.at
      from generate_series(0, 9) i
      cross join conversation v
      cross join lateral (select v.at + make_interval(secs => i * 90 - case when i in (1, 3, 5, 7) then 80 else 0 end) as at) t`
    await sql`
      insert into public.messages (
        organization_id, id, conversation_id, contact_id, instance_id, direction, sender, message_type, content,
        whatsapp_message_id, status, sent_at, delivered_at, read_at, created_at, updated_at)
      select a.organization_id, a.id, a.conversation_id, a.contact_id, a.instance_id,
        (array['inbound', 'outbound'])[1 + i % 2]::public.message_direction,
        (array['contact', 'bot', 'contact', 'ai', 'contact', 'ai', 'contact', 'bot', 'contact', 'human'])[1 + i]::public.message_sender,
        case when i = 6 and n % 10 = 0 then 'reaction' else 'text' end::public.message_type,
        'Olá! Gostaria de marcar uma consulta para sexta às 15h, com a Dra. ' || i || '. Vocês têm horário?',
        'wamid.HBgNNTUxMTk4MDAwMDAwMBUCABEYEj' || md5(a.id::text),
        case when i % 2 = 0 then 'received' else 'read' end::public.message_status,
        at, case when i % 2 = 1 then at + interval '1 second' end, case when i % 2 = 1 then at + interval '20 seconds' end,
        at, at + interval '20 seconds'
      from answer a
      order by a.n, a.i`
    await sql`
      insert into public.ai_interactions (
        organization_id, id, conversation_id, lead_id, message_id, action_type, prompt, response, model, tokens_used,
        latency_ms, confidence_score, success, created_at)
      select a.organization_id, private.uuid_v7(at), a.conversation_id, l.id, a.id, 'reply',
        repeat('A cliente pergunta por horários na sexta-feira à tarde. ', 6), 'Temos às 15h e às 16h. Qual prefere?',
        'gpt-4o-mini', 400 + n, 600 + n * 3, 0.5 + n % 50 / 100.0, n % 20 > 0, at
      from answer a
      left join public.leads l on l.organization_id = a.organization_id and l.contact_id = a.contact_id
      where a.i = 3
      order by a.n`
    // What monitoring looks at: this month's calls to others, and the last day's jobs.
    await sql`
      insert into public.api_call_logs (
        organization_id, id, service, endpoint, method, status_code, response_time_ms, success, created_at)
      select o.id, private.uuid_v7(at), 'meta_graph', '/messages', 'POST', case when n % 50 > 0 then 200 else 500 end, 180, n % 50 > 0, at
      from generate_series(0, 199) n
      cross join lateral (
        select greatest(now() - n * interval '1 hour', date_trunc('month', now() at time zone 'UTC') at time zone 'UTC') as at) t
      cross join unnest(${ids}::uuid[]) o (id)`
    await sql`
      insert into public.message_queue (organization_id, job_type, status, attempts, run_at, completed_at, created_at)
      select o.id, 'send_message', 'completed', 1, at, at, at
      from generate_series(0, 19) n
      cross join lateral (select now() - n * interval '1 hour' as at) t
      cross join unnest(${ids}::uuid[]) o (id)`
    return rows.map(({ organization_id, user_id, timezone }) => ({ organizationId: organization_id, userId: user_id, timezone }))
  })
}
