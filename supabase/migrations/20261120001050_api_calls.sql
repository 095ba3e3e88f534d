-- Calls to others: what we asked of a provider or a receiver, and what came back.
--
-- A log by month, written in the transaction that acts on the answer. The callers redact: no token, no message text,
-- no full phone number ever comes here (functions/_shared/redact.ts).

create table public.api_call_logs (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  service text not null,
  endpoint text not null,
  method text not null,
  request_data jsonb not null default '{}',
  response_data jsonb,
  status_code int,
  response_time_ms int not null,
  success boolean not null,
  job_id uuid,
  created_at timestamptz not null default now(),
  constraint api_call_logs_pkey primary key (organization_id, id, created_at),
  constraint api_call_logs_request_data_is_object_check check (jsonb_typeof(request_data) = 'object'),
  constraint api_call_logs_response_data_is_object_check check (jsonb_typeof(response_data) = 'object')
) partition by range (created_at);
comment on table public.api_call_logs is
  'Every call to an outside service, redacted. Partitioned by month. No foreign keys: a log outlives what it speaks of.';
comment on column public.api_call_logs.service is 'meta_graph, webhook, …: free text, because services come and go.';
comment on column public.api_call_logs.status_code is 'HTTP status; null: there was no answer.';
comment on column public.api_call_logs.job_id is 'The job of message_queue that made the call.';
create index api_call_logs_organization_id_created_at_idx on public.api_call_logs (organization_id, created_at desc);
comment on index public.api_call_logs_organization_id_created_at_idx is 'What was called lately, for an administrator; and retention.';

alter table public.api_call_logs enable row level security;
alter table public.api_call_logs force row level security;
create policy "Admins can read their organization's api calls" on public.api_call_logs
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('admin'))::uuid[]));
revoke all on public.api_call_logs from public, anon, authenticated, service_role;
grant select on public.api_call_logs to authenticated;
grant select, insert, update, delete on public.api_call_logs to service_role;

create table partitions.api_call_logs_default partition of public.api_call_logs default;
comment on table partitions.api_call_logs_default is 'Must stay empty: catches what no month took, so that nothing is lost.';
alter table partitions.api_call_logs_default enable row level security;
alter table partitions.api_call_logs_default force row level security;
revoke all on partitions.api_call_logs_default from public, anon, authenticated, service_role;

select private.maintain_partitions();

create function private.log_api_calls(job public.message_queue, calls jsonb)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  insert into public.api_call_logs (
    organization_id, service, endpoint, method, request_data, response_data, status_code, response_time_ms, success, job_id
  )
  select
    -- An answer is not lost for what its log lacks.
    job.organization_id, coalesce(c.service, 'unknown'), coalesce(c.endpoint, ''), coalesce(c.method, ''),
    case jsonb_typeof(c.request_data) when 'object' then c.request_data else '{}' end,
    case jsonb_typeof(c.response_data) when 'object' then c.response_data end,
    c.status_code, coalesce(c.response_time_ms, 0), coalesce(c.success, false), job.id
  -- A job may have ended without a call.
  from jsonb_to_recordset(jsonb_path_query_array(coalesce(calls, '[]'), '$[*] ? (@.type() == "object")')) as c (
    service text, endpoint text, method text, request_data jsonb, response_data jsonb, status_code int,
    response_time_ms int, success boolean
  );
end;
$$;
comment on function private.log_api_calls(public.message_queue, jsonb) is 'Logs the calls that a job made: [{service, endpoint, method, request_data, response_data, status_code, response_time_ms, success}].';
