-- Analytics: what a business looks at every day, computed ahead.
--
-- Materialized views know no row security, so nobody may touch them: "analytics" is exposed to nobody and grants nothing, and
-- what clients read (public.<the same name>) asks a function that lets through the caller's organizations. Every view is bounded,
-- because a refresh holds back whoever reads behind the oldest snapshot. Days are local days of the organization; rates are
-- per cent, null where there is nothing to divide by. What is joined is counted first: a lead with three conversations and two
-- AI calls is one lead.

-- The views were made a moment ago: nobody uses them yet.
-- squawk-ignore-file require-concurrent-index-creation

create schema analytics;
comment on schema analytics is 'Materialized views. Exposed to nobody; read through the views of the same names in "public".';
revoke all on schema analytics from public, anon, authenticated, service_role;

create function private.day_start(day date, timezone text)
returns timestamptz
language sql
stable
parallel safe
set search_path = ''
as $$
  -- Where the clocks go back from one o'clock to midnight there are two midnights: a day begins with the first.
  select (day::timestamp - interval '1 microsecond') at time zone timezone + interval '1 microsecond'
$$;
comment on function private.day_start(date, text) is 'When a local day begins; the day before it ends then.';

-- dashboard_metrics ---------------------------------------------------------------------------------------------------

create materialized view analytics.dashboard_metrics as
with today as (
  select
    o.id as organization_id,
    d.local_date,
    d.day_start,
    private.day_start(d.local_date + 1, o.timezone) as day_end,
    -- An id is made when its row is written, or after: so the primary key finds today's. A second is for clocks set back a little.
    private.uuid_v7(d.day_start - interval '1 second') as first_id,
    date_trunc('week', d.local_date::timestamp)::date as week_start,
    date_trunc('month', d.local_date::timestamp)::date as month_start,
    (date_trunc('month', d.local_date::timestamp) + interval '1 month')::date as month_end
  from public.organizations o
  cross join lateral (select (now() at time zone o.timezone)::date as day) n
  cross join lateral (select n.day as local_date, private.day_start(n.day, o.timezone) as day_start) d
)
select
  t.organization_id,
  t.local_date,
  now() as calculated_at,
  b.bookings_today,
  b.bookings_this_week,
  b.bookings_this_month,
  b.revenue_today_cents,
  b.revenue_this_week_cents,
  b.revenue_this_month_cents,
  b.completed_this_month,
  b.no_shows_this_month,
  round(100.0 * b.no_shows_this_month / nullif(b.completed_this_month + b.no_shows_this_month, 0), 2) as no_show_rate_this_month,
  v.active_conversations,
  v.conversations_waiting_human,
  v.unread_conversations,
  c.new_contacts_today,
  m.messages_today,
  a.avg_ai_confidence_7d,
  a.ai_actions_7d
from today t
cross join lateral (
  select
    count(*) filter (where b.is_kept and b.is_today) as bookings_today,
    count(*) filter (where b.is_kept and b.is_this_week) as bookings_this_week,
    count(*) filter (where b.is_kept and b.is_this_month) as bookings_this_month,
    coalesce(sum(b.price_cents) filter (where b.status = 'completed' and b.is_today), 0)::bigint as revenue_today_cents,
    coalesce(sum(b.price_cents) filter (where b.status = 'completed' and b.is_this_week), 0)::bigint as revenue_this_week_cents,
    coalesce(sum(b.price_cents) filter (where b.status = 'completed' and b.is_this_month), 0)::bigint as revenue_this_month_cents,
    count(*) filter (where b.status = 'completed' and b.is_this_month) as completed_this_month,
    count(*) filter (where b.status = 'no_show' and b.is_this_month) as no_shows_this_month
  from (
    select
      i.status,
      i.price_cents,
      i.status not in ('hold', 'cancelled') as is_kept,
      i.booking_date = t.local_date as is_today,
      i.booking_date >= t.week_start and i.booking_date < t.week_start + 7 as is_this_week,
      i.booking_date >= t.month_start and i.booking_date < t.month_end as is_this_month
    from public.bookings i
    where i.organization_id = t.organization_id
      and i.booking_date >= least(t.week_start, t.month_start)
      and i.booking_date < greatest(t.week_start + 7, t.month_end)
  ) b
) b
cross join lateral (
  select
    count(*) as active_conversations,
    count(*) filter (where i.status = 'waiting_human') as conversations_waiting_human,
    count(*) filter (where i.unread_count > 0) as unread_conversations
  from public.conversations i
  where i.organization_id = t.organization_id and i.is_open
) v
cross join lateral (
  select count(*) as new_contacts_today
  from public.contacts i
  where i.organization_id = t.organization_id
    and i.created_at >= t.day_start and i.created_at < t.day_end
    and i.merged_into_id is null
) c
cross join lateral (
  select count(*) as messages_today
  from public.messages i
  where i.organization_id = t.organization_id
    and i.id >= t.first_id
    and i.created_at >= t.day_start and i.created_at < t.day_end
) m
cross join lateral (
  select round(avg(i.confidence_score), 3) as avg_ai_confidence_7d, count(*) as ai_actions_7d
  from public.ai_interactions i
  where i.organization_id = t.organization_id and i.created_at >= now() - interval '7 days' and i.created_at <= now()
) a;

comment on materialized view analytics.dashboard_metrics is 'The figures of today, this week and this month: one row an organization, every five minutes.';
comment on column analytics.dashboard_metrics.local_date is 'The local day that "today" means.';
comment on column analytics.dashboard_metrics.calculated_at is 'When these figures held.';
comment on column analytics.dashboard_metrics.bookings_today is 'Appointments of the local day: neither held nor cancelled.';
comment on column analytics.dashboard_metrics.bookings_this_week is 'The same from Monday to Sunday, those to come included.';
comment on column analytics.dashboard_metrics.bookings_this_month is 'The same of the calendar month.';
comment on column analytics.dashboard_metrics.revenue_today_cents is 'Sum of price_cents of the completed appointments of the local day.';
comment on column analytics.dashboard_metrics.revenue_this_week_cents is 'The same from Monday to Sunday.';
comment on column analytics.dashboard_metrics.revenue_this_month_cents is 'The same of the calendar month.';
comment on column analytics.dashboard_metrics.completed_this_month is 'Appointments of the month that took place.';
comment on column analytics.dashboard_metrics.no_shows_this_month is 'Appointments of the month to which nobody came.';
comment on column analytics.dashboard_metrics.no_show_rate_this_month is 'no_shows / (completed + no_shows), per cent.';
comment on column analytics.dashboard_metrics.active_conversations is 'Open ones.';
comment on column analytics.dashboard_metrics.conversations_waiting_human is 'Those in which the bot asked for a human who has not come yet.';
comment on column analytics.dashboard_metrics.unread_conversations is 'Open ones with something unread.';
comment on column analytics.dashboard_metrics.new_contacts_today is 'Contacts made on the local day, without those that turned out to be another.';
comment on column analytics.dashboard_metrics.messages_today is 'Messages of the local day, in and out.';
comment on column analytics.dashboard_metrics.avg_ai_confidence_7d is 'Mean confidence_score of the last 7 × 24 hours.';
comment on column analytics.dashboard_metrics.ai_actions_7d is 'AI interactions of the last 7 × 24 hours.';
create unique index dashboard_metrics_organization_id_idx on analytics.dashboard_metrics (organization_id);

-- conversation_analytics ----------------------------------------------------------------------------------------------

create materialized view analytics.conversation_analytics as
with tenants as materialized (
  select
    o.id as organization_id,
    o.timezone,
    private.day_start(d.local_date - 399, o.timezone) as since,
    private.day_start(d.local_date + 1, o.timezone) as until
  from public.organizations o
  cross join lateral (select (now() at time zone o.timezone)::date as local_date) d
),
conversations as (
  select
    v.organization_id,
    (v.created_at at time zone t.timezone)::date as date,
    count(*) as total_conversations,
    count(*) filter (where v.status = 'closed' and v.escalated_at is null and v.last_human_message_at is null)
      as resolved_conversations,
    count(*) filter (where v.escalated_at is not null) as escalated_conversations,
    count(*) filter (where v.status = 'closed') as closed_conversations,
    round(avg(v.satisfaction_score), 2) as avg_satisfaction_score
  from tenants t
  join public.conversations v on v.organization_id = t.organization_id and v.created_at >= t.since and v.created_at < t.until
  -- Reminders and alerts to somebody who never wrote lie in one too, closed from birth.
  where v.last_inbound_at is not null
  group by 1, 2
),
messages as (
  select
    m.organization_id,
    (m.created_at at time zone t.timezone)::date as date,
    count(*) filter (where m.direction = 'inbound') as inbound_messages,
    count(*) filter (where m.direction = 'outbound') as outbound_messages,
    count(*) filter (where m.direction = 'outbound' and m.sender = 'ai') as ai_messages,
    count(*) filter (where m.direction = 'outbound' and m.sender = 'bot') as bot_messages,
    count(*) filter (where m.direction = 'outbound' and m.sender = 'human') as human_messages
  from tenants t
  join public.messages m on m.organization_id = t.organization_id and m.created_at >= t.since and m.created_at < t.until
  group by 1, 2
),
-- What was said, in turn: reactions and notices of ours are no turns.
turns as (
  select
    m.organization_id,
    m.conversation_id,
    m.id,
    m.direction,
    m.sender,
    m.created_at,
    t.timezone,
    lag(m.sender) over w as previous_sender,
    lag(m.created_at) over w as previous_at
  from tenants t
  join public.messages m on m.organization_id = t.organization_id and m.created_at >= t.since and m.created_at < t.until
  where m.message_type <> 'reaction' and m.sender <> 'system'
  window w as (partition by m.conversation_id order by m.id)
),
replies as (
  select
    r.organization_id,
    (r.created_at at time zone r.timezone)::date as date,
    r.sender,
    extract(epoch from r.created_at - coalesce(r.previous_at, e.created_at)) as seconds
  from turns r
  -- The first one of a conversation within these days may answer what was asked before them.
  left join lateral (
    select p.sender, p.created_at
    from public.messages p
    -- Said in here, so that it is looked up for no other.
    where r.previous_sender is null
      and p.conversation_id = r.conversation_id and p.organization_id = r.organization_id and p.id < r.id
      and p.message_type <> 'reaction' and p.sender <> 'system'
    order by p.id desc
    limit 1
  ) e on true
  where r.direction = 'outbound'
    and r.sender in ('ai', 'bot', 'human')
    and coalesce(r.previous_sender, e.sender) = 'contact'
),
response_times as (
  select
    r.organization_id,
    r.date,
    percentile_cont(0.5) within group (order by r.seconds::float8) filter (where r.sender = 'ai') as median_ai,
    percentile_cont(0.95) within group (order by r.seconds::float8) filter (where r.sender = 'ai') as p95_ai,
    percentile_cont(0.5) within group (order by r.seconds::float8) as median_any,
    percentile_cont(0.95) within group (order by r.seconds::float8) as p95_any
  from replies r
  group by 1, 2
),
ai as (
  select
    a.organization_id,
    (a.created_at at time zone t.timezone)::date as date,
    count(*) as ai_interactions,
    round(avg(a.confidence_score), 3) as avg_ai_confidence,
    round(100.0 * count(*) filter (where a.success) / nullif(count(*), 0), 2) as ai_success_rate
  from tenants t
  join public.ai_interactions a on a.organization_id = t.organization_id and a.created_at >= t.since and a.created_at < t.until
  group by 1, 2
)
select
  organization_id,
  date,
  coalesce(v.total_conversations, 0) as total_conversations,
  coalesce(v.resolved_conversations, 0) as resolved_conversations,
  coalesce(v.escalated_conversations, 0) as escalated_conversations,
  coalesce(v.closed_conversations, 0) as closed_conversations,
  round(100.0 * v.resolved_conversations / nullif(v.closed_conversations, 0), 2) as bot_resolution_rate,
  v.avg_satisfaction_score,
  coalesce(m.inbound_messages, 0) as inbound_messages,
  coalesce(m.outbound_messages, 0) as outbound_messages,
  coalesce(m.ai_messages, 0) as ai_messages,
  coalesce(m.bot_messages, 0) as bot_messages,
  coalesce(m.human_messages, 0) as human_messages,
  round(r.median_ai::numeric, 3) as median_ai_response_time_seconds,
  round(r.p95_ai::numeric, 3) as p95_ai_response_time_seconds,
  round(r.median_any::numeric, 3) as median_response_time_seconds,
  round(r.p95_any::numeric, 3) as p95_response_time_seconds,
  coalesce(a.ai_interactions, 0) as ai_interactions,
  a.avg_ai_confidence,
  a.ai_success_rate
from conversations v
full join messages m using (organization_id, date)
full join response_times r using (organization_id, date)
full join ai a using (organization_id, date);

comment on materialized view analytics.conversation_analytics is
  'Conversations and messages by local day, of 400 days: a row for each day on which there was any. Every hour.';
comment on column analytics.conversation_analytics.total_conversations is 'Conversations that began that day; one in which the other side never wrote is none.';
comment on column analytics.conversation_analytics.resolved_conversations is 'Of these, those closed that never waited for a human, and in which none wrote.';
comment on column analytics.conversation_analytics.escalated_conversations is 'Of these, those that have waited for a human.';
comment on column analytics.conversation_analytics.closed_conversations is 'Of these, those closed by now.';
comment on column analytics.conversation_analytics.bot_resolution_rate is 'resolved / closed, per cent.';
comment on column analytics.conversation_analytics.avg_satisfaction_score is 'Mean grade from 1 to 5 of these conversations.';
comment on column analytics.conversation_analytics.inbound_messages is 'Messages that came that day, reactions included.';
comment on column analytics.conversation_analytics.outbound_messages is 'Messages of ours that day, whoever wrote them: the AI, flows, people, and the platform itself (reminders, alerts).';
comment on column analytics.conversation_analytics.ai_messages is 'Of ours, those by the AI.';
comment on column analytics.conversation_analytics.bot_messages is 'Of ours, those by flows.';
comment on column analytics.conversation_analytics.human_messages is 'Of ours, those by people.';
comment on column analytics.conversation_analytics.median_ai_response_time_seconds is
  'From a customer''s message to the AI''s message right after it (reactions and notices looked past).';
comment on column analytics.conversation_analytics.p95_ai_response_time_seconds is 'The same: 95 of 100 came sooner.';
comment on column analytics.conversation_analytics.median_response_time_seconds is 'The same, whoever answered: a flow, the AI, a person.';
comment on column analytics.conversation_analytics.p95_response_time_seconds is 'The same: 95 of 100 came sooner.';
comment on column analytics.conversation_analytics.ai_interactions is 'Calls to a model that day.';
comment on column analytics.conversation_analytics.avg_ai_confidence is 'Their mean confidence_score, from 0 to 1.';
comment on column analytics.conversation_analytics.ai_success_rate is 'Of these calls, those that succeeded, per cent.';
create unique index conversation_analytics_organization_id_date_idx on analytics.conversation_analytics (organization_id, date);

-- consultant_metrics --------------------------------------------------------------------------------------------------

create materialized view analytics.consultant_metrics as
with leads as (
  select l.organization_id, l.id, l.contact_id, l.professional_id, l.status
  from public.leads l
  where not l.over_limit and l.merged_into_id is null
),
counted as (
  select
    l.organization_id,
    l.professional_id,
    count(*) as total_leads,
    count(*) filter (where l.status = 'novo') as leads_novo,
    count(*) filter (where l.status = 'em_contato') as leads_em_contato,
    count(*) filter (where l.status = 'agendado') as leads_agendado,
    count(*) filter (where l.status = 'fechado') as leads_fechado,
    count(*) filter (where l.status = 'perdido') as leads_perdido
  from leads l
  group by 1, 2
),
-- A contact is one lead of a professional at most: so is each of his conversations.
talked as (
  select
    l.organization_id,
    l.professional_id,
    count(*) as total_conversations,
    count(*) filter (where v.status = 'closed') as completed_conversations,
    round(avg(extract(epoch from v.closed_at - v.created_at) / 60) filter (where v.status = 'closed'), 2)
      as avg_conversation_duration_minutes
  from leads l
  join public.conversations v on v.organization_id = l.organization_id and v.contact_id = l.contact_id
  where v.last_inbound_at is not null
  group by 1, 2
),
asked as (
  select
    l.organization_id,
    l.professional_id,
    coalesce(sum(a.tokens_used), 0)::bigint as total_tokens_used,
    round(avg(a.latency_ms), 2) as avg_ai_latency_ms
  from leads l
  join public.ai_interactions a on a.organization_id = l.organization_id and a.lead_id = l.id
  group by 1, 2
),
consultants as (
  select p.organization_id, p.id as professional_id, p.name
  from public.professionals p
  where p.is_active
  union all
  select c.organization_id, null, null
  from counted c
  where c.professional_id is null
)
select
  c.organization_id,
  c.professional_id,
  c.name,
  o.vertical,
  coalesce(n.total_leads, 0) as total_leads,
  coalesce(n.leads_novo, 0) as leads_novo,
  coalesce(n.leads_em_contato, 0) as leads_em_contato,
  coalesce(n.leads_agendado, 0) as leads_agendado,
  coalesce(n.leads_fechado, 0) as leads_fechado,
  coalesce(n.leads_perdido, 0) as leads_perdido,
  round(100.0 * n.leads_fechado / nullif(n.total_leads, 0), 2) as conversion_rate,
  coalesce(t.total_conversations, 0) as total_conversations,
  coalesce(t.completed_conversations, 0) as completed_conversations,
  t.avg_conversation_duration_minutes,
  coalesce(a.total_tokens_used, 0) as total_tokens_used,
  a.avg_ai_latency_ms
from consultants c
join public.organizations o on o.id = c.organization_id
left join counted n on n.organization_id = c.organization_id and n.professional_id is not distinct from c.professional_id
left join talked t on t.organization_id = c.organization_id and t.professional_id is not distinct from c.professional_id
left join asked a on a.organization_id = c.organization_id and a.professional_id is not distinct from c.professional_id;

comment on materialized view analytics.consultant_metrics is
  'Leads and what became of them: a row for each active professional, and one for the leads that are nobody''s. Every hour.';
comment on column analytics.consultant_metrics.professional_id is 'Null: leads that are nobody''s yet.';
comment on column analytics.consultant_metrics.name is 'The professional''s.';
comment on column analytics.consultant_metrics.vertical is 'The organization''s.';
comment on column analytics.consultant_metrics.total_leads is 'His leads, without those that the plan hides and those that a merge set aside.';
comment on column analytics.consultant_metrics.leads_novo is 'Of these, new ones.';
comment on column analytics.consultant_metrics.leads_em_contato is 'Of these, those in contact.';
comment on column analytics.consultant_metrics.leads_agendado is 'Of these, those with an appointment.';
comment on column analytics.consultant_metrics.leads_fechado is 'Of these, those won.';
comment on column analytics.consultant_metrics.leads_perdido is 'Of these, those lost.';
comment on column analytics.consultant_metrics.conversion_rate is 'leads_fechado / total_leads, per cent.';
comment on column analytics.consultant_metrics.total_conversations is 'Conversations of the contacts of these leads in which they wrote.';
comment on column analytics.consultant_metrics.completed_conversations is 'Of these, closed ones.';
comment on column analytics.consultant_metrics.avg_conversation_duration_minutes is 'From beginning to closing, mean of the closed ones.';
comment on column analytics.consultant_metrics.total_tokens_used is 'Tokens of the AI interactions about these leads.';
comment on column analytics.consultant_metrics.avg_ai_latency_ms is 'Mean latency_ms of the same.';
create unique index consultant_metrics_professional_id_idx on analytics.consultant_metrics (organization_id, professional_id)
  nulls not distinct;

-- service_analytics ---------------------------------------------------------------------------------------------------

create materialized view analytics.service_analytics as
with bookings as (
  select
    b.organization_id,
    b.service_id,
    count(*) as total_bookings_90d,
    count(*) filter (where b.status = 'completed') as completed_bookings_90d,
    count(*) filter (where b.status = 'cancelled') as cancelled_bookings_90d,
    count(*) filter (where b.status = 'no_show') as no_show_bookings_90d,
    coalesce(sum(b.price_cents) filter (where b.status = 'completed'), 0)::bigint as revenue_90d_cents,
    round(avg(b.price_cents) filter (where b.status = 'completed'))::bigint as avg_booking_value_cents,
    count(distinct b.contact_id) filter (where b.status <> 'cancelled') as unique_customers_90d,
    count(distinct b.pet_id) filter (where b.status <> 'cancelled') as unique_pets_90d,
    count(*) filter (where b.created_by = 'ai') as ai_created_bookings_90d,
    count(*) filter (where b.created_by = 'ai' and b.status = 'completed') as ai_completed
  from public.organizations o
  cross join lateral (select (now() at time zone o.timezone)::date as local_date) d
  join public.bookings b
    on b.organization_id = o.id and b.booking_date > d.local_date - 90 and b.booking_date <= d.local_date
  where b.status <> 'hold'
  group by 1, 2
)
select
  s.organization_id,
  s.id as service_id,
  s.name as service_name,
  coalesce(b.total_bookings_90d, 0) as total_bookings_90d,
  coalesce(b.completed_bookings_90d, 0) as completed_bookings_90d,
  coalesce(b.cancelled_bookings_90d, 0) as cancelled_bookings_90d,
  coalesce(b.no_show_bookings_90d, 0) as no_show_bookings_90d,
  coalesce(b.revenue_90d_cents, 0) as revenue_90d_cents,
  b.avg_booking_value_cents,
  coalesce(b.unique_customers_90d, 0) as unique_customers_90d,
  coalesce(b.unique_pets_90d, 0) as unique_pets_90d,
  coalesce(b.ai_created_bookings_90d, 0) as ai_created_bookings_90d,
  round(100.0 * b.ai_completed / nullif(b.ai_created_bookings_90d, 0), 2) as ai_booking_completion_rate
from public.services s
left join bookings b on b.organization_id = s.organization_id and b.service_id = s.id;

comment on materialized view analytics.service_analytics is 'How each service did in the last 90 local days, today included. Every night.';
comment on column analytics.service_analytics.total_bookings_90d is 'Appointments of these days, cancelled ones included, held ones not.';
comment on column analytics.service_analytics.completed_bookings_90d is 'Of these, those that took place.';
comment on column analytics.service_analytics.cancelled_bookings_90d is 'Of these, those cancelled.';
comment on column analytics.service_analytics.no_show_bookings_90d is 'Of these, those to which nobody came.';
comment on column analytics.service_analytics.revenue_90d_cents is 'Sum of price_cents of the completed ones.';
comment on column analytics.service_analytics.avg_booking_value_cents is 'Mean price_cents of the completed ones that have a price.';
comment on column analytics.service_analytics.unique_customers_90d is 'Different contacts of those not cancelled.';
comment on column analytics.service_analytics.unique_pets_90d is 'Different animals of those not cancelled.';
comment on column analytics.service_analytics.ai_created_bookings_90d is 'Of all, those that the AI made.';
comment on column analytics.service_analytics.ai_booking_completion_rate is 'Of those that the AI made, those that took place, per cent.';
create unique index service_analytics_service_id_idx on analytics.service_analytics (organization_id, service_id);

-- clinic_metrics_daily ------------------------------------------------------------------------------------------------

create materialized view analytics.clinic_metrics_daily as
select
  b.organization_id,
  b.booking_date as date,
  count(*) as total_appointments,
  count(*) filter (where b.status = 'completed') as completed,
  count(*) filter (where b.status = 'no_show') as no_shows,
  count(*) filter (where b.status = 'cancelled') as cancelled,
  round(100.0 * count(*) filter (where b.status = 'no_show') / nullif(count(*) filter (where b.status in ('completed', 'no_show')), 0), 2) as no_show_rate,
  coalesce(sum(b.price_cents) filter (where b.status = 'completed'), 0)::bigint as revenue_cents,
  round(avg(extract(epoch from b.completed_at - b.start_time) / 60) filter (where b.status = 'completed'), 2) as avg_delay_minutes
from public.organizations o
cross join lateral (select (now() at time zone o.timezone)::date as local_date) d
join public.bookings b
  on b.organization_id = o.id and b.booking_date > d.local_date - 400 and b.booking_date <= d.local_date
where b.status <> 'hold'
group by 1, 2;

comment on materialized view analytics.clinic_metrics_daily is
  'Appointments by local day, of 400 days: a row for each day with any. Every night.';
comment on column analytics.clinic_metrics_daily.total_appointments is 'Cancelled ones included, held ones not.';
comment on column analytics.clinic_metrics_daily.completed is 'Of these, those that took place.';
comment on column analytics.clinic_metrics_daily.no_shows is 'Of these, those to which nobody came.';
comment on column analytics.clinic_metrics_daily.cancelled is 'Of these, those cancelled.';
comment on column analytics.clinic_metrics_daily.no_show_rate is 'no_shows / (completed + no_shows), per cent.';
comment on column analytics.clinic_metrics_daily.revenue_cents is 'Sum of price_cents of the completed ones.';
comment on column analytics.clinic_metrics_daily.avg_delay_minutes is 'From the appointed beginning until it was marked as completed, mean.';
create unique index clinic_metrics_daily_organization_id_date_idx on analytics.clinic_metrics_daily (organization_id, date);

-- daily_lead_stats ----------------------------------------------------------------------------------------------------

create materialized view analytics.daily_lead_stats as
with tenants as materialized (
  select
    o.id as organization_id,
    o.timezone,
    private.day_start(d.local_date - 399, o.timezone) as since,
    private.day_start(d.local_date + 1, o.timezone) as until
  from public.organizations o
  cross join lateral (select (now() at time zone o.timezone)::date as local_date) d
)
select
  l.organization_id,
  l.professional_id,
  (l.created_at at time zone t.timezone)::date as date,
  count(*) as leads_created,
  count(*) filter (where l.status = 'fechado') as leads_closed,
  round(100.0 * count(*) filter (where l.status = 'fechado') / nullif(count(*), 0), 2) as conversion_rate
from tenants t
join public.leads l on l.organization_id = t.organization_id and l.created_at >= t.since and l.created_at < t.until
where not l.over_limit and l.merged_into_id is null
group by 1, 2, 3;

comment on materialized view analytics.daily_lead_stats is
  'Leads by the local day on which they came and by professional, of 400 days: a row for each day with any. Every night.';
comment on column analytics.daily_lead_stats.professional_id is 'Null: leads that are nobody''s yet.';
comment on column analytics.daily_lead_stats.leads_created is 'Leads that came that day, without those that the plan hides and those that a merge set aside.';
comment on column analytics.daily_lead_stats.leads_closed is 'Of these, those won by now.';
comment on column analytics.daily_lead_stats.conversion_rate is 'leads_closed / leads_created, per cent.';
create unique index daily_lead_stats_professional_id_date_idx on analytics.daily_lead_stats (organization_id, date, professional_id)
  nulls not distinct;

revoke all on all tables in schema analytics from public, anon, authenticated, service_role;

-- Who reads them ------------------------------------------------------------------------------------------------------
-- A function for each: one that took the view's name would be dynamic SQL with a row type of its own.

create function private.dashboard_metrics_rows()
returns setof analytics.dashboard_metrics
language plpgsql
stable
security definer -- nobody else may read "analytics"
set search_path = ''
as $$
declare
  readable constant uuid[] := private.member_organizations('viewer');
begin
  if private.is_service() then
    return query select v.* from analytics.dashboard_metrics v;
    return;
  end if;
  return query
  select v.*
  from analytics.dashboard_metrics v
  where v.organization_id = any (readable);
end;
$$;
comment on function private.dashboard_metrics_rows() is 'See public.dashboard_metrics.';
grant execute on function private.dashboard_metrics_rows() to authenticated, service_role;

create view public.dashboard_metrics with (security_invoker = true) as
select * from private.dashboard_metrics_rows();
comment on view public.dashboard_metrics is
  'The figures of today, this week and this month of the caller''s organizations, not older than five minutes (calculated_at). Viewers and up.';
revoke all on public.dashboard_metrics from public, anon, authenticated, service_role;
grant select on public.dashboard_metrics to authenticated, service_role;

create function private.conversation_analytics_rows()
returns setof analytics.conversation_analytics
language plpgsql
stable
security definer -- nobody else may read "analytics"
set search_path = ''
as $$
declare
  readable constant uuid[] := private.member_organizations('viewer');
begin
  if private.is_service() then
    return query select v.* from analytics.conversation_analytics v;
    return;
  end if;
  return query
  select v.*
  from analytics.conversation_analytics v
  where v.organization_id = any (readable);
end;
$$;
comment on function private.conversation_analytics_rows() is 'See public.conversation_analytics.';
grant execute on function private.conversation_analytics_rows() to authenticated, service_role;

create view public.conversation_analytics with (security_invoker = true) as
select * from private.conversation_analytics_rows();
comment on view public.conversation_analytics is
  'Conversations and messages by local day, of 400 days, counted every hour. Viewers and up.';
revoke all on public.conversation_analytics from public, anon, authenticated, service_role;
grant select on public.conversation_analytics to authenticated, service_role;

create function private.consultant_metrics_rows()
returns setof analytics.consultant_metrics
language plpgsql
stable
security definer -- nobody else may read "analytics"
set search_path = ''
as $$
declare
  member_of constant uuid[] := private.member_organizations('viewer');
  readable constant uuid[] := private.organizations_with_all_leads();
begin
  if private.is_service() then
    return query select v.* from analytics.consultant_metrics v;
    return;
  end if;
  return query
  select v.*
  from analytics.consultant_metrics v
  where v.organization_id = any (readable)
    or v.organization_id = any (member_of)
      and (v.organization_id, v.professional_id) in (select p.organization_id, p.professional_id from private.own_professionals() p);
end;
$$;
comment on function private.consultant_metrics_rows() is 'See public.consultant_metrics.';
grant execute on function private.consultant_metrics_rows() to authenticated, service_role;

create view public.consultant_metrics with (security_invoker = true) as
select * from private.consultant_metrics_rows();
comment on view public.consultant_metrics is
  'Leads and what became of them by professional, counted every hour. Who may see all leads reads all rows, others the professional that they are.';
revoke all on public.consultant_metrics from public, anon, authenticated, service_role;
grant select on public.consultant_metrics to authenticated, service_role;

create function private.service_analytics_rows()
returns setof analytics.service_analytics
language plpgsql
stable
security definer -- nobody else may read "analytics"
set search_path = ''
as $$
declare
  readable constant uuid[] := private.member_organizations('viewer');
begin
  if private.is_service() then
    return query select v.* from analytics.service_analytics v;
    return;
  end if;
  return query
  select v.*
  from analytics.service_analytics v
  where v.organization_id = any (readable);
end;
$$;
comment on function private.service_analytics_rows() is 'See public.service_analytics.';
grant execute on function private.service_analytics_rows() to authenticated, service_role;

create view public.service_analytics with (security_invoker = true) as
select * from private.service_analytics_rows();
comment on view public.service_analytics is
  'How each service did in the last 90 days, counted every night. Viewers and up.';
revoke all on public.service_analytics from public, anon, authenticated, service_role;
grant select on public.service_analytics to authenticated, service_role;

create function private.clinic_metrics_daily_rows()
returns setof analytics.clinic_metrics_daily
language plpgsql
stable
security definer -- nobody else may read "analytics"
set search_path = ''
as $$
declare
  readable constant uuid[] := private.member_organizations('viewer');
begin
  if private.is_service() then
    return query select v.* from analytics.clinic_metrics_daily v;
    return;
  end if;
  return query
  select v.*
  from analytics.clinic_metrics_daily v
  where v.organization_id = any (readable);
end;
$$;
comment on function private.clinic_metrics_daily_rows() is 'See public.clinic_metrics_daily.';
grant execute on function private.clinic_metrics_daily_rows() to authenticated, service_role;

create view public.clinic_metrics_daily with (security_invoker = true) as
select * from private.clinic_metrics_daily_rows();
comment on view public.clinic_metrics_daily is
  'Appointments by local day, of 400 days, counted every night. Viewers and up.';
revoke all on public.clinic_metrics_daily from public, anon, authenticated, service_role;
grant select on public.clinic_metrics_daily to authenticated, service_role;

create function private.daily_lead_stats_rows()
returns setof analytics.daily_lead_stats
language plpgsql
stable
security definer -- nobody else may read "analytics"
set search_path = ''
as $$
declare
  member_of constant uuid[] := private.member_organizations('viewer');
  readable constant uuid[] := private.organizations_with_all_leads();
begin
  if private.is_service() then
    return query select v.* from analytics.daily_lead_stats v;
    return;
  end if;
  return query
  select v.*
  from analytics.daily_lead_stats v
  where v.organization_id = any (readable)
    or v.organization_id = any (member_of)
      and (v.organization_id, v.professional_id) in (select p.organization_id, p.professional_id from private.own_professionals() p);
end;
$$;
comment on function private.daily_lead_stats_rows() is 'See public.daily_lead_stats.';
grant execute on function private.daily_lead_stats_rows() to authenticated, service_role;

create view public.daily_lead_stats with (security_invoker = true) as
select * from private.daily_lead_stats_rows();
comment on view public.daily_lead_stats is
  'Leads by the local day on which they came and by professional, of 400 days, counted every night. Who may see all leads reads all rows, others the professional that they are.';
revoke all on public.daily_lead_stats from public, anon, authenticated, service_role;
grant select on public.daily_lead_stats to authenticated, service_role;

-- The columns mean the same there: what reads the API's description finds it.
do $$
declare
  described record;
begin
  for described in
    select c.relname, a.attname, d.description
    from pg_catalog.pg_class c
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0
    join pg_catalog.pg_description d on d.objoid = c.oid and d.objsubid = a.attnum and d.classoid = 'pg_catalog.pg_class'::regclass
    where c.relnamespace = 'analytics'::regnamespace and c.relkind = 'm'
  loop
    execute format('comment on column public.%I.%I is %L', described.relname, described.attname, described.description);
  end loop;
end;
$$;
