// What Meta knows of a number, looked up where our stack keeps it: nothing is configured twice.

import type postgres from 'postgres'
import type { SecretOpener } from './secrets.ts'

export interface BusinessNumber {
  organizationId: string
  instanceId: string
  /** Meta's phone_number_id. */
  id: string
  name: string
  phoneNumber: string | null
  appKey: string
  appSecret: string
  accessToken: string | null
}

/** A person, by whichever id a business writes to him. */
export interface Recipient {
  /** As the business wrote it. */
  input: string
  /** With hidden phone numbers: null. */
  waId: string | null
  bsuid: string | null
}

const SERVICE_WINDOW = '24 hours'

/** A number may be connected under two apps, by two organizations: each has its own token. */
export async function numbersOf(
  sql: postgres.Sql,
  secrets: SecretOpener,
  phoneNumberId: string,
): Promise<BusinessNumber[]> {
  const rows = await sql<{
    organization_id: string
    instance_id: string
    name: string
    phone_number: string | null
    app_key: string
    app_organization_id: string | null
    app_secret: string
    access_token: string | null
  }[]>`
    select
      i.organization_id, i.id as instance_id, i.name, i.phone_number,
      a.app_key, a.organization_id as app_organization_id, a.app_secret, s.access_token
    from public.whatsapp_instances i
    join private.meta_apps a on a.app_key = i.meta_app_key
    left join private.instance_secrets s on s.organization_id = i.organization_id and s.instance_id = i.id
    where i.provider = 'meta_cloud' and i.status <> 'disconnected' and i.external_id = ${phoneNumberId}
    order by i.id desc`
  return await Promise.all(rows.map(async (row) => ({
    organizationId: row.organization_id,
    instanceId: row.instance_id,
    id: phoneNumberId,
    name: row.name,
    phoneNumber: row.phone_number,
    appKey: row.app_key,
    appSecret: await secrets.open(row.app_secret, row.app_organization_id, 'meta_app.app_secret'),
    accessToken: row.access_token === null
      ? null
      : await secrets.open(row.access_token, row.organization_id, 'instance.access_token'),
  })))
}

/** Whether the person wrote to the number within the service window, and what he calls himself. */
export async function acquaintance(
  sql: postgres.Sql,
  { organizationId, instanceId }: BusinessNumber,
  { waId, bsuid }: Recipient,
  now: Date,
): Promise<{ wroteLately: boolean; name: string | null }> {
  const [found] = await sql<{ wrote_lately: boolean; name: string | null }[]>`
    with people as (
      select c.id, c.profile_name
      from public.contacts c
      where c.organization_id = ${organizationId} and c.phone_number = private.phone_from_provider_id(${waId})
      union
      select c.id, c.profile_name
      from public.contact_identities d
      join public.contacts c on c.organization_id = d.organization_id and c.id = d.contact_id
      where d.organization_id = ${organizationId} and d.value in (${waId}, ${bsuid})
    )
    select
      (select max(p.profile_name) from people p) as name,
      exists (
        select
        from public.messages m
        where m.organization_id = ${organizationId}
          and m.instance_id = ${instanceId}
          and m.contact_id in (select p.id from people p)
          and m.direction = 'inbound'
          and m.sender = 'contact'
          and least(m.sent_at, m.created_at) > ${now}::timestamptz - ${SERVICE_WINDOW}::interval
      ) as wrote_lately`
  return { wroteLately: found?.wrote_lately ?? false, name: found?.name ?? null }
}

// Ids of people ----------------------------------------------------------------------------------------------------

const COUNTRY_CODE = '55'
const BSUID = /^[A-Z]{2}\.(?:ENT\.)?[A-Za-z0-9]{1,128}$/

export function isBsuid(text: string): boolean {
  return BSUID.test(text)
}

/**
 * The digits of an international number as a business writes it in "to"; null when it is none. Without "+" Meta takes
 * it for a number of the business's own country: "5511…" is then one with two country codes, and reaches nobody.
 */
export function internationalDigits(to: string): string | null {
  if (!/^[+\d][\d\s()-]*$/.test(to)) return null
  const digits = to.replaceAll(/\D/g, '')
  const international = to.startsWith('+') ? digits : COUNTRY_CODE + digits
  return /^[1-9]\d{6,14}$/.test(international) ? international : null
}

/** Brazilian numbers have eight or nine digits after the area code. */
export function canExist(digits: string): boolean {
  return !digits.startsWith(COUNTRY_CODE) || /^55[1-9]\d(?:9\d{8}|[2-9]\d{7})$/.test(digits)
}

/** WhatsApp's id of a number: from area code 31 on, mobile numbers are without their ninth digit. */
export function waIdOf(digits: string): string {
  return digits.replace(/^(55(?:3[1-9]|[4-9][1-9]))9([6-9]\d{7})$/, '$1$2')
}
