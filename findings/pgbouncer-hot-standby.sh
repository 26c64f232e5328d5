#!/bin/sh
# What meets: PgBouncer 1.18.0 (Debian 12), a PostgreSQL 15 standby that is promoted
# behind it, and libpq's target_session_attrs.
#
# Behaviour: since PostgreSQL 14 a server reports in_hot_standby to its clients, and
# libpq decides by it what target_session_attrs is satisfied with. PgBouncer tells each
# client what the server reported at the pool's first login. After the promotion,
# writes through PgBouncer work, and psql with target_session_attrs=read-write is
# refused all the same: "session is read-only". So it goes on with server connections
# that were made after the promotion. target_session_attrs=standby is satisfied with
# the primary. RECONNECT on PgBouncer's console ends it.
#
# Why it matters: after a failover behind the pooler, workers that ask for read-write
# find no server although there is one, and readers that ask for a standby load the
# primary. RECONNECT belongs into the failover's script. What a client wants to know
# it can ask: select pg_is_in_recovery().
. "$(dirname "$0")/lib.sh"

version=1.18.0-1+deb12u1
apt-get download "pgbouncer=$version" >apt.log 2>&1 || { cat apt.log >&2; exit 1; }
dpkg -x pgbouncer_*.deb pooler

start_postgres hot_standby=on "restore_command='false'"
psql="$pgbin/psql -X -A -t -q"
# A server that is stopped cleanly and started with standby.signal is a standby.
kill -INT "${servers##* }" && wait "${servers##* }" || true
: >"$pgdata/standby.signal"
$as_postgres "$pgbin/postgres" -D "$pgdata" >"$work/standby.log" 2>&1 &
stop_at_exit $!
until "$pgbin/pg_isready" -q; do sleep 0.1; done

pooler_port=$(free_port)
cat >pooler.ini <<INI
[databases]
postgres = host=127.0.0.1 port=$PGPORT user=soniq
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $pooler_port
auth_type = any
pool_mode = session
unix_socket_dir =
ignore_startup_parameters = extra_float_digits
admin_users = soniq
logfile = $work/pooler.log
INI
chown postgres "$work" pooler.ini 2>/dev/null || true
$as_postgres pooler/usr/sbin/pgbouncer pooler.ini >/dev/null 2>&1 &
stop_at_exit $!
until "$pgbin/pg_isready" -q -p "$pooler_port"; do sleep 0.1; done
through="host=127.0.0.1 port=$pooler_port user=soniq dbname=postgres"

ask() { $psql "$through target_session_attrs=$1" -c 'select pg_is_in_recovery()' 2>&1 | sed 's/.*failed: //'; }

expect "standby: any" t "$(ask any)"
expect "standby: read-write" "session is read-only" "$(ask read-write)"
$psql -c 'select pg_promote()' >/dev/null
expect "promoted: a write" "" "$($psql "$through" -c 'create table t ()' 2>&1)"
expect "promoted: read-write" "session is read-only" "$(ask read-write)"
$psql -c "select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()" >/dev/null
expect "new server connections: any" f "$(ask any)"
expect "new server connections: read-write" "session is read-only" "$(ask read-write)"
expect "new server connections: standby" f "$(ask standby)"
expect "without PgBouncer: read-write" f "$($psql target_session_attrs=read-write -c 'select pg_is_in_recovery()' 2>&1)"
$psql "host=127.0.0.1 port=$pooler_port user=soniq dbname=pgbouncer" -c reconnect
$psql -c "select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()" >/dev/null
expect "after RECONNECT: read-write" f "$(ask read-write)"
finish
