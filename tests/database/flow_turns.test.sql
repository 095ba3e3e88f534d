-- Turns: what brings one along, what it is told, what it does, and when it does nothing at all. The engine is played here;
-- what it decides is tested beside it.
begin;
-- What this story defines may run as anyone; rolled back with the rest.
alter default privileges grant execute on functions to public;

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
select plan(75);
-- Its id is not one of those that grow.
delete from public.messages where id = tests.the('clinic', 'message_id');

create temporary table now_at_hand (job jsonb, turn jsonb);
insert into now_at_hand values (null, null);
grant select, update on now_at_hand to service_role;

create function pg_temp.customer_says(id text, what text, sender text default '5511987654321', at timestamptz default now())
returns void
language plpgsql
as $$
begin
  perform tests.authenticate_as_service();
  perform tests.deliver('clinic', tests.a_message(id, sender, what, at));
end;
$$;

create function pg_temp.jobs()
returns bigint
language sql
security definer
as $$ select count(*) from public.message_queue q where q.job_type = 'run_flow' and q.status in ('pending', 'waiting', 'failed') $$;

-- The next job begins; what its worker is told.
create function pg_temp.begin_turn()
returns jsonb
language plpgsql
as $$
declare
  claimed jsonb;
begin
  perform tests.authenticate_as_service();
  select jsonb_build_object('organization_id', c.organization_id, 'id', c.id, 'fencing_token', c.fencing_token) into claimed
  from public.claim_jobs('test', 1, array['run_flow']) c;
  if claimed is null then
    return '{"action": "none"}';
  end if;
  update now_at_hand set job = claimed, turn = public.begin_flow_turn(claimed);
  return (select n.turn from now_at_hand n);
end;
$$;

-- The engine has decided.
create function pg_temp.finish_turn(step text, says text[] default '{}', does jsonb default '[]', status text default 'running')
returns jsonb
language plpgsql
as $$
declare
  n now_at_hand;
begin
  perform tests.authenticate_as_service();
  select * into n from now_at_hand;
  return public.finish_flow_turn(n.job, jsonb_build_object(
    'session_id', n.turn #> '{session,id}',
    'session_version', n.turn #> '{session,version}',
    'control_epoch', n.turn #> '{context,control_epoch}',
    'last_message_id', (select i -> 'message_id' from jsonb_array_elements(n.turn -> 'inputs') with ordinality x (i, n)
      where i ? 'message_id' order by x.n desc limit 1),
    'session', jsonb_build_object('current_step', step, 'status', status, 'state', jsonb_build_object(
      'respostas', '{}'::jsonb,
      -- Whatever it says is a new question.
      'perguntas', coalesce((n.turn #>> '{session,state,perguntas}')::int, 0) + (cardinality(says) > 0)::int)),
    'outputs', (select coalesce(jsonb_agg(jsonb_build_object('message_type', 'text', 'content', s, 'payload', null)), '[]') from unnest(says) s),
    'actions', does));
end;
$$;

create function pg_temp.bot_said()
returns text
language sql
security definer
as $$
  select string_agg(m.content, ' | ' order by m.id) from public.messages m
  where m.organization_id = tests.the('clinic', 'organization_id') and m.sender = 'bot'
$$;

create function pg_temp.session()
returns public.flow_sessions
language sql
security definer
as $$
  select s.* from public.flow_sessions s
  where s.organization_id = tests.the('clinic', 'organization_id') and s.conversation_id = tests.the('clinic', 'conversation_id')
  order by s.is_completed, s.id desc limit 1
$$;

-- In one transaction the clock stands still.
create function pg_temp.time_passes()
returns void
language sql
security definer
as $$ update public.flow_sessions s set asked_at = now() - interval '1 minute' where s.id = (pg_temp.session()).id $$;

create function pg_temp.texts(inputs jsonb)
returns text
language sql
as $$ select string_agg(concat_ws('=', i ->> 'kind', i ->> 'text', case when (i ->> 'early')::boolean then 'early' end), ' ' order by n) from jsonb_array_elements(inputs) with ordinality x (i, n) $$;

-- What brings a turn along --------------------------------------------------------------------------------------------

select pg_temp.customer_says('w1', 'Oi');
select is(pg_temp.jobs(), 0::bigint, 'without a default flow nobody is answered');

select tests.authenticate_as(tests.the('clinic', 'admin_id'));
update public.flows set is_default = true where id = tests.the('clinic', 'flow_id');
select pg_temp.customer_says('w2', 'Oi?');
select is(pg_temp.jobs(), 1::bigint, 'with one, a message brings a turn along');
select tests.authenticate_as_service();
select is(
  (select (tests.deliver('clinic', tests.a_message('w2', '5511987654321', 'Oi?', now())) ->> 'messages')::int), 0,
  'the same delivery again');
select is(pg_temp.jobs(), 1::bigint, 'brings no other one');
select pg_temp.customer_says('w0', 'Antes de ontem', at => now() - interval '2 days');
select tests.deliver('clinic', tests.a_message('w3', '5511987654321', '👍', now())
  || '{"message_type": "reaction", "reply_to_whatsapp_message_id": "w2"}');
select is(pg_temp.jobs(), 1::bigint, 'what is two days old, or a reaction, is nothing to answer');

select pg_temp.begin_turn();
select is(turn ->> 'action', 'turn', 'the worker is given a turn') from now_at_hand;
select is(pg_temp.texts(turn -> 'inputs'), 'message=Oi?', 'it begins with the message that brought it: the one before was for people') from now_at_hand;
select is(turn #>> '{context,contact,first_name}', 'Maria', 'it knows whom it talks to') from now_at_hand;
select is(turn #>> '{context,expired}', 'false', 'and that nothing was left unfinished') from now_at_hand;
select is(turn -> 'definition', (select f.definition from public.flows f where f.id = tests.the('clinic', 'flow_id')), 'and by which flow') from now_at_hand;
select is(
  public.get_flow_facts(job, '{"kind": "pets"}') #>> '{pets,0,name}', 'Rex', 'it may ask for the customer''s animals') from now_at_hand;
select is(
  jsonb_array_length(public.get_flow_facts(job, '{"kind": "services", "category": null}') -> 'services'), 2, 'for services') from now_at_hand;
select is(
  public.get_flow_facts(job, '{"kind": "bookings"}') -> 'bookings', '[]', 'for what is to come: what is over is over') from now_at_hand;
select ok(
  jsonb_array_length(public.get_flow_facts(job, jsonb_build_object(
    'kind', 'slots', 'service_id', tests.the('clinic', 'service_id'), 'professional_id', null, 'location_id', null,
    'from_time', now(), 'to_time', now() + interval '3 days')) -> 'slots') > 0, 'and for slots') from now_at_hand;
select is(
  public.get_flow_facts(job, jsonb_build_object(
    'kind', 'slots', 'service_id', gen_random_uuid(), 'from_time', now(), 'to_time', now() + interval '3 days')) -> 'slots',
  '[]', 'of a service that is gone there are none') from now_at_hand;
insert into public.ab_tests (organization_id, name, variant_a, variant_b, active)
select tests.the('clinic', 'organization_id'), t.name, 'curta', 'longa', t.active from (values ('Saudação: nova', true), ('Velho', false)) t (name, active);
create temporary table facts as
select public.get_flow_facts(job, '{"kind": "facts", "pets": true, "tests": ["Saudação: nova", "Velho", "Nenhum"]}') as f from now_at_hand;
select is(f -> 'pets', '1', 'for how many animals there are') from facts;
select results_eq(
  $$ select s.variant::text, t.name from public.ab_test_assignments s join public.ab_tests t on t.organization_id = s.organization_id and t.id = s.ab_test_id where t.name <> 'Saudação' and s.contact_id = tests.the('clinic', 'contact_id') and t.template_id is null and t.variant_a = 'curta' $$,
  $$ select f #>> '{variants,Saudação: nova}', 'Saudação: nova' from facts $$, 'for the customer''s variant, which is noted: he takes part from now on');
select is(f -> 'variants' -> 'Velho', 'null', 'of a test that is over there is none') from facts;
select is(f -> 'variants' -> 'Nenhum', 'null', 'nor of one that never was') from facts;
select is(
  public.get_flow_facts(job, '{"kind": "facts", "pets": false, "tests": ["Saudação: nova"]}') -> 'variants', (f -> 'variants') - array['Velho', 'Nenhum'],
  'and it stays the same') from now_at_hand, facts;
select throws_ok(
  $$ select public.get_flow_facts(job, '{"kind": "salaries"}') from now_at_hand $$, 'BL305', null, 'and nothing else');

-- What a turn does ------------------------------------------------------------------------------------------------------

select throws_ok($$ select public.finish_flow_turn(job, '{}') from now_at_hand $$, 'BL305', null, 'what no engine says is refused');
select is(
  pg_temp.finish_turn('quer', array['Olá!', 'Quer marcar?'], jsonb_build_array(
    '{"tipo": "etiquetar", "etiqueta": "novo"}'::jsonb, '{"tipo": "criar_pet", "nome": " rex "}'::jsonb,
    '{"tipo": "criar_pet", "nome": "Mel"}'::jsonb, '{"tipo": "criar_lead", "profissional_id": null, "respostas": {"a": "b"}}'::jsonb)),
  '{"action": "done", "reason": "running"}', 'all of it is done at once');
select is(pg_temp.bot_said(), 'Olá! | Quer marcar?', 'both is said');
select is((pg_temp.session()).current_step, 'quer', 'the session waits at its question');
select isnt((pg_temp.session()).lead_id, null, 'and knows its lead');
select is((select c.tags::text from public.contacts c where c.id = tests.the('clinic', 'contact_id')), '{novo}', 'the customer has the tag');
select is(
  (select string_agg(a.name, ',' order by a.name) from public.pets a where a.contact_id = tests.the('clinic', 'contact_id')), 'Mel,Rex',
  'an animal that is known by its name is not made again');
select throws_ok($$ select pg_temp.finish_turn('quer') $$, 'BL301', null, 'a job that has ended is not ended again');

select pg_temp.customer_says('w4', 'Sim');
select pg_temp.begin_turn();
select is(pg_temp.texts(turn -> 'inputs'), 'message=Sim=early', 'what was written before the question was asked is known as such') from now_at_hand;
select pg_temp.time_passes();
select pg_temp.customer_says('w5', 'Amanhã');
select is(public.begin_flow_turn(job) #>> '{inputs,1,text}', 'Amanhã', 'who asks again hears what came meanwhile') from now_at_hand;

-- A slot, once, and refused when it is taken
select tests.authenticate_as_nobody();
create temporary table slot as
select s.start_time
from private.free_slots(
  tests.the('clinic', 'organization_id'), tests.the('clinic', 'service_id'), now() + interval '1 day', now() + interval '3 days') s
order by 1 limit 1;
grant select on slot to service_role;
create function pg_temp.booking_action()
returns jsonb
language sql
security definer
as $$
  select jsonb_build_object(
    'tipo', 'agendar', 'servico_id', tests.the('clinic', 'service_id'), 'horario', s.start_time,
    'profissional_id', tests.the('clinic', 'professional_id'), 'local_id', null, 'pet_id', null, 'pet_nome', 'mel')
  from slot s
$$;
select is(
  pg_temp.finish_turn('marcou', array['Marcado!'], jsonb_build_array('{"tipo": "etiquetar", "etiqueta": "agendou"}'::jsonb, pg_temp.booking_action())),
  '{"action": "again", "reason": "new_messages"}', 'a turn is done, and the job goes on: there is more to hear');
select results_eq(
  $$ select b.created_by::text, b.status::text, a.name from public.bookings b join slot s on s.start_time = b.start_time
     join public.pets a on a.id = b.pet_id $$,
  $$ values ('flow', 'scheduled', 'Mel') $$, 'the slot is booked, by the flow, for the animal of that name');
update now_at_hand set turn = public.begin_flow_turn(job);
select is(pg_temp.texts(turn -> 'inputs'), 'message=Amanhã=early', 'the rest is heard next') from now_at_hand;
select is(
  pg_temp.finish_turn('de_novo', array['Marcado de novo!'], jsonb_build_array(
    '{"tipo": "etiquetar", "etiqueta": "duas"}'::jsonb, pg_temp.booking_action())) #- '{detail}',
  '{"action": "refused", "action_index": 1, "error": "slot_unavailable"}', 'a slot that is taken is refused, saying which action it was');
select is(pg_temp.bot_said(), 'Olá! | Quer marcar? | Marcado!', 'then nothing is said');
select is((select c.tags::text from public.contacts c where c.id = tests.the('clinic', 'contact_id')), '{novo,agendou}', 'nothing is done');
select is((pg_temp.session()).current_step, 'marcou', 'and the session stands where it was');
select ok(
  jsonb_array_length(pg_temp.finish_turn('x', array['x'], jsonb_build_array(pg_temp.booking_action())) #> '{detail,alternatives}') > 0,
  'what else is free is told with it');
select is(
  pg_temp.finish_turn('x', '{}', jsonb_build_array(jsonb_build_object(
    'tipo', 'cancelar_agendamento', 'agendamento_id', tests.the('petshop', 'booking_id'), 'motivo', 'x'))) ->> 'error',
  'booking_not_found', 'nobody cancels somebody else''s booking');

select is(
  pg_temp.finish_turn('x', '{}', '[{"tipo": "agendar", "servico_id": "nenhum", "horario": "2030-01-01T12:00Z"}]') ->> 'error',
  'service_not_found', 'nor books what nobody offers');

-- Somebody was faster
update public.flow_sessions s set version = s.version + 1 where s.id = (pg_temp.session()).id;
select is(
  pg_temp.finish_turn('tarde', array['Tarde demais']), '{"action": "again", "reason": "session_moved_on"}',
  'of two turns from one version the second does nothing');
update now_at_hand set turn = public.begin_flow_turn(job);

-- A human takes over in the midst of a turn
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select public.take_over_conversation(tests.the('clinic', 'conversation_id'));
select is(pg_temp.finish_turn('x', array['Ainda eu!']), '{"action": "done", "reason": "superseded"}', 'a human who takes over is not talked over');
select is(pg_temp.bot_said(), 'Olá! | Quer marcar? | Marcado!', 'nothing is said then');
select is(pg_temp.begin_turn() ->> 'reason', 'human_controls', 'and the turn that waited behind it is none any more');
select pg_temp.customer_says('w6', 'Obrigado');
select is(pg_temp.jobs(), 0::bigint, 'what is said to a human is no matter of the bot''s');
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select public.release_to_bot(tests.the('clinic', 'conversation_id'));
select is(pg_temp.jobs(), 0::bigint, 'the bot waits until it is spoken to');
select pg_temp.time_passes();
select pg_temp.customer_says('w7', 'Voltei');
select pg_temp.begin_turn();
select is(pg_temp.texts(turn -> 'inputs'), 'message=Voltei', 'and hears only that: not what was said to the human') from now_at_hand;
select is(turn #>> '{session,current_step}', 'marcou', 'where it was before') from now_at_hand;

-- A wait
select is(pg_temp.finish_turn('espera', '{}', '[{"tipo": "aguardar", "minutos": 5}]') ->> 'reason', 'running', 'a wait');
select is((pg_temp.session()).wakes_at, now() + interval '5 minutes', 'has an end');
select tests.authenticate_as_nobody();
select is(private.wake_flow_sessions(), 0::bigint, 'not before its time');
update public.flow_sessions s set wakes_at = now() where s.id = (pg_temp.session()).id;
select is(private.wake_flow_sessions() + private.wake_flow_sessions(), 1::bigint, 'the clock wakes it, once');
select is(pg_temp.texts(pg_temp.begin_turn() -> 'inputs'), 'timer', 'and then the flow goes on');

-- Its end
select is(pg_temp.finish_turn('x', array['Chamo alguém.'], '[{"tipo": "transferir", "motivo": "pediu"}]', 'handed_over') ->> 'reason',
  'handed_over', 'a flow may call a human');
select is(
  (select (v.status, v.is_bot_controlled, v.escalation_reason, m.status, m.control_epoch = v.control_epoch)::text
    from public.conversations v join public.messages m on m.conversation_id = v.id and m.content = 'Chamo alguém.'
    where v.id = tests.the('clinic', 'conversation_id')),
  '(waiting_human,f,pediu,queued,t)', 'its last words are still to be sent');

-- A flow that changes, expires, is started by hand, is closed
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select is(
  (select (s.status, s.current_step is null, s.flow_version)::text
    from public.start_flow(tests.the('clinic', 'conversation_id'), tests.the('clinic', 'flow_id')) s),
  '(running,t,1)', 'an attendant starts a flow; the bot has control again');
select is(pg_temp.texts(pg_temp.begin_turn() -> 'inputs'), 'start', 'it begins without a word of the customer''s');
select is(pg_temp.finish_turn('quer', array['Olá de novo!']) ->> 'reason', 'running', 'it asks');
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
update public.flows set definition = '{"etapas": [{"id": "outro", "tipo": "fim"}]}' where id = tests.the('clinic', 'flow_id');
select pg_temp.customer_says('w8', 'Sim');
select is(pg_temp.begin_turn() #>> '{definition,etapas,0,id}', 'fim', 'who is in the middle goes on with the version he began with');
select pg_temp.finish_turn('quer', array['E?']);
select tests.authenticate_as_nobody();
update public.flow_sessions s set expires_at = now() where s.id = (pg_temp.session()).id;
select is(private.expire_flow_sessions(), 1::bigint, 'who does not answer is waited for until a moment');
select pg_temp.customer_says('w9', 'Desculpe!');
select pg_temp.begin_turn();
select is(
  (turn #>> '{session,current_step}', turn #>> '{context,expired}', turn #>> '{definition,etapas,0,id}')::text, '(,true,outro)',
  'and then begins anew, with the flow of today') from now_at_hand;

-- Written while the last words were on their way
select pg_temp.customer_says('w9b', 'Ok, obrigada');
select pg_temp.customer_says('w9c', 'E quanto custa a consulta?');
select is(pg_temp.finish_turn('outro', array['Até logo!'], '[{"tipo": "encerrar"}]', 'completed') ->> 'reason', 'completed', 'a flow ends');
select is(
  (select v.is_open from public.conversations v where v.id = tests.the('clinic', 'conversation_id')), true,
  'what was asked meanwhile keeps the conversation open');
select is(pg_temp.begin_turn() ->> 'reason', 'nothing_to_do', 'thanks begin nothing');
select is(
  (select (pg_temp.texts(t -> 'inputs'), t #>> '{session,current_step}')::text from pg_temp.begin_turn() t),
  '("message=E quanto custa a consulta?",)', 'a question begins the flow anew');
select pg_temp.customer_says('w9d', 'E QUANTO custa, a consulta');
select pg_temp.customer_says('w9e', '🙏🏽');
select pg_temp.customer_says('w9f', 'Tchau!');
select is(pg_temp.finish_turn('outro', array['Até logo!'], '[]', 'completed') ->> 'reason', 'completed', 'it ends');
select is(
  (select string_agg(pg_temp.begin_turn() ->> 'reason', ' ') from generate_series(1, 4)),
  'nothing_to_do nothing_to_do nothing_to_do nothing_to_do', 'nothing was asked: not the same again, no picture, no goodbye');
select is(pg_temp.jobs(), 0::bigint, 'and nothing is left to do');
select pg_temp.customer_says('w9g', 'Oi');
select pg_temp.begin_turn();
select pg_temp.customer_says('w9h', 'Tudo bem?');
select is(pg_temp.finish_turn('outro', '{}', '[]', 'completed') ->> 'reason', 'completed', 'a flow that asks nothing ends at once');
select is(pg_temp.begin_turn() ->> 'reason', 'nothing_to_do', 'and has answered all that was written with it');
select pg_temp.customer_says('w9i', 'Voltei');
select pg_temp.begin_turn();
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select public.close_conversation(tests.the('clinic', 'conversation_id'));
select is((select s.status::text from public.flow_sessions s where s.id = (pg_temp.session()).id), 'cancelled', 'a conversation that is closed ends its flow');

-- A bot that cannot
select pg_temp.customer_says('w10', 'Oi', '5511977776666');
select tests.authenticate_as_service();
select public.fail_jobs(jsonb_build_array(jsonb_build_object(
  'organization_id', c.organization_id, 'id', c.id, 'fencing_token', c.fencing_token, 'error', 'x', 'is_permanent', true)))
from public.claim_jobs('test', 5, array['run_flow']) c;
select is(
  (select v.escalation_reason from public.conversations v where v.whatsapp_chat_id = '5511977776666'), 'flow_failed',
  'a turn that is given up is a human''s matter');
select pg_temp.customer_says('w11', 'Olá', '5511966665555');
update public.contacts set status = 'blocked' where phone_number = '+5511966665555';
select is(pg_temp.begin_turn() ->> 'reason', 'contact_blocked', 'who is blocked is not answered');
select pg_temp.customer_says('w12', 'Olá?', '5511966665555');
select is(pg_temp.jobs(), 0::bigint, 'and brings no turn along');

select * from finish();
rollback;
