// What an app may hand to send_message, beside its content: what the types say, the database says too, and a text is
// sent as it is.
import assert from 'node:assert/strict'
import { outboundPayload } from '../../types/outbound.ts'

const button = (title: string, id = 'a') => ({ type: 'button', buttons: [{ id, title }] })
const list = (row: Record<string, unknown>, more = {}) => ({
  type: 'list',
  button: 'Ver',
  sections: [{ rows: [{ id: 'a', title: 'Manhã', ...row }] }],
  ...more,
})

Deno.test('what is sent is what was said, spaces at its ends included', () => {
  const payloads = [
    button(' Sim '),
    list({ title: ' Tarde', description: ' ' }, { button: 'Ver horários ' }),
    { link: 'https://exemplo.com.br/a%20b.pdf', filename: ' exame.pdf' },
    { path: "media/0193f2b4-0000-7000-8000-00000000c111/outgoing/Maria's exame (1).pdf" },
    { path: 'media/0193f2b4-0000-7000-8000-00000000c111/.../x..y' },
    { message_id: 'wamid.x', emoji: '' },
    { latitude: -23.5, longitude: -46.6, name: 'Clínica', address: '' },
    { name: 'lembrete', language: 'pt_BR', components: [{ type: 'body' }] },
    { preview_url: true },
  ]
  for (const payload of payloads) assert.deepEqual(outboundPayload.parse(payload), payload)
})

Deno.test('a limit counts letters, and the spaces at their ends', () => {
  const fits = [
    button('🦷'.repeat(20)),
    button(` ${'a'.repeat(18)} `),
    list({ description: '🦷'.repeat(72) }),
  ]
  const tooLong = [
    button('🦷'.repeat(21)),
    button(` ${'a'.repeat(19)} `),
    button('Sim', `${'a'.repeat(256)} `),
    list({ title: `${'a'.repeat(24)} ` }),
    list({ description: '🦷'.repeat(73) }),
    { message_id: 'wamid.x', emoji: '🦷'.repeat(21) },
    { link: 'https://exemplo.com.br/x', filename: `${'a'.repeat(240)} ` },
    { link: `https://exemplo.com.br/${'a'.repeat(2000)}` },
  ]
  for (const payload of fits) assert.deepEqual(outboundPayload.parse(payload), payload)
  for (const payload of tooLong) assert.equal(outboundPayload.safeParse(payload).success, false)
})

Deno.test('a title of spaces only is none', () => {
  for (const blank of ['', ' ', '\n\t', '\u00a0']) {
    const payloads = [
      button(blank),
      button('Sim', blank),
      { ...button('Sim'), header: blank },
      { ...button('Sim'), footer: blank },
      list({ title: blank }),
      list({}, { button: blank }),
      { link: 'https://exemplo.com.br/x', filename: blank },
      { message_id: blank, emoji: '👍' },
    ]
    for (const payload of payloads) {
      assert.equal(outboundPayload.safeParse(payload).success, false, JSON.stringify(payload))
    }
  }
})

Deno.test('a file has one address, and it leads to one file', () => {
  const links = [
    'https://',
    'https:///x',
    'http://exemplo.com.br/x',
    ' https://exemplo.com.br/x',
    'https://exemplo.com.br/x ',
  ]
  const folder = 'media/0193f2b4-0000-7000-8000-00000000c111'
  const paths = [
    `${folder}/`,
    folder,
    'media/x',
    'x/y/z',
    `${folder}//x`,
    `${folder}/../y/x`,
    `${folder}/./x`,
    `${folder}/%2e%2e/y/x`,
    `${folder}/x\\..\\y`,
    `${folder}/x?y`,
    `${folder}/x#y`,
    `${folder}/.\t./y`,
    `${folder}/x\u007f`,
  ]
  for (const link of links) assert.equal(outboundPayload.safeParse({ link }).success, false, link)
  for (const path of paths) assert.equal(outboundPayload.safeParse({ path }).success, false, path)
})
