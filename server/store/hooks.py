"""What the store does for completion webhooks and alerts.

A webhook's row is written at the tail of the transaction in which its task ends (`batch.Batch.event`), so none is lost
and none tells what did not happen. It is called by whoever takes it next (`TakeHooks`): its `due_ms` moves ahead as a
lease, and its `attempts` are the fence of what is written back (`SaveHook`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import Struct

from server.model import EventKind
from server.store import sql
from server.store.batch import Batch
from server.store.engine import Op, Row, Tx

SLICE = 500
BUSY_HOSTS = 4
"""Hosts that `TakeHooks` can be told to leave out."""

_json = msgspec.json.Encoder()


class Hook(Struct, frozen=True, kw_only=True):
    """One completion webhook as stored (`sql.HOOK`)."""

    id: str
    task_id: str
    host: str
    url: str
    body: bytes
    state: str  # waiting | delivered | stopped | gave_up
    attempts: int
    due_ms: int
    until_ms: int
    done_ms: int | None
    last_ms: int | None
    last_status: int | None  # the HTTP status of the last answer
    last_error: str  # a catalogue word (`reason.…`) where there was no answer


def hook_of(row: Row) -> Hook:
    """A row of `sql.HOOK`."""
    return Hook(
        id=row[0], task_id=row[1], host=row[2], url=row[3], body=row[4], state=row[5], attempts=row[6], due_ms=row[7],
        until_ms=row[8], done_ms=row[9], last_ms=row[10], last_status=row[11], last_error=row[12],
    )  # fmt: skip


class Taken(Struct, frozen=True):
    """Webhooks to be called now, and when the next one is due (epoch ms; None: none waits)."""

    hooks: list[Hook]
    next_ms: int | None


@dataclass(eq=False)
class TakeHooks(Op):
    """Take up to `slots` due webhooks; they are the caller's until `lease_ms` (epoch). Gives Taken.

    `on_wire` says how many calls each host has already; no host gets more than `per_host`. `doubtful` is what storage
    did not confirm that the caller took: what it did take is given first.
    """

    now_ms: int
    lease_ms: int
    slots: int
    per_host: int
    on_wire: dict[str, int]
    doubtful: list[Hook] = field(default_factory=list)

    @classmethod
    async def apply(cls, batch: Batch, ops: list[TakeHooks]) -> list[Any]:
        return [await op._take(batch.tx) for op in ops]

    async def _take(self, tx: Tx) -> Taken:
        busy = [host for host, n in self.on_wire.items() if n >= self.per_host][:BUSY_HOSTS]
        busy += ["\n"] * (BUSY_HOSTS - len(busy))  # no host is called that
        calls = Counter(self.on_wire)
        again = [(hook.id, hook.attempts, hook.due_ms, self.lease_ms, self.now_ms) for hook in self.doubtful]
        mine = [hook_of(row) for row in await tx.many(sql.TAKE_AGAIN, again)]
        calls.update(hook.host for hook in mine)
        picked: list[str] = []
        for hook_id, host in await tx.all(sql.HOOKS_DUE, self.now_ms, *busy, 4 * self.slots):
            if len(mine) + len(picked) < self.slots and calls[host] < self.per_host:
                calls[host] += 1
                picked.append(hook_id)
        rows = await tx.many(sql.TAKE_HOOK, [(hook_id, self.lease_ms, self.now_ms) for hook_id in picked])
        following = await tx.all(sql.NEXT_HOOK, self.now_ms)
        return Taken(mine + [hook_of(row) for row in rows], following[0][0] if following else None)


@dataclass(eq=False)
class SaveHook(Op):
    """Write what an attempt came to. Gives whether it still counted."""

    id: str
    attempts: int
    state: str
    due_ms: int
    done_ms: int | None
    status: int | None
    error: str

    @classmethod
    async def apply(cls, batch: Batch, ops: list[SaveHook]) -> list[Any]:
        rows = [(op.id, op.attempts, op.state, op.due_ms, op.done_ms, op.status, op.error) for op in ops]
        saved = {row[0] for row in await batch.tx.many(sql.SAVE_HOOK, rows)}
        return [op.id in saved for op in ops]


@dataclass(eq=False)
class PurgeHooks(Op):
    """Delete one slice of the webhooks that were done by `done_ms`. Gives whether there may be more."""

    done_ms: int

    @classmethod
    async def apply(cls, batch: Batch, ops: list[PurgeHooks]) -> list[Any]:
        return [len(await batch.tx.all(sql.PURGE_HOOKS, op.done_ms, SLICE)) == SLICE for op in ops]


async def hooks_of(tx: Tx, task_id: str) -> list[Hook]:
    """A task's webhooks, one per run that ended."""
    return [hook_of(row) for row in await tx.all(sql.HOOKS_OF, task_id)]


async def hooks_waiting(tx: Tx, most: int) -> int:
    """How many webhooks are still to be delivered; counted as far as `most`."""
    return int((await tx.all(sql.HOOKS_WAITING, most))[0][0])


# --- alerts ------------------------------------------------------------------------------------------


@dataclass(eq=False)
class RaiseAlert(Op):
    """Raise an alert, with its event. Gives (whether it is new, whether people are to be told).

    Nothing happens if one of this name stands already, whichever node raised it. People are to be told unless they
    were since `told_since_ms`. Applied once more, as nobody knew whether it was written, it gives the same.
    """

    name: str  # "failure_ratio", "channel_down:email"
    alert: dict[str, Any]
    now_ms: int
    told_since_ms: int

    @classmethod
    async def apply(cls, batch: Batch, ops: list[RaiseAlert]) -> list[Any]:
        return [await op._raise(batch) for op in ops]

    async def _raise(self, batch: Batch) -> tuple[bool, bool]:
        tx, name, told = batch.tx, f"alert:{self.name}", f"told:{self.name}"
        if not await tx.all(sql.RAISE_ALERT, name, _json.encode(self.alert).decode()):
            ((stands,),) = await tx.all(sql.GET_META, name)
            if msgspec.json.decode(stands)["id"] != self.alert["id"]:
                return False, False
            return True, await tx.all(sql.GET_META, told) == [(str(self.now_ms),)]
        batch.notice(EventKind.ALERT_RAISED, self.now_ms, alert=self.alert)
        return True, bool(await tx.all(sql.TELL_ALERT, told, str(self.now_ms), self.told_since_ms))


@dataclass(eq=False)
class ClearAlert(Op):
    """Clear an alert, with its event; `figures` are what stands now. Gives whether it stood."""

    name: str
    figures: dict[str, Any]
    now_ms: int

    @classmethod
    async def apply(cls, batch: Batch, ops: list[ClearAlert]) -> list[Any]:
        return [await op._clear(batch) for op in ops]

    async def _clear(self, batch: Batch) -> bool:
        rows = await batch.tx.all(sql.CLEAR_ALERT, f"alert:{self.name}")
        if rows:
            batch.notice(EventKind.ALERT_CLEARED, self.now_ms, alert=msgspec.json.decode(rows[0][0]) | self.figures)
        return bool(rows)


async def alerts(tx: Tx) -> list[dict[str, Any]]:
    """The alerts that stand."""
    return [msgspec.json.decode(row[0]) for row in await tx.all(sql.ALERTS)]


async def ended_since(tx: Tx, minute: int) -> list[tuple[int, str, int]]:
    """(epoch minute, "completed" or "failed", tasks) for every minute behind `minute`."""
    return [(row[0], row[1], row[2]) for row in await tx.all(sql.MINUTES_ENDED, minute)]
