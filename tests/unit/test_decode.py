"""Bodies and queries: everything wrong is told at once, in words, and nothing good is refused."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import MultiDict

from server.http.complaints import MAX_ERRORS, complaints
from server.http.decode import BodyDecoder, QueryDecoder
from server.http.problems import BadQuery, InvalidFields, Malformed, Problem, sentence
from server.model import NewNotification, Status

decoder = BodyDecoder(NewNotification)
JEAN = {"id": "1", "nom": "Jean Dupont"}
GOOD: dict[str, Any] = {"titre": "x", "message": "y", "utilisateurs": [JEAN]}


def errors(body: object, *, large: bool = False) -> dict[str, str]:
    """Pointer to sentence, as a French reader gets them."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(InvalidFields) as caught:
        (decoder.decode_large if large else decoder.decode)(raw)
    return {error.where: sentence(error, "fr") for error in caught.value.errors}


@pytest.mark.parametrize("large", [False, True])
def test_all_that_is_wrong_is_told_at_once(large: bool) -> None:
    body = {
        "titre": "a\nb",
        "priorité": "HAUTE",
        "priorit": "HAUTE",
        "planifiee_a": "2026-01-01T00:00:00",
        "utilisateurs": [
            {"id": "1", "nom": "", "email": "x", "telephone": 3, "langue": "de", "preferences": {"actif": 1}},
            [],
            {"id": None, "nom": "x" * 201},
        ],
        "webhook_url": "ftp://x",
    }
    assert errors(body, large=large) == {
        "/titre": "pas de caractère de contrôle ni de saut de ligne",
        "/message": "ce champ est obligatoire",
        "/priorité": "champ inconnu\u202f; vouliez-vous dire «\u00a0priorite\u00a0»\u202f?",
        "/priorit": "champ inconnu\u202f; vouliez-vous dire «\u00a0priorite\u00a0»\u202f?",
        "/planifiee_a": "date et heure RFC 3339 avec décalage attendues, par exemple 2026-01-31T08:00:00+01:00",
        "/utilisateurs/0/nom": "ne doit pas être vide",
        "/utilisateurs/0/email": "adresse e-mail invalide\u202f; attendu par exemple\u00a0: jean.dupont@example.org",
        "/utilisateurs/0/telephone": "attendu\u00a0: une chaîne de caractères, reçu\u00a0: un nombre entier",
        "/utilisateurs/0/langue": "«\u00a0fr\u00a0» ou «\u00a0en\u00a0» attendu",
        "/utilisateurs/0/preferences/actif": "attendu\u00a0: true ou false, reçu\u00a0: un nombre entier",
        "/utilisateurs/1": "attendu\u00a0: un objet, reçu\u00a0: un tableau",
        "/utilisateurs/2/id": "attendu\u00a0: une chaîne de caractères, reçu\u00a0: null",
        "/utilisateurs/2/nom": "au plus 200 caractères attendus",
        "/webhook_url": "adresse http:// ou https:// attendue",
    }


def test_a_hundred_errors_are_enough() -> None:
    assert len(errors({**GOOD, "utilisateurs": [{}] * 500})) == MAX_ERRORS


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"titre": "x"} x',
        b"\xef\xbb\xbf" + json.dumps(GOOD).encode(),
        b'{"titre": NaN}',
        b'{"titre": "\xff"}',
        b'{"titre": "\\ud800"}',
        b'{"titre": 3, "message": "\\ud800"}',
        b"[" * 100_000,
        b'{"x": ' + b"[" * 100_000,
    ],
)
@pytest.mark.parametrize("large", [False, True])
def test_what_is_not_json_in_utf8_is_malformed(body: bytes, large: bool) -> None:
    with pytest.raises(Malformed):
        (decoder.decode_large if large else decoder.decode)(body)


@pytest.mark.parametrize("body", [b"[]", b"3", b"null", b'"x"'])
def test_a_body_that_is_no_object_is_told_so(body: bytes) -> None:
    assert list(errors(body)) == [""]


def test_a_number_that_nothing_can_hold_is_a_field_error() -> None:
    assert list(errors(b'{"titre": 1e999}')) == ["/titre"]


def test_a_large_body_comes_out_the_same() -> None:
    body = {
        **GOOD,
        "expire_a": "2026-01-31T08:00:00+01:00",
        "utilisateurs": [
            {**JEAN, "id": str(n), "telephone": "+33 6 12 34 56 78", "preferences": {"canal_prefere": "sms"}}
            for n in range(300)
        ],
    }
    raw = json.dumps(body).encode()
    assert decoder.decode_large(raw) == decoder.decode(raw)


class Everything(msgspec.Struct, forbid_unknown_fields=True):
    """One field of every kind that an API of ours uses."""

    n: Annotated[int, msgspec.Meta(ge=1, le=9)] = 1
    f: Annotated[float, msgspec.Meta(gt=0, lt=9)] = 1
    b: bool = False
    s: Annotated[str, msgspec.Meta(min_length=2, max_length=4, pattern="^[a-z]*$")] = "ab"
    o: Annotated[str, msgspec.Meta(max_length=3)] | None = None
    e: Status = Status.PENDING
    c: Literal["x", "y"] = "x"
    a: Annotated[list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(max_length=3)] = []
    d: dict[str, int] = {}
    r: NewNotification | None = None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-20, 20) | st.floats(-20, 20) | st.text("abxyz\n", max_size=5)
    | st.sampled_from(["pending", "x", "2026-01-31T08:00:00Z"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("nfbsoecadr"), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
everything = BodyDecoder(Everything)


@settings(max_examples=400)
@given(st.dictionaries(st.sampled_from("nfbsoecadrz"), json_values, max_size=6))
def test_the_walk_finds_fault_exactly_where_msgspec_does(body: dict[str, Any]) -> None:
    raw = msgspec.json.encode(body)
    try:
        msgspec.json.decode(raw, type=Everything)
    except msgspec.ValidationError as error:
        found = complaints(msgspec.json.decode(raw), Everything)
        assert found, (body, str(error))
        path = str(error).partition(" - at `$")[2].rstrip("`").replace("[...]", "")
        pointer = path.replace("[", "/").replace("]", "").replace(".", "/")
        assert any(wrong.where.startswith(pointer) for wrong in found), (pointer, found)
        assert all(sentence(wrong, lang) for wrong in found for lang in ("fr", "en"))
    else:
        assert complaints(msgspec.json.decode(raw), Everything) == []


@settings(max_examples=200)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_body_is_a_bug(raw: bytes) -> None:
    for decode in (everything.decode, everything.decode_large, decoder.decode):
        try:
            decode(raw)
        except Problem as problem:
            assert problem.status in (400, 422)


class Query(msgspec.Struct, frozen=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 50
    status: list[Status] = []
    q: Annotated[str, msgspec.Meta(max_length=5)] | None = None
    dry: bool = False
    n: int | None = None


query = QueryDecoder(Query)


def test_a_query_is_typed_and_its_lists_repeat() -> None:
    found = query.decode(MultiDict([("limit", "7"), ("status", "failed"), ("status", "pending"), ("dry", "true")]))
    assert found == Query(limit=7, status=[Status.FAILED, Status.PENDING], dry=True)
    assert query.decode(MultiDict()) == Query()


def test_everything_wrong_with_a_query_is_told_at_once() -> None:
    with pytest.raises(BadQuery) as caught:
        query.decode(
            MultiDict([("limit", "x"), ("status", "?"), ("q", "abcdef"), ("q2", ""), ("dry", "1"), ("dry", "0")])
        )
    told = {error.where: sentence(error, "en") for error in caught.value.errors}
    assert told == {
        "q2": "unknown parameter; known are: limit, status, q, dry, n",
        "dry": "may be given only once",
        "limit": "expected an integer, got a string",
        "status": "expected one of: pending, processing, completed, failed, cancelled",
        "q": "expected at most 5 characters",
    }


@pytest.mark.parametrize("limit", ["", "0", "101", "1.5", "9" * 400, "-1", "１"])
def test_a_number_out_of_bounds_is_refused(limit: str) -> None:
    with pytest.raises(BadQuery):
        query.decode(MultiDict(limit=limit))


def test_null_is_a_word_in_a_query_and_never_a_value() -> None:
    assert query.decode(MultiDict(q="null")).q == "null"
    with pytest.raises(BadQuery):
        query.decode(MultiDict(n="null"))
