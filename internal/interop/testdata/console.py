"""Evaluates Python for the tests.

A line in is JSON: {"expression": ..., "with": {name: value}}. The expression
may await, and sees the instance as app. A line out is JSON too: {"value": ...}
or {"error": "Type: message"}.
"""

import ast
import asyncio
import inspect
import json
import sys
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

from jobs import app

from soniq.core.leadership import with_advisory_lock
from soniq.features.dead_letter import DeadLetterFilter
from soniq.utils.hashing import compute_args_hash

KNOWN = dict(
    app=app,
    date=date,
    datetime=datetime,
    timedelta=timedelta,
    timezone=timezone,
    Decimal=Decimal,
    UUID=UUID,
    DeadLetterFilter=DeadLetterFilter,
    compute_args_hash=compute_args_hash,
)


class Locks:
    """Advisory locks that are held from one expression to another."""

    def __init__(self):
        self.held = {}

    async def take(self, name):
        await app.ensure_initialized()
        lock = with_advisory_lock(app.backend, name)
        taken = await lock.__aenter__()
        if taken:
            self.held[name] = lock
        else:
            await lock.__aexit__(None, None, None)
        return taken

    async def give_back(self, name):
        await self.held.pop(name).__aexit__(None, None, None)


async def answer(request):
    code = compile(
        request["expression"], "<test>", "eval", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    )
    value = eval(code, {**KNOWN, **request["with"]})
    if inspect.isawaitable(value):
        value = await value
    return {"value": value}


async def main():
    KNOWN["locks"] = Locks()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        try:
            reply = await answer(json.loads(line))
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply, default=jsonable), flush=True)
    await app.close()


def jsonable(value):
    return getattr(value, "__dict__", None) or str(value)


asyncio.run(main())
