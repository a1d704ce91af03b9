"""What a POST costs, layer by layer: processor time of servers that each do one thing more than the one before.

The first is the bare handler of `post`. The second is Tocsin with a store that says yes and stores nothing: reading,
role, headers, vetting, the task and its answer. The third stores, but does not wait for the disk. The
last is the product. So what bounds `post` is the difference between two rows, not an opinion.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.bench.kit import KEY, NULL, Process, Row, median, row
from tests.bench.load import flood, request
from tests.bench.post import BODY, bare

RUNGS = {
    "nothing": "Tocsin, nothing stored",
    "unsynced": "Tocsin, stored, the disk not waited for",
    "all": "Tocsin, as it is",
}
PAUSE = request("POST", "/admin/api/queue/pause", b"{}")


def serve(rung: str) -> int:
    """The product's own server, but for what `rung` leaves out."""
    from server import cli
    from server.store import Store, sqlite
    from server.store.engine import Op
    from server.store.writes import Enqueue

    if rung == "nothing":
        submit = Store.submit

        def nothing(self: Store, op: Op) -> asyncio.Future[object]:
            if not isinstance(op, Enqueue):
                return submit(self, op)
            done = asyncio.get_running_loop().create_future()
            done.set_result(op.task)
            return done

        Store.submit = nothing  # type: ignore[method-assign]
    elif rung == "unsynced":
        sqlite.SqliteEngine.__init__.__kwdefaults__["synchronous"] = "OFF"
    return cli.main(["serve"])


def rung(name: str, folder: Path) -> Process:
    """A server of this rung, over an empty store."""
    environ = {"TOCSIN_STORE__URL": f"sqlite:{folder / name}.db", "TOCSIN_SERVER__PORT": "0"}
    environ |= NULL | {"TOCSIN_AUTH__ADMIN_KEY": KEY}
    return Process([sys.executable, "-m", "tests.bench.ladder", name], environ)


async def run(quick: bool = False) -> list[Row]:
    """CPU per POST at every rung."""
    slices, seconds = (2, 1.0) if quick else (5, 1.5)
    costs: dict[str, list[float]] = {"bare": [], **{name: [] for name in RUNGS}}
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as folder, bare() as limit:
        servers = {"bare": limit} | {name: rung(name, Path(folder)) for name in RUNGS}
        try:
            for name in RUNGS:
                await flood(servers[name].port, PAUSE, connections=1, count=1)
            for number in range(slices + 1):  # the first one warms up
                for name, server in servers.items():
                    used = server.cpu_s()
                    done = await flood(server.port, BODY, seconds=seconds)
                    if number:
                        costs[name].append((server.cpu_s() - used) / done.answers * 1e6)
        finally:
            for name in RUNGS:
                servers[name].end()
    found = {name: median(each) for name, each in costs.items()}
    rows = [row("a POST's CPU: bare handler, decodes and answers", found["bare"], "us")]
    before = found["bare"]
    for name, title in RUNGS.items():
        note = f"{found[name] - before:+.1f} us; bare is {found['bare'] / found[name]:.2f} of it"
        rows.append(row(f"a POST's CPU: {title}", found[name], "us", note=note))
        before = found[name]
    return rows


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1]))
