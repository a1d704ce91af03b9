"""Composing: whatever people are called and whatever is written, the e-mail is well formed and says just that."""

from __future__ import annotations

import re
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.policy import default
from html import escape, unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifiers import Refused
from notifiers.mail import DEFAULT_FROM, Letter, NotAnAddress, compose, sender
from tests.notifiers.post import message

ORIGIN = sender("Préfecture <alerte@préfecture.fr>")
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
lines = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=200)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=3000)
HEADERS = ["To", "Date", "Message-ID", "From", "Subject", "Auto-Submitted", "MIME-Version", "Content-Type"]


def composed(**changes) -> EmailMessage:
    return message_from_bytes(wire(**changes), policy=default)


def wire(**changes) -> bytes:
    letter = compose(message(**changes), ORIGIN)
    assert isinstance(letter, Letter)
    assert well_formed(letter.data)
    return letter.data


def read(data: bytes) -> tuple[str, str, str, list[str]]:
    """Subject, name and address of To, and the texts: by the older parser, which keeps RFC 2047 section 6.2."""
    letter = message_from_bytes(data)
    nom, address = re.fullmatch(r"(?:(.*)\s)?<?([^<>]*?)>?", letter["To"], re.DOTALL).groups(default="")
    if nom.startswith('"'):
        nom = re.sub(r"\\(.)", r"\1", nom[1:-1])
    bodies = [part.get_payload(decode=True).decode().replace("\r\n", "\n") for part in letter.get_payload()]
    return decoded(letter["Subject"]), decoded(nom), address, bodies


def decoded(header: str) -> str:
    return str(make_header(decode_header(header))) if "=?" in header else header


def well_formed(data: bytes) -> bool:
    """Every line ends in CRLF, none is longer than RFC 5322 allows, and headers keep to ASCII."""
    head = data.partition(b"\r\n\r\n")[0]
    return not re.search(rb"(?<!\r)\n|\r(?!\n)", data) and max(map(len, data.split(b"\r\n"))) <= 998 and head.isascii()


def test_the_headers_say_who_what_and_when():
    letter = composed(priority="HAUTE", langue="en")

    assert sorted(letter.keys()) == sorted([*HEADERS, "Content-Language"])
    assert str(letter["To"]) == "Zoé Müller <u0@mairie.fr>"
    assert str(letter["From"]) == "Préfecture <alerte@xn--prfecture-c4a.fr>"
    assert letter["Subject"] == "Alerte « vents violents »"
    assert letter["Date"].datetime.isoformat() == "2025-11-13T10:00:00+00:00"
    assert letter["Message-ID"] == "<0198c0de-0000-7000-8000-000000000000.0@tocsin.xn--prfecture-c4a.fr>"
    assert (letter["Auto-Submitted"], letter["Content-Language"]) == ("auto-generated", "en")


@pytest.mark.parametrize("priority, urgent", [("CRITIQUE", True), ("HAUTE", False), ("NORMALE", False)])
def test_only_a_critical_one_is_marked_urgent(priority, urgent):
    letter = composed(priority=priority)

    assert (letter["X-Priority"] == "1", letter["Importance"] == "high") == (urgent, urgent)


def test_html_is_text_and_nothing_else():
    letter = composed(titre="<script>alert(1)</script>", message='<img src="x">\n{{7*7}} & co', label="<b>")
    html = letter.get_body(("html",)).get_content()

    assert "<script>" not in html and "<img" not in html and "<b>" not in html
    assert "&lt;img src=&quot;x&quot;&gt;<br>{{7*7}} &amp; co" in html
    assert '<img src="x">\n{{7*7}} & co' in letter.get_body(("plain",)).get_content().replace("\r\n", "\n")
    assert letter.get_content_type() == "multipart/alternative"


@given(titre=lines, nom=lines, text=texts)
def test_what_is_written_is_what_is_read(titre, nom, text):
    data = wire(titre=titre, nom=nom, message=text)
    subject, name, address, (plain, html) = read(data)
    kept = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", re.sub(r"\r\n?", "\n", text))
    shown = re.search(r'pre-wrap">(.*)</div>\n</div></body>', html, re.DOTALL)[1]

    assert (subject, name, address) == (titre, nom.strip(), "u0@mairie.fr")
    assert plain == f"{titre}\n\n{kept}\n"
    assert unescape(shown.replace("<br>", "\n")) == unescape(escape(kept))
    assert sorted(message_from_bytes(data).keys()) == sorted([*HEADERS, "Content-Language"])


@given(
    st.sampled_from(["email", "nom", "titre"]),
    st.text(),
    st.sampled_from("\r\n\0\x0b\x0c\x1b\x7f\x85\u2028\u2029"),
    st.text(),
)
def test_no_control_character_gets_into_a_header(field, before, control, after):
    text = f"{before}{control}{after}Bcc: all@mairie.fr"

    assert isinstance(compose(message(**{field: text}), ORIGIN), Refused)


@given(st.text(max_size=320))
def test_an_address_names_one_mailbox_or_is_refused(address):
    letter = compose(message(email=address), ORIGIN)

    if isinstance(letter, Letter):
        mailbox, _, domain = letter.recipient.rpartition("@")
        assert mailbox and domain.isascii() and letter.smtputf8 == (not mailbox.isascii())
        assert not re.search(r"[\s<>,;:\"()\[\]\\]", letter.recipient)
        assert f"<{letter.recipient}>\r\n".encode() in letter.data
    else:
        assert letter.reason in ("address_refused", "no_address")


@pytest.mark.parametrize(
    "address, recipient",
    [
        ("jean@été.fr", "jean@xn--t-9fab.fr"),
        ("jean@straße.de", "jean@xn--strae-oqa.de"),
        ("jean@مثال.إختبار", "jean@xn--mgbh0fb.xn--kgbechtv"),
        ("josé@mairie.fr", "josé@mairie.fr"),
        ("o'neil+urgence@mairie.fr", "o'neil+urgence@mairie.fr"),
    ],
)
def test_domains_go_in_ascii_and_mailboxes_as_they_are(address, recipient):
    assert compose(message(email=address), ORIGIN).recipient == recipient


@pytest.mark.parametrize(
    "address",
    ["", "jean", "@mairie.fr", "jean@", "a@b@c.fr", "a b@c.fr", "<a@c.fr>", "a@c.fr,b@c.fr", f"a@{'é' * 70}.fr"],
)
def test_what_is_no_address_is_refused(address):
    assert compose(message(email=address), ORIGIN).reason in ("address_refused", "no_address")


@pytest.mark.parametrize(
    "nom", ["مرحبا بالعالم", "👩‍👩‍👧‍👦 Famille", 'Jean "Le \\ Grand", maire', "=?utf-8?q?x?=", "É" * 200, "a" * 200]
)
def test_names_of_every_kind_survive_beside_a_long_address(nom):
    address = f"{'a' * 64}@{'.'.join(['b' * 58] * 4)}.fr"

    assert read(wire(nom=nom, titre=nom, email=address))[:3] == (nom, nom, address)


def test_a_repeat_differs_in_its_date_alone():
    first, second = (compose(message(at_ms=at_ms), ORIGIN).data for at_ms in (1_763_028_000_000, 1_763_028_060_000))
    differing = [one for one, other in zip(first.split(b"\r\n"), second.split(b"\r\n"), strict=True) if one != other]

    assert [line[:5] for line in differing] == [b"Date:"]


@pytest.mark.parametrize(
    "text", ["", "x", "a@b, c@d.fr", "Nom\r\nBcc: x <a@b.fr>", "josé@mairie.fr", "A <a@b.fr> <c@d.fr>"]
)
def test_a_sender_is_one_plain_address(text):
    with pytest.raises(NotAnAddress):
        sender(text)


def test_the_default_sender_is_one():
    assert sender(DEFAULT_FROM).spec == "tocsin@localhost"
