"""The peers' own programs: for each the task that counts itself, how its worker is started, how a task is sent.

Imported by the workers themselves (`tests.bench.peer_apps:…`), so one that is not installed must not break the others.
`main` sends, waits, and prints tasks/s.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

URL = f"redis://127.0.0.1:{os.environ.get('BENCH_REDIS', '6379')}/0"
FOLDER = Path(os.environ.get("BENCH_FOLDER", "/tmp"))
ARGUMENT = {"titre": "alerte", "message": "Restez chez vous. " * 14, "utilisateurs": ["u1", "u2"]}
COUNT = str(FOLDER / "count.sock")

_counter: socket.socket | None = None


def count() -> None:
    """One task is done: a byte to the sender, the same for every peer and next to nothing."""
    global _counter
    if _counter is None:
        _counter = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        _counter.connect(COUNT)
    _counter.send(b"1")


async def notify_async(*_: Any, **__: Any) -> None:
    count()


async def notify_taskiq(*_: Any, **__: Any) -> None:  # taskiq renames what it is given
    count()


def notify(*_: Any, **__: Any) -> None:
    count()


with suppress(ImportError):
    import saq

    saq_queue = saq.Queue.from_url(URL)
    saq_settings = {"queue": saq_queue, "functions": [("notify", notify_async)], "concurrency": 32}

with suppress(ImportError):
    from arq.connections import RedisSettings

    class ArqWorker:
        """arq's settings."""

        functions = [notify_async]
        redis_settings = RedisSettings.from_dsn(URL)
        max_jobs = 32


with suppress(ImportError):
    from taskiq_redis import ListQueueBroker

    taskiq_broker = ListQueueBroker(URL)
    taskiq_notify = taskiq_broker.task(task_name="notify")(notify_taskiq)

with suppress(ImportError):
    from huey import RedisHuey, SqliteHuey

    huey_redis = RedisHuey("bench", url=URL)
    huey_sqlite = SqliteHuey("bench", filename=str(FOLDER / "huey.db"), fsync=True)
    huey_redis_notify = huey_redis.task(name="notify")(notify)
    huey_sqlite_notify = huey_sqlite.task(name="notify")(notify)

with suppress(ImportError):
    import celery

    celery_app = celery.Celery("bench", broker=URL)
    celery_notify = celery_app.task(notify, name="notify", ignore_result=True)


async def _crowd(tasks: int, send: Callable[[], Awaitable[Any]]) -> None:
    for _ in range(0, tasks, 64):
        await asyncio.gather(*(send() for _ in range(64)))


def send_saq(tasks: int) -> None:
    async def all_of_them() -> None:
        queue = saq.Queue.from_url(URL)
        await queue.connect()
        await _crowd(tasks, lambda: queue.enqueue("notify", **ARGUMENT))

    asyncio.run(all_of_them())


def send_arq(tasks: int) -> None:
    async def all_of_them() -> None:
        from arq import create_pool

        pool = await create_pool(RedisSettings.from_dsn(URL))
        await _crowd(tasks, lambda: pool.enqueue_job("notify_async", ARGUMENT))

    asyncio.run(all_of_them())


def send_taskiq(tasks: int) -> None:
    async def all_of_them() -> None:
        broker = ListQueueBroker(URL)  # its connections belong to one loop
        await broker.startup()
        await _crowd(tasks, lambda: taskiq_notify.kicker().with_broker(broker).kiq(ARGUMENT))
        await broker.shutdown()

    asyncio.run(all_of_them())


def send_huey_redis(tasks: int) -> None:
    for _ in range(tasks):
        huey_redis_notify(ARGUMENT)


def send_huey_sqlite(tasks: int) -> None:
    for _ in range(tasks):
        huey_sqlite_notify(ARGUMENT)


def send_rq(tasks: int) -> None:
    from redis import Redis
    from rq import Queue

    queue = Queue(connection=Redis.from_url(URL))
    for _ in range(tasks):
        queue.enqueue(notify, ARGUMENT)


def send_celery(tasks: int) -> None:
    for _ in range(tasks):
        celery_notify.delay(ARGUMENT)


@dataclass(frozen=True)
class Peer:
    """How one peer is started and fed."""

    name: str
    module: str
    worker: list[str]
    send: Callable[[int], None]
    note: str = ""
    slow: int = 1  # gets so many times fewer tasks, so as to be done in time


_HERE = "tests.bench.peer_apps"
PEERS = (
    Peer("SAQ", "saq", ["saq", f"{_HERE}.saq_settings"], send_saq),
    Peer("arq", "arq", ["arq", f"{_HERE}.ArqWorker"], send_arq),
    Peer("taskiq", "taskiq_redis", ["taskiq", "worker", f"{_HERE}:taskiq_broker", "--workers", "1"], send_taskiq),
    Peer("huey on Redis", "huey", ["huey_consumer", f"{_HERE}.huey_redis", "-w", "4"], send_huey_redis),
    Peer("huey on SQLite", "huey", ["huey_consumer", f"{_HERE}.huey_sqlite", "-w", "4"], send_huey_sqlite, "fsync on"),
    Peer("RQ", "rq", ["rq", "worker", "--quiet", "--url", "{redis}"], send_rq, "its worker forks for every task", 10),
    Peer("Celery", "celery", ["celery", "-A", f"{_HERE}:celery_app", "worker", "-c", "1", "-l", "ERROR"], send_celery),
)


def main(name: str, tasks: int) -> None:
    """Send to a worker that runs, wait until all tasks have counted themselves, print tasks/s."""
    peer = next(peer for peer in PEERS if peer.name == name)
    counted = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    counted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024 * 1024)
    counted.bind(COUNT)
    counted.settimeout(40)
    peer.send(64)  # the worker has started once these are done
    for _ in range(64):
        counted.recv(8)
    sleep(0.2)
    from threading import Thread

    began = perf_counter()
    sender = Thread(target=peer.send, args=(tasks,), daemon=True)
    sender.start()
    for _ in range(tasks):
        counted.recv(8)
    print(tasks / (perf_counter() - began))
