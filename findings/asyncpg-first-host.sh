#!/bin/sh
# What meets: a URL with two hosts, of which the first takes connections and says
# nothing (a machine that hangs, or a firewall that has lost its other half), and
# asyncpg 0.32.0; beside it psycopg 3.3.9 and pgx 5.13.0.
#
# Behaviour: asyncpg.connect(timeout=T) is one limit for all hosts together. The
# first host uses it up, and after T seconds the call ends with TimeoutError: the
# second host, which answers in milliseconds, was never asked. So it does with each
# call, for as long as the first host hangs; target_session_attrs changes nothing.
# psycopg's connect_timeout, and pgx's, is the time for each host: they connect to
# the second one after it. pgx without a connect_timeout, and with a deadline in its
# context alone, does as asyncpg does.
#
# Why it matters: the list of hosts is there for the failover, and a primary that
# hangs is how many failovers begin. With asyncpg a program stays away until somebody
# takes that host out of its URL. Try the hosts one by one, or shuffle them for each
# attempt; with pgx and libpq set connect_timeout.
. "$(dirname "$0")/lib.sh"

start_postgres
python_with asyncpg==0.32.0 'psycopg[binary]==3.3.9'
mute=$(free_port)
# The kernel takes connections for a socket that listens; nobody accepts them.
python3 -c 'import socket, sys, time
s = socket.create_server(("127.0.0.1", int(sys.argv[1])))
open("mute", "w").close()
time.sleep(900)' "$mute" &
stop_at_exit $!
until [ -e mute ]; do sleep 0.1; done

url="postgresql://soniq@127.0.0.1:$mute,127.0.0.1:$PGPORT/postgres"
server=$PGPORT
unset PGHOST PGPORT PGUSER PGDATABASE
cat >try.py <<'PY'
import asyncio, sys, asyncpg, psycopg

url = sys.argv[1]

async def with_asyncpg(more):
    try:
        connection = await asyncpg.connect(url + more, timeout=4, ssl=False)
        return "port " + str(await connection.fetchval("select inet_server_port()"))
    except Exception as error:
        return type(error).__name__

async def with_psycopg(more):
    try:
        connection = await psycopg.AsyncConnection.connect(url + more)
        return "port " + str((await (await connection.execute("select inet_server_port()")).fetchone())[0])
    except Exception as error:
        return type(error).__name__

async def main():
    print(await with_asyncpg(""))
    print(await with_asyncpg("?target_session_attrs=read-write"))
    print(await with_psycopg("?sslmode=disable&connect_timeout=2"))
    try:
        with psycopg.connect(url + "?sslmode=disable&connect_timeout=2") as connection:
            print("port", connection.execute("select inet_server_port()").fetchone()[0])
    except Exception as error:
        print(type(error).__name__)

asyncio.run(main())
PY
"$python" try.py "$url" >out
go_with github.com/jackc/pgx/v5@v5.13.0
cat >go/main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
)

func try(url string) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		fmt.Println("no connection")
		return
	}
	var port int
	_ = conn.QueryRow(ctx, "select inet_server_port()").Scan(&port)
	fmt.Println("port", port)
}

func main() {
	try(os.Getenv("URL") + "?sslmode=disable&connect_timeout=2")
	try(os.Getenv("URL") + "?sslmode=disable")
}
GO
URL=$url go_run >go.out
line() { sed -n "$1p" "$2"; }

expect "asyncpg, timeout=4" TimeoutError "$(line 1 out)"
expect "asyncpg, timeout=4, target_session_attrs" TimeoutError "$(line 2 out)"
expect "psycopg, asynchronous, connect_timeout=2" "port $server" "$(line 3 out)"
expect "psycopg, connect_timeout=2" "port $server" "$(line 4 out)"
expect "pgx, a deadline of 4 s, connect_timeout=2" "port $server" "$(line 1 go.out)"
expect "pgx, a deadline of 4 s" "no connection" "$(line 2 go.out)"
finish
