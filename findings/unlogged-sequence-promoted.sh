#!/bin/sh
# What meets: PostgreSQL 15's unlogged sequences and a standby that is promoted
# before its first restartpoint after one was made. Seen with 15.18; 17.11 and 18.6
# read the sequence.
#
# Behaviour: on the promoted server nextval() and pg_sequence_last_value() fail
# with 'bad magic number in sequence: 00000000', until the sequence is dropped
# and made anew. The page that an unlogged sequence is reset to, its init fork,
# is replayed into memory and not written, as it is for other unlogged
# relations; the promotion copies what the disk has, which is zeros. A recovery
# to a point in time that ends so soon does the same.
#
# Why it matters: a trigger or a default that reads such a sequence refuses
# every insert after a failover that follows a deployment by minutes. Make the
# sequence logged, or catch internal_error and make it anew.
. "$(dirname "$0")/lib.sh"

start_postgres
mkdir standby
if [ "$(id -u)" = 0 ]; then chown postgres standby; fi
chmod 700 standby
$as_postgres "$pgbin/pg_basebackup" -D "$work/standby" -R -c fast
primary=$PGPORT
"$pgbin/psql" -qX -c "create unlogged sequence u"
"$pgbin/psql" -qXAt -c "select 'on the primary: ' || nextval('u')"
"$pgbin/psql" -qXAt -c "select pg_current_wal_lsn()" >lsn

PGPORT=$(free_port)
export PGPORT
echo "port=$PGPORT" >>"$work/standby/postgresql.conf"
$as_postgres "$pgbin/postgres" -D "$work/standby" >"$work/standby.log" 2>&1 &
stop_at_exit $!
for _ in $(seq 300); do
	"$pgbin/psql" -qXAt -c "select pg_last_wal_replay_lsn() >= '$(cat lsn)'" 2>/dev/null | grep -q t && break
	sleep 0.1
done
"$pgbin/psql" -qX -c "select pg_promote()" >/dev/null
echo "after the promotion (the primary was at port $primary):"
"$pgbin/psql" -qXAt -c "select nextval('u')" 2>&1 | tee said
grep -q 'bad magic number in sequence' said
