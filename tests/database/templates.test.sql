-- What a business says in its own words reads well, or is refused when it is saved; and which of two texts works better is counted.
begin;
-- What this story defines may run as anyone; rolled back with the rest.
alter default privileges grant execute on functions to public;
select no_plan();

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');

create function pg_temp.as_member(role text)
returns void
language sql
as $$ select tests.authenticate_as(tests.the('clinic', role || '_id')) $$;
create function pg_temp.clinic()
returns uuid
language sql
as $$ select tests.the('clinic', 'organization_id') $$;
-- The problems of a text, in short.
create function pg_temp.problems(category public.message_category, template text)
returns text
language sql
as $$
  select coalesce(string_agg(concat_ws(' ', p ->> 'problem', p ->> 'variable'), ', ' order by n), 'none')
  from jsonb_array_elements(private.template_problems(category, template)) with ordinality x (p, n)
$$;

-- Days and hours ------------------------------------------------------------------------------------------------------
select is(private.spoken_date('2026-11-25'), 'quarta-feira, 25 de novembro', 'a day is spoken in Portuguese');
select is(private.spoken_date('2027-05-01'), 'sábado, 1º de maio', 'the first is the first');
select is(private.spoken_date('2027-03-07'), 'domingo, 7 de março', 'Sunday is the seventh day of the table');
select is(private.spoken_hour('2026-11-25 14:00'), '14h', 'a full hour');
select is(private.spoken_hour('2026-11-25 09:05'), '9h05', 'and one with minutes');
select is(private.spoken_moment(at.m, at.zone, at.seen), at.said, at.said)
from (values
  ('2026-11-25T17:30Z'::timestamptz, 'America/Sao_Paulo', '2026-11-25T12:00Z'::timestamptz, 'hoje, às 14h30'),
  ('2026-11-25T17:30Z', 'America/Sao_Paulo', '2026-11-24T12:00Z', 'amanhã, quarta-feira, 25 de novembro, às 14h30'),
  -- In Manaus it is still the day before.
  ('2026-11-25T17:30Z', 'America/Manaus', '2026-11-25T03:30Z', 'amanhã, quarta-feira, 25 de novembro, às 13h30'),
  ('2026-11-25T04:00Z', 'America/Sao_Paulo', '2026-11-20T12:00Z', 'quarta-feira, 25 de novembro, à 1h')
) at (m, zone, seen, said);

-- Rendering -----------------------------------------------------------------------------------------------------------
select is(private.render_template(text, variables), said, said)
from (values
  ('Olá, {{nome}}! 😊 Até {{ quando }}.', '{"nome": "José", "quando": "amanhã"}'::jsonb, 'Olá, José! 😊 Até amanhã.'),
  ('{{servico}}{{#pet}} de {{pet}}{{/pet}}{{#profissional}} com {{profissional}}{{/profissional}}', '{"servico": "Banho", "pet": "Rex", "profissional": null}', 'Banho de Rex'),
  ('{{#pet}}A{{/pet}}B{{#pet}}C{{/pet}}', '{"pet": ""}', 'B'),
  ('Com {{profissional}}, {{nome}}', '{"profissional": null, "nome": null}', 'Com nossa equipe, cliente'),
  ('{{nome}} às {{hora}}', '{"nome": "{{hora}}", "hora": "9h"}', '{{hora}} às 9h'),
  ('{{nome}}', '{"nome": "\\1 $1 %s"}', '\1 $1 %s')
) t (text, variables, said);
select is(count(*), 0::bigint, 'whatever a booking does not have, something is said for it: WhatsApp refuses empty parameters')
from unnest(enum_range(null::public.message_category)) category, unnest(private.template_variables(category)) variable,
  unnest(array[null, '', ' ']) value
where private.render_template('{{' || variable || '}}', jsonb_build_object(variable, value)) !~ '\S';
select throws_ok($$ select private.render_template('{{hora}}', '{}') $$, 'BL701', null, 'what has no value at all is not left out silently');

select is(pg_temp.problems(category, template), found, format('%s: %s', category, found))
from (values
  ('greeting'::public.message_category, 'Oi, {{nome}}!', 'none'),
  ('greeting', 'Oi, {{nmoe}}!', 'unknown_variable nmoe'),
  ('greeting', 'Seu horário: {{hora}}', 'unknown_variable hora'),
  ('greeting', '   ', 'missing_text'),
  ('greeting', repeat('a', 1025), 'text_too_long'),
  ('greeting', repeat('ã', 1024), 'none'),
  ('greeting', 'Oi, {{nome}!', 'unbalanced_braces'),
  ('greeting', 'Oi{{#nome}}, {{nome}}!', 'unbalanced_braces'),
  ('greeting', 'Oi, {{Nome}}!', 'unknown_variable Nome, unbalanced_braces'),
  ('reminder', 'Lembrete!', 'missing_variable data, missing_variable hora'),
  ('reminder', 'Lembrete: {{data}}', 'missing_variable hora'),
  ('reminder', 'Lembrete: {{data}}, {{hora}}', 'none'),
  ('confirmation', 'Marcado: {{quando}}', 'none'),
  ('waiting_list_offer', '{{quando}}, até {{expira}}', 'none'),
  ('reminder', '{{quando}}, até {{expira}}', 'unknown_variable expira'),
  ('cancellation', 'Cancelado.', 'none')
) t (category, template, found);

select is(pg_temp.problems(category, private.default_template(category)), 'none', format('our own words for %s read well', category))
from unnest(enum_range(null::public.message_category)) category;

-- Saving --------------------------------------------------------------------------------------------------------------
select pg_temp.as_member('admin');
select throws_like(
  $$ insert into public.message_templates (name, category, template) values ('Lembrete', 'reminder', 'Oi, {{nmoe}}!') $$,
  '%would not read well%', 'a text with a slip of the pen is not saved');
insert into public.message_templates (name, category, template, is_default)
values ('Lembrete', 'reminder', '{{nome}}, até {{hora}} de {{data}}, {{nome}}.', true);
select results_eq(
  $$ select variables from public.message_templates where name = 'Lembrete' $$, $$ values ('{nome,hora,data}'::text[]) $$,
  'its variables are noted once each, in their order');
select throws_ok(
  $$ update public.message_templates set template = 'Até logo!' where name = 'Lembrete' $$, 'BL701', null, 'nor is a change for the worse');
select throws_ok(
  $$ update public.message_templates set category = 'greeting' where name = 'Lembrete' $$, 'BL701', null, 'nor a category that does not know its variables');
select throws_ok(
  $$ insert into public.message_templates (name, category, template) values ('Lembrete', 'greeting', 'Oi!') $$, '23505', null,
  'a name is used once in a language');
select lives_ok(
  $$ insert into public.message_templates (name, category, template, language, is_default) values ('Lembrete', 'reminder', 'See you: {{quando}}', 'en_US', true) $$,
  'and again in another');
insert into public.message_templates (name, category, template, is_default) values ('Novo', 'reminder', 'Até {{quando}}!', true);
select results_eq(
  $$ select name, language from public.message_templates where is_default order by language $$,
  $$ values ('Lembrete', 'en_US'), ('Novo', 'pt_BR') $$, 'the newest default of a language takes over');
-- Who changes the default holds its row: he must not wait for somebody who wants to put another one in its place.
select tests.authenticate_as_nobody();
create function pg_temp.waits_in_line()
returns boolean
language sql
as $$
  select exists (
    select from pg_locks l
    where l.locktype = 'advisory' and l.pid = pg_backend_pid()
      and (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended('default_template:' || tests.the('petshop', 'organization_id'), 0))
$$;
alter table public.message_templates disable trigger message_templates_500_check;
insert into public.message_templates (organization_id, name, category, template, is_default) values (tests.the('petshop', 'organization_id'), 'Oi', 'greeting', 'Oi!', true);
alter table public.message_templates enable trigger message_templates_500_check;
update public.message_templates set template = 'Olá!', is_default = true where organization_id = tests.the('petshop', 'organization_id') and name = 'Oi';
select is(pg_temp.waits_in_line(), false, 'a default that is changed stays in its place');
update public.message_templates set language = 'en_US' where organization_id = tests.the('petshop', 'organization_id') and name = 'Oi';
select is(pg_temp.waits_in_line(), true, 'one that comes to another place waits for it');
select pg_temp.as_member('admin');
select throws_ok(
  $$ update public.message_templates set variables = '{x}' $$, '42501', null, 'nobody writes the variables himself');

select tests.authenticate_as_nobody();
select is((private.template_for(pg_temp.clinic(), 'reminder')).name, 'Novo', 'the default in the organization''s language is used');
update public.organizations set locale = 'en-US' where id = pg_temp.clinic();
select is((private.template_for(pg_temp.clinic(), 'reminder')).language, 'en_US', 'whichever that is');
update public.organizations set locale = 'pt-BR' where id = pg_temp.clinic();
select is((private.template_for(pg_temp.clinic(), 'feedback')).name, null, 'where there is none, our own words will do');

-- Two texts -----------------------------------------------------------------------------------------------------------
select pg_temp.as_member('admin');
create temporary table test (id uuid);
grant all on test to public;
with made as (
  insert into public.ab_tests (name, template_id, variant_a, variant_b)
  select 'Curto ou longo', t.id, 'Até {{quando}}!', 'Oi, {{nome}}! Até {{quando}}!' from public.message_templates t where t.name = 'Novo'
  returning id
)
insert into test select id from made;
select throws_ok(
  $$ insert into public.ab_tests (name, template_id, variant_a, variant_b) select 'x', t.id, 'Até {{quando}}!', 'Oi!' from public.message_templates t where t.name = 'Novo' $$,
  'BL701', null, 'a variant that would not do in its template''s place is refused');
select tests.authenticate_as_nobody();
insert into public.contacts (organization_id, name) select pg_temp.clinic(), 'Pessoa ' || n from generate_series(1, 400) n;
create temporary table shown as
select c.id, private.ab_variant(test.id, c.id, c.organization_id) as variant
from public.contacts c, test
where c.organization_id = pg_temp.clinic() and c.name like 'Pessoa %';
select ok(count(*) between 150 and 250, 'about half of them are shown the second text') from shown where variant = 'b';
select is(count(*), 0::bigint, 'and each always the same one')
from shown, test where shown.variant <> private.ab_variant(test.id, shown.id, pg_temp.clinic());
select is(count(*), 400::bigint, 'whom it was shown is noted once') from public.ab_test_assignments s, test where s.ab_test_id = test.id;
select is(
  private.tested_template(private.template_for(pg_temp.clinic(), 'reminder'), shown.id),
  case variant when 'a' then 'Até {{quando}}!' else 'Oi, {{nome}}! Até {{quando}}!' end, format('variant %s is what a template says', variant))
from (select distinct on (variant) * from shown) shown;
select throws_ok(
  $$ update public.ab_tests t set variant_a = 'Até {{quando}}!!' from test where t.id = test.id $$, 'BL701', null,
  'a text that was shown is not changed: that is another test');

-- 30 of 100 against 50 of 100: z = 2.887, p = 0.00389 (pooled).
delete from public.ab_test_assignments;
insert into public.ab_test_assignments (organization_id, ab_test_id, contact_id, variant, converted_at)
select pg_temp.clinic(), test.id, c.id, case when c.n <= 100 then 'a' else 'b' end::public.ab_variant,
  case when c.n <= 30 or c.n between 101 and 150 then now() end
from test, (
  select id, row_number() over (order by id) as n
  from public.contacts where organization_id = pg_temp.clinic() and name like 'Pessoa %' limit 200) c;
select pg_temp.as_member('viewer');
create temporary table results as select public.get_ab_test_results(test.id) as r from test;
grant all on results to public;
select is(r -> 'a', '{"assigned": 100, "converted": 30, "rate": 0.3}', 'the first text: 30 of 100') from results;
select is(r -> 'b', '{"assigned": 100, "converted": 50, "rate": 0.5}', 'the second: 50 of 100') from results;
select is(round((r ->> 'z')::numeric, 3), 2.887, 'the difference in standard errors') from results;
select is(round((r ->> 'p_value')::numeric, 5), 0.00389, 'which chance makes four times in a thousand') from results;
select tests.authenticate_as_nobody();
select is(round(private.two_sided_p(z)::numeric, 10), p, format('p of z = %s', z))
from (values (0::float8, 1.0000000000), (1.0, 0.3173105079), (1.959963984540054, 0.0500000000), (-2.5758293035489004, 0.0100000000), (4.3, 0.0000170798)) t (z, p);
select ok(abs(private.two_sided_p(8) / 1.2441921148543639e-15 - 1) < 1e-9, 'far out too, where the series would be all rounding');
delete from public.ab_test_assignments;
select is(private.get_ab_test_results(test.id, pg_temp.clinic()) -> 'p_value', 'null'::jsonb, 'nothing to compare yet') from test;

-- What counts as a success --------------------------------------------------------------------------------------------
insert into public.ab_test_assignments (organization_id, ab_test_id, contact_id, variant, assigned_at)
select pg_temp.clinic(), test.id, c.id, 'a', now() - make_interval(days => case c.name when 'Pessoa 1' then 29 else 31 end)
from test, public.contacts c where c.organization_id = pg_temp.clinic() and c.name in ('Pessoa 1', 'Pessoa 2', 'Pessoa 3');
insert into public.bookings (organization_id, contact_id, service_id, professional_id, start_time, end_time)
select pg_temp.clinic(), c.id, tests.the('clinic', 'service_id'), tests.the('clinic', 'professional_id'), t, t + interval '30 minutes'
from public.contacts c
cross join lateral (select '2030-01-07T12:00Z'::timestamptz + (right(c.name, 1)::int) * interval '1 hour') x (t)
where c.organization_id = pg_temp.clinic() and c.name in ('Pessoa 1', 'Pessoa 2');
select results_eq(
  $$ select c.name from public.ab_test_assignments s join public.contacts c on c.organization_id = s.organization_id and c.id = s.contact_id where s.converted_at is not null $$,
  $$ values ('Pessoa 1') $$, 'who books within the window has been won, who books after it has not');
select pg_temp.as_member('attendant');
select isnt(
  (public.record_ab_test_conversion(test.id, (select c.id from public.contacts c where c.name = 'Pessoa 3'))).converted_at, null,
  'an attendant may note it by hand') from test;
select throws_ok(
  $$ select public.record_ab_test_conversion(test.id, tests.the('clinic', 'contact_id')) from test $$, 'BL402', null, 'not of somebody who is no part of it');
select throws_ok($$ select public.get_ab_test_results(gen_random_uuid()) $$, 'BL704', null, 'there is no such test');
select pg_temp.as_member('viewer');
select throws_ok(
  $$ select public.record_ab_test_conversion(test.id, tests.the('clinic', 'contact_id')) from test $$, 'BL002', null, 'a viewer notes nothing');
select tests.authenticate_as(tests.the('petshop', 'owner_id'));
select throws_ok(
  $$ select public.get_ab_test_results(test.id, pg_temp.clinic()) from test $$, 'BL002', null, 'and another tenant sees nothing');
select tests.authenticate_as_nobody();
update public.ab_tests set active = false;
select is(private.ab_variant(test.id, tests.the('clinic', 'contact_id'), pg_temp.clinic()), null, 'a test that is over meets nobody new') from test;
select is(private.ab_variant(test.id, s.contact_id, pg_temp.clinic()), 'a', 'whom it met is treated as before')
from test, public.ab_test_assignments s limit 1;

select * from finish();
rollback;
