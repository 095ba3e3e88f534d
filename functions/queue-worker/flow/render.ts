// How a question looks on the phone: buttons, a list, or a numbered text, within WhatsApp's limits.
import type { FlowDefinition } from '../../../types/flow-definition.ts'
import type { Choice, FlowContext, FlowOutput, FlowState } from './conversation.ts'
import { localTime, spokenDate, spokenHour } from './local-time.ts'

const BODY = 1024
const TEXT = 4096

interface Shown {
  output: FlowOutput
  numbered: boolean
}

export function renderText(content: string): FlowOutput {
  return { message_type: 'text', content: cut(content, TEXT), payload: null }
}

/** Up to three short options become buttons, up to ten a list, anything else a numbered text. */
export function renderChoices(
  question: { text: string; choices: readonly Choice[]; button: string },
  channel: FlowContext['channel'],
  idOf: (index: number) => string,
): Shown {
  const { text, choices, button } = question
  const fitsButtons = choices.length <= 3 && choices.every(({ rotulo }) => length(rotulo) <= 20) &&
    new Set(choices.map(({ rotulo }) => rotulo)).size === choices.length
  if (channel.buttons && fitsButtons) {
    const buttons = choices.map(({ rotulo }, index) => ({ id: idOf(index), title: rotulo }))
    return interactive(text, { type: 'button', buttons })
  }
  if (channel.lists && choices.length <= 10) {
    const rows = choices.map(({ rotulo, descricao }, index) => {
      const description = cut(
        [length(rotulo) > 24 ? rotulo : '', descricao ?? ''].filter(Boolean).join(' · '),
        72,
      )
      return { id: idOf(index), title: cut(rotulo, 24), ...(description === '' ? {} : { description }) }
    })
    return interactive(text, { type: 'list', button: cut(button, 20), sections: [{ rows }] })
  }
  const lines = choices.map(({ rotulo, descricao }, index) =>
    `*${index + 1}.* ${rotulo}${descricao === undefined ? '' : ` (${descricao})`}`
  )
  return { output: renderText(`${cut(text, BODY)}\n\n${lines.join('\n')}`), numbered: true }
}

function interactive(text: string, payload: Exclude<FlowOutput['payload'], null>): Shown {
  return { output: { message_type: 'interactive', content: cut(text, BODY), payload }, numbered: false }
}

// Variables -----------------------------------------------------------------------------------------------------------

/** A variable without a value takes the comma, or the "com", before it along: "Oi, {{nome}}!" becomes "Oi!". */
export function fillIn(
  text: string,
  definition: FlowDefinition,
  state: FlowState,
  context: FlowContext,
): string {
  const filled = text.replace(
    /(, *| +(?:com +)?)?\{\{([^{}]*)\}\}/g,
    (_, before: string | undefined, name: string) => {
      const value = valueOf(name.trim(), definition, state, context)
      return value === '' ? '' : `${before ?? ''}${value}`
    },
  )
  return /\S/.test(filled) ? filled : '…'
}

function valueOf(name: string, definition: FlowDefinition, state: FlowState, context: FlowContext): string {
  const { agenda } = state
  const local = agenda.horario === undefined
    ? null
    : localTime(agenda.horario, agenda.fuso ?? context.organization.timezone)
  switch (name) {
    case 'nome':
      return context.contact.first_name?.trim() ?? ''
    case 'organizacao':
      return context.organization.name
    case 'servico':
      return agenda.servico ?? ''
    case 'profissional':
      return agenda.profissional ?? ''
    case 'pet':
      return agenda.pet ?? ''
    case 'data':
      return local === null ? '' : spokenDate(local.date)
    case 'hora':
      return local === null ? '' : spokenHour(local)
    default:
      return answerText(name.replace(/^respostas\./, ''), definition, state)
  }
}

/** The answer as the customer read it: the label of what was chosen. */
function answerText(key: string, definition: FlowDefinition, state: FlowState): string {
  const answer = Object.hasOwn(state.respostas, key) ? state.respostas[key] : undefined
  if (answer === undefined) return ''
  for (const step of definition.etapas) {
    if (step.tipo !== 'escolha' || (step.chave ?? step.id) !== key) continue
    const option = step.opcoes.find(({ valor }) => valor === answer)
    if (option !== undefined) return option.rotulo
  }
  const date = typeof answer === 'string' ? /^([0-9]{4})-([0-9]{2})-([0-9]{2})$/.exec(answer) : null
  if (date !== null) return `${date[3]}/${date[2]}/${date[1]}`
  return String(answer).replace(/^(-?[0-9]+)\.([0-9]+)$/, typeof answer === 'number' ? '$1,$2' : '$&')
}

// Cutting -------------------------------------------------------------------------------------------------------------

function length(text: string): number {
  return [...text].length
}

const CONTINUES = /^[\p{M}\p{Emoji_Modifier}\u200d\ufe0f]$/u
const FLAG = /^\p{Regional_Indicator}$/u

/** At most so many letters, with an ellipsis where something is missing; an emoji is kept whole or not at all. */
export function cut(text: string, longest: number): string {
  const letters = [...text]
  if (letters.length <= longest) return text
  let end = longest - 1
  while (end > 0 && splitsCharacter(letters, end)) end--
  return `${letters.slice(0, end).join('').trimEnd()}…`
}

function splitsCharacter(letters: readonly string[], at: number): boolean {
  const [before = '', after = ''] = [letters[at - 1], letters[at]]
  if (before === '\u200d' || CONTINUES.test(after)) return true
  if (!FLAG.test(before) || !FLAG.test(after)) return false
  let flags = 0
  while (at - 1 - flags >= 0 && FLAG.test(letters[at - 1 - flags] ?? '')) flags++
  return flags % 2 === 1
}
