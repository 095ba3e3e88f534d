-- Sending: from an app's words to the provider's "accepted", once.
--
-- send_message() stores the message and a job in one transaction. The worker asks begin_send() whether, what and to
-- whom; calls the provider; and tells finish_send() what came of it, which ends the job in the same transaction.
--
-- No provider knows idempotent sends. So a call is announced before it is made (private.unanswered_sends): when a
-- worker dies between the call and its answer, the next one finds the announcement and does not send again on a guess.
-- It waits for the message's status, which carries our id of the message. Only when the number's webhooks did come in
-- the minutes after the call, and brought none, was the call not accepted.
--
-- Messages of one conversation go out one after the other, by the job's ordering key.

-- private.unanswered_sends ------------------------------------------------------------------------------------------

create table private.unanswered_sends (
  organization_id uuid not null,
  message_id uuid not null,
  fencing_token bigint not null,
  called_at timestamptz not null default clock_timestamp(),
  constraint unanswered_sends_pkey primary key (organization_id, message_id),
  constraint unanswered_sends_message_id_fkey foreign key (organization_id, message_id)
    references public.messages (organization_id, id) on delete cascade
);
comment on table private.unanswered_sends is
  'Messages that a worker has called the provider for, or was about to, without an answer stored yet.';
comment on column private.unanswered_sends.fencing_token is
  'Of the claim that announced the call: who asks twice under one claim did not hear the first answer, and has not called.';

alter table private.unanswered_sends enable row level security;
alter table private.unanswered_sends force row level security;
revoke all on private.unanswered_sends from public, anon, authenticated, service_role;

-- send_message --------------------------------------------------------------------------------------------------------

create function private.is_file_of(organization_id uuid, path text)
returns boolean
language plpgsql
immutable
set search_path = ''
as $$
begin
  -- Nothing that a URL would read as something else: no %, no backslash, no "..".
  return path ~ ('^media/' || organization_id || '(/[A-Za-z0-9 !''()*+,.:;=@&$_-]+)+$') and path !~ '/\.{1,2}(/|$)';
end;
$$;
comment on function private.is_file_of(uuid, text) is 'Whether a path names a file in the organization''s own folder of Storage.';

create function private.message_of_client(organization_id uuid, conversation_id uuid, client_message_id text)
returns public.messages
language plpgsql
stable
set search_path = ''
as $$
declare
  message public.messages;
begin
  select m.* into message
  from public.messages m
  where m.organization_id = message_of_client.organization_id and m.client_message_id = message_of_client.client_message_id;
  if found then
    return private.same_message(message, conversation_id);
  end if;
  return null;
end;
$$;
comment on function private.message_of_client(uuid, uuid, text) is
  'What was sent under a client_message_id already; null when nothing was. Error: client_message_id_taken.';

create function private.queue_message(
  conversation public.conversations,
  sender public.message_sender,
  sender_user_id uuid,
  control_epoch int,
  message_type public.message_type,
  content text,
  payload jsonb,
  reply_to_whatsapp_message_id text,
  client_message_id text
)
returns public.messages
language plpgsql
volatile
set search_path = ''
as $$
declare
  instance public.whatsapp_instances;
  message public.messages;
begin
  perform private.require_open(conversation);
  select i.* into instance
  from public.whatsapp_instances i
  where i.organization_id = conversation.organization_id and i.id = conversation.instance_id;
  if instance.status = 'disconnected' then
    perform private.raise_error('BL106', 'instance_disconnected', 'This number is disconnected; connect it again');
  elsif instance.sending_stopped_at is not null then
    perform private.raise_error('BL107', 'sending_stopped', 'Nothing can be sent through this number until an administrator acts',
      jsonb_build_object('code', instance.sending_stopped_code, 'reason', instance.sending_stopped_reason));
  end if;
  perform private.require_sendable(
    client_message_id is null or length(client_message_id) between 1 and 128, 'client_message_id', 'A client_message_id has 1 to 128 characters');
  perform private.require_sendable(
    reply_to_whatsapp_message_id is null or length(reply_to_whatsapp_message_id) between 1 and 256,
    'reply_to_whatsapp_message_id', 'A WhatsApp id has 1 to 256 characters');
  perform private.require_sendable(
    payload is null or jsonb_typeof(payload) = 'object' and octet_length(payload::text) <= 65536, 'payload', 'payload is an object of at most 64 KiB');
  perform private.check_outbound(message_type, content, payload);
  perform private.require_sendable(
    payload ->> 'path' is null or private.is_file_of(conversation.organization_id, payload ->> 'path'),
    'payload.path', 'The file is not this organization''s');

  insert into public.messages (
    organization_id, conversation_id, contact_id, instance_id, direction, sender, sender_user_id, control_epoch, message_type,
    content, payload, reply_to_whatsapp_message_id, client_message_id, status
  )
  values (
    conversation.organization_id, conversation.id, conversation.contact_id, conversation.instance_id, 'outbound',
    queue_message.sender, queue_message.sender_user_id, queue_message.control_epoch, queue_message.message_type,
    queue_message.content, queue_message.payload, queue_message.reply_to_whatsapp_message_id, queue_message.client_message_id,
    'queued'
  )
  on conflict on constraint messages_client_message_id_key do nothing
  returning * into message;
  if message.id is null then
    -- At this moment, in a conversation with somebody else.
    perform private.same_message(null, conversation.id);
  end if;
  perform private.enqueue_send(message);
  return message;
end;
$$;
comment on function private.queue_message(
  public.conversations, public.message_sender, uuid, int, public.message_type, text, jsonb, text, text
) is
  'Stores a message to send with its job, whoever says it; the conversation is locked by the caller. Errors: conversation_closed, instance_disconnected, sending_stopped, invalid_message, client_message_id_taken.';

create function private.send_message(
  conversation_id uuid,
  content text,
  client_message_id text,
  message_type public.message_type,
  payload jsonb,
  reply_to_whatsapp_message_id text,
  organization_id uuid
)
returns public.messages
language plpgsql
volatile
security definer -- messages and jobs are written through functions only
set search_path = ''
as $$
declare
  caller constant uuid := case when not private.is_service() then (select auth.uid()) end;
  conversation public.conversations;
  message public.messages;
begin
  perform private.require_role(organization_id, 'attendant');
  if caller is not null then
    perform private.lock_attendant(organization_id, caller);
  end if;
  -- The contact first, as everywhere; then a second call with the same client_message_id sees the first one's message.
  conversation := private.lock_conversation(organization_id, conversation_id);
  -- By these the system knows what it has said itself.
  perform private.require_sendable(
    client_message_id ~ '^(?:notification|answer|flow):' is not true, 'client_message_id',
    'A client_message_id does not begin with notification:, answer: or flow:');
  message := private.message_of_client(organization_id, conversation_id, client_message_id);
  if message.id is not null then
    return message;
  end if;
  message := private.queue_message(
    conversation, case when caller is null then 'system' else 'human' end::public.message_sender, caller, null, message_type,
    content, payload, reply_to_whatsapp_message_id, client_message_id);
  if caller is not null and message_type <> 'reaction' then
    -- Whoever answers has read.
    update public.conversations v
    set unread_count = 0
    where v.organization_id = conversation.organization_id and v.id = conversation.id and v.unread_count > 0;
  end if;
  -- Whoever answers is in charge, unless a colleague is already; a thumbs up is no answer.
  if caller is not null and message_type <> 'reaction' and (
    conversation.is_bot_controlled
    or conversation.status = 'waiting_human'
    or conversation.status = 'transferred' and conversation.assigned_user_id = caller
  ) then
    perform private.give_to_human(conversation, caller);
  end if;
  return message;
end;
$$;
comment on function private.send_message(uuid, text, text, public.message_type, jsonb, text, uuid) is 'See public.send_message().';
grant execute on function private.send_message(uuid, text, text, public.message_type, jsonb, text, uuid)
  to authenticated, service_role;

create function private.same_message(message public.messages, conversation_id uuid)
returns public.messages
language plpgsql
volatile
set search_path = ''
as $$
begin
  if message.conversation_id is distinct from same_message.conversation_id then
    perform private.raise_error('BL204', 'client_message_id_taken', 'Another message of this organization has this client_message_id');
  end if;
  return message;
end;
$$;
comment on function private.same_message(public.messages, uuid) is
  'The message that a client sends again; or error client_message_id_taken when its id is that of another conversation''s.';

create function private.enqueue_send(message public.messages)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform
  from private.enqueue_jobs(array[row(
    message.organization_id, 'send_message', jsonb_build_object('message_id', message.id), 0, null,
    'conversation:' || message.conversation_id, 'send:' || message.id, 8
  )::private.new_job]);
  perform private.wake_worker();
end;
$$;
comment on function private.enqueue_send(public.messages) is 'The job that sends a queued message, behind the others of its conversation.';

create function public.send_message(
  conversation_id uuid,
  content text default null,
  client_message_id text default null,
  message_type public.message_type default 'text',
  payload jsonb default null,
  reply_to_whatsapp_message_id text default null,
  organization_id uuid default public.user_organization_id()
)
returns public.messages
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.send_message(
    conversation_id, content, client_message_id, message_type, payload, reply_to_whatsapp_message_id, organization_id);
end;
$$;
comment on function public.send_message(uuid, text, text, public.message_type, jsonb, text, uuid) is
  'Sends a message in an open conversation: answers it as queued; what becomes of it shows in its status. The same client_message_id is the same message, however often it is sent. payload by message_type: outboundPayload in types/. A member''s message takes the conversation over from the bot (see take_over_conversation), or settles that it waits for one. Outside the 24 hours after the customer''s last message only a template is sent, anything else fails with error_code 131047. Attendants and up. Errors: not_allowed, conversation_not_found, conversation_closed, instance_disconnected, sending_stopped, invalid_message, client_message_id_taken.';
grant execute on function public.send_message(uuid, text, text, public.message_type, jsonb, text, uuid)
  to authenticated, service_role;

create function private.retry_message(message_id uuid, organization_id uuid)
returns public.messages
language plpgsql
volatile
security definer -- messages and jobs are written through functions only
set search_path = ''
as $$
declare
  failed public.messages;
begin
  perform private.require_role(organization_id, 'attendant');
  select m.* into failed
  from public.messages m
  where m.organization_id = retry_message.organization_id and m.id = retry_message.message_id and m.direction = 'outbound';
  if not found then
    perform private.raise_error('BL206', 'message_not_found', 'This organization has sent no such message');
  elsif failed.status <> 'failed' then
    perform private.raise_error('BL207', 'message_not_failed', 'Only a message that failed can be sent again',
      jsonb_build_object('status', failed.status));
  end if;
  return private.send_message(
    failed.conversation_id, failed.content, 'retry:' || failed.id, failed.message_type, failed.payload,
    failed.reply_to_whatsapp_message_id, organization_id);
end;
$$;
comment on function private.retry_message(uuid, uuid) is 'See public.retry_message().';
grant execute on function private.retry_message(uuid, uuid) to authenticated, service_role;

create function public.retry_message(message_id uuid, organization_id uuid default public.user_organization_id())
returns public.messages
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.retry_message(message_id, organization_id);
end;
$$;
comment on function public.retry_message(uuid, uuid) is
  'Sends what failed again, as a new message: late news of the first one cannot be taken for news of the second. Twice is once. Attendants and up. Errors: not_allowed, message_not_found, message_not_failed, conversation_closed, instance_disconnected, sending_stopped.';
grant execute on function public.retry_message(uuid, uuid) to authenticated, service_role;

-- What becomes of it ----------------------------------------------------------------------------------------------

create function private.fail_message(message public.messages, code text, reason text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  update public.messages m
  set status = 'failed', failed_at = now(), error_code = code, error_message = left(reason, 1000)
  -- Evidence of the contrary may have come in the meantime.
  where m.organization_id = message.organization_id and m.id = message.id and m.status < 'failed';
end;
$$;
comment on function private.fail_message(public.messages, text, text) is 'A message that will not go out, for everybody to see.';

create function private.lock_message_of(job public.message_queue)
returns public.messages
language plpgsql
volatile
set search_path = ''
as $$
declare
  of_message constant uuid := private.id_in(job.payload, 'message_id');
  of_contact uuid;
  is_theirs boolean;
  message public.messages;
begin
  loop
    select m.contact_id into of_contact
    from public.messages m
    where m.organization_id = job.organization_id and m.id = of_message;
    begin
      -- The contact first: a status of the message, on its way in, does the same.
      perform
      from public.contacts p
      where p.organization_id = job.organization_id and p.id = of_contact
      for no key update;
      select m.* into message
      from public.messages m
      where m.organization_id = job.organization_id and m.id = of_message
      for no key update;
      is_theirs := message.contact_id is not distinct from of_contact;
      if not is_theirs then
        -- Merged, or taken apart, while we were waiting for it: given back before we wait for the other one.
        raise exception sqlstate 'BL000';
      end if;
    exception when sqlstate 'BL000' then
      null;
    end;
    exit when is_theirs;
  end loop;
  return message;
end;
$$;
comment on function private.lock_message_of(public.message_queue) is 'The message that a job is about, locked; null when it is gone.';

create function private.tg_message_queue__fail_message()
returns trigger
language plpgsql
volatile
security definer -- whoever ends a job need not be allowed to write messages
set search_path = ''
as $$
declare
  message constant public.messages := private.lock_message_of(new);
begin
  if message.direction = 'outbound' and message.whatsapp_message_id is null then
    -- Given up with a call under way, it may have been sent after all.
    delete from private.unanswered_sends u
    where u.organization_id = message.organization_id and u.message_id = message.id;
    perform private.fail_message(message, case when found then 'unconfirmed' else 'attempts_exhausted' end, new.last_error);
  end if;
  return null;
end;
$$;
comment on function private.tg_message_queue__fail_message() is 'Trigger: a message whose job is given up does not stay queued for ever.';
create trigger message_queue_500_fail_message
  after update of status on public.message_queue
  for each row when (new.job_type = 'send_message' and new.status = 'dead' and old.status <> 'dead')
  execute function private.tg_message_queue__fail_message();

create function private.identity_kind_of(organization_id uuid, instance_id uuid, value text)
returns text
language plpgsql
stable
set search_path = ''
as $$
begin
  return coalesce(
    (
      select i.kind::text
      from public.contact_identities i
      where i.organization_id = identity_kind_of.organization_id
        and i.instance_id = identity_kind_of.instance_id
        and i.value = identity_kind_of.value
      limit 1
    ),
    case
      when value ~ '^[A-Z]{2}\.(ENT\.)?[A-Za-z0-9]{1,128}$' then 'bsuid'
      when value ~ '@lid$' then 'lid'
      when value ~ '@' then 'jid'
      else 'wa_id'
    end
  );
end;
$$;
comment on function private.identity_kind_of(uuid, uuid, text) is 'What kind of id a reply is addressed to.';

create function private.begin_send(job jsonb)
returns jsonb
language plpgsql
volatile
security definer -- hands out a secret, and ends jobs
set search_path = ''
as $$
declare
  -- An accepted message's first status comes within seconds.
  status_comes_within constant interval := interval '5 minutes';
  silence_is_no_answer_after constant interval := interval '1 hour';
  held constant public.message_queue := private.hold_job(job);
  message public.messages;
  conversation public.conversations;
  instance public.whatsapp_instances;
  access_token text;
  last_call private.unanswered_sends;
  last_inbound timestamptz;
  held_back text;
begin
  message := private.lock_message_of(held);
  if message.id is null then
    return private.end_job(held, 'message_gone');
  elsif message.status <> 'queued' or message.whatsapp_message_id is not null then
    delete from private.unanswered_sends u
    where u.organization_id = message.organization_id and u.message_id = message.id;
    return private.end_job(held, 'message_is_' || message.status);
  end if;

  select i.* into instance
  from public.whatsapp_instances i
  where i.organization_id = message.organization_id and i.id = message.instance_id;
  select s.access_token into access_token
  from private.instance_secrets s
  where s.organization_id = message.organization_id and s.instance_id = message.instance_id;

  -- Was it sent already? Nobody resends on a guess.
  select u.* into last_call
  from private.unanswered_sends u
  where u.organization_id = message.organization_id and u.message_id = message.id;
  if found and last_call.fencing_token <> held.fencing_token and not (
    now() > last_call.called_at + status_comes_within
    -- Were our webhooks reached while the first status would have come? If not, it may be on its way still.
    and exists (
      select
      from public.webhook_events w
      where w.organization_id = message.organization_id
        and w.instance_id = message.instance_id
        and w.created_at between last_call.called_at and last_call.called_at + interval '2 minutes'
    )
  ) then
    if now() < last_call.called_at + silence_is_no_answer_after then
      return private.put_off_job(held, now() + interval '10 seconds', 'waits_for_a_status');
    end if;
    perform private.fail_message(message, 'unconfirmed',
      'Nobody knows whether this was sent: the provider did not answer, and its webhooks were silent');
    delete from private.unanswered_sends u
    where u.organization_id = message.organization_id and u.message_id = message.id;
    return private.end_job(held, 'unconfirmed');
  end if;

  -- A bot speaks while it is in control. Whatever changes that has locked the contact, as we have.
  if message.sender in ('bot', 'ai') and message.control_epoch is distinct from (
    select v.control_epoch
    from public.conversations v
    where v.organization_id = message.organization_id and v.id = message.conversation_id
  ) then
    delete from private.unanswered_sends u
    where u.organization_id = message.organization_id and u.message_id = message.id;
    perform private.fail_message(message, 'superseded', 'Control of the conversation changed hands before this was sent');
    return private.end_job(held, 'superseded');
  end if;

  -- A notification may have waited here past all that it was asked when it was due: an opt-out, the night, the visit.
  if message.sender = 'system' then
    held_back := private.hold_back_notification(message);
    if held_back is not null then
      delete from private.unanswered_sends u
      where u.organization_id = message.organization_id and u.message_id = message.id;
      perform private.fail_message(message, 'superseded', format('Held back before it was sent: %s', held_back));
      return private.end_job(held, 'superseded');
    end if;
  end if;

  if instance.status = 'disconnected' or access_token is null then
    perform private.fail_message(message, 'instance_disconnected', 'The number was disconnected');
    return private.end_job(held, 'instance_disconnected');
  elsif instance.sending_stopped_at is not null then
    perform private.fail_message(message, coalesce(instance.sending_stopped_code, 'sending_stopped'),
      coalesce(instance.sending_stopped_reason, 'Sending through this number is stopped'));
    return private.end_job(held, 'sending_stopped');
  elsif instance.sending_paused_until > now() then
    return private.put_off_job(held, instance.sending_paused_until + random() * interval '2 seconds', 'number_is_paused');
  end if;

  if instance.provider = 'meta_cloud' and message.message_type <> 'template' then
    select max(v.last_inbound_at) into last_inbound
    from public.conversations v
    where v.organization_id = message.organization_id
      and v.contact_id = message.contact_id
      and v.instance_id = message.instance_id;
    if last_inbound is null or last_inbound < now() - interval '24 hours' then
      perform private.fail_message(message, '131047',
        'More than 24 hours have passed since the customer last wrote: only a template can be sent');
      return private.end_job(held, 'window_closed');
    end if;
  end if;

  insert into private.unanswered_sends (organization_id, message_id, fencing_token)
  values (message.organization_id, message.id, held.fencing_token)
  on conflict on constraint unanswered_sends_pkey do update set
    fencing_token = excluded.fencing_token,
    called_at = excluded.called_at;
  select v.* into conversation
  from public.conversations v
  where v.organization_id = message.organization_id and v.id = message.conversation_id;
  return jsonb_build_object(
    'action', 'send',
    'attempt', held.attempts,
    'message', jsonb_build_object(
      'id', message.id,
      'message_type', message.message_type,
      'content', message.content,
      'payload', message.payload,
      'reply_to_whatsapp_message_id', message.reply_to_whatsapp_message_id),
    'recipient', jsonb_build_object(
      'kind', private.identity_kind_of(conversation.organization_id, conversation.instance_id, conversation.whatsapp_chat_id),
      'value', conversation.whatsapp_chat_id),
    'instance', jsonb_build_object('id', instance.id, 'external_id', instance.external_id, 'provider', instance.provider),
    'access_token', access_token);
end;
$$;
comment on function private.begin_send(jsonb) is 'See public.begin_send().';
grant execute on function private.begin_send(jsonb) to service_role;

create function public.begin_send(job jsonb)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.begin_send(job);
end;
$$;
comment on function public.begin_send(jsonb) is
  'For the worker, with a held job {organization_id, id, fencing_token} of type send_message: what to send, {action: send, attempt, message, recipient, instance, access_token (sealed)}, with the call announced; or {action: done, reason} when the job was ended or postponed here. Secret key only. Errors: lease_lost.';
grant execute on function public.begin_send(jsonb) to service_role;

create function private.finish_send(job jsonb, outcome jsonb)
returns jsonb
language plpgsql
volatile
security definer -- writes messages and instances, and ends jobs
set search_path = ''
as $$
declare
  held constant public.message_queue := private.hold_job(job);
  result constant text := outcome ->> 'result';
  code constant text := outcome ->> 'code';
  reason constant text := coalesce(outcome ->> 'message', code);
  message public.messages;
  ended public.message_queue;
begin
  if result is null or result not in ('accepted', 'retry', 'failed', 'stopped', 'unknown') then
    perform private.raise_error('BL305', 'invalid_outcome', 'No such result of a job', jsonb_build_object('result', result));
  end if;
  if result = 'accepted' and (length(outcome ->> 'whatsapp_message_id') between 1 and 256) is not true then
    perform private.raise_error('BL305', 'invalid_outcome', 'What was accepted has an id', jsonb_build_object('result', result));
  end if;
  perform private.log_api_calls(held, jsonb_build_array(outcome -> 'api_call'));
  message := private.lock_message_of(held);
  if message.id is null then
    return private.end_job(held, 'message_gone');
  end if;
  if result <> 'unknown' then
    delete from private.unanswered_sends u
    where u.organization_id = message.organization_id and u.message_id = message.id;
  end if;

  if result = 'accepted' then
    -- Accepted is not sent: the status says when it was. It may have said so already, with the id.
    update public.messages m
    set whatsapp_message_id = outcome ->> 'whatsapp_message_id'
    where m.organization_id = message.organization_id
      and m.id = message.id
      and m.whatsapp_message_id is null
      -- It came in as an echo before its answer: there is nothing to add.
      and not exists (
        select
        from public.messages echo
        where echo.organization_id = message.organization_id
          and echo.instance_id = message.instance_id
          and echo.whatsapp_message_id = outcome ->> 'whatsapp_message_id'
      );
    -- WhatsApp may know the person by another spelling of the number: an answer comes from there.
    insert into public.contact_identities (organization_id, contact_id, instance_id, kind, value)
    select message.organization_id, message.contact_id, message.instance_id, w.kind, w.value
    from jsonb_to_recordset(coalesce(outcome -> 'identities', '[]')) as w (kind public.identity_kind, value text)
    on conflict on constraint contact_identities_instance_id_kind_value_key do nothing;
    return private.end_job(held, 'accepted');
  end if;

  if outcome ->> 'pause_number_until' is not null then
    update public.whatsapp_instances i
    set sending_paused_until = greatest(i.sending_paused_until, (outcome ->> 'pause_number_until')::timestamptz)
    where i.organization_id = message.organization_id and i.id = message.instance_id;
  end if;

  case result
    when 'failed' then
      perform private.fail_message(message, code, reason);
      return private.end_job(held, 'failed');
    when 'stopped' then
      perform private.fail_message(message, code, reason);
      update public.whatsapp_instances i
      set status = case when (outcome ->> 'banned')::boolean then 'banned' else i.status end,
          sending_stopped_at = now(),
          sending_stopped_code = code,
          sending_stopped_reason = left(reason, 1000)
      where i.organization_id = message.organization_id
        and i.id = message.instance_id
        and i.status <> 'disconnected'
        and i.sending_stopped_at is null;
      return private.end_job(held, 'stopped');
    when 'unknown' then
      -- Whether it was sent, begin_send() finds out; it costs no attempt.
      return private.put_off_job(held, now() + interval '10 seconds', concat_ws(': ', 'unknown', reason));
    else
      if (outcome ->> 'counts')::boolean is false then
        return private.put_off_job(
          held,
          coalesce((outcome ->> 'retry_at')::timestamptz, (outcome ->> 'pause_number_until')::timestamptz, now() + interval '10 seconds'),
          concat_ws(': ', code, reason));
      end if;
      ended := private.fail_job(
        held.organization_id, held.id, held.fencing_token, concat_ws(': ', code, reason), (outcome ->> 'retry_at')::timestamptz);
      return jsonb_build_object('action', 'done', 'reason', ended.status);
  end case;
end;
$$;
comment on function private.finish_send(jsonb, jsonb) is 'See public.finish_send().';
grant execute on function private.finish_send(jsonb, jsonb) to service_role;

create function public.finish_send(job jsonb, outcome jsonb)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.finish_send(job, outcome);
end;
$$;
comment on function public.finish_send(jsonb, jsonb) is
  'For the worker: what came of a send, and the end of its job. outcome {result: accepted, whatsapp_message_id, identities} | {result: retry, code, message, retry_at, pause_number_until, counts} | {result: failed, code, message} | {result: stopped, code, message, banned} | {result: unknown, message}, each with api_call. Answers {action: done, reason}. Secret key only. Errors: lease_lost, invalid_outcome.';
grant execute on function public.finish_send(jsonb, jsonb) to service_role;
