"""Problems: every way in which a request can fail, as one class each.

A class carries status and stable `code`, its docstring is the English sentence; title and detail in the reader's
language come from the catalogue (`problem.CODE.title`, `.detail`). `answer` writes RFC 9457 with the guide's keys
beside. `as_problem` makes a Problem of whatever else was raised. What is sent where is the front's affair.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import msgspec
from aiohttp import web
from multidict import CIMultiDict

from server.i18n import text
from server.model import Role
from server.store.engine import StoreUnavailable

log = logging.getLogger("tocsin.http")

DOCS = "/api/docs#problem-"


class FieldError(msgspec.Struct, frozen=True):
    """What is wrong with one field: where it stands and the catalogue's sentence (`field.…`) with its values."""

    where: str  # a JSON pointer, or the name of a query parameter
    key: str
    values: dict[str, Any] = {}


class FieldProblem(msgspec.Struct, omit_defaults=True):
    """One wrong field in an answer: `pointer` into the body, or the query's `parameter`."""

    message: str
    pointer: str | None = None
    parameter: str | None = None


class ProblemBody(msgspec.Struct):
    """RFC 9457, with the guide's keys (`success`, `error`, `message`) beside."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    success: bool
    error: str
    message: str
    errors: list[FieldProblem]
    request_id: str


class Problem(Exception):
    """The server failed; quote the request id when you report it."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal-error"
    in_query: ClassVar[bool] = False  # its errors name parameters, not pointers

    def __init__(
        self, *, errors: Iterable[FieldError] = (), headers: Mapping[str, str] | None = None, **values: Any
    ) -> None:
        super().__init__(self.code)
        self.errors = list(errors)
        self.headers: dict[str, str] = dict(headers or {})
        self.values = values


class Malformed(Problem):
    """The body is not valid JSON in UTF-8."""

    status = 400
    code = "malformed-body"


class BadRequest(Problem):
    """The request is not well-formed HTTP; in its address, spaces and what is not ASCII are written as %XX."""

    status = 400
    code = "bad-request"


class BadIdempotencyKey(Problem):
    """The header Idempotency-Key takes 1 to 255 printable ASCII characters."""

    status = 400
    code = "bad-idempotency-key"


class Unauthorized(Problem):
    """A valid key is needed in the header X-API-Key."""

    status = 401
    code = "unauthorized"

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.headers.setdefault("WWW-Authenticate", 'ApiKey realm="tocsin", header="X-API-Key"')


class BadSignIn(Unauthorized):
    """This key or sign-in link is not valid (any more)."""

    code = "bad-sign-in"


class Forbidden(Problem):
    """This key's role does not allow this; {needs} is needed."""

    status = 403
    code = "forbidden"


class ForeignOrigin(Problem):
    """A request signed in by cookie must come from this server's own pages."""

    status = 403
    code = "foreign-origin"


class NotFound(Problem):
    """There is nothing at this address."""

    status = 404
    code = "not-found"


class UnknownTask(NotFound):
    """There is no such task (any more)."""

    code = "unknown-task"


class UnknownType(NotFound):
    """There is no notification type of this name; GET /api/notifications/types lists them."""

    code = "unknown-type"


class UnknownKey(NotFound):
    """There is no such key, or it is revoked already."""

    code = "unknown-key"


class WrongMethod(Problem):
    """This address does not take this method; the header Allow lists those it takes."""

    status = 405
    code = "method-not-allowed"


class TaskHasEnded(Problem):
    """This task has ended and cannot be cancelled any more."""

    status = 409
    code = "task-has-ended"


class TaskNotEnded(Problem):
    """Only a task that has failed or was cancelled can be retried, to those not reached."""

    status = 409
    code = "task-not-ended"


class IdempotencyInHand(Problem):
    """A request with this Idempotency-Key is being worked on at this moment; ask again in a second."""

    status = 409
    code = "idempotency-in-hand"


class TooLarge(Problem):
    """The body is larger than {limit_mib} MiB."""

    status = 413
    code = "too-large"


class UnsupportedMedia(Problem):
    """The body must be application/json in UTF-8, without Content-Encoding."""

    status = 415
    code = "unsupported-media-type"


class InvalidFields(Problem):
    """Some fields are not valid; `errors` names each."""

    status = 422
    code = "invalid-fields"
    raw: Any = None  # the body as JSON, where it is its types that do not fit

    @classmethod
    def at(cls, pointer: str, key: str, **values: Any) -> InvalidFields:
        """One error at `pointer`, with the catalogue's sentence `key`."""
        return cls(errors=[FieldError(pointer, key, values)])


class BadQuery(Problem):
    """Some query parameters are not valid; `errors` names each."""

    status = 422
    code = "invalid-query"
    in_query = True

    @classmethod
    def at(cls, parameter: str, key: str, **values: Any) -> BadQuery:
        """One error in `parameter`, with the catalogue's sentence `key`."""
        return cls(errors=[FieldError(parameter, key, values)])


class EmptyFilter(Problem):
    """An empty filter would match every task; name at least one condition."""

    status = 422
    code = "empty-filter"


class IdempotencyConflict(Problem):
    """This Idempotency-Key was used with another body or address."""

    status = 422
    code = "idempotency-conflict"


class UpgradeRequired(Problem):
    """This address speaks WebSocket alone; GET /api/events gives the same frames over plain HTTP."""

    status = 426
    code = "upgrade-required"

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        # RFC 9110, 7.8 (Connection has to name Upgrade) and RFC 6455, 4.4
        self.headers |= {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}


class TooFast(Problem):
    """Too many requests; try again in {retry_after_s} s."""

    status = 429
    code = "too-many-requests"

    def __init__(self, retry_after_s: float, **values: Any) -> None:
        seconds = max(1, -int(-retry_after_s // 1))
        super().__init__(retry_after_s=seconds, **values)
        self.headers["Retry-After"] = str(seconds)


class TooManyStreams(TooFast):
    """This key has too many event streams open."""

    code = "too-many-streams"


class _Later(Problem):
    """Try again later."""

    status = 503
    retry_after_s: ClassVar[int] = 5

    def __init__(self, retry_after_s: float | None = None, **values: Any) -> None:
        super().__init__(**values)
        self.headers["Retry-After"] = str(max(1, int(self.retry_after_s if retry_after_s is None else retry_after_s)))


class QueueFull(_Later):
    """The queue is full: too many tasks are waiting. Try again in a moment."""

    code = "queue-full"
    retry_after_s = 30


class Draining(_Later):
    """The server is shutting down; send again in a moment."""

    code = "draining"


class StreamsFull(_Later):
    """The server has as many event streams open as it can take."""

    code = "streams-full"


class StorageDown(_Later):
    """The server cannot store anything at the moment; nothing of this request was kept. Try again in a moment."""

    code = "storage-down"


class StorageUnsure(_Later):
    """Storage gave no answer, so this may have been kept: look, or send it again with the same Idempotency-Key."""

    code = "storage-unsure"


class Unexpected(Problem):
    """The request cannot be served."""

    code = "http-error"

    def __init__(self, status: int, **values: Any) -> None:
        super().__init__(**values)
        self.status = status  # type: ignore[misc]


def every(base: type[Problem] = Problem) -> list[type[Problem]]:
    """All problems that clients can meet, in the order of this file."""
    found = [] if base.__name__.startswith("_") else [base]
    for sub in base.__subclasses__():
        found += every(sub)
    return found


def _of_aiohttp(error: web.HTTPException) -> Problem:
    match error:
        case web.HTTPNotFound():
            return NotFound()
        case web.HTTPMethodNotAllowed():
            return WrongMethod(headers={"Allow": ", ".join(sorted(error.allowed_methods))})
        case web.HTTPRequestEntityTooLarge():
            return TooLarge(limit_mib="?")
        case web.HTTPBadRequest():
            return BadRequest()
        case _:
            kept = {name: value for name, value in error.headers.items() if name.lower() != "content-type"}
            return Unexpected(error.status, headers=kept)


def as_problem(error: Exception, where: str) -> Problem:
    """The Problem that `error` is to a client; a bug is logged with its traceback, of which nothing is answered."""
    match error:
        case Problem():
            return error
        case web.HTTPException():
            return _of_aiohttp(error)
        case StoreUnavailable():
            log.error("%s: storage is unavailable: %s", where, error)
            return StorageUnsure() if error.perhaps else StorageDown()
        case _:
            log.error("%s: %s", where, type(error).__name__, exc_info=error)
            return Problem()


_encode = msgspec.json.Encoder().encode


def sentence(error: FieldError, lang: str) -> str:
    """What is wrong with one field, in words."""
    if error.key == "field.type":
        return text(error.key, lang, **{name: text(f"field.{word}", lang) for name, word in error.values.items()})
    return text(error.key, lang, **error.values)


def body_of(problem: Problem, lang: str, request_id: str) -> ProblemBody:
    """`problem` in words."""
    title = text(f"problem.{problem.code}.title", lang)
    values = {
        name: text(f"role.{value.name}", lang) if isinstance(value, Role) else value
        for name, value in problem.values.items()
    }
    detail = text(f"problem.{problem.code}.detail", lang, **values)
    field = "parameter" if problem.in_query else "pointer"
    return ProblemBody(
        type=DOCS + problem.code,
        title=title,
        status=problem.status,
        detail=detail,
        code=problem.code,
        success=False,
        error=title,
        message=detail,
        errors=[FieldProblem(message=sentence(error, lang), **{field: error.where}) for error in problem.errors],
        request_id=request_id,
    )


def answer(problem: Problem, lang: str, request_id: str) -> web.Response:
    """`problem` as the response that a client gets."""
    headers = CIMultiDict(problem.headers)
    headers["Content-Type"] = "application/problem+json; charset=utf-8"
    headers["Content-Language"] = lang
    return web.Response(body=_encode(body_of(problem, lang, request_id)), status=problem.status, headers=headers)
