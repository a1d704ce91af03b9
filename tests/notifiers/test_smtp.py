"""E-mail through a real mail server: who got how many letters, whatever the server does."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from notifiers import Notifier, NotifierError, Refused, RetryLater, Sent, open_notifier
from notifiers import smtp as smtp_module
from notifiers.wire import Lost, Reply, Wire
from tests.notifiers.post import Post, message, serving


@pytest.fixture(params=[True, False], ids=["pipelining", "one by one"])
def post(request) -> Post:
    return Post(pipelining=request.param)


@asynccontextmanager
async def smtp(url: str, **settings):
    notifier: Notifier = open_notifier("email", url, base_dir=Path(), **settings)
    try:
        yield notifier
    finally:
        await notifier.aclose()


def at(post: Post) -> str:
    return f"smtp://127.0.0.1:{post.port}?from=Mairie <alerte@mairie.fr>"


async def test_everybody_gets_one_letter_over_few_connections(post):
    async with serving(post), smtp(at(post), concurrency=4) as mail:
        outcomes = await asyncio.gather(*(mail.deliver(message(n)) for n in range(50)))

    assert post.got == Counter({f"u{n}@mairie.fr": 1 for n in range(50)})
    assert post.connections == 4
    assert post.senders == {"alerte@mairie.fr"}
    assert all(isinstance(outcome, Sent) and "queued as" in outcome.reference for outcome in outcomes)


async def test_each_letter_is_for_the_one_its_envelope_names(post):
    async with serving(post), smtp(at(post), concurrency=3) as mail:
        await asyncio.gather(*(mail.deliver(message(n, nom=f"Élève {n}")) for n in range(20)))

    for address, letter in post.letters:
        (to,) = letter["To"].addresses
        assert (to.addr_spec, to.display_name) == (address, f"Élève {address[1:].split('@')[0]}")
        assert (
            letter["Message-ID"]
            == f"<0198c0de-0000-7000-8000-000000000000.{address[1:].split('@')[0]}@tocsin.mairie.fr>"
        )


async def test_one_refused_of_fifty_costs_nobody_else_anything(post):
    post.script["u7@mairie.fr"] = ["550 5.1.1 no such user"]
    async with serving(post), smtp(at(post), concurrency=2) as mail:
        outcomes = await asyncio.gather(*(mail.deliver(message(n)) for n in range(50)))

    assert outcomes[7] == Refused("address_refused", "550", "5.1.1 no such user")
    assert post.got == Counter({f"u{n}@mairie.fr": 1 for n in range(50) if n != 7})
    assert post.connections == 2


async def test_a_450_is_later_and_then_it_arrives(post):
    post.script["u0@mairie.fr"] = ["450 4.2.0 greylisted"]
    async with serving(post), smtp(at(post)) as mail:
        first = await mail.deliver(message())
        assert post.got == Counter()
        second = await mail.deliver(message())

    assert first == RetryLater("busy", "450", "4.2.0 greylisted")
    assert isinstance(second, Sent)
    assert post.got == Counter({"u0@mairie.fr": 1})
    assert post.connections == 1


@pytest.mark.parametrize(
    "line, outcome",
    [
        ("554 5.7.1 spam", Refused("message_refused", "554", "5.7.1 spam")),
        ("451 4.3.0 try again", RetryLater("busy", "451", "4.3.0 try again")),
        ("421 4.3.2 going down", RetryLater("busy", "421", "4.3.2 going down", transport=True)),
        ("251 2.0.0 taken", Sent("2.0.0 taken")),  # the first digit decides
        ("250-2.0.0 taken\r\n250 as 7", Sent("2.0.0 taken as 7")),
        ("250 2.0.0 taken\r\n421 4.3.2 going down", Sent("2.0.0 taken")),  # and a goodbye takes nothing back
    ],
)
async def test_the_reply_after_the_letter_decides(post, line, outcome):
    post.script["u0@mairie.fr"] = [f"then {line}"]
    async with serving(post), smtp(at(post)) as mail:
        assert await mail.deliver(message()) == outcome
        assert isinstance(await mail.deliver(message(1)), Sent)

    assert post.rcpts == ["u0@mairie.fr", "u1@mairie.fr"]


async def test_a_server_that_hangs_is_left_at_the_deadline(post):
    post.script["u0@mairie.fr"] = ["hang"]
    async with serving(post), smtp(at(post), timeout_s=0.5) as mail:
        assert await mail.deliver(message()) == RetryLater("timeout", transport=True)
        mail._timeout_s = 60
        assert isinstance(await mail.deliver(message(1)), Sent)

    assert post.got == Counter({"u1@mairie.fr": 1})


async def test_a_server_that_never_greets_is_left_at_the_deadline():
    callers: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda reader, writer: callers.append(writer), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    try:
        async with smtp(f"smtp://127.0.0.1:{port}", timeout_s=0.1) as mail:
            assert await mail.deliver(message()) == RetryLater("timeout", transport=True)
            with pytest.raises(NotifierError, match="no answer within"):
                await mail.check()
        async with asyncio.timeout(60):
            while len(callers) < 2:  # it was left, perhaps, before it was taken in
                await asyncio.sleep(0)
    finally:
        silent.close()
        for writer in callers:
            writer.close()
            await writer.wait_closed()

    assert len(callers) == 2


async def test_no_reply_after_the_letter_is_later_with_the_same_message_id(post):
    post.script["u0@mairie.fr"] = ["hang after dot"]
    async with serving(post), smtp(at(post), timeout_s=2) as mail:
        assert await mail.deliver(message()) == RetryLater("timeout", transport=True)
        mail._timeout_s = 60
        assert isinstance(await mail.deliver(message()), Sent)

    assert post.got == Counter({"u0@mairie.fr": 2})
    assert len({letter["Message-ID"] for _, letter in post.letters}) == 1


async def test_a_letter_for_a_refused_recipient_is_never_sent(post):
    post.script["u0@mairie.fr"] = ["eager 550 no"]
    async with serving(post), smtp(at(post), concurrency=1) as mail:
        assert await mail.deliver(message(0)) == Refused("address_refused", "550", "no")
        assert isinstance(await mail.deliver(message(1)), Sent)

    assert post.got == Counter({"u1@mairie.fr": 1})
    assert post.for_nobody == (b".\r\n" if post.pipelining else b"")
    assert post.connections == 1


async def test_replies_are_the_same_however_they_are_cut_up():
    stream = b"250-a\r\n250 b\r\n550-no\r\n550-no, no\r\n550 never\r\n354 go\r\n"
    for cut in range(len(stream)):
        wire = Wire(Socket(), frozenset(), lambda wire: None)
        wire._write([b""] * 3)
        wire.data_received(stream[:cut])
        wire.data_received(stream[cut:])
        assert [await wire._reply() for _ in range(3)] == [
            Reply(250, "a b"), Reply(550, "no no, no never"), Reply(354, "go"),
        ]  # fmt: skip
        assert wire.alive
        wire.data_received(b"250 not asked for\r\n")
        assert not wire.alive


async def test_a_reply_without_end_is_not_kept():
    wire = Wire(Socket(), frozenset(), lambda wire: None)
    wire._write([b""])
    for _ in range(100):
        wire.data_received(b"250-" + b"x" * 1000 + b"\r\n")

    assert not wire.alive
    with pytest.raises(Lost):
        await wire._reply()


class Socket(asyncio.Transport):
    """A transport that goes nowhere."""

    def set_protocol(self, protocol):
        pass

    def is_closing(self):
        return False

    def write(self, data):
        pass

    def abort(self):
        pass


@pytest.mark.parametrize("where", ["cut", "cut at data", "cut after dot"])
async def test_a_cut_connection_is_later_with_the_same_message_id(post, where):
    post.script["u0@mairie.fr"] = [where]
    async with serving(post), smtp(at(post)) as mail:
        first = await mail.deliver(message())
        second = await mail.deliver(message(at_ms=1_763_028_060_000))

    assert isinstance(first, RetryLater)
    assert (first.reason, first.transport) == ("connection_lost", True)
    assert isinstance(second, Sent)
    assert post.got == Counter({"u0@mairie.fr": 2 if where == "cut after dot" else 1})
    assert len({letter["Message-ID"] for _, letter in post.letters}) == 1


async def test_a_cut_reaches_only_the_one_on_that_connection(post):
    post.script["u3@mairie.fr"] = ["cut at data", "cut at data"]
    async with serving(post), smtp(at(post), concurrency=2) as mail:
        outcomes = await asyncio.gather(*(mail.deliver(message(n)) for n in range(10)))

    assert post.got == Counter({f"u{n}@mairie.fr": 1 for n in range(10) if n != 3})
    assert [n for n, outcome in enumerate(outcomes) if not isinstance(outcome, Sent)] == [3]


async def test_connections_that_died_while_idle_are_replaced_without_a_word(post):
    async with serving(post), smtp(at(post), concurrency=3) as mail:
        await asyncio.gather(*(mail.deliver(message(n)) for n in range(3)))
        post.cut_all()
        outcomes = await asyncio.gather(*(mail.deliver(message(n)) for n in range(3, 6)))

    assert all(isinstance(outcome, Sent) for outcome in outcomes)
    assert post.got == Counter({f"u{n}@mairie.fr": 1 for n in range(6)})


async def test_idle_connections_are_closed_after_a_while(post, monkeypatch):
    monkeypatch.setattr(smtp_module, "IDLE_S", 0.05)
    async with serving(post), smtp(at(post)) as mail:
        await mail.deliver(message())
        await post.deserted.wait()
        assert isinstance(await mail.deliver(message(1)), Sent)

    assert post.connections == 2


async def test_a_server_that_takes_two_connections_gets_two(post):
    post.busy_beyond = 2
    async with serving(post), smtp(at(post), concurrency=16) as mail:
        for n in (0, 1):  # one that is there already makes the others wait for it
            assert isinstance(await mail.deliver(message(n)), Sent)
        outcomes = await asyncio.gather(*(mail.deliver(message(n)) for n in range(2, 40)))

    assert all(isinstance(outcome, Sent) for outcome in outcomes)
    assert post.got == Counter({f"u{n}@mairie.fr": 1 for n in range(40)})


async def test_a_server_that_takes_two_connections_is_not_too_busy_for_the_first_many(post):
    post.busy_beyond = 2
    async with serving(post), smtp(at(post), concurrency=16) as mail:
        outcomes = await asyncio.gather(*(mail.deliver(message(n)) for n in range(40)))

    assert all(isinstance(outcome, Sent) for outcome in outcomes)
    assert post.got == Counter({f"u{n}@mairie.fr": 1 for n in range(40)})


async def test_a_server_that_takes_few_letters_per_connection_gets_more_connections(post):
    post.most_per_connection = 1
    async with serving(post), smtp(at(post), concurrency=4) as mail:
        outcomes = await asyncio.gather(*(mail.deliver(message(n)) for n in range(40)))

    assert all(isinstance(outcome, Sent) for outcome in outcomes)
    assert post.got == Counter({f"u{n}@mairie.fr": 1 for n in range(40)})


async def test_a_server_with_no_place_at_all_is_busy(post):
    post.busy_beyond = 0
    async with serving(post), smtp(at(post)) as mail:
        assert await mail.deliver(message()) == RetryLater("busy", "421", "4.7.0 too many connections", transport=True)


async def test_all_are_told_by_a_server_with_no_place_at_all(post):
    post.busy_beyond = 0
    async with serving(post), smtp(at(post), concurrency=4) as mail:
        outcomes = await asyncio.gather(*(mail.deliver(message(n)) for n in range(10)))

    assert {(outcome.reason, outcome.code, outcome.transport) for outcome in outcomes} == {("busy", "421", True)}


@pytest.mark.parametrize(
    "hello, outcome",
    [
        (b"550 go away\r\n", RetryLater("unreachable", "550", "go away", transport=True)),
        (b"mumble\r\n", RetryLater("unreachable", "-1", "Malformed SMTP response line: mumble", transport=True)),
        (b"", RetryLater("timeout", transport=True)),
    ],
)
async def test_no_connection_is_left_open_to_a_server_that_says_no_hello(hello, outcome):
    left = asyncio.Event()

    async def doorkeeper(reader, writer):
        writer.write(b"220 here\r\n")
        while await reader.readline():
            writer.write(hello)
        left.set()
        writer.close()

    server = await asyncio.start_server(doorkeeper, "127.0.0.1", 0)
    try:
        async with smtp(
            f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=1 if hello == b"" else 60
        ) as mail:
            assert await mail.deliver(message()) == outcome
            async with asyncio.timeout(60):
                await left.wait()
    finally:
        server.close()


async def test_a_server_that_knows_no_ehlo_is_told_helo():
    said: list[bytes] = []

    async def old(reader, writer):
        writer.write(b"220 here since 1982\r\n")
        while line := await reader.readline():
            said.append(line[:4])
            if line == b"DATA\r\n":
                writer.write(b"354 go on\r\n")
                await reader.readuntil(b"\r\n.\r\n")
            writer.write(b"500 what\r\n" if line.startswith(b"EHLO") else b"250 ok\r\n")
        writer.close()

    server = await asyncio.start_server(old, "127.0.0.1", 0)
    try:
        async with smtp(f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}") as mail:
            assert await mail.deliver(message()) == Sent("ok")
    finally:
        server.close()

    assert said[:5] == [b"EHLO", b"HELO", b"MAIL", b"RCPT", b"DATA"]


async def test_nobody_at_the_port_is_out_of_reach(unused_tcp_port):
    async with smtp(f"smtp://127.0.0.1:{unused_tcp_port}") as mail:
        outcome = await mail.deliver(message())
        with pytest.raises(NotifierError, match=f"127.0.0.1:{unused_tcp_port}: unreachable"):
            await mail.check()

    assert isinstance(outcome, RetryLater)
    assert (outcome.reason, outcome.transport) == ("unreachable", True)


async def test_something_that_is_not_smtp_is_no_crash():
    async def shout(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(shout, "127.0.0.1", 0)
    try:
        async with smtp(f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}") as mail:
            outcome = await mail.deliver(message())
    finally:
        server.close()

    assert isinstance(outcome, RetryLater)
    assert outcome.transport


async def test_a_server_that_talks_unasked_cannot_shift_the_replies(post):
    async with serving(post), smtp(at(post), concurrency=1) as mail:
        await mail.deliver(message())
        (server,) = post.open
        server.transport.write(b"250 a present\r\n")  # not the answer to anything
        (wire,) = mail._wires
        await wire.gone
        post.script["u1@mairie.fr"] = ["550 no"]
        assert isinstance(await mail.deliver(message(1)), Refused)
        assert isinstance(await mail.deliver(message(2)), Sent)

    assert post.got == Counter({"u0@mairie.fr": 1, "u2@mairie.fr": 1})


async def test_lines_that_begin_with_a_dot_arrive_as_they_were(post):
    text = ".\n..\n.fin\nx" + "y" * 5000 + "\n."
    async with serving(post), smtp(at(post)) as mail:
        await mail.deliver(message(message=text))

    ((_, letter),) = post.letters
    assert text in letter.get_body(("plain",)).get_content().replace("\r\n", "\n")
    assert max(map(len, post.raw[0].split(b"\r\n"))) <= 78


async def test_a_mailbox_that_is_not_ascii_needs_a_server_that_takes_it(post, monkeypatch):
    async with serving(post), smtp(at(post)) as mail:
        assert isinstance(await mail.deliver(message(email="josé@mairie.fr")), Sent)
        assert isinstance(await mail.deliver(message(email="jean@été.fr")), Sent)
        (wire,) = mail._wires
        wire.smtputf8 = False
        assert (await mail.deliver(message(email="josé@mairie.fr"))).reason == "address_refused"
        assert isinstance(await mail.deliver(message(1)), Sent)

    assert post.got == Counter({"josé@mairie.fr": 1, "jean@xn--t-9fab.fr": 1, "u1@mairie.fr": 1})
    assert "<josé@mairie.fr>".encode() in post.raw[0]


async def test_a_long_address_goes_into_the_envelope_as_it_is(post):
    address = f"{'a' * 64}@{'.'.join(['b' * 58] * 4)}.fr"
    async with serving(post), smtp(at(post)) as mail:
        await mail.deliver(message(email=address))
        await mail.deliver(message(1))

    assert len(address) > 300
    assert post.got == Counter({address: 1, "u1@mairie.fr": 1})
    assert post.letters[0][1]["To"].addresses[0].addr_spec == address


# --- encryption and login --------------------------------------------------------------------------


@pytest.fixture
def tls(tmp_path, monkeypatch):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.mark.parametrize("at_once", [False, True], ids=["starttls", "smtps"])
async def test_letters_go_encrypted_and_signed_in(post, tls, at_once):
    post.secret = b"s:e/c@r#t"
    async with serving(post, tls=tls, at_once=at_once, login=True):
        url = f"{'smtps' if at_once else 'smtp'}://alerte%40mairie.fr:s%3Ae%2Fc%40r%23t@localhost:{post.port}"
        async with smtp(url if at_once else f"{url}?tls=starttls", concurrency=2) as mail:
            assert "signed in" in await mail.check()
            outcomes = await asyncio.gather(*(mail.deliver(message(n)) for n in range(10)))

    assert all(isinstance(outcome, Sent) for outcome in outcomes)
    assert post.got == Counter({f"u{n}@mairie.fr": 1 for n in range(10)})
    assert post.senders == {"alerte@mairie.fr"}
    assert set(post.logins) == {(b"alerte@mairie.fr", b"s:e/c@r#t")}


async def test_a_refused_login_is_the_operators_concern_not_the_recipients(post, tls):
    login = "me:hunter2"
    async with (
        serving(post, tls=tls, login=True),
        smtp(f"smtp://{login}@localhost:{post.port}?tls=starttls&from=a@b.fr") as mail,
    ):
        outcome = await mail.deliver(message())
        with pytest.raises(NotifierError, match="login refused 535") as refused:
            await mail.check()

    assert isinstance(outcome, RetryLater)
    assert (outcome.reason, outcome.code, outcome.transport) == ("login_refused", "535", True)
    assert "hunter2" not in f"{outcome} {refused.value}"
    assert post.rcpts == []


async def test_without_the_encryption_that_was_asked_for_nothing_is_sent(post):
    async with serving(post), smtp(f"{at(post)}&tls=starttls") as mail:
        outcome = await mail.deliver(message())

    assert isinstance(outcome, RetryLater)
    assert (outcome.reason, outcome.transport) == ("tls_failed", True)
    assert post.rcpts == []


async def test_whom_to_trust_is_read_again_where_it_could_not_be_read(post, tls, monkeypatch, tmp_path):
    secrets = tmp_path / "not yet there" / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(secrets))  # it is opened with the authorities
    async with serving(post, tls=tls), smtp(f"smtp://localhost:{post.port}?tls=starttls&from=a@b.fr") as mail:
        at_first = await asyncio.gather(*(mail.deliver(message(n)) for n in range(3)))
        with pytest.raises(NotifierError, match="tls failed No such file"):
            await mail.check()
        secrets.parent.mkdir()
        afterwards = [await mail.deliver(message(n)) for n in range(3)]
        monkeypatch.delenv("SSLKEYLOGFILE")

    assert {(outcome.reason, outcome.transport) for outcome in at_first} == {("tls_failed", True)}
    assert all(isinstance(outcome, Sent) for outcome in afterwards)
    assert len(post.got) == 3


async def test_a_certificate_of_a_stranger_is_not_trusted(post, tls, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    async with serving(post, tls=tls), smtp(f"smtp://localhost:{post.port}?tls=starttls") as mail:
        outcome = await mail.deliver(message())

    assert isinstance(outcome, RetryLater)
    assert (outcome.reason, outcome.transport) == ("tls_failed", True)
    assert post.rcpts == []
