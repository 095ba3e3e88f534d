-- The clock's jobs run when they are due, once, and what was missed is caught up once.
begin;
select plan(51);

-- Cron expressions --------------------------------------------------------------------------------------------------
select is(private.previous_occurrence(e.expression, '2026-11-21 15:47:12Z'), e.expected::timestamptz, format('%s was due %s', e.expression, e.expected))
from (values
  ('* * * * *', '2026-11-21 15:47Z'),
  ('*/5 * * * *', '2026-11-21 15:45Z'),
  ('50 * * * *', '2026-11-21 14:50Z'),
  ('5 3 * * *', '2026-11-21 03:05Z'),
  ('0 16 * * *', '2026-11-20 16:00Z'),
  ('0 2 1 * *', '2026-11-01 02:00Z'),
  ('0 9-17/4 * * 1-5', '2026-11-20 17:00Z'),
  ('0 0 * * 0', '2026-11-15 00:00Z'),
  ('0 0 * * 7', '2026-11-15 00:00Z'),
  ('0 0 29 2 *', '2024-02-29 00:00Z'),
  -- When both kinds of day are restricted, either is enough.
  ('0 0 13 * 5', '2026-11-20 00:00Z'),
  ('15,45 8,20 * * *', '2026-11-21 08:45Z')
) e (expression, expected);
select throws_ok(format('select private.previous_occurrence(%L, now())', e.expression), 'BL321', null, format('"%s" is no schedule', e.expression))
from (values ('* * * *'), ('60 * * * *'), ('* 24 * * *'), ('* * 0 * *'), ('* * * 13 *'), ('* * * * 8'), ('5-1 * * * *'), ('*/0 * * * *'), ('a * * * *'), (''), ('5/2 * * * *')) e (expression);
select is(private.previous_occurrence('0 0 30 2 *', now()), null, 'the thirtieth of February never comes');
select throws_ok(
  $$ insert into private.schedules (name, description, expression, command) values ('never', 'x', '61 seconds', 'select 1') $$,
  'BL321', null, 'an expression that nobody understands does not get in');

-- Running -----------------------------------------------------------------------------------------------------------
insert into private.schedules (name, description, expression, command, created_at)
values
  ('counts', 'x', '*/5 * * * *', 'select count(*) as numbers from generate_series(1, 3)', now() - interval '1 hour'),
  ('fails', 'x', '*/5 * * * *', 'select 1 / 0', now() - interval '1 hour'),
  ('ticks', 'x', '30 seconds', 'select 1', now() - interval '1 hour');
insert into private.schedules (name, description, expression, function_name, created_at)
values ('calls', 'x', '*/5 * * * *', 'queue-worker', now() - interval '1 hour');
insert into private.schedules (name, description, expression, command, condition, created_at)
values ('idle', 'x', '*/5 * * * *', 'select 1', 'false', now() - interval '1 hour');
insert into private.schedules (name, description, expression, command, is_active, created_at)
values ('off', 'x', '*/5 * * * *', 'select 1', false, now() - interval '1 hour');

select ok(array(select d.name from public.due_schedules() d) @> '{counts,fails,ticks,calls,idle}', 'what has not run since its time is due');
select ok(not 'off' = any (array(select d.name from public.due_schedules() d)), 'but not what is switched off');
select is(
  (public.run_schedule('counts')) - '{run_id,duration_ms}'::text[],
  '{"ran": true, "kind": "sql", "function_name": null, "result": [{"numbers": 3}], "error": null}'::jsonb, 'a run has its result');
select is((select row(r.driver, r.result, r.error, r.finished_at is not null, r.duration_ms >= 0)::text from private.schedule_runs r where r.name = 'counts'),
  '(cron-refresh,"[{""numbers"": 3}]",,t,t)', 'which is written down');
select is(public.run_schedule('counts'), '{"ran": false, "reason": "not_due"}'::jsonb, 'an hour''s missed runs are one');
select is(public.run_schedule('counts', true) ->> 'ran', 'true', 'by force it runs again');
update private.schedules set last_scheduled_for = now() - interval '5 minutes' where name = 'counts';
select is(public.run_schedule('counts') ->> 'ran', 'true', 'five minutes later it is due again');
select is(public.run_schedule('fails') ->> 'error', 'division by zero (22012)', 'a run that fails says why');
select is((select r.error from private.schedule_runs r where r.name = 'fails'), 'division by zero (22012)', 'and is written down');
select is(public.run_schedule('fails'), '{"ran": false, "reason": "not_due"}'::jsonb, 'its next time is its next time');
select is(public.run_schedule('idle') ->> 'reason', 'nothing_to_do', 'without its condition there is nothing to run');
select is(public.run_schedule('ticks') ->> 'ran', 'true', 'seconds count from the last run');
select is(public.run_schedule('ticks') ->> 'reason', 'not_due', 'not before they are over');
update private.schedules set last_started_at = now() - interval '29.6 seconds', last_scheduled_for = now() - interval '29.6 seconds' where name = 'ticks';
select is(public.run_schedule('ticks') ->> 'ran', 'true', 'give or take half a second');

create temporary table begun as select public.run_schedule('calls') as run;
select is((select run ->> 'function_name' from begun), 'queue-worker', 'a function''s run is begun');
update private.schedules set last_scheduled_for = now() - interval '5 minutes' where name = 'calls';
select is(public.run_schedule('calls') ->> 'reason', 'already_running', 'and not begun again before it has ended');
select public.finish_schedule_run((run ->> 'run_id')::uuid, '{"claimed": 7}') from begun;
select is((select r.result from private.schedule_runs r where r.name = 'calls'), '{"claimed": 7}'::jsonb, 'its end is written down');
select throws_ok($$ select public.run_schedule('nothing') $$, 'BL320', null, 'a schedule that there is not cannot run');
select tests.authenticate_as(gen_random_uuid());
select throws_ok($$ select public.run_schedule('counts') $$, '42501', null, 'and nobody but the platform runs one');
select tests.authenticate_as_nobody();

-- Drivers -----------------------------------------------------------------------------------------------------------
select matches(private.sync_schedules(), case when to_regclass('cron.job') is null then 'cron-refresh' else 'follows' end, 'pg_cron is used where it is');
select case
  when to_regclass('cron.job') is null then pass('without pg_cron there are no jobs to compare')
  else is(
    (select string_agg(j, ',') from (
      select (xpath('/row/jobname/text()', x))[1]::text as j
      from unnest(xpath('//row', query_to_xml('select jobname from cron.job where jobname like ''balcao:%'' order by jobname collate "C"', false, false, ''))) x
    ) jobs),
    (select string_agg('balcao:' || n, ',' order by 'balcao:' || n collate "C") from (select name from private.schedules where is_active union all select 'catch_up') s (n)),
    'pg_cron''s jobs are the active schedules, and the one that catches up')
end;
delete from private.schedules where name not in ('counts', 'fails');
update private.schedules set last_scheduled_for = now() - interval '1 day' where name = 'counts';
select is(private.run_missed_schedule(), null, 'what runs within the hour anyway needs nobody to catch up with it');
-- Twelve hours ago, and twelve hours from now.
update private.schedules
set expression = to_char((now() - interval '12 hours') at time zone 'UTC', 'MI HH24 * * *'), last_scheduled_for = now() - interval '2 days',
    created_at = now() - interval '1 year';
insert into private.schedules (name, description, expression, command, created_at, last_scheduled_for)
select 'before_them', 'x', to_char((now() - interval '13 hours') at time zone 'UTC', 'MI HH24 * * *'), 'select 1', now() - interval '1 year', now() - interval '2 days';
select is(private.run_missed_schedule(), 'before_them', 'what pg_cron missed is caught up, one at a time');
select is(private.run_missed_schedule(), 'counts', 'then the next one');
select is(private.run_missed_schedule(), 'fails', 'one that fails holds back no other');
select is(private.run_missed_schedule(), null, 'and each once');

select * from finish();
rollback;
