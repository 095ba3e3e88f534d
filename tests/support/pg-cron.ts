// A database with pg_cron, on the real clock: what only it can show about the schedules. It takes two minutes or so,
// because pg_cron looks at the clock once a minute.

import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import { z } from 'zod'
import { messageOf } from '../../local/failure.ts'
import { indent, type Outcome } from './report.ts'

export interface StackUnderTest {
  urls: { admin: string; functions: string }
  keys: { secret: string }
}

/** Two ticks of the clock, the longest run, and a machine that has much else to do. */
const PATIENCE_MS = 480_000
const SLEEPS_SECONDS = 70

interface Run {
  driver: string
  scheduled_for: Date
  started_at: Date
  finished_at: Date | null
  error: string | null
}

export async function watchPgCron({ urls, keys }: StackUnderTest, signal: AbortSignal): Promise<Outcome> {
  const sql = postgres(urls.admin, { max: 4, onnotice: () => undefined })
  const claims: Record<string, () => Promise<void>> = {
    "pg_cron's jobs are the schedules": jobsAreSchedules,
    'pg_cron runs what is due': async () => void (await firstRun()),
    'an occurrence runs once, though cron-refresh is called all the time': occurrencesRunOnce,
    'a schedule of a minute that takes longer does not run over itself': noOverlap,
    'work that nobody was woken for is found': workIsFound,
    'dashboards are computed anew': dashboardsAreRefreshed,
  }
  try {
    // Side by side: each of them mostly waits for the clock.
    const outcomes = await Promise.all(Object.entries(claims).map(async ([claim, proves]): Promise<Outcome> => {
      try {
        await proves()
        return { passed: 1, failures: [] }
      } catch (error) {
        signal.throwIfAborted()
        return { passed: 0, failures: [`${claim}:\n${indent(messageOf(error))}`] }
      }
    }))
    return {
      passed: outcomes.reduce((total, { passed }) => total + passed, 0),
      failures: outcomes.flatMap(({ failures }) => failures),
    }
  } finally {
    await sql.end({ timeout: 1 })
  }

  async function jobsAreSchedules(): Promise<void> {
    const different = await sql`
      select coalesce(j.jobname, 'balcao:' || s.name) as name, j.schedule, s.expression, j.active
      from (select * from private.schedules where is_active) s
      full join (
        select * from cron.job where jobname like 'balcao:%' and jobname <> 'balcao:catch_up'
      ) j on j.jobname = 'balcao:' || s.name
      where j.jobname is null or s.name is null or not j.active
        or j.schedule <> s.expression and (s.expression not like '%second%' or j.schedule <> '* * * * *')`
    require(different.length === 0, 'they differ', different)
    const [{ jobs } = { jobs: 0 }] = await sql<{ jobs: number }[]>`
      select count(*)::int as jobs from cron.job where jobname like 'balcao:%'`
    require(jobs > 4, 'there are some', jobs)
  }

  async function runsOf(name: string): Promise<Run[]> {
    return await sql<Run[]>`
      select r.driver, r.scheduled_for, r.started_at, r.finished_at, r.error
      from private.schedule_runs r
      where r.name = ${name}
      order by r.started_at`
  }

  async function firstRun(): Promise<Run> {
    const [run] = await until(
      async () => (await runsOf('delete_finished_jobs')).filter(({ driver }) => driver === 'pg_cron'),
      ({ length }) => length > 0,
      'a run of delete_finished_jobs',
    )
    if (run === undefined) throw new Error('There is no run.')
    require(run.error === null && run.finished_at !== null, 'it succeeded', run)
    return run
  }

  async function occurrencesRunOnce(): Promise<void> {
    // Not before pg_cron has had its turn: cron-refresh would be quicker every time.
    const first = await firstRun()
    const later = ({ scheduled_for }: Run) => scheduled_for > first.scheduled_for
    const runs = await until(
      async () => {
        await Promise.all(Array.from({ length: 3 }, () => cronRefresh()))
        return await runsOf('delete_finished_jobs')
      },
      (all) => all.some(later),
      'the run of the next minute',
      100,
    )
    // Whoever came second has finished by now, too.
    await cronRefresh()
    const occurrences = runs.map(({ scheduled_for }) => scheduled_for.getTime())
    require(new Set(occurrences).size === occurrences.length, 'each has one run', runs)
  }

  async function noOverlap(): Promise<void> {
    const name = `sleeps_${randomUUID().slice(0, 8)}`
    // Only in pg_cron's hands, because cron-refresh is called all the time meanwhile; and only at first, so that nobody has to
    // wait for the end of the second run.
    const command = `
      select pg_sleep(case when coalesce(current_setting('request.jwt.claims', true), '') <> '' or exists (
        select from private.schedule_runs r where r.name = '${name}' and r.driver = 'pg_cron' and r.finished_at is not null
      ) then 0 else ${SLEEPS_SECONDS} end)`
    await sql`
      insert into private.schedules (name, description, expression, command)
      values (${name}, 'A test', '* * * * *', ${command})`
    try {
      await until(
        () => sql`
          select from pg_catalog.pg_stat_activity a where a.query like ${`%${name}%`} and a.wait_event = 'PgSleep'`,
        ({ length }) => length > 0,
        'its first run to begin',
      )
      // It runs in nobody else's hands either, neither because it is due again nor because somebody wants it.
      const skipped = await cronRefresh({ name })
      require(skipped.some((one) => one.name === name && one.reason === 'already_running'), 'cron-refresh leaves it alone', skipped)
      const isLong = ({ driver, started_at, finished_at }: Run) =>
        driver === 'pg_cron' && finished_at !== null && Number(finished_at) - Number(started_at) >= SLEEPS_SECONDS * 1000
      const runs = await until(() => runsOf(name), (all) => all.slice(0, -1).some(isLong), 'the run after it')
      for (const [index, { started_at }] of runs.entries()) {
        const previous = runs[index - 1]
        if (previous === undefined) continue
        require(previous.finished_at !== null && previous.finished_at <= started_at, 'one begins after the other has ended', runs)
      }
      require(runs.every(({ error }) => error === null), 'none failed', runs)
    } finally {
      await sql`delete from private.schedules where name = ${name}`
    }
  }

  async function workIsFound(): Promise<void> {
    const organization = randomUUID()
    await sql`
      insert into public.organizations (id, name, slug, vertical)
      values (${organization}, 'Clínica', ${`c-${organization}`}, 'clinic')`
    // No handler knows it: whoever claims it says so. Now and then somebody who has something to say wakes the worker before.
    const runs = await until(
      async () => {
        await sql`select public.enqueue_job(${organization}, 'of_no_known_type')`
        return await runsOf('wake_queue_worker')
      },
      (all) => all.some(({ finished_at, error }) => finished_at !== null && error === null),
      'a schedule to wake the worker',
      5_000,
    )
    require(runs.every(({ error }) => error === null), 'none failed', runs)
    const jobs = await until(
      () => sql<{ status: string; last_error: string | null }[]>`
        select q.status, q.last_error
        from public.message_queue q
        where q.organization_id = ${organization} and q.job_type = 'of_no_known_type'`,
      (all) => all.every(({ status }) => status === 'dead'),
      'the worker to claim the jobs',
    )
    require(jobs.every(({ last_error }) => last_error?.startsWith('unknown_job_type')), 'the worker has had them', jobs)
  }

  async function dashboardsAreRefreshed(): Promise<void> {
    const name = 'refresh_dashboard_metrics'
    const organization = randomUUID()
    const [{ expression } = { expression: '' }] = await sql<{ expression: string }[]>`
      select s.expression from private.schedules s where s.name = ${name}`
    await sql`
      insert into public.organizations (id, name, slug, vertical)
      values (${organization}, 'Clínica', ${`c-${organization}`}, 'clinic')`
    // Nobody waits five minutes for it.
    await sql`update private.schedules set expression = '* * * * *' where name = ${name}`
    try {
      const refreshes = await until(
        () => sql<{ result: unknown; error: string | null; refresh_error: string | null; row_count: string | null }[]>`
          select r.result, r.error, a.error as refresh_error, a.row_count
          from private.schedule_runs r
          join public.analytics_refreshes a
            on a.view_name = 'dashboard_metrics' and a.started_at between r.started_at and r.finished_at
          join analytics.dashboard_metrics m on m.organization_id = ${organization}
          join public.organizations o on o.id = m.organization_id and o.created_at < r.started_at
          where r.name = ${name} and r.driver = 'pg_cron'
          order by r.started_at desc`,
        ({ length }) => length > 0,
        'a refresh of the dashboards',
      )
      const ofOne = refreshes.every(({ error, refresh_error, row_count }) =>
        error === null && refresh_error === null && Number(row_count) > 0
      )
      require(ofOne, 'it succeeded, and is written down', refreshes)
    } finally {
      await sql`update private.schedules set expression = ${expression} where name = ${name}`
    }
  }

  async function cronRefresh(body: { name?: string } = {}): Promise<{ name: string; reason: string | null }[]> {
    const response = await fetch(`${urls.functions}/cron-refresh`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', apikey: keys.secret },
      body: JSON.stringify(body),
      signal,
    })
    const text = await response.text()
    require(response.ok, 'cron-refresh answers', text)
    return z.object({ skipped: z.array(z.object({ name: z.string(), reason: z.string().nullable() })) })
      .parse(JSON.parse(text)).skipped
  }

  async function until<Value>(
    look: () => Promise<Value>,
    holds: (value: Value) => boolean,
    what: string,
    everyMs = 250,
  ): Promise<Value> {
    const deadline = Date.now() + PATIENCE_MS
    for (;;) {
      const value = await look()
      if (holds(value)) return value
      if (Date.now() > deadline) throw new Error(`Waited in vain for ${what}: ${JSON.stringify(value)}`)
      await sleep(everyMs, undefined, { signal })
    }
  }
}

function require(holds: boolean, what: string, found: unknown): void {
  if (!holds) throw new Error(`Not so: ${what}. ${JSON.stringify(found)}`)
}
