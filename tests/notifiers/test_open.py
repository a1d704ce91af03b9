"""Channel URLs: a bad one gives one readable line, and never says the secret."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifiers import REASONS, open_notifier
from notifiers.base import clip

SECRET = "hunter2"


@pytest.mark.parametrize(
    "url, body, says",
    [
        ("", "", "expected outbox:"),
        ("smpt://me:hunter2@host", "", "expected outbox:"),
        ("hunter2", "", "expected outbox:"),
        ("outbox:", "", "expected a folder"),
        ("null:hunter2", "", '"null:" alone'),
        ("smtp://", "", "expected user:secret@host"),
        ("smtp://me:hun/hunter2@host?from=a@b.fr", "", "%2F"),
        ("smtp://me:hun#hunter2@host?from=a@b.fr", "", "%23"),
        ("smtp://me:hun?hunter2@host", "", "%3F"),
        ("smtp://me:hunter2@host:port?from=a@b.fr", "", "expected user:secret@host:port"),
        ("smtp://me:hunter2@[host?from=a@b.fr", "", "expected user:secret@host:port"),
        ("smtp://me:hunter2@host:99999?from=a@b.fr", "", "expected user:secret@host:port"),
        ("smtp://me:hunter2@mail..host?from=a@b.fr", "", "expected a host name"),
        (f"https://me:hunter2@{'a' * 64}.fr/", "", "expected a host name"),
        ("smtp://me:hunter2@host", "", "from=ADDRESS"),
        ("smtp://me:hunter2@host?form=a@b.fr", "", "at most once each: from=, tls="),
        ("smtp://me:hunter2@host?from=hunter2", "", "expected an e-mail address in from="),
        ("smtp://me:hunter2@host?from=a@b.fr&tls=hunter2", "", "tls=starttls or tls=none"),
        ("smtp://me:hunter2@host?from=a@b.fr&from=a@b.fr", "", "at most once"),
        ("smtp://me:hunter2@host/x?from=a@b.fr", "", "nothing after the host"),
        ("smtps://me:hunter2@host?from=a@b.fr&tls=none", "", "encrypted from the first byte"),
        ("smtp://me:hunter2%0D%0A@host?from=a@b.fr", "", "without control characters"),
        (" https://me:hunter2@host/", "", "expected outbox:"),
        ("https://me:hunter2@host/\n", "", "without control characters"),
        ("https://me:hunter2@{host}/", "", "in path and query alone"),
        ("https://me:hunter2@host/{hunter2}", "", "unknown placeholder"),
        ("https://me:hunter2@host/", '{"a": hunter2}', "expected JSON (line 1, column 7)"),
        ("https://me:hunter2@host/", '{"a": "{telefone}"}', "unknown placeholder {telefone}"),
        ("https://me:hunter2@host/", "[" * 100_000, "expected JSON"),
        ("https://me:hunter2@host/", '{"a": NaN}', "expected JSON"),
        ("https://me:hunter2@host/", '{"a": 1e999}', "expected JSON"),
        ("https://me:hunter2@host/", '{"a": "\\ud800"}', "expected JSON"),
        ("https://me:hunter2@host/", '{"to": [{"{telephone}": 1}]}', "expected placeholders in values"),
        ("apprise:hunter2", "", "that Apprise understands"),
        ("apprise:nothing://me:hunter2@host", "", "that Apprise understands"),
        ("apprise:json://me:hunter2@host/{hunter}", "", "unknown placeholder"),
    ],
)
def test_a_bad_url_is_one_line_without_the_secret(url, body, says):
    with pytest.raises(ValueError) as error:
        open_notifier("sms", url, body=body, base_dir=Path())

    text = str(error.value)
    assert says in text
    assert SECRET not in text and "\n" not in text
    assert error.value.__suppress_context__ or error.value.__context__ is None


@pytest.mark.parametrize(
    "url, port, tls, origin",
    [
        ("smtp://host?from=a@b.fr", 587, "starttls", "a@b.fr"),
        ("smtp://host:2525?from=a@b.fr&tls=none", 2525, "none", "a@b.fr"),
        ("smtps://a%40b.fr:x@host", 465, "tls", "a@b.fr"),
        ("smtp://127.0.0.1", 25, "none", "tocsin@localhost"),
        ("smtp://[::1]:1025", 1025, "none", "tocsin@localhost"),
        ("smtp://localhost?tls=starttls", 587, "starttls", "tocsin@localhost"),
        (
            "smtp://host?from=Mairie%20d%27%C3%89vreux%20<alerte+tocsin@mairie.fr>",
            587,
            "starttls",
            "alerte+tocsin@mairie.fr",
        ),
        ("SMTP://host?from=a@é.fr", 587, "starttls", "a@xn--9ca.fr"),
    ],
)
def test_what_a_mail_url_means(url, port, tls, origin):
    mail = open_notifier("email", url, base_dir=Path())

    assert (mail._port, mail._tls, mail._origin.spec) == (port, tls, origin)


@given(st.text(max_size=60))
def test_no_url_is_a_crash(text):
    for scheme in ("smtp://", "https://", "outbox:", "null:", ""):
        try:
            open_notifier("sms", scheme + text, base_dir=Path())
        except ValueError as error:
            assert "\n" not in str(error)


@given(st.text())
def test_the_words_of_others_are_kept_short_and_on_one_line(text):
    kept = clip(text)

    assert (len(kept) <= 200 and kept.isprintable()) or kept == kept.strip()
    assert not set(kept) & {"\r", "\n", "\0", "\x1b", "\u2028"}


def test_every_reason_is_said_once():
    assert len(set(REASONS)) == len(REASONS)
