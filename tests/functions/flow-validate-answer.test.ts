// What may be answered to a question of each kind, and what is kept of it.
import assert from 'node:assert/strict'
import { validateAnswer } from '../../functions/queue-worker/flow/validate-answer.ts'
import type { AnswerCheck } from '../../types/flow-definition.ts'

const TODAY = '2026-11-23'
const kept = (text: string, check?: AnswerCheck) => {
  const answer = validateAnswer(text, check, TODAY)
  return answer.valid ? answer.value : null
}

const cases: { check: AnswerCheck; answers: [string, string | number | null][] }[] = [
  {
    check: { tipo: 'texto', min: 2, max: 5 },
    answers: [[' Ana ', 'Ana'], ['A', null], ['Mariana', null], ['🐶🐶', '🐶🐶'], ['   ', null]],
  },
  {
    check: { tipo: 'texto', padrao: '\\d{5}-?\\d{3}' },
    answers: [['01310-100', '01310-100'], ['01310100', '01310100'], ['x01310100', null], ['1310', null]],
  },
  {
    check: { tipo: 'numero', min: 0, max: 2000 },
    answers: [
      ['10', 10],
      ['10,5', 10.5],
      ['10.5', 10.5],
      ['1.234,56', 1234.56],
      ['1.234', 1234],
      ['R$ 99,90', 99.9],
      ['três', 3],
      ['-1', null],
      ['2001', null],
      ['dez reais', null],
      ['1e3', null],
      ['', null],
      ['-0', 0],
    ],
  },
  {
    check: { tipo: 'inteiro', min: 1 },
    answers: [['4', 4], ['quatro', 4], ['1.500', 1500], ['4,5', null], ['0', null], ['quatro pessoas', null]],
  },
  {
    check: { tipo: 'email' },
    answers: [
      ['Ana@Exemplo.com.br', 'ana@exemplo.com.br'],
      [' ana+x@exemplo.com ', 'ana+x@exemplo.com'],
      ['ana@exemplo', null],
      ['ana exemplo.com', null],
      ['ana@@exemplo.com', null],
      [`${'a'.repeat(100_000)}@`, null],
    ],
  },
  {
    check: { tipo: 'telefone' },
    answers: [['(11) 91234-5678', '+5511912345678'], ['11 1234-5678', null], [
      '+1 202 555 0123',
      '+12025550123',
    ]],
  },
  {
    check: { tipo: 'cpf' },
    answers: [
      ['529.982.247-25', '52998224725'],
      ['52998224725', '52998224725'],
      ['529.982.247-26', null],
      ['111.111.111-11', null],
      ['5299822472', null],
    ],
  },
  {
    check: { tipo: 'data' },
    answers: [
      ['25/12/2026', '2026-12-25'],
      ['25/12', '2026-12-25'],
      ['1/2', '2027-02-01'],
      ['23/11', '2026-11-23'],
      ['25-12-26', '2026-12-25'],
      ['05 de março de 1990', '1990-03-05'],
      ['5 de março', '2027-03-05'],
      ['1º de maio', '2027-05-01'],
      ['5 mar 90', '1990-03-05'],
      ['25121990', '1990-12-25'],
      ['2026-12-25', '2026-12-25'],
      ['hoje', '2026-11-23'],
      ['amanhã', '2026-11-24'],
      ['depois de amanhã', '2026-11-25'],
      ['29/02', '2028-02-29'],
      ['29/02/2027', null],
      ['31/04/2026', null],
      ['32/01/2026', null],
      ['1/13/2026', null],
      ['um dia desses', null],
    ],
  },
  {
    // A date of birth.
    check: { tipo: 'data', min: -120 * 366, max: 0 },
    answers: [
      ['24/11', '2025-11-24'],
      ['23/11/2026', '2026-11-23'],
      ['24/11/2026', null],
      ['1/1/1800', null],
      ['3/4/31', '1931-04-03'],
    ],
  },
  {
    check: { tipo: 'data', min: 0, max: 30 },
    answers: [['ontem', null], ['23/12/2026', '2026-12-23'], ['24/12/2026', null]],
  },
  { check: { tipo: 'sim_nao' }, answers: [['Sim', 'sim'], ['👎', 'nao'], ['talvez', null]] },
]

for (const { check, answers } of cases) {
  Deno.test(`${JSON.stringify(check)} takes what is one, and nothing else`, () => {
    for (const [text, expected] of answers) {
      assert.equal(kept(text, check), expected, JSON.stringify(text.slice(0, 40)))
    }
  })
}

Deno.test('without a check every text is an answer, up to 500 letters', () => {
  assert.equal(kept('qualquer coisa'), 'qualquer coisa')
  assert.equal(kept('a'.repeat(501)), null)
})

Deno.test('what is no pattern measures no answer', () => {
  assert.equal(kept('qualquer coisa', { tipo: 'texto', padrao: '(' }), 'qualquer coisa')
})

Deno.test('a definition can say in its own words what is wrong', () => {
  const answer = validateAnswer('muitas', { tipo: 'inteiro', mensagem: 'Quantas, em número?' }, TODAY)
  assert.deepEqual(answer, { valid: false, message: 'Quantas, em número?' })
})
