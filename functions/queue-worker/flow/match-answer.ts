// Which option a customer meant. People answer with the number, the words, part of the words, with and without accents,
// with a slip of the thumb; where two options could be meant, none is taken.
import type { Choice } from './conversation.ts'

/** words: it names the option; the others only make sense to whoever has read the question. */
export type Match = { choice: Choice; by: 'words' | 'number' | 'yes_or_no' | 'guess' }

const NUMBERS = ['um', 'dois', 'tres', 'quatro', 'cinco', 'seis', 'sete', 'oito', 'nove', 'dez'] as const
const YES = new Set(
  'sim|s|ss|sss|isso|isso mesmo|claro|ok|okay|blz|beleza|pode|pode ser|quero|confirmo|positivo|com certeza|yes|uhum|aham'
    .split('|'),
)
const NO = new Set('nao|n|nn|nops|negativo|nao quero|nao obrigado|nao obrigada|no'.split('|'))
const FILLERS =
  /^(?:(?:eu )?(?:quero|queria|prefiro|gostaria de|vou de|escolho|pode ser|acho que|seria)|a opcao|opcao|o numero|numero|item|as|a|o|na|no|para|pra) /
const COURTESY = / (?:por favor|pfv?|obrigad[oa]|mesmo)$/
/** With one of these an option may be named because it is not wanted. */
const NEGATIONS = new Set('nao|naum|n|nn|nops|nem|sem|nunca|jamais|desisti|desisto'.split('|'))

/** Lower case, without accents and punctuation. */
export function fold(text: string): string {
  return text
    .replace(/👍|👌|✅|🆗/gu, ' sim ')
    .replace(/👎|❌|🚫/gu, ' nao ')
    .normalize('NFKD')
    .replace(/\p{M}/gu, '')
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, ' ')
    .trim()
}

export function matchAnswer(text: string, choices: readonly Choice[], numbered: boolean): Match | null {
  const asTyped = fold(text.slice(0, 300))
  if (asTyped === '') return null
  for (const said of new Set([asTyped, withoutFillers(asTyped)])) {
    const match = matchWords(said, choices, numbered)
    if (match !== null) return match
  }
  const said = withoutFillers(asTyped)
  const guess = only(startingWith(said, choices)) ?? only(namedIn(asTyped, choices)) ??
    only(madeOf(said, choices)) ?? only(withoutTypos(said, choices))
  return guess === null ? null : { choice: guess.choice, by: guess.by }
}

/**
 * At a question whether somebody is sure: all that was said is the option, a number, or yes or no. "Posso cancelar
 * depois?" is none of them.
 */
export function matchSureAnswer(text: string, choices: readonly Choice[], numbered: boolean): Match | null {
  const said = fold(text.slice(0, 300))
  if (said === '') return null
  return matchWords(said, choices, numbered) ?? matchWords(said.replace(COURTESY, ''), choices, numbered)
}

/** The number from one to ten that a text says, in digits or in words. */
export function numberIn(said: string): number | null {
  if (/^[0-9]{1,2}$/.test(said)) return Number(said)
  const word = said === 'uma' ? 'um' : said === 'duas' ? 'dois' : said
  const index = NUMBERS.findIndex((name) => name === word)
  return index === -1 ? null : index + 1
}

/** 'sim', 'nao', or null. */
export function yesOrNo(text: string): 'sim' | 'nao' | null {
  const said = fold(text)
  const words = [said, said.replace(COURTESY, '')]
  if (words.some((word) => YES.has(word) || /^(?:sim )+sim$/.test(word))) return 'sim'
  return words.some((word) => NO.has(word) || /^(?:nao )+nao$/.test(word)) ? 'nao' : null
}

function matchWords(said: string, choices: readonly Choice[], numbered: boolean): Match | null {
  const number = numberIn(said)
  const numberth = number === null ? undefined : choices[number - 1]
  if (numbered && numberth !== undefined) return { choice: numberth, by: 'number' }

  const named = only(choices.filter((choice) => namesOf(choice).includes(said)))
  if (named !== null) return { choice: named, by: /\p{L}{3}/u.test(said) ? 'words' : 'number' }
  if (numberth !== undefined) return { choice: numberth, by: 'number' }

  const meaning = yesOrNo(said)
  if (meaning === null) return null
  const choice = only(
    choices.filter((choice) =>
      [fold(choice.valor), ...namesOf(choice)].some((name) =>
        name === meaning || name.startsWith(`${meaning} `)
      )
    ),
  )
  return choice === null ? null : { choice, by: 'yes_or_no' }
}

function startingWith(said: string, choices: readonly Choice[]): Match[] {
  if (said.length < 3) return []
  return choices
    .filter((choice) => namesOf(choice).some((name) => name.startsWith(said)))
    .map((choice) => ({ choice, by: 'guess' }))
}

/** "queria marcar o banho": the option is named in what was said; "banho e tosa" is not "banho" as well. */
function namedIn(said: string, choices: readonly Choice[]): Match[] {
  const contains = (text: string, name: string) => ` ${text} `.includes(` ${name} `)
  const named = choices.flatMap((choice) =>
    namesOf(choice).filter((name) =>
      name.length >= 3 && contains(said, name) && negationsOf(name) === negationsOf(said)
    )
      .map((name) => ({ choice, name }))
  )
  const whole = named.filter(({ name }) =>
    !named.some((other) => other.name.length > name.length && contains(other.name, name))
  )
  return [...new Set(whole.map(({ choice }) => choice))].map((choice) => ({ choice, by: 'words' }))
}

/** "cardio", "clinica": all that was said are words of the name, or their beginnings. */
function madeOf(said: string, choices: readonly Choice[]): Match[] {
  const words = said.split(' ').filter((word) => word.length >= 4 || isWhole(word))
  if (words.length === 0) return []
  return choices.filter((choice) =>
    namesOf(choice).some((name) => {
      const own = name.split(' ')
      return words.every((word) =>
        isWhole(word) ? own.includes(word) : own.some((each) => each.startsWith(word))
      )
    })
  ).map((choice) => ({ choice, by: 'guess' }))
}

/** What means something else when a letter is missing. */
function isWhole(word: string): boolean {
  return /^[0-9]+$/.test(word) || NEGATIONS.has(word)
}

function withoutTypos(said: string, choices: readonly Choice[]): Match[] {
  return choices.filter((choice) =>
    namesOf(choice).some((name) => {
      const length = Math.min(name.length, said.length)
      const allowed = length >= 8 ? 2 : length >= 4 ? 1 : 0
      // A wrong digit is another day, not a slip; nor is a "sem" that was a "com".
      return allowed > 0 && digitsOf(name) === digitsOf(said) && negationsOf(name) === negationsOf(said) &&
        distance(name, said, allowed) <= allowed
    })
  ).map((choice) => ({ choice, by: 'guess' }))
}

function namesOf({ rotulo, sinonimos = [] }: Choice): string[] {
  return [rotulo, ...sinonimos].map(fold).filter((name) => name !== '')
}

function digitsOf(text: string): string {
  return text.replace(/[^0-9]+/g, ' ').trim()
}

function negationsOf(text: string): string {
  return text.split(' ').filter((word) => NEGATIONS.has(word)).join(' ')
}

function withoutFillers(said: string): string {
  let rest = said.replace(COURTESY, '')
  while (FILLERS.test(rest)) rest = rest.replace(FILLERS, '')
  return rest
}

function only<T>(found: readonly T[]): T | null {
  const [first] = found
  return found.length === 1 && first !== undefined ? first : null
}

/** Damerau-Levenshtein (neighbours swapped count one), given up beyond the limit. */
export function distance(one: string, other: string, limit = Infinity): number {
  const from = [...one]
  const to = [...other]
  if (Math.abs(from.length - to.length) > limit) return Infinity
  let beforeLast: number[] = []
  let last = Array.from({ length: to.length + 1 }, (_, index) => index)
  for (const [row, letter] of from.entries()) {
    const current = [row + 1]
    for (const [column, other] of to.entries()) {
      const swapped = row > 0 && column > 0 && letter === to[column - 1] && from[row - 1] === other
      current.push(Math.min(
        (last[column + 1] ?? Infinity) + 1,
        (current[column] ?? Infinity) + 1,
        (last[column] ?? Infinity) + (letter === other ? 0 : 1),
        swapped ? (beforeLast[column - 1] ?? Infinity) + 1 : Infinity,
      ))
    }
    if (Math.min(...current) > limit) return Infinity
    beforeLast = last
    last = current
  }
  return last.at(-1) ?? Infinity
}
