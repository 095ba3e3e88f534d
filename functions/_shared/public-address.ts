// Where a webhook may go. The address is a customer's, the connection is ours: it must not reach what only our network
// reaches (another service, the machine itself, the metadata of its cloud).
//
// What is checked is every address of the host, at every attempt, just before connecting. The connection then resolves
// the name once more, so that a name server that answers differently the second time gets a connection to an address
// that nobody checked. Deno's fetch cannot be told which address to take for an https host. What that leaves is small:
// the server there would have to show a certificate for the customer's own name before anything is sent or read, so
// that all that can be learnt is whether a port is open.
import { lookup } from 'node:dns/promises'
import ipaddr from 'ipaddr.js'

/** Every address of a name, IPv4 and IPv6, as connecting to it finds them. */
export type Resolve = (hostname: string) => Promise<string[]>

export interface AddressRules {
  /** For tests: http and the machine's own loopback addresses as well. Nothing else. */
  allowLoopback: boolean
}

/** A reason to send nothing there, worded for whoever registered the address. */
export class RefusedAddress extends Error {
  override readonly name = 'RefusedAddress'
}

/** The name has no address, which a typing error explains and so does an outage. */
export class UnresolvedHost extends Error {
  override readonly name = 'UnresolvedHost'
}

export const systemResolve: Resolve = async (hostname) => {
  const found = await lookup(hostname, { all: true })
  return found.map(({ address }) => address)
}

// Names that mean something inside a network only, or nothing at all, whatever they resolve to today.
const INTERNAL_NAMES = [
  'localhost',
  'local',
  'localdomain',
  'internal',
  'intranet',
  'private',
  'corp',
  'home',
  'home.arpa',
  'lan',
  'svc',
  'onion',
  'test',
  'example',
  'invalid',
]

/** Refuses what needs no name server to be refused. The URL parser has written every spelling of an IPv4 address as four decimals. */
export function parseReceiverUrl(text: string, { allowLoopback }: AddressRules): URL {
  if (!URL.canParse(text)) throw new RefusedAddress('this is not an address')
  const url = new URL(text)
  if (url.protocol !== 'https:' && !(allowLoopback && url.protocol === 'http:')) {
    throw new RefusedAddress('the address must begin with https://')
  }
  if (url.username !== '' || url.password !== '') {
    throw new RefusedAddress('the address must not carry a user or a password')
  }
  if (url.hash !== '') throw new RefusedAddress('the address must not have a fragment')
  // Below 1024 live the services that a request could be mistaken by: mail, file shares, remote shells.
  if (url.port !== '' && Number(url.port) < 1024) {
    throw new RefusedAddress('the port must be 443, or 1024 and above')
  }
  const literal = literalOf(url)
  if (literal !== null) {
    requireAllowed([literal], url, allowLoopback)
  } else if (isInternalName(url.hostname) && !(allowLoopback && withoutDots(url.hostname) === 'localhost')) {
    throw new RefusedAddress('the host is not a public name')
  }
  return url
}

/** Refuses a host with any address that is not public. Throws the signal's reason when that takes too long. */
export async function requirePublicHost(
  url: URL,
  resolve: Resolve,
  { allowLoopback }: AddressRules,
  signal: AbortSignal,
): Promise<void> {
  const literal = literalOf(url)
  const addresses = literal === null
    ? await untilAborted(resolve(url.hostname).catch(() => []), signal)
    : [literal]
  if (addresses.length === 0) throw new UnresolvedHost('the host has no address')
  requireAllowed(addresses, url, allowLoopback)
}

/** A name server that does not answer cannot be told to stop; one can stop waiting for it. */
async function untilAborted<Result>(work: Promise<Result>, signal: AbortSignal): Promise<Result> {
  signal.throwIfAborted()
  const { promise: aborted, reject } = Promise.withResolvers<never>()
  const abort = () => reject(signal.reason)
  signal.addEventListener('abort', abort)
  try {
    return await Promise.race([work, aborted])
  } finally {
    signal.removeEventListener('abort', abort)
  }
}

function requireAllowed(addresses: string[], url: URL, allowLoopback: boolean): void {
  const isHttp = url.protocol === 'http:'
  for (const address of addresses) {
    if (allowLoopback && isLoopback(address)) continue
    // The address itself is not repeated: a customer shall not learn what our name servers know.
    if (!isPublic(address)) throw new RefusedAddress('the host is not on the public internet')
    if (isHttp) throw new RefusedAddress('the address must begin with https://')
  }
}

// In the public ranges by its number, and yet the platform's own side of every virtual machine of a large cloud.
const PLATFORM_ADDRESSES = ['168.63.129.16']
const GLOBAL_UNICAST = ipaddr.IPv6.parseCIDR('2000::/3')
const NAT64 = ipaddr.IPv6.parseCIDR('64:ff9b::/96')

/** Whether an address belongs to the public internet and to one machine there. */
export function isPublic(address: string): boolean {
  if (!ipaddr.isValid(address)) return false
  const parsed = ipaddr.parse(address)
  if (parsed instanceof ipaddr.IPv4) {
    return parsed.range() === 'unicast' && !PLATFORM_ADDRESSES.includes(parsed.toString())
  }
  // In a network without IPv4 every IPv4 host looks like this; it is what it leads to that counts.
  if (parsed.match(NAT64)) return isPublic(ipaddr.fromByteArray(parsed.toByteArray().slice(12)).toString())
  // Of the other forms that carry an IPv4 address (mapped, compatible, 6to4, Teredo, local NAT64) no name server
  // answers any with good reason; `unicast` is none of them.
  return parsed.range() === 'unicast' && parsed.match(GLOBAL_UNICAST)
}

function isLoopback(address: string): boolean {
  return ipaddr.isValid(address) && ipaddr.parse(address).range() === 'loopback'
}

/** The IP address that a URL names directly. */
function literalOf(url: URL): string | null {
  const host = withoutDots(url.hostname).replace(/^\[|\]$/g, '')
  return ipaddr.isValid(host) ? host : null
}

function isInternalName(hostname: string): boolean {
  const name = withoutDots(hostname)
  return !name.includes('.') || INTERNAL_NAMES.some((internal) => name.endsWith(`.${internal}`))
}

function withoutDots(hostname: string): string {
  return hostname.replace(/\.+$/, '')
}
