-- Erasures: what was erased stays erased.
--
-- Erasing itself comes later (001730). Here is what it leaves behind, and what keeps the person from coming back by accident:
-- a provider delivers again for days, statuses come late, and an old delivery may be replayed. None of that may make a contact
-- out of somebody who asked to be forgotten; what he himself writes from then on does.
--
-- What was erased is recognized by keyed digests: of the ids and numbers of the person, and of his messages' ids at WhatsApp,
-- in which the number stands.

alter table public.contacts add column erased_at timestamptz;
comment on column public.contacts.erased_at is
  'Since when nothing is known of the person any more (erase_contact): what is left is counted, and can be neither changed nor used.';

create table private.erasure_salts (
  organization_id uuid not null,
  salt uuid not null default gen_random_uuid(),
  constraint erasure_salts_pkey primary key (organization_id)
);
comment on table private.erasure_salts is 'With what the digests of an organization''s erasures are made: without it they say nothing.';
alter table private.erasure_salts enable row level security;
alter table private.erasure_salts force row level security;
revoke all on private.erasure_salts from public, anon, authenticated, service_role;

create table private.erasures (
  organization_id uuid not null,
  id uuid not null default private.uuid_v7(),
  contact_id uuid not null,
  contact_ids uuid[] not null,
  identity_digests text[] not null,
  erased_at timestamptz not null,
  requested_by uuid,
  identifiers text[] not null default '{}',
  handles text[] not null default '{}',
  files text[] not null default '{}',
  horizon xid8,
  searches_until timestamptz,
  phase text not null default 'webhook_deliveries',
  last_key timestamptz not null default '-infinity',
  last_id uuid not null default '00000000-0000-0000-0000-000000000000',
  counts jsonb not null default '{}',
  completed_at timestamptz,
  created_at timestamptz not null default now(),
  constraint erasures_pkey primary key (organization_id, id),
  constraint erasures_organization_id_contact_id_key unique (organization_id, contact_id),
  constraint erasures_counts_is_object_check check (jsonb_typeof(counts) = 'object'),
  constraint erasures_forget_check check (completed_at is null or identifiers = '{}' and handles = '{}' and files = '{}')
);
comment on table private.erasures is
  'Who was erased, by id and digest: a provider''s retry brings nothing back, and a restored backup is erased again.';
comment on column private.erasures.contact_ids is 'The contact, and those that had been merged into it.';
comment on column private.erasures.identity_digests is 'Of every id and number by which he was known.';
comment on column private.erasures.identifiers is
  'His ids, numbers, e-mail and CPF, by which the logs are searched; emptied when that is done, minutes later.';
comment on column private.erasures.handles is 'What the logs may name instead: ids of his messages, files, jobs. Emptied with identifiers.';
comment on column private.erasures.files is 'Of what was sent to him, in Storage. Emptied with identifiers.';
comment on column private.erasures.horizon is 'Transactions older than this may have known him still: the search begins when they have ended.';
comment on column private.erasures.searches_until is 'What the logs hold from later on is of no erased person.';
comment on column private.erasures.phase is 'Where the search through the logs is, with last_key and last_id.';
create index erasures_identity_digests_idx on private.erasures using gin (identity_digests);
comment on index private.erasures_identity_digests_idx is 'Whether a delivery speaks of somebody who was erased.';
alter table private.erasures enable row level security;
alter table private.erasures force row level security;
revoke all on private.erasures from public, anon, authenticated, service_role;

create function private.erasure_digest(organization_id uuid, value text)
returns text
language plpgsql
stable
set search_path = ''
as $$
begin
  return (
    select encode(sha256(convert_to(s.salt || ':' || value, 'UTF8')), 'hex')
    from private.erasure_salts s
    where s.organization_id = erasure_digest.organization_id
  );
end;
$$;
comment on function private.erasure_digest(uuid, text) is 'What is kept of an id of somebody who was erased; null where nobody ever was.';

create function private.erased_message_id(organization_id uuid, whatsapp_message_id text)
returns text
language plpgsql
stable
set search_path = ''
as $$
begin
  return case
    when whatsapp_message_id like 'erased:%' then whatsapp_message_id
    else 'erased:' || private.erasure_digest(organization_id, whatsapp_message_id)
  end;
end;
$$;
comment on function private.erased_message_id(uuid, text) is 'In place of a message''s id at WhatsApp: the same message is known again, the number in it is gone.';

-- JSON of several persons -----------------------------------------------------------------------------------------------

create function private.word_set(words text[])
returns jsonb
language sql
immutable
set search_path = ''
as $$
  select coalesce(jsonb_object_agg(w, true), '{}') from unnest(words) w where w is not null
$$;
comment on function private.word_set(text[]) is 'Words to look among very often: ten thousand of them are found as fast as ten.';

create function private.mentions(value jsonb, words jsonb)
returns boolean
language plpgsql
immutable
set search_path = ''
-- Planned anew for each row, thousands of words would be copied each time.
set plan_cache_mode = force_generic_plan
as $$
begin
  return exists (
    select
    from jsonb_path_query(value, 'strict $.**') v
    where jsonb_typeof(v) in ('string', 'number') and words ? (v #>> '{}')
  );
end;
$$;
comment on function private.mentions(jsonb, jsonb) is 'Whether one of these words is a value in it.';

create function private.words_in(value jsonb, words jsonb)
returns jsonb
language plpgsql
immutable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $$
begin
  return (
    select coalesce(jsonb_object_agg(distinct_word.v, true), '{}')
    from (
      select distinct v #>> '{}' as v
      from jsonb_path_query(value, 'strict $.**') v
      where jsonb_typeof(v) in ('string', 'number') and words ? (v #>> '{}')
    ) distinct_word
  );
end;
$$;
comment on function private.words_in(jsonb, jsonb) is 'Which of very many words are values in it: json_without() and json_about() are given these.';

create function private.is_of(value jsonb, words jsonb)
returns boolean
language plpgsql
immutable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $$
begin
  return case jsonb_typeof(value)
    when 'object' then exists (
      select
      from jsonb_each(value) e
      where case jsonb_typeof(e.value) when 'object' then private.is_of(e.value, words) when 'array' then false else words ? (e.value #>> '{}') end
    )
    when 'array' then false
    else words ? (value #>> '{}')
  end;
end;
$$;
comment on function private.is_of(jsonb, jsonb) is 'Whether one of these words stands in it outside of every list: then all of it is about whom they name.';

create function private.json_without(value jsonb, words jsonb)
returns jsonb
language plpgsql
immutable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $$
begin
  return case
    when not private.mentions(value, words) then value
    when private.is_of(value, words) then null
    when jsonb_typeof(value) = 'object' then (
      select jsonb_object_agg(e.key, private.json_without(e.value, words)) from jsonb_each(value) e
    )
    else (
      select coalesce(jsonb_agg(x.kept order by x.n) filter (where x.kept is not null), '[]')
      from (
        select private.json_without(e.value, words) as kept, e.n from jsonb_array_elements(value) with ordinality e (value, n)
      ) x
    )
  end;
end;
$$;
comment on function private.json_without(jsonb, jsonb) is
  'JSON without the elements of its lists that hold one of these words (word_set()) as a value; null when one stands outside of every list. A batch of many persons'' messages loses one person''s.';

create function private.json_about(value jsonb, words jsonb)
returns jsonb
language plpgsql
immutable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $$
begin
  return case
    when not private.mentions(value, words) then null
    when private.is_of(value, words) then value
    when jsonb_typeof(value) = 'object' then (
      select jsonb_object_agg(x.key, x.part)
      from (select e.key, private.json_about(e.value, words) as part from jsonb_each(value) e) x
      where x.part is not null
    )
    else (
      select jsonb_agg(x.part order by x.n)
      from (
        select private.json_about(e.value, words) as part, e.n from jsonb_array_elements(value) with ordinality e (value, n)
      ) x
      where x.part is not null
    )
  end;
end;
$$;
comment on function private.json_about(jsonb, jsonb) is
  'What json_without() takes away, where it stood; null when that is nothing. One person''s part of a batch.';

create function private.tells(told text, words text[])
returns boolean
language plpgsql
immutable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $$
begin
  return exists (select from unnest(words) w where position(w in told) > 0);
end;
$$;
comment on function private.tells(text, text[]) is 'Whether one of these words is in a text.';

-- Deliveries ------------------------------------------------------------------------------------------------------------

create function private.erased_events(organization_id uuid, instance_id uuid, events jsonb)
returns bigint[]
language plpgsql
stable
set search_path = ''
as $$
declare
  salt constant text := (select s.salt from private.erasure_salts s where s.organization_id = erased_events.organization_id);
begin
  if salt is null then
    return '{}'::bigint[];
  end if;
  -- A delivery has a thousand events, and an organization erases few: everything at once, and digests without a call for each.
  return array(
    select e.n
    from rows from (
      jsonb_to_recordset(events) as (
        kind text, sent_at timestamptz, occurred_at timestamptz, at timestamptz, whatsapp_message_id text, message_id uuid,
        identities jsonb, phone_number text
      )
    ) with ordinality as e (kind, sent_at, occurred_at, at, whatsapp_message_id, message_id, identities, phone_number, n)
    -- A message that was there: delivered again, or changed by whatever comes late.
    where exists (
      select
      from public.messages m
      where m.organization_id = erased_events.organization_id
        and m.instance_id = erased_events.instance_id
        and m.whatsapp_message_id = 'erased:' || encode(sha256(convert_to(salt || ':' || e.whatsapp_message_id, 'UTF8')), 'hex')
    )
    or e.kind = 'status' and e.message_id is not null and exists (
      select
      from public.messages m
      join public.contacts p on p.organization_id = m.organization_id and p.id = m.contact_id
      where m.organization_id = erased_events.organization_id and m.id = e.message_id and p.erased_at is not null
    )
    or e.kind in ('status', 'preference', 'identity_change') and exists (
      select
      from private.erasures x
      where x.organization_id = erased_events.organization_id
        and x.identity_digests && array(
          select encode(sha256(convert_to(salt || ':' || known.value, 'UTF8')), 'hex')
          from (
            select i.value from jsonb_to_recordset(coalesce(e.identities, '[]')) as i (value text)
            union all
            select e.phone_number
          ) known
          where known.value is not null
        )
        and (
          coalesce(e.sent_at, e.occurred_at, e.at) <= x.erased_at
          -- Of a message that we never had. Nobody has that id, unless he has come back.
          or e.kind = 'status' and not exists (
            select
            from jsonb_to_recordset(coalesce(e.identities, '[]')) as i (kind public.identity_kind, value text)
            join public.contact_identities known
              on known.organization_id = erased_events.organization_id
              and known.instance_id = erased_events.instance_id
              and known.kind = i.kind
              and known.value = i.value
          )
        )
    )
    order by e.n
  );
end;
$$;
comment on function private.erased_events(uuid, uuid, jsonb) is
  'Which events of a number (from 1) tell nothing but what was erased: a message that was there, or news of before. What an erased person writes newly is no such thing.';

create function private.without_erased(app_key text, parts jsonb)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  part record;
  erased bigint[];
  kept jsonb;
  dropped jsonb;
  words text[];
  cleaned jsonb := '[]'::jsonb;
begin
  -- Most organizations have erased nobody, and pay one look-up.
  if not exists (
    select
    from public.whatsapp_instances i
    join private.erasure_salts s on s.organization_id = i.organization_id
    where i.meta_app_key = without_erased.app_key
      and i.external_id in (select p ->> 'external_id' from jsonb_array_elements(parts) p)
  ) then
    return parts;
  end if;
  for part in
    select p.value, coalesce(p.value -> 'events', '[]') as events, i.organization_id, i.id as instance_id
    from jsonb_array_elements(parts) with ordinality p
    left join public.whatsapp_instances i
      on i.meta_app_key = without_erased.app_key
      and i.external_id = p.value ->> 'external_id'
      and i.status <> 'disconnected'
    order by p.ordinality
  loop
    erased := private.erased_events(part.organization_id, part.instance_id, part.events);
    select
      coalesce(jsonb_agg(e.value order by e.ordinality) filter (where e.ordinality <> all (erased)), '[]'),
      coalesce(jsonb_agg(e.value order by e.ordinality) filter (where e.ordinality = any (erased)), '[]')
    into kept, dropped
    from jsonb_array_elements(part.events) with ordinality e
    where cardinality(erased) > 0;
    if cardinality(erased) = 0 then
      cleaned := cleaned || jsonb_build_array(part.value);
    else
      -- He may have written anew in the same batch: what that shows stays.
      words := array(
        select told.value
        from jsonb_array_elements(dropped) d
        cross join lateral (
          select x.value
          from (values
            (d ->> 'whatsapp_message_id'), (d ->> 'whatsapp_chat_id'), (d ->> 'phone_number'), (ltrim(d ->> 'phone_number', '+'))
          ) x (value)
          union all
          select i.value from jsonb_to_recordset(coalesce(d -> 'identities', '[]')) as i (value text)
        ) told
        where told.value is not null
        except
        select v #>> '{}' from jsonb_path_query(kept, 'strict $.**') v where jsonb_typeof(v) = 'string'
      );
      cleaned := cleaned || jsonb_build_array(part.value || jsonb_build_object(
        'events', kept,
        'payload', coalesce(private.json_without(part.value -> 'payload', private.word_set(words)), '{}')));
    end if;
  end loop;
  return cleaned;
end;
$$;
comment on function private.without_erased(text, jsonb) is
  'A delivery without what was erased: neither its events nor its raw payload bring it back.';
