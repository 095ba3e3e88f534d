-- Three businesses to look at: a clinic, a pet shop, a health-plan consultancy, with two months behind them, a today and a fortnight ahead.
--
-- Loaded by `npm run seed`, `supabase db push --include-seed` or any SQL client, as the role that owns the schema. It is one
-- statement, so that it is there or it is not; where it is there already it changes nothing. Everything stands around
-- "now", in the local time of each place: balcao.seed_now moves it (tests load it at awkward moments).
--
-- Nobody is told of it: there is no webhook endpoint, no number is connected. The people are invented; a mobile number
-- that begins with 90000 is nobody's.

do $seed$
declare
  moment constant timestamptz := coalesce(nullif(current_setting('balcao.seed_now', true), '')::timestamptz, now());
begin
  -- Two loads at once: the second one finds it.
  perform pg_advisory_xact_lock(hashtextextended('balcao seed', 0));
  if exists (select from public.organizations o where o.id = '5eed0000-0000-4000-8000-000000001000') then
    raise notice 'The seed is here already: nothing was changed';
    return;
  end if;

  -- Ids that a second load, a test and a bookmark find again: what it is, of which organization, which one.
  create or replace function pg_temp.seed_id(kind text, organization int, number int)
  returns uuid
  language sql
  immutable
  strict
  as $id$
    select format(
      '5eed%s-0000-4000-8000-%s',
      lpad((array_position(
        array['organization', 'location', 'professional', 'service', 'contact', 'pet', 'instance', 'conversation', 'lead',
          'booking', 'waiting', 'time off', 'hours'], kind) - 1)::text, 4, '0'),
      -- More than 999 of a kind would run into the next organization's.
      lpad((organization * case when number < 1000 then 1000 else 100000 end + number)::text, 12, '0'))::uuid
  $id$;

  -- Organizations and places ----------------------------------------------------------------------------------------

  insert into public.organizations (id, name, slug, vertical, plan_type, plan_expires_at, timezone, created_at)
  select
    pg_temp.seed_id('organization', v.organization, 0), v.name,
    -- Somebody here may have taken the name.
    private.generate_slug(v.name),
    v.vertical::public.business_vertical, v.plan::public.plan_type, moment + interval '1 year', v.timezone,
    moment - interval '8 months'
  from (values
    (1, 'Clínica Vida Plena', 'clinic', 'pro', 'America/Sao_Paulo'),
    (2, 'Focinho Feliz Pet Shop e Veterinária', 'petshop', 'pro', 'America/Sao_Paulo'),
    (3, 'Horizonte Planos de Saúde', 'health_plans', 'pro', 'America/Recife')
  ) v (organization, name, vertical, plan, timezone);

  insert into public.organization_settings (organization_id, operating_hours, contextualization_json, reminder_offsets)
  select pg_temp.seed_id('organization', v.organization, 0), v.hours::jsonb, v.context::jsonb, v.reminders::int[]
  from (values
    (1, $json${
      "monday": [{"starts_at": "08:00", "ends_at": "18:00"}], "tuesday": [{"starts_at": "08:00", "ends_at": "18:00"}],
      "wednesday": [{"starts_at": "08:00", "ends_at": "18:00"}], "thursday": [{"starts_at": "08:00", "ends_at": "18:00"}],
      "friday": [{"starts_at": "08:00", "ends_at": "18:00"}], "saturday": [{"starts_at": "08:00", "ends_at": "13:00"}],
      "sunday": [{"starts_at": "09:00", "ends_at": "13:00"}]
    }$json$, $json${
      "sobre": "Clínica de especialidades com atendimento humanizado em São Paulo e em Manaus. Domingo há plantão de clínica geral e de pediatria.",
      "tom_de_voz": "acolhedor, claro, sem termos técnicos; chama a pessoa pelo primeiro nome",
      "convenios": ["Particular", "Convênio Aurora", "Saúde Integrada"],
      "formas_de_pagamento": ["Pix", "cartão em até 3 vezes", "dinheiro"],
      "politica_de_cancelamento": "Pedimos aviso com 24 horas de antecedência.",
      "perguntas_frequentes": [
        {"pergunta": "Precisa de jejum para a coleta?", "resposta": "Para glicemia e colesterol, de 8 a 12 horas. Água pode."},
        {"pergunta": "O retorno é cobrado?", "resposta": "Não, se for em até 30 dias com o mesmo médico."},
        {"pergunta": "Tem estacionamento?", "resposta": "Em São Paulo há convênio com o estacionamento ao lado; em Manaus é gratuito."}
      ],
      "nunca": ["dar diagnóstico", "indicar medicamento", "prometer resultado"]
    }$json$, '{1440,120}'),
    (2, $json${
      "monday": [{"starts_at": "08:00", "ends_at": "19:00"}], "tuesday": [{"starts_at": "08:00", "ends_at": "19:00"}],
      "wednesday": [{"starts_at": "08:00", "ends_at": "19:00"}], "thursday": [{"starts_at": "08:00", "ends_at": "19:00"}],
      "friday": [{"starts_at": "08:00", "ends_at": "19:00"}], "saturday": [{"starts_at": "08:00", "ends_at": "17:00"}],
      "sunday": [{"starts_at": "09:00", "ends_at": "13:00"}]
    }$json$, $json${
      "sobre": "Banho e tosa, veterinária e loja no bairro da Savassi, em Belo Horizonte. Os banhos são acompanhados por vidro.",
      "tom_de_voz": "alegre e próximo; pergunta o nome do pet e fala dele",
      "formas_de_pagamento": ["Pix", "cartão", "pacote de 4 banhos com 10% de desconto"],
      "politica_de_cancelamento": "Atrasos acima de 20 minutos podem precisar de remarcação.",
      "exigencias": ["carteira de vacinação em dia", "guia ou caixa de transporte"],
      "leva_e_traz": {"bairros": ["Savassi", "Funcionários", "Lourdes"], "preco_cents": 2500},
      "perguntas_frequentes": [
        {"pergunta": "Vocês atendem gatos?", "resposta": "Sim! 🐱 Em salas separadas dos cães, de preferência pela manhã."},
        {"pergunta": "Qual a idade mínima para o banho?", "resposta": "A partir de 60 dias e com a segunda dose da vacina."}
      ]
    }$json$, '{1440,180}'),
    (3, $json${
      "monday": [{"starts_at": "09:00", "ends_at": "19:00"}], "tuesday": [{"starts_at": "09:00", "ends_at": "19:00"}],
      "wednesday": [{"starts_at": "09:00", "ends_at": "19:00"}], "thursday": [{"starts_at": "09:00", "ends_at": "19:00"}],
      "friday": [{"starts_at": "09:00", "ends_at": "19:00"}], "saturday": [{"starts_at": "09:00", "ends_at": "14:00"}],
      "sunday": [{"starts_at": "10:00", "ends_at": "13:00"}]
    }$json$, $json${
      "sobre": "Corretora de planos de saúde individuais, familiares e empresariais em Pernambuco. As reuniões são por vídeo, também no fim de semana.",
      "tom_de_voz": "consultivo, sem pressa de vender, com números concretos",
      "operadoras": ["Convênio Aurora", "Saúde Integrada", "Rede Atlântico"],
      "perguntas_de_qualificacao": ["perfil", "idade", "copart", "cidade", "plano_atual"],
      "perguntas_frequentes": [
        {"pergunta": "Dá para aproveitar a carência do plano atual?", "resposta": "Na maioria dos casos, sim: avaliamos a portabilidade sem custo."},
        {"pergunta": "O que é coparticipação?", "resposta": "A mensalidade fica menor e você paga uma parte de cada consulta ou exame."}
      ],
      "nunca": ["garantir aceitação", "informar preço sem a idade de todos"]
    }$json$, '{1440,60}')
  ) v (organization, hours, context, reminders);

  -- The consultants meet their customers by video: they have no place.
  insert into public.locations
    (organization_id, id, name, slug, address, phone_number, timezone, operating_hours, created_at)
  select
    pg_temp.seed_id('organization', v.organization, 0), pg_temp.seed_id('location', v.organization, v.number),
    v.name, v.slug, v.address::jsonb, v.phone, v.timezone, v.hours::jsonb, moment - interval '8 months'
  from (values
    (1, 1, 'Unidade Paulista', 'paulista', '+5511900001901', null, null,
      '{"street": "Alameda das Paineiras", "number": "1200", "complement": "conj. 84", "district": "Bela Vista", "city": "São Paulo", "state": "SP", "postal_code": "01310000", "country": "BR"}'),
    (1, 2, 'Unidade Manaus', 'manaus', '+5592900001902', 'America/Manaus',
      '{"monday": [{"starts_at": "08:00", "ends_at": "17:00"}], "tuesday": [{"starts_at": "08:00", "ends_at": "17:00"}], "wednesday": [{"starts_at": "08:00", "ends_at": "17:00"}], "thursday": [{"starts_at": "08:00", "ends_at": "17:00"}], "friday": [{"starts_at": "08:00", "ends_at": "17:00"}], "saturday": [{"starts_at": "08:00", "ends_at": "12:00"}], "sunday": [{"starts_at": "08:00", "ends_at": "12:00"}]}',
      '{"street": "Rua dos Igarapés", "number": "455", "district": "Adrianópolis", "city": "Manaus", "state": "AM", "postal_code": "69057000", "country": "BR"}'),
    (2, 1, 'Loja Savassi', 'savassi', '+5531900002901', null, null,
      '{"street": "Rua dos Ipês Amarelos", "number": "88", "district": "Savassi", "city": "Belo Horizonte", "state": "MG", "postal_code": "30112000", "country": "BR"}')
  ) v (organization, number, name, slug, phone, timezone, hours, address);

  insert into public.authorized_owner_numbers (organization_id, phone_number, is_primary, label)
  select pg_temp.seed_id('organization', v.organization, 0), v.phone, true, v.label
  from (values
    (1, '+5511900001999', 'Helena'),
    (2, '+5531900002999', 'Bruna'),
    (3, '+5581900003999', 'Renata')
  ) v (organization, phone, label);

  -- Catalogue -------------------------------------------------------------------------------------------------------

  insert into public.services (
    organization_id, id, name, category, description, price_cents, duration_minutes, buffer_minutes, slot_interval_minutes,
    capacity, requires_pet, created_at
  )
  select
    pg_temp.seed_id('organization', v.organization, 0), pg_temp.seed_id('service', v.organization, v.number),
    v.name, v.category, v.description, v.price_cents, v.duration, v.buffer, v.interval_minutes, v.capacity, v.requires_pet,
    moment - interval '8 months'
  from (values
    (1, 1, 'Consulta clínica geral', 'Consultas', 'Avaliação completa, pedido de exames e orientação.', 28000, 30, 0, null::int, 1, false),
    (1, 2, 'Check-up executivo', 'Check-up', 'Consulta longa com bioimpedância e plano de cuidados.', 65000, 60, 0, 30, 1, false),
    (1, 3, 'Consulta cardiológica', 'Consultas', 'Com aferição de pressão e leitura do eletrocardiograma.', 42000, 45, 15, 30, 1, false),
    (1, 4, 'Eletrocardiograma', 'Exames', 'Laudo em até 24 horas.', 15000, 30, 0, null, 1, false),
    (1, 5, 'Consulta dermatológica', 'Consultas', 'Pele, cabelos e unhas; dermatoscopia incluída.', 38000, 30, 0, null, 1, false),
    (1, 6, 'Consulta pediátrica', 'Consultas', 'Puericultura, vacinas e queixas do dia a dia.', 32000, 45, 15, 30, 1, false),
    (1, 7, 'Consulta ginecológica', 'Consultas', 'Consulta de rotina, com coleta de preventivo se necessário.', 35000, 45, 15, 30, 1, false),
    (1, 8, 'Retorno', 'Consultas', 'Em até 30 dias da consulta, com o mesmo médico.', 0, 30, 0, null, 1, false),
    (1, 9, 'Coleta de sangue', 'Exames', 'Jejum conforme o pedido médico. Dois boxes de coleta por unidade.', 6000, 15, 0, null, 2, false),
    (2, 1, 'Banho', 'Banho e tosa', 'Com xampu hipoalergênico, limpeza de ouvidos e perfume opcional.', 7000, 60, 0, 30, 3, true),
    (2, 2, 'Banho e tosa completa', 'Banho e tosa', 'Na máquina ou na tesoura, com acabamento e laço.', 13000, 90, 0, 30, 1, true),
    (2, 3, 'Tosa higiênica', 'Banho e tosa', 'Patas, barriga e região íntima.', 5500, 30, 0, null, 1, true),
    (2, 4, 'Corte de unhas', 'Banho e tosa', null, 2500, 30, 0, null, 1, true),
    (2, 5, 'Consulta veterinária', 'Veterinária', 'Cães e gatos. Traga a carteira de vacinação.', 18000, 30, 0, null, 1, true),
    (2, 6, 'Vacina polivalente', 'Veterinária', 'V10 para cães, quádrupla para gatos; o exame clínico está incluído.', 12000, 30, 0, null, 1, true),
    (2, 7, 'Avaliação pré-cirúrgica', 'Veterinária', 'Exame clínico e pedido de exames antes da castração.', 22000, 45, 15, 30, 1, true),
    (2, 8, 'Visita à creche', 'Creche', 'Para conhecer o espaço antes da primeira diária.', null, 30, 0, null, 1, false),
    (3, 1, 'Consultoria para a família', 'Reuniões', 'Comparação de planos para até 6 pessoas, por vídeo.', 0, 45, 15, 30, 1, false),
    (3, 2, 'Consultoria para empresas', 'Reuniões', 'Planos PME a partir de 2 vidas: simulação e proposta.', 0, 60, 0, 30, 1, false),
    (3, 3, 'Análise de portabilidade', 'Reuniões', 'Carências e documentos, com o contrato atual em mãos.', 0, 30, 0, null, 1, false),
    (3, 4, 'Assinatura de proposta', 'Fechamento', 'Conferência de documentos e assinatura eletrônica.', null, 30, 0, null, 1, false)
  ) v (organization, number, name, category, description, price_cents, duration, buffer, interval_minutes, capacity, requires_pet);

  insert into public.professionals
    (organization_id, id, location_id, name, kind, bio, crm_number, whatsapp_number, created_at)
  select
    pg_temp.seed_id('organization', v.organization, 0), pg_temp.seed_id('professional', v.organization, v.number),
    pg_temp.seed_id('location', v.organization, v.location), v.name, v.kind::public.professional_kind, v.bio, v.council, v.phone,
    moment - interval '8 months'
  from (values
    (1, 1, 1, 'Dra. Helena Prado Azevedo', 'doctor', 'Clínica geral há 18 anos. Gosta de consultas sem pressa e de explicar cada exame.', 'CRM/SP 000101', null),
    (1, 2, 1, 'Dr. Marcelo Tanaka', 'doctor', 'Cardiologista, com foco em prevenção e em quem corre a primeira meia maratona.', 'CRM/SP 000102 · RQE 0102', null),
    (1, 3, 1, 'Dra. Beatriz Nóbrega', 'doctor', 'Dermatologista clínica: acne, manchas e prevenção do câncer de pele.', 'CRM/SP 000103 · RQE 0103', null),
    (1, 4, 2, 'Dr. Thiago Bentes', 'doctor', 'Pediatra e pai de dois. Plantão aos domingos em Manaus.', 'CRM/AM 000104 · RQE 0104', null),
    (1, 5, 2, 'Dra. Iracema Tapajós', 'doctor', 'Ginecologista e obstetra. Acompanha o pré-natal do começo ao puerpério.', 'CRM/AM 000105 · RQE 0105', null),
    (2, 1, 1, 'Dra. Camila Furtado', 'veterinarian', 'Veterinária de cães e gatos, pós-graduada em dermatologia.', 'CRMV/MG 000201', null),
    (2, 2, 1, 'Dr. Otávio Mesquita', 'veterinarian', 'Cirurgião veterinário: castrações e ortopedia.', 'CRMV/MG 000202', null),
    (2, 3, 1, 'Jéssica Rocha', 'groomer', 'Tosadora há 9 anos, especialista em poodles e shih-tzus.', null, null),
    (2, 4, 1, 'Wellington Dias', 'groomer', 'Paciência de sobra com cães idosos e gatos desconfiados.', null, null),
    (3, 1, null, 'Renata Cavalcanti', 'consultant', 'Corretora de saúde há 12 anos. Compara planos linha por linha, com calma.', 'SUSEP 000000301', '+5581900003901'),
    (3, 2, null, 'Diego Amorim', 'consultant', 'Especialista em planos empresariais a partir de 2 vidas.', 'SUSEP 000000302', '+5581900003902')
  ) v (organization, number, location, name, kind, bio, council, phone);

  insert into public.professional_services (organization_id, professional_id, service_id)
  select
    pg_temp.seed_id('organization', v.organization, 0), pg_temp.seed_id('professional', v.organization, v.professional),
    pg_temp.seed_id('service', v.organization, service)
  from (values
    (1, 1, array[1, 2, 8]), (1, 2, array[3, 4, 8]), (1, 3, array[5, 8]), (1, 4, array[6, 8]), (1, 5, array[7, 8]),
    (2, 1, array[5, 6]), (2, 2, array[5, 7]), (2, 3, array[2, 3, 4]), (2, 4, array[2, 4, 8]),
    (3, 1, array[1, 3, 4]), (3, 2, array[2, 3, 4])
  ) v (organization, professional, services)
  cross join unnest(v.services) service;

  -- Every business has somebody at work on every day of the week, and everybody has a break.
  insert into public.working_hours (organization_id, id, professional_id, weekday, starts_at, ends_at, created_at)
  select
    pg_temp.seed_id('organization', v.organization, 0),
    pg_temp.seed_id('hours', v.organization, (row_number() over (partition by v.organization))::int),
    pg_temp.seed_id('professional', v.organization, v.professional), weekday, v.starts_at::time, v.ends_at::time,
    moment - interval '8 months'
  from (values
    (1, 1, array[1, 2, 3, 4, 5], '08:00', '12:00'), (1, 1, array[1, 2, 3, 4, 5], '13:00', '17:00'), (1, 1, array[0], '09:00', '13:00'),
    (1, 2, array[1, 3, 5], '08:00', '12:00'), (1, 2, array[1, 3, 5], '14:00', '18:00'), (1, 2, array[6], '08:00', '12:00'),
    (1, 3, array[2, 4], '09:00', '12:00'), (1, 3, array[2, 4], '13:00', '18:00'), (1, 3, array[6], '09:00', '13:00'),
    (1, 4, array[1, 2, 3, 4, 5], '08:00', '12:00'), (1, 4, array[1, 3, 5], '13:00', '16:00'), (1, 4, array[0], '08:00', '12:00'),
    (1, 5, array[2, 4, 5], '09:00', '12:00'), (1, 5, array[2, 4, 5], '13:00', '17:00'), (1, 5, array[6], '08:00', '12:00'),
    (2, 1, array[1, 2, 3, 4, 5], '09:00', '12:00'), (2, 1, array[1, 2, 3, 4, 5], '13:30', '18:00'), (2, 1, array[6], '09:00', '13:00'),
    (2, 2, array[1, 3, 5], '10:00', '13:00'), (2, 2, array[1, 3, 5], '14:00', '19:00'), (2, 2, array[6], '09:00', '12:00'),
    (2, 3, array[2, 3, 4, 5, 6], '08:00', '12:30'), (2, 3, array[2, 3, 4, 5, 6], '13:30', '16:30'), (2, 3, array[0], '09:00', '12:00'),
    (2, 4, array[1, 2, 4, 5, 6], '08:30', '11:30'), (2, 4, array[1, 2, 4, 5, 6], '12:30', '17:00'),
    (3, 1, array[1, 2, 3, 4, 5], '09:00', '12:00'), (3, 1, array[1, 2, 3, 4, 5], '14:00', '18:00'), (3, 1, array[6], '09:00', '12:00'),
    (3, 2, array[1, 2, 3, 4, 5], '10:00', '13:00'), (3, 2, array[1, 2, 3, 4, 5], '15:00', '19:00'), (3, 2, array[0], '10:00', '13:00')
  ) v (organization, professional, weekdays, starts_at, ends_at)
  cross join unnest(v.weekdays) weekday;

  -- Whole local days, counted from today.
  insert into public.time_off (organization_id, id, professional_id, location_id, starts_at, ends_at, reason)
  select
    o.id, pg_temp.seed_id('time off', v.organization, v.number), pg_temp.seed_id('professional', v.organization, v.professional),
    pg_temp.seed_id('location', v.organization, v.location),
    ((moment at time zone o.timezone)::date + v.first_day)::timestamp at time zone o.timezone,
    ((moment at time zone o.timezone)::date + v.first_day + v.days)::timestamp at time zone o.timezone,
    v.reason
  from (values
    (1, 1, null, null::int, 10, 1, 'Feriado'),
    (1, 2, 2, null, 4, 3, 'Congresso de cardiologia'),
    (1, 3, 5, null, 20, 14, 'Férias'),
    (2, 1, null, null, 10, 1, 'Feriado'),
    (2, 2, 4, null, 2, 2, 'Mudança de casa'),
    (2, 3, 1, null, -12, 5, 'Férias'),
    (3, 1, null, null, 10, 1, 'Feriado'),
    (3, 2, 2, null, 6, 1, 'Convenção de uma operadora')
  ) v (organization, number, professional, location, first_day, days, reason)
  join public.organizations o on o.id = pg_temp.seed_id('organization', v.organization, 0);

  -- Customers -------------------------------------------------------------------------------------------------------

  create temporary table seed_contacts on commit drop as
  select
    v.organization,
    person.number::int,
    v.area_codes[1 + person.number % 6] as area_code,
    split_part(person.entry, '|', 1) as name,
    nullif(split_part(person.entry, '|', 2), '') as profile_name,
    -- All have been customers for longer than the bookings go back, but for the last one, who came just now.
    case
      when person.number = 26 then moment - interval '20 seconds'
      else moment - make_interval(days => 64 + person.number::int * 5)
    end as created_at
  from (values
    (1, array['11', '11', '13', '92', '11', '92'], array[
      'Maria Aparecida da Conceição|Cida 🌻', 'João Batista Moraes|João Batista', 'Ana Lúcia Figueiredo|Ana Lu', 'Sebastião Queiroz|',
      'Francisca das Chagas Lima|Fran 💜', 'Luís Otávio Brandão|Luís O. Brandão', 'Patrícia Yamamoto|paty.yamamoto', 'Cícero Gonçalves|Cícero',
      'Raimunda Nonata Pinheiro|Dona Rai', 'André Luiz Caetano|André 🏃', 'Vitória Magalhães|vih', 'José Antônio Peçanha|Zé Antônio',
      'Márcia Regina Dutra|Márcia Dutra', 'Édson Carvalho|Edson', 'Sônia Maria Tavares|Sônia 🌷', 'Caio Henrique Lobato|Caio',
      'Iolanda Guimarães|Vó Iolanda 👵🏽', 'Rogério Saldanha|', 'Tainá Ribeiro do Carmo|Tainá ✨', 'Gustavo Mühlmann|Gus',
      'Letícia Araújo Simões|Lê', 'Benedito Assunção|Seu Benê', 'Priscila Andrade|Pri', 'Nádia El Khouri|Nádia',
      'Wagner Pontes|Promoções 🔥', 'Heloísa Prates|Helô']),
    (2, array['31', '31', '31', '37', '31', '32'], array[
      'Fernanda Lacerda|Fê 🐶', 'Ricardo Alencastro|Ricardo A.', 'Juliana Paes Barreto|Ju', 'Marcos Vinícius Teles|MV',
      'Adriana Coimbra|Dri Coimbra', 'Cláudio Bicalho|', 'Simone Drummond|Simone 🌵', 'Rafael Perdigão|Rafa',
      'Elisângela Nunes|Elis', 'Túlio Mascarenhas|Túlio', 'Bárbara Antunes|babi 🐾', 'Geraldo Magela Pires|Geraldinho',
      'Mônica Valadares|Mônica', 'Hugo Leonardo Sette|Hugo', 'Lívia Mourão|Lívia & Mel', 'Antônio Carlos Viana|Tonho',
      'Débora Starling|Debs', 'Fábio Junqueira|Fábio', 'Conceição Evangelista|Ceição', 'Leandro Passos|Lê Passos',
      'Aline Couto|line 🎀', 'Sérgio Renault|Sérgio', 'Ângela Maciel|Ângela', 'Pedro Henrique Lages|PH',
      'Vanderlei Moreira|Vander', 'Cecília Drumond|Ciça 🐕']),
    (3, array['81', '81', '87', '83', '81', '82'], array[
      'Camila Albuquerque|Mila', 'Eduardo Lins|Edu Lins', 'Josefa Maria da Silva|Zefinha 🙏', 'Bruno Maranhão|Bruno M.',
      'Karina Wanderley|Kari ☀️', 'Paulo Roberto Arcoverde|Paulo', 'Mariana Suassuna|Mari', 'Severino Ramos|Seu Biu',
      'Tatiane Holanda|Tati', 'Arthur Falcão|Arthur', 'Rosângela Beltrão|Rosa 🌹', 'Ítalo Menezes|Ítalo',
      'Sheila Cabral|Sheila MEI', 'Gilvan Tenório|Gil', 'Natália Buarque|Naty', 'Otoniel Batista|Otoniel',
      'Luana Pessoa|Lu Pessoa', 'Válter Coutinho|Válter', 'Inês Monteiro|Inês', 'Felipe Rego Barros|Felipe',
      'Rayssa Uchôa|ray', 'Damião Feitosa|Damião', 'Cristiane Melo|Cris Melo', 'Alexandre Gusmão|Alex',
      'Ivonete Barbosa|Ivonete', 'Anderson Queiroga|Anderson'])
  ) v (organization, area_codes, people)
  cross join unnest(v.people) with ordinality person (entry, number);

  insert into public.contacts (
    organization_id, id, phone_number, name, profile_name, email, birth_date, status, source, tags, address,
    preferred_location_id, opted_in_at, opted_out_at, created_at
  )
  select
    pg_temp.seed_id('organization', c.organization, 0), pg_temp.seed_id('contact', c.organization, c.number),
    -- One of them has kept the eight digits of before 2016 on WhatsApp.
    case
      when c.organization = 2 and c.number = 1 then '+5531987650003'
      else '+55' || c.area_code || '90000' || lpad((c.organization * 1000 + c.number)::text, 4, '0')
    end,
    c.name,
    c.profile_name,
    case when c.number % 3 = 0 then replace(private.slug_base(c.name), '-', '.') || '@exemplo.com.br' end,
    case when c.number % 4 <> 3 then date '1948-03-11' + (c.number * 1009 + c.organization * 377) % 21000 end,
    case when c.number = 25 then 'blocked' when c.number = 18 then 'inactive' else 'active' end::public.contact_status,
    (array['whatsapp', 'instagram', 'indicacao', 'google', 'site'])[1 + c.number % 5],
    coalesce(t.tags, '{}'),
    case c.organization
      when 1 then case c.area_code when '92' then '{"city": "Manaus", "state": "AM"}' else '{"city": "São Paulo", "state": "SP"}' end
      when 2 then '{"city": "Belo Horizonte", "state": "MG"}'
      else '{"city": "Recife", "state": "PE"}'
    end::jsonb,
    case when c.organization = 1 then pg_temp.seed_id('location', 1, case c.area_code when '92' then 2 else 1 end) end,
    c.created_at,
    case when c.number = 17 then moment - interval '9 days' end,
    c.created_at
  from seed_contacts c
  left join (values
    (1, 1, array['vip', 'hipertensa']), (1, 4, array['primeira consulta']), (1, 5, array['gestante']), (1, 10, array['check-up', 'empresa']),
    (1, 17, array['idosa', 'ligar em vez de escrever']), (1, 19, array['gestante', 'primeira consulta']), (1, 25, array['spam']),
    (2, 1, array['pacote de banhos']), (2, 4, array['leva e traz']), (2, 7, array['gatos']), (2, 11, array['pacote de banhos', 'vip']),
    (2, 15, array['creche']), (2, 25, array['cobrança']),
    (3, 2, array['pme']), (3, 5, array['família', 'portabilidade']), (3, 13, array['mei']), (3, 8, array['idoso', 'indicado']),
    (3, 20, array['pme', 'vip'])
  ) t (organization, number, tags) on t.organization = c.organization and t.number = c.number;

  insert into public.pets
    (organization_id, id, contact_id, name, species, breed, birth_date, weight_grams, medical_notes, created_at)
  select
    pg_temp.seed_id('organization', 2, 0), pg_temp.seed_id('pet', 2, (row_number() over ())::int),
    pg_temp.seed_id('contact', 2, v.contact), v.name, v.species, v.breed,
    (moment - make_interval(days => v.age_days))::date, v.weight, v.notes, moment - interval '63 days'
  from (values
    (1, 'Thor', 'cachorro', 'Golden Retriever', 1460, 31500, 'Alergia a frango; tem medo de secador.'),
    (1, 'Frida', 'gato', 'SRD', 900, 3800, null),
    (2, 'Mel', 'cachorro', 'Shih-tzu', 2100, 6200, null),
    (3, 'Paçoca', 'cachorro', 'Vira-lata caramelo', 1100, 14800, 'Adotada em feira; castrada.'),
    (4, 'Zeca', 'cachorro', 'Buldogue francês', 800, 12100, 'Braquicefálico: não usar focinheira nem ar quente.'),
    (5, 'Nina', 'cachorro', 'Poodle', 3900, 5400, 'Sopro cardíaco grau II.'),
    (6, 'Simba', 'gato', 'Maine Coon', 700, 7300, null),
    (7, 'Amora', 'gato', 'Siamês', 1600, 4100, 'Não gosta de outros gatos.'),
    (7, 'Jabuticaba', 'gato', 'SRD', 1600, 4500, null),
    (8, 'Bidu', 'cachorro', 'Schnauzer', 2500, 8900, null),
    (9, 'Luna', 'cachorro', 'Border Collie', 500, 15200, null),
    (10, 'Chico', 'cachorro', 'Dachshund', 3300, 7900, 'Hérnia de disco operada; levantar com apoio.'),
    (11, 'Bolinha', 'cachorro', 'Lhasa Apso', 1900, 6600, null),
    (11, 'Pipoca', 'cachorro', 'Maltês', 400, 3100, 'Falta a terceira dose da V10.'),
    (12, 'Sultão', 'cachorro', 'Pastor-alemão', 2700, 34200, null),
    (13, 'Pérola', 'gato', 'Persa', 2200, 3900, 'Pelos com nós: prefere tosa.'),
    (14, 'Rex', 'cachorro', 'SRD', 3600, 18400, null),
    (15, 'Mel', 'cachorro', 'Spitz alemão', 600, 2900, null),
    (16, 'Trovão', 'cachorro', 'Labrador', 1300, 32800, null),
    (17, 'Cacau', 'cachorro', 'Yorkshire', 1500, 3000, null),
    (18, 'Tapioca', 'gato', 'SRD', 1000, 4000, null),
    (19, 'Fubá', 'cachorro', 'Beagle', 1700, 13300, 'Come tudo o que encontra.'),
    (20, 'Olívia', 'coelho', 'Mini lop', 450, 1700, null),
    (21, 'Bartô', 'cachorro', 'Basset Hound', 2900, 24600, 'Otite de repetição: secar bem os ouvidos.'),
    (22, 'Kiko', 'cachorro', 'Pinscher', 4100, 2800, null),
    (23, 'Duda', 'cachorro', 'Cocker Spaniel', 2000, 11900, null),
    (24, 'Einstein', 'cachorro', 'Jack Russell', 950, 6900, null),
    (25, 'Brutus', 'cachorro', 'Rottweiler', 1800, 44000, null)
  ) v (contact, name, species, breed, age_days, weight, notes);

  -- Leads -----------------------------------------------------------------------------------------------------------

  insert into public.leads (
    organization_id, id, contact_id, professional_id, status, source, utm, respostas, last_interaction_at, closed_at,
    lost_reason, created_at
  )
  select
    pg_temp.seed_id('organization', v.organization, 0), pg_temp.seed_id('lead', v.organization, v.number),
    pg_temp.seed_id('contact', v.organization, v.contact), pg_temp.seed_id('professional', v.organization, v.professional),
    v.status::public.lead_status, v.source, v.utm::jsonb, v.answers::jsonb,
    moment - make_interval(days => v.days_ago) / 2 - interval '20 minutes',
    case when v.status in ('fechado', 'perdido') then moment - make_interval(days => v.days_ago) / 2 - interval '10 minutes' end,
    v.lost_reason,
    moment - make_interval(days => v.days_ago) - interval '3 hours'
  from (values
    (1, 1, 4, 1, 'novo', 0, 'site', '{"interesse": "clinica_geral", "convenio": "particular"}', '{}', null),
    (1, 2, 12, 3, 'novo', 1, 'instagram', '{"interesse": "dermatologia", "queixa": "acne"}', '{"source": "instagram", "medium": "stories", "campaign": "pele-de-verao"}', null),
    (1, 3, 10, 2, 'em_contato', 3, 'google', '{"interesse": "check_up", "empresa": "sim"}', '{"source": "google", "medium": "cpc", "campaign": "check-up-executivo"}', null),
    (1, 4, 5, 5, 'agendado', 5, 'indicacao', '{"interesse": "pre_natal", "semanas": "11"}', '{}', null),
    (1, 5, 1, 1, 'fechado', 17, 'whatsapp', '{"interesse": "clinica_geral", "convenio": "aurora"}', '{}', null),
    (1, 6, 16, 2, 'perdido', 14, 'google', '{"interesse": "cardiologia", "convenio": "outro"}', '{"source": "google", "medium": "organic"}', 'Não atendemos o convênio'),
    (1, 7, 21, 4, 'em_contato', 2, 'instagram', '{"interesse": "pediatria", "idade_crianca": "8_meses"}', '{"source": "instagram", "medium": "social", "campaign": "dia-das-criancas"}', null),
    (2, 1, 9, null, 'novo', 0, 'instagram', '{"interesse": "creche", "porte": "medio"}', '{"source": "instagram", "medium": "reels", "campaign": "creche-pet"}', null),
    (2, 2, 6, null, 'em_contato', 2, 'google', '{"interesse": "castracao", "especie": "gato"}', '{"source": "google", "medium": "maps"}', null),
    (2, 3, 20, 1, 'agendado', 4, 'whatsapp', '{"interesse": "consulta", "especie": "coelho"}', '{}', null),
    (2, 4, 11, null, 'fechado', 19, 'indicacao', '{"interesse": "pacote_banhos", "frequencia": "semanal"}', '{}', null),
    (2, 5, 24, null, 'perdido', 11, 'site', '{"interesse": "hotel", "datas": "fim_de_ano"}', '{"source": "site"}', 'Procurava hospedagem, que não temos'),
    (2, 6, 14, null, 'novo', 1, 'whatsapp', '{"interesse": "banho", "porte": "grande"}', '{}', null),
    (3, 1, 1, 1, 'novo', 0, 'instagram', '{"perfil": "familia", "idade": "31_45", "copart": "nao", "vidas": 4}', '{"source": "instagram", "medium": "cpc", "campaign": "familia-protegida"}', null),
    (3, 2, 10, 1, 'novo', 0, 'site', '{"perfil": "individual", "idade": "19_30", "copart": "sim"}', '{"source": "site", "medium": "organic"}', null),
    (3, 3, 17, 1, 'novo', 1, 'google', '{"perfil": "casal", "idade": "31_45", "copart": "sim"}', '{"source": "google", "medium": "cpc", "campaign": "plano-saude-recife"}', null),
    (3, 4, 21, 2, 'novo', 2, 'instagram', '{"perfil": "individual", "idade": "19_30", "copart": "nao"}', '{"source": "instagram", "medium": "stories"}', null),
    (3, 5, 5, 1, 'em_contato', 3, 'indicacao', '{"perfil": "familia", "idade": "31_45", "copart": "nao", "plano_atual": "sim"}', '{}', null),
    (3, 6, 13, 2, 'em_contato', 2, 'google', '{"perfil": "mei", "idade": "31_45", "copart": "sim", "vidas": 2}', '{"source": "google", "medium": "cpc", "campaign": "plano-mei"}', null),
    (3, 7, 15, 1, 'em_contato', 6, 'whatsapp', '{"perfil": "familia", "idade": "46_58", "copart": "nao"}', '{}', null),
    (3, 8, 9, 1, 'em_contato', 4, 'instagram', '{"perfil": "gestante", "idade": "19_30", "copart": "nao"}', '{"source": "instagram", "medium": "social"}', null),
    (3, 9, 2, 2, 'agendado', 5, 'site', '{"perfil": "empresa", "vidas": 12, "copart": "sim"}', '{"source": "linkedin", "medium": "social", "campaign": "pme"}', null),
    (3, 10, 8, 1, 'agendado', 7, 'indicacao', '{"perfil": "idoso", "idade": "59_mais", "copart": "nao"}', '{}', null),
    (3, 11, 20, 2, 'agendado', 8, 'google', '{"perfil": "empresa", "vidas": 27, "copart": "nao"}', '{"source": "google", "medium": "organic"}', null),
    (3, 12, 4, 1, 'fechado', 18, 'indicacao', '{"perfil": "casal", "idade": "46_58", "copart": "sim"}', '{}', null),
    (3, 13, 7, 1, 'fechado', 25, 'whatsapp', '{"perfil": "familia", "idade": "31_45", "copart": "sim", "vidas": 3}', '{}', null),
    (3, 14, 12, 2, 'fechado', 40, 'google', '{"perfil": "empresa", "vidas": 5, "copart": "sim"}', '{"source": "google", "medium": "cpc", "campaign": "pme"}', null),
    (3, 15, 6, 1, 'perdido', 15, 'instagram', '{"perfil": "individual", "idade": "31_45", "copart": "nao"}', '{"source": "instagram"}', 'Achou o valor alto'),
    (3, 16, 18, 2, 'perdido', 22, 'site', '{"perfil": "mei", "idade": "46_58"}', '{"source": "site"}', 'Fechou com outra corretora'),
    (3, 17, 24, 1, 'perdido', 33, 'whatsapp', '{"perfil": "familia", "idade": "31_45"}', '{}', 'Parou de responder')
  ) v (organization, number, contact, professional, status, days_ago, source, answers, utm, lost_reason);

  -- Who asked in the two months before, and what became of it: a second interest of people who are known.
  insert into public.leads (
    organization_id, id, contact_id, professional_id, status, source, last_interaction_at, closed_at, lost_reason, created_at
  )
  select
    n.organization_id, pg_temp.seed_id('lead', n.organization, 100 + n.number), n.contact_id, n.professional_id, n.status,
    n.source, n.created_at + interval '2 days', n.created_at + interval '2 days',
    case n.status when 'perdido' then (array[
      'Parou de responder', 'Achou o valor alto', 'Fechou com outra empresa', 'Mora longe'
    ])[1 + n.number % 4] end,
    n.created_at
  from (
    select
      free.organization, free.organization_id, free.contact_id, free.professional_id, free.number,
      case when free.number * 5 % 9 < 4 then 'fechado' else 'perdido' end::public.lead_status as status,
      (array['whatsapp', 'instagram', 'indicacao', 'google', 'site'])[1 + free.number * 3 % 5] as source,
      -- The longer ago, the fewer.
      moment - make_interval(days => 3 + free.number * (25 + free.number) / v.thinness, hours => free.number * 7 % 9) as created_at
    from (values (1, 26, 32), (2, 22, 22), (3, 30, 38)) v (organization, count, thinness)
    cross join lateral (
      select
        v.organization, c.organization_id, c.id as contact_id, r.id as professional_id,
        row_number() over (order by c.id, r.id)::int as number
      from public.contacts c
      join public.professionals r
        on r.organization_id = c.organization_id
        and (c.preferred_location_id is null or r.location_id = c.preferred_location_id)
      where c.organization_id = pg_temp.seed_id('organization', v.organization, 0)
        and c.status = 'active'
        and c.created_at < moment - interval '1 day'
        and not exists (select from public.leads l where l.organization_id = c.organization_id and l.contact_id = c.id)
    ) free
    where free.number <= v.count
  ) n
  order by n.organization, n.number desc;

  -- And who has just asked.
  insert into public.leads (organization_id, id, contact_id, source, respostas, last_interaction_at, created_at)
  select
    c.organization_id, pg_temp.seed_id('lead', v.organization, 99), c.id, v.source, v.answers::jsonb, c.created_at, c.created_at
  from (values
    (1, 'site', '{"interesse": "check_up", "convenio": "particular"}'),
    (2, 'instagram', '{"interesse": "banho", "porte": "pequeno"}'),
    (3, 'site', '{"perfil": "casal", "idade": "19_30", "copart": "sim"}')
  ) v (organization, source, answers)
  join public.contacts c
    on c.organization_id = pg_temp.seed_id('organization', v.organization, 0)
    and c.id = pg_temp.seed_id('contact', v.organization, 26);

  -- Conversations ---------------------------------------------------------------------------------------------------
  -- The numbers are not connected, and so nothing can leave through them.

  insert into public.whatsapp_instances
    (organization_id, id, provider, name, phone_number, external_id, status, last_seen_at, created_at)
  select
    pg_temp.seed_id('organization', v.organization, 0), pg_temp.seed_id('instance', v.organization, v.number),
    v.provider::public.whatsapp_provider, v.name, v.phone, v.external_id, v.status::public.instance_status,
    moment - interval '30 minutes', moment - interval '8 months'
  from (values
    (1, 1, 'evolution', 'Recepção', '+5511900001900', 'demo-clinica-recepcao', 'disconnected'),
    (1, 2, 'evolution', 'Recepção Manaus', '+5592900001903', 'demo-clinica-manaus', 'connecting'),
    (2, 1, 'zapi', 'Loja', '+5531900002900', 'demo-petshop-loja', 'disconnected'),
    (3, 1, 'evolution', 'Atendimento', '+5581900003900', 'demo-consultoria', 'disconnected')
  ) v (organization, number, provider, name, phone, external_id, status);

  create temporary table seed_conversations on commit drop as
  select v.*, pg_temp.seed_id('conversation', v.organization, v.number) as id
  from (values
    (1, 1, 1, 1, 'active', 'normal', null, null::int),
    (1, 2, 1, 12, 'active', 'normal', null, null),
    (1, 3, 2, 17, 'waiting_human', 'high', 'Pediu para falar com uma pessoa', null),
    (1, 4, 2, 5, 'active', 'normal', null, null),
    (1, 5, 2, 3, 'closed', 'normal', null, 5),
    (1, 6, 1, 16, 'closed', 'normal', null, 3),
    (2, 1, 1, 1, 'active', 'normal', null, null),
    (2, 2, 1, 4, 'waiting_human', 'urgent', 'Urgência veterinária', null),
    (2, 3, 1, 7, 'active', 'normal', null, null),
    (2, 4, 1, 20, 'active', 'normal', null, null),
    (2, 5, 1, 11, 'closed', 'normal', null, 5),
    (2, 6, 1, 24, 'closed', 'low', null, null),
    (3, 1, 1, 1, 'active', 'normal', null, null),
    (3, 2, 1, 2, 'active', 'high', null, null),
    (3, 3, 1, 5, 'waiting_human', 'normal', 'Dúvida sobre o contrato atual', null),
    (3, 4, 1, 13, 'active', 'normal', null, null),
    (3, 5, 1, 7, 'closed', 'normal', null, 5),
    (3, 6, 1, 6, 'closed', 'normal', null, null)
  ) v (organization, number, instance, contact, status, priority, escalation, score);

  create temporary table seed_messages on commit drop as
  select
    v.organization, v.conversation, v.sender, v.status, v.content, v.number,
    -- Whoever is no human being answers within seconds.
    case
      when v.sender in ('ai', 'bot') then
        moment - make_interval(mins => lag(v.minutes_ago) over (partition by v.organization, v.conversation order by v.number))
          + make_interval(secs => 3 + v.number * 7 % 6)
      else moment - make_interval(mins => v.minutes_ago)
    end as at
  from (select v.*, row_number() over () as number from (values
    (1, 1, 190, 'contact', null, 'Oi, bom dia! Aqui é a Cida. Meu exame de colesterol ficou pronto?'),
    (1, 1, 188, 'ai', 'read', 'Bom dia, Cida! 🌻 Ficou, sim. Quer que eu marque o retorno com a Dra. Helena para ela ver com você?'),
    (1, 1, 171, 'contact', null, 'Quero sim, de preferência de manhã cedo'),
    (1, 1, 170, 'ai', 'read', 'Tenho 8h e 8h30 nos próximos dias. Qual fica melhor?'),
    (1, 1, 41, 'contact', null, '8h30 tá ótimo. E precisa levar o pedido de novo?'),
    (1, 2, 64, 'contact', null, 'Vcs atendem dermatologia no sábado?'),
    (1, 2, 63, 'ai', 'delivered', 'Atendemos! A Dra. Beatriz atende aos sábados, das 9h às 13h. A consulta é R$ 380,00.'),
    (1, 2, 22, 'contact', null, 'hmm e no cartão parcela?'),
    (1, 2, 21, 'ai', 'sent', 'Parcela, sim: em até 3 vezes sem juros. Quer que eu reserve um horário?'),
    (1, 3, 95, 'contact', null, 'Minha filha, eu não sei mexer nisso direito'),
    (1, 3, 94, 'ai', 'read', 'Sem problema, dona Iolanda! Pode escrever do seu jeito. A senhora quer marcar ou desmarcar uma consulta?'),
    (1, 3, 90, 'contact', null, 'Eu quero falar com uma pessoa. A pressão está alta de novo 😟'),
    (1, 3, 89, 'ai', 'read', 'Já estou chamando alguém da equipe. Se sentir dor no peito ou falta de ar, ligue 192 agora, por favor.'),
    (1, 3, 12, 'contact', null, 'Estou esperando viu'),
    (1, 4, 1490, 'contact', null, 'Boa tarde! Posso levar meu marido na consulta do pré-natal?'),
    (1, 4, 1470, 'human', 'read', 'Boa tarde, Francisca! Pode e deve 💜 A Dra. Iracema adora quando vem a família.'),
    (1, 4, 1465, 'contact', null, 'Que bom!! Até lá então'),
    (1, 4, 1464, 'human', 'read', 'Até! Chegue uns 10 minutinhos antes para a pesagem.'),
    (1, 5, 8700, 'contact', null, 'Oi, preciso do atestado da consulta do meu filho'),
    (1, 5, 8640, 'human', 'read', 'Oi, Ana! O Dr. Thiago já assinou. Posso deixar na recepção ou mandar por e-mail?'),
    (1, 5, 8630, 'contact', null, 'Por e-mail, por favor 🙏'),
    (1, 5, 8600, 'human', 'read', 'Enviado! Qualquer coisa, é só chamar.'),
    (1, 6, 20300, 'contact', null, 'Aceitam o convênio Boa Saúde?'),
    (1, 6, 20299, 'ai', 'read', 'Ainda não, Caio. Atendemos Convênio Aurora, Saúde Integrada e particular.'),
    (1, 6, 20280, 'contact', null, 'Ah, que pena. Obrigado!'),
    (2, 1, 130, 'contact', null, 'Oiii, tem horário de banho pro Thor amanhã? 🐶'),
    (2, 1, 129, 'ai', 'read', 'Oi, Fê! Tem, sim: amanhã cedo ainda há vaga. O Thor continua com medo do secador? Posso pedir para secarem na toalha.'),
    (2, 1, 118, 'contact', null, 'Continua kkkk pode ser na toalha'),
    (2, 1, 33, 'contact', null, 'E dá pra cortar as unhas junto?'),
    (2, 2, 27, 'contact', null, 'Gente o Zeca tá respirando muito ruim, barriga pra dentro 😰'),
    (2, 2, 26, 'ai', 'read', 'Isso é urgente, Marcos. Estou chamando a equipe agora. Mantenha o Zeca em lugar fresco e não dê água à força.'),
    (2, 2, 25, 'contact', null, 'Posso levar aí agora?'),
    (2, 2, 24, 'contact', null, 'Moro a 5 minutos'),
    (2, 3, 1600, 'contact', null, 'As meninas precisam das vacinas do ano. Dá pra ser as duas no mesmo dia?'),
    (2, 3, 1570, 'human', 'read', 'Dá sim, Simone! 🐱🐱 Faço 10% na segunda. De manhã é mais calmo para gatos.'),
    (2, 3, 1540, 'contact', null, 'Perfeito, vou ver minha agenda e te falo'),
    (2, 4, 300, 'contact', null, 'Boa tarde, vocês atendem coelho?'),
    (2, 4, 295, 'ai', 'read', 'Boa tarde, Leandro! A Dra. Camila atende, sim. É para consulta de rotina?'),
    (2, 4, 280, 'contact', null, 'A Olívia parou de comer feno desde ontem'),
    (2, 4, 276, 'human', 'failed', 'Leandro, coelho sem comer não pode esperar. Consegue trazer a Olívia hoje?'),
    (2, 4, 262, 'human', 'read', 'Leandro, coelho sem comer não pode esperar. Consegue trazer a Olívia hoje?'),
    (2, 5, 11700, 'contact', null, 'Quero renovar o pacote de banhos das duas'),
    (2, 5, 11660, 'human', 'read', 'Renovado, Bárbara! São 4 banhos de cada uma. O Pix é o CNPJ da loja.'),
    (2, 5, 11640, 'contact', null, 'Pago ✅'),
    (2, 5, 11630, 'human', 'read', 'Recebido, obrigada! 🐾'),
    (2, 6, 15900, 'contact', null, 'Tem hotelzinho pro fim do ano?'),
    (2, 6, 15899, 'ai', 'read', 'Hospedagem ainda não temos, Pedro. Durante o dia, a creche funciona até as 19h.'),
    (2, 6, 15880, 'contact', null, 'ok'),
    (3, 1, 75, 'contact', null, 'Olá! Vi o anúncio. Quanto fica um plano pra família?'),
    (3, 1, 74, 'bot', 'read', 'Oi, Camila! 👋 Para comparar direitinho: quantas pessoas e quais as idades?'),
    (3, 1, 71, 'contact', null, 'Eu 38, marido 41, filhos 9 e 4'),
    (3, 1, 70, 'bot', 'read', 'Com ou sem coparticipação?'),
    (3, 1, 8, 'contact', null, 'Sem. E tem que ter o hospital infantil aqui de Recife'),
    (3, 2, 400, 'contact', null, 'Bom dia, somos 12 funcionários. Preciso de proposta até o fim do mês.'),
    (3, 2, 380, 'human', 'read', 'Bom dia, Eduardo! Consigo três operadoras. Me manda a planilha com as idades e o CNPJ?'),
    (3, 2, 200, 'contact', null, 'Segue no e-mail'),
    (3, 2, 185, 'human', 'delivered', 'Recebi! Levo a comparação pronta para a nossa reunião.'),
    (3, 3, 210, 'contact', null, 'Tenho plano desde 2021. Se eu trocar perco a carência?'),
    (3, 3, 209, 'bot', 'read', 'Na maioria dos casos, não: existe a portabilidade. Posso chamar a Renata para olhar o seu contrato?'),
    (3, 3, 150, 'contact', null, 'Pode. O contrato é de adesão, não sei se muda alguma coisa'),
    (3, 4, 2900, 'contact', null, 'MEI pode contratar plano empresarial?'),
    (3, 4, 2899, 'bot', 'read', 'Pode, com 6 meses de CNPJ ativo. O seu já tem?'),
    (3, 4, 2870, 'contact', null, 'Tem 2 anos'),
    (3, 4, 2850, 'human', 'read', 'Ótimo, Sheila! Para duas vidas com coparticipação preparo a simulação ainda hoje.'),
    (3, 5, 35000, 'contact', null, 'Renata, chegou a carteirinha! Obrigada por tudo 💙'),
    (3, 5, 34980, 'human', 'read', 'Que alegria, Mariana! Qualquer dúvida de uso, pode me chamar sempre.'),
    (3, 6, 21000, 'contact', null, 'Achei caro, vou deixar pra depois'),
    (3, 6, 20990, 'human', 'read', 'Entendo, Paulo. Se quiser, comparo uma opção regional, que costuma sair 20% a menos.')
  ) v (organization, conversation, minutes_ago, sender, status, content)) v;

  insert into public.conversations (
    organization_id, id, contact_id, instance_id, whatsapp_chat_id, status, priority, is_bot_controlled, control_epoch,
    location_id, escalated_at, escalation_reason, closed_at, satisfaction_score, last_message_at, created_at
  )
  select
    pg_temp.seed_id('organization', v.organization, 0), v.id, c.id,
    pg_temp.seed_id('instance', v.organization, v.instance),
    case c.phone_number when '+5531987650003' then '553187650003' else substr(c.phone_number, 2) end || '@s.whatsapp.net',
    v.status::public.conversation_status, v.priority::public.conversation_priority,
    v.status = 'active' and not m.is_human, case when v.status <> 'active' or m.is_human then 1 else 0 end,
    case when v.organization = 1 then pg_temp.seed_id('location', 1, v.instance) end,
    case when v.escalation is not null then m.escalated_at end, v.escalation,
    case when v.status = 'closed' then m.last_at + interval '2 hours' end, v.score, m.first_at, m.first_at
  from seed_conversations v
  join public.contacts c
    on c.organization_id = pg_temp.seed_id('organization', v.organization, 0)
    and c.id = pg_temp.seed_id('contact', v.organization, v.contact)
  cross join lateral (
    select
      min(s.at) as first_at,
      max(s.at) as last_at,
      max(s.at) filter (where s.sender <> 'contact') as escalated_at,
      bool_or(s.sender = 'human') as is_human
    from seed_messages s
    where s.organization = v.organization and s.conversation = v.number
  ) m;

  insert into public.contact_identities (organization_id, contact_id, instance_id, kind, value, created_at)
  select v.organization_id, v.contact_id, v.instance_id, 'jid', v.whatsapp_chat_id, v.created_at
  from public.conversations v
  join seed_conversations s on s.id = v.id;

  insert into public.messages (
    organization_id, id, conversation_id, contact_id, instance_id, direction, sender, content, whatsapp_message_id, status,
    error_code, error_message, sent_at, delivered_at, read_at, failed_at, created_at
  )
  select
    v.organization_id, private.uuid_v7(m.at + make_interval(secs => m.number * 0.001)), v.id, v.contact_id, v.instance_id,
    case m.sender when 'contact' then 'inbound' else 'outbound' end::public.message_direction,
    m.sender::public.message_sender,
    m.content,
    case when m.status is distinct from 'failed' then '3EB0' || upper(left(md5('seed ' || m.number), 18)) end,
    coalesce(m.status, 'received')::public.message_status,
    case m.status when 'failed' then 'timeout' end,
    case m.status when 'failed' then 'O provedor não respondeu' end,
    case when m.status is distinct from 'failed' then m.at end,
    case when m.status in ('delivered', 'read') then m.at + interval '2 seconds' end,
    case when m.status = 'read' then m.at + interval '50 seconds' end,
    case when m.status = 'failed' then m.at end,
    m.at + make_interval(secs => m.number * 0.001)
  from seed_messages m
  join public.conversations v
    on v.organization_id = pg_temp.seed_id('organization', m.organization, 0)
    and v.id = pg_temp.seed_id('conversation', m.organization, m.conversation)
  order by m.at, m.number;

  -- What has been answered has been read.
  update public.conversations v
  set unread_count = (
    select count(*)
    from public.messages m
    where m.conversation_id = v.id
      and m.sender = 'contact'
      and not exists (
        select from public.messages a where a.conversation_id = v.id and a.direction = 'outbound' and a.id > m.id
      )
      and v.status <> 'closed'
  )
  from seed_conversations s
  where v.id = s.id;

  -- What was asked in the two months before, a few times a day. Most of it nobody had to see to, and more so of late.
  create temporary table seed_topics on commit drop as
  select v.*, row_number() over (partition by v.organization) - 1 as number, count(*) over (partition by v.organization) as topics
  from (values
    (1, 'Bom dia, quais convênios vocês atendem?', 'Bom dia! Convênio Aurora, Saúde Integrada e particular. 😊', 'É o Aurora', 'Perfeito, o Aurora cobre a consulta inteira. É só trazer a carteirinha.'),
    (1, 'Quanto custa a consulta com cardiologista?', 'R$ 420,00, com a leitura do eletrocardiograma incluída.', 'E o eletro separado?', 'R$ 150,00, com laudo em até 24 horas.'),
    (1, 'Precisa de jejum para o exame de sangue?', 'Para glicemia e colesterol, de 8 a 12 horas. Água pode.', 'E o remédio da pressão, tomo?', 'Pode tomar normalmente, com um pouco de água.'),
    (1, 'Vocês têm estacionamento?', 'Em São Paulo há convênio com o estacionamento ao lado; em Manaus é gratuito.', 'É o de São Paulo', 'Então é só validar o tíquete na recepção.'),
    (1, 'Queria remarcar minha consulta', 'Claro! Qual período fica melhor?', 'De manhã', 'Tenho 9h na quinta e 8h30 na sexta. Já deixei a quinta reservada; é só confirmar.'),
    (2, 'Qual o valor do banho para porte pequeno?', 'A partir de R$ 70,00, com limpeza de ouvidos e perfume opcional.', 'Tem pacote?', 'Tem: quatro banhos com 10% de desconto. 🐶'),
    (2, 'Vocês atendem gato?', 'Sim! 🐱 Em salas separadas dos cães, de preferência pela manhã.', 'E tosa?', 'Também, com a Jéssica, de terça a sábado.'),
    (2, 'Qual vacina o filhote precisa?', 'Três doses da polivalente e uma de raiva. Qual a idade dele?', '60 dias', 'Então já pode começar! A consulta da vacina é R$ 120,00 com exame clínico.'),
    (2, 'Fazem leva e traz?', 'Fazemos na Savassi, Funcionários e Lourdes, por R$ 25,00.', 'Moro no Lourdes', 'Ótimo, é só escolher o horário do banho que a gente busca.'),
    (3, 'Oi, quero trocar de plano e não perder a carência', 'Dá, sim, na maioria dos casos: é a portabilidade. Há quanto tempo tem o atual?', '3 anos', 'Então atende o prazo mínimo. Posso marcar uma análise sem custo.'),
    (3, 'Qual a diferença da coparticipação?', 'A mensalidade fica menor e você paga uma parte de cada consulta ou exame.', 'Compensa para quem usa pouco?', 'Costuma compensar até umas seis consultas por ano.'),
    (3, 'Quanto fica para um casal de 30 anos?', 'Em Recife, a partir de R$ 780,00 os dois, com coparticipação.', 'E sem?', 'A partir de R$ 940,00. Mando a comparação completa depois de uma conversa curta.'),
    (3, 'MEI consegue desconto?', 'Consegue: com 6 meses de CNPJ o plano empresarial sai até 30% mais barato.', 'Tenho 2 anos', 'Então já pode contratar. Qual a idade de cada pessoa?')
  ) v (organization, question, answer, reply, ending);

  create temporary table seed_past on commit drop as
  with customer as (
    select
      n.organization, c.id as contact_id, row_number() over (partition by n.organization order by c.id) - 1 as position,
      count(*) over (partition by n.organization) as customers,
      case when n.organization = 1 and c.preferred_location_id = pg_temp.seed_id('location', 1, 2) then 2 else 1 end as instance
    from generate_series(1, 3) n (organization)
    join public.contacts c on c.organization_id = pg_temp.seed_id('organization', n.organization, 0)
    where c.status = 'active'
      and c.created_at < moment - interval '1 day'
      and not exists (
        select from public.conversations v where v.organization_id = c.organization_id and v.contact_id = c.id
      )
  ), turn as (
    select
      n.organization, day.ago, turn.turn, o.timezone, row_number() over (partition by n.organization order by day.ago, turn.turn)::int as number
    from generate_series(1, 3) n (organization)
    join public.organizations o on o.id = pg_temp.seed_id('organization', n.organization, 0)
    cross join generate_series(0, 60) day (ago)
    cross join generate_series(0, 9) turn (turn)
    -- From two to six a day, most on a Monday, one on a Sunday; today so far.
    where turn.turn < case extract(dow from (moment at time zone o.timezone)::date - day.ago)
        when 0 then 1
        when 6 then 2
        else 7 - extract(dow from (moment at time zone o.timezone)::date - day.ago)
      end + (day.ago * 5 + n.organization) % 3 - 1 + (60 - day.ago) / 30
  )
  select
    t.organization, t.number, c.contact_id, c.instance, s.question, s.answer, s.reply, s.ending, begins.at,
    t.number * 13 % 100 < 14 + t.ago / 3 as is_escalated
  from turn t
  join customer c on c.organization = t.organization and c.position = t.number * 5 % c.customers
  join seed_topics s on s.organization = t.organization and s.number = t.number % s.topics
  cross join lateral (
    select case t.ago
      when 0 then moment - make_interval(mins => 50 * (t.turn + 1))
      else ((moment at time zone t.timezone)::date - t.ago + time '08:00'
        + make_interval(mins => t.turn * 75 + (t.ago * 37 + t.organization * 53) % 70, secs => t.number * 17 % 60)) at time zone t.timezone
    end as at
  ) begins
  where (begins.at at time zone t.timezone)::date = (moment at time zone t.timezone)::date - t.ago;

  create temporary table seed_past_messages on commit drop as
  select
    p.organization, p.number as conversation, m.sender, m.content,
    p.at + make_interval(secs => m.after) as at, row_number() over (order by p.organization, p.at, m.after)::int as number
  from seed_past p
  cross join lateral (
    select v.after::float, v.sender, v.content
    from (values
      (0, 'contact', p.question),
      (3 + p.number * 7 % 6, 'ai', p.answer),
      (70 + p.number * 41 % 200, 'contact', p.reply),
      (73 + p.number * 41 % 200 + p.number * 11 % 7, 'ai', case when p.is_escalated then 'Vou chamar alguém da equipe para ver isso com você.' else p.ending end),
      (case when p.is_escalated then 300 + p.number * 41 % 200 end, 'contact', 'Certo, eu espero.'),
      (case when p.is_escalated then 560 + p.number * 97 % 1900 end, 'human', p.ending)
    ) v (after, sender, content)
    where v.after is not null
  ) m;

  insert into public.conversations (
    organization_id, id, contact_id, instance_id, whatsapp_chat_id, status, is_bot_controlled, control_epoch, location_id,
    escalated_at, escalation_reason, closed_at, satisfaction_score, last_message_at, created_at
  )
  select
    c.organization_id, pg_temp.seed_id('conversation', p.organization, 100 + p.number), c.id,
    pg_temp.seed_id('instance', p.organization, p.instance), substr(c.phone_number, 2) || '@s.whatsapp.net', 'closed', false, 1,
    c.preferred_location_id, case when p.is_escalated then m.last_ai_at end,
    case when p.is_escalated then 'Pediu para falar com uma pessoa' end, m.last_at + interval '5 minutes',
    case when p.number % 3 = 0 then case when p.is_escalated then 3 else 4 end + p.number % 2 end, p.at, p.at
  from seed_past p
  join public.contacts c
    on c.organization_id = pg_temp.seed_id('organization', p.organization, 0) and c.id = p.contact_id
  cross join lateral (
    select max(m.at) as last_at, max(m.at) filter (where m.sender = 'ai') as last_ai_at
    from seed_past_messages m
    where m.organization = p.organization and m.conversation = p.number
  ) m;

  insert into public.contact_identities (organization_id, contact_id, instance_id, kind, value, created_at)
  select distinct on (v.organization_id, v.contact_id) v.organization_id, v.contact_id, v.instance_id, 'jid', v.whatsapp_chat_id, v.created_at
  from public.conversations v
  join seed_past p on v.id = pg_temp.seed_id('conversation', p.organization, 100 + p.number)
  order by v.organization_id, v.contact_id, v.created_at;

  insert into public.messages (
    organization_id, id, conversation_id, contact_id, instance_id, direction, sender, content, whatsapp_message_id, status,
    sent_at, delivered_at, read_at, created_at
  )
  select
    v.organization_id, private.uuid_v7(m.at), v.id, v.contact_id, v.instance_id,
    case m.sender when 'contact' then 'inbound' else 'outbound' end::public.message_direction, m.sender::public.message_sender,
    m.content, '3EB0' || upper(left(md5('seed past ' || m.number), 18)),
    case m.sender when 'contact' then 'received' else 'read' end::public.message_status, m.at,
    case when m.sender <> 'contact' then m.at + interval '2 seconds' end,
    case when m.sender <> 'contact' then m.at + interval '40 seconds' end, m.at
  from seed_past_messages m
  join public.conversations v
    on v.organization_id = pg_temp.seed_id('organization', m.organization, 0)
    and v.id = pg_temp.seed_id('conversation', m.organization, 100 + m.conversation)
  order by m.at, m.number;

  update public.conversations v
  set unread_count = 0
  from seed_past p
  where v.organization_id = pg_temp.seed_id('organization', p.organization, 0)
    and v.id = pg_temp.seed_id('conversation', p.organization, 100 + p.number);

  -- What the AI said, it was asked for: with its confidence, its time and its cost.
  insert into public.ai_interactions (
    organization_id, id, conversation_id, lead_id, message_id, action_type, prompt, response, model, tokens_used, latency_ms,
    confidence_score, was_cached, compliance_check_passed, success, created_at
  )
  select
    a.organization_id, private.uuid_v7(a.created_at), a.conversation_id,
    (
      select l.id
      from public.leads l
      where l.organization_id = a.organization_id and l.contact_id = a.contact_id and l.created_at <= a.created_at
      order by l.created_at desc, l.id
      limit 1
    ),
    a.id, case when a.is_handover then 'hand_over' else 'reply' end, a.prompt, a.content, 'demo',
    420 + length(a.content) * 3, 1400 + (a.number * 311 % 2900)::int,
    case when a.is_handover then 0.30 + a.number * 7 % 20 / 100.0 else 0.78 + a.number * 11 % 21 / 100.0 end,
    a.number % 9 = 0, true, true, a.created_at
  from (
    select
      m.*, lag(m.content) over (partition by m.conversation_id order by m.id) as prompt,
      row_number() over (order by m.id) as number,
      v.escalated_at is not null and m.created_at >= v.escalated_at - interval '1 second' as is_handover
    from public.messages m
    join public.conversations v on v.organization_id = m.organization_id and v.id = m.conversation_id
    where m.organization_id in (
      pg_temp.seed_id('organization', 1, 0), pg_temp.seed_id('organization', 2, 0), pg_temp.seed_id('organization', 3, 0))
  ) a
  where a.sender = 'ai'
  order by a.id;

  -- Bookings --------------------------------------------------------------------------------------------------------
  -- Each block of hours is cut into cells that the longest of the professional's services fits into, buffer included: so
  -- nothing overlaps and nothing reaches past the hours, whatever day it is. Some of the cells are taken.

  create temporary table seed_slots on commit drop as
  with place as (
    select v.organization, o.id as organization_id, o.timezone, s.operating_hours
    from generate_series(1, 3) v (organization)
    join public.organizations o on o.id = pg_temp.seed_id('organization', v.organization, 0)
    join public.organization_settings s on s.organization_id = o.id
  ), block as (
    -- The hours of the professionals …
    select
      p.organization, p.organization_id, coalesce(l.timezone, p.timezone) as timezone, r.location_id,
      r.id as professional_id, h.weekday::int, h.starts_at, h.ends_at, g.services, g.cell_minutes, 1 as seats,
      row_number() over (partition by p.organization order by r.id)::int as rhythm
    from place p
    join public.professionals r on r.organization_id = p.organization_id
    left join public.locations l on l.organization_id = r.organization_id and l.id = r.location_id
    join public.working_hours h on h.organization_id = r.organization_id and h.professional_id = r.id
    cross join lateral (
      select
        array_agg(s.id order by s.id) as services,
        (ceil(max(s.duration_minutes + s.buffer_minutes) / 30.0) * 30)::int as cell_minutes
      from public.professional_services ps
      join public.services s on s.organization_id = ps.organization_id and s.id = ps.service_id
      where ps.organization_id = r.organization_id and ps.professional_id = r.id
    ) g
    union all
    -- … and of the places, for what nobody is named for.
    select
      p.organization, p.organization_id, coalesce(l.timezone, p.timezone), l.id, null, d.weekday::int - 1,
      (h.value ->> 'starts_at')::time, (h.value ->> 'ends_at')::time, array[s.id], s.duration_minutes + s.buffer_minutes,
      s.capacity, 7
    from place p
    join public.locations l on l.organization_id = p.organization_id
    join public.services s on s.organization_id = p.organization_id
    cross join unnest(array['sunday', 'monday', 'tuesday', 'wednesday', 'thursday', 'friday', 'saturday'])
      with ordinality as d (name, weekday)
    cross join lateral jsonb_array_elements(coalesce(l.operating_hours, p.operating_hours) -> d.name) h (value)
    where not exists (
      select from public.professional_services ps where ps.organization_id = s.organization_id and ps.service_id = s.id
    )
  ), cell as (
    select
      b.*, seat.seat, step.cell, day.day,
      ((moment at time zone b.timezone)::date + day.day + b.starts_at
        + make_interval(mins => step.cell * b.cell_minutes)) at time zone b.timezone as starts
    from block b
    cross join generate_series(-62, 13) day (day)
    cross join lateral generate_series(
      0, (extract(epoch from b.ends_at - b.starts_at) / 60 / b.cell_minutes)::numeric::int) step (cell)
    cross join generate_series(1, b.seats) seat (seat)
    where b.weekday = extract(dow from (moment at time zone b.timezone)::date + day.day)
      and (step.cell + 1) * b.cell_minutes <= extract(epoch from b.ends_at - b.starts_at) / 60
  )
  select
    c.organization, c.organization_id, c.professional_id, c.location_id, c.timezone, c.day, c.starts,
    -- What somebody does first is asked for most.
    s.id as service_id,
    c.starts + make_interval(mins => s.duration_minutes) as ends, s.price_cents, s.requires_pet, null::text as status,
    row_number() over (partition by c.organization order by c.starts, c.professional_id, c.seat)::int as number
  from cell c
  join public.services s
    on s.organization_id = c.organization_id and s.id = c.services[1 + (c.day + 63 + c.cell + c.rhythm) % (cardinality(c.services) + 1) % cardinality(c.services)]
  where
    case
      -- Places are busy in the morning.
      when c.seats > 1 and c.cell > 5 then false
      -- Today is busy, and full at times; further ahead there is more and more room.
      when c.day = 0 then c.cell = 0 or (c.cell + c.seat + c.rhythm) % 3 <> 0
      else ((c.day + 63) * (c.cell + 3) + c.cell * 4 + c.rhythm * 5 + c.seat * 3) % 11
        < case
          when c.day between -14 and -1 then 6
          when c.day < 0 then 5
          when c.day between 1 and 6 then 3
          else 1
        end - case when c.seats > 1 then case when c.day < 0 then 3 else 1 end else 0 end
    end
    and not exists (
      select
      from public.time_off t
      where t.organization_id = c.organization_id
        and (t.professional_id is null or t.professional_id = c.professional_id)
        and t.starts_at < c.starts + make_interval(mins => c.cell_minutes)
        and t.ends_at > c.starts
    );

  update seed_slots s
  set status = case
    when s.ends <= moment then case when n.nth % 9 = 4 then 'no_show' when n.nth % 7 = 3 then 'cancelled' else 'completed' end
    when s.starts <= moment then 'confirmed'
    -- Somebody is choosing right now.
    when n.nth = 2 then 'hold'
    when n.nth % 11 = 5 then 'cancelled'
    when n.nth % 3 = 0 then 'confirmed'
    else 'scheduled'
  end
  from (
    select a.organization, a.number, row_number() over (
      partition by a.organization, a.ends <= moment, a.starts <= moment order by a.day > 0 desc, a.number
    ) as nth
    from seed_slots a
  ) n
  where n.organization = s.organization and n.number = s.number;

  insert into public.bookings (
    organization_id, id, contact_id, pet_id, service_id, professional_id, location_id, start_time, end_time, status,
    hold_expires_at, created_by, price_cents, notes, confirmed_at, confirmed_by, confirmation_method, cancelled_at,
    cancellation_reason, completed_at, rescheduled_count, original_start_time, created_at
  )
  select
    s.organization_id, pg_temp.seed_id('booking', s.organization, s.number), customer.id,
    case when s.organization = 2 then customer.pets[1 + s.number % cardinality(customer.pets)] end,
    s.service_id, s.professional_id, s.location_id, s.starts, s.ends, s.status::public.booking_status,
    case when s.status = 'hold' then moment + interval '30 minutes' end,
    case s.status
      when 'hold' then 'customer'
      else (array['human', 'ai', 'human', 'flow', 'customer'])[1 + s.number % 5]
    end::public.booking_creator,
    s.price_cents,
    case
      when s.organization = 1 and s.number % 12 = 3 then 'Trazer os exames anteriores.'
      when s.organization = 2 and s.number % 12 = 3 then 'Tutor pediu para avisar quando estiver pronto.'
      when s.organization = 3 and s.number % 12 = 3 then 'Enviar o link da reunião uma hora antes.'
    end,
    case when s.status in ('confirmed', 'completed') then least(s.starts - interval '1 day', moment - interval '90 minutes') end,
    case when s.status in ('confirmed', 'completed') then 'patient' end::public.booking_confirmer,
    case when s.status in ('confirmed', 'completed') then (array['whatsapp', 'whatsapp', 'phone'])[1 + s.number % 3] end::public.confirmation_method,
    case when s.status = 'cancelled' then least(s.starts - interval '5 hours', moment - interval '1 hour') end,
    case when s.status = 'cancelled' then (array[
      'Imprevisto no trabalho', 'Ficou doente', 'Vai remarcar depois da viagem', 'Não conseguiu transporte', 'Desistiu'
    ])[1 + s.number % 5] end,
    case when s.status = 'completed' then s.ends end,
    case when s.number % 13 = 6 then 1 else 0 end,
    case when s.number % 13 = 6 then s.starts - interval '2 days' end,
    least(s.starts - interval '4 days', moment - interval '2 hours') - make_interval(mins => s.number % 600)
  from (
    select a.*, row_number() over (partition by a.organization, a.location_id order by a.number) as visit from seed_slots a
  ) s
  cross join lateral (
    -- One after the other, so that nobody has two appointments at a time; the blocked one has none.
    select c.id, array(
      select p.id from public.pets p where p.organization_id = c.organization_id and p.contact_id = c.id order by p.id
    ) as pets
    from public.contacts c
    where c.organization_id = s.organization_id
      and c.status <> 'blocked'
      and c.created_at < moment - interval '1 day'
      and (c.preferred_location_id is null or c.preferred_location_id = s.location_id)
    order by c.id
    offset s.visit % (
      select count(*)
      from public.contacts c
      where c.organization_id = s.organization_id
        and c.status <> 'blocked'
        and c.created_at < moment - interval '1 day'
        and (c.preferred_location_id is null or c.preferred_location_id = s.location_id)
    )
    limit 1
  ) customer
  order by s.organization, s.number;

  -- Waiting for an earlier slot ---------------------------------------------------------------------------------------

  insert into public.waiting_list (
    organization_id, id, contact_id, service_id, professional_id, location_id, pet_id, priority, earliest_date,
    latest_date, period, status, notes, created_at
  )
  select
    o.id, pg_temp.seed_id('waiting', v.organization, v.number), pg_temp.seed_id('contact', v.organization, v.contact),
    pg_temp.seed_id('service', v.organization, v.service), pg_temp.seed_id('professional', v.organization, v.professional),
    pg_temp.seed_id('location', v.organization, v.location),
    (
      select p.id
      from public.pets p
      where p.organization_id = o.id and p.contact_id = pg_temp.seed_id('contact', v.organization, v.contact)
      order by p.id
      limit 1
    ),
    v.priority, (moment at time zone o.timezone)::date + v.earliest, (moment at time zone o.timezone)::date + v.latest,
    v.period::public.day_period, v.status::public.waiting_list_status, v.notes, moment - make_interval(hours => v.hours_ago)
  from (values
    (1, 1, 7, 3, 2, 1, 5, null::int, 14, 'morning', 'waiting', 'Dor no peito ao esforço: encaixar antes se possível.', 50),
    (1, 2, 13, 3, 2, null::int, 0, null, null, 'any', 'waiting', null, 30),
    (1, 3, 1, 5, 3, 1, 0, 1, 10, 'afternoon', 'waiting', 'Só pode depois do almoço.', 20),
    (1, 4, 15, 7, 5, 2, 0, null, null, 'any', 'cancelled', 'Conseguiu horário em outra clínica.', 300),
    (2, 1, 7, 6, 1, 1, 0, null, 7, 'morning', 'waiting', 'As duas gatas no mesmo horário.', 26),
    (2, 2, 16, 2, null, 1, 0, null, 10, 'any', 'waiting', null, 18),
    (2, 3, 12, 5, 2, 1, 3, null, 5, 'any', 'waiting', 'Voltou a mancar.', 6),
    (3, 1, 22, 1, 1, null, 0, null, 7, 'evening', 'waiting', 'Trabalha até as 17h.', 28),
    (3, 2, 2, 2, 2, null, 2, null, 5, 'any', 'waiting', 'Proposta até o fim do mês.', 8),
    (3, 3, 18, 3, null, null, 0, null, 14, 'morning', 'expired', null, 90)
  ) v (
    organization, number, contact, service, professional, location, priority, earliest, latest, period, status, notes, hours_ago
  )
  join public.organizations o on o.id = pg_temp.seed_id('organization', v.organization, 0)
  order by v.organization, v.hours_ago desc;

  -- Flows -----------------------------------------------------------------------------------------------------------
  -- A bot answers from the next message on; after the messages of the past, to which nobody wants an answer now.

  perform public.create_flow_from_template(t.key, organization_id => o.id)
  from public.organizations o
  join public.flow_templates t on t.vertical = o.vertical
  where o.id in (
    pg_temp.seed_id('organization', 1, 0), pg_temp.seed_id('organization', 2, 0), pg_temp.seed_id('organization', 3, 0));

  drop function pg_temp.seed_id(text, int, int);
end;
$seed$;
