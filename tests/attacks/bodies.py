"""Bodies of `POST /api/notifications/meteo` as bytes, and what each is answered with: status, code, pointers.

A body that stands here is never stored.
"""

from __future__ import annotations

import gzip
import json
from typing import Any

from tests.attacks.siege import GOOD

MIB = 1024 * 1024
DEEP = 100_000
PLAIN = json.dumps(GOOD).encode()


def spoilt(field: str, raw: bytes) -> bytes:
    """The good body with `field`'s value, as bytes, in the place of its own."""
    rest = {name: value for name, value in GOOD.items() if name != field}
    return json.dumps(rest).encode()[:-1] + b', "%b": %b}' % (field.encode(), raw)


MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "blanks": b" \r\n\t",
    "broken": PLAIN[:-1],
    "broken in a string": b'{"titre": "a',
    "more behind it": PLAIN + b" x",
    "two bodies": PLAIN + PLAIN,
    "a comma at the end": PLAIN[:-1] + b",}",
    "a comment": b"/* */" + PLAIN,
    "single quotes": PLAIN.replace(b'"', b"'"),
    "names without quotes": b"{titre: 1}",
    "a byte order mark": b"\xef\xbb\xbf" + PLAIN,
    "UTF-16": json.dumps(GOOD).encode("utf-16"),
    "UTF-32": json.dumps(GOOD).encode("utf-32"),
    "UTF-7": b"+AHs-" + PLAIN,
    "latin-1": spoilt("titre", '"é"'.encode("latin-1")),
    "a cut UTF-8 sequence": spoilt("titre", b'"\xc3"'),
    "an overlong UTF-8 sequence": spoilt("titre", b'"\xc0\xaf"'),
    "a raw surrogate": spoilt("titre", b'"\xed\xa0\x80"'),
    "beyond Unicode": spoilt("titre", b'"\xf4\x90\x80\x80"'),
    "an escaped surrogate": spoilt("titre", b'"\\ud800"'),
    "an escaped low surrogate": spoilt("message", b'"\\udc00"'),
    "surrogates the wrong way round": spoilt("message", b'"\\udc00\\ud800"'),
    "an escaped surrogate in a name": b'{"\\ud800": 1}',
    "a surrogate in an unknown field": b'{"x": "\\ud800"}',
    "a raw control character": spoilt("titre", b'"a\x01b"'),
    "a raw line break": spoilt("message", b'"a\nb"'),
    "a raw null": spoilt("message", b'"a\x00b"'),
    "a null behind it": PLAIN + b"\0",
    "an unknown escape": spoilt("titre", b'"\\x41"'),
    "half an escape": spoilt("titre", b'"\\u12"'),
    "NaN": spoilt("titre", b"NaN"),
    "Infinity": spoilt("titre", b"Infinity"),
    "-Infinity": spoilt("titre", b"-Infinity"),
    "a number with a plus": spoilt("titre", b"+1"),
    "a number with a zero before it": spoilt("titre", b"01"),
    "a number in hex": spoilt("titre", b"0x10"),
    "True": spoilt("titre", b"True"),
    "deep arrays": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep arrays in an unknown field": spoilt("x", b"[" * DEEP + b"]" * DEEP),
    "deep arrays in a field": spoilt("utilisateurs", b"[" * DEEP + b"]" * DEEP),
    "deep and open": b"[" * DEEP,
    "XML": b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]><x>&y;</x>",
    "YAML": b"titre: !!python/object/apply:os.system ['id']",
    "a form": b"titre=x&message=y",
    "a pickle": b"\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94",
    "gzip without saying so": gzip.compress(PLAIN),
    "blanks without end": b" " * (MIB - 1),
}
"""400, malformed-body."""

INVALID: dict[str, tuple[bytes, list[str]]] = {
    "an array": (b"[]", [""]),
    "an array of bodies": (b"[" + PLAIN + b"]", [""]),
    "a string": (b'"x"', [""]),
    "a number": (b"3", [""]),
    "null": (b"null", [""]),
    "true": (b"true", [""]),
    "an empty object": (b"{}", ["/titre", "/message", "/utilisateurs"]),
    "a number that no float holds": (spoilt("titre", b"1e999"), ["/titre"]),
    "a number of a thousand digits": (spoilt("titre", b"9" * 1000), ["/titre"]),
    "a number of a thousand places": (spoilt("titre", b"0." + b"9" * 1000), ["/titre"]),
    "a fraction": (spoilt("titre", b"1.5"), ["/titre"]),
    "an escaped null": (spoilt("message", b'"a\\u0000b"'), ["/message"]),
    "an escaped null in a line": (spoilt("titre", b'"a\\u0000b"'), ["/titre"]),
    "a bad value before a good one": (b'{"titre": 3,' + PLAIN[1:], ["/titre"]),
    "a prototype": (spoilt("__proto__", b'{"admin": true}'), ["/__proto__"]),
    "a field with a pointer in its name": (spoilt("a/b~c", b"1"), ["/a~1b~0c"]),
    "an unknown name of 10 000 characters": (spoilt("x" * 10_000, b"1"), ["/" + "x" * 100]),
    "a name with a null": (spoilt("x\\u0000", b"1"), ["/x\x00"]),
    "a hundred thousand unknown fields": (
        b'{"a":0,' + b",".join(b'"u%d":0' % n for n in range(90_000)) + b"}",
        ["/a", *(f"/u{n}" for n in range(99))],
    ),
}  # fmt: skip
"""422, invalid-fields, and where."""

Head = dict[str, str]
HEADS: dict[str, tuple[Head, bytes, int, str]] = {
    "no type": ({"Content-Type": ""}, PLAIN, 415, "unsupported-media-type"),
    "latin-1": ({"Content-Type": "application/json; charset=iso-8859-1"}, PLAIN, 415, "unsupported-media-type"),
    "UTF-16": ({"Content-Type": "application/json; charset=utf-16"}, PLAIN, 415, "unsupported-media-type"),
    "two charsets": (
        {"Content-Type": "application/json; charset=utf-8; charset=utf-7"}, PLAIN, 415, "unsupported-media-type",
    ),
    "a form": ({"Content-Type": "application/x-www-form-urlencoded"}, PLAIN, 415, "unsupported-media-type"),
    "text": ({"Content-Type": "text/plain"}, PLAIN, 415, "unsupported-media-type"),
    "no media type at all": ({"Content-Type": "/;;=,\\"}, PLAIN, 415, "unsupported-media-type"),
    "XML": ({"Content-Type": "application/xml"}, PLAIN, 415, "unsupported-media-type"),
    "multipart": ({"Content-Type": "multipart/form-data; boundary=x"}, PLAIN, 415, "unsupported-media-type"),
    "gzip": ({"Content-Encoding": "gzip"}, gzip.compress(PLAIN), 415, "unsupported-media-type"),
    "a gzip bomb": ({"Content-Encoding": "gzip"}, gzip.compress(b" " * 50 * MIB), 415, "unsupported-media-type"),
    "deflate": ({"Content-Encoding": "deflate"}, PLAIN, 415, "unsupported-media-type"),
    "brotli": ({"Content-Encoding": "br"}, PLAIN, 415, "unsupported-media-type"),
    "an unknown encoding": ({"Content-Encoding": "x-tocsin"}, PLAIN, 415, "unsupported-media-type"),
    "two encodings": ({"Content-Encoding": "identity, gzip"}, PLAIN, 415, "unsupported-media-type"),
    "beyond the limit": ({}, b" " * (MIB + 1), 413, "too-large"),
    "four times the limit": ({}, PLAIN + b" " * 4 * MIB, 413, "too-large"),
    "an empty Idempotency-Key": ({"Idempotency-Key": ""}, PLAIN, 400, "bad-idempotency-key"),
    "a long Idempotency-Key": ({"Idempotency-Key": "x" * 256}, PLAIN, 400, "bad-idempotency-key"),
    "an Idempotency-Key that is not ASCII": ({"Idempotency-Key": "clé"}, PLAIN, 400, "bad-idempotency-key"),
    "an Idempotency-Key with a tab": ({"Idempotency-Key": "a\tb"}, PLAIN, 400, "bad-idempotency-key"),
    "an empty key": ({"X-API-Key": " "}, PLAIN, 401, "unauthorized"),
    "a key of 8 000 characters": ({"X-API-Key": "x" * 8000}, PLAIN, 401, "unauthorized"),
    "a key that is not ASCII": ({"X-API-Key": "clé"}, PLAIN, 401, "unauthorized"),
    "a bearer": ({"X-API-Key": "", "Authorization": "Bearer x"}, PLAIN, 401, "unauthorized"),
}  # fmt: skip
"""Headers beside a good body: status and code."""

EMAIL_OF_321 = "a" * 309 + "@example.org"


def one(**person: Any) -> dict[str, Any]:
    """The good body with its one recipient changed; `...` takes a field away."""
    changed = GOOD["utilisateurs"][0] | person
    return {"utilisateurs": [{name: value for name, value in changed.items() if value is not ...}]}


AT = "/utilisateurs/0"
CONTROLS = ["\x00", "\x1f", "\t", "\n", "\r", "\r\nBcc: x@y.z", "\x7f", "\x85", "\x9f", "\u2028", "\u2029"]
FIELDS: list[tuple[dict[str, Any], list[str]]] = [
    *(({"titre": wrong}, ["/titre"]) for wrong in ("", "x" * 201, None, 3, True, [], {}, 1.5)),
    *(({"titre": f"a{control}b"}, ["/titre"]) for control in CONTROLS),
    *(({"message": wrong}, ["/message"]) for wrong in ("", "x" * 10_001, None, 0, [], "\x00")),
    *(({"utilisateurs": wrong}, ["/utilisateurs"]) for wrong in ([], None, {}, "x", 1)),
    *(({"utilisateurs": [wrong]}, [AT]) for wrong in (None, [], "x", 1, True)),
    ({"utilisateurs": [{}]}, [f"{AT}/id", f"{AT}/nom"]),
    ({"utilisateurs": [{}] * 3}, [f"/utilisateurs/{n}/{name}" for n in range(3) for name in ("id", "nom")]),
    *((one(id=wrong), [f"{AT}/id"]) for wrong in ("", "x" * 201, None, 7, ..., "a\nb", "\x00")),
    *((one(nom=wrong), [f"{AT}/nom"]) for wrong in ("", "x" * 201, None, 7, ..., "a\r\nBcc: x@y.z", "\u2028")),
    *(
        (one(email=wrong), [f"{AT}/email"])
        for wrong in (
            "", "x", "@", "a@", "@b", "a@b@c", "a b@c.d", "a@b c", "<a@b.c>", "a@b.c,d@e.f", "a@b.c;d@e.f", 'a"b@c.d',
            "a@b.c\n", "a@b.c\r\nRCPT TO:<x@y.z>", "a\x00@b.c", "a@b.c\x85", EMAIL_OF_321, 3, [], "a\\@b.c",
            "a@[127.0.0.1]", ..., None,
        )
    ),
    *(
        (one(telephone=wrong), [f"{AT}/telephone"])
        for wrong in ("", "0612345678", "+", "+0612345678", "+33612", "+" + "3" * 16, "+33a12345678",
                      "+33\n612345678", "+33 6 12 34 56 78\n", "+٣٣٦١٢٣٤٥٦٧٨", "+33-6-12-34-56-78", " +33612345678",
                      33612345678, "+33" + " " * 40 + "612345678")
    ),
    *((one(langue=wrong), [f"{AT}/langue"]) for wrong in ("", "FR", "de", "fr\n", None, 1)),
    *((one(preferences=wrong), [f"{AT}/preferences"]) for wrong in (None, [], "x", 1)),
    *(
        (one(preferences={"canal_prefere": wrong}), [f"{AT}/preferences/canal_prefere"])
        for wrong in ("", "fax", "../email", "email\n", "EMAIL", None, 3, "x" * 65)
    ),
    *((one(preferences={"actif": wrong}), [f"{AT}/preferences/actif"]) for wrong in (None, 1, "true", "")),
    (one(preferences={"canal": "sms"}), [f"{AT}/preferences/canal"]),
    (one(preferences={"canal_prefere": "sms"}), [f"{AT}/telephone"]),
    (one(admin=True), [f"{AT}/admin"]),
    (one(status="sent"), [f"{AT}/status"]),
    *(({"priorite": wrong}, ["/priorite"]) for wrong in ("", "URGENT", "0", "4", 1, "CRITIQUE\n", " HAUTE", [])),
    *(({"priorite": wrong}, ["/priorite"]) for wrong in ("critıque", "CRİTİQUE", "ＨＡＵＴＥ", "１")),
    *(
        ({field: wrong}, [f"/{field}"])
        for field in ("planifiee_a", "expire_a")
        for wrong in (
            "", "demain", "2030-01-31", "2030-01-31T08:00:00", "2030-02-30T08:00:00Z", "2030-01-31T25:00:00Z",
            "2030-01-31T08:00:00+99:00", 1893456000, "2030-01-31T08:00:00Z\n", True,
        )
    ),
    ({"planifiee_a": "2030-01-31T08:00:00Z"}, ["/planifiee_a"]),
    ({"planifiee_a": "9999-12-31T23:59:59-12:00"}, ["/planifiee_a"]),
    ({"expire_a": "2001-01-31T08:00:00Z"}, ["/expire_a"]),
    ({"expire_a": "0001-01-01T00:00:00+23:59"}, ["/expire_a"]),
    ({"expire_a": "9999-12-31T23:59:59-12:00"}, ["/expire_a"]),
    ({"planifiee_a": "2023-12-31T00:00:00Z", "expire_a": "2023-12-30T00:00:00Z"}, ["/expire_a"]),
    *(
        ({"webhook_url": wrong}, ["/webhook_url"])
        for wrong in (
            "", "x", "ftp://example.org", "file:///etc/passwd", "gopher://example.org", "javascript:alert(1)",
            "//example.org", "https://", "https:///x", "https://exa mple.org", "https://example.org/\r\nX: y", "https://example.org\x00",
            "https://127.0.0.1", "https://localhost/", "http://[::1]/", "http://169.254.169.254/latest/meta-data/",
            "http://2130706433/", "http://0x7f.1/", "http://[::ffff:10.0.0.1]/", "http://[64:ff9b::a00:1]/", "http://0/",
            "https://example.org:99999/", "https://user@127.0.0.1/", "https://" + "a" * 2048, 3, [],
        )
    ),
    *(
        ({field: 1}, [f"/{field}"])
        for field in ("id", "task_id", "status", "sent", "failed", "attempts", "key_id", "node", "fence", "type",
                      "run", "created_ms", "total", "success", "priorité", "Titre", "lease_ms", "role", "$where",
                      "constructor")
    ),
]  # fmt: skip
"""Changes to the good body, and where fault is found: each field beyond its bounds, and fields that are none."""

ACCEPTED: list[dict[str, Any]] = [
    {"titre": "x"}, {"titre": "x" * 200}, {"titre": "🌪" * 200}, {"titre": " "},
    {"titre": "a\u202eb"}, {"titre": "\u2066right\u2069"}, {"titre": "e\u0301" * 100}, {"titre": "\ufeff"},
    {"titre": "<script>alert(1)</script>"}, {"titre": "{{7*7}}${7*7}<%= 7*7 %>#{7*7}"},
    {"titre": "%s%n%x{0.__class__}"},
    {"titre": "'; DROP TABLE task; --"}, {"titre": "=cmd|' /C calc'!A0"}, {"titre": "../../etc/passwd"},
    {"message": "x" * 10_000}, {"message": "a\r\n.\r\nb\x01\x1b[31m\u2028"}, {"message": "😀" * 10_000},
    one(id="x" * 200), one(id="../../x"), one(nom="x" * 200), one(nom="<b>{{nom}}"), one(nom="\u202eoof"),
    one(email="a" * 308 + "@example.org"), one(email="é@münchen.example"), one(email="a@b"), one(email="a+b.c@d.e"),
    one(email=None, preferences={"canal_prefere": "app"}),
    one(telephone="+33 6 12 34 56 78"), one(telephone="+1234567"), one(telephone="+123456789012345"),
    one(langue="en"), one(preferences={}), one(preferences={"actif": False}), one(preferences={"canal_prefere": "app"}),
    {"priorite": "critique"}, {"priorite": "1"}, {"priorite": "Haute"}, {"priorite": None},
    {"planifiee_a": "2001-01-31T08:00:00Z"}, {"planifiee_a": "0001-01-01T00:00:00+23:59"},
    {"planifiee_a": "2023-12-31T08:00:00.123456+05:30"}, {"expire_a": "9999-12-31T23:59:59.999Z"},
    {"webhook_url": "https://example.org/" + "a" * 2028}, {"webhook_url": "http://93.184.216.34:8080/x?y=z"},
]  # fmt: skip
"""Changes to the good body that are nothing but text to us: taken, and given back as they were sent."""
