"""The two catalogues say the same things, and say them well."""

from __future__ import annotations

import ast
import string
from pathlib import Path

import pytest

from server.http.problems import every
from server.i18n import CATALOGUE, accepted_text, failure_text, has, number, preferred, removed_text, text
from server.model import Failure, Priority, Role, Standing, Status

ROOT = Path(__file__).resolve().parents[2]


def placeholders(entry: str | tuple[str, str]) -> set[str]:
    return {
        name
        for form in ((entry,) if isinstance(entry, str) else entry)
        for _, name, _, _ in string.Formatter().parse(form)
        if name
    }


def test_both_languages_have_the_same_keys() -> None:
    assert CATALOGUE["fr"].keys() == CATALOGUE["en"].keys()


def test_both_languages_fill_in_the_same_values() -> None:
    for key, entry in CATALOGUE["fr"].items():
        assert placeholders(entry) == placeholders(CATALOGUE["en"][key]), key
        assert isinstance(entry, str) == isinstance(CATALOGUE["en"][key], str), key


def test_every_problem_has_its_words_and_its_docstring_is_the_english_sentence() -> None:
    codes = [kind.code for kind in every()]
    assert len(codes) == len(set(codes))
    for kind in every():
        assert has(f"problem.{kind.code}.title")
        assert CATALOGUE["en"][f"problem.{kind.code}.detail"] == kind.__doc__


def test_every_word_of_the_model_has_its_text() -> None:
    for prefix, words in (("status", Status), ("delivery", Standing)):
        assert all(has(f"{prefix}.{word.value}") for word in words)
    for prefix, names in (("priority", Priority), ("role", Role)):
        assert all(has(f"{prefix}.{name.name}") for name in names)


def test_every_reason_that_a_notifier_can_give_has_its_text() -> None:
    from notifiers.base import REASONS

    assert [word for word in REASONS if not has(f"reason.{word}")] == []


def test_every_key_that_the_code_names_stands_in_the_catalogue() -> None:
    named = {
        node.value
        for file in (ROOT / "server").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("field.")
    }
    known = CATALOGUE["fr"].keys()  # a key that ends in "_" is put together from parts
    found = {name for name in named if has(name) or (name[-1] in "._" and any(key.startswith(name) for key in known))}
    assert named - found - {"field.…", "field.NAME"} == set()


def test_a_failure_is_one_sentence() -> None:
    failure = Failure(
        kind="unreached", unreached=3, total=10_000, reasons=[("address_refused", "550", 2), ("timeout", "", 1)]
    )
    assert failure_text(failure, "fr") == (
        "3 destinataires sur 10\u202f000 non joints\u00a0: 2 adresses refusées (550), 1 délai dépassé"
    )
    assert failure_text(failure, "en") == "3 recipients of 10,000 not reached: 2 addresses refused (550), 1 timed out"
    assert failure_text(Failure(kind="expired")) == "expirée"
    assert failure_text(Failure(kind="of a later version")) == "échec"
    assert "1 échec" in failure_text(Failure(kind="unreached", unreached=1, total=1, reasons=[("unheard_of", "", 1)]))


def test_counts_are_written_as_the_language_writes_them() -> None:
    assert removed_text(0) == "0 tâche supprimée"
    assert removed_text(0, "en") == "0 tasks removed"
    assert removed_text(1_234) == "1\u202f234 tâches supprimées"
    assert number(1234.5) == "1\u202f234,5"


def test_the_guides_answer_is_the_guides_and_a_new_type_has_one_too() -> None:
    assert accepted_text("meteo", "Météo") == "Notification météorologique mise en file d'attente"
    assert accepted_text("transport", "Transport {x}", "en") == "Notification “Transport {x}” queued"


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "fr"),
        ("en", "en"),
        ("en-GB,en;q=0.9,fr;q=0.8", "en"),
        ("de,fr;q=0.3,en;q=0.2", "fr"),
        ("*", "fr"),
        ("en;q=0", "fr"),
        ("en;q=x, ;;;=,", "fr"),
        ("de-AT, en;q=0.1", "en"),
    ],
)
def test_the_language_asked_for_first_wins(header: str, language: str) -> None:
    assert preferred(header) == language


def test_a_text_that_does_not_exist_is_a_defect() -> None:
    with pytest.raises(KeyError):
        text("no.such.text")
