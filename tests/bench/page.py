"""The live page in a Chromium while the queue is busy: frames per second, heap, and counters that are right.

Notifications come in at such a rate that tasks make TRANSITIONS_PER_S moves (enqueued, started, completed). Frames
are counted by requestAnimationFrame in the page itself; the heap is what is left after a collection.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from playwright.async_api import BrowserContext, CDPSession, Page, async_playwright

from tests.bench.kit import CORES, KEY, Row, Tocsin, missing, notification, quantile, row
from tests.bench.load import paced, request
from tests.browser.chromium import ARGS, NO_BROWSER, find

TRANSITIONS_PER_S = 500
MOVES = 3  # of a task that goes well
BODY = request("POST", "/api/notifications/meteo", notification(recipients=1))
WARM_UP_S = 8
STATUSES = ("pending", "processing", "completed", "failed", "cancelled")

COUNT_FRAMES = """() => {
  const seen = (window.framesPerS = []);
  let begun = performance.now();
  let frames = 0;
  requestAnimationFrame(function next(now) {
    frames += 1;
    if (now - begun >= 1000) {
      seen.push((frames * 1000) / (now - begun));
      begun = now;
      frames = 0;
    }
    requestAnimationFrame(next);
  });
}"""


async def heap_mib(devtools: CDPSession) -> float:
    """What the page's scripts hold."""
    await devtools.send("HeapProfiler.collectGarbage")
    used: float = (await devtools.send("Runtime.getHeapUsage"))["usedSize"]
    return used / 1024 / 1024


async def counters(page: Page) -> dict[str, int]:
    """The page's counters, as numbers."""
    texts = {status: await page.text_content(f".counter.{status} .count") for status in STATUSES}
    return {status: int(re.sub(r"\D", "", text or "") or 0) for status, text in texts.items()}


async def wrong(server: Tocsin, page: Page) -> int:
    """How many counters differ from the server's, once it has come to rest and the page had five seconds."""
    expected: dict[str, Any] = {}
    while not expected or expected["pending"] + expected["processing"]:
        expected = (await asyncio.to_thread(server.stats))["tasks_by_status"]
        await asyncio.sleep(0.2)
    found: dict[str, int] = {}
    for _ in range(25):
        found = await counters(page)
        if found == expected:
            break
        await asyncio.sleep(0.2)
    return sum(found[status] != expected[status] for status in STATUSES)


async def frames_per_s(page: Page, during: Awaitable[object]) -> list[float]:
    """Frames of `page`, second by second, while something else goes on."""
    await page.evaluate(COUNT_FRAMES)
    await during
    seen: list[float] = await page.evaluate("window.framesPerS")
    return seen


async def busy(devtools: CDPSession) -> float:
    """Processor seconds that the page's main thread has used so far."""
    found = (await devtools.send("Performance.getMetrics"))["metrics"]
    return float(next(each["value"] for each in found if each["name"] == "TaskDuration"))


async def run(quick: bool = False) -> list[Row]:
    """All figures of the page."""
    executable = find()
    if not executable:
        return [missing("the live page", NO_BROWSER)]
    os.sched_setaffinity(0, CORES)  # a browser is several processes, and elsewhere than the server in real life
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as folder:
        server = Tocsin(Path(folder))
        try:
            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(executable_path=executable, args=ARGS)
                rows = await watch(server, await browser.new_context(viewport={"width": 1280, "height": 800}), quick)
                await browser.close()
            return rows
        finally:
            server.end()


async def watch(server: Tocsin, context: BrowserContext, quick: bool) -> list[Row]:
    """The page at its work; before it, an empty one in the same browser as the limit."""
    seconds, rate = 15 if quick else 60, TRANSITIONS_PER_S / MOVES
    url = f"http://127.0.0.1:{server.port}"
    page = await context.new_page()
    bare = await frames_per_s(page, asyncio.sleep(5))
    await context.request.post(f"{url}/admin/login", form={"key": KEY}, headers={"Origin": url}, max_redirects=0)
    await page.goto(f"{url}/admin/queue")
    await page.wait_for_selector("#link .live")
    await paced(server.port, BODY, rate=rate, seconds=WARM_UP_S)  # until the list is as long as it gets
    devtools = await context.new_cdp_session(page)
    await devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
    before_mib, before_s = await heap_mib(devtools), await busy(devtools)
    enqueued = (await asyncio.to_thread(server.stats))["total_enqueued"]
    frames = await frames_per_s(page, paced(server.port, BODY, rate=rate, seconds=seconds))
    worked = (await busy(devtools) - before_s) / seconds
    made = ((await asyncio.to_thread(server.stats))["total_enqueued"] - enqueued) * MOVES / seconds
    differ = await wrong(server, page)
    grown = await heap_mib(devtools) - before_mib
    under = f"under {made:,.0f} transitions/s for {seconds} s"
    idle = sum(bare) / len(bare)
    rates = row(f"page: frames/s, mean, {under}", sum(frames) / len(frames), "/s", idle, ">= 50")
    rates["ratio"] = None  # the target speaks of the frames; the limit is an empty page in the same minute
    return [
        rates,
        row("page: frames/s, the worst second of ten", quantile(frames, 0.1), "/s", quantile(bare, 0.1)),
        row(f"page: processor time of its main thread, {under}", worked * 100, "%"),
        row(f"page: heap grown, {under}", grown, "MiB", None, "<= 10", f"{before_mib:.1f} MiB before"),
        row("page: counters that differ from the server's", differ, "of 5", None, "<= 0"),
    ]
