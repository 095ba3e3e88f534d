-- A customer is reminded once, at the right local time, not in quiet hours, not of what was cancelled, not against his wish;
-- and what he answers is done.
begin;
-- What this story defines may run as anyone; rolled back with the rest.
alter default privileges grant execute on functions to public;
select no_plan();

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
-- A message like any other: its id says when.
update public.messages set id = private.uuid_v7() where whatsapp_message_id like 'first-of-%';

create function pg_temp.as_member(role text)
returns void
language sql
as $$ select tests.authenticate_as(tests.the('clinic', role || '_id')) $$;
create function pg_temp.clinic()
returns uuid
language sql
as $$ select tests.the('clinic', 'organization_id') $$;
create function pg_temp.maria()
returns uuid
language sql
as $$ select tests.the('clinic', 'contact_id') $$;
create sequence pg_temp.ids;
grant all on sequence pg_temp.ids to public;

-- Tomorrow and later, so many days from today, at a local time.
create function pg_temp.day(days int, local_time time, zone text default 'America/Sao_Paulo')
returns timestamptz
language sql
as $$ select ((now() at time zone zone)::date + days + local_time) at time zone zone $$;
create function pg_temp.book(start_time timestamptz, creator public.booking_creator default 'system', who uuid default null)
returns uuid
language plpgsql
as $$
begin
  perform tests.authenticate_as_nobody();
  return (private.create_booking(
    coalesce(who, pg_temp.maria()), tests.the('clinic', 'service_id'), start_time, null, null, null, null, creator, true, null, null,
    pg_temp.clinic())).id;
end;
$$;
-- The notifications of a booking, in local time.
create function pg_temp.told(booking uuid, zone text default 'America/Sao_Paulo')
returns text
language sql
as $$
  select string_agg(concat_ws(' ', n.type, n.offset_minutes, to_char(n.scheduled_for at time zone zone, 'DD/MM HH24:MI'), n.status, n.reason), E'\n'
    order by n.type, n.scheduled_for, n.id)
  from public.notifications n where n.booking_id = told.booking and n.type in ('reminder', 'feedback')
$$;
create function pg_temp.of_type(booking uuid, type public.notification_type)
returns public.notifications
language sql
as $$ select n from public.notifications n where n.booking_id = of_type.booking and n.type = of_type.type order by n.id desc limit 1 $$;
create function pg_temp.writes(at timestamptz)
returns void
language sql
as $$ update public.conversations set last_inbound_at = at where organization_id = pg_temp.clinic() $$;
-- The clock strikes: what is due at that moment is sent, or not; what came of it. Maria wrote an hour ago.
create function pg_temp.strike(at timestamptz, window_open boolean default true)
returns text
language plpgsql
as $$
declare
  job record;
  results text[] := '{}';
begin
  perform tests.authenticate_as_nobody();
  if window_open then
    perform pg_temp.writes(at - interval '1 hour');
  end if;
  perform private.enqueue_due_notifications(at);
  for job in
    select c.* from public.claim_jobs('test', 50, array['send_notification']) c
  loop
    results := results || (private.send_notification(
      jsonb_build_object('organization_id', job.organization_id, 'id', job.id, 'fencing_token', job.fencing_token), at) ->> 'reason');
  end loop;
  return coalesce((select string_agg(r, ', ' order by r) from unnest(results) r), 'nothing');
end;
$$;
-- Of what this part of the story is not about.
create function pg_temp.forget(variadic types public.notification_type[])
returns void
language sql
as $$
  delete from public.notifications n where n.type = any (types);
  delete from public.message_queue q where q.job_type = 'send_notification' and not exists (
    select from public.notifications n where n.id = (q.payload ->> 'notification_id')::uuid)
$$;
create function pg_temp.last_words()
returns public.messages
language sql
as $$
  select m from public.messages m where m.organization_id = pg_temp.clinic() and m.direction = 'outbound' order by m.id desc limit 1
$$;
-- What waits for the number leaves the house, and reaches Maria's phone.
create function pg_temp.leaves(at timestamptz default now())
returns void
language sql
as $$
  update public.messages
  set status = 'delivered', sent_at = at, delivered_at = at, whatsapp_message_id = coalesce(whatsapp_message_id, 'wamid.' || id)
  where organization_id = pg_temp.clinic() and direction = 'outbound' and status = 'queued'
$$;
-- Maria writes, or taps; what came of it, by the worker. Of what was said to her she has read all, unless this is about that.
create function pg_temp.says(
  words text, tapped text default null, quoting text default null, at timestamptz default now(), sender text default '5511987654321',
  has_read boolean default true
)
returns text
language plpgsql
as $$
declare
  id constant text := 'in-' || nextval('pg_temp.ids');
  job record;
  results text[] := '{}';
begin
  perform tests.authenticate_as_nobody();
  if has_read then
    perform pg_temp.leaves();
  end if;
  perform tests.deliver('clinic', tests.a_message(id, sender, words, at) || jsonb_strip_nulls(jsonb_build_object(
    'message_type', case when tapped is null then 'text' else 'button' end,
    'reply_to_whatsapp_message_id', quoting,
    'metadata', case when tapped is not null then jsonb_build_object('interactive', jsonb_build_object('id', tapped)) end)));
  for job in
    select c.* from public.claim_jobs('test', 50, array['answer_notification']) c
  loop
    results := results || (private.answer_notification(
      jsonb_build_object('organization_id', job.organization_id, 'id', job.id, 'fencing_token', job.fencing_token)) ->> 'reason');
  end loop;
  return coalesce((select string_agg(r, ', ') from unnest(results) r), 'nothing');
end;
$$;
create function pg_temp.status(booking uuid)
returns text
language sql
as $$ select concat_ws(' ', b.status, b.confirmed_by, b.confirmation_method, b.cancellation_reason) from public.bookings b where b.id = booking $$;
create temporary table it (name text primary key, id uuid);
grant all on it to public;
create function pg_temp.the(name text)
returns uuid
language sql
as $$ select i.id from it i where i.name = the.name $$;

-- Scheduled with the booking ------------------------------------------------------------------------------------------
insert into it values ('visit', pg_temp.book(pg_temp.day(3, '14:30'), 'flow'));
select is(pg_temp.told(pg_temp.the('visit')),
  format(E'reminder 1440 %s 14:30 pending\nreminder 120 %s 12:30 pending', to_char(pg_temp.day(2, '12:00'), 'DD/MM'), to_char(pg_temp.day(3, '12:00'), 'DD/MM')),
  'a booking brings its reminders: a day and two hours before');
select is((pg_temp.of_type(pg_temp.the('visit'), 'confirmation')).id, null, 'the bot that booked has said so itself');
insert into it values ('soon', pg_temp.book(now() + interval '90 minutes'));
select is(pg_temp.told(pg_temp.the('soon')), null, 'reminders whose time is over are not made up for');
select is((pg_temp.of_type(pg_temp.the('soon'), 'confirmation')).status, 'pending', 'what somebody else booked, the customer is told');
select private.cancel_booking(pg_temp.the('soon'), null, pg_temp.clinic());
select is((pg_temp.of_type(pg_temp.the('soon'), 'confirmation')).reason, 'booking_cancelled', 'unless it is cancelled before');
select pg_temp.forget('cancellation', 'confirmation');

select private.reschedule_booking(pg_temp.the('visit'), pg_temp.day(4, '09:00'), null, null, true, pg_temp.clinic());
select is(pg_temp.told(pg_temp.the('visit')),
  format(E'reminder 1440 %s 09:00 pending\nreminder 120 %s 07:00 pending', to_char(pg_temp.day(3, '12:00'), 'DD/MM'), to_char(pg_temp.day(4, '12:00'), 'DD/MM')),
  'moved with it');
select pg_temp.forget('confirmation');
select is(pg_temp.strike(pg_temp.day(2, '14:30')), 'nothing', 'at the old time nothing goes out');

-- Sent, once ------------------------------------------------------------------------------------------------------------
select is(pg_temp.strike(pg_temp.day(3, '08:59')), 'nothing', 'a minute early is too early');
select is(pg_temp.strike(pg_temp.day(3, '09:00')), 'sent', 'at the right local time it goes out');
select is(pg_temp.strike(pg_temp.day(3, '09:00')), 'nothing', 'once');
select is((pg_temp.last_words()).content,
  format('Olá, Maria! 😊 Passando para lembrar do seu horário na clinic: Consulta com Ana, amanhã, %s, às 9h. Podemos contar com a sua presença?',
    private.spoken_date(pg_temp.day(4, '09:00')::date)), 'in our words, where the clinic has none');
select results_eq(
  $$ select b ->> 'title' from jsonb_array_elements((pg_temp.last_words()).payload -> 'buttons') b $$,
  $$ values ('Confirmar'), ('Remarcar'), ('Cancelar') $$, 'with three buttons');
select is((pg_temp.last_words()).sender, 'system', 'whoever is in control');
select is((pg_temp.last_words()).client_message_id, 'notification:' || (pg_temp.of_type(pg_temp.the('visit'), 'reminder')).id, 'under the id of its notification')
where (pg_temp.of_type(pg_temp.the('visit'), 'reminder')).offset_minutes = 1440;

-- Two jobs for one, as a worker that was taken for dead leaves them.
select is(count(*), 1::bigint, 'a second job finds it sent, and there is one message') from (
  select public.send_notification(jsonb_build_object('organization_id', c.organization_id, 'id', c.id, 'fencing_token', c.fencing_token))
  from public.enqueue_job(pg_temp.clinic(), 'send_notification', jsonb_build_object('notification_id', (
    select n.id from public.notifications n where n.booking_id = pg_temp.the('visit') and n.status = 'sent')))
  cross join lateral public.claim_jobs('test', 1, array['send_notification']) c) again
join public.messages m on m.client_message_id like 'notification:%';

-- Quiet hours -----------------------------------------------------------------------------------------------------------
select is(pg_temp.strike(pg_temp.day(4, '07:00')), 'quiet_hours', 'two hours before nine it is quiet');
select is(pg_temp.strike(pg_temp.day(4, '07:59')), 'nothing', 'nor a minute before their end');
select is(pg_temp.strike(pg_temp.day(4, '08:00')), 'sent', 'at their end it goes out: the visit is still to come');
insert into it values ('early', pg_temp.book(pg_temp.day(10, '08:00'), 'flow'));
delete from public.notifications where booking_id = pg_temp.the('early') and offset_minutes = 1440;
select is(pg_temp.strike(pg_temp.day(10, '06:00')), 'quiet_hours', 'before a visit at eight it stays quiet');
select is(concat_ws(' ', n.status, n.reason), 'skipped quiet_hours', 'and says why nobody was reminded')
from pg_temp.of_type(pg_temp.the('early'), 'reminder') n;


-- What has happened to a visit is not kept from who would come.
select set_config('balcao.customer_is_told', '', true);
create function pg_temp.changed(name text, start_time timestamptz, moved_to timestamptz[], at timestamptz)
returns text
language plpgsql
as $$
begin
  insert into it values (changed.name, pg_temp.book(changed.start_time, 'flow'));
  if moved_to is null then
    perform private.cancel_booking(pg_temp.the(changed.name), null, pg_temp.clinic());
  end if;
  for n in 1 .. coalesce(cardinality(moved_to), 0) loop
    perform private.reschedule_booking(pg_temp.the(changed.name), moved_to[n], null, null, true, pg_temp.clinic());
  end loop;
  delete from public.notifications n where n.booking_id = pg_temp.the(changed.name) and n.type = 'reminder';
  update public.notifications n set scheduled_for = changed.at
  where n.booking_id = pg_temp.the(changed.name) and n.status = 'pending';
  delete from public.message_queue where job_type = 'send_notification';
  return pg_temp.strike(changed.at);
end;
$$;
select is(pg_temp.changed('off early', pg_temp.day(12, '07:30'), null, pg_temp.day(11, '21:30')), 'sent', 'a visit before the end of the quiet hours is cancelled in them: he is told at once');
select is(pg_temp.changed('off soon after', pg_temp.day(12, '09:30'), null, pg_temp.day(11, '21:31')), 'sent', 'so is one for which he would be on his way by then');
select is(pg_temp.changed('off later', pg_temp.day(12, '15:00'), null, pg_temp.day(11, '21:32')), 'quiet_hours', 'that there is none in the afternoon he hears');
select is(pg_temp.strike(pg_temp.day(12, '08:00')), 'sent', 'in the morning');
select is(pg_temp.changed('off before', pg_temp.day(13, '20:00'), null, pg_temp.day(13, '21:30')), 'quiet_hours', 'where it is too late anyhow, nobody is woken');
select is(pg_temp.strike(pg_temp.day(14, '08:00')), 'sent', 'but told in the morning why the door was closed');
select is(pg_temp.changed('off long ago', pg_temp.day(13, '07:00'), null, pg_temp.day(14, '09:00')), 'too_late', 'not days later');
select is(pg_temp.changed('moved away', pg_temp.day(15, '07:30'), array[pg_temp.day(15, '16:00')], pg_temp.day(14, '21:30')), 'sent', 'one that is moved away from the early morning is told at once');
select is(pg_temp.changed('moved away twice', pg_temp.day(16, '07:30'), array[pg_temp.day(16, '16:00'), pg_temp.day(16, '17:00')], pg_temp.day(15, '21:30')), 'sent', 'though it was moved once more before he heard of it');
select is(pg_temp.changed('moved here', pg_temp.day(17, '16:00'), array[pg_temp.day(17, '07:30')], pg_temp.day(16, '21:30')), 'sent', 'and one that is moved there');
select is(pg_temp.changed('moved on', pg_temp.day(18, '16:00'), array[pg_temp.day(18, '17:00')], pg_temp.day(17, '21:30')), 'quiet_hours', 'but not one in the afternoon');
select is(pg_temp.strike(pg_temp.day(18, '08:00')), 'sent', 'which waits');
select private.cancel_booking(b.id, null, pg_temp.clinic()) from public.bookings b where b.organization_id = pg_temp.clinic() and b.start_time between pg_temp.day(11, '00:00') and pg_temp.day(19, '00:00') and b.status = 'scheduled';
select pg_temp.forget('cancellation', 'confirmation');

select is(
  to_char(private.end_of_quiet_hours(quiet, zone, at::timestamptz) at time zone zone, 'YYYY-MM-DD HH24:MI'), ends, format('%s in %s: quiet until %s', at, zone, ends))
from (values
  ('{"starts_at": "21:00", "ends_at": "08:00"}'::jsonb, 'America/Sao_Paulo', '2027-01-10T20:59-03', null::text),
  ('{"starts_at": "21:00", "ends_at": "08:00"}', 'America/Sao_Paulo', '2027-01-10T21:00-03', '2027-01-11 08:00'),
  ('{"starts_at": "21:00", "ends_at": "08:00"}', 'America/Sao_Paulo', '2027-01-10T07:59-03', '2027-01-10 08:00'),
  ('{"starts_at": "21:00", "ends_at": "08:00"}', 'America/Sao_Paulo', '2027-01-10T08:00-03', null),
  ('{"starts_at": "12:00", "ends_at": "13:30"}', 'America/Sao_Paulo', '2027-01-10T12:00-03', '2027-01-10 13:30'),
  ('{"starts_at": "12:00", "ends_at": "13:30"}', 'America/Sao_Paulo', '2027-01-10T00:00-03', null),
  ('{}', 'America/Sao_Paulo', '2027-01-10T03:00-03', null),
  -- The night in which the clock goes forward is an hour shorter, the one in which it goes back an hour longer.
  ('{"starts_at": "21:00", "ends_at": "08:00"}', 'America/New_York', '2027-03-13T22:00-05', '2027-03-14 08:00'),
  ('{"starts_at": "21:00", "ends_at": "08:00"}', 'America/New_York', '2027-11-06T22:00-04', '2027-11-07 08:00'),
  ('{"starts_at": "21:00", "ends_at": "02:30"}', 'America/New_York', '2027-03-13T22:00-05', '2027-03-14 03:30'),
  -- 1:15 comes twice: the quiet hours end once it is half past one for the second time.
  ('{"starts_at": "21:00", "ends_at": "01:30"}', 'America/New_York', '2027-11-07T01:15-04', '2027-11-07 01:30'),
  ('{"starts_at": "21:00", "ends_at": "01:30"}', 'America/New_York', '2027-11-07T01:15-05', '2027-11-07 01:30')
) q (quiet, zone, at, ends);
select is(private.end_of_quiet_hours('{"starts_at": "21:00", "ends_at": "08:00"}', 'America/New_York', '2027-03-13T22:00-05'), '2027-03-14T12:00Z', 'nine hours of that night');
select is(private.end_of_quiet_hours('{"starts_at": "21:00", "ends_at": "08:00"}', 'America/New_York', '2027-11-06T22:00-04'), '2027-11-07T13:00Z', 'eleven of the other');
select throws_ok(
  format($$ update public.organization_settings set quiet_hours = %L where organization_id = pg_temp.clinic() $$, bad), '23514', null, format('%s are no quiet hours', bad))
from unnest(array['{"starts_at": "25:00", "ends_at": "08:00"}', '{"starts_at": "21:00"}', '{"starts_at": "08:00", "ends_at": "08:00"}', '[]']) bad;

-- Daylight saving, by an injected clock ---------------------------------------------------------------------------------
select is(to_char(private.reminder_time(visit::timestamptz, minutes, zone) at time zone zone, 'DD/MM HH24:MI'), due, format('%s minutes before %s in %s', minutes, visit, zone))
from (values
  ('2027-03-14T10:00-04', 1440, 'America/New_York', '13/03 10:00'),
  ('2027-03-14T10:00-04', 120, 'America/New_York', '14/03 08:00'),
  ('2027-03-14T03:30-04', 120, 'America/New_York', '14/03 00:30'),
  ('2027-11-07T10:00-05', 1440, 'America/New_York', '06/11 10:00'),
  ('2027-11-07T10:00-05', 2880, 'America/New_York', '05/11 10:00'),
  ('2027-04-04T09:00-04', 1440, 'America/Santiago', '03/04 09:00'),
  ('2027-03-10T09:00-03', 1440, 'America/Sao_Paulo', '09/03 09:00')
) r (visit, minutes, zone, due);
update public.organizations set timezone = 'America/New_York' where id = pg_temp.clinic();
insert into it values ('spring', pg_temp.book('2027-03-14T10:00-04', 'flow')), ('autumn', pg_temp.book('2027-11-07T10:00-05', 'flow'));
select is(pg_temp.strike('2027-03-13T09:59-05'), 'nothing', 'the day before the clock goes forward: not before ten, local time');
select is(pg_temp.strike('2027-03-13T10:00-05'), 'sent', 'but at ten, 23 hours before');
select alike((pg_temp.last_words()).content, '%amanhã, domingo, 14 de março, às 10h.%', 'and tells the hour that the wall clock will show');
select is(pg_temp.strike('2027-03-14T07:59-04'), 'nothing', 'in the morning two hours are two hours');
select is(pg_temp.strike('2027-03-14T08:00-04'), 'sent', 'at eight, which is the end of the quiet hours');
select is(pg_temp.strike('2027-11-06T09:59-04'), 'nothing', 'the day before it goes back: not before ten');
select is(pg_temp.strike('2027-11-06T10:00-04'), 'sent', 'but at ten, 25 hours before');
select is(pg_temp.strike('2027-11-07T07:59-05'), 'nothing', 'nor on the day');
select is(pg_temp.strike('2027-11-07T08:00-05'), 'sent', 'before eight');
select is(count(*), 4::bigint, 'four reminders, four messages')
from public.notifications n join public.messages m on m.id = n.message_id where n.booking_id in (pg_temp.the('spring'), pg_temp.the('autumn'));
update public.organizations set timezone = 'America/Sao_Paulo' where id = pg_temp.clinic();

-- Not sent ----------------------------------------------------------------------------------------------------------------
insert into it values ('cancelled', pg_temp.book(pg_temp.day(20, '15:00'), 'flow'));
select private.cancel_booking(pg_temp.the('cancelled'), null, pg_temp.clinic());
select is(pg_temp.told(pg_temp.the('cancelled')),
  format(E'reminder 1440 %s 15:00 cancelled booking_cancelled\nreminder 120 %s 13:00 cancelled booking_cancelled', to_char(pg_temp.day(19, '12:00'), 'DD/MM'), to_char(pg_temp.day(20, '12:00'), 'DD/MM')),
  'a cancelled booking cancels its reminders');
select pg_temp.forget('cancellation');
select is(pg_temp.strike(pg_temp.day(20, '14:00')), 'nothing', 'nothing goes out after it');

insert into it values ('withdrawn', pg_temp.book(pg_temp.day(21, '15:00'), 'flow'));
select pg_temp.strike(pg_temp.day(20, '15:00'));
select is((pg_temp.last_words()).status, 'queued', 'a reminder whose message waits for the number');
select private.cancel_booking(pg_temp.the('withdrawn'), null, pg_temp.clinic());
select is(concat_ws(' ', m.status, m.error_code), 'failed superseded', 'is taken back when the booking is cancelled') from pg_temp.last_words() m;
select is((select string_agg(n.status::text, ' ') from public.notifications n where n.booking_id = pg_temp.the('withdrawn') and n.type = 'reminder'), 'cancelled cancelled', 'and noted so');
select pg_temp.forget('cancellation');

insert into it values ('late', pg_temp.book(pg_temp.day(25, '15:00'), 'flow'));
select is(pg_temp.strike(pg_temp.day(25, '14:00')), 'overtaken, sent', 'after a day of silence one reminder goes out, the later one');
insert into it values ('over', pg_temp.book(pg_temp.day(26, '15:00'), 'flow'));
select is(pg_temp.strike(pg_temp.day(26, '15:01')), 'too_late, too_late', 'and none once the visit has begun');

insert into it values ('blocked', pg_temp.book(pg_temp.day(30, '15:00'), 'flow'));
update public.contacts set status = 'blocked' where id = pg_temp.maria();
select is(pg_temp.strike(pg_temp.day(29, '15:00')), 'blocked', 'who is blocked is not reminded');
update public.contacts set status = 'active' where id = pg_temp.maria();

select pg_temp.strike(pg_temp.day(30, '15:01'));
update public.organization_settings set notification_daily_cap = 1 where organization_id = pg_temp.clinic();
insert into it values ('one', pg_temp.book(pg_temp.day(41, '15:00'), 'flow')), ('two', pg_temp.book(pg_temp.day(41, '16:00'), 'flow'));
select is(pg_temp.strike(pg_temp.day(40, '16:00')), 'daily_cap, sent', 'no more than so many a day');
select is(pg_temp.strike(pg_temp.day(41, '13:00')), 'sent', 'on the next day there is room again');
update public.organization_settings set notification_daily_cap = 100 where organization_id = pg_temp.clinic();
select pg_temp.strike(pg_temp.day(41, '14:59'));

-- Told in any case, and counted once it is said --------------------------------------------------------------------------
select set_config('balcao.customer_is_told', '', true);
update public.organization_settings set quiet_hours = '{}', notification_daily_cap = 1 where organization_id = pg_temp.clinic();
insert into it values ('moved about', pg_temp.book(pg_temp.day(43, '09:00'), 'human'));
select is(pg_temp.strike(now()), 'sent', 'what was booked is told');
select is(string_agg((select pg_temp.strike(now()) from private.reschedule_booking(pg_temp.the('moved about'), pg_temp.day(43, '09:00') + n * interval '1 hour', null, null, true, pg_temp.clinic())), ' '),
  'sent sent sent', 'each time that it is moved, too: no cap counts that') from generate_series(1, 3) n;
select is(string_agg(concat_ws(' ', n.status, n.reason, n.sent_at is not null), ', ' order by n.id),
  'cancelled rescheduled f, cancelled rescheduled f, cancelled rescheduled f, sent t', 'what was taken back before it left was not said')
from public.notifications n where n.booking_id = pg_temp.the('moved about') and n.type = 'confirmation';
select pg_temp.forget('confirmation');
update public.notifications set scheduled_for = now() where booking_id = pg_temp.the('moved about') and offset_minutes = 1440;
select is(pg_temp.strike(now()), 'sent', 'a reminder');
update public.messages set status = 'failed', error_code = '131026' where id = (pg_temp.last_words()).id;
update public.notifications set scheduled_for = now() where booking_id = pg_temp.the('moved about') and offset_minutes = 120;
select is(pg_temp.strike(now()), 'sent', 'that failed is none of those that he got today');
select private.cancel_booking(pg_temp.the('moved about'), null, pg_temp.clinic());
select is(pg_temp.strike(now()), 'sent', 'and that his visit is cancelled he is told, though he had all that he gets in a day');
select pg_temp.forget('cancellation', 'reminder');
update public.organization_settings set quiet_hours = '{"starts_at": "21:00", "ends_at": "08:00"}', notification_daily_cap = 100 where organization_id = pg_temp.clinic();

-- The 24-hour window --------------------------------------------------------------------------------------------------
insert into it values ('outside', pg_temp.book(pg_temp.day(50, '15:00'), 'flow'));
select is(pg_temp.strike(pg_temp.day(49, '15:00'), false), 'outside_window', 'after 24 hours of silence our words may not be sent');
insert into public.message_templates (organization_id, name, category, template, is_default, provider_template_name, provider_template_status, provider_template_has_buttons)
values (pg_temp.clinic(), 'Lembrete', 'reminder', '{{nome}}, até {{hora}}, {{data}}!', true, 'lembrete', 'pending', true);
select is(pg_temp.strike(pg_temp.day(50, '13:00'), false), 'outside_window', 'nor a template that is not approved yet');
update public.message_templates set provider_template_status = 'approved' where organization_id = pg_temp.clinic() and name = 'Lembrete';
insert into it values ('template', pg_temp.book(pg_temp.day(51, '15:00'), 'flow'));
select is(pg_temp.strike(pg_temp.day(50, '15:00'), false), 'sent', 'an approved one may');
select is(jsonb_build_array(m.message_type, m.payload -> 'name', m.payload #> '{components,0,parameters,1,text}', m.payload #> '{components,3,index}'),
  '["template", "lembrete", "15h", "2"]', 'with its variables in order, and its quick replies') from pg_temp.last_words() m;
select is(count(*), 0::bigint, 'none of which is empty') from pg_temp.last_words() m, jsonb_path_query(m.payload, '$.components[*].parameters[*].text') t where t #>> '{}' !~ '\S';
select is(pg_temp.strike(pg_temp.day(51, '13:00')), 'sent', 'while the window is open');
select is((pg_temp.last_words()).content, format('Maria, até 15h, %s!', private.spoken_date(pg_temp.day(51, '15:00')::date)), 'the clinic''s own words are said');
delete from public.message_templates where organization_id = pg_temp.clinic() and name = 'Lembrete';

insert into public.contacts (organization_id, name, phone_number) values (pg_temp.clinic(), 'Nunca Escreveu', '+5511988880000'), (pg_temp.clinic(), 'Sem Telefone', null);
insert into it select c.name, c.id from public.contacts c where c.organization_id = pg_temp.clinic() and c.name in ('Nunca Escreveu', 'Sem Telefone');
insert into it values ('stranger', pg_temp.book(pg_temp.day(52, '15:00'), 'flow', pg_temp.the('Nunca Escreveu'))), ('unreachable', pg_temp.book(pg_temp.day(52, '16:00'), 'flow', pg_temp.the('Sem Telefone')));
select is(pg_temp.strike(pg_temp.day(51, '16:00'), false), 'outside_window, unreachable', 'who never wrote can only be sent a template; without a number, nothing');
select is(status, 'closed', 'and his conversation fills no inbox') from public.conversations where contact_id = pg_temp.the('Nunca Escreveu');
update public.notifications set status = 'cancelled' where status = 'pending';

-- Confirmed, cancelled, moved by the customer -----------------------------------------------------------------------------
select pg_temp.writes(now());
create function pg_temp.reminded(name text, start_time timestamptz)
returns uuid
language plpgsql
as $$
declare
  notification public.notifications;
begin
  insert into it values (name, pg_temp.book(start_time, 'flow')) on conflict on constraint it_pkey do update set id = excluded.id;
  -- Now is within the quiet hours or not, whenever this is told.
  update public.organization_settings set quiet_hours = '{}' where organization_id = pg_temp.clinic();
  update public.notifications set scheduled_for = now() where booking_id = pg_temp.the(name) and offset_minutes = 1440;
  update public.notifications set status = 'cancelled' where booking_id = pg_temp.the(name) and offset_minutes = 120;
  perform pg_temp.strike(now());
  select n.* into notification from public.notifications n where n.booking_id = pg_temp.the(name) and n.status = 'sent';
  return notification.id;
end;
$$;

select pg_temp.reminded('tapped', pg_temp.day(60, '09:00'));
insert into it select 'its reminder', n.id from public.notifications n where n.booking_id = pg_temp.the('tapped') and n.status = 'sent';
select is(pg_temp.says('Confirmar', 'notification:' || pg_temp.the('its reminder') || ':confirm'), 'confirmed', 'a tap confirms');
select is(pg_temp.status(pg_temp.the('tapped')), 'confirmed patient whatsapp', 'by the patient, on WhatsApp');
select alike((pg_temp.last_words()).content, 'Presença confirmada! ✅ Esperamos você: %às 9h.', 'which is answered');
select is(n.answer, 'confirm', 'and noted') from public.notifications n where n.id = pg_temp.the('its reminder');
select is(pg_temp.says('Confirmar', 'notification:' || pg_temp.the('its reminder') || ':confirm'), 'confirmed', 'a second tap changes nothing');
select is(pg_temp.says('Cancelar', 'notification:' || pg_temp.the('its reminder') || ':cancel'), 'cancelled', 'who then taps to cancel, cancels');
select is(pg_temp.status(pg_temp.the('tapped')), 'cancelled patient whatsapp Cancelado pelo cliente no WhatsApp', 'and it says who did');
select is((pg_temp.of_type(pg_temp.the('tapped'), 'cancellation')).id, null, 'what he did himself he is told once');
select is(pg_temp.says('Confirmar', 'notification:' || pg_temp.the('its reminder') || ':confirm'), 'cancelled_before', 'an old button of a cancelled booking');
select alike((pg_temp.last_words()).content, 'Esse horário já foi cancelado.%', 'says so');
select is(pg_temp.says('Confirmar', 'notification:' || gen_random_uuid() || ':confirm'), 'nothing', 'a button that we never sent is nobody''s');
select is(pg_temp.says('x', 'notification:' || pg_temp.the('its reminder') || ':5'), 'not_understood', 'nor is one that it did not have');

select is((pg_temp.reminded('moved', pg_temp.day(61, '09:00'))) is not null, true, 'a reminder of a booking');
insert into it select 'reminder of the old time', n.id from public.notifications n where n.booking_id = pg_temp.the('moved') and n.status = 'sent';
select pg_temp.leaves();
select private.reschedule_booking(pg_temp.the('moved'), pg_temp.day(62, '11:00'), null, null, true, pg_temp.clinic());
select is(pg_temp.says('Confirmar', 'notification:' || pg_temp.the('reminder of the old time') || ':confirm'), 'moved', 'that was moved since');
select is(pg_temp.status(pg_temp.the('moved')), 'scheduled', 'does not confirm the new time');
select alike((pg_temp.last_words()).content, 'Esse horário mudou: agora está marcado para %às 11h. Podemos contar com a sua presença?', 'but tells it, and asks');
select is((pg_temp.last_words()).payload #>> '{buttons,0,title}', 'Confirmar', 'with the buttons');
select pg_temp.forget('confirmation');

-- In words -------------------------------------------------------------------------------------------------------------
-- Of what this part of the story is not about, no answer is expected any more.
create function pg_temp.no_questions()
returns void
language sql
as $$ update public.notifications set answer = 'x' where status = 'sent' and answer is null $$;

select pg_temp.no_questions();
select pg_temp.reminded('in words', pg_temp.day(63, '09:00'));
select is(pg_temp.says('Será que chove?'), 'nothing', 'what is no answer is for people');
select is(pg_temp.says('Não posso parar agora'), 'nothing', 'nor is that an opt-out');
select is(pg_temp.says('Sim, confirmo! 👍', at => now() - interval '25 hours'), 'nothing', 'nor what comes days late');
select is(pg_temp.says('CONFIRMO!'), 'confirmed', 'a clear word confirms');
select is(pg_temp.status(pg_temp.the('in words')), 'confirmed patient whatsapp', 'like a tap');
select is(pg_temp.says('Sim'), 'nothing', 'once answered, a "sim" is about something else');

select pg_temp.reminded('asked', pg_temp.day(64, '09:00'));
select private.send_bot_message(tests.the('clinic', 'conversation_id'), pg_temp.clinic(), null, 'system', 'text', 'Você tem alergia?', null, null);
select is(pg_temp.says('não'), 'nothing', 'who was asked something else since answers that');
with marked as (
  update public.messages set status = 'sent', whatsapp_message_id = 'wamid.reminder'
  where client_message_id = (select 'notification:' || n.id from public.notifications n where n.booking_id = pg_temp.the('asked') and n.status = 'sent')
  returning id
)
select is(count(*), 1::bigint, 'the reminder has its id of WhatsApp by now') from marked;
select is(pg_temp.says('sim', quoting => 'wamid.reminder'), 'confirmed', 'unless he quotes the reminder');

select pg_temp.no_questions();
select pg_temp.reminded('no', pg_temp.day(65, '09:00'));
select is(pg_temp.says('não vou poder ir'), 'asked', 'who does not come is asked what he prefers');
select results_eq(
  $$ select b ->> 'title' from jsonb_array_elements((pg_temp.last_words()).payload -> 'buttons') b $$,
  $$ values ('Remarcar'), ('Cancelar') $$, 'to move it, or to cancel');
select is(pg_temp.status(pg_temp.the('no')), 'scheduled', 'until then nothing changes');
select is(pg_temp.says('sim'), 'asked', 'a "sim" to that is no answer');
select alike((pg_temp.last_words()).content, 'Entendi. Sobre o seu horário (Consulta com Ana, %, às 9h): você prefere remarcar ou cancelar?', 'about which visit, he can read');
select is(pg_temp.says('cancelar'), 'cancelled', 'so what he prefers is heard in words too');
select is(pg_temp.status(pg_temp.the('no')), 'cancelled Cancelado pelo cliente no WhatsApp', 'and done');

select pg_temp.reminded('twin one', pg_temp.day(66, '09:00'));
select pg_temp.reminded('twin two', pg_temp.day(66, '10:00'));
select is(pg_temp.says('confirmo'), 'unclear', 'two visits, one "confirmo": which one is not guessed');
select is(pg_temp.status(pg_temp.the('twin one')) || pg_temp.status(pg_temp.the('twin two')), 'scheduledscheduled', 'and neither is confirmed');
select is(pg_temp.says('confirmo'), 'unclear', 'nor when he says it again');
select private.cancel_booking(pg_temp.the('twin one'), null, pg_temp.clinic());
select pg_temp.forget('cancellation');
select is(pg_temp.says('sim'), 'confirmed', 'once one of them is cancelled there is nothing to guess');
select is(pg_temp.status(pg_temp.the('twin two')), 'confirmed patient whatsapp', 'the other one is meant');

-- What cancels or moves a visit is asked back --------------------------------------------------------------------------
select pg_temp.reminded('asked back', pg_temp.day(190, '09:00'));
insert into it select 'its words', n.id from public.notifications n where n.booking_id = pg_temp.the('asked back') and n.status = 'sent';
select is(pg_temp.says('cancelar'), 'asked_cancel', 'a word cancels nothing yet');
select is(pg_temp.status(pg_temp.the('asked back')), 'scheduled', 'the visit stands');
select alike((pg_temp.last_words()).content, 'Você quer cancelar este horário? Consulta com Ana, %, às 9h.', 'it is asked back, by what, with whom and when');
select is((pg_temp.last_words()).payload -> 'buttons', jsonb_build_array(
  jsonb_build_object('id', format('notification:%s:cancel', pg_temp.the('its words')), 'title', 'Sim'),
  jsonb_build_object('id', format('notification:%s:keep', pg_temp.the('its words')), 'title', 'Não')), 'yes, or no');
select is(pg_temp.says('Não', 'notification:' || pg_temp.the('its words') || ':keep'), 'kept', 'no');
select is(pg_temp.status(pg_temp.the('asked back')), 'scheduled', 'leaves it as it was');
select alike((pg_temp.last_words()).content, 'Tudo bem, nada muda. Seu horário continua marcado: Consulta com Ana, %, às 9h.', 'and says so');
select is(pg_temp.says('sim'), 'nothing', 'after which a "sim" is about something else');

select pg_temp.reminded('asked in words', pg_temp.day(191, '09:00'));
select is(pg_temp.says('Bom dia, quero cancelar por favor'), 'asked_cancel', 'a polite wish is asked back too');
select is(pg_temp.says('sim?'), 'nothing', 'a question is no answer');
select is(pg_temp.says('confirmo'), 'asked_cancel', 'the visit, or that it is cancelled? That is asked again');
select is(pg_temp.says('não cancela'), 'kept', 'no, in words');
select pg_temp.reminded('cancelled in words', pg_temp.day(192, '09:00'));
select is(pg_temp.says('desmarcar'), 'asked_cancel', 'of another visit it is asked anew');
select is(pg_temp.says('Sim, pode cancelar'), 'cancelled', 'yes, in words');
select is(pg_temp.status(pg_temp.the('cancelled in words')), 'cancelled Cancelado pelo cliente no WhatsApp', 'cancels it');
select pg_temp.reminded('will come after all', pg_temp.day(193, '09:00'));
select is(pg_temp.says('cancelar'), 'asked_cancel', 'who is asked whether he cancels');
select is(pg_temp.says('Vou sim'), 'confirmed', 'and comes after all, confirms');
select pg_temp.reminded('quoted', pg_temp.day(194, '09:00'));
select is(pg_temp.says('cancelar', quoting => m.whatsapp_message_id), 'asked_cancel', 'who quotes the reminder is asked back as well')
from (select pg_temp.leaves()) l, public.notifications n join public.messages m on m.id = n.message_id
where n.booking_id = pg_temp.the('quoted') and n.status = 'sent';
select is(pg_temp.says('sim', quoting => m.whatsapp_message_id), 'confirmed', 'and his "sim" to the reminder is none to that')
from public.notifications n join public.messages m on m.id = n.message_id where n.booking_id = pg_temp.the('quoted') and n.status = 'sent';
select pg_temp.reminded('in haste', pg_temp.day(195, '09:00'));
select is(pg_temp.says('cancelar'), 'asked_cancel', 'who is asked');
select is(pg_temp.says('sim', has_read => false), 'asked_already', 'and cannot have read it yet, has not said yes to it');
select is(pg_temp.says('cancelar', has_read => false), 'asked_already', 'nor is he asked twice');
select is(pg_temp.status(pg_temp.the('in haste')), 'scheduled', 'nothing has happened');
select is(pg_temp.says('cancelar'), 'cancelled', 'having read it, that is a yes');

select is(private.answer_to_question(asked, private.answer_in_words('reminder', private.fold_words(said), said), private.fold_words(said)), answer,
  format('"%s" after %s: %s', said, coalesce(asked, 'the reminder'), coalesce(answer, 'no answer')))
from (values
  (null, 'cancelar', 'ask_cancel'), (null, 'remarcar', 'ask_reschedule'), (null, 'sim', 'confirm'), (null, 'não', 'no'), (null, 'não cancela', null),
  ('moved', 'cancelar', 'ask_cancel'), ('asked', 'cancelar', 'cancel'), ('asked', 'remarcar', 'reschedule'), ('asked', 'sim', 'no'), ('asked', 'confirmo', 'confirm'),
  ('asked_cancel', 'sim', 'cancel'), ('asked_cancel', '👍', 'cancel'), ('asked_cancel', 'Sim, quero cancelar', 'cancel'), ('asked_cancel', 'não', 'keep'),
  ('asked_cancel', 'deixa como está', 'keep'), ('asked_cancel', 'remarcar', 'reschedule'), ('asked_cancel', 'confirmo', 'ask_cancel'),
  ('asked_cancel', 'estarei lá', 'confirm'), ('asked_cancel', 'não vou poder ir', 'no'), ('asked_cancel', 'sim, remarcar', null),
  ('asked_reschedule', 'sim', 'reschedule'), ('asked_reschedule', 'não', 'keep'), ('asked_reschedule', 'remarcar', 'reschedule'), ('asked_reschedule', 'cancelar', 'ask_cancel'),
  (null, 'cancelar?', null), (null, 'pode cancelar?', null), (null, 'vou?', null), (null, 'confirma?', null), (null, 'certo?', null), (null, 'remarcar？', null)
) q (asked, said, answer);
select is(private.answer_in_words('waiting_list_offer', private.fold_words(said), said), null, format('"%s" is a question', said))
from unnest('{pode ser?,sim?}'::text[]) said;

-- What he cannot have read ----------------------------------------------------------------------------------------------
select pg_temp.no_questions();
select pg_temp.reminded('read later', pg_temp.day(196, '09:00'));
select is(pg_temp.says('cancelar', at => now() - interval '2 hours'), 'nothing', 'what was said two hours before the reminder, and delivered after it, is no answer to it');
select is(pg_temp.says('confirmo', at => now() - interval '1 second'), 'nothing', 'nor what was said a second before');
update public.messages set status = 'sent', delivered_at = null where id = (pg_temp.last_words()).id;
select is(pg_temp.says('confirmo', at => date_trunc('second', now())), 'confirmed', 'the same second may be after it: WhatsApp knows whole ones');
select pg_temp.reminded('still here', pg_temp.day(197, '09:00'));
select is(pg_temp.says('confirmo', has_read => false), 'nothing', 'what has not left the house is answered by nobody');
update public.messages set whatsapp_message_id = 'wamid.accepted' where id = (select n.message_id from public.notifications n where n.booking_id = pg_temp.the('still here') and n.status = 'sent');
select is(pg_temp.says('confirmo', at => now() - interval '1 minute', has_read => false), 'nothing', 'before it was accepted, nor');
select is(pg_temp.says('confirmo', has_read => false), 'confirmed', 'once WhatsApp has it, it can be answered, though its status is on its way');
select pg_temp.reminded('delivered later', pg_temp.day(198, '09:00'));
select pg_temp.leaves();
update public.messages set sent_at = now() - interval '2 hours' where id = (pg_temp.last_words()).id;
select is(pg_temp.says('confirmo', at => now() - interval '1 hour'), 'nothing', 'nor is it answered before it reached a phone that was off');
select is(pg_temp.says('confirmo'), 'confirmed', 'but then');

-- Words about something else -------------------------------------------------------------------------------------------
select pg_temp.reminded('while he waits', pg_temp.day(199, '09:00'));
select is((private.hand_over(private.lock_conversation(pg_temp.clinic(), tests.the('clinic', 'conversation_id')), 'x')).status, 'waiting_human', 'who waits for somebody');
select is(pg_temp.says(words), 'nothing', format('says "%s" to them', words)) from unnest('{cancelar,sim,remarcar}'::text[]) words;
select is(pg_temp.says('Confirmar', 'notification:' || n.id || ':confirm'), 'confirmed', 'a tap is clear')
from public.notifications n where n.booking_id = pg_temp.the('while he waits') and n.status = 'sent';
select private.release_to_bot(tests.the('clinic', 'conversation_id'), null, pg_temp.clinic());

update public.flows set is_default = true where id = tests.the('clinic', 'flow_id');
select pg_temp.reminded('before his turn', pg_temp.day(200, '09:00'));
select is(pg_temp.says('Queria saber o preço de um exame'), 'nothing', 'what a flow is about to answer');
select is(count(*), 1::bigint, 'has its job') from public.message_queue where job_type = 'run_flow';
select is(pg_temp.says('pode cancelar'), 'nothing', 'is what the next words are about');
update public.flows set is_default = false where id = tests.the('clinic', 'flow_id');
delete from public.message_queue where job_type = 'run_flow';
select is(pg_temp.says('pode cancelar'), 'asked_cancel', 'without a flow the reminder is asked about');
select pg_temp.no_questions();

update public.flows set is_default = true where id = tests.the('clinic', 'flow_id');
select pg_temp.reminded('in one breath', pg_temp.day(200, '10:00'));
select pg_temp.leaves();
select tests.deliver('clinic', tests.a_message('breath-1', '5511987654321', 'Quanto custa?', now()), tests.a_message('breath-2', '5511987654321', 'confirmo', now()));
select is(count(*), 0::bigint, 'two messages in one delivery are heard by the flow together')
from private.notification_answers a join public.messages m on m.id = a.message_id where m.whatsapp_message_id = 'breath-2';
update public.flows set is_default = false where id = tests.the('clinic', 'flow_id');
delete from public.message_queue where job_type = 'run_flow';
select pg_temp.no_questions();

select private.schedule_followup(pg_temp.maria(), now(), 'other', 'Quer que eu cancele a consulta da sua filha no dia 20?', null, null, pg_temp.clinic());
select is(pg_temp.strike(now()), 'sent', 'after a follow-up that asks something');
select pg_temp.reminded('after a follow-up', pg_temp.day(200, '11:00'));
select is(pg_temp.says(words), 'nothing', format('"%s" may be its answer', words)) from unnest('{"pode cancelar",sim}'::text[]) words;
select is(pg_temp.status(pg_temp.the('after a follow-up')), 'scheduled', 'not the reminder''s');
update public.messages set created_at = now() - interval '25 hours' where content like 'Quer que eu cancele a consulta da sua filha%';
select pg_temp.no_questions();

select pg_temp.reminded('first told', pg_temp.day(101, '09:00'));
-- Another transaction, in which Maria did nothing herself.
select set_config('balcao.customer_is_told', '', true);
insert into it values ('told since', pg_temp.book(pg_temp.day(102, '09:00'), 'system'));
select is(pg_temp.strike(now()), 'sent', 'who was reminded of one visit, then told of another one');
select is(pg_temp.says('cancelar'), 'nothing', 'may mean that one: nothing is cancelled on a guess');
select is(pg_temp.status(pg_temp.the('first told')) || pg_temp.status(pg_temp.the('told since')), 'scheduledscheduled', 'neither of them');
select pg_temp.no_questions();

update public.flows set is_default = true where id = tests.the('clinic', 'flow_id');
insert into public.flow_sessions (organization_id, conversation_id, contact_id, flow_id, flow_version, expires_at, current_step, asked_at)
values (pg_temp.clinic(), tests.the('clinic', 'conversation_id'), pg_temp.maria(), tests.the('clinic', 'flow_id'), 1, now() + interval '1 day', 'fim', now());
select private.send_bot_message(tests.the('clinic', 'conversation_id'), pg_temp.clinic(), v.control_epoch, 'bot', 'text', 'Quer mesmo cancelar a sua outra consulta?', null, 'flow:a-question')
from public.conversations v where v.id = tests.the('clinic', 'conversation_id');
select pg_temp.reminded('in between', pg_temp.day(103, '09:00'));
select is(pg_temp.says(words), 'nothing', format('"%s" after a question of the flow and a reminder', words)) from unnest('{cancelar,sim,remarcar}'::text[]) words;
select is(pg_temp.status(pg_temp.the('in between')), 'scheduled', 'changes nothing here');
select is(count(*), 3::bigint, 'but is heard by the flow') from public.message_queue where job_type = 'run_flow';
select is(pg_temp.says('Confirmar', 'notification:' || n.id || ':confirm'), 'confirmed', 'a tap is clear')
from public.notifications n where n.booking_id = pg_temp.the('in between') and n.status = 'sent';
update public.flow_sessions set status = 'cancelled', completed_at = now() where status = 'running';
update public.flows set is_default = false where id = tests.the('clinic', 'flow_id');
delete from public.message_queue where job_type = 'run_flow';

insert into public.messages (organization_id, conversation_id, contact_id, instance_id, direction, sender, message_type, content, status)
select v.organization_id, v.id, v.contact_id, v.instance_id, 'outbound', 'human', 'text', 'Quer cancelar a do dia 20?', 'sent'
from public.conversations v where v.id = tests.the('clinic', 'conversation_id');
select pg_temp.reminded('while chatting', pg_temp.day(104, '09:00'));
select is(pg_temp.says('cancelar'), 'nothing', 'nor does a word that may be said to a person');
select is(pg_temp.status(pg_temp.the('while chatting')), 'scheduled', 'cancel what the reminder was about');
update public.messages set created_at = now() - interval '25 hours' where content = 'Quer cancelar a do dia 20?';
select is(pg_temp.says('sim'), 'confirmed', 'on the next day it would be about the reminder');

select pg_temp.reminded('over', pg_temp.day(105, '09:00'));
update public.notifications set booking_start_time = now() - interval '30 hours' where booking_id = pg_temp.the('over');
alter table public.bookings disable trigger user;
update public.bookings set start_time = now() - interval '30 hours', end_time = now() - interval '29 hours', blocked_until = now() - interval '29 hours' where id = pg_temp.the('over');
alter table public.bookings enable trigger user;
select is(pg_temp.says('quero remarcar'), 'nothing', 'when the visit is over its reminder takes no more words');

select pg_temp.reminded('moved twice', pg_temp.day(106, '09:00'));
insert into it select 'reminder of moved twice', n.id from public.notifications n where n.booking_id = pg_temp.the('moved twice') and n.status = 'sent';
select pg_temp.leaves();
select private.reschedule_booking(pg_temp.the('moved twice'), pg_temp.day(107, '11:00'), null, null, true, pg_temp.clinic());
select pg_temp.forget('confirmation');
select is(pg_temp.says('Confirmar', 'notification:' || pg_temp.the('reminder of moved twice') || ':confirm'), 'moved', 'who is told another time');
insert into it select 'heard', m.id from public.messages m where m.direction = 'inbound' order by m.id desc limit 1;
select is((private.answer_booking(n, 'confirm', m, now())).outcome, 'asked_already', 'has not agreed to it by a tap of before')
from public.notifications n, public.messages m where n.id = pg_temp.the('reminder of moved twice') and m.id = pg_temp.the('heard');
select is(pg_temp.says('sim'), 'confirmed', 'but then does, in words');
select private.reschedule_booking(pg_temp.the('moved twice'), pg_temp.day(108, '11:00'), null, null, true, pg_temp.clinic());
select pg_temp.forget('confirmation');
select is(pg_temp.says('Confirmar', 'notification:' || pg_temp.the('reminder of moved twice') || ':confirm'), 'moved', 'moved again, told again');
select is(pg_temp.says('Confirmar', 'notification:' || pg_temp.the('reminder of moved twice') || ':confirm'), 'confirmed', 'or with a second tap');
select is(pg_temp.status(pg_temp.the('moved twice')), 'confirmed patient whatsapp', 'and it is confirmed');
update public.notifications set offset_minutes = 120 where id = pg_temp.the('reminder of moved twice');
select pg_temp.strike(pg_temp.day(107, '11:00'));
select is(count(*), 1::bigint, 'the reminder of the new time still comes') from public.notifications n
where n.booking_id = pg_temp.the('moved twice') and n.status = 'sent' and n.offset_minutes = 1440;
update public.notifications set status = 'cancelled' where status = 'pending';
select pg_temp.no_questions();

-- A human, then a flow --------------------------------------------------------------------------------------------------
select pg_temp.reminded('by a human', pg_temp.day(67, '09:00'));
select is(pg_temp.says('Quero remarcar'), 'asked_reschedule', 'who wants to move it is asked whether it is this one');
select is(pg_temp.says('sim'), 'reschedule', 'without a flow');
select is(concat_ws(' ', v.status, v.escalation_reason), 'waiting_human reschedule_requested', 'a human is called to move it') from public.conversations v where v.id = tests.the('clinic', 'conversation_id');
select private.release_to_bot(tests.the('clinic', 'conversation_id'), null, pg_temp.clinic());
update public.flows set is_default = true, definition = '{"etapas": [
  {"id": "menu", "tipo": "escolha", "pergunta": "O que deseja?", "opcoes": [{"rotulo": "Remarcar", "valor": "r", "proxima": "mover"}]},
  {"id": "mover", "tipo": "acao", "acao": {"tipo": "remarcar"}, "proxima": "fim"}, {"id": "fim", "tipo": "fim"}]}'
where id = tests.the('clinic', 'flow_id');
select pg_temp.reminded('by the flow', pg_temp.day(68, '09:00'));
select is(pg_temp.says('remarcar'), 'asked_reschedule', 'asked again about another one');
select is(pg_temp.says('Sim', 'notification:' || n.id || ':reschedule'), 'flow_started', 'with one that can, the bot does it')
from public.notifications n where n.booking_id = pg_temp.the('by the flow') and n.status = 'sent';
create temporary table turn as
select public.begin_flow_turn(jsonb_build_object('organization_id', c.organization_id, 'id', c.id, 'fencing_token', c.fencing_token)) as t
from public.claim_jobs('test', 5, array['run_flow']) c;
select is(count(*), 1::bigint, 'and the answer was no input of the flow') from turn;
select is(t #>> '{definition,inicio}', 'mover', 'it begins at the step that moves bookings') from turn;
select is(t #>> '{inputs,0,kind}', 'start', 'at its start') from turn;
update public.flow_sessions set status = 'cancelled', completed_at = now() where status = 'running';
update public.flows set is_default = false where id = tests.the('clinic', 'flow_id');
delete from public.message_queue where job_type = 'run_flow';

-- The waiting list --------------------------------------------------------------------------------------------------------
create function pg_temp.offered(name text, start_time timestamptz)
returns uuid
language plpgsql
as $$
declare
  freed uuid;
  entry public.waiting_list;
begin
  perform tests.authenticate_as_nobody();
  delete from public.waiting_list where organization_id = pg_temp.clinic() and is_open;
  freed := pg_temp.book(start_time, 'flow', pg_temp.the('Sem Telefone'));
  entry := private.join_waiting_list(pg_temp.maria(), tests.the('clinic', 'service_id'), null, null, null, 0, null, null, 'any', null, pg_temp.clinic());
  perform private.cancel_booking(freed, null, pg_temp.clinic());
  perform pg_temp.forget('cancellation');
  insert into it values (name, entry.id);
  return entry.id;
end;
$$;
create function pg_temp.the_offer(name text)
returns public.notifications
language sql
as $$
  select n from public.notifications n join public.waiting_list w on w.offered_booking_id = n.booking_id
  where w.id = pg_temp.the(name) and n.type = 'waiting_list_offer'
$$;
create function pg_temp.entry(name text)
returns text
language sql
as $$ select w.status::text from public.waiting_list w where w.id = pg_temp.the(name) $$;

select pg_temp.offered('wish', pg_temp.day(5, '09:00'));
select is(pg_temp.strike(now()), 'sent', 'who waits hears of a free slot at once');
select alike((pg_temp.last_words()).content, 'Boa notícia, Maria! 🎉 Abriu um horário para Consulta com Ana: %às 9h. Está reservado para você até %. Quer ficar com ele?', 'and until when it is his');
select is(pg_temp.says('Quero sim!'), 'accepted', 'a yes takes it');
select is(pg_temp.entry('wish'), 'booked', 'and it is booked');
select is((select count(*) from public.notifications n join public.waiting_list w on w.offered_booking_id = n.booking_id where w.id = pg_temp.the('wish') and n.type = 'confirmation'), 0::bigint, 'told once');
select is((select count(*) from public.notifications n join public.waiting_list w on w.offered_booking_id = n.booking_id where w.id = pg_temp.the('wish') and n.type = 'reminder' and n.status = 'pending'), 2::bigint, 'with reminders of its own');
select pg_temp.offered('no wish', pg_temp.day(6, '09:00'));
select pg_temp.strike(now());
select is(pg_temp.says('Não posso', 'notification:' || (pg_temp.the_offer('no wish')).id || ':decline'), 'declined', 'a tap declines it');
select is(pg_temp.entry('no wish'), 'cancelled', 'and the next one is asked');
select pg_temp.offered('slow', pg_temp.day(7, '09:00'));
select pg_temp.strike(now());
update public.bookings set hold_expires_at = now() where id = (pg_temp.the_offer('slow')).booking_id;
select is(pg_temp.says('Quero esse horário', 'notification:' || (pg_temp.the_offer('slow')).id || ':accept'), 'offer_over', 'who thinks too long');
select alike((pg_temp.last_words()).content, 'Que pena,%', 'is told so');
update public.organization_settings set quiet_hours = jsonb_build_object(
  'starts_at', to_char((now() at time zone 'America/Sao_Paulo') - interval '1 hour', 'HH24:MI'),
  'ends_at', to_char((now() at time zone 'America/Sao_Paulo') + interval '1 hour', 'HH24:MI')) where organization_id = pg_temp.clinic();
select pg_temp.offered('at night', pg_temp.day(8, '09:00'));
select is(pg_temp.strike(now()), 'sent', 'an offer that would be over by the morning is made at night');
update public.organization_settings set waiting_list_offer_minutes = 600 where organization_id = pg_temp.clinic();
select pg_temp.offered('long', pg_temp.day(9, '09:00'));
select is(pg_temp.strike(now()), 'quiet_hours', 'one that outlives the night waits for its end');
update public.organization_settings set quiet_hours = '{}', waiting_list_offer_minutes = 30 where organization_id = pg_temp.clinic();
update public.notifications set status = 'cancelled' where status = 'pending';
select private.expire_holds();
-- Who does not hear of it keeps it from nobody.
select pg_temp.offered('unheard', pg_temp.day(11, '09:00'));
insert into public.contacts (organization_id, name, phone_number, opted_out_at) values (pg_temp.clinic(), 'Não Quer', '+5511988880001', now()), (pg_temp.clinic(), 'A Próxima', '+5511988880002', null);
insert into it select c.name, w.id from public.contacts c
cross join lateral private.join_waiting_list(c.id, tests.the('clinic', 'service_id'), null, null, null, case c.name when 'Não Quer' then 1 else 0 end, null, null, 'any', null, pg_temp.clinic()) w
where c.name in ('Não Quer', 'A Próxima');
select is(private.expire_holds(), 0::bigint, 'while she is to be told the slot is held');
select pg_temp.writes(now() - interval '30 hours');
select is(pg_temp.strike(now(), false), 'outside_window', 'then it turns out that she cannot be');
select is(private.expire_holds(), 1::bigint, 'it is held no longer');
select is(pg_temp.entry('unheard') || ' ' || pg_temp.entry('Não Quer') || ' ' || pg_temp.entry('A Próxima'), 'expired waiting offered', 'and the next one is asked, but nobody who opted out');
select is(pg_temp.strike(now(), false), 'outside_window', 'who cannot be told either');
select is(private.expire_holds(), 1::bigint, 'so it is free');
select is(count(*), 0::bigint, 'for whoever calls') from public.bookings where is_offer and status = 'hold' and start_time = pg_temp.day(11, '09:00');
delete from public.waiting_list where organization_id = pg_temp.clinic() and is_open;

-- How was it? ---------------------------------------------------------------------------------------------------------
insert into it values ('visited', pg_temp.book(now() - interval '2 hours', 'human'));
select is(pg_temp.told(pg_temp.the('visited')), null, 'what is noted down afterwards reminds nobody');
select private.complete_booking(pg_temp.the('visited'), pg_temp.clinic());
select private.mark_no_show(pg_temp.the('visited'), pg_temp.clinic());
select private.complete_booking(pg_temp.the('visited'), pg_temp.clinic());
select is(count(*), 1::bigint, 'after a visit there is one question, though it was corrected twice')
from public.notifications where booking_id = pg_temp.the('visited') and type = 'feedback';
select is(n.scheduled_for, now() + interval '1 hour', 'an hour later') from pg_temp.of_type(pg_temp.the('visited'), 'feedback') n;
select is(pg_temp.strike(now() + interval '1 hour'), 'sent', 'it is asked');
select is((pg_temp.last_words()).payload ->> 'type', 'list', 'with a list from one to five');
update public.notifications set sent_at = now() where type = 'feedback' and status = 'sent';
select is(pg_temp.says('Nota 5'), 'scored', 'and answered in words');
select is(v.satisfaction_score, 5, 'it is the conversation''s score') from public.conversations v where v.id = tests.the('clinic', 'conversation_id');
select is(n.answer, '5', 'and the answer') from pg_temp.of_type(pg_temp.the('visited'), 'feedback') n;
select is(pg_temp.says('2 - Regular', 'notification:' || (pg_temp.of_type(pg_temp.the('visited'), 'feedback')).id || ':2'), 'scored', 'who changes his mind');
select alike((pg_temp.last_words()).content, '%Sentimos muito%', 'is heard');
update public.notifications set answer = null where type = 'feedback';
select pg_temp.reminded('next visit', pg_temp.day(125, '09:00'));
select is(pg_temp.says('2'), 'scored', 'a grade after the next visit''s reminder is about the last one');
select is(pg_temp.status(pg_temp.the('next visit')), 'scheduled', 'and nothing to the reminder');
select pg_temp.no_questions();
select is(private.answer_in_words('feedback', private.fold_words(said), said), score, format('"%s" is %s', said, score))
from (values ('5', '5'), ('cinco', '5'), ('Nota 4!', '4'), ('3 estrelas', '3'), ('⭐⭐⭐⭐', '4'), ('👍', null::text), ('6', null), ('0', null), ('10', null), ('5 minutos de atraso', null)) s (said, score);

select is(n.answer || v.satisfaction_score, '25', 'but does not undo the conversation''s score')
from pg_temp.of_type(pg_temp.the('visited'), 'feedback') n, public.conversations v where v.id = tests.the('clinic', 'conversation_id');
select is((private.close_conversation(tests.the('clinic', 'conversation_id'), null, pg_temp.clinic())).status, 'closed', 'a conversation that has a score');
select is(count(*), 0::bigint, 'is not asked about again') from public.notifications where type = 'feedback' and status = 'pending';
-- One question a day.
create function pg_temp.asked(variadic bookings text[])
returns text
language sql
as $$
  select string_agg(concat_ws(' ', n.status, n.reason), ', ' order by b.n)
  from unnest(bookings) with ordinality b (name, n) join public.notifications n on n.booking_id = pg_temp.the(b.name) and n.type = 'feedback'
$$;
update public.notifications set created_at = now() - interval '2 days', sent_at = now() - interval '2 days' where type = 'feedback';
insert into it values ('first that day', pg_temp.book(now() - interval '5 hours', 'human')), ('last that day', pg_temp.book(now() - interval '4 hours', 'human')),
  ('second that day', pg_temp.book(now() - interval '270 minutes', 'human'));
select private.complete_booking(pg_temp.the(b), pg_temp.clinic()) from unnest('{first that day,last that day,second that day}'::text[]) b;
select is(pg_temp.asked('first that day', 'second that day', 'last that day'), 'pending, pending, pending', 'after three visits');
update public.notifications set scheduled_for = now() where type = 'feedback' and status = 'pending';
select matches(pg_temp.strike(now()), '^((overtaken|asked_today), ){2}sent$', 'one question is asked, in whatever order they come up');
select matches(pg_temp.asked('first that day', 'second that day', 'last that day'), '^skipped \w+, skipped \w+, sent$', 'about the last of them');
insert into it values ('later that day', pg_temp.book(now() - interval '1 hour', 'human'));
select private.complete_booking(pg_temp.the('later that day'), pg_temp.clinic());
update public.notifications set scheduled_for = now() where type = 'feedback' and status = 'pending';
select is(pg_temp.strike(now()), 'asked_today', 'and no other on that day');
update public.notifications set created_at = now() - interval '2 days', sent_at = sent_at - interval '2 days' where type = 'feedback';
insert into it values ('corrected', pg_temp.book(now() - interval '3 hours', 'human'));
select private.complete_booking(pg_temp.the('corrected'), pg_temp.clinic());
select private.mark_no_show(pg_temp.the('corrected'), pg_temp.clinic());
select is(pg_temp.asked('corrected'), 'cancelled booking_no_show', 'who did not come is not asked');
select private.complete_booking(pg_temp.the('corrected'), pg_temp.clinic());
select is(pg_temp.asked('corrected'), 'pending', 'if he did after all, he is');
update public.organization_settings set feedback_delay_minutes = 10080 where organization_id = pg_temp.clinic();
update public.notifications set scheduled_for = now() + interval '7 days' where type = 'feedback' and status = 'pending';
select is(pg_temp.strike(now() + interval '7 days 1 minute'), 'sent', 'also by who asks a week later');
update public.organization_settings set feedback_delay_minutes = 60 where organization_id = pg_temp.clinic();
update public.notifications set created_at = now() - interval '2 days', sent_at = now() - interval '2 days' where type = 'feedback';
select pg_temp.no_questions();
select pg_temp.says('Oi, tudo bem?');
select private.close_conversation(v.id, null, pg_temp.clinic()) from public.conversations v where v.contact_id = pg_temp.maria() and v.is_open;
select pg_temp.says('Esqueci de perguntar: preciso de jejum?');
update public.notifications set scheduled_for = now() where type = 'feedback' and status = 'pending';
select is(pg_temp.strike(now()), 'not_asked_any_more', 'how the last conversation was is not asked in the middle of the next one');
update public.notifications set created_at = now() - interval '2 days' where type = 'feedback';
select private.close_conversation(v.id, 5, pg_temp.clinic()) from public.conversations v where v.contact_id = pg_temp.maria() and v.is_open;
select pg_temp.says('Oi, tudo bem?');
insert into it select 'chat', v.id from public.conversations v where v.contact_id = pg_temp.maria() and v.is_open;
select private.close_conversation(pg_temp.the('chat'), null, pg_temp.clinic());
select private.close_conversation(pg_temp.the('chat'), null, pg_temp.clinic());
select is(count(*), 1::bigint, 'a closed conversation asks once') from public.notifications where conversation_id = pg_temp.the('chat') and type = 'feedback';
select is(pg_temp.strike(now() + interval '1 hour'), 'sent', 'an hour later');
select is((pg_temp.last_words()).conversation_id, pg_temp.the('chat'), 'in that conversation');
select is(v.status, 'closed', 'which stays closed') from public.conversations v where v.id = pg_temp.the('chat');
update public.notifications set sent_at = now() where type = 'feedback' and status = 'sent';
select is(pg_temp.says('4'), 'scored', 'the answer opens a conversation');
select is(v.satisfaction_score, 4, 'but the score is of the one that it is about') from public.conversations v where v.id = pg_temp.the('chat');
select is(count(*), 0::bigint, 'and nothing stays open') from public.conversations v where v.contact_id = pg_temp.maria() and v.is_open;
select is(count(*), 0::bigint, 'or asks about the asking') from public.notifications n where n.type = 'feedback' and n.status = 'pending';

-- No more, please -------------------------------------------------------------------------------------------------------
insert into it values ('unwanted', pg_temp.book(pg_temp.day(70, '15:00'), 'flow'));
select is(pg_temp.says('Não quero mais receber!!'), 'opted_out', 'who wants no more messages says so');
select isnt(opted_out_at, null, 'and it is noted') from public.contacts where id = pg_temp.maria();
select alike((pg_temp.last_words()).content, 'Tudo bem, você não vai mais receber%', 'and answered politely');
select is(pg_temp.says('parar'), 'nothing', 'once');
select is(pg_temp.strike(pg_temp.day(69, '15:00')), 'opted_out', 'not even his own visit reminds him');
select throws_ok(
  $$ select private.schedule_followup(pg_temp.maria(), now() + interval '1 day', 'reactivation', null, null, null, pg_temp.clinic()) $$,
  'BL705', null, 'nor can anybody plan to write to him');
select is(pg_temp.says('voltar'), 'opted_in', 'until he comes back');
select is(opted_out_at, null, 'which is noted too') from public.contacts where id = pg_temp.maria();
select is(pg_temp.says('voltar'), 'nothing', 'from somebody who is there it is a word for the flow');
select is(private.wish_about_messages(private.fold_words(said)), wish, format('"%s": %s', said, coalesce(wish, 'no wish')))
from (values
  ('Parar', 'opt_out'), ('PARAR.', 'opt_out'), ('sair da lista', 'opt_out'), ('Não quero mais receber', 'opt_out'), ('nao quero mais receber mensagens', 'opt_out'),
  ('Descadastrar', 'opt_out'), ('  stop ', 'opt_out'), ('não posso parar agora', null::text), ('posso parar o remédio?', null), ('sair', null), ('quero sair daqui', null),
  ('Não quero mais mensagens', 'opt_out'), ('parar por favor', 'opt_out'), ('Por favor, parar', 'opt_out'), ('para de mandar mensagem', 'opt_out'),
  ('Pare de me mandar mensagem!', 'opt_out'), ('não me envie mais mensagens', 'opt_out'), ('me tira da lista', 'opt_out'), ('Quero parar de receber', 'opt_out'),
  ('unsubscribe', 'opt_out'), ('não me mande mais nada', 'opt_out'), ('não recebi mais mensagens', null), ('pode parar de mandar o remédio', null), ('me mande mensagem', null),
  ('tira dúvidas', null), ('não quero mais', null), ('Voltar', 'opt_in'), ('quero voltar a receber', 'opt_in'), ('vou voltar amanhã', null)
) w (said, wish);
select is(pg_temp.says('Parar', at => now() - interval '3 days'), 'nothing', 'a wish that is heard days late');
select is(opted_out_at, null, 'does not undo a later one') from public.contacts where id = pg_temp.maria();
update public.contacts set opted_in_at = null where id = pg_temp.maria();
select is(pg_temp.says('Parar', at => now() - interval '3 days'), 'nothing', 'is not answered');
select is(opted_out_at, now() - interval '3 days', 'but holds') from public.contacts where id = pg_temp.maria();
update public.contacts set opted_out_at = null where id = pg_temp.maria();

-- Who wants none any more, or may get none, while the number is slow --------------------------------------------------
-- Maria's next message to go out, as the worker asks for it; what it is told.
create function pg_temp.goes_out()
returns text
language plpgsql
as $$
declare
  job record;
  begun jsonb;
begin
  perform pg_temp.writes(now());
  select c.* into job from public.claim_jobs('test', 1, array['send_message']) c;
  begun := public.begin_send(jsonb_build_object('organization_id', job.organization_id, 'id', job.id, 'fencing_token', job.fencing_token));
  return coalesce(begun ->> 'reason', begun ->> 'action');
end;
$$;
create function pg_temp.queued(name text, start_time timestamptz)
returns void
language plpgsql
as $$
begin
  delete from private.unanswered_sends;
  delete from public.message_queue where job_type = 'send_message';
  perform pg_temp.reminded(name, start_time);
  insert into it select name || ' reminder', n.id from public.notifications n where n.booking_id = pg_temp.the(name) and n.status = 'sent';
end;
$$;
create function pg_temp.became(name text)
returns text
language sql
as $$
  select concat_ws(' ', n.status, n.reason, (select string_agg(concat_ws(' ', m.status, m.error_code), ', ' order by m.id)
    from public.messages m where m.client_message_id like 'notification:' || n.id || '%'))
  from public.notifications n where n.id = pg_temp.the(name || ' reminder')
$$;
select pg_temp.queued('wanted', pg_temp.day(110, '09:00'));
select is(pg_temp.goes_out(), 'send', 'a reminder goes out');
select is(pg_temp.became('wanted'), 'sent queued', 'and is sent');

select pg_temp.queued('on its way', pg_temp.day(111, '09:00'));
select private.schedule_followup(pg_temp.maria(), now() + interval '1 day', 'reactivation', null, null, null, pg_temp.clinic());
select is(pg_temp.says('Parar', has_read => false), 'opted_out', 'who wants no more while a reminder is on its way');
select is(pg_temp.became('on its way'), 'cancelled opted_out failed superseded', 'does not get it');
select is(f.status, 'cancelled', 'nor what was planned') from public.scheduled_followups f where f.type = 'reactivation';
select is(pg_temp.goes_out(), 'message_is_failed', 'its job finds nothing to send');
select is(pg_temp.goes_out(), 'send', 'but the answer to "parar" goes out');
update public.contacts set opted_out_at = null, opted_in_at = null where id = pg_temp.maria();

select pg_temp.queued('unwanted since', pg_temp.day(112, '09:00'));
update public.contacts set opted_out_at = now() where id = pg_temp.maria();
select is(pg_temp.goes_out(), 'superseded', 'an opt-out by other ways');
select is(pg_temp.became('unwanted since'), 'skipped opted_out failed superseded', 'is found when it would go out');
update public.contacts set opted_out_at = null where id = pg_temp.maria();

select pg_temp.queued('blocked since', pg_temp.day(113, '09:00'));
update public.contacts set status = 'blocked' where id = pg_temp.maria();
select is(pg_temp.goes_out(), 'superseded', 'so is a block');
select is(pg_temp.became('blocked since'), 'skipped blocked failed superseded', 'and noted');
update public.contacts set status = 'active' where id = pg_temp.maria();

select pg_temp.queued('begun since', pg_temp.day(114, '09:00'));
alter table public.bookings disable trigger user;
update public.bookings set start_time = now() - interval '40 hours', end_time = now() - interval '39 hours', blocked_until = now() - interval '39 hours' where id = pg_temp.the('begun since');
alter table public.bookings enable trigger user;
update public.notifications set booking_start_time = now() - interval '40 hours' where id = pg_temp.the('begun since reminder');
select is(pg_temp.goes_out(), 'superseded', 'when the visit has begun it is too late');
select is(pg_temp.became('begun since'), 'skipped too_late failed superseded', 'to remind of it');

select pg_temp.queued('night since', pg_temp.day(115, '09:00'));
update public.organization_settings set quiet_hours = jsonb_build_object(
  'starts_at', to_char((now() at time zone 'America/Sao_Paulo') - interval '1 hour', 'HH24:MI'),
  'ends_at', to_char((now() at time zone 'America/Sao_Paulo') + interval '1 hour', 'HH24:MI')) where organization_id = pg_temp.clinic();
select is(pg_temp.goes_out(), 'superseded', 'when it has become night');
select is(pg_temp.became('night since'), 'pending failed superseded', 'it is put off');
select is(n.scheduled_for between now() + interval '58 minutes' and now() + interval '1 hour', true, 'until the morning')
from public.notifications n where n.id = pg_temp.the('night since reminder');
select is(pg_temp.strike(now() + interval '1 hour'), 'sent', 'and sent then');
select is(pg_temp.became('night since'), 'sent failed superseded, queued', 'as another message');
update public.organization_settings set quiet_hours = '{}' where organization_id = pg_temp.clinic();
select pg_temp.queued('said before midnight', pg_temp.day(1, '23:30'));
select alike((pg_temp.last_words()).content, '%amanhã%', 'who is told of tomorrow');
select is(private.hold_back_notification(m, now()), null, 'today') from pg_temp.last_words() m;
select is(private.hold_back_notification(m, pg_temp.day(1, '10:00')), 'another_day', 'is not told so on the day itself') from pg_temp.last_words() m;
select private.fail_message(m, 'superseded', 'x') from pg_temp.last_words() m;
select is(pg_temp.strike(pg_temp.day(1, '10:00')), 'sent', 'but anew');
select alike((pg_temp.last_words()).content, '%hoje, às 23h30%', 'by the right day');

delete from public.message_queue where job_type in ('send_message', 'send_notification');
select private.schedule_followup(pg_temp.maria(), now(), 'no_reply', 'Ainda por aí?', null, null, pg_temp.clinic());
select is(pg_temp.strike(now()), 'sent', 'a question why he does not write, whose message waits for the number');
select pg_temp.says('Oi, desculpe a demora', has_read => false);
select is(concat_ws(' ', f.status, f.reason), 'cancelled customer_wrote', 'is taken back when he does') from public.scheduled_followups f where f.message = 'Ainda por aí?';
select is(pg_temp.goes_out(), 'message_is_failed', 'and does not go out');
select private.schedule_followup(pg_temp.maria(), now(), 'no_reply', 'Ainda por aqui?', null, null, pg_temp.clinic());
select pg_temp.writes(now() - interval '1 hour');
select is(pg_temp.strike(now()), 'sent', 'another one');
select pg_temp.writes(now() + interval '1 second');
select is(private.hold_back_notification(m), 'customer_wrote', 'is held back at the last moment, too') from pg_temp.last_words() m;
select pg_temp.writes(now());
delete from public.message_queue where job_type in ('send_message', 'send_notification');
delete from public.scheduled_followups;
delete from private.unanswered_sends;
select pg_temp.no_questions();

select is(pg_temp.says('Parar', 'step:nonce.1:0'), 'nothing', '"Parar" as an option of a flow is an answer to that');
select is(pg_temp.says('Parar', 'campaign-stop'), 'opted_out', 'as a button of a campaign it is an opt-out');
select isnt(opted_out_at, null, 'like the word') from public.contacts where id = pg_temp.maria();
update public.contacts set opted_out_at = null, opted_in_at = null where id = pg_temp.maria();
select is(pg_temp.says('Parar', 'campaign:promo.1:stop'), 'opted_out', 'whatever the campaign calls it');
update public.contacts set opted_out_at = null, opted_in_at = null where id = pg_temp.maria();

-- A variant of a test is shown when it is said ----------------------------------------------------------------------------
delete from private.unanswered_sends;
insert into public.message_templates (organization_id, name, category, template, is_default) values (pg_temp.clinic(), 'Lembrete em teste', 'reminder', 'Lembrete: {{quando}}', true);
insert into public.ab_tests (organization_id, name, template_id, variant_a, variant_b, start_date)
select t.organization_id, 'Qual lembrete', t.id, 'A: {{quando}}', 'B: {{quando}}', now() - interval '1 day' from public.message_templates t where t.name = 'Lembrete em teste';
create function pg_temp.assigned()
returns bigint
language sql
as $$ select count(*) from public.ab_test_assignments s join public.ab_tests t on t.id = s.ab_test_id where t.name = 'Qual lembrete' $$;
select pg_temp.queued('in a test', pg_temp.day(130, '09:00'));
select matches((pg_temp.last_words()).content, '^[AB]: ', 'one of two texts');
select is(pg_temp.assigned(), 1::bigint, 'is noted');
update public.contacts set opted_out_at = now() where id = pg_temp.maria();
select is(pg_temp.goes_out(), 'superseded', 'unless it does not leave');
select is(pg_temp.assigned(), 0::bigint, 'then it was shown to nobody');
update public.contacts set opted_out_at = null where id = pg_temp.maria();
update public.message_templates set is_default = false where name = 'Lembrete em teste';
delete from private.unanswered_sends;

-- Follow-ups ------------------------------------------------------------------------------------------------------------
select pg_temp.as_member('attendant');
create temporary table planned as
select n, f.*
from unnest('{no_reply,reactivation,other}'::text[]) n
cross join lateral public.schedule_followup(pg_temp.maria(), now() + interval '2 days', n::public.followup_type, 'Oi, {{nome}}! Conseguiu decidir?') f;
grant all on planned to public;
select is(created_by, tests.the('clinic', 'attendant_id'), 'an attendant plans to come back') from planned where n = 'other';
select throws_ok($$ select public.schedule_followup(pg_temp.maria(), now() + interval '2 days', message => 'Oi, {{servico}}!') $$, 'BL701', null, 'not in words that have no meaning here');
select throws_ok($$ select public.schedule_followup(pg_temp.maria(), now() - interval '2 days') $$, 'BL705', null, 'nor in the past');
select throws_ok($$ select public.schedule_followup(pg_temp.maria(), now() + interval '2 days', template_id => gen_random_uuid()) $$, 'BL702', null, 'nor of a template that is not there');
select throws_ok($$ select public.schedule_followup(gen_random_uuid(), now() + interval '2 days') $$, 'BL402', null, 'nor to nobody');
select is((public.cancel_followup(id)).status, 'cancelled', 'and may think better of it') from planned where n = 'other';
select is((public.cancel_followup(id)).status, 'cancelled', 'twice') from planned where n = 'other';
select throws_ok($$ select public.cancel_followup(gen_random_uuid()) $$, 'BL703', null, 'there is no such follow-up');
select throws_ok($$ select public.cancel_notification(gen_random_uuid()) $$, 'BL703', null, 'and no such notification');
select pg_temp.as_member('viewer');
select throws_ok($$ select public.schedule_followup(pg_temp.maria(), now() + interval '2 days') $$, 'BL002', null, 'a viewer plans nothing');
select throws_ok($$ select public.cancel_followup(id) from planned where n = 'no_reply' $$, 'BL002', null, 'nor undoes it');
select tests.authenticate_as_nobody();
select pg_temp.says('Oi, voltei');
select is(concat_ws(' ', f.status, f.reason), 'cancelled customer_wrote', 'who writes first is not asked why he does not')
from public.scheduled_followups f join planned p on p.id = f.id and p.n = 'no_reply';
select is(pg_temp.strike(now() + interval '2 days'), 'sent', 'the other one is sent at its time');
select is((pg_temp.last_words()).content, 'Oi, Maria! Conseguiu decidir?', 'in the attendant''s words');
select is(f.status, 'sent', 'and noted') from public.scheduled_followups f join planned p on p.id = f.id and p.n = 'reactivation';

-- Whose booking it is ---------------------------------------------------------------------------------------------------
insert into public.contacts (organization_id, name, phone_number) values (pg_temp.clinic(), 'Outra', '+5511988881111');
insert into it select 'Outra', c.id from public.contacts c where c.organization_id = pg_temp.clinic() and c.name = 'Outra';
create function pg_temp.told_whom(booking uuid)
returns text
language sql
as $$
  select string_agg(concat_ws(' ', n.type, n.offset_minutes, n.status, c.name), ', ' order by n.type, n.offset_minutes desc, n.id)
  from public.notifications n join public.contacts c on c.id = n.contact_id where n.booking_id = booking
$$;
select set_config('balcao.customer_is_told', '', true);
insert into it values ('of the other one', pg_temp.book(pg_temp.day(120, '09:00'), 'flow', pg_temp.the('Outra')));
insert into it select 'merge', m.id from private.merge_contacts(pg_temp.maria(), pg_temp.the('Outra'), pg_temp.clinic()) m;
select is(pg_temp.told_whom(pg_temp.the('of the other one')), 'reminder 1440 pending Maria, reminder 120 pending Maria', 'what was merged is told the one who is kept');
select private.reschedule_booking(pg_temp.the('of the other one'), pg_temp.day(120, '11:00'), null, null, true, pg_temp.clinic());
update public.notifications set scheduled_for = now() where booking_id = pg_temp.the('of the other one') and offset_minutes = 1440;
delete from public.message_queue where job_type = 'send_notification';
update public.notifications set status = 'cancelled' where booking_id = pg_temp.the('of the other one') and type = 'confirmation';
select is(pg_temp.strike(now()), 'sent', 'a reminder, whose message waits for the number');
select private.undo_merge(pg_temp.the('merge'), pg_temp.clinic());
select is(b.contact_id, pg_temp.the('Outra'), 'taken apart again, the booking is the other one''s') from public.bookings b where b.id = pg_temp.the('of the other one');
select is(pg_temp.told_whom(pg_temp.the('of the other one')), 'reminder 1440 pending Outra, reminder 120 pending Outra, confirmation cancelled Maria', 'and so are its reminders, also those that were made in between');
select is(concat_ws(' ', m.status, m.error_code), 'failed superseded', 'what was about to leave for the wrong one is taken back') from pg_temp.last_words() m;
select is(pg_temp.strike(now()), 'outside_window', 'and due again for the right one');
select pg_temp.reminded('given away', pg_temp.day(121, '09:00'));
insert into it select 'reminder of given away', n.id from public.notifications n where n.booking_id = pg_temp.the('given away') and n.status = 'sent';
select pg_temp.leaves();
update public.bookings set contact_id = pg_temp.the('Outra') where id = pg_temp.the('given away');
select is(pg_temp.says('Cancelar', 'notification:' || pg_temp.the('reminder of given away') || ':cancel'), 'another_contact', 'who was reminded of what is not his any more');
select is(pg_temp.status(pg_temp.the('given away')), 'scheduled', 'cancels nothing of somebody else''s');
select alike((pg_temp.last_words()).content, 'Esse horário não está mais no seu nome.%', 'and is told why');
select is(private.why_not_any_more(n, now()), 'another_contact', 'nor is he reminded of it') from public.notifications n where n.id = pg_temp.the('reminder of given away');
update public.notifications set status = 'cancelled' where status = 'pending';
select pg_temp.no_questions();

-- When it goes wrong ----------------------------------------------------------------------------------------------------
insert into it values ('broken', pg_temp.book(pg_temp.day(80, '15:00'), 'flow'));
select private.enqueue_due_notifications(pg_temp.day(79, '15:00'));
select public.fail_job(c.organization_id, c.id, c.fencing_token, 'x', null, true) from public.claim_jobs('test', 5, array['send_notification']) c;
select is(concat_ws(' ', n.status, n.reason), 'failed attempts_exhausted', 'a notification whose job is given up does not wait for ever')
from public.notifications n where n.booking_id = pg_temp.the('broken') and n.offset_minutes = 1440;
update public.whatsapp_instances set status = 'disconnected' where organization_id = pg_temp.clinic();
select is(pg_temp.strike(pg_temp.day(80, '13:00')), 'unreachable', 'without a number nobody is reached');
update public.whatsapp_instances set status = 'connected' where organization_id = pg_temp.clinic();
select pg_temp.reminded('failing', pg_temp.day(81, '15:00'));
update public.messages set status = 'failed', error_code = '131026' where id = (pg_temp.last_words()).id;
select is(concat_ws(' ', n.status, n.reason), 'failed 131026', 'what the provider refused was not sent')
from public.notifications n where n.message_id = (pg_temp.last_words()).id;

-- Two numbers ---------------------------------------------------------------------------------------------------------
insert into public.whatsapp_instances
select (jsonb_populate_record(i, '{"external_id": "second-number", "name": "second", "instance_key": "AAEqLPMIheEzxRg6sFXLvA"}' || jsonb_build_object('id', private.uuid_v7()))).*
from public.whatsapp_instances i where i.organization_id = pg_temp.clinic();
insert into it select 'second number', i.id from public.whatsapp_instances i where i.external_id = 'second-number';
insert into private.instance_secrets
select (jsonb_populate_record(s, jsonb_build_object('instance_id', pg_temp.the('second number')))).*
from private.instance_secrets s where s.organization_id = pg_temp.clinic();
insert into public.conversations (organization_id, contact_id, instance_id, whatsapp_chat_id, status, closed_at, last_inbound_at)
values (pg_temp.clinic(), pg_temp.maria(), pg_temp.the('second number'), '5511987654321', 'closed', now(), now() - interval '1 hour');
select pg_temp.says('Bom dia!');
update public.conversations set last_inbound_at = now() - interval '3 days' where organization_id = pg_temp.clinic() and contact_id = pg_temp.maria() and instance_id <> pg_temp.the('second number');
insert into it values ('two numbers', pg_temp.book(pg_temp.day(83, '15:00'), 'flow'));
update public.notifications set scheduled_for = now() where booking_id = pg_temp.the('two numbers') and offset_minutes = 1440;
select is(pg_temp.strike(now(), false), 'sent', 'who wrote to the second number an hour ago');
select is((pg_temp.last_words()).instance_id, pg_temp.the('second number'), 'is written to there, though the conversation that is open is at the first');
update public.notifications set status = 'cancelled' where status = 'pending';
delete from public.conversations where instance_id = pg_temp.the('second number');
delete from public.whatsapp_instances where id = pg_temp.the('second number');

-- By somebody with the secret key, past our functions.
insert into it values ('by hand', pg_temp.book(pg_temp.day(85, '15:00'), 'flow'));
select private.enqueue_due_notifications(pg_temp.day(84, '15:00'));
update public.notifications set scheduled_for = pg_temp.day(84, '16:00') where booking_id = pg_temp.the('by hand') and offset_minutes = 1440;
select is(pg_temp.strike(pg_temp.day(84, '15:00')), 'moved', 'what is moved after its job came is not sent at the old time');
select is(pg_temp.strike(pg_temp.day(84, '16:00')), 'sent', 'but at the new one');

-- Many at one time --------------------------------------------------------------------------------------------------------
delete from public.message_queue where job_type = 'send_notification';
update public.notifications set status = 'cancelled' where status = 'pending';
insert into public.notifications (organization_id, contact_id, type, scheduled_for)
select pg_temp.clinic(), pg_temp.maria(), 'other'::public.notification_type, now() - interval '1 minute' from generate_series(1, 1200)
union all
select tests.the('petshop', 'organization_id'), tests.the('petshop', 'contact_id'), 'other', now() - interval '30 seconds';
create function pg_temp.has_jobs(tenant text)
returns bigint
language sql
as $$
  select count(*) from public.message_queue q
  where q.job_type = 'send_notification' and q.organization_id = tests.the(tenant, 'organization_id')
$$;
select cmp_ok(private.enqueue_due_notifications(now(), 10), '>=', 10::bigint, 'of very many that are due at once some have their jobs');
select is(pg_temp.has_jobs('petshop'), 1::bigint, 'and another tenant''s is among them');
select private.enqueue_due_notifications() from generate_series(1, 20);
select is(pg_temp.has_jobs('clinic'), 1200::bigint, 'in the end each has one');
select is(private.enqueue_due_notifications(), 0::bigint, 'and no other');
delete from public.notifications where type = 'other' and status = 'pending';
delete from public.message_queue where job_type = 'send_notification';

-- Told by people ----------------------------------------------------------------------------------------------------------
-- Another transaction, in which Maria did nothing herself.
select set_config('balcao.customer_is_told', '', true);
select pg_temp.as_member('attendant');
create temporary table by_ana as
select * from public.create_booking(pg_temp.maria(), tests.the('clinic', 'service_id'), pg_temp.day(90, '09:00'), off_schedule => true);
grant all on by_ana to public;
select is(pg_temp.strike(now()), 'sent', 'what an attendant books');
select alike((pg_temp.last_words()).content, 'Olá, Maria! Seu horário está marcado ✅ Consulta com Ana, %às 9h.%', 'the customer is told');
select pg_temp.as_member('attendant');
select public.cancel_booking((select id from by_ana));
select tests.authenticate_as_nobody();
select is(pg_temp.strike(now()), 'sent', 'and what she cancels');
select alike((pg_temp.last_words()).content, 'Olá, Maria! Seu horário de Consulta com Ana, %foi cancelado.%', 'too');
update public.organization_settings set sends_confirmations = false, asks_feedback = false where organization_id = pg_temp.clinic();
select pg_temp.book(pg_temp.day(91, '09:00'), 'human');
select is(pg_temp.strike(now()), 'nothing', 'unless the clinic does not want that');

select * from finish();
rollback;
