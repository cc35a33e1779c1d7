-- The roles that a new database of RDS has.
-- https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.MasterAccounts.html
\getenv master MASTER_USER
\getenv password MASTER_PASSWORD
\getenv database DATABASE
CREATE ROLE rds_superuser NOLOGIN IN ROLE pg_monitor, pg_signal_backend, pg_checkpoint;
CREATE ROLE :"master" LOGIN CREATEDB CREATEROLE PASSWORD :'password' IN ROLE rds_superuser;
CREATE DATABASE :"database" OWNER :"master";
