"""Commands of a client that does not read what it is answered: they wait, and nothing piles up in the server."""

from __future__ import annotations

import json
from pathlib import Path

from server.api.subscriber import LIMIT
from tests.api.stream_kit import Raw, desk, settle

WRONG = json.dumps({"action": "subscribe", "status": ["x"] * 800}).encode()
"""A command whose answer is twice as long: it names a hundred faults."""


async def test_answers_to_commands_do_not_pile_up_for_one_that_does_not_read(tmp_path: Path) -> None:
    async with desk(tmp_path, stall_s=86_400) as kit:
        raw = await Raw.open(kit)
        await kit.until(lambda: kit.hub.subscribers)
        (sub,) = kit.hub.subscribers
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        most = 0
        for _ in range(20):
            for _ in range(100):
                raw.send(1, WRONG)
            await settle(300)
            most = max(most, sub.buffered())
            kit.clock.turn(61)
        assert 0 < most < 2 * LIMIT
        assert sub.ended is None

        raw.writer.transport.resume_reading()  # type: ignore[attr-defined]
        kinds = [json.loads((await raw.receive())[1])["kind"] for _ in range(10)]
        assert kinds == ["hello"] + ["error"] * 9
        raw.writer.transport.abort()
        await kit.until(lambda: not kit.hub.subscribers)
