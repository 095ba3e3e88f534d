-- What must not quietly stop is found when it does.
begin;
-- What this story defines may run as anyone; rolled back with the rest.
alter default privileges grant execute on functions to public;
select no_plan();

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
create function pg_temp.clinic()
returns uuid
language sql
as $$ select tests.the('clinic', 'organization_id') $$;
create function pg_temp.found(kind text, at timestamptz default now())
returns text
language sql
as $$
  select coalesce(string_agg(concat_ws(' ', f.severity, round(f.value), f.detail ->> 'late'), ', '), 'nothing')
  from private.alert_rules r
  cross join lateral private.findings_of(r, found.at) f
  where r.kind = found.kind
$$;

-- Seals -----------------------------------------------------------------------------------------------------------------
select is(pg_temp.found('audit_sealing_stalled', now() + interval '10 minutes'), 'nothing', 'what is not sealed yet may be fresh');
select matches(pg_temp.found('audit_sealing_stalled', now() + interval '20 minutes'), '^warning 1[0-9]{3}$', 'but not old');
select matches(pg_temp.found('audit_sealing_stalled', now() + interval '3 hours'), '^critical', 'nor very old');
update private.audit_sealing s set epoch = private.epoch(), transaction_id = (pg_current_xact_id()::text::bigint + 1)::text::xid8;
select is(pg_temp.found('audit_sealing_stalled', now() + interval '3 hours'), 'nothing', 'sealed, nothing waits');

-- The daily look ------------------------------------------------------------------------------------------------------------
create function pg_temp.looked(hours_ago int, result jsonb)
returns void
language sql
as $$
  insert into private.schedule_runs (name, driver, scheduled_for, started_at, result)
  values ('verify_audit_chains', 'a test', date_trunc('hour', now()) - make_interval(hours => hours_ago),
    now() - make_interval(hours => hours_ago), looked.result)
$$;
select pg_temp.looked(20, null);
select is(pg_temp.found('audit_chain_broken'), 'nothing', 'a look that found nothing is no alert');
select pg_temp.looked(23, jsonb_build_array(jsonb_build_object('organization_id', pg_temp.clinic(), 'first_broken', '{"number": 1}'::jsonb)));
select is(pg_temp.found('audit_chain_broken'), 'critical 1', 'a log that was tampered with is one at once');
select is(
  (select f.detail #>> '{organizations,0,organization_id}' from private.alert_rules r cross join lateral private.find_audit_chain_broken(r, now()) f where r.kind = 'audit_chain_broken'),
  pg_temp.clinic()::text, 'and says whose');
select is(pg_temp.found('audit_chain_broken', now() + interval '3 hours'), 'nothing', 'after a day without another look it is for that one to say');
select pg_temp.looked(-1, null);
select is(pg_temp.found('audit_chain_broken'), 'nothing', 'the next look at the same organizations has the last word');

-- What takes too long -------------------------------------------------------------------------------------------------------
update public.organizations set created_at = now();
delete from public.backup_metadata;
select is(pg_temp.found('backup_overdue', now() + interval '29 hours'), 'nothing', 'a day without a backup');
select is(pg_temp.found('backup_overdue', now() + interval '31 hours'), 'warning 31 2', 'and more than a day, of two organizations');
insert into public.backup_metadata (organization_id, backup_type, status, storage_path, checksum, size_bytes, row_counts, key_id, completed_at, expires_at)
select pg_temp.clinic(), 'daily', 'completed', 'x', repeat('0', 64), 1, '{}', 'k1', now() + interval '20 hours', now() + interval '30 days';
select is(pg_temp.found('backup_overdue', now() + interval '55 hours'), 'critical 55 2', 'a backup holds for a day, too');
select is(pg_temp.found('backup_overdue', now() + interval '45 hours'), 'warning 45 1', 'whose is fresh is not late');

update private.erasures set completed_at = now();
insert into private.erasures (organization_id, contact_id, contact_ids, identity_digests, erased_at)
values (pg_temp.clinic(), gen_random_uuid(), '{}', '{}', now());
select is(pg_temp.found('erasure_stuck'), 'nothing', 'an erasure takes its time');
select is(pg_temp.found('erasure_stuck', now() + interval '2 hours'), 'warning 2 1', 'but not hours');
update private.erasures set completed_at = now();
select is(pg_temp.found('erasure_stuck', now() + interval '2 hours'), 'nothing', 'done, it is done');

insert into private.purges (organization_id, closed_at) values (gen_random_uuid(), now() - interval '90 days');
select is(pg_temp.found('purge_stuck', now() + interval '23 hours'), 'nothing', 'a purge takes a night');
select is(pg_temp.found('purge_stuck', now() + interval '73 hours'), 'critical 73 1', 'not three');

delete from public.message_archives;
insert into public.message_archives (organization_id, month, storage_path, row_count, content_sha256, content_bytes)
values (pg_temp.clinic(), '2020-01-01', 'x', 1, repeat('0', 64), 1);
select is(pg_temp.found('archive_stuck', now() + interval '25 hours'), 'warning 25 1', 'what is laid down and not stored is stuck after a day');

select is(pg_temp.found('data_subject_request_overdue', now() + interval '14 days'), 'nothing', 'a person may wait fifteen days');
select is(pg_temp.found('data_subject_request_overdue', now() + interval '17 days'), 'warning 2 2', 'not more');
update public.data_subject_requests set status = 'done', completed_at = now();
select is(pg_temp.found('data_subject_request_overdue', now() + interval '17 days'), 'nothing', 'answered, it is answered');

select * from finish();
rollback;
