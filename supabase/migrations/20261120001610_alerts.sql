-- Alerts: what is not well, from when to when, and who was told.
--
-- check_alerts(), once a minute, asks every rule of private.alert_rules what it finds, opens an alert for what is new, and
-- resolves those whose cause is gone. A rule that cannot be checked is an alert itself, and keeps no other from being checked.
-- What comes back within the hour is the same alert: what flaps is one row.
--
-- An organization is told of its own. Its endpoints (alert.opened, alert.resolved): once when it opens or becomes critical,
-- once when it is resolved, not more than once an hour for what flaps. The authorized owner numbers over WhatsApp, through a
-- number that works: only of what is critical, as soon as they can be told, seldomer each time that it comes back; that it is
-- over, only who was told of it, once it has been well for five minutes.

create table public.system_alerts (
  organization_id uuid,
  id uuid not null default private.uuid_v7(),
  kind text not null,
  subject text not null default '',
  severity public.alert_severity not null,
  message text not null,
  value numeric,
  detail jsonb not null default '{}',
  opened_at timestamptz not null default now(),
  last_seen_at timestamptz not null default now(),
  resolved_at timestamptz,
  resolution text,
  reopened_count int not null default 0,
  told_as text,
  told_at timestamptz,
  told_severity public.alert_severity,
  tellings jsonb not null default '[]',
  constraint system_alerts_pkey primary key (id),
  constraint system_alerts_organization_id_fkey foreign key (organization_id) references public.organizations (id),
  constraint system_alerts_kind_fkey foreign key (kind) references private.alert_rules (kind),
  constraint system_alerts_resolution_check
    check (resolution is null or resolved_at is not null and resolution in ('fixed', 'removed', 'changed')),
  constraint system_alerts_detail_is_object_check check (jsonb_typeof(detail) = 'object'),
  constraint system_alerts_tellings_is_array_check check (jsonb_typeof(tellings) = 'array'),
  constraint system_alerts_told_check check (told_as in ('opened', 'resolved') and told_at is not null and told_severity is not null
    or num_nonnulls(told_as, told_at, told_severity) = 0)
);
comment on table public.system_alerts is
  'What was not well, from when to when. Without organization: the platform''s own, seen with the secret key only. Resolved ones are kept ninety days.';
comment on column public.system_alerts.subject is 'Which endpoint or number (its id), view, schedule or log; empty where there is only one.';
comment on column public.system_alerts.value is 'The figure that the rule found when it was last looked at.';
comment on column public.system_alerts.last_seen_at is 'When its cause was last there.';
comment on column public.system_alerts.resolution is
  'Why it is resolved: fixed (it works again), removed (somebody took the endpoint or number away, or switched it off), changed (another alert tells what is wrong now, somebody is connecting it again, or the rule was changed).';
comment on column public.system_alerts.reopened_count is 'How often it came back within an hour of being resolved.';
comment on column public.system_alerts.told_at is 'When the organization''s endpoints were last told that it opened (told_severity: how bad it was then).';
comment on column public.system_alerts.told_as is 'What they were told last: opened, or resolved.';
comment on column public.system_alerts.tellings is
  'What came of telling each owner over WhatsApp, the last twenty; shape alertTelling in types/. What could not be told is tried again, in its place.';
create unique index system_alerts_one_open_idx on public.system_alerts (organization_id, kind, subject) nulls not distinct
  where resolved_at is null;
create index system_alerts_organization_id_idx on public.system_alerts (organization_id, opened_at desc);
comment on index public.system_alerts_organization_id_idx is 'An administrator''s list.';
create index system_alerts_resolved_at_idx on public.system_alerts (resolved_at) where resolved_at is not null;
comment on index public.system_alerts_resolved_at_idx is 'What may come back, what is still to be told, and retention.';

alter table public.system_alerts enable row level security;
alter table public.system_alerts force row level security;
create policy "Admins can read their organization's alerts" on public.system_alerts
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.system_alerts from public, anon, authenticated, service_role;
grant select on public.system_alerts to authenticated, service_role;

-- What is said --------------------------------------------------------------------------------------------------------

create function private.alert_words(alert public.system_alerts, told_as text)
returns text
language plpgsql
stable
set search_path = ''
as $$
declare
  detail constant jsonb := alert.detail;
  zone constant text := private.zone_of(alert.organization_id, null);
  number constant text := concat_ws(' ', 'número de WhatsApp', detail ->> 'name', '(' || (detail ->> 'phone_number') || ')');
  host constant text := 'o sistema que recebe os eventos em ' || coalesce(detail ->> 'host', 'seu endereço');
begin
  if told_as = 'resolved' then
    return case alert.resolution
      when 'fixed' then '✅ Resolvido: ' || case alert.kind
        when 'endpoint_failing' then host || case when detail ->> 'disabled_at' is null then ' voltou a responder.' else ' foi ativado de novo.' end
        when 'instance_disconnected' then 'o ' || number || ' está conectado de novo.'
        when 'sending_stopped' then 'o ' || number || ' pode enviar mensagens de novo.'
        when 'instance_silent' then 'o ' || number || ' voltou a receber mensagens.'
      end
      when 'removed' then 'ℹ️ Encerrado: ' || case alert.kind
        when 'endpoint_failing' then host || ' foi desligado ou removido por um administrador.'
        else 'o ' || number || ' foi desconectado por um administrador.'
      end
    end;
  end if;
  return case alert.severity when 'critical' then '🚨 ' else '⚠️ ' end || case alert.kind
    when 'endpoint_failing' then host || case
      when detail ->> 'disabled_at' is not null then ' foi desativado, porque não aceita mais as entregas. Corrija-o e ative-o de novo.'
      else format(' não está respondendo (%s tentativas sem sucesso).', detail ->> 'consecutive_failures')
    end
    when 'instance_disconnected' then 'o ' || number || case detail ->> 'status'
      when 'banned' then ' foi bloqueado pelo WhatsApp.'
      else ' está desconectado. Conecte-o de novo para voltar a receber e enviar mensagens.'
    end
    when 'sending_stopped' then case
      when detail ->> 'status' = 'banned' then
        'o ' || number || ' foi bloqueado pelo WhatsApp: nenhuma mensagem sai por ele. Veja o motivo no Gerenciador do WhatsApp, da Meta.'
      when detail ->> 'code' = '190' then
        'a autorização do ' || number || ' não vale mais: nenhuma mensagem sai por ele até que um administrador cadastre um novo token de acesso.'
      else 'o WhatsApp está recusando os envios: nenhuma mensagem sai pelo ' || number || ' até que um administrador resolva.'
    end
    when 'instance_silent' then
      format('nenhuma mensagem chega ao %s desde %s. Verifique se ele ainda está conectado.', number,
        to_char((detail ->> 'last_seen_at')::timestamptz at time zone zone, 'DD/MM "às" HH24:MI'))
    else alert.message
  end;
end;
$$;
comment on function private.alert_words(public.system_alerts, text) is
  'What an owner reads on his phone, in one line; null when there is nothing to say to him.';

create function private.alert_event(alert public.system_alerts)
returns jsonb
language plpgsql
immutable
set search_path = ''
as $$
begin
  return jsonb_build_object(
    'id', alert.id,
    'kind', alert.kind,
    'subject', alert.subject,
    'severity', alert.severity,
    'message', alert.message,
    'opened_at', alert.opened_at,
    'resolved_at', alert.resolved_at,
    'resolution', alert.resolution);
end;
$$;
comment on function private.alert_event(public.system_alerts) is 'What an event says of an alert.';

-- Telling an owner ----------------------------------------------------------------------------------------------------

create type private.way_to_owner as (instance_id uuid, contact_id uuid, window_open boolean);

create function private.way_to_owner(owner_number public.authorized_owner_numbers, at timestamptz)
returns private.way_to_owner
language plpgsql
stable
set search_path = ''
as $$
declare
  way private.way_to_owner;
begin
  select coalesce(p.merged_into_id, p.id) into way.contact_id
  from public.contacts p
  where p.organization_id = owner_number.organization_id and p.phone_number = owner_number.phone_number;

  select i.id, i.provider <> 'meta_cloud' or coalesce(w.last_inbound_at > at - interval '23 hours 59 minutes', false)
  into way.instance_id, way.window_open
  from public.whatsapp_instances i
  join private.instance_secrets s on s.organization_id = i.organization_id and s.instance_id = i.id and s.access_token is not null
  left join lateral (
    select max(v.last_inbound_at) as last_inbound_at
    from public.conversations v
    where v.organization_id = i.organization_id
      and v.contact_id = way.contact_id
      and v.instance_id = i.id
      -- With this number: the same contact may have others, which nobody authorized.
      and private.phone_from_provider_id(v.whatsapp_chat_id) = owner_number.phone_number
  ) w on true
  where i.organization_id = owner_number.organization_id
    and i.status = 'connected'
    and i.sending_stopped_at is null
    -- Not through what is broken.
    and not exists (
      select
      from public.system_alerts a
      where a.organization_id = i.organization_id
        and a.kind in ('instance_disconnected', 'sending_stopped', 'instance_silent')
        and a.subject = i.id::text
        and a.resolved_at is null
    )
  order by 2 desc, w.last_inbound_at desc nulls last, i.id
  limit 1;
  return way;
end;
$$;
comment on function private.way_to_owner(public.authorized_owner_numbers, timestamptz) is
  'How an owner is reached: a number of the organization that works (best one that he wrote to in the last 24 hours), and who he is among the contacts, if he is; instance_id is null when there is no such number.';

create function private.obstacle_to_owner(
  owner_number public.authorized_owner_numbers,
  way private.way_to_owner,
  template public.message_templates
)
returns text
language plpgsql
stable
set search_path = ''
as $$
begin
  return case
    when way.instance_id is null then 'no_number'
    when not way.window_open and (template.provider_template_status = 'approved') is not true then 'outside_window'
    else (
      select case when p.status = 'blocked' then 'blocked' when p.opted_out_at is not null then 'opted_out' end
      from public.contacts p
      where p.organization_id = owner_number.organization_id and p.id = way.contact_id
    )
  end;
end;
$$;
comment on function private.obstacle_to_owner(public.authorized_owner_numbers, private.way_to_owner, public.message_templates) is
  'Why an owner cannot be told now, no_number, outside_window, blocked or opted_out; null when he can.';

create function private.conversation_with_owner(
  owner_number public.authorized_owner_numbers,
  instance_id uuid
)
returns public.conversations
language plpgsql
volatile
set search_path = ''
as $$
declare
  of_contact uuid;
  conversation public.conversations;
begin
  insert into public.contacts as p (organization_id, phone_number, name, source)
  values (owner_number.organization_id, owner_number.phone_number, owner_number.label, 'owner')
  on conflict on constraint contacts_organization_id_phone_number_key do nothing;
  select coalesce(p.merged_into_id, p.id) into of_contact
  from public.contacts p
  where p.organization_id = owner_number.organization_id and p.phone_number = owner_number.phone_number;
  -- Nobody is waited for: whoever has him at this moment, we ask again in a minute.
  perform
  from public.contacts p
  where p.organization_id = owner_number.organization_id and p.id = of_contact
  for no key update nowait;
  select v.* into conversation
  from public.conversations v
  where v.organization_id = owner_number.organization_id
    and v.contact_id = of_contact
    and v.instance_id = conversation_with_owner.instance_id
    and private.phone_from_provider_id(v.whatsapp_chat_id) = owner_number.phone_number
  order by v.is_open desc, v.last_inbound_at desc nulls last, v.id desc
  limit 1
  for no key update nowait;
  if not found then
    insert into public.conversations as v (organization_id, contact_id, instance_id, whatsapp_chat_id, status, closed_at)
    values (
      owner_number.organization_id, of_contact, conversation_with_owner.instance_id,
      coalesce(
        (
          select y.value
          from public.contact_identities y
          where y.organization_id = owner_number.organization_id
            and y.contact_id = of_contact
            and y.instance_id = conversation_with_owner.instance_id
            and y.kind = 'wa_id'
            and private.phone_from_provider_id(y.value) = owner_number.phone_number
          order by y.id desc
          limit 1
        ),
        ltrim(owner_number.phone_number, '+')),
      'closed', now()
    )
    returning v.* into conversation;
  end if;
  return conversation;
end;
$$;
comment on function private.conversation_with_owner(public.authorized_owner_numbers, uuid) is
  'Where an owner is written to, at the number that was authorized and at no other of the same contact, locked with its contact; made when there is none, closed, so that no inbox fills with alerts.';

create function private.tell_owner(
  alert public.system_alerts,
  told_as text,
  owner_number public.authorized_owner_numbers,
  at timestamptz
)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  way constant private.way_to_owner := private.way_to_owner(owner_number, at);
  template constant public.message_templates := private.template_for(alert.organization_id, 'alert');
  said jsonb;
  message public.messages;
  result text := private.obstacle_to_owner(owner_number, way, template);
  conversation public.conversations;
begin
  if result is null then
    select jsonb_build_object(
      'nome', left(substring(owner_number.label from '^\s*(\S+)'), 60), 'nome_completo', owner_number.label, 'organizacao', o.name,
      'alerta', private.alert_words(alert, told_as))
    into said
    from public.organizations o
    where o.id = alert.organization_id;
    conversation := private.conversation_with_owner(owner_number, way.instance_id);
    begin
      message := private.say_as_system(
        conversation,
        case when way.window_open then 'text' else 'template' end::public.message_type,
        left(private.render_template(coalesce(template.template, private.default_template('alert')), said), 1024),
        case when not way.window_open then jsonb_build_object(
          'name', template.provider_template_name, 'language', template.language,
          'components', case when cardinality(template.variables) = 0 then '[]'::jsonb else jsonb_build_array(jsonb_build_object(
            'type', 'body', 'parameters', (
              select jsonb_agg(
                -- WhatsApp wants them in one line.
                jsonb_build_object('type', 'text', 'text', regexp_replace(private.render_template('{{' || v.name || '}}', said), '\s+', ' ', 'g'))
                order by v.n)
              from unnest(template.variables) with ordinality v (name, n)
            ))) end) end,
        concat_ws(':', 'alert', alert.id, told_as, alert.severity, alert.reopened_count, owner_number.id));
      result := 'queued';
    exception
      -- The number went at this moment, or the text cannot be said.
      when sqlstate 'BL106' or sqlstate 'BL107' or sqlstate 'BL205' then
        get stacked diagnostics result = pg_exception_detail;
        result := result::jsonb ->> 'error';
    end;
  end if;
  return jsonb_build_object('at', at, 'as', told_as, 'number_id', owner_number.id, 'result', result, 'message_id', message.id);
end;
$$;
comment on function private.tell_owner(public.system_alerts, text, public.authorized_owner_numbers, timestamptz) is
  'Tells one owner over WhatsApp, in the 24 hours after he wrote in words, else by the provider''s template of the category alert; answers what came of it.';

-- Who is to be told what ----------------------------------------------------------------------------------------------

create function private.to_be_told(alert public.system_alerts, at timestamptz)
returns text
language plpgsql
immutable
set search_path = ''
as $$
begin
  return case
    when alert.organization_id is null then null
    when alert.resolved_at is not null then case alert.told_as when 'opened' then 'resolved' end
    when alert.told_as is null or alert.severity > alert.told_severity then 'opened'
    when alert.told_as = 'resolved' and alert.told_at <= at - interval '1 hour' then 'opened'
  end;
end;
$$;
comment on function private.to_be_told(public.system_alerts, timestamptz) is
  'What the organization''s endpoints are to be told of an alert: that it opened (or came back, but not within the hour; or became critical), or that it is resolved; null: nothing new.';

create function private.owner_to_be_told(
  alert public.system_alerts,
  owner_number public.authorized_owner_numbers,
  at timestamptz
)
returns text
language plpgsql
stable
set search_path = ''
as $$
declare
  told_as constant text := case when alert.resolved_at is null then 'opened' else 'resolved' end;
  obstacles constant text[] := array['no_number', 'outside_window', 'blocked', 'opted_out'];
  reached jsonb;
  attempt jsonb;
  times bigint;
  obstacle text;
begin
  -- What reached him last, what was tried last, and how often he was told that it opened.
  select
    (array_agg(t.telling order by t.n desc) filter (where t.telling ->> 'result' = 'queued'))[1],
    (array_agg(t.telling order by t.n desc))[1],
    count(*) filter (where t.telling ->> 'result' = 'queued' and t.telling ->> 'as' = 'opened')
  into reached, attempt, times
  from jsonb_array_elements(alert.tellings) with ordinality t (telling, n)
  where t.telling ->> 'number_id' = owner_number.id::text;

  if told_as = 'opened' and (
    alert.severity < 'critical'
    or reached ->> 'as' = 'opened'
    -- It comes and goes: an hour after he last heard of it, then two, then four …
    or (reached ->> 'at')::timestamptz > at - least(interval '12 hours', interval '1 hour' * 2 ^ (times - 1))
  ) then
    return null;
  elsif told_as = 'resolved' and (
    reached ->> 'as' is distinct from 'opened'
    or alert.resolved_at > at - interval '5 minutes'
    or private.alert_words(alert, 'resolved') is null
  ) then
    return null;
  end if;
  if attempt ->> 'as' = told_as and attempt ->> 'result' <> 'queued' then
    -- It could not be told, and is tried again once that is not so any more.
    obstacle := private.obstacle_to_owner(
      owner_number, private.way_to_owner(owner_number, at), private.template_for(alert.organization_id, 'alert'));
    if obstacle = attempt ->> 'result' or obstacle is null and attempt ->> 'result' <> all (obstacles) then
      return null;
    end if;
  end if;
  return told_as;
end;
$$;
comment on function private.owner_to_be_told(public.system_alerts, public.authorized_owner_numbers, timestamptz) is
  'What an owner is to be told of an alert over WhatsApp now: opened, resolved, or null. Warnings are for the list; what he never heard of is not over for him.';

create function private.owners_to_be_told(alert public.system_alerts, at timestamptz)
returns setof public.authorized_owner_numbers
language plpgsql
stable
set search_path = ''
as $$
begin
  if alert.resolved_at is null and alert.severity = 'critical' or alert.resolved_at is not null and alert.tellings <> '[]' then
    return query
    select n.*
    from (
      select o.*
      from public.authorized_owner_numbers o
      where o.organization_id = alert.organization_id
      order by o.is_primary desc, o.id
      limit 10
    ) n
    where private.owner_to_be_told(alert, n::public.authorized_owner_numbers, at) is not null
    order by n.is_primary desc, n.id;
  end if;
end;
$$;
comment on function private.owners_to_be_told(public.system_alerts, timestamptz) is
  'The owners who are to be told of an alert now, of the first ten.';

create function private.silence_is_ours()
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return exists (
    select
    from public.system_alerts a
    where a.organization_id is null
      and a.kind = 'many_numbers_silent'
      and a.resolved_at is null
      and a.severity = 'critical'
      and (a.detail ->> 'organizations')::bigint > 2
  );
end;
$$;
comment on function private.silence_is_ours() is
  'Whether so many organizations'' numbers are silent that none of them is told to look at its own.';

create function private.tell_alert(alert public.system_alerts, at timestamptz)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  told constant text := private.to_be_told(alert, at);
  owner_number public.authorized_owner_numbers;
  outcome jsonb;
  outcomes jsonb := alert.tellings;
begin
  if told is not null then
    perform private.emit_webhook_events(array[
      row(alert.organization_id, 'alert.' || told, private.alert_event(alert))::private.webhook_event
    ]);
  end if;
  for owner_number in select n.* from private.owners_to_be_told(alert, at) n loop
    outcome := private.tell_owner(
      alert, case when alert.resolved_at is null then 'opened' else 'resolved' end, owner_number, at);
    -- In the place of the attempt that came to nothing.
    select coalesce(jsonb_agg(t.telling order by t.n), '[]') || jsonb_build_array(outcome) into outcomes
    from jsonb_array_elements(outcomes) with ordinality t (telling, n)
    where t.telling ->> 'result' = 'queued'
      or t.telling ->> 'number_id' <> owner_number.id::text
      or t.telling ->> 'as' <> outcome ->> 'as';
  end loop;
  update public.system_alerts a
  set told_as = coalesce(told, a.told_as),
      told_at = case told when 'opened' then at else a.told_at end,
      told_severity = case told when 'opened' then a.severity else a.told_severity end,
      tellings = (
        select coalesce(jsonb_agg(t.telling order by t.n), '[]')
        from jsonb_array_elements(outcomes) with ordinality t (telling, n)
        where t.n > jsonb_array_length(outcomes) - 20
      )
  where a.id = alert.id;
end;
$$;
comment on function private.tell_alert(public.system_alerts, timestamptz) is 'Tells an organization what is new of one of its alerts: its endpoints and its owners.';

create function private.tell_alerts(at timestamptz, batch_size int default 100)
returns private.alert_finding[]
language plpgsql
volatile
set search_path = ''
as $$
declare
  alert public.system_alerts;
  failures private.alert_finding[] := '{}'::private.alert_finding[];
  silence_is_ours constant boolean := private.silence_is_ours();
begin
  for alert in
    select a.*
    from public.system_alerts a
    -- Who has closed is told nothing more.
    join public.organizations o on o.id = a.organization_id and o.is_active
    where (a.resolved_at is null or a.resolved_at > at - interval '1 day')
      and (private.to_be_told(a, at) is not null or exists (select from private.owners_to_be_told(a, at)))
      and not (a.kind = 'instance_silent' and silence_is_ours)
    order by a.severity desc, a.opened_at, a.id
    limit batch_size
  loop
    begin
      perform private.tell_alert(alert, at);
    exception
      -- Somebody has the owner's contact or the endpoint in hand.
      when lock_not_available then null;
      when others then
        failures := failures || row(
          null, 'telling:' || alert.kind, 1, null,
          left(format('An alert of kind %s cannot be told: %s', alert.kind, sqlerrm), 500),
          jsonb_build_object('alert_id', alert.id, 'code', sqlstate))::private.alert_finding;
    end;
  end loop;
  return failures;
end;
$$;
comment on function private.tell_alerts(timestamptz, int) is
  'Tells organizations what is new, each alert for itself; answers what could not be told. What waits for somebody is told a minute later.';

-- Opening and resolving -----------------------------------------------------------------------------------------------

create function private.resolution_of(alert public.system_alerts)
returns text
language plpgsql
stable
set search_path = ''
as $$
declare
  endpoint public.webhook_endpoints;
  instance public.whatsapp_instances;
begin
  if not exists (select from private.alert_rules r where r.kind = alert.kind and r.is_active) then
    return 'changed';
  elsif alert.organization_id is null then
    return 'fixed';
  elsif alert.kind = 'endpoint_failing' then
    select e.* into endpoint
    from public.webhook_endpoints e
    where e.organization_id = alert.organization_id and e.id::text = alert.subject;
    return case
      when not found or not endpoint.is_active then 'removed'
      when endpoint.consecutive_failures = 0 then 'fixed'
      else 'changed'
    end;
  end if;
  select i.* into instance
  from public.whatsapp_instances i
  where i.organization_id = alert.organization_id and i.id::text = alert.subject;
  return case
    when not found
      or instance.status = 'disconnected' and not exists (
        select
        from private.instance_secrets s
        where s.organization_id = instance.organization_id and s.instance_id = instance.id
      ) then 'removed'
    when instance.status = 'connected'
      and instance.sending_stopped_at is null
      and (
        alert.kind <> 'instance_silent' or instance.last_seen_at > (alert.detail ->> 'last_seen_at')::timestamptz
      ) then 'fixed'
    else 'changed'
  end;
end;
$$;
comment on function private.resolution_of(public.system_alerts) is
  'Why an alert''s cause is found no more, see system_alerts.resolution: that nothing is found need not mean that it works.';

create type private.alert_changes as (opened bigint, resolved bigint);

create function private.note_findings(of_kind text, findings private.alert_finding[], at timestamptz)
returns private.alert_changes
language plpgsql
volatile
set search_path = ''
as $$
declare
  -- A null is no key to join by.
  platform constant uuid := '00000000-0000-0000-0000-000000000000'::uuid;
  changes private.alert_changes;
  opened bigint;
begin
  update public.system_alerts a
  set severity = f.severity, message = f.message, value = f.value, detail = coalesce(f.detail, '{}'), last_seen_at = at
  from unnest(findings) f
  where a.resolved_at is null
    and a.kind = of_kind
    and coalesce(a.organization_id, platform) = coalesce(f.organization_id, platform)
    and a.subject = f.subject;

  update public.system_alerts a
  set resolved_at = at, resolution = private.resolution_of(a)
  where a.resolved_at is null
    and a.kind = of_kind
    and not exists (
      select
      from unnest(findings) f
      where coalesce(a.organization_id, platform) = coalesce(f.organization_id, platform) and a.subject = f.subject
    );
  get diagnostics opened = row_count;
  changes.resolved := opened;

  if cardinality(findings) > 0 then
    -- What was resolved less than an hour ago is back.
    update public.system_alerts a
    set resolved_at = null,
        resolution = null,
        reopened_count = a.reopened_count + 1,
        severity = back.severity, message = back.message, value = back.value, detail = coalesce(back.detail, '{}'),
        last_seen_at = at
    from (
      select distinct on (f.organization_id, f.subject) l.id, f.severity, f.message, f.value, f.detail
      from unnest(findings) f
      join public.system_alerts l
        on coalesce(l.organization_id, platform) = coalesce(f.organization_id, platform)
        and l.subject = f.subject
        and l.kind = of_kind
        and l.resolved_at > at - interval '1 hour'
      where not exists (
        select
        from public.system_alerts o
        where o.resolved_at is null
          and o.kind = of_kind
          and coalesce(o.organization_id, platform) = coalesce(f.organization_id, platform)
          and o.subject = f.subject
      )
      order by f.organization_id, f.subject, l.id desc
    ) back
    where a.id = back.id;
    get diagnostics opened = row_count;
    changes.opened := opened;

    insert into public.system_alerts (organization_id, kind, subject, severity, message, value, detail, opened_at, last_seen_at)
    select f.organization_id, of_kind, f.subject, f.severity, f.message, f.value, coalesce(f.detail, '{}'), at, at
    from unnest(findings) f
    on conflict (organization_id, kind, subject) where resolved_at is null do nothing;
    get diagnostics opened = row_count;
    changes.opened := changes.opened + opened;
  end if;
  return changes;
end;
$$;
comment on function private.note_findings(text, private.alert_finding[], timestamptz) is
  'Makes the open alerts of a kind those that were found; answers how many opened (or came back) and how many are resolved.';

create function private.check_alerts(at timestamptz default now())
returns jsonb
language plpgsql
volatile
security definer -- alerts are written here only
set search_path = ''
-- What somebody else holds is looked at a minute later.
set lock_timeout = '2s'
as $$
declare
  rule private.alert_rules;
  findings private.alert_finding[];
  failures private.alert_finding[] := '{}'::private.alert_finding[];
  changes private.alert_changes;
  opened bigint := 0;
  resolved bigint := 0;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('check_alerts', 0)) then
    return jsonb_build_object('skipped', 'already_running');
  end if;
  for rule in select r.* from private.alert_rules r where r.kind <> 'check_failing' order by r.kind loop
    begin
      findings := '{}'::private.alert_finding[];
      if rule.kind = 'instance_silent' then
        perform private.note_heard_hours(at);
      end if;
      if rule.is_active then
        findings := array(select f from private.findings_of(rule, at) f);
      end if;
      changes := private.note_findings(rule.kind, findings, at);
      opened := opened + coalesce(changes.opened, 0);
      resolved := resolved + coalesce(changes.resolved, 0);
    exception when others then
      failures := failures || row(
        null, rule.kind, 1, null, left(format('%s cannot be checked: %s', rule.kind, sqlerrm), 500),
        jsonb_build_object('code', sqlstate))::private.alert_finding;
    end;
  end loop;
  failures := failures || private.tell_alerts(at);

  select r.* into rule from private.alert_rules r where r.kind = 'check_failing';
  changes := private.note_findings(rule.kind, array(
    select row(f.organization_id, f.subject, f.n, private.severity_of(rule, 1), f.message, f.detail)::private.alert_finding
    from (
      select distinct on (x.subject) x.*, count(*) over (partition by x.subject) as n
      from unnest(failures) x
      order by x.subject
    ) f
    where rule.is_active and private.severity_of(rule, 1) is not null
  ), at);
  return jsonb_build_object(
    'opened', opened + coalesce(changes.opened, 0),
    'resolved', resolved + coalesce(changes.resolved, 0),
    'open', (select count(*) from public.system_alerts a where a.resolved_at is null));
end;
$$;
comment on function private.check_alerts(timestamptz) is 'See public.check_alerts(). at: the moment that it is taken to be.';
grant execute on function private.check_alerts(timestamptz) to service_role;

create function public.check_alerts()
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.check_alerts();
end;
$$;
comment on function public.check_alerts() is
  'What the clock does once a minute: opens alerts for what is not well, resolves those whose cause is gone, tells organizations of theirs; {opened, resolved, open}, or {skipped: already_running}. Secret key only.';
grant execute on function public.check_alerts() to service_role;

create function private.delete_old_alerts()
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  deleted bigint;
begin
  delete from public.system_alerts a where a.resolved_at < now() - interval '90 days';
  get diagnostics deleted = row_count;
  delete from private.heard_hours h
  using public.whatsapp_instances i
  where i.organization_id = h.organization_id and i.id = h.instance_id and h.hour < i.last_seen_at - interval '35 days';
  return deleted;
end;
$$;
comment on function private.delete_old_alerts() is
  'Deletes alerts ninety days after they were resolved (returns how many), and the hours in which numbers were heard when they tell nothing any more.';
