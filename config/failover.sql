-- The role by which pgring acts on the nodes of a cluster: the `user` of [clusters.failover].
--
--   psql -v role=pgring_failover -d postgres -f failover.sql
--
-- Run it once, as a superuser, on the primary; standbys get it by replication. Run it in the
-- database that pgring logs in to (`database` of [monitor]): rights to functions are kept in each
-- database. It takes PostgreSQL 15 or later, for before that only superusers change such settings.
-- It may be run again. Give the role a password yourself (\password), or leave it to pg_hba.conf.
--
-- With this role one can turn the primary into a read-only server, end all sessions but those of
-- superusers, promote a standby, and make a standby receive from anywhere. So let nobody but the
-- hosts of pgring log in with it (pg_hba.conf). It reads no table.

\set ON_ERROR_STOP on
\if :{?role}
\else
  \set role pgring_failover
\endif

SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') AS is_new \gset
\if :is_new
  CREATE ROLE :"role";
\endif

-- REPLICATION: makes, moves and drops physical slots.
ALTER ROLE :"role" LOGIN REPLICATION NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS;

-- Sees primary_conninfo and restore_command, which others may not.
GRANT pg_read_all_settings TO :"role";
-- Sees whether a standby receives, from where and since when; who receives from a primary and how
-- far; and what the process waits for that replays.
GRANT pg_read_all_stats TO :"role";
-- Sees of which timeline a standby has WAL that receives none any more: names of files only.
GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_waldir() TO :"role";

-- Freezes a standby and lets it follow another primary, from a slot there.
GRANT ALTER SYSTEM ON PARAMETER primary_conninfo, primary_slot_name TO :"role";
-- Has a standby that a new primary refused at first try again within 0.1 s instead of 5 s.
GRANT ALTER SYSTEM ON PARAMETER wal_retrieve_retry_interval TO :"role";
-- Has a standby ask a silent primary whether it is there, and so be a witness.
GRANT ALTER SYSTEM ON PARAMETER wal_receiver_timeout TO :"role";
-- Says which standbys acknowledge commits.
GRANT ALTER SYSTEM ON PARAMETER synchronous_standby_names TO :"role";
-- Shuts an old primary that can still be asked.
GRANT ALTER SYSTEM ON PARAMETER default_transaction_read_only TO :"role";
-- Has such settings read.
GRANT EXECUTE ON FUNCTION pg_catalog.pg_reload_conf() TO :"role";
-- Ends the sessions of an old primary; not those of superusers.
GRANT pg_signal_backend TO :"role";
-- Promotes.
GRANT EXECUTE ON FUNCTION pg_catalog.pg_promote(boolean, integer) TO :"role";
-- Has a new primary write its timeline where pg_rewind looks for it.
GRANT pg_checkpoint TO :"role";

-- Everybody has what else it takes: pg_control_system(), pg_control_checkpoint() and
-- pg_logical_emit_message(). Where somebody has taken that from PUBLIC:
--   GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_system(), pg_catalog.pg_control_checkpoint(),
--     pg_catalog.pg_logical_emit_message(boolean, text, text) TO :"role";

-- Not for this role, but for that of primary_conninfo, by which hooks/rejoin calls pg_rewind. Take
-- the comment signs away, and give its name, unless it is a superuser:
--   GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text, boolean, boolean),
--     pg_catalog.pg_stat_file(text, boolean), pg_catalog.pg_read_binary_file(text),
--     pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) TO replicator;
