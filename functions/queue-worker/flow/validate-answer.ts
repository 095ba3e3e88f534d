// Whether a typed answer is one, and what is kept of it.
import type { AnswerCheck } from '../../../types/flow-definition.ts'
import { answerPattern } from '../../../types/flow-problems.ts'
import { fromHumanInput } from '../../_shared/phone.ts'
import type { Answer } from './conversation.ts'
import { addDays, dateOf, MONTHS } from './local-time.ts'
import { fold, numberIn, yesOrNo } from './match-answer.ts'

export type Validated = { valid: true; value: Answer } | { valid: false; message: string }

const valid = (value: Answer): Validated => ({ valid: true, value })
const invalid = (message: string): Validated => ({ valid: false, message })

/** today is the business's local day. */
export function validateAnswer(text: string, check: AnswerCheck | undefined, today: string): Validated {
  const answer = text.trim()
  const result = check === undefined
    ? validText(answer, { tipo: 'texto' })
    : validateKind(answer, check, today)
  return !result.valid && check?.mensagem !== undefined ? invalid(check.mensagem) : result
}

function validateKind(answer: string, check: AnswerCheck, today: string): Validated {
  switch (check.tipo) {
    case 'texto':
      return validText(answer, check)
    case 'numero':
    case 'inteiro':
      return validNumber(answer, check)
    case 'email':
      return /^[^\s@<>()[\],;:"]{1,64}@(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,24}$/i.test(answer)
        ? valid(answer.toLowerCase())
        : invalid('Esse e-mail não parece certo. Pode conferir? Exemplo: nome@exemplo.com.br')
    case 'telefone': {
      const number = fromHumanInput(answer)
      return number === null
        ? invalid('Esse telefone não parece certo. Escreva com o DDD, por exemplo: 11 91234-5678')
        : valid(number)
    }
    case 'cpf': {
      const digits = answer.replace(/[.\-\s/]/g, '')
      return isCpf(digits)
        ? valid(digits)
        : invalid('Esse CPF não parece certo. Pode conferir os 11 números?')
    }
    case 'data':
      return validDate(answer, check, today)
    case 'sim_nao': {
      const meaning = yesOrNo(answer)
      return meaning === null ? invalid('Responda com sim ou não, por favor.') : valid(meaning)
    }
    default:
      return check.tipo satisfies never
  }
}

function validText(answer: string, { min = 1, max = 500, padrao }: AnswerCheck): Validated {
  const letters = [...answer]
  if (letters.length < Math.max(1, min)) {
    return invalid(min > 1 ? `Escreva pelo menos ${min} letras, por favor.` : 'Pode escrever a sua resposta?')
  }
  if (letters.length > max) {
    return invalid(`Ficou um pouco longo: escreva no máximo ${max} letras, por favor.`)
  }
  if (padrao === undefined) return valid(answer)
  // One that does not compile is refused when a flow is saved; should it be here, an answer is not measured by it.
  const fits = letters.length <= 100 && (answerPattern(padrao)?.test(answer) ?? true)
  return fits ? valid(answer) : invalid('Essa resposta não está no formato esperado. Pode conferir?')
}

/** As written in Brazil: 1.234,56; a point before one or two last digits is a decimal one. */
function validNumber(answer: string, { tipo, min, max }: AnswerCheck): Validated {
  const compact = answer.replace(/^R\$/i, '').replace(/\s/g, '')
  const plain = /^-?[0-9]{1,3}(?:\.[0-9]{3})+(?:,[0-9]+)?$/.test(compact)
    ? compact.replaceAll('.', '').replace(',', '.')
    : compact.replace(',', '.')
  const inWords = numberIn(fold(answer))
  const number = /^-?[0-9]{1,12}(?:\.[0-9]{1,6})?$/.test(plain) ? Number(plain) : inWords
  if (number === null) return invalid('Responda com um número, por favor.')
  if (tipo === 'inteiro' && !Number.isInteger(number)) {
    return invalid('Responda com um número inteiro, por favor.')
  }
  if (min !== undefined && number < min) return invalid(`O número precisa ser pelo menos ${brazilian(min)}.`)
  if (max !== undefined && number > max) return invalid(`O número precisa ser no máximo ${brazilian(max)}.`)
  return valid(number === 0 ? 0 : number)
}

function brazilian(number: number): string {
  return String(number).replace('.', ',')
}

export function isCpf(digits: string): boolean {
  if (!/^[0-9]{11}$/.test(digits) || /^(.)\1*$/.test(digits)) return false
  return [9, 10].every((length) => {
    const sum = [...digits.slice(0, length)].reduce(
      (total, digit, index) => total + Number(digit) * (length + 1 - index),
      0,
    )
    return (sum * 10) % 11 % 10 === Number(digits.charAt(length))
  })
}

function validDate(answer: string, { min, max }: AnswerCheck, today: string): Validated {
  const date = readDate(answer, today, max !== undefined && max <= 0)
  if (date === null) {
    return invalid('Não entendi a data. Escreva o dia, o mês e o ano, por exemplo: 25/11/2026')
  }
  if (min !== undefined && date < addDays(today, min)) {
    return invalid(
      min === 0 ? 'Essa data já passou. Pode conferir?' : 'Essa data é cedo demais. Pode conferir?',
    )
  }
  if (max !== undefined && date > addDays(today, max)) {
    return invalid(
      max === 0 ? 'Essa data ainda não chegou. Pode conferir?' : 'Essa data é tarde demais. Pode conferir?',
    )
  }
  return valid(date)
}

function readDate(answer: string, today: string, inThePast: boolean): string | null {
  const said = fold(answer)
  const relative = { hoje: 0, amanha: 1, 'depois de amanha': 2, ontem: -1 }[said]
  if (relative !== undefined) return addDays(today, relative)

  const iso = /^([0-9]{4}) ([0-9]{1,2}) ([0-9]{1,2})$/.exec(said)
  if (iso !== null) return dateOf(Number(iso[1]), Number(iso[2]), Number(iso[3]))

  const numeric = /^(?:dia )?([0-9]{1,2}) ([0-9]{1,2})(?: ([0-9]{4}|[0-9]{2}))?$/.exec(said)
  const compact = /^([0-9]{2})([0-9]{2})([0-9]{4})$/.exec(said)
  const worded = /^(?:dia )?([0-9]{1,2})o? (?:de )?([a-z]{3,9})(?: (?:de )?([0-9]{4}|[0-9]{2}))?$/.exec(said)
  const [, day = '', month = '', year] = numeric ?? compact ?? worded ?? []
  const monthNumber = worded === null || numeric !== null || compact !== null
    ? Number(month)
    : MONTHS.findIndex((name) => fold(name).startsWith(month)) + 1
  if (day === '' || monthNumber < 1) return null

  const thisYear = Number(today.slice(0, 4))
  if (year !== undefined) {
    return dateOf(fullYear(year, thisYear + (inThePast ? 0 : 10)), monthNumber, Number(day))
  }
  // Without a year the nearest one that makes sense: 29 February may take some.
  const years = Array.from({ length: 9 }, (_, index) => thisYear + (inThePast ? -index : index))
  return years.map((candidate) => dateOf(candidate, monthNumber, Number(day)))
    .find((date) => date !== null && (inThePast ? date <= today : date >= today)) ?? null
}

/** Two digits are the last year of that name that makes sense. */
function fullYear(year: string, latest: number): number {
  if (year.length === 4) return Number(year)
  const candidate = Math.floor(latest / 100) * 100 + Number(year)
  return candidate > latest ? candidate - 100 : candidate
}
