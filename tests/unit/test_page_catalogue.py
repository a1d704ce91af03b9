"""The pages' texts: both languages say everything, with the same values, and nothing is missing or left over."""

from __future__ import annotations

import json
import re
from pathlib import Path

from server.api.pages import Web

WEB = Path(__file__).parents[2] / "web"
TEXTS = json.loads((WEB / "texts.json").read_text(encoding="utf-8"))
TEMPLATES = ("base", "login", "problem", "queue", "task", "send", "keys")
KEYS = ("keys.js", "audit.js", "page-keys.js")
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
    drawn = {}
    for path in [*WEB.rglob("*.js"), *(WEB / "templates" / f"{name}.html" for name in TEMPLATES)]:
        for _, whole, yes, no in DRAWN.findall(path.read_text(encoding="utf-8")):
            drawn |= dict.fromkeys(filter(None, (whole, yes, no)), path.name)
    for key, where in drawn.items():
        wanted = re.compile(
            ".+".join(map(re.escape, re.split(r"\$\{[^}]*\}", key))) + (".+" if key.endswith(".") else "")
        )
        assert any(wanted.fullmatch(known) for known in TEXTS), f"{where}: {key}"


def test_no_french_mark_begins_a_line() -> None:
    loose = re.compile(r" [;:!?»](?!\w)|« ")
    for key, entry in TEXTS.items():
        forms = [entry["fr"]] if isinstance(entry["fr"], str) else entry["fr"]
        assert not any(loose.search(form) for form in forms), f"{key}: a no-break space before ; : ! ? » and behind «"


def test_a_page_is_not_handed_what_only_another_page_says() -> None:
    web = Web()
    queue, send = web.texts_for("fr", "queue"), web.texts_for("fr", "send")
    assert "send.button" in send and "send.button" not in queue
    owners = {"send.": ("send.js",), "people.bad.": ("recipients.js",), "key.": KEYS, "audit.": KEYS}
    for path in WEB.rglob("*.js"):
        for _, whole, yes, no in DRAWN.findall(path.read_text(encoding="utf-8")):
            for start, files in owners.items():
                if any(drawn.startswith(start) for drawn in (whole, yes, no)):
                    assert path.name in files, f"{path.name}: {whole or yes}"
