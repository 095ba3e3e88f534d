// The sources' TenantAwareSupabase: supabase-js with one organization built in.
//
// RLS alone keeps tenants apart; this keeps a person who belongs to several organizations in the one he works in, and
// an explicit filter lets Postgres use its indexes best.

import { createClient, type SupabaseClient, type SupabaseClientOptions } from '@supabase/supabase-js'
import type { Database, FunctionName, TableName, ViewName } from './database.ts'

/** The column that says to whom a row belongs; null where a table is not an organization's. */
function tenantColumn(table: TableName | ViewName): 'organization_id' | 'id' | null {
  switch (table) {
    case 'organizations':
      return 'id'
    case 'profiles':
    case 'flow_templates':
    case 'analytics_refreshes':
      return null
    default:
      return 'organization_id'
  }
}

type Functions = Database['public']['Functions']
type FunctionOfTenant = {
  [Name in FunctionName]: string extends keyof Functions[Name]['Args'] ? never
    : Functions[Name]['Args'] extends { organization_id?: string } ? Name
    : never
}[FunctionName]

/** Every RPC that takes organization_id; it is filled in. A missing one does not compile. */
const functionsOfTenant: Record<Exclude<FunctionOfTenant, 'set_active_organization'>, true> = {
  abandon_restore: true,
  accept_waiting_list_offer: true,
  admit_api_key: true,
  assign_conversation: true,
  begin_backup: true,
  begin_restore: true,
  cancel_booking: true,
  cancel_followup: true,
  cancel_notification: true,
  change_member_role: true,
  close_conversation: true,
  close_organization: true,
  complete_booking: true,
  complete_job: true,
  confirm_booking: true,
  connect_instance: true,
  create_api_key: true,
  create_backup: true,
  create_booking: true,
  create_flow_from_template: true,
  create_lead: true,
  create_webhook_endpoint: true,
  delete_webhook_endpoint: true,
  disconnect_instance: true,
  enqueue_job: true,
  erase_contact: true,
  export_contact_data: true,
  extend_lease: true,
  fail_backup: true,
  fail_job: true,
  finish_backup: true,
  finish_restore: true,
  get_ab_test_results: true,
  get_available_slots: true,
  get_instance_credentials: true,
  get_lead_usage: true,
  get_organization_stats: true,
  has_role: true,
  hold_slot: true,
  invite_member: true,
  join_waiting_list: true,
  keep_api_key_password: true,
  leave_waiting_list: true,
  list_archived_messages: true,
  list_backups: true,
  list_erasures: true,
  log_audit_event: true,
  mark_conversation_read: true,
  mark_no_show: true,
  merge_contacts: true,
  note_backup_file_removed: true,
  open_data_subject_request: true,
  platform_read: true,
  postpone_job: true,
  read_backup_chunk: true,
  reapply_erasures: true,
  record_ab_test_conversion: true,
  redeliver: true,
  redrive_job: true,
  redrive_jobs: true,
  release_restored_organization: true,
  release_to_bot: true,
  remove_member: true,
  reopen_conversation: true,
  reopen_organization: true,
  replay_webhook_event: true,
  require_instance_admin: true,
  reschedule_booking: true,
  retry_message: true,
  revoke_api_key: true,
  schedule_followup: true,
  search_messages: true,
  send_message: true,
  set_conversation_priority: true,
  set_plan: true,
  stage_restore_chunk: true,
  start_flow: true,
  take_over_conversation: true,
  test_webhook_endpoint: true,
  track_event: true,
  transfer_conversation: true,
  undo_merge: true,
  update_data_subject_request: true,
  update_instance: true,
  update_webhook_endpoint: true,
  verify_audit_chain: true,
}

/**
 * A client of one organization. `from()` filters what it reads, updates and deletes by the organization and fills it
 * into what it inserts; `rpc()` fills in `organization_id`. Writing a row of another organization throws.
 */
export type TenantClient = SupabaseClient<Database> & { readonly organizationId: string }

export function createTenantClient(
  url: string,
  key: string,
  organizationId: string,
  options?: SupabaseClientOptions<'public'>,
): TenantClient {
  return tenantClient(createClient<Database>(url, key, options), organizationId)
}

/** The same over a client that exists, sharing its session. */
export function tenantClient(client: SupabaseClient<Database>, organizationId: string): TenantClient {
  const methods = {
    organizationId,
    from: (table: TableName | ViewName) => tenantTable(client.from(table as TableName), tenantColumn(table), organizationId),
    rpc: (name: FunctionName, args: object = {}, options?: object) =>
      client.rpc(
        name,
        Object.hasOwn(functionsOfTenant, name) ? { organization_id: organizationId, ...args } : args,
        options,
      ),
  }
  return overlay(client, methods)
}

interface Filterable {
  eq(column: string, value: string): unknown
}

/** The methods of a table's query builder, as far as the tenant is concerned. */
interface TableQuery {
  select(...args: unknown[]): Filterable
  insert(rows: unknown, ...rest: unknown[]): unknown
  upsert(rows: unknown, ...rest: unknown[]): unknown
  update(row: unknown, ...rest: unknown[]): Filterable
  delete(...args: unknown[]): Filterable
}

function tenantTable(query: object, column: string | null, organizationId: string): object {
  if (column === null) return query
  const table = query as TableQuery
  const checked = (row: unknown) => {
    const given = (row as Record<string, unknown>)[column]
    if (given !== undefined && given !== organizationId) {
      throw new Error(`A row of organization ${String(given)} in a client of organization ${organizationId}.`)
    }
    return row as object
  }
  const own = (row: unknown) => ({ ...checked(row), [column]: organizationId })
  const ownAll = (rows: unknown) => Array.isArray(rows) ? rows.map(own) : own(rows)
  return overlay(table, {
    select: (...args: unknown[]) => table.select(...args).eq(column, organizationId),
    insert: (rows: unknown, ...rest: unknown[]) => table.insert(ownAll(rows), ...rest),
    upsert: (rows: unknown, ...rest: unknown[]) => table.upsert(ownAll(rows), ...rest),
    update: (row: unknown, ...rest: unknown[]) => table.update(checked(row), ...rest).eq(column, organizationId),
    delete: (...args: unknown[]) => table.delete(...args).eq(column, organizationId),
  })
}

/** `target` with some methods replaced; everything else is the target's own. */
function overlay<Target extends object, Methods extends object>(target: Target, methods: Methods): Target & Methods {
  return new Proxy(target, {
    get(_, property) {
      if (Object.hasOwn(methods, property)) return Reflect.get(methods, property)
      const value: unknown = Reflect.get(target, property, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
  }) as Target & Methods
}
