-- The analytics: what they are made of, who is kept from it, and what is refused.
begin;
alter default privileges grant execute on functions to public;
select plan(68);

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
create function pg_temp.clinic() returns uuid language sql as $$ select tests.the('clinic', 'organization_id') $$;

create temporary view computed as
select c.oid, c.relname::text as name, c.relacl, c.relowner, c.relispopulated
from pg_catalog.pg_class c
where c.relnamespace = 'analytics'::regnamespace and c.relkind = 'm';

-- What they are made of -------------------------------------------------------------------------------------------------

select is(
  array(select c.name from computed c order by c.name collate "C"),
  array['clinic_metrics_daily', 'consultant_metrics', 'conversation_analytics', 'daily_lead_stats', 'dashboard_metrics', 'service_analytics'],
  'there are six');
select is_empty(
  $$
    select c.name from computed c
    where not exists (
      select from pg_catalog.pg_index i
      where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
    )
  $$,
  'each has a unique index over all its rows, without which no refresh goes on beside its readers');
select is_empty('select name from computed where not relispopulated', 'each can be read from the first day on');
select is_empty(
  $$ select c.name, a.grantee from computed c cross join lateral aclexplode(c.relacl) a where a.grantee <> c.relowner $$,
  'none is granted to anybody');
select is_empty(
  $$ select r from unnest(array['anon', 'authenticated', 'service_role']) r where has_schema_privilege(r, 'analytics', 'usage') $$,
  'nor is the schema in which they are');
select is_empty(
  $$
    select c.name || '.' || a.attname
    from computed c
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where a.attname not in ('organization_id', 'date', 'service_id', 'service_name')
      and (
        col_description(c.oid, a.attnum) is null
        or col_description(c.oid, a.attnum) is distinct from col_description(('public.' || c.name)::regclass, a.attnum)
      )
  $$,
  'what a figure means is said at each, there and in the API');
select is_empty(
  $$
    select c.name from computed c
    left join pg_catalog.pg_class v on v.relnamespace = 'public'::regnamespace and v.relname = c.name and v.relkind = 'v'
    where not coalesce(v.reloptions @> array['security_invoker=true'], false)
  $$,
  'each is read through a view that asks as its reader');
select is_empty(
  $$
    select c.name from computed c
    where not exists (
      select from pg_catalog.pg_proc p
      where p.pronamespace = 'private'::regnamespace and p.proname = c.name || '_rows' and p.prosecdef and p.provolatile = 's'
    )
  $$,
  'past a function that lets through what he may read');

-- How long one may take -------------------------------------------------------------------------------------------------

select is(
  array(
    select format('%s %s', p.oid::regprocedure, s)
    from pg_catalog.pg_proc p
    cross join lateral unnest(p.proconfig) s
    where p.oid in (
      'public.refresh_analytics_view(text)'::regprocedure, 'public.refresh_analytics_views()'::regprocedure,
      'public.run_schedule(text,boolean)'::regprocedure
    ) and s like 'statement_timeout=%'
    order by 1
  ),
  array[
    'refresh_analytics_view(text) statement_timeout=5min', 'refresh_analytics_views() statement_timeout=15min',
    'run_schedule(text,boolean) statement_timeout=5min'
  ],
  'every call that refreshes has an end');
select set_eq(
  $$ select s.name, s.expression, s.command from private.schedules s where s.command like '%refresh_analytics_view%' $$,
  $$
    select 'refresh_' || v.name, v.expression, format('select private.refresh_analytics_view(''%s'') as refresh', v.name)
    from (
      values
        ('clinic_metrics_daily', '15 5 * * *'), ('consultant_metrics', '12 * * * *'), ('conversation_analytics', '7 * * * *'),
        ('daily_lead_stats', '20 5 * * *'), ('dashboard_metrics', '*/5 * * * *'), ('service_analytics', '10 5 * * *')
    ) v (name, expression)
  $$,
  'each has its time');

-- Days and rates --------------------------------------------------------------------------------------------------------

select is(private.day_start(d.day::date, d.zone), d.begins::timestamptz, format('%s begins in %s', d.day, d.zone))
from (
  values
    ('2026-11-21', 'America/Sao_Paulo', '2026-11-21T03:00:00Z'),
    ('2026-11-21', 'Pacific/Auckland', '2026-11-20T11:00:00Z'),
    -- Two midnights, an hour apart; none; the evening before came twice.
    ('2026-10-25', 'Atlantic/Azores', '2026-10-25T00:00:00Z'),
    ('2026-10-26', 'Atlantic/Azores', '2026-10-26T01:00:00Z'),
    ('2026-09-06', 'America/Santiago', '2026-09-06T04:00:00Z'),
    ('2026-04-05', 'America/Santiago', '2026-04-05T04:00:00Z')
) d (day, zone, begins);

-- Refreshing ------------------------------------------------------------------------------------------------------------

create temporary table nobodys as
with made as (
  insert into public.organizations (name, slug, vertical, timezone)
  values ('Ainda nada', 'ainda-nada', 'other', 'Pacific/Auckland')
  returning id
)
select id from made;
select is(
  (select count(*) from public.refresh_analytics_views() r where (r ->> 'refreshed')::boolean and r ->> 'error' is null), 6::bigint,
  'all are refreshed');
select set_eq(
  $$
    select r.view_name
    from public.analytics_refreshes r
    where r.started_at > now() and r.finished_at >= r.started_at and r.duration_ms >= 0 and r.row_count >= 0 and r.error is null
  $$,
  'select c.name from computed c',
  'which is written down');
select is(
  (
    select to_jsonb(d) - array['organization_id', 'local_date', 'calculated_at']
    from analytics.dashboard_metrics d
    where d.organization_id = (select id from nobodys)
  ),
  jsonb_build_object(
    'bookings_today', 0, 'bookings_this_week', 0, 'bookings_this_month', 0, 'revenue_today_cents', 0, 'revenue_this_week_cents', 0,
    'revenue_this_month_cents', 0, 'completed_this_month', 0, 'no_shows_this_month', 0, 'no_show_rate_this_month', null,
    'active_conversations', 0, 'conversations_waiting_human', 0, 'unread_conversations', 0, 'new_contacts_today', 0,
    'messages_today', 0, 'avg_ai_confidence_7d', null, 'ai_actions_7d', 0),
  'an organization in which nothing has happened has zeros');
select is(
  (select d.local_date from analytics.dashboard_metrics d where d.organization_id = (select id from nobodys)),
  (now() at time zone 'Pacific/Auckland')::date, 'of its own day');
select is(
  (select count(*) from analytics.dashboard_metrics), (select count(*) from public.organizations), 'every organization has one row');
select throws_ok($$ select public.refresh_analytics_view('bookings') $$, 'BL802', null, 'what is no such view cannot be refreshed');
select throws_ok($$ select public.refresh_analytics_view('analytics.dashboard_metrics') $$, 'BL802', null, 'nor by another name');
select throws_ok($$ select public.refresh_analytics_view('dashboard_metrics; drop table public.messages') $$, 'BL802', null, 'nor more than that');
select throws_ok($$ select public.refresh_analytics_view(null) $$, 'BL802', null, 'nor nothing');

insert into public.analytics_refreshes (id, view_name, started_at, duration_ms, row_count)
values
  (private.uuid_v7(now() - interval '14 days 1 minute'), 'old', now() - interval '14 days 1 minute', 1, 1),
  (private.uuid_v7(now() - interval '13 days 23 hours'), 'not so old', now() - interval '13 days 23 hours', 1, 1);
select is(private.delete_old_refreshes(), 1::bigint, 'what was written down goes after fourteen days');
select is((select count(*) from public.analytics_refreshes where view_name like '%old'), 1::bigint, 'and not before');
select throws_ok(
  $$ insert into public.analytics_refreshes (view_name, started_at, duration_ms, row_count, error) values ('x', now(), 1, 1, 'x') $$, '23514', null,
  'a refresh has failed, or has rows');
select throws_ok(
  $$ insert into public.analytics_refreshes (view_name, started_at, duration_ms) values ('x', now(), 1) $$, '23514', null, 'one of both');

-- Events ----------------------------------------------------------------------------------------------------------------

create function pg_temp.problem(
  event_name text,
  properties jsonb default '{}',
  occurred_at timestamptz default now()
)
returns text
language plpgsql
as $$
declare
  detail text;
begin
  perform public.track_event(event_name, properties, null, occurred_at, tests.the('clinic', 'organization_id'));
  return 'none';
exception
  when sqlstate 'BL801' then
    get stacked diagnostics detail = pg_exception_detail;
    return detail::jsonb ->> 'problem';
end;
$$;
select tests.authenticate_as(tests.the('clinic', 'viewer_id'));
select is(pg_temp.problem('page.viewed'), 'none', 'a viewer tells what happened');
select is(pg_temp.problem('a', jsonb_build_object('k', repeat('x', 8000))), 'none', 'with eight kilobytes to it');
select is(pg_temp.problem(n), 'event_name', format('not named %s', to_jsonb(n)))
from unnest(array['', 'Page', '1', '.a', 'a b', 'a-b', E'a\n', repeat('a', 64), 'ação', null]) n;
select is(pg_temp.problem('a', p), 'properties', format('not with %s', left(p::text, 20)))
from unnest(array['[]', '"x"', '1', 'null', null, jsonb_build_object('k', repeat('x', 8200)), jsonb_build_object('k', repeat('ã', 4200))]::jsonb[]) p;
select is(pg_temp.problem('a', '{}', t), 'occurred_at', format('not at %s', t))
from unnest(array[now() + interval '1 day 1 second', now() - interval '400 days 1 second', 'infinity', '-infinity', null]) t;
select is(pg_temp.problem('a', '{}', t), 'none', 'but up to a day ahead of us, and 400 days ago')
from unnest(array[now() + interval '1 day', now() - interval '400 days']) t;
select throws_ok(
  format('select public.track_event(%L, organization_id => %L)', 'a', tests.the('petshop', 'organization_id')), 'BL002', null,
  'only in his own organization');
select throws_ok(
  format('select public.track_event(%L, contact_id => %L)', 'a', tests.the('petshop', 'contact_id')), 'BL402', null,
  'only of its contacts');
select is_empty('select * from public.analytics_events', 'he reads none of it');
select throws_ok($$ insert into public.analytics_events (event_name) values ('a') $$, '42501', null, 'and has no other way to write');
select tests.authenticate_as_service();
select throws_ok(
  format($$ insert into public.analytics_events (organization_id, event_name, properties) values (%L, 'a', %L) $$, pg_temp.clinic(), p),
  '23514', null, 'the platform neither writes anything else')
from unnest(array['[]', jsonb_build_object('k', repeat('ã', 4200))]::jsonb[]) p;
select throws_ok(
  format($$ insert into public.analytics_events (organization_id, event_name) values (%L, 'A') $$, pg_temp.clinic()),
  '23514', null, 'nor under another name');

-- AI interactions -------------------------------------------------------------------------------------------------------

select throws_ok(
  format(
    $$ insert into public.ai_interactions (organization_id, action_type, prompt, model, %I) values (%L, 'reply', 'Oi', 'm', %L) $$,
    w.column_name, pg_temp.clinic(), w.value),
  '23514', null, format('an AI interaction has no %s of %s', w.column_name, w.value))
from (
  values
    ('confidence_score', '1.001'), ('confidence_score', '-0.1'), ('tokens_used', '-1'), ('latency_ms', '-1'),
    ('compliance_flags', '{}'), ('error', 'that is a success')
) w (column_name, value);

select * from finish();
rollback;
