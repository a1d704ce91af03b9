"""The pages' texts: both languages say everything, with the same values, and nothing is missing or left over."""

from __future__ import annotations

import json
import re
from pathlib import Path

WEB = Path(__file__).parents[2] / "web"
TEXTS = json.loads((WEB / "texts.json").read_text(encoding="utf-8"))
DRAWN = re.compile(r"\bt\(\s*([\"'`])(.+?)\1|\bt\([^)\"'`]*\?\s*\"([^\"]+)\"\s*:\s*\"([^\"]+)\"")


def values(entry: str | list[str]) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", " ".join([entry] if isinstance(entry, str) else entry)))


def test_the_page_catalogue_says_everything_in_both_languages() -> None:
    for key, entry in TEXTS.items():
        assert set(entry) == {"fr", "en"}, key
        assert type(entry["fr"]) is type(entry["en"]), key
        assert values(entry["fr"]) == values(entry["en"]), key
        if isinstance(entry["fr"], list):
            assert len(entry["fr"]) == len(entry["en"]) == 2, key


def test_every_text_the_pages_draw_is_in_the_page_catalogue() -> None:
    missing = set()
    for path in [*WEB.rglob("*.js"), *WEB.rglob("*.html")]:
        for _, plain, yes, no in DRAWN.findall(path.read_text(encoding="utf-8")):
            for key in filter(None, (plain, yes, no)):
                pattern = re.escape(re.sub(r"\$\{[^}]*\}", "\0", key)).replace("\0", ".+").replace(r"\.+", ".+")
                pattern = pattern.replace("\\\x00", ".+")
                if re.fullmatch(r"[a-z][\w.]*(\.\+)?.*", key) and not any(re.fullmatch(pattern, one) for one in TEXTS):
                    missing.add(f"{path.name}: {key}")
    assert missing == set()
