-- Webhook endpoints: an organization's own systems that want to know what happens.
--
-- Their addresses are seen by administrators, their secrets by nobody: what lies here is sealed by manage-webhook.

-- webhook_endpoints -------------------------------------------------------------------------------------------------

create function private.webhook_event_types()
returns text[]
language sql
immutable
set search_path = ''
as $$
  select array[
    'message.received', 'message.sent', 'message.delivered', 'message.read', 'message.played', 'message.failed',
    'conversation.opened', 'conversation.escalated', 'conversation.taken_over', 'conversation.released',
    'conversation.transferred', 'conversation.closed', 'conversation.reopened', 'contact.created', 'contact.merged', 'contact.unmerged',
    'contact.erased',
    'lead.created', 'lead.status_changed', 'lead.over_limit', 'lead.released',
    'booking.held', 'booking.released', 'booking.created', 'booking.updated', 'booking.rescheduled', 'booking.confirmed',
    'booking.completed', 'booking.cancelled', 'booking.no_show',
    'waiting_list.joined', 'waiting_list.offered', 'waiting_list.booked', 'waiting_list.expired', 'waiting_list.left',
    'instance.connected', 'instance.disconnected', 'instance.sending_stopped', 'alert.opened', 'alert.resolved', 'webhook.test'
  ]
$$;
comment on function private.webhook_event_types() is 'What an endpoint can be told; shapes: types/webhook-events.ts.';

create table public.webhook_endpoints (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  url text not null,
  event_types text[] not null,
  description text,
  is_active boolean not null default true,
  consecutive_failures int not null default 0,
  failing_since timestamptz,
  disabled_at timestamptz,
  disabled_reason text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint webhook_endpoints_pkey primary key (organization_id, id),
  constraint webhook_endpoints_organization_id_fkey foreign key (organization_id) references public.organizations (id),
  constraint webhook_endpoints_disabled_check check (disabled_at is null or not is_active),
  constraint webhook_endpoints_description_length_check check (length(description) <= 200)
);
comment on table public.webhook_endpoints is 'Where an organization''s events go. Written through manage-webhook only.';
comment on column public.webhook_endpoints.failing_since is 'The first failure after the last success: after five days the endpoint is disabled.';
comment on column public.webhook_endpoints.disabled_reason is 'gone (the receiver answered 410) or failing (five days of nothing but failures).';

alter table public.webhook_endpoints enable row level security;
alter table public.webhook_endpoints force row level security;
create policy "Admins can read their organization's webhook endpoints" on public.webhook_endpoints
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.webhook_endpoints from public, anon, authenticated, service_role;
grant select on public.webhook_endpoints to authenticated, service_role;

create trigger webhook_endpoints_100_touch_updated_at
  before update on public.webhook_endpoints
  for each row execute function private.tg_touch_updated_at();

-- private.webhook_endpoint_secrets ------------------------------------------------------------------------------------

create table private.webhook_endpoint_secrets (
  organization_id uuid not null,
  id uuid not null default private.uuid_v7(),
  endpoint_id uuid not null,
  secret private.sealed_secret not null,
  expires_at timestamptz,
  created_at timestamptz not null default now(),
  constraint webhook_endpoint_secrets_pkey primary key (organization_id, id),
  constraint webhook_endpoint_secrets_endpoint_id_fkey foreign key (organization_id, endpoint_id)
    references public.webhook_endpoints (organization_id, id) on delete cascade
);
comment on table private.webhook_endpoint_secrets is
  'What deliveries are signed with: after a rotation the old one signs too, for a day.';
create index webhook_endpoint_secrets_endpoint_id_idx on private.webhook_endpoint_secrets (organization_id, endpoint_id);

alter table private.webhook_endpoint_secrets enable row level security;
alter table private.webhook_endpoint_secrets force row level security;
revoke all on private.webhook_endpoint_secrets from public, anon, authenticated, service_role;

-- Endpoints: for the function manage-webhook, which seals the secrets --------------------------------------------------

create function private.check_endpoint(url text, event_types text[])
returns void
language plpgsql
immutable
set search_path = ''
as $$
begin
  -- Loopback is for tests: the worker refuses it unless its environment allows it.
  if (
    url ~ '^(https://[^/?#@\s]+|http://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]+)?)([/?][^#\s]*)?$' and length(url) <= 2000
  ) is not true then
    perform private.raise_error('BL311', 'invalid_url', 'An endpoint''s address begins with https:// and has neither credentials nor a fragment');
  end if;
  if (cardinality(event_types) > 0 and event_types <@ private.webhook_event_types()) is not true then
    perform private.raise_error('BL312', 'invalid_event_type', 'Name one or more of the event types',
      jsonb_build_object('event_types', private.webhook_event_types()));
  end if;
end;
$$;
comment on function private.check_endpoint(text, text[]) is 'Error invalid_url or invalid_event_type for an endpoint that could not work.';

create function private.create_webhook_endpoint(
  organization_id uuid,
  endpoint_id uuid,
  url text,
  event_types text[],
  secret text,
  description text
)
returns public.webhook_endpoints
language plpgsql
volatile
security definer -- writes secrets that no client may see
set search_path = ''
as $$
declare
  endpoint public.webhook_endpoints;
begin
  perform private.require_role(organization_id, 'admin');
  perform private.check_endpoint(url, event_types);
  -- Two requests at once do not pass the limit together.
  perform from public.organizations o where o.id = create_webhook_endpoint.organization_id for no key update;
  if not found then
    perform private.raise_error('BL100', 'organization_not_found', 'There is no such organization');
  end if;
  if (
    select count(*) from public.webhook_endpoints e where e.organization_id = create_webhook_endpoint.organization_id
  ) >= 20 then
    perform private.raise_error('BL313', 'too_many_endpoints', 'An organization has at most 20 webhook endpoints');
  end if;
  insert into public.webhook_endpoints (organization_id, id, url, event_types, description)
  values (
    create_webhook_endpoint.organization_id, endpoint_id, create_webhook_endpoint.url,
    create_webhook_endpoint.event_types, create_webhook_endpoint.description
  )
  returning * into endpoint;
  insert into private.webhook_endpoint_secrets (organization_id, endpoint_id, secret)
  values (endpoint.organization_id, endpoint.id, create_webhook_endpoint.secret);
  return endpoint;
end;
$$;
comment on function private.create_webhook_endpoint(uuid, uuid, text, text[], text, text) is 'See public.create_webhook_endpoint().';
grant execute on function private.create_webhook_endpoint(uuid, uuid, text, text[], text, text) to authenticated, service_role;

create function public.create_webhook_endpoint(
  organization_id uuid,
  endpoint_id uuid,
  url text,
  event_types text[],
  secret text,
  description text default null
)
returns public.webhook_endpoints
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.create_webhook_endpoint(organization_id, endpoint_id, url, event_types, secret, description);
end;
$$;
comment on function public.create_webhook_endpoint(uuid, uuid, text, text[], text, text) is
  'For the function manage-webhook, which makes and seals the secret: a new endpoint. Admins and up. Errors: not_allowed, organization_not_found, invalid_url, invalid_event_type, too_many_endpoints.';
grant execute on function public.create_webhook_endpoint(uuid, uuid, text, text[], text, text) to authenticated, service_role;

create function private.locked_endpoint(organization_id uuid, endpoint_id uuid)
returns public.webhook_endpoints
language plpgsql
volatile
set search_path = ''
as $$
declare
  endpoint public.webhook_endpoints;
begin
  select e.* into endpoint
  from public.webhook_endpoints e
  where e.organization_id = locked_endpoint.organization_id and e.id = endpoint_id
  for no key update;
  if not found then
    perform private.raise_error('BL310', 'webhook_endpoint_not_found', 'This organization has no such webhook endpoint');
  end if;
  return endpoint;
end;
$$;
comment on function private.locked_endpoint(uuid, uuid) is 'An endpoint, locked for a change; or error webhook_endpoint_not_found.';

create function private.update_webhook_endpoint(
  organization_id uuid,
  endpoint_id uuid,
  url text,
  event_types text[],
  description text,
  is_active boolean,
  new_secret text
)
returns public.webhook_endpoints
language plpgsql
volatile
security definer -- writes secrets that no client may see
set search_path = ''
as $$
declare
  endpoint public.webhook_endpoints;
begin
  perform private.require_role(organization_id, 'admin');
  endpoint := private.locked_endpoint(organization_id, endpoint_id);
  perform private.check_endpoint(coalesce(url, endpoint.url), coalesce(event_types, endpoint.event_types));
  if new_secret is not null then
    delete from private.webhook_endpoint_secrets s
    where s.organization_id = endpoint.organization_id and s.endpoint_id = endpoint.id and s.expires_at < now();
    update private.webhook_endpoint_secrets s
    set expires_at = now() + interval '24 hours'
    where s.organization_id = endpoint.organization_id and s.endpoint_id = endpoint.id and s.expires_at is null;
    insert into private.webhook_endpoint_secrets (organization_id, endpoint_id, secret)
    values (endpoint.organization_id, endpoint.id, new_secret);
  end if;
  update public.webhook_endpoints e
  set url = coalesce(update_webhook_endpoint.url, e.url),
      event_types = coalesce(update_webhook_endpoint.event_types, e.event_types),
      description = coalesce(update_webhook_endpoint.description, e.description),
      is_active = coalesce(update_webhook_endpoint.is_active, e.is_active),
      -- Switched on again it starts afresh.
      consecutive_failures = case when update_webhook_endpoint.is_active then 0 else e.consecutive_failures end,
      failing_since = case when update_webhook_endpoint.is_active then null else e.failing_since end,
      disabled_at = case when update_webhook_endpoint.is_active then null else e.disabled_at end,
      disabled_reason = case when update_webhook_endpoint.is_active then null else e.disabled_reason end
  where e.organization_id = endpoint.organization_id and e.id = endpoint.id
  returning e.* into endpoint;
  return endpoint;
end;
$$;
comment on function private.update_webhook_endpoint(uuid, uuid, text, text[], text, boolean, text) is 'See public.update_webhook_endpoint().';
grant execute on function private.update_webhook_endpoint(uuid, uuid, text, text[], text, boolean, text) to authenticated, service_role;

create function public.update_webhook_endpoint(
  organization_id uuid,
  endpoint_id uuid,
  url text default null,
  event_types text[] default null,
  description text default null,
  is_active boolean default null,
  new_secret text default null
)
returns public.webhook_endpoints
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.update_webhook_endpoint(organization_id, endpoint_id, url, event_types, description, is_active, new_secret);
end;
$$;
comment on function public.update_webhook_endpoint(uuid, uuid, text, text[], text, boolean, text) is
  'For the function manage-webhook: changes what is given. With a new secret the old one signs too, for 24 hours more. Admins and up. Errors: not_allowed, webhook_endpoint_not_found, invalid_url, invalid_event_type.';
grant execute on function public.update_webhook_endpoint(uuid, uuid, text, text[], text, boolean, text) to authenticated, service_role;

create function private.delete_webhook_endpoint(organization_id uuid, endpoint_id uuid)
returns public.webhook_endpoints
language plpgsql
volatile
security definer -- deletes secrets that no client may see
set search_path = ''
as $$
declare
  endpoint public.webhook_endpoints;
begin
  perform private.require_role(organization_id, 'admin');
  -- At once as for a deletion: a delivery that ends in between holds the endpoint before itself, as we do.
  select e.* into endpoint
  from public.webhook_endpoints e
  where e.organization_id = delete_webhook_endpoint.organization_id and e.id = endpoint_id
  for update;
  if not found then
    perform private.raise_error('BL310', 'webhook_endpoint_not_found', 'This organization has no such webhook endpoint');
  end if;
  delete from public.webhook_endpoints e where e.organization_id = endpoint.organization_id and e.id = endpoint.id;
  return endpoint;
end;
$$;
comment on function private.delete_webhook_endpoint(uuid, uuid) is 'See public.delete_webhook_endpoint().';
grant execute on function private.delete_webhook_endpoint(uuid, uuid) to authenticated, service_role;

create function public.delete_webhook_endpoint(organization_id uuid, endpoint_id uuid)
returns public.webhook_endpoints
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.delete_webhook_endpoint(organization_id, endpoint_id);
end;
$$;
comment on function public.delete_webhook_endpoint(uuid, uuid) is
  'Deletes an endpoint, its secrets and its deliveries. Admins and up. Errors: not_allowed, webhook_endpoint_not_found.';
grant execute on function public.delete_webhook_endpoint(uuid, uuid) to authenticated, service_role;
