"""Follows the dead letters as docs/channel.md says, and tells what it learns.

Prints 'listening' on each connection, 'announced ID' for each notification, and
'read ID' for each row that the cursor brings.
"""

import asyncio
import json
import os

import asyncpg

CATCH_UP = """
select id, moved_xid::text as xid
from soniq_dead_letter_jobs
where (moved_xid, id) > ($1::text::xid8, $2::uuid)
  and moved_xid < pg_snapshot_xmin(pg_current_snapshot())
order by moved_xid, id
limit 100
"""


class Follower:
    position = ("0", "00000000-0000-0000-0000-000000000000")

    async def catch_up(self, conn):
        while rows := await conn.fetch(CATCH_UP, *self.position, timeout=10):
            for row in rows:
                print("read", row["id"])
                self.position = (row["xid"], str(row["id"]))

    async def follow(self):
        conn = await asyncpg.connect(
            os.environ["SONIQ_DATABASE_URL"],
            server_settings={"application_name": "follower"},
        )
        try:
            woken = asyncio.Event()

            def on_notify(conn, pid, channel, payload):
                print("announced", json.loads(payload)["id"])
                woken.set()

            conn.add_termination_listener(lambda conn: woken.set())
            await conn.add_listener("soniq_dead_letter", on_notify)
            print("listening")
            while True:
                woken.clear()
                await self.catch_up(conn)
                try:
                    await asyncio.wait_for(woken.wait(), timeout=0.5)
                except asyncio.TimeoutError:
                    pass
        finally:
            conn.terminate()


async def main():
    follower = Follower()
    while True:
        try:
            await follower.follow()
        except Exception:
            # Whatever it is. asyncpg 0.32 also raises InternalClientError, which
            # is no InterfaceError, where the connection ends between two queries.
            await asyncio.sleep(0.05)


asyncio.run(main())
