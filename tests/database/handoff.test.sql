-- A conversation passes between the bot and people; what the bot says after it was taken is not sent.
begin;
-- What this story defines may run as anyone; rolled back with the rest.
alter default privileges grant execute on functions to public;
select no_plan();

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');

create function pg_temp.as_member(role text)
returns void
language sql
as $$ select tests.authenticate_as(tests.the('clinic', role || '_id')) $$;
create function pg_temp.chat()
returns public.conversations
language sql
security definer
as $$ select v from public.conversations v where v.id = tests.the('clinic', 'conversation_id') $$;
-- Who is in control, in short.
create function pg_temp.control()
returns text
language sql
as $$
  select concat_ws(' ', (pg_temp.chat()).status, case when (pg_temp.chat()).is_bot_controlled then 'bot' else 'human' end,
    (select r.role from public.user_roles r
     where r.organization_id = tests.the('clinic', 'organization_id') and r.user_id = (pg_temp.chat()).assigned_user_id),
    (pg_temp.chat()).control_epoch)
$$;
create function pg_temp.bot_says(words text, epoch int default null, client_id text default null, sender public.message_sender default 'bot')
returns uuid
language plpgsql
as $$
begin
  perform tests.authenticate_as_nobody();
  return (private.send_bot_message(
    tests.the('clinic', 'conversation_id'), tests.the('clinic', 'organization_id'),
    coalesce(epoch, (pg_temp.chat()).control_epoch), sender, 'text', words, null, client_id)).id;
end;
$$;
create function pg_temp.work()
returns jsonb
language sql
as $$
  select jsonb_build_object('organization_id', c.organization_id, 'id', c.id, 'fencing_token', c.fencing_token)
  from public.claim_jobs('w', 1, '{send_message}') c
$$;
create function pg_temp.what_became_of(id uuid)
returns text
language sql
security definer
as $$ select concat_ws(' ', m.status, m.error_code) from public.messages m where m.id = what_became_of.id $$;
create function pg_temp.maria_says(words text)
returns void
language plpgsql
as $$
begin
  perform tests.authenticate_as_nobody();
  perform tests.deliver('clinic', tests.a_message('in-' || gen_random_uuid(), '5511987654321', words, clock_timestamp()));
end;
$$;
create function pg_temp.the_phone_says(words text, kind text default 'text', reply_to text default null)
returns void
language plpgsql
as $$
begin
  perform tests.authenticate_as_nobody();
  perform tests.deliver('clinic', tests.a_message('echo-' || gen_random_uuid(), '5511987654321', words, clock_timestamp())
    || jsonb_build_object('kind', 'echo', 'message_type', kind, 'reply_to_whatsapp_message_id', reply_to));
end;
$$;

-- A message like any other: its id says when.
update public.messages set id = private.uuid_v7() where whatsapp_message_id = 'first-of-clinic';

-- Take over -----------------------------------------------------------------------------------------------------------
select pg_temp.maria_says('Oi');
select is(pg_temp.control(), 'active bot 0', 'a conversation begins with the bot');
create temporary table said (name text primary key, id uuid);
grant all on said to public;
insert into said values ('queued', pg_temp.bot_says('Olá! Em que posso ajudar?'));
insert into said values ('under way', null);

select pg_temp.as_member('attendant');
select is((public.take_over_conversation(tests.the('clinic', 'conversation_id'))).control_epoch, 1, 'an attendant takes over, and the epoch goes up');
select tests.authenticate_as_nobody();
select is(pg_temp.control(), 'active human attendant 1', 'and answers from now on');
select pg_temp.as_member('attendant');
select is((public.take_over_conversation(tests.the('clinic', 'conversation_id'))).control_epoch, 1, 'twice is once');
select is((public.take_over_conversation(tests.the('clinic', 'conversation_id'), 0)).control_epoch, 1, 'a retry too, with the epoch of before');
select tests.authenticate_as_nobody();

create temporary table held (job jsonb);
insert into held select pg_temp.work();
select is(public.begin_send(job) ->> 'reason', 'superseded', 'what the bot had queued is not sent') from held;
select is(pg_temp.what_became_of(id), 'failed superseded', 'and says why') from said where name = 'queued';
select throws_ok($$ select pg_temp.bot_says('Ainda está aí?') $$, 'BL208', null, 'the bot cannot say more');
select throws_ok($$ select pg_temp.bot_says('Ainda está aí?', 0) $$, 'BL208', null, 'nor with the epoch that it started from');
select throws_ok($$ select pg_temp.bot_says('Ainda está aí?', 0, sender => 'ai') $$, 'BL208', null, 'nor can an AI');
select lives_ok($$ select pg_temp.bot_says('Sua consulta é amanhã.', null, sender => 'system') $$, 'a reminder is said whoever is in control');
select throws_ok($$ select pg_temp.bot_says('Sou a Ana.', null, sender => 'human') $$, 'BL205', null, 'a bot does not speak for people');
update held set job = pg_temp.work();
select is(public.begin_send(job) ->> 'action', 'send', 'and is sent') from held;
select public.finish_send(job, '{"result": "failed", "code": "1", "message": "x"}') from held;

select pg_temp.as_member('admin');
select throws_ok(
  $$ select public.take_over_conversation(tests.the('clinic', 'conversation_id'), 0) $$, 'BL208', null,
  'a second attendant who saw the bot in control learns that a colleague was faster');
select is((public.take_over_conversation(tests.the('clinic', 'conversation_id'))).control_epoch, 2, 'without a wish about it he takes it from the colleague');
select tests.authenticate_as_nobody();
select is(pg_temp.control(), 'active human admin 2', 'and has it');
select tests.authenticate_as_service();
select is((public.take_over_conversation(tests.the('clinic', 'conversation_id'), organization_id => tests.the('clinic', 'organization_id'))).control_epoch, 2, 'for the platform it is in human hands already');
select tests.authenticate_as_nobody();

-- Release and transfer --------------------------------------------------------------------------------------------------
select pg_temp.as_member('attendant');
select throws_ok($$ select public.release_to_bot(tests.the('clinic', 'conversation_id'), 1) $$, 'BL208', null, 'who looked too long ago does not give it away');
select lives_ok($$ select public.release_to_bot(tests.the('clinic', 'conversation_id'), 2) $$, 'who knows how it stands does');
select is((public.release_to_bot(tests.the('clinic', 'conversation_id'))).control_epoch, 3, 'twice is once');
select tests.authenticate_as_nobody();
select is(pg_temp.control(), 'active bot admin 3', 'the bot answers; who is responsible stays so');
select throws_ok($$ select pg_temp.bot_says('…', 0) $$, 'BL208', null, 'an answer from before the takeover is stale even now');
insert into said values ('again', pg_temp.bot_says('Voltei!', 3, 'bot-1'));
select is(pg_temp.bot_says('Voltei!', 3, 'bot-1'), id, 'the same client_message_id is the same message') from said where name = 'again';
select pg_temp.as_member('attendant');
select lives_ok($$ select public.transfer_conversation(tests.the('clinic', 'conversation_id'), tests.the('clinic', 'owner_id')) $$, 'a conversation is transferred');
select is((public.transfer_conversation(tests.the('clinic', 'conversation_id'), tests.the('clinic', 'owner_id'))).control_epoch, 4, 'twice is once');
select tests.authenticate_as_nobody();
select is(pg_temp.control(), 'transferred human owner 4', 'to the one who was named');
select is(pg_temp.bot_says('Voltei!', 3, 'bot-1'), id, 'a retry of what was queued before is no error') from said where name = 'again';
update held set job = pg_temp.work();
select is(public.begin_send(job) ->> 'reason', 'superseded', 'it is not sent all the same') from held;
select pg_temp.as_member('attendant');
select throws_ok($$ select public.transfer_conversation(tests.the('clinic', 'conversation_id'), tests.the('clinic', 'viewer_id')) $$, 'BL209', null, 'a viewer cannot have one');
select throws_ok($$ select public.transfer_conversation(tests.the('clinic', 'conversation_id'), tests.the('petshop', 'attendant_id')) $$, 'BL209', null, 'nor a stranger');
select throws_ok($$ select public.transfer_conversation(tests.the('clinic', 'conversation_id'), null) $$, 'BL209', null, 'nor nobody');
select tests.authenticate_as_nobody();
update public.user_roles set is_active = false where user_id = tests.the('clinic', 'admin_id');
select pg_temp.as_member('attendant');
select throws_ok($$ select public.assign_conversation(tests.the('clinic', 'conversation_id'), tests.the('clinic', 'admin_id')) $$, 'BL209', null, 'nor who does not work here any more');
select tests.authenticate_as_nobody();
update public.user_roles set is_active = true where user_id = tests.the('clinic', 'admin_id');

-- Answering takes over ---------------------------------------------------------------------------------------------------
select pg_temp.as_member('attendant');
select lives_ok($$ select public.send_message(tests.the('clinic', 'conversation_id'), 'Um momento') $$, 'a colleague may write in between');
select tests.authenticate_as_nobody();
select is(pg_temp.control(), 'transferred human owner 4', 'which changes nothing');
select pg_temp.as_member('owner');
select public.send_message(tests.the('clinic', 'conversation_id'), 'Sou a dona', 'owner-1');
select tests.authenticate_as_nobody();
select is(pg_temp.control(), 'active human owner 5', 'who was meant accepts by writing');
select pg_temp.as_member('attendant');
select public.release_to_bot(tests.the('clinic', 'conversation_id'));
select pg_temp.as_member('owner');
select public.send_message(tests.the('clinic', 'conversation_id'), 'Sou a dona', 'owner-1');
select tests.authenticate_as_nobody();
select is(pg_temp.control(), 'active bot owner 6', 'a message sent again takes nothing over');
select tests.authenticate_as_service();
select public.send_message(tests.the('clinic', 'conversation_id'), 'Aviso', organization_id => tests.the('clinic', 'organization_id'));
select tests.authenticate_as_nobody();
select is(pg_temp.control(), 'active bot owner 6', 'nor does what the platform sends');
select pg_temp.as_member('attendant');
select public.send_message(tests.the('clinic', 'conversation_id'), null, null, 'reaction', '{"message_id": "first-of-clinic", "emoji": "👍"}');
select tests.authenticate_as_nobody();
select is(pg_temp.control(), 'active bot owner 6', 'nor a thumbs up');
select pg_temp.as_member('attendant');
select throws_ok($$ select public.send_message(tests.the('clinic', 'conversation_id'), '') $$, 'BL205', null, 'nor what cannot be sent');
select tests.authenticate_as_nobody();
select is(pg_temp.control(), 'active bot owner 6', 'it stays the bot''s');
select pg_temp.as_member('attendant');
select public.send_message(tests.the('clinic', 'conversation_id'), 'Oi, aqui é a Ana');
select tests.authenticate_as_nobody();
select is(pg_temp.control(), 'active human attendant 7', 'an attendant who answers takes over');

select pg_temp.as_member('attendant');
select public.release_to_bot(tests.the('clinic', 'conversation_id'));
select pg_temp.the_phone_says('👍', 'reaction', 'first-of-clinic');
select is(pg_temp.control(), 'active bot attendant 8', 'a thumbs up on the business''s phone does not');
select pg_temp.the_phone_says('Oi, é a Ana, do celular');
select is(pg_temp.control(), 'active human attendant 9', 'a message does');
select pg_temp.the_phone_says('Já te respondo');
select is(pg_temp.control(), 'active human attendant 9', 'the next one changes nothing');
select tests.deliver('clinic', tests.a_message('stranger-1', '5521987650001') || '{"kind": "echo"}');
select is(
  (select concat_ws(' ', v.status, v.is_bot_controlled) from public.conversations v where v.whatsapp_chat_id = '5521987650001'), 'active f',
  'a conversation that begins on the phone is the person''s');

-- The bot hands over ------------------------------------------------------------------------------------------------------
delete from public.message_queue where job_type = 'send_message';
select pg_temp.as_member('attendant');
select public.release_to_bot(tests.the('clinic', 'conversation_id'));
insert into said values ('last words', pg_temp.bot_says('Vou chamar alguém.'));
select private.hand_over(private.lock_conversation(tests.the('clinic', 'organization_id'), tests.the('clinic', 'conversation_id')), 'pediu atendente');
select is(pg_temp.control(), 'waiting_human human attendant 11', 'the bot asks for a human');
select is((select row((c).escalation_reason, (c).escalated_at is not null)::text from pg_temp.chat() c), '("pediu atendente",t)', 'and says why');
update held set job = pg_temp.work();
select is(public.begin_send(job) ->> 'action', 'send', 'its last words are sent') from held;
select public.finish_send(job, '{"result": "failed", "code": "1", "message": "x"}') from held;
select throws_ok($$ select pg_temp.bot_says('E mais uma coisa') $$, 'BL208', null, 'no more than these');
select is(
  (private.hand_over(private.lock_conversation(tests.the('clinic', 'organization_id'), tests.the('clinic', 'conversation_id')), 'de novo')).escalation_reason,
  'pediu atendente', 'it hands over once');
select pg_temp.as_member('admin');
select public.send_message(tests.the('clinic', 'conversation_id'), 'Pois não?');
select tests.authenticate_as_nobody();
select is(pg_temp.control(), 'active human admin 12', 'whoever answers settles it');

-- However control changes -------------------------------------------------------------------------------------------------
select tests.authenticate_as_service();
update public.conversations set is_bot_controlled = true where id = tests.the('clinic', 'conversation_id');
select is((select v.control_epoch from public.conversations v where v.id = tests.the('clinic', 'conversation_id')), 13, 'an UPDATE of the platform''s counts too');
update public.conversations set control_epoch = 0 where id = tests.the('clinic', 'conversation_id');
select is((select v.control_epoch from public.conversations v where v.id = tests.the('clinic', 'conversation_id')), 13, 'and cannot turn the epoch back');
select tests.authenticate_as_nobody();

-- A call whose answer is missing --------------------------------------------------------------------------------------------
delete from public.message_queue where job_type = 'send_message';
insert into said values ('uncertain', pg_temp.bot_says('Talvez enviada'));
update held set job = pg_temp.work();
select is(public.begin_send(job) ->> 'action', 'send', 'a call is announced before the takeover') from held;
select public.finish_send(job, '{"result": "unknown", "message": "timeout"}') from held;
select pg_temp.as_member('attendant');
select public.take_over_conversation(tests.the('clinic', 'conversation_id'));
select tests.authenticate_as_nobody();
update public.message_queue set run_at = now(), is_due = true where status in ('pending', 'failed') and job_type = 'send_message';
update held set job = pg_temp.work();
select is(public.begin_send(job) ->> 'reason', 'waits_for_a_status', 'it may have been sent: that is found out first') from held;
update private.unanswered_sends set called_at = now() - interval '20 minutes';
insert into public.webhook_events (organization_id, instance_id, provider, event_type, payload, created_at)
values (tests.the('clinic', 'organization_id'), tests.the('clinic', 'instance_id'), 'meta_cloud', 'messages', '{}', now() - interval '19 minutes');
update public.message_queue set run_at = now(), is_due = true where status in ('pending', 'failed') and job_type = 'send_message';
update held set job = pg_temp.work();
select is(public.begin_send(job) ->> 'reason', 'superseded', 'if it was not, it is not sent again') from held;
select is((select count(*) from private.unanswered_sends), 0::bigint, 'and is settled');
insert into public.messages (organization_id, conversation_id, contact_id, instance_id, direction, sender, content, status)
values (
  tests.the('clinic', 'organization_id'), tests.the('clinic', 'conversation_id'), tests.the('clinic', 'contact_id'),
  tests.the('clinic', 'instance_id'), 'outbound', 'ai', 'Sem época', 'queued');
select private.enqueue_send(m) from public.messages m where m.content = 'Sem época';
update held set job = pg_temp.work();
select is(public.begin_send(job) ->> 'reason', 'superseded', 'a bot''s message without an epoch is never sent') from held;
select throws_ok(
  $$
    insert into public.messages (organization_id, conversation_id, contact_id, instance_id, direction, sender, content, status, control_epoch)
    values (
      tests.the('clinic', 'organization_id'), tests.the('clinic', 'conversation_id'), tests.the('clinic', 'contact_id'),
      tests.the('clinic', 'instance_id'), 'outbound', 'human', 'x', 'queued', 1)
  $$, '23514', null, 'and a person''s has none');

-- Unread ----------------------------------------------------------------------------------------------------------------
select pg_temp.as_member('attendant');
select is((public.mark_conversation_read(tests.the('clinic', 'conversation_id'))).unread_count, 0, 'who reads a conversation has read it');
select pg_temp.maria_says('Um');
select pg_temp.maria_says('Dois');
insert into said select 'two', m.id from public.messages m where m.content = 'Dois';
select pg_temp.maria_says('Três');
select is((pg_temp.chat()).unread_count, 3, 'what the customer writes is unread');
select pg_temp.as_member('attendant');
select is((public.mark_conversation_read(tests.the('clinic', 'conversation_id'), id)).unread_count, 1, 'what came after the last one shown stays unread') from said where name = 'two';
select is((public.mark_conversation_read(tests.the('clinic', 'conversation_id'), (select m.id from public.messages m where m.whatsapp_message_id = 'first-of-clinic'))).unread_count, 1, 'a slow app makes nothing unread again');
select public.send_message(tests.the('clinic', 'conversation_id'), 'Pois não');
select tests.authenticate_as_nobody();
select is((pg_temp.chat()).unread_count, 0, 'whoever answers has read');
select pg_temp.maria_says('Quatro');
select pg_temp.the_phone_says('👍', 'reaction', 'first-of-clinic');
select is((pg_temp.chat()).unread_count, 1, 'a thumbs up is no answer');
select tests.deliver('clinic',
  tests.a_message('b-1', '5511987654321', 'Cinco', clock_timestamp()),
  tests.a_message('b-2', '5511987654321', 'Respondida no celular', clock_timestamp() + interval '1 second') || '{"kind": "echo"}',
  tests.a_message('b-3', '5511987654321', 'Seis', clock_timestamp() + interval '2 seconds'));
select is((pg_temp.chat()).unread_count, 3, 'an answer on the business''s own phone, which may be told late, makes nothing read');

-- Small changes, and the end ----------------------------------------------------------------------------------------------
select pg_temp.as_member('attendant');
select is((public.assign_conversation(tests.the('clinic', 'conversation_id'), null)).assigned_user_id, null, 'nobody is responsible');
select is((public.assign_conversation(tests.the('clinic', 'conversation_id'), tests.the('clinic', 'owner_id'))).assigned_user_id, tests.the('clinic', 'owner_id'), 'somebody is');
select is((public.set_conversation_priority(tests.the('clinic', 'conversation_id'), 'urgent')).priority::text, 'urgent', 'it is urgent');
select tests.authenticate_as_nobody();
select is(pg_temp.control(), 'active human owner 14', 'none of which changes control');
select pg_temp.as_member('attendant');
select throws_ok($$ select public.close_conversation(tests.the('clinic', 'conversation_id'), 6) $$, 'BL211', null, 'six is no score');
select throws_ok($$ select public.close_conversation(tests.the('clinic', 'conversation_id'), 0) $$, 'BL211', null, 'nor is none');
select is((public.close_conversation(tests.the('clinic', 'conversation_id'))).status::text, 'closed', 'it is closed');
select is((public.close_conversation(tests.the('clinic', 'conversation_id'), 5)).satisfaction_score, 5, 'the score may come later');
select is((public.close_conversation(tests.the('clinic', 'conversation_id'))).satisfaction_score, 5, 'and is not lost by closing again');
select throws_ok($$ select public.take_over_conversation(tests.the('clinic', 'conversation_id')) $$, 'BL203', null, 'a closed one is not taken over');
select throws_ok($$ select public.release_to_bot(tests.the('clinic', 'conversation_id')) $$, 'BL203', null, 'nor given away');
select throws_ok($$ select public.transfer_conversation(tests.the('clinic', 'conversation_id'), tests.the('clinic', 'owner_id')) $$, 'BL203', null, 'nor transferred');
select throws_ok($$ select public.assign_conversation(tests.the('clinic', 'conversation_id'), null) $$, 'BL203', null, 'nor assigned');
select tests.authenticate_as_nobody();
select throws_ok($$ select pg_temp.bot_says('Alô?', sender => 'system') $$, 'BL203', null, 'nor written in');
select pg_temp.as_member('attendant');
select is((public.reopen_conversation(tests.the('clinic', 'conversation_id'))).status::text, 'active', 'it goes on');
select is((public.reopen_conversation(tests.the('clinic', 'conversation_id'))).closed_at, null, 'twice is once');
select public.release_to_bot(tests.the('clinic', 'conversation_id'));
select is((public.close_conversation(tests.the('clinic', 'conversation_id'))).control_epoch, 16, 'closed over the bot''s head, what it was about to say is stale');
select pg_temp.maria_says('Oi de novo');
select pg_temp.as_member('attendant');
select throws_ok($$ select public.reopen_conversation(tests.the('clinic', 'conversation_id')) $$, 'BL210', null, 'not when she goes on in another one');

-- Who may ------------------------------------------------------------------------------------------------------------------
select tests.authenticate_as_nobody();
delete from public.conversations where organization_id = tests.the('clinic', 'organization_id') and is_open;
update public.conversations set status = 'active', closed_at = null where id = tests.the('clinic', 'conversation_id');
create function pg_temp.refusals()
returns text[]
language plpgsql
as $$
declare
  refused text[] := '{}';
  statement text;
begin
  foreach statement in array array[
    'public.take_over_conversation(%1$L, null, %2$L)', 'public.release_to_bot(%1$L, null, %2$L)',
    'public.transfer_conversation(%1$L, %3$L, null, %2$L)', 'public.close_conversation(%1$L, null, %2$L)',
    'public.reopen_conversation(%1$L, %2$L)', 'public.assign_conversation(%1$L, null, %2$L)',
    'public.set_conversation_priority(%1$L, ''low'', %2$L)', 'public.mark_conversation_read(%1$L, null, %2$L)'
  ] loop
    begin
      execute 'select ' || format(statement, tests.the('clinic', 'conversation_id'), tests.the('clinic', 'organization_id'), tests.the('clinic', 'owner_id'));
      refused := refused || 'allowed'::text;
    exception when others then
      refused := refused || sqlstate::text;
    end;
  end loop;
  return refused;
end;
$$;
select pg_temp.as_member('viewer');
select is(pg_temp.refusals(), array_fill('BL002'::text, array[8]), 'a viewer may do nothing of this');
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select is(pg_temp.refusals(), array_fill('BL002'::text, array[8]), 'nor another tenant''s owner');
select throws_ok(
  $$ select public.take_over_conversation(tests.the('clinic', 'conversation_id')) $$, 'BL202', null,
  'whose own organization has no such conversation');
select tests.authenticate_as_anon();
select is(pg_temp.refusals(), array_fill('42501'::text, array[8]), 'nor anybody who has not signed in');
select pg_temp.as_member('attendant');
select throws_ok(
  $$ select private.send_bot_message(tests.the('clinic', 'conversation_id'), tests.the('clinic', 'organization_id'), 0, 'bot', 'text', 'x', null, null) $$,
  '42501', null, 'no member speaks as the bot');
select throws_ok(
  $$ select private.hand_over(v, 'x') from public.conversations v limit 1 $$, '42501', null, 'or hands over for it');

-- What endpoints are told ---------------------------------------------------------------------------------------------------
select tests.authenticate_as_nobody();
update public.webhook_endpoints
set is_active = true, event_types = private.webhook_event_types()
where id = tests.the('clinic', 'endpoint_id');
delete from public.webhook_deliveries;
update public.conversations set is_bot_controlled = true, status = 'active' where id = tests.the('clinic', 'conversation_id');
delete from public.webhook_deliveries;
select private.hand_over(private.lock_conversation(tests.the('clinic', 'organization_id'), tests.the('clinic', 'conversation_id')), 'não entendi');
select pg_temp.as_member('attendant');
select public.take_over_conversation(tests.the('clinic', 'conversation_id'));
select public.take_over_conversation(tests.the('clinic', 'conversation_id'));
select public.transfer_conversation(tests.the('clinic', 'conversation_id'), tests.the('clinic', 'owner_id'));
select public.assign_conversation(tests.the('clinic', 'conversation_id'), tests.the('clinic', 'admin_id'));
select public.set_conversation_priority(tests.the('clinic', 'conversation_id'), 'high');
select public.release_to_bot(tests.the('clinic', 'conversation_id'));
select public.close_conversation(tests.the('clinic', 'conversation_id'), 4);
select public.reopen_conversation(tests.the('clinic', 'conversation_id'));
select tests.authenticate_as_nobody();
select is(
  (select array_agg(d.event_type order by d.event_id) from public.webhook_deliveries d),
  '{conversation.escalated,conversation.taken_over,conversation.transferred,conversation.transferred,conversation.released,conversation.closed,conversation.reopened}'::text[],
  'every change of hands is told, once');
select is(
  (select d.payload #>> '{data,conversation,escalation_reason}' from public.webhook_deliveries d where d.event_type = 'conversation.escalated'),
  'não entendi', 'and why the bot gave up');
select is(
  (select (d.payload #>> '{data,conversation,satisfaction_score}')::int from public.webhook_deliveries d where d.event_type = 'conversation.closed'),
  4, 'and how content the customer was');

select * from finish();
rollback;
