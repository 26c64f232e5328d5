#!/bin/sh
# What meets: lib/pq 1.12.3 and a SCRAM password with 999 iterations.
#
# Behaviour: PostgreSQL lets the administrator choose the iterations (scram_iterations
# since 16, any number in a stored verifier before). lib/pq judges the number by how
# many characters it has: with 999 it refuses the server's message as invalid, with
# 1000 it logs in. psql, pgx 5.9.2 and psycopg log in with both.
#
# Why it matters: a role with cheap logins, made for a service that connects often,
# works with every program but the Go services on lib/pq, whose error blames the server.
. "$(dirname "$0")/lib.sh"

start_postgres
psql="$pgbin/psql -X -A -t -q"
python_with psycopg[binary]==3.3.1
go_with github.com/lib/pq@v1.12.3 github.com/jackc/pgx/v5@v5.9.2
cat >go/main.go <<'GO'
package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"
	_ "github.com/lib/pq"
)

func main() {
	url := os.Getenv("URL")
	db, err := sql.Open("postgres", url+"?sslmode=disable")
	if err == nil {
		err = db.Ping()
	}
	fmt.Println("lib/pq:", err)
	conn, err := pgx.Connect(context.Background(), url+"?sslmode=disable")
	if err == nil {
		err = conn.Ping(context.Background())
	}
	fmt.Println("pgx:", err)
}
GO
# What PostgreSQL stores for the password "secret" with so many iterations.
cat >verifier.py <<'PY'
import base64, hashlib, hmac, sys

n, salt = int(sys.argv[1]), b"0123456789abcdef"
key = hashlib.pbkdf2_hmac("sha256", b"secret", salt, n)

def mac(name):
    return hmac.digest(key, name, "sha256")

def text(value):
    return base64.b64encode(value).decode()

stored = hashlib.sha256(mac(b"Client Key")).digest()
print(f"SCRAM-SHA-256${n}:{text(salt)}${text(stored)}:{text(mac(b'Server Key'))}")
PY
for n in 999 1000; do
	$psql -c "create role it$n login password '$(python3 verifier.py $n)'"
done
printf 'host all soniq 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n' >"$pgdata/pg_hba.conf"
$psql -c 'select pg_reload_conf()' >/dev/null

login() { URL="postgres://it$1:secret@127.0.0.1:$PGPORT/postgres" go_run 2>&1 | sed -n "s|^$2: ||p"; }
py() { PGPASSWORD=secret "$python" -c "import psycopg; print(psycopg.connect(user='it$1').execute('select 1').fetchone()[0])" 2>&1; }

expect "psql, 999" 1 "$(PGPASSWORD=secret $psql -U it999 -c 'select 1' 2>&1)"
expect "psycopg, 999" 1 "$(py 999)"
expect "pgx, 999" "<nil>" "$(login 999 pgx)"
expect "lib/pq, 999" \
	'pq: SCRAM-SHA-256 error: server sent an invalid SCRAM-SHA-256 iteration count: "i=999"' \
	"$(login 999 lib/pq)"
expect "lib/pq, 1000" "<nil>" "$(login 1000 lib/pq)"
finish
