"""The API document (OpenAPI 3.1), derived from the routes and the types that validate: nothing is written twice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec

from server.http.decode import FORM
from server.http.problems import (
    BadQuery,
    Forbidden,
    ForeignOrigin,
    InvalidFields,
    Malformed,
    Problem,
    ProblemBody,
    StorageDown,
    StorageUnsure,
    TooFast,
    TooLarge,
    Unauthorized,
    UnsupportedMedia,
)
from server.http.routes import Route
from server.i18n import text
from server.version import VERSION

REF = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"{(\w+)(?::[^{}]*)?}")

HEADERS: dict[str, dict[str, Any]] = {
    "Idempotency-Key": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"}
}
"""What a request's headers must look like."""

TAGS = {
    "notifications": "Send a notification to one or many people.",
    "queue": "What became of it; cancel, retry, statistics.",
    "events": "Everything that happens, as it happens.",
    "admin": "Pause, clear, and acts on many tasks at once.",
    "keys": "Keys and the audit log.",
    "session": "A browser's session.",
    "health": "Is it alive, is it ready; metrics.",
    "documents": "This document, and the one of the event stream.",
}


def ecma(pattern: str) -> str:
    """A Python pattern as JSON Schema wants it (ECMA-262): `\\Z` and inline flags are Python's own."""
    pattern = pattern.replace(r"\Z", "$")
    return re.sub(r"\(\?a?i:([^()]*)\)", lambda found: "(?:" + _any_case(found[1]) + ")", pattern)


def _any_case(pattern: str) -> str:
    return re.sub(r"[A-Za-z]", lambda letter: f"[{letter[0].upper()}{letter[0].lower()}]", pattern)


def _portable(schema: Any) -> Any:
    """The same schema with patterns that every client's engine can read."""
    if isinstance(schema, dict):
        return {
            key: ecma(value) if key == "pattern" and isinstance(value, str) else _portable(value)
            for key, value in schema.items()
        }
    if isinstance(schema, list):
        return [_portable(item) for item in schema]
    return schema


def _path(route: Route) -> str:
    return _PARAMETER.sub(r"{\1}", route.path)


def _operation_ids(routes: list[Route]) -> dict[int, str]:
    """The handlers' names; with their module's where two handlers share one."""
    names = Counter(route.work.__name__ for route in routes)
    return {
        id(route): route.work.__name__
        if names[route.work.__name__] == 1
        else f"{route.work.__module__.rpartition('.')[2]}_{route.work.__name__}"
        for route in routes
    }


def _problems(route: Route) -> list[type[Problem]]:
    """All that a route can fail with: what its line says and what the way in adds."""
    found: list[type[Problem]] = list(route.problems)
    if route.needs is not None:
        found += [Unauthorized, Forbidden, TooFast, StorageDown]
        if route.method not in ("GET", "HEAD"):
            found.append(StorageUnsure)
        if route.method not in ("GET", "HEAD") or route.stream:
            found.append(ForeignOrigin)
    if route.takes is not None:
        found += [Malformed, TooLarge, UnsupportedMedia, InvalidFields]
    if route.query is not None or (route.needs is not None and not route.free_query):
        found.append(BadQuery)
    return list(dict.fromkeys([*found, Problem]))


def _failures(route: Route) -> dict[str, Any]:
    by_status: dict[int, list[type[Problem]]] = {}
    for problem in _problems(route):
        by_status.setdefault(problem.status, []).append(problem)
    answers: dict[str, Any] = {}
    for status, kinds in sorted(by_status.items()):
        answers[str(status)] = {
            "description": "\n".join(f"* `{kind.code}`: {kind.__doc__}" for kind in kinds),
            "content": {"application/problem+json": {"schema": {"$ref": REF.format(name="ProblemBody")}}},
        }
        if route.form:  # to a form the page answers
            answers[str(status)]["content"]["text/html"] = {"schema": {"type": "string"}}
        if status in (429, 503):
            answers[str(status)]["headers"] = {"Retry-After": _header("Seconds after which to try again.")}
    return answers


def _header(meaning: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"description": meaning, "schema": schema or {"type": "string"}}


def _parameters(route: Route, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(route.path)
    ]
    if route.query is not None:
        shape = schemas[route.query.__name__]
        required = shape.get("required", ())
        found += [
            {"name": name, "in": "query", "required": name in required, "schema": _without_null(schema)}
            for name, schema in shape["properties"].items()
        ]
    found += [
        {"name": name, "in": "header", "required": False, **_header(meaning, HEADERS.get(name))}
        for name, meaning in route.takes_headers.items()
    ]
    return found


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query parameter is absent, never null."""
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    if not options:
        return schema
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    return {**rest, **(options[0] if len(options) == 1 else {"anyOf": options})}


def _operation(route: Route, name: str, schema_of: dict[Any, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    success: dict[str, Any] = {"description": HTTPStatus(route.status).phrase}
    if route.gives is not None:
        content: dict[str, Any] = {"schema": schema_of[route.gives]}
        if route.gives_example is not None:
            content["example"] = route.gives_example
        success["content"] = {route.media_type: content}
    elif route.media_type != "application/json":
        success["content"] = {route.media_type: {"schema": {"type": "string"}}}
    if route.gives_headers:
        success["headers"] = {name: _header(meaning) for name, meaning in route.gives_headers.items()}
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": route.summary,
        "description": _description(route),
        "tags": list(route.tags) or ["documents"],
        "parameters": _parameters(route, schemas),
        "responses": {str(route.status): success, **_failures(route)},
        "security": [{"apiKey": []}, {"session": []}] if route.needs is not None else [],
    }
    if route.form:  # a browser's form is answered with a redirect
        operation["responses"]["303"] = {
            "description": "See Other",
            "headers": {"Location": _header("Where to go on.")},
        }
    if route.takes is not None:
        body: dict[str, Any] = {"schema": schema_of[route.takes]}
        if route.example is not None:
            body["example"] = route.example
        content = {"application/json": body} | ({FORM: {"schema": schema_of[route.takes]}} if route.form else {})
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _description(route: Route) -> str:
    said = (route.work.__doc__ or "").strip()
    return said if route.needs is None else f"{said}\n\nRole: `{route.needs.name.lower()}`.".strip()


def document(routes: Iterable[Route], *, title: str = "Tocsin", server: str = "/") -> dict[str, Any]:
    """The OpenAPI document of `routes`."""
    shown = [route for route in routes if not route.hidden and not route.page]
    types: list[Any] = [ProblemBody]
    for route in shown:
        types += [kind for kind in (route.takes, route.query, route.gives) if kind is not None]
    types = list(dict.fromkeys(types))
    found, schemas = msgspec.json.schema_components(types, ref_template=REF)
    schemas = _portable(schemas)
    schema_of = dict(zip(types, _portable(list(found)), strict=True))
    ids = _operation_ids(shown)
    paths: dict[str, dict[str, Any]] = {}
    for route in shown:
        paths.setdefault(_path(route), {})[route.method.lower()] = _operation(route, ids[id(route)], schema_of, schemas)
    queries = {route.query.__name__ for route in shown if route.query is not None}
    used = {tag for path in paths.values() for operation in path.values() for tag in operation["tags"]}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": VERSION,
            "description": "A self-hosted emergency notification server. Errors are RFC 9457"
            " (`application/problem+json`) with a stable `code`. Text is French, English with `Accept-Language: en`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": server}],
        "tags": [{"name": name, "description": meaning} for name, meaning in TAGS.items() if name in used],
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in schemas.items() if name not in queries},
            "securitySchemes": {
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "session": {"type": "apiKey", "in": "cookie", "name": "tocsin_session"},
            },
        },
    }


def problem_table(kinds: Iterable[type[Problem]], lang: str = "en") -> list[tuple[int, str, str, str]]:
    """Every problem as (status, code, title, detail): for the document's page and the README."""
    return sorted(
        (
            kind.status,
            kind.code,
            text(f"problem.{kind.code}.title", lang),
            text(f"problem.{kind.code}.detail", lang, limit_mib="…", retry_after_s="…", needs="…"),
        )
        for kind in kinds
    )
