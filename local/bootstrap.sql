-- What a hosted Supabase project has before the first migration: roles, schemas, rights. Run by a superuser at every
-- start; it may be repeated. Nothing here stands in for vault, net, cron or realtime: what is absent is absent.
-- local/database.ts fills in the passwords and runs storage.sql after this.

-- Roles -----------------------------------------------------------------------------------------------------------

do $$
declare
  role_name text;
begin
  foreach role_name in array array[
    'supabase_admin', 'postgres', 'anon', 'authenticated', 'service_role', 'authenticator', 'supabase_auth_admin',
    'supabase_storage_admin'
  ] loop
    if not exists (select from pg_catalog.pg_roles where rolname = role_name) then
      execute format('create role %I', role_name);
    end if;
  end loop;
end;
$$;

alter role supabase_admin superuser login createrole createdb replication bypassrls;
alter role postgres nosuperuser login createrole createdb replication bypassrls password 'postgres';
alter role anon nologin noinherit;
alter role authenticated nologin noinherit;
alter role service_role nologin noinherit bypassrls;
alter role authenticator login noinherit password :authenticator_password;
alter role supabase_auth_admin login noinherit createrole password :auth_admin_password;
alter role supabase_storage_admin login noinherit password :storage_admin_password;

grant anon, authenticated, service_role to authenticator;
grant anon, authenticated, service_role to postgres;
-- Hosted projects have it since 2023: whose statements run, and for how long.
grant pg_monitor to postgres;
grant anon, authenticated, service_role to supabase_storage_admin;

alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';
alter role postgres set search_path = "$user", public, extensions;
alter role supabase_auth_admin set search_path = auth;
alter role supabase_auth_admin set idle_in_transaction_session_timeout = '60s';
alter role supabase_storage_admin set search_path = storage;
alter role supabase_storage_admin set statement_timeout = '30s';
alter role supabase_storage_admin set lock_timeout = '8s';
alter role supabase_storage_admin set idle_in_transaction_session_timeout = '60s';

-- Database and schemas --------------------------------------------------------------------------------------------

do $$
begin
  execute format('alter database %I owner to postgres', current_database());
  execute format('grant create on database %I to supabase_auth_admin', current_database());

  -- Once only: our first migration takes these defaults back, and a later start must not give them again.
  if to_regnamespace('auth') is null then
    alter default privileges for role postgres in schema public
      grant all on tables to postgres, anon, authenticated, service_role;
    alter default privileges for role postgres in schema public
      grant all on sequences to postgres, anon, authenticated, service_role;
    alter default privileges for role postgres in schema public
      grant all on functions to postgres, anon, authenticated, service_role;
  end if;
end;
$$;

alter schema public owner to pg_database_owner;
grant usage on schema public to postgres, anon, authenticated, service_role;

create schema if not exists extensions;
alter schema extensions owner to postgres;
grant usage on schema extensions to anon, authenticated, service_role;

create schema if not exists auth;
alter schema auth owner to supabase_auth_admin;
grant usage on schema auth to postgres, anon, authenticated, service_role;
alter default privileges for role supabase_auth_admin in schema auth grant all on tables to postgres;
alter default privileges for role supabase_auth_admin in schema auth grant all on sequences to postgres;
alter default privileges for role supabase_auth_admin in schema auth grant all on functions to postgres;

-- PostgREST reads the schema again after every change of it -------------------------------------------------------

create or replace function extensions.pgrst_ddl_watch()
returns event_trigger
language plpgsql
set search_path = ''
as $$
begin
  notify pgrst, 'reload schema';
end;
$$;

do $$
begin
  if not exists (select from pg_catalog.pg_event_trigger where evtname = 'pgrst_ddl_watch') then
    create event trigger pgrst_ddl_watch on ddl_command_end
      when tag in (
        'CREATE SCHEMA', 'ALTER SCHEMA', 'CREATE TABLE', 'ALTER TABLE', 'CREATE VIEW', 'ALTER VIEW',
        'CREATE MATERIALIZED VIEW', 'CREATE FUNCTION', 'ALTER FUNCTION', 'CREATE TRIGGER', 'CREATE TYPE', 'ALTER TYPE',
        'GRANT', 'REVOKE', 'COMMENT'
      )
      execute function extensions.pgrst_ddl_watch();
    create event trigger pgrst_drop_watch on sql_drop execute function extensions.pgrst_ddl_watch();
  end if;
end;
$$;

-- pg_cron, where the server has it loaded: created as the platform creates it, because it takes a superuser --------

do $$
begin
  if 'pg_cron' = any (string_to_array(replace(current_setting('shared_preload_libraries'), ' ', ''), ',')) then
    create extension if not exists pg_cron with schema pg_catalog;
    grant usage on schema cron to postgres;
    revoke all on all tables in schema cron from postgres;
    grant select on cron.job to postgres;
    grant all on cron.job_run_details to postgres;
    grant execute on all functions in schema cron to postgres;
  end if;
end;
$$;
