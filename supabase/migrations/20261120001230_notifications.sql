-- Notifications: reminders, confirmations, offers, questions and follow-ups. Here is what they are and when their time comes;
-- the next chapters send them (001234) and take the answers (001236).
--
-- A notification is a row with a time. Bookings make, move and cancel their own. When its time has come (a schedule looks
-- every few seconds, private.enqueue_due_notifications) a job comes for it, and only then it is decided whether it is sent:
-- to somebody who is not blocked and did not opt out, not in quiet hours, not too often, of a booking that is still so.
-- Moving a row makes another version: the job of the old time finds that it has come too early.
--
-- What is sent, and that it was, is one transaction; its message has the id of the notification. Whoever dies in between
-- has sent nothing, and twice is once.
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
  needed_by timestamptz,
  scheduled_for timestamptz not null,
  version int not null default 0,
  enqueued_version int,
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
comment on column public.notifications.needed_by is
  'Of a confirmation or a cancellation: when the customer would come, for all he knows. If the end of the quiet hours is too late for that, it is said in them.';
comment on column public.notifications.conversation_id is 'Which conversation it is about, else where it was sent: an answer''s score is that conversation''s; a visit''s, only if it has none.';
comment on column public.notifications.version is 'Goes up when it is moved: a job that was made for another time finds nothing to do.';
comment on column public.notifications.enqueued_version is 'The version that has its job: what waits in the queue is looked for no more.';
comment on column public.notifications.reason is 'Why it was not sent: opted_out, blocked, daily_cap, quiet_hours, outside_window, too_late, overtaken (a later one is due as well), asked_today, …';
comment on column public.notifications.message is 'What was said.';
comment on column public.notifications.sent_at is 'Null again when its message was taken back, or failed: then it was not said.';
create unique index notifications_one_pending_per_booking_idx
  on public.notifications (organization_id, booking_id, type, offset_minutes) nulls not distinct
  where status = 'pending' and booking_id is not null;
create unique index notifications_one_feedback_per_booking_idx
  on public.notifications (organization_id, booking_id) where type = 'feedback' and booking_id is not null;
create index notifications_booking_id_idx on public.notifications (organization_id, booking_id, type) where booking_id is not null;
create index notifications_contact_id_idx on public.notifications (organization_id, contact_id, sent_at desc);
comment on index public.notifications_contact_id_idx is 'What a customer was sent today, and what he may be answering.';
create index notifications_scheduled_for_idx on public.notifications (organization_id, scheduled_for, id)
  where status = 'pending' and enqueued_version is distinct from version;
comment on index public.notifications_scheduled_for_idx is 'What is due and has no job yet, by tenant: private.enqueue_due_notifications().';
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
  update public.notifications n
  set enqueued_version = n.version
  from unnest(due) d
  where n.organization_id = d.organization_id and n.id = d.id and n.version = d.version;
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
declare
  -- Of one tenant in one turn.
  share constant int := 50;
  started_at constant timestamptz := clock_timestamp();
  due public.notifications[];
  enqueued bigint := 0;
begin
  loop
    -- Tenants take turns: one that has thousands to say at eight keeps nobody else waiting.
    due := array(
      select row(n.*)::public.notifications
      from (
        select turn.organization_id, turn.id
        from public.organizations o
        cross join lateral (
          select first.organization_id, first.id, first.scheduled_for, row_number() over (order by first.scheduled_for, first.id) as place
          from (
            select w.organization_id, w.id, w.scheduled_for
            from public.notifications w
            where w.organization_id = o.id
              and w.status = 'pending'
              and w.enqueued_version is distinct from w.version
              and w.scheduled_for <= at
            order by w.organization_id, w.scheduled_for, w.id
            limit share
          ) first
        ) turn
        order by turn.place, turn.scheduled_for, turn.id
        limit batch_size
      ) next
      join public.notifications n on n.organization_id = next.organization_id and n.id = next.id
      where n.status = 'pending' and n.enqueued_version is distinct from n.version and n.scheduled_for <= at
      -- What is being moved at this moment is looked at the next time.
      for no key update of n skip locked
    );
    exit when cardinality(due) = 0;
    enqueued := enqueued + private.enqueue_notifications(due);
    exit when clock_timestamp() > started_at + interval '250 milliseconds';
  end loop;
  return enqueued;
end;
$$;
comment on function private.enqueue_due_notifications(timestamptz, int) is
  'A job for each notification whose time has come, tenants in turns, for a quarter of a second at most; returns how many.';

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
    needed_by, scheduled_for
  )
  values (
    wanted.organization_id, wanted.contact_id, wanted.booking_id, wanted.conversation_id, wanted.followup_id, wanted.template_id,
    wanted.type, wanted.offset_minutes, wanted.booking_start_time, wanted.needed_by, wanted.scheduled_for
  )
  -- It waits already: for another time now.
  on conflict (organization_id, booking_id, type, offset_minutes) where status = 'pending' and booking_id is not null do update set
    contact_id = excluded.contact_id,
    scheduled_for = excluded.scheduled_for,
    booking_start_time = excluded.booking_start_time,
    needed_by = least(n.needed_by, excluded.needed_by),
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
    set status = 'cancelled', reason = cancel_notifications.reason, sent_at = null
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

create function private.tell_of_booking(
  booking public.bookings,
  type public.notification_type,
  before timestamptz default null
)
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
    -- At the time that it had before, too, if he has not heard of the change yet.
    wanted.needed_by := least(
      booking.start_time,
      case when before > now() then before end,
      (
        select min(n.needed_by)
        from public.notifications n
        where n.organization_id = booking.organization_id
          and n.booking_id = booking.id
          and n.type in ('confirmation', 'cancellation')
          and n.status <> 'sent'
          and n.needed_by > now()
      ));
    wanted.scheduled_for := now();
    perform private.add_notification(wanted);
  end if;
end;
$$;
comment on function private.tell_of_booking(public.bookings, public.notification_type, timestamptz) is
  'Tells the customer that he has, or has lost, a booking, unless it was him. before: the time that it had.';

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

create function private.readdress_notifications(booking public.bookings, from_contact_id uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  queued uuid[];
begin
  -- Said to the wrong one, but still in the house. (Who was merged is the same person.)
  if not exists (
    select
    from public.contacts p
    where p.organization_id = booking.organization_id and p.id = from_contact_id and p.merged_into_id = booking.contact_id
  ) then
    queued := array(
      select n.id
      from public.notifications n
      join public.messages m on m.organization_id = n.organization_id and m.id = n.message_id
      where n.organization_id = booking.organization_id
        and n.booking_id = booking.id
        and n.contact_id <> booking.contact_id
        and n.status = 'sent'
        and m.status = 'queued'
    );
    perform private.cancel_notifications(queued, booking.organization_id, 'another_contact');
    update public.notifications n
    set status = 'pending', reason = null, scheduled_for = now(), message_id = null, conversation_id = null
    where n.organization_id = booking.organization_id
      and n.id = any (queued)
      and n.status = 'cancelled'
      and not exists (
        select
        from public.notifications other
        where other.organization_id = n.organization_id
          and other.booking_id = n.booking_id
          and other.type = n.type
          and other.offset_minutes is not distinct from n.offset_minutes
          and other.status = 'pending'
      );
  end if;
  update public.notifications n
  set contact_id = booking.contact_id
  where n.organization_id = booking.organization_id
    and n.booking_id = booking.id
    and n.contact_id <> booking.contact_id
    and n.status = 'pending';
end;
$$;
comment on function private.readdress_notifications(public.bookings, uuid) is
  'What waits to be said of a booking is said to whose it is now; what he was told whose it was before, is not undone.';

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
  if tg_op = 'UPDATE' and new.contact_id <> old.contact_id then
    perform private.readdress_notifications(new, old.contact_id);
  end if;
  case
    when change in ('created', 'rescheduled') and new.status in ('scheduled', 'confirmed') then
      perform private.schedule_reminders(new);
      -- A bot that books says so itself.
      if change = 'rescheduled' or new.created_by not in ('flow', 'ai') then
        perform private.tell_of_booking(new, 'confirmation', case when tg_op = 'UPDATE' then old.start_time end);
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
            and (n.type in ('reminder', 'confirmation', 'waiting_list_offer') or n.type = 'feedback' and change <> 'completed')
        ),
        new.organization_id, 'booking_' || new.status);
      if change = 'cancelled' and tg_op = 'UPDATE' then
        perform private.tell_of_booking(new, 'cancellation');
      elsif change = 'completed' and new.start_time > now() - interval '7 days' and exists (
        select
        from public.organization_settings s
        where s.organization_id = new.organization_id and s.asks_feedback
      ) then
        wanted.organization_id := new.organization_id;
        wanted.contact_id := new.contact_id;
        wanted.booking_id := new.id;
        wanted.type := 'feedback';
        wanted.booking_start_time := new.start_time;
        wanted.scheduled_for := greatest(now(), new.end_time) + make_interval(mins => (
          select s.feedback_delay_minutes from public.organization_settings s where s.organization_id = new.organization_id
        ));
        -- It was one, then none, and is one after all.
        update public.notifications n
        set status = 'pending', reason = null, scheduled_for = wanted.scheduled_for, message_id = null
        where n.organization_id = new.organization_id
          and n.booking_id = new.id
          and n.type = 'feedback'
          and n.status in ('cancelled', 'skipped')
          and n.reason like 'booking\_%';
        if not exists (
          select
          from public.notifications n
          where n.organization_id = new.organization_id and n.booking_id = new.id and n.type = 'feedback'
        ) then
          perform private.add_notification(wanted);
        end if;
      end if;
    else null;
  end case;
  return null;
end;
$$;
comment on function private.tg_bookings__schedule_notifications() is
  'Trigger: a booking''s notifications are made, moved, readdressed and cancelled with it; after the visit there is one question.';
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
