-- Who changed what: one row for each change, by whoever made it, from where; read by that tenant's administrators, changed by nobody.
begin;
alter default privileges grant execute on functions to public;
select plan(282);

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
create function pg_temp.clinic() returns uuid language sql as $$ select tests.the('clinic', 'organization_id') $$;
create temporary table seen (id uuid primary key);
grant select, insert on seen to public;

-- What was written since this was asked last.
create function pg_temp.news()
returns setof public.audit_trail
language plpgsql
security definer
as $$
declare
  entry public.audit_trail;
begin
  for entry in
    select t.* from public.audit_trail t where t.id not in (select s.id from pg_temp.seen s) order by t.id
  loop
    insert into pg_temp.seen values (entry.id);
    return next entry;
  end loop;
end;
$$;
select count(*) as told_before from pg_temp.news();
create function pg_temp.headers(headers json) returns void language sql as $$ select set_config('request.headers', headers::text, true) $$;

-- Every audited table -------------------------------------------------------------------------------------------------

create temporary table audited (table_name text primary key);
insert into audited
select c.relname
from pg_catalog.pg_trigger t
join pg_catalog.pg_class c on c.oid = t.tgrelid
where t.tgfoid = 'private.tg_audit()'::regprocedure;
select set_eq(
  'select table_name from audited',
  array['organizations', 'organization_settings', 'user_roles', 'locations', 'whatsapp_instances', 'authorized_owner_numbers', 'contacts',
    'pets', 'services', 'professionals', 'leads', 'bookings', 'flows', 'message_templates', 'webhook_endpoints', 'conversations',
    'data_subject_requests', 'api_keys'],
  'what is audited');

-- How each row of a tenant is changed in one column, in one that moves by itself, and deleted.
create temporary table changes (table_name text, changing text, columns jsonb, unchanging text, picking text);
insert into changes
select c.table_name, c.changing, c.columns::jsonb, c.unchanging, coalesce(c.picking, 'true')
from (values
  ('organizations', $$name = 'Outra'$$, '["name"]', 'name = name', null),
  ('organization_settings', $$hold_minutes = 11$$, '["hold_minutes"]', 'quiet_hours = quiet_hours', null),
  ('user_roles', $$is_active = false$$, '["is_active"]', 'updated_at = now() + interval ''1 hour''', $$t.role = 'viewer'$$),
  ('locations', $$name = 'Filial'$$, '["name"]', 'name = name', null),
  ('whatsapp_instances', $$name = 'Central'$$, '["name"]', 'last_seen_at = now()', null),
  ('authorized_owner_numbers', $$label = 'Dono'$$, '["label"]', 'label = label', null),
  ('contacts', $$email = 'nova@exemplo.com.br'$$, '["email"]', 'last_interaction_at = now()', $$t.name = 'Maria'$$),
  ('pets', $$name = 'Totó'$$, '["name"]', 'name = name', null),
  ('services', $$duration_minutes = 45$$, '["duration_minutes"]', 'name = name', $$t.name = 'Consulta'$$),
  ('professionals', $$bio = 'Sabe tudo'$$, '["bio"]', 'bio = bio', $$t.name = 'Ana'$$),
  ('leads', $$source = 'site'$$, '["source"]', 'last_interaction_at = now()', null),
  ('bookings', $$notes = 'Jejum'$$, '["notes"]', 'notes = notes', null),
  ('flows', $$is_active = false$$, '["is_active"]', 'name = name', $$t.name = 'Atendimento'$$),
  ('message_templates', $$name = 'Boa noite'$$, '["name"]', 'name = name', null),
  ('webhook_endpoints', $$url = 'https://outro.example/hook'$$, '["url"]', 'consecutive_failures = 3, failing_since = now()', null),
  ('conversations', $$is_bot_controlled = not is_bot_controlled$$, null, $$unread_count = 7, last_message_preview = 'Oi', metadata = '{"a": 1}'$$, null),
  ('data_subject_requests', $$notes = 'Ligou'$$, '["notes"]', 'notes = notes', null),
  ('api_keys', $$name = 'Outra'$$, '["name"]', 'last_used_at = now()', null)
) c (table_name, changing, columns, unchanging, picking);
select set_eq('select table_name from changes', 'select table_name from audited', 'and every one of them is tried');

create function pg_temp.try(change record, statement text) returns void language plpgsql as $$
begin
  execute format(statement, change.table_name,
    case change.table_name when 'organizations' then 'id' else 'organization_id' end, pg_temp.clinic(), change.picking);
end;
$$;
create function pg_temp.tell(change changes, statement text, operation text) returns setof text language plpgsql as $$
declare
  entries public.audit_trail[];
  entry public.audit_trail;
begin
  perform pg_temp.news();
  perform pg_temp.try(change, statement);
  entries := array(select n::public.audit_trail from pg_temp.news() n where n.table_name = change.table_name);
  entry := entries[1];
  return next is(cardinality(entries), 1, format('%s %s is one row', operation, change.table_name));
  return next is(
    row(entry.organization_id, entry.operation::text, entry.action, entry.actor_role, entry.user_id)::text,
    row(pg_temp.clinic(), operation, change.table_name || '.' || lower(operation), 'system', null)::text,
    format('which says so, %s', change.table_name));
  return next ok(entry.record_id is not null, format('and of which row, %s', change.table_name));
  if operation = 'UPDATE' then
    return next ok(
      case when change.columns is null then jsonb_array_length(entry.details -> 'columns') > 0
        else entry.details = jsonb_build_object('columns', change.columns) end
      and (select jsonb_agg(k order by k collate "C") from jsonb_object_keys(entry.new_values) k) = entry.details -> 'columns'
      and (select jsonb_agg(k order by k collate "C") from jsonb_object_keys(entry.old_values) k) = entry.details -> 'columns'
      and entry.old_values <> entry.new_values,
      format('with what changed only, before and after, %s', change.table_name));
  else
    return next ok(
      (case operation when 'DELETE' then entry.old_values else entry.new_values end) ? 'created_at'
      and (case operation when 'DELETE' then entry.new_values else entry.old_values end) is null
      and entry.details = '{}',
      format('with what it was, %s', change.table_name));
  end if;
end;
$$;
select pg_temp.tell(c, 'update public.%1$I t set ' || replace(c.changing, '%', '%%') || ' where t.%2$I = %3$L and (%4$s)', 'UPDATE')
from changes c where c.table_name <> 'organization_settings' order by c.table_name;

select count(*) as told_before from pg_temp.news();
select pg_temp.try(c, 'update public.%1$I t set ' || replace(c.unchanging, '%', '%%') || ' where t.%2$I = %3$L and (%4$s)') from changes c;
select is_empty('select action, details from pg_temp.news()', 'what moves by itself is no change');

-- What refers to a row, and what keeps an owner from leaving, is not what this is about.
set constraints all immediate;
do $$
declare
  key record;
begin
  for key in select c.conname, c.conrelid::regclass as relation from pg_catalog.pg_constraint c where c.contype = 'f' and c.conparentid = 0 and c.connamespace in ('public'::regnamespace, 'private'::regnamespace) loop
    execute format('alter table %s drop constraint %I', key.relation, key.conname);
  end loop;
  for key in
    select t.tgname, t.tgrelid::regclass as relation
    from pg_catalog.pg_trigger t
    join audited a on ('public.' || a.table_name)::regclass = t.tgrelid
    where not t.tgisinternal and t.tgtype & 8 = 8 and t.tgfoid <> 'private.tg_audit()'::regprocedure
  loop
    execute format('alter table %s disable trigger %I', key.relation, key.tgname);
  end loop;
end;
$$;
select pg_temp.tell(c, 'delete from public.%1$I t where t.ctid = (select x.ctid from public.%1$I x where x.%2$I = %3$L and (' || replace(c.picking, 't.', 'x.')
  || ') limit 1)', 'DELETE')
from changes c order by c.table_name = 'organizations', c.table_name;

-- A new tenant: every row of it was written down once.
select tests.a_tenant('vet');
create function pg_temp.rows_and_inserts() returns setof text language plpgsql as $$
declare
  audited_table text;
  there bigint;
  told bigint;
  vet constant uuid := tests.the('vet', 'organization_id');
begin
  for audited_table in select a.table_name from audited a order by 1 loop
    execute format('select count(*) from public.%I t where t.%I = %L', audited_table,
      case audited_table when 'organizations' then 'id' else 'organization_id' end, vet) into there;
    select count(*) into told from public.audit_trail t
    where t.organization_id = vet and t.operation = 'INSERT' and t.table_name = audited_table and t.action = audited_table || '.insert'
      and t.new_values <> '{}' and t.old_values is null and t.details = '{}';
    return next ok(there > 0 and there = told, format('INSERT %s: %s rows, %s told', audited_table, there, told));
  end loop;
end;
$$;
select pg_temp.rows_and_inserts();
select ok(
  not exists (select from public.audit_trail t where t.table_name = 'contacts' and t.operation = 'INSERT' and t.new_values -> 'email' = 'null'),
  'what was empty is not told');
select is(
  (select v.contact_id from public.audit_log_values v join public.audit_logs l on l.id = v.audit_log_id
    where l.organization_id = tests.the('vet', 'organization_id') and l.table_name = 'pets'),
  tests.the('vet', 'contact_id'), 'values say whom they are about');

-- Who, from where -------------------------------------------------------------------------------------------------------

select count(*) as told_before from pg_temp.news();
select pg_temp.headers('{"x-request-id": "request-1", "user-agent": "App/1", "x-forwarded-for": "203.0.113.7, 10.0.0.1"}');
select tests.authenticate_as(tests.the('petshop', 'attendant_id'));
update public.contacts set name = 'Marta' where organization_id = tests.the('petshop', 'organization_id') and name = 'Maria';
select tests.authenticate_as_nobody();
select results_eq(
  $$ select user_id, actor_role, request_id, ip_address, user_agent, old_values, new_values from pg_temp.news() where table_name = 'contacts' $$,
  $$ values (tests.the('petshop', 'attendant_id'), 'attendant', 'request-1', '203.0.113.7'::inet, 'App/1', '{"name": "Maria"}'::jsonb, '{"name": "Marta"}'::jsonb) $$,
  'a member''s change names her, her role then, her request and her address');
select pg_temp.headers('{"cf-connecting-ip": "2001:db8::1", "x-forwarded-for": "198.51.100.1", "sb-request-id": "of-the-platform", "x-request-id": "of-the-caller"}');
select tests.authenticate_as_service();
update public.contacts set name = 'Mara' where organization_id = tests.the('petshop', 'organization_id') and name = 'Marta';
select tests.authenticate_as_nobody();
select results_eq(
  $$ select user_id, actor_role, request_id, ip_address from pg_temp.news() where table_name = 'contacts' $$,
  $$ values (null::uuid, 'service_role', 'of-the-platform', '2001:db8::1'::inet) $$, 'what the edge says comes before what the caller says');

create function pg_temp.said(headers text) returns text language plpgsql as $$
begin
  perform set_config('request.headers', headers, true);
  return coalesce(host(private.request_ip()), '-') || ' ' || coalesce(private.request_header('x-request-id'), '-');
end;
$$;
select is(pg_temp.said(h.headers), h.said, format('headers: %s', h.headers))
from (values
  ('', '- -'), ('not json', '- -'), ('[]', '- -'), ('"text"', '- -'), ('{}', '- -'),
  ('{"x-forwarded-for": "unknown"}', '- -'),
  ('{"x-forwarded-for": ""}', '- -'),
  ('{"x-forwarded-for": " 203.0.113.7 , 1.1.1.1", "x-request-id": "a"}', '203.0.113.7 a'),
  ('{"x-real-ip": "203.0.113.8", "x-forwarded-for": "1.1.1.1"}', '203.0.113.8 -'),
  ('{"x-forwarded-for": "''; drop table x; --"}', '- -')
) h (headers, said);
create function pg_temp.said_by(key text) returns text language plpgsql as $$
begin
  return pg_temp.said(jsonb_build_object(
    'x-balcao-function-key', key, 'x-balcao-address', '203.0.113.9', 'x-balcao-user-agent', 'App/2', 'cf-connecting-ip', '198.51.100.1',
    'user-agent', 'Deno')::text) || private.request_header('user-agent');
end;
$$;
select is(pg_temp.said_by((select k.key from private.function_keys k)), '203.0.113.9 -App/2', 'an edge function says for whom it calls');
select is(pg_temp.said_by('0123456789abcdef'), '198.51.100.1 -Deno', 'and nobody else does');
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select throws_ok('select public.get_function_key()', '42501', null, 'an owner does not get the key of the functions');
select tests.authenticate_as_service();
select isnt(public.get_function_key(), null, 'the secret key does');
select tests.authenticate_as_nobody();
select pg_temp.headers('{}');

select count(*) as told_before from pg_temp.news();
select tests.authenticate_as(tests.the('petshop', 'viewer_id'));
select public.ensure_profile();
select tests.authenticate_as(gen_random_uuid());
select throws_ok('select public.log_audit_event(''a'', organization_id => ' || quote_literal(tests.the('petshop', 'organization_id')) || ')', 'BL002', null, 'a stranger logs nothing');
select tests.authenticate_as(tests.a_user('nobody@nowhere.example'));
select public.ensure_profile('Ninguém');
select tests.authenticate_as_nobody();
select results_eq(
  $$ select organization_id, user_id, actor_role, action, operation::text from pg_temp.news() $$,
  $$ values (tests.the('petshop', 'organization_id'), tests.the('petshop', 'viewer_id'), 'viewer', 'login', 'EVENT') $$,
  'who signs in is written down where she works, and nowhere if she works nowhere');

-- Events ------------------------------------------------------------------------------------------------------------------

select tests.authenticate_as(tests.the('petshop', 'viewer_id'));
select lives_ok($$ select public.log_audit_event('report.printed', 'bookings', null, '{"pages": 3}') $$, 'an app logs what no trigger sees');
select lives_ok($$ select public.log_audit_event('login', details => null) $$, 'and nothing more to say is no error');
select throws_ok(format('select public.log_audit_event(%L, %L, null, %L)', e.action, e.resource, e.details), 'BL902', null, 'refused: ' || e.why)
from (values
  ('Contacts.Erased', null, '{}', 'capitals'), ('', null, '{}', 'no action'), (null, null, '{}', 'null action'),
  (repeat('a', 97), null, '{}', 'a long action'), ('a', repeat('a', 101), '{}', 'a long resource'), ('a', null, '[]', 'no object'),
  ('a', null, '"a"', 'no object either'), ('a', null, jsonb_build_object('a', repeat('a', 4096))::text, 'too much')
) e (action, resource, details, why);
select lives_ok(format('select public.log_audit_event(%L)', repeat('a', 96)), 'an action has up to 96 letters');
select throws_ok(format($$ select public.log_audit_event('a', organization_id => %L) $$, pg_temp.clinic()), 'BL002', null, 'not into another''s log');
select tests.authenticate_as_service();
select throws_ok($$ select public.log_audit_event('a', organization_id => gen_random_uuid()) $$, 'BL100', null, 'nor into nobody''s');
select throws_ok($$ select public.log_audit_event('a', organization_id => null) $$, 'BL100', null, 'nor nowhere');
select tests.authenticate_as_anon();
select throws_ok($$ select public.log_audit_event('a') $$, '42501', null, 'nobody signed in logs nothing');
select tests.authenticate_as_nobody();
select results_eq(
  $$ select action, table_name, details from pg_temp.news() where length(action) < 90 $$,
  $$ values ('app.report.printed', 'bookings', '{"pages": 3}'::jsonb), ('app.login', null, '{}') $$, 'nobody imitates what triggers write');

-- Nobody changes it ---------------------------------------------------------------------------------------------------------

create function pg_temp.refused(who text) returns setof text language plpgsql as $$
declare
  relation text;
  statement text;
begin
  foreach relation in array array['audit_logs', 'audit_log_values', 'audit_seals', 'audit_trail'] loop
    foreach statement in array array['insert into public.%I default values', 'update public.%I set organization_id = organization_id', 'delete from public.%I', 'truncate public.%I'] loop
      continue when relation = 'audit_trail' and statement like 'truncate%';
      return next throws_ok(format(statement, relation), case relation when 'audit_trail' then null else '42501' end::char(5), null, format('%s: %s', who, format(statement, relation)));
    end loop;
  end loop;
  return next throws_ok($q$ select private.append_audit_log(null, 'EVENT', 'a', null, null, '{}', null, null, null) $q$, '42501', null, who || ': append_audit_log');
  return next throws_ok($q$ select private.seal_audit_logs() $q$, '42501', null, who || ': seal_audit_logs');
  return next throws_ok($q$ select private.begin_epoch('a') $q$, '42501', null, who || ': begin_epoch');
  return next throws_ok($q$ select private.verify_audit_chains() $q$, '42501', null, who || ': verify_audit_chains');
end;
$$;
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select pg_temp.refused('an owner');
select tests.authenticate_as_service();
select pg_temp.refused('the secret key');
select tests.authenticate_as_anon();
select pg_temp.refused('nobody');
select tests.authenticate_as_nobody();

insert into public.audit_seals (organization_id, number, epoch, from_transaction_id, to_transaction_id, row_count, last_created_at, rows_hash, previous_hash, hash)
values (tests.the('vet', 'organization_id'), 1, 1, '0', '1', 0, now(), '', '', '');
select throws_ok(s.statement, 'BL901', null, 'even the database''s owner: ' || s.statement)
from (values
  ($$ update public.audit_logs set action = 'nothing' $$), ($$ delete from public.audit_logs $$), ($$ truncate public.audit_logs $$),
  ($$ update public.audit_log_values set new_values = '{}' $$), ($$ truncate public.audit_log_values $$),
  ($$ update public.audit_log_values set ip_address = '192.0.2.1' where ip_address is not null $$),
  ($$ update public.audit_log_values set ip_address = network(set_masklen(ip_address, 24)), user_agent = 'x' where ip_address = '203.0.113.7' $$),
  ($$ update public.audit_seals set row_count = 1 $$), ($$ delete from public.audit_seals $$), ($$ truncate public.audit_seals $$)
) s (statement);
select lives_ok($$ update public.audit_log_values set ip_address = network(set_masklen(ip_address, 24)) where ip_address = '203.0.113.7' $$,
  'but an address may become anonymous');
select is((select array_agg(distinct host(v.ip_address)) from public.audit_log_values v where v.ip_address <<= '203.0.113.0/24'), '{203.0.113.0}', 'and names no host then');
select lives_ok($$ delete from public.audit_log_values where contact_id = tests.the('petshop', 'contact_id') $$, 'and a person''s values may go');

-- Retention: what is five years old, or what its organization wishes.
insert into public.audit_logs (organization_id, actor_role, operation, action, values_digest, origin_digest, created_at)
select tests.the(t.name, 'organization_id'), 'system', 'EVENT', 'old', '', '', now() - make_interval(days => t.days)
from (values ('petshop', 1826), ('petshop', 1828), ('vet', 1828)) t (name, days);
update public.organization_settings set retention_overrides = '{"audit_logs": 3000}' where organization_id = tests.the('vet', 'organization_id');
select throws_ok($$ delete from public.audit_logs where action = 'old' and created_at > now() - interval '1827 days' $$, 'BL901', null, 'before five years nothing goes');
select throws_ok(format($$ delete from public.audit_logs where action = 'old' and organization_id = %L $$, tests.the('vet', 'organization_id')), 'BL901', null,
  'nor before what an organization wishes');
select lives_ok(format($$ delete from public.audit_logs where action = 'old' and organization_id = %L and created_at < now() - interval '1827 days' $$,
  tests.the('petshop', 'organization_id')), 'then it does');

-- Who reads it --------------------------------------------------------------------------------------------------------------

create function pg_temp.readable() returns text language sql as $$
  select format('%s %s %s %s',
    (select count(*) > 0 from public.audit_logs where organization_id = tests.the('petshop', 'organization_id')),
    (select count(*) > 0 from public.audit_log_values where organization_id = tests.the('petshop', 'organization_id')),
    (select count(*) > 0 from public.audit_trail where organization_id = tests.the('petshop', 'organization_id')),
    (select count(*) > 0 from public.audit_trail where organization_id <> tests.the('petshop', 'organization_id')))
$$;
create function pg_temp.reads_as(who text) returns text language plpgsql as $$
declare
  answer text;
begin
  perform tests.authenticate_as(tests.the('petshop', who || '_id'));
  answer := pg_temp.readable();
  perform tests.authenticate_as_nobody();
  return answer;
end;
$$;
select is(pg_temp.reads_as('owner'), 't t t f', 'an owner reads her own log');
select is(pg_temp.reads_as('admin'), 't t t f', 'so does an admin');
select is(pg_temp.reads_as('attendant'), 'f f f f', 'an attendant reads none');
select is(pg_temp.reads_as('viewer'), 'f f f f', 'nor does a viewer');
select tests.authenticate_as(tests.the('vet', 'owner_id'));
select is(pg_temp.readable(), 'f f f t', 'another tenant''s owner reads nothing of it');
select throws_ok(format('select public.verify_audit_chain(%L)', tests.the('petshop', 'organization_id')), 'BL002', null, 'nor verifies it');
select tests.authenticate_as(tests.the('petshop', 'attendant_id'));
select throws_ok('select public.verify_audit_chain()', 'BL002', null, 'nor does an attendant');
select tests.authenticate_as_anon();
select throws_ok('select pg_temp.readable()', '42501', null, 'nobody signed in may even ask');
select throws_ok('select public.verify_audit_chain()', '42501', null, 'nor verify');
select tests.authenticate_as(tests.the('petshop', 'admin_id'));
select is(public.verify_audit_chain() -> 'is_intact', 'true', 'an admin verifies');
select is(public.verify_audit_chain() -> 'first_broken', null, 'and finds nothing broken where nothing is');
select tests.authenticate_as_nobody();

-- Epochs ----------------------------------------------------------------------------------------------------------------------

-- As after a restore from a dump: this database's transactions come long before those that were sealed.
update private.audit_sealing set transaction_id = '1000000000000';
select tests.authenticate_as_service();
select public.log_audit_event('first', organization_id => tests.the('vet', 'organization_id'));
select public.log_audit_event('second', organization_id => tests.the('vet', 'organization_id'));
select tests.authenticate_as_nobody();
select results_eq(
  $$ select action, epoch = private.epoch() and epoch > (select s.epoch from private.audit_sealing s) from public.audit_logs
    where action in ('app.first', 'app.second') order by id $$,
  $$ values ('app.first', true), ('app.second', true) $$, 'a database that counts anew begins an epoch, once');

select * from finish();
rollback;
