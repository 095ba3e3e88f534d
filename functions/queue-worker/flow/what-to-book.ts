// Which service, and for which animal.
import type { Choice, Pet, Service } from './conversation.ts'
import { OTHER, paged } from './pages.ts'
import { phrases } from './phrases.ts'
import { type ActionStep, ask, failed, forget, keepAgenda, type Move, need, type Run } from './run.ts'
import { forgetSlot } from './when-to-book.ts'

export function needServices(run: Run, step: ActionStep, page = 0): Move {
  keepAgenda(run, { pagina: page })
  const category = step.acao.tipo === 'escolher_servico' ? step.acao.categoria ?? null : null
  return need(run, 'servico', { kind: 'services', category })
}

export function offerServices(run: Run, step: ActionStep, services: readonly Service[]): Move | 'chosen' {
  const [first] = services
  if (first === undefined) return failed(run, step, 'sem_servico', `${phrases.noService} ${phrases.handOver}`)
  if (services.length === 1) {
    keepService(run, serviceValue(first), first.name)
    return 'chosen'
  }
  const choices = services.map((service): Choice => {
    const price = service.price_cents === null || service.price_cents === 0
      ? []
      : [reais(service.price_cents)]
    const descricao = [...price, `${service.duration_minutes} min`].join(' · ')
    return { valor: serviceValue(service), rotulo: service.name, descricao }
  })
  const text = step.acao.tipo === 'escolher_servico' ? step.pergunta : undefined
  ask(run, text ?? phrases.whichService, paged(run, choices), phrases.services)
  return null
}

/** The id, and whether an animal has to be named. */
function serviceValue({ id, requires_pet }: Service): string {
  return requires_pet ? `${id}|pet` : id
}

export function keepService(run: Run, value: string, name: string): void {
  const [servico_id = '', pet] = value.split('|')
  forgetSlot(run)
  forget(run, 'pagina')
  keepAgenda(run, { servico_id, servico: name, requer_pet: pet !== undefined })
}

function reais(cents: number): string {
  const whole = String(Math.floor(cents / 100)).replace(/\B(?=(?:[0-9]{3})+$)/g, '.')
  return `R$ ${whole},${String(cents % 100).padStart(2, '0')}`
}

// The animal ----------------------------------------------------------------------------------------------------------

export function offerPets(run: Run, step: ActionStep, pets: readonly Pet[]): Move {
  if (pets.length === 0) return askPetName(run)
  const choices = pets.map(({ id, name }): Choice => ({ valor: id, rotulo: name }))
  const other = { valor: OTHER, rotulo: phrases.otherPet, sinonimos: ['outro', 'novo pet', 'nenhum'] }
  const text = step.acao.tipo === 'escolher_pet' ? step.pergunta : undefined
  ask(run, text ?? phrases.whichPet, [...paged(run, choices), other], phrases.pets)
  return null
}

export function askPetName(run: Run): Move {
  run.state.subetapa = 'pet_nome'
  ask(run, phrases.petName)
  return null
}
