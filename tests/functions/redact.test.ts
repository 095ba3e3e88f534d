// What is kept of a call: enough to see what went wrong, and nothing of a person.
import assert from 'node:assert/strict'
import { apiCall, reasonOf, safeText } from '../../functions/_shared/redact.ts'

const TOKEN = 'EAAGm0PX4ZCpsBAKsomethinglong'

function kept(request: unknown, response: unknown = null, endpoint = '/v24.0/109876543210987/messages') {
  return apiCall({
    service: 'meta_graph',
    endpoint,
    method: 'POST',
    request,
    response,
    status: 200,
    responseTimeMs: 12.6,
    success: true,
    secrets: [TOKEN],
  })
}

Deno.test('a sent text is kept as its length, its recipient as the ends of the number', () => {
  assert.deepEqual(
    kept(
      {
        messaging_product: 'whatsapp',
        recipient_type: 'individual',
        to: '+5531987650003',
        type: 'text',
        text: { body: 'Sua limpeza é amanhã às 9h, Maria', preview_url: false },
        context: { message_id: 'wamid.HBgNNTUzMTk4NzY1MDAwMxUCABIYEDZFNzQA' },
        biz_opaque_callback_data: 'outbox:0193f2b4-0000-7000-8000-00000000a001',
      },
      {
        messaging_product: 'whatsapp',
        contacts: [{ input: '+5531987650003', wa_id: '553187650003' }],
        messages: [{ id: 'wamid.HBgMNTUzMTg3NjUwMDAzFQIAERgSODJGM0U5QzY5NURDNkI4RDFCAA==' }],
      },
    ),
    {
      service: 'meta_graph',
      endpoint: '/v24.0/109876543210987/messages',
      method: 'POST',
      request_data: {
        messaging_product: 'whatsapp',
        recipient_type: 'individual',
        to: '+553********03',
        type: 'text',
        text: { body: '[33 characters]', preview_url: false },
        context: { message_id: '…ABIYEDZFNzQA' },
        biz_opaque_callback_data: 'outbox:0193f2b4-0000-7000-8000-00000000a001',
      },
      response_data: {
        messaging_product: 'whatsapp',
        contacts: [{ input: '+553********03', wa_id: '5531******03' }],
        messages: [{ id: '…NkI4RDFCAA==' }],
      },
      status_code: 200,
      response_time_ms: 13,
      success: true,
    },
  )
})

Deno.test('nothing that somebody wrote survives in any type of message', () => {
  const written = [
    'Maria das Dores',
    'Rua das Acácias, 12',
    'Corte e escova',
    'Quinta às 15h',
    'opt-quinta-15',
    'https://exemplo.supabase.co/storage/v1/object/sign/media/x?token=segredo',
    'exame-maria.pdf',
    '5511987650001',
    '-23.561684',
    'BR.8841205577310094',
  ]
  const [name, street, body, title, id, link, filename, phone, , bsuid] = written
  const requests = [
    {
      type: 'interactive',
      interactive: { type: 'button', body: { text: body }, action: { buttons: [{ reply: { id, title } }] } },
    },
    {
      type: 'template',
      template: {
        name: 'lembrete',
        language: { code: 'pt_BR' },
        components: [{ type: 'body', parameters: [{ type: 'text', text: name }] }],
      },
    },
    { type: 'document', document: { link, filename, caption: body } },
    { type: 'location', location: { latitude: -23.561684, longitude: -46.655981, name, address: street } },
    {
      type: 'contacts',
      contacts: [{ name: { formatted_name: name }, phones: [{ phone, wa_id: phone, type: 'CELL' }] }],
    },
    { type: 'reaction', reaction: { message_id: 'wamid.HBgNNTUxMTk4NzY1MDAwMRUCABEY', emoji: '❤' } },
    { type: 'text', recipient: bsuid, text: { body: `${name} ${phone}` }, [`${name}`]: 1 },
  ]
  for (const request of requests) {
    const text = JSON.stringify(kept(request))
    for (const words of written) assert.ok(!text.includes(words), `${words} in ${text}`)
    assert.doesNotMatch(text, /❤|Mwamid|HBgN/)
    assert.match(text, /"type":"\w+"/)
  }
  assert.deepEqual(kept(requests[1]).request_data['template'], {
    name: 'lembrete',
    language: { code: 'pt_BR' },
    components: [{ type: 'body', parameters: [{ type: 'text', text: '[15 characters]' }] }],
  })
})

Deno.test('an error keeps its code and what Meta says, without what we said', () => {
  const request = { to: '+5531987650003', text: { body: 'Oi, Maria' } }
  const { response_data } = kept(request, {
    error: {
      message: `(#131009) Oi, Maria is not valid for +5531987650003`,
      type: 'OAuthException',
      code: 131009,
      error_data: { messaging_product: 'whatsapp', details: `Malformed access token ${TOKEN}` },
      fbtrace_id: 'Az8or2yhqkZfEZ-_4Qn_Bam',
    },
  })
  assert.deepEqual(response_data, {
    error: {
      message: '(#131009) […] is not valid for […]',
      type: 'OAuthException',
      code: 131009,
      error_data: { messaging_product: 'whatsapp', details: 'Malformed access token […]' },
      fbtrace_id: 'Az8or2yhqkZfEZ-_4Qn_Bam',
    },
  })
})

Deno.test('an address loses its query, its fragment and its credentials', () => {
  const endpoint = (address: string) => kept({}, null, address).endpoint
  assert.equal(
    endpoint('https://lookaside.fbsbx.com/whatsapp_business/attachments/?mid=1&hash=ATs'),
    'https://lookaside.fbsbx.com/whatsapp_business/attachments/',
  )
  assert.equal(endpoint('https://user:pass@host.example/x#token'), 'https://host.example/x')
  assert.equal(endpoint('/v24.0/1?access_token=x'), '/v24.0/1')
})

Deno.test('whatever the other side sends, what is kept is an object of bounded depth and width', () => {
  let nested: unknown = 'end'
  for (let depth = 0; depth < 100; depth++) nested = { contacts: nested }
  assert.match(JSON.stringify(kept(nested)), /\[too deep\]/)
  const wide = kept({ contacts: Array(1000).fill({ name: 'x' }) }).request_data['contacts']
  assert.ok(Array.isArray(wide) && wide.length === 30)
  assert.deepEqual(kept({ sha256: 'abc', '+5511987650001': 1 }).request_data, {
    sha256: '[3 characters]',
    '[a key]': '[a number]',
  })
  assert.deepEqual(kept('text').request_data, {})
  assert.equal(kept({}, 'text').response_data, null)
})

Deno.test('an explanation names no secret and no full number, and is one line', () => {
  const texts: [string, string][] = [
    ['Authorization: Bearer eyJhbGciOi.abc refused', 'Authorization: Bearer […] refused'],
    ['apikey sb_secret_abc123', 'apikey […]'],
    ['token EAAGm0PX4ZCps expired', 'token […] expired'],
    ['secret whsec_MfKQ9r8GKYqrTwjU leaked', 'secret […] leaked'],
    ['jwt eyJhbGciOiJI.eyJzdWIiOi.c2ln given', 'jwt […] given'],
    ['for https://x.example/sign/a?token=abc, retry', 'for https://x.example/sign/a retry'],
    ['to 5511987650001 failed', 'to 5511*******01 failed'],
    ['to +55 (11) 98765-0001 failed', 'to +55 *************01 failed'],
    ['connect to 127.0.0.1:54321 at 2026-11-21 15:18', 'connect to 127.0.0.1:54321 at 2026-11-21 15:18'],
    ['job 0193f2b4-0000-7000-8000-00000000a001', 'job 0193f2b4-0000-7000-8000-00000000a001'],
    ['two\nlines\u0000', 'two lines'],
  ]
  for (const [text, safe] of texts) assert.equal(safeText(text), safe)
  assert.equal(safeText('a'.repeat(5000)).length, 500)
  assert.equal(safeText('the password hunter22 is wrong', ['hunter22', 'is']), 'the password […] is wrong')
  assert.equal(reasonOf(new TypeError('')), 'TypeError')
  assert.equal(reasonOf('plain'), 'plain')
})
