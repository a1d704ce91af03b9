"""The documents say what is served, and others' validators accept them."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import validate

from server.api.docs import kind, rule
from server.app import all_routes
from server.http.openapi import TAGS, document, ecma
from server.http.problems import every
from server.i18n import text
from server.model import NewNotification
from tests.api.http_kit import Kit, serving

SPEC = document(all_routes())


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[Kit]:
    async with serving(tmp_path, all_routes(), pages=True) as kit:
        yield kit


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation) for path, methods in SPEC["paths"].items() for method, operation in methods.items()
    ]


def test_the_document_is_valid_openapi() -> None:
    validate(SPEC)  # type: ignore[arg-type]


def test_every_route_but_pages_stands_in_it_with_its_role_and_problems() -> None:
    shown = {(re.sub(r":[^{}]*}", "}", r.path), r.method.lower()) for r in all_routes() if not r.hidden and not r.page}
    assert shown == {(path, method) for path, method, _ in operations()}
    assert len({operation["operationId"] for _, _, operation in operations()}) == len(operations())
    for path, _, operation in operations():
        assert operation["summary"], path
        assert "401" in operation["responses"] or not operation["security"], path
        assert "500" in operation["responses"]


async def test_the_document_of_the_stream_leads_there_by_tls_where_its_reader_came_by_it(tmp_path: Path) -> None:
    """A client made from it would say its key in the clear."""
    async with serving(tmp_path, all_routes(), server={"trusted_proxies": ["127.0.0.1"]}) as kit:
        for proto, protocols in (("https", {"wss", "https"}), ("http", {"ws", "http"})):
            headers = {"X-Forwarded-Proto": proto, "X-Forwarded-Host": "tocsin.example"}
            servers = (await (await kit.client.get("/api/asyncapi.json", headers=headers)).json())["servers"]
            assert {server["protocol"] for server in servers.values()} == protocols
            assert {server["host"] for server in servers.values()} == {"tocsin.example"}


def test_examples_fit_their_schemas() -> None:
    for path, method, operation in operations():
        contents = list(operation.get("requestBody", {}).get("content", {}).values())
        contents += [
            media for answer in operation["responses"].values() for media in answer.get("content", {}).values()
        ]
        for content in contents:
            if "example" in content:
                schema = {**content["schema"], "components": SPEC["components"]}
                jsonschema.Draft202012Validator(schema).validate(content["example"]), (path, method)


def test_patterns_are_such_as_every_client_can_read() -> None:
    assert ecma(r"^(?i:haute|[123])\Z") == "^(?:[Hh][Aa][Uu][Tt][Ee]|[123])$"
    assert r"\Z" not in json.dumps(SPEC) and "(?i" not in json.dumps(SPEC)


async def test_the_documents_are_served_to_anybody(kit: Kit) -> None:
    openapi = await (await kit.client.get("/api/openapi.json")).json()
    assert openapi["openapi"] == "3.1.0" and "/api/openapi.json" in openapi["paths"]
    assert (await (await kit.client.get("/api/asyncapi.json")).json())["asyncapi"].startswith("3.")


@pytest.mark.parametrize(("language", "word"), [("fr", "Erreurs"), ("en", "Errors")])
async def test_the_page_shows_everything_without_a_script_or_a_foreign_request(
    kit: Kit, language: str, word: str
) -> None:
    page = await (await kit.client.get("/api/docs", headers={"Accept-Language": language})).text()
    assert word in page
    assert "<script" not in page and "style=" not in page
    assert re.findall(r'(?:src|href)="(?:https?:)?//', page) == []
    for problem in every():
        assert f'id="problem-{problem.code}"' in page


async def test_the_french_page_is_french_but_for_what_the_document_says(kit: Kit) -> None:
    page = await (await kit.client.get("/api/docs", headers={"Accept-Language": "fr"})).text()
    for there in (
        "<h3>File d&#39;attente</h3>",
        "<p>Rôle\u00a0: opérateur</p>",
        "<p>Réponse\u00a0: <b>202</b>",
        "Erreurs\u00a0: 400",
    ):
        assert there in page
    assert not re.search(r">\w+: <|Role:|>Queue<|valid key is needed", page)


def test_every_group_is_called_in_english_as_in_the_document() -> None:
    assert {tag for _, _, operation in operations() for tag in operation["tags"]} <= TAGS.keys()
    assert {tag: text(f"docs.tag.{tag}.about", "en") for tag in TAGS} == TAGS


def test_a_schema_is_read_in_one_line() -> None:
    assert kind({"anyOf": [{"type": "string"}, {"type": "null"}]}) == "string | null"
    assert kind({"type": "array", "items": {"$ref": "#/components/schemas/Recipient"}}) == "Recipient[]"
    assert rule({"minLength": 1, "maxLength": 9, "default": "x"}) == 'length ≥ 1, length ≤ 9, = "x"'
    assert "Recipient" in SPEC["components"]["schemas"] and NewNotification.__name__ in SPEC["components"]["schemas"]
