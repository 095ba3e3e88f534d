// Every kind of job that this worker knows. A new kind is one file and one line here.
import type { Provider } from '../_shared/providers/provider.ts'
import type { Resolve } from '../_shared/public-address.ts'
import type { Rpc } from '../_shared/rpc.ts'
import type { SecretBox } from '../_shared/secrets.ts'
import { archiveMessages } from './archive-messages.ts'
import { backUpTenant } from './back-up-tenant.ts'
import { deliverWebhook } from './deliver-webhook.ts'
import { eraseArchived } from './erase-archived.ts'
import { eraseContact } from './erase-contact.ts'
import { fetchMedia } from './fetch-media.ts'
import type { JobType } from './job.ts'
import { purgeOrganization } from './purge-organization.ts'
import { replayWebhookEvent } from './replay-webhook-event.ts'
import { runFlow } from './run-flow.ts'
import { sendMessage } from './send-message.ts'
import { answerNotification, sendNotification } from './send-notification.ts'
import type { ReadableStorage } from './storage.ts'

export interface Dependencies {
  rpc: Rpc
  secrets: SecretBox
  storage: ReadableStorage
  functions: { url: string; secretKey: string }
  /** By their name in the database. */
  providers: ReadonlyMap<string, Provider>
  resolve: Resolve
  fetch: (url: URL, init: RequestInit) => Promise<Response>
  random: () => number
  allowLoopback: boolean
}

export function jobTypes(dependencies: Dependencies): ReadonlyMap<string, JobType> {
  return new Map<string, JobType>([
    ['send_message', sendMessage(dependencies)],
    ['run_flow', runFlow(dependencies)],
    ['send_notification', sendNotification(dependencies)],
    ['answer_notification', answerNotification(dependencies)],
    ['fetch_media', fetchMedia(dependencies)],
    ['deliver_webhook', deliverWebhook(dependencies)],
    ['replay_webhook_event', replayWebhookEvent(dependencies)],
    ['erase_contact', eraseContact(dependencies)],
    ['back_up_tenant', backUpTenant(dependencies)],
    ['archive_messages', archiveMessages(dependencies)],
    ['erase_archived', eraseArchived(dependencies)],
    ['purge_organization', purgeOrganization(dependencies)],
  ])
}
