"""Peers over Redis (and huey over SQLite): tasks/s end to end with their usual settings, Redis with its own defaults.

What they do is less: one argument instead of recipients, no outcomes, and without fsync nothing that outlives a crash
of Redis. A peer that is not installed or does not start is a row that says so; so are all of them without a Redis
(`redis-server` in the PATH, or TOCSIN_BENCH_REDIS naming one).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

from tests.bench.kit import CORES, ROOT, Row, missing, on_core, row
from tests.bench.peer_apps import PEERS, Peer

MOST_S = 40
SEND = "import sys; from tests.bench.peer_apps import main; main(sys.argv[1], int(sys.argv[2]))"
"""Not `-m`: the tasks must be known by the name that the workers import them by."""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def redis() -> Iterator[int | None]:
    """A Redis with its own defaults; None where there is none."""
    command = os.environ.get("TOCSIN_BENCH_REDIS") or shutil.which("redis-server")
    if not command:
        yield None
        return
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as folder:
        process = subprocess.Popen(
            [command, "--port", str(port), "--dir", folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if not probe.connect_ex(("127.0.0.1", port)):
                        break
                time.sleep(0.05)
            else:
                yield None
                return
            yield port
        finally:
            process.terminate()
            process.wait()


def measure(peer: Peer, port: int, tasks: int) -> Row:
    """One peer: a worker process on one core, the sender on the other, until the last task has counted itself."""
    figure = f"{peer.name}, enqueued and done"
    if find_spec(peer.module) is None:
        return missing(figure, "not installed (requirements-bench.txt)")
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as folder:
        environ = os.environ | {"BENCH_REDIS": str(port), "BENCH_FOLDER": folder, "PYTHONPATH": str(ROOT)}
        environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
        command = [word.replace("{redis}", f"redis://127.0.0.1:{port}/0") for word in peer.worker]
        with on_core(CORES[0]):
            worker = subprocess.Popen(
                command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        try:
            sender = subprocess.run(
                [sys.executable, "-c", SEND, peer.name, str(tasks)], cwd=ROOT, env=environ,
                capture_output=True, text=True, timeout=MOST_S + 10,
            )  # fmt: skip
            if sender.returncode:
                return missing(figure, (sender.stderr.strip().splitlines() or ["no word of why"])[-1][:120])
            return row(figure, float(sender.stdout.split()[-1]), "tasks/s", note=peer.note)
        except subprocess.TimeoutExpired:
            return missing(figure, f"did not do {tasks} tasks in {MOST_S} s")
        finally:
            os.killpg(worker.pid, signal.SIGTERM)
            try:
                worker.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()


def run(quick: bool = False) -> list[Row]:
    """Every peer."""
    tasks = 1_000 if quick else 4_000
    began = perf_counter()
    with redis() as port:
        if port is None:
            return [missing(peer.name, "no redis-server (Debian: apt-get install redis-server)") for peer in PEERS]
        rows = [measure(peer, port, tasks // peer.slow) for peer in PEERS]
    print(f"  peers: {perf_counter() - began:.0f} s", file=sys.stderr)
    return rows
