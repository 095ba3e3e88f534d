// The generated Database with its JSON columns and answers typed.

import type { Database as Generated, Json } from './database.types.ts'
import type {
  Address,
  FreeObject,
  MessageMedia,
  MessageMetadata,
  OperatingHours,
  QuietHours,
  RetentionOverrides,
} from './json.ts'

export type { Json }

interface JsonColumns {
  contacts: { address: Address; preferences: FreeObject; metadata: FreeObject }
  conversations: { metadata: FreeObject }
  locations: { address: Address; operating_hours: OperatingHours }
  messages: { media: MessageMedia; metadata: MessageMetadata }
  organization_settings: {
    operating_hours: OperatingHours
    ai_config: FreeObject
    aurora_config: FreeObject
    contextualization_json: FreeObject
    quiet_hours: QuietHours
    retention_overrides: RetentionOverrides
  }
  organizations: { metadata: FreeObject }
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
}

export interface InstanceAnswer {
  instance: Omit<GeneratedTables['whatsapp_instances']['Row'], 'meta_app_key'>
  app_key: string | null
}

export type Invitation = GeneratedTables['organization_invitations']['Row'] & {
  /** Shown this once. */
  token: string
}

interface JsonAnswers {
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

export type Database = Omit<Generated, 'public'> & {
  public: Omit<Generated['public'], 'Tables' | 'Functions'> & { Tables: TypedTables; Functions: TypedFunctions }
}

export type TableName = keyof TypedTables
export type Tables<Name extends TableName> = TypedTables[Name]['Row']
export type TablesInsert<Name extends TableName> = TypedTables[Name]['Insert']
export type TablesUpdate<Name extends TableName> = TypedTables[Name]['Update']
export type Enums<Name extends keyof Generated['public']['Enums']> = Generated['public']['Enums'][Name]
export type FunctionName = keyof TypedFunctions
export type FunctionArgs<Name extends FunctionName> = TypedFunctions[Name]['Args']
