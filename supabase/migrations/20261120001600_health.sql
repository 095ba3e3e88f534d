-- Health: what the platform measures of itself, and how much is too much.
--
-- Each rule of private.alert_rules has a function private.find_<kind>(), which answers what it finds now, with a figure each;
-- the rule's thresholds make a warning of it, or something critical. system_health() tells of the platform's at once;
-- check_alerts(), the next chapter, remembers all of them and tells whoever should know.
--
-- This is asked once a minute, however many tenants there are: nothing here reads through messages, bookings or deliveries.
-- Each figure comes from an index, a catalog or a small table. What a database has not got (replicas, pg_stat_statements) is
-- null, and no reason to fail.

create type public.alert_severity as enum ('warning', 'critical');

-- private.alert_rules -------------------------------------------------------------------------------------------------

create table private.alert_rules (
  kind text not null,
  description text not null,
  unit text not null,
  warning numeric,
  critical numeric,
  less_is_worse boolean not null default false,
  is_for_organizations boolean not null default false,
  settings jsonb not null default '{}',
  is_active boolean not null default true,
  updated_at timestamptz not null default now(),
  constraint alert_rules_pkey primary key (kind),
  constraint alert_rules_kind_format_check check (kind ~ '^[a-z][a-z0-9_]{0,50}$'),
  constraint alert_rules_critical_is_worse_check
    check (case when less_is_worse then critical <= warning else critical >= warning end),
  constraint alert_rules_settings_is_object_check check (jsonb_typeof(settings) = 'object')
);
comment on table private.alert_rules is
  'How much of what is too much; the platform''s, so a tenant has no row here. Operators change thresholds and switch rules off.';
comment on column private.alert_rules.warning is 'From this figure on; null: never.';
comment on column private.alert_rules.less_is_worse is 'Then a figure below a threshold is too little.';
comment on column private.alert_rules.is_for_organizations is
  'The organization is told, and nobody else''s system is unwell for it.';
comment on column private.alert_rules.settings is 'disk: {"size_bytes": …}, the size of the disk; without it nothing is checked.';

alter table private.alert_rules enable row level security;
alter table private.alert_rules force row level security;
revoke all on private.alert_rules from public, anon, authenticated, service_role;

create trigger alert_rules_100_touch_updated_at
  before update on private.alert_rules
  for each row execute function private.tg_touch_updated_at();

insert into private.alert_rules (kind, description, unit, warning, critical, less_is_worse, is_for_organizations)
values
  ('queue_stalled', 'The oldest job that could run has waited so long: no worker, or not enough of them.', 'seconds', 120, 300, false, false),
  ('dead_jobs', 'Jobs given up in the last hour.', 'jobs', 1, 50, false, false),
  ('schedules_stalled', 'Something should have run so long ago.', 'seconds', 300, 900, false, false),
  ('schedule_failing', 'The last runs of a schedule failed.', 'runs', 1, 5, false, false),
  ('refresh_failing', 'A materialized view was last refreshed so many of its periods ago, or the last refresh failed.', 'periods', 3, 12, false, false),
  ('slow_statements', 'A statement of the API runs for so long.', 'seconds', 1, 5, false, false),
  ('long_transactions', 'A transaction is open for so long: it holds back vacuum and readers of events.', 'seconds', 60, 600, false, false),
  ('connections', 'Connections in use, of those that the server takes.', 'percent', 80, 90, false, false),
  ('disk', 'The database, of the disk whose size settings names.', 'percent', 80, 90, false, false),
  ('replication_lag', 'A replica is behind.', 'seconds', 30, 300, false, false),
  ('default_partition', 'Rows of a log that no month took: private.maintain_partitions() has not run.', 'rows', 1, null, false, false),
  ('partitions_ahead', 'Months for which a log has partitions.', 'months', 2, 1, true, false),
  ('unprocessed_webhooks', 'Deliveries of the last hour that were not understood, and numbers that nobody registered.', 'deliveries', 20, 1000, false, false),
  ('many_numbers_silent', 'Of the numbers whose habits are known, those that are silent: what is deaf is probably the platform.', 'percent', 20, 50, false, false),
  ('many_numbers_down', 'Of the numbers that should work, those that are refused, banned or went by themselves.', 'percent', 20, 50, false, false),
  ('check_failing', 'A rule cannot be checked: its alerts stand as they were.', 'rules', 1, null, false, false),
  ('endpoint_failing', 'A webhook endpoint does not take what it is told; critical is one that was disabled for it.', 'failures', 3, null, false, true),
  ('instance_disconnected', 'A number was disconnected or banned, by nobody here.', 'numbers', null, 1, false, true),
  ('sending_stopped', 'The provider refuses a number: nothing is sent until an administrator acts.', 'numbers', null, 1, false, true),
  ('instance_silent', 'Nothing comes from a number, in hours in which it is usually heard.', 'usual hours', 6, 8, false, true);

create type private.alert_finding as (
  organization_id uuid,
  subject text,
  value numeric,
  severity public.alert_severity,
  message text,
  detail jsonb
);
comment on type private.alert_finding is
  'What a rule finds: whose (null: the platform''s), what it is about ('''' when there is one only), the figure. severity is at least this one, whatever the figure.';

create function private.severity_of(rule private.alert_rules, value numeric)
returns public.alert_severity
language plpgsql
immutable
set search_path = ''
as $$
begin
  return case
    when rule.less_is_worse and value < rule.critical or not rule.less_is_worse and value >= rule.critical
      then 'critical'::public.alert_severity
    when rule.less_is_worse and value < rule.warning or not rule.less_is_worse and value >= rule.warning
      then 'warning'::public.alert_severity
  end;
end;
$$;
comment on function private.severity_of(private.alert_rules, numeric) is 'What a figure is by a rule; null: all is well.';

create function private.seconds_of(duration interval)
returns numeric
language plpgsql
immutable
strict
set search_path = ''
as $$
begin
  return round(greatest(extract(epoch from duration), 0), 1);
end;
$$;
comment on function private.seconds_of(interval) is 'A duration as a figure: seconds, with one decimal, never less than none.';

-- The queue -----------------------------------------------------------------------------------------------------------

create function private.oldest_due_job(at timestamptz)
returns timestamptz
language plpgsql
stable
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
declare
  oldest timestamptz;
begin
  -- The index is ordered by tenant, priority, time: from one tenant's priority to the next, the first of each is its oldest.
  -- A million jobs of one tenant are one step.
  with recursive line (place, priority, run_at) as (
    (
      select uuid_hash_extended(q.organization_id, 0), q.priority, q.run_at
      from public.message_queue q
      where q.is_due and q.status in ('pending', 'failed')
      order by uuid_hash_extended(q.organization_id, 0), q.priority, q.run_at
      limit 1
    )
    union all
    select next.place, next.priority, next.run_at
    from line l
    cross join lateral (
      select uuid_hash_extended(q.organization_id, 0) as place, q.priority, q.run_at
      from public.message_queue q
      where q.is_due
        and q.status in ('pending', 'failed')
        and (uuid_hash_extended(q.organization_id, 0), q.priority) > (l.place, l.priority)
      order by uuid_hash_extended(q.organization_id, 0), q.priority, q.run_at
      limit 1
    ) next
  )
  select least(
    (select min(l.run_at) from line l),
    (
      select min(q.run_at)
      from public.message_queue q
      where not q.is_due and q.status in ('pending', 'failed') and q.run_at <= at
    ),
    -- A worker that died holds its jobs no longer.
    (select min(q.lease_expires_at) from public.message_queue q where q.status = 'processing' and q.lease_expires_at <= at)
  ) into oldest;
  return case when oldest <= at then oldest end;
end;
$$;
comment on function private.oldest_due_job(timestamptz) is 'Since when the job that has waited longest could have run; null when none can.';

create function private.dead_jobs(since timestamptz)
returns bigint
language plpgsql
stable
set search_path = ''
as $$
begin
  return (select count(*) from public.message_queue q where q.status = 'dead' and q.completed_at >= since);
end;
$$;
comment on function private.dead_jobs(timestamptz) is 'Jobs given up since then.';

create function private.queue_figures(at timestamptz)
returns jsonb
language plpgsql
stable
set search_path = ''
set enable_seqscan = off
as $$
begin
  return jsonb_build_object(
    -- However large a backlog is, to count this much of it tells enough.
    'due', (
      select count(*)
      from (select from public.message_queue q where q.is_due and q.status in ('pending', 'failed') limit 100000) due
    ) + (
      select count(*)
      from (
        select from public.message_queue q
        where not q.is_due and q.status in ('pending', 'failed') and q.run_at <= at
        limit 100000
      ) became_due
    ),
    'oldest_due_seconds', private.seconds_of(at - private.oldest_due_job(at)),
    'processing', (select count(*) from public.message_queue q where q.status = 'processing' and q.lease_expires_at > '-infinity'),
    'dead_last_hour', private.dead_jobs(at - interval '1 hour'));
end;
$$;
comment on function private.queue_figures(timestamptz) is 'The queue, for system_health(): {due (at most 100000 are counted of each sort), oldest_due_seconds (null: nothing waits), processing, dead_last_hour}.';

create function private.find_queue_stalled(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
declare
  age constant numeric := private.seconds_of(at - private.oldest_due_job(at));
begin
  if age is not null then
    return next row(null, '', age, null, format('The oldest due job has waited for %s s', round(age)), '{}')::private.alert_finding;
  end if;
end;
$$;
comment on function private.find_queue_stalled(private.alert_rules, timestamptz) is 'Rule queue_stalled.';

create function private.find_dead_jobs(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
declare
  dead constant bigint := private.dead_jobs(at - interval '1 hour');
begin
  if dead > 0 then
    return next row(null, '', dead, null, format('Jobs given up in the last hour: %s', dead), (
      select jsonb_build_object('job_types', jsonb_object_agg(d.job_type, d.n))
      from (
        select q.job_type, count(*) as n
        from public.message_queue q
        where q.status = 'dead' and q.completed_at >= at - interval '1 hour'
        group by q.job_type
        order by 2 desc
        limit 20
      ) d
    ))::private.alert_finding;
  end if;
end;
$$;
comment on function private.find_dead_jobs(private.alert_rules, timestamptz) is 'Rule dead_jobs.';

-- The clock -----------------------------------------------------------------------------------------------------------

create function private.overdue_since(schedule private.schedules, at timestamptz)
returns timestamptz
language plpgsql
stable
set search_path = ''
as $$
declare
  served constant timestamptz := coalesce(
    case when private.schedule_interval(schedule.expression) is not null then schedule.last_started_at end,
    schedule.last_scheduled_for, schedule.created_at);
  last_due constant timestamptz := private.last_due(schedule, at);
begin
  return case when last_due > served then least(last_due, served + private.period_of(schedule, at)) end;
end;
$$;
comment on function private.overdue_since(private.schedules, timestamptz) is
  'Since when a schedule should have run and has not; null when it has.';

create function private.schedule_states(at timestamptz)
returns table (name text, overdue_since timestamptz, failed_runs bigint, error text)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select s.name, private.overdue_since(s, at), coalesce(f.failed, 0), f.error
  from private.schedules s
  cross join lateral (
    -- Those since the last one that went well, of the last ten.
    select count(*) as failed, (array_agg(l.error order by l.id desc))[1] as error
    from (
      select r.id, r.error, bool_and(r.error is not null) over (order by r.id desc) as all_failed
      from (
        select
          r.id,
          case when r.finished_at is null then 'it began at ' || r.started_at || ' and was never heard of again' else r.error end as error
        from private.schedule_runs r
        where r.name = s.name and (r.finished_at is not null or r.started_at < at - interval '15 minutes')
        order by r.id desc
        limit 10
      ) r
    ) l
    where l.all_failed
  ) f
  where s.is_active;
end;
$$;
comment on function private.schedule_states(timestamptz) is
  'The active schedules: since when one is overdue, how many of its last ten runs failed without a good one since, and the last error.';

create function private.find_schedules_stalled(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    null::uuid, '', private.seconds_of(at - min(s.overdue_since)), null::public.alert_severity,
    format('Schedules that are overdue: %s, the first of them (%s) since %s', count(*),
      (array_agg(s.name order by s.overdue_since))[1], min(s.overdue_since)),
    jsonb_build_object('schedules', jsonb_agg(s.name order by s.overdue_since))
  from private.schedule_states(at) s
  where private.severity_of(rule, private.seconds_of(at - s.overdue_since)) is not null
  having count(*) > 0;
end;
$$;
comment on function private.find_schedules_stalled(private.alert_rules, timestamptz) is 'Rule schedules_stalled.';

create function private.find_schedule_failing(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    null::uuid, s.name, s.failed_runs::numeric, null::public.alert_severity, left(format('%s failed: %s', s.name, s.error), 500), '{}'::jsonb
  from private.schedule_states(at) s
  where s.failed_runs > 0;
end;
$$;
comment on function private.find_schedule_failing(private.alert_rules, timestamptz) is 'Rule schedule_failing, for each schedule.';

-- Refreshes -----------------------------------------------------------------------------------------------------------

create function private.refresh_states(at timestamptz)
returns table (view_name text, finished_at timestamptz, age_seconds numeric, error text, periods numeric)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    refreshed.view_name,
    good.finished_at,
    private.seconds_of(at - good.finished_at),
    last.error,
    round(
      extract(epoch from at - coalesce(good.finished_at, s.created_at))
      / nullif(extract(epoch from private.period_of(s, at)), 0), 2)
  from private.schedules s
  cross join lateral (select substring(s.command from 'refresh_analytics_view\(''([a-z0-9_]+)''\)') as view_name) refreshed
  left join lateral (
    select r.error
    from public.analytics_refreshes r
    where r.view_name = refreshed.view_name and r.finished_at is not null
    order by r.id desc
    limit 1
  ) last on true
  left join lateral (
    select r.finished_at
    from public.analytics_refreshes r
    where r.view_name = refreshed.view_name and r.finished_at is not null and r.error is null
    order by r.id desc
    limit 1
  ) good on true
  where s.is_active and refreshed.view_name is not null;
end;
$$;
comment on function private.refresh_states(timestamptz) is
  'The materialized views that the clock refreshes: when that last went well, how many of its periods ago, and the error of the last attempt.';

create function private.find_refresh_failing(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    null::uuid, r.view_name, r.periods,
    case when r.error is not null then 'warning'::public.alert_severity end,
    left(coalesce(
      format('%s was not refreshed: %s', r.view_name, r.error),
      format('%s was last refreshed %s', r.view_name, coalesce(r.finished_at::text, 'never'))), 500),
    jsonb_build_object('last_refreshed_at', r.finished_at)
  from private.refresh_states(at) r
  where r.error is not null or private.severity_of(rule, r.periods) is not null;
end;
$$;
comment on function private.find_refresh_failing(private.alert_rules, timestamptz) is 'Rule refresh_failing, for each view.';

-- The server ----------------------------------------------------------------------------------------------------------

create function private.is_maintenance(statement text)
returns boolean
language plpgsql
immutable
set search_path = ''
as $$
begin
  -- As the Data API, a driver of the clock and an operator write it.
  return statement ~ '\m"?(run_schedule|run_missed_schedule|refresh_analytics_views?|check_alerts|system_health)"?\(';
end;
$$;
comment on function private.is_maintenance(text) is 'Whether a statement is the clock''s work: it may take its time, and has a limit of its own.';

create function private.slowest_statement(at timestamptz)
returns table (pid int, seconds numeric, statement text)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select a.pid, private.seconds_of(at - a.query_start), left(regexp_replace(a.query, '\s+', ' ', 'g'), 300)
  from pg_catalog.pg_stat_activity a
  -- All of the Data API's connections; what others' are doing, only a member of pg_read_all_stats sees.
  where a.usesysid = to_regrole('authenticator')
    and a.datname = current_database()
    and a.state = 'active'
    and a.pid <> pg_backend_pid()
    and not private.is_maintenance(a.query)
  order by a.query_start
  limit 1;
end;
$$;
comment on function private.slowest_statement(timestamptz) is
  'The statement of the API that has run longest by now, without its parameters.';

create function private.find_slow_statements(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    null::uuid, '', s.seconds, null::public.alert_severity, format('A statement of the API runs for %s s', s.seconds),
    jsonb_build_object('pid', s.pid, 'statement', s.statement)
  -- The activity is as it is now, whenever the transaction began.
  from private.slowest_statement(greatest(at, clock_timestamp())) s;
end;
$$;
comment on function private.find_slow_statements(private.alert_rules, timestamptz) is
  'Rule slow_statements: looks at what runs at this moment, so that what slows everything down is found and a single slow statement may not be.';

create function private.statement_figures(at timestamptz)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  figures jsonb := '{"available": false, "mean_ms": null, "p95_ms": null, "p99_ms": null}'::jsonb;
  extension_schema text;
begin
  select n.nspname into extension_schema
  from pg_catalog.pg_extension x
  join pg_catalog.pg_namespace n on n.oid = x.extnamespace
  where x.extname = 'pg_stat_statements';
  if found then
    begin
      -- Of all calls together: the mean of the means, and the spread within and between the statements.
      execute format(
        'select jsonb_build_object(
          ''available'', true, ''mean_ms'', round(t.mean::numeric, 2),
          ''p95_ms'', round((t.mean + 1.645 * t.deviation)::numeric, 2), ''p99_ms'', round((t.mean + 2.326 * t.deviation)::numeric, 2))
        from (
          select m.mean, sqrt(greatest(m.square - m.mean * m.mean, 0)) as deviation
          from (
            select
              sum(s.total_exec_time) / nullif(sum(s.calls), 0) as mean,
              sum(s.calls * (s.stddev_exec_time ^ 2 + s.mean_exec_time ^ 2)) / nullif(sum(s.calls), 0) as square
            from %I.pg_stat_statements(false) s
            where s.dbid = (select d.oid from pg_catalog.pg_database d where d.datname = current_database())
              and s.userid in (to_regrole(''anon''), to_regrole(''authenticated''), to_regrole(''service_role''))
          ) m
        ) t', extension_schema) into figures;
    exception
      -- Created, but not preloaded; or another version of it.
      when object_not_in_prerequisite_state or undefined_column or undefined_function or insufficient_privilege then null;
    end;
  end if;
  return figures || jsonb_build_object('longest_running_seconds', (select s.seconds from private.slowest_statement(at) s));
end;
$$;
comment on function private.statement_figures(timestamptz) is
  'The API''s statements, for system_health(): mean_ms, and p95_ms and p99_ms as a normal distribution would have them, since the statistics of pg_stat_statements were last reset (available: whether it is there); longest_running_seconds of what runs now.';

create function private.oldest_transaction(at timestamptz, with_maintenance boolean)
returns table (pid int, seconds numeric, state text, user_name text, application_name text)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select a.pid, private.seconds_of(at - a.xact_start), a.state, a.usename::text, a.application_name
  from pg_catalog.pg_stat_activity a
  where a.backend_type = 'client backend'
    and a.datname = current_database()
    and a.xact_start is not null
    and a.pid <> pg_backend_pid()
    -- A backup is one transaction, as long as it takes.
    and (with_maintenance or not private.is_maintenance(a.query) and a.application_name is distinct from 'pg_dump')
  order by a.xact_start
  limit 1;
end;
$$;
comment on function private.oldest_transaction(timestamptz, boolean) is 'The transaction that is open longest, but for this one; with or without the clock''s work and backups.';

create function private.find_long_transactions(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    null::uuid, '', t.seconds, null::public.alert_severity, format('A transaction is open for %s s', round(t.seconds)),
    jsonb_build_object('pid', t.pid, 'state', t.state, 'user', t.user_name, 'application', t.application_name)
  from private.oldest_transaction(greatest(at, clock_timestamp()), false) t;
end;
$$;
comment on function private.find_long_transactions(private.alert_rules, timestamptz) is 'Rule long_transactions.';

create function private.connection_figures()
returns table (used bigint, most bigint)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select coalesce(sum(d.numbackends), 0)::bigint, current_setting('max_connections')::bigint from pg_catalog.pg_stat_database d;
end;
$$;
comment on function private.connection_figures() is 'Connections to all databases of the server, and how many it takes.';

create function private.find_connections(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    null::uuid, '', round(100.0 * c.used / c.most, 1), null::public.alert_severity,
    format('%s of %s connections are in use', c.used, c.most), '{}'::jsonb
  from private.connection_figures() c;
end;
$$;
comment on function private.find_connections(private.alert_rules, timestamptz) is 'Rule connections.';

create function private.find_disk(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
declare
  size_bytes constant numeric := nullif((rule.settings ->> 'size_bytes')::numeric, 0);
  used numeric;
begin
  if size_bytes is not null then
    used := pg_database_size(current_database());
    return next row(
      null, '', round(100 * used / size_bytes, 1), null,
      format('The database has %s of %s', pg_size_pretty(used), pg_size_pretty(size_bytes)),
      jsonb_build_object('database_bytes', used, 'size_bytes', size_bytes)
    )::private.alert_finding;
  end if;
end;
$$;
comment on function private.find_disk(private.alert_rules, timestamptz) is 'Rule disk: the database alone; logs and the write-ahead log come on top.';

create function private.replication_lag()
returns numeric
language plpgsql
stable
set search_path = ''
as $$
begin
  return (
    select max(private.seconds_of(coalesce(r.replay_lag, interval '0')))
    from pg_catalog.pg_stat_replication r
    where r.state is not null
      -- A base backup has nothing to replay, and who reads changes (Realtime) does it at his own pace.
      and r.state <> 'backup'
      and not exists (
        select from pg_catalog.pg_replication_slots s where s.active_pid = r.pid and s.slot_type = 'logical'
      )
  );
end;
$$;
comment on function private.replication_lag() is 'How many seconds the slowest replica is behind; null when there is none.';

create function private.find_replication_lag(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
declare
  lag constant numeric := private.replication_lag();
begin
  if lag is not null then
    return next row(null, '', lag, null, format('A replica is %s s behind', lag), '{}')::private.alert_finding;
  end if;
end;
$$;
comment on function private.find_replication_lag(private.alert_rules, timestamptz) is 'Rule replication_lag.';

-- Partitions ----------------------------------------------------------------------------------------------------------

create function private.log_states(at timestamptz)
returns table (log_name text, months_ahead int, default_rows bigint)
language plpgsql
stable
set search_path = ''
as $$
declare
  this_month constant date := date_trunc('month', at at time zone 'UTC')::date;
  log record;
begin
  for log in
    select
      c.relname::text as name,
      max(to_date(substring(child.relname from '_([0-9]{4}_[0-9]{2})$'), 'YYYY_MM')) as last_month,
      max(child.oid::regclass::text) filter (where pg_get_expr(child.relpartbound, child.oid) = 'DEFAULT') as default_partition
    from pg_catalog.pg_class c
    join pg_catalog.pg_partitioned_table p on p.partrelid = c.oid and p.partstrat = 'r'
    left join pg_catalog.pg_inherits i on i.inhparent = c.oid
    left join pg_catalog.pg_class child on child.oid = i.inhrelid
    where c.relnamespace = 'public'::regnamespace
    group by c.oid, c.relname
    order by c.relname
  loop
    log_name := log.name;
    months_ahead := coalesce(
      12 * (extract(year from log.last_month) - extract(year from this_month)) + extract(month from log.last_month) - extract(month from this_month),
      -1);
    default_rows := 0;
    if log.default_partition is not null then
      execute format('select count(*) from (select from %s limit 1000) r', log.default_partition) into default_rows;
    end if;
    return next;
  end loop;
end;
$$;
comment on function private.log_states(timestamptz) is
  'The partitioned logs: for how many months after this one there are partitions, and how many rows (at most 1000 are counted) no month took.';

create function private.find_default_partition(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    null::uuid, l.log_name, l.default_rows::numeric, null::public.alert_severity,
    format('%s has %s rows in its default partition', l.log_name, l.default_rows), '{}'::jsonb
  from private.log_states(at) l;
end;
$$;
comment on function private.find_default_partition(private.alert_rules, timestamptz) is 'Rule default_partition, for each log.';

create function private.find_partitions_ahead(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    null::uuid, l.log_name, l.months_ahead::numeric, null::public.alert_severity,
    format('%s has partitions for %s more months', l.log_name, l.months_ahead), '{}'::jsonb
  from private.log_states(at) l;
end;
$$;
comment on function private.find_partitions_ahead(private.alert_rules, timestamptz) is 'Rule partitions_ahead, for each log.';

-- Deliveries that came to nothing -------------------------------------------------------------------------------------

create function private.find_unprocessed_webhooks(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  with failed as (
    select left(w.processing_error, 60) as error, w.external_id
    from public.webhook_events w
    where w.processing_error is not null and w.created_at > at - interval '1 hour'
    limit 10000
  ),
  counted as (
    select
      count(*) as deliveries,
      -- A number that left us and goes on talking to us is one, however busy it is.
      count(*) filter (where f.error <> 'number_not_registered')
        + count(distinct coalesce(f.external_id, '')) filter (where f.error = 'number_not_registered') as counting
    from failed f
  )
  select
    null::uuid, '', c.counting::numeric, null::public.alert_severity,
    format('Deliveries of the last hour that came to nothing: %s', c.deliveries),
    jsonb_build_object(
      'errors', (
        select jsonb_object_agg(e.error, e.n)
        from (select f.error, count(*) as n from failed f group by 1 order by 2 desc limit 20) e
      ),
      'numbers', (
        select coalesce(jsonb_object_agg(e.external_id, e.n), '{}')
        from (
          select f.external_id, count(*) as n
          from failed f
          where f.error = 'number_not_registered' and f.external_id is not null
          group by 1
          order by 2 desc
          limit 20
        ) e
      ))
  from counted c
  where c.deliveries > 0;
end;
$$;
comment on function private.find_unprocessed_webhooks(private.alert_rules, timestamptz) is
  'Rule unprocessed_webhooks: deliveries that were not understood, and numbers (not deliveries) that nobody registered. A status that waits for its message is none: some are of messages that another app sent.';

-- Endpoints and numbers: their organizations' -------------------------------------------------------------------------

create function private.find_endpoint_failing(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    e.organization_id, e.id::text, e.consecutive_failures::numeric,
    case when e.disabled_at is not null then 'critical'::public.alert_severity end,
    case
      when e.disabled_at is not null then format('The endpoint at %s was disabled (%s)', host.name, e.disabled_reason)
      else format('The endpoint at %s failed %s times in a row', host.name, e.consecutive_failures)
    end,
    -- A path may be a secret.
    jsonb_build_object(
      'host', host.name, 'consecutive_failures', e.consecutive_failures, 'failing_since', e.failing_since,
      'disabled_at', e.disabled_at, 'disabled_reason', e.disabled_reason)
  from public.webhook_endpoints e
  join public.organizations o on o.id = e.organization_id and o.is_active
  cross join lateral (select substring(e.url from '^https?://([^/?]+)') as name) host
  where e.disabled_at is not null
    or e.is_active and e.consecutive_failures > 0;
end;
$$;
comment on function private.find_endpoint_failing(private.alert_rules, timestamptz) is
  'Rule endpoint_failing, for each endpoint. One that somebody switched off is nobody''s failure.';

create function private.instance_detail(instance public.whatsapp_instances)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return jsonb_build_object(
    'name', instance.name, 'phone_number', instance.phone_number, 'provider', instance.provider, 'status', instance.status);
end;
$$;
comment on function private.instance_detail(public.whatsapp_instances) is 'What an alert says of a number.';

create function private.find_instance_disconnected(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    i.organization_id, i.id::text, 1::numeric, null::public.alert_severity, format('The number %s is %s', i.name, i.status),
    private.instance_detail(i)
  from public.whatsapp_instances i
  join public.organizations o on o.id = i.organization_id and o.is_active
  where case i.status
    -- A ban that has a reason is told by the rule sending_stopped.
    when 'banned' then i.sending_stopped_at is null
    -- Whoever disconnects a number on purpose takes its secrets away.
    when 'disconnected' then exists (
      select from private.instance_secrets s where s.organization_id = i.organization_id and s.instance_id = i.id
    )
    else false
  end;
end;
$$;
comment on function private.find_instance_disconnected(private.alert_rules, timestamptz) is
  'Rule instance_disconnected, for each number that went without anybody here wanting it.';

create function private.find_sending_stopped(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    i.organization_id, i.id::text, 1::numeric, null::public.alert_severity,
    format('Nothing can be sent through %s: %s', i.name, coalesce(i.sending_stopped_code, 'refused')),
    private.instance_detail(i) || jsonb_build_object(
      'sending_stopped_at', i.sending_stopped_at, 'code', i.sending_stopped_code, 'reason', i.sending_stopped_reason)
  from public.whatsapp_instances i
  join public.organizations o on o.id = i.organization_id and o.is_active
  where i.sending_stopped_at is not null and i.status <> 'disconnected';
end;
$$;
comment on function private.find_sending_stopped(private.alert_rules, timestamptz) is 'Rule sending_stopped, for each number that the provider refuses.';

-- A number that has fallen silent -------------------------------------------------------------------------------------
-- A shop is silent at night and on Sundays, each in its own way. So what is usual is learnt: the hours in which a number was
-- heard (a message, or a status of one of ours). A silence weighs as much as the hours, in it, in which the number was heard
-- at the same hour of the last four weeks.

create table private.heard_hours (
  organization_id uuid not null,
  instance_id uuid not null,
  hour timestamptz not null,
  constraint heard_hours_pkey primary key (organization_id, instance_id, hour),
  constraint heard_hours_instance_id_fkey foreign key (organization_id, instance_id)
    references public.whatsapp_instances (organization_id, id) on delete cascade
);
comment on table private.heard_hours is
  'In which hours of the last five weeks before it was last heard a number was: what its silence is measured by.';

alter table private.heard_hours enable row level security;
alter table private.heard_hours force row level security;
revoke all on private.heard_hours from public, anon, authenticated, service_role;

create function private.note_heard_hours(at timestamptz)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  noted bigint;
begin
  insert into private.heard_hours (organization_id, instance_id, hour)
  select i.organization_id, i.id, date_trunc('hour', i.last_seen_at, 'UTC')
  from public.whatsapp_instances i
  where i.last_seen_at > at - interval '1 day'
    and not exists (
      select
      from private.heard_hours h
      where h.organization_id = i.organization_id
        and h.instance_id = i.id
        and h.hour = date_trunc('hour', i.last_seen_at, 'UTC')
    )
  on conflict do nothing;
  get diagnostics noted = row_count;
  return noted;
end;
$$;
comment on function private.note_heard_hours(timestamptz) is 'Notes the hour in which each number was last heard; check_alerts() asks often enough to miss none.';

create function private.silences(at timestamptz)
returns table (organization_id uuid, instance_id uuid, usual_hours numeric)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select i.organization_id, i.id, coalesce(silence.usual_hours, 0)
  from public.whatsapp_instances i
  join public.organizations o on o.id = i.organization_id and o.is_active
  cross join lateral (
    select least(4, coalesce(floor(extract(epoch from i.last_seen_at - min(h.hour)) / 604800), 0)) as weeks
    from private.heard_hours h
    where h.organization_id = i.organization_id and h.instance_id = i.id
  ) known
  cross join lateral (
    -- One week more than we know of, in which it was silent: what happened once may not be usual.
    select round(sum(at_that_hour.heard) / (known.weeks + 1), 1) as usual_hours
    from generate_series(1, 4) week
    cross join lateral (
      select count(*) as heard
      from private.heard_hours h
      where h.organization_id = i.organization_id
        and h.instance_id = i.id
        and h.hour > date_trunc('hour', i.last_seen_at, 'UTC') - week * interval '168 hours'
        and h.hour <= least(at, i.last_seen_at + interval '168 hours') - interval '1 hour' - week * interval '168 hours'
    ) at_that_hour
    where week <= known.weeks
  ) silence
  where i.status = 'connected' and known.weeks >= 1;
end;
$$;
comment on function private.silences(timestamptz) is
  'How long each number that is connected, and known for a week, is silent, in hours in which it is usually heard.';

create function private.find_instance_silent(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    i.organization_id, i.id::text, s.usual_hours, null::public.alert_severity,
    format('Nothing came from the number %s since %s', i.name, i.last_seen_at),
    private.instance_detail(i) || jsonb_build_object('last_seen_at', i.last_seen_at)
  from private.silences(at) s
  join public.whatsapp_instances i on i.organization_id = s.organization_id and i.id = s.instance_id
  where s.usual_hours > 0;
end;
$$;
comment on function private.find_instance_silent(private.alert_rules, timestamptz) is
  'Rule instance_silent, for each connected number that we know for a week. A public holiday looks like a silence.';

-- Many at once --------------------------------------------------------------------------------------------------------
-- One number that is silent or refused is its organization's affair. Many at once have a cause that they share: the function
-- that hears them, a subscription, an app's secret, a token.

create function private.many_numbers(numbers bigint, unwell bigint, organizations bigint, how text)
returns setof private.alert_finding
language plpgsql
immutable
set search_path = ''
as $$
begin
  -- Of three or more numbers, one or two say nothing of the others.
  if unwell >= least(3, numbers) and numbers > 0 then
    return next row(
      null, '', round(100.0 * unwell / numbers, 1), null, format('%s of %s numbers are %s', unwell, numbers, how),
      jsonb_build_object('numbers', numbers, 'unwell', unwell, 'organizations', organizations)
    )::private.alert_finding;
  end if;
end;
$$;
comment on function private.many_numbers(bigint, bigint, bigint, text) is
  'What the rules many_numbers_… find: how many of the numbers, of how many organizations.';

create function private.find_many_numbers_silent(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select f.*
  from (
    select
      count(*) as numbers,
      count(*) filter (where s.is_silent) as silent,
      count(distinct s.organization_id) filter (where s.is_silent) as organizations
    from (
      select s.organization_id, private.severity_of(r, s.usual_hours) is not null as is_silent
      from private.silences(at) s
      join private.alert_rules r on r.kind = 'instance_silent'
    ) s
  ) c
  cross join lateral private.many_numbers(c.numbers, c.silent, c.organizations, 'silent') f;
end;
$$;
comment on function private.find_many_numbers_silent(private.alert_rules, timestamptz) is
  'Rule many_numbers_silent: of the numbers that instance_silent judges. On a public holiday many shops are closed.';

create function private.find_many_numbers_down(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select f.*
  from (
    select
      count(*) as numbers,
      count(*) filter (where n.is_down) as down,
      count(distinct n.organization_id) filter (where n.is_down) as organizations
    from (
      select i.organization_id, d.subject is not null as is_down
      from public.whatsapp_instances i
      join public.organizations o on o.id = i.organization_id and o.is_active
      left join (
        select f.organization_id, f.subject from private.find_instance_disconnected(rule, at) f
        union
        select f.organization_id, f.subject from private.find_sending_stopped(rule, at) f
      ) d on d.organization_id = i.organization_id and d.subject = i.id::text
      where d.subject is not null or i.status = 'connected'
    ) n
  ) c
  cross join lateral private.many_numbers(c.numbers, c.down, c.organizations, 'down') f;
end;
$$;
comment on function private.find_many_numbers_down(private.alert_rules, timestamptz) is
  'Rule many_numbers_down: of those that are connected, refused, banned or went by themselves.';

-- All of it at once ---------------------------------------------------------------------------------------------------

create function private.findings_of(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
volatile
set search_path = ''
as $$
begin
  return query execute format(
    'select f.organization_id, coalesce(f.subject, ''''), f.value, s.severity, f.message, f.detail
    from private.%I($1, $2) f
    cross join lateral (select greatest(f.severity, private.severity_of($1, f.value)) as severity) s
    where s.severity is not null',
    'find_' || rule.kind)
  using rule, at;
end;
$$;
comment on function private.findings_of(private.alert_rules, timestamptz) is 'What a rule finds that is too much.';

create function private.table_sizes()
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return (
    select jsonb_agg(
      jsonb_build_object('table', t.name, 'bytes', t.bytes, 'dead_rows', t.dead_rows, 'live_rows', t.live_rows) order by t.bytes desc)
    from (
      -- A log is one table, whatever its months.
      select
        coalesce(parent.oid, c.oid)::regclass::text as name,
        sum(pg_total_relation_size(c.oid)) as bytes,
        sum(coalesce(s.n_dead_tup, 0)) as dead_rows,
        sum(coalesce(s.n_live_tup, 0)) as live_rows
      from pg_catalog.pg_class c
      left join pg_catalog.pg_inherits i on i.inhrelid = c.oid
      left join pg_catalog.pg_class parent on parent.oid = i.inhparent
      left join pg_catalog.pg_stat_all_tables s on s.relid = c.oid
      where c.relkind in ('r', 'm')
        and c.relnamespace in (
          'public'::regnamespace, 'private'::regnamespace, 'partitions'::regnamespace, to_regnamespace('analytics'))
      group by 1
      order by 2 desc
      limit 10
    ) t
  );
end;
$$;
comment on function private.table_sizes() is 'The ten largest tables, indexes included, with the statistics'' estimate of their rows.';

create function private.call_rates(since timestamptz)
returns table (error_rate numeric, webhook_failure_rate numeric)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    round(count(*) filter (where not c.success)::numeric / nullif(count(*), 0), 4),
    round(
      count(*) filter (where c.service = 'webhook' and not c.success)::numeric / nullif(count(*) filter (where c.service = 'webhook'), 0),
      4)
  from public.organizations o
  cross join lateral (
    select l.success, l.service
    from public.api_call_logs l
    where l.organization_id = o.id and l.created_at >= since
    order by l.created_at desc
    limit 1000
  ) c;
end;
$$;
comment on function private.call_rates(timestamptz) is
  'The share of calls to others since then that failed, and of webhooks among them; of each organization the last thousand.';

create function private.messages_since(since timestamptz)
returns bigint
language plpgsql
stable
set search_path = ''
as $$
declare
  -- An id says when it was made.
  first_id constant uuid := private.uuid_v7(since);
begin
  return (
    select coalesce(sum(m.n), 0)
    from public.organizations o
    cross join lateral (
      select count(*) as n from public.messages m where m.organization_id = o.id and m.id >= first_id
    ) m
  );
end;
$$;
comment on function private.messages_since(timestamptz) is 'Messages in either direction since then.';

create function private.system_health()
returns jsonb
language plpgsql
volatile
security definer -- the figures are in "private" and the catalogs
set search_path = ''
-- Whoever asks waits five seconds: a table that somebody has locked is no reason to say nothing of the others.
set lock_timeout = '500ms'
as $$
declare
  at constant timestamptz := clock_timestamp();
  rule private.alert_rules;
  finding private.alert_finding;
  reasons jsonb := '[]'::jsonb;
  is_critical boolean := false;
  silent bigint;
  table_sizes jsonb;
  partitions jsonb;
begin
  for rule in
    select r.* from private.alert_rules r where r.is_active and not r.is_for_organizations and r.kind <> 'check_failing' order by r.kind
  loop
    begin
      for finding in select f.* from private.findings_of(rule, at) f loop
        is_critical := is_critical or finding.severity = 'critical';
        reasons := reasons || jsonb_build_array(jsonb_build_object(
          'kind', rule.kind, 'severity', finding.severity, 'message', finding.message));
      end loop;
    exception when others then
      reasons := reasons || jsonb_build_array(jsonb_build_object(
        'kind', 'check_failing', 'severity', 'warning', 'message', left(format('%s cannot be checked: %s', rule.kind, sqlerrm), 500)));
    end;
  end loop;

  begin
    select count(*) into silent
    from private.alert_rules r
    cross join lateral private.findings_of(r, at) f
    where r.kind = 'instance_silent' and r.is_active;
  exception when others then
    reasons := reasons || jsonb_build_array(jsonb_build_object(
      'kind', 'check_failing', 'severity', 'warning', 'message', left(format('instance_silent cannot be checked: %s', sqlerrm), 500)));
  end;

  begin
    table_sizes := private.table_sizes();
  exception when lock_not_available then null;
  end;
  begin
    select jsonb_build_object('ahead_months', min(l.months_ahead), 'default_rows', coalesce(sum(l.default_rows), 0)) into partitions
    from private.log_states(at) l;
  exception when lock_not_available then null;
  end;

  return jsonb_build_object(
    'status', case when is_critical then 'unhealthy' when reasons <> '[]' then 'degraded' else 'healthy' end,
    'reasons', reasons,
    'checked_at', at,
    'database', 'connected',
    'providers', (
      select coalesce(jsonb_object_agg(p.provider, p.numbers), '{}')
      from (
        select c.provider, jsonb_object_agg(c.status, c.n) as numbers
        from (select i.provider, i.status, count(*) as n from public.whatsapp_instances i group by i.provider, i.status) c
        group by c.provider
      ) p
    ),
    'active_conversations', (select count(*) from public.conversations v where v.is_open),
    'messages_last_hour', private.messages_since(at - interval '1 hour'),
    'queue', private.queue_figures(at),
    'instances', (
      select jsonb_build_object(
        'connected', count(*) filter (where i.status = 'connected'),
        'disconnected', count(*) filter (where i.status = 'disconnected'),
        'silent', silent,
        'stopped', count(*) filter (where i.sending_stopped_at is not null and i.status <> 'disconnected'))
      from public.whatsapp_instances i
    ),
    'statements', private.statement_figures(at),
    'deadlocks', (select d.deadlocks from pg_catalog.pg_stat_database d where d.datname = current_database()),
    'connections', (select jsonb_build_object('used', c.used, 'max', c.most) from private.connection_figures() c),
    'cache_hit_rate', (
      select round(d.blks_hit::numeric / nullif(d.blks_hit + d.blks_read, 0), 4)
      from pg_catalog.pg_stat_database d
      where d.datname = current_database()
    ),
    'table_sizes', table_sizes,
    'database_bytes', pg_database_size(current_database()),
    'oldest_transaction_seconds', coalesce((select t.seconds from private.oldest_transaction(at, true) t), 0),
    'replication_lag_seconds', private.replication_lag(),
    'partitions', partitions,
    'last_refreshes', (
      select coalesce(
        jsonb_object_agg(r.view_name, jsonb_build_object('finished_at', r.finished_at, 'age_seconds', r.age_seconds, 'error', r.error)), '{}')
      from private.refresh_states(at) r
    ),
    'schedules', (
      select jsonb_build_object(
        'overdue', coalesce(jsonb_agg(s.name order by s.name) filter (where s.overdue_since < at - interval '2 minutes'), '[]'),
        'failing', coalesce(jsonb_agg(s.name order by s.name) filter (where s.failed_runs > 0), '[]'))
      from private.schedule_states(at) s
    )
  ) || (
    select jsonb_build_object('error_rate', r.error_rate, 'webhook_failure_rate', r.webhook_failure_rate)
    from private.call_rates(at - interval '1 hour') r
  );
end;
$$;
comment on function private.system_health() is 'See public.system_health().';
grant execute on function private.system_health() to service_role;

create function public.system_health()
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.system_health();
end;
$$;
comment on function public.system_health() is
  'For the function health, and for operators: how the platform is, {status: healthy | degraded (warnings) | unhealthy (something critical), reasons: [{kind, severity, message}], …figures}; what is wrong with one organization''s endpoint or number is that organization''s alert and no reason here. Secret key only.';
grant execute on function public.system_health() to service_role;
