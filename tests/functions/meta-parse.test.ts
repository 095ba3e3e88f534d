// Every sample of Meta's deliveries against what it means, written by hand; then the shapes that the samples lack.
import assert from 'node:assert/strict'
import { parse } from '../../functions/_shared/providers/meta/parse.ts'
import { asJson, sample, sampleNames } from './support.ts'

const NUMBER = '109876543210987'
const RECEIVED_AT = new Date('2026-11-20T13:00:00Z')

const MARIA = {
  identities: [{ kind: 'wa_id', value: '5511987650001' }],
  phone_number: '+5511987650001',
  profile_name: 'Maria Aparecida da Conceição',
  whatsapp_chat_id: '5511987650001',
}
const JOAO = {
  identities: [{ kind: 'wa_id', value: '5511987650002' }],
  phone_number: '+5511987650002',
  profile_name: 'João Gonçalves 🧔',
  whatsapp_chat_id: '5511987650002',
}
const BEATRIZ = {
  identities: [{ kind: 'wa_id', value: '5521987650004' }],
  phone_number: '+5521987650004',
  profile_name: 'Beatriz Araújo',
  whatsapp_chat_id: '5521987650004',
}
const CAROL = {
  identities: [{ kind: 'bsuid', value: 'BR.8841205577310094' }],
  phone_number: null,
  profile_name: 'Carol ✨',
  whatsapp_chat_id: 'BR.8841205577310094',
}

/** A message event; what is not said is null or empty. */
function message(person: object, id: string, sentAt: string, said: object) {
  return {
    kind: 'message',
    whatsapp_message_id: `wamid.${id}`,
    sent_at: `2026-11-20T${sentAt}.000Z`,
    ...person,
    message_type: 'text',
    content: null,
    media: null,
    reply_to_whatsapp_message_id: null,
    metadata: {},
    ...said,
  }
}

/** The customer to whom a message went, by the ids that its status names. */
function to(wa_id: string, phone_number = `+${wa_id}`, bsuid?: string) {
  const identities = [{ kind: 'wa_id', value: wa_id }]
  if (bsuid !== undefined) identities.push({ kind: 'bsuid', value: bsuid })
  return { identities, phone_number }
}

function status(id: string, value: string, occurredAt: string, more: object = {}) {
  return {
    kind: 'status',
    ...to('5511987650001'),
    whatsapp_message_id: `wamid.${id}`,
    status: value,
    occurred_at: `2026-11-20T${occurredAt}.000Z`,
    message_id: null,
    error_code: null,
    error_message: null,
    metadata: {},
    ...more,
  }
}

function failure(code: string, title: string, details: string) {
  return {
    error_code: code,
    error_message: details,
    metadata: {
      errors: [{
        code: Number(code),
        title,
        message: title,
        error_data: { details },
        href: '/documentation/business-messaging/whatsapp/support/error-codes',
      }],
    },
  }
}

function mediaUrl(id: string) {
  return 'https://lookaside.fbsbx.com/whatsapp_business/attachments/' +
    `?mid=${id}&source=webhook&ext=1795176300&hash=ARm_ficticio`
}

interface Expected {
  external_id?: string | null
  event_type?: string
  unknown?: number
  events: object[]
}

const TEXT_EVENT = message(
  MARIA,
  'HBgNNTUxMTk4NzY1MDAwMRUCABIYFDNBRENGNTg1MDBCNEI0RTgzRUU0AA==',
  '12:00:05',
  {
    content: 'Olá! Gostaria de marcar uma limpeza de pele para sexta às 15h. Vocês têm horário? 😊',
  },
)
const UTILITY = { billable: true, pricing_model: 'PMP', type: 'regular', category: 'utility' }

const EXPECTED: Record<string, Expected> = {
  'text': { events: [TEXT_EVENT] },
  'redelivery-of-meta-text': { events: [TEXT_EVENT] },
  'text-reply-with-context': {
    events: [message(MARIA, 'HBgNNTUxMTk4NzY1MDAwMRUCABIYFDNBRUVBRkM0RTFENTg5QkFDOTQzAA==', '12:01:00', {
      content: 'Sim, pode confirmar 👍',
      reply_to_whatsapp_message_id: 'wamid.HBgNNTUxMTk4NzY1MDAwMRUCABEYEjY3NzYxMjgyODdFRjJDQjhFQQA=',
    })],
  },
  'text-referral-ctwa-ad': {
    events: [message(BEATRIZ, 'HBgNNTUyMTk4NzY1MDAwNBUCABIYFDNBODEyRDU3RjdCRThCNUQxNjk0AA==', '12:01:20', {
      content: 'Olá! Vi o anúncio de clareamento e quero saber o preço.',
      metadata: {
        referral: {
          source_url: 'https://fb.me/aBcD1eFgH',
          source_id: '120226305854810726',
          source_type: 'ad',
          body: 'Sorriso mais branco em 1 sessão ✨',
          headline: 'Agende sua avaliação',
          media_type: 'image',
          image_url: 'https://scontent.xx.fbcdn.net/v/t45.1600-4/ficticio.jpg',
          ctwa_clid: 'Aff-n8ZTODiE79d22KtAwQKj9e_ficticio',
          welcome_message: { text: 'Oi! Como podemos ajudar?' },
        },
      },
    })],
  },
  'text-wa-id-without-ninth-digit': {
    external_id: '118765432109876',
    events: [message(
      {
        identities: [{ kind: 'wa_id', value: '553187650003' }],
        phone_number: '+5531987650003',
        profile_name: 'Ana Lúcia',
        whatsapp_chat_id: '553187650003',
      },
      'HBgMNTUzMTg3NjUwMDAzFQIAEhgUM0EwRTU5REQ2MDNCQkI4M0Y5MTkA',
      '12:01:30',
      { content: 'Boa tarde, é a Ana. Quero um horário com a manicure.' },
    )],
  },
  'text-bsuid-with-phone': {
    events: [message(
      {
        identities: [
          { kind: 'wa_id', value: '5585987650005' },
          { kind: 'bsuid', value: 'BR.1502576394655843' },
        ],
        phone_number: '+5585987650005',
        profile_name: 'Leonardo Sá',
        whatsapp_chat_id: '5585987650005',
      },
      'HBgNNTU4NTk4NzY1MDAwNRUCABIYFDNBMUU4QkNEMUZDMTAxQzhEMkIyAA==',
      '12:01:40',
      { content: 'Oi, tudo bem? Vocês atendem aos domingos?' },
    )],
  },
  'text-bsuid-no-phone': {
    events: [message(CAROL, 'HBgDMDAwFQIAEhgUM0FCRDkyNEUxMzAwMDc3RUY3MjkA', '12:01:50', {
      content: 'Olá, peguei o contato de vocês no Instagram 💅',
      metadata: { username: '@carol.nails' },
    })],
  },
  'text-opt-out': {
    events: [message(JOAO, 'HBgNNTUxMTk4NzY1MDAwMhUCABIYFDNBN0REOTE2MDMxOEI2RjIwOUUzAA==', '12:02:00', {
      content: 'SAIR',
    })],
  },
  'text-html-and-quotes': {
    events: [message(JOAO, 'HBgNNTUxMTk4NzY1MDAwMhUCABIYFDNBRjI1M0ZGM0I3QzY0NzZFMEVCAA==', '12:02:01', {
      content: `<b>oi</b> "teste" \\ 'aspas' ; -- {{1}} https://exemplo.com.br/?a=1&b=2`,
    })],
  },
  'image-with-caption': {
    events: [message(MARIA, 'HBgNNTUxMTk4NzY1MDAwMRUCABIYFDNBRDdCREQ1NDVGMDlEOEE3M0MyAA==', '12:02:10', {
      message_type: 'image',
      content: 'É este corte que eu quero ✂️',
      media: {
        id: '1237210326921373',
        mime_type: 'image/jpeg',
        sha256: '173VRfCdinPCuZAzfIIR1wigTM2XSGJ2heT8ecwDgDk=',
        url: mediaUrl('1237210326921373'),
      },
    })],
  },
  'audio-voice-note': {
    events: [message(JOAO, 'HBgNNTUxMTk4NzY1MDAwMhUCABIYFDNBMUQwNUQ1REIxODI2MTgxOUJCAA==', '12:02:20', {
      message_type: 'audio',
      media: {
        id: '1031910899947558',
        mime_type: 'audio/ogg; codecs=opus',
        sha256: 'HQXV2xgmGBm7xxd2dgPd0HcVrrLF7sDTainZQAwLad4=',
        voice: true,
        url: mediaUrl('1031910899947558'),
      },
    })],
  },
  'document-pdf': {
    events: [message(JOAO, 'HBgNNTUxMTk4NzY1MDAwMhUCABIYFDNBQzYzRUJEQ0JFMDBDMDZCN0Q5AA==', '12:02:30', {
      message_type: 'document',
      content: 'Segue o exame',
      media: {
        id: '1217972774526988',
        mime_type: 'application/pdf',
        sha256: 'xj69y+AMBrfZMUMFa+K7N9ftx3xQdsHdOxyZMfNt24o=',
        filename: 'Exame de Sangue - João Gonçalves (nov-2026).pdf',
        url: mediaUrl('1217972774526988'),
      },
    })],
  },
  'video': {
    events: [message(BEATRIZ, 'HBgNNTUyMTk4NzY1MDAwNBUCABIYFDNBMTAyRTRCNTA3QTlFQkUwQTJCAA==', '12:02:40', {
      message_type: 'video',
      content: 'barulho no motor 🚗',
      media: {
        id: '1017791018105502',
        mime_type: 'video/mp4',
        sha256: 'EC5LUHqevgorn+u0ePegmhoy0QbK5E5PkKnWyEYDPSc=',
        url: mediaUrl('1017791018105502'),
      },
    })],
  },
  'sticker-animated': {
    events: [message(BEATRIZ, 'HBgNNTUyMTk4NzY1MDAwNBUCABIYFDNBMzQ3QjQwMzE0NTJENjgwNDNEAA==', '12:02:50', {
      message_type: 'sticker',
      media: {
        id: '1057703962592557',
        mime_type: 'image/webp',
        sha256: 'NHtAMUUtaAQ9shw9vBoRbzY4pYQOuyPnzuYVNq7ma2s=',
        animated: true,
        url: mediaUrl('1057703962592557'),
      },
    })],
  },
  'location-named': {
    events: [message(MARIA, 'HBgNNTUxMTk4NzY1MDAwMRUCABIYFDNBQjk4Mzg2OUNGRUE5QzAwRDBCAA==', '12:03:00', {
      message_type: 'location',
      content: 'MASP\nAv. Paulista, 1578 - Bela Vista, São Paulo - SP',
      metadata: {
        location: {
          latitude: -23.561414,
          longitude: -46.655881,
          name: 'MASP',
          address: 'Av. Paulista, 1578 - Bela Vista, São Paulo - SP',
          url: 'https://masp.org.br/',
        },
      },
    })],
  },
  'location-coordinates-only': {
    events: [message(MARIA, 'HBgNNTUxMTk4NzY1MDAwMRUCABIYFDNBQjg1NEZEQkM1OEUyQUFFOEZEAA==', '12:03:01', {
      message_type: 'location',
      metadata: { location: { latitude: -19.92, longitude: -43.94 } },
    })],
  },
  'contacts-shared': {
    events: [message(MARIA, 'HBgNNTUxMTk4NzY1MDAwMRUCABIYFDNBRURGQkY5RDkzNzM5Q0MxREExAA==', '12:03:10', {
      message_type: 'contacts',
      content: 'José da Silva, Vó Cida',
      metadata: {
        contacts: [
          {
            name: { formatted_name: 'José da Silva', first_name: 'José', last_name: 'da Silva' },
            phones: [{ phone: '+55 11 98765-0009', wa_id: '5511987650009', type: 'CELL' }],
            emails: [{ email: 'jose@exemplo.com.br', type: 'WORK' }],
            org: { company: 'Elétrica São Jorge' },
          },
          { name: { formatted_name: 'Vó Cida' }, phones: [{ phone: '(31) 8765-0010', type: 'HOME' }] },
        ],
      },
    })],
  },
  'contacts-request-contact-info-answer': {
    events: [message(CAROL, 'HBgDMDAwFQIAEhgUM0FERjQzQUMyQTc4OUFDQjI1QTAA', '12:03:11', {
      shared_phone_number: '+5511987650011',
      message_type: 'contacts',
      metadata: {
        contacts: [{
          origin: 'contact_request',
          phones: [{ phone: '+5511987650011', wa_id: '5511987650011', type: 'CELL' }],
        }],
        username: '@carol.nails',
      },
    })],
  },
  'interactive-button-reply': {
    events: [message(MARIA, 'HBgNNTUxMTk4NzY1MDAwMRUCABIYFDNBQjcxMTk2OUU3OTc5ODlDNjQxAA==', '12:03:20', {
      message_type: 'button',
      content: '✅ Confirmar',
      reply_to_whatsapp_message_id: 'wamid.HBgNNTUxMTk4NzY1MDAwMRUCABEYEkJCNjE5MTcyNzE5RDE4MzA1MwA=',
      metadata: { interactive: { type: 'button_reply', id: 'appt:7f1c:confirm', title: '✅ Confirmar' } },
    })],
  },
  'interactive-list-reply': {
    events: [message(MARIA, 'HBgNNTUxMTk4NzY1MDAwMRUCABIYFDNBQzk2MThEN0VCRjEwN0QxQ0Y3AA==', '12:03:30', {
      message_type: 'list',
      content: 'Sáb 21/11 às 12:30',
      reply_to_whatsapp_message_id: 'wamid.HBgNNTUxMTk4NzY1MDAwMRUCABEYEkQwNTVCNUUyQzQyMjVCQTA2NQA=',
      metadata: {
        interactive: {
          type: 'list_reply',
          id: 'slot:2026-11-21T12:30:00-03:00',
          title: 'Sáb 21/11 às 12:30',
          description: 'Com a Dra. Júlia — 40 min',
        },
      },
    })],
  },
  'button-template-quick-reply': {
    events: [message(JOAO, 'HBgNNTUxMTk4NzY1MDAwMhUCABIYFDNBNzk2Q0IxQjJDMDBBMDI5NTA5AA==', '12:03:50', {
      message_type: 'button',
      content: 'Remarcar',
      reply_to_whatsapp_message_id: 'wamid.HBgNNTUxMTk4NzY1MDAwMhUCABEYEkY3Njg5MkM0NTUyRkI1MUJENAA=',
      metadata: { interactive: { type: 'template_button', id: 'REMARCAR_7f1c', title: 'Remarcar' } },
    })],
  },
  'reaction': {
    events: [message(MARIA, 'HBgNNTUxMTk4NzY1MDAwMRUCABIYFDNBMTYwMUU2RjVBNTU0N0IwMEVCAA==', '12:04:00', {
      message_type: 'reaction',
      content: '❤️',
      reply_to_whatsapp_message_id: 'wamid.HBgNNTUxMTk4NzY1MDAwMRUCABEYEkJCNjE5MTcyNzE5RDE4MzA1MwA=',
    })],
  },
  'order': {
    events: [message(BEATRIZ, 'HBgNNTUyMTk4NzY1MDAwNBUCABIYFDNBMTgzREUzMERFRTdEQTIxMkFFAA==', '12:04:10', {
      message_type: 'interactive',
      content: 'Pode entregar amanhã?',
      metadata: {
        original_type: 'order',
        order: {
          catalog_id: '194836987003835',
          text: 'Pode entregar amanhã?',
          product_items: [
            { product_retailer_id: 'shampoo-300', quantity: 2, item_price: 39.9, currency: 'BRL' },
            { product_retailer_id: 'mascara-250', quantity: 1, item_price: 54, currency: 'BRL' },
          ],
        },
      },
    })],
  },
  'unsupported-131051': {
    events: [message(MARIA, 'HBgNNTUxMTk4NzY1MDAwMRUCABIYFDNBNDBDNDIzNjM2QjMwQTM5ODU0AA==', '12:04:20', {
      message_type: 'unsupported',
      metadata: {
        original_type: 'poll_creation',
        errors: [{
          code: 131051,
          title: 'Message type unknown',
          message: 'Message type unknown',
          error_data: { details: 'Message type is currently not supported.' },
        }],
      },
    })],
  },
  'unknown-message-type': {
    unknown: 1,
    events: [message(MARIA, 'HBgNNTUxMTk4NzY1MDAwMRUCABIYFDNBN0JBMjU3M0MxNzJFOTlBRDQ1AA==', '12:04:50', {
      message_type: 'unsupported',
      metadata: {
        original_type: 'holograma',
        raw: {
          from: '5511987650001',
          id: 'wamid.HBgNNTUxMTk4NzY1MDAwMRUCABIYFDNBN0JBMjU3M0MxNzJFOTlBRDQ1AA==',
          timestamp: '1795176290',
          type: 'holograma',
          holograma: { id: 'x', intensidade: 3 },
        },
      },
    })],
  },
  'revoke': {
    events: [{
      kind: 'revoke',
      whatsapp_message_id: TEXT_EVENT.whatsapp_message_id,
      occurred_at: '2026-11-20T12:04:31.000Z',
      ...to('5511987650001'),
    }],
  },
  'system-user-changed-user-id': {
    events: [{
      kind: 'identity_change',
      whatsapp_message_id: 'wamid.HBgNNTU4NTk4NzY1MDAwNRUCABIYFDNBOTNBQ0IwQkRFMURCM0M1NDgzAA==',
      sent_at: '2026-11-20T12:04:41.000Z',
      identities: [
        { kind: 'wa_id', value: '5585987650005' },
        { kind: 'bsuid', value: 'BR.1502576394655843' },
      ],
      phone_number: '+5585987650005',
      new_identities: [{ kind: 'bsuid', value: 'BR.7710031188420956' }],
      new_phone_number: null,
      content: 'User Leonardo Sá changed from BR.1502576394655843 to BR.7710031188420956',
    }],
  },
  'smb-message-echo': {
    event_type: 'smb_message_echoes',
    events: [{
      ...message(
        { ...MARIA, profile_name: null },
        'HBgNNTUxMTk4NzY1MDAwMRUCABEYEkI1NzgzNzA1NTAyMTBBQ0Q5QwA=',
        '12:10:00',
        {
          content: 'Oi Maria, aqui é a Júlia da recepção. Já vi seu pedido!',
        },
      ),
      kind: 'echo',
    }],
  },
  'user-preferences-stop': {
    event_type: 'user_preferences',
    events: [{
      kind: 'preference',
      identities: MARIA.identities,
      phone_number: MARIA.phone_number,
      profile_name: MARIA.profile_name,
      category: 'marketing_messages',
      value: 'stop',
      occurred_at: '2026-11-20T12:10:10.000Z',
    }],
  },
  'template-status-update': { external_id: null, event_type: 'message_template_status_update', events: [] },
  'unknown-phone-number-id': {
    external_id: '999999999999999',
    events: [
      message(MARIA, 'HBgNNTUxMTk4NzY1MDAwMRUCABIYFDNBODY1MUIyQkNFRjE3NzZFOUVCAA==', '12:08:30', {
        content: 'oi',
      }),
    ],
  },
  'batch-multi-message': {
    events: [
      message(MARIA, 'HBgNNTUxMTk4NzY1MDAwMRUCABIYFDNBN0RDOTZGNzc2Qzg0MjNFNTdBAA==', '12:06:40', {
        content: 'oi',
      }),
      message(MARIA, 'HBgNNTUxMTk4NzY1MDAwMRUCABIYFDNBNDgxNEQ5MjA5M0FDOEEwRjRBAA==', '12:06:41', {
        content: 'tem horário hoje?',
      }),
      message(JOAO, 'HBgNNTUxMTk4NzY1MDAwMhUCABIYFDNBNzZBODI3NzM0N0Y1MjUzMEUxAA==', '12:06:41', {
        message_type: 'image',
        media: {
          id: '1130464588449781',
          mime_type: 'image/jpeg',
          sha256: 'dqgnc0f1JTDhz5eRdaF4mAs6GA0XYWXJhdhffhQvHu0=',
        },
      }),
    ],
  },
  'batch-messages-and-statuses-same-value': {
    event_type: 'messages,statuses',
    events: [
      message(JOAO, 'HBgNNTUxMTk4NzY1MDAwMhUCABIYFDNBMkY1REE2RTk5MjFCQUE3OTQ3AA==', '12:07:00', {
        content: 'ok',
      }),
      status(
        'HBgNNTUxMTk4NzY1MDAwMhUCABEYEjNGMTg4MUVEQTlFQ0FCREI5OQA=',
        'read',
        '12:07:00',
        to('5511987650002'),
      ),
    ],
  },
  'messages-out-of-order': {
    events: [
      message(MARIA, 'HBgNNTUxMTk4NzY1MDAwMRUCABIYFDNBMDg3RjRDNzEwOUQ3NjYzNjUzAA==', '12:08:20', {
        content: '2ª mensagem',
      }),
      message(MARIA, 'HBgNNTUxMTk4NzY1MDAwMRUCABIYFDNBODEwMUQxNjg5M0YzNDI1RkJCAA==', '12:08:18', {
        content: '1ª mensagem',
      }),
    ],
  },
  'status-sent': {
    event_type: 'statuses',
    events: [
      status('HBgNNTUxMTk4NzY1MDAwMRUCABEYEjY3NzYxMjgyODdFRjJDQjhFQQA=', 'sent', '12:00:20', {
        metadata: { pricing: UTILITY },
      }),
    ],
  },
  'status-delivered': {
    event_type: 'statuses',
    events: [
      status('HBgNNTUxMTk4NzY1MDAwMRUCABEYEjY3NzYxMjgyODdFRjJDQjhFQQA=', 'delivered', '12:00:22', {
        ...to('5511987650001', '+5511987650001', 'BR.6620019933445512'),
        metadata: { pricing: UTILITY },
      }),
    ],
  },
  'status-read': {
    event_type: 'statuses',
    events: [status('HBgNNTUxMTk4NzY1MDAwMRUCABEYEjY3NzYxMjgyODdFRjJDQjhFQQA=', 'read', '12:00:40')],
  },
  'status-read-without-delivered': {
    event_type: 'statuses',
    events: [
      status('HBgNNTUxMTk4NzY1MDAwMRUCABEYEjBBRTZDRDFDRUU0MjcwRDA3NAA=', 'read', '12:00:41', {
        metadata: {
          pricing: {
            billable: false,
            pricing_model: 'PMP',
            type: 'free_customer_service',
            category: 'service',
          },
        },
      }),
    ],
  },
  'status-played': {
    event_type: 'statuses',
    events: [status('HBgNNTUxMTk4NzY1MDAwMRUCABEYEkQxQkU3NDY3Rjk4QUVGREQ5RQA=', 'played', '12:00:50')],
  },
  'status-for-unknown-message': {
    event_type: 'statuses',
    events: [
      status(
        'HBgNNTUxMTk4NzY1MDAwMhUCABEYEjFGQzkxNDg0ODQyNUIwNUEyNgA=',
        'delivered',
        '12:00:36',
        to('5511987650002'),
      ),
    ],
  },
  'status-failed-131047-window-closed': {
    event_type: 'statuses',
    events: [status(
      'HBgNNTUxMTk4NzY1MDAwMhUCABEYEkM0REE5MkRFRUFFMzUxQThFRgA=',
      'failed',
      '12:00:30',
      {
        ...to('5511987650002'),
        ...failure(
          '131047',
          'Re-engagement message',
          'Message failed to send because more than 24 hours have passed since the customer last replied to this number.',
        ),
      },
    )],
  },
  'status-failed-131026-undeliverable': {
    event_type: 'statuses',
    events: [status(
      'HBgMNTUzMTg3NjUwMDAzFQIAERgSQzAyRERFRjU1NEZFQzJFRTRCAA==',
      'failed',
      '12:00:31',
      {
        ...to('553187650003', '+5531987650003'),
        ...failure('131026', 'Message undeliverable', 'Message Undeliverable.'),
      },
    )],
  },
  'status-failed-131049-marketing': {
    event_type: 'statuses',
    events: [status(
      'HBgNNTUyMTk4NzY1MDAwNBUCABEYEjgyMTYxNkUwRTZBMDRBRDA2MAA=',
      'failed',
      '12:00:32',
      {
        ...to('5521987650004'),
        ...failure(
          '131049',
          'This message was not delivered to maintain healthy ecosystem engagement.',
          'In order to maintain a healthy ecosystem engagement, the message failed to be delivered.',
        ),
      },
    )],
  },
  'status-with-opaque-callback-data': {
    event_type: 'statuses',
    events: [
      status('HBgNNTUxMTk4NzY1MDAwMRUCABEYEjRFMERBQjlDNkU0QThERkNDOAA=', 'sent', '12:00:33', {
        message_id: '0193f2b4-7c1e-7d60-9b1f-1f2e3d4c5b6a',
        metadata: { pricing: UTILITY },
      }),
    ],
  },
  'status-legacy-conversation-object': {
    event_type: 'statuses',
    events: [
      status('HBgNNTUxMTk4NzY1MDAwMRUCABEYEjQwNTM4NkJGNjNEQjQ3NTdEMQA=', 'sent', '12:00:34', {
        metadata: {
          pricing: { billable: true, pricing_model: 'CBP', category: 'utility' },
          conversation: {
            id: '72b14d6bd5407799e66f64d1b338e567',
            expiration_timestamp: '1795262400',
            origin: { type: 'utility' },
          },
        },
      }),
    ],
  },
  'status-same-second-batch': {
    event_type: 'statuses',
    events: ['delivered', 'sent', 'read'].map((value) =>
      status('HBgNNTUxMTk4NzY1MDAwMRUCABEYEkY0ODQzMEYzMjkwQjhEMDI0OQA=', value, '12:05:10')
    ),
  },
}

Deno.test('every sample has its expected meaning', () => {
  assert.deepEqual(sampleNames, Object.keys(EXPECTED).sort())
})

for (
  const [name, { external_id = NUMBER, event_type = 'messages', unknown = 0, events }] of Object.entries(
    EXPECTED,
  )
) {
  Deno.test(`sample ${name}`, () => {
    const payload = sample(name)
    const parts = asJson(parse(sample(name), RECEIVED_AT))
    assert.deepEqual(parts, [{ external_id, event_type, payload, unknown, error: null, events }])
  })
}

// What the samples lack -----------------------------------------------------------------------------------------

const CONTACT = { wa_id: '5511987650001', profile: { name: 'Maria' } }

function change(value: object, field = 'messages', number: unknown = NUMBER) {
  return { field, value: { messaging_product: 'whatsapp', metadata: { phone_number_id: number }, ...value } }
}

function delivery(...changes: object[]) {
  return { object: 'whatsapp_business_account', entry: [{ id: '1', changes }] }
}

/** The only part of a delivery with one change; its events as JSON. */
function parsed(value: object, field?: string) {
  const [part, ...others] = parse(delivery(change(value, field)), RECEIVED_AT)
  assert.ok(part)
  assert.equal(others.length, 0)
  const events = part.events.map((event) => JSON.parse(JSON.stringify(event)))
  return { ...part, events, event: events[0] ?? {} }
}

function from(more: object) {
  return {
    contacts: [CONTACT],
    messages: [{ from: '5511987650001', id: 'wamid.1', timestamp: '1795176000', ...more }],
  }
}

Deno.test('one delivery for two numbers is one part each, with only its own changes', () => {
  const text = (id: string) => ({
    messages: [{ from: '5511987650001', id, type: 'text', text: { body: id } }],
  })
  const first = change(text('a'))
  const second = change(text('b'), 'messages', '2')
  const third = change(text('c'))
  const payload = {
    object: 'whatsapp_business_account',
    entry: [{ id: 'A', time: 1, changes: [first, second] }, { id: 'B', changes: [third] }],
  }
  const parts = parse(payload, RECEIVED_AT)
  assert.deepEqual(parts.map(({ external_id, payload }) => ({ external_id, entry: payload['entry'] })), [
    { external_id: NUMBER, entry: [{ id: 'A', time: 1, changes: [first] }, { id: 'B', changes: [third] }] },
    { external_id: '2', entry: [{ id: 'A', time: 1, changes: [second] }] },
  ])
  assert.deepEqual(parts.map(({ events }) => events.length), [2, 1])
})

Deno.test('a thousand updates of one number are one part', () => {
  const messages = Array.from({ length: 1000 }, (_item, index) => ({
    from: String(5511900000000 + index),
    id: `wamid.${index}`,
    timestamp: '1795176000',
    type: 'text',
    text: { body: String(index) },
  }))
  const contacts = messages.map(({ from, text }) => ({ wa_id: from, profile: { name: text.body } })).reverse()
  const { events, unknown } = parsed({ contacts, messages })
  assert.equal(unknown, 0)
  assert.deepEqual(
    events.map(({ profile_name, content }) => profile_name === content),
    Array(1000).fill(true),
  )
})

Deno.test('one odd item does not lose the others', () => {
  const good = { from: '5511987650001', id: 'wamid.good', type: 'text', text: { body: 'oi' } }
  const odd = [null, 7, 'x', [], {}, { id: 'wamid.nobody', type: 'text', text: { body: 'x' } }, {
    ...good,
    id: 'x'.repeat(256),
  }]
  const { events, unknown } = parsed({
    messages: [odd[0], good, ...odd.slice(1)],
    statuses: [{ id: 'wamid.1', status: 'warped' }],
  })
  assert.deepEqual(events.map(({ whatsapp_message_id }) => whatsapp_message_id), ['wamid.good'])
  assert.equal(unknown, odd.length + 1)
})

Deno.test('a known type without its object is kept as unsupported, and counted', () => {
  for (const type of ['text', 'image', 'location', 'contacts', 'interactive', 'button', 'reaction']) {
    const { event, unknown } = parsed(from({ type, [type]: { unexpected: true } }))
    assert.equal(event.message_type, 'unsupported', type)
    assert.equal(event.metadata.original_type, type)
    assert.deepEqual(event.metadata.raw[type], { unexpected: true })
    assert.equal(unknown, 1)
  }
  assert.equal(parsed(from({})).event.metadata.original_type, 'unknown')
})

Deno.test('an odd optional field counts as absent', () => {
  const { event, unknown } = parsed({
    contacts: [{ wa_id: '5511987650001', profile: 'Maria' }, 3, null],
    messages: [{
      from: '5511987650001',
      id: 'wamid.1',
      type: 'image',
      timestamp: 'yesterday',
      context: 'none',
      referral: [],
      errors: {},
      image: { id: 123, caption: 5, mime_type: null },
    }],
  })
  assert.equal(unknown, 0)
  assert.equal(event.sent_at, RECEIVED_AT.toISOString())
  assert.deepEqual(event.media, { id: '123', mime_type: null, sha256: null })
  assert.deepEqual([event.content, event.profile_name, event.metadata], [null, null, {}])
})

Deno.test('timestamps are text or number, and as old as they like', () => {
  assert.equal(
    parsed(from({ type: 'text', text: { body: 'a' }, timestamp: 1504902988 })).event.sent_at,
    '2017-09-08T20:36:28.000Z',
  )
  assert.equal(
    parsed(from({ type: 'text', text: { body: 'a' }, timestamp: '1504902988' })).event.sent_at,
    '2017-09-08T20:36:28.000Z',
  )
})

Deno.test("the dashboard's test button sends an ordinary message with a strange id", () => {
  const payload = {
    object: 'whatsapp_business_account',
    entry: [{
      id: '0',
      changes: [change({
        contacts: [{ profile: { name: 'test user name' }, wa_id: '16315551181' }],
        messages: [{
          from: '16315551181',
          id: 'ABGGFlA5Fpa',
          timestamp: '1504902988',
          type: 'text',
          text: { body: 'this is a text message' },
        }],
      })],
    }],
  }
  const [part] = parse(payload, RECEIVED_AT)
  assert.equal(part?.unknown, 0)
  assert.deepEqual(part?.events.map((event) => event.kind === 'message' && event.whatsapp_message_id), [
    'ABGGFlA5Fpa',
  ])
})

Deno.test('a BSUID in the place of the number is not taken for a number', () => {
  const { event } = parsed({
    contacts: [{ wa_id: 'BR.8841205577310094', profile: { name: 'Carol' } }],
    messages: [{ from: 'BR.8841205577310094', id: 'wamid.1', type: 'text', text: { body: 'oi' } }],
  })
  assert.deepEqual(event.identities, [{ kind: 'bsuid', value: 'BR.8841205577310094' }])
  assert.equal(event.phone_number, null)
  assert.equal(event.profile_name, 'Carol')
  assert.equal(event.whatsapp_chat_id, 'BR.8841205577310094')
})

Deno.test('a contact is found by any of its ids, with or without the ninth digit', () => {
  const { event } = parsed({
    contacts: [{ wa_id: '5531987650003', user_id: 'BR.1', profile: { name: 'Ana' } }],
    messages: [{ from: '553187650003', id: 'wamid.1', type: 'text', text: { body: 'oi' } }],
  })
  assert.equal(event.profile_name, 'Ana')
  assert.equal(event.whatsapp_chat_id, '553187650003')
  assert.deepEqual(event.identities, [
    { kind: 'wa_id', value: '553187650003' },
    { kind: 'wa_id', value: '5531987650003' },
    { kind: 'bsuid', value: 'BR.1' },
  ])
})

Deno.test('a contact of somebody else gives a message no name', () => {
  const { event } = parsed({
    contacts: [{ wa_id: '5511987650002', profile: { name: 'João' } }],
    messages: from({ type: 'text', text: { body: 'a' } }).messages,
  })
  assert.equal(event.profile_name, null)
  assert.deepEqual(event.identities, [{ kind: 'wa_id', value: '5511987650001' }])
})

Deno.test("what is said in a group belongs to no customer's conversation", () => {
  const { events, unknown } = parsed(from({ type: 'text', text: { body: 'oi' }, group_id: 'g1' }))
  assert.deepEqual([events, unknown], [[], 1])
})

Deno.test('forwarded, much forwarded and asking about a product', () => {
  const context = (context: object) => parsed(from({ type: 'text', text: { body: 'a' }, context })).event
  assert.deepEqual(context({ forwarded: true }).metadata, { forwarded: true })
  assert.equal(context({ forwarded: true }).reply_to_whatsapp_message_id, null)
  assert.deepEqual(context({ frequently_forwarded: true }).metadata, { frequently_forwarded: true })
  const product = { catalog_id: '1', product_retailer_id: 'x' }
  assert.deepEqual(context({ from: '1', id: 'wamid.9', referred_product: product }).metadata, {
    referred_product: product,
  })
})

Deno.test('a reaction taken back has no content', () => {
  for (const reaction of [{ message_id: 'wamid.9' }, { message_id: 'wamid.9', emoji: '' }]) {
    const { event, unknown } = parsed(from({ type: 'reaction', reaction }))
    assert.deepEqual([event.message_type, event.content, event.reply_to_whatsapp_message_id, unknown], [
      'reaction',
      null,
      'wamid.9',
      0,
    ])
  }
})

Deno.test('the answers to a flow', () => {
  const nfm_reply = { name: 'flow', body: 'Sent', response_json: '{"day":"2026-11-21"}' }
  const { event, unknown } = parsed(
    from({ type: 'interactive', interactive: { type: 'nfm_reply', nfm_reply } }),
  )
  assert.deepEqual([event.message_type, event.content, unknown], ['interactive', 'Sent', 0])
  assert.deepEqual(event.metadata.interactive, { ...nfm_reply, type: 'nfm_reply' })
})

Deno.test('an edit names the message it changes', () => {
  const edit = (message: object) =>
    parsed(from({ type: 'edit', edit: { original_message_id: 'wamid.9', message } }))
  const { event, unknown } = edit({ type: 'text', text: { body: 'às 16h' } })
  assert.deepEqual([event, unknown], [{
    kind: 'edit',
    whatsapp_message_id: 'wamid.9',
    occurred_at: '2026-11-20T12:00:00.000Z',
    identities: [{ kind: 'wa_id', value: '5511987650001' }],
    phone_number: '+5511987650001',
    message_type: 'text',
    content: 'às 16h',
    media: null,
  }, 0])
  assert.deepEqual(edit({ type: 'holograma' }).events, [])
  assert.equal(edit({ type: 'holograma' }).unknown, 1)
})

Deno.test('the owner may also edit, delete and write to somebody without number from the phone', () => {
  const echoes = {
    message_echoes: [
      { from: '5511940001234', to: 'BR.1', id: 'wamid.1', type: 'text', text: { body: 'oi' } },
      {
        from: '5511940001234',
        to: '5511987650001',
        id: 'wamid.2',
        type: 'revoke',
        revoke: { original_message_id: 'wamid.1' },
      },
      { from: '5511940001234', id: 'wamid.3', type: 'text', text: { body: 'to nobody' } },
    ],
  }
  const { events, unknown } = parsed(echoes, 'smb_message_echoes')
  assert.deepEqual(events.map(({ kind, whatsapp_chat_id }) => [kind, whatsapp_chat_id]), [['echo', 'BR.1'], [
    'revoke',
    undefined,
  ]])
  assert.equal(unknown, 1)
})

Deno.test('a person with a new number', () => {
  const system = {
    body: 'User Ana changed from 553187650003 to 5531987650099',
    wa_id: '5531987650099',
    type: 'user_changed_number',
  }
  const { event, unknown } = parsed({
    messages: [{ from: '553187650003', id: 'wamid.1', timestamp: '1795176000', type: 'system', system }],
  })
  assert.equal(unknown, 0)
  assert.deepEqual(event, {
    kind: 'identity_change',
    whatsapp_message_id: 'wamid.1',
    sent_at: '2026-11-20T12:00:00.000Z',
    identities: [{ kind: 'wa_id', value: '553187650003' }],
    phone_number: '+5531987650003',
    new_identities: [{ kind: 'wa_id', value: '5531987650099' }],
    new_phone_number: '+5531987650099',
    content: system.body,
  })
})

Deno.test('the old BSUID is the last one before the new one, whatever the person is called', () => {
  const system = {
    body: 'User BR.Silva changed from BR.111 to BR.222.',
    user_id: 'BR.222',
    type: 'user_changed_user_id',
  }
  const { event } = parsed({ messages: [{ from_user_id: 'BR.222', id: 'wamid.1', type: 'system', system }] })
  assert.deepEqual(event.identities, [{ kind: 'bsuid', value: 'BR.111' }])
  assert.deepEqual(event.new_identities, [{ kind: 'bsuid', value: 'BR.222' }])
})

Deno.test('a notice that moves nobody is counted', () => {
  const notice = (system: object) =>
    parsed({ messages: [{ from: '553187650003', id: 'wamid.1', type: 'system', system }] })
  for (
    const system of [
      { type: 'customer_identity_changed' },
      { type: 'user_changed_number', body: 'no new number' },
      { type: 'user_changed_number', wa_id: '553187650003' },
    ]
  ) {
    const { events, unknown } = notice(system)
    assert.deepEqual([events, unknown], [[], 1])
  }
})

Deno.test("a shared number never replaces the one somebody writes from, and a friend's card is not his own", () => {
  const card = (origin: string) => ({
    type: 'contacts',
    contacts: [{ origin, phones: [{ phone: '+55 11 98765-0099' }] }],
  })
  const known = parsed(from(card('contact_request'))).event
  assert.deepEqual([known.phone_number, known.identities.length], ['+5511987650001', 1])
  const hidden = (origin: string) =>
    parsed({ messages: [{ from_user_id: 'BR.1', id: 'wamid.1', ...card(origin) }] }).event
  assert.equal(hidden('other').shared_phone_number, undefined)
  assert.equal(hidden('contact_request').shared_phone_number, '+5511987650099')
  // What a person says of himself is not an id of his: anybody can send a card.
  assert.deepEqual(hidden('contact_request').identities, [{ kind: 'bsuid', value: 'BR.1' }])
  assert.equal(hidden('contact_request').phone_number, null)
})

Deno.test('our own id comes back with any prefix, and nothing else is taken for it', () => {
  const id = '0193F2B4-7c1e-7d60-9b1f-1f2e3d4c5b6a'
  const messageId = (data: unknown) =>
    parsed({ statuses: [{ id: 'wamid.1', status: 'sent', biz_opaque_callback_data: data }] }).event.message_id
  for (const data of [id, `outbox:${id}`, `balcao:outbox:${id}`]) {
    assert.equal(messageId(data), id.toLowerCase(), data)
  }
  for (const data of ['', 'x', `${id}0`, `x${id}`, 5, null]) assert.equal(messageId(data), null)
})

Deno.test('many parts do not multiply what a delivery says beside them', () => {
  const change = (n: number) => ({ field: `field_${n}`, value: {} })
  const payload = {
    object: 'whatsapp_business_account',
    extra: 'x'.repeat(1000),
    entry: [{ id: '1', more: 'y'.repeat(1000), changes: Array.from({ length: 100 }, (_, n) => change(n)) }],
  }
  const parts = parse(payload, new Date(0))
  assert.equal(parts.length, 100)
  assert.equal(JSON.stringify(parts).split('x'.repeat(1000)).length - 1, 1)
  assert.equal(JSON.stringify(parts).split('y'.repeat(1000)).length - 1, 1)
  assert.deepEqual(parts[99]?.payload, {
    object: 'whatsapp_business_account',
    entry: [{ id: '1', changes: [change(99)] }],
  })
})

Deno.test('a status inside a group names who it is about', () => {
  const { event } = parsed({
    statuses: [{
      id: 'wamid.1',
      status: 'read',
      recipient_type: 'group',
      recipient_participant_id: '5511987650001',
    }],
  })
  assert.deepEqual(event.metadata, { recipient_participant_id: '5511987650001' })
})

Deno.test('errors of the account are kept in short', () => {
  const errors = [{ code: 130429, title: 'Rate limit hit', error_data: { details: 'Too many messages' } }, {
    title: 'Odd',
  }, 7]
  const { error, event_type, unknown, events } = parsed({ errors })
  assert.deepEqual([error, event_type, unknown, events], [
    '130429: Too many messages; Odd; unknown error',
    'messages',
    0,
    [],
  ])
})

Deno.test('fields about the account are kept, unknown ones are counted too', () => {
  const about = (field: string) =>
    parse(
      { object: 'whatsapp_business_account', entry: [{ id: '1', changes: [{ field, value: {} }] }] },
      RECEIVED_AT,
    )
  assert.deepEqual(about('account_update').map(({ event_type, unknown }) => [event_type, unknown]), [[
    'account_update',
    0,
  ]])
  assert.deepEqual(about('telepathy').map(({ event_type, unknown }) => [event_type, unknown]), [[
    'telepathy',
    1,
  ]])
})

Deno.test('a preference that we do not know is counted', () => {
  const { events, unknown } = parsed({
    user_preferences: [
      { wa_id: '5511987650001', category: 'marketing_messages', value: 'resume', timestamp: 1795176610 },
      { wa_id: '5511987650001', category: 'sms', value: 'stop' },
      { category: 'marketing_messages', value: 'stop' },
    ],
  }, 'user_preferences')
  assert.deepEqual(events.map(({ value }) => value), ['resume'])
  assert.equal(unknown, 2)
})

Deno.test('a message for no number is counted, not routed', () => {
  const value = { messages: [{ from: '5511987650001', id: 'wamid.1', type: 'text', text: { body: 'oi' } }] }
  const [part] = parse({
    object: 'whatsapp_business_account',
    entry: [{ changes: [{ field: 'messages', value }] }],
  }, RECEIVED_AT)
  assert.deepEqual([part?.external_id, part?.events, part?.unknown], [null, [], 1])
})

Deno.test('a delivery of another shape is kept whole', () => {
  for (
    const payload of [
      {},
      { object: 'page', entry: [{}] },
      { object: 'whatsapp_business_account', entry: [] },
      { object: 'whatsapp_business_account' },
    ]
  ) {
    assert.deepEqual(parse(payload, RECEIVED_AT), [{
      external_id: null,
      event_type: 'unknown',
      payload,
      unknown: 1,
      error: null,
      events: [],
    }])
  }
})

// Anything at all -----------------------------------------------------------------------------------------------

/** Repeatable: the same seed breaks the same payloads. */
function random(seed: number) {
  let state = seed
  return (below: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

const JUNK: unknown[] = [
  null,
  true,
  0,
  -1,
  1e300,
  '',
  'x',
  'BR.1',
  [],
  {},
  [[]],
  [null],
  { id: 1 },
  '5511987650001',
]

/** Replaces, removes or doubles things somewhere in a payload. */
function broken(value: unknown, roll: (below: number) => number): unknown {
  if (roll(12) === 0) return JUNK[roll(JUNK.length)]
  if (Array.isArray(value)) {
    return value.flatMap((item) =>
      roll(10) === 0 ? [] : roll(10) === 0 ? [item, broken(item, roll)] : [broken(item, roll)]
    )
  }
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, item]) => roll(15) === 0 ? [] : [[key, broken(item, roll)]]),
  )
}

Deno.test('no payload makes the parser throw or lose a change', () => {
  const roll = random(20261120)
  const changesOf = (payloads: Record<string, unknown>[]) =>
    payloads.flatMap(({ entry }) => Array.isArray(entry) ? entry : [])
      .flatMap((item) => Array.isArray(item?.changes) && item.changes.length > 0 ? item.changes : [item])
      .map((item) => JSON.stringify(item)).sort()

  let understood = 0
  let counted = 0
  for (let round = 0; round < 100; round++) {
    for (const name of sampleNames) {
      const payload = {
        object: 'whatsapp_business_account',
        entry: [],
        ...Object(broken(sample(name), roll)),
      }
      const parts = parse(payload, RECEIVED_AT)
      assert.ok(parts.length > 0)
      assert.deepEqual(
        changesOf(parts.map((part) => part.payload)),
        changesOf([payload]),
        JSON.stringify(payload),
      )
      understood += parts.filter((part) => part.events.length > 0).length
      counted += parts.filter((part) => part.unknown > 0).length
      for (const part of parts) {
        assert.ok(part.events.length === 0 || part.external_id !== null)
        for (const event of part.events) {
          // What changes a message names the message; whose it is helps, but may be missing.
          assert.ok(['status', 'edit', 'revoke'].includes(event.kind) || event.identities.length > 0)
          assert.ok(!('whatsapp_message_id' in event) || event.whatsapp_message_id.length <= 255)
        }
      }
    }
  }
  // The breaking is neither so mild nor so harsh that this would prove nothing.
  assert.ok(understood > 500, `${understood} understood`)
  assert.ok(counted > 500, `${counted} counted`)
})
