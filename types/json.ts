// The shapes of the database's JSON columns: a zod schema each, and its type. A column takes what its schema takes;
// Postgres only checks that it is an object.

import { z } from 'zod'

const localTime = z.string().regex(/^([01]\d|2[0-3]):[0-5]\d$/, 'a time such as 08:30')

/** Opening hours of one day, in local time; several where there is a break. Ends after midnight: ends_at < starts_at. */
export const openingHours = z.array(
  z.object({ starts_at: localTime, ends_at: z.union([localTime, z.literal('24:00')]) })
    .refine(({ starts_at, ends_at }) => starts_at !== ends_at, 'ends_at is another time than starts_at'),
)
export type OpeningHours = z.infer<typeof openingHours>

export const weekdays = ['monday', 'tuesday', 'wednesday', 'thursday', 'friday', 'saturday', 'sunday'] as const
export type Weekday = (typeof weekdays)[number]

/** organization_settings.operating_hours, locations.operating_hours. A day that is missing is closed. */
export const operatingHours = z.partialRecord(z.enum(weekdays), openingHours)
export type OperatingHours = z.infer<typeof operatingHours>

/** organization_settings.quiet_hours: nothing automatic is sent between these local times, which may pass midnight; {} = none. */
export const quietHours = z.union([
  z.strictObject({ starts_at: localTime, ends_at: localTime })
    .refine(({ starts_at, ends_at }) => starts_at !== ends_at, 'ends_at is another time than starts_at'),
  z.strictObject({}),
])
export type QuietHours = z.infer<typeof quietHours>

/** organization_settings.retention_overrides: days to keep, by kind; only upwards of the platform's. */
export const retentionOverrides = z.partialRecord(
  z.enum([
    'webhook_events', 'api_call_logs', 'analytics_events', 'audit_ip_addresses', 'audit_logs', 'messages', 'closed_organizations',
    'daily_backups', 'weekly_backups',
  ]),
  z.int().positive().max(36525),
)
export type RetentionOverrides = z.infer<typeof retentionOverrides>

/** contacts.address, locations.address. */
export const address = z.looseObject({
  street: z.string().optional(),
  number: z.string().optional(),
  complement: z.string().optional(),
  district: z.string().optional(),
  city: z.string().optional(),
  state: z.string().regex(/^[A-Z]{2}$/).optional(),
  postal_code: z.string().regex(/^\d{8}$/).optional(),
  country: z.string().regex(/^[A-Z]{2}$/).optional(),
})
export type Address = z.infer<typeof address>

/** messages.media: what the provider said of the file. */
export const messageMedia = z.looseObject({
  id: z.string().optional(),
  mime_type: z.string().nullish(),
  sha256: z.string().nullish(),
  filename: z.string().optional(),
  voice: z.boolean().optional(),
  animated: z.boolean().optional(),
  url: z.string().optional(),
  /** Of our own copy, which media_url names. */
  stored_mime_type: z.string().optional(),
  size: z.int().optional(),
  /** Why there is no copy: too_large, type_not_allowed, gone, hash_mismatch, instance_disconnected, attempts_exhausted. */
  error: z.string().optional(),
  error_detail: z.string().nullish(),
})
export type MessageMedia = z.infer<typeof messageMedia>

/** messages.metadata: edits and reactions are kept by the database, the rest is what the provider added. */
export const messageMetadata = z.looseObject({
  edits: z.array(z.object({ content: z.string().nullable(), until: z.string() })).optional(),
  /** By contact id, or "business"; a removed reaction has no emoji. */
  reactions: z.record(z.string(), z.object({ emoji: z.string().nullable(), at: z.string() })).optional(),
})
export type MessageMetadata = z.infer<typeof messageMetadata>

/** leads.utm: where the person came from, as campaigns are tagged. */
export const utm = z.looseObject({
  source: z.string().optional(),
  medium: z.string().optional(),
  campaign: z.string().optional(),
  term: z.string().optional(),
  content: z.string().optional(),
})
export type Utm = z.infer<typeof utm>

/** Objects whose keys are the organization's own, or come with the feature that reads them. */
export const freeObject = z.record(z.string(), z.json())
export type FreeObject = z.infer<typeof freeObject>

/** system_alerts.tellings: what came of telling each owner over WhatsApp. */
export const alertTelling = z.object({
  at: z.string(),
  as: z.enum(['opened', 'resolved']),
  /** Of authorized_owner_numbers. */
  number_id: z.guid(),
  /** queued, outside_window, no_number, opted_out, blocked, or the name of the error. */
  result: z.string(),
  message_id: z.guid().nullable(),
})
export type AlertTelling = z.infer<typeof alertTelling>
