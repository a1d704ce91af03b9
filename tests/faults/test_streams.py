"""A thousand subscribers of whom a hundred never read: the others notice nothing, nor when all come back at once."""

from __future__ import annotations

from pathlib import Path

from tests.faults import streams


async def test_a_hundred_who_never_read_cost_nine_hundred_others_nothing(tmp_path: Path):
    streams.enough_descriptors()

    assert (await streams.crowded(tmp_path, seed=20_260_104)).faults == []
