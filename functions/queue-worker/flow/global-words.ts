// What a customer can say at any moment of any flow.
import { fold } from './match-answer.ts'

export type GlobalWord = 'restart' | 'end' | 'human' | 'thanks'

/** Thanks are no question either: private.wants_an_answer() in the database has the same ones. */
export const WORDS: Record<GlobalWord, readonly string[]> = {
  restart: [
    'menu',
    'menu principal',
    'inicio',
    'voltar ao inicio',
    'recomecar',
    'comecar de novo',
    'reiniciar',
  ],
  end: ['sair', 'parar', 'pare', 'encerrar', 'sair da lista'],
  human: [
    'atendente',
    'humano',
    'falar com atendente',
    'falar com um atendente',
    'falar com uma atendente',
    'falar com humano',
    'falar com um humano',
    'falar com uma pessoa',
    'falar com alguem',
    'quero falar com atendente',
    'quero falar com um atendente',
    'quero falar com uma atendente',
    'quero falar com uma pessoa',
    'quero um atendente',
    'atendimento humano',
  ],
  thanks: [
    'obrigado',
    'obrigada',
    'muito obrigado',
    'muito obrigada',
    'brigado',
    'brigada',
    'ok obrigado',
    'ok obrigada',
    'obg',
    'valeu',
    'vlw',
    'grato',
    'grata',
    'agradeco',
    'tchau',
  ],
}

const MEANINGS = new Map(
  Object.entries(WORDS).flatMap(([meaning, words]) => words.map((word) => [word, meaning] as const)),
)

export function globalWord(text: string): GlobalWord | null {
  const meaning = MEANINGS.get(fold(text.slice(0, 100)))
  return meaning === 'restart' || meaning === 'end' || meaning === 'human' || meaning === 'thanks'
    ? meaning
    : null
}
