-- An alert opens when its cause is there, is told once, and resolves when the cause is gone.
begin;
-- What this story defines may run as anyone; rolled back with the rest.
alter default privileges grant execute on functions to public;
select no_plan();

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');
delete from public.system_alerts;
-- The clock stands still in this story, and what else happens on this server is no part of it.
update private.schedules set is_active = false;
update public.whatsapp_instances set status = 'connected', last_seen_at = now();
update private.alert_rules set is_active = false 
  where kind in ('slow_statements', 'long_transactions', 'replication_lag', 'audit_sealing_stalled', 'backup_overdue');
update private.alert_rules set warning = null, critical = null where kind = 'connections';

create function pg_temp.clinic()
returns uuid
language sql
as $$ select tests.the('clinic', 'organization_id') $$;
-- Alerts of a kind: whose, what, how bad, open or resolved.
create function pg_temp.alerts(kind text)
returns text
language sql
as $$
  select coalesce(string_agg(
    concat_ws(' ', o.name, a.severity, case when a.resolved_at is null then 'open' else 'resolved' end, 'x' || nullif(a.reopened_count, 0)),
    ', ' order by a.opened_at, o.name), 'none')
  from public.system_alerts a
  left join public.organizations o on o.id = a.organization_id
  where a.kind = alerts.kind
$$;
-- So many minutes after the story began.
create function pg_temp.check(minutes int)
returns jsonb
language sql
as $$ select private.check_alerts(now() + make_interval(mins => minutes)) $$;
-- What the clinic's endpoint was told, in that order.
create function pg_temp.events()
returns text
language sql
as $$
  select coalesce(string_agg(concat_ws(' ', substring(d.event_type from 7), d.payload #>> '{data,severity}'), ', ' order by d.event_id), 'nothing')
  from public.webhook_deliveries d
  where d.organization_id = pg_temp.clinic() and d.event_type like 'alert.%'
$$;
-- What the clinic's owner was sent.
create function pg_temp.words()
returns text
language sql
as $$
  select coalesce(string_agg(concat_ws(' ', m.message_type, m.content), E'\n' order by m.id), 'nothing')
  from public.messages m
  join public.contacts p on p.organization_id = m.organization_id and p.id = m.contact_id
  where m.organization_id = pg_temp.clinic() and m.sender = 'system' and p.phone_number = '+5511900000001'
$$;
create function pg_temp.telling(kind text)
returns text
language sql
as $$
  select string_agg(concat_ws(' ', t.telling ->> 'as', t.telling ->> 'result'), ', ' order by a.id, t.n)
  from public.system_alerts a
  cross join lateral jsonb_array_elements(a.tellings) with ordinality t (telling, n)
  where a.kind = telling.kind
$$;

-- The platform's ------------------------------------------------------------------------------------------------------
select is(pg_temp.check(0), '{"opened": 0, "resolved": 0, "open": 0}'::jsonb, 'nothing is wrong');
insert into public.message_queue (organization_id, job_type, run_at) values (pg_temp.clinic(), 'nothing', now() - interval '150 seconds');
select is(pg_temp.check(1), '{"opened": 1, "resolved": 0, "open": 1}'::jsonb, 'a worker has stopped: an alert opens');
select is(pg_temp.check(2), '{"opened": 0, "resolved": 0, "open": 1}'::jsonb, 'once');
select is(pg_temp.alerts('queue_stalled'), 'warning open', 'it is the platform''s, a warning at first');
select is(pg_temp.check(5) ->> 'open', '1', 'minutes later');
select is(pg_temp.alerts('queue_stalled'), 'critical open', 'the same one is critical');
select is(
  (select row(a.value, a.message, a.opened_at = now() + interval '1 minute', a.last_seen_at = now() + interval '5 minutes')::text from public.system_alerts a),
  '(450.0,"The oldest due job has waited for 450 s",t,t)', 'with the figure of now, and when it began');
update public.message_queue set run_at = now() + interval '3 minutes' where job_type = 'nothing' and is_due;
select is(pg_temp.check(6), '{"opened": 0, "resolved": 0, "open": 1}'::jsonb, 'better is not well yet');
select is(pg_temp.alerts('queue_stalled'), 'warning open', 'it is a warning again');
delete from public.message_queue where is_due;
select is(pg_temp.check(7), '{"opened": 0, "resolved": 1, "open": 0}'::jsonb, 'the queue is empty: it is resolved');
select is((select a.resolved_at from public.system_alerts a), now() + interval '7 minutes', 'and says when');
insert into public.message_queue (organization_id, job_type, run_at) values (pg_temp.clinic(), 'nothing', now());
select is(pg_temp.check(20) ->> 'opened', '1', 'back within the hour');
select is(pg_temp.alerts('queue_stalled'), 'critical open x1', 'it is the same alert');
delete from public.message_queue where is_due;
select pg_temp.check(21);
insert into public.message_queue (organization_id, job_type, run_at) values (pg_temp.clinic(), 'nothing', now() + interval '82 minutes');
select pg_temp.check(85);
select is(pg_temp.alerts('queue_stalled'), 'critical resolved x1, warning open', 'after more than an hour it is another');
update private.alert_rules set is_active = false where kind = 'queue_stalled';
select is(pg_temp.check(86) ->> 'resolved', '1', 'a rule that is switched off has no alerts');
select is(
  (select string_agg(a.resolution, ', ' order by a.opened_at) from public.system_alerts a), 'fixed, changed',
  'which does not say that anything was mended');
update private.alert_rules set is_active = true where kind = 'queue_stalled';
delete from public.message_queue where is_due;
select is(pg_temp.words(), 'nothing', 'no tenant is told of the platform''s');
select is((select count(*) from public.system_alerts a where a.told_at is not null), 0::bigint, 'nor does anybody pretend it was');

-- A rule that fails ---------------------------------------------------------------------------------------------------
delete from public.system_alerts;
insert into public.message_queue (organization_id, job_type, run_at) values (pg_temp.clinic(), 'nothing', now());
update public.message_queue set status = 'dead', completed_at = now() where job_type = 'nothing' and is_due;
select is(pg_temp.check(2) ->> 'opened', '1', 'a job was given up');
create function pg_temp.broken(kind text)
returns void
language plpgsql
as $$
begin
  execute format(
    'create or replace function private.%I(rule private.alert_rules, at timestamptz) returns setof private.alert_finding
     language plpgsql as $f$ begin perform 1 / 0; end $f$', 'find_' || kind);
end;
$$;
select pg_temp.broken('dead_jobs');
select pg_temp.broken('connections');
update public.whatsapp_instances set sending_stopped_at = now() where id = tests.the('petshop', 'instance_id');
select is(pg_temp.check(3), '{"opened": 3, "resolved": 0, "open": 4}'::jsonb, 'two rules cannot be checked, what comes after them is');
select is(
  (select string_agg(a.subject || ': ' || a.message, E'\n' order by a.subject) from public.system_alerts a where a.kind = 'check_failing'),
  E'connections: connections cannot be checked: division by zero\ndead_jobs: dead_jobs cannot be checked: division by zero', 'which says what is wrong');
select is(pg_temp.alerts('dead_jobs'), 'warning open', 'what was open stays: nobody knows better');
select is(pg_temp.alerts('sending_stopped'), 'petshop critical open', 'the others go on');
create or replace function private.find_connections(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
as $$ begin end $$;
create or replace function private.find_dead_jobs(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
as $$ begin end $$;
select is(pg_temp.check(4), '{"opened": 0, "resolved": 3, "open": 1}'::jsonb, 'when they can be checked again, all of that is resolved');
update public.whatsapp_instances set sending_stopped_at = null where id = tests.the('petshop', 'instance_id');
select pg_temp.check(5);
delete from public.system_alerts;

-- An organization's: its endpoints ------------------------------------------------------------------------------------
-- One that fails, and one that listens; the owner never wrote, and there is no template.
update public.whatsapp_instances set status = 'connected', last_seen_at = now();
update public.webhook_endpoints set is_active = true, consecutive_failures = 3 where id = tests.the('clinic', 'endpoint_id');
insert into public.webhook_endpoints (organization_id, url, event_types) values (pg_temp.clinic(), 'https://ouvinte.example/', '{alert.opened,alert.resolved}');
select is(pg_temp.check(0), '{"opened": 1, "resolved": 0, "open": 1}'::jsonb, 'an endpoint fails');
select is(pg_temp.alerts('endpoint_failing'), 'clinic warning open', 'it is the clinic''s');
select is(
  (
    select d.payload #- '{timestamp}' #- '{data,opened_at}' #- '{data,id}'
    from public.webhook_deliveries d where d.event_type = 'alert.opened'
  ),
  jsonb_build_object('type', 'alert.opened', 'data', jsonb_build_object(
    'organization_id', pg_temp.clinic(), 'kind', 'endpoint_failing', 'subject', tests.the('clinic', 'endpoint_id'), 'severity', 'warning',
    'message', 'The endpoint at clinic.example failed 3 times in a row', 'resolved_at', null, 'resolution', null)),
  'an endpoint that listens is told, and it alone');
select is(pg_temp.telling('endpoint_failing'), null, 'the owner is not: a warning is nothing for his phone');
select is((select count(*) from public.contacts p where p.phone_number = '+5511900000001'), 0::bigint, 'nor is he made a contact for it');
select pg_temp.check(1);
select is(pg_temp.events(), 'opened warning', 'it is told once');
-- As the worker does it after five days, and an administrator undoes it.
create function pg_temp.disabled()
returns void
language sql
as $$
  update public.webhook_endpoints set is_active = false, consecutive_failures = 25, disabled_at = now(), disabled_reason = 'failing'
  where id = tests.the('clinic', 'endpoint_id')
$$;
create function pg_temp.fails(times int)
returns void
language sql
as $$
  update public.webhook_endpoints set is_active = true, consecutive_failures = times, disabled_at = null, disabled_reason = null
  where id = tests.the('clinic', 'endpoint_id')
$$;
select pg_temp.fails(100);
select pg_temp.check(1);
select is(pg_temp.events(), 'opened warning', 'however often it fails');
select pg_temp.disabled();
select pg_temp.check(2);
select is(pg_temp.telling('endpoint_failing'), 'opened outside_window', 'nor can he be of what is critical: outside the 24 hours there is no template');
select is(pg_temp.events(), 'opened warning, opened critical', 'and again when it was disabled');
select pg_temp.fails(5);
select pg_temp.check(3);
select pg_temp.disabled();
select pg_temp.check(4);
select is(pg_temp.events(), 'opened warning, opened critical', 'not each time that it is');
select pg_temp.fails(0);
select pg_temp.check(5);
select is(pg_temp.events(), 'opened warning, opened critical, resolved critical', 'it answers again: told');
select pg_temp.check(6);
-- It flaps: up and down every minute, for two hours from the last telling on.
create function pg_temp.flap(first_minute int, last_minute int)
returns void
language plpgsql
as $$
begin
  for minute in first_minute .. last_minute loop
    if minute % 2 = 1 then
      perform pg_temp.disabled();
    else
      perform pg_temp.fails(0);
    end if;
    perform pg_temp.check(minute);
  end loop;
end;
$$;
select pg_temp.flap(7, 61);
select is(pg_temp.events(), 'opened warning, opened critical, resolved critical', 'an hour of flapping is not told');
select is((select count(*) from public.system_alerts a where a.kind = 'endpoint_failing'), 1::bigint, 'and is one alert');
select pg_temp.flap(62, 121);
select is(
  pg_temp.events(), 'opened warning, opened critical, resolved critical, opened critical, resolved critical',
  'then it is told once more, and that it is resolved');
select pg_temp.fails(0);
select pg_temp.check(130);
select is(pg_temp.telling('endpoint_failing'), 'opened outside_window', 'an owner who cannot be told is noted down once');
delete from public.system_alerts;
delete from public.webhook_deliveries;

-- Owners, over WhatsApp -----------------------------------------------------------------------------------------------
-- The owner wrote to the reception an hour ago; there is a second number, to which he never wrote.
insert into public.whatsapp_instances (organization_id, id, provider, name, external_id, meta_app_key, status, phone_number)
select pg_temp.clinic(), '00000000-0000-4000-8000-000000000002', 'meta_cloud', 'Banho', 'another', i.meta_app_key, 'connected', '+5511900000077'
from public.whatsapp_instances i where i.id = tests.the('clinic', 'instance_id');
insert into private.instance_secrets (organization_id, instance_id, access_token) values (pg_temp.clinic(), '00000000-0000-4000-8000-000000000002', tests.sealed());
select tests.deliver('clinic', tests.a_message('from-the-owner', '5511900000001', 'Bom dia', now() - interval '1 hour'));
update public.conversations v set last_inbound_at = now() - interval '1 hour'
from public.contacts p where p.id = v.contact_id and p.phone_number = '+5511900000001';
create function pg_temp.refused(since timestamptz, instance uuid default tests.the('clinic', 'instance_id'))
returns void
language sql
as $$ update public.whatsapp_instances set sending_stopped_at = since, sending_stopped_code = '190' where id = instance $$;

select pg_temp.fails(4);
select pg_temp.check(0);
select is(pg_temp.words(), 'nothing', 'a warning is for the list and the endpoints');
select pg_temp.disabled();
select pg_temp.check(0);
select is(
  pg_temp.words(),
  'text Aviso do sistema para clinic: 🚨 o sistema que recebe os eventos em clinic.example foi desativado, porque não aceita mais as entregas. Corrija-o e ative-o de novo.',
  'of what is critical he is told in Portuguese, in words');
select is(pg_temp.telling('endpoint_failing'), 'opened queued', 'which is written down');
select is(
  (select row(m.instance_id = tests.the('clinic', 'instance_id'), m.status, q.job_type)::text
    from public.messages m join public.message_queue q on q.payload ->> 'message_id' = m.id::text where m.sender = 'system'),
  '(t,queued,send_message)', 'through the number that he wrote to, by the worker');
select pg_temp.check(1);
select pg_temp.fails(0);
select pg_temp.check(2);
select pg_temp.check(6);
select is(split_part(pg_temp.words(), E'\n', 2), '', 'that it is over may be true for a minute only');
select pg_temp.check(7);
select pg_temp.check(8);
select is(split_part(pg_temp.words(), E'\n', 2),
  'text Aviso do sistema para clinic: ✅ Resolvido: o sistema que recebe os eventos em clinic.example foi ativado de novo.', 'after five he is told');
select is(split_part(pg_temp.words(), E'\n', 3), '', 'each once');
select is((select a.resolution from public.system_alerts a where a.kind = 'endpoint_failing'), 'fixed', 'it works again');

delete from public.messages where sender = 'system';
select pg_temp.refused(now());
select pg_temp.check(10);
select is(pg_temp.words(), 'nothing', 'of a number that is refused he is not told through that number');
select is(pg_temp.telling('sending_stopped'), 'opened outside_window', 'nor through another, to which he never wrote');
select pg_temp.check(11);
select is(pg_temp.telling('sending_stopped'), 'opened outside_window', 'which is written down once, however often it is tried');
select pg_temp.refused(null);
select pg_temp.check(12);
select pg_temp.check(20);
select is(pg_temp.words(), 'nothing', 'what he never heard of is not over for him');

-- Until he can be told: he writes to the other number.
select pg_temp.refused(now());
select pg_temp.check(90);
select is(pg_temp.telling('sending_stopped'), 'opened outside_window, opened outside_window', 'another time');
insert into public.conversations (organization_id, contact_id, instance_id, whatsapp_chat_id, status, closed_at, last_inbound_at)
select v.organization_id, v.contact_id, '00000000-0000-4000-8000-000000000002', v.whatsapp_chat_id, 'closed', now(), now() + interval '91 minutes'
from public.conversations v join public.contacts p on p.id = v.contact_id and p.phone_number = '+5511900000001';
select pg_temp.check(92);
select matches(pg_temp.words(), '^text .*🚨 a autorização do número de WhatsApp Recepção não vale mais: .* novo token de acesso\.$', 'he wrote to the other one: now he can be told');
select is(pg_temp.telling('sending_stopped'), 'opened outside_window, opened queued', 'in the place of the attempt');
select pg_temp.refused(null);
select pg_temp.check(93);
select pg_temp.check(98);
select matches(split_part(pg_temp.words(), E'\n', 2), '^text .*✅ Resolvido: o número de WhatsApp Recepção pode enviar mensagens de novo\.$', 'and that it works again');
update public.conversations set last_inbound_at = null where instance_id = '00000000-0000-4000-8000-000000000002';

-- With a template that Meta has approved, at any time.
delete from public.messages where sender = 'system';
delete from public.system_alerts;
insert into public.message_templates (organization_id, name, category, template, is_default, provider_template_name, provider_template_status)
values (pg_temp.clinic(), 'Aviso', 'alert', 'Atenção, {{nome}}: {{alerta}}', true, 'aviso', 'approved');
update public.authorized_owner_numbers set label = 'Dona Lúcia' where organization_id = pg_temp.clinic();
select pg_temp.refused(now());
select pg_temp.check(100);
select is(pg_temp.words(),
  'template Atenção, Dona: 🚨 a autorização do número de WhatsApp Recepção não vale mais: nenhuma mensagem sai por ele até que um administrador cadastre um novo token de acesso.',
  'the other number sends a template');
select is(
  (select row(m.instance_id, m.payload ->> 'name', m.payload #>> '{components,0,parameters,0,text}', jsonb_array_length(m.payload #> '{components,0,parameters}'), v.status)::text
    from public.messages m join public.conversations v on v.id = m.conversation_id where m.sender = 'system'),
  '(00000000-0000-4000-8000-000000000002,aviso,Dona,2,closed)', 'with its two variables, in a conversation that no inbox shows');
select pg_temp.refused(now(), '00000000-0000-4000-8000-000000000002');
select pg_temp.check(101);
select is(pg_temp.telling('sending_stopped'), 'opened queued, opened no_number', 'when that one is refused as well, nothing is left');
select pg_temp.refused(null), pg_temp.refused(null, '00000000-0000-4000-8000-000000000002');
update public.contacts set opted_out_at = now() where phone_number = '+5511900000001' and organization_id = pg_temp.clinic();
select pg_temp.check(102);
select pg_temp.check(107);
select is(pg_temp.telling('sending_stopped'), 'opened queued, resolved opted_out, opened no_number', 'whoever wants no messages gets none');
update public.contacts set opted_out_at = null where phone_number = '+5511900000001' and organization_id = pg_temp.clinic();
delete from public.messages where sender = 'system';
delete from public.system_alerts;

select throws_ok(
  format($$ insert into public.message_templates (organization_id, name, category, template) values (%L, 'x', 'alert', 'Atenção, {{nome}}!') $$, pg_temp.clinic()),
  'BL701', null, 'a template that does not say what is wrong does not get in');

-- Who closes is told nothing more.
select pg_temp.disabled();
select pg_temp.check(200);
select is(pg_temp.telling('endpoint_failing'), 'opened queued', 'an alert opens,');
update public.organizations set is_active = false where id = pg_temp.clinic();
select pg_temp.check(201);
select is(pg_temp.alerts('endpoint_failing') || ': ' || pg_temp.telling('endpoint_failing'), 'clinic critical resolved: opened queued', 'and is resolved when the clinic closes, without a word');
update public.organizations set is_active = true where id = pg_temp.clinic();
select pg_temp.fails(0);
delete from public.messages where sender = 'system';
delete from public.system_alerts;

-- Each time that it comes back he hears of it later: of a day of half an hour down, half an hour up.
create function pg_temp.halves()
returns void
language plpgsql
as $$
begin
  for minute in 0 .. 24 * 60 by 5 loop
    if minute / 30 % 2 = 0 then
      perform pg_temp.disabled();
    else
      perform pg_temp.fails(0);
    end if;
    perform pg_temp.check(1000 + minute);
  end loop;
end;
$$;
select pg_temp.halves();
select is((select count(*) from public.system_alerts a where a.kind = 'endpoint_failing'), 1::bigint, 'what comes and goes is one alert');
select ok(
  (select count(*) between 6 and 14 from public.messages m where m.sender = 'system'),
  'of which an owner hears seldomer and seldomer: ' || (select count(*) from public.messages m where m.sender = 'system'));
select pg_temp.fails(0);
select pg_temp.check(3000);
delete from public.messages where sender = 'system';
delete from public.system_alerts;

-- Why it is over ------------------------------------------------------------------------------------------------------
create function pg_temp.resolution(kind text)
returns text
language sql
as $$ select string_agg(coalesce(a.resolution, 'open'), ', ' order by a.opened_at) from public.system_alerts a where a.kind = resolution.kind $$;
create function pg_temp.last_words()
returns text
language sql
as $$ select substring(m.content from '[🚨✅ℹ].*') from public.messages m where m.sender = 'system' order by m.id desc limit 1 $$;

select pg_temp.refused(now());
select pg_temp.check(4000);
delete from private.instance_secrets where instance_id = tests.the('clinic', 'instance_id');
update public.whatsapp_instances set status = 'disconnected' where id = tests.the('clinic', 'instance_id');
select pg_temp.check(4001);
select pg_temp.check(4006);
select is(pg_temp.resolution('sending_stopped'), 'removed', 'a number that an administrator took away is not well again');
select matches(pg_temp.last_words(), '^ℹ️ Encerrado: o número de WhatsApp Recepção foi desconectado por um administrador\.$', 'which the owner is told');
select is(
  (select d.payload #>> '{data,resolution}' from public.webhook_deliveries d where d.event_type = 'alert.resolved' order by d.event_id desc limit 1),
  'removed', 'and the endpoints');

insert into private.instance_secrets (organization_id, instance_id, access_token) values (pg_temp.clinic(), tests.the('clinic', 'instance_id'), tests.sealed());
select pg_temp.check(4200);
select is(pg_temp.alerts('instance_disconnected'), 'clinic critical open', 'one that went by itself while it was refused is not forgotten');
update public.whatsapp_instances set status = 'connected' where id = tests.the('clinic', 'instance_id');
select pg_temp.check(4201);
select is(pg_temp.resolution('instance_disconnected'), 'changed', 'connected, but refused still: nothing is well');
select matches(pg_temp.last_words(), '^🚨 a autorização', 'of which the other alert tells');
select pg_temp.refused(null);
select pg_temp.check(4202);
select is(pg_temp.resolution('sending_stopped'), 'removed, fixed', 'a new token mends it');

select pg_temp.disabled();
select pg_temp.check(4400);
update public.webhook_endpoints set disabled_at = null where id = tests.the('clinic', 'endpoint_id');
select pg_temp.check(4401);
select pg_temp.check(4406);
select is(pg_temp.resolution('endpoint_failing'), 'removed', 'an endpoint that is switched off answers nobody');
select matches(pg_temp.last_words(), '^ℹ️ Encerrado: o sistema que recebe os eventos em clinic\.example foi desligado ou removido', 'nor is the owner told that it does');
select pg_temp.fails(3);
select pg_temp.check(4600);
update private.alert_rules set is_active = false where kind = 'endpoint_failing';
select pg_temp.check(4601);
select is(pg_temp.resolution('endpoint_failing'), 'removed, changed', 'nor is what the operator does not look at');
update private.alert_rules set is_active = true where kind = 'endpoint_failing';
select pg_temp.fails(0);

-- A ban has its own words.
update public.whatsapp_instances set status = 'banned', sending_stopped_at = now(), sending_stopped_code = '131031' where id = tests.the('clinic', 'instance_id');
select pg_temp.check(4800);
select matches(pg_temp.last_words(), '^🚨 o número de WhatsApp Recepção foi bloqueado pelo WhatsApp: .* Gerenciador do WhatsApp, da Meta\.$', 'an owner reads that his number is banned');
update public.whatsapp_instances set status = 'connected' where id = tests.the('clinic', 'instance_id');
select pg_temp.refused(null);
select pg_temp.check(4900);

-- To the number that was authorized, and to no other of the same person.
delete from public.messages where sender = 'system';
delete from public.system_alerts;
select tests.deliver('clinic', tests.a_message('from-a-customer', '5511955554444', 'Oi', now()));
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select isnt(
  (public.merge_contacts(
    (select p.id from public.contacts p where p.phone_number = '+5511955554444' and p.organization_id = pg_temp.clinic()),
    (select p.id from public.contacts p where p.phone_number = '+5511900000001' and p.organization_id = pg_temp.clinic()))).id,
  null, 'an administrator merges the owner into a customer');
select tests.authenticate_as_nobody();
update public.conversations set last_inbound_at = now() + interval '5000 minutes' where whatsapp_chat_id = '5511955554444';
select pg_temp.disabled();
select pg_temp.check(5001);
select is(
  (select string_agg(concat_ws(' ', v.whatsapp_chat_id, m.message_type), ', ') from public.messages m join public.conversations v on v.id = m.conversation_id where m.sender = 'system'),
  '5511900000001 template', 'the alert goes to the owner''s number, outside the 24 hours of that number');
select pg_temp.fails(0);
select pg_temp.check(5100);
delete from public.messages where sender = 'system';
delete from public.system_alerts;

-- A number that is silent, and one owner number more.
insert into public.authorized_owner_numbers (organization_id, phone_number, is_primary) values (pg_temp.clinic(), '+5511900000002', true);
insert into private.heard_hours (organization_id, instance_id, hour)
select pg_temp.clinic(), tests.the('clinic', 'instance_id'), date_trunc('hour', now(), 'UTC') - n * interval '1 hour' from generate_series(0, 800) n
on conflict do nothing;
update public.whatsapp_instances set last_seen_at = date_trunc('hour', now(), 'UTC') where id = tests.the('clinic', 'instance_id');
select pg_temp.check(7 * 60);
select is(pg_temp.alerts('instance_silent'), 'none', 'six hours of silence at most');
select pg_temp.check(9 * 60);
select is(pg_temp.alerts('instance_silent'), 'clinic warning open', 'more than seven are an alert');
select is(pg_temp.telling('instance_silent'), null, 'of which nobody is told yet');
select pg_temp.check(12 * 60);
select is(pg_temp.telling('instance_silent'), 'opened queued, opened queued', 'once it is critical both owners are');
select is((select count(distinct m.instance_id) from public.messages m where m.sender = 'system' and m.instance_id = tests.the('clinic', 'instance_id')), 0::bigint, 'not through the silent number');
select ok((select bool_and(length(m.content) < 1024 and m.content !~ '\n') from public.messages m where m.sender = 'system'), 'in one line');
select is((select p.phone_number from public.contacts p where p.organization_id = pg_temp.clinic() and p.source = 'owner'), '+5511900000002', 'the new one became a contact');
update public.whatsapp_instances set last_seen_at = now() + interval '13 hours' where id = tests.the('clinic', 'instance_id');
select pg_temp.check(13 * 60 + 1);
select is(pg_temp.alerts('instance_silent'), 'clinic critical resolved', 'it is heard again');
select pg_temp.check(13 * 60 + 7);
select is(pg_temp.telling('instance_silent'), 'opened queued, opened queued, resolved queued, resolved queued', 'and they are told');
delete from public.system_alerts;
delete from public.messages where sender = 'system';
delete from public.webhook_deliveries;

-- Everybody is silent: it is the platform that hears nothing.
create function pg_temp.known()
returns void
language sql
as $$
  insert into private.heard_hours (organization_id, instance_id, hour)
  select i.organization_id, i.id, date_trunc('hour', now(), 'UTC') - n * interval '1 hour'
  from public.whatsapp_instances i
  cross join generate_series(0, 800) n
  on conflict do nothing;
  update public.whatsapp_instances set last_seen_at = date_trunc('hour', now(), 'UTC')
$$;
select tests.a_tenant('hospital');
update public.whatsapp_instances set status = 'connected';
select pg_temp.known();
select pg_temp.check(12 * 60);
select matches(pg_temp.alerts('instance_silent'), 'clinic critical open', 'each number''s alert opens');
select is(pg_temp.alerts('many_numbers_silent'), 'critical open', 'and one of the platform');
select is(pg_temp.events() || ' ' || pg_temp.words(), 'nothing nothing', 'which keeps the organizations from being told');
update public.whatsapp_instances set last_seen_at = now() + interval '13 hours' where organization_id <> pg_temp.clinic();
select pg_temp.check(13 * 60 + 1);
select is(pg_temp.alerts('many_numbers_silent'), 'critical resolved', 'when only the clinic''s are silent still');
select matches(pg_temp.events(), '^opened critical', 'that is the clinic''s own');
update public.whatsapp_instances set last_seen_at = now() + interval '13 hours';
delete from private.heard_hours;

-- What cannot be told keeps nobody from being told.
update private.alert_rules set is_active = false where kind = 'queue_stalled';
delete from public.system_alerts;
update public.whatsapp_instances set status = 'disconnected' where id in (tests.the('petshop', 'instance_id'), tests.the('clinic', 'instance_id'));
create or replace function private.alert_event(alert public.system_alerts)
returns jsonb
language plpgsql
as $$ begin if alert.organization_id = tests.the('petshop', 'organization_id') then raise exception 'no words'; end if; return '{}'; end $$;
select is(pg_temp.check(8 * 60 + 2), '{"opened": 3, "resolved": 0, "open": 3}'::jsonb, 'two numbers went; of one its tenant cannot be told');
select is(
  (select string_agg(concat_ws(' ', o.name, a.told_as), ', ' order by o.name) from public.system_alerts a join public.organizations o on o.id = a.organization_id),
  'clinic opened, petshop', 'the other is');
select is(pg_temp.alerts('check_failing'), 'warning open', 'and the platform knows');

-- Who reads -----------------------------------------------------------------------------------------------------------
select tests.authenticate_as(tests.the('clinic', 'admin_id'));
select is((select count(*) from public.system_alerts), 1::bigint, 'an administrator sees his organization''s alerts, not the platform''s');
select throws_ok('select public.check_alerts()', '42501', null, 'and cannot have them checked');
select throws_ok('update public.system_alerts set resolved_at = now()', '42501', null, 'nor resolve one');
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
select is((select count(*) from public.system_alerts), 0::bigint, 'an attendant sees none');
select tests.authenticate_as_service();
select is((select count(*) from public.system_alerts), 3::bigint, 'the platform sees all');
select isnt(public.check_alerts() ->> 'open', null, 'and has them checked');
select tests.authenticate_as_nobody();

-- In the end they go.
update public.system_alerts set resolved_at = now() - interval '91 days' where organization_id is null;
select is(private.delete_old_alerts(), 1::bigint, 'ninety days after they were resolved');

select * from finish();
rollback;
