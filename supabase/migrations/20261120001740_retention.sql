-- Retention: what is past its time goes, every kind by a job of the clock, a batch at a time, and nothing a moment earlier.
--
-- The platform says how long each kind is kept at least (private.retention_periods), an organization may keep it longer. Functions
-- that depend on the clock take it as an argument. Whoever finds a row or a table in use leaves it for the next time.

-- Overrides -----------------------------------------------------------------------------------------------------------------

create function private.tg_organization_settings__check_retention()
returns trigger
language plpgsql
volatile
security definer -- the periods are in "private"
set search_path = ''
as $$
declare
  wrong record;
begin
  select o.key, p.days into wrong
  from jsonb_each(new.retention_overrides) o
  left join private.retention_periods p on p.kind = o.key
  where p.kind is null
    or jsonb_typeof(o.value) <> 'number'
    -- A hundred years: what is to be kept for ever needs no number.
    or not case when jsonb_typeof(o.value) = 'number' then
      o.value::numeric = trunc(o.value::numeric) and o.value::numeric between p.days and 36525 end
  order by o.key
  limit 1;
  if found then
    perform private.raise_error('BL921', 'invalid_retention', format('"%s" cannot be kept so long', wrong.key),
      jsonb_build_object('kind', wrong.key, 'minimum_days', wrong.days),
      case when wrong.days is null then 'There is no such kind' else 'Whole days, not fewer than the platform''s' end);
  end if;
  return new;
end;
$$;
comment on function private.tg_organization_settings__check_retention() is 'Trigger: error invalid_retention for a kind that nobody knows, or less than the platform keeps.';
create trigger organization_settings_500_check_retention
  before insert or update of retention_overrides on public.organization_settings
  for each row when (new.retention_overrides <> '{}')
  execute function private.tg_organization_settings__check_retention();

create function private.retention_cutoffs(kind text, at timestamptz default now())
returns table (organization_id uuid, cutoff timestamptz)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    o.id,
    at - make_interval(days => greatest(
      p.days, case when jsonb_typeof(s.retention_overrides -> p.kind) = 'number' then (s.retention_overrides ->> p.kind)::numeric::int end))
  from private.retention_periods p
  cross join public.organizations o
  left join public.organization_settings s on s.organization_id = o.id
  where p.kind = retention_cutoffs.kind;
end;
$$;
comment on function private.retention_cutoffs(text, timestamptz) is 'What each organization has from before its moment is past its time.';

create function private.longest_retention(kind text)
returns interval
language plpgsql
stable
set search_path = ''
as $$
begin
  return (
    select make_interval(days => greatest(
      p.days,
      (
        select max((s.retention_overrides ->> p.kind)::numeric)
        from public.organization_settings s
        where s.retention_overrides ? p.kind and jsonb_typeof(s.retention_overrides -> p.kind) = 'number'
      )::int))
    from private.retention_periods p
    where p.kind = longest_retention.kind
  );
end;
$$;
comment on function private.longest_retention(text) is 'After which a kind is past its time whosever it is.';

-- Logs --------------------------------------------------------------------------------------------------------------------------

create function private.delete_past_rows(kind text, at timestamptz default now(), batch_size int default 10000)
returns bigint
language plpgsql
volatile
set search_path = ''
set lock_timeout = '500ms'
set plan_cache_mode = force_custom_plan
-- Every step is a look-up in one index, whatever a LIMIT is taken for.
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  key_columns text;
  deleted bigint;
  of_nobody bigint := 0;
begin
  key_columns := case kind
    when 'webhook_events' then 'id, created_at'
    when 'api_call_logs' then 'organization_id, id, created_at'
    when 'analytics_events' then 'organization_id, id, created_at'
  end;
  if key_columns is null then
    raise exception '% is no log that retention deletes from', kind;
  end if;
  execute format(
    'delete from public.%1$I d
     where (%2$s) in (
       select %3$s
       from private.retention_cutoffs($1, $2) o
       cross join lateral (
         select %2$s
         from public.%1$I r
         where r.organization_id = o.organization_id and r.created_at < o.cutoff
         limit $3
         for update skip locked
       ) past
       limit $3
     )', kind, key_columns, 'past.' || replace(key_columns, ', ', ', past.'))
  using kind, at, batch_size;
  get diagnostics deleted = row_count;
  if kind = 'webhook_events' and deleted < batch_size then
    -- Of numbers that nobody registered.
    delete from public.webhook_events d
    where (d.id, d.created_at) in (
      select r.id, r.created_at
      from public.webhook_events r
      where r.organization_id is null and r.created_at < at - private.retention(kind, null)
      limit batch_size - deleted
      for update skip locked
    );
    get diagnostics of_nobody = row_count;
  end if;
  return deleted + of_nobody;
end;
$$;
comment on function private.delete_past_rows(text, timestamptz, int) is
  'Deletes up to batch_size rows of a log (webhook_events, api_call_logs, analytics_events), each past its own organization''s retention; returns how many.';

-- Partitions behind -----------------------------------------------------------------------------------------------------------

create function private.drop_past_partition(at timestamptz default now())
returns text
language plpgsql
volatile
set search_path = ''
set lock_timeout = '300ms'
as $$
declare
  past record;
  is_needed boolean;
begin
  for past in
    select c.relname as name, log.is_emptied
    from (values
      ('webhook_events', 'webhook_events', false),
      ('api_call_logs', 'api_call_logs', false),
      ('analytics_events', 'analytics_events', false),
      -- Seals reach over the end of a month: their rows go seal by seal, and then the table.
      ('audit_logs', 'audit_logs', true),
      ('audit_log_values', 'audit_logs', true)
    ) log (table_name, kind, is_emptied)
    join pg_catalog.pg_inherits i on i.inhparent = ('public.' || log.table_name)::regclass
    join pg_catalog.pg_class c on c.oid = i.inhrelid
    where c.relname ~ ('^' || log.table_name || '_\d{4}_\d\d$')
      and (to_date(right(c.relname, 7), 'YYYY_MM')::timestamp + interval '1 month') at time zone 'UTC'
        <= at - private.longest_retention(log.kind)
    order by right(c.relname, 7), c.relname
  loop
    is_needed := false;
    if past.is_emptied then
      execute format('select exists (select from partitions.%I)', past.name) into is_needed;
    end if;
    continue when is_needed;
    begin
      execute format('drop table partitions.%I', past.name);
      -- One at a time: its log stands still until the transaction ends.
      return past.name;
    exception when lock_not_available then
      -- Somebody reads it. The next time, or the next one.
      continue;
    end;
  end loop;
  return null;
end;
$$;
comment on function private.drop_past_partition(timestamptz) is
  'Drops one month of a log that is past the retention of every organization, if it can be had at once; returns its name. Call it until there is none.';

-- The audit log --------------------------------------------------------------------------------------------------------------

create function private.anonymize_addresses(at timestamptz default now(), batch_size int default 10000)
returns bigint
language plpgsql
volatile
set search_path = ''
set lock_timeout = '500ms'
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  changed bigint;
begin
  update public.audit_log_values v
  set ip_address = network(set_masklen(v.ip_address, case family(v.ip_address) when 4 then 24 else 48 end))
  where (v.organization_id, v.audit_log_id, v.created_at) in (
    select past.organization_id, past.audit_log_id, past.created_at
    from private.retention_cutoffs('audit_ip_addresses', at) o
    cross join lateral (
      select r.organization_id, r.audit_log_id, r.created_at
      from public.audit_log_values r
      where r.organization_id = o.organization_id
        and r.created_at < o.cutoff
        and masklen(r.ip_address) = case family(r.ip_address) when 4 then 32 else 128 end
      limit batch_size
      for update skip locked
    ) past
    limit batch_size
  );
  get diagnostics changed = row_count;
  return changed;
end;
$$;
comment on function private.anonymize_addresses(timestamptz, int) is
  'Takes from the addresses of the audit log what names a host (all but /24, of IPv6 /48), a batch at a time; returns how many.';

create table private.audit_purges (
  organization_id uuid not null,
  number bigint not null,
  constraint audit_purges_pkey primary key (organization_id)
);
comment on table private.audit_purges is
  'Up to which seal the rows of an organization''s audit log are gone: there the next deletion goes on.';
alter table private.audit_purges enable row level security;
alter table private.audit_purges force row level security;
revoke all on private.audit_purges from public, anon, authenticated, service_role;

create function private.audited_organizations()
returns setof uuid
language plpgsql
stable
set search_path = ''
as $$
declare
  last_one uuid := '00000000-0000-0000-0000-000000000000'::uuid;
begin
  loop
    -- From one to the next in the key: those that were purged have a log, too.
    select s.organization_id into last_one
    from public.audit_seals s
    where s.organization_id > last_one
    order by s.organization_id
    limit 1;
    exit when not found;
    return next last_one;
  end loop;
end;
$$;
comment on function private.audited_organizations() is 'Whoever has a sealed audit log.';

create function private.delete_old_audit_logs(at timestamptz default now(), batch_size int default 10000)
returns bigint
language plpgsql
volatile
set search_path = ''
set lock_timeout = '500ms'
set plan_cache_mode = force_custom_plan
as $$
declare
  audited uuid;
  keeps interval;
  seal public.audit_seals;
  through public.audit_seals;
  newest timestamptz;
  row_count bigint;
  deleted bigint := 0;
begin
  -- One at a time: each goes on where the other ended.
  if not pg_try_advisory_xact_lock(hashtextextended('balcao:delete_old_audit_logs', 0)) then
    return 0;
  end if;
  for audited in select o.id from private.audited_organizations() o (id) loop
    keeps := private.retention('audit_logs', audited);
    through := null;
    newest := null;
    row_count := 0;
    for seal in
      select s.*
      from public.audit_seals s
      where s.organization_id = audited
        and s.number > coalesce((select p.number from private.audit_purges p where p.organization_id = s.organization_id), 0)
      order by s.number
      limit batch_size
    loop
      exit when seal.last_created_at >= at - keeps or deleted + row_count >= batch_size;
      through := seal;
      newest := greatest(newest, seal.last_created_at);
      row_count := row_count + seal.row_count;
    end loop;
    continue when through.number is null;
    insert into private.audit_purges as p (organization_id, number)
    values (through.organization_id, through.number)
    on conflict on constraint audit_purges_pkey do update
    set number = excluded.number;
    -- A seal has all of its rows or none, whatever an organization makes of its retention meanwhile.
    with gone as (
      delete from public.audit_logs l
      where l.organization_id = through.organization_id
        and l.created_at <= newest
        and (l.epoch, l.transaction_id) < (through.epoch, through.to_transaction_id)
      returning l.organization_id, l.id, l.created_at
    ), values_gone as (
      delete from public.audit_log_values v
      using gone g
      where v.organization_id = g.organization_id and v.audit_log_id = g.id and v.created_at = g.created_at
    )
    select deleted + count(*) into deleted from gone;
    exit when deleted >= batch_size;
  end loop;
  return deleted;
end;
$$;
comment on function private.delete_old_audit_logs(timestamptz, int) is
  'Deletes what is past its retention from the audit log, by whole seals, until there are batch_size rows; returns how many. The seals stay: the chain can be verified for ever.';

create function private.delete_parked_message_updates(at timestamptz default now(), batch_size int default 10000)
returns bigint
language plpgsql
volatile
set search_path = ''
set lock_timeout = '500ms'
as $$
declare
  deleted bigint;
begin
  delete from private.parked_message_updates d
  where (d.organization_id, d.id) in (
    select p.organization_id, p.id
    from private.parked_message_updates p
    join private.retention_cutoffs('webhook_events', at) o on o.organization_id = p.organization_id
    where p.created_at < o.cutoff
    order by p.organization_id, p.id
    limit batch_size
    for update of p skip locked
  );
  get diagnostics deleted = row_count;
  return deleted;
end;
$$;
comment on function private.delete_parked_message_updates(timestamptz, int) is
  'Deletes what was told of messages that never came; returns how many.';

-- Closing an organization -------------------------------------------------------------------------------------------------------

create table private.purges (
  organization_id uuid not null,
  closed_at timestamptz not null,
  begun_at timestamptz not null default now(),
  emptied_tables text[] not null default '{}',
  counts jsonb not null default '{}',
  completed_at timestamptz,
  constraint purges_pkey primary key (organization_id),
  constraint purges_counts_is_object_check check (jsonb_typeof(counts) = 'object')
);
comment on table private.purges is 'Which closed organizations were purged, when, and how far one has come. No foreign key: it stays.';
comment on column private.purges.emptied_tables is 'Need not be looked at again until the end.';
comment on column private.purges.counts is 'Rows by table, files by bucket.';
alter table private.purges enable row level security;
alter table private.purges force row level security;
revoke all on private.purges from public, anon, authenticated, service_role;

create function private.organization_to_close(organization_id uuid, reason text)
returns public.organizations
language plpgsql
volatile
set search_path = ''
as $$
declare
  organization public.organizations;
begin
  if private.is_platform_admin() then
    perform private.require_platform_admin(reason);
  else
    perform private.require_role(organization_id, 'owner');
  end if;
  select o.* into organization from public.organizations o where o.id = organization_to_close.organization_id for no key update;
  if not found then
    perform private.raise_error('BL100', 'organization_not_found', 'There is no such organization');
  end if;
  return organization;
end;
$$;
comment on function private.organization_to_close(uuid, text) is 'An organization that its owner or the platform closes or opens, locked; or error not_allowed, reason_required, organization_not_found.';

create function private.closing_answer(organization public.organizations)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return jsonb_build_object(
    'organization_id', organization.id,
    'closed_at', organization.closed_at,
    'purged_after', organization.closed_at + private.retention('closed_organizations', organization.id));
end;
$$;
comment on function private.closing_answer(public.organizations) is 'What is told of an organization that was closed or opened.';

create function private.close_organization(organization_id uuid, reason text)
returns jsonb
language plpgsql
volatile
security definer -- writes what no client may, and deletes secrets
set search_path = ''
as $$
declare
  organization public.organizations := private.organization_to_close(organization_id, reason);
begin
  if organization.closed_at is not null then
    return private.closing_answer(organization);
  end if;
  update public.organizations o set closed_at = now() where o.id = organization.id returning o.* into organization;
  -- Nothing comes in and nothing goes out any more.
  delete from private.instance_secrets s where s.organization_id = organization.id;
  update public.whatsapp_instances i
  set status = 'disconnected'
  where i.organization_id = organization.id and i.status <> 'disconnected';
  perform private.append_audit_log(
    organization.id, 'EVENT', 'organization.closed', 'organizations', organization.id,
    jsonb_strip_nulls(jsonb_build_object('reason', left(reason, 500))), null, null, null);
  return private.closing_answer(organization);
end;
$$;
comment on function private.close_organization(uuid, text) is 'See public.close_organization().';
grant execute on function private.close_organization(uuid, text) to authenticated, service_role;

create function public.close_organization(organization_id uuid, reason text default null)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.close_organization(organization_id, reason);
end;
$$;
comment on function public.close_organization(uuid, text) is
  'Closes an organization: its numbers are disconnected, it is published nowhere, and after purged_after it is deleted with all that it has. Until then its members read on, and it can be opened again. Twice is once. Answers {organization_id, closed_at, purged_after}. Owners, and platform administrators with a reason; the reason stays in the audit log and must name no customer. Errors: not_allowed, reason_required, organization_not_found.';
grant execute on function public.close_organization(uuid, text) to authenticated, service_role;

create function private.reopen_organization(organization_id uuid, reason text)
returns jsonb
language plpgsql
volatile
security definer -- writes what no client may
set search_path = ''
as $$
declare
  organization public.organizations := private.organization_to_close(organization_id, reason);
begin
  if organization.closed_at is null then
    return private.closing_answer(organization);
  end if;
  if exists (
    select from private.purges p where p.organization_id = organization.id and p.completed_at is null
  ) then
    perform private.raise_error('BL922', 'organization_purged', 'Its time is over, and it is being deleted', '{}',
      'A backup can bring it back into a project of its own');
  end if;
  update public.organizations o set closed_at = null where o.id = organization.id returning o.* into organization;
  perform private.append_audit_log(
    organization.id, 'EVENT', 'organization.reopened', 'organizations', organization.id,
    jsonb_strip_nulls(jsonb_build_object('reason', left(reason, 500))), null, null, null);
  return private.closing_answer(organization);
end;
$$;
comment on function private.reopen_organization(uuid, text) is 'See public.reopen_organization().';
grant execute on function private.reopen_organization(uuid, text) to authenticated, service_role;

create function public.reopen_organization(organization_id uuid, reason text default null)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.reopen_organization(organization_id, reason);
end;
$$;
comment on function public.reopen_organization(uuid, text) is
  'Opens a closed organization again; its numbers have to be connected anew. Answers as close_organization() does. Owners, and platform administrators with a reason. Errors: not_allowed, reason_required, organization_not_found, organization_purged.';
grant execute on function public.reopen_organization(uuid, text) to authenticated, service_role;

create function private.tg_whatsapp_instances__refuse_closed()
returns trigger
language plpgsql
volatile
security definer -- waits for whoever is closing it
set search_path = ''
as $$
begin
  if (select o.closed_at from public.organizations o where o.id = new.organization_id for share) is not null then
    perform private.raise_error('BL923', 'organization_closed', 'This organization is closed', '{}', 'Its owner can open it again');
  end if;
  return new;
end;
$$;
comment on function private.tg_whatsapp_instances__refuse_closed() is 'Trigger: error organization_closed when a closed organization connects a number.';
create trigger whatsapp_instances_500_refuse_closed
  before insert on public.whatsapp_instances
  for each row when (new.status <> 'disconnected')
  execute function private.tg_whatsapp_instances__refuse_closed();
create trigger whatsapp_instances_500_refuse_closed_when_changed
  before update of status on public.whatsapp_instances
  for each row when (new.status <> 'disconnected' and old.status = 'disconnected')
  execute function private.tg_whatsapp_instances__refuse_closed();

-- Purging it ------------------------------------------------------------------------------------------------------------------

create function private.tables_that_outlive()
returns table (table_name text, reason text)
language sql
immutable
set search_path = ''
as $$
  values
    ('public.audit_logs', 'who did what, by ids only, is kept for five years; what names persons (audit_log_values) goes'),
    ('public.audit_seals', 'the chain over it'),
    ('private.audit_purges', 'how far it has gone'),
    ('private.purges', 'that it was purged')
$$;
comment on function private.tables_that_outlive() is 'Tables in which a purged organization leaves rows, and why. In every other one it leaves none.';

create function private.purge_tables()
returns text[]
language plpgsql
stable
set search_path = ''
as $$
begin
  return array(
    select format('%I.%I', n.nspname, c.relname)
    from unnest(private.tables_by_reference(array(
      select c.oid::regclass
      from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
      where n.nspname in ('public', 'private')
        and c.relkind in ('r', 'p')
        and not c.relispartition
        and exists (
          select from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attname = 'organization_id' and not a.attisdropped)
        -- The job that purges is one of them: they go first, and it itself at the very end.
        and c.oid <> 'public.message_queue'::regclass
        and format('%I.%I', n.nspname, c.relname) not in (select o.table_name from private.tables_that_outlive() o)
    ))) with ordinality as t (relation, position)
    join pg_catalog.pg_class c on c.oid = t.relation
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    order by t.position desc
  );
end;
$$;
comment on function private.purge_tables() is 'The tables with tenants'' rows, out of the catalog; each before those that it refers to.';

create function private.delete_rows_of(organization_id uuid, table_name text, batch_size int)
returns bigint
language plpgsql
volatile
set search_path = ''
set lock_timeout = '2s'
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  key_columns text;
  deleted bigint;
begin
  select string_agg(format('%I', a.attname), ', ' order by k.position) into key_columns
  from pg_catalog.pg_index i
  cross join lateral unnest(i.indkey::int2[]) with ordinality as k (attnum, position)
  join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
  where i.indrelid = table_name::regclass and i.indisprimary;
  execute format(
    'delete from %1$s d where (%2$s) in (select %2$s from %1$s where organization_id = $1 limit $2)', table_name, key_columns)
  using organization_id, batch_size;
  get diagnostics deleted = row_count;
  return deleted;
end;
$$;
comment on function private.delete_rows_of(uuid, text, int) is 'Deletes up to batch_size of an organization''s rows in a table; returns how many.';

create function private.files_of_organization(organization_id uuid)
returns table (bucket text, paths text[])
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
begin
  if to_regclass('storage.objects') is null then
    return;
  end if;
  -- Whatever lies in its folder of a bucket of ours; the operators are those of the index.
  return query execute
    'select f.bucket_id, array_agg(f.name)
     from (
       select o.bucket_id, o.name
       from storage.objects o
       where o.name ~>=~ ($1 || ''/'') and o.name ~<~ ($1 || ''0'')
       order by o.bucket_id, o.name
       limit 200
     ) f
     group by f.bucket_id
     order by f.bucket_id
     limit 1'
  using organization_id::text;
end;
$$;
comment on function private.files_of_organization(uuid) is 'Some of an organization''s files that still lie in Storage, of one bucket.';

create function private.count_files_of_organization(organization_id uuid)
returns jsonb
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  counts jsonb := '{}'::jsonb;
begin
  if to_regclass('storage.objects') is not null then
    execute
      'select coalesce(jsonb_object_agg(''files.'' || f.bucket_id, f.count), ''{}'')
       from (
         select o.bucket_id, count(*) as count
         from storage.objects o
         where o.name ~>=~ ($1 || ''/'') and o.name ~<~ ($1 || ''0'')
         group by o.bucket_id
       ) f'
    using organization_id::text
    into counts;
  end if;
  return counts;
end;
$$;
comment on function private.count_files_of_organization(uuid) is 'How many files an organization has in Storage, by bucket.';

create function private.enqueue_due_purges(at timestamptz default now())
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
    o.id, 'purge_organization', jsonb_build_object('closed_at', o.closed_at), 80, null, null, 'purge:' || o.closed_at, 100
  )::private.new_job)
  into jobs
  from public.organizations o
  join private.retention_cutoffs('closed_organizations', at) c on c.organization_id = o.id
  where o.closed_at < c.cutoff;
  if jobs is not null then
    select count(*) into enqueued from private.enqueue_jobs(jobs);
  end if;
  return enqueued;
end;
$$;
comment on function private.enqueue_due_purges(timestamptz) is 'Brings a job for each organization that has been closed for long enough; returns how many.';

create function private.begin_purge(held public.message_queue)
returns private.purges
language plpgsql
volatile
set search_path = ''
as $$
declare
  organization public.organizations;
  purge private.purges;
begin
  select o.* into organization from public.organizations o where o.id = held.organization_id for no key update;
  -- Opened again, and perhaps closed again since: then it is another job's, in its time.
  if organization.closed_at is distinct from (held.payload ->> 'closed_at')::timestamptz then
    return null;
  end if;
  select p.* into purge from private.purges p where p.organization_id = held.organization_id;
  if purge.completed_at is null and purge.closed_at = organization.closed_at then
    return purge;
  end if;
  -- One that was restored, and closed once more, begins anew.
  insert into private.purges as p (organization_id, closed_at, counts)
  values (held.organization_id, organization.closed_at, private.count_files_of_organization(held.organization_id))
  on conflict on constraint purges_pkey do update
  set closed_at = excluded.closed_at, begun_at = excluded.begun_at, completed_at = null, counts = excluded.counts, emptied_tables = '{}'
  returning p.* into purge;
  perform private.append_audit_log(
    held.organization_id, 'EVENT', 'organization.purge_begun', 'organizations', held.organization_id,
    jsonb_build_object('closed_at', organization.closed_at), null, null, null);
  return purge;
end;
$$;
comment on function private.begin_purge(public.message_queue) is 'The purge that a job is about, begun if it is not yet: from now on nobody opens the organization again. Null: it is none any more.';

create function private.continue_purge(job jsonb, batch_size int)
returns jsonb
language plpgsql
volatile
security definer -- deletes from every table, and ends jobs
set search_path = ''
set lock_timeout = '2s'
as $$
declare
  held constant public.message_queue := private.hold_job(job);
  purge private.purges := private.begin_purge(held);
  found_files record;
  table_name text;
  deleted bigint;
begin
  if purge.organization_id is null then
    return private.end_job(held, 'not_closed');
  end if;
  -- The rows go as one: the audit log says it once, not of each.
  perform set_config('balcao.purging', held.organization_id::text, true);

  delete from public.message_queue q
  where (q.organization_id, q.id) in (
    select o.organization_id, o.id
    from public.message_queue o
    where o.organization_id = held.organization_id and o.id <> held.id and o.status <> 'processing'
    limit batch_size
    for update skip locked
  );
  get diagnostics deleted = row_count;
  if deleted > 0 then
    perform private.count_purged(purge, 'public.message_queue', deleted, false);
    return '{"action": "again"}'::jsonb;
  end if;
  -- Whoever has something in hand for it may be about to write a file.
  if exists (
    select from public.message_queue o where o.organization_id = held.organization_id and o.id <> held.id
  ) or exists (
    select from private.backup_leases l where l.organization_id = held.organization_id and l.expires_at > clock_timestamp()
  ) then
    return private.put_off_job(held, now() + interval '1 minute', 'waits_for_a_job');
  end if;

  select f.* into found_files from private.files_of_organization(held.organization_id) f;
  if found then
    return jsonb_build_object('action', 'remove', 'bucket', found_files.bucket, 'paths', found_files.paths);
  end if;

  foreach table_name in array private.purge_tables() loop
    continue when table_name = any (purge.emptied_tables);
    deleted := private.delete_rows_of(held.organization_id, table_name, batch_size);
    perform private.count_purged(purge, table_name, deleted, deleted < batch_size);
    if deleted > 0 then
      return '{"action": "again"}'::jsonb;
    end if;
  end loop;
  return private.finish_purge(held, purge);
end;
$$;
comment on function private.continue_purge(jsonb, int) is 'See public.continue_purge().';
grant execute on function private.continue_purge(jsonb, int) to service_role;

create function private.count_purged(purge private.purges, what text, count bigint, is_empty boolean)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  update private.purges p
  set counts = case when count > 0 then p.counts || jsonb_build_object(what, coalesce((p.counts ->> what)::bigint, 0) + count) else p.counts end,
      emptied_tables = case when is_empty then p.emptied_tables || what else p.emptied_tables end
  where p.organization_id = purge.organization_id;
end;
$$;
comment on function private.count_purged(private.purges, text, bigint, boolean) is 'Notes down how far a purge has come.';

create function private.finish_purge(held public.message_queue, purge private.purges)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  table_name text;
  late text;
begin
  -- Nobody adds a row any more: whatever refers to the organization waits for this, and then finds none.
  perform from public.organizations o where o.id = held.organization_id for update;
  foreach table_name in array private.purge_tables() loop
    if private.delete_rows_of(held.organization_id, table_name, 100) > 0 then
      late := table_name;
      exit;
    end if;
  end loop;
  if late is not null then
    -- Somebody wrote while his table was thought empty.
    update private.purges p set emptied_tables = '{}' where p.organization_id = held.organization_id;
    return '{"action": "again"}'::jsonb;
  end if;
  select p.* into purge from private.purges p where p.organization_id = held.organization_id;
  perform private.append_audit_log(
    held.organization_id, 'EVENT', 'organization.purged', 'organizations', held.organization_id, jsonb_build_object('counts', purge.counts),
    null, null, null);
  delete from public.audit_log_values v where v.organization_id = held.organization_id;
  update private.purges p
  set completed_at = now(), emptied_tables = '{}'
  where p.organization_id = held.organization_id;
  perform private.end_job(held, 'purged');
  delete from public.message_queue q where q.organization_id = held.organization_id;
  delete from public.organizations o where o.id = held.organization_id;
  return '{"action": "done", "reason": "purged"}'::jsonb;
end;
$$;
comment on function private.finish_purge(public.message_queue, private.purges) is 'The last step: the organization itself, and the job.';

create function public.continue_purge(job jsonb, batch_size int default 1000)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.continue_purge(job, batch_size);
end;
$$;
comment on function public.continue_purge(jsonb, int) is
  'For the worker, with a held job of type purge_organization: {action: again}, {action: remove, bucket, paths} (files to delete; then it asks again), or {action: done, reason}. Secret key only. Errors: lease_lost.';
grant execute on function public.continue_purge(jsonb, int) to service_role;
