-- The waiting list: who wants a slot that is not free, and is asked when one becomes so.
--
-- A booking that is cancelled or moved away gives its slot to the best candidate in the same transaction, as a hold that
-- expires. While it runs nobody else can take the slot; when it ends unused, the next candidate is asked.

create type public.waiting_list_status as enum ('waiting', 'offered', 'booked', 'expired', 'cancelled');
create type public.day_period as enum ('any', 'morning', 'afternoon', 'evening');
comment on type public.day_period is 'Of the local day: morning until 12:00, afternoon until 18:00, evening after it.';

-- waiting_list ----------------------------------------------------------------------------------------------------

create table public.waiting_list (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  contact_id uuid not null,
  service_id uuid not null,
  professional_id uuid,
  location_id uuid,
  pet_id uuid,
  priority int not null default 0,
  earliest_date date,
  latest_date date,
  period public.day_period not null default 'any',
  status public.waiting_list_status not null default 'waiting',
  is_open boolean not null generated always as (status in ('waiting', 'offered')) stored,
  offered_booking_id uuid,
  offer_expires_at timestamptz,
  offer_count int not null default 0,
  notes text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint waiting_list_pkey primary key (organization_id, id),
  constraint waiting_list_contact_id_fkey foreign key (organization_id, contact_id)
    references public.contacts (organization_id, id) on delete cascade,
  constraint waiting_list_service_id_fkey foreign key (organization_id, service_id)
    references public.services (organization_id, id) on delete cascade,
  constraint waiting_list_professional_id_fkey foreign key (organization_id, professional_id)
    references public.professionals (organization_id, id) on delete cascade,
  constraint waiting_list_location_id_fkey foreign key (organization_id, location_id)
    references public.locations (organization_id, id) on delete cascade,
  constraint waiting_list_pet_id_fkey foreign key (organization_id, pet_id)
    references public.pets (organization_id, id) on delete set null (pet_id),
  constraint waiting_list_offered_booking_id_fkey foreign key (organization_id, offered_booking_id)
    references public.bookings (organization_id, id) on delete set null (offered_booking_id),
  constraint waiting_list_latest_date_check check (latest_date >= earliest_date),
  constraint waiting_list_priority_check check (priority between -1000 and 1000),
  constraint waiting_list_offer_check check ((status = 'offered') = (offer_expires_at is not null)),
  constraint waiting_list_notes_length_check check (length(notes) <= 2000)
);
comment on table public.waiting_list is 'Who waits for a slot of a service; asked by priority, then by age. Written through RPCs; what is wished for may be corrected.';
comment on column public.waiting_list.professional_id is 'Null = anybody who gives the service.';
comment on column public.waiting_list.priority is 'Higher first; among equals whoever waits longest.';
comment on column public.waiting_list.latest_date is 'Local days, both ends included; null = any. Who was not served by then is expired.';
comment on column public.waiting_list.status is
  'expired: let an offer pass, or was not served in time; may join again. cancelled: left, or declined an offer.';
comment on column public.waiting_list.offered_booking_id is 'The hold that is offered, or the booking that came of it.';
create unique index waiting_list_one_open_per_wish_idx
  on public.waiting_list (organization_id, contact_id, service_id, professional_id, pet_id) nulls not distinct where is_open;
comment on index public.waiting_list_one_open_per_wish_idx is 'Nobody stands in the same line twice, but each animal may.';
create index waiting_list_priority_created_at_idx
  on public.waiting_list (organization_id, service_id, priority desc, created_at) where is_open;
comment on index public.waiting_list_priority_created_at_idx is 'Who is next.';
create index waiting_list_contact_id_idx on public.waiting_list (organization_id, contact_id);
create index waiting_list_service_id_idx on public.waiting_list (organization_id, service_id);
create index waiting_list_professional_id_idx on public.waiting_list (organization_id, professional_id)
  where professional_id is not null;
create index waiting_list_location_id_idx on public.waiting_list (organization_id, location_id) where location_id is not null;
create index waiting_list_pet_id_idx on public.waiting_list (organization_id, pet_id) where pet_id is not null;
create index waiting_list_offered_booking_id_idx on public.waiting_list (organization_id, offered_booking_id)
  where offered_booking_id is not null;

alter table public.waiting_list enable row level security;
alter table public.waiting_list force row level security;
create policy "Members can read their organization's waiting list" on public.waiting_list
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
create policy "Attendants can update their organization's waiting list" on public.waiting_list
  for update to authenticated
  using (organization_id = any ((select private.member_organizations('attendant'))::uuid[]))
  with check (organization_id = any ((select private.member_organizations('attendant'))::uuid[]));
revoke all on public.waiting_list from public, anon, authenticated, service_role;
grant select on public.waiting_list to authenticated;
grant update (priority, earliest_date, latest_date, period, notes) on public.waiting_list to authenticated;
grant select, insert, update, delete on public.waiting_list to service_role;

create trigger waiting_list_100_touch_updated_at
  before update on public.waiting_list
  for each row execute function private.tg_touch_updated_at();

-- Offering --------------------------------------------------------------------------------------------------------

create function private.period_of(local_time timestamp)
returns public.day_period
language sql
immutable
set search_path = ''
as $$
  select case
    when local_time::time < '12:00' then 'morning'
    when local_time::time < '18:00' then 'afternoon'
    else 'evening'
  end::public.day_period
$$;
comment on function private.period_of(timestamp) is 'Morning, afternoon or evening of a wall-clock time.';

create function private.offer_slot(freed public.bookings)
returns void
language plpgsql
volatile
security definer -- called by a trigger, whoever freed the slot
set search_path = ''
as $$
declare
  begins constant timestamp := freed.start_time at time zone private.zone_of(freed.organization_id, freed.location_id);
  service public.services;
  candidate public.waiting_list;
  passed_over uuid[] := array[]::uuid[];
  wanted public.bookings;
  offer public.bookings;
begin
  select s.* into service
  from public.services s
  where s.organization_id = freed.organization_id and s.id = freed.service_id and s.is_active;
  -- Over; or not to be had any more: somebody is ill, it was squeezed in, others give it now. Nobody is asked.
  if service.id is null
    or freed.start_time <= now()
    or private.is_assigned(service) <> (freed.professional_id is not null)
    or (private.pick_agenda(
      service, freed.start_time, make_interval(mins => service.duration_minutes), freed.professional_id, freed.location_id, false
    )).refused is not null then
    return;
  end if;
  -- Whoever cannot have it for a reason that the query does not know is passed over; not all of a long list in one transaction.
  while cardinality(passed_over) < 20 loop
    select w.* into candidate
    from public.waiting_list w
    join public.contacts c on c.organization_id = w.organization_id and c.id = w.contact_id and c.status = 'active'
      -- Nobody would tell him.
      and c.opted_out_at is null
    where w.organization_id = freed.organization_id
      and w.service_id = freed.service_id
      and w.is_open
      and w.status = 'waiting'
      and w.id <> all (passed_over)
      and (w.professional_id is null or w.professional_id = freed.professional_id)
      and (w.location_id is null or w.location_id = freed.location_id)
      and (w.earliest_date is null or w.earliest_date <= begins::date)
      and (w.latest_date is null or w.latest_date >= begins::date)
      and w.period in ('any', private.period_of(begins))
      -- Neither who has just given it up, nor who has something else then.
      and w.contact_id <> freed.contact_id
      and not exists (
        select
        from public.bookings b
        where b.organization_id = w.organization_id
          and b.contact_id = w.contact_id
          and b.is_live
          and b.pet_id is not distinct from w.pet_id
          and b.start_time < freed.end_time
          and b.end_time > freed.start_time
      )
      and (w.pet_id is not null or not service.requires_pet)
      and (w.pet_id is null or exists (
        select
        from public.pets p
        where p.organization_id = w.organization_id and p.id = w.pet_id and p.contact_id = w.contact_id and p.is_active
      ))
    order by w.priority desc, w.created_at, w.id
    limit 1
    -- A contact that is being deleted or merged at this moment is passed over: contacts come before their entries.
    for key share of c skip locked
    for no key update of w;
    exit when not found;

    wanted := null;
    wanted.organization_id := freed.organization_id;
    wanted.contact_id := candidate.contact_id;
    wanted.pet_id := candidate.pet_id;
    wanted.service_id := freed.service_id;
    wanted.professional_id := freed.professional_id;
    wanted.location_id := freed.location_id;
    wanted.start_time := freed.start_time;
    wanted.status := 'hold';
    wanted.is_offer := true;
    wanted.created_by := 'system';
    wanted.hold_expires_at := least(freed.start_time, now() + make_interval(mins => (
      select s.waiting_list_offer_minutes
      from public.organization_settings s
      where s.organization_id = freed.organization_id
    )));
    begin
      offer := private.book(wanted);
    exception when sqlstate 'BL402' or sqlstate 'BL404' or sqlstate 'BL508' then
      passed_over := passed_over || candidate.id;
      continue;
    end;
    update public.waiting_list w
    set status = 'offered',
        offered_booking_id = offer.id,
        offer_expires_at = offer.hold_expires_at,
        offer_count = w.offer_count + 1
    where w.organization_id = candidate.organization_id and w.id = candidate.id;
    exit;
  end loop;
end;
$$;
comment on function private.offer_slot(public.bookings) is
  'Offers the slot of a booking that no longer needs it to the best candidate of the waiting list, as an expiring hold.';

create function private.tg_bookings__serve_waiting_list()
returns trigger
language plpgsql
volatile
security definer -- whoever cancels a booking need not be allowed to write the waiting list
set search_path = ''
as $$
begin
  if old.is_offer and not new.is_offer then
    update public.waiting_list w
    set status = case
          when new.status <> 'cancelled' then 'booked'
          when new.cancellation_reason = 'hold_expired' then 'expired'
          else 'cancelled'
        end::public.waiting_list_status,
        offer_expires_at = null
    where w.organization_id = new.organization_id and w.offered_booking_id = new.id and w.status = 'offered';
  end if;
  -- A hold that was no offer came out of free slots, and goes back to them.
  if old.status in ('scheduled', 'confirmed') and (
      new.status = 'cancelled'
      or (old.start_time, old.service_id) <> (new.start_time, new.service_id)
      or (old.professional_id, old.location_id) is distinct from (new.professional_id, new.location_id)
    )
    or old.is_offer and new.status = 'cancelled' then
    perform private.offer_slot(old);
  end if;
  return null;
end;
$$;
comment on function private.tg_bookings__serve_waiting_list() is
  'Trigger: what became of an offer is noted at its entry, and a slot that became free is offered to the next one.';
-- After bookings_900_emit_change: the one goes before the other comes.
create trigger bookings_900_serve_waiting_list
  after update of status, start_time, service_id, professional_id, location_id on public.bookings
  for each row execute function private.tg_bookings__serve_waiting_list();

-- Expiry ------------------------------------------------------------------------------------------------------------

create function private.is_unheard_offer(booking public.bookings)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return booking.status = 'hold' and booking.is_offer and exists (
    select
    from public.notifications n
    where n.organization_id = booking.organization_id and n.booking_id = booking.id and n.type = 'waiting_list_offer'
    having bool_and(n.status in ('skipped', 'failed', 'cancelled'))
  );
end;
$$;
comment on function private.is_unheard_offer(public.bookings) is
  'Whether a slot is held for somebody who was to be told on WhatsApp, and will not be.';

create function private.expire_holds(batch_size int default 200)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  started_at constant timestamptz := clock_timestamp();
  expired record;
  booking public.bookings;
  ended bigint := 0;
begin
  for expired in
    select b.organization_id, b.id, b.professional_id, b.service_id
    from public.bookings b
    where b.hold_expires_at <= now() or b.hold_expires_at is not null and b.is_offer and private.is_unheard_offer(b)
    order by b.hold_expires_at
    limit batch_size
  loop
    -- Agendas stay locked until all of it is committed.
    exit when clock_timestamp() > started_at + interval '250 milliseconds';
    -- One whose agenda is in use at this moment, or that fails, keeps the others from nothing: it comes again.
    begin
      perform set_config('lock_timeout', '200ms', true);
      booking := private.locked_booking(expired.organization_id, expired.id);
      if booking.status = 'hold' and (booking.hold_expires_at <= now() or private.is_unheard_offer(booking)) then
        update public.bookings b
        set status = 'cancelled', cancellation_reason = 'hold_expired'
        where b.organization_id = booking.organization_id and b.id = booking.id;
        ended := ended + 1;
      end if;
    exception
      when lock_not_available or deadlock_detected then
        null;
      when others then
        raise warning 'A hold could not be ended: %', sqlerrm
          using detail = format('organization %s, booking %s', expired.organization_id, expired.id);
    end;
  end loop;
  return ended;
end;
$$;
comment on function private.expire_holds(int) is
  'Ends the holds whose time is over, or that nobody was told of, and passes offers on to the next one; returns how many. Run it every few seconds.';

create function private.expire_waiting_list()
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  expired bigint;
begin
  update public.waiting_list w
  set status = 'expired', offer_expires_at = null
  where w.is_open
    and (w.status = 'waiting' or w.offered_booking_id is null)
    and w.latest_date < (now() at time zone private.zone_of(w.organization_id, w.location_id))::date;
  get diagnostics expired = row_count;
  return expired;
end;
$$;
comment on function private.expire_waiting_list() is 'Who wanted a slot until a day that is over waits no longer; returns how many.';

-- join_waiting_list ---------------------------------------------------------------------------------------------------

create function private.join_waiting_list(
  contact_id uuid,
  service_id uuid,
  professional_id uuid,
  location_id uuid,
  pet_id uuid,
  priority int,
  earliest_date date,
  latest_date date,
  period public.day_period,
  notes text,
  organization_id uuid
)
returns public.waiting_list
language plpgsql
volatile
security definer -- the waiting list is written through functions only
set search_path = ''
as $$
declare
  service public.services;
  person uuid;
  entry public.waiting_list;
begin
  perform private.require_role(organization_id, 'attendant');
  service := private.service_to_book(organization_id, service_id);
  perform private.check_place(service, professional_id, location_id);
  person := private.surviving_contact(organization_id, contact_id);
  if latest_date < earliest_date
    or latest_date < (now() at time zone private.zone_of(organization_id, location_id))::date then
    perform private.raise_error('BL504', 'invalid_range', 'The last day is over, or before the first',
      jsonb_build_object('earliest_date', earliest_date, 'latest_date', latest_date));
  elsif pet_id is not null and not exists (
    select
    from public.pets p
    where p.organization_id = join_waiting_list.organization_id and p.id = join_waiting_list.pet_id and p.contact_id = person and p.is_active
  ) then
    perform private.raise_error('BL404', 'pet_not_found', 'This customer has no such animal', jsonb_build_object('pet_id', pet_id));
  elsif pet_id is null and service.requires_pet then
    perform private.raise_error('BL508', 'pet_required', 'Say for which animal: this service needs one',
      jsonb_build_object('service_id', service_id));
  end if;
  insert into public.waiting_list as w (
    organization_id, contact_id, service_id, professional_id, location_id, pet_id, priority, earliest_date, latest_date, period,
    notes
  )
  values (
    service.organization_id, person, service.id, join_waiting_list.professional_id, join_waiting_list.location_id,
    join_waiting_list.pet_id, coalesce(join_waiting_list.priority, 0), join_waiting_list.earliest_date,
    join_waiting_list.latest_date, coalesce(join_waiting_list.period, 'any'), join_waiting_list.notes
  )
  on conflict do nothing
  returning w.* into entry;
  if not found then
    perform private.raise_error('BL515', 'already_waiting', 'This customer waits for that already', coalesce((
      select jsonb_build_object('id', w.id)
      from public.waiting_list w
      where w.organization_id = service.organization_id
        and w.contact_id = person
        and w.service_id = service.id
        and w.professional_id is not distinct from join_waiting_list.professional_id
        and w.pet_id is not distinct from join_waiting_list.pet_id
        and w.is_open
    ), '{}'));
  end if;
  return entry;
end;
$$;
comment on function private.join_waiting_list(uuid, uuid, uuid, uuid, uuid, int, date, date, public.day_period, text, uuid) is 'See public.join_waiting_list().';
grant execute on function private.join_waiting_list(uuid, uuid, uuid, uuid, uuid, int, date, date, public.day_period, text, uuid) to authenticated, service_role;

create function public.join_waiting_list(
  contact_id uuid,
  service_id uuid,
  professional_id uuid default null,
  location_id uuid default null,
  pet_id uuid default null,
  priority int default 0,
  earliest_date date default null,
  latest_date date default null,
  period public.day_period default 'any',
  notes text default null,
  organization_id uuid default public.user_organization_id()
)
returns public.waiting_list
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.join_waiting_list(
    contact_id, service_id, professional_id, location_id, pet_id,
    priority, earliest_date, latest_date, period, notes, organization_id);
end;
$$;
comment on function public.join_waiting_list(uuid, uuid, uuid, uuid, uuid, int, date, date, public.day_period, text, uuid) is
  'Puts a customer on the waiting list of a service; when a slot that fits becomes free it is offered to whoever has the highest priority, then waits longest. Attendants and up. Errors: not_allowed, service_not_found, professional_not_available, location_not_found, contact_not_found, pet_not_found, pet_required, invalid_range, already_waiting.';
grant execute on function public.join_waiting_list(uuid, uuid, uuid, uuid, uuid, int, date, date, public.day_period, text, uuid) to authenticated, service_role;

-- accept_waiting_list_offer ---------------------------------------------------------------------------------------------

create function private.waiting_list_entry(organization_id uuid, id uuid)
returns public.waiting_list
language plpgsql
volatile
set search_path = ''
as $$
declare
  entry public.waiting_list;
begin
  select w.* into entry
  from public.waiting_list w
  where w.organization_id = waiting_list_entry.organization_id and w.id = waiting_list_entry.id;
  if not found then
    perform private.raise_error('BL513', 'waiting_list_entry_not_found', 'This organization has no such entry');
  end if;
  if entry.status = 'offered' then
    -- Whatever becomes of an offer happens to its booking first: locked, the entry stands still.
    perform private.locked_booking(entry.organization_id, entry.offered_booking_id);
    select w.* into entry
    from public.waiting_list w
    where w.organization_id = entry.organization_id and w.id = entry.id;
  end if;
  return entry;
end;
$$;
comment on function private.waiting_list_entry(uuid, uuid) is 'An entry; what it is offered is locked. Or error waiting_list_entry_not_found.';

create function private.accept_waiting_list_offer(id uuid, organization_id uuid)
returns public.bookings
language plpgsql
volatile
security definer -- bookings are written through functions only
set search_path = ''
as $$
declare
  entry public.waiting_list;
  booking public.bookings;
begin
  perform private.require_role(organization_id, 'attendant');
  entry := private.waiting_list_entry(organization_id, id);
  if entry.status = 'offered' and entry.offer_expires_at > now() then
    return private.book_hold(entry.organization_id, entry.offered_booking_id, null, null);
  elsif entry.status = 'booked' then
    select b.* into booking
    from public.bookings b
    where b.organization_id = entry.organization_id and b.id = entry.offered_booking_id;
    return booking;
  end if;
  perform private.raise_error('BL514', 'offer_expired', 'There is no open offer for this customer',
    jsonb_build_object('status', entry.status));
  return null;
end;
$$;
comment on function private.accept_waiting_list_offer(uuid, uuid) is 'See public.accept_waiting_list_offer().';
grant execute on function private.accept_waiting_list_offer(uuid, uuid) to authenticated, service_role;

create function public.accept_waiting_list_offer(
  id uuid,
  organization_id uuid default public.user_organization_id()
)
returns public.bookings
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.accept_waiting_list_offer(id, organization_id);
end;
$$;
comment on function public.accept_waiting_list_offer(uuid, uuid) is
  'Books the slot that an entry of the waiting list was offered; a second time answers the same booking. Attendants and up. Errors: not_allowed, waiting_list_entry_not_found, offer_expired.';
grant execute on function public.accept_waiting_list_offer(uuid, uuid) to authenticated, service_role;

-- leave_waiting_list --------------------------------------------------------------------------------------------------

create function private.leave_waiting_list(id uuid, organization_id uuid)
returns public.waiting_list
language plpgsql
volatile
security definer -- the waiting list is written through functions only
set search_path = ''
as $$
declare
  entry public.waiting_list;
begin
  perform private.require_role(organization_id, 'attendant');
  loop
    entry := private.waiting_list_entry(organization_id, id);
    exit when entry.status not in ('waiting', 'offered');
    if entry.status = 'offered' then
      update public.bookings b
      set status = 'cancelled', cancellation_reason = 'offer_declined'
      where b.organization_id = entry.organization_id and b.id = entry.offered_booking_id and b.status = 'hold';
      exit;
    end if;
    begin
      update public.waiting_list w
      set status = 'cancelled'
      where w.organization_id = entry.organization_id and w.id = entry.id and w.status = 'waiting';
      if not found then
        raise exception using errcode = 'OFFER';
      end if;
      exit;
    exception when sqlstate 'OFFER' then
      -- It was offered a slot at this very moment: that is to be declined. The entry's lock, which an UPDATE that waited for
      -- it keeps, goes with the subtransaction: the agenda comes before it.
      null;
    end;
  end loop;
  select w.* into entry
  from public.waiting_list w
  where w.organization_id = entry.organization_id and w.id = entry.id;
  return entry;
end;
$$;
comment on function private.leave_waiting_list(uuid, uuid) is 'See public.leave_waiting_list().';
grant execute on function private.leave_waiting_list(uuid, uuid) to authenticated, service_role;

create function public.leave_waiting_list(
  id uuid,
  organization_id uuid default public.user_organization_id()
)
returns public.waiting_list
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.leave_waiting_list(id, organization_id);
end;
$$;
comment on function public.leave_waiting_list(uuid, uuid) is
  'Takes a customer off the waiting list; an open offer is declined, and the next one gets it at once. Who is not waiting any more stays as he is. Attendants and up. Errors: not_allowed, waiting_list_entry_not_found.';
grant execute on function public.leave_waiting_list(uuid, uuid) to authenticated, service_role;
