-- Audit: who changed what, from where; tamper-evident, and erasable where the law wants it.
--
-- What may never change (audit_logs) lies apart from what may have to go (audit_log_values: the values, the address): a log row
-- keeps only the salted digest of its values. Writers insert and nothing else; a job chains what they wrote into audit_seals
-- afterwards, because a chain in the writers' own transactions makes them wait for each other (docs/performance.md). It seals
-- what began before the oldest transaction that still runs, so that none that commits late is missed.

create type public.audit_operation as enum ('INSERT', 'UPDATE', 'DELETE', 'EVENT');

create table private.epochs (
  epoch int not null generated always as identity,
  reason text not null,
  begun_at timestamptz not null default now(),
  constraint epochs_pkey primary key (epoch)
);
comment on table private.epochs is
  'Transaction numbers order what was written, in one database. One that was restored from a dump counts anew: private.begin_epoch() says so.';
alter table private.epochs enable row level security;
alter table private.epochs force row level security;
revoke all on private.epochs from public, anon, authenticated, service_role;
insert into private.epochs (reason) values ('the first');

create function private.epoch()
returns int
language plpgsql
stable
security definer -- "private" is read by its owner
set search_path = ''
as $$
begin
  return (select max(e.epoch) from private.epochs e);
end;
$$;
comment on function private.epoch() is 'How often this database has begun to count its transactions anew.';

create function private.begin_epoch(reason text)
returns int
language plpgsql
volatile
set search_path = ''
as $$
declare
  begun int;
begin
  -- Whoever has written in the old epoch has committed by then; who writes next does so in the new one.
  lock table public.audit_logs in share row exclusive mode;
  insert into private.epochs (reason) values (begin_epoch.reason) returning epoch into begun;
  return begun;
end;
$$;
comment on function private.begin_epoch(text) is
  'After a restore from a dump: what is written from now on comes after all that was.';

create table public.audit_logs (
  organization_id uuid not null,
  id uuid not null default private.uuid_v7(),
  epoch int not null default private.epoch(),
  transaction_id xid8 not null default pg_current_xact_id(),
  user_id uuid,
  actor_role text not null,
  operation public.audit_operation not null,
  action text not null,
  table_name text,
  record_id uuid,
  request_id text,
  details jsonb not null default '{}',
  values_digest bytea not null,
  origin_digest bytea not null,
  created_at timestamptz not null default now(),
  constraint audit_logs_pkey primary key (organization_id, id, created_at),
  constraint audit_logs_action_length_check check (length(action) between 1 and 100),
  constraint audit_logs_details_is_object_check check (jsonb_typeof(details) = 'object')
) partition by range (created_at);
comment on table public.audit_logs is
  'Who changed what. Append-only, by month; names no person but by id. No foreign keys: it outlives what it speaks of, a purged organization too.';
comment on column public.audit_logs.transaction_id is 'Orders the log: by (epoch, transaction_id, id).';
comment on column public.audit_logs.user_id is 'auth.uid() of who acted; null: the platform, or a job.';
comment on column public.audit_logs.actor_role is 'Their role then: viewer … owner, none (no member), platform_admin, service_role, anon; system: the database itself.';
comment on column public.audit_logs.action is 'bookings.update, login, contact.exported, …';
comment on column public.audit_logs.details is 'Of an event: what there is to say without naming a person. Of a change: {columns: [names]}.';
comment on column public.audit_logs.values_digest is 'SHA-256 of the values in audit_log_values, its salt included.';
comment on column public.audit_logs.origin_digest is 'SHA-256 of address and user agent there, its salt included.';
create index audit_logs_created_at_idx on public.audit_logs (organization_id, created_at desc);
comment on index public.audit_logs_created_at_idx is 'The trail, newest first; retention.';
create index audit_logs_record_id_idx on public.audit_logs (organization_id, record_id, created_at desc) where record_id is not null;
comment on index public.audit_logs_record_id_idx is 'The history of one row.';
create index audit_logs_transaction_id_idx on public.audit_logs (epoch, transaction_id);
comment on index public.audit_logs_transaction_id_idx is 'What is not sealed yet.';

alter table public.audit_logs enable row level security;
alter table public.audit_logs force row level security;
create policy "Admins can read their organization's audit log" on public.audit_logs
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.audit_logs from public, anon, authenticated, service_role;
grant select on public.audit_logs to authenticated, service_role;

create table partitions.audit_logs_default partition of public.audit_logs default;
comment on table partitions.audit_logs_default is 'Must stay empty: catches what no month took, so that nothing is lost.';
alter table partitions.audit_logs_default enable row level security;
alter table partitions.audit_logs_default force row level security;
revoke all on partitions.audit_logs_default from public, anon, authenticated, service_role;

create table public.audit_log_values (
  organization_id uuid not null,
  audit_log_id uuid not null,
  contact_id uuid,
  old_values jsonb,
  new_values jsonb,
  ip_address inet,
  user_agent text,
  salt uuid not null default gen_random_uuid(),
  created_at timestamptz not null default now(),
  constraint audit_log_values_pkey primary key (organization_id, audit_log_id, created_at),
  constraint audit_log_values_old_values_is_object_check check (jsonb_typeof(old_values) = 'object'),
  constraint audit_log_values_new_values_is_object_check check (jsonb_typeof(new_values) = 'object')
) partition by range (created_at);
comment on table public.audit_log_values is
  'What a change of audit_logs was, changed columns only, and where it came from. Deleted or made anonymous by erasure and retention; the log itself stays.';
comment on column public.audit_log_values.contact_id is 'Whom the row is about: erasing a contact deletes his values.';
comment on column public.audit_log_values.ip_address is 'The last octets go after ninety days.';
comment on column public.audit_log_values.salt is 'Makes the digest say nothing about values that are gone.';
create index audit_log_values_contact_id_idx on public.audit_log_values (organization_id, contact_id) where contact_id is not null;
comment on index public.audit_log_values_contact_id_idx is 'What erasure deletes.';
create index audit_log_values_address_idx on public.audit_log_values (organization_id, created_at)
  where masklen(ip_address) = case family(ip_address) when 4 then 32 else 128 end;
comment on index public.audit_log_values_address_idx is 'Whose address is not anonymous yet.';

alter table public.audit_log_values enable row level security;
alter table public.audit_log_values force row level security;
create policy "Admins can read their organization's audit values" on public.audit_log_values
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.audit_log_values from public, anon, authenticated, service_role;
grant select on public.audit_log_values to authenticated, service_role;

create table partitions.audit_log_values_default partition of public.audit_log_values default;
comment on table partitions.audit_log_values_default is 'Must stay empty: catches what no month took, so that nothing is lost.';
alter table partitions.audit_log_values_default enable row level security;
alter table partitions.audit_log_values_default force row level security;
revoke all on partitions.audit_log_values_default from public, anon, authenticated, service_role;

select private.maintain_partitions();

create table public.audit_seals (
  organization_id uuid not null,
  number bigint not null,
  epoch int not null,
  from_transaction_id xid8 not null,
  to_transaction_id xid8 not null,
  row_count bigint not null,
  last_created_at timestamptz not null,
  rows_hash bytea not null,
  previous_hash bytea not null,
  hash bytea not null,
  created_at timestamptz not null default now(),
  constraint audit_seals_pkey primary key (organization_id, number)
);
comment on table public.audit_seals is
  'A chain over each organization''s audit log: every seal holds the hash of its rows and of the seal before it. Keep the newest hash elsewhere, and nobody can rewrite what came before it.';
comment on column public.audit_seals.from_transaction_id is 'The rows of this epoch from here (inclusive) …';
comment on column public.audit_seals.to_transaction_id is '… to here (exclusive).';
comment on column public.audit_seals.last_created_at is 'Of its newest row: once that is past its retention, only the chain can be verified.';
comment on column public.audit_seals.rows_hash is 'SHA-256 over the SHA-256 of each row, by (transaction_id, id).';
comment on column public.audit_seals.hash is 'SHA-256 of number, rows_hash, row_count, bounds and previous_hash.';

alter table public.audit_seals enable row level security;
alter table public.audit_seals force row level security;
create policy "Admins can read their organization's audit seals" on public.audit_seals
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.audit_seals from public, anon, authenticated, service_role;
grant select on public.audit_seals to authenticated, service_role;

create table private.audit_sealing (
  is_the_one boolean not null default true,
  epoch int not null,
  transaction_id xid8 not null,
  sealed_at timestamptz not null default now(),
  constraint audit_sealing_pkey primary key (is_the_one),
  constraint audit_sealing_is_one_row_check check (is_the_one)
);
comment on table private.audit_sealing is 'How far the log is sealed, and when: everything before this transaction.';
alter table private.audit_sealing enable row level security;
alter table private.audit_sealing force row level security;
revoke all on private.audit_sealing from public, anon, authenticated, service_role;
insert into private.audit_sealing (epoch, transaction_id) values (1, '0');

create view public.audit_trail with (security_invoker = true) as
select
  l.organization_id, l.id, l.created_at, l.user_id, l.actor_role, l.operation, l.action, l.table_name, l.record_id, l.request_id,
  l.details, v.old_values, v.new_values, v.ip_address, v.user_agent
from public.audit_logs l
left join public.audit_log_values v
  on v.organization_id = l.organization_id and v.audit_log_id = l.id and v.created_at = l.created_at;
comment on view public.audit_trail is
  'The audit log with what is left of its values, newest first by created_at; the history of a row by table_name and record_id. Administrators.';
revoke all on public.audit_trail from public, anon, authenticated, service_role;
grant select on public.audit_trail to authenticated, service_role;

create function private.keep_epoch()
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  sealing private.audit_sealing;
begin
  select s.* into sealing from private.audit_sealing s;
  -- Nothing is sealed that still runs. Who finds himself before the seals lives in a database that was restored from a dump, and
  -- nobody has said so.
  if pg_current_xact_id() < sealing.transaction_id and private.epoch() = sealing.epoch then
    -- One does it for all who find out at the same time.
    perform pg_advisory_xact_lock(hashtextextended('audit_epoch', 0));
    if private.epoch() = sealing.epoch then
      perform private.begin_epoch('transactions count from the start again');
    end if;
  end if;
end;
$$;
comment on function private.keep_epoch() is 'Begins an epoch if this database counts its transactions anew; asked before each write.';

-- Append-only -----------------------------------------------------------------------------------------------------------

create function private.tg_audit_logs__refuse()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  -- Retention deletes what is past it; nothing else deletes, and nothing changes.
  if tg_op = 'DELETE' and old.created_at < now() - private.retention('audit_logs', old.organization_id) then
    return old;
  end if;
  perform private.raise_error('BL901', 'audit_is_append_only', 'The audit log is never changed');
end;
$$;
comment on function private.tg_audit_logs__refuse() is 'Trigger: error audit_is_append_only, but for retention.';
create trigger audit_logs_500_refuse
  before update or delete on public.audit_logs
  for each row execute function private.tg_audit_logs__refuse();
create trigger audit_logs_500_refuse_truncate
  before truncate on public.audit_logs
  for each statement execute function private.tg_audit_logs__refuse();

create function private.is_anonymous(ip_address inet)
returns boolean
language sql
immutable
set search_path = ''
as $$
  select coalesce(masklen(ip_address) < case family(ip_address) when 4 then 32 else 128 end, false)
$$;
comment on function private.is_anonymous(inet) is 'Whether an address names no host any more.';

create function private.tg_audit_log_values__refuse()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  -- Erasure and retention delete. Nothing changes but the address, once, to where nobody in particular lives.
  if tg_op = 'UPDATE' and new.ip_address >>= old.ip_address and private.is_anonymous(new.ip_address) then
    old.ip_address := new.ip_address;
    if new is not distinct from old then
      return new;
    end if;
  end if;
  perform private.raise_error('BL901', 'audit_is_append_only', 'What the audit log says is never changed');
end;
$$;
comment on function private.tg_audit_log_values__refuse() is 'Trigger: error audit_is_append_only, but for an address made anonymous.';
create trigger audit_log_values_500_refuse
  before update on public.audit_log_values
  for each row execute function private.tg_audit_log_values__refuse();
create trigger audit_log_values_500_refuse_truncate
  before truncate on public.audit_log_values
  for each statement execute function private.tg_audit_log_values__refuse();

create function private.tg_audit_seals__refuse()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform private.raise_error('BL901', 'audit_is_append_only', 'A seal is never changed');
  return null;
end;
$$;
comment on function private.tg_audit_seals__refuse() is 'Trigger: error audit_is_append_only. Seals are small, and stay.';
create trigger audit_seals_500_refuse
  before update or delete on public.audit_seals
  for each row execute function private.tg_audit_seals__refuse();
create trigger audit_seals_500_refuse_truncate
  before truncate on public.audit_seals
  for each statement execute function private.tg_audit_seals__refuse();

-- Writing ---------------------------------------------------------------------------------------------------------------

create table private.function_keys (
  is_the_one boolean not null default true,
  key text not null default replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''),
  constraint function_keys_pkey primary key (is_the_one),
  constraint function_keys_is_one_row_check check (is_the_one)
);
comment on table private.function_keys is
  'By what the database knows our edge functions when they act for a user: only they may say whence he calls.';
alter table private.function_keys enable row level security;
alter table private.function_keys force row level security;
revoke all on private.function_keys from public, anon, authenticated, service_role;
insert into private.function_keys default values;

create function private.get_function_key()
returns text
language plpgsql
stable
security definer -- the key is in "private"
set search_path = ''
as $$
begin
  return (select k.key from private.function_keys k);
end;
$$;
comment on function private.get_function_key() is 'See public.get_function_key().';
grant execute on function private.get_function_key() to service_role;

create function public.get_function_key()
returns text
language plpgsql
stable
set search_path = ''
as $$
begin
  return private.get_function_key();
end;
$$;
comment on function public.get_function_key() is
  'What edge functions send as x-balcao-function-key when they call for a user, with x-balcao-address, x-balcao-user-agent and x-balcao-request-id. Secret key only.';
grant execute on function public.get_function_key() to service_role;

create function private.request_headers()
returns jsonb
language plpgsql
stable
security definer -- the functions' key is in "private"
set search_path = ''
as $$
declare
  headers jsonb := '{}'::jsonb;
begin
  begin
    if current_setting('request.headers', true) like '{%' then
      headers := current_setting('request.headers', true)::jsonb;
    end if;
  exception when invalid_text_representation then
    -- Nobody's headers.
    null;
  end;
  -- Digests, so that how long it takes tells nothing of the key.
  if headers ? 'x-balcao-function-key' and sha256(convert_to(headers ->> 'x-balcao-function-key', 'UTF8'))
    = (select sha256(convert_to(k.key, 'UTF8')) from private.function_keys k) then
    return headers || jsonb_build_object(
      'cf-connecting-ip', headers -> 'x-balcao-address', 'user-agent', headers -> 'x-balcao-user-agent',
      'sb-request-id', headers -> 'x-balcao-request-id');
  end if;
  return headers;
end;
$$;
comment on function private.request_headers() is
  'The headers of the API request that this transaction serves, by small letters; empty outside of one. Through an edge function: what it says of its caller.';

create function private.request_header(name text)
returns text
language plpgsql
stable
set search_path = ''
as $$
begin
  return private.request_headers() ->> name;
end;
$$;
comment on function private.request_header(text) is 'A header of the API request that this transaction serves; null outside of one.';

create function private.request_ip(headers jsonb default private.request_headers())
returns inet
language plpgsql
stable
set search_path = ''
as $$
declare
  -- Cloudflare's own, which a caller cannot write; else the gateway's; else the first of those that passed the request on.
  address constant text := btrim(coalesce(
    headers ->> 'cf-connecting-ip', headers ->> 'x-real-ip', split_part(headers ->> 'x-forwarded-for', ',', 1)));
begin
  return address::inet;
exception when invalid_text_representation then
  return null;
end;
$$;
comment on function private.request_ip(jsonb) is 'Where the API request came from; null if nobody said, or not an address.';

create function private.actor_role(organization_id uuid)
returns text
language plpgsql
stable
security definer -- reads user_roles past its policies
set search_path = ''
as $$
declare
  role constant text := auth.role();
  caller constant uuid := auth.uid();
  member_role text;
begin
  if role = 'authenticated' then
    select m.role into member_role
    from public.user_roles m
    where m.organization_id = actor_role.organization_id and m.user_id = caller and m.is_active;
    return coalesce(member_role, case when private.is_platform_admin() then 'platform_admin' else 'none' end);
  end if;
  return case when role in ('anon', 'service_role') then role else 'system' end;
end;
$$;
comment on function private.actor_role(uuid) is 'As what the caller acts in an organization: see audit_logs.actor_role.';

create function private.audit_values_digest(kept public.audit_log_values)
returns bytea
language plpgsql -- SQL with a SET clause would be parsed and planned in every transaction
immutable
set search_path = ''
as $$
begin
  return sha256(convert_to(jsonb_build_array(kept.old_values, kept.new_values, kept.contact_id, kept.salt)::text, 'UTF8'));
end;
$$;
comment on function private.audit_values_digest(public.audit_log_values) is 'What audit_logs keeps of the values.';

create function private.audit_origin_digest(kept public.audit_log_values)
returns bytea
language plpgsql -- SQL with a SET clause would be parsed and planned in every transaction
immutable
set search_path = ''
as $$
begin
  return sha256(convert_to(jsonb_build_array(kept.ip_address, kept.user_agent, kept.salt)::text, 'UTF8'));
end;
$$;
comment on function private.audit_origin_digest(public.audit_log_values) is 'What audit_logs keeps of where a change came from.';

create function private.append_audit_log(
  organization_id uuid,
  operation public.audit_operation,
  action text,
  table_name text,
  record_id uuid,
  details jsonb,
  old_values jsonb,
  new_values jsonb,
  contact_id uuid
)
returns void
language plpgsql
volatile
security definer -- nobody else may write the log
set search_path = ''
as $$
declare
  headers constant jsonb := private.request_headers();
  kept public.audit_log_values;
begin
  if pg_current_xact_id() < (select s.transaction_id from private.audit_sealing s) then
    perform private.keep_epoch();
  end if;
  kept.organization_id := append_audit_log.organization_id;
  kept.audit_log_id := private.uuid_v7();
  kept.contact_id := append_audit_log.contact_id;
  kept.old_values := append_audit_log.old_values;
  kept.new_values := append_audit_log.new_values;
  kept.ip_address := private.request_ip(headers);
  kept.user_agent := left(headers ->> 'user-agent', 400);
  kept.salt := gen_random_uuid();
  kept.created_at := now();
  insert into public.audit_logs (
    organization_id, id, user_id, actor_role, operation, action, table_name, record_id, request_id, details, values_digest, origin_digest
  )
  values (
    kept.organization_id, kept.audit_log_id, auth.uid(), private.actor_role(kept.organization_id), append_audit_log.operation,
    append_audit_log.action, append_audit_log.table_name, append_audit_log.record_id,
    left(coalesce(headers ->> 'sb-request-id', headers ->> 'x-request-id', headers ->> 'cf-ray'), 200),
    append_audit_log.details, private.audit_values_digest(kept), private.audit_origin_digest(kept));
  insert into public.audit_log_values select kept.*;
end;
$$;
comment on function private.append_audit_log(uuid, public.audit_operation, text, text, uuid, jsonb, jsonb, jsonb, uuid) is
  'The one way into the log: actor, request and address are those of the transaction.';

create function private.tg_audit()
returns trigger
language plpgsql
volatile
security definer -- whoever changes a row need not be allowed to write the log
set search_path = ''
as $$
declare
  -- What moves by itself is no change: the trigger's arguments.
  ignored constant text[] := tg_argv || array['updated_at'];
  before constant jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) end;
  after constant jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) end;
  subject constant jsonb := coalesce(after, before);
  old_values jsonb;
  new_values jsonb;
  details jsonb := '{}'::jsonb;
begin
  -- A purged organization goes as a whole, and the log says so once.
  if current_setting('balcao.purging', true) = coalesce(subject ->> 'organization_id', subject ->> 'id') then
    return null;
  end if;
  if tg_op = 'UPDATE' then
    -- Most updates of a conversation end here.
    if after - ignored = before - ignored then
      return null;
    end if;
    select
      jsonb_object_agg(a.key, before -> a.key), jsonb_object_agg(a.key, a.value),
      jsonb_build_object('columns', jsonb_agg(a.key order by a.key collate "C"))
    into old_values, new_values, details
    from jsonb_each(after - ignored) a
    where a.value is distinct from before -> a.key;
  else
    select
      jsonb_object_agg(a.key, a.value) filter (where tg_op = 'DELETE'),
      jsonb_object_agg(a.key, a.value) filter (where tg_op = 'INSERT')
    into old_values, new_values
    from jsonb_each(subject - ignored) a
    where a.value <> 'null';
  end if;
  perform private.append_audit_log(
    coalesce(subject ->> 'organization_id', subject ->> 'id')::uuid,
    tg_op::public.audit_operation,
    tg_table_name || '.' || lower(tg_op),
    tg_table_name,
    coalesce(subject ->> 'id', subject ->> 'user_id', subject ->> 'organization_id')::uuid,
    details,
    old_values,
    new_values,
    case tg_table_name when 'contacts' then subject ->> 'id' else subject ->> 'contact_id' end::uuid);
  return null;
end;
$$;
comment on function private.tg_audit() is 'Trigger: writes a change down. Its arguments are columns that change by themselves, or with others, and are not told.';

do $$
declare
  audited record;
begin
  for audited in
    select *
    from (values
      ('organizations', ''),
      ('organization_settings', ''),
      ('user_roles', ''),
      ('locations', ''),
      ('whatsapp_instances', 'last_seen_at'),
      ('authorized_owner_numbers', ''),
      ('contacts', 'last_interaction_at'),
      ('pets', ''),
      ('services', ''),
      ('professionals', ''),
      ('leads', 'last_interaction_at,is_open'),
      ('bookings', 'is_live,keeps_slot_until'),
      ('flows', ''),
      ('message_templates', ''),
      ('webhook_endpoints', 'consecutive_failures,failing_since'),
      -- Who has control; the rest of a conversation is what was said.
      ('conversations',
        'last_message_at,last_message_preview,last_inbound_at,last_human_message_at,unread_count,metadata,satisfaction_score,is_open')
    ) a (table_name, ignored)
  loop
    execute format(
      'create trigger %I after insert or update or delete on public.%I for each row execute function private.tg_audit(%s)',
      audited.table_name || '_950_audit', audited.table_name,
      (select string_agg(quote_literal(i), ', ') from unnest(string_to_array(audited.ignored, ',')) i));
  end loop;
end;
$$;

create function private.log_audit_event(action text, resource_type text, resource_id uuid, details jsonb, organization_id uuid)
returns void
language plpgsql
volatile
security definer -- nobody else may write the log
set search_path = ''
as $$
begin
  perform private.require_role(organization_id, 'viewer');
  if (action ~ '^[a-z][a-z0-9_.]{0,95}$' and jsonb_typeof(coalesce(details, '{}')) = 'object'
    and length(coalesce(details, '{}')::text) <= 4096 and length(coalesce(resource_type, '')) <= 100) is not true then
    perform private.raise_error('BL902', 'invalid_audit_event', 'This cannot be written to the audit log', '{}',
      'An action of small letters, digits, dots and underscores; details that are an object of at most 4 KiB');
  end if;
  if not exists (select from public.organizations o where o.id = log_audit_event.organization_id) then
    perform private.raise_error('BL100', 'organization_not_found', 'There is no such organization');
  end if;
  -- What triggers write is not to be imitated.
  perform private.append_audit_log(
    organization_id, 'EVENT', 'app.' || log_audit_event.action, resource_type, resource_id, coalesce(details, '{}'), null, null, null);
end;
$$;
comment on function private.log_audit_event(text, text, uuid, jsonb, uuid) is 'See public.log_audit_event().';
grant execute on function private.log_audit_event(text, text, uuid, jsonb, uuid) to authenticated, service_role;

create function public.log_audit_event(
  action text,
  resource_type text default null,
  resource_id uuid default null,
  details jsonb default '{}',
  organization_id uuid default public.user_organization_id()
)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform private.log_audit_event(action, resource_type, resource_id, details, organization_id);
end;
$$;
comment on function public.log_audit_event(text, text, uuid, jsonb, uuid) is
  'Writes to the audit log what no trigger sees: an app''s export, a print, … It is kept as "app.<action>". Name no person in details: it can never be erased. Viewers and up. Errors: not_allowed, organization_not_found, invalid_audit_event.';
grant execute on function public.log_audit_event(text, text, uuid, jsonb, uuid) to authenticated, service_role;

-- Sealing ---------------------------------------------------------------------------------------------------------------

create function private.audit_row_hash(log public.audit_logs)
returns bytea
language plpgsql
stable
set search_path = ''
as $$
begin
  return sha256(convert_to(jsonb_build_array(
    log.organization_id, log.id, log.epoch, log.transaction_id::text, log.user_id, log.actor_role, log.operation, log.action,
    log.table_name, log.record_id, log.request_id, log.details, encode(log.values_digest, 'hex'), encode(log.origin_digest, 'hex'),
    extract(epoch from log.created_at))::text, 'UTF8'));
end;
$$;
comment on function private.audit_row_hash(public.audit_logs) is 'The hash of all that a log row says.';

create function private.audit_seal_hash(seal public.audit_seals)
returns bytea
language plpgsql
stable
set search_path = ''
as $$
begin
  return sha256(convert_to(jsonb_build_array(
    seal.organization_id, seal.number, seal.epoch, seal.from_transaction_id::text, seal.to_transaction_id::text, seal.row_count,
    extract(epoch from seal.last_created_at), encode(seal.rows_hash, 'hex'), encode(seal.previous_hash, 'hex'))::text, 'UTF8'));
end;
$$;
comment on function private.audit_seal_hash(public.audit_seals) is 'The hash of all that a seal says, the hash of the seal before it included.';

create function private.seal_audit_logs()
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  sealing private.audit_sealing;
  current_epoch int;
  horizon xid8;
  sealed bigint := 0;
begin
  -- One at a time: each begins where the other ended.
  select s.* into sealing from private.audit_sealing s for no key update skip locked;
  if not found then
    return 0;
  end if;
  -- Only now: what was so before the lock may be where another one has ended since.
  current_epoch := private.epoch();
  horizon := pg_snapshot_xmin(pg_current_snapshot());
  if current_epoch = sealing.epoch and horizon <= sealing.transaction_id then
    return 0;
  end if;
  -- What an earlier epoch left open ends with it.
  for epoch in sealing.epoch..current_epoch loop
    sealed := sealed + private.seal_audit_epoch(
      epoch, case when epoch = sealing.epoch then sealing.transaction_id else '0' end,
      case when epoch = current_epoch then horizon else '18446744073709551615' end);
  end loop;
  update private.audit_sealing s set epoch = current_epoch, transaction_id = horizon, sealed_at = clock_timestamp();
  return sealed;
end;
$$;
comment on function private.seal_audit_logs() is
  'Chains what was written since the last time, before the oldest transaction that runs; returns how many rows. A job of the clock.';

create function private.seal_audit_epoch(epoch int, from_transaction_id xid8, to_transaction_id xid8)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  fresh record;
  last public.audit_seals;
  seal public.audit_seals;
  sealed bigint := 0;
begin
  for fresh in
    select
      l.organization_id,
      count(*) as row_count,
      max(l.created_at) as last_created_at,
      sha256(string_agg(private.audit_row_hash(l), ''::bytea order by l.transaction_id, l.id)) as rows_hash
    from public.audit_logs l
    where l.epoch = seal_audit_epoch.epoch
      and l.transaction_id >= seal_audit_epoch.from_transaction_id
      and l.transaction_id < seal_audit_epoch.to_transaction_id
    group by l.organization_id
    order by l.organization_id
  loop
    select s.* into last
    from public.audit_seals s
    where s.organization_id = fresh.organization_id
    order by s.number desc
    limit 1;
    seal := null;
    seal.organization_id := fresh.organization_id;
    seal.number := coalesce(last.number, 0) + 1;
    seal.epoch := seal_audit_epoch.epoch;
    -- From where the seal before it ended: nothing can be slipped in between.
    seal.from_transaction_id := case when last.epoch = seal_audit_epoch.epoch then last.to_transaction_id else '0' end;
    seal.to_transaction_id := seal_audit_epoch.to_transaction_id;
    seal.row_count := fresh.row_count;
    seal.last_created_at := fresh.last_created_at;
    seal.rows_hash := fresh.rows_hash;
    seal.previous_hash := coalesce(last.hash, '\x');
    seal.hash := private.audit_seal_hash(seal);
    seal.created_at := now();
    insert into public.audit_seals select seal.*;
    sealed := sealed + fresh.row_count;
  end loop;
  return sealed;
end;
$$;
comment on function private.seal_audit_epoch(int, xid8, xid8) is 'A seal for each organization that wrote between two transactions.';

-- Verifying -------------------------------------------------------------------------------------------------------------

create function private.verify_audit_chain(organization_id uuid)
returns jsonb
language plpgsql
stable
security definer -- reads what its callers may only have verified
set search_path = ''
as $$
declare
  keeps constant interval := private.retention('audit_logs', organization_id);
  answer jsonb;
begin
  perform private.require_role(organization_id, 'admin');
  with seals as materialized (
    select
      s.*, s.hash <> private.audit_seal_hash(s) as is_changed,
      coalesce(lag(s.number) over chain, 0) as last_number, coalesce(lag(s.hash) over chain, '\x') as last_hash,
      coalesce(lag(s.epoch) over chain, 0) as last_epoch, lag(s.to_transaction_id) over chain as last_transaction_id
    from public.audit_seals s
    where s.organization_id = verify_audit_chain.organization_id
    window chain as (order by s.number)
  ), ends as (
    select e.epoch, array_agg(e.number order by e.number) as numbers, array_agg(e.to_transaction_id order by e.number) as transaction_ids
    from seals e
    group by e.epoch
  ), rows as (
    select
      -- The first seal that ends behind it; null: not sealed.
      e.numbers[width_bucket(l.transaction_id, e.transaction_ids) + 1] as number,
      l.transaction_id, l.id,
      private.audit_row_hash(l) as hash,
      v.audit_log_id is not null and (
        l.values_digest <> private.audit_values_digest(v)
        -- An address that was made anonymous has lost its digest's meaning.
        or l.origin_digest <> private.audit_origin_digest(v) and not private.is_anonymous(v.ip_address)
      ) as has_changed_values,
      l.epoch < p.epoch or l.epoch = p.epoch and l.transaction_id < p.transaction_id as is_to_be_sealed
    from public.audit_logs l
    left join public.audit_log_values v
      on v.organization_id = l.organization_id and v.audit_log_id = l.id and v.created_at = l.created_at
    left join ends e on e.epoch = l.epoch
    cross join private.audit_sealing p
    where l.organization_id = verify_audit_chain.organization_id
  ), found as (
    select
      r.number, count(*) as row_count, sha256(string_agg(r.hash, ''::bytea order by r.transaction_id, r.id)) as rows_hash,
      bool_or(r.has_changed_values) as has_changed_values, bool_or(r.is_to_be_sealed) as is_to_be_sealed
    from rows r
    group by r.number
  ), strays as (
    -- Values of no row.
    select (select min(s.number) from seals s where s.last_created_at >= v.created_at) as number, count(*) as row_count
    from public.audit_log_values v
    left join public.audit_logs l
      on l.organization_id = v.organization_id and l.id = v.audit_log_id and l.created_at = v.created_at
    where v.organization_id = verify_audit_chain.organization_id and v.created_at >= now() - keeps and l.id is null
    group by 1
  ), checked as (
    select
      s.number, s.created_at, coalesce(f.row_count, 0) as row_count,
      -- Retention has taken its rows, or is about to; or had taken them before an organization wished to keep them longer.
      s.last_created_at < now() - keeps
        or f.row_count is null and s.last_created_at < now() - private.retention('audit_logs', null) as is_past_retention,
      case
        when s.number <> s.last_number + 1 then 'seal_missing'
        when s.previous_hash <> s.last_hash then 'chain_broken'
        when s.epoch < s.last_epoch
          or s.from_transaction_id <> case when s.epoch = s.last_epoch then s.last_transaction_id else '0' end then 'gap'
        when s.is_changed then 'seal_changed'
      end as broken_chain,
      case
        when coalesce(f.row_count, 0) < s.row_count then 'rows_deleted'
        when f.row_count > s.row_count then 'rows_inserted'
        when f.rows_hash <> s.rows_hash then 'rows_changed'
        when f.has_changed_values then 'values_changed'
        when x.row_count is not null then 'values_inserted'
      end as broken_rows
    from seals s
    left join found f on f.number = s.number
    left join strays x on x.number = s.number
    union all
    -- Behind the last seal: what should have one.
    select
      coalesce((select max(s.number) from seals s), 0) + 1, null, 0, false,
      case when bool_or(f.is_to_be_sealed) then 'seal_missing' end,
      case when exists (select from strays x where x.number is null) then 'values_inserted' end
    from found f
    where f.number is null
  ), broken as (
    select c.number, c.created_at, coalesce(c.broken_chain, c.broken_rows) as reason
    from checked c
    where c.broken_chain is not null or c.broken_rows is not null and not c.is_past_retention
    order by c.number
    limit 1
  )
  select case
    when exists (select from broken) then (
      select jsonb_build_object(
        'is_intact', false,
        'first_broken', jsonb_build_object('number', b.number, 'reason', b.reason, 'sealed_at', b.created_at),
        'seals', (select count(*) from seals s where s.number < b.number),
        'rows', coalesce((select sum(c.row_count) from checked c where c.number < b.number), 0))
      from broken b
    )
    else jsonb_build_object(
      'is_intact', true,
      'seals', (select count(*) from seals),
      'rows', coalesce((select sum(c.row_count) from checked c where not c.is_past_retention), 0),
      'past_retention', (select count(*) from checked c where c.is_past_retention),
      'unsealed', coalesce((select f.row_count from found f where f.number is null), 0),
      'head', (select jsonb_build_object('number', max(s.number), 'hash', encode((array_agg(s.hash order by s.number desc))[1], 'hex')) from seals s))
  end
  into answer;
  return answer;
end;
$$;
comment on function private.verify_audit_chain(uuid) is 'See public.verify_audit_chain().';
grant execute on function private.verify_audit_chain(uuid) to authenticated, service_role;

create function public.verify_audit_chain(organization_id uuid default public.user_organization_id())
returns jsonb
language plpgsql
stable
set search_path = ''
-- PostgREST takes this for the whole call: five years are more than a request usually reads.
set statement_timeout = '2min'
as $$
begin
  return private.verify_audit_chain(organization_id);
end;
$$;
comment on function public.verify_audit_chain(uuid) is
  'Whether the audit log is what was written: {is_intact, seals, rows, past_retention, unsealed, head {number, hash}}, or {is_intact: false, first_broken {number, reason, sealed_at}, seals, rows} with reason seal_missing, chain_broken, gap, seal_changed, rows_deleted, rows_inserted, rows_changed, values_changed or values_inserted. unsealed rows are not verified yet (a minute''s). Keep the head''s hash elsewhere: a chain that was cut at its end, or made anew, shows by that alone. Administrators. Errors: not_allowed.';
grant execute on function public.verify_audit_chain(uuid) to authenticated, service_role;

create function private.verify_audit_chains(hour int default extract(hour from now() at time zone 'UTC')::int)
returns table (organization_id uuid, first_broken jsonb)
language plpgsql
stable
set search_path = ''
as $$
declare
  verdict jsonb;
begin
  for organization_id in
    -- Each once a day, a twenty-fourth of them every hour.
    select s.organization_id
    from public.audit_seals s
    where s.number = 1 and abs(hashtextextended(s.organization_id::text, 0) % 24) = verify_audit_chains.hour
    order by s.organization_id
  loop
    verdict := private.verify_audit_chain(organization_id);
    if not (verdict ->> 'is_intact')::boolean then
      first_broken := verdict -> 'first_broken';
      return next;
    end if;
  end loop;
end;
$$;
comment on function private.verify_audit_chains(int) is
  'Verifies the audit log of every organization whose turn it is at this hour (UTC); returns those that are broken. A job of the clock.';
