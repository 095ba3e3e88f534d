import assert from 'node:assert/strict'
import { fromHumanInput, fromProviderId } from '../../functions/_shared/phone.ts'

const [header, ...rows] = Deno.readTextFileSync(
  new URL('../phone_numbers.csv', import.meta.url),
)
  .replace(/\n$/, '').split('\n').map((line) => line.split(','))

Deno.test('the shared table has the columns that SQL and TypeScript read', () => {
  assert.deepEqual(header, ['entry', 'input', 'expected'])
  assert.ok(rows.length > 60)
  assert.ok(rows.every((row) => row.length === 3))
})

for (const [entry, input = '', expected = ''] of rows) {
  Deno.test(`${entry} "${input}" is ${expected || 'no phone number'}`, () => {
    assert.ok(entry === 'human' || entry === 'provider')
    const canonical = entry === 'human' ? fromHumanInput(input) : fromProviderId(input)
    assert.equal(canonical, expected || null)
  })
}

Deno.test('a canonical number is its own canonical form, at both entries', () => {
  for (const [, , expected] of rows) {
    if (!expected) continue
    assert.equal(fromHumanInput(expected), expected)
    assert.equal(fromProviderId(expected), expected)
  }
})

Deno.test('exactly 67 area codes are Brazilian', () => {
  const codes = Array.from(
    { length: 100 },
    (_code, index) => String(index).padStart(2, '0'),
  )
  assert.equal(
    codes.filter((code) => fromProviderId(`55${code}987650001`) !== null)
      .length,
    67,
  )
})
