-- Maria, who is two contacts merged into one, is known in every table: something of her stands in every column that can hold
-- it. She gets all of it, and then none of it is there any more, in any table; and everything is counted as before.
begin;
select plan(25);

alter default privileges grant execute on functions to public;
select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
select tests.authenticate_as_nobody();

create temporary table planted (table_name text, column_name text, marker text, is_planted boolean not null default true);
create temporary table exported (data jsonb);
create temporary table answered (first jsonb);
grant select, insert on planted, exported, answered to authenticated;

-- Maria's other number, merged into her; and in the same delivery another customer, who stays.
insert into public.contacts (organization_id, id, phone_number, name)
values
  (tests.the('clinic', 'organization_id'), '00000000-0000-4000-8000-00000000000a', '+5531987650003', 'Maria Antiga'),
  (tests.the('clinic', 'organization_id'), '00000000-0000-4000-8000-00000000000b', '+5511955554444', 'Joana');
insert into public.contact_identities (organization_id, contact_id, instance_id, kind, value)
values (tests.the('clinic', 'organization_id'), '00000000-0000-4000-8000-00000000000b', tests.the('clinic', 'instance_id'), 'wa_id', '5511955554444');
insert into public.pets (organization_id, contact_id, name)
values (tests.the('clinic', 'organization_id'), '00000000-0000-4000-8000-00000000000a', 'Bidu');
select isnt(
  public.merge_contacts(tests.the('clinic', 'contact_id'), '00000000-0000-4000-8000-00000000000a', tests.the('clinic', 'organization_id')),
  null, 'two contacts turn out to be one person');

create function pg_temp.org() returns uuid language sql as $$ select tests.the('clinic', 'organization_id') $$;
create function pg_temp.maria() returns uuid[] language sql as $$
  select private.contacts_of(tests.the('clinic', 'organization_id'), tests.the('clinic', 'contact_id'))
$$;

-- The code of the error that a statement ends in; it is undone anyway.
create function pg_temp.try(statement text) returns text language plpgsql as $$
begin
  execute statement;
  raise exception sqlstate 'UNDO0';
exception when others then
  return sqlstate;
end;
$$;

-- A row of everything that the set-up does not have.
insert into public.messages (organization_id, id, conversation_id, contact_id, instance_id, direction, sender, message_type, status, whatsapp_message_id, media)
select o, '00000000-0000-4000-8000-0000000000d1', tests.the('clinic', 'conversation_id'), tests.the('clinic', 'contact_id'),
  tests.the('clinic', 'instance_id'), 'outbound', 'human', 'document', 'queued', null, null
from pg_temp.org() o;
insert into private.unanswered_sends (organization_id, message_id, fencing_token)
values (pg_temp.org(), '00000000-0000-4000-8000-0000000000d1', 1);
insert into private.notification_answers (organization_id, message_id, answer)
values (pg_temp.org(), tests.the('clinic', 'message_id'), 'confirm');
insert into public.data_subject_requests (organization_id, contact_id, kind, requester)
values (pg_temp.org(), tests.the('clinic', 'contact_id'), 'erasure', 'x');
insert into private.contact_partings (organization_id, contact_id) values (pg_temp.org(), tests.the('clinic', 'contact_id'));
insert into public.webhook_events (organization_id, provider, app_key, event_type, external_id, payload, created_at)
select o.id, 'meta_cloud', tests.the('clinic', 'instance_id')::text, 'messages', o.external_id,
  jsonb_build_object('entry', jsonb_build_array(jsonb_build_object('changes', jsonb_build_array(jsonb_build_object('value', jsonb_build_object(
    'metadata', '{"phone_number_id": "1"}'::jsonb,
    'contacts', jsonb_build_array(
      jsonb_build_object('wa_id', '5531987650003', 'profile', '{"name": "mkA1z"}'::jsonb), '{"wa_id": "5511955554444", "profile": {"name": "Joana"}}'::jsonb),
    'messages', jsonb_build_array(
      '{"from": "553187650003", "text": {"body": "mkA2z"}}'::jsonb,
      '{"from": "5511955554444", "text": {"body": "Sou a Joana"}}'::jsonb,
      -- Under a number that she has left since, but a message that we have.
      '{"from": "5521900001111", "id": "first-of-clinic", "text": {"body": "mkA3z"}}'::jsonb),
    'statuses', jsonb_build_array('{"id": "wamid.X", "recipient_id": "5511987654321", "note": "mkA4z"}'::jsonb)))))))
  , now() - interval '1 hour'
from (values (pg_temp.org(), 'number-of-clinic'), (null, 'number-of-clinic'), (null, 'number-of-petshop')) o (id, external_id);
insert into planted select 'public.webhook_events', 'payload', 'mkA' || n || 'z' from generate_series(1, 4) n;
-- More than one batch of the search, all of one moment.
insert into public.webhook_events (organization_id, provider, event_type, payload, created_at)
select pg_temp.org(), 'meta_cloud', 'many', jsonb_build_object('list', jsonb_build_array(
    jsonb_build_object('from', '5511955554444', 'text', 'Joana'),
    case when n % 700 = 0 then jsonb_build_object('from', '5511987654321', 'text', 'mkB' || n || 'z') end)), now() - interval '1 hour'
from generate_series(1, 2300) n;
insert into planted select 'public.webhook_events', 'payload', 'mkB' || n * 700 || 'z' from generate_series(1, 3) n;
insert into private.parked_message_updates (organization_id, instance_id, whatsapp_message_id, change)
select pg_temp.org(), tests.the('clinic', 'instance_id'), 'wamid.mkP1z', jsonb_populate_record(null::private.inbound_event, jsonb_build_object(
  'kind', 'reaction', 'identities', '[{"kind": "wa_id", "value": "5531987650003"}]'::jsonb, 'content', 'mkP2z'));
insert into planted values
  ('private.parked_message_updates', 'change', 'mkP2z'), ('private.parked_message_updates', 'whatsapp_message_id', 'mkP1z');
insert into public.webhook_deliveries (organization_id, endpoint_id, event_id, event_type, webhook_url, payload, created_at)
select pg_temp.org(), tests.the('clinic', 'endpoint_id'), event_id::uuid, 'contact.created', 'https://clinic.example/hook', payload::jsonb, now() - interval '1 hour'
from (values
  ('00000000-0000-4000-8000-0000000000e1', format('{"data": {"contact": {"id": "%s", "name": "mkD1z"}}}', tests.the('clinic', 'contact_id'))),
  ('00000000-0000-4000-8000-0000000000e2', '{"data": {"message": {"contact_id": "00000000-0000-4000-8000-00000000000a", "content": "mkD2z"}}}'),
  ('00000000-0000-4000-8000-0000000000e3', '{"data": {"contact": {"id": "00000000-0000-4000-8000-00000000000b", "name": "Joana"}}}')) d (event_id, payload);
insert into planted values ('public.webhook_deliveries', 'payload', 'mkD1z'), ('public.webhook_deliveries', 'payload', 'mkD2z');
insert into public.message_queue (organization_id, id, job_type, payload, status, completed_at, last_error, ordering_key)
select pg_temp.org(), id::uuid, 'an_apps_own', payload::jsonb, status::public.job_status, case when status in ('completed', 'dead') then now() end, error, key
from (values
  ('00000000-0000-4000-8000-0000000000f1', format('{"contact_id": "%s"}', tests.the('clinic', 'contact_id')), 'completed', 'mkQ1z', null),
  ('00000000-0000-4000-8000-0000000000f2', '{"text": "mkQ2z for +5511987654321"}', 'pending', null, 'hers'),
  ('00000000-0000-4000-8000-0000000000f3', '{"text": "somebody else''s"}', 'waiting', null, 'hers'),
  ('00000000-0000-4000-8000-0000000000f4', '{"to": "5511955554444"}', 'dead', 'of Joana', null)) j (id, payload, status, error, key);
insert into planted values ('public.message_queue', 'last_error', 'mkQ1z'), ('public.message_queue', 'payload', 'mkQ2z');
insert into public.api_call_logs (organization_id, service, endpoint, method, request_data, response_data, response_time_ms, success, job_id, created_at)
select pg_temp.org(), 'meta_graph', endpoint, 'POST', request::jsonb, response::jsonb, 1, true, job_id::uuid, now() - interval '1 hour'
from (values
  ('/mkL1z', '{"text": "mkL2z"}', '{"error": "mkL3z"}', '00000000-0000-4000-8000-0000000000f1'),
  ('/messages', format('{"biz_opaque_callback_data": "outbox:%s", "text": "mkL4z"}', tests.the('clinic', 'message_id')), null, null),
  ('https://clinic.example', '{"event_id": "00000000-0000-4000-8000-0000000000e1", "body": "mkL5z"}', null, null),
  ('/messages', '{"text": "Joana''s"}', null, null)) l (endpoint, request, response, job_id);
insert into planted select 'public.api_call_logs', 'request_data', 'mkL' || n || 'z' from generate_series(1, 5) n;
select private.track_event('page.viewed', '{"a": 1}', tests.the('clinic', 'contact_id'), now(), pg_temp.org());
select private.append_audit_log(pg_temp.org(), 'EVENT', 'a.change', 'contacts', null, '{}', '{"a": "mkV1z"}', '{"a": "mkV2z"}', '00000000-0000-4000-8000-00000000000a');
insert into planted values ('public.audit_log_values', 'old_values', 'mkV1z'), ('public.audit_log_values', 'new_values', 'mkV2z');

-- In every other column that may hold it, by the catalog: a new column of a listed table is planted as well.
do $$
declare
  entry record;
  marker text;
  n int := 100;
  rows_found bigint;
  attempt text;
begin
  for entry in
    select d.table_name, d.about, a.attname, a.atttypid::regtype::text as type
    from private.personal_data() d
    join pg_catalog.pg_attribute a on a.attrelid = d.table_name::regclass and a.attnum > 0 and not a.attisdropped
    where not d.is_log
      and d.table_name <> 'public.audit_log_values'
      and a.attgenerated = ''
      and (d.blank ? a.attname or d.blank is null)
      and a.atttypid in ('text'::regtype, 'text[]'::regtype, 'jsonb'::regtype)
      -- Keys, which have forms of their own; and names of tables.
      and (d.table_name, a.attname) not in (
        ('public.contacts', 'phone_number'), ('public.contacts', 'email'), ('public.contacts', 'cpf'),
        ('public.messages', 'whatsapp_message_id'), ('public.messages', 'client_message_id'), ('public.contact_identities', 'value'),
        ('private.contact_merge_changes', 'table_name'), ('public.leads', 'lost_reason'), ('public.data_subject_requests', 'refusal_reason'),
        ('public.ai_interactions', 'error'))
    order by d.table_name, a.attnum
  loop
    n := n + 1;
    marker := 'mk' || n || 'z';
    rows_found := 0;
    attempt := case entry.type
      when 'text' then quote_literal(marker)
      when 'text[]' then format('array[%L]', marker)
      else case when entry.attname = 'compliance_flags' then format('jsonb_build_array(%L)', marker) else format('jsonb_build_object(''k'', %L)', marker) end
    end;
    execute format('update %s t set %I = %s where t.organization_id = $1 and (%s)', entry.table_name, entry.attname, attempt, entry.about)
    using pg_temp.org(), pg_temp.maria(), array[]::text[], array[]::text[];
    get diagnostics rows_found = row_count;
    insert into planted values (entry.table_name, entry.attname, marker, rows_found > 0);
  end loop;
end;
$$;
update public.contacts set email = 'mk901z@exemplo.com.br', cpf = '39053344705', birth_date = '1984-03-02'
where organization_id = pg_temp.org() and id = tests.the('clinic', 'contact_id');
update public.leads set status = 'perdido', lost_reason = 'mk902z' where organization_id = pg_temp.org() and contact_id = tests.the('clinic', 'contact_id');
update public.ai_interactions set success = false, error = 'mk903z' where organization_id = pg_temp.org();
update public.messages set client_message_id = 'mk904z', whatsapp_message_id = 'wamid.mk905z' where organization_id = pg_temp.org() and id = '00000000-0000-4000-8000-0000000000d1';
update public.contact_identities set value = 'US.mk906z' where organization_id = pg_temp.org() and contact_id = tests.the('clinic', 'contact_id');
insert into public.data_subject_requests (organization_id, contact_id, kind, status, refusal_reason, completed_at)
values (pg_temp.org(), tests.the('clinic', 'contact_id'), 'objection', 'refused', 'mk907z', now());
insert into planted
select 'several', 'several', m from unnest(array['mk901z', '39053344705', '1984-03-02', 'mk902z', 'mk903z', 'mk904z', 'mk905z', 'mk906z', 'mk907z', '5511987654321', '5531987650003']) m;

select is_empty($$ select table_name || '.' || column_name from planted where not is_planted $$, 'there is something of Maria in every column');
select cmp_ok((select count(*)::int from planted), '>', 60, 'which are many');

-- What is counted, before. Whatever goes on has ended, as it would by hand.
do $$
begin
  update public.conversations set status = 'closed', closed_at = now() where organization_id = pg_temp.org() and is_open;
  update public.waiting_list set status = 'cancelled' where organization_id = pg_temp.org() and is_open;
end;
$$;
create function pg_temp.statistics() returns jsonb language plpgsql as $$
declare
  view_name text;
  part jsonb;
  answer jsonb := '{}';
begin
  for view_name in select c.relname from pg_catalog.pg_class c where c.relnamespace = 'analytics'::regnamespace and c.relkind = 'm' order by 1 loop
    execute format('refresh materialized view analytics.%I', view_name);
    execute format('select coalesce(jsonb_agg(to_jsonb(v) order by to_jsonb(v)::text), ''[]'') from analytics.%I v', view_name) into part;
    answer := answer || jsonb_build_object(view_name, part);
  end loop;
  return answer;
end;
$$;
create temporary table counted as select pg_temp.statistics() as before;
select is((select count(*)::int from counted, jsonb_object_keys(before)), 6, 'there are six views of statistics');

-- Hers ------------------------------------------------------------------------------------------------------------------

select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select throws_ok(format('select public.export_contact_data(%L)', tests.the('clinic', 'contact_id')), 'BL002', null, 'an attendant exports nobody');
select throws_ok(format('select public.erase_contact(%L, ''Pedido 12'')', tests.the('clinic', 'contact_id')), 'BL002', null, 'nor erases');
select tests.authenticate_as(tests.the('petshop', 'admin_id'));
select throws_ok(format('select public.export_contact_data(%L)', tests.the('clinic', 'contact_id')), 'BL402', null, 'another tenant''s contact is not found');
select throws_ok(format('select public.erase_contact(%L, ''Pedido 12'')', tests.the('clinic', 'contact_id')), 'BL402', null, 'nor erased');
select throws_ok(
  format('select public.export_contact_data(%L, %L)', tests.the('clinic', 'contact_id'), tests.the('clinic', 'organization_id')), 'BL002', null,
  'by its organization''s name neither');
select tests.authenticate_as(tests.the('clinic', 'admin_id'));

-- By the name of the one that was merged: it is the same person.
insert into exported select public.export_contact_data('00000000-0000-4000-8000-00000000000a');
select is_empty(
  $$ select p.table_name, p.column_name, p.marker from planted p, exported e where position(p.marker in e.data::text) = 0 $$,
  'her export holds everything that was planted');
select is_empty(
  $$ select from exported e where e.data::text ~ 'Joana|5511955554444|somebody else' $$,
  'and nothing of anybody else, though it came in one delivery');
select tests.authenticate_as_nobody();
select is_empty(
  $$ select split_part(d.table_name, '.', 2) from private.personal_data() d, exported e where not e.data -> 'tables' ? split_part(d.table_name, '.', 2) $$,
  'with a key for each table');

-- Nothing of it ---------------------------------------------------------------------------------------------------------

select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select throws_ok(
  format('select public.erase_contact(%L, ''mk901z@exemplo.com.br pediu'')', tests.the('clinic', 'contact_id')), 'BL915', null,
  'a reason that names her is refused');
insert into answered select public.erase_contact('00000000-0000-4000-8000-00000000000a', 'Pedido 12');
select is(
  (select public.erase_contact(tests.the('clinic', 'contact_id'), 'Pedido 12') ->> 'erasure_id'), (select first ->> 'erasure_id' from answered),
  'erasing twice is erasing once');
select tests.authenticate_as_nobody();

-- The worker's part; this test is one transaction, which would wait for itself.
do $$
declare
  job public.message_queue;
  answer jsonb;
begin
  for job in select c.* from private.claim_jobs('test', 100, array['erase_contact'], interval '1 minute', null) c loop
    for n in 1..100 loop
      answer := public.continue_erasure(jsonb_build_object('organization_id', job.organization_id, 'id', job.id, 'fencing_token', job.fencing_token));
      update private.erasures set horizon = '3', searches_until = clock_timestamp() where completed_at is null;
      exit when answer ->> 'action' = 'done';
    end loop;
    raise notice '%', answer;
  end loop;
end;
$$;
select isnt((select completed_at from private.erasures where organization_id = pg_temp.org()), null, 'the search through the logs has ended');

create function pg_temp.found() returns table (table_name text, marker text) language plpgsql as $$
declare
  scanned regclass;
begin
  -- Ours and Storage's: tables, partitions, views' contents.
  for scanned in
    select c.oid
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname in ('public', 'private', 'partitions', 'analytics', 'storage') and c.relkind in ('r', 'p', 'm')
  loop
    return query execute format(
      -- The petshop has a customer of the same number, whom nobody asked to erase.
      'select %L, p.marker from %s t join planted p on position(p.marker in t::text) > 0
       where to_jsonb(t) ->> ''organization_id'' is distinct from %L', scanned, scanned, tests.the('petshop', 'organization_id'));
  end loop;
end;
$$;
-- But for an unassigned delivery that was the petshop's.
update public.webhook_events e set organization_id = tests.the('petshop', 'organization_id') where e.external_id = 'number-of-petshop';
select is_empty(
  $$ select * from pg_temp.found() $$,
  'no table holds anything of her');
select results_eq(
  $$ select e.organization_id = pg_temp.org(), e.external_id, e.payload::text ~ 'mkA', e.payload::text ~ 'Joana'
     from public.webhook_events e where e.external_id is not null order by 1 desc nulls last, 2 $$,
  $$ values (true, 'number-of-clinic', false, true), (false, 'number-of-petshop', true, true), (null, 'number-of-clinic', false, true) $$,
  'of a delivery of many persons her part is gone, also where it was not assigned; others'' parts and others'' numbers are not touched');
select is(
  (select count(*)::int from public.webhook_events e where e.event_type = 'many' and e.payload::text ~ 'Joana'), 2300,
  'however many they are');
select results_eq(
  $$ select q.id, q.status::text from public.message_queue q where q.organization_id = pg_temp.org() and q.job_type = 'an_apps_own' order by 1 $$,
  $$ values ('00000000-0000-4000-8000-0000000000f3'::uuid, 'pending'), ('00000000-0000-4000-8000-0000000000f4'::uuid, 'dead') $$,
  'her jobs are gone, and what waited behind one goes on');
select is(pg_temp.statistics(), (select before from counted), 'everything is counted as before');
select is(
  (select array[r.status::text, (r.requester is null)::text] from public.data_subject_requests r where r.organization_id = pg_temp.org() and r.kind = 'erasure'),
  array['done', 'true'], 'her request is answered');

-- She stays erased ---------------------------------------------------------------------------------------------------------

select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select is(
  (select array_agg(private_try) from unnest(array[
    format($q$ update public.contacts set name = 'Maria' where id = %L $q$, tests.the('clinic', 'contact_id')),
    format($q$ update public.contacts set erased_at = null where id = %L $q$, tests.the('clinic', 'contact_id')),
    $q$ update public.contacts set erased_at = now() where name = 'Joana' $q$,
    format($q$ insert into public.pets (organization_id, contact_id, name) values (%L, %L, 'Rex') $q$, pg_temp.org(), tests.the('clinic', 'contact_id')),
    format($q$ update public.pets set name = 'Rex' where contact_id = %L $q$, tests.the('clinic', 'contact_id')),
    format($q$ select public.reopen_conversation(%L) $q$, tests.the('clinic', 'conversation_id')),
    format($q$ select public.merge_contacts('00000000-0000-4000-8000-00000000000b', %L) $q$, tests.the('clinic', 'contact_id')),
    format($q$ select public.track_event('page.viewed', '{}', %L) $q$, tests.the('clinic', 'contact_id')),
    format($q$ select public.undo_merge((select m.id from public.contact_merges m where m.undone_at is null and m.kept_contact_id = %L)) $q$, tests.the('clinic', 'contact_id'))
  ]) statement, lateral pg_temp.try(statement) private_try),
  array['BL912', 'BL002', 'BL002', 'BL912', 'BL912', 'BL912', 'BL405', 'BL912', 'BL407'],
  'nothing can be noted of her, nor can she be brought back');

select tests.authenticate_as_nobody();
select is((public.verify_audit_chain(pg_temp.org()) -> 'is_intact')::text, 'true', 'the audit log is whole');

-- A restored backup ----------------------------------------------------------------------------------------------------------

create temporary table kept_list as select private.list_erasures(pg_temp.org()) as list;
do $$
begin
  perform set_config('balcao.erasing', 'yes', true);
  delete from private.erasures;
  update public.contacts set erased_at = null, name = 'mk100z' where organization_id = pg_temp.org() and erased_at is not null;
  perform set_config('balcao.erasing', '', true);
end;
$$;
select is((select public.reapply_erasures(pg_temp.org(), list) from kept_list), 1, 'whom a list names is erased');
select is_empty(
  $$ select from public.contacts c where c.name = 'mk100z' $$,
  'whom a restored backup brought back is erased again');

select * from finish();
rollback;
