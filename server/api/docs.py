"""The documents: OpenAPI for calls, AsyncAPI for the event stream, and one page of our own that shows both.

All three are made from the routes and types that serve and validate. The page is drawn here, without a script.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import aiohttp_jinja2
import msgspec
from aiohttp import web

from server.api.asyncapi import CLOSES, asyncapi
from server.api.pages import PAGES
from server.http.front import FRONT
from server.http.openapi import TAGS, document, problem_table
from server.http.problems import every
from server.http.routes import ROUTES, Routes
from server.i18n import LANGS, lang, text

routes = Routes()


@lru_cache(maxsize=2)
def _openapi(served: Routes) -> dict[str, Any]:
    """The document of the calls: routes do not change while the server runs."""
    return document(served)


_asyncapi = lru_cache(maxsize=16)(asyncapi)


@routes.get("/api/openapi.json", needs=None, summary="The document of all calls (OpenAPI 3.1)", tags=("documents",))
async def openapi_json(request: web.Request) -> dict[str, Any]:
    """Derived from the routes and types that serve and validate."""
    return await asyncio.to_thread(_openapi, request.app[ROUTES])


@routes.get(
    "/api/asyncapi.json", needs=None, summary="The document of the event stream (AsyncAPI 3)", tags=("documents",)
)
async def asyncapi_json(request: web.Request) -> dict[str, Any]:
    """Derived from the types of the frames."""
    callers = request.app[FRONT].callers
    return await asyncio.to_thread(_asyncapi, callers.host(request), tls=callers.secure(request))


@routes.get("/api/docs", needs=None, summary="A page that shows both documents", tags=("documents",), hidden=True)
async def docs_page(request: web.Request) -> web.StreamResponse:
    """All calls, the event stream and all problems, readable without a script."""
    asked = request.query.get("lang")
    language = asked if asked in LANGS else lang(request)
    page = await asyncio.to_thread(_page, request.app, language, request.app[FRONT].callers.origin(request))
    return web.Response(text=page, content_type="text/html", headers={"Content-Language": language})


@lru_cache(maxsize=16)
def _page(app: web.Application, language: str, origin: str) -> str:
    spec = _openapi(app[ROUTES])
    template = aiohttp_jinja2.get_env(app).get_template("docs.html")
    return template.render(
        lang=language,
        t=lambda key, **values: text(f"docs.{key}", language, **values),
        asset=app[PAGES].assets.url,
        origin=origin,
        version=spec["info"]["version"],
        colon=text("failure.colon", language),
        groups=list(_groups(spec, language)),
        schemas=[(name, schema, list(_rows(schema))) for name, schema in spec["components"]["schemas"].items()],
        frames=_frames(asyncapi()),
        closes=CLOSES,
        problems=problem_table(every(), language),
    )


def _groups(spec: dict[str, Any], language: str) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """(name, meaning, calls) of each tag, in the order of TAGS."""
    calls: dict[str, list[dict[str, Any]]] = {}
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            calls.setdefault(operation["tags"][0], []).append(_call(method.upper(), path, operation, language))
    for tag in TAGS:
        if tag in calls:
            yield text(f"docs.tag.{tag}.name", language), text(f"docs.tag.{tag}.about", language), calls[tag]


_ROLE = re.compile(r"Role: `(\w+)`\.")
_FAILURE = re.compile(r"\* `([a-z-]+)`: ")


def _failure(line: str, language: str) -> str:
    """A line of the document's, in the reader's language."""
    found = _FAILURE.match(line)
    if not found:
        return line
    values = {"limit_mib": "…", "retry_after_s": "…", "needs": "…"}
    return f"`{found[1]}`{text('failure.colon', language)}{text(f'problem.{found[1]}.detail', language, **values)}"


def _call(method: str, path: str, operation: dict[str, Any], language: str) -> dict[str, Any]:
    about = operation["description"].split("\n\n")
    role = next((found[1] for paragraph in about if (found := _ROLE.fullmatch(paragraph))), None)
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    (status, success), *failures = operation["responses"].items()
    given: dict[str, Any] = next(iter(success.get("content", {}).values()), {})
    return {
        "id": operation["operationId"],
        "method": method,
        "path": path,
        "summary": operation["summary"],
        "about": [paragraph for paragraph in about if not _ROLE.fullmatch(paragraph)],
        "role": role and text(f"role.{role.upper()}", language),
        "parameters": [
            (parameter["name"], parameter["in"], parameter["required"], kind(parameter["schema"]), parameter)
            for parameter in operation["parameters"]
        ],
        "takes": kind(body["schema"]) if body else "",
        "example": _pretty(body.get("example")),
        "status": status,
        "gives": kind(given.get("schema", {})) if given else "",
        "gives_example": _pretty(given.get("example")),
        "failures": [
            (code, [_failure(line, language) for line in failure["description"].split("\n")])
            for code, failure in failures
        ],
    }


def _pretty(example: Any) -> str:
    return json.dumps(example, ensure_ascii=False, indent=2) if example is not None else ""


def _frames(stream: dict[str, Any]) -> list[tuple[str, str, list[Any]]]:
    """(name, meaning, fields) of everything that goes over the event stream."""
    schemas = stream["components"]["schemas"]
    return [
        (message["name"], message["summary"], list(_rows(schemas[message["payload"]["$ref"].rpartition("/")[2]])))
        for message in stream["components"]["messages"].values()
    ]


def _rows(schema: dict[str, Any]) -> Iterator[tuple[str, bool, str, str]]:
    """(field, required, kind, rule) of an object's schema."""
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        yield name, name in required, kind(field), rule(field)


def kind(schema: dict[str, Any]) -> str:
    """A schema's kind in one line: `Recipient[]`, `string | null`, `"pending" | "failed"`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(kind(option) for option in schema["anyOf"]))
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if schema.get("type") == "array":
        item = kind(schema.get("items", {}))
        return f"({item})[]" if "|" in item else f"{item}[]"
    return str(schema.get("format") or schema.get("type") or schema.get("const") or "any")


_RULES = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "length ≥ {}",
    "maxLength": "length ≤ {}",
    "minItems": "items ≥ {}",
    "maxItems": "items ≤ {}",
}


def rule(schema: dict[str, Any]) -> str:
    """A schema's bounds and default in one line."""
    found = [bound.format(schema[name]) for name, bound in _RULES.items() if name in schema]
    for option in schema.get("anyOf", ()):
        if said := rule(option):
            found.append(said)
    if (default := schema.get("default")) not in (None, [], {}):
        found.append(f"= {msgspec.json.encode(default).decode()}")
    return ", ".join(found)
