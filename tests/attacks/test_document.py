"""The API asked what its own document promises: schemathesis draws requests from it and measures the answers by it.

About 200 requests; with TOCSIN_NIGHTLY set, over 2 000. The two event streams do not end, so they have tests of their
own.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server.api.asyncapi import asyncapi
from server.app import all_routes
from server.http.openapi import document
from tests.attacks.siege import besieged
from tests.kit import ADMIN_KEY

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]  # fmt: skip
STREAMS = {"/ws/events", "/api/events"}
NIGHTLY = bool(os.environ.get("TOCSIN_NIGHTLY"))
EACH = 100 if NIGHTLY else 10
"""Requests per operation; one without parameters has fewer."""
LEAST = 2000 if NIGHTLY else 200

SPEC = document(all_routes())
config = SchemathesisConfig()
config.projects.get_default().generation.update(
    modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE], with_security_parameters=False
)
schema = schemathesis.openapi.from_dict(
    SPEC | {"paths": {path: calls for path, calls in SPEC["paths"].items() if path not in STREAMS}}, config=config
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server in a thread of its own, since schemathesis waits for its answers."""
    folder = tmp_path_factory.mktemp("document")
    started = threading.Event()
    found: dict[str, Any] = {}

    async def serve() -> None:
        found["loop"], stop = asyncio.get_running_loop(), asyncio.Event()
        found["stop"] = stop
        async with besieged(folder, QUEUE__WORKERS="2", WEBHOOKS__SECRETS="[]") as siege:
            found["origin"] = siege.origin
            started.set()
            await stop.wait()
            server = siege.town.client.server.runner.server
            assert server
            found["requests"] = server.requests_count
            siege.discreet()
            found["discreet"] = True

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert started.wait(60)
    yield found["origin"]
    found["loop"].call_soon_threadsafe(found["stop"].set)
    thread.join(60)
    assert found["discreet"] and not thread.is_alive()
    if asked == {operation.label for operation in OPERATIONS}:
        assert found["requests"] >= LEAST


OPERATIONS = [result.ok() for result in schema.get_all_operations()]
asked: set[str] = set()
POSITIVE, NEGATIVE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label.replace(" ", "_"))
def test_every_answer_is_one_that_the_document_knows(operation: Any, address: str) -> None:
    @settings(max_examples=EACH, phases=[Phase.generate])
    @given(operation.as_strategy(generation_mode=POSITIVE) | operation.as_strategy(generation_mode=NEGATIVE))
    def check(case: schemathesis.Case) -> None:
        headers = {"X-API-Key": ADMIN_KEY}
        case.call_and_validate(base_url=address, headers=headers, checks=CHECKS, timeout=60, allow_redirects=False)

    check()
    asked.add(operation.label)


def references(node: Any) -> Iterator[str]:
    """Every `$ref` below `node`."""
    if isinstance(node, dict):
        yield from ([node["$ref"]] if isinstance(node.get("$ref"), str) else [])
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def found(root: dict[str, Any], reference: str) -> Any:
    """What a local `$ref` leads to. Raises KeyError."""
    assert reference.startswith("#/")
    node: Any = root
    for step in reference[2:].split("/"):
        node = node[step.replace("~1", "/").replace("~0", "~")]
    return node


def test_the_document_of_the_stream_holds_together() -> None:
    """AsyncAPI 3.0.0 has no validator among Python's packages that is kept up; these are the specification's musts."""
    stream = asyncapi("tocsin.example:5000")
    assert stream["asyncapi"] == "3.0.0" and {"title", "version"} <= stream["info"].keys()
    for root in (stream, SPEC):
        for reference in references(root):
            assert isinstance(found(root, reference), dict), reference
    for schema in [*stream["components"]["schemas"].values(), *SPEC["components"]["schemas"].values()]:
        jsonschema.Draft202012Validator.check_schema(schema)
    for name, channel in stream["channels"].items():
        assert channel["address"] in STREAMS
        assert all(found(stream, each["$ref"])["host"] == "tocsin.example:5000" for each in channel["servers"])
        own = {f"#/channels/{name}/messages/{message}" for message in channel["messages"]}
        operations = [each for each in stream["operations"].values() if each["channel"]["$ref"] == f"#/channels/{name}"]
        used = [message["$ref"] for operation in operations for message in operation["messages"]]
        assert set(used) == own and len(used) == len(own), "each message goes one way"
        assert all(operation["action"] in ("send", "receive") for operation in operations)
    for server in stream["servers"].values():
        assert server["protocol"] in ("ws", "http") and "/" not in server["host"]
        assert all(found(stream, each["$ref"])["type"] == "httpApiKey" for each in server["security"])
