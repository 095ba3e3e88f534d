-- Replay: a stored delivery, understood again.
--
-- For what came before its number was registered, or said what an older adapter did not understand. The adapter lies
-- in the worker, so a replay is a job. It may be repeated: what is there already stays as it is.

create function private.owner_of(event public.webhook_events)
returns uuid
language plpgsql
stable
set search_path = ''
as $$
begin
  return (
    select i.organization_id
    from public.whatsapp_instances i
    where i.meta_app_key = event.app_key
      and i.external_id = event.external_id
      and i.status <> 'disconnected'
      and i.organization_id = coalesce(event.organization_id, i.organization_id)
  );
end;
$$;
comment on function private.owner_of(public.webhook_events) is
  'Whose an event is: that of the number that it came for, if that is still whose it was; else null.';

create function private.replay_webhook_event(id uuid, organization_id uuid)
returns public.webhook_events
language plpgsql
volatile
security definer -- jobs are written through functions only
set search_path = ''
as $$
declare
  event public.webhook_events;
  owner uuid;
begin
  if not private.is_service() then
    perform private.require_role(organization_id, 'admin');
  end if;
  select e.* into event
  from public.webhook_events e
  where e.id = replay_webhook_event.id
    and (private.is_service() or e.organization_id = replay_webhook_event.organization_id);
  if not found then
    perform private.raise_error('BL315', 'webhook_event_not_found', 'This organization has no such webhook event');
  end if;
  owner := private.owner_of(event);
  if owner is null then
    perform private.raise_error('BL317', 'number_not_registered', 'The number that this event came for is not connected',
      jsonb_build_object('external_id', event.external_id));
  end if;
  perform
  from private.enqueue_jobs(array[row(
    owner, 'replay_webhook_event', jsonb_build_object('event_id', event.id, 'created_at', event.created_at),
    20, null, null, null, 5
  )::private.new_job]);
  perform private.wake_worker();
  return event;
end;
$$;
comment on function private.replay_webhook_event(uuid, uuid) is 'See public.replay_webhook_event().';
grant execute on function private.replay_webhook_event(uuid, uuid) to authenticated, service_role;

create function public.replay_webhook_event(id uuid, organization_id uuid default public.user_organization_id())
returns public.webhook_events
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.replay_webhook_event(id, organization_id);
end;
$$;
comment on function public.replay_webhook_event(uuid, uuid) is
  'Has a stored delivery processed again, by a job; its retry_count, processed and processing_error tell when. Messages that are there stay as they are. Admins and up their organization''s; the secret key any, also one that no number was registered for when it came. Errors: not_allowed, webhook_event_not_found, number_not_registered.';
grant execute on function public.replay_webhook_event(uuid, uuid) to authenticated, service_role;

create function private.event_of(job public.message_queue)
returns public.webhook_events
language plpgsql
stable
set search_path = ''
as $$
declare
  event public.webhook_events;
begin
  select e.* into event
  from public.webhook_events e
  where e.id = private.id_in(job.payload, 'event_id')
    and e.created_at = (job.payload ->> 'created_at')::timestamptz;
  -- The number may have passed to somebody else since the job was enqueued.
  if private.owner_of(event) is distinct from job.organization_id then
    return null;
  end if;
  return event;
end;
$$;
comment on function private.event_of(public.message_queue) is 'The event that a job replays; null when it is gone, or no longer that organization''s.';

create function private.begin_replay(job jsonb)
returns jsonb
language plpgsql
volatile
security definer -- ends jobs
set search_path = ''
as $$
declare
  held constant public.message_queue := private.hold_job(job);
  event constant public.webhook_events := private.event_of(held);
begin
  if event.id is null then
    return private.end_job(held, 'event_gone');
  end if;
  return jsonb_build_object(
    'action', 'replay', 'provider', event.provider, 'app_key', event.app_key, 'external_id', event.external_id,
    'event_type', event.event_type, 'payload', event.payload, 'headers', event.headers, 'signature', event.signature,
    'received_at', event.received_at);
end;
$$;
comment on function private.begin_replay(jsonb) is 'See public.begin_replay().';
grant execute on function private.begin_replay(jsonb) to service_role;

create function public.begin_replay(job jsonb)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.begin_replay(job);
end;
$$;
comment on function public.begin_replay(jsonb) is
  'For the worker, with a held job of type replay_webhook_event: {action: replay, provider, app_key, external_id, event_type, payload, headers, signature, received_at}, or {action: done, reason}. Secret key only. Errors: lease_lost.';
grant execute on function public.begin_replay(jsonb) to service_role;

create function private.finish_replay(job jsonb, parts jsonb)
returns jsonb
language plpgsql
volatile
security definer -- the raw deliveries are not the caller's to change
set search_path = ''
as $$
declare
  held constant public.message_queue := private.hold_job(job);
  event constant public.webhook_events := private.event_of(held);
  counts jsonb;
begin
  if event.id is null then
    return private.end_job(held, 'event_gone');
  end if;
  counts := private.ingest_webhook(event.provider, event.app_key, event.headers, event.signature, parts, event.id);
  update public.webhook_events e
  set organization_id = case when (counts ->> 'unrouted')::int = 0 then held.organization_id else e.organization_id end,
      instance_id = coalesce(e.instance_id, (
        select i.id
        from public.whatsapp_instances i
        where i.meta_app_key = e.app_key and i.external_id = e.external_id and i.status <> 'disconnected'
      )),
      unknown_count = (counts ->> 'unknown')::int,
      processed = (counts ->> 'unrouted')::int = 0,
      processing_error = case when (counts ->> 'unrouted')::int = 0 then parts #>> '{0,error}' else 'number_not_registered' end,
      processed_at = now(),
      retry_count = e.retry_count + 1
  where e.id = event.id and e.created_at = event.created_at;
  perform private.complete_job(held.organization_id, held.id, held.fencing_token);
  return counts;
end;
$$;
comment on function private.finish_replay(jsonb, jsonb) is 'See public.finish_replay().';
grant execute on function private.finish_replay(jsonb, jsonb) to service_role;

create function public.finish_replay(job jsonb, parts jsonb)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.finish_replay(job, parts);
end;
$$;
comment on function public.finish_replay(jsonb, jsonb) is
  'For the worker: what the adapter made of a replayed event, processed; and the end of the job. Answers as ingest_webhook(). Secret key only. Errors: lease_lost.';
grant execute on function public.finish_replay(jsonb, jsonb) to service_role;
