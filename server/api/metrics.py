"""`GET /metrics`, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from server.api.context import SETTINGS
from server.config import is_loopback
from server.followers.metrics import Metrics
from server.http.front import FRONT
from server.http.problems import Unauthorized
from server.http.routes import Routes

if TYPE_CHECKING:
    from server.api.fanout import Hub

routes = Routes()
METRICS = web.AppKey("metrics", Metrics)


def subscribers(hub: Hub) -> tuple[int, int, int]:
    """How many read along, how many events the slowest of them is behind, and how many were cut off as dead."""
    behind = (hub.log.head - sub.told for sub in hub.subscribers if sub.serving)
    return len(hub.subscribers), max(behind, default=0), hub.cut_off


@routes.get(
    "/metrics", needs=None, summary="Metrics for Prometheus", tags=("health",), problems=(Unauthorized,),
    media_type="text/plain", free_query=True,
)  # fmt: skip
async def metrics(request: web.Request) -> web.Response:
    """Prometheus text, or OpenMetrics for who asks for it; `metrics.public` says whether that takes a key."""
    settings = request.app[SETTINGS]
    public = settings.metrics.public
    if not (is_loopback(settings.server.host) if public is None else public):
        await request.app[FRONT].keyring.identify(request)
    body, content_type = await request.app[METRICS].scrape(request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})
