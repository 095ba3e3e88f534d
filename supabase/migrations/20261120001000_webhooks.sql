-- Webhooks, inbound: what the providers deliver, kept raw.
--
-- A log by month: one row per tenant's part of every delivery, stored in the transaction that acts on it.

-- webhook_events ------------------------------------------------------------------------------------------------

create table public.webhook_events (
  organization_id uuid,
  id uuid not null default private.uuid_v7(),
  instance_id uuid,
  provider public.whatsapp_provider not null,
  app_key text,
  event_type text not null,
  external_id text,
  payload jsonb not null,
  headers jsonb not null default '{}',
  signature text,
  unknown_count int not null default 0,
  processed boolean not null default false,
  processing_error text,
  retry_count int not null default 0,
  received_at timestamptz not null default now(),
  processed_at timestamptz,
  created_at timestamptz not null default now(),
  -- Not led by the tenant: the part of a delivery that nobody registered has none.
  constraint webhook_events_pkey primary key (id, created_at),
  constraint webhook_events_payload_is_object_check check (jsonb_typeof(payload) = 'object'),
  constraint webhook_events_headers_is_object_check check (jsonb_typeof(headers) = 'object')
) partition by range (created_at);
comment on table public.webhook_events is
  'Every tenant''s part of every delivery, as it came. Partitioned by month; kept 30 days. No foreign keys: a log outlives what it speaks of.';
comment on column public.webhook_events.organization_id is 'Null: a number that nobody registered, or the platform''s own app. Then only the platform sees it.';
comment on column public.webhook_events.app_key is 'The key in the address that it came to: what it was verified with.';
comment on column public.webhook_events.external_id is 'The provider''s id of the number.';
comment on column public.webhook_events.unknown_count is 'Items in it that we did not understand.';
create index webhook_events_organization_id_created_at_idx on public.webhook_events (organization_id, created_at desc);
comment on index public.webhook_events_organization_id_created_at_idx is 'What came lately, for an administrator; and retention.';
create index webhook_events_processing_error_idx on public.webhook_events (created_at) where processing_error is not null;
comment on index public.webhook_events_processing_error_idx is 'What came for nobody or was not understood lately, of every tenant.';

alter table public.webhook_events enable row level security;
alter table public.webhook_events force row level security;
create policy "Admins can read their organization's webhook events" on public.webhook_events
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.webhook_events from public, anon, authenticated, service_role;
grant select on public.webhook_events to authenticated;
grant select, insert, update, delete on public.webhook_events to service_role;

-- Partitions of the logs ------------------------------------------------------------------------------------------

create function private.maintain_partitions(months_ahead int default 3, at timestamptz default now())
returns setof text
language plpgsql
volatile
set search_path = ''
-- Whoever reads a log for minutes must not make its writers wait behind us: the next day is early enough.
set lock_timeout = '1s'
as $$
declare
  parent record;
  month_start timestamptz;
  partition_name text;
begin
  for parent in
    select c.oid, c.relname
    from pg_catalog.pg_class c
    join pg_catalog.pg_partitioned_table p on p.partrelid = c.oid
    where c.relnamespace = 'public'::regnamespace and p.partstrat = 'r'
    order by c.relname
  loop
    for month_start in
      select m at time zone 'UTC'
      from generate_series(
        date_trunc('month', at at time zone 'UTC'),
        date_trunc('month', at at time zone 'UTC') + make_interval(months => months_ahead),
        interval '1 month') m
    loop
      partition_name := format('%s_%s', parent.relname, to_char(month_start at time zone 'UTC', 'YYYY_MM'));
      continue when to_regclass(format('partitions.%I', partition_name)) is not null;
      begin
        execute format(
          'create table partitions.%I partition of public.%I for values from (%L) to (%L)',
          partition_name, parent.relname, month_start, month_start + interval '1 month');
      exception when check_violation then
        -- The month came before its partition did: what the default took in goes where it belongs.
        execute format('create table partitions.%I (like public.%I including all)', partition_name, parent.relname);
        execute format(
          'with moved as (delete from partitions.%I where created_at >= %L and created_at < %L returning *)
           insert into partitions.%I select * from moved',
          parent.relname || '_default', month_start, month_start + interval '1 month', partition_name);
        execute format(
          'alter table public.%I attach partition partitions.%I for values from (%L) to (%L)',
          parent.relname, partition_name, month_start, month_start + interval '1 month');
      end;
      -- Reached past its parent a partition obeys no policy of the parent's: it gets its own lock.
      execute format('alter table partitions.%I enable row level security', partition_name);
      execute format('alter table partitions.%I force row level security', partition_name);
      execute format('revoke all on partitions.%I from public, anon, authenticated, service_role', partition_name);
      return next partition_name;
    end loop;
  end loop;
end;
$$;
comment on function private.maintain_partitions(int, timestamptz) is
  'Creates the monthly partitions (UTC months) of every log, from this month to months_ahead; returns the names made. Run it daily. Those behind go by private.drop_past_partition().';

create table partitions.webhook_events_default partition of public.webhook_events default;
comment on table partitions.webhook_events_default is 'Must stay empty: catches what no month took, so that nothing is lost.';
alter table partitions.webhook_events_default enable row level security;
alter table partitions.webhook_events_default force row level security;
revoke all on partitions.webhook_events_default from public, anon, authenticated, service_role;

select private.maintain_partitions();
