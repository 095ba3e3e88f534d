-- The waiting list: who is asked, in which order, and what becomes of the offer.
-- The races are in tests/integration/waiting-list.test.ts.
begin;
-- What this story defines may run as anyone; rolled back with the rest.
alter default privileges grant execute on functions to public;
select plan(35);

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
delete from public.waiting_list;

create function pg_temp.slot(n int)
returns timestamptz
language sql
as $$ select (current_date + 7 + time '08:00') at time zone 'America/Sao_Paulo' + n * interval '30 minutes' $$;

create function pg_temp.a_customer(named text)
returns uuid
language plpgsql
security definer
as $$
declare
  customer uuid := gen_random_uuid();
begin
  insert into public.contacts (organization_id, id, name) values (tests.the('clinic', 'organization_id'), customer, named);
  return customer;
end;
$$;

create function pg_temp.booked(n int)
returns uuid
language sql
as $$
  select b.id from public.create_booking(pg_temp.a_customer('Titular'), tests.the('clinic', 'service_id'), pg_temp.slot(n)) b
$$;

create function pg_temp.joins(named text, extra jsonb default '{}')
returns uuid
language plpgsql
as $$
declare
  wish record;
begin
  select * into wish from jsonb_to_record(extra) as w (
    professional_id uuid, priority int, earliest_date date, latest_date date, period public.day_period);
  return (public.join_waiting_list(
    pg_temp.a_customer(named), tests.the('clinic', 'service_id'), wish.professional_id, priority => coalesce(wish.priority, 0),
    earliest_date => wish.earliest_date, latest_date => wish.latest_date, period => coalesce(wish.period, 'any'))).id;
end;
$$;

-- Who holds the slot now, and as what.
create function pg_temp.whose(n int)
returns text
language sql
security definer
as $$
  select c.name || ' ' || b.status
  from public.bookings b join public.contacts c on c.organization_id = b.organization_id and c.id = b.contact_id
  where b.start_time = pg_temp.slot(n) and b.is_live and b.organization_id = tests.the('clinic', 'organization_id')
$$;

create function pg_temp.state_of(named text)
returns text
language sql
security definer
as $$
  select w.status::text
  from public.waiting_list w join public.contacts c on c.organization_id = w.organization_id and c.id = w.contact_id
  where c.name = named
$$;

create function pg_temp.time_passes(n int)
returns bigint
language plpgsql
security definer
as $$
begin
  update public.bookings set hold_expires_at = now() - interval '1 second' where start_time = pg_temp.slot(n) and status = 'hold';
  update public.waiting_list set offer_expires_at = now() - interval '1 second' where status = 'offered';
  return private.expire_holds();
end;
$$;

select tests.authenticate_as(tests.the('clinic', 'viewer_id'));
select throws_ok($$ select pg_temp.joins('Ninguém') $$, 'BL002', null, 'a viewer puts nobody on the list');
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select throws_ok(
  $$ select public.join_waiting_list(tests.the('clinic', 'contact_id'), tests.the('clinic', 'service_id'), organization_id => tests.the('clinic', 'organization_id')) $$,
  'BL002', null, 'nor does another tenant');

select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
create temporary table booked as select n, pg_temp.booked(n) as id from generate_series(0, 5) n;
create temporary table list (name text, id uuid);
insert into list values
  ('Tarde', pg_temp.joins('Tarde', '{"period": "afternoon", "priority": 9}')),
  ('Depois', pg_temp.joins('Depois', jsonb_build_object('earliest_date', current_date + 8, 'priority', 9))),
  ('Primeira', pg_temp.joins('Primeira')),
  ('Segunda', pg_temp.joins('Segunda', '{"period": "morning"}')),
  ('Urgente', pg_temp.joins('Urgente', jsonb_build_object('priority', 5, 'latest_date', current_date + 7)));

-- In turn ---------------------------------------------------------------------------------------------------------------

select is((public.cancel_booking(id)).status::text, 'cancelled', 'a booking is cancelled') from booked where n = 0;
select is(pg_temp.whose(0), 'Urgente hold', 'whoever has the highest priority and can come is offered the slot');
select is(pg_temp.state_of('Tarde') || ' ' || pg_temp.state_of('Depois'), 'waiting waiting', 'who cannot come is not asked');
select throws_ok($$ select pg_temp.booked(0) $$, 'BL501', null, 'nobody else can take it');
select is(pg_temp.time_passes(0), 1::bigint, 'the offer expires');
select is(pg_temp.state_of('Urgente'), 'expired', 'which its entry says');
select is(pg_temp.whose(0), 'Primeira hold', 'and whoever waits longest is next');
select throws_ok(format('select public.accept_waiting_list_offer(%L)', id), 'BL514', null, 'who was too late is told so') from list where name = 'Urgente';
select is((public.leave_waiting_list(id)).status::text, 'cancelled', 'the next one declines') from list where name = 'Primeira';
select is(pg_temp.whose(0), 'Segunda hold', 'and the slot goes on at once');
select is((public.accept_waiting_list_offer(id)).status::text, 'scheduled', 'where it is accepted') from list where name = 'Segunda';
select is((public.accept_waiting_list_offer(id)).status::text, 'scheduled', 'a second time answers the same booking') from list where name = 'Segunda';
select is(pg_temp.whose(0) || ', ' || pg_temp.state_of('Segunda'), 'Segunda scheduled, booked', 'a booking and an entry that say so');

select is((public.cancel_booking(id)).status::text, 'cancelled', 'when nobody who could come is left') from booked where n = 1;
select is(pg_temp.whose(1), null, 'the slot is free for anybody');

-- Every way in which a slot becomes free ------------------------------------------------------------------------------------

insert into list values ('Terceira', pg_temp.joins('Terceira'));
select lives_ok(format('select public.reschedule_booking(%L, %L)', id, pg_temp.slot(6)), 'a booking that moves away') from booked where n = 2;
select is(pg_temp.whose(2), 'Terceira hold', 'leaves its slot to the list');
select lives_ok(format('select public.create_booking(hold_id => %L)', b.id), 'an offer may be booked as any hold')
from public.bookings b where b.start_time = pg_temp.slot(2) and b.status = 'hold';
select is(pg_temp.state_of('Terceira'), 'booked', 'and the entry knows');

insert into list values ('Quarta', pg_temp.joins('Quarta'));
insert into public.time_off (organization_id, professional_id, starts_at, ends_at)
values (tests.the('clinic', 'organization_id'), tests.the('clinic', 'professional_id'), pg_temp.slot(3), pg_temp.slot(4));
select is((public.cancel_booking(id, 'A doutora está doente')).status::text, 'cancelled', 'what is cancelled because nobody works then') from booked where n = 3;
select is(pg_temp.whose(3) is null and pg_temp.state_of('Quarta') = 'waiting', true, 'is offered to nobody');

-- What is refused -----------------------------------------------------------------------------------------------------------

select throws_ok(
  format('select public.join_waiting_list(%L, tests.the(''clinic'', ''service_id''))', w.contact_id), 'BL515', null, 'nobody stands in a line twice')
from public.waiting_list w join list using (id) where list.name = 'Quarta';
select throws_ok($$ select pg_temp.joins('Ontem', jsonb_build_object('latest_date', current_date - 2)) $$, 'BL504', null, 'nobody waits for what is over');
select throws_ok($$ select public.accept_waiting_list_offer(gen_random_uuid()) $$, 'BL513', null, 'an unknown entry');
select tests.authenticate_as_nobody();
update public.waiting_list set latest_date = current_date - 2 where id = (select id from list where name = 'Quarta');
select is(private.expire_waiting_list(), 1::bigint, 'whose last day is over');
select is(pg_temp.state_of('Quarta'), 'expired', 'waits no longer');

-- Not to whom it would be of no use -------------------------------------------------------------------------------------------

select tests.authenticate_as_nobody();
delete from public.time_off where organization_id = tests.the('clinic', 'organization_id');
update public.waiting_list set status = 'cancelled' where status = 'waiting';
create temporary table own as
select b.contact_id, w.id as entry, b.id as booking
from booked
join public.bookings b on b.id = booked.id
cross join lateral public.join_waiting_list(b.contact_id, b.service_id, organization_id => b.organization_id) w
where booked.n = 4;
select is((public.cancel_booking(booking, 'Não posso', tests.the('clinic', 'organization_id'))).status::text, 'cancelled', 'somebody who waits for something better cancels') from own;
select is(pg_temp.whose(4), null, 'and is not offered what he has just given up');
select is((public.create_booking(contact_id, tests.the('clinic', 'service_id'), pg_temp.slot(4), organization_id => tests.the('clinic', 'organization_id'))).status::text,
  'scheduled', 'he comes back') from own;
insert into public.services (organization_id, id, name, duration_minutes, requires_pet)
values (tests.the('clinic', 'organization_id'), tests.the('clinic', 'message_id'), 'Vacina', 30, true);
insert into public.pets (organization_id, id, contact_id, name)
values
  (tests.the('clinic', 'organization_id'), tests.the('clinic', 'booking_id'), tests.the('clinic', 'contact_id'), 'Mia'),
  (tests.the('clinic', 'organization_id'), tests.the('clinic', 'endpoint_id'), tests.the('clinic', 'contact_id'), 'Tom');
select lives_ok(format($$
  select public.join_waiting_list(tests.the('clinic', 'contact_id'), tests.the('clinic', 'message_id'), pet_id => p.id, organization_id => p.organization_id)
  from public.pets p where p.name in ('Mia', 'Tom') $$), 'a customer may wait with each of his animals');
select is((select count(*) from public.waiting_list w where w.service_id = tests.the('clinic', 'message_id') and w.is_open), 2::bigint, 'each in a line of its own');
update public.pets set is_active = false where name = 'Mia' and organization_id = tests.the('clinic', 'organization_id');
insert into public.professional_services (organization_id, professional_id, service_id)
values (tests.the('clinic', 'organization_id'), tests.the('clinic', 'professional_id'), tests.the('clinic', 'message_id'));
insert into public.pets (organization_id, id, contact_id, name)
select tests.the('clinic', 'organization_id'), tests.the('clinic', 'conversation_id'), contact_id, 'Rex' from own;
select is((public.cancel_booking(b.id, organization_id => b.organization_id)).status::text, 'cancelled', 'an animal''s slot becomes free')
from own, public.create_booking(
  own.contact_id, tests.the('clinic', 'message_id'), pg_temp.slot(7), pet_id => tests.the('clinic', 'conversation_id'),
  organization_id => tests.the('clinic', 'organization_id')) b;
select is(
  (select p.name from public.bookings b join public.pets p on p.id = b.pet_id where b.start_time = pg_temp.slot(7) and b.is_offer), 'Tom',
  'and is offered to one that lives');

select * from finish();
rollback;
