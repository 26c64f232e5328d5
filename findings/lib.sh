# Shared by the scripts of this folder: source it, do not run it.
# It bounds the script to 15 minutes, prints the script's own header (what meets
# what, in which versions), and changes to a new temporary folder, $work, which is
# removed at exit with every server that was started here.
set -eu

if [ -z "${FINDING_BOUNDED:-}" ]; then
	FINDING_BOUNDED=1 exec timeout 900 sh "$0"
fi
sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
echo

work=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
chmod 755 "$work"
cd "$work"
servers=
stop_at_exit() { servers="$servers $1"; }

clean_up() {
	for pid in $servers; do kill -INT "$pid" 2>/dev/null || true; done
	for pid in $servers; do wait "$pid" 2>/dev/null || true; done
	cd / && chmod -R u+w "$work" && rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM

free_port() {
	python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# initdb and postgres refuse to run as root.
as_postgres=
if [ "$(id -u)" = 0 ]; then as_postgres='setpriv --reuid=postgres --regid=postgres --clear-groups'; fi

# start_postgres [LINE-OF-postgresql.conf ...] starts an empty server on loopback and
# sets PGHOST, PGPORT, PGUSER, PGDATABASE for every client.
start_postgres() {
	pgbin=${PGBIN:-/usr/lib/postgresql/15/bin}
	pgdata=$(mktemp -d "$work/pg.XXXXXX")
	if [ "$(id -u)" = 0 ]; then chown postgres "$pgdata"; fi
	$as_postgres "$pgbin/initdb" -D "$pgdata" -U soniq -A trust -E UTF8 --locale=C -N >/dev/null
	PGHOST=127.0.0.1 PGPORT=$(free_port) PGUSER=soniq PGDATABASE=postgres
	export PGHOST PGPORT PGUSER PGDATABASE
	set -- "$@" fsync=off "unix_socket_directories=''" "listen_addresses='127.0.0.1'" "port=$PGPORT"
	printf '%s\n' "$@" >>"$pgdata/postgresql.conf"
	$as_postgres "$pgbin/postgres" -D "$pgdata" >"$work/postgres.log" 2>&1 &
	stop_at_exit $!
	for _ in $(seq 100); do
		"$pgbin/pg_isready" -q && return
		sleep 0.1
	done
	cat "$work/postgres.log" >&2
	return 1
}

# The four functions below install pinned packages into $work alone; only the
# package managers' own caches are shared with the user.

# python_with PACKAGE==VERSION ... sets $python.
python_with() {
	python3 -m venv "$work/py"
	"$work/py/bin/pip" --quiet --disable-pip-version-check install "$@"
	python=$work/py/bin/python
}

# node_with PACKAGE@VERSION ...: run scripts with node from the folder $work/js.
node_with() {
	mkdir -p "$work/js"
	echo '{"private": true}' >"$work/js/package.json"
	npm install --prefix "$work/js" --silent --no-audit --no-fund --ignore-scripts "$@" >/dev/null
}

# go_with MODULE@VERSION ...: put main.go into $work/go and call go_run.
go_with() {
	mkdir -p "$work/go"
	(cd "$work/go" && go mod init finding && go get "$@") >"$work/go.log" 2>&1 ||
		{ cat "$work/go.log" >&2; return 1; }
}
go_run() { (cd "$work/go" && go run -mod=mod .); }

# java_with GROUP:ARTIFACT:VERSION ...: run a source file with java -cp "$jars".
java_with() {
	mkdir -p "$work/java"
	{
		echo '<project><modelVersion>4.0.0</modelVersion><groupId>finding</groupId>'
		echo '<artifactId>finding</artifactId><version>1</version><dependencies>'
		for jar; do
			echo "$jar" | sed 's|\(.*\):\(.*\):\(.*\)|<dependency><groupId>\1</groupId><artifactId>\2</artifactId><version>\3</version></dependency>|'
		done
		echo '</dependencies></project>'
	} >"$work/java/pom.xml"
	(cd "$work/java" && mvn -B -q dependency:copy-dependencies -DoutputDirectory=lib) >"$work/mvn.log" 2>&1 ||
		{ cat "$work/mvn.log" >&2; return 1; }
	jars=$work/java/lib/*
}

# expect NAME WANT GOT: the check of a fact.
changed=0
expect() {
	if [ "$2" = "$3" ]; then
		printf 'as found  %s: %s\n' "$1" "$3"
	else
		printf 'CHANGED   %s: %s (was: %s)\n' "$1" "$3" "$2"
		changed=1
	fi
}
finish() { exit "$changed"; }
