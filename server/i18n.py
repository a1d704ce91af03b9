"""Texts for people, in French and English: one catalogue for pages, problems, the queue's own sentences.

The texts stand in `server/texts/*.LANG.toml`; tables and keys join to `problem.not-found.title`. An entry of two
strings is singular and plural, picked by `n`. Numbers are written as the language writes them. This module knows
nothing of requests but their headers.
"""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

from aiohttp import web

from server.model import Failure

LANGS = ("fr", "en")
Entry = str | tuple[str, str]


def _flatten(table: dict[str, Any], prefix: str, into: dict[str, Entry], source: Path) -> None:
    for name, value in table.items():
        key = prefix + name
        if isinstance(value, dict):
            _flatten(value, key + ".", into, source)
        elif key in into:
            raise ValueError(f"{source.name}: {key} stands twice in the catalogue")
        else:
            into[key] = value if isinstance(value, str) else (value[0], value[1])


def _load(lang: str) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for source in sorted((Path(__file__).parent / "texts").glob(f"*.{lang}.toml")):
        _flatten(tomllib.loads(source.read_text(encoding="utf-8")), "", entries, source)
    return entries


CATALOGUE: dict[str, dict[str, Entry]] = {lang: _load(lang) for lang in LANGS}


def number(n: float, lang: str = "fr") -> str:
    """`n` as people write it: `10 000,5` with narrow no-break spaces in French, `10,000.5` in English."""
    written = f"{n:,}"
    return written if lang == "en" else written.replace(",", "\u202f").replace(".", ",")


def text(key: str, lang: str = "fr", **values: object) -> str:
    """The catalogue's text for `key`, with `values` filled in; `n` also picks singular or plural.

    Raises KeyError for a key that the catalogue does not have: a defect, never a reader's problem.
    """
    entry = CATALOGUE[lang][key]
    if isinstance(entry, tuple):
        n = values["n"]
        many = n != 1 if lang == "en" else n >= 2  # type: ignore[operator]
        entry = entry[many]
    if not values:
        return entry
    shown = {name: number(v, lang) if isinstance(v, int | float) else v for name, v in values.items()}
    return entry.format_map(shown)


def has(key: str) -> bool:
    """Does the catalogue have `key`?"""
    return key in CATALOGUE["fr"]


def section(prefix: str, lang: str) -> dict[str, Entry]:
    """All entries below `prefix`, by the rest of their key: what a page hands to its scripts."""
    start = prefix + "."
    return {key[len(start) :]: entry for key, entry in CATALOGUE[lang].items() if key.startswith(start)}


@lru_cache(maxsize=256)
def preferred(accept: str) -> str:
    """The language an `Accept-Language` header asks for first (RFC 9110, 12.5.4); French where it does not matter."""
    best, best_q = "fr", 0.0
    for part in accept[:500].split(","):
        tag, _, parameter = part.strip().partition(";")
        name, _, weight = parameter.strip().partition("=")
        try:
            q = float(weight) if name.strip() == "q" else 1.0
        except ValueError:
            q = 0.0
        language = tag.strip().lower().partition("-")[0]
        if language in LANGS and q > best_q:
            best, best_q = language, q
    return best


def lang(request: web.BaseRequest) -> str:
    """The reader's language: the page's switch (cookie `lang`) before `Accept-Language`; `fr` by default."""
    if "Cookie" in request.headers and (chosen := request.cookies.get("lang")) in LANGS:
        return chosen
    return preferred(request.headers.get("Accept-Language", ""))


def failure_text(failure: Failure, lang: str = "fr") -> str:
    """One sentence: how many were not reached and why, as `task.error` shows it."""
    if failure.kind != "unreached":
        return text(f"failure.{failure.kind}" if has(f"failure.{failure.kind}") else "failure.other", lang)
    head = text("failure.unreached", lang, n=failure.unreached, total=failure.total)
    if not failure.reasons:
        return head
    return (
        head
        + text("failure.colon", lang)
        + ", ".join(reason_text(word, lang, n=n) + (f" ({code})" if code else "") for word, code, n in failure.reasons)
    )


def reason_text(word: str, lang: str = "fr", *, n: int | None = None) -> str:
    """`address_refused` → `2 adresses refusées`; a word that the catalogue does not know is `2 échecs`.

    Without `n` it is said of one recipient: `adresse refusée`.
    """
    key = f"reason.{word}" if has(f"reason.{word}") else "reason.other"
    return text(key, lang, n=1).removeprefix("1 ") if n is None else text(key, lang, n=n)


def removed_text(n: int, lang: str = "fr") -> str:
    """What a clean-up answers: `3 tâches supprimées`."""
    return text("queue.removed", lang, n=n)


def accepted_text(type_name: str, label: str, lang: str = "fr") -> str:
    """What a POST answers: the guide's sentence for its types, one with the label for any other."""
    key = f"accepted.{type_name}"
    return text(key, lang) if has(key) else text("accepted.other", lang, label=label)
