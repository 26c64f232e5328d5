#!/bin/sh
# What meets: PostgreSQL 15's DateStyle = 'SQL, DMY' and bytea_output = escape
# (set for a role) and the Node drivers postgres (postgres.js) 3.4.9, pg 8.23.1.
#
# Behaviour: a timestamptz of 5 March arrives as the text '05/03/2026 ...'.
# postgres.js hands it to new Date(), which reads 3 May; 25 March is an Invalid
# Date. So twelve days of each month are silently wrong. pg gives null for a
# column that is NOT NULL. Both send timestamps rightly, so nothing is wrong in
# the table. A bytea in the format 'escape' loses its first two characters and
# is then read as hexadecimal by postgres.js: 'job' becomes no bytes at all.
# lib/pq 1.12.3 and pgjdbc 42.7.8 set DateStyle when they connect; these two do not.
#
# Why it matters: a job's due time, read as two months later and written back,
# moves the job; a lease that is null never ends. Start such a process with
# PGOPTIONS or a connection parameter that sets DateStyle to ISO.
. "$(dirname "$0")/lib.sh"

start_postgres
node_with postgres@3.4.9 pg@8.23.1
"$pgbin/psql" -qX -c "create role worker login" -c "alter role worker set datestyle = 'SQL, DMY'" \
	-c "alter role worker set bytea_output = escape" -c "alter role worker set timezone = 'UTC'"
export PGUSER=worker

cat >js/read.js <<'JS'
const postgres = require('postgres'), pg = require('pg')

async function main () {
  const sql = postgres({ host: process.env.PGHOST, port: process.env.PGPORT, database: 'postgres' })
  const client = new pg.Client()
  await client.connect()
  const drivers = {
    'postgres.js': async query => (await sql.unsafe(query))[0].value,
    pg: async query => (await client.query(query)).rows[0].value
  }
  const show = value => value instanceof Date ? (isNaN(value) ? 'Invalid Date' : value.toISOString()) : value
  for (const [name, value] of Object.entries(drivers)) {
    console.log(name, show(await value("select timestamptz '2026-03-05 10:20:30Z' as value")))
    console.log(name, show(await value("select timestamptz '2026-03-25 10:20:30Z' as value")))
    console.log(name, (await value("select bytea 'job' as value")).length, 'bytes')
  }
  const due = new Date('2026-03-05T10:20:30Z')
  console.log('stored', (await sql`select ${due}::timestamptz = timestamptz '2026-03-05 10:20:30Z' as same`)[0].same)
  await sql.end()
  await client.end()
}
main()
JS
node js/read.js >out
line() { sed -n "$1p" out; }

expect "5 March" "postgres.js 2026-05-03T10:20:30.000Z" "$(line 1)"
expect "25 March" "postgres.js Invalid Date" "$(line 2)"
expect "bytea 'job', 3 bytes" "postgres.js 0 bytes" "$(line 3)"
expect "5 March" "pg null" "$(line 4)"
expect "25 March" "pg null" "$(line 5)"
expect "bytea 'job', 3 bytes" "pg 3 bytes" "$(line 6)"
expect "5 March, sent by postgres.js" "stored true" "$(line 7)"
finish
