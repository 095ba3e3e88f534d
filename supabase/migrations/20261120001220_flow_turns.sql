-- Turns: a customer writes, the bot takes one step.
--
-- A stored message brings a job along; one conversation's jobs run one after the other. The worker asks begin_flow_turn()
-- for the next inputs, computes the step (a pure function, functions/queue-worker/flow), and finish_flow_turn() does all
-- of it at once: what is booked, what is said, how far the customer is. Whoever dies in between has done nothing;
-- whoever comes twice finds that the session has moved on.
--
-- Two things may change while a step is computed. A human takes over: the epoch has moved, and nothing is said. The world
-- refuses (the slot is taken): nothing is done, and the engine takes another step from where it was, knowing why.
--
-- Locks: job, organization, agendas, contact, conversation, session, then what the actions touch; the queue's keys last.

-- Who has a turn ----------------------------------------------------------------------------------------------------

create function private.is_flow_input(message public.messages)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return message.direction = 'inbound'
    and message.sender = 'contact'
    and message.message_type <> 'reaction'
    and message.revoked_at is null
    -- A delivery that is replayed after days is news to nobody, and its answer could not be sent.
    and least(message.sent_at, message.created_at) > now() - interval '24 hours'
    -- An answer to a reminder is answered there.
    and not exists (
      select
      from private.notification_answers a
      where a.organization_id = message.organization_id and a.message_id = message.id
    );
end;
$$;
comment on function private.is_flow_input(public.messages) is 'Whether a message is something that a bot answers.';

create function private.flow_turn_job(organization_id uuid, conversation_id uuid, cause jsonb, idempotency_key text default null)
returns private.new_job
language sql
immutable
set search_path = ''
as $$
  select row(
    organization_id, 'run_flow', jsonb_build_object('conversation_id', conversation_id) || cause, 0, null,
    'flow:' || conversation_id, idempotency_key,
    -- Little more than a minute: then a human is asked.
    5
  )::private.new_job
$$;
comment on function private.flow_turn_job(uuid, uuid, jsonb, text) is
  'The job for the next turn of a conversation, behind the others of its kind. cause: {message_id}, the first message that it is for; {start: true}; or {timer: true}.';

create function private.has_flow(conversation public.conversations)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return conversation.is_open and conversation.is_bot_controlled and (
    exists (
      select
      from public.flow_sessions s
      where s.organization_id = conversation.organization_id and s.conversation_id = conversation.id and not s.is_completed
    )
    or exists (
      select from public.flows f where f.organization_id = conversation.organization_id and f.is_default and f.is_active
    )
  );
end;
$$;
comment on function private.has_flow(public.conversations) is 'Whether a flow hears what is said in a conversation.';

create function private.tg_messages__run_flow()
returns trigger
language plpgsql
volatile
security definer -- the queue is written through its functions only
set search_path = ''
as $$
declare
  jobs private.new_job[];
begin
  select array_agg(
    private.flow_turn_job(v.organization_id, v.id, jsonb_build_object('message_id', said.message_id))
    order by v.organization_id, v.id)
  into jobs
  from (
    select distinct on (i.organization_id, i.conversation_id) i.organization_id, i.conversation_id, i.id as message_id
    from inserted i
    where private.is_flow_input(row(i.*)::public.messages)
    order by i.organization_id, i.conversation_id, i.id
  ) said
  join public.conversations v on v.organization_id = said.organization_id and v.id = said.conversation_id
  join public.contacts p on p.organization_id = v.organization_id and p.id = v.contact_id
  where p.status <> 'blocked' and private.has_flow(v);
  if jobs is not null then
    perform from private.enqueue_jobs(jobs);
    perform private.wake_worker();
  end if;
  return null;
end;
$$;
comment on function private.tg_messages__run_flow() is
  'Trigger: what a customer writes to a bot brings a turn along, one for each conversation and delivery.';
create trigger messages_900_run_flow
  after insert on public.messages
  referencing new table as inserted
  for each statement execute function private.tg_messages__run_flow();

-- What happens to a session from outside ----------------------------------------------------------------------------

create function private.newest_message(conversation_id uuid)
returns uuid
language plpgsql
stable
set search_path = ''
as $$
begin
  return (
    select m.id from public.messages m where m.conversation_id = newest_message.conversation_id order by m.id desc limit 1
  );
end;
$$;
comment on function private.newest_message(uuid) is 'The last message of a conversation, whoever wrote it.';

create function private.tg_conversations__keep_flow()
returns trigger
language plpgsql
volatile
security definer -- whoever closes a conversation need not be allowed to write sessions
set search_path = ''
as $$
begin
  if not new.is_open then
    update public.flow_sessions s
    set status = 'cancelled', completed_at = now(), wakes_at = null, version = s.version + 1
    where s.organization_id = new.organization_id and s.conversation_id = new.id and not s.is_completed;
  else
    -- The bot is back. What was said to a human meanwhile was no answer to its question.
    update public.flow_sessions s
    set last_message_id = coalesce(private.newest_message(new.id), s.last_message_id), version = s.version + 1
    where s.organization_id = new.organization_id and s.conversation_id = new.id and not s.is_completed;
  end if;
  return null;
end;
$$;
comment on function private.tg_conversations__keep_flow() is
  'Trigger: a closed conversation ends its flow; when a human gives control back the flow goes on after what they said.';
create trigger conversations_900_end_flow
  after update of status on public.conversations
  for each row when (old.status <> 'closed' and new.status = 'closed')
  execute function private.tg_conversations__keep_flow();
create trigger conversations_900_resume_flow
  after update of is_bot_controlled on public.conversations
  for each row when (not old.is_bot_controlled and new.is_bot_controlled and new.status <> 'closed')
  execute function private.tg_conversations__keep_flow();

create function private.tg_message_queue__give_up_flow()
returns trigger
language plpgsql
volatile
security definer -- whoever ends a job need not be allowed to write conversations
set search_path = ''
as $$
declare
  conversation constant public.conversations :=
    private.lock_flow_conversation(new.organization_id, private.id_in(new.payload, 'conversation_id'));
begin
  if conversation.is_open and conversation.is_bot_controlled then
    perform private.hand_over(conversation, 'flow_failed');
  end if;
  return null;
end;
$$;
comment on function private.tg_message_queue__give_up_flow() is
  'Trigger: a bot that cannot answer, try as it may, says so to a human instead of keeping silent for ever.';
create trigger message_queue_500_give_up_flow
  after update of status on public.message_queue
  for each row when (new.job_type = 'run_flow' and new.status = 'dead' and old.status <> 'dead')
  execute function private.tg_message_queue__give_up_flow();

-- The clock -----------------------------------------------------------------------------------------------------------

create function private.expire_flow_sessions(batch_size int default 1000)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  expired bigint;
begin
  with picked as materialized (
    select e.organization_id, e.id
    from public.flow_sessions e
    where not e.is_completed and e.expires_at <= now()
    order by e.expires_at
    limit batch_size
    for update skip locked
  )
  update public.flow_sessions s
  set status = 'expired', completed_at = now(), wakes_at = null, version = s.version + 1
  from picked p
  where s.organization_id = p.organization_id and s.id = p.id;
  get diagnostics expired = row_count;
  return expired;
end;
$$;
comment on function private.expire_flow_sessions(int) is
  'Ends the flows of customers who stopped answering: the next message begins anew. Returns how many.';

create function private.wake_flow_sessions(batch_size int default 500)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  woken bigint;
begin
  select count(*) into woken
  from private.enqueue_jobs(array(
    -- Once for each wait: a turn, and a human who gives control back, make another version.
    select private.flow_turn_job(
      s.organization_id, s.conversation_id, '{"timer": true}', 'flow_timer:' || s.id || ':' || s.version)
    from public.flow_sessions s
    join public.conversations v on v.organization_id = s.organization_id and v.id = s.conversation_id
    where not s.is_completed and s.wakes_at <= now() and v.is_open is true and v.is_bot_controlled
      and not exists (
        select
        from public.message_queue q
        where q.organization_id = s.organization_id
          and q.idempotency_key = 'flow_timer:' || s.id || ':' || s.version
      )
    order by s.wakes_at
    limit batch_size
  ));
  if woken > 0 then
    perform private.wake_worker();
  end if;
  return woken;
end;
$$;
comment on function private.wake_flow_sessions(int) is 'A turn for each flow whose wait is over; returns how many.';

-- start_flow --------------------------------------------------------------------------------------------------------

create function private.lock_flow_conversation(organization_id uuid, conversation_id uuid)
returns public.conversations
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.lock_conversation(organization_id, conversation_id);
exception
  when sqlstate 'BL202' then return null;
end;
$$;
comment on function private.lock_flow_conversation(uuid, uuid) is 'The conversation that a job is about, locked; null when it is gone.';

create function private.new_flow_session(conversation public.conversations, flow public.flows, last_message_id uuid)
returns public.flow_sessions
language plpgsql
volatile
set search_path = ''
as $$
declare
  session public.flow_sessions;
begin
  insert into public.flow_sessions as s (
    organization_id, conversation_id, contact_id, flow_id, flow_version, last_message_id, expires_at
  )
  values (
    conversation.organization_id, conversation.id, conversation.contact_id, flow.id, flow.version,
    new_flow_session.last_message_id, now() + private.flow_patience(flow.definition)
  )
  returning s.* into session;
  return session;
end;
$$;
comment on function private.new_flow_session(public.conversations, public.flows, uuid) is
  'A customer at the beginning of a flow, who has been heard up to a message.';

create function private.start_flow(conversation_id uuid, flow_id uuid, organization_id uuid)
returns public.flow_sessions
language plpgsql
volatile
security definer -- sessions and jobs are written through functions only
set search_path = ''
as $$
declare
  conversation public.conversations;
  flow public.flows;
  session public.flow_sessions;
begin
  perform private.require_role(organization_id, 'attendant');
  conversation := private.lock_conversation(organization_id, conversation_id);
  perform private.require_open(conversation);
  select f.* into flow
  from public.flows f
  where f.organization_id = start_flow.organization_id and f.id = start_flow.flow_id and f.is_active;
  if not found then
    perform private.raise_error('BL602', 'flow_not_found', 'This organization has no such flow, or it is switched off',
      jsonb_build_object('flow_id', flow_id));
  end if;
  if not conversation.is_bot_controlled then
    conversation := private.release_to_bot(conversation.id, null, organization_id);
  end if;
  update public.flow_sessions s
  set status = 'cancelled', completed_at = now(), wakes_at = null, version = s.version + 1
  where s.organization_id = conversation.organization_id and s.conversation_id = conversation.id and not s.is_completed;
  session := private.new_flow_session(conversation, flow, private.newest_message(conversation.id));
  perform from private.enqueue_jobs(array[private.flow_turn_job(session.organization_id, session.conversation_id, '{"start": true}')]);
  perform private.wake_worker();
  return session;
end;
$$;
comment on function private.start_flow(uuid, uuid, uuid) is 'See public.start_flow().';
grant execute on function private.start_flow(uuid, uuid, uuid) to authenticated, service_role;

create function public.start_flow(
  conversation_id uuid,
  flow_id uuid,
  organization_id uuid default public.user_organization_id()
)
returns public.flow_sessions
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.start_flow(conversation_id, flow_id, organization_id);
end;
$$;
comment on function public.start_flow(uuid, uuid, uuid) is
  'The bot begins a flow in an open conversation, from its first step, instead of what it was at; it takes control if a human had it. Attendants and up. Errors: not_allowed, conversation_not_found, conversation_closed, flow_not_found.';
grant execute on function public.start_flow(uuid, uuid, uuid) to authenticated, service_role;

-- begin_flow_turn ---------------------------------------------------------------------------------------------------

create function private.flow_messages(session public.flow_sessions)
returns setof public.messages
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select m.*
  from public.messages m
  where m.organization_id = session.organization_id
    and m.conversation_id = session.conversation_id
    and m.id > coalesce(session.last_message_id, '00000000-0000-0000-0000-000000000000')
    and private.is_flow_input(m)
  order by m.id
  -- Who writes more at once than anybody reads is heard in several turns.
  limit 20;
end;
$$;
comment on function private.flow_messages(public.flow_sessions) is 'What the customer said that the bot has not heard yet.';

create function private.flow_context(conversation public.conversations, session public.flow_sessions)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return (
    select jsonb_build_object(
      'organization', jsonb_build_object('id', o.id, 'name', o.name, 'vertical', o.vertical, 'timezone', o.timezone),
      'contact', jsonb_build_object(
        'id', p.id,
        'name', coalesce(p.name, p.profile_name),
        'first_name', substring(coalesce(p.name, p.profile_name) from '^\s*(\S+)'),
        'tags', to_jsonb(p.tags),
        'phone_number', p.phone_number),
      'conversation_id', conversation.id,
      'control_epoch', conversation.control_epoch,
      'now', now(),
      -- Of the session: a tap on what another one offered is known by it.
      'nonce', left(md5(session.id::text), 8),
      'channel', jsonb_build_object('buttons', true, 'lists', true),
      'expired', session.current_step is null and coalesce((
        select before.status = 'expired'
        from public.flow_sessions before
        where before.organization_id = session.organization_id
          and before.conversation_id = session.conversation_id
          and before.id < session.id
        order by before.id desc
        limit 1
      ), false))
    from public.organizations o
    join public.contacts p on p.organization_id = o.id and p.id = conversation.contact_id
    where o.id = conversation.organization_id
  );
end;
$$;
comment on function private.flow_context(public.conversations, public.flow_sessions) is 'What the engine may know of whom it talks to.';

create function private.begin_flow_turn(job jsonb)
returns jsonb
language plpgsql
volatile
security definer -- writes sessions, and ends jobs
set search_path = ''
as $$
declare
  held constant public.message_queue := private.hold_job(job);
  conversation public.conversations;
  session public.flow_sessions;
  flow public.flows;
  caused_by constant uuid := private.id_in(held.payload, 'message_id');
  inputs jsonb;
begin
  conversation := private.lock_flow_conversation(held.organization_id, private.id_in(held.payload, 'conversation_id'));
  if conversation.id is null then
    return private.end_job(held, 'conversation_gone');
  elsif not conversation.is_open then
    return private.end_job(held, 'conversation_closed');
  elsif not conversation.is_bot_controlled then
    return private.end_job(held, 'human_controls');
  elsif exists (
    select
    from public.contacts p
    where p.organization_id = conversation.organization_id and p.id = conversation.contact_id and p.status = 'blocked'
  ) then
    return private.end_job(held, 'contact_blocked');
  end if;

  -- The one that is under way, else the last one: what it has heard begins nothing again.
  select s.* into session
  from public.flow_sessions s
  where s.organization_id = conversation.organization_id and s.conversation_id = conversation.id
  order by s.is_completed, s.id desc
  limit 1
  for no key update;
  if session.status = 'running' and session.expires_at <= now() then
    update public.flow_sessions s
    set status = 'expired', completed_at = now(), wakes_at = null, version = s.version + 1
    where s.organization_id = session.organization_id and s.id = session.id
    returning s.* into session;
  end if;

  if session.status is distinct from 'running' then
    -- What the last one has heard begins nothing again; nor does what was said to a human since.
    if caused_by is null or caused_by <= session.last_message_id then
      return private.end_job(held, 'nothing_to_do');
    end if;
    select f.* into flow
    from public.flows f
    where f.organization_id = conversation.organization_id and f.is_default and f.is_active;
    if not found then
      return private.end_job(held, 'no_flow');
    end if;
    session := private.new_flow_session(conversation, flow, (
      select m.id
      from public.messages m
      where m.conversation_id = conversation.id and m.id < caused_by
      order by m.id desc
      limit 1
    ));
  end if;

  select jsonb_agg(jsonb_build_object(
    'kind', 'message',
    'message_id', m.id,
    'message_type', m.message_type,
    'text', m.content,
    'reply_id', m.metadata #>> '{interactive,id}',
    'quoted_id', m.reply_to_whatsapp_message_id,
    -- Written before the question that is open now.
    'early', coalesce(m.created_at <= session.asked_at, false)) order by m.id)
  into inputs
  from private.flow_messages(session) m;
  if session.wakes_at <= now() then
    inputs := '[{"kind": "timer"}]' || coalesce(inputs, '[]');
  elsif inputs is null and session.current_step is null and held.payload -> 'start' = 'true' then
    inputs := '[{"kind": "start"}]';
  elsif inputs is null then
    return private.end_job(held, 'nothing_to_do');
  end if;

  return jsonb_build_object(
    'action', 'turn',
    'session', jsonb_build_object(
      'id', session.id,
      'version', session.version,
      'flow_id', session.flow_id,
      'flow_version', session.flow_version,
      'current_step', session.current_step,
      'state', session.state,
      'status', session.status),
    'definition', (
      -- A session may begin in the middle (private.start_flow_at).
      select d.definition || case
        when session.current_step is null and session.state ? 'inicio' then jsonb_build_object('inicio', session.state -> 'inicio')
        else '{}'
      end
      from public.flow_versions d
      where d.organization_id = session.organization_id
        and d.flow_id = session.flow_id
        and d.version = session.flow_version
    ),
    'inputs', inputs,
    'context', private.flow_context(conversation, session));
end;
$$;
comment on function private.begin_flow_turn(jsonb) is 'See public.begin_flow_turn().';
grant execute on function private.begin_flow_turn(jsonb) to service_role;

create function public.begin_flow_turn(job jsonb)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.begin_flow_turn(job);
end;
$$;
comment on function public.begin_flow_turn(jsonb) is
  'For the worker, with a held job {organization_id, id, fencing_token} of type run_flow: what a conversation''s flow goes on with, {action: turn, session, definition, inputs, context}; or {action: done, reason} when the job was ended here because nobody waits for the bot. A customer without a flow under way begins the default one. Secret key only. Errors: lease_lost.';
grant execute on function public.begin_flow_turn(jsonb) to service_role;

-- What the engine wants to know --------------------------------------------------------------------------------------

create function private.get_flow_facts(job jsonb, need jsonb)
returns jsonb
language plpgsql
volatile
security definer -- reads for whoever holds the job, and of that conversation's customer only
set search_path = ''
as $$
declare
  held constant public.message_queue := private.hold_job(job);
  conversation public.conversations;
begin
  select v.* into conversation
  from public.conversations v
  where v.organization_id = held.organization_id and v.id = private.id_in(held.payload, 'conversation_id');
  case need ->> 'kind'
    when 'services' then
      return jsonb_build_object('kind', 'services', 'services', (
        select coalesce(jsonb_agg(jsonb_build_object(
          'id', s.id, 'name', s.name, 'description', s.description, 'price_cents', s.price_cents,
          'duration_minutes', s.duration_minutes, 'requires_pet', s.requires_pet) order by s.name, s.id), '[]')
        from (
          select s.*
          from public.services s
          where s.organization_id = held.organization_id
            and s.is_active
            and (need ->> 'category' is null or lower(btrim(s.category)) = lower(btrim(need ->> 'category')))
          order by s.name, s.id
          limit 100
        ) s
      ));
    when 'pets' then
      return jsonb_build_object('kind', 'pets', 'pets', (
        select coalesce(jsonb_agg(jsonb_build_object('id', a.id, 'name', a.name) order by a.name, a.id), '[]')
        from public.pets a
        where a.organization_id = held.organization_id and a.contact_id = conversation.contact_id and a.is_active
      ));
    when 'facts' then
      return jsonb_build_object(
        'kind', 'facts',
        'pets', case when (need ->> 'pets')::boolean then (
          select count(*)
          from public.pets a
          where a.organization_id = held.organization_id and a.contact_id = conversation.contact_id and a.is_active
        ) end,
        'variants', (
          select coalesce(jsonb_object_agg(n.name, private.ab_variant(t.id, conversation.contact_id, held.organization_id)), '{}')
          from jsonb_array_elements_text(need -> 'tests') n (name)
          left join public.ab_tests t on t.organization_id = held.organization_id and t.name = n.name
        ));
    when 'bookings' then
      return jsonb_build_object('kind', 'bookings', 'bookings', (
        select coalesce(jsonb_agg(jsonb_build_object(
          'id', b.id, 'service_id', b.service_id, 'service_name', s.name, 'professional_id', b.professional_id,
          'professional_name', p.name, 'location_id', b.location_id, 'start_time', b.start_time,
          'timezone', private.zone_of(b.organization_id, b.location_id), 'status', b.status, 'pet_name', a.name)
          order by b.start_time, b.id), '[]')
        from (
          select b.*
          from public.bookings b
          where b.organization_id = held.organization_id
            and b.contact_id = conversation.contact_id
            and b.start_time > now()
            and b.status in ('scheduled', 'confirmed')
          order by b.start_time, b.id
          limit 50
        ) b
        join public.services s on s.organization_id = b.organization_id and s.id = b.service_id
        left join public.professionals p on p.organization_id = b.organization_id and p.id = b.professional_id
        left join public.pets a on a.organization_id = b.organization_id and a.id = b.pet_id
      ));
    when 'slots' then
      begin
        return jsonb_build_object('kind', 'slots', 'slots', (
          select coalesce(jsonb_agg(to_jsonb(s) - 'seats_left'), '[]')
          from private.get_available_slots(
            private.id_in(need, 'service_id'), (need ->> 'from_time')::timestamptz, (need ->> 'to_time')::timestamptz,
            private.id_in(need, 'professional_id'), private.id_in(need, 'location_id'), held.organization_id) s
        ));
      exception
        -- It is not offered any more, or not by him, or not there: there is no slot.
        when sqlstate 'BL500' or sqlstate 'BL507' or sqlstate 'BL512' then
          return '{"kind": "slots", "slots": []}'::jsonb;
      end;
    else
      perform private.raise_error('BL305', 'invalid_outcome', 'There is nothing to know of that', jsonb_build_object('kind', need ->> 'kind'));
  end case;
end;
$$;
comment on function private.get_flow_facts(jsonb, jsonb) is 'See public.get_flow_facts().';
grant execute on function private.get_flow_facts(jsonb, jsonb) to service_role;

create function public.get_flow_facts(job jsonb, need jsonb)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.get_flow_facts(job, need);
end;
$$;
comment on function public.get_flow_facts(jsonb, jsonb) is
  'For the worker, in the midst of a turn: what its engine needs of the conversation''s customer: {kind: services, category} | {kind: pets} | {kind: facts, pets (whether to count them), tests [names]} | {kind: bookings} | {kind: slots, service_id, professional_id, location_id, from_time, to_time}. Answers {kind, services | pets | bookings | slots}; facts: {kind, pets, variants {name: a | b | null}}, and the contact takes part in these tests from now on. Secret key only. Errors: lease_lost, invalid_outcome, service_not_found, professional_not_available, location_not_found, invalid_range.';
grant execute on function public.get_flow_facts(jsonb, jsonb) to service_role;

-- finish_flow_turn --------------------------------------------------------------------------------------------------

create function private.lock_flow_agendas(organization_id uuid, actions jsonb)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  wanted uuid[];
  locked uuid[] := array[]::uuid[];
begin
  -- What takes a place in the month takes it under the organization.
  if exists (select from jsonb_array_elements(actions) a where a ->> 'tipo' in ('criar_lead', 'atualizar_lead')) then
    perform from public.organizations o where o.id = lock_flow_agendas.organization_id for share;
  end if;
  loop
    -- A service counts where nobody is named for it; and everybody who gives it where anybody will do.
    wanted := array(
      with claimed as (
        select private.id_in(a, 'servico_id') as service_id, private.id_in(a, 'profissional_id') as professional_id
        from jsonb_array_elements(actions) a
        where a ->> 'tipo' = 'agendar'
        union all
        select b.service_id, p.id
        from jsonb_array_elements(actions) a
        join public.bookings b
          on b.organization_id = lock_flow_agendas.organization_id and b.id = private.id_in(a, 'agendamento_id')
        cross join lateral (values (b.professional_id), (coalesce(private.id_in(a, 'profissional_id'), b.professional_id))) p (id)
        where a ->> 'tipo' in ('cancelar_agendamento', 'remarcar', 'confirmar_agendamento')
      )
      select distinct coalesce(c.professional_id, g.professional_id, c.service_id)
      from claimed c
      left join public.professional_services g
        on c.professional_id is null
        and g.organization_id = lock_flow_agendas.organization_id
        and g.service_id = c.service_id
      where coalesce(c.professional_id, c.service_id) is not null
    );
    exit when wanted <@ locked;
    perform private.lock_agendas(organization_id, wanted, wanted);
    locked := locked || wanted;
  end loop;
end;
$$;
comment on function private.lock_flow_agendas(uuid, jsonb) is
  'Locks what a turn''s actions book in, before the customer: the one lock order. Looks again after each wait, for a booking that moved.';

create function private.flow_booking(session public.flow_sessions, booking_id uuid)
returns uuid
language plpgsql
stable
set search_path = ''
as $$
begin
  if not exists (
    select
    from public.bookings b
    where b.organization_id = session.organization_id and b.id = flow_booking.booking_id and b.contact_id = session.contact_id
  ) then
    perform private.raise_error('BL502', 'booking_not_found', 'This customer has no such booking');
  end if;
  return booking_id;
end;
$$;
comment on function private.flow_booking(public.flow_sessions, uuid) is 'A booking of the customer''s own, or error booking_not_found.';

create function private.flow_booking_id(session public.flow_sessions, action_index int)
returns uuid
language plpgsql
immutable
set search_path = ''
as $$
declare
  digest constant text := md5(session.id || ':' || session.version || ':' || action_index);
begin
  -- RFC 9562, version 8: of one's own making.
  return overlay(overlay(digest placing '8' from 13 for 1) placing 'a' from 17 for 1)::uuid;
end;
$$;
comment on function private.flow_booking_id(public.flow_sessions, int) is 'The id of what a turn books: a second try of the same turn is the same booking.';

create function private.flow_pet(session public.flow_sessions, action jsonb)
returns uuid
language plpgsql
stable
set search_path = ''
as $$
begin
  return coalesce(
    private.id_in(action, 'pet_id'),
    (
      select a.id
      from public.pets a
      where a.organization_id = session.organization_id
        and a.contact_id = session.contact_id
        and a.is_active
        and lower(a.name) = lower(btrim(action ->> 'pet_nome'))
      order by a.id
      limit 1
    ));
end;
$$;
comment on function private.flow_pet(public.flow_sessions, jsonb) is 'Which of the customer''s animals is meant: by its id, or by the name under which it was just made.';

create function private.flow_lead(session public.flow_sessions, professional_id uuid, respostas jsonb)
returns public.leads
language plpgsql
volatile
set search_path = ''
as $$
declare
  lead public.leads;
begin
  select l.* into lead
  from public.leads l
  where l.organization_id = session.organization_id
    and l.contact_id = session.contact_id
    and l.merged_into_id is null
    and (l.id = session.lead_id or session.lead_id is null)
  order by l.is_open desc, l.created_at desc
  limit 1;
  return private.create_lead(
    session.contact_id, case when lead.id is null then flow_lead.professional_id else lead.professional_id end,
    'flow', '{}', flow_lead.respostas, '{}', session.organization_id);
end;
$$;
comment on function private.flow_lead(public.flow_sessions, uuid, jsonb) is
  'The lead that a flow speaks of, with its answers: the one that it made, else the customer''s open one, else a new one.';

create function private.do_flow_action(session public.flow_sessions, action jsonb, booking_id uuid)
returns uuid
language plpgsql
volatile
set search_path = ''
as $$
declare
  organization constant uuid := session.organization_id;
  respostas constant jsonb := coalesce(action -> 'respostas', '{}');
  lead public.leads;
begin
  perform private.customer_is_told(session.contact_id);
  case action ->> 'tipo'
    when 'criar_lead' then
      lead := private.create_lead(
        session.contact_id, private.id_in(action, 'profissional_id'), 'flow', '{}', respostas, '{}', organization);
    when 'atualizar_lead' then
      lead := private.flow_lead(session, null, respostas);
      if action ->> 'status' <> lead.status::text then
        update public.leads l
        set status = (action ->> 'status')::public.lead_status
        where l.organization_id = lead.organization_id and l.id = lead.id;
      end if;
    when 'etiquetar' then
      update public.contacts p
      set tags = p.tags || (action ->> 'etiqueta')
      where p.organization_id = organization and p.id = session.contact_id and (action ->> 'etiqueta') <> all (p.tags);
    when 'criar_pet' then
      if private.flow_pet(session, jsonb_build_object('pet_nome', action ->> 'nome')) is null then
        insert into public.pets (organization_id, contact_id, name)
        values (organization, session.contact_id, btrim(action ->> 'nome'));
      end if;
    when 'agendar' then
      perform private.create_booking(
        session.contact_id, private.id_in(action, 'servico_id'), (action ->> 'horario')::timestamptz,
        private.id_in(action, 'profissional_id'), private.id_in(action, 'local_id'), private.flow_pet(session, action),
        null, 'flow', false, null, booking_id, organization);
    when 'entrar_lista_espera' then
      perform private.join_waiting_list(
        session.contact_id, private.id_in(action, 'servico_id'), private.id_in(action, 'profissional_id'),
        private.id_in(action, 'local_id'), private.flow_pet(session, action), 0, null, null, 'any', null, organization);
    when 'cancelar_agendamento' then
      perform private.cancel_booking(
        private.flow_booking(session, private.id_in(action, 'agendamento_id')), action ->> 'motivo', organization);
    when 'remarcar' then
      perform private.reschedule_booking(
        private.flow_booking(session, private.id_in(action, 'agendamento_id')), (action ->> 'horario')::timestamptz,
        private.id_in(action, 'profissional_id'), private.id_in(action, 'local_id'), false, organization);
    when 'confirmar_agendamento' then
      perform private.confirm_booking(
        private.flow_booking(session, private.id_in(action, 'agendamento_id')), 'patient', 'whatsapp', organization);
    -- These three come with the turn's end.
    when 'aguardar', 'transferir', 'encerrar' then null;
    else
      perform private.raise_error('BL305', 'invalid_outcome', 'A flow has no such action', jsonb_build_object('tipo', action ->> 'tipo'));
  end case;
  return lead.id;
end;
$$;
comment on function private.do_flow_action(public.flow_sessions, jsonb, uuid) is
  'Does what a flow wants done, through what the RPCs do it with; returns the lead, if it was about one.';

create function private.is_flow_result(result jsonb)
returns boolean
language plpgsql
immutable
set search_path = ''
as $$
begin
  return coalesce(
    private.id_in(result, 'session_id') is not null
      and jsonb_typeof(result -> 'session_version') = 'number'
      and jsonb_typeof(result -> 'control_epoch') = 'number'
      and private.is_list_of_objects(result -> 'outputs')
      and private.is_list_of_objects(result -> 'actions')
      and jsonb_typeof(result #> '{session,state}') = 'object'
      and result #>> '{session,status}' in ('running', 'completed', 'handed_over', 'expired')
      and (result #>> '{session,status}' <> 'running' or jsonb_typeof(result #> '{session,current_step}') = 'string'),
    false);
end;
$$;
comment on function private.is_flow_result(jsonb) is 'Whether this is what a step of the engine comes to.';

create function private.wants_an_answer(message public.messages)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return case
    when message.message_type in ('sticker', 'reaction', 'unsupported') then false
    -- An option of a question that is over.
    when message.metadata #>> '{interactive,id}' is not null then false
    else coalesce(private.fold_words(message.content), 'media') not in (
      '', 'sim', 'sim sim', 's', 'ss', 'isso', 'isso mesmo', 'claro', 'quero', 'pode ser', 'ok', 'okay', 'blz', 'beleza', 'certo',
      'combinado', 'perfeito', 'otimo', 'show', 'top', 'joia', 'maravilha', 'nao', 'n', 'nn', 'nao obrigado', 'nao obrigada',
      'por favor', 'pf', 'pfv', 'obrigado', 'obrigada', 'muito obrigado', 'muito obrigada', 'ok obrigado', 'ok obrigada',
      'brigado', 'brigada', 'obg', 'valeu', 'vlw', 'grato', 'grata', 'agradeco', 'amem', 'tchau', 'ate logo', 'ate mais', 'ate',
      'bom dia', 'boa tarde', 'boa noite')
  end;
end;
$$;
comment on function private.wants_an_answer(public.messages) is
  'Whether what was written while a flow said its last words is more than thanks or another yes.';

create function private.asked_at_the_end(session public.flow_sessions, heard uuid)
returns uuid
language plpgsql
stable
set search_path = ''
as $$
begin
  session.last_message_id := coalesce(heard, session.last_message_id);
  return (
    select m.id
    from private.flow_messages(session) m
    where private.wants_an_answer(m)
      -- The same once more is impatience.
      and not exists (
        select
        from public.messages h
        where h.conversation_id = session.conversation_id
          and h.id = session.last_message_id
          and private.fold_words(h.content) = private.fold_words(m.content)
      )
    order by m.id
    limit 1
  );
end;
$$;
comment on function private.asked_at_the_end(public.flow_sessions, uuid) is
  'The first thing that a customer wanted to know while their flow was ending, after the message that it heard last.';

create function private.finish_flow_turn(job jsonb, result jsonb)
returns jsonb
language plpgsql
volatile
security definer -- writes all that a flow may change, and ends jobs
set search_path = ''
as $$
declare
  held constant public.message_queue := private.hold_job(job);
  conversation public.conversations;
  session public.flow_sessions;
  action record;
  output record;
  waits interval;
  handed_over text;
  closes boolean := false;
  asks uuid;
  refused_code text;
  refused_detail text;
  refused_action int;
begin
  if not private.is_flow_result(result) then
    perform private.raise_error('BL305', 'invalid_outcome', 'This is not what a step of a flow comes to');
  end if;
  perform private.lock_flow_agendas(held.organization_id, result -> 'actions');
  conversation := private.lock_flow_conversation(held.organization_id, private.id_in(held.payload, 'conversation_id'));
  if conversation.id is null then
    return private.end_job(held, 'conversation_gone');
  elsif not conversation.is_open
    or not conversation.is_bot_controlled
    or conversation.control_epoch <> (result ->> 'control_epoch')::int then
    -- What was computed for the bot that had control then is of no use to anybody. What they wrote to a bot that has
    -- it again brought another job along.
    return private.end_job(held, 'superseded');
  end if;
  select s.* into session
  from public.flow_sessions s
  where s.organization_id = conversation.organization_id
    and s.conversation_id = conversation.id
    and s.id = private.id_in(result, 'session_id')
  for no key update;
  if session.id is null or session.is_completed or session.version <> (result ->> 'session_version')::int then
    return jsonb_build_object('action', 'again', 'reason', 'session_moved_on');
  end if;

  begin
    begin
      for action in
        select a.value, (a.n - 1)::int as index
        from jsonb_array_elements(result -> 'actions') with ordinality a (value, n)
        order by a.n
      loop
        refused_action := action.index;
        session.lead_id := coalesce(
          private.do_flow_action(
            session, action.value,
            private.flow_booking_id(session, action.index)),
          session.lead_id);
        case action.value ->> 'tipo'
          when 'aguardar' then waits := make_interval(mins => (action.value ->> 'minutos')::int);
          when 'transferir' then handed_over := coalesce(action.value ->> 'motivo', 'flow');
          when 'encerrar' then closes := true;
          else null;
        end case;
      end loop;
    exception
      -- A mistake of ours is no answer for a customer.
      when sqlstate 'BL305' then
        raise;
      -- Nothing of the turn has happened: the engine takes another step from where it was.
      when others then
        get stacked diagnostics refused_code = returned_sqlstate, refused_detail = pg_exception_detail;
        if refused_code !~ '^(BL|23)' then
          raise;
        end if;
        return jsonb_build_object(
          'action', 'refused',
          'action_index', refused_action,
          'error', case when refused_code ~ '^BL' then refused_detail::jsonb ->> 'error' else 'invalid_data' end,
          'detail', case when refused_code ~ '^BL' then refused_detail::jsonb - 'error' else '{}' end);
    end;
    for output in
      select o.value, o.n from jsonb_array_elements(result -> 'outputs') with ordinality o (value, n) order by o.n
    loop
      perform private.send_bot_message(
        conversation.id, conversation.organization_id, conversation.control_epoch, 'bot',
        (output.value ->> 'message_type')::public.message_type, output.value ->> 'content',
        case jsonb_typeof(output.value -> 'payload') when 'object' then output.value -> 'payload' end,
        format('flow:%s:%s:%s', session.id, session.version, output.n));
    end loop;
  exception
    -- Nobody can be told anything through this number, so nothing is done that they would not hear of.
    when sqlstate 'BL106' or sqlstate 'BL107' then
      perform private.hand_over(conversation, 'number_cannot_send');
      return private.end_job(held, 'number_cannot_send');
  end;

  -- A flow that never asked anything has said to all of it what it has to say.
  if result #>> '{session,status}' = 'completed' and result #> '{session,state,perguntas}' > '0' then
    asks := private.asked_at_the_end(session, private.id_in(result, 'last_message_id'));
  end if;
  update public.flow_sessions s
  set current_step = result #>> '{session,current_step}',
      state = result #> '{session,state}',
      status = (result #>> '{session,status}')::public.flow_session_status,
      completed_at = case when result #>> '{session,status}' <> 'running' then now() end,
      version = s.version + 1,
      lead_id = session.lead_id,
      -- What they wrote before they read the end begins nothing anew, unless it wants an answer of its own.
      last_message_id = case
        when result #>> '{session,status}' = 'running' then coalesce(private.id_in(result, 'last_message_id'), s.last_message_id)
        when asks is not null then (
          select m.id from public.messages m where m.conversation_id = conversation.id and m.id < asks order by m.id desc limit 1
        )
        else private.newest_message(conversation.id)
      end,
      -- The same question again is no new one: an answer that was on its way while we repeated it is heard.
      asked_at = case
        when result #> '{session,state,perguntas}' is distinct from s.state -> 'perguntas' then clock_timestamp()
        else s.asked_at
      end,
      wakes_at = now() + waits,
      expires_at = now() + coalesce(waits, '0') + (
        select private.flow_patience(d.definition)
        from public.flow_versions d
        where d.organization_id = s.organization_id and d.flow_id = s.flow_id and d.version = s.flow_version
      )
  where s.organization_id = session.organization_id and s.id = session.id
  returning s.* into session;

  -- Its last words are queued by now.
  if handed_over is not null then
    conversation := private.hand_over(conversation, handed_over);
  end if;
  if asks is not null then
    -- Its own job may have been this one. And nobody closes a conversation in which something was just asked.
    perform from private.enqueue_jobs(array[
      private.flow_turn_job(session.organization_id, session.conversation_id, jsonb_build_object('message_id', asks), 'flow_after:' || asks)
    ]);
    perform private.wake_worker();
  elsif closes then
    conversation := private.end_conversation(conversation, null);
  end if;
  if session.status = 'running' and exists (select from private.flow_messages(session)) then
    return jsonb_build_object('action', 'again', 'reason', 'new_messages');
  end if;
  return private.end_job(held, session.status::text);
end;
$$;
comment on function private.finish_flow_turn(jsonb, jsonb) is 'See public.finish_flow_turn().';
grant execute on function private.finish_flow_turn(jsonb, jsonb) to service_role;

create function public.finish_flow_turn(job jsonb, result jsonb)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.finish_flow_turn(job, result);
end;
$$;
comment on function public.finish_flow_turn(jsonb, jsonb) is
  'For the worker: all that a step comes to, at once: {session_id, session_version, control_epoch, last_message_id, session {current_step, state, status}, outputs [{message_type, content, payload}], actions [{tipo, …}]}. Answers {action: done, reason} (the job has ended), {action: again, reason} (it goes on: there is more to hear, or somebody was faster), or {action: refused, action_index, error, detail}: nothing was done, because that action cannot be. Secret key only. Errors: lease_lost, invalid_outcome, invalid_message.';
grant execute on function public.finish_flow_turn(jsonb, jsonb) to service_role;
