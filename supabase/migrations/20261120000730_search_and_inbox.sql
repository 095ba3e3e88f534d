-- Search and inbox: finding what was said, and the list of conversations that an app shows.

-- The index -----------------------------------------------------------------------------------------------------------

-- Text equality beside words in one index.
create extension if not exists btree_gin with schema extensions;

create function private.search_bucket(organization_id uuid, message_id uuid)
returns text
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
begin
  -- An id begins with 48 bits of its time (UUIDv7): the upper 18 are spans of 2^30 milliseconds.
  return organization_id::text || left(message_id::text, 4)
    || translate(substr(message_id::text, 5, 1), '0123456789abcdef', '000044448888cccc');
end;
$$;
comment on function private.search_bucket(uuid, uuid) is
  'An organization''s messages of one span of twelve days: a search reads the newest first, and need not read on.';

create function private.search_vector(content text)
returns tsvector
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
begin
  return to_tsvector('pg_catalog.portuguese', private.search_text(content));
end;
$$;
comment on function private.search_vector(text) is 'The words of a message as the search knows them.';

-- squawk-ignore require-concurrent-index-creation -- the table is new
create index messages_search_idx on public.messages
  using gin ((private.search_bucket(organization_id, id)), (private.search_vector(content)))
  with (fastupdate = off)
  where content is not null;
comment on index public.messages_search_idx is
  'search_messages(). Without a list of pending entries: each of a search''s probes would read it.';

-- search_messages -----------------------------------------------------------------------------------------------------

create type public.message_match as (
  id uuid,
  conversation_id uuid,
  contact_id uuid,
  contact_name text,
  instance_id uuid,
  direction public.message_direction,
  sender public.message_sender,
  sender_user_id uuid,
  message_type public.message_type,
  created_at timestamptz,
  excerpt jsonb,
  rank real,
  cursor text
);
comment on type public.message_match is
  'A message that a search found. excerpt: [{text, match}], pieces of plain text to show one after the other, those with match highlighted; no markup, whatever the message says. cursor: for the argument "before" of the next page.';

create function private.newest_matches(
  organization_id uuid,
  conversation_id uuid,
  words tsquery,
  until uuid,
  including boolean,
  wanted int
)
returns uuid[]
language plpgsql
stable
set search_path = ''
-- A look-up by keys each, planned once. What must not lead to an index is "is true".
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
declare
  found_ids uuid[] := '{}'::uuid[];
  newest uuid;
  bucket_start uuid;
begin
  if conversation_id is not null then
    return array(
      select m.id
      from public.messages m
      where m.conversation_id = newest_matches.conversation_id
        and (m.organization_id = newest_matches.organization_id) is true
        and (m.id < until or including and m.id = until)
        and m.id <= until
        and m.revoked_at is null
        and (private.search_vector(m.content) @@ words) is true
      order by m.id desc
      limit wanted
    );
  end if;

  loop
    -- The newest bucket that has something, from where we are.
    select m.id into newest
    from public.messages m
    where m.organization_id = newest_matches.organization_id
      and m.id <= coalesce(bucket_start, until)
      and (bucket_start is null or m.id < bucket_start)
    order by m.organization_id desc, m.id desc
    limit 1;
    exit when not found;
    bucket_start := (right(private.search_bucket(organization_id, newest), 5) || '000-0000-0000-0000-000000000000')::uuid;

    found_ids := found_ids || array(
      select m.id
      from public.messages m
      where private.search_bucket(m.organization_id, m.id) = private.search_bucket(newest_matches.organization_id, newest)
        and private.search_vector(m.content) @@ words
        and m.content is not null
        and (m.id < until or including and m.id = until) is true
        and m.revoked_at is null
      order by m.id desc
      limit wanted - cardinality(found_ids)
    );
    exit when cardinality(found_ids) >= wanted;
  end loop;
  return found_ids;
end;
$$;
comment on function private.newest_matches(uuid, uuid, tsquery, uuid, boolean, int) is
  'The newest messages that match, newest first; what their senders deleted is not found.';

create function private.excerpt(content text, lexemes text[])
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  lead constant int := 60;
  longest constant int := 240;
  -- Letters as Portuguese and its neighbours have them: what "\w" means depends on the server's locale.
  letter constant text := '0-9A-Za-z_\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0300-\u036f\u1e00-\u1eff';
  searched constant text := left(content, 20000);
  gaps text[];
  words text[];
  folded text[];
  is_match boolean[] := '{}'::boolean[];
  first_match int;
  shown_from int;
  place int := 0;
  text_until_now text;
  pieces jsonb := '[]'::jsonb;
begin
  select array_agg(part[1] order by n), array_agg(part[2] order by n)
  into gaps, words
  from regexp_matches(searched, '([^' || letter || ']*)([' || letter || ']*)', 'g') with ordinality as token (part, n);
  folded := string_to_array(private.search_text(array_to_string(words, E'\n')), E'\n');
  for n in 1 .. coalesce(cardinality(words), 0) loop
    is_match := is_match || coalesce(ts_lexize('pg_catalog.portuguese_stem', folded[n]) && lexemes, false);
    place := place + length(gaps[n]);
    if is_match[n] and first_match is null then
      first_match := place;
    end if;
    place := place + length(words[n]);
  end loop;

  shown_from := greatest(coalesce(first_match, 0) - lead, 0);
  -- A little more at the beginning rather than three dots for it.
  shown_from := case when shown_from < 20 then 0 else shown_from end;
  text_until_now := case when shown_from > 0 then '…' else '' end;
  place := 0;
  for n in 1 .. coalesce(cardinality(words), 0) loop
    if place >= shown_from + longest then
      text_until_now := text_until_now || '…';
      exit;
    end if;
    if place >= shown_from or place + length(gaps[n]) + length(words[n]) > shown_from and is_match[n] then
      text_until_now := text_until_now || left(gaps[n], longest);
      if is_match[n] then
        if text_until_now <> '' then
          pieces := pieces || jsonb_build_object('text', text_until_now, 'match', false);
          text_until_now := '';
        end if;
        pieces := pieces || jsonb_build_object('text', left(words[n], longest), 'match', true);
      else
        text_until_now := text_until_now || left(words[n], longest);
      end if;
    end if;
    place := place + length(gaps[n]) + length(words[n]);
  end loop;
  if text_until_now <> '' then
    pieces := pieces || jsonb_build_object('text', text_until_now, 'match', false);
  end if;
  return pieces;
end;
$$;
comment on function private.excerpt(text, text[]) is
  'The part of a message around the first word that was looked for, in pieces: [{text, match}].';

create function private.search_messages(query text, conversation_id uuid, before text, page_size int, organization_id uuid)
returns setof public.message_match
language plpgsql
stable
security definer -- under RLS a search by words cannot use its index
set search_path = ''
as $$
declare
  -- Ranked among so many of the newest matches; then come the next so many. A common word has a million.
  window_size constant int := 200;
  words constant tsquery := websearch_to_tsquery('pg_catalog.portuguese', private.search_text(left(query, 500)));
  reason text;
  position constant text[] := string_to_array(before, ':');
  until uuid := 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid;
  including boolean := true;
  last_score float8 := 'infinity'::float8;
  last_id uuid := 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid;
  remaining int := greatest(least(coalesce(page_size, 20), 50), 1);
  returned int;
  ids uuid[];
  lexemes text[];
begin
  perform private.require_role(organization_id, 'viewer');
  reason := case
    when (query ~ '\S') is not true then 'empty'
    when length(query) > 500 then 'too_long'
    when numnode(words) = 0 then 'only_common_words'
    when querytree(words) in ('', 'T') then 'only_exclusions'
    -- No other number can come from a result; and only what can be read is.
    when before !~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}:-?[0-9]{1,6}(\.[0-9]{1,20})?(e-[0-9]{1,2})?:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
      then 'cursor'
  end;
  if reason is not null then
    perform private.raise_error('BL212', 'invalid_query', 'Name a word to look for', jsonb_build_object('reason', reason));
  end if;
  if before is not null then
    until := position[1]::uuid;
    last_score := position[2]::float8;
    last_id := position[3]::uuid;
  end if;
  lexemes := array(
    select replace(replace(lexeme[1], '''''', ''''), '\\', '\')
    from regexp_matches(querytree(words), '''((?:[^'']|'''')+)''', 'g') lexeme
  );

  loop
    ids := private.newest_matches(
      search_messages.organization_id, search_messages.conversation_id, words, until, including, window_size);
    exit when cardinality(ids) = 0;
    -- Where this window begins stays, whatever comes in between two pages.
    until := ids[1];
    return query
    select
      s.id, s.conversation_id, s.contact_id, coalesce(p.name, p.profile_name), s.instance_id, s.direction, s.sender,
      s.sender_user_id, s.message_type, s.created_at, private.excerpt(s.content, lexemes), s.rank,
      concat_ws(':', until, s.score, s.id)
    from (
      select m.*, relevance.rank, relevance.score
      from public.messages m
      cross join lateral (
        select ts_rank(private.search_vector(m.content), words, 1) as rank
        offset 0
      ) ranked
      cross join lateral (
        select
          ranked.rank,
          -- Twice as relevant is worth a month. It does not depend on today, so pages fit together.
          ln(greatest(ranked.rank, 0.001)) / ln(2.0::float8) + extract(epoch from m.created_at)::float8 / (30 * 86400) as score
      ) relevance
      where m.organization_id = search_messages.organization_id
        and m.id = any (ids)
        and (relevance.score < last_score or relevance.score = last_score and m.id < last_id)
      order by relevance.score desc, m.id desc
      limit remaining
    ) s
    join public.contacts p on p.organization_id = s.organization_id and p.id = s.contact_id
    order by s.score desc, s.id desc;
    get diagnostics returned = row_count;
    remaining := remaining - returned;
    exit when remaining = 0 or cardinality(ids) < window_size;
    until := ids[window_size];
    including := false;
    last_score := 'infinity'::float8;
  end loop;
end;
$$;
comment on function private.search_messages(text, uuid, text, int, uuid) is 'See public.search_messages().';
grant execute on function private.search_messages(text, uuid, text, int, uuid) to authenticated, service_role;

create function public.search_messages(
  query text,
  conversation_id uuid default null,
  before text default null,
  page_size int default 20,
  organization_id uuid default public.user_organization_id()
)
returns setof public.message_match
language plpgsql
stable
set search_path = ''
as $$
begin
  return query select * from private.search_messages(query, conversation_id, before, page_size, organization_id);
end;
$$;
comment on function public.search_messages(text, uuid, text, int, uuid) is
  'Finds messages by their words, whatever their accents and endings: all of them, "in this order", -without, or. The newest 200 matches come first, the most relevant and recent of them at the top, then the next 200. At most 50 at once (20 if not said); the next page: before = the cursor of the last one; fewer than page_size is the end. Viewers and up. Errors: not_allowed, invalid_query.';
grant execute on function public.search_messages(text, uuid, text, int, uuid) to authenticated, service_role;

-- conversation_dashboard ----------------------------------------------------------------------------------------------

create view public.conversation_dashboard
with (security_invoker = true)
as
select
  v.organization_id,
  v.id,
  v.contact_id,
  coalesce(p.name, p.profile_name) as contact_name,
  p.phone_number as contact_phone_number,
  v.instance_id,
  i.name as instance_name,
  v.status,
  v.is_open,
  v.priority,
  v.is_bot_controlled,
  case when v.is_bot_controlled then 'bot' when v.status = 'waiting_human' then 'nobody' else 'human' end as controlled_by,
  v.control_epoch,
  v.assigned_user_id,
  nullif(concat_ws(' ', a.first_name, a.last_name), '') as assigned_name,
  v.location_id,
  v.unread_count,
  v.last_message_at,
  v.last_message_preview,
  v.escalated_at,
  v.escalation_reason,
  case when i.provider = 'meta_cloud' then (
    select max(w.last_inbound_at) + interval '24 hours'
    from public.conversations w
    where w.organization_id = v.organization_id and w.contact_id = v.contact_id and w.instance_id = v.instance_id
  ) end as window_expires_at,
  v.closed_at,
  v.satisfaction_score,
  v.created_at
from public.conversations v
join public.contacts p on p.organization_id = v.organization_id and p.id = v.contact_id
join public.whatsapp_instances i on i.organization_id = v.organization_id and i.id = v.instance_id
left join public.profiles a on a.user_id = v.assigned_user_id;
comment on view public.conversation_dashboard is
  'What an inbox list shows, in one query: filter by organization_id and is_open, order by last_message_at desc, id desc. The next page: last_message_at <= the last row''s, and (last_message_at < it or id < the last row''s id); the first of the two finds its place in the index.';
comment on column public.conversation_dashboard.controlled_by is 'Who answers: bot, human, or nobody while it waits for a human.';
comment on column public.conversation_dashboard.window_expires_at is
  'Until when anything can be written; afterwards a template only. Null when the customer never wrote, or the provider knows no such window.';
revoke all on public.conversation_dashboard from public, anon, authenticated, service_role;
grant select on public.conversation_dashboard to authenticated, service_role;
