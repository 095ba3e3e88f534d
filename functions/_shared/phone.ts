// A Brazilian mobile has nine digits, but WhatsApp accounts made before 2016 keep an id with eight. Both are one
// person: the canonical form always has the ninth digit. tests/phone_numbers.csv is the shared table of this file
// and of the SQL functions private.phone_from_provider_id and private.phone_from_human_input.

const AREA_CODES = /^([14689][1-9]|2[12478]|3[1-578]|5[1345]|7[134579])$/

/** E.164 form of international digits; null when they are no phone number. */
function canonical(digits: string): string | null {
  if (!/^[1-9][0-9]{7,14}$/.test(digits)) return null
  if (!digits.startsWith('55')) return `+${digits}`

  const areaCode = digits.slice(2, 4)
  const subscriber = digits.slice(4)
  if (!AREA_CODES.test(areaCode)) return null
  if (/^(9[0-9]{8}|[2-5][0-9]{7})$/.test(subscriber)) return `+${digits}`
  if (/^[6-9][0-9]{7}$/.test(subscriber)) return `+55${areaCode}9${subscriber}`
  return null
}

/** A wa_id, a jid or Z-API's phone: always international. Groups, lids and BSUIDs carry no number. */
export function fromProviderId(id: string): string | null {
  const digits = /^ *\+?([0-9]+)(?::[0-9]+)?(?:@(?:s\.whatsapp\.net|c\.us))? *$/.exec(id)?.[1]
  return digits === undefined ? null : canonical(digits)
}

/**
 * What a person in Brazil typed: +55, a trunk 0 or a carrier code may be there or not. A number of another country
 * needs its "+"; one without area code is nobody's.
 */
export function fromHumanInput(input: string): string | null {
  const written = input
    .replace(/^ +| +$/g, '')
    .replace(/^(tel:|(https?:\/\/)?(www\.)?(wa\.me|api\.whatsapp\.com)\/)/i, '')
  if (!/^\+?[-0-9 ().\u00a0/]+$/.test(written)) {
    // An e-mail address, a BSUID or a name is no number, whatever digits it contains; a pasted jid is.
    return written.includes('@') ? fromProviderId(written) : null
  }

  let digits = written.replace(/[^0-9]/g, '')
  if (written.startsWith('+')) return canonical(digits)
  if (digits.startsWith('00')) return canonical(digits.slice(2))
  // The trunk prefix, then perhaps the two digits of a long-distance carrier (0 15 11 …).
  if (digits.startsWith('0')) digits = digits.slice(digits.length === 13 || digits.length === 14 ? 3 : 1)
  if (digits.length === 10 || digits.length === 11) return canonical(`55${digits}`)
  return digits.startsWith('55') ? canonical(digits) : null
}
