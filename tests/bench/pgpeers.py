"""Peers on PostgreSQL, each in its usual way: enqueue so many jobs one by one, a worker beside it, until all are done.

python -m tests.bench.pgpeers procrastinate|pgqueuer URL TASKS
"""

from __future__ import annotations

import asyncio
import sys
from time import perf_counter
from typing import Any

ARGUMENT = {"titre": "alerte", "message": "Restez chez vous. " * 14, "utilisateurs": ["u1", "u2"]}


class Countdown:
    """Set once so many jobs were done."""

    def __init__(self, tasks: int):
        self.left = tasks
        self.over = asyncio.Event()

    def one(self) -> None:
        self.left -= 1
        if not self.left:
            self.over.set()


def ready() -> None:
    """What the bench waits for."""
    print("peer: http://localhost:1/", flush=True)


async def procrastinate(url: str, tasks: int) -> float:
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=url))
    count = Countdown(tasks)

    @app.task(name="notify")
    async def notify(**argument: Any) -> None:
        count.one()

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        ready()
        worker = asyncio.create_task(app.run_worker_async(concurrency=32, install_signal_handlers=False))
        began = perf_counter()
        for _ in range(tasks // 64):
            await asyncio.gather(*(notify.defer_async(**ARGUMENT) for _ in range(64)))
        for _ in range(tasks % 64):
            await notify.defer_async(**ARGUMENT)
        await count.over.wait()
        took = perf_counter() - began
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
    return tasks / took


async def pgqueuer(url: str, tasks: int) -> float:
    import json

    import asyncpg
    from pgqueuer import PgQueuer
    from pgqueuer.db import AsyncpgDriver
    from pgqueuer.queries import Queries

    driver = AsyncpgDriver(await asyncpg.connect(url))
    queries = Queries(AsyncpgDriver(await asyncpg.connect(url)))
    await queries.install()
    queuer = PgQueuer(driver)
    count = Countdown(tasks)

    @queuer.entrypoint("notify")
    async def notify(job: Any) -> None:
        count.one()

    ready()
    worker = asyncio.create_task(queuer.run(batch_size=32))
    argument = json.dumps(ARGUMENT).encode()
    began = perf_counter()
    for _ in range(tasks):
        await queries.enqueue("notify", argument)
    await count.over.wait()
    took = perf_counter() - began
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    return tasks / took


async def main(which: str, url: str, tasks: int) -> None:
    async with asyncio.timeout(90):
        per_s = await {"procrastinate": procrastinate, "pgqueuer": pgqueuer}[which](url, tasks)
    print(f"per_s {per_s}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
