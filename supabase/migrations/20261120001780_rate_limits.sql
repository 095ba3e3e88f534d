-- Rate limits: how often one caller may ask. For what the public may call and for what takes a secret to be guessed.
--
-- A bucket holds so many tokens and is filled again steadily. It is kept as one time, the moment at which it will be full
-- again: taking a token moves that on, and a bucket whose moment has passed is a full one and needs no row.

create table private.rate_limit_rules (
  name text not null,
  capacity int not null,
  per_minute int not null,
  description text not null,
  constraint rate_limit_rules_pkey primary key (name),
  constraint rate_limit_rules_are_positive_check check (capacity > 0 and per_minute > 0)
);
comment on table private.rate_limit_rules is 'What each limit allows: so many at once, and so many a minute in the long run. The platform''s to change.';
alter table private.rate_limit_rules enable row level security;
alter table private.rate_limit_rules force row level security;
revoke all on private.rate_limit_rules from public, anon, authenticated, service_role;
insert into private.rate_limit_rules (name, capacity, per_minute, description)
values
  ('token_by_address', 60, 60, 'Exchanges of API keys by one address, right or wrong ones.'),
  ('token_by_key', 20, 20, 'Exchanges of one API key. A token is good for an hour.'),
  ('public_profile_by_address', 120, 120, 'Public pages that one address looks at.');

-- A crash may forget it, and a write costs no log.
create unlogged table private.rate_limits (
  name text not null,
  key text not null,
  full_at timestamptz not null,
  is_granted boolean not null,
  constraint rate_limits_pkey primary key (name, key),
  constraint rate_limits_name_fkey foreign key (name) references private.rate_limit_rules (name) on delete cascade
);
comment on table private.rate_limits is 'The buckets that are not full. They belong to addresses as well as to tenants, and live for minutes.';
comment on column private.rate_limits.is_granted is 'What the last one who asked was told.';
create index rate_limits_full_at_idx on private.rate_limits (full_at);
comment on index private.rate_limits_full_at_idx is 'For delete_full_rate_limits().';
alter table private.rate_limits enable row level security;
alter table private.rate_limits force row level security;
revoke all on private.rate_limits from public, anon, authenticated, service_role;

create function private.take_from_rate_limit(name text, key text)
returns numeric
language plpgsql
volatile
security definer -- the buckets are in "private"
set search_path = ''
as $$
declare
  rule private.rate_limit_rules;
  step interval;
  bucket private.rate_limits;
begin
  select r.* into rule from private.rate_limit_rules r where r.name = take_from_rate_limit.name;
  if not found then
    raise exception 'no rate limit is called %', take_from_rate_limit.name;
  end if;
  step := interval '1 minute' / rule.per_minute;
  -- One statement: the row's lock puts those who ask at the same time one behind the other, and the clock is read under it.
  insert into private.rate_limits as l (name, key, full_at, is_granted)
  values (rule.name, left(take_from_rate_limit.key, 200), clock_timestamp() + step, true)
  on conflict on constraint rate_limits_pkey do update set (full_at, is_granted) = (
    select case when b.full_at + step <= b.all_full_at then b.full_at + step else b.full_at end, b.full_at + step <= b.all_full_at
    from (select clock_timestamp() as now) c
    -- Not beyond an empty bucket, should the clock have been set back or the rule have changed.
    cross join lateral (
      select
        least(greatest(l.full_at, c.now), c.now + rule.capacity * step) as full_at,
        c.now + rule.capacity * step as all_full_at
    ) b
  )
  returning l.* into bucket;
  if bucket.is_granted then
    return null;
  end if;
  return greatest(0.001, extract(epoch from bucket.full_at + step - rule.capacity * step - clock_timestamp()));
end;
$$;
comment on function private.take_from_rate_limit(text, text) is
  'Takes a token out of the bucket of a key under a limit: null; or the seconds until there will be one, and nothing is taken.';

create function private.network_of(address inet)
returns text
language sql
immutable
strict
set search_path = ''
as $$
  -- Whoever has one IPv6 address has its whole network.
  select host(network(set_masklen(address, case family(address) when 6 then 64 else 32 end)))
$$;
comment on function private.network_of(inet) is 'By what callers from an address are counted; functions/_shared/address.ts says the same.';

create function private.limit_rate(name text, address inet)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  wait numeric;
  message text;
  detail text;
begin
  -- The platform's own servers ask for many people.
  if address is null or private.is_service() then
    return;
  end if;
  wait := ceil(private.take_from_rate_limit(name, private.network_of(address)));
  if wait is not null then
    perform private.raise_error('BL945', 'rate_limited', 'Too many requests; try again later', jsonb_build_object('retry_after', wait));
  end if;
exception when sqlstate 'BL945' then
  get stacked diagnostics message = message_text, detail = pg_exception_detail;
  -- PostgREST's own way to answer with a status and a header.
  raise exception using
    errcode = 'PGRST',
    message = json_build_object('code', sqlstate, 'message', message, 'details', detail, 'hint', null)::text,
    detail = json_build_object('status', 429, 'headers', json_build_object('Retry-After', wait::text))::text;
end;
$$;
comment on function private.limit_rate(text, inet) is
  'For RPCs that anybody may call: error rate_limited (HTTP 429, Retry-After) once an address has asked too often.';

create function private.delete_full_rate_limits(at timestamptz default clock_timestamp(), batch_size int default 20000)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  deleted bigint;
begin
  with full_ones as (
    select l.name, l.key
    from private.rate_limits l
    where l.full_at < at
    limit batch_size
    for update skip locked
  )
  delete from private.rate_limits l
  using full_ones f
  where l.name = f.name and l.key = f.key;
  get diagnostics deleted = row_count;
  return deleted;
end;
$$;
comment on function private.delete_full_rate_limits(timestamptz, int) is 'Deletes the buckets that are full again, which are as good as none; returns how many.';
