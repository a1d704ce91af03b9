"""Bodies and query strings into the types that validate them.

The way that every good request takes is one msgspec decode. Only when that fails does `complaints` walk the body
again to list everything that is wrong with it, in words. A large body is decoded in a thread, piece by piece, so
that the event loop goes on. What is thrown is a Problem; reading the socket stops at the limit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar, cast, get_type_hints
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError
from msgspec import inspect
from multidict import MultiMapping

from server.http.complaints import MAX_ERRORS, complaints, query_complaints
from server.http.problems import BadQuery, FieldError, InvalidFields, Malformed, TooLarge, UnsupportedMedia

T = TypeVar("T")

FORM = "application/x-www-form-urlencoded"
LARGE = 256 * 1024
"""Bytes from which on a body is decoded beside the event loop (msgspec takes about 1 ms for so many)."""
BODY_TIMEOUT_S = 60
MIB = 1024 * 1024

_JSON_TYPES = frozenset({"application/json", "application/json; charset=utf-8", "application/json;charset=utf-8"})


def check_media_type(request: web.BaseRequest) -> None:
    """Raise UnsupportedMedia unless the body is announced as plain JSON in UTF-8."""
    headers = request.headers
    announced = headers.get("Content-Type", "")
    if announced not in _JSON_TYPES:
        media, _, rest = announced.partition(";")
        parameters = [part.strip().lower() for part in rest.split(";") if part.strip()]
        if media.strip().lower() != "application/json" or any(
            part.partition("=")[0].strip() == "charset" and part.partition("=")[2].strip(' "') not in ("utf-8", "utf8")
            for part in parameters
        ):
            raise UnsupportedMedia()
    if "Content-Encoding" in headers and headers["Content-Encoding"].strip().lower() != "identity":
        raise UnsupportedMedia()


class BodyReader:
    """Reads bodies up to a limit; of large ones only a few at a time, so that memory stays bounded."""

    def __init__(self, limit: int, large_at_once: int = 4) -> None:
        self.limit = limit
        self.limit_mib = limit // MIB if limit >= MIB else limit / MIB  # as people are told
        self._large = asyncio.Semaphore(large_at_once)

    @staticmethod
    def at_hand(request: web.BaseRequest) -> bytes | None:
        """The body if it is small and all of it is here already (or if there is none); else None."""
        stream = request.content
        if stream.is_eof() and stream.total_bytes <= LARGE:
            return stream.read_nowait(-1)
        return None

    async def read(self, request: web.BaseRequest, use: Callable[[bytes], T], use_large: Callable[[bytes], T]) -> T:
        """`use(body)`, or, for a large body, `use_large(body)` in a thread. Raises TooLarge beyond the limit."""
        at_hand = self.at_hand(request)
        if at_hand is not None:
            return use(at_hand)
        length = request.content_length
        if length is not None and length > self.limit:
            raise TooLarge(limit_mib=self.limit_mib)
        body = bytearray()
        if await self._collect(request, body, LARGE):
            return use(bytes(body))
        async with self._large:  # only now: a client that says little and slowly takes no place
            await self._collect(request, body, self.limit)
            return await asyncio.to_thread(use_large, bytes(body))

    async def _collect(self, request: web.BaseRequest, body: bytearray, most: int) -> bool:
        """Read on until the end (True) or until there is more than `most`. Raises TooLarge beyond the limit."""
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                while chunk := await request.content.readany():
                    body += chunk
                    if len(body) > self.limit:
                        raise TooLarge(limit_mib=self.limit_mib)
                    if len(body) > most:
                        return False
        except (TimeoutError, RequestPayloadError, ConnectionError):  # too slow, cut up badly, or gone half-way
            raise Malformed() from None
        return True


class BodyDecoder(Generic[T]):
    """JSON to one type."""

    def __init__(self, kind: type[T]) -> None:
        self.kind = kind
        self._decode: Callable[[bytes], T] = msgspec.json.Decoder(kind).decode
        self._pieces = _Pieces(kind) if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None

    def decode(self, body: bytes) -> T:
        """Raises Malformed, or InvalidFields with everything that is wrong."""
        try:
            return self._decode(body)
        except msgspec.ValidationError as error:
            raise self._invalid(body, error) from None
        except (ValueError, RecursionError):  # DecodeError, UnicodeDecodeError; nested beyond reason
            raise Malformed() from None

    def decode_large(self, body: bytes) -> T:
        """The same for a large body, in a thread: gives way to the event loop again and again."""
        if self._pieces is None or not self._pieces.fields:
            return self.decode(body)
        try:
            return cast(T, self._pieces.decode(body))
        except msgspec.ValidationError as error:
            raise self._invalid(body, error) from None
        except (ValueError, RecursionError):
            raise Malformed() from None

    def _invalid(self, body: bytes, error: msgspec.ValidationError) -> InvalidFields | Malformed:
        try:
            raw = msgspec.json.decode(body)
        except msgspec.ValidationError:  # a number that no float can hold
            return InvalidFields(errors=[_from_message(error)])
        except (ValueError, RecursionError):
            return Malformed()
        invalid = InvalidFields(errors=complaints(raw, self.kind) or [_from_message(error)])
        invalid.raw = raw
        return invalid


class _Pieces:
    """Decodes a Struct's lists item by item: one C call for all would hold the interpreter for half a second."""

    def __init__(self, kind: type[msgspec.Struct]) -> None:
        self._kind = kind
        self.fields: dict[str, Callable[[bytes], Any]] = {}
        shadow: list[Any] = []
        info = inspect.type_info(kind)
        assert isinstance(info, inspect.StructType)
        for field in info.fields:
            declared: inspect.Type = field.type
            annotation: Any
            if isinstance(declared, inspect.ListType) and isinstance(declared.item_type, inspect.StructType):
                self.fields[field.name] = msgspec.json.Decoder(declared.item_type.cls).decode
                bounds = msgspec.Meta(min_length=declared.min_length, max_length=declared.max_length)
                annotation = Annotated[list[msgspec.Raw], bounds]
            else:
                annotation = msgspec.Raw
            if field.required:
                shadow.append((field.name, annotation))
            else:
                shadow.append((field.name, annotation | msgspec.UnsetType, msgspec.UNSET))
        hints = get_type_hints(kind, include_extras=True)
        self._split = msgspec.json.Decoder(
            msgspec.defstruct("Split", shadow, forbid_unknown_fields=info.forbid_unknown_fields, kw_only=True)
        ).decode
        self._field = {
            field.name: msgspec.json.Decoder(hints[field.name]).decode
            for field in info.fields
            if field.name not in self.fields
        }

    def decode(self, body: bytes) -> Any:
        """What one decode would give. Raises what it would."""
        split = self._split(body)
        values: dict[str, Any] = {}
        for name in split.__struct_fields__:
            raw = getattr(split, name)
            if raw is msgspec.UNSET:
                continue
            if name not in self.fields:
                values[name] = self._field[name](raw)
                continue
            item = self.fields[name]
            values[name] = items = []
            for n, piece in enumerate(raw):
                items.append(item(piece))
                if n % 100 == 99:
                    time.sleep(0)  # hands the interpreter to the event loop if it has anything to do
        return self._kind(**values)


def _from_message(error: Exception) -> FieldError:
    """What msgspec says of the first thing wrong, where our own walk finds nothing (a check of the type itself)."""
    said, _, path = str(error).partition(" - at `$")
    pointer = path.rstrip("`").replace("[...]", "").replace("[", "/").replace("]", "").replace(".", "/")
    if said == "Number out of range":
        return FieldError(pointer, "field.out_of_range")
    return FieldError(pointer, "field.not_valid", {"said": said})


class QueryDecoder(Generic[T]):
    """A query string to a Struct; a field that is a list takes its parameter any number of times."""

    def __init__(self, kind: type[T]) -> None:
        self.kind = kind
        info = inspect.type_info(kind)
        assert isinstance(info, inspect.StructType)
        self._fields = {field.encode_name: field for field in info.fields}
        self._lists = {name for name, field in self._fields.items() if _is_list(field.type)}
        self._nullable = [name for name, field in self._fields.items() if _is_nullable(field.type)]
        self._empty = kind() if not any(field.required for field in info.fields) else None

    def decode(self, query: MultiMapping[str]) -> T:
        """Raises BadQuery with everything that is wrong; an unknown parameter is wrong too."""
        if not query and self._empty is not None:
            return self._empty
        given: dict[str, Any] = {}
        errors: list[FieldError] = []
        for name in dict.fromkeys(query):
            values = query.getall(name)
            if name not in self._fields:
                key = "field.unknown_parameter" if self._fields else "field.no_parameter"
                errors.append(FieldError(name[:100], key, {"known": ", ".join(self._fields)}))
            elif name in self._lists:
                given[name] = values
            elif len(values) > 1:
                errors.append(FieldError(name, "field.repeated"))
            else:
                given[name] = values[0]
        null = any(str(given.get(name)).lower() == "null" for name in self._nullable)
        if not errors and not null:
            try:
                return msgspec.convert(given, self.kind, strict=False)
            except (msgspec.ValidationError, ValueError) as error:  # as of a moment, in numbers, that no calendar has
                errors = query_complaints(given, self.kind) or [_from_message(error)]
        else:
            errors += query_complaints(given, self.kind)
        raise BadQuery(errors=errors[:MAX_ERRORS])


class FormDecoder(Generic[T]):
    """The fields of an HTML form to a Struct."""

    def __init__(self, kind: type[T]) -> None:
        self.kind = kind

    def decode(self, body: bytes) -> T:
        """Raises Malformed, or InvalidFields with everything that is wrong."""
        try:
            given = dict(parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=100))
        except ValueError:
            raise Malformed() from None
        try:
            return msgspec.convert(given, self.kind, strict=False)
        except msgspec.ValidationError as error:
            raise InvalidFields(errors=complaints(given, self.kind) or [_from_message(error)]) from None


def _is_nullable(kind: inspect.Type) -> bool:
    """Would msgspec take the text `null` for None? A parameter is absent, never null."""
    members = kind.types if isinstance(kind, inspect.UnionType) else ()
    return any(isinstance(member, inspect.NoneType) for member in members) and not any(
        isinstance(member, inspect.StrType) for member in members
    )


def _is_list(kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.UnionType):
        return any(_is_list(member) for member in kind.types)
    return isinstance(kind, inspect.ListType)
