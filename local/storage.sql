-- Schema storage as a hosted project has it, as far as policies, migrations and clients can tell. Run by a superuser at
-- every start; it may be repeated. The bytes themselves lie in files: local/storage.ts.

create schema if not exists storage;
grant usage on schema storage to postgres, anon, authenticated, service_role, supabase_storage_admin;

-- Buckets -----------------------------------------------------------------------------------------------------------

do $$
begin
  if to_regtype('storage.buckettype') is null then
    create type storage.buckettype as enum ('STANDARD', 'ANALYTICS', 'VECTOR');
  end if;
end;
$$;

create table if not exists storage.buckets (
  id text primary key,
  name text not null,
  owner uuid,
  created_at timestamptz default now(),
  updated_at timestamptz default now(),
  public boolean default false,
  avif_autodetection boolean default false,
  file_size_limit bigint,
  allowed_mime_types text[],
  owner_id text,
  type storage.buckettype not null default 'STANDARD'
);

comment on column storage.buckets.owner is 'Deprecated: owner_id says who made it.';

create unique index if not exists bname on storage.buckets (name);

-- Objects -----------------------------------------------------------------------------------------------------------

create table if not exists storage.objects (
  id uuid primary key default gen_random_uuid(),
  bucket_id text references storage.buckets (id),
  name text,
  owner uuid,
  created_at timestamptz default now(),
  updated_at timestamptz default now(),
  last_accessed_at timestamptz default now(),
  metadata jsonb,
  path_tokens text[] generated always as (string_to_array(name, '/')) stored,
  version text,
  owner_id text,
  user_metadata jsonb
);

comment on column storage.objects.owner is 'Deprecated: owner_id says whose it is.';
comment on column storage.objects.version is 'Names the file with the bytes; each write has another.';

create unique index if not exists bucketid_objname on storage.objects (bucket_id, name);
create index if not exists name_prefix_search on storage.objects (name text_pattern_ops);

-- What policies ask ---------------------------------------------------------------------------------------------------

create or replace function storage.foldername(name text)
returns text[]
language sql
immutable
as $$
  select (string_to_array(name, '/'))[1:cardinality(string_to_array(name, '/')) - 1]
$$;

create or replace function storage.filename(name text)
returns text
language sql
immutable
as $$
  select (string_to_array(name, '/'))[cardinality(string_to_array(name, '/'))]
$$;

create or replace function storage.extension(name text)
returns text
language sql
immutable
as $$
  select (regexp_match(name, '[^./]*$'))[1]
$$;

create or replace function storage.operation()
returns text
language sql
stable
as $$
  select current_setting('storage.operation', true)
$$;

-- Listing -------------------------------------------------------------------------------------------------------------

-- One level of a bucket: files, and folders as rows that have only a name. As the caller, whose policies hide the rest.
create or replace function storage.search(
  prefix text,
  bucketname text,
  limits integer default 100,
  levels integer default 1,
  offsets integer default 0,
  search text default '',
  sortcolumn text default 'name',
  sortorder text default 'asc'
)
returns table (
  name text,
  id uuid,
  updated_at timestamptz,
  created_at timestamptz,
  last_accessed_at timestamptz,
  metadata jsonb
)
language sql
stable
as $$
  with below as (
    select o.*, string_to_array(substr(o.name, length(prefix) + 1), '/') as parts
    from storage.objects o
    where o.bucket_id = bucketname
      and o.name ilike regexp_replace(prefix || search, '([\\%_])', '\\\1', 'g') || '%'
  ),
  level as (
    select cardinality(string_to_array('.' || search, '/')) as depth
  ),
  entries as (
    select
      array_to_string(parts[1:depth], '/') as name,
      null::uuid as id,
      null::timestamptz as updated_at,
      null::timestamptz as created_at,
      null::timestamptz as last_accessed_at,
      null::jsonb as metadata
    from below, level
    where cardinality(parts) > depth
    group by 1
    union all
    select array_to_string(parts, '/'), b.id, b.updated_at, b.created_at, b.last_accessed_at, b.metadata
    from below b, level
    where cardinality(parts) = depth
  ),
  ranked as (
    select
      e.*,
      row_number() over (
        order by
          case sortcolumn
            when 'updated_at' then e.updated_at
            when 'created_at' then e.created_at
            when 'last_accessed_at' then e.last_accessed_at
          end nulls first,
          lower(e.name) collate "C",
          e.name collate "C"
      ) as rank
    from entries e
  )
  select r.name, r.id, r.updated_at, r.created_at, r.last_accessed_at, r.metadata
  from ranked r
  order by case when lower(sortorder) = 'desc' then -r.rank else r.rank end
  limit least(limits, 1500)
  offset offsets
$$;

-- The same with whole names, page by page from the last name of the page before; folders end in a slash.
create or replace function storage.search_v2(
  prefix text,
  bucket_name text,
  limits integer default 100,
  with_delimiter boolean default false,
  start_after text default '',
  sort_order text default 'asc',
  sort_column text default 'name',
  sort_column_after timestamptz default null
)
returns table (
  key text,
  id uuid,
  updated_at timestamptz,
  created_at timestamptz,
  last_accessed_at timestamptz,
  metadata jsonb
)
language sql
stable
as $$
  with below as (
    select o.*, position('/' in substr(o.name, length(prefix) + 1)) as slash
    from storage.objects o
    where o.bucket_id = bucket_name and starts_with(o.name, prefix)
  ),
  entries as (
    select
      left(b.name, length(prefix) + slash) as key,
      null::uuid as id,
      null::timestamptz as updated_at,
      null::timestamptz as created_at,
      null::timestamptz as last_accessed_at,
      null::jsonb as metadata
    from below b
    where with_delimiter and slash > 0
    group by 1
    union all
    select b.name, b.id, b.updated_at, b.created_at, b.last_accessed_at, b.metadata
    from below b
    where not with_delimiter or slash = 0
  ),
  sorted as (
    select
      e.*,
      -- Folders have no time of their own: they come before all files.
      case sort_column
        when 'updated_at' then coalesce(e.updated_at, '-infinity')
        when 'created_at' then coalesce(e.created_at, '-infinity')
        else '-infinity'
      end as instant
    from entries e
  )
  select s.key, s.id, s.updated_at, s.created_at, s.last_accessed_at, s.metadata
  from sorted s
  where start_after = ''
    or (sort_order = 'asc'
      and (s.instant, s.key collate "C") > (coalesce(sort_column_after, '-infinity'), start_after collate "C"))
    or (sort_order = 'desc'
      and (s.instant, s.key collate "C") < (coalesce(sort_column_after, '-infinity'), start_after collate "C"))
  order by
    case when sort_order = 'asc' then s.instant end,
    case when sort_order = 'asc' then s.key end collate "C",
    case when sort_order = 'desc' then s.instant end desc,
    case when sort_order = 'desc' then s.key end collate "C" desc
  limit limits
$$;

-- Guards --------------------------------------------------------------------------------------------------------------

create or replace function storage.update_updated_at_column()
returns trigger
language plpgsql
as $$
begin
  new.updated_at := now();
  return new;
end;
$$;

create or replace trigger update_objects_updated_at
before update on storage.objects
for each row execute function storage.update_updated_at_column();

-- A row that is deleted by SQL would leave its file behind: hosted, too, only the Storage API deletes.
create or replace function storage.protect_delete()
returns trigger
language plpgsql
as $$
begin
  if coalesce(current_setting('storage.allow_delete_query', true), '') <> 'true' then
    raise insufficient_privilege using
      message = 'Direct deletion from storage tables is not allowed. Use the Storage API instead.';
  end if;
  return null;
end;
$$;

create or replace trigger protect_buckets_delete
before delete on storage.buckets
for each statement execute function storage.protect_delete();

create or replace trigger protect_objects_delete
before delete on storage.objects
for each statement execute function storage.protect_delete();

-- Rights --------------------------------------------------------------------------------------------------------------

alter table storage.buckets enable row level security;
alter table storage.objects enable row level security;

do $$
declare
  thing text;
begin
  alter type storage.buckettype owner to supabase_storage_admin;
  foreach thing in array array['buckets', 'objects'] loop
    execute format('alter table storage.%I owner to supabase_storage_admin', thing);
    execute format('grant all on storage.%I to anon, authenticated, service_role', thing);
    execute format('grant all on storage.%I to postgres with grant option', thing);
  end loop;
  for thing in
    select p.oid::regprocedure from pg_catalog.pg_proc p where p.pronamespace = 'storage'::regnamespace
  loop
    execute format('alter function %s owner to supabase_storage_admin', thing);
  end loop;
end;
$$;

-- postgres makes policies on these tables, which takes their owner's rights; what a hosted project refuses it all the
-- same would come to light only at the first deployment.
grant supabase_storage_admin to postgres;

create or replace function extensions.protect_storage_tables()
returns event_trigger
language plpgsql
set search_path = ''
as $$
begin
  if current_user = 'postgres' and exists (
    select from pg_catalog.pg_event_trigger_ddl_commands() c where c.schema_name = 'storage'
  ) then
    raise insufficient_privilege using
      message = 'Schema storage belongs to the platform: policies may be made there, nothing else.';
  end if;
end;
$$;

do $$
begin
  if not exists (select from pg_catalog.pg_event_trigger where evtname = 'protect_storage_tables') then
    create event trigger protect_storage_tables on ddl_command_end
      when tag in ('ALTER TABLE', 'CREATE TABLE', 'CREATE INDEX', 'CREATE FUNCTION', 'ALTER FUNCTION')
      execute function extensions.protect_storage_tables();
  end if;
end;
$$;
