#!/bin/sh
# A database as RDS gives it: TLS or nothing, and a master who may make roles but is no superuser.
# Takes MASTER_USER, MASTER_PASSWORD and DATABASE. The emulator adds the server's certificate to the arguments.
set -eu
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
data=/var/lib/postgresql/data

as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }

install -d -o postgres -g postgres -m 700 "$data" /var/run/postgresql
if [ ! -s "$data/PG_VERSION" ]; then
	as_postgres initdb --pgdata="$data" --username=rdsadmin --encoding=UTF8 --locale=C.UTF-8 --no-sync --auth=reject >/dev/null
	cat >"$data/pg_hba.conf" <<-'RULES'
		local   all rdsadmin     peer map=machine
		hostssl all all      all scram-sha-256
	RULES
	echo 'machine postgres rdsadmin' >"$data/pg_ident.conf"
	echo "listen_addresses = '*'" >>"$data/postgresql.conf"
	as_postgres pg_ctl --pgdata="$data" --wait --options="-c listen_addresses=" start >/dev/null
	as_postgres psql --quiet --no-psqlrc --set=ON_ERROR_STOP=1 --username=rdsadmin --dbname=postgres \
		--file=/usr/local/bin/roles.sql
	as_postgres pg_ctl --pgdata="$data" --wait --mode=fast stop >/dev/null
fi
unset MASTER_PASSWORD
exec setpriv --reuid=postgres --regid=postgres --init-groups "$@" -D "$data"
