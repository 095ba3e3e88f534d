-- Audit: who changed what, from where; tamper-evident, and erasable where the law wants it.
--
-- What may never change (audit_logs) lies apart from what may have to go (audit_log_values: the values, the address): a log row
-- keeps only the salted digest of its values. Writers insert and nothing else; a job chains what they wrote into audit_seals
-- afterwards, because a chain in the writers' own transactions makes them wait for each other (docs/performance.md). It reads
-- behind the oldest snapshot, so that no transaction that commits late is missed.

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
  insert into private.epochs (reason) values (begin_epoch.reason) returning epoch into begun;
  return begun;
end;
$$;
comment on function private.begin_epoch(text) is
  'After a restore from a dump, before anybody writes: what is written from now on comes after all that was.';

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
  constraint audit_log_values_pkey primary key (organization_id, audit_log_id, created_at)
) partition by range (created_at);
comment on table public.audit_log_values is
  'What a change of audit_logs was, changed columns only, and where it came from. Deleted or made anonymous by erasure and retention; the log itself stays.';
comment on column public.audit_log_values.contact_id is 'Whom the row is about: erasing a contact deletes his values.';
comment on column public.audit_log_values.ip_address is 'The last octets go after ninety days.';
comment on column public.audit_log_values.salt is 'Makes the digest say nothing about values that are gone.';
create index audit_log_values_contact_id_idx on public.audit_log_values (organization_id, contact_id) where contact_id is not null;
comment on index public.audit_log_values_contact_id_idx is 'What erasure deletes.';

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
  constraint audit_sealing_pkey primary key (is_the_one),
  constraint audit_sealing_is_one_row_check check (is_the_one)
);
comment on table private.audit_sealing is 'How far the log is sealed: everything before this transaction.';
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

create function private.tg_audit_seals__refuse()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform private.raise_error('BL901', 'audit_is_append_only', 'A seal is never changed');
end;
$$;
comment on function private.tg_audit_seals__refuse() is 'Trigger: error audit_is_append_only. Seals are small, and stay.';
create trigger audit_seals_500_refuse
  before update or delete on public.audit_seals
  for each row execute function private.tg_audit_seals__refuse();

-- Writing ---------------------------------------------------------------------------------------------------------------

create function private.request_header(name text)
returns text
language plpgsql
stable
set search_path = ''
as $$
begin
  return nullif(current_setting('request.headers', true), '')::json ->> name;
exception when invalid_text_representation then
  return null;
end;
$$;
comment on function private.request_header(text) is 'A header of the API request that this transaction serves; null outside of one.';

create function private.request_ip()
returns inet
language plpgsql
stable
set search_path = ''
as $$
begin
  -- Cloudflare's own, which a caller cannot write; else the first of those that passed the request on.
  return btrim(coalesce(
    private.request_header('cf-connecting-ip'),
    private.request_header('x-real-ip'),
    split_part(private.request_header('x-forwarded-for'), ',', 1)))::inet;
exception when invalid_text_representation then
  return null;
end;
$$;
comment on function private.request_ip() is 'Where the API request came from; null if nobody said, or not an address.';

create function private.actor_role(organization_id uuid)
returns text
language plpgsql
stable
security definer -- reads user_roles past its policies
set search_path = ''
as $$
begin
  return case
    when auth.role() = 'authenticated' then coalesce(
      (
        select m.role::text
        from public.user_roles m
        where m.organization_id = actor_role.organization_id and m.user_id = (select auth.uid()) and m.is_active
      ),
      case when private.is_platform_admin() then 'platform_admin' else 'none' end)
    when auth.role() in ('anon', 'service_role') then auth.role()
    else 'system'
  end;
end;
$$;
comment on function private.actor_role(uuid) is 'As what the caller acts in an organization: see audit_logs.actor_role.';

create function private.audit_values_digest(kept public.audit_log_values)
returns bytea
language sql
immutable
set search_path = ''
as $$
  select sha256(convert_to(jsonb_build_array(kept.old_values, kept.new_values, kept.contact_id, kept.salt)::text, 'UTF8'))
$$;
comment on function private.audit_values_digest(public.audit_log_values) is 'What audit_logs keeps of the values.';

create function private.audit_origin_digest(kept public.audit_log_values)
returns bytea
language sql
immutable
set search_path = ''
as $$
  select sha256(convert_to(jsonb_build_array(kept.ip_address, kept.user_agent, kept.salt)::text, 'UTF8'))
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
  kept public.audit_log_values;
begin
  kept.organization_id := append_audit_log.organization_id;
  kept.audit_log_id := private.uuid_v7();
  kept.contact_id := append_audit_log.contact_id;
  kept.old_values := append_audit_log.old_values;
  kept.new_values := append_audit_log.new_values;
  kept.ip_address := private.request_ip();
  kept.user_agent := left(private.request_header('user-agent'), 400);
  kept.salt := gen_random_uuid();
  kept.created_at := now();
  insert into public.audit_logs (
    organization_id, id, user_id, actor_role, operation, action, table_name, record_id, request_id, details, values_digest, origin_digest
  )
  values (
    kept.organization_id, kept.audit_log_id, auth.uid(), private.actor_role(kept.organization_id), append_audit_log.operation,
    append_audit_log.action, append_audit_log.table_name, append_audit_log.record_id,
    left(coalesce(private.request_header('x-request-id'), private.request_header('sb-request-id'), private.request_header('cf-ray')), 200),
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
  before constant jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) end;
  after constant jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) end;
  -- What moves by itself is no change: the trigger's arguments.
  ignored constant text[] := tg_argv || array['updated_at'];
  old_values jsonb;
  new_values jsonb;
  subject constant jsonb := coalesce(after, before);
begin
  if tg_op = 'UPDATE' then
    select jsonb_object_agg(a.key, before -> a.key), jsonb_object_agg(a.key, a.value)
    into old_values, new_values
    from jsonb_each(after) a
    where a.value is distinct from before -> a.key and a.key <> all (ignored);
    if new_values is null then
      return null;
    end if;
  else
    old_values := jsonb_strip_nulls(before);
    new_values := jsonb_strip_nulls(after);
  end if;
  perform private.append_audit_log(
    coalesce(subject ->> 'organization_id', subject ->> 'id')::uuid,
    tg_op::public.audit_operation,
    tg_table_name || '.' || lower(tg_op),
    tg_table_name,
    coalesce(subject ->> 'id', subject ->> 'user_id', subject ->> 'organization_id')::uuid,
    case when tg_op = 'UPDATE' then jsonb_build_object('columns', (select jsonb_agg(k order by k) from jsonb_object_keys(new_values) k)) else '{}' end,
    old_values,
    new_values,
    case tg_table_name when 'contacts' then subject ->> 'id' else subject ->> 'contact_id' end::uuid);
  return null;
end;
$$;
comment on function private.tg_audit() is 'Trigger: writes a change down. Its arguments are columns that change by themselves and are not told.';

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
      ('leads', 'last_interaction_at'),
      ('bookings', ''),
      ('flows', ''),
      ('message_templates', ''),
      ('webhook_endpoints', 'consecutive_failures,failing_since'),
      -- Who has control; the rest of a conversation is what was said.
      ('conversations',
        'last_message_at,last_message_preview,last_inbound_at,last_human_message_at,unread_count,metadata,satisfaction_score')
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
  if (action ~ '^[a-z][a-z0-9_.]{0,99}$' and jsonb_typeof(coalesce(details, '{}')) = 'object'
    and length(details::text) <= 4096 and length(coalesce(resource_type, '')) <= 100) is not true then
    perform private.raise_error('BL902', 'invalid_audit_event', 'This cannot be written to the audit log', '{}',
      'An action of small letters, digits, dots and underscores; details that are an object of at most 4 KiB');
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
  'Writes to the audit log what no trigger sees: an app''s export, a print, … It is kept as "app.<action>". Name no person in details: it can never be erased. Viewers and up. Errors: not_allowed, invalid_audit_event.';
grant execute on function public.log_audit_event(text, text, uuid, jsonb, uuid) to authenticated, service_role;

-- Sealing ---------------------------------------------------------------------------------------------------------------

create function private.audit_row_hash(log public.audit_logs)
returns bytea
language sql
stable
set search_path = ''
as $$
  select sha256(convert_to(jsonb_build_array(
    log.organization_id, log.id, log.epoch, log.transaction_id::text, log.user_id, log.actor_role, log.operation, log.action,
    log.table_name, log.record_id, log.request_id, log.details, encode(log.values_digest, 'hex'), encode(log.origin_digest, 'hex'),
    extract(epoch from log.created_at))::text, 'UTF8'))
$$;
comment on function private.audit_row_hash(public.audit_logs) is 'The hash of all that a log row says.';

create function private.audit_seal_hash(seal public.audit_seals)
returns bytea
language sql
stable
set search_path = ''
as $$
  select sha256(convert_to(jsonb_build_array(
    seal.organization_id, seal.number, seal.epoch, seal.from_transaction_id::text, seal.to_transaction_id::text, seal.row_count,
    extract(epoch from seal.last_created_at), encode(seal.rows_hash, 'hex'), encode(seal.previous_hash, 'hex'))::text, 'UTF8'))
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
  current_epoch constant int := private.epoch();
  horizon constant xid8 := pg_snapshot_xmin(pg_current_snapshot());
  sealed bigint := 0;
  part bigint;
begin
  -- One at a time: each begins where the other ended.
  select s.* into sealing from private.audit_sealing s for no key update skip locked;
  if not found then
    return 0;
  end if;
  -- What an earlier epoch left open ends with it.
  for epoch in sealing.epoch..current_epoch loop
    part := private.seal_audit_epoch(
      epoch, case when epoch = sealing.epoch then sealing.transaction_id else '0' end,
      case when epoch = current_epoch then horizon else '18446744073709551615' end);
    sealed := sealed + part;
  end loop;
  update private.audit_sealing s set epoch = current_epoch, transaction_id = horizon;
  return sealed;
end;
$$;
comment on function private.seal_audit_logs() is
  'Chains what was written since the last time, behind the oldest snapshot; returns how many rows. A job of the clock.';

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

create function private.is_anonymous(ip_address inet)
returns boolean
language sql
immutable
set search_path = ''
as $$
  select coalesce(masklen(ip_address) < case family(ip_address) when 4 then 32 else 128 end, false)
$$;
comment on function private.is_anonymous(inet) is 'Whether an address names no host any more.';

-- Verifying -------------------------------------------------------------------------------------------------------------

create function private.verify_audit_chain(organization_id uuid)
returns jsonb
language plpgsql
stable
security definer -- reads what its callers may only have verified
set search_path = ''
as $$
declare
  seal public.audit_seals;
  previous public.audit_seals;
  found_rows record;
  reason text;
  checked bigint := 0;
  seals bigint := 0;
  purged bigint := 0;
  keeps constant interval := private.retention('audit_logs', organization_id);
begin
  perform private.require_role(organization_id, 'admin');
  for seal in
    select s.* from public.audit_seals s where s.organization_id = verify_audit_chain.organization_id order by s.number
  loop
    reason := case
      when seal.number <> coalesce(previous.number, 0) + 1 then 'seal_missing'
      when seal.previous_hash <> coalesce(previous.hash, '\x') then 'chain_broken'
      when seal.from_transaction_id <> (case when previous.epoch = seal.epoch then previous.to_transaction_id else '0' end)
        then 'gap'
      when seal.hash <> private.audit_seal_hash(seal) then 'seal_changed'
    end;
    if reason is null and seal.last_created_at < now() - keeps then
      -- Retention has taken its rows, or is about to.
      purged := purged + 1;
    elsif reason is null then
      select
        count(*) as row_count,
        sha256(string_agg(private.audit_row_hash(l), ''::bytea order by l.transaction_id, l.id)) as rows_hash,
        count(*) filter (
          where v.audit_log_id is not null
            and (l.values_digest <> private.audit_values_digest(v)
              -- An address that was made anonymous has lost its digest's meaning.
              or l.origin_digest <> private.audit_origin_digest(v) and not private.is_anonymous(v.ip_address))
        ) as changed_values
      into found_rows
      from public.audit_logs l
      left join public.audit_log_values v
        on v.organization_id = l.organization_id and v.audit_log_id = l.id and v.created_at = l.created_at
      where l.organization_id = verify_audit_chain.organization_id
        and l.epoch = seal.epoch
        and l.transaction_id >= seal.from_transaction_id
        and l.transaction_id < seal.to_transaction_id;
      reason := case
        when found_rows.row_count < seal.row_count then 'rows_deleted'
        when found_rows.row_count > seal.row_count then 'rows_inserted'
        when found_rows.rows_hash is distinct from seal.rows_hash then 'rows_changed'
        when found_rows.changed_values > 0 then 'values_changed'
      end;
      checked := checked + found_rows.row_count;
    end if;
    if reason is not null then
      return jsonb_build_object(
        'is_intact', false, 'first_broken', jsonb_build_object(
          'number', seal.number, 'reason', reason, 'sealed_at', seal.created_at),
        'seals', seals, 'rows', checked);
    end if;
    seals := seals + 1;
    previous := seal;
  end loop;
  return jsonb_build_object(
    'is_intact', true,
    'seals', seals,
    'rows', checked,
    'past_retention', purged,
    'unsealed', (
      select count(*)
      from public.audit_logs l
      where l.organization_id = verify_audit_chain.organization_id
        and (l.epoch > coalesce(previous.epoch, 0)
          or l.epoch = previous.epoch and l.transaction_id >= previous.to_transaction_id)
    ),
    'head', jsonb_build_object('number', previous.number, 'hash', encode(previous.hash, 'hex')));
end;
$$;
comment on function private.verify_audit_chain(uuid) is 'See public.verify_audit_chain().';
grant execute on function private.verify_audit_chain(uuid) to authenticated, service_role;

create function public.verify_audit_chain(organization_id uuid default public.user_organization_id())
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return private.verify_audit_chain(organization_id);
end;
$$;
comment on function public.verify_audit_chain(uuid) is
  'Whether the audit log is what was written: {is_intact, seals, rows, past_retention, unsealed, head {number, hash}}, or {is_intact: false, first_broken {number, reason, sealed_at}, seals, rows} with reason seal_missing, chain_broken, gap, seal_changed, rows_deleted, rows_inserted, rows_changed or values_changed. unsealed rows are not verified yet (a minute''s). Keep the head''s hash elsewhere: a chain that was cut at its end, or made anew, shows by that alone. Administrators. Errors: not_allowed.';
grant execute on function public.verify_audit_chain(uuid) to authenticated, service_role;
