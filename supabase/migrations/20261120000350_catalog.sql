-- Catalog: what can be booked, who does it, and when.
--
-- Hours are written in the wall-clock time of the place, and turned into instants per date (000610 availability):
-- so they survive a change of daylight saving.

create type public.professional_kind as enum ('doctor', 'veterinarian', 'groomer', 'consultant', 'other');

-- services --------------------------------------------------------------------------------------------------------

create table public.services (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  name text not null,
  category text,
  description text,
  price_cents int,
  duration_minutes int not null,
  buffer_minutes int not null default 0,
  slot_interval_minutes int,
  capacity int not null default 1,
  requires_pet boolean not null default false,
  is_active boolean not null default true,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint services_pkey primary key (organization_id, id),
  constraint services_organization_id_fkey foreign key (organization_id) references public.organizations (id),
  constraint services_name_length_check check (length(btrim(name)) between 1 and 120),
  constraint services_category_length_check check (length(category) <= 80),
  constraint services_description_length_check check (length(description) <= 2000),
  constraint services_price_cents_is_not_negative_check check (price_cents >= 0),
  constraint services_duration_minutes_check check (duration_minutes between 5 and 1440),
  constraint services_buffer_minutes_check check (buffer_minutes between 0 and 1440),
  constraint services_slot_interval_minutes_check check (slot_interval_minutes between 5 and 1440),
  constraint services_capacity_check check (capacity between 1 and 1000)
);
comment on table public.services is 'What can be booked: a consultation, a bath, a visit.';
comment on column public.services.price_cents is 'In cents of the organization''s currency; null = on request.';
comment on column public.services.buffer_minutes is 'Minutes after each booking in which nothing else can begin: to clean up, to walk over.';
comment on column public.services.slot_interval_minutes is 'Minutes from one offered start to the next; null = as long as it takes.';
comment on column public.services.capacity is 'How many at a time and place while no professional gives it (tubs, boxes); with professionals each takes one.';

alter table public.services enable row level security;
alter table public.services force row level security;
create policy "Members can read their organization's services" on public.services
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
create policy "Admins can add services to their organization" on public.services
  for insert to authenticated
  with check (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
create policy "Admins can update their organization's services" on public.services
  for update to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]))
  with check (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
create policy "Admins can delete their organization's services" on public.services
  for delete to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.services from public, anon, authenticated, service_role;
grant select, insert, update, delete on public.services to authenticated, service_role;

create trigger services_100_touch_updated_at
  before update on public.services
  for each row execute function private.tg_touch_updated_at();

-- professionals ---------------------------------------------------------------------------------------------------

create table public.professionals (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  user_id uuid,
  location_id uuid,
  name text not null,
  kind public.professional_kind not null default 'other',
  vertical public.business_vertical,
  bio text,
  crm_number text,
  whatsapp_number text,
  slug text not null default '',
  profile_image_url text,
  is_active boolean not null default true,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint professionals_pkey primary key (organization_id, id),
  constraint professionals_organization_id_fkey foreign key (organization_id) references public.organizations (id),
  constraint professionals_user_id_fkey foreign key (organization_id, user_id)
    references public.user_roles (organization_id, user_id) on delete set null (user_id),
  constraint professionals_location_id_fkey foreign key (organization_id, location_id)
    references public.locations (organization_id, id) on delete set null (location_id),
  constraint professionals_slug_key unique (slug),
  constraint professionals_slug_format_check check (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' and length(slug) <= 80),
  constraint professionals_name_length_check check (length(btrim(name)) between 1 and 120),
  constraint professionals_bio_length_check check (length(bio) <= 200),
  constraint professionals_crm_number_length_check check (length(crm_number) <= 50),
  constraint professionals_profile_image_url_is_https_check check (profile_image_url ~ '^https://')
);
comment on table public.professionals is
  'Who gives the services (Consultor.AI''s consultants): each has an agenda, and a public page by slug (get_public_profile).';
comment on column public.professionals.user_id is 'The member that this is, if he signs in.';
comment on column public.professionals.crm_number is 'Registration with the profession''s council: CRM, CRMV, CRECI, SUSEP.';
comment on column public.professionals.slug is 'Unique over all organizations, it stands in a public address; made from the name when left out.';
create unique index professionals_one_per_member_idx on public.professionals (organization_id, user_id) where user_id is not null;
comment on index public.professionals_one_per_member_idx is 'Also for "whose leads may I see".';
create index professionals_user_id_idx on public.professionals (user_id) where user_id is not null;
comment on index public.professionals_user_id_idx is 'For private.own_professionals(), which policies call.';
create index professionals_location_id_idx on public.professionals (organization_id, location_id) where location_id is not null;

alter table public.professionals enable row level security;
alter table public.professionals force row level security;
create policy "Members can read their organization's professionals" on public.professionals
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
create policy "Admins can add professionals to their organization" on public.professionals
  for insert to authenticated
  with check (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
create policy "Admins can update their organization's professionals" on public.professionals
  for update to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]))
  with check (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
create policy "Admins can delete their organization's professionals" on public.professionals
  for delete to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.professionals from public, anon, authenticated, service_role;
grant select, insert, update, delete on public.professionals to authenticated, service_role;

create trigger professionals_100_touch_updated_at
  before update on public.professionals
  for each row execute function private.tg_touch_updated_at();
create trigger professionals_500_normalize_phone
  before insert or update of whatsapp_number on public.professionals
  for each row when (new.whatsapp_number is not null) execute function private.tg_normalize_phone('whatsapp_number');

create function private.free_professional_slug(base text, professional_id uuid)
returns text
language plpgsql
volatile -- sees what was committed while it waited for a lock
set search_path = ''
as $$
begin
  return coalesce(
    (
      select candidate.slug
      from generate_series(1, 50) n
      cross join lateral (values (case when n = 1 then base else left(base, 70) || '-' || n end)) candidate (slug)
      where not exists (
        select from public.professionals p where p.slug = candidate.slug and p.id <> professional_id
      )
      order by n
      limit 1
    ),
    -- A name that fifty others have.
    left(base, 60) || '-' || substr(md5(gen_random_uuid()::text), 1, 12)
  );
end;
$$;
comment on function private.free_professional_slug(text, uuid) is 'The slug itself if nobody else has it, or with the first free number.';

create function private.tg_professionals__make_slug()
returns trigger
language plpgsql
volatile
security definer -- sees every tenant's slugs, which the unique key does too
set search_path = ''
as $$
declare
  wanted constant text := nullif(new.slug, '');
  base constant text := coalesce(wanted, private.slug_base(new.name));
begin
  if wanted !~ '^[a-z0-9]+(-[a-z0-9]+)*$' or length(wanted) > 80 then
    perform private.raise_error('BL006', 'invalid_slug', 'A slug has lower-case letters, digits and single hyphens, at most 80');
  end if;
  -- Two of one name at the same moment come one after the other, and so do "ana-2" and the second Ana.
  perform pg_advisory_xact_lock(hashtextextended('professional_slug:' || base, 0));
  loop
    new.slug := private.free_professional_slug(base, new.id);
    exit when new.slug = base;
    if wanted is not null then
      perform private.raise_error('BL007', 'slug_taken', format('The slug "%s" is taken', wanted),
        jsonb_build_object('slug', wanted, 'proposal', new.slug));
    end if;
    perform pg_advisory_xact_lock(hashtextextended('professional_slug:' || new.slug, 0));
    exit when private.free_professional_slug(new.slug, new.id) = new.slug;
  end loop;
  return new;
end;
$$;
comment on function private.tg_professionals__make_slug() is 'Trigger: a slug from the name, or a clear error when the chosen one is taken.';
create trigger professionals_500_make_slug
  before insert or update of slug on public.professionals
  for each row execute function private.tg_professionals__make_slug();

-- professional_services -------------------------------------------------------------------------------------------

create table public.professional_services (
  organization_id uuid not null default public.user_organization_id(),
  professional_id uuid not null,
  service_id uuid not null,
  created_at timestamptz not null default now(),
  constraint professional_services_pkey primary key (organization_id, professional_id, service_id),
  constraint professional_services_professional_id_fkey foreign key (organization_id, professional_id)
    references public.professionals (organization_id, id) on delete cascade,
  constraint professional_services_service_id_fkey foreign key (organization_id, service_id)
    references public.services (organization_id, id) on delete cascade
);
comment on table public.professional_services is 'Who gives what. A service that nobody is named for is bounded by its capacity instead.';
create index professional_services_service_id_idx on public.professional_services (organization_id, service_id);
comment on index public.professional_services_service_id_idx is 'Who gives this service: every search for a slot.';

alter table public.professional_services enable row level security;
alter table public.professional_services force row level security;
create policy "Members can read their organization's assignments of services" on public.professional_services
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
create policy "Admins can add assignments of services to their organization" on public.professional_services
  for insert to authenticated
  with check (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
create policy "Admins can update their organization's assignments of services" on public.professional_services
  for update to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]))
  with check (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
create policy "Admins can delete their organization's assignments of services" on public.professional_services
  for delete to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.professional_services from public, anon, authenticated, service_role;
grant select, insert, update, delete on public.professional_services to authenticated, service_role;


-- working_hours ---------------------------------------------------------------------------------------------------

create table public.working_hours (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  professional_id uuid not null,
  location_id uuid,
  weekday int not null,
  starts_at time not null,
  ends_at time not null,
  valid_from date,
  valid_until date,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint working_hours_pkey primary key (organization_id, id),
  constraint working_hours_professional_id_fkey foreign key (organization_id, professional_id)
    references public.professionals (organization_id, id) on delete cascade,
  constraint working_hours_location_id_fkey foreign key (organization_id, location_id)
    references public.locations (organization_id, id) on delete cascade,
  constraint working_hours_weekday_check check (weekday between 0 and 6),
  constraint working_hours_starts_at_check check (starts_at < '24:00' and starts_at <> ends_at),
  constraint working_hours_valid_until_check check (valid_until >= valid_from)
);
comment on table public.working_hours is
  'When a professional works, week after week, in local time; a break is the gap between two rows. Rows may overlap: they count as one.';
comment on column public.working_hours.location_id is 'Where; null = the professional''s own location. Its time zone is the one of the hours.';
comment on column public.working_hours.weekday is '0 = Sunday … 6 = Saturday: of the day on which the hours begin.';
comment on column public.working_hours.ends_at is 'Before starts_at: on the next day. 24:00 is midnight.';
comment on column public.working_hours.valid_until is 'Both ends included; null = always.';
create index working_hours_professional_id_idx on public.working_hours (organization_id, professional_id);
create index working_hours_location_id_idx on public.working_hours (organization_id, location_id) where location_id is not null;

alter table public.working_hours enable row level security;
alter table public.working_hours force row level security;
create policy "Members can read their organization's working hours" on public.working_hours
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
create policy "Admins can add working hours to their organization" on public.working_hours
  for insert to authenticated
  with check (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
create policy "Admins can update their organization's working hours" on public.working_hours
  for update to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]))
  with check (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
create policy "Admins can delete their organization's working hours" on public.working_hours
  for delete to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.working_hours from public, anon, authenticated, service_role;
grant select, insert, update, delete on public.working_hours to authenticated, service_role;

create trigger working_hours_100_touch_updated_at
  before update on public.working_hours
  for each row execute function private.tg_touch_updated_at();

-- time_off --------------------------------------------------------------------------------------------------------

create table public.time_off (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  professional_id uuid,
  location_id uuid,
  starts_at timestamptz not null,
  ends_at timestamptz not null,
  reason text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint time_off_pkey primary key (organization_id, id),
  constraint time_off_organization_id_fkey foreign key (organization_id) references public.organizations (id),
  constraint time_off_professional_id_fkey foreign key (organization_id, professional_id)
    references public.professionals (organization_id, id) on delete cascade,
  constraint time_off_location_id_fkey foreign key (organization_id, location_id)
    references public.locations (organization_id, id) on delete cascade,
  constraint time_off_ends_at_check check (ends_at > starts_at),
  constraint time_off_reason_length_check check (length(reason) <= 200)
);
comment on table public.time_off is
  'Holidays, vacations, an hour at the dentist: no slots meanwhile. What is booked already stays booked.';
comment on column public.time_off.professional_id is 'Null = everybody: a holiday of the house.';
comment on column public.time_off.location_id is 'Null = wherever it is; else only the hours at that place.';
create index time_off_ends_at_idx on public.time_off (organization_id, ends_at);
comment on index public.time_off_ends_at_idx is 'What is still to come: every search for a slot, and the list of absences.';
create index time_off_professional_id_idx on public.time_off (organization_id, professional_id) where professional_id is not null;
create index time_off_location_id_idx on public.time_off (organization_id, location_id) where location_id is not null;

alter table public.time_off enable row level security;
alter table public.time_off force row level security;
create policy "Members can read their organization's time off" on public.time_off
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
create policy "Attendants can add time off to their organization" on public.time_off
  for insert to authenticated
  with check (organization_id = any ((select private.member_organizations('attendant'))::uuid[]));
create policy "Attendants can update their organization's time off" on public.time_off
  for update to authenticated
  using (organization_id = any ((select private.member_organizations('attendant'))::uuid[]))
  with check (organization_id = any ((select private.member_organizations('attendant'))::uuid[]));
create policy "Admins can delete their organization's time off" on public.time_off
  for delete to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.time_off from public, anon, authenticated, service_role;
grant select, insert, update, delete on public.time_off to authenticated, service_role;

create trigger time_off_100_touch_updated_at
  before update on public.time_off
  for each row execute function private.tg_touch_updated_at();

-- The public page -------------------------------------------------------------------------------------------------

create function private.get_public_profile(slug text)
returns jsonb
language plpgsql
volatile -- counts who asks
security definer -- the public has no grant on any table; this is all that it may know
set search_path = ''
as $$
begin
  perform private.limit_rate('public_profile_by_address', private.request_ip());
  return (
    select jsonb_build_object(
      'slug', p.slug,
      'name', p.name,
      'kind', p.kind,
      'vertical', coalesce(p.vertical, o.vertical),
      'bio', p.bio,
      'crm_number', p.crm_number,
      'whatsapp_number', p.whatsapp_number,
      'profile_image_url', p.profile_image_url,
      'organization', jsonb_build_object('name', o.name, 'slug', o.slug),
      'location', (
        select jsonb_build_object('name', l.name, 'address', l.address, 'phone_number', l.phone_number)
        from public.locations l
        where l.organization_id = p.organization_id and l.id = p.location_id and l.is_active
      ),
      'services', coalesce((
        select jsonb_agg(
          jsonb_build_object(
            'name', s.name, 'category', s.category, 'description', s.description,
            'price_cents', s.price_cents, 'duration_minutes', s.duration_minutes)
          order by s.category, s.name)
        from public.professional_services g
        join public.services s on s.organization_id = g.organization_id and s.id = g.service_id and s.is_active
        where g.organization_id = p.organization_id and g.professional_id = p.id
      ), '[]'))
    from public.professionals p
    join public.organizations o on o.id = p.organization_id and o.is_active and o.closed_at is null
    where p.slug = get_public_profile.slug and p.is_active
  );
end;
$$;
comment on function private.get_public_profile(text) is 'See public.get_public_profile().';
grant execute on function private.get_public_profile(text) to anon, authenticated, service_role;

create function public.get_public_profile(slug text)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.get_public_profile(slug);
end;
$$;
comment on function public.get_public_profile(text) is
  'A professional''s public page, for anyone: {slug, name, kind, vertical, bio, crm_number, whatsapp_number, profile_image_url, organization {name, slug}, location {name, address, phone_number} or null, services [{name, category, description, price_cents, duration_minutes}]}; null when there is no such active professional. Errors: rate_limited (120 a minute from one address).';
grant execute on function public.get_public_profile(text) to anon, authenticated, service_role;
