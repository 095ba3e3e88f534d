-- Media: our own copy of what customers send, because the provider forgets it (Meta: after seven days).
--
-- A stored message with a file brings a job along. The worker puts the file into Storage, in the bucket "media" under
-- <organization>/…, where policies let only the organization's members read it: apps read it by a signed URL. What
-- members want to send they put under <organization>/outgoing/….

-- Storage's own tables; where there is no Storage there is no bucket, and fetching fails with a clear error.
do $$
begin
  if to_regclass('storage.objects') is null then
    raise notice 'There is no schema "storage": the bucket "media" and its policies are left out';
    return;
  end if;

  insert into storage.buckets (id, name, public, file_size_limit)
  -- 100 MB: the largest document that WhatsApp takes.
  values ('media', 'media', false, 104857600)
  on conflict (id) do update set public = false, file_size_limit = excluded.file_size_limit;

  create policy "Members can read their organization's media" on storage.objects
    for select to authenticated
    using (
      bucket_id = 'media'
      and (storage.foldername(name))[1] = any ((select private.member_organizations('viewer'))::text[])
    );
  create policy "Attendants can upload files that their organization sends" on storage.objects
    for insert to authenticated
    with check (
      bucket_id = 'media'
      and (storage.foldername(name))[2] = 'outgoing'
      and (storage.foldername(name))[1] = any ((select private.member_organizations('attendant'))::text[])
    );
end;
$$;

-- fetch_media -----------------------------------------------------------------------------------------------------

create function private.tg_messages__fetch_media()
returns trigger
language plpgsql
volatile
security definer -- the queue is written through its functions only
set search_path = ''
as $$
declare
  jobs private.new_job[];
begin
  select array_agg(row(
    i.organization_id, 'fetch_media', jsonb_build_object('message_id', i.id), 10, null, null, 'media:' || i.id, 40
  )::private.new_job)
  into jobs
  from inserted i
  where i.media ->> 'id' is not null and i.media_url is null;
  if jobs is not null then
    perform from private.enqueue_jobs(jobs);
  end if;
  return null;
end;
$$;
comment on function private.tg_messages__fetch_media() is 'Trigger: a message with a file brings the job along that fetches it, behind what customers wait for.';
create trigger messages_900_fetch_media
  after insert on public.messages
  referencing new table as inserted
  for each statement execute function private.tg_messages__fetch_media();

create function private.note_media_error(message public.messages, reason text, detail text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  update public.messages m
  set media = m.media || jsonb_build_object('error', reason, 'error_detail', left(detail, 300))
  where m.organization_id = message.organization_id and m.id = message.id;
end;
$$;
comment on function private.note_media_error(public.messages, text, text) is 'Why a message has no file, for its readers.';

create function private.tg_message_queue__note_media_error()
returns trigger
language plpgsql
volatile
security definer -- whoever ends a job need not be allowed to write messages
set search_path = ''
as $$
declare
  message constant public.messages := private.lock_message_of(new);
begin
  if message.media is not null then
    perform private.note_media_error(message, 'attempts_exhausted', new.last_error);
  end if;
  return null;
end;
$$;
comment on function private.tg_message_queue__note_media_error() is 'Trigger: a file that we gave up says so.';
create trigger message_queue_500_note_media_error
  after update of status on public.message_queue
  for each row when (new.job_type = 'fetch_media' and new.status = 'dead' and old.status <> 'dead')
  execute function private.tg_message_queue__note_media_error();

create function private.tg_instance_secrets__retry_media()
returns trigger
language plpgsql
volatile
security definer -- the queue is written through its functions only
set search_path = ''
as $$
begin
  update public.message_queue q
  set run_at = now(), is_due = true
  where q.organization_id = new.organization_id and q.job_type = 'fetch_media' and q.status = 'failed' and not q.is_due;
  perform
  from private.redrive(array(
    select q
    from public.message_queue q
    where q.organization_id = new.organization_id
      and q.is_dead
      and q.job_type = 'fetch_media'
      -- The provider has forgotten what is older.
      and q.created_at > now() - interval '7 days'
    order by q.completed_at desc
    limit 1000
  ));
  return null;
end;
$$;
comment on function private.tg_instance_secrets__retry_media() is 'Trigger: files that an old token could not fetch are tried at once with the new one.';
create trigger instance_secrets_900_retry_media
  after update of access_token on private.instance_secrets
  for each row when (old.access_token is distinct from new.access_token)
  execute function private.tg_instance_secrets__retry_media();

create function private.begin_media_fetch(job jsonb)
returns jsonb
language plpgsql
volatile
security definer -- hands out a secret, and ends jobs
set search_path = ''
as $$
declare
  held constant public.message_queue := private.hold_job(job);
  message constant public.messages := private.lock_message_of(held);
  instance public.whatsapp_instances;
  access_token text;
begin
  if message.id is null then
    return private.end_job(held, 'message_gone');
  elsif message.media_url is not null or message.media ->> 'id' is null then
    return private.end_job(held, 'fetched_already');
  end if;
  select i.* into instance
  from public.whatsapp_instances i
  where i.organization_id = message.organization_id and i.id = message.instance_id;
  select s.access_token into access_token
  from private.instance_secrets s
  where s.organization_id = message.organization_id and s.instance_id = message.instance_id;
  if access_token is null then
    perform private.note_media_error(message, 'instance_disconnected', 'The number was disconnected before its file was fetched');
    return private.end_job(held, 'instance_disconnected');
  end if;
  return jsonb_build_object(
    'action', 'fetch',
    'message_id', message.id,
    'message_type', message.message_type,
    'media', message.media,
    'path_prefix', format('%s/%s/%s', message.organization_id, to_char(message.created_at at time zone 'UTC', 'YYYY/MM'), message.id),
    'instance', jsonb_build_object('id', instance.id, 'external_id', instance.external_id, 'provider', instance.provider),
    'access_token', access_token);
end;
$$;
comment on function private.begin_media_fetch(jsonb) is 'See public.begin_media_fetch().';
grant execute on function private.begin_media_fetch(jsonb) to service_role;

create function public.begin_media_fetch(job jsonb)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.begin_media_fetch(job);
end;
$$;
comment on function public.begin_media_fetch(jsonb) is
  'For the worker, with a held job of type fetch_media: {action: fetch, message_id, message_type, media, path_prefix, instance, access_token (sealed)}, or {action: done, reason}. Secret key only. Errors: lease_lost.';
grant execute on function public.begin_media_fetch(jsonb) to service_role;

create function private.finish_media_fetch(job jsonb, outcome jsonb, api_calls jsonb)
returns jsonb
language plpgsql
volatile
security definer -- writes messages, and ends jobs
set search_path = ''
as $$
declare
  held constant public.message_queue := private.hold_job(job);
  message constant public.messages := private.lock_message_of(held);
begin
  perform private.log_api_calls(held, api_calls);
  if message.id is null then
    return private.end_job(held, 'message_gone');
  end if;
  case outcome ->> 'result'
    when 'stored' then
      update public.messages m
      set media_url = 'media/' || (outcome ->> 'path'),
          media = m.media - '{error,error_detail}'::text[] || jsonb_strip_nulls(jsonb_build_object(
            'stored_mime_type', outcome ->> 'mime_type', 'size', outcome -> 'size', 'sha256', outcome ->> 'sha256'))
      where m.organization_id = message.organization_id and m.id = message.id;
    when 'refused' then
      perform private.note_media_error(message, outcome ->> 'reason', outcome ->> 'detail');
    else
      perform private.raise_error('BL305', 'invalid_outcome', 'No such result of a job',
        jsonb_build_object('result', outcome ->> 'result'));
  end case;
  return private.end_job(held, outcome ->> 'result');
end;
$$;
comment on function private.finish_media_fetch(jsonb, jsonb, jsonb) is 'See public.finish_media_fetch().';
grant execute on function private.finish_media_fetch(jsonb, jsonb, jsonb) to service_role;

create function public.finish_media_fetch(job jsonb, outcome jsonb, api_calls jsonb default '[]')
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.finish_media_fetch(job, outcome, api_calls);
end;
$$;
comment on function public.finish_media_fetch(jsonb, jsonb, jsonb) is
  'For the worker: what came of a fetch, and the end of its job. outcome {result: stored, path, mime_type, size, sha256} | {result: refused, reason, detail}. Secret key only. Errors: lease_lost, invalid_outcome.';
grant execute on function public.finish_media_fetch(jsonb, jsonb, jsonb) to service_role;
