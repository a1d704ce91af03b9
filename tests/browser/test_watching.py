"""What a page does that nobody looks at: a gap in its events, a hidden tab, a sheet of paper, a sound."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from playwright.async_api import Route, WebSocketRoute, expect

from notifiers import Refused
from tests.browser.kit import Eyes, Site

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_after_a_gap_the_page_reads_the_list_again(site: Site, eyes: Eyes) -> None:
    sockets: list[WebSocketRoute] = []
    lost: list[int] = []

    def between(page: WebSocketRoute) -> None:
        server = page.connect_to_server()
        sockets.append(page)

        def pass_on(frame: str | bytes) -> None:
            found = json.loads(frame)
            if found["kind"] == "events":
                lost.append(found["to"])
            else:
                page.send(frame)

        server.on_message(pass_on)

    await eyes.page.route_web_socket("**/ws/events*", between)
    page = await eyes.sign_in()
    await eyes.live()
    await expect(page.locator(".blank h2")).to_have_text("Aucune tâche")
    await site.send("manquée")
    await eyes.count("completed", 1)  # the statistics say so; its events are lost
    await expect(page.locator(".row")).to_have_count(0)

    sockets[-1].send(json.dumps({"kind": "gap", "from": 1, "to": max(lost)}))

    await expect(page.locator(".row .titre")).to_have_text(["manquée"])
    await expect(page.locator(".row .status")).to_contain_text("Terminée")


async def test_a_hidden_tab_draws_nothing_and_catches_up(site: Site, eyes: Eyes) -> None:
    site.service().always(lambda _: Refused("address_refused", "550"))
    hide = "yes => { document.tocsinHidden = yes; document.dispatchEvent(new Event('visibilitychange')); }"
    await eyes.page.add_init_script(
        "Object.defineProperty(document, 'hidden', { get() { return !!this.tocsinHidden; }, configurable: true })"
    )
    page = await eyes.sign_in()
    await eyes.live()
    await eyes.count("failed", 0)
    await page.evaluate(hide, True)

    await site.send("ratée")

    await expect(page).to_have_title("(1) File d’attente · Tocsin")  # it has heard of it, and tells it in its title
    assert await page.locator(".row").count() == 0
    assert await page.locator(".counter.failed .count").text_content() == "0"
    await page.evaluate(hide, False)
    await eyes.count("failed", 1)
    await expect(page.locator(".row .titre")).to_have_text(["ratée"])


async def test_a_task_goes_on_paper_without_what_one_clicks(site: Site, eyes: Eyes) -> None:
    task_id = await site.send("à imprimer", n=3)
    page = await eyes.sign_in(path=f"/admin/queue/{task_id}")
    await expect(page.locator(".list tbody tr")).to_have_count(3)

    await page.emulate_media(media="print", color_scheme="dark")

    for hidden in (".top", ".task-acts", ".people-tools .search"):
        await expect(page.locator(hidden)).to_be_hidden()
    await expect(page.locator("h1")).to_be_visible()
    await expect(page.locator(".list tbody tr")).to_have_count(3)
    paper = "getComputedStyle(document.body).backgroundColor"
    assert await page.evaluate(paper) == "rgb(255, 255, 255)"
    assert len(await page.pdf()) > 1000


async def test_a_failed_critical_task_is_heard_if_one_wants_it(site: Site, eyes: Eyes) -> None:
    site.service().always(lambda _: Refused("address_refused", "550"))
    await eyes.page.add_init_script(
        "window.tones = 0;"
        "const make = AudioContext.prototype.createOscillator;"
        "AudioContext.prototype.createOscillator = function () { window.tones += 1; return make.call(this); };"
    )
    page = await eyes.sign_in()
    await eyes.live()
    button = page.locator("#sound")
    await expect(button).to_have_attribute("aria-pressed", "false")
    await site.send("sans bruit", "securite")
    await eyes.count("failed", 1)
    assert await page.evaluate("window.tones") == 0

    await button.click()
    await expect(button).to_have_attribute("aria-pressed", "true")
    once = await page.evaluate("window.tones")
    assert once > 0  # one hears what one has chosen
    await site.send("urgent", "securite")
    await page.wait_for_function("tones => window.tones > tones", arg=once)

    await page.reload()
    await expect(button).to_have_attribute("aria-pressed", "true")


@pytest.mark.parametrize("width", [1280, 375])
async def test_no_number_is_too_long_for_its_counter(width: int, eyes: Eyes) -> None:
    def swell(stats: dict[str, Any]) -> None:
        stats["tasks_by_status"] |= {"pending": 10_000, "completed": 1_234_567}

    def between(page: WebSocketRoute) -> None:
        server = page.connect_to_server()

        def pass_on(frame: str | bytes) -> None:
            found = json.loads(frame)
            if found["kind"] == "stats":
                swell(found["stats"])
            page.send(json.dumps(found))

        server.on_message(pass_on)

    async def answered(route: Route) -> None:
        answer = await route.fetch()
        found = await answer.json()
        swell(found["stats"])
        await route.fulfill(response=answer, json=found)

    await eyes.page.set_viewport_size({"width": width, "height": 800})
    await eyes.page.route_web_socket("**/ws/events*", between)
    await eyes.page.route("**/api/queue/stats", answered)
    page = await eyes.sign_in()
    await expect(page.locator(".counter.completed .count")).to_have_text("1 234 567")

    for status in ("pending", "completed"):
        room = (
            "count => { const range = document.createRange(); range.selectNodeContents(count);"
            " const {right} = range.getBoundingClientRect();"
            " return count.parentNode.getBoundingClientRect().right - right; }"
        )
        assert await page.locator(f".counter.{status} .count").evaluate(room) > 8, status


async def test_what_could_not_be_read_is_read_once_the_server_is_back(site: Site, eyes: Eyes) -> None:
    site.service().always(lambda _: Refused("address_refused", "550"))
    task_id = await site.send("raté")
    page = await eyes.sign_in()
    await eyes.count("failed", 1)
    await expect(page.locator(".row")).to_have_count(1)
    await site.stop()
    await page.click(".counter.failed")
    await expect(page.locator(".blank h2")).to_have_text("La liste n’a pas pu être lue")
    await page.evaluate(
        "id => { history.pushState({}, '', `?task=${id}`); dispatchEvent(new Event('popstate')); }", task_id
    )
    await expect(page.locator(".drawer .blank h2")).to_have_text("Serveur injoignable")

    await site.start()

    await expect(page.locator(".drawer h2").first).to_have_text("raté")
    await expect(page.locator(".row .titre")).to_have_text(["raté"])
    eyes.forget("WebSocket", "ERR_CONNECTION_REFUSED")


@pytest.mark.parametrize("path", ["/admin/queue", "/admin/queue/{}"])
async def test_what_happens_before_a_late_socket_is_there_is_seen_once_it_is(site: Site, eyes: Eyes, path: str) -> None:
    service = site.service()
    service.hold()
    task_id = await site.send("vite fait")
    sockets: list[WebSocketRoute] = []
    await eyes.page.route_web_socket("**/ws/events*", lambda socket: sockets.append(socket))
    page = await eyes.sign_in(path=path.format(task_id))
    status = page.locator(".row .status, .task-head .status")
    await expect(status).to_contain_text("En traitement")  # what can be shown is shown
    service.release()
    while (await site.stats())["tasks_by_status"]["completed"] < 1:
        await asyncio.sleep(0)

    sockets[-1].connect_to_server()

    await expect(status).to_contain_text("Terminée")


async def test_what_happens_while_a_task_is_being_read_is_not_missed(site: Site, eyes: Eyes) -> None:
    service = site.service()
    service.hold()
    task_id = await site.send("vite fait")
    told, asked = asyncio.Event(), asyncio.Event()

    def between(page: WebSocketRoute) -> None:
        server = page.connect_to_server()

        def pass_on(frame: str | bytes) -> None:
            page.send(frame)
            if "task.completed" in str(frame):
                told.set()

        server.on_message(pass_on)

    async def slowly(route: Route) -> None:
        asked.set()
        await told.wait()
        await route.continue_()

    async def first(route: Route) -> None:
        answer = await route.fetch()
        await route.fulfill(response=answer)
        await asked.wait()
        service.release()

    await eyes.page.route_web_socket("**/ws/events*", between)
    await eyes.page.route(f"**/api/queue/tasks/{task_id}/events*", slowly)
    await eyes.page.route(f"**/api/queue/tasks/{task_id}", first)
    page = await eyes.sign_in(path=f"/admin/queue/{task_id}")

    await expect(page.locator(".task-head .status")).to_have_text("Terminée")
