-- Erasure (LGPD, art. 18, IV and VI): nothing that says who somebody was stays; that somebody was there does.
--
-- erase_contact() is one transaction for all that an index leads to: the person is gone from what people and apps see. The logs
-- (raw deliveries, calls, jobs, what endpoints were told) and the files are searched by a job, in batches, minutes later at the
-- most; until that has ended private.erasures keeps what it searches by, and then only digests.
--
-- Rows stay where they are counted: who wrote when, which visit took place, what it cost, how a grade was. Whatever is still
-- going on ends first, as if somebody had ended it: coming bookings are cancelled, conversations closed, nothing more is sent.

-- What is erased can neither be changed nor used ----------------------------------------------------------------------------

create function private.raise_contact_erased(contact_id uuid)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  perform private.raise_error('BL912', 'contact_erased', 'This person''s data was erased: nothing new can be noted of him',
    jsonb_build_object('contact_id', contact_id), 'Who writes again is a new contact.');
end;
$$;
comment on function private.raise_contact_erased(uuid) is 'Error contact_erased.';

create function private.is_erased(organization_id uuid, contact_id uuid)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return exists (
    select
    from public.contacts p
    where p.organization_id = is_erased.organization_id and p.id = is_erased.contact_id and p.erased_at is not null
  );
end;
$$;
comment on function private.is_erased(uuid, uuid) is 'Whether a contact is of nobody any more.';

create function private.tg_refuse_erased()
returns trigger
language plpgsql
volatile
security definer -- whoever writes a row need not be allowed to see its contact
set search_path = ''
as $$
declare
  contact_id uuid;
  before jsonb;
  after jsonb;
begin
  after := to_jsonb(new);
  contact_id := (after ->> case tg_table_name when 'contacts' then 'id' else 'contact_id' end)::uuid;
  if coalesce(current_setting('balcao.erasing', true), '') = 'yes' or not private.is_erased(new.organization_id, contact_id) then
    return new;
  end if;
  before := case when tg_op = 'UPDATE' then to_jsonb(old) end;
  -- The clock may still end what was begun, and a visit of before be called a no-show.
  if tg_op = 'INSERT' or exists (
    select
    from private.personal_data() d
    cross join jsonb_object_keys(d.blank || '{"contact_id": "", "merged_into_id": "", "erased_at": ""}') k
    where d.table_name = format('%I.%I', tg_table_schema, tg_table_name) and before -> k is distinct from after -> k
  ) then
    perform private.raise_contact_erased(contact_id);
  end if;
  return new;
end;
$$;
comment on function private.tg_refuse_erased() is 'Trigger: error contact_erased for what would say something of a person who was erased.';

do $$
declare
  guarded text;
begin
  foreach guarded in array array[
    'pets', 'leads', 'bookings', 'waiting_list', 'scheduled_followups', 'notifications', 'flow_sessions', 'analytics_events',
    'data_subject_requests'
  ] loop
    execute format(
      'create trigger %I before insert or update on public.%I for each row execute function private.tg_refuse_erased()',
      guarded || '_500_refuse_erased', guarded);
  end loop;
end;
$$;
create trigger contacts_500_refuse_erased
  before update on public.contacts
  for each row when (old.erased_at is not null)
  execute function private.tg_refuse_erased();

create function private.tg_contacts__guard_erased()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  if coalesce(current_setting('balcao.erasing', true), '') <> 'yes' then
    perform private.raise_error('BL002', 'not_allowed', 'Only erase_contact() erases a contact');
  end if;
  return new;
end;
$$;
comment on function private.tg_contacts__guard_erased() is 'Trigger: nobody writes erased_at by hand; error not_allowed.';
create trigger contacts_500_guard_erased
  before insert on public.contacts
  for each row when (new.erased_at is not null)
  execute function private.tg_contacts__guard_erased();
create trigger contacts_500_guard_erased_when_changed
  before update of erased_at on public.contacts
  for each row when (old.erased_at is distinct from new.erased_at)
  execute function private.tg_contacts__guard_erased();
create trigger conversations_500_refuse_erased_when_opened
  before insert on public.conversations
  for each row execute function private.tg_refuse_erased();

create function private.tg_conversations__stay_closed()
returns trigger
language plpgsql
volatile
security definer -- whoever opens it need not be allowed to see its contact
set search_path = ''
as $$
begin
  if private.is_erased(new.organization_id, new.contact_id) then
    perform private.raise_contact_erased(new.contact_id);
  end if;
  return new;
end;
$$;
comment on function private.tg_conversations__stay_closed() is 'Trigger: error contact_erased; there is nobody to talk to.';
create trigger conversations_500_stay_closed
  before update of status on public.conversations
  for each row when (old.status = 'closed' and new.status <> 'closed')
  execute function private.tg_conversations__stay_closed();

create function private.tg_messages__stay_erased()
returns trigger
language plpgsql
volatile
security definer -- whoever finishes a job need not be allowed to see the contact
set search_path = ''
as $$
begin
  -- A call that was under way when he was erased is answered now: that it was made is known, no more.
  if private.is_erased(new.organization_id, new.contact_id) then
    new.content := null;
    new.media := null;
    new.media_url := null;
    new.error_message := null;
    new.whatsapp_message_id := private.erased_message_id(new.organization_id, new.whatsapp_message_id);
  end if;
  return new;
end;
$$;
comment on function private.tg_messages__stay_erased() is 'Trigger: what comes late for an erased message is not kept.';
create trigger messages_500_stay_erased
  before update on public.messages
  for each row when (
    old.content is null and new.content is not null
    or old.media is null and new.media is not null
    or old.media_url is null and new.media_url is not null
    or old.error_message is null and new.error_message is not null
    or old.whatsapp_message_id is null and new.whatsapp_message_id is not null
  )
  execute function private.tg_messages__stay_erased();

create function private.tg_contact_identities__stay_erased()
returns trigger
language plpgsql
volatile
security definer -- whoever finishes a job need not be allowed to see the contact
set search_path = ''
as $$
begin
  return case when not private.is_erased(new.organization_id, new.contact_id) then new end;
end;
$$;
comment on function private.tg_contact_identities__stay_erased() is
  'Trigger: an id that the provider tells of somebody who was erased is not kept.';
create trigger contact_identities_500_stay_erased
  before insert or update on public.contact_identities
  for each row execute function private.tg_contact_identities__stay_erased();

-- erase_contact -------------------------------------------------------------------------------------------------------------

create function private.lock_to_erase(organization_id uuid, contact_id uuid)
returns uuid[]
language plpgsql
volatile
set search_path = ''
as $$
declare
  contact_ids uuid[];
  coming jsonb;
begin
  -- Neither merged nor taken apart from here on.
  perform pg_advisory_xact_lock(hashtextextended('contact_merges:' || organization_id, 0));
  contact_ids := private.contacts_of(organization_id, contact_id);
  loop
    coming := private.coming_bookings(organization_id, contact_ids);
    begin
      -- What is booked comes before the customer: the one lock order.
      perform private.lock_flow_agendas(organization_id, coming);
      perform private.lock_contacts_to_merge(organization_id, contact_ids);
      if not coming @> private.coming_bookings(organization_id, contact_ids) then
        -- Somebody booked for him before we had him.
        raise exception sqlstate 'BL000';
      end if;
      return contact_ids;
    exception when sqlstate 'BL000' then
      null;
    end;
  end loop;
end;
$$;
comment on function private.lock_to_erase(uuid, uuid) is
  'A person, his coming bookings and every row that names him, for us alone; returns private.contacts_of(). Error: contact_not_found.';

create function private.coming_bookings(organization_id uuid, contact_ids uuid[])
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_agg(
      jsonb_build_object('tipo', 'cancelar_agendamento', 'agendamento_id', b.id, 'agenda', coalesce(b.professional_id, b.service_id))
      order by b.id), '[]')
    from public.bookings b
    where b.organization_id = coming_bookings.organization_id
      and b.contact_id = any (contact_ids)
      and b.is_live
      and b.end_time > now()
  );
end;
$$;
comment on function private.coming_bookings(uuid, uuid[]) is 'What ends with a person''s erasure, in the form that private.lock_flow_agendas() takes.';

create function private.end_what_goes_on(organization_id uuid, contact_ids uuid[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  conversation public.conversations;
begin
  -- Nobody tells him that his bookings were cancelled, or asks how it was. (What was merged into him has none.)
  perform private.customer_is_told(contact_ids[1]);
  update public.waiting_list w
  set status = 'cancelled'
  where w.organization_id = end_what_goes_on.organization_id
    and w.contact_id = any (contact_ids)
    and w.is_open
    and (w.status = 'waiting' or w.offered_booking_id is null);
  update public.bookings b
  set status = 'cancelled', cancellation_reason = 'contact_erased'
  where b.organization_id = end_what_goes_on.organization_id
    and b.contact_id = any (contact_ids)
    and b.is_live
    and b.end_time > now();
  update public.waiting_list w
  set status = 'cancelled', offer_expires_at = null
  where w.organization_id = end_what_goes_on.organization_id and w.contact_id = any (contact_ids) and w.is_open;
  for conversation in
    select v.*
    from public.conversations v
    where v.organization_id = end_what_goes_on.organization_id and v.contact_id = any (contact_ids) and v.is_open
    order by v.id
  loop
    -- Whatever a bot is about to say is not said.
    update public.conversations v
    set control_epoch = v.control_epoch + 1
    where v.organization_id = conversation.organization_id and v.id = conversation.id;
    conversation := private.end_conversation(conversation, null);
  end loop;
  update public.notifications n
  set status = 'cancelled', reason = 'contact_erased', version = n.version + 1
  where n.organization_id = end_what_goes_on.organization_id and n.contact_id = any (contact_ids) and n.status = 'pending';
  update public.scheduled_followups f
  set status = 'cancelled', reason = 'contact_erased'
  where f.organization_id = end_what_goes_on.organization_id and f.contact_id = any (contact_ids) and f.status = 'pending';
  update public.flow_sessions s
  set status = 'cancelled', completed_at = now(), wakes_at = null, version = s.version + 1
  where s.organization_id = end_what_goes_on.organization_id and s.contact_id = any (contact_ids) and not s.is_completed;
end;
$$;
comment on function private.end_what_goes_on(uuid, uuid[]) is
  'Coming bookings are cancelled, places in line given up, conversations, flows and notifications ended. The person is locked by the caller.';

create function private.blank_rows(organization_id uuid, contact_ids uuid[], identifiers text[], handles text[])
returns jsonb
language plpgsql
volatile
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  entry record;
  touched bigint;
  counts jsonb := '{}'::jsonb;
begin
  for entry in
    select d.*
    from private.personal_data() d
    where not d.is_log and d.blank is distinct from '{}'
    -- What blanking itself writes down goes last; what leads to other rows, before them.
    order by d.table_name = 'public.audit_log_values', d.table_name = 'public.messages'
  loop
    execute format(
      case when entry.blank is null then 'delete from %1$s t where t.organization_id = $1 and (%2$s)'
        else 'update %1$s t set %3$s where t.organization_id = $1 and (%2$s)' end,
      entry.table_name, entry.about,
      (select string_agg(format('%I = %s', b.key, b.value), ', ') from jsonb_each_text(entry.blank) b))
    using organization_id, contact_ids, identifiers, handles;
    get diagnostics touched = row_count;
    counts := counts || jsonb_build_object(split_part(entry.table_name, '.', 2), touched);
  end loop;
  return counts;
end;
$$;
comment on function private.blank_rows(uuid, uuid[], text[], text[]) is
  'Blanks every personal column of a person, or deletes the row, but for the logs; returns how many rows of each table.';

create function private.erase_contact(contact_id uuid, reason text, organization_id uuid)
returns jsonb
language plpgsql
volatile
security definer -- writes every table that is about a contact
set search_path = ''
as $$
declare
  erased_ids uuid[];
  erasure private.erasures;
  names text[];
begin
  perform private.require_role(organization_id, 'admin');
  if (length(btrim(reason)) between 3 and 500) is not true then
    perform private.raise_error('BL903', 'reason_required', 'Say in three letters or more why', '{}', 'The number of his request, for instance');
  end if;
  perform private.contacts_of(organization_id, contact_id);
  insert into private.erasure_salts (organization_id)
  values (erase_contact.organization_id)
  on conflict on constraint erasure_salts_pkey do nothing;
  erased_ids := private.lock_to_erase(organization_id, contact_id);

  select e.* into erasure
  from private.erasures e
  where e.organization_id = erase_contact.organization_id and e.contact_id = erased_ids[1];
  if found then
    return private.erasure_answer(erasure);
  end if;

  erasure.organization_id := organization_id;
  erasure.id := private.uuid_v7();
  erasure.contact_id := erased_ids[1];
  erasure.contact_ids := erased_ids;
  erasure.requested_by := case when not private.is_service() then (select auth.uid()) end;
  erasure.erased_at := clock_timestamp();
  erasure.identifiers := private.identifiers_of(organization_id, erased_ids);
  erasure.handles := private.handles_of(organization_id, erased_ids);
  -- It is kept longer than anything else of him.
  names := array(
    select distinct x.value
    from public.contacts p
    cross join lateral (values (p.name), (p.profile_name)) x (value)
    where p.organization_id = erase_contact.organization_id and p.id = any (erased_ids) and length(x.value) >= 3
  );
  if private.tells(lower(reason), array(select lower(n) from unnest(names || erasure.identifiers) n)) then
    perform private.raise_error('BL915', 'reason_names_person', 'The reason stays in the audit log: it must not name whom it is about', '{}',
      'The number of his request, for instance');
  end if;
  erasure.identity_digests := array(select private.erasure_digest(organization_id, i) from unnest(erasure.identifiers) i);
  erasure.files := array(
    select distinct m.payload ->> 'path'
    from public.messages m
    where m.organization_id = erase_contact.organization_id
      and m.contact_id = any (erased_ids)
      and m.payload ->> 'path' like 'media/%'
  );

  perform set_config('balcao.erasing', 'yes', true);
  -- First of all: what is told of the rest, and written down of it, has no name in it.
  update public.contacts p
  set erased_at = erasure.erased_at, phone_number = null, name = null, profile_name = null, email = null, cpf = null
  where p.organization_id = erase_contact.organization_id and p.id = any (erased_ids);
  -- What is queued is not sent. If the provider is being called for it, nobody can take it back.
  update public.messages m
  set status = 'failed', failed_at = now(), error_code = 'contact_erased', content = null, payload = null
  where m.organization_id = erase_contact.organization_id and m.contact_id = any (erased_ids) and m.status = 'queued';
  perform private.end_what_goes_on(organization_id, erased_ids);
  erasure.counts := private.blank_rows(organization_id, erased_ids, erasure.identifiers, erasure.handles);
  -- What a merge had noted down is gone: there is no way back from it.
  update public.contact_merges m
  set undoable_until = least(m.undoable_until, now())
  where m.organization_id = erase_contact.organization_id
    and (m.kept_contact_id = any (erased_ids) or m.merged_contact_id = any (erased_ids));
  -- A delivery that waits for him looks again whose it is: nobody's.
  insert into private.contact_partings (organization_id, contact_id)
  select erase_contact.organization_id, c from unnest(erased_ids) c
  on conflict on constraint contact_partings_pkey
  do update set transaction = excluded.transaction, created_at = excluded.created_at;
  update public.data_subject_requests r
  set status = 'done', completed_at = now(), handled_by = erasure.requested_by
  where r.organization_id = erase_contact.organization_id and r.contact_id = any (erased_ids) and r.kind = 'erasure' and r.is_open;
  -- Whom the data was passed on to is told to do the same (LGPD, art. 18, § 6).
  if private.are_events_wanted(array[organization_id]) then
    perform private.emit_webhook_events(array[row(
      organization_id, 'contact.erased',
      jsonb_build_object('contact_id', erased_ids[1], 'merged_contact_ids', to_jsonb(erased_ids[2:]), 'erased_at', erasure.erased_at)
    )::private.webhook_event]);
  end if;
  delete from public.audit_log_values v
  where v.organization_id = erase_contact.organization_id and v.contact_id = any (erased_ids);
  perform private.append_audit_log(
    organization_id, 'EVENT', 'contact.erased', 'contacts', erased_ids[1],
    jsonb_build_object('erasure_id', erasure.id, 'contact_ids', erased_ids, 'rows', erasure.counts),
    null, jsonb_build_object('reason', btrim(reason)), null);
  perform set_config('balcao.erasing', '', true);

  insert into private.erasures (
    organization_id, id, contact_id, contact_ids, identity_digests, erased_at, requested_by, identifiers, handles, files, counts
  )
  values (
    erasure.organization_id, erasure.id, erasure.contact_id, erasure.contact_ids, erasure.identity_digests, erasure.erased_at,
    erasure.requested_by, erasure.identifiers, erasure.handles, erasure.files, erasure.counts)
  returning * into erasure;
  perform
  from private.enqueue_jobs(array[row(
    organization_id, 'erase_contact', jsonb_build_object('erasure_id', erasure.id), 30, null, null, 'erasure:' || erasure.id, 100
  )::private.new_job]);
  perform private.wake_worker();
  return private.erasure_answer(erasure);
end;
$$;
comment on function private.erase_contact(uuid, text, uuid) is 'See public.erase_contact().';
grant execute on function private.erase_contact(uuid, text, uuid) to authenticated, service_role;

create function private.erasure_answer(erasure private.erasures)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_build_object(
    'erasure_id', erasure.id, 'contact_id', erasure.contact_id, 'contact_ids', erasure.contact_ids,
    'erased_at', erasure.erased_at, 'completed_at', erasure.completed_at, 'rows', erasure.counts)
$$;
comment on function private.erasure_answer(private.erasures) is 'What is told of an erasure.';

create function public.erase_contact(contact_id uuid, reason text, organization_id uuid default public.user_organization_id())
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.erase_contact(contact_id, reason, organization_id);
end;
$$;
comment on function public.erase_contact(uuid, text, uuid) is
  'Erases a person, and those who were merged into him, for good: names, numbers, what was said, noted, sent and logged. Rows stay without it, so that statistics do; coming bookings are cancelled, conversations closed, open requests of erasure done, endpoints told (contact.erased). Logs and files follow within minutes: completed_at says when. Answers {erasure_id, contact_id, contact_ids, erased_at, completed_at, rows}; a second time, the first one''s. Who writes again is a new contact. The reason must not name him. Admins and up. Errors: not_allowed, contact_not_found, reason_required, reason_names_person.';
grant execute on function public.erase_contact(uuid, text, uuid) to authenticated, service_role;

-- The logs and the files ------------------------------------------------------------------------------------------------------

create function private.erase_log_rows(erasure private.erasures, table_name text, ids uuid[])
returns text[]
language plpgsql
volatile
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  handles text[] := array[]::text[];
  words constant jsonb := private.word_set(erasure.identifiers || erasure.handles);
  gone public.message_queue;
  keys private.queue_key[] := array[]::private.queue_key[];
begin
  case table_name
    when 'public.webhook_deliveries' then
      -- What endpoints were told of him. What they are told of his erasure came with it.
      with gone as (
        delete from public.webhook_deliveries d
        where d.organization_id = erasure.organization_id
          and d.id = any (ids)
          and d.created_at <> erasure.created_at
        returning d.id, d.event_id
      )
      select coalesce(array_agg(x.value), '{}') into handles
      from gone g
      cross join lateral (values (g.id::text), (g.event_id::text)) x (value);
    when 'public.message_queue' then
      for gone in
        select q.*
        from public.message_queue q
        where q.organization_id = erasure.organization_id
          and q.id = any (ids)
          -- What names him by id only ends by itself, and finds nothing.
          and (
            q.status in ('completed', 'dead')
            or q.status <> 'processing' and private.tells(concat(q.payload, q.last_error, q.ordering_key, q.idempotency_key), erasure.identifiers)
          )
        for update skip locked
      loop
        delete from public.message_queue q where q.organization_id = gone.organization_id and q.id = gone.id;
        handles := handles || gone.id::text;
        if gone.ordering_key is not null then
          keys := keys || row(gone.organization_id, gone.ordering_key)::private.queue_key;
        end if;
      end loop;
      perform private.release_keys(array(select distinct k from unnest(keys) k));
    when 'private.parked_message_updates' then
      delete from private.parked_message_updates u
      where u.organization_id = erasure.organization_id and u.id = any (ids);
    when 'public.webhook_events' then
      update public.webhook_events e
      set payload = coalesce(private.json_without(e.payload, private.words_in(e.payload, words)), '{}')
      where e.id = any (ids);
    when 'public.api_call_logs' then
      update public.api_call_logs c
      set endpoint = '', request_data = '{}', response_data = null
      where c.organization_id = erasure.organization_id and c.id = any (ids);
  end case;
  return handles;
end;
$$;
comment on function private.erase_log_rows(private.erasures, text, uuid[]) is
  'Deletes or cleans rows of a log that are about a person; returns by which ids other logs may name them.';

create function private.search_log(erasure private.erasures)
returns private.erasures
language plpgsql
volatile
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  batch_size constant int := 1000;
  phases constant text[] := array['webhook_deliveries', 'message_queue', 'parked_message_updates', 'webhook_events', 'unassigned_events', 'api_call_logs', 'files'];
  entry record;
  ids uuid[];
  read bigint;
begin
  select d.* into entry
  from private.personal_data() d
  where split_part(d.table_name, '.', 2) = case erasure.phase when 'unassigned_events' then 'webhook_events' else erasure.phase end;
  -- In the order of an index each. What came after he was erased is of nobody.
  execute format(
    'select
      count(*), array_agg(b.id) filter (where b.is_about),
      (array_agg(b.created_at order by b.n desc))[1], (array_agg(b.id order by b.n desc))[1]
    from (
      select t.id, t.created_at, (%2$s) as is_about, row_number() over (order by %4$s) as n
      from %1$s t
      where %3$s and (%4$s) > (%5$s) and t.created_at <= $8
      order by %4$s
      limit %6$s
    ) b',
    entry.table_name, entry.about,
    case erasure.phase
      -- Of numbers that are not connected any more, and of whatever else this organization''s own apps brought.
      when 'unassigned_events' then
        't.organization_id is null and (
          t.external_id in (select i.external_id from public.whatsapp_instances i where i.organization_id = $1)
          or t.app_key in (select a.app_key from private.meta_apps a where a.organization_id = $1))'
      else 't.organization_id = $1'
    end,
    case when erasure.phase in ('message_queue', 'parked_message_updates') then 't.id' else 't.created_at, t.id' end,
    case when erasure.phase in ('message_queue', 'parked_message_updates') then '$7' else '$6, $7' end,
    batch_size)
  using erasure.organization_id, erasure.contact_ids, erasure.identifiers, erasure.handles,
    private.word_set(erasure.identifiers || erasure.handles), erasure.last_key, erasure.last_id, erasure.searches_until
  into read, ids, erasure.last_key, erasure.last_id;
  if ids is not null then
    erasure.handles := erasure.handles || private.erase_log_rows(erasure, entry.table_name, ids);
    erasure.counts := erasure.counts || jsonb_build_object(
      erasure.phase, coalesce((erasure.counts ->> erasure.phase)::int, 0) + cardinality(ids));
  end if;
  if read < batch_size then
    erasure.phase := phases[array_position(phases, erasure.phase) + 1];
    erasure.last_key := '-infinity';
    erasure.last_id := '00000000-0000-0000-0000-000000000000';
  end if;
  update private.erasures e
  set phase = erasure.phase, last_key = erasure.last_key, last_id = erasure.last_id, handles = erasure.handles, counts = erasure.counts
  where e.organization_id = erasure.organization_id and e.id = erasure.id;
  return erasure;
end;
$$;
comment on function private.search_log(private.erasures) is 'One batch of one log; then the next one, or the next log.';

create function private.files_to_erase(erasure private.erasures)
returns text[]
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  files text[];
begin
  if to_regclass('storage.objects') is null then
    return '{}'::text[];
  end if;
  -- By their names, whether a message still knows of them or not; the operators are those of the index.
  execute
    'select array(
      select o.name
      from public.messages m
      cross join lateral (
        select format(''%s/%s/%s'', m.organization_id, to_char(m.created_at at time zone ''UTC'', ''YYYY/MM''), m.id) as prefix
      ) p
      join storage.objects o on o.bucket_id = ''media'' and o.name ~>=~ (p.prefix || ''.'') and o.name ~<~ (p.prefix || ''/'')
      where m.organization_id = $1 and m.contact_id = any ($2) and m.message_type not in (''text'', ''reaction'')
      union all
      select o.name
      from storage.objects o
      where o.bucket_id = ''media''
        and ''media/'' || o.name = any ($3)
        -- A price list that others were sent too is not his.
        and o.name not in (
          select substring(x.payload ->> ''path'' from 7)
          from public.messages x
          where x.organization_id = $1 and x.payload ->> ''path'' = any ($3) and x.contact_id <> all ($2)
        )
      limit 100
    )'
  using erasure.organization_id, erasure.contact_ids, erasure.files
  into files;
  return files;
end;
$$;
comment on function private.files_to_erase(private.erasures) is 'Up to a hundred files of a person that still lie in Storage.';

create function private.continue_erasure(job jsonb)
returns jsonb
language plpgsql
volatile
security definer -- searches every log, and ends jobs
set search_path = ''
as $$
declare
  held constant public.message_queue := private.hold_job(job);
  erasure private.erasures;
  files text[];
begin
  select e.* into erasure
  from private.erasures e
  where e.organization_id = held.organization_id and e.id = private.id_in(held.payload, 'erasure_id')
  for no key update;
  if not found then
    return private.end_job(held, 'erasure_gone');
  elsif erasure.completed_at is not null then
    return private.end_job(held, 'completed');
  elsif erasure.horizon is null then
    -- A delivery that began before he was erased may still be writing down what it got.
    update private.erasures e
    set horizon = pg_snapshot_xmax(pg_current_snapshot()), searches_until = clock_timestamp()
    where e.organization_id = erasure.organization_id and e.id = erasure.id;
    return '{"action": "again"}'::jsonb;
  elsif pg_snapshot_xmin(pg_current_snapshot()) < erasure.horizon then
    return private.put_off_job(held, now() + interval '2 seconds', 'waits_for_transactions');
  elsif erasure.phase <> 'files' then
    erasure := private.search_log(erasure);
    return '{"action": "again"}'::jsonb;
  end if;
  files := private.files_to_erase(erasure);
  if cardinality(files) > 0 then
    return jsonb_build_object('action', 'remove', 'bucket', 'media', 'paths', files);
  elsif exists (
    select
    from public.message_queue q
    where q.organization_id = erasure.organization_id
      and (q.status = 'processing') is true
      and q.id <> held.id
      and (
        q.job_type = 'fetch_media' and q.payload ->> 'message_id' = any (erasure.handles)
        or private.tells(concat(q.payload, q.last_error), erasure.identifiers)
      )
  ) then
    -- A worker has it in hand, and a file of his may be on its way.
    update private.erasures e
    set phase = 'message_queue'
    where e.organization_id = erasure.organization_id and e.id = erasure.id;
    return private.put_off_job(held, now() + interval '5 seconds', 'waits_for_a_job');
  elsif exists (
    select
    from public.message_queue q
    where q.organization_id = erasure.organization_id
      and q.job_type = 'erase_archived'
      and q.payload ->> 'erasure_id' = erasure.id::text
      and q.status <> 'completed'
  ) then
    -- The files of the archive are written anew.
    return private.put_off_job(held, now() + interval '15 seconds', 'waits_for_the_archive');
  end if;
  update private.erasures e
  set completed_at = now(), identifiers = '{}', handles = '{}', files = '{}'
  where e.organization_id = erasure.organization_id and e.id = erasure.id;
  return private.end_job(held, 'completed');
end;
$$;
comment on function private.continue_erasure(jsonb) is 'See public.continue_erasure().';
grant execute on function private.continue_erasure(jsonb) to service_role;

create function public.continue_erasure(job jsonb)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.continue_erasure(job);
end;
$$;
comment on function public.continue_erasure(jsonb) is
  'For the worker, with a held job of type erase_contact: {action: again}, {action: remove, bucket, paths} (files to delete; then it asks again), or {action: done, reason}. Secret key only. Errors: lease_lost.';
grant execute on function public.continue_erasure(jsonb) to service_role;

-- Backups ---------------------------------------------------------------------------------------------------------------------

create function private.list_erasures(organization_id uuid)
returns jsonb
language plpgsql
stable
security definer -- "private" is read by its owner
set search_path = ''
as $$
begin
  perform private.require_role(organization_id, 'owner');
  return (
    select coalesce(jsonb_agg(private.erasure_answer(e) order by e.id), '[]')
    from private.erasures e
    where e.organization_id = list_erasures.organization_id
  );
end;
$$;
comment on function private.list_erasures(uuid) is 'See public.list_erasures().';
grant execute on function private.list_erasures(uuid) to authenticated, service_role;

create function public.list_erasures(organization_id uuid default public.user_organization_id())
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return private.list_erasures(organization_id);
end;
$$;
comment on function public.list_erasures(uuid) is
  'Who was erased, by id: [{erasure_id, contact_id, contact_ids, erased_at, completed_at, rows}]. Keep it apart from backups: a restored one brings persons back, and is erased again by this list (reapply_erasures). Owners. Errors: not_allowed.';
grant execute on function public.list_erasures(uuid) to authenticated, service_role;

create function private.reapply_erasures(organization_id uuid, erasures jsonb)
returns int
language plpgsql
volatile
security definer -- writes every table that is about a contact
set search_path = ''
as $$
declare
  erased_contact uuid;
  erased int := 0;
begin
  for erased_contact in
    select p.id
    from public.contacts p
    where p.organization_id = reapply_erasures.organization_id
      and p.erased_at is null
      and p.id in (
        select c.value::uuid
        from jsonb_array_elements(reapply_erasures.erasures) e
        cross join lateral jsonb_array_elements_text(e -> 'contact_ids') c
      )
    order by p.merged_into_id is not null, p.id
  loop
    -- One of them may have gone with another one.
    continue when private.is_erased(organization_id, erased_contact);
    delete from private.erasures e
    where e.organization_id = reapply_erasures.organization_id
      and erased_contact = any (e.contact_ids)
      and not private.is_erased(e.organization_id, e.contact_id);
    perform private.erase_contact(erased_contact, 'Erased before; once more after a restore', organization_id);
    erased := erased + 1;
  end loop;
  return erased;
end;
$$;
comment on function private.reapply_erasures(uuid, jsonb) is 'See public.reapply_erasures().';
grant execute on function private.reapply_erasures(uuid, jsonb) to service_role;

create function public.reapply_erasures(organization_id uuid, erasures jsonb)
returns int
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.reapply_erasures(organization_id, erasures);
end;
$$;
comment on function public.reapply_erasures(uuid, jsonb) is
  'After a restore: erases again whom list_erasures() named, if the backup brought him back; answers how many. Secret key only. Errors: not_allowed.';
grant execute on function public.reapply_erasures(uuid, jsonb) to service_role;
