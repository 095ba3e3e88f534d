-- Message templates: what is said when nobody sits there to say it.
--
-- A template's variables are checked when it is saved, so that nobody is greeted as "{{nmoe}}". What an organization has no
-- template for is said in words of our own (private.default_template). Dates and hours come from tables, not from the
-- server's locale: they read the same everywhere.

create type public.message_category as enum
  ('greeting', 'appointment', 'reminder', 'confirmation', 'cancellation', 'error', 'marketing', 'waiting_list_offer', 'feedback', 'follow_up',
   'alert');
create type public.provider_template_status as enum ('pending', 'approved', 'rejected', 'paused');

-- Days and hours, spoken ----------------------------------------------------------------------------------------------

create function private.spoken_date(day date)
returns text
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
declare
  weekdays constant text[] :=
    '{segunda-feira,terça-feira,quarta-feira,quinta-feira,sexta-feira,sábado,domingo}'::text[];
  months constant text[] :=
    '{janeiro,fevereiro,março,abril,maio,junho,julho,agosto,setembro,outubro,novembro,dezembro}'::text[];
begin
  return format('%s, %s de %s',
    weekdays[extract(isodow from day)::int],
    case extract(day from day)::int when 1 then '1º' else extract(day from day)::text end,
    months[extract(month from day)::int]);
end;
$$;
comment on function private.spoken_date(date) is 'quarta-feira, 25 de novembro.';

create function private.spoken_hour(local_time timestamp)
returns text
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
begin
  return extract(hour from local_time) || 'h' || case when extract(minute from local_time) <> 0 then to_char(local_time, 'MI') else '' end;
end;
$$;
comment on function private.spoken_hour(timestamp) is '14h, 14h30.';

create function private.spoken_moment(moment timestamptz, zone text, at timestamptz)
returns text
language plpgsql
stable
set search_path = ''
as $$
declare
  local_time constant timestamp := moment at time zone zone;
  today constant date := (at at time zone zone)::date;
begin
  return case local_time::date - today
      when 0 then 'hoje'
      when 1 then 'amanhã, ' || private.spoken_date(local_time::date)
      else private.spoken_date(local_time::date)
    end
    || case when extract(hour from local_time) = 1 then ', à ' else ', às ' end
    || private.spoken_hour(local_time);
end;
$$;
comment on function private.spoken_moment(timestamptz, text, timestamptz) is
  'When something is, as one says it at another moment: hoje, às 14h; amanhã, quarta-feira, 25 de novembro, às 14h30.';

-- Rendering -----------------------------------------------------------------------------------------------------------

create function private.template_variables(category public.message_category)
returns text[]
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
begin
  return '{nome,nome_completo,organizacao}'::text[]
    || case
      when category in ('appointment', 'reminder', 'confirmation', 'cancellation', 'waiting_list_offer', 'feedback')
        then '{servico,profissional,local,pet,data,hora,quando}'::text[]
    end
    || case category when 'waiting_list_offer' then '{expira}'::text[] when 'alert' then '{alerta}'::text[] end;
end;
$$;
comment on function private.template_variables(public.message_category) is 'What a template of this category may speak of.';

create function private.variables_in(template text)
returns text[]
language plpgsql
immutable
strict
parallel safe
set search_path = ''
as $$
begin
  return coalesce(
    (
      select array_agg(v.name order by v.place)
      from (
        select m.found[1] as name, min(m.place) as place
        from regexp_matches(template, '\{\{\s*[#/]?\s*([^{}]*?)\s*\}\}', 'g') with ordinality m (found, place)
        group by m.found[1]
      ) v
    ),
    '{}');
end;
$$;
comment on function private.variables_in(text) is 'The variables that a text names, in the order in which they first come.';

create function private.render_template(template text, variables jsonb)
returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
  -- Said instead of what is not there: a booking may name no professional, a contact no name. There is one for each
  -- variable: WhatsApp refuses a template that is sent with an empty one.
  fallbacks constant jsonb :=
    '{"nome": "cliente", "nome_completo": "cliente", "organizacao": "nossa empresa", "servico": "atendimento",
      "profissional": "nossa equipe", "local": "nosso endereço", "pet": "seu pet", "data": "data combinada",
      "hora": "hora combinada", "quando": "data combinada", "expira": "daqui a pouco",
      "alerta": "algo precisa da sua atenção"}'::jsonb;
  -- The first quantifier decides for all of it: the shortest match.
  optional constant text := '\{\{#([a-z_]+?)\}\}(.*?)\{\{/\1\}\}';
  rest text := template;
  part text[];
  texts text[];
  names text[];
  rendered text;
begin
  loop
    part := regexp_match(rest, optional);
    exit when part is null;
    rest := regexp_replace(rest, optional, case when variables ->> part[1] ~ '\S' then '\2' else '' end);
  end loop;
  -- In one pass: a customer who calls himself "{{hora}}" is called that.
  texts := regexp_split_to_array(rest, '\{\{[^{}]*\}\}');
  names := array(select btrim(m.found[1]) from regexp_matches(rest, '\{\{([^{}]*)\}\}', 'g') with ordinality m (found, n) order by m.n);
  rendered := texts[1];
  for n in 1 .. cardinality(names) loop
    if not variables ? names[n] then
      perform private.raise_error('BL701', 'invalid_template', 'A variable of this template has no value',
        jsonb_build_object('problems', jsonb_build_array(jsonb_build_object('problem', 'missing_value', 'variable', names[n]))));
    end if;
    rendered := rendered || coalesce(case when variables ->> names[n] ~ '\S' then variables ->> names[n] end, fallbacks ->> names[n], '') || texts[n + 1];
  end loop;
  return btrim(rendered);
end;
$$;
comment on function private.render_template(text, jsonb) is
  'The text with its {{variables}} filled in. {{#pet}} de {{pet}}{{/pet}} is said only if there is one. Error: invalid_template for one that is not among the variables.';

create function private.template_problems(category public.message_category, template text)
returns jsonb
language plpgsql
immutable
set search_path = ''
as $$
declare
  named constant text[] := private.variables_in(template);
  known constant text[] := private.template_variables(category);
  problems jsonb := '[]'::jsonb;
  variable text;
begin
  if template is null or template !~ '\S' then
    return '[{"problem": "missing_text"}]'::jsonb;
  elsif length(template) > 1024 then
    problems := problems || '[{"problem": "text_too_long"}]'::jsonb;
  end if;
  foreach variable in array named loop
    if variable <> all (known) then
      problems := problems || jsonb_build_array(jsonb_build_object('problem', 'unknown_variable', 'variable', variable));
    end if;
  end loop;
  -- {{nome}, {nome}}, an optional part that does not end: what is left over when all that is well-formed is gone.
  if regexp_replace(
    regexp_replace(template, '\{\{#([a-z_]+?)\}\}(.*?)\{\{/\1\}\}', '\2', 'g'), '\{\{\s*[a-z_]+\s*\}\}', '', 'g'
  ) ~ '\{\{|\}\}' then
    problems := problems || '[{"problem": "unbalanced_braces"}]'::jsonb;
  end if;
  if category = 'alert' and 'alerta' <> all (named) then
    problems := problems || '[{"problem": "missing_variable", "variable": "alerta"}]'::jsonb;
  end if;
  -- What makes no sense without saying when.
  if category in ('reminder', 'confirmation', 'waiting_list_offer') and 'quando' <> all (named) then
    foreach variable in array '{data,hora}'::text[] loop
      if variable <> all (named) then
        problems := problems || jsonb_build_array(jsonb_build_object('problem', 'missing_variable', 'variable', variable));
      end if;
    end loop;
  end if;
  return problems;
end;
$$;
comment on function private.template_problems(public.message_category, text) is
  'What is wrong with a text, [{problem, variable}]: missing_text, text_too_long, unknown_variable, unbalanced_braces, missing_variable (a reminder that does not say when, an alert that does not say what).';

create function private.require_template(category public.message_category, template text)
returns void
language plpgsql
immutable
set search_path = ''
as $$
declare
  problems constant jsonb := private.template_problems(category, template);
begin
  if problems <> '[]' then
    perform private.raise_error('BL701', 'invalid_template', 'This text would not read well',
      jsonb_build_object('problems', problems, 'variables', private.template_variables(category)),
      'Mend what problems names; variables lists what this kind of message may speak of.');
  end if;
end;
$$;
comment on function private.require_template(public.message_category, text) is 'Error invalid_template, unless the text can be said.';

create function private.default_template(category public.message_category)
returns text
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
declare
  hello constant text := 'Olá{{#nome}}, {{nome}}{{/nome}}!';
  what constant text := '{{servico}}{{#pet}} de {{pet}}{{/pet}}{{#profissional}} com {{profissional}}{{/profissional}}';
begin
  return case category
    when 'greeting' then hello || ' 👋 Aqui é da {{organizacao}}. Como podemos ajudar?'
    when 'appointment' then hello || ' Seu horário: ' || what || ', {{quando}}.'
    when 'reminder' then
      hello || ' 😊 Passando para lembrar do seu horário na {{organizacao}}: ' || what
        || ', {{quando}}{{#local}} ({{local}}){{/local}}. Podemos contar com a sua presença?'
    when 'confirmation' then
      hello || ' Seu horário está marcado ✅ ' || what
        || ', {{quando}}{{#local}} ({{local}}){{/local}}. Se precisar mudar, é só responder por aqui.'
    when 'cancellation' then
      hello || ' Seu horário de ' || what || ', {{quando}}, foi cancelado. Se quiser marcar outro, é só responder por aqui.'
    when 'waiting_list_offer' then
      'Boa notícia{{#nome}}, {{nome}}{{/nome}}! 🎉 Abriu um horário para ' || what
        || ': {{quando}}. Está reservado para você até {{expira}}. Quer ficar com ele?'
    when 'feedback' then
      hello || ' Como foi o seu atendimento na {{organizacao}}? De 1 (ruim) a 5 (ótimo), que nota você dá?'
    when 'error' then 'Desculpe, tivemos um problema por aqui. Tente de novo em alguns minutos, por favor.'
    when 'marketing' then
      hello || ' A {{organizacao}} tem novidades para você. Quer saber mais? Se preferir não receber mensagens assim, responda PARAR.'
    when 'follow_up' then hello || ' Aqui é da {{organizacao}}. Ainda podemos ajudar em alguma coisa?'
    when 'alert' then 'Aviso do sistema para {{organizacao}}: {{alerta}}'
  end;
end;
$$;
comment on function private.default_template(public.message_category) is
  'What is said where an organization has no template of its own, in Brazilian Portuguese.';

-- message_templates ---------------------------------------------------------------------------------------------------

create table public.message_templates (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  name text not null,
  category public.message_category not null,
  template text not null,
  variables text[] not null default '{}',
  language text not null default 'pt_BR',
  active boolean not null default true,
  is_default boolean not null default false,
  provider_template_name text,
  provider_template_status public.provider_template_status,
  provider_template_has_buttons boolean not null default false,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint message_templates_pkey primary key (organization_id, id),
  constraint message_templates_organization_id_fkey foreign key (organization_id) references public.organizations (id),
  constraint message_templates_name_language_key unique (organization_id, name, language),
  constraint message_templates_name_length_check check (length(btrim(name)) between 1 and 120),
  constraint message_templates_language_format_check check (language ~ '^[a-z]{2}(_[A-Z]{2})?$'),
  constraint message_templates_provider_template_name_format_check check (
    provider_template_name ~ '^[a-z0-9_]+$' and length(provider_template_name) <= 512),
  constraint message_templates_provider_template_check check ((provider_template_name is null) = (provider_template_status is null))
);
comment on table public.message_templates is 'What an organization says in its own words: texts with {{variables}}, checked when they are saved.';
comment on column public.message_templates.variables is 'Taken from the text, in the order in which they come: {{1}}, {{2}} … of the provider''s template.';
comment on column public.message_templates.is_default is 'Used where a message of its category names no template. One for each category and language; the newest takes over.';
comment on column public.message_templates.provider_template_name is
  'The same text as the provider has approved it: what may be sent when the customer has not written for 24 hours.';
comment on column public.message_templates.provider_template_has_buttons is
  'It ends in quick replies, in the order of ours (confirm, reschedule, cancel): then an answer by tap is understood.';
create unique index message_templates_one_default_idx
  on public.message_templates (organization_id, category, language) where is_default;

alter table public.message_templates enable row level security;
alter table public.message_templates force row level security;
create policy "Members can read their organization's templates" on public.message_templates
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
create policy "Admins can add templates to their organization" on public.message_templates
  for insert to authenticated
  with check (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
create policy "Admins can update their organization's templates" on public.message_templates
  for update to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]))
  with check (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
create policy "Admins can delete their organization's templates" on public.message_templates
  for delete to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.message_templates from public, anon, authenticated, service_role;
grant select, delete on public.message_templates to authenticated;
-- variables is the trigger's to set.
grant insert (
  organization_id, id, name, category, template, language, active, is_default, provider_template_name,
  provider_template_status, provider_template_has_buttons
) on public.message_templates to authenticated;
grant update (
  name, category, template, language, active, is_default, provider_template_name, provider_template_status,
  provider_template_has_buttons
) on public.message_templates to authenticated;
grant select, insert, update, delete on public.message_templates to service_role;

create function private.tg_message_templates__check()
returns trigger
language plpgsql
volatile
security definer -- the default gives way to the new one, whatever row the caller may change
set search_path = ''
as $$
begin
  perform private.require_template(new.category, new.template);
  new.variables := private.variables_in(new.template);
  if new.is_default and (
    tg_op = 'INSERT' or not old.is_default or (old.category, old.language) <> (new.category, new.language)
  ) then
    -- Two that become it at the same moment come one after the other. Who is it already must not wait here: his row is locked.
    perform pg_advisory_xact_lock(hashtextextended('default_template:' || new.organization_id, 0));
    update public.message_templates t
    set is_default = false
    where t.organization_id = new.organization_id
      and t.category = new.category
      and t.language = new.language
      and t.is_default
      and t.id <> new.id;
  end if;
  return new;
end;
$$;
comment on function private.tg_message_templates__check() is
  'Trigger: error invalid_template for a text that would not read well; its variables are noted; a new default takes the place of the old one.';
create trigger message_templates_100_touch_updated_at
  before update on public.message_templates
  for each row execute function private.tg_touch_updated_at();
create trigger message_templates_500_check
  before insert or update of category, template, language, is_default, variables on public.message_templates
  for each row execute function private.tg_message_templates__check();

create function private.template_for(organization_id uuid, category public.message_category, template_id uuid default null)
returns public.message_templates
language plpgsql
stable
set search_path = ''
as $$
declare
  template public.message_templates;
begin
  select t.* into template
  from public.message_templates t
  join public.organizations o on o.id = t.organization_id
  where t.organization_id = template_for.organization_id
    and t.active
    and (t.id = template_for.template_id or t.category = template_for.category and t.is_default)
  -- The one that was asked for; else the one in the organization's own language.
  order by t.id = template_for.template_id desc nulls last, t.language = replace(o.locale, '-', '_') desc, t.language
  limit 1;
  return template;
end;
$$;
comment on function private.template_for(uuid, public.message_category, uuid) is
  'The organization''s own template: the one named, if it is active, else the default of the category; null when there is none.';
