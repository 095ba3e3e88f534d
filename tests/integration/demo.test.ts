// npm run demo plays its story wherever it is called, and leaves nothing.

import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { chmod } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { command, eventually, kill, processesOf } from '../support/processes.ts'
import { runningStack } from '../support/running-stack.ts'

const STORY = [
  /Júlia signs up/,
  /Rafael's role there: attendant/,
  /manage-instance: 201/,
  /Maria: “Oi, quero marcar uma consulta 😊”\n.*: 200, 1 message stored/,
  /200, 0 messages stored, 1 known already/,
  /401 wrong_signature/,
  /ajudar\?”\n +\[Marcar consulta\] .*\n +Maria: \[Marcar consulta\]/,
  /Maria: \[Avaliação\]/,
  /Maria: \[Sábado, \d\d\/\d\d\]/,
  /\[9h30\] .*\n +Maria: \[9h30\]/,
  /Maria Aparecida da Conceição, \+5511900000001, 15 messages/,
  /Avaliação with Dra. Helena, Saturday 09:30: scheduled by the flow/,
  /João: \[Falar com atendente\]/,
  /waiting_human; Rafael takes over/,
  /slot_unavailable; the nearest free one is Saturday (09:00|10:00)/,
  /João Batista: waiting, for the morning of \d{4}-\d\d-\d\d/,
  /one message, and read/,
  /reminders were to go out on Friday 09:30 and Saturday 07:30/,
  /\[Confirmar\] \[Remarcar\] \[Cancelar\]\n +Maria: \[Confirmar\]\n +Clínica: “Presença confirmada!/,
  /the booking: confirmed by the patient/,
  /the booking: Saturday 09:30 → Saturday 10:00, scheduled/,
  /João: \[Quero esse horário\]\n[^]*João Batista, Saturday 09:30: scheduled/,
  /the booking: cancelled; no reminder waits any more/,
  /The CRM has heard of it, signed and verified\.\n +booking\.created, conversation\.escalated,/,
  /0 conversations, 0 contacts, 0 messages, 0 bookings/,
  /All of it happened/,
]

/** Where a demo makes the folder of its own stack, beside what tsx keeps. */
let folder = ''

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'balcao-stage-'))
  await chmod(folder, 0o711)
})

afterEach(async () => {
  const left = [join(folder, 'nothing'), ...ownStacks()].flatMap(processesOf)
  for (const pid of left) kill(pid, 'SIGKILL')
  await eventually(() => ownStacks().flatMap(processesOf).length === 0)
  rmSync(folder, { recursive: true, force: true })
})

const ownStacks = () => readdirSync(folder).filter((name) => name.startsWith('balcao-demo-')).map((name) => join(folder, name))

/** Nothing runs on this data directory. */
const demoOnItsOwn = (env: Record<string, string> = {}) =>
  command('demo', join(folder, 'nothing'), { env: { TMPDIR: folder, BALCAO_DB_URL: '', ...env } })

test('plays the story on the stack that runs, and again', async () => {
  const { dataDir, urls } = runningStack()
  for (const _time of ['first', 'second']) {
    const { code, stdout, stderr } = await command('demo', dataDir).ended
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toContain(`played on ${urls.api} (the stack that is running)`)
    for (const line of STORY) expect(stdout).toMatch(line)
    // Not a terminal: plain text.
    expect(stdout).not.toContain('\x1b')
  }
})

test('plays it on a stack of its own when none runs, two at once, and leaves nothing', async () => {
  const demos = [demoOnItsOwn(), demoOnItsOwn()]
  await eventually(() => ownStacks().length === 2)
  const stacks = ownStacks()
  for (const { code, stdout, stderr } of await Promise.all(demos.map(({ ended }) => ended))) {
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    for (const line of STORY) expect(stdout).toMatch(line)
  }
  expect(ownStacks()).toEqual([])
  expect(stacks.flatMap(processesOf)).toEqual([])
})

test.each([
  ['while its stack starts', () => ownStacks().some((stack) => processesOf(stack).length > 0)],
  ['when it begins to play', (said: string) => said.includes('played on')],
  ['in the middle of its story', (said: string) => said.includes('Maria is reminded')],
])('broken off %s it leaves nothing', async (_when, isTheMoment) => {
  const demo = demoOnItsOwn()
  let said = ''
  demo.child.stdout?.on('data', (chunk) => (said += chunk))
  await eventually(() => isTheMoment(said))
  const stacks = ownStacks()
  kill(demo.pid, 'SIGINT')
  const { code, stderr } = await demo.ended
  expect({ code, stderr }).toEqual({ code: 130, stderr: '' })
  expect(ownStacks()).toEqual([])
  expect(stacks).toHaveLength(1)
  expect(stacks.flatMap(processesOf)).toEqual([])
})

test('what goes wrong is one line and exit code 1', async () => {
  const { code, stdout, stderr } = await demoOnItsOwn({ BALCAO_POSTGREST_BIN: '/nowhere' }).ended
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
  expect(stderr).toBe('Balcão: BALCAO_POSTGREST_BIN=/nowhere does not exist.\n')
  expect(ownStacks()).toEqual([])
})
