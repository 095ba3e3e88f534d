-- Availability: which slots are free.
--
-- Hours become instants date by date, in the time zone of their place, so that a change of daylight saving needs no rule of
-- its own: a wall-clock time that does not exist moves forward, one that exists twice is the later one (Postgres reads both
-- so). What is open minus what is taken are multiranges; a slot lies in the one and touches nothing of the other.

create type private.agenda as (
  professional_id uuid,
  location_id uuid,
  timezone text,
  blocks tstzrange[],
  open_times tstzmultirange,
  busy tstzmultirange,
  seats tstzmultirange[]
);
comment on type private.agenda is
  'One professional at one place (or one place alone): the blocks of hours, what of them is open, and what is taken. Without a professional: seats[n] is when at least n seats are taken.';

create function private.hours_on(
  starts_at time,
  ends_at time,
  day date,
  timezone text
)
returns tstzrange
language plpgsql
immutable
set search_path = ''
as $$
declare
  opens constant timestamptz := (day + starts_at) at time zone timezone;
  closes constant timestamptz := (day + case when ends_at < starts_at then 1 else 0 end + ends_at) at time zone timezone;
begin
  -- An hour that daylight saving swallows is no time at all.
  return case when opens < closes then tstzrange(opens, closes) end;
end;
$$;
comment on function private.hours_on(time, time, date, text) is
  'Local hours of one date as instants; ends_at before starts_at is on the next day. Null when daylight saving leaves nothing of them.';

create function private.busy_times(
  organization_id uuid,
  professional_id uuid,
  period tstzrange,
  at timestamptz,
  except_booking uuid
)
returns tstzmultirange
language plpgsql
stable
set search_path = ''
as $$
begin
  return (
    select range_agg(tstzrange(b.start_time, b.blocked_until))
    from public.bookings b
    where b.organization_id = busy_times.organization_id
      and b.professional_id = busy_times.professional_id
      and b.is_live
      and tstzrange(b.start_time, b.blocked_until) && period
      and b.keeps_slot_until > at
      and b.id is distinct from except_booking
  );
end;
$$;
comment on function private.busy_times(uuid, uuid, tstzrange, timestamptz, uuid) is 'When a professional is taken, buffers included.';

create function private.seats_by_number(
  service public.services,
  location_id uuid,
  period tstzrange,
  at timestamptz,
  except_booking uuid
)
returns tstzmultirange[]
language plpgsql
stable
set search_path = ''
as $$
begin
  return array(
    with taken as (
      select b.start_time, b.blocked_until
      from public.bookings b
      where b.organization_id = service.organization_id
        and b.service_id = service.id
        and b.professional_id is null
        -- One that was made before there were places may be at any of them.
        and (b.location_id is null or b.location_id is not distinct from seats_by_number.location_id)
        and b.start_time > lower(period) - interval '3 days'
        and b.start_time < upper(period)
        and b.keeps_slot_until > at
        and b.id is distinct from except_booking
    ), step as materialized (
      select moment, sum(sum(change)) over (order by moment) as seats, lead(moment) over (order by moment) as until
      from (
        select t.start_time, 1 from taken t
        union all
        select t.blocked_until, -1 from taken t
      ) as c (moment, change)
      group by moment
    )
    select range_agg(tstzrange(s.moment, s.until))
    from generate_series(1, (select max(seats) from step)) n
    join step s on s.seats >= n
    group by n
    order by n
  );
end;
$$;
comment on function private.seats_by_number(public.services, uuid, tstzrange, timestamptz, uuid) is
  'When at least one, two, three … seats of a service without a professional are taken, at one place.';

create function private.agendas(
  service public.services,
  professional_id uuid,
  location_id uuid,
  from_time timestamptz,
  to_time timestamptz,
  at timestamptz default now(),
  except_booking uuid default null
)
returns setof private.agenda
language plpgsql
stable
set search_path = ''
-- The planner finds generic plans dearer than they are, and would plan these at every call: most of what they cost.
set plan_cache_mode = force_generic_plan
as $$
declare
  -- Wide enough for hours that began the night before, and for a slot and its buffer that begin at the last moment.
  span constant tstzrange := tstzrange(from_time - interval '3 days', to_time + interval '3 days');
begin
  return query
  with hours as (
    -- The hours of those who give it …
    select h.professional_id, coalesce(h.location_id, p.location_id) as location_id,
      h.weekday, h.starts_at, h.ends_at, h.valid_from, h.valid_until
    from public.professional_services g
    join public.professionals p on p.organization_id = g.organization_id and p.id = g.professional_id
    join public.working_hours h on h.organization_id = p.organization_id and h.professional_id = p.id
    where g.organization_id = service.organization_id
      and g.service_id = service.id
      and p.is_active
      and p.id = coalesce(agendas.professional_id, p.id)
      -- Years of a rota by date need not be turned into instants.
      and (h.valid_from is null or h.valid_from <= (upper(span) at time zone 'UTC')::date + 1)
      and (h.valid_until is null or h.valid_until >= (lower(span) at time zone 'UTC')::date - 1)
    union all
    -- … or, when nobody is named for it, of the places.
    select null, place.id, d.number::int - 1, (h.value ->> 'starts_at')::time, (h.value ->> 'ends_at')::time, null, null
    from (
      select l.id, l.operating_hours
      from public.locations l
      where l.organization_id = service.organization_id and l.is_active
      union all
      select null, null
      where not exists (
        select from public.locations l where l.organization_id = service.organization_id and l.is_active
      )
    ) place
    join public.organization_settings s on s.organization_id = service.organization_id
    cross join unnest(array['sunday', 'monday', 'tuesday', 'wednesday', 'thursday', 'friday', 'saturday'])
      with ordinality as d (name, number)
    cross join lateral jsonb_array_elements(coalesce(place.operating_hours, s.operating_hours) -> d.name) h (value)
    where agendas.professional_id is null and not private.is_assigned(service)
  ), placed as (
    select h.*, coalesce(l.timezone, o.timezone) as timezone
    from hours h
    join public.organizations o on o.id = service.organization_id
    left join public.locations l on l.organization_id = service.organization_id and l.id = h.location_id
    where (h.location_id is null or l.is_active)
      and (agendas.location_id is null or h.location_id = agendas.location_id)
  ), block as (
    select p.professional_id, p.location_id, p.timezone,
      private.hours_on(p.starts_at, p.ends_at, day.date, p.timezone) as period
    from placed p
    cross join lateral (
      select (lower(span) at time zone p.timezone)::date + n as date
      from generate_series(0, (upper(span) at time zone p.timezone)::date
        - (lower(span) at time zone p.timezone)::date) n
    ) day
    where extract(dow from day.date) = p.weekday
      and (p.valid_from is null or day.date >= p.valid_from)
      and (p.valid_until is null or day.date <= p.valid_until)
  ), place as (
    select b.professional_id, b.location_id, b.timezone,
      array_agg(distinct b.period) as blocks, range_agg(b.period) as open_times
    from block b
    where b.period is not null
    group by b.professional_id, b.location_id, b.timezone
  )
  select
    p.professional_id,
    p.location_id,
    p.timezone,
    p.blocks,
    p.open_times - coalesce((
      select range_agg(tstzrange(t.starts_at, t.ends_at))
      from public.time_off t
      where t.organization_id = service.organization_id
        and t.ends_at > lower(span)
        and t.starts_at < upper(span)
        and (t.professional_id is null or t.professional_id = p.professional_id)
        and (t.location_id is null or t.location_id = p.location_id)
    ), '{}'),
    coalesce(
      case
        when p.professional_id is null then taken.seats[service.capacity]
        else private.busy_times(service.organization_id, p.professional_id, span, at, except_booking)
      end,
      '{}'),
    taken.seats
  from place p
  left join lateral (
    select private.seats_by_number(service, p.location_id, span, at, except_booking) as seats
    where p.professional_id is null
  ) taken on true;
end;
$$;
comment on function private.agendas(public.services, uuid, uuid, timestamptz, timestamptz, timestamptz, uuid) is
  'The agendas in which a service may find a slot that begins between two moments; one booking may be left out of account (the one that moves).';

create function private.is_assigned(service public.services)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return exists (
    select
    from public.professional_services g
    where g.organization_id = service.organization_id and g.service_id = service.id
  );
end;
$$;
comment on function private.is_assigned(public.services) is 'Whether professionals give it, or its capacity alone bounds it.';

create type private.slot as (
  start_time timestamptz,
  end_time timestamptz,
  professional_id uuid,
  location_id uuid,
  timezone text,
  seats_left int
);

create function private.busy_minutes(
  organization_id uuid,
  professional_id uuid,
  day date,
  at timestamptz default now(),
  except_booking uuid default null
)
returns numeric
language plpgsql
stable
set search_path = ''
as $$
begin
  return coalesce((
    select sum(extract(epoch from b.end_time - b.start_time) / 60)
    from public.bookings b
    where b.organization_id = busy_minutes.organization_id
      and b.professional_id = busy_minutes.professional_id
      and b.booking_date = day
      and b.keeps_slot_until > at
      and b.id is distinct from except_booking
  ), 0);
end;
$$;
comment on function private.busy_minutes(uuid, uuid, date, timestamptz, uuid) is 'How much of a professional''s local day is booked.';

create function private.free_slots(
  organization_id uuid,
  service_id uuid,
  from_time timestamptz,
  to_time timestamptz,
  professional_id uuid default null,
  location_id uuid default null,
  at timestamptz default now(),
  length interval default null,
  except_booking uuid default null
)
returns setof private.slot
language plpgsql
stable
set search_path = ''
-- The planner finds generic plans dearer than they are, and would plan these at every call: most of what they cost.
set plan_cache_mode = force_generic_plan
as $$
declare
  service public.services;
  takes interval;
begin
  select s.* into service
  from public.services s
  where s.organization_id = free_slots.organization_id
    and s.id = free_slots.service_id
    -- What is booked may move even when nobody else can book it any more.
    and (s.is_active or except_booking is not null);
  takes := coalesce(length, make_interval(mins => service.duration_minutes));
  return query
  with agenda as materialized (
    select a.* from private.agendas(service, professional_id, location_id, from_time, to_time, at, except_booking) a
    where service.id is not null
  ), free as materialized (
    select t.start_time, a.professional_id, a.location_id, a.timezone, (t.start_time at time zone a.timezone)::date as day,
      case
        when a.professional_id is not null then 1
        else service.capacity - (select count(*) from unnest(a.seats) taken where taken && t.claimed)::int
      end as seats_left
    from agenda a
    cross join lateral (
      select distinct start_time, tstzrange(start_time, start_time + takes + make_interval(mins => service.buffer_minutes)) as claimed
      from unnest(a.blocks) block
      cross join lateral generate_series(
        -- The first start of this block that is asked for.
        lower(block) + make_interval(mins => coalesce(service.slot_interval_minutes, service.duration_minutes))
          * greatest(0, ceil(extract(epoch from from_time - lower(block)) / 60
            / coalesce(service.slot_interval_minutes, service.duration_minutes))),
        least(upper(block), to_time) - interval '1 microsecond',
        make_interval(mins => coalesce(service.slot_interval_minutes, service.duration_minutes))
      ) start_time
      where start_time > at
    ) t
    where a.open_times @> tstzrange(t.start_time, t.start_time + takes)
      and not a.busy && t.claimed
  ), workload as materialized (
    select day.professional_id, day.day,
      private.busy_minutes(service.organization_id, day.professional_id, day.day, at, except_booking) as minutes
    from (select distinct f.professional_id, f.day from free f where f.professional_id is not null) day
  )
  select distinct on (f.start_time, case when f.professional_id is null then f.location_id end)
    f.start_time, f.start_time + takes, f.professional_id, f.location_id, f.timezone, f.seats_left
  from free f
  left join workload w on w.professional_id = f.professional_id and w.day = f.day
  order by
    f.start_time, case when f.professional_id is null then f.location_id end, w.minutes, f.professional_id, f.location_id;
end;
$$;
comment on function private.free_slots(uuid, uuid, timestamptz, timestamptz, uuid, uuid, timestamptz, interval, uuid) is
  'The free slots of a service that begin between two moments and after `at`. Without a professional: at each start the least busy one of those who are free (fewest booked minutes on that local day), with a service that nobody is named for one slot a place. For a booking that moves: its own length, and the slots that it would find if it were gone.';

create type public.available_slot as (
  start_time timestamptz,
  end_time timestamptz,
  professional_id uuid,
  professional_name text,
  location_id uuid,
  timezone text,
  seats_left int
);
comment on type public.available_slot is 'What get_available_slots() answers.';

create function private.get_available_slots(
  service_id uuid,
  from_time timestamptz,
  to_time timestamptz,
  professional_id uuid,
  location_id uuid,
  organization_id uuid
)
returns setof public.available_slot
language plpgsql
stable
security definer -- an index on time ranges serves nobody under RLS: membership is checked here, once
set search_path = ''
as $$
declare
  service public.services;
begin
  perform private.require_role(organization_id, 'viewer');
  perform private.check_time(from_time);
  if (to_time > from_time and to_time <= from_time + interval '92 days') is not true then
    perform private.raise_error('BL504', 'invalid_range', 'Ask for a time of at most 92 days that ends after it begins',
      jsonb_build_object('from_time', from_time, 'to_time', to_time));
  end if;
  service := private.service_to_book(organization_id, service_id);
  perform private.check_place(service, professional_id, location_id);
  return query
  select f.start_time, f.end_time, f.professional_id, p.name, f.location_id, f.timezone, f.seats_left
  from private.free_slots(
    service.organization_id, service.id, from_time, to_time,
    professional_id, location_id) f
  left join public.professionals p on p.organization_id = service.organization_id and p.id = f.professional_id
  order by f.start_time, p.name, f.location_id;
end;
$$;
comment on function private.get_available_slots(uuid, timestamptz, timestamptz, uuid, uuid, uuid) is 'See public.get_available_slots().';
grant execute on function private.get_available_slots(uuid, timestamptz, timestamptz, uuid, uuid, uuid) to authenticated, service_role;

create function public.get_available_slots(
  service_id uuid,
  from_time timestamptz,
  to_time timestamptz,
  professional_id uuid default null,
  location_id uuid default null,
  organization_id uuid default public.user_organization_id()
)
returns setof public.available_slot
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select * from private.get_available_slots(service_id, from_time, to_time, professional_id, location_id, organization_id);
end;
$$;
comment on function public.get_available_slots(uuid, timestamptz, timestamptz, uuid, uuid, uuid) is
  'The free slots that begin from from_time until before to_time (at most 92 days), in the order of their start. Without professional_id each start names the least busy professional who is free then. timezone is the one to show the time in; seats_left is 1, or what is left of the capacity of a service that nobody is named for (one row a place then). Viewers and up. Errors: not_allowed, invalid_range, service_not_found, professional_not_available, location_not_found.';
grant execute on function public.get_available_slots(uuid, timestamptz, timestamptz, uuid, uuid, uuid) to authenticated, service_role;
