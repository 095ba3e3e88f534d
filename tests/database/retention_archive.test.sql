-- Messages of more than two years move out, by the month and only when their file was read back; what is young, of an open
-- conversation or of an organization with other wishes stays. An erased person leaves the files, too.
begin;
select plan(34);

alter default privileges grant execute on functions to public;
select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
select tests.authenticate_as_nobody();
delete from public.message_archives;
create function pg_temp.org() returns uuid language sql as $$ select tests.the('clinic', 'organization_id') $$;
update public.organization_settings set retention_overrides = '{"messages": 1827}' where organization_id = tests.the('petshop', 'organization_id');

-- Two customers' closed conversations and an open one, at each tenant's, with a message every six hours of 2023.
insert into public.contacts (organization_id, id, name)
select tests.the(t, 'organization_id'), md5(t || n)::uuid, 'Cliente ' || n from unnest(array['clinic', 'petshop']) t cross join generate_series(1, 3) n;
insert into public.conversations (organization_id, id, contact_id, instance_id, whatsapp_chat_id, status, closed_at)
select p.organization_id, md5('c' || p.id)::uuid, p.id, i.id, 'x', case p.name when 'Cliente 3' then 'active' else 'closed' end::public.conversation_status,
  case p.name when 'Cliente 3' then null else '2023-12-31'::timestamptz end
from public.contacts p join public.whatsapp_instances i on i.organization_id = p.organization_id
where p.name like 'Cliente _';
insert into public.messages (organization_id, id, conversation_id, contact_id, instance_id, direction, sender, status, content, created_at)
select v.organization_id, private.uuid_v7(at), v.id, v.contact_id, v.instance_id, 'inbound', 'contact', 'received', 'Olá, são ' || at || E' \\ "ção"\n', at
from public.conversations v
cross join generate_series('2023-01-01T00:00:00Z'::timestamptz, '2023-03-31T23:59:59Z', interval '6 hours') at
where v.whatsapp_chat_id = 'x';
create temporary table originals as select m.* from public.messages m where m.created_at < '2024-01-01';

-- What is due -----------------------------------------------------------------------------------------------------------------

select is(private.enqueue_due_archives('2025-01-31T23:59:59Z'), 0::bigint, 'within two years nothing is due');
select is(private.enqueue_due_archives('2025-02-01T00:00:00Z'), 1::bigint, 'then a month is, of who did not wish to keep it');
select is(private.enqueue_due_archives('2025-02-01T18:00:00Z'), 0::bigint, 'once a day');
select results_eq(
  $$ select q.organization_id, q.payload from public.message_queue q where q.job_type = 'archive_messages' $$,
  $$ values (pg_temp.org(), '{"before": "2023-02-01T00:00:00+00:00"}'::jsonb) $$, 'whole months');

create function pg_temp.claim(kind text) returns jsonb language sql as $$
  select jsonb_build_object('organization_id', c.organization_id, 'id', c.id, 'fencing_token', c.fencing_token)
  from public.claim_jobs('me', 1, array[kind]) c
$$;
create temporary table claims as select pg_temp.claim('archive_messages') as claim;
create function pg_temp.step() returns jsonb language sql as $$ select public.continue_archive((select claim from claims), 150) $$;
create function pg_temp.content(archive uuid) returns text language plpgsql as $$
declare
  page jsonb;
  content text := '';
begin
  loop
    page := public.read_archive_lines((select claim from claims), archive, (page ->> 'last')::uuid);
    exit when page ->> 'last' is null;
    content := content || (page ->> 'content');
  end loop;
  return content;
end;
$$;
create function pg_temp.report(content text) returns jsonb language sql as $$
  select jsonb_build_object(
    'row_count', length(content) - length(replace(content, E'\n', '')), 'content_bytes', octet_length(content),
    'content_sha256', encode(sha256(convert_to(content, 'UTF8')), 'hex'), 'file_sha256', repeat('ab', 32), 'file_bytes', 9)
$$;

-- A file ----------------------------------------------------------------------------------------------------------------------

create temporary table first_one as select pg_temp.step() as told;
select is((select told ->> 'action' from first_one), 'write', 'a file is to be written');
select is((select (told #>> '{manifest,row_count}')::int from first_one), 150, 'of as many messages as one takes');
select is(pg_temp.step(), (select told from first_one), 'who died on the way is told the same again');
create temporary table files as select (told ->> 'archive_id')::uuid as id, pg_temp.content((told ->> 'archive_id')::uuid) as content from first_one;
select is(
  (select count(*) from files f cross join lateral string_to_table(rtrim(f.content, E'\n'), E'\n') line
   join originals o on o.id = (line::jsonb ->> 'id')::uuid
   where (jsonb_populate_record(null::public.messages, line::jsonb)) = (select row(o.*)::public.messages)),
  150::bigint, 'each line is a message, whole');
select throws_ok(
  format('select public.finish_archive_file((select claim from claims), %L, pg_temp.report((select content from files)) || %L)', (select id from files), wrong),
  'BL924', null, 'another ' || what || ' read back is not taken')
from (values
  ('content', '{"content_sha256": "00"}'), ('count of lines', '{"row_count": 149}'), ('size', '{"content_bytes": 1}'), ('file', '{"file_sha256": null}')
) w (what, wrong);
select is((select count(*) from public.messages m join originals o using (organization_id, id)), (select count(*) from originals), 'so far nothing has gone');
select throws_ok($$ select public.finish_archive_file((select claim from claims), gen_random_uuid(), '{}') $$, 'BL925', null, 'nor is one taken that there is not');

select is(public.finish_archive_file((select claim from claims), (select id from files), pg_temp.report((select content from files))) ->> 'action', 'again', 'what was read back is what was written');
-- Meanwhile one of them changes.
update public.messages m set metadata = '{"reactions": {}}'
where m.organization_id = pg_temp.org() and m.id = (
  select (line::jsonb ->> 'id')::uuid
  from files f cross join lateral string_to_table(rtrim(f.content, E'\n'), E'\n') line
  where line::jsonb ->> 'contact_id' = md5('clinic1')::uuid::text
  limit 1);
do $$ begin while exists (select from public.message_archives a join files f using (id) where a.status <> 'completed') loop perform pg_temp.step(); end loop; end; $$;
select is((select count(*) from originals o where not exists (select from public.messages m where m.organization_id = o.organization_id and m.id = o.id)),
  149::bigint, 'now they go, but for the one that changed');

do $$
declare
  told jsonb;
begin
  loop
    told := pg_temp.step();
    exit when told ->> 'action' = 'done';
    if told ->> 'action' = 'write' then
      insert into files select (told ->> 'archive_id')::uuid, pg_temp.content((told ->> 'archive_id')::uuid);
      perform public.finish_archive_file((select claim from claims), (told ->> 'archive_id')::uuid,
        pg_temp.report((select f.content from files f where f.id = (told ->> 'archive_id')::uuid)));
    end if;
  end loop;
end;
$$;
select results_eq(
  $$ select o.id from originals o left join public.messages m on m.organization_id = o.organization_id and m.id = o.id where m.id is null order by 1 $$,
  $$ select o.id from originals o join public.conversations v on v.organization_id = o.organization_id and v.id = o.conversation_id
     where o.organization_id = pg_temp.org() and o.created_at < '2023-02-01' and v.status = 'closed' order by 1 $$,
  'in the end the month is gone, and nothing else: no younger message, no open conversation, nothing of who keeps it longer');
select set_eq(
  $$ select distinct (line::jsonb ->> 'id')::uuid from files f cross join lateral string_to_table(rtrim(f.content, E'\n'), E'\n') line $$,
  $$ select o.id from originals o where not exists (select from public.messages m where m.organization_id = o.organization_id and m.id = o.id) $$,
  'all of it is in the files');
select is_empty($$ select from private.archive_lines $$, 'nothing is left of what was laid down');
select is((select q.status::text from public.message_queue q where q.job_type = 'archive_messages'), 'completed', 'and the job is done');
select is(private.enqueue_due_archives('2025-02-27T12:00:00Z'), 0::bigint, 'the rest of the month nothing is due');
select is(private.enqueue_due_archives('2028-02-05T12:00:00Z'), 2::bigint, 'years later it is, everywhere');
delete from public.message_queue where job_type = 'archive_messages' and status = 'pending';
insert into public.message_archives (organization_id, month, storage_path, row_count, content_sha256, content_bytes)
values (tests.the('petshop', 'organization_id'), '2023-01-01', 'x', 1, 'x', 1);
select is(private.enqueue_due_archives('2025-02-28T12:00:00Z'), 1::bigint, 'one that was begun and given up is taken up again');
select is(
  public.continue_archive(pg_temp.claim('archive_messages')), '{"action": "again"}', 'whose lines are gone with a backup');
select is_empty(
  $$ select from public.message_archives where organization_id = tests.the('petshop', 'organization_id') $$, 'is forgotten: its messages are there');

-- Who finds it ------------------------------------------------------------------------------------------------------------------

select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select is(
  (select sum(a.message_count) from public.list_archived_messages(md5('c' || md5('clinic1')::uuid)::uuid, null, pg_temp.org()) a),
  125::numeric, 'an administrator finds the files of a conversation; the message that changed is in two');
select is((select count(*) from public.list_archived_messages(null, md5('clinic1')::uuid, pg_temp.org())), 2::bigint, 'or of a contact');
select is((select count(*) from public.list_archived_messages(null, null, pg_temp.org())), 0::bigint, 'not of everybody at once');
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select throws_ok($$ select public.list_archived_messages(null, md5('clinic1')::uuid, pg_temp.org()) $$, 'BL002', null, 'an attendant does not');
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select throws_ok($$ select public.list_archived_messages(null, md5('clinic1')::uuid, pg_temp.org()) $$, 'BL002', null, 'nor anybody else''s owner');
select tests.authenticate_as_nobody();

-- An erased person --------------------------------------------------------------------------------------------------------------

select isnt(public.erase_contact(md5('clinic1')::uuid, 'Pedido 12', pg_temp.org()), null, 'Cliente 1 wants to be forgotten');
select is((select count(*) from public.message_queue q where q.job_type = 'erase_archived'), 2::bigint, 'each file that he is in is to be written anew');
update claims set claim = pg_temp.claim('erase_archived');
create temporary table rewrite as select public.continue_archive_erasure((select claim from claims)) as told;
create temporary table others as
select string_agg(line || E'\n', '' order by n) as content
from rewrite r
join files f on f.id = (r.told ->> 'archive_id')::uuid
cross join lateral string_to_table(rtrim(f.content, E'\n'), E'\n') with ordinality as l (line, n)
where line::jsonb ->> 'conversation_id' <> md5('c' || md5('clinic1')::uuid)::uuid::text;
select throws_ok(
  $$ select public.finish_archive_erasure((select claim from claims), (select (told ->> 'archive_id')::uuid from rewrite),
    pg_temp.report(split_part((select content from others), E'\n', 1) || E'\n')
      || jsonb_build_object('new_path', (select told ->> 'new_path' from rewrite), 'conversation_ids', (select told -> 'conversation_ids' from rewrite))) $$,
  'BL924', null, 'a file without somebody else''s messages is not taken');
select is(
  public.finish_archive_erasure((select claim from claims), (select (told ->> 'archive_id')::uuid from rewrite),
    pg_temp.report((select content from others))
      || jsonb_build_object('new_path', (select told ->> 'new_path' from rewrite), 'conversation_ids', (select told -> 'conversation_ids' from rewrite))) ->> 'action',
  'again', 'one with all of theirs is');

select * from finish();
rollback;
