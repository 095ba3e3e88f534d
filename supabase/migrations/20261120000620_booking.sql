-- Booking: holding, booking, confirming, moving, cancelling. What apps, the bot and the calendar call.
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

-- hold_slot ---------------------------------------------------------------------------------------------------------

create function private.hold_slot(
  contact_id uuid,
  service_id uuid,
  start_time timestamptz,
  professional_id uuid,
  location_id uuid,
  pet_id uuid,
  minutes int,
  created_by public.booking_creator,
  id uuid,
  organization_id uuid
)
returns public.bookings
language plpgsql
volatile
security definer -- bookings are written through functions only
set search_path = ''
as $$
declare
  wanted public.bookings;
begin
  perform private.require_role(organization_id, 'attendant');
  if minutes not between 1 and 1440 then
    perform private.raise_error('BL516', 'invalid_hold', 'A slot can be held for 1 to 1440 minutes',
      jsonb_build_object('minutes', minutes));
  end if;
  wanted.organization_id := organization_id;
  wanted.id := id;
  wanted.contact_id := contact_id;
  wanted.pet_id := pet_id;
  wanted.service_id := service_id;
  wanted.professional_id := professional_id;
  wanted.location_id := location_id;
  wanted.start_time := start_time;
  wanted.status := 'hold';
  wanted.hold_expires_at := least(start_time, now() + make_interval(mins => coalesce(minutes, (
    select s.hold_minutes from public.organization_settings s where s.organization_id = hold_slot.organization_id
  ))));
  wanted.created_by := private.booking_creator(created_by);
  wanted.created_by_user_id := auth.uid();
  return private.book(wanted);
end;
$$;
comment on function private.hold_slot(uuid, uuid, timestamptz, uuid, uuid, uuid, int, public.booking_creator, uuid, uuid) is 'See public.hold_slot().';
grant execute on function private.hold_slot(uuid, uuid, timestamptz, uuid, uuid, uuid, int, public.booking_creator, uuid, uuid) to authenticated, service_role;

create function public.hold_slot(
  contact_id uuid,
  service_id uuid,
  start_time timestamptz,
  professional_id uuid default null,
  location_id uuid default null,
  pet_id uuid default null,
  minutes int default null,
  created_by public.booking_creator default null,
  id uuid default null,
  organization_id uuid default public.user_organization_id()
)
returns public.bookings
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.hold_slot(
    contact_id, service_id, start_time, professional_id, location_id, pet_id, minutes, created_by, id,
    organization_id);
end;
$$;
comment on function public.hold_slot(uuid, uuid, timestamptz, uuid, uuid, uuid, int, public.booking_creator, uuid, uuid) is
  'Keeps a slot for somebody who is about to book it, for some minutes (default: organization_settings.hold_minutes); create_booking({hold_id}) makes the booking, else the hold expires by itself. Without professional_id the least busy one who is free. id: an id of the apps own, so that a second try answers the first ones row. created_by: members are always human; the platform says who (default system). Attendants and up. Errors: not_allowed, service_not_found, professional_not_available, location_not_found, contact_not_found, pet_not_found, pet_required, slot_unavailable, invalid_range, invalid_hold, booking_id_taken.';
grant execute on function public.hold_slot(uuid, uuid, timestamptz, uuid, uuid, uuid, int, public.booking_creator, uuid, uuid) to authenticated, service_role;

-- create_booking ------------------------------------------------------------------------------------------------------

create function private.book_hold(organization_id uuid, hold_id uuid, pet_id uuid, notes text)
returns public.bookings
language plpgsql
volatile
set search_path = ''
as $$
declare
  booking public.bookings := private.locked_booking(organization_id, hold_id);
begin
  if booking.status in ('scheduled', 'confirmed') then
    return booking;
  elsif booking.status = 'hold' and booking.hold_expires_at <= now() or booking.cancellation_reason = 'hold_expired' then
    perform private.refuse_hold(booking);
  end if;
  update public.bookings b
  set status = 'scheduled',
      hold_expires_at = null,
      is_offer = false,
      pet_id = coalesce(book_hold.pet_id, b.pet_id),
      notes = coalesce(book_hold.notes, b.notes)
  where b.organization_id = booking.organization_id and b.id = booking.id
  returning b.* into booking;
  return booking;
end;
$$;
comment on function private.book_hold(uuid, uuid, uuid, text) is
  'Makes a booking of a hold; one that is made already is answered again. Errors: booking_not_found, hold_expired, pet_not_found, invalid_booking_transition.';

create function private.create_booking(
  contact_id uuid,
  service_id uuid,
  start_time timestamptz,
  professional_id uuid,
  location_id uuid,
  pet_id uuid,
  notes text,
  created_by public.booking_creator,
  off_schedule boolean,
  hold_id uuid,
  id uuid,
  organization_id uuid
)
returns public.bookings
language plpgsql
volatile
security definer -- bookings are written through functions only
set search_path = ''
as $$
declare
  wanted public.bookings;
begin
  perform private.require_role(organization_id, 'attendant');
  if hold_id is not null then
    return private.book_hold(organization_id, hold_id, pet_id, notes);
  end if;
  wanted.organization_id := organization_id;
  wanted.id := id;
  wanted.contact_id := contact_id;
  wanted.pet_id := pet_id;
  wanted.service_id := service_id;
  wanted.professional_id := professional_id;
  wanted.location_id := location_id;
  wanted.start_time := start_time;
  wanted.status := 'scheduled';
  wanted.off_schedule := off_schedule;
  wanted.created_by := private.booking_creator(created_by);
  wanted.created_by_user_id := auth.uid();
  wanted.notes := notes;
  return private.book(wanted);
end;
$$;
comment on function private.create_booking(uuid, uuid, timestamptz, uuid, uuid, uuid, text, public.booking_creator, boolean, uuid, uuid, uuid) is 'See public.create_booking().';
grant execute on function private.create_booking(uuid, uuid, timestamptz, uuid, uuid, uuid, text, public.booking_creator, boolean, uuid, uuid, uuid) to authenticated, service_role;

create function public.create_booking(
  contact_id uuid default null,
  service_id uuid default null,
  start_time timestamptz default null,
  professional_id uuid default null,
  location_id uuid default null,
  pet_id uuid default null,
  notes text default null,
  created_by public.booking_creator default null,
  off_schedule boolean default false,
  hold_id uuid default null,
  id uuid default null,
  organization_id uuid default public.user_organization_id()
)
returns public.bookings
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.create_booking(
    contact_id, service_id, start_time, professional_id, location_id, pet_id, notes, created_by, off_schedule,
    hold_id, id, organization_id);
end;
$$;
comment on function public.create_booking(uuid, uuid, timestamptz, uuid, uuid, uuid, text, public.booking_creator, boolean, uuid, uuid, uuid) is
  'Books a slot. Either {hold_id}: the hold becomes a booking (notes and pet_id may be added); or contact_id, service_id and start_time, and without professional_id the least busy one who is free. off_schedule: outside the hours, in time off or in the past, never on top of another booking. id: an id of the apps own, so that a second try answers the first ones row. created_by: members are always human; the platform says who (default system). Attendants and up. Errors: not_allowed, service_not_found, professional_not_available, location_not_found, contact_not_found, pet_not_found, pet_required, slot_unavailable (with alternatives), invalid_range, booking_id_taken, booking_not_found, hold_expired, invalid_booking_transition.';
grant execute on function public.create_booking(uuid, uuid, timestamptz, uuid, uuid, uuid, text, public.booking_creator, boolean, uuid, uuid, uuid) to authenticated, service_role;

-- confirm_booking -------------------------------------------------------------------------------------------------------

create function private.confirm_booking(
  id uuid,
  confirmed_by public.booking_confirmer,
  confirmation_method public.confirmation_method,
  organization_id uuid
)
returns public.bookings
language plpgsql
volatile
security definer -- bookings are written through functions only
set search_path = ''
as $$
declare
  booking public.bookings;
begin
  perform private.require_role(organization_id, 'attendant');
  booking := private.locked_booking(organization_id, id);
  if booking.status <> 'confirmed' then
    update public.bookings b
    set status = 'confirmed',
        confirmed_by = coalesce(confirm_booking.confirmed_by, 'agent'),
        confirmation_method = coalesce(confirm_booking.confirmation_method, 'dashboard')
    where b.organization_id = booking.organization_id and b.id = booking.id
    returning b.* into booking;
  end if;
  return booking;
end;
$$;
comment on function private.confirm_booking(uuid, public.booking_confirmer, public.confirmation_method, uuid) is 'See public.confirm_booking().';
grant execute on function private.confirm_booking(uuid, public.booking_confirmer, public.confirmation_method, uuid) to authenticated, service_role;

create function public.confirm_booking(
  id uuid,
  confirmed_by public.booking_confirmer default 'agent',
  confirmation_method public.confirmation_method default 'dashboard',
  organization_id uuid default public.user_organization_id()
)
returns public.bookings
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.confirm_booking(id, confirmed_by, confirmation_method, organization_id);
end;
$$;
comment on function public.confirm_booking(uuid, public.booking_confirmer, public.confirmation_method, uuid) is
  'Notes that the customer will come; a second time changes nothing. Attendants and up. Errors: not_allowed, booking_not_found, invalid_booking_transition.';
grant execute on function public.confirm_booking(uuid, public.booking_confirmer, public.confirmation_method, uuid) to authenticated, service_role;

-- reschedule_booking ------------------------------------------------------------------------------------------------------

create function private.reschedule_booking(
  id uuid,
  start_time timestamptz,
  professional_id uuid,
  location_id uuid,
  off_schedule boolean,
  organization_id uuid
)
returns public.bookings
language plpgsql
volatile
security definer -- bookings are written through functions only
set search_path = ''
as $$
declare
  booking public.bookings;
  service public.services;
  picked private.pick;
begin
  perform private.require_role(organization_id, 'attendant');
  perform private.check_time(start_time);
  booking := private.locked_booking(organization_id, id, professional_id);
  select s.* into service
  from public.services s
  where s.organization_id = booking.organization_id and s.id = booking.service_id;
  if booking.status not in ('scheduled', 'confirmed') then
    perform private.raise_error('BL503', 'invalid_booking_transition', format('A booking that is %s cannot be moved', booking.status),
      jsonb_build_object('from', booking.status, 'to', 'scheduled', 'allowed', private.next_booking_statuses(booking.status)));
  elsif booking.start_time = start_time
    and booking.professional_id is not distinct from coalesce(reschedule_booking.professional_id, booking.professional_id)
    and booking.location_id is not distinct from coalesce(reschedule_booking.location_id, booking.location_id) then
    return booking;
  end if;
  -- Who has left, or does not give this any more, gets no new time: another one is to be named.
  perform private.check_place(service, coalesce(professional_id, booking.professional_id), location_id);
  if booking.professional_id is null and professional_id is null and private.is_assigned(service) then
    perform private.raise_error('BL507', 'professional_not_available', 'Somebody gives this service by now: say who',
      jsonb_build_object('service_id', service.id));
  end if;
  picked := private.pick_agenda(
    service, start_time, booking.end_time - booking.start_time,
    coalesce(professional_id, booking.professional_id),
    -- A professional may be elsewhere that day; a tub is not, nor is what the staff squeeze in.
    coalesce(location_id, case when booking.professional_id is null or off_schedule then booking.location_id end),
    coalesce(off_schedule, false), booking.id);
  if picked.refused is not null then
    perform private.refuse_slot(
      picked.refused, organization_id, booking.service_id, start_time,
      coalesce(professional_id, booking.professional_id), location_id, booking.end_time - booking.start_time, booking.id);
  end if;
  update public.bookings b
  set start_time = reschedule_booking.start_time,
      end_time = reschedule_booking.start_time + (b.end_time - b.start_time),
      professional_id = picked.professional_id,
      location_id = picked.location_id,
      status = 'scheduled',
      off_schedule = coalesce(reschedule_booking.off_schedule, false),
      original_start_time = coalesce(b.original_start_time, b.start_time),
      rescheduled_count = b.rescheduled_count + 1
  where b.organization_id = booking.organization_id and b.id = booking.id
  returning b.* into booking;
  return booking;
end;
$$;
comment on function private.reschedule_booking(uuid, timestamptz, uuid, uuid, boolean, uuid) is 'See public.reschedule_booking().';
grant execute on function private.reschedule_booking(uuid, timestamptz, uuid, uuid, boolean, uuid) to authenticated, service_role;

create function public.reschedule_booking(
  id uuid,
  start_time timestamptz,
  professional_id uuid default null,
  location_id uuid default null,
  off_schedule boolean default false,
  organization_id uuid default public.user_organization_id()
)
returns public.bookings
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.reschedule_booking(id, start_time, professional_id, location_id, off_schedule, organization_id);
end;
$$;
comment on function public.reschedule_booking(uuid, timestamptz, uuid, uuid, boolean, uuid) is
  'Moves a booking, in its length, to another time, and to another professional if one is named; it is to be confirmed again. To where it is already: nothing changes. Attendants and up. Errors: not_allowed, booking_not_found, invalid_booking_transition, professional_not_available, location_not_found, slot_unavailable (with alternatives), invalid_range.';
grant execute on function public.reschedule_booking(uuid, timestamptz, uuid, uuid, boolean, uuid) to authenticated, service_role;

-- cancel_booking ------------------------------------------------------------------------------------------------------

create function private.cancel_booking(
  id uuid,
  reason text,
  organization_id uuid
)
returns public.bookings
language plpgsql
volatile
security definer -- bookings are written through functions only
set search_path = ''
as $$
declare
  booking public.bookings;
begin
  perform private.require_role(organization_id, 'attendant');
  booking := private.locked_booking(organization_id, id);
  if booking.status <> 'cancelled' then
    update public.bookings b
    set status = 'cancelled',
        -- These two are the clock's and the waiting list's own words.
        cancellation_reason = case when reason in ('hold_expired', 'offer_declined') then upper(reason) else left(reason, 500) end
    where b.organization_id = booking.organization_id and b.id = booking.id
    returning b.* into booking;
  end if;
  return booking;
end;
$$;
comment on function private.cancel_booking(uuid, text, uuid) is 'See public.cancel_booking().';
grant execute on function private.cancel_booking(uuid, text, uuid) to authenticated, service_role;

create function public.cancel_booking(
  id uuid,
  reason text default null,
  organization_id uuid default public.user_organization_id()
)
returns public.bookings
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.cancel_booking(id, reason, organization_id);
end;
$$;
comment on function public.cancel_booking(uuid, text, uuid) is
  'Cancels a booking or gives up a hold; its slot is offered down the waiting list at once. A second time changes nothing. Attendants and up. Errors: not_allowed, booking_not_found, invalid_booking_transition.';
grant execute on function public.cancel_booking(uuid, text, uuid) to authenticated, service_role;

-- complete_booking ----------------------------------------------------------------------------------------------------

create function private.complete_booking(
  id uuid,
  organization_id uuid
)
returns public.bookings
language plpgsql
volatile
security definer -- bookings are written through functions only
set search_path = ''
as $$
declare
  booking public.bookings;
begin
  perform private.require_role(organization_id, 'attendant');
  booking := private.locked_booking(organization_id, id);
  if booking.status in ('scheduled', 'confirmed') and booking.booking_date >
    (now() at time zone private.zone_of(organization_id, booking.location_id))::date then
    perform private.raise_error('BL509', 'booking_not_started', 'It is not yet the day of this booking',
      jsonb_build_object('start_time', booking.start_time));
  end if;
  if booking.status <> 'completed' then
    update public.bookings b
    set status = 'completed'
    where b.organization_id = booking.organization_id and b.id = booking.id
    returning b.* into booking;
  end if;
  return booking;
end;
$$;
comment on function private.complete_booking(uuid, uuid) is 'See public.complete_booking().';
grant execute on function private.complete_booking(uuid, uuid) to authenticated, service_role;

create function public.complete_booking(
  id uuid,
  organization_id uuid default public.user_organization_id()
)
returns public.bookings
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.complete_booking(id, organization_id);
end;
$$;
comment on function public.complete_booking(uuid, uuid) is
  'Notes that the customer was there: from the bookings local day on. It corrects a no-show. A second time changes nothing. Attendants and up. Errors: not_allowed, booking_not_found, booking_not_started, invalid_booking_transition.';
grant execute on function public.complete_booking(uuid, uuid) to authenticated, service_role;

-- mark_no_show --------------------------------------------------------------------------------------------------------

create function private.mark_no_show(
  id uuid,
  organization_id uuid
)
returns public.bookings
language plpgsql
volatile
security definer -- bookings are written through functions only
set search_path = ''
as $$
declare
  booking public.bookings;
begin
  perform private.require_role(organization_id, 'attendant');
  booking := private.locked_booking(organization_id, id);
  if booking.status in ('scheduled', 'confirmed') and booking.start_time > now() then
    perform private.raise_error('BL509', 'booking_not_started', 'It has not begun yet',
      jsonb_build_object('start_time', booking.start_time));
  end if;
  if booking.status <> 'no_show' then
    update public.bookings b
    set status = 'no_show'
    where b.organization_id = booking.organization_id and b.id = booking.id
    returning b.* into booking;
  end if;
  return booking;
end;
$$;
comment on function private.mark_no_show(uuid, uuid) is 'See public.mark_no_show().';
grant execute on function private.mark_no_show(uuid, uuid) to authenticated, service_role;

create function public.mark_no_show(
  id uuid,
  organization_id uuid default public.user_organization_id()
)
returns public.bookings
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.mark_no_show(id, organization_id);
end;
$$;
comment on function public.mark_no_show(uuid, uuid) is
  'Notes that the customer did not come: once the booking has begun. It corrects a completed one. A second time changes nothing. Attendants and up. Errors: not_allowed, booking_not_found, booking_not_started, invalid_booking_transition.';
grant execute on function public.mark_no_show(uuid, uuid) to authenticated, service_role;
