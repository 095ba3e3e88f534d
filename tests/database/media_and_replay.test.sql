-- A file that comes with a message gets a copy of our own; a delivery that came too early is understood later.
begin;
-- What this story defines may run as anyone; rolled back with the rest.
alter default privileges grant execute on functions to public;
select plan(29);

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');

create function pg_temp.work(job_type text)
returns jsonb
language sql
as $$
  select jsonb_build_object('organization_id', c.organization_id, 'id', c.id, 'fencing_token', c.fencing_token)
  from public.claim_jobs('w', 1, array[job_type]) c
$$;
create function pg_temp.a_photo(id text)
returns jsonb
language sql
as $$
  select tests.a_message(id, '5511987654321', 'Olha') || '{"message_type": "image", "media": {"id": "m-1", "mime_type": "image/jpeg", "sha256": "x"}}'::jsonb
$$;
create temporary table held (job jsonb);

select is((tests.deliver('clinic', pg_temp.a_photo('p1')) ->> 'jobs')::int, 1, 'a photo brings a job along');
select is((tests.deliver('clinic', pg_temp.a_photo('p1')) - 'jobs' ->> 'duplicates')::int, 1, 'its redelivery');
select is((select count(*) from public.message_queue where job_type = 'fetch_media'), 1::bigint, 'brings none');
insert into held select pg_temp.work('fetch_media');
create temporary table orders as select public.begin_media_fetch(job) as o from held;
select is((select o ->> 'action' from orders), 'fetch', 'the worker is told to fetch');
select ok((select o ->> 'path_prefix' like tests.the('clinic', 'organization_id') || '/%' from orders), 'to a path of the organization');
select is((select public.finish_media_fetch(job, jsonb_build_object('result', 'stored', 'path', (select o ->> 'path_prefix' from orders) || '.jpg', 'mime_type', 'image/jpeg', 'size', 1234, 'sha256', 'x')) ->> 'reason' from held), 'stored', 'what came of it ends the job');
select ok(
  (select m.media_url like 'media/' || tests.the('clinic', 'organization_id') || '/%.jpg' and (m.media ->> 'size')::int = 1234 from public.messages m where m.whatsapp_message_id = 'p1'),
  'and the message names our copy');
select tests.deliver('clinic', pg_temp.a_photo('p2'));
update held set job = pg_temp.work('fetch_media');
select public.begin_media_fetch(job) from held;
select public.finish_media_fetch(job, '{"result": "refused", "reason": "too_large", "detail": "120000000 bytes"}') from held;
select is((select m.media ->> 'error' from public.messages m where m.whatsapp_message_id = 'p2'), 'too_large', 'a file that we refuse says why');
select tests.deliver('clinic', pg_temp.a_photo('p3'));
update held set job = pg_temp.work('fetch_media');
select (public.fail_job((job ->> 'organization_id')::uuid, (job ->> 'id')::uuid, (job ->> 'fencing_token')::bigint, 'storage is down', is_permanent => true)).status from held;
select is((select m.media ->> 'error' from public.messages m where m.whatsapp_message_id = 'p3'), 'attempts_exhausted', 'and one that we gave up');
select tests.deliver('clinic', pg_temp.a_photo('p4'));
delete from private.instance_secrets where organization_id = tests.the('clinic', 'organization_id');
update held set job = pg_temp.work('fetch_media');
select is((select public.begin_media_fetch(job) ->> 'reason' from held), 'instance_disconnected', 'without the number''s token nothing is fetched');

select tests.deliver('clinic', pg_temp.a_photo('p5'));
insert into private.instance_secrets (organization_id, instance_id, access_token)
values (tests.the('clinic', 'organization_id'), tests.the('clinic', 'instance_id'), tests.sealed());
update held set job = pg_temp.work('fetch_media');
select (public.fail_job((job ->> 'organization_id')::uuid, (job ->> 'id')::uuid, (job ->> 'fencing_token')::bigint, '190: expired')).status from held;
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select public.update_instance(tests.the('clinic', 'organization_id'), tests.the('clinic', 'instance_id'), access_token => tests.sealed() || 'B');
select tests.authenticate_as_nobody();
select is(
  (select array_agg(q.status::text || ' ' || q.is_due order by q.position) from public.message_queue q where q.job_type = 'fetch_media' and q.status <> 'completed'),
  '{"pending true","failed true"}', 'a new token tries again what the old one could not fetch, the dead one too');

-- The bucket ----------------------------------------------------------------------------------------------------------
select is((select row(b.public, b.file_size_limit)::text from storage.buckets b where b.id = 'media'), '(f,104857600)', 'the bucket is private');
insert into storage.objects (bucket_id, name)
select 'media', tests.the(t, 'organization_id') || '/2026/11/x.jpg' from unnest('{clinic,petshop}'::text[]) t;
select tests.authenticate_as(tests.the('clinic', 'viewer_id'));
select is(
  (select array_agg(o.name) from storage.objects o where o.bucket_id = 'media'),
  array[tests.the('clinic', 'organization_id') || '/2026/11/x.jpg'], 'a member sees the organization''s files and no other''s');
select throws_ok(
  format($$ insert into storage.objects (bucket_id, name) values ('media', '%s/outgoing/x.jpg') $$, tests.the('clinic', 'organization_id')), '42501', null, 'a viewer uploads nothing');
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select lives_ok(
  format($$ insert into storage.objects (bucket_id, name) values ('media', '%s/outgoing/x.jpg') $$, tests.the('clinic', 'organization_id')), 'an attendant uploads what is to be sent');
select throws_ok(
  format($$ insert into storage.objects (bucket_id, name) values ('media', '%s/2026/11/y.jpg') $$, tests.the('clinic', 'organization_id')), '42501', null, 'but nothing among what customers sent');
select throws_ok(
  format($$ insert into storage.objects (bucket_id, name) values ('media', '%s/outgoing/x.jpg') $$, tests.the('petshop', 'organization_id')), '42501', null, 'and nothing into another organization');
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select is((select count(*) from storage.objects o where o.name like tests.the('clinic', 'organization_id') || '%'), 0::bigint, 'whose owner sees none of it');
select tests.authenticate_as_anon();
select is((select count(*) from storage.objects), 0::bigint, 'and nobody nothing');
select tests.authenticate_as_nobody();

-- Replay ----------------------------------------------------------------------------------------------------------------
select public.ingest_webhook('meta_cloud', 'app-of-clinic---', '{}', 'sha256=00', jsonb_build_array(jsonb_build_object(
  'external_id', 'number-not-yet', 'event_type', 'messages', 'payload', '{"kept": true}'::jsonb, 'unknown', 0, 'events', jsonb_build_array(tests.a_message('r1', '5511911112222', 'Tem alguém?')))));
create temporary table early as select e.id from public.webhook_events e where e.external_id = 'number-not-yet';
grant select on early to authenticated, service_role;
select is((select row(e.processed, e.processing_error, e.app_key)::text from public.webhook_events e join early using (id)), '(f,number_not_registered,app-of-clinic---)', 'what came for a number that nobody registered is kept');
select throws_ok($$ select public.replay_webhook_event((select id from early)) from (select tests.authenticate_as_service()) x $$, 'BL317', null, 'as long as nobody has it cannot be replayed');
select tests.authenticate_as_nobody();
insert into public.whatsapp_instances (organization_id, provider, name, external_id, meta_app_key)
values (tests.the('clinic', 'organization_id'), 'meta_cloud', 'Filial', 'number-not-yet', 'app-of-clinic---');
select throws_ok($$ select public.replay_webhook_event((select id from early), tests.the('petshop', 'organization_id')) from (select tests.authenticate_as(tests.the('petshop', 'owner_id'))) x $$, 'BL315', null, 'another tenant cannot at all');
select tests.authenticate_as_service();
select lives_ok($$ select public.replay_webhook_event((select id from early)) $$, 'the platform replays it, once the number is registered');
select tests.authenticate_as_nobody();
update held set job = pg_temp.work('replay_webhook_event');
select is((select public.begin_replay(job) #>> '{payload,kept}' from held), 'true', 'the worker gets what came');
select is(
  (select (public.finish_replay(job, jsonb_build_array(jsonb_build_object(
    'external_id', 'number-not-yet', 'event_type', 'messages', 'payload', '{}'::jsonb, 'unknown', 0, 'events', jsonb_build_array(tests.a_message('r1', '5511911112222', 'Tem alguém?'))))) ->> 'messages')::int from held),
  1, 'and its message is stored');
select is(
  (select row(e.processed, e.processing_error, e.retry_count, e.organization_id)::text from public.webhook_events e join early using (id)),
  format('(t,,1,%s)', tests.the('clinic', 'organization_id')), 'the event is its tenant''s now, and processed');
select is((select count(*) from public.webhook_events where external_id = 'number-not-yet'), 1::bigint, 'there is still one of it');
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select lives_ok($$ select public.replay_webhook_event((select id from early), tests.the('clinic', 'organization_id')) $$, 'now its admin may replay it too');
select tests.authenticate_as_nobody();
update public.whatsapp_instances set status = 'disconnected' where external_id = 'number-not-yet';
update private.meta_apps set organization_id = null where app_key = 'app-of-clinic---';
insert into public.whatsapp_instances (organization_id, provider, name, external_id, meta_app_key)
values (tests.the('petshop', 'organization_id'), 'meta_cloud', 'Loja', 'number-not-yet', 'app-of-clinic---');
update held set job = pg_temp.work('replay_webhook_event');
select is((select public.begin_replay(job) ->> 'reason' from held), 'event_gone', 'but nothing is replayed into the inbox of whoever has the number by then');

select tests.authenticate_as_nobody();
select * from finish();
rollback;
