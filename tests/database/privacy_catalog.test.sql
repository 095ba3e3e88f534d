-- Nothing about a person is forgotten when a table or a column is added: whoever adds one says here whose it is, or in
-- private.personal_data() how it is exported and erased.
begin;
select plan(6);

create temporary table of_nobody (table_name text primary key, reason text not null);
insert into of_nobody values
  ('private.alert_rules', 'The platform''s.'),
  ('private.api_key_secrets', 'Of an organization''s own programs.'),
  ('private.archive_lines', 'On its way into a file, and out of it again: erasures_900_erase_archived.'),
  ('private.archived_conversations', 'Ids: by them the files of an erased person are found, and written anew.'),
  ('private.audit_purges', 'A position.'),
  ('private.audit_sealing', 'A position.'),
  ('private.backup_chunks', 'A backup in the making, gone with it; whom it brings back is erased again (reapply_erasures).'),
  ('private.backup_leases', 'Who is at it.'),
  ('private.epochs', 'Numbers.'),
  ('private.function_keys', 'The platform''s.'),
  ('private.erasure_salts', 'A random number.'),
  ('private.erasures', 'What erasing leaves: digests and ids. The job that ends it empties the rest (erasures_forget_check).'),
  ('private.heard_hours', 'Of a number: hours.'),
  ('private.instance_secrets', 'Of a number; sealed.'),
  ('private.lead_usage', 'Counts.'),
  ('private.meta_apps', 'Of an app; sealed.'),
  ('private.plan_features', 'The platform''s.'),
  ('private.platform_admins', 'The platform''s people.'),
  ('private.purges', 'Counts.'),
  ('private.rate_limit_rules', 'The platform''s.'),
  ('private.rate_limits', 'Addresses of callers, of nobody whom we know; for as long as they are counted.'),
  ('private.restore_chunks', 'A backup on its way in, gone with it.'),
  ('private.restores', 'Counts; numbers, endpoints and jobs of the organization.'),
  ('private.retention_periods', 'The platform''s.'),
  ('private.schedule_runs', 'What the clock did: counts.'),
  ('private.schedules', 'The platform''s.'),
  ('private.webhook_endpoint_secrets', 'Sealed.'),
  ('public.system_alerts', 'Of the platform''s parts; who was told is an owner''s number, by its id.'),
  ('public.ab_tests', 'Texts for everybody.'),
  ('public.analytics_refreshes', 'Of the platform.'),
  ('public.api_keys', 'Of an organization''s own programs.'),
  ('public.audit_logs', 'Append-only by law and design: ids and the names of columns; log_audit_event() says that nobody is to be named.'),
  ('public.audit_seals', 'Hashes.'),
  ('public.authorized_owner_numbers', 'Of the organization''s owners.'),
  ('public.backup_metadata', 'Where a backup lies: sealed, and gone after its time.'),
  ('public.flow_templates', 'The platform''s.'),
  ('public.flow_versions', 'Texts for everybody.'),
  ('public.flows', 'Texts for everybody.'),
  ('public.locations', 'Of the organization.'),
  ('public.message_archives', 'Where a file lies; list_archived_messages() finds those of a person.'),
  ('public.message_templates', 'Texts for everybody.'),
  ('public.organization_invitations', 'Of its members.'),
  ('public.organization_settings', 'Of the organization.'),
  ('public.organizations', 'Of the organization.'),
  ('public.professional_services', 'Of the organization.'),
  ('public.professionals', 'Of its members.'),
  ('public.profiles', 'Of its members.'),
  ('public.services', 'Of the organization.'),
  ('public.time_off', 'Of its members.'),
  ('public.user_roles', 'Of its members.'),
  ('public.webhook_endpoints', 'Of the organization.'),
  ('public.whatsapp_instances', 'The organization''s own numbers.'),
  ('public.working_hours', 'Of its members.'),
  ('analytics.clinic_metrics_daily', 'Counts.'),
  ('analytics.consultant_metrics', 'Counts; names of members.'),
  ('analytics.conversation_analytics', 'Counts.'),
  ('analytics.daily_lead_stats', 'Counts.'),
  ('analytics.dashboard_metrics', 'Counts.'),
  ('analytics.service_analytics', 'Counts; names of services.');

create temporary table of_no_person (table_name text, column_name text, reason text not null, primary key (table_name, column_name));
insert into of_no_person values
  ('private.contact_partings', 'transaction', 'A number.'),
  ('private.notification_answers', 'answer', 'A word of a short list: confirm, cancel, 1 to 5.'),
  ('private.notification_answers', 'outcome', 'A word of a short list.'),
  ('public.ai_interactions', 'action_type', 'What the model was called for: a name in a fixed form.'),
  ('public.ai_interactions', 'model', 'The name of a model.'),
  ('public.analytics_events', 'event_name', 'A name in a fixed form.'),
  ('public.api_call_logs', 'service', 'Whom was called.'),
  ('public.api_call_logs', 'method', 'GET, POST.'),
  ('public.flow_sessions', 'current_step', 'The id of a step of a flow.'),
  ('public.messages', 'error_code', 'A code of the provider''s, or ours.'),
  ('public.notifications', 'reason', 'A word of a short list, or the provider''s code.'),
  ('public.notifications', 'answer', 'A word of a short list: confirm, cancel, 1 to 5.'),
  ('public.scheduled_followups', 'reason', 'A word of a short list.'),
  ('public.webhook_events', 'app_key', 'Of the organization''s app.'),
  ('public.webhook_events', 'event_type', 'The provider''s name of it.'),
  ('public.webhook_events', 'external_id', 'The organization''s own number.'),
  ('public.webhook_events', 'headers', 'The provider''s, without anything of a person.'),
  ('public.webhook_events', 'signature', 'A keyed hash of the whole delivery.'),
  ('public.webhook_events', 'processing_error', 'What the adapter did not understand: a code and a path.');

create temporary view ours as
select c.oid, format('%I.%I', n.nspname, c.relname) as table_name
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'auth', 'storage', 'extensions', 'vault', 'realtime', 'tests', 'supabase_migrations', 'net', 'cron')
  and n.nspname !~ '^pg_(toast_)?temp_'
  and c.relkind in ('r', 'p', 'm')
  and not c.relispartition
  and not exists (select from pg_catalog.pg_depend d where d.objid = c.oid and d.deptype = 'e');

select is_empty(
  $$
    select o.table_name from ours o
    where o.table_name not in (select d.table_name from private.personal_data() d)
      and o.table_name not in (select n.table_name from of_nobody n)
  $$,
  'every table is exported and erased with a person, or it is said why it is of nobody');

select is_empty(
  $$
    select o.table_name
    from ours o
    join of_nobody n using (table_name)
    where o.table_name in (select d.table_name from private.personal_data() d)
      or exists (
        select
        from pg_catalog.pg_attribute a
        where a.attrelid = o.oid and a.attnum > 0 and not a.attisdropped
          and a.attname ~ '(^|_)(contact|conversation|booking|lead|pet|message|session|notification|followup)_id$'
          and o.table_name not in ('private.erasures', 'private.archive_lines', 'private.archived_conversations')
      )
  $$,
  'none of those names a contact, or anything of one');

select is_empty(
  $$
    select d.table_name || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
    from private.personal_data() d
    join pg_catalog.pg_attribute a on a.attrelid = d.table_name::regclass and a.attnum > 0 and not a.attisdropped
    join pg_catalog.pg_type t on t.oid = a.atttypid
    -- What may hold words, a number or a date of birth: anything but ids, times, counts, flags and enums.
    where d.blank is not null
      and t.typtype <> 'e'
      and a.atttypid not in (
        'uuid'::regtype, 'timestamptz'::regtype, 'boolean'::regtype, 'integer'::regtype, 'bigint'::regtype, 'numeric'::regtype,
        'uuid[]'::regtype)
      and not d.blank ? a.attname
      and not (d.table_name, a.attname) in (select n.table_name, n.column_name from of_no_person n)
      -- Dates of what happened or is wanted, by the calendar.
      and not (a.atttypid = 'date'::regtype and a.attname <> 'birth_date')
  $$,
  'every column of these tables that may say something of a person is blanked, or it is said why not');

select is_empty(
  $$
    select d.table_name || '.' || k
    from private.personal_data() d
    cross join lateral jsonb_object_keys(d.blank) k
    where not exists (
      select from pg_catalog.pg_attribute a where a.attrelid = d.table_name::regclass and a.attname = k and not a.attisdropped
    )
    union all
    select n.table_name || '.' || n.column_name
    from of_no_person n
    where not exists (
      select from pg_catalog.pg_attribute a where a.attrelid = n.table_name::regclass and a.attname = n.column_name
    )
  $$,
  'and the lists name only what is there');

-- A new table, and a new column, as somebody will add them.
create table public.prescriptions (organization_id uuid, contact_id uuid, medicine text);
select isnt_empty(
  $$ select from ours o where o.table_name = 'public.prescriptions' and o.table_name not in (select d.table_name from private.personal_data() d) $$,
  'a new table would be found');
alter table public.pets add column chip_number text;
select isnt_empty(
  $$
    select
    from pg_catalog.pg_attribute a
    join private.personal_data() d on d.table_name::regclass = a.attrelid
    where a.attname = 'chip_number' and not d.blank ? a.attname
  $$,
  'so would a new column');

select * from finish();
rollback;
