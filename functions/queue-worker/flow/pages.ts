// Long choices by pages, and what leads from one to another.
import type { Choice } from './conversation.ts'
import { phrases } from './phrases.ts'
import type { Run } from './run.ts'

/** With what leads on, and what leads out, a page fits a list. */
export const PER_PAGE = 8

/** What is navigation among the choices; no id and no date begins like that. */
export const MORE = '+mais'
export const OTHER = '+outro'
export const NONE = '+nenhum'

export function pageOf<T>(items: readonly T[], page: number, size = PER_PAGE): { items: T[]; more: boolean } {
  const from = page * size < items.length ? page * size : 0
  return { items: items.slice(from, from + size), more: from + size < items.length }
}

/** All of them if they fit a list, else a page and how to get to the next one. */
export function paged(run: Run, choices: readonly Choice[]): Choice[] {
  if (choices.length <= PER_PAGE + 1) return [...choices]
  const { items, more } = pageOf(choices, run.state.agenda.pagina ?? 0)
  const rest = more ? phrases.moreOptions : phrases.firstOptions
  return [...items, { valor: MORE, rotulo: rest, sinonimos: ['mais', 'outros', 'outras'] }]
}
