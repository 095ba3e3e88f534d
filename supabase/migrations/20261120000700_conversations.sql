-- Conversations: what was said, by whom, through which number, and how far each message got.

create type public.conversation_status as enum ('active', 'waiting_human', 'transferred', 'closed');
create type public.conversation_priority as enum ('low', 'normal', 'high', 'urgent');
create type public.message_direction as enum ('inbound', 'outbound');
create type public.message_sender as enum ('contact', 'bot', 'ai', 'human', 'system');
create type public.message_type as enum
  ('text', 'image', 'audio', 'video', 'document', 'sticker', 'location', 'contacts', 'interactive', 'button', 'list',
   'reaction', 'template', 'unsupported');
create type public.message_status as enum ('received', 'queued', 'sent', 'failed', 'delivered', 'read', 'played');
comment on type public.message_status is
  'Its order is the rank by which statuses only move up, in whatever order they arrive: a message that was delivered did not fail.';

-- conversations -----------------------------------------------------------------------------------------------

create table public.conversations (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  contact_id uuid not null,
  instance_id uuid not null,
  whatsapp_chat_id text not null,
  status public.conversation_status not null default 'active',
  is_open boolean not null generated always as (status <> 'closed') stored,
  priority public.conversation_priority not null default 'normal',
  is_bot_controlled boolean not null default true,
  control_epoch int not null default 0,
  assigned_user_id uuid,
  location_id uuid,
  unread_count int not null default 0,
  last_message_at timestamptz not null default now(),
  last_message_preview text,
  last_inbound_at timestamptz,
  last_human_message_at timestamptz,
  escalated_at timestamptz,
  escalation_reason text,
  closed_at timestamptz,
  satisfaction_score int,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint conversations_pkey primary key (organization_id, id),
  constraint conversations_contact_id_fkey foreign key (organization_id, contact_id)
    references public.contacts (organization_id, id),
  constraint conversations_instance_id_fkey foreign key (organization_id, instance_id)
    references public.whatsapp_instances (organization_id, id),
  constraint conversations_assigned_user_id_fkey foreign key (organization_id, assigned_user_id)
    references public.user_roles (organization_id, user_id) on delete set null (assigned_user_id),
  constraint conversations_location_id_fkey foreign key (organization_id, location_id)
    references public.locations (organization_id, id) on delete set null (location_id),
  constraint conversations_unread_count_is_not_negative_check check (unread_count >= 0),
  constraint conversations_satisfaction_score_is_one_to_five_check check (satisfaction_score between 1 and 5),
  constraint conversations_closed_at_check check ((status = 'closed') = (closed_at is not null)),
  constraint conversations_metadata_is_object_check check (jsonb_typeof(metadata) = 'object')
);
comment on table public.conversations is 'One thread with one contact through one number, from its first message until someone closes it.';
comment on column public.conversations.last_message_at is 'By it inboxes are ordered; without a message, when the conversation was made.';
comment on column public.conversations.whatsapp_chat_id is 'The provider''s id that a reply is addressed to.';
comment on column public.conversations.is_open is 'Enums are not leakproof: under RLS only a boolean like this one can use an index.';
comment on column public.conversations.control_epoch is 'Goes up whenever control changes hands; a bot''s reply is sent only if the epoch that it started from still holds.';
comment on column public.conversations.is_bot_controlled is 'Who answers: the bot, or people.';
comment on column public.conversations.assigned_user_id is 'Who is responsible. Who answers is another matter: a bot may answer for him.';
comment on column public.conversations.unread_count is
  'What the customer wrote since somebody read it, or answered in the app. An answer on the business''s own phone may be told late: it makes nothing read.';
comment on column public.conversations.escalated_at is 'When the bot last asked for a human, and escalation_reason why: it waits for one while status is waiting_human.';
comment on column public.conversations.last_inbound_at is 'When the customer last wrote, by the provider''s clock: opens the 24-hour service window.';
create unique index conversations_one_open_per_contact_idx
  on public.conversations (organization_id, instance_id, contact_id) where is_open;
comment on index public.conversations_one_open_per_contact_idx is 'An album of ten images is one conversation.';
create index conversations_contact_id_idx on public.conversations (organization_id, contact_id, instance_id);
create index conversations_inbox_idx on public.conversations (organization_id, is_open, last_message_at desc, id desc);
create index conversations_assigned_user_id_idx on public.conversations (organization_id, assigned_user_id)
  where assigned_user_id is not null;
create index conversations_location_id_idx on public.conversations (organization_id, location_id)
  where location_id is not null;

alter table public.conversations enable row level security;
alter table public.conversations force row level security;
create policy "Members can read their organization's conversations" on public.conversations
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
revoke all on public.conversations from public, anon, authenticated, service_role;
grant select on public.conversations to authenticated;
grant select, insert, update, delete on public.conversations to service_role;

create trigger conversations_100_touch_updated_at
  before update on public.conversations
  for each row execute function private.tg_touch_updated_at();

create function private.tg_contacts__refuse_in_use()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  if exists (
    select from public.conversations v where v.organization_id = old.organization_id and v.contact_id = old.id
  ) or exists (
    select from public.bookings b where b.organization_id = old.organization_id and b.contact_id = old.id
  ) then
    perform private.raise_error('BL201', 'contact_in_use', 'A contact with conversations or bookings cannot be deleted',
      jsonb_build_object('contact_id', old.id));
  end if;
  return old;
end;
$$;
comment on function private.tg_contacts__refuse_in_use() is 'Trigger: says in words what the foreign key would say by its name.';
create trigger contacts_500_refuse_in_use
  before delete on public.contacts
  for each row execute function private.tg_contacts__refuse_in_use();

create function private.lock_contact_of_conversation(organization_id uuid, conversation_id uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  of_contact uuid;
begin
  loop
    select v.contact_id into of_contact
    from public.conversations v
    where v.organization_id = lock_contact_of_conversation.organization_id
      and v.id = lock_contact_of_conversation.conversation_id;
    if not found then
      perform private.raise_error('BL202', 'conversation_not_found', 'This organization has no such conversation');
    end if;
    perform
    from public.contacts p
    where p.organization_id = lock_contact_of_conversation.organization_id and p.id = of_contact
    for no key update;
    -- Merged while we were waiting for it, it has no conversations any more.
    exit when exists (
      select
      from public.conversations v
      where v.organization_id = lock_contact_of_conversation.organization_id
        and v.id = lock_contact_of_conversation.conversation_id
        and v.contact_id = of_contact
    );
  end loop;
end;
$$;
comment on function private.lock_contact_of_conversation(uuid, uuid) is
  'Locks whom a conversation is with: until the transaction ends it is with nobody else. Error: conversation_not_found.';

-- messages ----------------------------------------------------------------------------------------------------

create table public.messages (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  conversation_id uuid not null,
  contact_id uuid not null,
  instance_id uuid not null,
  direction public.message_direction not null,
  sender public.message_sender not null,
  sender_user_id uuid,
  message_type public.message_type not null default 'text',
  content text,
  media jsonb,
  media_url text,
  payload jsonb,
  whatsapp_message_id text,
  reply_to_whatsapp_message_id text,
  client_message_id text,
  control_epoch int,
  status public.message_status not null,
  error_code text,
  error_message text,
  sent_at timestamptz,
  delivered_at timestamptz,
  read_at timestamptz,
  played_at timestamptz,
  failed_at timestamptz,
  edited_at timestamptz,
  revoked_at timestamptz,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint messages_pkey primary key (organization_id, id),
  constraint messages_conversation_id_fkey foreign key (organization_id, conversation_id)
    references public.conversations (organization_id, id) on delete cascade,
  constraint messages_contact_id_fkey foreign key (organization_id, contact_id)
    references public.contacts (organization_id, id),
  constraint messages_instance_id_fkey foreign key (organization_id, instance_id)
    references public.whatsapp_instances (organization_id, id),
  constraint messages_sender_user_id_fkey foreign key (organization_id, sender_user_id)
    references public.user_roles (organization_id, user_id) on delete set null (sender_user_id),
  constraint messages_instance_id_whatsapp_message_id_key unique (organization_id, instance_id, whatsapp_message_id),
  constraint messages_client_message_id_key unique (organization_id, client_message_id),
  constraint messages_inbound_is_received_check check ((direction = 'inbound') = (status = 'received')),
  constraint messages_client_message_id_length_check check (length(client_message_id) between 1 and 128),
  constraint messages_control_epoch_is_a_bots_check check (control_epoch is null or sender in ('bot', 'ai')),
  constraint messages_media_is_object_check check (jsonb_typeof(media) = 'object'),
  constraint messages_payload_is_object_check check (jsonb_typeof(payload) = 'object'),
  constraint messages_metadata_is_object_check check (jsonb_typeof(metadata) = 'object')
);
comment on table public.messages is 'Every message once, however often it was delivered. Read a timeline by conversation_id, ordered by id (UUIDv7: as they arrived).';
comment on column public.messages.media is 'What the provider said of the file; shape messageMedia in types/.';
comment on column public.messages.media_url is 'Our own copy of the file in Storage: media/<path>. Read it by a signed URL.';
comment on column public.messages.payload is
  'What a message of ours holds beside its content (buttons, a list, a template, a file); shape outboundPayload in types/.';
comment on column public.messages.client_message_id is 'An app''s own id of a message to send: sending it again is the same message.';
comment on column public.messages.control_epoch is
  'Of what a bot or an AI said: the conversation''s control_epoch when it thought of it. With another one, or none, it is not sent.';
comment on column public.messages.sent_at is 'By the provider''s clock; created_at is when it reached us.';
comment on column public.messages.revoked_at is 'The customer deleted it: apps show that it was deleted. What it said stays for the record.';
create index messages_conversation_id_idx on public.messages (conversation_id, id desc);
comment on index public.messages_conversation_id_idx is 'The timeline, newest first.';
create statistics public.messages_conversation_id_organization_id_stats (dependencies)
  on conversation_id, organization_id from public.messages;
comment on statistics public.messages_conversation_id_organization_id_stats is
  'A conversation has one organization: without knowing it the planner sorts the whole conversation.';
create index messages_contact_id_idx on public.messages (contact_id);
create index messages_sender_user_id_idx on public.messages (organization_id, sender_user_id)
  where sender_user_id is not null;

alter table public.messages enable row level security;
alter table public.messages force row level security;
create policy "Members can read their organization's messages" on public.messages
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
revoke all on public.messages from public, anon, authenticated, service_role;
grant select on public.messages to authenticated;
grant select, insert, update, delete on public.messages to service_role;

create trigger messages_100_touch_updated_at
  before update on public.messages
  for each row execute function private.tg_touch_updated_at();

-- What a stored message moves ---------------------------------------------------------------------------------

create function private.message_preview(message_type public.message_type, content text)
returns text
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
begin
  return coalesce(nullif(left(btrim(regexp_replace(content, '\s+', ' ', 'g')), 140), ''), '[' || message_type || ']');
end;
$$;
comment on function private.message_preview(public.message_type, text) is
  'One line for an inbox list: the text or caption, else the type in brackets for the client to translate.';

create function private.tg_messages__move_conversation()
returns trigger
language plpgsql
volatile
security definer -- whoever may store a message need not be allowed to write conversations, contacts and leads
set search_path = ''
as $$
begin
  update public.contacts c
  set last_interaction_at = greatest(c.last_interaction_at, m.at)
  from (
    select i.organization_id, i.contact_id, max(i.created_at) as at
    from inserted i
    group by i.organization_id, i.contact_id
  ) m
  where c.organization_id = m.organization_id and c.id = m.contact_id;

  -- Who edits many leads at once locks them in whatever order he comes upon them: one of them in hand, a delivery waits
  -- for none.
  update public.leads l
  set last_interaction_at = greatest(l.last_interaction_at, m.at)
  from (
    select i.organization_id, i.contact_id, max(i.created_at) as at
    from inserted i
    group by i.organization_id, i.contact_id
  ) m
  cross join lateral (
    select free.id
    from public.leads free
    where free.organization_id = m.organization_id
      and free.contact_id = m.contact_id
      -- "is true" keeps the pipeline's index out of it: a tenant has many open leads, a contact has one.
      and free.is_open is true
      -- What is hidden stands still: a change of plan, which moves it, waits for nobody's message.
      and not free.over_limit
      and free.merged_into_id is null
    for no key update skip locked
  ) shown
  where l.organization_id = m.organization_id and l.id = shown.id;

  update public.conversations v
  set last_message_at = greatest(v.last_message_at, m.last_message_at),
      last_message_preview = coalesce(m.preview, v.last_message_preview),
      last_inbound_at = greatest(v.last_inbound_at, m.last_inbound_at),
      last_human_message_at = greatest(v.last_human_message_at, m.last_human_message_at),
      unread_count = v.unread_count + m.unread
  from (
    select
      i.organization_id,
      i.conversation_id,
      max(i.created_at) as last_message_at,
      (array_agg(private.message_preview(i.message_type, i.content) order by i.id desc)
        filter (where i.message_type <> 'reaction'))[1] as preview,
      -- A provider's clock that runs ahead must not hold the service window open.
      max(least(i.sent_at, i.created_at)) filter (where i.sender = 'contact') as last_inbound_at,
      max(i.created_at) filter (where i.sender = 'human' and i.message_type <> 'reaction') as last_human_message_at,
      count(*) filter (where i.sender = 'contact' and i.message_type <> 'reaction') as unread
    from inserted i
    group by i.organization_id, i.conversation_id
  ) m
  where v.organization_id = m.organization_id and v.id = m.conversation_id;
  return null;
end;
$$;
comment on function private.tg_messages__move_conversation() is
  'Trigger: whichever path stores messages (webhook, app, bot), their conversations, contacts and open leads move with them.';

create trigger messages_500_move_conversation
  after insert on public.messages
  referencing new table as inserted
  for each statement execute function private.tg_messages__move_conversation();
