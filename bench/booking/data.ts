// What is in the database before anything is measured: written set by set past triggers and keys, as a backup is restored;
// ids as private.uuid_v7() makes them, statistics as autovacuum brings them.

import type postgres from 'postgres'

/** 1,000 bookings each: 20 on each of 50 local days around today, of three professionals. */
export const BOOKINGS_OF_EACH = 1_000
/** The clinic's bookings of a month. */
export const BOOKINGS_OF_MONTH = 10_000

export interface House {
  organizationId: string
  /** Its only member. */
  userId: string
}

/** Ten professionals who work 08-12 and 13-18 on weekdays in São Paulo, and what they can be booked for. */
export interface Clinic extends House {
  /** 30 minutes, a buffer of 5, offered on a grid of 30; everybody gives it. */
  consultation: string
  professionals: string[]
  contacts: string[]
  /** The month in which the bookings lie; it begins on a Monday, next week or the week after. */
  from: Date
  to: Date
}

/** Past triggers and foreign keys; `fill` keeps to what they would say. */
async function restored(admin: postgres.Sql, fill: (sql: postgres.TransactionSql) => Promise<unknown>): Promise<void> {
  await admin.begin(async (sql) => {
    await sql`set local session_replication_role = replica`
    await fill(sql)
  })
}

const houses = (sql: postgres.TransactionSql, count: number) =>
  sql<{ organization_id: string; user_id: string }[]>`
    with house as materialized (
      select private.uuid_v7() as id, gen_random_uuid() as user_id from generate_series(1, ${count}::int)
    ), organization as (
      insert into public.organizations (id, name, slug, vertical, timezone)
      select h.id, 'Clínica', 'c-' || h.id, 'clinic', 'America/Sao_Paulo' from house h
    ), settings as (
      insert into public.organization_settings (organization_id) select h.id from house h
    ), account as (
      insert into auth.users (id, email) select h.user_id, h.user_id || '@exemplo.com.br' from house h
    ), profile as (
      insert into public.profiles (user_id, active_organization_id) select h.user_id, h.id from house h
    ), member as (
      insert into public.user_roles (organization_id, user_id, role) select h.id, h.user_id, 'attendant' from house h
    )
    select h.id as organization_id, h.user_id from house h`

/** Indexes are sooner made at the end than kept up to date for a million rows; the primary key stays. */
export async function withoutIndexes(admin: postgres.Sql, fill: () => Promise<unknown>): Promise<void> {
  const kept = await admin<{ drop: string; make: string }[]>`
    select format('alter table public.bookings drop constraint %I', c.conname) as drop,
      format('alter table public.bookings add constraint %I %s', c.conname, pg_get_constraintdef(c.oid)) as make
    from pg_constraint c
    where c.conrelid = 'public.bookings'::regclass and c.contype = 'x'
    union all
    select format('drop index %s', i.indexrelid::regclass), pg_get_indexdef(i.indexrelid)
    from pg_index i
    where i.indrelid = 'public.bookings'::regclass and not i.indisprimary and not i.indisexclusion`
  for (const { drop } of kept) await admin.unsafe(drop)
  await fill()
  await admin`set maintenance_work_mem = '256MB'`
  for (const { make } of kept) await admin.unsafe(make)
  await admin`reset maintenance_work_mem`
}

/** So many businesses with a past, a today and a future. */
export async function addHouses(admin: postgres.Sql, count: number): Promise<House[]> {
  let made: House[] = []
  await restored(admin, async (sql) => {
    const rows = await houses(sql, count)
    const ids = rows.map(({ organization_id }) => organization_id)
    await sql`
      insert into public.professionals (organization_id, name, slug)
      select o.id, 'Dra. ' || n, 'p-' || n || '-' || o.id
      from unnest(${ids}::uuid[]) o (id) cross join generate_series(0, 2) n`
    await sql`
      insert into public.services (organization_id, name, duration_minutes, price_cents)
      select o.id, 'Consulta ' || n, 60, 15000
      from unnest(${ids}::uuid[]) o (id) cross join generate_series(0, 3) n`
    await sql`
      insert into public.professional_services (organization_id, professional_id, service_id)
      select p.organization_id, p.id, s.id
      from public.professionals p
      join public.services s using (organization_id)
      where p.organization_id = any (${ids}::uuid[])`
    await sql`
      insert into public.working_hours (organization_id, professional_id, weekday, starts_at, ends_at)
      select p.organization_id, p.id, day, '08:00', '18:00'
      from public.professionals p
      cross join generate_series(0, 6) day
      where p.organization_id = any (${ids}::uuid[])`
    await sql`
      insert into public.contacts (organization_id, name, phone_number)
      select o.id, 'Maria da Conceição ' || n, '+55119' || (80000000 + n)
      from unnest(${ids}::uuid[]) o (id) cross join generate_series(0, 999) n`
    await sql`
      insert into public.pets (organization_id, contact_id, name, species)
      select c.organization_id, c.id, 'Bidu', 'cão'
      from public.contacts c
      where c.organization_id = any (${ids}::uuid[]) and c.phone_number ~ '[02468]$'`
    // As they came in: all houses' bookings of one day beside each other.
    await sql`
      with house as (
        select o.id,
          array(select p.id from public.professionals p where p.organization_id = o.id order by p.id) as professionals,
          array(select s.id from public.services s where s.organization_id = o.id order by s.id) as services,
          array(select c.id from public.contacts c where c.organization_id = o.id order by c.id) as contacts
        from unnest(${ids}::uuid[]) o (id)
      )
      insert into public.bookings (
        organization_id, contact_id, pet_id, service_id, professional_id, start_time, end_time, blocked_until,
        booking_date, status, completed_at, created_by, price_cents)
      select h.id, h.contacts[1 + n * 7 % 1000], p.id, h.services[1 + n % 4],
        h.professionals[1 + n % 20 % 3], at, at + interval '1 hour', at + interval '1 hour', day,
        case when at < now() then 'completed' else 'scheduled' end::public.booking_status,
        case when at < now() then at end, 'human', 15000
      from generate_series(0, ${BOOKINGS_OF_EACH - 1}::int) n
      cross join lateral (select (now() at time zone 'America/Sao_Paulo')::date - 25 + n / 20 as day) d
      cross join lateral (
        select (day + make_interval(hours => 8 + n % 20 / 3)) at time zone 'America/Sao_Paulo' as at) t
      cross join house h
      left join public.pets p on p.organization_id = h.id and p.contact_id = h.contacts[1 + n * 7 % 1000]
      order by n`
    made = rows.map(({ organization_id, user_id }) => ({ organizationId: organization_id, userId: user_id }))
  })
  return made
}

/** With 10,000 bookings of ten minutes in the month, three of four half hours taken; or with none. */
export async function addClinic(admin: postgres.Sql, bookings: 0 | typeof BOOKINGS_OF_MONTH): Promise<Clinic> {
  const [month] = await admin<{ day: string; from: Date; to: Date }[]>`
    select to_char(day, 'YYYY-MM-DD') as day, day::timestamp at time zone 'America/Sao_Paulo' as from,
      (day + 31)::timestamp at time zone 'America/Sao_Paulo' as to
    from (select date_trunc('week', now() at time zone 'America/Sao_Paulo')::date + 7 as day) next_monday`
  if (month === undefined) throw new Error('There is no Monday.')
  const { from, to } = month
  let made: Clinic | null = null
  await restored(admin, async (sql) => {
    const [house] = await houses(sql, 1)
    if (house === undefined) throw new Error('No organization was made.')
    const { organization_id } = house
    const professionals = await sql<{ id: string }[]>`
      insert into public.professionals (organization_id, name, slug)
      select ${organization_id}, 'Dr. ' || n, 'd-' || n || '-' || ${organization_id}::text
      from generate_series(0, 9) n
      returning id`
    const [consultation, injection] = await sql<{ id: string }[]>`
      insert into public.services
        (organization_id, name, duration_minutes, buffer_minutes, slot_interval_minutes, price_cents)
      values (${organization_id}, 'Consulta', 30, 5, 30, 20000), (${organization_id}, 'Injeção', 10, 0, 10, 2000)
      returning id`
    if (consultation === undefined || injection === undefined) throw new Error('No service was made.')
    await sql`
      insert into public.professional_services (organization_id, professional_id, service_id)
      select p.organization_id, p.id, s.id
      from public.professionals p
      join public.services s using (organization_id)
      where p.organization_id = ${organization_id}`
    await sql`
      insert into public.working_hours (organization_id, professional_id, weekday, starts_at, ends_at)
      select p.organization_id, p.id, day, hours.starts_at, hours.ends_at
      from public.professionals p
      cross join generate_series(1, 5) day
      cross join (values ('08:00'::time, '12:00'::time), ('13:00', '18:00')) hours (starts_at, ends_at)
      where p.organization_id = ${organization_id}`
    const contacts = await sql<{ id: string }[]>`
      insert into public.contacts (organization_id, name, phone_number)
      select ${organization_id}, 'João da Silva ' || n, '+55119' || (80000000 + n)
      from generate_series(0, 499) n
      returning id`
    // 54 cells of ten minutes a day, less an hour and a half in two places that differ by day and professional.
    await sql`
      with cell as (
        select p.id as professional_id, (${month.day}::text::date + d) as day, d,
          make_interval(mins => 480 + c * 10 + case when c >= 24 then 60 else 0 end) as time,
          row_number() over (partition by p.id order by d, c) as number
        from (
          select id, row_number() over (order by id) as place
          from public.professionals where organization_id = ${organization_id}
        ) p
        cross join generate_series(0, 30) d
        cross join generate_series(0, 53) c
        where extract(isodow from ${month.day}::text::date + d) < 6
          and c / 6 <> (d * 7 + p.place * 5) % 9
          and c / 3 <> (d * 5 + p.place * 11) % 18
      )
      insert into public.bookings (
        organization_id, contact_id, service_id, professional_id, start_time, end_time, blocked_until, booking_date,
        status, created_by, price_cents)
      select ${organization_id}, (${contacts.map(({ id }) => id)}::uuid[])[1 + c.number % 500], ${injection.id},
        c.professional_id, at, at + interval '10 minutes', at + interval '10 minutes', c.day, 'scheduled', 'human', 2000
      from cell c
      cross join lateral (select (c.day + c.time) at time zone 'America/Sao_Paulo' as at) t
      where c.number <= ${bookings / 10}
      order by md5(c.professional_id::text || c.number)`
    made = {
      organizationId: organization_id,
      userId: house.user_id,
      consultation: consultation.id,
      professionals: professionals.map(({ id }) => id),
      contacts: contacts.map(({ id }) => id),
      from,
      to,
    }
  })
  if (made === null) throw new Error('No clinic was made.')
  return made
}

/** The table with its keys, checks, indexes and its EXCLUDE constraint, and nothing else: public.bench_bookings. */
export async function addBareCopy(admin: postgres.Sql): Promise<void> {
  await admin.unsafe(`
    create table public.bench_bookings (like public.bookings including all);
    do $$
    declare key record;
    begin
      for key in
        select conname, pg_get_constraintdef(oid) as definition
        from pg_constraint
        where conrelid = 'public.bookings'::regclass and contype = 'f'
      loop
        execute format('alter table public.bench_bookings add constraint %I %s', key.conname, key.definition);
      end loop;
    end $$;
    grant all on public.bench_bookings to service_role;`)
}
