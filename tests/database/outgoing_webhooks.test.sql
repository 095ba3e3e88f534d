-- What happens is told to the organization's own receivers, once written, tried again, given up when they are gone.
begin;
-- What this story defines may run as anyone; rolled back with the rest.
alter default privileges grant execute on functions to public;
select plan(49);

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
create temporary table endpoints (name text primary key, id uuid);
grant all on endpoints to authenticated;

create function pg_temp.listen(tenant text, event_types text[], url text default 'https://crm.example/hook')
returns uuid
language sql
as $$ select (public.create_webhook_endpoint(tests.the(tenant, 'organization_id'), gen_random_uuid(), url, event_types, tests.sealed())).id $$;
create function pg_temp.told(tenant text)
returns text[]
language sql
as $$
  select coalesce(array_agg(d.event_type order by d.event_id), '{}')
  from public.webhook_deliveries d
  where d.organization_id = tests.the(tenant, 'organization_id') and d.endpoint_id <> tests.the(tenant, 'endpoint_id')
$$;
create function pg_temp.work()
returns jsonb
language sql
as $$
  select jsonb_build_object('organization_id', c.organization_id, 'id', c.id, 'fencing_token', c.fencing_token)
  from public.claim_jobs('w', 1, '{deliver_webhook}') c
$$;
create function pg_temp.hurry()
returns void
language sql
as $$ update public.message_queue set run_at = now(), is_due = true where status in ('pending', 'failed') and job_type = 'deliver_webhook' $$;
create temporary table held (job jsonb);
create function pg_temp.next_delivery()
returns jsonb
language plpgsql
as $$
begin
  perform pg_temp.hurry();
  delete from held;
  insert into held select pg_temp.work();
  return (select public.begin_delivery(job) from held);
end;
$$;
create function pg_temp.retry(status int default 503)
returns text
language sql
as $$
  select public.finish_delivery(job, jsonb_build_object('result', 'retry', 'status', status, 'error', 'http_' || status, 'response_ms', 12, 'next_attempt_at', now() + interval '5 seconds')) ->> 'reason' from held
$$;

-- Endpoints ---------------------------------------------------------------------------------------------------------
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select throws_ok($$ select pg_temp.listen('clinic', '{message.received}') $$, 'BL002', null, 'an attendant registers no receiver');
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select throws_ok($$ select pg_temp.listen('clinic', '{message.received}') $$, 'BL002', null, 'nor does another tenant''s owner');
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select throws_ok($$ select pg_temp.listen('clinic', '{message.received}', 'http://crm.example') $$, 'BL311', null, 'a receiver without TLS is refused');
select throws_ok($$ select pg_temp.listen('clinic', '{message.received}', 'https://user:pass@crm.example') $$, 'BL311', null, 'and one with credentials');
select throws_ok($$ select pg_temp.listen('clinic', '{message.received}', 'https://crm.example/#x') $$, 'BL311', null, 'and one with a fragment');
select throws_ok($$ select pg_temp.listen('clinic', '{message.exploded}') $$, 'BL312', null, 'an event that there is not is refused');
select throws_ok($$ select pg_temp.listen('clinic', '{}') $$, 'BL312', null, 'and none at all');
insert into endpoints values
  ('all', pg_temp.listen('clinic', '{message.received,message.sent,message.delivered,message.read,message.failed,conversation.opened,conversation.closed,contact.created,instance.connected,instance.disconnected,instance.sending_stopped}'));
select tests.authenticate_as_nobody();
select throws_ok(
  $$ select count(pg_temp.listen('petshop', '{message.received}')) from generate_series(1, 20) where tests.authenticate_as(tests.the('petshop', 'owner_id')) is null or true $$,
  'BL313', null, 'twenty endpoints are enough');
select tests.authenticate_as_nobody();

-- Events --------------------------------------------------------------------------------------------------------------
select tests.deliver('clinic', tests.a_message('w1', '5521987654321', 'Oi'));
select is(pg_temp.told('clinic'), '{contact.created,conversation.opened,message.received,instance.connected}', 'a stranger''s first message tells of the contact, the conversation, the message, and that the number works');
select tests.deliver('clinic', tests.a_message('w1', '5521987654321', 'Oi'));
select is(cardinality(pg_temp.told('clinic')), 4, 'its redelivery tells nothing');
select is(
  (select count(*) from public.message_queue q where q.job_type = 'deliver_webhook' and q.status = 'pending'), 4::bigint, 'each delivery has its job');
select is(
  (select d.payload #>> '{data,message,content}' from public.webhook_deliveries d where d.event_type = 'message.received'), 'Oi', 'the event says what was written');
select is(
  (select d.payload #>> '{data,contact,phone_number}' from public.webhook_deliveries d where d.event_type = 'message.received'), '+5521987654321', 'by whom');
select is(
  (select (d.payload - 'data' - 'timestamp')::text || (d.payload #>> '{data,organization_id}') from public.webhook_deliveries d where d.event_type = 'message.received'),
  '{"type": "message.received"}' || tests.the('clinic', 'organization_id'), 'in the form of Standard Webhooks');
select is(pg_temp.told('petshop'), '{}', 'another tenant hears nothing');
insert into public.messages (organization_id, conversation_id, contact_id, instance_id, direction, sender, content, status, whatsapp_message_id)
select tests.the('clinic', 'organization_id'), tests.the('clinic', 'conversation_id'), tests.the('clinic', 'contact_id'), tests.the('clinic', 'instance_id'), 'outbound', 'human', 'Olá', 'queued', 'out-' || n
from generate_series(1, 2) n;
select is(cardinality(pg_temp.told('clinic')), 4, 'what is only queued is no news');
select tests.deliver('clinic', tests.a_status('out-1', 'sent'), tests.a_status('out-2', 'failed'), tests.a_status('out-1', 'read'));
select is((pg_temp.told('clinic'))[5:], '{message.read,message.failed}', 'one delivery''s statuses tell each message''s last');
select tests.deliver('clinic', tests.a_status('out-1', 'delivered'), tests.a_status('out-1', 'sent'));
select is(cardinality(pg_temp.told('clinic')), 6, 'late ones tell nothing');
update public.conversations set status = 'closed', closed_at = now() where id = tests.the('clinic', 'conversation_id');
select is((pg_temp.told('clinic'))[7:], '{conversation.closed}', 'a closed conversation is news');
update public.whatsapp_instances set sending_stopped_at = now(), sending_stopped_code = '190' where id = tests.the('clinic', 'instance_id');
select is((pg_temp.told('clinic'))[8:], '{instance.sending_stopped}', 'and so is a number that can send nothing any more');

-- Deliveries ----------------------------------------------------------------------------------------------------------
create temporary table orders as select pg_temp.next_delivery() as o;
select is((select o ->> 'action' from orders), 'deliver', 'the worker is told to deliver');
select is((select jsonb_array_length(o -> 'secrets') from orders), 1, 'with the endpoint''s secret');
select is(pg_temp.retry(), 'failed', 'a receiver that is down gets it later');
select is(
  (select row(d.status, d.attempts, d.last_response_status, d.last_error)::text from public.webhook_deliveries d where d.id = (select (o #>> '{delivery,id}')::uuid from orders)),
  '(failed,1,503,http_503)', 'the delivery says what happened');
select is((select consecutive_failures from public.webhook_endpoints e join endpoints using (id)), 1, 'and the endpoint counts it');
update public.webhook_endpoints set failing_since = now() - interval '4 days';
select pg_temp.next_delivery();
select pg_temp.retry();
select ok((select e.is_active from public.webhook_endpoints e join endpoints using (id)), 'four days of failures are no reason');
select pg_temp.next_delivery();
select is(
  (select public.finish_delivery(job, '{"result": "delivered", "status": 200, "response_ms": 30}') ->> 'reason' from held), 'delivered', 'a delivery ends it');
select is((select row(e.consecutive_failures, e.failing_since)::text from public.webhook_endpoints e join endpoints using (id)), '(0,)', 'and the endpoint is well again');
update public.webhook_endpoints set failing_since = now() - interval '5 days 1 second';
select pg_temp.next_delivery();
select pg_temp.retry();
select is((select row(e.is_active, e.disabled_reason)::text from public.webhook_endpoints e join endpoints using (id)), '(f,failing)', 'after five days without one success the endpoint is disabled');
select is(pg_temp.next_delivery() ->> 'reason', 'endpoint_disabled', 'and gets nothing more');
select tests.deliver('clinic', tests.a_message('w2', '5521987654321', 'Alô?'));
select is(cardinality(pg_temp.told('clinic')), 8, 'nor is anything written for it');

select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select throws_ok(
  $$ select public.redeliver((select d.id from public.webhook_deliveries d where d.status = 'dead' and d.last_error = 'endpoint_disabled' limit 1)) $$,
  'BL316', null, 'a disabled endpoint cannot be redelivered to');
select ok(
  (public.update_webhook_endpoint(tests.the('clinic', 'organization_id'), (select id from endpoints), is_active => true)).disabled_at is null, 'an admin switches it on');
select is(
  (public.redeliver((select d.id from public.webhook_deliveries d where d.status = 'dead' and d.last_error = 'endpoint_disabled' limit 1))).status::text,
  'pending', 'and redelivers what it missed');
select throws_ok($$ select public.redeliver(gen_random_uuid()) $$, 'BL314', null, 'a delivery that there is not, is not');
select public.update_webhook_endpoint(tests.the('clinic', 'organization_id'), (select id from endpoints), new_secret => tests.sealed() || 'A');
select is((public.test_webhook_endpoint((select id from endpoints))).event_type, 'webhook.test', 'and tries the endpoint');
select tests.authenticate_as_nobody();
truncate orders;
insert into orders select pg_temp.next_delivery();
select is((select o #> '{secrets}' from orders), jsonb_build_array(tests.sealed() || 'A', tests.sealed()), 'after a rotation the new secret signs, and the old one');
update private.webhook_endpoint_secrets set expires_at = now() - interval '1 second' where expires_at is not null;
select public.finish_delivery(job, '{"result": "gone", "status": 410, "error": "http_410", "response_ms": 5}') from held;
select is((select row(e.is_active, e.disabled_reason)::text from public.webhook_endpoints e join endpoints using (id)), '(f,gone)', 'a receiver that is gone is disabled at once');
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select public.update_webhook_endpoint(tests.the('clinic', 'organization_id'), (select id from endpoints), is_active => true);
select public.test_webhook_endpoint((select id from endpoints));
select tests.authenticate_as_nobody();
truncate orders;
insert into orders select pg_temp.next_delivery();
select is((select jsonb_array_length(o -> 'secrets') from orders), 1, 'a day later only the new one signs');
update public.message_queue set attempts = max_attempts, lease_expires_at = now() - interval '1 second' where status = 'processing';
select pg_temp.work();
select is(
  (select d.status::text from public.webhook_deliveries d where d.id = (select (o #>> '{delivery,id}')::uuid from orders)), 'dead', 'a delivery whose job is given up is dead');
update public.webhook_deliveries set created_at = now() - interval '31 days' where organization_id = tests.the('clinic', 'organization_id') and status = 'dead';
select cmp_ok(private.delete_old_webhook_deliveries(), '>', 0::bigint, 'old deliveries go');
select is((select count(*) from public.webhook_deliveries where created_at < now() - interval '30 days'), 0::bigint, 'all of them');
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select public.delete_webhook_endpoint(tests.the('clinic', 'organization_id'), (select id from endpoints));
select tests.authenticate_as_nobody();
select is(pg_temp.told('clinic'), '{}', 'a deleted endpoint takes its deliveries along');
select throws_ok(
  $$ select public.test_webhook_endpoint((select id from endpoints), tests.the('clinic', 'organization_id')) from (select tests.authenticate_as(tests.the('clinic', 'owner_id'))) x $$,
  'BL310', null, 'and is not there any more');


-- A receiver that is slow ------------------------------------------------------------------------------------------------
select tests.authenticate_as_nobody();
update public.message_queue set status = 'completed', completed_at = now(), locked_by = null, lease_expires_at = null where job_type = 'deliver_webhook';
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
insert into endpoints values ('slow', pg_temp.listen('petshop', '{contact.created}')), ('quick', pg_temp.listen('petshop', '{contact.created}'));
select public.test_webhook_endpoint((select id from endpoints where name = 'slow'));
select tests.authenticate_as_nobody();
create function pg_temp.being_told(how_many int, began timestamptz)
returns void
language sql
as $$
  insert into public.webhook_deliveries (organization_id, endpoint_id, event_id, event_type, webhook_url, payload, status, updated_at)
  select tests.the('petshop', 'organization_id'), (select id from endpoints where name = 'slow'), gen_random_uuid(), 'webhook.test', 'https://crm.example/hook', '{}', 'delivering', began
  from generate_series(1, how_many)
$$;
select pg_temp.being_told(10, now());
select is(pg_temp.next_delivery() ->> 'reason', 'receiver_busy', 'what a receiver is being told ten times over waits');
select is(
  (select row(q.status, q.attempts, q.run_at between now() and now() + interval '30 seconds', d.status, d.attempts, d.next_attempt_at = q.run_at)::text
   from public.message_queue q join public.webhook_deliveries d on d.id = (q.payload ->> 'delivery_id')::uuid where q.status <> 'completed'),
  '(pending,0,t,pending,0,t)', 'a moment, and it was no attempt');
delete from public.webhook_deliveries where status = 'delivering';
select pg_temp.being_told(2, now() - interval '2 seconds');
select pg_temp.being_told(7, now());
select is(pg_temp.next_delivery() ->> 'action', 'deliver', 'nine things, of which it is slow at two, are not too many');
delete from public.webhook_deliveries where status = 'delivering';
select pg_temp.being_told(3, now() - interval '2 seconds');
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select public.test_webhook_endpoint((select id from endpoints where name = 'slow'));
select tests.authenticate_as_nobody();
update public.message_queue set status = 'completed', completed_at = now(), locked_by = null, lease_expires_at = null where job_type = 'deliver_webhook' and status = 'processing';
select is(pg_temp.next_delivery() ->> 'reason', 'receiver_busy', 'three that it does not answer are');
update public.message_queue set status = 'completed', completed_at = now() where job_type = 'deliver_webhook' and status = 'pending';
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select public.test_webhook_endpoint((select id from endpoints where name = 'quick'));
select tests.authenticate_as_nobody();
select is(pg_temp.next_delivery() ->> 'action', 'deliver', 'and another receiver is not kept waiting');

select tests.authenticate_as_nobody();
select * from finish();
rollback;
