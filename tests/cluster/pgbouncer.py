"""A PgBouncer for the tests, in transaction mode: found, else fetched, else one clear error. Never a silent skip.

`make test` runs this file. What it fetches it unpacks beside the requirements: no root is needed, no service started.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import asyncpg

OWN = Path(sys.prefix) / "pgbouncer"
"""Where the fetched one is."""
MISSING = "PgBouncer (Debian: sudo apt-get install pgbouncer; or name one: PGBOUNCER=/path/to/pgbouncer make test)"
KEEPS_STATEMENTS = (1, 21)
"""From this version on it can keep the statements that its clients prepare."""
PORT = 6432  # the name of its socket; it listens nowhere else


def libraries() -> dict[str, str]:
    """The environment that the fetched one needs."""
    folders = [str(path.parent) for path in OWN.glob("usr/lib/*/lib*.so*")]
    return os.environ | {"LD_LIBRARY_PATH": ":".join(sorted({*folders}))} if folders else dict(os.environ)


def version_of(program: Path) -> tuple[int, ...] | None:
    """Its version; None if it does not start."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, env=libraries(), timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"(\d+)\.(\d+)", said.stdout.decode())
    return (int(found[1]), int(found[2])) if found and said.returncode == 0 else None


@lru_cache(maxsize=1)
def find() -> Path | None:
    """$PGBOUNCER, one of the system's, or the fetched one; None without any."""
    if named := os.environ.get("PGBOUNCER"):
        return Path(named) if version_of(Path(named)) else None
    path = os.environ.get("PATH", "")
    on_path = shutil.which("pgbouncer", path=f"{path}:/usr/sbin:/usr/local/sbin")
    for program in (Path(on_path) if on_path else None, OWN / "usr/sbin/pgbouncer"):
        if program and version_of(program):
            return program
    return None


def fetch(into: Path) -> None:
    """Have apt fetch the package with what it needs, and unpack it; apt's own lists and lock stay as they are."""
    if not shutil.which("apt-get"):
        return
    print("Fetching PgBouncer with apt-get…", flush=True)
    shutil.rmtree(into, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for folder in ("state/lists/partial", "cache/archives/partial"):
            (work / folder).mkdir(parents=True)
        apt = [
            "apt-get", "-qq", "-o", f"Dir::State={work}/state", "-o", f"Dir::Cache={work}/cache",
            "-o", "Dir::State::status=/var/lib/dpkg/status", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=",
        ]  # fmt: skip
        install = ["install", "--yes", "--download-only", "--no-install-recommends", "pgbouncer"]
        for command in ([*apt, "update"], [*apt, *install]):
            if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False).returncode:
                return
        for package in (work / "cache/archives").glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", package, into], check=True)


class Bouncer:
    """A PgBouncer in front of the PostgreSQL at `url`, started and stopped by hand; in the end it is gone."""

    def __init__(self, url: str, *, keeps_statements: bool, mode: str = "transaction"):
        program = find()
        assert program, f"expected {MISSING}"
        self._program = program
        self._folder = Path(tempfile.mkdtemp(prefix="tocsin-bouncer-"))
        self._process: asyncio.subprocess.Process | None = None
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        host = query.get("host") or parts.hostname or "127.0.0.1"
        behind = {
            "host": host, "port": query.get("port") or str(parts.port or 5432), "user": unquote(parts.username or ""),
            "password": unquote(parts.password or ""),
        }  # fmt: skip
        there = " ".join(f"{name}='{value}'" for name, value in behind.items() if value)
        settings = {
            "listen_addr": "", "unix_socket_dir": str(self._folder), "listen_port": str(PORT), "auth_type": "any",
            "pool_mode": mode, "default_pool_size": "4", "logfile": str(self._folder / "log"),
        }  # fmt: skip
        version = version_of(program)
        assert version
        if version >= KEEPS_STATEMENTS:
            settings["max_prepared_statements"] = "100" if keeps_statements else "0"
        if os.getuid() == 0:  # it will not work as root; the sockets of PostgreSQL may be its owner's alone
            settings["user"] = Path(host).owner() if host.startswith("/") else "nobody"
            shutil.chown(self._folder, settings["user"])
        lines = ["[databases]", f"* = {there}", "[pgbouncer]", *(f"{name} = {v}" for name, v in settings.items())]
        self._file = self._folder / "pgbouncer.ini"
        self._file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._file.chmod(0o644)

    def url(self, behind: str, **options: str) -> str:
        """The way through it to the database that `behind` names."""
        query = urlencode({"host": str(self._folder), "port": str(PORT)} | options, safe="/")
        return urlunsplit(("postgresql", "tocsin@", urlsplit(behind).path, query, ""))

    async def start(self) -> None:
        """Start it, and return once it takes connections."""
        assert self._process is None
        self._process = await asyncio.create_subprocess_exec(
            self._program, "-q", self._file, env=libraries(), stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(60):
            while not await self._answers():
                assert self._process.returncode is None, self.last_words()

    async def _answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self.url("x:///postgres"), timeout=5)
        except (OSError, asyncpg.PostgresConnectionError):
            await asyncio.sleep(0.02)
            return False
        await connection.close()
        return True

    async def stop(self, how: signal.Signals) -> None:
        """End it: SIGINT lets transactions end first, SIGKILL does not."""
        assert self._process
        self._process.send_signal(how)
        async with asyncio.timeout(60):
            await self._process.wait()
        self._process = None

    def last_words(self) -> str:
        """The end of its log."""
        log = self._folder / "log"
        return log.read_text(encoding="utf-8", errors="replace")[-1500:] if log.exists() else "it said nothing"

    async def __aenter__(self) -> Bouncer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process:
            await self.stop(signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)


def main() -> None:
    """Make sure that there is one, or say how to get it: the tests that need it fail without."""
    if not find() and not os.environ.get("PGBOUNCER"):
        fetch(OWN)
        find.cache_clear()
    if not find():
        print(f"tests/cluster: expected {MISSING}", file=sys.stderr)


if __name__ == "__main__":
    main()
