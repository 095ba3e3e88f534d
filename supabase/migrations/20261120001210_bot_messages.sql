-- What a bot says: queued only while it is in control, and sent only if it still is (begin_send() asks again).

create function private.send_bot_message(
  conversation_id uuid,
  organization_id uuid,
  control_epoch int,
  sender public.message_sender,
  message_type public.message_type,
  content text,
  payload jsonb,
  client_message_id text
)
returns public.messages
language plpgsql
volatile
security definer -- messages and jobs are written through functions only
set search_path = ''
as $$
declare
  conversation constant public.conversations := private.lock_conversation(organization_id, conversation_id);
  message public.messages := private.message_of_client(organization_id, conversation_id, client_message_id);
begin
  -- What was queued already is the same message, whatever happened since.
  if message.id is not null then
    return message;
  end if;
  case sender
    when 'bot', 'ai' then
      if not conversation.is_bot_controlled or conversation.control_epoch is distinct from send_bot_message.control_epoch then
        perform private.raise_stale_control(conversation);
      end if;
    when 'system' then
      -- A reminder is sent whoever is in control.
      control_epoch := null;
    else
      perform private.raise_error('BL205', 'invalid_message', 'A bot does not speak for people', jsonb_build_object('rule', 'sender'));
  end case;
  return private.queue_message(
    conversation, sender, null, control_epoch, message_type, content, payload, null, client_message_id);
end;
$$;
comment on function private.send_bot_message(uuid, uuid, int, public.message_sender, public.message_type, text, jsonb, text) is
  'Queues what a bot or an AI says, if it is in control and control_epoch still holds; or, as system, what is said whoever is in control. The same client_message_id is the same message. Locks the contact and the conversation. A bot that hands over or closes says its last words first. Errors: stale_control, conversation_not_found, conversation_closed, instance_disconnected, sending_stopped, invalid_message, client_message_id_taken.';
