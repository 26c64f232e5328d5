"""The jobs that Python Soniq has in these tests, and its instance."""

import asyncio
import os

from pydantic import BaseModel

from soniq import JobContext, Snooze, Soniq

app = Soniq(database_url=os.environ["SONIQ_DATABASE_URL"])


def told(arguments):
    """Arguments as the handler got them: the values, and what Python takes them for."""
    return {
        "by": "python",
        "args": arguments,
        "types": {name: type(value).__name__ for name, value in arguments.items()},
    }


@app.job(name="shared.echo", queue="shared")
async def echo(**arguments):
    return told(arguments)


@app.job(name="python.echo", queue="python")
async def python_echo(**arguments):
    return told(arguments)


@app.job(name="shared.fails", queue="shared", max_retries=0)
async def fails(message: str = "no such luck"):
    raise RuntimeError(message)


@app.job(name="shared.fails_once", queue="shared", max_retries=3)
async def fails_once(ctx: JobContext):
    if ctx.attempt == 1:
        raise RuntimeError("not at the first attempt")
    return {"by": "python", "attempt": ctx.attempt}


class Order(BaseModel):
    order: int


@app.job(name="python.typed", queue="python", validate=Order)
async def typed(order: int):
    return {"by": "python", "order": order}


@app.job(name="python.snoozes", queue="shared")
async def snoozes():
    return Snooze(seconds=0.01, reason="too early")


@app.job(name="shared.held", queue="shared")
async def held(ctx: JobContext):
    """The first attempt goes on until its process is killed."""
    if ctx.attempt == 1:
        await asyncio.sleep(3600)
    return {"by": "python", "attempt": ctx.attempt}
