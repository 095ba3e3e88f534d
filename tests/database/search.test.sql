-- What was said is found by its words, page after page, by those who may read it; and an inbox list is one query.
begin;
-- What this story defines may run as anyone; rolled back with the rest.
alter default privileges grant execute on functions to public;
select no_plan();

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
delete from public.messages;

-- A message of so many days ago, in the tenant's conversation.
create function pg_temp.said(tenant text, words text, days_ago numeric default 0, conversation text default 'conversation_id')
returns uuid
language plpgsql
as $$
declare
  at constant timestamptz := clock_timestamp() - days_ago * interval '1 day';
  message_id constant uuid := private.uuid_v7(at);
begin
  insert into public.messages
    (organization_id, id, conversation_id, contact_id, instance_id, direction, sender, content, status, created_at)
  values (
    tests.the(tenant, 'organization_id'), message_id, tests.the(tenant, 'conversation_id'), tests.the(tenant, 'contact_id'),
    tests.the(tenant, 'instance_id'), 'inbound', 'contact', words, 'received', at);
  return message_id;
end;
$$;
create function pg_temp.found(query text, tenant text default 'clinic')
returns text[]
language sql
as $$
  select coalesce(array_agg(text_of.words), '{}')
  from public.search_messages(query, page_size => 50, organization_id => tests.the(tenant, 'organization_id')) s
  cross join lateral (
    select string_agg(piece ->> 'text', '' order by n) as words
    from jsonb_array_elements(s.excerpt) with ordinality as e (piece, n)
  ) text_of
$$;
create function pg_temp.excerpt_of(query text)
returns jsonb
language sql
as $$ select s.excerpt from public.search_messages(query, organization_id => tests.the('clinic', 'organization_id')) s limit 1 $$;
create function pg_temp.refusal(query text, before text default null)
returns text
language plpgsql
as $$
declare
  detail text;
begin
  perform from public.search_messages(query, before => before, organization_id => tests.the('clinic', 'organization_id'));
  return 'none';
exception when sqlstate 'BL212' then
  get stacked diagnostics detail = pg_exception_detail;
  return detail::jsonb ->> 'reason';
end;
$$;

-- Words ---------------------------------------------------------------------------------------------------------------
select pg_temp.said('clinic', 'Quero marcar a vacinação do Rex', 3);
select pg_temp.said('clinic', 'As vacinacoes estão em dia?', 2);
select pg_temp.said('clinic', 'Banho e tosa no sábado', 1);
select pg_temp.said('clinic', 'Tosa, e banho depois', 1);
select pg_temp.said('clinic', null);
select pg_temp.said('petshop', 'A vacinação do gato');
select tests.authenticate_as(tests.the('clinic', 'viewer_id'));
select bag_eq(
  $$ select unnest(pg_temp.found('VACINAÇÃO')) $$, array['Quero marcar a vacinação do Rex', 'As vacinacoes estão em dia?'],
  'accents, case and plurals do not matter');
select is(pg_temp.found('vacinacao rex'), '{"Quero marcar a vacinação do Rex"}', 'all words are wanted');
select is(pg_temp.found('vacinação -rex'), '{"As vacinacoes estão em dia?"}', 'but those with a minus');
select is(pg_temp.found('"banho tosa"'), '{}', 'quoted words in this order');
select is(pg_temp.found('"tosa e banho"'), '{"Tosa, e banho depois"}', 'and nothing else between them');
select is(cardinality(pg_temp.found('vacinas or vacinação or banho')), 4, '"or" takes either');
select is(pg_temp.found('ornitorrinco'), '{}', 'what nobody said is not found');
select is(pg_temp.found('gato'), '{}', 'nor what was said elsewhere');

-- What is no query
select is(pg_temp.refusal(''), 'empty', 'nothing is no query');
select is(pg_temp.refusal('  '), 'empty', 'nor are blanks');
select is(pg_temp.refusal(null), 'empty', 'nor null');
select is(pg_temp.refusal('de para com'), 'only_common_words', 'nor words that everybody says');
select is(pg_temp.refusal('😊 !?'), 'only_common_words', 'nor signs');
select is(pg_temp.refusal('-rex'), 'only_exclusions', 'nor what shall not be there');
select is(pg_temp.refusal('rex or -gato'), 'only_exclusions', 'in any form');
select is(pg_temp.refusal(repeat('a ', 251)), 'too_long', 'nor a novel');
select is(pg_temp.refusal('rex', 'x'), 'cursor', 'a cursor comes from a result');
select is(pg_temp.refusal('rex', repeat('-', 36) || ':1:' || repeat('-', 36)), 'cursor', 'dashes are no id');
select is(pg_temp.refusal('rex', format('%1$s:1e9999:%1$s', private.uuid_v7())), 'cursor', 'and there is no such number');
select is(pg_temp.refusal('rex', format('%1$s:%2$s:%1$s', private.uuid_v7(), repeat('9', 400))), 'cursor', 'nor that one');
select is(pg_temp.refusal('rex', format('%1$s:693.2146908179012:%1$s', private.uuid_v7())), 'none', 'this could be one');
select is(pg_temp.refusal(':*&|!()<->\ '' rex'), 'none', 'the signs of tsquery are just signs');

-- Highlighting -----------------------------------------------------------------------------------------------------------
select tests.authenticate_as_nobody();
select pg_temp.said('clinic', '<img src=x onerror="alert(1)"> <b>Emergências</b> & cães 😊 emergencia');
select pg_temp.said('clinic', repeat('bla ', 200) || 'finalmente a radiografia' || repeat(' bla', 200));
select pg_temp.said('clinic', E'\ue000\ue001 \\ '' " agulha');
select tests.authenticate_as(tests.the('clinic', 'viewer_id'));
select is(
  pg_temp.excerpt_of('emergência'),
  '[{"text": "<img src=x onerror=\"alert(1)\"> <b>", "match": false}, {"text": "Emergências", "match": true},
    {"text": "</b> & cães 😊 ", "match": false}, {"text": "emergencia", "match": true}]'::jsonb,
  'pieces of plain text, as it was written, whatever it looks like: nothing for an app to unescape');
select is(
  (select array_agg(piece ->> 'text') from jsonb_array_elements(pg_temp.excerpt_of('radiografia -ausente')) piece where (piece ->> 'match')::boolean),
  '{radiografia}', 'what was excluded is not highlighted');
select ok(
  (select length(string_agg(piece ->> 'text', '')) between 100 and 320 from jsonb_array_elements(pg_temp.excerpt_of('radiografia')) piece),
  'of a long message the part around the word');
select is(pg_temp.excerpt_of('agulha') -> -1, '{"text": "agulha", "match": true}', 'no sign is taken for a mark');

-- Order, and pages ---------------------------------------------------------------------------------------------------------
select tests.authenticate_as_nobody();
select pg_temp.said('clinic', 'castração castração castração', 20);
select pg_temp.said('clinic', 'a castração, e muitas outras coisas que não vêm ao caso nesta conversa tão comprida', 19);
select pg_temp.said('clinic', 'castração castração castração', 400);
select tests.authenticate_as(tests.the('clinic', 'viewer_id'));
select is(
  (select array_agg(round(extract(epoch from now() - s.created_at) / 86400)) from public.search_messages('castrar or castração', organization_id => tests.the('clinic', 'organization_id')) s),
  '{20,19,400}'::numeric[], 'what says it most comes first, unless it was long ago');

select tests.authenticate_as_nobody();
select count(pg_temp.said('clinic', 'radiologia ' || case when n % 3 = 0 then repeat('radiologia ', n % 5) else repeat('outra coisa ', n % 7) end, n * 1.7))
from generate_series(1, 450) n;
create function pg_temp.all_pages(page_size int, conversation uuid default null)
returns uuid[]
language plpgsql
as $$
declare
  seen uuid[] := '{}';
  page public.message_match[];
  cursor text;
begin
  loop
    page := array(
      select s
      from public.search_messages('radiologia', conversation, cursor, page_size, tests.the('clinic', 'organization_id')) s);
    seen := seen || array(select p.id from unnest(page) p);
    exit when cardinality(page) < page_size;
    cursor := (page[page_size]).cursor;
    -- What comes in between two pages disturbs neither.
    perform tests.authenticate_as_nobody();
    perform pg_temp.said('clinic', 'radiologia radiologia nova');
    perform tests.authenticate_as(tests.the('clinic', 'viewer_id'));
  end loop;
  return seen;
end;
$$;
select tests.authenticate_as(tests.the('clinic', 'viewer_id'));
create temporary table pages as select n, id from unnest(pg_temp.all_pages(37)) with ordinality as page (id, n);
select is((select count(*) from pages), 450::bigint, 'page by page everything is found that was there');
select is((select count(distinct id) from pages), 450::bigint, 'and nothing twice');
select ok(
  (select max(n) filter (where recent) < min(n) filter (where not recent) from (
    select p.n, row_number() over (order by m.id desc) <= 200 as recent
    from pages p join public.messages m using (id)) p),
  'the newest 200 come before the others');
select is(cardinality(pg_temp.all_pages(50, tests.the('clinic', 'conversation_id'))), 462, 'in one conversation too');
select is(
  (select count(*) from public.search_messages('radiologia', page_size => 1000, organization_id => tests.the('clinic', 'organization_id'))), 50::bigint,
  'at most fifty at once');
select is(
  (select count(*) from public.search_messages('radiologia', page_size => 0, organization_id => tests.the('clinic', 'organization_id'))), 1::bigint,
  'and at least one');
select is(
  (select count(*) from public.search_messages('radiologia', tests.the('petshop', 'conversation_id'), organization_id => tests.the('clinic', 'organization_id'))), 0::bigint,
  'another tenant''s conversation has none of it');

select tests.authenticate_as_nobody();
update public.messages set revoked_at = now() where content like 'As vacinacoes%';
select tests.authenticate_as(tests.the('clinic', 'viewer_id'));
select is(pg_temp.found('vacinação'), '{"Quero marcar a vacinação do Rex"}', 'what the customer deleted is not found');
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select throws_ok(
  $$ select public.search_messages('rex', organization_id => tests.the('clinic', 'organization_id')) $$, 'BL002', null,
  'another tenant''s owner does not search here');
select is(pg_temp.found('vacinação', 'petshop'), '{"A vacinação do gato"}', 'but at home');
select throws_ok(
  $$ select public.search_messages('rex', tests.the('clinic', 'conversation_id'), organization_id => null) $$, 'BL002', null,
  'nowhere is not everywhere');
select is(
  (select count(*) from public.search_messages('vacinação', tests.the('clinic', 'conversation_id'))), 0::bigint,
  'a conversation''s id opens no door');
select tests.authenticate_as_anon();
select throws_ok(
  $$ select public.search_messages('rex', organization_id => tests.the('clinic', 'organization_id')) $$, '42501', null,
  'who has not signed in does not search');
select tests.authenticate_as_nobody();

-- The inbox ---------------------------------------------------------------------------------------------------------------
update public.conversations v
set assigned_user_id = tests.the('clinic', 'attendant_id'), unread_count = 2, last_message_preview = 'Oi', last_inbound_at = '2026-11-20T12:00Z'
where v.id = tests.the('clinic', 'conversation_id');
update public.profiles set first_name = 'Ana', last_name = 'Lima' where user_id = tests.the('clinic', 'attendant_id');
insert into public.conversations (organization_id, contact_id, instance_id, whatsapp_chat_id, status, closed_at, last_inbound_at)
values (tests.the('clinic', 'organization_id'), tests.the('clinic', 'contact_id'), tests.the('clinic', 'instance_id'), 'x', 'closed', now(), '2026-11-20T18:00Z');
select tests.authenticate_as(tests.the('clinic', 'viewer_id'));
select is(
  (
    select concat_ws(' | ', d.contact_name, d.contact_phone_number, d.instance_name, d.assigned_name, d.unread_count,
      d.last_message_preview, d.status, d.priority, d.controlled_by, to_char(d.window_expires_at at time zone 'UTC', 'DD HH24:MI'))
    from public.conversation_dashboard d
    where d.id = tests.the('clinic', 'conversation_id')
  ),
  'Maria | +5511987654321 | Recepção | Ana Lima | 2 | Oi | active | normal | bot | 21 18:00',
  'a row says who, through which number, who is responsible and in control, what is new and until when one may answer');
select is((select count(*) from public.conversation_dashboard), 2::bigint, 'a viewer sees the own organization''s');
select tests.authenticate_as_nobody();
update public.conversations set status = 'waiting_human', is_bot_controlled = false where id = tests.the('clinic', 'conversation_id');
select is((select d.controlled_by from public.conversation_dashboard d where d.id = tests.the('clinic', 'conversation_id')), 'nobody', 'nobody answers while it waits');
update public.conversations set status = 'active' where id = tests.the('clinic', 'conversation_id');
select is((select d.controlled_by from public.conversation_dashboard d where d.id = tests.the('clinic', 'conversation_id')), 'human', 'then a person does');

-- Page by page, as a client asks: eleven conversations at three moments.
insert into public.contacts (organization_id, id, name)
select tests.the('clinic', 'organization_id'), ('00000000-0000-4000-8000-0000000000' || lpad(n::text, 2, '0'))::uuid, 'C' || n from generate_series(1, 10) n;
insert into public.conversations (organization_id, contact_id, instance_id, whatsapp_chat_id, last_message_at)
select c.organization_id, c.id, tests.the('clinic', 'instance_id'), c.name, timestamptz '2026-11-01' + (length(c.name) || ' days')::interval
from public.contacts c where c.name ~ '^C[0-9]';
update public.conversations set last_message_at = '2026-11-05' where id = tests.the('clinic', 'conversation_id');
select tests.authenticate_as(tests.the('clinic', 'viewer_id'));
create temporary table inbox (n bigint generated always as identity, id uuid);
do $$
declare
  last_at timestamptz;
  last_id uuid;
  read int;
begin
  loop
    insert into inbox (id)
    select d.id
    from public.conversation_dashboard d
    where d.organization_id = tests.the('clinic', 'organization_id')
      and d.is_open
      and (last_id is null or d.last_message_at <= last_at and (d.last_message_at < last_at or d.id < last_id))
    order by d.last_message_at desc, d.id desc
    limit 4;
    get diagnostics read = row_count;
    exit when read < 4;
    select d.id, d.last_message_at into last_id, last_at from public.conversation_dashboard d join inbox i using (id) order by i.n desc limit 1;
  end loop;
end;
$$;
select results_eq(
  'select id from inbox order by n',
  $$ select v.id from public.conversations v where v.is_open order by v.last_message_at desc, v.id desc $$,
  'every page goes on where the last one ended');
select is((select count(*) from inbox), 11::bigint, 'until nothing is left');

-- One in which nothing was said yet is in its place too.
select tests.authenticate_as_nobody();
insert into public.contacts (organization_id, name) values (tests.the('clinic', 'organization_id'), 'Ninguém disse nada');
insert into public.conversations (organization_id, contact_id, instance_id, whatsapp_chat_id)
select c.organization_id, c.id, tests.the('clinic', 'instance_id'), 'silent' from public.contacts c where c.name = 'Ninguém disse nada';
select is(
  (select d.last_message_at = d.created_at from public.conversation_dashboard d where d.contact_name = 'Ninguém disse nada'), true,
  'a conversation without a message is as old as itself');
select tests.authenticate_as(tests.the('clinic', 'viewer_id'));

-- It finds its place in the index.
create function pg_temp.plan_of_a_page()
returns setof text
language plpgsql
as $$
begin
  set local enable_seqscan = off;
  set local enable_sort = off;
  return query execute format(
    'explain select * from public.conversation_dashboard d
     where d.organization_id = %L and d.is_open and d.last_message_at <= now() and (d.last_message_at < now() or d.id < %L)
     order by d.last_message_at desc, d.id desc limit 50', tests.the('clinic', 'organization_id'), tests.the('clinic', 'conversation_id'));
end;
$$;
select isnt_empty($$ select from pg_temp.plan_of_a_page() line where line ~ 'Index Scan using conversations_inbox_idx' $$, 'an attendant''s inbox is read along its index');
select isnt_empty($$ select from pg_temp.plan_of_a_page() line where line ~ 'Index Cond: .*is_open.*last_message_at <=' $$, 'from where the page begins');

select * from finish();
rollback;
