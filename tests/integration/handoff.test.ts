// Who answers: the bot, an attendant, or two who want to at once. And what an attendant's app shows and finds.
//
// What is promised: once a takeover is committed, nothing of the bot's is begun any more. Only what was begun before it,
// announced in private.unanswered_sends before the provider is called, may still arrive.

import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { businessError, type InboxRow, type MessageMatch, type Tables, tenantClient } from '../../types/index.ts'
import { aConversation, aWaId, type Conversation, hurry, messageNow, seen, whenIt, write } from '../support/conversations.ts'
import { metaOf } from '../support/graph.ts'
import { runningStack } from '../support/running-stack.ts'
import {
  aPerson,
  asAdminOf,
  asAttendantOf,
  asViewerOf,
  aTenant,
  type Client,
  type ConnectedNumber,
  connectNumber,
  join,
  memberOf,
  type Tenant,
  valueOf,
} from '../support/tenants.ts'

const backend = runningStack()
const meta = metaOf(backend)

let sql: postgres.Sql
let clinic: Tenant
let number: ConnectedNumber

beforeAll(async () => {
  sql = postgres(backend.urls.admin, { max: 10, onnotice: () => undefined })
  clinic = await aTenant(backend, 'Clínica de Mão em Mão', ['viewer', 'attendant', 'admin'])
  number = await connectNumber(clinic)
})

afterAll(() => sql.end())

const control = async ({ id }: Conversation): Promise<Tables<'conversations'>> =>
  valueOf(await asAttendantOf(clinic).from('conversations').select('*').eq('id', id).single())

const release = async ({ id }: Conversation): Promise<Tables<'conversations'>> =>
  valueOf(await asAttendantOf(clinic).rpc('release_to_bot', { conversation_id: id }))

const takeOver = (client: Client, { id }: Conversation, control_epoch?: number) =>
  client.rpc('take_over_conversation', { conversation_id: id, ...(control_epoch === undefined ? {} : { control_epoch }) })

/** What a bot does at the end of its turn; the message's id, or null when it was too late. */
async function botSays({ id }: Conversation, epoch: number, words: string): Promise<string | null> {
  try {
    const [message] = await sql<{ id: string }[]>`
      select m.id
      from private.send_bot_message(${id}, ${clinic.organizationId}, ${epoch}, 'bot', 'text', ${words}, null, null) m`
    return message?.id ?? null
  } catch (error) {
    if (error instanceof postgres.PostgresError && error.code === 'BL208') return null
    throw error
  }
}

const opaque = z.looseObject({ biz_opaque_callback_data: z.string() })

/** Ids of the messages that Meta was asked to send, in that order. */
async function asked(through: ConnectedNumber): Promise<string[]> {
  return (await meta.sends(through)).map(({ body }) => opaque.parse(body).biz_opaque_callback_data.replace('outbox:', ''))
}

// A bot that is interrupted --------------------------------------------------------------------------------------------

describe('an attendant who takes over at a random instant of a bot\'s turn', () => {
  const ROUNDS = 500
  const LANES = 10

  interface Round {
    /** What the bot managed to queue. */
    said: string[]
    /** Of this, what was begun when the takeover was committed; and what of it was under way. */
    begun: string[]
    underWay: number
    tooLate: number
  }

  /** As an app's call does it; what is begun is read before anybody else can get at the conversation. */
  async function takeOverAndLook({ id }: Conversation, turn: Promise<unknown>[]): Promise<{ begun: string[]; underWay: number }> {
    const claims = JSON.stringify({ sub: memberOf(clinic, 'attendant').userId, role: 'authenticated' })
    const rows = await sql.begin(async (transaction) => {
      await transaction`select set_config('request.jwt.claims', ${claims}, true), set_config('role', 'authenticated', true)`
      await transaction`select public.take_over_conversation(${id}, null, ${clinic.organizationId})`
      await transaction`select set_config('role', 'none', true)`
      return await transaction<{ id: string; under_way: boolean }[]>`
        select m.id, u.message_id is not null as under_way
        from public.messages m
        left join private.unanswered_sends u on u.organization_id = m.organization_id and u.message_id = m.id
        where m.conversation_id = ${id}
          and m.sender = 'bot'
          and (m.whatsapp_message_id is not null or u.message_id is not null)`
    })
    await Promise.all(turn)
    return { begun: rows.map((row) => row.id), underWay: rows.filter((row) => row.under_way).length }
  }

  test(`hears nothing of the bot that was not begun by then, ${ROUNDS} times`, async () => {
    const through = await connectNumber(clinic, { sameAppAs: number })
    // Accepted is enough: what statuses do is told elsewhere.
    await meta.statuses(through, [])
    const chats: Conversation[] = []
    for (let lane = 0; lane < LANES; lane++) chats.push(await aConversation(clinic, through, aWaId()))

    // How long a turn takes here today, so that takeovers fall before, into and after its sending.
    const [first] = chats
    if (first === undefined) throw new Error('There is no conversation.')
    const trial: string[] = []
    let turnTakes = Infinity
    for (const turn of [1, 2, 3]) {
      const began = performance.now()
      for (const words of ['Oi!', 'Tudo bem?', 'Em que posso ajudar?']) trial.push(await botSays(first, 0, words) ?? '')
      await seen(() => asked(through), ({ length }) => length === turn * 3)
      turnTakes = Math.min(turnTakes, performance.now() - began)
    }

    const seenBefore = new Set(trial)
    const rounds: Round[] = []
    let left = ROUNDS
    await Promise.all(chats.map(async (chat) => {
      while (left-- > 0) {
        const [row] = await sql<{ control_epoch: number }[]>`
          select v.control_epoch from public.release_to_bot(${chat.id}, null, ${clinic.organizationId}) v`
        const epoch = row?.control_epoch ?? -1
        const instant = sleep(Math.random() * turnTakes * 2)
        const said = [await botSays(chat, epoch, 'Olá!'), await botSays(chat, epoch, 'Um momento.')]
        // The last one of the turn and the takeover come when they come.
        const last = sleep(Math.random() * turnTakes * 2).then(() => botSays(chat, epoch, 'Achei um horário.'))
        await instant
        const { begun, underWay } = await takeOverAndLook(chat, [last])
        said.push(await last)
        rounds.push({
          said: said.filter((id) => id !== null),
          begun: begun.filter((id) => !seenBefore.has(id)),
          underWay,
          tooLate: said.filter((id) => id === null).length,
        })
        for (const id of begun) seenBefore.add(id)
      }
    }))
    expect(rounds).toHaveLength(ROUNDS)

    const said = rounds.flatMap((round) => round.said)
    const begun = rounds.flatMap((round) => round.begun).sort()
    const unsettled = async () => {
      const [row] = await sql<{ count: string }[]>`
        select count(*) from public.messages m
        where m.id = any (${said}::uuid[]) and m.status = 'queued' and m.whatsapp_message_id is null`
      return Number(row?.count)
    }
    await seen(unsettled, (count) => count === 0)

    const sent = (await asked(through)).filter((id) => !trial.includes(id)).sort()
    expect({ sentTooLate: sent.filter((id) => !begun.includes(id)), lost: begun.filter((id) => !sent.includes(id)) })
      .toEqual({ sentTooLate: [], lost: [] })
    expect(sent).toHaveLength(begun.length)
    const failed = await sql<{ id: string; error_code: string | null }[]>`
      select m.id, m.error_code from public.messages m where m.id = any (${said}::uuid[]) and m.status = 'failed' order by m.id`
    expect(failed).toHaveLength(said.length - begun.length)
    expect(new Set(failed.map(({ error_code }) => error_code))).toEqual(new Set(['superseded']))
    // The instants were as different as they were meant to be.
    const tooLate = rounds.reduce((sum, round) => sum + round.tooLate, 0)
    const underWay = rounds.reduce((sum, round) => sum + round.underWay, 0)
    console.log(
      `${ROUNDS} takeovers: ${sent.length} bot messages begun before, ${underWay} of them under way at that moment; ` +
        `${failed.length} queued and never sent; ${tooLate} not even queued`,
    )
    for (const kind of [sent.length, failed.length, tooLate]) expect(kind).toBeGreaterThan(0)
  })

  test('also by simply answering: what the bot had queued is not sent, the answer is', async () => {
    const through = await connectNumber(clinic, { sameAppAs: number })
    const chat = await aConversation(clinic, through)
    await sql`update public.whatsapp_instances set sending_paused_until = now() + interval '1 hour' where id = ${through.instanceId}`
    const id = await botSays(chat, 0, 'Olá! Sou a assistente.')
    if (id === null) throw new Error('The bot was in control.')
    const answer = await write(clinic, chat, 'Oi, aqui é a Ana.')
    expect(await control(chat)).toMatchObject({
      is_bot_controlled: false,
      control_epoch: 1,
      status: 'active',
      unread_count: 0,
      assigned_user_id: memberOf(clinic, 'attendant').userId,
    })
    await sql`update public.whatsapp_instances set sending_paused_until = null where id = ${through.instanceId}`
    await hurry(sql, clinic)
    await whenIt('read', clinic, answer)
    expect(await messageNow(clinic, { id })).toMatchObject({ status: 'failed', error_code: 'superseded', whatsapp_message_id: null })
    expect(await asked(through)).toEqual([answer.id])
  })

  test('after the bot had handed over: its last words arrive, in their place', async () => {
    const through = await connectNumber(clinic, { sameAppAs: number })
    const chat = await aConversation(clinic, through)
    const [row] = await sql.begin(async (transaction) => {
      const said = await transaction<{ id: string }[]>`
        select m.id
        from private.send_bot_message(
          ${chat.id}, ${clinic.organizationId}, 0, 'bot', 'text', 'Vou chamar alguém.', null, null) m`
      await transaction`select private.hand_over(private.lock_conversation(${clinic.organizationId}, ${chat.id}), 'pediu atendente')`
      return said
    })
    await whenIt('read', clinic, { id: row?.id ?? '' })
    expect(await control(chat)).toMatchObject({ status: 'waiting_human', is_bot_controlled: false, escalation_reason: 'pediu atendente' })
  })
})

// Two attendants --------------------------------------------------------------------------------------------------------

describe('two attendants at once', () => {
  test('who saw the bot in control: one has the conversation, the other learns who was faster', async () => {
    const chat = await aConversation(clinic, number)
    for (let round = 0; round < 20; round++) {
      const { control_epoch } = await release(chat)
      const answers = await Promise.all([asAttendantOf(clinic), asAdminOf(clinic)].map((client) => takeOver(client, chat, control_epoch)))
      const [winner, ...others] = answers.flatMap(({ data }) => data === null ? [] : [data])
      expect(others).toEqual([])
      const [refused] = answers.flatMap(({ error }) => businessError(error) ?? [])
      expect(refused).toMatchObject({
        name: 'stale_control',
        detail: { control_epoch: control_epoch + 1, is_bot_controlled: false, assigned_user_id: winner?.assigned_user_id },
      })
      expect(await control(chat)).toMatchObject({ control_epoch: control_epoch + 1, assigned_user_id: winner?.assigned_user_id })
    }
  })

  test('who do not say what they saw: the last one has it, and the epoch counts both', async () => {
    const chat = await aConversation(clinic, number)
    const answers = await Promise.all([asAttendantOf(clinic), asAdminOf(clinic)].map((client) => takeOver(client, chat)))
    const taken = answers.map(valueOf).sort((a, b) => a.control_epoch - b.control_epoch)
    expect(taken.map(({ control_epoch }) => control_epoch)).toEqual([1, 2])
    expect(await control(chat)).toMatchObject({ control_epoch: 2, assigned_user_id: taken[1]?.assigned_user_id })
  })

  test('one gives it to the other while an administrator shows him the door: he is out, and nothing hangs', async () => {
    const chat = await aConversation(clinic, number)
    const temporary = await aTenantMember()
    const [transfer, removal] = await Promise.all([
      asAttendantOf(clinic).rpc('transfer_conversation', { conversation_id: chat.id, user_id: temporary }),
      asAdminOf(clinic).rpc('remove_member', { user_id: temporary, organization_id: clinic.organizationId }),
    ])
    expect(removal.error).toBeNull()
    if (transfer.error !== null) expect(businessError(transfer.error)?.name).toBe('member_not_available')
    expect((await control(chat)).assigned_user_id).toBeNull()
  })

  async function aTenantMember(): Promise<string> {
    const person = await aPerson(backend, 'temporaria')
    await join(clinic, person, 'attendant')
    return person.userId
  }
})

// The app -----------------------------------------------------------------------------------------------------------------

describe('an attendant\'s app', () => {
  let clinicOfItsOwn: Tenant
  let chats: Conversation[]

  beforeAll(async () => {
    clinicOfItsOwn = await aTenant(backend, 'Clínica da Caixa de Entrada', ['viewer', 'attendant'])
    const line = await connectNumber(clinicOfItsOwn)
    chats = []
    for (let n = 0; n < 7; n++) {
      const body = n % 2 === 0 ? `Quero uma consulta, por favor (${n})` : `Vocês fazem <b>vacinações</b>? 😊 (${n})`
      chats.push(await aConversation(clinicOfItsOwn, line, aWaId(), { type: 'text', text: { body } }))
    }
  })

  test('lists the inbox page by page, newest first', async () => {
    const inbox = tenantClient(asViewerOf(clinicOfItsOwn), clinicOfItsOwn.organizationId)
    const page = async (after?: InboxRow): Promise<InboxRow[]> => {
      let query = inbox.from('conversation_dashboard').select('*').eq('is_open', true)
      if (after?.last_message_at) {
        query = query.lte('last_message_at', after.last_message_at).or(`last_message_at.lt.${after.last_message_at},id.lt.${after.id}`)
      }
      return valueOf(await query.order('last_message_at', { ascending: false }).order('id', { ascending: false }).limit(3))
    }
    const rows: InboxRow[] = []
    for (let last = await page(); last.length > 0; last = await page(last.at(-1))) rows.push(...last)
    expect(rows.map(({ id }) => id)).toEqual(chats.map(({ id }) => id).reverse())
    expect(rows[0]).toMatchObject({
      contact_name: 'Ana',
      status: 'active',
      priority: 'normal',
      controlled_by: 'bot',
      unread_count: 1,
      last_message_preview: 'Quero uma consulta, por favor (6)',
      assigned_name: null,
    })
    const { last_message_at, window_expires_at } = rows[0] ?? {}
    const open = Date.parse(window_expires_at ?? '') - Date.parse(last_message_at ?? '')
    expect(Math.abs(open - 24 * 3_600_000)).toBeLessThan(60_000)
  })

  test('marks as read what it shows, assigns, and closes with a score', async () => {
    const app = tenantClient(asAttendantOf(clinicOfItsOwn), clinicOfItsOwn.organizationId)
    const [chat] = chats
    const conversation_id = chat?.id ?? ''
    expect(valueOf(await app.rpc('mark_conversation_read', { conversation_id })).unread_count).toBe(0)
    const user_id = memberOf(clinicOfItsOwn, 'attendant').userId
    expect(valueOf(await app.rpc('assign_conversation', { conversation_id, user_id })).assigned_user_id).toBe(user_id)
    expect(valueOf(await app.rpc('assign_conversation', { conversation_id })).assigned_user_id).toBeNull()
    expect(valueOf(await app.rpc('set_conversation_priority', { conversation_id, priority: 'high' })).priority).toBe('high')
    expect(valueOf(await app.rpc('close_conversation', { conversation_id, satisfaction_score: 5 }))).toMatchObject({ status: 'closed', satisfaction_score: 5 })
    expect(valueOf(await app.rpc('reopen_conversation', { conversation_id }))).toMatchObject({ status: 'active', closed_at: null })
  })

  test('finds what was said, and shows it as it is', async () => {
    const app = tenantClient(asViewerOf(clinicOfItsOwn), clinicOfItsOwn.organizationId)
    const found: MessageMatch[] = []
    let before: string | undefined
    for (;;) {
      const page = valueOf(await app.rpc('search_messages', { query: 'vacinação or consultas', page_size: 3, ...(before === undefined ? {} : { before }) }))
      found.push(...page)
      if (page.length < 3) break
      before = page.at(-1)?.cursor
    }
    expect(found.map(({ conversation_id }) => conversation_id).sort()).toEqual(chats.map(({ id }) => id).sort())
    const [vaccination] = found.filter(({ conversation_id }) => conversation_id === chats[1]?.id)
    expect(vaccination).toMatchObject({
      contact_name: 'Ana',
      sender: 'contact',
      excerpt: [
        { text: 'Vocês fazem <b>', match: false },
        { text: 'vacinações', match: true },
        { text: '</b>? 😊 (1)', match: false },
      ],
    })
    const { error } = await app.rpc('search_messages', { query: ' ' })
    expect(businessError(error)).toMatchObject({ name: 'invalid_query', detail: { reason: 'empty' } })
  })
})
