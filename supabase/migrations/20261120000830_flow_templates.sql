-- Flow templates: what an organization can begin with. Made by local/flow-templates.ts from supabase/flow-templates/.

insert into public.flow_templates (key, name, vertical, description, definition) values
  (
    'agendamento_clinica',
    'Agendamento - Clínica',
    'clinic',
    'Marca, remarca, confirma e cancela consultas e exames, com lista de espera quando não há horário.',
    '{
  "inicio": "menu",
  "expira_em_minutos": 1440,
  "max_tentativas": 3,
  "etapas": [
    {
      "id": "menu",
      "tipo": "escolha",
      "pergunta": "Olá, {{nome}}! Que bom ter você por aqui. 😊 Este é o atendimento da *{{organizacao}}*.\n\nComo posso ajudar?",
      "opcoes": [
        {
          "rotulo": "Marcar consulta",
          "valor": "marcar",
          "proxima": "servico"
        },
        {
          "rotulo": "Remarcar",
          "valor": "remarcar",
          "proxima": "remarca"
        },
        {
          "rotulo": "Cancelar",
          "valor": "cancelar",
          "proxima": "cancela"
        },
        {
          "rotulo": "Confirmar presença",
          "valor": "confirmar",
          "proxima": "confirma_presenca"
        },
        {
          "rotulo": "Falar com atendente",
          "valor": "atendente",
          "proxima": "chama_atendente"
        }
      ]
    },
    {
      "id": "servico",
      "tipo": "acao",
      "acao": {
        "tipo": "escolher_servico"
      },
      "pergunta": "Claro! O que você gostaria de marcar?",
      "proxima": "horario",
      "em_erro": "chama_atendente"
    },
    {
      "id": "horario",
      "tipo": "acao",
      "acao": {
        "tipo": "escolher_horario",
        "dias": 14,
        "quantos": 8
      },
      "pergunta": "Qual dia fica melhor para *{{servico}}*?",
      "proxima": "confere"
    },
    {
      "id": "confere",
      "tipo": "escolha",
      "pergunta": "Vamos conferir:\n\n*{{servico}}* com {{profissional}}\n{{data}}, às {{hora}}\n\nPosso marcar?",
      "opcoes": [
        {
          "rotulo": "Sim, pode marcar",
          "valor": "sim",
          "proxima": "marca"
        },
        {
          "rotulo": "Outro horário",
          "valor": "outro",
          "proxima": "horario"
        },
        {
          "rotulo": "Desistir",
          "valor": "desistir",
          "proxima": "mais_algo"
        }
      ]
    },
    {
      "id": "marca",
      "tipo": "acao",
      "acao": {
        "tipo": "agendar"
      },
      "proxima": "marcado",
      "em_erro": "chama_atendente"
    },
    {
      "id": "marcado",
      "tipo": "mensagem",
      "pergunta": "Prontinho, está marcado! ✅\n\n*{{servico}}* com {{profissional}}\n{{data}}, às {{hora}}\n\nVou te lembrar antes. Se precisar mudar, é só escrever *menu*.",
      "proxima": "mais_algo"
    },
    {
      "id": "remarca",
      "tipo": "acao",
      "acao": {
        "tipo": "remarcar"
      },
      "proxima": "mais_algo",
      "em_erro": "mais_algo"
    },
    {
      "id": "cancela",
      "tipo": "acao",
      "acao": {
        "tipo": "cancelar_agendamento"
      },
      "proxima": "mais_algo",
      "em_erro": "mais_algo"
    },
    {
      "id": "confirma_presenca",
      "tipo": "acao",
      "acao": {
        "tipo": "confirmar_agendamento"
      },
      "proxima": "mais_algo",
      "em_erro": "mais_algo"
    },
    {
      "id": "mais_algo",
      "tipo": "escolha",
      "pergunta": "Posso ajudar em mais alguma coisa?",
      "opcoes": [
        {
          "rotulo": "Sim, ver o menu",
          "valor": "sim",
          "proxima": "menu"
        },
        {
          "rotulo": "Não, era só isso",
          "valor": "nao",
          "proxima": "ate_logo"
        }
      ],
      "em_falha": "ate_logo"
    },
    {
      "id": "chama_atendente",
      "tipo": "acao",
      "acao": {
        "tipo": "transferir",
        "motivo": "Pediu atendimento humano no menu"
      },
      "pergunta": "Certo! Vou chamar alguém da recepção. Já já te respondem por aqui mesmo."
    },
    {
      "id": "ate_logo",
      "tipo": "fim",
      "pergunta": "Combinado! Cuide-se bem, e até logo. 💙"
    }
  ]
}'
  ),
  (
    'agendamento_petshop',
    'Agendamento - Pet shop',
    'petshop',
    'Pergunta o pet, o serviço e o horário de banho, tosa ou veterinária; remarca e cancela; lista de espera quando não há horário.',
    '{
  "inicio": "menu",
  "expira_em_minutos": 1440,
  "max_tentativas": 3,
  "etapas": [
    {
      "id": "menu",
      "tipo": "escolha",
      "pergunta": "Oi, {{nome}}! 🐾 Aqui é da *{{organizacao}}*. Em que posso ajudar você e seu pet hoje?",
      "opcoes": [
        {
          "rotulo": "Agendar",
          "valor": "agendar",
          "proxima": "tem_pet"
        },
        {
          "rotulo": "Remarcar",
          "valor": "remarcar",
          "proxima": "remarca"
        },
        {
          "rotulo": "Cancelar",
          "valor": "cancelar",
          "proxima": "cancela"
        },
        {
          "rotulo": "Falar com atendente",
          "valor": "atendente",
          "proxima": "chama_atendente"
        }
      ]
    },
    {
      "id": "tem_pet",
      "tipo": "condicao",
      "condicoes": [
        {
          "chave": "pets.quantidade",
          "operador": "maior",
          "valor": 0,
          "proxima": "pet"
        }
      ],
      "proxima": "primeira_vez"
    },
    {
      "id": "primeira_vez",
      "tipo": "mensagem",
      "pergunta": "Que alegria receber um novo amigo por aqui! 🥰",
      "proxima": "pet"
    },
    {
      "id": "pet",
      "tipo": "acao",
      "acao": {
        "tipo": "escolher_pet"
      },
      "pergunta": "Para qual pet é o atendimento?",
      "proxima": "servico"
    },
    {
      "id": "servico",
      "tipo": "acao",
      "acao": {
        "tipo": "escolher_servico"
      },
      "pergunta": "O que vamos fazer com *{{pet}}*?",
      "proxima": "horario",
      "em_erro": "chama_atendente"
    },
    {
      "id": "horario",
      "tipo": "acao",
      "acao": {
        "tipo": "escolher_horario",
        "dias": 14,
        "quantos": 8
      },
      "pergunta": "Qual dia fica melhor para *{{servico}}*?",
      "proxima": "confere"
    },
    {
      "id": "confere",
      "tipo": "escolha",
      "pergunta": "Vamos conferir:\n\n*{{servico}}* para *{{pet}}*\n{{data}}, às {{hora}}\n\nPosso agendar?",
      "opcoes": [
        {
          "rotulo": "Sim, pode agendar",
          "valor": "sim",
          "proxima": "marca"
        },
        {
          "rotulo": "Outro horário",
          "valor": "outro",
          "proxima": "horario"
        },
        {
          "rotulo": "Desistir",
          "valor": "desistir",
          "proxima": "mais_algo"
        }
      ]
    },
    {
      "id": "marca",
      "tipo": "acao",
      "acao": {
        "tipo": "agendar"
      },
      "proxima": "marcado",
      "em_erro": "chama_atendente"
    },
    {
      "id": "marcado",
      "tipo": "mensagem",
      "pergunta": "Agendado! ✅\n\n*{{servico}}* para *{{pet}}*\n{{data}}, às {{hora}}\n\nTraga a carteira de vacinação, tá? Se precisar mudar, é só escrever *menu*.",
      "proxima": "mais_algo"
    },
    {
      "id": "remarca",
      "tipo": "acao",
      "acao": {
        "tipo": "remarcar"
      },
      "proxima": "mais_algo",
      "em_erro": "mais_algo"
    },
    {
      "id": "cancela",
      "tipo": "acao",
      "acao": {
        "tipo": "cancelar_agendamento"
      },
      "proxima": "mais_algo",
      "em_erro": "mais_algo"
    },
    {
      "id": "mais_algo",
      "tipo": "escolha",
      "pergunta": "Posso ajudar em mais alguma coisa?",
      "opcoes": [
        {
          "rotulo": "Sim, ver o menu",
          "valor": "sim",
          "proxima": "menu"
        },
        {
          "rotulo": "Não, era só isso",
          "valor": "nao",
          "proxima": "ate_logo"
        }
      ],
      "em_falha": "ate_logo"
    },
    {
      "id": "chama_atendente",
      "tipo": "acao",
      "acao": {
        "tipo": "transferir",
        "motivo": "Pediu atendimento humano no menu"
      },
      "pergunta": "Certo! Vou chamar alguém da equipe. Já já te respondem por aqui mesmo."
    },
    {
      "id": "ate_logo",
      "tipo": "fim",
      "pergunta": "Até logo! Um carinho no seu pet por nós. 🐶🐱"
    }
  ]
}'
  ),
  (
    'triagem_planos_de_saude',
    'Triagem Básica - Planos de Saúde',
    'health_plans',
    'Conhece quem procura um plano de saúde (perfil, idade, coparticipação, cidade), guarda as respostas no lead e oferece uma conversa com um consultor.',
    '{
  "inicio": "perfil",
  "expira_em_minutos": 1440,
  "max_tentativas": 3,
  "etapas": [
    {
      "id": "perfil",
      "tipo": "escolha",
      "pergunta": "Oi, {{nome}}! 👋 Aqui é da *{{organizacao}}*. Com poucas perguntas eu já consigo entender qual plano de saúde combina com você.\n\nPara quem é o plano?",
      "opcoes": [
        {
          "rotulo": "Só para mim",
          "valor": "individual",
          "proxima": "idade"
        },
        {
          "rotulo": "Para um casal",
          "valor": "casal",
          "proxima": "idade"
        },
        {
          "rotulo": "Para a família",
          "valor": "familia",
          "proxima": "vidas"
        },
        {
          "rotulo": "Para a empresa",
          "valor": "empresa",
          "proxima": "vidas"
        }
      ]
    },
    {
      "id": "vidas",
      "tipo": "pergunta",
      "pergunta": "Quantas pessoas vão usar o plano?",
      "validacao": {
        "tipo": "inteiro",
        "min": 1,
        "max": 5000,
        "mensagem": "Me diga só o número de pessoas, por favor. Por exemplo: 4"
      },
      "proxima": "e_empresa"
    },
    {
      "id": "e_empresa",
      "tipo": "condicao",
      "condicoes": [
        {
          "chave": "perfil",
          "operador": "igual",
          "valor": "empresa",
          "proxima": "cnpj"
        }
      ],
      "proxima": "idade"
    },
    {
      "id": "cnpj",
      "tipo": "pergunta",
      "pergunta": "A empresa tem CNPJ ativo?",
      "validacao": {
        "tipo": "sim_nao"
      },
      "proxima": "copart"
    },
    {
      "id": "idade",
      "tipo": "escolha",
      "pergunta": "Qual é a faixa de idade? Se for mais de uma pessoa, considere a mais velha.",
      "opcoes": [
        {
          "rotulo": "Até 18 anos",
          "valor": "0_18"
        },
        {
          "rotulo": "19 a 30 anos",
          "valor": "19_30"
        },
        {
          "rotulo": "31 a 45 anos",
          "valor": "31_45"
        },
        {
          "rotulo": "46 a 58 anos",
          "valor": "46_58"
        },
        {
          "rotulo": "59 anos ou mais",
          "valor": "59_mais"
        }
      ],
      "proxima": "copart"
    },
    {
      "id": "copart",
      "tipo": "escolha",
      "pergunta": "Você prefere um plano com coparticipação?",
      "opcoes": [
        {
          "rotulo": "Sim",
          "valor": "sim",
          "proxima": "cidade"
        },
        {
          "rotulo": "Não",
          "valor": "nao",
          "proxima": "cidade"
        },
        {
          "rotulo": "O que é isso?",
          "valor": "nao_sei",
          "proxima": "explica_copart"
        }
      ]
    },
    {
      "id": "explica_copart",
      "tipo": "mensagem",
      "pergunta": "Com coparticipação a mensalidade fica mais barata, e você paga uma pequena parte de cada consulta ou exame. Sem coparticipação a mensalidade é maior, e o uso já está incluído.",
      "proxima": "copart_depois"
    },
    {
      "id": "copart_depois",
      "tipo": "escolha",
      "pergunta": "Sabendo disso, qual você prefere?",
      "opcoes": [
        {
          "rotulo": "Com coparticipação",
          "valor": "sim"
        },
        {
          "rotulo": "Sem coparticipação",
          "valor": "nao"
        },
        {
          "rotulo": "Ainda não sei",
          "valor": "nao_sei"
        }
      ],
      "proxima": "cidade",
      "chave": "copart"
    },
    {
      "id": "cidade",
      "tipo": "pergunta",
      "pergunta": "E em qual cidade o plano vai ser usado?",
      "validacao": {
        "tipo": "texto",
        "min": 2,
        "max": 80
      },
      "proxima": "registra"
    },
    {
      "id": "registra",
      "tipo": "acao",
      "acao": {
        "tipo": "criar_lead"
      },
      "proxima": "etiqueta"
    },
    {
      "id": "etiqueta",
      "tipo": "acao",
      "acao": {
        "tipo": "etiquetar",
        "etiqueta": "triagem"
      },
      "proxima": "depois"
    },
    {
      "id": "depois",
      "tipo": "escolha",
      "pergunta": "Perfeito, {{nome}}! Já anotei tudo: plano em {{respostas.cidade}}, e as opções vão ser comparadas para você.\n\nComo prefere continuar?",
      "opcoes": [
        {
          "rotulo": "Falar agora",
          "valor": "agora",
          "proxima": "chama_consultor"
        },
        {
          "rotulo": "Marcar um horário",
          "valor": "horario",
          "proxima": "reuniao"
        },
        {
          "rotulo": "Esperar o contato",
          "valor": "esperar",
          "proxima": "ate_logo"
        }
      ]
    },
    {
      "id": "chama_consultor",
      "tipo": "acao",
      "acao": {
        "tipo": "transferir",
        "motivo": "Triagem concluída: quer falar agora"
      },
      "pergunta": "Ótimo! Vou chamar um de nossos consultores. Já já te respondem por aqui mesmo."
    },
    {
      "id": "reuniao",
      "tipo": "acao",
      "acao": {
        "tipo": "escolher_servico"
      },
      "pergunta": "Que tipo de conversa faz mais sentido para você?",
      "proxima": "horario",
      "em_erro": "chama_consultor"
    },
    {
      "id": "horario",
      "tipo": "acao",
      "acao": {
        "tipo": "escolher_horario",
        "dias": 14
      },
      "pergunta": "Qual dia fica melhor para a nossa conversa?",
      "proxima": "marca",
      "proxima_sem_horario": "chama_consultor"
    },
    {
      "id": "marca",
      "tipo": "acao",
      "acao": {
        "tipo": "agendar"
      },
      "proxima": "marcado",
      "em_erro": "chama_consultor"
    },
    {
      "id": "marcado",
      "tipo": "mensagem",
      "pergunta": "Marcado! ✅\n\n*{{servico}}* com {{profissional}}\n{{data}}, às {{hora}}",
      "proxima": "ate_logo"
    },
    {
      "id": "ate_logo",
      "tipo": "fim",
      "pergunta": "Obrigado pelo seu tempo! Se quiser recomeçar, é só escrever *menu*. 💙"
    }
  ]
}'
  );
