-- Leads: a contact's interest in buying, from the first answer to yes or no.
--
-- A plan bounds how many leads a calendar month brings (private.plan_features). What comes beyond that is kept, hidden,
-- and released by an upgrade: nothing that a customer wrote is lost.

create type public.lead_status as enum ('novo', 'em_contato', 'agendado', 'fechado', 'perdido');
comment on type public.lead_status is
  'novo → em_contato → agendado → fechado; perdido from any that is open, and back from it to em_contato.';

-- leads -----------------------------------------------------------------------------------------------------------

create table public.leads (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  contact_id uuid not null,
  professional_id uuid,
  status public.lead_status not null default 'novo',
  is_open boolean not null generated always as (status in ('novo', 'em_contato', 'agendado')) stored,
  respostas jsonb not null default '{}',
  source text,
  utm jsonb not null default '{}',
  metadata jsonb not null default '{}',
  month date not null default date_trunc('month', now()),
  over_limit boolean not null default false,
  merged_into_id uuid,
  last_interaction_at timestamptz not null default now(),
  closed_at timestamptz,
  lost_reason text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint leads_pkey primary key (organization_id, id),
  constraint leads_contact_id_fkey foreign key (organization_id, contact_id)
    references public.contacts (organization_id, id) on delete cascade,
  constraint leads_professional_id_fkey foreign key (organization_id, professional_id)
    references public.professionals (organization_id, id),
  constraint leads_merged_into_id_fkey foreign key (organization_id, merged_into_id)
    references public.leads (organization_id, id) on delete cascade,
  constraint leads_merged_into_id_is_another_check check (merged_into_id <> id),
  constraint leads_closed_at_check check ((status in ('fechado', 'perdido')) = (closed_at is not null)),
  constraint leads_lost_reason_check check (lost_reason is null or status = 'perdido'),
  constraint leads_month_is_first_day_check check (extract(day from month) = 1),
  constraint leads_lost_reason_length_check check (length(lost_reason) <= 500),
  constraint leads_source_length_check check (length(source) <= 200),
  constraint leads_respostas_is_object_check check (jsonb_typeof(respostas) = 'object'),
  constraint leads_utm_is_object_check check (jsonb_typeof(utm) = 'object'),
  constraint leads_metadata_is_object_check check (jsonb_typeof(metadata) = 'object')
);
comment on table public.leads is 'One row per contact and professional (or none). Made by create_lead().';
comment on column public.leads.professional_id is 'Whose lead it is; null: nobody''s yet. With lead_visibility own an attendant sees those of the professional he is.';
comment on column public.leads.is_open is 'Enums are not leakproof: under RLS only a boolean like this one can use an index.';
comment on column public.leads.respostas is 'What the contact answered, by question.';
comment on column public.leads.utm is 'The campaign that brought the contact first.';
comment on column public.leads.month is
  'The calendar month in which it came, by the clock of the organization then: the one whose places it takes.';
comment on column public.leads.over_limit is
  'Came when the month''s leads of the plan were used up: hidden from everybody but the platform until an upgrade releases it.';
comment on column public.leads.merged_into_id is
  'The lead before which this one stepped back when their contacts were merged: hidden until that is undone. After another merge that one may have stepped back itself: follow it until one stands. Deleting a lead deletes what stands behind it: who deletes means the person''s interest, not one of its two rows.';
comment on column public.leads.last_interaction_at is
  'When the contact or we last wrote. Moves with every message while the lead is open and shown (but for one that comes in the instant in which somebody edits the lead: messages wait for nobody); in no index, so that moving it is cheap.';
comment on column public.leads.lost_reason is 'Kept only while the lead is lost.';
create unique index leads_one_per_contact_and_professional_idx
  on public.leads (organization_id, contact_id, professional_id) nulls not distinct where merged_into_id is null;
comment on index public.leads_one_per_contact_and_professional_idx is 'Answering a form twice is one lead.';
create index leads_contact_id_idx on public.leads (organization_id, contact_id);
comment on index public.leads_contact_id_idx is 'A contact''s leads: in its page, for create_lead(), when a message moves them, when contacts are merged or deleted.';
create index leads_pipeline_idx on public.leads (organization_id, is_open, created_at desc);
comment on index public.leads_pipeline_idx is 'The pipeline, and what was won or lost, newest first.';
create index leads_professional_id_idx on public.leads (organization_id, professional_id, created_at desc)
  where professional_id is not null;
comment on index public.leads_professional_id_idx is 'A professional''s leads; and whether one may be deleted.';
create index leads_over_limit_idx on public.leads (organization_id, created_at) where over_limit;
comment on index public.leads_over_limit_idx is 'What an upgrade releases, oldest first.';
create index leads_merged_into_id_idx on public.leads (organization_id, merged_into_id) where merged_into_id is not null;

-- Who sees which ------------------------------------------------------------------------------------------------------

create function private.organizations_with_all_leads()
returns uuid[]
language plpgsql
stable
security definer -- reads memberships and settings past their policies, once per statement
set search_path = ''
as $$
begin
  return array(
    select m.organization_id
    from public.user_roles m
    left join public.organization_settings s on s.organization_id = m.organization_id
    where m.user_id = (select auth.uid())
      and m.is_active
      and (m.role >= 'admin' or coalesce(s.lead_visibility, 'all') = 'all')
  );
end;
$$;
comment on function private.organizations_with_all_leads() is
  'The organizations in which the caller sees everybody''s leads: administrators always, others unless lead_visibility is own.';
grant execute on function private.organizations_with_all_leads() to authenticated, service_role;

create function private.own_professionals()
returns table (organization_id uuid, professional_id uuid)
language plpgsql
stable
security definer -- reads professionals past their policies, once per statement
set search_path = ''
as $$
begin
  return query
  select p.organization_id, p.id
  from public.professionals p
  where p.user_id = (select auth.uid());
end;
$$;
comment on function private.own_professionals() is
  'The professionals that the caller is. In pairs: a client may choose ids, so that two organizations can have the same one.';
grant execute on function private.own_professionals() to authenticated, service_role;

alter table public.leads enable row level security;
alter table public.leads force row level security;
create policy "Members can read the leads that they may see" on public.leads
  for select to authenticated
  using (
    organization_id = any ((select private.member_organizations('viewer'))::uuid[])
    and not over_limit
    and merged_into_id is null
    and (
      organization_id = any ((select private.organizations_with_all_leads())::uuid[])
      or (organization_id, professional_id) in (select o.organization_id, o.professional_id from private.own_professionals() o)
    )
  );
create policy "Attendants can update the leads that they may see" on public.leads
  for update to authenticated
  using (
    organization_id = any ((select private.member_organizations('attendant'))::uuid[])
    and not over_limit
    and merged_into_id is null
    and (
      organization_id = any ((select private.organizations_with_all_leads())::uuid[])
      or (organization_id, professional_id) in (select o.organization_id, o.professional_id from private.own_professionals() o)
    )
  )
  with check (
    organization_id = any ((select private.member_organizations('attendant'))::uuid[])
    and not over_limit
    and merged_into_id is null
    and (
      organization_id = any ((select private.organizations_with_all_leads())::uuid[])
      or (organization_id, professional_id) in (select o.organization_id, o.professional_id from private.own_professionals() o)
    )
  );
create policy "Admins can delete their organization's leads" on public.leads
  for delete to authenticated
  using (
    organization_id = any ((select private.member_organizations('admin'))::uuid[])
    and not over_limit
    and merged_into_id is null
  );
revoke all on public.leads from public, anon, authenticated, service_role;
grant select, delete on public.leads to authenticated;
grant update (status, professional_id, respostas, source, utm, metadata, lost_reason) on public.leads to authenticated;
grant select, insert, update, delete on public.leads to service_role;

create trigger leads_100_touch_updated_at
  before update on public.leads
  for each row execute function private.tg_touch_updated_at();

-- The way of a lead ---------------------------------------------------------------------------------------------------

create function private.next_lead_statuses(status public.lead_status)
returns public.lead_status[]
language sql
immutable
set search_path = ''
as $$
  select case status
    when 'novo' then '{em_contato,perdido}'
    when 'em_contato' then '{agendado,perdido}'
    when 'agendado' then '{fechado,perdido}'
    when 'perdido' then '{em_contato}'
    else '{}'
  end::public.lead_status[]
$$;
comment on function private.next_lead_statuses(public.lead_status) is 'What may follow a status; fechado is final.';
grant execute on function private.next_lead_statuses(public.lead_status) to authenticated, service_role;

create function private.tg_leads__change_status()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  if tg_op = 'UPDATE' and new.status <> old.status then
    if new.status <> all (private.next_lead_statuses(old.status)) then
      perform private.raise_error('BL401', 'invalid_lead_transition',
        format('A lead that is %s cannot become %s', old.status, new.status),
        jsonb_build_object('from', old.status, 'to', new.status, 'allowed', private.next_lead_statuses(old.status)));
    end if;
    new.closed_at := null;
  end if;
  if new.status in ('fechado', 'perdido') then
    new.closed_at := coalesce(new.closed_at, now());
  else
    new.closed_at := null;
  end if;
  if new.status <> 'perdido' then
    new.lost_reason := null;
  end if;
  return new;
end;
$$;
comment on function private.tg_leads__change_status() is
  'Trigger: only along the way of a lead; closed_at and lost_reason follow. create_lead() begins at novo; an import with the service key may insert a lead wherever it is.';
create trigger leads_500_change_status
  before insert or update of status, lost_reason, closed_at on public.leads
  for each row execute function private.tg_leads__change_status();

create function private.tg_leads__check_professional()
returns trigger
language plpgsql
volatile
security definer -- sees professionals and others' leads, which the keys do too
set search_path = ''
as $$
begin
  -- Before anything is said of colleagues' leads: what the policy would say only afterwards.
  if not private.is_service()
    and new.organization_id <> all (private.organizations_with_all_leads())
    and not exists (
      select
      from private.own_professionals() o
      where o.organization_id = new.organization_id and o.professional_id = new.professional_id
    ) then
    raise exception 'Here a lead passes only to the professional that you are' using errcode = 'insufficient_privilege';
  end if;
  if new.professional_id is not null and not exists (
    select
    from public.professionals p
    where p.organization_id = new.organization_id and p.id = new.professional_id and p.is_active
  ) then
    perform private.raise_error('BL507', 'professional_not_available', 'This organization has no such active professional',
      jsonb_build_object('professional_id', new.professional_id));
  elsif exists (
    select
    from public.leads l
    where l.organization_id = new.organization_id
      and l.contact_id = new.contact_id
      and l.professional_id is not distinct from new.professional_id
      and l.merged_into_id is null
      and l.id <> new.id
  ) then
    -- The same words for both, so that they do not tell them apart.
    perform private.raise_error('BL408', 'lead_exists',
      'This contact has a lead with that professional already, if only one that waits over the plan''s limit',
      jsonb_build_object('contact_id', new.contact_id, 'professional_id', new.professional_id));
  end if;
  return new;
end;
$$;
comment on function private.tg_leads__check_professional() is 'Trigger: says in words what the keys would say by their names.';
create trigger leads_500_check_professional
  before update of professional_id on public.leads
  for each row when (old.professional_id is distinct from new.professional_id and new.merged_into_id is null)
  execute function private.tg_leads__check_professional();

-- How many a month ----------------------------------------------------------------------------------------------------

create table private.lead_usage (
  organization_id uuid not null,
  month date not null,
  used int not null default 0,
  constraint lead_usage_pkey primary key (organization_id, month),
  constraint lead_usage_organization_id_fkey foreign key (organization_id) references public.organizations (id),
  constraint lead_usage_month_is_first_day_check check (extract(day from month) = 1),
  constraint lead_usage_used_is_not_negative_check check (used >= 0)
);
comment on table private.lead_usage is
  'Places of the plan that the leads of a calendar month took, in the organization''s time zone. Deleting a lead gives none back.';

alter table private.lead_usage enable row level security;
alter table private.lead_usage force row level security;
revoke all on private.lead_usage from public, anon, authenticated, service_role;

create function private.lock_lead_usage(organization_id uuid, month date)
returns int
language plpgsql
volatile
set search_path = ''
as $$
declare
  used int;
begin
  loop
    select u.used into used
    from private.lead_usage u
    where u.organization_id = lock_lead_usage.organization_id and u.month = lock_lead_usage.month
    for no key update;
    exit when found;
    insert into private.lead_usage (organization_id, month)
    values (lock_lead_usage.organization_id, lock_lead_usage.month)
    on conflict do nothing;
  end loop;
  return used;
end;
$$;
comment on function private.lock_lead_usage(uuid, date) is
  'How many places of a month are taken; nobody else takes one until the transaction ends.';

create function private.month_of(at timestamptz, timezone text)
returns date
language sql
immutable
set search_path = ''
as $$
  select date_trunc('month', at at time zone timezone)::date
$$;
comment on function private.month_of(timestamptz, text) is 'The first day of the calendar month in which a moment falls there.';

create function private.tg_leads__take_place()
returns trigger
language plpgsql
volatile
security definer -- the count is in "private"
set search_path = ''
as $$
declare
  organization public.organizations;
begin
  -- Shared: a plan does not change between our reading it and our commit. Who changes it waits for the leads that are
  -- on their way and then sees them all; who comes after that reads the new plan.
  select o.* into organization from public.organizations o where o.id = new.organization_id for share;
  -- The organization before the contact, as everywhere.
  new.contact_id := private.surviving_contact(new.organization_id, new.contact_id);
  new.month := private.month_of(new.created_at, organization.timezone);
  new.over_limit := private.lock_lead_usage(new.organization_id, new.month) >= (
    select f.leads_per_month
    from private.plan_features f
    where f.plan_type = private.effective_plan(new.organization_id)
  );
  -- One that the unique key is about to refuse ("on conflict do nothing") takes no place.
  if not new.over_limit and not exists (
    select
    from public.leads l
    where l.organization_id = new.organization_id
      and l.contact_id = new.contact_id
      and l.professional_id is not distinct from new.professional_id
      and l.merged_into_id is null
  ) then
    update private.lead_usage u
    set used = u.used + 1
    where u.organization_id = new.organization_id and u.month = new.month;
  end if;
  return new;
end;
$$;
comment on function private.tg_leads__take_place() is
  'Trigger: a new lead takes one of the month''s places or, when there is none, waits over the limit. A merged contact''s lead is the survivor''s.';
create trigger leads_900_take_place
  before insert on public.leads
  for each row execute function private.tg_leads__take_place();

create function private.release_leads(organization_id uuid)
returns int
language plpgsql
volatile
set search_path = ''
as $$
declare
  places int;
  this_month date;
  free int;
  released int;
  total int := 0;
begin
  -- Nobody inserts leads until this is committed: see tg_leads__take_place().
  perform from public.organizations o where o.id = release_leads.organization_id for no key update;
  places := (
    select f.leads_per_month
    from private.plan_features f
    where f.plan_type = private.effective_plan(release_leads.organization_id)
  );
  for this_month in
    select distinct l.month
    from public.leads l
    where l.organization_id = release_leads.organization_id and l.over_limit and l.merged_into_id is null
    order by l.month
  loop
    free := greatest(places - private.lock_lead_usage(organization_id, this_month), 0);
    update public.leads l
    set over_limit = false,
        -- It did not move while it was hidden.
        last_interaction_at = greatest(l.last_interaction_at, p.last_interaction_at)
    from public.contacts p
    where p.organization_id = l.organization_id
      and p.id = l.contact_id
      and l.organization_id = release_leads.organization_id
      and l.id in (
        select waiting.id
        from public.leads waiting
        where waiting.organization_id = release_leads.organization_id
          and waiting.over_limit
          -- One behind another shows nothing and takes no place; it comes forward when its merge is undone.
          and waiting.merged_into_id is null
          and waiting.month = this_month
        order by waiting.created_at, waiting.id
        limit free
      );
    get diagnostics released = row_count;
    update private.lead_usage u
    set used = u.used + released
    where u.organization_id = release_leads.organization_id and u.month = this_month;
    total := total + released;
  end loop;
  return total;
end;
$$;
comment on function private.release_leads(uuid) is
  'Leads that wait over the limit come forward, oldest first, as far as each month''s places of the present plan reach. Returns how many did.';

create function private.get_lead_usage(organization_id uuid)
returns jsonb
language plpgsql
stable
security definer -- the count is in "private", and what it says of hidden leads is only their number
set search_path = ''
as $$
declare
  organization public.organizations;
begin
  perform private.require_role(organization_id, 'admin');
  select o.* into organization from public.organizations o where o.id = get_lead_usage.organization_id;
  if not found then
    perform private.raise_error('BL100', 'organization_not_found', 'There is no such organization');
  end if;
  return (
    select jsonb_build_object(
      'plan_type', f.plan_type,
      'month', this.month,
      'leads_per_month', f.leads_per_month,
      'used', coalesce(
        (select u.used from private.lead_usage u where u.organization_id = organization.id and u.month = this.month), 0),
      'over_limit', (
        select count(*)
        from public.leads l
        where l.organization_id = organization.id and l.over_limit and l.merged_into_id is null
      )
    )
    from private.plan_features f
    cross join (select private.month_of(now(), organization.timezone) as month) this
    where f.plan_type = private.effective_plan(organization.id)
  );
end;
$$;
comment on function private.get_lead_usage(uuid) is 'See public.get_lead_usage().';
grant execute on function private.get_lead_usage(uuid) to authenticated, service_role;

create function public.get_lead_usage(organization_id uuid default public.user_organization_id())
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return private.get_lead_usage(organization_id);
end;
$$;
comment on function public.get_lead_usage(uuid) is
  'How much of the plan''s leads this month has used, and how many leads of any month wait over the limit: {plan_type, month, leads_per_month, used, over_limit}. The plan is the one that counts now: free once it has expired. Admins and up. Errors: not_allowed, organization_not_found.';
grant execute on function public.get_lead_usage(uuid) to authenticated, service_role;

-- create_lead ---------------------------------------------------------------------------------------------------------

create function private.create_lead(
  contact_id uuid,
  professional_id uuid,
  source text,
  utm jsonb,
  respostas jsonb,
  metadata jsonb,
  organization_id uuid
)
returns public.leads
language plpgsql
volatile
security definer -- leads are made through this function only
set search_path = ''
as $$
declare
  is_service constant boolean := private.is_service();
  of_professional uuid := professional_id;
  of_contact uuid;
  lead public.leads;
begin
  perform private.require_role(organization_id, 'attendant');
  if not is_service and organization_id <> all (private.organizations_with_all_leads()) then
    select o.professional_id into of_professional
    from private.own_professionals() o
    where o.organization_id = create_lead.organization_id;
    if of_professional is null or of_professional <> coalesce(professional_id, of_professional) then
      perform private.raise_error('BL002', 'not_allowed', 'Here you make only leads of the professional that you are');
    end if;
  end if;
  if of_professional is not null and not exists (
    select
    from public.professionals p
    where p.organization_id = create_lead.organization_id and p.id = of_professional and p.is_active
  ) then
    perform private.raise_error('BL507', 'professional_not_available', 'This organization has no such active professional',
      jsonb_build_object('professional_id', of_professional));
  end if;

  -- The organization before the contact: the trigger that takes the place wants it.
  perform from public.organizations o where o.id = create_lead.organization_id for share;
  -- Two answers of one contact at once: the second one finds the first one's lead.
  of_contact := private.surviving_contact(organization_id, contact_id, to_write => true);

  -- Nobody writes over what the plan hides from him.
  update public.leads l
  set respostas = case
        when l.over_limit and not is_service then coalesce(create_lead.respostas, '{}') || l.respostas
        else l.respostas || coalesce(create_lead.respostas, '{}')
      end,
      metadata = case
        when l.over_limit and not is_service then coalesce(create_lead.metadata, '{}') || l.metadata
        else l.metadata || coalesce(create_lead.metadata, '{}')
      end,
      source = coalesce(l.source, create_lead.source),
      utm = coalesce(create_lead.utm, '{}') || l.utm,
      last_interaction_at = greatest(l.last_interaction_at, now())
  where l.organization_id = create_lead.organization_id
    and l.contact_id = of_contact
    and l.professional_id is not distinct from of_professional
    and l.merged_into_id is null
  returning l.* into lead;
  if lead.id is null then
    insert into public.leads as l (organization_id, contact_id, professional_id, source, utm, respostas, metadata)
    values (
      create_lead.organization_id, of_contact, of_professional, create_lead.source, coalesce(create_lead.utm, '{}'),
      coalesce(create_lead.respostas, '{}'), coalesce(create_lead.metadata, '{}')
    )
    returning l.* into lead;
  end if;
  if lead.over_limit and not is_service then
    lead.source := null;
    lead.utm := '{}';
    lead.respostas := '{}';
    lead.metadata := '{}';
    lead.lost_reason := null;
  end if;
  return lead;
end;
$$;
comment on function private.create_lead(uuid, uuid, text, jsonb, jsonb, jsonb, uuid) is 'See public.create_lead().';
grant execute on function private.create_lead(uuid, uuid, text, jsonb, jsonb, jsonb, uuid) to authenticated, service_role;

create function public.create_lead(
  contact_id uuid,
  professional_id uuid default null,
  source text default null,
  utm jsonb default '{}',
  respostas jsonb default '{}',
  metadata jsonb default '{}',
  organization_id uuid default public.user_organization_id()
)
returns public.leads
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.create_lead(contact_id, professional_id, source, utm, respostas, metadata, organization_id);
end;
$$;
comment on function public.create_lead(uuid, uuid, text, jsonb, jsonb, jsonb, uuid) is
  'The lead of a contact and professional: a new one, or the one that is there, in whatever status, with the new answers and metadata laid over its own (source and utm stay those of the first time). Beyond the plan''s leads of the month it is kept with over_limit and hidden until an upgrade: the answer then tells nothing of what it holds, and new answers are laid under those that are there. Where lead_visibility is own, an attendant makes only leads of the professional that he is. Attendants and up. Errors: not_allowed, contact_not_found, professional_not_available.';
grant execute on function public.create_lead(uuid, uuid, text, jsonb, jsonb, jsonb, uuid) to authenticated, service_role;
