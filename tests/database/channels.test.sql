-- A number is connected, rotated, disconnected and comes back; nobody reads a secret or takes another's number.
begin;
alter default privileges grant execute on functions to public;
select plan(24);

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
create temporary table kept (name text primary key, value jsonb);
grant all on kept to authenticated, service_role;

create function pg_temp.connect(tenant text, external_id text, app_key text default null, meta_app jsonb default null)
returns jsonb
language sql
as $$
  select public.connect_instance(
    tests.the(tenant, 'organization_id'), gen_random_uuid(), 'meta_cloud', 'Recepção', '(11) 4002-8922', external_id,
    tests.sealed(), app_key, meta_app, 'https://api.example/functions/v1/whatsapp-webhook/meta')
$$;
create function pg_temp.an_app(app_key text) returns jsonb language sql
as $$ select jsonb_build_object('app_key', app_key, 'app_secret', tests.sealed(), 'verify_token', tests.sealed()) $$;

select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select throws_ok($$ select pg_temp.connect('clinic', '111') $$, 'BL002', null, 'an attendant does not connect numbers');
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select throws_ok($$ select pg_temp.connect('petshop', '111') $$, 'BL002', null, 'an admin only in his own organization');
insert into kept select 'instance', pg_temp.connect('clinic', '111');
select is(pg_temp.connect('clinic', '112') ->> 'app_key', 'app-of-clinic---', 'without naming an app, the organization''s only one is taken');
select is((select value -> 'instance' ->> 'phone_number' from kept where name = 'instance'), '+551140028922', 'the number is kept in its canonical form');
select is((select value -> 'instance' ->> 'webhook_url' from kept where name = 'instance'),
  'https://api.example/functions/v1/whatsapp-webhook/meta/app-of-clinic---', 'with the address that Meta delivers to');
select throws_ok($$ select pg_temp.connect('clinic', '111') $$, 'BL104', null, 'a connected number is not connected again');
select throws_ok($$ select pg_temp.connect('clinic', '113', 'app-of-petshop--') $$, 'BL102', null, 'another''s app cannot be used');
select lives_ok($$ select pg_temp.connect('clinic', '114', null, pg_temp.an_app('second-app-of-clinic')) $$, 'a second app can be brought');
select throws_ok($$ select pg_temp.connect('clinic', '115') $$, 'BL103', null, 'with two apps one has to be named');
select throws_ok(
  $$ select pg_temp.connect('clinic', '116', null, '{"app_key": "third-app-of-clinic", "app_secret": "plain", "verify_token": "plain"}') $$,
  '23514', null, 'a secret that is not sealed is refused');
select is((select count(*) from public.whatsapp_instances where external_id = '116'), 0::bigint, 'and nothing half-done is left');
select throws_ok($$ select * from private.instance_secrets $$, '42501', null, 'an admin reads no secrets');
select throws_ok($$ select public.get_meta_app('app-of-clinic---') $$, '42501', null, 'not even sealed ones');
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select lives_ok($$ select pg_temp.connect('petshop', '111') $$, 'another tenant may register the same id under his own app: his deliveries are signed by it');

select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select is(
  public.update_instance(tests.the('clinic', 'organization_id'), (select (value -> 'instance' ->> 'id')::uuid from kept where name = 'instance'), name => 'Balcão') -> 'instance' ->> 'name',
  'Balcão', 'an admin changes what he gives');
select throws_ok(
  format($$ select public.update_instance(%L, %L, name => 'x') $$, tests.the('clinic', 'organization_id'), tests.the('petshop', 'instance_id')),
  'BL105', null, 'and only his own');
select is(
  public.disconnect_instance(tests.the('clinic', 'organization_id'), (select (value -> 'instance' ->> 'id')::uuid from kept where name = 'instance')) -> 'instance' ->> 'status',
  'disconnected', 'a number is disconnected');
select tests.authenticate_as_nobody();
select is(
  (select count(*) from private.instance_secrets where instance_id = (select (value -> 'instance' ->> 'id')::uuid from kept where name = 'instance')),
  0::bigint, 'its secrets are gone');
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select throws_ok(
  format($$ select public.update_instance(%L, %L, name => 'x') $$, tests.the('clinic', 'organization_id'), (select value -> 'instance' ->> 'id' from kept where name = 'instance')),
  'BL106', null, 'a disconnected one is not changed');
select is(
  pg_temp.connect('clinic', '111', 'app-of-clinic---') -> 'instance' ->> 'id', (select value -> 'instance' ->> 'id' from kept where name = 'instance'),
  'a number that comes back is the same instance, with its conversations');

-- The service key obeys the schema too.
select tests.authenticate_as_service();
select lives_ok($$ select public.register_platform_meta_app('app-of-the-platform', tests.sealed(), tests.sealed()) $$, 'the platform registers its own app');
select throws_ok(
  format($$ insert into public.whatsapp_instances (organization_id, provider, name, external_id, meta_app_key) values (%L, 'meta_cloud', 'x', '900', 'app-of-petshop--') $$, tests.the('clinic', 'organization_id')),
  'BL102', null, 'even the service key cannot hang a number on another tenant''s app');
select lives_ok($$ select pg_temp.connect('clinic', '901', 'app-of-the-platform') $$, 'the platform puts a tenant''s number on its own app');
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select throws_ok($$ select pg_temp.connect('petshop', '902', 'app-of-the-platform') $$, 'BL102', null, 'a tenant cannot claim numbers there');

select * from finish();
rollback;
