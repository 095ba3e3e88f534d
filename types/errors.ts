// The business errors of the database: a stable SQLSTATE and name each. docs/errors.md tells what to do about them.

import { z } from 'zod'

export const businessErrors = {
  BL001: 'not_authenticated',
  BL002: 'not_allowed',
  BL003: 'invalid_phone_number',
  BL004: 'invalid_timezone',
  BL005: 'invalid_name',
  BL006: 'invalid_slug',
  BL007: 'slug_taken',
  BL008: 'invalid_email',
  BL009: 'invitation_not_found',
  BL010: 'invitation_not_yours',
  BL011: 'last_owner',
  BL012: 'invitation_used',
  BL013: 'invitation_expired',
  BL014: 'member_not_found',
  BL100: 'organization_not_found',
  BL101: 'provider_not_supported',
  BL102: 'app_not_found',
  BL103: 'app_required',
  BL104: 'instance_exists',
  BL105: 'instance_not_found',
  BL106: 'instance_disconnected',
  BL107: 'sending_stopped',
  BL199: 'message_not_stored',
  BL201: 'contact_in_use',
  BL202: 'conversation_not_found',
  BL203: 'conversation_closed',
  BL204: 'client_message_id_taken',
  BL205: 'invalid_message',
  BL206: 'message_not_found',
  BL207: 'message_not_failed',
  BL208: 'stale_control',
  BL209: 'member_not_available',
  BL210: 'conversation_open',
  BL211: 'invalid_score',
  BL212: 'invalid_query',
  BL301: 'lease_lost',
  BL302: 'job_not_found',
  BL303: 'invalid_batch',
  BL304: 'invalid_lease',
  BL305: 'invalid_outcome',
  BL306: 'not_redrivable',
  BL310: 'webhook_endpoint_not_found',
  BL311: 'invalid_url',
  BL312: 'invalid_event_type',
  BL313: 'too_many_endpoints',
  BL314: 'webhook_delivery_not_found',
  BL315: 'webhook_event_not_found',
  BL316: 'webhook_endpoint_disabled',
  BL317: 'number_not_registered',
  BL320: 'schedule_not_found',
  BL321: 'invalid_schedule',
  BL401: 'invalid_lead_transition',
  BL402: 'contact_not_found',
  BL404: 'pet_not_found',
  BL405: 'cannot_merge',
  BL406: 'merge_not_found',
  BL407: 'merge_not_undoable',
  BL408: 'lead_exists',
  BL409: 'contact_exists',
  BL500: 'service_not_found',
  BL501: 'slot_unavailable',
  BL502: 'booking_not_found',
  BL503: 'invalid_booking_transition',
  BL504: 'invalid_range',
  BL505: 'hold_expired',
  BL506: 'booking_id_taken',
  BL507: 'professional_not_available',
  BL508: 'pet_required',
  BL509: 'booking_not_started',
  BL510: 'service_in_use',
  BL511: 'professional_in_use',
  BL512: 'location_not_found',
  BL513: 'waiting_list_entry_not_found',
  BL514: 'offer_expired',
  BL515: 'already_waiting',
  BL516: 'invalid_hold',
  BL518: 'location_in_use',
  BL601: 'invalid_flow',
  BL602: 'flow_not_found',
  BL603: 'flow_in_use',
  BL701: 'invalid_template',
  BL702: 'template_not_found',
  BL703: 'notification_not_found',
  BL704: 'ab_test_not_found',
  BL705: 'invalid_followup',
  BL801: 'invalid_event',
  BL802: 'analytics_view_not_found',
  BL901: 'audit_is_append_only',
  BL902: 'invalid_audit_event',
  BL903: 'reason_required',
  BL904: 'table_not_found',
  BL911: 'invalid_data_subject_request',
  BL912: 'contact_erased',
  BL913: 'data_subject_request_not_found',
  BL914: 'request_answered',
  BL915: 'reason_names_person',
  BL921: 'invalid_retention',
  BL922: 'organization_purged',
  BL923: 'organization_closed',
  BL924: 'archive_damaged',
  BL925: 'archive_not_found',
  BL931: 'backup_not_found',
  BL932: 'backup_running',
  BL933: 'too_many_backups',
  BL934: 'backup_lease_lost',
  BL935: 'organization_exists',
  BL936: 'restore_running',
  BL937: 'schema_mismatch',
  BL938: 'members_missing',
  BL939: 'restore_refused',
  BL941: 'api_key_not_found',
  BL942: 'invalid_expiry',
  BL943: 'too_many_api_keys',
  BL944: 'people_only',
  BL945: 'rate_limited',
  BL946: 'invalid_api_key_role',
} as const

export type BusinessErrorCode = keyof typeof businessErrors
export type BusinessErrorName = (typeof businessErrors)[BusinessErrorCode]

export interface BusinessError {
  code: BusinessErrorCode
  name: BusinessErrorName
  /** For humans. */
  message: string
  /** For machines; the error's own facts. */
  detail: Record<string, unknown>
}

const detail = z.record(z.string(), z.unknown())

/** The business error in what supabase-js returned as `error`; null when it is something else. */
export function businessError(error: { code?: string; message: string; details?: string | null } | null): BusinessError | null {
  const code = error?.code
  if (!error || code === undefined || !isBusinessErrorCode(code)) return null
  const { error: _name, ...facts } = detail.catch({}).parse(parseJson(error.details ?? ''))
  return { code, name: businessErrors[code], message: error.message, detail: facts }
}

function isBusinessErrorCode(code: string): code is BusinessErrorCode {
  return Object.hasOwn(businessErrors, code)
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
