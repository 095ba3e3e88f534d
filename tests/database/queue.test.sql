-- Jobs are claimed once, ended by their holder only, in the order of their key, and every tenant has its turn.
begin;
-- What this story defines may run as anyone; rolled back with the rest.
alter default privileges grant execute on functions to public;
select plan(57);

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');

create function pg_temp.enqueue(tenant text, job_type text default 'work', key text default null, idempotency text default null,
  priority int default 0, run_at timestamptz default now(), max_attempts int default 8)
returns uuid
language sql
as $$
  select (public.enqueue_job(tests.the(tenant, 'organization_id'), job_type, '{}', priority, run_at, key, idempotency, max_attempts)).id
$$;
create function pg_temp.job(id uuid)
returns public.message_queue
language sql
as $$ select q from public.message_queue q where q.id = job.id $$;
-- As if the lease had run out a second ago.
create function pg_temp.let_expire(id uuid)
returns void
language sql
as $$ update public.message_queue q set lease_expires_at = now() - interval '1 second' where q.id = let_expire.id $$;
create function pg_temp.token(id uuid)
returns bigint
language sql
as $$ select q.fencing_token from public.message_queue q where q.id = token.id $$;
create function pg_temp.complete(tenant text, id uuid, token bigint default null)
returns text
language sql
as $$ select (public.complete_job(tests.the(tenant, 'organization_id'), id, coalesce(token, pg_temp.token(id)))).status::text $$;
create function pg_temp.fail(tenant text, id uuid, is_permanent boolean default false, retry_at timestamptz default null)
returns text
language sql
as $$
  select (public.fail_job(tests.the(tenant, 'organization_id'), id, pg_temp.token(id), 'it rained', retry_at, is_permanent)).status::text
$$;
create function pg_temp.claimed(batch_size int default 100, job_types text[] default '{work}')
returns uuid[]
language sql
as $$ select coalesce(array_agg(c.id order by c.position), '{}') from public.claim_jobs('a worker', batch_size, job_types, '1 minute') c $$;

create temporary table jobs (name text primary key, id uuid);
grant select on jobs to authenticated;

-- One job's life ------------------------------------------------------------------------------------------------
insert into jobs values ('first', pg_temp.enqueue('clinic'));
select is((pg_temp.job((select id from jobs where name = 'first'))).status::text, 'pending', 'a new job is pending');
select is(pg_temp.claimed(), array[(select id from jobs where name = 'first')], 'a worker claims it');
select is(
  (select row(q.status, q.attempts, q.locked_by, q.fencing_token)::text from public.message_queue q join jobs using (id) where name = 'first'),
  '(processing,1,"a worker",1)', 'its attempt is counted at the claim');
select is(pg_temp.claimed(), '{}'::uuid[], 'nobody else gets it');
select throws_ok($$ select pg_temp.complete('clinic', (select id from jobs where name = 'first'), 0) $$, 'BL301', null, 'without the token of its claim nobody ends it');
select throws_ok($$ select pg_temp.complete('petshop', (select id from jobs where name = 'first')) $$, 'BL301', null, 'nor under another organization');
select is(pg_temp.complete('clinic', (select id from jobs where name = 'first')), 'completed', 'its holder completes it');
select throws_ok($$ select pg_temp.complete('clinic', (select id from jobs where name = 'first')) $$, 'BL301', null, 'once');

-- Leases --------------------------------------------------------------------------------------------------------
insert into jobs values ('slow', pg_temp.enqueue('clinic'));
select pg_temp.claimed();
select pg_temp.let_expire((select id from jobs where name = 'slow'));
select is(pg_temp.claimed(), array[(select id from jobs where name = 'slow')], 'a job whose lease ran out goes to the next worker');
select throws_ok($$ select pg_temp.complete('clinic', (select id from jobs where name = 'slow'), 1) $$, 'BL301', null, 'the late word of the first one is refused');
select is(
  (select count(*) from public.complete_jobs(jsonb_build_array(jsonb_build_object(
    'organization_id', tests.the('clinic', 'organization_id'), 'id', (select id from jobs where name = 'slow'), 'fencing_token', 1)))),
  0::bigint, 'in a batch too');
select is(
  (select count(*) from public.extend_leases(jsonb_build_array(jsonb_build_object(
    'organization_id', tests.the('clinic', 'organization_id'), 'id', (select id from jobs where name = 'slow'), 'fencing_token', 1)))),
  0::bigint, 'his heartbeat tells him');
select ok(
  (public.extend_lease(tests.the('clinic', 'organization_id'), (select id from jobs where name = 'slow'), 2, '10 minutes')).lease_expires_at
    > now() + interval '9 minutes', 'the second one''s heartbeat keeps the job');
select is(pg_temp.complete('clinic', (select id from jobs where name = 'slow')), 'completed', 'and he completes it');

insert into jobs values ('deadly', pg_temp.enqueue('clinic', max_attempts => 2));
select pg_temp.claimed();
select pg_temp.let_expire((select id from jobs where name = 'deadly'));
select pg_temp.claimed();
select pg_temp.let_expire((select id from jobs where name = 'deadly'));
select is(pg_temp.claimed(), '{}'::uuid[], 'a job that kills its workers is not claimed after its last attempt');
select is(
  (select row(q.status, q.attempts, q.last_error)::text from public.message_queue q join jobs using (id) where name = 'deadly'),
  '(dead,2,"lease_expired: a worker did not answer in time")', 'but is dead, and says why');

-- Failing ---------------------------------------------------------------------------------------------------------
insert into jobs values ('failing', pg_temp.enqueue('clinic', max_attempts => 2));
select pg_temp.claimed();
select is(pg_temp.fail('clinic', (select id from jobs where name = 'failing')), 'failed', 'a failed job waits for its next attempt');
select ok(
  (select q.run_at between now() + interval '3 seconds' and now() + interval '7 seconds' and not q.is_due from public.message_queue q join jobs using (id) where name = 'failing'),
  'some five seconds');
select is(pg_temp.claimed(), '{}'::uuid[], 'and is not claimed before');
select is(public.retry_failed_queue_jobs(), 1::bigint, 'unless somebody hurries it');
select is(pg_temp.claimed(), array[(select id from jobs where name = 'failing')], 'then it is');
select is(pg_temp.fail('clinic', (select id from jobs where name = 'failing')), 'dead', 'after its last attempt it is dead');
insert into jobs values ('hopeless', pg_temp.enqueue('clinic'));
select pg_temp.claimed();
select is(pg_temp.fail('clinic', (select id from jobs where name = 'hopeless'), true), 'dead', 'or at once, when there is no hope');
select cmp_ok(private.retry_backoff(1), '<', interval '7 seconds', 'the first wait is short');
select ok(private.retry_backoff(60) between interval '48 minutes' and interval '72 minutes', 'the longest an hour, a fifth more or less');

select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select is_empty('select from public.message_queue', 'an attendant does not see the jobs');
select throws_ok($$ select public.redrive_job((select id from jobs where name = 'hopeless')) $$, 'BL002', null, 'and may not redrive one');
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select throws_ok($$ select public.redrive_job((select id from jobs where name = 'hopeless')) $$, 'BL302', null, 'for another organization there is none');
select throws_ok(
  $$ select public.redrive_job((select id from jobs where name = 'hopeless'), tests.the('clinic', 'organization_id')) $$,
  'BL002', null, 'not even by its name');
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select is((public.redrive_job((select id from jobs where name = 'hopeless'))).attempts, 0, 'an admin redrives a dead job, with all its attempts');
select is(public.redrive_jobs(), 2::bigint, 'or all of them');
select tests.authenticate_as_nobody();
select is(cardinality(pg_temp.claimed()), 3, 'and they run again');
select count(public.complete_job(q.organization_id, q.id, q.fencing_token)) from public.message_queue q where q.status = 'processing';

-- Keys ------------------------------------------------------------------------------------------------------------
insert into jobs select 'k' || n, pg_temp.enqueue('clinic', key => 'conversation:1') from generate_series(1, 4) n order by n;
select is(
  (select array_agg(q.status::text order by q.position) from public.message_queue q where q.ordering_key = 'conversation:1'),
  '{pending,waiting,waiting,waiting}', 'of a key only the first job is pending');
select is(pg_temp.claimed(), array[(select id from jobs where name = 'k1')], 'so one is claimed');
select is(pg_temp.claimed(), '{}'::uuid[], 'and no other while it runs');
select pg_temp.fail('clinic', (select id from jobs where name = 'k1'));
select is(pg_temp.claimed(), '{}'::uuid[], 'nor while it waits for its next attempt');
select public.retry_failed_queue_jobs();
select pg_temp.claimed();
select (public.postpone_job(tests.the('clinic', 'organization_id'), id, pg_temp.token(id), now() + interval '1 hour', 'slow down')).id from jobs where name = 'k1';
select is(
  (select row(q.status, q.attempts)::text from public.message_queue q join jobs using (id) where name = 'k1'),
  '(pending,1)', 'a postponed attempt does not count');
select is(pg_temp.claimed(), '{}'::uuid[], 'and the key stays behind it');
update public.message_queue q set run_at = now() from jobs j where j.id = q.id and j.name = 'k1';
select pg_temp.claimed();
select pg_temp.fail('clinic', (select id from jobs where name = 'k1'), true);
select is(pg_temp.claimed(), array[(select id from jobs where name = 'k2')], 'a dead head frees its key');
select public.redrive_job((select id from jobs where name = 'k1'), tests.the('clinic', 'organization_id'));
select pg_temp.complete('clinic', (select id from jobs where name = 'k2'));
select is(pg_temp.claimed(), array[(select id from jobs where name = 'k1')], 'redriven it has its old place');
select pg_temp.complete('clinic', (select id from jobs where name = 'k1'));
select is(pg_temp.claimed(), array[(select id from jobs where name = 'k3')], 'before those that came after it');

-- Idempotency -------------------------------------------------------------------------------------------------------
select is(
  pg_temp.enqueue('clinic', 'other', idempotency => 'once', key => 'conversation:2'), pg_temp.enqueue('clinic', 'other', idempotency => 'once', key => 'conversation:2'),
  'the same idempotency key is the same job');
select isnt(
  pg_temp.enqueue('clinic', 'other', idempotency => 'once'), pg_temp.enqueue('petshop', 'other', idempotency => 'once'),
  'in another organization it is another');
select is_empty(
  $$ select from public.message_queue q where q.status = 'waiting' and not exists (
       select from public.message_queue h where h.organization_id = q.organization_id and h.ordering_key = q.ordering_key and h.status in ('pending', 'failed', 'processing')) $$,
  'and nobody waits behind nothing');

-- Turns -------------------------------------------------------------------------------------------------------------
insert into public.message_queue (organization_id, job_type) select tests.the('clinic', 'organization_id'), 'turn' from generate_series(1, 1000);
insert into jobs values ('lonely', pg_temp.enqueue('petshop', 'turn'));
select is(
  (
    select count(*) from (
      select count(*) filter (where c.id = (select id from jobs where name = 'lonely'))
      from generate_series(1, 2) n
      cross join lateral public.claim_jobs('w', 1, '{turn}', '1 minute', case n when 2 then tests.the('clinic', 'organization_id') else tests.the('petshop', 'organization_id') end) c
      group by n having count(*) filter (where c.id = (select id from jobs where name = 'lonely')) = 1
    ) served
  ), 1::bigint, 'after a job of the tenant with a thousand it is the turn of the tenant with one');
select is(
  (select count(*) from public.claim_jobs('w', 100, '{turn}', '1 minute') c where c.organization_id = tests.the('clinic', 'organization_id')),
  100::bigint, 'alone a tenant takes a whole batch');
insert into jobs values ('urgent', pg_temp.enqueue('clinic', 'turn', priority => -1));
select is((select c.id from public.claim_jobs('w', 1, '{turn}', '1 minute') c), (select id from jobs where name = 'urgent'), 'within a tenant the lower priority runs first');
select throws_ok($$ select public.claim_jobs('w', 0) $$, 'BL303', null, 'a batch has a size');
select throws_ok($$ select public.claim_jobs('w', null) $$, 'BL303', null, 'and some size');
select throws_ok($$ select public.extend_leases('[]', '100 years') $$, 'BL304', null, 'a lease has an end');

-- A crowd that becomes due at one time
insert into public.message_queue (organization_id, job_type, run_at, is_due)
select tests.the('clinic', 'organization_id'), 'crowd', now() - interval '2 seconds', false from generate_series(1, 5000);
insert into jobs values ('late', pg_temp.enqueue('petshop', 'crowd', run_at => now() + interval '1 hour'));
update public.message_queue q set run_at = now() - interval '1 second' from jobs j where j.id = q.id and j.name = 'late';
select ok(
  (select id from jobs where name = 'late') = any (pg_temp.claimed(10, '{crowd}')), 'a tenant''s crowd that becomes due does not stand before another''s job');

-- A job that nobody can make sense of
insert into jobs values ('odd', (public.enqueue_job(tests.the('clinic', 'organization_id'), 'deliver_webhook', '{"delivery_id": "nope"}', max_attempts => 1)).id);
insert into jobs values ('next', pg_temp.enqueue('petshop', 'deliver_webhook'));
select count(*) from public.claim_jobs('w', 10, '{deliver_webhook}');
select pg_temp.let_expire((select id from jobs where name = 'odd'));
select pg_temp.let_expire((select id from jobs where name = 'next'));
select is(pg_temp.claimed(10, '{deliver_webhook}'), array[(select id from jobs where name = 'next')], 'does not hold up the others');
select is((pg_temp.job((select id from jobs where name = 'odd'))).status::text, 'dead', 'and is buried like them');
create function pg_temp.refuse() returns trigger language plpgsql as $$ begin raise exception 'no burial'; end; $$;
create trigger message_queue_500_refuse after update of status on public.message_queue
  for each row when (new.job_type = 'unburiable' and new.status = 'dead') execute function pg_temp.refuse();
insert into jobs values ('unburiable', pg_temp.enqueue('clinic', 'unburiable', max_attempts => 1));
select pg_temp.claimed(1, '{unburiable}');
select pg_temp.let_expire((select id from jobs where name = 'unburiable'));
select lives_ok($$ select public.claim_jobs('w', 1) $$, 'not even one whose burial fails');
select ok(
  (select q.lease_expires_at > now() and q.last_error like 'cannot_be_buried%' from public.message_queue q join jobs using (id) where name = 'unburiable'),
  'which waits, and says why');
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select throws_ok($$ select public.redrive_job((select id from jobs where name = 'odd')) $$, 'BL306', null, 'what told an event is told again by redeliver()');
select is(public.redrive_jobs('deliver_webhook'), 0::bigint, 'so not with the others either');
select tests.authenticate_as_nobody();

select * from finish();
rollback;
