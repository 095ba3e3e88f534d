-- Follow-ups: one message later, scheduled by an attendant, the bot or a rule; it travels as a notification.

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
