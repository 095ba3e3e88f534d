// What the benchmark of the queue asks of each queue, ours and the others.

export interface Load {
  /** Jobs claimed, and completed, together. Graphile Worker 0.16 knows only one. */
  batch: 1 | 10 | 100
  isKeyed: boolean
  /** Batches under way at once, with a connection for each. */
  atOnce: number
}

export interface Contender {
  readonly name: string
  /** Adds jobs that do nothing; keyed ones to KEYS keys in turn. */
  fill(count: number, isKeyed: boolean): Promise<void>
  /** Empties it, and lets the planner know what is there after the next fill. */
  clear(): Promise<void>
  /** Statistics and visibility, as autovacuum brings them within a minute. */
  vacuum(): Promise<void>
  /** Claims and completes until told to stop; says how many were completed as they are. */
  consume(load: Load, stop: AbortSignal, completed: (count: number) => void): Promise<void>
  /** A connection string to its database, for whoever holds a snapshot there. */
  readonly databaseUrl: string
  close(): Promise<void>
}

export const MOST_AT_ONCE = 32
export const KEYS = 500
