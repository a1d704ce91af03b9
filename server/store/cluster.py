"""Nodes among nodes: heartbeats, duties that one of them holds at a time, and letting go of cancelled tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from server.store import sql
from server.store.batch import Batch
from server.store.engine import Op

SILENT_MS = 40_000
"""A node that has not been heard of for so long is not counted any more."""


class Node(Struct, frozen=True):
    """One process that shares the store."""

    name: str
    version: str
    started_ms: int
    beat_ms: int
    workers: int
    in_hand: int
    told: int


@dataclass(eq=False)
class Beat(Op):
    """Say that a node lives. Gives all that do, the log's last number, and the time by the store's clock (epoch ms)."""

    node: Node

    @classmethod
    async def apply(cls, batch: Batch, ops: list[Beat]) -> list[Any]:
        return [await op._beat(batch) for op in ops]

    async def _beat(self, batch: Batch) -> tuple[list[Node], int, int]:
        tx, node = batch.tx, self.node
        now_ms = await tx.now_ms(node.beat_ms)
        row = (node.name, node.version, node.started_ms, now_ms, node.workers, node.in_hand, node.told)
        await tx.many(sql.BEAT, [row])
        await tx.many(sql.FORGET_NODES, [(now_ms - 3 * SILENT_MS,)])
        living = [Node(*found) for found in await tx.all(sql.NODES, now_ms - SILENT_MS)]
        return living, (await tx.all(sql.LAST_SEQ))[0][0], now_ms


@dataclass(eq=False)
class TakeDuty(Op):
    """Hold a duty for `for_ms`. Gives whether the node holds it."""

    name: str
    node: str
    now_ms: int
    for_ms: int

    @classmethod
    async def apply(cls, batch: Batch, ops: list[TakeDuty]) -> list[Any]:
        return [await op._take(batch) for op in ops]

    async def _take(self, batch: Batch) -> bool:
        now_ms = await batch.tx.now_ms(self.now_ms)
        return bool(await batch.tx.all(sql.TAKE_DUTY, self.name, self.node, now_ms + self.for_ms, now_ms))


@dataclass(eq=False)
class Leave(Op):
    """The node ends: it is not counted any more."""

    node: str

    @classmethod
    async def apply(cls, batch: Batch, ops: list[Leave]) -> list[Any]:
        await batch.tx.many(sql.LEAVE, [(op.node,) for op in ops])
        return [None] * len(ops)


@dataclass(eq=False)
class LetGo(Op):
    """A cancelled task that `node` had in hand: no call for it begins there any more."""

    task_id: str
    node: str

    @classmethod
    async def apply(cls, batch: Batch, ops: list[LetGo]) -> list[Any]:
        await batch.tx.many(sql.LET_GO, sorted((op.task_id, op.node) for op in ops))
        return [None] * len(ops)
