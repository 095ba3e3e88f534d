-- Contacts: the people who write, every id by which WhatsApp knows them, and their animals.

create type public.contact_status as enum ('active', 'inactive', 'blocked');
create type public.identity_kind as enum ('phone', 'wa_id', 'jid', 'lid', 'bsuid');
comment on type public.identity_kind is
  'wa_id and bsuid are Meta''s (a BSUID hides the phone), jid and lid are Baileys''; phone is a number without an id of its own.';

-- contacts ------------------------------------------------------------------------------------------------------

create table public.contacts (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  phone_number text,
  name text,
  profile_name text,
  email text,
  cpf text,
  birth_date date,
  status public.contact_status not null default 'active',
  source text,
  tags text[] not null default '{}',
  address jsonb not null default '{}',
  preferences jsonb not null default '{}',
  preferred_location_id uuid,
  preferred_professional_id uuid,
  opted_in_at timestamptz,
  opted_out_at timestamptz,
  last_interaction_at timestamptz,
  identity_changed_at timestamptz,
  merged_into_id uuid,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint contacts_pkey primary key (organization_id, id),
  constraint contacts_organization_id_fkey foreign key (organization_id) references public.organizations (id),
  constraint contacts_preferred_location_id_fkey foreign key (organization_id, preferred_location_id)
    references public.locations (organization_id, id) on delete set null (preferred_location_id),
  constraint contacts_preferred_professional_id_fkey foreign key (organization_id, preferred_professional_id)
    references public.professionals (organization_id, id) on delete set null (preferred_professional_id),
  constraint contacts_merged_into_id_fkey foreign key (organization_id, merged_into_id)
    references public.contacts (organization_id, id) on delete cascade,
  constraint contacts_organization_id_phone_number_key unique (organization_id, phone_number),
  constraint contacts_merged_into_id_is_another_check check (merged_into_id <> id),
  constraint contacts_name_length_check check (length(name) <= 200),
  constraint contacts_email_format_check check (email ~ '^[^@\s]+@[^@\s]+\.[^@\s]+$' and length(email) <= 254),
  constraint contacts_cpf_has_eleven_digits_check check (cpf ~ '^[0-9]{11}$'),
  constraint contacts_address_is_object_check check (jsonb_typeof(address) = 'object'),
  constraint contacts_preferences_is_object_check check (jsonb_typeof(preferences) = 'object'),
  constraint contacts_metadata_is_object_check check (jsonb_typeof(metadata) = 'object')
);
comment on table public.contacts is 'Customers, tutors, patients, leads'' persons: one row per person and organization.';
comment on column public.contacts.phone_number is
  'Canonical E.164; any usual spelling may be written. Null when WhatsApp hides it (username) and nobody asked yet.';
comment on column public.contacts.profile_name is 'What the person calls himself on WhatsApp; name is what the organization calls him.';
comment on column public.contacts.status is 'blocked (Healz''s suspended): messages are still stored, nothing automatic answers.';
comment on column public.contacts.identity_changed_at is
  'When the provider last announced a new number or id: an older announcement that comes again changes nothing.';
comment on column public.contacts.opted_out_at is 'Since when the person wants no marketing.';
comment on column public.contacts.merged_into_id is
  'The contact that this one turned out to be (merge_contacts). What is left here is its number, which leads to the other, until the merge is undone; apps do not see it. Always one step: the other is never merged itself.';
create index contacts_preferred_location_id_idx on public.contacts (organization_id, preferred_location_id)
  where preferred_location_id is not null;
create index contacts_preferred_professional_id_idx on public.contacts (organization_id, preferred_professional_id)
  where preferred_professional_id is not null;
create index contacts_created_at_idx on public.contacts (organization_id, created_at desc);
comment on index public.contacts_created_at_idx is 'The newest customers; how many came today.';
create index contacts_merged_into_id_idx on public.contacts (organization_id, merged_into_id)
  where merged_into_id is not null;

alter table public.contacts enable row level security;
alter table public.contacts force row level security;
create policy "Members can read their organization's contacts" on public.contacts
  for select to authenticated
  using (merged_into_id is null and organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
create policy "Attendants can add contacts to their organization" on public.contacts
  for insert to authenticated
  with check (merged_into_id is null and organization_id = any ((select private.member_organizations('attendant'))::uuid[]));
create policy "Attendants can update their organization's contacts" on public.contacts
  for update to authenticated
  using (merged_into_id is null and organization_id = any ((select private.member_organizations('attendant'))::uuid[]))
  with check (merged_into_id is null and organization_id = any ((select private.member_organizations('attendant'))::uuid[]));
create policy "Admins can delete their organization's contacts" on public.contacts
  for delete to authenticated
  using (merged_into_id is null and organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.contacts from public, anon, authenticated, service_role;
grant select, insert, update, delete on public.contacts to authenticated, service_role;

create function private.tg_contacts__tidy()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  new.name := nullif(btrim(new.name), '');
  new.email := nullif(lower(btrim(new.email)), '');
  new.cpf := nullif(regexp_replace(new.cpf, '[.\s-]', '', 'g'), '');
  return new;
end;
$$;
comment on function private.tg_contacts__tidy() is 'Trigger: no blanks around names, e-mail in lower case, CPF as digits.';

create trigger contacts_100_touch_updated_at
  before update on public.contacts
  for each row execute function private.tg_touch_updated_at();
create trigger contacts_500_normalize_phone
  before insert or update of phone_number on public.contacts
  for each row when (new.phone_number is not null) execute function private.tg_normalize_phone('phone_number');
create trigger contacts_500_tidy
  before insert or update of name, email, cpf on public.contacts
  for each row execute function private.tg_contacts__tidy();

create function private.tg_contacts__take_over_number()
returns trigger
language plpgsql
volatile
security definer -- nobody else sees merged contacts
set search_path = ''
as $$
begin
  update public.contacts p
  set phone_number = null
  where p.organization_id = new.organization_id
    and p.phone_number = new.phone_number
    and p.merged_into_id = new.id;
  return new;
end;
$$;
comment on function private.tg_contacts__take_over_number() is
  'Trigger: a contact may take the number that one which was merged into it has left; nobody could see why not.';
create trigger contacts_900_take_over_number
  before update of phone_number on public.contacts
  for each row when (new.phone_number is not null and new.phone_number is distinct from old.phone_number)
  execute function private.tg_contacts__take_over_number();

create function private.tg_contacts__refuse_left_number()
returns trigger
language plpgsql
volatile
security definer -- nobody else sees merged contacts
set search_path = ''
as $$
declare
  survivor uuid;
begin
  -- Told to nobody who may not see the other one either. A delivery, which looks for the survivor itself, and an import
  -- with the service key come by "on conflict", and past this.
  if new.organization_id = any (private.member_organizations('attendant')) then
    select p.merged_into_id into survivor
    from public.contacts p
    where p.organization_id = new.organization_id
      and p.phone_number = new.phone_number
      and p.merged_into_id <> new.id;
    if found then
      perform private.raise_error('BL409', 'contact_exists', 'This number leads to another contact, since two were merged',
        jsonb_build_object('contact_id', survivor));
    end if;
  end if;
  return new;
end;
$$;
comment on function private.tg_contacts__refuse_left_number() is
  'Trigger: whose number a merged contact left behind, when somebody wants to give it to a third one. Says in words what the key would say by its name, of a row that nobody sees.';
create trigger contacts_900_refuse_left_number
  before insert or update of phone_number on public.contacts
  for each row when (new.phone_number is not null)
  execute function private.tg_contacts__refuse_left_number();

create function private.surviving_contact(organization_id uuid, contact_id uuid, to_write boolean default false)
returns uuid
language plpgsql
volatile
set search_path = ''
as $$
declare
  survivor uuid;
  it_stands boolean;
begin
  loop
    select coalesce(p.merged_into_id, p.id) into survivor
    from public.contacts p
    where p.organization_id = surviving_contact.organization_id and p.id = surviving_contact.contact_id;
    if not found then
      perform private.raise_error('BL402', 'contact_not_found', 'This organization has no such contact',
        jsonb_build_object('contact_id', contact_id));
    end if;
    begin
      if to_write then
        perform
        from public.contacts p
        where p.organization_id = surviving_contact.organization_id and p.id = survivor
        for no key update;
      else
        perform
        from public.contacts p
        where p.organization_id = surviving_contact.organization_id and p.id = survivor
        for key share;
      end if;
      it_stands := exists (
        select
        from public.contacts p
        where p.organization_id = surviving_contact.organization_id
          and p.id = surviving_contact.contact_id
          and coalesce(p.merged_into_id, p.id) = survivor
      );
      if not it_stands then
        -- Merged, or taken apart, before we had the lock. It is given back before we wait for the other one's.
        raise exception sqlstate 'BL000';
      end if;
    exception when sqlstate 'BL000' then
      null;
    end;
    exit when it_stands;
  end loop;
  return survivor;
end;
$$;
comment on function private.surviving_contact(uuid, uuid, boolean) is
  'The contact that this one is today, kept from being merged until the transaction ends; or error contact_not_found. For whatever writes a row that names a contact. Who will write the contact itself, or wants to be alone with it, says so: whoever holds less and then wants more meets somebody who does the same.';

-- contact_identities ----------------------------------------------------------------------------------------------

create table public.contact_identities (
  organization_id uuid not null,
  id uuid not null default private.uuid_v7(),
  contact_id uuid not null,
  instance_id uuid not null,
  kind public.identity_kind not null,
  value text not null,
  created_at timestamptz not null default now(),
  constraint contact_identities_pkey primary key (organization_id, id),
  constraint contact_identities_contact_id_fkey foreign key (organization_id, contact_id)
    references public.contacts (organization_id, id) on delete cascade,
  constraint contact_identities_instance_id_fkey foreign key (organization_id, instance_id)
    references public.whatsapp_instances (organization_id, id) on delete cascade,
  constraint contact_identities_instance_id_kind_value_key unique (organization_id, instance_id, kind, value),
  constraint contact_identities_value_length_check check (length(value) between 1 and 255)
);
comment on table public.contact_identities is
  'Every id under which a contact has written, verbatim: how an inbound id finds its contact and what a reply is addressed to.';
create index contact_identities_contact_id_idx on public.contact_identities (organization_id, contact_id);

alter table public.contact_identities enable row level security;
alter table public.contact_identities force row level security;
create policy "Members can read their organization's contact identities" on public.contact_identities
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
revoke all on public.contact_identities from public, anon, authenticated, service_role;
grant select on public.contact_identities to authenticated;
grant select, insert, update, delete on public.contact_identities to service_role;

-- pets ------------------------------------------------------------------------------------------------------------

create table public.pets (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  contact_id uuid not null,
  name text not null,
  species text,
  breed text,
  birth_date date,
  weight_grams int,
  medical_notes text,
  is_active boolean not null default true,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint pets_pkey primary key (organization_id, id),
  constraint pets_contact_id_fkey foreign key (organization_id, contact_id)
    references public.contacts (organization_id, id) on delete cascade,
  constraint pets_name_length_check check (length(btrim(name)) between 1 and 80),
  constraint pets_species_length_check check (length(species) <= 40),
  constraint pets_breed_length_check check (length(breed) <= 80),
  constraint pets_weight_grams_check check (weight_grams between 1 and 2000000),
  constraint pets_medical_notes_length_check check (length(medical_notes) <= 4000)
);
comment on table public.pets is 'The animals of a tutor (contact).';
comment on column public.pets.medical_notes is 'Allergies, illnesses, temper: what whoever treats the animal must know.';
comment on column public.pets.is_active is 'False when the animal died or moved away: its history stays.';
create index pets_contact_id_idx on public.pets (organization_id, contact_id);

alter table public.pets enable row level security;
alter table public.pets force row level security;
create policy "Members can read their organization's pets" on public.pets
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
create policy "Attendants can add pets to their organization" on public.pets
  for insert to authenticated
  with check (organization_id = any ((select private.member_organizations('attendant'))::uuid[]));
create policy "Attendants can update their organization's pets" on public.pets
  for update to authenticated
  using (organization_id = any ((select private.member_organizations('attendant'))::uuid[]))
  with check (organization_id = any ((select private.member_organizations('attendant'))::uuid[]));
create policy "Admins can delete their organization's pets" on public.pets
  for delete to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.pets from public, anon, authenticated, service_role;
grant select, insert, update, delete on public.pets to authenticated, service_role;

create trigger pets_100_touch_updated_at
  before update on public.pets
  for each row execute function private.tg_touch_updated_at();

create function private.tg_pets__find_survivor()
returns trigger
language plpgsql
volatile
security definer -- whoever writes an animal may not be allowed to lock contacts, and does not see merged ones
set search_path = ''
as $$
begin
  if tg_op = 'UPDATE' and new.contact_id = old.contact_id then
    return new;
  end if;
  -- Whether there is such a contact only he learns who may add an animal: from the foreign key, after the policies.
  if exists (
    select from public.contacts p where p.organization_id = new.organization_id and p.id = new.contact_id
  ) then
    new.contact_id := private.surviving_contact(new.organization_id, new.contact_id);
  end if;
  return new;
end;
$$;
comment on function private.tg_pets__find_survivor() is 'Trigger: an animal that is given to a merged contact is the survivor''s.';
create trigger pets_500_find_survivor
  before insert or update of contact_id on public.pets
  for each row execute function private.tg_pets__find_survivor();
