-- Membership: how people come into an organization, change rank, and leave.
--
-- Nobody hands out or takes away a role above the own one, and an organization always keeps an owner. Whatever changes
-- members locks their organization first, and asks again who the caller is once it has the lock.

-- organization_invitations ----------------------------------------------------------------------------------------

create table public.organization_invitations (
  organization_id uuid not null,
  id uuid not null default private.uuid_v7(),
  email text not null,
  role public.member_role not null,
  token_hash bytea not null,
  invited_by uuid,
  expires_at timestamptz not null default now() + interval '7 days',
  accepted_at timestamptz,
  accepted_by uuid,
  created_at timestamptz not null default now(),
  constraint organization_invitations_pkey primary key (organization_id, id),
  constraint organization_invitations_organization_id_fkey foreign key (organization_id)
    references public.organizations (id) on delete cascade,
  constraint organization_invitations_invited_by_fkey foreign key (organization_id, invited_by)
    references public.user_roles (organization_id, user_id) on delete set null (invited_by),
  constraint organization_invitations_accepted_by_fkey foreign key (organization_id, accepted_by)
    references public.user_roles (organization_id, user_id) on delete set null (accepted_by),
  constraint organization_invitations_token_hash_key unique (token_hash),
  constraint organization_invitations_email_format_check
    check (email = lower(email) and email ~ '^[^@\s]+@[^@\s]+\.[^@\s]+$' and length(email) <= 254)
);
comment on table public.organization_invitations is 'Open and accepted invitations. The token itself is shown once, to the inviter; only its SHA-256 is kept.';
create unique index organization_invitations_one_open_per_email_idx
  on public.organization_invitations (organization_id, email) where accepted_at is null;

alter table public.organization_invitations enable row level security;
alter table public.organization_invitations force row level security;
create policy "Admins can read their organization's invitations" on public.organization_invitations
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
create policy "Admins can withdraw invitations below an owner's" on public.organization_invitations
  for delete to authenticated
  using (
    organization_id = any ((select private.member_organizations('admin'))::uuid[])
    and (role < 'owner' or organization_id = any ((select private.member_organizations('owner'))::uuid[]))
  );
revoke all on public.organization_invitations from public, anon, authenticated, service_role;
grant select (organization_id, id, email, role, invited_by, expires_at, accepted_at, accepted_by, created_at)
  on public.organization_invitations to authenticated, service_role;
grant delete on public.organization_invitations to authenticated, service_role;

-- Members -------------------------------------------------------------------------------------------------------

create function private.own_role(organization_id uuid)
returns public.member_role
language plpgsql
stable
security definer -- reads memberships past their policies
set search_path = ''
as $$
begin
  return case
    when private.is_service() then 'owner'
    else (
      select m.role
      from public.user_roles m
      where m.organization_id = own_role.organization_id
        and m.user_id = auth.uid()
        and m.is_active
    )
  end;
end;
$$;
comment on function private.own_role(uuid) is 'The caller''s role in an organization; the platform counts as owner.';

create function private.require_rank(organization_id uuid, role public.member_role)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  -- Who is no member any more has no rank: null is a refusal, too.
  if (role <= private.own_role(organization_id)) is not true then
    perform private.raise_error('BL002', 'not_allowed', format('Only an %s may give or take the role %s', role, role),
      jsonb_build_object('minimum_role', role));
  end if;
end;
$$;
comment on function private.require_rank(uuid, public.member_role) is 'Nobody hands out, or takes away, a role above the own one.';

create function private.lock_members(organization_id uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  -- Membership changes of one organization happen one after the other, or two owners could both leave as "not the last".
  perform from public.organizations o where o.id = lock_members.organization_id for no key update;
end;
$$;
comment on function private.lock_members(uuid) is 'Serialises the membership changes of one organization.';

create function private.withdraw_invitations(organization_id uuid, user_id uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  delete from public.organization_invitations i
  where i.organization_id = withdraw_invitations.organization_id
    and i.accepted_at is null
    and (
      i.invited_by = withdraw_invitations.user_id
      or i.email = (select lower(u.email) from auth.users u where u.id = withdraw_invitations.user_id)
    );
end;
$$;
comment on function private.withdraw_invitations(uuid, uuid) is
  'Whoever loses a role also loses the open invitations that he wrote or that wait for him: they would give it back.';

create function private.require_another_owner(organization_id uuid, leaving uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  if exists (
    select
    from public.user_roles m
    where m.organization_id = require_another_owner.organization_id
      and m.user_id = leaving and m.role = 'owner' and m.is_active
  ) and not exists (
    select
    from public.user_roles m
    where m.organization_id = require_another_owner.organization_id
      and m.user_id <> leaving and m.role = 'owner' and m.is_active
  ) then
    perform private.raise_error('BL011', 'last_owner', 'The last owner cannot leave or step down',
      hint => 'Make someone else an owner first.');
  end if;
end;
$$;
comment on function private.require_another_owner(uuid, uuid) is 'An organization always keeps an owner.';

create function private.invite_member(email text, role public.member_role, organization_id uuid)
returns jsonb
language plpgsql
volatile
security definer -- people have no INSERT on invitations: rank is checked here
set search_path = ''
as $$
#variable_conflict use_column
declare
  address constant text := lower(btrim(email));
  token constant text := translate(encode(extensions.gen_random_bytes(32), 'base64'), '+/=', '-_');
  invitation public.organization_invitations;
begin
  perform private.require_role(organization_id, 'admin');
  -- An open invitation is replaced: to take one away also needs its rank.
  perform private.require_rank(organization_id, greatest(role, (
    select i.role
    from public.organization_invitations i
    where i.organization_id = invite_member.organization_id and i.email = address and i.accepted_at is null
  )));
  if address is null or address !~ '^[^@\s]+@[^@\s]+\.[^@\s]+$' or length(address) > 254 then
    perform private.raise_error('BL008', 'invalid_email', 'This is not an e-mail address');
  end if;
  insert into public.organization_invitations as i (organization_id, email, role, token_hash, invited_by)
  values (
    invite_member.organization_id, address, invite_member.role, sha256(token::bytea),
    -- The platform's own invitations name nobody.
    (
      select m.user_id
      from public.user_roles m
      where m.organization_id = invite_member.organization_id and m.user_id = auth.uid()
    )
  )
  on conflict (organization_id, email) where accepted_at is null do update set
    role = excluded.role,
    token_hash = excluded.token_hash,
    invited_by = excluded.invited_by,
    expires_at = excluded.expires_at
  returning i.* into invitation;
  return to_jsonb(invitation) - 'token_hash' || jsonb_build_object('token', token);
end;
$$;
comment on function private.invite_member(text, public.member_role, uuid) is 'See public.invite_member().';
grant execute on function private.invite_member(text, public.member_role, uuid) to authenticated, service_role;

create function public.invite_member(
  email text,
  role public.member_role,
  organization_id uuid default public.user_organization_id()
)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.invite_member(email, role, organization_id);
end;
$$;
comment on function public.invite_member(text, public.member_role, uuid) is
  'Invites a person by e-mail for 7 days; returns the invitation with its token, shown this once. Inviting again replaces the token. Admins and up, never above the own role. Errors: not_allowed, invalid_email.';
grant execute on function public.invite_member(text, public.member_role, uuid) to authenticated, service_role;

create function private.accept_invitation(token text)
returns public.user_roles
language plpgsql
volatile
security definer -- the caller is no member yet
set search_path = ''
as $$
declare
  caller constant uuid := private.require_user();
  invitation public.organization_invitations;
  membership public.user_roles;
begin
  select i.* into invitation
  from public.organization_invitations i
  where i.token_hash = sha256(convert_to(coalesce(token, ''), 'UTF8'));
  if not found then
    perform private.raise_error('BL009', 'invitation_not_found', 'There is no such invitation, or it was withdrawn');
  end if;
  perform private.lock_members(invitation.organization_id);
  select i.* into invitation
  from public.organization_invitations i
  where i.organization_id = invitation.organization_id and i.id = invitation.id
  for update;

  if not found then
    perform private.raise_error('BL009', 'invitation_not_found', 'There is no such invitation, or it was withdrawn');
  elsif invitation.email is distinct from lower(auth.jwt() ->> 'email') then
    perform private.raise_error('BL010', 'invitation_not_yours', 'This invitation was sent to another e-mail address');
  elsif invitation.accepted_at is not null then
    -- Accepting again is no error for the person who did: a retry, or a second click.
    select m.* into membership
    from public.user_roles m
    where m.organization_id = invitation.organization_id and m.user_id = caller and invitation.accepted_by = caller;
    if not found then
      perform private.raise_error('BL012', 'invitation_used', 'This invitation was used already');
    end if;
    return membership;
  elsif invitation.expires_at <= now() then
    perform private.raise_error('BL013', 'invitation_expired', 'This invitation has expired',
      jsonb_build_object('expired_at', invitation.expires_at), 'Ask for a new one.');
  end if;

  insert into public.user_roles as m (organization_id, user_id, role)
  values (invitation.organization_id, caller, invitation.role)
  on conflict (organization_id, user_id) do update set
    -- An old invitation does not take away what an active member has been given since.
    role = case when m.is_active then greatest(m.role, excluded.role) else excluded.role end,
    is_active = true
  returning m.* into membership;
  update public.organization_invitations i
  set accepted_at = now(), accepted_by = caller
  where i.organization_id = invitation.organization_id and i.id = invitation.id;
  return membership;
end;
$$;
comment on function private.accept_invitation(text) is 'See public.accept_invitation().';
grant execute on function private.accept_invitation(text) to authenticated;

create function public.accept_invitation(token text)
returns public.user_roles
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.accept_invitation(token);
end;
$$;
comment on function public.accept_invitation(text) is
  'Makes the caller a member; returns the membership. The caller''s e-mail must be the invited one. Accepting twice gives the same answer. Errors: not_authenticated, invitation_not_found, invitation_not_yours, invitation_used, invitation_expired.';
grant execute on function public.accept_invitation(text) to authenticated;

create function private.change_member_role(user_id uuid, role public.member_role, organization_id uuid)
returns public.user_roles
language plpgsql
volatile
security definer -- people have no UPDATE on memberships: rank and the last owner are checked here
set search_path = ''
as $$
declare
  membership public.user_roles;
begin
  perform private.require_role(organization_id, 'admin');
  perform private.lock_members(organization_id);
  -- Again: the caller may have been removed while he waited.
  perform private.require_role(organization_id, 'admin');
  select m.* into membership
  from public.user_roles m
  where m.organization_id = change_member_role.organization_id and m.user_id = change_member_role.user_id;
  if not found then
    perform private.raise_error('BL014', 'member_not_found', 'This person is not a member of the organization');
  end if;
  perform private.require_rank(organization_id, greatest(role, membership.role));
  if role < 'owner' then
    perform private.require_another_owner(organization_id, user_id);
  end if;
  if role < membership.role then
    perform private.withdraw_invitations(organization_id, user_id);
  end if;
  update public.user_roles m
  set role = change_member_role.role
  where m.organization_id = change_member_role.organization_id and m.user_id = change_member_role.user_id
  returning m.* into membership;
  return membership;
end;
$$;
comment on function private.change_member_role(uuid, public.member_role, uuid) is 'See public.change_member_role().';
grant execute on function private.change_member_role(uuid, public.member_role, uuid) to authenticated, service_role;

create function public.change_member_role(
  user_id uuid,
  role public.member_role,
  organization_id uuid default public.user_organization_id()
)
returns public.user_roles
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.change_member_role(user_id, role, organization_id);
end;
$$;
comment on function public.change_member_role(uuid, public.member_role, uuid) is
  'Changes a member''s role; returns the membership. Admins and up, never above the own role. Errors: not_allowed, member_not_found, last_owner.';
grant execute on function public.change_member_role(uuid, public.member_role, uuid) to authenticated, service_role;

create function private.remove_member(user_id uuid, organization_id uuid)
returns public.user_roles
language plpgsql
volatile
security definer -- people have no DELETE on memberships: rank and the last owner are checked here
set search_path = ''
as $$
declare
  membership public.user_roles;
begin
  if user_id is distinct from auth.uid() then
    perform private.require_role(organization_id, 'admin');
    perform private.lock_members(organization_id);
    -- Again: the caller may have been removed while he waited.
    perform private.require_role(organization_id, 'admin');
  else
    perform private.lock_members(organization_id);
  end if;
  select m.* into membership
  from public.user_roles m
  where m.organization_id = remove_member.organization_id and m.user_id = remove_member.user_id;
  if not found then
    perform private.raise_error('BL014', 'member_not_found', 'This person is not a member of the organization');
  end if;
  if user_id is distinct from auth.uid() then
    perform private.require_rank(organization_id, membership.role);
  end if;
  perform private.require_another_owner(organization_id, user_id);
  perform private.withdraw_invitations(organization_id, user_id);
  delete from public.user_roles m
  where m.organization_id = remove_member.organization_id and m.user_id = remove_member.user_id;
  return membership;
end;
$$;
comment on function private.remove_member(uuid, uuid) is 'See public.remove_member().';
grant execute on function private.remove_member(uuid, uuid) to authenticated, service_role;

create function public.remove_member(user_id uuid, organization_id uuid default public.user_organization_id())
returns public.user_roles
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.remove_member(user_id, organization_id);
end;
$$;
comment on function public.remove_member(uuid, uuid) is
  'Takes a member out of the organization, or lets the caller leave it; returns the membership that ended. Admins and up, never someone above. Errors: not_allowed, member_not_found, last_owner.';
grant execute on function public.remove_member(uuid, uuid) to authenticated, service_role;
