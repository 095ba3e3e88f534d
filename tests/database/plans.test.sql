-- What an organization has bought bounds its leads of a month; what comes beyond that waits for an upgrade.
begin;
alter default privileges grant execute on functions to public;
select plan(54);

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
create function pg_temp.clinic() returns uuid language sql as $$ select tests.the('clinic', 'organization_id') $$;
create function pg_temp.petshop() returns uuid language sql as $$ select tests.the('petshop', 'organization_id') $$;

-- The story counts from nothing, with small plans.
delete from public.leads;
delete from private.lead_usage;
update private.plan_features set leads_per_month = case plan_type when 'free' then 3 when 'pro' then 5 else 100 end;

create function pg_temp.a_lead(name text, at timestamptz default now(), organization_id uuid default pg_temp.clinic())
returns public.leads
language plpgsql
as $$
declare
  contact_id uuid;
  lead public.leads;
begin
  insert into public.contacts as c (organization_id, name) values (a_lead.organization_id, a_lead.name) returning c.id into contact_id;
  insert into public.leads as l (organization_id, contact_id, source, created_at)
  values (a_lead.organization_id, contact_id, a_lead.name, at)
  returning l.* into lead;
  return lead;
end;
$$;
create function pg_temp.waiting(organization uuid default pg_temp.clinic()) returns text language sql as $$
  select string_agg(l.source, ' ' order by l.source) from public.leads l where l.organization_id = organization and l.over_limit
$$;
create function pg_temp.usage() returns jsonb language sql as $$ select public.get_lead_usage(pg_temp.clinic()) $$;

-- Who sets a plan
select tests.authenticate_as_service();
select is(
  (select (o.plan_type, o.plan_expires_at)::text from public.set_plan(pg_temp.clinic(), 'pro', '2031-01-01T00:00:00Z') o),
  (select ('pro', '2031-01-01T00:00:00Z'::timestamptz)::text), 'the platform sets a plan and its end');
select is((public.set_plan(pg_temp.clinic(), 'free')).plan_expires_at, null, 'without an end it is until further notice');
select throws_ok($$ select public.set_plan(gen_random_uuid(), 'pro') $$, 'BL100', null, 'and of no organization that there is not');
select tests.authenticate_as(tests.the('clinic', 'owner_id'));
select throws_ok(format('select public.set_plan(%L, %L)', pg_temp.clinic(), 'agency'), '42501', null, 'an owner cannot upgrade himself');
select throws_ok($$ update public.organizations set plan_expires_at = null $$, '42501', null, 'nor make it last');
select tests.authenticate_as_anon();
select throws_ok(format('select public.set_plan(%L, %L)', pg_temp.clinic(), 'agency'), '42501', null, 'nor can the public');

-- Which plan counts
select tests.authenticate_as_nobody();
select is(private.effective_plan(pg_temp.clinic()), 'free', 'what was bought counts');
update public.organizations set plan_type = 'agency', plan_expires_at = now() + interval '1 second' where id = pg_temp.clinic();
select is(private.effective_plan(pg_temp.clinic()), 'agency', 'until its last second');
update public.organizations set plan_expires_at = now() where id = pg_temp.clinic();
select is(private.effective_plan(pg_temp.clinic()), 'free', 'and as free from then on');

-- The limit of this month
select tests.authenticate_as_service();
select public.set_plan(pg_temp.clinic(), 'free');
select is((pg_temp.a_lead('a1')).over_limit, false, 'the first lead of a month has a place');
select is((pg_temp.a_lead('a2')).over_limit, false, 'and the second one');
select is((pg_temp.a_lead('a3')).over_limit, false, 'up to the last place');
select is((pg_temp.a_lead('a4')).over_limit, true, 'the next one waits over the limit');
select is((pg_temp.a_lead('a5')).over_limit, true, 'and all others');
select is((pg_temp.a_lead('b1', now(), pg_temp.petshop())).over_limit, false, 'another tenant has places of its own');
select is(
  pg_temp.usage(),
  jsonb_build_object(
    'plan_type', 'free', 'month', to_char(now() at time zone 'America/Sao_Paulo', 'YYYY-MM-01'), 'leads_per_month', 3,
    'used', 3, 'over_limit', 2),
  'the usage tells the places, and how many wait');
select throws_ok($$ select public.get_lead_usage(gen_random_uuid()) $$, 'BL100', null, 'of an organization that there is');
insert into public.leads (organization_id, contact_id, over_limit)
select l.organization_id, l.contact_id, false from public.leads l where l.source = 'a1'
on conflict do nothing;
select is((pg_temp.usage() ->> 'used')::int, 3, 'a lead that is there already takes no second place');
delete from public.leads where source = 'a1';
select is((pg_temp.a_lead('a6')).over_limit, true, 'deleting a lead gives no place back');
insert into public.contacts (organization_id, id, name) values (pg_temp.clinic(), '0199cafe-0000-7000-8000-000000000001', 'Importada');
insert into public.leads (organization_id, contact_id, source, over_limit) values (pg_temp.clinic(), '0199cafe-0000-7000-8000-000000000001', 'a7', false);
select is(pg_temp.waiting(), 'a4 a5 a6 a7', 'not even an import says itself that it is within the limit');

-- Who may know
select tests.authenticate_as(tests.the('clinic', 'owner_id'));
select is((public.get_lead_usage() ->> 'over_limit')::int, 4, 'the owner sees how many leads wait');
select is_empty($$ select from public.leads where over_limit $$, 'but not which');
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select is((public.get_lead_usage() ->> 'over_limit')::int, 4, 'so does an administrator');
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select throws_ok($$ select public.get_lead_usage() $$, 'BL002', null, 'an attendant does not');
select tests.authenticate_as(tests.the('clinic', 'viewer_id'));
select throws_ok($$ select public.get_lead_usage() $$, 'BL002', null, 'nor a viewer');
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select throws_ok($$ select pg_temp.usage() $$, 'BL002', null, 'nor another tenant''s owner');
select tests.authenticate_as_anon();
select throws_ok($$ select pg_temp.usage() $$, '42501', null, 'nor the public');

-- Release
select tests.authenticate_as_service();
update public.contacts c set last_interaction_at = now() + interval '1 hour'
from public.leads l where l.source = 'a4' and c.organization_id = l.organization_id and c.id = l.contact_id;
select public.set_plan(pg_temp.clinic(), 'pro');
select is(pg_temp.waiting(), 'a6 a7', 'an upgrade releases the oldest first, as far as the new places reach');
select is((pg_temp.usage() ->> 'used')::int, 5, 'and they take them');
select is((select last_interaction_at from public.leads where source = 'a4'), now() + interval '1 hour',
  'a released lead knows when its contact last wrote');
select public.set_plan(pg_temp.clinic(), 'pro');
select is(pg_temp.waiting(), 'a6 a7', 'the same plan once more releases nothing');
select public.set_plan(pg_temp.clinic(), 'free');
select is(pg_temp.waiting(), 'a6 a7', 'a downgrade hides nothing that was released');
select is((pg_temp.usage() ->> 'used')::int, 5, 'nor does it free places');
update public.organizations set plan_type = 'agency', plan_expires_at = now() - interval '1 day' where id = pg_temp.clinic();
select is(pg_temp.waiting(), 'a6 a7', 'a plan that has expired releases nothing');
update public.organizations set plan_expires_at = now() + interval '30 days' where id = pg_temp.clinic();
select is(pg_temp.waiting(), null, 'its renewal does, whichever way it is written');
select is((pg_temp.usage() ->> 'used')::int, 7, 'each with a place');

-- Months are the organization's: it is November at 23:30 of the 30th in São Paulo, and December in UTC.
select public.set_plan(pg_temp.petshop(), 'free');
select is((pg_temp.a_lead('n1', '2025-11-30T23:30:00-03:00', pg_temp.petshop())).over_limit, false, 'the last half hour of a month');
select is((pg_temp.a_lead('n2', '2025-11-01T00:00:00-03:00', pg_temp.petshop())).over_limit, false, 'and its first instant');
select is((pg_temp.a_lead('n3', '2025-11-15T12:00:00-03:00', pg_temp.petshop())).over_limit, false, 'are one month');
select is((pg_temp.a_lead('n4', '2025-11-30T23:59:59-03:00', pg_temp.petshop())).over_limit, true, 'which is full');
select is((pg_temp.a_lead('d1', '2025-12-01T00:00:00-03:00', pg_temp.petshop())).over_limit, false, 'when the next one begins');
select is((pg_temp.a_lead('d2', '2025-12-01T00:30:00-03:00', pg_temp.petshop())).over_limit, false, 'with places of its own');
select tests.authenticate_as_nobody();
select results_eq(
  format($$ select month::text, used from private.lead_usage where organization_id = %L and month < '2026-01-01' order by month $$, pg_temp.petshop()),
  $$ values ('2025-11-01', 3), ('2025-12-01', 2) $$,
  'each month counts what came in it');
update public.organizations set timezone = 'UTC' where id = pg_temp.petshop();
select is((pg_temp.a_lead('d3', '2025-12-01T02:30:00Z', pg_temp.petshop())).over_limit, false, 'in UTC the same half hour is December''s');
select is((pg_temp.a_lead('d4', '2025-12-31T23:59:59Z', pg_temp.petshop())).over_limit, true, 'which is full now');
update public.organizations set timezone = 'America/Sao_Paulo' where id = pg_temp.petshop();
select pg_temp.a_lead(name, at, pg_temp.petshop())
from (values ('n0', '2025-11-02T12:00:00-03:00'::timestamptz), ('n6', '2025-11-29T12:00:00-03:00')) late (name, at);
select public.set_plan(pg_temp.petshop(), 'pro');
select is(pg_temp.waiting(pg_temp.petshop()), 'n4', 'an upgrade fills each month by itself, in the order of arrival');
select public.set_plan(pg_temp.petshop(), 'agency');
select is(pg_temp.waiting(pg_temp.petshop()), null, 'until nobody waits');

-- A lead takes a place of the month in which it came, wherever the organization moves.
select public.set_plan(pg_temp.petshop(), 'free');
select is((pg_temp.a_lead('o' || n, '2025-10-31T23:30:00-03:00', pg_temp.petshop())).over_limit, n > 3, 'October''s last half hour, ' || n)
from generate_series(1, 4) n;
update public.organizations set timezone = 'Pacific/Kiritimati' where id = pg_temp.petshop();
select is(private.release_leads(pg_temp.petshop()), 0, 'in a zone where it was November already no place comes free');
select is(pg_temp.waiting(pg_temp.petshop()), 'o4', 'the fourth one waits in the October in which it came');
select results_eq(
  format($$ select l.source, l.month::text from public.leads l where l.organization_id = %L and l.source in ('n2', 'o4') order by 1 $$, pg_temp.petshop()),
  $$ values ('n2', '2025-11-01'), ('o4', '2025-10-01') $$, 'as each says');

select * from finish();
rollback;
