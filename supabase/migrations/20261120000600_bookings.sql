-- Bookings: who comes when to whom. Two of them cannot collide.
--
-- Whoever claims time of a professional locks that professional's row first, looks, and then writes; the EXCLUDE constraint
-- says the same once more, for whatever writes past the functions. (EXCLUDE alone makes two inserters wait for each other's
-- row: 11 bookings a second and deadlocks, against 2,100 with the lock; docs/performance.md.) A service that nobody is named
-- for is bounded by its capacity under a lock on the service.

create type public.booking_status as enum ('hold', 'scheduled', 'confirmed', 'completed', 'cancelled', 'no_show');
create type public.booking_creator as enum ('ai', 'flow', 'human', 'customer', 'system');
create type public.booking_confirmer as enum ('patient', 'agent', 'system');
create type public.confirmation_method as enum ('whatsapp', 'phone', 'dashboard');

-- bookings --------------------------------------------------------------------------------------------------------

create table public.bookings (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  contact_id uuid not null,
  pet_id uuid,
  service_id uuid not null,
  professional_id uuid,
  location_id uuid,
  start_time timestamptz not null,
  end_time timestamptz not null,
  -- Both are the guard's to set.
  blocked_until timestamptz not null default now(),
  booking_date date not null default current_date,
  status public.booking_status not null default 'scheduled',
  is_live boolean not null generated always as (status in ('hold', 'scheduled', 'confirmed')) stored,
  hold_expires_at timestamptz,
  is_offer boolean not null default false,
  keeps_slot_until timestamptz generated always as (
    case
      when status in ('scheduled', 'confirmed') or status = 'hold' and is_offer then 'infinity'
      when status = 'hold' then hold_expires_at
    end
  ) stored,
  off_schedule boolean not null default false,
  created_by public.booking_creator not null default 'system',
  created_by_user_id uuid,
  price_cents int,
  notes text,
  confirmed_at timestamptz,
  confirmed_by public.booking_confirmer,
  confirmation_method public.confirmation_method,
  cancelled_at timestamptz,
  cancellation_reason text,
  completed_at timestamptz,
  rescheduled_count int not null default 0,
  original_start_time timestamptz,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint bookings_pkey primary key (organization_id, id),
  constraint bookings_contact_id_fkey foreign key (organization_id, contact_id)
    references public.contacts (organization_id, id),
  constraint bookings_pet_id_fkey foreign key (organization_id, pet_id)
    references public.pets (organization_id, id) on delete set null (pet_id),
  constraint bookings_service_id_fkey foreign key (organization_id, service_id)
    references public.services (organization_id, id),
  constraint bookings_professional_id_fkey foreign key (organization_id, professional_id)
    references public.professionals (organization_id, id),
  constraint bookings_location_id_fkey foreign key (organization_id, location_id)
    references public.locations (organization_id, id),
  constraint bookings_created_by_user_id_fkey foreign key (organization_id, created_by_user_id)
    references public.user_roles (organization_id, user_id) on delete set null (created_by_user_id),
  constraint bookings_no_overlap_excl exclude using gist (
    organization_id with =, professional_id with =, tstzrange(start_time, blocked_until) with &&
  ) where (is_live and professional_id is not null),
  constraint bookings_end_time_check check (end_time > start_time and end_time <= start_time + interval '24 hours'),
  constraint bookings_blocked_until_check check (blocked_until >= end_time),
  constraint bookings_hold_expires_at_check check ((status = 'hold') = (hold_expires_at is not null)),
  constraint bookings_offer_is_hold_check check (not is_offer or status = 'hold'),
  constraint bookings_cancelled_at_check check ((status = 'cancelled') = (cancelled_at is not null)),
  constraint bookings_completed_at_check check ((status = 'completed') = (completed_at is not null)),
  constraint bookings_price_cents_is_not_negative_check check (price_cents >= 0),
  constraint bookings_notes_length_check check (length(notes) <= 4000),
  constraint bookings_cancellation_reason_length_check check (length(cancellation_reason) <= 500),
  constraint bookings_metadata_is_object_check check (jsonb_typeof(metadata) = 'object')
);
comment on table public.bookings is 'Appointments, and slots that are held for somebody. Written through the RPCs of the chapter "booking".';
comment on column public.bookings.professional_id is 'Null: a service that nobody is named for, bounded by services.capacity.';
comment on column public.bookings.blocked_until is 'Its end and the service''s buffer: the next one may begin then.';
comment on column public.bookings.booking_date is 'The local day of its beginning, in the time zone of the location or the organization.';
comment on column public.bookings.is_live is 'Takes its time: hold, scheduled or confirmed. Under RLS only a boolean like this one can use an index.';
comment on column public.bookings.hold_expires_at is 'Until when a hold keeps its slot.';
comment on column public.bookings.is_offer is
  'A hold that somebody on the waiting list was offered. When it expires the next one is asked before anybody else can book.';
comment on column public.bookings.keeps_slot_until is
  'Until when nobody else gets its time: a hold keeps it until it expires, an offer until it has been passed on; null = it keeps none.';
comment on column public.bookings.off_schedule is 'Squeezed in by the staff: outside the hours, in time off, or noted down afterwards.';
comment on column public.bookings.price_cents is 'As agreed: the service''s price at that moment, unless somebody wrote another.';
comment on column public.bookings.original_start_time is 'Where it first was, if it was ever rescheduled.';
create index bookings_calendar_idx on public.bookings (organization_id, booking_date, start_time);
comment on index public.bookings_calendar_idx is 'The calendar of a day or week.';
create index bookings_live_calendar_idx on public.bookings (organization_id, start_time) where is_live;
comment on index public.bookings_live_calendar_idx is 'What comes next, over all days, asked with organization_id = …: the next 50 appointments.';
create index bookings_contact_id_idx on public.bookings (organization_id, contact_id, start_time desc);
create index bookings_service_id_idx on public.bookings (organization_id, service_id, start_time);
comment on index public.bookings_service_id_idx is 'How many seats of a service are taken; and whether it is in use.';
create index bookings_professional_id_idx on public.bookings (organization_id, professional_id, booking_date)
  where professional_id is not null;
comment on index public.bookings_professional_id_idx is 'A professional''s day, and how busy it is.';
create index bookings_pet_id_idx on public.bookings (organization_id, pet_id) where pet_id is not null;
create index bookings_location_id_idx on public.bookings (organization_id, location_id) where location_id is not null;
create index bookings_created_by_user_id_idx on public.bookings (organization_id, created_by_user_id)
  where created_by_user_id is not null;
create index bookings_hold_expires_at_idx on public.bookings (hold_expires_at) where hold_expires_at is not null;
comment on index public.bookings_hold_expires_at_idx is 'Which holds are over: private.expire_holds().';

alter table public.bookings enable row level security;
alter table public.bookings force row level security;
create policy "Members can read their organization's bookings" on public.bookings
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
create policy "Attendants can update their organization's bookings" on public.bookings
  for update to authenticated
  using (organization_id = any ((select private.member_organizations('attendant'))::uuid[]))
  with check (organization_id = any ((select private.member_organizations('attendant'))::uuid[]));
revoke all on public.bookings from public, anon, authenticated, service_role;
grant select on public.bookings to authenticated;
-- What claims no time. Everything else goes through the RPCs; nothing is deleted, it is cancelled.
grant update (notes, price_cents, metadata) on public.bookings to authenticated;
grant select, insert, update on public.bookings to service_role;

-- Local days ------------------------------------------------------------------------------------------------------

create function private.zone_of(organization_id uuid, location_id uuid)
returns text
language plpgsql
stable
set search_path = ''
as $$
begin
  return coalesce(
    (
      select l.timezone
      from public.locations l
      where l.organization_id = zone_of.organization_id and l.id = zone_of.location_id
    ),
    (select o.timezone from public.organizations o where o.id = zone_of.organization_id)
  );
end;
$$;
comment on function private.zone_of(uuid, uuid) is 'The IANA time zone of a place: its own, else the organization''s.';

create function private.tg_bookings__move_dates()
returns trigger
language plpgsql
volatile
security definer -- whoever may correct a time zone need not be allowed to write bookings
set search_path = ''
as $$
declare
  organization constant uuid := coalesce(to_jsonb(new) ->> 'organization_id', to_jsonb(new) ->> 'id')::uuid;
begin
  -- Who books at this moment counts with the zone that was.
  perform private.lock_agendas(
    organization,
    array(select s.id from public.services s where s.organization_id = organization),
    array(select p.id from public.professionals p where p.organization_id = organization));
  update public.bookings b
  set booking_date = (b.start_time at time zone private.zone_of(b.organization_id, b.location_id))::date
  where b.organization_id = organization
    and b.start_time > now() - interval '1 day'
    and b.booking_date <> (b.start_time at time zone private.zone_of(b.organization_id, b.location_id))::date;
  return null;
end;
$$;
comment on function private.tg_bookings__move_dates() is
  'Trigger: a time zone was corrected, so what is to come may fall on another local day. The past stays as it was.';
create trigger organizations_900_move_booking_dates
  after update of timezone on public.organizations
  for each row when (old.timezone <> new.timezone) execute function private.tg_bookings__move_dates();
create trigger locations_900_move_booking_dates
  after update of timezone on public.locations
  for each row when (old.timezone is distinct from new.timezone) execute function private.tg_bookings__move_dates();

-- The guard: no two at once -----------------------------------------------------------------------------------------

create function private.lock_agendas(organization_id uuid, service_ids uuid[], professional_ids uuid[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  if current_setting('transaction_isolation') = 'repeatable read' then
    -- Whoever waited for the lock would not see what it was held for.
    raise exception 'Bookings are written under READ COMMITTED' using errcode = 'feature_not_supported';
  end if;
  -- In one order for everybody: services, then professionals, each by id. Rows that refer to them are not held up.
  perform
  from public.services s
  where s.organization_id = lock_agendas.organization_id and s.id = any (service_ids)
  order by s.id
  for no key update;
  perform
  from public.professionals p
  where p.organization_id = lock_agendas.organization_id and p.id = any (professional_ids)
  order by p.id
  for no key update;
end;
$$;
comment on function private.lock_agendas(uuid, uuid[], uuid[]) is
  'Whoever claims or frees time of a professional (or of a service without one) comes one after the other.';

create function private.seats_taken(
  organization_id uuid,
  service_id uuid,
  location_id uuid,
  starts_at timestamptz,
  ends_at timestamptz,
  at timestamptz default now(),
  except_booking uuid default null
)
returns int
language plpgsql
stable
set search_path = ''
as $$
begin
  return (
    with taken as (
      select greatest(b.start_time, starts_at) as starts_at, b.blocked_until as ends_at
      from public.bookings b
      where b.organization_id = seats_taken.organization_id
        and b.service_id = seats_taken.service_id
        and b.professional_id is null
        and (b.location_id is null or b.location_id is not distinct from seats_taken.location_id)
        and b.start_time < seats_taken.ends_at
        and b.start_time > seats_taken.starts_at - interval '3 days'
        and b.blocked_until > seats_taken.starts_at
        and b.keeps_slot_until > at
        and b.id is distinct from except_booking
    )
    -- The number only grows where one begins.
    select coalesce(max((
      select count(*) from taken other where other.starts_at <= one.starts_at and other.ends_at > one.starts_at
    )), 0)
    from taken one
  );
end;
$$;
comment on function private.seats_taken(uuid, uuid, uuid, timestamptz, timestamptz, timestamptz, uuid) is
  'The most seats of a service without a professional that are taken at once between two moments, at one place.';

create function private.tg_bookings__guard()
returns trigger
language plpgsql
volatile
security definer -- locks the agenda and cancels holds, whoever writes
set search_path = ''
as $$
declare
  service public.services;
  is_live constant boolean := new.status in ('hold', 'scheduled', 'confirmed');
  is_taken boolean;
begin
  perform private.lock_agendas(
    new.organization_id,
    case when new.professional_id is null then array[new.service_id] end,
    case when tg_op = 'UPDATE' then array[old.professional_id, new.professional_id] else array[new.professional_id] end
  );
  select s.* into service
  from public.services s
  where s.organization_id = new.organization_id and s.id = new.service_id;
  if tg_op = 'INSERT' and new.location_id is null then
    new.location_id := (
      select p.location_id
      from public.professionals p
      where p.organization_id = new.organization_id and p.id = new.professional_id
    );
  end if;
  -- What is booked keeps the buffer that it was booked with.
  new.blocked_until := case
    when tg_op = 'UPDATE' and (old.start_time, old.end_time, old.service_id) = (new.start_time, new.end_time, new.service_id)
      then old.blocked_until
    else new.end_time + make_interval(mins => coalesce(service.buffer_minutes, 0))
  end;
  new.booking_date := (new.start_time at time zone private.zone_of(new.organization_id, new.location_id))::date;
  if not is_live or tg_op = 'UPDATE' and old.is_live
    and (old.start_time, old.blocked_until, old.service_id) = (new.start_time, new.blocked_until, new.service_id)
    and (old.professional_id, old.location_id) is not distinct from (new.professional_id, new.location_id) then
    return new;
  end if;

  if new.professional_id is null then
    is_taken := private.seats_taken(
      new.organization_id, new.service_id, new.location_id, new.start_time, new.blocked_until, now(), new.id
    ) >= service.capacity;
  else
    -- The EXCLUDE constraint knows no clock.
    update public.bookings b
    set status = 'cancelled', cancellation_reason = 'hold_expired'
    where b.organization_id = new.organization_id
      and b.professional_id = new.professional_id
      and b.is_live
      and tstzrange(b.start_time, b.blocked_until) && tstzrange(new.start_time, new.blocked_until)
      and b.id <> new.id
      and b.keeps_slot_until <= now();
    is_taken := exists (
      select
      from public.bookings b
      where b.organization_id = new.organization_id
        and b.professional_id = new.professional_id
        and b.is_live
        and tstzrange(b.start_time, b.blocked_until) && tstzrange(new.start_time, new.blocked_until)
        and b.id <> new.id
    );
  end if;
  if is_taken then
    perform private.refuse_slot('taken', new.organization_id, new.service_id, new.start_time, new.professional_id, new.location_id);
  end if;
  return new;
end;
$$;
comment on function private.tg_bookings__guard() is
  'Trigger: locks the agenda, cancels expired holds in the way, and refuses what would overlap (error slot_unavailable).';
create trigger bookings_500_guard
  before insert or update of start_time, end_time, service_id, professional_id, location_id, status on public.bookings
  for each row execute function private.tg_bookings__guard();

create function private.tg_bookings__check_customer()
returns trigger
language plpgsql
volatile
security definer -- whoever books may not be allowed to lock contacts
set search_path = ''
as $$
begin
  if tg_op = 'INSERT' then
    new.contact_id := private.surviving_contact(new.organization_id, new.contact_id);
  end if;
  if new.pet_id is not null then
    -- Whose it was when it was booked: it may be handed over since, and the booking move with a merged contact.
    if tg_op = 'INSERT' or new.pet_id is distinct from old.pet_id then
      perform
      from public.pets p
      where p.organization_id = new.organization_id
        and p.id = new.pet_id
        and p.contact_id = new.contact_id
        and (p.is_active or tg_op = 'UPDATE')
      for share;
      if not found then
        perform private.raise_error('BL404', 'pet_not_found', 'This customer has no such animal',
          jsonb_build_object('pet_id', new.pet_id));
      end if;
    end if;
  elsif (tg_op = 'INSERT' or new.service_id <> old.service_id) and exists (
    select
    from public.services s
    where s.organization_id = new.organization_id and s.id = new.service_id and s.requires_pet
  ) then
    perform private.raise_error('BL508', 'pet_required', 'Say for which animal: this service needs one',
      jsonb_build_object('service_id', new.service_id));
  end if;
  return new;
end;
$$;
comment on function private.tg_bookings__check_customer() is
  'Trigger: the animal is the customer''s, and there is one where the service needs it. A merged contact''s booking is the survivor''s.';
create trigger bookings_500_look_up_customer
  before insert or update of contact_id, pet_id, service_id on public.bookings
  for each row execute function private.tg_bookings__check_customer();

-- The state machine -----------------------------------------------------------------------------------------------

create function private.next_booking_statuses(status public.booking_status)
returns public.booking_status[]
language sql
immutable
set search_path = ''
as $$
  select case status
    when 'hold' then '{scheduled,cancelled}'
    when 'scheduled' then '{confirmed,completed,cancelled,no_show}'
    -- Back to scheduled: what was confirmed was another time.
    when 'confirmed' then '{scheduled,completed,cancelled,no_show}'
    when 'completed' then '{no_show}'
    when 'no_show' then '{completed}'
    else '{}'
  end::public.booking_status[]
$$;
comment on function private.next_booking_statuses(public.booking_status) is
  'What may follow a status. completed and no_show correct each other; cancelled is final: its slot has gone to somebody else.';
grant execute on function private.next_booking_statuses(public.booking_status) to service_role;

create function private.tg_bookings__change_status()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  if tg_op = 'UPDATE' then
    if new.status = old.status then
      return new;
    end if;
    if new.status <> all (private.next_booking_statuses(old.status)) then
      perform private.raise_error('BL503', 'invalid_booking_transition',
        format('A booking that is %s cannot become %s', old.status, new.status),
        jsonb_build_object('from', old.status, 'to', new.status, 'allowed', private.next_booking_statuses(old.status)));
    end if;
  end if;
  if new.status <> 'hold' then
    new.hold_expires_at := null;
    new.is_offer := false;
  end if;
  case new.status
    when 'scheduled' then
      new.confirmed_at := null;
      new.confirmed_by := null;
      new.confirmation_method := null;
    when 'confirmed' then new.confirmed_at := coalesce(new.confirmed_at, now());
    when 'cancelled' then new.cancelled_at := coalesce(new.cancelled_at, now());
    when 'completed' then new.completed_at := coalesce(new.completed_at, now());
    when 'no_show' then new.completed_at := null;
    else null;
  end case;
  return new;
end;
$$;
comment on function private.tg_bookings__change_status() is 'Trigger: only along the state machine; each status leaves its time.';
create trigger bookings_100_touch_updated_at
  before update on public.bookings
  for each row execute function private.tg_touch_updated_at();
create trigger bookings_500_change_status
  before insert or update of status on public.bookings
  for each row execute function private.tg_bookings__change_status();

-- What is in use stays ----------------------------------------------------------------------------------------------

create function private.tg_services__refuse_in_use()
returns trigger
language plpgsql
volatile
security definer -- an administrator's DELETE sees all bookings
set search_path = ''
as $$
begin
  if exists (
    select from public.bookings b where b.organization_id = old.organization_id and b.service_id = old.id
  ) then
    perform private.raise_error('BL510', 'service_in_use', 'A service with bookings cannot be deleted',
      jsonb_build_object('service_id', old.id), 'Set is_active to false instead.');
  end if;
  return old;
end;
$$;
comment on function private.tg_services__refuse_in_use() is 'Trigger: says in words what the foreign key would say by its name.';
create trigger services_500_refuse_in_use
  before delete on public.services
  for each row execute function private.tg_services__refuse_in_use();

create function private.tg_professionals__refuse_in_use()
returns trigger
language plpgsql
volatile
security definer -- an administrator's DELETE sees all bookings and leads
set search_path = ''
as $$
begin
  if exists (
    select from public.bookings b where b.organization_id = old.organization_id and b.professional_id = old.id
  ) or exists (
    select from public.leads l where l.organization_id = old.organization_id and l.professional_id = old.id
  ) then
    perform private.raise_error('BL511', 'professional_in_use', 'A professional with bookings or leads cannot be deleted',
      jsonb_build_object('professional_id', old.id), 'Set is_active to false instead.');
  end if;
  return old;
end;
$$;
comment on function private.tg_professionals__refuse_in_use() is 'Trigger: says in words what the foreign keys would say by their names.';
create trigger professionals_500_refuse_in_use
  before delete on public.professionals
  for each row execute function private.tg_professionals__refuse_in_use();

create function private.tg_locations__refuse_in_use()
returns trigger
language plpgsql
volatile
security definer -- an administrator's DELETE sees all bookings
set search_path = ''
as $$
begin
  if exists (
    select from public.bookings b where b.organization_id = old.organization_id and b.location_id = old.id
  ) then
    perform private.raise_error('BL518', 'location_in_use', 'A location with bookings cannot be deleted',
      jsonb_build_object('location_id', old.id), 'Set is_active to false instead.');
  end if;
  return old;
end;
$$;
comment on function private.tg_locations__refuse_in_use() is 'Trigger: what took place there keeps its place.';
create trigger locations_500_refuse_in_use
  before delete on public.locations
  for each row execute function private.tg_locations__refuse_in_use();
