-- Business events: what endpoints are told of leads, bookings, the waiting list and merged contacts, in the transaction of
-- the change.
--
-- private.booking_change() names what happened to a booking. Whoever else must follow bookings (notifications, a calendar, the
-- event store) hangs a trigger of its own beside bookings_900_emit_change and asks the same function.

-- Bookings --------------------------------------------------------------------------------------------------------

create function private.booking_change(before public.bookings, after public.bookings)
returns text
language plpgsql -- SQL with a SET clause would be parsed and planned in every transaction
immutable
set search_path = ''
as $$
begin
  return case
    when before.id is null then case after.status when 'hold' then 'held' else 'created' end
    when before.status = after.status or before.status = 'confirmed' and after.status = 'scheduled' then case
      when (before.start_time, before.end_time) <> (after.start_time, after.end_time)
        or (before.professional_id, before.location_id) is distinct from (after.professional_id, after.location_id)
        then case when after.is_live then 'rescheduled' end
      when (before.contact_id, before.pet_id, before.service_id, before.price_cents, before.notes, before.metadata)
        is distinct from (after.contact_id, after.pet_id, after.service_id, after.price_cents, after.notes, after.metadata)
        then 'updated'
    end
    when before.status = 'hold' then case after.status when 'cancelled' then 'released' else 'created' end
    when after.status = 'scheduled' then 'rescheduled'
    else after.status::text
  end;
end;
$$;
comment on function private.booking_change(public.bookings, public.bookings) is
  'What happened to a booking: held, released (a hold ended unused), created, updated, rescheduled, confirmed, completed, cancelled or no_show; null when nothing that anybody would want to know.';

create function private.booking_event(booking public.bookings)
returns jsonb
language plpgsql
stable
security definer -- whoever books need not see every table that an event speaks of
set search_path = ''
as $$
begin
  return jsonb_build_object(
    'booking', jsonb_build_object(
      'id', booking.id,
      'contact_id', booking.contact_id,
      'pet_id', booking.pet_id,
      'service_id', booking.service_id,
      'professional_id', booking.professional_id,
      'location_id', booking.location_id,
      'status', booking.status,
      'start_time', booking.start_time,
      'end_time', booking.end_time,
      'booking_date', booking.booking_date,
      'timezone', private.zone_of(booking.organization_id, booking.location_id),
      'hold_expires_at', booking.hold_expires_at,
      'is_offer', booking.is_offer,
      'created_by', booking.created_by,
      'price_cents', booking.price_cents,
      'confirmed_at', booking.confirmed_at,
      'confirmed_by', booking.confirmed_by,
      'cancelled_at', booking.cancelled_at,
      'cancellation_reason', booking.cancellation_reason,
      'completed_at', booking.completed_at,
      'rescheduled_count', booking.rescheduled_count,
      'original_start_time', booking.original_start_time,
      'created_at', booking.created_at),
    'contact', private.contact_of_event(booking.organization_id, booking.contact_id)
  );
end;
$$;
comment on function private.booking_event(public.bookings) is 'What an event says of a booking. Notes are not told: they may be medical.';

create function private.tg_bookings__emit_change()
returns trigger
language plpgsql
volatile
security definer -- whoever books need not be allowed to write deliveries
set search_path = ''
as $$
declare
  change constant text := private.booking_change(case when tg_op = 'UPDATE' then old end, new);
begin
  if change is not null and private.are_events_wanted(array[new.organization_id]) then
    perform private.emit_webhook_events(array[
      row(new.organization_id, 'booking.' || change, private.booking_event(new))::private.webhook_event
    ]);
  end if;
  return null;
end;
$$;
comment on function private.tg_bookings__emit_change() is 'Trigger: every change of a booking.';
create trigger bookings_900_emit_change
  after insert or update on public.bookings
  for each row execute function private.tg_bookings__emit_change();

-- The waiting list --------------------------------------------------------------------------------------------------

create function private.tg_waiting_list__emit_change()
returns trigger
language plpgsql
volatile
security definer -- whoever joins need not be allowed to write deliveries
set search_path = ''
as $$
begin
  if private.are_events_wanted(array[new.organization_id]) then
    perform private.emit_webhook_events(array[
      row(
        new.organization_id,
        'waiting_list.' || case new.status when 'waiting' then 'joined' when 'cancelled' then 'left' else new.status::text end,
        jsonb_build_object(
          'entry', jsonb_build_object(
            'id', new.id,
            'contact_id', new.contact_id,
            'service_id', new.service_id,
            'professional_id', new.professional_id,
            'location_id', new.location_id,
            'pet_id', new.pet_id,
            'priority', new.priority,
            'status', new.status,
            'offered_booking_id', new.offered_booking_id,
            'offer_expires_at', new.offer_expires_at,
            'created_at', new.created_at),
          'contact', private.contact_of_event(new.organization_id, new.contact_id))
      )::private.webhook_event
    ]);
  end if;
  return null;
end;
$$;
comment on function private.tg_waiting_list__emit_change() is 'Trigger: somebody waits, is offered a slot, got it, let it pass, or left.';
create trigger waiting_list_900_emit_joined
  after insert on public.waiting_list
  for each row execute function private.tg_waiting_list__emit_change();
create trigger waiting_list_900_emit_change
  after update of status on public.waiting_list
  for each row when (old.status <> new.status)
  execute function private.tg_waiting_list__emit_change();

-- Leads -------------------------------------------------------------------------------------------------------------

create function private.tg_leads__emit_change()
returns trigger
language plpgsql
volatile
security definer -- whoever moves a lead need not be allowed to write deliveries
set search_path = ''
as $$
declare
  event_type text;
begin
  if not private.are_events_wanted(array[new.organization_id]) then
    return null;
  end if;
  event_type := case
    when tg_op = 'INSERT' then case when new.over_limit then 'lead.over_limit' else 'lead.created' end
    when old.over_limit and not new.over_limit then 'lead.released'
    else 'lead.status_changed'
  end;
  perform private.emit_webhook_events(array[
    row(
      new.organization_id,
      event_type,
      case event_type
        -- What the plan hides, an endpoint does not show either.
        when 'lead.over_limit' then jsonb_build_object('lead_id', new.id)
        else jsonb_build_object(
          'lead', jsonb_build_object(
            'id', new.id,
            'contact_id', new.contact_id,
            'professional_id', new.professional_id,
            'status', new.status,
            'previous_status', case when tg_op = 'UPDATE' then old.status end,
            'source', new.source,
            'respostas', new.respostas,
            'closed_at', new.closed_at,
            'lost_reason', new.lost_reason,
            'created_at', new.created_at),
          'contact', private.contact_of_event(new.organization_id, new.contact_id))
      end
    )::private.webhook_event
  ]);
  return null;
end;
$$;
comment on function private.tg_leads__emit_change() is 'Trigger: a lead came, moved, waits behind the plan''s limit, or was released by an upgrade.';
create trigger leads_900_emit_created
  after insert on public.leads
  for each row execute function private.tg_leads__emit_change();
create trigger leads_900_emit_change
  after update of status, over_limit on public.leads
  for each row when (old.over_limit and not new.over_limit or old.status <> new.status and not new.over_limit)
  execute function private.tg_leads__emit_change();

-- Merged contacts -----------------------------------------------------------------------------------------------------

create function private.tg_contact_merges__emit_change()
returns trigger
language plpgsql
volatile
security definer -- whoever merges need not be allowed to write deliveries
set search_path = ''
as $$
begin
  if private.are_events_wanted(array[new.organization_id]) then
    perform private.emit_webhook_events(array[
      row(
        new.organization_id,
        case when new.undone_at is null then 'contact.merged' else 'contact.unmerged' end,
        jsonb_build_object(
          'merge_id', new.id, 'kept_contact_id', new.kept_contact_id, 'merged_contact_id', new.merged_contact_id)
      )::private.webhook_event
    ]);
  end if;
  return null;
end;
$$;
comment on function private.tg_contact_merges__emit_change() is 'Trigger: two contacts became one, or two again: what refers to the merged one follows.';
create trigger contact_merges_900_emit_merged
  after insert on public.contact_merges
  for each row execute function private.tg_contact_merges__emit_change();
create trigger contact_merges_900_emit_unmerged
  after update of undone_at on public.contact_merges
  for each row when (old.undone_at is null and new.undone_at is not null)
  execute function private.tg_contact_merges__emit_change();
