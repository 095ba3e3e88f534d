// What a function needs from its environment, read once at boot: a missing variable stops it there, by name.
import { z } from 'zod'

/** Reads variables by name; `Deno.env` is one. */
export interface Variables {
  get(name: string): string | undefined
}

export interface SupabaseEnv {
  url: string
  /** The key for calls in the function's own name. */
  secretKey: string
  /** Every key that proves a caller to be the platform itself. */
  secretKeys: string[]
}

const keysByName = z.record(z.string(), z.string().min(1)).refine((keys) => Object.keys(keys).length > 0)

export function supabaseEnv(variables: Variables): SupabaseEnv {
  const { key, keys } = apiKeys(variables, 'SUPABASE_SECRET_KEYS', 'SUPABASE_SERVICE_ROLE_KEY')
  return { url: requiredUrl(variables, 'SUPABASE_URL'), secretKey: key, secretKeys: keys }
}

export function publishableKey(variables: Variables): string {
  return apiKeys(variables, 'SUPABASE_PUBLISHABLE_KEYS', 'SUPABASE_ANON_KEY').key
}

export function required(variables: Variables, name: string): string {
  const value = variables.get(name)
  if (!value) throw new Error(`The environment variable ${name} is missing`)
  return value
}

/** An address without trailing slash. */
export function requiredUrl(variables: Variables, name: string): string {
  const value = required(variables, name)
  if (!/^https?:\/\//.test(value) || !URL.canParse(value)) {
    throw new Error(`The environment variable ${name} is not an http(s) address`)
  }
  return value.replace(/\/+$/, '')
}

/** Projects have a dictionary of named keys; older ones a single legacy JWT, which may be switched off. */
function apiKeys(variables: Variables, dictionary: string, legacy: string) {
  const legacyKey = variables.get(legacy)
  const json = variables.get(dictionary)
  if (!json) {
    if (!legacyKey) {
      throw new Error(`The environment variable ${dictionary} (or the legacy ${legacy}) is missing`)
    }
    return { key: legacyKey, keys: [legacyKey] }
  }
  const parsed = keysByName.safeParse(parsedJson(json))
  if (!parsed.success) {
    throw new Error(`The environment variable ${dictionary} is not a JSON object of keys by name`)
  }
  const keys = Object.values(parsed.data)
  const key = parsed.data['default'] ?? keys[0]
  if (key === undefined) throw new Error(`The environment variable ${dictionary} names no key`)
  return { key, keys: legacyKey ? [...keys, legacyKey] : keys }
}

function parsedJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
