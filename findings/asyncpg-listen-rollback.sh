#!/bin/sh
# What meets: asyncpg 0.32.0's add_listener and PostgreSQL 15's rule that LISTEN
# belongs to its transaction.
#
# Behaviour: add_listener within a transaction sends LISTEN there, so it hears
# nothing until the commit, and a rollback takes it back. asyncpg keeps the
# channel as registered all the same: add_listener for that channel again, after
# the rollback and outside any transaction, sends nothing to the server, returns
# without an error, and no callback is ever called, the second one neither, while
# pg_listening_channels() is empty. remove_listener for every callback first, then
# add_listener, brings it back.
#
# Why it matters: a worker that registers its channel beside its first queries, in
# one transaction that fails and is tried again, runs on with a healthy connection
# and hears no job: only its poll still finds them. Ask the server what it listens
# to, or send a notification to oneself, after each (re)connect.
. "$(dirname "$0")/lib.sh"

start_postgres
python_with asyncpg==0.32.0
cat >listen.py <<'PY'
import asyncio, asyncpg

async def main():
    heard = []
    first = lambda *notification: heard.append("first")
    second = lambda *notification: heard.append("second")
    worker, producer = await asyncpg.connect(), await asyncpg.connect()

    async def notify(name):
        await producer.execute("notify jobs")
        await asyncio.sleep(0.2)
        channels = await worker.fetch("select pg_listening_channels()")
        print(f"{name}: server has {len(channels)}, heard {heard}")
        heard.clear()

    transaction = worker.transaction()
    await transaction.start()
    await worker.add_listener("jobs", first)
    await transaction.rollback()
    await notify("rolled back")
    await worker.add_listener("jobs", second)
    await notify("added again")
    await worker.remove_listener("jobs", first)
    await worker.remove_listener("jobs", second)
    await worker.add_listener("jobs", second)
    await notify("removed and added")

asyncio.run(main())
PY
"$python" listen.py >out
line() { sed -n "$1p" out; }

expect "after the rollback" "rolled back: server has 0, heard []" "$(line 1)"
expect "add_listener again" "added again: server has 0, heard []" "$(line 2)"
expect "remove_listener, add_listener" "removed and added: server has 1, heard ['second']" "$(line 3)"
finish
