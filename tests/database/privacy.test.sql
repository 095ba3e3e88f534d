-- What persons ask for is noted down and answered in time; and who was erased does not come back by what a provider says late.
begin;
alter default privileges grant execute on functions to public;
select plan(31);

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');

-- Requests --------------------------------------------------------------------------------------------------------------

select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select is(
  (select array[r.status::text, r.kind::text, r.is_open::text, (r.due_at - r.requested_at)::text, (r.opened_by = tests.the('clinic', 'attendant_id'))::text]
   from public.open_data_subject_request('access', tests.the('clinic', 'contact_id'), requested_at => now() - interval '2 days') r),
  array['open', 'access', 'true', '15 days', 'true'],
  'an attendant notes down what somebody asks for: due fifteen days after he did');
select is_empty($$ select from public.data_subject_requests $$, 'and reads none of them');
select throws_ok($$ select public.open_data_subject_request('access') $$, 'BL911', null, 'whoever asks is somebody');
select throws_ok($$ select public.open_data_subject_request('access', requester => 'x', requested_at => now() - interval '61 days') $$, 'BL911', null,
  'and asked lately');
select throws_ok(format('select public.open_data_subject_request(''access'', %L)', tests.the('petshop', 'contact_id')), 'BL402', null,
  'another tenant''s contact is not found');
select throws_ok(
  format('select public.open_data_subject_request(''access'', requester => ''x'', organization_id => %L)', tests.the('petshop', 'organization_id')),
  'BL002', null, 'nor is anything noted down there');
select tests.authenticate_as(tests.the('clinic', 'viewer_id'));
select throws_ok($$ select public.open_data_subject_request('access', requester => 'x') $$, 'BL002', null, 'a viewer notes down nothing');
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select throws_ok($$ select public.update_data_subject_request(gen_random_uuid(), 'done') $$, 'BL002', null, 'an attendant answers nothing');

select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select throws_ok($$ insert into public.data_subject_requests (kind) values ('access') $$, '42501', null, 'requests are written through functions only');
select throws_ok($$ select public.update_data_subject_request(gen_random_uuid(), 'done') $$, 'BL913', null, 'one that is not there is not found');
select throws_ok($$ select public.update_data_subject_request((select id from public.data_subject_requests where contact_id is not null), 'refused') $$, 'BL903', null,
  'who refuses says why');
select is(
  (select array[r.status::text, r.notes, (r.completed_at is null)::text] from public.update_data_subject_request((select id from public.data_subject_requests where contact_id is not null), 'in_progress', notes => 'Procurando') r),
  array['in_progress', 'Procurando', 'true'], 'it is begun');
select is(
  (select array[r.status::text, r.is_open::text, (r.completed_at = now())::text, (r.handled_by = tests.the('clinic', 'admin_id'))::text, r.notes]
   from public.update_data_subject_request((select id from public.data_subject_requests where contact_id is not null), 'done') r),
  array['done', 'false', 'true', 'true', 'Procurando'], 'and answered, by somebody');
select throws_ok($$ select public.update_data_subject_request((select id from public.data_subject_requests where contact_id is not null), 'open') $$, 'BL914', null,
  'what has been answered stays so');
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select is_empty($$ select from public.data_subject_requests where contact_id is not null $$, 'another tenant sees none of it');

-- Late news ---------------------------------------------------------------------------------------------------------------

select tests.authenticate_as_nobody();
create function pg_temp.org() returns uuid language sql as $$ select tests.the('clinic', 'organization_id') $$;
create function pg_temp.meta(variadic events jsonb[]) returns jsonb language sql as $$
  select public.ingest_webhook('meta_cloud', t.app_key, '{}', 'sha256=00', jsonb_build_array(jsonb_build_object(
    'external_id', 'number-of-clinic', 'event_type', 'messages', 'unknown', 0, 'events', to_jsonb(events),
    'payload', jsonb_build_object('entry', (
      select jsonb_agg(jsonb_build_object('id', e ->> 'whatsapp_message_id', 'from', e #>> '{identities,0,value}', 'text', e ->> 'content'))
      from unnest(events) e)))))
  from tests.tenants t where t.name = 'clinic'
$$;
create function pg_temp.inventory() returns jsonb language sql as $$
  select jsonb_build_object(
    'contacts', (select count(*) from public.contacts where organization_id = pg_temp.org()),
    'identities', (select count(*) from public.contact_identities where organization_id = pg_temp.org()),
    'messages', (select count(*) from public.messages where organization_id = pg_temp.org()),
    'said', (select count(*) from public.messages where organization_id = pg_temp.org() and content is not null),
    'conversations', (select count(*) from public.conversations where organization_id = pg_temp.org()),
    'parked', (select count(*) from private.parked_message_updates where organization_id = pg_temp.org()),
    'told', (select count(*) from public.webhook_events where organization_id = pg_temp.org() and payload::text ~ '5521977776666'))
$$;

select pg_temp.meta(tests.a_message('wamid.hers.1', '5521977776666', 'Oi, sou a Paula', now() - interval '1 hour'));
select pg_temp.meta(tests.a_message('wamid.joana.1', '5521955554444', 'Oi, sou a Joana', now() - interval '1 hour'));
create temporary table paula as
select m.contact_id, m.conversation_id, m.id as message_id from public.messages m where m.whatsapp_message_id = 'wamid.hers.1';
-- One that is on its way to the provider, one that was sent, and a file that is on its way in.
insert into public.messages (organization_id, id, conversation_id, contact_id, instance_id, direction, sender, message_type, status, content, whatsapp_message_id, media)
select pg_temp.org(), x.id::uuid, p.conversation_id, p.contact_id, tests.the('clinic', 'instance_id'), x.direction::public.message_direction,
  x.sender::public.message_sender, x.type::public.message_type, x.status::public.message_status, x.content, x.wamid, x.media::jsonb
from paula p
cross join (values
  ('00000000-0000-4000-8000-0000000000a1', 'outbound', 'human', 'text', 'queued', 'Olá, Paula', null, null),
  ('00000000-0000-4000-8000-0000000000a2', 'outbound', 'human', 'text', 'sent', 'Tudo bem?', 'wamid.ours.2', null),
  ('00000000-0000-4000-8000-0000000000a3', 'inbound', 'contact', 'image', 'received', 'Olha', 'wamid.hers.3', '{"id": "99887766"}')
) x (id, direction, sender, type, status, content, wamid, media);
create temporary table jobs as
select q.* from public.message_queue q where false;
insert into jobs select j.* from private.enqueue_job(pg_temp.org(), 'send_message', '{"message_id": "00000000-0000-4000-8000-0000000000a1"}', 0, now(), null, null, 8) j;
insert into jobs select q.* from public.message_queue q where q.organization_id = pg_temp.org() and q.job_type = 'fetch_media';
delete from public.message_queue q where q.organization_id = pg_temp.org() and q.id not in (select id from jobs);
create temporary table held as select c.* from private.claim_jobs('test', 10, array['send_message', 'fetch_media'], interval '5 minutes', null) c;
create function pg_temp.job(type text) returns jsonb language sql as $$
  select jsonb_build_object('organization_id', h.organization_id, 'id', h.id, 'fencing_token', h.fencing_token) from held h where h.job_type = type
$$;
select is(public.begin_media_fetch(pg_temp.job('fetch_media')) ->> 'action', 'fetch', 'a file of hers is being fetched');

insert into private.parked_message_updates (organization_id, instance_id, whatsapp_message_id, change)
select pg_temp.org(), tests.the('clinic', 'instance_id'), 'wamid.late', jsonb_populate_record(null::private.inbound_event, '{"kind": "status"}');
select isnt(private.erase_contact((select contact_id from paula), 'Pedido 7', pg_temp.org()), null, 'Paula is erased');
create temporary table after_erasure as select pg_temp.inventory() as inventory;

select is(
  (select array[m.status::text, m.error_code, m.content] from public.messages m where m.id = '00000000-0000-4000-8000-0000000000a1'),
  array['failed', 'contact_erased', null], 'what was queued for her is not sent');
select public.finish_send(pg_temp.job('send_message'),
  '{"result": "accepted", "whatsapp_message_id": "wamid.ours.1", "identities": [{"kind": "wa_id", "value": "5521977776666"}]}');
select public.finish_media_fetch(pg_temp.job('fetch_media'), '{"result": "stored", "path": "a/b.jpg", "mime_type": "image/jpeg", "size": 1}');
select results_eq(
  $$ select m.whatsapp_message_id ~ '^erased:[0-9a-f]{64}$', m.media, m.media_url from public.messages m where m.contact_id = (select contact_id from paula) $$,
  $$ select true, null::jsonb, null::text from generate_series(1, 4) $$,
  'a call that was under way ends without leaving anything of her');

select pg_temp.meta(tests.a_message('wamid.hers.1', '5521977776666', 'Oi, sou a Paula', now() - interval '1 hour'));
select is(pg_temp.inventory() - 'told', (select inventory - 'told' from after_erasure), 'a message that is delivered again brings nobody back');
select pg_temp.meta(
  tests.a_status('wamid.ours.2', 'read', now(), '{"identities": [{"kind": "wa_id", "value": "5521977776666"}]}'),
  tests.a_status('wamid.ours.9', 'read', now(), '{"message_id": "00000000-0000-4000-8000-0000000000a1", "identities": [{"kind": "wa_id", "value": "5521977776666"}]}'),
  tests.a_status('wamid.of.another.app', 'read', now(), '{"identities": [{"kind": "wa_id", "value": "5521977776666"}]}'));
select is(pg_temp.inventory() - 'told', (select inventory - 'told' from after_erasure), 'nor does a status that comes late, of ours or of another app''s message');
select pg_temp.meta(jsonb_build_object(
  'kind', 'preference', 'value', 'stop', 'sent_at', now() - interval '1 day', 'identities', '[{"kind": "wa_id", "value": "5521977776666"}]'::jsonb,
  'phone_number', '+5521977776666', 'whatsapp_chat_id', '5521977776666'));
select is(pg_temp.inventory() - 'told', (select inventory - 'told' from after_erasure), 'nor what she had wished before');
select is(pg_temp.inventory() -> 'told', (select inventory -> 'told' from after_erasure), 'of all these nothing is kept word by word');
select is(
  (select count(*)::int from public.webhook_events e where e.organization_id = pg_temp.org() and e.payload::text ~ 'wamid.ours|wamid.hers.1' and e.payload::text !~ '5521977776666'),
  0, 'by no id of a message either');
select pg_temp.meta(tests.a_message('wamid.joana.1', '5521955554444', 'Oi, sou a Joana', now() - interval '1 hour'), tests.a_message('wamid.joana.2', '5521955554444', 'De novo', now()));
select is((pg_temp.inventory() ->> 'said')::int, (select (inventory ->> 'said')::int + 1 from after_erasure), 'others are heard as ever');

-- In one delivery with something old.
select pg_temp.meta(
  tests.a_message('wamid.hers.1', '5521977776666', 'Oi, sou a Paula', now() - interval '1 hour'),
  tests.a_message('wamid.hers.4', '5521977776666', 'Quero marcar', now() + interval '1 minute'));
select results_eq(
  $$ select m.content, m.contact_id <> (select contact_id from paula), p.phone_number, p.erased_at
     from public.messages m join public.contacts p on p.organization_id = m.organization_id and p.id = m.contact_id
     where m.whatsapp_message_id = 'wamid.hers.4' $$,
  $$ values ('Quero marcar', true, '+5521977776666', null::timestamptz) $$,
  'who writes again is a new contact');
select is(
  (select count(*)::int from public.messages m where m.organization_id = pg_temp.org() and m.content = 'Oi, sou a Paula'), 0, 'who knows nothing of before');
select is(
  (select count(*)::int from public.webhook_events e where e.payload::text ~ 'Quero marcar' and e.payload::text !~ 'sou a Paula'), 1,
  'and what she wrote now is kept word by word, without what she wrote then');
select pg_temp.meta(tests.a_status('wamid.ours.5', 'read', now() + interval '2 minutes', '{"identities": [{"kind": "wa_id", "value": "5521977776666"}]}'));
select is((pg_temp.inventory() ->> 'parked')::int, (select (inventory ->> 'parked')::int + 1 from after_erasure), 'a status waits for her again');
select is(
  (select count(*)::int from public.data_subject_requests r where r.organization_id = pg_temp.org() and r.requester is not null), 1, 'requests of others stay');
select throws_ok(
  format('select private.open_data_subject_request(''access'', %L, null, null, now(), %L)', (select contact_id from paula), pg_temp.org()), 'BL912', null,
  'of one who was erased nothing new is noted down');

select * from finish();
rollback;
