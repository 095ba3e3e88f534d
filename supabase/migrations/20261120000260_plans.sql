-- Plans: what an organization has bought, and what follows from it.

-- private.plan_features -------------------------------------------------------------------------------------------

create table private.plan_features (
  plan_type public.plan_type not null,
  leads_per_month int not null,
  constraint plan_features_pkey primary key (plan_type),
  constraint plan_features_leads_per_month_is_not_negative_check check (leads_per_month >= 0)
);
comment on table private.plan_features is
  'What each plan may do. After raising a limit call private.release_leads() for the organizations with that plan.';
insert into private.plan_features (plan_type, leads_per_month)
values
  ('free', 20),
  ('pro', 200),
  ('agency', 1000);

alter table private.plan_features enable row level security;
alter table private.plan_features force row level security;
revoke all on private.plan_features from public, anon, authenticated, service_role;

create function private.effective_plan(organization_id uuid)
returns public.plan_type
language plpgsql
stable
set search_path = ''
as $$
begin
  return (
    select case when o.plan_expires_at <= now() then 'free' else o.plan_type end
    from public.organizations o
    where o.id = effective_plan.organization_id
  );
end;
$$;
comment on function private.effective_plan(uuid) is 'The plan that counts now: free once the one that was bought has expired.';

-- set_plan --------------------------------------------------------------------------------------------------------

create function private.set_plan(organization_id uuid, plan_type public.plan_type, plan_expires_at timestamptz)
returns public.organizations
language plpgsql
volatile
security definer -- releasing leads reaches into "private"
set search_path = ''
as $$
declare
  organization public.organizations;
begin
  update public.organizations o
  set plan_type = set_plan.plan_type, plan_expires_at = set_plan.plan_expires_at
  where o.id = set_plan.organization_id
  returning o.* into organization;
  if organization.id is null then
    perform private.raise_error('BL100', 'organization_not_found', 'There is no such organization');
  end if;
  return organization;
end;
$$;
comment on function private.set_plan(uuid, public.plan_type, timestamptz) is 'See public.set_plan().';
grant execute on function private.set_plan(uuid, public.plan_type, timestamptz) to service_role;

create function public.set_plan(organization_id uuid, plan_type public.plan_type, plan_expires_at timestamptz default null)
returns public.organizations
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.set_plan(organization_id, plan_type, plan_expires_at);
end;
$$;
comment on function public.set_plan(uuid, public.plan_type, timestamptz) is
  'For the platform''s billing: what an organization has bought, and until when (null: until further notice). A higher limit releases leads that wait over the old one, oldest first; a lower one hides nothing. Errors: organization_not_found.';
grant execute on function public.set_plan(uuid, public.plan_type, timestamptz) to service_role;

create function private.tg_organizations__release_leads()
returns trigger
language plpgsql
volatile
security definer -- whoever may set a plan need not be allowed to write leads
set search_path = ''
as $$
begin
  perform private.release_leads(new.id);
  return null;
end;
$$;
comment on function private.tg_organizations__release_leads() is
  'Trigger: whichever way a plan changes, leads that wait over its limit come forward.';
create trigger organizations_900_release_leads
  after update of plan_type, plan_expires_at on public.organizations
  for each row when (
    old.plan_type <> new.plan_type or old.plan_expires_at is distinct from new.plan_expires_at
  )
  execute function private.tg_organizations__release_leads();
