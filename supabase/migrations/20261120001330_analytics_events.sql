-- Analytics events: what people do in the apps, as the apps tell it.
--
-- A log by month. No foreign keys: a log outlives what it speaks of.

create table public.analytics_events (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  event_name text not null,
  properties jsonb not null default '{}',
  contact_id uuid,
  user_id uuid,
  occurred_at timestamptz not null default now(),
  created_at timestamptz not null default now(),
  constraint analytics_events_pkey primary key (organization_id, id, created_at),
  constraint analytics_events_event_name_format_check check (event_name ~ '^[a-z][a-z0-9_.]{0,62}$'),
  constraint analytics_events_properties_is_object_check check (jsonb_typeof(properties) = 'object'),
  constraint analytics_events_properties_length_check check (octet_length(properties::text) <= 8192)
) partition by range (created_at);
comment on table public.analytics_events is 'What happened in an app: names of the app''s own choice. Partitioned by month. Written by track_event().';
comment on column public.analytics_events.user_id is 'The member who did it; null: the platform, or nobody''s doing.';
comment on column public.analytics_events.contact_id is 'Whom it is about; stays what it was when contacts are merged: follow contacts.merged_into_id.';
comment on column public.analytics_events.occurred_at is 'By the app''s clock; created_at is when it reached us.';
create index analytics_events_occurred_at_idx on public.analytics_events (organization_id, event_name, occurred_at desc);
comment on index public.analytics_events_occurred_at_idx is 'How often something happened in a time.';
create index analytics_events_contact_id_idx on public.analytics_events (organization_id, contact_id) where contact_id is not null;
comment on index public.analytics_events_contact_id_idx is 'All about one person: to show it to him, to erase it.';
create index analytics_events_created_at_idx on public.analytics_events (organization_id, created_at);
comment on index public.analytics_events_created_at_idx is 'Retention.';

alter table public.analytics_events enable row level security;
alter table public.analytics_events force row level security;
create policy "Admins can read their organization's analytics events" on public.analytics_events
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.analytics_events from public, anon, authenticated, service_role;
grant select on public.analytics_events to authenticated;
grant select, insert, update, delete on public.analytics_events to service_role;

create table partitions.analytics_events_default partition of public.analytics_events default;
comment on table partitions.analytics_events_default is 'Must stay empty: catches what no month took, so that nothing is lost.';
alter table partitions.analytics_events_default enable row level security;
alter table partitions.analytics_events_default force row level security;
revoke all on partitions.analytics_events_default from public, anon, authenticated, service_role;

select private.maintain_partitions();

create function private.track_event(
  event_name text,
  properties jsonb,
  contact_id uuid,
  occurred_at timestamptz,
  organization_id uuid
)
returns public.analytics_events
language plpgsql
volatile
security definer -- members read no log, but may add to it
set search_path = ''
as $$
declare
  problem text;
  tracked public.analytics_events;
begin
  perform private.require_role(organization_id, 'viewer');
  problem := case
    when (event_name ~ '^[a-z][a-z0-9_.]{0,62}$') is not true then 'event_name'
    when (jsonb_typeof(properties) = 'object' and octet_length(properties::text) <= 8192) is not true then 'properties'
    when (occurred_at between now() - interval '400 days' and now() + interval '1 day') is not true then 'occurred_at'
  end;
  if problem is not null then
    perform private.raise_error('BL801', 'invalid_event', 'This cannot be tracked', jsonb_build_object('problem', problem),
      'A name of small letters, digits, dots and underscores; an object of at most 8 KiB; a time of the last 400 days');
  end if;
  if contact_id is not null then
    contact_id := private.surviving_contact(organization_id, contact_id);
  end if;
  insert into public.analytics_events (organization_id, event_name, properties, contact_id, user_id, occurred_at)
  values (
    track_event.organization_id, track_event.event_name, track_event.properties, track_event.contact_id,
    case when not private.is_service() then (select auth.uid()) end, track_event.occurred_at)
  returning * into tracked;
  return tracked;
end;
$$;
comment on function private.track_event(text, jsonb, uuid, timestamptz, uuid) is 'See public.track_event().';
grant execute on function private.track_event(text, jsonb, uuid, timestamptz, uuid) to authenticated, service_role;

create function public.track_event(
  event_name text,
  properties jsonb default '{}',
  contact_id uuid default null,
  occurred_at timestamptz default now(),
  organization_id uuid default public.user_organization_id()
)
returns public.analytics_events
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.track_event(event_name, properties, contact_id, occurred_at, organization_id);
end;
$$;
comment on function public.track_event(text, jsonb, uuid, timestamptz, uuid) is
  'Notes down what happened in an app: event_name like "page.viewed", properties of at most 8 KiB, occurred_at not older than 400 days. Viewers and up. Errors: not_allowed, invalid_event, contact_not_found.';
grant execute on function public.track_event(text, jsonb, uuid, timestamptz, uuid) to authenticated, service_role;
