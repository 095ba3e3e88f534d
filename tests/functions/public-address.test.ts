// Which receivers are refused, and above all in which disguises.
import assert from 'node:assert/strict'
import {
  isPublic,
  parseReceiverUrl,
  RefusedAddress,
  requirePublicHost,
  type Resolve,
  UnresolvedHost,
} from '../../functions/_shared/public-address.ts'

const STRICT = { allowLoopback: false }
const LOOPBACK = { allowLoopback: true }
const never = new AbortController().signal
const answering = (...addresses: string[]): Resolve => () => Promise.resolve(addresses)

Deno.test('addresses of the public internet are public', () => {
  for (
    const address of [
      '8.8.8.8',
      '1.1.1.1',
      '177.71.128.21',
      '100.63.255.255',
      '100.128.0.0',
      '172.15.255.255',
      '172.32.0.1',
      '192.167.255.255',
      '223.255.255.255',
      '2606:4700:4700::1111',
      '2800:3f0:4001:80b::200e',
      // What a name server of a network without IPv4 makes of 8.8.8.8.
      '64:ff9b::808:808',
    ]
  ) assert.equal(isPublic(address), true, address)
})

Deno.test('every other address is not, whatever it is wrapped in', () => {
  for (
    const address of [
      // This network, private, shared, loopback, link-local with the metadata of clouds.
      '0.0.0.0',
      '0.1.2.3',
      '10.0.0.1',
      '10.255.255.255',
      '100.64.0.0',
      '100.127.255.255',
      '100.100.100.200',
      '127.0.0.1',
      '127.255.255.254',
      '169.254.169.254',
      '169.254.170.2',
      '172.16.0.1',
      '172.31.255.255',
      '192.168.0.1',
      '168.63.129.16',
      // Assigned by protocols, benchmarks, documentation, multicast, reserved, broadcast.
      '192.0.0.1',
      '192.0.0.192',
      '192.0.2.1',
      '192.88.99.1',
      '198.18.0.1',
      '198.19.255.255',
      '198.51.100.7',
      '203.0.113.7',
      '224.0.0.1',
      '239.255.255.255',
      '240.0.0.1',
      '255.255.255.255',
      // The same in IPv6.
      '::',
      '::1',
      'fc00::1',
      'fd00:ec2::254',
      'fd20:ce::254',
      'fe80::1',
      'fe80::1%eth0',
      'fec0::1',
      'ff02::1',
      '100::1',
      '2001:db8::1',
      '2001:2::1',
      '3fff::1',
      '5f00::1',
      '4000::1',
      // IPv4 inside IPv6: mapped, compatible, translated, NAT64, 6to4, Teredo.
      '::ffff:127.0.0.1',
      '::ffff:8.8.8.8',
      '::ffff:a9fe:a9fe',
      '::127.0.0.1',
      '::8.8.8.8',
      '::ffff:0:10.0.0.1',
      '64:ff9b::10.0.0.1',
      '64:ff9b::a9fe:a9fe',
      '64:ff9b::7f00:1',
      '64:ff9b:1::8.8.8.8',
      '64:ff9b:1::a00:1',
      '2002:a00:1::1',
      '2002:7f00:1::',
      '2001:0:a00:1::1',
      // Nothing at all.
      '',
      'localhost',
      '8.8.8.8.8',
    ]
  ) assert.equal(isPublic(address), false, address)
})

Deno.test('a URL is refused for what it says itself', async (test) => {
  const refused: [string, RegExp][] = [
    ['', /not an address/],
    ['exemplo.com.br', /not an address/],
    ['https://', /not an address/],
    ['https://256.256.256.256/', /not an address/],
    ['http://exemplo.com.br/', /https/],
    ['ftp://exemplo.com.br/', /https/],
    ['file:///etc/passwd', /https/],
    ['data:text/plain,x', /https/],
    ['https://user@exemplo.com.br/', /user or a password/],
    ['https://:senha@exemplo.com.br/', /user or a password/],
    ['https://exemplo.com.br@10.0.0.1/', /user or a password/],
    ['https://exemplo.com.br/#parte', /fragment/],
    ['https://exemplo.com.br:22/', /port/],
    ['https://exemplo.com.br:80/', /port/],
    ['https://exemplo.com.br:0/', /port/],
    ['https://exemplo.com.br:1023/', /port/],
    ['https://localhost/', /public name/],
    ['https://LOCALHOST./', /public name/],
    ['https://api.localhost/', /public name/],
    ['https://impressora.local/', /public name/],
    ['https://metadata.google.internal/', /public name/],
    ['https://metadata.google.internal./', /public name/],
    ['https://metadata.google.internal../', /public name/],
    ['https://localhost../', /public name/],
    ['https://kubernetes.default.svc/', /public name/],
    ['https://kubernetes.default.svc.cluster.local/', /public name/],
    ...['lan', 'corp', 'home', 'intranet', 'private', 'test', 'example', 'invalid', 'onion'].map((
      name,
    ): [string, RegExp] => [`https://crm.${name}/`, /public name/]),
    ['https://roteador.home.arpa/', /public name/],
    ['https://kong:8000/', /public name/],
    ['https://com./', /public name/],
    ['https://10.0.0.1/', /public internet/],
    ['https://169.254.169.254/latest/meta-data/', /public internet/],
    ['https://127.0.0.1:8443/', /public internet/],
    ['https://127.0.0.1./', /public internet/],
    ['https://[::1]/', /public internet/],
    ['https://[fd00:ec2::254]/', /public internet/],
    ['https://[::ffff:169.254.169.254]/', /public internet/],
    ['https://[64:ff9b::a9fe:a9fe]/', /public internet/],
    ['https://[2002:7f00:1::]/', /public internet/],
    // Other spellings of 127.0.0.1: decimal, hexadecimal, octal, shortened, with other digits, escaped.
    ['https://2130706433/', /public internet/],
    ['https://0x7f000001/', /public internet/],
    ['https://0x7f.1/', /public internet/],
    ['https://0177.0.0.01/', /public internet/],
    ['https://127.1/', /public internet/],
    ['https://１２７.０.０.１/', /public internet/],
    ['https://127。0。0。1/', /public internet/],
    ['https://①②⑦.0.0.1/', /public internet/],
    ['https://%31%32%37.0.0.1/', /public internet/],
    ['https:\\\\127.0.0.1/', /public internet/],
    // And of 169.254.169.254.
    ['https://2852039166/', /public internet/],
    ['https://0xa9.0xfe.0xa9.0xfe/', /public internet/],
    ['https://0251.0376.0251.0376/', /public internet/],
    ['https://0/', /public internet/],
  ]
  for (const [url, reason] of refused) {
    await test.step(url || 'nothing', () => {
      assert.throws(
        () => parseReceiverUrl(url, STRICT),
        (error) => error instanceof RefusedAddress && reason.test(error.message),
      )
    })
  }
})

Deno.test('a URL is accepted with 443 or a port of 1024 and above', () => {
  for (
    const url of [
      'https://exemplo.com.br/',
      'https://exemplo.com.br:443/ganchos?chave=1',
      'https://exemplo.com.br:1024/',
      'https://exemplo.com.br:8443/',
      'https://exemplo.com.br.:8443/',
      'https://clínica.exemplo.com.br/',
      'https://8.8.8.8/',
      'https://[2606:4700:4700::1111]:8443/',
    ]
  ) assert.equal(parseReceiverUrl(url, STRICT).href, new URL(url).href)
})

Deno.test('a name is refused when any of its addresses is not public', async () => {
  const url = new URL('https://exemplo.com.br/')
  await requirePublicHost(url, answering('8.8.8.8', '2606:4700:4700::1111'), STRICT, never)
  for (const address of ['10.0.0.1', '::1', '::ffff:10.0.0.1', '169.254.169.254', 'fe80::1%2', 'nonsense']) {
    for (const addresses of [[address], ['8.8.8.8', address], [address, '8.8.8.8']]) {
      await assert.rejects(
        requirePublicHost(url, answering(...addresses), STRICT, never),
        (error) => error instanceof RefusedAddress && !error.message.includes(address),
      )
    }
  }
})

Deno.test('an IP address asks no name server, and is checked all the same', async () => {
  const unasked: Resolve = () => Promise.reject(new Error('was asked'))
  await requirePublicHost(new URL('https://8.8.8.8/'), unasked, STRICT, never)
  await requirePublicHost(new URL('https://[2606:4700:4700::1111]/'), unasked, STRICT, never)
  for (const host of ['10.0.0.1', '[::1]']) {
    await assert.rejects(
      requirePublicHost(new URL(`https://${host}/`), unasked, STRICT, never),
      RefusedAddress,
    )
  }
})

Deno.test('a name without address, or whose name server fails, is unresolved', async () => {
  const url = new URL('https://exemplo.com.br/')
  await assert.rejects(requirePublicHost(url, answering(), STRICT, never), UnresolvedHost)
  const failing: Resolve = () => Promise.reject(new Error('getaddrinfo ENOTFOUND'))
  await assert.rejects(requirePublicHost(url, failing, STRICT, never), UnresolvedHost)
})

Deno.test('nobody waits for a name server that says nothing', async () => {
  const silent: Resolve = () => new Promise(() => undefined)
  const impatience = new AbortController()
  const waiting = requirePublicHost(new URL('https://exemplo.com.br/'), silent, STRICT, impatience.signal)
  impatience.abort(new Error('long enough'))
  await assert.rejects(waiting, /long enough/)
  await assert.rejects(
    requirePublicHost(new URL('https://exemplo.com.br/'), silent, STRICT, impatience.signal),
    /long enough/,
  )
})

Deno.test('where tests allow loopback, http and loopback are allowed and nothing else', async () => {
  for (
    const url of [
      'http://127.0.0.1:4000/',
      'http://127.9.9.9:4000/',
      'http://[::1]:4000/',
      'http://localhost:4000/',
      'https://localhost:4000/',
    ]
  ) assert.equal(parseReceiverUrl(url, LOOPBACK).href, url)

  for (
    const url of [
      'http://10.0.0.1:4000/',
      'http://0.0.0.0:4000/',
      'http://[::]:4000/',
      'http://[::ffff:127.0.0.1]:4000/',
      'https://192.168.0.1/',
      'https://169.254.169.254/',
      'http://8.8.8.8/',
      'http://kong:8000/',
      'http://api.internal:8000/',
      'http://user@127.0.0.1:4000/',
      'http://127.0.0.1:22/',
    ]
  ) assert.throws(() => parseReceiverUrl(url, LOOPBACK), RefusedAddress, url)

  const http = new URL('http://exemplo.com.br:4000/')
  await requirePublicHost(http, answering('127.0.0.1', '::1'), LOOPBACK, never)
  await requirePublicHost(
    new URL('https://exemplo.com.br/'),
    answering('8.8.8.8', '127.0.0.1'),
    LOOPBACK,
    never,
  )
  for (const address of ['8.8.8.8', '10.0.0.1', '0.0.0.0', '::ffff:127.0.0.1']) {
    await assert.rejects(
      requirePublicHost(http, answering('127.0.0.1', address), LOOPBACK, never),
      RefusedAddress,
      address,
    )
  }
})
