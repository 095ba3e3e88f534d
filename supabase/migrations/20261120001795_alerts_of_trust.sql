-- Alerts of trust: what must not quietly stop. Each finds the worst of its kind and says how many there are.

insert into private.alert_rules (kind, description, unit, warning, critical, less_is_worse, is_for_organizations)
values
  ('audit_sealing_stalled', 'Rows of the audit log have waited so long for their seal.', 'seconds', 900, 7200, false, false),
  ('audit_chain_broken', 'Audit logs in which the daily look found something changed.', 'organizations', null, 1, false, false),
  ('backup_overdue', 'An open organization was last backed up so long ago.', 'hours', 30, 54, false, false),
  ('erasure_stuck', 'A person was to be erased so long ago, and is not everywhere.', 'hours', 1, 24, false, false),
  ('archive_stuck', 'Old messages are on their way into the archive for so long.', 'hours', 24, 72, false, false),
  ('purge_stuck', 'A closed organization is being purged for so long.', 'hours', 24, 72, false, false),
  ('data_subject_request_overdue', 'What a person asked for should have been answered so long ago.', 'days', 0, 5, false, false);

create function private.find_audit_sealing_stalled(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
declare
  age numeric;
begin
  select private.seconds_of(at - min(l.created_at)) into age
  from private.audit_sealing s
  cross join lateral (
    select w.created_at
    from public.audit_logs w
    where w.epoch > s.epoch or w.epoch = s.epoch and w.transaction_id >= s.transaction_id
    order by w.epoch, w.transaction_id
    limit 1
  ) l;
  if age > 0 then
    return next row(null, '', age, null, format('The oldest unsealed row has waited for %s s', round(age)), '{}')::private.alert_finding;
  end if;
end;
$$;
comment on function private.find_audit_sealing_stalled(private.alert_rules, timestamptz) is
  'Rule audit_sealing_stalled: the clock does not run, or a transaction stays open.';

create function private.find_audit_chain_broken(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
declare
  broken jsonb;
begin
  -- Each organization is looked at once a day: what its last look found.
  select jsonb_agg(found_one) into broken
  from private.schedule_runs r
  cross join jsonb_array_elements(r.result) found_one
  where r.name = 'verify_audit_chains'
    and r.started_at > at - interval '25 hours'
    and jsonb_typeof(r.result) = 'array'
    and not exists (
      select
      from private.schedule_runs later
      where later.name = r.name
        and later.started_at > r.started_at
        and date_trunc('hour', later.scheduled_for) = date_trunc('hour', r.scheduled_for) + interval '1 day'
    );
  if broken is not null then
    return next row(
      null, '', jsonb_array_length(broken), 'critical', format('Audit logs that were tampered with: %s', jsonb_array_length(broken)),
      jsonb_build_object('organizations', jsonb_path_query_array(broken, '$[0 to 19]')))::private.alert_finding;
  end if;
end;
$$;
comment on function private.find_audit_chain_broken(private.alert_rules, timestamptz) is
  'Rule audit_chain_broken: verify_audit_chain() says where. Told to the platform: an owner may be who did it.';

create function private.late_finding(hours numeric, late bigint, worst text, message text)
returns private.alert_finding
language sql
immutable
set search_path = ''
as $$
  select row(null, '', round(hours, 1), null, message, jsonb_build_object('late', late, 'organization_id', worst))::private.alert_finding
$$;
comment on function private.late_finding(numeric, bigint, text, text) is 'Of what is late: the age of the worst, how many there are, and whose it is.';

create function private.find_backup_overdue(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
declare
  worst record;
begin
  select
    max(extract(epoch from at - b.since) / 3600) as hours,
    count(*) as late,
    (array_agg(o.id order by b.since))[1] as organization_id
  into worst
  from public.organizations o
  cross join lateral (
    select coalesce(max(m.completed_at), o.created_at) as since
    from public.backup_metadata m
    where m.organization_id = o.id and m.status in ('completed', 'expired')
  ) b
  where o.closed_at is null and b.since < at - make_interval(hours => rule.warning::int);
  if worst.late > 0 then
    return next private.late_finding(worst.hours, worst.late, worst.organization_id::text,
      format('Organizations without a fresh backup: %s', worst.late));
  end if;
end;
$$;
comment on function private.find_backup_overdue(private.alert_rules, timestamptz) is 'Rule backup_overdue: a new organization counts from its beginning.';

create function private.find_erasure_stuck(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
declare
  worst record;
begin
  select
    max(extract(epoch from at - e.created_at) / 3600) as hours, count(*) as late,
    (array_agg(e.organization_id order by e.created_at))[1] as organization_id
  into worst
  from private.erasures e
  where e.completed_at is null;
  if worst.late > 0 then
    return next private.late_finding(worst.hours, worst.late, worst.organization_id::text, format('Erasures under way: %s', worst.late));
  end if;
end;
$$;
comment on function private.find_erasure_stuck(private.alert_rules, timestamptz) is 'Rule erasure_stuck: the job erase_contact, or Storage.';

create function private.find_archive_stuck(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
declare
  worst record;
begin
  select
    max(extract(epoch from at - m.created_at) / 3600) as hours, count(*) as late,
    (array_agg(m.organization_id order by m.created_at))[1] as organization_id
  into worst
  from public.message_archives m
  where m.status <> 'completed';
  if worst.late > 0 then
    return next private.late_finding(worst.hours, worst.late, worst.organization_id::text, format('Archives under way: %s', worst.late));
  end if;
end;
$$;
comment on function private.find_archive_stuck(private.alert_rules, timestamptz) is 'Rule archive_stuck: the job archive_messages, or Storage.';

create function private.find_purge_stuck(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
declare
  worst record;
begin
  select
    max(extract(epoch from at - p.begun_at) / 3600) as hours, count(*) as late,
    (array_agg(p.organization_id order by p.begun_at))[1] as organization_id
  into worst
  from private.purges p
  where p.completed_at is null;
  if worst.late > 0 then
    return next private.late_finding(worst.hours, worst.late, worst.organization_id::text, format('Purges under way: %s', worst.late));
  end if;
end;
$$;
comment on function private.find_purge_stuck(private.alert_rules, timestamptz) is 'Rule purge_stuck: the job purge_organization.';

create function private.find_data_subject_request_overdue(rule private.alert_rules, at timestamptz)
returns setof private.alert_finding
language plpgsql
stable
set search_path = ''
as $$
declare
  worst record;
begin
  select
    max(extract(epoch from at - r.due_at) / 86400) as days, count(*) as late,
    (array_agg(r.organization_id order by r.due_at))[1] as organization_id
  into worst
  from public.data_subject_requests r
  where r.is_open and r.due_at < at;
  if worst.late > 0 then
    return next private.late_finding(worst.days, worst.late, worst.organization_id::text,
      format('Requests of persons that are overdue: %s', worst.late));
  end if;
end;
$$;
comment on function private.find_data_subject_request_overdue(private.alert_rules, timestamptz) is
  'Rule data_subject_request_overdue: the law gives fifteen days.';
