"""Where a request really comes from, and what this server is called by it: address, TLS, origin.

`X-Forwarded-*` is believed from `server.trusted_proxies` alone, and of a list only what those added.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from aiohttp import web

from server.http.problems import BadRequest

_PORTS = {"http": 80, "https": 443}
NOWHERE: tuple[str, str, int | None] = ("", "", None)
_host = re.compile(r"(?:[A-Za-z0-9._~-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z").match
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Callers:
    """Answers questions about requests, given whose forwarding headers to believe."""

    def __init__(self, trusted_proxies: list[str], *, tls: bool) -> None:
        """`trusted_proxies` are addresses or networks. Raises ValueError for anything else."""
        self._trusted = [ip_network(proxy, strict=False) for proxy in trusted_proxies]
        self.may_be_secure = tls or bool(self._trusted)  # can any request have come by TLS?

    def _is_trusted(self, address: str) -> bool:
        try:
            ip = ip_address(address)
        except ValueError:
            return False
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        return any(ip in network for network in self._trusted)

    def _forwarded(self, request: web.BaseRequest, name: str) -> str:
        """The last value of a forwarding header, "" unless a trusted proxy sent it."""
        if not self._trusted or not self._is_trusted(request.remote or ""):
            return ""
        return ",".join(request.headers.getall(name, ())).rpartition(",")[2].strip()

    def address(self, request: web.BaseRequest) -> str:
        """The client's IP address; behind trusted proxies the last hop that is not one of them."""
        remote = request.remote or ""
        if not self._trusted or not self._is_trusted(remote):
            return remote
        hops = [hop.strip() for hop in ",".join(request.headers.getall("X-Forwarded-For", ())).split(",")]
        for hop in reversed([hop for hop in hops if hop]):
            try:
                remote = str(ip_address(hop))
            except ValueError:
                break  # not an address: what stands before it is no better
            if not self._is_trusted(remote):
                break
        return remote

    def neighbourhood(self, request: web.BaseRequest) -> str:
        """The address as limits count it: an IPv6 client owns its whole /64."""
        return _neighbourhood(self.address(request))

    def secure(self, request: web.BaseRequest) -> bool:
        """Did the client come by TLS?"""
        return request.secure or (bool(self._trusted) and self._forwarded(request, "X-Forwarded-Proto") == "https")

    def host(self, request: web.BaseRequest) -> str:
        """This server's name as the client calls it. Raises BadRequest for what is none: it is shown to people."""
        host = self._forwarded(request, "X-Forwarded-Host") or request.headers.get("Host", "")  # never looked up
        if not _host(host):
            raise BadRequest()
        return host

    def origin(self, request: web.BaseRequest) -> str:
        """This server as the client calls it: `https://tocsin.example.org`. Raises BadRequest like `host`."""
        return f"{'https' if self.secure(request) else 'http'}://{self.host(request)}"

    def is_own_page(self, request: web.BaseRequest, *, origin_only: bool = False) -> bool:
        """Does the browser say that one of this server's own pages sent this? `Origin` decides where there is one.

        Our `Referrer-Policy: no-referrer` makes browsers say `Origin: null` with a form (Fetch standard, "append a
        request Origin header"); what they say in `Sec-Fetch-Site` counts then.
        """
        said = request.headers.get("Origin", "null")
        if said != "null":
            return self._matches(request, said)
        return not origin_only and request.headers.get("Sec-Fetch-Site") == "same-origin"

    def is_foreign_page(self, request: web.BaseRequest) -> bool:
        """Does the browser say that another site's page sent this? A client that says nothing is no page."""
        said = request.headers.get("Origin", "null")
        site = request.headers.get("Sec-Fetch-Site", "none")
        return site not in ("same-origin", "none") or (said != "null" and not self._matches(request, said))

    def _matches(self, request: web.BaseRequest, origin: str) -> bool:
        return _split(origin) == _split(self.origin(request)) != NOWHERE


def changes_state(request: web.BaseRequest) -> bool:
    """Is this a method that may change something?"""
    return request.method not in _SAFE


@lru_cache(maxsize=1024)
def _neighbourhood(address: str) -> str:
    try:
        ip = ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, IPv6Address):
        return str(ip.ipv4_mapped) if ip.ipv4_mapped else str(ip_network((ip, 64), strict=False))
    return str(ip)


def _split(origin: str) -> tuple[str, str, int | None]:
    try:
        parts = urlsplit(origin)
        return parts.scheme, (parts.hostname or ""), parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return NOWHERE


def local_path(path: str | None, default: str = "/admin/queue") -> str:
    """`path` if it leads to a page of this server, else `default`: a sign-in must not redirect to another host."""
    if not path or not path.startswith("/") or path.startswith(("//", "/\\")):
        return default
    if len(path) > 2000 or any(ord(c) < 33 or c == "\\" or ord(c) == 127 for c in path):
        return default
    return path
