-- Webhooks, outgoing: what happens here, told to the tenant's own systems.
--
-- A delivery is written in the transaction of the change that it tells of: both are there or neither. The worker
-- signs and posts it (Standard Webhooks 1.0.0, standardwebhooks.com) and tries again for three days. A receiver may
-- get an event more than once, always under the same webhook-id, and events in any order.

-- webhook_deliveries --------------------------------------------------------------------------------------------------

create type public.webhook_delivery_status as enum ('pending', 'delivering', 'delivered', 'failed', 'dead');
comment on type public.webhook_delivery_status is 'failed: waits for its next attempt; dead: given up, until somebody redelivers it.';

create table public.webhook_deliveries (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  endpoint_id uuid not null,
  event_id uuid not null,
  event_type text not null,
  webhook_url text not null,
  payload jsonb not null,
  status public.webhook_delivery_status not null default 'pending',
  attempts int not null default 0,
  next_attempt_at timestamptz default now(),
  last_response_status int,
  last_error text,
  response_ms int,
  delivered_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint webhook_deliveries_pkey primary key (organization_id, id),
  constraint webhook_deliveries_endpoint_id_fkey foreign key (organization_id, endpoint_id)
    references public.webhook_endpoints (organization_id, id) on delete cascade,
  constraint webhook_deliveries_endpoint_id_event_id_key unique (endpoint_id, event_id),
  constraint webhook_deliveries_payload_is_object_check check (jsonb_typeof(payload) = 'object')
);
comment on table public.webhook_deliveries is
  'Every event for every endpoint, and how far it got; kept thirty days. An endpoint''s list: by endpoint_id, ordered by event_id (UUIDv7: as they happened).';
comment on column public.webhook_deliveries.event_id is 'The header webhook-id: the same at every attempt, and at every endpoint.';
comment on column public.webhook_deliveries.webhook_url is 'Where the last attempt went, or the first one will go.';
comment on constraint webhook_deliveries_endpoint_id_event_id_key on public.webhook_deliveries is
  'Once; and an endpoint''s list, newest first.';
create statistics public.webhook_deliveries_endpoint_id_organization_id_stats (dependencies)
  on endpoint_id, organization_id from public.webhook_deliveries;
comment on statistics public.webhook_deliveries_endpoint_id_organization_id_stats is 'An endpoint has one organization.';
create index webhook_deliveries_organization_id_created_at_idx on public.webhook_deliveries (organization_id, created_at desc);
comment on index public.webhook_deliveries_organization_id_created_at_idx is 'What was told lately, for an administrator.';
create index webhook_deliveries_created_at_idx on public.webhook_deliveries (created_at);
comment on index public.webhook_deliveries_created_at_idx is 'Retention.';
create index webhook_deliveries_open_idx on public.webhook_deliveries (organization_id, endpoint_id, status)
  where status in ('pending', 'delivering', 'failed');
comment on index public.webhook_deliveries_open_idx is 'How many a receiver is being told, and how many wait.';

alter table public.webhook_deliveries enable row level security;
alter table public.webhook_deliveries force row level security;
create policy "Admins can read their organization's webhook deliveries" on public.webhook_deliveries
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.webhook_deliveries from public, anon, authenticated, service_role;
grant select on public.webhook_deliveries to authenticated, service_role;

create trigger webhook_deliveries_100_touch_updated_at
  before update on public.webhook_deliveries
  for each row execute function private.tg_touch_updated_at();

-- Events --------------------------------------------------------------------------------------------------------------

create type private.webhook_event as (organization_id uuid, event_type text, data jsonb);

create function private.enqueue_deliveries(deliveries public.webhook_deliveries[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform
  from private.enqueue_jobs(array(
    -- More than the ten attempts of the schedule: a worker's crash counts as one in the queue.
    select row(d.organization_id, 'deliver_webhook', jsonb_build_object('delivery_id', d.id), 5, null, null, null, 30)::private.new_job
    from unnest(deliveries) d
  ));
  perform private.wake_worker();
end;
$$;
comment on function private.enqueue_deliveries(public.webhook_deliveries[]) is 'A job for each delivery, behind what customers wait for; and wakes the worker.';

create function private.emit_webhook_events(events private.webhook_event[])
returns void
language plpgsql
volatile
security definer -- whoever changes something need not be allowed to write deliveries
set search_path = ''
as $$
declare
  deliveries public.webhook_deliveries[];
begin
  with event as materialized (
    select private.uuid_v7() as id, e.organization_id, e.event_type, e.data
    from unnest(events) e
  ), endpoint as materialized (
    select n.*
    from public.webhook_endpoints n
    where n.is_active and n.organization_id in (select e.organization_id from unnest(events) e)
    -- One that is being deleted at this moment is waited for, and hears nothing.
    for key share of n
  ), written as (
    insert into public.webhook_deliveries as d (organization_id, endpoint_id, event_id, event_type, webhook_url, payload)
    select
      n.organization_id, n.id, event.id, event.event_type, n.url,
      jsonb_build_object(
        'type', event.event_type,
        'timestamp', to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        'data', jsonb_build_object('organization_id', event.organization_id) || event.data)
    from event
    join endpoint n on n.organization_id = event.organization_id and event.event_type = any (n.event_types)
    order by event.id
    returning d.*
  )
  select array_agg(row(w.*)::public.webhook_deliveries) into deliveries from written w;
  if deliveries is not null then
    perform private.enqueue_deliveries(deliveries);
  end if;
end;
$$;
comment on function private.emit_webhook_events(private.webhook_event[]) is
  'Tells the endpoints that want to know, in this transaction.';

create function private.are_events_wanted(organizations uuid[])
returns boolean
language plpgsql
stable
security definer -- the endpoints are the administrators' to see
set search_path = ''
as $$
begin
  return exists (
    select from public.webhook_endpoints e where e.organization_id = any (organizations) and e.is_active
  );
end;
$$;
comment on function private.are_events_wanted(uuid[]) is 'Whether any of these organizations has an endpoint: most have none, and pay one look-up.';

create function private.contact_of_event(organization_id uuid, contact_id uuid)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return (
    select jsonb_build_object('id', p.id, 'name', p.name, 'phone_number', p.phone_number)
    from public.contacts p
    where p.organization_id = contact_of_event.organization_id and p.id = contact_of_event.contact_id
  );
end;
$$;
comment on function private.contact_of_event(uuid, uuid) is 'What an event says of the person it is about.';

create function private.message_event(message public.messages)
returns jsonb
language plpgsql
stable
security definer -- a status on its way in may not read contacts
set search_path = ''
as $$
begin
  return jsonb_build_object(
    'message', jsonb_build_object(
      'id', message.id,
      'conversation_id', message.conversation_id,
      'contact_id', message.contact_id,
      'instance_id', message.instance_id,
      'direction', message.direction,
      'sender', message.sender,
      'message_type', message.message_type,
      'content', message.content,
      'whatsapp_message_id', message.whatsapp_message_id,
      'client_message_id', message.client_message_id,
      'status', message.status,
      'error_code', message.error_code,
      'error_message', message.error_message,
      'sent_at', message.sent_at,
      'created_at', message.created_at),
    'contact', private.contact_of_event(message.organization_id, message.contact_id)
  );
end;
$$;
comment on function private.message_event(public.messages) is 'What an event says of a message.';

create function private.tg_messages__emit_inserted()
returns trigger
language plpgsql
volatile
security definer -- whoever stores a message need not be allowed to write deliveries
set search_path = ''
as $$
begin
  if private.are_events_wanted(array(select distinct i.organization_id from inserted i)) then
    perform private.emit_webhook_events(array(
      select row(
        i.organization_id,
        case i.direction when 'inbound' then 'message.received' else 'message.' || i.status end,
        private.message_event(i::public.messages)
      )::private.webhook_event
      from inserted i
      where i.sender = 'contact' or i.direction = 'outbound' and i.status <> 'queued'
      order by i.id
    ));
  end if;
  return null;
end;
$$;
comment on function private.tg_messages__emit_inserted() is 'Trigger: a customer wrote, or the business from its own phone.';
create trigger messages_900_emit_inserted
  after insert on public.messages
  referencing new table as inserted
  for each statement execute function private.tg_messages__emit_inserted();

create function private.tg_messages__emit_status()
returns trigger
language plpgsql
volatile
security definer -- whoever tells a status need not be allowed to write deliveries
set search_path = ''
as $$
begin
  if private.are_events_wanted(array(select distinct a.organization_id from after_change a)) then
    perform private.emit_webhook_events(array(
      select row(a.organization_id, 'message.' || a.status, private.message_event(a::public.messages))::private.webhook_event
      from after_change a
      join before_change b on b.organization_id = a.organization_id and b.id = a.id
      where a.direction = 'outbound' and a.status <> b.status and a.status <> 'queued'
      order by a.id
    ));
  end if;
  return null;
end;
$$;
comment on function private.tg_messages__emit_status() is 'Trigger: a message of ours got further, or failed.';
create trigger messages_900_emit_status
  after update on public.messages
  referencing old table as before_change new table as after_change
  for each statement execute function private.tg_messages__emit_status();

create function private.conversation_event(conversation public.conversations)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return jsonb_build_object('conversation', jsonb_build_object(
    'id', conversation.id,
    'contact_id', conversation.contact_id,
    'instance_id', conversation.instance_id,
    'status', conversation.status,
    'is_bot_controlled', conversation.is_bot_controlled,
    'assigned_user_id', conversation.assigned_user_id,
    'escalated_at', conversation.escalated_at,
    'escalation_reason', conversation.escalation_reason,
    'satisfaction_score', conversation.satisfaction_score,
    'created_at', conversation.created_at,
    'closed_at', conversation.closed_at));
end;
$$;
comment on function private.conversation_event(public.conversations) is 'What an event says of a conversation.';

create function private.tg_conversations__emit_opened()
returns trigger
language plpgsql
volatile
security definer -- whoever opens a conversation need not be allowed to write deliveries
set search_path = ''
as $$
begin
  if private.are_events_wanted(array(select distinct i.organization_id from inserted i)) then
    perform private.emit_webhook_events(array(
      select row(i.organization_id, 'conversation.opened', private.conversation_event(i::public.conversations))::private.webhook_event
      from inserted i
      where i.is_open
      order by i.id
    ));
  end if;
  return null;
end;
$$;
comment on function private.tg_conversations__emit_opened() is 'Trigger: a conversation began.';
create trigger conversations_900_emit_opened
  after insert on public.conversations
  referencing new table as inserted
  for each statement execute function private.tg_conversations__emit_opened();

create function private.conversation_change(before public.conversations, after public.conversations)
returns text
language sql
immutable
set search_path = ''
as $$
  select case
    when before.is_open and not after.is_open then 'closed'
    when not before.is_open and after.is_open then 'reopened'
    when after.status = 'waiting_human' and before.status <> 'waiting_human' then 'escalated'
    when after.status = 'transferred'
      and (before.status <> 'transferred' or before.assigned_user_id is distinct from after.assigned_user_id) then 'transferred'
    when after.is_bot_controlled and not before.is_bot_controlled then 'released'
    when not after.is_bot_controlled and after.is_open and before.control_epoch <> after.control_epoch then 'taken_over'
  end
$$;
comment on function private.conversation_change(public.conversations, public.conversations) is
  'What happened to a conversation: closed, reopened, escalated, transferred, released or taken_over; null when nothing of that.';

create function private.tg_conversations__emit_change()
returns trigger
language plpgsql
volatile
security definer -- whoever changes a conversation need not be allowed to write deliveries
set search_path = ''
as $$
declare
  change constant text := private.conversation_change(old, new);
begin
  if change is not null and private.are_events_wanted(array[new.organization_id]) then
    perform private.emit_webhook_events(array[row(
      new.organization_id, 'conversation.' || change, private.conversation_event(new)
    )::private.webhook_event]);
  end if;
  return null;
end;
$$;
comment on function private.tg_conversations__emit_change() is
  'Trigger: a conversation was closed, opened again, or passed from one to another.';
create trigger conversations_900_emit_change
  after update of status, is_bot_controlled, control_epoch, assigned_user_id on public.conversations
  for each row when (
    old.status <> new.status
    or old.is_bot_controlled <> new.is_bot_controlled
    or old.control_epoch <> new.control_epoch
    or old.assigned_user_id is distinct from new.assigned_user_id
  )
  execute function private.tg_conversations__emit_change();

create function private.tg_contacts__emit_created()
returns trigger
language plpgsql
volatile
security definer -- whoever makes a contact need not be allowed to write deliveries
set search_path = ''
as $$
begin
  if private.are_events_wanted(array(select distinct i.organization_id from inserted i)) then
    perform private.emit_webhook_events(array(
      select row(i.organization_id, 'contact.created', jsonb_build_object('contact', jsonb_build_object(
        'id', i.id, 'name', i.name, 'phone_number', i.phone_number, 'source', i.source, 'created_at', i.created_at
      )))::private.webhook_event
      from inserted i
      order by i.id
    ));
  end if;
  return null;
end;
$$;
comment on function private.tg_contacts__emit_created() is 'Trigger: somebody new.';
create trigger contacts_900_emit_created
  after insert on public.contacts
  referencing new table as inserted
  for each statement execute function private.tg_contacts__emit_created();

create function private.tg_whatsapp_instances__emit_change()
returns trigger
language plpgsql
volatile
security definer -- whoever changes a number need not be allowed to write deliveries
set search_path = ''
as $$
declare
  data constant jsonb := jsonb_build_object('instance', jsonb_build_object(
    'id', new.id,
    'name', new.name,
    'phone_number', new.phone_number,
    'provider', new.provider,
    'status', new.status,
    'sending_stopped_at', new.sending_stopped_at,
    'sending_stopped_code', new.sending_stopped_code,
    'sending_stopped_reason', new.sending_stopped_reason));
begin
  if new.status <> old.status and new.status in ('connected', 'disconnected') then
    perform private.emit_webhook_events(array[row(new.organization_id, 'instance.' || new.status, data)::private.webhook_event]);
  end if;
  if new.sending_stopped_at is not null and old.sending_stopped_at is null then
    perform private.emit_webhook_events(array[row(new.organization_id, 'instance.sending_stopped', data)::private.webhook_event]);
  end if;
  return null;
end;
$$;
comment on function private.tg_whatsapp_instances__emit_change() is 'Trigger: a number came, went, or can send nothing any more.';
create trigger whatsapp_instances_900_emit_change
  after update of status, sending_stopped_at on public.whatsapp_instances
  for each row execute function private.tg_whatsapp_instances__emit_change();

-- Delivering ------------------------------------------------------------------------------------------------------------

create function private.receiver_is_busy_until(delivery public.webhook_deliveries)
returns timestamptz
language plpgsql
volatile
set search_path = ''
as $$
declare
  is_busy boolean;
  waiting bigint;
begin
  select count(*) >= 10 or count(*) filter (where u.updated_at < now() - interval '1 second') >= 3 into is_busy
  from (
    select d.updated_at
    from public.webhook_deliveries d
    where d.organization_id = delivery.organization_id
      and d.endpoint_id = delivery.endpoint_id
      and d.status = 'delivering'
      and d.id <> delivery.id
    limit 10
  ) u;
  if not is_busy then
    return null;
  end if;
  select count(*) into waiting
  from (
    select
    from public.webhook_deliveries d
    where d.organization_id = delivery.organization_id
      and d.endpoint_id = delivery.endpoint_id
      and d.status in ('pending', 'failed')
    limit 1000
  ) w;
  -- However many wait, some ten a second come and ask.
  return clock_timestamp() + make_interval(secs => 0.5 + random() * (1 + waiting / 10.0));
end;
$$;
comment on function private.receiver_is_busy_until(public.webhook_deliveries) is
  'When to ask again, while a receiver is being told ten things, or three that it does not answer at once: what it is slow at must not take every slot of the workers. Null: now.';

create function private.begin_delivery(job jsonb)
returns jsonb
language plpgsql
volatile
security definer -- hands out secrets, and ends jobs
set search_path = ''
as $$
declare
  held constant public.message_queue := private.hold_job(job);
  delivery public.webhook_deliveries;
  endpoint public.webhook_endpoints;
  secrets jsonb;
  busy_until timestamptz;
begin
  select d.* into delivery
  from public.webhook_deliveries d
  where d.organization_id = held.organization_id and d.id = private.id_in(held.payload, 'delivery_id')
  for no key update;
  if not found then
    return private.end_job(held, 'delivery_gone');
  elsif delivery.status = 'delivered' then
    return private.end_job(held, 'delivered_already');
  end if;
  select e.* into endpoint
  from public.webhook_endpoints e
  where e.organization_id = delivery.organization_id and e.id = delivery.endpoint_id;
  if not endpoint.is_active then
    update public.webhook_deliveries d
    set status = 'dead', next_attempt_at = null, last_error = 'endpoint_disabled'
    where d.organization_id = delivery.organization_id and d.id = delivery.id;
    return private.end_job(held, 'endpoint_disabled');
  end if;
  busy_until := private.receiver_is_busy_until(delivery);
  if busy_until is not null then
    update public.webhook_deliveries d
    set status = case d.status when 'pending' then 'pending' else 'failed' end::public.webhook_delivery_status,
        next_attempt_at = busy_until
    where d.organization_id = delivery.organization_id and d.id = delivery.id;
    return private.put_off_job(held, busy_until, 'receiver_busy');
  end if;
  select jsonb_agg(s.secret order by s.id desc) into secrets
  from private.webhook_endpoint_secrets s
  where s.organization_id = endpoint.organization_id
    and s.endpoint_id = endpoint.id
    and (s.expires_at is null or s.expires_at > now());
  update public.webhook_deliveries d
  set status = 'delivering', attempts = d.attempts + 1, next_attempt_at = null, webhook_url = endpoint.url
  where d.organization_id = delivery.organization_id and d.id = delivery.id
  returning d.* into delivery;
  return jsonb_build_object(
    'action', 'deliver',
    'delivery', jsonb_build_object(
      'id', delivery.id, 'event_id', delivery.event_id, 'event_type', delivery.event_type,
      'attempts', delivery.attempts, 'created_at', delivery.created_at),
    'url', endpoint.url,
    'payload', delivery.payload,
    'secrets', secrets);
end;
$$;
comment on function private.begin_delivery(jsonb) is 'See public.begin_delivery().';
grant execute on function private.begin_delivery(jsonb) to service_role;

create function public.begin_delivery(job jsonb)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.begin_delivery(job);
end;
$$;
comment on function public.begin_delivery(jsonb) is
  'For the worker, with a held job of type deliver_webhook: {action: deliver, delivery, url, payload, secrets (sealed, newest first)}, or {action: done, reason}. Secret key only. Errors: lease_lost.';
grant execute on function public.begin_delivery(jsonb) to service_role;

create function private.note_endpoint_failure(delivery public.webhook_deliveries, is_gone boolean)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  update public.webhook_endpoints e
  set consecutive_failures = e.consecutive_failures + 1, failing_since = coalesce(e.failing_since, now())
  where e.organization_id = delivery.organization_id and e.id = delivery.endpoint_id;
  update public.webhook_endpoints e
  set is_active = false, disabled_at = now(), disabled_reason = case when is_gone then 'gone' else 'failing' end
  where e.organization_id = delivery.organization_id
    and e.id = delivery.endpoint_id
    and e.is_active
    and (is_gone or e.failing_since < now() - interval '5 days');
end;
$$;
comment on function private.note_endpoint_failure(public.webhook_deliveries, boolean) is
  'Counts a failure; an endpoint that is gone, or has failed for five days without one success, is disabled.';

create function private.finish_delivery(job jsonb, outcome jsonb)
returns jsonb
language plpgsql
volatile
security definer -- writes deliveries and endpoints, and ends jobs
set search_path = ''
as $$
declare
  held constant public.message_queue := private.hold_job(job);
  result constant text := outcome ->> 'result';
  error constant text := left(coalesce(outcome ->> 'error', ''), 1000);
  is_endpoint_locked boolean;
  delivery public.webhook_deliveries;
  ended public.message_queue;
begin
  if result is null or result not in ('delivered', 'retry', 'exhausted', 'gone') then
    perform private.raise_error('BL305', 'invalid_outcome', 'No such result of a job', jsonb_build_object('result', result));
  end if;
  perform private.log_api_calls(held, jsonb_build_array(outcome -> 'api_call'));
  -- The endpoint before its delivery, as whoever deletes it.
  perform
  from public.webhook_endpoints e
  where (e.organization_id, e.id) = (
    select d.organization_id, d.endpoint_id
    from public.webhook_deliveries d
    where d.organization_id = held.organization_id and d.id = private.id_in(held.payload, 'delivery_id')
  )
    and (result <> 'delivered' or e.failing_since is not null)
  for no key update;
  is_endpoint_locked := found;
  update public.webhook_deliveries d
  set status = case result when 'delivered' then 'delivered' when 'retry' then 'failed' else 'dead' end::public.webhook_delivery_status,
      next_attempt_at = case result when 'retry' then (outcome ->> 'next_attempt_at')::timestamptz end,
      delivered_at = case result when 'delivered' then now() end,
      last_response_status = (outcome ->> 'status')::int,
      last_error = case when result <> 'delivered' then error end,
      response_ms = (outcome ->> 'response_ms')::int
  where d.organization_id = held.organization_id and d.id = private.id_in(held.payload, 'delivery_id')
  returning d.* into delivery;
  if not found then
    return private.end_job(held, 'delivery_gone');
  end if;
  if result = 'delivered' then
    if is_endpoint_locked then
      update public.webhook_endpoints e
      set consecutive_failures = 0, failing_since = null
      where e.organization_id = delivery.organization_id and e.id = delivery.endpoint_id;
    end if;
    return private.end_job(held, 'delivered');
  end if;
  perform private.note_endpoint_failure(delivery, result = 'gone');
  if result = 'retry' then
    ended := private.fail_job(held.organization_id, held.id, held.fencing_token, error, delivery.next_attempt_at);
    return jsonb_build_object('action', 'done', 'reason', ended.status);
  end if;
  return private.end_job(held, result);
end;
$$;
comment on function private.finish_delivery(jsonb, jsonb) is 'See public.finish_delivery().';
grant execute on function private.finish_delivery(jsonb, jsonb) to service_role;

create function public.finish_delivery(job jsonb, outcome jsonb)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.finish_delivery(job, outcome);
end;
$$;
comment on function public.finish_delivery(jsonb, jsonb) is
  'For the worker: what came of an attempt, and the end of its job. outcome {result: delivered, status, response_ms} | {result: retry, status, error, response_ms, next_attempt_at} | {result: exhausted, …} | {result: gone, …}, each with api_call. Secret key only. Errors: lease_lost, invalid_outcome.';
grant execute on function public.finish_delivery(jsonb, jsonb) to service_role;

create function private.tg_message_queue__bury_delivery()
returns trigger
language plpgsql
volatile
security definer -- whoever ends a job need not be allowed to write deliveries
set search_path = ''
as $$
begin
  update public.webhook_deliveries d
  set status = 'dead', next_attempt_at = null, last_error = left(new.last_error, 1000)
  where d.organization_id = new.organization_id
    and d.id = private.id_in(new.payload, 'delivery_id')
    and d.status not in ('delivered', 'dead');
  return null;
end;
$$;
comment on function private.tg_message_queue__bury_delivery() is 'Trigger: a delivery whose job is given up does not stay pending for ever.';
create trigger message_queue_500_bury_delivery
  after update of status on public.message_queue
  for each row when (new.job_type = 'deliver_webhook' and new.status = 'dead' and old.status <> 'dead')
  execute function private.tg_message_queue__bury_delivery();

-- Again, and for a try ----------------------------------------------------------------------------------------------------

create function private.redeliver(id uuid, organization_id uuid)
returns public.webhook_deliveries
language plpgsql
volatile
security definer -- deliveries and jobs are written through functions only
set search_path = ''
as $$
declare
  delivery public.webhook_deliveries;
begin
  perform private.require_role(organization_id, 'admin');
  select d.* into delivery
  from public.webhook_deliveries d
  where d.organization_id = redeliver.organization_id and d.id = redeliver.id
  for no key update;
  if not found then
    perform private.raise_error('BL314', 'webhook_delivery_not_found', 'This organization has no such delivery');
  end if;
  if exists (
    select
    from public.webhook_endpoints e
    where e.organization_id = delivery.organization_id and e.id = delivery.endpoint_id and not e.is_active
  ) then
    perform private.raise_error('BL316', 'webhook_endpoint_disabled', 'The endpoint is not active: switch it on first');
  end if;
  -- What is on its way already has its job.
  if delivery.status in ('delivered', 'dead') then
    update public.webhook_deliveries d
    set status = 'pending', attempts = 0, next_attempt_at = now(), delivered_at = null
    where d.organization_id = delivery.organization_id and d.id = delivery.id
    returning d.* into delivery;
    perform private.enqueue_deliveries(array[delivery]);
  end if;
  return delivery;
end;
$$;
comment on function private.redeliver(uuid, uuid) is 'See public.redeliver().';
grant execute on function private.redeliver(uuid, uuid) to authenticated, service_role;

create function public.redeliver(id uuid, organization_id uuid default public.user_organization_id())
returns public.webhook_deliveries
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.redeliver(id, organization_id);
end;
$$;
comment on function public.redeliver(uuid, uuid) is
  'Delivers an event again, with the same webhook-id and the whole schedule of attempts. One that is on its way stays so. Admins and up. Errors: not_allowed, webhook_delivery_not_found, webhook_endpoint_disabled.';
grant execute on function public.redeliver(uuid, uuid) to authenticated, service_role;

create function private.test_webhook_endpoint(endpoint_id uuid, organization_id uuid)
returns public.webhook_deliveries
language plpgsql
volatile
security definer -- deliveries and jobs are written through functions only
set search_path = ''
as $$
declare
  endpoint public.webhook_endpoints;
  delivery public.webhook_deliveries;
begin
  perform private.require_role(organization_id, 'admin');
  endpoint := private.locked_endpoint(organization_id, endpoint_id);
  if not endpoint.is_active then
    perform private.raise_error('BL316', 'webhook_endpoint_disabled', 'The endpoint is not active: switch it on first');
  end if;
  insert into public.webhook_deliveries (organization_id, endpoint_id, event_id, event_type, webhook_url, payload)
  values (
    endpoint.organization_id, endpoint.id, private.uuid_v7(), 'webhook.test', endpoint.url,
    jsonb_build_object(
      'type', 'webhook.test',
      'timestamp', to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
      'data', jsonb_build_object('organization_id', endpoint.organization_id, 'endpoint_id', endpoint.id))
  )
  returning * into delivery;
  perform private.enqueue_deliveries(array[delivery]);
  return delivery;
end;
$$;
comment on function private.test_webhook_endpoint(uuid, uuid) is 'See public.test_webhook_endpoint().';
grant execute on function private.test_webhook_endpoint(uuid, uuid) to authenticated, service_role;

create function public.test_webhook_endpoint(endpoint_id uuid, organization_id uuid default public.user_organization_id())
returns public.webhook_deliveries
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.test_webhook_endpoint(endpoint_id, organization_id);
end;
$$;
comment on function public.test_webhook_endpoint(uuid, uuid) is
  'Sends the event webhook.test to one endpoint, whatever it listens to; answers the delivery. Admins and up. Errors: not_allowed, webhook_endpoint_not_found, webhook_endpoint_disabled.';
grant execute on function public.test_webhook_endpoint(uuid, uuid) to authenticated, service_role;

create function private.delete_old_webhook_deliveries(batch_size int default 5000)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  deleted bigint;
begin
  with picked as materialized (
    select o.organization_id, o.id
    from public.webhook_deliveries o
    where o.created_at < now() - interval '30 days'
    order by o.created_at
    limit batch_size
    for update skip locked
  )
  delete from public.webhook_deliveries d
  using picked p
  where d.organization_id = p.organization_id and d.id = p.id;
  get diagnostics deleted = row_count;
  return deleted;
end;
$$;
comment on function private.delete_old_webhook_deliveries(int) is 'Deletes deliveries after thirty days, a batch at a time; returns how many.';
