-- Flows: what the bot asks and does, step by step. A flow is data: its definition is checked before it is stored, so that
-- no customer ever meets a step that leads nowhere.
--
-- The check stands twice, here and in types/flow-definition.ts, and finds the same problems by the same names: an editor
-- shows them while somebody draws, and the database refuses them whoever writes.

create type public.flow_session_status as enum ('running', 'completed', 'handed_over', 'expired', 'cancelled');
comment on type public.flow_session_status is
  'cancelled: the conversation was closed, or another flow was started in it. Only running goes on.';

-- The check ---------------------------------------------------------------------------------------------------------

create type private.flow_problem as (step text, problem text, detail text);
create type private.flow_way as (from_step text, field text, target jsonb, is_silent boolean);

create function private.has_letters(value jsonb, longest int)
returns boolean
language plpgsql
immutable
set search_path = ''
as $$
begin
  -- What is white space is said, not left to the locale: an editor in JavaScript says the same.
  return jsonb_typeof(value) = 'string'
    and value #>> '{}' ~ '[^\s\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]'
    and length(value #>> '{}') <= longest;
end;
$$;
comment on function private.has_letters(jsonb, int) is 'Whether a JSON value is a text with something to read, of at most so many characters.';

create function private.is_whole(value jsonb, lowest numeric, highest numeric)
returns boolean
language plpgsql
immutable
set search_path = ''
as $$
begin
  return jsonb_typeof(value) = 'number'
    and trunc((value #>> '{}')::numeric) = (value #>> '{}')::numeric
    and (value #>> '{}')::numeric between lowest and highest;
end;
$$;
comment on function private.is_whole(jsonb, numeric, numeric) is 'Whether a JSON value is a whole number between two.';

create function private.is_step_id(value jsonb)
returns boolean
language plpgsql
immutable
set search_path = ''
as $$
begin
  return coalesce(jsonb_typeof(value) = 'string' and value #>> '{}' ~ '^[a-z0-9_]{1,50}$', false);
end;
$$;
comment on function private.is_step_id(jsonb) is 'Whether a JSON value can be the id of a step, or the key of an answer.';

create function private.is_safe_pattern(pattern text)
returns boolean
language plpgsql
immutable
set search_path = ''
as $$
declare
  syntax constant text := '.*+?()[]{}|^$\/';
  position int := 1;
  depth int := 0;
  has_atom boolean := false;
  letter text;
  bounds text[];
  -- In brackets: the letter before, and the one on the left of a dash.
  previous text;
  is_range boolean;
begin
  -- Decided in a moment, whatever is answered: no repeated group, no look-around, no back-reference, few choices.
  if length(pattern) not between 1 and 200
    or pattern ~ '\)[*+{?]' or pattern ~ '\(\?(?!:)'
    or pattern ~ '\\(?![dDwWsS.\-/\\()\[\]{}*+?|^$])'
    or pattern ~ '\{[0-9]{3,}|\{[0-9]*,[0-9]{3,}'
    or regexp_count(pattern, '[*+]|\{[0-9]*,') > 3 or regexp_count(pattern, '[?|]') > 6 then
    return false;
  end if;

  -- And one that JavaScript takes in its strict (unicode) reading, which is what runs it.
  while position <= length(pattern) loop
    letter := substr(pattern, position, 1);
    position := position + 1;
    case
      when letter = '\' then
        letter := substr(pattern, position, 1);
        position := position + 1;
        if letter = '-' then
          return false;
        end if;
        has_atom := true;
      when letter in (']', '}') then
        return false;
      when letter = '(' then
        depth := depth + 1;
        if substr(pattern, position, 2) = '?:' then
          position := position + 2;
        end if;
        has_atom := false;
      when letter = ')' then
        depth := depth - 1;
        if depth < 0 then
          return false;
        end if;
        has_atom := true;
      when letter in ('|', '^', '$') then
        has_atom := false;
      when letter in ('*', '+', '?', '{') then
        if not has_atom then
          return false;
        end if;
        if letter = '{' then
          bounds := regexp_match(substr(pattern, position), '^([0-9]+)(,?)([0-9]*)\}');
          if bounds is null or bounds[2] = '' and bounds[3] <> '' or nullif(bounds[3], '')::int < bounds[1]::int then
            return false;
          end if;
          position := position + length(bounds[1] || bounds[2] || bounds[3]) + 1;
        end if;
        if substr(pattern, position, 1) = '?' then
          position := position + 1;
        end if;
        has_atom := false;
      when letter = '[' then
        if substr(pattern, position, 1) = '^' then
          position := position + 1;
        end if;
        previous := null;
        is_range := false;
        loop
          letter := substr(pattern, position, 1);
          exit when letter = ']';
          if letter = '' then
            return false;
          end if;
          position := position + 1;
          if letter = '\' then
            letter := substr(pattern, position, 1);
            position := position + 1;
            -- A class such as \d is no end of a range.
            if position(letter in syntax || '-') = 0 then
              letter := '\' || letter;
            end if;
          elsif letter = '-' and previous is not null and not is_range and substr(pattern, position, 1) <> ']' then
            is_range := true;
            continue;
          end if;
          if is_range then
            if length(previous) > 1 or length(letter) > 1 or ascii(previous) > ascii(letter) then
              return false;
            end if;
            previous := null;
            is_range := false;
          else
            previous := letter;
          end if;
        end loop;
        position := position + 1;
        has_atom := true;
      else
        has_atom := true;
    end case;
  end loop;
  return depth = 0;
end;
$$;
comment on function private.is_safe_pattern(text) is
  'Whether a regular expression for answers is well-formed, and harmless whatever it is given. The same as isSafePattern() in types/flow-problems.ts.';

create function private.flow_text_problems(step text, holder jsonb, field text, path text, keys text[])
returns setof private.flow_problem
language plpgsql
immutable
set search_path = ''
as $$
declare
  name text;
begin
  if private.has_letters(holder -> field, 2147483647) is not true then
    return next row(step, 'missing_text', path)::private.flow_problem;
  elsif length(holder ->> field) > 1024 then
    return next row(step, 'text_too_long', path)::private.flow_problem;
  end if;
  if jsonb_typeof(holder -> field) = 'string' then
    for name in
      select distinct regexp_replace(
        written.parts[1], '^[\s\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]+|[\s\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]+$', '', 'g')
      from regexp_matches(holder ->> field, '\{\{([^{}]*)\}\}', 'g') written (parts)
    loop
      if not (
        name in ('nome', 'servico', 'profissional', 'data', 'hora', 'pet', 'organizacao')
        or name like 'respostas.%' and substr(name, 11) = any (keys)
      ) then
        return next row(step, 'unknown_variable', name)::private.flow_problem;
      end if;
    end loop;
  end if;
end;
$$;
comment on function private.flow_text_problems(text, jsonb, text, text, text[]) is 'What is wrong with a text that the bot says.';

create function private.flow_option_problems(step text, options jsonb)
returns setof private.flow_problem
language plpgsql
immutable
set search_path = ''
as $$
declare
  option record;
  field record;
  seen text[] := array[]::text[];
begin
  if jsonb_typeof(options) is distinct from 'array' or jsonb_array_length(options) = 0 then
    return next row(step, 'missing_options', 'opcoes')::private.flow_problem;
    return;
  elsif jsonb_array_length(options) > 20 then
    return next row(step, 'too_many_options', 'opcoes')::private.flow_problem;
    return;
  end if;
  for option in
    select o.value, format('opcoes[%s]', o.n - 1) as path from jsonb_array_elements(options) with ordinality o (value, n)
  loop
    if jsonb_typeof(option.value) <> 'object' then
      return next row(step, 'missing_options', option.path)::private.flow_problem;
      continue;
    end if;
    for field in
      select f.name, f.longest, option.value -> f.name as text, option.path || '.' || f.name as path
      from (values ('rotulo', 60), ('valor', 200)) f (name, longest)
    loop
      if private.has_letters(field.text, 2147483647) is not true then
        return next row(step, 'missing_text', field.path)::private.flow_problem;
      elsif length(field.text #>> '{}') > field.longest then
        return next row(step, 'text_too_long', field.path)::private.flow_problem;
      end if;
      if jsonb_typeof(field.text) = 'string' then
        if field.name || ' ' || (field.text #>> '{}') = any (seen) then
          return next row(step, 'duplicate_option', field.path)::private.flow_problem;
        end if;
        seen := seen || (field.name || ' ' || (field.text #>> '{}'));
      end if;
    end loop;
  end loop;
end;
$$;
comment on function private.flow_option_problems(text, jsonb) is 'What is wrong with what a step offers.';

create function private.flow_validation_problems(step text, validation jsonb, keys text[])
returns setof private.flow_problem
language plpgsql
immutable
set search_path = ''
as $$
declare
  kind constant text := case jsonb_typeof(validation -> 'tipo') when 'string' then validation ->> 'tipo' end;
  bound text;
begin
  if jsonb_typeof(validation) <> 'object' then
    return next row(step, 'invalid_validation', 'validacao')::private.flow_problem;
    return;
  end if;
  if (kind in ('texto', 'numero', 'inteiro', 'email', 'telefone', 'cpf', 'data', 'sim_nao')) is not true then
    return next row(step, 'invalid_validation', 'validacao.tipo')::private.flow_problem;
  end if;
  foreach bound in array array['min', 'max'] loop
    if validation ? bound and not coalesce(
      jsonb_typeof(validation -> bound) = 'number'
        and kind in ('texto', 'numero', 'inteiro', 'data')
        and abs((validation ->> bound)::numeric) <= 1e12
        and (kind not in ('texto', 'data') or private.is_whole(validation -> bound, -1e12, 1e12)),
      false) then
      return next row(step, 'invalid_validation', 'validacao.' || bound)::private.flow_problem;
    end if;
  end loop;
  if jsonb_typeof(validation -> 'min') = 'number' and jsonb_typeof(validation -> 'max') = 'number'
    and (validation ->> 'min')::numeric > (validation ->> 'max')::numeric then
    return next row(step, 'invalid_validation', 'validacao.max')::private.flow_problem;
  end if;
  if validation ? 'padrao' and not coalesce(
    kind = 'texto' and jsonb_typeof(validation -> 'padrao') = 'string' and private.is_safe_pattern(validation ->> 'padrao'), false) then
    return next row(step, 'invalid_validation', 'validacao.padrao')::private.flow_problem;
  end if;
  if validation ? 'mensagem' then
    return query select * from private.flow_text_problems(step, validation, 'mensagem', 'validacao.mensagem', keys);
  end if;
end;
$$;
comment on function private.flow_validation_problems(text, jsonb, text[]) is 'What is wrong with what a step wants an answer to be.';

create function private.flow_condition_problems(step text, conditions jsonb, keys text[])
returns setof private.flow_problem
language plpgsql
immutable
set search_path = ''
as $$
declare
  condition record;
  operator text;
begin
  if jsonb_typeof(conditions) is distinct from 'array' or jsonb_array_length(conditions) not between 1 and 20 then
    return next row(step, 'invalid_condition', 'condicoes')::private.flow_problem;
    return;
  end if;
  for condition in
    select c.value, format('condicoes[%s]', c.n - 1) as path
    from jsonb_array_elements(conditions) with ordinality c (value, n)
  loop
    if jsonb_typeof(condition.value) <> 'object' then
      return next row(step, 'invalid_condition', condition.path)::private.flow_problem;
      continue;
    end if;
    if not coalesce(
      jsonb_typeof(condition.value -> 'chave') = 'string'
        and condition.value ->> 'chave'
          = any (keys || '{contato.nome,contato.etiquetas,pets.quantidade,organizacao.vertical}'::text[]), false) then
      return next row(step, 'invalid_condition', condition.path || '.chave')::private.flow_problem;
    end if;
    operator := case jsonb_typeof(condition.value -> 'operador') when 'string' then condition.value ->> 'operador' end;
    if (operator in ('igual', 'diferente', 'contem', 'maior', 'menor', 'existe', 'vazio')) is not true then
      return next row(step, 'invalid_condition', condition.path || '.operador')::private.flow_problem;
      continue;
    end if;
    if not (operator in ('existe', 'vazio') and not condition.value ? 'valor')
      and (jsonb_typeof(condition.value -> 'valor') in ('string', 'number', 'boolean')) is not true then
      return next row(step, 'invalid_condition', condition.path || '.valor')::private.flow_problem;
    end if;
  end loop;
end;
$$;
comment on function private.flow_condition_problems(text, jsonb, text[]) is 'What is wrong with the conditions by which a step goes on.';

create function private.flow_action_problems(step text, action jsonb)
returns setof private.flow_problem
language plpgsql
immutable
set search_path = ''
as $$
declare
  wrong text[];
begin
  if jsonb_typeof(action) is distinct from 'object' then
    return next row(step, 'invalid_action', 'acao')::private.flow_problem;
    return;
  end if;
  wrong := case case jsonb_typeof(action -> 'tipo') when 'string' then action ->> 'tipo' end
    when 'criar_lead' then array[
      case when action ? 'profissional' and not coalesce(
        jsonb_typeof(action -> 'profissional') = 'string'
          and action ->> 'profissional' ~* '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$', false)
        then 'profissional' end]
    when 'atualizar_lead' then array[
      case when action ? 'status' and not coalesce(
        jsonb_typeof(action -> 'status') = 'string'
          and action ->> 'status' in ('novo', 'em_contato', 'agendado', 'fechado', 'perdido'), false)
        then 'status' end]
    when 'etiquetar' then array[case when private.has_letters(action -> 'etiqueta', 60) is not true then 'etiqueta' end]
    when 'transferir' then array[
      case when action ? 'motivo' and private.has_letters(action -> 'motivo', 500) is not true then 'motivo' end]
    when 'aguardar' then array[case when private.is_whole(action -> 'minutos', 1, 43200) is not true then 'minutos' end]
    when 'escolher_servico' then array[
      case when action ? 'categoria' and private.has_letters(action -> 'categoria', 80) is not true then 'categoria' end]
    when 'escolher_horario' then array[
      case when action ? 'dias' and private.is_whole(action -> 'dias', 1, 60) is not true then 'dias' end,
      case when action ? 'quantos' and private.is_whole(action -> 'quantos', 1, 10) is not true then 'quantos' end]
    when 'escolher_pet' then '{}'
    when 'agendar' then '{}'
    when 'entrar_lista_espera' then '{}'
    when 'cancelar_agendamento' then '{}'
    when 'remarcar' then '{}'
    when 'confirmar_agendamento' then '{}'
    when 'definir_etapa_jornada' then null
    else array['tipo']
  end::text[];
  if wrong is null then
    -- Journeys come later.
    return next row(step, 'unsupported_action', 'acao.tipo')::private.flow_problem;
  end if;
  return query
  select step, 'invalid_action', 'acao.' || w from unnest(wrong) w where w is not null;
end;
$$;
comment on function private.flow_action_problems(text, jsonb) is 'What is wrong with what a step does.';

create function private.flow_step_problems(step text, fields jsonb, keys text[])
returns setof private.flow_problem
language plpgsql
immutable
set search_path = ''
as $$
declare
  kind constant text := case jsonb_typeof(fields -> 'tipo') when 'string' then fields ->> 'tipo' end;
begin
  if (kind in ('mensagem', 'escolha', 'pergunta', 'condicao', 'acao', 'fim')) is not true then
    return next row(step, 'unknown_type', 'tipo')::private.flow_problem;
    return;
  end if;
  if kind in ('mensagem', 'escolha', 'pergunta') or kind in ('acao', 'fim') and fields ? 'pergunta' then
    return query select * from private.flow_text_problems(step, fields, 'pergunta', 'pergunta', keys);
  end if;
  if kind in ('escolha', 'pergunta') and fields ? 'chave' and not private.is_step_id(fields -> 'chave') then
    return next row(step, 'invalid_id', 'chave')::private.flow_problem;
  end if;
  if kind in ('escolha', 'pergunta', 'acao') and fields ? 'max_tentativas'
    and private.is_whole(fields -> 'max_tentativas', 1, 10) is not true then
    return next row(step, 'invalid_setting', 'max_tentativas')::private.flow_problem;
  end if;
  case kind
    when 'escolha' then
      return query select * from private.flow_option_problems(step, fields -> 'opcoes');
    when 'pergunta' then
      if fields ? 'validacao' then
        return query select * from private.flow_validation_problems(step, fields -> 'validacao', keys);
      end if;
    when 'condicao' then
      return query select * from private.flow_condition_problems(step, fields -> 'condicoes', keys);
    when 'acao' then
      return query select * from private.flow_action_problems(step, fields -> 'acao');
    when 'fim' then
      if fields ? 'encerrar' and jsonb_typeof(fields -> 'encerrar') <> 'boolean' then
        return next row(step, 'invalid_setting', 'encerrar')::private.flow_problem;
      end if;
    else null;
  end case;
end;
$$;
comment on function private.flow_step_problems(text, jsonb, text[]) is 'What is wrong with one step by itself.';

create function private.is_flow_ending(fields jsonb)
returns boolean
language plpgsql
immutable
set search_path = ''
as $$
begin
  return coalesce(
    fields -> 'tipo' = '"fim"' or fields -> 'tipo' = '"acao"' and fields #> '{acao,tipo}' = '"transferir"', false);
end;
$$;
comment on function private.is_flow_ending(jsonb) is 'Whether nothing comes after a step.';

create function private.flow_ways(step text, fields jsonb)
returns setof private.flow_way
language plpgsql
immutable
set search_path = ''
as $$
declare
  kind constant text := case jsonb_typeof(fields -> 'tipo') when 'string' then fields ->> 'tipo' end;
  branches constant jsonb := case kind when 'escolha' then fields -> 'opcoes' when 'condicao' then fields -> 'condicoes' end;
begin
  if (kind in ('mensagem', 'escolha', 'pergunta', 'condicao', 'acao')) is not true or private.is_flow_ending(fields) then
    return;
  end if;
  if jsonb_typeof(branches) = 'array' and jsonb_array_length(branches) <= 20 then
    return query
    select step, format(case kind when 'escolha' then 'opcoes[%s].proxima' else 'condicoes[%s].proxima' end, b.n - 1),
      b.value -> 'proxima', kind = 'condicao'
    from (
      select o.value, row_number() over (order by o.n) as n
      from jsonb_array_elements(branches) with ordinality o (value, n)
      where jsonb_typeof(o.value) = 'object'
    ) b
    -- Options may share the way of their step.
    where kind = 'condicao' or b.value ? 'proxima' or not fields ? 'proxima';
  end if;
  if kind <> 'escolha' or fields ? 'proxima' then
    return next row(
      step, 'proxima', fields -> 'proxima',
      -- The other actions can go on without a question: with one service, without a booking to cancel.
      case kind
        when 'acao' then coalesce(fields #>> '{acao,tipo}' not in ('escolher_pet', 'escolher_horario'), true)
        else kind not in ('escolha', 'pergunta')
      end)::private.flow_way;
  end if;
  return query
  select step, f.name, fields -> f.name, f.is_silent
  from (values ('proxima_sem_horario', true), ('em_erro', true), ('em_falha', false)) f (name, is_silent)
  where fields ? f.name
    and case f.name when 'em_falha' then kind in ('escolha', 'pergunta', 'acao') else kind = 'acao' end;
end;
$$;
comment on function private.flow_ways(text, jsonb) is
  'Where a step may go on; a silent way is taken without the customer having written anything in between.';

create function private.flow_reach(ways private.flow_way[], names text[], silent_only boolean)
returns bit(200)[]
language plpgsql
immutable
set search_path = ''
as $$
declare
  reached bit(200)[] := array_fill(0::bit(200), array[cardinality(names)]);
  way record;
  beyond bit(200);
begin
  for way in
    select distinct array_position(names, w.from_step) as step, array_position(names, w.target #>> '{}') as next
    from unnest(ways) w
    where w.is_silent or not silent_only
  loop
    reached[way.step] := set_bit(reached[way.step], way.next - 1, 1);
  end loop;
  -- Whoever comes to a step comes to all that it leads to. Each step is gone through once (Warshall): a definition that
  -- leads from everywhere to everywhere takes no longer than any other.
  for via in 1..cardinality(names) loop
    beyond := reached[via];
    for step in 1..cardinality(names) loop
      if get_bit(reached[step], via - 1) = 1 then
        reached[step] := reached[step] | beyond;
      end if;
    end loop;
  end loop;
  return reached;
end;
$$;
comment on function private.flow_reach(private.flow_way[], text[], boolean) is
  'For each step all those that one comes to from there, as bits in the order of the names.';

create function private.flow_way_problems(definition jsonb, names text[], steps jsonb[])
returns setof private.flow_problem
language plpgsql
immutable
set search_path = ''
as $$
declare
  -- Of two steps with one id the first is meant.
  is_first constant boolean[] := array(
    select array_position(names, s.name) = s.n from unnest(names) with ordinality s (name, n) order by s.n
  );
  all_ways private.flow_way[];
  ways private.flow_way[];
  reached bit(200)[];
  silently bit(200)[];
  endings bit(200) := 0::bit(200);
  start int;
begin
  select array_agg(row(w.from_step, w.field, w.target, w.is_silent)::private.flow_way order by s.n) into all_ways
  from unnest(names, steps) with ordinality s (name, fields, n)
  cross join lateral private.flow_ways(s.name, s.fields) w;
  return query
  select w.from_step, case when w.target is null then 'missing_next' else 'unknown_next' end, w.field
  from unnest(all_ways) w
  where w.target is null or not (private.is_step_id(w.target) and w.target #>> '{}' = any (names));

  if definition ? 'inicio' and not (private.is_step_id(definition -> 'inicio') and definition ->> 'inicio' = any (names)) then
    return next row(null, 'unknown_next', 'inicio')::private.flow_problem;
    return;
  elsif cardinality(names) = 0 then
    return;
  end if;
  select coalesce(array_agg(row(w.from_step, w.field, w.target, w.is_silent)::private.flow_way), '{}') into ways
  from unnest(names, steps, is_first) s (name, fields, is_first)
  cross join lateral private.flow_ways(s.name, s.fields) w
  where s.is_first and private.is_step_id(w.target) and w.target #>> '{}' = any (names);

  reached := private.flow_reach(ways, names, false);
  silently := private.flow_reach(ways, names, true);
  start := coalesce(array_position(names, definition ->> 'inicio'), 1);
  for n in 1..cardinality(names) loop
    if is_first[n] and private.is_flow_ending(steps[n]) then
      endings := set_bit(endings, n - 1, 1);
    end if;
  end loop;
  return query
  select
    names[s.n],
    p.problem,
    null::text
  from generate_series(1, cardinality(names)) s (n)
  cross join lateral (select s.n = start or get_bit(reached[start], s.n - 1) = 1 as is_reachable) r
  cross join lateral (values
    ('unreachable', not r.is_reachable),
    ('no_end', r.is_reachable and get_bit(endings, s.n - 1) = 0 and (reached[s.n] & endings) = 0::bit(200)),
    ('silent_loop', r.is_reachable and get_bit(silently[s.n], s.n - 1) = 1)
  ) p (problem, is_one)
  where is_first[s.n] and p.is_one;
end;
$$;
comment on function private.flow_way_problems(jsonb, text[], jsonb[]) is 'What is wrong with the way through all steps.';

create function private.flow_problems(definition jsonb)
returns setof private.flow_problem
language plpgsql
immutable
set search_path = ''
as $$
declare
  step record;
  names text[] := array[]::text[];
  steps jsonb[] := array[]::jsonb[];
  keys text[];
begin
  if jsonb_typeof(definition) is distinct from 'object' then
    return next row(null, 'not_an_object', null)::private.flow_problem;
    return;
  elsif jsonb_typeof(definition -> 'etapas') is distinct from 'array' or jsonb_array_length(definition -> 'etapas') = 0 then
    return next row(null, 'no_steps', 'etapas')::private.flow_problem;
    return;
  elsif jsonb_array_length(definition -> 'etapas') > 200 then
    return next row(null, 'too_many_steps', 'etapas')::private.flow_problem;
    return;
  end if;
  return query
  select null, 'invalid_setting', s.name
  from (values ('expira_em_minutos', 5, 43200), ('max_tentativas', 1, 10)) s (name, lowest, highest)
  where definition ? s.name and private.is_whole(definition -> s.name, s.lowest, s.highest) is not true;

  for step in
    select s.value as fields, private.is_step_id(s.value -> 'id') as has_id,
      case when private.is_step_id(s.value -> 'id') then s.value ->> 'id' else '#' || s.n - 1 end as name
    from jsonb_array_elements(definition -> 'etapas') with ordinality s (value, n)
    order by s.n
  loop
    if jsonb_typeof(step.fields) <> 'object' then
      return next row(step.name, 'not_an_object', null)::private.flow_problem;
      continue;
    elsif not step.has_id then
      return next row(step.name, 'invalid_id', 'id')::private.flow_problem;
    elsif step.name = any (names) then
      return next row(step.name, 'duplicate_id', 'id')::private.flow_problem;
    end if;
    names := names || step.name::text;
    steps := steps || step.fields;
  end loop;
  keys := array(
    select case jsonb_typeof(s.fields -> 'chave') when 'string' then s.fields ->> 'chave' else s.name end
    from unnest(names, steps) s (name, fields)
    where s.fields -> 'tipo' in ('"escolha"', '"pergunta"')
  );
  return query
  select p.*
  from unnest(names, steps) with ordinality s (name, fields, n)
  cross join lateral private.flow_step_problems(s.name, s.fields, keys) p
  order by s.n;
  return query select * from private.flow_way_problems(definition, names, steps);
end;
$$;
comment on function private.flow_problems(jsonb) is
  'What is wrong with a flow definition: the step''s id ("#2", from 0, for one without), the problem''s name, and the field. The same as findProblems() in types/flow-problems.ts.';

create function private.require_flow(definition jsonb)
returns void
language plpgsql
immutable
security definer -- whoever may draw a flow need not be allowed to call each part of the check
set search_path = ''
as $$
declare
  problems jsonb;
begin
  select jsonb_agg(jsonb_build_object('step', p.step, 'problem', p.problem, 'detail', p.detail)) into problems
  from (select distinct * from private.flow_problems(definition) limit 100) p;
  if problems is not null then
    perform private.raise_error('BL601', 'invalid_flow', 'A customer would get stuck in this flow',
      jsonb_build_object('problems', problems));
  end if;
end;
$$;
comment on function private.require_flow(jsonb) is 'Error invalid_flow, with its problems, for a definition that has any.';
grant execute on function private.require_flow(jsonb) to authenticated, service_role;

create function private.flow_patience(definition jsonb)
returns interval
language sql
immutable
set search_path = ''
as $$
  select make_interval(mins => coalesce((definition ->> 'expira_em_minutos')::numeric::int, 1440))
$$;
comment on function private.flow_patience(jsonb) is 'How long an unanswered question waits.';

-- flow_templates ----------------------------------------------------------------------------------------------------

create table public.flow_templates (
  key text not null,
  name text not null,
  vertical public.business_vertical,
  description text,
  definition jsonb not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint flow_templates_pkey primary key (key),
  constraint flow_templates_key_format_check check (key ~ '^[a-z0-9_]{1,50}$'),
  constraint flow_templates_name_length_check check (length(btrim(name)) between 1 and 120),
  constraint flow_templates_definition_is_object_check check (jsonb_typeof(definition) = 'object')
);
comment on table public.flow_templates is 'Flows to begin with, the same for every organization: create_flow_from_template() copies one.';
comment on column public.flow_templates.vertical is 'For which kind of business; null = for any.';

alter table public.flow_templates enable row level security;
alter table public.flow_templates force row level security;
create policy "Everybody who is signed in can read flow templates" on public.flow_templates
  for select to authenticated
  using (true);
revoke all on public.flow_templates from public, anon, authenticated, service_role;
grant select on public.flow_templates to authenticated;
grant select, insert, update, delete on public.flow_templates to service_role;

create trigger flow_templates_100_touch_updated_at
  before update on public.flow_templates
  for each row execute function private.tg_touch_updated_at();

-- flows -------------------------------------------------------------------------------------------------------------

create table public.flows (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  name text not null,
  vertical public.business_vertical,
  description text,
  definition jsonb not null,
  version int not null default 1,
  is_active boolean not null default true,
  is_default boolean not null default false,
  created_by uuid,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint flows_pkey primary key (organization_id, id),
  constraint flows_organization_id_fkey foreign key (organization_id) references public.organizations (id),
  constraint flows_created_by_fkey foreign key (organization_id, created_by)
    references public.user_roles (organization_id, user_id) on delete set null (created_by),
  constraint flows_name_length_check check (length(btrim(name)) between 1 and 120),
  constraint flows_description_length_check check (length(description) <= 2000),
  constraint flows_definition_is_object_check check (jsonb_typeof(definition) = 'object')
);
comment on table public.flows is 'What the bot asks and does. Shape of the definition: flowDefinition in types/.';
comment on column public.flows.version is 'Goes up with every change of the definition; who is in the middle of a flow goes on with the version he began with.';
comment on column public.flows.is_default is 'Begins by itself when a customer writes and no other flow is under way. At most one; the newest one takes over.';
create unique index flows_one_default_idx on public.flows (organization_id) where is_default;
create index flows_created_by_idx on public.flows (organization_id, created_by) where created_by is not null;

alter table public.flows enable row level security;
alter table public.flows force row level security;
create policy "Members can read their organization's flows" on public.flows
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
create policy "Admins can add flows to their organization" on public.flows
  for insert to authenticated
  with check (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
create policy "Admins can update their organization's flows" on public.flows
  for update to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]))
  with check (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
create policy "Admins can delete their organization's flows" on public.flows
  for delete to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.flows from public, anon, authenticated, service_role;
grant select, delete on public.flows to authenticated;
-- version and created_by are the triggers' to set.
grant insert (organization_id, id, name, vertical, description, definition, is_active, is_default) on public.flows to authenticated;
grant update (name, vertical, description, definition, is_active, is_default) on public.flows to authenticated;
grant select, insert, update, delete on public.flows to service_role;

-- flow_versions -----------------------------------------------------------------------------------------------------

create table public.flow_versions (
  organization_id uuid not null,
  flow_id uuid not null,
  version int not null,
  definition jsonb not null,
  created_at timestamptz not null default now(),
  constraint flow_versions_pkey primary key (organization_id, flow_id, version),
  constraint flow_versions_flow_id_fkey foreign key (organization_id, flow_id)
    references public.flows (organization_id, id) on delete cascade,
  constraint flow_versions_definition_is_object_check check (jsonb_typeof(definition) = 'object')
);
comment on table public.flow_versions is 'Every definition that a flow ever had: a change does not pull the ground from under who is in the middle of it.';

alter table public.flow_versions enable row level security;
alter table public.flow_versions force row level security;
create policy "Members can read their organization's flow versions" on public.flow_versions
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
revoke all on public.flow_versions from public, anon, authenticated, service_role;
grant select on public.flow_versions to authenticated, service_role;

create function private.tg_flows__check_definition()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform private.require_flow(new.definition);
  return new;
end;
$$;
comment on function private.tg_flows__check_definition() is 'Trigger: error invalid_flow for a definition that would leave a customer without an answer.';
create trigger flow_templates_500_check_definition
  before insert or update of definition on public.flow_templates
  for each row execute function private.tg_flows__check_definition();
create trigger flows_500_check_definition
  before insert or update of definition on public.flows
  for each row execute function private.tg_flows__check_definition();

create function private.tg_flows__number_version()
returns trigger
language plpgsql
volatile
security definer -- the default gives way to the new one, whatever row the caller may change
set search_path = ''
as $$
begin
  if tg_op = 'INSERT' then
    new.version := 1;
    new.created_by := coalesce(new.created_by, (
      select m.user_id
      from public.user_roles m
      where m.organization_id = new.organization_id and m.user_id = (select auth.uid())
    ));
  else
    new.version := old.version + case when new.definition <> old.definition then 1 else 0 end;
  end if;
  if new.is_default and (tg_op = 'INSERT' or not old.is_default) then
    -- Two that become it at the same moment come one after the other.
    perform pg_advisory_xact_lock(hashtextextended('default_flow:' || new.organization_id, 0));
    update public.flows f
    set is_default = false
    where f.organization_id = new.organization_id and f.is_default and f.id <> new.id;
  end if;
  return new;
end;
$$;
comment on function private.tg_flows__number_version() is
  'Trigger: a changed definition is a new version; a new default flow takes the place of the old one.';
create trigger flows_100_touch_updated_at
  before update on public.flows
  for each row execute function private.tg_touch_updated_at();
create trigger flows_500_number_version
  before insert or update on public.flows
  for each row execute function private.tg_flows__number_version();

create function private.tg_flows__keep_version()
returns trigger
language plpgsql
volatile
security definer -- versions are written by this trigger only
set search_path = ''
as $$
begin
  insert into public.flow_versions (organization_id, flow_id, version, definition)
  values (new.organization_id, new.id, new.version, new.definition)
  on conflict on constraint flow_versions_pkey do nothing;
  return null;
end;
$$;
comment on function private.tg_flows__keep_version() is 'Trigger: keeps every version.';
create trigger flows_900_keep_version
  after insert or update of definition on public.flows
  for each row execute function private.tg_flows__keep_version();

-- flow_sessions -----------------------------------------------------------------------------------------------------

create table public.flow_sessions (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  conversation_id uuid not null,
  contact_id uuid not null,
  flow_id uuid not null,
  flow_version int not null,
  lead_id uuid,
  current_step text,
  state jsonb not null default '{}',
  status public.flow_session_status not null default 'running',
  is_completed boolean not null generated always as (status <> 'running') stored,
  version int not null default 0,
  last_message_id uuid,
  asked_at timestamptz,
  wakes_at timestamptz,
  expires_at timestamptz not null,
  started_at timestamptz not null default now(),
  completed_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint flow_sessions_pkey primary key (organization_id, id),
  constraint flow_sessions_conversation_id_fkey foreign key (organization_id, conversation_id)
    references public.conversations (organization_id, id) on delete cascade,
  constraint flow_sessions_contact_id_fkey foreign key (organization_id, contact_id)
    references public.contacts (organization_id, id),
  constraint flow_sessions_flow_version_fkey foreign key (organization_id, flow_id, flow_version)
    references public.flow_versions (organization_id, flow_id, version),
  constraint flow_sessions_lead_id_fkey foreign key (organization_id, lead_id)
    references public.leads (organization_id, id) on delete set null (lead_id),
  constraint flow_sessions_state_is_object_check check (jsonb_typeof(state) = 'object' and octet_length(state::text) <= 65536),
  constraint flow_sessions_completed_at_check check ((status = 'running') = (completed_at is null))
);
comment on table public.flow_sessions is 'How far a customer is in a flow. Written by finish_flow_turn(), start_flow() and the clock.';
comment on column public.flow_sessions.current_step is 'Which question waits for an answer; null = the flow has not begun yet.';
comment on column public.flow_sessions.state is 'Answers and choices, the engine''s own: FlowState in functions/queue-worker/flow/conversation.ts.';
comment on column public.flow_sessions.version is 'Goes up with every turn: of two turns that began from one version the second finds that it came too late.';
comment on column public.flow_sessions.last_message_id is 'Up to here the customer''s messages have been read (ids grow); those after it are the next inputs.';
comment on column public.flow_sessions.asked_at is 'When the question that is open was first asked: what was written before it is no answer to it.';
comment on column public.flow_sessions.wakes_at is 'When a wait is over, though nobody wrote.';
create unique index flow_sessions_one_unfinished_per_conversation_idx
  on public.flow_sessions (organization_id, conversation_id) where not is_completed;
create index flow_sessions_conversation_id_idx on public.flow_sessions (conversation_id, id desc);
comment on index public.flow_sessions_conversation_id_idx is 'The last one of a conversation; what goes with it.';
create statistics public.flow_sessions_conversation_id_organization_id_stats (dependencies)
  on conversation_id, organization_id from public.flow_sessions;
comment on statistics public.flow_sessions_conversation_id_organization_id_stats is 'A conversation has one organization.';
create index flow_sessions_contact_id_idx on public.flow_sessions (organization_id, contact_id);
create index flow_sessions_flow_id_idx on public.flow_sessions (organization_id, flow_id, flow_version);
comment on index public.flow_sessions_flow_id_idx is 'Whether a flow is in use.';
create index flow_sessions_lead_id_idx on public.flow_sessions (organization_id, lead_id) where lead_id is not null;
create index flow_sessions_expires_at_idx on public.flow_sessions (expires_at) where not is_completed;
create index flow_sessions_wakes_at_idx on public.flow_sessions (wakes_at) where not is_completed and wakes_at is not null;

alter table public.flow_sessions enable row level security;
alter table public.flow_sessions force row level security;
create policy "Members can read their organization's flow sessions" on public.flow_sessions
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
revoke all on public.flow_sessions from public, anon, authenticated, service_role;
grant select on public.flow_sessions to authenticated;
grant select, insert, update, delete on public.flow_sessions to service_role;

create trigger flow_sessions_100_touch_updated_at
  before update on public.flow_sessions
  for each row execute function private.tg_touch_updated_at();

create function private.tg_flows__refuse_in_use()
returns trigger
language plpgsql
volatile
security definer -- an administrator's DELETE sees all sessions
set search_path = ''
as $$
begin
  if exists (
    select from public.flow_sessions s where s.organization_id = old.organization_id and s.flow_id = old.id
  ) then
    perform private.raise_error('BL603', 'flow_in_use', 'A flow that customers went through cannot be deleted',
      jsonb_build_object('flow_id', old.id), 'Set is_active to false instead.');
  end if;
  return old;
end;
$$;
comment on function private.tg_flows__refuse_in_use() is 'Trigger: says in words what the foreign key would say by its name.';
create trigger flows_500_refuse_in_use
  before delete on public.flows
  for each row execute function private.tg_flows__refuse_in_use();

-- create_flow_from_template -----------------------------------------------------------------------------------------

create function private.create_flow_from_template(template_key text, name text, organization_id uuid)
returns public.flows
language plpgsql
volatile
security definer -- whether there is a default flow already is looked up under a lock
set search_path = ''
as $$
declare
  template public.flow_templates;
  flow public.flows;
begin
  perform private.require_role(organization_id, 'admin');
  select t.* into template from public.flow_templates t where t.key = template_key;
  if not found then
    perform private.raise_error('BL602', 'flow_not_found', 'There is no such flow template',
      jsonb_build_object('template_key', template_key));
  elsif length(btrim(name)) not between 1 and 120 then
    perform private.raise_error('BL005', 'invalid_name', 'A name has 1 to 120 characters');
  elsif not exists (
    select from public.organizations o where o.id = create_flow_from_template.organization_id
  ) then
    perform private.raise_error('BL100', 'organization_not_found', 'There is no such organization');
  end if;
  perform pg_advisory_xact_lock(hashtextextended('default_flow:' || organization_id, 0));
  insert into public.flows as f (organization_id, name, vertical, description, definition, is_default)
  values (
    create_flow_from_template.organization_id, coalesce(create_flow_from_template.name, template.name), template.vertical,
    template.description, template.definition,
    not exists (
      select
      from public.flows other
      where other.organization_id = create_flow_from_template.organization_id and other.is_default
    )
  )
  returning f.* into flow;
  return flow;
end;
$$;
comment on function private.create_flow_from_template(text, text, uuid) is 'See public.create_flow_from_template().';
grant execute on function private.create_flow_from_template(text, text, uuid) to authenticated, service_role;

create function public.create_flow_from_template(
  template_key text,
  name text default null,
  organization_id uuid default public.user_organization_id()
)
returns public.flows
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.create_flow_from_template(template_key, name, organization_id);
end;
$$;
comment on function public.create_flow_from_template(text, text, uuid) is
  'A flow of the organization''s own, copied from a template; the first one becomes the default and answers from the next message on. Admins and up. Errors: not_allowed, organization_not_found, flow_not_found, invalid_name.';
grant execute on function public.create_flow_from_template(text, text, uuid) to authenticated, service_role;
