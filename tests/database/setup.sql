-- What the stories in this folder share; the runner installs it once, as a superuser, in a database of its own.
-- A tenant comes with an owner, an admin, an attendant, a viewer, and one row of everything.

create schema tests;
grant usage on schema tests to anon, authenticated, service_role, postgres;
alter default privileges in schema tests grant execute on functions to public;

create table tests.tenants (
  name text primary key,
  organization_id uuid not null,
  owner_id uuid not null,
  admin_id uuid not null,
  attendant_id uuid not null,
  viewer_id uuid not null,
  instance_id uuid not null,
  app_key text not null,
  contact_id uuid not null,
  conversation_id uuid not null,
  message_id uuid not null,
  endpoint_id uuid not null,
  service_id uuid not null,
  professional_id uuid not null,
  booking_id uuid not null,
  flow_id uuid not null
);
grant select, insert on tests.tenants to postgres;
grant select on tests.tenants to anon, authenticated, service_role;

create function tests.a_user(email text)
returns uuid
language plpgsql
security definer
as $$
declare
  user_id constant uuid := gen_random_uuid();
begin
  insert into auth.users (id, email) values (user_id, email);
  return user_id;
end;
$$;

-- Who runs the statements from here on.
create function tests.authenticate_as(user_id uuid)
returns void
language plpgsql
as $$
begin
  perform set_config(
    'request.jwt.claims',
    json_build_object(
      'sub', user_id, 'role', 'authenticated', 'email', (select u.email from tests.user_email(user_id) u)
    )::text,
    true);
  perform set_config('role', 'authenticated', true);
end;
$$;

create function tests.user_email(user_id uuid)
returns table (email text)
language sql
security definer
as $$ select u.email::text from auth.users u where u.id = user_id $$;

create function tests.authenticate_as_anon()
returns void
language plpgsql
as $$
begin
  perform set_config('request.jwt.claims', '{"role": "anon"}', true);
  perform set_config('role', 'anon', true);
end;
$$;

create function tests.authenticate_as_service()
returns void
language plpgsql
as $$
begin
  perform set_config('request.jwt.claims', '{"role": "service_role"}', true);
  perform set_config('role', 'service_role', true);
end;
$$;

create function tests.authenticate_as_nobody()
returns void
language plpgsql
as $$
begin
  perform set_config('request.jwt.claims', '', true);
  perform set_config('role', 'postgres', true);
end;
$$;

create function tests.sealed()
returns text
language sql
immutable
as $$ select 'v1.k1.AAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAAAAAA' $$;

create function tests.a_message(
  id text,
  sender text,
  content text default 'Oi',
  at timestamptz default '2026-11-20T12:00:00Z'
)
returns jsonb
language sql
immutable
as $$
  select jsonb_build_object(
    'kind', 'message', 'whatsapp_message_id', id, 'sent_at', at,
    'identities', jsonb_build_array(jsonb_build_object('kind', 'wa_id', 'value', sender)),
    'phone_number', private.phone_from_provider_id(sender), 'profile_name', 'Maria',
    'whatsapp_chat_id', sender, 'message_type', 'text', 'content', content)
$$;

create function tests.a_status(id text, status text, at timestamptz default '2026-11-20T12:00:00Z', extra jsonb default '{}')
returns jsonb
language sql
immutable
as $$
  select jsonb_build_object('kind', 'status', 'whatsapp_message_id', id, 'status', status, 'occurred_at', at) || extra
$$;

-- A verified delivery for a tenant's number.
create function tests.deliver(tenant text, variadic events jsonb[])
returns jsonb
language plpgsql
as $$
declare
  t tests.tenants;
begin
  select * into t from tests.tenants where name = tenant;
  return public.ingest_webhook('meta_cloud', t.app_key, '{}', 'sha256=00', jsonb_build_array(jsonb_build_object(
    'external_id', 'number-of-' || tenant, 'event_type', 'messages', 'payload', '{}'::jsonb, 'unknown', 0,
    'events', to_jsonb(events))));
end;
$$;

create function tests.a_tenant(name text)
returns uuid
language plpgsql
security definer
as $$
declare
  t tests.tenants;
begin
  t.name := name;
  t.organization_id := gen_random_uuid();
  t.owner_id := tests.a_user('owner@' || name || '.example');
  t.admin_id := tests.a_user('admin@' || name || '.example');
  t.attendant_id := tests.a_user('attendant@' || name || '.example');
  t.viewer_id := tests.a_user('viewer@' || name || '.example');
  t.instance_id := gen_random_uuid();
  t.app_key := rpad('app-of-' || name, 16, '-');
  t.contact_id := gen_random_uuid();
  t.conversation_id := gen_random_uuid();
  t.message_id := gen_random_uuid();
  t.endpoint_id := gen_random_uuid();
  t.service_id := gen_random_uuid();
  t.professional_id := gen_random_uuid();
  t.booking_id := gen_random_uuid();
  t.flow_id := gen_random_uuid();

  insert into public.organizations (id, name, slug, vertical) values (t.organization_id, name, name, 'clinic');
  insert into public.organization_settings (organization_id) values (t.organization_id);
  insert into public.user_roles (organization_id, user_id, role)
  values
    (t.organization_id, t.owner_id, 'owner'),
    (t.organization_id, t.admin_id, 'admin'),
    (t.organization_id, t.attendant_id, 'attendant'),
    (t.organization_id, t.viewer_id, 'viewer');
  insert into public.profiles (user_id, first_name)
  select r.user_id, r.role from public.user_roles r where r.organization_id = t.organization_id;
  insert into public.organization_invitations (organization_id, email, role, token_hash)
  values (t.organization_id, 'invited@' || name || '.example', 'viewer', sha256(name::bytea));
  insert into public.locations (organization_id, name, slug) values (t.organization_id, 'Matriz', 'matriz');
  insert into private.meta_apps (app_key, organization_id, app_secret, verify_token)
  values (t.app_key, t.organization_id, tests.sealed(), tests.sealed());
  insert into public.whatsapp_instances (organization_id, id, provider, name, external_id, meta_app_key)
  values (t.organization_id, t.instance_id, 'meta_cloud', 'Recepção', 'number-of-' || name, t.app_key);
  insert into private.instance_secrets (organization_id, instance_id, access_token)
  values (t.organization_id, t.instance_id, tests.sealed());
  insert into public.authorized_owner_numbers (organization_id, phone_number) values (t.organization_id, '+5511900000001');
  insert into public.contacts (organization_id, id, phone_number, name)
  values (t.organization_id, t.contact_id, '+5511987654321', 'Maria');
  -- A contact that nothing refers to, so that DELETE can be tried.
  insert into public.contacts (organization_id, name) values (t.organization_id, 'Ninguém');
  insert into public.contact_identities (organization_id, contact_id, instance_id, kind, value)
  values (t.organization_id, t.contact_id, t.instance_id, 'wa_id', '5511987654321');
  insert into public.conversations (organization_id, id, contact_id, instance_id, whatsapp_chat_id)
  values (t.organization_id, t.conversation_id, t.contact_id, t.instance_id, '5511987654321');
  insert into public.messages
    (organization_id, id, conversation_id, contact_id, instance_id, direction, sender, content, status, whatsapp_message_id)
  values (
    t.organization_id, t.message_id, t.conversation_id, t.contact_id, t.instance_id, 'inbound', 'contact', 'Oi',
    'received', 'first-of-' || name);
  insert into public.webhook_events (organization_id, provider, event_type, payload)
  values (t.organization_id, 'meta_cloud', 'messages', '{}');
  insert into public.message_queue (organization_id, job_type, run_at, is_due)
  values (t.organization_id, 'nothing', 'infinity', false);
  insert into public.webhook_endpoints (organization_id, id, url, event_types, is_active)
  values (t.organization_id, t.endpoint_id, 'https://' || name || '.example/hook', '{message.received}', false);
  insert into private.webhook_endpoint_secrets (organization_id, endpoint_id, secret)
  values (t.organization_id, t.endpoint_id, tests.sealed());
  insert into public.api_keys (organization_id, id, name, role, prefix)
  values (t.organization_id, t.endpoint_id, 'Planilha', 'viewer', 'blk_12345678');
  insert into private.api_key_secrets (organization_id, api_key_id, key_hash)
  values (t.organization_id, t.endpoint_id, sha256(convert_to(name || ' key', 'UTF8')));
  insert into public.webhook_deliveries (organization_id, endpoint_id, event_id, event_type, webhook_url, payload)
  values (t.organization_id, t.endpoint_id, gen_random_uuid(), 'webhook.test', 'https://' || name || '.example/hook', '{}');
  insert into public.api_call_logs (organization_id, service, endpoint, method, response_time_ms, success)
  values (t.organization_id, 'meta_graph', '/messages', 'POST', 100, true);
  insert into public.services (organization_id, id, name, duration_minutes)
  values (t.organization_id, t.service_id, 'Consulta', 30);
  insert into public.professionals (organization_id, id, user_id, name)
  values (t.organization_id, t.professional_id, t.attendant_id, 'Ana');
  insert into public.professional_services (organization_id, professional_id, service_id)
  values (t.organization_id, t.professional_id, t.service_id);
  -- Every day, so that a story finds hours on whatever day it is told.
  insert into public.working_hours (organization_id, professional_id, weekday, starts_at, ends_at)
  select t.organization_id, t.professional_id, weekday, '08:00', '12:00' from generate_series(0, 6) weekday;
  insert into public.time_off (organization_id, professional_id, starts_at, ends_at)
  values (t.organization_id, t.professional_id, '2020-01-01T00:00Z', '2020-01-02T00:00Z');
  -- Two that nothing refers to, so that DELETE can be tried.
  insert into public.services (organization_id, name, duration_minutes) values (t.organization_id, 'Ninguém', 30);
  insert into public.professionals (organization_id, name) values (t.organization_id, 'Ninguém');
  insert into public.pets (organization_id, contact_id, name) values (t.organization_id, t.contact_id, 'Rex');
  insert into public.leads (organization_id, contact_id, professional_id) values (t.organization_id, t.contact_id, t.professional_id);
  insert into public.bookings (organization_id, id, contact_id, service_id, professional_id, start_time, end_time)
  values (
    t.organization_id, t.booking_id, t.contact_id, t.service_id, t.professional_id, '2020-01-06T12:00Z', '2020-01-06T12:30Z');
  insert into public.waiting_list (organization_id, contact_id, service_id) values (t.organization_id, t.contact_id, t.service_id);
  -- Not the default: who writes in a story is not answered, unless the story is about that.
  insert into public.flow_templates (key, name, definition)
  values ('a_template', 'Modelo', '{"etapas": [{"id": "fim", "tipo": "fim", "pergunta": "Até logo!"}]}')
  on conflict do nothing;
  insert into public.flows (organization_id, id, name, definition)
  values (t.organization_id, t.flow_id, 'Atendimento', '{"etapas": [{"id": "fim", "tipo": "fim", "pergunta": "Até logo!"}]}');
  insert into public.flows (organization_id, name, definition)
  values (t.organization_id, 'Ninguém', '{"etapas": [{"id": "fim", "tipo": "fim"}]}');
  insert into public.flow_sessions (
    organization_id, conversation_id, contact_id, flow_id, flow_version, status, expires_at, completed_at
  )
  values (t.organization_id, t.conversation_id, t.contact_id, t.flow_id, 1, 'completed', now(), now());
  insert into public.message_templates (organization_id, name, category, template)
  values (t.organization_id, 'Boas-vindas', 'greeting', 'Oi, {{nome}}!');
  with test as (
    insert into public.ab_tests (organization_id, name, variant_a, variant_b)
    values (t.organization_id, 'Saudação', 'Oi!', 'Olá!')
    returning id
  )
  insert into public.ab_test_assignments (organization_id, ab_test_id, contact_id, variant)
  select t.organization_id, test.id, t.contact_id, 'a' from test;
  insert into public.ai_interactions (organization_id, conversation_id, action_type, prompt, response, model)
  values (t.organization_id, t.conversation_id, 'reply', 'Oi?', 'Olá!', 'a-model');
  insert into public.analytics_events (organization_id, event_name, contact_id) values (t.organization_id, 'page.viewed', t.contact_id);
  insert into public.backup_metadata (organization_id, backup_type) values (t.organization_id, 'manual');
  insert into public.message_archives (organization_id, month, storage_path, row_count, content_sha256, content_bytes)
  values (t.organization_id, '2020-01-01', 'x', 1, 'x', 1);
  insert into public.data_subject_requests (organization_id, kind, requester) values (t.organization_id, 'access', 'Alguém ao telefone');
  insert into public.scheduled_followups (organization_id, contact_id, scheduled_for, status)
  values (t.organization_id, t.contact_id, '2020-01-07T12:00Z', 'cancelled');
  insert into public.notifications (organization_id, contact_id, booking_id, type, scheduled_for, status)
  values (t.organization_id, t.contact_id, t.booking_id, 'reminder', '2020-01-05T12:00Z', 'cancelled');
  with merge as (
    insert into public.contact_merges (organization_id, kept_contact_id, merged_contact_id, undone_at)
    select t.organization_id, t.contact_id, c.id, now()
    from public.contacts c
    where c.organization_id = t.organization_id and c.name = 'Ninguém'
    returning id
  )
  insert into private.contact_merge_changes (organization_id, merge_id, position, is_move, table_name, row_ids, before, after)
  select t.organization_id, merge.id, 1, true, 'public.pets', '{}', '{}', '{}' from merge;
  insert into public.system_alerts (organization_id, kind, subject, severity, message, resolved_at)
  values (t.organization_id, 'endpoint_failing', t.endpoint_id::text, 'warning', 'It failed', '2020-01-01T12:00Z');
  insert into tests.tenants select t.*;
  return t.organization_id;
end;
$$;

-- One column of a tenant by its name, for short statements.
create function tests.the(tenant text, what text)
returns uuid
language sql
stable
security definer
as $$ select (to_jsonb(t) ->> what)::uuid from tests.tenants t where t.name = tenant $$;
