"""Who may call what: every route, every role and no key, against one table."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.app import all_routes
from server.model import Role
from tests.api.http_kit import Kit, serving

TABLE: dict[tuple[str, str], Role | None] = {
    ("GET", "/api/notifications/types"): Role.VIEWER,
    ("POST", "/api/notifications/{type}"): Role.OPERATOR,
    ("GET", "/api/queue/tasks"): Role.VIEWER,
    ("GET", "/api/queue/tasks/{id}"): Role.VIEWER,
    ("GET", "/api/queue/tasks/{id}/deliveries"): Role.VIEWER,
    ("GET", "/api/queue/tasks/{id}/events"): Role.VIEWER,
    ("GET", "/api/queue/tasks/{id}/webhooks"): Role.VIEWER,
    ("POST", "/api/queue/tasks/{id}/cancel"): Role.OPERATOR,
    ("POST", "/api/queue/tasks/{id}/retry"): Role.OPERATOR,
    ("GET", "/api/queue/stats"): Role.VIEWER,
    ("POST", "/admin/api/queue/clear"): Role.ADMIN,
    ("POST", "/admin/api/queue/pause"): Role.ADMIN,
    ("POST", "/admin/api/queue/resume"): Role.ADMIN,
    ("POST", "/admin/api/queue/retry"): Role.ADMIN,
    ("POST", "/admin/api/queue/cancel"): Role.ADMIN,
    ("GET", "/admin/api/keys"): Role.ADMIN,
    ("POST", "/admin/api/keys"): Role.ADMIN,
    ("DELETE", "/admin/api/keys/{id}"): Role.ADMIN,
    ("GET", "/admin/api/audit"): Role.ADMIN,
    ("POST", "/admin/login"): None,
    ("GET", "/admin/login"): None,
    ("POST", "/admin/logout"): Role.VIEWER,
    ("GET", "/api/health"): None,
    ("GET", "/api/health/ready"): None,
    ("GET", "/"): None,
    ("GET", "/metrics"): None,  # asks for a viewer by itself where metrics are not public
    ("GET", "/ws/events"): Role.VIEWER,
    ("GET", "/api/events"): Role.VIEWER,
    ("GET", "/api/openapi.json"): None,
    ("GET", "/api/asyncapi.json"): None,
    ("GET", "/api/docs"): None,
    ("GET", "/admin/queue"): Role.VIEWER,
    ("GET", "/admin/queue/{id}"): Role.VIEWER,
    ("GET", "/admin/send"): Role.OPERATOR,
    ("GET", "/admin/keys"): Role.ADMIN,
    ("GET", "/static/{hash}/{name:.+}"): None,
}


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[Kit]:
    async with serving(tmp_path, all_routes(), pages=True) as kit:
        yield kit


def test_every_route_stands_in_the_table_and_needs_what_it_says() -> None:
    assert {(route.method, route.path): route.needs for route in all_routes()} == TABLE


async def test_without_a_key_or_with_a_smaller_role_no_route_lets_anybody_in(kit: Kit) -> None:
    # what stands behind a closed door (queue, workers) is not even there in this server
    for (method, path), needs in TABLE.items():
        if needs is None:
            continue
        url = path.format(type="meteo", id="1")
        answer = await kit.client.request(method, url, allow_redirects=False)
        page = path.startswith("/admin/") and "/api/" not in path and method == "GET"
        assert answer.status == (303 if page else 401), (method, path)
        for role in Role:
            if role < needs:
                answer = await kit.client.request(method, url, headers=kit.key(role))
                assert answer.status == 403, (method, path, role)
