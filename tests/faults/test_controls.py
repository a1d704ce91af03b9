"""The checkers can fail: with a promise kept they find nothing, with it broken they do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.controls import CONTROLS

SEED = 20_260_105


@pytest.mark.parametrize("name", CONTROLS)
async def test_a_broken_promise_is_found_out_and_a_kept_one_is_not(tmp_path: Path, name: str):
    assert await CONTROLS[name](tmp_path / "kept", SEED, broken=False) == []
    assert await CONTROLS[name](tmp_path / "broken", SEED, broken=True) != []
