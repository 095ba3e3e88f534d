-- A/B tests: which of two texts brings more bookings.

create type public.ab_variant as enum ('a', 'b');

-- ab_tests ------------------------------------------------------------------------------------------------------------

create table public.ab_tests (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  name text not null,
  template_id uuid,
  variant_a text not null,
  variant_b text not null,
  start_date timestamptz not null default now(),
  end_date timestamptz,
  active boolean not null default true,
  conversion_window_days int not null default 30,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint ab_tests_pkey primary key (organization_id, id),
  constraint ab_tests_organization_id_fkey foreign key (organization_id) references public.organizations (id),
  constraint ab_tests_template_id_fkey foreign key (organization_id, template_id)
    references public.message_templates (organization_id, id) on delete set null (template_id),
  constraint ab_tests_name_key unique (organization_id, name),
  constraint ab_tests_name_length_check check (length(btrim(name)) between 1 and 120),
  constraint ab_tests_end_date_check check (end_date > start_date),
  constraint ab_tests_conversion_window_days_check check (conversion_window_days between 1 and 365)
);
comment on table public.ab_tests is 'Which of two texts works better: each contact always gets the same one, and who books afterwards is counted.';
comment on column public.ab_tests.template_id is 'Whose text the variants replace while the test runs; null: a flow''s condition asks for the variant (teste.<name>).';
comment on column public.ab_tests.conversion_window_days is 'A booking made within so many days counts as a success of the text.';
create index ab_tests_template_id_idx on public.ab_tests (organization_id, template_id) where template_id is not null;

alter table public.ab_tests enable row level security;
alter table public.ab_tests force row level security;
create policy "Members can read their organization's tests" on public.ab_tests
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
create policy "Admins can add tests to their organization" on public.ab_tests
  for insert to authenticated
  with check (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
create policy "Admins can update their organization's tests" on public.ab_tests
  for update to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]))
  with check (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
create policy "Admins can delete their organization's tests" on public.ab_tests
  for delete to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.ab_tests from public, anon, authenticated, service_role;
grant select, insert, update, delete on public.ab_tests to authenticated, service_role;

create table public.ab_test_assignments (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  ab_test_id uuid not null,
  contact_id uuid not null,
  variant public.ab_variant not null,
  assigned_at timestamptz not null default now(),
  converted_at timestamptz,
  constraint ab_test_assignments_pkey primary key (organization_id, id),
  constraint ab_test_assignments_ab_test_id_fkey foreign key (organization_id, ab_test_id)
    references public.ab_tests (organization_id, id) on delete cascade,
  constraint ab_test_assignments_contact_id_fkey foreign key (organization_id, contact_id)
    references public.contacts (organization_id, id) on delete cascade,
  constraint ab_test_assignments_contact_id_key unique (organization_id, ab_test_id, contact_id)
);
comment on table public.ab_test_assignments is 'Who was shown which text, and whether it worked. Written by private.ab_variant() and by what counts successes.';
create index ab_test_assignments_contact_id_idx on public.ab_test_assignments (organization_id, contact_id);

alter table public.ab_test_assignments enable row level security;
alter table public.ab_test_assignments force row level security;
create policy "Members can read their organization's test assignments" on public.ab_test_assignments
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
revoke all on public.ab_test_assignments from public, anon, authenticated, service_role;
grant select on public.ab_test_assignments to authenticated;
grant select, insert, update, delete on public.ab_test_assignments to service_role;

create function private.tg_ab_tests__check()
returns trigger
language plpgsql
volatile
security definer -- whether the test has begun is asked past the caller's own view of it
set search_path = ''
as $$
declare
  category public.message_category;
begin
  if tg_op = 'UPDATE' and (old.variant_a, old.variant_b) <> (new.variant_a, new.variant_b) and exists (
    select
    from public.ab_test_assignments s
    where s.organization_id = old.organization_id and s.ab_test_id = old.id
  ) then
    perform private.raise_error('BL701', 'invalid_template', 'Somebody was shown these texts already: a changed text is another test',
      '{"problems": [{"problem": "test_has_begun"}]}');
  end if;
  select t.category into category
  from public.message_templates t
  where t.organization_id = new.organization_id and t.id = new.template_id;
  -- Of a flow's texts the flow knows the variables.
  if category is not null then
    perform private.require_template(category, new.variant_a);
    perform private.require_template(category, new.variant_b);
  end if;
  return new;
end;
$$;
comment on function private.tg_ab_tests__check() is
  'Trigger: error invalid_template for a variant that would not read well in its template''s place, or for one that is changed after it was shown.';
create trigger ab_tests_100_touch_updated_at
  before update on public.ab_tests
  for each row execute function private.tg_touch_updated_at();
create trigger ab_tests_500_check
  before insert or update of variant_a, variant_b, template_id on public.ab_tests
  for each row execute function private.tg_ab_tests__check();

create function private.ab_variant(ab_test_id uuid, contact_id uuid, organization_id uuid, at timestamptz default now())
returns public.ab_variant
language plpgsql
volatile
security definer -- assignments are written through functions only
set search_path = ''
as $$
declare
  assigned public.ab_variant;
  -- Of the test too: in the next test others are in the first half.
  half constant public.ab_variant :=
    case get_byte(decode(md5(ab_test_id || ':' || contact_id), 'hex'), 0) & 1 when 0 then 'a' else 'b' end::public.ab_variant;
begin
  select s.variant into assigned
  from public.ab_test_assignments s
  where s.organization_id = ab_variant.organization_id
    and s.ab_test_id = ab_variant.ab_test_id
    and s.contact_id = ab_variant.contact_id;
  if found then
    return assigned;
  end if;
  insert into public.ab_test_assignments (organization_id, ab_test_id, contact_id, variant, assigned_at)
  select t.organization_id, t.id, ab_variant.contact_id, half, at
  from public.ab_tests t
  where t.organization_id = ab_variant.organization_id
    and t.id = ab_variant.ab_test_id
    and t.active
    and t.start_date <= at
    and (t.end_date is null or t.end_date > at)
  on conflict on constraint ab_test_assignments_contact_id_key do nothing;
  if found or exists (
    select
    from public.ab_test_assignments s
    where s.organization_id = ab_variant.organization_id
      and s.ab_test_id = ab_variant.ab_test_id
      and s.contact_id = ab_variant.contact_id
  ) then
    return half;
  end if;
  return null;
end;
$$;
comment on function private.ab_variant(uuid, uuid, uuid, timestamptz) is
  'Which variant of a test a contact is shown, always the same one; the first time is noted. Null: the test does not run, and has never met him.';
grant execute on function private.ab_variant(uuid, uuid, uuid, timestamptz) to service_role;

create function private.tested_template(template public.message_templates, contact_id uuid, at timestamptz default now())
returns text
language plpgsql
volatile
set search_path = ''
as $$
declare
  test public.ab_tests;
begin
  select t.* into test
  from public.ab_tests t
  where t.organization_id = template.organization_id
    and t.template_id = template.id
    and t.active
    and t.start_date <= at
    and (t.end_date is null or t.end_date > at)
  order by t.id desc
  limit 1;
  if not found then
    return template.template;
  end if;
  return case private.ab_variant(test.id, contact_id, test.organization_id, at) when 'b' then test.variant_b else test.variant_a end;
end;
$$;
comment on function private.tested_template(public.message_templates, uuid, timestamptz) is
  'A template''s text for a contact: while a test runs on it, the contact''s variant.';

create function private.unassign_variants(organization_id uuid, contact_id uuid, assigned_at timestamptz)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  delete from public.ab_test_assignments s
  using public.ab_tests t
  where s.organization_id = unassign_variants.organization_id
    and s.contact_id = unassign_variants.contact_id
    and s.assigned_at = unassign_variants.assigned_at
    and s.converted_at is null
    and t.organization_id = s.organization_id
    and t.id = s.ab_test_id
    and t.template_id is not null;
end;
$$;
comment on function private.unassign_variants(uuid, uuid, timestamptz) is
  'A template''s text that was to be shown to a contact at that moment was not: it takes no part in the counting.';

create function private.count_conversions(organization_id uuid, contact_id uuid, at timestamptz default now())
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  update public.ab_test_assignments s
  set converted_at = at
  from public.ab_tests t
  where s.organization_id = count_conversions.organization_id
    and s.contact_id = count_conversions.contact_id
    and s.converted_at is null
    and t.organization_id = s.organization_id
    and t.id = s.ab_test_id
    and s.assigned_at <= at
    and s.assigned_at > at - make_interval(days => t.conversion_window_days);
end;
$$;
comment on function private.count_conversions(uuid, uuid, timestamptz) is 'A contact booked: every text that he was shown not long ago has worked.';

create function private.require_ab_test(organization_id uuid, ab_test_id uuid)
returns public.ab_tests
language plpgsql
stable
set search_path = ''
as $$
declare
  test public.ab_tests;
begin
  select t.* into test
  from public.ab_tests t
  where t.organization_id = require_ab_test.organization_id and t.id = require_ab_test.ab_test_id;
  if not found then
    perform private.raise_error('BL704', 'ab_test_not_found', 'This organization has no such test');
  end if;
  return test;
end;
$$;
comment on function private.require_ab_test(uuid, uuid) is 'The test, or error ab_test_not_found.';

create function private.record_ab_test_conversion(ab_test_id uuid, contact_id uuid, organization_id uuid)
returns public.ab_test_assignments
language plpgsql
volatile
security definer -- assignments are written through functions only
set search_path = ''
as $$
declare
  assignment public.ab_test_assignments;
begin
  perform private.require_role(organization_id, 'attendant');
  perform private.require_ab_test(organization_id, ab_test_id);
  update public.ab_test_assignments s
  set converted_at = coalesce(s.converted_at, now())
  where s.organization_id = record_ab_test_conversion.organization_id
    and s.ab_test_id = record_ab_test_conversion.ab_test_id
    and s.contact_id = record_ab_test_conversion.contact_id
  returning s.* into assignment;
  if not found then
    perform private.raise_error('BL402', 'contact_not_found', 'This contact was not shown any text of this test',
      jsonb_build_object('contact_id', contact_id));
  end if;
  return assignment;
end;
$$;
comment on function private.record_ab_test_conversion(uuid, uuid, uuid) is 'See public.record_ab_test_conversion().';
grant execute on function private.record_ab_test_conversion(uuid, uuid, uuid) to authenticated, service_role;

create function public.record_ab_test_conversion(
  ab_test_id uuid,
  contact_id uuid,
  organization_id uuid default public.user_organization_id()
)
returns public.ab_test_assignments
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.record_ab_test_conversion(ab_test_id, contact_id, organization_id);
end;
$$;
comment on function public.record_ab_test_conversion(uuid, uuid, uuid) is
  'Notes that a text has worked with a contact, by whatever measure; bookings are noted by themselves. Twice is once. Attendants and up. Errors: not_allowed, ab_test_not_found, contact_not_found (he is not part of the test).';
grant execute on function public.record_ab_test_conversion(uuid, uuid, uuid) to authenticated, service_role;

create function private.two_sided_p(z double precision)
returns double precision
language plpgsql
immutable
strict
parallel safe
set search_path = ''
as $$
declare
  x constant double precision := abs(z) / sqrt(2.0);
  term double precision := x;
  sum double precision := x;
  fraction double precision := 0;
begin
  -- erfc(x), which Postgres has from version 16 on: near zero by its power series, further out by its continued fraction.
  if x > 26 then
    return 0;
  elsif x < 3 then
    for n in 1 .. 80 loop
      term := -term * x * x / n;
      sum := sum + term / (2 * n + 1);
    end loop;
    return 1 - 2 / sqrt(pi()) * sum;
  end if;
  for n in reverse 60 .. 1 loop
    fraction := (n / 2.0) / (x + fraction);
  end loop;
  return exp(-x * x) / (sqrt(pi()) * (x + fraction));
end;
$$;
comment on function private.two_sided_p(double precision) is 'How often chance alone is as far from zero as this z, to either side.';

create function private.get_ab_test_results(ab_test_id uuid, organization_id uuid)
returns jsonb
language plpgsql
stable
security definer -- counts for those who may read
set search_path = ''
as $$
declare
  test public.ab_tests;
  shown double precision[] := array[0, 0];
  converted double precision[] := array[0, 0];
  pooled double precision;
  z double precision;
begin
  perform private.require_role(organization_id, 'viewer');
  test := private.require_ab_test(organization_id, ab_test_id);
  select
    array[count(*) filter (where s.variant = 'a'), count(*) filter (where s.variant = 'b')],
    array[count(s.converted_at) filter (where s.variant = 'a'), count(s.converted_at) filter (where s.variant = 'b')]
  into shown, converted
  from public.ab_test_assignments s
  where s.organization_id = test.organization_id and s.ab_test_id = test.id;
  pooled := (converted[1] + converted[2]) / nullif(shown[1] + shown[2], 0);
  z := (converted[2] / nullif(shown[2], 0) - converted[1] / nullif(shown[1], 0))
    / nullif(sqrt(pooled * (1 - pooled) * (1 / nullif(shown[1], 0) + 1 / nullif(shown[2], 0))), 0);
  return jsonb_build_object(
    'ab_test_id', test.id,
    'name', test.name,
    'a', jsonb_build_object('assigned', shown[1], 'converted', converted[1], 'rate', converted[1] / nullif(shown[1], 0)),
    'b', jsonb_build_object('assigned', shown[2], 'converted', converted[2], 'rate', converted[2] / nullif(shown[2], 0)),
    'z', z,
    'p_value', private.two_sided_p(z));
end;
$$;
comment on function private.get_ab_test_results(uuid, uuid) is 'See public.get_ab_test_results().';
grant execute on function private.get_ab_test_results(uuid, uuid) to authenticated, service_role;

create function public.get_ab_test_results(ab_test_id uuid, organization_id uuid default public.user_organization_id())
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return private.get_ab_test_results(ab_test_id, organization_id);
end;
$$;
comment on function public.get_ab_test_results(uuid, uuid) is
  'How two texts do: {ab_test_id, name, a {assigned, converted, rate}, b {…}, z, p_value}. p_value is that of a two-sided test of two proportions: how often chance alone makes such a difference; null while there is nothing to compare. Viewers and up. Errors: not_allowed, ab_test_not_found.';
grant execute on function public.get_ab_test_results(uuid, uuid) to authenticated, service_role;
