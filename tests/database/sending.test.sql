-- A message goes out once: asked for twice, crashed in the middle, told of before its answer, refused, too late.
begin;
-- What this story defines may run as anyone; rolled back with the rest.
alter default privileges grant execute on functions to public;
select plan(72);

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
create temporary table sent (name text primary key, id uuid);
grant all on sent to authenticated;

create function pg_temp.now_says_maria(at timestamptz default now())
returns void
language sql
as $$ select tests.deliver('clinic', tests.a_message('in-' || gen_random_uuid(), '5511987654321', 'Oi', at)) $$;
create function pg_temp.send(name text, content text default 'Olá!', client_id text default null, type public.message_type default 'text', payload jsonb default null)
returns uuid
language plpgsql
as $$
declare
  message public.messages;
begin
  perform tests.authenticate_as(tests.the('clinic', 'attendant_id'));
  message := public.send_message(tests.the('clinic', 'conversation_id'), content, client_id, type, payload, null, tests.the('clinic', 'organization_id'));
  perform tests.authenticate_as_nobody();
  insert into sent values (name, message.id) on conflict do nothing;
  return message.id;
end;
$$;
create function pg_temp.message(name text)
returns public.messages
language sql
as $$ select m from public.messages m join sent s on s.id = m.id where s.name = message.name $$;
-- The job that a worker gets.
create function pg_temp.work()
returns jsonb
language sql
as $$
  select jsonb_build_object('organization_id', c.organization_id, 'id', c.id, 'fencing_token', c.fencing_token)
  from public.claim_jobs('w', 1, '{send_message}') c
$$;
create function pg_temp.hurry()
returns void
language sql
as $$ update public.message_queue set run_at = now(), is_due = true where status in ('pending', 'failed') and job_type = 'send_message' $$;
create function pg_temp.accepted(wamid text)
returns jsonb
language sql
as $$
  select jsonb_build_object('result', 'accepted', 'whatsapp_message_id', wamid,
    'identities', '[{"kind": "wa_id", "value": "551187654321"}]'::jsonb,
    'api_call', '{"service": "meta_graph", "endpoint": "/messages", "method": "POST", "request_data": {"type": "text"}, "response_data": {}, "status_code": 200, "response_time_ms": 80, "success": true}'::jsonb)
$$;
create temporary table held (job jsonb);

-- The good way ----------------------------------------------------------------------------------------------------
select pg_temp.now_says_maria();
select pg_temp.send('first', 'Olá, Maria! 😊', 'app-1');
select is((pg_temp.message('first')).status::text, 'queued', 'a message to send is queued');
select is(
  (select row(m.sender, m.sender_user_id, m.direction)::text from public.messages m join sent using (id)),
  row('human', tests.the('clinic', 'attendant_id'), 'outbound')::text, 'and knows who wrote it');
select is(pg_temp.send('again', 'Olá, Maria! 😊', 'app-1'), (pg_temp.message('first')).id, 'sent again with its client id it is the same message');
select is((select count(*) from public.message_queue where job_type = 'send_message'), 1::bigint, 'with one job');
select is(
  (select v.last_message_preview from public.conversations v where v.id = tests.the('clinic', 'conversation_id')), 'Olá, Maria! 😊', 'and the conversation has moved');
insert into held select pg_temp.work();
create temporary table orders as select public.begin_send(job) as o from held;
select is((select o ->> 'action' from orders), 'send', 'the worker is told to send');
select is((select o -> 'recipient' from orders), '{"kind": "wa_id", "value": "5511987654321"}'::jsonb, 'to the id that the customer writes from');
select is((select o #>> '{message,content}' from orders), 'Olá, Maria! 😊', 'these words');
select is((select count(*) from private.unanswered_sends), 1::bigint, 'and that a call is about to be made is written down');
select is((select public.begin_send(job) from held), (select o from orders), 'who did not hear the order asks again, and hears it');
select is(public.finish_send(job, pg_temp.accepted('wamid.1')) ->> 'reason', 'accepted', 'the provider''s acceptance ends the job') from held;
select is(
  (select row(m.status, m.whatsapp_message_id)::text from public.messages m join sent using (id) where name = 'first'),
  '(queued,wamid.1)', 'accepted is not sent yet');
select is((select status::text from public.message_queue where job_type = 'send_message'), 'completed', 'in one transaction with the job');
select is((select count(*) from private.unanswered_sends), 0::bigint, 'the announcement is gone');
select is((select count(*) from public.api_call_logs where service = 'meta_graph' and job_id is not null), 1::bigint, 'the call is logged');
select isnt_empty(
  $$ select from public.contact_identities i where i.value = '551187654321' and i.contact_id = tests.the('clinic', 'contact_id') $$,
  'the id that WhatsApp knows the customer by is his');
select tests.deliver('clinic', tests.a_status('wamid.1', 'delivered'), tests.a_status('wamid.1', 'sent'));
select is((pg_temp.message('first')).status::text, 'delivered', 'statuses move it');
select throws_ok($$ select public.finish_send((select job from held), pg_temp.accepted('wamid.1')) $$, 'BL301', null, 'a second end is refused');

-- A status before the answer -------------------------------------------------------------------------------------
select pg_temp.send('early');
update held set job = pg_temp.work();
select public.begin_send(job) from held;
select tests.deliver('clinic', tests.a_status('wamid.2', 'sent', extra => jsonb_build_object('message_id', (pg_temp.message('early')).id)));
select is((pg_temp.message('early')).whatsapp_message_id, 'wamid.2', 'a status that comes first brings the WhatsApp id');
select is(public.finish_send(job, pg_temp.accepted('wamid.2')) ->> 'reason', 'accepted', 'and the answer finds it there') from held;
select is((pg_temp.message('early')).status::text, 'sent', 'nothing is lost');

-- Crashes -----------------------------------------------------------------------------------------------------------
select pg_temp.send('crash');
update held set job = pg_temp.work();
select public.begin_send(job) from held;
update public.message_queue set lease_expires_at = now() - interval '1 second' where status = 'processing';
update held set job = pg_temp.work();
select is(public.begin_send(job) ->> 'reason', 'waits_for_a_status', 'after a crash between the call and its answer nobody sends again on a guess') from held;
select pg_temp.hurry();
select tests.deliver('clinic', tests.a_status('wamid.3', 'sent', extra => jsonb_build_object('message_id', (pg_temp.message('crash')).id)));
update held set job = pg_temp.work();
select is(public.begin_send(job) ->> 'reason', 'message_is_sent', 'its status tells that it was sent') from held;
select is((select count(*) from private.unanswered_sends), 0::bigint, 'and settles it');

select pg_temp.send('lost');
update held set job = pg_temp.work();
select public.begin_send(job) from held;
select is(public.finish_send(job, '{"result": "unknown", "message": "timeout", "api_call": null}') ->> 'reason', 'unknown: timeout', 'a call without an answer is such a case too') from held;
update private.unanswered_sends set called_at = now() - interval '20 minutes';
select pg_temp.hurry();
update held set job = pg_temp.work();
select is(public.begin_send(job) ->> 'reason', 'waits_for_a_status', 'if no webhook reached us after the call, its status may be on its way still') from held;
insert into public.webhook_events (organization_id, instance_id, provider, event_type, payload, created_at)
values (tests.the('clinic', 'organization_id'), tests.the('clinic', 'instance_id'), 'meta_cloud', 'messages', '{}', now() - interval '19 minutes');
select pg_temp.hurry();
update held set job = pg_temp.work();
select is(public.begin_send(job) ->> 'action', 'send', 'if others did and its status was not there, it was not sent: now it is') from held;
select public.finish_send(job, '{"result": "unknown", "message": "timeout"}') from held;
update private.unanswered_sends set called_at = now() - interval '2 hours';
select pg_temp.hurry();
update held set job = pg_temp.work();
select is(public.begin_send(job) ->> 'reason', 'unconfirmed', 'after an hour of silence') from held;
select is((select row(m.status, m.error_code)::text from public.messages m join sent using (id) where name = 'lost'), '(failed,unconfirmed)', 'it fails, for everybody to see');
select is((select count(*) from private.unanswered_sends), 0::bigint, 'and is settled');
select tests.deliver('clinic', tests.a_status('wamid.late', 'sent', extra => jsonb_build_object('message_id', (pg_temp.message('lost')).id)));
select is((select row(m.status, m.error_code, m.failed_at)::text from public.messages m join sent using (id) where name = 'lost'), '(sent,,)', 'unless a status comes after all: that is evidence, ours was a guess');

select pg_temp.send('killer');
update public.message_queue set attempts = 7 where status = 'pending' and job_type = 'send_message';
update held set job = pg_temp.work();
select public.begin_send(job) from held;
update public.message_queue set lease_expires_at = now() - interval '1 second' where status = 'processing';
select pg_temp.work();
select is(
  (select row(m.status, m.error_code)::text from public.messages m join sent using (id) where name = 'killer'),
  '(failed,unconfirmed)', 'given up with a call under way it may have been sent: it says so');
select is((select q.status::text from public.message_queue q where (q.payload ->> 'message_id')::uuid = (pg_temp.message('killer')).id), 'dead', 'its job is dead');

-- Refusals ------------------------------------------------------------------------------------------------------------
select pg_temp.send('throttled');
update held set job = pg_temp.work();
select public.begin_send(job) from held;
select public.finish_send(job, jsonb_build_object('result', 'retry', 'code', '130429', 'message', 'slow down', 'counts', false, 'pause_number_until', now() + interval '20 seconds')) from held;
select is(
  (select row(q.status, q.attempts, q.is_due)::text from public.message_queue q where (q.payload ->> 'message_id')::uuid = (pg_temp.message('throttled')).id),
  '(pending,0,f)', 'a rate limit is no attempt');
select is((select count(*) from private.unanswered_sends), 0::bigint, 'and certainly not sent');
select pg_temp.hurry();
update held set job = pg_temp.work();
select is(public.begin_send(job) ->> 'reason', 'number_is_paused', 'a paused number sends nothing') from held;
update public.whatsapp_instances set sending_paused_until = null;
select pg_temp.hurry();
update held set job = pg_temp.work();
select public.begin_send(job) from held;
select is(public.finish_send(job, '{"result": "retry", "code": "131000", "message": "try later"}') ->> 'reason', 'failed', 'a temporary error waits for the next attempt') from held;
update public.message_queue set attempts = 7 where status = 'failed';
select pg_temp.hurry();
update held set job = pg_temp.work();
select public.begin_send(job) from held;
select is(public.finish_send(job, '{"result": "retry", "code": "131000", "message": "try later"}') ->> 'reason', 'dead', 'after the last one the job is dead') from held;
select is((select row(m.status, m.error_code)::text from public.messages m join sent using (id) where name = 'throttled'), '(failed,attempts_exhausted)', 'and the message failed');

select pg_temp.send('refused');
update held set job = pg_temp.work();
select public.begin_send(job) from held;
select public.finish_send(job, '{"result": "failed", "code": "131026", "message": "undeliverable"}') from held;
select is((select row(m.status, m.error_code, m.error_message)::text from public.messages m join sent using (id) where name = 'refused'), '(failed,131026,undeliverable)', 'a refusal for good is shown on the message');
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select is((public.retry_message((pg_temp.message('refused')).id)).status::text, 'queued', 'an attendant may send it again, as a new message');
select is(
  (public.retry_message((pg_temp.message('refused')).id)).id, (public.retry_message((pg_temp.message('refused')).id)).id, 'twice is once');
select throws_ok($$ select public.retry_message((pg_temp.message('first')).id) $$, 'BL207', null, 'but not what did not fail');
select tests.authenticate_as_nobody();
update held set job = pg_temp.work();
select public.begin_send(job) from held;
select public.finish_send(job, '{"result": "stopped", "code": "190", "message": "token expired", "banned": false}') from held;
select is((select sending_stopped_code from public.whatsapp_instances where id = tests.the('clinic', 'instance_id')), '190', 'a dead token stops the number');
select throws_ok($$ select pg_temp.send('stopped') $$, 'BL107', null, 'and whoever writes is told at once');
select tests.authenticate_as_nobody();
select public.update_instance(tests.the('clinic', 'organization_id'), tests.the('clinic', 'instance_id'), access_token => tests.sealed())
from (select tests.authenticate_as(tests.the('clinic', 'admin_id'))) admin;
select tests.authenticate_as_nobody();
select is((select sending_stopped_at from public.whatsapp_instances where id = tests.the('clinic', 'instance_id')), null, 'a new one starts it again');

-- The window ------------------------------------------------------------------------------------------------------------
select pg_temp.send('late');
select pg_temp.send('template', null, null, 'template', '{"name": "lembrete", "language": "pt_BR"}');
update public.conversations set last_inbound_at = now() - interval '24 hours 1 second' where organization_id = tests.the('clinic', 'organization_id');
update held set job = pg_temp.work();
select is(public.begin_send(job) ->> 'reason', 'window_closed', 'a day after the customer wrote, words do not go out') from held;
select is((select row(m.status, m.error_code)::text from public.messages m join sent using (id) where name = 'late'), '(failed,131047)', 'and fail with Meta''s own code');
update held set job = pg_temp.work();
select is(public.begin_send(job) ->> 'action', 'send', 'a template does') from held;

-- Bad input ---------------------------------------------------------------------------------------------------------------
select throws_ok($$ select pg_temp.send('x', E' \n\t ') $$, 'BL205', null, 'a blank text is refused');
select throws_ok($$ select pg_temp.send('x', repeat('é', 4097)) $$, 'BL205', null, 'a text that is too long too');
select throws_ok($$ select pg_temp.send('x', 'Escolha', null, 'interactive', '{"type": "button", "buttons": [{"id": "1", "title": "a"}, {"id": "2", "title": "b"}, {"id": "3", "title": "c"}, {"id": "4", "title": "d"}]}') $$, 'BL205', null, 'four buttons');
select throws_ok($$ select pg_temp.send('x', 'Escolha', null, 'interactive', '{"type": "button", "buttons": [{"id": "1", "title": "a"}, {"id": "1", "title": "b"}]}') $$, 'BL205', null, 'two buttons with one id');
select throws_ok($$ select pg_temp.send('x', 'Escolha', null, 'interactive', '{"type": "button", "buttons": [{"id": "1", "title": "a"}, {"id": "2", "title": "a"}]}') $$, 'BL205', null, 'two that read the same');
select throws_ok($$ select pg_temp.send('x', 'Escolha', null, 'interactive', '{"type": "button", "buttons": [{"id": "1", "title": " a title of 20 chars "}]}') $$, 'BL205', null, 'a title that fits only without its spaces, which are sent too');
select throws_ok($$ select pg_temp.send('x', null, null, 'image', '{"link": "http://a.example/x.png"}') $$, 'BL205', null, 'a link without TLS');
select throws_ok(
  format($$ select pg_temp.send('x', null, null, 'image', '{"path": "media/%s/outgoing/x.png"}') $$, tests.the('petshop', 'organization_id')),
  'BL205', null, 'another organization''s file');
select throws_ok(
  format($$ select pg_temp.send('x', null, null, 'image', '{"path": "media/%s%s"}') $$, tests.the('clinic', 'organization_id'), escape),
  'BL205', null, 'a path that leads out of the folder: ' || escape)
from unnest(array['/../x.png', '/%2e%2e/x.png', '/x\\..\\y.png', '/./x.png', '', '/', '/a?b', '/a#b']) escape;
select lives_ok(
  format($$ select pg_temp.send('file', null, null, 'image', '{"path": "media/%s/outgoing/Foto de perfil (1).png"}') $$, tests.the('clinic', 'organization_id')),
  'but not a file of its own');
select throws_ok($$ select pg_temp.send('x', 'Oi', repeat('x', 129)) $$, 'BL205', null, 'a client id without end');
select throws_ok(format($$ select pg_temp.send('x', 'Oi', %L) $$, id), 'BL205', null, 'the id of what the system says itself: ' || id)
from unnest('{notification:1,answer:1,flow:1}'::text[]) id;
select throws_ok($$ select pg_temp.send('x', 'Oi', null, 'text', '[1]') $$, 'BL205', null, 'a payload that is no object');
select throws_ok($$ select pg_temp.send('x', 'Oi', null, 'text', jsonb_build_object('preview_url', repeat('x', 70000))) $$, 'BL205', null, 'nor of any use');
select throws_ok($$ select pg_temp.send('x', null, null, 'unsupported') $$, 'BL205', null, 'and a type that nobody can send');
select tests.authenticate_as(tests.the('clinic', 'viewer_id'));
select throws_ok($$ select public.send_message(tests.the('clinic', 'conversation_id'), 'Oi') $$, 'BL002', null, 'a viewer sends nothing');
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select throws_ok($$ select public.send_message(tests.the('clinic', 'conversation_id'), 'Oi') $$, 'BL202', null, 'nor does another tenant''s owner');

select tests.authenticate_as_nobody();
select * from finish();
rollback;
