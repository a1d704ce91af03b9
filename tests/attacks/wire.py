"""Requests that two servers could read in two ways, or that are none: what is sent, and the statuses that come back.

Each is followed on the same connection by `SMUGGLED`, which must never be served: what is not understood to its last
byte ends the connection.
"""

from __future__ import annotations

from tests.kit import ADMIN_KEY

SMUGGLED = b"GET /api/health HTTP/1.1\r\nHost: x\r\nX-Request-ID: smuggled\r\nConnection: close\r\n\r\n"
KEY = f"X-API-Key: {ADMIN_KEY}\r\n".encode()
POST = b"POST /api/notifications/meteo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + KEY
GET = b"GET /api/health HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

REFUSED: dict[str, bytes] = {
    "both lengths": POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, the other order": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "the same length twice": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "a signed length": POST + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": POST + b"Content-Length: -2\r\n\r\n{}",
    "a length in hex": POST + b"Content-Length: 0x2\r\n\r\n{}",
    "a length of words": POST + b"Content-Length: two\r\n\r\n{}",
    "a length beyond 64 bits": POST + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
    "a space before the colon": POST + b"Content-Length : 2\r\n\r\n{}",
    "a folded header": POST + b"X-A: b\r\n c\r\nContent-Length: 2\r\n\r\n{}",
    "a header without a name": POST + b": b\r\nContent-Length: 2\r\n\r\n{}",
    "a header without a colon": POST + b"X-A\r\nContent-Length: 2\r\n\r\n{}",
    "a header name of control characters": POST + b"X\x01A: b\r\nContent-Length: 2\r\n\r\n{}",
    "bare line feeds": POST.replace(b"\r\n", b"\n") + b"Content-Length: 2\n\n{}",
    "a bare carriage return": POST + b"X-A: a\rX-B: b\r\nContent-Length: 2\r\n\r\n{}",
    "a null in a header": POST + b"X-A: a\0b\r\nContent-Length: 2\r\n\r\n{}",
    "a null behind the key": GET + KEY.replace(b"\r\n", b"\0\r\n\r\n"),
    "a chunk size of words": CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
    "a negative chunk size": CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n",
    "a prefixed chunk size": CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n",
    "a chunk size beyond 64 bits": CHUNKED + b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    "chunks with bare line feeds": CHUNKED + b"2\n{}\n0\n\n",
    "a chunk extension across lines": CHUNKED + b'2;a="\n"\r\n{}\r\n0\r\n\r\n',
    "a chunk longer than it says": CHUNKED + b"2\r\n{}XX\r\n0\r\n\r\n",
    "a space before the chunk size": CHUNKED + b" 2\r\n{}\r\n0\r\n\r\n",
    "an unknown transfer coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunked and more": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunked in two headers": POST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "identity": POST + b"Transfer-Encoding: identity\r\n\r\n{}",
    "a vertical tab before chunked": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a header of 9 000 bytes": GET + b"X-A: " + b"a" * 9000 + b"\r\n\r\n",
    "200 headers": GET + b"".join(b"X-%d: a\r\n" % n for n in range(200)) + b"\r\n",
    "a target of 9 000 bytes": b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a query of 9 000 bytes": b"GET /api/queue/tasks?q=" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n" + KEY + b"\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "HTTP/2 by prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
    "HTTP/9.9": b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    "TLS": bytes.fromhex("16030100f5010000f10303") + b"a" * 50,
    "SSH": b"SSH-2.0-OpenSSH_9.9\r\n",
    "a small method": b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
    "an unknown method": b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a coloured method": b"G\x1b[31mET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a control character in the target": b"GET /a\x01b HTTP/1.1\r\nHost: x\r\n\r\n",
    "a raw byte in the target": b"GET /a\xffb HTTP/1.1\r\nHost: x\r\n\r\n",
    "a null in the target": b"GET /a\0b HTTP/1.1\r\nHost: x\r\n\r\n",
    "a space in the target": b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target of a host that is none": b"GET http://[]@ HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target of brackets": b"GET http://]x[@/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "no target": b"GET  HTTP/1.1\r\nHost: x\r\n\r\n",
    "an old length with chunks": POST.replace(b"1.1", b"1.0")
    + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
}
"""Answered with 400 and a close."""

ODD: dict[str, tuple[bytes, int]] = {
    "CONNECT": (b"CONNECT evil.example:80 HTTP/1.1\r\nHost: x\r\n", 404),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n", 404),
    "OPTIONS": (b"OPTIONS /api/queue/tasks HTTP/1.1\r\nHost: x\r\n" + KEY, 405),
    "TRACE": (b"TRACE / HTTP/1.1\r\nHost: x\r\n" + KEY, 405),
    "TRACK": (b"SEARCH / HTTP/1.1\r\nHost: x\r\n", 405),
    "another host's target": (b"GET http://evil.example/api/health HTTP/1.1\r\nHost: x\r\n", 200),
    "another host's page": (b"GET http://evil.example/admin/queue HTTP/1.1\r\nHost: x\r\n", 303),
    "two slashes": (b"GET //evil.example/admin/queue HTTP/1.1\r\nHost: x\r\n", 404),
    "a host that is none": (b'GET /api/asyncapi.json HTTP/1.1\r\nHost: a\xffb"<x>\r\n', 400),
    "a host that is none, on the page": (b'GET /api/docs HTTP/1.1\r\nHost: a\xffb"<x>\r\n', 400),
    "a host of a path": (b"GET /api/docs HTTP/1.1\r\nHost: x/../y\r\n", 400),
    "an empty host": (b"GET /api/docs HTTP/1.1\r\nHost:\r\n", 400),
    "a port that is none": (b"GET /api/docs HTTP/1.1\r\nHost: x:y\r\n", 400),
    "HTTP/1.0": (b"GET /api/health HTTP/1.0\r\n", 200),
    "an upgrade to HTTP/2": (
        GET.replace(b"health", b"nowhere") + b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n", 404
    ),
    "an expectation that is none": (POST + b"Expect: 200-maybe\r\nContent-Length: 0\r\n", 417),
    "an expectation that is no text": (GET + b"Expect: \xff\r\n", 417),
    "an expectation of nothing that is there": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\nExpect: \xff\r\n", 417),
    "a method in a header": (GET + KEY + b"X-HTTP-Method-Override: DELETE\r\nX-Method-Override: POST\r\n", 200),
    "a method in the query": (b"GET /admin/api/queue/pause?_method=POST HTTP/1.1\r\nHost: x\r\n" + KEY, 405),
    "an address in a header": (
        b"GET /admin/queue HTTP/1.1\r\nHost: x\r\nX-Original-URL: /api/health\r\nX-Rewrite-URL: /api/health\r\n", 303
    ),
    "a host in a header": (b"GET /admin/queue HTTP/1.1\r\nHost: x\r\nX-Forwarded-Host: evil.example\r\n", 303),
}  # fmt: skip
"""Read and answered, each with its own status; the test adds `Connection: close`."""
