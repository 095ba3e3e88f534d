-- A clinic closes. Its owner may change his mind for ninety days; then it goes with all that it has, in small steps, and its
-- neighbour keeps everything.
begin;
select plan(32);

alter default privileges grant execute on functions to public;
select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
select tests.authenticate_as_nobody();

create function pg_temp.org() returns uuid language sql as $$ select tests.the('clinic', 'organization_id') $$;

-- Closing and opening ---------------------------------------------------------------------------------------------------------

select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select throws_ok($$ select public.close_organization(pg_temp.org()) $$, 'BL002', null, 'an administrator does not close it');
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select throws_ok($$ select public.close_organization(pg_temp.org()) $$, 'BL002', null, 'nor does the owner of another one');
select throws_ok($$ select public.reopen_organization(pg_temp.org()) $$, 'BL002', null, 'who does not open it, either');
select tests.authenticate_as_anon();
select throws_ok($$ select public.close_organization(pg_temp.org()) $$, '42501', null, 'nor does the public');

select tests.authenticate_as(tests.the('clinic', 'owner_id'));
select is(public.close_organization(pg_temp.org(), 'Mudança'), jsonb_build_object(
  'organization_id', pg_temp.org(), 'closed_at', now(), 'purged_after', now() + interval '90 days'), 'its owner does');
select is(public.close_organization(pg_temp.org()) ->> 'closed_at', to_jsonb(now()) #>> '{}', 'twice is once');
select is((select count(*) from public.contacts where organization_id = pg_temp.org()) > 0, true, 'its members read on');
select results_eq(
  $$ select distinct i.status::text from public.whatsapp_instances i where i.organization_id = pg_temp.org() $$,
  $$ values ('disconnected') $$, 'its numbers are disconnected');
select tests.authenticate_as_nobody();
select is_empty($$ select from private.instance_secrets where organization_id = pg_temp.org() $$, 'and their secrets gone');
select throws_ok(
  $$ update public.whatsapp_instances set status = 'connecting' where organization_id = pg_temp.org() $$, 'BL923', null, 'no number is connected to it');
select results_eq(
  $$ select l.details ->> 'reason' from public.audit_logs l where l.organization_id = pg_temp.org() and l.action = 'organization.closed' $$,
  $$ values ('Mudança') $$, 'the audit log says once that it was closed, and why');

select tests.authenticate_as(tests.the('clinic', 'owner_id'));
select is(public.reopen_organization(pg_temp.org()) -> 'closed_at', 'null'::jsonb, 'its owner opens it again');
select tests.authenticate_as_nobody();
select lives_ok($$ update public.whatsapp_instances set status = 'connecting' where organization_id = pg_temp.org() $$, 'and connects his numbers');

insert into private.platform_admins (user_id, name) values (tests.the('petshop', 'viewer_id'), 'Operador');
select tests.authenticate_as(tests.the('petshop', 'viewer_id'));
select throws_ok($$ select public.close_organization(pg_temp.org()) $$, 'BL903', null, 'the platform needs a reason');
select isnt(public.close_organization(pg_temp.org(), 'Ticket 4711: fraude') ->> 'closed_at', null, 'and with one closes any');
select throws_ok($$ select public.close_organization(gen_random_uuid(), 'Ticket 4711: fraude') $$, 'BL100', null, 'that there is');
select tests.authenticate_as_nobody();

-- When it is due --------------------------------------------------------------------------------------------------------------

select is(private.enqueue_due_purges(now() + interval '90 days'), 0::bigint, 'on the ninetieth day it is still there');
update public.organization_settings set retention_overrides = '{"closed_organizations": 120}' where organization_id = pg_temp.org();
select is(private.enqueue_due_purges(now() + interval '120 days'), 0::bigint, 'or as long as it wished');
select is(private.enqueue_due_purges(now() + interval '120 days 1 second'), 1::bigint, 'then a job is there');
select is(private.enqueue_due_purges(now() + interval '121 days'), 0::bigint, 'once');

-- Purging ---------------------------------------------------------------------------------------------------------------------

-- A row in every table that the set-up has none in; what references nothing needs no story.
insert into public.webhook_events (organization_id, provider, event_type, payload) values (pg_temp.org(), 'meta_cloud', 'x', '{}');
insert into public.api_call_logs (organization_id, service, endpoint, method, response_time_ms, success) values (pg_temp.org(), 'x', 'x', 'GET', 1, true);
insert into public.analytics_events (organization_id, event_name) values (pg_temp.org(), 'x');
insert into private.erasure_salts (organization_id) values (pg_temp.org());
insert into private.erasures (organization_id, contact_id, contact_ids, identity_digests, erased_at) values (pg_temp.org(), gen_random_uuid(), '{}', '{x}', now());
insert into private.restores (organization_id, backup_id, lease_expires_at, manifest) values (pg_temp.org(), gen_random_uuid(), now(), '{}');
insert into public.data_subject_requests (organization_id, kind, requester) values (pg_temp.org(), 'access', 'Maria');
insert into public.backup_metadata (organization_id, backup_type) values (pg_temp.org(), 'manual');
insert into private.lead_usage (organization_id, month, used) values (pg_temp.org(), '2026-01-01', 1) on conflict do nothing;
insert into public.time_off (organization_id, starts_at, ends_at) values (pg_temp.org(), now(), now() + interval '1 hour');
insert into public.locations (organization_id, name, slug) values (pg_temp.org(), 'Filial', 'filial');
insert into public.ai_interactions (organization_id, conversation_id, message_id, action_type, prompt, model)
values (pg_temp.org(), tests.the('clinic', 'conversation_id'), tests.the('clinic', 'message_id'), 'reply', 'x', 'x');
insert into private.unanswered_sends (organization_id, message_id, fencing_token) values (pg_temp.org(), tests.the('clinic', 'message_id'), 1);
insert into private.notification_answers (organization_id, message_id, answer) values (pg_temp.org(), tests.the('clinic', 'message_id'), 'confirm');
insert into private.contact_partings (organization_id, contact_id) values (pg_temp.org(), tests.the('clinic', 'contact_id'));
insert into public.contacts (organization_id, name) select pg_temp.org(), 'Cliente ' || n from generate_series(1, 250) n;
update public.contacts c set merged_into_id = tests.the('clinic', 'contact_id') where c.organization_id = pg_temp.org() and c.name = 'Cliente 7';
insert into public.message_queue (organization_id, job_type) select pg_temp.org(), 'fetch_media' from generate_series(1, 30);
insert into storage.objects (bucket_id, name)
select b, pg_temp.org() || '/2026/11/' || n || '.jpg' from unnest(array['media', 'backups']) b cross join generate_series(1, 3) n;
insert into storage.objects (bucket_id, name) values ('media', tests.the('petshop', 'organization_id') || '/2026/11/1.jpg');

create function pg_temp.rows_of(tenant uuid) returns table (table_name text, row_count bigint) language plpgsql as $$
begin
  for table_name in
    select format('%I.%I', n.nspname, c.relname)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname in ('public', 'private') and c.relkind in ('r', 'p') and not c.relispartition
      and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'organization_id' and not a.attisdropped)
    union all select 'public.organizations'
    order by 1
  loop
    execute format('select count(*) from %s t where t.%I = $1', table_name, case table_name when 'public.organizations' then 'id' else 'organization_id' end)
    using tenant into row_count;
    return next;
  end loop;
end;
$$;
create temporary table before as select * from pg_temp.rows_of(pg_temp.org());
create temporary table neighbours as select * from pg_temp.rows_of(tests.the('petshop', 'organization_id'));
select cmp_ok((select count(*) from before where row_count > 0), '>=', 45::bigint, 'it has rows nearly everywhere');
create temporary table people as select m.user_id from public.user_roles m where m.organization_id = pg_temp.org();

create temporary table steps (n int generated always as identity, answer jsonb, rows_left bigint);
create function pg_temp.claim() returns jsonb language sql as $$
  select jsonb_build_object('organization_id', c.organization_id, 'id', c.id, 'fencing_token', c.fencing_token)
  from public.claim_jobs('me', 1, array['purge_organization']) c
$$;
create temporary table claims as select pg_temp.claim() as claim;

-- Somebody is at a file of it.
update public.message_queue q set status = 'processing', locked_by = 'other', fencing_token = 7, lease_expires_at = now() + interval '1 minute'
where (q.organization_id, q.id) = (select o.organization_id, o.id from public.message_queue o where o.organization_id = pg_temp.org() and o.job_type = 'fetch_media' limit 1);
select is(public.continue_purge((select claim from claims), 20) ->> 'action', 'again', 'its jobs go first');
do $$ begin while public.continue_purge((select claim from claims), 20) ->> 'action' = 'again' loop end loop; end; $$;
select results_eq(
  $$ select q.job_type, q.status::text from public.message_queue q where q.organization_id = pg_temp.org() order by 1 $$,
  $$ values ('fetch_media', 'processing'), ('purge_organization', 'pending') $$,
  'it waits for who has something in hand');
select tests.authenticate_as(tests.the('clinic', 'owner_id'));
select throws_ok($$ select public.reopen_organization(pg_temp.org()) $$, 'BL922', null, 'nobody opens it any more');
select tests.authenticate_as_nobody();

update public.message_queue set status = 'completed', completed_at = now(), locked_by = null, lease_expires_at = null
where organization_id = pg_temp.org() and job_type = 'fetch_media';
update public.message_queue set run_at = now(), is_due = true where organization_id = pg_temp.org();
update claims set claim = pg_temp.claim();
do $$
declare
  answer jsonb;
begin
  loop
    answer := public.continue_purge((select claim from claims), 20);
    if answer ->> 'action' = 'remove' then
      perform set_config('storage.allow_delete_query', 'true', true);
      delete from storage.objects o where o.bucket_id = answer ->> 'bucket' and o.name in (select jsonb_array_elements_text(answer -> 'paths'));
    end if;
    insert into steps (answer, rows_left) select answer, sum(r.row_count) from pg_temp.rows_of(pg_temp.org()) r;
    exit when answer ->> 'action' = 'done';
  end loop;
end;
$$;
select cmp_ok((select max(s.fewer) from (select lag(rows_left) over (order by n) - rows_left as fewer from steps) s), '<=', 45::bigint, 'a step is small');
select is((select answer from steps order by n desc limit 1), '{"action": "done", "reason": "purged"}', 'in the end it is gone');
select results_eq(
  $$ select r.table_name from pg_temp.rows_of(pg_temp.org()) r where r.row_count > 0 order by 1 $$,
  $$ select o.table_name from private.tables_that_outlive() o
     where o.table_name in ('public.audit_logs', 'private.purges') order by 1 $$,
  'nothing is left of it in any table but that it was, and who did what');
select is_empty(
  $$ select from public.audit_logs l where l.organization_id = pg_temp.org() and l.operation = 'DELETE' and l.created_at = now() and l.action = 'contacts.delete' $$,
  'the log does not tell of each row');
select is((select (p.counts ->> 'public.user_roles')::int from private.purges p where p.organization_id = pg_temp.org() and p.completed_at is not null),
  (select row_count::int from before where table_name = 'public.user_roles'), 'but of how many there were');
select results_eq(
  $$ select count(*), count(*) filter (where o.name like tests.the('petshop', 'organization_id') || '/%') from storage.objects o where o.bucket_id in ('media', 'backups') $$,
  $$ values (1::bigint, 1::bigint) $$, 'its files are gone, the neighbour''s is not');
select is((select count(*) from auth.users u join people p on p.user_id = u.id), 4::bigint, 'its people keep their logins');
select results_eq(
  $$ select * from pg_temp.rows_of(tests.the('petshop', 'organization_id')) $$, $$ select * from neighbours $$, 'the neighbour has what he had');

select * from finish();
rollback;
