-- A program gets in by a key, as far as its role goes and no further, until somebody ends it.
begin;
-- What this story defines may run as anyone; rolled back with the rest.
alter default privileges grant execute on functions to public;
select plan(66);

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
create temporary table made (name text primary key, answer jsonb not null);
grant all on made to authenticated, service_role;

create function pg_temp.make(name text, role public.member_role default 'viewer', expires_at timestamptz default null)
returns void
language sql
as $$ insert into made values (name, public.create_api_key(name, role, expires_at, tests.the('clinic', 'organization_id'))) $$;
create function pg_temp.the_key(name text)
returns uuid
language sql
as $$ select (m.answer ->> 'id')::uuid from made m where m.name = the_key.name $$;
create function pg_temp.program(name text)
returns uuid
language sql
as $$ select (m.answer ->> 'user_id')::uuid from made m where m.name = program.name $$;
create function pg_temp.exchange(name text, address text default '203.0.113.1')
returns jsonb
language sql
as $$
  select public.exchange_api_key(
    (select encode(sha256(convert_to(m.answer ->> 'key', 'UTF8')), 'hex') from made m where m.name = exchange.name), address)
$$;
-- What the function "token" does at the first exchange.
create function pg_temp.let_in(name text)
returns void
language plpgsql
as $$
begin
  perform tests.authenticate_as_nobody();
  insert into auth.users (id, email)
  values (pg_temp.program(name), 'key-' || pg_temp.the_key(name) || '@api-keys.balcao.invalid')
  on conflict do nothing;
  perform tests.authenticate_as_service();
  perform public.keep_api_key_password(tests.the('clinic', 'organization_id'), pg_temp.the_key(name), tests.sealed());
  perform public.admit_api_key(tests.the('clinic', 'organization_id'), pg_temp.the_key(name));
end;
$$;
create function pg_temp.is_member(name text)
returns boolean
language sql
as $$ select coalesce((select m.is_active from public.user_roles m where m.user_id = pg_temp.program(name)), false) $$;

-- Making ----------------------------------------------------------------------------------------------------------------

select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select lives_ok($$ select pg_temp.make('Planilha') $$, 'an admin makes a key');
select matches((select m.answer ->> 'key' from made m), '^blk_[A-Za-z0-9_-]{43}$', 'it is shown, this once, and has 256 random bits');
select is(
  (select row(k.name, k.role, k.prefix, k.created_by)::text from public.api_keys k where k.id = pg_temp.the_key('Planilha')),
  row('Planilha', 'viewer', (select left(m.answer ->> 'key', 12) from made m), tests.the('clinic', 'admin_id'))::text,
  'what is kept for people to see is its beginning, and who made it');
select tests.authenticate_as_nobody();
select is(
  (select s.key_hash from private.api_key_secrets s where s.api_key_id = pg_temp.the_key('Planilha')),
  (select sha256(convert_to(m.answer ->> 'key', 'UTF8')) from made m),
  'what opens it is kept as a hash');
select is(
  (select count(*) from public.api_keys k, made m where strpos(k::text, substr(m.answer ->> 'key', 13)) > 0), 0::bigint,
  'and nowhere else');
select is(
  (select count(*) from public.audit_logs l where l.record_id = pg_temp.the_key('Planilha') and l.action = 'api_keys.insert'), 1::bigint,
  'the making is in the audit log');
select is(
  (select count(*) from public.audit_log_values v, made m
   where strpos(v::text, substr(m.answer ->> 'key', 13)) > 0
     or strpos(v::text, encode(sha256(convert_to(m.answer ->> 'key', 'UTF8')), 'hex')) > 0), 0::bigint,
  'which knows neither key nor hash');

select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select throws_ok($$ select pg_temp.make('x') $$, 'BL002', null, 'an attendant makes none');
select throws_ok($$ select pg_temp.make('x', 'admin') $$, 'BL002', null, 'least of all one above himself');
select is((select count(*) from public.api_keys), 0::bigint, 'and sees none');
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select throws_ok($$ select pg_temp.make('x') $$, 'BL002', null, 'another tenant''s owner makes none');
select is((select count(*) from public.api_keys k where k.organization_id = tests.the('clinic', 'organization_id')), 0::bigint, 'and sees none of ours');
select throws_ok(
  format('select public.revoke_api_key(%L, %L)', pg_temp.the_key('Planilha'), tests.the('petshop', 'organization_id')), 'BL941', null,
  'nor can he revoke it as his');
select throws_ok(
  format('select public.revoke_api_key(%L, %L)', pg_temp.the_key('Planilha'), tests.the('clinic', 'organization_id')), 'BL002', null,
  'or as ours');
select tests.authenticate_as_anon();
select throws_ok($$ select public.create_api_key('x', 'viewer') $$, '42501', null, 'nobody who is not signed in makes one');

select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select throws_ok($$ select private.exchange_api_key('', '') $$, '42501', null, 'people exchange none themselves');
select throws_ok($$ select 1 from private.api_key_secrets $$, '42501', null, 'nobody reads what opens a key');
select throws_ok($$ select pg_temp.make('x', 'owner') $$, 'BL946', null, 'a key is no owner');
select throws_ok($$ select pg_temp.make('x', null) $$, 'BL946', null, 'nor nothing');
select throws_ok($$ select pg_temp.make(' ') $$, 'BL005', null, 'it has a name');
select throws_ok($$ select pg_temp.make('x', 'viewer', now()) $$, 'BL942', null, 'and is not over at once');
select tests.authenticate_as(tests.the('clinic', 'owner_id'));
select throws_ok($$ select pg_temp.make('x', 'owner') $$, 'BL946', null, 'an owner makes no owner either');

-- Exchanging ------------------------------------------------------------------------------------------------------------

select tests.authenticate_as_service();
select is(pg_temp.exchange('Planilha') - '{api_key_id,email}'::text[], jsonb_build_object(
  'outcome', 'granted', 'organization_id', tests.the('clinic', 'organization_id'), 'user_id', pg_temp.program('Planilha'), 'role', 'viewer',
  'password', null, 'expires_at', null, 'is_member', false), 'a key opens its machine user, who is not there yet');
select isnt((select k.last_used_at from public.api_keys k where k.id = pg_temp.the_key('Planilha')), null, 'when it was used is noted');
select is(public.exchange_api_key(repeat('0', 64), 'x') ->> 'outcome', 'unknown', 'a wrong key opens nothing');
select is(public.exchange_api_key('Planilha''; --', 'x') ->> 'outcome', 'unknown', 'nor does what is no hash');
select is(public.exchange_api_key(null, 'x') ->> 'outcome', 'unknown', 'nor nothing');
select is(
  public.keep_api_key_password(tests.the('clinic', 'organization_id'), pg_temp.the_key('Planilha'), tests.sealed()), tests.sealed(),
  'the first password is kept');
select is(
  public.keep_api_key_password(tests.the('clinic', 'organization_id'), pg_temp.the_key('Planilha'), replace(tests.sealed(), 'k1', 'k2')),
  tests.sealed(), 'who comes second is told the first');
select is(
  public.keep_api_key_password(
    tests.the('clinic', 'organization_id'), pg_temp.the_key('Planilha'), replace(tests.sealed(), 'k1', 'k2'), tests.sealed()),
  replace(tests.sealed(), 'k1', 'k2'), 'who knows it may replace it');
select pg_temp.let_in('Planilha');
select is(pg_temp.exchange('Planilha') ->> 'is_member', 'true', 'once the login is made, he is a member');
select is(
  (select m.role::text from public.user_roles m where m.user_id = pg_temp.program('Planilha')), 'viewer', 'with the role of the key');

-- What a program may do --------------------------------------------------------------------------------------------------

select tests.authenticate_as(pg_temp.program('Planilha'));
select is(
  (select array_agg(distinct c.organization_id) from public.contacts c), array[tests.the('clinic', 'organization_id')],
  'he reads his organization, and no other');
select throws_ok(
  format('insert into public.contacts (organization_id, name) values (%L, %L)', tests.the('clinic', 'organization_id'), 'x'), '42501', null,
  'a viewer writes nothing');
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select pg_temp.make('Integração', 'admin');
select pg_temp.let_in('Integração');
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
create temporary table invited as
select public.invite_member(
  'key-' || pg_temp.the_key('Integração') || '@api-keys.balcao.invalid', 'admin', tests.the('petshop', 'organization_id')) ->> 'token' as token;
select tests.authenticate_as(pg_temp.program('Integração'));
select isnt((select count(*) from public.api_keys), 0::bigint, 'an admin''s program sees the keys');
select throws_ok($$ select pg_temp.make('x') $$, 'BL944', null, 'but makes none');
select throws_ok(
  format('select public.revoke_api_key(%L, %L)', pg_temp.the_key('Planilha'), tests.the('clinic', 'organization_id')), 'BL944', null,
  'and ends none');
select throws_ok(
  format($$ select public.invite_member('a@b.example', 'viewer', %L) $$, tests.the('clinic', 'organization_id')), 'BL944', null,
  'it invites nobody');
select throws_ok(
  format('select public.remove_member(%L, %L)', tests.the('clinic', 'viewer_id'), tests.the('clinic', 'organization_id')), 'BL944', null,
  'removes nobody');
select throws_ok(
  format('select public.change_member_role(%L, %L, %L)', tests.the('clinic', 'viewer_id'), 'admin', tests.the('clinic', 'organization_id')),
  'BL944', null, 'promotes nobody');
select throws_ok($$ select public.create_organization('x', 'clinic') $$, 'BL944', null, 'founds nothing');
select throws_ok((select format('select public.accept_invitation(%L)', i.token) from invited i), 'BL944', null, 'and joins nobody else');

-- Renaming, and members who come and go -----------------------------------------------------------------------------------

select tests.authenticate_as(tests.the('clinic', 'admin_id'));
update public.api_keys k set name = 'Planilha da recepção' where k.id = pg_temp.the_key('Planilha');
select is(
  (select p.first_name from public.profiles p where p.user_id = pg_temp.program('Planilha')), 'Planilha da recepção',
  'a new name is what colleagues see');
select throws_ok(
  format('update public.api_keys set role = %L where id = %L', 'admin', pg_temp.the_key('Planilha')), '42501', null,
  'nothing else can be changed');
select throws_ok(
  format('select public.change_member_role(%L, %L, %L)', pg_temp.program('Planilha'), 'admin', tests.the('clinic', 'organization_id')),
  'BL944', null, 'not by way of its membership either');
select tests.authenticate_as(tests.the('clinic', 'owner_id'));
select lives_ok(
  format('select public.remove_member(%L, %L)', tests.the('clinic', 'admin_id'), tests.the('clinic', 'organization_id')),
  'who made keys may leave');
select tests.authenticate_as_service();
select is(
  (select row(k.created_by, k.revoked_at)::text from public.api_keys k where k.id = pg_temp.the_key('Planilha')), '(,)',
  'they are the organization''s, and stay');
select is(pg_temp.exchange('Planilha') ->> 'outcome', 'granted', 'with a new name and without their maker');

-- Ending ----------------------------------------------------------------------------------------------------------------

select tests.authenticate_as(tests.the('clinic', 'owner_id'));
select isnt(
  (public.revoke_api_key(pg_temp.the_key('Planilha'), tests.the('clinic', 'organization_id'))).revoked_at, null, 'an owner revokes a key');
select lives_ok(
  format('select public.revoke_api_key(%L, %L)', pg_temp.the_key('Planilha'), tests.the('clinic', 'organization_id')), 'twice is once');
select throws_ok(format('select public.revoke_api_key(null, %L)', tests.the('clinic', 'organization_id')), 'BL941', null, 'nothing is none');
select tests.authenticate_as_service();
select ok(pg_temp.is_member('Integração'), 'the others live on');
select tests.authenticate_as(pg_temp.program('Planilha'));
select is((select count(*) from public.contacts), 0::bigint, 'a token that is out opens nothing from now on');
select tests.authenticate_as_service();
select is(pg_temp.exchange('Planilha') ->> 'outcome', 'unknown', 'and the key nothing either');
select throws_ok(
  format('select public.admit_api_key(%L, %L)', tests.the('clinic', 'organization_id'), pg_temp.the_key('Planilha')), 'BL941', null,
  'an exchange that was under way does not bring it back');
select throws_ok(
  format('update public.user_roles set is_active = true where user_id = %L', pg_temp.program('Planilha')), 'BL944', null,
  'nor does the platform, by mistake');

select tests.authenticate_as(tests.the('clinic', 'owner_id'));
select pg_temp.make('Por um mês', 'attendant', now() + interval '30 days');
select pg_temp.let_in('Por um mês');
select tests.authenticate_as_nobody();
select is(private.expire_api_keys(now() + interval '29 days'), 0::bigint, 'a key lives until it expires');
update public.api_keys k set expires_at = now() where k.id = pg_temp.the_key('Por um mês');
select is(private.expire_api_keys(now()), 1::bigint, 'then its membership ends');
select is(private.expire_api_keys(now()), 0::bigint, 'once');
select is(pg_temp.exchange('Por um mês') ->> 'outcome', 'expired', 'and its holder is told why');

select tests.authenticate_as(tests.the('clinic', 'owner_id'));
select pg_temp.make('Removida');
select pg_temp.let_in('Removida');
select tests.authenticate_as(tests.the('clinic', 'owner_id'));
select public.remove_member(pg_temp.program('Removida'), tests.the('clinic', 'organization_id'));
select isnt(
  (select k.revoked_at from public.api_keys k where k.id = pg_temp.the_key('Removida')), null, 'a program that is removed as a member has no key');

select pg_temp.make(n::text) from generate_series(1, 48) n;
select throws_ok($$ select pg_temp.make('too many') $$, 'BL943', null, 'fifty live ones are enough');
select tests.authenticate_as_nobody();
update public.organizations o set is_active = false where o.id = tests.the('clinic', 'organization_id');
select is(pg_temp.exchange('Integração') ->> 'outcome', 'organization_inactive', 'while an organization is suspended, its keys open nothing');
update public.organizations o set is_active = true where o.id = tests.the('clinic', 'organization_id');
select is(pg_temp.exchange('Integração') ->> 'outcome', 'granted', 'afterwards they do');
update public.organizations o set closed_at = now() where o.id = tests.the('clinic', 'organization_id');
update public.organizations o set closed_at = null where o.id = tests.the('clinic', 'organization_id');
select is(pg_temp.exchange('Integração') ->> 'outcome', 'unknown', 'when it closes they end for good');
select is(
  (select count(*) from public.user_roles m join public.api_keys k on k.user_id = m.user_id
   where k.organization_id = tests.the('clinic', 'organization_id') and m.is_active), 0::bigint, 'with whatever they gave');

select * from finish();
rollback;
