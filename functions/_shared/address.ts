// Where a request came from, as far as somebody says so whom we may believe.
import ipaddr from 'ipaddr.js'

/**
 * By what a caller is counted: an IPv4 address, or the network of an IPv6 one, for whoever has one of those has all of
 * it. private.request_ip() and private.network_of() say the same in SQL.
 */
export function networkOf(request: Request): string {
  // Cloudflare's own, which stands before a hosted project and lets nobody else write it; then what the local gateway and
  // other proxies say.
  const said = request.headers.get('cf-connecting-ip') ?? request.headers.get('x-real-ip') ??
    request.headers.get('x-forwarded-for')?.split(',')[0]
  const address = said?.trim() ?? ''
  // Who says nothing is counted with all the others who say nothing.
  if (!ipaddr.isValid(address)) return 'unknown'
  const parsed = ipaddr.process(address)
  return parsed.kind() === 'ipv4'
    ? parsed.toString()
    : ipaddr.fromByteArray([...parsed.toByteArray().slice(0, 8), ...Array<number>(8).fill(0)]).toString()
}
