// Requests that nobody thought of, against the API as PostgREST makes it of our schema: what is there is read from the
// catalog, so that a new table, column or function is tried the day it comes.
//
// Two tenants; everything of the other one carries its marker. Members of the one ask, with whatever of the other's they
// could have learned: its ids. An answer that holds the marker, or an id that the request did not name, is a leak, and so
// is a row of the other's that is not what it was.

import { Agent, request as httpRequest } from 'node:http'
import type postgres from 'postgres'
import { signJwt } from '../../local/api-keys.ts'

export type Random = (below: number) => number

interface Column {
  name: string
  type: string
  labels: string[]
  /** By members. */
  isWritable?: boolean
  /** A row is none without it. */
  isRequired?: boolean
}

interface Relation {
  name: string
  columns: Column[]
  /** Names of those that embedding leads to. */
  neighbours: string[]
  key: string[]
}

interface ApiFunction {
  name: string
  /** By members. */
  isCallable: boolean
  parameters: Column[]
}

export interface Catalog {
  relations: Relation[]
  functions: ApiFunction[]
}

export interface FuzzTenant {
  organizationId: string
  /** In every text that is the tenant's. */
  marker: string
  /** By the column they stand in; ids of a table also as "contacts.id". */
  values: Map<string, string[]>
  /** All of them but the tenant's own. */
  ids: string[]
}

export interface Persona {
  name: string
  token: string | null
}

export interface World {
  api: string
  publishableKey: string
  catalog: Catalog
  own: FuzzTenant
  other: FuzzTenant
  personas: Persona[]
  /**
   * What members may have written of the other's ids into rows of their own: they may read it there again. Never the
   * tenant's own id, which stands in nearly every row of it: no value of a request but organization_id is that.
   */
  written: Map<string, number>
}

type Kind = 'read' | 'call' | 'insert' | 'update' | 'delete' | 'profile'

export interface FuzzRequest {
  kind: Kind
  persona: Persona
  method: string
  path: string
  headers: Record<string, string>
  body: string | null
  /** It asks for rows of the other tenant, or adds one, and nothing else. */
  isOfOther: boolean
}

interface FuzzAnswer {
  status: number
  text: string
  headers: string
  contentRange: string
}

export interface FuzzOutcome {
  leaks: string[]
  asked: number
  /** By kind of request and class of status, "read 2xx" for instance. */
  answers: Map<string, number>
  /** Answers in which somebody saw what is their own. */
  sawOwn: Map<string, number>
  /** Relations and functions that were reached. */
  reached: Set<string>
}

// What there is -------------------------------------------------------------------------------------------------------

export async function readCatalog(sql: postgres.Sql): Promise<Catalog> {
  const columns = await sql<
    {
      relation: string
      name: string
      type: string
      labels: string[]
      isWritable: boolean
      isRequired: boolean
      is_key: boolean
    }[]
  >`
    select c.relname as relation, a.attname as name, format_type(a.atttypid, null) as type,
      array(select e.enumlabel::text from pg_enum e where e.enumtypid = a.atttypid order by e.enumsortorder) as labels,
      has_column_privilege('authenticated', c.oid, a.attnum, 'insert') and a.attgenerated = '' as "isWritable",
      a.attnotnull and not a.atthasdef as "isRequired",
      exists (
        select from pg_index i where i.indrelid = c.oid and i.indisprimary and a.attnum = any (i.indkey::int2[])) as is_key
    from pg_class c
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm') and not c.relispartition
    order by c.relname, a.attnum`
  const edges = await sql<{ here: string; there: string }[]>`
    select distinct k.conrelid::regclass::text as here, k.confrelid::regclass::text as there
    from pg_constraint k where k.contype = 'f' and k.connamespace = 'public'::regnamespace order by 1, 2`
  const relations = new Map<string, Relation>()
  for (const { relation: name, is_key, ...column } of columns) {
    const relation = relations.get(name) ?? { name, columns: [], neighbours: [], key: [] }
    relation.columns.push(column)
    if (is_key) relation.key.push(column.name)
    relations.set(name, relation)
  }
  for (const { here, there } of edges) {
    const [from, to] = [bareName(here), bareName(there)]
    relations.get(from)?.neighbours.push(to)
    relations.get(to)?.neighbours.push(from)
  }
  const functions = await sql<ApiFunction[]>`
    select p.proname as name, has_function_privilege('authenticated', p.oid, 'execute') as "isCallable",
      coalesce((
        select json_agg(json_build_object(
          'name', n.name, 'type', format_type(n.type, null),
          'labels', array(select e.enumlabel::text from pg_enum e where e.enumtypid = n.type order by e.enumsortorder)) order by n.place)
        from unnest(p.proargnames, coalesce(p.proallargtypes, p.proargtypes::oid[]), coalesce(p.proargmodes, array_fill('i'::"char", array[p.pronargs])))
          with ordinality n (name, type, mode, place)
        where n.mode in ('i', 'b', 'v')), '[]') as parameters
    from pg_proc p
    where p.pronamespace = 'public'::regnamespace and p.prokind = 'f' and p.prorettype <> 'trigger'::regtype
      and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')
    order by p.proname`
  return { relations: [...relations.values()], functions: [...functions] }
}

const bareName = (name: string) => name.replace(/^.*\./, '')

// The two tenants ------------------------------------------------------------------------------------------------------

/** Each table that holds tenants' rows, and how one tenant's are found ($1 is its id). */
export async function tenantTables(sql: postgres.ISql): Promise<Map<string, string>> {
  const tables = await sql<{ name: string; has_tenant: boolean }[]>`
    select format('%I.%I', n.nspname, c.relname) as name,
      exists (
        select from pg_attribute a
        where a.attrelid = c.oid and a.attname = 'organization_id' and not a.attisdropped) as has_tenant
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname in ('public', 'private') and c.relkind in ('r', 'p') and not c.relispartition
    order by 1`
  const members = 'select r.user_id from public.user_roles r where r.organization_id = $1::uuid'
  const conditions = new Map(
    tables.filter(({ has_tenant }) => has_tenant).map(({ name }) => [name, 't.organization_id = $1::uuid']),
  )
  conditions.set('public.organizations', 't.id = $1::uuid')
  conditions.set('public.profiles', `t.user_id in (${members})`)
  conditions.set('auth.users', `t.id in (${members})`)
  return conditions
}

/**
 * Writes the marker into every text and JSON column of every table of the tenant, beside the triggers; a table without a
 * row of the tenant gets one. Returns the columns that took no marker, since theirs is a form of its own.
 */
export async function plant(sql: postgres.Sql, organizationId: string, marker: string): Promise<string[]> {
  const refused: string[] = []
  await sql.begin(async (tx) => {
    await tx`set local session_replication_role = replica`
    for (const [table, condition] of await tenantTables(tx)) {
      if (table === 'auth.users') continue
      const columns = await tx<
        { name: string; type: string; is_required: boolean; labels: string[]; is_unique: boolean }[]
      >`
        select a.attname as name, format_type(a.atttypid, null) as type, a.attnotnull and not a.atthasdef as is_required,
          array(select e.enumlabel::text from pg_enum e where e.enumtypid = a.atttypid) as labels,
          exists (select from pg_index i where i.indrelid = a.attrelid and i.indisunique and a.attnum = any (i.indkey::int2[])) as is_unique
        from pg_attribute a
        where a.attrelid = ${table}::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' and a.attidentity = ''
        order by a.attnum`
      const [{ count } = { count: 0 }] = await tx.unsafe<{ count: number }[]>(
        `select count(*)::int as count from ${table} t where ${condition}`,
        [organizationId],
      )
      if (count === 0) {
        const required = columns.filter(({ is_required }) => is_required)
        const values = required.map(({ name, type, labels }) =>
          name === 'organization_id'
            ? '$1::uuid'
            : labels[0] !== undefined
            ? `'${labels[0]}'::${type}`
            : plainValue(type)
        )
        const names = required.map(({ name }) => `"${name}"`)
        try {
          await tx.savepoint((inner) =>
            inner.unsafe(`insert into ${table} (${names.join(', ')}) values (${values.join(', ')})`, [organizationId])
          )
        } catch (error) {
          refused.push(`${table}: ${error instanceof Error ? error.message : String(error)}`)
          continue
        }
      }
      for (const { name, type, is_unique } of columns) {
        // Of several rows each has its own.
        const text = is_unique ? `'${marker}' || '-' || substr(md5(random()::text), 1, 8)` : `'${marker}'`
        const attempts = ({
          text: [text, `${text} || '@exemplo.com.br'`, `'https://' || ${text} || '.example/hook'`, `'/' || ${text}`],
          'text[]': [`array['${marker}']`],
          jsonb: [
            `jsonb_build_object('k', '${marker}')`,
            `jsonb_build_array('${marker}')`,
            `jsonb_build_array(jsonb_build_object('k', '${marker}'))`,
          ],
        } as Record<string, string[]>)[type]
        if (attempts === undefined) continue
        let isPlanted = false
        for (const attempt of attempts) {
          try {
            await tx.savepoint((inner) =>
              inner.unsafe(`update ${table} t set "${name}" = ${attempt} where ${condition}`, [organizationId])
            )
            isPlanted = true
            break
          } catch {
            // A check of its form; the next one may do.
          }
        }
        if (!isPlanted) refused.push(`${table}.${name}`)
      }
    }
  })
  return refused
}

function plainValue(type: string): string {
  const values: Record<string, string> = {
    uuid: 'gen_random_uuid()',
    jsonb: `'{}'`,
    boolean: 'false',
    bytea: `'\\x00'`,
    date: 'current_date',
    'private.inbound_event': `jsonb_populate_record(null::private.inbound_event, '{"kind": "message"}')`,
    'timestamp with time zone': 'now()',
    'time without time zone': `'08:00'`,
    integer: '1',
    bigint: '1',
    xid8: `'1'`,
    'private.sealed_secret': 'tests.sealed()',
    'uuid[]': `array[gen_random_uuid()]`,
  }
  return values[type] ?? (type.endsWith('[]') ? `'{}'` : type === 'text' ? `'x'` : 'null')
}

/** Every row of the tenant, as the bytes it is, by table; and with it what is nobody's. */
export async function rowsOf(sql: postgres.Sql, organizationId: string): Promise<Map<string, string[]>> {
  const rows = new Map<string, string[]>()
  for (const [table, condition] of await tenantTables(sql)) {
    const nobodys = condition.startsWith('t.organization_id') ? ' or t.organization_id is null' : ''
    const [found] = await sql.unsafe<{ rows: string[] }[]>(
      `select coalesce(array_agg(t::text order by t::text), '{}') as rows from ${table} t where ${condition}${nobodys}`,
      [organizationId],
    )
    rows.set(table, found?.rows ?? [])
  }
  return rows
}

export async function fuzzTenant(sql: postgres.Sql, organizationId: string, marker: string): Promise<FuzzTenant> {
  const values = new Map<string, string[]>()
  const ids = new Set<string>()
  const add = (name: string, id: string) => values.set(name, [...new Set([...(values.get(name) ?? []), id])])
  for (const [table, condition] of await tenantTables(sql)) {
    const rows = await sql.unsafe<{ row: Record<string, unknown> }[]>(
      `select to_jsonb(t) as row from ${table} t where ${condition}`,
      [organizationId],
    )
    for (const { row } of rows) {
      for (const [column, value] of Object.entries(row)) {
        if (typeof value !== 'string' || !UUID.test(value)) continue
        if (value !== organizationId) ids.add(value)
        add(column, value)
        add(`${bareName(table)}.${column}`, value)
        if (column === 'id') add(`${bareName(table).replace(/s$/, '')}_id`, value)
      }
    }
  }
  return { organizationId, marker, values, ids: [...ids] }
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/
const UUIDS = new RegExp(UUID.source.slice(1, -1), 'g')

export function tokenOf(userId: string, email: string, jwtSecret: string): string {
  const now = Math.floor(Date.now() / 1000)
  return signJwt(
    { sub: userId, email, role: 'authenticated', aud: 'authenticated', iat: now, exp: now + 3600 },
    jwtSecret,
  )
}

// Requests --------------------------------------------------------------------------------------------------------------

/** Would end the asking tenant itself, after which nothing is seen any more: only ever aimed at the other one. */
const AIMED_AT_THE_OTHER = new Set([
  'close_organization',
  'remove_member',
  'change_member_role',
  'revoke_api_key',
  'disconnect_instance',
  'erase_contact',
  'merge_contacts',
  'set_active_organization',
])
/** Has no argument that names a tenant, and makes one; and what tells everybody what an organization publishes of itself. */
const LEFT_OUT = new Set(['create_organization', 'get_public_profile'])

export interface Aim {
  kinds?: readonly Kind[]
  /** A relation or a function. */
  at?: string
  /** The one argument of a call that is the other tenant's. */
  forged?: string
}

export function randomRequest(random: Random, world: World, aim: Aim = {}): FuzzRequest {
  const { own, other, catalog } = world
  const pick = <Value>(values: readonly Value[]): Value | undefined => values[random(values.length)]
  const oneOf = <Value>(first: Value, ...rest: Value[]): Value => pick([first, ...rest]) ?? first
  const chance = (percent: number) => random(100) < percent
  const some = <Value>(values: readonly Value[], percent: number) => values.filter(() => chance(percent))

  const relation = (aim.at === undefined ? undefined : catalog.relations.find(({ name }) => name === aim.at)) ??
    pick(catalog.relations)
  const persona = pick(world.personas)
  if (relation === undefined || persona === undefined) {
    throw new Error('There is nothing to ask for, or nobody who asks.')
  }
  const kind = aim.kinds === undefined ? aKind() : pick(aim.kinds) ?? 'read'
  const headers: Record<string, string> = { apikey: world.publishableKey }
  if (persona.token !== null) headers['authorization'] = `Bearer ${persona.token}`
  const prefer: string[] = []
  let isOfOther = false
  // Part of it has nothing forged: what is refused for one reason is not tried for another.
  const isHonest = aim.forged !== undefined || kind !== 'delete' && chance(35)

  switch (kind) {
    case 'read': {
      const parameters = readParameters(relation)
      if (chance(12)) headers['range'] = `${random(3)}-${random(200)}`
      if (chance(40)) prefer.push(`count=${oneOf('exact', 'exact', 'planned', 'estimated')}`)
      if (chance(10)) {
        headers['accept'] = oneOf(
          'text/csv',
          'application/vnd.pgrst.object+json',
          'application/vnd.pgrst.plan+json',
          '*/*',
        )
      }
      return asked(chance(12) ? 'HEAD' : 'GET', relation.name, parameters, null)
    }
    case 'profile': {
      const profile = oneOf(
        'private',
        'analytics',
        'partitions',
        'auth',
        'storage',
        'extensions',
        'pg_catalog',
        'tests',
      )
      const name = oneOf(
        relation.name,
        'meta_apps',
        'instance_secrets',
        'audit_log_values',
        'erasures',
        'users',
        'objects',
        'messages_default',
        'dashboard_metrics',
        'audit_logs_2026_11',
        'api_key_secrets',
      )
      // Without a profile too: a partition stands in no answer by its bare name either.
      if (chance(80)) headers[chance(70) ? 'accept-profile' : 'content-profile'] = profile
      return chance(70)
        ? asked(
          'GET',
          chance(80) ? name : `rpc/${oneOf('active_organization', 'contacts_of', 'erase_contact')}`,
          [],
          null,
        )
        : asked('POST', name, [], JSON.stringify(row(relation)))
    }
    case 'call': {
      const mayBeClosed = chance(15)
      const called = (aim.at === undefined ? undefined : catalog.functions.find(({ name }) => name === aim.at)) ??
        pick(catalog.functions.filter(({ name, isCallable }) => !LEFT_OUT.has(name) && (isCallable || mayBeClosed)))
      if (called === undefined) throw new Error('There is no function to call.')
      const onlyOther = AIMED_AT_THE_OTHER.has(called.name)
      const given = called.parameters
        .filter(({ name }) => onlyOther || chance(aim.forged === name ? 100 : name === 'organization_id' ? 75 : 88))
        .map((parameter) =>
          [parameter.name, value(parameter, called.name, onlyOther || parameter.name === aim.forged)] as const
        )
      if (chance(15)) prefer.push(oneOf('params=single-object', 'count=exact', 'return=representation'))
      const parameters: [string, string][] = chance(15) ? [['select', '*'], ['limit', '5']] : []
      return chance(85)
        ? asked('POST', `rpc/${called.name}`, parameters, JSON.stringify(Object.fromEntries(given)))
        : asked('GET', `rpc/${called.name}`, [
          ...given.map(([name, it]) => [name, textOf(it)] as [string, string]),
          ...parameters,
        ], null)
    }
    case 'insert': {
      const isBulk = chance(30)
      const columns = rowColumns(relation)
      const rows = Array.from({ length: isBulk ? 1 + random(4) : 1 }, () => row(relation, columns))
      const parameters: [string, string][] = []
      if (chance(45)) {
        prefer.push(`resolution=${oneOf('merge-duplicates', 'merge-duplicates', 'ignore-duplicates')}`)
        const key = chance(75) ? relation.key : some(relation.columns.map(({ name }) => name), 15)
        if (chance(70) && key.length > 0) parameters.push(['on_conflict', key.join(',')])
      }
      if (isBulk && chance(40)) {
        parameters.push([
          'columns',
          some(relation.columns, 50).map(({ name }) => name).join(',') || 'organization_id',
        ])
      }
      if (chance(25)) prefer.push(`missing=${oneOf('default', 'null')}`)
      returning(parameters)
      isOfOther = !isBulk && rows[0]?.['organization_id'] === other.organizationId &&
        !parameters.some(([name]) => name === 'columns')
      if (chance(6)) {
        for (const name of relation.key) {
          parameters.push([name, `eq.${textOf(rows[0]?.[name] ?? other.organizationId)}`])
        }
        return asked('PUT', relation.name, parameters, JSON.stringify(rows[0]))
      }
      return asked('POST', relation.name, parameters, JSON.stringify(isBulk ? rows : rows[0]))
    }
    case 'update': {
      const parameters: [string, string][] = chance(15) ? [] : chance(60) ? ofOther() : filters(relation)
      // Own rows given away, and the other's changed.
      const columns = chance(35)
        ? relation.columns.filter(({ name }) => name === 'organization_id')
        : some(relation.columns, 12)
      const changed = Object.fromEntries(
        columns.map((column) => [column.name, value(column, relation.name, column.name === 'organization_id')]),
      )
      returning(parameters)
      return asked('PATCH', relation.name, parameters, JSON.stringify(changed))
    }
    case 'delete': {
      const parameters = ofOther()
      returning(parameters)
      return asked('DELETE', relation.name, parameters, null)
    }
    default:
      throw new Error(kind satisfies never)
  }

  function aKind(): Kind {
    const at = random(100)
    return at < 48
      ? 'read'
      : at < 70
      ? 'call'
      : at < 82
      ? 'insert'
      : at < 91
      ? 'update'
      : at < 96
      ? 'delete'
      : 'profile'
  }

  function asked(
    method: string,
    path: string,
    parameters: readonly (readonly [string, string])[],
    body: string | null,
  ): FuzzRequest {
    if (prefer.length > 0) headers['prefer'] = prefer.join(', ')
    if (body !== null) headers['content-type'] = 'application/json'
    const query = parameters.map(([name, it]) => `${encodeURIComponent(name)}=${encodeURIComponent(it)}`).join('&')
    return {
      kind,
      persona: persona ?? { name: 'nobody', token: null },
      method,
      path: `/rest/v1/${path}${query === '' ? '' : `?${query}`}`,
      headers,
      body,
      isOfOther,
    }
  }

  function returning(parameters: [string, string][]): void {
    prefer.push(`return=${oneOf('representation', 'representation', 'minimal', 'headers-only')}`)
    if (chance(20)) prefer.push('count=exact')
    if (chance(30) && relation !== undefined) parameters.push(['select', chance(50) ? '*' : selection(relation, 1)])
  }

  /** Everything that is not one's own. */
  function ofOther(): [string, string][] {
    const ofTenant = relation?.columns.some(({ name }) => name === 'organization_id')
    if (ofTenant && chance(60)) {
      return [['organization_id', chance(60) ? `eq.${other.organizationId}` : `neq.${own.organizationId}`]]
    }
    const column = relation?.columns.find(({ type }) => type === 'uuid')?.name ?? 'id'
    const known = other.values.get(`${relation?.name}.${column}`) ?? other.ids
    return [[column, chance(70) ? `eq.${pick(known) ?? other.organizationId}` : `in.(${known.slice(0, 5).join(',')})`]]
  }

  function readParameters({ ...of }: Relation): [string, string][] {
    const parameters: [string, string][] = []
    if (chance(80)) parameters.push(['select', selection(of, 2)])
    if (chance(70)) parameters.push(...filters(of))
    if (of.columns.some(({ name }) => name === 'organization_id') && chance(30)) {
      parameters.push(['organization_id', `eq.${other.organizationId}`])
      isOfOther = true
    }
    if (chance(25)) {
      const column = pick(of.columns)?.name ?? 'id'
      parameters.push(['order', `${column}.${oneOf('asc', 'desc')}${oneOf('', '.nullsfirst', '.nullslast')}`])
    }
    if (chance(25)) parameters.push(['limit', String(random(50))])
    if (chance(10)) parameters.push(['offset', String(random(4))])
    return parameters
  }

  function selection(of: Relation, depth: number): string {
    const parts: string[] = chance(60) ? ['*'] : some(of.columns, 40).map(({ name, type }) => {
      const path = type === 'jsonb' && chance(50) ? `${name}${oneOf('->', '->>')}k` : name
      return `${chance(15) ? 'a:' : ''}${path}${chance(15) ? '::text' : ''}`
    })
    if (depth > 0 && chance(45)) {
      const near = catalog.relations.find(({ name }) => name === pick(of.neighbours))
      const embedded = chance(85) ? near : pick(catalog.relations)
      if (embedded !== undefined) {
        const inner = selection(embedded, depth - 1)
        const name = `${embedded.name}${oneOf('', '', '', '!inner', '!left')}`
        parts.push(chance(10) ? `...${name}(${inner})` : `${chance(20) ? 'e:' : ''}${name}(${inner})`)
      }
    }
    return parts.length === 0 ? '*' : parts.join(',')
  }

  function filters(of: Relation): [string, string][] {
    const count = 1 + random(2)
    return Array.from({ length: count }, (): [string, string] => {
      if (chance(15)) return [chance(80) ? 'or' : 'not.or', `(${conditions(of)})`]
      if (chance(8)) return ['and', `(${conditions(of)})`]
      const near = chance(8) ? catalog.relations.find(({ name }) => name === pick(of.neighbours)) : undefined
      const column = pick((near ?? of).columns) ?? { name: 'id', type: 'uuid', labels: [] }
      return [`${near === undefined ? '' : `${near.name}.`}${column.name}`, condition(column, of.name)]
    })
  }

  function conditions(of: Relation): string {
    return Array.from({ length: 1 + random(3) }, () => {
      const column = pick(of.columns) ?? { name: 'id', type: 'uuid', labels: [] }
      if (chance(10)) {
        return `${oneOf('and', 'or')}(${column.name}.not.is.null,${column.name}.${condition(column, of.name)})`
      }
      return `${column.name}.${condition(column, of.name)}`
    }).join(',')
  }

  function condition(column: Column, of: string): string {
    const not = chance(12) ? 'not.' : ''
    if (chance(15)) return `${not}is.${column.type === 'boolean' ? oneOf('null', 'true', 'unknown') : 'null'}`
    // Of ranges and texts, whatever the column is: mostly refused.
    if (chance(4)) return not + oneOf('sl.1', 'sr.1', 'nxl.1', 'nxr.1', 'adj.1', 'fts.leak', 'cs.{}')
    const operand = textOf(value(column, of, false)).replaceAll(/[(),"\\]/g, '')
    switch (column.type) {
      case 'text':
        return not + oneOf(
          `eq.${operand}`,
          `neq.${operand}`,
          'like.*',
          'ilike.*a*',
          'match.^.',
          'imatch.[a-z]',
          `in.(${operand},x)`,
          `gt.${operand}`,
          'like(any).{*a*,*e*}',
          'ilike(all).{*,*}',
          `isdistinct.${operand}`,
          'fts.leak',
          'plfts.leak',
          'phfts(portuguese).leak',
          'wfts.leak',
        )
      case 'jsonb':
        return not + oneOf('cs.{}', 'cd.{}', 'neq.{}', 'eq.{}')
      case 'uuid':
        return not +
          oneOf(
            `eq.${operand}`,
            `neq.${operand}`,
            `in.(${operand},${own.organizationId})`,
            `gte.${operand}`,
            `eq(any).{${operand}}`,
          )
      default:
        return column.type.endsWith('[]') ? not + oneOf('cs.{}', 'cd.{}', 'ov.{x}', `eq.{}`) : not +
          oneOf(
            `eq.${operand}`,
            `neq.${operand}`,
            `gt.${operand}`,
            `gte.${operand}`,
            `lt.${operand}`,
            `lte.${operand}`,
          )
    }
  }

  function rowColumns({ columns, key }: Relation): Column[] {
    return columns
      .filter(({ isWritable }) => !isHonest || isWritable)
      .filter(({ name, isRequired }) =>
        chance(name === 'organization_id' ? 90 : isRequired ? 95 : key.includes(name) ? (isHonest ? 10 : 50) : 40)
      )
  }

  function row(of: Relation, columns = rowColumns(of)): Record<string, unknown> {
    return Object.fromEntries(columns.map((column) => [
      column.name,
      value(column, of.name, column.name === 'organization_id' && !isHonest && chance(60)),
    ]))
  }

  function value({ name, type, labels }: Column, of: string, onlyOther: boolean): unknown {
    if (!onlyOther && !isHonest && chance(4)) return oneOf<unknown>(null, 'x', -1, {}, '')
    if (labels.length > 0) return pick(labels)
    switch (type) {
      case 'uuid': {
        if (!onlyOther && !isHonest && chance(4)) return '00000000-0000-4000-8000-000000000000'
        const whose = onlyOther || !isHonest && chance(60) ? other : own
        if (name === 'organization_id') return whose.organizationId
        return pick(whose.values.get(`${of}.${name}`) ?? whose.values.get(name) ?? whose.ids)
      }
      case 'uuid[]':
        return [pick(other.ids), pick(own.ids)]
      case 'text':
        // No ids: what is written into a text is read there again, and would say nothing.
        return oneOf(
          own.marker,
          'a',
          '+5511987654321',
          'Maria',
          'contacts',
          'messages',
          `${own.marker}@exemplo.com.br`,
        )
      case 'jsonb':
        return oneOf<unknown>({ k: own.marker }, {}, [])
      case 'boolean':
        return chance(50)
      case 'integer':
      case 'bigint':
      case 'smallint':
      case 'numeric':
        return random(40)
      case 'date':
        return '2026-11-20'
      case 'time without time zone':
        return '08:00'
      case 'timestamp with time zone':
        return oneOf('2020-01-06T12:00:00Z', '2026-11-20T12:00:00Z', '2027-02-01T12:00:00Z')
      default:
        return type.endsWith('[]') ? [own.marker] : own.marker
    }
  }

  function textOf(it: unknown): string {
    return typeof it === 'string' ? it : JSON.stringify(it) ?? 'null'
  }
}

/** Each function with each of its ids forged, and nothing else: what checks the first one may trust the second. */
export function* forgedCalls(random: Random, world: World, times: number): Generator<FuzzRequest> {
  for (const { name, isCallable, parameters } of world.catalog.functions) {
    if (!isCallable || LEFT_OUT.has(name)) continue
    for (const parameter of parameters.filter(({ type }) => type === 'uuid')) {
      for (let made = 0; made < times; made++) {
        yield randomRequest(random, world, { kinds: ['call'], at: name, forged: parameter.name })
      }
    }
  }
}

/** After which nothing of one's own is left: each relation emptied and overwritten without any condition, by each persona. */
export function finalRequests(world: World, at?: string): FuzzRequest[] {
  return world.catalog.relations.filter(({ name }) => at === undefined || name === at).flatMap((relation) =>
    world.personas.flatMap((persona): FuzzRequest[] => {
      const headers = {
        apikey: world.publishableKey,
        'content-type': 'application/json',
        prefer: 'return=minimal',
        ...(persona.token === null ? {} : { authorization: `Bearer ${persona.token}` }),
      }
      const path = `/rest/v1/${relation.name}`
      const texts = relation.columns.filter(({ type }) => type === 'text')
      return [
        ...texts.map(({ name }): FuzzRequest => ({
          kind: 'update',
          persona,
          method: 'PATCH',
          path,
          headers,
          body: JSON.stringify({ [name]: 'x' }),
          isOfOther: false,
        })),
        { kind: 'delete', persona, method: 'DELETE', path, headers, body: null, isOfOther: false },
      ]
    })
  )
}

// Asking ----------------------------------------------------------------------------------------------------------------

export async function fuzz(world: World, requests: Iterable<FuzzRequest>, atOnce = 12): Promise<FuzzOutcome> {
  const outcome: FuzzOutcome = { leaks: [], asked: 0, answers: new Map(), sawOwn: new Map(), reached: new Set() }
  const agent = new Agent({ keepAlive: true, maxSockets: atOnce })
  const others = new Set([world.other.organizationId, ...world.other.ids])
  const { written } = world
  const isEchoed = (id: string) => id !== world.other.organizationId && (written.get(id) ?? 0) > 0
  const iterator = requests[Symbol.iterator]()
  const count = (counts: Map<string, number>, what: string) => counts.set(what, (counts.get(what) ?? 0) + 1)

  const worker = async () => {
    for (let next = iterator.next(); !next.done && outcome.leaks.length < 10; next = iterator.next()) {
      const request = next.value
      const question = `${decodeURIComponent(request.path)} ${request.body ?? ''}`
      const sentIds = request.kind === 'read' ? [] : [...question.matchAll(UUIDS)].map(([id]) => id)
      // Before the answer: another member may read the row before its writer hears of it.
      for (const id of sentIds) written.set(id, (written.get(id) ?? 0) + 1)
      const answer = await send(world.api, agent, request)
      if (answer.status >= 400) { for (const id of sentIds) written.set(id, (written.get(id) ?? 0) - 1) }
      outcome.asked += 1
      count(outcome.answers, `${request.kind} ${Math.floor(answer.status / 100)}xx`)
      if (answer.status < 300) outcome.reached.add(request.path.replace(/^\/rest\/v1\/|\?.*$/g, ''))
      const all = `${answer.headers}\n${answer.text}`
      if (all.includes(world.own.marker) && !question.includes(world.own.marker)) {
        count(outcome.sawOwn, request.persona.name)
      }
      const reasons: string[] = []
      if (all.includes(world.other.marker)) reasons.push("the other tenant's marker")
      for (const [id] of all.matchAll(UUIDS)) {
        if (others.has(id) && !question.includes(id) && !isEchoed(id)) reasons.push(`the other tenant's id ${id}`)
      }
      if (request.kind === 'insert' && request.isOfOther && (answer.status < 300 || passedPolicies(answer))) {
        reasons.push('a row for the other tenant was taken, or refused by its constraints only')
      }
      if (request.kind === 'read' && request.isOfOther && answer.status < 300 && !isEmpty(request, answer)) {
        reasons.push('rows of the other tenant')
      }
      if (reasons.length > 0) {
        outcome.leaks.push(`${proof(request)}\n  ${answer.status}: ${reasons[0]}: ${answer.text.slice(0, 400)}`)
      }
    }
  }
  try {
    await Promise.all(Array.from({ length: atOnce }, worker))
  } finally {
    agent.destroy()
  }
  return outcome
}

/** A new row's policies are asked before its constraints. */
function passedPolicies({ text }: FuzzAnswer): boolean {
  return /"code":"(23502|23503|23505|23514|23P01)"/.test(text)
}

function isEmpty({ method, headers }: FuzzRequest, { text, contentRange }: FuzzAnswer): boolean {
  // Estimates are of the planner's, of all rows.
  if (headers['prefer']?.includes('count=exact') && !contentRange.endsWith('/0')) return false
  return method === 'HEAD' || !text.startsWith('[') || text.trim() === '[]'
}

function send(api: string, agent: Agent, { method, path, headers, body }: FuzzRequest): Promise<FuzzAnswer> {
  return new Promise((resolve, reject) => {
    const sent = httpRequest(`${api}${path}`, {
      method,
      agent,
      headers: { ...headers, ...(body === null ? {} : { 'content-length': Buffer.byteLength(body) }) },
    }, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('error', reject)
      response.on('end', () =>
        resolve({
          status: response.statusCode ?? 0,
          text: Buffer.concat(chunks).toString('utf8'),
          headers: response.rawHeaders.join('\n'),
          contentRange: String(response.headers['content-range'] ?? ''),
        }))
    })
    sent.on('error', reject)
    sent.end(body ?? undefined)
  })
}

/** To be tried again by hand. */
export function proof({ persona, method, path, headers, body }: FuzzRequest): string {
  const shown = Object.entries(headers).filter(([name]) => !['apikey', 'authorization', 'content-type'].includes(name))
  return [
    `as ${persona.name}: curl -X ${method} '$API${path}'`,
    ...shown.map(([name, it]) => `-H '${name}: ${it}'`),
    ...(body === null ? [] : [`-d '${body}'`]),
  ].join(' ')
}
