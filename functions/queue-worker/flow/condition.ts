// Whether a condition of a flow holds.
import type { FlowCondition } from '../../../types/flow-definition.ts'
import { TEST } from '../../../types/flow-problems.ts'
import type { Answer, AskedFacts, FlowContext, FlowState, Need } from './conversation.ts'
import { fold } from './match-answer.ts'

export interface Facts {
  state: FlowState
  context: FlowContext
  asked: AskedFacts
}

export const nothingAsked: AskedFacts = { pets: null, variants: {} }

/** What a condition asks beyond what is known; null: nothing. */
export function missingFact({ chave }: FlowCondition, { pets, variants }: AskedFacts): Need | null {
  const test = testOf(chave)
  const known = Object.keys(variants)
  if (test !== null) {
    return known.includes(test) ? null : { kind: 'facts', pets: pets !== null, tests: [...known, test] }
  }
  return chave === 'pets.quantidade' && pets === null ? { kind: 'facts', pets: true, tests: known } : null
}

function testOf(key: string): string | null {
  return key.startsWith(TEST) ? key.slice(TEST.length) : null
}

export function conditionHolds({ chave, operador, valor }: FlowCondition, facts: Facts): boolean {
  const fact = factOf(chave, facts)
  const values = Array.isArray(fact) ? fact : fact === null || fact === '' ? [] : [fact]
  switch (operador) {
    case 'existe':
      return values.length > 0
    case 'vazio':
      return values.length === 0
    case 'igual':
      return values.some((value) => isSame(value, valor))
    case 'diferente':
      return !values.some((value) => isSame(value, valor))
    case 'contem':
      return values.some((value) => fold(String(value)).includes(fold(String(valor))))
    case 'maior':
      return values.some((value) => compare(value, valor) > 0)
    case 'menor':
      return values.some((value) => compare(value, valor) < 0)
    default:
      return operador satisfies never
  }
}

function factOf(key: string, { state, context, asked }: Facts): Answer | readonly string[] | null {
  const test = testOf(key)
  if (test !== null) return Object.hasOwn(asked.variants, test) ? asked.variants[test] ?? null : null
  switch (key) {
    case 'contato.nome':
      return context.contact.name
    case 'contato.etiquetas':
      return context.contact.tags
    case 'pets.quantidade':
      return asked.pets
    case 'organizacao.vertical':
      return context.organization.vertical
    default:
      return Object.hasOwn(state.respostas, key) ? state.respostas[key] ?? null : null
  }
}

function isSame(value: Answer, wanted: Answer | undefined): boolean {
  if (wanted === undefined) return false
  const numbers = numeric(value, wanted)
  return numbers !== null ? numbers[0] === numbers[1] : fold(String(value)) === fold(String(wanted))
}

/** Numbers by size; dates, which are kept as 2026-11-25, and other texts by their letters. */
function compare(value: Answer, wanted: Answer | undefined): number {
  if (wanted === undefined) return 0
  const numbers = numeric(value, wanted)
  if (numbers !== null) return numbers[0] - numbers[1]
  const [one, other] = [String(value), String(wanted)]
  return one === other ? 0 : one < other ? -1 : 1
}

function numeric(one: Answer, other: Answer): [number, number] | null {
  const numbers = [one, other].map((value) =>
    typeof value === 'number'
      ? value
      : typeof value === 'string' && /^-?[0-9]+(?:\.[0-9]+)?$/.test(value)
      ? Number(value)
      : null
  )
  const [first = null, second = null] = numbers
  return first === null || second === null ? null : [first, second]
}
