-- Backups: one tenant as it was at one instant, in one encrypted file in Storage; and from there into another project.
--
-- The instant: everything is copied by ONE statement, which sees one snapshot however long it takes and whoever writes meanwhile.
-- The Data API cannot hold a snapshot over several calls, so the copy is laid down as text beside the tables (backup_chunks); the
-- function tenant-backup reads it chunk by chunk, encrypts and uploads it, and nothing of it stays behind.
--
-- The way back is the same in reverse: the chunks of a file are laid down (restore_chunks), then ONE transaction makes a tenant of
-- them, compares what it wrote with what was backed up, table by table, and is rolled back when there is a difference.

-- backup_metadata -------------------------------------------------------------------------------------------------------

create type public.backup_type as enum ('daily', 'weekly', 'manual');
create type public.backup_status as enum ('pending', 'running', 'completed', 'failed', 'expired');

create table public.backup_metadata (
  organization_id uuid not null,
  id uuid not null default private.uuid_v7(),
  backup_type public.backup_type not null,
  status public.backup_status not null default 'pending',
  scheduled_on date,
  storage_path text,
  checksum text,
  size_bytes bigint,
  row_counts jsonb,
  key_id text,
  error text,
  requested_by uuid,
  started_at timestamptz,
  completed_at timestamptz,
  expires_at timestamptz,
  file_removed_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint backup_metadata_pkey primary key (organization_id, id),
  constraint backup_metadata_organization_id_fkey foreign key (organization_id) references public.organizations (id),
  constraint backup_metadata_completed_has_a_file_check check (
    status <> 'completed' or num_nulls(storage_path, checksum, size_bytes, row_counts, key_id, completed_at, expires_at) = 0
  ),
  constraint backup_metadata_checksum_format_check check (checksum ~ '^[0-9a-f]{64}$'),
  constraint backup_metadata_row_counts_is_object_check check (jsonb_typeof(row_counts) = 'object')
);
comment on table public.backup_metadata is 'A tenant''s backups: what was made when, where the file lies and until when. Written by the function tenant-backup.';
comment on column public.backup_metadata.scheduled_on is 'The day, in the organization''s zone, that a daily or weekly backup is of; null: somebody asked for it.';
comment on column public.backup_metadata.storage_path is 'In the bucket "backups", which nobody reads but the platform.';
comment on column public.backup_metadata.checksum is 'SHA-256 of the file as it was read back after the upload.';
comment on column public.backup_metadata.row_counts is 'Rows by table.';
comment on column public.backup_metadata.key_id is 'Which of BALCAO_ENCRYPTION_KEYS opens it: that key is needed as long as the backup is.';
comment on column public.backup_metadata.started_at is 'The instant that it shows.';
create unique index backup_metadata_one_a_day_idx on public.backup_metadata (organization_id, scheduled_on)
  where scheduled_on is not null;
comment on index public.backup_metadata_one_a_day_idx is 'However often the clock asks.';
create index backup_metadata_expires_at_idx on public.backup_metadata (expires_at) where status = 'completed';
create index backup_metadata_file_to_remove_idx on public.backup_metadata (organization_id, id)
  where status in ('expired', 'failed') and storage_path is not null and file_removed_at is null;

alter table public.backup_metadata enable row level security;
alter table public.backup_metadata force row level security;
create policy "Owners can read their organization's backups" on public.backup_metadata
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('owner'))::uuid[]));
revoke all on public.backup_metadata from public, anon, authenticated, service_role;
grant select on public.backup_metadata to authenticated, service_role;

create trigger backup_metadata_100_touch_updated_at
  before update on public.backup_metadata
  for each row execute function private.tg_touch_updated_at();

do $$
begin
  if to_regclass('storage.buckets') is null then
    raise notice 'There is no schema "storage": the bucket "backups" is left out';
    return;
  end if;
  -- No policy: only the secret key reads and writes it.
  insert into storage.buckets (id, name, public)
  values ('backups', 'backups', false)
  on conflict (id) do update set public = false;
end;
$$;

-- What is laid down on the way --------------------------------------------------------------------------------------------

create table private.backup_leases (
  organization_id uuid not null,
  backup_id uuid not null,
  token uuid not null default gen_random_uuid(),
  expires_at timestamptz not null,
  constraint backup_leases_pkey primary key (organization_id),
  constraint backup_leases_backup_id_fkey foreign key (organization_id, backup_id)
    references public.backup_metadata (organization_id, id)
);
comment on table private.backup_leases is 'Who is making a backup of a tenant: one at a time, and nobody for long after he died.';
alter table private.backup_leases enable row level security;
alter table private.backup_leases force row level security;
revoke all on private.backup_leases from public, anon, authenticated, service_role;

create table private.backup_chunks (
  organization_id uuid not null,
  backup_id uuid not null,
  table_name text collate "C" not null,
  number bigint not null,
  row_count bigint not null,
  content text not null,
  constraint backup_chunks_pkey primary key (organization_id, backup_id, table_name, number),
  constraint backup_chunks_backup_id_fkey foreign key (organization_id, backup_id)
    references public.backup_metadata (organization_id, id) on delete cascade
);
comment on table private.backup_chunks is 'A backup on its way into its file; gone once it is there.';
comment on column private.backup_chunks.content is 'A line for each row: a JSON array of its columns, each as Postgres writes it, so that nothing is lost in between.';
alter table private.backup_chunks enable row level security;
alter table private.backup_chunks force row level security;
revoke all on private.backup_chunks from public, anon, authenticated, service_role;

create table private.restores (
  organization_id uuid not null,
  id uuid not null default private.uuid_v7(),
  backup_id uuid not null,
  status public.backup_status not null default 'running',
  token uuid not null default gen_random_uuid(),
  lease_expires_at timestamptz not null,
  manifest jsonb not null,
  held jsonb,
  error text,
  started_at timestamptz not null default now(),
  completed_at timestamptz,
  released_at timestamptz,
  constraint restores_pkey primary key (organization_id, id),
  constraint restores_manifest_is_object_check check (jsonb_typeof(manifest) = 'object'),
  constraint restores_held_is_object_check check (jsonb_typeof(held) = 'object')
);
comment on table private.restores is 'What was restored into this project, and what of it still waits to be let go. No foreign key: the tenant comes at the end.';
comment on column private.restores.held is 'What release_restored_organization() puts back: numbers, endpoints and jobs as they were.';
create unique index restores_one_at_a_time_idx on private.restores (organization_id) where status = 'running';
alter table private.restores enable row level security;
alter table private.restores force row level security;
revoke all on private.restores from public, anon, authenticated, service_role;

create table private.restore_chunks (
  organization_id uuid not null,
  restore_id uuid not null,
  table_name text collate "C" not null,
  number bigint not null,
  content text not null,
  constraint restore_chunks_pkey primary key (organization_id, restore_id, table_name, number),
  constraint restore_chunks_restore_id_fkey foreign key (organization_id, restore_id)
    references private.restores (organization_id, id) on delete cascade
);
comment on table private.restore_chunks is 'A file on its way into the tables; gone once it is there.';
alter table private.restore_chunks enable row level security;
alter table private.restore_chunks force row level security;
revoke all on private.restore_chunks from public, anon, authenticated, service_role;

-- What belongs to a tenant --------------------------------------------------------------------------------------------

create function private.tables_not_backed_up()
returns table (table_name text, reason text)
language sql
immutable
set search_path = ''
as $$
  values
    ('public.backup_metadata', 'speaks of files that the other project has not got'),
    ('private.backup_leases', 'of a backup that is being made'),
    ('private.backup_chunks', 'of a backup that is being made'),
    ('private.restores', 'of this project, not of the tenant'),
    ('private.purges', 'of this project, not of the tenant'),
    ('private.archive_lines', 'of a file that is being written: the messages are in it still'),
    ('private.restore_chunks', 'of a restore that is being made'),
    ('private.contact_partings', 'is compared with transactions of this database, and forgotten after a day')
$$;
comment on function private.tables_not_backed_up() is 'Tables with tenants'' rows that no backup holds, and why. Every other one is in it by itself.';

create function private.backup_tables()
returns table (table_name text, columns text[])
language sql
stable
set search_path = ''
as $$
  select
    format('%I.%I', n.nspname, c.relname),
    -- What is generated, or numbered by the database, is made anew.
    array_agg(a.attname::text order by a.attnum) filter (where a.attgenerated = '' and a.attidentity = '')
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  where n.nspname in ('public', 'private')
    and c.relkind in ('r', 'p')
    and not c.relispartition
    and format('%I.%I', n.nspname, c.relname) not in (select x.table_name from private.tables_not_backed_up() x)
  group by n.nspname, c.relname
  having bool_or(a.attname = 'organization_id') or (n.nspname = 'public' and c.relname = 'organizations')
$$;
comment on function private.backup_tables() is 'The tables with tenants'' rows and their columns, out of the catalog: a new table is backed up from its first day.';

create function private.member_columns(relation regclass)
returns table (column_name text, is_required boolean)
language sql
stable
set search_path = ''
as $$
  select distinct a.attname::text, a.attnotnull
  from pg_catalog.pg_constraint k
  cross join lateral unnest(k.conkey, k.confkey) as pair (attnum, referenced)
  join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = pair.attnum
  join pg_catalog.pg_attribute r on r.attrelid = k.confrelid and r.attnum = pair.referenced
  where k.contype = 'f'
    and k.conrelid = member_columns.relation
    and (k.confrelid = 'public.user_roles'::regclass and r.attname = 'user_id' or k.confrelid = 'auth.users'::regclass and r.attname = 'id')
$$;
comment on function private.member_columns(regclass) is 'Columns that name a person, whose id may be another one in another project.';

create function private.tenant_rows_query(tables jsonb, with_members boolean)
returns text
language plpgsql
stable
set search_path = ''
as $$
declare
  given record;
  relation regclass;
  tenant_column text;
  expressions text;
  sort_key text;
  branches text[] := '{}'::text[];
begin
  for given in
    select t ->> 'table_name' as table_name, array(select jsonb_array_elements_text(t -> 'columns')) as columns
    from jsonb_array_elements(tables) t
  loop
    relation := given.table_name::regclass;
    tenant_column := case relation when 'public.organizations'::regclass then 'id' else 'organization_id' end;
    select string_agg(
      case
        when with_members and c.column_name in (select m.column_name from private.member_columns(relation) m)
          then format('coalesce($3 ->> t.%I::text, t.%1$I::text)', c.column_name)
        else format('t.%I::text', c.column_name)
      end, ', ' order by c.position)
    into expressions
    from unnest(given.columns) with ordinality as c (column_name, position);
    -- Numbered rows in the order of their numbers, which are given anew in that order; others by their key, in one order everywhere.
    select coalesce(
      (
        select format('t.%I', a.attname)
        from pg_catalog.pg_attribute a
        where a.attrelid = relation and a.attidentity <> '' and not a.attisdropped
      ),
      (
        select string_agg(format('t.%I%s', a.attname, case when a.attcollation <> 0 then ' collate "C"' else '' end), ', ' order by k.position)
        from pg_catalog.pg_index i
        cross join lateral unnest(i.indkey::int2[]) with ordinality as k (attnum, position)
        join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
        where i.indrelid = relation and i.indisprimary
      ))
    into sort_key;
    branches := branches || format(
      'select %L::text as table_name, l.n, l.line
       from (
         select row_number() over (order by %s) as n, to_json(array[%s]::text[])::text as line
         from %s t
         where t.%I = $1
       ) l', given.table_name, sort_key, expressions, relation, tenant_column);
  end loop;
  return private.chunks_query(branches);
end;
$$;
comment on function private.tenant_rows_query(jsonb, boolean) is
  'One statement for all rows of the tenant $1 in chunks of about a megabyte {table_name, number, row_count, content}; with_members: people by the ids that $3 has for theirs.';

create function private.chunks_query(branches text[])
returns text
language sql
immutable
set search_path = ''
as $$
  select string_agg(
    'select b.table_name, b.chunk as number, count(*) as row_count, string_agg(b.line, E''\n'' order by b.n) as content
     from (
       select s.*, (sum(octet_length(s.line)) over (order by s.n rows unbounded preceding) - octet_length(s.line)) / 1000000 as chunk
       from (' || branch || ') s
     ) b
     group by b.table_name, b.chunk', ' union all ')
  from unnest(branches) branch
$$;
comment on function private.chunks_query(text[]) is 'Queries of (table_name, n, line) as one query of chunks.';

-- Asking for a backup ----------------------------------------------------------------------------------------------------

create function private.enqueue_backups(backups public.backup_metadata[], run_at timestamptz)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform from private.enqueue_jobs(array(
    select row(
      b.organization_id, 'back_up_tenant', jsonb_build_object('backup_id', b.id), 60, enqueue_backups.run_at, null, 'backup:' || b.id, 6
    )::private.new_job
    from unnest(backups) b
  ));
end;
$$;
comment on function private.enqueue_backups(public.backup_metadata[], timestamptz) is 'Each backup is a job of its tenant''s, behind everything that people wait for.';

create function private.create_backup(organization_id uuid, runs_at_once boolean)
returns public.backup_metadata
language plpgsql
volatile
security definer -- the list is written by its functions only
set search_path = ''
as $$
declare
  backup public.backup_metadata;
begin
  perform private.require_role(organization_id, 'owner');
  if not exists (select from public.organizations o where o.id = create_backup.organization_id) then
    perform private.raise_error('BL100', 'organization_not_found', 'There is no such organization');
  end if;
  if (
    select count(*) >= 10
    from public.backup_metadata b
    where b.organization_id = create_backup.organization_id and b.backup_type = 'manual' and b.status in ('pending', 'running', 'completed')
  ) then
    perform private.raise_error('BL933', 'too_many_backups', 'Ten backups that somebody asked for are kept already', '{}',
      'They go after the retention of daily backups; the daily and weekly ones do not count');
  end if;
  insert into public.backup_metadata (organization_id, backup_type, requested_by)
  values (create_backup.organization_id, 'manual', auth.uid())
  returning * into backup;
  -- Whoever makes it at once may die of it: then the job does it.
  perform private.enqueue_backups(array[backup], case when runs_at_once then now() + interval '3 minutes' else now() end);
  return backup;
end;
$$;
comment on function private.create_backup(uuid, boolean) is 'See public.create_backup().';
grant execute on function private.create_backup(uuid, boolean) to authenticated, service_role;

create function public.create_backup(organization_id uuid default public.user_organization_id(), runs_at_once boolean default false)
returns public.backup_metadata
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.create_backup(organization_id, runs_at_once);
end;
$$;
comment on function public.create_backup(uuid, boolean) is
  'Asks for a backup now: a job makes it, and its row in backup_metadata tells how it went. runs_at_once is for the function tenant-backup, which makes it itself. Owners. Errors: not_allowed, organization_not_found, too_many_backups.';
grant execute on function public.create_backup(uuid, boolean) to authenticated, service_role;

create function private.list_backups(organization_id uuid, backup_id uuid)
returns setof public.backup_metadata
language plpgsql
stable
security definer -- an answer not_allowed says more than an empty list
set search_path = ''
as $$
begin
  perform private.require_role(organization_id, 'owner');
  return query
  select b.*
  from public.backup_metadata b
  where b.organization_id = list_backups.organization_id and (list_backups.backup_id is null or b.id = list_backups.backup_id)
  order by b.created_at desc, b.id desc
  limit 500;
end;
$$;
comment on function private.list_backups(uuid, uuid) is 'See public.list_backups().';
grant execute on function private.list_backups(uuid, uuid) to authenticated, service_role;

create function public.list_backups(organization_id uuid default public.user_organization_id(), backup_id uuid default null)
returns setof public.backup_metadata
language plpgsql
stable
set search_path = ''
as $$
begin
  return query select b.* from private.list_backups(organization_id, backup_id) b;
end;
$$;
comment on function public.list_backups(uuid, uuid) is 'An organization''s backups, newest first, or one of them. Owners. Errors: not_allowed.';
grant execute on function public.list_backups(uuid, uuid) to authenticated, service_role;

create function private.enqueue_due_backups(at timestamptz default now())
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  due public.backup_metadata[];
  made public.backup_metadata;
begin
  for made in
    insert into public.backup_metadata (organization_id, backup_type, scheduled_on)
    select
      o.id,
      case extract(isodow from at at time zone o.timezone) when 7 then 'weekly' else 'daily' end::public.backup_type,
      (at at time zone o.timezone)::date
    from public.organizations o
    where o.closed_at is null
      and extract(hour from at at time zone o.timezone) >= 2
      and not exists (
        select
        from public.backup_metadata b
        where b.organization_id = o.id and b.scheduled_on = (at at time zone o.timezone)::date
      )
    order by o.id
    on conflict (organization_id, scheduled_on) where scheduled_on is not null do nothing
    returning *
  loop
    due := due || made;
  end loop;
  if due is not null then
    perform private.enqueue_backups(due, now());
  end if;
  return coalesce(cardinality(due), 0);
end;
$$;
comment on function private.enqueue_due_backups(timestamptz) is
  'From two o''clock on each organization''s own clock its backup of the day is due, on Sundays the weekly one; returns how many became so. What was missed at two is made later that day.';

-- Making one ------------------------------------------------------------------------------------------------------------

create function private.drop_backup_lease(organization_id uuid, backup_id uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  delete from private.backup_leases l
  where l.organization_id = drop_backup_lease.organization_id and l.backup_id = drop_backup_lease.backup_id;
  delete from private.backup_chunks c
  where c.organization_id = drop_backup_lease.organization_id and c.backup_id = drop_backup_lease.backup_id;
end;
$$;
comment on function private.drop_backup_lease(uuid, uuid) is 'What was laid down for a backup goes.';

create function private.begin_backup(organization_id uuid, backup_id uuid)
returns jsonb
language plpgsql
volatile
security definer -- reads all tables of the tenant
set search_path = ''
set statement_timeout = '15min'
-- Rows are written as text, and must read the same wherever.
set timezone = 'UTC'
set datestyle = 'ISO, MDY'
set intervalstyle = 'postgres'
set bytea_output = 'hex'
set extra_float_digits = 1
as $$
declare
  backup public.backup_metadata;
  stale_path text;
  lease private.backup_leases;
  tables jsonb;
  rows_query text;
  others_query text;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('backup:' || organization_id, 0)) then
    perform private.raise_error('BL932', 'backup_running', 'A backup of this organization is being made');
  end if;
  select b.* into backup
  from public.backup_metadata b
  where b.organization_id = begin_backup.organization_id and b.id = begin_backup.backup_id
  for no key update;
  if not found then
    perform private.raise_error('BL931', 'backup_not_found', 'This organization has no such backup');
  elsif backup.status in ('completed', 'expired') then
    return jsonb_build_object('action', 'done');
  end if;
  stale_path := case when backup.file_removed_at is null then backup.storage_path end;
  select l.* into lease from private.backup_leases l where l.organization_id = begin_backup.organization_id;
  if found then
    if lease.expires_at > clock_timestamp() then
      perform private.raise_error('BL932', 'backup_running', 'A backup of this organization is being made',
        jsonb_build_object('backup_id', lease.backup_id));
    end if;
    update public.backup_metadata b
    set status = 'failed', error = 'abandoned'
    where b.organization_id = lease.organization_id and b.id = lease.backup_id and b.id <> backup.id and b.status = 'running';
    perform private.drop_backup_lease(lease.organization_id, lease.backup_id);
  end if;

  select jsonb_agg(jsonb_build_object('table_name', t.table_name, 'columns', t.columns) order by t.table_name collate "C")
  into tables
  from private.backup_tables() t;
  rows_query := private.tenant_rows_query(tables, false);
  -- Not rows of the tenant's, but it takes them to find its people and its files again.
  others_query := private.chunks_query(array[
    'select ''auth.users''::text as table_name, row_number() over (order by m.user_id) as n,
       to_json(array[m.user_id::text, u.email::text, p.first_name, p.last_name, p.phone, p.avatar_url])::text as line
     from public.user_roles m
     join auth.users u on u.id = m.user_id
     left join public.profiles p on p.user_id = m.user_id
     where m.organization_id = $1']
    || case when to_regclass('storage.objects') is not null then array[
    'select ''storage.objects''::text as table_name, row_number() over (order by o.bucket_id collate "C", o.name collate "C") as n,
       to_json(array[o.bucket_id, o.name, o.metadata ->> ''size'', o.metadata ->> ''mimetype''])::text as line
     from storage.objects o
     where o.bucket_id in (''media'', ''archive'') and starts_with(o.name, $1::text || ''/'')'] else '{}' end);
  execute 'insert into private.backup_chunks (organization_id, backup_id, table_name, number, row_count, content)
    select $1, $2, q.table_name, q.number, q.row_count, q.content from (' || rows_query || ' union all ' || others_query || ') q'
  using organization_id, backup_id, null::jsonb;

  insert into private.backup_leases (organization_id, backup_id, expires_at)
  values (begin_backup.organization_id, begin_backup.backup_id, clock_timestamp() + interval '2 minutes')
  returning * into lease;
  update public.backup_metadata b
  set status = 'running',
      error = null,
      started_at = statement_timestamp(),
      -- Each try has a file of its own: one that was thought dead does not write over another's.
      storage_path = b.organization_id || '/' || b.id || '-' || left(lease.token::text, 8) || '.backup',
      file_removed_at = null
  where b.organization_id = begin_backup.organization_id and b.id = begin_backup.backup_id
  returning b.* into backup;
  return jsonb_build_object(
    'action', 'read',
    'token', lease.token,
    'storage_path', backup.storage_path,
    'stale_path', stale_path,
    'manifest', jsonb_build_object(
      'organization_id', backup.organization_id,
      'backup_id', backup.id,
      'backup_type', backup.backup_type,
      'taken_at', backup.started_at,
      'name', (select o.name from public.organizations o where o.id = backup.organization_id),
      'tables', (
        select jsonb_agg(
          t || jsonb_build_object('row_count', coalesce(c.row_count, 0), 'digest', encode(c.digest, 'hex'))
          order by t ->> 'table_name' collate "C")
        from jsonb_array_elements(
          tables || '[{"table_name": "auth.users"}, {"table_name": "storage.objects"}]') t
        left join lateral (
          select
            sum(s.row_count) as row_count,
            sha256(coalesce(string_agg(sha256(convert_to(s.content, 'UTF8')), ''::bytea order by s.number), '')) as digest
          from private.backup_chunks s
          where s.organization_id = backup.organization_id and s.backup_id = backup.id and s.table_name = t ->> 'table_name'
        ) c on true
      )
    ));
end;
$$;
comment on function private.begin_backup(uuid, uuid) is 'See public.begin_backup().';
grant execute on function private.begin_backup(uuid, uuid) to service_role;


create function public.begin_backup(organization_id uuid, backup_id uuid)
returns jsonb
language plpgsql
volatile
set search_path = ''
-- PostgREST takes this for the whole call: its own limit is made for requests.
set statement_timeout = '15min'
as $$
begin
  return private.begin_backup(organization_id, backup_id);
end;
$$;
comment on function public.begin_backup(uuid, uuid) is
  'For the function tenant-backup: lays a tenant down as it is now {action: read, token, storage_path, stale_path of a try before, manifest}, or says {action: done}. The token is good for two minutes after its last use. Secret key only. Errors: backup_not_found, backup_running.';
grant execute on function public.begin_backup(uuid, uuid) to service_role;

create function private.hold_backup(organization_id uuid, backup_id uuid, token uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  update private.backup_leases l
  set expires_at = clock_timestamp() + interval '2 minutes'
  where l.organization_id = hold_backup.organization_id and l.backup_id = hold_backup.backup_id and l.token = hold_backup.token;
  if not found then
    perform private.raise_error('BL934', 'backup_lease_lost', 'Somebody else is making this backup by now, or it has ended');
  end if;
end;
$$;
comment on function private.hold_backup(uuid, uuid, uuid) is 'Whoever makes a backup shows that he lives; or error backup_lease_lost.';

create function private.read_backup_chunk(organization_id uuid, backup_id uuid, token uuid, after_table text, after_number bigint)
returns jsonb
language plpgsql
volatile
security definer -- what is laid down is in "private"
set search_path = ''
as $$
begin
  perform private.hold_backup(organization_id, backup_id, token);
  return (
    select jsonb_build_object(
      'table_name', c.table_name, 'number', c.number, 'row_count', c.row_count, 'content', c.content)
    from private.backup_chunks c
    where c.organization_id = read_backup_chunk.organization_id
      and c.backup_id = read_backup_chunk.backup_id
      and (c.table_name, c.number) > (after_table collate "C", after_number)
    order by c.table_name, c.number
    limit 1
  );
end;
$$;
comment on function private.read_backup_chunk(uuid, uuid, uuid, text, bigint) is 'See public.read_backup_chunk().';
grant execute on function private.read_backup_chunk(uuid, uuid, uuid, text, bigint) to service_role;

create function public.read_backup_chunk(
  organization_id uuid,
  backup_id uuid,
  token uuid,
  after_table text default '',
  after_number bigint default 0
)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.read_backup_chunk(organization_id, backup_id, token, after_table, after_number);
end;
$$;
comment on function public.read_backup_chunk(uuid, uuid, uuid, text, bigint) is
  'For the function tenant-backup: the next chunk {table_name, number, row_count, content}; null after the last. Secret key only. Errors: backup_lease_lost.';
grant execute on function public.read_backup_chunk(uuid, uuid, uuid, text, bigint) to service_role;

create function private.finish_backup(
  organization_id uuid,
  backup_id uuid,
  token uuid,
  checksum text,
  size_bytes bigint,
  key_id text,
  row_counts jsonb
)
returns public.backup_metadata
language plpgsql
volatile
security definer -- the list is written by its functions only
set search_path = ''
as $$
declare
  backup public.backup_metadata;
begin
  perform private.hold_backup(organization_id, backup_id, token);
  update public.backup_metadata b
  set status = 'completed',
      checksum = finish_backup.checksum,
      size_bytes = finish_backup.size_bytes,
      key_id = finish_backup.key_id,
      row_counts = finish_backup.row_counts,
      completed_at = now(),
      expires_at = now() + private.retention(
        case b.backup_type when 'weekly' then 'weekly_backups' else 'daily_backups' end, b.organization_id)
  where b.organization_id = finish_backup.organization_id and b.id = finish_backup.backup_id
  returning b.* into backup;
  perform private.drop_backup_lease(organization_id, backup_id);
  perform private.append_audit_log(
    organization_id, 'EVENT', 'backup.completed', 'backup_metadata', backup_id,
    jsonb_build_object('backup_type', backup.backup_type, 'size_bytes', backup.size_bytes), null, null, null);
  return backup;
end;
$$;
comment on function private.finish_backup(uuid, uuid, uuid, text, bigint, text, jsonb) is 'See public.finish_backup().';
grant execute on function private.finish_backup(uuid, uuid, uuid, text, bigint, text, jsonb) to service_role;

create function public.finish_backup(
  organization_id uuid,
  backup_id uuid,
  token uuid,
  checksum text,
  size_bytes bigint,
  key_id text,
  row_counts jsonb
)
returns public.backup_metadata
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.finish_backup(organization_id, backup_id, token, checksum, size_bytes, key_id, row_counts);
end;
$$;
comment on function public.finish_backup(uuid, uuid, uuid, text, bigint, text, jsonb) is
  'For the function tenant-backup: the file is there, and was read back. Secret key only. Errors: backup_lease_lost.';
grant execute on function public.finish_backup(uuid, uuid, uuid, text, bigint, text, jsonb) to service_role;

create function private.fail_backup(organization_id uuid, backup_id uuid, token uuid, error text)
returns void
language plpgsql
volatile
security definer -- the list is written by its functions only
set search_path = ''
as $$
begin
  perform private.hold_backup(organization_id, backup_id, token);
  update public.backup_metadata b
  set status = 'failed', error = left(fail_backup.error, 500)
  where b.organization_id = fail_backup.organization_id and b.id = fail_backup.backup_id;
  perform private.drop_backup_lease(organization_id, backup_id);
end;
$$;
comment on function private.fail_backup(uuid, uuid, uuid, text) is 'See public.fail_backup().';
grant execute on function private.fail_backup(uuid, uuid, uuid, text) to service_role;

create function public.fail_backup(organization_id uuid, backup_id uuid, token uuid, error text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform private.fail_backup(organization_id, backup_id, token, error);
end;
$$;
comment on function public.fail_backup(uuid, uuid, uuid, text) is
  'For the function tenant-backup: it did not work this time. Secret key only. Errors: backup_lease_lost.';
grant execute on function public.fail_backup(uuid, uuid, uuid, text) to service_role;

-- The end of their time -----------------------------------------------------------------------------------------------

create function private.cleanup_expired_backups(at timestamptz default now())
returns jsonb
language plpgsql
volatile
security definer -- the list is written by its functions only
set search_path = ''
as $$
declare
  expired bigint;
  abandoned bigint := 0;
  restores bigint;
  lease record;
begin
  update public.backup_metadata b
  set status = 'expired'
  where b.status = 'completed'
    and b.expires_at <= at
    -- When none has worked for a month, the last one that did is kept.
    and exists (
      select
      from public.backup_metadata newer
      where newer.organization_id = b.organization_id and newer.status = 'completed' and newer.completed_at > b.completed_at
        and newer.expires_at > at
    );
  get diagnostics expired = row_count;
  for lease in
    select l.organization_id, l.backup_id
    from private.backup_leases l
    where l.expires_at < at - interval '15 minutes'
    for update skip locked
  loop
    update public.backup_metadata b
    set status = 'failed', error = 'abandoned'
    where b.organization_id = lease.organization_id and b.id = lease.backup_id and b.status = 'running';
    perform private.drop_backup_lease(lease.organization_id, lease.backup_id);
    abandoned := abandoned + 1;
  end loop;
  update private.restores r
  set status = 'failed', error = 'abandoned'
  from (
    select d.organization_id, d.id
    from private.restores d
    where d.status = 'running' and d.lease_expires_at < at - interval '15 minutes'
    -- The tables of one may take longer than that, and are being written.
    for update skip locked
  ) dead
  where r.organization_id = dead.organization_id and r.id = dead.id;
  get diagnostics restores = row_count;
  delete from private.restore_chunks c
  using private.restores r
  where r.organization_id = c.organization_id and r.id = c.restore_id and r.status <> 'running';
  return jsonb_build_object('expired', expired, 'abandoned', abandoned, 'abandoned_restores', restores);
end;
$$;
comment on function private.cleanup_expired_backups(timestamptz) is 'See public.cleanup_expired_backups().';
grant execute on function private.cleanup_expired_backups(timestamptz) to service_role;

create function public.cleanup_expired_backups()
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.cleanup_expired_backups();
end;
$$;
comment on function public.cleanup_expired_backups() is
  'Backups past their time expire, but for the only good one of an organization; what was begun and never ended has failed {expired, abandoned, abandoned_restores}. Their files go by the function tenant-backup. Secret key only.';
grant execute on function public.cleanup_expired_backups() to service_role;

create function private.backup_files_to_remove()
returns table (organization_id uuid, id uuid, storage_path text)
language plpgsql
stable
security definer -- across tenants
set search_path = ''
as $$
begin
  return query
  select b.organization_id, b.id, b.storage_path
  from public.backup_metadata b
  where b.status in ('expired', 'failed')
    and b.storage_path is not null
    and b.file_removed_at is null
    -- Of one that is being tried again nothing is taken away.
    and not exists (select from private.backup_leases l where l.organization_id = b.organization_id and l.backup_id = b.id)
  order by b.organization_id, b.id
  limit 200;
end;
$$;
comment on function private.backup_files_to_remove() is 'See public.backup_files_to_remove().';
grant execute on function private.backup_files_to_remove() to service_role;

create function public.backup_files_to_remove()
returns table (organization_id uuid, id uuid, storage_path text)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query select f.organization_id, f.id, f.storage_path from private.backup_files_to_remove() f;
end;
$$;
comment on function public.backup_files_to_remove() is
  'For the function tenant-backup: up to 200 files that nobody needs any more. Secret key only.';
grant execute on function public.backup_files_to_remove() to service_role;

create function private.note_backup_file_removed(organization_id uuid, backup_id uuid)
returns void
language plpgsql
volatile
security definer -- the list is written by its functions only
set search_path = ''
as $$
begin
  update public.backup_metadata b
  set file_removed_at = now()
  where b.organization_id = note_backup_file_removed.organization_id
    and b.id = note_backup_file_removed.backup_id
    and b.status in ('expired', 'failed');
end;
$$;
comment on function private.note_backup_file_removed(uuid, uuid) is 'See public.note_backup_file_removed().';
grant execute on function private.note_backup_file_removed(uuid, uuid) to service_role;

create function public.note_backup_file_removed(organization_id uuid, backup_id uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform private.note_backup_file_removed(organization_id, backup_id);
end;
$$;
comment on function public.note_backup_file_removed(uuid, uuid) is 'For the function tenant-backup: the file is gone. Secret key only.';
grant execute on function public.note_backup_file_removed(uuid, uuid) to service_role;

-- The way back ----------------------------------------------------------------------------------------------------------

create function private.begin_restore(organization_id uuid, manifest jsonb)
returns jsonb
language plpgsql
volatile
security definer -- what is laid down is in "private"
set search_path = ''
as $$
declare
  unknown text[];
  restore private.restores;
begin
  if (manifest ->> 'organization_id')::uuid is distinct from organization_id then
    perform private.raise_error('BL937', 'schema_mismatch', 'The manifest is another organization''s');
  elsif exists (select from public.organizations o where o.id = begin_restore.organization_id) then
    perform private.raise_error('BL935', 'organization_exists', 'This project has the organization already', '{}',
      'A backup is restored into a project of its own');
  end if;
  -- A column more here gets its default; one that this project does not know would be lost.
  select array_agg(given.table_name || coalesce('.' || c.column_name, '') order by 1)
  into unknown
  from jsonb_to_recordset(manifest -> 'tables') as given (table_name text, columns text[])
  left join private.backup_tables() ours on ours.table_name = given.table_name
  left join lateral unnest(given.columns) as c (column_name) on ours.table_name is not null
  where given.columns is not null and (ours.table_name is null or c.column_name <> all (ours.columns));
  if unknown is not null then
    perform private.raise_error('BL937', 'schema_mismatch', 'The backup has tables or columns that this project has not: ' || array_to_string(unknown, ', '),
      jsonb_build_object('unknown', unknown), 'Bring this project to the version that the backup was made with, or a newer one');
  end if;
  -- Whoever is writing the tables holds this however long it takes.
  if not pg_try_advisory_xact_lock(hashtextextended('restore:' || organization_id, 0)) or exists (
    select
    from private.restores r
    where r.organization_id = begin_restore.organization_id and r.status = 'running' and r.lease_expires_at > clock_timestamp()
  ) then
    perform private.raise_error('BL936', 'restore_running', 'This organization is being restored already', '{}',
      'One that died is over after two minutes');
  end if;
  update private.restores r
  set status = 'failed', error = 'abandoned'
  where r.organization_id = begin_restore.organization_id and r.status = 'running';
  delete from private.restore_chunks c
  using private.restores r
  where r.organization_id = begin_restore.organization_id
    and r.status <> 'running'
    and c.organization_id = r.organization_id
    and c.restore_id = r.id;
  insert into private.restores (organization_id, backup_id, lease_expires_at, manifest)
  values (
    begin_restore.organization_id, (manifest ->> 'backup_id')::uuid, clock_timestamp() + interval '2 minutes', begin_restore.manifest)
  returning * into restore;
  return jsonb_build_object('restore_id', restore.id, 'token', restore.token);
end;
$$;
comment on function private.begin_restore(uuid, jsonb) is 'See public.begin_restore().';
grant execute on function private.begin_restore(uuid, jsonb) to service_role;

create function public.begin_restore(organization_id uuid, manifest jsonb)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.begin_restore(organization_id, manifest);
end;
$$;
comment on function public.begin_restore(uuid, jsonb) is
  'For the function tenant-backup: whether a backup fits into this project {restore_id, token}. The token is good for two minutes after its last use. Secret key only. Errors: organization_exists, schema_mismatch, restore_running.';
grant execute on function public.begin_restore(uuid, jsonb) to service_role;

create function private.hold_restore(organization_id uuid, restore_id uuid, token uuid)
returns private.restores
language plpgsql
volatile
set search_path = ''
as $$
declare
  restore private.restores;
begin
  update private.restores r
  set lease_expires_at = clock_timestamp() + interval '2 minutes'
  where r.organization_id = hold_restore.organization_id
    and r.id = hold_restore.restore_id
    and r.token = hold_restore.token
    and r.status = 'running'
  returning r.* into restore;
  if not found then
    perform private.raise_error('BL934', 'backup_lease_lost', 'This restore has ended, or somebody else has begun another one');
  end if;
  return restore;
end;
$$;
comment on function private.hold_restore(uuid, uuid, uuid) is 'Whoever restores shows that he lives; or error backup_lease_lost.';

create function private.stage_restore_chunk(
  organization_id uuid,
  restore_id uuid,
  token uuid,
  table_name text,
  number bigint,
  content text
)
returns void
language plpgsql
volatile
security definer -- what is laid down is in "private"
set search_path = ''
as $$
begin
  perform private.hold_restore(organization_id, restore_id, token);
  insert into private.restore_chunks (organization_id, restore_id, table_name, number, content)
  values (
    stage_restore_chunk.organization_id, stage_restore_chunk.restore_id, stage_restore_chunk.table_name, stage_restore_chunk.number,
    stage_restore_chunk.content)
  -- An answer was lost, and it comes again.
  on conflict on constraint restore_chunks_pkey do update set content = excluded.content;
end;
$$;
comment on function private.stage_restore_chunk(uuid, uuid, uuid, text, bigint, text) is 'See public.stage_restore_chunk().';
grant execute on function private.stage_restore_chunk(uuid, uuid, uuid, text, bigint, text) to service_role;

create function public.stage_restore_chunk(
  organization_id uuid,
  restore_id uuid,
  token uuid,
  table_name text,
  number bigint,
  content text
)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform private.stage_restore_chunk(organization_id, restore_id, token, table_name, number, content);
end;
$$;
comment on function public.stage_restore_chunk(uuid, uuid, uuid, text, bigint, text) is
  'For the function tenant-backup: lays a chunk of a file down. Secret key only. Errors: backup_lease_lost.';
grant execute on function public.stage_restore_chunk(uuid, uuid, uuid, text, bigint, text) to service_role;

create function private.abandon_restore(organization_id uuid, restore_id uuid, token uuid, error text)
returns void
language plpgsql
volatile
security definer -- what is laid down is in "private"
set search_path = ''
as $$
begin
  perform private.hold_restore(organization_id, restore_id, token);
  update private.restores r
  set status = 'failed', error = left(abandon_restore.error, 500)
  where r.organization_id = abandon_restore.organization_id and r.id = abandon_restore.restore_id;
  delete from private.restore_chunks c
  where c.organization_id = abandon_restore.organization_id and c.restore_id = abandon_restore.restore_id;
end;
$$;
comment on function private.abandon_restore(uuid, uuid, uuid, text) is 'See public.abandon_restore().';
grant execute on function private.abandon_restore(uuid, uuid, uuid, text) to service_role;

create function public.abandon_restore(organization_id uuid, restore_id uuid, token uuid, error text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform private.abandon_restore(organization_id, restore_id, token, error);
end;
$$;
comment on function public.abandon_restore(uuid, uuid, uuid, text) is
  'For the function tenant-backup: what was laid down goes. Secret key only. Errors: backup_lease_lost.';
grant execute on function public.abandon_restore(uuid, uuid, uuid, text) to service_role;

create function private.refuse_restore(reason text, message text, detail jsonb default '{}', hint text default '')
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform private.raise_error('BL939', 'restore_refused', message, jsonb_build_object('reason', reason) || detail, hint);
end;
$$;
comment on function private.refuse_restore(text, text, jsonb, text) is
  'Error restore_refused. Its reasons: conflict, platform_app_missing, does_not_fit, not_equal, incomplete, busy.';

create function private.restore_members(organization_id uuid, restore_id uuid, skip_missing_members boolean)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  machine_users constant text[] := array(
    select s.line::jsonb ->> (
      (
        select c.position
        from jsonb_array_elements(r.manifest -> 'tables') t
        cross join lateral jsonb_array_elements_text(t -> 'columns') with ordinality as c (name, position)
        where t ->> 'table_name' = 'public.api_keys' and c.name = 'user_id'
      ) - 1)::int
    from private.restores r
    join private.restore_chunks k
      on k.organization_id = r.organization_id and k.restore_id = r.id and k.table_name = 'public.api_keys'
    cross join lateral string_to_table(k.content, E'\n') as s (line)
    where r.organization_id = restore_members.organization_id and r.id = restore_members.restore_id
  );
  missing text[];
  members jsonb;
begin
  -- The same person has the same id where logins were copied, and else the same address, confirmed.
  select
    array_agg(coalesce(given.email, given.user_id::text) order by given.email) filter (
      -- The login of an API key is made by the function "token", with the same id, when the key is first used here.
      where u.id is null and given.user_id::text <> all (machine_users)),
    jsonb_object_agg(given.user_id, u.id)
  into missing, members
  from (
    select (s.line::jsonb ->> 0)::uuid as user_id, s.line::jsonb ->> 1 as email
    from private.restore_chunks c
    cross join lateral string_to_table(c.content, E'\n') as s (line)
    where c.organization_id = restore_members.organization_id and c.restore_id = restore_members.restore_id and c.table_name = 'auth.users'
  ) given
  left join lateral (
    select u.id
    from auth.users u
    where u.id = given.user_id
      -- Anybody can sign up under anybody's address; only its owner confirms it.
      or lower(u.email) = lower(given.email) and u.email_confirmed_at is not null
    order by u.id <> given.user_id
    limit 1
  ) u on true;
  if missing is not null and not skip_missing_members then
    perform private.raise_error('BL938', 'members_missing', 'Members of the organization have no login in this project: ' || array_to_string(missing, ', '),
      jsonb_build_object('emails', missing), 'Make their logins first, or restore without them: skip_missing_members');
  end if;
  return coalesce(members, '{}');
end;
$$;
comment on function private.restore_members(uuid, uuid, boolean) is
  'The people of a backup and who they are here {id there: id here, or null}; or error members_missing.';

create function private.tables_by_reference(tables regclass[])
returns regclass[]
language plpgsql
stable
set search_path = ''
as $$
declare
  ordered regclass[] := '{}'::regclass[];
  remaining regclass[] := tables;
  free regclass[];
begin
  while cardinality(remaining) > 0 loop
    free := array(
      select t
      from unnest(remaining) t
      where not exists (
        select
        from pg_catalog.pg_constraint k
        where k.contype = 'f' and k.conrelid = t and k.confrelid <> t and k.confrelid = any (remaining)
      )
      order by t::text collate "C"
    );
    if cardinality(free) = 0 then
      raise exception 'tables refer to each other in a circle: %', remaining;
    end if;
    ordered := ordered || free;
    remaining := array(select t from unnest(remaining) t where t <> all (free));
  end loop;
  return ordered;
end;
$$;
comment on function private.tables_by_reference(regclass[]) is 'Tables in an order in which each comes after those that it refers to.';

create function private.restore_table(
  organization_id uuid,
  restore_id uuid,
  relation regclass,
  columns text[],
  members jsonb
)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  tenant_column constant text := case relation when 'public.organizations'::regclass then 'id' else 'organization_id' end;
  full_name constant text := (
    select format('%I.%I', c.relnamespace::regnamespace, c.relname) from pg_catalog.pg_class c where c.oid = relation);
  created_at_position constant int := array_position(columns, 'created_at') - 1;
  expressions text;
  condition text;
  created_in timestamptz;
begin
  if (select c.relkind = 'p' from pg_catalog.pg_class c where c.oid = relation) then
    for created_in in
      select distinct date_trunc('month', (s.line::jsonb ->> created_at_position)::timestamptz, 'UTC')
      from private.restore_chunks c
      cross join lateral string_to_table(c.content, E'\n') as s (line)
      where c.organization_id = restore_table.organization_id
        and c.restore_id = restore_table.restore_id
        and c.table_name = full_name collate "C"
    loop
      perform private.add_partition(relation, created_in);
    end loop;
  end if;

  select
    string_agg(
      case
        -- Whatever a file says: nothing gets into another tenant.
        when c.column_name = tenant_column then '$1'
        when m.column_name is not null then format('($3 ->> (r.line ->> %s))::uuid', c.position - 1)
        else format('(r.line ->> %s)::%s', c.position - 1, format_type(a.atttypid, a.atttypmod))
      end, ', ' order by c.position),
    -- A row that is about a person who is not here, not only mentions him, has no place.
    coalesce(string_agg(format(' and $3 ->> (r.line ->> %s) is not null', c.position - 1), '') filter (where m.is_required), '')
  into expressions, condition
  from unnest(columns) with ordinality as c (column_name, position)
  join pg_catalog.pg_attribute a on a.attrelid = relation and a.attname = c.column_name
  left join private.member_columns(relation) m on m.column_name = c.column_name;

  execute format(
    'insert into %s (%s)
     select %s
     from (
       select s.line::jsonb as line, c.number, s.position
       from private.restore_chunks c
       cross join lateral string_to_table(c.content, E''\n'') with ordinality as s (line, position)
       where c.organization_id = $1 and c.restore_id = $2 and c.table_name = %L
       -- Kept apart, or each line would be parsed once for each of its columns.
       offset 0
     ) r
     where true%s
     order by r.number, r.position',
    relation, (select string_agg(format('%I', c), ', ' order by n) from unnest(columns) with ordinality as u (c, n)), expressions,
    full_name, condition)
  using organization_id, restore_id, members;
end;
$$;
comment on function private.restore_table(uuid, uuid, regclass, text[], jsonb) is 'Writes the rows of one table out of what was laid down.';

create function private.add_partition(parent regclass, month timestamptz)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  partition_name constant text := format(
    '%s_%s', (select c.relname from pg_catalog.pg_class c where c.oid = parent), to_char(month at time zone 'UTC', 'YYYY_MM'));
begin
  if to_regclass(format('partitions.%I', partition_name)) is not null then
    return;
  end if;
  execute format(
    'create table partitions.%I partition of %s for values from (%L) to (%L)', partition_name, parent, month,
    (month at time zone 'UTC' + interval '1 month') at time zone 'UTC');
  execute format('alter table partitions.%I enable row level security', partition_name);
  execute format('alter table partitions.%I force row level security', partition_name);
  execute format('revoke all on partitions.%I from public, anon, authenticated, service_role', partition_name);
end;
$$;
comment on function private.add_partition(regclass, timestamptz) is
  'A month of a log that private.maintain_partitions() has never made, because this project is younger than the tenant.';

create function private.close_audit_epoch()
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  sealing private.audit_sealing;
begin
  select s.* into sealing from private.audit_sealing s for no key update;
  for epoch in sealing.epoch..private.epoch() loop
    perform private.seal_audit_epoch(
      epoch, case when epoch = sealing.epoch then sealing.transaction_id else '0' end, '18446744073709551615');
  end loop;
end;
$$;
comment on function private.close_audit_epoch() is
  'Seals all that this project has written so far; the caller holds the log, so that nobody is writing.';

create function private.adopt_audit_logs(organization_id uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  last public.audit_seals;
  seal public.audit_seals;
  rest record;
begin
  select s.* into last
  from public.audit_seals s
  where s.organization_id = adopt_audit_logs.organization_id
  order by s.number desc
  limit 1;
  -- What was not sealed yet there is sealed here.
  for rest in
    select
      l.epoch,
      count(*) as row_count,
      max(l.created_at) as last_created_at,
      sha256(string_agg(private.audit_row_hash(l), ''::bytea order by l.transaction_id, l.id)) as rows_hash
    from public.audit_logs l
    where l.organization_id = adopt_audit_logs.organization_id
      and (last.number is null or l.epoch > last.epoch or l.epoch = last.epoch and l.transaction_id >= last.to_transaction_id)
    group by l.epoch
    order by l.epoch
  loop
    seal := null;
    seal.organization_id := adopt_audit_logs.organization_id;
    seal.number := coalesce(last.number, 0) + 1;
    seal.epoch := rest.epoch;
    seal.from_transaction_id := case when last.epoch = rest.epoch then last.to_transaction_id else '0' end;
    seal.to_transaction_id := '18446744073709551615';
    seal.row_count := rest.row_count;
    seal.last_created_at := rest.last_created_at;
    seal.rows_hash := rest.rows_hash;
    seal.previous_hash := coalesce(last.hash, '\x');
    seal.hash := private.audit_seal_hash(seal);
    seal.created_at := now();
    insert into public.audit_seals select seal.*;
    last := seal;
  end loop;
  -- What is written from now on comes after all that was.
  loop
    perform private.begin_epoch('restore of ' || adopt_audit_logs.organization_id);
    exit when private.epoch() > coalesce(
      (select max(l.epoch) from public.audit_logs l where l.organization_id = adopt_audit_logs.organization_id), 0);
  end loop;
  update private.audit_sealing s set epoch = private.epoch(), transaction_id = '0';
end;
$$;
comment on function private.adopt_audit_logs(uuid) is
  'Transactions of another database mean nothing here: a restored log is sealed to its end, and a new epoch begins.';

create function private.differing_tables(organization_id uuid, tables jsonb, members jsonb)
returns text[]
language plpgsql
volatile
set search_path = ''
as $$
declare
  differing text[];
  skipped constant boolean := exists (select from jsonb_each(members) m where m.value = 'null');
begin
  execute 'select array_agg(t ->> ''table_name'' order by t ->> ''table_name'')
    from jsonb_array_elements($2) t
    left join (
      select q.table_name, sum(q.row_count) as row_count,
        sha256(string_agg(sha256(convert_to(q.content, ''UTF8'')), ''''::bytea order by q.number)) as digest
      from (' || private.tenant_rows_query(tables, true) || ') q
      group by q.table_name
    ) written on written.table_name = t ->> ''table_name''
    where case
      -- Where somebody is left out, what mentions him is not the same: it is counted; what is about him is not even that.
      when $4 and exists (select from private.member_columns((t ->> ''table_name'')::regclass) m where m.is_required) then false
      when $4 and exists (select from private.member_columns((t ->> ''table_name'')::regclass))
        then (t ->> ''row_count'')::bigint <> coalesce(written.row_count, 0)
      else t ->> ''digest'' <> encode(coalesce(written.digest, sha256('''')), ''hex'')
    end'
  into differing
  using organization_id, tables,
    (select coalesce(jsonb_object_agg(m.value, m.key), '{}') from jsonb_each_text(members) m where m.value is not null), skipped;
  return differing;
end;
$$;
comment on function private.differing_tables(uuid, jsonb, jsonb) is
  'Compares what was written with what was backed up, table by table, people by their ids there; null when all is the same.';

create function private.hold_restored_tenant(organization_id uuid)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  held jsonb;
  -- Infinity is no date in most languages.
  never constant timestamptz := '9999-01-01 00:00:00+00'::timestamptz;
begin
  held := jsonb_build_object(
    'instances', (
      select coalesce(jsonb_object_agg(i.id, i.sending_paused_until), '{}')
      from public.whatsapp_instances i
      where i.organization_id = hold_restored_tenant.organization_id and i.status <> 'disconnected'
    ),
    'endpoints', (
      select coalesce(jsonb_agg(e.id), '[]')
      from public.webhook_endpoints e
      where e.organization_id = hold_restored_tenant.organization_id and e.is_active
    ),
    'jobs', (
      select coalesce(jsonb_object_agg(q.id, jsonb_build_object('run_at', q.run_at, 'is_due', q.is_due)), '{}')
      from public.message_queue q
      where q.organization_id = hold_restored_tenant.organization_id and q.status in ('pending', 'failed', 'processing')
    ));
  update public.whatsapp_instances i
  set sending_paused_until = never
  where i.organization_id = hold_restored_tenant.organization_id and i.status <> 'disconnected';
  update public.webhook_endpoints e
  set is_active = false
  where e.organization_id = hold_restored_tenant.organization_id and e.is_active;
  update public.message_queue q
  set run_at = never,
      is_due = false,
      -- Whoever had it has it in the other project.
      status = case q.status when 'processing' then 'failed' else q.status end,
      lease_expires_at = null,
      locked_by = null
  where q.organization_id = hold_restored_tenant.organization_id and q.status in ('pending', 'failed', 'processing');
  return held;
end;
$$;
comment on function private.hold_restored_tenant(uuid) is
  'A copy of a tenant must not write to its customers: numbers pause, endpoints and jobs wait, until release_restored_organization().';

create function private.write_restored_tables(restore private.restores, tables jsonb, members jsonb)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  relations constant regclass[] := private.tables_by_reference(array(
    select (t ->> 'table_name')::regclass from jsonb_array_elements(tables) t));
  relation regclass;
  guard record;
  switch_on text[] := '{}'::text[];
  command text;
  differing text[];
  held jsonb;
begin
  -- Triggers do what follows from a change, and all of that is in the backup already. They are switched off for everybody; so
  -- nobody writes meanwhile.
  execute 'lock table ' || (select string_agg(r::text, ', ' order by r::text collate "C") from unnest(relations) r)
    || ' in share row exclusive mode';
  perform private.close_audit_epoch();
  for guard in
    select t.tgrelid::regclass as relation, t.tgname
    from pg_catalog.pg_trigger t
    where t.tgrelid = any (relations::oid[]) and not t.tgisinternal and t.tgenabled = 'O'
  loop
    execute format('alter table %s disable trigger %I', guard.relation, guard.tgname);
    switch_on := switch_on || format('alter table %s enable trigger %I', guard.relation, guard.tgname);
  end loop;
  foreach relation in array relations loop
    perform private.restore_table(
      restore.organization_id, restore.id, relation,
      (
        select array(select jsonb_array_elements_text(t -> 'columns'))
        from jsonb_array_elements(tables) t
        where (t ->> 'table_name')::regclass = relation
      ), members);
  end loop;
  differing := private.differing_tables(restore.organization_id, tables, members);
  if differing is not null then
    perform private.refuse_restore('not_equal', 'What was written is not what was backed up: ' || array_to_string(differing, ', '),
      jsonb_build_object('tables', differing));
  end if;
  held := private.hold_restored_tenant(restore.organization_id);
  foreach command in array switch_on loop
    execute command;
  end loop;
  return held;
end;
$$;
comment on function private.write_restored_tables(private.restores, jsonb, jsonb) is
  'All rows of a restored tenant, in the order of their references, past the triggers; compared, and held back. Returns what was held.';

create function private.finish_restore(
  organization_id uuid,
  restore_id uuid,
  token uuid,
  skip_missing_members boolean,
  erased_contacts uuid[]
)
returns jsonb
language plpgsql
volatile
security definer -- writes all tables of the tenant
set search_path = ''
set statement_timeout = '15min'
set lock_timeout = '10s'
-- Rows are written as text, and must read the same wherever.
set timezone = 'UTC'
set datestyle = 'ISO, MDY'
set intervalstyle = 'postgres'
set bytea_output = 'hex'
set extra_float_digits = 1
as $$
declare
  is_mine constant boolean := pg_try_advisory_xact_lock(hashtextextended('restore:' || organization_id, 0));
  restore constant private.restores := private.hold_restore(organization_id, restore_id, token);
  tables constant jsonb := (
    select jsonb_agg(t) from jsonb_array_elements(restore.manifest -> 'tables') t where t ? 'columns');
  members jsonb;
  violated_table text;
  violated_constraint text;
  erased_again int;
  missing_files bigint := 0;
  held_back jsonb;
begin
  if not is_mine then
    perform private.raise_error('BL936', 'restore_running', 'This organization is being restored already');
  end if;
  if exists (select from public.organizations o where o.id = finish_restore.organization_id) then
    perform private.raise_error('BL935', 'organization_exists', 'This project has the organization already');
  end if;
  if exists (
    select
    from jsonb_array_elements(restore.manifest -> 'tables') t
    left join lateral (
      select sha256(coalesce(string_agg(sha256(convert_to(s.content, 'UTF8')), ''::bytea order by s.number), '')) as digest
      from private.restore_chunks s
      where s.organization_id = restore.organization_id and s.restore_id = restore.id and s.table_name = (t ->> 'table_name') collate "C"
    ) c on true
    where t ->> 'digest' is distinct from encode(c.digest, 'hex')
  ) then
    perform private.refuse_restore('incomplete', 'What has arrived is not what the backup''s manifest names');
  end if;
  members := private.restore_members(organization_id, restore_id, skip_missing_members);

  begin
    held_back := private.write_restored_tables(restore, tables, members);
  exception
    when unique_violation or foreign_key_violation or exclusion_violation or not_null_violation or check_violation then
      get stacked diagnostics violated_table = table_name, violated_constraint = constraint_name;
      perform private.refuse_restore(
        case
          when violated_constraint = 'whatsapp_instances_meta_app_key_fkey' then 'platform_app_missing'
          when sqlstate in ('23505', '23P01') then 'conflict'
          else 'does_not_fit'
        end,
        case
          when violated_constraint = 'whatsapp_instances_meta_app_key_fkey'
            then 'A number hangs on an app of the platform''s that this project has not'
          when sqlstate in ('23505', '23P01') then 'Another organization of this project has what may be there once only'
          else 'A row of the backup does not fit into this project'
        end,
        jsonb_build_object('table', violated_table, 'constraint', violated_constraint),
        case when violated_constraint = 'whatsapp_instances_meta_app_key_fkey' then 'Register it under the same app_key first' else '' end);
    when invalid_text_representation or invalid_datetime_format or numeric_value_out_of_range or undefined_column then
      perform private.refuse_restore('does_not_fit', 'A value of the backup does not fit into this project');
    when lock_not_available or deadlock_detected then
      perform private.refuse_restore('busy', 'Somebody is writing in this project', '{}', 'Try again; a restore wants a project of its own');
  end;

  -- Now it is the same. What follows is what must be different here.
  perform private.adopt_audit_logs(organization_id);
  insert into public.profiles (user_id, first_name, last_name, phone, avatar_url, active_organization_id)
  select (members ->> (p.line ->> 0))::uuid, p.line ->> 2, p.line ->> 3, p.line ->> 4, p.line ->> 5, finish_restore.organization_id
  from (
    select s.line::jsonb as line
    from private.restore_chunks c
    cross join lateral string_to_table(c.content, E'\n') as s (line)
    where c.organization_id = restore.organization_id and c.restore_id = restore.id and c.table_name = 'auth.users'
  ) p
  where members ->> (p.line ->> 0) is not null
  on conflict (user_id) do nothing;
  if to_regclass('storage.objects') is not null then
    execute
      'select count(*)
       from private.restore_chunks c
       cross join lateral string_to_table(c.content, E''\n'') as s (line)
       where c.organization_id = $1 and c.restore_id = $2 and c.table_name = ''storage.objects''
         and not exists (select from storage.objects o where o.bucket_id = s.line::jsonb ->> 0 and o.name = s.line::jsonb ->> 1)'
    into missing_files
    using organization_id, restore_id;
  end if;
  update private.erasures e
  set horizon = null
  where e.organization_id = finish_restore.organization_id and e.horizon is not null and e.completed_at is null;
  erased_again := private.reapply_erasures(
    organization_id, jsonb_build_array(jsonb_build_object('contact_ids', to_jsonb(coalesce(erased_contacts, '{}')))));
  update private.restores r
  set status = 'completed', completed_at = now(), held = held_back
  where r.organization_id = finish_restore.organization_id and r.id = finish_restore.restore_id;
  delete from private.restore_chunks c
  where c.organization_id = finish_restore.organization_id and c.restore_id = finish_restore.restore_id;
  perform private.append_audit_log(
    organization_id, 'EVENT', 'backup.restored', 'backup_metadata', restore.backup_id,
    jsonb_build_object('taken_at', restore.manifest -> 'taken_at'), null, null, null);
  return jsonb_build_object(
    'organization_id', organization_id,
    'backup_id', restore.backup_id,
    'taken_at', restore.manifest -> 'taken_at',
    'row_counts', (select jsonb_object_agg(t ->> 'table_name', t -> 'row_count') from jsonb_array_elements(tables) t),
    'members', (select count(*) from jsonb_each_text(members) m where m.value is not null),
    'skipped_members', (select count(*) from jsonb_each_text(members) m where m.value is null),
    'erased_again', erased_again,
    'missing_files', missing_files);
end;
$$;
comment on function private.finish_restore(uuid, uuid, uuid, boolean, uuid[]) is 'See public.finish_restore().';
grant execute on function private.finish_restore(uuid, uuid, uuid, boolean, uuid[]) to service_role;

create function public.finish_restore(
  organization_id uuid,
  restore_id uuid,
  token uuid,
  skip_missing_members boolean default false,
  erased_contacts uuid[] default '{}'
)
returns jsonb
language plpgsql
volatile
set search_path = ''
-- PostgREST takes this for the whole call: its own limit is made for requests.
set statement_timeout = '15min'
as $$
begin
  return private.finish_restore(organization_id, restore_id, token, skip_missing_members, erased_contacts);
end;
$$;
comment on function public.finish_restore(uuid, uuid, uuid, boolean, uuid[]) is
  'For the function tenant-backup: makes the tenant of what was laid down, all of it or nothing, compares every table, and holds back what would go out. Contacts that were erased after the backup are erased again. Secret key only. Errors: backup_lease_lost, restore_running, organization_exists, members_missing, restore_refused.';
grant execute on function public.finish_restore(uuid, uuid, uuid, boolean, uuid[]) to service_role;

create function private.release_restored_organization(organization_id uuid, webhook_base_url text)
returns jsonb
language plpgsql
volatile
security definer -- the platform alone lets a copy go
set search_path = ''
as $$
declare
  restore private.restores;
  never constant timestamptz := '9999-01-01 00:00:00+00'::timestamptz;
  released bigint;
begin
  select r.* into restore
  from private.restores r
  where r.organization_id = release_restored_organization.organization_id and r.status = 'completed'
  order by r.id desc
  limit 1
  for no key update;
  if not found then
    perform private.raise_error('BL931', 'backup_not_found', 'This organization was not restored into this project');
  elsif restore.released_at is not null then
    return jsonb_build_object('released', false, 'jobs', 0);
  end if;
  update public.whatsapp_instances i
  set sending_paused_until = (restore.held -> 'instances' ->> i.id::text)::timestamptz,
      webhook_url = case when webhook_base_url is null then i.webhook_url else webhook_base_url || '/' || i.meta_app_key end
  where i.organization_id = release_restored_organization.organization_id
    and i.sending_paused_until >= never
    and restore.held -> 'instances' ? i.id::text;
  update public.webhook_endpoints e
  set is_active = true
  where e.organization_id = release_restored_organization.organization_id and restore.held -> 'endpoints' ? e.id::text;
  update public.message_queue q
  set run_at = coalesce((restore.held -> 'jobs' -> q.id::text ->> 'run_at')::timestamptz, now()),
      is_due = coalesce((restore.held -> 'jobs' -> q.id::text ->> 'run_at')::timestamptz, now()) <= now()
  where q.organization_id = release_restored_organization.organization_id
    and q.status in ('pending', 'failed')
    and q.run_at >= never;
  get diagnostics released = row_count;
  update private.restores r
  set released_at = now(), held = null
  where r.organization_id = restore.organization_id and r.id = restore.id;
  perform private.append_audit_log(
    organization_id, 'EVENT', 'backup.released', 'backup_metadata', restore.backup_id, '{}', null, null, null);
  perform private.wake_worker();
  return jsonb_build_object('released', true, 'jobs', released);
end;
$$;
comment on function private.release_restored_organization(uuid, text) is 'See public.release_restored_organization().';
grant execute on function private.release_restored_organization(uuid, text) to service_role;

create function public.release_restored_organization(organization_id uuid, webhook_base_url text default null)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.release_restored_organization(organization_id, webhook_base_url);
end;
$$;
comment on function public.release_restored_organization(uuid, text) is
  'For the function tenant-backup: from now on a restored organization sends again, its waiting jobs first {released, jobs}; twice is once. webhook_base_url + / + app_key is where Meta delivers. Secret key only. Errors: backup_not_found.';
grant execute on function public.release_restored_organization(uuid, text) to service_role;

-- By the clock ----------------------------------------------------------------------------------------------------------

insert into private.schedules (name, description, expression, command, function_name, condition)
values
  ('enqueue_due_backups', 'From two o''clock on each organization''s clock: its backup of the day.',
    '*/5 * * * *', 'select private.enqueue_due_backups() as enqueued', null, null),
  ('cleanup_expired_backups', 'Backups expire; what was begun and never ended has failed.',
    '50 * * * *', 'select private.cleanup_expired_backups() as cleaned', null, null),
  ('remove_backup_files', 'Calls tenant-backup to remove the files that nobody needs any more.',
    '55 * * * *', null, 'tenant-backup', 'exists (select from private.backup_files_to_remove())');
