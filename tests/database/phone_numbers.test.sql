-- One table of phone numbers for SQL and TypeScript: tests/phone_numbers.csv.
begin;
select plan((select count(*)::int from tests.phone_numbers) + 3);

select is(
  case p.entry
    when 'human' then private.phone_from_human_input(p.input)
    else private.phone_from_provider_id(p.input)
  end,
  p.expected,
  format('%s "%s" is %s', p.entry, p.input, coalesce(p.expected, 'no phone number')))
from tests.phone_numbers p;

select tests.a_tenant('clinic');
select tests.authenticate_as(tests.the('clinic', 'attendant_id'));
insert into public.contacts (name, phone_number) values ('Ana', '(31) 8765-0003');
select is(
  (select phone_number from public.contacts where name = 'Ana'), '+5531987650003',
  'a contact''s number may be written as people write it');
select throws_ok(
  $$ insert into public.contacts (name, phone_number) values ('Bia', '8765-0003') $$,
  'BL003', null, 'a number without area code is refused with a code');
select throws_ok(
  $$ insert into public.contacts (name, phone_number) values ('Ana outra vez', '5531987650003') $$,
  '23505', null, 'with and without the ninth digit it is one number');

select * from finish();
rollback;
