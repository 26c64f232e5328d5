#!/bin/sh
# What meets: asyncpg 0.32.0, which writes a row, and pgx 5.13.0, lib/pq 1.12.3,
# psycopg 3.3.9, postgres.js 3.4.9, which read it, on PostgreSQL 15.
#
# Behaviour: asyncpg stores datetime.max as the timestamp 'infinity', though
# 9999-12-31 23:59:59.999999 is a value that the column can hold and psycopg
# does store. Read back by asyncpg an aware datetime.max is a naive one, so
# comparing it with datetime.now(utc) raises TypeError. pgx, lib/pq and psycopg
# can't read 'infinity' into their time types and raise; postgres.js gives an
# Invalid Date. One microsecond less is stored and read by all of them.
#
# Why it matters: datetime.max is what Python programs write for "never expires"
# or "parked". One such row makes a Go worker's whole batch fail to scan. A
# reader in Go wants pgtype.Timestamptz, or a CHECK (isfinite(column)).
. "$(dirname "$0")/lib.sh"

start_postgres timezone=UTC
python_with asyncpg==0.32.0 'psycopg[binary]==3.3.9' tzdata
node_with postgres@3.4.9
go_with github.com/jackc/pgx/v5@v5.13.0 github.com/lib/pq@v1.12.3
export PGSSLMODE=disable

cat >write.py <<'PY'
import asyncio, datetime, asyncpg, psycopg

never = datetime.datetime.max.replace(tzinfo=datetime.timezone.utc)

async def main():
    c = await asyncpg.connect()
    await c.execute("create table jobs (id int, expires timestamptz)")
    await c.execute("insert into jobs values (1, $1)", never)
    await c.execute("insert into jobs values (2, $1)", never - datetime.timedelta(microseconds=1))
    print("asyncpg stores", await c.fetchval("select expires::text from jobs where id = 1"))
    print("asyncpg stores", await c.fetchval("select expires::text from jobs where id = 2"))
    print("asyncpg reads tzinfo", (await c.fetchval("select expires from jobs where id = 1")).tzinfo)

asyncio.run(main())
c = psycopg.connect(autocommit=True)
print("psycopg stores", c.execute("select %s::timestamptz::text", (never,)).fetchone()[0])
try:
    print("psycopg reads", c.execute("select expires from jobs where id = 1").fetchone()[0])
except psycopg.DataError as error:
    print("psycopg reads", error)
PY
cat >js/read.js <<'JS'
const sql = require('postgres')({ host: process.env.PGHOST, port: process.env.PGPORT, database: 'postgres' })
sql`select expires from jobs where id = 1`.then(rows => {
  console.log('postgres.js reads', String(rows[0].expires))
  return sql.end()
})
JS
cat >go/main.go <<'GO'
package main

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/lib/pq"
)

func main() {
	ctx := context.Background()
	var expires time.Time
	conn, err := pgx.Connect(ctx, "")
	if err != nil {
		panic(err)
	}
	fmt.Println("pgx reads row 1:", conn.QueryRow(ctx, "select expires from jobs where id = 1").Scan(&expires))
	fmt.Println("pgx reads row 2:", conn.QueryRow(ctx, "select expires from jobs where id = 2").Scan(&expires))
	db, _ := sql.Open("postgres", "")
	fmt.Println("lib/pq reads row 1:", db.QueryRow("select expires from jobs where id = 1").Scan(&expires))
}
GO
"$python" write.py >out
node js/read.js >>out
go_run >>out
line() { sed -n "$1p" out; }

expect "datetime.max" "asyncpg stores infinity" "$(line 1)"
expect "a microsecond less" "asyncpg stores 9999-12-31 23:59:59.999998+00" "$(line 2)"
expect "back" "asyncpg reads tzinfo None" "$(line 3)"
expect "datetime.max" "psycopg stores 9999-12-31 23:59:59.999999+00" "$(line 4)"
expect "asyncpg's row" "psycopg reads timestamp too large (after year 10K): 'infinity'" "$(line 5)"
expect "asyncpg's row" "postgres.js reads Invalid Date" "$(line 6)"
expect "asyncpg's row" "pgx reads row 1: can't scan into dest[0] (col: expires): cannot scan Infinity into *time.Time" "$(line 7)"
expect "a microsecond less" "pgx reads row 2: <nil>" "$(line 8)"
expect "asyncpg's row" 'lib/pq reads row 1: sql: Scan error on column index 0, name "expires": unsupported Scan, storing driver.Value type []uint8 into type *time.Time' "$(line 9)"
finish
