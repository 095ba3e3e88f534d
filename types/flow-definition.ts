// A flow as it is written: the steps of a scripted conversation. The keys are Consultor.AI's, in Portuguese.
//
// flowDefinition takes what findProblems() finds nothing wrong with, and nothing else; the database checks the same
// (private.flow_problems) before it keeps a definition.

import { z } from 'zod'
import { findProblems } from './flow-problems.ts'

/** What an answer has to be; it is kept as text, number or yes/no ('sim', 'nao'). */
export const answerCheck = z.object({
  tipo: z.enum(['texto', 'numero', 'inteiro', 'email', 'telefone', 'cpf', 'data', 'sim_nao']),
  /** texto: fewest letters; numero, inteiro: the least; data: days from today (0: not before today). */
  min: z.number().optional(),
  max: z.number().optional(),
  /** texto only: a regular expression for the whole answer. */
  padrao: z.string().optional(),
  /** What the customer reads when the answer is not valid. */
  mensagem: z.string().optional(),
})
export type AnswerCheck = z.infer<typeof answerCheck>

export const flowOption = z.object({ rotulo: z.string(), valor: z.string(), proxima: z.string().optional() })
export type FlowOption = z.infer<typeof flowOption>

export const flowCondition = z.object({
  /**
   * The key of an answer, or contato.nome, contato.etiquetas, pets.quantidade, organizacao.vertical; teste.<name>: the
   * contact's variant (a, b) of that A/B test, and none while it does not run.
   */
  chave: z.string(),
  operador: z.enum(['igual', 'diferente', 'contem', 'maior', 'menor', 'existe', 'vazio']),
  valor: z.union([z.string(), z.number(), z.boolean()]).optional(),
  proxima: z.string(),
})
export type FlowCondition = z.infer<typeof flowCondition>

/** Those with something to ask ask it themselves. */
export const stepAction = z.discriminatedUnion('tipo', [
  z.object({ tipo: z.literal('criar_lead'), profissional: z.string().optional() }),
  z.object({
    tipo: z.literal('atualizar_lead'),
    status: z.enum(['novo', 'em_contato', 'agendado', 'fechado', 'perdido']).optional(),
  }),
  z.object({ tipo: z.literal('etiquetar'), etiqueta: z.string() }),
  z.object({ tipo: z.literal('transferir'), motivo: z.string().optional() }),
  z.object({ tipo: z.literal('aguardar'), minutos: z.int() }),
  z.object({ tipo: z.literal('escolher_servico'), categoria: z.string().optional() }),
  z.object({ tipo: z.literal('escolher_pet') }),
  z.object({ tipo: z.literal('escolher_horario'), dias: z.int().optional(), quantos: z.int().optional() }),
  z.object({ tipo: z.literal('agendar') }),
  z.object({ tipo: z.literal('entrar_lista_espera') }),
  z.object({ tipo: z.literal('cancelar_agendamento') }),
  z.object({ tipo: z.literal('remarcar') }),
  z.object({ tipo: z.literal('confirmar_agendamento') }),
])
export type StepAction = z.infer<typeof stepAction>

const id = z.string()

/** What every step that asks may say about wrong answers; without em_falha a human takes over after the last one. */
const patience = { max_tentativas: z.int().optional(), em_falha: z.string().optional() }

export const flowStep = z.discriminatedUnion('tipo', [
  z.object({ id, tipo: z.literal('mensagem'), pergunta: z.string(), proxima: z.string() }),
  z.object({
    id,
    tipo: z.literal('escolha'),
    pergunta: z.string(),
    opcoes: z.array(flowOption),
    proxima: z.string().optional(),
    /** Where the answer is kept; without it, under the step's id. */
    chave: z.string().optional(),
    ...patience,
  }),
  z.object({
    id,
    tipo: z.literal('pergunta'),
    pergunta: z.string(),
    validacao: answerCheck.optional(),
    proxima: z.string(),
    chave: z.string().optional(),
    ...patience,
  }),
  z.object({ id, tipo: z.literal('condicao'), condicoes: z.array(flowCondition), proxima: z.string() }),
  z.object({
    id,
    tipo: z.literal('acao'),
    acao: stepAction,
    /** Asked in place of the action's own first question. */
    pergunta: z.string().optional(),
    /** Only transferir has none. */
    proxima: z.string().optional(),
    proxima_sem_horario: z.string().optional(),
    em_erro: z.string().optional(),
    ...patience,
  }),
  z.object({
    id,
    tipo: z.literal('fim'),
    pergunta: z.string().optional(),
    /** Closes the conversation too. */
    encerrar: z.boolean().optional(),
  }),
])
export type FlowStep = z.infer<typeof flowStep>
export type StepOf<Kind extends FlowStep['tipo']> = Extract<FlowStep, { tipo: Kind }>

export const flowDefinitionShape = z.object({
  /** The id of the first step; without it, the first of the list. */
  inicio: z.string().optional(),
  /** How long an unanswered question waits. */
  expira_em_minutos: z.int().optional(),
  max_tentativas: z.int().optional(),
  etapas: z.array(flowStep),
})
export type FlowDefinition = z.infer<typeof flowDefinitionShape>

/** flows.definition, flow_versions.definition, flow_templates.definition. */
export const flowDefinition = z.unknown().superRefine((definition, context) => {
  for (const { step, problem, detail } of findProblems(definition)) {
    context.addIssue({ code: 'custom', message: problem, path: [step, detail].filter((part) => part !== null) })
  }
}).pipe(flowDefinitionShape)
