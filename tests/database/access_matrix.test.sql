-- access_matrix.csv says who may do what with which table; every cell is tried on the rows of two tenants.
begin;
-- What this story defines may run as anyone; rolled back with the rest.
alter default privileges grant execute on functions to public;

select tests.a_tenant('clinic');
select tests.a_tenant('petshop');

-- The analytics' rows: of today, and of a visit not long ago.
insert into public.bookings (organization_id, contact_id, service_id, start_time, end_time)
select t.organization_id, t.contact_id, t.service_id, now() - interval '2 days', now() - interval '47 hours' from tests.tenants t;
select private.refresh_analytics_views();
-- A seal of each: none is made within the transaction that writes.
insert into public.audit_seals (organization_id, number, epoch, from_transaction_id, to_transaction_id, row_count, last_created_at, rows_hash, previous_hash, hash)
select t.organization_id, 1, 1, '0', '1', 0, now(), '', '', '' from tests.tenants t;

-- How each table is written to, where :org stands for a tenant. A unique or foreign key that refuses the row refuses
-- it after the permission was given, so it counts as allowed.
create temporary table attempts (table_name text primary key, inserting text, changing text);
insert into attempts values
  ('organizations', $$(id, name, slug, vertical) values (:org, 'x', 'x', 'clinic')$$, 'name = name'),
  ('organization_settings', $$(organization_id) values (:org)$$, 'quiet_hours = quiet_hours'),
  ('user_roles', $$(organization_id, user_id, role) values (:org, gen_random_uuid(), 'viewer')$$, 'role = role'),
  ('profiles', $$(user_id) values (gen_random_uuid())$$, 'first_name = first_name'),
  ('organization_invitations', $$(organization_id, email, role, token_hash) values (:org, 'a@b.example', 'viewer', '\x00')$$, 'role = role'),
  ('locations', $$(organization_id, name, slug) values (:org, 'Filial', 'filial')$$, 'name = name'),
  ('whatsapp_instances', $$(organization_id, provider, name, external_id) values (:org, 'evolution', 'x', 'x')$$, 'name = name'),
  ('authorized_owner_numbers', $$(organization_id, phone_number) values (:org, '+5511900000099')$$, 'label = label'),
  ('contacts', $$(organization_id, name) values (:org, 'x')$$, 'name = name'),
  ('contact_identities', $$(organization_id, contact_id, instance_id, kind, value) values (:org, gen_random_uuid(), gen_random_uuid(), 'wa_id', 'x')$$, 'value = value'),
  ('conversations', $$(organization_id, contact_id, instance_id, whatsapp_chat_id) values (:org, gen_random_uuid(), gen_random_uuid(), 'x')$$, 'metadata = metadata'),
  ('conversation_dashboard', $$(organization_id, id) values (:org, gen_random_uuid())$$, 'unread_count = unread_count'),
  ('messages', $$(organization_id, conversation_id, contact_id, instance_id, direction, sender, status) values (:org, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'inbound', 'contact', 'received')$$, 'content = content'),
  ('webhook_events', $$(organization_id, provider, event_type, payload) values (:org, 'meta_cloud', 'x', '{}')$$, 'processed = processed'),
  ('meta_apps', $$(organization_id, app_key, app_secret, verify_token) values (:org, 'a', 'b', 'c')$$, 'app_key = app_key'),
  ('instance_secrets', $$(organization_id, instance_id) values (:org, gen_random_uuid())$$, 'access_token = access_token'),
  ('parked_message_updates', $$(organization_id, instance_id, whatsapp_message_id, change) values (:org, gen_random_uuid(), 'x', null)$$, 'change = change'),
  ('message_queue', $$(organization_id, job_type) values (:org, 'x')$$, 'priority = priority'),
  ('unanswered_sends', $$(organization_id, message_id, fencing_token) values (:org, gen_random_uuid(), 1)$$, 'called_at = called_at'),
  ('webhook_endpoints', $$(organization_id, url, event_types) values (:org, 'https://x.example', '{webhook.test}')$$, 'url = url'),
  ('api_keys', $$(organization_id, name, role, prefix) values (:org, 'x', 'viewer', 'blk_12345678')$$, 'name = name'),
  ('api_key_secrets', $$(organization_id, api_key_id, key_hash) values (:org, gen_random_uuid(), '\x')$$, 'key_hash = key_hash'),
  ('rate_limit_rules', $$(name, capacity, per_minute, description) values ('x', 1, 1, 'x')$$, 'capacity = capacity'),
  ('rate_limits', $$(name, key, full_at, is_granted) values ('x', 'x', now(), true)$$, 'key = key'),
  ('webhook_endpoint_secrets', $$(organization_id, endpoint_id, secret) values (:org, gen_random_uuid(), 'x')$$, 'secret = secret'),
  ('webhook_deliveries', $$(organization_id, endpoint_id, event_id, event_type, webhook_url, payload) values (:org, gen_random_uuid(), gen_random_uuid(), 'webhook.test', 'x', '{}')$$, 'payload = payload'),
  ('api_call_logs', $$(organization_id, service, endpoint, method, response_time_ms, success) values (:org, 'x', 'x', 'GET', 1, true)$$, 'success = success'),
  ('services', $$(organization_id, name, duration_minutes) values (:org, 'x', 30)$$, 'name = name'),
  ('professionals', $$(organization_id, name) values (:org, 'x')$$, 'bio = bio'),
  ('professional_services', $$(organization_id, professional_id, service_id) values (:org, gen_random_uuid(), gen_random_uuid())$$, 'created_at = created_at'),
  ('working_hours', $$(organization_id, professional_id, weekday, starts_at, ends_at) values (:org, gen_random_uuid(), 1, '08:00', '09:00')$$, 'weekday = weekday'),
  ('time_off', $$(organization_id, starts_at, ends_at) values (:org, now(), now() + interval '1 hour')$$, 'reason = reason'),
  ('pets', $$(organization_id, contact_id, name) values (:org, gen_random_uuid(), 'x')$$, 'name = name'),
  ('leads', $$(organization_id, contact_id) select c.organization_id, c.id from public.contacts c where c.organization_id = :org and c.name = 'Ninguém'$$, 'source = source'),
  ('bookings', $$(organization_id, contact_id, service_id, start_time, end_time) select c.organization_id, c.id, s.id, now(), now() + interval '30 minutes' from public.contacts c join public.services s on s.organization_id = c.organization_id where c.organization_id = :org and c.name = 'Ninguém' and s.name = 'Ninguém'$$, 'notes = notes'),
  ('waiting_list', $$(organization_id, contact_id, service_id) values (:org, gen_random_uuid(), gen_random_uuid())$$, 'notes = notes'),
  ('flow_templates', $$(key, name, definition) values ('x', 'x', '{"etapas": [{"id": "fim", "tipo": "fim"}]}')$$, 'name = name'),
  ('flows', $$(organization_id, name, definition) values (:org, 'x', '{"etapas": [{"id": "fim", "tipo": "fim"}]}')$$, 'name = name'),
  ('flow_versions', $$(organization_id, flow_id, version, definition) values (:org, gen_random_uuid(), 1, '{}')$$, 'definition = definition'),
  ('flow_sessions', $$(organization_id, conversation_id, contact_id, flow_id, flow_version, expires_at) values (:org, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 1, now())$$, 'state = state'),
  ('message_templates', $$(organization_id, name, category, template) values (:org, 'x', 'greeting', 'Oi!')$$, 'name = name'),
  ('ai_interactions', $$(organization_id, action_type, prompt, model) values (:org, 'reply', 'x', 'x')$$, 'success = success'),
  ('analytics_events', $$(organization_id, event_name) values (:org, 'x')$$, 'event_name = event_name'),
  ('analytics_refreshes', $$(view_name, started_at, duration_ms, row_count) values ('x', now(), 1, 1)$$, 'error = error'),
  ('dashboard_metrics', $$(organization_id) values (:org)$$, 'local_date = local_date'),
  ('conversation_analytics', $$(organization_id) values (:org)$$, 'date = date'),
  ('consultant_metrics', $$(organization_id) values (:org)$$, 'name = name'),
  ('service_analytics', $$(organization_id) values (:org)$$, 'service_name = service_name'),
  ('clinic_metrics_daily', $$(organization_id) values (:org)$$, 'date = date'),
  ('daily_lead_stats', $$(organization_id) values (:org)$$, 'date = date'),
  ('ab_tests', $$(organization_id, name, variant_a, variant_b) values (:org, 'x', 'Oi!', 'Olá!')$$, 'name = name'),
  ('ab_test_assignments', $$(organization_id, ab_test_id, contact_id, variant) values (:org, gen_random_uuid(), gen_random_uuid(), 'a')$$, 'converted_at = converted_at'),
  ('scheduled_followups', $$(organization_id, contact_id, scheduled_for) values (:org, gen_random_uuid(), now())$$, 'message = message'),
  ('notifications', $$(organization_id, contact_id, type, scheduled_for) values (:org, gen_random_uuid(), 'other', now())$$, 'message = message'),
  ('backup_metadata', $$(organization_id, backup_type) values (:org, 'manual')$$, 'error = error'),
  ('backup_leases', $$(organization_id, backup_id, expires_at) values (:org, gen_random_uuid(), now())$$, 'token = token'),
  ('backup_chunks', $$(organization_id, backup_id, table_name, number, row_count, content) values (:org, gen_random_uuid(), 'x', 0, 1, '[]')$$, 'content = content'),
  ('restores', $$(organization_id, backup_id, lease_expires_at, manifest) values (:org, gen_random_uuid(), now(), '{}')$$, 'token = token'),
  ('restore_chunks', $$(organization_id, restore_id, table_name, number, content) values (:org, gen_random_uuid(), 'x', 0, '[]')$$, 'content = content'),
  ('data_subject_requests', $$(organization_id, kind, requester) values (:org, 'access', 'x')$$, 'notes = notes'),
  ('erasures', $$(organization_id, contact_id, contact_ids, identity_digests, erased_at) values (:org, gen_random_uuid(), '{}', '{}', now())$$, 'phase = phase'),
  ('erasure_salts', $$(organization_id) values (:org)$$, 'salt = salt'),
  ('audit_logs', $$(organization_id, actor_role, operation, action, values_digest, origin_digest) values (:org, 'x', 'EVENT', 'x', '', '')$$, 'action = action'),
  ('audit_log_values', $$(organization_id, audit_log_id) values (:org, gen_random_uuid())$$, 'user_agent = user_agent'),
  ('audit_seals', $$(organization_id, number, epoch, from_transaction_id, to_transaction_id, row_count, last_created_at, rows_hash, previous_hash, hash) values (:org, 99, 1, '0', '1', 0, now(), '', '', '')$$, 'row_count = row_count'),
  ('audit_trail', $$(organization_id) values (:org)$$, 'action = action'),
  ('audit_sealing', $$(epoch, transaction_id) values (1, '0')$$, 'epoch = epoch'),
  ('epochs', $$(reason) values ('x')$$, 'reason = reason'),
  ('function_keys', $$(key) values ('x')$$, 'key = key'),
  ('platform_admins', $$(user_id, name) values (gen_random_uuid(), 'x')$$, 'name = name'),
  ('retention_periods', $$(kind, days, description) values ('x', 1, 'x')$$, 'days = days'),
  ('message_archives', $$(organization_id, month, storage_path, row_count, content_sha256, content_bytes) values (:org, '2024-01-01', 'x', 1, 'x', 1)$$, 'version = version'),
  ('archived_conversations', $$(organization_id, conversation_id, archive_id, message_count) values (:org, gen_random_uuid(), gen_random_uuid(), 1)$$, 'message_count = message_count'),
  ('archive_lines', $$(organization_id, archive_id, message_id, line) values (:org, gen_random_uuid(), gen_random_uuid(), 'x')$$, 'line = line'),
  ('purges', $$(organization_id, closed_at) values (:org, now())$$, 'counts = counts'),
  ('audit_purges', $$(organization_id, number) values (:org, 1)$$, 'number = number'),
  ('notification_answers', $$(organization_id, message_id, answer) values (:org, gen_random_uuid(), 'opt_out')$$, 'answer = answer'),
  ('lead_usage', $$(organization_id, month, used) values (:org, '2026-01-01', 1)$$, 'used = used'),
  ('contact_merges', $$(organization_id, kept_contact_id, merged_contact_id) values (:org, gen_random_uuid(), gen_random_uuid())$$, 'undone_at = undone_at'),
  ('contact_merge_changes', $$(organization_id, merge_id, position, is_move, table_name, row_ids, before, after) values (:org, gen_random_uuid(), 1, true, 'x', '{}', '{}', '{}')$$, 'table_name = table_name'),
  ('contact_partings', $$(organization_id, contact_id) values (:org, gen_random_uuid())$$, 'created_at = created_at'),
  ('plan_features', $$(plan_type, leads_per_month) values ('free', 1)$$, 'leads_per_month = leads_per_month'),
  ('system_alerts', $$(organization_id, kind, severity, message) values (:org, 'queue_stalled', 'warning', 'x')$$, 'message = message'),
  ('alert_rules', $$(kind, description, unit) values ('x', 'x', 'x')$$, 'warning = warning'),
  ('heard_hours', $$(organization_id, instance_id, hour) values (:org, gen_random_uuid(), now())$$, 'hour = hour'),
  ('schedules', $$(name, description, expression, command) values ('x', 'x', '* * * * *', 'select 1')$$, 'is_active = is_active'),
  ('schedule_runs', $$(name, driver, scheduled_for) values ('x', 'x', now())$$, 'error = error');
grant select on attempts to anon, authenticated, service_role;

create function pg_temp.relation(table_name text)
returns text
language sql
as $$
  select format('%I.%I', n.nspname, c.relname)
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  where c.relname = table_name and n.nspname in ('public', 'private') and c.relkind in ('r', 'p', 'v')
$$;

-- The condition that picks a tenant's rows of a table.
create function pg_temp.rows_of(table_name text, tenant text)
returns text
language sql
as $$
  select case table_name
    when 'organizations' then format('id = %L', tests.the(tenant, 'organization_id'))
    when 'profiles' then format('user_id in (%s)', (
      select string_agg(quote_literal(p.user_id), ', ')
      from tests.tenants t
      cross join lateral (values (t.owner_id), (t.admin_id), (t.attendant_id), (t.viewer_id)) p (user_id)
      where t.name = tenant))
    -- The platform's own: nobody's rows.
    when 'schedules' then 'true'
    when 'schedule_runs' then 'true'
    when 'alert_rules' then 'true'
    when 'plan_features' then 'true'
    when 'rate_limit_rules' then 'true'
    when 'rate_limits' then 'true'
    when 'flow_templates' then 'true'
    when 'analytics_refreshes' then 'true'
    when 'audit_sealing' then 'true'
    when 'epochs' then 'true'
    when 'function_keys' then 'true'
    when 'platform_admins' then 'true'
    when 'retention_periods' then 'true'
    else format('organization_id = %L', tests.the(tenant, 'organization_id'))
  end
$$;

create function pg_temp.become(persona text)
returns void
language plpgsql
as $$
begin
  case persona
    when 'anon' then perform tests.authenticate_as_anon();
    when 'service_role' then perform tests.authenticate_as_service();
    when 'stranger' then perform tests.authenticate_as(gen_random_uuid());
    when 'other_owner' then perform tests.authenticate_as(tests.the('petshop', 'owner_id'));
    else perform tests.authenticate_as(tests.the('clinic', persona || '_id'));
  end case;
end;
$$;

-- Rows that the statement touches, -1 when permission is denied. Nothing stays.
create function pg_temp.touched(statement text)
returns bigint
language plpgsql
as $$
declare
  n bigint;
begin
  execute statement;
  get diagnostics n = row_count;
  raise exception sqlstate 'UNDO0';
exception
  when sqlstate 'UNDO0' then return n;
  when insufficient_privilege then return -1;
  -- A view of several tables.
  when object_not_in_prerequisite_state then return -1;
  when unique_violation or foreign_key_violation or check_violation or not_null_violation then return 1;
end;
$$;

create function pg_temp.seen(table_name text, tenant text)
returns bigint
language plpgsql
as $$
declare
  n bigint;
begin
  execute format('select count(*) from %s where %s', pg_temp.relation(table_name), pg_temp.rows_of(table_name, tenant))
    into n;
  return n;
exception when insufficient_privilege then
  return -1;
end;
$$;

create function pg_temp.verdict(in_clinic bigint, in_petshop bigint, persona text)
returns text
language sql
as $$
  select case
    when in_clinic = -1 then 'denied'
    when in_clinic = 0 and (in_petshop <= 0 or persona = 'other_owner') then 'none'
    when in_clinic > 0 and in_petshop > 0 then 'all'
    when in_clinic = 1 and in_petshop <= 0 then 'one'
    when in_clinic > 0 and in_petshop <= 0 then 'own'
    else 'LEAK'
  end
$$;

create function pg_temp.observed(table_name text, persona text, command text)
returns text
language plpgsql
as $$
declare
  attempt attempts;
  clinic bigint;
  petshop bigint;
begin
  select * into attempt from attempts a where a.table_name = observed.table_name;
  perform pg_temp.become(persona);
  case command
    when 'select' then
      clinic := pg_temp.seen(table_name, 'clinic');
      petshop := pg_temp.seen(table_name, 'petshop');
    when 'insert' then
      clinic := pg_temp.touched(format('insert into %s %s', pg_temp.relation(table_name),
        replace(attempt.inserting, ':org', quote_literal(tests.the('clinic', 'organization_id')) || '::uuid')));
      petshop := pg_temp.touched(format('insert into %s %s', pg_temp.relation(table_name),
        replace(attempt.inserting, ':org', quote_literal(tests.the('petshop', 'organization_id')) || '::uuid')));
    when 'update' then
      clinic := pg_temp.touched(format('update %s set %s where %s', pg_temp.relation(table_name), attempt.changing,
        pg_temp.rows_of(table_name, 'clinic')));
      petshop := pg_temp.touched(format('update %s set %s where %s', pg_temp.relation(table_name), attempt.changing,
        pg_temp.rows_of(table_name, 'petshop')));
    when 'delete' then
      clinic := pg_temp.touched(format('delete from %s where %s', pg_temp.relation(table_name),
        pg_temp.rows_of(table_name, 'clinic') || case when table_name in ('contacts', 'services', 'professionals', 'flows') then ' and name = ''Ninguém''' else '' end));
      petshop := pg_temp.touched(format('delete from %s where %s', pg_temp.relation(table_name),
        pg_temp.rows_of(table_name, 'petshop') || case when table_name in ('contacts', 'services', 'professionals', 'flows') then ' and name = ''Ninguém''' else '' end));
  end case;
  perform tests.authenticate_as_nobody();
  return pg_temp.verdict(clinic, petshop, persona);
end;
$$;

-- A cell of the file and what it may look like: one row is "own" too, and the service key reaches every tenant.
create function pg_temp.agrees(expected text, observed text, persona text)
returns boolean
language sql
as $$
  select case
    when persona = 'service_role' and expected in ('own', 'all') then observed in ('own', 'one', 'all')
    when expected = 'own' then observed in ('own', 'one')
    when expected = 'self' then observed = 'one'
    else observed = expected
  end
$$;

create temporary table cells on commit drop as
select m."table" as table_name, m.persona, c.command, c.expected
from tests.access_matrix m
cross join lateral (values
  ('select', m."select"), ('insert', m."insert"), ('update', m."update"), ('delete', m."delete")
) c (command, expected);

select plan(2 + (select count(*)::int from cells));

select is_empty(
  $$
    select n.nspname || '.' || c.relname || ' for ' || p.persona
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    cross join unnest('{anon,stranger,viewer,attendant,admin,owner,other_owner,service_role}'::text[]) p (persona)
    where n.nspname in ('public', 'private', 'analytics')
      and c.relkind in ('r', 'p', 'v', 'm', 'f')
      and not exists (
        select from tests.access_matrix m where m."table" = c.relname and m.persona = p.persona
      )
  $$,
  'every table is in the access matrix, for every persona');

select is_empty(
  $$ select m."table" from tests.access_matrix m where pg_temp.relation(m."table") is null $$,
  'the access matrix names only tables that exist');

select ok(
  pg_temp.agrees(r.expected, r.observed, r.persona),
  format('%s may %s %s: %s%s', r.persona, r.command, r.table_name, r.expected,
    case when pg_temp.agrees(r.expected, r.observed, r.persona) then '' else ' (observed: ' || r.observed || ')' end))
from (
  select c.*, pg_temp.observed(c.table_name, c.persona, c.command) as observed
  from cells c
) r;

select * from finish();
rollback;
