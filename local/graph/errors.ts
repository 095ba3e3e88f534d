// Meta's error codes: their HTTP status and the wording of their documentation.

import { randomBytes } from 'node:crypto'

interface Documented {
  status: number
  title: string
  details?: string
  subcode?: number
  isTransient?: true
  /** The message as it stands, where it does not begin with "(#code)". */
  message?: string
}

const PERMISSION = 'Permission is either not granted or has been removed.'

const documented: Record<number, Documented> = {
  0: { status: 401, title: 'AuthException', message: 'We were unable to authenticate the app user.' },
  1: { status: 400, title: 'API Unknown', message: 'Invalid request or possible server error.' },
  2: { status: 503, title: 'API Service', message: 'Service temporarily unavailable', isTransient: true },
  3: { status: 500, title: 'API Method', details: 'Capability or permissions issue.' },
  4: {
    status: 400,
    title: 'Application request limit reached',
    details: 'The app has reached its API call rate limit.',
  },
  10: { status: 403, title: 'Permission Denied', details: PERMISSION },
  33: {
    status: 400,
    title: 'Parameter value is not valid',
    details: 'The business phone number has been deleted.',
  },
  100: { status: 400, title: 'Invalid parameter', details: 'Parameter value is not valid' },
  190: {
    status: 401,
    title: 'Access token has expired',
    message: 'Error validating access token: Session has expired',
    subcode: 463,
  },
  368: {
    status: 403,
    title: 'Temporarily blocked for policies violations',
    details: 'The WhatsApp Business Account associated with the app has been restricted or disabled for violating a ' +
      'platform policy.',
  },
  80007: {
    status: 400,
    title: 'Rate limit issues',
    details: 'The WhatsApp Business Account has reached its rate limit.',
  },
  130429: {
    status: 400,
    title: 'Rate limit hit',
    details: 'Cloud API message throughput has been reached.',
  },
  130472: {
    status: 400,
    title: "User's number is part of an experiment",
    details: 'Message was not sent as part of an experiment.',
  },
  130497: {
    status: 403,
    title: 'Business account is restricted from messaging users in this country.',
    details: 'The WhatsApp Business account is restricted from messaging to users in certain countries.',
  },
  131000: {
    status: 500,
    title: 'Something went wrong',
    details: 'Message failed to send due to an unknown error.',
  },
  131005: { status: 403, title: 'Access denied', details: PERMISSION },
  131008: {
    status: 400,
    title: 'Required parameter is missing',
    details: 'The request is missing a required parameter.',
  },
  131009: {
    status: 400,
    title: 'Parameter value is not valid',
    details: 'One or more parameter values are invalid.',
  },
  131016: { status: 500, title: 'Service unavailable', details: 'A service is temporarily unavailable.' },
  131021: {
    status: 400,
    title: 'Recipient cannot be sender',
    details: 'Sender and recipient phone number is the same.',
  },
  131026: { status: 400, title: 'Message undeliverable', details: 'Message Undeliverable.' },
  131030: {
    status: 400,
    title: 'Recipient phone number not in allowed list',
    details: 'Recipient phone number not in allowed list: Add recipient phone number to recipient list and try again.',
  },
  131031: {
    status: 403,
    title: 'Business Account locked',
    details: 'Business account has been locked.',
  },
  131042: {
    status: 400,
    title: 'Business eligibility payment issue',
    details: 'There was an error related to your payment method.',
  },
  131045: {
    status: 500,
    title: 'Incorrect certificate',
    details: 'Message failed to send due to a phone number registration error.',
  },
  131047: {
    status: 400,
    title: 'Re-engagement message',
    details:
      'Message failed to send because more than 24 hours have passed since the customer last replied to this number.',
  },
  131048: {
    status: 400,
    title: 'Spam rate limit hit',
    details:
      'Message failed to send because there are restrictions on how many messages can be sent from this phone number.',
  },
  131049: {
    status: 400,
    title: 'This message was not delivered to maintain healthy ecosystem engagement.',
    details: 'In order to maintain a healthy ecosystem engagement, the message failed to be delivered.',
  },
  131050: {
    status: 400,
    title: 'User has stopped marketing messages',
    details: 'Unable to deliver the message: this recipient has chosen to stop receiving marketing messages from ' +
      'your business.',
  },
  131051: { status: 400, title: 'Unsupported message type', details: 'Message type is not currently supported.' },
  131052: {
    status: 400,
    title: 'Media download error',
    details: 'Unable to download the media sent by the user.',
  },
  131053: {
    status: 400,
    title: 'Media upload error',
    details: 'Unable to upload the media used in the message.',
  },
  131056: {
    status: 400,
    title: '(Business Account, Consumer Account) pair rate limit hit',
    details: 'Message failed to send because there were too many messages sent from this phone number to the same ' +
      'phone number in a short period of time.',
  },
  131057: {
    status: 500,
    title: 'Account in maintenance mode',
    details: 'Business Account is in maintenance mode.',
  },
  131062: {
    status: 400,
    title: 'Business-scoped user id is not supported',
    details: 'A recipient cannot be named by a business-scoped user id in this message.',
  },
  132000: {
    status: 400,
    title: 'Number of parameters does not match the expected number of params',
    details: 'The number of variable parameter values included in the request did not match the number of variable ' +
      'parameters defined in the template.',
  },
  132001: {
    status: 404,
    title: 'Template name does not exist in the translation',
    details: 'The template does not exist in the specified language or has not been approved.',
  },
  132005: { status: 400, title: 'Template hydrated text too long', details: 'Translated text is too long.' },
  132007: {
    status: 400,
    title: 'Template format character policy violated',
    details: 'Template content violates a WhatsApp policy.',
  },
  132012: {
    status: 400,
    title: 'Parameter format does not match format in the created template',
    details: 'Variable parameter values are formatted incorrectly.',
  },
  132015: {
    status: 400,
    title: 'Template is paused',
    details: 'Template is paused due to low quality so it cannot be sent in a template message.',
  },
  132016: {
    status: 400,
    title: 'Template is disabled',
    details: 'Template has been paused too many times due to low quality and is now permanently disabled.',
  },
  133004: { status: 503, title: 'Server temporarily unavailable', details: 'Server is temporarily unavailable.' },
  133010: {
    status: 400,
    title: 'Account not registered',
    details: 'Phone number not registered on the WhatsApp Business Platform.',
  },
}
// 200-299: a permission of the API each.
for (let code = 200; code <= 299; code += 1) {
  documented[code] = { status: 403, title: 'Permissions error', details: PERMISSION }
}

export const documentedCodes = Object.keys(documented).map(Number)

/** An answer that refuses. */
export class GraphError extends Error {
  constructor(
    readonly code: number,
    readonly options: {
      /** Null: none, not even the documented ones. */
      details?: string | null
      message?: string
      subcode?: number
      status?: number
      type?: string
      retryAfter?: number
    } = {},
  ) {
    super(options.details ?? documented[code]?.title ?? `Error ${code}`)
  }

  get status(): number {
    return this.options.status ?? documented[this.code]?.status ?? 400
  }

  body(): { error: Record<string, unknown> } {
    const { title, isTransient, ...entry } = documentedAs(this.code)
    const details = this.options.details === undefined ? entry.details : this.options.details
    const subcode = this.options.subcode ?? entry.subcode
    return {
      error: {
        message: this.options.message ?? entry.message ?? `(#${this.code}) ${title}`,
        type: this.options.type ?? 'OAuthException',
        ...(isTransient ? { is_transient: true } : {}),
        code: this.code,
        ...(details == null ? {} : { error_data: { messaging_product: 'whatsapp', details } }),
        ...(subcode === undefined ? {} : { error_subcode: subcode }),
        fbtrace_id: `A${randomBytes(16).toString('base64url')}`,
      },
    }
  }
}

/** The errors[] of a status "failed". */
export function statusError(code: number): Record<string, unknown> {
  const { title, details } = documentedAs(code)
  return {
    code,
    title,
    message: title,
    ...(details === undefined ? {} : { error_data: { details } }),
    href: '/documentation/business-messaging/whatsapp/support/error-codes',
  }
}

function documentedAs(code: number): Documented {
  return documented[code] ?? { status: 400, title: 'Unknown error' }
}
