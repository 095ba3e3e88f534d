-- Merging contacts: two that turn out to be one person, and for 30 days the way back.
--
-- Whatever names the merged contact names the other one from then on. The merged one stays as a tombstone: hidden, with
-- its number (unless the other one had none), so that a message from it finds the other. What was changed is written
-- down as it was and as it became, JSON by key and tags by tag; undoing puts back what still is as the merge made it, and
-- leaves the rest alone. Whose turn it is not, because others were merged into the same contact after him, leaves as if he
-- had never been there: what those mixed in is taken out before, and mixed in again after.
--
-- Locks: while two contacts are merged or taken apart nobody writes a row that names one of them. Who wanted to waits
-- for the contact's row, finds it merged, gives it back and looks for the other one (private.surviving_contact,
-- lock_contacts, lock_contact_of_conversation, lock_message_of). Whoever merges waits for nobody while he holds a contact:
-- a row that somebody else has in hand makes him give everything back and begin anew. An organization does one merge at a time.

-- contact_merges --------------------------------------------------------------------------------------------------

create table public.contact_merges (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  kept_contact_id uuid not null,
  merged_contact_id uuid not null,
  merged_by uuid,
  merged_at timestamptz not null default now(),
  undoable_until timestamptz not null default now() + interval '30 days',
  undone_at timestamptz,
  undone_by uuid,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint contact_merges_pkey primary key (organization_id, id),
  constraint contact_merges_kept_contact_id_fkey foreign key (organization_id, kept_contact_id)
    references public.contacts (organization_id, id) on delete cascade,
  constraint contact_merges_merged_contact_id_fkey foreign key (organization_id, merged_contact_id)
    references public.contacts (organization_id, id) on delete cascade,
  constraint contact_merges_merged_by_fkey foreign key (organization_id, merged_by)
    references public.user_roles (organization_id, user_id) on delete set null (merged_by),
  constraint contact_merges_undone_by_fkey foreign key (organization_id, undone_by)
    references public.user_roles (organization_id, user_id) on delete set null (undone_by),
  constraint contact_merges_are_of_two_check check (kept_contact_id <> merged_contact_id)
);
comment on table public.contact_merges is 'Which contact was merged into which, by whom, and until when it can be undone.';
comment on column public.contact_merges.kept_contact_id is 'As it was then: who was kept may have been merged into another one since.';
create index contact_merges_kept_contact_id_idx on public.contact_merges (organization_id, kept_contact_id);
comment on index public.contact_merges_kept_contact_id_idx is 'What a contact consists of, in its page.';
create index contact_merges_merged_contact_id_idx on public.contact_merges (organization_id, merged_contact_id);
create index contact_merges_merged_by_idx on public.contact_merges (organization_id, merged_by) where merged_by is not null;
create index contact_merges_undone_by_idx on public.contact_merges (organization_id, undone_by) where undone_by is not null;

alter table public.contact_merges enable row level security;
alter table public.contact_merges force row level security;
create policy "Members can read their organization's contact merges" on public.contact_merges
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('viewer'))::uuid[]));
revoke all on public.contact_merges from public, anon, authenticated, service_role;
grant select on public.contact_merges to authenticated, service_role;

create trigger contact_merges_100_touch_updated_at
  before update on public.contact_merges
  for each row execute function private.tg_touch_updated_at();

-- private.contact_partings ----------------------------------------------------------------------------------------

create table private.contact_partings (
  organization_id uuid not null,
  contact_id uuid not null,
  transaction xid8 not null default pg_current_xact_id(),
  created_at timestamptz not null default now(),
  constraint contact_partings_pkey primary key (organization_id, contact_id)
);
comment on table private.contact_partings is
  'Contacts that another one was lately taken out of. Who looked up whose a message is before that, and waited for the contact, looks again.';

alter table private.contact_partings enable row level security;
alter table private.contact_partings force row level security;
revoke all on private.contact_partings from public, anon, authenticated, service_role;

-- private.contact_merge_changes -----------------------------------------------------------------------------------

create table private.contact_merge_changes (
  organization_id uuid not null,
  merge_id uuid not null,
  position int not null,
  is_move boolean not null,
  table_name text not null,
  row_ids uuid[] not null,
  before jsonb not null,
  after jsonb not null,
  constraint contact_merge_changes_pkey primary key (organization_id, merge_id, position),
  constraint contact_merge_changes_merge_id_fkey foreign key (organization_id, merge_id)
    references public.contact_merges (organization_id, id) on delete cascade,
  constraint contact_merge_changes_before_is_object_check check (jsonb_typeof(before) = 'object'),
  constraint contact_merge_changes_after_is_object_check check (jsonb_typeof(after) = 'object')
);
comment on table private.contact_merge_changes is 'What a merge did: some columns of some rows were "before" and became "after". Of a JSON column these are some keys, of a column of texts some elements: the others are not the merge''s. Kept until the merge can no longer be undone.';
comment on column private.contact_merge_changes.is_move is 'The rows name another contact now; else something of a row was changed so that they could, or to tell what the other one knew.';
comment on column private.contact_merge_changes.table_name is 'With its schema.';

alter table private.contact_merge_changes enable row level security;
alter table private.contact_merge_changes force row level security;
revoke all on private.contact_merge_changes from public, anon, authenticated, service_role;

create function private.change_rows(organization_id uuid, table_name text, row_ids uuid[], before jsonb, after jsonb)
returns uuid[]
language plpgsql
volatile
set search_path = ''
as $$
declare
  statement constant text := (
    select format(
      'with changed as (
        update %1$s t
        set %2$s
        from jsonb_populate_record(null::%1$s, $1) n, jsonb_populate_record(null::%1$s, $2) o
        where t.organization_id = $3 and t.id = any ($4) and %3$s
        returning t.id
      )
      select coalesce(array_agg(c.id), ''{}'') from changed c',
      table_name,
      string_agg(
        case a.atttypid
          when 'jsonb'::regtype then format('%1$I = t.%1$I - array(select jsonb_object_keys(o.%1$I)) || n.%1$I', k)
          when 'text[]'::regtype then format(
            '%1$I = array(select e from unnest(t.%1$I) with ordinality u (e, r) where e <> all (o.%1$I) order by r) || n.%1$I', k)
          else format('%1$I = n.%1$I', k)
        end, ', '),
      string_agg(
        case a.atttypid
          when 'jsonb'::regtype then format(
            'not exists (select from jsonb_object_keys(o.%1$I || n.%1$I) e where t.%1$I -> e is distinct from o.%1$I -> e)', k)
          when 'text[]'::regtype then format('t.%1$I @> o.%1$I and not t.%1$I && n.%1$I', k)
          else format('t.%1$I is not distinct from o.%1$I', k)
        end, ' and '))
    from jsonb_object_keys(after) k
    join pg_catalog.pg_attribute a on a.attrelid = table_name::regclass and a.attname = k
  );
  changed uuid[];
  one uuid;
  all_changed uuid[] := array[]::uuid[];
begin
  begin
    execute statement using after, before, organization_id, row_ids into changed;
    return changed;
  exception when others then
    -- A key, a check or a trigger that says why not: 23xxx and our own.
    if sqlstate !~ '^(23|BL)' then
      raise;
    end if;
  end;
  foreach one in array row_ids loop
    begin
      execute statement using after, before, organization_id, array[one] into changed;
      all_changed := all_changed || changed;
    exception when others then
      if sqlstate !~ '^(23|BL)' then
        raise;
      end if;
    end;
  end loop;
  return all_changed;
end;
$$;
comment on function private.change_rows(uuid, text, uuid[], jsonb, jsonb) is
  'Gives columns of rows (keys of JSON, elements of texts) the values of "after" where they still have those of "before", and returns which rows got them; a row that cannot have them keeps its own.';

create function private.record_change(
  merge public.contact_merges,
  is_move boolean,
  table_name text,
  row_ids uuid[],
  before jsonb,
  after jsonb
)
returns uuid[]
language plpgsql
volatile
set search_path = ''
as $$
declare
  changed uuid[];
begin
  changed := private.change_rows(merge.organization_id, table_name, row_ids, before, after);
  if cardinality(changed) > 0 then
    insert into private.contact_merge_changes (
      organization_id, merge_id, position, is_move, table_name, row_ids, before, after
    )
    select
      merge.organization_id, merge.id, coalesce(max(c.position), 0) + 1, record_change.is_move, record_change.table_name,
      changed, record_change.before, record_change.after
    from private.contact_merge_changes c
    where c.organization_id = merge.organization_id and c.merge_id = merge.id;
  end if;
  return changed;
end;
$$;
comment on function private.record_change(public.contact_merges, boolean, text, uuid[], jsonb, jsonb) is
  'Changes rows for a merge, writes down how they were, and returns which it changed.';

create function private.move_rows(merge public.contact_merges, table_name text, column_name text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  row_ids uuid[];
  moved uuid[];
begin
  execute format(
    'select array_agg(t.id order by t.id) from %s t where t.organization_id = $1 and t.%I = $2', table_name, column_name)
  using merge.organization_id, merge.merged_contact_id
  into row_ids;
  if row_ids is null then
    return;
  end if;
  moved := private.record_change(
    merge, true, table_name, row_ids,
    jsonb_build_object(column_name, merge.merged_contact_id), jsonb_build_object(column_name, merge.kept_contact_id));
  -- Nobody would see it any more. (Who has been offered something in a line in which the other one has, too, keeps his
  -- place until he has answered: see merge_conflicting_waiting_list.)
  if cardinality(moved) < cardinality(row_ids) and not (
    table_name = 'public.waiting_list'
    and not exists (
      select
      from public.waiting_list w
      where w.organization_id = merge.organization_id
        and w.id = any (row_ids)
        and w.id <> all (moved)
        and w.status <> 'offered'
    )
  ) then
    perform private.raise_error('BL405', 'cannot_merge', 'Something of the one contact cannot become the other one''s',
      jsonb_build_object('reason', 'row_not_moved', 'table', table_name));
  end if;
end;
$$;
comment on function private.move_rows(public.contact_merges, text, text) is
  'What names the merged contact in a column names the kept one; or error cannot_merge.';

create function private.references_to_contacts()
returns table (table_name text, column_name text)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select format('%I.%I', n.nspname, c.relname), here.attname::text
  from pg_catalog.pg_constraint k
  join pg_catalog.pg_class c on c.oid = k.conrelid
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  cross join lateral unnest(k.conkey, k.confkey) pair (here, there)
  join pg_catalog.pg_attribute here on here.attrelid = k.conrelid and here.attnum = pair.here
  join pg_catalog.pg_attribute there on there.attrelid = k.confrelid and there.attnum = pair.there
  where k.contype = 'f'
    and k.confrelid = 'public.contacts'::regclass
    and k.conparentid = 0
    and n.nspname in ('public', 'private')
    -- What was merged into what stays told as it was.
    and k.conrelid <> 'public.contact_merges'::regclass
    and there.attname = 'id'
  -- A booking's animal must be its customer's: the animals go first.
  order by c.oid <> 'public.pets'::regclass, 1, 2;
end;
$$;
comment on function private.references_to_contacts() is
  'Every column that names a contact, in the order in which a merge moves them: by foreign keys, so that a new table is moved without being named here.';

-- What is in the way ----------------------------------------------------------------------------------------------

create function private.merge_contact_fields(
  merge public.contact_merges,
  kept public.contacts,
  merged public.contacts,
  only_what text[] default null
)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  filled public.contacts := kept;
  news record;
begin
  filled.name := coalesce(kept.name, merged.name);
  filled.profile_name := coalesce(kept.profile_name, merged.profile_name);
  filled.email := coalesce(kept.email, merged.email);
  filled.cpf := coalesce(kept.cpf, merged.cpf);
  filled.birth_date := coalesce(kept.birth_date, merged.birth_date);
  filled.source := coalesce(kept.source, merged.source);
  filled.preferred_location_id := coalesce(kept.preferred_location_id, merged.preferred_location_id);
  filled.preferred_professional_id := coalesce(kept.preferred_professional_id, merged.preferred_professional_id);
  filled.last_interaction_at := greatest(kept.last_interaction_at, merged.last_interaction_at);
  filled.identity_changed_at := greatest(kept.identity_changed_at, merged.identity_changed_at);
  filled.opted_in_at := greatest(kept.opted_in_at, merged.opted_in_at);
  -- Who said no through one number said no: no consent that the other one gave undoes it (LGPD).
  filled.opted_out_at := greatest(kept.opted_out_at, merged.opted_out_at);
  if merged.status = 'blocked' then
    filled.status := 'blocked';
  end if;
  filled.phone_number := coalesce(kept.phone_number, merged.phone_number);
  for news in
    -- Each by itself, so that each can be taken back by itself.
    select o.key as name, jsonb_build_object(o.key, o.value) as before, jsonb_build_object(o.key, n.value) as after
    from jsonb_each(to_jsonb(kept)) o
    join jsonb_each(to_jsonb(filled)) n on n.key = o.key and n.value <> o.value
    union all
    select
      format('%s.%s', field.name, e.key),
      jsonb_build_object(field.name, '{}'::jsonb),
      jsonb_build_object(field.name, jsonb_build_object(e.key, e.value))
    from (
      values
        ('address', kept.address, merged.address),
        ('metadata', kept.metadata, merged.metadata),
        ('preferences', kept.preferences, merged.preferences)
    ) field (name, known, told)
    cross join jsonb_each(field.told) e
    where not field.known ? e.key
    union all
    (
      select format('tags.%s', t.tag), '{"tags": []}', jsonb_build_object('tags', array[t.tag])
      from unnest(merged.tags) with ordinality t (tag, rank)
      where t.tag <> all (kept.tags)
      group by t.tag
      order by min(t.rank)
    )
  loop
    continue when news.name <> all (only_what);
    if news.name = 'phone_number' then
      perform private.record_change(
        merge, false, 'public.contacts', array[merged.id], news.after, '{"phone_number": null}');
    end if;
    perform private.record_change(merge, false, 'public.contacts', array[kept.id], news.before, news.after);
  end loop;
end;
$$;
comment on function private.merge_contact_fields(public.contact_merges, public.contacts, public.contacts, text[]) is
  'What only the merged contact knew, the kept one knows now; only_what bounds it to some fields, keys (metadata.key) and tags (tags.tag).';

create function private.merge_conflicting_conversations(merge public.contact_merges)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  conversation public.conversations;
begin
  for conversation in
    select v.*
    from public.conversations v
    join public.conversations other
      on other.organization_id = v.organization_id
      and other.instance_id = v.instance_id
      and other.contact_id = merge.kept_contact_id
      and other.is_open
    where v.organization_id = merge.organization_id and v.contact_id = merge.merged_contact_id and v.is_open
    order by v.id
  loop
    perform private.record_change(
      merge, false, 'public.conversations', array[conversation.id],
      jsonb_build_object('status', conversation.status, 'closed_at', conversation.closed_at),
      jsonb_build_object('status', 'closed', 'closed_at', now()));
  end loop;
end;
$$;
comment on function private.merge_conflicting_conversations(public.contact_merges) is
  'With one contact there is one open conversation at each number: the merged contact''s is closed.';

create function private.merge_conflicting_leads(merge public.contact_merges)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  pair record;
  answer record;
  kept public.leads;
  merged public.leads;
  standing public.leads;
  hidden public.leads;
begin
  for pair in
    select k as kept, m as merged
    from public.leads k
    join public.leads m
      on m.organization_id = k.organization_id
      and m.professional_id is not distinct from k.professional_id
      and m.contact_id = merge.merged_contact_id
      and m.merged_into_id is null
    where k.organization_id = merge.organization_id
      and k.contact_id = merge.kept_contact_id
      and k.merged_into_id is null
    order by k.id
  loop
    kept := pair.kept;
    merged := pair.merged;
    -- The one that is further stays in sight: nobody loses an open lead to a lost one.
    if (not merged.over_limit, merged.is_open, merged.status <> 'perdido', merged.status)
      > (not kept.over_limit, kept.is_open, kept.status <> 'perdido', kept.status) then
      standing := merged;
      hidden := kept;
    else
      standing := kept;
      hidden := merged;
    end if;
    perform private.record_change(
      merge, false, 'public.leads', array[hidden.id],
      '{"merged_into_id": null}', jsonb_build_object('merged_into_id', standing.id));
    -- A merge shows nothing that the plan hides.
    if standing.over_limit or not hidden.over_limit then
      for answer in
        select e.key, e.value from jsonb_each(merged.respostas || kept.respostas) e
        where standing.respostas -> e.key is distinct from e.value
      loop
        perform private.record_change(
          merge, false, 'public.leads', array[standing.id],
          jsonb_build_object('respostas', case
            when standing.respostas ? answer.key then jsonb_build_object(answer.key, standing.respostas -> answer.key)
            else '{}'
          end),
          jsonb_build_object('respostas', jsonb_build_object(answer.key, answer.value)));
      end loop;
    end if;
  end loop;
end;
$$;
comment on function private.merge_conflicting_leads(public.contact_merges) is
  'Of two leads with one professional one stands in the pipeline, with the answers of both; the other one is hidden behind it (leads.merged_into_id), and stays whole for what refers to it.';

create function private.merge_conflicting_waiting_list(merge public.contact_merges)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  duplicate uuid;
begin
  for duplicate in
    -- Who has been offered something stays in the line; whose two places both have, keeps both until he has answered.
    select case when m.status = 'waiting' then m.id else k.id end
    from public.waiting_list k
    join public.waiting_list m
      on m.organization_id = k.organization_id
      and m.service_id = k.service_id
      and m.professional_id is not distinct from k.professional_id
      and m.pet_id is not distinct from k.pet_id
      and m.contact_id = merge.merged_contact_id
      and m.is_open
    where k.organization_id = merge.organization_id
      and k.contact_id = merge.kept_contact_id
      and k.is_open
      and (m.status = 'waiting' or k.status = 'waiting')
    order by k.id
  loop
    perform private.record_change(
      merge, false, 'public.waiting_list', array[duplicate], '{"status": "waiting"}', '{"status": "cancelled"}');
  end loop;
end;
$$;
comment on function private.merge_conflicting_waiting_list(public.contact_merges) is
  'One person stands in a line once: the place that has not been offered anything is given up.';

create function private.lock_contacts_to_merge(organization_id uuid, contact_ids uuid[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  reference record;
  held uuid[];
  busy uuid;
begin
  perform pg_advisory_xact_lock(hashtextextended('contact_merges:' || organization_id, 0));
  loop
    busy := null;
    begin
      perform
      from public.contacts p
      where p.organization_id = lock_contacts_to_merge.organization_id and p.id = any (contact_ids)
      order by p.id
      for update;
      for reference in
        select r.table_name, r.column_name
        from private.references_to_contacts() r
        -- Too many; and whoever writes them holds their contact, or wants nothing more.
        where r.table_name not in ('public.messages', 'public.contact_identities')
      loop
        execute format(
          'select coalesce(array_agg(h.id), ''{}'')
          from (
            select t.id
            from %s t
            where t.organization_id = $1 and t.%I = any ($2)
            for no key update skip locked
          ) h',
          reference.table_name, reference.column_name)
        using organization_id, contact_ids
        into held;
        execute format(
          'select t.id
          from %s t
          where t.organization_id = $1 and t.%I = any ($2) and t.id <> all ($3)
          limit 1',
          reference.table_name, reference.column_name)
        using organization_id, contact_ids, held
        into busy;
        exit when busy is not null;
      end loop;
      if busy is null then
        return;
      end if;
      raise exception sqlstate 'BL000';
    exception when sqlstate 'BL000' then
      null;
    end;
    -- We hold nothing now but our turn. As soon as the row is free, everything anew.
    begin
      execute format('select from %s t where t.organization_id = $1 and t.id = $2 for no key update', reference.table_name)
      using organization_id, busy;
      raise exception sqlstate 'BL000';
    exception when sqlstate 'BL000' then
      null;
    end;
  end loop;
end;
$$;
comment on function private.lock_contacts_to_merge(uuid, uuid[]) is
  'Until the transaction ends nobody else merges contacts of this organization, or writes a row that names one of these.';

-- merge_contacts --------------------------------------------------------------------------------------------------

create function private.merge_contacts(keep_contact_id uuid, merge_contact_id uuid, organization_id uuid)
returns public.contact_merges
language plpgsql
volatile
security definer -- writes every table that names a contact
set search_path = ''
as $$
declare
  kept public.contacts;
  merged public.contacts;
  merge public.contact_merges;
  reference record;
begin
  perform private.require_role(organization_id, 'admin');
  if keep_contact_id = merge_contact_id then
    perform private.raise_error('BL405', 'cannot_merge', 'A contact cannot be merged with itself',
      '{"reason": "same_contact"}');
  end if;
  perform private.lock_contacts_to_merge(organization_id, array[keep_contact_id, merge_contact_id]);
  select p.* into kept
  from public.contacts p
  where p.organization_id = merge_contacts.organization_id and p.id = keep_contact_id;
  select p.* into merged
  from public.contacts p
  where p.organization_id = merge_contacts.organization_id and p.id = merge_contact_id;
  if kept.id is null or merged.id is null then
    perform private.raise_error('BL402', 'contact_not_found', 'This organization has no such contact',
      jsonb_build_object('contact_id', case when kept.id is null then keep_contact_id else merge_contact_id end));
  end if;
  if merged.merged_into_id = kept.id then
    -- The same merge once more: somebody did not hear that it was done.
    select m.* into merge
    from public.contact_merges m
    where m.organization_id = kept.organization_id
      and m.kept_contact_id = kept.id
      and m.merged_contact_id = merged.id
      and m.undone_at is null;
    if found then
      return merge;
    end if;
  end if;
  if kept.merged_into_id is not null or merged.merged_into_id is not null then
    perform private.raise_error('BL405', 'cannot_merge', 'One of them has been merged into another contact already',
      jsonb_build_object(
        'reason', 'already_merged',
        'contact_id', case when kept.merged_into_id is not null then kept.id else merged.id end,
        'merged_into_id', coalesce(kept.merged_into_id, merged.merged_into_id)));
  end if;

  insert into public.contact_merges as m (organization_id, kept_contact_id, merged_contact_id, merged_by)
  values (
    kept.organization_id, kept.id, merged.id, case when not private.is_service() then (select auth.uid()) end
  )
  returning m.* into merge;

  perform private.record_change(
    merge, false, 'public.contacts', array[merged.id],
    '{"merged_into_id": null}', jsonb_build_object('merged_into_id', kept.id));
  perform private.merge_contact_fields(merge, kept, merged);
  perform private.merge_conflicting_conversations(merge);
  perform private.merge_conflicting_leads(merge);
  perform private.merge_conflicting_waiting_list(merge);
  for reference in
    select r.table_name, r.column_name from private.references_to_contacts() r
  loop
    perform private.move_rows(merge, reference.table_name, reference.column_name);
  end loop;
  return merge;
end;
$$;
comment on function private.merge_contacts(uuid, uuid, uuid) is 'See public.merge_contacts().';
grant execute on function private.merge_contacts(uuid, uuid, uuid) to authenticated, service_role;

create function public.merge_contacts(
  keep_contact_id uuid,
  merge_contact_id uuid,
  organization_id uuid default public.user_organization_id()
)
returns public.contact_merges
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.merge_contacts(keep_contact_id, merge_contact_id, organization_id);
end;
$$;
comment on function public.merge_contacts(uuid, uuid, uuid) is
  'Two contacts are one person: whatever is the merged one''s becomes the kept one''s, whose blanks are filled from it (an opt-out or a block of either holds), and the merged one disappears; messages from its number arrive at the kept one. Of two open conversations at one number the merged contact''s is closed, of two leads with one professional the one that is further stands. What cannot be moved refuses all of it ({reason: row_not_moved, table}). Undoable for 30 days. The same merge again answers the first one. Admins and up. Errors: not_allowed, contact_not_found, cannot_merge.';
grant execute on function public.merge_contacts(uuid, uuid, uuid) to authenticated, service_role;

-- undo_merge --------------------------------------------------------------------------------------------------------

create function private.regroup_leads(organization_id uuid, contact_ids uuid[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  lead public.leads;
begin
  for lead in
    select l.*
    from public.leads l
    join public.leads other on other.organization_id = l.organization_id and other.id = l.merged_into_id
    where l.organization_id = regroup_leads.organization_id
      and l.contact_id = any (contact_ids)
      and other.contact_id <> l.contact_id
    order by l.id
  loop
    update public.leads l
    set merged_into_id = (
      select standing.id
      from public.leads standing
      where standing.organization_id = lead.organization_id
        and standing.contact_id = lead.contact_id
        and standing.professional_id is not distinct from lead.professional_id
        and standing.merged_into_id is null
    )
    where l.organization_id = lead.organization_id and l.id = lead.id;
  end loop;
end;
$$;
comment on function private.regroup_leads(uuid, uuid[]) is
  'A lead that was hidden behind one which went to another contact stands behind its own contact''s, or by itself.';

create function private.take_back(merge public.contact_merges, only_what_is_mixed boolean default false)
returns text[]
language plpgsql
volatile
set search_path = ''
as $$
declare
  change private.contact_merge_changes;
  returned uuid[];
  forgotten text[] := array[]::text[];
begin
  for change in
    select c.*
    from private.contact_merge_changes c
    where c.organization_id = merge.organization_id
      and c.merge_id = merge.id
      and (
        not only_what_is_mixed
        or c.table_name = 'public.leads'
        or c.table_name = 'public.contacts' and not c.is_move and not c.after ? 'merged_into_id'
      )
    order by
      -- First it stands again: who is given something by name of a tombstone passes it on.
      not (not c.is_move and c.after ? 'merged_into_id' and c.table_name = 'public.contacts'),
      -- Rows go back as they came, and what had been in their way after them, the last change first.
      c.is_move desc,
      case when c.is_move then c.position else -c.position end
  loop
    returned := private.change_rows(
      merge.organization_id, change.table_name, change.row_ids, change.after, change.before);
    if change.table_name = 'public.contacts' and returned = array[merge.kept_contact_id] then
      forgotten := forgotten || array(
        select concat_ws('.', a.key, case jsonb_typeof(a.value)
          when 'object' then (select jsonb_object_keys(a.value))
          when 'array' then a.value ->> 0
        end)
        from jsonb_each(change.after) a
      );
    elsif change.table_name = 'public.conversations' and change.is_move then
      -- What was written in them since.
      update public.messages m
      set contact_id = merge.merged_contact_id
      where m.organization_id = merge.organization_id
        and m.conversation_id = any (returned)
        and m.contact_id = merge.kept_contact_id;
    elsif change.table_name = 'public.pets' then
      -- Appointments made since for an animal that goes back go with it.
      update public.bookings b
      set contact_id = merge.merged_contact_id
      where b.organization_id = merge.organization_id
        and b.contact_id = merge.kept_contact_id
        and b.pet_id = any (returned);
    end if;
    delete from private.contact_merge_changes c
    where c.organization_id = change.organization_id and c.merge_id = change.merge_id and c.position = change.position;
  end loop;
  return forgotten;
end;
$$;
comment on function private.take_back(public.contact_merges, boolean) is
  'Puts back what a merge changed, where it is still as the merge left it (or only the fields and leads that it mixed); returns which fields, keys and tags of the kept contact that was.';

create function private.part_conversations(merge public.contact_merges)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  theirs uuid[];
begin
  -- Ids that came since, and are those of the one who goes, at another number of ours.
  update public.contact_identities i
  set contact_id = merge.merged_contact_id
  where i.organization_id = merge.organization_id
    and i.contact_id = merge.kept_contact_id
    and i.created_at > merge.merged_at
    and (
      exists (
        select
        from public.contact_identities theirs
        where theirs.organization_id = i.organization_id
          and theirs.contact_id = merge.merged_contact_id
          and theirs.kind = i.kind
          and theirs.value = i.value
      )
      or private.phone_from_provider_id(i.value) = (
        select p.phone_number
        from public.contacts p
        where p.organization_id = i.organization_id and p.id = merge.merged_contact_id
      )
    );

  -- Begun since by an id of the one who goes, at a number to which the one who stays has never written.
  with gone as (
    update public.conversations v
    set contact_id = merge.merged_contact_id
    where v.organization_id = merge.organization_id
      and v.contact_id = merge.kept_contact_id
      and v.created_at > merge.merged_at
      and exists (
        select
        from public.contact_identities i
        where i.organization_id = v.organization_id
          and i.contact_id = merge.merged_contact_id
          and i.instance_id = v.instance_id
          and i.value = v.whatsapp_chat_id
      )
      and not exists (
        select
        from public.contact_identities i
        where i.organization_id = v.organization_id
          and i.contact_id = merge.kept_contact_id
          and i.instance_id = v.instance_id
      )
      and not (v.is_open and exists (
        select
        from public.conversations other
        where other.organization_id = v.organization_id
          and other.contact_id = merge.merged_contact_id
          and other.instance_id = v.instance_id
          and other.is_open
      ))
    returning v.id
  )
  select array_agg(g.id) into theirs from gone g;
  update public.messages m
  set contact_id = merge.merged_contact_id
  where m.organization_id = merge.organization_id
    and m.conversation_id = any (theirs)
    and m.contact_id = merge.kept_contact_id;

  -- Whoever wrote last in one that stays may have been the other one: an answer would go to his phone.
  update public.conversations v
  set whatsapp_chat_id = own.value
  from (
    select distinct on (open.id) open.id, mine.value
    from public.conversations open
    join public.contact_identities other
      on other.organization_id = open.organization_id
      and other.contact_id = merge.merged_contact_id
      and other.instance_id = open.instance_id
      and other.value = open.whatsapp_chat_id
    join public.contact_identities mine
      on mine.organization_id = open.organization_id
      and mine.contact_id = merge.kept_contact_id
      and mine.instance_id = open.instance_id
    where open.organization_id = merge.organization_id and open.contact_id = merge.kept_contact_id and open.is_open
    order by open.id, mine.kind = other.kind desc, mine.created_at desc, mine.id desc
  ) own
  where v.organization_id = merge.organization_id and v.id = own.id;

  -- Who was told something on his own phone since can answer it.
  update public.notifications n
  set contact_id = merge.merged_contact_id
  from public.messages m
  where n.organization_id = merge.organization_id
    and n.contact_id = merge.kept_contact_id
    and m.organization_id = n.organization_id
    and m.id = n.message_id
    and m.contact_id = merge.merged_contact_id;
end;
$$;
comment on function private.part_conversations(public.contact_merges) is
  'After two contacts were taken apart: answers to each go to an id of his own.';

create function private.part_waiting_list(merge public.contact_merges)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  entries uuid[];
begin
  -- For an animal that went.
  entries := array(
    select w.id
    from public.waiting_list w
    join public.pets p on p.organization_id = w.organization_id and p.id = w.pet_id
    where w.organization_id = merge.organization_id
      and w.contact_id = merge.kept_contact_id
      and p.contact_id = merge.merged_contact_id
  );
  -- Its tutor may have stood in that line himself all the time: one place is enough.
  update public.waiting_list w
  set status = 'cancelled'
  where w.organization_id = merge.organization_id
    and w.id = any (entries)
    and w.status = 'waiting'
    and exists (
      select
      from public.waiting_list other
      where other.organization_id = w.organization_id
        and other.contact_id = merge.merged_contact_id
        and other.service_id = w.service_id
        and other.professional_id is not distinct from w.professional_id
        and other.pet_id = w.pet_id
        and other.is_open
    );
  perform private.change_rows(
    merge.organization_id, 'public.waiting_list', entries,
    jsonb_build_object('contact_id', merge.kept_contact_id), jsonb_build_object('contact_id', merge.merged_contact_id));
end;
$$;
comment on function private.part_waiting_list(public.contact_merges) is
  'After two contacts were taken apart: an animal''s places in line are its tutor''s.';

create function private.undo_merge(merge_id uuid, organization_id uuid)
returns public.contact_merges
language plpgsql
volatile
security definer -- writes every table that names a contact
set search_path = ''
as $$
declare
  merge public.contact_merges;
  later_merges public.contact_merges[];
  later public.contact_merges;
  kept public.contacts;
  merged public.contacts;
  forgotten text[] := array[]::text[];
  reason text;
begin
  perform private.require_role(organization_id, 'admin');
  select m.* into merge
  from public.contact_merges m
  where m.organization_id = undo_merge.organization_id and m.id = undo_merge.merge_id;
  if not found then
    perform private.raise_error('BL406', 'merge_not_found', 'This organization has no such merge');
  end if;
  -- Before any contact, as in create_lead(): what steps forward may have waited over the plan's limit.
  perform from public.organizations o where o.id = undo_merge.organization_id for no key update;
  perform private.lock_contacts_to_merge(organization_id, array[merge.kept_contact_id, merge.merged_contact_id]);
  select m.* into merge
  from public.contact_merges m
  where m.organization_id = undo_merge.organization_id and m.id = undo_merge.merge_id
  for no key update;
  if not found then
    perform private.raise_error('BL406', 'merge_not_found', 'This organization has no such merge');
  end if;
  reason := case
    when merge.undone_at is not null then 'undone'
    when merge.undoable_until <= now() then 'expired'
    when exists (
      select
      from public.contacts p
      where p.organization_id = merge.organization_id and p.id = merge.kept_contact_id and p.merged_into_id is not null
    ) then 'later_merge'
  end;
  if reason is not null then
    perform private.raise_error('BL407', 'merge_not_undoable',
      case reason
        when 'undone' then 'This merge has been undone already'
        when 'expired' then 'A merge can be undone for 30 days'
        else 'The contact that was kept has been merged into another one since'
      end,
      jsonb_build_object('reason', reason),
      case reason when 'later_merge' then 'Undo the later merge first.' else '' end);
  end if;

  -- The way back from several merges is the reverse of the way there.
  later_merges := array(
    select row(m.*)::public.contact_merges
    from public.contact_merges m
    join public.contacts p on p.organization_id = m.organization_id and p.id = m.merged_contact_id
    where m.organization_id = merge.organization_id
      and m.kept_contact_id = merge.kept_contact_id
      and p.merged_into_id = merge.kept_contact_id
      and m.undone_at is null
      and m.id > merge.id
    order by m.id
  );
  for nth in reverse cardinality(later_merges)..1 loop
    forgotten := forgotten || private.take_back(later_merges[nth], true);
  end loop;
  forgotten := forgotten || private.take_back(merge);
  perform private.part_conversations(merge);
  perform private.part_waiting_list(merge);
  foreach later in array later_merges loop
    select p.* into kept
    from public.contacts p
    where p.organization_id = later.organization_id and p.id = later.kept_contact_id;
    select p.* into merged
    from public.contacts p
    where p.organization_id = later.organization_id and p.id = later.merged_contact_id;
    -- What was written since, over what a merge had told, stays.
    perform private.merge_contact_fields(later, kept, merged, forgotten);
    perform private.merge_conflicting_leads(later);
    perform private.move_rows(later, 'public.leads', 'contact_id');
  end loop;
  perform private.regroup_leads(merge.organization_id, array[merge.kept_contact_id, merge.merged_contact_id]);
  -- Nobody knows which of the two said no since: it holds for both (LGPD).
  update public.contacts p
  set opted_out_at = k.opted_out_at
  from public.contacts k
  where k.organization_id = merge.organization_id
    and k.id = merge.kept_contact_id
    and k.opted_out_at >= merge.merged_at
    and p.organization_id = k.organization_id
    and p.id = merge.merged_contact_id
    and (p.opted_out_at is null or p.opted_out_at < k.opted_out_at);
  perform private.release_leads(merge.organization_id);
  insert into private.contact_partings (organization_id, contact_id)
  values (merge.organization_id, merge.kept_contact_id)
  on conflict on constraint contact_partings_pkey
  do update set transaction = excluded.transaction, created_at = excluded.created_at;

  update public.contact_merges m
  set undone_at = now(), undone_by = case when not private.is_service() then (select auth.uid()) end
  where m.organization_id = merge.organization_id and m.id = merge.id
  returning m.* into merge;
  return merge;
end;
$$;
comment on function private.undo_merge(uuid, uuid) is 'See public.undo_merge().';
grant execute on function private.undo_merge(uuid, uuid) to authenticated, service_role;

create function public.undo_merge(merge_id uuid, organization_id uuid default public.user_organization_id())
returns public.contact_merges
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.undo_merge(merge_id, organization_id);
end;
$$;
comment on function public.undo_merge(uuid, uuid) is
  'Takes two merged contacts apart: every row that came from the merged one and is still with the kept one goes back, and every field, key of a JSON field, answer and tag that is still as the merge left it. What came since stays with the kept one, but for what is in a conversation or for an animal that goes; an opt-out since holds for both. Admins and up. Errors: not_allowed, merge_not_found, merge_not_undoable.';
grant execute on function public.undo_merge(uuid, uuid) to authenticated, service_role;

-- Forgetting --------------------------------------------------------------------------------------------------------

create function private.forget_merges()
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  deleted bigint;
begin
  delete from private.contact_merge_changes c
  using public.contact_merges m
  where m.organization_id = c.organization_id and m.id = c.merge_id and m.undoable_until <= now();
  get diagnostics deleted = row_count;
  delete from private.contact_partings p where p.created_at < now() - interval '1 day';
  return deleted;
end;
$$;
comment on function private.forget_merges() is
  'Deletes what merges that can no longer be undone had noted down, which is of persons; returns how many changes. That they were merged stays told.';
