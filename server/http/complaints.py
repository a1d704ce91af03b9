"""Everything that is wrong with a body, as a list of field errors in the reader's words.

msgspec stops at the first error. This walk over the same types (`msgspec.inspect`) goes on, and says for each what
is expected. It runs for bad requests only, so it may be slow; it must never find fault with what msgspec accepts.
"""

from __future__ import annotations

import difflib
import re
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import inspect

from server.http.problems import FieldError
from server.i18n import has
from server.model import NO_CONTROLS

MAX_ERRORS = 100

PATTERNS = {NO_CONTROLS: "field.controls"}
"""Patterns with a sentence of their own; any other is `field.NAME` of the field it stands on, if there is one."""

_NAMES: dict[type, str] = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


class _Enough(Exception):
    """As many errors as an answer lists."""


@lru_cache(maxsize=64)
def _info(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def complaints(raw: Any, kind: Any) -> list[FieldError]:
    """All errors in `raw` (decoded JSON) measured by `kind`, at most 100, in the order of the body."""
    walk = _Walk(strict=True)
    return walk.run(raw, _info(kind), "")


def query_complaints(given: dict[str, Any], kind: Any) -> list[FieldError]:
    """The same for query parameters: text stands for numbers, and errors name the parameter."""
    walk = _Walk(strict=False)
    errors = walk.run(given, _info(kind), "")
    return [FieldError(error.where.strip("/").partition("/")[0], error.key, error.values) for error in errors]


class _Walk:
    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self._errors: list[FieldError] = []

    def run(self, raw: Any, node: inspect.Type, where: str) -> list[FieldError]:
        try:
            self._check(raw, node, where, "")
        except _Enough:
            pass  # the answer lists no more
        return self._errors

    def _say(self, where: str, key: str, **values: Any) -> None:
        self._errors.append(FieldError(where, "field." + key, values))
        if len(self._errors) >= MAX_ERRORS:
            raise _Enough

    def _wrong_type(self, where: str, expected: str, raw: Any) -> None:
        self._say(where, "type", expected=expected, got=_NAMES.get(type(raw), "object"))

    def _check(self, raw: Any, node: inspect.Type, where: str, name: str) -> None:
        match node:
            case inspect.Metadata():
                self._check(raw, node.type, where, name)
            case inspect.UnionType():
                self._union(raw, node, where, name)
            case inspect.StructType():
                self._struct(raw, node, where)
            case inspect.ListType():
                self._list(raw, node, where, name)
            case inspect.DictType():
                if not isinstance(raw, dict):
                    self._wrong_type(where, "object", raw)
                    return
                for key, value in raw.items():
                    self._check(value, node.value_type, f"{where}/{_escape(key)}", key)
            case inspect.StrType():
                self._str(raw, node, where, name)
            case inspect.BoolType():
                lax = not self._strict and str(raw).lower() in ("true", "false", "1", "0")
                if not isinstance(raw, bool) and not lax:
                    self._wrong_type(where, "boolean", raw)
            case inspect.IntType() | inspect.FloatType():
                self._number(raw, node, where)
            case inspect.DateTimeType():
                self._datetime(raw, node, where)
            case inspect.EnumType():
                self._choice(raw, [member.value for member in node.cls], where)
            case inspect.LiteralType():
                self._choice(raw, list(node.values), where)
            case inspect.NoneType():
                if raw is not None:
                    self._wrong_type(where, "null", raw)

    def _union(self, raw: Any, node: inspect.UnionType, where: str, name: str) -> None:
        members = [member for member in node.types if not isinstance(member, inspect.NoneType)]
        if raw is None and len(members) < len(node.types):
            return
        fitting = [member for member in members if self._strict and _takes(member, raw)]
        self._check(raw, (fitting or members)[0], where, name)

    def _struct(self, raw: Any, node: inspect.StructType, where: str) -> None:
        if not isinstance(raw, dict):
            self._wrong_type(where, "object", raw)
            return
        fields = {field.encode_name: field for field in node.fields}
        for key, value in raw.items():
            if field := fields.get(key):
                self._check(value, field.type, f"{where}/{_escape(key)}", key)
            elif node.forbid_unknown_fields:
                self._unknown(f"{where}/{_escape(key[:100])}", key, [name for name in fields if name not in raw])
        for name, field in fields.items():
            if field.required and name not in raw:
                self._say(f"{where}/{_escape(name)}", "required")

    def _unknown(self, where: str, key: str, missing: list[str]) -> None:
        if near := difflib.get_close_matches(key[:100].lower(), missing, n=1, cutoff=0.7):
            self._say(where, "unknown_near", near=near[0])
        else:
            self._say(where, "unknown")

    def _list(self, raw: Any, node: inspect.ListType, where: str, name: str) -> None:
        if not isinstance(raw, list):
            self._wrong_type(where, "array", raw)
            return
        if node.min_length is not None and len(raw) < node.min_length:
            self._say(where, "empty" if node.min_length == 1 else "too_few", n=node.min_length)
        if node.max_length is not None and len(raw) > node.max_length:
            self._say(where, "too_many", n=node.max_length)
        for n, item in enumerate(raw):
            self._check(item, node.item_type, f"{where}/{n}", name)

    def _str(self, raw: Any, node: inspect.StrType, where: str, name: str) -> None:
        if not isinstance(raw, str):
            self._wrong_type(where, "string", raw)
            return
        if node.min_length is not None and len(raw) < node.min_length:
            self._say(where, "empty" if node.min_length == 1 else "too_short", n=node.min_length)
        elif node.max_length is not None and len(raw) > node.max_length:
            self._say(where, "too_long", n=node.max_length)
        elif node.pattern is not None and not re.search(node.pattern, raw):
            own = f"field.{name}"
            key = PATTERNS.get(node.pattern) or (own if has(own) else "field.pattern")
            self._say(where, key.removeprefix("field."))

    def _number(self, raw: Any, node: inspect.IntType | inspect.FloatType, where: str) -> None:
        whole = isinstance(node, inspect.IntType)
        value = raw
        if not self._strict and isinstance(raw, str):
            try:
                value = msgspec.convert(raw, int if whole else float, strict=False)
            except msgspec.ValidationError:
                self._wrong_type(where, "integer" if whole else "number", raw)
                return
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            self._wrong_type(where, "integer" if whole else "number", raw)
            return
        if node.ge is not None and value < node.ge:
            self._say(where, "at_least", bound=node.ge)
        elif node.gt is not None and value <= node.gt:
            self._say(where, "more_than", bound=node.gt)
        elif node.le is not None and value > node.le:
            self._say(where, "at_most", bound=node.le)
        elif node.lt is not None and value >= node.lt:
            self._say(where, "less_than", bound=node.lt)

    def _datetime(self, raw: Any, node: inspect.DateTimeType, where: str) -> None:
        if not isinstance(raw, str):
            self._wrong_type(where, "string", raw)
            return
        try:
            when = msgspec.convert(raw, datetime)
        except msgspec.ValidationError:
            self._say(where, "datetime")
            return
        if node.tz is not None and (when.tzinfo is not None) is not node.tz:
            self._say(where, "datetime")

    def _choice(self, raw: Any, choices: list[Any], where: str) -> None:
        known = [str(choice) for choice in choices] if not self._strict else choices
        if raw not in known or isinstance(raw, bool):
            self._say(where, "one_of", choices=", ".join(str(choice) for choice in choices))


def _takes(node: inspect.Type, raw: Any) -> bool:
    """Could `raw` have been meant for `node`?"""
    match node:
        case inspect.StructType() | inspect.DictType():
            return isinstance(raw, dict)
        case inspect.ListType():
            return isinstance(raw, list)
        case inspect.StrType() | inspect.DateTimeType() | inspect.EnumType():
            return isinstance(raw, str)
        case inspect.BoolType():
            return isinstance(raw, bool)
        case inspect.IntType() | inspect.FloatType():
            return isinstance(raw, (int, float)) and not isinstance(raw, bool)
    return True


def _escape(key: str) -> str:
    """A key as a step of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")
