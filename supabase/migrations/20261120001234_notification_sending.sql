-- Notifications, on their way out: what is said, whether now, and the message and its notification in one transaction.

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

create function private.notification_template(notification public.notifications)
returns public.message_templates
language plpgsql
stable
set search_path = ''
as $$
begin
  return private.template_for(
    notification.organization_id,
    case notification.type when 'other' then 'follow_up' else notification.type::text end::public.message_category,
    notification.template_id);
end;
$$;
comment on function private.notification_template(public.notifications) is 'The organization''s own template of a notification; null when there is none.';

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
  template constant public.message_templates := private.notification_template(notification);
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

create function private.is_window_open(organization_id uuid, contact_id uuid, instance_id uuid, at timestamptz)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return not exists (
    select
    from public.whatsapp_instances i
    where i.organization_id = is_window_open.organization_id and i.id = is_window_open.instance_id and i.provider = 'meta_cloud'
  ) or exists (
    select
    from public.conversations v
    where v.organization_id = is_window_open.organization_id
      and v.contact_id = is_window_open.contact_id
      and v.instance_id = is_window_open.instance_id
      -- A minute of it may pass until the provider is called.
      and v.last_inbound_at > at - interval '23 hours 59 minutes'
  );
end;
$$;
comment on function private.is_window_open(uuid, uuid, uuid, timestamptz) is
  'Whether a customer can be written to through a number in words of ours: by Meta''s rule, for 24 hours after he wrote to it.';

create function private.conversation_to_notify(notification public.notifications, at timestamptz)
returns public.conversations
language plpgsql
volatile
set search_path = ''
as $$
declare
  has_template constant boolean :=
    (private.notification_template(notification)).provider_template_status is not distinct from 'approved';
  conversation public.conversations;
begin
  select v.* into conversation
  from public.conversations v
  join public.whatsapp_instances i on i.organization_id = v.organization_id and i.id = v.instance_id
  join private.instance_secrets s on s.organization_id = i.organization_id and s.instance_id = i.id and s.access_token is not null
  where v.organization_id = notification.organization_id
    and v.contact_id = notification.contact_id
    and i.status <> 'disconnected'
    and i.sending_stopped_at is null
  order by
    -- Where it can be said at all.
    has_template or private.is_window_open(v.organization_id, v.contact_id, v.instance_id, at) desc,
    v.is_open desc,
    v.id = notification.conversation_id desc nulls last,
    v.last_inbound_at desc nulls last,
    v.id desc
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
  where p.organization_id = notification.organization_id
    and p.id = notification.contact_id
    and coalesce(known.value, p.phone_number) is not null
  order by known.value is null, i.status <> 'connected', i.id
  limit 1
  returning v.* into conversation;
  return conversation;
end;
$$;
comment on function private.conversation_to_notify(public.notifications, timestamptz) is
  'Where a customer is written to: of those through whose number he can be, the open conversation, else the one that it is about, else the last one; null when he cannot be reached. The contact is locked by the caller.';

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
  elsif booking.contact_id <> notification.contact_id then
    return 'another_contact';
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
      -- Who stood before a closed door is told why.
      if booking.start_time <= at - interval '1 day' then
        return 'too_late';
      end if;
    when 'feedback' then
      if booking.id is not null and booking.status <> 'completed' then
        return 'booking_' || booking.status;
      elsif notification.scheduled_for < at - interval '7 days' then
        return 'too_late';
      end if;
    when 'other' then
      if exists (
        select
        from public.scheduled_followups f
        join public.conversations v on v.organization_id = f.organization_id and v.contact_id = notification.contact_id
        where f.organization_id = notification.organization_id
          and f.id = notification.followup_id
          and f.type = 'no_reply'
          and v.last_inbound_at > notification.created_at
      ) then
        return 'customer_wrote';
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
  day_begins timestamptz;
  day_ends timestamptz;
begin
  if refused is not null then
    return refused;
  elsif notification.type = 'feedback' and exists (
    select
    from public.conversations v
    where v.organization_id = notification.organization_id
      and v.contact_id = notification.contact_id
      and (
        v.id = notification.conversation_id and v.satisfaction_score is not null
        -- Not how the last one was, in the middle of the next one.
        or notification.booking_id is null and v.is_open
      )
  ) then
    return 'not_asked_any_more';
  end if;
  zone := private.zone_of(notification.organization_id, (
    select b.location_id
    from public.bookings b
    where b.organization_id = notification.organization_id and b.id = notification.booking_id
  ));
  day_begins := date_trunc('day', at at time zone zone) at time zone zone;
  day_ends := (date_trunc('day', at at time zone zone) + interval '1 day') at time zone zone;
  if notification.type = 'feedback' then
    -- One question a day, and that about the last visit; about a conversation, if there was no visit.
    if exists (
      select
      from public.notifications n
      where n.organization_id = notification.organization_id
        and n.contact_id = notification.contact_id
        and n.type = 'feedback'
        and n.status = 'sent'
        and n.sent_at >= day_begins
        and n.sent_at < day_ends
        and n.id <> notification.id
    ) then
      return 'asked_today';
    elsif exists (
      select
      from public.notifications n
      where n.organization_id = notification.organization_id
        and n.contact_id = notification.contact_id
        and n.type = 'feedback'
        and n.status = 'pending'
        and n.scheduled_for < day_ends
        and (coalesce(n.booking_start_time, '-infinity'), n.id) > (coalesce(notification.booking_start_time, '-infinity'), notification.id)
    ) then
      return 'overtaken';
    end if;
  end if;
  -- What has happened to his visit he is told in any case.
  if notification.type not in ('confirmation', 'cancellation') and (
    select count(*)
    from public.notifications n
    where n.organization_id = notification.organization_id
      and n.contact_id = notification.contact_id
      and n.type not in ('confirmation', 'cancellation')
      and n.sent_at >= day_begins
      and n.sent_at < day_ends
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
  select q.until, notification.type = 'reminder' and q.until >= b.start_time
  into quiet
  from public.organization_settings s
  left join public.bookings b on b.organization_id = s.organization_id and b.id = notification.booking_id
  cross join lateral private.end_of_quiet_hours(s.quiet_hours, private.zone_of(s.organization_id, b.location_id), at) q (until)
  where s.organization_id = notification.organization_id
    -- What would come too late in the morning is said at night: an offer that would be over; and that a visit is not when the
    -- customer thinks it is, who would be there by then, or on his way.
    and (case
      when notification.type = 'waiting_list_offer' then q.until >= b.hold_expires_at
      when notification.type in ('confirmation', 'cancellation') then
        notification.needed_by > at and q.until > notification.needed_by - interval '2 hours'
    end) is not true;
  return quiet;
end;
$$;
comment on function private.quiet_time(public.notifications, timestamptz) is
  'Until when a notification is put off, and whether that is too late for it; until is null when it may be sent now, or had better be.';

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
    conversation := private.conversation_to_notify(notification, at);
  end if;
  -- From here on no booking moves or cancels it.
  select n.* into notification
  from public.notifications n
  where n.organization_id = notification.organization_id and n.id = notification.id
  for no key update;
  if notification.contact_id <> of_contact then
    -- Its booking is somebody else's since, whom we have not locked.
    return private.put_off_job(held, now(), 'another_contact');
  elsif notification.status <> 'pending' then
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
    window_open := private.is_window_open(conversation.organization_id, conversation.contact_id, conversation.instance_id, at);
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
        perform private.unassign_variants(notification.organization_id, notification.contact_id, at);
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
  put_off text;
  zone text;
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
    zone := private.zone_of(notification.organization_id, (
      select b.location_id
      from public.bookings b
      where b.organization_id = notification.organization_id and b.id = notification.booking_id
    ));
    put_off := case
      when quiet.until is not null and quiet.is_too_late is not true then 'quiet_hours'
      -- It says "amanhã", and that is today by now: it is said anew.
      when quiet.until is null
        and notification.booking_id is not null
        and (notification.sent_at at time zone zone)::date <> (at at time zone zone)::date
        then 'another_day'
    end;
    if put_off is not null then
      begin
        update public.notifications n
        set status = 'pending',
            reason = null,
            scheduled_for = coalesce(quiet.until, at),
            version = n.version + 1,
            message_id = null,
            sent_at = null
        where n.organization_id = notification.organization_id and n.id = notification.id;
        return put_off;
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
  'Asks once more, before the provider is called for a notification''s message: between its time and this one a number may have been paused for hours. Answers why it must not go out now, which is noted (in quiet hours, and on another day than the one that it speaks of, it is put off); null when it may. The contact and the message are locked by the caller, begin_send().';

create function private.tg_messages__fail_notification()
returns trigger
language plpgsql
volatile
security definer -- whoever learns that a message failed need not be allowed to write notifications
set search_path = ''
as $$
begin
  update public.notifications n
  set status = 'failed', reason = coalesce(new.error_code, 'failed'), sent_at = null
  where n.organization_id = new.organization_id and n.message_id = new.id and n.status = 'sent';
  return null;
end;
$$;
comment on function private.tg_messages__fail_notification() is 'Trigger: a notification whose message failed was not sent.';
create trigger messages_900_fail_notification
  after update of status on public.messages
  for each row when (new.status = 'failed' and old.status <> 'failed' and new.sender = 'system')
  execute function private.tg_messages__fail_notification();

create function private.tg_notifications__unassign_variants()
returns trigger
language plpgsql
volatile
security definer -- whoever takes a notification back need not be allowed to write assignments
set search_path = ''
as $$
begin
  perform private.unassign_variants(new.organization_id, new.contact_id, old.sent_at);
  return null;
end;
$$;
comment on function private.tg_notifications__unassign_variants() is 'Trigger: a text that was taken back, or failed, was shown to nobody.';
create trigger notifications_900_unassign_variants
  after update of status on public.notifications
  for each row when (old.status = 'sent' and new.status <> 'sent')
  execute function private.tg_notifications__unassign_variants();
