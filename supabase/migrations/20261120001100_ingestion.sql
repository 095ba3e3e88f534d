-- Ingestion: what a delivery does, understood once.
--
-- One call, ingest_webhook(), is one transaction: the raw event, the contact, the conversation, the message and the
-- statuses are all there or none is. It is set-based: a delivery of 1,000 updates is one round trip. It may come
-- any number of times, in any order, from many senders at once.
--
-- Locks: everything that concerns a customer first locks the customer's contact (in id order), so that a message and
-- what changes it (an edit, a reaction, a status) never miss each other in two transactions. Whoever has no contact
-- yet is locked by his ids, before any row.

-- What the adapters hand over -------------------------------------------------------------------------------------

create type private.inbound_event as (
  n bigint,
  organization_id uuid,
  instance_id uuid,
  kind text,
  at timestamptz,
  whatsapp_message_id text,
  message_id uuid,
  identities jsonb,
  phone_number text,
  shared_phone_number text,
  profile_name text,
  whatsapp_chat_id text,
  message_type public.message_type,
  content text,
  media jsonb,
  reply_to_whatsapp_message_id text,
  status public.message_status,
  error_code text,
  error_message text,
  new_identities jsonb,
  new_phone_number text,
  value text,
  metadata jsonb,
  contact_id uuid,
  tells_news boolean
);
comment on type private.inbound_event is
  'One thing that a provider told: kind message, echo, status, edit, revoke, reaction, identity_change or preference. n orders a delivery; whatsapp_message_id is the message told of (for status, edit, revoke and reaction: the one it changes), message_id our own id of it; shared_phone_number is one that a person says to have, which proves nothing; contact_id whose it is, tells_news whether it shows an id, a number or a profile name of that contact that we do not have.';

create function private.match_contacts(events private.inbound_event[])
returns private.inbound_event[]
language plpgsql
stable
set search_path = ''
as $$
begin
  return array(
    select case when e.contact_id is not null then e else jsonb_populate_record(e, jsonb_build_object(
      'contact_id', c.id,
      'tells_news',
        by_identity.known is distinct from jsonb_array_length(e.identities)
        or c.phone_number is null and coalesce(e.phone_number, e.shared_phone_number) is not null
        or c.profile_name is distinct from coalesce(e.profile_name, c.profile_name))) end
    from unnest(events) e
    left join lateral (
      select (array_agg(i.contact_id order by w.rank))[1] as contact_id, count(*) as known
      from rows from (jsonb_to_recordset(e.identities) as (kind public.identity_kind, value text))
        with ordinality as w (kind, value, rank)
      cross join lateral (
        select i.contact_id
        from public.contact_identities i
        where i.organization_id = e.organization_id
          and i.instance_id = e.instance_id
          and i.kind = w.kind
          and i.value = w.value
        limit 1
      ) i
      where e.contact_id is null
    ) by_identity on true
    left join lateral (
      select p.id, p.phone_number, p.profile_name
      from public.contacts p
      where e.contact_id is null
        and p.organization_id = e.organization_id
        and p.id = (
          -- A number or an id that a merged contact has kept leads to the one that it was merged into.
          select coalesce(found.merged_into_id, found.id)
          from public.contacts found
          where found.organization_id = e.organization_id
            and found.id = coalesce(by_identity.contact_id, (
              select same_number.id
              from public.contacts same_number
              where same_number.organization_id = e.organization_id and same_number.phone_number = e.phone_number
            ))
        )
      limit 1
    ) c on true
    order by e.n
  );
end;
$$;
comment on function private.match_contacts(private.inbound_event[]) is
  'The same events, each with whose it is (if that is not known yet): by the ids WhatsApp gives (in the adapter''s order), else by the canonical phone number.';

create function private.lock_contacts(events private.inbound_event[], matched_at pg_snapshot)
returns private.inbound_event[]
language plpgsql
volatile
set search_path = ''
as $$
declare
  theirs private.inbound_event[] := events;
  again private.inbound_event[];
  merged uuid[];
  parted uuid[];
  is_settled boolean := false;
begin
  loop
    begin
      with locked as materialized (
        select p.id, p.merged_into_id
        from public.contacts p
        where (p.organization_id, p.id) in (select e.organization_id, e.contact_id from unnest(theirs) e)
        order by p.organization_id, p.id
        for no key update
      )
      select coalesce(array_agg(l.id) filter (where l.merged_into_id is not null), '{}') into merged from locked l;
      parted := array(
        select a.contact_id from private.contact_partings a where not pg_visible_in_snapshot(a.transaction, matched_at)
      );
      is_settled := merged || parted = '{}';
      if not is_settled then
        -- Somebody merged a contact, or took one apart, while we were waiting for it: its events may be another one's now.
        matched_at := pg_current_snapshot();
        again := private.match_contacts(array(
          select case
            when e.contact_id = any (merged || parted) then jsonb_populate_record(e, '{"contact_id": null}')
            else e
          end
          from unnest(theirs) e
        ));
        is_settled := array(select e.contact_id from unnest(again) e order by e.n)
          = array(select e.contact_id from unnest(theirs) e order by e.n);
        if not is_settled then
          theirs := again;
          -- What we hold is given back before we wait for the others: all of them in one order.
          raise exception sqlstate 'BL000';
        end if;
      end if;
    exception when sqlstate 'BL000' then
      null;
    end;
    exit when is_settled;
  end loop;
  return theirs;
end;
$$;
comment on function private.lock_contacts(private.inbound_event[], pg_snapshot) is
  'The same events, with the contacts whose they are locked in one order for everybody; none of them is a merged one, and none was taken apart after matched_at, when they were looked up.';

create function private.lock_identities(events private.inbound_event[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  -- 256 locks per organization keep strangers apart. In one order for everybody, and before any row is locked.
  perform pg_advisory_xact_lock(bucket.organization, bucket.identity)
  from (
    select distinct hashtext(e.organization_id::text) as organization, hashtext(told.value) & 255 as identity
    from unnest(events) e
    cross join lateral (
      select w.value from jsonb_to_recordset(e.identities || e.new_identities) as w (value text)
      union all
      select number
      from unnest(array[e.phone_number, e.shared_phone_number, e.new_phone_number]) number
      where number is not null
    ) told
    order by 1, 2
  ) bucket;
end;
$$;
comment on function private.lock_identities(private.inbound_event[]) is
  'A person whom we do not know yet has no row to lock: his ids and numbers stand for him. Two deliveries that meet the same stranger, or learn the same number, come one after the other.';

create type private.new_person as (
  organization_id uuid,
  instance_id uuid,
  id uuid,
  phone_number text,
  profile_name text,
  identities jsonb
);

create function private.create_contacts(newcomers private.inbound_event[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  people private.new_person[];
begin
  people := array(
    select row(
      e.organization_id,
      e.instance_id,
      private.uuid_v7(),
      max(e.phone_number),
      (array_agg(e.profile_name order by e.n desc) filter (where e.profile_name is not null))[1],
      jsonb_agg(w)
    )::private.new_person
    from unnest(newcomers) e
    cross join lateral jsonb_array_elements(e.identities) w
    left join lateral (
      select bsuid ->> 'value' as value
      from jsonb_array_elements(e.identities) bsuid
      where bsuid ->> 'kind' = 'bsuid'
      limit 1
    ) hidden on true
    group by e.organization_id, e.instance_id, coalesce(hidden.value, e.phone_number, e.identities -> 0 ->> 'value')
  );

  insert into public.contacts (organization_id, id, phone_number, name, profile_name, source)
  select p.organization_id, p.id, p.phone_number, left(p.profile_name, 200), p.profile_name, 'whatsapp'
  from unnest(people) p
  -- In one order for everybody: two batches with the same two strangers must not wait for each other.
  order by p.phone_number
  on conflict (organization_id, phone_number) do nothing;

  -- Only of those who are new: the ids of a contact that others can see are written under its lock, later.
  insert into public.contact_identities (organization_id, contact_id, instance_id, kind, value)
  select p.organization_id, p.id, p.instance_id, w.kind, w.value
  from unnest(people) p
  join public.contacts created on created.organization_id = p.organization_id and created.id = p.id
  cross join lateral jsonb_to_recordset(p.identities) as w (kind public.identity_kind, value text)
  order by w.kind, w.value
  on conflict on constraint contact_identities_instance_id_kind_value_key do nothing;
end;
$$;
comment on function private.create_contacts(private.inbound_event[]) is
  'Makes a contact for each new person among the events. Who shares a phone number with a contact already is that contact.';

create function private.update_contacts(events private.inbound_event[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  -- What stands before a change of number, and the change itself, speak of ids and a number that have been left.
  telling constant private.inbound_event[] := array(
    select case
      when exists (
        select
        from unnest(events) change
        where change.kind = 'identity_change'
          and change.organization_id = e.organization_id
          and change.contact_id = e.contact_id
          and change.n >= e.n
      ) then jsonb_populate_record(e, '{"identities": [], "phone_number": null, "shared_phone_number": null}')
      else e
    end
    from unnest(events) e
    where e.tells_news and e.contact_id is not null
  );
begin
  -- Ids that a known contact shows for the first time (a wa_id without the ninth digit, a BSUID).
  insert into public.contact_identities (organization_id, contact_id, instance_id, kind, value)
  select distinct on (e.organization_id, e.instance_id, w.kind, w.value)
    e.organization_id, e.contact_id, e.instance_id, w.kind, w.value
  from unnest(telling) e
  cross join lateral jsonb_to_recordset(e.identities) as w (kind public.identity_kind, value text)
  order by e.organization_id, e.instance_id, w.kind, w.value, e.n
  on conflict on constraint contact_identities_instance_id_kind_value_key do nothing;

  -- A new profile name. The number is written apart: Postgres locks a row whose key column is named in the SET list against
  -- everybody who refers to it, whether the value changes or not.
  update public.contacts p
  set profile_name = news.profile_name,
      name = coalesce(p.name, left(news.profile_name, 200))
  from (
    select
      e.organization_id,
      e.contact_id,
      (array_agg(e.profile_name order by e.n desc))[1] as profile_name
    from unnest(telling) e
    where e.profile_name is not null
    group by e.organization_id, e.contact_id
  ) news
  where p.organization_id = news.organization_id
    and p.id = news.contact_id
    and p.profile_name is distinct from news.profile_name;

  -- A number that was hidden until now, if nobody else has it.
  update public.contacts p
  set phone_number = news.number
  from (
    select distinct on (told.organization_id, told.number) told.organization_id, told.contact_id, told.number
    from (
      select e.organization_id, e.contact_id, e.n, coalesce(e.phone_number, e.shared_phone_number) as number
      from unnest(telling) e
    ) told
    where told.number is not null
      and not exists (
        select
        from public.contacts other
        where other.organization_id = told.organization_id and other.phone_number = told.number
      )
    order by told.organization_id, told.number, told.n
  ) news
  where p.organization_id = news.organization_id
    and p.id = news.contact_id
    and p.phone_number is null;
end;
$$;
comment on function private.update_contacts(private.inbound_event[]) is
  'What a delivery newly tells of contacts that we know.';

-- Changes to messages ---------------------------------------------------------------------------------------------

create table private.parked_message_updates (
  organization_id uuid not null,
  id uuid not null default private.uuid_v7(),
  instance_id uuid not null,
  whatsapp_message_id text not null,
  change private.inbound_event not null,
  created_at timestamptz not null default now(),
  constraint parked_message_updates_pkey primary key (organization_id, id),
  constraint parked_message_updates_instance_id_fkey foreign key (organization_id, instance_id)
    references public.whatsapp_instances (organization_id, id) on delete cascade
);
comment on table private.parked_message_updates is
  'Statuses, edits, deletions and reactions that came before the message they name; they wait for it. Some wait for ever: a status of a message that another app sent.';
create unique index parked_message_updates_once_idx on private.parked_message_updates (
  organization_id, instance_id, whatsapp_message_id,
  ((change).kind), ((change).status), ((change).at), ((change).value), md5((change).content)
) nulls not distinct;
comment on index private.parked_message_updates_once_idx is 'Finds what waits for a message; a redelivery waits once.';

alter table private.parked_message_updates enable row level security;
alter table private.parked_message_updates force row level security;
revoke all on private.parked_message_updates from public, anon, authenticated, service_role;

create function private.is_only_our_guess(message public.messages)
returns boolean
language plpgsql
immutable
set search_path = ''
as $$
begin
  return message.status = 'failed' and coalesce(message.error_code in ('attempts_exhausted', 'unconfirmed'), false);
end;
$$;
comment on function private.is_only_our_guess(public.messages) is
  'A failure that the provider did not tell: any status that it tells is better evidence.';

create function private.apply_message_updates(changes private.inbound_event[])
returns bigint[]
language plpgsql
volatile
set search_path = ''
as $$
declare
  named private.inbound_event[];
begin
  named := array(
    select jsonb_populate_record(c, jsonb_build_object('message_id', m.id))
    from unnest(changes) c
    join public.messages m
      on m.organization_id = c.organization_id
      and m.id = coalesce(
        (
          select by_whatsapp_id.id
          from public.messages by_whatsapp_id
          where by_whatsapp_id.organization_id = c.organization_id
            and by_whatsapp_id.instance_id = c.instance_id
            and by_whatsapp_id.whatsapp_message_id = c.whatsapp_message_id
        ),
        (
          select by_our_id.id
          from public.messages by_our_id
          where by_our_id.organization_id = c.organization_id
            and by_our_id.id = c.message_id
            -- "is true" keeps this out of the index conditions: an instance has too many messages.
            and (by_our_id.instance_id = c.instance_id) is true
        )
      )
  );
  if cardinality(named) = 0 then
    return array[]::bigint[];
  end if;
  perform
  from public.messages m
  where (m.organization_id, m.id) in (select c.organization_id, c.message_id from unnest(named) c)
  order by m.organization_id, m.id
  for no key update;

  update public.messages m
  set status = case
        when private.is_only_our_guess(m) and s.status >= 'sent' then s.status
        else greatest(m.status, s.status)
      end,
      -- The answer to our send may have been lost; the status tells the id all the same.
      whatsapp_message_id = coalesce(m.whatsapp_message_id, s.whatsapp_message_id),
      sent_at = least(m.sent_at, s.sent_at),
      delivered_at = least(m.delivered_at, s.delivered_at),
      read_at = least(m.read_at, s.read_at),
      played_at = least(m.played_at, s.played_at),
      failed_at = case when private.is_only_our_guess(m) then s.failed_at else least(m.failed_at, s.failed_at) end,
      error_code = case when private.is_only_our_guess(m) then s.error_code else coalesce(m.error_code, s.error_code) end,
      error_message = case when private.is_only_our_guess(m) then s.error_message else coalesce(m.error_message, s.error_message) end,
      metadata = m.metadata || s.metadata
  from (
    select
      c.organization_id,
      c.message_id as id,
      max(c.status) as status,
      min(c.whatsapp_message_id) as whatsapp_message_id,
      min(c.at) filter (where c.status = 'sent') as sent_at,
      min(c.at) filter (where c.status = 'delivered') as delivered_at,
      min(c.at) filter (where c.status = 'read') as read_at,
      min(c.at) filter (where c.status = 'played') as played_at,
      min(c.at) filter (where c.status = 'failed') as failed_at,
      min(c.error_code) as error_code,
      min(c.error_message) as error_message,
      coalesce(jsonb_object_agg(extra.key, extra.value) filter (where extra.key is not null), '{}') as metadata
    from unnest(named) c
    left join lateral jsonb_each(c.metadata) extra on true
    where c.kind = 'status'
    group by c.organization_id, c.message_id
  ) s
  where m.organization_id = s.organization_id
    and m.id = s.id
    and m.direction = 'outbound'
    and (
      m.status < s.status
      or private.is_only_our_guess(m)
      or m.whatsapp_message_id is null
      or m.sent_at is distinct from least(m.sent_at, s.sent_at)
      or m.delivered_at is distinct from least(m.delivered_at, s.delivered_at)
      or m.read_at is distinct from least(m.read_at, s.read_at)
      or m.played_at is distinct from least(m.played_at, s.played_at)
      or m.failed_at is distinct from least(m.failed_at, s.failed_at)
      or not m.metadata @> s.metadata
    );

  if exists (select from unnest(named) c where c.kind = 'edit') then
    update public.messages m
    set content = e.content,
        media = coalesce(e.media, m.media),
        edited_at = e.at,
        metadata = m.metadata || jsonb_build_object(
          'edits',
          coalesce(m.metadata -> 'edits', '[]')
            || jsonb_build_object('content', m.content, 'until', e.at))
    from (
      select distinct on (c.organization_id, c.message_id)
        c.organization_id, c.message_id as id, c.content, c.media, c.at
      from unnest(named) c
      where c.kind = 'edit'
      order by c.organization_id, c.message_id, c.at desc, c.n desc
    ) e
    where m.organization_id = e.organization_id
      and m.id = e.id
      and (m.edited_at is null or m.edited_at <= e.at)
      and m.content is distinct from e.content;
  end if;

  if exists (select from unnest(named) c where c.kind = 'revoke') then
    update public.messages m
    set revoked_at = r.at
    from (
      select c.organization_id, c.message_id as id, min(c.at) as at
      from unnest(named) c
      where c.kind = 'revoke'
      group by c.organization_id, c.message_id
    ) r
    where m.organization_id = r.organization_id
      and m.id = r.id
      and (m.revoked_at is null or m.revoked_at > r.at);
  end if;

  if exists (select from unnest(named) c where c.kind = 'reaction') then
    update public.messages m
    set metadata = m.metadata || jsonb_build_object(
      'reactions',
      coalesce(m.metadata -> 'reactions', '{}') || (
        select coalesce(jsonb_object_agg(latest.reactor, jsonb_build_object('emoji', latest.emoji, 'at', latest.at)), '{}')
        from (
          select distinct on (c.value) c.value as reactor, c.content as emoji, c.at
          from unnest(named) c
              where c.kind = 'reaction' and c.organization_id = m.organization_id and c.message_id = m.id
          order by c.value, c.at desc, c.n desc
        ) latest
        -- A removed reaction stays as null, or an older one that comes late would bring it back. Meta's clock has
        -- seconds: of two in one second, the one that came later.
        where latest.at >= coalesce((m.metadata -> 'reactions' -> latest.reactor ->> 'at')::timestamptz, '-infinity')
      ))
    where (m.organization_id, m.id) in (
      select c.organization_id, c.message_id
      from unnest(named) c
      where c.kind = 'reaction'
    );
  end if;

  return array(select c.n from unnest(named) c);
end;
$$;
comment on function private.apply_message_updates(private.inbound_event[]) is
  'Applies statuses, edits, deletions and reactions to the messages they name, in an order-independent way; returns the n of those whose message is known.';

create function private.apply_parked_message_updates(messages public.messages[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  changes private.inbound_event[];
begin
  with arrived as (
    delete from private.parked_message_updates p
    using unnest(messages) m
    where p.organization_id = m.organization_id
      and p.instance_id = m.instance_id
      and p.whatsapp_message_id = m.whatsapp_message_id
    returning p.change
  )
  select array_agg(a.change) into changes from arrived a;
  if changes is not null then
    perform private.apply_message_updates(changes);
  end if;
end;
$$;
comment on function private.apply_parked_message_updates(public.messages[]) is 'Whatever waited for these messages happens to them.';

create function private.tg_messages__apply_parked_updates()
returns trigger
language plpgsql
volatile
security definer -- what waits is in "private"
set search_path = ''
as $$
begin
  if tg_op = 'UPDATE' then
    perform private.apply_parked_message_updates(array[new]);
  elsif exists (
    select
    from inserted i
    join private.parked_message_updates p
      on p.organization_id = i.organization_id
      and p.instance_id = i.instance_id
      and p.whatsapp_message_id = i.whatsapp_message_id
  ) then
    perform private.apply_parked_message_updates(array(select i::public.messages from inserted i));
  end if;
  return null;
end;
$$;
comment on function private.tg_messages__apply_parked_updates() is
  'Trigger: a message that arrives, or learns its WhatsApp id, takes the updates that came before it.';

create trigger messages_900_apply_parked_updates
  after insert on public.messages
  referencing new table as inserted
  for each statement execute function private.tg_messages__apply_parked_updates();
create trigger messages_900_apply_parked_updates_when_sent
  after update of whatsapp_message_id on public.messages
  for each row when (old.whatsapp_message_id is null and new.whatsapp_message_id is not null)
  execute function private.tg_messages__apply_parked_updates();

-- Messages -------------------------------------------------------------------------------------------------------

create function private.store_messages(events private.inbound_event[])
returns bigint[]
language plpgsql
volatile
set search_path = ''
as $$
declare
  fresh private.inbound_event[];
  wanted bigint;
  locked bigint;
  chat_moved boolean;
  started_at constant timestamptz := clock_timestamp();
  stored bigint[];
begin
  fresh := array(
    select jsonb_populate_record(first, jsonb_build_object(
      -- A microsecond apart, so that a batch reads in the provider's order.
      'message_id', private.uuid_v7(started_at + (first).n * interval '1 microsecond')))
    from (
      select distinct on (e.organization_id, e.instance_id, e.whatsapp_message_id) e as first
      from unnest(events) e
      where e.kind in ('message', 'echo', 'identity_change')
        and e.contact_id is not null
        and not exists (
          select
          from public.messages m
          where m.organization_id = e.organization_id
            and m.instance_id = e.instance_id
            and m.whatsapp_message_id = e.whatsapp_message_id
        )
      order by e.organization_id, e.instance_id, e.whatsapp_message_id, e.n
    ) deduplicated
  );
  if cardinality(fresh) = 0 then
    return array[]::bigint[];
  end if;

  -- Someone may close a conversation before we have locked it: then look again, and open another one.
  loop
    with chat as (
      select distinct on (e.organization_id, e.instance_id, e.contact_id)
        e.organization_id, e.instance_id, e.contact_id, e.whatsapp_chat_id
      from unnest(fresh) e
      where private.opens_conversation(e)
      order by e.organization_id, e.instance_id, e.contact_id, e.n desc
    )
    select count(*), count(held.id), coalesce(bool_or(chat.whatsapp_chat_id <> held.whatsapp_chat_id), false)
    into wanted, locked, chat_moved
    from chat
    left join lateral (
      select v.id, v.whatsapp_chat_id
      from public.conversations v
      where v.organization_id = chat.organization_id
        and v.instance_id = chat.instance_id
        and v.contact_id = chat.contact_id
        -- "is true" keeps the inbox's index out of it: a tenant has many open conversations, a contact has one.
        and v.is_open is true
      for no key update
    ) held on true;
    exit when locked = wanted;

    insert into public.conversations (organization_id, instance_id, contact_id, whatsapp_chat_id)
    select distinct on (e.organization_id, e.instance_id, e.contact_id)
      e.organization_id, e.instance_id, e.contact_id, e.whatsapp_chat_id
    from unnest(fresh) e
    where private.opens_conversation(e)
    order by e.organization_id, e.instance_id, e.contact_id, e.n desc
    on conflict (organization_id, instance_id, contact_id) where is_open do nothing;
  end loop;

  insert into public.messages (
    organization_id, id, conversation_id, contact_id, instance_id, direction, sender, message_type, content, media,
    whatsapp_message_id, reply_to_whatsapp_message_id, status, error_code, error_message, sent_at, metadata
  )
  select
    e.organization_id,
    e.message_id,
    coalesce(named.conversation_id, current.id),
    e.contact_id,
    e.instance_id,
    case e.kind when 'echo' then 'outbound' else 'inbound' end::public.message_direction,
    case e.kind when 'echo' then 'human' when 'identity_change' then 'system' else 'contact' end::public.message_sender,
    coalesce(e.message_type, 'text'),
    e.content,
    e.media,
    e.whatsapp_message_id,
    e.reply_to_whatsapp_message_id,
    case e.kind when 'echo' then 'sent' else 'received' end::public.message_status,
    e.error_code,
    e.error_message,
    e.at,
    coalesce(e.metadata, '{}')
  from unnest(fresh) e
  -- A reaction belongs where the message is that it names.
  left join public.messages named
    on e.message_type = 'reaction'
    and named.organization_id = e.organization_id
    and named.instance_id = e.instance_id
    and named.whatsapp_message_id = e.reply_to_whatsapp_message_id
  left join lateral (
    select v.id
    from public.conversations v
    where v.organization_id = e.organization_id
      and v.instance_id = e.instance_id
      and v.contact_id = e.contact_id
      and (v.is_open is true or e.kind = 'identity_change')
    order by v.is_open desc, v.id desc
    limit 1
  ) current on true
  where coalesce(named.conversation_id, current.id) is not null
  order by e.n
  on conflict on constraint messages_instance_id_whatsapp_message_id_key do nothing;
  stored := array(
    select e.n
    from unnest(fresh) e
    where exists (
      select from public.messages m where m.organization_id = e.organization_id and m.id = e.message_id
    )
  );

  -- Somebody wrote on the business's own phone: the bot is quiet from now on. A thumbs up is no answer.
  if exists (select from unnest(fresh) e where e.kind = 'echo') then
    perform private.give_to_human(v, null)
    from public.conversations v
    where (v.is_bot_controlled or v.status = 'waiting_human')
      and v.is_open is true
      and (v.organization_id, v.id) in (
        select m.organization_id, m.conversation_id
        from unnest(fresh) e
        join public.messages m on m.organization_id = e.organization_id and m.id = e.message_id
        where e.kind = 'echo' and e.message_type is distinct from 'reaction'
      );
  end if;

  -- Where to answer from now on: the id that the customer used last.
  if chat_moved then
    update public.conversations v
    set whatsapp_chat_id = latest.whatsapp_chat_id
    from (
      select distinct on (e.organization_id, e.instance_id, e.contact_id)
        e.organization_id, e.instance_id, e.contact_id, e.whatsapp_chat_id
      from unnest(fresh) e
      where e.kind = 'message' and e.whatsapp_chat_id is not null
      order by e.organization_id, e.instance_id, e.contact_id, e.n desc
    ) latest
    where v.organization_id = latest.organization_id
      and v.instance_id = latest.instance_id
      and v.contact_id = latest.contact_id
      and v.is_open
      and v.whatsapp_chat_id <> latest.whatsapp_chat_id;
  end if;
  return stored;
end;
$$;
comment on function private.store_messages(private.inbound_event[]) is
  'Stores the messages that are not there yet, each in its contact''s open conversation, opening one where there is none; returns the n of the stored ones. The contacts are locked by the caller.';

create function private.opens_conversation(event private.inbound_event)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  -- News about a customer opens nothing; a reaction only if we do not know the message that it names.
  return event.kind <> 'identity_change' and (
    event.message_type <> 'reaction'
    or not exists (
      select
      from public.messages m
      where m.organization_id = event.organization_id
        and m.instance_id = event.instance_id
        and m.whatsapp_message_id = event.reply_to_whatsapp_message_id
    )
  );
end;
$$;
comment on function private.opens_conversation(private.inbound_event) is 'Whether a message needs an open conversation.';

-- News about customers ---------------------------------------------------------------------------------------------

create function private.apply_identity_changes(announced private.inbound_event[])
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  -- The last word of each contact, unless a later one was heard before: a redelivery changes nothing.
  events constant private.inbound_event[] := array(
    select last_word
    from (
      select distinct on (e.organization_id, e.contact_id) e as last_word
      from unnest(announced) e
      join public.contacts p on p.organization_id = e.organization_id and p.id = e.contact_id
      where e.kind = 'identity_change' and (p.identity_changed_at is null or p.identity_changed_at < e.at)
      order by e.organization_id, e.contact_id, e.n desc
    ) latest
  );
begin
  -- The old id is free from now on: the number may pass to another person.
  delete from public.contact_identities i
  using unnest(events) e
  cross join lateral jsonb_to_recordset(e.identities) as old_id (kind public.identity_kind, value text)
  where i.organization_id = e.organization_id
    and i.instance_id = e.instance_id
    and i.contact_id = e.contact_id
    and i.kind = old_id.kind
    -- Also the old number's other spelling, without the ninth digit.
    and (i.value = old_id.value or private.phone_from_provider_id(i.value) = e.phone_number)
    and exists (
      select
      from jsonb_to_recordset(e.new_identities) as new_id (kind public.identity_kind, value text)
      where new_id.kind = old_id.kind and new_id.value <> old_id.value
    );

  insert into public.contact_identities (organization_id, contact_id, instance_id, kind, value)
  select e.organization_id, e.contact_id, e.instance_id, w.kind, w.value
  from unnest(events) e
  cross join lateral jsonb_to_recordset(e.new_identities) as w (kind public.identity_kind, value text)
  order by w.kind, w.value
  on conflict on constraint contact_identities_instance_id_kind_value_key do nothing;

  -- Who left a number no longer has it. If another contact has the new one already, a person decides whether they
  -- are one: until then this contact has none.
  update public.contacts p
  set phone_number = case
        when change.new_phone_number is null then p.phone_number
        when change.is_free then change.new_phone_number
        when p.phone_number = change.phone_number then null
        else p.phone_number
      end,
      identity_changed_at = change.at
  from (
    select
      e.organization_id,
      e.contact_id,
      e.phone_number,
      e.new_phone_number,
      e.at,
      row_number() over (partition by e.organization_id, e.new_phone_number order by e.n desc) = 1
        and not exists (
          select
          from public.contacts other
          where other.organization_id = e.organization_id
            and other.phone_number = e.new_phone_number
            and other.id <> e.contact_id
            and other.merged_into_id is distinct from e.contact_id
        ) as is_free
    from unnest(events) e
  ) change
  where p.organization_id = change.organization_id and p.id = change.contact_id;
  return cardinality(events);
end;
$$;
comment on function private.apply_identity_changes(private.inbound_event[]) is
  'Customers changed number or BSUID: the identity moves, the contact stays. Returns how many did.';

create function private.apply_preferences(events private.inbound_event[])
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  changed bigint;
begin
  update public.contacts p
  set opted_out_at = case latest.value when 'stop' then latest.at end,
      opted_in_at = case latest.value when 'resume' then latest.at else p.opted_in_at end
  from (
    select distinct on (e.organization_id, e.contact_id) e.organization_id, e.contact_id, e.value, e.at
    from unnest(events) e
    where e.kind = 'preference' and e.value in ('stop', 'resume')
    order by e.organization_id, e.contact_id, e.at desc
  ) latest
  where p.organization_id = latest.organization_id
    and p.id = latest.contact_id
    and latest.at > coalesce(greatest(p.opted_in_at, p.opted_out_at), '-infinity');
  get diagnostics changed = row_count;
  return changed;
end;
$$;
comment on function private.apply_preferences(private.inbound_event[]) is
  'A customer stopped or resumed marketing: the latest word holds.';

-- ingest_webhook ---------------------------------------------------------------------------------------------------

create function private.ingest_webhook(
  provider public.whatsapp_provider,
  app_key text,
  headers jsonb,
  signature text,
  parts jsonb,
  replayed_event uuid default null
)
returns jsonb
language plpgsql
volatile
security definer -- the one door through which deliveries come in
set search_path = ''
-- Everything below is a look-up by key. Planning it costs several times what running it does.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  app private.meta_apps;
  matched_at pg_snapshot := pg_current_snapshot();
  unrouted bigint;
  unknown bigint;
  events private.inbound_event[];
  uncertain private.inbound_event[];
  newcomers private.inbound_event[];
  stored bigint[];
  changes private.inbound_event[];
  known_changes bigint[];
  parked bigint := 0;
  news bigint := 0;
begin
  -- Before the first ANALYZE every index looks alike to the planner: a plan made then must not be kept.
  if exists (
    select
    from pg_catalog.pg_class c
    where c.reltuples < 0
      and c.oid in (
        'public.contacts'::regclass, 'public.contact_identities'::regclass,
        'public.conversations'::regclass, 'public.messages'::regclass)
  ) then
    perform set_config('plan_cache_mode', 'force_custom_plan', true);
  end if;

  -- The caller wakes the worker when this is committed. A NOTIFY from here would make deliveries commit one by one.
  perform set_config('balcao.worker_is_woken', 'yes', true);

  select a.* into app from private.meta_apps a where a.app_key = ingest_webhook.app_key;
  if not found then
    perform private.raise_error('BL102', 'app_not_found', 'There is no such Meta app');
  end if;

  parts := private.without_erased(app.app_key, parts);

  -- The raw delivery, part by part. A number counts only under the app whose secret signed.
  with part as materialized (
    select
      p.*,
      i.id as instance_id,
      coalesce(i.organization_id, case when p.external_id is null then app.organization_id end) as organization_id,
      i.id is not null or p.external_id is null as is_ours
    from rows from (
      jsonb_to_recordset(parts) as (
        external_id text, event_type text, payload jsonb, unknown int, error text, events jsonb
      )
    ) with ordinality as p (external_id, event_type, payload, unknown, error, events, ordinality)
    left join public.whatsapp_instances i
      on i.meta_app_key = app.app_key
      and i.external_id = p.external_id
      and i.status <> 'disconnected'
  ), kept as (
    insert into public.webhook_events (
      organization_id, instance_id, provider, app_key, event_type, external_id, payload, headers, signature, unknown_count,
      processed, processed_at, processing_error
    )
    select
      p.organization_id, p.instance_id, ingest_webhook.provider, app.app_key, p.event_type, p.external_id, p.payload,
      ingest_webhook.headers, ingest_webhook.signature, coalesce(p.unknown, 0),
      p.is_ours, case when p.is_ours then now() end,
      case when p.is_ours then p.error else 'number_not_registered' end
    from part p
    where replayed_event is null
  ), event as (
    select
      p.organization_id, p.instance_id, e.*, coalesce(e.sent_at, e.occurred_at) as at,
      row_number() over (order by coalesce(e.sent_at, e.occurred_at), p.ordinality, e.ordinality) as n
    from part p
    cross join lateral rows from (
      jsonb_to_recordset(p.events) as (
        kind text, sent_at timestamptz, occurred_at timestamptz, whatsapp_message_id text, message_id uuid,
        identities jsonb, phone_number text, shared_phone_number text, profile_name text, whatsapp_chat_id text,
        message_type public.message_type, content text, media jsonb, reply_to_whatsapp_message_id text,
        status public.message_status, error_code text, error_message text,
        new_identities jsonb, new_phone_number text, value text, metadata jsonb
      )
    ) with ordinality as e (
      kind, sent_at, occurred_at, whatsapp_message_id, message_id, identities, phone_number, shared_phone_number,
      profile_name, whatsapp_chat_id, message_type, content, media, reply_to_whatsapp_message_id, status, error_code,
      error_message, new_identities, new_phone_number, value, metadata, ordinality
    )
    where p.instance_id is not null
  )
  select
    (select count(*) from part where not is_ours),
    (select coalesce(sum(part.unknown), 0) from part),
    array(
      select row(
        e.n, e.organization_id, e.instance_id, e.kind, e.at, e.whatsapp_message_id, e.message_id,
        coalesce(e.identities, '[]'), e.phone_number, e.shared_phone_number, e.profile_name, e.whatsapp_chat_id,
        e.message_type, e.content, e.media, e.reply_to_whatsapp_message_id, e.status, e.error_code, e.error_message,
        coalesce(e.new_identities, '[]'), e.new_phone_number, e.value, coalesce(e.metadata, '{}'), null, null
      )::private.inbound_event
      from event e
    )
  into unrouted, unknown, events;

  -- Whose events these are. Whoever we do not know, or learn something of, is looked up again under a lock.
  events := private.match_contacts(events);
  uncertain := array(
    select e
    from unnest(events) e
    where (e.contact_id is null or e.tells_news or e.kind = 'identity_change')
      and (e.identities <> '[]' or e.phone_number is not null)
  );
  if cardinality(uncertain) > 0 then
    perform private.lock_identities(uncertain);
    events := private.match_contacts(events);
  end if;
  events := private.lock_contacts(events, matched_at);
  matched_at := pg_current_snapshot();
  -- Erased while we were waiting for him, what he had said comes to nobody.
  if exists (
    select
    from unnest(events) e
    join private.erasure_salts s on s.organization_id = e.organization_id
    where e.contact_id is null
  ) then
    events := array(
      select e
      from unnest(events) e
      where e.n not in (
        select of_number.n[erased]
        from (
          select o.organization_id, o.instance_id, jsonb_agg(to_jsonb(o) order by o.n) as told, array_agg(o.n order by o.n) as n
          from unnest(events) o
          where o.contact_id is null
          group by o.organization_id, o.instance_id
        ) of_number
        cross join lateral unnest(private.erased_events(of_number.organization_id, of_number.instance_id, of_number.told)) erased
      )
      order by e.n
    );
  end if;

  -- Before anyone new is made: who announces a new number may write from it in the same delivery.
  if exists (select from unnest(events) e where e.kind = 'identity_change') then
    news := private.apply_identity_changes(events);
    events := private.match_contacts(events);
  end if;

  -- Only someone who says something becomes a contact.
  newcomers := array(
    select e
    from unnest(events) e
    where e.contact_id is null
      and e.kind in ('message', 'echo', 'preference')
      and jsonb_array_length(e.identities) > 0
  );
  if cardinality(newcomers) > 0 then
    perform private.create_contacts(newcomers);
    events := private.match_contacts(events);
  end if;
  if exists (select from unnest(events) e where e.tells_news and e.contact_id is not null) then
    perform private.update_contacts(events);
    -- Someone who shows only a BSUID here may be one who shows a known number beside it in the same delivery.
    if exists (select from unnest(events) e where e.contact_id is null) then
      events := private.match_contacts(events);
    end if;
  end if;

  -- Who was found only now was not locked before: somebody whom an app made meanwhile, for instance.
  if cardinality(uncertain) > 0 then
    events := private.lock_contacts(events, matched_at);
  end if;

  stored := private.store_messages(events);
  -- Rather no answer than a lost message: the provider delivers again, and someone sees the error.
  if exists (
    select
    from unnest(events) e
    where e.kind in ('message', 'echo')
      and not exists (
        select
        from public.messages m
        where m.organization_id = e.organization_id
          and m.instance_id = e.instance_id
          and m.whatsapp_message_id = e.whatsapp_message_id
      )
  ) then
    perform private.raise_error('BL199', 'message_not_stored', 'A delivered message found no place');
  end if;

  -- What happens to messages: told directly, or by a reaction that is a message itself.
  select array_agg(c) into changes
  from (
    select e from unnest(events) e where e.kind in ('status', 'edit', 'revoke')
    union all
    select row(
      e.n, e.organization_id, e.instance_id, 'reaction', e.at, e.reply_to_whatsapp_message_id, null, null, null, null,
      null, null, null, e.content, null, null, null, null, null, null, null,
      case e.kind when 'echo' then 'business' else e.contact_id::text end, null, null, null
    )::private.inbound_event
    from unnest(events) e
    where e.n = any (stored) and e.message_type = 'reaction' and e.reply_to_whatsapp_message_id is not null
  ) change (c);
  if changes is not null then
    known_changes := private.apply_message_updates(changes);
    insert into private.parked_message_updates (organization_id, instance_id, whatsapp_message_id, change)
    select c.organization_id, c.instance_id, c.whatsapp_message_id, c
    from unnest(changes) c
    where c.n <> all (known_changes) and c.whatsapp_message_id is not null
    on conflict do nothing;
    get diagnostics parked = row_count;
  end if;

  if exists (select from unnest(events) e where e.kind = 'preference') then
    news := news + private.apply_preferences(events);
  end if;

  -- To the minute, and only if nobody else is at it: the row is hot.
  update public.whatsapp_instances i
  set last_seen_at = now(),
      status = case i.status when 'connecting' then 'connected' else i.status end
  where (i.organization_id, i.id) in (
    select t.organization_id, t.id
    from public.whatsapp_instances t
    where replayed_event is null
      and (t.organization_id, t.id) in (select e.organization_id, e.instance_id from unnest(events) e)
      and (t.status = 'connecting' or t.last_seen_at is null or t.last_seen_at < now() - interval '1 minute')
    for no key update skip locked
  );

  return jsonb_build_object(
    'events', cardinality(events),
    'messages', cardinality(stored),
    'duplicates', (
      select count(*) from unnest(events) e where e.kind in ('message', 'echo') and e.n <> all (stored)
    ),
    'statuses', (select count(*) from unnest(changes) c where c.kind = 'status' and c.n = any (known_changes)),
    'updates', news + (select count(*) from unnest(changes) c where c.kind <> 'status' and c.n = any (known_changes)),
    'parked', parked,
    'unrouted', unrouted,
    'unknown', unknown,
    'jobs', coalesce(nullif(current_setting('balcao.jobs_enqueued', true), ''), '0')::bigint
  );
end;
$$;
comment on function private.ingest_webhook(public.whatsapp_provider, text, jsonb, text, jsonb, uuid) is
  'See public.ingest_webhook(). With replayed_event the raw delivery is kept already.';
grant execute on function private.ingest_webhook(public.whatsapp_provider, text, jsonb, text, jsonb, uuid) to service_role;

create function public.ingest_webhook(
  provider public.whatsapp_provider,
  app_key text,
  headers jsonb,
  signature text,
  parts jsonb
)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.ingest_webhook(provider, app_key, headers, signature, parts);
end;
$$;
comment on function public.ingest_webhook(public.whatsapp_provider, text, jsonb, text, jsonb) is
  'For the function whatsapp-webhook: one verified delivery in one transaction. parts: [{external_id, event_type, payload, unknown, error, events}], one per number (shapes: functions/_shared/providers/inbound-event.ts). Answers counts {events, messages, duplicates, statuses, updates, parked, unrouted, unknown, jobs}; jobs: for the worker, which then wants to be woken. Errors: app_not_found.';
grant execute on function public.ingest_webhook(public.whatsapp_provider, text, jsonb, text, jsonb) to service_role;
