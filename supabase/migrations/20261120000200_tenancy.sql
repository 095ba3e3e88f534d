-- Tenancy: organizations, the people in them, where they work, and what they may see.
--
-- One person has one login and may belong to several organizations; the role in each comes from user_roles. Every
-- policy of every later chapter asks one function of this one, private.member_organizations().

-- Types -----------------------------------------------------------------------------------------------------

create type public.business_vertical as enum
  ('clinic', 'petshop', 'health_plans', 'real_estate', 'automotive', 'insurance', 'other');
create type public.plan_type as enum ('free', 'pro', 'agency');
create type public.member_role as enum ('viewer', 'attendant', 'admin', 'owner');
comment on type public.member_role is 'Ordered: each role may do what the ones before it may.';
create type public.lead_visibility as enum ('all', 'own');

-- organizations -----------------------------------------------------------------------------------------------

create table public.organizations (
  id uuid not null default private.uuid_v7(),
  name text not null,
  slug text not null,
  vertical public.business_vertical not null,
  plan_type public.plan_type not null default 'free',
  plan_expires_at timestamptz,
  timezone text not null default 'America/Sao_Paulo',
  locale text not null default 'pt-BR',
  currency text not null default 'BRL',
  is_active boolean not null default true,
  closed_at timestamptz,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint organizations_pkey primary key (id),
  constraint organizations_slug_key unique (slug),
  constraint organizations_name_length_check check (length(btrim(name)) between 1 and 120),
  constraint organizations_slug_format_check check (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' and length(slug) <= 80),
  constraint organizations_locale_format_check check (locale ~ '^[a-z]{2}(-[A-Z]{2})?$'),
  constraint organizations_currency_format_check check (currency ~ '^[A-Z]{3}$'),
  constraint organizations_metadata_is_object_check check (jsonb_typeof(metadata) = 'object')
);
comment on table public.organizations is 'The tenants: a clinic, a pet shop, a consultant''s account. Every other row belongs to exactly one.';
comment on column public.organizations.plan_type is 'What was bought. An expired plan counts as free. Written by the platform only.';
comment on column public.organizations.timezone is 'IANA name; business days and opening hours are counted in it.';

-- user_roles -------------------------------------------------------------------------------------------------

create table public.user_roles (
  organization_id uuid not null,
  user_id uuid not null,
  role public.member_role not null,
  is_active boolean not null default true,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint user_roles_pkey primary key (organization_id, user_id),
  constraint user_roles_organization_id_fkey foreign key (organization_id)
    references public.organizations (id) on delete cascade,
  constraint user_roles_user_id_fkey foreign key (user_id) references auth.users (id) on delete cascade
);
comment on table public.user_roles is 'Membership: which person has which role in which organization. Changed through the RPCs of the chapter "membership" only.';
create index user_roles_user_id_idx on public.user_roles (user_id) include (organization_id, role, is_active);
comment on index public.user_roles_user_id_idx is 'For private.member_organizations(), which every policy calls.';

create function private.member_organizations(minimum_role public.member_role)
returns uuid[]
language plpgsql
stable
security definer -- reads user_roles past its own policies, which call this function
set search_path = ''
as $$
begin
  return coalesce(
    (
      select array_agg(m.organization_id)
      from public.user_roles m
      where m.user_id = (select auth.uid())
        and m.is_active
        and m.role >= minimum_role
    ),
    '{}'
  );
end;
$$;
comment on function private.member_organizations(public.member_role) is
  'The organizations in which the caller has at least this role. Policies wrap it in a scalar subquery, so it runs once per statement.';
grant execute on function private.member_organizations(public.member_role) to authenticated, service_role;

alter table public.organizations enable row level security;
alter table public.organizations force row level security;
create policy "Members can read their organizations" on public.organizations
  for select to authenticated
  using (id = any ((select private.member_organizations('viewer'))::uuid[]));
create policy "Admins can update their organizations" on public.organizations
  for update to authenticated
  using (id = any ((select private.member_organizations('admin'))::uuid[]))
  with check (id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.organizations from public, anon, authenticated, service_role;
grant select on public.organizations to authenticated;
grant update (name, slug, vertical, timezone, locale, currency, metadata) on public.organizations to authenticated;
-- No DELETE for anyone: an organization goes through the purge job only.
grant select, insert, update on public.organizations to service_role;

alter table public.user_roles enable row level security;
alter table public.user_roles force row level security;
create policy "Members can read who is in their organizations" on public.user_roles
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
revoke all on public.user_roles from public, anon, authenticated, service_role;
grant select on public.user_roles to authenticated;
grant select, insert, update, delete on public.user_roles to service_role;

create trigger organizations_100_touch_updated_at
  before update on public.organizations
  for each row execute function private.tg_touch_updated_at();
create trigger user_roles_100_touch_updated_at
  before update on public.user_roles
  for each row execute function private.tg_touch_updated_at();

create function private.tg_check_timezone()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  -- Postgres also takes POSIX rules such as "X-99"; a name has an area and a place.
  if new.timezone !~ '^(UTC|[A-Za-z_]+(/[A-Za-z0-9_+-]+)+)$' then
    raise invalid_parameter_value;
  end if;
  perform now() at time zone new.timezone;
  return new;
exception when invalid_parameter_value then
  perform private.raise_error('BL004', 'invalid_timezone',
    format('"%s" is not an IANA time zone', new.timezone), jsonb_build_object('timezone', new.timezone));
  return null;
end;
$$;
comment on function private.tg_check_timezone() is
  'Trigger: a time zone is one that Postgres knows (a CHECK could not be immutable).';

create trigger organizations_500_check_timezone
  before insert or update of timezone on public.organizations
  for each row execute function private.tg_check_timezone();

-- profiles -----------------------------------------------------------------------------------------------------

create table public.profiles (
  user_id uuid not null,
  first_name text,
  last_name text,
  phone text,
  avatar_url text,
  last_login timestamptz,
  active_organization_id uuid,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint profiles_pkey primary key (user_id),
  constraint profiles_user_id_fkey foreign key (user_id) references auth.users (id) on delete cascade,
  constraint profiles_active_organization_id_fkey foreign key (active_organization_id, user_id)
    references public.user_roles (organization_id, user_id) on delete set null (active_organization_id),
  constraint profiles_avatar_url_is_https_check check (avatar_url ~ '^https://')
);
comment on table public.profiles is 'What colleagues see of a person. Made at sign-in by ensure_profile(); credentials stay with Supabase Auth.';
comment on column public.profiles.active_organization_id is 'The organization that the person works in now; new rows default to it.';
create index profiles_active_organization_id_idx on public.profiles (active_organization_id, user_id)
  where active_organization_id is not null;

create function private.colleagues()
returns uuid[]
language plpgsql
stable
security definer -- reads user_roles once, past its policies
set search_path = ''
as $$
begin
  return array(
    select distinct m.user_id
    from public.user_roles m
    where m.organization_id = any (private.member_organizations('viewer'))
  );
end;
$$;
comment on function private.colleagues() is 'Everyone who shares an organization with the caller.';
grant execute on function private.colleagues() to authenticated;

alter table public.profiles enable row level security;
alter table public.profiles force row level security;
create policy "People can read their own and their colleagues' profiles" on public.profiles
  for select to authenticated
  using (user_id = (select auth.uid()) or user_id = any ((select private.colleagues())::uuid[]));
create policy "People can update their own profile" on public.profiles
  for update to authenticated
  using (user_id = (select auth.uid()))
  with check (user_id = (select auth.uid()));
revoke all on public.profiles from public, anon, authenticated, service_role;
grant select on public.profiles to authenticated;
grant update (first_name, last_name, phone, avatar_url) on public.profiles to authenticated;
grant select, insert, update, delete on public.profiles to service_role;

create trigger profiles_100_touch_updated_at
  before update on public.profiles
  for each row execute function private.tg_touch_updated_at();

create function private.tg_normalize_phone()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
declare
  column_name constant text := tg_argv[0];
  written constant text := nullif(btrim(to_jsonb(new) ->> column_name), '');
  canonical constant text := private.phone_from_human_input(written);
begin
  if written is not null and canonical is null then
    perform private.raise_error('BL003', 'invalid_phone_number', 'This is not a phone number with area code',
      jsonb_build_object('column', column_name),
      'Write it like (11) 98765-4321, or with + and the country code.');
  end if;
  return jsonb_populate_record(new, jsonb_build_object(column_name, canonical));
end;
$$;
comment on function private.tg_normalize_phone() is
  'Trigger: the named column takes the canonical E.164 form of what was written, or the write is refused.';

create trigger profiles_500_normalize_phone
  before insert or update of phone on public.profiles
  for each row when (new.phone is not null) execute function private.tg_normalize_phone('phone');

-- Who am I, and where ---------------------------------------------------------------------------------------

create function private.require_user()
returns uuid
language plpgsql
stable
set search_path = ''
as $$
declare
  user_id constant uuid := auth.uid();
begin
  if user_id is null then
    perform private.raise_error('BL001', 'not_authenticated', 'Sign in first');
  end if;
  return user_id;
end;
$$;
comment on function private.require_user() is 'The signed-in caller, or error not_authenticated.';
grant execute on function private.require_user() to authenticated, service_role;

create function private.is_service()
returns boolean
language plpgsql -- SQL with a SET clause would be parsed and planned in every transaction
stable
set search_path = ''
as $$
begin
  -- The API's service key; or no API request at all: SQL run by the owner, a migration or a schedule.
  return coalesce(auth.role() = 'service_role', session_user <> 'authenticator');
end;
$$;
comment on function private.is_service() is 'Whether the caller is the platform itself rather than a person.';
grant execute on function private.is_service() to authenticated, service_role;

create function private.require_role(organization_id uuid, minimum_role public.member_role)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  if private.is_service() then
    return;
  end if;
  perform private.require_user();
  if organization_id is null or organization_id <> all (private.member_organizations(minimum_role)) then
    perform private.raise_error('BL002', 'not_allowed',
      format('This needs the role %s in the organization', minimum_role),
      jsonb_build_object('minimum_role', minimum_role));
  end if;
end;
$$;
comment on function private.require_role(uuid, public.member_role) is
  'Raises not_allowed unless the caller has at least this role in the organization. The platform passes.';
grant execute on function private.require_role(uuid, public.member_role) to authenticated, service_role;

create function private.user_organization_id(user_id uuid)
returns uuid
language plpgsql
stable
security definer -- called as a column default: reads memberships past their policies
set search_path = ''
as $$
begin
  if user_id is distinct from auth.uid() and not private.is_service() then
    perform private.raise_error('BL002', 'not_allowed', 'Only the platform may ask this about another person');
  end if;
  return (
    select m.organization_id
    from public.user_roles m
    left join public.profiles p
      on p.user_id = m.user_id and p.active_organization_id = m.organization_id
    where m.user_id = user_organization_id.user_id
      and m.is_active
    order by p.user_id is null, m.created_at, m.organization_id
    limit 1
  );
end;
$$;
comment on function private.user_organization_id(uuid) is 'See public.user_organization_id().';
grant execute on function private.user_organization_id(uuid) to authenticated, service_role;

create function public.user_organization_id(user_id uuid default auth.uid())
returns uuid
language plpgsql
stable
set search_path = ''
as $$
begin
  return private.user_organization_id(user_id);
end;
$$;
comment on function public.user_organization_id(uuid) is
  'The organization that a person works in: the profile''s active one if still a member of it, else the oldest membership; null without any. About someone else: service_role only (error not_allowed).';
grant execute on function public.user_organization_id(uuid) to authenticated, service_role;

create function private.has_role(user_id uuid, role public.member_role, organization_id uuid)
returns boolean
language plpgsql
stable
security definer -- reads memberships past their policies
set search_path = ''
as $$
declare
  organization constant uuid := coalesce(organization_id, private.user_organization_id(user_id));
begin
  if user_id is distinct from auth.uid()
    and not private.is_service()
    and organization <> all (private.member_organizations('viewer')) then
    perform private.raise_error('BL002', 'not_allowed', 'Only a colleague may ask this about another person');
  end if;
  return exists (
    select
    from public.user_roles m
    where m.organization_id = organization
      and m.user_id = has_role.user_id
      and m.is_active
      and m.role >= has_role.role
  );
end;
$$;
comment on function private.has_role(uuid, public.member_role, uuid) is 'See public.has_role().';
grant execute on function private.has_role(uuid, public.member_role, uuid) to authenticated, service_role;

create function public.has_role(user_id uuid, role public.member_role, organization_id uuid default null)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return private.has_role(user_id, role, organization_id);
end;
$$;
comment on function public.has_role(uuid, public.member_role, uuid) is
  'Whether a person has at least this role in an organization (default: the one that person works in).';
grant execute on function public.has_role(uuid, public.member_role, uuid) to authenticated, service_role;

create function private.ensure_profile(first_name text, last_name text, phone text, avatar_url text)
returns public.profiles
language plpgsql
volatile
security definer -- people have no INSERT on profiles: this is the one way to get one
set search_path = ''
as $$
declare
  profile public.profiles;
  organization_id uuid;
begin
  insert into public.profiles as p (user_id, first_name, last_name, phone, avatar_url, last_login)
  values (
    private.require_user(), ensure_profile.first_name, ensure_profile.last_name, ensure_profile.phone,
    ensure_profile.avatar_url, now()
  )
  on conflict (user_id) do update set
    first_name = coalesce(excluded.first_name, p.first_name),
    last_name = coalesce(excluded.last_name, p.last_name),
    phone = coalesce(excluded.phone, p.phone),
    avatar_url = coalesce(excluded.avatar_url, p.avatar_url),
    last_login = excluded.last_login
  returning p.* into profile;
  organization_id := private.user_organization_id(profile.user_id);
  if organization_id is not null then
    perform private.append_audit_log(organization_id, 'EVENT', 'login', 'profiles', profile.user_id, '{}', null, null, null);
  end if;
  return profile;
end;
$$;
comment on function private.ensure_profile(text, text, text, text) is 'See public.ensure_profile().';
grant execute on function private.ensure_profile(text, text, text, text) to authenticated;

create function public.ensure_profile(
  first_name text default null,
  last_name text default null,
  phone text default null,
  avatar_url text default null
)
returns public.profiles
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.ensure_profile(first_name, last_name, phone, avatar_url);
end;
$$;
comment on function public.ensure_profile(text, text, text, text) is
  'Call after every sign-in: makes the caller''s profile or fills in what is given, and notes the time; the audit log of the organization that the person works in says login. Errors: not_authenticated, invalid_phone_number.';
grant execute on function public.ensure_profile(text, text, text, text) to authenticated;

create function private.set_active_organization(organization_id uuid)
returns public.profiles
language plpgsql
volatile
security definer -- people have no UPDATE on this column
set search_path = ''
as $$
declare
  caller constant uuid := private.require_user();
  profile public.profiles;
begin
  if organization_id is null or organization_id <> all (private.member_organizations('viewer')) then
    perform private.raise_error('BL002', 'not_allowed', 'You are not a member of this organization');
  end if;
  insert into public.profiles as p (user_id, active_organization_id)
  values (caller, set_active_organization.organization_id)
  on conflict (user_id) do update set active_organization_id = excluded.active_organization_id
  returning p.* into profile;
  return profile;
end;
$$;
comment on function private.set_active_organization(uuid) is 'See public.set_active_organization().';
grant execute on function private.set_active_organization(uuid) to authenticated;

create function public.set_active_organization(organization_id uuid)
returns public.profiles
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.set_active_organization(organization_id);
end;
$$;
comment on function public.set_active_organization(uuid) is
  'Chooses the organization that the caller works in from now on. Errors: not_authenticated, not_allowed (not a member).';
grant execute on function public.set_active_organization(uuid) to authenticated;

create function private.is_operating_hours(hours jsonb)
returns boolean
language sql
immutable
strict
set search_path = ''
as $$
  select not exists (
    select
    from jsonb_each(case jsonb_typeof(hours) when 'object' then hours else '{"": null}' end) d
    where d.key not in ('monday', 'tuesday', 'wednesday', 'thursday', 'friday', 'saturday', 'sunday')
      or jsonb_typeof(d.value) <> 'array'
      or exists (
        select
        from jsonb_array_elements(case jsonb_typeof(d.value) when 'array' then d.value else '[]' end) h
        where (
          h ->> 'starts_at' ~ '^([01][0-9]|2[0-3]):[0-5][0-9]$'
          and h ->> 'ends_at' ~ '^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$'
          and h ->> 'starts_at' <> h ->> 'ends_at'
        ) is not true
      )
  )
$$;
comment on function private.is_operating_hours(jsonb) is
  'Whether an object is opening hours, {"monday": [{"starts_at": "08:00", "ends_at": "12:00"}, …], …}: slots are made of them. Ends after midnight: ends_at before starts_at.';
grant execute on function private.is_operating_hours(jsonb) to authenticated, service_role;

create function private.is_quiet_hours(quiet_hours jsonb)
returns boolean
language sql
immutable
strict
set search_path = ''
as $$
  select quiet_hours = '{}' or (
    quiet_hours - '{starts_at,ends_at}'::text[] = '{}'
    and quiet_hours ->> 'starts_at' ~ '^([01][0-9]|2[0-3]):[0-5][0-9]$'
    and quiet_hours ->> 'ends_at' ~ '^([01][0-9]|2[0-3]):[0-5][0-9]$'
    and quiet_hours ->> 'starts_at' <> quiet_hours ->> 'ends_at'
  ) is true
$$;
comment on function private.is_quiet_hours(jsonb) is 'Whether an object is quiet hours, {"starts_at": "21:00", "ends_at": "08:00"}, or none at all.';
grant execute on function private.is_quiet_hours(jsonb) to authenticated, service_role;

-- locations ------------------------------------------------------------------------------------------------------

create table public.locations (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  name text not null,
  slug text not null,
  address jsonb not null default '{}',
  phone_number text,
  timezone text,
  operating_hours jsonb,
  is_active boolean not null default true,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint locations_pkey primary key (organization_id, id),
  constraint locations_organization_id_fkey foreign key (organization_id) references public.organizations (id),
  constraint locations_organization_id_slug_key unique (organization_id, slug),
  constraint locations_name_length_check check (length(btrim(name)) between 1 and 120),
  constraint locations_slug_format_check check (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' and length(slug) <= 80),
  constraint locations_address_is_object_check check (jsonb_typeof(address) = 'object'),
  constraint locations_operating_hours_is_object_check
    check (jsonb_typeof(operating_hours) = 'object' and private.is_operating_hours(operating_hours))
);
comment on table public.locations is 'The places of an organization (Healz''s clinics).';
comment on column public.locations.timezone is 'IANA name; null = the organization''s.';
comment on column public.locations.operating_hours is 'Null = the organization''s; shape: operatingHours in types/.';

alter table public.locations enable row level security;
alter table public.locations force row level security;
create policy "Members can read their organization's locations" on public.locations
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
create policy "Admins can add locations to their organization" on public.locations
  for insert to authenticated
  with check (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
create policy "Admins can update their organization's locations" on public.locations
  for update to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]))
  with check (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
create policy "Admins can delete their organization's locations" on public.locations
  for delete to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.locations from public, anon, authenticated, service_role;
grant select, insert, update, delete on public.locations to authenticated, service_role;

create trigger locations_100_touch_updated_at
  before update on public.locations
  for each row execute function private.tg_touch_updated_at();
create trigger locations_500_check_timezone
  before insert or update of timezone on public.locations
  for each row execute function private.tg_check_timezone();
create trigger locations_500_normalize_phone
  before insert or update of phone_number on public.locations
  for each row when (new.phone_number is not null) execute function private.tg_normalize_phone('phone_number');

-- organization_settings ---------------------------------------------------------------------------------------

create table public.organization_settings (
  organization_id uuid not null default public.user_organization_id(),
  operating_hours jsonb not null default '{}',
  ai_config jsonb not null default '{}',
  aurora_config jsonb not null default '{}',
  contextualization_json jsonb not null default '{}',
  reminder_offsets int[] not null default '{1440,120}',
  quiet_hours jsonb not null default '{"starts_at": "21:00", "ends_at": "08:00"}',
  lead_visibility public.lead_visibility not null default 'all',
  hold_minutes int not null default 10,
  waiting_list_offer_minutes int not null default 30,
  notification_daily_cap int not null default 5,
  sends_confirmations boolean not null default true,
  asks_feedback boolean not null default true,
  feedback_delay_minutes int not null default 60,
  retention_overrides jsonb not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint organization_settings_pkey primary key (organization_id),
  constraint organization_settings_organization_id_fkey foreign key (organization_id)
    references public.organizations (id) on delete cascade,
  constraint organization_settings_operating_hours_is_object_check
    check (jsonb_typeof(operating_hours) = 'object' and private.is_operating_hours(operating_hours)),
  constraint organization_settings_ai_config_is_object_check check (jsonb_typeof(ai_config) = 'object'),
  constraint organization_settings_aurora_config_is_object_check check (jsonb_typeof(aurora_config) = 'object'),
  constraint organization_settings_contextualization_is_object_check
    check (jsonb_typeof(contextualization_json) = 'object'),
  constraint organization_settings_quiet_hours_is_object_check
    check (jsonb_typeof(quiet_hours) = 'object' and private.is_quiet_hours(quiet_hours)),
  constraint organization_settings_retention_is_object_check check (jsonb_typeof(retention_overrides) = 'object'),
  constraint organization_settings_hold_minutes_check check (hold_minutes between 1 and 1440),
  constraint organization_settings_waiting_list_offer_minutes_check check (waiting_list_offer_minutes between 1 and 1440),
  constraint organization_settings_notification_daily_cap_check check (notification_daily_cap between 0 and 100),
  constraint organization_settings_feedback_delay_minutes_check check (feedback_delay_minutes between 0 and 10080),
  constraint organization_settings_reminder_offsets_are_minutes_check
    check (cardinality(reminder_offsets) <= 10 and 0 < all (reminder_offsets) and 43200 >= all (reminder_offsets))
);
comment on table public.organization_settings is 'One row per organization, made with it. Shapes of the JSON columns: types/.';
comment on column public.organization_settings.contextualization_json is 'What the AI may know about the business (AtendeAí).';
comment on column public.organization_settings.reminder_offsets is
  'Minutes before an appointment at which its customer is reminded. Whole days (1440, 2880 …) are local ones: at the same hour, also when the clocks change in between.';
comment on column public.organization_settings.quiet_hours is
  'Local times between which nothing automatic is sent, {"starts_at": "21:00", "ends_at": "08:00"}; they may pass midnight. {} = none. Only an offer that would be over by their end, and that a visit is not when the customer thinks it is if he would be there by then, is said in them.';
comment on column public.organization_settings.lead_visibility is 'own: an attendant sees only the leads of the professional he is.';
comment on column public.organization_settings.hold_minutes is 'How long a slot is kept for somebody who is about to book it.';
comment on column public.organization_settings.waiting_list_offer_minutes is
  'How long somebody on the waiting list may think about a slot that became free.';
comment on column public.organization_settings.notification_daily_cap is
  'So many reminders, offers, questions and follow-ups a customer gets in one local day, and no more. What has been booked, moved or cancelled for him he is told in any case.';
comment on column public.organization_settings.sends_confirmations is
  'Whether a customer is told of what was booked, moved or cancelled for him by somebody else than the bot that he talks to.';
comment on column public.organization_settings.asks_feedback is 'Whether customers are asked for a score after a visit or a closed conversation.';
comment on column public.organization_settings.feedback_delay_minutes is 'How long after a visit or a closing.';
comment on column public.organization_settings.retention_overrides is 'Days to keep, by kind; only upwards of the platform''s.';

alter table public.organization_settings enable row level security;
alter table public.organization_settings force row level security;
create policy "Members can read their organization's settings" on public.organization_settings
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
create policy "Admins can update their organization's settings" on public.organization_settings
  for update to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]))
  with check (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.organization_settings from public, anon, authenticated, service_role;
grant select, update on public.organization_settings to authenticated;
grant select, insert, update, delete on public.organization_settings to service_role;

create trigger organization_settings_100_touch_updated_at
  before update on public.organization_settings
  for each row execute function private.tg_touch_updated_at();

-- Making an organization ----------------------------------------------------------------------------------------

create function private.slug_base(input_name text)
returns text
language sql
immutable
parallel safe
set search_path = ''
as $$
  -- 70 characters leave room for a numeric suffix; a name of emoji alone still gets a slug.
  select coalesce(
    nullif(
      btrim(
        left(
          regexp_replace(
            lower(extensions.unaccent('extensions.unaccent'::regdictionary, coalesce(input_name, ''))),
            '[^a-z0-9]+', '-', 'g'),
          70),
        '-'),
      ''),
    'org')
$$;
comment on function private.slug_base(text) is 'A name as a URL segment: lower case, accents folded, everything else a hyphen.';

create function private.generate_slug(input_name text)
returns text
language plpgsql
stable
security definer -- sees every organization's slug, which its unique key does too
set search_path = ''
as $$
declare
  base constant text := private.slug_base(input_name);
begin
  return (
    select case when n = 1 then base else base || '-' || n end
    from generate_series(1, (select count(*) + 1 from public.organizations o where o.slug like base || '%')) n
    where not exists (
      select
      from public.organizations o
      where o.slug = case when n = 1 then base else base || '-' || n end
    )
    order by n
    limit 1
  );
end;
$$;
comment on function private.generate_slug(text) is 'See public.generate_slug().';
grant execute on function private.generate_slug(text) to authenticated, service_role;

create function public.generate_slug(input_name text)
returns text
language plpgsql
stable
set search_path = ''
as $$
begin
  return private.generate_slug(input_name);
end;
$$;
comment on function public.generate_slug(text) is
  'A free slug for an organization''s name ("Clínica São José" → clinica-sao-jose, the second one …-2). A proposal: create_organization retries if it is taken meanwhile.';
grant execute on function public.generate_slug(text) to authenticated, service_role;

create function private.create_organization(
  name text,
  vertical public.business_vertical,
  slug text,
  timezone text
)
returns public.organizations
language plpgsql
volatile
security definer -- nobody is a member yet: writes the organization, its settings and its first owner together
set search_path = ''
as $$
declare
  caller constant uuid := private.require_user();
  organization public.organizations;
begin
  if length(btrim(coalesce(name, ''))) not between 1 and 120 then
    perform private.raise_error('BL005', 'invalid_name', 'A name has 1 to 120 characters');
  elsif slug !~ '^[a-z0-9]+(-[a-z0-9]+)*$' or length(slug) > 80 then
    perform private.raise_error('BL006', 'invalid_slug', 'A slug has lower-case letters, digits and single hyphens, at most 80');
  end if;
  loop
    insert into public.organizations as o (name, vertical, slug, timezone)
    values (
      btrim(create_organization.name), create_organization.vertical,
      coalesce(create_organization.slug, private.generate_slug(create_organization.name)),
      create_organization.timezone
    )
    on conflict on constraint organizations_slug_key do nothing
    returning o.* into organization;
    exit when found;
    -- A generated slug that lost a race is generated again: the winner has committed and is visible now.
    if slug is not null then
      perform private.raise_error('BL007', 'slug_taken', format('The slug "%s" is taken', slug),
        jsonb_build_object('slug', slug, 'proposal', private.generate_slug(slug)));
    end if;
  end loop;

  insert into public.organization_settings (organization_id) values (organization.id);
  insert into public.user_roles (organization_id, user_id, role) values (organization.id, caller, 'owner');
  return organization;
end;
$$;
comment on function private.create_organization(text, public.business_vertical, text, text) is 'See public.create_organization().';
grant execute on function private.create_organization(text, public.business_vertical, text, text) to authenticated;

create function public.create_organization(
  name text,
  vertical public.business_vertical,
  slug text default null,
  timezone text default 'America/Sao_Paulo'
)
returns public.organizations
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.create_organization(name, vertical, slug, timezone);
end;
$$;
comment on function public.create_organization(text, public.business_vertical, text, text) is
  'Makes an organization with its settings; the caller becomes its owner. Without a slug one is made from the name. Errors: not_authenticated, invalid_name, invalid_slug, slug_taken, invalid_timezone.';
grant execute on function public.create_organization(text, public.business_vertical, text, text) to authenticated;
