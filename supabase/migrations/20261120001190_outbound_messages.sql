-- What can be sent: WhatsApp's limits for each kind of message, told to whoever writes instead of on a failed message.

create function private.require_sendable(fits boolean, rule text, message text)
returns void
language plpgsql
immutable
set search_path = ''
as $$
begin
  if fits is not true then
    perform private.raise_error('BL205', 'invalid_message', message, jsonb_build_object('rule', rule));
  end if;
end;
$$;
comment on function private.require_sendable(boolean, text, text) is 'Error invalid_message, unless the rule is kept.';

create function private.is_text(value text, longest int)
returns boolean
language plpgsql
immutable
set search_path = ''
as $$
begin
  -- It is sent as it is, so what is counted is what is sent.
  return value ~ '\S' and length(value) <= longest;
end;
$$;
comment on function private.is_text(text, int) is 'Whether there is something to read, of at most so many characters.';

create function private.texts_fit(texts jsonb, key text, longest int)
returns boolean
language plpgsql
immutable
set search_path = ''
as $$
begin
  return jsonb_typeof(texts) = 'array' and not exists (
    select
    from jsonb_array_elements(texts) t
    where jsonb_typeof(t -> key) is distinct from 'string' or private.is_text(t ->> key, longest) is not true
  );
end;
$$;
comment on function private.texts_fit(jsonb, text, int) is 'Whether each object of a list has a text of at most so many characters.';

create function private.is_list_of_objects(list jsonb)
returns boolean
language plpgsql
immutable
set search_path = ''
as $$
begin
  return jsonb_typeof(list) = 'array'
    and not exists (select from jsonb_array_elements(list) item where jsonb_typeof(item) <> 'object');
end;
$$;
comment on function private.is_list_of_objects(jsonb) is 'Whether a JSON value is a list, and all in it are objects.';

create function private.check_outbound(message_type public.message_type, content text, payload jsonb)
returns void
language plpgsql
immutable
set search_path = ''
as $$
declare
  all_rows jsonb;
begin
  case message_type
    when 'text' then
      perform private.require_sendable(private.is_text(content, 4096), 'content', 'A text has 1 to 4096 characters');
      perform private.require_sendable(
        coalesce(payload, '{}') - 'preview_url' = '{}' and coalesce(jsonb_typeof(payload -> 'preview_url'), 'boolean') = 'boolean',
        'payload', 'payload holds preview_url only, true or false');
    when 'interactive' then
      perform private.require_sendable(payload ->> 'type' in ('button', 'list'), 'payload.type', 'payload.type is "button" or "list"');
      perform private.require_sendable(
        private.is_text(content, case payload ->> 'type' when 'button' then 1024 else 4096 end),
        'content', 'content, the body, has 1 to 1024 characters above buttons, 4096 above a list');
      perform private.require_sendable(
        private.is_text(coalesce(payload ->> 'header', 'x'), 60) and coalesce(jsonb_typeof(payload -> 'header'), 'string') = 'string'
          and private.is_text(coalesce(payload ->> 'footer', 'x'), 60) and coalesce(jsonb_typeof(payload -> 'footer'), 'string') = 'string',
        'payload.header', 'header and footer have 1 to 60 characters');
      if payload ->> 'type' = 'button' then
        perform private.require_sendable(
          private.texts_fit(payload -> 'buttons', 'title', 20) and private.texts_fit(payload -> 'buttons', 'id', 256)
            and jsonb_array_length(payload -> 'buttons') between 1 and 3,
          'payload.buttons', '1 to 3 buttons {id, title}; a title has at most 20 characters, an id 256');
        all_rows := payload -> 'buttons';
        perform private.require_sendable(
          (select count(distinct button ->> 'title') from jsonb_array_elements(all_rows) button) = jsonb_array_length(all_rows),
          'payload.title', 'Each button has a title of its own');
      else
        perform private.require_sendable(
          private.is_text(payload ->> 'button', 20), 'payload.button', 'payload.button, which opens the list, has 1 to 20 characters');
        perform private.require_sendable(
          jsonb_typeof(payload -> 'sections') = 'array' and jsonb_array_length(payload -> 'sections') between 1 and 10
            and (
              jsonb_array_length(payload -> 'sections') = 1 and private.is_text(coalesce(payload #>> '{sections,0,title}', 'x'), 24)
              or private.texts_fit(payload -> 'sections', 'title', 24)),
          'payload.sections', '1 to 10 sections; each has a title of at most 24 characters if there are several');
        select jsonb_agg(row) into all_rows
        from jsonb_array_elements(payload -> 'sections') section
        cross join lateral jsonb_array_elements(
          case jsonb_typeof(section -> 'rows') when 'array' then section -> 'rows' else '[]' end) row;
        perform private.require_sendable(
          private.texts_fit(all_rows, 'title', 24) and private.texts_fit(all_rows, 'id', 200)
            and jsonb_array_length(all_rows) between 1 and 10
            and not exists (select from jsonb_array_elements(all_rows) row where length(row ->> 'description') > 72),
          'payload.sections.rows',
          '1 to 10 rows {id, title, description} in all; a title has at most 24 characters, an id 200, a description 72');
      end if;
      perform private.require_sendable(
        (select count(distinct option ->> 'id') from jsonb_array_elements(all_rows) option) = jsonb_array_length(all_rows),
        'payload.id', 'Each option has an id of its own');
    when 'template' then
      perform private.require_sendable(
        payload ->> 'name' ~ '^[a-z0-9_]+$' and length(payload ->> 'name') <= 512 and payload ->> 'language' ~ '^[a-z]{2,3}(_[A-Z]{2,3})?$',
        'payload.name', 'payload has the template''s name and language, such as pt_BR');
      perform private.require_sendable(
        payload -> 'components' is null or private.is_list_of_objects(payload -> 'components'), 'payload.components', 'payload.components is a list of objects');
    when 'location' then
      perform private.require_sendable(
        jsonb_typeof(payload -> 'latitude') = 'number' and jsonb_typeof(payload -> 'longitude') = 'number'
          and abs((payload ->> 'latitude')::numeric) <= 90 and abs((payload ->> 'longitude')::numeric) <= 180,
        'payload.latitude', 'payload has latitude and longitude in degrees');
      perform private.require_sendable(
        coalesce(jsonb_typeof(payload -> 'name'), 'string') = 'string' and coalesce(jsonb_typeof(payload -> 'address'), 'string') = 'string',
        'payload.name', 'name and address are texts');
    when 'contacts' then
      perform private.require_sendable(
        private.is_list_of_objects(payload -> 'contacts') and jsonb_array_length(payload -> 'contacts') between 1 and 100,
        'payload.contacts', 'payload.contacts is a list of contact cards');
    when 'reaction' then
      perform private.require_sendable(
        length(payload ->> 'message_id') between 1 and 256 and jsonb_typeof(payload -> 'emoji') = 'string' and length(payload ->> 'emoji') <= 20,
        'payload.message_id', 'payload has the WhatsApp id of a message, and an emoji ("" takes it back)');
    when 'image', 'audio', 'video', 'document', 'sticker' then
      perform private.require_sendable(
        case
          when payload ? 'path' then not payload ? 'link' and payload ->> 'path' ~ '^media/.' and length(payload ->> 'path') <= 1024
          else payload ->> 'link' ~ '^https://[^/?#@\s]+([/?#]\S*)?$' and length(payload ->> 'link') <= 2000
        end,
        'payload.link', 'payload has either an https link, or the path of a file in our Storage (media/…)');
      perform private.require_sendable(
        content is null or length(content) <= 1024 and message_type not in ('audio', 'sticker'),
        'content', 'content, the caption, has at most 1024 characters; audio and stickers have none');
      perform private.require_sendable(
        private.is_text(coalesce(payload ->> 'filename', 'x'), 240), 'payload.filename', 'A file name has 1 to 240 characters');
    else
      perform private.require_sendable(false, 'message_type', format('A message of type %s cannot be sent', message_type));
  end case;
end;
$$;
comment on function private.check_outbound(public.message_type, text, jsonb) is
  'Error invalid_message for what WhatsApp would refuse (Cloud API reference: text, interactive, media, template, location, contacts, reaction).';
