"""Fixtures of the browser tests: a site, a Chromium (one for all, hence one loop for all), eyes that complain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from tests.browser.chromium import ARGS, NO_BROWSER, find
from tests.browser.kit import Eyes, Site, open_eyes


@pytest_asyncio.fixture(loop_scope="session")
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A running server with the shipped settings, quick to give up."""
    site = Site(tmp_path, QUEUE__MAX_ATTEMPTS="2", QUEUE__BACKOFF_S="0.01", SERVER__SHUTDOWN_GRACE_S="1")
    await site.start()
    yield site
    await site.stop()


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def browser() -> AsyncIterator[Browser]:
    """A Chromium; where none can be found the test fails and says how to get one."""
    executable = find()
    assert executable, f"expected {NO_BROWSER}"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=ARGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def look(site: Site, browser: Browser) -> AsyncIterator[Callable[..., Awaitable[Eyes]]]:
    """Open a browser profile at the site: `eyes = await look()`."""
    opened: list[Eyes] = []

    async def look(**options: Any) -> Eyes:
        opened.append(await open_eyes(browser, site, **options))
        return opened[-1]

    yield look
    for eyes in opened:
        await eyes.context.close()
    for eyes in opened:
        eyes.forget(*eyes.forgotten)
    complaints = [complaint for eyes in opened for complaint in eyes.complaints]
    assert complaints == []


@pytest_asyncio.fixture(loop_scope="session")
async def eyes(look: Callable[..., Awaitable[Eyes]]) -> Eyes:
    """A browser profile at the site, French, at a desk."""
    return await look()
