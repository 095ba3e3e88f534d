-- Schedules: what happens by the clock. One list, two drivers.
--
-- Where pg_cron is, private.sync_schedules() keeps its jobs like the list; elsewhere the function cron-refresh, called
-- by any external cron, runs what is due. Both may be there: an occurrence runs once, a schedule never overlaps itself,
-- and what was missed while nobody was there is caught up once. Times are UTC.

create table private.schedules (
  name text not null,
  description text not null,
  expression text not null,
  command text,
  function_name text,
  condition text,
  is_active boolean not null default true,
  last_scheduled_for timestamptz,
  last_started_at timestamptz,
  created_at timestamptz not null default now(),
  constraint schedules_pkey primary key (name),
  constraint schedules_name_format_check check (name ~ '^[a-z][a-z0-9_]{0,62}$'),
  constraint schedules_has_one_action_check check (num_nonnulls(command, function_name) = 1)
);
comment on table private.schedules is 'The jobs of the clock; the platform''s, so a tenant has no row here.';
comment on column private.schedules.expression is 'Five cron fields (UTC), or "N seconds" (1-59), which a driver without seconds runs every minute.';
comment on column private.schedules.command is 'A SELECT; its rows are the run''s result.';
comment on column private.schedules.function_name is 'An edge function to call instead.';
comment on column private.schedules.condition is 'A boolean SQL expression: without it being true there is nothing to run.';

alter table private.schedules enable row level security;
alter table private.schedules force row level security;
revoke all on private.schedules from public, anon, authenticated, service_role;

create table private.schedule_runs (
  id uuid not null default private.uuid_v7(),
  name text not null,
  driver text not null,
  scheduled_for timestamptz not null,
  started_at timestamptz not null default clock_timestamp(),
  finished_at timestamptz,
  duration_ms int,
  result jsonb,
  error text,
  constraint schedule_runs_pkey primary key (id),
  constraint schedule_runs_name_fkey foreign key (name) references private.schedules (name) on update cascade on delete cascade,
  constraint schedule_runs_result_is_json_check check (jsonb_typeof(result) in ('array', 'object'))
);
comment on table private.schedule_runs is 'What ran when, how long, and what came of it; kept fourteen days.';
create index schedule_runs_name_idx on private.schedule_runs (name, id desc);

alter table private.schedule_runs enable row level security;
alter table private.schedule_runs force row level security;
revoke all on private.schedule_runs from public, anon, authenticated, service_role;

-- Cron expressions ------------------------------------------------------------------------------------------------

create function private.cron_field(field text, lowest int, highest int)
returns int[]
language plpgsql
immutable
set search_path = ''
as $$
declare
  item text;
  parts text[];
  starts int;
  ends int;
  step int;
  numbers int[] := array[]::int[];
begin
  foreach item in array string_to_array(field, ',') loop
    parts := regexp_match(item, '^(?:(\*)|([0-9]{1,2})(?:-([0-9]{1,2}))?)(?:/([0-9]{1,2}))?$');
    if parts is null or parts[4] is not null and parts[1] is null and parts[3] is null then
      return null;
    end if;
    starts := coalesce(parts[2]::int, lowest);
    ends := case when parts[1] is not null then highest else coalesce(parts[3]::int, starts) end;
    step := coalesce(parts[4]::int, 1);
    if starts < lowest or ends > highest or starts > ends or step < 1 then
      return null;
    end if;
    numbers := numbers || array(select generate_series(starts, ends, step));
  end loop;
  return numbers;
end;
$$;
comment on function private.cron_field(text, int, int) is
  'The numbers that one field of a cron expression names (*, 5, 1-5, */10, 0-30/5, and lists of these); null when it is none.';

create function private.previous_occurrence(expression text, at timestamptz)
returns timestamptz
language plpgsql
immutable
set search_path = ''
as $$
declare
  fields constant text[] := regexp_split_to_array(btrim(expression), '\s+');
  moment constant timestamp := at at time zone 'UTC';
  minutes int[];
  hours int[];
  days int[];
  months int[];
  weekdays int[]; -- Sunday is 0 and 7; here 7
  day date;
  time_of_day interval;
begin
  if cardinality(fields) = 5 then
    minutes := private.cron_field(fields[1], 0, 59);
    hours := private.cron_field(fields[2], 0, 23);
    days := private.cron_field(fields[3], 1, 31);
    months := private.cron_field(fields[4], 1, 12);
    weekdays := private.cron_field(fields[5], 0, 7);
  end if;
  if minutes is null or hours is null or days is null or months is null or weekdays is null then
    perform private.raise_error('BL321', 'invalid_schedule', 'Not a cron expression of five fields',
      jsonb_build_object('expression', expression));
  end if;
  weekdays := array_replace(weekdays, 0, 7);

  for age in 0..(9 * 366) loop
    day := moment::date - age;
    continue when extract(month from day) <> all (months);
    -- As in every cron: when both kinds of day are restricted, either is enough.
    continue when not case
      when fields[3] ~ '^\*' or fields[5] ~ '^\*' then extract(day from day) = any (days) and extract(isodow from day) = any (weekdays)
      else extract(day from day) = any (days) or extract(isodow from day) = any (weekdays)
    end;
    select max(make_interval(hours => h, mins => m)) into time_of_day
    from unnest(hours) h
    cross join unnest(minutes) m
    where day + make_interval(hours => h, mins => m) <= moment;
    if time_of_day is not null then
      return (day + time_of_day) at time zone 'UTC';
    end if;
  end loop;
  return null;
end;
$$;
comment on function private.previous_occurrence(text, timestamptz) is
  'When a cron expression (five fields, UTC) was last due; null if never. Error: invalid_schedule.';

create function private.schedule_interval(expression text)
returns interval
language plpgsql
immutable
set search_path = ''
as $$
declare
  seconds constant text := substring(expression from '^\s*([1-9]|[1-5][0-9])\s+seconds?\s*$');
begin
  return make_interval(secs => seconds::int);
end;
$$;
comment on function private.schedule_interval(text) is 'The interval of "N seconds"; null for a cron expression.';

create function private.last_due(schedule private.schedules, at timestamptz default now())
returns timestamptz
language plpgsql
stable
set search_path = ''
as $$
declare
  period constant interval := private.schedule_interval(schedule.expression);
begin
  if period is null then
    return private.previous_occurrence(schedule.expression, at);
  elsif schedule.last_started_at is null
    or at >= schedule.last_started_at + period - interval '0.5 seconds'
    or at < schedule.last_started_at - interval '1 minute' then
    -- A driver's clock is not ours to the millisecond; and a clock may have been set back.
    return at;
  end if;
  return schedule.last_started_at;
end;
$$;
comment on function private.last_due(private.schedules, timestamptz) is 'When a schedule should have run last.';

create function private.period_of(schedule private.schedules, at timestamptz)
returns interval
language plpgsql
stable
set search_path = ''
as $$
declare
  last_due timestamptz;
begin
  if private.schedule_interval(schedule.expression) is not null then
    return private.schedule_interval(schedule.expression);
  end if;
  last_due := private.previous_occurrence(schedule.expression, at);
  return last_due - private.previous_occurrence(schedule.expression, last_due - interval '1 second');
end;
$$;
comment on function private.period_of(private.schedules, timestamptz) is 'How long it is from one occurrence to the next, at this time.';

create function private.is_due(schedule private.schedules, at timestamptz default now())
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return schedule.is_active
    and (
      private.last_due(schedule, at) > coalesce(schedule.last_scheduled_for, schedule.created_at - interval '1 second')
      -- The clock was set back.
      or schedule.last_scheduled_for > at + interval '1 minute'
    );
end;
$$;
comment on function private.is_due(private.schedules, timestamptz) is 'Whether an occurrence has passed since the last one that ran; several are one.';

create function private.tg_schedules__check_expression()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  if private.schedule_interval(new.expression) is null then
    perform private.previous_occurrence(new.expression, now());
  end if;
  return new;
end;
$$;
comment on function private.tg_schedules__check_expression() is 'Trigger: an expression that nobody understands never gets in.';
create trigger schedules_500_check_expression
  before insert or update of expression on private.schedules
  for each row execute function private.tg_schedules__check_expression();

-- Running -----------------------------------------------------------------------------------------------------------

create function private.run_schedule(name text, force boolean default false, driver text default 'by hand')
returns jsonb
language plpgsql
volatile
security definer -- schedules run as their owner
set search_path = ''
-- PostgREST takes this for the whole call: its own limit is made for requests.
set statement_timeout = '5min'
as $$
declare
  schedule private.schedules;
  run private.schedule_runs;
  is_wanted boolean := true;
begin
  select s.* into schedule from private.schedules s where s.name = run_schedule.name for no key update skip locked;
  if not found then
    if exists (select from private.schedules s where s.name = run_schedule.name) then
      return jsonb_build_object('ran', false, 'reason', 'already_running');
    end if;
    perform private.raise_error('BL320', 'schedule_not_found', 'There is no such schedule', jsonb_build_object('name', name));
  end if;
  if not force and not private.is_due(schedule) then
    return jsonb_build_object('ran', false, 'reason', 'not_due');
  end if;
  -- A function runs longer than the call that begins it.
  if schedule.function_name is not null and exists (
    select
    from private.schedule_runs r
    -- Its caller waits two minutes for it; who has not ended it by then has died.
    where r.name = schedule.name and r.finished_at is null and r.started_at > now() - interval '150 seconds'
  ) then
    return jsonb_build_object('ran', false, 'reason', 'already_running');
  end if;

  run.scheduled_for := case when force then now() else private.last_due(schedule) end;
  update private.schedules s
  set last_scheduled_for = run.scheduled_for, last_started_at = now()
  where s.name = schedule.name;
  if schedule.condition is not null and not force then
    execute 'select ' || schedule.condition into is_wanted;
    if is_wanted is not true then
      return jsonb_build_object('ran', false, 'reason', 'nothing_to_do');
    end if;
  end if;
  insert into private.schedule_runs (name, driver, scheduled_for)
  values (schedule.name, run_schedule.driver, run.scheduled_for)
  returning * into run;

  if schedule.function_name is not null then
    if driver <> 'cron-refresh' then
      run := private.close_run(run.id, jsonb_build_object('called', private.call_function(schedule.function_name)), null);
    end if;
  else
    begin
      execute 'select jsonb_agg(r) from (' || schedule.command || ') r' into run.result;
    exception when others or query_canceled then
      -- The schedule that fails is not the end of the others; whoever looks finds why.
      run.error := sqlerrm || ' (' || sqlstate || ')';
    end;
    run := private.close_run(run.id, run.result, run.error);
  end if;
  return jsonb_build_object(
    'ran', true, 'run_id', run.id, 'kind', case when schedule.function_name is null then 'sql' else 'function' end,
    'function_name', schedule.function_name, 'result', run.result, 'error', run.error, 'duration_ms', run.duration_ms);
end;
$$;
comment on function private.run_schedule(text, boolean, text) is 'See public.run_schedule(). driver tells the record who called.';
grant execute on function private.run_schedule(text, boolean, text) to service_role;

create function private.close_run(run_id uuid, result jsonb, error text)
returns private.schedule_runs
language plpgsql
volatile
set search_path = ''
as $$
declare
  run private.schedule_runs;
begin
  update private.schedule_runs r
  set finished_at = clock_timestamp(),
      duration_ms = round(extract(epoch from clock_timestamp() - r.started_at) * 1000),
      result = close_run.result,
      error = left(close_run.error, 2000)
  where r.id = run_id and r.finished_at is null
  returning r.* into run;
  return run;
end;
$$;
comment on function private.close_run(uuid, jsonb, text) is 'Writes down how a run ended.';

create function public.run_schedule(name text, force boolean default false)
returns jsonb
language plpgsql
volatile
set search_path = ''
set statement_timeout = '5min'
as $$
begin
  return private.run_schedule(name, force, 'cron-refresh');
end;
$$;
comment on function public.run_schedule(text, boolean) is
  'For the function cron-refresh: runs a schedule that is due, or by force; {ran, run_id, kind, function_name, result, error, duration_ms, reason}. One of kind function is only begun: the caller calls it, then finish_schedule_run(). Not twice at once: {ran: false, reason: already_running | not_due | nothing_to_do}. Secret key only. Errors: schedule_not_found.';
grant execute on function public.run_schedule(text, boolean) to service_role;

create function private.finish_schedule_run(run_id uuid, result jsonb, error text)
returns void
language plpgsql
volatile
security definer -- the runs are in "private"
set search_path = ''
as $$
begin
  perform private.close_run(run_id, result, error);
end;
$$;
comment on function private.finish_schedule_run(uuid, jsonb, text) is 'See public.finish_schedule_run().';
grant execute on function private.finish_schedule_run(uuid, jsonb, text) to service_role;

create function public.finish_schedule_run(run_id uuid, result jsonb default null, error text default null)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform private.finish_schedule_run(run_id, result, error);
end;
$$;
comment on function public.finish_schedule_run(uuid, jsonb, text) is
  'For the function cron-refresh: how a function that a schedule called ended. Secret key only.';
grant execute on function public.finish_schedule_run(uuid, jsonb, text) to service_role;

create function private.due_schedules()
returns table (name text, kind text, function_name text, scheduled_for timestamptz)
language plpgsql
stable
security definer -- the schedules are in "private"
set search_path = ''
as $$
begin
  return query
  select s.name, case when s.function_name is null then 'sql' else 'function' end, s.function_name, private.last_due(s)
  from private.schedules s
  where private.is_due(s)
  order by 4, 1;
end;
$$;
comment on function private.due_schedules() is 'See public.due_schedules().';
grant execute on function private.due_schedules() to service_role;

create function public.due_schedules()
returns table (name text, kind text, function_name text, scheduled_for timestamptz)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query select d.name, d.kind, d.function_name, d.scheduled_for from private.due_schedules() d;
end;
$$;
comment on function public.due_schedules() is 'For the function cron-refresh: the schedules to run now. Secret key only.';
grant execute on function public.due_schedules() to service_role;

create function private.run_missed_schedule()
returns text
language plpgsql
volatile
set search_path = ''
as $$
declare
  missed text;
begin
  for missed in
    select s.name
    from private.schedules s
    where private.is_due(s, now() - interval '2 minutes')
      -- What the clock does within the hour anyway needs nobody to catch up with it.
      and private.last_due(s) + private.period_of(s, now()) > now() + interval '1 hour'
    order by private.last_due(s), s.name
  loop
    -- One at a time: its row is locked until all of this is committed.
    if (private.run_schedule(missed, false, 'pg_cron') ->> 'ran')::boolean then
      return missed;
    end if;
  end loop;
  return null;
end;
$$;
comment on function private.run_missed_schedule() is
  'For pg_cron, which forgets what it missed while the server was down: runs one such schedule, once, if its next time is more than an hour away; returns its name. Called every minute.';

create function private.sync_schedules()
returns text
language plpgsql
volatile
set search_path = ''
as $$
declare
  has_seconds boolean;
  job record;
begin
  if to_regclass('cron.job') is null then
    return 'pg_cron is not there: have cron-refresh called every minute or oftener';
  end if;
  select regexp_match(x.extversion, '^([0-9]+)\.([0-9]+)')::int[] >= '{1,5}' into has_seconds
  from pg_catalog.pg_extension x
  where x.extname = 'pg_cron';

  for job in execute 'select j.jobname from cron.job j where j.jobname like ''balcao:%''' loop
    continue when job.jobname = 'balcao:catch_up'
      or exists (select from private.schedules s where s.is_active and job.jobname = 'balcao:' || s.name);
    execute 'select cron.unschedule($1)' using job.jobname;
  end loop;
  for job in
    select
      'balcao:' || s.name as name,
      case when private.schedule_interval(s.expression) is not null and not has_seconds then '* * * * *' else s.expression end as expression,
      -- What takes longer holds back everybody who reads behind the oldest snapshot.
      format('set statement_timeout = ''5min''; select private.run_schedule(%L, false, %L)', s.name, 'pg_cron') as command
    from private.schedules s
    where s.is_active
    union all
    select 'balcao:catch_up', '* * * * *', 'set statement_timeout = ''5min''; select private.run_missed_schedule()'
  loop
    execute 'select cron.schedule($1, $2, $3)' using job.name, job.expression, job.command;
  end loop;
  return 'pg_cron follows the schedules';
end;
$$;
comment on function private.sync_schedules() is
  'Makes pg_cron''s jobs (named balcao:…) those of private.schedules, where pg_cron is there; says what it did. A change of the schedules calls it.';

create function private.tg_schedules__sync()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform private.sync_schedules();
  return null;
end;
$$;
comment on function private.tg_schedules__sync() is 'Trigger: pg_cron follows the list.';
create trigger schedules_900_sync
  after insert or delete or update of name, expression, is_active on private.schedules
  for each statement execute function private.tg_schedules__sync();

create function private.delete_old_runs()
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  deleted bigint;
begin
  delete from private.schedule_runs r where r.id < private.uuid_v7(now() - interval '14 days');
  get diagnostics deleted = row_count;
  if to_regclass('cron.job_run_details') is not null then
    -- pg_cron never cleans up after itself.
    execute 'delete from cron.job_run_details d where d.end_time < now() - interval ''3 days''';
  end if;
  return deleted;
end;
$$;
comment on function private.delete_old_runs() is 'Deletes the records of runs after fourteen days, pg_cron''s own after three; returns how many of ours.';

-- The list ------------------------------------------------------------------------------------------------------------

insert into private.schedules (name, description, expression, command, function_name, condition)
values
  ('wake_queue_worker', 'Calls the worker when something is due: retries, and what nobody woke it for.',
    '10 seconds', null, 'queue-worker', 'private.has_due_jobs()'),
  ('expire_holds', 'Ends holds whose time is over; passes offers on to the next one of the waiting list.',
    '10 seconds', 'select private.expire_holds() as ended', null, null),
  ('expire_waiting_list', 'Who waited for a slot until a day that is over waits no longer.',
    '15 * * * *', 'select private.expire_waiting_list() as expired', null, null),
  ('expire_flow_sessions', 'Ends the flows of customers who stopped answering.',
    '* * * * *', 'select private.expire_flow_sessions() as expired', null, null),
  ('wake_flow_sessions', 'Goes on with flows whose wait is over.',
    '10 seconds', 'select private.wake_flow_sessions() as woken', null,
    'exists (select from public.flow_sessions s where not s.is_completed and s.wakes_at <= now())'),
  ('enqueue_due_notifications', 'Brings the jobs of reminders, questions and follow-ups whose time has come.',
    '10 seconds', 'select private.enqueue_due_notifications() as enqueued', null,
    'exists (select from public.notifications n where n.status = ''pending'' and n.scheduled_for <= now())'),
  ('delete_finished_jobs', 'Completed jobs go after a day, dead ones after thirty.',
    '* * * * *', 'select private.delete_finished_jobs(50000) as deleted', null, null),
  ('maintain_partitions', 'Makes the logs'' partitions three months ahead.',
    '5 3 * * *', 'select private.maintain_partitions() as partition', null, null),
  ('delete_old_webhook_deliveries', 'Deliveries go after thirty days.',
    '*/10 * * * *', 'select private.delete_old_webhook_deliveries(20000) as deleted', null, null),
  ('delete_old_runs', 'Records of the clock go after fourteen days.',
    '35 3 * * *', 'select private.delete_old_runs() as deleted', null, null),
  ('forget_merges', 'What merges noted down to be undone goes when they cannot be any more.',
    '45 3 * * *', 'select private.forget_merges() as deleted', null, null),
  ('refresh_dashboard_metrics', 'The figures of today.',
    '*/5 * * * *', 'select private.refresh_analytics_view(''dashboard_metrics'') as refresh', null, null),
  ('refresh_conversation_analytics', 'Conversations and messages by day.',
    '7 * * * *', 'select private.refresh_analytics_view(''conversation_analytics'') as refresh', null, null),
  ('refresh_consultant_metrics', 'Leads by professional.',
    '12 * * * *', 'select private.refresh_analytics_view(''consultant_metrics'') as refresh', null, null),
  -- After five the day before is over in all of Brazil.
  ('refresh_service_analytics', 'How each service did.',
    '10 5 * * *', 'select private.refresh_analytics_view(''service_analytics'') as refresh', null, null),
  ('refresh_clinic_metrics_daily', 'Appointments by day.',
    '15 5 * * *', 'select private.refresh_analytics_view(''clinic_metrics_daily'') as refresh', null, null),
  ('refresh_daily_lead_stats', 'Leads by day.',
    '20 5 * * *', 'select private.refresh_analytics_view(''daily_lead_stats'') as refresh', null, null),
  ('check_alerts', 'Opens alerts for what is not well, resolves those whose cause is gone, and tells of both.',
    '* * * * *', 'select private.check_alerts() as alerts', null, null),
  ('delete_old_alerts', 'Alerts go ninety days after they were resolved.',
    '25 3 * * *', 'select private.delete_old_alerts() as deleted', null, null),
  ('delete_old_refreshes', 'Records of refreshes go after fourteen days.',
    '40 3 * * *', 'select private.delete_old_refreshes() as deleted', null, null);
