-- What a delivery does, whatever it contains, in whatever order it comes, however often.
begin;
alter default privileges grant execute on functions to public;
select plan(64);

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
create temporary table kept (name text primary key, value jsonb);
grant all on kept to authenticated, service_role;

create function pg_temp.in_clinic() returns uuid language sql as $$ select tests.the('clinic', 'organization_id') $$;
create function pg_temp.message(wamid text) returns public.messages language sql
as $$ select m from public.messages m where m.organization_id = pg_temp.in_clinic() and m.whatsapp_message_id = wamid $$;
create function pg_temp.contacts_with(phone text) returns bigint language sql
as $$ select count(*) from public.contacts c where c.organization_id = pg_temp.in_clinic() and c.phone_number = phone $$;

select tests.authenticate_as_service();

-- A message
select is(
  tests.deliver('clinic', tests.a_message('m1', '5531987650003')),
  '{"events": 1, "messages": 1, "duplicates": 0, "statuses": 0, "updates": 0, "parked": 0, "unrouted": 0, "unknown": 0, "jobs": 0}'::jsonb,
  'a message is stored');
select is(
  (tests.deliver('clinic', tests.a_message('m1', '5531987650003')) ->> 'duplicates')::int, 1, 'a redelivery is not');
select is((select unread_count from public.conversations v where v.id = (pg_temp.message('m1')).conversation_id), 1, 'and is not unread twice');
select is((select last_message_preview from public.conversations v where v.id = (pg_temp.message('m1')).conversation_id), 'Oi', 'the inbox shows what it says');
select is((select last_inbound_at from public.conversations v where v.id = (pg_temp.message('m1')).conversation_id),
  '2026-11-20T12:00:00Z'::timestamptz, 'the service window opens when the customer wrote, not when we heard of it');
select is((select count(*) from public.webhook_events e where e.organization_id = pg_temp.in_clinic() and e.processed and e.instance_id is not null),
  2::bigint, 'every delivery is kept raw');
select is((select status from public.whatsapp_instances i where i.id = tests.the('clinic', 'instance_id')), 'connected', 'a number that delivers is connected');

-- One person
select tests.deliver('clinic', tests.a_message('m2', '553187650003'));
select is(pg_temp.contacts_with('+5531987650003'), 1::bigint, 'with and without the ninth digit is one person');
select is((pg_temp.message('m2')).conversation_id, (pg_temp.message('m1')).conversation_id, 'in one conversation');
select is((select count(*) from public.contact_identities i where i.contact_id = (pg_temp.message('m1')).contact_id), 2::bigint, 'with both ids');
select is((select whatsapp_chat_id from public.conversations v where v.id = (pg_temp.message('m1')).conversation_id), '553187650003', 'answered at the id used last');
select tests.deliver('petshop', tests.a_message('m1', '5531987650003'));
select is((select count(distinct m.organization_id) from public.messages m where m.whatsapp_message_id = 'm1'), 2::bigint, 'another tenant''s message may have the same id');

-- Nobody without a phone is lost
select tests.deliver('clinic',
  tests.a_message('b1', 'x') || '{"identities": [{"kind": "bsuid", "value": "BR.1"}], "phone_number": null, "whatsapp_chat_id": "BR.1"}');
select isnt((pg_temp.message('b1')).contact_id, null, 'who hides the number is a contact');
select tests.deliver('clinic',
  tests.a_message('b2', 'x') || '{"identities": [{"kind": "bsuid", "value": "BR.1"}, {"kind": "wa_id", "value": "5511987650077"}], "phone_number": "+5511987650077"}');
select is((pg_temp.message('b2')).contact_id, (pg_temp.message('b1')).contact_id, 'and the same one when the number shows');
select is((select phone_number from public.contacts c where c.id = (pg_temp.message('b1')).contact_id), '+5511987650077', 'which is kept');
select tests.deliver('clinic',
  tests.a_message('c1', 'x') || '{"identities": [{"kind": "wa_id", "value": "5511987650078"}, {"kind": "bsuid", "value": "BR.2"}], "phone_number": "+5511987650078"}',
  tests.a_message('c2', 'x') || '{"identities": [{"kind": "bsuid", "value": "BR.2"}], "phone_number": null, "whatsapp_chat_id": "BR.2"}',
  tests.a_message('c3', '5511987650078'));
select is(
  (select count(distinct m.contact_id) from public.messages m where m.whatsapp_message_id in ('c1', 'c2', 'c3')), 1::bigint,
  'three spellings of a new person in one delivery are one person');
select is(
  (select string_agg(m.whatsapp_message_id, ',' order by m.id) from public.messages m where m.whatsapp_message_id in ('c1', 'c2', 'c3')), 'c1,c2,c3',
  'read in the order they were said');
select tests.deliver('clinic',
  tests.a_message('o2', '5511987650079', 'depois', '2026-11-20T12:00:09Z'), tests.a_message('o1', '5511987650079', 'antes', '2026-11-20T12:00:01Z'));
select is(
  (select string_agg(m.content, ',' order by m.id) from public.messages m where m.whatsapp_message_id in ('o1', 'o2')), 'antes,depois',
  'even if the provider lists them otherwise');

-- Conversations end
update public.conversations v set status = 'closed', closed_at = now() where v.id = (pg_temp.message('m1')).conversation_id;
select is((tests.deliver('clinic', tests.a_message('m1', '5531987650003')) ->> 'messages')::int, 0, 'a redelivery after closing');
select is(
  (select count(*) from public.conversations v where v.contact_id = (pg_temp.message('m1')).contact_id and v.is_open), 0::bigint, 'opens nothing');
select tests.deliver('clinic', tests.a_message('m3', '5531987650003'));
select isnt((pg_temp.message('m3')).conversation_id, (pg_temp.message('m1')).conversation_id, 'a new message opens a new conversation');
select throws_ok(
  format(
    $$ insert into public.conversations (organization_id, contact_id, instance_id, whatsapp_chat_id) values (%L, %L, %L, 'x') $$,
    pg_temp.in_clinic(), (pg_temp.message('m3')).contact_id, tests.the('clinic', 'instance_id')),
  '23505', null, 'and there is never a second one open');

-- Statuses
select tests.deliver('clinic', jsonb_build_object('kind', 'echo') || tests.a_message('e1', '5531987650003', 'Respondo do celular') - 'kind' || '{"kind": "echo"}');
select is((pg_temp.message('e1')).sender, 'human', 'what the owner wrote on the phone is a human''s');
select isnt(
  (select last_human_message_at from public.conversations v where v.id = (pg_temp.message('e1')).conversation_id), null, 'and the conversation knows');
select tests.deliver('clinic', tests.a_status('e1', 'read', '2026-11-20T12:05:00Z'));
select tests.deliver('clinic', tests.a_status('e1', 'delivered', '2026-11-20T12:04:00Z'), tests.a_status('e1', 'sent', '2026-11-20T12:03:00Z'));
select is((pg_temp.message('e1')).status, 'read', 'a status never goes back');
select is((pg_temp.message('e1')).delivered_at, '2026-11-20T12:04:00Z'::timestamptz, 'but its time is noted');
select tests.deliver('clinic', tests.a_status('e1', 'failed', extra => '{"error_code": "131026"}'));
select is((pg_temp.message('e1')).status, 'read', 'what was read did not fail');
select is((pg_temp.message('e1')).error_code, '131026', 'though someone said so');
select tests.deliver('clinic', tests.a_status('m3', 'read'));
select is((pg_temp.message('m3')).status, 'received', 'a customer''s own message has no delivery');

-- What comes too early waits
select is((tests.deliver('clinic', tests.a_status('late', 'delivered'), tests.a_status('late', 'sent')) ->> 'parked')::int, 2, 'statuses of an unknown message wait');
select is((tests.deliver('clinic', tests.a_status('late', 'delivered')) ->> 'parked')::int, 0, 'once each');
select tests.deliver('clinic', tests.a_message('late', '5531987650003') || '{"kind": "echo"}');
select is((pg_temp.message('late')).status, 'delivered', 'and happen when it comes');
select tests.deliver('clinic', '{"kind": "edit", "whatsapp_message_id": "early", "occurred_at": "2026-11-20T12:01:00Z", "content": "Certo", "message_type": "text"}');
select tests.deliver('clinic', '{"kind": "revoke", "whatsapp_message_id": "early", "occurred_at": "2026-11-20T12:02:00Z"}');
select tests.deliver('clinic', tests.a_message('early', '5531987650003', 'Errado'));
select is((pg_temp.message('early')).content, 'Certo', 'so does an edit');
select is((pg_temp.message('early')).metadata -> 'edits' -> 0 ->> 'content', 'Errado', 'which keeps what was said before');
select is((pg_temp.message('early')).revoked_at, '2026-11-20T12:02:00Z'::timestamptz, 'and a deletion');
select tests.authenticate_as_nobody();
select is((select count(*) from private.parked_message_updates), 0::bigint, 'then nothing waits any more');

-- Our own sends, whose answer may be late or lost
insert into public.messages (organization_id, id, conversation_id, contact_id, instance_id, direction, sender, status)
select m.organization_id, '0193f2b4-7c1e-7d60-9b1f-1f2e3d4c5b6a', m.conversation_id, m.contact_id, m.instance_id, 'outbound', 'bot', 'queued'
from public.messages m where m.whatsapp_message_id = 'm3' and m.organization_id = pg_temp.in_clinic();
select tests.authenticate_as_service();
select tests.deliver('clinic', tests.a_status('ours', 'delivered', extra => '{"message_id": "0193f2b4-7c1e-7d60-9b1f-1f2e3d4c5b6a"}'));
select is((pg_temp.message('ours')).status, 'delivered', 'a status finds our message by our own id, and tells us WhatsApp''s');
insert into public.messages (organization_id, id, conversation_id, contact_id, instance_id, direction, sender, status)
select m.organization_id, '0193f2b4-7c1e-7d60-9b1f-1f2e3d4c5b6b', m.conversation_id, m.contact_id, m.instance_id, 'outbound', 'bot', 'queued'
from public.messages m where m.whatsapp_message_id = 'm3' and m.organization_id = pg_temp.in_clinic();
select tests.deliver('clinic', tests.a_status('answer-to-come', 'read'));
update public.messages set whatsapp_message_id = 'answer-to-come', status = 'sent' where id = '0193f2b4-7c1e-7d60-9b1f-1f2e3d4c5b6b';
select is((pg_temp.message('answer-to-come')).status, 'read', 'a status that came before the answer to our send has waited for it');

-- Reactions
select tests.deliver('clinic', tests.a_message('r1', '5531987650003', '👍', '2026-11-20T12:10:00Z') || '{"message_type": "reaction", "reply_to_whatsapp_message_id": "m3"}');
select is((pg_temp.message('m3')).metadata -> 'reactions' -> (pg_temp.message('m3')).contact_id::text ->> 'emoji', '👍', 'a reaction is seen on what it names');
select tests.deliver('clinic', tests.a_message('r2', '5531987650003', null, '2026-11-20T12:11:00Z') || '{"message_type": "reaction", "reply_to_whatsapp_message_id": "m3"}');
select tests.deliver('clinic', tests.a_message('r0', '5531987650003', '😡', '2026-11-20T12:09:00Z') || '{"message_type": "reaction", "reply_to_whatsapp_message_id": "m3"}');
select is((pg_temp.message('m3')).metadata -> 'reactions' -> (pg_temp.message('m3')).contact_id::text ->> 'emoji', null, 'a removed one stays removed, whatever comes late');

-- Who is who
select tests.deliver('clinic', jsonb_build_object(
  'kind', 'identity_change', 'whatsapp_message_id', 's1', 'sent_at', '2026-11-20T13:00:00Z', 'content', 'mudou de número',
  'identities', '[{"kind": "wa_id", "value": "5531987650003"}]'::jsonb, 'phone_number', '+5531987650003',
  'new_identities', '[{"kind": "wa_id", "value": "5531987650004"}]'::jsonb, 'new_phone_number', '+5531987650004'));
select is((select phone_number from public.contacts c where c.id = (pg_temp.message('m1')).contact_id), '+5531987650004', 'a new number is the same contact');
select is((pg_temp.message('s1')).sender, 'system', 'the conversation says so');
select tests.deliver('clinic', tests.a_message('n1', '5531987650003'));
select isnt((pg_temp.message('n1')).contact_id, (pg_temp.message('m1')).contact_id, 'the old number may be another person''s');
select tests.deliver('clinic', '{"kind": "preference", "identities": [{"kind": "wa_id", "value": "5531987650004"}], "phone_number": "+5531987650004", "value": "stop", "occurred_at": "2026-11-20T13:01:00Z"}');
select isnt((select opted_out_at from public.contacts c where c.id = (pg_temp.message('m1')).contact_id), null, 'who wants no marketing is remembered');

select tests.deliver('clinic', jsonb_build_object(
  'kind', 'identity_change', 'whatsapp_message_id', 's2', 'sent_at', '2026-11-20T14:00:00Z', 'content', 'voltou',
  'identities', '[{"kind": "wa_id", "value": "5531987650004"}]'::jsonb, 'phone_number', '+5531987650004',
  'new_identities', '[{"kind": "wa_id", "value": "5531987650005"}]'::jsonb, 'new_phone_number', '+5531987650005'));
select tests.deliver('clinic', jsonb_build_object(
  'kind', 'identity_change', 'whatsapp_message_id', 's1', 'sent_at', '2026-11-20T13:00:00Z', 'content', 'mudou de número',
  'identities', '[{"kind": "wa_id", "value": "5531987650005"}]'::jsonb, 'phone_number', '+5531987650005',
  'new_identities', '[{"kind": "wa_id", "value": "5531987650004"}]'::jsonb, 'new_phone_number', '+5531987650004'));
select is((select phone_number from public.contacts c where c.id = (pg_temp.message('m1')).contact_id), '+5531987650005', 'an older change that comes again changes nothing');

-- A change and a message from the new number in one delivery; then the old number is a stranger's.
select tests.deliver('clinic', tests.a_message('ana-1', '5511987651111'));
select tests.deliver('clinic',
  jsonb_build_object(
    'kind', 'identity_change', 'whatsapp_message_id', 'ana-moves', 'sent_at', '2026-11-20T13:00:00Z', 'content', 'mudou',
    'identities', '[{"kind": "wa_id", "value": "5511987651111"}]'::jsonb, 'phone_number', '+5511987651111',
    'new_identities', '[{"kind": "wa_id", "value": "5511987652222"}]'::jsonb, 'new_phone_number', '+5511987652222'),
  tests.a_message('ana-2', '5511987652222', 'sou eu', '2026-11-20T13:00:01Z'));
select is((pg_temp.message('ana-2')).contact_id, (pg_temp.message('ana-1')).contact_id, 'who moves and writes in one delivery is one person');
select tests.deliver('clinic', tests.a_message('beto-1', '5511987651111', 'sou outra pessoa'));
select isnt((pg_temp.message('beto-1')).contact_id, (pg_temp.message('ana-1')).contact_id, 'the number''s next holder is another');
select tests.deliver('clinic', tests.a_message('caio-1', '5511987653333'));
select tests.deliver('clinic', jsonb_build_object(
  'kind', 'identity_change', 'whatsapp_message_id', 'caio-moves', 'sent_at', '2026-11-20T15:00:00Z', 'content', 'mudou',
  'identities', '[{"kind": "wa_id", "value": "5511987653333"}]'::jsonb, 'phone_number', '+5511987653333',
  'new_identities', '[{"kind": "wa_id", "value": "5511987652222"}]'::jsonb, 'new_phone_number', '+5511987652222'));
select is((select phone_number from public.contacts c where c.id = (pg_temp.message('caio-1')).contact_id), null, 'who moves to a number that another contact has, has none until a person decides');
select tests.deliver('clinic', tests.a_message('dora-1', '5511987653333'));
select isnt((pg_temp.message('dora-1')).contact_id, (pg_temp.message('caio-1')).contact_id, 'and his old number is free');
select tests.deliver('clinic', tests.a_message('gil-1', '5511987658888'));
select tests.deliver('clinic',
  tests.a_message('gil-2', '5511987658888', 'vou mudar', '2026-11-20T14:59:00Z') || '{"profile_name": "Gil ✨"}',
  jsonb_build_object(
    'kind', 'identity_change', 'whatsapp_message_id', 'gil-moves', 'sent_at', '2026-11-20T15:00:00Z', 'content', 'mudou',
    'identities', '[{"kind": "wa_id", "value": "5511987658888"}]'::jsonb, 'phone_number', '+5511987658888',
    'new_identities', '[{"kind": "wa_id", "value": "5511987652222"}]'::jsonb, 'new_phone_number', '+5511987652222'));
select is((select phone_number from public.contacts c where c.id = (pg_temp.message('gil-1')).contact_id), null, 'nor the old phone number');
select tests.deliver('clinic', tests.a_message('eva-1', '5511987656666'));
select tests.deliver('clinic',
  tests.a_message('eva-2', '5511987656666', 'vou mudar', '2026-11-20T12:59:00Z') || '{"profile_name": "Eva ✨"}',
  jsonb_build_object(
    'kind', 'identity_change', 'whatsapp_message_id', 'eva-moves', 'sent_at', '2026-11-20T13:00:00Z', 'content', 'mudou',
    'identities', '[{"kind": "wa_id", "value": "5511987656666"}, {"kind": "bsuid", "value": "BR.never.seen"}]'::jsonb,
    'phone_number', '+5511987656666',
    'new_identities', '[{"kind": "wa_id", "value": "5511987657777"}]'::jsonb, 'new_phone_number', '+5511987657777'));
select tests.deliver('clinic', tests.a_message('fabio-1', '5511987656666'));
select isnt((pg_temp.message('fabio-1')).contact_id, (pg_temp.message('eva-1')).contact_id, 'news told in the delivery of a change do not bring the old number back');
select lives_ok(
  $$
    select tests.deliver('clinic', tests.a_message('two-1', 'x') || '{"identities": [{"kind": "bsuid", "value": "BR.aaa1"}], "phone_number": null}',
      tests.a_message('two-2', 'x') || '{"identities": [{"kind": "bsuid", "value": "BR.aaa2"}], "phone_number": null}')
  $$, 'two people hide their numbers');
select lives_ok(
  $$
    select tests.deliver('clinic',
      tests.a_message('two-3', 'x') || '{"identities": [{"kind": "bsuid", "value": "BR.aaa1"}], "phone_number": "+5511987654444"}',
      tests.a_message('two-4', 'x') || '{"identities": [{"kind": "bsuid", "value": "BR.aaa2"}], "phone_number": "+5511987654444"}')
  $$, 'both show the same one in one delivery: it is not refused for ever');
select is(pg_temp.contacts_with('+5511987654444'), 1::bigint, 'one of them has it');
select lives_ok(
  $$
    select tests.deliver('clinic', variadic array(
      select jsonb_build_object(
        'kind', 'identity_change', 'whatsapp_message_id', 'same-' || n, 'sent_at', '2026-11-20T16:00:00Z', 'content', 'mudou',
        'identities', jsonb_build_array(jsonb_build_object('kind', 'bsuid', 'value', 'BR.aaa' || n)), 'phone_number', null,
        'new_identities', '[{"kind": "wa_id", "value": "5511987655555"}]'::jsonb, 'new_phone_number', '+5511987655555')
      from generate_series(1, 2) n))
  $$, 'nor are two who move to one number');

-- What somebody says of himself
select tests.deliver('clinic', tests.a_message('card-1', 'x')
  || '{"identities": [{"kind": "bsuid", "value": "BR.evil"}], "phone_number": null, "shared_phone_number": "+5531987650005"}');
select isnt((pg_temp.message('card-1')).contact_id, (pg_temp.message('m1')).contact_id, 'nobody becomes another person by sending that person''s number');
select tests.deliver('clinic', tests.a_message('card-2', 'x')
  || '{"identities": [{"kind": "bsuid", "value": "BR.evil"}], "phone_number": null, "shared_phone_number": "+5531987650099"}');
select is((select phone_number from public.contacts c where c.id = (pg_temp.message('card-2')).contact_id), '+5531987650099', 'a number that nobody has is taken down');

-- Two reactions within one of Meta's seconds
select tests.deliver('clinic', tests.a_message('q1', '5511987651111', '👍', '2026-11-20T17:00:00Z') || '{"message_type": "reaction", "reply_to_whatsapp_message_id": "beto-1"}');
select tests.deliver('clinic', tests.a_message('q2', '5511987651111', '❤', '2026-11-20T17:00:00Z') || '{"message_type": "reaction", "reply_to_whatsapp_message_id": "beto-1"}');
select is((pg_temp.message('beto-1')).metadata -> 'reactions' -> (pg_temp.message('beto-1')).contact_id::text ->> 'emoji', '❤', 'of two reactions in one second, the one that came later holds');

-- A month whose partition comes late
select tests.authenticate_as_nobody();
insert into public.webhook_events (organization_id, provider, event_type, payload, created_at)
values (pg_temp.in_clinic(), 'meta_cloud', 'late', '{}', date_trunc('month', now() at time zone 'UTC') at time zone 'UTC' + interval '5 months 3 days');
select lives_ok('select private.maintain_partitions(6)', 'a row in the default partition does not stop the partitions');
select is(
  (select count(*) from public.webhook_events e where e.event_type = 'late' and e.tableoid <> 'partitions.webhook_events_default'::regclass),
  1::bigint, 'it moves to its month');
select tests.authenticate_as_service();

-- Doors that stay shut
select is(
  (public.ingest_webhook('meta_cloud', (select app_key from tests.tenants where name = 'petshop'), '{}', '', jsonb_build_array(jsonb_build_object(
    'external_id', 'number-of-clinic', 'event_type', 'messages', 'payload', '{}'::jsonb, 'unknown', 0,
    'events', jsonb_build_array(tests.a_message('forged', '5511987650099'))))) ->> 'unrouted')::int,
  1, 'a number is not reached under another''s app');
select is((select count(*) from public.messages m where m.whatsapp_message_id = 'forged'), 0::bigint, 'nothing of it is stored');
select throws_ok(
  format(
    $$ insert into public.messages (organization_id, conversation_id, contact_id, instance_id, direction, sender, status) values (%L, %L, %L, %L, 'inbound', 'contact', 'received') $$,
    tests.the('petshop', 'organization_id'), tests.the('clinic', 'conversation_id'), tests.the('petshop', 'contact_id'), tests.the('petshop', 'instance_id')),
  '23503', null, 'not even the service key can put a message into another tenant''s conversation');
select is(
  (tests.deliver('clinic', variadic array(
    select tests.a_message('batch-' || n, '55119' || (10000000 + n % 300)) from generate_series(1, 1000) n)) ->> 'messages')::int,
  1000, 'a delivery of 1,000 is one call');

select * from finish();
rollback;
