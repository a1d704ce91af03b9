"""What the benchmarks share: cores, a server as a process of its own, and rows for the table.

The server has core 0 to itself and the load core 1, so that neither takes time from the other; where there is one
core alone they share it, and the report says so.
"""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
import apsw
import msgspec
import uvloop

ROOT = Path(__file__).resolve().parents[2]
KEY = "tocsin_key_of_the_bench_0123456789"
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]
NULL = {f"TOCSIN_CHANNELS__{name}__URL": "null:" for name in ("EMAIL", "SMS", "APP")}

Row = dict[str, Any]


def row(
    figure: str, value: float | None, unit: str, limit: float | None = None, target: str = "", note: str = ""
) -> Row:
    """One line of the table; `limit` is what the bare machinery did in the same run."""
    ratio = value / limit if limit and value is not None else None
    return {
        "figure": figure,
        "value": value,
        "unit": unit,
        "limit": limit,
        "ratio": round(ratio, 3) if ratio is not None else None,
        "target": target,
        "note": note,
    }


def missing(figure: str, why: str) -> Row:
    """A line for what could not be measured, and why."""
    return row(figure, None, "", note=f"missing: {why}")


def quantile(values: Sequence[float], part: float) -> float:
    """The value below which `part` (0..1) of `values` lie."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started in here runs on `core`."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Process:
    """A server: started on its core, said to be there once its first line names a port."""

    def __init__(self, command: list[str], environ: dict[str, str] | None = None, core: int = SERVER_CORE):
        with on_core(core):
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=os.environ | (environ or {}), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                text=True,
            )  # fmt: skip
        self.pid = self.process.pid
        assert self.process.stdout
        for line in self.process.stdout:
            if found := re.search(r"http://[^/]+:(\d+)", line):
                self.port = int(found[1])
                return
        raise RuntimeError(f"{' '.join(command)} did not start")

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def rss_mib(self, what: str = "VmRSS") -> float:
        """Memory now, or its peak (`VmHWM`)."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        found = re.search(rf"{what}:\s+(\d+) kB", status)
        return int(found[1]) / 1024 if found else 0.0

    def forget_peak(self) -> None:
        """Begin a new peak."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5", encoding="utf-8")

    def cpu_s(self) -> float:
        """Processor seconds used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self, how: int = signal.SIGTERM) -> None:
        """Have it end; wait until it has."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


class Tocsin(Process):
    """The product as it is served, over a store in `folder`."""

    def __init__(self, folder: Path, *, core: int = SERVER_CORE, **settings: str):
        """`settings` as in QUEUE__WORKERS="4"."""
        folder.mkdir(parents=True, exist_ok=True)
        self.store = folder / "tocsin.db"
        environ = {"TOCSIN_STORE__URL": f"sqlite:{self.store}", "TOCSIN_SERVER__PORT": "0"}
        environ["TOCSIN_AUTH__ADMIN_KEY"] = KEY
        environ |= NULL | {f"TOCSIN_{name}": value for name, value in settings.items()}
        super().__init__([sys.executable, "run.py", "serve"], environ, core)

    def ask(self, path: str, body: Any = None, *, raw: bytes | None = None) -> Any:
        """One call of the API; what it answers."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"X-API-Key": KEY, "Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read() or b"null")

    def stats(self) -> dict[str, Any]:
        """The queue's counters."""
        found: dict[str, Any] = self.ask("/api/queue/stats")["stats"]
        return found

    def pause(self, *, paused: bool = True) -> None:
        """Workers stop, or go on."""
        self.ask(f"/admin/api/queue/{'pause' if paused else 'resume'}", {})


def person(n: int) -> dict[str, Any]:
    """A recipient."""
    address = f"jean.dupont{n}@example.org"
    return {"id": f"u{n}", "nom": f"Jean Dupont {n}", "email": address, "telephone": "+33612345678"}


def notification(recipients: int = 2, size: int = 600, **more: Any) -> bytes:
    """A notification's JSON; its message is stretched until all has `size` bytes."""
    new = {"titre": "Alerte orange : vents violents", "message": "", "utilisateurs": [*map(person, range(recipients))]}
    new |= more
    body = json.dumps(new, ensure_ascii=False).encode()
    new["message"] = ("Restez chez vous. " * 600)[: max(size - len(body), 17)]
    return json.dumps(new, ensure_ascii=False).encode()


def machine() -> dict[str, str]:
    """The machine and the versions, for the report."""
    named = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    cpu = named[1] if named else platform.machine()
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(encoding="utf-8"))[1])  # type: ignore[index]
    return {
        "cpu": f"{cpu}, {len(CORES)} cores",
        "memory": f"{memory / 1024 / 1024:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "aiohttp": aiohttp.__version__,
        "uvloop": uvloop.__version__,
        "msgspec": msgspec.__version__,
        "sqlite": apsw.sqlite_lib_version(),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "at": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
