-- The queue: work that outlives its request.
--
-- A job is written in the transaction of the change that it follows from, claimed with a lease, and ended by whoever
-- still holds it: the fencing token goes up at every claim, so that the late word of a worker whose lease expired is
-- refused. Attempts are counted at the claim, because a crash says nothing.
--
-- Jobs with an ordering key run one after the other. Only the first of a key is "pending"; the others are "waiting",
-- and whoever ends the first promotes the next. Enqueueing and ending take the key's advisory lock (the last in the
-- lock order), claiming takes none: a blocked key costs a claim nothing.
--
-- Tenants take turns. A claim walks round the organizations that have something due, from where the last one
-- ended, and takes an equal share of each: one tenant's hundred thousand jobs do not delay another's one.

create type public.job_status as enum ('pending', 'waiting', 'processing', 'completed', 'failed', 'dead');
comment on type public.job_status is
  'waiting: behind another job of its key; failed: waits for its next attempt; dead: given up, until somebody redrives it.';

-- message_queue -----------------------------------------------------------------------------------------------

create table public.message_queue (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  position bigint not null generated always as identity,
  job_type text not null,
  payload jsonb not null default '{}',
  status public.job_status not null default 'pending',
  priority int not null default 0,
  run_at timestamptz not null default now(),
  is_due boolean not null default true,
  attempts int not null default 0,
  max_attempts int not null default 8,
  locked_by text,
  lease_expires_at timestamptz,
  fencing_token bigint not null default 0,
  ordering_key text,
  idempotency_key text,
  last_error text,
  completed_at timestamptz,
  is_dead boolean not null generated always as (status = 'dead') stored,
  created_at timestamptz not null default now(),
  constraint message_queue_pkey primary key (organization_id, id),
  constraint message_queue_organization_id_fkey foreign key (organization_id) references public.organizations (id),
  constraint message_queue_job_type_format_check check (job_type ~ '^[a-z][a-z0-9_]{0,62}$'),
  constraint message_queue_payload_is_object_check check (jsonb_typeof(payload) = 'object'),
  constraint message_queue_max_attempts_check check (max_attempts between 1 and 100),
  constraint message_queue_ordering_key_length_check check (length(ordering_key) between 1 and 200),
  constraint message_queue_idempotency_key_length_check check (length(idempotency_key) between 1 and 200),
  constraint message_queue_lease_check check ((status = 'processing') = (lease_expires_at is not null)),
  constraint message_queue_waits_for_its_key_check check (status <> 'waiting' or ordering_key is not null)
) with (
  -- Every job is updated twice and deleted within a day: vacuum early, and leave room beside each row.
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_cost_delay = 0,
  autovacuum_analyze_scale_factor = 0.05
);
comment on table public.message_queue is
  'Jobs of the workers. Written through the queue''s functions only; completed ones are kept a day, dead ones thirty.';
comment on column public.message_queue.position is 'The order of enqueueing: within a key, the order of running.';
comment on column public.message_queue.priority is 'Lower runs first, within a tenant.';
comment on column public.message_queue.is_due is 'run_at has come. A flag, because an index cannot know what time it is.';
comment on column public.message_queue.fencing_token is 'Goes up at every claim; an end is accepted only with the token of the last one.';
comment on column public.message_queue.ordering_key is 'Jobs of one key run one after the other, in the order of position.';
comment on column public.message_queue.is_dead is 'Enums are not leakproof: a list of dead letters under RLS filters by this one.';
comment on column public.message_queue.idempotency_key is 'Enqueueing again with the same key gives the job that is there.';

create index message_queue_due_idx
  on public.message_queue (uuid_hash_extended(organization_id, 0), priority, run_at, position)
  where is_due and status in ('pending', 'failed');
comment on index public.message_queue_due_idx is
  'What can be claimed, by tenant. Tenants stand in the order of a hash: ids made in one week are neighbours, their hashes are not.';
create index message_queue_not_due_idx on public.message_queue (run_at)
  where not is_due and status in ('pending', 'failed');
create index message_queue_not_due_by_tenant_idx on public.message_queue (uuid_hash_extended(organization_id, 0), run_at)
  where not is_due and status in ('pending', 'failed');
comment on index public.message_queue_not_due_by_tenant_idx is 'What becomes due, by tenant: when very much does at one time, tenants take turns here too.';
create index message_queue_lease_expires_at_idx on public.message_queue (lease_expires_at) where status = 'processing';
create unique index message_queue_one_head_per_key_idx on public.message_queue (organization_id, ordering_key)
  where ordering_key is not null and status in ('pending', 'failed', 'processing');
comment on index public.message_queue_one_head_per_key_idx is 'Of one key at most one job can be claimed or is running.';
create index message_queue_waiting_idx on public.message_queue (organization_id, ordering_key, position)
  where status = 'waiting';
create unique index message_queue_idempotency_key_idx on public.message_queue (organization_id, idempotency_key)
  where idempotency_key is not null;
create index message_queue_completed_at_idx on public.message_queue (status, completed_at) where completed_at is not null;
comment on index public.message_queue_completed_at_idx is 'Retention.';
create index message_queue_dead_idx on public.message_queue (organization_id, completed_at desc) where is_dead;
comment on index public.message_queue_dead_idx is 'A tenant''s dead letters.';

alter table public.message_queue enable row level security;
alter table public.message_queue force row level security;
create policy "Admins can read their organization's jobs" on public.message_queue
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.message_queue from public, anon, authenticated, service_role;
grant select on public.message_queue to authenticated, service_role;

-- Waking ------------------------------------------------------------------------------------------------------

create function private.call_function(function_name text)
returns text
language plpgsql
volatile
security definer -- the address and the secret are in the vault
set search_path = ''
as $$
declare
  vault constant regclass := to_regclass('vault.decrypted_secrets');
  http_post constant regprocedure := to_regprocedure('net.http_post(text,jsonb,jsonb,jsonb,integer)');
  functions_url text;
  cron_secret text;
begin
  if vault is not null and http_post is not null then
    execute format(
      'select
        max(s.decrypted_secret) filter (where s.name = ''balcao_functions_url''),
        max(s.decrypted_secret) filter (where s.name = ''balcao_cron_secret'')
      from %s s', vault) into functions_url, cron_secret;
    if functions_url is not null and cron_secret is not null then
      -- Sent after the commit, once, and nobody looks at the answer: it only wakes.
      execute format('select %s(url := $1, headers := $2, body := $3, timeout_milliseconds := 5000)', http_post::oid::regproc)
      using
        rtrim(functions_url, '/') || '/' || function_name || '?wait=false',
        jsonb_build_object('content-type', 'application/json', 'x-cron-secret', cron_secret),
        '{}'::jsonb;
      return 'posted';
    end if;
  end if;
  perform pg_notify('balcao_wake', function_name);
  return 'notified';
end;
$$;
comment on function private.call_function(text) is
  'Wakes an edge function: by pg_net, where it is there and the vault holds balcao_functions_url and balcao_cron_secret; else by NOTIFY balcao_wake, for whoever listens.';

create function private.wake_worker()
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  if coalesce(current_setting('balcao.worker_is_woken', true), '') <> 'yes' then
    perform set_config('balcao.worker_is_woken', 'yes', true);
    perform private.call_function('queue-worker');
  end if;
end;
$$;
comment on function private.wake_worker() is 'Wakes the worker once this transaction is committed, once a transaction.';

-- Enqueueing ----------------------------------------------------------------------------------------------------

create type private.new_job as (
  organization_id uuid,
  job_type text,
  payload jsonb,
  priority int,
  run_at timestamptz,
  ordering_key text,
  idempotency_key text,
  max_attempts int
);

create type private.queue_key as (organization_id uuid, ordering_key text);

create function private.lock_queue_keys(keys private.queue_key[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform pg_advisory_xact_lock(lock)
  from (
    select distinct hashtextextended('queue:' || k.organization_id || ':' || k.ordering_key, 0) as lock
    from unnest(keys) k
    order by 1
  ) sorted;
end;
$$;
comment on function private.lock_queue_keys(private.queue_key[]) is
  'Whoever adds to a key and whoever ends its first job come one after the other. In one order for everybody.';

create function private.enqueue_jobs(jobs private.new_job[])
returns setof public.message_queue
language plpgsql
volatile
set search_path = ''
as $$
declare
  keys private.queue_key[];
  wanted bigint;
  enqueued bigint;
begin
  keys := array(
    select distinct row(j.organization_id, j.ordering_key)::private.queue_key
    from unnest(jobs) j
    where j.ordering_key is not null
  );
  if cardinality(keys) > 0 then
    perform private.lock_queue_keys(keys);
  end if;

  return query
  insert into public.message_queue as q (
    organization_id, job_type, payload, status, priority, run_at, is_due, ordering_key, idempotency_key, max_attempts
  )
  select
    fresh.organization_id,
    fresh.job_type,
    coalesce(fresh.payload, '{}'),
    case
      when fresh.ordering_key is null then 'pending'
      when fresh.place > 1 then 'waiting'
      when exists (
        select
        from public.message_queue head
        where head.organization_id = fresh.organization_id
          and head.ordering_key = fresh.ordering_key
          and head.status in ('pending', 'failed', 'processing')
      ) then 'waiting'
      else 'pending'
    end::public.job_status,
    coalesce(fresh.priority, 0),
    coalesce(fresh.run_at, now()),
    coalesce(fresh.run_at, now()) <= now(),
    fresh.ordering_key,
    fresh.idempotency_key,
    coalesce(fresh.max_attempts, 8)
  from (
    select j.*, row_number() over (partition by j.organization_id, j.ordering_key order by j.n) as place
    from (
      select distinct on (w.organization_id, coalesce(w.idempotency_key, w.n::text), w.idempotency_key is null) w.*
      from unnest(jobs)
        with ordinality as w (
          organization_id, job_type, payload, priority, run_at, ordering_key, idempotency_key, max_attempts, n
        )
      order by w.organization_id, coalesce(w.idempotency_key, w.n::text), w.idempotency_key is null, w.n
    ) j
    where j.idempotency_key is null or not exists (
      select
      from public.message_queue known
      where known.organization_id = j.organization_id and known.idempotency_key = j.idempotency_key
    )
  ) fresh
  order by
    fresh.ordering_key is null,
    -- Two batches with the same idempotency keys must not wait for each other; those of a key are behind its lock.
    case when fresh.ordering_key is null then fresh.idempotency_key end,
    fresh.n
  on conflict (organization_id, idempotency_key) where idempotency_key is not null do nothing
  returning q.*;

  get diagnostics enqueued = row_count;
  wanted := cardinality(jobs);
  if enqueued < wanted and cardinality(keys) > 0 then
    -- Somebody else enqueued the first of a key at this moment under another key: nobody must wait behind nothing.
    perform private.promote_keys(keys);
  end if;
  perform set_config(
    'balcao.jobs_enqueued',
    (coalesce(nullif(current_setting('balcao.jobs_enqueued', true), ''), '0')::bigint + enqueued)::text,
    true);
end;
$$;
comment on function private.enqueue_jobs(private.new_job[]) is
  'Adds jobs, in their order, and returns the new ones; one whose idempotency key is known is left out. Counts them in the setting balcao.jobs_enqueued of the transaction.';

create function private.promote_keys(keys private.queue_key[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  update public.message_queue q
  set status = 'pending',
      is_due = q.run_at <= now(),
      -- Behind another it could not run: it waits for a worker from now on.
      run_at = greatest(q.run_at, now())
  from (
    select
      k.organization_id,
      (
        select w.id
        from public.message_queue w
        where w.organization_id = k.organization_id and w.ordering_key = k.ordering_key and w.status = 'waiting'
        order by w.position
        limit 1
      ) as id
    from unnest(keys) k
    where not exists (
      select
      from public.message_queue head
      where head.organization_id = k.organization_id
        and head.ordering_key = k.ordering_key
        and head.status in ('pending', 'failed', 'processing')
    )
  ) next
  where q.organization_id = next.organization_id and q.id = next.id;
end;
$$;
comment on function private.promote_keys(private.queue_key[]) is
  'The next job of each key that has no first one becomes it. The keys are locked by the caller.';

create function private.release_keys(keys private.queue_key[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  if cardinality(keys) > 0 then
    perform private.lock_queue_keys(keys);
    perform private.promote_keys(keys);
  end if;
end;
$$;
comment on function private.release_keys(private.queue_key[]) is 'After the first job of these keys has ended.';

create function private.enqueue_job(
  organization_id uuid,
  job_type text,
  payload jsonb,
  priority int,
  run_at timestamptz,
  ordering_key text,
  idempotency_key text,
  max_attempts int
)
returns public.message_queue
language plpgsql
volatile
security definer -- the queue is written through its functions only
set search_path = ''
as $$
declare
  job public.message_queue;
begin
  select e.* into job
  from private.enqueue_jobs(array[
    row(organization_id, job_type, payload, priority, run_at, ordering_key, idempotency_key, max_attempts)::private.new_job
  ]) e;
  if job.id is null then
    select q.* into job
    from public.message_queue q
    where q.organization_id = enqueue_job.organization_id and q.idempotency_key = enqueue_job.idempotency_key;
  end if;
  return job;
end;
$$;
comment on function private.enqueue_job(uuid, text, jsonb, int, timestamptz, text, text, int) is 'See public.enqueue_job().';
grant execute on function private.enqueue_job(uuid, text, jsonb, int, timestamptz, text, text, int) to service_role;

create function public.enqueue_job(
  organization_id uuid,
  job_type text,
  payload jsonb default '{}',
  priority int default 0,
  run_at timestamptz default now(),
  ordering_key text default null,
  idempotency_key text default null,
  max_attempts int default 8
)
returns public.message_queue
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.enqueue_job(
    organization_id, job_type, payload, priority, run_at, ordering_key, idempotency_key, max_attempts);
end;
$$;
comment on function public.enqueue_job(uuid, text, jsonb, int, timestamptz, text, text, int) is
  'Adds a job, for a worker that knows its job_type; with a known idempotency_key, answers the job that is there. Lower priorities run first within a tenant; jobs of one ordering_key run one after the other. Secret key only.';
grant execute on function public.enqueue_job(uuid, text, jsonb, int, timestamptz, text, text, int) to service_role;

-- Claiming ------------------------------------------------------------------------------------------------------

create function private.expired_lease(job public.message_queue)
returns text
language plpgsql
immutable
set search_path = ''
as $$
begin
  return 'lease_expired: ' || coalesce(job.locked_by, 'the worker') || ' did not answer in time';
end;
$$;
comment on function private.expired_lease(public.message_queue) is 'What the next reader of a job finds of its last worker.';

create function private.prepare_each_tenant()
returns void
language plpgsql
volatile
set search_path = ''
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_sort = off
as $$
begin
  with recursive tenant (place) as (
    (
      select uuid_hash_extended(q.organization_id, 0)
      from public.message_queue q
      where not q.is_due and q.status in ('pending', 'failed')
      order by uuid_hash_extended(q.organization_id, 0)
      limit 1
    )
    union all
    select next.place
    from tenant t
    cross join lateral (
      select uuid_hash_extended(q.organization_id, 0) as place
      from public.message_queue q
      where not q.is_due and q.status in ('pending', 'failed') and uuid_hash_extended(q.organization_id, 0) > t.place
      order by uuid_hash_extended(q.organization_id, 0)
      limit 1
    ) next
  ), due as materialized (
    select job.organization_id, job.id
    from tenant t
    cross join lateral (
      select q.organization_id, q.id
      from public.message_queue q
      where uuid_hash_extended(q.organization_id, 0) = t.place
        and not q.is_due
        and q.status in ('pending', 'failed')
        and q.run_at <= now()
      order by uuid_hash_extended(q.organization_id, 0), q.run_at
      limit 10
      for update of q skip locked
    ) job
  )
  update public.message_queue q
  set is_due = true
  from due d
  where q.organization_id = d.organization_id and q.id = d.id;
end;
$$;
comment on function private.prepare_each_tenant() is 'Of each tenant the first ten jobs that have become due.';

create function private.bury_one_job()
returns void
language plpgsql
volatile
set search_path = ''
set enable_seqscan = off
as $$
declare
  job public.message_queue;
begin
  -- One a claim: what a dead job tells its message locks the customer, and two customers might be a deadlock.
  select q.* into job
  from public.message_queue q
  where q.status = 'processing' and q.lease_expires_at < now() and q.attempts >= q.max_attempts
  order by q.lease_expires_at
  limit 1
  for update skip locked;
  if not found then
    return;
  end if;
  begin
    update public.message_queue q
    set status = 'dead',
        is_due = true,
        completed_at = now(),
        locked_by = null,
        lease_expires_at = null,
        last_error = private.expired_lease(job)
    where q.organization_id = job.organization_id and q.id = job.id;
  exception when others then
    -- Whatever is wrong with this one, the others must not wait for it.
    raise warning 'Job % cannot be buried: %', job.id, sqlerrm;
    update public.message_queue q
    set lease_expires_at = now() + interval '10 minutes', last_error = left('cannot_be_buried: ' || sqlerrm, 2000)
    where q.organization_id = job.organization_id and q.id = job.id;
    return;
  end;
  if job.ordering_key is not null then
    perform private.release_keys(array[row(job.organization_id, job.ordering_key)::private.queue_key]);
  end if;
end;
$$;
comment on function private.bury_one_job() is 'A job that let its worker''s lease expire at its last attempt is dead.';

create function private.prepare_due_jobs()
returns void
language plpgsql
volatile
set search_path = ''
set enable_seqscan = off
set enable_sort = off
as $$
declare
  became_due bigint;
begin
  -- Picked once, before: a LIMIT below an IN may be run again for each row.
  with picked as materialized (
    select d.organization_id, d.id
    from public.message_queue d
    where not d.is_due and d.status in ('pending', 'failed') and d.run_at <= now()
    order by d.run_at
    limit 1000
    for update skip locked
  )
  update public.message_queue q
  set is_due = true
  from picked p
  where q.organization_id = p.organization_id and q.id = p.id;
  get diagnostics became_due = row_count;
  if became_due = 1000 then
    -- One tenant's crowd may stand before all others: some of each of them.
    perform private.prepare_each_tenant();
  end if;

  with picked as materialized (
    select x.organization_id, x.id
    from public.message_queue x
    where x.status = 'processing' and x.lease_expires_at < now() and x.attempts < x.max_attempts
    order by x.lease_expires_at
    limit 1000
    for update skip locked
  )
  update public.message_queue q
  set status = 'failed',
      is_due = true,
      locked_by = null,
      lease_expires_at = null,
      last_error = private.expired_lease(q)
  from picked p
  where q.organization_id = p.organization_id and q.id = p.id;
  perform private.bury_one_job();
end;
$$;
comment on function private.prepare_due_jobs() is
  'What has become due counts as due; what a worker let go of (its lease expired) is free again, or dead after its last attempt.';

create function private.check_lease(lease interval)
returns void
language plpgsql
immutable
set search_path = ''
as $$
begin
  if (lease between interval '1 second' and interval '1 hour') is not true then
    perform private.raise_error('BL304', 'invalid_lease', 'A lease lasts from a second to an hour', jsonb_build_object('lease', lease));
  end if;
end;
$$;
comment on function private.check_lease(interval) is 'Error invalid_lease.';

create function private.claim_jobs(worker text, batch_size int, job_types text[], lease interval, after uuid)
returns setof public.message_queue
language plpgsql
volatile
security definer -- the queue is written through its functions only
set search_path = ''
-- Every step is a look-up in one index; a LIMIT that is a parameter would be planned as a tenth of the table.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_sort = off
as $$
declare
  turn_begins constant bigint := coalesce(uuid_hash_extended(after, 0), ((random() - 0.5) * 1.8e19)::bigint);
begin
  if (batch_size between 1 and 1000) is not true then
    perform private.raise_error('BL303', 'invalid_batch', 'A batch has 1 to 1000 jobs', jsonb_build_object('batch_size', batch_size));
  end if;
  perform private.check_lease(lease);
  perform private.prepare_due_jobs();

  return query
  with recursive turn (place, n, is_second_half) as (
    (
      (
        select uuid_hash_extended(q.organization_id, 0), 1, false
        from public.message_queue q
        where q.is_due and q.status in ('pending', 'failed') and (job_types is null or q.job_type = any (job_types))
          and uuid_hash_extended(q.organization_id, 0) > turn_begins
        order by uuid_hash_extended(q.organization_id, 0)
        limit 1
      )
      union all
      (
        select uuid_hash_extended(q.organization_id, 0), 1, true
        from public.message_queue q
        where q.is_due and q.status in ('pending', 'failed') and (job_types is null or q.job_type = any (job_types))
          and uuid_hash_extended(q.organization_id, 0) <= turn_begins
        order by uuid_hash_extended(q.organization_id, 0)
        limit 1
      )
      limit 1
    )
    union all
    select next.place, t.n + 1, next.is_second_half
    from turn t
    cross join lateral (
      (
        select uuid_hash_extended(q.organization_id, 0) as place, t.is_second_half
        from public.message_queue q
        where q.is_due
          and q.status in ('pending', 'failed')
          and (job_types is null or q.job_type = any (job_types))
          and uuid_hash_extended(q.organization_id, 0) > t.place
          and uuid_hash_extended(q.organization_id, 0)
            <= case when t.is_second_half then turn_begins else 9223372036854775807 end
        order by uuid_hash_extended(q.organization_id, 0)
        limit 1
      )
      union all
      (
        select uuid_hash_extended(q.organization_id, 0), true
        from public.message_queue q
        where not t.is_second_half
          and q.is_due
          and q.status in ('pending', 'failed')
          and (job_types is null or q.job_type = any (job_types))
          and uuid_hash_extended(q.organization_id, 0) <= turn_begins
        order by uuid_hash_extended(q.organization_id, 0)
        limit 1
      )
      limit 1
    ) next
    -- More than a small batch needs: the jobs of the first may be in another claim's hands at this moment.
    where t.n < greatest(batch_size, 8)
  ), picked as materialized (
    select job.organization_id, job.id
    from turn t
    cross join lateral (
      select q.organization_id, q.id
      from public.message_queue q
      where uuid_hash_extended(q.organization_id, 0) = t.place
        and q.is_due
        and q.status in ('pending', 'failed')
        and (job_types is null or q.job_type = any (job_types))
      order by q.priority, q.run_at, q.position
      limit (select ceil(batch_size::numeric / least(count(*), batch_size))::bigint from turn)
      for update of q skip locked
    ) job
    limit batch_size
  )
  update public.message_queue q
  set status = 'processing',
      attempts = q.attempts + 1,
      fencing_token = q.fencing_token + 1,
      locked_by = worker,
      -- From now on, not from when the claim began: it may have waited for the processor.
      lease_expires_at = clock_timestamp() + lease
  from picked p
  where q.organization_id = p.organization_id and q.id = p.id
  returning q.*;
end;
$$;
comment on function private.claim_jobs(text, int, text[], interval, uuid) is 'See public.claim_jobs().';
grant execute on function private.claim_jobs(text, int, text[], interval, uuid) to service_role;

create function public.claim_jobs(
  worker text,
  batch_size int default 10,
  job_types text[] default null,
  lease interval default '60 seconds',
  after uuid default null
)
returns setof public.message_queue
language plpgsql
volatile
set search_path = ''
as $$
begin
  return query select c.* from private.claim_jobs(worker, batch_size, job_types, lease, after) c;
end;
$$;
comment on function public.claim_jobs(text, int, text[], interval, uuid) is
  'Gives a worker up to batch_size due jobs under a lease; an equal share of each tenant that has any, beginning behind the organization "after" (that of the last job of the worker''s previous batch; null: somewhere). Expired leases are taken over. An empty answer means that nothing is due. With job_types a claim reads past the due jobs of other types. Secret key only. Errors: invalid_batch, invalid_lease.';
grant execute on function public.claim_jobs(text, int, text[], interval, uuid) to service_role;

-- Ending --------------------------------------------------------------------------------------------------------

create function private.complete_jobs(jobs jsonb)
returns table (organization_id uuid, id uuid)
language plpgsql
volatile
security definer -- the queue is written through its functions only
set search_path = ''
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  accepted private.queue_key[];
  ids uuid[];
  organizations uuid[];
begin
  with held as materialized (
    select held.organization_id, held.id
    -- Two holders of the same jobs, one of them late, must not wait for each other.
    from (
      select *
      from jsonb_to_recordset(jobs) as j (organization_id uuid, id uuid, fencing_token bigint)
      order by organization_id, id
    ) j
    cross join lateral (
      -- By its key, job by job, and by no index that looked small at the last ANALYZE: hence lateral, and "is true".
      select q.organization_id, q.id
      from public.message_queue q
      where q.organization_id = j.organization_id
        and q.id = j.id
        and q.fencing_token = j.fencing_token
        and (q.status = 'processing') is true
      for update
    ) held
  ), ended as (
    update public.message_queue q
    set status = 'completed', completed_at = now(), locked_by = null, lease_expires_at = null
    from held h
    where q.organization_id = h.organization_id and q.id = h.id
    returning q.organization_id, q.id, q.ordering_key
  )
  select
    array_agg(e.organization_id),
    array_agg(e.id),
    array_agg(row(e.organization_id, e.ordering_key)::private.queue_key) filter (where e.ordering_key is not null)
  into organizations, ids, accepted
  from ended e;
  if accepted is not null then
    perform private.release_keys(accepted);
  end if;
  return query select a.organization_id, a.id from unnest(organizations, ids) as a (organization_id, id);
end;
$$;
comment on function private.complete_jobs(jsonb) is 'See public.complete_jobs().';
grant execute on function private.complete_jobs(jsonb) to service_role;

create function public.complete_jobs(jobs jsonb)
returns table (organization_id uuid, id uuid)
language plpgsql
volatile
set search_path = ''
as $$
#variable_conflict use_column
begin
  return query select c.organization_id, c.id from private.complete_jobs(jobs) c;
end;
$$;
comment on function public.complete_jobs(jsonb) is
  'Ends jobs [{organization_id, id, fencing_token}] that are done; answers those that the caller still held. The others are somebody else''s by now. Secret key only.';
grant execute on function public.complete_jobs(jsonb) to service_role;

create function private.fail_jobs(jobs jsonb)
returns table (organization_id uuid, id uuid)
language plpgsql
volatile
security definer -- the queue is written through its functions only
set search_path = ''
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  given_up private.queue_key[];
  ids uuid[];
  organizations uuid[];
begin
  with held as materialized (
    select
      held.organization_id, held.id, j.error,
      coalesce(j.is_permanent, false) or held.attempts >= held.max_attempts as is_dead,
      coalesce(j.retry_at, now() + private.retry_backoff(held.attempts)) as run_at
    from (
      select *
      from jsonb_to_recordset(jobs) as j (
        organization_id uuid, id uuid, fencing_token bigint, error text, retry_at timestamptz, is_permanent boolean
      )
      order by organization_id, id
    ) j
    cross join lateral (
      select q.organization_id, q.id, q.attempts, q.max_attempts
      from public.message_queue q
      where q.organization_id = j.organization_id
        and q.id = j.id
        and q.fencing_token = j.fencing_token
        and (q.status = 'processing') is true
      for update
    ) held
  ), ended as (
    update public.message_queue q
    set status = case when h.is_dead then 'dead' else 'failed' end::public.job_status,
        run_at = case when h.is_dead then q.run_at else h.run_at end,
        is_due = h.is_dead or h.run_at <= now(),
        completed_at = case when h.is_dead then now() end,
        locked_by = null,
        lease_expires_at = null,
        last_error = left(h.error, 2000)
    from held h
    where q.organization_id = h.organization_id and q.id = h.id
    returning q.organization_id, q.id, q.ordering_key, q.status
  )
  select
    array_agg(e.organization_id),
    array_agg(e.id),
    array_agg(row(e.organization_id, e.ordering_key)::private.queue_key)
      filter (where e.ordering_key is not null and e.status = 'dead')
  into organizations, ids, given_up
  from ended e;
  if given_up is not null then
    perform private.release_keys(given_up);
  end if;
  return query select a.organization_id, a.id from unnest(organizations, ids) as a (organization_id, id);
end;
$$;
comment on function private.fail_jobs(jsonb) is 'See public.fail_jobs().';
grant execute on function private.fail_jobs(jsonb) to service_role;

create function private.retry_backoff(attempts int)
returns interval
language plpgsql
volatile
set search_path = ''
as $$
begin
  return make_interval(secs => least(3600, 5 * power(2, least(attempts, 20) - 1)) * (0.8 + 0.4 * random()));
end;
$$;
comment on function private.retry_backoff(int) is
  'How long to wait after so many attempts: 5 s, doubled each time, at most an hour, a fifth more or less so that what failed together does not come back together.';

create function public.fail_jobs(jobs jsonb)
returns table (organization_id uuid, id uuid)
language plpgsql
volatile
set search_path = ''
as $$
#variable_conflict use_column
begin
  return query select f.organization_id, f.id from private.fail_jobs(jobs) f;
end;
$$;
comment on function public.fail_jobs(jsonb) is
  'Ends attempts [{organization_id, id, fencing_token, error, retry_at, is_permanent}] that failed: each job waits for its next one (at retry_at, else with exponential backoff), or is dead after its last or when is_permanent. Answers those that the caller still held. Secret key only.';
grant execute on function public.fail_jobs(jsonb) to service_role;

create function private.ended_job(organization_id uuid, id uuid, was_held boolean)
returns public.message_queue
language plpgsql
volatile
set search_path = ''
as $$
declare
  job public.message_queue;
begin
  if not was_held then
    perform private.raise_error('BL301', 'lease_lost', 'The job is not held with this fencing token any more');
  end if;
  select q.* into job
  from public.message_queue q
  where q.organization_id = ended_job.organization_id and q.id = ended_job.id;
  return job;
end;
$$;
comment on function private.ended_job(uuid, uuid, boolean) is 'The job as it is now; or error lease_lost when it was not the caller''s.';
grant execute on function private.ended_job(uuid, uuid, boolean) to service_role;

create function private.id_in(payload jsonb, key text)
returns uuid
language plpgsql
immutable
set search_path = ''
as $$
begin
  return substring(payload ->> key from '^[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}$')::uuid;
end;
$$;
comment on function private.id_in(jsonb, text) is 'The id that a job''s payload names; null for anything else: a payload may be anybody''s.';

create function private.hold_job(job jsonb)
returns public.message_queue
language plpgsql
volatile
set search_path = ''
as $$
declare
  held public.message_queue;
begin
  select q.* into held
  from public.message_queue q
  where q.organization_id = (job ->> 'organization_id')::uuid
    and q.id = (job ->> 'id')::uuid
    and (q.status = 'processing') is true
    and q.fencing_token = (job ->> 'fencing_token')::bigint
  for update;
  if not found then
    perform private.raise_error('BL301', 'lease_lost', 'The job is not held with this fencing token any more');
  end if;
  return held;
end;
$$;
comment on function private.hold_job(jsonb) is
  'The job {organization_id, id, fencing_token}, locked; or error lease_lost. First in a transaction that ends the job with its effects.';

create function private.complete_job(organization_id uuid, id uuid, fencing_token bigint)
returns public.message_queue
language plpgsql
volatile
security definer -- the queue is written through its functions only
set search_path = ''
as $$
begin
  perform from private.complete_jobs(jsonb_build_array(jsonb_build_object(
    'organization_id', organization_id, 'id', id, 'fencing_token', fencing_token)));
  return private.ended_job(organization_id, id, found);
end;
$$;
comment on function private.complete_job(uuid, uuid, bigint) is 'See public.complete_job().';
grant execute on function private.complete_job(uuid, uuid, bigint) to service_role;

create function public.complete_job(organization_id uuid, id uuid, fencing_token bigint)
returns public.message_queue
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.complete_job(organization_id, id, fencing_token);
end;
$$;
comment on function public.complete_job(uuid, uuid, bigint) is
  'Ends a job that is done. In the transaction of its effects it makes them happen once. Secret key only. Errors: lease_lost.';
grant execute on function public.complete_job(uuid, uuid, bigint) to service_role;

create function private.fail_job(
  organization_id uuid,
  id uuid,
  fencing_token bigint,
  error text,
  retry_at timestamptz default null,
  is_permanent boolean default false
)
returns public.message_queue
language plpgsql
volatile
security definer -- the queue is written through its functions only
set search_path = ''
as $$
begin
  perform from private.fail_jobs(jsonb_build_array(jsonb_build_object(
    'organization_id', organization_id, 'id', id, 'fencing_token', fencing_token,
    'error', error, 'retry_at', retry_at, 'is_permanent', is_permanent)));
  return private.ended_job(organization_id, id, found);
end;
$$;
comment on function private.fail_job(uuid, uuid, bigint, text, timestamptz, boolean) is 'See public.fail_job().';
grant execute on function private.fail_job(uuid, uuid, bigint, text, timestamptz, boolean) to service_role;

create function public.fail_job(
  organization_id uuid,
  id uuid,
  fencing_token bigint,
  error text,
  retry_at timestamptz default null,
  is_permanent boolean default false
)
returns public.message_queue
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.fail_job(organization_id, id, fencing_token, error, retry_at, is_permanent);
end;
$$;
comment on function public.fail_job(uuid, uuid, bigint, text, timestamptz, boolean) is
  'Ends an attempt that failed; see fail_jobs(). Answers the job, failed (it waits for its next attempt) or dead. Secret key only. Errors: lease_lost.';
grant execute on function public.fail_job(uuid, uuid, bigint, text, timestamptz, boolean) to service_role;

create function private.postpone_job(organization_id uuid, id uuid, fencing_token bigint, run_at timestamptz, reason text)
returns public.message_queue
language plpgsql
volatile
security definer -- the queue is written through its functions only
set search_path = ''
as $$
begin
  update public.message_queue q
  set status = 'pending',
      attempts = q.attempts - 1,
      run_at = postpone_job.run_at,
      is_due = postpone_job.run_at <= now(),
      locked_by = null,
      lease_expires_at = null,
      last_error = left(reason, 2000)
  where q.organization_id = postpone_job.organization_id
    and q.id = postpone_job.id
    and (q.status = 'processing') is true
    and q.fencing_token = postpone_job.fencing_token;
  return private.ended_job(organization_id, id, found);
end;
$$;
comment on function private.postpone_job(uuid, uuid, bigint, timestamptz, text) is 'See public.postpone_job().';
grant execute on function private.postpone_job(uuid, uuid, bigint, timestamptz, text) to service_role;

create function public.postpone_job(organization_id uuid, id uuid, fencing_token bigint, run_at timestamptz, reason text)
returns public.message_queue
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.postpone_job(organization_id, id, fencing_token, run_at, reason);
end;
$$;
comment on function public.postpone_job(uuid, uuid, bigint, timestamptz, text) is
  'Gives a job back that could not be tried (a rate limit, a pause); the attempt does not count. Its key stays behind it. Secret key only. Errors: lease_lost.';
grant execute on function public.postpone_job(uuid, uuid, bigint, timestamptz, text) to service_role;

create function private.extend_leases(jobs jsonb, lease interval)
returns table (organization_id uuid, id uuid)
language plpgsql
volatile
security definer -- the queue is written through its functions only
set search_path = ''
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
begin
  perform private.check_lease(lease);
  return query
  with held as materialized (
    select held.organization_id, held.id
    from (
      select *
      from jsonb_to_recordset(jobs) as j (organization_id uuid, id uuid, fencing_token bigint)
      order by organization_id, id
    ) j
    cross join lateral (
      select q.organization_id, q.id
      from public.message_queue q
      where q.organization_id = j.organization_id
        and q.id = j.id
        and q.fencing_token = j.fencing_token
        and (q.status = 'processing') is true
      for update
    ) held
  )
  update public.message_queue q
  set lease_expires_at = greatest(q.lease_expires_at, clock_timestamp() + lease)
  from held h
  where q.organization_id = h.organization_id and q.id = h.id
  returning q.organization_id, q.id;
end;
$$;
comment on function private.extend_leases(jsonb, interval) is 'See public.extend_leases().';
grant execute on function private.extend_leases(jsonb, interval) to service_role;

create function public.extend_leases(jobs jsonb, lease interval default '60 seconds')
returns table (organization_id uuid, id uuid)
language plpgsql
volatile
set search_path = ''
as $$
#variable_conflict use_column
begin
  return query select x.organization_id, x.id from private.extend_leases(jobs, lease) x;
end;
$$;
comment on function public.extend_leases(jsonb, interval) is
  'A worker''s heartbeat: longer leases for jobs [{organization_id, id, fencing_token}] that still run; answers those that the caller still holds. Secret key only. Errors: invalid_lease.';
grant execute on function public.extend_leases(jsonb, interval) to service_role;

create function public.extend_lease(
  organization_id uuid,
  id uuid,
  fencing_token bigint,
  lease interval default '60 seconds'
)
returns public.message_queue
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform from private.extend_leases(jsonb_build_array(jsonb_build_object(
    'organization_id', organization_id, 'id', id, 'fencing_token', fencing_token)), lease);
  return private.ended_job(organization_id, id, found);
end;
$$;
comment on function public.extend_lease(uuid, uuid, bigint, interval) is
  'A longer lease for one job. Secret key only. Errors: lease_lost, invalid_lease.';
grant execute on function public.extend_lease(uuid, uuid, bigint, interval) to service_role;

-- For the functions that begin and finish a job with its effects ---------------------------------------------------

create function private.end_job(job public.message_queue, reason text)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform private.complete_job(job.organization_id, job.id, job.fencing_token);
  return jsonb_build_object('action', 'done', 'reason', reason);
end;
$$;
comment on function private.end_job(public.message_queue, text) is 'Completes a job that needs no worker any more; what a begin_… function answers then.';

create function private.put_off_job(job public.message_queue, until timestamptz, reason text)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform private.postpone_job(job.organization_id, job.id, job.fencing_token, until, reason);
  return jsonb_build_object('action', 'done', 'reason', reason);
end;
$$;
comment on function private.put_off_job(public.message_queue, timestamptz, text) is 'Postpones a job that cannot be tried now; what a begin_… function answers then.';
