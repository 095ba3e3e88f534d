-- Booking: holding, booking, confirming, moving, cancelling. What apps, the bot and the calendar call.
--
-- Each is one transaction, and a second try of it changes nothing; how a place is found is the chapter before (000615).

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
