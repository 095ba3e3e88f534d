// What means the same to a flow, which says "imagina", and to the database, which wakes no flow for it.
import assert from 'node:assert/strict'
import { globalWord, WORDS } from '../../functions/queue-worker/flow/global-words.ts'
import { fold } from '../../functions/queue-worker/flow/match-answer.ts'

const migration = Deno.readTextFileSync(
  new URL('../../supabase/migrations/20261120001220_flow_turns.sql', import.meta.url),
)
const body = /create function private\.wants_an_answer\(.*?\$\$;/s.exec(migration)?.[0] ?? ''
const list = /not in \((.*?)\)\s*end;/s.exec(body)?.[1] ?? ''
const wantNoAnswer = [...list.matchAll(/'([^']*)'/g)].map(([, word]) => word ?? '')

Deno.test('the words that want no answer are found in the migration, folded', () => {
  assert.ok(wantNoAnswer.length > 20)
  for (const word of wantNoAnswer) assert.equal(fold(word), word)
})

for (const word of WORDS.thanks) {
  Deno.test(`"${word}" is thanks to a flow, and wants no answer in the database`, () => {
    assert.ok(wantNoAnswer.includes(word))
    assert.equal(globalWord(word), 'thanks')
  })
}

for (const word of wantNoAnswer) {
  // "Não, obrigado" answers a question.
  const thanks = /obrigad|brigad|^obg|valeu|vlw|grat[oa]$|agrade|tchau/.test(word) && !word.startsWith('nao')
  Deno.test(`"${word}", which wants no answer, is ${thanks ? 'thanks' : 'no word'} to a flow`, () => {
    assert.equal(globalWord(word), thanks ? 'thanks' : null)
  })
}
