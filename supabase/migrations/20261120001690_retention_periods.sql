-- How long things are kept. The platform says how long at least; an organization may keep them longer.

create table private.retention_periods (
  kind text not null,
  days int not null,
  description text not null,
  constraint retention_periods_pkey primary key (kind),
  constraint retention_periods_days_is_positive_check check (days > 0)
);
comment on table private.retention_periods is
  'For how many days each kind of data is kept; organization_settings.retention_overrides may only lengthen it.';
alter table private.retention_periods enable row level security;
alter table private.retention_periods force row level security;
revoke all on private.retention_periods from public, anon, authenticated, service_role;
insert into private.retention_periods (kind, days, description)
values
  ('webhook_events', 30, 'What providers sent, word by word; and what could not be assigned.'),
  ('api_call_logs', 30, 'Calls to others.'),
  ('analytics_events', 400, 'What apps told.'),
  ('audit_ip_addresses', 90, 'Until addresses in the audit log are made anonymous.'),
  ('audit_logs', 1827, 'The audit log: five years.'),
  ('messages', 731, 'Until messages move to the archive: two years.'),
  ('closed_organizations', 90, 'Until a closed organization is purged.'),
  ('daily_backups', 30, 'A tenant''s daily backups.'),
  ('weekly_backups', 365, 'A tenant''s weekly backups.');

create function private.retention(kind text, organization_id uuid)
returns interval
language plpgsql
stable
security definer -- reads a tenant's settings past their policies
set search_path = ''
as $$
declare
  days int;
begin
  select p.days into days from private.retention_periods p where p.kind = retention.kind;
  if not found then
    raise exception 'no retention is defined for %', kind;
  end if;
  return make_interval(days => greatest(
    days,
    (
      select case when jsonb_typeof(s.retention_overrides -> kind) = 'number' then (s.retention_overrides ->> kind)::numeric end
      from public.organization_settings s
      where s.organization_id = retention.organization_id
    )::int));
end;
$$;
comment on function private.retention(text, uuid) is 'How long an organization keeps a kind of data.';
