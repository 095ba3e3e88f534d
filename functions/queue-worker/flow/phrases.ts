// What the engine says of its own accord, whatever the flow: everything else is in the definition.

export const phrases = {
  expired: 'Como já faz um tempinho desde a nossa última conversa, vamos recomeçar. 😊',
  notUnderstood: 'Desculpe, não entendi.',
  chooseOne: 'Escolha uma das opções, por favor.',
  chooseNumber: 'Responda com o número de uma das opções, por favor.',
  onlyText: 'Por enquanto só entendo texto. Pode me escrever?',
  oldQuestion: 'Essa opção era de uma pergunta anterior. Vamos seguir daqui:',
  goodbye: 'Tudo bem, encerramos por aqui. Quando precisar, é só mandar uma mensagem.',
  thanks: 'Imagina! Quando precisar, é só mandar uma mensagem. 😊',
  handOver: 'Certo! Vou chamar alguém da nossa equipe. Já já te respondem por aqui mesmo.',
  handOverAfterAttempts:
    'Acho que não estou conseguindo te ajudar. Vou chamar alguém da nossa equipe para continuar por aqui.',
  handOverAfterError: 'Não consegui concluir por aqui. Vou chamar alguém da nossa equipe para te ajudar.',

  yes: 'Sim',
  no: 'Não',
  openList: 'Ver opções',
  moreOptions: 'Mais opções',
  firstOptions: 'Primeiras opções',

  whichService: 'Qual serviço você quer agendar?',
  services: 'Ver serviços',
  noService: 'No momento não temos serviços com agendamento por aqui.',

  whichPet: 'Para qual pet é?',
  pets: 'Ver pets',
  otherPet: 'Outro pet',
  petName: 'Como se chama o seu pet?',
  petNameAgain: 'Me diga só o nome do pet, por favor.',

  whichDay: 'Qual dia fica melhor para você?',
  days: 'Ver dias',
  moreDays: 'Mais dias',
  noneOfTheseDays: 'Nenhum destes dias',
  times: 'Ver horários',
  moreTimes: 'Mais horários',
  otherDay: 'Outro dia',
  noneOfTheseTimes: 'Nenhum destes',
  dayIsFull: 'Os horários desse dia acabaram de ser preenchidos.',
  slotTaken: 'Esse horário acabou de ser preenchido. Tenho estes outros:',
  slotTakenNoOther: 'Esse horário acabou de ser preenchido.',
  placeChanged: 'Esse horário não está mais disponível. Vamos escolher outro:',
  noSlots: 'Não encontrei horários livres nos próximos dias. Quer entrar na lista de espera?',
  joinInstead: 'Se abrir um horário melhor, posso te avisar. Quer entrar na lista de espera?',
  joinWaitingList: 'Entrar na lista',
  talkToSomebody: 'Falar com atendente',
  notNow: 'Agora não',
  joined: 'Pronto, você está na lista de espera! Assim que abrir um horário, eu aviso por aqui.',
  alreadyWaiting: 'Você já está na lista de espera. Assim que abrir um horário, eu aviso por aqui.',

  whichBookingToCancel: 'Qual agendamento você quer cancelar?',
  whichBookingToMove: 'Qual agendamento você quer remarcar?',
  whichBookingToConfirm: 'Qual agendamento você quer confirmar?',
  bookings: 'Ver agendamentos',
  noBookings: 'Não encontrei nenhum agendamento seu para os próximos dias.',
  noBookingToConfirm: 'Não encontrei nenhum agendamento seu à espera de confirmação.',
  bookingGone: 'Esse agendamento não está mais disponível.',
  yesCancel: 'Sim, cancelar',
  noKeep: 'Não, manter',
  cancelled: 'Pronto, seu agendamento foi cancelado.',
  kept: 'Tudo certo, seu agendamento continua marcado.',
  yesConfirm: 'Sim, confirmo',
  notConfirmed: 'Tudo bem, não confirmei por enquanto.',
  confirmed: 'Presença confirmada! Esperamos por você.',
  noOtherSlots: 'Não encontrei outros horários livres nos próximos dias. Seu agendamento continua marcado.',
} as const

export const free = (count: number) => count === 1 ? '1 horário livre' : `${count} horários livres`
export const timesOf = (day: string) => `Horários de ${day}:`
export const sureToCancel = (booking: string) => `Quer mesmo cancelar este agendamento?\n\n${booking}`
export const sureToConfirm = (booking: string) => `Você confirma a sua presença?\n\n${booking}`
export const moved = (day: string, hour: string) => `Pronto, remarcado para ${day}, às ${hour}.`
