-- Platform administrators: the people who run the platform. They see a tenant's data only through functions that say so in that
-- tenant's own audit log, with a reason.

create table private.platform_admins (
  user_id uuid not null,
  name text not null,
  is_active boolean not null default true,
  created_at timestamptz not null default now(),
  constraint platform_admins_pkey primary key (user_id)
);
comment on table private.platform_admins is 'AtendeAí''s admin_lify. Written by hand, by whoever has the database; a member of no tenant by that.';
alter table private.platform_admins enable row level security;
alter table private.platform_admins force row level security;
revoke all on private.platform_admins from public, anon, authenticated, service_role;

create function private.is_platform_admin()
returns boolean
language plpgsql
stable
security definer -- the list is in "private"
set search_path = ''
as $$
begin
  return exists (select from private.platform_admins a where a.user_id = (select auth.uid()) and a.is_active);
end;
$$;
comment on function private.is_platform_admin() is 'Whether the caller runs the platform.';
grant execute on function private.is_platform_admin() to authenticated, service_role;

create function private.require_platform_admin(reason text)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  if not private.is_platform_admin() and not private.is_service() then
    perform private.raise_error('BL002', 'not_allowed', 'Only those who run the platform may do this');
  end if;
  if (length(btrim(reason)) between 10 and 500) is not true then
    perform private.raise_error('BL903', 'reason_required', 'Say in ten letters or more why', '{}', 'A ticket number and a few words');
  end if;
end;
$$;
comment on function private.require_platform_admin(text) is 'Error not_allowed, or reason_required.';

create function private.platform_list_organizations(reason text, search text)
returns setof public.organizations
language plpgsql
volatile
security definer -- across tenants
set search_path = ''
as $$
declare
  found_one public.organizations;
begin
  perform private.require_platform_admin(reason);
  for found_one in
    select o.*
    from public.organizations o
    where search is null or o.name ilike '%' || search || '%' or o.slug = search or o.id::text = search
    order by o.name, o.id
    limit 100
  loop
    perform private.append_audit_log(
      found_one.id, 'EVENT', 'platform.listed', 'organizations', found_one.id, jsonb_build_object('reason', btrim(reason)), null, null, null);
    return next found_one;
  end loop;
end;
$$;
comment on function private.platform_list_organizations(text, text) is 'See public.platform_list_organizations().';
grant execute on function private.platform_list_organizations(text, text) to authenticated, service_role;

create function public.platform_list_organizations(reason text, search text default null)
returns setof public.organizations
language plpgsql
volatile
set search_path = ''
as $$
begin
  return query select o.* from private.platform_list_organizations(reason, search) o;
end;
$$;
comment on function public.platform_list_organizations(text, text) is
  'For platform administrators: up to 100 organizations, by a part of the name, the slug or the id. Each one that is shown has it in its audit log, with the reason. Errors: not_allowed, reason_required.';
grant execute on function public.platform_list_organizations(text, text) to authenticated, service_role;

create function private.platform_read(organization_id uuid, table_name text, reason text, record_id uuid, after_id uuid, page_size int)
returns setof jsonb
language plpgsql
volatile
security definer -- across tenants
set search_path = ''
as $$
declare
  relation regclass;
  columns text;
begin
  perform private.require_platform_admin(reason);
  if not exists (select from public.organizations o where o.id = platform_read.organization_id) then
    perform private.raise_error('BL100', 'organization_not_found', 'There is no such organization');
  end if;
  -- A tenant's own tables with ids, as its members see them: secrets lie elsewhere.
  select c.oid into relation
  from pg_catalog.pg_class c
  where c.relnamespace = 'public'::regnamespace
    and c.relkind in ('r', 'p')
    and c.relname = platform_read.table_name
    and exists (select from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attname = 'organization_id' and a.attnotnull)
    and exists (select from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attname = 'id')
    and has_any_column_privilege('authenticated', c.oid, 'select');
  if not found then
    perform private.raise_error('BL904', 'table_not_found', 'Tenants have no such table', jsonb_build_object('table_name', table_name));
  end if;
  select string_agg(format('t.%I', a.attname), ', ' order by a.attnum) into columns
  from pg_catalog.pg_attribute a
  where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
    and has_column_privilege('authenticated', relation, a.attnum, 'select');
  perform private.append_audit_log(
    organization_id, 'EVENT', 'platform.read', table_name, record_id, jsonb_build_object('reason', btrim(reason)), null, null, null);
  return query execute format(
    'select to_jsonb(r)
     from (
       select %s
       from %s t
       where t.organization_id = $1 and ($2 is null or t.id = $2) and ($3 is null or t.id > $3)
       order by t.id
       limit $4
     ) r', columns, relation)
  using organization_id, record_id, after_id, least(greatest(coalesce(page_size, 100), 1), 1000);
end;
$$;
comment on function private.platform_read(uuid, text, text, uuid, uuid, int) is 'See public.platform_read().';
grant execute on function private.platform_read(uuid, text, text, uuid, uuid, int) to authenticated, service_role;

create function public.platform_read(
  organization_id uuid,
  table_name text,
  reason text,
  record_id uuid default null,
  after_id uuid default null,
  page_size int default 100
)
returns setof jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return query select r from private.platform_read(organization_id, table_name, reason, record_id, after_id, page_size) r;
end;
$$;
comment on function public.platform_read(uuid, text, text, uuid, uuid, int) is
  'For platform administrators: rows of one tenant''s table by id, one or page by page (after_id, page_size up to 1000). The tenant finds it in its audit log, with the reason. Errors: not_allowed, reason_required, organization_not_found, table_not_found.';
grant execute on function public.platform_read(uuid, text, text, uuid, uuid, int) to authenticated, service_role;
