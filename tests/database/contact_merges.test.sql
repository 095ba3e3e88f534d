-- Two contacts turn out to be one person; and then perhaps not.
begin;
alter default privileges grant execute on functions to public;
select plan(96);

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
create function pg_temp.clinic() returns uuid language sql as $$ select tests.the('clinic', 'organization_id') $$;
create function pg_temp.number_a() returns uuid language sql as $$ select tests.the('clinic', 'instance_id') $$;

create temporary table ids (name text primary key, id uuid not null default gen_random_uuid());
grant select, insert on ids to authenticated, service_role;
create function pg_temp.id(of text) returns uuid language sql stable security definer as $$ select i.id from ids i where i.name = of $$;

-- Every row of every tenant's table, but what tells of merges themselves, and of every change.
create temporary table snapshots (name text, table_name text, content jsonb);
create function pg_temp.keep(name text)
returns void
language plpgsql
security definer
as $$
declare
  relation text;
begin
  for relation in
    select format('%I.%I', n.nspname, c.relname)
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = 'organization_id'
    where n.nspname in ('public', 'private') and c.relkind in ('r', 'p') and c.relname not like 'contact\_merge%' and c.relname not like 'audit\_log%' and c.relname <> 'contact_partings'
  loop
    execute format('insert into snapshots select %L, %L, to_jsonb(t) - ''updated_at'' from %s t', keep.name, relation, relation);
  end loop;
end;
$$;
create function pg_temp.differences(one text, other text)
returns table (side text, table_name text, content jsonb)
language sql
security definer
as $$
  (select '-', s.table_name, s.content from snapshots s where s.name = one
    except all select '-', s.table_name, s.content from snapshots s where s.name = other)
  union all
  (select '+', s.table_name, s.content from snapshots s where s.name = other
    except all select '+', s.table_name, s.content from snapshots s where s.name = one)
$$;

-- Maria's number, Maria under another number, and what both of them left.
insert into ids
values
  ('kept'), ('merged'), ('third'), ('second number'), ('rex'), ('thor'), ('bath'), ('checkup'), ('surgery'), ('bruno'),
  ('open of kept'), ('open of merged'), ('closed of merged'), ('elsewhere of merged'), ('of third'),
  ('lead k0'), ('lead m0'), ('lead ka'), ('lead ma'), ('lead mb'), ('booking m'), ('booking rex'),
  ('wait k1'), ('wait m1'), ('wait k2'), ('wait m2'), ('wait m3');
insert into ids values ('ana', tests.the('clinic', 'professional_id'));

insert into public.whatsapp_instances (organization_id, id, provider, name, external_id, meta_app_key)
select pg_temp.clinic(), pg_temp.id('second number'), 'meta_cloud', 'Banho', 'second-number', t.app_key
from tests.tenants t where t.name = 'clinic';
insert into public.professionals (organization_id, id, name) values (pg_temp.clinic(), pg_temp.id('bruno'), 'Bruno');
insert into public.services (organization_id, id, name, duration_minutes)
select pg_temp.clinic(), i.id, i.name, 30 from ids i where i.name in ('bath', 'checkup', 'surgery');
insert into public.contacts (organization_id, id, phone_number, name, tags, address, opted_in_at, last_interaction_at)
values (
  pg_temp.clinic(), pg_temp.id('kept'), '+5511911110001', 'Maria', '{vip}', '{"city": "São Paulo"}', '2026-02-01T00:00:00Z',
  '2026-10-01T00:00:00Z');
insert into public.contacts (
  organization_id, id, phone_number, name, profile_name, email, cpf, birth_date, tags, address, preferences, metadata,
  preferred_professional_id, opted_out_at, last_interaction_at, created_at, source)
values (
  pg_temp.clinic(), pg_temp.id('merged'), '+5511911110002', 'M. Souza', 'mari', 'maria@souza.example', '12345678909', '1990-02-28',
  '{novo,vip}', '{"city": "Rio", "street": "Rua A"}', '{"time": "morning"}', '{"old_id": 7}',
  pg_temp.id('ana'), '2026-01-01T00:00:00Z', '2026-11-01T00:00:00Z', '2025-01-01T00:00:00Z', 'whatsapp');
insert into public.contacts (organization_id, id, phone_number, name) values (pg_temp.clinic(), pg_temp.id('third'), '+5511911110003', 'Terceira');
insert into public.contact_identities (organization_id, contact_id, instance_id, kind, value)
values
  (pg_temp.clinic(), pg_temp.id('kept'), pg_temp.number_a(), 'wa_id', '5511911110001'),
  (pg_temp.clinic(), pg_temp.id('merged'), pg_temp.number_a(), 'wa_id', '5511911110002'),
  (pg_temp.clinic(), pg_temp.id('merged'), pg_temp.id('second number'), 'bsuid', 'BR.9'),
  (pg_temp.clinic(), pg_temp.id('third'), pg_temp.number_a(), 'wa_id', '5511911110003');
insert into public.conversations (organization_id, id, contact_id, instance_id, whatsapp_chat_id, status, closed_at)
values
  (pg_temp.clinic(), pg_temp.id('open of kept'), pg_temp.id('kept'), pg_temp.number_a(), '5511911110001', 'active', null),
  (pg_temp.clinic(), pg_temp.id('open of merged'), pg_temp.id('merged'), pg_temp.number_a(), '5511911110002', 'waiting_human', null),
  (pg_temp.clinic(), pg_temp.id('closed of merged'), pg_temp.id('merged'), pg_temp.number_a(), '5511911110002', 'closed', '2026-03-01'),
  (pg_temp.clinic(), pg_temp.id('elsewhere of merged'), pg_temp.id('merged'), pg_temp.id('second number'), 'BR.9', 'active', null),
  (pg_temp.clinic(), pg_temp.id('of third'), pg_temp.id('third'), pg_temp.number_a(), '5511911110003', 'active', null);
insert into public.messages (organization_id, conversation_id, contact_id, instance_id, direction, sender, content, status, whatsapp_message_id)
select v.organization_id, v.id, v.contact_id, v.instance_id, 'inbound', 'contact', 'Oi ' || n, 'received', v.id || ':' || n
from public.conversations v
cross join generate_series(1, 3) n
where v.id in (select i.id from ids i);
insert into public.pets (organization_id, id, contact_id, name)
values (pg_temp.clinic(), pg_temp.id('thor'), pg_temp.id('kept'), 'Thor'), (pg_temp.clinic(), pg_temp.id('rex'), pg_temp.id('merged'), 'Rex');
insert into public.leads (organization_id, id, contact_id, professional_id, status, respostas)
values
  (pg_temp.clinic(), pg_temp.id('lead k0'), pg_temp.id('kept'), null, 'novo', '{"idade": 30}'),
  (pg_temp.clinic(), pg_temp.id('lead m0'), pg_temp.id('merged'), null, 'agendado', '{"idade": 31, "bairro": "Centro"}'),
  (pg_temp.clinic(), pg_temp.id('lead ka'), pg_temp.id('kept'), pg_temp.id('ana'), 'em_contato', '{"plano": "ouro"}'),
  (pg_temp.clinic(), pg_temp.id('lead ma'), pg_temp.id('merged'), pg_temp.id('ana'), 'perdido', '{"plano": "prata", "vidas": 2}'),
  (pg_temp.clinic(), pg_temp.id('lead mb'), pg_temp.id('merged'), pg_temp.id('bruno'), 'novo', '{}');
insert into public.bookings (organization_id, id, contact_id, pet_id, service_id, professional_id, start_time, end_time)
values
  (pg_temp.clinic(), pg_temp.id('booking m'), pg_temp.id('merged'), null, pg_temp.id('checkup'), pg_temp.id('bruno'), '2031-01-06T12:00Z', '2031-01-06T12:30Z'),
  (pg_temp.clinic(), pg_temp.id('booking rex'), pg_temp.id('merged'), pg_temp.id('rex'), pg_temp.id('bath'), pg_temp.id('bruno'), '2031-01-06T13:00Z', '2031-01-06T13:30Z');
insert into public.waiting_list (organization_id, id, contact_id, service_id, pet_id, status, offer_expires_at)
values
  (pg_temp.clinic(), pg_temp.id('wait k1'), pg_temp.id('kept'), pg_temp.id('bath'), null, 'waiting', null),
  (pg_temp.clinic(), pg_temp.id('wait m1'), pg_temp.id('merged'), pg_temp.id('bath'), null, 'waiting', null),
  (pg_temp.clinic(), pg_temp.id('wait k2'), pg_temp.id('kept'), pg_temp.id('checkup'), null, 'waiting', null),
  (pg_temp.clinic(), pg_temp.id('wait m2'), pg_temp.id('merged'), pg_temp.id('checkup'), null, 'offered', now() + interval '30 minutes'),
  (pg_temp.clinic(), pg_temp.id('wait m3'), pg_temp.id('merged'), pg_temp.id('surgery'), null, 'waiting', null);
select pg_temp.keep('before');

create function pg_temp.merging() returns text language sql as $$
  select format('select public.merge_contacts(%L, %L, %L)', pg_temp.id('kept'), pg_temp.id('merged'), pg_temp.clinic())
$$;
create temporary table merges (name text primary key, merge public.contact_merges);
grant all on merges to authenticated, service_role;
create function pg_temp.merge(of text) returns public.contact_merges language sql stable as $$ select (m.merge).* from merges m where m.name = of $$;
create function pg_temp.contact(of text) returns public.contacts language sql stable security definer
as $$ select c from public.contacts c where c.id = pg_temp.id(of) and c.organization_id = pg_temp.clinic() $$;
create function pg_temp.whose(of text) returns text language sql stable security definer as $$
  select i.name
  from ids i
  where i.id = (
    select v.contact_id from public.conversations v where v.id = pg_temp.id(of)
    union all select p.contact_id from public.pets p where p.id = pg_temp.id(of)
    union all select l.contact_id from public.leads l where l.id = pg_temp.id(of)
    union all select b.contact_id from public.bookings b where b.id = pg_temp.id(of)
    union all select w.contact_id from public.waiting_list w where w.id = pg_temp.id(of)
  )
$$;

-- What a merge cannot overlook
select is_empty(
  $$
    select r.table_name from private.references_to_contacts() r
    where not exists (
      select from pg_catalog.pg_attribute a
      where a.attrelid = r.table_name::regclass and a.attname = 'id' and a.atttypid = 'uuid'::regtype and not a.attisdropped)
  $$,
  'every table that names a contact has ids to move its rows by');
select results_eq(
  $$ select r.table_name || '.' || r.column_name from private.references_to_contacts() r where r.table_name = 'public.pets' or r.column_name = 'merged_into_id' $$,
  $$ values ('public.pets.contact_id'), ('public.contacts.merged_into_id') $$,
  'animals move first, and contacts that were merged before move on');
select results_eq(
  $$
    select distinct i.indexrelid::regclass::text
    from private.references_to_contacts() r
    join pg_catalog.pg_attribute a on a.attrelid = r.table_name::regclass and a.attname = r.column_name
    join pg_catalog.pg_index i on i.indrelid = a.attrelid and i.indisunique and a.attnum = any (i.indkey)
    order by 1
  $$,
  -- Who was shown both texts of a test stays counted twice: the merged contact's part of it stays where it is.
  $$ values ('ab_test_assignments_contact_id_key'), ('conversations_one_open_per_contact_idx'), ('leads_one_per_contact_and_professional_idx'), ('waiting_list_one_open_per_wish_idx') $$,
  'a merge knows every unique key that two contacts'' rows can meet at');

-- Who may
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select throws_ok(pg_temp.merging(), 'BL002', null, 'an attendant merges nobody');
select tests.authenticate_as(tests.the('clinic', 'viewer_id'));
select throws_ok(pg_temp.merging(), 'BL002', null, 'nor does a viewer');
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select throws_ok(pg_temp.merging(), 'BL002', null, 'nor another tenant''s owner');
select throws_ok(
  format('select public.merge_contacts(%L, %L)', tests.the('petshop', 'contact_id'), pg_temp.id('merged')), 'BL402', null,
  'who cannot draw a contact over either');
select tests.authenticate_as_anon();
select throws_ok(pg_temp.merging(), '42501', null, 'nor the public');
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select throws_ok(format('select public.merge_contacts(%L, %L)', pg_temp.id('kept'), pg_temp.id('kept')), 'BL405', null, 'nobody is merged with himself');
select throws_ok(format('select public.merge_contacts(%L, %L)', pg_temp.id('kept'), gen_random_uuid()), 'BL402', null, 'nor with nobody');
select throws_ok(format('select public.merge_contacts(%L, %L)', gen_random_uuid(), pg_temp.id('merged')), 'BL402', null, 'nor into nobody');

-- The merge

insert into merges select 'first', m from public.merge_contacts(pg_temp.id('kept'), pg_temp.id('merged')) m;
select results_eq(
  $$
    select m.kept_contact_id, m.merged_contact_id, m.merged_by, m.merged_at = now(), m.undoable_until = now() + interval '30 days', m.undone_at
    from pg_temp.merge('first') m
  $$,
  $$ select pg_temp.id('kept'), pg_temp.id('merged'), tests.the('clinic', 'admin_id'), true, true, null::timestamptz $$,
  'a merge says who into whom, by whom, and until when it can be undone');
select is((public.merge_contacts(pg_temp.id('kept'), pg_temp.id('merged'))).id, (pg_temp.merge('first')).id, 'the same once more is the same merge');
select throws_ok(format('select public.merge_contacts(%L, %L)', pg_temp.id('merged'), pg_temp.id('kept')), 'BL405', null, 'the other way round it is too late');
select throws_ok(format('select public.merge_contacts(%L, %L)', pg_temp.id('third'), pg_temp.id('merged')), 'BL405', null, 'as for merging the merged one elsewhere');
select is((select count(*) from public.contacts c where c.id = pg_temp.id('merged')), 0::bigint, 'nobody sees the merged contact');
update public.contacts set name = 'x' where id = pg_temp.id('merged');
delete from public.contacts where id = pg_temp.id('merged');
select is((pg_temp.contact('merged')).name, 'M. Souza', 'nor can anybody change or delete it');
select throws_ok(format('update public.contacts set merged_into_id = %L where id = %L', pg_temp.id('kept'), pg_temp.id('third')), '42501', null,
  'nor hide a contact without merging it');
select throws_ok(format('insert into public.contacts (name, merged_into_id) values (%L, %L)', 'x', pg_temp.id('kept')), '42501', null, 'nor make a hidden one');

select results_eq(
  $$
    select c.phone_number, c.name, c.profile_name, c.email, c.cpf, c.birth_date, c.source, c.preferred_professional_id = pg_temp.id('ana'), c.last_interaction_at
    from pg_temp.contact('kept') c
  $$,
  $$
    values ('+5511911110001', 'Maria', 'mari', 'maria@souza.example', '12345678909', '1990-02-28'::date, 'whatsapp', true,
      (select m.last_interaction_at from pg_temp.contact('merged') m))
  $$,
  'what only the merged contact knew the kept one knows, and keeps what it knew itself');
select is((pg_temp.contact('kept')).tags, '{vip,novo}', 'the tags of both');
select results_eq(
  $$ select c.address, c.preferences, c.metadata from pg_temp.contact('kept') c $$,
  $$ values ('{"city": "São Paulo", "street": "Rua A"}'::jsonb, '{"time": "morning"}'::jsonb, '{"old_id": 7}'::jsonb) $$,
  'the keys of both, the kept one''s first');
select results_eq(
  $$ select c.opted_in_at, c.opted_out_at from pg_temp.contact('kept') c $$,
  $$ values ('2026-02-01T00:00:00Z'::timestamptz, '2026-01-01T00:00:00Z'::timestamptz) $$,
  'who said no through one number said no, whatever the other one said later');
select is((pg_temp.contact('merged')).phone_number, '+5511911110002', 'the merged one''s number stays with it');

select is(pg_temp.whose(i.name), 'kept', format('%s is the kept contact''s now', i.name))
from ids i
where i.name in ('open of merged', 'closed of merged', 'elsewhere of merged', 'rex', 'lead m0', 'lead ma', 'lead mb', 'booking m', 'booking rex', 'wait m1', 'wait m2', 'wait m3');
select is((select count(*) from public.messages m where m.contact_id = pg_temp.id('kept')), 12::bigint, 'so are the messages');
select is((select count(*) from public.contact_identities i where i.contact_id = pg_temp.id('kept')), 3::bigint, 'and the ids');
select results_eq(
  $$ select i.name collate "C", v.status::text from public.conversations v join ids i on i.id = v.id where v.contact_id = pg_temp.id('kept') order by 1 $$,
  $$ values ('closed of merged' collate "C", 'closed'), ('elsewhere of merged', 'active'), ('open of kept', 'active'), ('open of merged', 'closed') $$,
  'with one contact one conversation is open at each number');
select results_eq(
  $$ select i.name collate "C", l.respostas from public.leads l join ids i on i.id = l.id order by 1 $$,
  $$ values ('lead ka' collate "C", '{"plano": "ouro", "vidas": 2}'::jsonb), ('lead m0', '{"idade": 30, "bairro": "Centro"}'), ('lead mb', '{}') $$,
  'of two leads with one professional the one that is further stands, with the answers of both');
select results_eq(
  $$ select i.name collate "C", w.status::text from public.waiting_list w join ids i on i.id = w.id order by 1 $$,
  $$ values ('wait k1' collate "C", 'waiting'), ('wait k2', 'cancelled'), ('wait m1', 'cancelled'), ('wait m2', 'offered'), ('wait m3', 'waiting') $$,
  'one person stands in a line once, and does not lose an offer');
select tests.authenticate_as(tests.the('clinic', 'viewer_id'));
select is((select count(*) from public.contact_merges m where m.kept_contact_id = pg_temp.id('kept')), 1::bigint, 'every member sees that it was done');
select throws_ok('update public.contact_merges set undone_at = null', '42501', null, 'and nobody writes it');
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select is((select count(*) from public.contact_merges m where m.organization_id = pg_temp.clinic()), 0::bigint, 'another tenant''s owner does not');
select throws_ok(format('select public.undo_merge(%L)', (pg_temp.merge('first')).id), 'BL406', null, 'nor finds it to undo it');
select throws_ok(format('select public.undo_merge(%L, %L)', (pg_temp.merge('first')).id, pg_temp.clinic()), 'BL002', null, 'not even by naming the tenant');
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select throws_ok(format('select public.undo_merge(%L)', (pg_temp.merge('first')).id), 'BL002', null, 'an attendant undoes nothing');
select tests.authenticate_as_anon();
select throws_ok('select from public.contact_merges', '42501', null, 'and the public sees nothing');

-- The way back
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select results_eq(
  $$ select m.id, m.undone_at = now(), m.undone_by from public.undo_merge((pg_temp.merge('first')).id) m $$,
  $$ select (pg_temp.merge('first')).id, true, tests.the('clinic', 'admin_id') $$,
  'an administrator undoes it');
select pg_temp.keep('undone');
select is_empty($$ select * from pg_temp.differences('before', 'undone') $$, 'and every row of every table is as it was');
select throws_ok(format('select public.undo_merge(%L)', (pg_temp.merge('first')).id), 'BL407', null, 'once');
select throws_ok(format('select public.undo_merge(%L)', gen_random_uuid()), 'BL406', null, 'and nothing that was not done');

-- Life goes on between the merge and its undoing
insert into merges select 'second', m from public.merge_contacts(pg_temp.id('kept'), pg_temp.id('merged')) m;
select isnt((pg_temp.merge('second')).id, (pg_temp.merge('first')).id, 'they can be merged again');
select tests.authenticate_as_service();
select tests.deliver('clinic', tests.a_message('after', '5511911110002', 'Sou eu'));
select is((select m.contact_id from public.messages m where m.whatsapp_message_id = 'after'), pg_temp.id('kept'), 'a message of a known id of the merged contact is the kept one''s');
delete from public.contact_identities i where i.value = '5511911110002';
select tests.deliver('clinic', tests.a_message('by number', '5511911110002', 'Sou eu'));
select is((select m.contact_id from public.messages m where m.whatsapp_message_id = 'by number'), pg_temp.id('kept'), 'so is one that only its number leads to');
select is((select count(*) from public.contacts c where c.organization_id = pg_temp.clinic() and c.phone_number like '+551191111000%'), 3::bigint, 'nobody new was made of it');
select is((select m.conversation_id from public.messages m where m.whatsapp_message_id = 'by number'), pg_temp.id('open of kept'), 'in the conversation that is open');
insert into ids select 'new booking of rex', (public.create_booking(
  pg_temp.id('merged'), pg_temp.id('bath'), '2031-01-06T15:00Z', pet_id => pg_temp.id('rex'), off_schedule => true,
  organization_id => pg_temp.clinic())).id;
select is(pg_temp.whose('new booking of rex'), 'kept', 'who books for the merged contact books for the kept one');
insert into ids select 'new lead', (public.create_lead(pg_temp.id('merged'), pg_temp.id('ana'), respostas => '{"novo": 1}', organization_id => pg_temp.clinic())).id;
select is(pg_temp.id('new lead'), pg_temp.id('lead ka'), 'who answers as the merged contact answers as the kept one');
insert into public.leads (organization_id, contact_id, professional_id) values (pg_temp.clinic(), pg_temp.id('merged'), null) on conflict do nothing;
select is((select count(*) from public.leads l where l.contact_id = pg_temp.id('merged')), 0::bigint, 'not even an import leaves a lead with the merged one');
insert into public.pets (organization_id, contact_id, name) values (pg_temp.clinic(), pg_temp.id('merged'), 'Luna');
select is((select p.contact_id from public.pets p where p.name = 'Luna'), pg_temp.id('kept'), 'nor an animal');
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
update public.contacts set email = 'new@souza.example' where id = pg_temp.id('kept');
update public.leads set status = 'fechado' where id = pg_temp.id('lead m0');
select tests.authenticate_as_service();
update public.conversations set status = 'closed', closed_at = now() where id = pg_temp.id('open of kept');
update public.conversations set status = 'active', closed_at = null where id = pg_temp.id('open of merged');
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select lives_ok(format('select public.undo_merge(%L)', (pg_temp.merge('second')).id), 'it can still be undone');
select is((pg_temp.contact('kept')).email, 'new@souza.example', 'what was written since stays');
select is((pg_temp.contact('kept')).cpf, null, 'what the merge had filled is blank again');
select is((select status from public.leads where id = pg_temp.id('lead m0')), 'fechado', 'a lead goes back as far as it has come');
select is(pg_temp.whose('lead m0'), 'merged', 'to whom it was');
select is((select status from public.leads where id = pg_temp.id('lead k0')), 'novo', 'and the one that was hidden behind it stands again');
select is((select respostas from public.leads where id = pg_temp.id('lead ka')), '{"plano": "ouro", "novo": 1}'::jsonb, 'answers that came since stay, the merged one''s go');
select is((select status from public.conversations where id = pg_temp.id('open of merged')), 'active', 'a conversation that was opened again goes back open');
select is((select m.contact_id from public.messages m where m.whatsapp_message_id = 'after'), pg_temp.id('kept'), 'messages that came since stay with the kept one');
select is(pg_temp.whose('new booking of rex'), 'merged', 'an animal''s appointments stay with the animal');

-- Chains
select tests.authenticate_as_nobody();
update public.contacts set phone_number = null where id = pg_temp.id('third');
select pg_temp.keep('link 0');
select tests.authenticate_as(tests.the('clinic', 'owner_id'));
insert into merges select 'link 1', m from public.merge_contacts(pg_temp.id('merged'), pg_temp.id('kept')) m;
select pg_temp.keep('link 1');
insert into merges select 'link 2', m from public.merge_contacts(pg_temp.id('third'), pg_temp.id('merged')) m;
select is((pg_temp.contact('kept')).merged_into_id, pg_temp.id('third'), 'who was merged into a merged contact is merged into the last one');
select is(
  ((pg_temp.contact('third')).phone_number, (pg_temp.contact('merged')).phone_number)::text, '(+5511911110002,)',
  'a contact without a number takes the merged one''s');
select tests.authenticate_as_nobody();
select is(private.surviving_contact(pg_temp.clinic(), pg_temp.id('kept')), pg_temp.id('third'), 'and so does its id');
select tests.authenticate_as(tests.the('clinic', 'owner_id'));
select throws_ok(format('select public.undo_merge(%L)', (pg_temp.merge('link 1')).id), 'BL407', null, 'the later merge is undone first');
select throws_ok(format('select public.merge_contacts(%L, %L)', pg_temp.id('kept'), pg_temp.id('third')), 'BL405', null, 'there are no circles');
select lives_ok(format('select public.undo_merge(%L)', (pg_temp.merge('link 2')).id), 'then this one');
select pg_temp.keep('link 2 undone');
select is_empty($$ select * from pg_temp.differences('link 1', 'link 2 undone') $$, 'which leaves everything as it was after the first');
select is((pg_temp.contact('kept')).merged_into_id, pg_temp.id('merged'), 'and the first one is merged into the one before again');
select lives_ok(format('select public.undo_merge(%L)', (pg_temp.merge('link 1')).id), 'then the earlier one');
select pg_temp.keep('link 1 undone');
select is_empty($$ select * from pg_temp.differences('link 0', 'link 1 undone') $$, 'which leaves everything as it was before');
select tests.authenticate_as_nobody();
update public.contact_merges set undoable_until = now() where id = (pg_temp.merge('link 1')).id;
select tests.authenticate_as(tests.the('clinic', 'owner_id'));
select lives_ok(format('select public.merge_contacts(%L, %L)', pg_temp.id('kept'), pg_temp.id('merged')), 'the same two the other way round');
insert into merges select 'link 3', m from public.merge_contacts(pg_temp.id('third'), pg_temp.id('kept')) m;
select tests.authenticate_as_service();
select tests.deliver('clinic', tests.a_message('of kept', '5511911110001') || '{"identities": [{"kind": "wa_id", "value": "unheard-of"}]}');
select is((select m.contact_id from public.messages m where m.whatsapp_message_id = 'of kept'), pg_temp.id('third'), 'the first one''s number leads to the last one');
select is((select m.conversation_id from public.messages m where m.whatsapp_message_id = 'of kept'), pg_temp.id('of third'), 'in its open conversation');
select tests.authenticate_as_nobody();
update public.contact_merges set undoable_until = now() where id = (pg_temp.merge('link 3')).id;
select tests.authenticate_as(tests.the('clinic', 'owner_id'));
select throws_ok(format('select public.undo_merge(%L)', (pg_temp.merge('link 3')).id), 'BL407', null, 'after 30 days what was merged stays so');

-- A number of one's own
update public.contacts set phone_number = '(11) 91111-0002' where id = pg_temp.id('third');
select is((pg_temp.contact('third')).phone_number, '+5511911110002', 'the one who stands may take a number that is left below');
select is((pg_temp.contact('merged')).phone_number, null, 'which is left there no more');

-- Two into one, taken apart in the order of their coming
select tests.authenticate_as_nobody();
delete from public.leads where organization_id = pg_temp.clinic();
insert into ids values ('x'), ('y'), ('z'), ('lead x'), ('lead y'), ('lead z');
insert into public.contacts (organization_id, id, phone_number, name, opted_out_at, status)
values
  (pg_temp.clinic(), pg_temp.id('x'), null, null, null, 'active'),
  (pg_temp.clinic(), pg_temp.id('y'), '+5511922220001', 'Ypsilon', null, 'active'),
  (pg_temp.clinic(), pg_temp.id('z'), '+5511922220002', 'Zulu', '2026-05-05T00:00:00Z', 'blocked');
insert into public.leads (organization_id, id, contact_id, status)
select pg_temp.clinic(), pg_temp.id('lead ' || name), pg_temp.id(name), status::public.lead_status
from (values ('x', 'novo'), ('y', 'agendado'), ('z', 'em_contato')) l (name, status);
select pg_temp.keep('apart');
select tests.authenticate_as(tests.the('clinic', 'owner_id'));
insert into merges select 'y', m from public.merge_contacts(pg_temp.id('x'), pg_temp.id('y')) m;
insert into merges select 'z', m from public.merge_contacts(pg_temp.id('x'), pg_temp.id('z')) m;
select is((pg_temp.contact('x')).status, 'blocked', 'who was blocked under one number stays so');
select is((select count(*) from public.leads l where l.contact_id = pg_temp.id('x')), 1::bigint, 'three leads show as one');
select lives_ok(format('select public.undo_merge(%L)', (pg_temp.merge('y')).id), 'the first of two merges can be undone');
select is((select array_agg(i.name order by i.name) from public.leads l join ids i on i.id = l.id), '{"lead y","lead z"}', 'what was hidden behind the lead that went stands by itself: the further of those that stay');
select is((pg_temp.contact('x')).phone_number, '+5511922220002', 'the number goes with whom it came from, and the one of him who stays takes its place');
select lives_ok(format('select public.undo_merge(%L)', (pg_temp.merge('z')).id), 'and then the second');
select pg_temp.keep('apart again');
select is_empty($$ select * from pg_temp.differences('apart', 'apart again') $$, 'and every row is as it was');

-- The end of a person
select lives_ok(format('select public.merge_contacts(%L, %L)', pg_temp.id('x'), pg_temp.id('y')), 'merged once more');
delete from public.contacts where id = pg_temp.id('x');
select is((pg_temp.contact('y')).id, null, 'a contact''s deletion takes what was merged into it along');

select * from finish();
rollback;
