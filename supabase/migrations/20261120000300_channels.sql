-- Channels: the WhatsApp numbers of an organization and the secrets behind them.
--
-- Clients can connect a number and rotate its secrets through the function manage-instance; nobody reads a secret
-- back. What lies here is ciphertext (AES-256-GCM, made and opened by the edge functions; the key is in their env):
-- v1.<key id>.<nonce>.<ciphertext and tag>, bound to its organization and purpose.

create type public.whatsapp_provider as enum ('meta_cloud', 'evolution', 'zapi');
create type public.instance_status as enum ('connecting', 'connected', 'disconnected', 'banned');

create domain private.sealed_secret as text
  constraint sealed_secret_format_check check (value ~ '^v1\.[A-Za-z0-9_-]{1,32}\.[A-Za-z0-9_-]{16}\.[A-Za-z0-9_-]{22,}$');
comment on domain private.sealed_secret is 'Ciphertext as the edge functions make it; a plain secret does not fit.';

-- private.meta_apps ---------------------------------------------------------------------------------------------

create table private.meta_apps (
  app_key text not null,
  organization_id uuid,
  app_secret private.sealed_secret not null,
  verify_token private.sealed_secret not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint meta_apps_pkey primary key (app_key),
  constraint meta_apps_organization_id_fkey foreign key (organization_id) references public.organizations (id),
  constraint meta_apps_app_key_format_check check (app_key ~ '^[A-Za-z0-9_-]{16,64}$')
);
comment on table private.meta_apps is
  'Meta signs a delivery with the secret of the app that subscribed, not of the number: the app''s key stands in the webhook URL. Without organization: the platform''s own app.';
create index meta_apps_organization_id_idx on private.meta_apps (organization_id);

alter table private.meta_apps enable row level security;
alter table private.meta_apps force row level security;
revoke all on private.meta_apps from public, anon, authenticated, service_role;

create trigger meta_apps_100_touch_updated_at
  before update on private.meta_apps
  for each row execute function private.tg_touch_updated_at();

-- whatsapp_instances --------------------------------------------------------------------------------------------

create table public.whatsapp_instances (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  provider public.whatsapp_provider not null,
  instance_key text not null default translate(encode(extensions.gen_random_bytes(16), 'base64'), '+/=', '-_'),
  name text not null,
  phone_number text,
  external_id text not null,
  meta_app_key text,
  status public.instance_status not null default 'connecting',
  last_seen_at timestamptz,
  sending_paused_until timestamptz,
  sending_stopped_at timestamptz,
  sending_stopped_code text,
  sending_stopped_reason text,
  webhook_url text,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint whatsapp_instances_pkey primary key (organization_id, id),
  constraint whatsapp_instances_organization_id_fkey foreign key (organization_id) references public.organizations (id),
  constraint whatsapp_instances_meta_app_key_fkey foreign key (meta_app_key) references private.meta_apps (app_key),
  constraint whatsapp_instances_instance_key_key unique (instance_key),
  constraint whatsapp_instances_organization_id_provider_external_id_key unique (organization_id, provider, external_id),
  constraint whatsapp_instances_meta_has_an_app_check check ((provider = 'meta_cloud') = (meta_app_key is not null)),
  constraint whatsapp_instances_external_id_length_check check (length(external_id) between 1 and 128),
  constraint whatsapp_instances_name_length_check check (length(btrim(name)) between 1 and 120),
  constraint whatsapp_instances_metadata_is_object_check check (jsonb_typeof(metadata) = 'object')
);
comment on table public.whatsapp_instances is 'A connected WhatsApp number. Written through manage-instance only.';
comment on column public.whatsapp_instances.external_id is 'The provider''s id of the number; Meta: phone_number_id (the sources'' whatsapp_id_number).';
comment on column public.whatsapp_instances.meta_app_key is 'The Meta app whose deliveries may reach this number.';
comment on column public.whatsapp_instances.last_seen_at is 'Last verified delivery, to the minute.';
comment on column public.whatsapp_instances.sending_paused_until is 'The provider asked us to slow down; what is to be sent waits.';
comment on column public.whatsapp_instances.sending_stopped_at is
  'Nothing can be sent until somebody acts (a token expired, an account blocked); a new access token ends it.';
create unique index whatsapp_instances_one_live_per_app_and_number_idx
  on public.whatsapp_instances (meta_app_key, external_id) where status <> 'disconnected';
comment on index public.whatsapp_instances_one_live_per_app_and_number_idx is
  'Routes a delivery to its tenant: under one app, one number belongs to one organization.';

alter table public.whatsapp_instances enable row level security;
alter table public.whatsapp_instances force row level security;
create policy "Members can read their organization's instances" on public.whatsapp_instances
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
revoke all on public.whatsapp_instances from public, anon, authenticated, service_role;
grant select on public.whatsapp_instances to authenticated;
grant select, insert, update, delete on public.whatsapp_instances to service_role;

create trigger whatsapp_instances_100_touch_updated_at
  before update on public.whatsapp_instances
  for each row execute function private.tg_touch_updated_at();
create trigger whatsapp_instances_500_normalize_phone
  before insert or update of phone_number on public.whatsapp_instances
  for each row when (new.phone_number is not null) execute function private.tg_normalize_phone('phone_number');

create function private.tg_whatsapp_instances__check_app()
returns trigger
language plpgsql
volatile
security definer -- the apps are in "private"; even the service key must not hang a number on another tenant's app
set search_path = ''
as $$
begin
  if not exists (
    select
    from private.meta_apps a
    where a.app_key = new.meta_app_key
      and (a.organization_id is null or a.organization_id = new.organization_id)
  ) then
    perform private.raise_error('BL102', 'app_not_found', 'This organization has no such Meta app');
  end if;
  return new;
end;
$$;
comment on function private.tg_whatsapp_instances__check_app() is
  'Trigger: a number hangs on an app of its own organization or on the platform''s.';
create trigger whatsapp_instances_500_check_app
  before insert or update of organization_id, meta_app_key on public.whatsapp_instances
  for each row when (new.meta_app_key is not null) execute function private.tg_whatsapp_instances__check_app();

-- private.instance_secrets ----------------------------------------------------------------------------------------

create table private.instance_secrets (
  organization_id uuid not null,
  instance_id uuid not null,
  access_token private.sealed_secret,
  webhook_secret private.sealed_secret,
  client_token private.sealed_secret,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint instance_secrets_pkey primary key (organization_id, instance_id),
  constraint instance_secrets_instance_id_fkey foreign key (organization_id, instance_id)
    references public.whatsapp_instances (organization_id, id) on delete cascade
);
comment on table private.instance_secrets is 'What sending through a number needs. Gone when it is disconnected.';

alter table private.instance_secrets enable row level security;
alter table private.instance_secrets force row level security;
revoke all on private.instance_secrets from public, anon, authenticated, service_role;

create trigger instance_secrets_100_touch_updated_at
  before update on private.instance_secrets
  for each row execute function private.tg_touch_updated_at();

-- authorized_owner_numbers ------------------------------------------------------------------------------------------

create table public.authorized_owner_numbers (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  phone_number text not null,
  is_primary boolean not null default false,
  label text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint authorized_owner_numbers_pkey primary key (organization_id, id),
  constraint authorized_owner_numbers_organization_id_fkey foreign key (organization_id) references public.organizations (id),
  constraint authorized_owner_numbers_organization_id_phone_number_key unique (organization_id, phone_number),
  constraint authorized_owner_numbers_label_length_check check (length(label) <= 80)
);
comment on table public.authorized_owner_numbers is 'Messages from these numbers go to Aurora, the owner''s assistant; alerts go to them.';
create unique index authorized_owner_numbers_one_primary_idx
  on public.authorized_owner_numbers (organization_id) where is_primary;

alter table public.authorized_owner_numbers enable row level security;
alter table public.authorized_owner_numbers force row level security;
create policy "Admins can read their organization's owner numbers" on public.authorized_owner_numbers
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
create policy "Admins can add owner numbers to their organization" on public.authorized_owner_numbers
  for insert to authenticated
  with check (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
create policy "Admins can update their organization's owner numbers" on public.authorized_owner_numbers
  for update to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]))
  with check (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
create policy "Admins can delete their organization's owner numbers" on public.authorized_owner_numbers
  for delete to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.authorized_owner_numbers from public, anon, authenticated, service_role;
grant select, insert, update, delete on public.authorized_owner_numbers to authenticated, service_role;

create trigger authorized_owner_numbers_100_touch_updated_at
  before update on public.authorized_owner_numbers
  for each row execute function private.tg_touch_updated_at();
create trigger authorized_owner_numbers_500_normalize_phone
  before insert or update of phone_number on public.authorized_owner_numbers
  for each row execute function private.tg_normalize_phone('phone_number');

-- Connecting, rotating, disconnecting ---------------------------------------------------------------------------

create function private.instance_answer(instance public.whatsapp_instances)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_build_object('instance', to_jsonb(instance) - 'meta_app_key', 'app_key', instance.meta_app_key)
$$;
comment on function private.instance_answer(public.whatsapp_instances) is 'What the instance RPCs answer: the row, and its app''s key.';

create function private.connect_instance(
  organization_id uuid,
  instance_id uuid,
  provider public.whatsapp_provider,
  name text,
  phone_number text,
  external_id text,
  access_token text,
  app_key text,
  meta_app jsonb,
  webhook_base_url text
)
returns jsonb
language plpgsql
volatile
security definer -- writes secrets that no client may see
set search_path = ''
as $$
declare
  chosen_app text := coalesce(meta_app ->> 'app_key', connect_instance.app_key);
  instance public.whatsapp_instances;
begin
  perform private.require_role(organization_id, 'admin');
  if provider <> 'meta_cloud' then
    perform private.raise_error('BL101', 'provider_not_supported', format('Connecting through %s is not supported yet', provider));
  end if;
  -- Two requests of one organization do not choose or make its app at the same time.
  perform from public.organizations o where o.id = connect_instance.organization_id for no key update;
  if not found then
    perform private.raise_error('BL100', 'organization_not_found', 'There is no such organization');
  end if;

  if meta_app is not null then
    begin
      insert into private.meta_apps (app_key, organization_id, app_secret, verify_token)
      values (chosen_app, connect_instance.organization_id, meta_app ->> 'app_secret', meta_app ->> 'verify_token');
    exception when unique_violation then
      perform private.raise_error('BL102', 'app_not_found', 'This organization has no such Meta app');
    end;
  elsif chosen_app is null then
    select case when count(*) = 1 then min(a.app_key) end into chosen_app
    from private.meta_apps a
    where a.organization_id = connect_instance.organization_id;
    if chosen_app is null then
      perform private.raise_error('BL103', 'app_required',
        'Give meta_app, or the app_key of one of the organization''s Meta apps',
        hint => 'Without either, the organization''s only app is used; it has none, or several.');
    end if;
  elsif not private.is_service() and not exists (
    select
    from private.meta_apps a
    where a.app_key = chosen_app and a.organization_id = connect_instance.organization_id
  ) then
    -- The platform's own app is for the platform: anybody could claim anybody's number on it.
    perform private.raise_error('BL102', 'app_not_found', 'This organization has no such Meta app');
  end if;

  begin
    -- A number that comes back keeps its row, and with it its conversations.
    insert into public.whatsapp_instances as i
      (organization_id, id, provider, name, phone_number, external_id, meta_app_key, webhook_url)
    values (
      connect_instance.organization_id, instance_id, connect_instance.provider, connect_instance.name,
      connect_instance.phone_number, connect_instance.external_id, chosen_app, webhook_base_url || '/' || chosen_app
    )
    on conflict on constraint whatsapp_instances_organization_id_provider_external_id_key do update set
      name = excluded.name,
      phone_number = excluded.phone_number,
      meta_app_key = excluded.meta_app_key,
      webhook_url = excluded.webhook_url,
      status = 'connecting',
      sending_paused_until = null,
      sending_stopped_at = null,
      sending_stopped_code = null,
      sending_stopped_reason = null
    where i.status = 'disconnected'
    returning i.* into instance;
  exception when unique_violation then
    instance := null;
  end;
  if instance.id is null then
    perform private.raise_error('BL104', 'instance_exists', 'This number is connected already',
      jsonb_build_object('external_id', external_id));
  end if;

  insert into private.instance_secrets as s (organization_id, instance_id, access_token)
  values (instance.organization_id, instance.id, connect_instance.access_token)
  on conflict on constraint instance_secrets_pkey do update set access_token = excluded.access_token;
  return private.instance_answer(instance);
end;
$$;
comment on function private.connect_instance(uuid, uuid, public.whatsapp_provider, text, text, text, text, text, jsonb, text) is
  'See public.connect_instance().';
grant execute on function private.connect_instance(uuid, uuid, public.whatsapp_provider, text, text, text, text, text, jsonb, text)
  to authenticated, service_role;

create function public.connect_instance(
  organization_id uuid,
  instance_id uuid,
  provider public.whatsapp_provider,
  name text,
  phone_number text,
  external_id text,
  access_token text,
  app_key text default null,
  meta_app jsonb default null,
  webhook_base_url text default null
)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.connect_instance(
    organization_id, instance_id, provider, name, phone_number, external_id, access_token, app_key, meta_app,
    webhook_base_url);
end;
$$;
comment on function public.connect_instance(uuid, uuid, public.whatsapp_provider, text, text, text, text, text, jsonb, text) is
  'For the function manage-instance, which seals the secrets: connects a number. meta_app {app_key, app_secret, verify_token} makes an app; else app_key names one of the organization''s, else its only one. webhook_base_url + / + app_key is where Meta delivers. Answers {instance, app_key}. Admins and up. Errors: not_allowed, organization_not_found, provider_not_supported, app_required, app_not_found, instance_exists, invalid_phone_number.';
grant execute on function public.connect_instance(uuid, uuid, public.whatsapp_provider, text, text, text, text, text, jsonb, text)
  to authenticated, service_role;

create function private.locked_instance(organization_id uuid, instance_id uuid)
returns public.whatsapp_instances
language plpgsql
volatile
set search_path = ''
as $$
declare
  instance public.whatsapp_instances;
begin
  select i.* into instance
  from public.whatsapp_instances i
  where i.organization_id = locked_instance.organization_id and i.id = instance_id
  for no key update;
  if not found then
    perform private.raise_error('BL105', 'instance_not_found', 'This organization has no such instance');
  end if;
  return instance;
end;
$$;
comment on function private.locked_instance(uuid, uuid) is 'An instance, locked for a change; or error instance_not_found.';

create function private.update_instance(
  organization_id uuid,
  instance_id uuid,
  name text,
  phone_number text,
  access_token text,
  app_secret text,
  verify_token text
)
returns jsonb
language plpgsql
volatile
security definer -- writes secrets that no client may see
set search_path = ''
as $$
declare
  instance public.whatsapp_instances;
begin
  perform private.require_role(organization_id, 'admin');
  instance := private.locked_instance(organization_id, instance_id);
  if instance.status = 'disconnected' then
    perform private.raise_error('BL106', 'instance_disconnected', 'This number is disconnected; connect it again');
  end if;
  if app_secret is not null or verify_token is not null then
    update private.meta_apps a
    set app_secret = coalesce(update_instance.app_secret, a.app_secret),
        verify_token = coalesce(update_instance.verify_token, a.verify_token)
    where a.app_key = instance.meta_app_key
      -- Not even the platform changes its own app here: these secrets are sealed for the organization.
      and a.organization_id = update_instance.organization_id;
    if not found then
      perform private.raise_error('BL102', 'app_not_found', 'The number hangs on the platform''s app, whose secrets the platform keeps');
    end if;
  end if;
  if access_token is not null then
    update private.instance_secrets s
    set access_token = update_instance.access_token
    where s.organization_id = update_instance.organization_id and s.instance_id = update_instance.instance_id;
    update public.whatsapp_instances i
    set status = case i.status when 'banned' then 'connecting' else i.status end,
        sending_stopped_at = null,
        sending_stopped_code = null,
        sending_stopped_reason = null
    where i.organization_id = update_instance.organization_id
      and i.id = update_instance.instance_id
      and i.sending_stopped_at is not null;
  end if;
  update public.whatsapp_instances i
  set name = coalesce(update_instance.name, i.name),
      phone_number = coalesce(update_instance.phone_number, i.phone_number)
  where i.organization_id = update_instance.organization_id and i.id = instance_id
  returning i.* into instance;
  return private.instance_answer(instance);
end;
$$;
comment on function private.update_instance(uuid, uuid, text, text, text, text, text) is 'See public.update_instance().';
grant execute on function private.update_instance(uuid, uuid, text, text, text, text, text) to authenticated, service_role;

create function public.update_instance(
  organization_id uuid,
  instance_id uuid,
  name text default null,
  phone_number text default null,
  access_token text default null,
  app_secret text default null,
  verify_token text default null
)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.update_instance(organization_id, instance_id, name, phone_number, access_token, app_secret, verify_token);
end;
$$;
comment on function public.update_instance(uuid, uuid, text, text, text, text, text) is
  'For the function manage-instance, which seals the secrets: changes what is given (app_secret and verify_token are the app''s, shared by its numbers). Answers {instance, app_key}. Admins and up. Errors: not_allowed, instance_not_found, instance_disconnected, app_not_found, invalid_phone_number.';
grant execute on function public.update_instance(uuid, uuid, text, text, text, text, text) to authenticated, service_role;

create function private.disconnect_instance(organization_id uuid, instance_id uuid)
returns jsonb
language plpgsql
volatile
security definer -- deletes secrets that no client may see
set search_path = ''
as $$
declare
  instance public.whatsapp_instances;
begin
  perform private.require_role(organization_id, 'admin');
  instance := private.locked_instance(organization_id, instance_id);
  delete from private.instance_secrets s
  where s.organization_id = disconnect_instance.organization_id and s.instance_id = disconnect_instance.instance_id;
  update public.whatsapp_instances i
  set status = 'disconnected'
  where i.organization_id = disconnect_instance.organization_id and i.id = instance_id
  returning i.* into instance;
  return private.instance_answer(instance);
end;
$$;
comment on function private.disconnect_instance(uuid, uuid) is 'See public.disconnect_instance().';
grant execute on function private.disconnect_instance(uuid, uuid) to authenticated, service_role;

create function public.disconnect_instance(organization_id uuid, instance_id uuid)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.disconnect_instance(organization_id, instance_id);
end;
$$;
comment on function public.disconnect_instance(uuid, uuid) is
  'Disconnects a number: its secrets go, its conversations stay, its deliveries are kept unrouted. Twice is once. Answers {instance, app_key}. Admins and up. Errors: not_allowed, instance_not_found.';
grant execute on function public.disconnect_instance(uuid, uuid) to authenticated, service_role;

create function private.require_instance_admin(organization_id uuid, instance_id uuid)
returns void
language plpgsql
volatile
security definer -- a caller without right must not learn whether the instance exists
set search_path = ''
as $$
begin
  perform private.require_role(organization_id, 'admin');
  perform private.locked_instance(organization_id, instance_id);
end;
$$;
comment on function private.require_instance_admin(uuid, uuid) is 'See public.require_instance_admin().';
grant execute on function private.require_instance_admin(uuid, uuid) to authenticated, service_role;

create function public.require_instance_admin(organization_id uuid, instance_id uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform private.require_instance_admin(organization_id, instance_id);
end;
$$;
comment on function public.require_instance_admin(uuid, uuid) is
  'For the function manage-instance: whether the caller administers this number. Errors: not_allowed, instance_not_found.';
grant execute on function public.require_instance_admin(uuid, uuid) to authenticated, service_role;

create function private.get_instance_credentials(organization_id uuid, instance_id uuid)
returns jsonb
language plpgsql
stable
security definer -- the secrets are in "private"
set search_path = ''
as $$
declare
  credentials jsonb;
begin
  select jsonb_build_object('external_id', i.external_id, 'provider', i.provider, 'access_token', s.access_token)
  into credentials
  from public.whatsapp_instances i
  join private.instance_secrets s on s.organization_id = i.organization_id and s.instance_id = i.id
  where i.organization_id = get_instance_credentials.organization_id
    and i.id = get_instance_credentials.instance_id
    and i.status <> 'disconnected';
  if not found then
    perform private.raise_error('BL105', 'instance_not_found', 'This organization has no such instance');
  end if;
  return credentials;
end;
$$;
comment on function private.get_instance_credentials(uuid, uuid) is 'See public.get_instance_credentials().';
grant execute on function private.get_instance_credentials(uuid, uuid) to service_role;

create function public.get_instance_credentials(organization_id uuid, instance_id uuid)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return private.get_instance_credentials(organization_id, instance_id);
end;
$$;
comment on function public.get_instance_credentials(uuid, uuid) is
  'For the edge functions: what calling a number''s provider takes {external_id, provider, access_token (sealed)}. Secret key only. Errors: instance_not_found.';
grant execute on function public.get_instance_credentials(uuid, uuid) to service_role;

create function private.register_platform_meta_app(app_key text, app_secret text, verify_token text)
returns jsonb
language plpgsql
volatile
security definer -- writes secrets that no client may see
set search_path = ''
as $$
begin
  insert into private.meta_apps (app_key, app_secret, verify_token)
  values (
    register_platform_meta_app.app_key, register_platform_meta_app.app_secret, register_platform_meta_app.verify_token
  );
  return jsonb_build_object('app_key', app_key);
end;
$$;
comment on function private.register_platform_meta_app(text, text, text) is 'See public.register_platform_meta_app().';
grant execute on function private.register_platform_meta_app(text, text, text) to service_role;

create function public.register_platform_meta_app(app_key text, app_secret text, verify_token text)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.register_platform_meta_app(app_key, app_secret, verify_token);
end;
$$;
comment on function public.register_platform_meta_app(text, text, text) is
  'For the function manage-instance with the secret key: the platform''s own Meta app (secrets sealed). Answers {app_key}.';
grant execute on function public.register_platform_meta_app(text, text, text) to service_role;

create function private.get_meta_app(app_key text)
returns jsonb
language plpgsql
stable
security definer -- the apps are in "private"
set search_path = ''
as $$
begin
  return (
    select jsonb_build_object(
      'app_key', a.app_key,
      'organization_id', a.organization_id,
      'app_secret', a.app_secret,
      'verify_token', a.verify_token
    )
    from private.meta_apps a
    where a.app_key = get_meta_app.app_key
  );
end;
$$;
comment on function private.get_meta_app(text) is 'See public.get_meta_app().';
grant execute on function private.get_meta_app(text) to service_role;

create function public.get_meta_app(app_key text)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return private.get_meta_app(app_key);
end;
$$;
comment on function public.get_meta_app(text) is
  'For the function whatsapp-webhook: an app and its sealed secrets {app_key, organization_id, app_secret, verify_token}, or null.';
grant execute on function public.get_meta_app(text) to service_role;
