-- Refreshing the analytics: one at a time, bounded, and written down.

create table public.analytics_refreshes (
  id uuid not null default private.uuid_v7(),
  view_name text not null,
  started_at timestamptz not null,
  finished_at timestamptz not null default clock_timestamp(),
  duration_ms int not null,
  row_count bigint,
  error text,
  constraint analytics_refreshes_pkey primary key (id),
  constraint analytics_refreshes_outcome_check check (num_nonnulls(row_count, error) = 1)
);
comment on table public.analytics_refreshes is 'When the analytics were computed, and how that went: for the platform. Kept fourteen days.';
comment on column public.analytics_refreshes.row_count is 'Rows of the view afterwards; null: it failed.';
create index analytics_refreshes_view_name_idx on public.analytics_refreshes (view_name, id desc);
comment on index public.analytics_refreshes_view_name_idx is 'The last one of each view.';

alter table public.analytics_refreshes enable row level security;
alter table public.analytics_refreshes force row level security;
revoke all on public.analytics_refreshes from public, anon, authenticated, service_role;
grant select on public.analytics_refreshes to service_role;

create function private.refresh_analytics_view(name text)
returns jsonb
language plpgsql
volatile
security definer -- only its owner may refresh a materialized view
set search_path = ''
set work_mem = '64MB'
as $$
declare
  view regclass;
  refresh public.analytics_refreshes;
begin
  select c.oid into view
  from pg_catalog.pg_class c
  where c.relnamespace = 'analytics'::regnamespace and c.relkind = 'm' and c.relname = name;
  if not found then
    perform private.raise_error('BL802', 'analytics_view_not_found', 'There is no such view', jsonb_build_object('name', name));
  end if;
  if not pg_try_advisory_xact_lock(hashtext('analytics'), hashtext(name)) then
    return jsonb_build_object('view_name', name, 'refreshed', false, 'reason', 'already_running');
  end if;
  refresh.started_at := clock_timestamp();
  begin
    execute format('refresh materialized view concurrently %s', view);
    execute format('select count(*) from %s', view) into refresh.row_count;
  exception when others or query_canceled then
    -- The old rows stay; whoever looks finds why.
    refresh.row_count := null;
    refresh.error := left(sqlerrm || ' (' || sqlstate || ')', 2000);
  end;
  insert into public.analytics_refreshes (view_name, started_at, duration_ms, row_count, error)
  values (
    name, refresh.started_at, round(extract(epoch from clock_timestamp() - refresh.started_at) * 1000),
    refresh.row_count, refresh.error)
  returning * into refresh;
  return jsonb_build_object(
    'view_name', name, 'refreshed', refresh.error is null, 'duration_ms', refresh.duration_ms,
    'row_count', refresh.row_count, 'error', refresh.error);
end;
$$;
comment on function private.refresh_analytics_view(text) is 'See public.refresh_analytics_view().';
grant execute on function private.refresh_analytics_view(text) to service_role;

create function public.refresh_analytics_view(name text)
returns jsonb
language plpgsql
volatile
set search_path = ''
-- A refresh holds back whoever reads behind the oldest snapshot: this is how long at most. (PostgREST takes it for the whole
-- call; the clock's calls have the same bound.)
set statement_timeout = '5min'
as $$
begin
  return private.refresh_analytics_view(name);
end;
$$;
comment on function public.refresh_analytics_view(text) is
  'Computes one view anew, while others read its old rows: {view_name, refreshed, reason: already_running, duration_ms, row_count, error}. What fails is noted in analytics_refreshes, not raised. Secret key only. Errors: analytics_view_not_found.';
grant execute on function public.refresh_analytics_view(text) to service_role;

create function private.refresh_analytics_views()
returns setof jsonb
language plpgsql
volatile
security definer -- the views are in "analytics"
set search_path = ''
as $$
declare
  view text;
  refreshed jsonb;
begin
  for view in
    select c.relname
    from pg_catalog.pg_class c
    where c.relnamespace = 'analytics'::regnamespace and c.relkind = 'm'
    order by c.relname
  loop
    refreshed := private.refresh_analytics_view(view);
    return next refreshed;
    -- Its time is up or it was called off, and so is all of it: Postgres does not begin to count again within a statement.
    exit when refreshed ->> 'error' like '%(57014)';
  end loop;
end;
$$;
comment on function private.refresh_analytics_views() is 'See public.refresh_analytics_views().';
grant execute on function private.refresh_analytics_views() to service_role;

create function public.refresh_analytics_views()
returns setof jsonb
language plpgsql
volatile
set search_path = ''
set statement_timeout = '15min'
as $$
begin
  return query select r from private.refresh_analytics_views() r;
end;
$$;
comment on function public.refresh_analytics_views() is
  'Computes all views anew, one after the other; a row of refresh_analytics_view() for each. Secret key only.';
grant execute on function public.refresh_analytics_views() to service_role;

create function private.delete_old_refreshes()
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  deleted bigint;
begin
  delete from public.analytics_refreshes r where r.id < private.uuid_v7(now() - interval '14 days');
  get diagnostics deleted = row_count;
  return deleted;
end;
$$;
comment on function private.delete_old_refreshes() is 'Deletes the records of refreshes after fourteen days; returns how many.';

-- As it is this moment ------------------------------------------------------------------------------------------------

create function private.get_organization_stats(organization_id uuid)
returns jsonb
language plpgsql
stable
security definer -- counts for those who may read
set search_path = ''
as $$
declare
  today date;
  day_start timestamptz;
  day_end timestamptz;
  first_id uuid;
begin
  perform private.require_role(organization_id, 'viewer');
  select d.local_date, private.day_start(d.local_date, o.timezone), private.day_start(d.local_date + 1, o.timezone)
  into today, day_start, day_end
  from public.organizations o
  cross join lateral (select (now() at time zone o.timezone)::date as local_date) d
  where o.id = get_organization_stats.organization_id;
  first_id := private.uuid_v7(day_start - interval '1 second');
  return (
    select jsonb_build_object(
      'total_contacts', (
        select count(*)
        from public.contacts c
        where c.organization_id = get_organization_stats.organization_id and c.merged_into_id is null
      ),
      'total_pets', (
        select count(*) from public.pets p where p.organization_id = get_organization_stats.organization_id and p.is_active
      ),
      'total_bookings', (
        select count(*)
        from public.bookings b
        where b.organization_id = get_organization_stats.organization_id and b.status <> 'hold'
      ),
      'active_conversations', (
        select count(*)
        from public.conversations v
        where v.organization_id = get_organization_stats.organization_id and v.is_open
      ),
      'messages_today', (
        select count(*)
        from public.messages m
        where m.organization_id = get_organization_stats.organization_id
          and m.id >= first_id
          and m.created_at >= day_start and m.created_at < day_end
      ),
      'bookings_today', count(*) filter (where b.booking_date = today and b.status not in ('hold', 'cancelled')),
      'revenue_this_month_cents', coalesce(sum(b.price_cents) filter (where b.status = 'completed'), 0)
    )
    from public.bookings b
    where b.organization_id = get_organization_stats.organization_id
      and b.booking_date >= date_trunc('month', today::timestamp)::date
      and b.booking_date < (date_trunc('month', today::timestamp) + interval '1 month')::date
  );
end;
$$;
comment on function private.get_organization_stats(uuid) is 'See public.get_organization_stats().';
grant execute on function private.get_organization_stats(uuid) to authenticated, service_role;

create function public.get_organization_stats(organization_id uuid default public.user_organization_id())
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return private.get_organization_stats(organization_id);
end;
$$;
comment on function public.get_organization_stats(uuid) is
  'As it is this moment: {total_contacts, total_pets, total_bookings, active_conversations, messages_today, bookings_today, revenue_this_month_cents}. Contacts without those that turned out to be another, appointments without holds; days are local. Viewers and up. Errors: not_allowed.';
grant execute on function public.get_organization_stats(uuid) to authenticated, service_role;
