-- Running the queue: dead letters, an outage's backlog, the clock's part, and the names of the Oxy design.

-- Dead letters ----------------------------------------------------------------------------------------------------

create function private.redrive(dead public.message_queue[])
returns setof public.message_queue
language plpgsql
volatile
set search_path = ''
as $$
declare
  keys constant private.queue_key[] := array(
    select distinct row(d.organization_id, d.ordering_key)::private.queue_key
    from unnest(dead) d
    where d.ordering_key is not null
  );
begin
  if cardinality(keys) > 0 then
    perform private.lock_queue_keys(keys);
  end if;
  update public.message_queue q
  set status = case when q.ordering_key is null then 'pending' else 'waiting' end::public.job_status,
      attempts = 0,
      run_at = now(),
      is_due = true,
      completed_at = null
  from unnest(dead) d
  where q.organization_id = d.organization_id and q.id = d.id and q.status = 'dead';
  if cardinality(keys) > 0 then
    perform private.promote_keys(keys);
  end if;
  perform private.wake_worker();
  return query
  select q.*
  from unnest(dead) d
  join public.message_queue q on q.organization_id = d.organization_id and q.id = d.id;
end;
$$;
comment on function private.redrive(public.message_queue[]) is 'Dead jobs begin anew; in their key they keep their place.';

create function private.redrive_job(id uuid, organization_id uuid)
returns public.message_queue
language plpgsql
volatile
security definer -- the queue is written through its functions only
set search_path = ''
as $$
declare
  job public.message_queue;
begin
  perform private.require_role(organization_id, 'admin');
  select q.* into job
  from public.message_queue q
  where q.organization_id = redrive_job.organization_id and q.id = redrive_job.id and q.is_dead
  -- Rows before keys, as everybody else: redrive_jobs() may be at it too.
  for update;
  if not found then
    perform private.raise_error('BL302', 'job_not_found', 'This organization has no such dead job');
  elsif job.job_type in ('send_message', 'deliver_webhook') then
    perform private.raise_error('BL306', 'not_redrivable', 'What this job was for has failed, and is tried again by itself',
      jsonb_build_object('job_type', job.job_type), 'retry_message() sends a message again, redeliver() an event.');
  end if;
  select r.* into job from private.redrive(array[job]) r;
  return job;
end;
$$;
comment on function private.redrive_job(uuid, uuid) is 'See public.redrive_job().';
grant execute on function private.redrive_job(uuid, uuid) to authenticated, service_role;

create function public.redrive_job(id uuid, organization_id uuid default public.user_organization_id())
returns public.message_queue
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.redrive_job(id, organization_id);
end;
$$;
comment on function public.redrive_job(uuid, uuid) is
  'Tries a dead job again, with all its attempts. Messages and events have their own ways: retry_message(), redeliver(). Admins and up. Errors: not_allowed, job_not_found, not_redrivable.';
grant execute on function public.redrive_job(uuid, uuid) to authenticated, service_role;

create function private.redrive_jobs(job_type text, organization_id uuid)
returns bigint
language plpgsql
volatile
security definer -- the queue is written through its functions only
set search_path = ''
as $$
declare
  redriven bigint;
begin
  perform private.require_role(organization_id, 'admin');
  select count(*) into redriven
  from private.redrive(array(
    select q
    from public.message_queue q
    where q.organization_id = redrive_jobs.organization_id
      and q.is_dead
      and q.job_type not in ('send_message', 'deliver_webhook')
      and (redrive_jobs.job_type is null or q.job_type = redrive_jobs.job_type)
    order by q.completed_at desc
    -- Each key is a lock, and their number is limited.
    limit 1000
    for update skip locked
  ));
  return redriven;
end;
$$;
comment on function private.redrive_jobs(text, uuid) is 'See public.redrive_jobs().';
grant execute on function private.redrive_jobs(text, uuid) to authenticated, service_role;

create function public.redrive_jobs(job_type text default null, organization_id uuid default public.user_organization_id())
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.redrive_jobs(job_type, organization_id);
end;
$$;
comment on function public.redrive_jobs(text, uuid) is
  'Tries an organization''s dead jobs again (of one type, if given; at most 1,000 at a time; not messages and events, see redrive_job()); answers how many. Admins and up. Errors: not_allowed.';
grant execute on function public.redrive_jobs(text, uuid) to authenticated, service_role;

-- By the names of the Oxy design ----------------------------------------------------------------------------------

create function public.process_pending_queue_jobs()
returns setof public.message_queue
language plpgsql
volatile
set search_path = ''
as $$
begin
  return query select c.* from private.claim_jobs('process_pending_queue_jobs', 100, null, interval '5 minutes', null) c;
end;
$$;
comment on function public.process_pending_queue_jobs() is
  'Claims the next 100 jobs for five minutes; who calls it ends them by complete_jobs() and fail_jobs(). Secret key only.';
grant execute on function public.process_pending_queue_jobs() to service_role;

create function private.retry_failed_queue_jobs()
returns bigint
language plpgsql
volatile
security definer -- the queue is written through its functions only
set search_path = ''
as $$
declare
  hurried bigint;
begin
  update public.message_queue q
  set run_at = now(), is_due = true
  where (q.organization_id, q.id) in (
    select f.organization_id, f.id
    from public.message_queue f
    where not f.is_due and f.status = 'failed'
    for update skip locked
  );
  get diagnostics hurried = row_count;
  perform private.wake_worker();
  return hurried;
end;
$$;
comment on function private.retry_failed_queue_jobs() is 'See public.retry_failed_queue_jobs().';
grant execute on function private.retry_failed_queue_jobs() to service_role;

create function public.retry_failed_queue_jobs()
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.retry_failed_queue_jobs();
end;
$$;
comment on function public.retry_failed_queue_jobs() is
  'What failed and waits for its next attempt is tried now, say after an outage; answers how many. Needs no schedule: a failed job comes back by itself. Secret key only.';
grant execute on function public.retry_failed_queue_jobs() to service_role;

-- For the schedules ------------------------------------------------------------------------------------------------

create function private.has_due_jobs()
returns boolean
language plpgsql
stable
set search_path = ''
set enable_seqscan = off
as $$
begin
  return exists (select from public.message_queue q where q.is_due and q.status in ('pending', 'failed'))
    or exists (
      select from public.message_queue q where not q.is_due and q.status in ('pending', 'failed') and q.run_at <= now()
    )
    or exists (select from public.message_queue q where q.status = 'processing' and q.lease_expires_at < now());
end;
$$;
comment on function private.has_due_jobs() is 'Whether a worker would find something.';

create function private.delete_finished_jobs(batch_size int default 5000)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  completed bigint;
  dead bigint;
begin
  with picked as materialized (
    select c.organization_id, c.id
    from public.message_queue c
    where c.status = 'completed' and c.completed_at < now() - interval '1 day'
    order by c.completed_at
    limit batch_size
    for update skip locked
  )
  delete from public.message_queue q
  using picked p
  where q.organization_id = p.organization_id and q.id = p.id;
  get diagnostics completed = row_count;
  with picked as materialized (
    select d.organization_id, d.id
    from public.message_queue d
    where d.status = 'dead' and d.completed_at < now() - interval '30 days'
    order by d.completed_at
    limit batch_size
    for update skip locked
  )
  delete from public.message_queue q
  using picked p
  where q.organization_id = p.organization_id and q.id = p.id;
  get diagnostics dead = row_count;
  return completed + dead;
end;
$$;
comment on function private.delete_finished_jobs(int) is
  'Deletes completed jobs after a day and dead ones after thirty, a batch of each at a time; returns how many.';
