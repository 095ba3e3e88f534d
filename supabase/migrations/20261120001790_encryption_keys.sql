-- Encryption keys: which of BALCAO_ENCRYPTION_KEYS are in use, and how one is replaced.
--
-- The database cannot open what it keeps. The function "rotate-secrets" opens each sealed secret that an old key seals, seals
-- it with the first key of its list and puts it back here, one by one and only if nobody has changed it meanwhile.

create function private.sealed_columns()
returns table (table_name text, key_column text, column_name text, purpose text)
language sql
immutable
set search_path = ''
as $$
  values
    ('meta_apps', 'app_key', 'app_secret', 'meta_app.app_secret'),
    ('meta_apps', 'app_key', 'verify_token', 'meta_app.verify_token'),
    ('instance_secrets', 'instance_id', 'access_token', 'instance.access_token'),
    ('instance_secrets', 'instance_id', 'webhook_secret', 'instance.webhook_secret'),
    ('instance_secrets', 'instance_id', 'client_token', 'instance.client_token'),
    ('webhook_endpoint_secrets', 'id', 'secret', 'webhook_endpoint.secret'),
    ('api_key_secrets', 'api_key_id', 'password', 'api_key.password')
$$;
comment on function private.sealed_columns() is
  'Where sealed secrets lie in "private" and for which purpose each is sealed. A test finds a column that is not here.';

create function private.sealed_secrets()
returns table (table_name text, organization_id uuid, row_key text, column_name text, purpose text, sealed text)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query execute (
    select string_agg(
      format(
        'select %1$L::text, t.organization_id, t.%2$I::text, %3$L::text, %4$L::text, t.%3$I::text from private.%1$I t where t.%3$I is not null',
        c.table_name, c.key_column, c.column_name, c.purpose),
      ' union all ')
    from private.sealed_columns() c
  );
end;
$$;
comment on function private.sealed_secrets() is 'Every sealed secret and what it is bound to.';

create function private.secrets_to_reseal(key_id text, after jsonb, page_size int)
returns table (table_name text, organization_id uuid, row_key text, column_name text, purpose text, sealed text)
language plpgsql
stable
security definer -- reads secrets that no client may see
set search_path = ''
as $$
begin
  return query
  select s.*
  from private.sealed_secrets() s
  where split_part(s.sealed, '.', 2) <> secrets_to_reseal.key_id
    and (
      after is null
      or (s.table_name, coalesce(s.organization_id::text, ''), s.row_key, s.column_name)
        > (after ->> 'table_name', coalesce(after ->> 'organization_id', ''), after ->> 'row_key', after ->> 'column_name')
    )
  order by s.table_name, coalesce(s.organization_id::text, ''), s.row_key, s.column_name
  limit least(greatest(coalesce(page_size, 100), 1), 1000);
end;
$$;
comment on function private.secrets_to_reseal(text, jsonb, int) is 'See public.secrets_to_reseal().';
grant execute on function private.secrets_to_reseal(text, jsonb, int) to service_role;

create function public.secrets_to_reseal(key_id text, after jsonb default null, page_size int default 100)
returns table (table_name text, organization_id uuid, row_key text, column_name text, purpose text, sealed text)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query select s.* from private.secrets_to_reseal(key_id, after, page_size) s;
end;
$$;
comment on function public.secrets_to_reseal(text, jsonb, int) is
  'For the function rotate-secrets: secrets that another key than this one seals, page by page (after: the last row of the page before). Secret key only.';
grant execute on function public.secrets_to_reseal(text, jsonb, int) to service_role;

create function private.reseal_secret(table_name text, row_key text, column_name text, sealed text, resealed text)
returns boolean
language plpgsql
volatile
security definer -- writes secrets that no client may see
set search_path = ''
as $$
declare
  place record;
  replaced bigint;
begin
  select c.* into place
  from private.sealed_columns() c
  where c.table_name = reseal_secret.table_name and c.column_name = reseal_secret.column_name;
  if not found then
    raise exception 'no secrets lie in %.%', reseal_secret.table_name, reseal_secret.column_name;
  end if;
  -- What was changed since it was read is newer, and stays.
  execute format(
    'update private.%1$I t set %2$I = $1 where t.%3$I::text = $2 and t.%2$I = $3', place.table_name, place.column_name, place.key_column)
  using resealed, row_key, sealed;
  get diagnostics replaced = row_count;
  return replaced > 0;
end;
$$;
comment on function private.reseal_secret(text, text, text, text, text) is 'See public.reseal_secret().';
grant execute on function private.reseal_secret(text, text, text, text, text) to service_role;

create function public.reseal_secret(table_name text, row_key text, column_name text, sealed text, resealed text)
returns boolean
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.reseal_secret(table_name, row_key, column_name, sealed, resealed);
end;
$$;
comment on function public.reseal_secret(text, text, text, text, text) is
  'For the function rotate-secrets: puts a secret back under another key, unless it was changed meanwhile (false). Secret key only.';
grant execute on function public.reseal_secret(text, text, text, text, text) to service_role;

create function private.encryption_keys_in_use()
returns table (key_id text, secrets bigint, backups bigint, backups_until timestamptz)
language plpgsql
stable
security definer -- reads secrets that no client may see, and across tenants
set search_path = ''
as $$
begin
  return query
  select k.key_id, sum(k.secrets)::bigint, sum(k.backups)::bigint, max(k.backups_until)
  from (
    select split_part(s.sealed, '.', 2) as key_id, 1 as secrets, 0 as backups, null::timestamptz as backups_until
    from private.sealed_secrets() s
    union all
    select b.key_id, 0, 1, b.expires_at
    from public.backup_metadata b
    where b.status = 'completed'
  ) k
  group by k.key_id
  order by k.key_id;
end;
$$;
comment on function private.encryption_keys_in_use() is 'See public.encryption_keys_in_use().';
grant execute on function private.encryption_keys_in_use() to service_role;

create function public.encryption_keys_in_use()
returns table (key_id text, secrets bigint, backups bigint, backups_until timestamptz)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query select k.* from private.encryption_keys_in_use() k;
end;
$$;
comment on function public.encryption_keys_in_use() is
  'How many secrets and backups each encryption key seals. A backup stays as it is: its key is needed until the last one has expired. Secret key only.';
grant execute on function public.encryption_keys_in_use() to service_role;
