-- Two contacts were one person, and are two again: what came meanwhile, and what others brought, goes to whom it belongs.
begin;
alter default privileges grant execute on functions to public;
select plan(55);

select tests.a_tenant('clinic');
create function pg_temp.clinic() returns uuid language sql as $$ select tests.the('clinic', 'organization_id') $$;
create function pg_temp.number_a() returns uuid language sql as $$ select tests.the('clinic', 'instance_id') $$;
update private.plan_features set leads_per_month = 1000;
-- The organization's own lead and place in line stand in nobody's way here.
update public.contacts set name = 'Maria de sempre' where id = tests.the('clinic', 'contact_id');

create temporary table ids (name text primary key, id uuid not null default gen_random_uuid());
grant select, insert on ids to authenticated, service_role;
create function pg_temp.id(of text) returns uuid language sql stable security definer as $$ select i.id from ids i where i.name = of $$;
create temporary table merges (name text primary key, merge public.contact_merges);

-- Kept and merged (and another one who is merged), new for each story; each has written from a number of his own.
create function pg_temp.two(story text, numbers text, other boolean default false)
returns void
language plpgsql
as $$
begin
  insert into ids select story || ' ' || who from unnest(array['kept', 'merged', 'other']) who;
  insert into public.contacts (organization_id, id, phone_number)
  select pg_temp.clinic(), pg_temp.id(story || ' ' || p.who), '+' || numbers || p.digit
  from (values ('kept', 1), ('merged', 2), ('other', 3)) p (who, digit)
  where other or p.who <> 'other';
end;
$$;
create function pg_temp.merge(story text, who text default 'merged') returns void language sql as $$
  insert into merges
  select story || ' ' || who, m
  from public.merge_contacts(pg_temp.id(story || ' kept'), pg_temp.id(story || ' ' || who), pg_temp.clinic()) m
  on conflict (name) do update set merge = excluded.merge
$$;
create function pg_temp.undo(story text, who text default 'merged') returns boolean language sql as $$
  select u.undone_at is not null
  from merges m
  cross join lateral public.undo_merge((m.merge).id, pg_temp.clinic()) u
  where m.name = story || ' ' || who
$$;
create function pg_temp.contact(story text, who text default 'kept') returns public.contacts language sql stable
as $$ select c from public.contacts c where c.organization_id = pg_temp.clinic() and c.id = pg_temp.id(story || ' ' || who) $$;
create function pg_temp.who(contact_id uuid) returns text language sql stable as $$ select split_part(i.name, ' ', 2) from ids i where i.id = contact_id $$;

-- What a merge writes down is of this moment; what comes later in a story comes after it.
create function pg_temp.later(story text, who text default 'merged') returns void language sql as $$
  update public.contact_merges m
  set merged_at = now() - interval '1 minute'
  from merges g
  where g.name = story || ' ' || who and m.id = (g.merge).id
$$;
create function pg_temp.conversation(message text) returns public.conversations language sql stable as $$
  select v from public.conversations v
  where v.id = (select m.conversation_id from public.messages m where m.whatsapp_message_id = message and m.organization_id = pg_temp.clinic())
$$;
create function pg_temp.writer(message text) returns text language sql stable as $$
  select pg_temp.who(m.contact_id) from public.messages m where m.whatsapp_message_id = message and m.organization_id = pg_temp.clinic()
$$;
insert into ids values ('second number');
insert into public.whatsapp_instances (organization_id, id, provider, name, external_id, meta_app_key)
select pg_temp.clinic(), pg_temp.id('second number'), 'meta_cloud', 'Banho', 'second-number', t.app_key
from tests.tenants t where t.name = 'clinic';
create function pg_temp.deliver_to_second(variadic events jsonb[]) returns jsonb language sql as $$
  select public.ingest_webhook('meta_cloud', t.app_key, '{}', 'sha256=00', jsonb_build_array(jsonb_build_object(
    'external_id', 'second-number', 'event_type', 'messages', 'payload', '{}'::jsonb, 'unknown', 0, 'events', to_jsonb(events))))
  from tests.tenants t where t.name = 'clinic'
$$;

-- Answers go to an id of one's own
select pg_temp.two('answers', '551191110001');
select tests.deliver('clinic', tests.a_message('k1', '551191110001' || '1', 'Oi'), tests.a_message('m1', '551191110001' || '2', 'Oi'));
update public.conversations set status = 'closed', closed_at = now() where contact_id = pg_temp.id('answers merged');
select pg_temp.merge('answers');
select pg_temp.later('answers');
select tests.deliver('clinic', tests.a_message('m2', '551191110001' || '2', 'Sou eu'));
select is((pg_temp.conversation('m2')).whatsapp_chat_id, '5511911100012', 'while they are one, an answer goes where she last wrote from');
select pg_temp.deliver_to_second(tests.a_message('m3', '551191110001' || '2', 'Banho?'));
select is(pg_temp.writer('m3'), 'kept', 'also at a number to which only the other one writes');
select ok(pg_temp.undo('answers'), 'when they are two again');
select is((pg_temp.conversation('k1')).whatsapp_chat_id, '5511911100011', 'an answer to the one no longer goes to the other one''s phone');
select is(pg_temp.writer('m2'), 'kept', 'what came in the kept one''s conversation stays in it');
select is(pg_temp.who((pg_temp.conversation('m3')).contact_id), 'merged', 'what only the merged one can have begun is his');
select is(pg_temp.writer('m3'), 'merged', 'with what is in it');

-- Messages are of their conversation's contact
select pg_temp.two('messages', '551191110002');
select tests.deliver('clinic', tests.a_message('m4', '551191110002' || '2', 'Oi'));
select pg_temp.merge('messages');
select tests.deliver('clinic', tests.a_message('m5', '551191110002' || '2', 'Sou eu'));
select is(pg_temp.writer('m5'), 'kept', 'a message in a conversation that was moved');
select ok(pg_temp.undo('messages'), 'goes back with it');
select is(pg_temp.writer('m5'), 'merged', 'to whom it goes');

-- No is no
select pg_temp.two('no', '551191110003', true);
update public.contacts set opted_out_at = '2026-05-02T00:00:00Z', status = 'blocked' where id = pg_temp.id('no merged');
update public.contacts set opted_out_at = '2026-05-01T00:00:00Z', status = 'blocked' where id = pg_temp.id('no other');
select pg_temp.merge('no');
select pg_temp.merge('no', 'other');
select ok(pg_temp.undo('no'), 'of two who said no one leaves');
select is((pg_temp.contact('no')).opted_out_at, '2026-05-01T00:00:00Z'::timestamptz, 'the no of the one who stays holds');
select is((pg_temp.contact('no')).status, 'blocked', 'and so does the block');
select ok(pg_temp.undo('no', 'other'), 'when both have left');
select is((pg_temp.contact('no')).opted_out_at, null, 'nobody has said no');
select is((pg_temp.contact('no')).status, 'active', 'nor is anybody blocked');
select pg_temp.merge('no');
select pg_temp.merge('no', 'other');
select tests.deliver('clinic', jsonb_build_object(
  'kind', 'preference', 'value', 'resume', 'occurred_at', now(), 'identities', '[]'::jsonb, 'phone_number', '+5511911100031'));
select is((pg_temp.contact('no')).opted_out_at, null, 'who says yes again');
select ok(pg_temp.undo('no'), 'and is taken apart');
select is((pg_temp.contact('no')).opted_out_at, null, 'has said yes, whatever those said before who were merged');
select pg_temp.two('stop', '551191110004');
select pg_temp.merge('stop');
select tests.deliver('clinic', jsonb_build_object(
  'kind', 'preference', 'value', 'stop', 'occurred_at', now(), 'identities', '[]'::jsonb, 'phone_number', '+5511911100042'));
select ok(pg_temp.undo('stop'), 'a no that came while they were one');
select is((pg_temp.contact('stop', 'merged')).opted_out_at, now(), 'holds for the one through whose number it came');
select is((pg_temp.contact('stop')).opted_out_at, now(), 'and for the other one, because nobody knows');

-- What the one told is not the other one's
select pg_temp.two('told', '551191110005', true);
update public.contacts set tags = '{vip}', metadata = '{"a": 1}' where id = pg_temp.id('told kept');
update public.contacts set tags = '{diabetes,vip}', metadata = '{"record": 7, "a": 2}', name = 'Ana' where id = pg_temp.id('told merged');
update public.contacts set tags = '{diabetes}', metadata = '{"record": 8}', name = 'Bia' where id = pg_temp.id('told other');
insert into ids values ('lead of kept'), ('lead of merged'), ('lead of other');
insert into public.leads (organization_id, id, contact_id, status, respostas)
values
  (pg_temp.clinic(), pg_temp.id('lead of kept'), pg_temp.id('told kept'), 'novo', '{"a": 1}'),
  (pg_temp.clinic(), pg_temp.id('lead of merged'), pg_temp.id('told merged'), 'novo', '{"illness": "diabetes", "a": 2}'),
  (pg_temp.clinic(), pg_temp.id('lead of other'), pg_temp.id('told other'), 'em_contato', '{"illness": "none"}');
create function pg_temp.told() returns jsonb language sql stable as $$
  select jsonb_build_object('name', c.name, 'tags', c.tags, 'metadata', c.metadata, 'answers', (
    select l.respostas from public.leads l where l.contact_id = c.id and l.merged_into_id is null))
  from pg_temp.contact('told') c
$$;
select pg_temp.merge('told');
select pg_temp.merge('told', 'other');
select is(
  pg_temp.told(),
  '{"name": "Ana", "tags": ["vip", "diabetes"], "metadata": {"a": 1, "record": 7}, "answers": {"a": 1, "illness": "diabetes"}}',
  'three are one, and who came first is believed first');
update public.contacts set tags = tags || '{novo}', metadata = metadata || '{"b": 3}' where id = pg_temp.id('told kept');
select public.create_lead(pg_temp.id('told kept'), respostas => '{"c": 3}', organization_id => pg_temp.clinic());
select ok(pg_temp.undo('told'), 'the first one leaves');
select is(
  pg_temp.told(),
  '{"name": "Bia", "tags": ["vip", "novo", "diabetes"], "metadata": {"a": 1, "b": 3, "record": 8}, "answers": {"a": 1, "c": 3, "illness": "none"}}',
  'and takes along all that he brought, though more was written since; what the second one knew holds instead');
select is((select array_agg(i.name order by i.name) from public.leads l join ids i on i.id = l.id where l.merged_into_id is null and i.name like 'lead of%'),
  '{"lead of merged","lead of other"}', 'his lead stands by itself');
select is((select l.respostas from public.leads l where l.id = pg_temp.id('lead of merged')), '{"illness": "diabetes", "a": 2}'::jsonb, 'with his answers');
select ok(pg_temp.undo('told', 'other'), 'then the second one');
select is((pg_temp.told()) - 'answers', '{"name": null, "tags": ["vip", "novo"], "metadata": {"a": 1, "b": 3}}', 'and what is left is the kept one''s, and what was written since');
select is((pg_temp.told()) -> 'answers', '{"a": 1}'::jsonb, 'an answer to the lead that stood for both goes with that lead');
select is((select l.respostas from public.leads l where l.id = pg_temp.id('lead of other')), '{"c": 3, "illness": "none"}'::jsonb, 'which was the second one''s');

-- Nothing stays behind with the one who is not to be seen
select pg_temp.two('strays', '551191110006', true);
insert into ids values ('rex'), ('booking of rex'), ('luna');
insert into public.pets (organization_id, id, contact_id, name) values (pg_temp.clinic(), pg_temp.id('rex'), pg_temp.id('strays merged'), 'Rex');
insert into public.bookings (organization_id, id, contact_id, pet_id, service_id, professional_id, start_time, end_time)
values (
  pg_temp.clinic(), pg_temp.id('booking of rex'), pg_temp.id('strays merged'), pg_temp.id('rex'), tests.the('clinic', 'service_id'),
  tests.the('clinic', 'professional_id'), '2031-01-06T12:00Z', '2031-01-06T12:30Z');
update public.pets set contact_id = pg_temp.id('strays other') where id = pg_temp.id('rex');
select throws_ok(format('delete from public.contacts where id = %L', pg_temp.id('strays merged')), 'BL201', null, 'who has a booking is not deleted');
select pg_temp.merge('strays');
select is((select pg_temp.who(b.contact_id) from public.bookings b where b.id = pg_temp.id('booking of rex')), 'kept', 'a booking moves though its animal has gone to somebody else');
update public.pets set contact_id = pg_temp.id('strays merged') where id = pg_temp.id('rex');
select is((select pg_temp.who(p.contact_id) from public.pets p where p.id = pg_temp.id('rex')), 'kept', 'an animal given to the merged one is the kept one''s');
select throws_ok(format('update public.pets set contact_id = %L where id = %L', gen_random_uuid(), pg_temp.id('rex')), '23503', null, 'and to nobody it is not given');
select ok(pg_temp.undo('strays'), 'when they are two again');
select is((select pg_temp.who(b.contact_id) from public.bookings b where b.id = pg_temp.id('booking of rex')), 'merged', 'the booking goes back');
create table public.of_a_later_step (
  organization_id uuid, id uuid default gen_random_uuid(), contact_id uuid, primary key (organization_id, id),
  foreign key (organization_id, contact_id) references public.contacts (organization_id, id));
create function pg_temp.refuse() returns trigger language plpgsql as $$
begin
  perform private.raise_error('BL000', 'refused', 'No');
end;
$$;
create trigger of_a_later_step_500_refuse before update on public.of_a_later_step for each row execute function pg_temp.refuse();
insert into public.of_a_later_step (organization_id, contact_id) values (pg_temp.clinic(), pg_temp.id('strays merged'));
select throws_ok($$ select pg_temp.merge('strays') $$, 'BL405', null, 'what cannot move refuses the merge');
select is((pg_temp.contact('strays', 'merged')).merged_into_id, null, 'all of it');
drop table public.of_a_later_step;

-- What the plan hides
select pg_temp.two('hidden', '551191110007', true);
delete from public.leads where organization_id = pg_temp.clinic();
delete from private.lead_usage where organization_id = pg_temp.clinic();
update private.plan_features set leads_per_month = 1 where plan_type = 'free';
insert into public.leads (organization_id, contact_id, respostas) values (pg_temp.clinic(), pg_temp.id('hidden kept'), '{"a": 1}');
insert into public.leads (organization_id, contact_id, respostas) values (pg_temp.clinic(), pg_temp.id('hidden merged'), '{"b": 2}');
insert into public.leads (organization_id, contact_id, respostas, created_at)
values (pg_temp.clinic(), pg_temp.id('hidden other'), '{"c": 3}', now() + interval '1 microsecond');
select pg_temp.merge('hidden');
select is((select l.respostas from public.leads l where l.contact_id = pg_temp.id('hidden kept') and l.merged_into_id is null), '{"a": 1}'::jsonb,
  'a merge shows nothing of what waits over the limit');
update private.plan_features set leads_per_month = 2 where plan_type = 'pro';
select public.set_plan(pg_temp.clinic(), 'pro');
select is((select l.over_limit from public.leads l where l.contact_id = pg_temp.id('hidden other')), false, 'an upgrade spends no place on a lead that stands behind another');
update private.plan_features set leads_per_month = 3 where plan_type = 'pro';
select ok(pg_temp.undo('hidden'), 'when it stands by itself again');
select is((select l.over_limit from public.leads l where l.contact_id = pg_temp.id('hidden merged')), false, 'it comes forward, if there is a place');

-- Numbers and ids of the one who is not to be seen
select pg_temp.two('numbers', '551191110008');
select pg_temp.merge('numbers');
insert into public.contact_identities (organization_id, contact_id, instance_id, kind, value)
values (pg_temp.clinic(), pg_temp.id('numbers merged'), pg_temp.number_a(), 'lid', '77@lid');
select tests.deliver('clinic', tests.a_message('m6', '77@lid') || '{"identities": [{"kind": "lid", "value": "77@lid"}], "phone_number": null}');
select is(pg_temp.writer('m6'), 'kept', 'an id that came to be a tombstone''s leads on');
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select throws_ok($$ insert into public.contacts (name, phone_number) values ('Nova', '(11) 91110-0082') $$, 'BL409', null, 'nobody is added under a number that leads to somebody');
select throws_ok(
  $$
    insert into public.contacts (name, phone_number) values ('Nova', '+5511911100082')
    on conflict (organization_id, phone_number) do update set name = excluded.name
  $$, 'BL409', null, 'however it is done');
select throws_ok(
  format('update public.contacts set phone_number = %L where id = %L', '+5511911100082', tests.the('clinic', 'contact_id')), 'BL409', null,
  'nor given it');
select lives_ok(
  $$
    insert into public.contacts (name, phone_number) values ('Nova', '+5511911100081')
    on conflict (organization_id, phone_number) do update set name = excluded.name
  $$, 'of one who is to be seen it says nothing');
select tests.authenticate_as(gen_random_uuid());
select throws_ok(
  format('insert into public.contacts (organization_id, name, phone_number) values (%L, %L, %L)', pg_temp.clinic(), 'Nova', '+5511911100082'),
  '42501', null, 'and a stranger learns nothing');
select tests.authenticate_as_nobody();

-- Places in line
select pg_temp.two('line', '551191110009');
insert into ids values ('bath'), ('bela'), ('place of merged'), ('place for bela');
insert into public.services (organization_id, id, name, duration_minutes) values (pg_temp.clinic(), pg_temp.id('bath'), 'Banho', 30);
insert into public.pets (organization_id, id, contact_id, name) values (pg_temp.clinic(), pg_temp.id('bela'), pg_temp.id('line merged'), 'Bela');
insert into public.waiting_list (organization_id, id, contact_id, service_id, pet_id, status, offer_expires_at)
values
  (pg_temp.clinic(), gen_random_uuid(), pg_temp.id('line kept'), pg_temp.id('bath'), pg_temp.id('bela'), 'offered', now() + interval '1 hour'),
  (pg_temp.clinic(), pg_temp.id('place of merged'), pg_temp.id('line merged'), pg_temp.id('bath'), pg_temp.id('bela'), 'offered', now() + interval '1 hour');
select pg_temp.merge('line');
select is((select pg_temp.who(w.contact_id) from public.waiting_list w where w.id = pg_temp.id('place of merged')), 'merged', 'who has been offered something twice answers twice');
update public.waiting_list set status = 'expired', offer_expires_at = null where contact_id = pg_temp.id('line kept');
insert into public.waiting_list (organization_id, id, contact_id, service_id, pet_id)
values (pg_temp.clinic(), pg_temp.id('place for bela'), pg_temp.id('line kept'), pg_temp.id('bath'), pg_temp.id('bela'));
select ok(pg_temp.undo('line'), 'two places in one line are no reason to stay one');
select is((select w.status from public.waiting_list w where w.id = pg_temp.id('place for bela')), 'cancelled', 'the one that has been offered nothing is given up');

-- After 30 days
select ok(exists (select from private.contact_merge_changes c join merges m on (m.merge).id = c.merge_id where m.name = 'numbers merged'), 'what a merge changed is noted');
update public.contact_merges set undoable_until = now() where id = (select (m.merge).id from merges m where m.name = 'numbers merged');
select cmp_ok(private.forget_merges(), '>', 0::bigint, 'until it cannot be undone any more');
select is_empty(
  $$ select from private.contact_merge_changes c join merges m on (m.merge).id = c.merge_id where m.name = 'numbers merged' $$,
  'then it is forgotten');

select * from finish();
rollback;
