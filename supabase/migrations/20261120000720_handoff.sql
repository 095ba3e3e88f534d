-- Handoff: who answers a conversation, the bot or a person, and how it passes from one to the other.
--
-- Whenever control changes hands, control_epoch goes up. What a bot says carries the epoch that it started from; it is
-- queued and, later, sent only while that epoch holds. Whatever changes control locks the contact first, as begin_send()
-- does: a takeover that is committed comes before every call of the provider that is not announced by then.
--
-- Who is responsible (assigned_user_id) is another matter than who answers (is_bot_controlled).

-- The epoch ---------------------------------------------------------------------------------------------------------

create function private.tg_conversations__count_control()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  new.control_epoch := greatest(new.control_epoch, old.control_epoch + (new.is_bot_controlled <> old.is_bot_controlled)::int);
  return new;
end;
$$;
comment on function private.tg_conversations__count_control() is
  'Trigger: whoever changes control, and however, the epoch goes up and never down.';
create trigger conversations_500_count_control
  before update on public.conversations
  for each row when (new.is_bot_controlled <> old.is_bot_controlled or new.control_epoch < old.control_epoch)
  execute function private.tg_conversations__count_control();

-- What every change of a conversation begins with --------------------------------------------------------------------

create function private.lock_conversation(organization_id uuid, conversation_id uuid)
returns public.conversations
language plpgsql
volatile
set search_path = ''
as $$
declare
  conversation public.conversations;
begin
  perform private.lock_contact_of_conversation(organization_id, conversation_id);
  select v.* into conversation
  from public.conversations v
  where v.organization_id = lock_conversation.organization_id and v.id = lock_conversation.conversation_id
  for no key update;
  return conversation;
end;
$$;
comment on function private.lock_conversation(uuid, uuid) is
  'A conversation as it is now, locked, and its contact before it. Error: conversation_not_found.';

create function private.require_open(conversation public.conversations)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  if not conversation.is_open then
    perform private.raise_error('BL203', 'conversation_closed', 'This conversation is closed');
  end if;
end;
$$;
comment on function private.require_open(public.conversations) is 'Error conversation_closed, unless it is open.';

create function private.raise_stale_control(conversation public.conversations)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  perform private.raise_error('BL208', 'stale_control', 'Control of this conversation changed hands in the meantime',
    jsonb_build_object(
      'control_epoch', conversation.control_epoch,
      'is_bot_controlled', conversation.is_bot_controlled,
      'assigned_user_id', conversation.assigned_user_id),
    'Look at the conversation again.');
end;
$$;
comment on function private.raise_stale_control(public.conversations) is 'Error stale_control, with who has control now.';

create function private.require_control_epoch(conversation public.conversations, control_epoch int)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  if conversation.control_epoch <> require_control_epoch.control_epoch then
    perform private.raise_stale_control(conversation);
  end if;
end;
$$;
comment on function private.require_control_epoch(public.conversations, int) is
  'Error stale_control when control changed hands since the caller looked; null asks for nothing.';

create function private.lock_attendant(organization_id uuid, user_id uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  -- Before the conversation: who removes a member has his row first, and takes him off his conversations then.
  perform
  from public.user_roles m
  where m.organization_id = lock_attendant.organization_id
    and m.user_id = lock_attendant.user_id
    and m.is_active
    and m.role >= 'attendant'
  for share;
  if not found then
    perform private.raise_error('BL209', 'member_not_available', 'Only an active attendant, administrator or owner can have a conversation',
      jsonb_build_object('user_id', user_id));
  end if;
end;
$$;
comment on function private.lock_attendant(uuid, uuid) is
  'Locks a member who can answer: until the transaction ends nobody removes or demotes him. Error: member_not_available.';

-- A person takes over -------------------------------------------------------------------------------------------------

create function private.give_to_human(conversation public.conversations, user_id uuid)
returns public.conversations
language plpgsql
volatile
set search_path = ''
as $$
declare
  given public.conversations;
begin
  update public.conversations v
  set is_bot_controlled = false,
      control_epoch = v.control_epoch + 1,
      status = 'active',
      assigned_user_id = coalesce(give_to_human.user_id, v.assigned_user_id)
  where v.organization_id = conversation.organization_id and v.id = conversation.id
  returning v.* into given;
  return given;
end;
$$;
comment on function private.give_to_human(public.conversations, uuid) is
  'A person answers from now on, and an escalation is settled. Null for one whom we do not know. The conversation is locked by the caller.';

create function private.take_over_conversation(conversation_id uuid, control_epoch int, organization_id uuid)
returns public.conversations
language plpgsql
volatile
security definer -- conversations are written through functions only
set search_path = ''
as $$
declare
  caller constant uuid := case when not private.is_service() then (select auth.uid()) end;
  conversation public.conversations;
begin
  perform private.require_role(organization_id, 'attendant');
  if caller is not null then
    perform private.lock_attendant(organization_id, caller);
  end if;
  conversation := private.lock_conversation(organization_id, conversation_id);
  perform private.require_open(conversation);
  -- Again, or a retry of the same wish, changes nothing; nor does it matter then from which epoch it came.
  if not conversation.is_bot_controlled
    and conversation.status = 'active'
    and (caller is null or conversation.assigned_user_id is not distinct from caller)
  then
    return conversation;
  end if;
  perform private.require_control_epoch(conversation, control_epoch);
  return private.give_to_human(conversation, caller);
end;
$$;
comment on function private.take_over_conversation(uuid, int, uuid) is 'See public.take_over_conversation().';
grant execute on function private.take_over_conversation(uuid, int, uuid) to authenticated, service_role;

create function public.take_over_conversation(
  conversation_id uuid,
  control_epoch int default null,
  organization_id uuid default public.user_organization_id()
)
returns public.conversations
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.take_over_conversation(conversation_id, control_epoch, organization_id);
end;
$$;
comment on function public.take_over_conversation(uuid, int, uuid) is
  'The caller answers from now on, not the bot, and is assigned (the secret key assigns nobody); returns the conversation. Nothing of the bot''s is sent any more, but what the provider was being called for at that moment. From another attendant too: with the control_epoch that the app shows, only if nobody else was faster. Twice is once. Attendants and up. Errors: not_allowed, conversation_not_found, conversation_closed, stale_control.';
grant execute on function public.take_over_conversation(uuid, int, uuid) to authenticated, service_role;

-- A person gives it away ----------------------------------------------------------------------------------------------

create function private.release_to_bot(conversation_id uuid, control_epoch int, organization_id uuid)
returns public.conversations
language plpgsql
volatile
security definer -- conversations are written through functions only
set search_path = ''
as $$
declare
  conversation public.conversations;
begin
  perform private.require_role(organization_id, 'attendant');
  conversation := private.lock_conversation(organization_id, conversation_id);
  perform private.require_open(conversation);
  if conversation.is_bot_controlled and conversation.status = 'active' then
    return conversation;
  end if;
  perform private.require_control_epoch(conversation, control_epoch);
  update public.conversations v
  set is_bot_controlled = true,
      control_epoch = v.control_epoch + 1,
      status = 'active'
  where v.organization_id = conversation.organization_id and v.id = conversation.id
  returning v.* into conversation;
  return conversation;
end;
$$;
comment on function private.release_to_bot(uuid, int, uuid) is 'See public.release_to_bot().';
grant execute on function private.release_to_bot(uuid, int, uuid) to authenticated, service_role;

create function public.release_to_bot(
  conversation_id uuid,
  control_epoch int default null,
  organization_id uuid default public.user_organization_id()
)
returns public.conversations
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.release_to_bot(conversation_id, control_epoch, organization_id);
end;
$$;
comment on function public.release_to_bot(uuid, int, uuid) is
  'The bot answers from now on; returns the conversation. Who is assigned stays responsible. With a control_epoch only if nobody took it since. Twice is once. Attendants and up. Errors: not_allowed, conversation_not_found, conversation_closed, stale_control.';
grant execute on function public.release_to_bot(uuid, int, uuid) to authenticated, service_role;

create function private.transfer_conversation(conversation_id uuid, user_id uuid, control_epoch int, organization_id uuid)
returns public.conversations
language plpgsql
volatile
security definer -- conversations are written through functions only
set search_path = ''
as $$
declare
  conversation public.conversations;
begin
  perform private.require_role(organization_id, 'attendant');
  perform private.lock_attendant(organization_id, user_id);
  conversation := private.lock_conversation(organization_id, conversation_id);
  perform private.require_open(conversation);
  if conversation.status = 'transferred'
    and conversation.assigned_user_id = transfer_conversation.user_id
    and not conversation.is_bot_controlled
  then
    return conversation;
  end if;
  perform private.require_control_epoch(conversation, control_epoch);
  update public.conversations v
  set is_bot_controlled = false,
      control_epoch = v.control_epoch + 1,
      status = 'transferred',
      assigned_user_id = transfer_conversation.user_id
  where v.organization_id = conversation.organization_id and v.id = conversation.id
  returning v.* into conversation;
  return conversation;
end;
$$;
comment on function private.transfer_conversation(uuid, uuid, int, uuid) is 'See public.transfer_conversation().';
grant execute on function private.transfer_conversation(uuid, uuid, int, uuid) to authenticated, service_role;

create function public.transfer_conversation(
  conversation_id uuid,
  user_id uuid,
  control_epoch int default null,
  organization_id uuid default public.user_organization_id()
)
returns public.conversations
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.transfer_conversation(conversation_id, user_id, control_epoch, organization_id);
end;
$$;
comment on function public.transfer_conversation(uuid, uuid, int, uuid) is
  'Another member shall answer; returns the conversation. It is transferred until he writes or takes it over. With a control_epoch only if nobody took it since. Twice is once. Attendants and up. Errors: not_allowed, member_not_available, conversation_not_found, conversation_closed, stale_control.';
grant execute on function public.transfer_conversation(uuid, uuid, int, uuid) to authenticated, service_role;

-- The bot gives it away -----------------------------------------------------------------------------------------------

create function private.hand_over(conversation public.conversations, reason text)
returns public.conversations
language plpgsql
volatile
security definer -- called from definers, whose owner it needs for messages
set search_path = ''
as $$
declare
  handed public.conversations;
begin
  perform private.require_open(conversation);
  if not conversation.is_bot_controlled then
    return conversation;
  end if;
  update public.conversations v
  set is_bot_controlled = false,
      control_epoch = v.control_epoch + 1,
      status = 'waiting_human',
      escalated_at = now(),
      escalation_reason = left(hand_over.reason, 500)
  where v.organization_id = conversation.organization_id and v.id = conversation.id
  returning v.* into handed;
  -- What it said before it gave up of its own accord ("one moment, please") is still to be sent.
  update public.messages m
  set control_epoch = handed.control_epoch
  where m.conversation_id = conversation.id
    and m.organization_id = conversation.organization_id
    and m.status = 'queued'
    and m.control_epoch = conversation.control_epoch;
  return handed;
end;
$$;
comment on function private.hand_over(public.conversations, text) is
  'For the bot: a person shall answer, and why. Its last words, queued before, are still sent. No change when a person answers already. The conversation is locked by the caller (private.lock_conversation), and as it is now. Error: conversation_closed.';

-- Closed and opened again ---------------------------------------------------------------------------------------------

create function private.end_conversation(conversation public.conversations, satisfaction_score int)
returns public.conversations
language plpgsql
volatile
set search_path = ''
as $$
declare
  ended public.conversations;
begin
  if satisfaction_score not between 1 and 5 then
    perform private.raise_error('BL211', 'invalid_score', 'A score is a whole number from 1 to 5');
  end if;
  if not conversation.is_open
    and (satisfaction_score is null or satisfaction_score is not distinct from conversation.satisfaction_score)
  then
    return conversation;
  end if;
  update public.conversations v
  set status = 'closed',
      closed_at = coalesce(v.closed_at, now()),
      satisfaction_score = coalesce(end_conversation.satisfaction_score, v.satisfaction_score)
  where v.organization_id = conversation.organization_id and v.id = conversation.id
  returning v.* into ended;
  return ended;
end;
$$;
comment on function private.end_conversation(public.conversations, int) is
  'Closes a conversation, for the bot too: what it said before is still sent. The conversation is locked by the caller. Error: invalid_score.';

create function private.close_conversation(conversation_id uuid, satisfaction_score int, organization_id uuid)
returns public.conversations
language plpgsql
volatile
security definer -- conversations are written through functions only
set search_path = ''
as $$
declare
  conversation public.conversations;
begin
  perform private.require_role(organization_id, 'attendant');
  conversation := private.lock_conversation(organization_id, conversation_id);
  if conversation.is_open and conversation.is_bot_controlled then
    -- Somebody ended it over the bot's head: what it is about to say is not sent.
    update public.conversations v
    set control_epoch = v.control_epoch + 1
    where v.organization_id = conversation.organization_id and v.id = conversation.id;
  end if;
  return private.end_conversation(conversation, satisfaction_score);
end;
$$;
comment on function private.close_conversation(uuid, int, uuid) is 'See public.close_conversation().';
grant execute on function private.close_conversation(uuid, int, uuid) to authenticated, service_role;

create function public.close_conversation(
  conversation_id uuid,
  satisfaction_score int default null,
  organization_id uuid default public.user_organization_id()
)
returns public.conversations
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.close_conversation(conversation_id, satisfaction_score, organization_id);
end;
$$;
comment on function public.close_conversation(uuid, int, uuid) is
  'Ends a conversation, with how content the customer was (1 to 5) if that is known; returns it. The customer''s next message opens another one. Of a closed one it changes the score only. Attendants and up. Errors: not_allowed, conversation_not_found, invalid_score.';
grant execute on function public.close_conversation(uuid, int, uuid) to authenticated, service_role;

create function private.reopen_conversation(conversation_id uuid, organization_id uuid)
returns public.conversations
language plpgsql
volatile
security definer -- conversations are written through functions only
set search_path = ''
as $$
declare
  conversation public.conversations;
  other_id uuid;
begin
  perform private.require_role(organization_id, 'attendant');
  conversation := private.lock_conversation(organization_id, conversation_id);
  if conversation.is_open then
    return conversation;
  end if;
  -- Under the contact's lock no delivery opens one meanwhile.
  select v.id into other_id
  from public.conversations v
  where v.organization_id = conversation.organization_id
    and v.contact_id = conversation.contact_id
    and v.instance_id = conversation.instance_id
    and v.is_open is true;
  if found then
    perform private.raise_error('BL210', 'conversation_open', 'Another conversation with this contact is open at this number',
      jsonb_build_object('conversation_id', other_id), 'Go on in that one.');
  end if;
  update public.conversations v
  set status = 'active', closed_at = null
  where v.organization_id = conversation.organization_id and v.id = conversation.id
  returning v.* into conversation;
  return conversation;
end;
$$;
comment on function private.reopen_conversation(uuid, uuid) is 'See public.reopen_conversation().';
grant execute on function private.reopen_conversation(uuid, uuid) to authenticated, service_role;

create function public.reopen_conversation(conversation_id uuid, organization_id uuid default public.user_organization_id())
returns public.conversations
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.reopen_conversation(conversation_id, organization_id);
end;
$$;
comment on function public.reopen_conversation(uuid, uuid) is
  'A closed conversation goes on, answered by whoever answered before; returns it. Twice is once. Attendants and up. Errors: not_allowed, conversation_not_found, conversation_open.';
grant execute on function public.reopen_conversation(uuid, uuid) to authenticated, service_role;

-- An inbox's small changes --------------------------------------------------------------------------------------------

create function private.assign_conversation(conversation_id uuid, user_id uuid, organization_id uuid)
returns public.conversations
language plpgsql
volatile
security definer -- conversations are written through functions only
set search_path = ''
as $$
declare
  conversation public.conversations;
begin
  perform private.require_role(organization_id, 'attendant');
  if user_id is not null then
    perform private.lock_attendant(organization_id, user_id);
  end if;
  conversation := private.lock_conversation(organization_id, conversation_id);
  perform private.require_open(conversation);
  if conversation.assigned_user_id is distinct from assign_conversation.user_id then
    update public.conversations v
    set assigned_user_id = assign_conversation.user_id
    where v.organization_id = conversation.organization_id and v.id = conversation.id
    returning v.* into conversation;
  end if;
  return conversation;
end;
$$;
comment on function private.assign_conversation(uuid, uuid, uuid) is 'See public.assign_conversation().';
grant execute on function private.assign_conversation(uuid, uuid, uuid) to authenticated, service_role;

create function public.assign_conversation(
  conversation_id uuid,
  user_id uuid default null,
  organization_id uuid default public.user_organization_id()
)
returns public.conversations
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.assign_conversation(conversation_id, user_id, organization_id);
end;
$$;
comment on function public.assign_conversation(uuid, uuid, uuid) is
  'Says who is responsible, nobody when user_id is left out; who answers does not change. Returns the conversation. Attendants and up. Errors: not_allowed, member_not_available, conversation_not_found, conversation_closed.';
grant execute on function public.assign_conversation(uuid, uuid, uuid) to authenticated, service_role;

create function private.set_conversation_priority(
  conversation_id uuid,
  priority public.conversation_priority,
  organization_id uuid
)
returns public.conversations
language plpgsql
volatile
security definer -- conversations are written through functions only
set search_path = ''
as $$
declare
  conversation public.conversations;
begin
  perform private.require_role(organization_id, 'attendant');
  conversation := private.lock_conversation(organization_id, conversation_id);
  if conversation.priority <> set_conversation_priority.priority then
    update public.conversations v
    set priority = set_conversation_priority.priority
    where v.organization_id = conversation.organization_id and v.id = conversation.id
    returning v.* into conversation;
  end if;
  return conversation;
end;
$$;
comment on function private.set_conversation_priority(uuid, public.conversation_priority, uuid) is 'See public.set_conversation_priority().';
grant execute on function private.set_conversation_priority(uuid, public.conversation_priority, uuid) to authenticated, service_role;

create function public.set_conversation_priority(
  conversation_id uuid,
  priority public.conversation_priority,
  organization_id uuid default public.user_organization_id()
)
returns public.conversations
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.set_conversation_priority(conversation_id, priority, organization_id);
end;
$$;
comment on function public.set_conversation_priority(uuid, public.conversation_priority, uuid) is
  'Says how urgent a conversation is; returns it. Attendants and up. Errors: not_allowed, conversation_not_found.';
grant execute on function public.set_conversation_priority(uuid, public.conversation_priority, uuid) to authenticated, service_role;

create function private.mark_conversation_read(conversation_id uuid, last_message_id uuid, organization_id uuid)
returns public.conversations
language plpgsql
volatile
security definer -- conversations are written through functions only
set search_path = ''
as $$
declare
  conversation public.conversations;
  unread int := 0;
begin
  perform private.require_role(organization_id, 'attendant');
  conversation := private.lock_conversation(organization_id, conversation_id);
  if last_message_id is not null then
    -- In a statement of its own: what came while we waited for the lock is seen, and stays unread.
    select count(*) into unread
    from public.messages m
    where m.conversation_id = conversation.id
      and m.organization_id = conversation.organization_id
      and m.id > mark_conversation_read.last_message_id
      and m.sender = 'contact'
      and m.message_type <> 'reaction';
  end if;
  if unread < conversation.unread_count then
    update public.conversations v
    set unread_count = unread
    where v.organization_id = conversation.organization_id and v.id = conversation.id
    returning v.* into conversation;
  end if;
  return conversation;
end;
$$;
comment on function private.mark_conversation_read(uuid, uuid, uuid) is 'See public.mark_conversation_read().';
grant execute on function private.mark_conversation_read(uuid, uuid, uuid) to authenticated, service_role;

create function public.mark_conversation_read(
  conversation_id uuid,
  last_message_id uuid default null,
  organization_id uuid default public.user_organization_id()
)
returns public.conversations
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.mark_conversation_read(conversation_id, last_message_id, organization_id);
end;
$$;
comment on function public.mark_conversation_read(uuid, uuid, uuid) is
  'Somebody has read a conversation; returns it. With last_message_id, the last one that the app shows, what came after it stays unread. Attendants and up. Errors: not_allowed, conversation_not_found.';
grant execute on function public.mark_conversation_read(uuid, uuid, uuid) to authenticated, service_role;
