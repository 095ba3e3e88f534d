-- Families of words find each other, accents or not; strangers do not.
begin;
select plan(26);

select is(
  to_tsvector('pg_catalog.portuguese', private.search_text(family.other))::text,
  to_tsvector('pg_catalog.portuguese', private.search_text(family.word))::text,
  format('%s finds %s', family.other, family.word))
from (values
  ('vacinação', 'vacinações'), ('vacinação', 'vacinacao'), ('vacinação', 'VACINAÇOES'), ('vacinação', 'vacina'),
  ('avaliação', 'avaliações'), ('avaliação', 'avaliar'), ('animal', 'animais'), ('papel', 'papéis'), ('pão', 'pães'),
  ('cão', 'cães'), ('mão', 'mãos'), ('irmão', 'irmaos'), ('lençol', 'lençóis'), ('azul', 'azuis'), ('fácil', 'fáceis'),
  ('perfil', 'perfis'), ('real', 'reais'), ('homem', 'homens'), ('bom', 'bons'), ('consulta', 'consultas'),
  ('cirurgia', 'cirúrgica'), ('horário', 'horarios'), ('médico', 'medicos')
) family (word, other);

select isnt(
  to_tsvector('pg_catalog.portuguese', private.search_text('mais'))::text,
  to_tsvector('pg_catalog.portuguese', private.search_text('mal'))::text, 'mais is not the plural of mal');
select is(private.search_text('Não 😀 É'), 'nao 😀 e', 'emoji stay');
select is(private.search_text(null), null, 'nothing is nothing');

select * from finish();
rollback;
