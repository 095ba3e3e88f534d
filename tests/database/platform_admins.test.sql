-- Those who run the platform see a tenant's data with a reason only, and the tenant sees that they did.
begin;
alter default privileges grant execute on functions to public;
select plan(36);

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
create function pg_temp.clinic() returns uuid language sql as $$ select tests.the('clinic', 'organization_id') $$;
create function pg_temp.petshop() returns uuid language sql as $$ select tests.the('petshop', 'organization_id') $$;
create temporary table people (name text primary key, id uuid not null);
grant select on people to public;
insert into people values ('joana', tests.a_user('joana@platform.example')), ('former', tests.a_user('former@platform.example'));
create function pg_temp.person(name text) returns uuid language sql stable as $$ select p.id from people p where p.name = person.name $$;
insert into private.platform_admins (user_id, name, is_active) values (pg_temp.person('joana'), 'Joana', true), (pg_temp.person('former'), 'Foi-se', false);
create function pg_temp.told(organization_id uuid) returns setof public.audit_logs language sql security definer as $$
  select l.* from public.audit_logs l where l.organization_id = told.organization_id and l.action like 'platform.%' order by l.id
$$;

-- Who may ---------------------------------------------------------------------------------------------------------------

create function pg_temp.refuses(who text) returns setof text language plpgsql as $$
begin
  return next throws_ok($q$ select public.platform_list_organizations('Ticket 4711: fatura') $q$, 'BL002', null, who || ' lists no organizations');
  return next throws_ok(
    format($q$ select public.platform_read(%L, 'contacts', 'Ticket 4711: fatura') $q$, tests.the('clinic', 'organization_id')), 'BL002', null,
    who || ' reads nothing');
end;
$$;
select tests.authenticate_as(tests.the('clinic', 'owner_id'));
select pg_temp.refuses('an owner, even of the organization,');
select tests.authenticate_as(pg_temp.person('former'));
select pg_temp.refuses('who runs the platform no more');
select tests.authenticate_as(gen_random_uuid());
select pg_temp.refuses('a stranger');
select throws_ok($$ insert into private.platform_admins (user_id, name) values (auth.uid(), 'Eu') $$, '42501', null, 'nor makes himself one who may');
select tests.authenticate_as_anon();
select throws_ok($$ select public.platform_list_organizations('Ticket 4711: fatura') $$, '42501', null, 'nobody signed in lists nothing');
select throws_ok(format($$ select public.platform_read(%L, 'contacts', 'Ticket 4711: fatura') $$, pg_temp.clinic()), '42501', null, 'nor reads');
select tests.authenticate_as_service();
select throws_ok($$ insert into private.platform_admins (user_id, name) values (gen_random_uuid(), 'x') $$, '42501', null, 'the secret key makes nobody one');
select tests.authenticate_as_nobody();
select is_empty('select * from pg_temp.told(pg_temp.clinic())', 'and nothing was seen, so nothing is told');

-- Not without a reason ----------------------------------------------------------------------------------------------------

select tests.authenticate_as(pg_temp.person('joana'));
select throws_ok(format('select public.platform_list_organizations(%L)', r.reason), 'BL903', null, 'no reason: ' || coalesce(left(r.reason, 12), 'null'))
from (values (null), (''), ('   porque    '), (repeat('a', 501))) r (reason);
select throws_ok(format('select public.platform_read(%L, ''contacts'', ''ver'')', pg_temp.clinic()), 'BL903', null, 'nor is a row read without');

-- With one it is told -----------------------------------------------------------------------------------------------------

select is((select count(*) from public.contacts), 0::bigint, 'she is a member of no tenant by that');
select results_eq(
  $$ select o.id from public.platform_list_organizations('  Ticket 4711: fatura ', 'clinic') o $$,
  $$ select pg_temp.clinic() $$, 'she finds an organization by its name');
select results_eq(
  format($$ select (r ->> 'id')::uuid, r ->> 'name' from public.platform_read(%L, 'contacts', 'Ticket 4711: fatura', %L) r $$, pg_temp.clinic(), tests.the('clinic', 'contact_id')),
  $$ values (tests.the('clinic', 'contact_id'), 'Maria') $$, 'and reads a row of it');
select is((select count(*) from public.platform_read(pg_temp.clinic(), 'contacts', 'Ticket 4711: fatura', page_size => 1)), 1::bigint, 'or a page');
select is((select count(*) from public.platform_read(pg_temp.clinic(), 'contacts', 'Ticket 4711: fatura', record_id => tests.the('petshop', 'contact_id'))), 0::bigint,
  'of that tenant only');
create function pg_temp.pages() returns bigint language plpgsql as $$
declare
  last uuid;
  seen bigint := 0;
  rows jsonb[];
begin
  loop
    rows := array(select r from public.platform_read(pg_temp.clinic(), 'services', 'Ticket 4711: fatura', after_id => last, page_size => 1) r);
    exit when cardinality(rows) = 0;
    seen := seen + 1;
    last := rows[1] ->> 'id';
  end loop;
  return seen;
end;
$$;
select is(pg_temp.pages(), 2::bigint, 'page by page it is every row, once');
select ok(
  (select bool_and(not r ? 'token_hash' and r ? 'email') and count(*) = 1 from public.platform_read(pg_temp.clinic(), 'organization_invitations', 'Ticket 4711: fatura') r),
  'what members do not see, she does not either');
select throws_ok(format($$ select public.platform_read(%L, %L, 'Ticket 4711: fatura') $$, pg_temp.clinic(), t.name), 'BL904', null, 'not to be read: ' || t.name)
from (values ('instance_secrets'), ('webhook_endpoint_secrets'), ('flow_templates'), ('users'), ('contacts; drop table x'), ('public.contacts'), ('')) t (name);
select throws_ok($$ select public.platform_read(gen_random_uuid(), 'contacts', 'Ticket 4711: fatura') $$, 'BL100', null, 'nor an organization that is not there');
select tests.authenticate_as_nobody();

select results_eq(
  $$ select user_id, actor_role, action, table_name, record_id, details from pg_temp.told(pg_temp.clinic()) limit 3 $$,
  $$ values
    (pg_temp.person('joana'), 'platform_admin', 'platform.listed', 'organizations', pg_temp.clinic(), '{"reason": "Ticket 4711: fatura"}'::jsonb),
    (pg_temp.person('joana'), 'platform_admin', 'platform.read', 'contacts', tests.the('clinic', 'contact_id'), '{"reason": "Ticket 4711: fatura"}'),
    (pg_temp.person('joana'), 'platform_admin', 'platform.read', 'contacts', null, '{"reason": "Ticket 4711: fatura"}') $$,
  'the tenant sees who looked at what, and why');
select is_empty('select * from pg_temp.told(pg_temp.petshop())', 'the other tenant, at whom nobody looked, nothing');
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select is((select count(*) from public.audit_trail where actor_role = 'platform_admin'), 8::bigint, 'in the trail that its admin reads: each look once');
select tests.authenticate_as_service();
select lives_ok(format($$ select public.platform_read(%L, 'contacts', 'Ticket 4712: suporte') $$, pg_temp.clinic()), 'the secret key may too,');
select tests.authenticate_as_nobody();
select is((select actor_role from pg_temp.told(pg_temp.clinic()) order by id desc limit 1), 'service_role', 'and is told of as well');

select * from finish();
rollback;
