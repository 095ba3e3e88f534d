-- Flow definitions: what a flow may be, so that no customer ever meets a step that leads nowhere.
--
-- The check stands twice, here and in types/flow-definition.ts, and finds the same problems by the same names: an editor
-- shows them while somebody draws, and the database refuses them whoever writes.

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
        and (condition.value ->> 'chave'
            = any (keys || '{contato.nome,contato.etiquetas,pets.quantidade,organizacao.vertical}'::text[])
          -- Whether there is such a test the definition cannot know: one that does not run has no variant.
          or starts_with(condition.value ->> 'chave', 'teste.')
            and private.has_letters(to_jsonb(substr(condition.value ->> 'chave', 7)), 120)), false) then
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
