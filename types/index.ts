// What a client app imports: the database's types, the shapes of its JSON, its errors, and a client of one tenant.
// Runs in browsers, Node and Deno.

export type {
  AbTestResults,
  AnalyticsRefresh,
  ApiKey,
  AuditBreak,
  AuditVerdict,
  AvailableSlot,
  ContactExport,
  Database,
  Enums,
  Erasure,
  FunctionArgs,
  FunctionName,
  InboxRow,
  IngestSummary,
  InstanceAnswer,
  Invitation,
  Json,
  LeadUsage,
  MessageMatch,
  OrganizationStats,
  PublicProfile,
  TableName,
  Tables,
  TablesInsert,
  TablesUpdate,
  ViewName,
} from './database.ts'
export { Constants } from './database.types.ts'
export { businessError, businessErrors } from './errors.ts'
export type { BusinessError, BusinessErrorCode, BusinessErrorName } from './errors.ts'
export * from './flow-definition.ts'
export { findProblems, flowProblemNames } from './flow-problems.ts'
export type { FlowProblem, FlowProblemName } from './flow-problems.ts'
export type { AlertCheck, SystemHealth } from './health.ts'
export * from './json.ts'
export * from './outbound.ts'
export { createTenantClient, tenantClient } from './tenant-client.ts'
export type { TenantClient } from './tenant-client.ts'
export { webhookEvent, webhookEventTypes } from './webhook-events.ts'
export type { WebhookEvent, WebhookEventType } from './webhook-events.ts'
