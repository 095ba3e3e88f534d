-- Who asks too often waits: exactly as often as a limit says, and everybody for himself.
begin;
-- What this story defines may run as anyone; rolled back with the rest.
alter default privileges grant execute on functions to public;
select plan(17);

insert into private.rate_limit_rules (name, capacity, per_minute, description) values ('tried', 5, 1, 'For this story.');
create function pg_temp.granted(key text, times int)
returns bigint
language sql
as $$ select count(*) from generate_series(1, times) where private.take_from_rate_limit('tried', key) is null $$;

select is(pg_temp.granted('a', 20), 5::bigint, 'as many as the bucket holds pass');
select is(pg_temp.granted('b', 3), 3::bigint, 'another key has a bucket of its own');
select ok(
  private.take_from_rate_limit('tried', 'a') between 59 and 60, 'who is refused is told when the next one passes');
select is(pg_temp.granted('a', 1), 0::bigint, 'asking on puts it off for nobody');
update private.rate_limits l set full_at = l.full_at - interval '2 minutes' where l.key = 'a';
select is(pg_temp.granted('a', 20), 2::bigint, 'two minutes later two more pass');
update private.rate_limits l set full_at = l.full_at - interval '1 day' where l.key = 'a';
select is(pg_temp.granted('a', 20), 5::bigint, 'a day later no more than the bucket holds');
update private.rate_limits l set full_at = l.full_at + interval '1 day' where l.key = 'a';
select ok(private.take_from_rate_limit('tried', 'a') between 59 and 60, 'a clock that was set back locks nobody out');
select throws_ok($$ select private.take_from_rate_limit('untried', 'a') $$, 'P0001', null, 'there is no limit without a rule');
select is(pg_temp.granted(repeat('x', 10000), 1), 1::bigint, 'a long key is cut off');

-- Cleaning up --------------------------------------------------------------------------------------------------------------

select is(private.delete_full_rate_limits(), 0::bigint, 'buckets that are not full stay');
update private.rate_limits l set full_at = now() - interval '1 second' where l.key = 'a';
select is(private.delete_full_rate_limits(), 1::bigint, 'full ones go');
select is(pg_temp.granted('a', 20), 5::bigint, 'which changes nothing');

-- Addresses ------------------------------------------------------------------------------------------------------------

select is(private.network_of('203.0.113.7'), '203.0.113.7', 'an IPv4 address counts by itself');
select is(
  private.network_of('2001:db8:1:2:3:4:5:6'), private.network_of('2001:db8:1:2::9'), 'IPv6 addresses of one network count together');

update private.rate_limit_rules r set capacity = 2, per_minute = 1 where r.name = 'public_profile_by_address';
create function pg_temp.look(address text)
returns text
language plpgsql
as $$
begin
  perform set_config('request.headers', jsonb_build_object('x-real-ip', address)::text, true);
  perform public.get_public_profile('nobody');
  return 'seen';
exception when sqlstate 'PGRST' then
  return sqlerrm::jsonb ->> 'code';
end;
$$;
select tests.authenticate_as_anon();
select is(
  array(select pg_temp.look('203.0.113.9') from generate_series(1, 3)), '{seen,seen,BL945}', 'who looks at too many public pages is refused');
select is(pg_temp.look('203.0.113.10'), 'seen', 'his neighbour is not');
select tests.authenticate_as_service();
select is(pg_temp.look('203.0.113.9'), 'seen', 'nor is a server of the platform');

select * from finish();
rollback;
