-- Privacy (LGPD): what a person may ask of an organization, what is known of him, and all of it in his hands.
--
-- private.personal_data() says for every table how it is about a contact, and which of its columns are of the person. What is
-- exported, erased and refused afterwards follows that one list; a test walks the catalog and fails on a table or a column
-- that it neither names nor knows to be of nobody (tests/database/privacy_catalog.test.sql).

create type public.data_subject_request_kind as enum ('access', 'correction', 'erasure', 'portability', 'objection');
comment on type public.data_subject_request_kind is 'LGPD, art. 18: access (I, II), correction (III), erasure (IV, VI), portability (V), objection (§ 2, and IX).';
create type public.data_subject_request_status as enum ('open', 'in_progress', 'done', 'refused');

-- data_subject_requests ---------------------------------------------------------------------------------------------------

create table public.data_subject_requests (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  contact_id uuid,
  kind public.data_subject_request_kind not null,
  status public.data_subject_request_status not null default 'open',
  is_open boolean not null generated always as (status in ('open', 'in_progress')) stored,
  requester text,
  notes text,
  refusal_reason text,
  requested_at timestamptz not null default now(),
  due_at timestamptz not null default now() + interval '15 days',
  opened_by uuid,
  handled_by uuid,
  completed_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint data_subject_requests_pkey primary key (organization_id, id),
  constraint data_subject_requests_organization_id_fkey foreign key (organization_id) references public.organizations (id),
  constraint data_subject_requests_contact_id_fkey foreign key (organization_id, contact_id)
    references public.contacts (organization_id, id) on delete set null (contact_id),
  constraint data_subject_requests_opened_by_fkey foreign key (organization_id, opened_by)
    references public.user_roles (organization_id, user_id) on delete set null (opened_by),
  constraint data_subject_requests_handled_by_fkey foreign key (organization_id, handled_by)
    references public.user_roles (organization_id, user_id) on delete set null (handled_by),
  constraint data_subject_requests_requester_length_check check (length(requester) <= 500),
  constraint data_subject_requests_notes_length_check check (length(notes) <= 4000),
  constraint data_subject_requests_refusal_reason_length_check check (length(refusal_reason) <= 2000),
  constraint data_subject_requests_completed_at_check check ((status in ('done', 'refused')) = (completed_at is not null)),
  constraint data_subject_requests_refusal_reason_check check (refusal_reason is null or status = 'refused')
);
comment on table public.data_subject_requests is
  'What persons asked for under the LGPD, until when it is due, and what came of it: the proof that it was answered. Written through RPCs.';
comment on column public.data_subject_requests.contact_id is 'Null: of somebody whom we do not know, or have not found yet.';
comment on column public.data_subject_requests.requester is 'Who asked, and how: erased with the contact.';
comment on column public.data_subject_requests.due_at is 'Fifteen days: LGPD, art. 19, II.';
comment on column public.data_subject_requests.is_open is 'Enums are not leakproof: a list under RLS filters by this one.';
create index data_subject_requests_due_at_idx on public.data_subject_requests (organization_id, is_open, due_at);
comment on index public.data_subject_requests_due_at_idx is 'What is to be answered next.';
create index data_subject_requests_contact_id_idx on public.data_subject_requests (organization_id, contact_id) where contact_id is not null;
create index data_subject_requests_opened_by_idx on public.data_subject_requests (organization_id, opened_by) where opened_by is not null;
create index data_subject_requests_handled_by_idx on public.data_subject_requests (organization_id, handled_by) where handled_by is not null;

alter table public.data_subject_requests enable row level security;
alter table public.data_subject_requests force row level security;
create policy "Admins can read their organization's data subject requests" on public.data_subject_requests
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.data_subject_requests from public, anon, authenticated, service_role;
grant select on public.data_subject_requests to authenticated, service_role;

create trigger data_subject_requests_100_touch_updated_at
  before update on public.data_subject_requests
  for each row execute function private.tg_touch_updated_at();
create trigger data_subject_requests_950_audit
  after insert or update or delete on public.data_subject_requests
  for each row execute function private.tg_audit();

create function private.open_data_subject_request(
  kind public.data_subject_request_kind,
  contact_id uuid,
  requester text,
  notes text,
  requested_at timestamptz,
  organization_id uuid
)
returns public.data_subject_requests
language plpgsql
volatile
security definer -- requests are written through functions only
set search_path = ''
as $$
declare
  request public.data_subject_requests;
begin
  perform private.require_role(organization_id, 'attendant');
  if kind is null or contact_id is null and nullif(btrim(requester), '') is null then
    perform private.raise_error('BL911', 'invalid_data_subject_request', 'Say what is asked for, and by whom', '{}',
      'A kind, and a contact or a requester');
  elsif (requested_at between now() - interval '60 days' and now() + interval '1 minute') is not true
    or length(requester) > 500 or length(notes) > 4000 then
    perform private.raise_error('BL911', 'invalid_data_subject_request', 'This request cannot be noted down', '{}',
      'requested_at within the last 60 days; a requester of at most 500 letters, notes of 4000');
  end if;
  if contact_id is not null then
    contact_id := private.surviving_contact(organization_id, contact_id);
  end if;
  insert into public.data_subject_requests as r (
    organization_id, contact_id, kind, requester, notes, requested_at, due_at, opened_by
  )
  values (
    open_data_subject_request.organization_id, open_data_subject_request.contact_id, open_data_subject_request.kind,
    nullif(btrim(open_data_subject_request.requester), ''), nullif(btrim(open_data_subject_request.notes), ''),
    open_data_subject_request.requested_at, open_data_subject_request.requested_at + interval '15 days',
    case when not private.is_service() then (select auth.uid()) end)
  returning r.* into request;
  return request;
end;
$$;
comment on function private.open_data_subject_request(public.data_subject_request_kind, uuid, text, text, timestamptz, uuid) is
  'See public.open_data_subject_request().';
grant execute on function private.open_data_subject_request(public.data_subject_request_kind, uuid, text, text, timestamptz, uuid)
  to authenticated, service_role;

create function public.open_data_subject_request(
  kind public.data_subject_request_kind,
  contact_id uuid default null,
  requester text default null,
  notes text default null,
  requested_at timestamptz default now(),
  organization_id uuid default public.user_organization_id()
)
returns public.data_subject_requests
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.open_data_subject_request(kind, contact_id, requester, notes, requested_at, organization_id);
end;
$$;
comment on function public.open_data_subject_request(public.data_subject_request_kind, uuid, text, text, timestamptz, uuid) is
  'Notes down that somebody asked for his data, its correction, its erasure, …: due fifteen days after requested_at. Of a contact, or of whoever requester says. Attendants and up; administrators answer it. Errors: not_allowed, contact_not_found, contact_erased, invalid_data_subject_request.';
grant execute on function public.open_data_subject_request(public.data_subject_request_kind, uuid, text, text, timestamptz, uuid)
  to authenticated, service_role;

create function private.update_data_subject_request(
  id uuid,
  status public.data_subject_request_status,
  contact_id uuid,
  notes text,
  refusal_reason text,
  organization_id uuid
)
returns public.data_subject_requests
language plpgsql
volatile
security definer -- requests are written through functions only
set search_path = ''
as $$
declare
  request public.data_subject_requests;
begin
  perform private.require_role(organization_id, 'admin');
  if contact_id is not null then
    contact_id := private.surviving_contact(organization_id, contact_id);
  end if;
  select r.* into request
  from public.data_subject_requests r
  where r.organization_id = update_data_subject_request.organization_id and r.id = update_data_subject_request.id
  for no key update;
  if not found then
    perform private.raise_error('BL913', 'data_subject_request_not_found', 'This organization has no such request');
  elsif not request.is_open and status is distinct from request.status and status is not null then
    perform private.raise_error('BL914', 'request_answered', 'This request has been answered; what is asked again is another one',
      jsonb_build_object('status', request.status, 'completed_at', request.completed_at));
  elsif status = 'refused' and nullif(btrim(coalesce(refusal_reason, request.refusal_reason)), '') is null then
    perform private.raise_error('BL903', 'reason_required', 'Say why it is refused: the person must be told (LGPD, art. 18, § 4)');
  elsif length(notes) > 4000 or length(refusal_reason) > 2000 then
    perform private.raise_error('BL911', 'invalid_data_subject_request', 'This request cannot be noted down', '{}',
      'Notes of at most 4000 letters, a reason of 2000');
  end if;
  update public.data_subject_requests r
  set status = coalesce(update_data_subject_request.status, r.status),
      contact_id = coalesce(update_data_subject_request.contact_id, r.contact_id),
      notes = coalesce(update_data_subject_request.notes, r.notes),
      refusal_reason = case
        when coalesce(update_data_subject_request.status, r.status) = 'refused'
          then coalesce(update_data_subject_request.refusal_reason, r.refusal_reason)
      end,
      handled_by = case when private.is_service() then r.handled_by else (select auth.uid()) end,
      completed_at = case
        when coalesce(update_data_subject_request.status, r.status) in ('done', 'refused') then coalesce(r.completed_at, now())
      end
  where r.organization_id = request.organization_id and r.id = request.id
  returning r.* into request;
  return request;
end;
$$;
comment on function private.update_data_subject_request(uuid, public.data_subject_request_status, uuid, text, text, uuid) is
  'See public.update_data_subject_request().';
grant execute on function private.update_data_subject_request(uuid, public.data_subject_request_status, uuid, text, text, uuid)
  to authenticated, service_role;

create function public.update_data_subject_request(
  id uuid,
  status public.data_subject_request_status default null,
  contact_id uuid default null,
  notes text default null,
  refusal_reason text default null,
  organization_id uuid default public.user_organization_id()
)
returns public.data_subject_requests
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.update_data_subject_request(id, status, contact_id, notes, refusal_reason, organization_id);
end;
$$;
comment on function public.update_data_subject_request(uuid, public.data_subject_request_status, uuid, text, text, uuid) is
  'Begins, answers or refuses (with a reason) a request, says whose it is, adds notes; null leaves as it is. What has been answered stays so. Admins and up. Errors: not_allowed, data_subject_request_not_found, contact_not_found, contact_erased, request_answered, reason_required, invalid_data_subject_request.';
grant execute on function public.update_data_subject_request(uuid, public.data_subject_request_status, uuid, text, text, uuid)
  to authenticated, service_role;

-- Where a person is --------------------------------------------------------------------------------------------------------

create function private.personal_data()
returns table (table_name text, about text, blank jsonb, is_log boolean)
language sql
immutable
set search_path = ''
as $$
  values
    -- $1: the organization; $2: the contact, and those merged into it; $3: the ids, numbers, e-mail and CPF of the person;
    -- $4: ids by which the logs name what is his; $5: $3 and $4 as a word_set(). blank: what each column of the person becomes; null: the row goes.
    -- Logs are searched from end to end, and by a job when they are erased.
    ('public.contacts', 't.id = any ($2)',
      '{"phone_number": "null", "name": "null", "profile_name": "null", "email": "null", "cpf": "null", "birth_date": "null",
        "source": "null", "tags": "''{}''", "address": "''{}''", "preferences": "''{}''", "metadata": "''{}''",
        "preferred_location_id": "null", "preferred_professional_id": "null"}'::jsonb, false),
    ('public.contact_identities', 't.contact_id = any ($2)', null, false),
    ('public.pets', 't.contact_id = any ($2)',
      '{"name": "''—''", "species": "null", "breed": "null", "birth_date": "null", "weight_grams": "null", "medical_notes": "null",
        "is_active": "false"}', false),
    ('public.leads', 't.contact_id = any ($2)',
      '{"respostas": "''{}''", "source": "null", "utm": "''{}''", "metadata": "''{}''", "lost_reason": "null"}', false),
    ('public.bookings', 't.contact_id = any ($2)',
      '{"notes": "null", "metadata": "''{}''",
        "cancellation_reason": "case when t.cancellation_reason in (''contact_erased'', ''hold_expired'', ''offer_declined'') then t.cancellation_reason end"}',
      false),
    ('public.waiting_list', 't.contact_id = any ($2)', '{"notes": "null"}', false),
    ('public.conversations', 't.contact_id = any ($2)',
      '{"whatsapp_chat_id": "''erased''", "last_message_preview": "null", "escalation_reason": "null", "metadata": "''{}''"}', false),
    ('public.messages', 't.contact_id = any ($2)',
      '{"content": "null", "media": "null", "media_url": "null", "payload": "null", "client_message_id": "null",
        "whatsapp_message_id": "private.erased_message_id(t.organization_id, t.whatsapp_message_id)",
        "reply_to_whatsapp_message_id": "private.erased_message_id(t.organization_id, t.reply_to_whatsapp_message_id)",
        "error_message": "null", "metadata": "''{}''"}', false),
    ('private.unanswered_sends',
      't.message_id in (select m.id from public.messages m where m.organization_id = $1 and m.contact_id = any ($2))', null, false),
    ('private.notification_answers',
      't.message_id in (select m.id from public.messages m where m.organization_id = $1 and m.contact_id = any ($2))', '{}', false),
    ('public.flow_sessions', 't.contact_id = any ($2)', '{"state": "''{}''"}', false),
    ('public.notifications', 't.contact_id = any ($2)', '{"message": "null"}', false),
    ('public.scheduled_followups', 't.contact_id = any ($2)', '{"message": "null"}', false),
    ('public.ab_test_assignments', 't.contact_id = any ($2)', '{}', false),
    ('public.ai_interactions',
      't.id in (
        select a.id
        from public.conversations v
        join public.ai_interactions a on a.organization_id = v.organization_id and a.conversation_id = v.id
        where v.organization_id = $1 and v.contact_id = any ($2)
        union all
        select a.id
        from public.leads l
        join public.ai_interactions a on a.organization_id = l.organization_id and a.lead_id = l.id
        where l.organization_id = $1 and l.contact_id = any ($2)
        union all
        select a.id
        from public.messages m
        join public.ai_interactions a on a.organization_id = m.organization_id and a.message_id = m.id
        where m.organization_id = $1 and m.contact_id = any ($2))',
      '{"prompt": "''''", "response": "null", "error": "null", "compliance_flags": "''[]''"}', false),
    ('public.analytics_events', 't.contact_id = any ($2)', '{"properties": "''{}''"}', false),
    ('public.data_subject_requests', 't.contact_id = any ($2)',
      '{"requester": "null", "notes": "null", "refusal_reason": "case when t.refusal_reason is not null then ''—'' end"}', false),
    ('public.contact_merges', 't.kept_contact_id = any ($2) or t.merged_contact_id = any ($2)', '{}', false),
    ('private.contact_merge_changes',
      't.merge_id in (
        select m.id from public.contact_merges m
        where m.organization_id = $1 and (m.kept_contact_id = any ($2) or m.merged_contact_id = any ($2)))', null, false),
    ('private.contact_partings', 't.contact_id = any ($2)', '{}', false),
    -- Of him; and of one whom he was merged with for a while, where his own number or address stands.
    ('public.audit_log_values',
      't.contact_id = any ($2 || array(
          select p.id
          from public.contact_merges m
          cross join lateral (values (m.kept_contact_id), (m.merged_contact_id)) p (id)
          where m.organization_id = $1 and (m.kept_contact_id = any ($2) or m.merged_contact_id = any ($2))
        )) and (t.contact_id = any ($2) or private.tells(concat(t.old_values, t.new_values), $3))', null, false),
    ('public.webhook_deliveries',
      'private.mentions(t.payload, $5) or private.tells(t.payload::text, $3)', null, true),
    ('public.message_queue',
      'private.mentions(t.payload, $5) or private.tells(concat(t.payload, t.last_error, t.ordering_key, t.idempotency_key), $3)', null, true),
    ('private.parked_message_updates',
      '(t.change).contact_id = any ($2) or $5 ? t.whatsapp_message_id or private.mentions((t.change).identities, $5)
        or $5 ? (t.change).phone_number', null, true),
    ('public.webhook_events', 'private.mentions(t.payload, $5)', '{"payload": "cleaned"}', true),
    ('public.api_call_logs',
      '$5 ? t.job_id::text or $5 ? split_part(t.endpoint, ''/'', -1)
        or private.mentions(jsonb_build_array(t.request_data, t.response_data), $5)
        or private.tells(concat(t.endpoint, t.request_data, t.response_data), $3)',
      '{"endpoint": "''''", "request_data": "''{}''", "response_data": "null"}', true)
$$;
comment on function private.personal_data() is
  'Every table that may hold something about a contact: which of its rows (t) do, and what their personal columns become when he is erased. Export, erasure and what is refused afterwards follow it.';

create function private.contacts_of(organization_id uuid, contact_id uuid)
returns uuid[]
language plpgsql
stable
set search_path = ''
as $$
declare
  survivor uuid;
begin
  select coalesce(p.merged_into_id, p.id) into survivor
  from public.contacts p
  where p.organization_id = contacts_of.organization_id and p.id = contacts_of.contact_id;
  if not found then
    perform private.raise_error('BL402', 'contact_not_found', 'This organization has no such contact',
      jsonb_build_object('contact_id', contact_id));
  end if;
  return survivor || array(
    select p.id
    from public.contacts p
    where p.organization_id = contacts_of.organization_id and p.merged_into_id = survivor
    order by p.id
  );
end;
$$;
comment on function private.contacts_of(uuid, uuid) is
  'Everything that a person is: the contact that stands, first, and those that were merged into it. Error: contact_not_found.';

create function private.identifiers_of(organization_id uuid, contact_ids uuid[])
returns text[]
language plpgsql
stable
set search_path = ''
as $$
begin
  return array(
    with known as (
      select i.value
      from public.contact_identities i
      where i.organization_id = identifiers_of.organization_id and i.contact_id = any (contact_ids)
      union
      select v.whatsapp_chat_id
      from public.conversations v
      where v.organization_id = identifiers_of.organization_id and v.contact_id = any (contact_ids) and v.whatsapp_chat_id <> 'erased'
      union
      select x.value
      from public.contacts p
      cross join lateral (values (p.phone_number), (p.email), (p.cpf)) x (value)
      where p.organization_id = identifiers_of.organization_id and p.id = any (contact_ids)
    ), spelled as (
      select k.value from known k
      union
      select x.value
      from known k
      cross join lateral (select coalesce(private.phone_from_provider_id(k.value), k.value) as number) phone
      cross join lateral (values
        (phone.number),
        (ltrim(phone.number, '+')),
        -- A Brazilian mobile number without its ninth digit.
        (regexp_replace(phone.number, '^\+?(55\d\d)9(\d{8})$', '\1\2'))
      ) x (value)
      where phone.number ~ '^\+[0-9]+$'
      union
      select regexp_replace(k.value, '^(\d{3})(\d{3})(\d{3})(\d{2})$', '\1.\2.\3-\4') from known k where k.value ~ '^\d{11}$'
    )
    select distinct s.value from spelled s where length(s.value) >= 6 order by s.value
  );
end;
$$;
comment on function private.identifiers_of(uuid, uuid[]) is
  'How the logs may name a person: his ids at WhatsApp, his numbers in every spelling, e-mail and CPF.';

create function private.handles_of(organization_id uuid, contact_ids uuid[])
returns text[]
language plpgsql
stable
set search_path = ''
as $$
declare
  -- The oldest that a log still holds.
  since constant timestamptz := least(
    (select min(e.created_at) from public.webhook_events e where e.organization_id = handles_of.organization_id),
    (select min(c.created_at) from public.api_call_logs c where c.organization_id = handles_of.organization_id),
    (select min(d.created_at) from public.webhook_deliveries d where d.organization_id = handles_of.organization_id),
    now() - interval '30 days') - interval '1 day';
begin
  return array(
    with message as (
      select m.id, m.whatsapp_message_id, m.media
      from public.messages m
      where m.organization_id = handles_of.organization_id and m.contact_id = any (contact_ids) and m.created_at >= since
    ), handle as (
      select x.value
      from message m
      cross join lateral (values
        (m.id::text), ('outbox:' || m.id), (m.whatsapp_message_id), (m.media ->> 'id')
      ) x (value)
      union
      select c::text from unnest(contact_ids) c
      union
      select v.id::text from public.conversations v
      where v.organization_id = handles_of.organization_id and v.contact_id = any (contact_ids)
      union
      select n.id::text from public.notifications n
      where n.organization_id = handles_of.organization_id and n.contact_id = any (contact_ids)
      union
      select b.id::text from public.bookings b
      where b.organization_id = handles_of.organization_id and b.contact_id = any (contact_ids)
      union
      select l.id::text from public.leads l
      where l.organization_id = handles_of.organization_id and l.contact_id = any (contact_ids)
      union
      select p.id::text from public.pets p
      where p.organization_id = handles_of.organization_id and p.contact_id = any (contact_ids)
      union
      select q.id::text
      from message m
      join public.message_queue q
        on q.organization_id = handles_of.organization_id
        and q.idempotency_key in ('send:' || m.id, 'media:' || m.id)
    )
    select h.value from handle h where h.value is not null and h.value not like 'erased:%'
  );
end;
$$;
comment on function private.handles_of(uuid, uuid[]) is
  'By what else a log may name what is a person''s: the ids of his messages (as far back as the logs go), their files and jobs, and of all the rest.';

-- export_contact_data -------------------------------------------------------------------------------------------------------

create function private.export_contact_data(contact_id uuid, organization_id uuid)
returns jsonb
language plpgsql
volatile
security definer -- reads every table, logs and "private" included
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  contact_ids uuid[];
  identifiers text[];
  handles text[];
  words jsonb;
  entry record;
  found_rows jsonb;
  tables jsonb := '{}'::jsonb;
  files jsonb;
begin
  perform private.require_role(organization_id, 'admin');
  contact_ids := private.contacts_of(organization_id, contact_id);
  identifiers := private.identifiers_of(organization_id, contact_ids);
  handles := private.handles_of(organization_id, contact_ids);
  words := private.word_set(identifiers || handles);
  for entry in select d.* from private.personal_data() d loop
    execute format(
      'select coalesce(jsonb_agg(to_jsonb(t) - ''organization_id''), ''[]'') from %s t where t.organization_id = $1 and (%s)',
      entry.table_name, entry.about)
    using organization_id, contact_ids, identifiers, handles, words
    into found_rows;
    if entry.table_name = 'public.webhook_events' then
      -- A delivery is of many persons: he gets his part.
      found_rows := coalesce((
        select jsonb_agg(r || jsonb_build_object('payload', private.json_about(r -> 'payload', private.words_in(r -> 'payload', words))) - 'signature')
        from jsonb_array_elements(found_rows) r
      ), '[]');
    end if;
    if entry.table_name in ('public.webhook_deliveries', 'public.message_queue') then
      -- By these the log of calls names what was done for him.
      handles := handles || array(
        select x.value
        from jsonb_array_elements(found_rows) r
        cross join lateral (values (r ->> 'id'), (r ->> 'event_id')) x (value)
        where x.value is not null
      );
      words := private.word_set(identifiers || handles);
    end if;
    tables := tables || jsonb_build_object(split_part(entry.table_name, '.', 2), found_rows);
  end loop;
  files := coalesce((
    select jsonb_agg(jsonb_build_object(
      'bucket', 'media',
      'path', substring(f.path from '^media/(.*)$'),
      'message_id', m.id,
      'filename', coalesce(m.media ->> 'filename', m.payload ->> 'filename'),
      'mime_type', coalesce(m.media ->> 'stored_mime_type', m.media ->> 'mime_type')) order by m.id)
    from public.messages m
    cross join lateral (values (m.media_url), (m.payload ->> 'path')) f (path)
    where m.organization_id = export_contact_data.organization_id and m.contact_id = any (contact_ids) and f.path is not null
  ), '[]');
  perform private.append_audit_log(
    organization_id, 'EVENT', 'contact.exported', 'contacts', contact_ids[1],
    jsonb_build_object('rows', (select jsonb_object_agg(t.key, jsonb_array_length(t.value)) from jsonb_each(tables) t)),
    null, null, null);
  return jsonb_build_object(
    'format', 'balcao.contact/1',
    'exported_at', now(),
    'organization_id', organization_id,
    'contact_id', contact_ids[1],
    'contact_ids', contact_ids,
    'tables', tables,
    'files', files);
end;
$$;
comment on function private.export_contact_data(uuid, uuid) is 'See public.export_contact_data().';
grant execute on function private.export_contact_data(uuid, uuid) to authenticated, service_role;

create function public.export_contact_data(contact_id uuid, organization_id uuid default public.user_organization_id())
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.export_contact_data(contact_id, organization_id);
end;
$$;
comment on function public.export_contact_data(uuid, uuid) is
  'Everything that is known of a person (LGPD, art. 18, II and V): {format, exported_at, contact_id, contact_ids (those merged into it too), tables {name: rows}, files [{bucket, path, message_id, filename, mime_type}]}; read files by signed URLs. It is noted in the audit log. Admins and up. Errors: not_allowed, contact_not_found.';
grant execute on function public.export_contact_data(uuid, uuid) to authenticated, service_role;
