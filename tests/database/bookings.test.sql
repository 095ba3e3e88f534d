-- Booking: who may, what it refuses, how a booking moves through its life, and what keeps two from colliding whoever writes.
begin;
-- What this story defines may run as anyone; rolled back with the rest.
alter default privileges grant execute on functions to public;
select plan(109);

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');

-- The n-th half hour of a morning next week, at which Ana works.
create function pg_temp.slot(n int)
returns timestamptz
language sql
as $$ select (current_date + 7 + time '08:00') at time zone 'America/Sao_Paulo' + n * interval '30 minutes' $$;

create function pg_temp.booked(n int, extra jsonb default '{}')
returns public.bookings
language plpgsql
as $$
declare
  wanted record;
begin
  select * into wanted from jsonb_to_record(
    jsonb_build_object('contact_id', tests.the('clinic', 'contact_id'), 'service_id', tests.the('clinic', 'service_id')) || extra
  ) as w (contact_id uuid, service_id uuid, professional_id uuid, location_id uuid, pet_id uuid, notes text,
    created_by public.booking_creator, off_schedule boolean, hold_id uuid, id uuid);
  return public.create_booking(
    wanted.contact_id, wanted.service_id, pg_temp.slot(n), wanted.professional_id, wanted.location_id, wanted.pet_id, wanted.notes,
    wanted.created_by, coalesce(wanted.off_schedule, false), wanted.hold_id, wanted.id, tests.the('clinic', 'organization_id'));
end;
$$;

-- The JSON in an error's detail.
create function pg_temp.refusal(statement text)
returns jsonb
language plpgsql
as $$
declare
  detail text;
begin
  execute statement;
  return null;
exception when others then
  get stacked diagnostics detail = pg_exception_detail;
  return detail::jsonb;
end;
$$;

-- Who may --------------------------------------------------------------------------------------------------------------

select tests.authenticate_as_anon();
select throws_ok($$ select pg_temp.booked(0) $$, '42501', null, 'the public may not book');
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select throws_ok($$ select pg_temp.booked(0) $$, 'BL002', null, 'nor may another tenant''s owner');
select tests.authenticate_as(tests.the('clinic', 'viewer_id'));
select throws_ok($$ select pg_temp.booked(0) $$, 'BL002', null, 'nor a viewer');
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select lives_ok($$ create temporary table first as select b.* from pg_temp.booked(0, '{"notes": "Primeira vez 🙂"}') b $$, 'an attendant may');
select is(b.professional_id, tests.the('clinic', 'professional_id'), 'with whoever gives the service') from first b;
select is(b.end_time - b.start_time, interval '30 minutes', 'for as long as it takes') from first b;
select is(b.booking_date, current_date + 7, 'on its local day') from first b;
select is((b.created_by, b.created_by_user_id)::text, ('human', tests.the('clinic', 'attendant_id'))::text, 'and it says who booked') from first b;
select throws_ok($$ select pg_temp.booked(1, '{"created_by": "customer"}') $$, 'BL002', null, 'nobody books in another''s name');
select tests.authenticate_as_service();
select is((pg_temp.booked(1, '{"created_by": "ai"}')).created_by::text, 'ai', 'but the platform does');

-- What it refuses --------------------------------------------------------------------------------------------------------

select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select throws_ok($$ select pg_temp.booked(0) $$, 'BL501', null, 'a taken slot');
select is(
  pg_temp.refusal($$ select pg_temp.booked(0) $$) #>> '{alternatives,0,start_time}',
  to_jsonb(pg_temp.slot(2)) #>> '{}', 'which names the nearest one that is free');
select is(pg_temp.refusal($$ select pg_temp.booked(0) $$) ->> 'reason', 'taken', 'and why');
select is(pg_temp.refusal($$ select pg_temp.booked(10) $$) ->> 'reason', 'closed', 'an hour at which nobody works');
select is(pg_temp.refusal($$ select pg_temp.booked(-999) $$) ->> 'reason', 'past', 'an hour that is over');
select throws_ok(format('select pg_temp.booked(2, %L)', jsonb_build_object('service_id', gen_random_uuid())), 'BL500', null, 'an unknown service');
select throws_ok(format('select pg_temp.booked(2, %L)', jsonb_build_object('service_id', tests.the('petshop', 'service_id'))), 'BL500', null,
  'another tenant''s service');
select throws_ok(format('select pg_temp.booked(2, %L)', jsonb_build_object('contact_id', gen_random_uuid())), 'BL402', null, 'an unknown customer');
select throws_ok(format('select pg_temp.booked(2, %L)', jsonb_build_object('contact_id', tests.the('petshop', 'contact_id'))), 'BL402', null,
  'another tenant''s customer');
select throws_ok(format('select pg_temp.booked(2, %L)', jsonb_build_object('professional_id', tests.the('petshop', 'professional_id'))), 'BL507', null,
  'another tenant''s professional');
select throws_ok(format('select pg_temp.booked(2, %L)', jsonb_build_object('location_id', gen_random_uuid())), 'BL512', null, 'an unknown place');
select throws_ok(format('select pg_temp.booked(2, %L)', jsonb_build_object('pet_id', gen_random_uuid())), 'BL404', null, 'somebody else''s animal');
select throws_ok($$ select public.create_booking(service_id => tests.the('clinic', 'service_id'), contact_id => tests.the('clinic', 'contact_id')) $$,
  'BL504', null, 'no time at all');
select throws_ok(
  $$ select public.create_booking(service_id => tests.the('clinic', 'service_id'), contact_id => tests.the('clinic', 'contact_id'), start_time => 'infinity') $$,
  'BL504', null, 'the end of time');

-- An app's own id -----------------------------------------------------------------------------------------------------

create temporary table own_id as select gen_random_uuid() as id;
select is((pg_temp.booked(2, jsonb_build_object('id', id))).id, id, 'an app may choose the id') from own_id;
select is((pg_temp.booked(2, jsonb_build_object('id', id))).id, id, 'and the same again answers what is there, though its slot is taken') from own_id;
select throws_ok(format('select pg_temp.booked(3, %L)', jsonb_build_object('id', id, 'service_id', gen_random_uuid())), 'BL506', null,
  'but for another booking it is refused') from own_id;

-- What it answers is what was asked ------------------------------------------------------------------------------------

create temporary table asked as select gen_random_uuid() as id;
select lives_ok(format(
  'select public.hold_slot(%L, %L, %L, id => %L)', tests.the('clinic', 'contact_id'), tests.the('clinic', 'service_id'), pg_temp.slot(3), id),
  'a hold may have an id of the app''s too') from asked;
select throws_ok(format('select pg_temp.booked(3, %L)', jsonb_build_object('id', id)), 'BL506', null, 'which is no booking of that id') from asked;
select throws_ok(format('select pg_temp.booked(5, %L)', jsonb_build_object('id', id)), 'BL506', null, 'nor is another time') from own_id;
select public.cancel_booking(id) from asked;
select throws_ok(format(
  'select public.hold_slot(%L, %L, %L, id => %L)', tests.the('clinic', 'contact_id'), tests.the('clinic', 'service_id'), pg_temp.slot(3), id),
  'BL506', null, 'and what was cancelled is not answered as if it were there') from asked;
select throws_ok($$ select public.create_booking(tests.the('clinic', 'contact_id'), tests.the('clinic', 'service_id'), now() + interval '11 years') $$,
  'BL504', null, 'nobody books in eleven years');

-- Off the schedule ----------------------------------------------------------------------------------------------------

select is((pg_temp.booked(10, '{"off_schedule": true}')).professional_id, tests.the('clinic', 'professional_id'), 'the staff squeeze in outside the hours');
select throws_ok($$ select pg_temp.booked(10, '{"off_schedule": true}') $$, 'BL501', null, 'but never on top of another');
select lives_ok($$ select pg_temp.booked(-999, '{"off_schedule": true}') $$, 'and note down what has been');

-- Holds ---------------------------------------------------------------------------------------------------------------

create temporary table held as
select h.* from public.hold_slot(tests.the('clinic', 'contact_id'), tests.the('clinic', 'service_id'), pg_temp.slot(4), minutes => 5) h;
grant select on held to service_role;
select is((status, hold_expires_at)::text, ('hold', now() + interval '5 minutes')::text, 'a hold keeps a slot for some minutes') from held;
select throws_ok($$ select pg_temp.booked(4) $$, 'BL501', null, 'from everybody else');
select throws_ok($$ select public.hold_slot(tests.the('clinic', 'contact_id'), tests.the('clinic', 'service_id'), pg_temp.slot(5), minutes => 0) $$, 'BL516', null,
  'not for no time');
select throws_ok(format('select public.confirm_booking(%L)', id), 'BL503', null, 'a hold is not confirmed') from held;
select is((pg_temp.booked(4, jsonb_build_object('hold_id', id, 'notes', 'Veio do bot'))).notes, 'Veio do bot', 'it becomes a booking, with notes') from held;
select is((pg_temp.booked(4, jsonb_build_object('hold_id', id))).status::text, 'scheduled', 'and a second time is the same booking') from held;
select is((b.hold_expires_at, b.is_live)::text, '(,t)', 'it does not expire any more') from public.bookings b join held h using (id);

create temporary table forgotten as
select h.* from public.hold_slot(tests.the('clinic', 'contact_id'), tests.the('clinic', 'service_id'), pg_temp.slot(5)) h;
select is(hold_expires_at, now() + interval '10 minutes', 'by itself a hold lasts as long as the settings say') from forgotten;
select tests.authenticate_as_nobody();
update public.bookings b set hold_expires_at = now() - interval '1 second' from forgotten f where b.id = f.id;
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select throws_ok(format('select pg_temp.booked(5, %L)', jsonb_build_object('hold_id', id)), 'BL505', null, 'an expired hold is not booked') from forgotten;
select ok(exists (
  select from public.get_available_slots(tests.the('clinic', 'service_id'), pg_temp.slot(0), pg_temp.slot(8)) s where s.start_time = pg_temp.slot(5)
), 'its slot is free again');
select lives_ok($$ select pg_temp.booked(5) $$, 'for whoever comes');
select is((b.status, b.cancellation_reason)::text, '(cancelled,hold_expired)', 'which ends it') from public.bookings b join forgotten f using (id);
select tests.authenticate_as_nobody();
select is(private.expire_holds(), 0::bigint, 'there is nothing left to expire');
select h.id from public.hold_slot(
  tests.the('clinic', 'contact_id'), tests.the('clinic', 'service_id'), pg_temp.slot(6), organization_id => tests.the('clinic', 'organization_id')) h;
update public.bookings b set hold_expires_at = now() - interval '1 second' where b.start_time = pg_temp.slot(6);
select is(private.expire_holds(), 1::bigint, 'the clock ends what nobody else did');

-- The state machine -----------------------------------------------------------------------------------------------------

-- A booking that has got to a status in the legal way, and has begun.
create function pg_temp.a_booking_that_is(wanted public.booking_status)
returns uuid
language plpgsql
as $$
declare
  booking uuid := gen_random_uuid();
begin
  insert into public.bookings (organization_id, id, contact_id, service_id, professional_id, start_time, end_time, status, hold_expires_at)
  values (
    tests.the('clinic', 'organization_id'), booking, tests.the('clinic', 'contact_id'), tests.the('clinic', 'service_id'), null,
    now() - interval '1 hour', now(), case wanted when 'hold' then 'hold' else 'scheduled' end::public.booking_status,
    case wanted when 'hold' then now() + interval '1 hour' end);
  if wanted not in ('hold', 'scheduled') then
    update public.bookings set status = wanted where id = booking;
  end if;
  return booking;
end;
$$;

create temporary table moves as
select f as from_status, t as to_status,
  (f, t) in (
    ('hold', 'scheduled'), ('hold', 'cancelled'),
    ('scheduled', 'confirmed'), ('scheduled', 'completed'), ('scheduled', 'cancelled'), ('scheduled', 'no_show'),
    ('confirmed', 'scheduled'), ('confirmed', 'completed'), ('confirmed', 'cancelled'), ('confirmed', 'no_show'),
    ('completed', 'no_show'), ('no_show', 'completed')
  ) as is_legal
from unnest(enum_range(null::public.booking_status)) f
cross join unnest(enum_range(null::public.booking_status)) t
where f <> t;
update public.services set capacity = 1000 where organization_id = tests.the('clinic', 'organization_id');
select case
  when is_legal then lives_ok(
    format('update public.bookings set status = %L where id = %L', to_status, pg_temp.a_booking_that_is(from_status)),
    format('%s may become %s', from_status, to_status))
  else throws_ok(
    format('update public.bookings set status = %L%s where id = %L', to_status,
      case to_status when 'hold' then ', hold_expires_at = now() + interval ''1 hour''' else '' end,
      pg_temp.a_booking_that_is(from_status)),
    'BL503', null, format('%s does not become %s', from_status, to_status))
end
from moves
order by from_status, to_status;

select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select is((b.status, b.confirmed_by, b.confirmation_method)::text, '(confirmed,patient,whatsapp)', 'a confirmation says who and how')
from first f, public.confirm_booking(f.id, 'patient', 'whatsapp') b;
select throws_ok(format('select public.mark_no_show(%L)', id), 'BL509', null, 'nobody has stayed away before it began') from first;
select throws_ok(format('select public.complete_booking(%L)', id), 'BL509', null, 'nor been there before its day') from first;
select is(
  (b.status, b.start_time, b.original_start_time, b.rescheduled_count, b.confirmed_at)::text,
  ('scheduled', pg_temp.slot(7), pg_temp.slot(0), 1, null::timestamptz)::text,
  'a booking that moves is to be confirmed again, and remembers where it was')
from first f, public.reschedule_booking(f.id, pg_temp.slot(7)) b;
select is(b.rescheduled_count, 1, 'to where it is already it does not move') from first f, public.reschedule_booking(f.id, pg_temp.slot(7)) b;
select throws_ok(format('select public.reschedule_booking(%L, %L)', id, pg_temp.slot(1)), 'BL501', null, 'nor onto another') from first;
select is((b.status, b.cancellation_reason)::text, '(cancelled,gripe)', 'a cancellation says why') from first f, public.cancel_booking(f.id, 'gripe') b;
select is(b.cancellation_reason, 'gripe', 'once') from first f, public.cancel_booking(f.id, 'outra coisa') b;
select throws_ok(format('select public.reschedule_booking(%L, %L)', id, pg_temp.slot(0)), 'BL503', null, 'and is final') from first;
select throws_ok($$ select public.cancel_booking(gen_random_uuid()) $$, 'BL502', null, 'what is not there is not cancelled');
select throws_ok(format('select public.cancel_booking(%L)', tests.the('petshop', 'booking_id')), 'BL502', null, 'nor is another tenant''s');

-- What is booked stays as it was booked ------------------------------------------------------------------------------------

select tests.authenticate_as_nobody();
create temporary table neighbours as
select a.id as first, b.id as second
from public.create_booking(tests.the('clinic', 'contact_id'), tests.the('clinic', 'service_id'), pg_temp.slot(0) + interval '1 day',
    organization_id => tests.the('clinic', 'organization_id')) a,
  public.create_booking(tests.the('clinic', 'contact_id'), tests.the('clinic', 'service_id'), pg_temp.slot(1) + interval '1 day',
    organization_id => tests.the('clinic', 'organization_id')) b;
update public.services set buffer_minutes = 15 where id = tests.the('clinic', 'service_id');
select is((public.confirm_booking(first, organization_id => tests.the('clinic', 'organization_id'))).status::text, 'confirmed',
  'a longer buffer does not keep those from being confirmed who were booked without') from neighbours;
select is((public.reschedule_booking(first, pg_temp.slot(0) + interval '2 days', organization_id => tests.the('clinic', 'organization_id'))).blocked_until,
  pg_temp.slot(1) + interval '2 days 15 minutes', 'whoever moves gets the new one') from neighbours;
update public.services set buffer_minutes = 0 where id = tests.the('clinic', 'service_id');
insert into public.locations (organization_id, id, name, slug)
values (tests.the('clinic', 'organization_id'), tests.the('clinic', 'booking_id'), 'Filial', 'filial-dois');
update public.bookings b set location_id = tests.the('clinic', 'booking_id') from neighbours n where b.id = n.second;
select throws_ok($$ delete from public.locations where id = tests.the('clinic', 'booking_id') $$, 'BL518', null, 'a location with bookings stays');
update public.professionals set is_active = false where id = tests.the('clinic', 'professional_id');
select throws_ok(
  format('select public.reschedule_booking(%L, %L, organization_id => %L)', second, pg_temp.slot(3) + interval '2 days', tests.the('clinic', 'organization_id')),
  'BL507', null, 'with whom nobody can book any more nobody gets a new time') from neighbours;
select lives_ok(format('select public.confirm_booking(%L, organization_id => %L)', second, tests.the('clinic', 'organization_id')), 'but what is booked can be confirmed')
from neighbours;
select lives_ok(format('select public.cancel_booking(%L, %L, %L)', second, 'hold_expired', tests.the('clinic', 'organization_id')), 'and cancelled')
from neighbours;
select isnt(b.cancellation_reason, 'hold_expired', 'in words that are not the clock''s') from public.bookings b join neighbours n on n.second = b.id;
update public.professionals set is_active = true where id = tests.the('clinic', 'professional_id');
insert into public.pets (organization_id, id, contact_id, name, is_active)
values (tests.the('clinic', 'organization_id'), tests.the('clinic', 'message_id'), tests.the('clinic', 'contact_id'), 'Bidu', false);
select throws_ok(format('select pg_temp.booked(9, %L)', jsonb_build_object('pet_id', tests.the('clinic', 'message_id'), 'off_schedule', true)), 'BL404', null,
  'nobody books for an animal that has died');

-- Whoever writes -----------------------------------------------------------------------------------------------------------

select tests.authenticate_as_service();
select throws_ok($$ delete from public.bookings where id = (select id from held) $$, '42501', null, 'nothing is deleted, not even with the secret key');
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select lives_ok($$ update public.bookings set notes = 'Alérgica' where id = (select id from held) $$, 'an attendant may write notes');
select throws_ok($$ update public.bookings set start_time = now() where id = (select id from held) $$, '42501', null, 'but no times');
select tests.authenticate_as_service();
select throws_ok(
  $$
    insert into public.bookings (organization_id, contact_id, service_id, professional_id, start_time, end_time)
    select b.organization_id, b.contact_id, b.service_id, b.professional_id, b.start_time + interval '10 minutes', b.end_time
    from public.bookings b join held h using (id)
  $$,
  'BL501', null, 'the secret key cannot book on top of another either');
select throws_ok(
  $$
    update public.bookings b set start_time = h.start_time, end_time = h.end_time
    from held h where b.start_time = pg_temp.slot(1)
  $$,
  'BL501', null, 'nor move one there');
select tests.authenticate_as_nobody();
alter table public.bookings disable trigger bookings_500_guard;
select throws_ok(
  $$
    insert into public.bookings (organization_id, contact_id, service_id, professional_id, start_time, end_time, blocked_until, booking_date)
    select b.organization_id, b.contact_id, b.service_id, b.professional_id, b.start_time, b.end_time, b.end_time, b.booking_date
    from public.bookings b join held h using (id)
  $$,
  '23P01', null, 'and without the guard the constraint holds');
alter table public.bookings enable trigger bookings_500_guard;

-- What is in use stays; what is said of it moves along ------------------------------------------------------------------------

select tests.authenticate_as(tests.the('clinic', 'owner_id'));
select throws_ok($$ delete from public.services where id = tests.the('clinic', 'service_id') $$, 'BL510', null, 'a service with bookings stays');
select throws_ok($$ delete from public.professionals where id = tests.the('clinic', 'professional_id') $$, 'BL511', null, 'so does a professional');
select throws_ok($$ delete from public.contacts where id = tests.the('clinic', 'contact_id') $$, 'BL201', null, 'and a customer');
select is((b.booking_date, (b.start_time at time zone 'America/Sao_Paulo')::time)::text, (current_date + 7, time '10:00')::text, 'before the clinic moves')
from public.bookings b join held h using (id);
update public.organizations set timezone = 'Pacific/Auckland' where id = tests.the('clinic', 'organization_id');
select is(b.booking_date, (b.start_time at time zone 'Pacific/Auckland')::date, 'a corrected time zone moves the local days of what is to come')
from public.bookings b join held h using (id);

select * from finish();
rollback;
