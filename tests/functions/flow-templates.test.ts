// The flows that every organization can begin with, as a customer lives through them.
import assert from 'node:assert/strict'
import { MIGRATION, migrationOf, readFlowTemplates } from '../../local/flow-templates.ts'
import { booking, openDays, pet, Phone, type PhoneOptions, service, template, uuid } from './flow-phone.ts'

/** Lines that begin with ">" are the customer's; all else is what comes back, and "*" what was done. */
async function plays(key: string, options: PhoneOptions, transcript: string): Promise<Phone> {
  const phone = new Phone(template(key).definition, options)
  for (const line of transcript.split('\n')) if (line.startsWith('> ')) await phone.write(line.slice(2))
  assert.equal(phone.transcript.join('\n').replace(/^ {2}\*/gm, '*'), transcript.trim())
  return phone
}

Deno.test('the migration brings the templates as they are', async () => {
  assert.equal(
    Deno.readTextFileSync(MIGRATION),
    migrationOf(await readFlowTemplates()),
    'node --import tsx local/flow-templates.ts writes it',
  )
})

Deno.test('a family is asked what a health plan depends on, and speaks to a consultant', async () => {
  const phone = await plays(
    'triagem_planos_de_saude',
    {},
    `
> Oi, vi o anúncio de vocês
Oi, Ana! 👋 Aqui é da *Vida Plena*. Com poucas perguntas eu já consigo entender qual plano de saúde combina com você.

Para quem é o plano?
(Só para mim | Para um casal | Para a família | Para a empresa)
> familia
Quantas pessoas vão usar o plano?
> somos em quatro
Me diga só o número de pessoas, por favor. Por exemplo: 4

Quantas pessoas vão usar o plano?
> quatro
Qual é a faixa de idade? Se for mais de uma pessoa, considere a mais velha.
(Até 18 anos | 19 a 30 anos | 31 a 45 anos | 46 a 58 anos | 59 anos ou mais)
> 31 a 45
Você prefere um plano com coparticipação?
[Sim] [Não] [O que é isso?]
> o que é isso
Com coparticipação a mensalidade fica mais barata, e você paga uma pequena parte de cada consulta ou exame. Sem coparticipação a mensalidade é maior, e o uso já está incluído.
Sabendo disso, qual você prefere?
[Com coparticipação] [Sem coparticipação] [Ainda não sei]
> sem
E em qual cidade o plano vai ser usado?
> Recife
Perfeito, Ana! Já anotei tudo: plano em Recife, e as opções vão ser comparadas para você.

Como prefere continuar?
[Falar agora] [Marcar um horário] [Esperar o contato]
* criar_lead
* etiquetar
> falar agora
Ótimo! Vou chamar um de nossos consultores. Já já te respondem por aqui mesmo.
* transferir`,
  )
  assert.deepEqual(phone.did('criar_lead')?.respostas, {
    perfil: 'familia',
    vidas: 4,
    idade: '31_45',
    copart: 'nao',
    cidade: 'Recife',
  })
  assert.equal(phone.status, 'handed_over')
})

Deno.test('a company is asked other things, and marks an hour', async () => {
  const business = { services: [service(1, 'Consultoria para empresas')], slots: openDays(24, 25) }
  const phone = new Phone(template('triagem_planos_de_saude').definition, { business })
  for (const text of ['oi', 'empresa', '12', 'sim', 'não', 'Olinda', 'marcar um horário', 'quarta', '9h30']) {
    await phone.write(text)
  }
  assert.equal(
    phone.read,
    'Marcado! ✅\n\n*Consultoria para empresas* com Dra. Helena\nquarta-feira, 25 de novembro, às 9h30\n---\nObrigado pelo seu tempo! Se quiser recomeçar, é só escrever *menu*. 💙',
  )
  assert.deepEqual(phone.did('criar_lead')?.respostas, {
    perfil: 'empresa',
    vidas: 12,
    cnpj: 'sim',
    copart: 'nao',
    cidade: 'Olinda',
  })
  assert.equal(phone.did('agendar')?.horario, '2026-11-25T12:30:00.000Z')
})

Deno.test('a patient books a consultation', async () => {
  const business = {
    services: [service(1, 'Consulta clínica geral'), service(2, 'Eletrocardiograma')],
    slots: openDays(24, 25),
  }
  const phone = await plays(
    'agendamento_clinica',
    { business },
    `
> Oi, quero marcar uma consulta
Olá, Ana! Que bom ter você por aqui. 😊 Este é o atendimento da *Vida Plena*.

Como posso ajudar?
(Marcar consulta | Remarcar | Cancelar | Confirmar presença | Falar com atendente)
> 1
Claro! O que você gostaria de marcar?
(Consulta clínica geral | Eletrocardiograma)
> clínica
Qual dia fica melhor para *Consulta clínica geral*?
[Amanhã, 24/11] [Quarta-feira, 25/11] [Nenhum destes dias]
> quarta
Horários de quarta-feira, 25 de novembro:
(9h | 9h30 | 10h | 10h30 | 11h | 11h30 | 12h | 12h30 | Mais horários | Outro dia)
> às 10h30
Vamos conferir:

*Consulta clínica geral* com Dra. Helena
quarta-feira, 25 de novembro, às 10h30

Posso marcar?
[Sim, pode marcar] [Outro horário] [Desistir]
> 👍
Prontinho, está marcado! ✅

*Consulta clínica geral* com Dra. Helena
quarta-feira, 25 de novembro, às 10h30

Vou te lembrar antes. Se precisar mudar, é só escrever *menu*.
Posso ajudar em mais alguma coisa?
[Sim, ver o menu] [Não, era só isso]
* agendar
> não
Combinado! Cuide-se bem, e até logo. 💙`,
  )
  assert.deepEqual(phone.done, [{
    tipo: 'agendar',
    servico_id: uuid(1, 1),
    horario: '2026-11-25T13:30:00.000Z',
    profissional_id: uuid(3, 1),
    local_id: null,
    pet_id: null,
    pet_nome: null,
  }])
  assert.equal(phone.status, 'completed')
})

Deno.test('a patient moves one booking, cancels another and confirms a third', async () => {
  const business = {
    bookings: [
      booking(1, '2026-11-25T12:00:00Z'),
      booking(2, '2026-11-27T17:30:00Z', { service_name: 'Exame' }),
    ],
    slots: openDays(26, 27),
  }
  const phone = new Phone(template('agendamento_clinica').definition, { business })
  for (const text of ['oi', 'remarcar', 'consulta', 'quinta', '9h']) await phone.write(text)
  assert.match(phone.read, /^Pronto, remarcado para quinta-feira, 26 de novembro, às 9h\./)
  for (const text of ['sim', 'cancelar', 'exame', 'sim']) await phone.write(text)
  assert.match(phone.read, /^Pronto, seu agendamento foi cancelado\./)
  for (const text of ['sim', 'confirmar', 'sim', 'não']) await phone.write(text)
  assert.deepEqual(phone.done.map(({ tipo }) => tipo), [
    'remarcar',
    'cancelar_agendamento',
    'confirmar_agendamento',
  ])
  assert.equal(phone.status, 'completed')
})

Deno.test('a dog comes for the first time', async () => {
  const business = {
    services: [service(1, 'Banho', { requires_pet: true }), service(2, 'Tosa', { requires_pet: true })],
    slots: openDays(24, 25),
  }
  const phone = await plays(
    'agendamento_petshop',
    { business },
    `
> oi
Oi, Ana! 🐾 Aqui é da *Vida Plena*. Em que posso ajudar você e seu pet hoje?
(Agendar | Remarcar | Cancelar | Falar com atendente)
> quero agendar um banho
Que alegria receber um novo amigo por aqui! 🥰
Como se chama o seu pet?
> Thor
O que vamos fazer com *Thor*?
[Banho] [Tosa]
* criar_pet
> bahno
Qual dia fica melhor para *Banho*?
[Amanhã, 24/11] [Quarta-feira, 25/11] [Nenhum destes dias]
> amanha
Horários de terça-feira, 24 de novembro:
(9h | 9h30 | 10h | 10h30 | 11h | 11h30 | 12h | 12h30 | Mais horários | Outro dia)
> mais horários
Horários de terça-feira, 24 de novembro:
[13h] [13h30] [Outro dia]
> 13h30
Vamos conferir:

*Banho* para *Thor*
terça-feira, 24 de novembro, às 13h30

Posso agendar?
[Sim, pode agendar] [Outro horário] [Desistir]
> sim
Agendado! ✅

*Banho* para *Thor*
terça-feira, 24 de novembro, às 13h30

Traga a carteira de vacinação, tá? Se precisar mudar, é só escrever *menu*.
Posso ajudar em mais alguma coisa?
[Sim, ver o menu] [Não, era só isso]
* agendar
> nao
Até logo! Um carinho no seu pet por nós. 🐶🐱`,
  )
  assert.equal(phone.did('agendar')?.pet_nome, 'Thor')
})

Deno.test('one who has animals is asked which, and may wait for a slot', async () => {
  const business = {
    services: [service(1, 'Banho', { requires_pet: true })],
    pets: [pet(1, 'Rex'), pet(2, 'Mia')],
  }
  const phone = new Phone(template('agendamento_petshop').definition, { business })
  for (const text of ['oi', 'agendar', 'mia', 'entrar na lista']) await phone.write(text)
  assert.deepEqual(phone.done, [{
    tipo: 'entrar_lista_espera',
    servico_id: uuid(1, 1),
    profissional_id: null,
    local_id: null,
    pet_id: uuid(2, 2),
    pet_nome: 'Mia',
  }])
  assert.equal(phone.status, 'completed')
})
