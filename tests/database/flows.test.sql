-- Flows: what may be drawn, who may draw it, and that a change does not reach who is in the middle.
begin;
-- What this story defines may run as anyone; rolled back with the rest.
alter default privileges grant execute on functions to public;

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
select plan(42);

-- A definition of these steps.
create function pg_temp.flow(variadic steps text[])
returns jsonb
language sql
as $$ select jsonb_build_object('etapas', jsonb_agg(s::jsonb)) from unnest(steps) s $$;

create function pg_temp.problems(definition jsonb)
returns text
language sql
security definer
as $$
  select coalesce(string_agg(concat_ws(':', coalesce(p.step, '-'), p.problem, p.detail), ' ' order by p), '')
  from private.flow_problems(definition) p
$$;

-- The check ---------------------------------------------------------------------------------------------------------

select is(pg_temp.problems(pg_temp.flow(
  '{"id": "oi", "tipo": "mensagem", "pergunta": "Olá, {{nome}}!", "proxima": "que"}',
  '{"id": "que", "tipo": "escolha", "pergunta": "O que deseja?", "opcoes": [{"rotulo": "Marcar", "valor": "m", "proxima": "serv"}, {"rotulo": "Falar", "valor": "f"}], "proxima": "gente"}',
  '{"id": "serv", "tipo": "acao", "acao": {"tipo": "escolher_servico"}, "proxima": "hora"}',
  '{"id": "hora", "tipo": "acao", "acao": {"tipo": "escolher_horario"}, "proxima": "marca", "proxima_sem_horario": "gente"}',
  '{"id": "marca", "tipo": "acao", "acao": {"tipo": "agendar"}, "proxima": "fim", "em_erro": "gente"}',
  '{"id": "gente", "tipo": "acao", "acao": {"tipo": "transferir"}}',
  '{"id": "fim", "tipo": "fim", "pergunta": "Você disse {{respostas.que}}. Até {{data}}!"}')),
  '', 'a flow that leads everywhere it says has no problems');
select is(pg_temp.problems('[]'), '-:not_an_object', 'a list is no definition');
select is(pg_temp.problems('{"etapas": []}'), '-:no_steps:etapas', 'a flow without steps is none');
select is(pg_temp.problems(jsonb_build_object('etapas', (select jsonb_agg('{}'::jsonb) from generate_series(1, 201)))),
  '-:too_many_steps:etapas', 'two hundred steps are enough');
select is(pg_temp.problems(pg_temp.flow('{"id": "a", "tipo": "mensagem", "pergunta": "Oi"}', '{"id": "fim", "tipo": "fim"}')),
  'a:missing_next:proxima a:no_end fim:unreachable', 'a missing proxima is a dead end');
select is(pg_temp.problems(pg_temp.flow('{"id": "a", "tipo": "mensagem", "pergunta": "Oi", "proxima": "b"}', '{"id": "fim", "tipo": "fim"}')),
  'a:no_end a:unknown_next:proxima fim:unreachable', 'a proxima that does not exist is one too');
select is(pg_temp.problems(pg_temp.flow(
  '{"id": "a", "tipo": "mensagem", "pergunta": "Oi", "proxima": "b"}',
  '{"id": "b", "tipo": "condicao", "condicoes": [{"chave": "contato.nome", "operador": "existe", "proxima": "fim"}], "proxima": "a"}',
  '{"id": "fim", "tipo": "fim"}')),
  'a:silent_loop b:silent_loop', 'a circle in which nobody is asked anything would never end');
select is(pg_temp.problems(pg_temp.flow(
  '{"id": "a", "tipo": "mensagem", "pergunta": "Oi", "proxima": "b"}',
  '{"id": "b", "tipo": "pergunta", "pergunta": "E?", "proxima": "c"}',
  '{"id": "c", "tipo": "condicao", "condicoes": [{"chave": "b", "operador": "igual", "valor": "x", "proxima": "fim"}], "proxima": "a"}',
  '{"id": "fim", "tipo": "fim"}')),
  '', 'a circle with a question in it is a way to ask again');
select is(
  (select (count(*), count(*) filter (where p.problem = 'silent_loop'), min(p.step), max(p.step))::text
    from (
      select jsonb_build_object('etapas', jsonb_agg(jsonb_build_object('id', 's' || n, 'tipo', 'condicao',
        'condicoes', (select jsonb_agg(jsonb_build_object('chave', 'contato.nome', 'operador', 'existe', 'proxima', 's' || greatest(n - w, 0)))
          from generate_series(1, 20) w),
        'proxima', case when n < 198 then 's' || n + 1 else 'fim' end)) || '[{"id": "fim", "tipo": "fim"}]') as definition
      from generate_series(0, 198) n
    ) d, private.flow_problems(d.definition) p),
  '(199,199,s0,s99)', 'where all leads back to everything each step is told once');
select is(pg_temp.problems(pg_temp.flow(
  '{"id": "a", "tipo": "escolha", "pergunta": "{{cpf}}", "opcoes": [{"rotulo": "A", "valor": "x"}, {"rotulo": "A", "valor": "x"}], "proxima": "fim"}',
  '{"id": "a", "tipo": "fim"}', '{"id": "Fim", "tipo": "fim"}', '{"id": "fim", "tipo": "voar"}')),
  '#2:invalid_id:id #2:unreachable a:duplicate_id:id a:duplicate_option:opcoes[1].rotulo a:duplicate_option:opcoes[1].valor '
    || 'a:no_end a:unknown_variable:cpf fim:no_end fim:unknown_type:tipo',
  'each problem is told with its step and its field');
select is(pg_temp.problems(pg_temp.flow(
  '{"id": "a", "tipo": "acao", "acao": {"tipo": "definir_etapa_jornada"}, "proxima": "b"}',
  '{"id": "b", "tipo": "acao", "acao": {"tipo": "aguardar", "minutos": 0}, "proxima": "fim"}',
  '{"id": "fim", "tipo": "fim"}')),
  'a:unsupported_action:acao.tipo b:invalid_action:acao.minutos', 'journeys are not there yet; a wait takes time');

select ok(private.is_safe_pattern(p), 'a harmless pattern: ' || p)
from unnest(array['[A-Z]{3}-?\d{4}', '(?:sim|n[aã]o)', '\d{5}-\d{3}', '[^\s@]+@[^\s@]+']) p;
select ok(not private.is_safe_pattern(p), 'a pattern that is refused: ' || p)
from unnest(array['(a+)+', '(a|aa)*', '(?=x)', '(a)\1', '[z-a]', 'a{2,1}', 'x)|(y']) p;

-- Who draws -----------------------------------------------------------------------------------------------------------

select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select throws_ok(
  $$ insert into public.flows (organization_id, name, definition)
     values (tests.the('clinic', 'organization_id'), 'Meu', '{"etapas": [{"id": "fim", "tipo": "fim"}]}') $$,
  '42501', null, 'an attendant draws no flows');
select throws_ok($$ select public.create_flow_from_template('a_template') $$, 'BL002', null, 'nor does he copy one');

select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select throws_ok(
  $$ insert into public.flows (name, definition) values ('Preso', '{"etapas": [{"id": "a", "tipo": "mensagem", "pergunta": "Oi"}]}') $$,
  'BL601', null, 'an administrator''s flow is checked');
select throws_ok(
  format($$ update public.flows set definition = '{}' where id = %L $$, tests.the('clinic', 'flow_id')),
  'BL601', null, 'also when it is changed');
select throws_ok($$ update public.flows set version = 7 $$, '42501', null, 'versions are counted, not chosen');
select throws_ok($$ select public.create_flow_from_template('nenhum') $$, 'BL602', null, 'only what there is can be copied');
select throws_ok($$ select public.create_flow_from_template('a_template', ' ') $$, 'BL005', null, 'a flow has a name');
select throws_ok(
  format($$ select public.create_flow_from_template('a_template', null, %L) $$, tests.the('petshop', 'organization_id')),
  'BL002', null, 'nobody gives another tenant a flow');

select is(
  (select (f.name, f.version, f.is_default, f.is_active, f.created_by = tests.the('clinic', 'admin_id'))::text
    from public.create_flow_from_template('a_template') f),
  '(Modelo,1,t,t,t)', 'the first copy is the default: customers are answered from now on');
select is((select f.is_default from public.create_flow_from_template('a_template', 'Outro') f), false, 'the second is not');
select lives_ok($$ update public.flows set is_default = true where name = 'Outro' $$, 'another one may become it');
select results_eq(
  $$ select f.name from public.flows f where f.is_default $$, $$ values ('Outro') $$, 'there is one default at a time');

select lives_ok(
  $$ update public.flows set definition = '{"etapas": [{"id": "fim", "tipo": "fim", "pergunta": "Tchau!"}]}' where name = 'Outro' $$,
  'a flow can be changed');
select results_eq(
  $$ select v.version, v.definition #>> '{etapas,0,pergunta}'
     from public.flow_versions v join public.flows f on f.id = v.flow_id where f.name = 'Outro' order by 1 $$,
  $$ values (1, 'Até logo!'), (2, 'Tchau!') $$,
  'and what it was before is kept');
select lives_ok($$ update public.flows set description = 'x' where name = 'Outro' $$, 'a new description');
select is((select f.version from public.flows f where f.name = 'Outro'), 2, 'is no new version');

select throws_ok(
  format($$ delete from public.flows where id = %L $$, tests.the('clinic', 'flow_id')), 'BL603', null,
  'a flow that somebody went through stays');
select lives_ok($$ delete from public.flows where name = 'Outro' $$, 'one that nobody knows goes, with its versions');
select is_empty(
  $$ select from public.flows f where f.organization_id = tests.the('petshop', 'organization_id') $$,
  'another tenant''s flows are not to be seen');

select tests.authenticate_as_nobody();
select is(
  (select count(*) from public.flow_templates t where exists (select from private.flow_problems(t.definition))), 0::bigint,
  'no template has a problem');

select * from finish();
rollback;
