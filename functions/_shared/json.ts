// JSON as it comes, and as it can be kept.

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

const MAX_DEPTH = 200

/**
 * The same value with U+FFFD in place of what Postgres cannot store: U+0000, half a surrogate pair, nesting without
 * end. A customer's odd message must not make us refuse a delivery that the provider would then send again for a week.
 */
export function storable(value: unknown, depth = 0): unknown {
  if (typeof value === 'string') return storableText(value)
  if (typeof value !== 'object' || value === null) return value
  if (depth === MAX_DEPTH) return '\uFFFD'

  if (Array.isArray(value)) {
    for (const [index, item] of value.entries()) {
      const clean = storable(item, depth + 1)
      if (clean !== item) value[index] = clean
    }
    return value
  }
  const entries = Object.entries(value)
  const clean = entries.map((
    [key, item],
  ): [string, unknown] => [storableText(key), storable(item, depth + 1)])
  const isClean = clean.every(([key, item], index) =>
    key === entries[index]?.[0] && item === entries[index]?.[1]
  )
  return isClean ? value : Object.fromEntries(clean)
}

function storableText(text: string): string {
  return (text.isWellFormed() ? text : text.toWellFormed()).replaceAll('\u0000', '\uFFFD')
}
