-- Placing a booking: what is asked for, who can take it, which slots are free instead, and the locks.
--
-- Every function locks in the one order (agenda, then booking), looks, and writes in one transaction; whoever comes too late
-- is told the nearest free slots.

-- What is asked for -------------------------------------------------------------------------------------------------

create function private.service_to_book(organization_id uuid, service_id uuid)
returns public.services
language plpgsql
stable
set search_path = ''
as $$
declare
  service public.services;
begin
  select s.* into service
  from public.services s
  where s.organization_id = service_to_book.organization_id and s.id = service_to_book.service_id and s.is_active;
  if not found then
    perform private.raise_error('BL500', 'service_not_found', 'There is no such service, or it is not offered any more',
      jsonb_build_object('service_id', service_id));
  end if;
  return service;
end;
$$;
comment on function private.service_to_book(uuid, uuid) is 'The active service, or error service_not_found.';

create function private.check_time(at timestamptz)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  if (at between now() - interval '5 years' and now() + interval '10 years') is not true then
    perform private.raise_error('BL504', 'invalid_range', 'Say when: at most five years ago, or ten ahead',
      jsonb_build_object('time', at));
  end if;
end;
$$;
comment on function private.check_time(timestamptz) is 'Error invalid_range for a time at which nobody books.';

create function private.check_place(service public.services, professional_id uuid, location_id uuid)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  if professional_id is not null and not exists (
    select
    from public.professional_services g
    join public.professionals p on p.organization_id = g.organization_id and p.id = g.professional_id
    where g.organization_id = service.organization_id
      and g.service_id = service.id
      and g.professional_id = check_place.professional_id
      and p.is_active
  ) then
    perform private.raise_error('BL507', 'professional_not_available',
      'There is no such professional, or he does not give this service',
      jsonb_build_object('professional_id', professional_id, 'service_id', service.id));
  end if;
  if location_id is not null and not exists (
    select
    from public.locations l
    where l.organization_id = service.organization_id and l.id = check_place.location_id and l.is_active
  ) then
    perform private.raise_error('BL512', 'location_not_found', 'There is no such location, or it is closed for good',
      jsonb_build_object('location_id', location_id));
  end if;
end;
$$;
comment on function private.check_place(public.services, uuid, uuid) is
  'Error professional_not_available or location_not_found for a place where a service can never be booked.';

create function private.booking_creator(created_by public.booking_creator)
returns public.booking_creator
language plpgsql
stable
set search_path = ''
as $$
begin
  if private.is_service() then
    return coalesce(created_by, 'system');
  elsif created_by <> 'human' then
    perform private.raise_error('BL002', 'not_allowed', 'Only the platform may book in the name of somebody else');
  end if;
  return 'human'::public.booking_creator;
end;
$$;
comment on function private.booking_creator(public.booking_creator) is 'Who books: a member is always human; the platform says.';

-- No slot, and which there are ----------------------------------------------------------------------------------------

create function private.nearest_slots(
  organization_id uuid,
  service_id uuid,
  start_time timestamptz,
  professional_id uuid,
  location_id uuid,
  length interval default null,
  except_booking uuid default null
)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  around constant timestamptz := greatest(start_time, now());
  look record;
  alternatives jsonb;
begin
  -- Most are found within two days, and looking further costs more.
  for look in
    select * from (values (2, false), (14, false), (90, false), (14, true)) as l (days, at_anybody)
  loop
    select jsonb_agg(
      jsonb_build_object(
        'start_time', s.start_time, 'end_time', s.end_time, 'professional_id', s.professional_id, 'location_id', s.location_id)
      order by s.distance, s.start_time)
    into alternatives
    from (
      select f.*, abs(extract(epoch from f.start_time - nearest_slots.start_time)) as distance
      from private.free_slots(
        organization_id, service_id, around - make_interval(days => look.days), around + make_interval(days => look.days),
        case when not look.at_anybody then professional_id end, location_id, now(), length, except_booking) f
      order by distance, f.start_time
      limit 5
    ) s;
    exit when jsonb_array_length(alternatives) = 5 or look.days >= 14 and alternatives is not null;
  end loop;
  return coalesce(alternatives, '[]');
end;
$$;
comment on function private.nearest_slots(uuid, uuid, timestamptz, uuid, uuid, interval, uuid) is
  'Up to five free slots, nearest first: of the same professional if he has any, else of anybody.';

create function private.refuse_slot(
  reason text,
  organization_id uuid,
  service_id uuid,
  start_time timestamptz,
  professional_id uuid,
  location_id uuid,
  length interval default null,
  except_booking uuid default null
)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  perform private.raise_error(
    'BL501', 'slot_unavailable',
    case reason
      when 'taken' then 'This slot is taken'
      when 'past' then 'This slot is over'
      else 'Nobody works then'
    end,
    jsonb_build_object(
      'reason', reason,
      'service_id', service_id,
      'start_time', start_time,
      'alternatives', private.nearest_slots(
        organization_id, service_id, start_time, professional_id, location_id, length, except_booking)),
    'Offer one of the alternatives.');
end;
$$;
comment on function private.refuse_slot(text, uuid, uuid, timestamptz, uuid, uuid, interval, uuid) is
  'Error slot_unavailable, with the nearest free slots. reason: taken, closed or past.';

create type private.pick as (professional_id uuid, location_id uuid, refused text);

create function private.pick_agenda(
  service public.services,
  start_time timestamptz,
  length interval,
  professional_id uuid,
  location_id uuid,
  off_schedule boolean,
  except_booking uuid default null
)
returns private.pick
language plpgsql
volatile -- sees what was committed while it waited for a lock
set search_path = ''
as $$
declare
  claimed constant tstzrange :=
    tstzrange(start_time, start_time + length + make_interval(mins => service.buffer_minutes));
  picked private.pick;
begin
  if off_schedule and private.is_assigned(service) then
    select p.id, coalesce(pick_agenda.location_id, p.location_id), null::text into picked
    from public.professional_services g
    join public.professionals p on p.organization_id = g.organization_id and p.id = g.professional_id
    where g.organization_id = service.organization_id
      and g.service_id = service.id
      and p.is_active
      and p.id = coalesce(pick_agenda.professional_id, p.id)
      and (private.busy_times(service.organization_id, p.id, claimed, now(), except_booking) && claimed) is not true
    order by
      private.busy_minutes(
        service.organization_id, p.id,
        (start_time at time zone private.zone_of(service.organization_id, coalesce(pick_agenda.location_id, p.location_id)))::date,
        now(), except_booking),
      p.id
    limit 1;
  elsif off_schedule then
    select null::uuid, place.id, null::text into picked
    from (
      select l.id from public.locations l where l.organization_id = service.organization_id and l.is_active
      union all
      select null
      where not exists (
        select from public.locations l where l.organization_id = service.organization_id and l.is_active
      )
    ) place
    where (pick_agenda.location_id is null or place.id = pick_agenda.location_id)
      and private.seats_taken(
        service.organization_id, service.id, place.id, lower(claimed), upper(claimed), now(), except_booking) < service.capacity
    order by place.id
    limit 1;
  elsif start_time <= now() then
    return row(null, null, 'past')::private.pick;
  else
    select a.professional_id, a.location_id, case when a.busy && claimed then 'taken' end into picked
    from private.agendas(
      service, professional_id, location_id, start_time, start_time + interval '1 second', now(), except_booking) a
    where a.open_times @> tstzrange(start_time, start_time + length)
    order by
      a.busy && claimed,
      private.busy_minutes(
        service.organization_id, a.professional_id, (start_time at time zone a.timezone)::date, now(), except_booking),
      a.professional_id,
      a.location_id
    limit 1;
  end if;
  return case when found then picked else row(null, null, case when off_schedule then 'taken' else 'closed' end)::private.pick end;
end;
$$;
comment on function private.pick_agenda(public.services, timestamptz, interval, uuid, uuid, boolean, uuid) is
  'Who can take a booking at that time, and where: the least busy one; or why nobody can (refused: taken, closed, past).';

create function private.lock_agendas_of(service public.services, professional_id uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  if not private.is_assigned(service) then
    perform private.lock_agendas(service.organization_id, array[service.id], null);
  else
    perform private.lock_agendas(service.organization_id, null, array(
      select g.professional_id
      from public.professional_services g
      where g.organization_id = service.organization_id
        and g.service_id = service.id
        and g.professional_id = coalesce(lock_agendas_of.professional_id, g.professional_id)
    ));
  end if;
end;
$$;
comment on function private.lock_agendas_of(public.services, uuid) is
  'Locks the agenda that a booking wants; of everybody who gives the service when anybody will do.';

create function private.refuse_hold(hold public.bookings)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  perform private.raise_error('BL505', 'hold_expired', 'The slot was held until then, and not longer',
    jsonb_build_object('alternatives', private.nearest_slots(
      hold.organization_id, hold.service_id, hold.start_time, hold.professional_id, hold.location_id)),
    'Offer one of the alternatives: the same slot may still be among them.');
end;
$$;
comment on function private.refuse_hold(public.bookings) is 'Error hold_expired, with the nearest free slots.';

create function private.known_booking(wanted public.bookings)
returns public.bookings
language plpgsql
volatile
set search_path = ''
as $$
declare
  booking public.bookings;
begin
  select b.* into booking
  from public.bookings b
  where b.organization_id = wanted.organization_id and b.id = wanted.id;
  if booking.status = 'cancelled' and booking.cancellation_reason = 'hold_expired' then
    perform private.refuse_hold(booking);
  elsif found and (
    booking.service_id is distinct from wanted.service_id
    or booking.contact_id <> private.surviving_contact(wanted.organization_id, wanted.contact_id)
    or coalesce(booking.original_start_time, booking.start_time) is distinct from wanted.start_time
    or booking.status = 'hold' and wanted.status <> 'hold'
    or booking.status = 'cancelled'
  ) then
    perform private.raise_error('BL506', 'booking_id_taken', 'Another booking has this id',
      jsonb_build_object('id', wanted.id, 'status', booking.status));
  end if;
  return booking;
end;
$$;
comment on function private.known_booking(public.bookings) is
  'The booking that an app made under an id of its own, if it tries again because it never heard the answer.';

create function private.book(wanted public.bookings)
returns public.bookings
language plpgsql
volatile
set search_path = ''
as $$
declare
  service public.services;
  length interval;
  picked private.pick;
  booking public.bookings;
begin
  perform private.check_time(wanted.start_time);
  booking := private.known_booking(wanted);
  if booking.id is not null then
    return booking;
  end if;
  service := private.service_to_book(wanted.organization_id, wanted.service_id);
  length := make_interval(mins => service.duration_minutes);
  perform private.check_place(service, wanted.professional_id, wanted.location_id);
  -- Once without a lock: whoever comes too late holds up nobody. And once more with it.
  for attempt in 1 .. 2 loop
    begin
      if attempt = 2 then
        perform private.lock_agendas_of(service, wanted.professional_id);
      end if;
      picked := private.pick_agenda(
        service, wanted.start_time, length, wanted.professional_id, wanted.location_id, coalesce(wanted.off_schedule, false));
      if picked.refused is not null then
        raise exception using errcode = 'TAKEN';
      end if;
      if attempt = 2 then
        insert into public.bookings as b (
          organization_id, id, contact_id, pet_id, service_id, professional_id, location_id, start_time, end_time, status,
          hold_expires_at, is_offer, off_schedule, created_by, created_by_user_id, price_cents, notes
        )
        values (
          wanted.organization_id, coalesce(wanted.id, private.uuid_v7()), wanted.contact_id, wanted.pet_id, wanted.service_id,
          picked.professional_id, picked.location_id, wanted.start_time, wanted.start_time + length, wanted.status,
          wanted.hold_expires_at, coalesce(wanted.is_offer, false), coalesce(wanted.off_schedule, false), wanted.created_by,
          wanted.created_by_user_id, service.price_cents, wanted.notes
        )
        returning b.* into booking;
      end if;
    exception when sqlstate 'TAKEN' or unique_violation then
      -- The locks are given back: looking for alternatives holds up nobody. Perhaps the first try of the same booking took the
      -- slot or the id, a moment ago.
      booking := private.known_booking(wanted);
      if booking.id is not null then
        return booking;
      end if;
      perform private.refuse_slot(
        coalesce(picked.refused, 'taken'), wanted.organization_id, wanted.service_id, wanted.start_time, wanted.professional_id,
        wanted.location_id);
    end;
  end loop;
  return booking;
end;
$$;
comment on function private.book(public.bookings) is
  'Finds a place for a booking, locks it and writes it. Without a professional: with the least busy one who is free then. One that an app made under an id of its own before is answered again.';

create function private.locked_booking(organization_id uuid, id uuid, to_professional_id uuid default null)
returns public.bookings
language plpgsql
volatile
set search_path = ''
as $$
declare
  seen public.bookings;
  booking public.bookings;
begin
  loop
    select b.* into seen
    from public.bookings b
    where b.organization_id = locked_booking.organization_id and b.id = locked_booking.id;
    if not found then
      perform private.raise_error('BL502', 'booking_not_found', 'This organization has no such booking');
    end if;
    begin
      perform private.lock_agendas(
        organization_id,
        case when seen.professional_id is null then array[seen.service_id] end,
        array[seen.professional_id, to_professional_id]);
      select b.* into booking
      from public.bookings b
      where b.organization_id = seen.organization_id and b.id = seen.id
      for no key update;
      exit when booking.professional_id is not distinct from seen.professional_id and booking.service_id = seen.service_id;
      raise exception using errcode = 'MOVED';
    exception when sqlstate 'MOVED' then
      -- To another agenda meanwhile. These locks are given back first: the other one may come before them.
      null;
    end;
  end loop;
  return booking;
end;
$$;
comment on function private.locked_booking(uuid, uuid, uuid) is
  'A booking, its agenda (and the one that it moves to) locked before it; or error booking_not_found.';
