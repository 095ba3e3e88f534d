-- A lead's way from the first answer to yes or no, and who may see it on that way.
begin;
alter default privileges grant execute on functions to public;
select plan(87);

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
create function pg_temp.clinic() returns uuid language sql as $$ select tests.the('clinic', 'organization_id') $$;
create function pg_temp.petshop() returns uuid language sql as $$ select tests.the('petshop', 'organization_id') $$;
delete from public.leads;
update private.plan_features set leads_per_month = 1000;

create temporary table ids (name text primary key, id uuid not null default gen_random_uuid());
grant select, insert on ids to authenticated, service_role;
create function pg_temp.id(of text) returns uuid language sql stable security definer as $$ select i.id from ids i where i.name = of $$;

-- Ana is the attendant, Bruno a colleague who never signs in, Inês has left.
insert into ids values ('bruno'), ('ines'), ('foreigner'), ('joao'), ('maria'), ('rita'), ('theirs');
insert into ids values ('ana', tests.the('clinic', 'professional_id'));
insert into public.professionals (organization_id, id, name, is_active)
values
  (pg_temp.clinic(), pg_temp.id('bruno'), 'Bruno', true),
  (pg_temp.clinic(), pg_temp.id('ines'), 'Inês', false),
  (pg_temp.petshop(), pg_temp.id('foreigner'), 'Caio', true);
insert into public.contacts (organization_id, id, name)
select pg_temp.clinic(), i.id, i.name from ids i where i.name in ('joao', 'maria', 'rita');
insert into public.contacts (organization_id, id, name) values (pg_temp.petshop(), pg_temp.id('theirs'), 'Deles');

-- Transitions: every pair, legal or not
create function pg_temp.transition(from_status public.lead_status, to_status public.lead_status)
returns text
language plpgsql
as $$
declare
  lead_id uuid;
  detail jsonb;
  written text;
begin
  insert into public.leads as l (organization_id, contact_id, status)
  values (pg_temp.clinic(), pg_temp.id('joao'), from_status)
  returning l.id into lead_id;
  update public.leads l set status = to_status where l.id = lead_id;
  raise exception sqlstate 'UNDO0';
exception
  when sqlstate 'UNDO0' then
    return 'allowed';
  when sqlstate 'BL401' then
    get stacked diagnostics written = pg_exception_detail;
    detail := written;
    return case
      when detail ->> 'from' = from_status::text and detail ->> 'to' = to_status::text
        and detail -> 'allowed' = to_jsonb(private.next_lead_statuses(from_status))
      then 'refused'
      else detail::text
    end;
end;
$$;
select is(
  pg_temp.transition(f, t),
  case when (f, t) in (
    ('novo', 'em_contato'), ('em_contato', 'agendado'), ('agendado', 'fechado'),
    ('novo', 'perdido'), ('em_contato', 'perdido'), ('agendado', 'perdido'), ('perdido', 'em_contato')
  ) or f = t then 'allowed' else 'refused' end,
  format('from %s to %s', f, t))
from unnest(enum_range(null::public.lead_status)) f
cross join unnest(enum_range(null::public.lead_status)) t;

-- What a transition leaves
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
insert into ids select 'lead of joao', (public.create_lead(pg_temp.id('joao'), source => 'instagram', respostas => '{"idade": 30}')).id;
select results_eq(
  format($$ select status::text, is_open, source, respostas::text, over_limit from public.leads where id = %L $$, pg_temp.id('lead of joao')),
  $$ values ('novo', true, 'instagram', '{"idade": 30}', false) $$, 'a lead begins as novo');
update public.leads set status = 'perdido', lost_reason = 'Sem dinheiro' where id = pg_temp.id('lead of joao');
select results_eq(
  format($$ select is_open, closed_at = now(), lost_reason from public.leads where id = %L $$, pg_temp.id('lead of joao')),
  $$ values (false, true, 'Sem dinheiro') $$, 'a lost one is closed, and says why');
update public.leads set status = 'em_contato' where id = pg_temp.id('lead of joao');
select results_eq(
  format($$ select is_open, closed_at, lost_reason from public.leads where id = %L $$, pg_temp.id('lead of joao')),
  $$ values (true, null::timestamptz, null::text) $$, 'reopened it is as if it had never been lost');
update public.leads set lost_reason = 'x' where id = pg_temp.id('lead of joao');
select is((select lost_reason from public.leads where id = pg_temp.id('lead of joao')), null, 'only a lost lead has a reason for it');
update public.leads set status = 'agendado' where id = pg_temp.id('lead of joao');
update public.leads set status = 'fechado' where id = pg_temp.id('lead of joao');
select is((select (is_open, closed_at = now())::text from public.leads where id = pg_temp.id('lead of joao')), '(f,t)', 'a won one is closed');
select tests.authenticate_as_service();
insert into public.leads (organization_id, contact_id, status, closed_at)
values (pg_temp.clinic(), pg_temp.id('maria'), 'fechado', '2025-05-05T12:00:00Z');
select is((select closed_at from public.leads where contact_id = pg_temp.id('maria')), '2025-05-05T12:00:00Z'::timestamptz, 'an import may bring a lead as it is');
delete from public.leads where contact_id = pg_temp.id('maria');

-- create_lead: one lead per contact and professional
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select is(
  (public.create_lead(
    pg_temp.id('joao'), source => 'google', utm => '{"campaign": "verao"}', respostas => '{"idade": 31, "plano": "ouro"}', metadata => '{"form": 2}'
  )).id,
  pg_temp.id('lead of joao'), 'a second form of a contact is the same lead');
select results_eq(
  format($$ select status::text, source, utm::text, respostas::text, metadata::text from public.leads where id = %L $$, pg_temp.id('lead of joao')),
  $$ values ('fechado', 'instagram', '{"campaign": "verao"}', '{"idade": 31, "plano": "ouro"}', '{"form": 2}') $$,
  'with the new answers, where it was, from where it first came');
select public.create_lead(pg_temp.id('joao'), utm => '{"campaign": "inverno", "medium": "cpc"}', respostas => null, metadata => null);
select is((select utm from public.leads where id = pg_temp.id('lead of joao')), '{"campaign": "verao", "medium": "cpc"}'::jsonb, 'the first campaign keeps the credit');
insert into ids select 'lead for bruno', (public.create_lead(pg_temp.id('joao'), pg_temp.id('bruno'))).id;
select isnt(pg_temp.id('lead for bruno'), pg_temp.id('lead of joao'), 'with a professional it is another lead');
select is((public.create_lead(pg_temp.id('joao'), pg_temp.id('bruno'))).id, pg_temp.id('lead for bruno'), 'once');
select throws_ok(format('select public.create_lead(%L)', gen_random_uuid()), 'BL402', null, 'a lead is somebody''s');
select throws_ok(format('select public.create_lead(%L)', pg_temp.id('theirs')), 'BL402', null, 'of this organization');
select throws_ok(format('select public.create_lead(%L, %L)', pg_temp.id('maria'), gen_random_uuid()), 'BL507', null, 'an unknown professional is refused');
select throws_ok(format('select public.create_lead(%L, %L)', pg_temp.id('maria'), pg_temp.id('foreigner')), 'BL507', null, 'so is another organization''s');
select throws_ok(format('select public.create_lead(%L, %L)', pg_temp.id('maria'), pg_temp.id('ines')), 'BL507', null, 'and one who has left');
select throws_ok(format('insert into public.leads (contact_id) values (%L)', pg_temp.id('maria')), '42501', null, 'there is no other way to make one');
select throws_ok(format('update public.leads set contact_id = %L', pg_temp.id('maria')), '42501', null, 'nor to give it to another contact');
select throws_ok('update public.leads set over_limit = false', '42501', null, 'nor to lift the limit');
select throws_ok('update public.leads set merged_into_id = id', '42501', null, 'nor to hide one');
select throws_ok(
  format('update public.leads set professional_id = %L where id = %L', pg_temp.id('foreigner'), pg_temp.id('lead of joao')),
  'BL507', null, 'a lead passes to nobody else''s professional');
select throws_ok(
  format('update public.leads set professional_id = %L where id = %L', pg_temp.id('bruno'), pg_temp.id('lead of joao')),
  'BL408', null, 'nor to one who has a lead of this contact');
select lives_ok(
  format('update public.leads set professional_id = %L where id = %L', pg_temp.id('ana'), pg_temp.id('lead of joao')),
  'but to any other');
select throws_ok(
  format('update public.leads set professional_id = %L where id = %L', pg_temp.id('ines'), pg_temp.id('lead of joao')),
  'BL507', null, 'who is still there');
select tests.authenticate_as_service();
select lives_ok(format('select public.create_lead(%L, organization_id => %L)', pg_temp.id('rita'), pg_temp.clinic()), 'the platform makes leads, a flow''s for instance');
delete from public.leads where contact_id = pg_temp.id('rita');

-- Who sees them, while everybody sees all
create function pg_temp.sees() returns text language sql as $$
  select string_agg(coalesce(p.name, 'nobody'), ' ' order by p.name) from public.leads l
  left join public.professionals p on p.organization_id = l.organization_id and p.id = l.professional_id
$$;
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
insert into ids select 'nobody''s lead', (public.create_lead(pg_temp.id('maria'))).id;
select is(pg_temp.sees(), 'Ana Bruno nobody', 'an attendant sees all');
select tests.authenticate_as(tests.the('clinic', 'viewer_id'));
select is(pg_temp.sees(), 'Ana Bruno nobody', 'so does a viewer');
update public.leads set source = 'x';
select is((select count(*) from public.leads where source = 'x'), 0::bigint, 'who changes nothing');
select throws_ok(format('select public.create_lead(%L)', pg_temp.id('maria')), 'BL002', null, 'and makes nothing');
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select is(pg_temp.sees(), null, 'another tenant''s owner sees none');
select throws_ok(
  format('select public.create_lead(%L, organization_id => %L)', pg_temp.id('maria'), pg_temp.clinic()), 'BL002', null, 'and makes none there');
update public.leads set source = 'x';
delete from public.leads;
select tests.authenticate_as_anon();
select throws_ok('select from public.leads', '42501', null, 'the public sees no lead');
select throws_ok(format('select public.create_lead(%L)', pg_temp.id('maria')), '42501', null, 'and makes none');
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
delete from public.leads;
select is(pg_temp.sees(), 'Ana Bruno nobody', 'an attendant deletes none');
select is((select count(*) from public.leads where source = 'x'), 0::bigint, 'and nobody of elsewhere changed one');

-- Who sees them, when each sees the own ones
select tests.authenticate_as_nobody();
update public.organization_settings set lead_visibility = 'own' where organization_id = pg_temp.clinic();
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select is(pg_temp.sees(), 'Ana', 'an attendant sees those of the professional that he is');
update public.leads set metadata = '{"by": "ana"}';
select tests.authenticate_as(tests.the('clinic', 'viewer_id'));
select is(pg_temp.sees(), null, 'a viewer who is none sees none');
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select is(pg_temp.sees(), 'Ana Bruno nobody', 'an administrator sees all');
select is((select count(*) from public.leads where metadata = '{"by": "ana"}'), 1::bigint, 'and that the attendant changed only the own one');
select is((public.create_lead(pg_temp.id('maria'))).id, pg_temp.id('nobody''s lead'), 'and makes any');
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select is((public.create_lead(pg_temp.id('maria'))).professional_id, pg_temp.id('ana'), 'what an attendant makes is the own professional''s, even where nobody''s lead is');
select is((public.create_lead(pg_temp.id('rita'), pg_temp.id('ana'))).professional_id, pg_temp.id('ana'), 'also when it is said');
select throws_ok(format('select public.create_lead(%L, %L)', pg_temp.id('joao'), pg_temp.id('bruno')), 'BL002', null, 'nobody learns of a colleague''s lead by making it');
select throws_ok(
  format('update public.leads set professional_id = %L where contact_id = %L', pg_temp.id('bruno'), pg_temp.id('rita')), '42501', null,
  'nor gives a lead away');
select throws_ok(
  format('update public.leads set professional_id = %L where contact_id = %L', pg_temp.id('bruno'), pg_temp.id('joao')), '42501', null,
  'nor learns by trying which ones a colleague has');
select tests.authenticate_as_nobody();
insert into public.organizations (id, name, slug, vertical) values ('0199cafe-0000-7000-8000-0000000000aa', 'Ana''s own', 'anas-own', 'other');
insert into public.user_roles (organization_id, user_id, role)
values ('0199cafe-0000-7000-8000-0000000000aa', tests.the('clinic', 'attendant_id'), 'owner');
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
insert into public.professionals (organization_id, id, user_id, name)
values ('0199cafe-0000-7000-8000-0000000000aa', pg_temp.id('bruno'), tests.the('clinic', 'attendant_id'), 'False Bruno');
select is((select count(*) from public.leads where organization_id = pg_temp.clinic() and professional_id = pg_temp.id('bruno')), 0::bigint,
  'a professional made elsewhere with a colleague''s id opens nothing');
select tests.authenticate_as_nobody();
update public.professionals set user_id = null where organization_id = pg_temp.clinic() and id = pg_temp.id('ana');
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select is((select count(*) from public.leads), 0::bigint, 'who is no professional sees none');
select throws_ok(
  format('select public.create_lead(%L, organization_id => %L)', pg_temp.id('maria'), pg_temp.clinic()), 'BL002', null, 'and makes none');
select tests.authenticate_as_nobody();
update public.user_roles set is_active = false where user_id = tests.the('clinic', 'admin_id');
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select is(pg_temp.sees(), null, 'who was let go sees nothing');
select tests.authenticate_as_nobody();
update public.user_roles set is_active = true where user_id = tests.the('clinic', 'admin_id');
update public.organization_settings set lead_visibility = 'all' where organization_id = pg_temp.clinic();
delete from public.organization_settings where organization_id = pg_temp.clinic();
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select is((select count(*) from public.leads), 5::bigint, 'without settings all see all');

-- Over the limit: hidden from everybody, whole for the platform
select tests.authenticate_as_nobody();
update public.leads set over_limit = true where id = pg_temp.id('lead for bruno');
select tests.authenticate_as(tests.the('clinic', 'owner_id'));
select is((select count(*) from public.leads where professional_id = pg_temp.id('bruno')), 0::bigint, 'a lead over the limit is not even the owner''s to see');
delete from public.leads where id = pg_temp.id('lead for bruno');
update public.leads set source = 'seen' where organization_id = pg_temp.clinic();
select tests.authenticate_as_nobody();
update public.leads set respostas = '{"renda": "10k"}', metadata = '{"form": 1}', utm = '{"campaign": "x"}' where id = pg_temp.id('lead for bruno');
select tests.authenticate_as(tests.the('clinic', 'owner_id'));
select is(
  (
    select (l.id = pg_temp.id('lead for bruno'), l.over_limit, l.respostas, l.metadata, l.utm, l.source)::text
    from public.create_lead(pg_temp.id('joao'), pg_temp.id('bruno'), respostas => '{"renda": "0", "vidas": 2}', metadata => '{"form": 2}') l
  ),
  '(t,t,{},{},{},)', 'nor to be told by making it again');
select throws_ok(
  format('update public.leads set professional_id = %L where contact_id = %L and professional_id = %L', pg_temp.id('bruno'), pg_temp.id('joao'), pg_temp.id('ana')),
  'BL408', 'This contact has a lead with that professional already, if only one that waits over the plan''s limit', 'the words of a refusal are the same, hidden or not');
select tests.authenticate_as_service();
select is((select source from public.leads where id = pg_temp.id('lead for bruno')), null, 'nor to delete or change');
select is(
  (select (l.respostas, l.metadata)::text from public.leads l where l.id = pg_temp.id('lead for bruno')),
  '("{""renda"": ""10k"", ""vidas"": 2}","{""form"": 1}")', 'new answers are laid under those that nobody sees');
select is(
  (public.create_lead(pg_temp.id('joao'), pg_temp.id('bruno'), respostas => '{"vidas": 3}', organization_id => pg_temp.clinic())).respostas,
  '{"renda": "10k", "vidas": 3}', 'the platform sees and writes over them');
update public.leads set over_limit = false where id = pg_temp.id('lead for bruno');

-- Messages move open leads
select tests.authenticate_as_nobody();
update public.leads set last_interaction_at = '2025-01-01T00:00:00Z';
insert into public.leads (organization_id, contact_id, last_interaction_at, status) values
  (pg_temp.clinic(), tests.the('clinic', 'contact_id'), '2025-01-01T00:00:00Z', 'novo');
insert into public.leads (organization_id, contact_id, professional_id, last_interaction_at, status) values
  (pg_temp.clinic(), tests.the('clinic', 'contact_id'), pg_temp.id('ana'), '2025-01-01T00:00:00Z', 'fechado'),
  (pg_temp.clinic(), tests.the('clinic', 'contact_id'), pg_temp.id('bruno'), '2025-01-01T00:00:00Z', 'novo');
update public.leads set over_limit = true where contact_id = tests.the('clinic', 'contact_id') and professional_id = pg_temp.id('bruno');
select tests.authenticate_as_service();
select tests.deliver('clinic', tests.a_message('l1', '5511987654321'));
select tests.authenticate_as_nobody();
select is(
  (
    select string_agg(coalesce(p.name, 'nobody') || ' ' || (l.last_interaction_at = now()), ', ' order by p.name)
    from public.leads l
    left join public.professionals p on p.organization_id = l.organization_id and p.id = l.professional_id
    where l.contact_id = tests.the('clinic', 'contact_id')
  ),
  'Ana false, Bruno false, nobody true',
  'a message moves the contact''s open leads, not the closed one nor the one over the limit');
select is((select count(*) from public.leads where last_interaction_at = now()), 1::bigint, 'and nobody else''s');

-- The end of one
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
delete from public.leads where id = pg_temp.id('lead of joao');
select is((select count(*) from public.leads where id = pg_temp.id('lead of joao')), 0::bigint, 'an administrator deletes a lead');
delete from public.contacts where id = pg_temp.id('rita');
select tests.authenticate_as_nobody();
select is((select count(*) from public.leads where contact_id = pg_temp.id('rita')), 0::bigint, 'and a contact''s leads go with it');

-- Once per statement
create function pg_temp.plan_of(statement text) returns text language plpgsql as $$
declare line text; lines text := '';
begin
  for line in execute 'explain (costs off, verbose) ' || statement loop lines := lines || line || E'\n'; end loop;
  return lines;
end;
$$;
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
set local enable_seqscan = off;
select matches(
  pg_temp.plan_of('select * from public.leads where is_open order by created_at desc limit 50'),
  'hashed SubPlan', 'the own professionals are looked up once, not per lead');
select matches(
  pg_temp.plan_of(format('select * from public.leads where organization_id = %L and is_open order by created_at desc limit 50', pg_temp.clinic())),
  'leads_pipeline_idx', 'the pipeline has its index under RLS');

select * from finish();
rollback;
