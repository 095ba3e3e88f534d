-- Flows: what the bot asks and does, step by step. A flow is data: its definition is checked (000790) before it is stored, and
-- every one that customers went through is kept.

create type public.flow_session_status as enum ('running', 'completed', 'handed_over', 'expired', 'cancelled');
comment on type public.flow_session_status is
  'cancelled: the conversation was closed, or another flow was started in it. Only running goes on.';

-- flow_templates ----------------------------------------------------------------------------------------------------

create table public.flow_templates (
  key text not null,
  name text not null,
  vertical public.business_vertical,
  description text,
  definition jsonb not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint flow_templates_pkey primary key (key),
  constraint flow_templates_key_format_check check (key ~ '^[a-z0-9_]{1,50}$'),
  constraint flow_templates_name_length_check check (length(btrim(name)) between 1 and 120),
  constraint flow_templates_definition_is_object_check check (jsonb_typeof(definition) = 'object')
);
comment on table public.flow_templates is 'Flows to begin with, the same for every organization: create_flow_from_template() copies one.';
comment on column public.flow_templates.vertical is 'For which kind of business; null = for any.';

alter table public.flow_templates enable row level security;
alter table public.flow_templates force row level security;
create policy "Everybody who is signed in can read flow templates" on public.flow_templates
  for select to authenticated
  using (true);
revoke all on public.flow_templates from public, anon, authenticated, service_role;
grant select on public.flow_templates to authenticated;
grant select, insert, update, delete on public.flow_templates to service_role;

create trigger flow_templates_100_touch_updated_at
  before update on public.flow_templates
  for each row execute function private.tg_touch_updated_at();

-- flows -------------------------------------------------------------------------------------------------------------

create table public.flows (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  name text not null,
  vertical public.business_vertical,
  description text,
  definition jsonb not null,
  version int not null default 1,
  is_active boolean not null default true,
  is_default boolean not null default false,
  created_by uuid,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint flows_pkey primary key (organization_id, id),
  constraint flows_organization_id_fkey foreign key (organization_id) references public.organizations (id),
  constraint flows_created_by_fkey foreign key (organization_id, created_by)
    references public.user_roles (organization_id, user_id) on delete set null (created_by),
  constraint flows_name_length_check check (length(btrim(name)) between 1 and 120),
  constraint flows_description_length_check check (length(description) <= 2000),
  constraint flows_definition_is_object_check check (jsonb_typeof(definition) = 'object')
);
comment on table public.flows is 'What the bot asks and does. Shape of the definition: flowDefinition in types/.';
comment on column public.flows.version is 'Goes up with every change of the definition; who is in the middle of a flow goes on with the version he began with.';
comment on column public.flows.is_default is 'Begins by itself when a customer writes and no other flow is under way. At most one; the newest one takes over.';
create unique index flows_one_default_idx on public.flows (organization_id) where is_default;
create index flows_created_by_idx on public.flows (organization_id, created_by) where created_by is not null;

alter table public.flows enable row level security;
alter table public.flows force row level security;
create policy "Members can read their organization's flows" on public.flows
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
create policy "Admins can add flows to their organization" on public.flows
  for insert to authenticated
  with check (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
create policy "Admins can update their organization's flows" on public.flows
  for update to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]))
  with check (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
create policy "Admins can delete their organization's flows" on public.flows
  for delete to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.flows from public, anon, authenticated, service_role;
grant select, delete on public.flows to authenticated;
-- version and created_by are the triggers' to set.
grant insert (organization_id, id, name, vertical, description, definition, is_active, is_default) on public.flows to authenticated;
grant update (name, vertical, description, definition, is_active, is_default) on public.flows to authenticated;
grant select, insert, update, delete on public.flows to service_role;

-- flow_versions -----------------------------------------------------------------------------------------------------

create table public.flow_versions (
  organization_id uuid not null,
  flow_id uuid not null,
  version int not null,
  definition jsonb not null,
  created_at timestamptz not null default now(),
  constraint flow_versions_pkey primary key (organization_id, flow_id, version),
  constraint flow_versions_flow_id_fkey foreign key (organization_id, flow_id)
    references public.flows (organization_id, id) on delete cascade,
  constraint flow_versions_definition_is_object_check check (jsonb_typeof(definition) = 'object')
);
comment on table public.flow_versions is 'Every definition that a flow ever had: a change does not pull the ground from under who is in the middle of it.';

alter table public.flow_versions enable row level security;
alter table public.flow_versions force row level security;
create policy "Members can read their organization's flow versions" on public.flow_versions
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
revoke all on public.flow_versions from public, anon, authenticated, service_role;
grant select on public.flow_versions to authenticated, service_role;

create function private.tg_flows__check_definition()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform private.require_flow(new.definition);
  return new;
end;
$$;
comment on function private.tg_flows__check_definition() is 'Trigger: error invalid_flow for a definition that would leave a customer without an answer.';
create trigger flow_templates_500_check_definition
  before insert or update of definition on public.flow_templates
  for each row execute function private.tg_flows__check_definition();
create trigger flows_500_check_definition
  before insert or update of definition on public.flows
  for each row execute function private.tg_flows__check_definition();

create function private.tg_flows__number_version()
returns trigger
language plpgsql
volatile
security definer -- the default gives way to the new one, whatever row the caller may change
set search_path = ''
as $$
begin
  if tg_op = 'INSERT' then
    new.version := 1;
    new.created_by := coalesce(new.created_by, (
      select m.user_id
      from public.user_roles m
      where m.organization_id = new.organization_id and m.user_id = (select auth.uid())
    ));
  else
    new.version := old.version + case when new.definition <> old.definition then 1 else 0 end;
  end if;
  if new.is_default and (tg_op = 'INSERT' or not old.is_default) then
    -- Two that become it at the same moment come one after the other.
    perform pg_advisory_xact_lock(hashtextextended('default_flow:' || new.organization_id, 0));
    update public.flows f
    set is_default = false
    where f.organization_id = new.organization_id and f.is_default and f.id <> new.id;
  end if;
  return new;
end;
$$;
comment on function private.tg_flows__number_version() is
  'Trigger: a changed definition is a new version; a new default flow takes the place of the old one.';
create trigger flows_100_touch_updated_at
  before update on public.flows
  for each row execute function private.tg_touch_updated_at();
create trigger flows_500_number_version
  before insert or update on public.flows
  for each row execute function private.tg_flows__number_version();

create function private.tg_flows__keep_version()
returns trigger
language plpgsql
volatile
security definer -- versions are written by this trigger only
set search_path = ''
as $$
begin
  insert into public.flow_versions (organization_id, flow_id, version, definition)
  values (new.organization_id, new.id, new.version, new.definition)
  on conflict on constraint flow_versions_pkey do nothing;
  return null;
end;
$$;
comment on function private.tg_flows__keep_version() is 'Trigger: keeps every version.';
create trigger flows_900_keep_version
  after insert or update of definition on public.flows
  for each row execute function private.tg_flows__keep_version();

-- flow_sessions -----------------------------------------------------------------------------------------------------

create table public.flow_sessions (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  conversation_id uuid not null,
  contact_id uuid not null,
  flow_id uuid not null,
  flow_version int not null,
  lead_id uuid,
  current_step text,
  state jsonb not null default '{}',
  status public.flow_session_status not null default 'running',
  is_completed boolean not null generated always as (status <> 'running') stored,
  version int not null default 0,
  last_message_id uuid,
  asked_at timestamptz,
  wakes_at timestamptz,
  expires_at timestamptz not null,
  started_at timestamptz not null default now(),
  completed_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint flow_sessions_pkey primary key (organization_id, id),
  constraint flow_sessions_conversation_id_fkey foreign key (organization_id, conversation_id)
    references public.conversations (organization_id, id) on delete cascade,
  constraint flow_sessions_contact_id_fkey foreign key (organization_id, contact_id)
    references public.contacts (organization_id, id),
  constraint flow_sessions_flow_version_fkey foreign key (organization_id, flow_id, flow_version)
    references public.flow_versions (organization_id, flow_id, version),
  constraint flow_sessions_lead_id_fkey foreign key (organization_id, lead_id)
    references public.leads (organization_id, id) on delete set null (lead_id),
  constraint flow_sessions_state_is_object_check check (jsonb_typeof(state) = 'object' and octet_length(state::text) <= 65536),
  constraint flow_sessions_completed_at_check check ((status = 'running') = (completed_at is null))
);
comment on table public.flow_sessions is 'How far a customer is in a flow. Written by finish_flow_turn(), start_flow() and the clock.';
comment on column public.flow_sessions.current_step is 'Which question waits for an answer; null = the flow has not begun yet.';
comment on column public.flow_sessions.state is 'Answers and choices, the engine''s own: FlowState in functions/queue-worker/flow/conversation.ts.';
comment on column public.flow_sessions.version is 'Goes up with every turn: of two turns that began from one version the second finds that it came too late.';
comment on column public.flow_sessions.last_message_id is 'Up to here the customer''s messages have been read (ids grow); those after it are the next inputs.';
comment on column public.flow_sessions.asked_at is 'When the question that is open was first asked: what was written before it is no answer to it.';
comment on column public.flow_sessions.wakes_at is 'When a wait is over, though nobody wrote.';
create unique index flow_sessions_one_unfinished_per_conversation_idx
  on public.flow_sessions (organization_id, conversation_id) where not is_completed;
create index flow_sessions_conversation_id_idx on public.flow_sessions (conversation_id, id desc);
comment on index public.flow_sessions_conversation_id_idx is 'The last one of a conversation; what goes with it.';
create statistics public.flow_sessions_conversation_id_organization_id_stats (dependencies)
  on conversation_id, organization_id from public.flow_sessions;
comment on statistics public.flow_sessions_conversation_id_organization_id_stats is 'A conversation has one organization.';
create index flow_sessions_contact_id_idx on public.flow_sessions (organization_id, contact_id);
create index flow_sessions_flow_id_idx on public.flow_sessions (organization_id, flow_id, flow_version);
comment on index public.flow_sessions_flow_id_idx is 'Whether a flow is in use.';
create index flow_sessions_lead_id_idx on public.flow_sessions (organization_id, lead_id) where lead_id is not null;
create index flow_sessions_expires_at_idx on public.flow_sessions (expires_at) where not is_completed;
create index flow_sessions_wakes_at_idx on public.flow_sessions (wakes_at) where not is_completed and wakes_at is not null;

alter table public.flow_sessions enable row level security;
alter table public.flow_sessions force row level security;
create policy "Members can read their organization's flow sessions" on public.flow_sessions
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
revoke all on public.flow_sessions from public, anon, authenticated, service_role;
grant select on public.flow_sessions to authenticated;
grant select, insert, update, delete on public.flow_sessions to service_role;

create trigger flow_sessions_100_touch_updated_at
  before update on public.flow_sessions
  for each row execute function private.tg_touch_updated_at();

create function private.tg_flows__refuse_in_use()
returns trigger
language plpgsql
volatile
security definer -- an administrator's DELETE sees all sessions
set search_path = ''
as $$
begin
  if exists (
    select from public.flow_sessions s where s.organization_id = old.organization_id and s.flow_id = old.id
  ) then
    perform private.raise_error('BL603', 'flow_in_use', 'A flow that customers went through cannot be deleted',
      jsonb_build_object('flow_id', old.id), 'Set is_active to false instead.');
  end if;
  return old;
end;
$$;
comment on function private.tg_flows__refuse_in_use() is 'Trigger: says in words what the foreign key would say by its name.';
create trigger flows_500_refuse_in_use
  before delete on public.flows
  for each row execute function private.tg_flows__refuse_in_use();

-- create_flow_from_template -----------------------------------------------------------------------------------------

create function private.create_flow_from_template(template_key text, name text, organization_id uuid)
returns public.flows
language plpgsql
volatile
security definer -- whether there is a default flow already is looked up under a lock
set search_path = ''
as $$
declare
  template public.flow_templates;
  flow public.flows;
begin
  perform private.require_role(organization_id, 'admin');
  select t.* into template from public.flow_templates t where t.key = template_key;
  if not found then
    perform private.raise_error('BL602', 'flow_not_found', 'There is no such flow template',
      jsonb_build_object('template_key', template_key));
  elsif length(btrim(name)) not between 1 and 120 then
    perform private.raise_error('BL005', 'invalid_name', 'A name has 1 to 120 characters');
  elsif not exists (
    select from public.organizations o where o.id = create_flow_from_template.organization_id
  ) then
    perform private.raise_error('BL100', 'organization_not_found', 'There is no such organization');
  end if;
  perform pg_advisory_xact_lock(hashtextextended('default_flow:' || organization_id, 0));
  insert into public.flows as f (organization_id, name, vertical, description, definition, is_default)
  values (
    create_flow_from_template.organization_id, coalesce(create_flow_from_template.name, template.name), template.vertical,
    template.description, template.definition,
    not exists (
      select
      from public.flows other
      where other.organization_id = create_flow_from_template.organization_id and other.is_default
    )
  )
  returning f.* into flow;
  return flow;
end;
$$;
comment on function private.create_flow_from_template(text, text, uuid) is 'See public.create_flow_from_template().';
grant execute on function private.create_flow_from_template(text, text, uuid) to authenticated, service_role;

create function public.create_flow_from_template(
  template_key text,
  name text default null,
  organization_id uuid default public.user_organization_id()
)
returns public.flows
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.create_flow_from_template(template_key, name, organization_id);
end;
$$;
comment on function public.create_flow_from_template(text, text, uuid) is
  'A flow of the organization''s own, copied from a template; the first one becomes the default and answers from the next message on. Admins and up. Errors: not_allowed, organization_not_found, flow_not_found, invalid_name.';
grant execute on function public.create_flow_from_template(text, text, uuid) to authenticated, service_role;
