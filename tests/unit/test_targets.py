"""Where a webhook may go: public addresses, what is listed, and nothing else, by whatever name or spelling."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from ipaddress import ip_address

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver

from server.targets import ForbiddenAddress, Resolver, Targets

NOT_PUBLIC = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "100.127.255.255", "192.0.0.1", "192.0.2.1", "198.51.100.7", "203.0.113.9",
    "198.18.0.1", "198.19.255.255", "192.88.99.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.1.2.3", "::ffff:0:127.0.0.1", "fe80::1",
    "fec0::1", "fc00::1", "fd12:3456::1", "ff02::1", "ff0e::1", "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1",
    "64:ff9b:1::1", "64:ff9b:1::8.8.8.8", "2002:7f00:1::1", "2002:a00:1::", "2002:c0a8:101::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "2001:2::1", "2001:10::1", "2001:20::1", "3fff::1", "100::1",
    "5f00::1", "4000::1",
]  # fmt: skip

PUBLIC = [
    "8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "198.17.0.1", "198.20.0.1",
    "223.255.255.255", "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1",
]  # fmt: skip

NO_URL_TO_POST = [
    *(f"http://{f'[{host}]' if ':' in host else host}:9/hook" for host in NOT_PUBLIC),
    "http://localhost/", "http://LOCALHOST:8080/", "http://localhost./", "http://a.localhost/", "http://127.1/", "http://127.0.1/",
    "http://0x7f.1/", "http://0x7f000001/", "http://2130706433/", "http://017700000001/", "http://0177.0.0.1/", "http://0/",
    "http://127.0.0.1./", "http://１２７.0.0.1/", "http://[fe80::1%25eth0]/", "http://[::ffff:7f00:1]/", "http://0x/",
    "http://127.0.0.0x1/", "http://user@example.org/", "http://user:secret@example.org/", "http://example.org:0/",
    "http://ⓛocalhost/", "https://1.2.3.4.5/", "http://8.8.8.8@127.0.0.1/",
]  # fmt: skip

NO_URL_AT_ALL = [
    "http:///x", "http://", "http://%31%32%37.0.0.1/", "http://[::1", "http://h:99999/", "http://h:80:90/", "ftp://example.org/",
    "http://example.org\\@127.0.0.1/", "file:///etc/passwd", "//example.org/",
    "http://[]@", "http://]x[@/", "http://xn--a/", "http://xn--\u00df.example/", "http://user:[]@example.org/",
]  # fmt: skip


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_refused(text):
    assert not Targets([]).allows(ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_a_public_address_is_called(text):
    assert Targets([]).allows(ip_address(text))


@pytest.mark.parametrize("url", NO_URL_TO_POST)
def test_a_url_that_names_such_an_address_is_refused_when_it_is_posted(url):
    assert Targets([]).objection(url) == "field.forbidden_address"


@pytest.mark.parametrize("url", NO_URL_AT_ALL)
def test_what_is_no_url_of_a_web_server_is_refused(url):
    assert Targets([]).objection(url) == "field.webhook_url"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/hook?a=1", "http://8.8.8.8:8080/", "https://[2606:4700::1111]/", "http://bücher.example/",
        "http://x1.0a/",
    ],
)  # fmt: skip
def test_a_url_of_a_public_host_may_be_posted(url):
    assert Targets([]).objection(url) is None


def test_a_listed_network_opens_its_addresses_in_every_form_and_no_others():
    targets = Targets(["10.1.0.0/16", "fd00::/8"])

    assert targets.objection("http://10.1.2.3/") is None
    assert targets.allows(ip_address("::ffff:10.1.2.3"))
    assert targets.allows(ip_address("fd00::5"))
    assert not targets.allows(ip_address("10.2.0.1"))
    assert not targets.allows(ip_address("fc00::1"))


def test_a_listed_host_opens_its_name_alone():
    targets = Targets(["Intranet.mairie.fr", "localhost"])

    assert targets.objection("http://intranet.mairie.fr./hook") is None
    assert targets.objection("http://localhost:9/") is None
    assert targets.objection("http://x.localhost/") == "field.forbidden_address"
    assert targets.objection("http://127.0.0.1/") == "field.forbidden_address"
    assert targets.objection("http://user@intranet.mairie.fr/") == "field.forbidden_address"


def test_localhost_is_as_good_as_the_loopback_that_is_listed():
    assert Targets(["127.0.0.1"]).objection("http://localhost:9/") is None


class Names(AbstractResolver):
    """A name server under the attacker's hand: each look-up gives the next address."""

    def __init__(self, *addresses: str):
        self._addresses = list(addresses)
        self.asked = 0

    async def resolve(self, host, port=0, family=socket.AF_INET):
        self.asked += 1
        text = self._addresses.pop(0) if len(self._addresses) > 1 else self._addresses[0]
        kind = socket.AF_INET6 if ":" in text else socket.AF_INET
        return [{"hostname": host, "host": text, "port": port, "family": kind, "proto": 0, "flags": 0}]

    async def close(self):
        pass


@asynccontextmanager
async def listening():
    """A server that counts who connects: (port, [peers])."""
    seen: list[object] = []

    async def met(_reader, writer):
        seen.append(writer.get_extra_info("peername"))
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(met, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], seen


async def refused(session, url):
    with pytest.raises((aiohttp.ClientError, ValueError)) as error:
        await session.post(url, data=b"{}", allow_redirects=False)
    return error.value


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "0x7f.1", "2130706433", "0", "0.0.0.0", "localhost", "[::1]", "[::]",
        "[::ffff:127.0.0.1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "１２７.0.0.1", "127.0.0.1.",
        "0177.0.0.1",
    ],
)  # fmt: skip
async def test_no_spelling_of_the_loopback_makes_a_connection(host):
    async with listening() as (port, seen):
        resolver = Resolver()
        async with Targets([]).session(5, resolver) as session:
            await refused(session, f"http://{host}:{port}/")
        await resolver.close()

        assert seen == []


@pytest.mark.parametrize(
    "text", ["127.0.0.1", "10.0.0.1", "::1", "::ffff:7f00:1", "169.254.169.254", "64:ff9b::7f00:1"]
)
async def test_a_name_that_leads_inside_makes_no_connection(text):
    async with listening() as (port, seen), Targets([]).session(5, Names(text)) as session:
        error = await refused(session, f"http://innocent.example:{port}/")

        assert isinstance(error.os_error, ForbiddenAddress)
        assert seen == []


async def test_a_name_that_changes_its_address_between_check_and_connection_gains_nothing():
    names = Names("192.0.2.1", "127.0.0.1")
    async with listening() as (port, seen), Targets(["192.0.2.1"]).session(0.2, names) as session:
        with pytest.raises((aiohttp.ClientError, TimeoutError)):  # nobody answers at 192.0.2.1
            await session.post(f"http://rebinding.example:{port}/", data=b"{}")
        first = names.asked
        session.connector.clear_dns_cache()
        error = await refused(session, f"http://rebinding.example:{port}/")

        assert first == 1, "looked up once, connected to what was checked"
        assert isinstance(error.os_error, ForbiddenAddress)
        assert seen == []


async def test_what_is_listed_is_called():
    async with listening() as (port, seen), Targets(["127.0.0.0/8"]).session(5, Names("127.0.0.1")) as session:
        async with session.post(f"http://inside.example:{port}/", data=b"{}") as answer:
            assert answer.status == 204
        assert len(seen) == 1


async def test_the_proxy_of_the_environment_is_not_used(monkeypatch):
    async with listening() as (port, seen), Targets([]).session(5, Names("127.0.0.1")) as session:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        await refused(session, "http://innocent.example/")

        assert seen == []
