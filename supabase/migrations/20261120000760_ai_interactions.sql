-- AI interactions: what a model was asked, what it answered, how long it took and what it cost.

create table public.ai_interactions (
  organization_id uuid not null default public.user_organization_id(),
  id uuid not null default private.uuid_v7(),
  conversation_id uuid,
  lead_id uuid,
  message_id uuid,
  action_type text not null,
  prompt text not null,
  response text,
  model text not null,
  tokens_used int,
  latency_ms int,
  confidence_score numeric(4, 3),
  was_cached boolean not null default false,
  compliance_check_passed boolean,
  compliance_flags jsonb not null default '[]',
  success boolean not null default true,
  error text,
  created_at timestamptz not null default now(),
  constraint ai_interactions_pkey primary key (organization_id, id),
  constraint ai_interactions_organization_id_fkey foreign key (organization_id) references public.organizations (id),
  constraint ai_interactions_conversation_id_fkey foreign key (organization_id, conversation_id)
    references public.conversations (organization_id, id) on delete set null (conversation_id),
  constraint ai_interactions_lead_id_fkey foreign key (organization_id, lead_id)
    references public.leads (organization_id, id) on delete set null (lead_id),
  constraint ai_interactions_message_id_fkey foreign key (organization_id, message_id)
    references public.messages (organization_id, id) on delete set null (message_id),
  constraint ai_interactions_action_type_format_check check (action_type ~ '^[a-z][a-z0-9_]{0,62}$'),
  constraint ai_interactions_model_length_check check (length(model) between 1 and 200),
  constraint ai_interactions_tokens_used_is_not_negative_check check (tokens_used >= 0),
  constraint ai_interactions_latency_ms_is_not_negative_check check (latency_ms >= 0),
  constraint ai_interactions_confidence_score_check check (confidence_score between 0 and 1),
  constraint ai_interactions_compliance_flags_is_array_check check (jsonb_typeof(compliance_flags) = 'array'),
  constraint ai_interactions_error_check check (error is null or not success)
);
comment on table public.ai_interactions is
  'Every call to a model: for looking up why it said what it said, and for its cost. Written by the AI agent, with the secret key.';
comment on column public.ai_interactions.message_id is 'The reply that came of it.';
comment on column public.ai_interactions.action_type is 'What the model was called for, or decided: reply, book, hand_over, …';
comment on column public.ai_interactions.tokens_used is 'Of prompt and response together, as the provider counts them; null: it did not say.';
comment on column public.ai_interactions.confidence_score is 'From 0 to 1; null: none was asked for.';
comment on column public.ai_interactions.was_cached is 'Answered from our own memory, at no cost.';
comment on column public.ai_interactions.compliance_check_passed is 'Whether the answer might be said; null: it was not checked.';
comment on column public.ai_interactions.compliance_flags is 'What the check found: names of rules.';
create index ai_interactions_created_at_idx on public.ai_interactions (organization_id, created_at desc);
comment on index public.ai_interactions_created_at_idx is 'The newest calls; confidence and count of the last seven days.';
create index ai_interactions_conversation_id_idx on public.ai_interactions (organization_id, conversation_id)
  where conversation_id is not null;
create index ai_interactions_lead_id_idx on public.ai_interactions (organization_id, lead_id) where lead_id is not null;
create index ai_interactions_message_id_idx on public.ai_interactions (organization_id, message_id) where message_id is not null;

alter table public.ai_interactions enable row level security;
alter table public.ai_interactions force row level security;
create policy "Attendants can read their organization's AI interactions" on public.ai_interactions
  for select to authenticated
  using (organization_id = any ((select private.member_organizations('attendant'))::uuid[]));
revoke all on public.ai_interactions from public, anon, authenticated, service_role;
grant select on public.ai_interactions to authenticated;
grant select, insert, update, delete on public.ai_interactions to service_role;
