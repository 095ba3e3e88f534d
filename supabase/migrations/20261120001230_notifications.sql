-- Notifications: reminders, confirmations, offers, questions and follow-ups, and what customers answer to them.
--
-- A notification is a row with a time. Bookings make, move and cancel their own. When its time has come (a schedule looks
-- every few seconds, private.enqueue_due_notifications) a job comes for it, and only then it is decided whether it is sent:
-- to somebody who is not blocked and did not opt out, not in quiet hours, not too often, of a booking that is still so.
-- Moving a row makes another version: the job of the old time finds that it has come too early.
--
-- What is sent, and that it was, is one transaction; its message has the id of the notification. Whoever dies in between
-- has sent nothing, and twice is once.
--
-- A tap on a button, or a quotation, names its notification. Other words answer the newest one, while its visit is still to
-- come or its offer open, and only if they can be meant for nothing else: neither a flow nor a person had a question open
-- before it, and since then we have said nothing but what belongs to it (our own "remarcar ou cancelar?" is its question
-- too). Of two that understand the same word none is guessed. All else is for the flow, or for people.
--
-- What is an answer is claimed when it is stored (private.notification_answers) and is no input of a flow; a job of its own
-- answers it, because bookings are locked before customers.
--
-- Every function that looks at the clock takes the moment as an argument.

create type public.notification_type as enum ('reminder', 'confirmation', 'cancellation', 'waiting_list_offer', 'feedback', 'other');
create type public.notification_status as enum ('pending', 'sent', 'failed', 'skipped', 'cancelled');
comment on type public.notification_status is 'skipped: its time came, and there was a reason not to send it.';
create type public.followup_type as enum ('no_reply', 'reactivation', 'post_visit', 'other');
comment on type public.followup_type is 'no_reply is cancelled when the customer writes first.';

-- scheduled_followups -------------------------------------------------------------------------------------------------

create table public.scheduled_followups (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  contact_id uuid not null,
  conversation_id uuid,
  type public.followup_type not null default 'no_reply',
  scheduled_for timestamptz not null,
  template_id uuid,
  message text,
  status public.notification_status not null default 'pending',
  reason text,
  sent_at timestamptz,
  created_by uuid,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint scheduled_followups_pkey primary key (organization_id, id),
  constraint scheduled_followups_contact_id_fkey foreign key (organization_id, contact_id)
    references public.contacts (organization_id, id) on delete cascade,
  constraint scheduled_followups_conversation_id_fkey foreign key (organization_id, conversation_id)
    references public.conversations (organization_id, id) on delete set null (conversation_id),
  constraint scheduled_followups_template_id_fkey foreign key (organization_id, template_id)
    references public.message_templates (organization_id, id) on delete set null (template_id),
  constraint scheduled_followups_created_by_fkey foreign key (organization_id, created_by)
    references public.user_roles (organization_id, user_id) on delete set null (created_by)
);
comment on table public.scheduled_followups is 'What somebody wants to come back to: written once, later. Written through RPCs; its notification sends it.';
comment on column public.scheduled_followups.message is 'In words of its own, with a template''s variables; null: the template, else the default follow-up.';
create index scheduled_followups_contact_id_idx on public.scheduled_followups (organization_id, contact_id);
create index scheduled_followups_conversation_id_idx on public.scheduled_followups (organization_id, conversation_id)
  where conversation_id is not null;
create index scheduled_followups_template_id_idx on public.scheduled_followups (organization_id, template_id) where template_id is not null;
create index scheduled_followups_created_by_idx on public.scheduled_followups (organization_id, created_by) where created_by is not null;

alter table public.scheduled_followups enable row level security;
alter table public.scheduled_followups force row level security;
create policy "Members can read their organization's follow-ups" on public.scheduled_followups
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
revoke all on public.scheduled_followups from public, anon, authenticated, service_role;
grant select on public.scheduled_followups to authenticated;
grant select, insert, update, delete on public.scheduled_followups to service_role;

create trigger scheduled_followups_100_touch_updated_at
  before update on public.scheduled_followups
  for each row execute function private.tg_touch_updated_at();

-- notifications -------------------------------------------------------------------------------------------------------

create table public.notifications (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  contact_id uuid not null,
  booking_id uuid,
  conversation_id uuid,
  followup_id uuid,
  template_id uuid,
  type public.notification_type not null,
  offset_minutes int,
  booking_start_time timestamptz,
  scheduled_for timestamptz not null,
  version int not null default 0,
  status public.notification_status not null default 'pending',
  reason text,
  message text,
  message_id uuid,
  attempts int not null default 0,
  sent_at timestamptz,
  answer text,
  answered_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint notifications_pkey primary key (organization_id, id),
  constraint notifications_contact_id_fkey foreign key (organization_id, contact_id)
    references public.contacts (organization_id, id) on delete cascade,
  constraint notifications_booking_id_fkey foreign key (organization_id, booking_id)
    references public.bookings (organization_id, id) on delete cascade,
  constraint notifications_conversation_id_fkey foreign key (organization_id, conversation_id)
    references public.conversations (organization_id, id) on delete set null (conversation_id),
  constraint notifications_followup_id_fkey foreign key (organization_id, followup_id)
    references public.scheduled_followups (organization_id, id) on delete cascade,
  constraint notifications_template_id_fkey foreign key (organization_id, template_id)
    references public.message_templates (organization_id, id) on delete set null (template_id),
  constraint notifications_message_id_fkey foreign key (organization_id, message_id)
    references public.messages (organization_id, id) on delete set null (message_id),
  constraint notifications_sent_at_check check (status <> 'sent' or sent_at is not null)
);
comment on table public.notifications is 'What is said to a customer without being asked, and when. Written by bookings, conversations, follow-ups and the clock.';
comment on column public.notifications.offset_minutes is 'Which one of the organization''s reminder_offsets a reminder is.';
comment on column public.notifications.booking_start_time is 'The time that is told: an answer to it is no answer to another one.';
comment on column public.notifications.conversation_id is 'Which conversation it is about, else where it was sent: an answer''s score is that conversation''s; a visit''s, only if it has none.';
comment on column public.notifications.version is 'Goes up when it is moved: a job that was made for another time finds nothing to do.';
comment on column public.notifications.reason is 'Why it was not sent: opted_out, blocked, daily_cap, quiet_hours, outside_window, too_late, overtaken (a later one is due as well), …';
comment on column public.notifications.message is 'What was said.';
create unique index notifications_one_pending_per_booking_idx
  on public.notifications (organization_id, booking_id, type, offset_minutes) nulls not distinct
  where status = 'pending' and booking_id is not null;
create unique index notifications_one_feedback_per_booking_idx
  on public.notifications (organization_id, booking_id) where type = 'feedback' and booking_id is not null;
create index notifications_booking_id_idx on public.notifications (organization_id, booking_id, type) where booking_id is not null;
create index notifications_contact_id_idx on public.notifications (organization_id, contact_id, sent_at desc);
comment on index public.notifications_contact_id_idx is 'What a customer was sent today, and what he may be answering.';
create index notifications_scheduled_for_idx on public.notifications (scheduled_for) where status = 'pending';
comment on index public.notifications_scheduled_for_idx is 'What is due: private.enqueue_due_notifications().';
create index notifications_conversation_id_idx on public.notifications (organization_id, conversation_id) where conversation_id is not null;
create index notifications_followup_id_idx on public.notifications (organization_id, followup_id) where followup_id is not null;
create index notifications_template_id_idx on public.notifications (organization_id, template_id) where template_id is not null;
create index notifications_message_id_idx on public.notifications (organization_id, message_id) where message_id is not null;

alter table public.notifications enable row level security;
alter table public.notifications force row level security;
create policy "Members can read their organization's notifications" on public.notifications
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
revoke all on public.notifications from public, anon, authenticated, service_role;
grant select on public.notifications to authenticated;
grant select, insert, update, delete on public.notifications to service_role;

create trigger notifications_100_touch_updated_at
  before update on public.notifications
  for each row execute function private.tg_touch_updated_at();

create function private.tg_notifications__count_moves()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  new.version := greatest(new.version, old.version + 1);
  return new;
end;
$$;
comment on function private.tg_notifications__count_moves() is
  'Trigger: whoever moves a notification, or has it sent after all, and however: the job of before is not its job.';
create trigger notifications_500_count_moves
  before update of scheduled_for, status on public.notifications
  for each row when (new.scheduled_for <> old.scheduled_for or new.status = 'pending' and old.status <> 'pending')
  execute function private.tg_notifications__count_moves();

create function private.tg_notifications__tell_followup()
returns trigger
language plpgsql
volatile
security definer -- whoever ends a notification need not be allowed to write follow-ups
set search_path = ''
as $$
begin
  update public.scheduled_followups f
  set status = new.status, reason = new.reason, sent_at = new.sent_at, scheduled_for = new.scheduled_for
  where f.organization_id = new.organization_id and f.id = new.followup_id;
  return null;
end;
$$;
comment on function private.tg_notifications__tell_followup() is 'Trigger: what becomes of its notification becomes of a follow-up.';
create trigger notifications_900_tell_followup
  after update of status, scheduled_for on public.notifications
  for each row when (new.followup_id is not null) execute function private.tg_notifications__tell_followup();

-- private.notification_answers ----------------------------------------------------------------------------------------

create table private.notification_answers (
  organization_id uuid not null,
  message_id uuid not null,
  notification_id uuid,
  answer text not null,
  outcome text,
  answered_at timestamptz,
  created_at timestamptz not null default now(),
  constraint notification_answers_pkey primary key (organization_id, message_id),
  constraint notification_answers_message_id_fkey foreign key (organization_id, message_id)
    references public.messages (organization_id, id) on delete cascade,
  constraint notification_answers_notification_id_fkey foreign key (organization_id, notification_id)
    references public.notifications (organization_id, id) on delete cascade
);
comment on table private.notification_answers is
  'Messages that answer a notification, or say that no more are wanted: they are answered here and by no flow.';
create index notification_answers_notification_id_idx on private.notification_answers (organization_id, notification_id)
  where notification_id is not null;

alter table private.notification_answers enable row level security;
alter table private.notification_answers force row level security;
revoke all on private.notification_answers from public, anon, authenticated, service_role;

-- When --------------------------------------------------------------------------------------------------------------

create function private.reminder_time(start_time timestamptz, offset_minutes int, zone text)
returns timestamptz
language plpgsql
stable
set search_path = ''
as $$
begin
  if offset_minutes % 1440 = 0 then
    -- "A day before" is at the same hour, though that day had 23 hours or 25.
    return (start_time at time zone zone - make_interval(days => offset_minutes / 1440)) at time zone zone;
  end if;
  return start_time - make_interval(mins => offset_minutes);
end;
$$;
comment on function private.reminder_time(timestamptz, int, text) is
  'When a reminder is due. Whole days are local ones; anything else is time that passes.';

create function private.end_of_quiet_hours(quiet_hours jsonb, zone text, at timestamptz)
returns timestamptz
language plpgsql
stable
set search_path = ''
as $$
declare
  starts_at constant time := (quiet_hours ->> 'starts_at')::time;
  ends_at constant time := (quiet_hours ->> 'ends_at')::time;
  local_time constant timestamp := at at time zone zone;
  ends timestamptz;
begin
  if (
    case
      when starts_at < ends_at then local_time::time >= starts_at and local_time::time < ends_at
      -- They pass midnight.
      else local_time::time >= starts_at or local_time::time < ends_at
    end
  ) is not true then
    return null;
  end if;
  ends := (local_time::date + case when local_time::time >= ends_at then 1 else 0 end + ends_at) at time zone zone;
  -- An hour that comes twice has two such moments.
  return case when ends > at then ends else ends + interval '1 hour' end;
end;
$$;
comment on function private.end_of_quiet_hours(jsonb, text, timestamptz) is
  'When the quiet hours end in which a moment falls; null when it falls into none.';

create function private.enqueue_notifications(due public.notifications[])
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  enqueued bigint;
begin
  select count(*) into enqueued
  from private.enqueue_jobs(array(
    select row(
      n.organization_id, 'send_notification', jsonb_build_object('notification_id', n.id), 0, null, null,
      'notification:' || n.id || ':' || n.version, 8
    )::private.new_job
    from unnest(due) n
  ));
  if enqueued > 0 then
    perform private.wake_worker();
  end if;
  return enqueued;
end;
$$;
comment on function private.enqueue_notifications(public.notifications[]) is 'A job for each, once for each version; returns how many are new.';

create function private.enqueue_due_notifications(at timestamptz default now(), batch_size int default 500)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.enqueue_notifications(array(
    select n
    from public.notifications n
    where n.status = 'pending'
      and n.scheduled_for <= at
      and not exists (
        select
        from public.message_queue q
        where q.organization_id = n.organization_id and q.idempotency_key = 'notification:' || n.id || ':' || n.version
      )
    order by n.scheduled_for
    limit batch_size
  ));
end;
$$;
comment on function private.enqueue_due_notifications(timestamptz, int) is 'A job for each notification whose time has come; returns how many.';

create function private.add_notification(wanted public.notifications)
returns public.notifications
language plpgsql
volatile
set search_path = ''
as $$
declare
  notification public.notifications;
begin
  insert into public.notifications as n (
    organization_id, contact_id, booking_id, conversation_id, followup_id, template_id, type, offset_minutes, booking_start_time,
    scheduled_for
  )
  values (
    wanted.organization_id, wanted.contact_id, wanted.booking_id, wanted.conversation_id, wanted.followup_id, wanted.template_id,
    wanted.type, wanted.offset_minutes, wanted.booking_start_time, wanted.scheduled_for
  )
  -- It waits already: for another time now.
  on conflict (organization_id, booking_id, type, offset_minutes) where status = 'pending' and booking_id is not null do update set
    contact_id = excluded.contact_id,
    scheduled_for = excluded.scheduled_for,
    booking_start_time = excluded.booking_start_time,
    version = n.version + 1
  returning n.* into notification;
  if notification.scheduled_for <= now() then
    perform private.enqueue_notifications(array[notification]);
  end if;
  return notification;
end;
$$;
comment on function private.add_notification(public.notifications) is
  'Schedules a notification, or moves the one that waits for the same; one that is due has its job at once.';

create function private.cancel_notifications(notification_ids uuid[], organization_id uuid, reason text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  withdrawn public.messages;
begin
  if coalesce(cardinality(notification_ids), 0) = 0 then
    return;
  end if;
  update public.notifications n
  set status = 'cancelled', reason = cancel_notifications.reason, version = n.version + 1
  where n.organization_id = cancel_notifications.organization_id and n.id = any (notification_ids) and n.status = 'pending';
  -- What was said, but did not leave the house yet.
  for withdrawn in
    select m.*
    from public.notifications n
    join public.messages m on m.organization_id = n.organization_id and m.id = n.message_id
    where n.organization_id = cancel_notifications.organization_id
      and n.id = any (notification_ids)
      and n.status = 'sent'
      and m.status = 'queued'
      and m.whatsapp_message_id is null
    order by m.id
    for no key update of m
  loop
    continue when exists (
      select
      from private.unanswered_sends u
      where u.organization_id = withdrawn.organization_id and u.message_id = withdrawn.id
    );
    perform private.fail_message(withdrawn, 'superseded', format('Withdrawn before it was sent: %s', cancel_notifications.reason));
    update public.notifications n
    set status = 'cancelled', reason = cancel_notifications.reason
    where n.organization_id = withdrawn.organization_id and n.message_id = withdrawn.id;
  end loop;
end;
$$;
comment on function private.cancel_notifications(uuid[], uuid, text) is
  'These are not sent any more; one whose message is queued still is taken back, unless the provider is being called for it.';

create function private.withdraw_notifications(organization_id uuid, contact_id uuid, reason text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  -- Whatever somebody else holds at this moment is asked again when it is sent: nobody waits here, with a customer locked.
  perform private.cancel_notifications(
    array(
      select n.id
      from public.notifications n
      join public.messages m on m.organization_id = n.organization_id and m.id = n.message_id
      where n.organization_id = withdraw_notifications.organization_id
        and n.contact_id = withdraw_notifications.contact_id
        and n.status = 'sent'
        and m.status = 'queued'
        and m.whatsapp_message_id is null
      for no key update of m skip locked
    ),
    organization_id, reason);
  perform private.cancel_notifications(
    array(
      select n.id
      from public.notifications n
      where n.organization_id = withdraw_notifications.organization_id
        and n.contact_id = withdraw_notifications.contact_id
        and n.status = 'pending'
        -- Those find at their time whether he has come back meanwhile.
        and n.type <> 'reminder'
      for no key update skip locked
    ),
    organization_id, reason);
end;
$$;
comment on function private.withdraw_notifications(uuid, uuid, text) is
  'What waits for a customer is not sent, nor what is queued; reminders are asked again at their time. The contact is locked by the caller.';

-- Bookings ------------------------------------------------------------------------------------------------------------

create function private.customer_is_told(contact_id uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform set_config('balcao.customer_is_told', contact_id::text, true);
end;
$$;
comment on function private.customer_is_told(uuid) is
  'In this transaction the customer did it himself, and is being answered: no notification tells him once more.';

create function private.tell_of_booking(booking public.bookings, type public.notification_type)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  wanted public.notifications;
begin
  if booking.start_time > now()
    -- nullif: once set in a session, a setting of its own is '' in the transactions after it.
    and nullif(current_setting('balcao.customer_is_told', true), '') is distinct from booking.contact_id::text
    and exists (
      select
      from public.organization_settings s
      where s.organization_id = booking.organization_id and s.sends_confirmations
    )
    -- With what, otherwise?
    and exists (
      select
      from private.instance_secrets s
      where s.organization_id = booking.organization_id and s.access_token is not null
    )
  then
    wanted.organization_id := booking.organization_id;
    wanted.contact_id := booking.contact_id;
    wanted.booking_id := booking.id;
    wanted.type := tell_of_booking.type;
    wanted.booking_start_time := booking.start_time;
    wanted.scheduled_for := now();
    perform private.add_notification(wanted);
  end if;
end;
$$;
comment on function private.tell_of_booking(public.bookings, public.notification_type) is
  'Tells the customer that he has, or has lost, a booking, unless it was him.';

create function private.schedule_reminders(booking public.bookings)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  zone constant text := private.zone_of(booking.organization_id, booking.location_id);
  wanted public.notifications;
  offsets int[];
begin
  select array_agg(o.minutes order by o.minutes) into offsets
  from public.organization_settings s
  cross join lateral (select distinct unnest(s.reminder_offsets) as minutes) o
  where s.organization_id = booking.organization_id
    and private.reminder_time(booking.start_time, o.minutes, zone) > now();
  perform private.cancel_notifications(
    array(
      select n.id
      from public.notifications n
      where n.organization_id = booking.organization_id
        and n.booking_id = booking.id
        and n.type in ('reminder', 'confirmation')
        and (n.status = 'sent' or n.status = 'pending' and (n.type <> 'reminder' or n.offset_minutes = any (offsets)) is not true)
    ),
    booking.organization_id, 'rescheduled');
  wanted.organization_id := booking.organization_id;
  wanted.contact_id := booking.contact_id;
  wanted.booking_id := booking.id;
  wanted.type := 'reminder';
  wanted.booking_start_time := booking.start_time;
  for n in 1 .. coalesce(cardinality(offsets), 0) loop
    wanted.offset_minutes := offsets[n];
    wanted.scheduled_for := private.reminder_time(booking.start_time, offsets[n], zone);
    perform private.add_notification(wanted);
  end loop;
end;
$$;
comment on function private.schedule_reminders(public.bookings) is
  'The reminders of a booking that is made or moved: those that wait are moved, those whose time is over are not made up for.';

create function private.tg_bookings__schedule_notifications()
returns trigger
language plpgsql
volatile
security definer -- whoever books need not be allowed to write notifications
set search_path = ''
as $$
declare
  change constant text := private.booking_change(case when tg_op = 'UPDATE' then old end, new);
  wanted public.notifications;
begin
  case
    when change in ('created', 'rescheduled') and new.status in ('scheduled', 'confirmed') then
      perform private.schedule_reminders(new);
      -- A bot that books says so itself.
      if change = 'rescheduled' or new.created_by not in ('flow', 'ai') then
        perform private.tell_of_booking(new, 'confirmation');
      end if;
      if change = 'created' then
        perform private.count_conversions(new.organization_id, new.contact_id);
      end if;
    when change in ('cancelled', 'completed', 'no_show', 'released') then
      perform private.cancel_notifications(
        array(
          select n.id
          from public.notifications n
          where n.organization_id = new.organization_id
            and n.booking_id = new.id
            and n.status in ('pending', 'sent')
            and n.type in ('reminder', 'confirmation', 'waiting_list_offer')
        ),
        new.organization_id, 'booking_' || new.status);
      if change = 'cancelled' and tg_op = 'UPDATE' then
        perform private.tell_of_booking(new, 'cancellation');
      elsif change = 'completed' and exists (
        select
        from public.organization_settings s
        where s.organization_id = new.organization_id and s.asks_feedback
      ) and not exists (
        select
        from public.notifications n
        where n.organization_id = new.organization_id and n.booking_id = new.id and n.type = 'feedback'
      ) and new.start_time > now() - interval '7 days' then
        wanted.organization_id := new.organization_id;
        wanted.contact_id := new.contact_id;
        wanted.booking_id := new.id;
        wanted.type := 'feedback';
        wanted.booking_start_time := new.start_time;
        wanted.scheduled_for := greatest(now(), new.end_time) + make_interval(mins => (
          select s.feedback_delay_minutes from public.organization_settings s where s.organization_id = new.organization_id
        ));
        perform private.add_notification(wanted);
      end if;
    else null;
  end case;
  return null;
end;
$$;
comment on function private.tg_bookings__schedule_notifications() is
  'Trigger: a booking''s notifications are made, moved and cancelled with it; after the visit there is one question.';
create trigger bookings_900_schedule_notifications
  after insert or update on public.bookings
  for each row execute function private.tg_bookings__schedule_notifications();

create function private.tg_waiting_list__notify()
returns trigger
language plpgsql
volatile
security definer -- whoever frees a slot need not be allowed to write notifications
set search_path = ''
as $$
declare
  wanted public.notifications;
begin
  -- Where no number can send, somebody else asks him.
  if not exists (
    select
    from private.instance_secrets s
    where s.organization_id = new.organization_id and s.access_token is not null
  ) then
    return null;
  end if;
  wanted.organization_id := new.organization_id;
  wanted.contact_id := new.contact_id;
  wanted.booking_id := new.offered_booking_id;
  wanted.type := 'waiting_list_offer';
  wanted.booking_start_time := (
    select b.start_time from public.bookings b where b.organization_id = new.organization_id and b.id = new.offered_booking_id
  );
  wanted.scheduled_for := now();
  perform private.add_notification(wanted);
  return null;
end;
$$;
comment on function private.tg_waiting_list__notify() is 'Trigger: who is offered a slot hears of it at once. If he cannot be told, private.expire_holds() asks the next one.';
create trigger waiting_list_900_notify
  after update of status on public.waiting_list
  for each row when (new.status = 'offered' and old.status <> 'offered')
  execute function private.tg_waiting_list__notify();

-- Conversations -------------------------------------------------------------------------------------------------------

create function private.is_only_answers(conversation_id uuid, organization_id uuid)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return not exists (
    select
    from public.messages m
    where m.conversation_id = is_only_answers.conversation_id
      and m.organization_id = is_only_answers.organization_id
      and (m.sender in ('contact', 'human', 'bot', 'ai'))
      and m.message_type <> 'reaction'
      and not exists (
        select
        from private.notification_answers a
        where a.organization_id = m.organization_id and a.message_id = m.id
      )
  );
end;
$$;
comment on function private.is_only_answers(uuid, uuid) is 'Whether nothing was said in a conversation but notifications and what was answered to them.';

create function private.tg_conversations__ask_feedback()
returns trigger
language plpgsql
volatile
security definer -- whoever closes a conversation need not be allowed to write notifications
set search_path = ''
as $$
declare
  wanted public.notifications;
begin
  if new.satisfaction_score is not null
    or new.last_inbound_at is null
    or private.is_only_answers(new.id, new.organization_id)
    -- One question a day is enough: about this conversation, or the visit that it was about.
    or exists (
      select
      from public.notifications n
      where n.organization_id = new.organization_id
        and n.contact_id = new.contact_id
        and n.type = 'feedback'
        and n.status in ('pending', 'sent')
        and (n.conversation_id = new.id or n.created_at > now() - interval '24 hours')
    )
    or exists (
      select
      from public.contacts p
      where p.organization_id = new.organization_id and p.id = new.contact_id and p.merged_into_id is not null
    )
  then
    return null;
  end if;
  select new.organization_id, now() + make_interval(mins => s.feedback_delay_minutes)
  into wanted.organization_id, wanted.scheduled_for
  from public.organization_settings s
  where s.organization_id = new.organization_id and s.asks_feedback;
  if found then
    wanted.contact_id := new.contact_id;
    wanted.conversation_id := new.id;
    wanted.type := 'feedback';
    perform private.add_notification(wanted);
  end if;
  return null;
end;
$$;
comment on function private.tg_conversations__ask_feedback() is 'Trigger: when a conversation is closed its customer is asked, once, how it was.';
create trigger conversations_900_ask_feedback
  after update of status on public.conversations
  for each row when (old.status <> 'closed' and new.status = 'closed')
  execute function private.tg_conversations__ask_feedback();

-- Follow-ups ----------------------------------------------------------------------------------------------------------

create function private.schedule_followup(
  contact_id uuid,
  scheduled_for timestamptz,
  type public.followup_type,
  message text,
  template_id uuid,
  conversation_id uuid,
  organization_id uuid
)
returns public.scheduled_followups
language plpgsql
volatile
security definer -- follow-ups are written through functions only
set search_path = ''
as $$
declare
  person uuid;
  followup public.scheduled_followups;
  wanted public.notifications;
begin
  perform private.require_role(organization_id, 'attendant');
  if (scheduled_for > now() - interval '1 minute' and scheduled_for < now() + interval '1 year') is not true then
    perform private.raise_error('BL705', 'invalid_followup', 'A follow-up is due within the next year',
      jsonb_build_object('reason', 'scheduled_for', 'scheduled_for', scheduled_for));
  elsif message is not null and template_id is not null then
    perform private.raise_error('BL705', 'invalid_followup', 'Either a message, or a template', '{"reason": "message_and_template"}');
  elsif message is not null then
    perform private.require_template('follow_up', message);
  elsif template_id is not null and not exists (
    select
    from public.message_templates t
    where t.organization_id = schedule_followup.organization_id
      and t.id = schedule_followup.template_id
      and t.active
      -- The others speak of a booking.
      and t.category in ('follow_up', 'marketing', 'greeting')
  ) then
    perform private.raise_error('BL702', 'template_not_found',
      'This organization has no such active template for a follow-up (follow_up, marketing or greeting)',
      jsonb_build_object('template_id', template_id));
  end if;
  person := private.surviving_contact(organization_id, contact_id);
  if exists (
    select
    from public.contacts p
    where p.organization_id = schedule_followup.organization_id
      and p.id = person
      and (p.opted_out_at is not null or p.status = 'blocked')
  ) then
    perform private.raise_error('BL705', 'invalid_followup', 'This customer wants no such messages, or is blocked', '{"reason": "opted_out"}');
  elsif conversation_id is not null and not exists (
    select
    from public.conversations v
    where v.organization_id = schedule_followup.organization_id
      and v.id = schedule_followup.conversation_id
      and v.contact_id = person
  ) then
    perform private.raise_error('BL202', 'conversation_not_found', 'This customer has no such conversation');
  end if;
  insert into public.scheduled_followups as f (
    organization_id, contact_id, conversation_id, type, scheduled_for, template_id, message, created_by
  )
  values (
    schedule_followup.organization_id, person, schedule_followup.conversation_id, coalesce(schedule_followup.type, 'no_reply'),
    schedule_followup.scheduled_for, schedule_followup.template_id, schedule_followup.message,
    case when not private.is_service() then (select auth.uid()) end
  )
  returning f.* into followup;
  wanted.organization_id := followup.organization_id;
  wanted.contact_id := followup.contact_id;
  wanted.conversation_id := followup.conversation_id;
  wanted.followup_id := followup.id;
  wanted.template_id := followup.template_id;
  wanted.type := 'other';
  wanted.scheduled_for := followup.scheduled_for;
  perform private.add_notification(wanted);
  return followup;
end;
$$;
comment on function private.schedule_followup(uuid, timestamptz, public.followup_type, text, uuid, uuid, uuid) is 'See public.schedule_followup().';
grant execute on function private.schedule_followup(uuid, timestamptz, public.followup_type, text, uuid, uuid, uuid) to authenticated, service_role;

create function public.schedule_followup(
  contact_id uuid,
  scheduled_for timestamptz,
  type public.followup_type default 'no_reply',
  message text default null,
  template_id uuid default null,
  conversation_id uuid default null,
  organization_id uuid default public.user_organization_id()
)
returns public.scheduled_followups
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.schedule_followup(contact_id, scheduled_for, type, message, template_id, conversation_id, organization_id);
end;
$$;
comment on function public.schedule_followup(uuid, timestamptz, public.followup_type, text, uuid, uuid, uuid) is
  'Writes to a customer later, in words of the caller''s own (with a template''s variables), of a template, or of the default follow-up; never in quiet hours. A no_reply is cancelled when the customer writes first. Attendants and up. Errors: not_allowed, invalid_followup, invalid_template, template_not_found, contact_not_found, conversation_not_found.';
grant execute on function public.schedule_followup(uuid, timestamptz, public.followup_type, text, uuid, uuid, uuid) to authenticated, service_role;

create function private.cancel_followup(id uuid, organization_id uuid)
returns public.scheduled_followups
language plpgsql
volatile
security definer -- follow-ups are written through functions only
set search_path = ''
as $$
declare
  followup public.scheduled_followups;
begin
  perform private.require_role(organization_id, 'attendant');
  perform private.cancel_notifications(
    array(
      select n.id
      from public.notifications n
      where n.organization_id = cancel_followup.organization_id and n.followup_id = cancel_followup.id
    ),
    organization_id, 'cancelled');
  select f.* into followup
  from public.scheduled_followups f
  where f.organization_id = cancel_followup.organization_id and f.id = cancel_followup.id;
  if not found then
    perform private.raise_error('BL703', 'notification_not_found', 'This organization has no such follow-up');
  end if;
  return followup;
end;
$$;
comment on function private.cancel_followup(uuid, uuid) is 'See public.cancel_followup().';
grant execute on function private.cancel_followup(uuid, uuid) to authenticated, service_role;

create function public.cancel_followup(id uuid, organization_id uuid default public.user_organization_id())
returns public.scheduled_followups
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.cancel_followup(id, organization_id);
end;
$$;
comment on function public.cancel_followup(uuid, uuid) is
  'A follow-up is not sent after all; one that was stays as it is. Twice is once. Attendants and up. Errors: not_allowed, notification_not_found.';
grant execute on function public.cancel_followup(uuid, uuid) to authenticated, service_role;

create function private.cancel_notification(id uuid, organization_id uuid)
returns public.notifications
language plpgsql
volatile
security definer -- notifications are written through functions only
set search_path = ''
as $$
declare
  notification public.notifications;
begin
  perform private.require_role(organization_id, 'attendant');
  perform private.cancel_notifications(array[id], organization_id, 'cancelled');
  select n.* into notification
  from public.notifications n
  where n.organization_id = cancel_notification.organization_id and n.id = cancel_notification.id;
  if not found then
    perform private.raise_error('BL703', 'notification_not_found', 'This organization has no such notification');
  end if;
  return notification;
end;
$$;
comment on function private.cancel_notification(uuid, uuid) is 'See public.cancel_notification().';
grant execute on function private.cancel_notification(uuid, uuid) to authenticated, service_role;

create function public.cancel_notification(id uuid, organization_id uuid default public.user_organization_id())
returns public.notifications
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.cancel_notification(id, organization_id);
end;
$$;
comment on function public.cancel_notification(uuid, uuid) is
  'A reminder, offer or question is not sent after all; one that was stays as it is. Twice is once. Attendants and up. Errors: not_allowed, notification_not_found.';
grant execute on function public.cancel_notification(uuid, uuid) to authenticated, service_role;

-- What is said --------------------------------------------------------------------------------------------------------

create function private.notification_values(notification public.notifications, at timestamptz)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return (
    select jsonb_build_object(
      'nome', left(substring(coalesce(p.name, p.profile_name) from '^\s*(\S+)'), 60),
      'nome_completo', left(btrim(coalesce(p.name, p.profile_name)), 120),
      'organizacao', o.name,
      'servico', s.name,
      'profissional', f.name,
      'local', l.name,
      'pet', a.name,
      'data', private.spoken_date((told.start_time at time zone z.zone)::date),
      'hora', private.spoken_hour(told.start_time at time zone z.zone),
      'quando', private.spoken_moment(told.start_time, z.zone, at),
      'expira', case
        when (b.hold_expires_at at time zone z.zone)::date = (at at time zone z.zone)::date
          then private.spoken_hour(b.hold_expires_at at time zone z.zone)
        else private.spoken_moment(b.hold_expires_at, z.zone, at)
      end)
    from public.organizations o
    join public.contacts p on p.organization_id = o.id and p.id = notification.contact_id
    left join public.bookings b on b.organization_id = o.id and b.id = notification.booking_id
    cross join lateral (select coalesce(b.start_time, notification.booking_start_time) as start_time) told
    cross join lateral (select private.zone_of(o.id, b.location_id) as zone) z
    left join public.services s on s.organization_id = o.id and s.id = b.service_id
    left join public.professionals f on f.organization_id = o.id and f.id = b.professional_id
    left join public.locations l on l.organization_id = o.id and l.id = b.location_id
    left join public.pets a on a.organization_id = o.id and a.id = b.pet_id
    where o.id = notification.organization_id
  );
end;
$$;
comment on function private.notification_values(public.notifications, timestamptz) is 'What a notification can say: the values of a template''s variables.';

create function private.notification_options(notification public.notifications)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  id constant text := 'notification:' || notification.id || ':';
begin
  return case notification.type
    when 'reminder' then jsonb_build_object('type', 'button', 'buttons', jsonb_build_array(
      jsonb_build_object('id', id || 'confirm', 'title', 'Confirmar'),
      jsonb_build_object('id', id || 'reschedule', 'title', 'Remarcar'),
      jsonb_build_object('id', id || 'cancel', 'title', 'Cancelar')))
    when 'waiting_list_offer' then jsonb_build_object('type', 'button', 'buttons', jsonb_build_array(
      jsonb_build_object('id', id || 'accept', 'title', 'Quero esse horário'),
      jsonb_build_object('id', id || 'decline', 'title', 'Não posso')))
    when 'feedback' then jsonb_build_object('type', 'list', 'button', 'Dar uma nota', 'sections', jsonb_build_array(
      jsonb_build_object('rows', (
        select jsonb_agg(jsonb_build_object('id', id || score, 'title', score || ' - ' || word) order by score desc)
        from unnest('{Ruim,Regular,Bom,Muito bom,Ótimo}'::text[]) with ordinality w (word, score)
      ))))
  end;
end;
$$;
comment on function private.notification_options(public.notifications) is 'What can be tapped under a notification: the payload of an interactive message; null when it asks nothing.';

create type private.notification_content as (message_type public.message_type, content text, payload jsonb, refused text);

create function private.notification_content(notification public.notifications, window_open boolean, at timestamptz)
returns private.notification_content
language plpgsql
volatile
set search_path = ''
as $$
declare
  category constant public.message_category :=
    case notification.type when 'other' then 'follow_up' else notification.type::text end::public.message_category;
  template constant public.message_templates := private.template_for(notification.organization_id, category, notification.template_id);
  said constant jsonb := private.notification_values(notification, at);
  options constant jsonb := private.notification_options(notification);
  components jsonb := '[]'::jsonb;
  content text;
begin
  if not window_open then
    if (template.provider_template_status = 'approved') is not true then
      return row(null, null, null, 'outside_window')::private.notification_content;
    end if;
    content := private.render_template(template.template, said);
    if cardinality(template.variables) > 0 then
      components := jsonb_build_array(jsonb_build_object('type', 'body', 'parameters', (
        select jsonb_agg(
          -- WhatsApp wants them in one line.
          jsonb_build_object('type', 'text', 'text', regexp_replace(private.render_template('{{' || v.name || '}}', said), '\s+', ' ', 'g'))
          order by v.n)
        from unnest(template.variables) with ordinality v (name, n)
      )));
    end if;
    if template.provider_template_has_buttons then
      components := components || coalesce((
        select jsonb_agg(
          jsonb_build_object(
            'type', 'button', 'sub_type', 'quick_reply', 'index', (b.n - 1)::text,
            'parameters', jsonb_build_array(jsonb_build_object('type', 'payload', 'payload', b.button ->> 'id')))
          order by b.n)
        from jsonb_array_elements(options -> 'buttons') with ordinality b (button, n)
      ), '[]');
    end if;
    return row('template', content, jsonb_build_object(
      'name', template.provider_template_name, 'language', template.language, 'components', components), null)::private.notification_content;
  end if;
  content := left(
    private.render_template(
      coalesce(
        (
          select f.message
          from public.scheduled_followups f
          where f.organization_id = notification.organization_id and f.id = notification.followup_id
        ),
        case when template.id is not null then private.tested_template(template, notification.contact_id, at) end,
        private.default_template(category)),
      said),
    1024);
  return row(case when options is null then 'text' else 'interactive' end, content, options, null)::private.notification_content;
end;
$$;
comment on function private.notification_content(public.notifications, boolean, timestamptz) is
  'What a notification says, as a message: in the 24 hours after the customer wrote, in the organization''s words or ours; after them as the provider''s template, if there is an approved one, else refused.';

-- Sending -------------------------------------------------------------------------------------------------------------

create function private.conversation_to_notify(organization_id uuid, contact_id uuid, conversation_id uuid)
returns public.conversations
language plpgsql
volatile
set search_path = ''
as $$
declare
  conversation public.conversations;
begin
  select v.* into conversation
  from public.conversations v
  join public.whatsapp_instances i on i.organization_id = v.organization_id and i.id = v.instance_id
  join private.instance_secrets s on s.organization_id = i.organization_id and s.instance_id = i.id and s.access_token is not null
  where v.organization_id = conversation_to_notify.organization_id
    and v.contact_id = conversation_to_notify.contact_id
    and i.status <> 'disconnected'
    and i.sending_stopped_at is null
  order by v.is_open desc, v.id = conversation_to_notify.conversation_id desc nulls last, v.last_inbound_at desc nulls last, v.id desc
  limit 1
  for no key update of v;
  if found then
    return conversation;
  end if;
  -- Somebody who never wrote: closed, so that no inbox fills with reminders. His answer opens one.
  insert into public.conversations as v (organization_id, contact_id, instance_id, whatsapp_chat_id, status, closed_at)
  select p.organization_id, p.id, i.id, coalesce(known.value, ltrim(p.phone_number, '+')), 'closed', now()
  from public.contacts p
  join public.whatsapp_instances i
    on i.organization_id = p.organization_id and i.status <> 'disconnected' and i.sending_stopped_at is null
  join private.instance_secrets s on s.organization_id = i.organization_id and s.instance_id = i.id and s.access_token is not null
  left join lateral (
    select y.value
    from public.contact_identities y
    where y.organization_id = p.organization_id and y.contact_id = p.id and y.instance_id = i.id and y.kind = 'wa_id'
    order by y.id desc
    limit 1
  ) known on true
  where p.organization_id = conversation_to_notify.organization_id
    and p.id = conversation_to_notify.contact_id
    and coalesce(known.value, p.phone_number) is not null
  order by known.value is null, i.status <> 'connected', i.id
  limit 1
  returning v.* into conversation;
  return conversation;
end;
$$;
comment on function private.conversation_to_notify(uuid, uuid, uuid) is
  'Where a customer is written to: the open conversation, else the one that it is about, else the last one; null when he cannot be reached. The contact is locked by the caller.';

create function private.say_as_system(
  conversation public.conversations,
  message_type public.message_type,
  content text,
  payload jsonb,
  client_message_id text
)
returns public.messages
language plpgsql
volatile
set search_path = ''
as $$
declare
  message public.messages := private.message_of_client(conversation.organization_id, conversation.id, client_message_id);
begin
  if message.id is null then
    -- A closed conversation stays closed: what is said by the clock opens nothing.
    conversation.is_open := true;
    message := private.queue_message(conversation, 'system', null, null, message_type, content, payload, null, client_message_id);
  end if;
  return message;
end;
$$;
comment on function private.say_as_system(public.conversations, public.message_type, text, jsonb, text) is
  'Queues what is said whoever is in control, in a closed conversation too. The contact and the conversation are locked by the caller.';

create function private.why_not_any_more(notification public.notifications, at timestamptz)
returns text
language plpgsql
stable
set search_path = ''
as $$
declare
  contact public.contacts;
  booking public.bookings;
begin
  select p.* into contact
  from public.contacts p
  where p.organization_id = notification.organization_id and p.id = notification.contact_id;
  select b.* into booking
  from public.bookings b
  where b.organization_id = notification.organization_id and b.id = notification.booking_id;

  if contact.status = 'blocked' then
    return 'blocked';
  elsif contact.opted_out_at is not null then
    return 'opted_out';
  elsif not exists (
    select from public.organizations o where o.id = notification.organization_id and o.is_active
  ) then
    return 'organization_closed';
  end if;
  case notification.type
    when 'reminder', 'confirmation' then
      if booking.status not in ('scheduled', 'confirmed') then
        return 'booking_' || booking.status;
      elsif booking.start_time <> notification.booking_start_time then
        return 'rescheduled';
      elsif booking.start_time <= at then
        return 'too_late';
      elsif exists (
        select
        from public.notifications later
        where later.organization_id = notification.organization_id
          and later.booking_id = notification.booking_id
          and later.type = 'reminder'
          and later.booking_start_time = notification.booking_start_time
          and later.status in ('pending', 'sent')
          and later.scheduled_for <= at
          -- One that was sent before, of another time, may have told this one since, when it was answered.
          and (later.status = 'pending' or later.scheduled_for >= notification.scheduled_for)
          and (notification.type = 'confirmation' or later.offset_minutes < notification.offset_minutes)
      ) then
        return 'overtaken';
      end if;
    when 'waiting_list_offer' then
      if booking.status <> 'hold' or not booking.is_offer or booking.hold_expires_at <= at then
        return 'offer_over';
      end if;
    when 'cancellation' then
      if booking.start_time <= at then
        return 'too_late';
      end if;
    when 'feedback' then
      if booking.id is not null and booking.status <> 'completed' then
        return 'booking_' || booking.status;
      elsif notification.created_at < at - interval '7 days' then
        return 'too_late';
      end if;
    else null;
  end case;
  return null;
end;
$$;
comment on function private.why_not_any_more(public.notifications, timestamptz) is
  'Why a notification may not be sent now, though it was to be: asked when it is due, and again when its message goes out; null when it may be.';

create function private.why_not_notify(notification public.notifications, at timestamptz)
returns text
language plpgsql
stable
set search_path = ''
as $$
declare
  refused constant text := private.why_not_any_more(notification, at);
  zone text;
begin
  if refused is not null then
    return refused;
  elsif notification.type = 'feedback' and exists (
    select
    from public.conversations v
    where v.organization_id = notification.organization_id
      and v.id = notification.conversation_id
      and (v.is_open or v.satisfaction_score is not null)
  ) then
    return 'not_asked_any_more';
  end if;
  zone := private.zone_of(notification.organization_id, (
    select b.location_id
    from public.bookings b
    where b.organization_id = notification.organization_id and b.id = notification.booking_id
  ));
  if (
    select count(*)
    from public.notifications n
    where n.organization_id = notification.organization_id
      and n.contact_id = notification.contact_id
      and n.sent_at >= date_trunc('day', at at time zone zone) at time zone zone
      and n.sent_at < (date_trunc('day', at at time zone zone) + interval '1 day') at time zone zone
      and n.id <> notification.id
  ) >= (
    select s.notification_daily_cap
    from public.organization_settings s
    where s.organization_id = notification.organization_id
  ) then
    return 'daily_cap';
  end if;
  return null;
end;
$$;
comment on function private.why_not_notify(public.notifications, timestamptz) is 'Why a notification that is due is not sent; null when it may be.';

create type private.quiet_time as (until timestamptz, is_too_late boolean);

create function private.quiet_time(notification public.notifications, at timestamptz)
returns private.quiet_time
language plpgsql
stable
set search_path = ''
as $$
declare
  quiet private.quiet_time;
begin
  select
    q.until,
    q.until >= case
      when notification.type = 'waiting_list_offer' then b.hold_expires_at
      when notification.type <> 'feedback' then b.start_time
    end
  into quiet
  from public.organization_settings s
  left join public.bookings b on b.organization_id = s.organization_id and b.id = notification.booking_id
  cross join lateral private.end_of_quiet_hours(s.quiet_hours, private.zone_of(s.organization_id, b.location_id), at) q (until)
  where s.organization_id = notification.organization_id;
  -- An offer that would be over by the morning is made at night.
  return case when not (quiet.is_too_late is true and notification.type = 'waiting_list_offer') then quiet end;
end;
$$;
comment on function private.quiet_time(public.notifications, timestamptz) is
  'Until when a notification is put off, and whether that is too late for it; until is null when it may be sent now.';

create function private.send_notification(job jsonb, at timestamptz default now())
returns jsonb
language plpgsql
volatile
security definer -- writes notifications and messages, and ends jobs
set search_path = ''
as $$
declare
  held constant public.message_queue := private.hold_job(job);
  notification public.notifications;
  conversation public.conversations;
  of_contact uuid;
  refused text;
  quiet private.quiet_time;
  window_open boolean;
  content private.notification_content;
  message public.messages;
begin
  -- The contact first; it may be merged into another one while we wait for it.
  loop
    select n.contact_id into of_contact
    from public.notifications n
    where n.organization_id = held.organization_id and n.id = private.id_in(held.payload, 'notification_id');
    if not found then
      return private.end_job(held, 'notification_gone');
    end if;
    perform
    from public.contacts p
    where p.organization_id = held.organization_id and p.id = of_contact
    for no key update;
    exit when exists (
      select
      from public.notifications n
      where n.organization_id = held.organization_id
        and n.id = private.id_in(held.payload, 'notification_id')
        and n.contact_id = of_contact
    );
  end loop;
  select n.* into notification
  from public.notifications n
  where n.organization_id = held.organization_id and n.id = private.id_in(held.payload, 'notification_id');
  if notification.status = 'pending' and notification.scheduled_for <= at and private.why_not_notify(notification, at) is null then
    conversation := private.conversation_to_notify(
      notification.organization_id, notification.contact_id, notification.conversation_id);
  end if;
  -- From here on no booking moves or cancels it.
  select n.* into notification
  from public.notifications n
  where n.organization_id = notification.organization_id and n.id = notification.id
  for no key update;
  if notification.status <> 'pending' then
    return private.end_job(held, 'notification_is_' || notification.status);
  elsif notification.scheduled_for > at then
    return private.end_job(held, 'moved');
  end if;

  refused := private.why_not_notify(notification, at);
  if refused is null then
    quiet := private.quiet_time(notification, at);
    if quiet.until is not null and quiet.is_too_late is not true then
      update public.notifications n
      set scheduled_for = quiet.until, version = n.version + 1
      where n.organization_id = notification.organization_id and n.id = notification.id;
      return private.end_job(held, 'quiet_hours');
    elsif quiet.until is not null then
      refused := 'quiet_hours';
    elsif conversation.id is null then
      refused := 'unreachable';
    end if;
  end if;

  if refused is null then
    -- A minute of it may pass until the provider is called.
    window_open := not exists (
      select
      from public.whatsapp_instances i
      where i.organization_id = conversation.organization_id and i.id = conversation.instance_id and i.provider = 'meta_cloud'
    ) or exists (
      select
      from public.conversations v
      where v.organization_id = conversation.organization_id
        and v.contact_id = conversation.contact_id
        and v.instance_id = conversation.instance_id
        and v.last_inbound_at > at - interval '23 hours 59 minutes'
    );
    content := private.notification_content(notification, window_open, at);
    refused := content.refused;
  end if;
  if refused is null then
    begin
      message := private.say_as_system(
        conversation, content.message_type, content.content, content.payload,
        -- Taken back at the last moment and put off, it is another message the next time.
        concat_ws(':', 'notification', notification.id, nullif(notification.attempts, 0)));
    exception
      -- The number went at this moment, or what is to be said cannot be.
      when sqlstate 'BL106' or sqlstate 'BL107' or sqlstate 'BL205' then
        get stacked diagnostics refused = pg_exception_detail;
        refused := refused::jsonb ->> 'error';
    end;
  end if;
  update public.notifications n
  set status = case
        when message.id is not null then 'sent'
        when refused in ('instance_disconnected', 'sending_stopped', 'invalid_message') then 'failed'
        else 'skipped'
      end::public.notification_status,
      reason = refused,
      attempts = n.attempts + 1,
      message = content.content,
      message_id = message.id,
      sent_at = case when message.id is not null then at end,
      conversation_id = coalesce(n.conversation_id, message.conversation_id)
  where n.organization_id = notification.organization_id and n.id = notification.id;
  return private.end_job(held, coalesce(refused, 'sent'));
end;
$$;
comment on function private.send_notification(jsonb, timestamptz) is
  'See public.send_notification(). at: the moment that it is taken to be.';
grant execute on function private.send_notification(jsonb, timestamptz) to service_role;

create function public.send_notification(job jsonb)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.send_notification(job);
end;
$$;
comment on function public.send_notification(jsonb) is
  'For the worker, with a held job {organization_id, id, fencing_token} of type send_notification: says what is due, moves it out of quiet hours, or notes why it is not said; and ends the job with it. Answers {action: done, reason}. Secret key only. Errors: lease_lost.';
grant execute on function public.send_notification(jsonb) to service_role;

create function private.hold_back_notification(message public.messages, at timestamptz default now())
returns text
language plpgsql
volatile
set search_path = ''
as $$
declare
  notification public.notifications;
  refused text;
  quiet private.quiet_time;
begin
  select n.* into notification
  from public.notifications n
  where n.organization_id = message.organization_id and n.message_id = message.id and n.status = 'sent'
  for no key update;
  if not found then
    return null;
  end if;
  refused := private.why_not_any_more(notification, at);
  if refused is null then
    quiet := private.quiet_time(notification, at);
    if quiet.until is not null and quiet.is_too_late is not true then
      begin
        update public.notifications n
        set status = 'pending', reason = null, scheduled_for = quiet.until, version = n.version + 1, message_id = null, sent_at = null
        where n.organization_id = notification.organization_id and n.id = notification.id;
        return 'quiet_hours';
      exception
        -- The booking has moved at this moment: another one waits already.
        when unique_violation then refused := 'rescheduled';
      end;
    elsif quiet.until is not null then
      refused := 'quiet_hours';
    end if;
  end if;
  if refused is not null then
    update public.notifications n
    set status = 'skipped', reason = refused, sent_at = null
    where n.organization_id = notification.organization_id and n.id = notification.id;
  end if;
  return refused;
end;
$$;
comment on function private.hold_back_notification(public.messages, timestamptz) is
  'Asks once more, before the provider is called for a notification''s message: between its time and this one a number may have been paused for hours. Answers why it must not go out now, which is noted (in quiet hours it is put off); null when it may. The contact and the message are locked by the caller, begin_send().';

create function private.tg_messages__fail_notification()
returns trigger
language plpgsql
volatile
security definer -- whoever learns that a message failed need not be allowed to write notifications
set search_path = ''
as $$
begin
  update public.notifications n
  set status = 'failed', reason = coalesce(new.error_code, 'failed')
  where n.organization_id = new.organization_id and n.message_id = new.id and n.status = 'sent';
  return null;
end;
$$;
comment on function private.tg_messages__fail_notification() is 'Trigger: a notification whose message failed was not sent.';
create trigger messages_900_fail_notification
  after update of status on public.messages
  for each row when (new.status = 'failed' and old.status <> 'failed' and new.sender = 'system')
  execute function private.tg_messages__fail_notification();

-- What customers answer -------------------------------------------------------------------------------------------------

create function private.fold_words(said text)
returns text
language plpgsql
immutable
strict
parallel safe
set search_path = ''
as $$
begin
  return btrim(regexp_replace(
    lower(extensions.unaccent('extensions.unaccent'::regdictionary, regexp_replace(regexp_replace(said, '[👍👌✅🆗]', ' sim ', 'g'), '[👎❌🚫]', ' nao ', 'g'))),
    '[^a-z0-9]+', ' ', 'g'));
end;
$$;
comment on function private.fold_words(text) is 'Lower case, without accents and punctuation; a thumb up is a yes.';

create function private.wish_about_messages(said text)
returns text
language plpgsql
immutable
set search_path = ''
as $$
begin
  return case
    when said in (
      'parar', 'pare', 'stop', 'sair da lista', 'quero sair da lista', 'me tire da lista', 'me remova da lista', 'remover da lista',
      'nao quero mais receber', 'nao quero mais receber mensagens', 'nao quero receber mais', 'nao quero receber mais mensagens',
      'nao quero receber mensagens', 'nao me mande mais mensagens', 'parar de receber', 'parar de receber mensagens',
      'parar mensagens', 'descadastrar', 'descadastre', 'me descadastre', 'quero me descadastrar', 'cancelar inscricao'
    ) then 'opt_out'
    when said in (
      'voltar', 'quero voltar', 'quero receber', 'quero voltar a receber', 'voltar a receber', 'voltar a receber mensagens',
      'voltar para a lista'
    ) then 'opt_in'
  end;
end;
$$;
comment on function private.wish_about_messages(text) is
  'opt_out, opt_in or null, of a whole message that was folded: "não posso parar agora" is no wish.';

create function private.answer_in_words(type public.notification_type, said text, stars text)
returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
  plain constant text := btrim(regexp_replace(said, '^(?:oi|ola|bom dia|boa tarde|boa noite) | (?:por favor|pfv|obrigad[oa])$', '', 'g'));
  scores constant jsonb :=
    '{"1": 1, "um": 1, "uma": 1, "2": 2, "dois": 2, "duas": 2, "3": 3, "tres": 3, "4": 4, "quatro": 4, "5": 5, "cinco": 5}'::jsonb;
begin
  return case type
    when 'reminder' then case
      when plain in (
        'sim', 's', 'ok', 'confirmo', 'confirmado', 'confirmada', 'confirmar', 'confirma', 'sim confirmo', 'confirmo sim',
        'pode confirmar', 'sim pode confirmar', 'confirmo presenca', 'confirmo minha presenca', 'presenca confirmada', 'vou', 'vou sim',
        'sim vou', 'eu vou', 'estarei la', 'estarei ai', 'sim estarei la', 'sim estarei ai', 'certo', 'combinado', 'claro', 'com certeza'
      ) then 'confirm'
      when plain in (
        'cancelar', 'cancela', 'cancelo', 'cancele', 'quero cancelar', 'preciso cancelar', 'pode cancelar', 'desmarcar', 'desmarca',
        'quero desmarcar', 'preciso desmarcar', 'pode desmarcar'
      ) then 'cancel'
      when plain in (
        'remarcar', 'remarca', 'remarque', 'quero remarcar', 'preciso remarcar', 'posso remarcar', 'pode remarcar', 'reagendar',
        'quero reagendar', 'preciso reagendar', 'mudar', 'mudar o horario', 'mudar horario', 'trocar o horario', 'trocar horario'
      ) then 'reschedule'
      -- Not coming: moved, or cancelled? That is asked.
      when plain in (
        'nao', 'n', 'nao vou', 'nao posso', 'nao posso ir', 'nao vou poder', 'nao vou poder ir', 'nao vou conseguir',
        'nao vou conseguir ir', 'nao poderei', 'nao poderei ir', 'nao consigo ir'
      ) then 'no'
    end
    when 'waiting_list_offer' then case
      when plain in (
        'sim', 's', 'ok', 'quero', 'quero sim', 'sim quero', 'eu quero', 'aceito', 'aceito sim', 'sim aceito', 'confirmo', 'pode ser',
        'pode marcar', 'claro', 'com certeza', 'quero esse horario', 'quero o horario'
      ) then 'accept'
      when plain in (
        'nao', 'n', 'nao quero', 'nao posso', 'nao vou poder', 'nao da', 'recuso', 'nao obrigado', 'nao obrigada', 'agora nao'
      ) then 'decline'
    end
    when 'feedback' then coalesce(
      scores ->> plain,
      scores ->> substring(plain from '^(?:nota )?(\S+)(?: estrelas?)?$'),
      case when btrim(stars) ~ '^(?:⭐\ufe0f?){1,5}$' then length(regexp_replace(stars, '[^⭐]', '', 'g'))::text end)
  end;
end;
$$;
comment on function private.answer_in_words(public.notification_type, text, text) is
  'What a folded message answers to a notification of this type; null when it is no clear answer. stars: the message as it was written.';

create function private.is_talked_with(conversation_ids uuid[], asked_message_id uuid, organization_id uuid, at timestamptz)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return exists (
    select
    from public.flow_sessions s
    where s.organization_id = is_talked_with.organization_id
      and s.conversation_id = any (conversation_ids)
      and not s.is_completed
      and s.expires_at > at
      -- One that waits for its time asks nothing.
      and s.wakes_at is null
      and (s.asked_at is not null or s.current_step is not null)
  ) or exists (
    select
    from public.messages asking
    where asking.organization_id = is_talked_with.organization_id
      and asking.conversation_id = any (conversation_ids)
      and asking.id < asked_message_id
      and asking.created_at > at - interval '24 hours'
      and asking.direction = 'outbound'
      and asking.message_type <> 'reaction'
      -- What a flow said is open while its session is.
      and (asking.sender in ('human', 'ai') or asking.sender = 'bot' and coalesce(asking.client_message_id, '') not like 'flow:%')
      -- He may be thinking about it; after two hours, only if he has said nothing since.
      and (asking.created_at > at - interval '2 hours' or not exists (
        select
        from public.messages said
        where said.organization_id = asking.organization_id
          and said.conversation_id = asking.conversation_id
          and said.id > asking.id
          and said.id < asked_message_id
          and said.direction = 'inbound'
      ))
  );
end;
$$;
comment on function private.is_talked_with(uuid[], uuid, uuid, timestamptz) is
  'Whether a customer was in the middle of something else when a notification asked him: words that follow may belong to that.';

create type private.claimed_answer as (notification_id uuid, answer text);

create function private.answer_to_notification(message public.messages, at timestamptz default now())
returns private.claimed_answer
language plpgsql
stable
set search_path = ''
as $$
declare
  tapped constant text[] :=
    regexp_match(message.metadata #>> '{interactive,id}', '^notification:([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}):([a-z0-9]{1,20})$');
  folded text;
  answer text;
  found_one private.claimed_answer;
  candidate record;
  understood uuid[] := array[]::uuid[];
begin
  if tapped is not null then
    select n.id, tapped[2] into found_one
    from public.notifications n
    where n.organization_id = message.organization_id and n.id = tapped[1]::uuid and n.contact_id = message.contact_id;
    return case when found then found_one end;
  elsif message.message_type <> 'text' or length(message.content) > 60 then
    return null;
  end if;
  folded := private.fold_words(message.content);
  -- Each notification with its newest question: the notification itself, or what we asked when it was answered.
  for candidate in
    select
      n.id, n.type, n.booking_id, n.answer, n.booking_start_time, m.conversation_id,
      greatest(m.id, asked.id) as asked_message_id,
      asked.outcome as asked,
      message.reply_to_whatsapp_message_id in (m.whatsapp_message_id, asked.whatsapp_message_id) is true as is_quoted
    from public.notifications n
    join public.messages m on m.organization_id = n.organization_id and m.id = n.message_id
    left join lateral (
      select reply.id, reply.whatsapp_message_id, a.outcome, a.answered_at
      from private.notification_answers a
      join public.messages reply on reply.organization_id = a.organization_id and reply.client_message_id = 'answer:' || a.message_id
      where a.organization_id = n.organization_id
        and a.notification_id = n.id
        and a.outcome in ('asked', 'moved')
        and reply.id < message.id
      order by reply.id desc
      limit 1
    ) asked on true
    where n.organization_id = message.organization_id
      and n.contact_id = message.contact_id
      and n.status = 'sent'
      and n.type in ('reminder', 'waiting_list_offer', 'feedback')
      and greatest(n.sent_at, asked.answered_at) > at - interval '48 hours'
      and m.instance_id = message.instance_id
      and m.id < message.id
    order by greatest(m.id, asked.id) desc
  loop
    continue when message.reply_to_whatsapp_message_id is not null and not candidate.is_quoted;
    answer := private.answer_in_words(candidate.type, folded, message.content);
    -- "Remarcar ou cancelar?" – "Sim." is neither.
    if answer = 'confirm' and candidate.asked = 'asked' and folded !~ '\m(?:confirm|vou|estarei)' then
      answer := 'no';
    end if;
    continue when answer is null;
    if candidate.is_quoted then
      return row(candidate.id, answer)::private.claimed_answer;
    end if;
    -- It waits for an answer, and there is still something to answer.
    continue when candidate.answer is not null
      or candidate.type <> 'feedback' and not exists (
        select
        from public.bookings b
        where b.organization_id = message.organization_id
          and b.id = candidate.booking_id
          and b.start_time = candidate.booking_start_time
          and b.start_time > at
          and case candidate.type
            when 'reminder' then b.status in ('scheduled', 'confirmed')
            else b.status = 'hold' and b.is_offer and b.hold_expires_at > at
          end
      )
      -- Nobody on our side has said anything else since, but that we did not know which one was meant.
      or exists (
        select
        from public.messages since
        where since.conversation_id in (candidate.conversation_id, message.conversation_id)
          and since.organization_id = message.organization_id
          and since.id > candidate.asked_message_id
          and since.id < message.id
          and since.direction = 'outbound'
          and since.message_type <> 'reaction'
          and not exists (
            select
            from public.notifications other
            where other.organization_id = since.organization_id and other.message_id = since.id
          )
          and not exists (
            select
            from private.notification_answers a
            where a.organization_id = since.organization_id
              and a.message_id = private.id_in(jsonb_build_object('id', substring(since.client_message_id from '^answer:(.*)$')), 'id')
              and since.sender = 'system'
              and (a.notification_id = candidate.id or a.outcome = 'unclear')
          )
      )
      -- Nor has he been told of anything else, unless that is asked in the same words: then it is not guessed which one.
      or exists (
        select
        from public.notifications other
        join public.messages told on told.organization_id = other.organization_id and told.id = other.message_id
        where other.organization_id = message.organization_id
          and other.contact_id = message.contact_id
          and other.status = 'sent'
          and told.instance_id = message.instance_id
          and told.id > candidate.asked_message_id
          and told.id < message.id
          and other.id <> candidate.id
          and (other.booking_id = candidate.booking_id) is not true
          and other.id <> all (understood)
      )
      or private.is_talked_with(
        array[candidate.conversation_id, message.conversation_id], candidate.asked_message_id, message.organization_id, at);
    understood := understood || candidate.id;
    if found_one.notification_id is null then
      found_one := row(candidate.id, answer);
    elsif not exists (
      select
      from public.notifications n
      where n.organization_id = message.organization_id and n.id = found_one.notification_id and n.booking_id = candidate.booking_id
    ) then
      -- Two visits, one "sim": which one is meant is not guessed.
      found_one.answer := 'unclear';
    end if;
  end loop;
  return case when found_one.notification_id is not null then found_one end;
end;
$$;
comment on function private.answer_to_notification(public.messages, timestamptz) is
  'Which notification a message answers, and what: by a tap at any time; in words within 48 hours, if it is quoted, or if nothing else has been said or told since, nothing else was open before it, and its visit or offer still is. unclear: it may be one of several. Null: it is for the flow, or for people.';

create function private.tg_messages__read_answers()
returns trigger
language plpgsql
volatile
security definer -- whoever may store a message need not be allowed to write contacts, notifications and jobs
set search_path = ''
as $$
declare
  said record;
  wish text;
  claimed private.claimed_answer;
  jobs private.new_job[] := array[]::private.new_job[];
begin
  if not exists (select from inserted i where i.direction = 'inbound' and i.sender = 'contact') then
    return null;
  end if;
  -- Who writes first need not be asked why he does not.
  perform private.cancel_notifications(array_agg(n.id), n.organization_id, 'customer_wrote')
  from inserted i
  join public.notifications n
    on n.organization_id = i.organization_id and n.contact_id = i.contact_id and n.status = 'pending' and n.followup_id is not null
  join public.scheduled_followups f on f.organization_id = n.organization_id and f.id = n.followup_id and f.type = 'no_reply'
  where i.direction = 'inbound'
    and i.sender = 'contact'
    -- News of before it was planned, delivered late, is none; WhatsApp's clock need not be ours.
    and least(i.sent_at, i.created_at) > n.created_at - interval '1 minute'
  group by n.organization_id;

  for said in
    select
      row(i.*)::public.messages as message,
      least(i.sent_at, i.created_at) as at,
      private.is_flow_input(row(i.*)::public.messages) as is_news
    from inserted i
    where i.direction = 'inbound'
      and i.sender = 'contact'
      and (
        i.message_type in ('text', 'button', 'interactive') and length(i.content) <= 80
        or i.metadata #>> '{interactive,id}' like 'notification:%'
      )
    order by i.organization_id, i.contact_id, i.id
  loop
    claimed := null;
    -- A button of a campaign says "Parar" too; on one of a flow's or of a notification's it means what that asks.
    wish := case when coalesce((said.message).metadata #>> '{interactive,id}', '') !~ '^(?:notification:|[a-z0-9_]*:.+[.][0-9a-z]+:)' then
      private.wish_about_messages(private.fold_words((said.message).content))
    end;
    if wish is not null then
      update public.contacts p
      set opted_out_at = case wish when 'opt_out' then said.at end,
          opted_in_at = case wish when 'opt_in' then said.at else p.opted_in_at end
      where p.organization_id = (said.message).organization_id
        and p.id = (said.message).contact_id
        and (p.opted_out_at is null) = (wish = 'opt_out')
        -- WhatsApp's clock has whole seconds.
        and said.at >= date_trunc('second', coalesce(greatest(p.opted_in_at, p.opted_out_at), '-infinity'));
      -- Said again, or "voltar" by somebody who never left, it is a word for the flow.
      if found then
        claimed := row(null, wish);
        if wish = 'opt_out' then
          perform private.withdraw_notifications((said.message).organization_id, (said.message).contact_id, 'opted_out');
        end if;
      end if;
    end if;
    if claimed is null and said.is_news then
      claimed := private.answer_to_notification(said.message);
    end if;
    continue when claimed.answer is null;
    insert into private.notification_answers (organization_id, message_id, notification_id, answer)
    values ((said.message).organization_id, (said.message).id, claimed.notification_id, claimed.answer);
    if said.is_news then
      jobs := jobs || row(
        (said.message).organization_id, 'answer_notification', jsonb_build_object('message_id', (said.message).id), 0, null,
        'answers:' || (said.message).conversation_id, 'answer:' || (said.message).id, 5)::private.new_job;
    end if;
  end loop;
  if cardinality(jobs) > 0 then
    perform from private.enqueue_jobs(jobs);
    perform private.wake_worker();
  end if;
  return null;
end;
$$;
comment on function private.tg_messages__read_answers() is
  'Trigger: claims what answers a notification before a flow hears it, notes at once who wants no more messages, and cancels follow-ups of silence.';
-- Before messages_900_run_flow, which leaves out what is claimed here.
create trigger messages_500_read_answers
  after insert on public.messages
  referencing new table as inserted
  for each statement execute function private.tg_messages__read_answers();

create function private.start_flow_at(conversation public.conversations, action text)
returns boolean
language plpgsql
volatile
set search_path = ''
as $$
declare
  flow public.flows;
  step text;
  session public.flow_sessions;
begin
  select f.* into flow
  from public.flows f
  where f.organization_id = conversation.organization_id and f.is_default and f.is_active;
  select e ->> 'id' into step
  from jsonb_array_elements(flow.definition -> 'etapas') with ordinality s (e, n)
  where e ->> 'tipo' = 'acao' and e #>> '{acao,tipo}' = start_flow_at.action
  order by s.n
  limit 1;
  if step is null or not conversation.is_bot_controlled then
    return false;
  end if;
  update public.flow_sessions s
  set status = 'cancelled', completed_at = now(), wakes_at = null, version = s.version + 1
  where s.organization_id = conversation.organization_id and s.conversation_id = conversation.id and not s.is_completed;
  session := private.new_flow_session(conversation, flow, private.newest_message(conversation.id));
  -- begin_flow_turn() begins there.
  update public.flow_sessions s
  set state = jsonb_build_object('inicio', step)
  where s.organization_id = session.organization_id and s.id = session.id;
  perform from private.enqueue_jobs(array[
    private.flow_turn_job(session.organization_id, session.conversation_id, '{"start": true}')
  ]);
  return true;
end;
$$;
comment on function private.start_flow_at(public.conversations, text) is
  'The bot goes on with the default flow at its first step of an action, if it is in control and the flow has one; answers whether it does. The conversation is locked by the caller.';

create type private.notification_reply as (outcome text, content text, payload jsonb, answer text);

create function private.answer_booking(notification public.notifications, answer text, heard_id uuid, at timestamptz)
returns private.notification_reply
language plpgsql
volatile
set search_path = ''
as $$
declare
  booking public.bookings;
  spoken text;
  buttons constant jsonb := private.notification_options(notification) -> 'buttons';
begin
  select b.* into booking
  from public.bookings b
  where b.organization_id = notification.organization_id and b.id = notification.booking_id;
  spoken := private.spoken_moment(booking.start_time, private.zone_of(booking.organization_id, booking.location_id), at);
  if booking.status = 'cancelled' then
    return row('cancelled_before', 'Esse horário já foi cancelado. Se quiser marcar outro, é só responder por aqui.', null, null)::private.notification_reply;
  elsif booking.start_time <= at or booking.status not in ('scheduled', 'confirmed') then
    return row('over', 'Esse horário já passou. Se precisar de alguma coisa, é só responder por aqui.', null, null)::private.notification_reply;
  elsif booking.start_time = notification.booking_start_time and answer <> 'reschedule' and exists (
    select
    from private.notification_answers a
    join public.messages told on told.organization_id = a.organization_id and told.client_message_id = 'answer:' || a.message_id
    where a.organization_id = notification.organization_id
      and a.notification_id = notification.id
      and a.outcome = 'moved'
      and told.id > heard_id
  ) then
    -- Written before he could read at what time it is now: that is asked already.
    return row('asked_already', null, null, null)::private.notification_reply;
  elsif booking.start_time <> notification.booking_start_time and answer <> 'reschedule' then
    -- Told now, it is the time that his next answer is about.
    update public.notifications n
    set booking_start_time = booking.start_time, answer = null, answered_at = null
    where n.organization_id = notification.organization_id and n.id = notification.id;
    return row('moved',
      format('Esse horário mudou: agora está marcado para %s. Podemos contar com a sua presença?', spoken),
      jsonb_build_object('type', 'button', 'buttons', buttons), null)::private.notification_reply;
  end if;
  case answer
    when 'confirm' then
      perform private.confirm_booking(booking.id, 'patient', 'whatsapp', booking.organization_id);
      return row('confirmed', format('Presença confirmada! ✅ Esperamos você: %s.', spoken), null, 'confirm')::private.notification_reply;
    when 'cancel' then
      perform private.customer_is_told(booking.contact_id);
      perform private.cancel_booking(booking.id, 'Cancelado pelo cliente no WhatsApp', booking.organization_id);
      return row('cancelled', 'Pronto, seu horário foi cancelado. Se quiser marcar outro, é só responder por aqui.', null, 'cancel')::private.notification_reply;
    when 'reschedule' then
      return row('reschedule', null, null, 'reschedule')::private.notification_reply;
    else
      return row('asked', 'Entendi. Você prefere remarcar ou cancelar?',
        jsonb_build_object('type', 'button', 'buttons', buttons - 0), null)::private.notification_reply;
  end case;
end;
$$;
comment on function private.answer_booking(public.notifications, text, uuid, timestamptz) is
  'Does what a customer answered to a reminder, through what the RPCs do it with, and what he is told. The agenda is locked by the caller.';

create function private.answer_offer(notification public.notifications, answer text, at timestamptz)
returns private.notification_reply
language plpgsql
volatile
set search_path = ''
as $$
declare
  entry public.waiting_list;
  booking public.bookings;
begin
  select w.* into entry
  from public.waiting_list w
  where w.organization_id = notification.organization_id and w.offered_booking_id = notification.booking_id;
  if entry.id is not null then
    perform private.customer_is_told(entry.contact_id);
    if answer = 'decline' and entry.status = 'offered' then
      perform private.leave_waiting_list(entry.id, entry.organization_id);
      return row('declined', 'Tudo bem, obrigado por avisar! Se quiser voltar para a lista de espera, é só responder por aqui.', null, 'decline')::private.notification_reply;
    elsif answer = 'accept' then
      begin
        booking := private.accept_waiting_list_offer(entry.id, entry.organization_id);
      exception
        when sqlstate 'BL505' or sqlstate 'BL514' then null;
      end;
    end if;
  end if;
  if booking.status in ('scheduled', 'confirmed') then
    return row('accepted',
      format('Prontinho! ✅ O horário é seu: %s.',
        private.spoken_moment(booking.start_time, private.zone_of(booking.organization_id, booking.location_id), at)),
      null, 'accept')::private.notification_reply;
  end if;
  return row('offer_over',
    'Que pena, esse horário não está mais reservado para você. Se quiser tentar outro, é só responder por aqui.', null, null)::private.notification_reply;
end;
$$;
comment on function private.answer_offer(public.notifications, text, timestamptz) is
  'Takes or declines what somebody on the waiting list was offered, and what he is told. The agenda is locked by the caller.';

create function private.answer_notification(job jsonb, at timestamptz default now())
returns jsonb
language plpgsql
volatile
security definer -- writes bookings, conversations and messages, and ends jobs
set search_path = ''
as $$
declare
  held constant public.message_queue := private.hold_job(job);
  claimed private.notification_answers;
  heard public.messages;
  notification public.notifications;
  conversation public.conversations;
  reply private.notification_reply;
begin
  select a.* into claimed
  from private.notification_answers a
  where a.organization_id = held.organization_id and a.message_id = private.id_in(held.payload, 'message_id');
  if claimed.message_id is null or claimed.outcome is not null then
    return private.end_job(held, coalesce(claimed.outcome, 'answer_gone'));
  end if;
  select m.* into heard
  from public.messages m
  where m.organization_id = claimed.organization_id and m.id = claimed.message_id;
  select n.* into notification
  from public.notifications n
  where n.organization_id = claimed.organization_id and n.id = claimed.notification_id;
  -- What is booked comes before the customer.
  if notification.booking_id is not null and notification.type <> 'feedback' then
    perform private.lock_flow_agendas(notification.organization_id, jsonb_build_array(
      jsonb_build_object('tipo', 'cancelar_agendamento', 'agendamento_id', notification.booking_id)));
  end if;
  conversation := private.lock_conversation(heard.organization_id, heard.conversation_id);
  if exists (
    select
    from public.contacts p
    where p.organization_id = conversation.organization_id and p.id = conversation.contact_id and p.status = 'blocked'
  ) then
    reply := row('blocked', null, null, null);
  else
    case
      when claimed.answer = 'opt_out' then
        update public.flow_sessions s
        set status = 'cancelled', completed_at = now(), wakes_at = null, version = s.version + 1
        where s.organization_id = conversation.organization_id and s.conversation_id = conversation.id and not s.is_completed;
        reply := row('opted_out',
          'Tudo bem, você não vai mais receber lembretes nem novidades por aqui. Se mudar de ideia, responda VOLTAR.', null, null);
      when claimed.answer = 'opt_in' then
        reply := row('opted_in', 'Que bom ter você de volta! 😊 Você vai voltar a receber nossas mensagens.', null, null);
      when claimed.answer = 'unclear' then
        reply := row('unclear', 'Você tem mais de um horário com a gente. Por favor, toque no botão da mensagem certa.', null, null);
      when notification.type = 'feedback' and claimed.answer ~ '^[1-5]$' then
        update public.conversations v
        set satisfaction_score = claimed.answer::int
        where v.organization_id = notification.organization_id
          and v.id = notification.conversation_id
          -- A visit's score is the notification's; where the question went through it counts, but undoes no other answer.
          and (notification.booking_id is null or v.satisfaction_score is null and v.id = (
            select m.conversation_id
            from public.messages m
            where m.organization_id = notification.organization_id and m.id = notification.message_id
          ));
        reply := row('scored',
          case when claimed.answer::int <= 2
            then 'Obrigado por contar. Sentimos muito que não tenha sido como deveria; vamos melhorar.'
            else 'Muito obrigado pela sua avaliação! 💛'
          end, null, claimed.answer);
      when notification.type = 'reminder' and claimed.answer in ('confirm', 'cancel', 'reschedule', 'no') then
        reply := private.answer_booking(notification, claimed.answer, heard.id, at);
      when notification.type = 'waiting_list_offer' and claimed.answer in ('accept', 'decline') then
        reply := private.answer_offer(notification, claimed.answer, at);
      else
        reply := row('not_understood', null, null, null);
    end case;
    if reply.outcome = 'reschedule' then
      if private.start_flow_at(conversation, 'remarcar') then
        reply.outcome := 'flow_started';
      else
        reply.content := 'Claro! Já chamo alguém da equipe para remarcar com você.';
      end if;
    end if;
    if reply.content is not null then
      begin
        perform private.say_as_system(
          conversation, case when reply.payload is null then 'text' else 'interactive' end::public.message_type, reply.content,
          reply.payload, 'answer:' || heard.id);
      exception
        -- It is done, though nobody can be told.
        when sqlstate 'BL106' or sqlstate 'BL107' then null;
      end;
    end if;
    if reply.outcome = 'reschedule' and conversation.is_open then
      conversation := private.hand_over(conversation, 'reschedule_requested');
    elsif reply.outcome in ('scored', 'confirmed', 'opted_out')
      and conversation.is_open
      and conversation.is_bot_controlled
      and private.is_only_answers(conversation.id, conversation.organization_id)
    then
      -- Nobody wants anything: no inbox needs to show it.
      conversation := private.end_conversation(conversation, null);
    end if;
  end if;
  if reply.answer is not null then
    update public.notifications n
    set answer = reply.answer, answered_at = at
    where n.organization_id = notification.organization_id and n.id = notification.id;
  end if;
  update private.notification_answers a
  set outcome = reply.outcome, answered_at = at
  where a.organization_id = claimed.organization_id and a.message_id = claimed.message_id;
  return private.end_job(held, reply.outcome);
end;
$$;
comment on function private.answer_notification(jsonb, timestamptz) is 'See public.answer_notification(). at: the moment that it is taken to be.';
grant execute on function private.answer_notification(jsonb, timestamptz) to service_role;

create function public.answer_notification(job jsonb)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.answer_notification(job);
end;
$$;
comment on function public.answer_notification(jsonb) is
  'For the worker, with a held job {organization_id, id, fencing_token} of type answer_notification: does what a customer answered to a notification, says so, and ends the job with it. Answers {action: done, reason}. Secret key only. Errors: lease_lost.';
grant execute on function public.answer_notification(jsonb) to service_role;

create function private.tg_message_queue__give_up_notification()
returns trigger
language plpgsql
volatile
security definer -- whoever ends a job need not be allowed to write notifications and conversations
set search_path = ''
as $$
declare
  conversation public.conversations;
begin
  if new.job_type = 'send_notification' then
    update public.notifications n
    set status = 'failed', reason = 'attempts_exhausted', attempts = n.attempts + 1
    where n.organization_id = new.organization_id
      and n.id = private.id_in(new.payload, 'notification_id')
      and n.status = 'pending'
      and new.idempotency_key = 'notification:' || n.id || ':' || n.version;
    return null;
  end if;
  conversation := private.lock_flow_conversation(new.organization_id, (
    select m.conversation_id
    from public.messages m
    where m.organization_id = new.organization_id and m.id = private.id_in(new.payload, 'message_id')
  ));
  if conversation.is_open and conversation.is_bot_controlled then
    perform private.hand_over(conversation, 'answer_failed');
  end if;
  return null;
end;
$$;
comment on function private.tg_message_queue__give_up_notification() is
  'Trigger: a notification whose job is given up does not wait for ever; an answer that cannot be acted on is a human''s.';
create trigger message_queue_500_give_up_notification
  after update of status on public.message_queue
  for each row when (
    new.job_type in ('send_notification', 'answer_notification') and new.status = 'dead' and old.status <> 'dead')
  execute function private.tg_message_queue__give_up_notification();
