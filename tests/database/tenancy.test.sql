-- An organization is founded, people are invited, promoted and leave; nobody climbs above himself.
begin;
alter default privileges grant execute on functions to public;
select plan(57);

select tests.a_tenant('other');
create temporary table people as
select tests.a_user('ana@clinic.example') as ana, tests.a_user('bia@clinic.example') as bia, tests.a_user('caio@clinic.example') as caio;
create temporary table kept (name text primary key, value jsonb);
grant all on people, kept to anon, authenticated, service_role;

create function pg_temp.ana() returns uuid language sql as 'select ana from people';
create function pg_temp.bia() returns uuid language sql as 'select bia from people';
create function pg_temp.caio() returns uuid language sql as 'select caio from people';
create function pg_temp.kept(what text) returns jsonb language sql as 'select value from kept where name = what';

-- Founding
select tests.authenticate_as_anon();
select throws_ok($$ select public.create_organization('X', 'clinic') $$, '42501', null, 'a visitor cannot found an organization');
select tests.authenticate_as(pg_temp.ana());
select is(public.user_organization_id(), null, 'a stranger works nowhere');
select is((public.ensure_profile('Ana', null, '(11) 98765-4321')).phone, '+5511987654321', 'signing in makes a profile');
select is((public.ensure_profile(last_name => 'Souza')).first_name, 'Ana', 'signing in again keeps what is there');
insert into kept select 'clinic', to_jsonb(public.create_organization('Clínica São José 💙', 'clinic'));
select is(pg_temp.kept('clinic') ->> 'slug', 'clinica-sao-jose', 'the slug is made from the name');
select is(public.user_organization_id(), (pg_temp.kept('clinic') ->> 'id')::uuid, 'the founder works there from now on');
select is(public.has_role(pg_temp.ana(), 'owner'), true, 'the founder is its owner');
select is((select count(*) from public.organization_settings), 1::bigint, 'settings are there from the start');
select is((public.create_organization('Clinica Sao Jose', 'clinic')).slug, 'clinica-sao-jose-2', 'a second one of that name gets a number');
select is((public.create_organization('💙', 'other')).slug, 'org', 'a name of emoji still gets a slug');
select throws_ok($$ select public.create_organization('X', 'clinic', 'clinica-sao-jose') $$, 'BL007', null, 'a taken slug is refused');
select throws_ok($$ select public.create_organization('X', 'clinic', 'Não Vale') $$, 'BL006', null, 'a malformed slug is refused');
select throws_ok($$ select public.create_organization('  ', 'clinic') $$, 'BL005', null, 'a blank name is refused');
select throws_ok($$ select public.create_organization('X', 'clinic', null, 'Brasilia') $$, 'BL004', null, 'an unknown time zone is refused');
select throws_ok($$ update public.organizations set plan_type = 'agency' $$, '42501', null, 'an owner cannot upgrade himself');
select throws_ok($$ update public.organizations set timezone = 'GMT-99x' where slug = 'clinica-sao-jose' $$, 'BL004', null, 'nor set a time zone that is none');
select lives_ok($$ update public.organizations set timezone = 'America/Manaus' where slug = 'clinica-sao-jose' $$, 'a real one is fine');
select lives_ok($$ insert into public.locations (name, slug) values ('Centro', 'centro') $$, 'a row without organization_id belongs to the active organization');
select is((select organization_id from public.locations where slug = 'centro'), (pg_temp.kept('clinic') ->> 'id')::uuid, 'namely to the first one');

-- Inviting
insert into kept select 'invitation', public.invite_member(' Bia@Clinic.example ', 'attendant');
select is(pg_temp.kept('invitation') ->> 'email', 'bia@clinic.example', 'an invitation goes to the tidied address');
select throws_ok($$ select public.invite_member('not an address', 'viewer') $$, 'BL008', null, 'and only to an address');
select throws_ok($$ select token_hash from public.organization_invitations $$, '42501', null, 'not even the token''s hash can be read');
select throws_ok(
  format($$ select public.invite_member('x@y.example', 'viewer', %L) $$, tests.the('other', 'organization_id')),
  'BL002', null, 'nobody invites into another''s organization');

select tests.authenticate_as(pg_temp.caio());
select throws_ok(
  format('select public.accept_invitation(%L)', pg_temp.kept('invitation') ->> 'token'), 'BL010', null,
  'a forwarded invitation is of no use');
select throws_ok($$ select public.accept_invitation('guess') $$, 'BL009', null, 'a guessed token is refused');
select tests.authenticate_as(pg_temp.bia());
select is((public.accept_invitation(pg_temp.kept('invitation') ->> 'token')).role, 'attendant', 'the invited person becomes a member');
select is((public.accept_invitation(pg_temp.kept('invitation') ->> 'token')).role, 'attendant', 'accepting twice is accepting once');
select is((select count(*) from public.profiles where user_id = pg_temp.ana()), 1::bigint, 'colleagues see each other''s profiles');
select throws_ok($$ select public.invite_member('x@y.example', 'viewer') $$, 'BL002', null, 'an attendant invites nobody');
select throws_ok(
  format('select public.change_member_role(%L, %L)', pg_temp.bia(), 'owner'), 'BL002', null, 'nor promotes herself');

-- Ranks
select tests.authenticate_as(pg_temp.ana());
select is((public.change_member_role(pg_temp.bia(), 'admin')).role, 'admin', 'an owner promotes a member');
select tests.authenticate_as(pg_temp.bia());
select throws_ok(
  format('select public.change_member_role(%L, %L)', pg_temp.bia(), 'owner'), 'BL002', null, 'an admin does not make owners');
select throws_ok(
  format('select public.remove_member(%L)', pg_temp.ana()), 'BL002', null, 'nor removes one');
select throws_ok(
  $$ select public.invite_member('x@y.example', 'owner') $$, 'BL002', null, 'nor invites one');
select throws_ok(
  format('select public.change_member_role(%L, %L)', gen_random_uuid(), 'viewer'), 'BL014', null, 'a stranger has no role to change');

-- The last owner
select tests.authenticate_as(pg_temp.ana());
select throws_ok(
  format('select public.remove_member(%L)', pg_temp.ana()), 'BL011', null, 'the last owner cannot leave');
select throws_ok(
  format('select public.change_member_role(%L, %L)', pg_temp.ana(), 'viewer'), 'BL011', null, 'nor step down');
select is((public.change_member_role(pg_temp.bia(), 'owner')).role, 'owner', 'with a second owner');
select is((public.remove_member(pg_temp.ana(), (pg_temp.kept('clinic') ->> 'id')::uuid)).role, 'owner', 'the first one may go');
select is(
  (select count(*) from public.organizations where id = (pg_temp.kept('clinic') ->> 'id')::uuid), 0::bigint,
  'and sees the organization no more');
select throws_ok(
  format('select public.set_active_organization(%L)', pg_temp.kept('clinic') ->> 'id'), 'BL002', null, 'nor works there');

-- Expiry and withdrawal
select tests.authenticate_as(pg_temp.bia());
insert into kept select 'second', public.invite_member('caio@clinic.example', 'viewer', (pg_temp.kept('clinic') ->> 'id')::uuid);
insert into kept select 'third', public.invite_member('caio@clinic.example', 'viewer', (pg_temp.kept('clinic') ->> 'id')::uuid);
select tests.authenticate_as(pg_temp.caio());
select throws_ok(
  format('select public.accept_invitation(%L)', pg_temp.kept('second') ->> 'token'), 'BL009', null,
  'inviting again makes the old token useless');
select tests.authenticate_as_nobody();
update public.organization_invitations set expires_at = now() - interval '1 second' where email = 'caio@clinic.example';
select tests.authenticate_as(pg_temp.caio());
select throws_ok(
  format('select public.accept_invitation(%L)', pg_temp.kept('third') ->> 'token'), 'BL013', null, 'an expired one is refused');
select tests.authenticate_as(pg_temp.bia());
delete from public.organization_invitations where email = 'caio@clinic.example';
select tests.authenticate_as(pg_temp.caio());
select throws_ok(
  format('select public.accept_invitation(%L)', pg_temp.kept('third') ->> 'token'), 'BL009', null, 'so is a withdrawn one');

-- Nobody climbs back
select tests.a_tenant('clinic');
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
insert into kept select 'own', public.invite_member('admin@clinic.example', 'admin', tests.the('clinic', 'organization_id'));
insert into kept select 'friend', public.invite_member('caio@clinic.example', 'admin', tests.the('clinic', 'organization_id'));
select tests.authenticate_as(tests.the('clinic', 'owner_id'));
insert into kept select 'owner', public.invite_member('bia@clinic.example', 'owner', tests.the('clinic', 'organization_id'));
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select throws_ok(
  format('select public.invite_member(%L, %L, %L)', 'bia@clinic.example', 'viewer', tests.the('clinic', 'organization_id')),
  'BL002', null, 'an admin does not replace an owner''s invitation');
delete from public.organization_invitations where role = 'owner';
select tests.authenticate_as(tests.the('clinic', 'owner_id'));
select is((select count(*) from public.organization_invitations where role = 'owner'), 1::bigint, 'nor withdraw it');
select public.change_member_role(tests.the('clinic', 'admin_id'), 'viewer', tests.the('clinic', 'organization_id'));
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select throws_ok(
  format('select public.accept_invitation(%L)', pg_temp.kept('own') ->> 'token'), 'BL009', null,
  'who is demoted has no invitation in reserve');
select tests.authenticate_as(pg_temp.caio());
select throws_ok(
  format('select public.accept_invitation(%L)', pg_temp.kept('friend') ->> 'token'), 'BL009', null, 'nor has his friend');
select tests.authenticate_as(tests.the('clinic', 'owner_id'));
select public.remove_member(tests.the('clinic', 'admin_id'), tests.the('clinic', 'organization_id'));
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select throws_ok(
  format('select private.require_rank(%L, %L)', tests.the('clinic', 'organization_id'), 'viewer'),
  '42501', null, 'ranks are checked inside the RPCs only');
select tests.authenticate_as_nobody();
-- As it is inside change_member_role after the caller was removed while it waited for the lock.
select set_config('request.jwt.claims', json_build_object('sub', tests.the('clinic', 'admin_id'), 'role', 'authenticated')::text, true);
select throws_ok(
  format('select private.require_rank(%L, %L)', tests.the('clinic', 'organization_id'), 'viewer'),
  'BL002', null, 'who is no member any more has no rank at all');
select throws_ok(
  format('select private.change_member_role(%L, %L, %L)', tests.the('clinic', 'viewer_id'), 'owner', tests.the('clinic', 'organization_id')),
  'BL002', null, 'and makes nobody an owner');
select throws_ok(
  format('select private.remove_member(%L, %L)', tests.the('clinic', 'viewer_id'), tests.the('clinic', 'organization_id')),
  'BL002', null, 'nor removes anybody');
select set_config('request.jwt.claims', json_build_object('sub', tests.the('clinic', 'owner_id'), 'role', 'authenticated')::text, true);
select lives_ok(
  format('select private.require_rank(%L, %L)', tests.the('clinic', 'organization_id'), 'owner'), 'a member has his own');

-- About others
select throws_ok(
  format('select public.user_organization_id(%L)', pg_temp.bia()), 'BL002', null, 'where another person works is nobody''s business');
select throws_ok(
  format('select public.has_role(%L, %L, %L)', pg_temp.bia(), 'viewer', pg_temp.kept('clinic') ->> 'id'), 'BL002', null,
  'nor which role, but to colleagues');
select tests.authenticate_as_service();
select is(public.user_organization_id(pg_temp.bia()), (pg_temp.kept('clinic') ->> 'id')::uuid, 'the platform may ask');
select throws_ok($$ delete from public.organizations $$, '42501', null, 'not even the service key deletes an organization');

select * from finish();
rollback;
