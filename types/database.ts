// The generated Database with its JSON columns and answers typed.

import type { Database as Generated, Json } from './database.types.ts'
import type { FlowDefinition } from './flow-definition.ts'
import type { AlertCheck, SystemHealth } from './health.ts'
import type {
  Address,
  AlertTelling,
  FreeObject,
  MessageMedia,
  MessageMetadata,
  OperatingHours,
  QuietHours,
  RetentionOverrides,
  Utm,
} from './json.ts'
import type { OutboundPayload } from './outbound.ts'
import type { WebhookEvent, WebhookEventType } from './webhook-events.ts'

export type { Json }

interface JsonColumns {
  ai_interactions: { compliance_flags: string[] }
  analytics_events: { properties: FreeObject }
  api_call_logs: { request_data: FreeObject; response_data: FreeObject }
  backup_metadata: { row_counts: Record<string, number> }
  bookings: { metadata: FreeObject }
  contacts: { address: Address; preferences: FreeObject; metadata: FreeObject }
  conversations: { metadata: FreeObject }
  flow_sessions: { state: FreeObject }
  flow_templates: { definition: FlowDefinition }
  flow_versions: { definition: FlowDefinition }
  flows: { definition: FlowDefinition }
  leads: { respostas: FreeObject; utm: Utm; metadata: FreeObject }
  locations: { address: Address; operating_hours: OperatingHours }
  message_queue: { payload: FreeObject }
  messages: { media: MessageMedia; payload: OutboundPayload; metadata: MessageMetadata }
  organization_settings: {
    operating_hours: OperatingHours
    ai_config: FreeObject
    aurora_config: FreeObject
    contextualization_json: FreeObject
    quiet_hours: QuietHours
    retention_overrides: RetentionOverrides
  }
  organizations: { metadata: FreeObject }
  system_alerts: { detail: FreeObject; tellings: AlertTelling[] }
  webhook_deliveries: { event_type: WebhookEventType; payload: WebhookEvent }
  webhook_endpoints: { event_types: WebhookEventType[] }
  webhook_events: { payload: FreeObject; headers: Record<string, string> }
  whatsapp_instances: { metadata: FreeObject }
}

/** What ingest_webhook counted in one delivery. */
export interface IngestSummary {
  events: number
  messages: number
  duplicates: number
  statuses: number
  updates: number
  parked: number
  unrouted: number
  unknown: number
  /** For the worker, which then wants to be woken. */
  jobs: number
}

/** All that is known of a person: see docs/privacy.md. */
export interface ContactExport {
  format: 'balcao.contact/1'
  exported_at: string
  organization_id: string
  contact_id: string
  /** The contact, and those that were merged into it. */
  contact_ids: string[]
  /** By the name of the table; rows as they are, without organization_id. */
  tables: Record<string, FreeObject[]>
  files: { bucket: 'media'; path: string; message_id: string; filename: string | null; mime_type: string | null }[]
}

/** Somebody who was erased. */
export interface Erasure {
  erasure_id: string
  contact_id: string
  contact_ids: string[]
  erased_at: string
  /** Null while the logs and Storage are searched. */
  completed_at: string | null
  /** How many of each table; of logs, as they are found. */
  rows: Record<string, number>
}

/** The ids that prove that a worker holds a job; an array of them for the batch forms. */
export interface HeldJob {
  organization_id: string
  id: string
  fencing_token: number
}

/** A begin_… function ended the job itself. */
interface JobDone {
  action: 'done'
  reason: string
}

interface InstanceOfJob {
  id: string
  external_id: string
  provider: Generated['public']['Enums']['whatsapp_provider']
}

export interface SendOrder {
  action: 'send'
  attempt: number
  message: Pick<
    TypedTables['messages']['Row'],
    'id' | 'message_type' | 'content' | 'payload' | 'reply_to_whatsapp_message_id'
  >
  recipient: { kind: Generated['public']['Enums']['identity_kind']; value: string }
  instance: InstanceOfJob
  access_token: string
}

export interface FetchOrder {
  action: 'fetch'
  message_id: string
  message_type: Generated['public']['Enums']['message_type']
  media: MessageMedia
  path_prefix: string
  instance: InstanceOfJob
  access_token: string
}

export interface DeliveryOrder {
  action: 'deliver'
  delivery: Pick<TypedTables['webhook_deliveries']['Row'], 'id' | 'event_id' | 'event_type' | 'attempts' | 'created_at'>
  url: string
  payload: WebhookEvent
  secrets: string[]
}

export interface ReplayOrder {
  action: 'replay'
  provider: Generated['public']['Enums']['whatsapp_provider']
  app_key: string
  external_id: string | null
  event_type: string
  payload: FreeObject
  headers: Record<string, string>
  signature: string | null
  received_at: string
}

/** What a conversation's flow goes on with: the worker's engine knows the rest (functions/queue-worker/flow). */
export interface FlowTurnOrder {
  action: 'turn'
  session: Pick<
    TypedTables['flow_sessions']['Row'],
    'id' | 'version' | 'flow_id' | 'flow_version' | 'current_step' | 'state' | 'status'
  >
  definition: FlowDefinition
  inputs: FreeObject[]
  context: FreeObject
}

/** A professional's public page. */
export interface PublicProfile {
  slug: string
  name: string
  kind: Generated['public']['Enums']['professional_kind']
  vertical: Generated['public']['Enums']['business_vertical']
  bio: string | null
  crm_number: string | null
  whatsapp_number: string | null
  profile_image_url: string | null
  organization: { name: string; slug: string }
  location: { name: string; address: Address; phone_number: string | null } | null
  services: Pick<
    TypedTables['services']['Row'],
    'name' | 'category' | 'description' | 'price_cents' | 'duration_minutes'
  >[]
}

/** How two texts do; p_value is null while there is nothing to compare. */
export interface AbTestResults {
  ab_test_id: string
  name: string
  a: AbTestVariantResults
  b: AbTestVariantResults
  z: number | null
  p_value: number | null
}
interface AbTestVariantResults {
  assigned: number
  converted: number
  rate: number | null
}

/** How much of the month's plan is used; `over_limit` leads wait for an upgrade. */
export interface LeadUsage {
  plan_type: Generated['public']['Enums']['plan_type']
  /** The first day of the month, in the organization's time zone. */
  month: string
  leads_per_month: number
  used: number
  over_limit: number
}

/** A free slot. `professional_id` is null where a service is bounded by its capacity; `timezone` is the one to show it in. */
export interface AvailableSlot {
  start_time: string
  end_time: string
  professional_id: string | null
  professional_name: string | null
  location_id: string | null
  timezone: string
  seats_left: number
}

/** A message that a search found. */
export interface MessageMatch
  extends
    Pick<
      TypedTables['messages']['Row'],
      | 'id'
      | 'conversation_id'
      | 'contact_id'
      | 'instance_id'
      | 'direction'
      | 'sender'
      | 'sender_user_id'
      | 'message_type'
      | 'created_at'
    > {
  contact_name: string | null
  /** Plain text: show the pieces one after the other, each as text, those with `match` highlighted. */
  excerpt: { text: string; match: boolean }[]
  rank: number
  /** For `before` of the next page. */
  cursor: string
}

/** A row of an inbox list. */
export type InboxRow = Required<GeneratedViews['conversation_dashboard']['Row']> & {
  [K in InboxFact]: NonNullable<GeneratedViews['conversation_dashboard']['Row'][K]>
} & { controlled_by: 'bot' | 'human' | 'nobody' }
type InboxFact =
  | 'organization_id'
  | 'id'
  | 'contact_id'
  | 'instance_id'
  | 'instance_name'
  | 'status'
  | 'is_open'
  | 'priority'
  | 'is_bot_controlled'
  | 'control_epoch'
  | 'unread_count'
  | 'created_at'

/** An organization as it is this moment. */
export interface OrganizationStats {
  total_contacts: number
  total_pets: number
  total_bookings: number
  active_conversations: number
  messages_today: number
  bookings_today: number
  revenue_this_month_cents: number
}

/** What came of refresh_analytics_view(). */
export type AnalyticsRefresh =
  | { view_name: string; refreshed: true; duration_ms: number; row_count: number; error: null }
  | { view_name: string; refreshed: false; duration_ms: number; row_count: null; error: string }
  | { view_name: string; refreshed: false; reason: 'already_running' }

/** Of a view Postgres does not know what is never null: these are what may be. */
interface NullableColumns {
  audit_trail: 'user_id' | 'table_name' | 'record_id' | 'request_id' | 'old_values' | 'new_values' | 'ip_address' | 'user_agent'
  clinic_metrics_daily: 'avg_delay_minutes' | 'no_show_rate'
  consultant_metrics:
    | 'professional_id'
    | 'name'
    | 'conversion_rate'
    | 'avg_conversation_duration_minutes'
    | 'avg_ai_latency_ms'
  conversation_analytics:
    | 'bot_resolution_rate'
    | 'avg_satisfaction_score'
    | 'median_ai_response_time_seconds'
    | 'p95_ai_response_time_seconds'
    | 'median_response_time_seconds'
    | 'p95_response_time_seconds'
    | 'avg_ai_confidence'
    | 'ai_success_rate'
  daily_lead_stats: 'professional_id' | 'conversion_rate'
  dashboard_metrics: 'no_show_rate_this_month' | 'avg_ai_confidence_7d'
  service_analytics: 'avg_booking_value_cents' | 'ai_booking_completion_rate'
}

/** What verify_audit_chain() found. */
export type AuditVerdict =
  | {
    is_intact: true
    seals: number
    rows: number
    /** Seals whose rows retention has taken, or is about to. */
    past_retention: number
    /** Written in the last minute: not verified yet. */
    unsealed: number
    /** To be kept where nobody of this database reaches. */
    head: { number: number | null; hash: string | null }
  }
  | {
    is_intact: false
    first_broken: { number: number; reason: AuditBreak; sealed_at: string | null }
    /** Whole before it. */
    seals: number
    rows: number
  }
export type AuditBreak =
  | 'seal_missing'
  | 'chain_broken'
  | 'gap'
  | 'seal_changed'
  | 'rows_deleted'
  | 'rows_inserted'
  | 'rows_changed'
  | 'values_changed'
  | 'values_inserted'

/** What came of run_schedule(). */
export type ScheduleRun =
  | { ran: false; reason: 'already_running' | 'not_due' | 'nothing_to_do' }
  | {
    ran: true
    run_id: string
    kind: 'sql' | 'function'
    function_name: string | null
    result: Json | null
    error: string | null
    duration_ms: number | null
  }

export interface InstanceAnswer {
  instance: Omit<GeneratedTables['whatsapp_instances']['Row'], 'meta_app_key'>
  app_key: string | null
}

export type ApiKey = GeneratedTables['api_keys']['Row'] & {
  /** Shown this once. */
  key: string
}

export type Invitation = GeneratedTables['organization_invitations']['Row'] & {
  /** Shown this once. */
  token: string
}

type Row<Name extends keyof TypedTables> = TypedTables[Name]['Row']

interface JsonAnswers {
  claim_jobs: Row<'message_queue'>[]
  complete_job: Row<'message_queue'>
  create_api_key: ApiKey
  create_webhook_endpoint: Row<'webhook_endpoints'>
  delete_webhook_endpoint: Row<'webhook_endpoints'>
  enqueue_job: Row<'message_queue'>
  extend_lease: Row<'message_queue'>
  fail_job: Row<'message_queue'>
  postpone_job: Row<'message_queue'>
  process_pending_queue_jobs: Row<'message_queue'>[]
  redeliver: Row<'webhook_deliveries'>
  revoke_api_key: Row<'api_keys'>
  redrive_job: Row<'message_queue'>
  replay_webhook_event: Row<'webhook_events'>
  retry_message: Row<'messages'>
  send_message: Row<'messages'>
  test_webhook_endpoint: Row<'webhook_deliveries'>
  update_webhook_endpoint: Row<'webhook_endpoints'>
  accept_waiting_list_offer: Row<'bookings'>
  assign_conversation: Row<'conversations'>
  close_conversation: Row<'conversations'>
  mark_conversation_read: Row<'conversations'>
  release_to_bot: Row<'conversations'>
  reopen_conversation: Row<'conversations'>
  search_messages: MessageMatch[]
  set_conversation_priority: Row<'conversations'>
  take_over_conversation: Row<'conversations'>
  transfer_conversation: Row<'conversations'>
  cancel_booking: Row<'bookings'>
  complete_booking: Row<'bookings'>
  confirm_booking: Row<'bookings'>
  create_booking: Row<'bookings'>
  create_flow_from_template: Row<'flows'>
  create_lead: Row<'leads'>
  create_backup: Row<'backup_metadata'>
  finish_backup: Row<'backup_metadata'>
  list_backups: Row<'backup_metadata'>[]
  hold_slot: Row<'bookings'>
  join_waiting_list: Row<'waiting_list'>
  leave_waiting_list: Row<'waiting_list'>
  mark_no_show: Row<'bookings'>
  merge_contacts: Row<'contact_merges'>
  reschedule_booking: Row<'bookings'>
  set_plan: Row<'organizations'>
  start_flow: Row<'flow_sessions'>
  undo_merge: Row<'contact_merges'>
  open_data_subject_request: Row<'data_subject_requests'>
  update_data_subject_request: Row<'data_subject_requests'>
  export_contact_data: ContactExport
  erase_contact: Erasure
  list_erasures: Erasure[]
  continue_erasure: { action: 'again' } | { action: 'remove'; bucket: string; paths: string[] } | JobDone
  answer_notification: JobDone
  cancel_followup: Row<'scheduled_followups'>
  cancel_notification: Row<'notifications'>
  get_ab_test_results: AbTestResults
  record_ab_test_conversion: Row<'ab_test_assignments'>
  schedule_followup: Row<'scheduled_followups'>
  send_notification: JobDone
  check_alerts: AlertCheck
  system_health: SystemHealth
  get_available_slots: AvailableSlot[]
  get_flow_facts: { kind: string } & FreeObject
  get_lead_usage: LeadUsage
  get_organization_stats: OrganizationStats
  refresh_analytics_view: AnalyticsRefresh
  refresh_analytics_views: AnalyticsRefresh[]
  track_event: Row<'analytics_events'>
  get_public_profile: PublicProfile | null
  begin_delivery: DeliveryOrder | JobDone
  begin_flow_turn: FlowTurnOrder | JobDone
  begin_media_fetch: FetchOrder | JobDone
  begin_replay: ReplayOrder | JobDone
  begin_send: SendOrder | JobDone
  finish_delivery: JobDone
  finish_flow_turn:
    | JobDone
    | { action: 'again'; reason: 'new_messages' | 'session_moved_on' }
    | { action: 'refused'; action_index: number; error: string; detail: FreeObject }
  finish_media_fetch: JobDone
  finish_replay: IngestSummary
  finish_send: JobDone
  get_instance_credentials: { external_id: string; provider: InstanceOfJob['provider']; access_token: string }
  run_schedule: ScheduleRun
  verify_audit_chain: AuditVerdict
  connect_instance: InstanceAnswer
  update_instance: InstanceAnswer
  disconnect_instance: InstanceAnswer
  get_meta_app: { app_key: string; organization_id: string | null; app_secret: string; verify_token: string } | null
  ingest_webhook: IngestSummary
  invite_member: Omit<Invitation, 'token_hash'>
  register_platform_meta_app: { app_key: string }
}

type GeneratedTables = Generated['public']['Tables']
type GeneratedFunctions = Generated['public']['Functions']
type GeneratedViews = Generated['public']['Views']

type Retyped<Row, Columns> = {
  [K in keyof Row]: K extends keyof Columns ? Columns[K] | Extract<Row[K], null | undefined> : Row[K]
}

type TypedTables = {
  [Name in keyof GeneratedTables]: Name extends keyof JsonColumns ?
      & Omit<GeneratedTables[Name], 'Row' | 'Insert' | 'Update'>
      & {
        Row: Retyped<GeneratedTables[Name]['Row'], JsonColumns[Name]>
        Insert: Retyped<GeneratedTables[Name]['Insert'], JsonColumns[Name]>
        Update: Retyped<GeneratedTables[Name]['Update'], JsonColumns[Name]>
      }
    : GeneratedTables[Name]
}

type TypedFunctions = {
  [Name in keyof GeneratedFunctions]: Name extends keyof JsonAnswers
    ? Omit<GeneratedFunctions[Name], 'Returns'> & { Returns: JsonAnswers[Name] }
    : GeneratedFunctions[Name]
}

type TypedViews = {
  [Name in keyof GeneratedViews]: Omit<GeneratedViews[Name], 'Row'> & {
    Row: Name extends keyof NullableColumns ? NotNull<GeneratedViews[Name]['Row'], NullableColumns[Name]> : InboxRow
  }
}

type NotNull<Row, Nullable> = {
  [Column in keyof Row]: Column extends Nullable ? Row[Column] : NonNullable<Row[Column]>
}

export type Database = Omit<Generated, 'public'> & {
  public: Omit<Generated['public'], 'Tables' | 'Views' | 'Functions'> & {
    Tables: TypedTables
    Views: TypedViews
    Functions: TypedFunctions
  }
}

export type TableName = keyof TypedTables
export type ViewName = keyof TypedViews
export type Tables<Name extends TableName | ViewName> = (TypedTables & TypedViews)[Name]['Row']
export type TablesInsert<Name extends TableName> = TypedTables[Name]['Insert']
export type TablesUpdate<Name extends TableName> = TypedTables[Name]['Update']
export type Enums<Name extends keyof Generated['public']['Enums']> = Generated['public']['Enums'][Name]
export type FunctionName = keyof TypedFunctions
export type FunctionArgs<Name extends FunctionName> = TypedFunctions[Name]['Args']
