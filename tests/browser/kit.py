"""The pages as a person meets them: a running server (`Site`) and a Chromium in front of it (`Eyes`).

`Eyes` hears everything the browser complains of: at the end of a test there must be no console error, no exception
and no request to another host, or the test has failed, whatever it looked at.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect

from server.api.context import STORE
from server.app import CHANNELS, build
from server.model import Role
from tests.kit import ADMIN_KEY, Service, jean, settings_for

SHOTS = Path(__file__).parent / "shots"
expect.set_options(timeout=60_000)


class Site:
    """A server at a port that it keeps over restarts; its clock is the real one."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self._folder = folder
        self._environ = environ
        self._runner: web.AppRunner | None = None
        self.app: web.Application
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self.app = build(settings_for(self._folder, **self._environ), node="test-node")
        self._runner = web.AppRunner(self.app, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    def service(self, channel: str = "email") -> Service:
        """Put a scripted service at the far end of `channel`."""
        service = Service(self.app[CHANNELS][channel].notifier.needs)
        self.app[CHANNELS][channel].notifier = service
        return service

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """One call as admin, which must succeed."""
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.url + path, json=body, headers={"X-API-Key": ADMIN_KEY}) as answer,
        ):
            assert answer.status < 300, await answer.text()
            return await answer.json()

    async def send(self, titre: str = "alerte_meteo", kind: str = "meteo", n: int = 1, **more: Any) -> str:
        """Post a notification to `n` people; its task's id."""
        body = {"titre": titre, "message": "Tempête prévue", "utilisateurs": [jean(i) for i in range(n)]} | more
        task_id: str = (await self.call("POST", f"/api/notifications/{kind}", body))["task_id"]
        return task_id

    async def key(self, role: Role) -> str:
        """A new key with `role`."""
        name = role.name.lower()
        key: str = (await self.call("POST", "/admin/api/keys", {"name": name, "role": name}))["key"]
        return key

    async def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.call("GET", "/api/queue/stats"))["stats"]
        return found

    async def newest_seq(self) -> int:
        return (await self.app[STORE].bounds())[1]


class Eyes:
    """One person's browser at the site."""

    def __init__(self, site: Site, context: BrowserContext, page: Page) -> None:
        self.site = site
        self.context = context
        self.page = page
        self.complaints: list[str] = []
        self.forgotten: list[str] = []
        self.requests: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def _request(self, request: Request) -> None:
        self.requests.append(request.url)
        if not request.url.startswith((self.site.url, "blob:", "data:")):
            self.complaints.append(f"request to another host: {request.url}")

    async def sign_in(self, key: str = ADMIN_KEY, path: str = "/admin/queue") -> Page:
        """Sign in as the form does (test_keys.py fills it in) and go to `path`."""
        answer = await self.context.request.post(
            f"{self.site.url}/admin/login", form={"key": key}, headers={"Origin": self.site.url}, max_redirects=0
        )
        assert answer.status == 303, await answer.text()
        await self.page.goto(self.site.url + path)
        return self.page

    async def live(self) -> None:
        """Wait until the page says that it is live."""
        await expect(self.page.locator("#link .live")).to_be_visible()

    async def count(self, status: str, n: int) -> None:
        """Wait until the counter of `status` shows `n`."""
        await expect(self.page.locator(f".counter.{status} .count")).to_have_text(str(n))

    async def shot(self, name: str) -> None:
        """A picture for people, when asked for (SHOTS=1)."""
        if os.environ.get("SHOTS"):
            SHOTS.mkdir(exist_ok=True)
            await self.page.screenshot(path=SHOTS / f"{name}.png")

    def forget(self, *words: str) -> None:
        """Drop the complaints that hold one of `words`, and what comes late: what a test brought about itself."""
        self.forgotten += words
        self.complaints = [text for text in self.complaints if not any(word in text for word in words)]


async def open_eyes(browser: Browser, site: Site, **options: Any) -> Eyes:
    """A fresh browser profile; French at a desk unless `options` say otherwise."""
    wanted: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}, "locale": "fr-FR"} | options
    context = await browser.new_context(**wanted)
    return Eyes(site, context, await context.new_page())
