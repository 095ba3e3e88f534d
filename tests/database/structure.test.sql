-- Rules of the schema that no reader should have to check: see README, "How it is built".
begin;
select plan(18);

create temporary view ours as
select c.oid, n.nspname, c.relname, c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.relispartition
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where n.nspname in ('public', 'private', 'partitions', 'analytics');

create temporary view our_functions as
select p.oid, n.nspname, p.proname, p.prosecdef, p.proconfig, p.proacl, p.oid::regprocedure::text as signature
from pg_catalog.pg_proc p
join pg_catalog.pg_namespace n on n.oid = p.pronamespace
where n.nspname in ('public', 'private') and p.prokind in ('f', 'p')
  and not exists (select from pg_catalog.pg_depend d where d.objid = p.oid and d.deptype = 'e');

select is_empty(
  $$ select nspname || '.' || relname from ours where relkind in ('r', 'p') and not (relrowsecurity and relforcerowsecurity) $$,
  'RLS is enabled and forced on every table');

select is_empty(
  $$
    select polname || ' on ' || polrelid::regclass
    from pg_catalog.pg_policy
    where polrelid in (select oid from ours) and (polroles <> array['authenticated'::regrole::oid] or polcmd = '*' or not polpermissive)
  $$,
  'every policy is for one command, to authenticated');

select is_empty(
  $$
    select polrelid::regclass || ' ' || polcmd::text from pg_catalog.pg_policy
    where polrelid in (select oid from ours) group by polrelid, polcmd having count(*) > 1
  $$,
  'no table has two policies for one command');

select is_empty(
  $$
    select c.oid::regclass || ' ' || a.grantee::regrole || ' ' || a.privilege_type
    from pg_catalog.pg_class c
    join ours o on o.oid = c.oid
    cross join lateral aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
    where a.grantee <> c.relowner
      and (a.grantee = 0 or a.grantee::regrole::text = 'anon' or a.privilege_type not in ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
        or o.nspname <> 'public')
      and a.grantee::regrole::text in ('-', 'anon', 'authenticated', 'service_role')
  $$,
  'no table is granted to anon or PUBLIC, outside public to nobody, and nothing beyond reading and writing rows');

select is_empty(
  $$
    select o.nspname || '.' || o.relname from ours o
    join pg_catalog.pg_class c on c.oid = o.oid
    where o.relkind = 'v' and not coalesce(c.reloptions @> '{security_invoker=true}', false)
      or o.relkind in ('m', 'f') and o.nspname <> 'analytics'
  $$,
  'every view asks as its reader, and what cannot is out of the API''s sight');

select is_empty(
  $$ select signature from our_functions where nspname = 'public' and prosecdef $$,
  'no function in the API schema is security definer');

select is_empty(
  $$ select signature from our_functions where not coalesce(proconfig @> array['search_path=""'], false) $$,
  'every function has an empty search_path');

select results_eq(
  $$
    select replace(f.signature, 'public.', '') collate "C",
      has_function_privilege('anon', f.oid, 'execute')::text,
      has_function_privilege('authenticated', f.oid, 'execute')::text,
      has_function_privilege('service_role', f.oid, 'execute')::text
    from our_functions f
    where has_function_privilege('anon', f.oid, 'execute')
      or has_function_privilege('authenticated', f.oid, 'execute')
      or has_function_privilege('service_role', f.oid, 'execute')
    order by 1
  $$,
  $$ select function collate "C", anon, authenticated, service_role from tests.function_access order by 1 $$,
  'the functions that the API roles may call are those of function_access.csv');

select is_empty(
  $$
    select signature from our_functions
    where obj_description(oid, 'pg_proc') is null and not signature ~ '^private\.tg_'
    union all
    select nspname || '.' || relname from ours
    where relkind in ('r', 'p') and not relispartition and obj_description(oid, 'pg_class') is null
  $$,
  'every table and function says why it exists');

select is_empty(
  $$
    select k.conrelid::regclass || ' ' || k.conname
    from pg_catalog.pg_constraint k
    where k.contype = 'f'
      and k.conrelid in (select oid from ours)
      and exists (
        select from pg_catalog.pg_attribute a
        where a.attrelid = k.confrelid and a.attname = 'organization_id' and not a.attisdropped)
      and not exists (
        select
        from unnest(k.conkey, k.confkey) pair (here, there)
        join pg_catalog.pg_attribute a on a.attrelid = k.confrelid and a.attnum = pair.there and a.attname = 'organization_id')
      and k.confrelid not in ('private.meta_apps'::regclass)
  $$,
  'every foreign key between tenants'' tables carries the tenant (an app''s is checked by a trigger)');

select is_empty(
  $$
    select c.conrelid::regclass::text
    from pg_catalog.pg_constraint c
    where c.contype = 'p'
      and c.conrelid in (select oid from ours where relkind in ('r', 'p') and not relispartition)
      and exists (
        select from pg_catalog.pg_attribute a
        where a.attrelid = c.conrelid and a.attname = 'organization_id' and not a.attisdropped and a.attnotnull)
      and (select a.attname from pg_catalog.pg_attribute a where a.attrelid = c.conrelid and a.attnum = c.conkey[1]) <> 'organization_id'
      and c.conrelid <> 'private.meta_apps'::regclass
  $$,
  'every tenant table''s primary key is led by the tenant');

select is_empty(
  $$
    select k.conrelid::regclass || '.' || k.conname
    from pg_catalog.pg_constraint k
    where k.contype = 'f' and k.conrelid in (select oid from ours where not relispartition)
      and k.confdeltype in ('n', 'c')
      and not exists (
        select from pg_catalog.pg_index i
        where i.indrelid = k.conrelid
          and (
            (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey
              and (i.indkey::int2[])[0:cardinality(k.conkey) - 1] <@ k.conkey
            -- A parent's id alone finds its children: it has one tenant.
            or (i.indkey::int2[])[0] = any (k.conkey) and not exists (
              select from pg_catalog.pg_attribute a
              where a.attrelid = k.conrelid and a.attnum = (i.indkey::int2[])[0] and a.attname = 'organization_id')))
      and k.confrelid not in ('public.organizations'::regclass)
      and k.conrelid not in ('public.organization_invitations'::regclass, 'private.parked_message_updates'::regclass, 'public.contact_identities'::regclass)
  $$,
  'every foreign key that acts on delete has an index (but on small tables, and by instance, which is never deleted)');

select is_empty(
  $$
    select a.indexrelid::regclass || ' is a prefix of ' || b.indexrelid::regclass
    from pg_catalog.pg_index a
    join pg_catalog.pg_index b on b.indrelid = a.indrelid and b.indexrelid <> a.indexrelid
    where a.indrelid in (select oid from ours where not relispartition)
      and not a.indisunique
      and a.indpred is null and b.indpred is null
      and a.indexprs is null and b.indexprs is null
      and array_to_string(a.indkey::int2[], ' ') || ' ' = left(array_to_string(b.indkey::int2[], ' ') || ' ', length(array_to_string(a.indkey::int2[], ' ') || ' '))
      and array_to_string(a.indoption::int2[], ' ') || ' ' = left(array_to_string(b.indoption::int2[], ' ') || ' ', length(array_to_string(a.indoption::int2[], ' ') || ' '))
  $$,
  'no index is a prefix of another');

select is_empty(
  $$
    select c.table_schema || '.' || c.table_name || '.' || c.column_name
    from information_schema.columns c
    join ours o on o.nspname = c.table_schema and o.relname = c.table_name and o.relkind in ('r', 'p') and not o.relispartition
    where c.data_type = 'jsonb'
      and not exists (
        select from pg_catalog.pg_constraint k
        where k.conrelid = o.oid and k.contype = 'c' and pg_get_constraintdef(k.oid) ~ ('jsonb_typeof\(' || c.column_name || '\)'))
  $$,
  'every JSON column checks its type');

select is_empty(
  $$
    select table_name || '.' || column_name from information_schema.columns
    where table_schema in ('public', 'private') and data_type = 'timestamp without time zone'
  $$,
  'every time has a time zone');

select is_empty(
  $$
    select o.nspname || '.' || o.relname from ours o
    where o.relkind in ('r', 'p') and not o.relispartition
      and exists (select from pg_catalog.pg_attribute a where a.attrelid = o.oid and a.attname = 'updated_at' and not a.attisdropped)
      and not exists (
        select from pg_catalog.pg_trigger t
        where t.tgrelid = o.oid and t.tgfoid = 'private.tg_touch_updated_at'::regproc)
  $$,
  'every updated_at has its trigger');

select is_empty(
  $$
    select tgrelid::regclass || '.' || tgname from pg_catalog.pg_trigger
    where not tgisinternal and tgrelid in (select oid from ours) and tgname !~ '_(100|500|900|950)_'
  $$,
  'every trigger''s name says when it fires');

select is(
  (select count(*) from pg_catalog.pg_proc p where p.proacl is null and p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)
    and not exists (select from pg_catalog.pg_depend d where d.objid = p.oid and d.deptype = 'e')),
  0::bigint,
  'no function kept the built-in EXECUTE for PUBLIC');

select * from finish();
rollback;
