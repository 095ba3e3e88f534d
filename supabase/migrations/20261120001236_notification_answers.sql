-- Notifications, answered: what customers tap and write.
--
-- A tap on a button, or a quotation, names its notification. Other words answer the newest one that he can have read when he
-- wrote them, while its visit is still to come or its offer open, and only if they can be meant for nothing else: people do
-- not have the conversation, neither a flow nor anybody else had a question open before it, and since then we have said
-- nothing but what belongs to it (our own "remarcar ou cancelar?" is its question too). Of two that understand the same word
-- none is guessed. All else, and whatever has a question mark, is for the flow, or for people.
--
-- A tap does at once what its button says. Words that would cancel or move a visit are asked back first, by its name.
--
-- What is an answer is claimed when it is stored (private.notification_answers) and is no input of a flow; a job of its own
-- answers it, because bookings are locked before customers.

create function private.fold_words(said text)
returns text
language plpgsql
immutable
strict
parallel safe
set search_path = ''
as $$
begin
  return btrim(regexp_replace(
    lower(extensions.unaccent('extensions.unaccent'::regdictionary, regexp_replace(regexp_replace(said, '[👍👌✅🆗]', ' sim ', 'g'), '[👎❌🚫]', ' nao ', 'g'))),
    '[^a-z0-9]+', ' ', 'g'));
end;
$$;
comment on function private.fold_words(text) is 'Lower case, without accents and punctuation; a thumb up is a yes.';

create function private.without_courtesies(said text)
returns text
language plpgsql
immutable
strict
parallel safe
set search_path = ''
as $$
begin
  return btrim(regexp_replace(
    said, '^(?:(?:oi|ola|bom dia|boa tarde|boa noite|por favor|pfv) )+|(?: (?:por favor|pfv|obrigad[oa]))+$', '', 'g'));
end;
$$;
comment on function private.without_courtesies(text) is 'A folded message without its greeting and its thanks.';

create function private.wish_about_messages(said text)
returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
  plain constant text := private.without_courtesies(said);
begin
  return case
    when plain in (
      'parar', 'pare', 'stop', 'sair da lista', 'quero sair da lista', 'me tire da lista', 'me remova da lista', 'remover da lista',
      'nao quero mais receber', 'nao quero mais receber mensagens', 'nao quero receber mais', 'nao quero receber mais mensagens',
      'nao quero receber mensagens', 'nao me mande mais mensagens', 'parar de receber', 'parar de receber mensagens',
      'parar mensagens', 'descadastrar', 'descadastre', 'me descadastre', 'quero me descadastrar', 'cancelar inscricao', 'unsubscribe'
    )
      or plain ~ '^nao quero (?:receber )?mais (?:receber )?(?:as |essas |suas )?mensage(?:m|ns)$'
      or plain ~ '^nao (?:me )?(?:mand|envi)(?:e|a|em) (?:mais )?(?:as |essas )?mensage(?:m|ns)(?: mais)?$'
      or plain ~ '^nao (?:me )?(?:mand|envi)(?:e|a|em) mais nada$'
      or plain ~ '^(?:quero que )?par(?:a|e|em|ar) de (?:me )?(?:mandar|enviar) (?:mais |as |essas )?mensage(?:m|ns)$'
      or plain ~ '^quero parar de receber(?: (?:as |essas |suas )?mensage(?:m|ns))?$'
      or plain ~ '^(?:me )?(?:tir(?:e|a|em)|remov(?:a|e|am)) (?:eu )?(?:da|dessa|desta|de sua) lista$'
      then 'opt_out'
    when plain in (
      'voltar', 'quero voltar', 'quero receber', 'quero voltar a receber', 'voltar a receber', 'voltar a receber mensagens',
      'voltar para a lista'
    ) then 'opt_in'
  end;
end;
$$;
comment on function private.wish_about_messages(text) is
  'opt_out, opt_in or null, of a whole message that was folded: "não posso parar agora" is no wish.';

create function private.answer_in_words(type public.notification_type, said text, stars text)
returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
  plain constant text := private.without_courtesies(said);
  scores constant jsonb :=
    '{"1": 1, "um": 1, "uma": 1, "2": 2, "dois": 2, "duas": 2, "3": 3, "tres": 3, "4": 4, "quatro": 4, "5": 5, "cinco": 5}'::jsonb;
begin
  -- "Pode cancelar?" wants to know something.
  if stars ~ '[?？]' then
    return null;
  end if;
  return case type
    when 'reminder' then case
      when plain in (
        'sim', 's', 'ok', 'confirmo', 'confirmado', 'confirmada', 'confirmar', 'confirma', 'sim confirmo', 'confirmo sim',
        'pode confirmar', 'sim pode confirmar', 'confirmo presenca', 'confirmo minha presenca', 'presenca confirmada', 'vou', 'vou sim',
        'sim vou', 'eu vou', 'estarei la', 'estarei ai', 'sim estarei la', 'sim estarei ai', 'certo', 'combinado', 'claro', 'com certeza'
      ) then 'confirm'
      when plain in (
        'cancelar', 'cancela', 'cancelo', 'cancele', 'quero cancelar', 'preciso cancelar', 'pode cancelar', 'desmarcar', 'desmarca',
        'quero desmarcar', 'preciso desmarcar', 'pode desmarcar'
      ) then 'cancel'
      when plain in (
        'remarcar', 'remarca', 'remarque', 'quero remarcar', 'preciso remarcar', 'posso remarcar', 'pode remarcar', 'reagendar',
        'quero reagendar', 'preciso reagendar', 'mudar', 'mudar o horario', 'mudar horario', 'trocar o horario', 'trocar horario'
      ) then 'reschedule'
      -- Not coming: moved, or cancelled? That is asked.
      when plain in (
        'nao', 'n', 'nao vou', 'nao posso', 'nao posso ir', 'nao vou poder', 'nao vou poder ir', 'nao vou conseguir',
        'nao vou conseguir ir', 'nao poderei', 'nao poderei ir', 'nao consigo ir'
      ) then 'no'
    end
    when 'waiting_list_offer' then case
      when plain in (
        'sim', 's', 'ok', 'quero', 'quero sim', 'sim quero', 'eu quero', 'aceito', 'aceito sim', 'sim aceito', 'confirmo', 'pode ser',
        'pode marcar', 'claro', 'com certeza', 'quero esse horario', 'quero o horario'
      ) then 'accept'
      when plain in (
        'nao', 'n', 'nao quero', 'nao posso', 'nao vou poder', 'nao da', 'recuso', 'nao obrigado', 'nao obrigada', 'agora nao'
      ) then 'decline'
    end
    when 'feedback' then coalesce(
      scores ->> plain,
      scores ->> substring(plain from '^(?:nota )?(\S+)(?: estrelas?)?$'),
      case when btrim(stars) ~ '^(?:⭐\ufe0f?){1,5}$' then length(regexp_replace(stars, '[^⭐]', '', 'g'))::text end)
  end;
end;
$$;
comment on function private.answer_in_words(public.notification_type, text, text) is
  'What a folded message answers to a notification of this type; null when it is no clear answer. stars: the message as it was written.';

create function private.answer_to_question(asked text, answer text, said text)
returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
  plain constant text := private.without_courtesies(said);
  -- What "sim" does.
  act constant text := substring(asked from '^asked_(.*)$');
begin
  return case
    when act is null then case
      -- "Remarcar ou cancelar?" – "Sim." is neither.
      when asked = 'asked' and answer = 'confirm' and said !~ '\m(?:confirm|vou|estarei)' then 'no'
      when answer in ('cancel', 'reschedule') and asked is distinct from 'asked' then 'ask_' || answer
      else answer
    end
    when plain in (
      'sim', 's', 'ss', 'sim sim', 'ok', 'isso', 'isso mesmo', 'sim isso', 'pode', 'pode sim', 'sim pode', 'quero', 'quero sim', 'sim quero',
      'claro', 'certo', 'com certeza', 'sim ' || case act when 'cancel' then 'cancelar' else 'remarcar' end,
      'sim pode ' || case act when 'cancel' then 'cancelar' else 'remarcar' end,
      'sim quero ' || case act when 'cancel' then 'cancelar' else 'remarcar' end
    ) then act
    when plain in (
      'nao', 'n', 'nao nao', 'nao quero', 'nao precisa', 'nao cancela', 'nao cancele', 'nao cancelar', 'nao quero cancelar', 'nao remarcar',
      'nao quero remarcar', 'deixa', 'deixa assim', 'deixa como esta', 'melhor nao'
    ) then 'keep'
    when answer in (act, 'no') then answer
    -- To "quer cancelar?" that is what he wants instead; to "quer remarcar?", "cancelar" may be said of the moving.
    when answer = 'reschedule' then answer
    when answer = 'cancel' then 'ask_cancel'
    when answer = 'confirm' and said ~ '\m(?:vou|estarei|presenca)' then answer
    -- The visit, or that it is cancelled?
    when answer = 'confirm' then 'ask_' || act
  end;
end;
$$;
comment on function private.answer_to_question(text, text, text) is
  'What words mean after what we asked about a reminder (asked: remarcar ou cancelar?; asked_cancel, asked_reschedule: do you want that?), or after nothing: then what would cancel or move a visit is to be asked.';

create function private.could_read(told public.messages, said public.messages)
returns boolean
language plpgsql
immutable
set search_path = ''
as $$
begin
  return told.id < said.id and told.status <> 'failed' and case
    -- Both by WhatsApp's clock, which has whole seconds.
    when coalesce(told.sent_at, told.delivered_at, told.read_at) is not null then
      coalesce(said.sent_at, said.created_at) >= date_trunc('second', coalesce(least(told.delivered_at, told.read_at), told.sent_at))
    -- It was accepted when its row was last written; that is by our clock.
    else told.whatsapp_message_id is not null
      and coalesce(said.sent_at, said.created_at) >= told.updated_at - interval '2 seconds'
  end;
end;
$$;
comment on function private.could_read(public.messages, public.messages) is
  'Whether a customer can have read one message when he wrote another: it had left the house by then. What was delivered late may be older than what was stored before it.';

create function private.is_talked_with(conversation_ids uuid[], asked_message_id uuid, organization_id uuid, at timestamptz)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return exists (
    select
    from public.conversations v
    where v.organization_id = is_talked_with.organization_id
      and v.id = any (conversation_ids)
      and v.is_open
      -- He waits for somebody, or talks with them.
      and not v.is_bot_controlled
  ) or exists (
    -- What he said before is still to be answered.
    select
    from public.message_queue q
    where q.organization_id = is_talked_with.organization_id
      and q.ordering_key = any (array(select 'flow:' || c from unnest(conversation_ids) c))
      and q.status in ('pending', 'failed', 'processing')
  ) or exists (
    select
    from public.flow_sessions s
    where s.organization_id = is_talked_with.organization_id
      and s.conversation_id = any (conversation_ids)
      and not s.is_completed
      and s.expires_at > at
      -- One that waits for its time asks nothing.
      and s.wakes_at is null
      and (s.asked_at is not null or s.current_step is not null)
  ) or exists (
    select
    from public.messages asking
    where asking.organization_id = is_talked_with.organization_id
      and asking.conversation_id = any (conversation_ids)
      and asking.id < asked_message_id
      and asking.created_at > at - interval '24 hours'
      and asking.direction = 'outbound'
      and asking.message_type <> 'reaction'
      -- What a flow said is open while its session is.
      and (
        asking.sender in ('human', 'ai')
        or asking.sender = 'bot' and coalesce(asking.client_message_id, '') not like 'flow:%'
        -- A follow-up asks in somebody's own words.
        or asking.sender = 'system' and exists (
          select
          from public.notifications n
          where n.organization_id = asking.organization_id and n.message_id = asking.id and n.type = 'other'
        )
      )
      -- He may be thinking about it; after two hours, only if he has said nothing since.
      and (asking.created_at > at - interval '2 hours' or not exists (
        select
        from public.messages said
        where said.organization_id = asking.organization_id
          and said.conversation_id = asking.conversation_id
          and said.id > asking.id
          and said.id < asked_message_id
          and said.direction = 'inbound'
      ))
  );
end;
$$;
comment on function private.is_talked_with(uuid[], uuid, uuid, timestamptz) is
  'Whether a customer was in the middle of something else when a notification asked him: words that follow may belong to that.';

create type private.claimed_answer as (notification_id uuid, answer text);

create function private.answer_to_notification(message public.messages, follows_input boolean default false, at timestamptz default now())
returns private.claimed_answer
language plpgsql
stable
set search_path = ''
as $$
declare
  tapped constant text[] :=
    regexp_match(message.metadata #>> '{interactive,id}', '^notification:([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}):([a-z0-9]{1,20})$');
  folded text;
  answer text;
  found_one private.claimed_answer;
  candidate record;
  understood uuid[] := array[]::uuid[];
begin
  if tapped is not null then
    select n.id, tapped[2] into found_one
    from public.notifications n
    where n.organization_id = message.organization_id and n.id = tapped[1]::uuid and n.contact_id = message.contact_id;
    return case when found then found_one end;
  elsif message.message_type <> 'text' or length(message.content) > 60 then
    return null;
  end if;
  if not exists (
    select
    from public.notifications n
    where n.organization_id = message.organization_id
      and n.contact_id = message.contact_id
      and n.status = 'sent'
      and n.type in ('reminder', 'waiting_list_offer', 'feedback')
  ) then
    return null;
  end if;
  folded := private.fold_words(message.content);
  -- Each notification with its newest question: the notification itself, or what we asked when it was answered.
  for candidate in
    select
      n.id, n.type, n.booking_id, n.answer, n.booking_start_time, m.conversation_id,
      coalesce(asked.id, m.id) as asked_message_id,
      -- Who quotes the reminder itself answers that.
      case when message.reply_to_whatsapp_message_id is distinct from m.whatsapp_message_id then asked.outcome end as asked,
      message.reply_to_whatsapp_message_id in (m.whatsapp_message_id, asked.whatsapp_message_id) is true as is_quoted
    from public.notifications n
    join public.messages m on m.organization_id = n.organization_id and m.id = n.message_id
    left join lateral (
      select reply.id, reply.whatsapp_message_id, a.outcome, a.answered_at
      from private.notification_answers a
      join public.messages reply on reply.organization_id = a.organization_id and reply.client_message_id = 'answer:' || a.message_id
      where a.organization_id = n.organization_id
        and a.notification_id = n.id
        and a.outcome in ('asked', 'asked_cancel', 'asked_reschedule', 'moved')
        and private.could_read(reply, answer_to_notification.message)
      order by (reply.whatsapp_message_id = message.reply_to_whatsapp_message_id) is true desc, reply.id desc
      limit 1
    ) asked on true
    where n.organization_id = message.organization_id
      and n.contact_id = message.contact_id
      and n.status = 'sent'
      and n.type in ('reminder', 'waiting_list_offer', 'feedback')
      -- Before each one's question is looked for.
      and (n.sent_at > at - interval '48 hours' or exists (
        select
        from private.notification_answers a
        where a.organization_id = n.organization_id and a.notification_id = n.id and a.answered_at > at - interval '48 hours'
      ))
      and greatest(n.sent_at, asked.answered_at) > at - interval '48 hours'
      and m.instance_id = message.instance_id
      and (private.could_read(m, answer_to_notification.message) or m.whatsapp_message_id = message.reply_to_whatsapp_message_id)
    order by coalesce(asked.id, m.id) desc
  loop
    continue when message.reply_to_whatsapp_message_id is not null and not candidate.is_quoted;
    answer := private.answer_in_words(candidate.type, folded, message.content);
    if candidate.type = 'reminder' and message.content !~ '[?？]' then
      answer := private.answer_to_question(candidate.asked, answer, folded);
    end if;
    continue when answer is null;
    if candidate.is_quoted then
      return row(candidate.id, answer)::private.claimed_answer;
    end if;
    -- It waits for an answer, and there is still something to answer.
    continue when follows_input
      or candidate.answer is not null
      or candidate.type <> 'feedback' and not exists (
        select
        from public.bookings b
        where b.organization_id = message.organization_id
          and b.id = candidate.booking_id
          and b.start_time = candidate.booking_start_time
          and b.start_time > at
          and case candidate.type
            when 'reminder' then b.status in ('scheduled', 'confirmed')
            else b.status = 'hold' and b.is_offer and b.hold_expires_at > at
          end
      )
      -- Nobody on our side has said anything else since, but that we did not know which one was meant.
      or exists (
        select
        from public.messages since
        where since.conversation_id in (candidate.conversation_id, message.conversation_id)
          and since.organization_id = message.organization_id
          and since.id > candidate.asked_message_id
          and since.id < message.id
          and since.direction = 'outbound'
          and since.message_type <> 'reaction'
          and not exists (
            select
            from public.notifications other
            where other.organization_id = since.organization_id and other.message_id = since.id
          )
          and not exists (
            select
            from private.notification_answers a
            where a.organization_id = since.organization_id
              and a.message_id = private.id_in(jsonb_build_object('id', substring(since.client_message_id from '^answer:(.*)$')), 'id')
              and since.sender = 'system'
              and (a.notification_id = candidate.id or a.outcome = 'unclear')
          )
      )
      -- Nor has he been told of anything else, unless that is asked in the same words: then it is not guessed which one.
      or exists (
        select
        from public.notifications other
        join public.messages told on told.organization_id = other.organization_id and told.id = other.message_id
        where other.organization_id = message.organization_id
          and other.contact_id = message.contact_id
          and other.status = 'sent'
          and told.instance_id = message.instance_id
          and told.id > candidate.asked_message_id
          and told.id < message.id
          and other.id <> candidate.id
          and (other.booking_id = candidate.booking_id) is not true
          and other.id <> all (understood)
          -- A grade is said of no visit that is to come.
          and not (candidate.type = 'feedback' and other.type in ('reminder', 'confirmation', 'cancellation', 'waiting_list_offer'))
      )
      or private.is_talked_with(
        array[candidate.conversation_id, message.conversation_id], candidate.asked_message_id, message.organization_id, at);
    understood := understood || candidate.id;
    if found_one.notification_id is null then
      found_one := row(candidate.id, answer);
    elsif exists (
      select
      from public.notifications n
      where n.organization_id = message.organization_id and n.id = found_one.notification_id and n.booking_id = candidate.booking_id
    ) then
      -- "Quer cancelar?", another reminder of that visit, "sim": to which of them?
      if answer = 'cancel' and found_one.answer <> 'cancel' then
        found_one := row(candidate.id, 'ask_cancel');
      end if;
    else
      -- Two visits, one "sim": which one is meant is not guessed.
      found_one.answer := 'unclear';
    end if;
  end loop;
  return case when found_one.notification_id is not null then found_one end;
end;
$$;
comment on function private.answer_to_notification(public.messages, boolean, timestamptz) is
  'Which notification a message answers, and what: by a tap at any time; in words within 48 hours, if it is quoted, or if he can have read it, nothing else has been said or told since, nothing else was open before it (follows_input: nor was said in the same delivery), and its visit or offer still is. unclear: it may be one of several. Null: it is for the flow, or for people.';

create function private.tg_messages__read_answers()
returns trigger
language plpgsql
volatile
security definer -- whoever may store a message need not be allowed to write contacts, notifications and jobs
set search_path = ''
as $$
declare
  unsent record;
  said record;
  wish text;
  claimed private.claimed_answer;
  conversation_id uuid;
  has_flow boolean;
  -- Whether something stands before it in this delivery that the flow is about to hear.
  flow_is_first boolean;
  jobs private.new_job[] := array[]::private.new_job[];
begin
  if not exists (select from inserted i where i.direction = 'inbound' and i.sender = 'contact') then
    return null;
  end if;
  -- Who writes first need not be asked why he does not.
  perform private.cancel_notifications(array_agg(n.id), n.organization_id, 'customer_wrote')
  from inserted i
  join public.notifications n
    on n.organization_id = i.organization_id and n.contact_id = i.contact_id and n.status = 'pending' and n.followup_id is not null
  join public.scheduled_followups f on f.organization_id = n.organization_id and f.id = n.followup_id and f.type = 'no_reply'
  where i.direction = 'inbound'
    and i.sender = 'contact'
    -- News of before it was planned, delivered late, is none; WhatsApp's clock need not be ours.
    and least(i.sent_at, i.created_at) > n.created_at - interval '1 minute'
  group by n.organization_id;
  -- Nor if he was, but it did not leave the house yet. What somebody else holds is asked again before it does.
  for unsent in
    select n.organization_id, n.id
    from (
      select w.organization_id, w.contact_id, max(least(w.sent_at, w.created_at)) as at
      from inserted w
      where w.direction = 'inbound' and w.sender = 'contact'
      group by w.organization_id, w.contact_id
    ) i
    join public.notifications n
      on n.organization_id = i.organization_id and n.contact_id = i.contact_id and n.status = 'sent' and n.followup_id is not null
    join public.scheduled_followups f on f.organization_id = n.organization_id and f.id = n.followup_id and f.type = 'no_reply'
    join public.messages m on m.organization_id = n.organization_id and m.id = n.message_id and m.status = 'queued'
    where i.at > n.created_at - interval '1 minute'
    for no key update of m skip locked
  loop
    perform private.cancel_notifications(array[unsent.id], unsent.organization_id, 'customer_wrote');
  end loop;

  for said in
    select
      row(i.*)::public.messages as message,
      least(i.sent_at, i.created_at) as at,
      private.is_flow_input(row(i.*)::public.messages) as is_news,
      coalesce(
        i.message_type in ('text', 'button', 'interactive') and length(i.content) <= 80
          or i.metadata #>> '{interactive,id}' like 'notification:%',
        false) as is_short
    from inserted i
    where i.direction = 'inbound' and i.sender = 'contact'
    order by i.organization_id, i.contact_id, i.conversation_id, i.id
  loop
    claimed := null;
    if (said.message).conversation_id is distinct from conversation_id then
      conversation_id := (said.message).conversation_id;
      has_flow := null;
      flow_is_first := false;
    end if;
    -- A button of a campaign says "Parar" too; on one of a flow's or of a notification's it means what that asks.
    wish := case when said.is_short and coalesce((said.message).metadata #>> '{interactive,id}', '') !~ '^(?:notification:|[a-z0-9_]*:[^:]+[.][0-9a-z]+:[0-9]+$)' then
      private.wish_about_messages(private.fold_words((said.message).content))
    end;
    if wish is not null then
      update public.contacts p
      set opted_out_at = case wish when 'opt_out' then said.at end,
          opted_in_at = case wish when 'opt_in' then said.at else p.opted_in_at end
      where p.organization_id = (said.message).organization_id
        and p.id = (said.message).contact_id
        and (p.opted_out_at is null) = (wish = 'opt_out')
        -- WhatsApp's clock has whole seconds.
        and said.at >= date_trunc('second', coalesce(greatest(p.opted_in_at, p.opted_out_at), '-infinity'));
      -- Said again, or "voltar" by somebody who never left, it is a word for the flow.
      if found then
        claimed := row(null, wish);
        if wish = 'opt_out' then
          perform private.withdraw_notifications((said.message).organization_id, (said.message).contact_id, 'opted_out');
        end if;
      end if;
    end if;
    if claimed is null and said.is_news and said.is_short then
      claimed := private.answer_to_notification(said.message, flow_is_first);
    end if;
    if claimed.answer is null and said.is_news and has_flow is null then
      select private.has_flow(v) into has_flow
      from public.conversations v
      where v.organization_id = (said.message).organization_id and v.id = (said.message).conversation_id;
    end if;
    flow_is_first := flow_is_first or claimed.answer is null and said.is_news and coalesce(has_flow, false);
    continue when claimed.answer is null;
    insert into private.notification_answers (organization_id, message_id, notification_id, answer)
    values ((said.message).organization_id, (said.message).id, claimed.notification_id, claimed.answer);
    if said.is_news then
      jobs := jobs || row(
        (said.message).organization_id, 'answer_notification', jsonb_build_object('message_id', (said.message).id), 0, null,
        'answers:' || (said.message).conversation_id, 'answer:' || (said.message).id, 5)::private.new_job;
    end if;
  end loop;
  if cardinality(jobs) > 0 then
    perform from private.enqueue_jobs(jobs);
    perform private.wake_worker();
  end if;
  return null;
end;
$$;
comment on function private.tg_messages__read_answers() is
  'Trigger: claims what answers a notification before a flow hears it, notes at once who wants no more messages, and cancels follow-ups of silence.';
-- Before messages_900_run_flow, which leaves out what is claimed here.
create trigger messages_500_read_answers
  after insert on public.messages
  referencing new table as inserted
  for each statement execute function private.tg_messages__read_answers();

create function private.start_flow_at(conversation public.conversations, action text)
returns boolean
language plpgsql
volatile
set search_path = ''
as $$
declare
  flow public.flows;
  step text;
  session public.flow_sessions;
begin
  select f.* into flow
  from public.flows f
  where f.organization_id = conversation.organization_id and f.is_default and f.is_active;
  select e ->> 'id' into step
  from jsonb_array_elements(flow.definition -> 'etapas') with ordinality s (e, n)
  where e ->> 'tipo' = 'acao' and e #>> '{acao,tipo}' = start_flow_at.action
  order by s.n
  limit 1;
  if step is null or not conversation.is_bot_controlled then
    return false;
  end if;
  update public.flow_sessions s
  set status = 'cancelled', completed_at = now(), wakes_at = null, version = s.version + 1
  where s.organization_id = conversation.organization_id and s.conversation_id = conversation.id and not s.is_completed;
  session := private.new_flow_session(conversation, flow, private.newest_message(conversation.id));
  -- begin_flow_turn() begins there.
  update public.flow_sessions s
  set state = jsonb_build_object('inicio', step)
  where s.organization_id = session.organization_id and s.id = session.id;
  perform from private.enqueue_jobs(array[
    private.flow_turn_job(session.organization_id, session.conversation_id, '{"start": true}')
  ]);
  return true;
end;
$$;
comment on function private.start_flow_at(public.conversations, text) is
  'The bot goes on with the default flow at its first step of an action, if it is in control and the flow has one; answers whether it does. The conversation is locked by the caller.';

create type private.notification_reply as (outcome text, content text, payload jsonb, answer text);

create function private.answer_booking(notification public.notifications, answer text, heard public.messages, at timestamptz)
returns private.notification_reply
language plpgsql
volatile
set search_path = ''
as $$
declare
  booking public.bookings;
  spoken text;
  visit text;
  is_tapped constant boolean := heard.metadata #>> '{interactive,id}' is not null;
  buttons constant jsonb := private.notification_options(notification) -> 'buttons';
begin
  select b.* into booking
  from public.bookings b
  where b.organization_id = notification.organization_id and b.id = notification.booking_id;
  spoken := private.spoken_moment(booking.start_time, private.zone_of(booking.organization_id, booking.location_id), at);
  if booking.contact_id <> notification.contact_id then
    return row('another_contact', 'Esse horário não está mais no seu nome. Se precisar de alguma coisa, é só responder por aqui.', null, null)::private.notification_reply;
  elsif booking.status = 'cancelled' then
    return row('cancelled_before', 'Esse horário já foi cancelado. Se quiser marcar outro, é só responder por aqui.', null, null)::private.notification_reply;
  elsif booking.start_time <= at or booking.status not in ('scheduled', 'confirmed') then
    return row('over', 'Esse horário já passou. Se precisar de alguma coisa, é só responder por aqui.', null, null)::private.notification_reply;
  elsif booking.start_time = notification.booking_start_time and answer <> 'reschedule' and exists (
    select
    from private.notification_answers a
    join public.messages told on told.organization_id = a.organization_id and told.client_message_id = 'answer:' || a.message_id
    where a.organization_id = notification.organization_id
      and a.notification_id = notification.id
      and told.status <> 'failed'
      and case
        when is_tapped then a.outcome = 'moved' and told.id > heard.id
        else a.outcome in ('moved', 'asked', 'asked_cancel', 'asked_reschedule') and not private.could_read(told, heard)
      end
  ) then
    -- Said before he could read at what time it is now, or what we want to know: that is asked already.
    return row('asked_already', null, null, null)::private.notification_reply;
  elsif booking.start_time <> notification.booking_start_time and answer <> 'reschedule' then
    -- Told now, it is the time that his next answer is about.
    update public.notifications n
    set booking_start_time = booking.start_time, answer = null, answered_at = null
    where n.organization_id = notification.organization_id and n.id = notification.id;
    return row('moved',
      format('Esse horário mudou: agora está marcado para %s. Podemos contar com a sua presença?', spoken),
      jsonb_build_object('type', 'button', 'buttons', buttons), null)::private.notification_reply;
  end if;
  visit := private.render_template(
    '{{servico}}{{#pet}} de {{pet}}{{/pet}}{{#profissional}} com {{profissional}}{{/profissional}}, {{quando}}',
    private.notification_values(notification, at));
  case answer
    when 'confirm' then
      perform private.confirm_booking(booking.id, 'patient', 'whatsapp', booking.organization_id);
      return row('confirmed', format('Presença confirmada! ✅ Esperamos você: %s.', spoken), null, 'confirm')::private.notification_reply;
    when 'cancel' then
      perform private.customer_is_told(booking.contact_id);
      perform private.cancel_booking(booking.id, 'Cancelado pelo cliente no WhatsApp', booking.organization_id);
      return row('cancelled', 'Pronto, seu horário foi cancelado. Se quiser marcar outro, é só responder por aqui.', null, 'cancel')::private.notification_reply;
    when 'reschedule' then
      return row('reschedule', null, null, 'reschedule')::private.notification_reply;
    when 'keep' then
      return row('kept', format('Tudo bem, nada muda. Seu horário continua marcado: %s.', visit), null, 'keep')::private.notification_reply;
    when 'ask_cancel', 'ask_reschedule' then
      return row('asked_' || substr(answer, 5),
        format('Você quer %s este horário? %s.', case answer when 'ask_cancel' then 'cancelar' else 'remarcar' end, visit),
        jsonb_build_object('type', 'button', 'buttons', jsonb_build_array(
          jsonb_build_object('id', format('notification:%s:%s', notification.id, substr(answer, 5)), 'title', 'Sim'),
          jsonb_build_object('id', format('notification:%s:keep', notification.id), 'title', 'Não'))), null)::private.notification_reply;
    else
      return row('asked', format('Entendi. Sobre o seu horário (%s): você prefere remarcar ou cancelar?', visit),
        jsonb_build_object('type', 'button', 'buttons', buttons - 0), null)::private.notification_reply;
  end case;
end;
$$;
comment on function private.answer_booking(public.notifications, text, public.messages, timestamptz) is
  'Does what a customer answered to a reminder, through what the RPCs do it with, and what he is told. The agenda is locked by the caller.';

create function private.answer_offer(notification public.notifications, answer text, at timestamptz)
returns private.notification_reply
language plpgsql
volatile
set search_path = ''
as $$
declare
  entry public.waiting_list;
  booking public.bookings;
begin
  select w.* into entry
  from public.waiting_list w
  where w.organization_id = notification.organization_id and w.offered_booking_id = notification.booking_id;
  -- Of somebody else by now, it is not his to take or to leave.
  if entry.contact_id = notification.contact_id then
    perform private.customer_is_told(entry.contact_id);
    if answer = 'decline' and entry.status = 'offered' then
      perform private.leave_waiting_list(entry.id, entry.organization_id);
      return row('declined', 'Tudo bem, obrigado por avisar! Se quiser voltar para a lista de espera, é só responder por aqui.', null, 'decline')::private.notification_reply;
    elsif answer = 'accept' then
      begin
        booking := private.accept_waiting_list_offer(entry.id, entry.organization_id);
      exception
        when sqlstate 'BL505' or sqlstate 'BL514' then null;
      end;
    end if;
  end if;
  if booking.status in ('scheduled', 'confirmed') then
    return row('accepted',
      format('Prontinho! ✅ O horário é seu: %s.',
        private.spoken_moment(booking.start_time, private.zone_of(booking.organization_id, booking.location_id), at)),
      null, 'accept')::private.notification_reply;
  end if;
  return row('offer_over',
    'Que pena, esse horário não está mais reservado para você. Se quiser tentar outro, é só responder por aqui.', null, null)::private.notification_reply;
end;
$$;
comment on function private.answer_offer(public.notifications, text, timestamptz) is
  'Takes or declines what somebody on the waiting list was offered, and what he is told. The agenda is locked by the caller.';

create function private.answer_notification(job jsonb, at timestamptz default now())
returns jsonb
language plpgsql
volatile
security definer -- writes bookings, conversations and messages, and ends jobs
set search_path = ''
as $$
declare
  held constant public.message_queue := private.hold_job(job);
  claimed private.notification_answers;
  heard public.messages;
  notification public.notifications;
  conversation public.conversations;
  reply private.notification_reply;
begin
  select a.* into claimed
  from private.notification_answers a
  where a.organization_id = held.organization_id and a.message_id = private.id_in(held.payload, 'message_id');
  if claimed.message_id is null or claimed.outcome is not null then
    return private.end_job(held, coalesce(claimed.outcome, 'answer_gone'));
  end if;
  select m.* into heard
  from public.messages m
  where m.organization_id = claimed.organization_id and m.id = claimed.message_id;
  select n.* into notification
  from public.notifications n
  where n.organization_id = claimed.organization_id and n.id = claimed.notification_id;
  -- What is booked comes before the customer.
  if notification.booking_id is not null and notification.type <> 'feedback' then
    perform private.lock_flow_agendas(notification.organization_id, jsonb_build_array(
      jsonb_build_object('tipo', 'cancelar_agendamento', 'agendamento_id', notification.booking_id)));
  end if;
  conversation := private.lock_conversation(heard.organization_id, heard.conversation_id);
  if exists (
    select
    from public.contacts p
    where p.organization_id = conversation.organization_id and p.id = conversation.contact_id and p.status = 'blocked'
  ) then
    reply := row('blocked', null, null, null);
  else
    case
      when claimed.answer = 'opt_out' then
        update public.flow_sessions s
        set status = 'cancelled', completed_at = now(), wakes_at = null, version = s.version + 1
        where s.organization_id = conversation.organization_id and s.conversation_id = conversation.id and not s.is_completed;
        reply := row('opted_out',
          'Tudo bem, você não vai mais receber lembretes nem novidades por aqui. Se mudar de ideia, responda VOLTAR.', null, null);
      when claimed.answer = 'opt_in' then
        reply := row('opted_in', 'Que bom ter você de volta! 😊 Você vai voltar a receber nossas mensagens.', null, null);
      when claimed.answer = 'unclear' then
        reply := row('unclear', 'Você tem mais de um horário com a gente. Por favor, toque no botão da mensagem certa.', null, null);
      when notification.type = 'feedback' and claimed.answer ~ '^[1-5]$' then
        update public.conversations v
        set satisfaction_score = claimed.answer::int
        where v.organization_id = notification.organization_id
          and v.id = notification.conversation_id
          -- A visit's score is the notification's; where the question went through it counts, but undoes no other answer.
          and (notification.booking_id is null or v.satisfaction_score is null and v.id = (
            select m.conversation_id
            from public.messages m
            where m.organization_id = notification.organization_id and m.id = notification.message_id
          ));
        reply := row('scored',
          case when claimed.answer::int <= 2
            then 'Obrigado por contar. Sentimos muito que não tenha sido como deveria; vamos melhorar.'
            else 'Muito obrigado pela sua avaliação! 💛'
          end, null, claimed.answer);
      when notification.type = 'reminder' and claimed.answer in ('confirm', 'cancel', 'reschedule', 'no', 'ask_cancel', 'ask_reschedule', 'keep')
      then
        reply := private.answer_booking(notification, claimed.answer, heard, at);
      when notification.type = 'waiting_list_offer' and claimed.answer in ('accept', 'decline') then
        reply := private.answer_offer(notification, claimed.answer, at);
      else
        reply := row('not_understood', null, null, null);
    end case;
    if reply.outcome = 'reschedule' then
      if private.start_flow_at(conversation, 'remarcar') then
        reply.outcome := 'flow_started';
      else
        reply.content := 'Claro! Já chamo alguém da equipe para remarcar com você.';
      end if;
    end if;
    if reply.content is not null then
      begin
        perform private.say_as_system(
          conversation, case when reply.payload is null then 'text' else 'interactive' end::public.message_type, reply.content,
          reply.payload, 'answer:' || heard.id);
      exception
        -- It is done, though nobody can be told.
        when sqlstate 'BL106' or sqlstate 'BL107' then null;
      end;
    end if;
    if reply.outcome = 'reschedule' and conversation.is_open then
      conversation := private.hand_over(conversation, 'reschedule_requested');
    elsif reply.outcome in ('scored', 'confirmed', 'kept', 'opted_out')
      and conversation.is_open
      and conversation.is_bot_controlled
      and private.is_only_answers(conversation.id, conversation.organization_id)
    then
      -- Nobody wants anything: no inbox needs to show it.
      conversation := private.end_conversation(conversation, null);
    end if;
  end if;
  if reply.answer is not null then
    update public.notifications n
    set answer = reply.answer, answered_at = at
    where n.organization_id = notification.organization_id and n.id = notification.id;
  end if;
  update private.notification_answers a
  set outcome = reply.outcome, answered_at = at
  where a.organization_id = claimed.organization_id and a.message_id = claimed.message_id;
  return private.end_job(held, reply.outcome);
end;
$$;
comment on function private.answer_notification(jsonb, timestamptz) is 'See public.answer_notification(). at: the moment that it is taken to be.';
grant execute on function private.answer_notification(jsonb, timestamptz) to service_role;

create function public.answer_notification(job jsonb)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
  return private.answer_notification(job);
end;
$$;
comment on function public.answer_notification(jsonb) is
  'For the worker, with a held job {organization_id, id, fencing_token} of type answer_notification: does what a customer answered to a notification, says so, and ends the job with it. Answers {action: done, reason}. Secret key only. Errors: lease_lost.';
grant execute on function public.answer_notification(jsonb) to service_role;

create function private.tg_message_queue__give_up_notification()
returns trigger
language plpgsql
volatile
security definer -- whoever ends a job need not be allowed to write notifications and conversations
set search_path = ''
as $$
declare
  conversation public.conversations;
begin
  if new.job_type = 'send_notification' then
    update public.notifications n
    set status = 'failed', reason = 'attempts_exhausted', attempts = n.attempts + 1
    where n.organization_id = new.organization_id
      and n.id = private.id_in(new.payload, 'notification_id')
      and n.status = 'pending'
      and new.idempotency_key = 'notification:' || n.id || ':' || n.version;
    return null;
  end if;
  conversation := private.lock_flow_conversation(new.organization_id, (
    select m.conversation_id
    from public.messages m
    where m.organization_id = new.organization_id and m.id = private.id_in(new.payload, 'message_id')
  ));
  if conversation.is_open and conversation.is_bot_controlled then
    perform private.hand_over(conversation, 'answer_failed');
  end if;
  return null;
end;
$$;
comment on function private.tg_message_queue__give_up_notification() is
  'Trigger: a notification whose job is given up does not wait for ever; an answer that cannot be acted on is a human''s.';
create trigger message_queue_500_give_up_notification
  after update of status on public.message_queue
  for each row when (
    new.job_type in ('send_notification', 'answer_notification') and new.status = 'dead' and old.status <> 'dead')
  execute function private.tg_message_queue__give_up_notification();
