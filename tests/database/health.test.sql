-- What is not well is found, each by its rule, and system_health() says so at once; to the platform only.
begin;
-- What this story defines may run as anyone; rolled back with the rest.
alter default privileges grant execute on functions to public;
select no_plan();

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
-- The rest of the clock is no part of this story, nor what else happens on this server.
update private.schedules set is_active = false;
update private.alert_rules set is_active = false 
  where kind in ('slow_statements', 'long_transactions', 'replication_lag', 'audit_sealing_stalled', 'backup_overdue');
update private.alert_rules set warning = 101, critical = 102 where kind = 'connections';

create function pg_temp.found(kind text, at timestamptz default now())
returns text
language sql
as $$
  select coalesce(string_agg(concat_ws(' ', nullif(f.subject, ''), f.severity, round(f.value, 1)), ', ' order by f.subject), 'nothing')
  from private.alert_rules r
  cross join lateral private.findings_of(r, found.at) f
  where r.kind = found.kind
$$;
create function pg_temp.reasons()
returns text
language sql
as $$
  select h ->> 'status' || coalesce(': ' || (
    select string_agg(concat_ws(' ', r ->> 'severity', r ->> 'kind'), ', ' order by r ->> 'kind') from jsonb_array_elements(h -> 'reasons') r
  ), '')
  from (select public.system_health() as h) health
$$;

-- Rules ---------------------------------------------------------------------------------------------------------------
select is_empty(
  $$
    select r.kind from private.alert_rules r
    where r.kind <> 'check_failing'
      and to_regprocedure(format('private.find_%s(private.alert_rules, timestamptz)', r.kind)) is null
  $$,
  'every rule has a function that looks');
select is_empty(
  $$
    select p.proname from pg_catalog.pg_proc p
    where p.pronamespace = 'private'::regnamespace and p.proname like 'find\_%'
      and p.proargtypes[0] = (select t.oid from pg_catalog.pg_type t where t.typname = 'alert_rules' and t.typnamespace = 'private'::regnamespace)
      and not exists (select from private.alert_rules r where 'find_' || r.kind = p.proname)
  $$,
  'and every such function its rule');
select results_eq(
  $$
    select private.severity_of(row('x', 'x', 'x', r.warning, r.critical, r.less, false, '{}', true, now())::private.alert_rules, r.value)::text
    from (values
      (1, 1::numeric, 5::numeric, false, 0.9), (2, 1, 5, false, 1), (3, 1, 5, false, 4.9), (4, 1, 5, false, 5), (5, 1, null, false, 100),
      (6, null, 1, false, 1), (7, 2, 1, true, 2), (8, 2, 1, true, 1), (9, 2, 1, true, 0), (10, 1, 5, false, null)
    ) r (n, warning, critical, less, value)
    order by r.n
  $$,
  $$ values (null), ('warning'), ('warning'), ('critical'), ('warning'), ('critical'), (null), ('warning'), ('critical'), (null) $$,
  'from a threshold on it is too much, or below it too little');
select throws_ok(
  $$ update private.alert_rules set warning = 10, critical = 5 where kind = 'queue_stalled' $$,
  '23514', null, 'critical cannot be less bad than a warning');

select is(pg_temp.reasons(), 'healthy', 'nothing is wrong with an empty platform');

-- The queue -----------------------------------------------------------------------------------------------------------
select is(pg_temp.found('queue_stalled'), 'nothing', 'what is due some day does not wait');
insert into public.message_queue (organization_id, job_type, priority, run_at)
values
  (tests.the('clinic', 'organization_id'), 'nothing', 0, now() - interval '10 seconds'),
  (tests.the('clinic', 'organization_id'), 'nothing', 5, now() - interval '130 seconds'),
  (tests.the('petshop', 'organization_id'), 'nothing', 0, now() - interval '30 seconds');
select is(pg_temp.found('queue_stalled'), 'warning 130.0', 'the oldest job counts, of whichever tenant and priority');
update public.message_queue set run_at = now() - interval '6 minutes', is_due = false where priority = 5;
select is(pg_temp.found('queue_stalled'), 'critical 360.0', 'nobody need have noticed that it became due');
select matches(pg_temp.reasons(), '^unhealthy: critical queue_stalled', 'a stopped worker makes the platform unhealthy');
select is((public.system_health() -> 'queue' ->> 'due')::int, 3, 'and health counts what waits');
delete from public.message_queue where priority = 5;
update public.message_queue set status = 'processing', lease_expires_at = now() - interval '150 seconds' where is_due;
select is(pg_temp.found('queue_stalled'), 'warning 150.0', 'what a dead worker holds waits since its lease is over');
update public.message_queue set lease_expires_at = now() + interval '90 seconds' where is_due;
select is(pg_temp.found('queue_stalled'), 'nothing', 'what runs does not wait');
update public.message_queue set status = 'pending', lease_expires_at = null, run_at = now() where is_due;
select is(pg_temp.found('queue_stalled'), 'nothing', 'nor what became due this moment');
update public.message_queue set status = 'dead', completed_at = now() - interval '61 minutes' where is_due;
select is(pg_temp.found('dead_jobs'), 'nothing', 'what died long ago is no news');
update public.message_queue set completed_at = now() - interval '59 minutes' where is_due;
select is(pg_temp.found('dead_jobs'), 'warning 2.0', 'two jobs were given up');
delete from public.message_queue where is_due;

-- Who stood behind another of his key has waited since then.
select 1 from public.enqueue_job(tests.the('clinic', 'organization_id'), 'nothing', '{}', 0, now(), 'conversation:x');
select 1 from public.enqueue_job(tests.the('clinic', 'organization_id'), 'nothing', '{}', 0, now(), 'conversation:x');
update public.message_queue set run_at = now() - interval '20 minutes' where ordering_key = 'conversation:x';
update public.message_queue set status = 'completed', completed_at = now() where ordering_key = 'conversation:x' and status = 'pending';
select private.promote_keys(array[row(tests.the('clinic', 'organization_id'), 'conversation:x')::private.queue_key]);
select is(
  (select row(q.status, q.is_due)::text from public.message_queue q where q.ordering_key = 'conversation:x' and q.status <> 'completed'),
  '(pending,t)', 'behind a job that was tried for twenty minutes the next one is due');
select is(pg_temp.found('queue_stalled'), 'nothing', 'and no worker has let it wait');
delete from public.message_queue where ordering_key = 'conversation:x';

-- The clock -----------------------------------------------------------------------------------------------------------
insert into private.schedules (name, description, expression, command, created_at, last_scheduled_for, last_started_at)
values
  ('minutely', 'x', '* * * * *', 'select 1', now() - interval '1 day', now() - interval '2 minutes', now() - interval '2 minutes'),
  ('ticking', 'x', '10 seconds', 'select 1', now() - interval '1 day', now() - interval '5 seconds', now() - interval '5 seconds'),
  ('nightly', 'x', '0 3 * * *', 'select 1', now() - interval '3 days', private.previous_occurrence('0 3 * * *', now()), now());
select is(pg_temp.found('schedules_stalled'), 'nothing', 'a minute late is not overdue');
update private.schedules set last_scheduled_for = now() - interval '7 minutes' where name = 'minutely';
select is(pg_temp.found('schedules_stalled'), 'warning 360.0', 'after seven minutes it should have run six minutes ago');
update private.schedules set last_scheduled_for = last_scheduled_for - interval '1 day' where name = 'nightly';
select ok(
  private.overdue_since(s, now()) = private.previous_occurrence('0 3 * * *', now()),
  'one that missed last night is overdue since then, not since the night before')
from private.schedules s
where s.name = 'nightly';
update private.schedules set last_scheduled_for = now() - interval '20 minutes', last_started_at = now() - interval '20 minutes' where name = 'ticking';
select is((public.system_health() -> 'schedules' -> 'overdue') @> '["minutely", "ticking"]', true, 'health names them');
update private.schedules set last_scheduled_for = now(), last_started_at = now() where name in ('minutely', 'ticking', 'nightly');
select is(pg_temp.found('schedules_stalled'), 'nothing', 'once they run they are not overdue');

insert into private.schedule_runs (id, name, driver, scheduled_for, started_at, finished_at, error)
select private.uuid_v7(now() - r.ago), 'minutely', 'x', now(), now() - r.ago, r.finished_at, r.error
from (values
  (interval '50 minutes', now(), 'an old one'), (interval '40 minutes', now(), null), (interval '20 minutes', null, null),
  (interval '10 minutes', now(), 'division by zero'), (interval '1 minute', null, null)
) r (ago, finished_at, error);
select is(pg_temp.found('schedule_failing'), 'minutely warning 2.0', 'two runs failed since the last good one: one of them never ended; one has just begun');
insert into private.schedule_runs (name, driver, scheduled_for, finished_at) values ('minutely', 'x', now(), now());
select is(pg_temp.found('schedule_failing'), 'nothing', 'a good run ends it');

-- Refreshes -----------------------------------------------------------------------------------------------------------
insert into private.schedules (name, description, expression, command, created_at, last_scheduled_for)
values ('refresh_some_view', 'x', '*/5 * * * *', 'select private.refresh_analytics_view(''some_view'') as refresh', now() - interval '1 minute', now());
select is(pg_temp.found('refresh_failing'), 'nothing', 'what is new need not have been refreshed yet');
update private.schedules set created_at = now() - interval '20 minutes' where name = 'refresh_some_view';
select is(pg_temp.found('refresh_failing'), 'some_view warning 4.0', 'after four of its periods it should have been');
insert into public.analytics_refreshes (id, view_name, started_at, finished_at, duration_ms, row_count)
values (private.uuid_v7(now() - interval '2 minutes'), 'some_view', now(), now() - interval '2 minutes', 1, 1);
select is(pg_temp.found('refresh_failing'), 'nothing', 'refreshed lately, all is well');
insert into public.analytics_refreshes (view_name, started_at, finished_at, duration_ms, error)
values ('some_view', now(), now(), 1, 'out of memory (53200)');
select is(pg_temp.found('refresh_failing'), 'some_view warning 0.4', 'one that failed is worth a warning');
select is(public.system_health() #>> '{last_refreshes,some_view,error}', 'out of memory (53200)', 'health has its error');
update public.analytics_refreshes set id = private.uuid_v7(now() - interval '62 minutes'), finished_at = now() - interval '62 minutes' where view_name = 'some_view' and error is null;
select is(pg_temp.found('refresh_failing'), 'some_view critical 12.4', 'without a good one for an hour it is critical');
insert into public.analytics_refreshes (view_name, started_at, finished_at, duration_ms, row_count) values ('some_view', now(), now(), 1, 1);
select is(pg_temp.found('refresh_failing'), 'nothing', 'and well again when one goes well');

-- The server ----------------------------------------------------------------------------------------------------------
select is(pg_temp.found('slow_statements'), 'nothing', 'nobody asks the API anything');
select is(pg_temp.found('connections'), 'nothing', 'there are connections left');
update private.alert_rules set warning = 0, critical = 100 where kind = 'connections';
select matches(pg_temp.found('connections'), '^warning [0-9.]+$', 'until there are not');
update private.alert_rules set warning = 101, critical = 102 where kind = 'connections';
select is(pg_temp.found('disk'), 'nothing', 'nobody said how large the disk is');
update private.alert_rules set settings = jsonb_build_object('size_bytes', pg_database_size(current_database()) / 0.85) where kind = 'disk';
select matches(pg_temp.found('disk'), '^warning 8[45]', 'the database takes 85 percent of it');
update private.alert_rules set settings = jsonb_build_object('size_bytes', pg_database_size(current_database()) / 0.95) where kind = 'disk';
select matches(pg_temp.found('disk'), '^critical 9[45]', 'or 95');
update private.alert_rules set settings = '{}' where kind = 'disk';
select ok(private.is_maintenance(q.query) = q.is_it, q.query)
from (values
  ('WITH pgrst_source AS (SELECT "pgrst_call".* FROM "public"."run_schedule"("name" := $1) pgrst_call)', true),
  ('select private.run_schedule(''x'', false, ''pg_cron'')', true),
  ('select public.refresh_analytics_view(''dashboard_metrics'')', true),
  ('select public.refresh_analytics_views()', true),
  ('select private.run_missed_schedule()', true),
  ('WITH pgrst_source AS (SELECT "public"."conversations".* FROM "public"."conversations")', false),
  ('select * from public.do_not_run_schedule_now', false)
) q (query, is_it);

-- Partitions ----------------------------------------------------------------------------------------------------------
select is(pg_temp.found('partitions_ahead'), 'nothing', 'three months are enough');
select is(pg_temp.found('partitions_ahead', now() + interval '32 days'), 'nothing', 'two as well');
select matches(pg_temp.found('partitions_ahead', date_trunc('month', now()) + interval '2 months 3 days'), '^analytics_events warning 1.0, api_call_logs warning 1.0', 'one month is too few');
select matches(pg_temp.found('partitions_ahead', date_trunc('month', now()) + interval '3 months 3 days'), 'webhook_events critical 0.0', 'none is critical');
select is(pg_temp.found('default_partition'), 'nothing', 'every row found its month');
insert into public.webhook_events (organization_id, provider, event_type, payload, created_at) values (null, 'meta_cloud', 'messages', '{}', '2001-01-01Z');
select is(pg_temp.found('default_partition'), 'webhook_events warning 1.0', 'one did not');
select is(public.system_health() -> 'partitions', '{"ahead_months": 3, "default_rows": 1}', 'health has both');
delete from public.webhook_events where created_at < '2002-01-01Z';

insert into public.webhook_events (organization_id, provider, event_type, payload, processing_error, created_at)
select null, 'meta_cloud', 'messages', '{}', 'number_not_registered', now() - interval '90 minutes' from generate_series(1, 50);
select is(pg_temp.found('unprocessed_webhooks'), 'nothing', 'what came for nobody an hour ago is over');
update public.webhook_events set created_at = now() - interval '30 minutes' where processing_error is not null;
select is(pg_temp.found('unprocessed_webhooks'), 'nothing', 'what came for one number that left us is its own affair');
update public.webhook_events set external_id = 'number ' || (random() * 1000000)::int where processing_error is not null;
select matches(pg_temp.found('unprocessed_webhooks'), '^warning (49|50).0', 'for fifty numbers it is ours');
select is(
  (select (select count(*) from jsonb_object_keys(f.detail -> 'numbers')) from private.alert_rules r cross join lateral private.find_unprocessed_webhooks(r, now()) f where r.kind = 'unprocessed_webhooks'),
  20::bigint, 'of which the first twenty are named');
update public.webhook_events set processing_error = 'unreadable', external_id = null where processing_error is not null;
select is(pg_temp.found('unprocessed_webhooks'), 'warning 50.0', 'fifty that nobody understood are too many in an hour');
delete from public.webhook_events where processing_error is not null;

-- Endpoints -----------------------------------------------------------------------------------------------------------
create function pg_temp.of_clinic(kind text, at timestamptz default now())
returns text
language sql
as $$
  select coalesce(string_agg(concat_ws(' ', f.severity, round(f.value, 1), f.message), ', '), 'nothing')
  from private.alert_rules r
  cross join lateral private.findings_of(r, of_clinic.at) f
  where r.kind = of_clinic.kind and f.organization_id = tests.the('clinic', 'organization_id')
    and f.subject in (tests.the('clinic', 'endpoint_id')::text, tests.the('clinic', 'instance_id')::text)
$$;
select is(pg_temp.of_clinic('endpoint_failing'), 'nothing', 'an endpoint that somebody switched off is nobody''s failure');
update public.webhook_endpoints set is_active = true, consecutive_failures = 2, url = 'https://crm.example/secret-path' where id = tests.the('clinic', 'endpoint_id');
select is(pg_temp.of_clinic('endpoint_failing'), 'nothing', 'two failures may pass');
update public.webhook_endpoints set consecutive_failures = 3 where id = tests.the('clinic', 'endpoint_id');
select is(pg_temp.of_clinic('endpoint_failing'), 'warning 3.0 The endpoint at crm.example failed 3 times in a row', 'three do not; its path is not told');
update public.webhook_endpoints set consecutive_failures = 500 where id = tests.the('clinic', 'endpoint_id');
select matches(pg_temp.of_clinic('endpoint_failing'), '^warning 500.0', 'nor do five hundred: it may come back');
update public.webhook_endpoints set is_active = false, disabled_at = now(), disabled_reason = 'gone', consecutive_failures = 1 where id = tests.the('clinic', 'endpoint_id');
select is(pg_temp.of_clinic('endpoint_failing'), 'critical 1.0 The endpoint at crm.example was disabled (gone)', 'one that was disabled is critical however few they were');
update public.organizations set is_active = false where id = tests.the('clinic', 'organization_id');
select is(pg_temp.of_clinic('endpoint_failing'), 'nothing', 'an organization that is closed has no alerts');
update public.organizations set is_active = true where id = tests.the('clinic', 'organization_id');
select is(pg_temp.reasons(), 'healthy', 'the platform is not unwell for a tenant''s endpoint');

-- Numbers -------------------------------------------------------------------------------------------------------------
update public.whatsapp_instances set status = 'disconnected' where id = tests.the('clinic', 'instance_id');
select is(pg_temp.of_clinic('instance_disconnected'), 'critical 1.0 The number Recepção is disconnected', 'a number went by itself');
delete from private.instance_secrets where instance_id = tests.the('clinic', 'instance_id');
select is(pg_temp.of_clinic('instance_disconnected'), 'nothing', 'whoever disconnects it on purpose knows it');
update public.whatsapp_instances set status = 'banned' where id = tests.the('clinic', 'instance_id');
select matches(pg_temp.of_clinic('instance_disconnected'), 'is banned', 'a ban is');
update public.whatsapp_instances set sending_stopped_at = now(), sending_stopped_code = '190' where id = tests.the('clinic', 'instance_id');
select is(pg_temp.of_clinic('instance_disconnected'), 'nothing', 'told by the reason, if there is one:');
select is(pg_temp.of_clinic('sending_stopped'), 'critical 1.0 Nothing can be sent through Recepção: 190', 'the provider refuses it');
select is(public.system_health() #>> '{instances,stopped}', '1', 'which health counts');
update public.whatsapp_instances set status = 'disconnected' where id = tests.the('clinic', 'instance_id');
insert into private.instance_secrets (organization_id, instance_id, access_token) values (tests.the('clinic', 'organization_id'), tests.the('clinic', 'instance_id'), tests.sealed());
select is(
  pg_temp.of_clinic('instance_disconnected') || ', ' || pg_temp.of_clinic('sending_stopped'),
  'critical 1.0 The number Recepção is disconnected, nothing', 'one that went while it was refused is disconnected, not forgotten');
delete from private.instance_secrets where instance_id = tests.the('clinic', 'instance_id');
update public.whatsapp_instances set sending_stopped_at = null, sending_stopped_code = null, status = 'connected' where id = tests.the('clinic', 'instance_id');
select is(pg_temp.of_clinic('sending_stopped'), 'nothing', 'and now does not any more');

-- A clinic that is open from 8 to 18 h on weekdays, as it was seen for four weeks; today is Monday the 23rd, in UTC-3.
create function pg_temp.clock(local_time timestamp)
returns timestamptz
language sql
as $$ select local_time at time zone 'America/Sao_Paulo' $$;
create function pg_temp.heard_last(local_time timestamp)
returns void
language sql
as $$
  update public.whatsapp_instances set last_seen_at = pg_temp.clock(local_time) where id = tests.the('clinic', 'instance_id')
$$;
insert into private.heard_hours (organization_id, instance_id, hour)
select tests.the('clinic', 'organization_id'), tests.the('clinic', 'instance_id'), pg_temp.clock(h)
from generate_series('2026-10-19 08:00'::timestamp, '2026-11-20 17:00', interval '1 hour') h
where extract(isodow from h) < 6 and extract(hour from h) between 8 and 17;
select pg_temp.heard_last('2026-11-20 17:40');
select is(pg_temp.of_clinic('instance_silent', pg_temp.clock('2026-11-20 23:59')), 'nothing', 'on Friday night nobody writes');
select is(pg_temp.of_clinic('instance_silent', pg_temp.clock('2026-11-22 23:00')), 'nothing', 'nor on Sunday');
select is(pg_temp.of_clinic('instance_silent', pg_temp.clock('2026-11-23 15:30')), 'nothing', 'a quiet Monday until half past three may be');
select matches(pg_temp.of_clinic('instance_silent', pg_temp.clock('2026-11-23 16:00')), '^warning 6.4 Nothing came from the number Recepção since', 'from 8 h to 16 h is a silence');
select matches(pg_temp.of_clinic('instance_silent', pg_temp.clock('2026-11-23 18:00')), '^critical 8.0', 'a whole day is critical');
select matches(pg_temp.of_clinic('instance_silent', pg_temp.clock('2027-03-01 12:00')), '^critical 39.2', 'and so it stays, however long it lasts');
select pg_temp.heard_last('2026-11-23 17:50');
select is(pg_temp.of_clinic('instance_silent', pg_temp.clock('2026-11-23 18:30')), 'nothing', 'one message ends it');
update public.whatsapp_instances set status = 'disconnected' where id = tests.the('clinic', 'instance_id');
select is(pg_temp.of_clinic('instance_silent', pg_temp.clock('2026-12-10 12:00')), 'nothing', 'of one that is disconnected nothing is expected');
update public.whatsapp_instances set status = 'connected' where id = tests.the('clinic', 'instance_id');
delete from private.heard_hours where hour < pg_temp.clock('2026-11-18 00:00');
select is(pg_temp.of_clinic('instance_silent', pg_temp.clock('2026-12-10 12:00')), 'nothing', 'nor of one that we hardly know');
delete from private.heard_hours;
select is(pg_temp.of_clinic('instance_silent', pg_temp.clock('2026-12-10 12:00')), 'nothing', 'or not at all');
select is(private.note_heard_hours(pg_temp.clock('2026-11-23 18:01')), 1::bigint, 'the hour in which it was heard is noted');
select is(private.note_heard_hours(pg_temp.clock('2026-11-23 18:02')), 0::bigint, 'once');
select is(
  (select h.hour from private.heard_hours h where h.instance_id = tests.the('clinic', 'instance_id')),
  pg_temp.clock('2026-11-23 17:00'), 'as the hour of the day that it was');

-- Many numbers at once ------------------------------------------------------------------------------------------------
delete from private.heard_hours;
insert into public.whatsapp_instances (organization_id, provider, name, external_id, status)
select tests.the('petshop', 'organization_id'), 'evolution', 'Loja ' || n, 'loja ' || n, 'connected' from generate_series(1, 8) n;
update public.whatsapp_instances set status = 'connected';
insert into private.heard_hours (organization_id, instance_id, hour)
select i.organization_id, i.id, date_trunc('hour', now(), 'UTC') - n * interval '1 hour'
from public.whatsapp_instances i
cross join generate_series(0, 800) n;
create function pg_temp.silent(how_many int)
returns void
language sql
as $$
  update public.whatsapp_instances i
  set last_seen_at = date_trunc('hour', now(), 'UTC') - case when n.n <= how_many then interval '24 hours' else interval '0' end
  from (select w.id, row_number() over (order by w.id) as n from public.whatsapp_instances w) n
  where n.id = i.id
$$;
select pg_temp.silent(2);
select is(pg_temp.found('many_numbers_silent'), 'nothing', 'two of ten may be silent, each for itself');
select pg_temp.silent(3);
select is(pg_temp.found('many_numbers_silent'), 'warning 30.0', 'three are many');
select is(pg_temp.reasons(), 'degraded: warning many_numbers_silent', 'for which the platform is unwell');
select pg_temp.silent(5);
select is(pg_temp.found('many_numbers_silent'), 'critical 50.0', 'half of them is critical');
update private.alert_rules set is_active = false where kind = 'instance_silent';
select is(pg_temp.reasons(), 'unhealthy: critical many_numbers_silent', 'whether or not their organizations are told');
update private.alert_rules set is_active = true where kind = 'instance_silent';
delete from private.heard_hours where instance_id in (select w.id from public.whatsapp_instances w order by w.id offset 1);
select pg_temp.silent(1);
select is(pg_temp.found('many_numbers_silent'), 'critical 100.0', 'where one number is known it is everybody');
delete from private.heard_hours;
select is(pg_temp.found('many_numbers_silent'), 'nothing', 'where none is, nobody');
select is(pg_temp.found('many_numbers_down'), 'nothing', 'all are connected');
update public.whatsapp_instances set sending_stopped_at = now(), sending_stopped_code = '190' where name in ('Loja 1', 'Loja 2');
select is(pg_temp.found('many_numbers_down'), 'nothing', 'two of ten may be refused');
update public.whatsapp_instances set status = 'banned' where name in ('Loja 3', 'Loja 4', 'Loja 5');
update public.whatsapp_instances set status = 'disconnected' where name = 'Loja 6';
select is(pg_temp.found('many_numbers_down'), 'critical 55.6', 'five of nine that should work do not; one was disconnected on purpose');
delete from public.whatsapp_instances where name like 'Loja %';
update public.whatsapp_instances set status = 'connecting' where id <> tests.the('clinic', 'instance_id');

-- Health as a whole ---------------------------------------------------------------------------------------------------
insert into public.api_call_logs (organization_id, service, endpoint, method, response_time_ms, success)
select tests.the('petshop', 'organization_id'), c.service, 'x', 'POST', 1, c.success
from (values ('webhook', false), ('webhook', true), ('meta_graph', true)) c (service, success);
select is(
  (select row(h ->> 'error_rate', h ->> 'webhook_failure_rate', h ->> 'active_conversations', h #>> '{providers,meta_cloud,connected}', h ->> 'database')::text
    from (select public.system_health() as h) health),
  '(0.2000,0.5000,2,1,connected)', 'one of five calls failed, one of two webhooks');
select is(
  array(select jsonb_object_keys(public.system_health()) order by 1),
  array[
    'active_conversations', 'cache_hit_rate', 'checked_at', 'connections', 'database', 'database_bytes', 'deadlocks', 'error_rate',
    'instances', 'last_refreshes', 'messages_last_hour', 'oldest_transaction_seconds', 'partitions', 'providers', 'queue', 'reasons',
    'replication_lag_seconds', 'schedules', 'statements', 'status', 'table_sizes', 'webhook_failure_rate'],
  'health has these figures');
select is(jsonb_array_length(public.system_health() -> 'table_sizes'), 10, 'the ten largest tables');

create or replace function private.find_connections(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
as $$ begin raise exception 'out of order'; end $$;
select is(pg_temp.reasons(), 'degraded: warning check_failing', 'a rule that cannot be checked is a reason, and the others are checked');

-- Whose it is ---------------------------------------------------------------------------------------------------------
select tests.authenticate_as_service();
select isnt(public.system_health() ->> 'status', null, 'the secret key is told');
select tests.authenticate_as(tests.the('clinic', 'owner_id'));
select throws_ok('select public.system_health()', '42501', null, 'an owner is not');
select tests.authenticate_as_anon();
select throws_ok('select public.system_health()', '42501', null, 'nobody else is');
select tests.authenticate_as_nobody();

select * from finish();
rollback;
