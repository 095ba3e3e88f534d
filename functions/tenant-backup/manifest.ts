// What a backup holds: the tables with their columns, and a digest of each, by which the content is known again.
import { createHash, type Hash } from 'node:crypto'
import { z } from 'zod'

export const manifestSchema = z.object({
  organization_id: z.guid(),
  backup_id: z.guid(),
  backup_type: z.string(),
  taken_at: z.string(),
  name: z.string(),
  tables: z.array(z.object({
    table_name: z.string().min(1),
    /** Without columns: it says what else there was, such as people and files, and is not restored as rows. */
    columns: z.array(z.string()).optional(),
    row_count: z.number().int().nonnegative(),
    digest: z.string().regex(/^[0-9a-f]{64}$/),
  })),
})
export type Manifest = z.output<typeof manifestSchema>

export function rowCounts({ tables }: Manifest): Record<string, number> {
  return Object.fromEntries(
    tables.filter(({ columns }) => columns !== undefined)
      .map(({ table_name, row_count }) => [table_name, row_count]),
  )
}

interface Tally {
  rows: number
  hash: Hash
}

/** Adds chunks up as the database did: SHA-256 over the SHA-256 of each of a table's chunks. */
export function tallyOf({ tables }: Manifest) {
  const tallies = new Map<string, Tally>(
    tables.map(({ table_name }) => [table_name, { rows: 0, hash: createHash('sha256') }]),
  )
  return {
    add(
      { table_name, row_count, content }: { table_name: string; row_count: number; content: string },
    ): void {
      const tally = tallies.get(table_name)
      if (tally === undefined) return
      tally.rows += row_count
      tally.hash.update(createHash('sha256').update(content).digest())
    },
    /** Tables that are not what the manifest says. Once only. */
    differing(): string[] {
      return tables
        .filter(({ table_name, row_count, digest }) => {
          const tally = tallies.get(table_name)
          return tally === undefined || tally.rows !== row_count || tally.hash.digest('hex') !== digest
        })
        .map(({ table_name }) => table_name)
    },
  }
}
