// The dashboard as an owner looks at it, in Chromium, on a stack of its own with the seed: whatever it shows is what the
// tables say, which are asked separately. With BALCAO_SCREENSHOTS=<folder> it leaves pictures there.

import { request } from 'node:http'
import { join } from 'node:path'
import type { Browser, BrowserContext, Page } from 'playwright-core'
import postgres from 'postgres'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type Stack, startStack } from '../../local/stack.ts'
import { aBrowser, faintTexts } from '../support/browser.ts'
import { run, temporaryDataDir } from '../support/processes.ts'
import { asNobody, asPlatform, valueOf } from '../support/tenants.ts'

const PATIENCE = { timeout: 20_000 }
const OWNERS = [
  ['helena@clinica.example', 'Clínica Vida Plena'],
  ['bruna@petshop.example', 'Focinho Feliz Pet Shop e Veterinária'],
  ['renata@planos.example', 'Horizonte Planos de Saúde'],
] as const
const [[HELENA, CLINIC], [BRUNA, PET_SHOP]] = OWNERS

let browser: Browser
let stack: Stack
let sql: postgres.Sql
let password: string
let context: BrowserContext
let page: Page
/** What a browser complains of, and what it was asked to load that the page has no business with. */
let complaints: string[]
const folder = temporaryDataDir()

beforeAll(async () => {
  browser = await aBrowser()
  // Nothing is refreshed but by the tests.
  stack = await startStack({ dataDir: folder.path, apiPort: 0, dbPort: 0, ticker: false })
  sql = postgres(stack.urls.database, { max: 1, onnotice: () => undefined })
  const seeded = await run(['--import', 'tsx', join('local', 'seed.ts')], folder.path, { BALCAO_DB_URL: '' }).ended
  expect({ code: seeded.code, stderr: seeded.stderr }).toEqual({ code: 0, stderr: '' })
  password = /Password +(\S+)/.exec(seeded.stdout)?.[1] ?? ''
}, 120_000)
afterAll(async () => {
  await sql?.end({ timeout: 1 })
  await stack?.stop()
  await folder.remove()
  await browser?.close()
})

beforeEach(async () => {
  complaints = []
  context = await browser.newContext({ viewport: { width: 1280, height: 900 }, locale: 'pt-BR', colorScheme: 'light' })
  page = await context.newPage()
  page.setDefaultTimeout(PATIENCE.timeout)
  page.on('pageerror', ({ message }) => complaints.push(message))
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()))
  page.on('websocket', (socket) => complaints.push(socket.url()))
  page.on('request', (asked) => {
    const ours = ['/dashboard', '/auth/v1/', '/rest/v1/'].some((path) =>
      asked.url().startsWith(`${stack.urls.api}${path}`)
    )
    if (!ours && !asked.url().startsWith('data:')) complaints.push(asked.url())
    // It only reads.
    if (asked.url().includes('/rest/v1/') && !['GET', 'OPTIONS'].includes(asked.method())) {
      complaints.push(`${asked.method()} ${asked.url()}`)
    }
  })
})
afterEach(async ({ task }) => {
  if (task.result?.state === 'fail') await picture('dashboard-failed')
  await context?.close()
})

// What a person does ----------------------------------------------------------------------------------------------------

async function signIn(email: string, secret = password, tab = page): Promise<void> {
  await tab.goto(`${stack.urls.api}/dashboard`)
  await tab.getByLabel('E-mail').fill(email)
  await tab.getByLabel('Senha').fill(secret)
  await tab.keyboard.press('Enter')
}

async function open(email: string, tab = page): Promise<void> {
  await signIn(email, password, tab)
  await tab.locator('#dashboard').waitFor()
}

async function leave(): Promise<void> {
  await page.getByRole('button', { name: 'Sair' }).click()
  await page.getByLabel('E-mail').waitFor()
  expect(await tokensOf(page)).toEqual([])
}

const focused = () => page.evaluate(() => document.activeElement?.tagName === 'H1' && document.activeElement.textContent)

const tokensOf = (tab: Page) =>
  tab.evaluate(() => Object.values({ ...sessionStorage }).map(String).filter((value) => value.includes('token')))

/** Without the spaces that do not break. */
const plain = (text: string) => text.replaceAll('\u00a0', ' ').trim()
const figure = async (id: string) => plain(await page.locator(`#${id} .value`).innerText())
const notes = async (id: string) => (await page.locator(`#${id} .note`).allTextContents()).map(plain)
const rowsOf = async (table: string) =>
  await page.locator(`#${table} tbody tr`).evaluateAll((rows) =>
    rows.map((row) => [...row.children].map((cell) => (cell.textContent ?? '').replaceAll('\u00a0', ' ')))
  )
const answered = (path: string) => page.waitForResponse((response) => response.url().includes(path) && response.ok())

async function refreshed(): Promise<void> {
  const answers = valueOf(await asPlatform(stack).rpc('refresh_analytics_views'))
  expect(answers.every(({ refreshed }) => refreshed)).toBe(true)
}

async function picture(name: string, fullPage = false): Promise<void> {
  const folder = process.env.BALCAO_SCREENSHOTS
  if (folder !== undefined) {
    await page.screenshot({ path: join(folder, `${name}.png`), animations: 'disabled', fullPage })
  }
}

// What the tables say ---------------------------------------------------------------------------------------------------

const reais = (cents: number | null) =>
  cents === null
    ? '–'
    : plain(new Intl.NumberFormat('pt-BR', { style: 'currency', currency: 'BRL' }).format(cents / 100))
const number = (count: number) => new Intl.NumberFormat('pt-BR').format(count)
const percent = (part: number, whole: number) =>
  whole === 0
    ? '–'
    : new Intl.NumberFormat('pt-BR', { style: 'percent', maximumFractionDigits: 1 }).format(part / whole)
const shortDay = (date: string) => date.replace(/^\d+-(\d+)-(\d+)$/, '$2/$1')

interface Day {
  date: string
  completed: number
  no_shows: number
  cancelled: number
  revenue: number
  resolved: number
  conversations: number
  closed: number
  leads: number
  won: number
}

/** The 28 days before today, and the 28 before those. */
async function daysOf(name: string): Promise<Day[]> {
  return await sql<Day[]>`
    with o as (select id, timezone, (now() at time zone timezone)::date as today from public.organizations where name = ${name})
    select d.date::date::text as date, b.*, v.*, l.*
    from o
    cross join generate_series(o.today - 56, o.today - 1, interval '1 day') d (date)
    cross join lateral (
      select count(*) filter (where i.status = 'completed')::int as completed, count(*) filter (where i.status = 'no_show')::int as no_shows,
        count(*) filter (where i.status = 'cancelled')::int as cancelled,
        coalesce(sum(i.price_cents) filter (where i.status = 'completed'), 0)::int as revenue
      from public.bookings i where i.organization_id = o.id and i.booking_date = d.date
    ) b
    cross join lateral (
      select count(*)::int as conversations, count(*) filter (where i.status = 'closed')::int as closed,
        count(*) filter (where i.status = 'closed' and i.escalated_at is null and i.last_human_message_at is null)::int as resolved
      from public.conversations i where i.organization_id = o.id and (i.created_at at time zone o.timezone)::date = d.date
    ) v
    cross join lateral (
      select count(*)::int as leads, count(*) filter (where i.status = 'fechado')::int as won
      from public.leads i where i.organization_id = o.id and (i.created_at at time zone o.timezone)::date = d.date
    ) l
    order by d.date`
}

const sum = (days: Day[], key: Exclude<keyof Day, 'date'>) => days.reduce((total, day) => total + day[key], 0)

describe.each(OWNERS)('%s of %s', (email, name) => {
  test('sees of today what the tables say', async () => {
    await open(email)
    expect(await page.getByRole('heading', { level: 1 }).innerText()).toBe(name)
    const [now] = await sql<Record<string, number>[]>`
      with o as (
        select o.id, o.timezone, (now() at time zone o.timezone)::date as today from public.organizations o where o.name = ${name}
      ), b as (
        select i.*, i.booking_date = o.today as is_today,
          date_trunc('week', i.booking_date) = date_trunc('week', o.today) as is_week,
          date_trunc('month', i.booking_date) = date_trunc('month', o.today) as is_month
        from o join public.bookings i on i.organization_id = o.id
        where i.status not in ('hold', 'cancelled')
      )
      select
        (select count(*) from b where is_today)::int as today, (select count(*) from b where is_week)::int as week,
        (select count(*) from b where is_month)::int as month,
        (select coalesce(sum(price_cents), 0) from b where is_today and status = 'completed')::int as revenue_today,
        (select coalesce(sum(price_cents), 0) from b where is_week and status = 'completed')::int as revenue_week,
        (select coalesce(sum(price_cents), 0) from b where is_month and status = 'completed')::int as revenue_month,
        (select count(*) from b where is_month and status = 'completed')::int as completed,
        (select count(*) from b where is_month and status = 'no_show')::int as no_shows,
        (select count(*) from public.conversations v, o where v.organization_id = o.id and v.is_open)::int as open,
        (select count(*) from public.conversations v, o where v.organization_id = o.id and v.is_open and v.unread_count > 0)::int as unread,
        (select count(*) from public.conversations v, o where v.organization_id = o.id and v.status = 'waiting_human')::int as waiting,
        (select count(*) from public.contacts c, o where c.organization_id = o.id and (c.created_at at time zone o.timezone)::date = o.today)::int as contacts,
        (select count(*) from public.messages m, o where m.organization_id = o.id and (m.created_at at time zone o.timezone)::date = o.today)::int as messages,
        (select count(*) from public.ai_interactions a, o, public.dashboard_metrics m
          where a.organization_id = o.id and m.organization_id = o.id and a.created_at >= m.calculated_at - interval '7 days')::int as ai_actions,
        (select round(avg(a.confidence_score), 3) from public.ai_interactions a, o, public.dashboard_metrics m
          where a.organization_id = o.id and m.organization_id = o.id and a.created_at >= m.calculated_at - interval '7 days')::float as confidence`
    if (now === undefined) throw new Error(`There is no ${name}.`)
    const is = (key: string) => now[key] ?? Number.NaN
    const plural = (count: number, one: string, many: string) => `${number(count)} ${count === 1 ? one : many}`
    expect({
      bookings: [await figure('bookings-today'), ...await notes('bookings-today')],
      revenue: [await figure('revenue-today'), ...await notes('revenue-today')],
      waiting: [await figure('waiting-now'), ...await notes('waiting-now')],
      noShows: [await figure('no-show-month'), ...await notes('no-show-month')],
      contacts: [await figure('new-contacts'), ...await notes('new-contacts')],
      confidence: [await figure('ai-confidence'), ...await notes('ai-confidence')],
    }).toEqual({
      bookings: [number(is('today')), `${number(is('week'))} na semana`, `${number(is('month'))} no mês`],
      revenue: [
        reais(is('revenue_today')),
        `${reais(is('revenue_week'))} na semana`,
        `${reais(is('revenue_month'))} no mês`,
      ],
      waiting: [
        number(is('waiting')),
        plural(is('open'), 'conversa aberta', 'conversas abertas'),
        plural(is('unread'), 'não lida', 'não lidas'),
      ],
      noShows: [
        percent(is('no_shows'), is('completed') + is('no_shows')),
        plural(is('no_shows'), 'falta', 'faltas'),
        plural(is('completed'), 'atendimento', 'atendimentos'),
      ],
      contacts: [number(is('contacts')), plural(is('messages'), 'mensagem hoje', 'mensagens hoje')],
      confidence: [percent(is('confidence'), 1), `${plural(is('ai_actions'), 'resposta', 'respostas')} em 7 dias`],
    })

    const booked = await sql<{ time: string; name: string; status: string }[]>`
      select to_char(b.start_time at time zone coalesce(l.timezone, o.timezone), 'HH24:MI') as time, c.name,
        case b.status when 'scheduled' then 'Marcado' when 'confirmed' then 'Confirmado' when 'completed' then 'Realizado'
          when 'cancelled' then 'Cancelado' when 'no_show' then 'Faltou' end as status
      from public.organizations o
      join public.bookings b on b.organization_id = o.id and b.booking_date = (now() at time zone o.timezone)::date and b.status <> 'hold'
      join public.contacts c on c.organization_id = b.organization_id and c.id = b.contact_id
      left join public.locations l on l.organization_id = b.organization_id and l.id = b.location_id
      where o.name = ${name}
      order by b.start_time, b.id`
    const shown = await page.locator('#bookings-list li').evaluateAll((items) =>
      items.map((item) => ({
        time: item.querySelector('time')?.textContent,
        name: item.querySelector('b')?.textContent,
        status: item.querySelector('.chip')?.textContent,
      }))
    )
    expect(shown).toEqual([...booked])

    const waiting = await sql<{ name: string }[]>`
      select c.name from public.conversations v
      join public.organizations o on o.id = v.organization_id
      join public.contacts c on c.organization_id = v.organization_id and c.id = v.contact_id
      where o.name = ${name} and v.status = 'waiting_human' order by v.escalated_at`
    expect(await page.locator('#waiting-list b').allTextContents()).toEqual(waiting.map((row) => row.name))
    expect(complaints).toEqual([])
  })

  test('sees of four weeks what the tables say', async () => {
    await open(email)
    const days = await daysOf(name)
    const [before, now] = [days.slice(0, 28), days.slice(28)]
    expect(now).toHaveLength(28)
    expect(await page.locator('#period-title').innerText())
      .toBe(`Últimas 4 semanas, de ${shortDay(now[0]?.date ?? '')} a ${shortDay(now.at(-1)?.date ?? '')}`)
    expect({
      revenue: await figure('period-revenue'),
      noShows: await figure('period-no-shows'),
      conversations: await figure('period-conversations'),
      resolution: await figure('period-resolution'),
    }).toEqual({
      revenue: reais(sum(now, 'revenue')),
      noShows: percent(sum(now, 'no_shows'), sum(now, 'completed') + sum(now, 'no_shows')),
      conversations: number(sum(now, 'conversations')),
      resolution: percent(sum(now, 'resolved'), sum(now, 'closed')),
    })
    // What was nothing is nothing still: that is a comparison.
    const compared = ['period-revenue', 'period-no-shows', 'period-conversations', 'period-resolution'].map(notes)
    expect((await Promise.all(compared)).flat().join()).not.toContain('sem período anterior')
    const earned = [sum(before, 'revenue'), sum(now, 'revenue')]
    if (earned.every((cents) => cents === 0)) expect((await notes('period-revenue'))[0]).toContain('o mesmo')
    const growth = (sum(now, 'conversations') - sum(before, 'conversations')) / sum(before, 'conversations')
    expect((await notes('period-conversations'))[0]).toContain(
      `${percent(Math.abs(growth), 1)} ${growth < 0 ? 'a menos' : 'a mais'}`,
    )

    const newestFirst = now.toReversed()
    const withoutDay = (rows: string[][]) => rows.map(([, ...cells]) => cells)
    expect(withoutDay(await rowsOf('appointments-table')))
      .toEqual(newestFirst.map(({ completed, no_shows, cancelled }) => [completed, no_shows, cancelled].map(number)))
    expect(withoutDay(await rowsOf('revenue-table')).map(([revenue]) => revenue)).toEqual(
      newestFirst.map(({ revenue }) => reais(revenue)),
    )
    expect(withoutDay(await rowsOf('conversations-table')))
      .toEqual(
        newestFirst.map((day) =>
          [day.resolved, day.closed - day.resolved, day.conversations - day.closed].map(number)
        ),
      )
    expect(withoutDay(await rowsOf('leads-table'))).toEqual(
      newestFirst.map(({ won, leads }) => [won, leads - won].map(number)),
    )
    // The last of the trend lines: seven days up to yesterday.
    const week = days.slice(-7)
    expect(withoutDay(await rowsOf('rates-table'))[0]).toEqual([
      percent(sum(week, 'resolved'), sum(week, 'closed')),
      percent(sum(week, 'no_shows'), sum(week, 'completed') + sum(week, 'no_shows')),
    ])
    expect(plain((await rowsOf('revenue-table'))[0]?.[2] ?? '')).toBe(reais(sum(week, 'revenue') / 7))

    // What came right before an answer in the conversation, if it was the customer.
    const speeds = await sql<{ date: string; ai: number | null; all: number }[]>`
      select (a.created_at at time zone a.timezone)::date::text as date,
        percentile_cont(.5) within group (order by a.seconds) filter (where a.sender = 'ai') as ai,
        percentile_cont(.5) within group (order by a.seconds) as all
      from (
        select m.created_at, m.sender, m.direction, o.timezone,
          extract(epoch from m.created_at - lag(m.created_at) over w) as seconds, lag(m.direction) over w as before
        from public.messages m join public.organizations o on o.id = m.organization_id
        where o.name = ${name}
        window w as (partition by m.conversation_id order by m.id)
      ) a
      where a.direction = 'outbound' and a.before = 'inbound'
      group by 1`
    const spoken = (seconds: number | null | undefined) => {
      if (seconds === null || seconds === undefined) return '–'
      if (seconds < 9.95) return `${new Intl.NumberFormat('pt-BR', { maximumFractionDigits: 1 }).format(seconds)} s`
      if (seconds < 60) return `${Math.round(seconds)} s`
      const minutes = Math.round(seconds / 60)
      return minutes < 60
        ? `${minutes} min`
        : `${Math.floor(minutes / 60)} h${minutes % 60 === 0 ? '' : ` ${minutes % 60} min`}`
    }
    expect(withoutDay(await rowsOf('responses-table')).map(([ai, all]) => [ai, all])).toEqual(
      newestFirst.map(({ date }) => speeds.find((speed) => speed.date === date)).map((
        speed,
      ) => [spoken(speed?.ai), spoken(speed?.all)]),
    )
    expect(complaints).toEqual([])
  })

  test('sees of leads, services and professionals what the tables say', async () => {
    await open(email)
    const leads = await sql<{ status: string; count: number; name: string | null }[]>`
      select l.status::text, p.name, count(*)::int from public.leads l
      join public.organizations o on o.id = l.organization_id
      left join public.professionals p on p.organization_id = l.organization_id and p.id = l.professional_id
      where o.name = ${name} group by 1, 2`
    const count = (wanted: (row: typeof leads[number]) => boolean) =>
      leads.filter(wanted).reduce((total, row) => total + row.count, 0)
    for (const status of ['novo', 'em_contato', 'agendado', 'fechado', 'perdido']) {
      expect({ [status]: await page.locator(`#funnel-${status} b`).innerText() })
        .toEqual({ [status]: number(count((row) => row.status === status)) })
    }
    expect(plain(await page.locator('#funnel-total').innerText()))
      .toBe(
        `${number(count(() => true))} leads · ${
          percent(
            count((row) => row.status === 'fechado'),
            count(() => true),
          )
        } fechados`,
      )
    for (const [professional, total, won] of await rowsOf('professionals-table')) {
      const own = (row: typeof leads[number]) => (row.name ?? 'Sem profissional') === professional
      expect([professional, total, won])
        .toEqual([professional, number(count(own)), number(count((row) => own(row) && row.status === 'fechado'))])
    }

    expect(await page.locator('#professionals-table thead th').last().innerText()).toBe('Conversas desses leads')

    const services = await sql<Record<string, string | number | null>[]>`
      select s.name, sum(b.price_cents) filter (where b.status = 'completed')::int as revenue, count(*)::int as booked,
        count(*) filter (where b.status = 'completed')::int as completed, count(*) filter (where b.status = 'no_show')::int as no_shows,
        count(*) filter (where b.status = 'cancelled')::int as cancelled,
        count(distinct b.contact_id) filter (where b.status <> 'cancelled')::int as customers,
        round(avg(b.price_cents) filter (where b.status = 'completed'))::int as average
      from public.services s
      join public.organizations o on o.id = s.organization_id
      join public.bookings b on b.organization_id = s.organization_id and b.service_id = s.id and b.status <> 'hold'
        and b.booking_date <= (now() at time zone o.timezone)::date and b.booking_date > (now() at time zone o.timezone)::date - 90
      where o.name = ${name}
      group by s.id, s.name`
    const rows = await rowsOf('services-table')
    expect(rows.toSorted()).toEqual(
      services.map(({ name, revenue, average, booked, completed, no_shows, cancelled, customers }) => [
        String(name),
        reais(Number(revenue ?? 0)),
        ...[booked, completed, no_shows, cancelled, customers].map((count) => number(Number(count))),
        reais(average === null || average === undefined ? null : Number(average)),
      ]).toSorted(),
    )
    const earned = services.map(({ revenue }) => Number(revenue ?? 0)).toSorted((a, b) => b - a)
    expect(rows.map(([, revenue]) => revenue)).toEqual(earned.map(reais))
    expect(complaints).toEqual([])
  })
})

test('a wrong password lets nobody in, and says what to do', async () => {
  await signIn(HELENA, 'not-hers')
  await page.getByRole('alert').filter({ hasText: 'E-mail ou senha não conferem' }).waitFor()
  expect(await page.locator('#app').isVisible()).toBe(false)
  await page.getByLabel('E-mail').fill('helena')
  await page.keyboard.press('Enter')
  await page.getByRole('alert').filter({ hasText: 'Escreva um e-mail completo' }).waitFor()
  await page.getByLabel('E-mail').fill(HELENA)
  await page.getByLabel('Senha').fill(password)
  await page.getByRole('button', { name: 'Entrar' }).click()
  await page.locator('#dashboard').waitFor()
  expect(await page.locator('#sign-in').isVisible()).toBe(false)
})

test("another tenant's owner sees his own business only, whatever the address asks for", async () => {
  const [clinic] = await sql<{ id: string }[]>`select id from public.organizations where name = ${CLINIC}`
  const strangers = await sql<{ name: string }[]>`
    select c.name from public.contacts c join public.organizations o on o.id = c.organization_id where o.name = ${CLINIC}`
  const answers: string[] = []
  page.on('response', (response) => {
    if (response.url().includes('/rest/v1/') && response.request().method() === 'GET') {
      void response.text().then((text) => answers.push(text))
    }
  })
  await page.goto(`${stack.urls.api}/dashboard#empresa=${clinic?.id}`)
  await page.getByLabel('E-mail').fill(BRUNA)
  await page.getByLabel('Senha').fill(password)
  await page.keyboard.press('Enter')
  await page.locator('#dashboard').waitFor()
  expect(await page.getByRole('heading', { level: 1 }).innerText()).toBe(PET_SHOP)
  expect(await page.getByLabel('Empresa', { exact: true }).isVisible()).toBe(false)
  await expect.poll(() => answers.length, PATIENCE).toBe(9)
  const told = answers.join('\n')
  expect(strangers.filter(({ name }) => told.includes(name))).toEqual([])
  expect(told).not.toContain(CLINIC)
  expect(complaints).toEqual([])
})

test('who belongs to several organizations chooses; one without anything says so', async () => {
  const helena = asNobody(stack)
  expect((await helena.auth.signInWithPassword({ email: HELENA, password })).error).toBeNull()
  const fresh = valueOf(await helena.rpc('create_organization', { name: 'Ateliê Sem Ninguém', vertical: 'clinic' }))
  try {
    await open(HELENA)
    await page.getByLabel('Empresa', { exact: true }).selectOption('Ateliê Sem Ninguém')
    // Its figures have not been computed yet.
    await page.getByRole('status').filter({ hasText: 'prontos em até cinco minutos' }).waitFor()
    await refreshed()
    const again = answered('/rest/v1/dashboard_metrics')
    await page.getByRole('button', { name: 'Atualizar' }).click()
    await again
    await page.getByRole('status').filter({ hasText: 'prontos em até cinco minutos' }).waitFor({ state: 'hidden' })
    await expect.poll(() => figure('bookings-today'), PATIENCE).toBe('0')
    expect(await page.getByRole('heading', { level: 1 }).innerText()).toBe('Ateliê Sem Ninguém')
    expect({
      revenue: await figure('revenue-today'),
      noShows: await figure('no-show-month'),
      confidence: await figure('ai-confidence'),
      resolution: await figure('period-resolution'),
      response: await figure('period-response'),
      satisfaction: await figure('period-satisfaction'),
    }).toEqual({ revenue: 'R$ 0,00', noShows: '–', confidence: '–', resolution: '–', response: '–', satisfaction: '–' })
    for (const id of ['period-revenue', 'period-no-shows', 'period-conversations', 'period-resolution']) {
      expect((await notes(id))[0]).toBe('sem período anterior')
    }
    for (
      const said of [
        'Nada marcado para hoje',
        'Ninguém está esperando',
        'Ainda não há leads',
        'Ainda não há números de serviços',
        'Ainda não há números de profissionais',
      ]
    ) {
      await page.getByText(said).waitFor()
    }
    expect(await page.locator('#dashboard').innerText()).not.toMatch(/NaN|undefined|null|Infinity/)
    expect((await rowsOf('appointments-table')).length).toBe(28)
    expect(await page.getByText('Nada neste período.').count()).toBe(6)
    await picture('dashboard-empty-1280', true)

    // The one chosen is the one after a reload.
    await page.reload()
    await page.getByRole('heading', { level: 1, name: 'Ateliê Sem Ninguém' }).waitFor()
    await page.getByLabel('Empresa', { exact: true }).selectOption(CLINIC)
    await page.getByRole('heading', { level: 1, name: CLINIC }).waitFor()
    await page.locator('#bookings-list li').first().waitFor()
    expect(complaints).toEqual([])
  } finally {
    await sql`update public.organizations set is_active = false where id = ${fresh.id}`
  }
})

test('who belongs to no organization is told what to do', async () => {
  const email = `ninguem-${Date.now()}@exemplo.com.br`
  valueOf(await asNobody(stack).auth.signUp({ email, password }))
  await open(BRUNA)
  await leave()
  await signIn(email)
  await page.getByRole('heading', { name: 'Você ainda não pertence a nenhuma empresa' }).waitFor()
  // Nor does the name of the one before stay.
  expect(await focused()).toBe('Painel')
  expect(await page.locator('#dashboard').isVisible()).toBe(false)
  expect(complaints).toEqual([])
})

test('another period, at once; news by the button, and by itself every minute', async () => {
  await page.clock.install()
  await open(BRUNA)
  await page.getByLabel('Período', { exact: true }).selectOption('7 dias')
  await page.getByRole('heading', { name: 'Últimos 7 dias' }).waitFor()
  expect((await rowsOf('appointments-table')).length).toBe(7)
  await page.getByLabel('Período', { exact: true }).selectOption('12 semanas')
  await page.getByRole('heading', { name: 'Últimas 12 semanas' }).waitFor()
  expect((await rowsOf('appointments-table')).length).toBe(84)
  await page.reload()
  await page.getByRole('heading', { name: 'Últimas 12 semanas' }).waitFor()
  expect(await page.getByLabel('Período', { exact: true }).inputValue()).toBe('84')

  const shown = Number(await figure('new-contacts'))
  const arrives = async (phone_number: string) => {
    await sql`
      insert into public.contacts (organization_id, name, phone_number)
      select id, 'Recém-chegada', ${phone_number} from public.organizations where name = ${PET_SHOP}`
    await refreshed()
  }
  await arrives('+5531900002888')
  expect(Number(await figure('new-contacts'))).toBe(shown)
  await page.getByRole('button', { name: 'Atualizar' }).click()
  await expect.poll(() => figure('new-contacts'), PATIENCE).toBe(String(shown + 1))

  await arrives('+5531900002889')
  await page.clock.runFor(62_000)
  await expect.poll(() => figure('new-contacts'), PATIENCE).toBe(String(shown + 2))
  const [metrics] = await sql<{ clock: string }[]>`
    select to_char(m.calculated_at at time zone o.timezone, 'HH24:MI') as clock
    from public.dashboard_metrics m join public.organizations o on o.id = m.organization_id where o.name = ${PET_SHOP}`
  await page.getByText(`números de hoje atualizados às ${metrics?.clock}`).waitFor()
  expect(complaints).toEqual([])
})

test('what was nothing before is compared with nothing', async () => {
  const day = (daysAgo: number) => new Date(Date.now() - daysAgo * 86_400_000).toISOString().slice(0, 10)
  const nothing = { total_appointments: 2, completed: 0, no_shows: 0, cancelled: 2, revenue_cents: 0 }
  let days = [{ ...nothing, date: day(40) }, { ...nothing, date: day(3) }]
  await page.route('**/rest/v1/clinic_metrics_daily*', (route) => route.fulfill({ json: days }))
  await open(BRUNA)
  expect((await notes('period-revenue'))[0]).toContain('o mesmo')
  expect((await notes('period-no-shows'))[0]).toBe('sem comparação')
  days = [{ ...nothing, date: day(40) }, { ...nothing, completed: 1, revenue_cents: 12_000, date: day(3) }]
  await page.getByRole('button', { name: 'Atualizar' }).click()
  await expect.poll(async () => (await notes('period-revenue'))[0], PATIENCE).toBe('▲ antes R$ 0,00')
  expect((await notes('period-no-shows'))[0]).toBe('sem comparação')
  expect(complaints).toEqual([])
})

test('a network that goes away leaves the figures where they are, and says so', async () => {
  await open(HELENA)
  const revenue = await figure('period-revenue')
  await context.setOffline(true)
  await page.getByRole('button', { name: 'Atualizar' }).click()
  await page.getByRole('alert').filter({ hasText: 'O servidor não responde' }).waitFor()
  expect(await figure('period-revenue')).toBe(revenue)

  // Impatience changes nothing: the one look that is under way says what became of it.
  let asked = 0
  page.on('request', (request) => asked += Number(request.url().includes('/rest/v1/dashboard_metrics')))
  let answer = () => {}
  const held = new Promise<void>((resolve) => (answer = resolve))
  await context.setOffline(false)
  await page.getByRole('alert').filter({ hasText: 'O servidor não responde' }).waitFor({ state: 'hidden' })
  await page.route('**/rest/v1/dashboard_metrics*', async (route) => {
    await held
    await route.continue()
  })
  asked = 0
  for (let click = 0; click < 3; click++) await page.getByRole('button', { name: 'Atualizar' }).click()
  const late = answered('/rest/v1/dashboard_metrics')
  answer()
  await late
  expect(asked).toBe(1)
  await page.unroute('**/rest/v1/dashboard_metrics*')
  await expect.poll(() => page.locator('#refresh[aria-busy]').count(), PATIENCE).toBe(0)
  await context.setOffline(true)
  await page.getByRole('button', { name: 'Atualizar' }).click()
  await page.getByRole('alert').filter({ hasText: 'O servidor não responde' }).waitFor()
  await context.setOffline(false)
  await page.getByRole('alert').filter({ hasText: 'O servidor não responde' }).waitFor({ state: 'hidden' })

  // At the door nobody tries again but who stands there.
  await leave()
  await context.setOffline(true)
  await page.getByLabel('E-mail').fill(HELENA)
  await page.getByLabel('Senha').fill(password)
  await page.keyboard.press('Enter')
  await page.getByRole('alert').filter({ hasText: 'Verifique a conexão e tente de novo.' }).waitFor()
  await context.setOffline(false)
  await page.keyboard.press('Enter')
  await page.locator('#dashboard').waitFor()

  // A database that refuses is another trouble, with another way out.
  const refusal = {
    status: 403,
    json: { code: '42501', message: 'permission denied for view service_analytics', details: null, hint: null },
  }
  await page.route('**/rest/v1/service_analytics*', (route) => route.fulfill(refusal), { times: 1 })
  await page.getByRole('button', { name: 'Atualizar' }).click()
  await page.getByRole('alert').filter({ hasText: 'Peça a quem administra' }).waitFor()
})

test('who has a session is not sent to the door because nobody answers', async () => {
  await open(HELENA)
  await page.clock.install()
  const away = { status: 503, json: { code: 'PGRST002', message: 'Could not query the database', details: null, hint: null } }
  await page.route('**/rest/v1/organizations*', (route) => route.fulfill(away))
  await page.reload()
  await page.getByRole('alert').filter({ hasText: 'O servidor não responde' }).waitFor()
  expect(await page.locator('#sign-in').isVisible()).toBe(false)
  expect(await page.getByText('Você ainda não pertence').isVisible()).toBe(false)
  expect(await page.getByLabel('Empresa', { exact: true }).isVisible()).toBe(false)
  await page.unroute('**/rest/v1/organizations*')
  await page.clock.runFor(62_000)
  await page.locator('#dashboard').waitFor()
  expect(await page.getByRole('alert').filter({ hasText: 'O servidor não responde' }).isVisible()).toBe(false)

  await page.route('**/rest/v1/organizations*', (route) => route.fulfill(away))
  await page.reload()
  await page.getByRole('alert').filter({ hasText: 'O servidor não responde' }).waitFor()
  await picture('dashboard-away-1280')
  await page.unroute('**/rest/v1/organizations*')
  await page.getByRole('button', { name: 'Atualizar' }).click()
  await page.locator('#dashboard').waitFor()
  expect(await page.getByRole('heading', { level: 1 }).innerText()).toBe(CLINIC)

  // Whoever leaves while he is being let in has left.
  let letIn = () => {}
  const held = new Promise<void>((resolve) => (letIn = resolve))
  await page.route('**/rest/v1/organizations*', async (route) => {
    await held
    await route.continue()
  })
  await page.reload()
  await page.evaluate(() => document.getElementById('sign-out')?.click())
  await page.getByLabel('E-mail').waitFor()
  const late = answered('/rest/v1/organizations')
  letIn()
  await late
  expect(await tokensOf(page)).toEqual([])
  expect(await page.locator('#app').isVisible()).toBe(false)
})

test('a session lasts as long as the tab, and no longer than it is good for', async () => {
  await open(HELENA)
  await page.reload()
  await page.locator('#dashboard').waitFor()
  expect(await page.evaluate(() => localStorage.length)).toBe(0)
  const other = await context.newPage()
  await other.goto(`${stack.urls.api}/dashboard`)
  await other.getByLabel('E-mail').waitFor()

  const expired = { status: 401, json: { code: 'PGRST301', message: 'JWT expired', details: null, hint: null } }
  await page.route('**/rest/v1/bookings*', (route) => route.fulfill(expired), { times: 1 })
  await page.getByRole('button', { name: 'Atualizar' }).click()
  await page.getByRole('alert').filter({ hasText: 'Sua sessão terminou' }).waitFor()
  expect(await page.locator('#app').isVisible()).toBe(false)

  await open(HELENA)
  await leave()
  await page.reload()
  await page.getByLabel('E-mail').waitFor()

  // Where nobody answers either.
  await open(HELENA)
  await context.setOffline(true)
  await leave()
})

test('whoever signs out in one tab leaves another tab to whom it belongs', async () => {
  await open(BRUNA)
  const other = await context.newPage()
  await open(HELENA, other)
  await other.getByRole('button', { name: 'Sair' }).click()
  await other.getByLabel('E-mail').waitFor()
  expect(await tokensOf(other)).toEqual([])
  // What the tabs may have told each other has been heard once the network has answered again.
  const again = answered('/rest/v1/dashboard_metrics')
  await page.getByRole('button', { name: 'Atualizar' }).click()
  await again
  expect(await page.getByRole('heading', { level: 1 }).innerText()).toBe(PET_SHOP)
  expect(await page.locator('#sign-in').isVisible()).toBe(false)
  await page.reload()
  await page.getByRole('heading', { level: 1, name: PET_SHOP }).waitFor()
  expect(complaints).toEqual([])
})

test('a copy of a tab has the same session, which ends in both', async () => {
  await open(BRUNA)
  const opened = context.waitForEvent('page')
  await page.evaluate(() => window.open(location.href))
  const copy = await opened
  await copy.getByRole('heading', { level: 1, name: PET_SHOP }).waitFor()
  await leave()
  await copy.getByRole('alert').filter({ hasText: 'Sua sessão terminou' }).waitFor()
  expect(await tokensOf(copy)).toEqual([])
  await copy.reload()
  await copy.getByLabel('E-mail').waitFor()
  expect(await copy.locator('#app').isVisible()).toBe(false)
})

test('what anybody writes is text', async () => {
  const attack = `<img src=x onerror="document.title='cracked'"><script>document.title='cracked'</script>`
  await sql`
    update public.conversations v set escalation_reason = ${attack}, last_message_preview = ${attack}
    from public.organizations o where o.id = v.organization_id and o.name = ${PET_SHOP} and v.status = 'waiting_human'`
  await sql`
    update public.services s set name = ${attack}
    from public.organizations o where o.id = s.organization_id and o.name = ${PET_SHOP} and s.name = 'Corte de unhas'`
  await refreshed()
  await open(BRUNA)
  await page.locator('#waiting-list').getByText('<img src=x').first().waitFor()
  await page.locator('#services-table').getByText('<script>').waitFor()
  expect(await page.locator('main img, main script').count()).toBe(0)
  expect(await page.title()).toBe(`${PET_SHOP} · Painel · Balcão`)
  expect(complaints).toEqual([])
})

test('a phone is enough to read it, and a keyboard', async () => {
  await page.setViewportSize({ width: 375, height: 812 })
  for (const [email] of OWNERS) {
    await open(email)
    // Nothing sticks out to the side, at the width of small phones either.
    for (const width of [375, 320]) {
      await page.setViewportSize({ width, height: 812 })
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(width)
    }
    await page.setViewportSize({ width: 375, height: 812 })
    if (email === HELENA) {
      await picture('dashboard-375', true)
      await page.emulateMedia({ colorScheme: 'dark' })
      await picture('dashboard-dark-375')
      await page.emulateMedia({ colorScheme: 'light' })
    }
    await leave()
  }
  await open(HELENA)
  // The form is gone: who has signed in by keyboard goes on from the top, and hears whose figures these are.
  expect(await focused()).toBe(CLINIC)
  await page.keyboard.press('Tab')
  expect(await page.getByLabel('Período', { exact: true }).evaluate((node) => node === document.activeElement)).toBe(true)
  const summary = page.getByText('Agenda por dia, em tabela')
  await summary.focus()
  await page.keyboard.press('Enter')
  await page.getByRole('region', { name: 'Agenda por dia' }).waitFor()
  const services = page.getByRole('region', { name: 'Tabela de serviços' })
  await services.focus()
  await page.keyboard.press('ArrowRight')
  await expect.poll(() => services.evaluate((node) => node.scrollLeft), PATIENCE).toBeGreaterThan(0)
  expect(complaints).toEqual([])
})

test('everything has a name, and stands out enough, in the light and in the dark', async () => {
  await page.goto(`${stack.urls.api}/dashboard`)
  await page.getByLabel('E-mail').waitFor()
  expect(await page.evaluate(faintTexts)).toEqual([])
  await open(HELENA)
  await page.locator('details').evaluateAll((nodes) => nodes.forEach((node) => node.setAttribute('open', '')))
  for (const colorScheme of ['light', 'dark'] as const) {
    await page.emulateMedia({ colorScheme })
    expect(await page.evaluate(faintTexts)).toEqual([])
  }
  const unnamed = await page.locator('button, input, select, canvas, [role="region"], table, section, figure')
    .evaluateAll((nodes) =>
      nodes.filter((node) => {
        const labels = node instanceof HTMLInputElement || node instanceof HTMLSelectElement
          ? [...node.labels ?? []]
          : []
        const labelledBy = document.getElementById(node.getAttribute('aria-labelledby') ?? '')
        const own = node instanceof HTMLTableElement
          ? node.caption
          : node.tagName === 'FIGURE'
          ? node.querySelector('figcaption')
          : null
        const says = [
          node.getAttribute('aria-label'),
          labelledBy?.textContent,
          own?.textContent,
          ...labels.map(({ textContent }) => textContent),
        ]
        return !says.some((text) => text?.trim()) && !(node instanceof HTMLButtonElement && node.textContent?.trim())
      }).map((node) => node.outerHTML.slice(0, 120))
    )
  expect(unnamed).toEqual([])
  // What cannot be seen can be read: each chart's picture says what it shows, and its table stands beside it.
  for (const canvas of await page.locator('canvas').all()) {
    expect(await canvas.getAttribute('aria-label')).toMatch(/^.+\. .+\.$/)
    expect(await canvas.evaluate((node) => node.closest('figure')?.querySelectorAll('table th[scope="row"]').length))
      .toBe(28)
  }
  expect(await page.locator('[id]').evaluateAll((nodes) => nodes.length - new Set(nodes.map(({ id }) => id)).size))
    .toBe(0)
  expect(await page.locator('h1:visible').count()).toBe(1)
  expect(await page.locator('main:visible').count()).toBe(1)
  expect(complaints).toEqual([])
})

test('what the charts draw is there to be seen, in both schemes', async () => {
  await page.setViewportSize({ width: 1280, height: 1628 })
  await open(HELENA)
  await picture('dashboard')
  await picture('dashboard-1280', true)
  const painted = () =>
    page.locator('canvas').evaluateAll((nodes) =>
      nodes.map((node) => {
        if (!(node instanceof HTMLCanvasElement)) return 0
        const { data = [] } = node.getContext('2d')?.getImageData(0, 0, node.width, node.height) ?? {}
        return data.filter((_, index) => index % 4 === 3 && data[index] !== 0).length
      })
    )
  for (const ink of await painted()) expect(ink).toBeGreaterThan(1000)
  const light = await page.locator('#revenue-canvas').evaluate((node) =>
    node instanceof HTMLCanvasElement && node.toDataURL()
  )
  await page.emulateMedia({ colorScheme: 'dark' })
  await expect.poll(
    () => page.locator('#revenue-canvas').evaluate((node) => node instanceof HTMLCanvasElement && node.toDataURL()),
    PATIENCE,
  ).not.toBe(light)
  await picture('dashboard-dark-1280', true)
  expect(complaints).toEqual([])
})

test('the page holds no secret, runs nothing inline, and answers under its own name only', async () => {
  const asked = (path: string, { method = 'GET', host = new URL(stack.urls.api).host } = {}) =>
    new Promise<{ status: number; policy: string; body: string }>((resolve, reject) => {
      const sent = request(`${stack.urls.api}${path}`, { method, headers: { host } }, (response) => {
        let body = ''
        response.setEncoding('utf8').on('data', (chunk) => (body += chunk)).on('end', () => {
          resolve({
            status: response.statusCode ?? 0,
            policy: String(response.headers['content-security-policy']),
            body,
          })
        })
      })
      sent.once('error', reject).end()
    })
  const { status, policy, body } = await asked('/dashboard')
  expect(status).toBe(200)
  expect(body).toContain(stack.keys.publishable)
  for (const secret of [stack.keys.secret, stack.keys.serviceRole, stack.keys.jwtSecret]) {
    expect(body).not.toContain(secret)
  }
  expect(body).not.toMatch(/<script(?![^>]+src=)|\son\w+=|\sstyle=/)
  expect(policy).toContain("default-src 'none'")
  expect(policy).not.toMatch(/unsafe|\*/)
  for (
    const [path, options, expected] of [
      ['/dashboard/data.js', {}, 200],
      ['/dashboard/chart.js', {}, 200],
      ['/dashboard/globals.d.ts', {}, 404],
      ['/dashboard/..%2fserver.ts', {}, 404],
      ['/dashboard/toString', {}, 404],
      ['/dashboard', { method: 'POST' }, 405],
      ['/dashboard', { host: 'evil.example' }, 403],
      ['/dashboard/data.js', { host: 'evil.example' }, 403],
    ] as const
  ) expect({ path, options, status: (await asked(path, options)).status }).toEqual({ path, options, status: expected })
})
