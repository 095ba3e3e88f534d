-- Foundation: what every other chapter stands on.
--
-- Schemas, extensions and default privileges first; then the small functions that all domains share: ids,
-- errors, timestamps, search text, phone numbers. Nothing here knows a tenant.

-- Definer functions read tables whose RLS is forced; without BYPASSRLS the membership helper would recurse.
do $$
begin
  if not (select rolbypassrls or rolsuper from pg_catalog.pg_roles where rolname = current_user) then
    raise exception 'Balcão''s migrations need a role with BYPASSRLS, and % has not got it', current_user
      using hint = 'On Supabase run them as "postgres"; elsewhere: alter role <role> bypassrls.';
  end if;
end;
$$;

-- Schemas ------------------------------------------------------------------------------------------------

create schema private;
comment on schema private is 'Helpers, secrets and internals. Not exposed by the API.';

create schema partitions;
comment on schema partitions is 'Monthly partitions of the log tables. Reached through their parents only.';

-- Policies, column defaults and the thin functions of "public" call functions in "private", so the API roles may enter; each
-- object grants itself.
grant usage on schema private to anon, authenticated, service_role;

-- Default privileges --------------------------------------------------------------------------------------
-- Old projects expose every new object to the API roles, new ones none. Start from none on both. Only the form
-- without "in schema" takes the built-in EXECUTE from PUBLIC.

alter default privileges revoke execute on functions from public;
alter default privileges in schema public revoke all on tables from anon, authenticated, service_role;
alter default privileges in schema public revoke all on sequences from anon, authenticated, service_role;
alter default privileges in schema public revoke all on functions from anon, authenticated, service_role;

-- Extensions ------------------------------------------------------------------------------------------------

create schema if not exists extensions;
create extension if not exists pgcrypto with schema extensions;
create extension if not exists unaccent with schema extensions;
-- Equality beside ranges in one index: no two bookings of one professional overlap.
create extension if not exists btree_gist with schema extensions;

-- Ids -------------------------------------------------------------------------------------------------------

create function private.uuid_v7(at timestamptz default clock_timestamp())
returns uuid
language plpgsql
volatile
parallel safe
set search_path = ''
as $$
declare
  micros constant bigint := (extract(epoch from at) * 1000000)::bigint;
begin
  -- 48 bits of milliseconds; then their fraction in 12 bits: ids made microseconds apart still sort by time.
  return (
    lpad(to_hex(micros / 1000), 12, '0')
    || to_hex(28672 + (micros % 1000) * 4096 / 1000)
    || substr(replace(gen_random_uuid()::text, '-', ''), 17)
  )::uuid;
end;
$$;
comment on function private.uuid_v7(timestamptz) is
  'A version 7 UUID of the given moment (RFC 9562, 6.2 method 3), so that primary keys grow at their right end.';
grant execute on function private.uuid_v7(timestamptz) to authenticated, service_role;

-- Errors ------------------------------------------------------------------------------------------------------

create function private.raise_error(
  code text,
  error text,
  message text,
  detail jsonb default '{}',
  hint text default ''
)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  raise exception using
    errcode = code,
    message = message,
    detail = (jsonb_build_object('error', error) || detail)::text,
    hint = hint;
end;
$$;
comment on function private.raise_error(text, text, text, jsonb, text) is
  'Raises a business error: a stable SQLSTATE (BLxxx) and name, a message for humans, a JSON detail for machines. Listed in docs/errors.md.';
grant execute on function private.raise_error(text, text, text, jsonb, text) to authenticated, service_role;

-- Timestamps ----------------------------------------------------------------------------------------------

create function private.tg_touch_updated_at()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  new.updated_at := now();
  return new;
end;
$$;
comment on function private.tg_touch_updated_at() is 'Trigger: a changed row says when.';

-- Search text -----------------------------------------------------------------------------------------------

create function private.search_text(input text)
returns text
language sql
immutable
strict
parallel safe
set search_path = ''
as $$
  -- The stemmer knows -ção but neither -cao nor the irregular plurals; people write all of them. So accents go
  -- first, then each ending takes the one form that the stemmer folds with the rest of its family.
  select regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(
    lower(extensions.unaccent('extensions.unaccent'::regdictionary, input)),
    '(\w{2})c(?:oes|ao)\M', '\1ção', 'g'),
    '(\w)(?:oes|aes|aos)\M', '\1ao', 'g'),
    '(\w{2})ais\M', '\1al', 'g'),
    '(\w{2})ois\M', '\1ol', 'g'),
    '(\w{2})uis\M', '\1ul', 'g'),
    '(\w{2})(?:eis|il|(?<=\w{3})is)\M', '\1el', 'g'),
    '(\w[aeiou])ns\M', '\1m', 'g')
$$;
comment on function private.search_text(text) is
  'Folds Portuguese text for full-text search (case, accents, plural endings); feed it to to_tsvector(''pg_catalog.portuguese'', …) on both sides.';
grant execute on function private.search_text(text) to authenticated, service_role;

-- Phone numbers -----------------------------------------------------------------------------------------------
-- A Brazilian mobile has nine digits, but WhatsApp accounts made before 2016 keep an id with eight. Both are one
-- person: the canonical form always has the ninth digit. tests/phone_numbers.csv is the shared table of this
-- chapter and of functions/_shared/phone.ts.

create function private.canonical_phone_number(digits text)
returns text
language plpgsql
immutable
strict
parallel safe
set search_path = ''
as $$
declare
  area_code constant text := substr(digits, 3, 2);
  subscriber constant text := substr(digits, 5);
begin
  if digits !~ '^[1-9][0-9]{7,14}$' then
    return null;
  elsif digits !~ '^55' then
    return '+' || digits;
  elsif not private.is_brazilian_area_code(area_code) then
    return null;
  elsif subscriber ~ '^(9[0-9]{8}|[2-5][0-9]{7})$' then
    return '+' || digits;
  elsif subscriber ~ '^[6-9][0-9]{7}$' then
    return '+55' || area_code || '9' || subscriber;
  end if;
  return null;
end;
$$;
comment on function private.canonical_phone_number(text) is
  'E.164 form of international digits, the Brazilian ninth digit added; null when they are no phone number.';
grant execute on function private.canonical_phone_number(text) to authenticated, service_role;

create function private.is_brazilian_area_code(area_code text)
returns boolean
language sql
immutable
strict
parallel safe
set search_path = ''
as $$
  select area_code ~ '^([14689][1-9]|2[12478]|3[1-578]|5[1345]|7[134579])$'
$$;
comment on function private.is_brazilian_area_code(text) is 'Whether the two digits are one of the 67 area codes (DDD) of Anatel''s numbering plan.';
grant execute on function private.is_brazilian_area_code(text) to authenticated, service_role;

create function private.phone_from_provider_id(provider_id text)
returns text
language plpgsql
immutable
strict
parallel safe
set search_path = ''
as $$
declare
  address constant text := split_part(btrim(provider_id), '@', 1);
  domain constant text := split_part(btrim(provider_id), '@', 2);
begin
  -- Groups, privacy ids (lid), broadcasts and newsletters have an "@" too, but no number before it.
  if domain not in ('', 's.whatsapp.net', 'c.us') then
    return null;
  end if;
  return private.canonical_phone_number(substring(address from '^\+?([0-9]+)(?::[0-9]+)?$'));
end;
$$;
comment on function private.phone_from_provider_id(text) is
  'Canonical number of a WhatsApp id (wa_id, jid, Z-API phone), which is always international; null for groups, lids and BSUIDs.';
grant execute on function private.phone_from_provider_id(text) to authenticated, service_role;

create function private.phone_from_human_input(input text)
returns text
language plpgsql
immutable
strict
parallel safe
set search_path = ''
as $$
declare
  written constant text := regexp_replace(btrim(input), '^(tel:|(https?://)?(www\.)?(wa\.me|api\.whatsapp\.com)/)', '', 'i');
  digits text := regexp_replace(written, '[^0-9]', '', 'g');
begin
  if written !~ '^[+]?[-0-9 ().\u00a0/]+$' then
    -- An e-mail address, a BSUID or a name is no number, whatever digits it contains; a pasted jid is.
    return case when written ~ '^[0-9]+(:[0-9]+)?@(s\.whatsapp\.net|c\.us)$' then private.phone_from_provider_id(written) end;
  elsif written ~ '^[+]' then
    return private.canonical_phone_number(digits);
  elsif digits ~ '^00' then
    return private.canonical_phone_number(substr(digits, 3));
  elsif digits ~ '^0' then
    -- The trunk prefix, then perhaps the two digits of a long-distance carrier (0 15 11 …).
    digits := substr(digits, case when length(digits) in (13, 14) then 4 else 2 end);
  end if;
  if length(digits) in (10, 11) then
    return private.canonical_phone_number('55' || digits);
  elsif digits ~ '^55' then
    return private.canonical_phone_number(digits);
  end if;
  return null;
end;
$$;
comment on function private.phone_from_human_input(text) is
  'Canonical number of what a person typed in Brazil: +55, 0 or a carrier code may be there or not, a foreign number needs its "+"; null when it cannot be one (no area code, wrong length).';
grant execute on function private.phone_from_human_input(text) to authenticated, service_role;
