// How the platform is: what system_health() and the function health tell whoever has the secret key. What later steps measure
// is added; nothing is taken away.

import type { Enums } from './database.ts'

type Counts<Name extends string> = Partial<Record<Name, number>>

export interface SystemHealth {
  /** degraded: there are warnings; unhealthy: something is critical, and the function health answers 503. */
  status: 'healthy' | 'degraded' | 'unhealthy'
  reasons: { kind: string; severity: Enums<'alert_severity'>; message: string }[]
  checked_at: string
  database: 'connected'
  /** Numbers by their status. */
  providers: Partial<Record<Enums<'whatsapp_provider'>, Counts<Enums<'instance_status'>>>>
  active_conversations: number
  messages_last_hour: number
  /** The share, 0 to 1, of calls to others that failed in the last hour; null when there was none. */
  error_rate: number | null
  /** Likewise of the attempts to deliver webhooks. */
  webhook_failure_rate: number | null
  queue: { due: number; oldest_due_seconds: number | null; processing: number; dead_last_hour: number }
  instances: { connected: number; disconnected: number; silent: number | null; stopped: number }
  statements: {
    /** Whether pg_stat_statements is there. */
    available: boolean
    mean_ms: number | null
    p95_ms: number | null
    p99_ms: number | null
    longest_running_seconds: number | null
  }
  deadlocks: number
  connections: { used: number; max: number }
  cache_hit_rate: number | null
  /** The ten largest; null while somebody has one of them locked. */
  table_sizes: { table: string; bytes: number; dead_rows: number; live_rows: number }[] | null
  database_bytes: number
  oldest_transaction_seconds: number
  /** Null: there is no replica. */
  replication_lag_seconds: number | null
  /** Null while somebody has one of the logs locked. */
  partitions: { ahead_months: number; default_rows: number } | null
  last_refreshes: Record<string, { finished_at: string | null; age_seconds: number | null; error: string | null }>
  schedules: { overdue: string[]; failing: string[] }
}

/** What came of check_alerts(). */
export type AlertCheck = { opened: number; resolved: number; open: number } | { skipped: 'already_running' }
