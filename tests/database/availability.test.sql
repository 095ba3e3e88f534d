-- Which slots are free: hours, breaks, time off, buffers, places, and the days on which the clocks change.
-- The random questions are in tests/integration/available-slots.test.ts; these are the ones that a person would ask.
begin;
-- What this story defines may run as anyone; rolled back with the rest.
alter default privileges grant execute on functions to public;
select plan(24);

select tests.a_tenant('clinic');

-- A professional of the clinic with hours of his own; everything in wall-clock time of a zone.
create function pg_temp.a_professional(named text, zone text)
returns uuid
language plpgsql
as $$
declare
  place uuid := gen_random_uuid();
  person uuid := gen_random_uuid();
begin
  insert into public.locations (organization_id, id, name, slug, timezone)
  values (tests.the('clinic', 'organization_id'), place, named, named, zone);
  insert into public.professionals (organization_id, id, name, location_id)
  values (tests.the('clinic', 'organization_id'), person, named, place);
  return person;
end;
$$;

create function pg_temp.a_service(minutes int, buffer int default 0, every int default null, seats int default 1)
returns uuid
language plpgsql
as $$
declare
  service uuid := gen_random_uuid();
begin
  insert into public.services (organization_id, id, name, duration_minutes, buffer_minutes, slot_interval_minutes, capacity)
  values (tests.the('clinic', 'organization_id'), service, 'Serviço', minutes, buffer, every, seats);
  return service;
end;
$$;

create function pg_temp.works(person uuid, service uuid, day date, starts_at time, ends_at time)
returns void
language plpgsql
as $$
begin
  insert into public.professional_services (organization_id, professional_id, service_id)
  values (tests.the('clinic', 'organization_id'), person, service)
  on conflict do nothing;
  insert into public.working_hours (organization_id, professional_id, weekday, starts_at, ends_at, valid_from, valid_until)
  values (tests.the('clinic', 'organization_id'), person, extract(dow from day), starts_at, ends_at, day, day);
end;
$$;

-- The free starts of some local days as wall-clock times, asked long before.
create function pg_temp.starts(service uuid, zone text, first_day date, last_day date, format text default 'HH24:MI')
returns text
language sql
as $$
  select string_agg(to_char(f.start_time at time zone zone, format), ' ' order by f.start_time)
  from private.free_slots(
    tests.the('clinic', 'organization_id'), service,
    first_day::timestamp at time zone zone, (last_day + 1)::timestamp at time zone zone, null, null, '2000-01-01T00:00Z') f
$$;

create temporary table stage as
select
  pg_temp.a_professional('sampa', 'America/Sao_Paulo') as sampa,
  pg_temp.a_professional('nyc', 'America/New_York') as nyc,
  pg_temp.a_professional('lisboa', 'Europe/Lisbon') as lisboa,
  pg_temp.a_service(30) as half_hour,
  pg_temp.a_service(60) as hour,
  pg_temp.a_service(60, 15) as hour_and_buffer,
  pg_temp.a_service(60, 0, 20) as hour_every_20;

-- An ordinary day ---------------------------------------------------------------------------------------------------

select pg_temp.works(sampa, hour, '2026-12-01', '08:00', '10:30'), pg_temp.works(sampa, hour, '2026-12-01', '13:00', '15:00') from stage;
select is(pg_temp.starts(hour, 'America/Sao_Paulo', '2026-12-01', '2026-12-01'), '08:00 09:00 13:00 14:00',
  'a break is the gap between two rows of hours; what does not fit before it is not offered') from stage;
select pg_temp.works(sampa, hour_every_20, '2026-12-02', '08:00', '09:30'), pg_temp.works(sampa, hour_every_20, '2026-12-02', '09:30', '10:00') from stage;
select is(pg_temp.starts(hour_every_20, 'America/Sao_Paulo', '2026-12-02', '2026-12-02'), '08:00 08:20 08:40 09:00',
  'hours that touch are one: a slot may span both') from stage;
insert into public.time_off (organization_id, professional_id, starts_at, ends_at)
select tests.the('clinic', 'organization_id'), sampa, '2026-12-02T11:20-00', '2026-12-02T11:40-00' from stage;
select is(pg_temp.starts(hour_every_20, 'America/Sao_Paulo', '2026-12-02', '2026-12-02'), '08:40 09:00',
  'time off cuts every slot that it touches, and no other') from stage;
insert into public.time_off (organization_id, starts_at, ends_at)
select tests.the('clinic', 'organization_id'), '2026-12-02T00:00-03', '2026-12-03T00:00-03';
select is(pg_temp.starts(hour_every_20, 'America/Sao_Paulo', '2026-12-02', '2026-12-02'), null, 'a holiday of the house is everybody''s') from stage;

select pg_temp.works(sampa, hour_and_buffer, '2026-12-04', '08:00', '11:00') from stage;
insert into public.bookings (organization_id, contact_id, service_id, professional_id, start_time, end_time)
select tests.the('clinic', 'organization_id'), tests.the('clinic', 'contact_id'), hour_and_buffer, sampa, '2026-12-04T09:00-03', '2026-12-04T10:00-03'
from stage;
select is(pg_temp.starts(hour_and_buffer, 'America/Sao_Paulo', '2026-12-04', '2026-12-04'), null,
  'the buffer stands after each booking: after the one there is, and before it after the new one') from stage;
update public.services set buffer_minutes = 0 where id = (select hour_and_buffer from stage);
select is(pg_temp.starts(hour_and_buffer, 'America/Sao_Paulo', '2026-12-04', '2026-12-04'), '08:00',
  'without a buffer a slot may end when the next booking begins; what is booked keeps its own buffer') from stage;
update public.services set buffer_minutes = 240 where id = (select hour_every_20 from stage);
select pg_temp.works(sampa, hour_every_20, '2026-12-07', '16:00', '17:00') from stage;
select is(pg_temp.starts(hour_every_20, 'America/Sao_Paulo', '2026-12-07', '2026-12-07'), '16:00', 'the buffer may reach past closing time') from stage;

-- Nights, leap days, years ------------------------------------------------------------------------------------------

select pg_temp.works(sampa, half_hour, '2026-12-31', '23:00', '01:00') from stage;
select is(pg_temp.starts(half_hour, 'America/Sao_Paulo', '2026-12-31', '2027-01-01', 'DD/MM HH24:MI'), '31/12 23:00 31/12 23:30 01/01 00:00 01/01 00:30',
  'hours over midnight belong to the day on which they begin') from stage;
select is(pg_temp.starts(half_hour, 'America/Sao_Paulo', '2027-01-01', '2027-01-01'), '00:00 00:30',
  'and are found from the day after, too') from stage;
select pg_temp.works(sampa, half_hour, '2028-02-29', '22:00', '24:00') from stage;
select is(pg_temp.starts(half_hour, 'America/Sao_Paulo', '2028-02-28', '2028-03-01', 'DD/MM HH24:MI'), '29/02 22:00 29/02 22:30 29/02 23:00 29/02 23:30',
  'a leap day is a day, and 24:00 is its end') from stage;

-- The days on which the clocks change ---------------------------------------------------------------------------------

select pg_temp.works(nyc, half_hour, '2026-03-08', '01:00', '04:00') from stage;
select is(pg_temp.starts(half_hour, 'America/New_York', '2026-03-08', '2026-03-08'), '01:00 01:30 03:00 03:30',
  'New York, spring: from 02:00 to 03:00 there is no time') from stage;
select pg_temp.works(nyc, half_hour, '2026-11-01', '00:30', '02:30') from stage;
select is(pg_temp.starts(half_hour, 'America/New_York', '2026-11-01', '2026-11-01', 'HH24:MI'), '00:30 01:00 01:30 01:00 01:30 02:00',
  'New York, autumn: from 01:00 to 02:00 there is twice the time') from stage;
select pg_temp.works(lisboa, half_hour, '2026-03-29', '00:00', '03:00'), pg_temp.works(lisboa, half_hour, '2026-10-25', '00:30', '02:00') from stage;
select is(pg_temp.starts(half_hour, 'Europe/Lisbon', '2026-03-29', '2026-03-29'), '00:00 00:30 02:00 02:30', 'Lisbon, spring') from stage;
select is(pg_temp.starts(half_hour, 'Europe/Lisbon', '2026-10-25', '2026-10-25'), '00:30 01:00 01:30 01:00 01:30', 'Lisbon, autumn') from stage;
select pg_temp.works(sampa, half_hour, '2018-11-04', '00:00', '02:00') from stage;
select is(pg_temp.starts(half_hour, 'America/Sao_Paulo', '2018-11-04', '2018-11-04'), '01:00 01:30',
  'São Paulo 2018: a day without midnight begins at one') from stage;
select pg_temp.works(sampa, half_hour, '2018-02-17', '22:30', '24:00') from stage;
select is(pg_temp.starts(half_hour, 'America/Sao_Paulo', '2018-02-17', '2018-02-17'), '22:30 23:00 23:30 23:00 23:30',
  'São Paulo 2018: an evening with an hour more') from stage;
select pg_temp.works(sampa, half_hour, '2026-10-18', '00:00', '01:00'), pg_temp.works(sampa, half_hour, '2026-02-21', '23:00', '24:00') from stage;
select is(pg_temp.starts(half_hour, 'America/Sao_Paulo', '2026-10-18', '2026-10-18') || ' ' || pg_temp.starts(half_hour, 'America/Sao_Paulo', '2026-02-21', '2026-02-21'),
  '00:00 00:30 23:00 23:30', 'São Paulo 2026: the clocks do not change any more') from stage;

-- Whoever is free, and places without anybody ---------------------------------------------------------------------------

select pg_temp.works(sampa, half_hour, '2026-12-10', '08:00', '09:00'), pg_temp.works(nyc, half_hour, '2026-12-10', '06:00', '07:00') from stage;
insert into public.bookings (organization_id, contact_id, service_id, professional_id, start_time, end_time)
select tests.the('clinic', 'organization_id'), tests.the('clinic', 'contact_id'), hour, sampa, '2026-12-10T10:00-03', '2026-12-10T11:00-03' from stage;
select results_eq(
  $$
    select distinct f.professional_id = (select nyc from stage), f.timezone
    from private.free_slots(
      tests.the('clinic', 'organization_id'), (select half_hour from stage), '2026-12-10T08:00-03', '2026-12-10T09:00-03',
      null, null, '2000-01-01T00:00Z') f
  $$,
  $$ values (true, 'America/New_York') $$,
  'among several who are free the one with the fewest booked minutes that day is named');

update public.locations set is_active = false where organization_id = tests.the('clinic', 'organization_id');
select is(pg_temp.starts(half_hour, 'America/Sao_Paulo', '2026-12-10', '2026-12-10'), null, 'a place that is closed for good has no hours') from stage;

update public.organization_settings set operating_hours = '{"friday": [{"starts_at": "08:00", "ends_at": "10:00"}]}'
where organization_id = tests.the('clinic', 'organization_id');
create temporary table tubs as select pg_temp.a_service(60, 0, 30, 2) as bath;
select is(pg_temp.starts(bath, 'America/Sao_Paulo', '2026-12-10', '2026-12-12', 'DD HH24:MI'), '11 08:00 11 08:30 11 09:00',
  'a service that nobody is named for has the hours of the house') from tubs;
insert into public.bookings (organization_id, contact_id, service_id, start_time, end_time)
select tests.the('clinic', 'organization_id'), tests.the('clinic', 'contact_id'), bath, at, at + interval '1 hour'
from tubs
cross join unnest('{2026-12-11T08:00-03,2026-12-11T08:30-03}'::timestamptz[]) at;
select is(pg_temp.starts(bath, 'America/Sao_Paulo', '2026-12-11', '2026-12-11'), '09:00', 'until its capacity is taken at once') from tubs;

select tests.authenticate_as(tests.the('clinic', 'viewer_id'));
select throws_ok(
  $$ select * from public.get_available_slots(tests.the('clinic', 'service_id'), now(), now() + interval '93 days') $$, 'BL504', null,
  'a quarter at most');
select cmp_ok(
  (select count(*) from public.get_available_slots(tests.the('clinic', 'service_id'), now(), now() + interval '2 days')), '>', 7::bigint,
  'a viewer may look');
select tests.a_tenant('petshop');
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select throws_ok(
  $$ select * from public.get_available_slots(
    tests.the('clinic', 'service_id'), now(), now() + interval '2 days', organization_id => tests.the('clinic', 'organization_id')) $$,
  'BL002', null, 'another tenant may not');

select * from finish();
rollback;
