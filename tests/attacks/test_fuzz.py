"""Whatever is drawn, only documented errors come back: bodies, forms, queries, commands, headers, addresses.

(Configuration and channel URLs are drawn beside their own tests.)
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import MultiDict

from server.api.frames import ErrorFrame, StreamQuery
from server.api.keys import AuditQuery, NewKey
from server.api.operate import BulkBody, ClearBody
from server.api.session import SignIn
from server.api.sse import last_event_id
from server.api.tasks import DeliveryQuery, EventQuery, TaskQuery, filter_of
from server.api.websocket import understand
from server.http.caller import Callers, local_path
from server.http.decode import BodyDecoder, FormDecoder, QueryDecoder
from server.http.problems import BadQuery, BadRequest, InvalidFields, Malformed, body_of
from server.i18n import preferred
from server.model import NewNotification, iso, parse_priority, to_ms
from server.queue import LAST_MS
from server.targets import Targets

MANY = settings(max_examples=150)

BODIES = [NewNotification, BulkBody, ClearBody, NewKey, SignIn]
QUERIES: list[Any] = [TaskQuery, DeliveryQuery, EventQuery, StreamQuery, AuditQuery]
WORDS = st.sampled_from([
    "", "0", "1", "-1", "1e3", "1e999", "null", "true", "NaN", "pending", "CRITIQUE", "crItIque", "CRİTİQUE",
    "critıque", "ﬁ",     "2030-01-31T08:00:00Z", "9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+23:59",
    "2030-01-31T08:00:00.1234567890Z",
    "fr", "email", "a@b.c", "+33612345678", "https://example.org", "http://[::1", "latest", "\x00", "\ud800",
    "\u2028", "9" * 30,
    "01890000-0000-7000-8000-000000000000", "/admin/queue", "//x", "x" * 300,
])  # fmt: skip
TEXT = WORDS | st.text(max_size=12)
SENT = TEXT.filter(lambda text: "\ud800" not in text)
"""What a URL or a header can bring: no surrogate (yarl leaves such an escape as it is)."""


def names(kind: Any) -> st.SearchStrategy[str]:
    """A field of `kind`, mostly."""
    return st.sampled_from([*kind.__struct_fields__, "id", "nom", "email", "telephone", "preferences", "actif", "x"])


def values(kind: Any) -> st.SearchStrategy[Any]:
    """JSON made of the words and names that `kind` could mean."""
    leaves = TEXT | st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False)
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names(kind), inner, max_size=4),
        max_leaves=10,
    )


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("large", [False, True])
def test_a_body_is_taken_or_told_what_is_wrong(kind: Any, large: bool) -> None:
    decoder = BodyDecoder(kind)
    decode = decoder.decode_large if large else decoder.decode

    @MANY
    @given(
        st.dictionaries(names(kind), values(kind), max_size=6) | values(kind),
        st.binary(max_size=3),
        st.integers(0, 400),
    )
    def check(body: Any, noise: bytes, at: int) -> None:
        raw = json.dumps(body).encode()
        for sent in (raw, raw[:at] + noise + raw[at:]):
            try:
                use(decode(sent))
            except (Malformed, InvalidFields) as problem:
                for lang in ("fr", "en"):
                    assert body_of(problem, lang, "1").errors or isinstance(problem, Malformed)

    check()


def use(taken: Any) -> None:
    """What is done first with a body or query that was taken."""
    for name in taken.__struct_fields__:
        value = getattr(taken, name)
        if name in ("priorite", "priority") and value:
            assert [parse_priority(word) for word in ([value] if isinstance(value, str) else value)]
        if hasattr(value, "timestamp") and to_ms(value) <= LAST_MS:
            assert to_ms(value) < 0 or len(iso(to_ms(value))) == 24
    if isinstance(taken, TaskQuery):
        filter_of(taken)
    if isinstance(taken, StreamQuery):
        taken.plan()
    if isinstance(taken, NewKey | SignIn):
        json.dumps(str(taken)).encode()


@pytest.mark.parametrize("kind", QUERIES, ids=lambda kind: kind.__name__)
def test_a_query_is_taken_or_told_what_is_wrong(kind: Any) -> None:
    decoder = QueryDecoder(kind)

    @MANY
    @given(st.lists(st.tuples(names(kind) | st.text(max_size=5), SENT), max_size=5))
    def check(pairs: list[tuple[str, str]]) -> None:
        try:
            use(decoder.decode(MultiDict(pairs)))
        except BadQuery as problem:
            assert body_of(problem, "fr", "1").errors and body_of(problem, "en", "1").errors

    check()


@MANY
@given(
    st.dictionaries(names(StreamQuery) | st.just("action"), values(StreamQuery), max_size=5) | values(StreamQuery),
    st.booleans(),
)
@example({"action": "subscribe", "priority": "CRİTİQUE"}, True)
@example({"action": "subscribe", "type": [None]}, True)
def test_a_command_is_taken_or_told_what_is_wrong(command: Any, named: bool) -> None:
    said = json.dumps(command | {"action": "subscribe"} if named and isinstance(command, dict) else command)
    for lang in ("fr", "en"):
        found = understand(said, lang)
        if isinstance(found, ErrorFrame):
            assert found.code in ("malformed-command", "unknown-command", "invalid-command") and found.message
        else:
            found.plan()


@MANY
@given(st.text(max_size=40))
def test_any_text_as_a_command_is_answered(said: str) -> None:
    assert isinstance(understand(said, "fr"), ErrorFrame)


@MANY
@given(
    st.binary(max_size=60)
    | st.lists(st.tuples(names(SignIn), TEXT), max_size=4).map(
        lambda pairs: "&".join(f"{n}={v}" for n, v in pairs).encode("utf-8", "surrogatepass")
    )
)
def test_a_form_is_taken_or_told_what_is_wrong(body: bytes) -> None:
    try:
        taken = FormDecoder(SignIn).decode(body)
    except (Malformed, InvalidFields) as problem:
        assert body_of(problem, "fr", "1").status in (400, 422)
    else:
        assert local_path(taken.next).startswith("/")


@MANY
@given(SENT)
def test_a_place_in_the_stream_is_a_number_or_refused(said: str) -> None:
    request = make_mocked_request("GET", "/api/events", headers={"Last-Event-ID": said})
    try:
        since = last_event_id(request, StreamQuery())
    except BadQuery:
        assert not (said.isascii() and said.isdigit()) or int(said) > 2**53
    else:
        assert since is None if not said.strip() else since == int(said.strip())


@MANY
@given(SENT, SENT, SENT)
def test_no_header_about_the_caller_is_a_crash(host: str, origin: str, forwarded: str) -> None:
    headers = {
        "Host": host,
        "Origin": origin,
        "X-Forwarded-For": forwarded,
        "X-Forwarded-Host": forwarded,
        "Sec-Fetch-Site": origin,
    }
    for trusted in ([], ["127.0.0.0/8"]):
        callers = Callers(trusted, tls=False)
        request = make_mocked_request("POST", "/", headers=headers).clone(remote="127.0.0.1")
        assert callers.neighbourhood(request)
        for ask in (callers.origin, callers.is_own_page, callers.is_foreign_page):
            try:
                ask(request)
            except BadRequest:
                pass
    assert preferred(forwarded) in ("fr", "en")


@MANY
@given(TEXT | st.text("/\\.:@%# \t\nx", max_size=12))
def test_where_a_sign_in_leads_is_here(path: str) -> None:
    target = local_path(path)
    assert target.startswith("/") and not target.startswith(("//", "/\\")) and "\n" not in target and "\t" not in target


@MANY
@given(st.sampled_from(["http://", "https://", ""]), TEXT | st.text("0123456789abcdefx.:[]@/%-", max_size=30))
def test_any_webhook_url_is_judged(scheme: str, rest: str) -> None:
    objection = Targets([]).objection(scheme + rest)
    assert objection is None or isinstance(objection, str)
