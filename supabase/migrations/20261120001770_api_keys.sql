-- API keys: how an organization's own programs come in.
--
-- A key is no way around the rules. The function "token" exchanges it for a short-lived token of a machine user, who has a
-- role in the key's organization and nowhere else; from then on it is the same API under the same policies. Revoking a key
-- ends that membership, which policies look up with every statement, so it works at once for tokens that are out, too.

create table public.api_keys (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  name text not null,
  role public.member_role not null,
  prefix text not null,
  user_id uuid not null default gen_random_uuid(),
  created_by uuid,
  expires_at timestamptz,
  last_used_at timestamptz,
  revoked_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint api_keys_pkey primary key (organization_id, id),
  constraint api_keys_organization_id_fkey foreign key (organization_id) references public.organizations (id),
  constraint api_keys_created_by_fkey foreign key (organization_id, created_by)
    references public.user_roles (organization_id, user_id) on delete set null (created_by),
  constraint api_keys_user_id_key unique (user_id),
  constraint api_keys_name_length_check check (length(btrim(name)) between 1 and 120),
  constraint api_keys_prefix_format_check check (prefix ~ '^blk_[A-Za-z0-9_-]{8}$'),
  -- An owner who is a program could be the last one.
  constraint api_keys_role_is_below_owner_check check (role < 'owner')
);
comment on table public.api_keys is
  'An organization''s programs, and what each may do. Made by create_api_key(), ended by revoke_api_key(); what opens them lies elsewhere.';
comment on column public.api_keys.prefix is 'How the key begins, so that people find the one that they have.';
comment on column public.api_keys.user_id is
  'The machine user, whose login the function "token" makes at the first exchange; the audit log knows him by this.';
comment on column public.api_keys.created_by is 'Null: the platform, or who made it has left.';
comment on column public.api_keys.last_used_at is 'Last exchange, to the minute.';
create index api_keys_created_by_idx on public.api_keys (organization_id, created_by) where created_by is not null;
comment on index public.api_keys_created_by_idx is 'For members who leave.';

alter table public.api_keys enable row level security;
alter table public.api_keys force row level security;
create policy "Admins can read their organization's API keys" on public.api_keys
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
create policy "Admins can rename their organization's API keys" on public.api_keys
  for update to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]))
  with check (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.api_keys from public, anon, authenticated, service_role;
grant select on public.api_keys to authenticated, service_role;
grant update (name) on public.api_keys to authenticated, service_role;

create trigger api_keys_100_touch_updated_at
  before update on public.api_keys
  for each row execute function private.tg_touch_updated_at();
create trigger api_keys_950_audit
  after insert or update or delete on public.api_keys
  for each row execute function private.tg_audit('last_used_at');

create table private.api_key_secrets (
  organization_id uuid not null,
  api_key_id uuid not null,
  key_hash bytea not null,
  password private.sealed_secret,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint api_key_secrets_pkey primary key (organization_id, api_key_id),
  constraint api_key_secrets_api_key_id_fkey foreign key (organization_id, api_key_id)
    references public.api_keys (organization_id, id) on delete cascade,
  constraint api_key_secrets_key_hash_key unique (key_hash),
  constraint api_key_secrets_key_hash_is_sha256_check check (length(key_hash) = 32)
);
comment on table private.api_key_secrets is 'What opens a key, and its machine user. Gone when the key is revoked.';
comment on column private.api_key_secrets.key_hash is
  'SHA-256 of the key, which has 256 random bits: there is nothing to guess, so nothing slower is needed.';
comment on column private.api_key_secrets.password is 'The machine user''s, which nobody knows but the function "token". Null until the first exchange.';

alter table private.api_key_secrets enable row level security;
alter table private.api_key_secrets force row level security;
revoke all on private.api_key_secrets from public, anon, authenticated, service_role;

create trigger api_key_secrets_100_touch_updated_at
  before update on private.api_key_secrets
  for each row execute function private.tg_touch_updated_at();

-- Machine users ---------------------------------------------------------------------------------------------------------

create function private.is_api_key()
returns boolean
language plpgsql
stable
security definer -- a key may not read the keys
set search_path = ''
as $$
begin
  return exists (select from public.api_keys k where k.user_id = auth.uid());
end;
$$;
comment on function private.is_api_key() is 'Whether the caller is a program; also one whose key was revoked.';
grant execute on function private.is_api_key() to authenticated, service_role;

create function private.require_person()
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  if private.is_api_key() then
    perform private.raise_error('BL944', 'people_only', 'An API key may not do this',
      hint => 'Who belongs to an organization is for people to say: a stolen key must not be able to make itself another way in.');
  end if;
end;
$$;
comment on function private.require_person() is 'Error people_only for a program.';
grant execute on function private.require_person() to authenticated, service_role;

create function private.tg_user_roles__guard_api_keys()
returns trigger
language plpgsql
volatile
security definer -- whoever changes a member need not be allowed to read the keys
set search_path = ''
as $$
declare
  key public.api_keys;
begin
  perform private.require_person();
  if tg_op = 'DELETE' then
    return old;
  end if;
  select k.* into key from public.api_keys k where k.user_id = new.user_id;
  if found and (new.organization_id <> key.organization_id or new.role <> key.role
    or new.is_active and (key.revoked_at is not null or key.expires_at <= now())) then
    perform private.raise_error('BL944', 'people_only', 'An API key keeps its organization and its role, and ends for good',
      hint => 'Make another key.');
  end if;
  return new;
end;
$$;
comment on function private.tg_user_roles__guard_api_keys() is
  'Trigger: a machine user is in its own organization with its own role or nowhere, and decides about nobody.';
create trigger user_roles_500_guard_api_keys
  before insert or update or delete on public.user_roles
  for each row execute function private.tg_user_roles__guard_api_keys();

create function private.tg_organization_invitations__guard_api_keys()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform private.require_person();
  return case tg_op when 'DELETE' then old else new end;
end;
$$;
comment on function private.tg_organization_invitations__guard_api_keys() is 'Trigger: programs invite nobody.';
create trigger organization_invitations_500_guard_api_keys
  before insert or update or delete on public.organization_invitations
  for each row execute function private.tg_organization_invitations__guard_api_keys();

-- Ending ----------------------------------------------------------------------------------------------------------------

create function private.end_api_keys(organization_id uuid, api_key_id uuid default null)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  update public.api_keys k
  set revoked_at = now()
  where k.organization_id = end_api_keys.organization_id
    and (end_api_keys.api_key_id is null or k.id = end_api_keys.api_key_id)
    and k.revoked_at is null;
  delete from private.api_key_secrets s
  where s.organization_id = end_api_keys.organization_id
    and (end_api_keys.api_key_id is null or s.api_key_id = end_api_keys.api_key_id);
  update public.user_roles m
  set is_active = false
  from public.api_keys k
  where k.organization_id = end_api_keys.organization_id
    and (end_api_keys.api_key_id is null or k.id = end_api_keys.api_key_id)
    and m.organization_id = k.organization_id
    and m.user_id = k.user_id
    and m.is_active;
end;
$$;
comment on function private.end_api_keys(uuid, uuid) is 'Revokes a key of an organization, or all of them: nobody can use it, nor a token that it gave.';

create function private.tg_user_roles__end_api_key()
returns trigger
language plpgsql
volatile
security definer -- writes what whoever removes a member may not
set search_path = ''
as $$
declare
  key public.api_keys;
begin
  select k.* into key
  from public.api_keys k
  where k.organization_id = old.organization_id and k.user_id = old.user_id and k.revoked_at is null;
  if found then
    perform private.end_api_keys(key.organization_id, key.id);
  end if;
  return null;
end;
$$;
comment on function private.tg_user_roles__end_api_key() is
  'Trigger: a key whose machine user was removed, or whose login was deleted, is revoked.';
create trigger user_roles_500_end_api_key
  after delete on public.user_roles
  for each row execute function private.tg_user_roles__end_api_key();

create function private.tg_organizations__end_api_keys()
returns trigger
language plpgsql
volatile
security definer -- writes what an owner may not
set search_path = ''
as $$
begin
  perform private.end_api_keys(new.id);
  return null;
end;
$$;
comment on function private.tg_organizations__end_api_keys() is
  'Trigger: keys end with their organization. Opened again it makes new ones: who held the old ones is not known any more.';
create trigger organizations_500_end_api_keys
  after update of closed_at on public.organizations
  for each row when (old.closed_at is null and new.closed_at is not null)
  execute function private.tg_organizations__end_api_keys();

create function private.tg_api_keys__name_machine_user()
returns trigger
language plpgsql
volatile
security definer -- nobody else may name somebody else
set search_path = ''
as $$
begin
  update public.profiles p set first_name = new.name where p.user_id = new.user_id;
  return null;
end;
$$;
comment on function private.tg_api_keys__name_machine_user() is 'Trigger: colleagues see what the key is called.';
create trigger api_keys_500_name_machine_user
  after update of name on public.api_keys
  for each row when (old.name <> new.name) execute function private.tg_api_keys__name_machine_user();

create function private.expire_api_keys(at timestamptz default now())
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  expired bigint;
begin
  -- What opens the login goes; the key's hash stays, so that its holder is told why.
  with due as (
    select k.organization_id, k.id, k.user_id
    from public.api_keys k
    where k.expires_at <= at and k.revoked_at is null
      and exists (
        select from public.user_roles m where m.organization_id = k.organization_id and m.user_id = k.user_id and m.is_active)
    for no key update of k skip locked
  ), forgotten as (
    update private.api_key_secrets s
    set password = null
    from due d
    where s.organization_id = d.organization_id and s.api_key_id = d.id
  )
  update public.user_roles m
  set is_active = false
  from due d
  where m.organization_id = d.organization_id and m.user_id = d.user_id;
  get diagnostics expired = row_count;
  return expired;
end;
$$;
comment on function private.expire_api_keys(timestamptz) is
  'Ends the memberships of keys whose time is over, for tokens that are still out; returns how many.';

-- Making and revoking ---------------------------------------------------------------------------------------------------

create function private.create_api_key(name text, role public.member_role, expires_at timestamptz, organization_id uuid)
returns jsonb
language plpgsql
volatile
security definer -- writes secrets that no client may see
set search_path = ''
as $$
declare
  secret constant text :=
    'blk_' || translate(rtrim(encode(extensions.gen_random_bytes(32), 'base64'), '='), '+/', '-_');
  key public.api_keys;
begin
  perform private.require_role(organization_id, 'admin');
  perform private.require_person();
  if (length(btrim(name)) between 1 and 120) is not true then
    perform private.raise_error('BL005', 'invalid_name', 'A name has 1 to 120 characters');
  elsif (role < 'owner') is not true then
    perform private.raise_error('BL946', 'invalid_api_key_role', 'A key is a viewer, an attendant or an admin',
      hint => 'Give it the lowest role that will do.');
  elsif expires_at <= now() then
    perform private.raise_error('BL942', 'invalid_expiry', 'A key expires in the future, or never (null)');
  end if;
  -- Two requests at once do not pass the limit together; and a member who is being removed makes no key.
  perform private.lock_members(organization_id);
  perform private.require_role(organization_id, 'admin');
  perform private.require_rank(organization_id, role);
  if not exists (
    select from public.organizations o where o.id = create_api_key.organization_id and o.is_active and o.closed_at is null
  ) then
    perform private.raise_error('BL100', 'organization_not_found', 'There is no such organization, or it has closed');
  end if;
  if (
    select count(*)
    from public.api_keys k
    where k.organization_id = create_api_key.organization_id
      and k.revoked_at is null
      and (k.expires_at > now()) is not false
  ) >= 50 then
    perform private.raise_error('BL943', 'too_many_api_keys', 'An organization has at most 50 API keys', '{}', 'Revoke what nobody uses.');
  end if;
  insert into public.api_keys (organization_id, name, role, prefix, expires_at, created_by)
  values (
    create_api_key.organization_id, btrim(create_api_key.name), create_api_key.role, left(secret, 12), create_api_key.expires_at,
    (
      select m.user_id
      from public.user_roles m
      where m.organization_id = create_api_key.organization_id and m.user_id = auth.uid()
    )
  )
  returning * into key;
  insert into private.api_key_secrets (organization_id, api_key_id, key_hash)
  values (key.organization_id, key.id, sha256(convert_to(secret, 'UTF8')));
  return to_jsonb(key) || jsonb_build_object('key', secret);
end;
$$;
comment on function private.create_api_key(text, public.member_role, timestamptz, uuid) is 'See public.create_api_key().';
grant execute on function private.create_api_key(text, public.member_role, timestamptz, uuid) to authenticated, service_role;

create function public.create_api_key(
  name text,
  role public.member_role,
  expires_at timestamptz default null,
  organization_id uuid default public.user_organization_id()
)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.create_api_key(name, role, expires_at, organization_id);
end;
$$;
comment on function public.create_api_key(text, public.member_role, timestamptz, uuid) is
  'Makes an API key for a program; returns its row and the key itself, shown this once. Admins and up, never above the own role, never owner. Errors: not_allowed, people_only, invalid_name, invalid_api_key_role, invalid_expiry, organization_not_found, too_many_api_keys.';
grant execute on function public.create_api_key(text, public.member_role, timestamptz, uuid) to authenticated, service_role;

create function private.revoke_api_key(api_key_id uuid, organization_id uuid)
returns public.api_keys
language plpgsql
volatile
security definer -- deletes secrets that no client may see
set search_path = ''
as $$
declare
  key public.api_keys;
begin
  perform private.require_role(organization_id, 'admin');
  perform private.require_person();
  perform private.lock_members(organization_id);
  perform private.require_role(organization_id, 'admin');
  perform private.end_api_keys(organization_id, api_key_id)
  where api_key_id is not null;
  select k.* into key
  from public.api_keys k
  where k.organization_id = revoke_api_key.organization_id and k.id = revoke_api_key.api_key_id;
  if not found then
    perform private.raise_error('BL941', 'api_key_not_found', 'This organization has no such API key');
  end if;
  return key;
end;
$$;
comment on function private.revoke_api_key(uuid, uuid) is 'See public.revoke_api_key().';
grant execute on function private.revoke_api_key(uuid, uuid) to authenticated, service_role;

create function public.revoke_api_key(api_key_id uuid, organization_id uuid default public.user_organization_id())
returns public.api_keys
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.revoke_api_key(api_key_id, organization_id);
end;
$$;
comment on function public.revoke_api_key(uuid, uuid) is
  'Ends an API key at once and for good, the tokens that it gave included; returns it. Twice is once. Admins and up. Errors: not_allowed, people_only, api_key_not_found.';
grant execute on function public.revoke_api_key(uuid, uuid) to authenticated, service_role;

-- Exchanging: for the function "token" ------------------------------------------------------------------------------------

create function private.exchange_api_key(key_hash text, address text)
returns jsonb
language plpgsql
volatile
security definer -- reads secrets that no client may see
set search_path = ''
as $$
declare
  key public.api_keys;
  sealed text;
  wait numeric;
begin
  -- Before anything is looked up. A refusal is an answer and no error: an error would take back what was counted.
  wait := private.take_from_rate_limit('token_by_address', address);
  if wait is not null then
    return jsonb_build_object('outcome', 'rate_limited', 'retry_after', wait);
  end if;
  select k.*
  into key
  from private.api_key_secrets s
  join public.api_keys k on k.organization_id = s.organization_id and k.id = s.api_key_id
  where s.key_hash = case when exchange_api_key.key_hash ~ '^[0-9a-f]{64}$' then decode(exchange_api_key.key_hash, 'hex') end
    and k.revoked_at is null;
  if not found then
    return jsonb_build_object('outcome', 'unknown');
  end if;
  wait := private.take_from_rate_limit('token_by_key', key.id::text);
  if wait is not null then
    return jsonb_build_object(
      'outcome', 'rate_limited', 'retry_after', wait, 'api_key_id', key.id, 'organization_id', key.organization_id);
  elsif key.expires_at <= now() then
    return jsonb_build_object('outcome', 'expired', 'api_key_id', key.id, 'organization_id', key.organization_id);
  elsif not exists (select from public.organizations o where o.id = key.organization_id and o.is_active and o.closed_at is null) then
    return jsonb_build_object('outcome', 'organization_inactive', 'api_key_id', key.id, 'organization_id', key.organization_id);
  end if;

  update public.api_keys k
  set last_used_at = now()
  where k.organization_id = key.organization_id and k.id = key.id
    and (k.last_used_at > now() - interval '1 minute') is not true;
  select s.password into sealed
  from private.api_key_secrets s
  where s.organization_id = key.organization_id and s.api_key_id = key.id;
  return jsonb_build_object(
    'outcome', 'granted',
    'organization_id', key.organization_id,
    'api_key_id', key.id,
    'role', key.role,
    'expires_at', key.expires_at,
    'user_id', key.user_id,
    'email', 'key-' || key.id || '@api-keys.balcao.invalid',
    'password', sealed,
    'is_member', exists (
      select
      from public.user_roles m
      where m.organization_id = key.organization_id and m.user_id = key.user_id and m.is_active
    ));
end;
$$;
comment on function private.exchange_api_key(text, text) is 'See public.exchange_api_key().';
grant execute on function private.exchange_api_key(text, text) to service_role;

create function public.exchange_api_key(key_hash text, address text)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.exchange_api_key(key_hash, address);
end;
$$;
comment on function public.exchange_api_key(text, text) is
  'For the function token: what the key with this SHA-256 (hex) opens, {outcome: granted | rate_limited | unknown | expired | organization_inactive, …}; its password is sealed. Secret key only.';
grant execute on function public.exchange_api_key(text, text) to service_role;

create function private.keep_api_key_password(organization_id uuid, api_key_id uuid, password text, replaces text)
returns text
language plpgsql
volatile
security definer -- writes secrets that no client may see
set search_path = ''
as $$
declare
  kept text;
begin
  -- The first of several exchanges decides, and all of them go on with its password.
  update private.api_key_secrets s
  set password = keep_api_key_password.password
  where s.organization_id = keep_api_key_password.organization_id
    and s.api_key_id = keep_api_key_password.api_key_id
    and s.password is not distinct from replaces;
  select s.password into kept
  from private.api_key_secrets s
  where s.organization_id = keep_api_key_password.organization_id and s.api_key_id = keep_api_key_password.api_key_id;
  if not found then
    perform private.raise_error('BL941', 'api_key_not_found', 'This organization has no such API key');
  end if;
  return kept;
end;
$$;
comment on function private.keep_api_key_password(uuid, uuid, text, text) is 'See public.keep_api_key_password().';
grant execute on function private.keep_api_key_password(uuid, uuid, text, text) to service_role;

create function public.keep_api_key_password(organization_id uuid, api_key_id uuid, password text, replaces text default null)
returns text
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.keep_api_key_password(organization_id, api_key_id, password, replaces);
end;
$$;
comment on function public.keep_api_key_password(uuid, uuid, text, text) is
  'For the function token: keeps the sealed password of a machine user in place of replaces (null: of none), unless somebody was quicker; returns the one that counts. Secret key only. Errors: api_key_not_found.';
grant execute on function public.keep_api_key_password(uuid, uuid, text, text) to service_role;

create function private.admit_api_key(organization_id uuid, api_key_id uuid)
returns void
language plpgsql
volatile
security definer -- the one way in for machine users
set search_path = ''
as $$
declare
  key public.api_keys;
begin
  perform private.lock_members(organization_id);
  select k.* into key
  from public.api_keys k
  where k.organization_id = admit_api_key.organization_id
    and k.id = admit_api_key.api_key_id
    and k.revoked_at is null
    and (k.expires_at > now()) is not false
  for no key update;
  if not found then
    perform private.raise_error('BL941', 'api_key_not_found', 'This organization has no such API key');
  end if;
  insert into public.user_roles (organization_id, user_id, role)
  values (key.organization_id, key.user_id, key.role)
  on conflict on constraint user_roles_pkey do update set is_active = true;
  -- So that colleagues see who it is.
  insert into public.profiles (user_id, first_name, active_organization_id)
  values (key.user_id, key.name, key.organization_id)
  on conflict on constraint profiles_pkey do update
  set first_name = excluded.first_name, active_organization_id = excluded.active_organization_id;
end;
$$;
comment on function private.admit_api_key(uuid, uuid) is 'See public.admit_api_key().';
grant execute on function private.admit_api_key(uuid, uuid) to service_role;

create function public.admit_api_key(organization_id uuid, api_key_id uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform private.admit_api_key(organization_id, api_key_id);
end;
$$;
comment on function public.admit_api_key(uuid, uuid) is
  'For the function token, which has made the login: the machine user becomes a member with its key''s role. Twice is once. Secret key only. Errors: api_key_not_found.';
grant execute on function public.admit_api_key(uuid, uuid) to service_role;
