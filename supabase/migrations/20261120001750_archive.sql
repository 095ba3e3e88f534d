-- The archive: what was said more than two years ago, out of the way and still there.
--
-- Messages of closed conversations go by the month: once all of a month is past its organization's retention, its messages are
-- laid down as text (archive_lines), written into a file in Storage (NDJSON, gzip), read back from there, and only when what was
-- read is what was laid down do the rows go. Whatever breaks off in between is taken up again where it was; a message that
-- changed meanwhile stays, and goes with a later file. Analytics look back 400 days, and notice nothing.
--
-- A person who is erased is taken out of the files, too: each of them is written anew without what he and the business said.

create type public.archive_status as enum ('laid_down', 'stored', 'completed');

create table public.message_archives (
  organization_id uuid not null,
  id uuid not null default private.uuid_v7(),
  month date not null,
  status public.archive_status not null default 'laid_down',
  version int not null default 1,
  storage_path text not null,
  stale_path text,
  row_count int not null,
  content_sha256 text not null,
  content_bytes bigint not null,
  file_sha256 text,
  file_bytes bigint,
  stored_at timestamptz,
  completed_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint message_archives_pkey primary key (organization_id, id),
  constraint message_archives_organization_id_fkey foreign key (organization_id) references public.organizations (id),
  constraint message_archives_stored_is_verified_check check (status = 'laid_down' or num_nulls(file_sha256, file_bytes, stored_at) = 0)
);
comment on table public.message_archives is 'Files of old messages, one or more a month. Written by the worker; each has a manifest beside it (storage_path || ''.manifest.json'').';
comment on column public.message_archives.month is 'In UTC, of messages.created_at.';
comment on column public.message_archives.status is 'laid_down: nothing of it has left the tables; stored: the file was read back, the rows are going; completed: they are gone.';
comment on column public.message_archives.version is 'Goes up when somebody is erased from it: then it is another file.';
comment on column public.message_archives.storage_path is 'In the bucket "archive": NDJSON, gzip, a row of messages in each line.';
comment on column public.message_archives.stale_path is 'The file of the version before, until it is deleted.';
comment on column public.message_archives.content_sha256 is 'Of the lines, before they are compressed; file_sha256 is the file''s as it was read back.';

alter table public.message_archives enable row level security;
alter table public.message_archives force row level security;
create policy "Admins can read their organization's archives" on public.message_archives
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.message_archives from public, anon, authenticated, service_role;
grant select on public.message_archives to authenticated, service_role;
create trigger message_archives_100_touch_updated_at
  before update on public.message_archives
  for each row execute function private.tg_touch_updated_at();

create table private.archived_conversations (
  organization_id uuid not null,
  conversation_id uuid not null,
  archive_id uuid not null,
  message_count int not null,
  constraint archived_conversations_pkey primary key (organization_id, conversation_id, archive_id),
  constraint archived_conversations_archive_id_fkey foreign key (organization_id, archive_id)
    references public.message_archives (organization_id, id) on delete cascade
);
comment on table private.archived_conversations is 'Which files hold what was said in a conversation.';
create index archived_conversations_archive_id_idx on private.archived_conversations (organization_id, archive_id);
alter table private.archived_conversations enable row level security;
alter table private.archived_conversations force row level security;
revoke all on private.archived_conversations from public, anon, authenticated, service_role;

create table private.archive_lines (
  organization_id uuid not null,
  archive_id uuid not null,
  message_id uuid not null,
  line text not null,
  constraint archive_lines_pkey primary key (organization_id, archive_id, message_id),
  constraint archive_lines_archive_id_fkey foreign key (organization_id, archive_id)
    references public.message_archives (organization_id, id) on delete cascade
);
comment on table private.archive_lines is 'Messages on their way into a file; each goes with its message.';
alter table private.archive_lines enable row level security;
alter table private.archive_lines force row level security;
revoke all on private.archive_lines from public, anon, authenticated, service_role;

do $$
begin
  if to_regclass('storage.objects') is null then
    raise notice 'There is no schema "storage": the bucket "archive" and its policy are left out';
    return;
  end if;
  insert into storage.buckets (id, name, public)
  values ('archive', 'archive', false)
  on conflict (id) do update set public = false;
  create policy "Admins can read their organization's archive" on storage.objects
    for select to authenticated
    using (
      bucket_id = 'archive'
      and (storage.foldername(name))[1] = any ((select private.member_organizations('admin'))::text[])
    );
end;
$$;

-- What is due -------------------------------------------------------------------------------------------------------------------

create function private.archive_line(message public.messages)
returns text
language plpgsql
stable
set search_path = ''
-- The same message is the same line, whoever asks.
set timezone = 'UTC'
as $$
begin
  return jsonb_strip_nulls(to_jsonb(message))::text;
end;
$$;
comment on function private.archive_line(public.messages) is 'A message in the archive: its columns, but for those that are null.';

create function private.messages_to_archive(organization_id uuid, from_moment timestamptz, before timestamptz, max_rows int)
returns setof public.messages
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set max_parallel_workers_per_gather = 0
as $$
declare
  -- Once, not for each row: then it is where the index is read to.
  youngest constant uuid := private.uuid_v7(before);
begin
  return query
  select m.*
  from public.messages m
  where m.organization_id = messages_to_archive.organization_id
    -- Ids grow with the time: nothing that is young is looked at. What was brought in with a time of its own counts from when it came.
    and m.id < youngest
    and m.created_at >= from_moment
    and m.created_at < before
    and exists (
      select
      from public.conversations v
      where v.organization_id = m.organization_id and v.id = m.conversation_id and not v.is_open
    )
  order by m.organization_id, m.id
  limit max_rows;
end;
$$;
comment on function private.messages_to_archive(uuid, timestamptz, timestamptz, int) is
  'Messages of closed conversations from between two moments, oldest first.';

create function private.enqueue_due_archives(at timestamptz default now())
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  jobs private.new_job[];
  enqueued bigint := 0;
begin
  select array_agg(row(
    o.id, 'archive_messages', jsonb_build_object('before', d.before), 90, null, null, 'archive:' || (at at time zone 'UTC')::date, 20
  )::private.new_job)
  into jobs
  from private.retention_cutoffs('messages', at) c
  join public.organizations o on o.id = c.organization_id and o.closed_at is null
  -- Whole months: a file of each day would be many.
  cross join lateral (select date_trunc('month', c.cutoff, 'UTC') as before) d
  where exists (select from private.messages_to_archive(o.id, '-infinity', d.before, 1))
    -- Begun, and given up.
    or exists (select from public.message_archives a where a.organization_id = o.id and a.status <> 'completed');
  if jobs is not null then
    select count(*) into enqueued from private.enqueue_jobs(jobs);
  end if;
  return enqueued;
end;
$$;
comment on function private.enqueue_due_archives(timestamptz) is
  'Brings a job for each organization with messages of months that are past its retention; returns how many.';

-- Writing a file ----------------------------------------------------------------------------------------------------------------

create function private.content_digest(organization_id uuid, archive_id uuid)
returns text
language plpgsql
stable
set search_path = ''
as $$
begin
  return (
    select encode(sha256(convert_to(coalesce(string_agg(l.line || E'\n', '' order by l.message_id), ''), 'UTF8')), 'hex')
    from private.archive_lines l
    where l.organization_id = content_digest.organization_id and l.archive_id = content_digest.archive_id
  );
end;
$$;
comment on function private.content_digest(uuid, uuid) is 'Of the lines that were laid down, in the order of their messages.';

create function private.lay_down_archive(organization_id uuid, before timestamptz, batch_size int)
returns public.message_archives
language plpgsql
volatile
set search_path = ''
as $$
declare
  archive public.message_archives;
begin
  archive.organization_id := lay_down_archive.organization_id;
  archive.id := private.uuid_v7();
  select date_trunc('month', m.created_at, 'UTC') at time zone 'UTC' into archive.month
  from private.messages_to_archive(organization_id, '-infinity', before, 1) m;
  if not found then
    return null;
  end if;
  archive.storage_path := format('%s/%s/%s.ndjson.gz', archive.organization_id, to_char(archive.month, 'YYYY/MM'), archive.id);
  insert into public.message_archives (organization_id, id, month, storage_path, row_count, content_sha256, content_bytes)
  values (archive.organization_id, archive.id, archive.month, archive.storage_path, 0, '', 0);
  insert into private.archive_lines (organization_id, archive_id, message_id, line)
  select m.organization_id, archive.id, m.id, private.archive_line(m)
  from private.messages_to_archive(
    lay_down_archive.organization_id,
    archive.month::timestamp at time zone 'UTC',
    least(before, (archive.month + interval '1 month') at time zone 'UTC'),
    batch_size) m;
  insert into private.archived_conversations (organization_id, conversation_id, archive_id, message_count)
  select l.organization_id, m.conversation_id, l.archive_id, count(*)
  from private.archive_lines l
  join public.messages m on m.organization_id = l.organization_id and m.id = l.message_id
  where l.organization_id = archive.organization_id and l.archive_id = archive.id
  group by l.organization_id, m.conversation_id, l.archive_id;
  update public.message_archives a
  set row_count = c.row_count, content_bytes = c.content_bytes, content_sha256 = private.content_digest(a.organization_id, a.id)
  from (
    select count(*) as row_count, sum(octet_length(l.line) + 1) as content_bytes
    from private.archive_lines l
    where l.organization_id = archive.organization_id and l.archive_id = archive.id
  ) c
  where a.organization_id = archive.organization_id and a.id = archive.id
  returning a.* into archive;
  return archive;
end;
$$;
comment on function private.lay_down_archive(uuid, timestamptz, int) is 'The lines of the next file: up to batch_size messages of one month; null when there are none.';

create function private.archive_answer(archive public.message_archives)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return jsonb_build_object(
    'action', 'write',
    'archive_id', archive.id,
    'path', archive.storage_path,
    'manifest', jsonb_build_object(
      'format', 'balcao.messages/1',
      'organization_id', archive.organization_id,
      'archive_id', archive.id,
      'version', archive.version,
      'month', to_char(archive.month, 'YYYY-MM'),
      'row_count', archive.row_count,
      'content_sha256', archive.content_sha256,
      'content_bytes', archive.content_bytes));
end;
$$;
comment on function private.archive_answer(public.message_archives) is 'What the worker is told to write.';

create function private.lock_archive(organization_id uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('archive:' || organization_id, 0));
end;
$$;
comment on function private.lock_archive(uuid) is
  'Nothing is laid down while somebody is being erased, and nobody erased whose words are just being laid down: the one sees what the other did.';

create function private.archive_in_hand(organization_id uuid)
returns public.message_archives
language plpgsql
volatile
set search_path = ''
as $$
declare
  archive public.message_archives;
begin
  select a.* into archive
  from public.message_archives a
  where a.organization_id = archive_in_hand.organization_id and a.status <> 'completed'
  order by a.id
  limit 1
  for no key update;
  return archive;
end;
$$;
comment on function private.archive_in_hand(uuid) is 'The archive that an organization has begun and not ended, locked.';

create function private.continue_archive(job jsonb, batch_size int)
returns jsonb
language plpgsql
volatile
security definer -- reads and deletes messages, and ends jobs
set search_path = ''
set lock_timeout = '2s'
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  held constant public.message_queue := private.hold_job(job);
  archive public.message_archives;
  deleted bigint;
begin
  -- What was begun, whoever began it, before anything new.
  archive := private.archive_in_hand(held.organization_id);
  if archive.id is null then
    -- Two jobs of one organization write the same file, and never two of the same messages.
    perform private.lock_archive(held.organization_id);
    archive := private.archive_in_hand(held.organization_id);
  end if;
  if archive.id is null then
    archive := private.lay_down_archive(held.organization_id, (held.payload ->> 'before')::timestamptz, batch_size);
    if archive.id is null then
      return private.end_job(held, 'archived');
    end if;
  end if;
  if archive.status = 'laid_down' then
    if archive.row_count > 0 and not exists (
      select from private.archive_lines l where l.organization_id = archive.organization_id and l.archive_id = archive.id
    ) then
      -- It came here with a backup, which has none of them: its messages are there still.
      delete from public.message_archives a where a.organization_id = archive.organization_id and a.id = archive.id;
      return '{"action": "again"}'::jsonb;
    end if;
    return private.archive_answer(archive);
  end if;

  -- Its file is there, and was read back. What has changed since stays, for a later one.
  with going as (
    select l.message_id, l.line
    from private.archive_lines l
    where l.organization_id = archive.organization_id and l.archive_id = archive.id
    order by l.message_id
    limit 500
  ), gone as (
    delete from public.messages m
    using going g
    where m.organization_id = archive.organization_id and m.id = g.message_id and private.archive_line(m) = g.line
  )
  delete from private.archive_lines l
  using going g
  where l.organization_id = archive.organization_id and l.archive_id = archive.id and l.message_id = g.message_id;
  get diagnostics deleted = row_count;
  if deleted = 0 then
    update public.message_archives a
    set status = 'completed', completed_at = now()
    where a.organization_id = archive.organization_id and a.id = archive.id;
    perform private.append_audit_log(
      archive.organization_id, 'EVENT', 'messages.archived', 'message_archives', archive.id,
      jsonb_build_object('month', to_char(archive.month, 'YYYY-MM'), 'row_count', archive.row_count), null, null, null);
  end if;
  return '{"action": "again"}'::jsonb;
end;
$$;
comment on function private.continue_archive(jsonb, int) is 'See public.continue_archive().';
grant execute on function private.continue_archive(jsonb, int) to service_role;

create function public.continue_archive(job jsonb, batch_size int default 5000)
returns jsonb
language plpgsql
volatile
set search_path = ''
-- PostgREST takes this for the whole call: its own limit is made for requests.
set statement_timeout = '1min'
as $$
begin
  return private.continue_archive(job, batch_size);
end;
$$;
comment on function public.continue_archive(jsonb, int) is
  'For the worker, with a held job of type archive_messages: {action: write, archive_id, path, manifest} (a file to write, read back and report by finish_archive_file()), {action: again}, or {action: done, reason}. Secret key only. Errors: lease_lost.';
grant execute on function public.continue_archive(jsonb, int) to service_role;

create function private.read_archive_lines(job jsonb, archive_id uuid, after uuid)
returns jsonb
language plpgsql
volatile
security definer -- what is laid down is in "private"
set search_path = ''
as $$
declare
  held constant public.message_queue := private.hold_job(job);
begin
  return (
    select jsonb_build_object(
      'last', (array_agg(p.message_id order by p.message_id desc))[1],
      'content', coalesce(string_agg(p.line || E'\n', '' order by p.message_id), ''))
    from (
      select l.message_id, l.line
      from private.archive_lines l
      where l.organization_id = held.organization_id
        and l.archive_id = read_archive_lines.archive_id
        and (read_archive_lines.after is null or l.message_id > read_archive_lines.after)
      order by l.message_id
      limit 1000
    ) p
  );
end;
$$;
comment on function private.read_archive_lines(jsonb, uuid, uuid) is 'See public.read_archive_lines().';
grant execute on function private.read_archive_lines(jsonb, uuid, uuid) to service_role;

create function public.read_archive_lines(job jsonb, archive_id uuid, after uuid default null)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.read_archive_lines(job, archive_id, after);
end;
$$;
comment on function public.read_archive_lines(jsonb, uuid, uuid) is
  'For the worker: the next thousand lines of a file {last, content}; last is null after the end. Secret key only. Errors: lease_lost.';
grant execute on function public.read_archive_lines(jsonb, uuid, uuid) to service_role;

create function private.require_written(archive public.message_archives, report jsonb)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  if (
    report ->> 'content_sha256' = archive.content_sha256
    and (report ->> 'row_count')::bigint = archive.row_count
    and (report ->> 'content_bytes')::bigint = archive.content_bytes
    and report ->> 'file_sha256' ~ '^[0-9a-f]{64}$'
    and (report ->> 'file_bytes')::bigint > 0
  ) is not true then
    perform private.raise_error('BL924', 'archive_damaged', 'What was read back is not what was to be written',
      jsonb_build_object('archive_id', archive.id));
  end if;
end;
$$;
comment on function private.require_written(public.message_archives, jsonb) is 'Error archive_damaged, unless what the worker read back is what was laid down.';

create function private.finish_archive_file(job jsonb, archive_id uuid, report jsonb)
returns jsonb
language plpgsql
volatile
security definer -- the list is written by its functions only
set search_path = ''
as $$
declare
  held constant public.message_queue := private.hold_job(job);
  archive public.message_archives;
begin
  select a.* into archive
  from public.message_archives a
  where a.organization_id = held.organization_id and a.id = finish_archive_file.archive_id
  for no key update;
  if not found then
    perform private.raise_error('BL925', 'archive_not_found', 'This organization has no such archive');
  elsif archive.status = 'laid_down' then
    perform private.require_written(archive, report);
    update public.message_archives a
    set status = 'stored',
        stored_at = now(),
        file_sha256 = report ->> 'file_sha256',
        file_bytes = (report ->> 'file_bytes')::bigint
    where a.organization_id = archive.organization_id and a.id = archive.id;
  end if;
  return '{"action": "again"}'::jsonb;
end;
$$;
comment on function private.finish_archive_file(jsonb, uuid, jsonb) is 'See public.finish_archive_file().';
grant execute on function private.finish_archive_file(jsonb, uuid, jsonb) to service_role;

create function public.finish_archive_file(job jsonb, archive_id uuid, report jsonb)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.finish_archive_file(job, archive_id, report);
end;
$$;
comment on function public.finish_archive_file(jsonb, uuid, jsonb) is
  'For the worker: what it read back from Storage {row_count, content_sha256, content_bytes, file_sha256, file_bytes}. Only then are the messages deleted. Secret key only. Errors: lease_lost, archive_not_found, archive_damaged.';
grant execute on function public.finish_archive_file(jsonb, uuid, jsonb) to service_role;

-- Reading it back ---------------------------------------------------------------------------------------------------------------

create function private.list_archived_messages(conversation_id uuid, contact_id uuid, organization_id uuid)
returns table (archive_id uuid, month date, conversation_ids uuid[], message_count bigint, storage_path text, file_sha256 text, file_bytes bigint)
language plpgsql
stable
security definer -- which conversation is where is in "private"
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  contact_ids uuid[];
begin
  perform private.require_role(organization_id, 'admin');
  if contact_id is not null then
    contact_ids := private.contacts_of(organization_id, contact_id);
  end if;
  return query
  select
    a.id, a.month, array_agg(c.conversation_id order by c.conversation_id), sum(c.message_count),
    a.storage_path, a.file_sha256, a.file_bytes
  from public.conversations v
  join private.archived_conversations c on c.organization_id = v.organization_id and c.conversation_id = v.id
  join public.message_archives a on a.organization_id = c.organization_id and a.id = c.archive_id
  where v.organization_id = list_archived_messages.organization_id
    and (v.id = list_archived_messages.conversation_id or v.contact_id = any (contact_ids))
    and a.status <> 'laid_down'
  group by a.organization_id, a.id
  order by a.id;
end;
$$;
comment on function private.list_archived_messages(uuid, uuid, uuid) is 'See public.list_archived_messages().';
grant execute on function private.list_archived_messages(uuid, uuid, uuid) to authenticated, service_role;

create function public.list_archived_messages(
  conversation_id uuid default null,
  contact_id uuid default null,
  organization_id uuid default public.user_organization_id()
)
returns table (archive_id uuid, month date, conversation_ids uuid[], message_count bigint, storage_path text, file_sha256 text, file_bytes bigint)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query select a.* from private.list_archived_messages(conversation_id, contact_id, organization_id) a;
end;
$$;
comment on function public.list_archived_messages(uuid, uuid, uuid) is
  'Which files of the bucket "archive" hold what was said in a conversation, or with a contact: download storage_path, unpack it (gzip), and keep the lines whose conversation_id is wanted; of a message that is in two of them, or in messages still, the newer one is right. Admins and up. Errors: not_allowed, contact_not_found.';
grant execute on function public.list_archived_messages(uuid, uuid, uuid) to authenticated, service_role;

-- Taking an erased person out of it -----------------------------------------------------------------------------------------------

create function private.tg_erasures__erase_archived()
returns trigger
language plpgsql
volatile
security definer -- the queue is written through its functions only
set search_path = ''
as $$
begin
  perform private.lock_archive(new.organization_id);
  perform from private.enqueue_jobs(array(
    select row(
      new.organization_id, 'erase_archived', jsonb_build_object('archive_id', c.archive_id, 'erasure_id', new.id), 60, null, null,
      'erase_archived:' || new.id || ':' || c.archive_id, 100
    )::private.new_job
    from private.archived_conversations c
    join public.conversations v on v.organization_id = c.organization_id and v.id = c.conversation_id
    where v.organization_id = new.organization_id and v.contact_id = any (new.contact_ids)
    group by c.archive_id
    order by c.archive_id
  ));
  return null;
end;
$$;
comment on function private.tg_erasures__erase_archived() is 'Trigger: each file with what an erased person said is written anew without it.';
create trigger erasures_900_erase_archived
  after insert on private.erasures
  for each row execute function private.tg_erasures__erase_archived();

create function private.erased_conversations_in(organization_id uuid, archive_id uuid)
returns uuid[]
language plpgsql
stable
set search_path = ''
as $$
begin
  return array(
    select c.conversation_id
    from private.archived_conversations c
    join public.conversations v on v.organization_id = c.organization_id and v.id = c.conversation_id
    join public.contacts p on p.organization_id = v.organization_id and p.id = v.contact_id
    where c.organization_id = erased_conversations_in.organization_id
      and c.archive_id = erased_conversations_in.archive_id
      and p.erased_at is not null
    order by c.conversation_id
  );
end;
$$;
comment on function private.erased_conversations_in(uuid, uuid) is 'Conversations of erased persons that a file still holds.';

create function private.continue_archive_erasure(job jsonb)
returns jsonb
language plpgsql
volatile
security definer -- reads contacts, and ends jobs
set search_path = ''
as $$
declare
  held constant public.message_queue := private.hold_job(job);
  archive public.message_archives;
  erased uuid[];
begin
  select a.* into archive
  from public.message_archives a
  where a.organization_id = held.organization_id and a.id = private.id_in(held.payload, 'archive_id')
  for no key update;
  if not found then
    return private.end_job(held, 'archive_gone');
  elsif archive.status <> 'completed' then
    -- What is laid down goes into the file first, and is taken out of it then.
    return private.put_off_job(held, now() + interval '1 minute', 'waits_for_the_archive');
  elsif archive.stale_path is not null then
    return jsonb_build_object(
      'action', 'remove', 'bucket', 'archive', 'paths', jsonb_build_array(archive.stale_path, archive.stale_path || '.manifest.json'),
      'archive_id', archive.id);
  end if;
  erased := private.erased_conversations_in(archive.organization_id, archive.id);
  if cardinality(erased) = 0 then
    return private.end_job(held, 'erased');
  end if;
  return jsonb_build_object(
    'action', 'rewrite',
    'archive_id', archive.id,
    'path', archive.storage_path,
    'file_sha256', archive.file_sha256,
    'new_path', format('%s/%s/%s.%s.ndjson.gz', archive.organization_id, to_char(archive.month, 'YYYY/MM'), archive.id, archive.version + 1),
    'conversation_ids', erased,
    'manifest', private.archive_answer(archive) -> 'manifest' || jsonb_build_object('version', archive.version + 1));
end;
$$;
comment on function private.continue_archive_erasure(jsonb) is 'See public.continue_archive_erasure().';
grant execute on function private.continue_archive_erasure(jsonb) to service_role;

create function public.continue_archive_erasure(job jsonb)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.continue_archive_erasure(job);
end;
$$;
comment on function public.continue_archive_erasure(jsonb) is
  'For the worker, with a held job of type erase_archived: {action: rewrite, archive_id, path, file_sha256, new_path, conversation_ids, manifest} (write the file anew without these conversations, and report by finish_archive_erasure()), {action: remove, bucket, paths, archive_id} (then note_archive_file_removed()), or {action: done, reason}. Secret key only. Errors: lease_lost.';
grant execute on function public.continue_archive_erasure(jsonb) to service_role;

create function private.finish_archive_erasure(job jsonb, archive_id uuid, report jsonb)
returns jsonb
language plpgsql
volatile
security definer -- the list is written by its functions only
set search_path = ''
as $$
declare
  held constant public.message_queue := private.hold_job(job);
  archive public.message_archives;
  conversation_ids constant uuid[] := array(select jsonb_array_elements_text(report -> 'conversation_ids')::uuid);
  erased_rows bigint;
begin
  select a.* into archive
  from public.message_archives a
  where a.organization_id = held.organization_id and a.id = finish_archive_erasure.archive_id
  for no key update;
  if not found then
    perform private.raise_error('BL925', 'archive_not_found', 'This organization has no such archive');
  elsif archive.storage_path = report ->> 'new_path' then
    return '{"action": "again"}'::jsonb;
  end if;
  select coalesce(sum(c.message_count), 0) into erased_rows
  from private.archived_conversations c
  where c.organization_id = archive.organization_id and c.archive_id = archive.id and c.conversation_id = any (conversation_ids);
  -- Nobody else's messages go with his.
  if (report ->> 'row_count')::bigint is distinct from archive.row_count - erased_rows then
    perform private.raise_error('BL924', 'archive_damaged', 'What was read back is not what was to be written',
      jsonb_build_object('archive_id', archive.id));
  end if;
  archive.row_count := archive.row_count - erased_rows;
  archive.content_sha256 := report ->> 'content_sha256';
  archive.content_bytes := (report ->> 'content_bytes')::bigint;
  perform private.require_written(archive, report);
  update public.message_archives a
  set stale_path = a.storage_path,
      storage_path = report ->> 'new_path',
      version = a.version + 1,
      row_count = archive.row_count,
      content_sha256 = archive.content_sha256,
      content_bytes = archive.content_bytes,
      file_sha256 = report ->> 'file_sha256',
      file_bytes = (report ->> 'file_bytes')::bigint,
      stored_at = now()
  where a.organization_id = archive.organization_id and a.id = archive.id;
  delete from private.archived_conversations c
  where c.organization_id = archive.organization_id and c.archive_id = archive.id and c.conversation_id = any (conversation_ids);
  return '{"action": "again"}'::jsonb;
end;
$$;
comment on function private.finish_archive_erasure(jsonb, uuid, jsonb) is 'See public.finish_archive_erasure().';
grant execute on function private.finish_archive_erasure(jsonb, uuid, jsonb) to service_role;

create function public.finish_archive_erasure(job jsonb, archive_id uuid, report jsonb)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.finish_archive_erasure(job, archive_id, report);
end;
$$;
comment on function public.finish_archive_erasure(jsonb, uuid, jsonb) is
  'For the worker: the new file was read back {new_path, conversation_ids, row_count, content_sha256, content_bytes, file_sha256, file_bytes}; from now on it is the one. Secret key only. Errors: lease_lost, archive_not_found, archive_damaged.';
grant execute on function public.finish_archive_erasure(jsonb, uuid, jsonb) to service_role;

create function private.note_archive_file_removed(job jsonb, archive_id uuid, path text)
returns void
language plpgsql
volatile
security definer -- the list is written by its functions only
set search_path = ''
as $$
declare
  held constant public.message_queue := private.hold_job(job);
begin
  update public.message_archives a
  set stale_path = null
  where a.organization_id = held.organization_id and a.id = note_archive_file_removed.archive_id and a.stale_path = note_archive_file_removed.path;
end;
$$;
comment on function private.note_archive_file_removed(jsonb, uuid, text) is 'See public.note_archive_file_removed().';
grant execute on function private.note_archive_file_removed(jsonb, uuid, text) to service_role;

create function public.note_archive_file_removed(job jsonb, archive_id uuid, path text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform private.note_archive_file_removed(job, archive_id, path);
end;
$$;
comment on function public.note_archive_file_removed(jsonb, uuid, text) is 'For the worker: the file of the version before is gone. Secret key only. Errors: lease_lost.';
grant execute on function public.note_archive_file_removed(jsonb, uuid, text) to service_role;
