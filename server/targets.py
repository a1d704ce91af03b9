"""Which addresses a webhook may call: public ones, and what `webhooks.allow` lists; nothing inside the house.

Asked twice: of the URL when it is posted (`Targets.objection`, what can be told without the network), and of the very
address when a connection is made (`Targets.session`). Between that second check and the connection nothing is looked up
again, so a name that changes its address meanwhile (DNS rebinding) gains nothing. Redirects are the caller's to refuse.
"""

from __future__ import annotations

import asyncio
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

Address = IPv4Address | IPv6Address

LOOKUPS = 8
"""Names that are looked up at once; a slow name server must not hold up the threads that others work in."""

# IANA IPv4 Special-Purpose Address Registry, with multicast and what is reserved.
NOT_PUBLIC_4 = [
    IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    )
]  # fmt: skip
# In IPv6 global unicast is 2000::/3 alone (RFC 4291, 2.4); of that, what is not of the public network.
GLOBAL_6 = IPv6Network("2000::/3")
NOT_PUBLIC_6 = [IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "3fff::/20", "2620:4f:8000::/48")]
NAT64 = IPv6Network("64:ff9b::/96")  # its sibling for local use, 64:ff9b:1::/48, leads into the house (RFC 8215)
SIX_TO_FOUR = IPv6Network("2002::/16")

_numeric = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z").match  # a last label like this is an IPv4 address to many programs
LOCAL_NAMES = {"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback", "broadcasthost"}
LOOPBACK = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


class ForbiddenAddress(OSError):
    """A connection was not made: its address is not public and not in webhooks.allow."""


def plain(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for (mapped, NAT64, 6to4), else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped:
        return address.ipv4_mapped
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address in SIX_TO_FOUR:
        return IPv4Address(int(address) >> 80 & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Is this one machine in the public network?"""
    address = plain(address)
    if isinstance(address, IPv4Address):
        return not any(address in network for network in NOT_PUBLIC_4)
    return address in GLOBAL_6 and not any(address in network for network in NOT_PUBLIC_6)


class Targets:
    """The rule, given `webhooks.allow`."""

    def __init__(self, allow: list[str]):
        self._names: set[str] = set()
        self._networks: list[IPv4Network | IPv6Network] = []
        for entry in allow:
            try:
                self._networks.append(ip_network(entry, strict=False))
            except ValueError:
                self._names.add(entry.lower().rstrip("."))

    def allows(self, address: Address) -> bool:
        """May a connection be made to `address`?"""
        inner = plain(address)
        return is_public(address) or any(
            one in network for one in {address, inner} for network in self._networks if one.version == network.version
        )

    def lists(self, url: URL) -> bool:
        """Does `webhooks.allow` name the URL's host? Then any address of that name will do."""
        return (url.host or "").lower().rstrip(".") in self._names

    def objection(self, text: str) -> str | None:
        """Why a webhook to this URL is out of the question (a catalogue key), as far as the URL alone shows it."""
        try:
            url = URL(text)
            host = (url.raw_host or "").lower().rstrip(".")
            listed = self.lists(url)
        except (ValueError, IndexError):  # IndexError is yarl's, of `http://[]@`
            return "field.webhook_url"
        if url.scheme not in ("http", "https") or not host or "%" in host.partition("%25")[0]:
            return "field.webhook_url"
        if url.user is not None or url.password is not None or url.port == 0:
            return "field.forbidden_address"
        if listed:
            return None
        return None if self._may_be_called(host) else "field.forbidden_address"

    def _may_be_called(self, host: str) -> bool:
        try:
            return self.allows(ip_address(host.partition("%")[0]))
        except ValueError:
            pass  # a name
        if host in LOCAL_NAMES or host.endswith(".localhost"):
            return any(self.allows(address) for address in LOOPBACK)
        return ":" not in host and not _numeric(host.rpartition(".")[2])

    def _socket(self, info: tuple[Any, ...]) -> socket.socket:
        """A socket for the address in `info`, which is connected to as it stands; every connection passes here."""
        family, kind, proto, _, where = info
        if not self.allows(ip_address(where[0].partition("%")[0])):
            raise ForbiddenAddress("the address is not public and not in webhooks.allow")
        return socket.socket(family, kind, proto)

    def session(self, timeout_s: float, resolver: AbstractResolver, *, checked: bool = True) -> ClientSession:
        """A client whose connections are all checked; `checked=False`: for hosts that are listed by name.

        It takes no proxy from the environment, keeps no cookies, unpacks nothing. `resolver` is the caller's to close.
        """
        connector = TCPConnector(
            limit=0, resolver=Shared(resolver), socket_factory=self._socket if checked else None, keepalive_timeout=5
        )
        return ClientSession(
            connector=connector, timeout=ClientTimeout(total=timeout_s), trust_env=False, cookie_jar=DummyCookieJar(),
            auto_decompress=False, max_line_size=8190, max_field_size=8190, skip_auto_headers=["Accept-Encoding"],
        )  # fmt: skip


class Shared(AbstractResolver):
    """Another's resolver, which outlives the connector that is given this one."""

    def __init__(self, resolver: AbstractResolver):
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return await self._resolver.resolve(host, port, family)

    async def close(self) -> None:
        """Nothing: it is not ours."""


class Resolver(AbstractResolver):
    """The system's own look-up, in threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="tocsin-dns")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        look = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, look)
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=str(where[0]), port=int(where[1]), family=kind, proto=proto, flags=flags)
            for kind, _, proto, _, where in found
        ]

    async def close(self) -> None:
        """Look up nothing more; a look-up under way ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)
