-- A year goes by, month by month, and nothing of it is kept too long or too short: by the platform's periods, and by an
-- organization's own.
begin;
select plan(27);

alter default privileges grant execute on functions to public;
select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
select tests.authenticate_as_nobody();

-- What an organization may wish for -------------------------------------------------------------------------------------------

create function pg_temp.wish(overrides jsonb) returns void language sql as $$
  update public.organization_settings set retention_overrides = overrides where organization_id = tests.the('petshop', 'organization_id')
$$;
select throws_ok($$ select pg_temp.wish('{"jokes": 400}') $$, 'BL921', null, 'nobody keeps a kind that there is not');
select throws_ok($$ select pg_temp.wish('{"webhook_events": 29}') $$, 'BL921', null, 'nobody keeps anything shorter than the platform');
select throws_ok($$ select pg_temp.wish('{"webhook_events": 45.5}') $$, 'BL921', null, 'days are whole');
select throws_ok($$ select pg_temp.wish('{"webhook_events": "90"}') $$, 'BL921', null, 'days are a number');
select throws_ok($$ select pg_temp.wish('{"messages": 1000000}') $$, 'BL921', null, 'a hundred years are enough');
select lives_ok($$ select pg_temp.wish('{"webhook_events": 30}') $$, 'the platform''s own period is fine');
select tests.authenticate_as(tests.the('petshop', 'admin_id'));
select throws_ok($$ select pg_temp.wish('{"messages": 30}') $$, 'BL921', null, 'an administrator is told, too');
select lives_ok($$ select pg_temp.wish('{"webhook_events": 90, "api_call_logs": 61, "analytics_events": 500, "audit_logs": 2557, "audit_ip_addresses": 120}') $$,
  'an administrator keeps longer what he wants to');
select tests.authenticate_as_nobody();

-- A year ------------------------------------------------------------------------------------------------------------------------

create temporary table kept_days (kind text, tenant text, days int);
insert into kept_days values
  ('webhook_events', 'clinic', 30), ('webhook_events', 'petshop', 90), ('webhook_events', null, 30),
  ('api_call_logs', 'clinic', 30), ('api_call_logs', 'petshop', 61),
  ('analytics_events', 'clinic', 400), ('analytics_events', 'petshop', 500);
create temporary table written (kind text, tenant text, id uuid, created_at timestamptz);
create temporary table problems (month int, problem text);
delete from public.webhook_events;
delete from public.api_call_logs;
delete from public.analytics_events;

create function pg_temp.write_month(from_at timestamptz, to_at timestamptz) returns void language plpgsql as $$
begin
  -- Every eleven hours, and at the very first and last moment of the month.
  insert into written
  select k.kind, k.tenant, gen_random_uuid(), x.at
  from kept_days k
  cross join (
    select * from generate_series(from_at, to_at - interval '1 microsecond', interval '11 hours')
    union select to_at - interval '1 microsecond'
  ) x (at);
  insert into public.webhook_events (organization_id, id, provider, event_type, payload, created_at)
  select tests.the(w.tenant, 'organization_id'), w.id, 'meta_cloud', 'messages', '{}', w.created_at
  from written w where w.kind = 'webhook_events' and w.created_at >= from_at;
  insert into public.api_call_logs (organization_id, id, service, endpoint, method, response_time_ms, success, created_at)
  select tests.the(w.tenant, 'organization_id'), w.id, 'x', 'x', 'GET', 1, true, w.created_at
  from written w where w.kind = 'api_call_logs' and w.created_at >= from_at;
  insert into public.analytics_events (organization_id, id, event_name, occurred_at, created_at)
  select tests.the(w.tenant, 'organization_id'), w.id, 'x', w.created_at, w.created_at
  from written w where w.kind = 'analytics_events' and w.created_at >= from_at;
end;
$$;

create function pg_temp.clean_up(at timestamptz) returns int language plpgsql as $$
declare
  dropped int := 0;
begin
  perform private.maintain_partitions(3, at);
  while private.delete_past_rows('webhook_events', at, 500) > 0 loop end loop;
  while private.delete_past_rows('api_call_logs', at, 70) > 0 loop end loop;
  while private.delete_past_rows('analytics_events', at, 500) > 0 loop end loop;
  while private.drop_past_partition(at) is not null loop dropped := dropped + 1; end loop;
  return dropped;
end;
$$;

create function pg_temp.look_after(month int, at timestamptz) returns void language plpgsql as $$
declare
  log text;
  child record;
  has_rows boolean;
begin
  for log in select distinct k.kind from kept_days k loop
    execute format(
      $q$ insert into problems
      select $1, %1$L || ': ' || x.problem || ' ' || count(*)
      from (
        select 'too young for it, and gone' as problem
        from written w join kept_days k using (kind)
        where w.kind = %1$L and k.tenant is not distinct from w.tenant and w.created_at >= $2 - make_interval(days => k.days)
          and not exists (select from public.%1$I t where t.id = w.id)
        union all
        select 'too old, and there'
        from public.%1$I t join written w on w.id = t.id join kept_days k on k.kind = w.kind and k.tenant is not distinct from w.tenant
        where t.created_at < $2 - make_interval(days => k.days)
      ) x group by x.problem $q$, log)
    using month, at;
  end loop;
  insert into problems
  select month, format('%s_%s is missing', l.log, to_char(m.at at time zone 'UTC', 'YYYY_MM'))
  from unnest(array['webhook_events', 'api_call_logs', 'analytics_events', 'audit_logs', 'audit_log_values']) l (log)
  cross join generate_series(date_trunc('month', at, 'UTC'), at + interval '3 months', interval '1 month') m (at)
  where to_regclass(format('partitions.%s_%s', l.log, to_char(m.at at time zone 'UTC', 'YYYY_MM'))) is null;
  for child in select c.relname from pg_class c where c.relnamespace = 'partitions'::regnamespace and c.relname ~ '_default$' and c.relkind = 'r' loop
    execute format('select exists (select from partitions.%I)', child.relname) into has_rows;
    if has_rows then
      insert into problems values (month, child.relname || ' is not empty');
    end if;
  end loop;
end;
$$;

create temporary table years (month int, dropped int);
do $$
declare
  first_of_month constant timestamptz := date_trunc('month', now(), 'UTC');
  at timestamptz;
begin
  for month in 1..18 loop
    perform pg_temp.write_month(first_of_month + make_interval(months => month - 1), first_of_month + make_interval(months => month));
    -- In the middle of the next month, at an odd time; and once at its very beginning.
    at := first_of_month + make_interval(months => month) + case when month = 6 then interval '0' else interval '14 days 03:07:11' end;
    insert into years values (month, pg_temp.clean_up(at));
    perform pg_temp.look_after(month, at);
  end loop;
end;
$$;
select is_empty($$ select * from problems $$,
  'month by month: partitions are there ahead, the default ones empty, nothing younger than its time is gone, nothing older is left');
select cmp_ok((select sum(y.dropped) from years y), '>=', 30::bigint, 'what is past everybody''s time went by the month');
select is_empty(
  $$
    select c.relname from pg_class c
    where c.relnamespace = 'partitions'::regnamespace and c.relname ~ '^webhook_events_\d{4}_\d\d$'
      and to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month'
        <= (date_trunc('month', now(), 'UTC') + interval '18 months 14 days' - interval '90 days') at time zone 'UTC'
  $$,
  'no month is there that is past the longest retention');
select is(private.drop_past_partition(now()), null, 'with the clock of today there is nothing to drop');
select throws_like($$ select private.delete_past_rows('contacts') $$, '%is no log%', 'no other table is deleted from');

-- What was told of messages that never came
insert into private.parked_message_updates (organization_id, instance_id, whatsapp_message_id, change, created_at)
select tests.the(t.tenant, 'organization_id'), tests.the(t.tenant, 'instance_id'), t.tenant || a.days,
  jsonb_populate_record(null::private.inbound_event, '{"kind": "status"}'), now() - make_interval(days => a.days)
from (values ('clinic'), ('petshop')) t (tenant) cross join (values (29), (31), (91)) a (days);
select is(private.delete_parked_message_updates(), 3::bigint, 'what waited in vain goes with what providers sent');
select set_eq(
  $$ select whatsapp_message_id from private.parked_message_updates where whatsapp_message_id ~ '^(clinic|petshop)\d' $$,
  array['clinic29', 'petshop29', 'petshop31'], 'each by its organization''s own time');

-- The audit log, over seven years -------------------------------------------------------------------------------------------

do $$
begin
  for months in 1..100 loop
    perform private.maintain_partitions(0, now() - make_interval(months => months));
  end loop;
end;
$$;
-- A row every nine days of the last eight years, two to a transaction; sealed three transactions at a time, so that seals reach over months.
insert into public.audit_logs (organization_id, id, epoch, transaction_id, actor_role, operation, action, values_digest, origin_digest, created_at)
select tests.the(t.tenant, 'organization_id'), private.uuid_v7(), 1, (100 + n / 2)::text::xid8, 'owner', 'EVENT', 'x', '\x00', '\x00',
  now() - interval '8 years' + make_interval(days => 18 * (n / 2))
from (values ('clinic'), ('petshop')) t (tenant) cross join generate_series(0, 2 * 162) n;
insert into public.audit_log_values (organization_id, audit_log_id, ip_address, user_agent, created_at)
select l.organization_id, l.id, case when l.transaction_id::text::int % 2 = 0 then '203.0.113.77' else '2001:db8:1:2:3:4:5:6' end::inet, 'x', l.created_at
from public.audit_logs l where l.action = 'x';
do $$
begin
  alter table public.audit_logs disable trigger audit_logs_500_refuse;
  update public.audit_logs l
  set values_digest = private.audit_values_digest(v), origin_digest = private.audit_origin_digest(v)
  from public.audit_log_values v
  where l.action = 'x' and v.organization_id = l.organization_id and v.audit_log_id = l.id and v.created_at = l.created_at;
  alter table public.audit_logs enable trigger audit_logs_500_refuse;
  for n in 0..54 loop
    perform private.seal_audit_epoch(1, (100 + 3 * n)::text::xid8, (103 + 3 * n)::text::xid8);
  end loop;
end;
$$;
select is(
  (select array_agg(private.verify_audit_chain(tests.the(t, 'organization_id')) ->> 'is_intact') from unnest(array['clinic', 'petshop']) t),
  array['true', 'true'], 'eight years are in the log, and their chain is intact');

create temporary table audit_problems (tenant text, at timestamptz, problem text);
create temporary table audited as
select t.tenant, l.organization_id, l.id, l.created_at, s.last_created_at as seal_ends
from (values ('clinic'), ('petshop')) t (tenant)
join public.audit_logs l on l.organization_id = tests.the(t.tenant, 'organization_id') and l.action = 'x'
join public.audit_seals s on s.organization_id = l.organization_id and l.transaction_id >= s.from_transaction_id and l.transaction_id < s.to_transaction_id
  and s.last_created_at >= l.created_at;
do $$
declare
  at timestamptz;
begin
  for step in reverse 12..0 loop
    at := now() - make_interval(months => 2 * step);
    while private.delete_old_audit_logs(at, 15) > 0 loop end loop;
    while private.drop_past_partition(at) is not null loop end loop;
    insert into audit_problems
    select a.tenant, at, case when l.id is null then 'gone too early' else 'kept too long' end
    from audited a
    left join public.audit_logs l on l.organization_id = a.organization_id and l.id = a.id and l.created_at = a.created_at
    where (l.id is not null) <> (a.seal_ends >= at - make_interval(days => case a.tenant when 'clinic' then 1827 else 2557 end));
    insert into audit_problems
    select 'values', at, v.audit_log_id::text
    from public.audit_log_values v
    left join public.audit_logs l on l.organization_id = v.organization_id and l.id = v.audit_log_id and l.created_at = v.created_at
    where l.id is null;
  end loop;
end;
$$;
select is_empty($$ select * from audit_problems $$, 'the audit log goes after five years, or an organization''s seven, by whole seals, and its values with it');
select is(
  (select array_agg(private.verify_audit_chain(tests.the(t, 'organization_id')) ->> 'is_intact') from unnest(array['clinic', 'petshop']) t),
  array['true', 'true'], 'the chains are intact');
select cmp_ok((select count(*) from audited a left join public.audit_logs l on l.id = a.id where l.id is null), '>', 100::bigint, 'there was something to delete');
select is_empty(
  $$ select c.relname from pg_class c where c.relnamespace = 'partitions'::regnamespace and c.relname ~ '^audit_log.*_\d{4}_\d\d$'
    and to_date(right(c.relname, 7), 'YYYY_MM') + interval '2 months' < now() - interval '2557 days' - interval '60 days' $$,
  'their empty months are gone');
update public.organization_settings set retention_overrides = '{"audit_logs": 5000}' where organization_id = tests.the('clinic', 'organization_id');
select is(private.verify_audit_chain(tests.the('clinic', 'organization_id')) ->> 'is_intact', 'true',
  'whoever wishes to keep it longer later on gets nothing back, and no alarm');
select is(private.delete_old_audit_logs(), 0::bigint, 'a second time there is nothing to do');

-- Addresses ---------------------------------------------------------------------------------------------------------------------

do $$ begin while private.anonymize_addresses(now(), 7) > 0 loop end loop; end; $$;
select is_empty(
  $$
    select v.created_at, v.ip_address
    from public.audit_log_values v
    join audited a on a.id = v.audit_log_id
    where private.is_anonymous(v.ip_address) <> (v.created_at < now() - make_interval(days => case a.tenant when 'clinic' then 90 else 120 end))
  $$,
  'an address names no host after ninety days, or an organization''s hundred and twenty; not earlier');
select set_eq(
  $$ select host(v.ip_address) || '/' || masklen(v.ip_address) from public.audit_log_values v join audited a on a.id = v.audit_log_id where private.is_anonymous(v.ip_address) $$,
  array['203.0.113.0/24', '2001:db8:1::/48'], 'what is left says about where it was');
select is(
  (select array_agg(private.verify_audit_chain(tests.the(t, 'organization_id')) ->> 'is_intact') from unnest(array['clinic', 'petshop']) t),
  array['true', 'true'], 'and the chains are intact');

-- By the clock
select is_empty(
  $$
    select p.proname
    from pg_proc p
    where p.pronamespace = 'private'::regnamespace
      and p.proname in (
        'maintain_partitions', 'drop_past_partition', 'delete_past_rows', 'delete_parked_message_updates', 'anonymize_addresses',
        'delete_old_audit_logs', 'continue_purge', 'delete_rows_of', 'continue_archive')
      and not exists (
        select from unnest(p.proconfig) c
        where c ~ '^lock_timeout=' and split_part(c, '=', 2)::interval between interval '1 ms' and interval '2 s')
  $$,
  'none of them waits for a lock longer than moments');
select is_empty(
  $$
    select s.name
    from private.schedules s
    cross join lateral (select private.run_schedule(s.name, true, 'test') as run) r
    where s.name in (
      'delete_old_webhook_events', 'delete_old_api_call_logs', 'delete_old_analytics_events', 'delete_parked_message_updates',
      'anonymize_addresses', 'delete_old_audit_logs', 'drop_past_partition', 'purge_closed_organizations', 'maintain_partitions')
      and (r.run ->> 'ran' <> 'true' or r.run ->> 'error' is not null)
  $$,
  'each of them runs by the clock');

select * from finish();
rollback;
