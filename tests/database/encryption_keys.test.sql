-- No sealed secret is forgotten when an encryption key is replaced, and none is overwritten by an old one.
begin;
-- What this story defines may run as anyone; rolled back with the rest.
alter default privileges grant execute on functions to public;
select plan(12);

select set_eq(
  $$
    select c.relname::text, a.attname::text
    from pg_catalog.pg_attribute a
    join pg_catalog.pg_class c on c.oid = a.attrelid
    where a.atttypid = 'private.sealed_secret'::regtype and c.relkind in ('r', 'p') and not c.relispartition and not a.attisdropped
  $$,
  $$ select s.table_name, s.column_name from private.sealed_columns() s $$,
  'every column of sealed secrets is known, and its purpose');

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
update private.api_key_secrets s set password = replace(tests.sealed(), 'k1', 'k2') where s.organization_id = tests.the('clinic', 'organization_id');
insert into public.backup_metadata
  (organization_id, backup_type, status, storage_path, checksum, size_bytes, row_counts, key_id, started_at, completed_at, expires_at)
values (
  tests.the('clinic', 'organization_id'), 'manual', 'completed', 'x', repeat('0', 64), 1, '{}', 'k0', now(), now(), '2027-01-01T00:00:00Z');

select tests.authenticate_as_service();
select results_eq(
  $$ select key_id, secrets > 0, backups, backups_until from public.encryption_keys_in_use() $$,
  $$ values ('k0', false, 1::bigint, '2027-01-01T00:00:00Z'::timestamptz), ('k1', true, 0, null), ('k2', true, 0, null) $$,
  'each key says what it still seals, and until when');
select is(
  (select count(*) from public.secrets_to_reseal('k2')), (select u.secrets from public.encryption_keys_in_use() u where u.key_id = 'k1'),
  'everything that another key seals is to be done');
create temporary table seen (table_name text, organization_id uuid, row_key text, column_name text, purpose text, sealed text);
do $$
declare
  last_one jsonb;
begin
  loop
    insert into seen select * from public.secrets_to_reseal('k2', last_one, 1);
    exit when not found;
    select to_jsonb(s) into last_one from seen s order by s.ctid desc limit 1;
  end loop;
end;
$$;
select set_eq(
  'select * from seen', $$ select * from public.secrets_to_reseal('k2') $$, 'page by page they are all there');
select is((select count(*) from seen), (select count(*) from public.secrets_to_reseal('k2')), 'none twice');

create function pg_temp.put_back(sealed text, resealed text)
returns boolean
language sql
as $$
  select public.reseal_secret('api_key_secrets', (select k.id::text from public.api_keys k where k.organization_id = tests.the('clinic', 'organization_id')),
    'password', sealed, resealed)
$$;
select ok(pg_temp.put_back(replace(tests.sealed(), 'k1', 'k2'), replace(tests.sealed(), 'k1', 'k3')), 'a secret is put back');
select ok(not pg_temp.put_back(replace(tests.sealed(), 'k1', 'k2'), tests.sealed()), 'not over one that was changed meanwhile');
select throws_ok($$ select public.reseal_secret('user_roles', 'x', 'role', 'x', 'x') $$, 'P0001', null, 'nor anywhere else');
select throws_ok(
  format('select pg_temp.put_back(%L, %L)', replace(tests.sealed(), 'k1', 'k3'), 'plain'), '23514', null, 'nor unsealed');

select tests.authenticate_as(tests.the('clinic', 'owner_id'));
select throws_ok($$ select public.secrets_to_reseal('k2') $$, '42501', null, 'no owner sees them');
select throws_ok($$ select public.reseal_secret('x', 'x', 'x', 'x', 'x') $$, '42501', null, 'or writes them');
select throws_ok($$ select public.encryption_keys_in_use() $$, '42501', null, 'or learns the keys'' names');

select * from finish();
rollback;
