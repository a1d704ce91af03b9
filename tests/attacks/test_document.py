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

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server.app import all_routes
from server.http.openapi import document
from tests.attacks.siege import besieged
from tests.kit import ADMIN_KEY

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]  # fmt: skip
STREAMS = {"/ws/events", "/api/events"}
EACH = 80 if os.environ.get("TOCSIN_NIGHTLY") else 8
"""Requests per operation; one without parameters has fewer."""
LEAST = 2000 if EACH > 8 else 200

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
    assert found["requests"] >= LEAST


@schema.parametrize()
@settings(max_examples=EACH, derandomize=not os.environ.get("TOCSIN_NIGHTLY"), database=None, deadline=None,
          phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))  # fmt: skip
def test_every_answer_is_one_that_the_document_knows(case: schemathesis.Case, address: str) -> None:
    case.call_and_validate(
        base_url=address, headers={"X-API-Key": ADMIN_KEY}, checks=CHECKS, timeout=20, allow_redirects=False
    )
